"""From one call to a chain of calls, by formula, by dice and by what was recorded."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacherl.agent import run_episode
from cacherl.core.errors import DataError
from cacherl.core.models import Limits
from cacherl.metrics import (
    CallRecord,
    StepPolicy,
    bill,
    call_record,
    chain,
    chain_table,
    dollars_per_call,
    dollars_per_call_by_time,
    measured_steps,
    product_rule,
    resampled_chain,
)
from cacherl.teacher.prices import Price
from tests.desk_of_two import NoteTools, TaskModel, copy_task, read, says, write

# ---- by formula and by dice ------------------------------------------------------------------


def test_a_third_of_five_step_chains_fail_at_92_percent_a_call() -> None:
    """The article's figure: 1 - 0.92^5 = 34 %."""
    found = chain(StepPolicy(success=0.92), 5)

    assert 1 - found.success == pytest.approx(0.3409, abs=5e-5)
    assert found.wrong_unnoticed == pytest.approx(1 - found.success)
    assert found.given_up == 0.0


def played(policy: StepPolicy, steps: int, chains: int = 40_000) -> dict[str, float]:
    """Play chains call by call, as the words of `StepPolicy` say."""
    rng = np.random.default_rng(1)
    good, going = np.ones(chains, dtype=bool), np.ones(chains, dtype=bool)
    calls, asked = np.zeros(chains), np.zeros(chains)
    again = policy.success if policy.retry_success is None else policy.retry_success
    for _ in range(steps):
        trying = going.copy()
        for attempt in range(policy.retries + 1):
            calls += trying
            right = rng.random(chains) < (policy.success if attempt == 0 else again)
            alarm = rng.random(chains) < np.where(right, policy.false_alarm, policy.catch)
            good &= right | alarm | ~trying
            trying &= alarm
        if policy.fallback_success is None:
            going &= ~trying
        else:
            asked += trying
            good &= (rng.random(chains) < policy.fallback_success) | ~trying
    return {
        "success": float((good & going).mean()),
        "given_up": float((~going).mean()),
        "calls": float(calls.mean()),
        "fallback_calls": float(asked.mean()),
    }


@pytest.mark.parametrize("retries", [0, 1, 2, 3])
@pytest.mark.parametrize("fallback", [None, 0.97])
@pytest.mark.parametrize(
    ("catch", "false_alarm", "again"), [(0.0, 0.0, None), (0.7, 0.05, 0.5), (1.0, 0.2, None)]
)
def test_the_formula_is_what_dice_say(
    retries: int, fallback: float | None, catch: float, false_alarm: float, again: float | None
) -> None:
    """Closed form and simulation, written apart, must agree."""
    policy = StepPolicy(
        success=0.85,
        retries=retries,
        retry_success=again,
        catch=catch,
        false_alarm=false_alarm,
        fallback_success=fallback,
        dollars_per_call=0.001,
        dollars_per_fallback=0.1,
    )
    found, dice = chain(policy, 5), played(policy, 5)

    assert found.success == pytest.approx(dice["success"], abs=0.01)
    assert found.given_up == pytest.approx(dice["given_up"], abs=0.01)
    assert found.calls == pytest.approx(dice["calls"], rel=0.01)
    assert found.fallback_calls == pytest.approx(dice["fallback_calls"], rel=0.05, abs=0.01)
    assert found.dollars == pytest.approx(found.calls * 0.001 + found.fallback_calls * 0.1)
    assert found.success + found.wrong_unnoticed + found.given_up == pytest.approx(1.0)


shares = st.floats(0, 1)


@given(shares, shares, shares, shares, st.integers(1, 12), st.integers(0, 3))
def test_outcomes_are_shares_that_sum_to_one(
    p: float, catch: float, alarm: float, fallback: float, steps: int, retries: int
) -> None:
    """At the edges too."""
    found = chain(
        StepPolicy(
            success=p, retries=retries, catch=catch, false_alarm=alarm, fallback_success=fallback
        ),
        steps,
    )

    assert found.success + found.wrong_unnoticed + found.given_up == pytest.approx(1.0)
    assert min(found.success, found.wrong_unnoticed, found.given_up) >= 0


@given(shares, shares, st.integers(1, 8))
def test_retries_without_false_alarms_never_hurt(p: float, catch: float, steps: int) -> None:
    """And without a check they change nothing: nobody notices that there is something to try again."""
    by_retries = [
        chain(StepPolicy(success=p, retries=n, catch=catch), steps).success for n in range(4)
    ]

    assert by_retries == pytest.approx(sorted(by_retries))
    assert chain(StepPolicy(success=p, retries=3), steps).success == pytest.approx(p**steps)


def test_perfect_validation_and_two_retries_mend_the_articles_chain() -> None:
    """From 66 % to 99.7 %: why validation is part of the system."""
    assert chain(StepPolicy(success=0.92, retries=2, catch=1.0), 5).success == pytest.approx(
        (1 - 0.08**3) ** 5
    )


def test_the_table_has_every_length_and_number_of_retries() -> None:
    """What a page shows."""
    found = chain_table(StepPolicy(success=0.92, catch=0.9), steps=(1, 5))

    assert [(row.steps, row.retries) for row in found] == [(s, r) for s in (1, 5) for r in range(4)]


