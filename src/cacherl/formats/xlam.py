"""xLAM function-calling-60k: one question, the tools, the right calls; nothing is ever executed.

A row holds `id`, `query`, and `tools` and `answers` as JSON texts. A tool's parameters are listed by name
with Python types (`"type": "str, optional"`), not as JSON Schema. The answers were checked by running
them (people found over 95 % right), so they are the task's gold calls as well as the trajectory's;
what they returned is not in the data set.

Source: Salesforce/xlam-function-calling-60k, data set card.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cacherl.core.messages import ToolCall
from cacherl.core.tasks import AnswerRule, Gold, GoldCall
from cacherl.formats.conversation import Builder, Conversation
from cacherl.formats.declarations import specs_of
from cacherl.formats.format import Format, Reading
from cacherl.formats.rows import Row, Unreadable
from cacherl.formats.written_calls import call_in
from cacherl.formats.written_values import a_list, a_text, an_object, as_text

NAME = "xlam"
LICENCE = "CC-BY-4.0"


def read_row(row: Row, reading: Reading) -> Iterator[Conversation]:
    """Yield the row's question with its calls.

    Raises:
        Unreadable: it has no question or no answers.
    """
    value = an_object(row.value(), "")
    question = a_text(value.get("query"), "query")
    if not question:
        raise Unreadable("query", "missing")
    answers = a_list(value.get("answers"), "answers")
    calls = [call_in(each, as_text(each)) for each in answers]
    builder = Builder(row, format_name=NAME, namespace=reading.namespace)
    builder.user(question)
    builder.assistant("", calls=calls)
    gold = tuple(
        GoldCall(name=call.name, arguments=call.arguments)
        for call in calls
        if isinstance(call, ToolCall)
    )
    yield builder.build(
        task_id=reading.task_id(row, value.get("id")),
        tools=specs_of(value.get("tools"), "tools"),
        language=reading.language,
        split=reading.split,
        policy=reading.policy,
        gold=Gold(calls=gold, answer=AnswerRule(), state="") if len(gold) == len(calls) else None,
        notes={"licence": LICENCE, "executed": False},
    )


def _sniff(value: Any) -> bool:
    return bool({"query", "tools", "answers"} <= value.keys())


XLAM = Format(
    name=NAME,
    title="xLAM function-calling-60k: single questions and their calls (Salesforce)",
    licence=LICENCE,
    warning="xLAM rows hold calls without results: nothing of them can be replayed.",
    read_row=read_row,
    sniff=_sniff,
)
