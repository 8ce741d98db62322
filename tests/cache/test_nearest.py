"""The index answers what comparing with every recording would answer."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from cacherl.cache import match
from cacherl.cache.key import digest
from cacherl.cache.nearest import ToolIndex
from cacherl.cache.normalise import Plan, plan_of
from cacherl.cache.state import NO_WRITES
from cacherl.core.records import JsonObject
from cacherl.core.tools import Effects, ToolSpec

PLAN: Plan = plan_of(
    ToolSpec(
        name="find",
        description="",
        parameters={
            "type": "object",
            "properties": {
                "query": {"type": "string", "x-kind": "text"},
                "city": {"type": "string"},
                "limit": {"type": "integer"},
            },
        },
        effects=Effects(reads=("thing:*",)),
    )
)
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
