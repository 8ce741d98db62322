"""Figures are functions of the rows: their order, and what a killed run left first, changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cacherl.core.tasks import Split
from cacherl.core.tools import ErrorClass, Tier
from cacherl.evaluate.bounds import BoundRow, bound
from cacherl.evaluate.folder import EvalFolder, Plan, difference, folder_name
from cacherl.evaluate.results import read_results, task_digest
from cacherl.evaluate.run import still_to_play
from cacherl.evaluate.summary import Row, Summary, figure_of, row_of, summarise_rows
from tests.desk_of_two import copy_task
from tests.evaluate.folders import evaluated, model

METRIC = "success"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> EvalFolder:
    root = tmp_path_factory.mktemp("evaluation")
    evaluated(root, model(lambda task: task[-1] in "15"), count=9, trials=2)
    return EvalFolder(root)


def rows_of(folder: EvalFolder) -> list[Row]:
    tasks = {task.id: task for task in folder.read_tasks()}
    return [row_of(tasks[row.task_id], row) for row in read_results(folder.results)]


@settings(max_examples=6)
@given(data=st.data())
def test_the_order_of_the_rows_changes_no_figure(folder: EvalFolder, data: st.DataObject) -> None:
    """Episodes end in any order, and a resumed run ends them in another."""
    rows = rows_of(folder)
    shuffled = data.draw(st.permutations(rows))

    def figures(rows: Sequence[Row]) -> object:
        return summarise_rows(
            folder.read_manifest(), folder.read_tasks(), rows, folder.read_bounds(), outages={}
        )

    assert figures(shuffled) == figures(rows)


@given(
    known=st.sets(st.tuples(st.integers(0, 5), st.integers(0, 3))),
    trials=st.integers(1, 4),
)
def test_what_is_left_and_what_is_known_make_up_the_whole(
    known: set[tuple[int, int]], trials: int
) -> None:
    """No sample is forgotten and none is played twice, whatever an earlier run left behind."""
    tasks = [copy_task(str(n)) for n in range(6)]
    on_file = {(str(task), trial): None for task, trial in known}

    left = [(task.id, trial) for task, trial in still_to_play(tasks, trials, on_file)]

    whole = {(task.id, trial) for task in tasks for trial in range(trials)}
    assert len(left) == len(set(left))
    assert set(left) == whole - on_file.keys()
    assert [trial for _, trial in left] == sorted(trial for _, trial in left)


@given(
    floors=st.lists(st.floats(0, 1), min_size=1, max_size=8),
    unknown=st.integers(0, 20),
)
def test_an_end_is_the_mean_of_its_tasks_or_unknown(floors: list[float], unknown: int) -> None:
    """Half a floor is no floor: one task that nobody measured leaves it unknown."""
    rows = {
        str(n): BoundRow(
            task_id=str(n),
            task_digest="",
            floor={METRIC: value},
            ceiling={},
            missing="down" if n == unknown else "",
        )
        for n, value in enumerate(floors)
    }

    end = bound(rows, list(rows), METRIC, ceiling=False)

    if unknown < len(floors):
        assert (end.value, end.said) == (None, "down")
    else:
        assert end.value == pytest.approx(sum(floors) / len(floors))


def test_a_metric_counts_the_rows_that_have_it(folder: EvalFolder) -> None:
    """A rate over tasks on which it means nothing would be diluted."""
    rows = rows_of(folder)
    some = [row for row in rows if row.task_id[-1] in "123"]

    found = figure_of("process_accuracy", some, folder.read_bounds())

    assert found is not None
    assert (found.measured.n, found.rows) == (3, 6)
    assert figure_of("no_such_metric", rows, {}) is None


def test_calls_that_no_tool_could_answer_are_told(folder: EvalFolder) -> None:
    """A dead server must not pass for a weak model without a word."""
    tasks = {task.id: task for task in folder.read_tasks()}
    result = next(r for r in read_results(folder.results) if r.trajectory.results)
    down = msgspec.structs.replace(
        result.trajectory.results[0],
        is_error=True,
        error_class=ErrorClass.TRANSIENT,
        tier=Tier.LIVE,
    )
    played = msgspec.structs.replace(result.trajectory, results=(down, down))
    met = row_of(tasks[result.task_id], msgspec.structs.replace(result, trajectory=played))
    rows = [
        met if (row.task_id, row.trial) == (met.task_id, met.trial) else row
        for row in rows_of(folder)
    ]

    def told(rows: Sequence[Row]) -> Summary:
        return summarise_rows(
            folder.read_manifest(), folder.read_tasks(), rows, folder.read_bounds(), outages={}
        )

    found = told(rows)
    assert (found.unreached_calls, found.unreached_rows) == (2, 1)
    assert found.notes[0].startswith("2 calls in 1 episode met a tool that could not be reached")
    assert told(rows_of(folder)).unreached_calls == 0


def plan(**other: object) -> Plan:
    usual: dict[str, object] = {
        "suite": "desk",
        "pin": "p",
        "split": Split.TEST,
        "tasks": 100,
        "tasks_digest": "d",
        "model": "runs/quickstart/grpo/model",
        "model_digest": "m",
        "tools": "live",
        "seed": 0,
        "limits": {"max_turns": 8},
        "sampling": {"temperature": 0.0},
    }
    return Plan(**{**usual, **other})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("other", "name"),
    [
        ({}, "desk-test-quickstart-grpo-100"),
        ({"model": "openai:gpt-5"}, "desk-test-openai-gpt-5-100"),
        (
            {"model": "openai:m@http://127.0.0.1:8000/v1"},
            "desk-test-openai-m-127.0.0.1-8000-v1-100",
        ),
        ({"model": "./models/tiny-base/"}, "desk-test-tiny-base-100"),
        (
            {"suite": "own:tools.toml,tasks.jsonl"},
            "own-tools.toml-tasks.jsonl-test-quickstart-grpo-100",
        ),
        ({"tools": "cached", "seed": 7}, "desk-test-quickstart-grpo-100-cached-s7"),
        ({"sampling": {"temperature": 0.7}}, "desk-test-quickstart-grpo-100-t0.7"),
        ({"model": "../.."}, "desk-test-model-100"),
    ],
)
def test_a_folders_name_says_what_is_in_it(other: dict[str, object], name: str) -> None:
    """One looks for results by suite, split and model; no name leads out of the folder of results."""
    wanted = plan(**other)

    assert folder_name(wanted, wanted.model) == name
    assert Path(name).name == name


def test_what_differs_is_named_field_by_field() -> None:
    """`other settings` alone would send one looking."""
    other = plan(seed=1, limits={"max_turns": 5}, sampling={})

    assert difference(plan(), other) == [
        "limits.max_turns: 8 there, 5 now",
        "sampling.temperature: 0.0 there, nothing now",
        "seed: 0 there, 1 now",
    ]
    assert difference(plan(), plan()) == []


def test_a_field_that_later_versions_add_changes_no_digest() -> None:
    """Evaluations of two versions must stay comparable."""
    task = copy_task("t")
    said = msgspec.to_builtins(task)

    assert task_digest(task) == task_digest(msgspec.structs.replace(task, late={}))
    assert task_digest(task) != task_digest(msgspec.structs.replace(task, late={"write_note": 1}))
    assert "late" in said
