"""BFCL as a world: recorded, replayed from the cache, and judged there as on the real backends."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cacherl.agent import run_episode
from cacherl.cache.episodes.replay import ReplayTools
from cacherl.cache.lookup.tool_cache import ToolCache
from cacherl.core.errors import RecipeError
from cacherl.core.jsonl import read_jsonl
from cacherl.core.models import Limits
from cacherl.core.tasks import Split, Task
from cacherl.core.tools import Tier
from cacherl.core.trajectories import Trajectory
from cacherl.experiment import WorldSection
from cacherl.suites.bfcl import BfclSuite
from cacherl.suites.bfcl.suite import MAX_TURNS
from cacherl.suites.bfcl.wheel import add_wheel
from cacherl.wiring import world_of
from tests.suites.bfcl_wheel import needs_wheel, wheel

LIMITS = Limits(max_turns=MAX_TURNS, max_context_tokens=10**9, max_result_tokens=10**9)


@needs_wheel
def test_what_gold_recorded_answers_gold_exactly_and_passes_again(
    data_folder: Path, tmp_path: Path
) -> None:
    """Record, cache and judge fit together on tools whose answers hang on their state."""
    add_wheel(wheel())
    long = ("--max-turns", str(MAX_TURNS), "--max-context-tokens", "100000000")
    what = ("--world", "bfcl", "--teacher", "expert", "--count", "30", "--seed", "4")
    made = subprocess.run(
        [sys.executable, "-m", "cacherl.cli", "record", *what, *long, "--out", tmp_path / "data"],
        capture_output=True,
        text=True,
        env={**os.environ, "CACHERL_HOME": str(data_folder)},
        check=False,
    )
    assert made.returncode == 0, made.stderr
    suite = BfclSuite(wheel())
    tasks = list(read_jsonl(tmp_path / "data" / "tasks.jsonl", Task))
    recorded = {
        each.task_id: each
        for each in read_jsonl(tmp_path / "data" / "trajectories.jsonl", Trajectory)
    }

    async def replayed(cache: ToolCache, task: Task) -> Trajectory:
        tools = ReplayTools(cache, task, seed=0, splits=frozenset({Split.TRAIN}))
        return await run_episode(suite.oracle(), tools, task, limits=LIMITS)

    with ToolCache.open(str(tmp_path / "data" / "cache.sqlite")) as cache:
        for task in tasks:
            episode = asyncio.run(replayed(cache, task))
            live = recorded[task.id]
            assert suite.check(task, live).success, task.id
            assert suite.check(task, episode) == suite.check(task, live)
            assert {result.tier for result in episode.results} == {Tier.EXACT}
            assert [r.text for r in episode.results] == [r.text for r in live.results]


@needs_wheel
def test_a_recipe_names_the_world_and_its_categories(
    data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`world.name = "bfcl"` and `world.families` are all that a recipe says."""
    add_wheel(wheel())

    world = world_of(WorldSection(name="bfcl", families=("miss_param",)))

    assert {task.family for task in world.tasks(Split.TRAIN, count=20, seed=0)} == {"miss_param"}
    with pytest.raises(RecipeError, match="There are: desk, bfcl"):
        world_of(WorldSection(name="nowhere"))
