"""Glaive function calling v2 and v1: one text a conversation.

v2 has columns `system` and `chat`, v1 one column `sample` that begins with the system prompt. Speakers stand at
the beginning of a line (`USER:`, `ASSISTANT:`, `FUNCTION RESPONSE:`), model turns end in `<|endoftext|>`. A
call is `<functioncall> {"name": "f", "arguments": '{"who": "O'Hara"}'}`; functions stand one after
the other as JSON in the system prompt.

Source: glaiveai/glaive-function-calling-v2 (Apache-2.0), glaiveai/glaive-function-calling (CC-BY-4.0).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from cacherl.formats.conversation import Builder, Conversation
from cacherl.formats.format import Format, Reading
from cacherl.formats.prose import tools_apart
from cacherl.formats.rows import Row, Unreadable
from cacherl.formats.turns import AssistantTurn, answer
from cacherl.formats.written_calls import glaive
from cacherl.formats.written_values import a_text, an_object

NAME = "glaive"
LICENCE = "Apache-2.0"
LICENCE_OF_V1 = "CC-BY-4.0"

# A blank line before the speaker, so that a play or a transcript inside a turn stays in it; v1 writes none.
_SPEAKER = re.compile(r"(?:\A\s*|\n\s*\n\s*)(USER|ASSISTANT|FUNCTION RESPONSE):[ \t]*")
_SPEAKER_OF_V1 = re.compile(r"(?:\A\s*|\n\s*)(SYSTEM|USER|ASSISTANT|FUNCTION RESPONSE):[ \t]*")
_END = "<|endoftext|>"


def read_row(row: Row, reading: Reading) -> Iterator[Conversation]:
    """Yield the row's conversation.

    Raises:
        Unreadable: it is none.
    """
    value = an_object(row.value(), "")
    is_v1 = "chat" not in value and "sample" in value
    field = "sample" if is_v1 else "chat"
    chat = a_text(value.get(field), field)
    prompt = a_text(value.get("system"), "system")
    start, *spoken = (_SPEAKER_OF_V1 if is_v1 else _SPEAKER).split(chat)
    if start.strip():
        raise Unreadable(field, f"begins with {start.strip()[:40]!r} and no speaker")
    builder = Builder(row, format_name=NAME, namespace=reading.namespace)
    turn = AssistantTurn(builder)
    says = list(zip(spoken[::2], spoken[1::2], strict=True))
    if says and says[0][0] == "SYSTEM":
        prompt = says.pop(0)[1]
    tools, system = tools_apart(prompt.strip().removeprefix("SYSTEM:").strip(), "system")
    builder.system(system)
    for speaker, spoken_text in says:
        text = spoken_text.replace(_END, "").strip()
        if speaker == "ASSISTANT":
            said = glaive(text)
            turn.add(said.content, calls=said.calls)
            continue
        turn.end()
        if speaker == "USER":
            builder.user(text)
        elif speaker == "SYSTEM":
            builder.system(text)
        else:
            answer(builder, text)
    turn.end()
    yield builder.build(
        task_id=reading.task_id(row, value.get("id")),
        tools=tools,
        language=reading.language,
        split=reading.split,
        policy=reading.policy,
        notes={"licence": LICENCE_OF_V1 if is_v1 else LICENCE},
    )


def _sniff(value: Any) -> bool:
    if isinstance(value.get("sample"), str):
        return "ASSISTANT:" in value["sample"]
    return isinstance(value["system"], str) and "ASSISTANT:" in value["chat"]


GLAIVE = Format(
    name=NAME,
    title="Glaive function calling v2 and v1",
    licence=LICENCE,
    read_row=read_row,
    sniff=_sniff,
)
