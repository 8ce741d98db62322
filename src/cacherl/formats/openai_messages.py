"""OpenAI chat messages with tools: read as everybody writes them, written as OpenAI does.

A row is `{"messages": [...], "tools": [...]}` with whatever else beside it, or the list of messages alone.
Read besides: `functions` and `function_call` of before tools, `prompt` + `completion` (TRL), arguments as
text or object, content as parts, thinking as `reasoning_content`, `reasoning`, `thinking` or `<think>` in
the content, messages or tools as the JSON text of themselves, as tables hold them.

Source: OpenAI API reference, chat completions and fine-tuning; DeepSeek and vLLM for `reasoning_content`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from cacherl.core.messages import (
    AssistantMessage,
    Call,
    MalformedCall,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from cacherl.core.records import JsonObject
from cacherl.core.tasks import Task
from cacherl.core.tools import ErrorClass, ToolSpec
from cacherl.core.trajectories import StopReason, Trajectory
from cacherl.formats.conversation import Builder, Conversation, call_of, looks_like_error
from cacherl.formats.declarations import specs_of
from cacherl.formats.format import Format, Reading, Target, Unwritable
from cacherl.formats.rows import NO_JSON, Row, Unreadable, mistyped
from cacherl.formats.written_calls import thought_apart
from cacherl.render import tool_json

ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})


class _Function(msgspec.Struct, gc=False):
    name: Any = None
    arguments: Any = None


class _Custom(msgspec.Struct, gc=False):
    name: Any = None
    input: Any = None


class _Call(msgspec.Struct, gc=False):
    id: str | int | None = None
    function: _Function | None = None
    custom: _Custom | None = None
    name: Any = None
    arguments: Any = None


class _Message(msgspec.Struct, gc=False):
    role: str
    content: Any = None
    tool_calls: list[_Call] | str | None = None
    function_call: _Function | str | None = None
    tool_call_id: str | int | None = None
    name: str | None = None
    reasoning_content: Any = None
    reasoning: Any = None
    thinking: Any = None
    reasoning_details: Any = None
    refusal: str | None = None
    is_error: bool | None = None


_Messages = list[_Message]


class _Row(msgspec.Struct, gc=False):
    messages: _Messages | str | None = None
    conversation: _Messages | str | None = None
    conversations: _Messages | str | None = None
    prompt: _Messages | str | None = None
    completion: _Messages | str | None = None
    tools: msgspec.Raw = msgspec.Raw()
    functions: msgspec.Raw = msgspec.Raw()
    model: Any = None
    language: Any = None
    id: Any = None
    uuid: Any = None
    task_id: Any = None
    conversation_id: Any = None


_ROW = msgspec.json.Decoder(_Row)
_MESSAGES = msgspec.json.Decoder(_Messages)
_CALLS = msgspec.json.Decoder(list[_Call])
_FUNCTION = msgspec.json.Decoder(_Function)


def read_openai(row: Row, reading: Reading) -> Iterator[Conversation]:
    """Yield the conversation of a row.

    Raises:
        Unreadable: the row is none.
    """
    said = _Row(messages=row.read(_MESSAGES)) if row.raw.startswith(b"[") else row.read(_ROW)
    builder = Builder(row, format_name="openai", namespace=reading.namespace)
    notes: JsonObject = {}
    for field, messages in _turns(said):
        for place, message in enumerate(messages):
            try:
                _add(builder, message, notes)
            except Unreadable as error:
                inner = f".{error.field}" if error.field not in ("", "messages") else ""
                raise Unreadable(f"{field}[{place}]{inner}", error.problem) from error
    tools = declared_tools(bytes(said.tools) or bytes(said.functions))
    name = next((n for n in (said.id, said.uuid, said.task_id, said.conversation_id) if n), None)
    yield builder.build(
        task_id=reading.task_id(row, name),
        tools=tools,
        language=said.language if isinstance(said.language, str) else reading.language,
        split=reading.split,
        policy=said.model if isinstance(said.model, str) else reading.policy,
        notes=notes,
    )


def _turns(row: _Row) -> Iterable[tuple[str, _Messages]]:
    for field in ("messages", "conversation", "conversations"):
        if (found := getattr(row, field)) is not None:
            return [(field, _listed(found, field))]
    if row.prompt is None and row.completion is None:
        raise Unreadable("messages", "missing")
    both = (("prompt", row.prompt), ("completion", row.completion))
    return [(field, _listed(found, field)) for field, found in both if found is not None]


def _listed(said: _Messages | str, field: str) -> _Messages:
    """Return the messages; a table may hold them as JSON text."""
    if not isinstance(said, str):
        return said
    try:
        return _MESSAGES.decode(said)
    except msgspec.ValidationError as error:
        raise mistyped(error, field) from error
    except NO_JSON as error:
        raise Unreadable(field, "text, and no JSON list of messages") from error


# ---- one message -----------------------------------------------------------------------------


def _add(builder: Builder, message: _Message, notes: JsonObject) -> None:
    content = message.content
    match message.role:
        case "assistant":
            _add_assistant(builder, message, notes)
        case "tool" | "function":
            _add_result(builder, message)
        case "user":
            builder.user(content if isinstance(content, str) else text_of(content))
        case "system" | "developer":
            builder.system(content if isinstance(content, str) else text_of(content))
        case other:
            raise Unreadable("role", f"unknown role {other[:40]!r}")


def _add_assistant(builder: Builder, message: _Message, notes: JsonObject) -> None:
    content = message.content
    thinking = (
        message.reasoning_content
        or message.reasoning
        or message.thinking
        or message.reasoning_details
    )
    if content is None:
        content = ""
    elif not isinstance(content, str):
        thinking = thinking or thinking_of(content)
        content = text_of(content)
    if thinking is not None and not isinstance(thinking, str):
        thinking = thinking_of(thinking)
    if "think>" in content:
        thought, content = thought_apart(content)
        thinking = thinking or thought
    if message.refusal:
        content = content or message.refusal
        notes["refusal"] = True
    calls: list[Call] = []
    if message.tool_calls:
        said = message.tool_calls
        for call in said if not isinstance(said, str) else _decoded(_CALLS, said, "tool_calls"):
            calls.append(_call(call))
    if message.function_call:
        asked = message.function_call
        if isinstance(asked, str):
            asked = _decoded(_FUNCTION, asked, "function_call")
        calls.append(call_of(asked.name, asked.arguments))
    builder.assistant(content, thinking=thinking.strip() if thinking else None, calls=calls)


def _decoded(decoder: msgspec.json.Decoder[Any], text: str, field: str) -> Any:
    try:
        return decoder.decode(text)
    except msgspec.ValidationError as error:
        raise mistyped(error, field) from error
    except NO_JSON as error:
        raise Unreadable(field, "text, and no JSON") from error


def _call(said: _Call) -> Call:
    number = "" if said.id is None else str(said.id)
    function = said.function
    if function is not None:
        return call_of(function.name, function.arguments, id=number)
    if said.custom is not None:  # a tool that takes free text
        return call_of(said.custom.name, {"input": said.custom.input}, id=number)
    return call_of(said.name, said.arguments, id=number)


def _add_result(builder: Builder, message: _Message) -> None:
    content, wire = message.content, None
    if not isinstance(content, str):
        content, wire = result_text(content)
    wrong = looks_like_error(content) if message.is_error is None else message.is_error
    builder.result(
        content,
        call_id="" if message.tool_call_id is None else str(message.tool_call_id),
        name=message.name or "",
        is_error=wrong,
        error_class=ErrorClass.UNKNOWN if wrong else None,
        wire=wire,
    )


# ---- content that is not plain text ------------------------------------------------------------

_TEXTS = ("text", "input_text", "output_text", "summary_text", "reasoning_text", "refusal")
_THOUGHTS = ("thinking", "reasoning", "redacted_thinking", "reasoning.text", "reasoning.summary")


def text_of(content: Any) -> str:
    """Return the text of content parts, thinking left out; parts stand on lines of their own.

    Raises:
        Unreadable: a part is no text (an image, a sound, a file): no text model can be taught by it.
    """
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        raise Unreadable("content", f"no text but {type(content).__name__}")
    texts = []
    for part in content:
        if isinstance(part, str):
            texts.append(part)
        elif not isinstance(part, dict):
            raise Unreadable("content", f"a part that is {type(part).__name__}")
        elif part.get("type") not in _THOUGHTS:
            text = _part_text(part)
            if text is None:
                raise Unreadable("content", f"a part of type {str(part.get('type'))[:40]!r}")
            texts.append(text)
    return "\n".join(texts)


def _part_text(part: JsonObject) -> str | None:
    if part.get("type", "text") not in _TEXTS:
        return None
    text = part.get("text", part.get("refusal"))
    return text if isinstance(text, str) else None


def thinking_of(content: Any) -> str | None:
    """Return the thinking in parts or blocks; None where there is none."""
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        return None
    texts = []
    for part in content:
        if isinstance(part, dict) and part.get("type") in (*_THOUGHTS, *_TEXTS[3:5]):
            said = part.get("thinking") or part.get("text") or part.get("summary")
            said = said if isinstance(said, str) else thinking_of(said or part.get("content"))
            if said:
                texts.append(said)
    return "\n\n".join(texts).strip() or None


def result_text(content: Any) -> tuple[str, str | None]:
    """Return what a model is shown of a tool's answer, and the whole answer where that is more.

    Data becomes JSON; an image among the parts stands as `[image]` and is kept whole beside it.
    """
    if content is None:
        return "", None
    is_parts = isinstance(content, list) and all(
        isinstance(part, dict) and isinstance(part.get("type"), str) for part in content
    )
    if not is_parts:
        return (content if isinstance(content, str) else _json(content)), None
    texts = [_part_text(part) for part in content]
    shown = [
        f"[{part['type']}]" if text is None else text
        for part, text in zip(content, texts, strict=True)
    ]
    return "\n".join(shown), (_json(content) if None in texts else None)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


# ---- tools -----------------------------------------------------------------------------------

_REMEMBERED_BYTES = 1 << 16  # a longer list of tools is not likely to come again


def declared_tools(said: bytes) -> tuple[ToolSpec, ...]:
    """Return the tools of a row, from the JSON of their list; none for nothing.

    Raises:
        Unreadable: it is no list of tools.
    """
    if not said or said == b"null":
        return ()
    return _remembered(said) if len(said) < _REMEMBERED_BYTES else _declared(said)


def _declared(said: bytes) -> tuple[ToolSpec, ...]:
    try:
        value = msgspec.json.decode(said)
    except NO_JSON as error:  # the row was walked over here, not read
        raise Unreadable("tools", f"no JSON ({error})") from error
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = msgspec.json.decode(value)
        except NO_JSON as error:
            raise Unreadable("tools", "text, and no JSON list of tools") from error
    if isinstance(value, list):
        value = [each for each in value if not is_hosted(each)]
    return specs_of(value, "tools")


_remembered = functools.lru_cache(maxsize=512)(_declared)
"""Files repeat one list of tools on every row; parsing it anew would be half the work of a row."""


def is_hosted(tool: Any) -> bool:
    """Whether this is a tool that the provider runs, such as `web_search`: nobody declares those."""
    return isinstance(tool, dict) and "type" in tool and not {"function", "name"} & tool.keys()


# ---- writing ---------------------------------------------------------------------------------


def sayable(trajectory: Trajectory) -> tuple[Message, ...]:
    """Return the messages of a conversation that can be learnt from as it stands.

    Raises:
        Unwritable: infrastructure failed, nobody answered, a call is malformed (to teach it would be to
            teach the mistake), or a call has no result and the conversation goes on.
    """
    if trajectory.stop in (StopReason.MODEL_FAILED, StopReason.TOOLS_FAILED):
        raise Unwritable("the model or the tools failed")
    messages = trajectory.messages
    turns = [(i, m) for i, m in enumerate(messages) if isinstance(m, AssistantMessage)]
    if not turns:
        raise Unwritable("no assistant turn")
    answered = {m.call_id for m in messages if isinstance(m, ToolMessage)}
    for place, turn in turns:
        if any(isinstance(call, MalformedCall) for call in turn.calls):
            raise Unwritable("a malformed call")
        if place < len(messages) - 1 and any(call.id not in answered for call in turn.calls):
            raise Unwritable("a call without a result")
    return messages


def openai_message(message: Message) -> JsonObject:
    """Return a message as the API takes it; thinking as `reasoning_content`, which OpenAI leaves aside."""
    match message:
        case SystemMessage():
            return {"role": "system", "content": message.content}
        case UserMessage():
            return {"role": "user", "content": message.content}
        case ToolMessage():
            named = {"name": message.name} if message.name else {}
            return {
                "role": "tool",
                "tool_call_id": message.call_id,
                **named,
                "content": message.content,
            }
        case AssistantMessage():
            said: JsonObject = {"role": "assistant", "content": message.content}
            if message.thinking is not None:
                said["reasoning_content"] = message.thinking
            if message.calls:
                said["tool_calls"] = [_written_call(call) for call in message.calls]
                said["content"] = message.content or None
            return said


def _written_call(call: Call) -> JsonObject:
    if isinstance(call, MalformedCall):
        raise Unwritable("a malformed call")
    function = {"name": call.name, "arguments": arguments_text(call)}
    return {"id": call.id, "type": "function", "function": function}


def arguments_text(call: ToolCall) -> str:
    """Return the arguments as the JSON text that templates print."""
    return json.dumps(call.arguments, ensure_ascii=False)


def openai_row(task: Task, trajectory: Trajectory) -> JsonObject:
    """Return a conversation as a row of OpenAI messages.

    Raises:
        Unwritable: see `sayable`.
    """
    row: JsonObject = {"messages": [openai_message(m) for m in sayable(trajectory)]}
    if task.tools:
        row["tools"] = [msgspec.json.decode(tool_json(spec)) for spec in task.tools]
    return row


OPENAI_FILE = Target(
    name="openai",
    title="OpenAI chat messages, one conversation a line",
    row=openai_row,
    advice="arguments are JSON text, as the API has them; thinking is reasoning_content.",
)


# ---- what it looks like ----------------------------------------------------------------------


def _sniff(value: Any) -> bool:
    if isinstance(value, list):
        return _are_messages(value)
    return any(_are_messages(value.get(key)) for key in ("messages", "conversation"))


def _are_messages(value: Any) -> bool:
    if isinstance(value, str):
        value = msgspec.json.decode(value)
    return bool(value) and all(each["role"] in ROLES for each in value)


def _sniff_trl(value: Any) -> bool:
    return _are_messages(value.get("prompt")) and _are_messages(value.get("completion"))


OPENAI = Format(
    name="openai",
    title="OpenAI chat messages with tools, whoever wrote them",
    read_row=read_openai,
    sniff=_sniff,
)
TRL = Format(
    name="trl",
    title="TRL conversational: messages, or prompt and completion, with tools",
    read_row=read_openai,
    sniff=_sniff_trl,
)
