"""Tasks and episodes without what a redactor takes out: what is written in their place.

The cache would redact what it is given by itself; here the same is done to the files that later
stages learn from. Going over something twice changes nothing, so a cache built from redacted
episodes is the cache that the episodes themselves would have made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from cacherl.cache.safety.redact import Redactor
from cacherl.core.messages import (
    AssistantMessage,
    Call,
    MalformedCall,
    Message,
    ToolCall,
    ToolMessage,
)
from cacherl.core.tasks import Task
from cacherl.core.tools import ToolResult
from cacherl.core.trajectories import Trajectory


def redacted_task(task: Task, redactor: Redactor) -> Task:
    """Return the task without what the redactor takes out; its id stays."""
    gold = task.gold
    if gold is not None:
        calls = (
            replace(call, arguments=redactor.arguments(call.arguments)) for call in gold.listed
        )
        rule = replace(
            gold.answer,
            must=tuple(tuple(map(redactor.text, group)) for group in gold.answer.must),
            must_not=tuple(map(redactor.text, gold.answer.must_not)),
        )
        gold = replace(gold, calls=None if gold.calls is None else tuple(calls), answer=rule)
    return replace(
        task,
        scenario=redactor.text(task.scenario),
        system=redactor.text(task.system),
        user_turns=tuple(map(redactor.text, task.user_turns)),
        tools=tuple(map(redactor.spec, task.tools)),
        gold=gold,
    )


def redacted_trajectory(trajectory: Trajectory, redactor: Redactor) -> Trajectory:
    """Return the episode without what the redactor takes out, calls, results and thoughts alike.

    Token ids are left out: they spell what was taken out. What a call names as secret (`password`) is also taken out where its result repeats it.
    """
    asked: dict[str, Mapping[str, Any]] = {
        call.id: call.arguments
        for message in trajectory.messages
        if isinstance(message, AssistantMessage)
        for call in message.calls
        if isinstance(call, ToolCall)
    }
    return replace(
        trajectory,
        messages=tuple(_message(message, redactor, asked) for message in trajectory.messages),
        results=tuple(_result(result, redactor, asked) for result in trajectory.results),
        segments=(),
        notes=redactor.arguments(trajectory.notes),
    )


def _message(
    message: Message, redactor: Redactor, asked: Mapping[str, Mapping[str, Any]]
) -> Message:
    match message:
        case ToolMessage():
            text = redactor.text(message.content, echoing=asked.get(message.call_id))
            return replace(message, content=text)
        case AssistantMessage():
            thinking = message.thinking
            return replace(
                message,
                content=redactor.text(message.content),
                thinking=None if thinking is None else redactor.text(thinking),
                calls=tuple(_call(call, redactor) for call in message.calls),
            )
        case _:
            return replace(message, content=redactor.text(message.content))


def _call(call: Call, redactor: Redactor) -> Call:
    if isinstance(call, MalformedCall):
        return replace(call, text=redactor.text(call.text), problem=redactor.text(call.problem))
    return replace(call, arguments=redactor.arguments(call.arguments))


def _result(
    result: ToolResult, redactor: Redactor, asked: Mapping[str, Mapping[str, Any]]
) -> ToolResult:
    echoing = asked.get(result.call_id)
    wire = result.wire
    return replace(
        result,
        text=redactor.text(result.text, echoing=echoing),
        wire=None if wire is None else redactor.wire(wire, echoing=echoing),
    )
