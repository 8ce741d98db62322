"""JSON values as bytes: equal values, equal bytes; different values, different bytes.

The partition of values is RFC 8785's (JCS) wherever JCS is defined; the bytes are not always:
integral floats are written as integers (`1e21` -> `1000000000000000000000`), exponents carry no
`+`, and keys sort by code point, not by UTF-16 unit. JCS costs five times as much and is undefined
for integers past 2^53, which order ids reach.
"""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec

_SORTED = msgspec.json.Encoder(order="sorted")


def fold_number(value: float) -> int | float:
    """Return the integer a float is equal to, or the float itself (NaN and infinities too)."""
    return int(value) if value.is_integer() else value


def canonical_json(value: Any) -> bytes:
    """Return the canonical bytes of a JSON value.

    Defined for what JSON itself is not: NaN and infinities become bare words, lone surrogates
    escapes, integers keep every digit.
    """
    kind = type(value)
    if kind is str or kind is int or kind is bool or value is None:
        return encode_folded(value, odd=False)
    folded, odd = _folded(value)
    return encode_folded(folded, odd=odd)


def encode_folded(value: Any, *, odd: bool) -> bytes:
    """Return the canonical bytes of a value whose floats are folded; `odd`: NaN or an infinity inside."""
    if not odd:
        try:
            return _SORTED.encode(value)
        except UnicodeEncodeError:
            pass  # a lone surrogate: only the escaping encoder can write it
    # Faithful like the fast one, so no two values meet: it differs only where the fast one is not
    # defined (msgspec would write NaN as null).
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def decode_canonical(data: bytes) -> Any:
    """Return the value of canonical bytes."""
    try:
        return msgspec.json.decode(data)
    except msgspec.DecodeError:
        return json.loads(data)


def _folded(value: Any) -> tuple[Any, bool]:
    if isinstance(value, float):
        return fold_number(value), not math.isfinite(value)
    if isinstance(value, dict):
        odd = False
        members = {}
        for name, member in value.items():
            members[name], member_odd = _folded(member)
            odd = odd or member_odd
        return members, odd
    if isinstance(value, list | tuple):
        odd = False
        items = []
        for item in value:
            folded, item_odd = _folded(item)
            items.append(folded)
            odd = odd or item_odd
        return items, odd
    return value, False
