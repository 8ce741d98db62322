"""The cache: recorded answers in, the most trustworthy answer out."""

from __future__ import annotations

import contextlib
import enum
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cacherl.cache import match
from cacherl.cache.entry import CacheEntry, Kept, Observation, RecordedCall
from cacherl.cache.nearest import Neighbour, ToolIndex
from cacherl.cache.normalise import (
    COERCIONS,
    Fired,
    NormalCall,
    Plan,
    is_writer,
    plan_of,
)
from cacherl.cache.sqlite import Mode, SqliteStore
from cacherl.cache.state import NO_WRITES, StateOverlay
from cacherl.cache.store import CacheStore, MemoryStore
from cacherl.core.errors import CacheError, DataError
from cacherl.core.messages import AssistantMessage, MalformedCall, ToolCall
from cacherl.core.records import Record
from cacherl.core.tasks import Split, Task
from cacherl.core.tools import ErrorClass, Source, Tier, ToolResult, ToolSpec
from cacherl.core.trajectories import Trajectory

EVERY_SPLIT = frozenset(Split)
_MAX_REMEMBERED = 1 << 16


class Scope(enum.StrEnum):
    """What an observation from another scenario (another world instance) is worth."""

    GLOBAL = "global"
    """All scenarios stand on the same data: as good as one's own, unless they contradict one another."""
    SCENARIO = "scenario"
    """Each scenario has data of its own: never EXACT or FUZZY, at most BEST_EFFORT in another state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """Which of several observations a call gets: a pure function of these and the key."""

    seed: int = 0
    rollout: int = 0
    occurrence: int = 0
    """How often this episode has made the same call in the same state before."""

    def pick(self, key: bytes, total: int) -> int:
        """Return a place in [0, total). The same on every machine and in every process."""
        if total == 1:
            return 0
        said = f"{self.seed}|{self.rollout}|{self.occurrence}|".encode() + key
        return int.from_bytes(hashlib.blake2b(said, digest_size=8).digest(), "big") % total


@dataclass(frozen=True, slots=True, kw_only=True)
class Viewpoint:
    """Who asks: what may be seen, and what is preferred."""

    scenario: str | None = None
    """Observations of this scenario come first."""
    splits: frozenset[Split] = EVERY_SPLIT
    """Observations of other splits do not exist, under any tier."""
    scope: Scope = Scope.GLOBAL
    fuzzy_min_score: float = match.FUZZY_MIN_SCORE
    best_effort_min_score: float = match.BEST_EFFORT_MIN_SCORE


EVERYTHING_VISIBLE = Viewpoint()


class Hit(Record, frozen=True, kw_only=True):
    """What a lookup found."""

    tier: Tier
    """EXACT, FUZZY, BEST_EFFORT or MISS."""
    key: str | None = None
    """The entry that answers (hex); the key that was asked for on a MISS."""
    observation: Observation | None = None
    """None on a MISS."""
    score: float | None = None
    """The match score of a loose tier."""
    state_matched: bool = True
    scenario_matched: bool = True
    """False when the answer comes from another scenario than the one asked for."""
    matched_arguments: str | None = None
    """The normal arguments of the recorded call, as canonical JSON."""
    fired: tuple[str, ...] = ()
    """Normalisation rules that rewrote the call, each with its place."""
    observations: int = 0
    """Observations to draw from, repeats included."""
    drawn: int = 0
    """Which of the entry's distinct observations answers, in recorded order."""


class Closest(Record, frozen=True, kw_only=True):
    """A recorded call near the one asked for."""

    key: str
    arguments: str
    score: float
    state_matched: bool
    differs: tuple[str, ...]
    """Paths of the arguments that differ."""
    not_fuzzy: str | None
    """Why it is no FUZZY match; None where only the state or an earlier tier stood in the way."""


class Explanation(Record, frozen=True, kw_only=True):
    """Why a lookup found what it found."""

    tool: str
    arguments: str
    """In normal form."""
    kinds: dict[str, str]
    """The kind of each parameter, as declared or inferred."""
    state: str
    hit: Hit
    other_states: int
    """Recordings of the same arguments in other states."""
    closest: tuple[Closest, ...]


