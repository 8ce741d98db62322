"""A whole data folder recorded: manifest, tasks, episodes and cache, kept level with one another."""

from __future__ import annotations

import hashlib
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from msgspec.structs import replace

from cacherl import __version__
from cacherl.cache.lookup.tool_cache import ToolCache
from cacherl.cache.safety.redact import Profile, Redactor
from cacherl.core.errors import DataError, RecipeError
from cacherl.core.folders import DataFolder
from cacherl.core.jsonl import atomic_writer, read_jsonl, write_jsonl
from cacherl.core.models import ChatModel, Limits
from cacherl.core.records import JsonObject, Record
from cacherl.core.tasks import Split, Task
from cacherl.core.tools import ToolSpec
from cacherl.core.trajectories import Trajectory
from cacherl.core.worlds import World
from cacherl.record.into_cache import RECORDED_AT, CacheOfFile, is_in_cache
from cacherl.record.redacted import redacted_task, redacted_trajectory
from cacherl.record.stage import (
    OnProgress,
    OnTrajectory,
    RecordSummary,
    is_failure,
    is_refused,
    model_errors,
    record,
    tool_errors,
)

Clock = Callable[[], datetime]


def now() -> datetime:
    """Return the time, with its zone."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a folder is to be recorded. `seed` and everything before it make an episode what it is."""

    teacher: str
    limits: Limits
    temperature: float | None = None
    """None leaves it to the teacher."""
    split: Split = Split.TRAIN
    """Whose tasks these are. One folder holds one split, so that its cache does."""
    redact: Profile | None = None
    seed: int = 0
    best_of: int = 1
    concurrency: int = 8
    give_up_after: int = 8
    retry_refused: bool = False


class Manifest(Record, frozen=True, kw_only=True):
    """What the episodes of a folder have in common."""

    folder: str
    """Tells this recording from all others (hex)."""
    namespace: str
    tools: dict[str, str]
    """Tool name -> digest of its declaration."""
    resets: bool
    teacher: str
    temperature: float | None
    seed: int
    split: Split
    limits: JsonObject
    redact: Profile | None
    versions: tuple[str, ...]
    """Versions of cacherl that recorded here."""


_FREE = ("folder", "versions")
"""What may differ between two runs on one folder."""


def manifest_of(plan: Plan, world: World, *, folder: str) -> Manifest:
    """Return what a plan would make of a folder."""
    return Manifest(
        folder=folder,
        namespace=world.namespace,
        tools={spec.name: _digest(spec) for spec in sorted(world.specs, key=lambda s: s.name)},
        resets=world.resets,
        teacher=plan.teacher,
        temperature=plan.temperature,
        seed=plan.seed,
        split=plan.split,
        limits=msgspec.to_builtins(plan.limits),
        redact=plan.redact,
        versions=(__version__,),
    )


def _digest(spec: ToolSpec) -> str:
    return hashlib.blake2b(msgspec.json.encode(spec), digest_size=8).hexdigest()


def differences(recorded: Manifest, wanted: Manifest) -> list[str]:
    """Return what differs in a way that two episodes of one folder must not, in words."""
    found = []
    for name in Manifest.__struct_fields__:
        was, now_is = getattr(recorded, name), getattr(wanted, name)
        if name in _FREE or was == now_is:
            continue
        if isinstance(was, dict):
            found += [
                f"{name}.{key}: {_changed(was.get(key), now_is.get(key))}"
                for key in sorted({*was, *now_is})
                if was.get(key) != now_is.get(key)
            ]
        else:
            found.append(f"{name}: {_changed(was, now_is)}")
    return found


def _changed(was: object, now_is: object) -> str:
    return f"{_shown(was)} there, {_shown(now_is)} now"


def _shown(value: object) -> str:
    return "none" if value is None else msgspec.json.encode(value).decode()


