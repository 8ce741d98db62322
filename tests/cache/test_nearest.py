"""The index answers what comparing with every recording would answer."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacherl.cache.identity.key import digest
from cacherl.cache.identity.normalise import Plan, plan_of
from cacherl.cache.identity.state import NO_WRITES
from cacherl.cache.matching import match, nearest
from cacherl.cache.matching.nearest import LooseIndex, Neighbour, ToolIndex
from cacherl.cache.storage.entry import RecordedCall
from cacherl.cache.storage.freeze import freeze
from cacherl.cache.storage.snapshot import SnapshotStore
from cacherl.cache.storage.store import MemoryStore
from cacherl.core.records import JsonObject
from cacherl.core.tasks import Split
from cacherl.core.tools import Effects, ErrorClass, ToolSpec
from tests.cache.recordings import SPACE, seen

SPEC = ToolSpec(
    name="find",
    description="",
    parameters={
        "type": "object",
        "properties": {
            "query": {"type": "string", "x-kind": "text"},
            "note": {"type": "string", "x-kind": "text"},
            "city": {"type": "string"},
            "limit": {"type": "integer"},
        },
    },
    effects=Effects(reads=("thing:*",)),
)
PLAN: Plan = plan_of(SPEC)
OTHER_STATE = b"0123456789abcdef"
CALLS = st.lists(
    st.tuples(
        st.fixed_dictionaries(
            {
                "query": st.sampled_from(
                    ["red shoes", "the red shoe", "red shoes size", "blue hat", "hat blue warm"]
                )
            },
            optional={"city": st.sampled_from(["Oslo", "Rome"]), "limit": st.integers(1, 3)},
        ),
        st.sampled_from([NO_WRITES, OTHER_STATE]),
    ),
    min_size=1,
    max_size=12,
)
Calls = list[tuple[JsonObject, bytes]]


def key_of(arguments: JsonObject, state: bytes) -> bytes:
    return digest(PLAN.normal(arguments).canonical + state)


def index_of(calls: Calls) -> ToolIndex:
    index = ToolIndex(PLAN)
    for arguments, state in calls:
        index.add(key_of(arguments, state), PLAN.normal(arguments).arguments, state, ("s",))
    return index


@given(CALLS, st.data())
def test_the_nearest_call_is_the_nearest(calls: Calls, data: st.DataObject) -> None:
    """Postings and budgets are speed, not another answer."""
    asked, state = data.draw(st.sampled_from(calls))
    asked = asked | data.draw(st.sampled_from([{}, {"city": "Bonn"}, {"query": "green tie"}]))
    shape = PLAN.shape(PLAN.normal(asked).arguments)
    same_state = [call for call in calls if call[1] == state]
    best = min(
        (
            -match.overlap(match.features(shape), match.features(PLAN.shape(arguments))),
            key_of(arguments, where),
        )
        for arguments, where in same_state
    )
    found = index_of(calls).best(shape, min_score=0.0, state=state)

    assert found is not None
    assert found.score == -best[0]
    assert found.key == best[1]


@given(CALLS, st.randoms(use_true_random=False))
def test_the_order_of_recording_decides_nothing(calls: Calls, rng: random.Random) -> None:
    """Two builds of one cache give one training run."""
    shuffled = list(calls)
    rng.shuffle(shuffled)
    asked = PLAN.shape(PLAN.normal({"query": "red shoes", "city": "Oslo"}).arguments)
    one, other = index_of(calls), index_of(shuffled)

    for state in (NO_WRITES, OTHER_STATE):
        assert one.fuzzy(asked, state=state, min_score=0.8) == other.fuzzy(
            asked, state=state, min_score=0.8
        )
        assert one.best(asked, min_score=0.0, state=state) == other.best(
            asked, min_score=0.0, state=state
        )


@given(CALLS)
def test_a_fuzzy_answer_passes_the_gate_in_the_same_state(calls: Calls) -> None:
    """The bucket is a hash; what it holds is still compared."""
    asked = {"query": "please the red shoes", "limit": 1}
    shape = PLAN.shape(PLAN.normal(asked).arguments)
    found = index_of(calls).fuzzy(shape, state=NO_WRITES, min_score=0.8)
    accepted = {
        key_of(arguments, state)
        for arguments, state in calls
        if state == NO_WRITES
        and match.fuzzy(shape, PLAN.shape(PLAN.normal(arguments).arguments)).refused is None
    }

    assert (found is None) == (not accepted)
    assert found is None or found.key in accepted


def test_one_large_bucket_still_finds_the_wording() -> None:
    """A tool whose only argument is text has one bucket: all its recordings."""
    rng = random.Random(7)
    words = [f"{a}{b}" for a in "klmnprst" for b in ("ol", "ar", "em", "ut", "is", "on")]
    calls: Calls = [({"query": " ".join(rng.sample(words, 5))}, NO_WRITES) for _ in range(3000)]
    index = index_of(calls)

    for arguments, _ in calls[::300]:
        asked = {"query": f"please find {arguments['query']} for me"}
        found = index.fuzzy(
            PLAN.shape(PLAN.normal(asked).arguments), state=NO_WRITES, min_score=0.8
        )
        assert found is not None
        assert found.score == 1.0


def test_an_empty_index_finds_nothing() -> None:
    """A tool that was never recorded misses; it does not crash."""
    index = ToolIndex(PLAN)
    shape = PLAN.shape({"query": "red"})

    assert index.fuzzy(shape, state=NO_WRITES, min_score=0.0) is None
    assert index.best(shape, min_score=0.0) is None


# ---- memory and snapshot


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One question of an index."""

    query: JsonObject
    state: bytes
    splits: frozenset[Split]
    scenario: str | None
    own_only: bool
    min_score: float


