"""The name under which a call's answer is kept."""

from __future__ import annotations

import functools
import hashlib

from cacherl.cache.identity.canonical import canonical_json

CANON_VERSION = "c2"
"""c2: state keys are chains that cost the same however long the episode.

Part of every key: when a normalisation rule changes, bump it, and old entries miss instead of lying."""


def full_key(namespace: str, tool: str, canonical: bytes, state: bytes) -> bytes:
    """Return the whole identity of a call: no two calls share these bytes.

    Args:
        namespace: whose tools these are.
        tool: the tool's name.
        canonical: `NormalCall.canonical`.
        state: `StateOverlay.state_key` of the call, empty where nothing was written.
    """
    # JSON never holds a raw line break, so the parts cannot run into one another.
    stood = state.hex().encode() if state else b""
    return b"\n".join((_tool_part(namespace, tool), canonical, stood))


@functools.lru_cache(maxsize=8192)
def _tool_part(namespace: str, tool: str) -> bytes:
    parts = (CANON_VERSION.encode(), canonical_json(namespace), canonical_json(tool))
    return b"\n".join(parts)


def digest(full: bytes) -> bytes:
    """Return the 128-bit hash that entries are found by. Finders still compare the full bytes."""
    return hashlib.blake2b(full, digest_size=16).digest()


def gate_key(namespace: str, tool: str, gate: bytes, state: bytes) -> bytes:
    """Return the hash of the call without its texts: equal for calls that may match fuzzily."""
    return digest(b"gate\n" + full_key(namespace, tool, gate, state))
