"""Is B better than A? Two evaluations of one suite, on the tasks that both have."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from cacherl.core.errors import DataError
from cacherl.core.records import Record
from cacherl.core.tasks import Task
from cacherl.evaluate.bounds import Bound, BoundRow, bound
from cacherl.evaluate.folder import EvalFolder, Plan, difference
from cacherl.evaluate.results import read_results, task_digest
from cacherl.evaluate.scoring import MAIN, SUCCESS
from cacherl.evaluate.summary import GROUPS, bound_text
from cacherl.metrics.comparison import Comparison, compare, holm
from cacherl.metrics.power import detectable_paired

SHOWN = 20
"""Tasks won or lost that are named; the rest are counted."""


class Compared(Record, frozen=True, kw_only=True):
    """One metric, in both evaluations."""

    metric: str
    comparison: Comparison
    floor: Bound
    ceiling: Bound
    corrected_p: float
    """For the number of metrics, or of groups, that stand beside it (Holm)."""


class ComparedGroup(Record, frozen=True, kw_only=True):
    """Success over some of the tasks."""

    name: str
    success: Compared


class TaskGain(Record, frozen=True, kw_only=True):
    """One task on which the two differ."""

    task_id: str
    a: float
    """Share of its trials that succeeded."""
    b: float
    trials: tuple[int, int]
    """In A and in B, one that shows the difference: what to look at."""


class ComparedRuns(Record, frozen=True, kw_only=True):
    """Two evaluations, side by side."""

    a: str
    """Folder."""
    b: str
    models: tuple[str, str]
    suite: str
    split: str
    n: int
    """Tasks that both were scored on."""
    left_out: tuple[int, int]
    """Tasks scored in A alone and in B alone."""
    differs: tuple[str, ...]
    """What the two evaluations differ in, beside their results."""
    metrics: tuple[Compared, ...]
    groups: dict[str, tuple[ComparedGroup, ...]]
    won: tuple[TaskGain, ...]
    """By B: every task, in the order of their ids."""
    lost: tuple[TaskGain, ...]
    tied: int
    power: str


def compare_folders(a: EvalFolder, b: EvalFolder, *, seed: int = 0) -> ComparedRuns:
    """Return the paired comparison of two evaluations on the tasks both were scored on.

    Raises:
        DataError: one is no evaluation, they are of different suites or share no task.
    """
    plans = (a.read_manifest().plan, b.read_manifest().plan)
    # `bfcl` and `bfcl:base` are one suite; which tasks both have is told by what the tasks are.
    if _kind(plans[0].suite) != _kind(plans[1].suite):
        raise DataError(
            f"{a.root} is of the suite {plans[0].suite} and {b.root} of {plans[1].suite}: their figures "
            "measure different things. Evaluate both models on one suite."
        )
    tasks_a, tasks_b = _tasks(a), _tasks(b)
    rows_a, rows_b = _rows(a, tasks_a), _rows(b, tasks_b)
    shared = [
        task_id
        for task_id in sorted(rows_a.keys() & rows_b.keys())
        if task_digest(tasks_a[task_id]) == task_digest(tasks_b[task_id])
    ]
    if not shared:
        raise DataError(
            f"{a.root} and {b.root} share no task. Evaluate both with the same --suite, --split, --seed "
            "and --limit."
        )
    bounds = a.read_bounds() | b.read_bounds()
    found = [
        _compared(metric, shared, rows_a, rows_b, bounds, seed=seed)
        for metric in _metrics(shared, rows_a, rows_b)
    ]
    gains = [_gain(task_id, rows_a[task_id], rows_b[task_id]) for task_id in shared]
    return ComparedRuns(
        a=str(a.root),
        b=str(b.root),
        models=(plans[0].model, plans[1].model),
        suite=plans[0].suite,
        split=plans[0].split.value,
        n=len(shared),
        left_out=(len(rows_a) - len(shared), len(rows_b) - len(shared)),
        differs=tuple(_differs(*plans)),
        metrics=_corrected([each for each in found if each is not None]),
        groups=_groups(shared, tasks_a, rows_a, rows_b, bounds, seed=seed),
        won=tuple(gain for gain in gains if gain.b > gain.a),
        lost=tuple(gain for gain in gains if gain.b < gain.a),
        tied=sum(gain.a == gain.b for gain in gains),
        power=paired_power(len(shared), _mean(gain.a for gain in gains)),
    )


def comparison_text(one: Compared) -> str:
    """Return one comparison as it is printed: never without n, interval, floor and ceiling.

    `0.480 to 0.560: +0.080 (95 % -0.010 to +0.170, p = 0.077, n = 100; doing nothing 0.000, gold 1.000)`
    """
    c = one.comparison
    return (
        f"{c.a:.3f} to {c.b:.3f}: {c.difference:+.3f} (95 % {c.low:+.3f} to {c.high:+.3f}, "
        f"p {p_text(c.p_value)}, n = {c.n}; doing nothing {bound_text(one.floor)}, "
        f"gold {bound_text(one.ceiling)})"
    )


def p_text(p: float) -> str:
    """Return what comes after `p`, with as many digits as mean something."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def verdict_text(one: Compared) -> str:
    """Return in words what the comparison shows."""
    if one.comparison.wins == one.comparison.losses == 0:
        return "no task differs"
    if not one.comparison.differs:
        return "no difference that luck would not explain"
    return "B is better" if one.comparison.difference > 0 else "A is better"


