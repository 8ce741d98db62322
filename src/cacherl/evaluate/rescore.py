"""Verdicts and metrics again, from what is on file: no model, no tools, no cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from cacherl.core.errors import DataError
from cacherl.core.records import Record
from cacherl.core.suites import Suite
from cacherl.core.tasks import Task
from cacherl.evaluate.folder import EvalFolder
from cacherl.evaluate.results import Line, Result, read_lines, rewrite, task_digest
from cacherl.evaluate.scoring import score


class Changed(Record, frozen=True, kw_only=True):
    """One row that is worth something else now."""

    task_id: str
    trial: int
    success: tuple[bool, bool]
    """Before, now."""
    metrics: dict[str, tuple[float | None, float | None]]
    """Those that changed, before and now; None where there was none."""


class Rescored(Record, frozen=True, kw_only=True):
    """What scoring again came to."""

    rows: int
    changed: tuple[Changed, ...]
    """Rows whose verdict or metrics differ."""
    won: int
    """Failures that are successes now."""
    lost: int
    pin: tuple[str, str]
    """The suite's pin on file, and the pin of the suite that scored."""


def rescore(
    folder: EvalFolder,
    suite: Suite,
    *,
    write: bool = True,
    on_row: Callable[[int], None] | None = None,
) -> Rescored:
    """Recompute every row's verdict, metrics and kinds of failure from its trajectory.

    Args:
        folder: an evaluation.
        suite: the suite it is of.
        write: replace the rows on file, whole or not at all; False only says what would change.
        on_row: called after each row, with how many are done.

    Raises:
        DataError: the folder is of another suite, or a row is of a task that is not in its file.
    """
    manifest = folder.read_manifest()
    if manifest.plan.suite != suite.info.name:
        raise DataError(
            f"{folder.root} is of the suite {manifest.plan.suite}, not of {suite.info.name}."
        )
    tasks = {task.id: task for task in folder.read_tasks()}
    digests = {task.id: task_digest(task) for task in tasks.values()}
    changed: list[Changed] = []
    rows = won = lost = 0

    def again() -> Iterator[Line]:
        nonlocal rows, won, lost
        for line in read_lines(folder.results):
            if not isinstance(line, Result):
                yield line
                continue
            if digests.get(line.task_id) != line.task_digest:
                raise DataError(
                    f"{folder.results}: the row of {line.task_id} is of no task in {folder.tasks}. "
                    "Restore the file."
                )
            now = scored_again(line, tasks[line.task_id], suite)
            rows += 1
            differs = difference(line, now)
            if differs is not None:
                changed.append(differs)
                won += now.verdict.success and not line.verdict.success
                lost += line.verdict.success and not now.verdict.success
            if on_row is not None:
                on_row(rows)
            yield now

    if write:
        rewrite(folder.results, again())
        plan = msgspec.structs.replace(manifest.plan, pin=suite.info.pin)
        folder.write(folder.manifest, msgspec.structs.replace(manifest, plan=plan))
    else:
        for _ in again():
            pass
    return Rescored(
        rows=rows,
        changed=tuple(changed),
        won=won,
        lost=lost,
        pin=(manifest.plan.pin, suite.info.pin),
    )


def scored_again(row: Result, task: Task, suite: Suite) -> Result:
    """Return the row with what its trajectory is worth by this suite and this code."""
    judged = score(suite, task, row.trajectory)
    return msgspec.structs.replace(
        row,
        pin=suite.info.pin,
        verdict=judged.verdict,
        metrics=judged.metrics,
        cause=judged.cause,
        kinds=judged.kinds,
        wrong_fields=judged.wrong_fields,
    )


def difference(before: Result, now: Result) -> Changed | None:
    """Return what scoring again changed in a row; None for nothing."""
    names = sorted({*before.metrics, *now.metrics})
    metrics = {
        name: (before.metrics.get(name), now.metrics.get(name))
        for name in names
        if before.metrics.get(name) != now.metrics.get(name)
    }
    same = (before.verdict, before.cause, before.kinds) == (now.verdict, now.cause, now.kinds)
    if not metrics and same:
        return None
    return Changed(
        task_id=before.task_id,
        trial=before.trial,
        success=(before.verdict.success, now.verdict.success),
        metrics=metrics,
    )
