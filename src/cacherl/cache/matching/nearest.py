"""Recorded calls of one tool, found by nearness: what is not exact.

Every call is known by a few 64-bit names: its features, its wording, the bucket of calls that
differ from it in wording only. A name leads to the sorted numbers of the calls that have it
(postings), in memory (`ToolIndex`) or in a snapshot; the search is the same code for both, and a
name that two calls share by chance costs a candidate, never an answer: what is answered has been
compared with the recorded call itself.

FUZZY looks at the calls of the same wording, else at those of the same bucket. BEST_EFFORT adds up
shared weights, rarest feature first, until no call that it has not met can win.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Protocol, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from cacherl.cache.identity.normalise import Plan, Shape
from cacherl.cache.matching import match
from cacherl.cache.matching.match import text_profile
from cacherl.core.records import JsonObject

Numbers: TypeAlias = npt.NDArray[np.uint32]
"""Numbers of calls, ascending where nothing else is said."""
Places: TypeAlias = npt.NDArray[np.intp]
"""The same, as numpy wants them."""
Mask: TypeAlias = npt.NDArray[np.bool_]
Weighted: TypeAlias = tuple[Numbers, float]
"""The calls that have a feature, and its weight."""
Scored: TypeAlias = tuple[Numbers, npt.NDArray[np.float64]]

SMALL_BUCKET = 64
"""Larger buckets are searched by their words."""
_MAX_FUZZY_TRIED = 12
_FUZZY_BUDGET = 1 << 16  # postings looked at
_FIRST_LOOK = 2_048  # postings added up before the first look at what came of it
_BEST_BUDGET = 600_000  # postings added up at most
_FEW = 64
_FEW_POSTINGS = 1_024  # added up one by one rather than in arrays, each step of which has its price
_SHORT_LIST = 50_000  # calls that are compared one by one rather than searched
_EPSILON = 1e-6
MAX_WORDS = (1 << 16) - 1

NOBODY: Numbers = np.zeros(0, dtype=np.uint32)
_BIT_COUNTS = np.array([number.bit_count() for number in range(256)], dtype=np.uint8)


class Neighbour(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A recorded call that is not the call asked for. Equal by key and score."""

    key: bytes
    score: float
    shape: Shape | None = None
    """What was compared: calls may be made to share a key."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Neighbour) and (self.key, self.score) == (other.key, other.score)

    def __hash__(self) -> int:
        return hash((self.key, self.score))


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


# ---- names -------------------------------------------------------------------------------------


def name_of(kind: str, said: bytes) -> int:
    """Return a 64-bit name: equal for equal things, hardly ever for others."""
    # One kind never takes another's name: they are hashed as different families.
    return int.from_bytes(blake2b(said, digest_size=8, person=kind.encode()).digest(), "little")


def state_name(state: bytes) -> int:
    """Return the name of a state."""
    return name_of("state", state)


class Wording:
    """The names by which a call with texts is found by FUZZY."""

    __slots__ = ("_texts", "_words", "bag", "bucket")

    def __init__(self, shape: Shape, state: bytes) -> None:
        said = [str(len(shape.gate)), state.hex()]
        stems = []
        for place, text in shape.texts:
            profile = text_profile(text)
            said.append(f"{place}\x1e{profile.must_agree}")
            stems.append(profile.content)
        gate = shape.gate + _bytes("\n".join(said))
        self.bucket = name_of("bucket", gate)
        """Equal for calls that may match: same identities, state, numbers, negations, quotations."""
        self.bag = name_of("bag", gate + _bytes("\x1d".join(stems)))
        """Equal for calls of one bucket that use the same content words."""
        self._texts = shape.texts
        self._words: tuple[int, ...] | None = None

    @property
    def words(self) -> tuple[int, ...]:
        """The name of each content word in its place; `word_name` tells it in a bucket."""
        if self._words is None:
            words = {
                _word(place, stem)
                for place, text in self._texts
                for stem in text_profile(text).stems
            }
            self._words = tuple(sorted(words))
        return self._words

    @property
    def signature(self) -> int:
        """64 bits; a bit that only one of two calls has is a word that only that one has."""
        signature = 0
        for word in self.words:
            signature |= 1 << (word & 63)
        return signature

    @property
    def single(self) -> bool:
        """One text: then one wording must hold all the words of the other."""
        return len(self._texts) == 1


def worded(shape: Shape, state: bytes) -> Wording | None:
    """Return the names of a call's wording, or None where it has no text."""
    return Wording(shape, state) if shape.texts else None


