"""How sure a figure is: intervals that stay honest at 20 tasks and near 1.

What was tried (`tests/metrics/test_coverage.py` holds the winners to it): at n = 20 and p = 0.95 the
percentile bootstrap of a success rate covers the truth 64 times in 100, not 95: one run in three has no
failure at all, and its interval no width. So shares and scores in [0, 1] get Wilson's interval, with tasks
as the unit, and the bootstrap is left to what has no bounds.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cacherl.core.errors import DataError
from cacherl.core.records import Record

LEVEL = 0.95
RESAMPLES = 2000
_DRAWS_AT_ONCE = 2_000_000  # indices held while resampling, about 16 MB
_NORMAL = NormalDist()
Z = _NORMAL.inv_cdf((1 + LEVEL) / 2)


class Method(enum.StrEnum):
    """Where an interval comes from."""

    WILSON = "wilson"
    """Of a share of independent tasks."""
    CLUSTERED_WILSON = "clustered wilson"
    """Of a score in [0, 1], with as many tasks as the spread between tasks is worth."""
    BOOTSTRAP = "clustered bootstrap"
    """Tasks resampled, their trials kept together; BCa."""


class Measured(Record, frozen=True, kw_only=True):
    """A figure, its 95 % interval and what it stands on. Never shown without `n`."""

    value: float
    low: float
    high: float
    n: int
    """Tasks, or whatever else was drawn independently."""
    method: Method

    def __str__(self) -> str:
        """`0.920 (0.724-0.980, n = 20)`."""
        return f"{self.value:.3f} ({self.low:.3f}-{self.high:.3f}, n = {self.n})"


# ---- shares and scores -----------------------------------------------------------------------


def wilson(successes: float, n: float, *, z: float = Z) -> tuple[float, float]:
    """Return the interval of a share, within [0, 1]; `n` may be an effective number.

    Source: Wilson, JASA 22(158), 1927.
    """
    share = min(1.0, max(0.0, successes / n))
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    middle, scale = share + z * z / (2 * n), 1 + z * z / n
    low = 0.0 if share == 0 else max(0.0, (middle - spread) / scale)
    high = 1.0 if share == 1 else min(1.0, (middle + spread) / scale)
    return min(low, share), max(high, share)


def proportion(successes: int, n: int) -> Measured:
    """Return the share of successes among `n` tasks of one trial each, with Wilson's interval.

    For several trials a task use `score_mean`: trials of one task resemble one another, and counting
    them as tasks makes the interval too narrow.

    Raises:
        DataError: `n` is 0, or there are more successes than tasks.
    """
    if not 0 <= successes <= n or n == 0:
        raise DataError(
            f"{successes} successes of {n} tasks have no share. Score at least one task first."
        )
    low, high = wilson(successes, n)
    return Measured(value=successes / n, low=low, high=high, n=n, method=Method.WILSON)


def score_mean(values_by_task: Sequence[Sequence[float]]) -> Measured:
    """Return the mean over tasks of a score in [0, 1], every task counting once, with its interval.

    Successes of one trial a task get Wilson's interval. Anything else gets Wilson's with the number of
    independent yes-or-no tasks that would spread as much as these tasks do (never fewer than there are:
    no score in [0, 1] spreads more), and Student's quantile in place of the normal one. Where all tasks
    score alike that is Wilson's interval of so many tasks, not a point. Covers 0.92 to 0.98 from 20 tasks
    on for means up to 0.9. Nearer to 1 it may cover less where trials or parts are uneven: at a mean of
    0.95, 0.88 with 20 tasks of eight trials (the percentile bootstrap: 0.82) and 0.92 with 50.

    Args:
        values_by_task: for each task its trials, at least one.

    Raises:
        DataError: there is no task, or a task has no trial or a score outside [0, 1].

    Source: Wilson, JASA 22(158), 1927; effective numbers as in Korn and Graubard, Survey Methodology
    24(2), 1998.
    """
    means_T = task_means(values_by_task)
    if means_T.min() < 0 or means_T.max() > 1:
        raise DataError(
            f"a score of {means_T.min():g} to {means_T.max():g} is none in [0, 1]. "
            "Use `bootstrap_mean` for what has no bounds."
        )
    n, mean = len(means_T), float(means_T.mean())
    if bool(np.isin(means_T, (0.0, 1.0)).all()) and all(len(v) == 1 for v in values_by_task):
        return proportion(round(mean * n), n)
    variance = float(means_T.var(ddof=1)) / n if n > 1 else 0.0
    worth = n if variance == 0 else max(float(n), mean * (1 - mean) / variance)
    low, high = wilson(mean * worth, worth, z=student(n - 1))
    return Measured(value=mean, low=low, high=high, n=n, method=Method.CLUSTERED_WILSON)


def share_of(parts_T: ArrayLike, wholes_T: ArrayLike) -> Measured | None:
    """Return all parts over all wholes with the interval for another draw of tasks; None for no whole.

    Micro precision, recall, rates a call: a task with ten calls counts ten times, and its calls stand or
    fall together. Where parts are all or nothing everywhere, as for no invented tool in any task, the
    interval is Wilson's of so many tasks.

    Args:
        parts_T: for each task, in [0, whole].
        wholes_T: for each task, at least 0.

    Raises:
        DataError: the two differ in length, or a part is more than its whole.

    Source: the linearised ratio of Cochran, Sampling Techniques, 1977, section 6; Wilson as above.
    """
    parts, wholes = np.asarray(parts_T, dtype=float), np.asarray(wholes_T, dtype=float)
    if parts.shape != wholes.shape or (parts > wholes).any() or (parts < 0).any():
        raise DataError(
            "a share needs one part within each whole. This is a mistake of the caller; report it."
        )
    counted = wholes > 0
    parts, wholes = parts[counted], wholes[counted]
    n, whole = len(parts), float(wholes.sum())
    if n == 0:
        return None
    share = float(parts.sum()) / whole
    left = parts - share * wholes
    variance = float((left**2).sum()) / whole**2 * (n / (n - 1) if n > 1 else 1.0)
    worth = float(n) if variance <= 1e-18 else share * (1 - share) / variance
    low, high = wilson(share * worth, worth, z=student(n - 1))
    return Measured(value=share, low=low, high=high, n=n, method=Method.CLUSTERED_WILSON)


def student(freedom: int) -> float:
    """Return the two-sided 95 % quantile of Student's t; the normal one where nothing is free.

    Source: the distribution function of Abramowitz and Stegun, 26.7.3 and 26.7.4.
    """
    if freedom < 1 or freedom > 1000:
        return Z
    low, high = Z, 13.0  # 12.7 at one degree of freedom
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < LEVEL else (low, middle)
    return high


def _within(t: float, freedom: int) -> float:
    """Return P(-t < T < t)."""
    angle = math.atan(t / math.sqrt(freedom))
    cosine2 = math.cos(angle) ** 2
    if freedom % 2:
        term = total = math.cos(angle) if freedom > 1 else 0.0
        for k in range(3, freedom - 1, 2):
            term *= cosine2 * (k - 1) / k
            total += term
        return 2 / math.pi * (angle + math.sin(angle) * total)
    term = total = 1.0
    for k in range(2, freedom - 1, 2):
        term *= cosine2 * (k - 1) / k
        total += term
    return math.sin(angle) * total


# ---- anything else ---------------------------------------------------------------------------


def bootstrap_mean(values_by_task: Sequence[Sequence[float]], *, seed: int = 0) -> Measured:
    """Return the mean over tasks of anything (seconds, tokens, turns, dollars), with its interval.

    Tasks are resampled, and the trials of a task stay together: another run would draw other tasks.
    BCa, widened for few tasks, covers about 0.94 of the time for token counts at 20 tasks; for long
    tails such as seconds 0.90 at 20 tasks, 0.95 at 200. It cannot see beyond the largest value met, and
    has no width where all are equal: for scores in [0, 1] use `score_mean`.

    Raises:
        DataError: there is no task, or a task has no trial.

    Source: BCa of Efron, JASA 82(397), 1987; widened as in Hesterberg, The American Statistician 69(4),
    2015; clusters as in Davison and Hinkley, Bootstrap Methods, 1997, section 3.8.
    """
    means_T = task_means(values_by_task)
    return _bootstrap(
        lambda draws: means_T[draws].mean(axis=1),
        float(means_T.mean()),
        means_T - means_T.mean(),
        seed,
    )


def bootstrap_ratio(parts_T: ArrayLike, wholes_T: ArrayLike, *, seed: int = 0) -> Measured | None:
    """Return all parts over all wholes (dollars a successful task, tokens a call); None for no whole.

    Tasks are resampled with part and whole together. A resample without a whole says nothing and is
    left out. Source: as `bootstrap_mean`.
    """
    parts, wholes = np.asarray(parts_T, dtype=float), np.asarray(wholes_T, dtype=float)
    if not len(wholes) or wholes.sum() <= 0:
        return None
    ratio = float(parts.sum() / wholes.sum())

    def statistic(draws: NDArray[np.int32]) -> NDArray[np.float64]:
        whole = wholes[draws].sum(axis=1)
        found = whole > 0
        return np.asarray(parts[draws].sum(axis=1)[found] / whole[found])

    return _bootstrap(statistic, ratio, parts - ratio * wholes, seed)


def task_means(values_by_task: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """Return the mean of each task's trials.

    Raises:
        DataError: there is no task, or a task has no trial.
    """
    if not values_by_task or not all(len(values) for values in values_by_task):
        raise DataError(
            "a task without a trial has no mean. Score every task at least once, or leave it out."
        )
    if all(len(values) == 1 for values in values_by_task):
        return np.array([values[0] for values in values_by_task], dtype=float)
    return np.array([sum(values) / len(values) for values in values_by_task], dtype=float)


def _bootstrap(
    statistic: Callable[[NDArray[np.int32]], NDArray[np.float64]],
    value: float,
    influence_T: NDArray[np.float64],
    seed: int,
) -> Measured:
    n = len(influence_T)
    rng = np.random.default_rng(seed)
    chunk = max(1, _DRAWS_AT_ONCE // n)
    found = np.concatenate(
        [
            statistic(rng.integers(n, size=(min(chunk, RESAMPLES - start), n), dtype=np.int32))
            for start in range(0, RESAMPLES, chunk)
        ]
    )
    low, high = (float(edge) for edge in np.quantile(found, _levels(found, value, influence_T)))
    return Measured(
        value=value,
        low=min(low, value),
        high=max(high, value),
        n=n,
        method=Method.BOOTSTRAP,
    )


def _levels(
    found: NDArray[np.float64], value: float, influence_T: NDArray[np.float64]
) -> tuple[float, float]:
    """Return the quantiles of the resampled values at which the interval ends."""
    n = len(influence_T)
    reach = student(n - 1) * math.sqrt(n / (n - 1)) if n > 1 else Z
    size = float((influence_T**2).sum())
    if size == 0:
        return _NORMAL.cdf(-reach), _NORMAL.cdf(reach)
    tie = 1e-12 * max(1.0, abs(value))
    below = float((found < value - tie).mean() + (np.abs(found - value) <= tie).mean() / 2)
    bias = _NORMAL.inv_cdf(min(max(below, 1 / len(found)), 1 - 1 / len(found)))
    skew = float((influence_T**3).sum()) / (6 * size**1.5)

    def level(at: float) -> float:
        shifted = bias + at
        # A tail too long to be told from so few tasks: the end of what was met.
        scale = max(1e-3, 1 - skew * shifted)
        return min(1.0, max(0.0, _NORMAL.cdf(bias + shifted / scale)))

    return level(-reach), level(reach)
