"""An evaluation in its folder: every row once, outages apart, resumed to the sample."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from cacherl.core.errors import BudgetError, DataError, ModelError, RecipeError
from cacherl.core.messages import ToolCall
from cacherl.core.models import Limits
from cacherl.core.tasks import Split, Task
from cacherl.core.tools import ErrorClass, ToolResult
from cacherl.core.trajectories import StopReason
from cacherl.evaluate.bounds import bound, bounds_of
from cacherl.evaluate.folder import EvalFolder
from cacherl.evaluate.results import Outage, Result, read_lines, read_results, rewrite, task_digest
from cacherl.evaluate.summary import bound_text, figure_text, summary_of
from cacherl.teacher.failure import EndpointError, Failure
from tests.desk_of_two import RIGHT, UNREACHABLE, WRONG_VALUE, NoteTools, copy_task
from tests.evaluate.folders import evaluated, model
from tests.evaluate.notes import NotesSuite, nothing
from tests.fakes import Script, ScriptedModel


def test_a_row_holds_all_that_is_needed_to_check_it_again(tmp_path: Path) -> None:
    """A verdict that cannot be reproduced without the model is a rumour."""
    evaluated(tmp_path, model(lambda task: task.endswith("1")), count=2)

    right, wrong = sorted(read_results(tmp_path / "results.jsonl"), key=lambda row: row.task_id)
    assert (right.suite, right.pin, right.split) == ("notes", "notes-1", Split.TEST)
    assert right.task_digest == task_digest(copy_task("note-0-000"))
    assert right.trajectory.final_state is not None
    assert [result.tier for result in right.trajectory.results] == ["live", "live"]
    assert right.verdict.success
    assert right.metrics["process_accuracy"] == 1.0
    assert not wrong.verdict.success
    assert wrong.verdict.checks[0].said == "notes: 'bread' is last, 'milk' was expected"
    assert wrong.cause == "wrong_argument"


def test_rows_on_file_are_not_played_again_and_the_sum_is_the_same(tmp_path: Path) -> None:
    """Hours of episodes are not played twice."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    evaluated(whole, model(), trials=2)
    evaluated(cut, model(), trials=2)
    lines = (cut / "results.jsonl").read_bytes().splitlines(keepends=True)
    (cut / "results.jsonl").write_bytes(b"".join(lines[:9]) + lines[9][:50])
    again = model()

    played = evaluated(cut, again, trials=2)

    assert (played.resumed, played.scored, played.left) == (9, 15, 0)
    assert len(again.sessions) == 15
    figures = [summary_of(EvalFolder(root)).figures for root in (whole, cut)]
    assert figures[0] == figures[1]
    assert [run.played for run in EvalFolder(cut).read_manifest().runs] == [24, 15]


def test_a_finished_evaluation_asks_no_model(tmp_path: Path) -> None:
    """Looking at the figures again must not load four billion weights."""
    evaluated(tmp_path, model())
    again = model()

    assert evaluated(tmp_path, again).resumed == 12
    assert again.sessions == []


def test_outages_are_lines_apart_never_counted_and_played_by_the_next_run(tmp_path: Path) -> None:
    """A server that was down yesterday owes us its answers today."""
    suite = NotesSuite(broken=frozenset({"note-0-003"}), unsure=frozenset({"note-0-007"}))

    played = evaluated(tmp_path, model(), suite=suite)

    assert {outage.task_id for outage in played.outages} == {"note-0-003", "note-0-007"}
    assert all(outage.stop is StopReason.TOOLS_FAILED for outage in played.outages)
    summary = summary_of(EvalFolder(tmp_path))
    assert (summary.n, summary.not_scored) == (10, 2)
    assert summary.outages == {"tools_failed": 2}
    assert summary.figures[0].measured.value == 1.0
    assert any("2 of 12 tasks have no row" in note for note in summary.notes)

    suite.broken.clear()
    suite.unsure.clear()
    assert evaluated(tmp_path, model(), suite=suite).scored == 2
    mended = summary_of(EvalFolder(tmp_path))
    assert (mended.n, mended.not_scored, mended.outages) == (12, 0, {})
    lines = list(read_lines(tmp_path / "results.jsonl"))
    assert sum(isinstance(line, Outage) for line in lines) == 2, "append-only: nothing is unsaid"


def test_a_model_that_cannot_be_reached_ends_the_run_early_and_says_why(tmp_path: Path) -> None:
    """A thousand tasks against a dead server are a thousand time-outs."""
    dead = ScriptedModel(UNREACHABLE, name="m")

    played = evaluated(tmp_path, dead, count=100)

    assert len(dead.sessions) < 20
    assert isinstance(played.stopped, ModelError)
    assert "does not answer" in str(played.stopped)
    assert "goes on from here" in str(played.stopped)


