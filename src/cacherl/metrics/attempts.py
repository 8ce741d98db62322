"""Several trials of a task: does one of k succeed, do all k?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cacherl.core.errors import DataError
from cacherl.core.records import Record
from cacherl.metrics.intervals import Measured, score_mean

_Formula = Callable[[int, int, int], float]


def pass_at_k(successes_T: ArrayLike, trials_T: ArrayLike, k: int) -> NDArray[np.float64]:
    """Return for each task the chance that at least one of `k` trials succeeds: 1 - C(n-c, k) / C(n, k).

    The share of all choices of k among the task's n trials that hold a success; unbiased, exact to the
    last digit. The mean over tasks is the benchmark's figure.

    Args:
        successes_T: c, successes of each task.
        trials_T: n, trials of each task, or one number for all.
        k: trials that one may make.

    Raises:
        DataError: a task has fewer than `k` trials, or `k` is below 1.

    Source: Chen et al., arXiv:2107.03374, section 2.1.
    """
    return _of_pairs(successes_T, trials_T, k, "pass@", _at_least_one)


def pass_hat_k(successes_T: ArrayLike, trials_T: ArrayLike, k: int) -> NDArray[np.float64]:
    """Return for each task the chance that all of `k` trials succeed: C(c, k) / C(n, k).

    Reliability, where `pass_at_k` is luck. Arguments and errors are those of `pass_at_k`.

    Source: tau-bench, arXiv:2406.12045; the same formula in tau2-bench, `src/tau2/metrics/agent_metrics.py`.
    """
    return _of_pairs(successes_T, trials_T, k, "pass^", _all)


def _at_least_one(n: int, c: int, k: int) -> float:
    # Whole numbers divided last: correctly rounded, where a product of floats is not.
    every = math.comb(n, k)
    return (every - math.comb(n - c, k)) / every


def _all(n: int, c: int, k: int) -> float:
    return math.comb(c, k) / math.comb(n, k)


class AttemptPoint(Record, frozen=True, kw_only=True):
    """What `k` trials are worth."""

    k: int
    pass_at_k: Measured
    pass_hat_k: Measured


def attempt_curve(successes_T: Sequence[int], trials_T: Sequence[int]) -> tuple[AttemptPoint, ...]:
    """Return both figures for every k up to the fewest trials of a task, with intervals over tasks.

    Raises:
        DataError: there is no task, or a task has no trial.
    """
    most = min(trials_T, default=0)
    if most < 1:
        raise DataError(
            "no task was tried, so nothing can be said of attempts. Use `--trials 1` or more."
        )
    return tuple(
        AttemptPoint(
            k=k,
            pass_at_k=score_mean([(float(v),) for v in pass_at_k(successes_T, trials_T, k)]),
            pass_hat_k=score_mean([(float(v),) for v in pass_hat_k(successes_T, trials_T, k)]),
        )
        for k in range(1, most + 1)
    )


def _of_pairs(
    successes_T: ArrayLike, trials_T: ArrayLike, k: int, name: str, formula: _Formula
) -> NDArray[np.float64]:
    successes = np.atleast_1d(np.asarray(successes_T, dtype=np.int64))
    trials = np.broadcast_to(np.asarray(trials_T, dtype=np.int64), successes.shape)
    if k < 1:
        raise DataError(f"{name}{k} means nothing: k is at least 1.")
    short = np.flatnonzero(trials < k)
    if len(short):
        place = int(short[0])
        raise DataError(
            f"{name}{k} needs {k} trials of every task; {len(short)} of {len(trials)} have fewer (task "
            f"number {place + 1} has {trials[place]}). Run with `--trials {k}`, or ask for a smaller k."
        )
    if (successes < 0).any() or (successes > trials).any():
        raise DataError(
            "a task has more successes than trials. Check the rows it was counted from."
        )
    pairs, which = np.unique(np.stack([trials, successes]), axis=1, return_inverse=True)
    found = np.array([formula(int(n), int(c), k) for n, c in pairs.T], dtype=float)
    return np.asarray(found[which.reshape(-1)])
