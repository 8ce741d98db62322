"""tau-bench and tau2-bench over their bridge: real processes, stand-ins with their entry points."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cacherl.core.errors import DataError, RecipeError, ToolError
from cacherl.core.messages import AssistantMessage, ToolCall, UserMessage
from cacherl.core.suites import UserKind
from cacherl.core.tasks import Split, Task
from cacherl.core.trajectories import StopReason
from cacherl.suites.gold_player import GoldPlayer
from cacherl.suites.nothing import nothing
from cacherl.suites.tau import TauSuite, TauUser
from tests.suites.playing import played, verdict
from tests.suites.tau_checkout import build_v1, build_v2

PYTHON = Path(sys.executable)


@pytest.fixture(scope="module")
def v1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_v1(tmp_path_factory.mktemp("tau-bench"))


@pytest.fixture(scope="module")
def v2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_v2(tmp_path_factory.mktemp("tau2-bench"))


@pytest.fixture(scope="module")
def library(v1: Path) -> Iterator[TauSuite]:
    suite = TauSuite("tau-bench", v1, "library", python=PYTHON, scripted=True)
    yield suite
    suite.close()


@pytest.fixture(scope="module")
def alone(v2: Path) -> Iterator[TauSuite]:
    suite = TauSuite("tau2-bench", v2, "library", python=PYTHON, solo=True)
    yield suite
    suite.close()


def every(suite: TauSuite) -> dict[str, Task]:
    return {task.scenario: task for split in Split for task in suite.tasks(split)}


def model(*turns: str | tuple[str, dict[str, str]]) -> GoldPlayer:
    """A model that calls (a pair) or speaks (a text), turn by turn."""
    messages = [
        AssistantMessage(content=turn)
        if isinstance(turn, str)
        else AssistantMessage(calls=(ToolCall(id=f"c{n}", name=turn[0], arguments=dict(turn[1])),))
        for n, turn in enumerate(turns)
    ]
    return GoldPlayer(lambda task: messages)


def lend(title: str) -> tuple[str, dict[str, str]]:
    return "lend_book", {"title": title}


# ---- tau-bench ---------------------------------------------------------------------------------


def test_gold_is_paid_and_doing_nothing_is_paid_too_often(library: TauSuite) -> None:
    """The floor of tau-bench's airline is 23 of 50: a figure means little without it."""
    tasks = every(library)

    assert {s for s, t in tasks.items() if verdict(library, t, library.oracle()).success} == set(
        tasks
    )
    floor = {s for s, t in tasks.items() if library.check(t, library.idle(t)).success}
    assert floor == {"1", "3"}  # give up; and be passed on, which changes nothing
    assert {s for s, t in tasks.items() if verdict(library, t, nothing()).success} == floor


def test_a_reward_is_the_product_of_what_is_done_and_what_is_said(library: TauSuite) -> None:
    """Components stand beside it, so that one can see which of the two failed."""
    task = every(library)["4"]

    def paid(*turns: str | tuple[str, dict[str, str]]) -> dict[str, float]:
        return {c.name: c.score for c in verdict(library, task, model(*turns)).checks}

    assert paid(lend("Emma"), "Lent. It is of 1,815.", "") == {
        "reward": 1,
        "actions": 1,
        "outputs": 1,
    }
    assert paid(lend("Emma"), "Lent.", "") == {"reward": 0, "actions": 1, "outputs": 0}
    assert paid("It is of 1815.", "") == {"reward": 0, "actions": 0, "outputs": 1}
    said = verdict(library, task, model("Hm.", "")).checks[0].said
    assert said == "the database is not as the gold actions leave it; never said '1815'"


def test_a_conversation_that_does_not_end_is_paid_nothing(library: TauSuite) -> None:
    """As there: the reward is computed at the end, or not at all."""
    task = every(library)["1"]
    trajectory = played(library, task, model(*[("find_book", {"title": "Dune"})] * 9), max_turns=3)

    assert trajectory.stop is StopReason.MAX_TURNS
    verdict = library.check(task, trajectory)
    assert (verdict.success, verdict.checks[0].said) == (False, "the conversation did not end")


def test_after_a_transfer_nothing_counts(library: TauSuite) -> None:
    """The transfer ends the conversation there; what a model does afterwards happens nowhere."""
    task = every(library)["3"]
    passed_on = ("transfer_to_human_agents", {"summary": "angry"})
    trajectory = played(library, task, model(passed_on, lend("Dune"), "Sorry.", ""))

    assert trajectory.results[1].is_error
    assert library.check(task, trajectory).success


