"""OpenTelemetry traces of agents: GenAI spans, and those of OpenInference.

A file is OTLP JSON (`resourceSpans` > `scopeSpans` > `spans`; one export, or one a line, as the collector's
file exporter writes them), or one flat span a line or element, as SDK console exporters print them.
Attributes are typed values (`{"stringValue": ...}`) or plain ones; structured attributes may be JSON texts.

Spans of one trace stand anywhere in a file. Those of agents are therefore copied to a temporary SQLite file and
read back by conversation: disk grows with them, memory only with the largest conversation. Spans
belong together by `gen_ai.conversation.id`, else by the one another span of their trace has, else by trace.

A `chat` span holds the history so far and what the model said. Spans whose history begins with all that an
earlier span held continue its conversation, others (a sub-agent, a summarised history) begin one of
their own: `#2`, `#3`. `execute_tool` spans add results that no history shows, errors, and, where spans
hold no messages at all, the bare calls. Contents are opt-in in every instrumentation; what lacks them
is reported.

Not read: messages as span events or log records (conventions before 1.37), images and sound, calls that the
provider ran on its own server.

Conventions: GenAI semantic conventions (Development) as of semantic-conventions-genai commit 9430220, beside
semantic conventions 1.41.1; message schema `gen-ai-input-messages.json` of commit b49cb9d. OpenInference:
attributes `llm.input_messages.N...`, `llm.output_messages.N...`, `llm.tools.N...`, `tool.name`.
"""

from __future__ import annotations

import re
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from cacherl.core.records import JsonObject
from cacherl.core.tools import ErrorClass, ToolSpec
from cacherl.formats.conversation import Builder, Conversation, call_of
from cacherl.formats.declarations import specs_of
from cacherl.formats.format import Format, Reading
from cacherl.formats.rows import Row, Unreadable, rows_of
from cacherl.formats.written_values import a_count, as_text, decoded
from cacherl.toolbox.mcp_results import error_class_of

NAME = "otel"
ROWS = "resourceSpans"
NO_WORDS = "(This trace holds tool calls and their answers only.)"
OPT_IN = "content attributes are opt-in and missing: switch on the capture of message content"

_CHAT = ("chat", "generate_content", "text_completion")
_AGENT = ("invoke_agent", "create_agent", "invoke_workflow")
_TOOL = "execute_tool"
_KINDS = {"LLM": "chat", "TOOL": _TOOL, "AGENT": "invoke_agent"}
_MAX_DEPTH = 100


def read_file(path: Path, reading: Reading) -> Iterator[Conversation]:
    """Yield the conversations of a file of traces, in the order in which they begin in it."""
    with (
        tempfile.TemporaryDirectory(prefix="cacherl-otel-") as folder,
        _Spans(Path(folder) / "spans.sqlite") as spans,
    ):
        for row in rows_of(path, under=ROWS, on_skip=reading.on_skip):
            try:
                for span in spans_in(row.value(), row.where, reading):
                    spans.add(span, row.where)
            except Unreadable as error:
                reading.skip(row.where, error.field, error.problem)
        for name, where, group in spans.groups():
            yield from _conversations(name, where, group, reading)


# ---- spans -------------------------------------------------------------------------------------


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """What we use of a span, with plain attributes."""

    trace: str
    name: str
    start: int
    """Nanoseconds since 1970."""
    failed: bool
    attributes: JsonObject

    def operation(self) -> str:
        """Return what the span is of: a GenAI operation, or empty for anything else."""
        said = self.attributes.get("gen_ai.operation.name")
        if isinstance(said, str):
            return said
        kind = self.attributes.get("openinference.span.kind")
        return _KINDS.get(kind, "") if isinstance(kind, str) else ""


def spans_in(
    value: Any, where: str, reading: Reading, within: str = "", depth: int = 0
) -> Iterator[Span]:
    """Yield the agents' spans of an export, of a part of one, or of a span alone.

    What is no span inside an export is reported, and the others are read.

    Raises:
        Unreadable: the value as a whole is none of these.
    """
    if not isinstance(value, dict):
        raise Unreadable("", "neither a span nor an export of spans")
    for inner in ("resourceSpans", "scopeSpans", "instrumentationLibrarySpans", "spans"):
        held = value.get(inner)
        if not isinstance(held, list) or depth > 3:
            continue
        for place, each in enumerate(held):
            here = f"{within}{inner}[{place}]"
            try:
                yield from spans_in(each, where, reading, f"{here}.", depth + 1)
            except Unreadable as error:
                reading.skip(where, f"{here}.{error.field}".rstrip("."), error.problem)
        return
    span = _span(value)
    if span.operation() in (*_CHAT, *_AGENT, _TOOL):
        yield span


