"""What is kept: calls, and what the tool answered to each."""

from __future__ import annotations

from dataclasses import dataclass

from cacherl.cache.canonical import decode_canonical
from cacherl.cache.key import digest, full_key
from cacherl.core.records import JsonObject, Record
from cacherl.core.tasks import Split
from cacherl.core.tools import ErrorClass, Source


class Observation(Record, frozen=True, kw_only=True):
    """One answer of a tool, and where it comes from."""

    text: str
    is_error: bool = False
    error_class: ErrorClass | None = None
    source: Source
    scenario: str
    split: Split
    latency_s: float = 0.0
    """Wall seconds of the live call."""

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
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedCall:
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
            namespace=namespace,
            tool=tool,
            canonical=canonical,
            state=state,
            key=digest(full_key(namespace, tool, canonical, state)),
        )

    @property
    def arguments(self) -> JsonObject:
        """The normal arguments."""
        value: JsonObject = decode_canonical(self.canonical)
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """An observation and how often it was made."""

    observation: Observation
    times: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheEntry:
    """A call and everything that was observed for it, first observation first."""

    call: RecordedCall
    kept: tuple[Kept, ...]
