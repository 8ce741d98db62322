"""The support desk on something outside: what a call changed stays changed, whatever happens to the caller."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from cacherl.core.messages import ToolCall
from cacherl.core.tasks import Split, Task
from cacherl.core.tools import Source, Tier, ToolResult, ToolSpec
from cacherl.worlds.desk import DeskWorld
from cacherl.worlds.desk.database import Desk
from cacherl.worlds.desk.tools import SPECS, WRITERS, run_tool
from cacherl.worlds.desk.world import scenario_named

FOLDER = "LASTING_DESK"
"""The environment variable that says where the desk keeps its files."""


class LastingDesk:
    """The desk's tools over one file a scenario, to which every write adds a line (`World`)."""

    namespace = "lasting-desk"
    resets = False

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def specs(self) -> Sequence[ToolSpec]:
        return SPECS

    def open(self, scenario: str) -> LastingTools:
        return LastingTools(scenario, self._folder / f"{scenario}.jsonl")

    def tasks(self, split: Split, *, count: int, seed: int) -> list[Task]:
        return DeskWorld().tasks(split, count=count, seed=seed)


class LastingTools:
    """Tools over one file."""

    def __init__(self, scenario: str, file: Path) -> None:
        self._scenario, self._file = scenario_named(scenario), file

    async def call(self, call: ToolCall) -> ToolResult:
        desk = Desk(self._scenario)
        try:
            for done in done_in(self._file):
                run_tool(desk, *done)
            text, error = run_tool(desk, call.name, call.arguments)
            if call.name in WRITERS:
                line = json.dumps([call.name, call.arguments]).encode() + b"\n"
                descriptor = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                os.write(descriptor, line)
                os.close(descriptor)
            await asyncio.sleep(0.01)  # done, and nobody has heard of it yet
        finally:
            desk.close()
        return ToolResult(
            call_id=call.id,
            name=call.name,
            text=text,
            is_error=error is not None,
            error_class=error,
            tier=Tier.LIVE,
            source=Source.LIVE,
        )

    def fingerprint(self) -> str:
        return ""

    async def aclose(self) -> None:
        pass


def done_in(file: Path) -> list[tuple[str, dict[str, object]]]:
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
