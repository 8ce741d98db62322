"""Anthropic messages: content blocks for thinking, calls and results; read and written.

A row is `{"system": ..., "messages": [...], "tools": [...]}`. Results stand as `tool_result` blocks in the user
message after the calls; `is_error` says that a tool failed. Tools that the provider runs itself
(`server_tool_use`) leave no call here: their answers are the provider's.

Source: anthropic-sdk-python, `types/message_param.py`, `content_block_param.py`, `tool_param.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from cacherl.core.messages import (
    AssistantMessage,
    Call,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from cacherl.core.records import JsonObject
from cacherl.core.tasks import Task
from cacherl.core.tools import ErrorClass
from cacherl.core.trajectories import Trajectory
from cacherl.formats.conversation import Builder, Conversation, call_of, looks_like_error
from cacherl.formats.format import Format, Reading, Target
from cacherl.formats.openai_messages import (
    declared_tools,
    result_text,
    sayable,
    text_of,
)
from cacherl.formats.rows import Row, Unreadable

_BLOCKS = frozenset({"tool_use", "tool_result", "thinking", "redacted_thinking"})


class _Block(msgspec.Struct, gc=False):
    type: str
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: Any = None
    tool_use_id: str | None = None
    content: Any = None
    is_error: bool | None = None


class _Message(msgspec.Struct, gc=False):
    role: str
    content: str | list[_Block]


class _Row(msgspec.Struct, gc=False):
    messages: list[_Message]
    system: Any = None
    tools: msgspec.Raw = msgspec.Raw()
    model: Any = None
    language: Any = None
    id: Any = None


_ROW = msgspec.json.Decoder(_Row)


def read_anthropic(row: Row, reading: Reading) -> Iterator[Conversation]:
    """Yield the conversation of a row.

    Raises:
        Unreadable: the row is none.
    """
    said = row.read(_ROW)
    builder = Builder(row, format_name="anthropic", namespace=reading.namespace)
    builder.system(text_of(said.system))
    for place, message in enumerate(said.messages):
        try:
            _add(builder, message, row, reading, place)
        except Unreadable as error:
            raise Unreadable(f"messages[{place}].content", error.problem) from error
    yield builder.build(
        task_id=reading.task_id(row, said.id),
        tools=declared_tools(bytes(said.tools)),
        language=said.language if isinstance(said.language, str) else reading.language,
        split=reading.split,
        policy=said.model if isinstance(said.model, str) else reading.policy,
    )


def _add(builder: Builder, message: _Message, row: Row, reading: Reading, place: int) -> None:
    content = message.content
    blocks = [_Block(type="text", text=content)] if isinstance(content, str) else content
    match message.role:
        case "system":
            builder.system(_joined(blocks))
        case "user":
            for block in blocks:
                if block.type == "tool_result":
                    _add_result(builder, block)
            rest = [block for block in blocks if block.type != "tool_result"]
            if rest:
                builder.user(_joined(rest))
        case "assistant":
            _add_assistant(builder, blocks, f"messages[{place}]", row, reading)
        case other:
            raise Unreadable("role", f"unknown role {other[:40]!r}")


def _joined(blocks: list[_Block]) -> str:
    for block in blocks:
        if block.type != "text":
            raise Unreadable("content", f"a block of type {block.type[:40]!r}")
    return "\n".join(block.text or "" for block in blocks)


def _add_result(builder: Builder, block: _Block) -> None:
    text, wire = result_text(block.content)
    wrong = looks_like_error(text) if block.is_error is None else block.is_error
    builder.result(
        text,
        call_id=block.tool_use_id or "",
        is_error=wrong,
        error_class=ErrorClass.UNKNOWN if wrong else None,
        wire=wire,
    )


def _add_assistant(
    builder: Builder, blocks: list[_Block], field: str, row: Row, reading: Reading
) -> None:
    thoughts: list[str] = []
    texts: list[str] = []
    calls: list[Call] = []
    for block in blocks:
        match block.type:
            case "text":
                texts.append(block.text or "")
            case "thinking":
                thoughts.append(block.thinking or "")
            case "tool_use":
                calls.append(call_of(block.name, block.input, id=block.id or ""))
            case "redacted_thinking":
                pass  # nobody but the provider can read it
            case other if other == "server_tool_use" or other.endswith("_tool_result"):
                reading.skip(row.where, field, f"a tool the provider ran itself ({other})")
            case other:
                raise Unreadable("content", f"a block of type {other[:40]!r}")
    builder.assistant("\n".join(texts), thinking="\n\n".join(thoughts).strip(), calls=calls)


def anthropic_row(task: Task, trajectory: Trajectory) -> JsonObject:
    """Return a conversation as a request would hold it. A thinking block has no signature: nobody signed it.

    Raises:
        Unwritable: see `sayable`.
    """
    failed = {result.call_id for result in trajectory.results if result.is_error}
    system: list[str] = []
    messages: list[JsonObject] = []
    for message in sayable(trajectory):
        match message:
            case SystemMessage():
                system.append(message.content)
            case UserMessage():
                _append(messages, "user", {"type": "text", "text": message.content})
            case ToolMessage():
                block: JsonObject = {
                    "type": "tool_result",
                    "tool_use_id": message.call_id,
                    "content": message.content,
                }
                if message.call_id in failed:
                    block["is_error"] = True
                _append(messages, "user", block)
            case AssistantMessage():
                messages.append({"role": "assistant", "content": _blocks(message)})
    tools = [
        {"name": spec.name, "description": spec.description, "input_schema": spec.parameters}
        for spec in task.tools
    ]
    said = {"system": "\n\n".join(system)} if system else {}
    return {**said, "messages": messages, **({"tools": tools} if tools else {})}


def _append(messages: list[JsonObject], role: str, block: JsonObject) -> None:
    """Add to the message of this role, or begin one: roles must take turns."""
    if messages and messages[-1]["role"] == role:
        messages[-1]["content"].append(block)
    else:
        messages.append({"role": role, "content": [block]})


def _blocks(message: AssistantMessage) -> list[JsonObject]:
    blocks: list[JsonObject] = []
    if message.thinking:
        blocks.append({"type": "thinking", "thinking": message.thinking, "signature": ""})
    if message.content:
        blocks.append({"type": "text", "text": message.content})
    for call in message.calls:
        if isinstance(call, ToolCall):
            said = {"id": call.id, "name": call.name, "input": call.arguments}
            blocks.append({"type": "tool_use", **said})
    return blocks


ANTHROPIC_FILE = Target(
    name="anthropic",
    title="Anthropic messages, one conversation a line",
    row=anthropic_row,
    advice="thinking blocks carry no signature: the API takes them back only signed by itself.",
)


def _sniff(value: Any) -> bool:
    messages = value["messages"]
    if any("input_schema" in tool for tool in value.get("tools") or ()):
        return True
    blocks = [b for m in messages if isinstance(m["content"], list) for b in m["content"]]
    if any(block.get("type") in _BLOCKS for block in blocks):
        return True
    return "system" in value and all(m["role"] in ("user", "assistant") for m in messages)


ANTHROPIC = Format(
    name="anthropic",
    title="Anthropic messages with content blocks",
    read_row=read_anthropic,
    sniff=_sniff,
)
