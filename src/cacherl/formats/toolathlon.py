"""Toolathlon trajectories: long agent runs on real applications, one file a model and run.

A row holds `modelname_run, task_name, task_status, config, messages, tool_calls, key_stats, agent_cost,
request_id, initial_run_time, completion_time`; nested parts stand as JSON texts. Messages are OpenAI
chat. `task_status.evaluation` is true where the run passed; it is kept as the note `passed`. Rows that
never ran are null and are skipped.

Source: hkust-nlp/Toolathlon-Trajectories, data set card.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cacherl.core.messages import Call
from cacherl.core.records import JsonObject
from cacherl.core.tools import ToolSpec
from cacherl.formats.conversation import Builder, Conversation, call_of
from cacherl.formats.declarations import specs_of
from cacherl.formats.format import Format, Reading
from cacherl.formats.rows import Row, Unreadable
from cacherl.formats.turns import answer
from cacherl.formats.written_calls import thought_apart
from cacherl.formats.written_values import a_list, a_text, an_object, content_text, unpacked

NAME = "toolathlon"
LICENCE = "CC-BY-4.0"


def read_row(row: Row, reading: Reading) -> Iterator[Conversation]:
    """Yield the row's conversation.

    Raises:
        Unreadable: it is none, or the run left no messages.
    """
    said = row.value()
    if said is None:
        raise Unreadable("", "null: the run left nothing")
    value = an_object(said, "")
    if unpacked(value.get("messages"), "messages") is None:
        raise Unreadable("messages", "null: the run left no conversation")
    builder = Builder(row, format_name=NAME, namespace=reading.namespace)
    for place, each in enumerate(a_list(value["messages"], "messages")):
        _said(an_object(each, f"messages[{place}]"), f"messages[{place}]", builder)
    task = value.get("task_name")
    model = value.get("modelname_run")
    yield builder.build(
        task_id=reading.task_id(row, task),
        tools=_tools(value),
        family=task if isinstance(task, str) else "",
        language=reading.language,
        split=reading.split,
        rollout=_run(model),
        policy=reading.policy or (model if isinstance(model, str) else ""),
        notes={"licence": LICENCE, **_notes(value)},
    )


def _run(model: Any) -> int:
    """Return the number at the end of `claude-4.5-sonnet_2`."""
    tail = model.rpartition("_")[2] if isinstance(model, str) else ""
    return int(tail) if tail.isascii() and tail.isdigit() and len(tail) < 6 else 0


def _said(message: JsonObject, field: str, builder: Builder) -> None:
    role = message.get("role")
    content = content_text(message.get("content"), f"{field}.content")
    if role == "assistant":
        thinking, rest = thought_apart(content)
        told = a_text(message.get("reasoning_content"), f"{field}.reasoning_content")
        calls = unpacked(message.get("tool_calls"), f"{field}.tool_calls") or []
        made = [
            _call(each, f"{field}.tool_calls[{place}]")
            for place, each in enumerate(a_list(calls, f"{field}.tool_calls"))
        ]
        builder.assistant(rest, thinking=told or thinking, calls=made)
    elif role == "tool":
        number, name = message.get("tool_call_id"), message.get("name")
        answer(
            builder,
            content,
            call_id=number if isinstance(number, str) else "",
            name=name if isinstance(name, str) else "",
        )
    elif role == "user":
        builder.user(content)
    elif role in ("system", "developer"):
        builder.system(content)
    else:
        raise Unreadable(f"{field}.role", f"unknown role {role!r}")


def _call(value: Any, field: str) -> Call:
    call = an_object(value, field)
    function = an_object(call.get("function", call), f"{field}.function")
    number = call.get("id")
    return call_of(
        function.get("name"),
        function.get("arguments"),
        id=number if isinstance(number, str) else "",
    )


def _tools(value: JsonObject) -> list[ToolSpec]:
    """Return the tools that the row's `tool_calls` or `config` declares, if either does."""
    for column in ("tool_calls", "config"):
        try:
            said = unpacked(value.get(column), column)
        except Unreadable:
            continue
        tools = said.get("tools") if isinstance(said, dict) else None
        if isinstance(tools, list):
            return list(specs_of(tools, f"{column}.tools"))
    return []


def _notes(value: JsonObject) -> JsonObject:
    notes: JsonObject = {}
    status = unpacked(value.get("task_status"), "task_status")
    if isinstance(status, dict):
        if isinstance(status.get("evaluation"), bool):
            notes["passed"] = status["evaluation"]
        notes["status"] = {
            name: said for name, said in status.items() if isinstance(said, str | bool)
        }
    for name in ("request_id", "initial_run_time", "completion_time"):
        if isinstance(value.get(name), str):
            notes[name] = value[name]
    return notes


def _sniff(value: Any) -> bool:
    return bool({"modelname_run", "task_name", "messages"} <= value.keys())


TOOLATHLON = Format(
    name=NAME,
    title="Toolathlon trajectories: long runs on real applications",
    licence=LICENCE,
    read_row=read_row,
    sniff=_sniff,
    trials=True,
)
