"""In which state a call stands: the earlier writes of its episode that touch what it reads.

Two calls with equal arguments are the same call only when the writes before them that matter are
the same. A resource is `kind:value`; `kind:*` (or a bare `kind`) is every resource of a kind; `*`
is everything. What a call can see is what it reads and what it writes: a second cancellation of
one order is another call than the first.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from cacherl.cache.canonical import canonical_json
from cacherl.core.tools import Effects

NO_WRITES = b""
"""The state key of a call that no earlier write touches."""

_FIELD = re.compile(r"\{([^{}]*)\}")
_MAX_RESOURCES = 256  # a call that names more widens to the kind


@dataclass(frozen=True, slots=True, order=True)
class Resource:
    """One thing, one kind of things (`value` None) or everything (`kind` None)."""

    kind: str | None
    value: str | None

    def touches(self, other: Resource) -> bool:
        """Say whether the two share anything."""
        if self.kind is None or other.kind is None:
            return True
        if self.kind != other.kind:
            return False
        return self.value is None or other.value is None or self.value == other.value


EVERYTHING = Resource(None, None)


def resources(
    templates: Iterable[str], arguments: Mapping[str, Any], result: Any = None
) -> tuple[Resource, ...]:
    """Return what the templates name for these arguments, sorted, without repeats.

    `{a.b}` reads nested arguments, over arrays one resource an element. A field that is absent or
    no scalar widens the template to its kind. `{result.x}` reads the result and widens likewise
    while there is none.

    Args:
        templates: `Effects.reads` or `Effects.writes`.
        arguments: the call's arguments in normal form.
        result: the decoded result, None before the call.
    """
    named: set[Resource] = set()
    for template in templates:
        named.update(_expand(template, arguments, result))
    return tuple(sorted(named, key=lambda r: (r.kind or "", r.value or "")))


def _expand(template: str, arguments: Mapping[str, Any], result: Any) -> list[Resource]:
    template = template.strip()
    if template == "*":
        return [EVERYTHING]
    kind_text, colon, value_text = template.partition(":")
    kinds = _filled(kind_text, arguments, result)
    if kinds is None:
        return [EVERYTHING]
    if not colon or value_text == "*":
        return [Resource(kind, None) for kind in kinds]
    values = _filled(value_text, arguments, result)
    if values is None or "*" in values:
        return [Resource(kind, None) for kind in kinds]
    return [Resource(kind, value) for kind in kinds for value in values]


def _filled(text: str, arguments: Mapping[str, Any], result: Any) -> list[str] | None:
    """Return the text with its fields filled in, every combination; None where one is unknown."""
    fields = _fields_of(text)
    if not fields:
        return [text]
    choices = []
    for field in fields:
        steps = field.split(".")
        found = (
            _scalars(result, steps[1:])
            if steps[0] == "result" and "result" not in arguments
            else _scalars(arguments, steps)
        )
        if not found:
            return None
        choices.append(found)
    if functools.reduce(lambda count, found: count * len(found), choices, 1) > _MAX_RESOURCES:
        return None
    literals = _FIELD.split(text)[::2]
    filled = []
    for combination in itertools.product(*choices):
        parts = itertools.chain.from_iterable(itertools.zip_longest(literals, combination))
        filled.append("".join(part for part in parts if part is not None))
    return filled


@functools.lru_cache(maxsize=4096)
def _fields_of(text: str) -> tuple[str, ...]:
    return tuple(_FIELD.findall(text))


def _scalars(value: Any, steps: Sequence[str]) -> list[str] | None:
    """Return the values at a path as text; None where the path is absent or ends in an object."""
    if isinstance(value, list):
        found: list[str] = []
        for item in value:
            inner = _scalars(item, steps)
            if inner is None:
                return None
            found += inner
        return found or None
    if steps:
        if not isinstance(value, Mapping) or steps[0] not in value:
            return None
        return _scalars(value[steps[0]], steps[1:])
    if isinstance(value, str):
        return [value]
    if value is None or isinstance(value, Mapping):
        return None
    return [canonical_json(value).decode()]


@dataclass(frozen=True, slots=True, kw_only=True)
class CallState:
    """Where one call stands, computed before it runs and handed back once it has."""

    key: bytes
    """Empty, or the 16-byte digest of the writes that touch the call."""
    writes_before: int
    """How many effective writes of the episode touch the call."""


class StateOverlay:
    """The effective writes of one episode. Single use, like its episode.

    A call costs O(writes it can see that it has not seen yet), never O(history).
    """

    def __init__(self) -> None:
        self._tokens: list[bytes] = []
        self._everything: list[int] = []
        self._whole_kind: dict[str, list[int]] = {}
        self._one: dict[Resource, list[int]] = {}
        self._any_of_kind: dict[str, list[int]] = {}
        self._chains: dict[tuple[Resource, ...], tuple[int, bytes, int]] = {}

    def state(self, effects: Effects, arguments: Mapping[str, Any]) -> CallState:
        """Return the state of a call that is about to run.

        Args:
            effects: the tool's.
            arguments: the call's, in normal form.
        """
        if not self._tokens:
            return CallState(key=NO_WRITES, writes_before=0)
        # What it writes counts as seen too, in case its author did not say so; what only its result
        # will name cannot be what it looked at.
        known = (template for template in effects.writes if "{result." not in template)
        seen = resources((*effects.reads, *known), arguments)
        start, key, count = self._chains.get(seen, (0, NO_WRITES, 0))
        for position in self._touching(seen, start):
            key = hashlib.blake2b(key + self._tokens[position], digest_size=16).digest()
            count += 1
        self._chains[seen] = (len(self._tokens), key, count)
        return CallState(key=key, writes_before=count)

    def write(
        self,
        tool: str,
        effects: Effects,
        arguments: Mapping[str, Any],
        canonical: bytes,
        state: CallState,
        result_text: str,
    ) -> None:
        """Remember a successful call; calls that write nothing leave no trace.

        The same successful write twice in a row counts twice (two tickets are not one). A write
        is known by its call, by the state it ran in and by the resources its result names, so that
        what it did to B because of A is not taken for what it would do otherwise.
        """
        if not effects.writes:
            return
        result = _decoded(result_text) if any("{result" in t for t in effects.writes) else None
        written = resources(effects.writes, arguments, result)
        names = [[r.kind, r.value] for r in written]
        self._append(canonical_json([tool, canonical.decode(), state.key.hex(), names]), written)

    def uncertain(
        self, tool: str, effects: Effects, arguments: Mapping[str, Any], canonical: bytes
    ) -> None:
        """Remember a write that failed in transit: nobody knows whether it happened."""
        if effects.writes:
            written = resources(effects.writes, arguments)
            self._append(canonical_json(["uncertain", tool, canonical.decode()]), written)

    def _append(self, identity: bytes, written: tuple[Resource, ...]) -> None:
        position = len(self._tokens)
        self._tokens.append(hashlib.blake2b(identity, digest_size=16).digest())
        for resource in written:
            if resource.kind is None:
                self._everything.append(position)
                continue
            _push(self._any_of_kind.setdefault(resource.kind, []), position)
            if resource.value is None:
                self._whole_kind.setdefault(resource.kind, []).append(position)
            else:
                self._one.setdefault(resource, []).append(position)

    def _touching(self, seen: tuple[Resource, ...], start: int) -> Iterable[int]:
        if not seen:
            return ()
        if EVERYTHING in seen:
            return range(start, len(self._tokens))
        lists = [self._everything]
        for resource in seen:
            if resource.kind is None:
                continue  # EVERYTHING, answered above
            if resource.value is None:
                lists.append(self._any_of_kind.get(resource.kind, []))
            else:
                lists.append(self._whole_kind.get(resource.kind, []))
                lists.append(self._one.get(resource, []))
        positions: set[int] = set()
        for found in lists:
            positions.update(found[bisect_left(found, start) :])
        return sorted(positions)


def _push(positions: list[int], position: int) -> None:
    if not positions or positions[-1] != position:
        positions.append(position)


def _decoded(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError):
        pass
    try:
        return json.loads(text)
    except ValueError:
        return None