def _span(value: JsonObject) -> Span:
    context = value.get("context")
    context = context if isinstance(context, dict) else {}
    trace = next(
        (
            said
            for holder in (value, context)
            for name in ("traceId", "trace_id")
            if isinstance(said := holder.get(name), str)
        ),
        None,
    )
    if trace is None:
        raise Unreadable("traceId", "no span: it has no trace id")
    name, status = value.get("name"), value.get("status")
    code = status.get("code", status.get("status_code")) if isinstance(status, dict) else None
    attributes = _attributes(value.get("attributes") or {})
    return Span(
        trace=trace,
        name=name if isinstance(name, str) else "",
        start=_nanoseconds(value),
        failed=code in (2, "STATUS_CODE_ERROR", "ERROR") or "error.type" in attributes,
        attributes=attributes,
    )


def _nanoseconds(value: JsonObject) -> int:
    """Return when a span began: OTLP's nanoseconds as text or number, or an SDK's ISO 8601."""
    for name in ("startTimeUnixNano", "start_time_unix_nano", "start_time", "startTime"):
        said = value.get(name)
        if isinstance(said, int) and not isinstance(said, bool):
            return min(max(said, 0), 2**63 - 1)
        if isinstance(said, str) and said.isascii() and said.isdigit():
            return min(int(said[:24]), 2**63 - 1)
        if isinstance(said, str):
            try:
                moment = msgspec.convert(said, datetime)
            except msgspec.ValidationError:
                continue
            moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            return int(moment.timestamp() * 1_000_000) * 1000
    return 0


def _attributes(value: Any) -> JsonObject:
    """Return attributes as plain values: OTLP's list of key and typed value, or a mapping."""
    if isinstance(value, list):
        return {
            each["key"]: _plain(each.get("value"), 0)
            for each in value
            if isinstance(each, dict) and isinstance(each.get("key"), str)
        }
    if isinstance(value, dict):
        return {name: _plain(each, 0) for name, each in value.items()}
    raise Unreadable("attributes", "neither a list nor a mapping")


_TYPED = ("stringValue", "boolValue", "doubleValue", "bytesValue")


def _plain(value: Any, depth: int) -> Any:
    if not isinstance(value, dict) or len(value) != 1 or depth > _MAX_DEPTH:
        return value
    ((kind, inner),) = value.items()
    if kind in _TYPED:
        return inner
    if kind == "intValue":
        try:
            return int(inner)
        except (TypeError, ValueError):
            return None
    values = inner.get("values") if isinstance(inner, dict) else None
    listed = values if isinstance(values, list) else []
    if kind == "arrayValue":
        return [_plain(each, depth + 1) for each in listed]
    if kind == "kvlistValue":
        return {
            each["key"]: _plain(each.get("value"), depth + 1)
            for each in listed
            if isinstance(each, dict) and isinstance(each.get("key"), str)
        }
    return value


class _Spans:
    """The agents' spans of a file, on disk, by conversation."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.executescript(
            "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-16384;"
            "CREATE TABLE span (trace TEXT, conversation TEXT, start INTEGER, place TEXT, body BLOB);"
            "BEGIN"
        )

    def __enter__(self) -> _Spans:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def add(self, span: Span, where: str) -> None:
        said = span.attributes.get("gen_ai.conversation.id", span.attributes.get("session.id"))
        self._database.execute(
            "INSERT INTO span VALUES (?, ?, ?, ?, ?)",
            (
                span.trace,
                said if isinstance(said, str) and said else None,
                span.start,
                where,
                msgspec.json.encode(span),
            ),
        )

    def groups(self) -> Iterator[tuple[str, str, list[Span]]]:
        """Yield the conversations: name, where it begins in the file, its spans by start."""
        self._database.executescript(
            "CREATE TABLE of_trace AS SELECT trace, max(conversation) AS conversation FROM span"
            " WHERE conversation IS NOT NULL GROUP BY trace;"
            "CREATE UNIQUE INDEX of_trace_key ON of_trace (trace);"
            "CREATE TABLE placed AS SELECT span.rowid AS number, span.start AS start,"
            " coalesce(span.conversation, of_trace.conversation, span.trace) AS name"
            " FROM span LEFT JOIN of_trace USING (trace);"
            "CREATE INDEX placed_key ON placed (name, start, number);"
            "CREATE TABLE named AS SELECT name, min(number) AS first FROM placed GROUP BY name"
        )
        for name, first in self._database.execute("SELECT name, first FROM named ORDER BY first"):
            rows = self._database.execute(
                "SELECT span.body FROM placed JOIN span ON span.rowid = placed.number"
                " WHERE placed.name = ? ORDER BY placed.start, placed.number",
                (name,),
            )
            spans = [msgspec.json.decode(body, type=Span) for (body,) in rows]
            ((where,),) = self._database.execute("SELECT place FROM span WHERE rowid = ?", (first,))
            yield name, where, spans


# ---- messages ----------------------------------------------------------------------------------


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One part of a message, of the kinds that we read."""

    kind: str
    """`text`, `reasoning`, `call` or `result`."""
    text: str = ""
    """Words, or a tool's answer."""
    id: str = ""
    name: str = ""
    arguments: Any = None


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """One message of a history."""

    role: str
    parts: tuple[Part, ...]

    def gist(self) -> tuple[Any, ...]:
        """Return what stays the same when a client sends the message again: no reasoning, no ids."""
        kept = [
            (part.kind, part.text.strip(), part.name, as_text(part.arguments))
            for part in self.parts
            if part.kind in ("call", "result") or (part.kind == "text" and part.text.strip())
        ]
        return (self.role if self.role != "tool" else "user", *kept)


