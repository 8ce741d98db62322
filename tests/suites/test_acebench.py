"""ACEBench from a checkout: a stand-in of its layout, with its rules and its kinds of mistakes."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from cacherl.core.errors import DataError, RecipeError
from cacherl.core.messages import AssistantMessage, Message, ToolCall, ToolMessage, UserMessage
from cacherl.core.models import Limits, ModelTurn
from cacherl.core.suites import UserKind
from cacherl.core.tasks import Split, Task
from cacherl.core.trajectories import StopReason, TokenSegment, Trajectory
from cacherl.suites.acebench import AceBench, UserModel, report_flaws
from cacherl.suites.acebench.checkout import MULTI_STEP, MULTI_TURN, NORMAL, SPECIAL
from cacherl.suites.gold_player import GoldPlayer
from cacherl.suites.nothing import nothing
from tests.suites.acebench_checkout import build
from tests.suites.playing import played, verdict


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = build(tmp_path_factory.mktemp("acebench"))
    build_zh = build(tmp_path_factory.mktemp("zh"), language="zh")
    # One checkout with both languages, as it is.
    (build_zh / "data_all" / "data_zh").rename(folder / "data_all" / "data_zh")
    for kind in ("multi_step", "multi_turn"):
        (build_zh / "model_inference" / kind / "scenarioszh").rename(
            folder / "model_inference" / kind / "scenarioszh"
        )
    (build_zh / "model_inference" / "prompt_zh.py").rename(
        folder / "model_inference" / "prompt_zh.py"
    )
    return folder


def every(suite: AceBench) -> dict[str, Task]:
    tasks = [*suite.tasks(Split.DEV), *suite.tasks(Split.TEST)]
    return {task.id.removeprefix("acebench-en-"): task for task in tasks}


def calling(*steps: Sequence[tuple[str, dict[str, object]]], end: str = "Done.") -> GoldPlayer:
    turns = [
        AssistantMessage(
            calls=tuple(
                ToolCall(id=f"c{place}_{number}", name=name, arguments=dict(arguments))
                for number, (name, arguments) in enumerate(step)
            )
        )
        for place, step in enumerate(steps)
    ]
    return GoldPlayer(lambda task: [*turns, AssistantMessage(content=end)])


def checks(suite: AceBench, task: Task, model: GoldPlayer) -> dict[str, float]:
    return {check.name: check.score for check in verdict(suite, task, model).checks}


Pair = tuple[str, dict[str, object]]
WIFI: Pair = ("turn_on_wifi", {})
MILK: Pair = ("add_reminder", {"title": "Milk", "time": "10:00"})


def test_info_counts_questions_beside_tasks(checkout: Path) -> None:
    """Twenty tasks that ask seven questions are not twenty measurements."""
    info = AceBench(checkout, categories=[MULTI_STEP]).info

    assert (info.tasks, info.distinct_questions) == (6, 5)
    assert info.user is UserKind.SCRIPTED
    assert info.pin.startswith("sha256:")
    assert info.pin == AceBench(checkout, categories=[MULTI_STEP]).info.pin
    assert info.pin != AceBench(checkout, categories=[MULTI_STEP], language="zh").info.pin


def test_a_question_lies_in_one_split_in_both_languages(checkout: Path) -> None:
    """Settings chosen on a question must not be reported on it, nor on its translation."""
    suites = [AceBench(checkout, language=language) for language in ("en", "zh")]
    splits: dict[str, set[Split]] = {}
    for suite in suites:
        for split in (Split.DEV, Split.TEST):
            for task in suite.tasks(split):
                question = "dialogue" if "user_adjust" in task.id else task.user_turns[0]
                splits.setdefault(question, set()).add(split)
    assert all(len(each) == 1 for each in splits.values())
    assert suites[0].tasks(Split.TRAIN) == []


def test_gold_reaches_what_can_be_reached_and_nothing_reaches_nothing(checkout: Path) -> None:
    """The ceiling is not 1.0 where golds are broken, and the floor is 0."""
    suite = AceBench(checkout)
    right = {
        name for name, task in every(suite).items() if verdict(suite, task, suite.oracle()).success
    }
    idle = {name for name, task in every(suite).items() if verdict(suite, task, nothing()).success}

    assert set(every(suite)) - right == {"agent_multi_step_3"}  # a gold that its milestones miss
    assert idle == set()


def test_every_task_says_what_its_gold_leads_to(checkout: Path) -> None:
    """Recording and training on the environments need gold in our own terms."""
    suite = AceBench(checkout)
    for task in every(suite).values():
        assert task.gold is not None
        trajectory = played(suite, task, suite.oracle())
        assert trajectory.final_state == task.gold.state
        assert trajectory.stop is StopReason.ANSWER
    step = every(suite)["agent_multi_step_5"]
    assert step.gold is not None
    assert [call.name for call in step.gold.listed] == [
        "turn_on_wifi",
        "view_reminder",
        "add_reminder",
    ]


def test_process_accuracy_is_a_prefix_and_recall_stands_beside_it(checkout: Path) -> None:
    """Gold without its first call scores 0.000 by the official rule, and that is no mistake of ours."""
    suite = AceBench(checkout, categories=[MULTI_STEP])
    task = every(suite)["agent_multi_step_0"]

    assert checks(suite, task, calling([WIFI], [MILK])) == {
        "state": 1.0,
        "process-official": 1.0,
        "process-recall": 1.0,
    }
    assert checks(suite, task, calling([MILK])) == {
        "state": 0.0,
        "process-official": 0.0,
        "process-recall": 0.5,
    }
    assert checks(suite, task, calling([WIFI]))["process-official"] == 0.5
    # The state would save it: calls of one message do lead there.
    assert checks(suite, task, calling([WIFI, MILK]))["process-official"] == 1.0
    late: Pair = ("add_reminder", {"title": "Milk", "time": "11:00"})
    assert checks(suite, task, calling([WIFI, late]))["process-official"] == 0.0


def test_two_trials_and_two_languages_share_nothing(checkout: Path) -> None:
    """ACEBench's own runner starts a second trial in the state where the first one ended."""
    for language in ("en", "zh", "en"):
        suite = AceBench(checkout, categories=[MULTI_STEP], language=language)
        task = next(task for task in suite.tasks(Split.TEST) + suite.tasks(Split.DEV))
        first, second = suite.open(task), suite.open(task)
        before = second.fingerprint()
        asyncio.run(first.call(ToolCall(id="c", name="turn_on_wifi", arguments={})))
        assert second.fingerprint() == before != first.fingerprint()
    assert "model_inference" not in sys.modules
    assert str(checkout) not in sys.path


