"""What a cache says of its own trust must be honest: what was asked is never what answers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from cacherl.cache.episodes.replay import ReplayTools
from cacherl.cache.identity.normalise import plan_of
from cacherl.cache.lookup.settings import Compare, DrawPolicy, Settings, ToolRules
from cacherl.cache.lookup.tool_cache import ToolCache
from cacherl.cache.matching.nearest import LooseIndex, ToolIndex
from cacherl.cache.storage.store import MemoryStore
from cacherl.cache.trust.calibrate import (
    Stated,
    calibrate,
    calibrate_and_keep,
    estimates_of,
    reliability_of,
)
from cacherl.cache.trust.fidelity import (
    Calibration,
    Estimate,
    Knots,
    Looks,
    Suspect,
    Unit,
    kept_calibration,
)
from cacherl.cache.trust.leave_one_out import LeavingIndex, Outcome
from cacherl.cli import main
from cacherl.core.errors import CacheError
from cacherl.core.tasks import Split
from cacherl.core.tools import Effects, ErrorClass, Source, Tier, ToolSpec
from tests.cache.recordings import CANCEL, GET, SEARCH, SPACE, call, result, task

pytest.importorskip("sklearn", reason="needs the [calibrate] extra")

Recording = tuple[ToolSpec, dict[str, str], str, str]
"""(tool, arguments, scenario, answer)"""


def cache_of(*recordings: Recording, settings: Settings | None = None) -> ToolCache:
    cache = ToolCache(MemoryStore(), settings=settings, clock=lambda: 1000.0)
    for tool, arguments, scenario, answer in recordings:
        put(cache, tool, arguments, scenario, answer)
    return cache


def put(
    cache: ToolCache,
    tool: ToolSpec,
    arguments: dict[str, str],
    scenario: str,
    answer: str,
    *,
    error: ErrorClass | None = None,
    source: Source = Source.LIVE,
    split: Split = Split.TRAIN,
    occurrence: int = 0,
) -> None:
    asked = call(tool, **arguments)
    answered = result(asked, answer, error, source=source)
    cache.record(
        SPACE, tool, asked, answered, scenario=scenario, split=split, occurrence=occurrence
    )


def order(number: str, scenario: str, answer: str) -> Recording:
    return (GET, {"order_id": number}, scenario, answer)


def search(query: str, scenario: str, answer: str, shelf: str = "a") -> Recording:
    return (SEARCH, {"query": query, "shelf": shelf}, scenario, answer)


def calibrated(cache: ToolCache, unit: Unit = Unit.OBSERVATION, seed: int = 0) -> Calibration:
    return calibrate(cache, made_at=0.0, unit=unit, seed=seed)


def cell(found: Calibration, tool: str, tier: Tier, own: bool | None = None) -> Estimate:
    [one] = [
        each
        for each in found.estimates
        if (each.tool, each.tier, each.scenario_matched) == (tool, tier, own)
    ]
    return one


# ---- leaving out


def test_the_only_recording_of_a_call_never_answers_itself() -> None:
    """A cache that may look at the answer sheet would find every tier perfect."""
    found = calibrated(cache_of(order("A", "s1", "open")))

    assert found.asked == 1
    assert found.answered == {Tier.MISS: 1.0}
    assert found.estimates == ()
    assert found.fidelity(SPACE, "get_order", Tier.EXACT, None, True) is None


def test_another_recording_of_the_same_call_answers_exact() -> None:
    """Two recordings judge one another, whichever scenario the other comes from."""
    cache = cache_of(order("A", "s1", "open"), order("A", "s1", "open"), order("A", "s2", "open"))

    found = calibrated(cache)

    own, other = (cell(found, "get_order", Tier.EXACT, own) for own in (True, False))
    assert (own.n, own.same) == (1.0, 1.0)
    assert (other.n, other.same) == (1.0, 1.0)
    assert cell(found, "get_order", Tier.EXACT).n == 2.0


def test_leaving_out_the_scenario_hides_its_own_recordings() -> None:
    """An episode of a new scenario finds nothing that its scenario said before."""
    cache = cache_of(order("A", "s1", "open"), order("A", "s1", "open"), order("B", "s1", "late"))

    assert calibrated(cache, Unit.OBSERVATION).answered[Tier.EXACT] == 1.0
    assert calibrated(cache, Unit.SCENARIO).answered == {Tier.MISS: 2.0}


def test_contradictions_lower_exact() -> None:
    """Three answers of one kind and one of another: two of four draws agree with what was said."""
    cache = cache_of(
        *[order(str(n), "s1", answer) for n in range(200) for answer in ("a", "a", "a", "b")]
    )

    found = cell(calibrated(cache), "get_order", Tier.EXACT)

    assert found.n == 200.0
    assert found.same / found.n == pytest.approx(0.5, abs=0.1)


def test_scenarios_with_data_of_their_own_lower_what_other_scenarios_answer() -> None:
    """Agreement among others says nothing of a scenario that was never asked."""
    cache = cache_of(
        *[order("A", f"s{n}", "same") for n in range(5)],
        *[order(f"B{n}", scenario, f"{scenario} {n}") for n in range(9) for scenario in "xy"],
    )

    found = cell(calibrated(cache), "get_order", Tier.EXACT, own=False)

    assert (found.n, found.same) == (23.0, 5.0)
    assert found.fidelity < 0.3


def test_a_loose_tier_is_judged_by_what_the_call_itself_was_answered() -> None:
    """FUZZY is right where the wording does not matter, BEST_EFFORT where the id does not."""
    cache = cache_of(
        *[
            search(query, f"s{n}", f"boots {n}", shelf=str(n))
            for n in range(8)
            for query in ("find red boots", "red boots please")
        ],
        *[order(f"order-{n}", f"s{n}", f"order {n}") for n in range(8)],
    )

    found = calibrated(cache)

    assert cell(found, "search", Tier.FUZZY).same == cell(found, "search", Tier.FUZZY).n == 16.0
    fuzzy = found.fidelity(SPACE, "search", Tier.FUZZY, 1.0, True, True)
    assert fuzzy is not None
    assert fuzzy > 0.9


def test_a_write_is_only_ever_judged_exact() -> None:
    """Another order's cancellation is no answer, so it is none here either."""
    cache = cache_of(*[(CANCEL, {"order_id": n}, "s1", n) for n in "abc"])

    assert calibrated(cache).answered == {Tier.MISS: 3.0}


