"""One evaluation into its folder: begin or go on, floor and ceiling, every missing row, what ran."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from cacherl.core.jsonl import write_jsonl
from cacherl.core.models import ChatModel, Limits
from cacherl.core.suites import Suite
from cacherl.core.tasks import Task
from cacherl.evaluate.bounds import bounds_of
from cacherl.evaluate.folder import EvalFolder, Manifest, begin
from cacherl.evaluate.provenance import made_now
from cacherl.evaluate.results import Outage, Result, on_file, task_digest
from cacherl.evaluate.run import OpenTrial, Played, run_samples, still_to_play

OnProgress = Callable[[str, int, int], None]
"""(what, done, total)."""


async def evaluate_into(
    folder: EvalFolder,
    manifest: Manifest,
    suite: Suite,
    tasks: Sequence[Task],
    player: Callable[[], ChatModel],
    open_tools: OpenTrial,
    nothing: ChatModel,
    *,
    limits: Limits,
    concurrency: int,
    keep_bounds: Path | None = None,
    unplayable: str = "",
    on_progress: OnProgress | None = None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Played:
    """Play what the folder lacks, and return what this run did.

    Args:
        folder: where everything is kept; goes on where an earlier run stopped.
        manifest: what is evaluated, and how often each task.
        suite: whose verdict counts.
        tasks: what is played.
        player: loads or connects to the model; not called where every row is on file.
        open_tools: see `OpenTrial`.
        nothing: the agent that does nothing, for the floor.
        limits: bounds of each episode.
        concurrency: episodes under way at once.
        keep_bounds: see `bounds_of`.
        unplayable: see `bounds_of`.
        on_progress: told how far it is.
        now: the clock of the manifest.

    Raises:
        RecipeError: the folder holds another evaluation; says what differs.
        DataError: a file of the folder is damaged.
    """

    def told(what: str, done: int, total: int) -> None:
        if on_progress is not None:
            on_progress(what, done, total)

    manifest = begin(folder, manifest, tasks)
    bounds = await bounds_of(
        suite,
        tasks,
        nothing,
        limits=limits,
        keep=keep_bounds,
        unplayable=unplayable,
        on_progress=lambda done, total: told("floor and ceiling", done, total),
    )
    write_jsonl(folder.bounds, bounds)
    total = len(tasks) * manifest.trials
    digests = {task.id: task_digest(task) for task in tasks}
    left = len(still_to_play(tasks, manifest.trials, on_file(folder.results, digests)))
    if not left:
        return Played(resumed=total, scored=0, outages=(), left=0, wall_s=0.0)
    plan = manifest.plan
    label = f"{plan.model}, {plan.tools} tools"
    done, scored = total - left, 0

    def on_row(row: Result | Outage) -> None:
        nonlocal done, scored
        done += 1
        scored += isinstance(row, Result)
        told(label, done, total)

    model = player()
    told(label, done, total)
    started, at = time.perf_counter(), now()
    try:
        return await run_samples(
            model,
            suite,
            tasks,
            open_tools,
            folder.results,
            limits=limits,
            seed=plan.seed,
            trials=manifest.trials,
            concurrency=concurrency,
            on_row=on_row,
        )
    finally:
        if done > total - left:
            made = made_now(at, played=scored, wall_s=time.perf_counter() - started)
            runs = (*manifest.runs, made)
            folder.write(folder.manifest, msgspec.structs.replace(manifest, runs=runs))
