"""ToolACE: synthetic dialogues over 26,507 APIs, with calls in brackets.

A row holds `system`, prose with the tools as JSON text inside it, and `conversations` with tags
`user`, `assistant` and `tool`. An assistant turn either is text or is nothing but calls:
`[Get Weather(city="Oslo"), Other Tool(n=2)]`; names hold spaces. One `tool` entry answers all calls of a
turn as a JSON list of `{"name": ..., "results": ...}`, which is shared out to them.

Source: Team-ACE/ToolACE, data set card.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from cacherl.core.messages import Call
from cacherl.formats.conversation import Builder, Conversation
from cacherl.formats.format import Format, Reading
from cacherl.formats.prose import tools_apart
from cacherl.formats.rows import Row, Unreadable
from cacherl.formats.turns import answer, entries_of
from cacherl.formats.written_calls import bracketed
from cacherl.formats.written_values import a_text, an_object, as_text, decoded

NAME = "toolace"
LICENCE = "Apache-2.0"


def read_row(row: Row, reading: Reading) -> Iterator[Conversation]:
    """Yield the row's conversation.

    Raises:
        Unreadable: it is none.
    """
    value = an_object(row.value(), "")
    tools, system = tools_apart(a_text(value.get("system"), "system"), "system")
    builder = Builder(row, format_name=NAME, namespace=reading.namespace)
    builder.system(system)
    names = [spec.name for spec in tools]
    waiting: Sequence[Call] = ()
    for entry in entries_of(value.get("conversations"), "conversations"):
        if entry.tag == "assistant":
            turn = bracketed(entry.text, names)
            builder.assistant(turn.content, calls=turn.calls)
            waiting = turn.calls
        elif entry.tag == "user":
            builder.user(entry.text)
        elif entry.tag == "tool":
            _answer(entry.text, len(waiting), builder)
        elif entry.tag == "system":
            builder.system(entry.text)
        else:
            raise Unreadable(f"{entry.field}.from", f"unknown tag {entry.tag!r}")
    yield builder.build(
        task_id=reading.task_id(row, value.get("id")),
        tools=tools,
        language=reading.language,
        split=reading.split,
        policy=reading.policy,
        notes={"licence": LICENCE},
    )


def _answer(text: str, calls: int, builder: Builder) -> None:
    try:
        value = decoded(text)
    except ValueError:
        value = None
    is_shared = isinstance(value, list) and len(value) == calls
    if not is_shared or not all(isinstance(e, dict) and "results" in e for e in value):
        answer(builder, text)
        return
    for each in value:
        name = each.get("name")
        answer(builder, as_text(each["results"]), name=name if isinstance(name, str) else "")


def _sniff(value: Any) -> bool:
    tags = {each["from"] for each in value["conversations"]}
    return isinstance(value["system"], str) and {"user", "assistant"} <= tags


TOOLACE = Format(
    name=NAME,
    title="ToolACE: synthetic dialogues over many APIs",
    licence=LICENCE,
    read_row=read_row,
    sniff=_sniff,
)
