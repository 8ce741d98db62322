"""What goes wrong in the world, put through the whole cache on every kind of store."""

from __future__ import annotations

import asyncio
import itertools
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cacherl.cache.episodes.ledger import MissPolicy
from cacherl.cache.lookup.draws import Draw
from cacherl.cache.lookup.hit import Hit, Scope, Viewpoint
from cacherl.cache.lookup.settings import DrawPolicy, Settings, ToolRules
from cacherl.cache.lookup.tool_cache import ToolCache
from cacherl.cache.storage.entry import RecordedCall
from cacherl.cache.storage.freeze import freeze
from cacherl.cache.storage.snapshot import SnapshotStore
from cacherl.cache.storage.sqlite import SqliteStore
from cacherl.cache.storage.store import CacheStore, MemoryStore
from cacherl.core.tasks import Split
from cacherl.core.tools import Effects, ErrorClass, Source, Tier, ToolSpec
from tests.cache.recordings import (
    CANCEL,
    GET,
    MYSTERY,
    SEARCH,
    SPACE,
    call,
    result,
    seen,
    task,
    trajectory,
)
from tests.redis_server import RedisServer, running_redis

Fill = Callable[[CacheStore], None]
Open = Callable[[Fill], CacheStore]
STATE = b"0123456789abcdef"


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer | None]:
    """A server, or None where there is no program for one."""
    with ExitStack() as stack:
        has_one = shutil.which("redis-server") is not None
        yield stack.enter_context(running_redis()) if has_one else None


class Stores:
    """The same recordings on every kind of store."""

    def __init__(self, folder: Path, server: RedisServer | None) -> None:
        self._folder, self._server = folder, server
        self._made = 0
        self._open: list[CacheStore] = []

    def filled(self, fill: Fill) -> dict[str, CacheStore]:
        self._made += 1
        stores: dict[str, CacheStore] = {
            "memory": MemoryStore(),
            "sqlite": SqliteStore(self._folder / f"{self._made}.sqlite", mode="write"),
        }
        if self._server is not None:
            from cacherl.adapters.redis_store import RedisStore

            prefix = f"{self._folder.name}:{self._made}"
            stores["redis"] = RedisStore(self._server.unix_url, mode="write", prefix=prefix)
        for store in stores.values():
            fill(store)
        self._open += stores.values()
        for name in ("memory", "sqlite"):
            stores[f"frozen {name}"] = self.frozen(stores[name])
        return stores

    def frozen(self, store: CacheStore) -> CacheStore:
        path = self._folder / f"{len(self._open)}.snapshot"
        freeze(store, path)
        self._open.append(SnapshotStore(path))
        return self._open[-1]

    def close(self) -> None:
        while self._open:
            self._open.pop().close()


@pytest.fixture
def stores(tmp_path: Path, server: RedisServer | None) -> Iterator[Stores]:
    made = Stores(tmp_path, server)
    yield made
    made.close()


def keep(store: CacheStore, spec: ToolSpec, arguments: dict[str, Any], text: str) -> None:
    asked = call(spec, **arguments)
    ToolCache(store).record(
        SPACE, spec, asked, result(asked, text), scenario="s1", split=Split.TRAIN, recorded_at=1.0
    )


def said(hit: Hit) -> str | None:
    return None if hit.observation is None else hit.observation.text


# ---- every store answers the same

TEXTS = ["red shoes", "please find the red shoes", "red  shoes", "blue shoes", "red shoes 2",
         "not red shoes", "", "the shoes red", "shoes from A to B", "shoes from B to A", "\ud800",
         "caf\u00e9", "cafe\u0301", "SELECT a FROM b"]  # fmt: skip
ODD_VALUES: list[Any] = [1, 1.0, 1.5, 2**70, float("nan"), None, "1", True, [], [1, 2], [2, 1], {}]


def any_call(rng: random.Random) -> tuple[ToolSpec, dict[str, Any]]:
    spec = rng.choice([GET, SEARCH, SEARCH, SEARCH, CANCEL, MYSTERY])
    if spec is SEARCH:
        return spec, {"query": rng.choice(TEXTS), "shelf": rng.choice(["1", "2"])}
    if spec is MYSTERY:
        return spec, {"q": rng.choice(TEXTS), "n": rng.choice(ODD_VALUES)}
    return spec, {"order_id": rng.choice(["A", "B", "a", "A1", ""])}


