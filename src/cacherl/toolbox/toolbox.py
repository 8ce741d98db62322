"""`Toolbox`: the tools of several sources as the live tools of one episode."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from random import Random
from weakref import WeakKeyDictionary

import msgspec

from cacherl.core.errors import RecipeError, ToolError
from cacherl.core.messages import ToolCall
from cacherl.core.records import JsonObject, Record
from cacherl.core.schema import error_text
from cacherl.core.sources import Answer, ToolSource
from cacherl.core.tools import ErrorClass, Source, Tier, ToolResult, ToolSpec
from cacherl.toolbox.config import effects_problem
from cacherl.toolbox.policy import (
    CallPolicy,
    ToolRule,
    attempt_s,
    interrupted,
    may_repeat,
    message_of,
    timed_out,
    wait_s,
)

SEPARATOR = "__"
"""Between a source and its tool, where a tool is offered under both names."""


class ToolCounts(Record, frozen=True, kw_only=True):
    """What calling one tool came to."""

    calls: int = 0
    """Calls asked for; attempts are these and `retries`."""
    errors: int = 0
    """Calls that ended in an error, of any class."""
    retries: int = 0
    timeouts: int = 0
    """Attempts given up at their time limit."""
    crashes: int = 0
    """Attempts that met their source going down, or found it down."""


class ToolboxReport(Record, frozen=True, kw_only=True):
    """What was asked of live tools, and how they held."""

    tools: dict[str, ToolCounts]
    """By the name under which the tool is offered."""
    restarts: dict[str, int]
    """By source: starts after it had gone down."""


@dataclass(slots=True)
class Tally:
    """Counts of calls, kept over the episodes that share it."""

    _tools: Counter[tuple[str, str]] = field(default_factory=Counter)
    _restarts: Counter[str] = field(default_factory=Counter)

    def count(self, tool: str, what: str) -> None:
        self._tools[tool, what] += 1

    def restarted(self, source: str) -> None:
        self._restarts[source] += 1

    def report(self) -> ToolboxReport:
        by_tool: dict[str, dict[str, int]] = {}
        for (tool, what), number in sorted(self._tools.items()):
            by_tool.setdefault(tool, {})[what] = number
        return ToolboxReport(
            tools={tool: ToolCounts(**counts) for tool, counts in by_tool.items()},
            restarts=dict(sorted(self._restarts.items())),
        )


class Gates:
    """How many calls may be under way at once, over all episodes that share these gates.

    Each event loop has its own: a semaphore cannot be waited for from two.
    """

    def __init__(self) -> None:
        self._loops: WeakKeyDictionary[
            asyncio.AbstractEventLoop, dict[tuple[str, ...], asyncio.Semaphore]
        ] = WeakKeyDictionary()

    def at(self, *name: str, width: int) -> asyncio.Semaphore:
        """Return the gate of this name in the running loop; the first asker sets its width."""
        gates = self._loops.setdefault(asyncio.get_running_loop(), {})
        return gates.setdefault(name, asyncio.Semaphore(width))


class KeptSource:
    """A source that is kept running: started when needed, and again after it went down, within limits.

    Serves one event loop, and there any number of episodes at once.
    """

    def __init__(self, source: ToolSource, *, restarts: int, tally: Tally | None = None) -> None:
        self.source = source
        self.specs: Sequence[ToolSpec] = ()
        self._allowed = restarts
        self._tally = tally or Tally()
        self._starting = asyncio.Lock()
        self._up = False
        self._starts = 0
        self._fruitless = 0
        """Restarts since the last answered call."""
        self.last_words = ""
        """What it said when it last went down."""

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def given_up(self) -> bool:
        """Whether it keeps going down and will not be started again."""
        return self.went_down and self._fruitless >= self._allowed

    @property
    def went_down(self) -> bool:
        """Whether it has been running and does no longer."""
        return self._starts > 0 and not self._up

    async def ready(self) -> Sequence[ToolSpec]:
        """Start the source unless it runs, and return its tools.

        Raises:
            ToolError: it cannot be started, or keeps going down.
        """
        async with self._starting:
            if self._up:
                return self.specs
            if self.given_up:
                raise ToolError(
                    f"{self.name} went down {self._fruitless + 1} times with no answered call between, and "
                    f"stays down (the last time: {self.last_words or 'it said nothing'}). "
                    "Mend it, or allow more `restarts` in the policy."
                )
            self.specs = await self.source.start()
            self._up = True
            if self._starts:
                self._fruitless += 1
                self._tally.restarted(self.name)
            self._starts += 1
            return self.specs

    async def call(self, tool: str, arguments: JsonObject, *, limit_s: float) -> Answer | None:
        """Make one call, once; None where it was given up at its time limit."""
        started_as = self._starts
        limit = asyncio.timeout(limit_s)
        try:
            async with limit:
                answer = await self.source.call(tool, arguments)
        except TimeoutError:
            if not limit.expired():
                raise
            return None
        if not answer.down:
            self._fruitless = 0
        elif started_as == self._starts:  # else somebody has started it again since
            self._up = False
            self.last_words = message_of(answer.text)
        return answer

    async def aclose(self) -> None:
        self._up = False
        await self.source.aclose()


AnySource = ToolSource | KeptSource


def offered_names(
    tools: Mapping[str, Sequence[str]], *, prefix: bool | Collection[str] = False
) -> dict[tuple[str, str], str]:
    """Return the name under which each (source, tool) is offered.

    A tool keeps its own name if no other source has it, unless its source is to be a prefix. The
    order of the sources does not matter.

    Args:
        tools: the tools of each source.
        prefix: the sources whose tools are always offered as `<source>__<tool>`; True for all.

    Raises:
        ToolError: two tools would still share a name.
    """
    pairs = [(source, tool) for source, own in tools.items() for tool in own]
    full = {pair: SEPARATOR.join(pair) for pair in pairs}
    always = prefix if isinstance(prefix, Collection) else (tools if prefix else ())
    named = {pair: full[pair] if pair[0] in always else pair[1] for pair in pairs}
    while True:
        held = Counter(named.values())
        shared = {pair for pair in pairs if held[named[pair]] > 1}
        if not shared:
            return named
        if all(named[pair] == full[pair] for pair in shared):
            pair = sorted(shared)[0]
            raise ToolError(
                f"two tools would be called {full[pair]!r}: the sources {_listed(tools)} cannot be told "
                "apart. Give one of them another name."
            )
        named = named | {pair: full[pair] for pair in shared}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Route:
    """Where the calls of one offered tool go, and how."""

    kept: KeptSource
    tool: str
    spec: ToolSpec
    policy: CallPolicy
    width: int | None
    """Calls of this tool under way at once, where a rule says so."""


class Toolbox:
    """The live tools of one episode (`WorldTools`).

    Sources start with the first call, or with `start`, all at once. A source that went down is
    started again before its next call; the call that met it going down is answered with a transient
    error that says whether it may have taken effect, and is made again only where that can do no
    harm (`may_repeat`).

    Args:
        sources: the episode's own, closed with it; or what is asked for them once, in the episode's
            event loop. A `KeptSource` among them is somebody else's: it outlives the episode.
        policy: how calls are made.
        rules: what a person says of tools, by offered name or by `<source>__<tool>`.
        prefix: the sources whose tools are offered as `<source>__<tool>` even where no other source
            has them, so that a further source renames none; True for all.
        keeps_state: whether the sources hold the episode's state in themselves. One that went down
            after a write has then lost it, and is not started again for this episode.
        lasting: says why a source's state outlives the episode though it must not, and what to write;
            nothing where all is well. Asked of started sources with tools that write.
        gates: shared by the episodes whose calls are limited together.
        tally: shared by the episodes that are counted together.
        random: draws the waits before retries.
    """

    def __init__(
        self,
        sources: Sequence[AnySource] | Callable[[], Sequence[AnySource]],
        *,
        policy: CallPolicy | None = None,
        rules: Mapping[str, ToolRule] | None = None,
        prefix: bool | Collection[str] = False,
        keeps_state: bool = False,
        lasting: Callable[[ToolSource], str] | None = None,
        gates: Gates | None = None,
        tally: Tally | None = None,
        random: Random | None = None,
    ) -> None:
        self._policy = policy or CallPolicy()
        self._rules = rules or {}
        self._prefix = prefix
        self._keeps_state = keeps_state
        self._lasting = lasting
        self._wrote: set[str] = set()
        self._gates = gates or Gates()
        self._tally = tally or Tally()
        self._random = random or Random(0)  # noqa: S311 - spreads waits, guards nothing
        self._sources = sources
        self._own: list[KeptSource] = []
        self._routes: dict[str, _Route] | None = None
        self._starting = asyncio.Lock()
        self._closed = False

    async def start(self) -> list[ToolSpec]:
        """Start every source and return the tools as they are offered. Harmless when started.

        Raises:
            ToolError: a source cannot be started, tools cannot be told apart, or a rule is of no tool.
            RecipeError: the state of a source outlives the episode, and must not.
        """
        async with self._starting:
            if self._routes is None:
                if self._closed:
                    raise ToolError(
                        "this episode is over: its tools are closed. Open the world anew."
                    )
                try:
                    self._routes = await self._started()
                except BaseException:
                    await self._close_own()
                    raise
            return [route.spec for route in self._routes.values()]

    async def _started(self) -> dict[str, _Route]:
        sources = self._sources() if callable(self._sources) else self._sources
        kept = [self._kept(source) for source in sources]
        names = Counter(each.name for each in kept)
        for name, number in names.items():
            if number > 1:
                raise ToolError(f"{number} sources are called {name!r}. Give each its own name.")
        listed = await asyncio.gather(*(each.ready() for each in kept), return_exceptions=True)
        for outcome in listed:
            if isinstance(outcome, BaseException):
                raise outcome
        routes = _routes(kept, self._policy, self._rules, prefix=self._prefix)
        if self._lasting is not None:
            _refuse_lasting(routes, self._lasting)
        return routes

    def _kept(self, source: AnySource) -> KeptSource:
        if isinstance(source, KeptSource):
            return source
        own = KeptSource(source, restarts=self._policy.restarts, tally=self._tally)
        self._own.append(own)
        return own

    def source_of(self, tool: str) -> str:
        """Return the name of the source that an offered tool comes from, once started."""
        return (self._routes or {})[tool].kept.name

    async def call(self, call: ToolCall) -> ToolResult:
        """Answer a call of any name; a failing, slow or crashing source is a result.

        Raises:
            ToolError: a source cannot be started, keeps going down, or has lost what this episode
                wrote: nothing it would answer says anything about who called.
        """
        if self._routes is None:
            await self.start()
        assert self._routes is not None  # noqa: S101 - `start` set it
        route = self._routes.get(call.name)
        if route is None:
            offered = _listed(self._routes)
            text = error_text("not_found", f"no tool {call.name}; there are: {offered}")
            return _result(call, Answer(text=text, error_class=ErrorClass.NOT_FOUND), 0.0)
        self._tally.count(call.name, "calls")
        answer, latency_s = await self._answered(call, route)
        if answer.error_class is not None:
            self._tally.count(call.name, "errors")
        elif route.spec.effects.writes:
            self._wrote.add(route.kept.name)
        return _result(call, answer, latency_s)

    async def _answered(self, call: ToolCall, route: _Route) -> tuple[Answer, float]:
        """Return the answer of the last attempt, and the seconds that attempt took."""
        asked = time.monotonic()
        attempt = 0
        while True:
            attempt += 1
            self._require_state(route.kept)
            answer: Answer | None
            failure: ToolError | None = None
            try:
                answer, latency_s = await self._attempt(call, route, asked)
                if not may_repeat(answer, route.spec.effects):
                    return answer, latency_s
            except ToolError as error:
                # It had gone down and does not come up. Perhaps it is being replaced: worth a wait.
                if route.kept.given_up:
                    raise
                failure, answer, latency_s = error, None, 0.0
            wait = wait_s(
                route.policy,
                attempt=attempt,
                spent_s=time.monotonic() - asked,
                draw=self._random.random(),
            )
            if wait is None and failure is not None:
                raise failure
            if wait is None and answer is not None:
                return answer, latency_s
            self._tally.count(call.name, "retries")
            await asyncio.sleep(wait or 0.0)

    def _require_state(self, kept: KeptSource) -> None:
        if self._keeps_state and kept.went_down and kept.name in self._wrote:
            raise ToolError(
                f"{kept.name} went down and has lost what this episode wrote ({kept.last_words or 'it said nothing'}). "
                "Play the episode again; if its state lies elsewhere, set `resets = false`."
            )

    async def _attempt(self, call: ToolCall, route: _Route, asked: float) -> tuple[Answer, float]:
        kept, effects = route.kept, route.spec.effects
        async with AsyncExitStack() as gates:
            # The tool's gate first: who waits for it must not keep others from the source.
            if route.width is not None:
                await gates.enter_async_context(
                    self._gates.at(kept.name, route.tool, width=route.width)
                )
            await gates.enter_async_context(
                self._gates.at(kept.name, width=self._policy.concurrency)
            )
            await kept.ready()
            started = time.perf_counter()
            limit_s = attempt_s(route.policy, spent_s=time.monotonic() - asked)
            answer = await kept.call(route.tool, call.arguments, limit_s=limit_s)
            latency_s = time.perf_counter() - started
        if answer is None:
            self._tally.count(call.name, "timeouts")
            answer = timed_out(limit_s, effects)
        elif answer.down:
            self._tally.count(call.name, "crashes")
            answer = interrupted(kept.name, route.tool, answer, effects)
        return answer, latency_s

    def report(self) -> ToolboxReport:
        """Return the counts of all episodes that share this one's tally."""
        return self._tally.report()

    def fingerprint(self) -> str:
        """Return the empty string: sources have no way to be asked for their state."""
        return ""

    async def aclose(self) -> None:
        """Stop the episode's own sources. Safe to call twice."""
        self._closed = True
        self._routes = None
        await self._close_own()

    async def _close_own(self) -> None:
        own, self._own = self._own, []
        await asyncio.gather(*(kept.aclose() for kept in own))


