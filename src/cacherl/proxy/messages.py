"""JSON-RPC messages as values: what the proxy looks at, and what it passes on without a look."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from cacherl.core.records import JsonObject

MessageId: TypeAlias = int | str
"""`1` and `"1"` are two ids."""

ENVELOPE = "io.modelcontextprotocol/"
"""What clients of 2026-07-28 say with every request stands in its `_meta` under such names."""

HANDSHAKE_VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
"""Protocol versions whose sessions begin with `initialize`, oldest first."""

INVALID_PARAMS = -32602
METHOD_NOT_FOUND = -32601
INTERNAL_ERROR = -32603
UNSUPPORTED_VERSION = -32022
CANCELLED = -32800
"""What streamable HTTP answers to a cancelled request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Something that wants an answer."""

    id: MessageId
    method: str
    params: JsonObject | None = None
    raw: Any = None
    """The message as its transport gave it: what is passed on, so that nothing is lost on the way."""

    @property
    def meta(self) -> JsonObject:
        """What stands beside the parameters under `_meta`."""
        meta = (self.params or {}).get("_meta")
        return meta if isinstance(meta, dict) else {}

    @property
    def is_modern(self) -> bool:
        """Whether it is of 2026-07-28, which has no `initialize`."""
        return self.method == "server/discover" or f"{ENVELOPE}protocolVersion" in self.meta


@dataclass(frozen=True, slots=True, kw_only=True)
class Notification:
    """Something that wants none."""

    method: str
    params: JsonObject | None = None
    raw: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """An answer."""

    id: MessageId
    result: JsonObject
    raw: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An answer that is an error of the protocol, not of a tool."""

    id: MessageId | None
    error: JsonObject
    """`code`, `message` and perhaps `data`."""
    raw: Any = None


Reply: TypeAlias = Result | Failure
Message: TypeAlias = Request | Notification | Result | Failure


def failure(to: MessageId, code: int, message: str, data: Any = None) -> Failure:
    """Return an error as the answer to a request."""
    error: JsonObject = {"code": code, "message": message}
    if data is not None:
        error["data"] = data
    return Failure(id=to, error=error)