@lru_cache(maxsize=1 << 16)
def _word(place: str, stem: str) -> int:
    return name_of("word", _bytes(f"{place}~{stem}"))


def word_name(bucket: Any, word: Any) -> Any:
    """Return the name of a word in a bucket: of two names, or of two arrays of them."""
    return bucket ^ word


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Everything an index keeps of one call."""

    features: tuple[int, ...]
    weight: float
    """Of all its features together."""
    wording: Wording | None


_FEATURELESS = name_of("featureless", b"")


def facts(shape: Shape, state: bytes) -> Facts:
    """Return what an index keeps of a call."""
    weighted = match.features(shape)
    names = tuple(feature_name(feature) for feature in weighted)
    return Facts(
        features=names or (_FEATURELESS,),
        weight=math.fsum(weighted.values()),
        wording=worded(shape, state),
    )


def shape_of(plan: Plan, arguments: JsonObject) -> Shape | None:
    """Return what is compared of a call; None where it is nested too deeply for that."""
    try:
        return plan.shape(arguments)
    except RecursionError:
        return None


@lru_cache(maxsize=1 << 16)
def feature_name(feature: str) -> int:
    """Return the name of one of `match.features`."""
    return name_of("feature", _bytes(feature))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


# ---- the search --------------------------------------------------------------------------------


class Search(abc.ABC):
    """The search over postings and columns, whatever they stand on."""

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def _find(self, name: int) -> Numbers:
        """Return the calls that have a name."""

    @abc.abstractmethod
    def _own(self, scenario: str) -> Numbers:
        """Return the calls that this scenario has a success of."""

    @abc.abstractmethod
    def _in_state(self, state: bytes) -> Numbers | None:
        """Return the calls in a state; None where most are, and `_states` has to tell."""

    @abc.abstractmethod
    def _one_state(self) -> bool:
        """Say whether all calls are in one state."""

    @abc.abstractmethod
    def _seen(self, numbers: Numbers) -> Numbers:
        """Return those of the calls that may be seen."""

    @abc.abstractmethod
    def _by_key(self, numbers: Numbers) -> Numbers:
        """Return the calls in the order of their keys."""

    @abc.abstractmethod
    def _all_by_key(self) -> Numbers:
        """Return all calls in the order of their keys."""

    @abc.abstractmethod
    def _states(self) -> npt.NDArray[np.uint64]: ...

    @abc.abstractmethod
    def _weights(self) -> npt.NDArray[np.float32]: ...

    @abc.abstractmethod
    def _wordings(self, numbers: Numbers) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint16]]:
        """Return the calls' signatures and numbers of words."""

    @abc.abstractmethod
    def _shape(self, number: int, state: bytes | None) -> Shape | None:
        """Return the recorded call; None where it stands in another state."""

    @abc.abstractmethod
    def _key(self, number: int) -> bytes: ...

    @abc.abstractmethod
    def _scratch(self) -> npt.NDArray[np.float32]:
        """Return a zero for every call, for this search alone."""

    @abc.abstractmethod
    def _give_back(self, scratch: npt.NDArray[np.float32]) -> None:
        """Take the zeros back."""

    # ---- FUZZY

    def fuzzy(
        self,
        asked: Shape,
        *,
        state: bytes,
        min_score: float,
        scenario: str | None = None,
        own_only: bool = False,
    ) -> Neighbour | None:
        wording = worded(asked, state)
        if wording is None:
            return None
        # The same content words overlap wholly: nothing among the others can do better.
        same = self._seen(self._find(wording.bag))
        if len(same) > 1 or (own_only and len(same)):
            same = self._own_first(self._by_key(same), scenario, own_only)
        found = self._worded_alike(asked, state, same[:_MAX_FUZZY_TRIED], min_score)
        if found is not None:
            return found
        near = self._near_worded(wording, min_score, scenario, own_only)
        if wording.single:  # then their order is that of their scores
            return self._worded_alike(asked, state, near, min_score)
        verdicts = [
            self._worded_alike(asked, state, near[place : place + 1], min_score)
            for place in range(len(near))
        ]
        return max(
            (found for found in verdicts if found is not None),
            key=lambda found: found.score,
            default=None,
        )

    def _worded_alike(
        self, asked: Shape, state: bytes, numbers: Numbers, min_score: float
    ) -> Neighbour | None:
        """Return the first of the calls that may answer."""
        for number in numbers.tolist():
            shape = self._shape(number, state)
            if shape is not None:
                verdict = match.fuzzy(asked, shape, min_score)
                if verdict.refused is None:
                    return Neighbour(key=self._key(number), score=verdict.score, shape=shape)
        return None

    def _own_first(self, numbers: Numbers, scenario: str | None, own_only: bool) -> Numbers:
        if scenario is None:
            return NOBODY if own_only else numbers
        own = _among(self._own(scenario), numbers)
        return numbers[own] if own_only else np.concatenate((numbers[own], numbers[~own]))

    def _near_worded(
        self, wording: Wording, min_score: float, scenario: str | None, own_only: bool
    ) -> Numbers:
        """Return the calls that may match in other words, likeliest first."""
        numbers = self._find(wording.bucket)
        if len(numbers) > SMALL_BUCKET:
            numbers = self._sharing_words(wording, min_score)
        numbers = self._seen(numbers)
        if not len(numbers):
            return NOBODY
        if own_only:
            own = self._own(scenario) if scenario is not None else NOBODY
            numbers = numbers[_among(own, numbers)]
        if len(numbers) < 2:
            return numbers  # to try it costs less than to judge it
        signatures, sizes = self._wordings(numbers)
        asked = np.uint64(wording.signature)
        size = len(wording.words)
        total = np.maximum(sizes.astype(np.float64) + size, 1.0)
        apart = signatures ^ asked
        differing = _bit_count(apart)
        fits = differing <= (1.0 - min_score) * total + _EPSILON
        if wording.single:
            fits &= ((apart & asked) == 0) | ((apart & signatures) == 0)
            scores = 2.0 * np.minimum(sizes, size) / total
            fits &= scores >= min_score - _EPSILON
        else:
            scores = 1.0 - differing / total
        numbers, places = np.unique(numbers[fits], return_index=True)
        scores = scores[fits][places]
        order = self._by_key(numbers)
        scores = scores[np.searchsorted(numbers, order)]
        foreign = np.zeros(len(order), dtype=np.bool_)
        if scenario is not None and len(order) > 1:
            foreign = ~_among(self._own(scenario), order)
        ranked: Numbers = order[np.lexsort((foreign, -scores))]
        return ranked[:_MAX_FUZZY_TRIED]

    def _sharing_words(self, wording: Wording, min_score: float) -> Numbers:
        """Return the calls of a large bucket that have enough words left to reach the score."""
        size = len(wording.words)
        # A wording of the score s lacks at most n (2 - 2s) / (2 - s) of n words: so it has one of
        # the rarest that many and one more.
        spare = int(size * (2.0 - 2.0 * min_score) / (2.0 - min_score) + _EPSILON)
        found = [self._find(word_name(wording.bucket, word)) for word in wording.words]
        found.sort(key=len)
        taken: list[Numbers] = []
        budget = _FUZZY_BUDGET
        for numbers in found[: spare + 1]:
            if taken and len(numbers) > budget:
                break
            taken.append(numbers)
            budget -= len(numbers)
        return np.concatenate(taken) if taken else NOBODY

    # ---- BEST_EFFORT

    def best(
        self,
        asked: Shape,
        *,
        min_score: float,
        state: bytes | None = None,
        scenario: str | None = None,
        own_only: bool = False,
    ) -> Neighbour | None:
        own = NOBODY if scenario is None else self._own(scenario)
        allowed = self._allowed(state, own if own_only else None)
        weighted = match.features(asked)
        numbers, scores = self._nearest(weighted, 1, min_score, allowed)
        if len(numbers):
            numbers = numbers[scores >= scores.max() - _EPSILON]
        elif min_score <= 0.0:
            numbers = self._anyone(own, allowed)
        while len(numbers):
            mine = numbers[_among(own, numbers)]
            number = int(self._by_key(mine if len(mine) else numbers)[0])
            shape = self._shape(number, state)
            if shape is None:  # two states of one name
                numbers = numbers[numbers != number]
                continue
            score = match.overlap(weighted, match.features(shape))
            if score < min_score:
                return None
            return Neighbour(key=self._key(number), score=score, shape=shape)
        return None

    def ranked(self, asked: Shape, count: int) -> list[Neighbour]:
        weighted = match.features(asked)
        everyone = self._allowed(None, None)
        numbers, _ = self._nearest(weighted, count, 0.0, everyone)
        if len(numbers) < count:
            rest = self._seen(self._all_by_key())
            strangers = rest[~_among(np.sort(numbers), rest)]
            numbers = np.concatenate((numbers, strangers[: count - len(numbers)]))
        found = []
        for number in numbers.tolist():
            shape = self._shape(number, None)
            if shape is not None:
                score = match.overlap(weighted, match.features(shape))
                found.append((-score, self._key(number), number, shape))
        return [
            Neighbour(key=key, score=-score, shape=shape)
            for score, key, _, shape in sorted(found, key=lambda one: one[:3])[:count]
        ]

    def _allowed(self, state: bytes | None, only: Numbers | None) -> _Allowed:
        shortest = only
        name = None
        if state is not None:
            here = self._in_state(state)
            if here is None:
                name = None if self._one_state() else np.uint64(state_name(state))
            elif shortest is None:
                shortest = here
            else:
                shortest = shortest[_among(here, shortest)]
        return _Allowed(index=self, state=name, only=shortest)

    def _anyone(self, own: Numbers, allowed: _Allowed) -> Numbers:
        """Return one of the calls: one's own first, then the first by key."""
        mine = allowed.of(own)
        if len(mine):
            return mine
        everyone = self._all_by_key() if allowed.only is None else self._by_key(allowed.only)
        for start in range(0, len(everyone), 4096):
            found = allowed.of(everyone[start : start + 4096])
            if len(found):
                return self._by_key(found)[:1]
        return NOBODY

    def _nearest(
        self, weighted: dict[str, float], count: int, min_score: float, allowed: _Allowed
    ) -> Scored:
        """Return the `count` nearest calls, and all that are as near as the last, with their scores.

        Those that share nothing are left out.
        """
        if not weighted:
            bare = allowed.of(self._find(_FEATURELESS))
            return bare, np.ones(len(bare))
        lists = []
        for feature, weight in weighted.items():
            name = feature_name(feature)
            numbers = self._find(name)
            if len(numbers):
                lists.append((len(numbers), name, numbers, weight))
        lists.sort(key=lambda each: each[:2])
        features = [(numbers, weight) for _, _, numbers, weight in lists]
        total = math.fsum(weighted.values())
        looking = _Looking(self._weights(), allowed, total, count, min_score)
        if allowed.only is not None and len(allowed.only) <= _SHORT_LIST:
            numbers = allowed.of(allowed.only)
            return looking.refined(numbers, np.zeros(len(numbers)), features)
        if sum(len(numbers) for numbers, _ in features) <= _FEW_POSTINGS:
            return looking.summed(features)
        scratch = self._scratch()
        touched: list[Places] = []
        try:
            return looking.search(scratch, touched, features)
        finally:
            for places in touched:
                scratch[places] = 0.0
            self._give_back(scratch)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Allowed:
    """Which calls may answer."""

    index: Search
    state: np.uint64 | None
    only: Numbers | None

    def of(self, numbers: Numbers) -> Numbers:
        """Return those of the calls that may answer."""
        numbers = self.index._seen(numbers)
        if self.state is not None and len(numbers):
            numbers = numbers[self.index._states()[numbers] == self.state]
        if self.only is not None and self.only is not numbers and len(numbers):
            numbers = numbers[_among(self.only, numbers)]
        return numbers


