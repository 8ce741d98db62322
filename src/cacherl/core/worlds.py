"""The seam to a world: real tools over state that belongs to one episode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from cacherl.core.records import JsonObject
from cacherl.core.tasks import Split, Task
from cacherl.core.tools import Tools, ToolSpec


class WorldTools(Tools, Protocol):
    """Live tools of one episode, and the digest of the state they stand on."""

    def fingerprint(self) -> str:
        """Return a digest (hex) of everything the tools can read; equal states, equal digests."""
        ...


@runtime_checkable
class Person(Protocol):
    """Tools of an episode that play its user too, once the turns that are written beforehand are said."""

    async def say(self, heard: str) -> str | None:
        """Return the user's next turn, given the model's last words ("" at the start), or None at the end.

        Raises:
            ModelError: whoever plays the user cannot be reached; never the fault of the model at work.
        """
        ...


@runtime_checkable
class Epilogue(Protocol):
    """Tools of an episode that keep something of it beside its messages."""

    async def epilogue(self) -> JsonObject:
        """Return what goes into `Trajectory.notes`. Called once, after the last turn, before `aclose`."""
        ...


class World(Protocol):
    """A set of live tools and a source of tasks for them."""

    namespace: str
    resets: bool
    """Whether `open` gives a fresh copy of the scenario's state. False for tools that act on something
    outside (a real account, a folder): there a call that ran once must never be made again to resume."""

    @property
    def specs(self) -> Sequence[ToolSpec]:
        """Every tool of the world."""
        ...

    def open(self, scenario: str) -> WorldTools:
        """Return fresh tools on a fresh copy of the scenario's state.

        Raises:
            ToolError: no such scenario, or the world cannot be started.
        """
        ...

    def tasks(self, split: Split, *, count: int, seed: int) -> list[Task]:
        """Return `count` tasks with gold. Same arguments, same tasks, on every machine."""
        ...