def any_recordings(rng: random.Random) -> Fill:
    """Recordings as time brings them: each later than the last."""
    made: list[tuple[ToolSpec, Any, dict[str, Any]]] = []
    for place in range(rng.randrange(1, 40)):
        spec, arguments = any_call(rng)
        asked = call(spec, **arguments)
        error = rng.choice([None, None, None, None, *ErrorClass])
        source = rng.choice([Source.LIVE, Source.LIVE, Source.IMPORTED, Source.TEACHER])
        answer = result(asked, rng.choice(["one", "one", "other"]), error, source=source)
        where = {
            "scenario": rng.choice(["s1", "s1", "s2", "s3"]),
            "split": rng.choice([Split.TRAIN, *Split]),
            "recorded_at": 10.0 * place,
            "occurrence": rng.randrange(3),
            "state_key": rng.choice([b"", b"", STATE]),
        }
        made.append((spec, (asked, answer), where))

    def fill(store: CacheStore) -> None:
        cache = ToolCache(store)
        with store.batch():
            for spec, (asked, answer), where in made:
                cache.record(SPACE, spec, asked, answer, **where)

    return fill


def any_rules(rng: random.Random) -> Settings:
    return Settings(
        tools={
            spec.name: ToolRules(
                max_age_s=rng.choice([None, None, 250.0]),
                draw=rng.choice([None, None, *DrawPolicy]),
                fuzzy_min_score=rng.choice([None, None, 0.4, 2.0]),
                best_effort_min_score=rng.choice([None, 0.0, 2.0]),
            )
            for spec in (GET, SEARCH, CANCEL, MYSTERY)
        }
    )


def any_view(rng: random.Random) -> Viewpoint:
    return Viewpoint(
        scenario=rng.choice([None, "s1", "s2", "s9"]),
        splits=frozenset(rng.sample(list(Split), rng.randrange(1, 4))),
        scope=rng.choice(list(Scope)),
        sources=rng.choice([None, None, frozenset({Source.LIVE})]),
        exclude_scenarios=rng.choice([frozenset(), frozenset(), frozenset({"s1"})]),
        now=rng.choice([None, None, 420.0]),
    )


def any_draw(rng: random.Random) -> Draw:
    return Draw(
        seed=rng.randrange(3),
        rollout=rng.randrange(3),
        occurrence=rng.randrange(3),
        policy=rng.choice(list(DrawPolicy)),
    )


def assert_may_be_seen(hit: Hit, view: Viewpoint, rules: ToolRules) -> None:
    got = hit.observation
    if got is None:
        assert hit.tier is Tier.MISS
        return
    assert got.split in view.splits
    assert view.sources is None or got.source in view.sources
    assert got.scenario not in view.exclude_scenarios
    assert got.error_class is not ErrorClass.TRANSIENT
    assert hit.tier is Tier.EXACT or not got.is_error
    if rules.max_age_s is not None:
        now = 400.0 if view.now is None else view.now
        assert got.recorded_at is not None
        assert got.recorded_at >= now - rules.max_age_s


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1 << 32))
def test_every_store_gives_every_answer_alike_and_none_that_is_hidden(
    tmp_path_factory: pytest.TempPathFactory, server: RedisServer | None, seed: int
) -> None:
    """Whatever is recorded, asked, filtered and drawn: a run does not change with where its cache is."""
    rng = random.Random(seed)
    stores = Stores(tmp_path_factory.mktemp("alike"), server)
    rules = any_rules(rng)
    caches = [
        ToolCache(store, settings=rules, clock=lambda: 400.0)
        for store in stores.filled(any_recordings(rng)).values()
    ]
    for _ in range(20):
        spec, arguments = any_call(rng)
        view, draw = any_view(rng), any_draw(rng)
        state = rng.choice([b"", STATE])
        hits = [
            cache.lookup(SPACE, spec, arguments, state_key=state, view=view, draw=draw)
            for cache in caches
        ]
        assert hits == [hits[0]] * len(hits)
        assert_may_be_seen(hits[0], view, rules.rules(SPACE, spec.name))
    several = [any_call(rng) for _ in range(6)]
    many = [cache.lookup_many(SPACE, several) for cache in caches]
    assert many == [many[0]] * len(many)
    stores.close()


