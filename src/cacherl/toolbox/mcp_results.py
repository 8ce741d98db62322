"""What MCP says of tools and their results, as we know them: pure functions over its JSON.

The live adapter and the proxy read results by these same functions, so that a recording made by
either holds the same text. Names are those of the wire (`isError`, `structuredContent`, `_meta`).

Source: Model Context Protocol, 2025-11-25 and 2026-07-28, server/tools.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import msgspec

from cacherl.core.errors import ToolError
from cacherl.core.records import JsonObject
from cacherl.core.tools import UNDECLARED, Effects, ErrorClass, ToolSpec

EFFECTS_META = "cacherl/effects"
"""A tool's `_meta` entry of this name, `{"reads": [...], "writes": [...]}`, declares its effects."""

READ_ONLY = Effects(reads=("*",))

_IMPLIED: Mapping[str, tuple[Any, ...]] = {
    # What a key of a result may say without saying more than its absence does.
    "isError": (True, False),  # kept beside the text, as `is_error`
    "resultType": ("complete",),
    "structuredContent": (None,),
    "_meta": (None, {}),
}


def text_of(result: JsonObject) -> str:
    """Return what a model can read of a result: text as it is, everything else named but not shown.

    Structured content is shown, as JSON, only where there is no other content. Never raises: a
    block that is none is named by its type.
    """
    content = result.get("content")
    blocks = content if isinstance(content, list) else []
    if not blocks and result.get("structuredContent") is not None:
        return json.dumps(result["structuredContent"], ensure_ascii=False)
    return "\n".join(_block_text(block) for block in blocks)


def _block_text(block: Any) -> str:
    match block:
        case {"type": "text", "text": str(text)}:
            return text
        case {"type": "resource", "resource": {"text": str(text)}}:
            return text
        case {"type": "image" | "audio" as kind, "data": str(data)}:
            mime = block.get("mimeType", "")
            return f"[{kind} {mime}, {len(data)} characters of base64]"
        case {"type": "resource_link", "uri": str(uri)}:
            return f"[resource_link {uri}]"
        case {"type": "resource", "resource": {"uri": str(uri)}}:
            return f"[resource {uri}]"
        case {"type": str(kind)}:
            return f"[{kind}]"
        case _:
            return "[unknown]"


def wire_of(result: JsonObject) -> str | None:
    """Return a result as JSON where it holds more than `text_of` and `isError` say, else None.

    None means: one text block and nothing else, which `result_of` builds again. Several blocks,
    images, annotations, structured content and `_meta` are more. Keys keep their order.
    """
    match result.get("content"):
        case [{"type": "text", "text": str(), **more}] if not more and all(
            _is_implied(name, value) for name, value in result.items() if name != "content"
        ):
            return None
    return json.dumps(result, ensure_ascii=False, separators=(",", ":"))


def _is_implied(name: str, value: Any) -> bool:
    return value in _IMPLIED.get(name, ())


def result_of(text: str, *, is_error: bool, wire: str | None) -> JsonObject:
    """Return the result that `text_of` and `wire_of` were taken from.

    Exact where `wire` is given; else one text block, equal to the original in all it says.
    """
    if wire is not None:
        return dict(json.loads(wire))
    return {"content": [{"type": "text", "text": text}], "isError": is_error}


def spec_of(tool: JsonObject) -> ToolSpec:
    """Return an entry of `tools/list` as we know tools, under the server's own name.

    Raises:
        ToolError: it has no name, or what it says under `cacherl/effects` is no effects.
    """
    name, schema = tool.get("name"), tool.get("inputSchema")
    if not isinstance(name, str) or not name:
        raise ToolError(f"a listed tool has no name ({_short(tool)}). Correct the server.")
    return ToolSpec(
        name=name,
        description=tool.get("description") or "",
        parameters={"type": "object", **(schema if isinstance(schema, dict) else {})},
        effects=effects_of(tool),
    )


