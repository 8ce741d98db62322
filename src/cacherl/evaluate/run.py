"""The run of `cacherl eval`: every task, `trials` times, into `results.jsonl`; a killed run resumes to the sample."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from cacherl.core.bounded import run_bounded
from cacherl.core.errors import BudgetError, CacheRLError, ModelError, ToolError
from cacherl.core.jsonl import JsonlAppender
from cacherl.core.models import ChatModel, Limits
from cacherl.core.suites import Suite
from cacherl.core.tasks import Task
from cacherl.core.tools import Tools
from cacherl.core.trajectories import StopReason, Trajectory
from cacherl.evaluate.episode import NotScored, play
from cacherl.evaluate.results import Outage, Result, Sample, on_file, task_digest
from cacherl.evaluate.scoring import Scored, score
from cacherl.teacher.failure import FATAL

GIVE_UP_AFTER = 8
"""Outages in a row, without a success between them, after which nothing is to be hoped for."""

OpenTrial = Callable[[Task, int], Tools]
"""(task, trial) -> fresh tools of one episode. The seam to what answers: the suite's own tools, a cache, or
both in turn (a shadow run is two runs with the same model, tasks and seed)."""


class OnRow(Protocol):
    """What the caller does with each row: draw progress."""

    def __call__(self, row: Result | Outage) -> None:
        """See one row, once it is on file."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What one run did."""

    resumed: int
    """Rows that earlier runs had scored."""
    scored: int
    outages: tuple[Outage, ...]
    """Of this run; the next one plays them again."""
    left: int
    """Samples that have no row, outages among them."""
    wall_s: float
    stopped: CacheRLError | None = None
    """What ended the run before its end: a spent budget, a model or tools that fail again and again."""


async def run_samples(
    model: ChatModel,
    suite: Suite,
    tasks: Sequence[Task],
    open_tools: OpenTrial,
    out: Path,
    *,
    limits: Limits,
    seed: int,
    trials: int = 1,
    concurrency: int,
    on_row: OnRow | None = None,
    give_up_after: int = GIVE_UP_AFTER,
) -> Played:
    """Play what is not on file yet, score it, and append a row for each sample as it ends.

    Can be stopped at any point and started again: pairs of task and trial that have a row are not played. An
    episode that the infrastructure ends neither stops the others nor counts against the model. When a budget
    is spent no new episode begins, those under way go on until they are refused too, and `stopped` says so.

    Args:
        model: whose turns are scored.
        suite: whose verdict counts.
        tasks: tasks with ids of their own.
        open_tools: opens fresh tools for one episode.
        out: `results.jsonl`.
        limits: bounds of each episode.
        seed: of the sampling; an episode's seed depends on it, its task and its trial alone.
        trials: how often each task is played.
        concurrency: episodes under way at once.
        on_row: called once a row.
        give_up_after: see `GIVE_UP_AFTER`. A wrong key and an empty account end the run at once.

    Raises:
        DataError: `out` is damaged, or holds rows of other tasks of these names.
        CacheRLError: a cache that cannot be read, and whatever else stops every episode alike.
    """
    started = time.perf_counter()
    digests = {task.id: task_digest(task) for task in tasks}
    known = on_file(out, digests)
    missing = still_to_play(tasks, trials, known)
    info = suite.info
    outages: list[Outage] = []
    scored = in_a_row = 0
    stopped: CacheRLError | None = None

    def while_allowed() -> Iterator[tuple[Task, int]]:
        for sample in missing:
            if stopped is not None:
                return
            yield sample

    async def one(sample: tuple[Task, int]) -> None:
        nonlocal scored, in_a_row, stopped
        task, trial = sample
        began = time.perf_counter()
        try:
            played = await play(
                model, task, lambda: open_tools(task, trial), limits=limits, seed=seed, trial=trial
            )
        except BudgetError as error:
            stopped = stopped or error
            return
        row: Result | Outage
        judged = None if isinstance(played, NotScored) else _judged(suite, task, played)
        if isinstance(played, NotScored) or isinstance(judged, str) or judged is None:
            row = _outage(task, digests[task.id], trial, played, judged)
            outages.append(row)
            in_a_row += 1
            if in_a_row >= give_up_after or row.kind in FATAL:
                stopped = stopped or _given_up(row, in_a_row)
        else:
            row = Result(
                task_id=task.id,
                task_digest=digests[task.id],
                suite=info.name,
                pin=info.pin,
                split=task.split,
                trial=trial,
                trajectory=without_token_ids(played),
                verdict=judged.verdict,
                metrics=judged.metrics,
                cause=judged.cause,
                kinds=judged.kinds,
                wrong_fields=judged.wrong_fields,
                wall_s=time.perf_counter() - began,
            )
            scored += 1
            in_a_row = 0
        file.append(row)
        if on_row is not None:
            on_row(row)

    with JsonlAppender(out) as file:
        await run_bounded(while_allowed(), one, concurrency=concurrency)
    return Played(
        resumed=sum((task.id, trial) in known for task in tasks for trial in range(trials)),
        scored=scored,
        outages=tuple(outages),
        left=len(missing) - scored,
        wall_s=time.perf_counter() - started,
        stopped=stopped,
    )


def still_to_play(
    tasks: Sequence[Task], trials: int, known: Mapping[Sample, object]
) -> list[tuple[Task, int]]:
    """Return the samples without a row: every task once before any task twice."""
    return [
        (task, trial) for trial in range(trials) for task in tasks if (task.id, trial) not in known
    ]


def without_token_ids(trajectory: Trajectory) -> Trajectory:
    """Return the trajectory as a row keeps it."""
    return msgspec.structs.replace(trajectory, segments=())


def _judged(suite: Suite, task: Task, played: Trajectory) -> Scored | str:
    """Return what the episode is worth, or why its checker could not say: that is no fault of the model's."""
    try:
        return score(suite, task, played)
    except (ToolError, OSError) as error:
        return str(error)


def _outage(
    task: Task, digest: str, trial: int, played: Trajectory | NotScored, why: object
) -> Outage:
    failed = played if isinstance(played, NotScored) else None
    return Outage(
        task_id=task.id,
        task_digest=digest,
        trial=trial,
        stop=failed.stop if failed else StopReason.TOOLS_FAILED,
        error=failed.error if failed else f"the suite could not check it: {why}",
        kind=failed.kind if failed else None,
    )


def _given_up(last: Outage, in_a_row: int) -> CacheRLError:
    kind = ModelError if last.stop is StopReason.MODEL_FAILED else ToolError
    which = "An episode" if in_a_row == 1 else f"{in_a_row} episodes in a row"
    return kind(
        f"{which} could not be played, the last ({last.task_id}) because of: {last.error} "
        "Mend that and run the same command again: it goes on from here."
    )
