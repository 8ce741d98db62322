"""Do 95 % intervals cover the truth 95 times in 100? Simulated evaluations whose truth is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from cacherl.metrics import (
    Measured,
    bootstrap_mean,
    bootstrap_ratio,
    compare,
    proportion,
    score_mean,
    share_of,
)
from cacherl.metrics.comparison import paired_interval
from cacherl.metrics.intervals import student

EVALUATIONS = 1000
"""With 200 an interval that covers exactly 0.95 leaves the band 1 time in 15 by the dice alone; with 1,000, 1 in
100,000. So a failure here is the interval's, and no seed was chosen."""
FEWER = 400
"""Where an interval takes milliseconds: then 1 time in 100."""
LEAST, MOST = 0.92, 0.98

Draw = Callable[[np.random.Generator, int], list[list[float]]]


def coverage(
    interval: Callable[[int], Measured | None], truth: float, evaluations: int = EVALUATIONS
) -> float:
    found = [interval(seed) for seed in range(evaluations)]
    held = [each is not None and each.low - 1e-9 <= truth <= each.high + 1e-9 for each in found]
    return sum(held) / evaluations


@pytest.mark.parametrize("n", [20, 50, 100, 200])
@pytest.mark.parametrize("p", [0.5, 0.6, 0.7, 0.8, 0.9, 0.95])
def test_wilson_covers_a_success_rate(n: int, p: float) -> None:
    """Exactly, over every number of successes: no draw of the dice decides this one."""
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    k = np.arange(n + 1)
    chance = np.exp(logs[n] - logs[k] - logs[n - k] + k * math.log(p) + (n - k) * math.log1p(-p))
    held = [found.low <= p <= found.high for found in (proportion(int(c), n) for c in k)]

    assert LEAST <= float(chance[held].sum()) <= MOST


@pytest.mark.parametrize(
    ("n", "p"), [(20, 0.5), (20, 0.7), (20, 0.9), (60, 0.7), (60, 0.95), (200, 0.5), (200, 0.95)]
)
def test_simulated_evaluations_cover_a_success_rate(n: int, p: float) -> None:
    """The same with dice, as a reader would try it."""

    def evaluation(seed: int) -> Measured:
        drawn = np.random.default_rng([seed, n, round(100 * p)]).random(n) < p
        return score_mean(drawn.astype(float)[:, None].tolist())

    assert LEAST <= coverage(evaluation, p) <= MOST


def trials(p: float, k: int) -> Draw:
    def draw(rng: np.random.Generator, n: int) -> list[list[float]]:
        hard = rng.beta(2 * p, 2 * (1 - p), n)
        drawn: list[list[float]] = (rng.random((n, k)) < hard[:, None]).astype(float).tolist()
        return drawn

    return draw


def partly(rng: np.random.Generator, n: int) -> list[list[float]]:
    """Process accuracy as it comes: mostly whole, else in fifths. Its mean is 0.82."""
    drawn: list[list[float]] = np.where(
        rng.random((n, 1)) < 0.7, 1.0, rng.integers(0, 5, (n, 1)) / 5
    ).tolist()
    return drawn


@pytest.mark.parametrize("n", [20, 60, 200])
@pytest.mark.parametrize(
    ("draw", "truth"),
    [(trials(0.5, 4), 0.5), (trials(0.8, 4), 0.8), (trials(0.9, 4), 0.9), (partly, 0.82)],
)
def test_scores_with_trials_and_parts_cover(draw: Draw, truth: float, n: int) -> None:
    """Trials of one task resemble one another: counted as tasks, they would make the interval too narrow."""

    def evaluation(seed: int) -> Measured:
        return score_mean(draw(np.random.default_rng([seed, n]), n))

    assert LEAST <= coverage(evaluation, truth) <= MOST


def test_trials_counted_as_tasks_do_not_cover() -> None:
    """What clustering is for."""

    def evaluation(seed: int) -> Measured:
        drawn = trials(0.7, 8)(np.random.default_rng(seed), 40)
        return score_mean([[trial] for task in drawn for trial in task])

    assert coverage(evaluation, 0.7) < 0.8