def test_a_call_runs_on_every_class_that_has_it(checkout: Path) -> None:
    """Each class carries its own wifi: one call must turn on both."""
    suite = AceBench(checkout, categories=[MULTI_STEP])
    trajectory = played(suite, every(suite)["agent_multi_step_0"], calling([WIFI], [MILK]))

    assert [json.loads(result.text)["status"] for result in trajectory.results] == [True, True]


def test_what_an_environment_raises_is_an_answer(checkout: Path) -> None:
    """ACEBench's multi_step crashes here, and takes the run with it."""
    suite = AceBench(checkout, categories=[MULTI_STEP])
    trajectory = played(
        suite,
        every(suite)["agent_multi_step_0"],
        calling(
            [("explode", {})],
            [("send_message", {"message": "x"})],
            [("add_reminder", {"title": "x", "time": "y"})],
        ),
    )

    texts = [result.text for result in trajectory.results]
    assert texts[0] == "Error during execution: the shelf fell down"
    assert texts[1].startswith("Error during execution: no class of this task has send_message")
    assert [result.is_error for result in trajectory.results] == [True, True, True]


def test_normal_rows_judge_the_first_turn(checkout: Path) -> None:
    """What comes after the answer is not the answer."""
    suite = AceBench(checkout, categories=NORMAL)
    task = every(suite)["normal_single_turn_single_function_0"]
    tea = {"item": "Green tea", "count": 9, "gift": False}

    assert checks(suite, task, calling([("order", tea)])) == {"calls": 1.0, "calls-exact": 0.0}
    assert checks(suite, task, calling([("rate", {"stars": 1})], [("order", tea)]))["calls"] == 0.0
    assert not verdict(suite, task, calling(end="[order(item='green tea')]")).success


