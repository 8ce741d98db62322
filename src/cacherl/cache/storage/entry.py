"""What is kept: calls, and what the tool answered to each."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable

import msgspec

from cacherl.cache.identity.canonical import decode_canonical
from cacherl.cache.identity.key import digest, full_key
from cacherl.core.records import JsonObject, Record
from cacherl.core.tasks import Split
from cacherl.core.tools import ErrorClass, Source

MAX_DISTINCT = 64
"""Distinct observations kept of one call. Which ones is decided by their content, never by the order
in which they came, so that merging caches in any order keeps the same ones."""


class Observation(Record, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One answer of a tool, and where it comes from."""

    text: str
    is_error: bool = False
    error_class: ErrorClass | None = None
    source: Source
    scenario: str
    split: Split
    latency_s: float = 0.0
    """Wall seconds of the live call."""
    recorded_at: float | None = None
    """Seconds since 1970 UTC; None where nobody knows, which is too old for any `max_age_s`."""
    occurrence: int = 0
    """How often its episode had made the same call in the same state before."""
    asked: str | None = None
    """The arguments as they were written (canonical JSON), where normalisation rewrote them: what
    a later version needs to normalise them differently."""
    after: str | None = None
    """The environment's word for its state after the call, where it gave one (see `StateOverlay.fingerprint`)."""
    wire: str | None = None
    """The answer as the tool's server gave it (JSON), where that is more than `text` says. Never half a
    character: `json_text` escapes it."""

    @property
    def length(self) -> int:
        """Characters of the answer: what it takes to hold it."""
        return len(self.text) + (0 if self.wire is None else len(self.wire))

    def same_answer(self, other: Observation) -> bool:
        """Say whether both tell the model the same."""
        return self.text == other.text and self.is_error == other.is_error

    def repeats(self, other: Observation) -> bool:
        """Say whether this is `other` once more: same answer, same provenance."""
        return (
            self.same_answer(other)
            and self.error_class == other.error_class
            and self.source == other.source
            and self.scenario == other.scenario
            and self.split == other.split
            and self.after == other.after
            and self.wire == other.wire
        )

    def content(self) -> bytes:
        """Return 16 bytes that are equal for observations that repeat one another, and for no others."""
        parts: list[object] = [
            self.text,
            self.is_error,
            self.error_class,
            self.source,
            self.scenario,
            self.split,
        ]
        if self.after is not None or self.wire is not None:
            parts.append(self.after)
        if self.wire is not None:
            parts.append(self.wire)
        said = json.dumps(parts)
        return hashlib.blake2b(said.encode(), digest_size=16).digest()


_HALF_CHARACTER = re.compile("[\ud800-\udfff]")


def json_text(wire: str) -> str:
    """Return the same JSON in characters that UTF-8 can carry: halves of characters are escaped."""
    if wire.isascii():
        return wire
    return _HALF_CHARACTER.sub(lambda half: f"\\u{ord(half.group()):04x}", wire)


class RecordedCall(msgspec.Struct, frozen=True, gc=False):
    """The identity of a call, whole: hash and bytes."""

    namespace: str
    tool: str
    canonical: bytes
    """Normal arguments as canonical JSON."""
    state: bytes
    key: bytes
    """The 16-byte hash. Never trusted alone."""

    @classmethod
    def of(cls, namespace: str, tool: str, canonical: bytes, state: bytes) -> RecordedCall:
        """Return the call with its key."""
        return cls(
            namespace, tool, canonical, state, digest(full_key(namespace, tool, canonical, state))
        )

    @property
    def arguments(self) -> JsonObject:
        """The normal arguments."""
        value: JsonObject = decode_canonical(self.canonical)
        return value


class Kept(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An observation and how often it was made."""

    observation: Observation
    times: int


class CacheEntry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A call and everything that was observed for it, first observation first."""

    call: RecordedCall
    kept: tuple[Kept, ...]


def grown(kept: tuple[Kept, ...], observation: Observation) -> tuple[tuple[Kept, ...], bool]:
    """Return the observations with one more, and whether it is new. The order of recording is kept.

    One that repeats a kept one is counted. Past `MAX_DISTINCT` those with the smallest content
    hashes stay.
    """
    for place, known in enumerate(kept):
        if observation.repeats(known.observation):
            counted = Kept(observation=known.observation, times=known.times + 1)
            return (*kept[:place], counted, *kept[place + 1 :]), False
    added = (*kept, Kept(observation=observation, times=1))
    if len(added) <= MAX_DISTINCT:
        return added, True
    left = _limited(added)
    return left, any(each.observation is observation for each in left)


def merged(ours: tuple[Kept, ...], theirs: tuple[Kept, ...]) -> tuple[Kept, ...]:
    """Return what two caches know of one call. Commutative, associative, idempotent.

    Of an observation that both hold, the larger count stands (the sum would grow with every merge)
    and the earlier recording's time. The order is that of recording where times are known.
    """
    if not ours or not theirs:
        alone = ours or theirs
        if len(alone) == 1:
            return alone
    by_content: dict[bytes, Kept] = {}
    for one in (*ours, *theirs):
        name = one.observation.content()
        known = by_content.get(name)
        if known is None:
            by_content[name] = one
            continue
        first = min(known, one, key=_order)
        by_content[name] = Kept(observation=first.observation, times=max(known.times, one.times))
    return _limited(sorted(by_content.values(), key=_order))


def _limited(kept: Iterable[Kept]) -> tuple[Kept, ...]:
    """Return at most `MAX_DISTINCT` of the observations, in the order they stand."""
    kept = tuple(kept)
    if len(kept) <= MAX_DISTINCT:
        return kept
    contents = sorted(each.observation.content() for each in kept)
    highest = contents[MAX_DISTINCT - 1]
    return tuple(each for each in kept if each.observation.content() <= highest)


def _order(kept: Kept) -> tuple[bool, float, int, bytes, str, float]:
    observation = kept.observation
    at = observation.recorded_at
    # The last two only decide between recordings of the same answer at the same time.
    return (
        at is None,
        at or 0.0,
        observation.occurrence,
        observation.content(),
        observation.asked or "",
        observation.latency_s,
    )