def test_what_a_teacher_made_up_never_judges() -> None:
    """Fidelity is to the live tool: a simulation that agrees with itself proves nothing."""
    cache = cache_of()
    for scenario in ("s1", "s2"):
        put(cache, GET, {"order_id": "A"}, scenario, "open", source=Source.SIMULATED)
    put(cache, GET, {"order_id": "A"}, "s3", "late")

    found = calibrated(cache)

    assert found.asked == 1
    assert cell(found, "get_order", Tier.EXACT).same == 0.0


def test_a_split_is_only_judged_by_what_it_may_see() -> None:
    """A held-out recording that agrees must not make training look safer."""
    cache = cache_of(order("A", "s1", "open"))
    put(cache, GET, {"order_id": "A"}, "s2", "open", split=Split.TEST)

    assert calibrated(cache).answered == {Tier.MISS: 2.0}


def test_an_error_is_an_answer_that_a_success_does_not_match() -> None:
    """A policy that asks for what is not there should hear so; a loose hit hides it."""
    cache = cache_of(*[search("red boots", f"s{n}", "boots", shelf="a") for n in range(3)])
    put(cache, SEARCH, {"query": "red boots please", "shelf": "a"}, "s9", "none", error=ErrorClass.NOT_FOUND)  # fmt: skip

    found = cell(calibrated(cache), "search", Tier.FUZZY)

    assert (found.n, found.same) == (1.0, 0.0)


