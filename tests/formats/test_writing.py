"""What is written comes back: the same words, calls, results and tools."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings

from cacherl.core.messages import (
    AssistantMessage,
    MalformedCall,
    Message,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from cacherl.core.records import JsonObject
from cacherl.core.tasks import Task
from cacherl.core.trajectories import StopReason, Trajectory
from cacherl.formats.conversation import Conversation
from cacherl.formats.format import Format, Reading, Target, Unwritable
from cacherl.formats.openai_messages import TRL
from cacherl.formats.rows import Row
from cacherl.formats.table import FORMATS, TARGETS
from cacherl.render import defuse
from tests.formats.conversations import answered, conversations, task_of

SAYS = [target for target in TARGETS.values() if target.row is not None]
READ_BY = {"openai": "openai", "trl-completion": "trl", "verl-sft": "trl", "anthropic": "anthropic"}


def row_of(target: Target, task: Task, trajectory: Trajectory) -> JsonObject:
    assert target.row is not None
    return target.row(task, trajectory)


def back(kind: Format, row: JsonObject) -> Conversation:
    assert kind.read_row is not None
    ((task, trajectory),) = kind.read_row(
        Row("a:1", msgspec.json.encode(row)), Reading(namespace="ns")
    )
    return task, trajectory


def harmless(message: Message) -> Message:
    """Return the message as a file for a chat template holds it."""
    if isinstance(message, UserMessage | ToolMessage):
        return msgspec.structs.replace(message, content=defuse(message.content))
    return message


@pytest.mark.parametrize("target", SAYS, ids=lambda target: target.name)
@settings(max_examples=20)
@given(pair=conversations())
def test_what_is_written_reads_back_the_same(target: Target, pair: Conversation) -> None:
    """A writer that loses a null, an order or an accent trains another model."""
    task, trajectory = pair
    kind = FORMATS[READ_BY.get(target.name, TRL.name)]

    read_task, read = back(kind, row_of(target, task, trajectory))

    messages = trajectory.messages
    if target.name not in ("openai", "anthropic"):
        messages = tuple(map(harmless, messages))
    assert _in_turns(read.messages) == _in_turns(messages)
    shown = {m.call_id: m.content for m in messages if isinstance(m, ToolMessage)}
    assert [r.text for r in read.results] == [shown[r.call_id] for r in trajectory.results]
    assert [(s.name, s.description, s.parameters) for s in read_task.tools] == [
        (s.name, s.description, s.parameters) for s in task.tools
    ]
    if target.name == "anthropic":
        assert [r.is_error for r in read.results] == [r.is_error for r in trajectory.results]


def _in_turns(messages: tuple[Message, ...]) -> list[Any]:
    """Return messages with numbers of their own for calls: ids are nobody's business."""
    order: dict[str, int] = {}
    said: list[Any] = []
    for message in messages:
        match message:
            case AssistantMessage():
                calls = []
                for call in message.calls:
                    order[call.id] = len(order)
                    assert isinstance(call, ToolCall)
                    # True is 1 in Python and not in JSON; 1.0 is 1 in both, here.
                    calls.append((call.name, json.dumps(call.arguments)))
                said.append(("assistant", message.content, message.thinking, calls))
            case ToolMessage():
                said.append(("tool", order[message.call_id], message.name, message.content))
            case _:
                said.append((type(message).__name__, message.content))
    return said


def call(name: str, number: str) -> ToolCall:
    return ToolCall(id=number, name=name, arguments={})


def told(number: str) -> ToolMessage:
    return ToolMessage(call_id=number, name="a", content="1")


@pytest.mark.parametrize("target", SAYS, ids=lambda target: target.name)
@pytest.mark.parametrize(
    ("messages", "stop", "reason"),
    [
        (
            [AssistantMessage(calls=(MalformedCall(id="1", text="{", problem="p"),)), told("1")],
            StopReason.ANSWER,
            "a malformed call",
        ),
        (
            [
                AssistantMessage(calls=(call("a", "1"), call("a", "2"))),
                told("2"),
                AssistantMessage(content="x"),
            ],
            StopReason.ANSWER,
            "a call without a result",
        ),
        ([], StopReason.TRUNCATED, "no assistant turn"),
        ([AssistantMessage(content="x")], StopReason.MODEL_FAILED, "the model or the tools failed"),
    ],
)
def test_what_nobody_should_learn_from_is_not_written(
    target: Target, messages: list[Message], stop: StopReason, reason: str
) -> None:
    """Each of these would teach a mistake, or a template would render it as one."""
    task = task_of()
    trajectory = msgspec.structs.replace(
        answered(task), messages=(UserMessage(content="?"), *messages), stop=stop
    )

    with pytest.raises(Unwritable, match=reason):
        row_of(target, task, trajectory)


@pytest.mark.parametrize("target", SAYS, ids=lambda target: target.name)
def test_calls_of_a_last_turn_need_no_result(target: Target) -> None:
    """Where the conversation was cut nothing follows that could be wrong."""
    task = task_of()
    messages = (UserMessage(content="?"), AssistantMessage(calls=(call("weather", "1"),)))
    cut = msgspec.structs.replace(answered(task), messages=messages, stop=StopReason.TRUNCATED)

    _, read = back(FORMATS[READ_BY.get(target.name, "trl")], row_of(target, task, cut))

    assert [type(m) for m in read.messages] == [UserMessage, AssistantMessage]


@pytest.mark.parametrize("name", ["trl-prompt", "verl"])
def test_gold_stands_beside_the_prompt_and_never_in_it(name: str) -> None:
    """A model that is shown the answer learns nothing, and its reward says that it did."""
    task = task_of(["Which city?"], system="Be brief.", gold="Reykjavik")
    prompt = TARGETS[name].prompt
    assert prompt is not None

    row = prompt(task, 0, ["weather"])

    assert "Reykjavik" not in json.dumps(row["prompt"])
    assert "Reykjavik" not in json.dumps(row.get("extra_info", row.get("tools", "")))
    truth = row["reward_model"]["ground_truth"] if name == "verl" else row["ground_truth"]
    assert json.loads(truth)["answer"]["must"] == [["Reykjavik"]]
    assert row["prompt"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Which city?"},
    ]


def test_a_tool_cannot_end_a_turn_in_a_file_for_templates() -> None:
    """TRL would take a result's `<|im_end|>` for the end of the model's turn."""
    task = task_of()
    asked = ToolCall(id="1", name="weather", arguments={"city": "</tool_call>"})
    trajectory = msgspec.structs.replace(
        answered(task),
        messages=(
            UserMessage(content="?"),
            AssistantMessage(calls=(asked,)),
            ToolMessage(call_id="1", name="weather", content="<|im_end|>"),
            AssistantMessage(content="x"),
        ),
    )

    messages = row_of(TARGETS["trl"], task, trajectory)["messages"]

    assert "<|im_end|>" not in messages[2]["content"]
    arguments = messages[1]["tool_calls"][0]["function"]["arguments"]
    assert "</tool_call>" not in arguments
    assert json.loads(arguments) == asked.arguments
