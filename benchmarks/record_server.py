"""A small, fast MCP server to measure against: it does nothing, so that what stands before it shows.

python -S record_server.py            over stdio, in plain Python: lines of JSON
python record_server.py PORT          over streamable HTTP, by the official library
"""

from __future__ import annotations

import json
import sys
from typing import Any

TOOL: dict[str, Any] = {
    "name": "get_order",
    "description": "Return an order.",
    "inputSchema": {
        "type": "object",
        "properties": {"order_id": {"type": "string"}},
        "required": ["order_id"],
    },
    "annotations": {"readOnlyHint": True},
}


def answer(order_id: str) -> str:
    """Return an order of about 300 bytes."""
    items = [{"sku": f"SKU-{n}", "name": f"Article {n}", "count": n} for n in range(1, 5)]
    return json.dumps({"order_id": order_id, "status": "shipped", "city": "Graz", "items": items})


def _result(method: str, params: dict[str, Any]) -> dict[str, Any]:
    if method == "tools/call":
        text = answer(params["arguments"]["order_id"])
        return {"content": [{"type": "text", "text": text}], "isError": False}
    if method == "tools/list":
        return {"tools": [TOOL]}
    if method == "initialize":
        return {
            "protocolVersion": params.get("protocolVersion"),
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "orders", "version": "1"},
        }
    return {}


def over_stdio() -> None:
    """Answer line by line."""
    for line in sys.stdin.buffer:
        said = json.loads(line)
        if "id" in said and "method" in said:
            result = _result(said["method"], said.get("params") or {})
            reply = {"jsonrpc": "2.0", "id": said["id"], "result": result}
            sys.stdout.buffer.write(json.dumps(reply).encode() + b"\n")
            sys.stdout.buffer.flush()


def over_http(port: int) -> None:
    """Serve at /mcp until killed."""
    from mcp.server.mcpserver import MCPServer
    from mcp_types import ToolAnnotations

    server = MCPServer("orders", log_level="CRITICAL")

    @server.tool(annotations=ToolAnnotations(read_only_hint=True), structured_output=False)
    def get_order(order_id: str) -> str:
        """Return an order."""
        return answer(order_id)

    server.run("streamable-http", host="127.0.0.1", port=port)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        over_http(int(sys.argv[1]))
    else:
        over_stdio()