def test_the_comparator_of_a_tool_decides_what_is_the_same() -> None:
    """A time stamp in each answer is not a contradiction, if the settings say so."""
    answers = [json.dumps({"at": n, "status": "open"}) for n in range(2)]
    recordings = [order("A", f"s{n}", answer) for n, answer in enumerate(answers)]
    volatile = ToolRules(compare=Compare.JSON, volatile_paths=("at",))
    fields = ToolRules(compare=Compare.FIELDS)

    def same(rules: ToolRules) -> float:
        settings = Settings(tools={"get_order": rules})
        found = calibrated(cache_of(*recordings, settings=settings))
        return cell(found, "get_order", Tier.EXACT).same

    assert (same(ToolRules()), same(fields), same(volatile)) == (0.0, 1.0, 2.0)


def test_calibrating_changes_nothing_and_does_not_depend_on_the_order_of_recording() -> None:
    """Merged caches hold the same recordings in another order."""
    recordings = [
        *[order(str(n % 7), f"s{n % 5}", str(n % 3)) for n in range(30)],
        *[search(f"boots {n % 4} red", f"s{n % 3}", str(n % 2)) for n in range(12)],
    ]
    cache, other = cache_of(*recordings), cache_of(*reversed(recordings))
    before, notes = list(cache.store.entries()), cache.store.notes()

    one = calibrated(cache)

    assert list(cache.store.entries()) == before
    assert cache.store.notes() == notes
    assert one.asked == calibrated(other).asked
    assert one.estimates == calibrated(other).estimates


def test_a_large_tool_is_sampled_the_same_way_each_time() -> None:
    """A million recordings must not take a million look-ups, nor give another figure each time."""
    cache = cache_of(*[order(str(n), f"s{n % 9}", str(n)) for n in range(200)])

    def sampled(seed: int) -> Calibration:
        return calibrate(cache, made_at=0.0, per_tool=30, corpus=50, seed=seed)

    assert sampled(0).asked == 30
    assert sampled(0) == sampled(0)


def test_nothing_recorded_is_told() -> None:
    """An empty cache has no fidelity to find."""
    with pytest.raises(CacheError, match="nothing is recorded"):
        calibrated(cache_of())


# ---- the index that leaves out


WORDS = st.lists(
    st.sampled_from(["red", "blue", "boot", "boots", "not", "3", "Oslo", "for", "the", "lamp"]),
    max_size=4,
)
CALLS = st.lists(
    st.tuples(
        WORDS.map(" ".join),
        st.sampled_from("abc"),
        st.sampled_from([b"", b"x"]),
        st.sampled_from("st"),
    ),
    min_size=1,
    max_size=12,
    unique_by=lambda made: made[:3],
)


def answers(index: LooseIndex, asked: Sequence[tuple[str, str, bytes, str]]) -> list[object]:
    plan = plan_of(SEARCH)
    found: list[object] = []
    for query, shelf, state, scenario in asked:
        shape = plan.shape({"query": query, "shelf": shelf})
        for own in (False, True):
            found.append(
                index.fuzzy(shape, state=state, min_score=0.5, scenario=scenario, own_only=own)
            )
            for wanted in (state, None):
                near = index.best(
                    shape, min_score=0.2, state=wanted, scenario=scenario, own_only=own
                )
                found.append(near and (near.key, round(near.score, 6)))
        found.append([(near.key, round(near.score, 6)) for near in index.ranked(shape, 20)])
    return found


@given(CALLS, CALLS, st.sets(st.integers(0, 11)))
def test_the_index_that_leaves_out_answers_like_the_one_that_serves(
    made: list[tuple[str, str, bytes, str]],
    asked: list[tuple[str, str, bytes, str]],
    hidden: set[int],
) -> None:
    """A calibration of other look-ups than the ones that are served would be worth nothing."""
    plan = plan_of(SEARCH)
    leaving, serving = LeavingIndex(plan), ToolIndex(plan)
    for number, (query, shelf, state, scenario) in enumerate(made):
        arguments = {"query": query, "shelf": shelf}
        key = bytes([number]) * 16
        leaving.add(key, arguments, state, frozenset({scenario}))
        if number in hidden:
            leaving.set_scenarios(key, frozenset())
        else:
            serving.add(key, arguments, state, (scenario,))

    assert answers(leaving, asked) == answers(serving, asked)
    for number, (query, shelf, state, scenario) in enumerate(made):
        if number in hidden:
            key = bytes([number]) * 16
            leaving.set_scenarios(key, frozenset({scenario}))
            serving.add(key, {"query": query, "shelf": shelf}, state, (scenario,))
    assert answers(leaving, asked) == answers(serving, asked)