WORDS = ["red", "blue", "hat", "shoe", "warm", "cheap", "not", "2", "Oslo", "the"]
QUERY = st.fixed_dictionaries(
    {},
    optional={
        "query": st.lists(st.sampled_from(WORDS), max_size=4).map(" ".join),
        "note": st.lists(st.sampled_from(WORDS[:3]), max_size=2).map(" ".join),
        "city": st.sampled_from(["Oslo", "Rome", "Bonn"]),
        "limit": st.integers(1, 3),
    },
)
STATES = st.sampled_from([NO_WRITES, NO_WRITES, OTHER_STATE])
RECORDINGS = st.lists(
    st.tuples(QUERY, STATES, st.sampled_from("ab"), st.sampled_from(Split), st.integers(0, 4)),
    max_size=25,
)
ASKED = st.builds(
    Asked,
    query=QUERY,
    state=STATES,
    splits=st.sampled_from([frozenset(Split), frozenset({Split.TRAIN}), frozenset({Split.DEV})]),
    scenario=st.sampled_from([None, "a", "c"]),
    own_only=st.booleans(),
    min_score=st.sampled_from([0.0, 0.4, 0.8]),
)
Recordings = list[tuple[JsonObject, bytes, str, Split, int]]


def recorded_in(made: Recordings) -> MemoryStore:
    store = MemoryStore()
    store.put_tool(SPACE, SPEC)
    for arguments, state, scenario, split, kind in made:
        call = RecordedCall.of(SPACE, SPEC.name, PLAN.normal(arguments).canonical, state)
        store.add(call, seen("x", scenario, split, ErrorClass.NOT_FOUND if kind == 0 else None))
    return store


def in_memory(store: MemoryStore, splits: frozenset[Split]) -> ToolIndex:
    """The index as a cache builds it."""
    index = ToolIndex(PLAN)
    for entry in store.entries():
        scenarios = [
            kept.observation.scenario
            for kept in entry.kept
            if kept.observation.split in splits and not kept.observation.is_error
        ]
        if scenarios:
            index.add(entry.call.key, entry.call.arguments, entry.call.state, scenarios)
    return index


def answers(index: LooseIndex, asked: Asked) -> list[object]:
    shape = PLAN.shape(PLAN.normal(asked.query).arguments)
    near = {"scenario": asked.scenario, "own_only": asked.own_only, "min_score": asked.min_score}
    return [
        len(index),
        index.fuzzy(shape, state=asked.state, **near),  # type: ignore[arg-type]
        index.best(shape, state=asked.state, **near),  # type: ignore[arg-type]
        index.best(shape, state=None, **near),  # type: ignore[arg-type]
        index.ranked(shape, 3),
    ]


