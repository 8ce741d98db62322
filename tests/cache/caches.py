"""Small whole caches for the tests of this room, and what they hold."""

from __future__ import annotations

import itertools
from pathlib import Path

import msgspec

from cacherl.cache.storage.entry import CacheEntry, Kept, Observation, RecordedCall
from cacherl.cache.storage.portable import export
from cacherl.cache.storage.sqlite import SqliteStore
from cacherl.cache.storage.store import CacheStore, MemoryStore
from cacherl.cache.trust.fidelity import Calibration, Unit
from cacherl.core.errors import CacheError
from cacherl.core.tools import ToolSpec
from tests.cache.recordings import SPACE

numbers = itertools.count()


def exported(store: CacheStore, folder: Path) -> bytes:
    path = folder / f"{next(numbers)}.jsonl"
    export(store, path)
    return path.read_bytes()


def file_with(path: Path, *entries: CacheEntry, notes: dict[str, bytes] | None = None) -> Path:
    store = SqliteStore(path, mode="write")
    with store.batch():
        for entry in entries:
            store.absorb(entry)
        for name, value in (notes or {}).items():
            store.put_note(name, value)
    store.close()
    return path


def entry(of: RecordedCall, *observations: Observation) -> CacheEntry:
    return CacheEntry(call=of, kept=tuple(Kept(observation=each, times=1) for each in observations))


def contents(path: Path) -> bytes:
    store = SqliteStore(path)
    try:
        return exported(store, path.parent)
    finally:
        store.close()


def built(entries: list[CacheEntry], spec: ToolSpec | None, notes: dict[str, bytes]) -> MemoryStore:
    store = MemoryStore()
    if spec is not None:
        store.put_tool(SPACE, spec)
    for each in entries:
        store.absorb(each)
    for name, value in notes.items():
        store.put_note(name, value)
    return store


def texts(store: CacheStore) -> set[str]:
    return {kept.observation.text for each in store.entries() for kept in each.kept}


class Breaking(MemoryStore):
    """A store that fails in the middle of a change."""

    fails = False

    def absorb(self, entry: CacheEntry) -> bool:
        if self.fails:
            raise CacheError("the disk is full")
        return super().absorb(entry)


def calibration(seed: int = 0) -> bytes:
    """A calibration's note; of nothing, which those who only carry it cannot tell."""
    measured = Calibration(
        cache="a.sqlite",
        calls=0,
        observations=0,
        scenarios=0,
        unit=Unit.OBSERVATION,
        seed=seed,
        per_tool=1,
        asked=0,
        answered={},
        estimates=(),
    )
    return msgspec.json.encode(measured)