class ToolStats(Record, frozen=True, kw_only=True):
    """What is recorded of one tool."""

    namespace: str
    tool: str
    calls: int
    observations: int
    errors: int
    contradictions: int
    """Calls that one scenario answered in two ways: not deterministic, or effects misdeclared."""
    scenario_bound: int
    """Calls that two scenarios answered differently."""


class CacheStats(Record, frozen=True, kw_only=True):
    """What is recorded."""

    path: str
    calls: int
    observations: int
    """Distinct ones."""
    repeats: int
    """Observations that said what was known already."""
    scenarios: int
    by_split: dict[str, int]
    by_source: dict[str, int]
    tools: tuple[ToolStats, ...]


class Recorded(Record, frozen=True, kw_only=True):
    """What came of recording a trajectory."""

    calls: int
    """Calls whose answer is now kept."""
    new: int
    """Of these, answers that were not kept before."""
    skipped: int
    """Calls that were not a tool's own answer: refused by the loop, replayed, or transient failures."""


class ToolCache:
    """Recorded answers of tools, in a file or in memory.

    Reading is cheap enough to run inside an event loop: microseconds for EXACT, the loose tiers
    build an index of the tool on first use. Recordings that other processes add are seen by exact
    lookups of new calls at once, by everything else after reopening: answers do not change under
    a running rollout.
    """

    def __init__(self, store: CacheStore, *, name: str = ":memory:") -> None:
        self.name = name
        self._store = store
        self._remember = isinstance(store, SqliteStore)
        self._remembered: dict[bytes, CacheEntry] = {}
        self._indexes: dict[tuple[str, str, frozenset[Split], Plan], ToolIndex] = {}
        self._plans: dict[int, tuple[ToolSpec, Plan]] = {}
        self._declared: dict[tuple[str, str], ToolSpec] = {}

    @classmethod
    def open(cls, path: Path | str, *, mode: Mode = "read") -> ToolCache:
        """Open a cache; `:memory:` is a new one that ends with the process.

        Raises:
            CacheError: there is no such cache (read), it is damaged, newer or something else.
        """
        if str(path) == ":memory:":
            return cls(MemoryStore())
        return cls(SqliteStore(Path(path), mode=mode), name=str(path))

    def close(self) -> None:
        """Let go of the file. Safe to call twice."""
        self._store.close()

    def __enter__(self) -> ToolCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def store(self) -> CacheStore:
        """Where the recordings are."""
        return self._store

    # ---- identity

    def plan(self, spec: ToolSpec) -> Plan:
        """Return the tool's normalisation, compiled once."""
        known = self._plans.get(id(spec))
        if known is not None and known[0] is spec:
            return known[1]
        if len(self._plans) >= _MAX_REMEMBERED:
            self._plans.clear()
        plan = plan_of(spec)
        self._plans[id(spec)] = (spec, plan)
        return plan

    def spec(self, namespace: str, tool: str) -> ToolSpec:
        """Return a recorded tool's declaration.

        Raises:
            CacheError: no such tool was recorded.
        """
        specs = self._store.tools()
        found = specs.get((namespace, tool))
        if found is None:
            known = ", ".join(f"{space}/{name}" for space, name in specs) or "none"
            raise CacheError(
                f"{self.name}: no tool {namespace}/{tool} was recorded; there are: {known}. "
                "See them with `cacherl cache stats`."
            )
        return found

    # ---- recording

    def record(
        self,
        namespace: str,
        spec: ToolSpec,
        call: ToolCall,
        result: ToolResult,
        *,
        state_key: bytes = NO_WRITES,
        scenario: str,
        split: Split,
    ) -> bool:
        """Keep a tool's own answer; return whether it is kept (now or already).

        Not kept: the loop's refusals, replayed and missed answers, transient failures, and
        validation errors of arguments that normalisation would have mended.
        """
        normal = self.plan(spec).normal(call.arguments)
        return self._record(namespace, spec, normal, result, state_key, scenario, split)[0]

    def _record(
        self,
        namespace: str,
        spec: ToolSpec,
        normal: NormalCall,
        result: ToolResult,
        state_key: bytes,
        scenario: str,
        split: Split,
    ) -> tuple[bool, bool]:
        if not _is_tools_own(result) or _is_mended_refusal(normal, result):
            return False, False
        self._declare(namespace, spec)
        recorded = RecordedCall.of(namespace, spec.name, normal.canonical, state_key)
        error_class = result.error_class or ErrorClass.UNKNOWN
        new = self._store.add(
            recorded,
            Observation(
                text=result.text,
                is_error=result.is_error,
                error_class=error_class if result.is_error else None,
                source=result.source or Source.LIVE,
                scenario=scenario,
                split=split,
                latency_s=result.latency_s,
            ),
        )
        self._remembered.pop(recorded.key, None)
        if new and not result.is_error:
            for (space, tool, splits, plan), index in self._indexes.items():
                same = (space, tool) == (namespace, spec.name) and plan is self.plan(spec)
                if same and split in splits:
                    index.add(recorded.key, normal.arguments, state_key, (scenario,))
        return True, new

    def _declare(self, namespace: str, spec: ToolSpec) -> None:
        name = (namespace, spec.name)
        if self._declared.get(name) != spec:
            self._store.put_tool(namespace, spec)
            self._declared[name] = spec

    def record_trajectory(self, task: Task, trajectory: Trajectory) -> Recorded:
        """Keep every answer of a trajectory that a tool gave itself, all or none.

        Walks the calls in order with the episode's state, so that a read after a write is kept
        apart from the same read before it. Recording a trajectory again adds nothing new.

        Raises:
            DataError: the results do not belong to the calls.
        """
        specs = {spec.name: spec for spec in task.tools}
        overlay = StateOverlay()
        kept = new = skipped = 0
        with self._all_or_none():
            for call, result in _answered(trajectory):
                if result.source is Source.LOOP:
                    skipped += 1
                    continue
                spec = specs.get(call.name) or _undeclared(call.name)
                normal = self.plan(spec).normal(call.arguments)
                state = overlay.state(spec.effects, normal.arguments)
                is_kept, is_new = self._record(
                    task.namespace, spec, normal, result, state.key, task.scenario, task.split
                )
                kept += is_kept
                new += is_new
                skipped += not is_kept
                if result.error_class is ErrorClass.TRANSIENT:
                    overlay.uncertain(spec.name, spec.effects, normal.arguments, normal.canonical)
                elif not result.is_error:
                    overlay.write(
                        spec.name,
                        spec.effects,
                        normal.arguments,
                        normal.canonical,
                        state,
                        result.text,
                    )
        return Recorded(calls=kept, new=new, skipped=skipped)

    @contextlib.contextmanager
    def _all_or_none(self) -> Iterator[None]:
        try:
            with self._store.batch():
                yield
        except BaseException:
            # What was taken back must not live on in what was derived from it.
            self._remembered.clear()
            self._indexes.clear()
            self._declared.clear()
            raise

    # ---- looking up

    def lookup(
        self,
        namespace: str,
        spec: ToolSpec,
        arguments: Mapping[str, Any],
        *,
        state_key: bytes = NO_WRITES,
        view: Viewpoint = EVERYTHING_VISIBLE,
        draw: Draw = Draw(),
    ) -> Hit:
        """Return the most trustworthy recorded answer, or a MISS. Never raises for a miss.

        Tiers in order: EXACT, FUZZY, BEST_EFFORT in the same state, BEST_EFFORT in another.
        Tools that write are only ever answered EXACT.
        """
        normal = self.plan(spec).normal(arguments)
        return self.find(namespace, spec, normal, state_key=state_key, view=view, draw=draw)

    def find(
        self,
        namespace: str,
        spec: ToolSpec,
        normal: NormalCall,
        *,
        state_key: bytes,
        view: Viewpoint,
        draw: Draw,
    ) -> Hit:
        """Return what `lookup` returns, for arguments in normal form already."""
        call = RecordedCall.of(namespace, spec.name, normal.canonical, state_key)
        fired = _told(normal.fired) if normal.fired else ()
        entry = self._entry(call)
        if entry is not None:
            pool, faithful = _visible(entry, view, errors=True)
            if pool and faithful:
                return _hit(Tier.EXACT, entry, pool, view, draw, fired, None, state_matched=True)
        if not is_writer(spec.effects):
            index = self._index(namespace, spec, view.splits)
            if len(index):
                found = self._loose(index, self.plan(spec), normal, call, view, draw, fired)
                if found is not None:
                    return found
        return Hit(tier=Tier.MISS, key=call.key.hex(), fired=fired)

    def nearest_success(
        self, namespace: str, spec: ToolSpec, normal: NormalCall, *, view: Viewpoint, draw: Draw
    ) -> Hit:
        """Return the nearest recorded success of a tool, however far: for miss policies only."""
        index = self._index(namespace, spec, view.splits)
        neighbour = index.best(
            self.plan(spec).shape(normal.arguments), min_score=0.0, scenario=view.scenario
        )
        entry = None if neighbour is None else self._store.by_key(neighbour.key)
        if neighbour is None or entry is None:
            return Hit(tier=Tier.MISS, fired=_told(normal.fired))
        pool, _ = _visible(entry, view, errors=False)
        return _hit(
            Tier.BEST_EFFORT,
            entry,
            pool,
            view,
            draw,
            _told(normal.fired),
            neighbour.score,
            state_matched=False,
        )

    def _entry(self, call: RecordedCall) -> CacheEntry | None:
        if not self._remember:
            return self._store.get(call)
        entry = self._remembered.get(call.key)
        if entry is not None and entry.call == call:
            return entry
        entry = self._store.get(call)
        if entry is not None:
            if len(self._remembered) >= _MAX_REMEMBERED:
                self._remembered.clear()
            self._remembered[call.key] = entry
        return entry

    def _index(self, namespace: str, spec: ToolSpec, splits: frozenset[Split]) -> ToolIndex:
        plan = self.plan(spec)
        name = (namespace, spec.name, splits, plan)
        index = self._indexes.get(name)
        if index is None:
            index = ToolIndex(plan)
            for entry in self._store.by_tool(namespace, spec.name):
                scenarios = [
                    kept.observation.scenario
                    for kept in entry.kept
                    if kept.observation.split in splits and not kept.observation.is_error
                ]
                if scenarios:
                    call = entry.call
                    index.add(call.key, call.arguments, call.state, scenarios)
            self._indexes[name] = index
        return index

    def _loose(
        self,
        index: ToolIndex,
        plan: Plan,
        normal: NormalCall,
        call: RecordedCall,
        view: Viewpoint,
        draw: Draw,
        fired: tuple[str, ...],
    ) -> Hit | None:
        asked = plan.shape(normal.arguments)
        bound = view.scope is Scope.SCENARIO and view.scenario is not None
        near = index.fuzzy(
            asked,
            state=call.state,
            min_score=view.fuzzy_min_score,
            scenario=view.scenario,
            own_only=bound,
        )
        if near is not None:
            entry = self._indexed(near)
            pool, faithful = _visible(entry, view, errors=False)
            if faithful:
                return _hit(
                    Tier.FUZZY, entry, pool, view, draw, fired, near.score, state_matched=True
                )
        # Another scenario's data is farther away than another state of one's own.
        passes = [(call.state, bound), (None, bound)] + [(None, False)] * bound
        for state, own_only in passes:
            near = index.best(
                asked,
                min_score=view.best_effort_min_score,
                state=state,
                scenario=view.scenario,
                own_only=own_only,
            )
            if near is not None:
                entry = self._indexed(near)
                pool, faithful = _visible(entry, view, errors=False)
                return _hit(
                    Tier.BEST_EFFORT,
                    entry,
                    pool,
                    view,
                    draw,
                    fired,
                    near.score,
                    state_matched=faithful and entry.call.state == call.state,
                )
        return None

    def _indexed(self, near: Neighbour) -> CacheEntry:
        entry = self._remembered.get(near.key) or self._store.by_key(near.key)
        if entry is None:
            raise CacheError(
                f"{self.name}: the call {near.key.hex()} vanished while the cache was open. "
                "Open it again; never remove from a cache that rollouts read."
            )
        return entry

    # ---- showing

    def closest(
        self,
        namespace: str,
        spec: ToolSpec,
        arguments: Mapping[str, Any],
        *,
        state_key: bytes = NO_WRITES,
        view: Viewpoint = EVERYTHING_VISIBLE,
        count: int = 3,
    ) -> tuple[Closest, ...]:
        """Return the nearest recorded successes of the tool in any state, best first."""
        plan = self.plan(spec)
        asked = plan.shape(plan.normal(arguments).arguments)
        found = []
        for near in self._index(namespace, spec, view.splits).ranked(asked, count):
            entry = self._indexed(near)
            kept = plan.shape(entry.call.arguments)
            found.append(
                Closest(
                    key=near.key.hex(),
                    arguments=entry.call.canonical.decode(),
                    score=near.score,
                    state_matched=entry.call.state == state_key,
                    differs=match.differences(asked, kept),
                    not_fuzzy=match.fuzzy(asked, kept, view.fuzzy_min_score).refused,
                )
            )
        return tuple(found)

    def explain(
        self,
        namespace: str,
        spec: ToolSpec,
        arguments: Mapping[str, Any],
        *,
        state_key: bytes = NO_WRITES,
        view: Viewpoint = EVERYTHING_VISIBLE,
        draw: Draw = Draw(),
    ) -> Explanation:
        """Return what `lookup` finds, why, and what came closest. Scans the tool's recordings."""
        plan = self.plan(spec)
        normal = plan.normal(arguments)
        same = sum(
            entry.call.canonical == normal.canonical and entry.call.state != state_key
            for entry in self._store.by_tool(namespace, spec.name)
            if _visible(entry, view, errors=True)[0]
        )
        return Explanation(
            tool=spec.name,
            arguments=normal.canonical.decode(),
            kinds=plan.kinds(),
            state=state_key.hex(),
            hit=self.find(namespace, spec, normal, state_key=state_key, view=view, draw=draw),
            other_states=same,
            closest=self.closest(namespace, spec, arguments, state_key=state_key, view=view),
        )

    def stats(self) -> CacheStats:
        """Count what is recorded. Reads everything once, and so verifies every checksum."""
        rows: dict[tuple[str, str], Counter[str]] = {
            name: Counter() for name in self._store.tools()
        }
        total: Counter[str] = Counter()
        by_split: Counter[str] = Counter()
        by_source: Counter[str] = Counter()
        scenarios: set[str] = set()
        for entry in self._store.entries():
            row = rows.setdefault((entry.call.namespace, entry.call.tool), Counter())
            row.update(_counted(entry))
            total["repeats"] += sum(kept.times - 1 for kept in entry.kept)
            for kept in entry.kept:
                by_split[kept.observation.split] += 1
                by_source[kept.observation.source] += 1
                scenarios.add(kept.observation.scenario)
        tools = tuple(
            ToolStats(
                namespace=namespace,
                tool=tool,
                calls=row["calls"],
                observations=row["observations"],
                errors=row["errors"],
                contradictions=row["contradictions"],
                scenario_bound=row["scenario_bound"],
            )
            for (namespace, tool), row in sorted(rows.items())
        )
        return CacheStats(
            path=self.name,
            calls=sum(tool.calls for tool in tools),
            observations=sum(tool.observations for tool in tools),
            repeats=total["repeats"],
            scenarios=len(scenarios),
            by_split={str(split): count for split, count in sorted(by_split.items())},
            by_source={str(source): count for source, count in sorted(by_source.items())},
            tools=tools,
        )