def disagreement_text(one: Compared) -> str:
    """Return that test and interval say different things, in words; nothing where they agree."""
    c = one.comparison
    if not c.disagree:
        return ""
    holds = "holds 0" if c.low <= 0 <= c.high else "does not hold 0"
    return f"test and interval disagree (p {p_text(c.p_value)}, and the interval {holds}): the test decides"


def paired_power(n: int, rate: float) -> str:
    """Return what so many shared tasks can show, in words."""
    reach = [
        gap
        for direction in (1, -1)
        if (gap := detectable_paired(n, rate, direction=direction)) is not None
    ]
    if not reach:
        return f"{n} shared tasks cannot show any difference from {rate:.2f} in 4 runs of 5."
    return (
        f"{n} shared tasks show a difference of {min(reach):.2f} from {rate:.2f} in 4 runs of 5, for two "
        "models that are as alike as usual; smaller ones go unseen."
    )


_Rows = Mapping[str, Mapping[int, Mapping[str, float]]]
"""Task id -> trial -> metrics."""


def _tasks(folder: EvalFolder) -> dict[str, Task]:
    return {task.id: task for task in folder.read_tasks()}


def _rows(folder: EvalFolder, tasks: Mapping[str, Task]) -> dict[str, dict[int, dict[str, float]]]:
    found: dict[str, dict[int, dict[str, float]]] = {}
    for row in read_results(folder.results):
        if row.task_id in tasks:
            found.setdefault(row.task_id, {})[row.trial] = row.metrics
    return found


def _metrics(shared: Sequence[str], *both: _Rows) -> list[str]:
    names = {
        name for rows in both for task in shared for row in rows[task].values() for name in row
    }
    return [*(name for name in MAIN if name in names), *sorted(names - set(MAIN))]


def _compared(
    metric: str,
    shared: Sequence[str],
    a: _Rows,
    b: _Rows,
    bounds: Mapping[str, BoundRow],
    *,
    seed: int,
) -> Compared | None:
    sides = [
        [[row[metric] for row in rows[task].values() if metric in row] for task in shared]
        for rows in (a, b)
    ]
    scored = [place for place, pair in enumerate(zip(*sides, strict=True)) if pair[0] and pair[1]]
    if not scored:
        return None
    ids = [shared[place] for place in scored]
    found = compare(
        [sides[0][place] for place in scored], [sides[1][place] for place in scored], seed=seed
    )
    return Compared(
        metric=metric,
        comparison=found,
        floor=bound(bounds, ids, metric, ceiling=False),
        ceiling=bound(bounds, ids, metric, ceiling=True),
        corrected_p=found.p_value,
    )


def _corrected(found: Sequence[Compared]) -> tuple[Compared, ...]:
    fair = holm([each.comparison.p_value for each in found])
    return tuple(
        msgspec.structs.replace(each, corrected_p=p) for each, p in zip(found, fair, strict=True)
    )


def _groups(
    shared: Sequence[str],
    tasks: Mapping[str, Task],
    a: _Rows,
    b: _Rows,
    bounds: Mapping[str, BoundRow],
    *,
    seed: int,
) -> dict[str, tuple[ComparedGroup, ...]]:
    groups = {}
    for field, name_of in GROUPS.items():
        by_name: dict[str, list[str]] = {}
        for task_id in shared:
            by_name.setdefault(name_of(tasks[task_id]), []).append(task_id)
        if len(by_name) < 2:
            continue
        names = sorted(by_name)
        found = [_compared(SUCCESS, by_name[name], a, b, bounds, seed=seed) for name in names]
        fair = _corrected([each for each in found if each is not None])  # every row has a verdict
        groups[field] = tuple(
            ComparedGroup(name=name, success=each) for name, each in zip(names, fair, strict=True)
        )
    return groups


def _gain(
    task_id: str,
    a: Mapping[int, Mapping[str, float]],
    b: Mapping[int, Mapping[str, float]],
) -> TaskGain:
    means = [_mean(row[SUCCESS] for row in rows.values()) for rows in (a, b)]
    better = 1.0 if means[1] > means[0] else 0.0
    return TaskGain(
        task_id=task_id,
        a=means[0],
        b=means[1],
        trials=(_one_with(a, 1 - better), _one_with(b, better)),
    )


def _one_with(rows: Mapping[int, Mapping[str, float]], success: float) -> int:
    return min(rows, key=lambda trial: (rows[trial][SUCCESS] != success, trial))


def _kind(suite: str) -> str:
    return suite.partition(":")[0]


def _differs(a: Plan, b: Plan) -> list[str]:
    told = difference(a, b)
    return [each for each in told if not each.startswith(("model", "tasks"))]


def _mean(values: Iterable[float]) -> float:
    return statistics.fmean(values)
