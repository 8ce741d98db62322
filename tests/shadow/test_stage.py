"""The run: pairs with the same seeds, outages apart, killed and gone on with."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from cacherl.cache.lookup.tool_cache import ToolCache
from cacherl.core.errors import RecipeError, ToolError
from cacherl.core.messages import ToolCall
from cacherl.core.tasks import Split, Task
from cacherl.core.tools import Tier
from cacherl.core.trajectories import StopReason
from cacherl.shadow import Serve, shadow, summarise
from cacherl.shadow.rows import Leg, Outage, ShadowFolder, read_lines
from cacherl.shadow.stage import Played
from cacherl.shadow.straying import Straying
from cacherl.worlds.desk import DeskExpert, DeskWorld
from tests.desk_of_two import BrokenTools, NoteTools, TaskModel, read, write
from tests.record.preloaded import Preloaded
from tests.shadow.notebook import LIMITS, cache_of, task_of, turns
from tests.shadow.test_summary import PLAN


def run(
    folder: ShadowFolder,
    tasks: list[Task],
    cache: ToolCache,
    model: TaskModel,
    *,
    live: type[NoteTools] = NoteTools,
    give_up_after: int = 8,
) -> Played:
    return asyncio.run(
        shadow(
            model,
            tasks,
            lambda task: live(),
            cache,
            folder,
            limits=LIMITS,
            seed=3,
            concurrency=2,
            give_up_after=give_up_after,
        )
    )


def notes(*episodes: list[ToolCall]) -> tuple[list[Task], TaskModel]:
    tasks = [task_of(id=f"t{place}") for place in range(len(episodes))]
    scripts = {
        task.id: turns(*calls, answer="milk") for task, calls in zip(tasks, episodes, strict=True)
    }
    return tasks, TaskModel(scripts)


def test_both_episodes_of_a_pair_get_the_same_seed(tmp_path: Path) -> None:
    """Else sampling, and not the cache, would make the difference."""
    tasks, model = notes([read(0)], [read(0), write("milk")])
    folder = ShadowFolder(tmp_path)

    played = run(folder, tasks, cache_of(tasks[0], [read(0), write("milk")]), model)

    assert (played.played, played.left) == (4, 0)
    by_task = {task.id: {seed for id_, seed in model.started if id_ == task.id} for task in tasks}
    assert [len(seeds) for seeds in by_task.values()] == [1, 1]
    assert set.isdisjoint(*by_task.values())
    legs = folder.legs()
    assert {key[2] for key in legs} == set(Serve)
    right = legs["t1", 0, Serve.CACHED]
    assert right.metrics["end_to_end"] == right.world["end_to_end"] == 1.0


def test_a_write_that_only_the_world_made_shows_in_what_was_believed(tmp_path: Path) -> None:
    """The cache refused it, so training saw no harm; the world has one note too many."""
    tasks, model = notes([read(0), write("milk"), write("junk")])
    folder = ShadowFolder(tmp_path)
    run(folder, tasks, cache_of(tasks[0], [read(0), write("milk")]), model)

    cached = folder.legs()["t0", 0, Serve.CACHED]

    assert cached.metrics["end_to_end"] == 1.0
    assert cached.world["end_to_end"] == 0.0
    assert cached.parted.startswith("since call 3, write_note: a miss")


def test_a_finished_run_plays_nothing_again(tmp_path: Path) -> None:
    """What a paid model said once is on file."""
    tasks, model = notes([read(0)], [read(1)])
    folder = ShadowFolder(tmp_path)
    cache = cache_of(tasks[0], [read(0)])
    run(folder, tasks, cache, model)
    before = folder.rows.read_bytes()

    again = run(folder, tasks, cache, model)

    assert (again.resumed, again.played) == (4, 0)
    assert folder.rows.read_bytes() == before
    assert len(model.started) == 4


def test_an_outage_counts_nowhere_and_is_played_again(tmp_path: Path) -> None:
    """Infrastructure is never the cache's fault nor the model's."""
    tasks, model = notes([read(0)])
    folder = ShadowFolder(tmp_path)
    cache = cache_of(tasks[0], [read(0)])

    broken = run(folder, tasks, cache, model, live=BrokenTools)

    # On the cache the world beside may fail; on the world the episode itself does.
    assert [outage.serve for outage in broken.outages] == [Serve.LIVE]
    assert broken.outages[0].stop is StopReason.TOOLS_FAILED
    assert broken.left == 1
    mended = run(folder, tasks, cache, model)
    assert (mended.resumed, mended.played, mended.left) == (1, 1, 0)
    kinds = [type(line) for line in read_lines(folder.rows)]
    assert kinds == [Leg, Outage, Leg]


def test_a_world_that_never_answers_ends_the_run(tmp_path: Path) -> None:
    """A thousand tasks against a server that is down would be a thousand equal errors."""
    tasks, model = notes(*[[read(0)]] * 6)
    with pytest.raises(ToolError, match=r"3 episodes in a row.*the notes are gone"):
        run(
            ShadowFolder(tmp_path),
            tasks,
            cache_of(tasks[0], [read(0)]),
            model,
            live=BrokenTools,
            give_up_after=3,
        )


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    """Lines of two policies in one file are a figure of nobody."""
    folder = ShadowFolder(tmp_path)
    folder.begin(PLAN)
    folder.begin(PLAN)
    other = type(PLAN)(**{**{f: getattr(PLAN, f) for f in PLAN.__struct_fields__}, "seed": 9})
    with pytest.raises(RecipeError, match="seed: 0 there, 9 now"):
        folder.begin(other)


async def desk_run(root: Path) -> Played:
    """Shadow a straying expert on the desk."""
    world = DeskWorld()
    tasks = world.tasks(Split.TRAIN, count=12, seed=5)

    with ToolCache.open(root.parent / "cache.sqlite") as cache:
        return await shadow(
            Straying(DeskExpert(detour=0.3), 0.5),
            tasks,
            lambda task: world.open(task.scenario),
            cache,
            ShadowFolder(root),
            limits=LIMITS,
            concurrency=4,
        )


def recorded_desk(path: Path) -> None:
    from cacherl.agent import run_episode

    world = DeskWorld()
    with ToolCache.open(path, mode="write") as cache:
        for task in world.tasks(Split.TRAIN, count=12, seed=5):
            tools = world.open(task.scenario)
            played = asyncio.run(run_episode(DeskExpert(detour=0.0), tools, task, limits=LIMITS))
            cache.record_trajectory(task, played, recorded_at=0.0)
            asyncio.run(tools.aclose())


def test_a_run_killed_again_and_again_ends_as_one_that_was_not(tmp_path: Path) -> None:
    """SIGKILL whenever it hits: no episode is lost, none is played twice."""
    cache = tmp_path / "cache.sqlite"
    recorded_desk(cache)
    calm, torn = ShadowFolder(tmp_path / "calm"), ShadowFolder(tmp_path / "torn")
    words: list[str | Path] = [
        "shadow",
        "oracle",
        "--world",
        "desk",
        "--cache",
        cache,
        "--limit",
        "40",
    ]
    words += ["--stray", "0.5", "--concurrency", "2", "--json"]
    killed = 0
    with Preloaded(tmp_path, "cacherl.report.shadow", "cacherl.shadow.stage") as cacherl:
        for aim in (5, 20, 45, 70):
            code = cacherl.run(
                [*words, "--out", torn.root],
                until=lambda: torn.rows.exists() and torn.rows.read_bytes().count(b"\n") >= aim,  # noqa: B023
            )
            killed += code == -signal.SIGKILL
            with torn.rows.open("ab") as file:
                file.write(b'{"_sum":"00')  # what a kill in the middle of a line leaves
        assert cacherl.run([*words, "--out", torn.root]) == 0
        assert cacherl.run([*words, "--out", calm.root]) == 0

    assert killed
    lines = [line for line in read_lines(torn.rows) if isinstance(line, Leg)]
    names = [(line.task_id, line.trial, line.serve) for line in lines]
    assert len(names) == len(set(names)) == 80
    assert torn.summary.read_bytes() == calm.summary.read_bytes()


def test_on_the_desk_no_exact_answer_is_wrong_and_nothing_is_noise(tmp_path: Path) -> None:
    """The promise of the built-in world: declared effects are true, and a script repeats itself."""
    recorded_desk(tmp_path / "cache.sqlite")
    asyncio.run(desk_run(tmp_path / "run"))

    found = summarise(PLAN, ShadowFolder(tmp_path / "run").legs().values())

    for steps in (found.cached, found.live):
        assert steps is not None
        assert steps.tiers[Tier.EXACT] > 20
        assert steps.exact_wrong == ()
        assert steps.unsaid_writers == {}
    assert found.pairs is not None
    funnel = found.pairs.funnel
    assert (funnel.noise, funnel.wording) == (0, 0)
    assert funnel.pairs == 12
    assert funnel.differed >= funnel.diverged >= funnel.verdict_changed
