"""The floor and the ceiling of exactly the tasks that are played: what doing nothing earns, and what gold earns.

A figure without them says little: doing nothing earns the full reward on 23 of 50 airline tasks, and gold that
does not replay caps a suite below 1. Both are played under the limits of the evaluation, once a task, and kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from cacherl.core.bounded import run_bounded
from cacherl.core.errors import CacheRLError
from cacherl.core.jsonl import read_jsonl, write_jsonl
from cacherl.core.models import ChatModel, Limits
from cacherl.core.records import JsonObject, Record
from cacherl.core.suites import Suite
from cacherl.core.tasks import Task
from cacherl.evaluate.episode import NotScored, play, unreached_calls
from cacherl.evaluate.provenance import code_digest
from cacherl.evaluate.results import task_digest
from cacherl.evaluate.scoring import score
from cacherl.metrics.calls import episode_facts

AT_ONCE = 32


class BoundRow(Record, frozen=True, kw_only=True):
    """One task's floor and ceiling, by metric."""

    task_id: str
    task_digest: str
    floor: dict[str, float]
    ceiling: dict[str, float]
    floor_facts: JsonObject = {}
    """The counts of the episode (`metrics.calls.EpisodeFacts`), as the version that played it keeps them."""
    ceiling_facts: JsonObject = {}
    missing: str = ""
    """Why one of them, or both, could not be measured."""
    no_way: str = ""
    """Why this task has no ceiling and counts in none: nobody said which calls solve it."""


class Bound(Record, frozen=True, kw_only=True):
    """One end of what a metric can be on some tasks."""

    value: float | None
    """None where it is not known."""
    said: str = ""
    """Why not; with a value, on how many of the tasks it is known."""


NO_BOUND = Bound(value=None, said="nobody measured it")


def bounds_key(suite: Suite, limits: Limits) -> str:
    """Return what the rows of a file of bounds have in common: the suite's files, the limits, the code."""
    said = (suite.info.name, suite.info.pin, msgspec.to_builtins(limits), code_digest())
    return hashlib.blake2b(msgspec.json.encode(said), digest_size=12).hexdigest()


async def bounds_of(
    suite: Suite,
    tasks: Sequence[Task],
    nothing: ChatModel,
    *,
    limits: Limits,
    keep: Path | None = None,
    unplayable: str = "",
    on_progress: Callable[[int, int], None] | None = None,
) -> list[BoundRow]:
    """Return the bounds of the tasks, in their order.

    Args:
        suite: whose tasks, tools and verdicts they are.
        tasks: what is evaluated.
        nothing: the agent that does nothing.
        limits: those of the evaluation: a ceiling below 1 may be theirs.
        keep: a folder that keeps what was played, for the next run.
        unplayable: why these tasks must not be played for the sake of bounds (tools that act on something
            outside, a user who is paid); they then have none, and say so.
        on_progress: called after each task.
    """
    if unplayable:
        return [_unknown(task, unplayable) for task in tasks]
    path = None if keep is None else keep / f"{bounds_key(suite, limits)}.jsonl"
    known: dict[str, BoundRow] = {}
    if path is not None and path.exists():
        known = {row.task_digest: row for row in read_jsonl(path, BoundRow, drop_torn_tail=True)}
    digests = [task_digest(task) for task in tasks]
    missing = [
        (task, digest) for task, digest in zip(tasks, digests, strict=True) if digest not in known
    ]
    oracle = suite.oracle() if missing else None
    done = len(tasks) - len(missing)

    async def one(pair: tuple[Task, str]) -> None:
        nonlocal done
        task, digest = pair
        floor = await _earned(suite, task, nothing, limits, nothing)
        no_way = _no_way(suite, task)
        ceiling = _Earned({}, {}) if no_way else await _earned(suite, task, oracle, limits, nothing)
        row = BoundRow(
            task_id=task.id,
            task_digest=digest,
            floor=floor.metrics,
            ceiling=ceiling.metrics,
            floor_facts=floor.facts,
            ceiling_facts=ceiling.facts,
            missing=floor.missing or ceiling.missing,
            no_way=no_way,
        )
        known[digest] = row
        done += 1
        if on_progress is not None:
            on_progress(done, len(tasks))

    await run_bounded(missing, one, concurrency=AT_ONCE)
    if path is not None and missing:
        # Whole files only: several evaluations may measure the same bounds at once.
        write_jsonl(path, (row for row in known.values() if not row.missing))
    return [known[digest] for digest in digests]


@dataclass(frozen=True, slots=True)
class _Earned:
    metrics: dict[str, float]
    facts: JsonObject
    missing: str = ""


def says_calls(task: Task) -> bool:
    """Say whether the task's gold has a way to follow. An oracle without one that fails says nothing."""
    return task.gold is not None and task.gold.calls is not None


def _no_way(suite: Suite, task: Task) -> str:
    """Return why the oracle of a suite that can tell (`OwnSuite.knows_way`) knows nothing of this task.

    Words that please the checker, said without a call, are no ceiling.
    """
    knows = getattr(suite, "knows_way", None)
    return "" if knows is None or knows(task) else f"nobody said which calls solve {task.id}"


async def _earned(
    suite: Suite, task: Task, model: ChatModel | None, limits: Limits, nothing: ChatModel
) -> _Earned:
    if model is None:
        return _Earned({}, {}, "the suite has no gold to play")
    try:
        played = await play(model, task, lambda: suite.open(task), limits=limits, seed=0)
        if isinstance(played, NotScored):
            return _Earned({}, {}, f"{model.name} on {task.id}: {played.error}")
        if unreached_calls(played):
            return _Earned({}, {}, f"{model.name} on {task.id}: a tool could not be reached")
        facts = msgspec.to_builtins(episode_facts(task, played))
        earned = score(suite, task, played)
        if model is not nothing and not earned.verdict.success and not says_calls(task):
            return _Earned({}, {}, f"nobody said which calls solve {task.id}")
        return _Earned(earned.metrics, facts)
    except CacheRLError as error:
        return _Earned({}, {}, f"{model.name} on {task.id}: {error}")


def _unknown(task: Task, why: str) -> BoundRow:
    return BoundRow(
        task_id=task.id, task_digest=task_digest(task), floor={}, ceiling={}, missing=why
    )


def bound(
    rows: Mapping[str, BoundRow], task_ids: Sequence[str], metric: str, *, ceiling: bool
) -> Bound:
    """Return the floor or the ceiling of a metric over some tasks; unknown where one of them is.

    Tasks that nobody said how to solve are left out of a ceiling, and it says so.
    A task on which the metric does not apply to the agent in question (an argument accuracy without a
    call) counts as 0.
    """
    found = [rows.get(task_id) for task_id in task_ids]
    why = next((row.missing for row in found if row is not None and row.missing), "")
    if not found or why or None in found:
        return Bound(value=None, said=why or NO_BOUND.said)
    known = [row for row in found if row is not None and not (ceiling and row.no_way)]
    if not known:
        return Bound(value=None, said=next(row.no_way for row in found if row is not None))
    each = [(row.ceiling if ceiling else row.floor).get(metric, 0.0) for row in known]
    said = f"{len(known)} of {len(found)} known" if len(known) < len(found) else ""
    return Bound(value=sum(each) / len(each), said=said)
