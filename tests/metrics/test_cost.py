"""What it cost, and what a success cost."""

from __future__ import annotations

import statistics

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacherl.core.errors import DataError
from cacherl.metrics import EpisodeCost, cost_summary, spread


def cost(task_id: str, *, success: bool = True, dollars: float | None = 0.01) -> EpisodeCost:
    return EpisodeCost(
        task_id=task_id,
        success=success,
        model_s=2.0,
        tools_s=1.0,
        prompt_tokens=90,
        completion_tokens=10,
        dollars=dollars,
    )


def test_a_success_pays_for_the_failures_before_it() -> None:
    """Cheap and wrong is dear."""
    found = cost_summary([cost("a"), cost("b", success=False), cost("c", success=False)])

    assert found.dollars_per_task is not None
    assert found.dollars_per_success is not None
    assert found.dollars_per_task.value == pytest.approx(0.01)
    assert found.dollars_per_success.value == pytest.approx(0.03)
    assert found.tokens_per_success == 300
    assert found.wall_s.mean == 3.0


def test_without_a_success_nobody_knows_what_one_costs() -> None:
    """Never infinite: a page would print it, and JSON could not hold it."""
    found = cost_summary([cost("a", success=False)])

    assert found.dollars_per_success is None
    assert found.tokens_per_success is None
    assert b"null" in msgspec.json.encode(found)


def test_one_unknown_price_makes_the_sum_unknown() -> None:
    """A sum over the priced half would look like the whole."""
    found = cost_summary([cost("a"), cost("b", dollars=None)])

    assert (found.dollars, found.dollars_per_task, found.unpriced) == (None, None, 1)


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=60))
def test_the_spread_is_that_of_the_textbook(values: list[float]) -> None:
    """Mean, sample deviation, and a percentile with 95 in 100 at or below it."""
    found = spread(values)

    assert found.mean == pytest.approx(statistics.fmean(values))
    assert found.sd == pytest.approx(statistics.stdev(values), abs=1e-6)
    expected = statistics.quantiles(values, n=100, method="inclusive")[94]
    assert found.p95 == pytest.approx(expected)
    assert found.most == max(values)


def test_one_episode_has_no_deviation() -> None:
    """Zero would claim that it never varies."""
    assert spread([3.0]).sd is None


def test_nothing_played_costs_nothing_that_can_be_said() -> None:
    """An empty evaluation is a mistake, not a row of zeros."""
    with pytest.raises(DataError):
        cost_summary([])
