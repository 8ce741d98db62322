"""The seam to live tools: one place they come from, such as an MCP server or a module of functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from cacherl.core.records import JsonObject
from cacherl.core.tools import ErrorClass, ToolSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one live call came to."""

    text: str
    """What a model is shown; JSON where the tool answers with data."""
    error_class: ErrorClass | None = None
    """None for success."""
    may_have_run: bool = True
    """False only where the source knows that the call had no effect: the connection was refused, the
    server turned it away before working on it. Decides whether a writer may be tried again."""
    down: bool = False
    """The source has stopped and needs `start` before its next call."""
    wire: str | None = None
    """The answer as the source gave it (JSON), where that is more than `text` says."""


class ToolSource(Protocol):
    """Live tools from one place. One instance serves one episode and keeps its state.

    `tests/toolbox/test_source_contract.py` holds every implementation to this.
    """

    @property
    def name(self) -> str:
        """What reports and errors call this source; the prefix of its tools where two share a name."""
        ...

    async def start(self) -> Sequence[ToolSpec]:
        """Start, or start again after a stop, and return the tools under the source's own names.

        Raises:
            ToolError: it cannot be started, or offers what is no tool.
        """
        ...

    async def call(self, tool: str, arguments: JsonObject) -> Answer:
        """Make one call, once. A failure of the tool, the network or the server is an answer.

        May be cancelled at any await; several calls may be under way at once.
        """
        ...

    async def aclose(self) -> None:
        """Release what it held. Safe to call twice, and before `start`."""
        ...
