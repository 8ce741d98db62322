"""The yardstick itself, on the built-in world: whoever does everything right must score 100 %."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from cacherl.cache.episodes.replay import ReplayTools
from cacherl.cache.lookup.tool_cache import ToolCache
from cacherl.core.models import Limits
from cacherl.core.tasks import Split, Task
from cacherl.core.tools import Tier
from cacherl.core.trajectories import Trajectory
from cacherl.evaluate import NotScored, evaluate
from cacherl.metrics import EvalRow, summarise
from cacherl.worlds.desk import DeskExpert, DeskWorld

LIMITS = Limits(
    max_turns=12, max_turn_tokens=4096, max_context_tokens=32768, max_result_tokens=4096
)


@pytest.fixture(scope="module")
def tasks() -> Sequence[Task]:
    return DeskWorld().tasks(Split.TEST, count=72, seed=5)


async def test_the_expert_without_detours_is_right_everywhere(tasks: Sequence[Task]) -> None:
    """If gold and world disagreed, every figure of every model would be wrong."""
    world = DeskWorld()

    found = await evaluate(
        DeskExpert(detour=0.0), tasks, lambda task: world.open(task.scenario), limits=LIMITS
    )

    wrong = [row for row in found.rows if not row.end_to_end or row.process_accuracy != 1]
    assert wrong == []
    assert len(found.rows) == len(tasks)
    assert all(row.failures == () and row.live for row in found.rows)


async def test_a_cache_of_right_episodes_answers_them_exactly(tasks: Sequence[Task]) -> None:
    """The same policy, cached and live, has the same score when everything it does was recorded."""
    world, cache = DeskWorld(), ToolCache.open(":memory:", mode="write")
    by_id = {task.id: task for task in tasks}

    def keep(row: EvalRow | NotScored, trajectory: Trajectory | None) -> None:
        assert trajectory is not None
        cache.record_trajectory(by_id[row.task_id], trajectory)

    await evaluate(
        DeskExpert(detour=0.0),
        tasks,
        lambda task: world.open(task.scenario),
        limits=LIMITS,
        on_result=keep,
    )
    replayed = await evaluate(
        DeskExpert(detour=0.0),
        tasks,
        lambda task: ReplayTools(cache, task, splits=frozenset({Split.TEST})),
        limits=LIMITS,
    )

    summary = summarise(replayed.rows)
    assert not summary.live
    assert set(summary.call_tiers) == {Tier.EXACT.value}
    assert [row.task_id for row in replayed.rows if not row.end_to_end] == []


async def test_an_expert_that_strays_scores_less(tasks: Sequence[Task]) -> None:
    """A yardstick that cannot tell worse from better measures nothing."""
    world = DeskWorld()

    found = await evaluate(
        DeskExpert(detour=1.0), tasks, lambda task: world.open(task.scenario), limits=LIMITS
    )

    assert any(row.failures for row in found.rows)
    assert summarise(found.rows).process_accuracy.mean < 1