@pytest.mark.parametrize("n", [20, 100])
def test_rates_a_call_cover(n: int) -> None:
    """Micro figures: tasks have 1 to 10 calls, and hard tasks fail in all of them."""

    def evaluation(seed: int) -> Measured | None:
        rng = np.random.default_rng([seed, n])
        calls = rng.integers(1, 11, n)
        return share_of(rng.binomial(calls, rng.beta(8, 2, n)), calls)

    assert LEAST <= coverage(evaluation, 0.8) <= MOST


@pytest.mark.parametrize("n", [20, 100])
def test_the_bootstrap_covers_tokens(n: int) -> None:
    """Skewed, without bounds, with trials that stay together."""

    def draw(rng: np.random.Generator) -> NDArray[np.float64]:
        return rng.gamma(4, 100, n)[:, None] * rng.uniform(0.8, 1.2, (n, 3))

    def evaluation(seed: int) -> Measured:
        return bootstrap_mean(draw(np.random.default_rng([seed, n])).tolist(), seed=seed)

    assert LEAST <= coverage(evaluation, 400, FEWER) <= MOST


def test_the_bootstrap_covers_dollars_a_success() -> None:
    """A ratio of two things that vary together."""

    def evaluation(seed: int) -> Measured | None:
        rng = np.random.default_rng(seed)
        won = rng.random(80) < 0.6
        return bootstrap_ratio(rng.gamma(4, 0.01, 80) * np.where(won, 1, 2), won, seed=seed)

    assert LEAST <= coverage(evaluation, 0.04 * (0.6 + 0.8) / 0.6, FEWER) <= MOST


@pytest.mark.parametrize(
    ("n", "better", "worse"), [(20, 0.2, 0.1), (50, 0.1, 0.1), (200, 0.1, 0.02)]
)
def test_the_interval_of_a_paired_difference_covers(n: int, better: float, worse: float) -> None:
    """Over every way the tasks can fall."""
    held = total = 0.0
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    for wins in range(n + 1):
        losses = np.arange(n - wins + 1)
        ties = n - wins - losses
        chance = np.exp(
            logs[n]
            - logs[wins]
            - logs[losses]
            - logs[ties]
            + wins * math.log(better)
            + losses * math.log(worse)
            + ties * math.log1p(-better - worse)
        )
        for loss, weight in zip(losses, chance, strict=True):
            if weight > 1e-9:
                low, high = paired_interval(wins, int(loss), n)
                total += float(weight)
                held += float(weight) * (low <= better - worse <= high)

    assert LEAST <= held / total <= MOST


@pytest.mark.parametrize("k", [1, 3])
def test_equal_models_rarely_differ(k: int) -> None:
    """At 5 % a test may cry wolf 1 time in 20, and no more."""

    def alarm(seed: int) -> bool:
        rng = np.random.default_rng([seed, k])
        hard = rng.beta(2, 1, 40)
        a, b = ((rng.random((40, k)) < hard[:, None]).astype(float).tolist() for _ in "ab")
        return compare(a, b, seed=seed).differs

    assert sum(map(alarm, range(FEWER))) / FEWER <= 0.08


@pytest.mark.parametrize("n", [20])
def test_paired_intervals_over_trials_cover(n: int) -> None:
    """B is 0.1 better on every task, in trials of its own."""

    def evaluation(seed: int) -> Measured:
        rng = np.random.default_rng([seed, n])
        hard = rng.beta(2, 2, n) * 0.9
        a = (rng.random((n, 4)) < hard[:, None]).astype(float).tolist()
        b = (rng.random((n, 4)) < hard[:, None] + 0.1).astype(float).tolist()
        found = compare(a, b, seed=seed)
        return Measured(
            value=found.difference, low=found.low, high=found.high, n=n, method=score_mean(a).method
        )

    assert LEAST <= coverage(evaluation, 0.1, FEWER) <= MOST


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (10, 2.2281), (19, 2.0930), (200, 1.9719)],
)
def test_students_quantile_is_that_of_the_tables(freedom: int, quantile: float) -> None:
    """Ours, since scipy is no dependency of evaluation."""
    assert student(freedom) == pytest.approx(quantile, abs=1e-4)