# ---- by what was recorded --------------------------------------------------------------------


def record(*right: bool, task_id: str = "t", errors: tuple[bool, ...] | None = None) -> CallRecord:
    return CallRecord(
        task_id=task_id,
        right=right,
        errors=errors or (False,) * len(right),
        retries=0,
        retries_right=0,
    )


def independent(tasks: int, steps: int, p: float) -> list[CallRecord]:
    drawn = np.random.default_rng(0).random((tasks, steps)) < p
    return [record(*map(bool, row), task_id=str(n)) for n, row in enumerate(drawn)]


def together(tasks: int, steps: int) -> list[CallRecord]:
    """Nine tasks in ten are easy, the tenth is hopeless."""
    return [record(*(n % 10 > 0,) * steps, task_id=str(n)) for n in range(tasks)]


def test_the_product_rule_holds_for_independent_steps() -> None:
    """Then 0.9^4 is what is seen."""
    found = product_rule(independent(300, 4, 0.9), 4)

    assert found is not None
    assert found.predicted == pytest.approx(0.9**4, abs=0.05)
    assert found.holds


def test_the_product_rule_is_refuted_where_failures_come_together() -> None:
    """Then 0.9^4 = 66 % is said where 90 % of chains succeed."""
    found = product_rule(together(100, 4), 4)

    assert found is not None
    assert found.observed.value == 0.9
    assert found.predicted == pytest.approx(0.9**4)
    assert not found.holds
    assert found.after_right is not None
    assert found.after_wrong is not None
    assert (found.after_right.value, found.after_wrong.value) == (1.0, 0.0)


def test_no_chain_so_long_says_nothing() -> None:
    """Rather than a figure made of nothing."""
    assert product_rule([record(True)], 2) is None


def test_chains_of_recorded_episodes_keep_what_holds_steps_together() -> None:
    """Ten steps are two and a half recorded episodes of four, not ten independent calls."""
    loose = resampled_chain(independent(400, 4, 0.9), 10)
    tight = resampled_chain(together(400, 4), 10)

    assert loose.value == pytest.approx(0.9**10, abs=0.05)
    assert tight.value == pytest.approx(0.9**3, abs=0.02)
    assert loose.low <= 0.9**10 <= loose.high
    assert tight.low <= 0.9**3 <= tight.high


def test_chains_are_the_same_for_the_same_seed() -> None:
    """A page drawn twice says the same."""
    records = independent(50, 3, 0.8)

    assert resampled_chain(records, 5, seed=3) == resampled_chain(records, 5, seed=3)


def test_nothing_recorded_makes_no_chain() -> None:
    """Said, not divided by."""
    with pytest.raises(DataError):
        resampled_chain([record()], 3)


async def test_the_calls_of_an_episode_are_read_from_it() -> None:
    """Right, wrong, refused and tried again, from a real episode."""
    script = (
        says("", read(7, "a")),
        says("", read(0, "b")),
        says("", write("bread", "c")),
        says("Done, milk."),
    )
    trajectory = await run_episode(
        TaskModel({"t": script}), NoteTools(), copy_task("t"), limits=Limits(max_turns=8)
    )

    found = call_record(copy_task("t"), trajectory)

    assert found.right == (False, True, False)
    assert found.errors == (True, False, False)
    assert (found.retries, found.retries_right) == (1, 1)
    steps = measured_steps([found])
    assert steps.success is not None
    assert steps.catch is not None
    assert steps.retry_success is not None
    assert steps.success.value == pytest.approx(1 / 3)
    assert [place.value for place in steps.by_position] == [0.0, 1.0, 0.0]
    assert steps.catch.value == 0.5
    assert steps.retry_success.value == 1.0


# ---- the bill --------------------------------------------------------------------------------


def test_the_articles_bill() -> None:
    """0.15 dollars an interaction against 0.0005."""
    found = bill(
        calls_per_interaction=5, student_per_call=0.0001, teacher_per_call=0.03, spent_once=1495.0
    )

    assert found.per_10k_interactions == pytest.approx(5.0)
    assert found.teacher_per_10k_interactions == pytest.approx(1500.0)
    assert found.per_million_calls == pytest.approx(100.0)
    assert found.teacher_per_million_calls == pytest.approx(30_000.0)
    assert found.pays_after == 10_000


def test_a_dearer_student_never_pays() -> None:
    """Falling back on every call costs both."""
    found = bill(
        calls_per_interaction=5,
        student_per_call=0.001,
        teacher_per_call=0.03,
        fallback_share=1.0,
        spent_once=1.0,
    )

    assert found.pays_after is None
    assert found.share_of_teacher is not None
    assert found.share_of_teacher > 1


def test_a_call_is_priced_by_tokens_or_by_time() -> None:
    """The teacher's by its price list, one's own machine's by the hour."""
    price = Price(prompt=1.25, completion=10.0)

    assert dollars_per_call(price, prompt_tokens=4000, completion_tokens=500) == pytest.approx(0.01)
    assert dollars_per_call_by_time(
        dollars_per_hour=3.6, seconds_per_call=2, at_once=4
    ) == pytest.approx(0.0005)
