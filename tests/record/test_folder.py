"""A recorded folder: what is in it, what it refuses, and that its parts stay level after a kill."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from cacherl.cache.lookup.tool_cache import ToolCache
from cacherl.cache.safety.redact import Profile
from cacherl.cache.safety.scan import scan_jsonl, scan_store
from cacherl.cache.upkeep.diff import diff_files
from cacherl.core.errors import DataError, RecipeError
from cacherl.core.folders import DataFolder
from cacherl.core.jsonl import read_jsonl, write_jsonl
from cacherl.core.models import Limits
from cacherl.core.tasks import Split, Task
from cacherl.core.trajectories import StopReason, Trajectory
from cacherl.record.folder import FolderSummary, Manifest, Plan, record_folder
from cacherl.record.into_cache import CacheOfFile
from cacherl.worlds.desk import DeskExpert, DeskWorld

PLAN = Plan(teacher="expert", limits=Limits(), best_of=2)
DESK = DeskWorld()
TASKS = DESK.tasks(Split.TRAIN, count=6, seed=0)


def noon() -> datetime:
    return datetime(2026, 3, 1, 12, tzinfo=UTC)


async def recorded(
    root: Path, *, plan: Plan = PLAN, tasks: list[Task] = TASKS, world: DeskWorld = DESK
) -> FolderSummary:
    return await record_folder(
        DataFolder(root), DeskExpert(seed=plan.seed), world, tasks, plan, clock=noon
    )


def cache_of(folder: DataFolder, path: Path, trajectories: Iterable[Trajectory]) -> Path:
    """Build the cache of these episodes from nothing."""
    tasks = {task.id: task for task in read_jsonl(folder.tasks, Task)}
    manifest = msgspec.json.decode(folder.manifest.read_bytes(), type=Manifest)
    with ToolCache.open(path, mode="write") as cache:
        level = CacheOfFile(cache, manifest.folder, tasks)
        for trajectory in trajectories:
            level.add(trajectory)
    return path


def differences_of(folder: DataFolder, beside: Path) -> tuple[int, ...]:
    built = cache_of(folder, beside, read_jsonl(folder.trajectories, Trajectory))
    found = diff_files(str(folder.cache), str(built))
    assert found.same > 0
    assert set(found.notes) <= {"redaction"}
    return found.changed, found.contradicting, found.only_a, found.only_b


def files_of(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in root.iterdir() if path.is_file()}


async def test_everything_later_stages_need_is_in_the_folder(tmp_path: Path) -> None:
    """Tasks, episodes and cache of one recording, told apart from every other by its manifest."""
    folder = DataFolder(tmp_path / "data")

    summary = await recorded(folder.root)

    manifest = msgspec.json.decode(folder.manifest.read_bytes(), type=Manifest)
    assert list(read_jsonl(folder.tasks, Task)) == TASKS
    assert summary.folder.episodes == summary.run.episodes == 12
    assert summary == msgspec.json.decode(folder.summary.read_bytes(), type=FolderSummary)
    assert set(manifest.tools) == {spec.name for spec in DESK.specs}
    assert differences_of(folder, tmp_path / "built.sqlite") == (0, 0, 0, 0)
    with ToolCache.open(folder.cache) as cache:
        kept = [each for entry in cache.store.entries() for each in entry.kept]
    assert {each.observation.recorded_at for each in kept} == {noon().timestamp()}


async def test_an_episode_counts_once_in_the_cache_wherever_the_kill_came(tmp_path: Path) -> None:
    """`times` decides which of several answers a rollout draws: a kill must not weigh in."""
    folder = DataFolder(tmp_path / "data")
    await recorded(folder.root)
    episodes = list(read_jsonl(folder.trajectories, Trajectory))
    for behind in range(len(episodes) + 1):
        folder.cache.unlink()
        for extra in folder.root.glob("cache.sqlite-*"):
            extra.unlink()
        if behind < len(episodes):  # else: killed before the cache was made
            cache_of(folder, folder.cache, episodes[: len(episodes) - behind])

        again = await recorded(folder.root)

        assert again.run.episodes == 0
        built = tmp_path / f"built-{behind}.sqlite"
        assert differences_of(folder, built) == (0, 0, 0, 0)


async def test_failed_episodes_are_in_the_cache_once_they_succeed(tmp_path: Path) -> None:
    """They are recorded again, and what they saw would then be there twice."""
    folder = DataFolder(tmp_path / "data")
    lost = msgspec.structs.replace(TASKS[1], scenario="moon-1")
    await recorded(folder.root, tasks=[TASKS[0], lost, TASKS[2]])
    failed = [t.stop for t in read_jsonl(folder.trajectories, Trajectory) if t.task_id == lost.id]
    write_jsonl(folder.tasks, TASKS[:3])

    again = await recorded(folder.root, tasks=TASKS[:3])

    assert failed == [StopReason.TOOLS_FAILED] * 2
    assert (again.run.retried, again.run.episodes, again.folder.failed) == (2, 2, 0)
    assert differences_of(folder, tmp_path / "built.sqlite") == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"teacher": "openai:gpt-5"}, 'teacher: "expert" there, "openai:gpt-5" now'),
        ({"limits": Limits(max_turns=3)}, "limits.max_turns: 8 there, 3 now"),
        ({"temperature": 0.5}, "temperature: none there, 0.5 now"),
        ({"seed": 1}, "seed: 0 there, 1 now"),
        ({"split": Split.DEV}, 'split: "train" there, "dev" now'),
        ({"redact": Profile()}, "redact: none there"),
    ],
)
async def test_other_settings_are_refused_by_name(
    tmp_path: Path, changes: dict[str, object], named: str
) -> None:
    """Episodes of two settings in one folder could not be told apart, and nobody would notice."""
    await recorded(tmp_path, tasks=TASKS[:1])
    before = files_of(tmp_path)

    with pytest.raises(RecipeError, match="was recorded with other settings") as caught:
        await recorded(tmp_path, plan=replace(PLAN, **changes), tasks=TASKS[:1])  # type: ignore[arg-type]

    assert named in str(caught.value)
    assert files_of(tmp_path) == before


async def test_a_changed_tool_is_refused_by_name(tmp_path: Path) -> None:
    """A tool that answers differently since yesterday belongs in another cache."""

    class Changed(DeskWorld):
        @property
        def specs(self):  # type: ignore[no-untyped-def]
            first, *others = super().specs
            return [msgspec.structs.replace(first, description="Find anybody."), *others]

    await recorded(tmp_path, tasks=TASKS[:1])

    with pytest.raises(RecipeError, match=r"tools\.find_customer: "):
        await recorded(tmp_path, tasks=TASKS[:1], world=Changed())


async def test_what_may_change_between_runs_may(tmp_path: Path) -> None:
    """More tasks, more rollouts, more at once: what is there stays, what is new is added."""
    await recorded(tmp_path, plan=replace(PLAN, best_of=1), tasks=TASKS[:2])

    summary = await recorded(tmp_path, plan=replace(PLAN, best_of=2, concurrency=3))

    assert (summary.run.skipped, summary.run.episodes) == (2, 10)
    assert [task.id for task in read_jsonl(tmp_path / "tasks.jsonl", Task)] == [
        task.id for task in TASKS
    ]


async def test_another_task_of_the_same_id_is_refused(tmp_path: Path) -> None:
    """Its episodes would stand for a task that was never asked."""
    await recorded(tmp_path, tasks=TASKS[:2])
    other = msgspec.structs.replace(TASKS[1], user_turns=("Something else.",))

    with pytest.raises(RecipeError, match=r"task 2, .* \(user_turns differs\)"):
        await recorded(tmp_path, tasks=[TASKS[0], other])
    with pytest.raises(RecipeError, match="two tasks have the id"):
        await recorded(tmp_path, tasks=[TASKS[0], TASKS[0]])


async def test_a_folder_that_was_imported_is_not_recorded_into(tmp_path: Path) -> None:
    """Somebody else's episodes have another teacher, whom no manifest names."""
    write_jsonl(tmp_path / "trajectories.jsonl", [])

    with pytest.raises(DataError, match=r"no record\.json"):
        await recorded(tmp_path)


