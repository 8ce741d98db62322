"""Evaluations of the notes in folders, as `cacherl eval` makes them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from cacherl.core.models import ChatModel, Limits
from cacherl.core.tasks import Split, Task
from cacherl.core.tools import Tools
from cacherl.evaluate.folder import EvalFolder, Manifest, Plan
from cacherl.evaluate.into_folder import evaluate_into
from cacherl.evaluate.results import digest_of_tasks
from cacherl.evaluate.run import Played
from tests.desk_of_two import RIGHT, WRONG_VALUE
from tests.evaluate.notes import NotesSuite, nothing
from tests.fakes import Script, ScriptedModel

LIMITS = Limits()


def model(wrong: Callable[[str], bool] = lambda _: False, name: str = "m") -> ScriptedModel:
    """Return a model that is right, except on the tasks it is told to get wrong."""

    def turns(task: Task) -> tuple[Script, ...]:
        return WRONG_VALUE if wrong(task.id) else RIGHT

    return ScriptedModel(turns, name=name)


def evaluated(
    root: Path,
    player: ChatModel,
    *,
    suite: NotesSuite | None = None,
    count: int = 12,
    trials: int = 1,
    seed: int = 0,
    limits: Limits = LIMITS,
    open_tools: Callable[[Task, int], Tools] | None = None,
    concurrency: int = 4,
) -> Played:
    """Evaluate into `root`, or go on there."""
    suite = suite or NotesSuite()
    tasks = suite.tasks(Split.TEST, count=count, seed=seed)
    plan = Plan(
        suite="notes",
        pin=suite.pin,
        split=Split.TEST,
        tasks=len(tasks),
        tasks_digest=digest_of_tasks(tasks),
        model=player.name,
        model_digest="",
        tools="live",
        seed=seed,
        limits=msgspec.to_builtins(limits),
        sampling={"temperature": 0.5},
    )
    return asyncio.run(
        evaluate_into(
            EvalFolder(root),
            Manifest(plan=plan, trials=trials, info=suite.info),
            suite,
            tasks,
            lambda: player,
            open_tools or (lambda task, trial: suite.open(task)),
            nothing(),
            limits=limits,
            concurrency=concurrency,
            now=lambda: datetime(2026, 1, 2, tzinfo=UTC),
        )
    )
