"""One tool's recordings, indexed for what is not exact. In memory, built on first use.

FUZZY looks in the bucket of calls that share everything but text; BEST_EFFORT sums the weights of
shared features over an inverted index. Both answer the same whatever order the recordings came
in, save where more than `_MAX_TIES` calls are equally near.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from cacherl.cache import match
from cacherl.cache.key import digest
from cacherl.cache.match import text_profile
from cacherl.cache.normalise import Plan, Shape
from cacherl.core.records import JsonObject

_MAX_FUZZY_TRIED = 12
_FUZZY_BUDGET = 512  # postings looked at
_BEST_BUDGET = 200_000  # postings added up, rarest feature first
_MAX_TIES = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """A recorded call that is not the call asked for."""

    key: bytes
    score: float


class LooseIndex(Protocol):
    """The successful calls of one tool that one set of splits may see, found by nearness.

    In memory (`ToolIndex`) or in a snapshot; both answer the same.
    """

    def __len__(self) -> int: ...

    def fuzzy(
        self,
        asked: Shape,
        *,
        state: bytes,
        min_score: float,
        scenario: str | None = None,
        own_only: bool = False,
    ) -> Neighbour | None:
        """Return the best call that differs in wording only, in the same state, or None.

        Args:
            asked: the call asked for.
            state: its state key.
            min_score: overlap of content words, in [0, 1].
            scenario: breaks ties, before the key does.
            own_only: only calls observed in that scenario.
        """
        ...

    def best(
        self,
        asked: Shape,
        *,
        min_score: float,
        state: bytes | None = None,
        scenario: str | None = None,
        own_only: bool = False,
    ) -> Neighbour | None:
        """Return the nearest call by weighted field overlap, or None below `min_score`.

        Args:
            asked: the call asked for.
            min_score: in [0, 1]; 0 takes any call of the tool.
            state: only calls recorded in this state; None for any.
            scenario: breaks ties, before the key does.
            own_only: only calls observed in that scenario.
        """
        ...

    def ranked(self, asked: Shape, count: int) -> list[Neighbour]:
        """Return the `count` nearest calls in any state, best first."""
        ...


class ToolIndex:
    """A `LooseIndex` that is built call by call, in memory."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._keys: list[bytes] = []
        self._shapes: list[Shape] = []
        self._known: dict[bytes, int] = {}
        self._state_ids: dict[bytes, int] = {}
        self._states = array("i")
        self._scenarios: list[frozenset[str]] = []
        self._by_scenario: dict[str, array[int]] = {}
        self._weights = array("f")
        self._postings: dict[str, array[int]] = {}
        self._bags: dict[bytes, list[int]] = {}
        self._words: dict[bytes, dict[str, list[int]]] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def add(
        self, key: bytes, arguments: JsonObject, state: bytes, scenarios: Iterable[str]
    ) -> None:
        """Index one call; of a key that is known already, only the scenarios are new.

        Args:
            key: the 16-byte hash that the store finds the call by.
            arguments: in normal form.
            state: the call's state key.
            scenarios: whose observations the call has.
        """
        known = self._known.get(key)
        number = len(self._keys) if known is None else known
        before = frozenset[str]() if known is None else self._scenarios[known]
        added = frozenset(scenarios) - before
        for scenario in added:
            self._by_scenario.setdefault(scenario, array("I")).append(number)
        if known is not None:
            self._scenarios[known] = before | added
            return
        self._scenarios.append(added)
        self._known[key] = number
        shape = self._plan.shape(arguments)
        self._keys.append(key)
        self._shapes.append(shape)
        self._states.append(self._state_ids.setdefault(state, len(self._state_ids)))
        weighted = match.features(shape)
        self._weights.append(math.fsum(weighted.values()))
        for feature in weighted:
            postings = self._postings.get(feature)
            if postings is None:
                postings = self._postings[feature] = array("I")
            postings.append(number)
        if shape.texts:
            bucket = _bucket(shape, state)
            stems = _stems(shape)
            self._bags.setdefault(_bag(bucket, stems), []).append(number)
            words = self._words.setdefault(bucket, {})
            for stem in stems:
                words.setdefault(stem, []).append(number)

    def fuzzy(
        self,
        asked: Shape,
        *,
        state: bytes,
        min_score: float,
        scenario: str | None = None,
        own_only: bool = False,
    ) -> Neighbour | None:
        if not asked.texts or state not in self._state_ids:
            return None
        bucket = _bucket(asked, state)
        words = self._words.get(bucket)
        if words is None:
            return None
        only = scenario if own_only else None
        stems = _stems(asked)
        # The same content words overlap wholly: nothing among the others can do better.
        same = self._bags.get(_bag(bucket, stems), [])[:_FUZZY_BUDGET]
        best = self._best_worded(asked, self._own(same, only), min_score, scenario)
        if best is None:
            near = self._sharing_words(stems, words, only)
            best = self._best_worded(asked, near, min_score, scenario)
        return best

    def _own(self, numbers: Sequence[int], only: str | None) -> list[int]:
        if only is None:
            return list(numbers[:_MAX_FUZZY_TRIED])
        own = [number for number in numbers if only in self._scenarios[number]]
        return own[:_MAX_FUZZY_TRIED]

    def _best_worded(
        self, asked: Shape, numbers: Iterable[int], min_score: float, scenario: str | None
    ) -> Neighbour | None:
        best: tuple[float, bool, bytes] | None = None
        for number in numbers:
            verdict = match.fuzzy(asked, self._shapes[number], min_score)
            if verdict.refused is None:
                foreign = scenario not in self._scenarios[number]
                rank = (-verdict.score, foreign, self._keys[number])
                best = rank if best is None or rank < best else best
        return None if best is None else Neighbour(key=best[2], score=-best[0])

    def _sharing_words(
        self, stems: frozenset[str], words: dict[str, list[int]], only: str | None
    ) -> list[int]:
        counts: dict[int, int] = {}
        budget = _FUZZY_BUDGET
        for postings in sorted((words[stem] for stem in stems if stem in words), key=len):
            for number in postings[:budget]:
                if only is None or only in self._scenarios[number]:
                    counts[number] = counts.get(number, 0) + 1
            budget -= len(postings)
            if budget <= 0:
                break
        nearest = sorted(counts, key=lambda number: (-counts[number], self._keys[number]))
        return nearest[:_MAX_FUZZY_TRIED]

    def best(
        self,
        asked: Shape,
        *,
        min_score: float,
        state: bytes | None = None,
        scenario: str | None = None,
        own_only: bool = False,
    ) -> Neighbour | None:
        if own_only and scenario not in self._by_scenario:
            return None
        if not self._keys or (state is not None and state not in self._state_ids):
            return None
        weighted = match.features(asked)
        shared = np.zeros(len(self._keys), dtype=np.float32)
        budget = _BEST_BUDGET
        found = [(f, w) for f, w in weighted.items() if f in self._postings]
        found.sort(key=lambda item: (len(self._postings[item[0]]), item[0]))
        for feature, weight in found:
            postings = self._postings[feature]
            shared[np.frombuffer(postings, dtype=np.uint32)] += weight
            budget -= len(postings)
            if budget <= 0:
                break
        total = np.frombuffer(self._weights, dtype=np.float32) + np.float32(
            math.fsum(weighted.values())
        )
        scores = 2.0 * shared / np.maximum(total, np.float32(1e-9))
        if state is not None:
            states = np.frombuffer(self._states, dtype=np.int32)
            scores = np.where(states == self._state_ids[state], scores, np.float32(-1.0))
        if own_only and scenario is not None:
            own = np.frombuffer(self._by_scenario[scenario], dtype=np.uint32)
            others = np.full(len(self._keys), np.float32(-1.0))
            others[own] = scores[own]
            scores = others
        top = scores.max()
        if top < 0.0:
            return None
        ties = np.flatnonzero(scores >= top - np.float32(1e-6))[:_MAX_TIES]
        chosen = min(
            (int(number) for number in ties),
            key=lambda number: (scenario not in self._scenarios[number], self._keys[number]),
        )
        # The array sums leave out features past the budget: the score that is told is exact.
        score = match.overlap(weighted, match.features(self._shapes[chosen]))
        if score < min_score:
            return None
        return Neighbour(key=self._keys[chosen], score=score)

    def ranked(self, asked: Shape, count: int) -> list[Neighbour]:
        weighted = match.features(asked)
        scored = [
            (-match.overlap(weighted, match.features(shape)), key)
            for shape, key in zip(self._shapes, self._keys, strict=True)
        ]
        return [Neighbour(key=key, score=-score) for score, key in sorted(scored)[:count]]


def _bucket(shape: Shape, state: bytes) -> bytes:
    return digest(shape.gate + b"\n" + state)


def _stems(shape: Shape) -> frozenset[str]:
    return frozenset(stem for _, text in shape.texts for stem in text_profile(text).stems)


def _bag(bucket: bytes, stems: frozenset[str]) -> bytes:
    return digest(bucket + "\n".join(sorted(stems)).encode("utf-8", "surrogatepass"))
