"""What a server says of itself, kept beside the recordings, so that it can be replayed when it is gone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from cacherl.cache.identity.canonical import canonical_json
from cacherl.cache.lookup.tool_cache import ToolCache
from cacherl.core.errors import CacheError, ToolError
from cacherl.core.records import JsonObject, Record
from cacherl.core.tools import ToolSpec
from cacherl.proxy.messages import HANDSHAKE_VERSIONS
from cacherl.toolbox.mcp_results import EFFECTS_META, spec_of

PREFIX = "mcp/"
"""Notes of a cache under this name are what tool servers said, as JSON."""

LISTS: dict[str, tuple[str, str]] = {
    "tools/list": ("tools", "tools"),
    "resources/list": ("resources", "resources"),
    "resources/templates/list": ("resources", "resourceTemplates"),
    "prompts/list": ("prompts", "prompts"),
}
"""Method -> the capability that offers it, and the member of its result that holds the items."""

READS = frozenset({"resources/read", "prompts/get"})
"""What else is kept, answer by answer: an agent may read it before it calls a tool."""

_SERVER_INFO = "io.modelcontextprotocol/serverInfo"
_LAST_HANDSHAKE = HANDSHAKE_VERSIONS[-1]


class ServerNote(Record, frozen=True, kw_only=True, omit_defaults=True):
    """One server, as it presented itself when it was recorded last."""

    initialize: JsonObject | None = None
    """Its answer to `initialize`, for clients up to 2025-11-25."""
    asked: str | None = None
    """The version of the protocol that the client asked for there."""
    discover: JsonObject | None = None
    """Its answer to `server/discover`, for clients of 2026-07-28."""
    lists: dict[str, JsonObject] = {}
    """Its answers to the methods of `LISTS`, all pages in one."""

    @property
    def capabilities(self) -> JsonObject:
        """What the server says it can do."""
        said = (self.initialize or self.discover or {}).get("capabilities")
        return said if isinstance(said, dict) else {}

    def tools(self) -> tuple[ToolSpec, ...]:
        """Return the listed tools; entries that are none are left out."""
        return specs_of(self.lists.get("tools/list", {}).get("tools", ()))

    def greeting(self, asked: JsonObject) -> JsonObject:
        """Return the answer to `initialize`, from that to `server/discover` where only it is known."""
        wanted = asked.get("protocolVersion")
        if self.initialize is not None:
            said = self.initialize.get("protocolVersion")
            version = agreed(wanted, said, offered=self.asked)
            return {**self.initialize, "protocolVersion": version}
        known = self.discover or {}
        greeting: JsonObject = {
            "protocolVersion": agreed(wanted, _LAST_HANDSHAKE, offered=None),
            "capabilities": self.capabilities,
            "serverInfo": _info(known) or {"name": "cacherl", "version": ""},
        }
        if "instructions" in known:
            greeting["instructions"] = known["instructions"]
        return greeting


def agreed(wanted: Any, said: Any, *, offered: str | None) -> Any:
    """Return the version of the protocol that a recorded server would agree on with a client.

    Args:
        wanted: what the client asks for.
        said: what the server agreed on when it was recorded.
        offered: what it was asked for then, where that is known. If it said something else, that
            was the newest it knows.
    """
    if wanted == offered or wanted not in HANDSHAKE_VERSIONS:
        return said
    if offered in (None, said) or said not in HANDSHAKE_VERSIONS:
        return wanted
    return min(wanted, said, key=HANDSHAKE_VERSIONS.index)


def specs_of(tools: Iterable[Any]) -> tuple[ToolSpec, ...]:
    """Return entries of `tools/list` as we know tools; what is none is left out."""
    found = []
    for tool in tools:
        try:
            found.append(spec_of(tool))
        except (ToolError, AttributeError):
            continue
    return tuple(found)


def _info(greeting: JsonObject) -> JsonObject | None:
    meta = greeting.get("_meta")
    found = greeting.get("serverInfo") or (meta or {}).get(_SERVER_INFO)
    return found if isinstance(found, dict) else None


def server_name(greeting: JsonObject) -> str | None:
    """Return the name that a server gives itself in its answer to `initialize` or `server/discover`."""
    name = (_info(greeting) or {}).get("name")
    return name if isinstance(name, str) and name else None


def joined(pages: Sequence[JsonObject], items: str) -> JsonObject:
    """Return the pages of a list as one."""
    whole = {name: value for name, value in pages[0].items() if name != "nextCursor"}
    whole[items] = [each for page in pages for each in page.get(items) or ()]
    return whole


# ---- in the cache


def keep_server(cache: ToolCache, namespace: str, note: ServerNote) -> None:
    """Keep what a server said of itself; what it does not say this time stays as it was."""
    known = kept_server(cache, namespace) or ServerNote()
    note = ServerNote(
        initialize=note.initialize or known.initialize,
        asked=known.asked if note.initialize is None else note.asked,
        discover=note.discover or known.discover,
        lists=known.lists | note.lists,
    )
    if note != known:
        _keep(cache, _name(namespace), note)


def kept_server(cache: ToolCache, namespace: str) -> ServerNote | None:
    """Return what a server said of itself, if it was recorded by the proxy.

    Raises:
        CacheError: the note is of a newer version.
    """
    said = cache.store.note(_name(namespace))
    if said is None:
        return None
    try:
        return msgspec.json.decode(said, type=ServerNote)
    except msgspec.DecodeError as error:
        raise CacheError(
            f"{cache.name}: the note {_name(namespace)!r} cannot be read ({error}). Upgrade cacherl."
        ) from error


def known_server(cache: ToolCache, namespace: str) -> ServerNote:
    """Return what a server said of itself, or would have said: its recorded tools tell."""
    kept = kept_server(cache, namespace)
    if kept is not None:
        return kept
    specs = [spec for (space, _), spec in sorted(cache.store.tools().items()) if space == namespace]
    return ServerNote(
        initialize={
            "protocolVersion": _LAST_HANDSHAKE,
            "capabilities": {"tools": {}},
            "serverInfo": {"name": namespace, "version": ""},
        },
        lists={"tools/list": {"tools": [_listed(spec) for spec in specs]}},
    )


def _listed(spec: ToolSpec) -> JsonObject:
    said = msgspec.to_builtins(spec)
    return {
        "name": spec.name,
        "description": spec.description,
        "inputSchema": spec.parameters,
        "annotations": {"readOnlyHint": not spec.effects.writes},
        "_meta": {EFFECTS_META: said["effects"]},
    }


def namespaces(cache: ToolCache) -> list[str]:
    """Return whose tools a cache can play."""
    ending = _name("")[len(PREFIX) :]
    noted = {
        name[len(PREFIX) : -len(ending)]
        for name in cache.store.notes()
        if name.startswith(PREFIX) and name.endswith(ending)
    }
    return sorted(noted | {namespace for namespace, _ in cache.store.tools()})


def keep_read(cache: ToolCache, namespace: str, method: str, params: Any, result: Any) -> None:
    """Keep an answer of `READS`; the last one stands."""
    name = _read_name(cache, namespace, method, params)
    _keep(cache, name, {"method": method, "params": _bare(params), "result": result})


def kept_read(cache: ToolCache, namespace: str, method: str, params: Any) -> JsonObject | None:
    """Return the answer that was kept, or None."""
    said = cache.store.note(_read_name(cache, namespace, method, params))
    if said is None:
        return None
    result: JsonObject = msgspec.json.decode(said)["result"]
    return result


def _name(namespace: str) -> str:
    return f"{PREFIX}{namespace}/server"


def _read_name(cache: ToolCache, namespace: str, method: str, params: Any) -> str:
    bare = _bare(params)
    said = canonical_json([method, bare if cache.redactor is None else _swept(cache, bare)])
    return f"{PREFIX}{namespace}/read/{hashlib.blake2b(said, digest_size=16).hexdigest()}"


def _bare(params: Any) -> JsonObject:
    """Return parameters without what says nothing about the answer."""
    return {name: value for name, value in (params or {}).items() if name != "_meta"}


def _swept(cache: ToolCache, value: JsonObject) -> JsonObject:
    return value if cache.redactor is None else cache.redactor.arguments(value)


def _keep(cache: ToolCache, name: str, value: Any) -> None:
    said = msgspec.json.encode(value)
    if cache.redactor is not None:
        said = cache.redactor.wire(said.decode()).encode()
    if cache.store.note(name) != said:
        cache.store.put_note(name, said)
