"""A person's own tasks against their own tools: the shop of the examples, its service running."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from cacherl.core.errors import DataError, RecipeError
from cacherl.core.messages import AssistantMessage, ToolCall
from cacherl.core.tasks import Split, Task
from cacherl.core.trajectories import StopReason, Trajectory
from cacherl.reward.judge import ChatJudge
from cacherl.suites.gold_player import GoldPlayer
from cacherl.suites.nothing import nothing
from cacherl.suites.own import OwnSuite
from cacherl.wiring import toolbox_world
from tests.fakes import ScriptedModel
from tests.suites.playing import played, verdict

EXAMPLE = Path(__file__).parents[2] / "examples" / "shop_tools"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of the example, with its billing service on a free port."""
    folder = tmp_path_factory.mktemp("shop") / "shop_tools"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    with subprocess.Popen(
        [sys.executable, folder / "billing_service.py", "0"], stdout=subprocess.PIPE, text=True
    ) as service:
        try:
            assert service.stdout is not None
            address = service.stdout.readline().split()[-1]
            tools = folder / "tools.toml"
            tools.write_text(tools.read_text().replace("http://127.0.0.1:8765", address))
            yield folder
        finally:
            service.terminate()


def suite_of(shop: Path, *lines: dict[str, Any], **more: Any) -> OwnSuite:
    path = shop / "own.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return OwnSuite(toolbox_world(shop / "tools.toml"), path, whole=Split.TEST, **more)


def only(suite: OwnSuite) -> Task:
    (task,) = suite.tasks(Split.TEST)
    return task


def model(*calls: tuple[str, dict[str, Any]], says: str = "Done.") -> GoldPlayer:
    made = [
        AssistantMessage(calls=(ToolCall(id=f"c{n}", name=name, arguments=arguments),))
        for n, (name, arguments) in enumerate(calls)
    ]
    return GoldPlayer(lambda task: [*made, AssistantMessage(content=says)])


def checks(suite: OwnSuite, player: GoldPlayer) -> dict[str, float]:
    return {c.name: round(c.score, 3) for c in verdict(suite, only(suite), player).checks}


CANCEL = ("cancel_order", {"order_id": "A-1"})
CANCELLED = {
    "name": "get_order",
    "arguments": {"order_id": "A-1"},
    "contains": {"status": "cancelled", "euros": 35},
}


def test_the_example_is_evaluated_from_floor_to_ceiling(shop: Path) -> None:
    """What a newcomer types first must show a floor, a ceiling and what was left out."""
    suite = OwnSuite(toolbox_world(shop / "tools.toml"), shop / "tasks.jsonl", whole=Split.TEST)
    tasks = suite.tasks(Split.TEST)

    assert (suite.info.tasks, suite.info.distinct_questions) == (11, 11)
    assert "1 tasks say nothing of what is expected" in suite.info.needs
    assert "1 tasks name no calls, so their ceiling is not known" in suite.info.needs
    ceiling = [verdict(suite, task, suite.oracle()).success for task in tasks]
    floor = [verdict(suite, task, nothing()).success for task in tasks]
    assert (sum(ceiling), sum(floor)) == (11, 0)
    assert sum(map(suite.knows_way, tasks)) == 10, "words without a call are no ceiling"


def test_a_task_with_nothing_but_an_answer_can_be_evaluated(shop: Path) -> None:
    """Most people can say what the answer is, and not which calls lead there."""
    suite = suite_of(shop, {"task": "Where is A-2?", "expect": {"answer": "shipped"}})

    assert checks(suite, model(("get_order", {"order_id": "A-2"}), says="It has shipped.")) == {
        "ended": 1,
        "answer": 1,
    }
    found = verdict(suite, only(suite), model(says="It is lost."))
    assert not found.success
    assert found.checks[-1].said == "does not say shipped"


def test_a_task_with_nothing_but_a_state_can_be_evaluated(shop: Path) -> None:
    """The checker call runs on the episode's own tools, after it, and the model never sees it."""
    suite = suite_of(
        shop, {"task": "Cancel A-1.", "tools": ["cancel_order"], "expect": {"state": [CANCELLED]}}
    )
    task = only(suite)
    trajectory = played(suite, task, model(CANCEL))

    assert suite.check(task, trajectory).success
    assert [spec.name for spec in task.tools] == ["cancel_order"]
    assert len(trajectory.results) == 1
    assert "cancelled" in trajectory.notes["looked"][0]
    idle = verdict(suite, task, nothing())
    assert not idle.success
    assert idle.checks[1].said == 'get_order.status: "processing", expected "cancelled"'