# ---- near misses

FLIGHT = ToolSpec(
    name="find_flights",
    description="",
    parameters={
        "type": "object",
        "properties": {
            "user_id": {"type": "string"},
            "origin": {"type": "string"},
            "destination": {"type": "string"},
            "date": {"type": "string", "format": "date"},
            "request": {"type": "string", "x-kind": "text"},
        },
    },
    effects=Effects(reads=("flight:*",)),
)
CITIES = ["Oslo", "Rome", "Bonn", "Kyiv", "Lima", "Cairo", "Paris", "Delhi"]
WISHES = ["a quiet window seat", "cheap fares with luggage", "nonstop connections", "vegan meals"]
DAYS = ["Monday", "Tuesday", "Friday"]


def flight(rng: random.Random) -> dict[str, Any]:
    here, there = rng.sample(CITIES, 2)
    return {
        "user_id": f"u_{rng.randrange(10**6):06d}",
        "origin": here,
        "destination": there,
        "date": f"2024-{rng.randrange(1, 13):02d}-{rng.randrange(1, 29):02d}",
        "request": (
            f"I want {rng.choice(WISHES)} from {here} to {there} on {rng.choice(DAYS)} "
            f"below {rng.randrange(100, 900)} euros for order A{rng.randrange(10**4):04d}"
        ),
    }


def _other(rng: random.Random, among: list[str], text: str) -> str:
    old = next(each for each in among if each in text)
    return text.replace(old, rng.choice([each for each in among if each != old]))


def _digit(rng: random.Random, text: str) -> str:
    place = rng.choice([at for at, sign in enumerate(text) if sign.isdigit()])
    return text[:place] + str((int(text[place]) + rng.randrange(1, 10)) % 10) + text[place + 1 :]


CHANGES: dict[str, Callable[[random.Random, dict[str, Any]], dict[str, Any]]] = {
    "id": lambda rng, a: {**a, "user_id": _digit(rng, a["user_id"])},
    "date": lambda rng, a: {**a, "date": a["date"][:9] + str((int(a["date"][9]) + 1) % 10)},
    "swap": lambda _, a: {**a, "origin": a["destination"], "destination": a["origin"]},
    "place": lambda rng, a: {**a, "origin": rng.choice([c for c in CITIES if c != a["origin"]])},
    "number in a text": lambda rng, a: {**a, "request": _digit(rng, a["request"])},
    "day in a text": lambda rng, a: {**a, "request": _other(rng, DAYS, a["request"])},
    "wish in a text": lambda rng, a: {**a, "request": _other(rng, WISHES, a["request"])},
    "swap in a text": lambda _, a: {
        **a,
        "request": a["request"]
        .replace(a["origin"], "\0")
        .replace(a["destination"], a["origin"])
        .replace("\0", a["destination"]),
    },
    "negation": lambda rng, a: {
        **a,
        "request": a["request"].replace(
            "I want", rng.choice(["I do not want", "I never want", "I don't want", "no, I want"])
        ),
    },
    "negation in passing": lambda rng, a: {
        **a,
        "request": a["request"].replace(" from ", rng.choice([" not from ", " except from "])),
    },
}


def test_what_means_something_else_is_never_fuzzy_in_ten_thousand_pairs(stores: Stores) -> None:
    """Ids, dates, negations and swaps: through the cache, in memory and frozen, 0 of 10,000."""
    rng = random.Random(20_260)
    calls = [flight(rng) for _ in range(1000)]

    def fill(store: CacheStore) -> None:
        for number, arguments in enumerate(calls):
            keep(store, FLIGHT, arguments, str(number))

    only_fuzzy = Viewpoint(best_effort_min_score=2.0)
    filled = stores.filled(fill)
    for name in ("memory", "frozen memory"):
        cache = ToolCache(filled[name])
        tiers: Counter[str] = Counter()
        for arguments in calls:
            for change in CHANGES.values():
                asked = change(rng, arguments)
                assert asked != arguments
                tiers[cache.lookup(SPACE, FLIGHT, asked, view=only_fuzzy).tier] += 1
        assert tiers == {Tier.MISS: 10_000}, name
        # The gate is no wall: the same in other words passes.
        for number, arguments in enumerate(calls[:100]):
            polite = {**arguments, "request": "Please, " + arguments["request"]}
            hit = cache.lookup(SPACE, FLIGHT, polite, view=only_fuzzy)
            assert (hit.tier, said(hit)) == (Tier.FUZZY, str(number))


