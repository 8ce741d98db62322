"""An evaluation says what the model did, whatever happens to the machines around it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from cacherl.core.errors import CacheError, DataError, ToolError
from cacherl.core.jsonl import read_jsonl
from cacherl.core.models import Limits
from cacherl.core.tasks import Task
from cacherl.core.tools import Tier, Tools
from cacherl.core.trajectories import StopReason, Trajectory
from cacherl.evaluate import NotScored, evaluate
from cacherl.metrics import EvalRow
from tests.desk_of_two import (
    RIGHT,
    SILENT,
    UNREACHABLE,
    WRONG_VALUE,
    BrokenTools,
    NoteTools,
    StatelessTools,
    TaskModel,
    copy_task,
)

LIMITS = Limits()


def live(task: Task) -> Tools:
    return NoteTools()


async def test_right_and_wrong_episodes_score_as_they_should_on_live_tools() -> None:
    """The two figures the whole project is judged by."""
    tasks = [copy_task("right"), copy_task("wrong"), copy_task("silent")]
    model = TaskModel({"right": RIGHT, "wrong": WRONG_VALUE, "silent": SILENT})

    found = await evaluate(model, tasks, live, limits=LIMITS)

    assert [row.process_accuracy for row in found.rows] == [1.0, 0.5, 0.0]
    assert [row.end_to_end for row in found.rows] == [True, False, False]
    assert [row.answer_right for row in found.rows] == [True, True, True]
    assert all(row.live for row in found.rows)


async def test_cached_runs_judge_the_outcome_by_the_writes() -> None:
    """A cache has no state to compare, yet a wrong write must not pass."""
    tasks = [copy_task("right"), copy_task("wrong"), copy_task("silent")]
    model = TaskModel({"right": RIGHT, "wrong": WRONG_VALUE, "silent": SILENT})

    found = await evaluate(model, tasks, lambda _: StatelessTools(), limits=LIMITS)

    assert [row.end_to_end for row in found.rows] == [True, False, False]
    assert not any(row.live for row in found.rows)
    assert {row.worst_tier for row in found.rows if row.calls} == {Tier.EXACT}


async def test_a_broken_world_is_never_the_models_failure() -> None:
    """One dead server must not read as a bad model, nor stop the other tasks."""
    tasks = [copy_task("fine"), copy_task("broken"), copy_task("closed"), copy_task("mute")]
    model = TaskModel({"fine": RIGHT, "broken": RIGHT, "closed": RIGHT, "mute": UNREACHABLE})

    def open_tools(task: Task) -> Tools:
        if task.id == "closed":
            raise ToolError("the world does not start. Install it.")
        return BrokenTools() if task.id == "broken" else NoteTools()

    found = await evaluate(model, tasks, open_tools, limits=LIMITS)

    assert [row.task_id for row in found.rows] == ["fine"]
    assert [(one.task_id, one.stop) for one in found.not_scored] == [
        ("broken", StopReason.TOOLS_FAILED),
        ("closed", StopReason.TOOLS_FAILED),
        ("mute", StopReason.MODEL_FAILED),
    ]
    assert "gone" in found.not_scored[0].error


async def test_a_killed_evaluation_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """Hours of episodes are not played twice, and the sum is the same as in one go."""
    tasks = [copy_task(f"t{i}") for i in range(4)]
    scripts = {task.id: RIGHT for task in tasks}
    rows, played = tmp_path / "rows.jsonl", tmp_path / "trajectories.jsonl"
    await evaluate(TaskModel(scripts), tasks[:2], live, limits=LIMITS, rows_path=rows)
    with rows.open("ab") as torn:
        torn.write(b'{"_sum":"0123')

    second = TaskModel(scripts)
    found = await evaluate(
        second, tasks, live, limits=LIMITS, rows_path=rows, trajectories_path=played
    )

    assert [name for name, _ in second.started] == ["t2", "t3"]
    assert found.resumed == 2
    assert [row.task_id for row in found.rows] == ["t0", "t1", "t2", "t3"]
    assert list(read_jsonl(rows, EvalRow)) == list(found.rows)
    assert [one.task_id for one in read_jsonl(played, Trajectory)] == ["t2", "t3"]


async def test_episodes_that_were_not_scored_are_tried_again(tmp_path: Path) -> None:
    """A server that was down yesterday owes us its answers today."""
    rows, task = tmp_path / "rows.jsonl", copy_task("t")
    await evaluate(TaskModel({"t": UNREACHABLE}), [task], live, limits=LIMITS, rows_path=rows)

    found = await evaluate(TaskModel({"t": RIGHT}), [task], live, limits=LIMITS, rows_path=rows)

    assert [row.end_to_end for row in found.rows] == [True]


async def test_rows_of_another_model_are_refused_before_any_episode(tmp_path: Path) -> None:
    """Two models in one file would make an average of neither."""
    rows, task = tmp_path / "rows.jsonl", copy_task("t")
    await evaluate(TaskModel({"t": RIGHT}), [task], live, limits=LIMITS, rows_path=rows)
    other = TaskModel({"t": RIGHT}, name="other")

    with pytest.raises(DataError, match=r"rows\.jsonl: holds rows of m with seed 0, not of other"):
        await evaluate(other, [task], live, limits=LIMITS, rows_path=rows)

    assert other.started == []


async def test_a_task_without_gold_stops_before_any_episode() -> None:
    """Nothing could be right or wrong: say so at once."""
    task = msgspec.structs.replace(copy_task("t"), gold=None)
    model = TaskModel({"t": RIGHT})

    with pytest.raises(DataError, match="task t has no gold"):
        await evaluate(model, [task], live, limits=LIMITS)

    assert model.started == []


async def test_a_cache_that_cannot_be_read_stops_the_run_with_its_own_line() -> None:
    """The terminal shows one line and the fix, not a group of exceptions."""

    def open_tools(task: Task) -> Tools:
        raise CacheError("cache.sqlite: damaged. Record it again.")

    with pytest.raises(CacheError, match="damaged"):
        await evaluate(
            TaskModel({"a": RIGHT, "b": RIGHT}),
            [copy_task("a"), copy_task("b")],
            open_tools,
            limits=LIMITS,
        )


async def test_tools_are_closed_and_results_reported_once_each() -> None:
    """A world left open holds a database; a result told twice breaks a progress bar."""
    opened: list[NoteTools] = []
    told: list[EvalRow | NotScored] = []

    def open_tools(task: Task) -> Tools:
        opened.append(NoteTools())
        return opened[-1]

    tasks = [copy_task(f"t{i}") for i in range(5)]
    model = TaskModel({task.id: RIGHT for task in tasks})
    await evaluate(
        model,
        tasks,
        open_tools,
        limits=LIMITS,
        concurrency=2,
        on_result=lambda row, trajectory: told.append(row),
    )

    assert sorted(row.task_id for row in told) == [task.id for task in tasks]
    assert all(tools.closed for tools in opened)


async def test_a_tasks_seed_does_not_depend_on_the_other_tasks() -> None:
    """A subset scores as it does within the whole."""
    tasks = [copy_task("a"), copy_task("b")]
    whole, part = (TaskModel({"a": RIGHT, "b": RIGHT}) for _ in range(2))

    await evaluate(whole, tasks, live, limits=LIMITS, seed=7)
    await evaluate(part, tasks[1:], live, limits=LIMITS, seed=7)

    assert dict(whole.started)["b"] == dict(part.started)["b"]
    assert dict(whole.started)["a"] != dict(whole.started)["b"]