@pytest.mark.parametrize(
    ("look", "right"),
    [
        ({"equals": {"amount": 35, "currency": "EUR", "order_id": "A-1"}}, True),
        ({"equals": {"amount": 35.0, "currency": "EUR"}}, False),
        ({"contains": {"amount": 35.0}}, True),
        ({"contains": {"amount": True}}, False),
        ({"contains": "EUR"}, True),
        ({"contains": "euro"}, False),
    ],
)
def test_a_look_equals_or_contains(shop: Path, look: dict[str, Any], right: bool) -> None:
    """By value, where the tool answers with data."""
    invoice = {"name": "get_invoice", "arguments": {"order_id": "A-1"}, **look}
    suite = suite_of(shop, {"task": "Do nothing.", "expect": {"state": [invoice]}})

    assert verdict(suite, only(suite), nothing()).success is right


def test_lists_are_looked_into(shop: Path) -> None:
    """One of the orders has to be as expected, wherever it stands."""
    look = {"name": "list_orders", "arguments": {"customer": "mia@mail.example"}}
    lamp = suite_of(
        shop, {"task": "x", "expect": {"state": [{**look, "contains": {"article": "lamp"}}]}}
    )
    assert verdict(lamp, only(lamp), nothing()).success
    sofa = suite_of(
        shop, {"task": "x", "expect": {"state": [{**look, "contains": [{"article": "sofa"}]}]}}
    )
    assert not verdict(sofa, only(sofa), nothing()).success


def test_steps_have_an_order_and_alternatives_are_as_right(shop: Path) -> None:
    """The best way counts; calls of one step may come in any order."""
    look, send = (
        ("get_order", {"order_id": "A-1"}),
        ("send_to", {"order_id": "A-1", "city": "Kiel"}),
    )
    bill = ("get_invoice", {"order_id": "A-1"})

    def call(pair: tuple[str, dict[str, Any]], **more: Any) -> dict[str, Any]:
        return {"name": pair[0], "arguments": pair[1], **more}

    expected = {
        "calls": [call(look, step=0), call(bill, step=0), call(send, step=1)],
        "or_calls": [[call(CANCEL)]],
    }
    suite = suite_of(shop, {"task": "Send A-1 to Kiel.", "expect": expected})

    assert checks(suite, model(bill, look, send)) == {"ended": 1, "calls": 1, "writes": 1}
    assert checks(suite, model(CANCEL)) == {"ended": 1, "calls": 1, "writes": 1}
    assert checks(suite, model(send, look, bill)) == {"ended": 1, "calls": 0.667, "writes": 1}
    assert checks(suite, model(look))["calls"] == 0.333
    missed = verdict(suite, only(suite), model(look, bill))
    assert missed.checks[1].said == 'not called: send_to({"order_id":"A-1","city":"Kiel"})'


def test_what_nobody_asked_for_must_not_be_written(shop: Path) -> None:
    """All expected calls and a cancelled order besides is no success."""
    expected = {"calls": [{"name": "get_order", "arguments": {"order_id": "A-2"}}]}
    suite = suite_of(shop, {"task": "Where is A-2?", "expect": expected})
    look = ("get_order", {"order_id": "A-2"})

    assert verdict(suite, only(suite), model(look, ("get_order", {"order_id": "A-1"}))).success
    found = verdict(suite, only(suite), model(look, CANCEL))
    assert not found.success
    assert found.checks[2].said == 'nobody asked for cancel_order({"order_id":"A-1"})'
    refused = ("cancel_order", {"order_id": "A-2"})  # it has shipped: nothing was written
    assert verdict(suite, only(suite), model(look, refused)).success


def test_no_call_can_be_what_is_expected(shop: Path) -> None:
    """An empty list is said; a missing one is not."""
    suite = suite_of(shop, {"task": "Hello!", "expect": {"calls": []}})

    assert verdict(suite, only(suite), model(says="Hello.")).success
    assert not verdict(suite, only(suite), model(("get_order", {"order_id": "A-1"}))).success