def test_a_wrong_key_ends_the_run_at_once(tmp_path: Path) -> None:
    """Every further request would fail the same way."""
    refused = EndpointError("no valid key. Set OPENAI_API_KEY.", kind=Failure.KEY)

    played = evaluated(tmp_path, ScriptedModel([refused], name="m"), concurrency=1)

    assert len(played.outages) == 1
    assert played.stopped is not None


def test_a_spent_budget_stops_keeps_and_goes_on(tmp_path: Path) -> None:
    """What was bought is scored; what was not is played when there is money again."""
    left = iter([*[True] * 5, *[False] * 100])

    def turns(task: Task) -> tuple[Script, ...]:
        return RIGHT if next(left) else (BudgetError("the budget of $1 is spent."),)

    played = evaluated(tmp_path, ScriptedModel(turns, name="m"), concurrency=1)

    assert played.scored == 5
    assert isinstance(played.stopped, BudgetError)
    assert evaluated(tmp_path, model()).scored == 7


def test_another_evaluation_in_the_folder_is_refused_and_says_what_differs(
    tmp_path: Path,
) -> None:
    """Two settings in one folder would make a figure of neither."""
    evaluated(tmp_path, model())

    with pytest.raises(RecipeError, match=r"limits\.max_turns: 8 there, 5 now"):
        evaluated(tmp_path, model(), limits=Limits(max_turns=5))
    with pytest.raises(RecipeError, match="model: m there, other now"):
        evaluated(tmp_path, model(name="other"))
    with pytest.raises(RecipeError, match="pin: notes-1 there, notes-2 now"):
        evaluated(tmp_path, model(), suite=NotesSuite(pin="notes-2"))


def test_more_trials_join_those_that_are_there(tmp_path: Path) -> None:
    """To look closer one pays for the new trials alone."""
    evaluated(tmp_path, model())
    more = model()

    assert evaluated(tmp_path, more, trials=3).scored == 24
    assert {session.seed for session in more.sessions}.isdisjoint({0})
    assert len({session.seed for session in more.sessions}) == 24, "every trial has its own seed"
    assert evaluated(tmp_path, model(), trials=1).resumed == 36, "and none is forgotten"


def test_a_row_of_another_task_of_the_same_name_is_refused(tmp_path: Path) -> None:
    """A suite that changed under its ids must not lend its old rows to new tasks."""
    evaluated(tmp_path, model(), count=2)
    path = tmp_path / "results.jsonl"
    row = next(read_results(path))
    rewrite(path, [msgspec.structs.replace(row, task_digest="0" * 24)])

    with pytest.raises(DataError, match="is of another task of that name"):
        evaluated(tmp_path, model(), count=2)


def test_the_floor_and_the_ceiling_are_of_exactly_these_tasks_under_these_limits(
    tmp_path: Path,
) -> None:
    """A ceiling below 1 tells that the limits, not the model, keep tasks from being solved."""
    evaluated(tmp_path / "wide", model())
    evaluated(tmp_path / "tight", model(), limits=Limits(max_turns=2))

    wide, tight = (summary_of(EvalFolder(tmp_path / name)) for name in ("wide", "tight"))
    assert (wide.figures[0].floor.value, wide.figures[0].ceiling.value) == (0.0, 1.0)
    assert tight.figures[0].ceiling.value == 0.0
    figure = wide.figures[0]
    assert figure_text(figure.measured, figure.floor, figure.ceiling) == (
        "1.000 (95 % 0.758-1.000, n = 12; doing nothing 0.000, gold 1.000)"
    )


def test_every_group_has_a_floor_and_a_ceiling_of_its_own(tmp_path: Path) -> None:
    """Doing nothing may earn much in one family and nothing in another."""
    evaluated(tmp_path, model(lambda task: task.endswith("3")))

    summary = summary_of(EvalFolder(tmp_path))
    families = {group.name: group.figures[0] for group in summary.groups["family"]}
    assert {name: figure.measured.n for name, figure in families.items()} == {
        "copy": 4,
        "again": 4,
        "once_more": 4,
    }
    assert families["copy"].measured.value == 0.75
    assert all(f.ceiling.value == 1.0 and f.floor.value == 0.0 for f in families.values())


def test_repeated_questions_are_said_aloud(tmp_path: Path) -> None:
    """Twelve tasks that ask one thing are no twelve tasks."""
    evaluated(tmp_path, model())

    summary = summary_of(EvalFolder(tmp_path))

    assert summary.distinct_questions == 1
    assert any("12 tasks ask 1 distinct" in note for note in summary.notes)


