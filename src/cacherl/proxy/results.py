"""Results of tools: read as the cache keeps them, and built again as the server gave them."""

from __future__ import annotations

import json

import msgspec

from cacherl.core.messages import ToolCall
from cacherl.core.records import JsonObject
from cacherl.core.schema import error_text
from cacherl.core.tools import ErrorClass, Source, Tier, ToolResult
from cacherl.proxy.messages import (
    CANCELLED,
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    Failure,
    MessageId,
    Reply,
    Request,
    Result,
)
from cacherl.proxy.server_note import LISTS
from cacherl.toolbox.mcp_results import error_class_of, result_of, text_of, wire_of

META = "cacherl/"
"""Our names in a result's `_meta` begin so: `cacherl/tier`, `cacherl/fidelity`, `cacherl/key`."""


def is_final(reply: Reply) -> bool:
    """Say whether a reply to `tools/call` is what the tool answered.

    It is not where the server asks for more input first, has only begun a task that is fetched
    later, or gave the call up because it was cancelled.
    """
    if isinstance(reply, Failure):
        return reply.error.get("code") != CANCELLED
    kind = reply.result.get("resultType", "complete")
    return kind == "complete" and isinstance(reply.result.get("content"), list)


def tool_result(call: ToolCall, reply: Reply, seconds: float) -> ToolResult:
    """Return a server's reply as a tool's answer: `reply_of` builds the same JSON value from it."""
    kind: ErrorClass | None = None
    if isinstance(reply, Failure):
        kind = _class_of(reply.error, call.arguments)
        text = error_text(kind, str(reply.error.get("message", "")))
        wire: str | None = _said({"error": reply.error})
        is_error = True
    else:
        is_error = reply.result.get("isError") is True
        text, wire = text_of(reply.result), wire_of(reply.result)
        if wire is None and result_of(text, is_error=is_error, wire=None) != reply.result:
            wire = _said(reply.result)  # says no more, but says it in other words
        if is_error:
            kind = error_class_of(text, call.arguments)
    return ToolResult(
        call_id=call.id,
        name=call.name,
        text=text,
        wire=wire,
        is_error=is_error,
        error_class=kind,
        tier=Tier.LIVE,
        source=Source.LIVE,
        latency_s=seconds,
    )


def _class_of(error: JsonObject, arguments: JsonObject) -> ErrorClass:
    kind = error_class_of(str(error.get("message", "")), arguments)
    if error.get("code") == INVALID_PARAMS and kind is ErrorClass.UNKNOWN:
        return ErrorClass.VALIDATION
    return ErrorClass.NOT_FOUND if error.get("code") == METHOD_NOT_FOUND else kind


def reply_of(to: MessageId, result: ToolResult, *, meta: bool) -> Reply:
    """Return a recorded answer as its server's reply.

    Args:
        to: the request.
        result: from a cache.
        meta: add tier, fidelity (where measured) and key to its `_meta`. An error of the protocol
            has no place for them.
    """
    said = result_of(result.text, is_error=result.is_error, wire=result.wire)
    if set(said) == {"error"} and isinstance(said["error"], dict):
        return Failure(id=to, error=said["error"])
    if meta:
        known = said.get("_meta")
        said["_meta"] = {**(known if isinstance(known, dict) else {}), **_meta_of(result)}
    return Result(id=to, result=said)


def _meta_of(result: ToolResult) -> JsonObject:
    meta: JsonObject = {f"{META}tier": result.tier.value}
    if result.fidelity is not None:
        meta[f"{META}fidelity"] = result.fidelity
    if result.key is not None:
        meta[f"{META}key"] = result.key
    return meta


_CACHED = frozenset({*LISTS, "resources/read", "server/discover"})


def suited(request: Request, reply: Reply) -> Reply:
    """Return a reply with the members that the request's version of the protocol cannot do without.

    A result that was recorded with another version, or that is ours, lacks them.
    """
    if isinstance(reply, Failure) or not request.is_modern:
        return reply
    needed: JsonObject = {"resultType": "complete"}
    if request.method in _CACHED:
        needed |= {"ttlMs": 0, "cacheScope": "private"}
    if all(name in reply.result for name in needed):
        return reply
    return Result(
        id=reply.id,
        result={
            **reply.result,
            **{name: value for name, value in needed.items() if name not in reply.result},
        },
    )


def lost(call: ToolCall, message: str) -> ToolResult:
    """Return the answer to a call whose server is gone: nobody knows what it did."""
    return ToolResult(
        call_id=call.id,
        name=call.name,
        text=error_text("unavailable", message),
        is_error=True,
        error_class=ErrorClass.TRANSIENT,
        tier=Tier.LIVE,
        source=Source.LIVE,
    )


def _said(value: JsonObject) -> str:
    try:
        return msgspec.json.encode(value).decode()
    except UnicodeEncodeError:
        return json.dumps(value)