def test_two_episodes_share_nothing(library: TauSuite) -> None:
    """One process serves every episode; their books are their own."""
    task = every(library)["0"]
    first = played(library, task, model(lend("Dune"), "Lent.", ""))
    second = played(library, task, model(lend("Dune"), "Lent.", ""))

    assert task.gold is not None
    assert first.final_state == second.final_state == task.gold.state
    assert [result.text for result in second.results] == ["lent"]


def test_calls_the_loop_refused_do_not_reach_the_reward(library: TauSuite) -> None:
    """An unknown tool is the model's mistake, and no action."""
    task = every(library)["0"]

    assert verdict(library, task, model(("steal_book", {}), lend("Dune"), "Lent.", "")).success


def test_info_says_who_speaks_and_what_was_read(library: TauSuite, v1: Path) -> None:
    """The suite's name carries the user; its pin the tasks, the gold states and the code that pays."""
    info = library.info

    assert (info.name, info.user, info.tasks) == ("tau:library,scripted", UserKind.SCRIPTED, 5)
    assert sum(info.splits.values()) == 5
    assert info.pin.startswith("sha256:")
    assert "git clone" in info.needs


def test_their_user_simulator_speaks_in_their_process(v1: Path) -> None:
    """Their own simulator with a named model; ours only carries the words."""
    suite = TauSuite("tau-bench", v1, "library", python=PYTHON, user=TauUser(model="tiny"))
    try:
        task = every(suite)["0"]
        trajectory = played(suite, task, model("Shall I lend it?", lend("Dune"), "Lent."))
        said = [m.content for m in trajectory.messages if isinstance(m, UserMessage)]
        assert said == ["I want Dune.", "Yes, do."]
        assert suite.check(task, trajectory).success
        assert suite.info.user is UserKind.MODEL
        assert "user tiny" in suite.info.title
    finally:
        suite.close()


def test_a_user_model_that_cannot_be_reached_is_infrastructure(v1: Path) -> None:
    """It must never count against the model that waits for an answer."""
    suite = TauSuite("tau-bench", v1, "library", python=PYTHON, user=TauUser(model="dead"))
    try:
        trajectory = played(suite, every(suite)["0"], model("Hello?"))
        assert trajectory.stop is StopReason.MODEL_FAILED
        assert "no route to the user's model" in trajectory.notes["error"]
        assert suite.check(every(suite)["0"], suite.idle(every(suite)["0"])).checks, (
            "floors ask nobody"
        )
    finally:
        suite.close()


# ---- tau2-bench --------------------------------------------------------------------------------


def test_solo_needs_nobody(alone: TauSuite) -> None:
    """The agent has the user's tools and a ticket: the one tau2-bench setting without a user model."""
    tasks = every(alone)

    assert set(tasks) == {"shut"}  # the others have no ticket
    task = tasks["shut"]
    assert [spec.name for spec in task.tools] == ["find_book", "lend_book", "press_button"]
    assert "{Alone}" in task.system
    assert verdict(alone, task, alone.oracle()).success
    assert not alone.check(task, alone.idle(task)).success
    assert verdict(alone, task, model(("press_button", {}), lend("Emma"), "Solved.")).success
    assert not verdict(alone, task, model(lend("Emma"), "Solved.")).success
    assert "open: has no ticket" in alone.info.needs


def test_what_their_user_calls_is_kept_and_paid_for(v2: Path) -> None:
    """A stored trajectory must be worth the same when it is scored again without the user."""
    suite = TauSuite("tau2-bench", v2, "library", python=PYTHON, user=TauUser(model="tiny"))
    try:
        task = every(suite)["shut"]
        trajectory = played(suite, task, model("Press the button.", lend("Emma"), "Lent."))
        said = [m.content for m in trajectory.messages if isinstance(m, UserMessage)]
        assert said == ["I want Emma.", "The door is open now."]
        assert trajectory.notes["user_calls"][1] == [
            {"id": "u1", "name": "press_button", "arguments": {}}
        ]
        found = suite.check(task, trajectory)
        assert {c.name: c.score for c in found.checks} == {"reward": 1, "db": 1, "communicate": 1}
        assert task.gold is not None
        assert trajectory.final_state == task.gold.state
    finally:
        suite.close()


