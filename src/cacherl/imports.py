"""Other people's trajectory files into a folder of tasks, trajectories and a cache; and playing them again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from cacherl.agent import run_episode
from cacherl.cache.episodes.replay import ReplayTools
from cacherl.cache.lookup.tool_cache import ToolCache
from cacherl.core.errors import DataError, RecipeError
from cacherl.core.jsonl import read_jsonl, write_jsonl
from cacherl.core.messages import UserMessage
from cacherl.core.models import Limits
from cacherl.core.records import Record
from cacherl.core.tasks import Split, Task
from cacherl.core.tools import Source
from cacherl.core.trajectories import StopReason, Trajectory
from cacherl.formats.tau_bench import read_tau_bench
from cacherl.recorded import RecordedModel

FORMATS: dict[str, Callable[[Path], Iterator[tuple[Task, Trajectory]]]] = {
    "tau-bench": read_tau_bench
}


class ImportSummary(Record, frozen=True, kw_only=True):
    """What an import brought."""

    tasks: int
    trajectories: int
    calls: int
    """Calls whose answers are kept in the cache."""
    new: int
    """Of these, answers that were not kept before."""
    skipped: int
    """Calls whose answer was not a tool's own, or a transient failure."""


class ReplaySummary(Record, frozen=True, kw_only=True):
    """How much of the recorded conversations came back."""

    conversations: int
    results: int
    identical: int
    """Results equal to the recorded ones, byte for byte."""
    refused: int
    """Calls that the loop refuses before any tool, live or cached."""
    different: int
    tiers: dict[str, int]
    stops: dict[str, int]
    first_difference: str | None = None


def import_file(source: Path, format_name: str, folder: Path) -> ImportSummary:
    """Read `source` into `folder`: tasks.jsonl, trajectories.jsonl, cache.sqlite.

    Several trials of a task share its id; the task is kept as its last trial put it.

    Raises:
        RecipeError: no such format.
        DataError: the file is not of that format; nothing in the folder has changed.
    """
    if format_name not in FORMATS:
        raise RecipeError(f"no format {format_name!r}. There are: {', '.join(FORMATS)}.")
    pairs = list(FORMATS[format_name](source))
    if not pairs:
        raise DataError(f"{source}: holds no trajectory. Check the file and the format.")
    folder.mkdir(parents=True, exist_ok=True)
    building = folder / "cache.sqlite.new"
    for stale in folder.glob("cache.sqlite.new*"):
        stale.unlink()
    calls = new = skipped = 0
    with ToolCache.open(building, mode="write") as cache:
        for task, trajectory in pairs:
            recorded = cache.record_trajectory(task, trajectory)
            calls, new = calls + recorded.calls, new + recorded.new
            skipped += recorded.skipped
    tasks = {task.id: task for task, _ in pairs}
    write_jsonl(folder / "tasks.jsonl", tasks.values())
    write_jsonl(folder / "trajectories.jsonl", (trajectory for _, trajectory in pairs))
    for stale in folder.glob("cache.sqlite-*"):
        stale.unlink()
    building.replace(folder / "cache.sqlite")
    return ImportSummary(
        tasks=len(tasks), trajectories=len(pairs), calls=calls, new=new, skipped=skipped
    )


def _as_spoken(task: Task, trajectory: Trajectory) -> Task:
    """Return the task with the user turns of this trajectory: a simulated user words each trial anew."""
    said = tuple(m.content for m in trajectory.messages if isinstance(m, UserMessage))
    return msgspec.structs.replace(task, user_turns=said or task.user_turns)


async def replay_folder(folder: Path) -> ReplaySummary:
    """Play every trajectory of an imported folder through the loop, answered by its own recordings.

    Each conversation is answered from a cache of itself alone, so that what comes back is what this
    conversation saw and not what another trial of the same task saw.
    """
    tasks = {task.id: task for task in read_jsonl(folder / "tasks.jsonl", Task)}
    tiers: Counter[str] = Counter()
    stops: Counter[str] = Counter()
    conversations = results = identical = refused = different = 0
    first: str | None = None
    for trajectory in read_jsonl(folder / "trajectories.jsonl", Trajectory):
        task = tasks.get(trajectory.task_id)
        if task is None:
            raise DataError(
                f"{folder}/trajectories.jsonl: task {trajectory.task_id} is not in tasks.jsonl. "
                "Import the file again."
            )
        conversations += 1
        task = _as_spoken(task, trajectory)
        with ToolCache.open(":memory:") as cache:
            cache.record_trajectory(task, trajectory)
            tools = ReplayTools(cache, task, splits=frozenset(Split))
            played = await run_episode(
                RecordedModel(trajectory),
                tools,
                task,
                limits=Limits(max_turns=10_000, max_context_tokens=1 << 40),
            )
        stops[
            (played.stop if played.stop is not StopReason.MODEL_FAILED else trajectory.stop).value
        ] += 1
        for recorded, replayed in zip(trajectory.results, played.results, strict=False):
            results += 1
            if replayed.source is Source.LOOP:
                refused += 1
            elif replayed.text == recorded.text:
                identical += 1
                tiers[replayed.tier.value] += 1
            else:
                different += 1
                first = first or f"{trajectory.task_id} {recorded.name}: {replayed.text[:80]!r}"
        missing = len(trajectory.results) - len(played.results)
        if missing:
            different += missing
            results += missing
            first = first or f"{trajectory.task_id}: the conversation ended {missing} results early"
    return ReplaySummary(
        conversations=conversations,
        results=results,
        identical=identical,
        refused=refused,
        different=different,
        tiers=dict(tiers),
        stops=dict(stops),
        first_difference=first,
    )
