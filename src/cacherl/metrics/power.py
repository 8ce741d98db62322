"""What a run of n tasks can and cannot tell, said before anyone reads a difference into it."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from cacherl.core.errors import DataError
from cacherl.core.records import Record
from cacherl.metrics.intervals import LEVEL, Z, wilson

POWER = 0.8
_NORMAL = NormalDist()
_MOST_TASKS = 1_000_000
_NEXT = 0.02  # the difference people read into a table of two-digit rates


class PowerNote(Record, frozen=True, kw_only=True):
    """What a run of so many tasks is worth."""

    n: int
    rate: float
    other: float
    low: float
    high: float
    """What `rate` of `n` means."""
    power: float
    """Of telling `rate` from `other` with this many tasks in each of two separate runs, in [0, 1]."""
    detectable: float | None
    """The smallest difference from `rate`, up or down, that two such runs show with 80 % power."""
    tasks_needed: int | None
    """In each of two runs, to tell `rate` from `other` with 80 % power; None: more than a million."""

    def __str__(self) -> str:
        """One sentence for a report."""
        able = "can" if self.power >= POWER else "cannot"
        plain = (
            f"{self.n:,} tasks {able} separate {self.rate:.2f} from {self.other:.2f}: "
            f"{self.rate:.2f} of {self.n:,} means {self.low:.2f}-{self.high:.2f}"
        )
        if able == "can":
            return plain
        if self.detectable is None:
            shown = "nothing shows in 4 runs of 5"
        else:
            shown = f"a difference of {self.detectable:.2f} shows in 4 runs of 5"
        needed = "over a million" if self.tasks_needed is None else f"{self.tasks_needed:,}"
        return f"{plain} ({shown}; this one takes {needed} tasks)"


def power_note(
    n: int,
    rate: float,
    other: float | None = None,
    *,
    interval: tuple[float, float] | None = None,
) -> PowerNote:
    """Return what `n` tasks say of a success rate; as text, one sentence.

    >>> print(str(power_note(20, 0.92)).partition(" (")[0])
    20 tasks cannot separate 0.92 from 0.94: 0.92 of 20 means 0.72-0.98

    Args:
        n: tasks, one trial each.
        rate: in [0, 1].
        other: the rate to tell it from; None: two points higher, or lower near 1.
        interval: of `rate`, where it was measured otherwise than by one trial a task; None: Wilson's.

    Raises:
        DataError: `n` is below 1 or a rate lies outside [0, 1].
    """
    if other is None:
        other = rate + _NEXT if rate + _NEXT <= 1 else rate - _NEXT
    if n < 1 or not (0 <= rate <= 1 and 0 <= other <= 1):
        raise DataError(
            f"{rate} and {other} of {n} tasks: give rates in [0, 1] and one task or more."
        )
    low, high = wilson(rate * n, n) if interval is None else interval
    reachable = [
        found
        for direction in (1, -1)
        if (found := detectable_unpaired(n, rate, direction=direction)) is not None
    ]
    return PowerNote(
        n=n,
        rate=rate,
        other=other,
        low=low,
        high=high,
        power=power_unpaired(n, rate, other),
        detectable=min(reachable, default=None),
        tasks_needed=tasks_needed_unpaired(rate, other),
    )


# ---- two runs on different tasks -------------------------------------------------------------


def power_unpaired(n: int, rate: float, other: float) -> float:
    """Return the chance that two runs of `n` tasks each differ at 5 %, by the test of two proportions.

    Source: Fleiss, Levin and Paik, Statistical Methods for Rates and Proportions, 2003, section 4.2.
    """
    gap, mean = abs(rate - other), (rate + other) / 2
    if gap == 0:
        return 1 - LEVEL
    apart = math.sqrt(rate * (1 - rate) + other * (1 - other))
    alike = math.sqrt(2 * mean * (1 - mean))
    if apart == 0:
        return 1.0 if gap * math.sqrt(n) > Z * alike else 0.0
    return _NORMAL.cdf((gap * math.sqrt(n) - Z * alike) / apart)


def detectable_unpaired(
    n: int, rate: float, *, direction: int = 1, power: float = POWER
) -> float | None:
    """Return the smallest difference that two runs of `n` tasks show with that power, or None.

    Args:
        n: tasks of each run.
        rate: of the first run's model.
        direction: 1 for a better second model, -1 for a worse one.
        power: in (0, 1).
    """
    most = 1 - rate if direction > 0 else rate

    def enough(gap: float) -> bool:
        return power_unpaired(n, rate, min(1.0, max(0.0, rate + direction * gap))) >= power

    return _smallest(most, enough)


def tasks_needed_unpaired(rate: float, other: float, *, power: float = POWER) -> int | None:
    """Return the tasks that each of two runs needs to tell the rates apart; None: over a million."""
    return _fewest(lambda n: power_unpaired(n, rate, other) >= power) if rate != other else None


# ---- two models on the same tasks ------------------------------------------------------------


def power_paired(n: int, difference: float, discordance: float) -> float:
    """Return the chance that the exact McNemar test of `comparison.compare` finds a difference at 5 %.

    Not an approximation: every number of tasks that may differ, and every split of them, is looked at.

    Args:
        n: tasks, on which both models are scored once.
        difference: of the two success rates.
        discordance: share of tasks on which exactly one of the two succeeds, at least `difference`.
            `independent_discordance` is what models without anything in common have; about half of
            it is usual for two checkpoints of one model.

    Source: Connor, Biometrics 43(1), 1987, without his approximation.
    """
    gap = abs(difference)
    if not gap <= discordance <= 1:
        raise DataError(
            f"rates {gap:g} apart differ on {gap:g} of the tasks or more, not on {discordance:g}. "
            "Give a discordance of at least the difference."
        )
    if discordance == 0:
        return 0.0
    share = (discordance + gap) / (2 * discordance)
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    reach = 10 * math.sqrt(n * discordance * (1 - discordance)) + 10
    first = max(0, math.floor(n * discordance - reach))
    last = min(n, math.ceil(n * discordance + reach))
    found = 0.0
    for differing in range(first, last + 1):
        weight = float(_binomial(logs, n, np.array([differing]), discordance)[0])
        if weight < 1e-12:
            continue
        wins = np.arange(differing + 1)
        chance = np.cumsum(_binomial(logs, differing, wins, 0.5))
        # The largest number of wins (or of losses) that is still too few to be luck.
        edge = int(np.searchsorted(2 * chance, 1 - LEVEL + 1e-12, side="right")) - 1
        if edge >= 0:
            split = _binomial(logs, differing, wins, share)
            found += weight * float(split[: edge + 1].sum() + split[differing - edge :].sum())
    return min(1.0, found)


def _binomial(
    logs: NDArray[np.float64], n: int, k: NDArray[np.int_], p: float
) -> NDArray[np.float64]:
    if p >= 1:
        return np.asarray((k == n).astype(float))
    return np.asarray(
        np.exp(logs[n] - logs[k] - logs[n - k] + k * math.log(p) + (n - k) * math.log1p(-p))
    )


def independent_discordance(rate: float, other: float) -> float:
    """Return the share of tasks on which exactly one succeeds when the two have nothing in common."""
    return rate * (1 - other) + other * (1 - rate)


def detectable_paired(
    n: int, rate: float, *, likeness: float = 0.5, direction: int = 1, power: float = POWER
) -> float | None:
    """Return the smallest difference that `n` shared tasks show with that power, or None.

    Args:
        n: tasks.
        rate: of the first model.
        likeness: how alike the models are, in [0, 1]: 0 differ as if independent, 1 differ on no more
            tasks than their rates force them to.
        direction: 1 for a better second model, -1 for a worse one.
        power: in (0, 1).
    """
    most = 1 - rate if direction > 0 else rate

    def enough(gap: float) -> bool:
        return power_paired(n, gap, _discordance(rate, direction * gap, likeness)) >= power

    return _smallest(most, enough)


def tasks_needed_paired(
    rate: float, other: float, *, likeness: float = 0.5, power: float = POWER
) -> int | None:
    """Return the shared tasks needed to tell two models apart; None: over a million.

    Exact to one task in fifty: the power of an exact test saws up and down with n. Past 20,000 tasks by
    the normal approximation.
    """
    if rate == other:
        return None
    discordance = _discordance(rate, other - rate, likeness)
    gap = abs(other - rate)
    spread = math.sqrt(max(0.0, discordance - gap * gap))
    normal = ((Z * math.sqrt(discordance) + _NORMAL.inv_cdf(power) * spread) / gap) ** 2
    if normal > 20_000:
        return math.ceil(normal) if normal <= _MOST_TASKS else None
    return _fewest(lambda n: power_paired(n, gap, discordance) >= power)


def _discordance(rate: float, difference: float, likeness: float) -> float:
    other = min(1.0, max(0.0, rate + difference))
    gap = abs(other - rate)
    return gap + (1 - likeness) * max(0.0, independent_discordance(rate, other) - gap)


# ---- searching -------------------------------------------------------------------------------

_Enough = Callable[[float], bool]
_EnoughTasks = Callable[[int], bool]


def _smallest(most: float, enough: _Enough) -> float | None:
    if not enough(most):
        return None
    low, high = 0.0, most
    while high - low > 5e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _fewest(enough: _EnoughTasks) -> int | None:
    high = 2
    while not enough(high):
        high *= 2
        if high > _MOST_TASKS:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
