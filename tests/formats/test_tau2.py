"""tau2-bench: an agent and a user who both have tools."""

from __future__ import annotations

from pathlib import Path

import pytest

from cacherl.core.tools import UNDECLARED, ErrorClass
from cacherl.core.trajectories import StopReason
from cacherl.formats.tau2 import TAU2_BENCH
from tests.formats import samples
from tests.formats.reading import made, read_object, said


def test_what_the_agent_never_saw_stays_out(tmp_path: Path) -> None:
    """The user's tool calls, the orchestrator's greeting and the stop word are not the model's."""
    ((task, trajectory),), skipped = read_object(TAU2_BENCH, tmp_path, samples.tau2())

    assert not skipped
    assert made(trajectory) == [("get_line", {"line": "L1"}), ("get_line", {"line": "L2"})]
    assert said(trajectory) == [
        ("system", "Be kind."),
        ("user", "My phone is offline."),
        ("assistant", ""),
        ("tool", '{"on": true}'),
        ("tool", "Error: no such line"),
        ("assistant", "Toggle airplane mode."),
        ("user", "Done."),
        ("assistant", "Then it works."),
    ]
    assert trajectory.notes["user_tool_calls"] == 1
    assert trajectory.notes["greeting"] == "Hi! How can I help?"
    assert "toggle_airplane_mode" not in {spec.name for spec in task.tools}


def test_tau2_keeps_trial_reward_gold_and_stop(tmp_path: Path) -> None:
    """The agent's gold actions only; the user's belong to the user."""
    ((task, trajectory),), _ = read_object(TAU2_BENCH, tmp_path, samples.tau2())

    assert (task.id, task.family, task.scenario) == ("ns-t1", "telecom", "t1")
    assert (trajectory.rollout, trajectory.policy) == (2, "some-model")
    assert trajectory.notes["reward"] == 1.0
    assert trajectory.stop is StopReason.ANSWER
    assert [result.error_class for result in trajectory.results] == [None, ErrorClass.NOT_FOUND]
    assert task.gold is not None
    assert [call.name for call in task.gold.listed] == ["get_line"]
    assert task.gold.answer.must == (("works",),)


def test_tau2_declares_tools_or_shows_them(tmp_path: Path) -> None:
    """Definitions where the run wrote them, else the types that all its calls had."""
    value = samples.tau2()
    ((task, _),), _ = read_object(TAU2_BENCH, tmp_path, value)
    assert task.tools[0].parameters["properties"] == {"line": {"type": "string"}}

    value["info"]["environment_info"]["tool_defs"] = {
        "get_line": {"name": "get_line", "doc": "A line.", "params": samples.WEATHER["parameters"]}
    }
    ((task, _),), _ = read_object(TAU2_BENCH, tmp_path, value)
    assert (task.tools[0].description, task.tools[0].effects) == ("A line.", UNDECLARED)


@pytest.mark.parametrize(
    ("ended", "stop"),
    [
        ("max_steps", StopReason.MAX_TURNS),
        ("context_window_exceeded", StopReason.CONTEXT_FULL),
        ("infrastructure_error", StopReason.MODEL_FAILED),
    ],
)
def test_how_a_simulation_ended(ended: str, stop: StopReason, tmp_path: Path) -> None:
    """A run that its infrastructure ended says nothing of the model."""
    value = samples.tau2()
    value["simulations"][0]["termination_reason"] = ended
    ((_, trajectory),), _ = read_object(TAU2_BENCH, tmp_path, value)

    assert trajectory.stop is stop


def test_a_voice_run_is_skipped_with_its_reason(tmp_path: Path) -> None:
    """Ticks are no turns."""
    value = samples.tau2()
    value["simulations"].append({"task_id": "t1", "messages": None, "ticks": []})
    found, skipped = read_object(TAU2_BENCH, tmp_path, value)

    assert len(found) == 1
    assert [(each.field, each.problem) for each in skipped] == [
        ("ticks", "a voice run, which has no turns")
    ]