# ---- the fit


def outcome(
    tool: str,
    same: float,
    *,
    tier: Tier = Tier.EXACT,
    score: float | None = None,
    scenario: str = "s1",
    served: bool = True,
) -> Outcome:
    return Outcome(
        namespace=SPACE,
        tool=tool,
        scenario=scenario,
        weight=1.0,
        tier=tier,
        score=score,
        state_matched=True,
        scenario_matched=True,
        same=same,
        served=served,
    )


OUTCOMES = st.lists(
    st.builds(
        outcome,
        st.sampled_from("abc"),
        st.sampled_from([0.0, 0.5, 1.0]),
        tier=st.just(Tier.BEST_EFFORT),
        score=st.floats(0, 1),
        served=st.booleans(),
    ),
    min_size=1,
    max_size=30,
)


@given(OUTCOMES)
def test_every_estimate_is_a_probability_that_rises_with_the_score(found: list[Outcome]) -> None:
    """A better match is never trusted less."""
    for estimate in estimates_of(found):
        assert 0.0 <= estimate.low <= estimate.fidelity <= estimate.high <= 1.0
        assert 0.0 <= estimate.same <= estimate.n
        assert estimate.knots is not None
        scores, shares = estimate.knots.scores, estimate.knots.shares
        assert list(scores) == sorted(set(scores))
        assert list(shares) == sorted(shares)
        assert 0.0 <= shares[0] <= shares[-1] <= 1.0


def fidelity(outcomes: list[Outcome], tool: str, score: float | None = None) -> float:
    tier = Tier.EXACT if score is None else Tier.BEST_EFFORT
    found = calibration(estimates_of(outcomes)).fidelity(SPACE, tool, tier, score, True, True)
    assert found is not None
    return found


def calibration(estimates: tuple[Estimate, ...]) -> Calibration:
    return Calibration(
        made_at=0.0,
        cache="c",
        calls=1,
        observations=1,
        scenarios=1,
        unit=Unit.OBSERVATION,
        seed=0,
        per_tool=1,
        asked=1,
        answered={},
        estimates=estimates,
    )


def test_a_tool_with_little_evidence_leans_on_the_others_and_one_with_much_does_not() -> None:
    """One agreement proves little; a hundred do."""
    good = [outcome("good", 1.0) for _ in range(100)]
    bad = [outcome("bad", 0.0) for _ in range(100)]
    new = [outcome("new", 1.0)]

    found = {tool: fidelity(good + bad + new, tool) for tool in ("good", "bad", "new", "never")}

    assert found["bad"] < 0.05 < 0.4 < found["never"] < 0.6 < found["new"] < 0.95 < found["good"]


def test_a_single_agreement_is_not_certainty() -> None:
    """The prior of the pool is one half, not the paper's shares."""
    assert fidelity([outcome("t", 1.0)], "t") < 0.9


def test_the_curve_finds_the_score_where_answers_turn_right() -> None:
    """The score is the only thing that tells a good loose hit from a bad one."""
    scored = [
        outcome("t", float(score > 0.7), tier=Tier.BEST_EFFORT, score=score)
        for n in range(200)
        if (score := n / 200)
    ]

    assert fidelity(scored, "t", 0.3) < 0.1
    assert fidelity(scored, "t", 0.95) > 0.9
    assert fidelity(scored, "never seen", 0.95) > 0.9
    assert fidelity(scored, "t", -1.0) <= fidelity(scored, "t", 0.0)


def test_what_is_not_served_only_shapes_the_curve() -> None:
    """Shares are of what rollouts get; far answers of the miss policy still get an honest number."""
    far = [outcome("t", 0.0, tier=Tier.BEST_EFFORT, score=0.1, served=False) for _ in range(50)]
    near = [outcome("t", 1.0, tier=Tier.BEST_EFFORT, score=0.9) for _ in range(50)]

    [pool, _] = [each for each in estimates_of(far + near) if each.scenario_matched is None]

    assert (pool.n, pool.same) == (50.0, 50.0)
    assert fidelity(far + near, "t", 0.1) < 0.1