def effects_of(tool: JsonObject) -> Effects:
    """Return what an entry of `tools/list` says it reads and writes: `_meta` first, else annotations.

    Raises:
        ToolError: what it says under `cacherl/effects` is no effects.
    """
    meta, annotations = tool.get("_meta"), tool.get("annotations")
    declared = meta.get(EFFECTS_META) if isinstance(meta, dict) else None
    if declared is None:
        return annotated_effects(annotations if isinstance(annotations, dict) else {})
    try:
        return msgspec.convert(declared, Effects)
    except msgspec.ValidationError as error:
        raise ToolError(
            f"{EFFECTS_META} of the tool {tool.get('name')} is no effects ({error}). "
            'Write {"reads": [...], "writes": [...]}.'
        ) from error


def annotated_effects(annotations: Mapping[str, Any]) -> Effects:
    """Return the effects that MCP's annotations stand for. They are hints: no resource is named.

    `readOnlyHint` reads everything and writes nothing, and with `openWorldHint` its answers age;
    `idempotentHint` writes everything, twice as once; any other tool writes everything. A tool that
    calls itself read-only and destructive is believed the worse of the two.
    """
    read_only = annotations.get("readOnlyHint") is True
    if read_only and annotations.get("destructiveHint") is True:
        return UNDECLARED
    if read_only:
        # Said, that is: MCP's default is true, and says nothing.
        open_world = annotations.get("openWorldHint") is True
        return msgspec.structs.replace(READ_ONLY, open_world=open_world)
    if annotations.get("idempotentHint") is True:
        return msgspec.structs.replace(UNDECLARED, idempotent=True)
    return UNDECLARED


_WORDS: tuple[tuple[ErrorClass, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(pattern, re.IGNORECASE))
    for kind, pattern in (
        (
            ErrorClass.TRANSIENT,
            r"timed?[ -]?out|rate.?limit|too many requests|temporar|unavailable|connection (?:reset|refused|closed|lost)|\b(?:429|502|503|504)\b",
        ),
        (
            ErrorClass.PERMISSION,
            r"permission|forbidden|not (?:allowed|permitted|authori[sz]ed)|unauthori[sz]ed|denied|policy|\b(?:401|403)\b",
        ),
        (
            ErrorClass.NOT_FOUND,
            r"not[ _]found|no such|does(?: not|n't) exist|unknown|no \w+ with|\b404\b",
        ),
        (
            ErrorClass.VALIDATION,
            r"invalid|validation|required|must be|expected|missing|malformed|\b(?:400|422)\b",
        ),
    )
)


def error_class_of(text: str, arguments: JsonObject | None = None) -> ErrorClass:
    """Return the class of an error a tool reported.

    A JSON object with an `error` or `kind` that is one of our classes says it; otherwise its words do,
    the transient ones first: replaying a time-out for ever is worse than asking a live tool again.

    Args:
        text: what the tool said.
        arguments: of the call, where they are known. Errors quote them, and a file that is not there
            is no passing failure because its name is `report-503.txt`.
    """
    with suppress(ValueError, RecursionError):
        said = json.loads(text)
        if isinstance(said, dict):
            for name in ("error_class", "error", "kind"):
                if said.get(name) in list(ErrorClass):  # not a set: it may be an object
                    return ErrorClass(said[name])
    for quoted in _misleading(arguments):
        text = re.sub(rf"(?<!\w){re.escape(quoted)}(?!\w)", " ", text)
    for kind, words in _WORDS:
        if words.search(text):
            return kind
    return ErrorClass.UNKNOWN


def _misleading(value: Any) -> list[str]:
    """Return the texts and numbers in arguments that would class an error that quotes them, longest first."""
    found: set[str] = set()
    left = [value]
    while left:
        match left.pop():
            case dict() as members:
                left += members.values()
            case list() as items:
                left += items
            case str() | int() | float() as leaf:
                said = str(leaf).strip()
                if any(words.search(said) for _, words in _WORDS):
                    found.add(said)
    return sorted(found, key=len, reverse=True)


def _short(value: Any, limit: int = 80) -> str:
    line = json.dumps(value, ensure_ascii=False, default=str)
    return line if len(line) <= limit else line[: limit - 3] + "..."
