"""A server that is no library's: JSON lines and nothing else. It starts in no time, and is terse.

It numbers what it says oddly and leaves out what the protocol lets it leave out, as servers do.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

TOOLS: list[dict[str, Any]] = [
    {
        "name": "get_order",
        "inputSchema": {"type": "object", "properties": {"order_id": {"type": "string"}}},
        "annotations": {"readOnlyHint": True},
        "_meta": {"cacherl/effects": {"reads": ["order:{order_id}"]}},
    },
    {
        "name": "cancel_order",
        "inputSchema": {"type": "object", "properties": {"order_id": {"type": "string"}}},
        "_meta": {
            "cacherl/effects": {"reads": ["order:{order_id}"], "writes": ["order:{order_id}"]}
        },
    },
    {"name": "environment", "inputSchema": {}, "annotations": {"readOnlyHint": True}},
]


class Shop:
    """The orders of one process."""

    def __init__(self) -> None:
        self.cancelled: set[str] = set()
        self.more: list[dict[str, Any]] = []
        """Tools that it lists by and by."""

    def answer(self, message: dict[str, Any]) -> dict[str, Any] | None:
        """Return the reply to a message, None where it wants none."""
        if "id" not in message or "method" not in message:
            return None
        try:
            result = self.result(message["method"], message.get("params") or {})
        except LookupError as error:
            said = {"code": -32602, "message": f"no {error}"}
            return {"jsonrpc": "2.0", "id": message["id"], "error": said}
        return {"id": message["id"], "result": result, "jsonrpc": "2.0"}

    def result(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Return what a method answers."""
        if method == "initialize":
            return {
                "protocolVersion": params.get("protocolVersion", "2025-06-18"),
                "capabilities": {"tools": {}, "experimental": {"odd": {"x": 1.50}}},
                "serverInfo": {"name": "shop", "version": "7", "title": "Läden"},
            }
        if method == "tools/list":  # two pages
            if params.get("cursor") != "more":
                return {"tools": TOOLS[:1], "nextCursor": "more"}
            return {"tools": TOOLS[1:] + self.more}
        if method == "tools/call":
            return self.called(params["name"], params.get("arguments") or {})
        raise LookupError(method)

    def called(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return what a tool answers: without `isError`, as many servers do."""
        order = arguments.get("order_id", "")
        if name == "get_order":
            status = "cancelled" if order in self.cancelled else "paid"
            said = {"id": order, "status": status, "total": 10**20, "share": 0.10}
            return {"structuredContent": said, "content": [{"text": status, "type": "text"}]}
        if name == "cancel_order":
            self.cancelled.add(order)
            return {"content": [{"type": "text", "text": f"{order} is off"}]}
        if name == "environment":
            return {"content": [{"type": "text", "text": os.environ.get("KEY_OF_THE_SERVER", "")}]}
        raise LookupError(name)


def main() -> None:
    shop = Shop()
    for line in sys.stdin:
        reply = shop.answer(json.loads(line))
        if reply is not None:
            sys.stdout.write(json.dumps(reply) + "\n")
            sys.stdout.flush()


PLAIN = ("--", sys.executable, "-S", str(Path(__file__)))
"""The command of this server."""

if __name__ == "__main__":
    main()