@pytest.mark.parametrize(
    ("score", "share"), [(-1.0, 0.2), (0.2, 0.2), (0.4, 0.4), (0.6, 0.6), (0.8, 0.6), (2.0, 0.6)]
)
def test_a_curve_is_flat_beyond_its_ends(score: float, share: float) -> None:
    """Nothing is known there but that more is not worse."""
    assert Knots(scores=(0.2, 0.6), shares=(0.2, 0.6)).at(score) == pytest.approx(share)


# ---- does it hold


def stated(fidelity: float, same: float, weight: float = 1.0) -> Stated:
    return Stated(tier=Tier.EXACT, fidelity=fidelity, same=same, weight=weight)


def test_the_calibration_error_is_the_gap_between_stated_and_observed() -> None:
    """Worked by hand: bins [0.2, 0.3) and [0.9, 1.0], gaps 0.25 and 0.05, three to one."""
    found = reliability_of([stated(0.25, 0.0, 1.0), stated(0.95, 1.0, 2.0), stated(0.95, 1.0, 1.0)])

    assert found is not None
    assert [(each.low, each.n) for each in found.bins] == [(0.2, 1.0), (0.9, 3.0)]
    assert found.error == pytest.approx((0.25 + 3 * 0.05) / 4)
    assert reliability_of([]) is None


@given(st.lists(st.builds(stated, st.floats(0, 1), st.floats(0, 1)), min_size=1))
def test_the_calibration_error_is_bounded_and_its_bins_hold_everything(found: list[Stated]) -> None:
    """Fidelity 1 belongs to the last bin, not to one beyond it."""
    measured = reliability_of(found)

    assert measured is not None
    assert 0.0 <= measured.error <= 1.0
    assert sum(each.n for each in measured.bins) == pytest.approx(len(found))


def test_the_error_is_measured_on_scenarios_that_had_no_part_in_the_fit() -> None:
    """Every answer that would be served is judged once, by a fit that never saw its scenario."""
    cache = cache_of(
        *[order(f"{n // 2}", f"s{n}", f"{n % 3}") for n in range(40)],
        *[search(f"red boots {n // 2}", f"s{n}", "boots") for n in range(40)],
    )

    found = calibrated(cache)

    assert found.reliability is not None
    assert found.reliability.error < 0.2
    assert found.reliability.n == sum(
        each for tier, each in found.answered.items() if tier is not Tier.MISS
    )
    assert {tier for tier in found.answered if tier is not Tier.MISS} == set(found.by_tier)


# ---- tools that contradict themselves


def suspects(*recordings: Recording, settings: Settings | None = None) -> list[Suspect]:
    return list(calibrated(cache_of(*recordings, settings=settings)).suspects)


def test_a_tool_that_contradicts_its_effects_is_named_with_an_example() -> None:
    """Same scenario, same call, no write in between by declaration: something is not declared."""
    steady = [order(str(n), "s1", "same") for n in range(9) for _ in range(2)]

    [suspect] = suspects(*steady, order("X", "s1", "one"), order("X", "s1", "two"))

    assert suspect.tool == "get_order"
    assert (suspect.contradicted, suspect.repeated) == (1, 10)
    assert suspect.looks is Looks.EFFECTS
    assert suspect.answers == ("one", "two")
    assert '"X"' in suspect.arguments
    assert "declare what it reads" in suspect.advice
    assert 'draw = "sample"' in suspect.advice


@pytest.mark.parametrize(
    ("note", "shared"), [({"resets": False}, True), ({"resets": True}, False), ({}, False)]
)
def test_a_recording_on_one_state_has_a_third_explanation(
    note: dict[str, bool], shared: bool
) -> None:
    """Keys hold what an episode wrote itself; marking the tool stochastic would keep the error."""
    cache = cache_of(*(order("X", "s1", f"{n}") for n in range(4)))
    cache.store.put_note("recorded/ab", msgspec.json.encode({"episodes": 4, **note}))

    [suspect] = calibrated(cache).suspects

    assert ("other episodes wrote in between" in suspect.advice) == shared


