"""The one number that training sees must be bounded, monotone and explainable."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacherl.core.messages import AssistantMessage, ToolCall, UserMessage
from cacherl.core.tasks import AnswerRule, Gold, GoldCall, Split, Task
from cacherl.core.tools import Source, Tier, ToolResult, ToolSpec
from cacherl.core.trajectories import StopReason, Trajectory
from cacherl.reward.hybrid import (
    PAPER_ALPHAS,
    Alphas,
    HybridReward,
    TrustBy,
    blend,
    reward_of,
    tier_of,
)

TASK = Task(
    id="t",
    split=Split.TRAIN,
    family="f",
    language="en",
    wording="w",
    scenario="s",
    namespace="n",
    system="",
    user_turns=("status?",),
    tools=(ToolSpec(name="a", description="a", parameters={"type": "object", "properties": {}}),),
    gold=Gold(
        calls=(GoldCall(name="a", arguments={}),), answer=AnswerRule(must=(("late",),)), state=""
    ),
)


def result(tier: Tier, *, state_matched: bool = True) -> ToolResult:
    return ToolResult(call_id="c", name="a", text="{}", tier=tier, state_matched=state_matched)


def episode(answer: str, *tiers: Tier) -> Trajectory:
    return Trajectory(
        task_id="t",
        policy="p",
        messages=(
            UserMessage(content="status?"),
            AssistantMessage(calls=(ToolCall(id="c", name="a", arguments={}),)),
            AssistantMessage(content=answer),
        ),
        results=tuple(result(tier) for tier in tiers),
        stop=StopReason.ANSWER,
    )


@pytest.mark.parametrize(
    ("tier", "alpha"),
    [
        (Tier.LIVE, 0.60),
        (Tier.EXACT, 0.60),
        (Tier.FUZZY, 0.30),
        (Tier.BEST_EFFORT, 0.10),
        (Tier.MISS, 0.10),
    ],
)
def test_a_wrong_answer_costs_what_the_worst_tier_allows(tier: Tier, alpha: float) -> None:
    """arXiv:2606.14179: the answer's share is 0.60, 0.30 or 0.10 by worst tier."""
    reward = reward_of(TASK, episode("on time", Tier.EXACT, tier))

    assert reward.tier is (Tier.EXACT if tier is Tier.LIVE else tier)
    assert reward.total == pytest.approx(1.0 - alpha)


def test_an_answer_from_another_state_is_a_best_effort_at_most() -> None:
    """A loose label must not buy trust that the state does not carry."""
    assert tier_of([result(Tier.EXACT, state_matched=False)]) is Tier.BEST_EFFORT
    assert tier_of([result(Tier.MISS, state_matched=False)]) is Tier.MISS


def test_meta_reasoning_is_clamped_to_zero_whoever_judged() -> None:
    """A judge that likes eloquent plans must not teach them."""
    reward = reward_of(
        TASK, episode("The user wants to hear that it is late.", Tier.EXACT), answer=1.0
    )

    assert reward.meta_reasoning
    assert reward.answer == 0.0


def test_only_an_episode_that_answered_has_an_answer() -> None:
    """The words beside a last unanswered call are no answer."""
    cut = msgspec.structs.replace(episode("late", Tier.EXACT), stop=StopReason.MAX_TURNS)

    assert reward_of(TASK, cut).answer == 0.0


def test_a_lucky_guess_pays_less_than_work_with_a_wrong_answer() -> None:
    """A policy that learns to answer at once never learns to call (42 % of rollouts in the paper)."""
    guess = msgspec.structs.replace(
        episode("late"), messages=(AssistantMessage(content="late"),), results=()
    )

    assert reward_of(TASK, guess).alpha == 0.10
    assert reward_of(TASK, guess).total < reward_of(TASK, episode("hm", Tier.EXACT)).total


def test_the_record_survives_a_file() -> None:
    """Every part is logged, and read back."""
    reward = reward_of(TASK, episode("late", Tier.FUZZY))

    assert msgspec.json.decode(msgspec.json.encode(reward), type=HybridReward) == reward


@pytest.mark.parametrize("answer", [-0.1, 1.1, float("nan")])
def test_a_judge_out_of_range_is_an_error(answer: float) -> None:
    """A judge that returns 0-5 by mistake would drown the process."""
    with pytest.raises(ValueError, match="lie in"):
        reward_of(TASK, episode("late"), answer=answer)


def test_alphas_must_fall_with_trust() -> None:
    """Trusting a guess more than a fact is a typing error in a recipe."""
    with pytest.raises(ValueError, match="fall with trust"):
        Alphas(exact=0.1, fuzzy=0.5)


UNIT = st.floats(0.0, 1.0)


@given(UNIT, UNIT, UNIT, UNIT, UNIT)
def test_the_blend_is_bounded_and_monotone(
    alpha: float, answer: float, process: float, better_answer: float, better_process: float
) -> None:
    """Doing better in either part never lowers the reward."""
    total = blend(alpha, answer, process)
    more = blend(alpha, max(answer, better_answer), max(process, better_process))

    assert -1e-12 <= total <= 1.0 + 1e-12
    assert more >= total - 1e-12