def test_several_trials_say_how_often_one_and_all_of_k_succeed(tmp_path: Path) -> None:
    """A model that succeeds every second time is no reliable one."""
    seen: dict[str, int] = {}

    def turns(task: Task) -> tuple[Script, ...]:
        seen[task.id] = seen.get(task.id, 0) + 1
        return RIGHT if seen[task.id] % 2 else WRONG_VALUE

    evaluated(tmp_path, ScriptedModel(turns, name="m"), trials=2)

    summary = summary_of(EvalFolder(tmp_path))
    assert [point.k for point in summary.attempts] == [1, 2]
    assert [point.at.measured.value for point in summary.attempts] == [0.5, 1.0]
    assert [point.hat.measured.value for point in summary.attempts] == [0.5, 0.0]
    assert summary.figures[0].measured.n == 12, "trials of one task are not tasks"
    whole = summary.figures[0].measured
    assert summary.attempts[0].at.measured == summary.attempts[0].hat.measured == whole
    assert f"means {whole.low:.2f}-{whole.high:.2f}" in summary.power, "one quantity, one interval"


def test_token_ids_stay_out_of_the_rows(tmp_path: Path) -> None:
    """They are most of the bytes of an episode, and no check needs them."""
    evaluated(tmp_path, model(), count=1)

    assert next(read_results(tmp_path / "results.jsonl")).trajectory.segments == ()


def test_bounds_are_played_once_and_kept_for_other_models(tmp_path: Path) -> None:
    """The gold of a suite need not be played for every checkpoint."""
    suite, limits = NotesSuite(), Limits()

    def of(count: int) -> int:
        before = suite.opened
        tasks = suite.tasks(Split.TEST, count=count)
        asyncio.run(bounds_of(suite, tasks, nothing(), limits=limits, keep=tmp_path))
        return suite.opened - before

    assert of(4) == 8
    assert of(4) == 0
    assert of(6) == 4, "only the new tasks"
    limits = Limits(max_turns=2)
    assert of(4) == 8, "other limits, other bounds"


def test_a_task_that_names_no_calls_is_in_no_ceiling(tmp_path: Path) -> None:
    """Words that please a checker, said without a call, are nothing that a model could be held to."""

    class Told(NotesSuite):
        def knows_way(self, task: Task) -> bool:
            return not task.id.endswith("1")

    suite = Told()
    tasks = suite.tasks(Split.TEST, count=3)

    rows = {
        row.task_id: row for row in asyncio.run(bounds_of(suite, tasks, nothing(), limits=Limits()))
    }

    ids = [task.id for task in tasks]
    assert bound_text(bound(rows, ids, "success", ceiling=True)) == "1.000 (2 of 3 known)"
    assert bound_text(bound(rows, ids, "success", ceiling=False)) == "0.000"
    alone = bound(rows, ids[1:2], "success", ceiling=True)
    assert (alone.value, alone.said) == (None, f"nobody said which calls solve {ids[1]}")


def test_a_ceiling_met_without_its_tools_is_none_and_is_not_kept(tmp_path: Path) -> None:
    """What gold earned while a server was down would stand beside every later figure."""

    class Away(NoteTools):
        async def call(self, call: ToolCall) -> ToolResult:
            return msgspec.structs.replace(
                await super().call(call), is_error=True, error_class=ErrorClass.TRANSIENT
            )

    class Down(NotesSuite):
        away = True

        def open(self, task: Task) -> NoteTools:
            return Away() if self.away else super().open(task)

    suite = Down()
    tasks = suite.tasks(Split.TEST, count=1)

    def missing() -> str:
        found = asyncio.run(bounds_of(suite, tasks, nothing(), limits=Limits(), keep=tmp_path))
        return found[0].missing

    assert missing() == f"gold on {tasks[0].id}: a tool could not be reached"
    suite.away = False
    assert missing() == ""


def test_bounds_that_must_not_be_played_are_not_and_say_why(tmp_path: Path) -> None:
    """Gold on a real account would send real mail."""
    suite = NotesSuite()
    tasks = suite.tasks(Split.TEST, count=2)

    rows = asyncio.run(
        bounds_of(suite, tasks, nothing(), limits=Limits(), unplayable="they act outside")
    )

    assert suite.opened == 0
    end = bound({r.task_id: r for r in rows}, [t.id for t in tasks], "success", ceiling=True)
    assert (end.value, end.said, bound_text(end)) == (None, "they act outside", "not measured")


def test_live_tools_are_closed_whatever_happens(tmp_path: Path) -> None:
    """A world left open holds a database."""
    opened: list[NoteTools] = []

    def open_tools(task: Task, trial: int) -> NoteTools:
        opened.append(NoteTools())
        return opened[-1]

    evaluated(tmp_path, model(), open_tools=open_tools)

    assert len(opened) == 12
    assert all(tools.closed for tools in opened)


def test_a_result_line_reads_back_as_it_was_written(tmp_path: Path) -> None:
    """Everything downstream reads this file."""
    evaluated(tmp_path, model(lambda task: task.endswith("1")), count=3)

    for line in read_lines(tmp_path / "results.jsonl"):
        assert isinstance(line, Result)
        assert msgspec.json.decode(msgspec.json.encode(line), type=Result) == line