def test_a_tool_that_nearly_always_differs_looks_stochastic() -> None:
    """Dice are not a missing declaration."""
    rolls = [order(str(n), "s1", f"{n} {roll}") for n in range(5) for roll in range(3)]

    assert [each.looks for each in suspects(*rolls)] == [Looks.STOCHASTIC]


def test_a_field_that_always_differs_looks_volatile() -> None:
    """The advice is what to write into the settings."""
    stamped = [
        order("A", "s1", json.dumps({"at": at, "status": "open", "lines": [1, 2]})) for at in (1, 2)
    ]

    [suspect] = suspects(*stamped)

    assert suspect.looks is Looks.VOLATILE
    assert suspect.paths == ("at",)
    assert 'volatile_paths = ["at"]' in suspect.advice
    assert not suspects(
        *stamped, settings=Settings(tools={"get_order": ToolRules(volatile_paths=("at",))})
    )


def test_a_tool_that_reads_everything_blames_a_writer_that_says_nothing() -> None:
    """All declared writes are in its key: only an undeclared one can have come between."""
    reads_all = msgspec.structs.replace(GET, effects=Effects(reads=("*",)))

    [suspect] = suspects(
        *[(reads_all, {"order_id": "A"}, "s1", answer) for answer in ("one", "two")]
    )

    assert "declare the writes" in suspect.advice


def test_scenarios_that_differ_and_stochastic_tools_are_no_contradiction() -> None:
    """Other data is no other effect; and whoever declared dice has been heard."""
    dice = Settings(tools={"get_order": ToolRules(draw=DrawPolicy.SAMPLE)})

    assert not suspects(order("A", "s1", "one"), order("A", "s2", "two"))
    assert not suspects(order("A", "s1", "one"), order("A", "s1", "two"), settings=dice)


def test_an_answer_that_changed_within_an_episode_is_told() -> None:
    """Nothing but this episode's own calls can have changed it, or the tool rolls dice."""
    cache = cache_of()
    for occurrence, answer in enumerate(("one", "two")):
        put(cache, GET, {"order_id": "A"}, "s1", answer, occurrence=occurrence)

    [suspect] = calibrated(cache).suspects

    assert suspect.within_episode


# ---- kept and used


def test_a_calibration_is_kept_beside_the_recordings(tmp_path: Path) -> None:
    """It travels with the cache, and applying it needs no scikit-learn."""
    path = tmp_path / "c.sqlite"
    with ToolCache.open(path, mode="write") as cache:
        for scenario in ("s1", "s2", "s3"):
            put(cache, GET, {"order_id": "A"}, scenario, "open")
        made = calibrate_and_keep(cache, made_at=7.0)
    with ToolCache.open(path) as cache:
        kept = kept_calibration(cache.store, name=cache.name)

    assert kept == made
    assert kept is not None
    assert kept.made_at == 7.0
    assert kept.fidelity(SPACE, "get_order", Tier.EXACT, None, True) == pytest.approx(
        cell(made, "get_order", Tier.EXACT).fidelity
    )


async def test_hits_and_replayed_results_carry_the_fidelity_that_was_kept(tmp_path: Path) -> None:
    """The reward reads it from the result; an answer of another scenario has its own figure."""
    path = tmp_path / "c.sqlite"
    with ToolCache.open(path, mode="write") as cache:
        for number in range(6):
            for scenario in ("s1", "s1", "s2"):
                put(cache, GET, {"order_id": str(number)}, scenario, f"{scenario} {number}")
        put(cache, GET, {"order_id": "only s2"}, "s2", "open")
        calibrate_and_keep(cache, made_at=7.0)
    with ToolCache.open(path) as cache:
        tools = ReplayTools(cache, task("s1"))
        own = await tools.call(call(GET, order_id="1"))
        foreign = await tools.call(call(GET, order_id="only s2"))
        found = cache.calibration

    assert found is not None
    assert own.fidelity == found.fidelity(SPACE, "get_order", Tier.EXACT, None, True, True)
    assert foreign.fidelity == found.fidelity(SPACE, "get_order", Tier.EXACT, None, True, False)
    assert own.fidelity is not None
    assert foreign.fidelity is not None
    assert foreign.fidelity < 0.5 < own.fidelity