def test_an_episode_must_end_in_an_answer(shop: Path) -> None:
    """A right state is worth nothing to somebody who is never told."""
    suite = suite_of(shop, {"task": "Cancel A-1.", "expect": {"state": [CANCELLED]}})
    found = suite.check(
        only(suite), played(suite, only(suite), model(CANCEL, CANCEL, CANCEL), max_turns=2)
    )

    assert [check.score for check in found.checks] == [0.0, 1.0]
    assert found.checks[0].said == "ended by max_turns"


def test_replayed_tools_cannot_be_looked_at(shop: Path) -> None:
    """Where the way is told it decides alone; where it is not, nothing can be said for the model."""
    told = {"state": [CANCELLED], "calls": [{"name": CANCEL[0], "arguments": CANCEL[1]}]}
    for expected, right in ((told, True), ({"state": [CANCELLED]}, False)):
        suite = suite_of(shop, {"task": "Cancel A-1.", "expect": expected})
        task = only(suite)
        live = played(suite, task, model(CANCEL))
        replayed = Trajectory(
            task_id=task.id,
            policy="p",
            messages=live.messages,
            results=live.results,
            stop=StopReason.ANSWER,
        )
        found = suite.check(task, replayed)
        assert found.success is right
        assert any("nobody looked" in check.said for check in found.checks)


def test_a_judge_scores_what_no_rule_can(shop: Path) -> None:
    """Only where a task asks for it, by the score that the task wants."""

    @contextlib.asynccontextmanager
    async def judge() -> AsyncIterator[ChatJudge]:
        yield ChatJudge(ScriptedModel([AssistantMessage(content='{"score": 3}')]))

    line = {"task": "Be kind to Mia.", "expect": {"judge": True}}
    suite = suite_of(shop, line, judge=judge)
    found = verdict(suite, only(suite), model(says="Hello dear Mia."))
    assert not found.success
    assert found.checks[-1].said == "the judge gives 0.60, 0.80 passes"
    mild = suite_of(shop, {**line, "expect": {"judge": 0.6}}, judge=judge)
    assert verdict(mild, only(mild), model(says="Hello dear Mia.")).success

    with pytest.raises(RecipeError, match="judge=openai:gpt-5"):
        suite_of(shop, line).tasks(Split.TEST)


def test_splits_are_the_tasks_own_unless_the_file_is_for_evaluation(shop: Path) -> None:
    """A file that is also trained on keeps its held-out tasks held out."""
    suite = OwnSuite(toolbox_world(shop / "tools.toml"), shop / "tasks.jsonl")

    splits = {split: suite.tasks(split) for split in Split}
    assert all(task.split is split for split, tasks in splits.items() for task in tasks)
    assert {split.value: len(tasks) for split, tasks in splits.items()} == suite.info.splits
    assert len(splits[Split.TRAIN]) > len(splits[Split.TEST])
    with pytest.raises(DataError, match="take the whole file as that split"):
        suite.tasks(Split.TEST, count=50)


@pytest.mark.parametrize(
    ("expected", "said"),
    [
        (
            {"state": [{"name": "get_ordr", "contains": "x"}]},
            "field `expect.state`: there is no tool 'get_ordr'",
        ),
        ({"or_calls": [[{"name": "nope"}]]}, "field `expect.or_calls`: there is no tool 'nope'"),
        ({"state": [{"name": "get_order"}]}, "needs one of `equals` and `contains`"),
    ],
)
def test_a_wrong_line_is_told_by_its_field(shop: Path, expected: dict[str, Any], said: str) -> None:
    """Before any episode, with the line, the field and what is wrong."""
    suite = suite_of(shop, {"task": "x", "expect": expected})

    with pytest.raises(DataError, match=r"own\.jsonl:1") as error:
        suite.tasks(Split.TEST)
    assert said in str(error.value)


def test_a_file_that_expects_nothing_is_refused(shop: Path) -> None:
    """Nothing can be right or wrong."""
    with pytest.raises(DataError, match="no task says what is expected"):
        suite_of(shop, {"task": "Hello"}).tasks(Split.TEST)
