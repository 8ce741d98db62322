"""Simulated tools for the cache's benchmark: a hotel search of any size, and a catalogue of many tools.

Every entry is a pure function of (seed, number), so that a cache of 1e6 entries holds the cache of
1e5 and no list of a million calls is kept. Texts are made of invented words with skewed
frequencies; cities, limits and orders are skewed as well.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cacherl.cache.identity.normalise import plan_of
from cacherl.cache.identity.state import NO_WRITES
from cacherl.cache.storage.entry import CacheEntry, Kept, Observation, RecordedCall
from cacherl.core.tasks import Split
from cacherl.core.tools import Effects, Source, ToolSpec

VERSION = 1
"""Raise it when the same numbers would give other entries: what was built before is then built anew."""

SPACE = "travel"
SORTS = ("price", "rating", "distance", "popularity")
LIMITS = (10, 5, 20, 50)
CITIES = 1000
WORDS = 4000
DAYS = 365
_CHUNK = 20_000

HOTELS = ToolSpec(
    name="search_hotels",
    description="Search hotels in a city.",
    parameters={
        "type": "object",
        "properties": {
            "query": {"type": "string", "x-kind": "text"},
            "city": {"type": "string"},
            "check_in": {"type": "string", "format": "date"},
            "limit": {"type": "integer"},
            "sort": {"type": "string", "enum": list(SORTS)},
        },
        "required": ["query", "city", "check_in", "limit", "sort"],
    },
    effects=Effects(reads=("hotel:*",)),
)

_FILLERS = ("", "please find ", "show me ", "i want a ", "can you get the ", "we need ")

U64 = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]


def _mixed(numbers: U64, slot: int, seed: int) -> U64:
    """Return splitmix64 of (number, slot, seed): independent uniform bits."""
    start = (seed * 0x632BE59BD9B4E019 + (slot + 1) * 0xD1B54A32D192ED03) & (2**64 - 1)
    z = numbers * np.uint64(0x9E3779B97F4A7C15) + np.uint64(start)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


class _Skewed:
    """A choice among `count` places, weighed 1 / (rank + flat)."""

    def __init__(self, count: int, flat: float) -> None:
        weights = 1.0 / (np.arange(count) + flat)
        self._edges = np.cumsum(weights / weights.sum())
        self._edges[-1] = 1.0

    def pick(self, bits: U64) -> Ints:
        uniform = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return np.searchsorted(self._edges, uniform, side="right").astype(np.int64)


def invented_words(count: int, seed: int, syllables: tuple[int, int] = (2, 4)) -> list[str]:
    """Return distinct words that are in no lexicon of the matcher and end on no plural."""
    draw = random.Random(seed)  # noqa: S311 - no secret
    heads, vowels, tails = "bdfgklmnprtvz", "aeiou", ("", "n", "r", "l", "ck", "m")
    words: dict[str, None] = {}
    while len(words) < count:
        parts = [draw.choice(heads) + draw.choice(vowels) for _ in range(draw.randint(*syllables))]
        word = "".join(parts) + draw.choice(tails)
        if len(word) > 4:
            words[word] = None
    return list(words)


@dataclass(frozen=True, slots=True)
class Call:
    """The arguments of one recorded call, in parts."""

    number: int
    filler: int
    words: tuple[str, ...]
    city: str
    check_in: str
    limit: int
    sort: str

    @property
    def query(self) -> str:
        """The text."""
        return _FILLERS[self.filler] + " ".join(self.words)

    @property
    def arguments(self) -> dict[str, Any]:
        """What a model would write."""
        return {
            "query": self.query,
            "city": self.city,
            "check_in": self.check_in,
            "limit": self.limit,
            "sort": self.sort,
        }

    @property
    def canonical(self) -> bytes:
        """The same in normal form; `Hotels.check` holds it against the plan."""
        return (
            f'{{"check_in":"{self.check_in}","city":"{self.city}","limit":{self.limit},'
            f'"query":"{" ".join(self.query.split())}","sort":"{self.sort}"}}'
        ).encode()


class Hotels:
    """The calls of one tool. `small` results take a tenth of the space."""

    def __init__(self, seed: int = 0, *, small: bool = False) -> None:
        self.seed = seed
        self.small = small
        self.words = invented_words(WORDS, seed)
        self.cities = [w.capitalize() for w in invented_words(CITIES, seed + 1, (3, 4))]
        self._word = _Skewed(WORDS, 30.0)
        self._city = _Skewed(CITIES, 10.0)
        self._limit = _Skewed(len(LIMITS), 0.4)
        self._sort = _Skewed(len(SORTS), 0.6)
        self._days = [str(np.datetime64("2026-01-01") + day) for day in range(DAYS)]

    def calls(self, numbers: Sequence[int] | Ints) -> list[Call]:
        """Return the calls with these numbers."""
        asked = np.asarray(numbers, dtype=np.uint64)

        def mixed(slot: int) -> U64:
            return _mixed(asked, slot, self.seed)

        words = np.stack([self._word.pick(mixed(20 + place)) for place in range(8)], axis=1)
        columns = zip(
            asked.tolist(),
            (mixed(0) % np.uint64(len(_FILLERS))).tolist(),
            (mixed(1) % np.uint64(5) + np.uint64(4)).tolist(),
            words.tolist(),
            self._city.pick(mixed(2)).tolist(),
            (mixed(3) % np.uint64(DAYS)).tolist(),
            self._limit.pick(mixed(4)).tolist(),
            self._sort.pick(mixed(5)).tolist(),
            strict=True,
        )
        vocabulary, cities, days = self.words, self.cities, self._days
        return [
            Call(
                number,
                filler,
                tuple([vocabulary[word] for word in said[:length]]),
                cities[city],
                days[day],
                LIMITS[limit],
                SORTS[sort],
            )
            for number, filler, length, said, city, day, limit, sort in columns
        ]

    def result(self, number: int) -> str:
        """Return what the tool answered: about 600 B, or 60 B where small."""
        if self.small:
            return f'{{"total":{number % 97},"ids":["H{number}","H{number + 1}"],"page":1}}'
        hotels = ",".join(
            f'{{"id":"H{number:08d}{place}","name":"Hotel {self.words[(number + place) % WORDS]}",'
            f'"stars":{(number + place) % 5 + 1},"price":{40 + (number * 7 + place * 13) % 300}.5,'
            f'"rating":{5 + (number + place) % 50 / 10},"free_cancellation":true}}'
            for place in range(5)
        )
        return f'{{"hotels":[{hotels}],"total":{number % 97},"currency":"EUR"}}'

    def entry(self, call: Call) -> CacheEntry:
        """Return the call as it is kept."""
        observation = Observation(
            text=self.result(call.number),
            source=Source.SIMULATED,
            scenario=f"s{call.number % 1000}",
            split=Split.TRAIN,
            latency_s=0.25,
            recorded_at=1.75e9 + call.number,
        )
        return CacheEntry(
            call=RecordedCall.of(SPACE, HOTELS.name, call.canonical, NO_WRITES),
            kept=(Kept(observation=observation, times=1),),
        )

    def entries(self, count: int, start: int = 0) -> Iterator[CacheEntry]:
        """Yield the entries from `start`, in order of recording."""
        for low in range(start, start + count, _CHUNK):
            for call in self.calls(range(low, min(low + _CHUNK, start + count))):
                yield self.entry(call)

    def check(self) -> None:
        """Hold what is written here by hand against the cache's own normalisation."""
        plan = plan_of(HOTELS)
        for call in self.calls(range(50)):
            if plan.normal(call.arguments).canonical != call.canonical:
                raise AssertionError(f"not the normal form: {call.canonical!r}")

    # ---- other calls than the recorded ones

    def reworded(self, call: Call, draw: random.Random) -> Call:
        """Return the call in other words that say the same: FUZZY should find the recorded one.

        Filler words change; in half of the calls a content word is left out or added.
        """
        words = list(call.words)
        kind = draw.randrange(4)
        if kind == 0 and len(words) >= 5:
            del words[draw.randrange(len(words))]
        elif kind == 1:
            words.insert(draw.randrange(len(words) + 1), self._foreign_word(words, draw))
        return _with(call, words=tuple(words), filler=self._other_filler(call, draw))

    def perturbed(self, call: Call, changed: int, draw: random.Random) -> Call:
        """Return the call with a content word replaced and `changed` identity fields changed."""
        words = list(call.words)
        words[draw.randrange(len(words))] = self._foreign_word(words, draw)
        other = _with(call, words=tuple(words), filler=self._other_filler(call, draw))
        for name in draw.sample(("city", "check_in", "limit", "sort"), changed):
            choices: Sequence[Any] = {
                "city": self.cities,
                "check_in": self._days,
                "limit": LIMITS,
                "sort": SORTS,
            }[name]
            value = draw.choice(choices)
            while value == getattr(call, name):
                value = draw.choice(choices)
            other = _with(other, **{name: value})
        return other

    def _foreign_word(self, words: Sequence[str], draw: random.Random) -> str:
        word = draw.choice(self.words)
        while word in words:
            word = draw.choice(self.words)
        return word

    def _other_filler(self, call: Call, draw: random.Random) -> int:
        return (call.filler + draw.randrange(1, len(_FILLERS))) % len(_FILLERS)