def _routes(
    kept: Sequence[KeptSource],
    policy: CallPolicy,
    rules: Mapping[str, ToolRule],
    *,
    prefix: bool | Collection[str],
) -> dict[str, _Route]:
    names = offered_names(
        {each.name: [spec.name for spec in each.specs] for each in kept}, prefix=prefix
    )
    routes: dict[str, _Route] = {}
    ruled: set[str] = set()
    offered_all: list[str] = []
    for each in kept:
        for spec in each.specs:
            offered = names[each.name, spec.name]
            full = SEPARATOR.join((each.name, spec.name))
            by = offered if offered in rules else full
            rule = rules.get(by, ToolRule())
            ruled.add(by)
            offered_all.append(offered)
            if rule.hide:
                continue
            routes[offered] = _Route(
                kept=each,
                tool=spec.name,
                spec=msgspec.structs.replace(
                    spec, name=offered, effects=rule.effects(spec.effects)
                ),
                policy=rule.policy(policy),
                width=rule.concurrency,
            )
            problem = effects_problem(routes[offered].spec)
            if by in rules and problem is not None:
                raise ToolError(f"[tools.{by}]: {problem}. Correct the name in braces.")
    for name in rules:
        if name not in ruled:
            raise ToolError(
                f"something is said of a tool {name!r}, and there is none: the tools are {_listed(offered_all)}. "
                "Correct its name."
            )
    return routes


def _refuse_lasting(routes: Mapping[str, _Route], lasting: Callable[[ToolSource], str]) -> None:
    """Raise where an episode would find what another one wrote, and was promised a fresh state."""
    writers: dict[KeptSource, list[str]] = {}
    for name, route in routes.items():
        if route.spec.effects.writes:
            writers.setdefault(route.kept, []).append(name)
    for kept, names in writers.items():
        why = lasting(kept.source)
        if why:
            some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            raise RecipeError(
                f"the tools are said to reset, and what {kept.name} writes ({some}) would stay: {why}"
            )


def _result(call: ToolCall, answer: Answer, latency_s: float) -> ToolResult:
    return ToolResult(
        call_id=call.id,
        name=call.name,
        text=answer.text,
        wire=answer.wire,
        is_error=answer.error_class is not None,
        error_class=answer.error_class,
        tier=Tier.LIVE,
        source=Source.LIVE,
        latency_s=latency_s,
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
