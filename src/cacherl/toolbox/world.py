"""`ToolboxWorld`: live tools of several places, and tasks that a person wrote, as a `World`."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from random import Random

import msgspec

from cacherl.core.errors import DataError
from cacherl.core.sources import ToolSource
from cacherl.core.tasks import Split, Task
from cacherl.core.tools import ToolSpec
from cacherl.toolbox.policy import CallPolicy, ToolRule
from cacherl.toolbox.toolbox import Gates, KeptSource, Tally, Toolbox, ToolboxReport


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where tools come from, and how to open a source there."""

    name: str
    open: Callable[[str], ToolSource]
    """Given a scenario, returns a source that has not started."""
    by_scenario: bool = False
    """Whether what is opened differs between scenarios: its command or address names one."""
    prefix: bool = False
    """Offer its tools as `<name>__<tool>` even where no other source has them."""
    resets: bool | None = True
    """Whether what is opened starts on a fresh state, in a world that resets; None asks the source (its
    `lasting`)."""


class ToolboxWorld:
    """The tools of several places (`World`).

    With `resets`, every episode opens sources of its own. Without, state lies outside anyway (an
    account, a folder), and starting a server takes a second: sources that do not depend on the
    scenario are then started once and serve all episodes of an event loop. They stop when that loop
    ends (`asyncio.run` returning), or with `aclose`.

    Args:
        places: where the tools come from; names are unique.
        namespace: part of every cache key.
        resets: whether opening a source anew gives a fresh copy of the scenario's state.
        policy: how calls are made. Its limits hold over all episodes together.
        rules: what a person says of tools, by offered name or by `<source>__<tool>`.
        tasks: the tasks, or what reads them when they are first asked for.
        list_scenario: the scenario in which sources are opened to list their tools, for those that
            refuse to start without a real one.
        seed: draws the waits before retries.
    """

    def __init__(
        self,
        places: Sequence[Place],
        *,
        namespace: str,
        resets: bool = False,
        policy: CallPolicy | None = None,
        rules: Mapping[str, ToolRule] | None = None,
        tasks: Sequence[Task] | Callable[[], Sequence[Task]] = (),
        list_scenario: str = "",
        seed: int = 0,
    ) -> None:
        self.namespace = namespace
        self.resets = resets
        self._places = tuple(places)
        self._policy = policy or CallPolicy()
        self._rules = dict(rules or {})
        self._said = {place.name: place.resets for place in places}
        self._prefix = frozenset(place.name for place in places if place.prefix)
        self._tasks = tasks
        self.list_scenario = list_scenario
        self._gates = Gates()
        self._tally = Tally()
        self._random = Random(seed)  # noqa: S311 - spreads waits, guards nothing
        self._shared: _Shared | None = None
        self._specs: tuple[ToolSpec, ...] | None = None

    @property
    def specs(self) -> Sequence[ToolSpec]:
        """Every tool, as it is offered; listed once.

        Raises:
            ToolError: a source cannot be started, tools cannot be told apart, or a rule is of no tool.
            RecipeError: the world resets, and a source with tools that write does not.
        """
        if self._specs is None:
            # In a thread: the caller may itself stand in an event loop.
            with ThreadPoolExecutor(max_workers=1) as thread:
                self._specs = thread.submit(asyncio.run, self._listed()).result()
        return self._specs

    async def _listed(self) -> tuple[ToolSpec, ...]:
        every = [place.open(self.list_scenario) for place in self._places]
        tools = Toolbox(
            every,
            policy=self._policy,
            rules=self._rules,
            prefix=self._prefix,
            lasting=self._lasting,
        )
        try:
            return tuple(await tools.start())
        finally:
            await tools.aclose()

    def open(self, scenario: str) -> Toolbox:
        """Return the tools of one episode; what cannot be started raises with the first call."""
        return Toolbox(
            lambda: [self._source(place, scenario) for place in self._places],
            policy=self._policy,
            rules=self._rules,
            prefix=self._prefix,
            keeps_state=self.resets,
            lasting=self._lasting,
            gates=self._gates,
            tally=self._tally,
            random=self._random,
        )

    def _lasting(self, source: ToolSource) -> str:
        """Return why a source breaks the promise that every episode starts afresh, or nothing."""
        said = self._said.get(source.name)
        if not self.resets or said:
            return ""
        if said is False:
            return "`resets = false` is said of it. Correct one of the two."
        return str(getattr(source, "lasting", ""))

    def _source(self, place: Place, scenario: str) -> ToolSource | KeptSource:
        """Return a source of the episode's own, or the one that the running loop's episodes share."""
        if self.resets or place.by_scenario:
            return place.open(scenario)
        shared = self._shared
        if shared is None or shared.loop is not asyncio.get_running_loop() or shared.closed:
            shared = self._shared = _Shared()
        if place.name not in shared.kept:
            shared.kept[place.name] = KeptSource(
                place.open(""), restarts=self._policy.restarts, tally=self._tally
            )
        return shared.kept[place.name]

    def tasks(self, split: Split, *, count: int, seed: int) -> list[Task]:
        """Return `count` tasks of the split, drawn by `seed`. A task without tools is offered all.

        Raises:
            DataError: there are no tasks, too few, or one is of another namespace.
        """
        every = self._tasks() if callable(self._tasks) else self._tasks
        if not every:
            raise DataError(
                f"the tools {self.namespace} come with no tasks. Name a file of tasks beside them."
            )
        found = [task for task in every if task.split is split]
        for task in found:
            if task.namespace != self.namespace:
                raise DataError(
                    f"the task {task.id} is of namespace {task.namespace!r}, these tools are "
                    f"{self.namespace!r}. Results of two worlds must not mix: correct one of them."
                )
        if len(found) < count:
            raise DataError(
                f"{self.namespace} has {len(found)} tasks of split {split}, {count} asked for. "
                "Write more, or ask for fewer."
            )
        found.sort(key=lambda task: hashlib.blake2b(f"{seed}/{task.id}".encode()).digest())
        return [
            task if task.tools else msgspec.structs.replace(task, tools=tuple(self.specs))
            for task in found[:count]
        ]

    def report(self) -> ToolboxReport:
        """Return the counts of every episode so far."""
        return self._tally.report()

    async def aclose(self) -> None:
        """Stop the common sources of the running loop now. Episodes under way lose them."""
        shared, self._shared = self._shared, None
        if shared is not None and shared.loop is asyncio.get_running_loop():
            await shared.aclose()


class _Shared:
    """Sources that the episodes of one event loop share. They are closed when the loop ends."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.kept: dict[str, KeptSource] = {}
        # `asyncio.run` cancels every task before it closes the loop: the last moment to let go.
        self._guard = self.loop.create_task(self._guarded())

    @property
    def closed(self) -> bool:
        return self._guard.done()

    async def _guarded(self) -> None:
        try:
            await self.loop.create_future()
        finally:
            await asyncio.gather(*(each.aclose() for each in self.kept.values()))

    async def aclose(self) -> None:
        # A task that is cancelled before it began would close nothing.
        await asyncio.sleep(0)
        self._guard.cancel()
        await asyncio.wait({self._guard})
