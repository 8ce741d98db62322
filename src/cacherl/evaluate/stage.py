"""The evaluation of a recipe: every task once, scored by its gold alone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cacherl.core.errors import DataError
from cacherl.core.jsonl import JsonlAppender, read_jsonl
from cacherl.core.models import ChatModel, Limits
from cacherl.core.tasks import Task
from cacherl.core.tools import Tools
from cacherl.core.trajectories import Trajectory
from cacherl.evaluate.episode import NotScored, play
from cacherl.metrics import EvalRow, gold_of, score_episode

OpenTools = Callable[[Task], Tools]
"""Opens fresh tools for one episode; a `WorldTools` shows its state and makes the run a live one."""


class OnResult(Protocol):
    """What the caller does with each finished episode: draw progress, keep transcripts."""

    def __call__(self, row: EvalRow | NotScored, trajectory: Trajectory | None) -> None:
        """See one result; there is a trajectory where there is a row."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """All rows of one evaluation, in the order of its tasks."""

    policy: str
    rows: tuple[EvalRow, ...]
    not_scored: tuple[NotScored, ...] = ()
    """Tried again when the evaluation is run again."""
    resumed: int = 0
    """Rows that an earlier, interrupted run had already written."""


async def evaluate(
    model: ChatModel,
    tasks: Sequence[Task],
    open_tools: OpenTools,
    *,
    limits: Limits,
    concurrency: int | None = None,
    seed: int = 0,
    on_result: OnResult | None = None,
    rows_path: Path | None = None,
    trajectories_path: Path | None = None,
    seen_tools: Collection[str] | None = None,
    seen_wordings: Collection[str] | None = None,
) -> Evaluation:
    """Play every task once and return one row for each.

    An episode that the infrastructure ends (a server that cannot be reached, a world that does
    not start) neither stops the others nor counts against the model. An episode's seed depends
    on `seed` and its task alone, so a subset of tasks scores as it does within the whole.

    Args:
        model: whose turns are scored.
        tasks: tasks with gold and with ids of their own.
        open_tools: opens fresh tools for one episode.
        limits: bounds of each episode.
        concurrency: episodes under way at once; None starts all, which a batching engine groups.
        seed: of the sampling.
        on_result: called once an episode, in the order in which they end.
        rows_path: rows are appended here as they come; tasks that have one are not played again.
        trajectories_path: every episode played is appended here, before its row.
        seen_tools: names of the tools that training showed; None where unknown.
        seen_wordings: wording sets that training used; None where unknown.

    Raises:
        DataError: a task has no gold, two tasks share an id, or `rows_path` holds the rows of
            another model or seed. Raised before any episode starts.
    """
    _check(tasks)
    done = _earlier_rows(rows_path, policy=model.name, seed=seed)
    rows = {task.id: done[task.id] for task in tasks if task.id in done}
    resumed = len(rows)
    not_scored: dict[str, NotScored] = {}
    gate: contextlib.AbstractAsyncContextManager[object] = (
        contextlib.nullcontext() if concurrency is None else asyncio.Semaphore(concurrency)
    )

    with contextlib.ExitStack() as files:
        row_file = _appender(files, rows_path)
        trajectory_file = _appender(files, trajectories_path)

        async def one(task: Task) -> None:
            async with gate:
                played = await play(model, task, lambda: open_tools(task), limits=limits, seed=seed)
            if isinstance(played, NotScored):
                not_scored[task.id] = played
                if on_result is not None:
                    on_result(played, None)
                return
            row = score_episode(
                task, played, seed=seed, seen_tools=seen_tools, seen_wordings=seen_wordings
            )
            rows[task.id] = row
            # The row goes last: a task that has one is not played again.
            if trajectory_file is not None:
                trajectory_file.append(played)
            if row_file is not None:
                row_file.append(row)
            if on_result is not None:
                on_result(row, played)

        try:
            async with asyncio.TaskGroup() as group:
                for task in tasks:
                    if task.id not in rows:
                        group.create_task(one(task))
        except ExceptionGroup as group_of_errors:
            # A cache that cannot be read stops every episode alike: say it once, as one line.
            raise group_of_errors.exceptions[0] from None

    return Evaluation(
        policy=model.name,
        rows=tuple(rows[task.id] for task in tasks if task.id in rows),
        not_scored=tuple(not_scored[task.id] for task in tasks if task.id in not_scored),
        resumed=resumed,
    )


def _check(tasks: Sequence[Task]) -> None:
    seen: set[str] = set()
    for task in tasks:
        gold_of(task)
        if task.id in seen:
            raise DataError(f"two tasks have the id {task.id}. Give each task its own id.")
        seen.add(task.id)


def _earlier_rows(path: Path | None, *, policy: str, seed: int) -> dict[str, EvalRow]:
    if path is None or not path.exists():
        return {}
    rows = {}
    for row in read_jsonl(path, EvalRow, drop_torn_tail=True):
        if (row.policy, row.seed) != (policy, seed):
            raise DataError(
                f"{path}: holds rows of {row.policy} with seed {row.seed}, not of {policy} with "
                f"seed {seed}. Delete the file, or write to another folder."
            )
        rows[row.task_id] = row
    return rows


def _appender(files: contextlib.ExitStack, path: Path | None) -> JsonlAppender | None:
    return None if path is None else files.enter_context(JsonlAppender(path))
