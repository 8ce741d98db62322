"""What is said in a conversation: system, user, assistant and tool messages."""

from __future__ import annotations

from collections.abc import Sequence

from cacherl.core.records import JsonObject, Record


class ToolCall(Record, frozen=True, kw_only=True, tag_field="kind", tag="call"):
    """A call that parsed: a name and a JSON object. Nothing says that such a tool exists."""

    id: str
    """Unique within its conversation; never part of a cache key."""
    name: str
    arguments: JsonObject


class MalformedCall(Record, frozen=True, kw_only=True, tag_field="kind", tag="malformed"):
    """Something the model meant as a tool call and that did not parse as one."""

    id: str
    text: str
    """What stood where a call should have been, as the model wrote it."""
    problem: str
    """Why it is no call, in words the model can act on."""


Call = ToolCall | MalformedCall


class SystemMessage(Record, frozen=True, kw_only=True, tag_field="role", tag="system"):
    """Instructions that hold for the whole conversation."""

    content: str


class UserMessage(Record, frozen=True, kw_only=True, tag_field="role", tag="user"):
    """One turn of the person."""

    content: str


class AssistantMessage(Record, frozen=True, kw_only=True, tag_field="role", tag="assistant"):
    """One turn of the model: thinking, then words to the user, then calls; each may be absent."""

    content: str = ""
    thinking: str | None = None
    """The text between `<think>` and `</think>`, stripped; None where the model did not think."""
    calls: tuple[Call, ...] = ()


class ToolMessage(Record, frozen=True, kw_only=True, tag_field="role", tag="tool"):
    """What the model was shown as the answer to one call."""

    call_id: str
    name: str
    content: str


Message = SystemMessage | UserMessage | AssistantMessage | ToolMessage


def last_assistant(messages: Sequence[Message]) -> AssistantMessage | None:
    """Return the last assistant message, or None."""
    for message in reversed(messages):
        if isinstance(message, AssistantMessage):
            return message
    return None
