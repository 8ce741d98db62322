"""OpenAI Responses API: a conversation as a list of items.

A row is a request with its response (`{"instructions", "input": [...] or text, "output": [...], "tools": [...]}`),
or `{"items": [...]}`. Reasoning, words and calls that follow one another are one turn of the model.

Source: OpenAI API reference, responses: input and output items.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cacherl.core.messages import Call
from cacherl.core.tools import ErrorClass
from cacherl.formats.conversation import Builder, Conversation, call_of, looks_like_error
from cacherl.formats.declarations import specs_of
from cacherl.formats.format import Format, Reading
from cacherl.formats.openai_messages import is_hosted, result_text, text_of, thinking_of
from cacherl.formats.rows import Row, Unreadable

_ITEMS = frozenset(
    {"message", "reasoning", "function_call", "function_call_output", "custom_tool_call"}
)


def read_responses(row: Row, reading: Reading) -> Iterator[Conversation]:
    """Yield the conversation of a row.

    Raises:
        Unreadable: the row is none.
    """
    value = row.value()
    if not isinstance(value, dict):
        raise Unreadable("", f"no object but {type(value).__name__}")
    builder = Builder(row, format_name="openai-responses", namespace=reading.namespace)
    if value.get("instructions"):
        builder.system(text_of(value["instructions"]))
    turn = _Turn(builder)
    for field, item in _items(value):
        try:
            _add(turn, item, field, row, reading)
        except Unreadable as error:
            inner = f".{error.field}" if error.field not in ("", "messages") else ""
            raise Unreadable(f"{field}{inner}", error.problem) from error
    turn.close()
    tools = value.get("tools")
    if isinstance(tools, list):
        tools = [each for each in tools if not is_hosted(each)]
    language, model = value.get("language"), value.get("model")
    yield builder.build(
        task_id=reading.task_id(row, value.get("id")),
        tools=specs_of(tools, "tools"),
        language=language if isinstance(language, str) else reading.language,
        split=reading.split,
        policy=model if isinstance(model, str) else reading.policy,
    )


def _items(value: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    fields = ("items",) if "items" in value else ("input", "output")
    if not any(field in value for field in fields):
        raise Unreadable("input", "missing")
    for field in fields:
        items = value.get(field)
        if isinstance(items, str):
            yield field, {"type": "message", "role": "user", "content": items}
        elif isinstance(items, list):
            for place, item in enumerate(items):
                yield f"{field}[{place}]", item
        elif items is not None:
            raise Unreadable(field, f"no list of items but {type(items).__name__}")


class _Turn:
    """A turn of the model while its items come."""

    def __init__(self, builder: Builder) -> None:
        self.builder = builder
        self.thoughts: list[str] = []
        self.texts: list[str] = []
        self.calls: list[Call] = []

    def close(self) -> None:
        """Hand the turn over, if there is one."""
        if self.thoughts or self.texts or self.calls:
            self.builder.assistant(
                "\n".join(self.texts), thinking="\n\n".join(self.thoughts), calls=self.calls
            )
        self.thoughts, self.texts, self.calls = [], [], []


def _add(turn: _Turn, item: Any, field: str, row: Row, reading: Reading) -> None:
    if not isinstance(item, dict):
        raise Unreadable("", f"no item but {type(item).__name__}")
    kind = item.get("type", "message")
    match kind:
        case "message":
            _add_message(turn, item)
        case "reasoning":
            thought = thinking_of(item.get("content")) or thinking_of(item.get("summary"))
            if thought:  # else it is encrypted, or was never told
                turn.thoughts.append(thought)
        case "function_call":
            number = str(item.get("call_id") or item.get("id") or "")
            turn.calls.append(call_of(item.get("name"), item.get("arguments"), id=number))
        case "custom_tool_call":
            number = str(item.get("call_id") or item.get("id") or "")
            turn.calls.append(call_of(item.get("name"), {"input": item.get("input")}, id=number))
        case "function_call_output" | "custom_tool_call_output":
            turn.close()
            text, wire = result_text(item.get("output"))
            wrong = looks_like_error(text)
            turn.builder.result(
                text,
                call_id=str(item.get("call_id") or ""),
                is_error=wrong,
                error_class=ErrorClass.UNKNOWN if wrong else None,
                wire=wire,
            )
        case other:
            if not str(other).endswith("_call"):
                raise Unreadable("type", f"unknown item {str(other)[:40]!r}")
            reading.skip(row.where, field, f"a tool the provider ran itself ({other})")


def _add_message(turn: _Turn, item: dict[str, Any]) -> None:
    role, text = item.get("role"), text_of(item.get("content"))
    match role:
        case "assistant":
            turn.texts.append(text)
        case "user":
            turn.close()
            turn.builder.user(text)
        case "system" | "developer":
            turn.close()
            turn.builder.system(text)
        case _:
            raise Unreadable("role", f"unknown role {str(role)[:40]!r}")


def _sniff(value: Any) -> bool:
    items = value.get("items") or value.get("output") or value.get("input")
    return isinstance(items, list) and all(
        item.get("type", "message") in _ITEMS or str(item["type"]).endswith(("_call", "_output"))
        for item in items
    )


RESPONSES = Format(
    name="openai-responses",
    title="OpenAI Responses API: requests with their output items",
    read_row=read_responses,
    sniff=_sniff,
)
