"""What `cacherl cache` commands ask of a cache file; the commands only print."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from cacherl.cache.state import NO_WRITES
from cacherl.cache.tool_cache import (
    EVERYTHING_VISIBLE,
    CacheStats,
    Explanation,
    Hit,
    ToolCache,
    Viewpoint,
)
from cacherl.core.errors import RecipeError
from cacherl.core.tools import ToolSpec


def stats(path: Path) -> CacheStats:
    """Count what a cache holds; every value's checksum is verified on the way.

    Raises:
        CacheError: no such cache, or a damaged one.
    """
    with ToolCache.open(path) as cache:
        return cache.stats()


def lookup(
    path: Path,
    tool: str,
    arguments_json: str,
    *,
    namespace: str | None = None,
    state: str = "",
    view: Viewpoint = EVERYTHING_VISIBLE,
) -> Hit:
    """Look one call up.

    Args:
        path: the cache.
        tool: a recorded tool.
        arguments_json: a JSON object.
        namespace: needed only where several namespaces recorded a tool of this name.
        state: the state key (hex), as `explain` and hits show it; empty before any write.
        view: what may be seen.

    Raises:
        CacheError: no such cache or tool.
        RecipeError: the arguments are no JSON object, or the tool's namespace is not clear.
    """
    arguments, key = _object(arguments_json), _state(state)
    with ToolCache.open(path) as cache:
        space, spec = _tool(cache, tool, namespace)
        return cache.lookup(space, spec, arguments, state_key=key, view=view)


def explain(
    path: Path,
    tool: str,
    arguments_json: str,
    *,
    namespace: str | None = None,
    state: str = "",
    view: Viewpoint = EVERYTHING_VISIBLE,
) -> Explanation:
    """Say what a lookup finds, why, and what came closest. Arguments and errors as `lookup`."""
    arguments, key = _object(arguments_json), _state(state)
    with ToolCache.open(path) as cache:
        space, spec = _tool(cache, tool, namespace)
        return cache.explain(space, spec, arguments, state_key=key, view=view)


def _object(text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise RecipeError(
            f"the arguments are no JSON object ({error}): {text[:80]!r}. "
            """Write them like '{"order_id": "A1"}'."""
        ) from error


def _state(text: str) -> bytes:
    try:
        return bytes.fromhex(text) if text else NO_WRITES
    except ValueError as error:
        raise RecipeError(f"the state {text!r} is no hex text. Copy it from a hit.") from error


def _tool(cache: ToolCache, tool: str, namespace: str | None) -> tuple[str, ToolSpec]:
    if namespace is None:
        spaces = sorted(space for space, name in cache.store.tools() if name == tool)
        if len(spaces) > 1:
            raise RecipeError(
                f"several namespaces recorded {tool}: {', '.join(spaces)}. Say which one."
            )
        namespace = spaces[0] if spaces else ""
    return namespace, cache.spec(namespace, tool)
