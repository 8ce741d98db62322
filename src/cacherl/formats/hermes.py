"""Hermes function calling v1, and every chat that writes calls as `<tool_call>{...}</tool_call>`.

A row holds `conversations` with tags `system`, `human`, `gpt` and `tool`, and often `id`, `tools` (JSON
text), `category`, `subcategory` and `task`. Calls are JSON or Python's way of writing it; results stand in
`<tool_response>` blocks, several to an entry; reasoning in `<think>` or `<scratch_pad>`.

Source: NousResearch/hermes-function-calling-v1, data set card.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from cacherl.core.records import JsonObject
from cacherl.core.tools import ToolSpec
from cacherl.formats.conversation import Builder, Conversation
from cacherl.formats.declarations import specs_of
from cacherl.formats.format import Format, Reading
from cacherl.formats.prose import tools_apart
from cacherl.formats.rows import Row, Unreadable
from cacherl.formats.turns import AssistantTurn, answer, entries_of
from cacherl.formats.written_calls import tagged
from cacherl.formats.written_values import an_object, as_text, literal

NAME = "hermes"
LICENCE = "Apache-2.0"

_RESPONSE = re.compile(
    r"<tool_response>(.*?)(?:</tool_response>|(?=<tool_response>)|\Z)", re.DOTALL
)


def read_row(row: Row, reading: Reading) -> Iterator[Conversation]:
    """Yield the row's conversation.

    Raises:
        Unreadable: it is none.
    """
    value = an_object(row.value(), "")
    builder = Builder(row, format_name=NAME, namespace=reading.namespace)
    turn = AssistantTurn(builder)
    in_prose: list[ToolSpec] = []
    for entry in entries_of(value.get("conversations"), "conversations"):
        if entry.tag in ("gpt", "assistant"):
            said = tagged(entry.text)
            turn.add(said.content, thinking=said.thinking, calls=said.calls)
            continue
        turn.end()
        if entry.tag == "system":
            listed, rest = tools_apart(entry.text, f"{entry.field}.value")
            in_prose += listed
            builder.system(rest)
        elif entry.tag in ("human", "user"):
            builder.user(entry.text)
        elif entry.tag == "tool":
            for name, text in _responses(entry.text):
                answer(builder, text, name=name)
        else:
            raise Unreadable(f"{entry.field}.from", f"unknown tag {entry.tag!r}")
    turn.end()
    category = value.get("category")
    yield builder.build(
        task_id=reading.task_id(row, value.get("id")),
        tools=specs_of(value.get("tools"), "tools") or in_prose,
        family=category if isinstance(category, str) else "",
        language=reading.language,
        split=reading.split,
        policy=reading.policy,
        notes={"licence": LICENCE, **_notes(value)},
    )


def _responses(text: str) -> list[tuple[str, str]]:
    """Return name and text of every response in an entry; one without tags is one response."""
    blocks = [found[1].strip() for found in _RESPONSE.finditer(text)] or [text]
    return [_response(block) for block in blocks]


def _response(text: str) -> tuple[str, str]:
    try:
        value = literal(text)
    except ValueError:
        return "", text
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return "", text
    if value.keys() <= {"name", "content", "tool_call_id"} and "content" in value:
        return value["name"], as_text(value["content"])
    return value["name"], text


def _notes(value: JsonObject) -> JsonObject:
    return {
        name: value[name]
        for name in ("subcategory", "task", "source")
        if isinstance(value.get(name), str)
    }


def _sniff(value: Any) -> bool:
    entries = value["conversations"]
    marks = ("<tool_call>", "<tools>", "<tool_response>")
    return {"from", "value"} <= entries[0].keys() and any(
        mark in each["value"] for each in entries for mark in marks
    )


HERMES = Format(
    name=NAME,
    title="Hermes function calling v1, and other <tool_call> chats",
    licence=LICENCE,
    read_row=read_row,
    sniff=_sniff,
)
