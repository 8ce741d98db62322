"""Where recordings are kept: the seam, and the store in memory."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

from cacherl.cache.identity.normalise import Plan
from cacherl.cache.matching.nearest import LooseIndex
from cacherl.cache.storage.entry import (
    CacheEntry,
    Kept,
    Observation,
    RecordedCall,
    grown,
    merged,
)
from cacherl.core.tasks import Split
from cacherl.core.tools import ToolSpec

K = TypeVar("K")
V = TypeVar("V")


class CacheStore(Protocol):
    """A persistent map from calls to observations; matching lives elsewhere.

    Any number of instances, in any number of processes, may open the same cache at once; one
    instance may be used from several threads. `tests/cache/test_store_contract.py` runs the same
    tests on every store.
    """

    @property
    def writable(self) -> bool:
        """Whether anything can be kept here."""
        ...

    def put_tool(self, namespace: str, spec: ToolSpec) -> None:
        """Keep the tool's declaration; the last one put is the one told."""
        ...

    def tools(self) -> dict[tuple[str, str], ToolSpec]:
        """Return every declared tool by namespace and name."""
        ...

    def add(self, call: RecordedCall, observation: Observation) -> bool:
        """Keep an observation; say whether it was a new one.

        The first observation of a call stays the first. One that repeats a kept one is counted;
        a different one is kept beside it. Durable against a killed process once this returns
        (outside a batch).
        """
        ...

    def get(self, call: RecordedCall) -> CacheEntry | None:
        """Return the entry of exactly this call, or None. Never raises for a miss.

        Raises:
            CacheError: what is kept was damaged.
        """
        ...

    def get_many(self, calls: Sequence[RecordedCall]) -> list[CacheEntry | None]:
        """Return what `get` returns for each call, in one round trip where there is one."""
        ...

    def by_key(self, key: bytes) -> CacheEntry | None:
        """Return the first entry with this hash, or None: for showing and for index answers."""
        ...

    def by_tool(self, namespace: str, tool: str) -> Iterator[CacheEntry]:
        """Yield the tool's entries in the order they were first recorded."""
        ...

    def entries(self) -> Iterator[CacheEntry]:
        """Yield every entry in the order they were first recorded."""
        ...

    def absorb(self, entry: CacheEntry) -> bool:
        """Merge an entry of another cache into this one (see `entry.merged`); say whether anything changed."""
        ...

    def remove(self, call: RecordedCall) -> bool:
        """Forget exactly this call; say whether it was there. Never on a cache that rollouts read."""
        ...

    def note(self, name: str) -> bytes | None:
        """Return what was kept beside the recordings under a name (calibration, settings), or None.

        Raises:
            CacheError: it was damaged.
        """
        ...

    def put_note(self, name: str, value: bytes) -> None:
        """Keep something beside the recordings; the last value put is the one told."""
        ...

    def drop_note(self, name: str) -> None:
        """Forget a note, if there is one."""
        ...

    def notes(self) -> tuple[str, ...]:
        """Return the names of all notes, sorted."""
        ...

    def newest(self) -> float | None:
        """Return the latest `recorded_at` of all observations, or None: no clock may stand before it."""
        ...

    def index(
        self, namespace: str, tool: str, plan: Plan, splits: frozenset[Split]
    ) -> LooseIndex | None:
        """Return a ready index of the tool's successes in these splits under exactly this plan.

        None where there is no such index: build one.
        """
        ...

    def batch(self) -> contextlib.AbstractContextManager[None]:
        """Return a block whose writes become durable together, or not at all if it raises."""
        ...

    def close(self) -> None:
        """Let go of the files. Safe to call twice."""
        ...