def test_their_splits_are_taken(v2: Path) -> None:
    """tau2-bench says itself what may be trained on."""
    suite = TauSuite("tau2-bench", v2, "library", python=PYTHON, scripted=True)
    try:
        assert [task.scenario for task in suite.tasks(Split.TRAIN)] == ["ask"]
        assert [task.scenario for task in suite.tasks(Split.TEST)] == ["open", "shut"]
        assert "late: begins in the middle" in suite.info.needs
        ask = suite.tasks(Split.TRAIN)[0]
        assert verdict(suite, ask, model("Yes, it is in.", "")).success
        assert not suite.check(ask, suite.idle(ask)).success
        with pytest.raises(DataError, match="not 9"):
            suite.tasks(Split.TEST, count=9)
    finally:
        suite.close()


# ---- refusals ----------------------------------------------------------------------------------


def test_the_physics_package_is_refused(tmp_path: Path) -> None:
    """`pip install tau2` gives a package of the same name that has nothing to do with it."""
    (tmp_path / "tau2").mkdir()
    (tmp_path / "tau2" / "__init__.py").write_text("'''Physics.'''")

    with pytest.raises(DataError, match="physics package, not tau2-bench"):
        TauSuite("tau2-bench", tmp_path, "telecom", python=PYTHON, solo=True)


def test_an_interpreter_that_finds_another_package_is_refused(v2: Path, tmp_path: Path) -> None:
    """The folder is right, but the interpreter's own `tau2` would be evaluated."""
    folder = build_v2(tmp_path / "copy")
    (folder / "src" / "tau2" / "registry.py").unlink()
    (folder / "src" / "tau2" / "registry").mkdir()
    suite = TauSuite("tau2-bench", v2, "library", python=PYTHON, scripted=True)
    suite._checkout = folder

    with pytest.raises(ToolError, match="tau2"):
        suite.tasks(Split.TEST)


@pytest.mark.parametrize(
    ("benchmark", "said"),
    [("tau-bench", "a checkout of tau2-bench, not of tau-bench"), ("tau2-bench", "no such folder")],
)
def test_a_wrong_folder_is_told(v2: Path, benchmark: str, said: str) -> None:
    """One line, with what to clone."""
    folder = v2 if benchmark == "tau-bench" else v2 / "missing"

    with pytest.raises(DataError, match=said):
        TauSuite(benchmark, folder, "airline", python=PYTHON, scripted=True)  # type: ignore[arg-type]


def test_somebody_must_play_the_user(v1: Path) -> None:
    """And only one; an interpreter is needed too."""
    with pytest.raises(RecipeError, match="user=gpt-4o"):
        TauSuite("tau-bench", v1, "library", python=PYTHON)
    with pytest.raises(RecipeError, match="user=gpt-4o"):
        TauSuite("tau-bench", v1, "library", python=PYTHON, scripted=True, user=TauUser(model="x"))
    with pytest.raises(RecipeError, match="no solo mode"):
        TauSuite("tau-bench", v1, "library", python=PYTHON, solo=True)
    with pytest.raises(RecipeError, match="--python PYTHON"):
        TauSuite("tau-bench", v1, "library", scripted=True)


def test_an_interpreter_that_is_none_and_a_domain_that_is_none_are_told(v1: Path) -> None:
    """What was seen, and where."""
    with pytest.raises(ToolError, match="cannot be run"):
        TauSuite("tau-bench", v1, "library", python=v1 / "python", scripted=True).tasks(Split.TEST)
    suite = TauSuite("tau-bench", v1, "airline", python=PYTHON, scripted=True)
    with pytest.raises(ToolError, match="Unknown environment: airline"):
        suite.tasks(Split.TEST)
    suite.close()


def test_a_process_that_dies_says_its_last_words(v1: Path, tmp_path: Path) -> None:
    """A benchmark that cannot import what it needs is the commonest failure of all."""
    folder = build_v1(tmp_path / "copy")
    (folder / "tau_bench" / "envs" / "__init__.py").write_text("import litellm_is_missing")
    with pytest.raises(ToolError, match="No module named 'litellm_is_missing'"):
        TauSuite("tau-bench", folder, "library", python=PYTHON, scripted=True).tasks(Split.TEST)

    suite = TauSuite("tau-bench", v1, "library", python=PYTHON, scripted=True)
    task = suite.tasks(Split.TEST)[0]
    suite.process.close()
    with pytest.raises(ToolError, match="has ended"):
        suite.check(task, suite.idle(task))
    suite.close()
    suite.close()