def _structured(value: Any, name: str) -> Any:
    if isinstance(value, str):
        try:
            return decoded(value)
        except ValueError as error:
            raise Unreadable(name, f"no JSON ({error})") from error
    return value


def _messages(span: Span, side: str) -> list[Said]:
    """Return the span's input or output messages; none where their capture was off."""
    name = f"gen_ai.{side}.messages"
    value = _structured(span.attributes.get(name), name)
    if value is None:
        return _flat_messages(span.attributes, f"llm.{side}_messages.")
    if not isinstance(value, list):
        raise Unreadable(name, "no list")
    found = []
    for place, each in enumerate(value):
        here = f"{name}[{place}]"
        if not isinstance(each, dict) or not isinstance(each.get("role"), str):
            raise Unreadable(here, "no message with a role")
        parts = each.get("parts", each.get("content"))
        listed = parts if isinstance(parts, list) else [parts] if isinstance(parts, str) else []
        found.append(
            Said(role=each["role"], parts=tuple(p for part in listed if (p := _part(part))))
        )
    return found


def _part(part: Any) -> Part | None:
    if isinstance(part, str):
        return Part(kind="text", text=part)
    if not isinstance(part, dict):
        return None
    number = part.get("id")
    number = number.strip() if isinstance(number, str) else ""
    content = part.get("content")
    match part.get("type"):
        case "text":
            return Part(kind="text", text=as_text(content))
        case "reasoning" | "thinking":
            return Part(kind="reasoning", text=as_text(content))
        case "tool_call":
            name = part.get("name")
            return Part(
                kind="call",
                id=number,
                name=name if isinstance(name, str) else "",
                arguments=part.get("arguments"),
            )
        case "tool_call_response":
            answer = next((part[n] for n in ("response", "result") if n in part), content)
            return Part(kind="result", id=number, text=as_text(answer))
    return None


_FLAT = re.compile(r"(\d{1,6})\.message\.(.+)")
_FLAT_CALL = re.compile(r"tool_calls\.(\d{1,6})\.tool_call\.(.+)")
_FLAT_CONTENT = re.compile(r"contents\.(\d{1,6})\.message_content\.text")


def _flat_messages(attributes: JsonObject, prefix: str) -> list[Said]:
    """Return OpenInference's messages, which stand flattened: `llm.input_messages.0.message.role`."""
    found: dict[int, JsonObject] = {}
    for key, value in attributes.items():
        if key.startswith(prefix) and (matched := _FLAT.fullmatch(key.removeprefix(prefix))):
            found.setdefault(int(matched[1]), {})[matched[2]] = value
    said = []
    for _, fields in sorted(found.items()):
        role = as_text(fields.get("role"))
        texts = {0: as_text(fields.get("content"))}
        calls: dict[int, JsonObject] = {}
        for key, value in fields.items():
            if matched := _FLAT_CONTENT.fullmatch(key):
                texts[1 + int(matched[1])] = as_text(value)
            elif matched := _FLAT_CALL.fullmatch(key):
                calls.setdefault(int(matched[1]), {})[matched[2]] = value
        text = "\n".join(text for _, text in sorted(texts.items()) if text)
        if role == "tool":
            number = as_text(fields.get("tool_call_id"))
            parts = [Part(kind="result", id=number, text=text)]
        else:
            parts = [Part(kind="text", text=text)] if text else []
        parts += [
            Part(
                kind="call",
                id=as_text(call.get("id")),
                name=as_text(call.get("function.name")),
                arguments=call.get("function.arguments"),
            )
            for _, call in sorted(calls.items())
        ]
        said.append(Said(role=role, parts=tuple(parts)))
    return said