class MemoryStore:
    """A store that lives as long as its process: for tests and for worlds recorded on the spot."""

    def __init__(self) -> None:
        self._tools: dict[tuple[str, str], ToolSpec] = {}
        self._entries: dict[RecordedCall, CacheEntry] = {}
        self._by_key: dict[bytes, list[RecordedCall]] = {}
        self._by_tool: dict[tuple[str, str], list[RecordedCall]] = {}
        self._notes: dict[str, bytes] = {}
        self._newest: float | None = None
        self._undo: list[Callable[[], None]] | None = None

    @property
    def writable(self) -> bool:
        return True

    def put_tool(self, namespace: str, spec: ToolSpec) -> None:
        name = (namespace, spec.name)
        before = self._tools.get(name)
        self._tools[name] = spec
        if self._undo is not None:
            self._undo.append(functools.partial(_restore, self._tools, name, before))

    def tools(self) -> dict[tuple[str, str], ToolSpec]:
        return dict(self._tools)

    def add(self, call: RecordedCall, observation: Observation) -> bool:
        entry = self._entries.get(call)
        kept, is_new = grown(() if entry is None else entry.kept, observation)
        self._set(call, entry, kept)
        return is_new

    def absorb(self, entry: CacheEntry) -> bool:
        known = self._entries.get(entry.call)
        kept = merged(() if known is None else known.kept, entry.kept)
        if known is not None and kept == known.kept:
            return False
        self._set(entry.call, known, kept)
        return True

    def remove(self, call: RecordedCall) -> bool:
        entry = self._entries.get(call)
        if entry is None:
            return False
        places = self._by_key[call.key], self._by_tool[call.namespace, call.tool]
        if self._undo is not None:
            spots = [calls.index(call) for calls in places]
            self._undo.append(functools.partial(self._put_back, entry, spots))
        del self._entries[call]
        for calls in places:
            calls.remove(call)
        return True

    def _put_back(self, entry: CacheEntry, spots: Sequence[int]) -> None:
        call = entry.call
        self._entries[call] = entry
        for calls, spot in zip(
            (self._by_key[call.key], self._by_tool[call.namespace, call.tool]), spots, strict=True
        ):
            calls.insert(spot, call)

    def note(self, name: str) -> bytes | None:
        return self._notes.get(name)

    def put_note(self, name: str, value: bytes) -> None:
        before = self._notes.get(name)
        self._notes[name] = value
        if self._undo is not None:
            self._undo.append(functools.partial(_restore, self._notes, name, before))

    def drop_note(self, name: str) -> None:
        before = self._notes.pop(name, None)
        if self._undo is not None:
            self._undo.append(functools.partial(_restore, self._notes, name, before))

    def notes(self) -> tuple[str, ...]:
        return tuple(sorted(self._notes))

    def newest(self) -> float | None:
        return self._newest

    def index(
        self, namespace: str, tool: str, plan: Plan, splits: frozenset[Split]
    ) -> LooseIndex | None:
        return None

    def _set(self, call: RecordedCall, before: CacheEntry | None, kept: tuple[Kept, ...]) -> None:
        self._entries[call] = CacheEntry(call=call, kept=kept)
        times = [at for each in kept if (at := each.observation.recorded_at) is not None]
        self._newest = max(
            [*times, *([] if self._newest is None else [self._newest])], default=None
        )
        if before is None:
            self._by_key.setdefault(call.key, []).append(call)
            self._by_tool.setdefault((call.namespace, call.tool), []).append(call)
        if self._undo is not None:
            self._undo.append(functools.partial(self._unset, call, before))

    def _unset(self, call: RecordedCall, before: CacheEntry | None) -> None:
        _restore(self._entries, call, before)
        if before is None:
            self._by_key[call.key].remove(call)
            self._by_tool[call.namespace, call.tool].remove(call)

    def get(self, call: RecordedCall) -> CacheEntry | None:
        return self._entries.get(call)

    def get_many(self, calls: Sequence[RecordedCall]) -> list[CacheEntry | None]:
        return [self._entries.get(call) for call in calls]

    def by_key(self, key: bytes) -> CacheEntry | None:
        calls = self._by_key.get(key)
        return self._entries[calls[0]] if calls else None

    def by_tool(self, namespace: str, tool: str) -> Iterator[CacheEntry]:
        for call in list(self._by_tool.get((namespace, tool), ())):
            yield self._entries[call]

    def entries(self) -> Iterator[CacheEntry]:
        yield from list(self._entries.values())

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        if self._undo is not None:
            yield  # the outer block decides
            return
        self._undo = []
        try:
            yield
        except BaseException:
            undo, self._undo = self._undo, None
            for step in reversed(undo):
                step()
            raise
        finally:
            self._undo = None

    def close(self) -> None:
        """Nothing to let go of."""


def _restore(table: dict[K, V], name: K, before: V | None) -> None:
    if before is None:
        table.pop(name, None)
    else:
        table[name] = before