def read_manifest(folder: DataFolder, plan: Plan, world: World) -> Manifest | None:
    """Return the folder's manifest, or None where there is none to keep to. Writes nothing.

    A folder in which nothing was recorded (a budget too small, a mistyped model) is tied to nothing but
    its redaction.

    Raises:
        RecipeError: the folder holds episodes of other tools, another teacher or other settings.
        DataError: its manifest is damaged, or there are episodes and no manifest.
    """
    path = folder.manifest
    if not path.exists():
        if folder.trajectories.exists():
            raise DataError(
                f"{folder.root}: holds trajectories and no {path.name}, so they were not recorded "
                "here. Record into another folder."
            )
        return None
    try:
        recorded = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except msgspec.DecodeError as error:
        raise DataError(f"{path}: not a manifest: {error}. Restore it from a copy.") from error
    found = differences(recorded, manifest_of(plan, world, folder=recorded.folder))
    if found and recorded.redact == plan.redact and _holds_nothing(folder, recorded):
        return None
    if found:
        more = f" (and {len(found) - 3} more)" if len(found) > 3 else ""
        raise RecipeError(
            f"{folder.root} was recorded with other settings: {'; '.join(found[:3])}{more}. "
            "Use the same, or name another folder."
        )
    return recorded


def _holds_nothing(folder: DataFolder, recorded: Manifest) -> bool:
    """Say whether no live call is on record and every episode is a failure."""
    if _is_filled(folder.live_calls):
        return False
    if folder.trajectories.exists():
        kept = read_jsonl(folder.trajectories, Trajectory, drop_torn_tail=True)
        if not all(map(is_failure, kept)):
            return False
    return not is_in_cache(folder.cache, recorded.folder)  # the file may have been moved away


