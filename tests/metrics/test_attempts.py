"""Several trials of a task."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacherl.core.errors import DataError
from cacherl.metrics import attempt_curve, pass_at_k, pass_hat_k


@given(
    st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n)))
)
def test_both_estimators_are_the_share_of_all_choices_of_k_trials(
    case: tuple[int, int, int],
) -> None:
    """Published figures are these estimators; a plug-in (c/n)^k is biased and looks alike."""
    n, c, k = case
    trials = [True] * c + [False] * (n - c)
    chosen = list(itertools.combinations(trials, k))

    assert pass_at_k([c], n, k)[0] == sum(map(any, chosen)) / len(chosen)
    assert pass_hat_k([c], n, k)[0] == sum(map(all, chosen)) / len(chosen)


@given(st.lists(st.tuples(st.integers(3, 9), st.integers(0, 3)), min_size=1, max_size=20))
def test_tasks_are_scored_as_if_each_stood_alone(tasks: list[tuple[int, int]]) -> None:
    """Vectorised must not mean mixed up."""
    n, c = [n for n, _ in tasks], [c for _, c in tasks]

    together = pass_hat_k(c, n, 3)

    assert together.tolist() == [pass_hat_k([each], size, 3)[0] for size, each in tasks]


def test_too_few_trials_name_the_task_and_the_command() -> None:
    """pass^4 of three trials is not a number; guessing it would be worse than stopping."""
    with pytest.raises(DataError, match=r"pass\^4 needs 4 .*task number 2 has 3.*--trials 4"):
        pass_hat_k([1, 1], [4, 3], 4)


def test_the_two_figures_start_together_and_part() -> None:
    """With k one climbs to luck, the other falls to reliability."""
    curve = attempt_curve([2, 4, 0, 3], [4, 4, 4, 4])

    assert curve[0].pass_at_k == curve[0].pass_hat_k
    assert [p.k for p in curve] == [1, 2, 3, 4]
    assert curve[-1].pass_at_k.value == 0.75
    assert curve[-1].pass_hat_k.value == 0.25
