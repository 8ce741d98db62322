"""Each recorded call asked again as if it had not been recorded: what would the cache have said?

The look-up is `ToolCache`'s own, over a store that leaves the observation out of everything: the
entry's answers, the draw, the index.
"""

from __future__ import annotations

import contextlib
import hashlib
import heapq
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cacherl.cache.identity.normalise import NormalCall, Plan, Shape, is_writer
from cacherl.cache.lookup.draws import Draw
from cacherl.cache.lookup.hit import EVERY_SPLIT, Hit, Scope, Viewpoint
from cacherl.cache.lookup.settings import Compare, ToolRules
from cacherl.cache.lookup.tool_cache import ToolCache
from cacherl.cache.matching import match
from cacherl.cache.matching.nearest import LooseIndex, Neighbour
from cacherl.cache.storage.entry import CacheEntry, Kept, Observation, RecordedCall
from cacherl.cache.storage.store import MemoryStore
from cacherl.cache.trust.compare import agreement
from cacherl.cache.trust.fidelity import Unit
from cacherl.core.records import JsonObject
from cacherl.core.tasks import Split
from cacherl.core.tools import Source, Tier, ToolSpec

TRUTHS = frozenset({Source.LIVE, Source.IMPORTED})
"""Whose answers are what a live tool says; a teacher's or a simulator's may answer, never judge."""

