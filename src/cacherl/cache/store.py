"""Where recordings are kept: the seam, and the store in memory."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

from cacherl.cache.entry import CacheEntry, Kept, Observation, RecordedCall
from cacherl.core.tools import ToolSpec

K = TypeVar("K")
V = TypeVar("V")

MAX_DISTINCT = 64
"""Distinct observations kept of one call; later ones are counted nowhere."""


class CacheStore(Protocol):
    """A persistent map from calls to observations; matching lives elsewhere.

    Any number of instances, in any number of processes, may open the same cache at once; one
    instance may be used from several threads. `tests/cache/test_store_contract.py` runs the same
    tests on every store.
    """

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

    def by_key(self, key: bytes) -> CacheEntry | None:
        """Return the first entry with this hash, or None: for showing and for index answers."""
        ...

    def by_tool(self, namespace: str, tool: str) -> Iterator[CacheEntry]:
        """Yield the tool's entries in the order they were first recorded."""
        ...

    def entries(self) -> Iterator[CacheEntry]:
        """Yield every entry in the order they were first recorded."""
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
        self._undo: list[Callable[[], None]] | None = None

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
        kept = () if entry is None else entry.kept
        for place, known in enumerate(kept):
            if observation.repeats(known.observation):
                counted = Kept(observation=known.observation, times=known.times + 1)
                self._set(call, entry, (*kept[:place], counted, *kept[place + 1 :]))
                return False
        if len(kept) >= MAX_DISTINCT:
            return False
        self._set(call, entry, (*kept, Kept(observation=observation, times=1)))
        return True

    def _set(self, call: RecordedCall, before: CacheEntry | None, kept: tuple[Kept, ...]) -> None:
        self._entries[call] = CacheEntry(call=call, kept=kept)
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
