"""Toucan-1.5M: agents on 495 real MCP servers.

Columns are texts: `uuid, subset_name, messages, question, available_tools, target_tools,
question_quality_assessment, response_quality_assessment, metadata`. Messages are those of Qwen-Agent
(`function_call` on an assistant message, role `function` for its result, `reasoning_content`), one message
for each parallel call; the SFT configuration has roles `tool_call` and `tool_response` instead.

Tools that only `metadata` declares carry no server prefix there and one in the calls (except in the OSS
configuration): then the tools of that server get the prefix as well.

Source: Agent-Ark/Toucan-1.5M, data set card; TheAgentArk/Toucan, datagen.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from cacherl.core.messages import Call, ToolCall
from cacherl.core.records import JsonObject
from cacherl.core.tools import ToolSpec
from cacherl.formats.conversation import Builder, Conversation, call_of
from cacherl.formats.declarations import spec_of, specs_of
from cacherl.formats.format import Format, Reading
from cacherl.formats.rows import Row, Unreadable
from cacherl.formats.turns import AssistantTurn, answer
from cacherl.formats.written_calls import call_in, thought_apart
from cacherl.formats.written_values import (
    a_list,
    a_text,
    an_object,
    content_text,
    literal,
    unpacked,
)

NAME = "toucan"
LICENCE = "Apache-2.0"


def read_row(row: Row, reading: Reading) -> Iterator[Conversation]:
    """Yield the row's conversation.

    Raises:
        Unreadable: it is none.
    """
    value = an_object(row.value(), "")
    builder = Builder(row, format_name=NAME, namespace=reading.namespace)
    turn = AssistantTurn(builder)
    called: list[Call] = []
    for place, each in enumerate(a_list(value.get("messages"), "messages")):
        called += _said(each, f"messages[{place}]", builder, turn)
    turn.end()
    family = value.get("subset_name")
    yield builder.build(
        task_id=reading.task_id(row, value.get("uuid")),
        tools=_tools(value, [call.name for call in called if isinstance(call, ToolCall)]),
        family=family if isinstance(family, str) else "",
        language=reading.language,
        split=reading.split,
        policy=reading.policy,
        notes={"licence": LICENCE, **_scores(value)},
    )


def _said(each: Any, field: str, builder: Builder, turn: AssistantTurn) -> list[Call]:
    """Hand one message to the builder and return the calls it makes."""
    message = an_object(each, field)
    role = message.get("role")
    content = content_text(message.get("content"), f"{field}.content")
    if role == "assistant":
        thinking, rest = thought_apart(content)
        told = a_text(message.get("reasoning_content"), f"{field}.reasoning_content") or thinking
        calls = []
        if message.get("function_call") is not None:
            call = an_object(message["function_call"], f"{field}.function_call")
            calls.append(call_of(call.get("name"), call.get("arguments")))
        turn.add(rest, thinking=told, calls=calls)
        return calls
    if role == "tool_call":
        made = [_written(content)]
        turn.add(calls=made)
        return list(made)
    turn.end()
    if role in ("function", "tool", "tool_response"):
        name = message.get("name")
        answer(builder, content, name=name if isinstance(name, str) else "")
    elif role == "user":
        builder.user(content)
    elif role == "system":
        builder.system(content)
    else:
        raise Unreadable(f"{field}.role", f"unknown role {role!r}")
    return []


def _written(text: str) -> Call:
    try:
        return call_in(literal(text), text)
    except ValueError:
        return call_in(None, text)


def _tools(value: JsonObject, called: list[str]) -> list[ToolSpec]:
    if value.get("available_tools"):
        return list(specs_of(value["available_tools"], "available_tools"))
    metadata = unpacked(value.get("metadata"), "metadata")
    servers = metadata.get("mcp_servers") if isinstance(metadata, dict) else None
    declared: list[tuple[str, ToolSpec]] = []
    for place, server in enumerate(servers if isinstance(servers, list) else []):
        answer = server.get("remote_server_response") if isinstance(server, dict) else None
        tools = answer.get("tools") if isinstance(answer, dict) else None
        field = f"metadata.mcp_servers[{place}].remote_server_response.tools"
        for number, tool in enumerate(tools if isinstance(tools, list) else []):
            name = server.get("server_name")
            server_name = name if isinstance(name, str) else ""
            declared.append((_bare(server_name), spec_of(tool, f"{field}[{number}]")))
    prefixes = {}
    names = {spec.name for _, spec in declared}
    for name in dict.fromkeys(called):
        ends = [(s, spec.name) for s, spec in declared if name.endswith(f"-{spec.name}")]
        if name in names or not ends:
            continue
        # Where two servers have it, the one whose name the prefix is; else the longest tool name.
        server_name, tool_name = max(
            ends,
            key=lambda end: (_bare(name.removesuffix(f"-{end[1]}")) == end[0], len(end[1])),
        )
        prefixes[server_name] = name.removesuffix(tool_name)
    return [
        msgspec.structs.replace(spec, name=f"{prefixes.get(server_name, '')}{spec.name}")
        for server_name, spec in declared
    ]


def _bare(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "", name.lower())


def _scores(value: JsonObject) -> JsonObject:
    """Return what judges said of the row: numbers only, their reasons stay behind."""
    scores: JsonObject = {}
    for column, word in (
        ("question_quality_assessment", "question"),
        ("response_quality_assessment", "response"),
    ):
        try:
            said = unpacked(value.get(column), column)
        except Unreadable:
            continue
        for name, each in said.items() if isinstance(said, dict) else ():
            score = each.get("score") if isinstance(each, dict) else each
            if isinstance(score, int | float):
                scores[f"{word}_{name}"] = score
    targets = value.get("target_tools")
    return {
        **({"scores": scores} if scores else {}),
        **({"target_tools": targets} if isinstance(targets, str) and targets else {}),
    }


def _sniff(value: Any) -> bool:
    return {"uuid", "messages"} <= value.keys() and not value.keys().isdisjoint(
        {"target_tools", "subset_name"}
    )


TOUCAN = Format(
    name=NAME,
    title="Toucan-1.5M: agents on real MCP servers (Agent-Ark)",
    licence=LICENCE,
    read_row=read_row,
    sniff=_sniff,
)