_MAX_FUZZY_TRIED = 64
_TIE = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one recorded call was answered once it was left out."""

    namespace: str
    tool: str
    scenario: str
    weight: float
    """The outcomes of one call of one scenario weigh 1 together, however often it was made: answers
    to one question are no independent evidence."""
    tier: Tier
    score: float | None
    state_matched: bool
    scenario_matched: bool
    same: float
    """How far the answer was what the tool had really said, in [0, 1]; 0 on a MISS."""
    served: bool
    """False for answers that only the miss policy `best_effort` would have given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A call as one scenario made it."""

    entry: CacheEntry
    scenario: str


def outcomes_of_tool(
    cache: ToolCache,
    namespace: str,
    spec: ToolSpec,
    *,
    unit: Unit,
    per_tool: int,
    corpus: int,
    seed: int,
    scope: Scope = Scope.GLOBAL,
) -> list[Outcome]:
    """Ask a tool's recorded calls again, each as if it had not been recorded.

    Args:
        cache: the recordings; nothing is written.
        namespace: the tool's.
        spec: the tool.
        unit: what is left out with each call.
        per_tool: the most calls to ask; which ones is decided by the seed and their content.
        corpus: the most entries to look among, chosen likewise.
        seed: of the choice and of the draws.
        scope: what other scenarios' observations are worth.
    """
    entries = _chosen(cache.store.by_tool(namespace, spec.name), corpus, seed)
    store = _LeavingStore(entries)
    asking = ToolCache(store, name=cache.name, settings=cache.settings)
    spec = asking.effective(namespace, spec)
    rules = asking.rules(namespace, spec.name)
    found = []
    for question in _questions(entries, per_tool, seed):
        found += _asked_again(asking, store, spec, rules, question, unit, seed, scope)
    return found


def _chosen(entries: Iterable[CacheEntry], most: int, seed: int) -> list[CacheEntry]:
    """Return at most `most` entries, in recorded order, the same whatever that order was."""
    heap: list[tuple[int, int, CacheEntry]] = []
    for place, entry in enumerate(entries):
        item = (-_lot(seed, entry.call.key), place, entry)
        if len(heap) < most:
            heapq.heappush(heap, item)
        elif item > heap[0]:
            heapq.heapreplace(heap, item)
    return [entry for _, _, entry in sorted(heap, key=lambda item: item[1])]


def _questions(entries: Iterable[CacheEntry], most: int, seed: int) -> list[Question]:
    found: dict[tuple[bytes, str], Question] = {}
    for entry in entries:
        for kept in entry.kept:
            if kept.observation.source in TRUTHS:
                scenario = kept.observation.scenario
                found[entry.call.key, scenario] = Question(entry=entry, scenario=scenario)
    return heapq.nsmallest(most, found.values(), key=lambda each: _lot(seed, *_name(each)))


def _name(question: Question) -> tuple[bytes, bytes]:
    return question.entry.call.key, question.scenario.encode("utf-8", "surrogatepass")


def _lot(seed: int, *parts: bytes) -> int:
    said = b"\0".join((str(seed).encode(), *parts))
    return int.from_bytes(hashlib.blake2b(said, digest_size=8).digest(), "big")


def _asked_again(
    cache: ToolCache,
    store: _LeavingStore,
    spec: ToolSpec,
    rules: ToolRules,
    question: Question,
    unit: Unit,
    seed: int,
    scope: Scope,
) -> list[Outcome]:
    entry, scenario = question.entry, question.scenario
    call = entry.call
    own = [
        (place, kept)
        for place, kept in enumerate(entry.kept)
        if kept.observation.scenario == scenario and kept.observation.source in TRUTHS
    ]
    total = sum(kept.times for _, kept in own)
    normal = NormalCall(arguments=call.arguments, canonical=call.canonical, fired=())
    found = []
    for place, kept in own:
        said = kept.observation
        view = Viewpoint(
            scenario=scenario,
            splits=frozenset({said.split}),
            scope=scope,
            now=said.recorded_at,  # what was too old when it was asked is too old now
        )
        draw = Draw(
            seed=seed,
            rollout=_lot(seed, call.key, said.content()) >> 1,
            occurrence=said.occurrence,
        )
        left_out = (
            {call: _less_one(entry, place)}
            if unit is Unit.OBSERVATION
            else {each.call: _less_scenario(each, scenario) for each in store.of_scenario(scenario)}
        )
        with store.leaving(left_out):
            hit = cache.find(
                call.namespace, spec, normal, state_key=call.state, view=view, draw=draw
            )
            served = hit.tier is not Tier.MISS
            if not served and not is_writer(spec.effects):
                hit = cache.nearest_success(call.namespace, spec, normal, view=view, draw=draw)
        found.append(
            Outcome(
                namespace=call.namespace,
                tool=call.tool,
                scenario=scenario,
                weight=kept.times / total,
                tier=hit.tier,
                score=hit.score,
                state_matched=hit.state_matched,
                scenario_matched=hit.scenario_matched,
                same=_same(hit, said, rules),
                served=served,
            )
        )
    return found


def _same(hit: Hit, said: Observation, rules: ToolRules) -> float:
    if hit.observation is None:
        return 0.0
    compare = rules.compare or Compare.JSON
    return agreement(said, hit.observation, compare, rules.volatile_paths)


def _less_one(entry: CacheEntry, place: int) -> CacheEntry | None:
    kept = entry.kept[place]
    fewer = [Kept(observation=kept.observation, times=kept.times - 1)] if kept.times > 1 else []
    return _with(entry, (*entry.kept[:place], *fewer, *entry.kept[place + 1 :]))


def _less_scenario(entry: CacheEntry, scenario: str) -> CacheEntry | None:
    return _with(entry, tuple(k for k in entry.kept if k.observation.scenario != scenario))


def _with(entry: CacheEntry, kept: tuple[Kept, ...]) -> CacheEntry | None:
    return CacheEntry(call=entry.call, kept=kept) if kept else None


class _LeavingStore(MemoryStore):
    """One tool's entries, some of them left out for a while.

    In memory because `ToolCache` remembers nothing of such a store: what is left out is out at once.
    """

    def __init__(self, entries: Iterable[CacheEntry]) -> None:
        super().__init__()
        self._whole = {entry.call: entry for entry in entries}
        self._calls = {entry.call.key: entry.call for entry in self._whole.values()}
        self._left_out: Mapping[RecordedCall, CacheEntry | None] = {}
        self._loose: dict[tuple[Plan, frozenset[Split]], LeavingIndex] = {}
        self._of_scenario: dict[str, list[CacheEntry]] = {}
        for entry in self._whole.values():
            for scenario in {kept.observation.scenario for kept in entry.kept}:
                self._of_scenario.setdefault(scenario, []).append(entry)

    def of_scenario(self, scenario: str) -> list[CacheEntry]:
        """Return the entries that hold something of a scenario."""
        return self._of_scenario.get(scenario, [])

    @contextlib.contextmanager
    def leaving(self, changed: Mapping[RecordedCall, CacheEntry | None]) -> Iterator[None]:
        """Return a block in which these calls have other entries, or none."""
        self._left_out = changed
        try:
            for (_, splits), index in self._loose.items():
                for call, entry in changed.items():
                    index.set_scenarios(call.key, _succeeding(entry, splits))
            yield
        finally:
            self._left_out = {}
            for (_, splits), index in self._loose.items():
                for call in changed:
                    index.set_scenarios(call.key, _succeeding(self._whole[call], splits))

    def get(self, call: RecordedCall) -> CacheEntry | None:
        return self._left_out[call] if call in self._left_out else self._whole.get(call)

    def by_key(self, key: bytes) -> CacheEntry | None:
        call = self._calls.get(key)
        return None if call is None else self.get(call)

    def by_tool(self, namespace: str, tool: str) -> Iterator[CacheEntry]:
        yield from self._whole.values()

    def newest(self) -> float | None:
        times = (k.observation.recorded_at for e in self._whole.values() for k in e.kept)
        return max((at for at in times if at is not None), default=None)

    def index(
        self, namespace: str, tool: str, plan: Plan, splits: frozenset[Split]
    ) -> LooseIndex | None:
        index = self._loose.get((plan, splits))
        if index is None:
            index = self._loose[plan, splits] = LeavingIndex(plan)
            for entry in self._whole.values():
                call = entry.call
                if scenarios := _succeeding(entry, splits):
                    index.add(call.key, call.arguments, call.state, scenarios)
            for call, entry_left in self._left_out.items():
                index.set_scenarios(call.key, _succeeding(entry_left, splits))
        return index


def _succeeding(entry: CacheEntry | None, splits: frozenset[Split] = EVERY_SPLIT) -> frozenset[str]:
    """Return the scenarios that the tool answered without an error."""
    return frozenset(
        kept.observation.scenario
        for kept in (() if entry is None else entry.kept)
        if kept.observation.split in splits and not kept.observation.is_error
    )


class LeavingIndex:
    """A `LooseIndex` whose calls can be hidden and shown again.

    Answers what `nearest.ToolIndex` answers, without its budgets; `tests/cache/test_calibrate.py`
    holds it to that. A call without scenarios is hidden.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._keys: list[bytes] = []
        self._numbers: dict[bytes, int] = {}
        self._shapes: list[Shape] = []
        self._state_ids: dict[bytes, int] = {}
        self._states = array("q")
        self._scenarios: list[frozenset[str]] = []
        self._weights = array("d")
        self._postings: dict[str, array[int]] = {}
        self._buckets: dict[tuple[bytes, bytes], list[int]] = {}
        self._hidden: set[int] = set()

    def __len__(self) -> int:
        return len(self._keys)  # hidden ones too: `ToolCache` builds anew what looks empty

    def add(
        self, key: bytes, arguments: JsonObject, state: bytes, scenarios: frozenset[str]
    ) -> None:
        """Index one call that is not indexed yet."""
        number = self._numbers[key] = len(self._keys)
        shape = self._plan.shape(arguments)
        weighted = match.features(shape)
        self._keys.append(key)
        self._shapes.append(shape)
        self._states.append(self._state_ids.setdefault(state, len(self._state_ids)))
        self._scenarios.append(scenarios)
        self._weights.append(sum(weighted.values()))
        for feature in weighted:
            self._postings.setdefault(feature, array("q")).append(number)
        if shape.texts:
            self._buckets.setdefault((shape.gate, state), []).append(number)

    def set_scenarios(self, key: bytes, scenarios: frozenset[str]) -> None:
        """Say which scenarios a call was observed in; none hides it."""
        number = self._numbers.get(key)
        if number is None:
            return
        self._scenarios[number] = scenarios
        if scenarios:
            self._hidden.discard(number)
        else:
            self._hidden.add(number)

    def fuzzy(
        self,
        asked: Shape,
        *,
        state: bytes,
        min_score: float,
        scenario: str | None = None,
        own_only: bool = False,
    ) -> Neighbour | None:
        bucket = self._buckets.get((asked.gate, state), []) if asked.texts else []
        near = [number for number in bucket if self._shown(number, scenario, own_only)]
        if len(near) > _MAX_FUZZY_TRIED:
            scores = self._scores(asked)
            near = heapq.nsmallest(
                _MAX_FUZZY_TRIED, near, key=lambda n: (-scores[n], self._keys[n])
            )
        found = []
        for number in near:
            verdict = match.fuzzy(asked, self._shapes[number], min_score)
            if verdict.refused is None:
                foreign = scenario not in self._scenarios[number]
                found.append((-verdict.score, foreign, self._keys[number]))
        if not found:
            return None
        score, _, key = min(found)
        return Neighbour(key=key, score=-score)

    def best(
        self,
        asked: Shape,
        *,
        min_score: float,
        state: bytes | None = None,
        scenario: str | None = None,
        own_only: bool = False,
    ) -> Neighbour | None:
        scores = self._scores(asked)
        if state is not None:
            states = np.frombuffer(self._states, dtype=np.int64)
            scores[states != self._state_ids.get(state, -1)] = -1.0
        if own_only:
            scores[[scenario not in scenarios for scenarios in self._scenarios]] = -1.0
        if not scores.size or (top := scores.max()) < 0.0:
            return None
        ties = np.flatnonzero(scores >= top - _TIE)
        chosen = min(
            (int(number) for number in ties),
            key=lambda number: (scenario not in self._scenarios[number], self._keys[number]),
        )
        score = self._overlap(asked, chosen)
        return None if score < min_score else Neighbour(key=self._keys[chosen], score=score)

    def ranked(self, asked: Shape, count: int) -> list[Neighbour]:
        scores = self._scores(asked)
        if scores.size > count:
            floor = np.partition(scores, scores.size - count)[scores.size - count]
            near = np.flatnonzero(scores >= floor - _TIE)
        else:
            near = np.arange(scores.size)
        scored = [
            (-self._overlap(asked, int(number)), self._keys[int(number)])
            for number in near
            if int(number) not in self._hidden
        ]
        return [Neighbour(key=key, score=-score) for score, key in sorted(scored)[:count]]

    def _shown(self, number: int, scenario: str | None, own_only: bool) -> bool:
        if number in self._hidden:
            return False
        return not own_only or scenario in self._scenarios[number]

    def _overlap(self, asked: Shape, number: int) -> float:
        return match.overlap(match.features(asked), match.features(self._shapes[number]))

    def _scores(self, asked: Shape) -> npt.NDArray[Any]:
        """Return the overlap of every call with the one asked for; -1 where it is hidden."""
        weighted = match.features(asked)
        shared = np.zeros(len(self._keys))
        for feature, weight in weighted.items():
            if feature in self._postings:
                shared[np.frombuffer(self._postings[feature], dtype=np.int64)] += weight
        total = np.frombuffer(self._weights, dtype=np.float64) + sum(weighted.values())
        # Two calls without arguments overlap wholly.
        scores = np.where(total > 0.0, 2.0 * shared / np.maximum(total, 1e-9), 1.0)
        scores[list(self._hidden)] = -1.0
        return scores