def compared(store: MemoryStore, asked: Asked) -> list[object]:
    """What comparing with every recording answers."""
    shape = PLAN.shape(PLAN.normal(asked.query).arguments)
    weighted = match.features(shape)
    fuzzy, here, anywhere, every = [], [], [], []
    for entry in store.entries():
        scenarios = {
            kept.observation.scenario
            for kept in entry.kept
            if kept.observation.split in asked.splits and not kept.observation.is_error
        }
        if not scenarios:
            continue
        call = entry.call
        kept_shape = PLAN.shape(call.arguments)
        score = match.overlap(weighted, match.features(kept_shape))
        every.append((-score, call.key))
        if asked.own_only and asked.scenario not in scenarios:
            continue
        foreign = asked.scenario not in scenarios
        verdict = match.fuzzy(shape, kept_shape, asked.min_score)
        if call.state == asked.state and verdict.refused is None:
            fuzzy.append((-verdict.score, foreign, call.key))
        if score >= asked.min_score:
            anywhere.append((-score, foreign, call.key))
            if call.state == asked.state:
                here.append((-score, foreign, call.key))
    found: list[object] = [len(every)]
    for ranks in (fuzzy, here, anywhere):
        rank = min(ranks, default=None)
        found.append(None if rank is None else Neighbour(key=rank[2], score=-rank[0]))
    found.append([Neighbour(key=key, score=-score) for score, key in sorted(every)[:3]])
    return found


@given(RECORDINGS, st.lists(ASKED, min_size=1, max_size=5))
def test_memory_and_snapshot_answer_what_comparing_with_everything_answers(
    tmp_path_factory: pytest.TempPathFactory, made: Recordings, questions: list[Asked]
) -> None:
    """Under every filter: freezing a cache must not change a training run."""
    store = recorded_in(made)
    path = tmp_path_factory.mktemp("frozen") / "s"
    freeze(store, path)
    frozen = SnapshotStore(path)
    for asked in questions:
        expected = compared(store, asked)
        ready = frozen.index(SPACE, SPEC.name, PLAN, asked.splits)
        assert ready is not None
        assert answers(in_memory(store, asked.splits), asked) == expected
        assert answers(ready, asked) == expected
    frozen.close()


@pytest.mark.parametrize("shelves", [1, 40])
def test_many_recordings_answer_alike_in_memory_and_frozen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shelves: int
) -> None:
    """Large buckets, long postings, several states: where the short cuts are."""
    # Short cuts that begin at 2,048 postings and 50,000 calls begin here at a few.
    monkeypatch.setattr(nearest, "_FIRST_LOOK", 100)
    monkeypatch.setattr(nearest, "_SHORT_LIST", 20)
    rng = random.Random(shelves)
    words = [a + b for a in "klmnprst" for b in ("ol", "ar", "em", "ut")]
    made: Recordings = [
        (
            {"query": " ".join(rng.sample(words, 4)), "limit": rng.randint(1, shelves)},
            rng.choice([NO_WRITES] * 9 + [OTHER_STATE]),
            rng.choice("ab"),
            rng.choice([Split.TRAIN] * 3 + [Split.DEV]),
            rng.randint(0, 9),
        )
        for _ in range(1500)
    ]
    store = recorded_in(made)
    freeze(store, tmp_path / "s")
    frozen = SnapshotStore(tmp_path / "s")
    indexes: dict[frozenset[Split], tuple[ToolIndex, LooseIndex | None]] = {}
    fuzzy = 0
    for number in range(40):
        query, state, scenario, split, _ = rng.choice(made)
        said = [word for word in query["query"].split() if rng.random() < 0.9]
        asked = Asked(
            query=query | {"query": "please " + " ".join(said)},
            state=state,
            splits=rng.choice([frozenset(Split), frozenset({split})]),
            scenario=rng.choice([scenario, None]),
            own_only=number % 4 == 0,
            min_score=0.6,
        )
        if asked.splits not in indexes:
            ready = frozen.index(SPACE, SPEC.name, PLAN, asked.splits)
            indexes[asked.splits] = in_memory(store, asked.splits), ready
        memory, stored = indexes[asked.splits]
        assert stored is not None
        expected = compared(store, asked)
        assert answers(memory, asked) == expected
        assert answers(stored, asked) == expected
        fuzzy += expected[1] is not None
    assert fuzzy > 10
    frozen.close()
