"""A recorded result made to speak of another call: the receipt of a write that was never recorded."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from cacherl.cache.identity.canonical import canonical_json
from cacherl.cache.identity.normalise import Kind, Plan

_DISTINCTIVE = 4  # characters: shorter values occur in results by chance
_ADDRESSES = frozenset({Kind.ID, Kind.ENTITY, Kind.DATE})


def readdress(text: str, plan: Plan, recorded: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """Return a recorded result with the recorded call's argument values replaced by the asked call's.

    A value in the result is replaced where it stands under the argument's own name, or where it is
    an id, a name or a date too distinctive to be there by chance. Everything else stays recorded.

    Args:
        text: the recorded result.
        plan: the tool's.
        recorded: the recorded call's normal arguments.
        asked: this call's normal arguments.
    """
    replaced = _replacements(plan, recorded, asked)
    if not replaced.by_name and not replaced.anywhere:
        return text
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return _reworded(text, replaced.anywhere)
    if isinstance(value, str):
        return json.dumps(_reworded(value, replaced.anywhere), ensure_ascii=False)
    return json.dumps(_readdressed(value, "", replaced), ensure_ascii=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Replacements:
    by_name: dict[tuple[str, str], Any]
    """(argument name, recorded token) -> asked value."""
    anywhere: dict[str, str]


def _replacements(
    plan: Plan, recorded: Mapping[str, Any], asked: Mapping[str, Any]
) -> _Replacements:
    by_name: dict[tuple[str, str], Any] = {}
    anywhere: dict[str, str] = {}
    unclear: set[str] = set()
    kinds = {field.path: field.kind for field in plan.shape(dict(recorded)).fields}
    for name, old in recorded.items():
        new = asked.get(name)
        if name not in asked or isinstance(old, dict | list) or isinstance(new, dict | list):
            continue
        if old == new:
            # The same value elsewhere in the result must stay.
            unclear.add(str(old))
            continue
        by_name[name, canonical_json(old).decode()] = new
        address = kinds.get(name) in _ADDRESSES
        if isinstance(old, str) and isinstance(new, str) and address and len(old) >= _DISTINCTIVE:
            if anywhere.get(old, new) != new:
                unclear.add(old)
            anywhere[old] = new
    return _Replacements(
        by_name=by_name,
        anywhere={old: new for old, new in anywhere.items() if old not in unclear},
    )


def _readdressed(value: Any, name: str, replaced: _Replacements) -> Any:
    if isinstance(value, dict):
        return {key: _readdressed(member, key, replaced) for key, member in value.items()}
    if isinstance(value, list):
        return [_readdressed(item, name, replaced) for item in value]
    said = (name, canonical_json(value).decode())
    if said in replaced.by_name:
        return replaced.by_name[said]
    return _reworded(value, replaced.anywhere) if isinstance(value, str) else value


def _reworded(text: str, anywhere: Mapping[str, str]) -> str:
    if not anywhere:
        return text
    # Longest first and in one pass: a swap of two values must not undo itself.
    found = "|".join(re.escape(old) for old in sorted(anywhere, key=lambda old: (-len(old), old)))
    return re.sub(rf"(?<!\w)(?:{found})(?!\w)", lambda hit: anywhere[hit.group()], text)