# ---- odd values

ODD: list[dict[str, Any]] = [
    {"n": 2**70},
    {"n": 2**70 + 1},
    {"n": float(2**70) * 4},
    {"n": -(2**63) - 1},
    {"n": float("nan")},
    {"n": float("inf")},
    {"n": None},
    {"s": "\ud800"},
    {"s": "\ud801"},
    {"s": "\\ud800"},
    {"s": "\x00"},
    {"s": ""},
    msgspec.json.decode(b'{"twice":1,"twice":2}'),
    {"twice": 1},
    {"deep": [[[[{"a": [{}]}]]]]},
    {},
]


def test_odd_values_are_told_apart_on_every_store(stores: Stores) -> None:
    """NaN, 2^70, half characters and repeated keys (the last one counts) go in and come out."""

    def fill(store: CacheStore) -> None:
        for number, arguments in enumerate(ODD):
            keep(store, MYSTERY, arguments, f"\ud800 {number} \x00 NaN {2**70}")

    for name, store in stores.filled(fill).items():
        cache = ToolCache(store)
        for number, arguments in enumerate(ODD):
            hit = cache.lookup(SPACE, MYSTERY, arguments)
            assert (hit.tier, said(hit)) == (Tier.EXACT, f"\ud800 {number} \x00 NaN {2**70}"), name
        assert len(list(store.entries())) == len(ODD)
        assert cache.lookup(SPACE, MYSTERY, {"twice": 2}).tier is Tier.EXACT


def test_very_large_calls_and_answers_pass_through_the_cache(
    stores: Stores, tmp_path: Path
) -> None:
    """10 MB of arguments, 50 MB of result, on a file and frozen: neither cut nor mixed up."""
    large = {"order_id": "é" * 5_000_000}
    path, frozen = tmp_path / "large.cache", tmp_path / "large.snapshot"
    with ToolCache.open(path, mode="write") as cache:
        keep(cache.store, GET, large, "w" * 50_000_000)
        keep(cache.store, GET, {"order_id": "A"}, "small")
        cache.freeze(frozen)
    for each in (path, frozen):
        with ToolCache.open(each) as cache:
            hit = cache.lookup(SPACE, GET, large)
            assert hit.tier is Tier.EXACT
            assert said(hit) == "w" * 50_000_000
            assert said(cache.lookup(SPACE, GET, {"order_id": "A"})) == "small"
            near = cache.lookup(SPACE, GET, {"order_id": large["order_id"][:-1] + "e"})
            assert near.tier is not Tier.EXACT


# ---- hashes that collide


