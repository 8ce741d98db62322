"""What is counted adds up, whatever the calls were; and what is said of them follows from them."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacherl.core.messages import UserMessage
from cacherl.core.tasks import Split
from cacherl.core.tools import Tier
from cacherl.core.trajectories import StopReason, Trajectory
from cacherl.shadow import Compared, Fate, Said, Serve, summarise
from cacherl.shadow.compared import HITS, fate
from cacherl.shadow.rows import Leg, ShadowPlan
from cacherl.shadow.summary import band, steps_of

PLAN = ShadowPlan(
    model="m",
    world="notes",
    cache="cache.sqlite",
    cache_holds="",
    split=Split.TRAIN,
    sees=(Split.TRAIN,),
    scope="global",
    on_miss="error",
    seed=0,
    limits={},
)
SAID = Said(text="{}")
EMPTY = Trajectory(
    task_id="t",
    policy="m",
    messages=(UserMessage(content="hi"),),
    results=(),
    stop=StopReason.ANSWER,
)


def leg(
    *compared: Compared,
    task: str = "t",
    trial: int = 0,
    serve: Serve = Serve.CACHED,
    metrics: dict[str, float] | None = None,
    world: dict[str, float] | None = None,
    trajectory: Trajectory = EMPTY,
) -> Leg:
    return Leg(
        task_id=task,
        trial=trial,
        serve=serve,
        split=Split.TRAIN,
        family="f",
        scenario="s",
        trajectory=trajectory,
        compared=compared,
        metrics=metrics or {},
        world=world or {},
    )


@st.composite
def calls(draw: st.DrawFn) -> Compared:
    tier = draw(st.sampled_from(list(Tier)))
    compared = tier in HITS and draw(st.booleans())
    return Compared(
        tool=draw(st.sampled_from("ab")),
        arguments={},
        tier=tier,
        cached=SAID,
        live=SAID if compared else None,
        same=draw(st.sampled_from([0.0, 0.25, 1.0])) if compared else None,
        fidelity=draw(st.none() | st.floats(0, 1)) if tier in HITS else None,
        score=draw(st.floats(0, 1)) if tier in (Tier.FUZZY, Tier.BEST_EFFORT) else None,
        state_matched=draw(st.booleans()),
        scenario_matched=draw(st.booleans()),
        alternatives=draw(st.integers(0, 2)),
        writes=draw(st.booleans()),
        changed=draw(st.none() | st.booleans()),
        parted=draw(st.sampled_from(["", "", "since call 1"])),
        failure="" if compared else draw(st.sampled_from(["", "gone"])),
    )


LEGS = st.lists(st.lists(calls(), max_size=6), min_size=1, max_size=6)


@given(LEGS)
def test_counts_add_up(episodes: list[list[Compared]]) -> None:
    """Every call has one fate, and every hit that can be told right from wrong one place in each table."""
    steps = steps_of(
        [leg(*each, task=f"t{place % 3}", trial=place) for place, each in enumerate(episodes)]
    )
    every = [each for episode in episodes for each in episode]
    told = [each for each in every if fate(each) in (Fate.RIGHT, Fate.WRONG)]

    assert steps.calls == len(every) == sum(steps.fates.values()) == sum(steps.tiers.values())
    assert set(steps.fates) == set(Fate)
    *tiers, whole = steps.by_tier
    assert whole.tier is None
    assert whole.hits == len(told) == steps.fates[Fate.RIGHT] + steps.fates[Fate.WRONG]
    assert whole.wrong == pytest.approx(sum(1 - (each.same or 0) for each in told))
    for table in (tiers, steps.by_tool, steps.by_split):
        assert sum(each.hits for each in table) == whole.hits
        assert sum(each.wrong for each in table) == pytest.approx(whole.wrong)
        assert sum(each.stated_hits for each in table) == whole.stated_hits
    assert sum(each.hits for each in steps.by_band) == sum(e.score is not None for e in told)
    assert sum(hits for hits, _ in steps.after_parting.values()) == steps.fates[Fate.AFTER_PARTING]
    exact = sum(e.tier is Tier.EXACT and fate(e) is Fate.WRONG for e in every)
    assert len(steps.exact_wrong) == exact
    assert len(steps.unexplained) <= exact
    for group in (*steps.by_tier, *steps.by_tool):
        assert (group.wrong_share is None) == (group.hits == 0)
        if group.wrong_share is not None:
            assert group.wrong_share.value == pytest.approx(group.wrong / group.hits)
            assert (
                0 <= group.wrong_share.low <= group.wrong_share.value <= group.wrong_share.high <= 1
            )
    for each in steps.reliability:
        assert sum(b.n for b in each.bins) == each.n
        assert 0 <= each.error <= 1
    if steps.reliability:
        assert steps.reliability[0].n == whole.stated_hits


@given(LEGS, st.randoms(use_true_random=False))
def test_the_order_of_the_lines_does_not_count(
    episodes: list[list[Compared]], dice: random.Random
) -> None:
    """Episodes end in any order."""
    legs = [
        leg(*each, task=f"t{place}", serve=dice.choice(list(Serve)))
        for place, each in enumerate(episodes)
    ]
    shuffled = list(legs)
    dice.shuffle(shuffled)

    assert summarise(PLAN, legs) == summarise(PLAN, shuffled)


@pytest.mark.parametrize(
    ("score", "name"),
    [(0.0, "0.0-0.1"), (0.3, "0.3-0.4"), (0.8999, "0.8-0.9"), (0.9, "0.9-1.0"), (1.0, "1.0")],
)
def test_scores_fall_into_tenths(score: float, name: str) -> None:
    """0.3 is three tenths, though three times 0.1 is a little more."""
    assert band(score) == name


def test_what_was_believed_is_held_to_what_was_true() -> None:
    """A reward that the world would not have paid is the dearest mistake of all."""
    legs = [
        leg(task="a", metrics={"end_to_end": 1.0}, world={"end_to_end": 0.0}),
        leg(task="b", metrics={"end_to_end": 1.0}, world={"end_to_end": 1.0}),
        leg(task="c", metrics={"end_to_end": 1.0}),  # nobody knows: the world failed
        leg(task="b", serve=Serve.LIVE, metrics={"end_to_end": 1.0}, world={"end_to_end": 1.0}),
    ]
    found = summarise(PLAN, legs)

    believed = found.believed["end_to_end"]
    assert (believed.n, believed.a, believed.b) == (2, 0.5, 1.0)
    assert found.pairs is not None
    assert found.pairs.funnel.pairs == 1
    assert found.pairs.metrics["end_to_end"].n == 1


def test_a_summary_is_a_record_that_comes_back_from_its_file() -> None:
    """The page is drawn from it, and another program reads it."""
    found = summarise(PLAN, [leg(task="a"), leg(task="a", serve=Serve.LIVE)])
    assert msgspec.json.decode(msgspec.json.encode(found), type=type(found)) == found
