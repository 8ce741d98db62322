"""Is B better than A? The same tasks, paired."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cacherl.core.errors import DataError
from cacherl.core.records import Record
from cacherl.metrics.intervals import LEVEL, Z, bootstrap_mean, task_means

FLIPS = 10_000
_FLIPS_AT_ONCE = 1_000
_ENUMERATED = 14  # tasks that differ: 2^14 ways to swap them are all looked at


class Comparison(Record, frozen=True, kw_only=True):
    """The gain of B over A on the tasks that both were scored on."""

    n: int
    """Tasks."""
    a: float
    b: float
    difference: float
    """b - a."""
    low: float
    high: float
    """95 % interval of the difference for another draw of tasks. Test and interval are two procedures:
    near 0.05 they may disagree by a hair; the test decides."""
    p_value: float
    """P(a difference at least this large | which model is which makes no difference), two-sided."""
    test: str
    """`exact McNemar`, `exact sign flips` or `10000 sign flips`."""
    wins: int
    """Tasks on which B did better."""
    losses: int
    ties: int
    disagree: bool = False
    """Whether test and interval say different things of 0: the test decides."""

    @property
    def differs(self) -> bool:
        """Whether the difference is more than the luck of the draw, at 5 %, for one comparison."""
        return self.p_value <= 1 - LEVEL


def compare(
    a_by_task: Sequence[Sequence[float]], b_by_task: Sequence[Sequence[float]], *, seed: int = 0
) -> Comparison:
    """Return the paired comparison of two models on the same tasks.

    Pairing takes the difficulty of the tasks out. Successes of one trial a task are compared by the exact
    McNemar test, with the interval of Bonett and Price; anything else by swapping the models' names
    within tasks, with the clustered bootstrap (trials of one task stay together). Where every task
    differs by the same amount the bootstrap has no width, and Bonett and Price's wider interval stands.

    Args:
        a_by_task: for each task A's trials, at least one. Scores in [0, 1] or anything else.
        b_by_task: B's, in the same order of tasks; the number of trials may differ.
        seed: of swaps and resamples.

    Raises:
        DataError: there is no task, the two have different numbers of tasks, or a task has no trial.

    Source: McNemar, Psychometrika 12, 1947 (exact: the sign test of the tasks that differ); Bonett and
    Price, British J. Math. Stat. Psych. 65(3), 2012; sign flips: Fisher, The Design of Experiments, 1935,
    with the count of Phipson and Smyth, Stat. Appl. Genet. Mol. Biol. 9(1), 2010.
    """
    if len(a_by_task) != len(b_by_task):
        raise DataError(
            f"A was scored on {len(a_by_task)} tasks and B on {len(b_by_task)}. "
            "Compare the tasks that both have; run both with the same suite, split and seed."
        )
    a_T, b_T = task_means(a_by_task), task_means(b_by_task)
    gain_T = b_T - a_T
    gain_T[np.abs(gain_T) < 1e-12] = 0.0
    wins, losses = int((gain_T > 0).sum()), int((gain_T < 0).sum())
    if _is_binary(a_by_task) and _is_binary(b_by_task):
        p_value, test = mcnemar(wins, losses), "exact McNemar"
        low, high = paired_interval(wins, losses, len(gain_T))
    else:
        p_value, test = sign_flips(gain_T, seed=seed)
        if np.ptp(gain_T) == 0 and np.abs(gain_T).max() <= 1:
            low, high = _adjusted(gain_T)
        else:
            found = bootstrap_mean([(float(gain),) for gain in gain_T], seed=seed)
            low, high = found.low, found.high
    # 2.8e-18 is 0: resamples of equal gains add up to it or not by the order of the sum.
    low, high = round(low, 12) + 0.0, round(high, 12) + 0.0
    return Comparison(
        n=len(gain_T),
        a=float(a_T.mean()),
        b=float(b_T.mean()),
        difference=float(gain_T.mean()),
        low=low,
        high=high,
        p_value=p_value,
        test=test,
        wins=wins,
        losses=losses,
        ties=len(gain_T) - wins - losses,
        disagree=(p_value <= 1 - LEVEL) != (low > 0 or high < 0),
    )


def _is_binary(values_by_task: Sequence[Sequence[float]]) -> bool:
    return all(len(values) == 1 and values[0] in (0, 1) for values in values_by_task)


def mcnemar(wins: int, losses: int) -> float:
    """Return the exact two-sided p value of so many wins and losses; ties say nothing.

    Source: McNemar, Psychometrika 12, 1947.
    """
    n, fewer = wins + losses, min(wins, losses)
    # Whole numbers until the end: 0.5 ** n is zero from 1,075 on.
    tail = sum(math.comb(n, k) for k in range(fewer + 1))
    return min(1.0, 2 * tail / (1 << n))


def paired_interval(wins: int, losses: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of the difference of two success rates on the same `n` tasks.

    Wald's interval once a win and a loss are added: covers 0.94 and more from 10 tasks on.

    Source: Bonett and Price, British J. Math. Stat. Psych. 65(3), 2012.
    """
    return _adjusted(np.repeat([1.0, -1.0, 0.0], [wins, losses, n - wins - losses]))


def _adjusted(gain_T: NDArray[np.float64]) -> tuple[float, float]:
    padded = np.concatenate([gain_T, [1.0, -1.0]])
    middle, reach = float(padded.mean()), Z * float(padded.std()) / math.sqrt(len(padded))
    return max(-1.0, middle - reach), min(1.0, middle + reach)


def sign_flips(gain_T: NDArray[np.float64], *, seed: int = 0) -> tuple[float, str]:
    """Return the two-sided p value of a mean gain when the models may be swapped in any task, and the test.

    Exact where few tasks differ, else by 10,000 random swaps, the one that was observed among them.

    Source: see `compare`.
    """
    sizes_T = np.abs(gain_T[gain_T != 0])
    observed = abs(float(gain_T.sum())) - 1e-9
    if len(sizes_T) <= _ENUMERATED:
        bits = (np.arange(2 ** len(sizes_T))[:, None] >> np.arange(len(sizes_T))) & 1
        sums = (2 * bits - 1) @ sizes_T
        return float((np.abs(sums) >= observed).mean()), "exact sign flips"
    rng = np.random.default_rng(seed)
    sums = np.concatenate(
        [
            _swapped(rng, sizes_T, min(_FLIPS_AT_ONCE, FLIPS - n))
            for n in range(0, FLIPS, _FLIPS_AT_ONCE)
        ]
    )
    return (1 + float((np.abs(sums) >= observed).sum())) / (1 + FLIPS), f"{FLIPS} sign flips"


def _swapped(
    rng: np.random.Generator, sizes_T: NDArray[np.float64], flips: int
) -> NDArray[np.float64]:
    """Return the sums of so many random swaps; a swap is one random bit."""
    width = -(-len(sizes_T) // 8)
    random = np.frombuffer(rng.bytes(flips * width), dtype=np.uint8).reshape(flips, width)
    bits = np.unpackbits(random, axis=1, count=len(sizes_T))
    return np.asarray(2 * (bits @ sizes_T) - sizes_T.sum())


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Return p values corrected for their number: at most 5 % of such families hold any false alarm.

    Source: Holm, Scandinavian J. Statistics 6(2), 1979.
    """
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    corrected, least = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = least
    return tuple(corrected)