def test_special_rows_want_words(checkout: Path) -> None:
    """Calling a tool with an invented value is what these rows are about."""
    suite = AceBench(checkout, categories=SPECIAL)
    task = every(suite)["special_incomplete_0"]
    said = "Missing necessary parameters (item, count) for the api (order)"

    assert verdict(suite, task, calling(end=said)).success
    assert not verdict(
        suite, task, calling([("order", {"item": "x", "count": 1, "gift": True})], end=said)
    ).success


class Writer:
    """A model that writes its turns as text, and remembers what it was shown."""

    name = "writer"

    def __init__(self, *texts: str) -> None:
        self._texts = texts
        self.shown: list[list[Message]] = []
        self.tools: tuple[object, ...] = ("?",)

    def start(self, task: Task, *, limits: Limits, seed: int) -> Writer:
        self._left = list(self._texts)
        self.tools = task.tools
        return self

    async def reply(self, new: Sequence[Message]) -> ModelTurn:
        self.shown.append(list(new))
        return ModelTurn(message=AssistantMessage(content=self._left.pop(0)))

    def clip(self, text: str, max_tokens: int) -> str:
        return text

    def segments(self) -> tuple[TokenSegment, ...]:
        return ()

    def close(self) -> None:
        pass


def test_its_own_protocol_writes_calls_as_text(checkout: Path) -> None:
    """Published figures are of models that write text; native calls are another protocol."""
    suite = AceBench(checkout, categories=[MULTI_STEP], protocol="text")
    task = every(suite)["agent_multi_step_0"]
    writer = Writer(
        "What time?",
        "[turn_on_wifi()]",
        "[add_reminder(title='Milk', time='10:00')]",
        "finish conversation",
    )
    trajectory = played(suite, task, suite.speaking(writer))
    scores = {check.name: check.score for check in suite.check(task, trajectory).checks}

    assert scores == {"state": 1.0, "process-official": 1.0, "process-recall": 1.0}
    assert writer.tools == ()
    assert "[Api(key=value)]" in task.system
    texts = [m.content for each in writer.shown for m in each if isinstance(m, UserMessage)]
    assert "Please do not ask me any questions" in texts[1]
    assert texts[2] == 'execution result: [{"status": true, "message": "wifi is on"}]'
    assert not any(isinstance(m, ToolMessage) for each in writer.shown for m in each)


def test_text_answers_of_normal_and_special_rows(checkout: Path) -> None:
    """The same verdicts, on the text itself."""
    suite = AceBench(checkout, categories=[*NORMAL, *SPECIAL], protocol="text")
    tasks = every(suite)
    order = Writer("[order(item='green tea', count=2, gift=True)]", "ok")
    missing = Writer('["Missing necessary parameters (item, count) for the api (order)"]')

    assert verdict(
        suite, tasks["normal_single_turn_single_function_0"], suite.speaking(order)
    ).success
    assert verdict(suite, tasks["special_incomplete_0"], suite.speaking(missing)).success
    assert "Loves {green} tea." in tasks["normal_preference_0"].system


