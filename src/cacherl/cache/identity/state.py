"""In which state a call stands: the earlier writes of its episode that touch what it reads.

Two calls with equal arguments are the same call only when the writes before them that matter are
the same. A resource is `kind:value`; `kind:*` (or a bare `kind`) is every resource of a kind; `*`
is everything. What a call can see is what it reads and what it writes: a second cancellation of
one order is another call than the first.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from cacherl.cache.identity.canonical import canonical_json
from cacherl.core.tools import Effects

NO_WRITES = b""
"""The state key of a call that no earlier write touches."""

DOUBT = b"?"
"""Added to a state key: a state that nobody knows, in which nothing was ever recorded."""

_FIELD = re.compile(r"\{([^{}]*)\}")
_MAX_RESOURCES = 256  # a call that names more widens to the kind


class Resource(msgspec.Struct, frozen=True, order=True, gc=False):
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
    if kinds is None or "*" in kinds:
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


class CallState(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Where one call stands, computed before it runs and handed back once it has."""

    key: bytes
    """Empty, or 16 bytes that stand for the writes that touch the call."""


def touches_no_more(old: Effects, new: Effects) -> bool:
    """Say whether everything that new effects touch was touched under the old ones."""
    seen = {*old.reads, *(each for each in old.writes if "{result." not in each)}
    sees = {*new.reads, *(each for each in new.writes if "{result." not in each)}
    return (
        all(any(_covers(wide, narrow) for wide in seen) for narrow in sees)
        and all(any(_covers(wide, narrow) for wide in old.writes) for narrow in new.writes)
        # What counted once must not count twice: its second recording stands in the first's state.
        and (new.idempotent or not old.idempotent)
    )


def _covers(wide: str, narrow: str) -> bool:
    wide, narrow = wide.strip(), narrow.strip()
    if wide in ("*", narrow):
        return True
    kind, _, value = wide.partition(":")
    return value in ("", "*") and "{" not in kind and narrow.partition(":")[0] == kind


class StateOverlay:
    """The effective writes of one episode. Single use, like its episode.

    Every resource carries the digest of the writes that named it, in order; the state of a call is
    the digests of what it sees. A call therefore costs as much as it names resources, however long
    the episode. Two writes that do not touch one another may have come in either order, save for who
    reads a kind as a whole: a list may show what was made first. The order of two that do touch is
    in their digests, since each holds the state that it ran in.

    An environment that can tell its state does so by `fingerprint`; then that is the key.
    """

    def __init__(self) -> None:
        self._heads: dict[_Chain, bytes] = {}
        self._told: bytes | None = None
        self._settled: dict[tuple[str, bytes], bytes] = {}

    def state(self, effects: Effects, arguments: Mapping[str, Any]) -> CallState:
        """Return the state of a call that is about to run.

        Args:
            effects: the tool's.
            arguments: the call's, in normal form.
        """
        if self._told is None and not self._heads:
            return CallState(key=NO_WRITES)
        return CallState(key=self._key(seen(effects, arguments)))

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

        The same successful write twice in a row counts twice (two tickets are not one), unless the
        tool is idempotent and nothing that it sees has changed in between. A write is known by its
        call, by the state it ran in and by the resources its result names, so that what it did to B
        because of A is not taken for what it would do otherwise.
        """
        if not effects.writes:
            return
        by_result = any("{result" in template for template in effects.writes)
        written = resources(effects.writes, arguments, _decoded(result_text) if by_result else None)
        touched = (*seen(effects, arguments), *written) if effects.idempotent else ()
        if effects.idempotent and self._settled.get((tool, canonical)) == self._key(touched):
            return
        identity = [tool, canonical.decode(), state.key.hex(), [[r.kind, r.value] for r in written]]
        if by_result:
            # Its state could not cover what only its result has named.
            behind = self._key(written)
            identity += [behind.hex()] if behind else []
        self._append(identity, written)
        if effects.idempotent:
            self._settled[tool, canonical] = self._key(touched)

    def uncertain(
        self, tool: str, effects: Effects, arguments: Mapping[str, Any], canonical: bytes
    ) -> None:
        """Remember a write that failed in transit: nobody knows whether it happened."""
        if effects.writes:
            written = resources(effects.writes, arguments)
            behind = self._key((*seen(effects, arguments), *written))
            identity = ["uncertain", tool, canonical.decode(), *([behind.hex()] if behind else [])]
            self._append(identity, written)

    def fingerprint(self, value: str | bytes) -> None:
        """Take the environment's word for the state that the next call will find.

        From here on the key is the digest of `value`, and what tools declare to read and write does
        not matter. Tell it again after every call that may have changed something: a write that
        nobody tells the state after leads to a state of its own, which no fingerprint ever equals.

        Args:
            value: equal for equal states, as `WorldTools.fingerprint` promises.
        """
        said = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
        self._told = _digest(b"fingerprint\n" + said)

    def _key(self, seen: Iterable[Resource]) -> bytes:
        if self._told is not None:
            return self._told
        heads = {head for chain in _read_by(seen) if (head := self._heads.get(chain)) is not None}
        if len(heads) < 2:
            return next(iter(heads), NO_WRITES)
        return _digest(b"seen\n" + b"".join(sorted(heads)))

    def _append(self, identity: list[Any], written: tuple[Resource, ...]) -> None:
        token = _digest(canonical_json(identity))
        if self._told is not None:
            self._told = _digest(self._told + token)
            return
        for chain in _written_by(written):
            self._heads[chain] = _digest(self._heads.get(chain, NO_WRITES) + token)


class _Part(enum.Enum):
    """Which writes a chain holds."""

    ALL = enum.auto()
    """Every write there was."""
    EVERYTHING = enum.auto()
    """Those that named everything."""
    ANY = enum.auto()
    """Those that named a kind, or one of the kind."""
    WHOLE = enum.auto()
    """Those that named a kind as a whole."""
    ONE = enum.auto()
    """Those that named one resource."""


_Chain = tuple[_Part, str, str]
_ALL: _Chain = (_Part.ALL, "", "")
_EVERYTHING: _Chain = (_Part.EVERYTHING, "", "")


def _read_by(seen: Iterable[Resource]) -> Iterator[_Chain]:
    """Yield chains that together hold exactly the writes that touch these resources."""
    for resource in seen:
        if resource.kind is None:
            yield _ALL
            continue
        yield _EVERYTHING
        if resource.value is None:
            yield _Part.ANY, resource.kind, ""
        else:
            yield _Part.WHOLE, resource.kind, ""
            yield _Part.ONE, resource.kind, resource.value


def _written_by(written: Iterable[Resource]) -> set[_Chain]:
    """Return the chains that a write of these resources belongs to."""
    chains = {_ALL}
    for resource in written:
        if resource.kind is None:
            chains.add(_EVERYTHING)
            continue
        chains.add((_Part.ANY, resource.kind, ""))
        if resource.value is None:
            chains.add((_Part.WHOLE, resource.kind, ""))
        else:
            chains.add((_Part.ONE, resource.kind, resource.value))
    return chains


def seen(effects: Effects, arguments: Mapping[str, Any]) -> tuple[Resource, ...]:
    """Return what a call can see: what it reads, and what it writes in case its author forgot to say so.

    What only its result will name cannot be what it looked at.
    """
    told = "result" in arguments  # then `{result.x}` is an argument's
    known = (template for template in effects.writes if told or "{result." not in template)
    return resources((*effects.reads, *known), arguments)


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _decoded(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError):
        pass
    try:
        return json.loads(text)
    except ValueError:
        return None