class _Looking:
    """One search for the calls that share the most weight."""

    def __init__(
        self,
        weights: npt.NDArray[np.float32],
        allowed: _Allowed,
        total: float,
        count: int,
        min_score: float,
    ) -> None:
        self._weights = weights
        self._allowed = allowed
        self._total = total
        self._count = count
        self._floor = max(min_score, 2 * _EPSILON)
        """No call below this score can be among the answers."""

    def search(
        self,
        scratch: npt.NDArray[np.float32],
        touched: list[Places],
        features: Sequence[Weighted],
    ) -> Scored:
        """Add up weights in `scratch`, shortest postings first, until nobody else can win.

        `touched` tells the caller which zeros are none any more.
        """
        rest = math.fsum(weight for _, weight in features)
        found: Scored = (NOBODY, np.zeros(0))
        place, looked, goal = 0, 0, _FIRST_LOOK
        done = self._hopeless(rest)
        while place < len(features) and not done:
            goal = max(goal, looked + len(features[place][0]))
            while place < len(features) and not (place and self._hopeless(rest)):
                numbers, weight = features[place]
                if place and looked + len(numbers) > goal:
                    break
                places = numbers.astype(np.intp)  # cast once, not at every use
                touched.append(places)
                scratch[places] += np.float32(weight)
                looked += len(numbers)
                rest -= weight
                place += 1
            following = features[place:]
            numbers, shared = self._likeliest(scratch, touched, following)
            done = not following or self._hopeless(rest)
            done = done or looked + len(following[0][0]) > _BEST_BUDGET
            if done or self._count > 1:
                found = self._look(numbers, shared, following, rest)
                done = done or self._hopeless(rest)
            goal = min(8 * looked, _BEST_BUDGET)
        return found

    def summed(self, features: Sequence[Weighted]) -> Scored:
        """Return the nearest calls by adding everything up: for few postings the quickest way."""
        shared: dict[int, float] = {}
        for numbers, weight in features:
            for number in numbers.tolist():
                shared[number] = shared.get(number, 0.0) + weight
        numbers = self._allowed.of(np.array(sorted(shared), dtype=np.uint32))
        if not len(numbers):
            return NOBODY, np.zeros(0)
        return self.refined(numbers, np.array([shared[each] for each in numbers.tolist()]), ())

    def _hopeless(self, rest: float) -> bool:
        """Say whether a call that was not met yet, which shares `rest` at most, is out of the race."""
        # It weighs as much as it shares at least.
        return 2.0 * rest / (self._total + rest) < self._floor - _EPSILON

    def _likeliest(
        self,
        scratch: npt.NDArray[np.float32],
        touched: Sequence[Places],
        following: Sequence[Weighted],
    ) -> tuple[Numbers, npt.NDArray[np.float32]]:
        """Return all calls met so far and what they share; raise the floor by some that share most."""
        places = touched[0] if len(touched) == 1 else np.concatenate(touched)
        shared = scratch[places]
        numbers = places.astype(np.uint32)
        allowed = self._allowed.of(numbers)
        if allowed is not numbers:
            numbers, shared = allowed, scratch[allowed]
        if self._count == 1 and len(numbers):
            likeliest = numbers[shared >= shared.max()][:16]
            self.refined(likeliest, scratch[likeliest].astype(np.float64), following)
        return numbers, shared

    def _look(
        self,
        numbers: Numbers,
        shared: npt.NDArray[np.float32],
        following: Sequence[Weighted],
        rest: float,
    ) -> Scored:
        """Return the nearest of the calls met so far."""
        # Whoever shares s weighs s at least: below this, even all of the rest is not enough.
        needed = self._floor * self._total / (2.0 - self._floor) - rest - 1e-3
        likely = shared >= needed
        numbers, first = np.unique(numbers[likely], return_index=True)
        return self.refined(numbers, shared[likely][first].astype(np.float64), following)

    def refined(
        self,
        numbers: Numbers,
        shared: npt.NDArray[np.float64],
        following: Sequence[Weighted],
    ) -> Scored:
        """Return the nearest of these calls, once the features that were not added up are."""
        weights = self._weights[numbers] + self._total
        if len(numbers) <= _FEW:
            for values, weight in following:
                shared[_among(values, numbers)] += weight
        else:
            numbers, shared, weights = self._winnowed(numbers, shared, weights, following)
        self._note(shared, weights)
        scores = 2.0 * shared / weights
        kept = scores >= self._floor - _EPSILON
        return numbers[kept], scores[kept]

    def _winnowed(
        self,
        numbers: Numbers,
        shared: npt.NDArray[np.float64],
        weights: npt.NDArray[np.floating[Any]],
        following: Sequence[Weighted],
    ) -> tuple[Numbers, npt.NDArray[np.float64], npt.NDArray[np.floating[Any]]]:
        """Add the features, weightiest first, and drop whoever cannot win any more."""
        rest = math.fsum(weight for _, weight in following)
        for values, weight in sorted(following, key=lambda each: -each[1]):
            self._note(shared, weights)
            kept = 2.0 * (shared + rest) >= (self._floor - _EPSILON) * weights
            numbers, shared, weights = numbers[kept], shared[kept], weights[kept]
            shared[_among(values, numbers)] += weight
            rest -= weight
        return numbers, shared, weights

    def _note(
        self, shared: npt.NDArray[np.float64], weights: npt.NDArray[np.floating[Any]]
    ) -> None:
        """Raise the floor to the last of the best `count`."""
        if len(shared) >= self._count:
            scores = 2.0 * shared / weights
            last = scores.max() if self._count == 1 else np.sort(scores)[-self._count]
            self._floor = max(self._floor, float(last))


