"""A secret, planted wherever a task or an episode has room for words, is in neither when they are written."""

from __future__ import annotations

import json

import msgspec
import pytest

from cacherl.cache.safety.redact import Profile, Redactor
from cacherl.core.messages import (
    AssistantMessage,
    MalformedCall,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from cacherl.core.tasks import AnswerRule, Gold, GoldCall, Split, Task
from cacherl.core.tools import ErrorClass, Source, Tier, ToolResult, ToolSpec
from cacherl.core.trajectories import StopReason, TokenSegment, Trajectory
from cacherl.record.redacted import redacted_task, redacted_trajectory

SECRET = "ghp_A1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q7r8"
SAID = f"use {SECRET} for it"

TASK = Task(
    id="t1",
    namespace="n",
    family="f",
    language="en",
    wording="w",
    split=Split.TRAIN,
    scenario=SAID,
    system=SAID,
    user_turns=("hello", SAID),
    tools=(
        ToolSpec(
            name="go",
            description=SAID,
            parameters={
                "type": "object",
                "properties": {"key": {"type": "string", "default": SECRET, "examples": [SAID]}},
            },
        ),
    ),
    gold=Gold(
        calls=(GoldCall(step=0, name="go", arguments={"key": SECRET, "deep": [{"a": SAID}]}),),
        answer=AnswerRule(must=(("fine", SAID),), must_not=(SAID,)),
        state="",
    ),
)
EPISODE = Trajectory(
    task_id="t1",
    policy="p",
    seed=0,
    messages=(
        SystemMessage(content=SAID),
        UserMessage(content=SAID),
        AssistantMessage(
            content=SAID,
            thinking=SAID,
            calls=(
                ToolCall(id="c1", name="go", arguments={"key": SECRET, "deep": [{SAID: SAID}]}),
                MalformedCall(id="c2", text=f"go({SAID}", problem=f"no JSON: {SAID}"),
            ),
        ),
        ToolMessage(call_id="c1", name="go", content=SAID),
        AssistantMessage(content=SAID, thinking=SAID),
    ),
    results=(
        ToolResult(
            call_id="c1",
            name="go",
            text=SAID,
            wire=json.dumps({"content": [{"type": "text", "text": SAID}], "_meta": {"k": SAID}}),
            is_error=True,
            error_class=ErrorClass.UNKNOWN,
            tier=Tier.LIVE,
            source=Source.LIVE,
        ),
    ),
    stop=StopReason.TOOLS_FAILED,
    segments=(TokenSegment(prompt_ids=(1, 2), completion_ids=(3,), mask=(1,)),),
    notes={"error": SAID, "more": {"of": [SAID]}},
)


@pytest.fixture
def redactor() -> Redactor:
    return Redactor(Profile(name="secrets"), b"k" * 32)


def test_nothing_of_a_task_keeps_it(redactor: Redactor) -> None:
    """Tasks are published with the episodes."""
    kept = redacted_task(TASK, redactor)

    assert SECRET not in msgspec.json.encode(kept).decode()
    assert kept.id == TASK.id
    assert kept.user_turns[0] == "hello"


def test_nothing_of_an_episode_keeps_it(redactor: Redactor) -> None:
    """Thoughts, notes and the server's whole answer are read by nobody, and published all the same."""
    kept = redacted_trajectory(EPISODE, redactor)

    assert SECRET not in msgspec.json.encode(kept).decode()
    assert kept.segments == ()
    assert [type(each) for each in kept.messages] == [type(each) for each in EPISODE.messages]
    assert json.loads(kept.results[0].wire or "")["content"][0]["type"] == "text"


def test_once_more_changes_nothing(redactor: Redactor) -> None:
    """A cache built from redacted episodes is the one that the episodes themselves would have made."""
    kept = redacted_trajectory(EPISODE, redactor)

    assert redacted_trajectory(kept, redactor) == kept
    assert redacted_task(redacted_task(TASK, redactor), redactor) == redacted_task(TASK, redactor)