# ---- conversations -----------------------------------------------------------------------------


@dataclass(slots=True)
class _Chain:
    """One history as it grew."""

    said: list[Said]
    gists: list[tuple[Any, ...]]
    tools: dict[str, ToolSpec] = field(default_factory=dict)
    system: str = ""
    model: str = ""
    input_tokens: int = 0
    output_tokens: int = 0


def _conversations(
    name: str, where: str, spans: Sequence[Span], reading: Reading
) -> Iterator[Conversation]:
    row = Row(where, msgspec.json.encode(spans))
    try:
        chains, runs = _chains(spans), _runs(spans)
    except Unreadable as error:
        reading.skip(where, error.field, f"{error.problem} (conversation {name})")
        return
    if not chains:
        yield from _bare_calls(name, row, spans, runs, reading)
        return
    for number, chain in enumerate(chains):
        own = name if number == 0 else f"{name}#{number + 1}"
        try:
            yield _told(own, row, chain, runs, reading)
        except Unreadable as error:
            reading.skip(where, error.field, f"{error.problem} (conversation {own})")


def _chains(spans: Sequence[Span]) -> list[_Chain]:
    """Return the histories that the spans hold, each continued by the spans that begin with all of it.

    Spans of agents tell a history only where no chat span of the conversation does: they repeat it.
    """
    for operations in (_CHAT, _AGENT):
        chains: list[_Chain] = []
        for span in spans:
            if span.operation() in operations:
                _continue(chains, span)
        if chains:
            return chains
    return []


def _continue(chains: list[_Chain], span: Span) -> None:
    asked, answered = _messages(span, "input"), _messages(span, "output")
    if not asked and not answered:
        return
    gists = [message.gist() for message in asked]
    longest: _Chain | None = None
    for chain in chains:
        is_start = gists[: len(chain.gists)] == chain.gists and len(gists) > len(chain.gists)
        if is_start and (longest is None or len(chain.gists) > len(longest.gists)):
            longest = chain
    if longest is None:
        longest = _Chain([], [])
        chains.append(longest)
    # What the chain holds already has the reasoning that a history sent again lacks.
    longest.said += [*asked[len(longest.gists) :], *answered[:1]]  # other choices were not taken
    longest.gists = [message.gist() for message in longest.said]
    _note_span(longest, span)


def _note_span(chain: _Chain, span: Span) -> None:
    attributes = span.attributes
    for spec in _tools(attributes):
        chain.tools.setdefault(spec.name, spec)
    said = _structured_or_text(attributes.get("gen_ai.system_instructions"))
    parts = [_part(part) for part in said] if isinstance(said, list) else []
    texts = [part.text for part in parts if part is not None]
    chain.system = chain.system or (said if isinstance(said, str) else "\n\n".join(texts))
    for key in ("gen_ai.response.model", "gen_ai.request.model", "llm.model_name"):
        if not chain.model and isinstance(attributes.get(key), str):
            chain.model = attributes[key]
    for key in ("gen_ai.usage.input_tokens", "llm.token_count.prompt"):
        chain.input_tokens += a_count(attributes.get(key))
    for key in ("gen_ai.usage.output_tokens", "llm.token_count.completion"):
        chain.output_tokens += a_count(attributes.get(key))


def _structured_or_text(value: Any) -> Any:
    try:
        return _structured(value, "")
    except Unreadable:
        return value


_FLAT_TOOL = re.compile(r"llm\.tools\.\d{1,6}\.tool\.json_schema")


def _tools(attributes: JsonObject) -> list[ToolSpec]:
    specs = list(specs_of(attributes.get("gen_ai.tool.definitions"), "gen_ai.tool.definitions"))
    for key, value in attributes.items():
        if _FLAT_TOOL.fullmatch(key):
            specs += specs_of(value, key)
    return specs


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """What an `execute_tool` span tells of a call."""

    id: str
    name: str
    arguments: Any
    answer: str | None
    """None where its capture was off."""
    error: ErrorClass | None
    description: str


