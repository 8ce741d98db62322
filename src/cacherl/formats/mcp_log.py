"""MCP logs: lines of JSON-RPC, as a client, a server or a proxy wrote them.

`tools/list` declares tools and, by `annotations`, what they read and write (hints, taken as such);
`tools/call` and the answer of the same id are one call. A line may be the message itself or hold it
under `message`, `data`, `payload` or `msg`. `initialize` begins a session, and a session is one
conversation. Nobody's words are in such a log, so every conversation has the same placeholder for a user turn
and its note says `only_calls`: good for a cache, not for training.

Calls stand in the order of their answers; those never answered or cancelled come last. Ids of the server's
own requests (sampling, roots) may repeat a client's: an answer that is no tool result is not taken for
one. Memory holds one session.

Source: Model Context Protocol, 2025-11-25 and 2026-07-28.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from cacherl.core.errors import ToolError
from cacherl.core.messages import Call
from cacherl.core.records import JsonObject
from cacherl.core.tools import ErrorClass, ToolSpec
from cacherl.formats.conversation import Builder, Conversation, call_of
from cacherl.formats.declarations import spec_of
from cacherl.formats.format import Format, Reading
from cacherl.formats.rows import Row, Unreadable, rows_of
from cacherl.toolbox.mcp_results import effects_of, error_class_of, text_of, wire_of

NAME = "mcp-log"
NO_WORDS = "(This log holds tool calls and their answers only.)"

_WRAPPERS = ("message", "data", "payload", "msg")
_CODES = {
    -32700: ErrorClass.VALIDATION,
    -32600: ErrorClass.VALIDATION,
    -32601: ErrorClass.NOT_FOUND,
    -32602: ErrorClass.VALIDATION,
}


def read_file(path: Path, reading: Reading) -> Iterator[Conversation]:
    """Yield a conversation a session that called any tool."""
    session: _Session | None = None
    for row in rows_of(path, on_skip=reading.on_skip):
        try:
            messages = _messages(row.value())
        except Unreadable as error:
            reading.skip(row.where, error.field, error.problem)
            continue
        for message in messages:
            if session is None or message.get("method") == "initialize":
                if session is not None:
                    yield from session.conversation(reading)
                session = _Session(row)
            try:
                session.take(message)
            except Unreadable as error:
                reading.skip(row.where, error.field, error.problem)
    if session is not None:
        yield from session.conversation(reading)


def _messages(value: Any) -> list[JsonObject]:
    """Return the JSON-RPC messages of a row; a batch holds several.

    Raises:
        Unreadable: there is none.
    """
    if isinstance(value, list):
        return [message for each in value for message in _messages(each)]
    if isinstance(value, dict):
        if value.get("jsonrpc") == "2.0":
            return [value]
        for name in _WRAPPERS:
            inner = value.get(name)
            if isinstance(inner, str):
                try:
                    inner = msgspec.json.decode(inner)
                except (msgspec.DecodeError, RecursionError):
                    continue
            if isinstance(inner, dict) and inner.get("jsonrpc") == "2.0":
                return [inner]
    raise Unreadable("jsonrpc", "no JSON-RPC message")


class _Session:
    """The calls of one session as they come and are answered."""

    def __init__(self, row: Row) -> None:
        self._row = row
        self._tools: dict[str, ToolSpec] = {}
        self._open: dict[str, Call] = {}
        self._lost: list[Call] = []
        self._listing: set[str] = set()
        self._answered: list[tuple[Call, JsonObject]] = []
        self._client: JsonObject = {}

    def take(self, message: JsonObject) -> None:
        """Take the next message.

        Raises:
            Unreadable: it is a listing or a call that cannot be read.
        """
        method, number = message.get("method"), _id(message.get("id"))
        params = message.get("params")
        said = params if isinstance(params, dict) else {}
        if method == "tools/call":
            if number in self._open:  # an id that comes again before its answer
                self._lost.append(self._open.pop(number))
            self._open[number] = call_of(said.get("name"), said.get("arguments"), id=number)
        elif method == "tools/list":
            self._listing.add(number)
        elif method == "initialize":
            info = said.get("clientInfo")
            self._client = info if isinstance(info, dict) else {}
        elif method is None and number in self._listing and _has(message, "tools"):
            self._listing.discard(number)
            self._declare(message["result"]["tools"])
        elif method is None and number in self._open:
            self._answer(number, message)

    def _declare(self, tools: Any) -> None:
        if not isinstance(tools, list):
            raise Unreadable("result.tools", "no list")
        for place, tool in enumerate(tools):
            field = f"result.tools[{place}]"
            spec = spec_of(tool, field)
            try:
                effects = effects_of(tool)
            except ToolError as error:
                raise Unreadable(f"{field}._meta", str(error)) from error
            self._tools[spec.name] = msgspec.structs.replace(spec, effects=effects)

    def _answer(self, number: str, message: JsonObject) -> None:
        is_tools = _has(message, "content") or _has(message, "structuredContent")
        if is_tools or isinstance(message.get("error"), dict):
            self._answered.append((self._open.pop(number), message))

    def conversation(self, reading: Reading) -> Iterator[Conversation]:
        """Yield the session's conversation, if it called any tool."""
        if not self._answered and not self._open and not self._lost:
            return
        builder = Builder(self._row, format_name=NAME, namespace=reading.namespace)
        builder.user(NO_WORDS)
        for call, message in self._answered:
            builder.assistant("", calls=[call])
            error = message.get("error")
            if isinstance(error, dict):
                text = str(error.get("message", ""))
                code = error.get("code")
                kind = _CODES.get(code) if isinstance(code, int) else None
                builder.result(
                    text, call_id=call.id, is_error=True, error_class=kind or error_class_of(text)
                )
                continue
            result = message["result"]
            text, failed = text_of(result), result.get("isError") is True
            builder.result(
                text,
                call_id=call.id,
                is_error=failed,
                error_class=error_class_of(text) if failed else None,
                wire=wire_of(result),
            )
        for call in (*self._lost, *self._open.values()):
            builder.assistant("", calls=[call])
        client = self._client.get("name")
        yield builder.build(
            task_id=reading.task_id(self._row),
            tools=self._tools.values(),
            language=reading.language,
            split=reading.split,
            policy=reading.policy or (client if isinstance(client, str) else ""),
            notes={"only_calls": True},
        )


def _has(message: JsonObject, name: str) -> bool:
    result = message.get("result")
    return isinstance(result, dict) and name in result


def _id(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _sniff(value: Any) -> bool:
    return bool(_messages(value))


MCP_LOG = Format(
    name=NAME,
    title="MCP logs: lines of JSON-RPC",
    warning="A JSON-RPC log holds no words of a user: use it as a cache, not as training data.",
    read_file=read_file,
    sniff=_sniff,
)
