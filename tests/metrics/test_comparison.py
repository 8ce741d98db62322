"""Is B better, or was it luck? And what could a run of this size have shown?"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacherl.core.errors import DataError
from cacherl.metrics import (
    compare,
    detectable_paired,
    detectable_unpaired,
    holm,
    mcnemar,
    power_note,
    power_paired,
    power_unpaired,
    tasks_needed_paired,
    tasks_needed_unpaired,
)
from cacherl.metrics.comparison import sign_flips

# ---- comparison ------------------------------------------------------------------------------


@given(st.integers(0, 8), st.integers(0, 8))
def test_mcnemar_is_every_way_the_differing_tasks_can_fall(wins: int, losses: int) -> None:
    """Exact means exact."""
    n = wins + losses
    falls = [abs(2 * sum(fall) - n) for fall in itertools.product([0, 1], repeat=n)]

    assert mcnemar(wins, losses) == sum(fall >= abs(wins - losses) for fall in falls) / 2**n


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=9))
def test_sign_flips_are_every_way_to_swap_the_models(gains: list[int]) -> None:
    """The permutation test by its definition."""
    swapped = [
        abs(sum(sign * gain for sign, gain in zip(signs, gains, strict=True)))
        for signs in itertools.product([1, -1], repeat=len(gains))
    ]
    expected = sum(each >= abs(sum(gains)) for each in swapped) / len(swapped)

    assert sign_flips(np.array(gains, dtype=float) / 4)[0] == pytest.approx(expected)


def test_drawn_swaps_come_close_to_all_swaps() -> None:
    """Past 14 tasks that differ, swaps are drawn; grouping equal gains must not change what is drawn."""
    gains = np.array([1.0] * 11 + [-1.0] * 5)

    assert sign_flips(gains)[0] == pytest.approx(mcnemar(11, 5), abs=0.01)


def test_one_trial_a_task_is_mcnemars() -> None:
    """Ties say nothing, wins and losses do."""
    found = compare([[0], [0], [0], [1], [1]] * 4, [[1], [1], [0], [1], [0]] * 4)

    assert (found.wins, found.losses, found.ties) == (8, 4, 8)
    assert (found.a, found.b) == (0.4, 0.6)
    assert found.difference == pytest.approx(0.2)
    assert found.test == "exact McNemar"
    assert found.p_value == mcnemar(8, 4)
    assert found.low < 0 < found.high
    assert not found.differs


def test_a_model_is_no_better_than_itself() -> None:
    """The one comparison whose answer is known."""
    scores = [[0.2, 0.4], [1.0], [0.0, 0.5, 1.0]]

    found = compare(scores, scores)

    assert (found.p_value, found.difference, found.ties) == (1.0, 0.0, 3)
    assert found.low < 0 < found.high


def test_an_interval_that_the_test_does_not_bear_out_is_marked() -> None:
    """Noise of sums is no side of 0, and what test and interval say differently is said."""
    few = compare([[0.0, 0.0]] * 20, [[1 / 3, 2 / 3]] * 4 + [[0.0, 0.0]] * 16)

    assert few.p_value == 0.125
    assert few.disagree == (few.low > 0)
    assert few.low == round(few.low, 12)
    assert not compare([[0, 1]] * 9, [[0, 1]] * 9).disagree


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=12))
def test_swapping_the_models_turns_the_answer_round(pairs: list[tuple[float, float]]) -> None:
    """Nobody is favoured for being named first."""
    a, b = [[one] for one, _ in pairs], [[other] for _, other in pairs]

    there, back = compare(a, b), compare(b, a)

    assert there.p_value == pytest.approx(back.p_value)
    assert there.difference == pytest.approx(-back.difference)
    assert (there.wins, there.losses) == (back.losses, back.wins)


def test_other_tasks_cannot_be_paired() -> None:
    """The mistake that makes a paired test a lie."""
    with pytest.raises(DataError, match="A was scored on 1 tasks and B on 2"):
        compare([[1]], [[1], [0]])


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_rejects_what_stepping_down_rejects(p_values: list[float]) -> None:
    """The procedure as Holm wrote it, for whatever level: reject while p(i) <= level / (m - i)."""
    corrected = holm(p_values)
    for level in (0.01, 0.05, 0.2):
        rejected = set()
        for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
            if p_values[place] * (len(p_values) - rank) > level:
                break
            rejected.add(place)
        assert {place for place, p in enumerate(corrected) if p <= level} == rejected


# ---- power -----------------------------------------------------------------------------------


def test_the_power_of_a_run_is_said_aloud() -> None:
    """The paper's table compares 20 tasks."""
    assert str(power_note(20, 0.92)).startswith(
        "20 tasks cannot separate 0.92 from 0.94: 0.92 of 20 means 0.72-0.98 ("
    )
    assert str(power_note(20_000, 0.92)) == (
        "20,000 tasks can separate 0.92 from 0.94: 0.92 of 20,000 means 0.92-0.92"
    )


@pytest.mark.parametrize(("n", "rate"), [(1, 0.5), (20, 1.0), (20, 0.0), (50, 0.99)])
def test_a_note_can_be_made_of_any_run(n: int, rate: float) -> None:
    """Also where nothing can be shown."""
    assert f"{n} tasks cannot separate" in str(power_note(n, rate))


@pytest.mark.parametrize(
    ("n", "better", "worse"), [(20, 0.35, 0.05), (60, 0.2, 0.05), (200, 0.1, 0.05)]
)
def test_paired_power_is_how_often_the_test_finds_it(n: int, better: float, worse: float) -> None:
    """Exactly: over every number of wins and losses."""
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    found = 0.0
    for wins in range(n + 1):
        for losses in range(n - wins + 1):
            ties = n - wins - losses
            if mcnemar(wins, losses) <= 0.05:
                found += math.exp(
                    logs[n]
                    - logs[wins]
                    - logs[losses]
                    - logs[ties]
                    + wins * math.log(better)
                    + losses * math.log(worse)
                    + ties * math.log1p(-better - worse)
                )

    assert power_paired(n, better - worse, better + worse) == pytest.approx(found, abs=1e-6)


def test_unpaired_power_is_how_often_two_runs_differ() -> None:
    """The usual approximation against dice."""
    rng = np.random.default_rng(0)
    n, a, b = 100, rng.binomial(100, 0.6, 20_000) / 100, rng.binomial(100, 0.78, 20_000) / 100
    mean = (a + b) / 2
    told = np.abs(a - b) > 1.959964 * np.sqrt(2 * mean * (1 - mean) / n)

    assert power_unpaired(n, 0.6, 0.78) == pytest.approx(told.mean(), abs=0.02)


def test_differences_and_tasks_are_two_ways_to_ask_one_thing() -> None:
    """The smallest difference of n tasks takes n tasks."""
    gap = detectable_unpaired(200, 0.7)
    shared = detectable_paired(200, 0.7)

    assert gap is not None
    assert shared is not None
    assert shared < gap  # pairing takes the tasks' difficulty out
    assert tasks_needed_unpaired(0.7, 0.7 + gap) == pytest.approx(200, rel=0.02)
    assert tasks_needed_paired(0.7, 0.7 + shared) == pytest.approx(200, rel=0.05)


def test_what_cannot_be_shown_is_none() -> None:
    """No run of five tasks shows anything at 5 %: even 5 wins to 0 come up 1 time in 16."""
    assert detectable_paired(5, 0.0) is None
    assert detectable_unpaired(20, 0.95) is None
    assert detectable_unpaired(20, 0.95, direction=-1) is not None
    assert tasks_needed_unpaired(0.5, 0.5) is None