def _is_tools_own(result: ToolResult) -> bool:
    """Say whether the tool itself answered this call, in a way that says something about it."""
    return (
        result.tier is Tier.LIVE
        and result.source is not Source.LOOP
        and result.error_class is not ErrorClass.TRANSIENT
    )


def _is_mended_refusal(normal: NormalCall, result: ToolResult) -> bool:
    return result.error_class is ErrorClass.VALIDATION and any(
        fired.rule in COERCIONS for fired in normal.fired
    )


def _undeclared(name: str) -> ToolSpec:
    """Return the spec of a tool that was called but never offered: it may do anything."""
    return ToolSpec(name=name, description="", parameters={"type": "object"})


def _answered(trajectory: Trajectory) -> list[tuple[ToolCall, ToolResult]]:
    """Pair the well-formed calls with their results; calls of a cut-off last turn have none."""
    calls = [
        call
        for message in trajectory.messages
        if isinstance(message, AssistantMessage)
        for call in message.calls
    ]
    if len(trajectory.results) > len(calls):
        raise DataError(
            f"trajectory of {trajectory.task_id}, rollout {trajectory.rollout}: "
            f"{len(trajectory.results)} results for {len(calls)} calls. Record it again."
        )
    pairs = []
    for call, result in zip(calls, trajectory.results, strict=False):
        if result.call_id != call.id:
            raise DataError(
                f"trajectory of {trajectory.task_id}, rollout {trajectory.rollout}: the result of "
                f"{result.call_id!r} stands where that of {call.id!r} belongs. Record it again."
            )
        if not isinstance(call, MalformedCall):
            pairs.append((call, result))
    return pairs