def _distinct(numbers: Numbers) -> Numbers:
    """Return the numbers ascending, each once. `np.unique` takes ten times as long."""
    ordered = np.sort(numbers)
    first = np.ones(len(ordered), dtype=np.bool_)
    first[1:] = ordered[1:] != ordered[:-1]
    found: Numbers = ordered[first]
    return found


def _among(known: Numbers, wanted: Numbers) -> Mask:
    """Say of each wanted number whether it is among the known, ascending ones."""
    if not len(known):
        return np.zeros(len(wanted), dtype=np.bool_)
    places = known.searchsorted(wanted)
    found: Mask = known.take(places, mode="clip") == wanted
    return found


def _bit_count(numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    counts: npt.NDArray[np.int64] = (
        _BIT_COUNTS[numbers.view(np.uint8)].reshape(-1, 8).sum(axis=1, dtype=np.int64)
    )
    return counts


# ---- in memory ---------------------------------------------------------------------------------


class _Column:
    """An array that grows. Views of it stay valid: nothing is ever moved under them."""

    def __init__(self, kind: Any, *values: Any) -> None:
        self._values = np.zeros(8, dtype=kind)
        self._length = 0
        for value in values:
            self.append(value)

    def __len__(self) -> int:
        return self._length

    def append(self, value: Any) -> None:
        if self._length == len(self._values):
            grown = np.zeros(2 * self._length, dtype=self._values.dtype)
            grown[: self._length] = self._values
            self._values = grown
        self._values[self._length] = value
        self._length += 1

    @property
    def values(self) -> npt.NDArray[Any]:
        return self._values[: self._length]


class ToolIndex(Search):
    """A `LooseIndex` that is built call by call, in memory."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._keys: list[bytes] = []
        self._shapes: list[Shape] = []
        self._state_keys: list[bytes] = []
        self._wordings_of: list[Wording | None] = []
        self._known: dict[bytes, int] = {}
        self._scenarios: list[frozenset[str]] = []
        self._by_scenario: dict[str, _Column] = {}
        self._unsorted: set[str] = set()
        self._postings: dict[int, int | _Column] = {}
        self._weight = _Column(np.float32)
        self._state = _Column(np.uint64)
        self._signature = _Column(np.uint64)
        self._size = _Column(np.uint16)
        self._high = _Column(np.uint64)
        self._low = _Column(np.uint64)

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
        if known is not None:
            self._add_scenarios(known, frozenset(scenarios))
            return
        shape = shape_of(self._plan, arguments)
        if shape is None:
            return
        number = len(self._keys)
        self._add_scenarios(number, frozenset(scenarios))
        known_facts = facts(shape, state)
        wording = known_facts.wording
        self._known[key] = number
        self._keys.append(key)
        self._shapes.append(shape)
        self._state_keys.append(state)
        self._wordings_of.append(wording)
        self._weight.append(known_facts.weight)
        self._state.append(state_name(state))
        self._signature.append(0 if wording is None else wording.signature)
        self._size.append(0 if wording is None else min(len(wording.words), MAX_WORDS))
        self._high.append(int.from_bytes(key[:8], "big"))
        self._low.append(int.from_bytes(key[8:16], "big"))
        for name in (*known_facts.features, state_name(state)):
            self._post(name, number)
        if wording is not None:
            self._post(wording.bag, number)
            self._post(wording.bucket, number)
            self._post_words(wording, number)

    def _add_scenarios(self, number: int, scenarios: frozenset[str]) -> None:
        if number == len(self._scenarios):
            self._scenarios.append(frozenset())
        before = self._scenarios[number]
        self._scenarios[number] = before | scenarios
        for scenario in scenarios - before:
            column = self._by_scenario.setdefault(scenario, _Column(np.uint32))
            if len(column) and number < column.values[-1]:
                self._unsorted.add(scenario)
            column.append(number)

    def _post(self, name: int, number: int) -> None:
        known = self._postings.get(name)
        if known is None:
            self._postings[name] = number  # most names have one call: no array for them
        elif isinstance(known, int):
            self._postings[name] = _Column(np.uint32, known, number)
        else:
            known.append(number)

    def _post_words(self, wording: Wording, number: int) -> None:
        bucket = self._postings[wording.bucket]
        size = 1 if isinstance(bucket, int) else len(bucket)
        if size <= SMALL_BUCKET or isinstance(bucket, int):
            return
        for each in bucket.values.tolist() if size == SMALL_BUCKET + 1 else (number,):
            known = self._wordings_of[each]
            for word in known.words if known is not None else ():
                self._post(word_name(wording.bucket, word), each)

    # ---- what the search asks

    def _find(self, name: int) -> Numbers:
        known = self._postings.get(name)
        if known is None:
            return NOBODY
        return np.array((known,), dtype=np.uint32) if isinstance(known, int) else known.values

    def _own(self, scenario: str) -> Numbers:
        column = self._by_scenario.get(scenario)
        if column is None:
            return NOBODY
        return np.sort(column.values) if scenario in self._unsorted else column.values

    def _in_state(self, state: bytes) -> Numbers | None:
        here = self._find(state_name(state))
        return None if len(here) == len(self._keys) else here

    def _one_state(self) -> bool:
        return True  # where it is asked

    def _seen(self, numbers: Numbers) -> Numbers:
        return numbers

    def _by_key(self, numbers: Numbers) -> Numbers:
        if len(numbers) < 2:
            return numbers
        order = np.lexsort((self._low.values[numbers], self._high.values[numbers]))
        ordered: Numbers = numbers[order]
        return ordered

    def _all_by_key(self) -> Numbers:
        return self._by_key(np.arange(len(self._keys), dtype=np.uint32))

    def _states(self) -> npt.NDArray[np.uint64]:
        return self._state.values

    def _weights(self) -> npt.NDArray[np.float32]:
        return self._weight.values

    def _wordings(self, numbers: Numbers) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint16]]:
        return self._signature.values[numbers], self._size.values[numbers]

    def _shape(self, number: int, state: bytes | None) -> Shape | None:
        if state is not None and self._state_keys[number] != state:
            return None
        return self._shapes[number]

    def _key(self, number: int) -> bytes:
        return self._keys[number]

    def _scratch(self) -> npt.NDArray[np.float32]:
        return np.zeros(len(self._keys), dtype=np.float32)

    def _give_back(self, scratch: npt.NDArray[np.float32]) -> None:
        """Zeros of this size are cheap to make."""
