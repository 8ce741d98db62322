"""Inspect logs (`inspect_ai`): evaluations as `.json`, or as `.eval`, a zip of the same.

A log holds `eval` (task, model) and `samples`; a sample `id, epoch, input, target, messages, scores,
events, attachments`. Assistant messages have `tool_calls` of `{id, function, arguments, parse_error}`; tool
messages `{tool_call_id, function, content, error{type, message}}`. The tools stand in the sample's
`model` events. Long texts stand as `attachment://HASH` and are put back from `attachments`.

An `.eval` is read a sample at a time, members compressed with deflate only.

Source: UKGovernmentBEIS/inspect_ai, docs on eval logs; fields of `ChatMessage`, `ToolCall`, `EvalSample`.
"""

from __future__ import annotations

import lzma
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from cacherl.core.errors import DataError
from cacherl.core.messages import Call, MalformedCall
from cacherl.core.records import JsonObject
from cacherl.core.tools import ErrorClass, ToolSpec
from cacherl.formats.conversation import Builder, Conversation, call_of
from cacherl.formats.declarations import specs_of
from cacherl.formats.format import Format, Reading
from cacherl.formats.rows import MAX_ROW_BYTES, NO_JSON, Row, Unreadable, rows_of, sample_of
from cacherl.formats.written_calls import thought_apart
from cacherl.formats.written_values import a_count, a_list, a_text, an_object, as_text

NAME = "inspect"
ROWS = "samples"

_ATTACHED = "attachment://"
_NOT_UNPACKED = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    RuntimeError,  # a password is wanted, or a way of packing is not there
    OSError,
)
_MAX_DEPTH = 60
_ERRORS: Mapping[str, ErrorClass] = {
    "parsing": ErrorClass.VALIDATION,
    "unicode_decode": ErrorClass.VALIDATION,
    "is_a_directory": ErrorClass.VALIDATION,
    "file_not_found": ErrorClass.NOT_FOUND,
    "permission": ErrorClass.PERMISSION,
    "approval": ErrorClass.PERMISSION,
    "timeout": ErrorClass.TRANSIENT,
    "limit": ErrorClass.TRANSIENT,
}


def read_file(path: Path, reading: Reading) -> Iterator[Conversation]:
    """Yield a conversation a sample; an epoch is a rollout of its task."""
    if zipfile.is_zipfile(path):
        header, rows = _zipped(path, reading)
    else:
        header, rows = sample_of(path), rows_of(path, under=ROWS, on_skip=reading.on_skip)
    about = header.get("eval") if isinstance(header, dict) else None
    about = about if isinstance(about, dict) else {}
    for row in rows:
        try:
            yield _conversation(row, reading, about)
        except Unreadable as error:
            reading.skip(row.where, error.field, error.problem)


def _zipped(path: Path, reading: Reading) -> tuple[Any, Iterator[Row]]:
    try:
        with zipfile.ZipFile(path) as archive:
            header = msgspec.json.decode(_unpacked(archive, "header.json"))
    except KeyError:
        header = {}  # a log whose run was cut off
    except NO_JSON as error:
        raise DataError(f"{path}: header.json is no JSON ({error}). Fetch it again.") from error
    except _NOT_UNPACKED as error:
        raise DataError(
            f"{path}: cannot be unpacked ({error}). Write it as .json: `inspect log convert`."
        ) from error
    return header, _members(path, reading)


def _members(path: Path, reading: Reading) -> Iterator[Row]:
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if not (name.startswith("samples/") and name.endswith(".json")):
                continue
            where = f"{path}: {name}"
            try:
                body = _unpacked(archive, name)
            except _NOT_UNPACKED as error:
                reading.skip(where, "", f"cannot be unpacked ({error})")
                continue
            yield Row(where, body)


def _unpacked(archive: zipfile.ZipFile, name: str) -> bytes:
    """Return a member; the size that it says it has is the most that is unpacked of it."""
    if archive.getinfo(name).file_size > MAX_ROW_BYTES:
        raise zipfile.BadZipFile(f"more than {MAX_ROW_BYTES >> 20} MiB")
    return archive.read(name)


def _conversation(row: Row, reading: Reading, about: JsonObject) -> Conversation:
    sample = an_object(row.value(), "")
    attached = sample.get("attachments")
    attachments = attached if isinstance(attached, dict) else {}
    builder = Builder(row, format_name=NAME, namespace=reading.namespace)
    for place, each in enumerate(a_list(sample.get("messages"), "messages")):
        field = f"messages[{place}]"
        _say(an_object(_put_back(each, attachments, 0), field), field, builder)
    said_id, epoch = sample.get("id"), sample.get("epoch")
    model, task = about.get("model"), about.get("task")
    task_name = task if isinstance(task, str) else ""
    number = said_id if isinstance(said_id, str | int) and not isinstance(said_id, bool) else None
    return builder.build(
        task_id=reading.task_id(row, None if number is None else f"{task_name}{number}"),
        tools=_tools(sample, attachments),
        family=task_name,
        language=reading.language,
        split=reading.split,
        rollout=max(0, a_count(epoch) - 1),
        policy=model if isinstance(model, str) else reading.policy,
        notes=_notes(sample),
    )


