"""What the rows of one evaluation say together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from cacherl.core.errors import DataError
from cacherl.core.records import Record
from cacherl.core.tools import Tier
from cacherl.metrics.episodes import SYMPTOMS, EvalRow
from cacherl.metrics.intervals import LEVEL, RESAMPLES

_DRAWS_AT_ONCE = 2_000_000  # indices held while resampling, about 16 MB


class Interval(Record, frozen=True, kw_only=True):
    """A mean over tasks with its 95 % bootstrap interval.

    The interval says how much another draw of tasks would move the mean. Where all values are
    equal it has no width, however few there are: read it beside `n`.
    """

    mean: float
    low: float
    high: float


class GroupScore(Record, frozen=True, kw_only=True):
    """The two accuracies over one group of tasks."""

    n: int
    process_accuracy: Interval
    """Over the tasks that say which calls are right."""
    end_to_end: Interval


class EvalSummary(Record, frozen=True, kw_only=True):
    """What the rows of one evaluation say together."""

    policy: str
    live: bool
    n: int
    process_accuracy: Interval
    """Over the tasks that say which calls are right."""
    end_to_end: Interval
    by_family: dict[str, GroupScore]
    by_language: dict[str, GroupScore]
    by_wording: dict[str, GroupScore]
    """`seen` and `new`; empty where nobody said which wordings training used."""
    tier_mix: dict[str, float]
    """Share of episodes by their worst tier, best tier first; sums to 1."""
    call_tiers: dict[str, int]
    """Calls by tier."""
    stops: dict[str, int]
    failures: dict[str, int]
    """Episodes by failure kind, zeros included; one episode may show several."""
    calls_mean: float
    gold_calls_mean: float
    turns_mean: float
    completion_tokens_mean: float
    thinking_share: float


def summarise(rows: Sequence[EvalRow], *, seed: int = 0) -> EvalSummary:
    """Return what the rows of one model on one kind of tools say together.

    Intervals are 95 % percentile intervals over 2,000 resamples of tasks; same rows and seed,
    same interval, in whatever order the rows came.

    Raises:
        DataError: there is no row, or the rows are of several models or of both kinds of tools.
    """
    if not rows:
        raise DataError(
            "no task was scored, so there is nothing to summarise. Check the model and tools."
        )
    policies = sorted({row.policy for row in rows})
    kinds = {row.live for row in rows}
    if len(policies) > 1 or len(kinds) > 1:
        raise DataError(
            f"the rows mix evaluations ({', '.join(policies)}; live: {sorted(kinds)}). "
            "Summarise each evaluation by itself."
        )
    if all(row.process_accuracy is None for row in rows):
        raise DataError(
            "no task says which calls are right, so there is no process accuracy. Add `expect.calls` to some."
        )
    rows = sorted(rows, key=lambda row: row.task_id)
    whole = _group_score(rows, seed)
    worst = Counter(row.worst_tier for row in rows)
    call_tiers = Counter(tier for row in rows for tier in row.tiers)
    failures = Counter(kind for row in rows for kind in row.failures)
    return EvalSummary(
        policy=policies[0],
        live=rows[0].live,
        n=len(rows),
        process_accuracy=whole.process_accuracy,
        end_to_end=whole.end_to_end,
        by_family=_groups(rows, lambda row: row.family, seed),
        by_language=_groups(rows, lambda row: row.language, seed),
        by_wording=_groups(rows, _wording_group, seed),
        tier_mix={tier.value: worst[tier] / len(rows) for tier in Tier if worst[tier]},
        call_tiers={tier.value: call_tiers[tier] for tier in Tier if call_tiers[tier]},
        stops=dict(sorted(Counter(row.stop.value for row in rows).items())),
        failures={kind.value: failures[kind] for kind in SYMPTOMS},
        calls_mean=_mean(row.calls for row in rows),
        gold_calls_mean=_mean(row.gold_calls for row in rows),
        turns_mean=_mean(row.turns for row in rows),
        completion_tokens_mean=_mean(row.completion_tokens for row in rows),
        thinking_share=_mean(row.thinking_share for row in rows),
    )


def paired_difference(
    a_rows: Sequence[EvalRow],
    b_rows: Sequence[EvalRow],
    *,
    metric: str = "process_accuracy",
    seed: int = 0,
) -> tuple[float, float, float]:
    """Return the gain of `b` over `a` on the tasks both were scored on: mean, low, high.

    Pairing takes the difficulty of the tasks out: the interval of the gain is narrower than two
    separate intervals suggest. It excludes 0 when the gain is more than the luck of the draw.

    Args:
        a_rows: the evaluation before.
        b_rows: the evaluation after.
        metric: `process_accuracy` or `end_to_end`.
        seed: of the resampling.

    Raises:
        DataError: no task is in both.
    """
    a, b = (
        {row.task_id: float(value) for row in rows if (value := getattr(row, metric)) is not None}
        for rows in (a_rows, b_rows)
    )
    shared = sorted(a.keys() & b.keys())
    if not shared:
        raise DataError(
            "the two evaluations share no task. Run both with the same suite, split and seed."
        )
    gain = _bootstrap(np.array([[b[task] - a[task]] for task in shared]), seed)[0]
    return gain.mean, gain.low, gain.high


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(np.fromiter(values, dtype=float)))


def _wording_group(row: EvalRow) -> str | None:
    if row.seen_wording is None:
        return None
    return "seen" if row.seen_wording else "new"


def _groups(
    rows: Sequence[EvalRow], group_of: Callable[[EvalRow], str | None], seed: int
) -> dict[str, GroupScore]:
    groups: dict[str, list[EvalRow]] = {}
    for row in rows:
        group = group_of(row)
        if group is not None:
            groups.setdefault(group, []).append(row)
    return {
        name: _group_score(groups[name], seed)
        for name in sorted(groups)
        if any(row.process_accuracy is not None for row in groups[name])
    }


def _group_score(rows: Sequence[EvalRow], seed: int) -> GroupScore:
    known = [row.process_accuracy for row in rows if row.process_accuracy is not None]
    ends = [float(row.end_to_end) for row in rows]
    if len(known) == len(rows):  # one draw for both, where both are of the same tasks
        process, end_to_end = _bootstrap(np.array([known, ends]).T, seed)
    else:
        (process,) = _bootstrap(np.array([known]).T, seed)
        (end_to_end,) = _bootstrap(np.array([ends]).T, seed)
    return GroupScore(n=len(rows), process_accuracy=process, end_to_end=end_to_end)


def _bootstrap(values_N_M: NDArray[np.float64], seed: int) -> list[Interval]:
    """Return the interval of each of M metrics over N tasks; all metrics share the resamples."""
    count = len(values_N_M)
    rng = np.random.default_rng(seed)
    chunk = max(1, _DRAWS_AT_ONCE // count)
    means = []
    for start in range(0, RESAMPLES, chunk):
        draws = rng.integers(count, size=(min(chunk, RESAMPLES - start), count))
        means.append(values_N_M[draws].mean(axis=1))
    tail = 100 * (1 - LEVEL) / 2
    low_M, high_M = np.percentile(np.concatenate(means), [tail, 100 - tail], axis=0)
    return [
        Interval(mean=float(mean), low=float(low), high=float(high))
        for mean, low, high in zip(values_N_M.mean(axis=0), low_M, high_M, strict=True)
    ]