def test_a_forced_collision_lends_no_answer_under_any_tier(stores: Stores) -> None:
    """128 bits may be made to collide: whoever shares a key is never taken for the call that was meant."""
    shoes, hats = {"query": "red shoes", "shelf": "1"}, {"query": "blue hats", "shelf": "1"}

    def as_recorded(spec: ToolSpec, arguments: dict[str, Any]) -> RecordedCall:
        normal = ToolCache(MemoryStore()).normal(spec, arguments)
        return RecordedCall.of(SPACE, spec.name, normal.canonical, b"")

    key = as_recorded(SEARCH, shoes).key
    impostors = [
        RecordedCall("elsewhere", "search", as_recorded(SEARCH, shoes).canonical, b"", key),
        RecordedCall(SPACE, "get_order", b'{"order_id":"A"}', b"", key),
        RecordedCall(SPACE, "search", as_recorded(SEARCH, hats).canonical, b"", key),
        RecordedCall(SPACE, "search", as_recorded(SEARCH, shoes).canonical, STATE, key),
    ]

    def only_impostors(store: CacheStore) -> None:
        for spec in (GET, SEARCH):
            store.put_tool(SPACE, spec)
        for number, impostor in enumerate(impostors):
            store.add(impostor, seen(f"impostor {number}"))

    def all_of_them(store: CacheStore) -> None:
        only_impostors(store)
        keep(store, SEARCH, shoes, "shoes")

    shoes_reworded = {"query": "please find the red shoes", "shelf": "1"}
    hats_reworded = {"query": "please find the blue hats", "shelf": "1"}
    right = {
        (str(shoes), Tier.EXACT): "shoes",
        (str(shoes_reworded), Tier.FUZZY): "shoes",
        (str(hats_reworded), Tier.FUZZY): "impostor 2",
    }
    near = Viewpoint(best_effort_min_score=2.0)
    nearest = Viewpoint(fuzzy_min_score=2.0, best_effort_min_score=0.0)
    found = set()
    for name, store in stores.filled(only_impostors).items():
        assert ToolCache(store).lookup(SPACE, SEARCH, shoes).tier is not Tier.EXACT, name
    for name, store in stores.filled(all_of_them).items():
        for order in itertools.permutations((shoes, shoes_reworded, hats_reworded)):
            cache = ToolCache(store)  # which remembers, from one to the next
            for asked in order:
                hit = cache.lookup(SPACE, SEARCH, asked, view=near)
                assert said(hit) == right.get((str(asked), hit.tier)), (name, order)
                found.add(hit.tier)
                hit = cache.lookup(SPACE, SEARCH, asked, view=nearest)
                assert '"query"' in (hit.matched_arguments or '"query"'), (name, order)
        assert said(ToolCache(store).lookup(SPACE, SEARCH, shoes)) == "shoes"
    assert found == {Tier.EXACT, Tier.FUZZY, Tier.MISS}


# ---- time


def test_a_clock_that_was_set_back_makes_no_old_answer_young(stores: Stores) -> None:
    """Whoever opens the cache after the clock went back sees no more than before."""

    def fill(store: CacheStore) -> None:
        for order, at in (("old", 1000.0), ("new", 5000.0)):
            asked = call(GET, order_id=order)
            ToolCache(store).record(
                SPACE, GET, asked, result(asked, order),
                scenario="s1", split=Split.TRAIN, recorded_at=at,
            )  # fmt: skip

    rules = Settings(tools={"get_order": ToolRules(max_age_s=100.0)})
    for name, store in stores.filled(fill).items():
        for now, fresh in ((5050.0, True), (1000.0, True), (0.0, True), (9000.0, False)):
            cache = ToolCache(store, settings=rules, clock=lambda now=now: now)  # type: ignore[misc]
            assert cache.lookup(SPACE, GET, {"order_id": "old"}).tier is Tier.MISS, (name, now)
            hit = cache.lookup(SPACE, GET, {"order_id": "new"})
            assert (hit.tier is Tier.EXACT) == fresh, (name, now)


def test_a_clock_that_goes_back_while_recording_makes_no_old_answer_young() -> None:
    """What was recorded by a clock that stood at noon is old at noon, whatever the clock says by then."""
    times = iter([1000.0, 5000.0])
    rules = Settings(tools={"get_order": ToolRules(max_age_s=100.0)})
    now = 1000.0
    cache = ToolCache(MemoryStore(), settings=rules, clock=lambda: next(times, now))
    for order in ("old", "new"):
        asked = call(GET, order_id=order)
        assert cache.record(
            SPACE, GET, asked, result(asked, order), scenario="s", split=Split.TRAIN
        )

    assert cache.lookup(SPACE, GET, {"order_id": "old"}).tier is Tier.MISS
    assert cache.lookup(SPACE, GET, {"order_id": "new"}).tier is Tier.EXACT


# ---- errors and repetitions