def test_a_named_model_plays_the_user(checkout: Path) -> None:
    """Scores under another user are another measurement: the user's name is part of the suite."""
    person = Writer("I want a reminder of milk.", "At ten.", "finish conversation")
    opened: list[str] = []

    def open_() -> Writer:
        opened.append("once")
        return person

    user = UserModel(name="openai:tiny-user", open=open_)
    suite = AceBench(checkout, categories=[MULTI_TURN], user=user)
    model = GoldPlayer(
        lambda task: [
            AssistantMessage(content="When?"),
            AssistantMessage(calls=(ToolCall(id="a", name="turn_on_wifi", arguments={}),)),
            AssistantMessage(calls=(ToolCall(id="b", name=MILK[0], arguments=dict(MILK[1])),)),
            AssistantMessage(content="It is noted."),
        ]
    )
    task = every(suite)["agent_multi_turn_0"]
    trajectory = played(suite, task, model)

    assert suite.info.user is UserKind.MODEL
    assert suite.info.name == "acebench:user=openai:tiny-user"
    said = [m.content for m in trajectory.messages if isinstance(m, UserMessage)]
    assert said == ["I want a reminder of milk.", "At ten."]
    assert suite.check(task, trajectory).success
    texts = [[m.content for m in each if not isinstance(m, ToolMessage)] for each in person.shown]
    assert texts == [
        [
            "You are a user. Instruction: You are Eve. You want a reminder of milk at ten.",
            "Is there anything you need help with today?",
        ],
        ["When?"],
        ["It is noted."],
    ]
    assert person.tools == (), "the user never sees the agent's tools"
    assert "Ask before you delete." in task.system
    played(suite, task, GoldPlayer(lambda task: [AssistantMessage(content="finish conversation")]))
    assert opened == ["once"]


def test_a_script_plays_the_user_under_another_name(checkout: Path) -> None:
    """Nobody may take a scripted user's figure for the published one."""
    suite = AceBench(checkout, scripted=True)
    task = every(suite)["agent_multi_turn_1"]

    assert suite.info.name == "acebench-scripted"
    assert suite.info.user is UserKind.SCRIPTED
    assert len(task.user_turns) == 2
    assert verdict(suite, task, suite.oracle()).success


def test_multi_turn_without_anybody_to_talk_to_is_refused(checkout: Path) -> None:
    """Before any work starts, with what to type."""
    with pytest.raises(RecipeError, match="user=openai:gpt-4o"):
        AceBench(checkout, categories=[MULTI_TURN])
    with pytest.raises(RecipeError, match="no category"):
        AceBench(checkout, categories=["agent_multistep"])


def test_flaws_of_the_golds_are_told(checkout: Path) -> None:
    """Nobody can pass a gold that does not follow from its own milestones."""
    flaws = {(flaw.id, flaw.kind) for flaw in report_flaws(checkout)}

    assert flaws == {
        ("agent_multi_step_2", "not-python"),
        ("agent_multi_step_3", "unreachable"),
        ("agent_multi_step_4", "unchecked"),
    }


def test_a_folder_that_is_no_checkout_is_refused(tmp_path: Path) -> None:
    """One line, with what to type."""
    with pytest.raises(DataError, match="git clone"):
        AceBench(tmp_path / "missing")
    with pytest.raises(DataError, match="no data_all/"):
        AceBench(tmp_path)


def test_a_damaged_checkout_is_told_by_file_and_line(tmp_path: Path) -> None:
    """Answers that belong to other tasks would score everything wrong, in silence."""
    folder = build(tmp_path)
    data = folder / "data_all" / "data_en"
    answers = data / "possible_answer" / "data_agent_multi_step.json"
    lines = answers.read_text().split("\n")

    answers.write_text("\n".join([*lines[1:], lines[0]]))
    with pytest.raises(DataError, match="not those of"):
        AceBench(folder, categories=[MULTI_STEP]).tasks(Split.TEST)
    answers.write_text("\n".join([lines[0], "{torn", *lines[2:]]))
    with pytest.raises(DataError, match=r"data_agent_multi_step\.json:2: no JSON"):
        AceBench(folder, categories=[MULTI_STEP]).tasks(Split.TEST)


def test_a_trajectory_of_another_suite_is_refused(checkout: Path) -> None:
    """Rescoring with the wrong categories must not score zero in silence."""
    suite = AceBench(checkout, categories=[MULTI_STEP])
    other = next(iter(every(AceBench(checkout, categories=SPECIAL)).values()))
    empty = Trajectory(
        task_id=other.id, policy="p", messages=(), results=(), stop=StopReason.ANSWER
    )

    with pytest.raises(DataError, match="Name its category"):
        suite.check(other, empty)