def _runs(spans: Sequence[Span]) -> list[Run]:
    runs = []
    for span in spans:
        if span.operation() != _TOOL:
            continue
        about = span.attributes
        name = about.get("gen_ai.tool.name", about.get("tool.name"))
        number = about.get("gen_ai.tool.call.id", about.get("tool_call.id"))
        answer = about.get("gen_ai.tool.call.result", about.get("output.value"))
        text = None if answer is None else as_text(answer)
        kind = about.get("error.type")
        reason = f"{kind if isinstance(kind, str) else ''} {text or ''}"
        fallback = span.name.removeprefix(f"{_TOOL} ")
        description = about.get("gen_ai.tool.description", about.get("tool.description"))
        runs.append(
            Run(
                id=number.strip() if isinstance(number, str) else "",
                name=name if isinstance(name, str) else fallback,
                arguments=about.get("gen_ai.tool.call.arguments", about.get("input.value")),
                answer=text,
                error=error_class_of(reason) if span.failed else None,
                description=description if isinstance(description, str) else "",
            )
        )
    return runs


def _told(
    name: str, row: Row, chain: _Chain, runs: Sequence[Run], reading: Reading
) -> Conversation:
    """Return the conversation of one history."""
    builder = Builder(row, format_name=NAME, namespace=reading.namespace)
    builder.system(chain.system)
    by_id = {run.id: run for run in runs if run.id}
    waiting: dict[str, Part] = {}
    for message in chain.said:
        _say(message, builder, by_id, waiting)
    for number in list(waiting):  # nothing was said after these results
        run = by_id.get(number)
        if run is not None and run.answer is not None:
            _result(builder, run.answer, number, run)
            del waiting[number]
    tokens = {"input_tokens": chain.input_tokens, "output_tokens": chain.output_tokens}
    return builder.build(
        task_id=f"{reading.namespace}-{name}",
        tools=chain.tools.values(),
        language=reading.language,
        split=reading.split,
        policy=chain.model or reading.policy,
        notes={"conversation": name, **{k: v for k, v in tokens.items() if v}},
    )


def _say(
    message: Said, builder: Builder, by_id: Mapping[str, Run], waiting: dict[str, Part]
) -> None:
    text = "\n".join(part.text for part in message.parts if part.kind == "text")
    if message.role == "assistant":
        calls = [part for part in message.parts if part.kind == "call"]
        thoughts = [part.text for part in message.parts if part.kind == "reasoning"]
        builder.assistant(
            text,
            thinking="\n\n".join(thoughts),
            calls=[call_of(part.name, part.arguments, id=part.id) for part in calls],
        )
        waiting.update({part.id: part for part in calls if part.id})
        return
    results = [part for part in message.parts if part.kind == "result"]
    for part in results:
        _result(builder, part.text, part.id, by_id.get(part.id))
        waiting.pop(part.id, None)
    if message.role in ("system", "developer"):
        builder.system(text)
    elif message.role == "tool":
        if not results:
            _result(builder, text, "", None)
    elif message.role == "user":
        if text or not results:
            builder.user(text)
    else:
        raise Unreadable("gen_ai.input.messages", f"unknown role {message.role!r}")


def _result(builder: Builder, text: str, number: str, run: Run | None) -> None:
    error = None if run is None else run.error
    builder.result(text, call_id=number, is_error=error is not None, error_class=error)


def _bare_calls(
    name: str, row: Row, spans: Sequence[Span], runs: Sequence[Run], reading: Reading
) -> Iterator[Conversation]:
    """Yield the calls alone where no span holds messages; nothing where these have no contents either."""
    whole = [run for run in runs if run.arguments is not None and run.answer is not None]
    if len(whole) < len(runs) or not runs:
        problem = f"{OPT_IN} (conversation {name}, {len(spans)} spans"
        reading.skip(row.where, "gen_ai.input.messages", f"{problem}, {len(whole)} whole calls)")
    if not whole:
        return
    builder = Builder(row, format_name=NAME, namespace=reading.namespace)
    builder.user(NO_WORDS)
    for run in whole:
        builder.assistant("", calls=[call_of(run.name, run.arguments, id=run.id)])
        _result(builder, run.answer or "", run.id, run)
    yield builder.build(
        task_id=f"{reading.namespace}-{name}",
        tools=(),
        language=reading.language,
        split=reading.split,
        policy=reading.policy,
        notes={"conversation": name, "only_calls": True},
    )


def _sniff(value: Any) -> bool:
    if "resourceSpans" in value:
        return True
    return bool(_span(value).operation())


OTEL = Format(
    name=NAME,
    title="OpenTelemetry GenAI and OpenInference spans",
    read_file=read_file,
    sniff=_sniff,
    under=ROWS,
)
