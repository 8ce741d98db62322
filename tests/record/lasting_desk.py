"""The support desk on something outside: what a call changed stays changed, whatever happens to the caller.

Tools for a `tools.toml`, as a person would write them: one file a scenario, to which every write adds a
line, also one that is refused.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

from cacherl.toolbox.functions import tool
from cacherl.worlds.desk.database import Desk
from cacherl.worlds.desk.world import scenario_named

FOLDER = "LASTING_DESK"
"""The environment variable that says where the desk keeps its files."""

TOOLS = """
namespace = "lasting-desk"
resets = false
scenario = "desk-1"

[python.desk]
module = "{module}"

[tools.get_order]
reads = ["order:{{order_id}}"]
writes = []
"""


def open_tools(scenario: str) -> LastingDesk:
    return LastingDesk(scenario)


class LastingDesk:
    def __init__(self, scenario: str) -> None:
        self._scenario = scenario_named(scenario)
        self._file = Path(os.environ[FOLDER]) / f"{scenario}.jsonl"

    @tool
    def get_order(self, order_id: str) -> dict[str, Any]:
        """Read one order."""
        return self._done("get_order", {"order_id": order_id}, writes=False)

    @tool(reads=["order:{order_id}"], writes=["order:{order_id}"])
    def cancel_order(self, order_id: str) -> dict[str, Any]:
        """Cancel an order."""
        return self._done("cancel_order", {"order_id": order_id})

    @tool
    def create_ticket(self, customer_id: str, topic: str, priority: str) -> dict[str, Any]:
        """Open a ticket."""
        asked = {"customer_id": customer_id, "topic": topic, "priority": priority}
        return self._done("create_ticket", asked)

    def _done(self, name: str, arguments: dict[str, Any], *, writes: bool = True) -> dict[str, Any]:
        desk = Desk(self._scenario)
        try:
            for before, asked in done_in(self._file):
                try:
                    getattr(desk, before)(**asked)
                except Exception:  # noqa: BLE001 - it was refused then, too
                    continue
            if writes:
                line = json.dumps([name, arguments]).encode() + b"\n"
                descriptor = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                os.write(descriptor, line)
                os.close(descriptor)
            time.sleep(0.01)  # done, and nobody has heard of it yet
            answer: dict[str, Any] = getattr(desk, name)(**arguments)
            return answer
        finally:
            desk.close()


def done_in(file: Path) -> list[tuple[str, dict[str, Any]]]:
    if not file.exists():
        return []
    return [tuple(json.loads(line)) for line in file.read_bytes().splitlines()]


def writes_done(folder: Path) -> Counter[tuple[str, str, str]]:
    """Return how often each write reached the desk: (scenario, tool, arguments)."""
    return Counter(
        (file.stem, name, json.dumps(arguments, sort_keys=True))
        for file in folder.glob("*.jsonl")
        for name, arguments in done_in(file)
    )