# ---- calibrated trust


RECORDED = st.sampled_from([Tier.EXACT, Tier.FUZZY, Tier.BEST_EFFORT])
OBSERVED = st.builds(
    ToolResult,
    call_id=st.just("c"),
    name=st.just("a"),
    text=st.just("{}"),
    tier=RECORDED | st.just(Tier.MISS),
    fidelity=st.none() | UNIT,
    state_matched=st.booleans(),
    key=st.sampled_from(["k1", "k2", "k3"]) | st.none(),
)


def alpha_of(results: list[ToolResult], trust: TrustBy) -> float:
    seen = msgspec.structs.replace(episode("late"), results=tuple(results))
    return reward_of(TASK, seen, trust=trust).alpha


@given(st.lists(OBSERVED, min_size=1, max_size=5))
def test_calibrated_trust_is_bounded_by_the_share_of_an_exact_answer(
    results: list[ToolResult],
) -> None:
    """However high its fidelity, a recording is at most as good as the tool."""
    assert 0.0 <= alpha_of(results, TrustBy.CALIBRATED) <= PAPER_ALPHAS.exact


@given(st.lists(OBSERVED, min_size=1, max_size=5), st.integers(0, 4), UNIT)
def test_calibrated_trust_falls_with_each_fidelity(
    results: list[ToolResult], place: int, lower: float
) -> None:
    """Knowing one observation to be worse never makes the answer count for more."""
    place %= len(results)
    better = results[place]
    if better.fidelity is None:
        return
    worse = msgspec.structs.replace(better, fidelity=min(lower, better.fidelity))

    after = alpha_of([*results[:place], worse, *results[place + 1 :]], TrustBy.CALIBRATED)

    assert after <= alpha_of(results, TrustBy.CALIBRATED) + 1e-12


@given(st.lists(RECORDED, min_size=1, max_size=5))
def test_perfect_fidelity_is_the_papers_exact_share_whatever_the_tier(tiers: list[Tier]) -> None:
    """A loose match that is always right is as good as an exact one."""
    results = [msgspec.structs.replace(result(tier), fidelity=1.0) for tier in tiers]

    assert alpha_of(results, TrustBy.CALIBRATED) == PAPER_ALPHAS.exact


@given(st.lists(OBSERVED, min_size=1, max_size=5))
def test_without_a_calibration_the_share_is_the_papers(results: list[ToolResult]) -> None:
    """A cache that nobody calibrated trains as the paper did, and the record says so."""
    unknown = [msgspec.structs.replace(each, fidelity=None) for each in results]
    seen = msgspec.structs.replace(episode("late"), results=tuple(unknown))

    reward = reward_of(TASK, seen, trust=TrustBy.CALIBRATED)

    assert reward.alpha == reward_of(TASK, seen).alpha
    assert reward.uncalibrated is reward.tier
    assert reward.fidelity == 1.0


def test_fidelities_of_different_recordings_multiply_and_of_one_recording_do_not() -> None:
    """All must be true for the answer to be judged on true grounds; asking twice risks nothing new."""
    doubtful = msgspec.structs.replace(result(Tier.FUZZY), fidelity=0.5, key="k1")
    other = msgspec.structs.replace(doubtful, key="k2")

    assert alpha_of([doubtful, other], TrustBy.CALIBRATED) == pytest.approx(0.6 * 0.25)
    assert alpha_of([doubtful, doubtful], TrustBy.CALIBRATED) == pytest.approx(0.6 * 0.5)


def test_a_miss_counts_as_the_paper_says_beside_calibrated_observations() -> None:
    """Nothing recorded was served, so there is no fidelity to look up."""
    sure = msgspec.structs.replace(result(Tier.EXACT), fidelity=0.9, key="k1")
    seen = msgspec.structs.replace(episode("late"), results=(sure, result(Tier.MISS)))

    reward = reward_of(TASK, seen, trust=TrustBy.CALIBRATED)

    assert reward.alpha == pytest.approx(0.1 * 0.9)
    assert reward.uncalibrated is Tier.MISS
    assert reward.fidelity == 0.9


def test_what_the_loop_or_a_live_tool_said_needs_no_calibration() -> None:
    """Neither would be different without the cache."""
    refused = msgspec.structs.replace(result(Tier.EXACT), source=Source.LOOP)

    assert alpha_of([refused, result(Tier.LIVE)], TrustBy.CALIBRATED) == PAPER_ALPHAS.exact


def test_a_lucky_guess_pays_no_more_under_calibrated_trust() -> None:
    """No observation is no evidence."""
    guess = msgspec.structs.replace(episode("late"), results=())

    assert reward_of(TASK, guess, trust=TrustBy.CALIBRATED).alpha == PAPER_ALPHAS.best_effort


def test_the_record_of_calibrated_trust_survives_a_file() -> None:
    """Why an answer counted for so much must be answerable later."""
    reward = reward_of(TASK, episode("late", Tier.FUZZY), trust=TrustBy.CALIBRATED)

    assert msgspec.json.decode(msgspec.json.encode(reward), type=HybridReward) == reward