def test_live_answers_and_misses_need_no_calibration() -> None:
    """The live tool is itself; where nothing was served nothing can be right."""
    found = calibration(())

    assert found.fidelity(SPACE, "t", Tier.LIVE, None, True) == 1.0
    assert found.fidelity(SPACE, "t", Tier.MISS, None, True) is None


@pytest.mark.parametrize(
    ("note", "words"), [(b"{", "cannot be read"), (None, "version 9"), (b"{}", "cannot be read")]
)
def test_a_calibration_that_cannot_be_used_says_how_to_make_it_anew(
    note: bytes | None, words: str
) -> None:
    """A wrong fidelity would be worse than none."""
    store = MemoryStore()
    newer = msgspec.structs.replace(calibration(()), version=9)
    store.put_note("calibration", msgspec.json.encode(newer) if note is None else note)

    with pytest.raises(CacheError, match=words) as caught:
        kept_calibration(store, name="c.sqlite")

    assert "cacherl cache calibrate c.sqlite" in str(caught.value)
    assert kept_calibration(MemoryStore(), name="c") is None


def test_using_a_calibration_does_not_load_scikit_learn_and_making_one_says_what_is_missing() -> (
    None
):
    """Rollout workers have no scikit-learn, and a laptop without it gets one clear line."""
    code = (
        "import sys; sys.modules['sklearn'] = None\n"
        "from cacherl.cache.trust.calibrate import calibrate\n"
        "from cacherl.cache.lookup.tool_cache import ToolCache\n"
        "from cacherl.core.errors import MissingExtraError\n"
        "try: calibrate(ToolCache.open(':memory:'), made_at=0.0)\n"
        "except MissingExtraError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "pip install 'cacherl[calibrate]'" in done.stdout


# ---- the command


def recorded_file(path: Path) -> Path:
    with ToolCache.open(path, mode="write") as cache:
        for scenario in ("s1", "s2", "s3"):
            put(cache, GET, {"order_id": "A"}, scenario, "open")
        for answer in ("one", "two"):
            put(cache, GET, {"order_id": "B"}, "s1", answer)
    return path


def test_the_command_tells_what_it_found_and_keeps_it(tmp_path: Path) -> None:
    """What is printed is what rewards will use."""
    path = recorded_file(tmp_path / "c.sqlite")

    done = CliRunner().invoke(main, ["cache", "calibrate", str(path)])

    assert done.exit_code == 0, done.output
    assert "4 recorded calls asked again" in done.output
    assert "get_order" in done.output
    assert "expected calibration error" in done.output
    assert "1 of 1 repeated calls contradict" in done.output
    with ToolCache.open(path) as cache:
        assert kept_calibration(cache.store, name="c") is not None


def test_the_command_speaks_json_and_takes_settings_and_unit(tmp_path: Path) -> None:
    """The figures in a paper come from here."""
    path = recorded_file(tmp_path / "c.sqlite")
    settings = tmp_path / "cache.toml"
    settings.write_text('[tools.get_order]\ndraw = "sample"\n')

    done = CliRunner().invoke(
        main,
        [
            "cache",
            "calibrate",
            str(path),
            "--json",
            "--unit",
            "scenario",
            "--settings",
            str(settings),
        ],
    )

    found = msgspec.json.decode(done.output, type=Calibration)
    assert found.unit is Unit.SCENARIO
    assert found.suspects == ()


def test_a_cache_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    """A typing error must not leave an empty cache behind."""
    done = CliRunner().invoke(main, ["cache", "calibrate", str(tmp_path / "no.sqlite")])

    assert done.exit_code == 1
    assert list(tmp_path.iterdir()) == []
