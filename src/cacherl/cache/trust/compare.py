"""When two recorded results of one call say the same: pure comparators over observations.

A failure never equals a success, whatever the texts. Text that is no JSON is compared byte for byte by
every comparator.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from cacherl.cache.identity.canonical import canonical_json, decode_canonical
from cacherl.cache.lookup.settings import Compare
from cacherl.cache.storage.entry import Observation

_NO_JSON = object()


def agreement(
    one: Observation,
    other: Observation,
    compare: Compare = Compare.JSON,
    volatile_paths: Sequence[str] = (),
) -> float:
    """Return how far two results say the same, in [0, 1]. Symmetric; 1 for a result and itself.

    Args:
        one: a result.
        other: a result of the same call.
        compare: BYTES and JSON answer 0 or 1, FIELDS anything between. Never BYTES > JSON > FIELDS.
        volatile_paths: places that say nothing (`generated_at`, `items[].rank`), with all below
            them; BYTES takes no notice.
    """
    if one.is_error != other.is_error:
        return 0.0
    if one.text == other.text:
        return 1.0
    if compare is Compare.BYTES:
        return 0.0
    try:
        ours, theirs = _value(one.text), _value(other.text)
        if ours is _NO_JSON or theirs is _NO_JSON:
            return 0.0
        paths = [_steps(path) for path in volatile_paths]
        ours, theirs = without(ours, paths), without(theirs, paths)
        if compare is Compare.JSON:
            return float(canonical_json(ours) == canonical_json(theirs))
        return _f1(leaves(ours), leaves(theirs))
    except RecursionError:
        return 0.0  # nested past what Python walks: only equal texts are known to be equal


def differing_paths(one: Observation, other: Observation) -> tuple[str, ...]:
    """Return where two results differ, sorted; `$` is the whole where one is no JSON."""
    try:
        ours, theirs = _value(one.text), _value(other.text)
        if ours is _NO_JSON or theirs is _NO_JSON:
            return ("$",)
        mine, other_leaves = leaves(ours), leaves(theirs)
    except RecursionError:
        return ("$",)
    only = (mine - other_leaves) | (other_leaves - mine)
    return tuple(sorted({path or "$" for path, _ in only}))


def leaves(value: Any) -> Counter[tuple[str, bytes]]:
    """Return the leaf fields of a JSON value, each with how often it occurs.

    Places in an array share a path, so that an array that grew keeps what it had. An empty object
    or array is a leaf.
    """
    found: Counter[tuple[str, bytes]] = Counter()
    _gather(value, "", found)
    return found


def _gather(value: Any, path: str, found: Counter[tuple[str, bytes]]) -> None:
    if isinstance(value, dict) and value:
        for name, member in value.items():
            _gather(member, f"{path}.{name}" if path else name, found)
    elif isinstance(value, list) and value:
        for item in value:
            _gather(item, f"{path}[]", found)
    else:
        found[path, canonical_json(value)] += 1


def without(value: Any, paths: Sequence[Sequence[str]]) -> Any:
    """Return a JSON value without what stands at the paths (each a list of member names and `[]`)."""
    if not paths:
        return value
    if isinstance(value, dict):
        kept = {}
        for name, member in value.items():
            below = [path[1:] for path in paths if path and path[0] == name]
            if [] not in below:
                kept[name] = without(member, below)
        return kept
    if isinstance(value, list):
        below = [path[1:] for path in paths if path and path[0] == "[]"]
        return [] if [] in below else [without(item, below) for item in value]
    return value


def _f1(ours: Counter[tuple[str, bytes]], theirs: Counter[tuple[str, bytes]]) -> float:
    total = ours.total() + theirs.total()  # never 0: an empty object is a leaf
    return 2 * (ours & theirs).total() / total


def _value(text: str) -> Any:
    try:
        return decode_canonical(text.encode("utf-8", "surrogatepass"))
    except ValueError:
        return _NO_JSON


def _steps(path: str) -> list[str]:
    return [step for step in path.replace("[]", ".[]").split(".") if step]