def _told(fired: tuple[Fired, ...]) -> tuple[str, ...]:
    return tuple(f"{each.path}: {each.rule}" for each in fired)


def _visible(entry: CacheEntry, view: Viewpoint, *, errors: bool) -> tuple[list[Kept], bool]:
    """Return the observations to draw from, and whether they may count as this scenario's answer."""
    pool = [
        kept
        for kept in entry.kept
        if kept.observation.split in view.splits
        and kept.observation.error_class is not ErrorClass.TRANSIENT
        and (errors or not kept.observation.is_error)
    ]
    if view.scenario is None:
        return pool, bool(pool)
    own = [kept for kept in pool if kept.observation.scenario == view.scenario]
    if own:
        return own, True
    # Others' answers that contradict one another show that the answer depends on the scenario.
    agreed = all(kept.observation.same_answer(pool[0].observation) for kept in pool)
    return pool, bool(pool) and agreed and view.scope is Scope.GLOBAL


def _hit(
    tier: Tier,
    entry: CacheEntry,
    pool: list[Kept],
    view: Viewpoint,
    draw: Draw,
    fired: tuple[str, ...],
    score: float | None,
    *,
    state_matched: bool,
) -> Hit:
    total = sum(kept.times for kept in pool)
    place = draw.pick(entry.call.key, total)
    chosen = pool[-1]
    for kept in pool:
        if place < kept.times:
            chosen = kept
            break
        place -= kept.times
    observation = chosen.observation
    return Hit(
        tier=tier,
        key=entry.call.key.hex(),
        observation=observation,
        score=score,
        state_matched=state_matched,
        scenario_matched=view.scenario is None or observation.scenario == view.scenario,
        matched_arguments=entry.call.canonical.decode(),
        fired=fired,
        observations=total,
        drawn=entry.kept.index(chosen),
    )


def _counted(entry: CacheEntry) -> Counter[str]:
    observations = [kept.observation for kept in entry.kept]
    answers = {(each.scenario, each.text, each.is_error) for each in observations}
    scenarios = {each.scenario for each in observations}
    contradicted = len(answers) > len(scenarios)
    # Only scenarios that are sure of their own answer can disagree with one another.
    bound = not contradicted and len({(text, error) for _, text, error in answers}) > 1
    return Counter(
        calls=1,
        observations=len(observations),
        errors=sum(each.is_error for each in observations),
        contradictions=int(contradicted),
        scenario_bound=int(bound),
    )