def _put_back(value: Any, attachments: JsonObject, depth: int) -> Any:
    """Return the value with attachments in the place of their names."""
    if depth > _MAX_DEPTH:
        raise Unreadable("messages", "nested too deep")
    if isinstance(value, str) and value.startswith(_ATTACHED):
        return attachments.get(value.removeprefix(_ATTACHED), value)
    if isinstance(value, list):
        return [_put_back(each, attachments, depth + 1) for each in value]
    if isinstance(value, dict):
        return {name: _put_back(each, attachments, depth + 1) for name, each in value.items()}
    return value


def _say(message: JsonObject, field: str, builder: Builder) -> None:
    role = message.get("role")
    thinking, content = _content(message.get("content"), f"{field}.content")
    if role == "assistant":
        opened, rest = thought_apart(content)
        here = f"{field}.tool_calls"
        calls = [
            _call(an_object(each, f"{here}[{place}]"), f"{here}[{place}]")
            for place, each in enumerate(a_list(message.get("tool_calls") or [], here))
        ]
        builder.assistant(rest, thinking=thinking or opened, calls=calls)
    elif role == "tool":
        failed = isinstance(message.get("error"), dict)
        error: JsonObject = message["error"] if failed else {}
        said = a_text(error.get("message"), f"{field}.error.message")
        name = message.get("function")
        builder.result(
            content or said,
            call_id=a_text(message.get("tool_call_id"), f"{field}.tool_call_id"),
            name=name if isinstance(name, str) else "",
            is_error=failed,
            error_class=_ERRORS.get(str(error.get("type")), ErrorClass.UNKNOWN) if failed else None,
        )
    elif role == "user":
        builder.user(content)
    elif role == "system":
        builder.system(content)
    else:
        raise Unreadable(f"{field}.role", f"unknown role {role!r}")


def _content(value: Any, field: str) -> tuple[str | None, str]:
    """Return thinking and text of a content: a text, or parts of which some are reasoning."""
    if not isinstance(value, list):
        return None, a_text(value, field)
    thoughts, texts = [], []
    for part in value:
        match part:
            case {"type": "reasoning", "reasoning": str(thought)}:
                # Providers may redact it; what stays is a summary or a cipher.
                thoughts.append("" if part.get("redacted") is True else thought)
            case {"type": "text", "text": str(text)} | str(text):
                texts.append(text)
    thinking = "\n\n".join(thought for thought in thoughts if thought)
    return thinking or None, "\n".join(texts)


def _call(call: JsonObject, field: str) -> Call:
    number = a_text(call.get("id"), f"{field}.id")
    name, problem = call.get("function"), call.get("parse_error")
    if isinstance(problem, str) and problem:
        text = f"{name}({as_text(call.get('arguments'))})"
        return MalformedCall(id=number, text=text, problem=problem)
    return call_of(name, call.get("arguments"), id=number)


def _tools(sample: JsonObject, attachments: JsonObject) -> tuple[ToolSpec, ...]:
    """Return the tools of every model event; later ones may offer more."""
    tools: dict[str, ToolSpec] = {}
    events = sample.get("events")
    for place, event in enumerate(events if isinstance(events, list) else []):
        if not isinstance(event, dict) or event.get("event") != "model":
            continue
        said = _put_back(event.get("tools"), attachments, 0)
        if isinstance(said, list):
            for spec in specs_of(said, f"events[{place}].tools"):
                tools.setdefault(spec.name, spec)
    return tuple(tools.values())


def _notes(sample: JsonObject) -> JsonObject:
    scores = sample.get("scores")
    values = {
        name: each.get("value") if isinstance(each, dict) else each
        for name, each in (scores.items() if isinstance(scores, dict) else ())
    }
    usage = sample.get("model_usage")
    return {
        **({"scores": values} if values else {}),
        **({"model_usage": usage} if isinstance(usage, dict) and usage else {}),
        **({"target": sample["target"]} if sample.get("target") not in (None, "") else {}),
        **({"error": True} if sample.get("error") else {}),
    }


def _sniff(value: Any) -> bool:
    return ("eval" in value and "samples" in value) or {"epoch", "messages"} <= value.keys()


INSPECT = Format(
    name=NAME,
    title="Inspect evaluation logs (.json and .eval)",
    read_file=read_file,
    sniff=_sniff,
    under=ROWS,
    trials=True,
)