def _with(call: Call, **changes: Any) -> Call:
    values = {name: getattr(call, name) for name in Call.__slots__}
    return Call(**values | changes)


# ---- the paper's scale: many tools, few entries each

PAPER_TOOLS = 1185
PAPER_ENTRIES = 40_850

_FIELDS: dict[str, dict[str, Any]] = {
    "query": {"type": "string", "x-kind": "text"},
    "city": {"type": "string"},
    "date": {"type": "string", "format": "date"},
    "limit": {"type": "integer"},
    "sort": {"type": "string", "enum": list(SORTS)},
    "account_id": {"type": "string", "x-kind": "id"},
}


@dataclass(frozen=True, slots=True)
class Asked:
    """One call of the catalogue, and the tier that should answer it."""

    tool: str
    arguments: dict[str, Any]
    expected: str


class Catalogue:
    """1,185 tools with 40,850 entries, as many per tool as a skewed world would have."""

    def __init__(
        self, seed: int = 0, tools: int = PAPER_TOOLS, entries: int = PAPER_ENTRIES
    ) -> None:
        self.seed = seed
        draw = random.Random(seed)  # noqa: S311 - no secret
        self._words = invented_words(WORDS, seed)
        self.specs = tuple(self._spec(number, draw) for number in range(tools))
        weights = 1.0 / (np.arange(tools) + 20.0)
        counts = np.maximum(1, np.floor(weights / weights.sum() * (entries - tools))).astype(int)
        counts[0] += entries - counts.sum()
        self._asked: list[tuple[ToolSpec, dict[str, Any]]] = []
        for spec, count in zip(self.specs, counts.tolist(), strict=True):
            known: set[str] = set()
            while len(known) < count:
                arguments = self._arguments(spec, draw)
                if repr(arguments) not in known:
                    known.add(repr(arguments))
                    self._asked.append((spec, arguments))

    def _spec(self, number: int, draw: random.Random) -> ToolSpec:
        # Two in three take free text; each has a field of many values.
        names = ["query" if number % 3 else "account_id"]
        names += draw.sample(sorted(_FIELDS.keys() - names), draw.randint(1, 4))
        return ToolSpec(
            name=f"tool_{number}_{self._words[number % WORDS]}",
            description="",
            parameters={
                "type": "object",
                "properties": {name: _FIELDS[name] for name in names},
                "required": names,
            },
            effects=Effects(reads=("*",)),
        )

    def _arguments(self, spec: ToolSpec, draw: random.Random) -> dict[str, Any]:
        return {name: self._value(name, draw) for name in spec.parameters["properties"]}

    def _value(self, name: str, draw: random.Random) -> Any:
        if name == "query":
            return " ".join(draw.sample(self._words, draw.randint(4, 8)))
        if name == "city":
            return draw.choice(self._words).capitalize()
        if name == "date":
            return f"2026-{draw.randint(1, 12):02d}-{draw.randint(1, 28):02d}"
        if name == "limit":
            return draw.randint(1, 50)
        if name == "sort":
            return draw.choice(SORTS)
        return f"A{draw.randrange(10**9):09d}"

    def entries(self) -> Iterator[CacheEntry]:
        """Yield the entries, in order of recording."""
        hotels = Hotels(self.seed)
        for number, (spec, arguments) in enumerate(self._asked):
            call = RecordedCall.of(
                SPACE, spec.name, plan_of(spec).normal(arguments).canonical, NO_WRITES
            )
            observation = Observation(
                text=hotels.result(number),
                source=Source.SIMULATED,
                scenario=f"s{number % 200}",
                split=Split.TRAIN,
                recorded_at=1.75e9 + number,
            )
            yield CacheEntry(call=call, kept=(Kept(observation=observation, times=1),))

    def asked(self, count: int, mix: dict[str, float], seed: int) -> list[Asked]:
        """Return calls, so many of each kind: exact, fuzzy, best_effort, miss."""
        draw = random.Random(f"{self.seed}|{seed}")  # noqa: S311 - no secret
        kinds = draw.choices(list(mix), weights=list(mix.values()), k=count)
        return [self._asked_as(kind, draw) for kind in kinds]

    def _asked_as(self, kind: str, draw: random.Random) -> Asked:
        spec, recorded = draw.choice(self._asked)
        while kind in ("fuzzy", "best_effort") and "query" not in recorded:
            spec, recorded = draw.choice(self._asked)
        arguments = dict(recorded)
        if kind == "fuzzy":
            arguments["query"] = "please find " + arguments["query"]
        elif kind == "best_effort":
            words = str(arguments["query"]).split()
            words[-1] = draw.choice(self._words)
            arguments["query"] = " ".join(words)
        elif kind == "miss":
            arguments = {name: self._value(name, draw) for name in recorded}
        return Asked(tool=spec.name, arguments=arguments, expected=kind)