@pytest.mark.parametrize("policy", list(DrawPolicy))
def test_a_transient_error_is_never_replayed(stores: Stores, policy: DrawPolicy) -> None:
    """Not even one that another program put into the store: under no tier, draw or miss policy."""

    def fill(store: CacheStore) -> None:
        for spec in (GET, SEARCH):
            store.put_tool(SPACE, spec)
        keep(store, SEARCH, {"query": "red shoes", "shelf": "1"}, "shoes")
        cache = ToolCache(store)
        for spec, arguments in (
            (SEARCH, {"query": "red shoes", "shelf": "1"}),
            (SEARCH, {"query": "warm hats", "shelf": "2"}),
            (GET, {"order_id": "A"}),
        ):
            canonical = cache.normal(spec, arguments).canonical
            recorded = RecordedCall.of(SPACE, spec.name, canonical, b"")
            for text in ("timeout", "rate limit", "timeout"):
                store.add(recorded, seen(text, error=ErrorClass.TRANSIENT))

    anything = Viewpoint(fuzzy_min_score=0.0, best_effort_min_score=0.0)
    asked: list[tuple[ToolSpec, dict[str, Any]]] = [
        (SEARCH, {"query": "red shoes", "shelf": "1"}),
        (SEARCH, {"query": "please the red shoes", "shelf": "1"}),
        (SEARCH, {"query": "warm hats", "shelf": "2"}),
        (SEARCH, {"query": "the warm hats", "shelf": "2"}),
        (GET, {"order_id": "A"}),
        (GET, {"order_id": "B"}),
    ]
    for name, store in stores.filled(fill).items():
        cache = ToolCache(store)
        for spec, arguments in asked:
            for number in range(20):
                draw = Draw(seed=number, rollout=number, occurrence=number % 4, policy=policy)
                hit = cache.lookup(SPACE, spec, arguments, view=anything, draw=draw)
                assert said(hit) == ("shoes" if spec is SEARCH else None), name
        for on_miss in (MissPolicy.ERROR, MissPolicy.BEST_EFFORT):
            episode = cache.episode(task(), draw=policy, on_miss=on_miss)
            for spec, arguments in asked:
                got = asyncio.run(episode.call(spec.name, arguments))
                assert got.error_class is not ErrorClass.TRANSIENT, name


def test_a_repeated_call_is_answered_from_where_it_stands(stores: Stores) -> None:
    """`[a, b, a]`: the second `a` stands behind the write `b`, and neither is taken for the other."""
    a, b = call(GET, order_id="A"), call(CANCEL, order_id="A")
    steps = [(a, "open"), (b, "ok"), (a, "cancelled"), (b, "was cancelled already"), (a, "gone")]

    def fill(store: CacheStore) -> None:
        ToolCache(store).record_trajectory(
            task(), trajectory(*((asked, result(asked, text)) for asked, text in steps))
        )

    for name, store in stores.filled(fill).items():
        cache = ToolCache(store)

        async def play(*asked: Any, cache: ToolCache = cache) -> list[str | None]:
            episode = cache.episode(task())
            found = [await episode.answer(each) for each in asked]
            assert all(each.tier in (Tier.EXACT, Tier.MISS) for each in found if each.state_matched)
            return [each.text if each.tier is Tier.EXACT else None for each in found]

        assert asyncio.run(play(a, b, a, b, a)) == [text for _, text in steps], name
        assert asyncio.run(play(a, a, b, a)) == ["open", "open", "ok", "cancelled"], name
        assert asyncio.run(play(b, a, a)) == ["ok", "cancelled", "cancelled"], name
        assert asyncio.run(play(b, b, a, b)) == ["ok", "was cancelled already", "gone", None], name


def test_a_history_of_ten_thousand_calls_is_recorded_and_replayed_exactly(stores: Stores) -> None:
    """No key, note or file name grows with the episode, and no state is lost on the way."""
    rng = random.Random(10_000)
    cancelled: Counter[str] = Counter()
    steps = []
    for _ in range(10_000):
        order, spec = f"O{rng.randrange(40)}", rng.choice([GET, GET, CANCEL])
        cancelled[order] += spec is CANCEL
        asked = call(spec, order_id=order)
        steps.append((asked, result(asked, f"{order} cancelled {cancelled[order]} times")))
    cache = ToolCache(MemoryStore())
    cache.record_trajectory(task(), trajectory(*steps))
    frozen = stores.frozen(cache.store)

    async def play() -> None:
        episode = ToolCache(frozen).episode(task())
        for asked, answer in steps:
            got = await episode.answer(asked)
            assert (got.tier, got.text) == (Tier.EXACT, answer.text)

    asyncio.run(play())
    assert max(len(entry.call.state) for entry in frozen.entries()) == 16