async def test_a_cache_of_other_episodes_is_not_touched(tmp_path: Path) -> None:
    """Nobody can take an episode out of a cache again: say so before anything is written."""
    await recorded(tmp_path)
    episodes = list(read_jsonl(tmp_path / "trajectories.jsonl", Trajectory))
    write_jsonl(tmp_path / "trajectories.jsonl", episodes[1:])

    with pytest.raises(DataError, match="holds 12 episodes of this folder"):
        await recorded(tmp_path)


async def test_redaction_goes_over_every_file_but_the_journal(tmp_path: Path) -> None:
    """Training data must not teach a customer's address; only a resume needs the real words."""
    plan = replace(PLAN, redact=Profile(name="personal"))

    await recorded(tmp_path, plan=plan)
    again = await recorded(tmp_path, plan=plan)

    for name in ("tasks.jsonl", "trajectories.jsonl"):
        assert scan_jsonl(tmp_path / name, profile=Profile(name="personal")).findings == ()
    assert (again.run.episodes, again.run.live_calls) == (0, 0)
    assert differences_of(DataFolder(tmp_path), tmp_path / "built.sqlite") == (0, 0, 0, 0)
    with ToolCache.open(tmp_path / "cache.sqlite") as cache:
        assert scan_store(cache.store, "c", profile=Profile(name="personal")).findings == ()


async def test_a_folder_with_failures_alone_takes_other_settings(tmp_path: Path) -> None:
    """A mistyped model, mended: nothing is worth keeping to."""
    folder = DataFolder(tmp_path)
    lost = [msgspec.structs.replace(task, scenario="moon-1") for task in TASKS]
    first = await recorded(tmp_path, tasks=lost[:2])

    again = await recorded(tmp_path, plan=replace(PLAN, seed=7))

    assert first.folder.failed == first.folder.episodes == 4
    assert again.run.episodes == again.folder.episodes == 12
    assert list(read_jsonl(folder.tasks, Task)) == TASKS
    assert msgspec.json.decode(folder.manifest.read_bytes(), type=Manifest).seed == 7
    assert differences_of(folder, tmp_path / "built.sqlite") == (0, 0, 0, 0)


@pytest.mark.parametrize("gone", ["trajectories.jsonl", "cache.sqlite"])
async def test_one_with_an_episode_does_not(tmp_path: Path, gone: str) -> None:
    """Not even where a file of it was moved away."""
    await recorded(tmp_path, tasks=TASKS[:1])
    (tmp_path / gone).unlink()

    with pytest.raises(RecipeError, match="seed: 0 there, 7 now"):
        await recorded(tmp_path, plan=replace(PLAN, seed=7))


async def test_redaction_holds_even_where_nothing_was_recorded(tmp_path: Path) -> None:
    """Its key is made, and whoever asked for it once does not mean to lose it."""
    lost = [msgspec.structs.replace(TASKS[0], scenario="moon-1")]
    await recorded(tmp_path, tasks=lost, plan=replace(PLAN, redact=Profile()))

    with pytest.raises(RecipeError, match="redact"):
        await recorded(tmp_path, tasks=lost)
