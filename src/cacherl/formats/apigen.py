"""APIGen-MT-5k: multi-turn conversations in the worlds of tau-bench, retail and airline.

A row holds `conversations` with tags `human`, `gpt`, `function_call` and `observation`, `tools` as
JSON text and `system`. The tool `think` carries reasoning and answers nothing: its thought becomes
the thinking of the turn it opens, its empty observation and its declaration are left out, and the note
`thoughts` counts them.

The data set is for research only (CC-BY-NC-4.0) and gated: nobody may train a product on it.

Source: Salesforce/APIGen-MT-5k, data set card.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cacherl.core.messages import Call, ToolCall
from cacherl.formats.conversation import Builder, Conversation
from cacherl.formats.declarations import specs_of
from cacherl.formats.format import Format, Reading
from cacherl.formats.rows import Row, Unreadable
from cacherl.formats.turns import AssistantTurn, answer, entries_of
from cacherl.formats.written_calls import call_in
from cacherl.formats.written_values import a_text, an_object, as_text, literal

NAME = "apigen-mt"
LICENCE = "CC-BY-NC-4.0"
THINK = "think"


def read_row(row: Row, reading: Reading) -> Iterator[Conversation]:
    """Yield the row's conversation.

    Raises:
        Unreadable: it is none.
    """
    value = an_object(row.value(), "")
    builder = Builder(row, format_name=NAME, namespace=reading.namespace)
    builder.system(a_text(value.get("system"), "system"))
    turn = AssistantTurn(builder)
    thoughts = 0
    is_thought = False  # the last entry was one, so its observation follows
    for entry in entries_of(value.get("conversations"), "conversations"):
        if entry.tag == "function_call":
            call = _call(entry.text)
            thought = _thought(call)
            is_thought = thought is not None
            thoughts += is_thought
            turn.add(thinking=thought, calls=() if is_thought else (call,))
            continue
        if entry.tag == "observation" and is_thought:
            is_thought = False
            continue
        is_thought = False
        if entry.tag == "gpt":
            turn.add(entry.text)
            continue
        turn.end()
        if entry.tag == "human":
            builder.user(entry.text)
        elif entry.tag == "observation":
            answer(builder, entry.text)
        elif entry.tag == "system":
            builder.system(entry.text)
        else:
            raise Unreadable(f"{entry.field}.from", f"unknown tag {entry.tag!r}")
    turn.end()
    tools = [spec for spec in specs_of(value.get("tools"), "tools") if spec.name != THINK]
    yield builder.build(
        task_id=reading.task_id(row, value.get("id")),
        tools=tools,
        language=reading.language,
        split=reading.split,
        policy=reading.policy,
        notes={"licence": LICENCE, **({"thoughts": thoughts} if thoughts else {})},
    )


def _call(text: str) -> Call:
    try:
        return call_in(literal(text), text)
    except ValueError:
        return call_in(None, text)


def _thought(call: Call) -> str | None:
    """Return the reasoning of a `think` call, or None where it is any other call."""
    if isinstance(call, ToolCall) and call.name == THINK:
        thought = call.arguments.get("thought", "")
        if isinstance(thought, str):
            return thought
    return None


def _sniff(value: Any) -> bool:
    tags = {each["from"] for each in value["conversations"]}
    # In all else it is ShareGPT.
    return "function_call" in tags and f'"{THINK}"' in as_text(value["tools"])


APIGEN_MT = Format(
    name=NAME,
    title="APIGen-MT-5k: multi-turn retail and airline conversations (Salesforce)",
    licence=LICENCE,
    warning="APIGen-MT-5k is CC-BY-NC-4.0 and gated: research only, no product may be trained on it.",
    read_row=read_row,
    sniff=_sniff,
)