def _is_filled(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def settled_manifest(folder: DataFolder, plan: Plan, world: World) -> Manifest:
    """Return the folder's manifest, written if there was none to keep to. Raises as `read_manifest`."""
    recorded = read_manifest(folder, plan, world)
    if recorded is None:
        folder.trajectories.unlink(missing_ok=True)  # failures under other settings, if anything
        recorded = manifest_of(plan, world, folder=secrets.token_hex(8))
    elif __version__ in recorded.versions:
        return recorded
    else:
        recorded = replace(recorded, versions=(*recorded.versions, __version__))
    _write(folder.manifest, recorded)
    return recorded


def joined_tasks(on_file: Iterable[Task], wanted: Sequence[Task], where: str) -> dict[str, Task]:
    """Return the tasks on file and the wanted ones by id.

    Raises:
        RecipeError: two tasks share an id.
    """
    tasks = {task.id: task for task in on_file}
    for number, task in enumerate(wanted, 1):
        if tasks.setdefault(task.id, task) != task:
            other = tasks[task.id]
            field = next(
                name
                for name in Task.__struct_fields__
                if getattr(task, name) != getattr(other, name)
            )
            raise RecipeError(
                f"task {number}, {task.id!r}: {where} holds another task of this id ({field} differs). "
                "Give the new one an id of its own, or name another folder."
            )
    ids = Counter(task.id for task in wanted)
    twice = next((name for name, count in ids.items() if count > 1), None)
    if twice is not None:
        raise RecipeError(f"two tasks have the id {twice!r}. Give one of them another.")
    return tasks


class Holdings(Record, frozen=True, kw_only=True):
    """What a folder holds, over all runs."""

    tasks: int
    episodes: int
    failed: int
    """Of these, failures of model or tools: not in the cache, and recorded again by the next run."""
    refused: int
    """Of the failed, those whose task the teacher refuses: recorded again only if asked."""
    stops: dict[str, int]
    tool_errors: dict[str, int]
    model_errors: dict[str, int]
    calls: int
    """Tool results in the episodes."""
    prompt_tokens: int
    completion_tokens: int


def holdings(folder: DataFolder) -> Holdings:
    """Count what a folder holds. Reads its trajectories once."""
    stops: Counter[str] = Counter()
    of_tools: Counter[str] = Counter()
    of_model: Counter[str] = Counter()
    tasks = set()
    calls = prompt = completion = failed = refused = 0
    for trajectory in read_jsonl(folder.trajectories, Trajectory, drop_torn_tail=True):
        tasks.add(trajectory.task_id)
        stops[trajectory.stop.value] += 1
        of_tools.update(tool_errors(trajectory))
        of_model.update(model_errors(trajectory))
        calls += len(trajectory.results)
        prompt += trajectory.usage.prompt_tokens
        completion += trajectory.usage.completion_tokens
        failed += is_failure(trajectory)
        refused += is_refused(trajectory)
    return Holdings(
        tasks=len(tasks),
        episodes=sum(stops.values()),
        failed=failed,
        refused=refused,
        stops=dict(sorted(stops.items())),
        tool_errors=dict(sorted(of_tools.items())),
        model_errors=dict(sorted(of_model.items())),
        calls=calls,
        prompt_tokens=prompt,
        completion_tokens=completion,
    )


class FolderSummary(Record, frozen=True, kw_only=True):
    """What a run did, and what the folder holds now."""

    run: RecordSummary
    folder: Holdings


async def record_folder(
    folder: DataFolder,
    model: ChatModel,
    world: World,
    tasks: Sequence[Task],
    plan: Plan,
    *,
    on_trajectory: OnTrajectory | None = None,
    on_progress: OnProgress | None = None,
    clock: Clock = now,
) -> FolderSummary:
    """Record every task into the folder: tasks, trajectories, cache, journal, manifest, summary.

    May be killed at any point and run again: see `stage.record`. The cache is brought level with
    the trajectories first, so each episode counts in it once.

    Args:
        folder: one writer at a time; hold a lock on it.
        model: the teacher.
        world: the live tools.
        tasks: what to solve; with those of earlier runs they are kept in the folder.
        plan: how. A folder keeps to the plan it was begun with.
        on_trajectory: called with each finished episode, as it is kept.
        on_progress: called before the first episode and after each.
        clock: when episodes are recorded.

    Raises:
        RecipeError: the folder holds other settings, or another task of the same id.
        DataError: a file of the folder is damaged.
        ModelError: the model failed many times in a row.
        ToolError: the tools did.
    """
    manifest = settled_manifest(folder, plan, world)
    with ToolCache.open(folder.cache, mode="write", redact=plan.redact) as cache:
        redactor = cache.redactor
        kept = [task if redactor is None else redacted_task(task, redactor) for task in tasks]
        begun = _is_filled(folder.trajectories) or _is_filled(folder.live_calls)
        on_file = list(read_jsonl(folder.tasks, Task)) if begun and folder.tasks.exists() else []
        by_id = joined_tasks(on_file, kept, str(folder.tasks))
        if len(by_id) > len(on_file):
            write_jsonl(folder.tasks, by_id.values())
        level = CacheOfFile(cache, manifest.folder, by_id, resets=manifest.resets)
        level.catch_up(folder.trajectories)

        def on_file_now(task: Task, trajectory: Trajectory) -> None:
            level.add(trajectory)
            if on_trajectory is not None:
                on_trajectory(task, trajectory)

        run = await record(
            model,
            world,
            tasks,
            limits=plan.limits,
            seed=plan.seed,
            out=folder.trajectories,
            concurrency=plan.concurrency,
            best_of=plan.best_of,
            live_calls=folder.live_calls,
            as_kept=lambda trajectory: _as_kept(trajectory, redactor, clock()),
            on_trajectory=on_file_now,
            on_progress=on_progress,
            give_up_after=plan.give_up_after,
            retry_refused=plan.retry_refused,
        )
    summary = FolderSummary(run=run, folder=holdings(folder))
    _write(folder.summary, summary)
    return summary


def _as_kept(trajectory: Trajectory, redactor: Redactor | None, at: datetime) -> Trajectory:
    if redactor is not None:
        trajectory = redacted_trajectory(trajectory, redactor)
    return replace(trajectory, notes={**trajectory.notes, RECORDED_AT: at.isoformat()})


def _write(path: Path, record: Record) -> None:
    with atomic_writer(path) as handle:
        handle.write(msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")
