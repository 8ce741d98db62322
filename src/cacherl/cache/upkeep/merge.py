"""Recordings of several caches brought into one, and caches read whole from wherever they are.

Merging is a join of sets. Calls and observations: `entry.merged`. Where two caches say two things
under one name, the same one is kept in whatever order they come, and the disagreement is told:

- a tool's declaration: the one that says more (declares its effects, then describes parameters),
  then the one with the greater canonical bytes;
- a note: the greater bytes. Settings of one of them are not those of both, so look at what the
  summary tells;
- a calibration: it stays where the result holds what the cache that it was made of held, and
  nothing else; any other is dropped in the batch that makes it untrue, and told;
- caches with different redaction, or with and without, are not merged at all: the result would
  claim to hold no secrets and hold some.

So merging is commutative, associative and idempotent in what an export of the result holds. It
goes in batches, each durable once done: killed, it is run again and adds what is missing.
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from cacherl.cache.identity.key import CANON_VERSION
from cacherl.cache.lookup.tool_cache import ToolCache
from cacherl.cache.safety import redact
from cacherl.cache.storage.entry import CacheEntry, merged
from cacherl.cache.storage.portable import (
    Exported,
    Header,
    NoteLine,
    ToolLine,
    export,
    is_current,
    is_export,
    read_export,
)
from cacherl.cache.storage.sqlite import SqliteStore
from cacherl.cache.storage.store import CacheStore
from cacherl.cache.trust import fidelity
from cacherl.cache.upkeep.named import Opener, refuse_other_files
from cacherl.cache.upkeep.rekey import rekey
from cacherl.core.errors import CacheError, DataError
from cacherl.core.records import Record
from cacherl.core.tools import ErrorClass, ToolSpec

_BATCH_CALLS = 1000
_BATCH_BYTES = 32 << 20
_SHOWN = 20
"""Contradictions told in full by a merge."""
_EXCERPT = 200


class Disagreement(Record, frozen=True, kw_only=True):
    """Two caches that say two things under one name."""

    what: Literal["tool", "note"]
    name: str
    source: str
    """Whose was compared with what was merged before it."""
    kept: Literal["before", "source"]


class Contradiction(Record, frozen=True, kw_only=True):
    """One call that one scenario answers in two ways: two caches have no answer of it in common."""

    namespace: str
    tool: str
    arguments: str
    state: str
    scenario: str
    ours: str
    theirs: str


class Merged(Record, frozen=True, kw_only=True):
    """What a merge did."""

    path: str
    sources: tuple[str, ...]
    calls: int
    """Calls read from the sources."""
    new: int
    """Calls that were not there before."""
    changed: int
    """Calls of which more is known now."""
    conflicts: int
    """Calls that a scenario answers one way here and another way there. Both are kept."""
    shown: tuple[Contradiction, ...]
    """The first of them."""
    disagreements: tuple[Disagreement, ...]
    left_out: int
    """Calls recorded under other normalisation rules: rekey the source, then merge it again."""
    redacted: bool
    """Queries need the key that the sources were redacted with; it is in no cache and in no export."""
    calibration_dropped: bool
    """There was a calibration, and none is of what is recorded now: calibrate again."""


def merge(out: Path, sources: Sequence[str], *, open_cache: Opener = ToolCache.open) -> Merged:
    """Merge caches (files, snapshots, servers, exports) into a new or existing cache file.

    `out` itself among the sources is passed over.

    Raises:
        CacheError: `out` cannot be written, a source cannot be read, or their redaction differs.
        DataError: an export is damaged; nothing of it is merged.
    """
    refuse_other_files(out)
    others = [name for name in sources if not _same_file(out, name)]
    for name in others:
        _readable(name, open_cache)
    tally = _Tally(str(out))
    with contextlib.closing(SqliteStore(out, mode="write")) as store:
        _same_redaction(store, out, others, open_cache)
        for name in others:
            tally.sources.append(name)
            if _is_export(name) and _canon(Path(name)) == CANON_VERSION:
                _absorb_export(store, Path(name), tally)
                continue
            with opened(name, open_cache) as source:
                merge_store(store, source, tally)
        return tally.summary(store)


def import_file(file: Path, out: str, *, open_cache: Opener = ToolCache.open) -> Merged:
    """Merge an export into a cache, new or not: all of it or nothing.

    Raises:
        DataError: it is no export, or a damaged one; names file, line and field.
        CacheError: `out` cannot be written, or its redaction is another.
    """
    if file.exists() and not is_export(file):
        raise DataError(
            f"{file}: not an export. Merge caches with `cacherl cache merge {out} {file}`."
        )
    tally = _Tally(out)
    _readable(str(file), open_cache)
    with open_cache(out, mode="write") as cache:
        _same_redaction(cache.store, Path(out), [str(file)], open_cache)
        tally.sources.append(str(file))
        if _canon(file) == CANON_VERSION:
            _absorb_export(cache.store, file, tally)
        else:
            with opened(str(file), open_cache) as source, cache.store.batch():
                merge_store(cache.store, source, tally)
        return tally.summary(cache.store)


def export_file(name: str, path: Path, *, open_cache: Opener = ToolCache.open) -> Exported:
    """Export a cache by name. Result and errors as `portable.export`."""
    if path.exists() and not is_export(path):
        raise DataError(f"{path}: something else than an export stands there. Choose another name.")
    with opened(name, open_cache) as store:
        return export(store, path)


@contextlib.contextmanager
def opened(name: str, open_cache: Opener = ToolCache.open) -> Iterator[CacheStore]:
    """Open whatever holds recordings, to read. An export is read whole into a temporary cache first.

    An export of older normalisation rules is moved to today's there (see `rekey`).
    """
    path = Path(name)
    if not _is_export(name):
        with open_cache(name) as cache:
            yield cache.store
        return
    with tempfile.TemporaryDirectory(prefix="cacherl-") as folder:
        store = SqliteStore(Path(folder) / "export.sqlite", mode="write")
        with contextlib.closing(store):
            _absorb_export(store, path, _Tally(name))
            if _canon(path) != CANON_VERSION:
                rekey(store)
            yield store


def merge_store(store: CacheStore, source: CacheStore, tally: _Tally | None = None) -> Merged:
    """Merge one open store into another, in batches."""
    tally = tally or _Tally("")
    arrived = _arriving(store, tally)
    with store.batch():
        declared = store.tools()
        for (namespace, _), spec in source.tools().items():
            _absorb_tool(store, declared, namespace, spec, tally)
        for name in source.notes():
            value = source.note(name)
            if value is not None:
                _absorb_note(store, name, value, tally, arrived)
    current = (entry for entry in source.entries() if _counts(entry, tally))
    for page in pages(current):
        _absorb(store, page, tally, arrived)
    _absorb_calibration(store, tally, arrived)
    if isinstance(source, SqliteStore):
        tally.counts["left_out"] += source.stale()
    return tally.summary(store)


class _Tally:
    """What a merge has done so far."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.sources: list[str] = []
        self.counts: Counter[str] = Counter()
        self.shown: list[Contradiction] = []
        self.disagreements: list[Disagreement] = []
        self.calibrated = False

    def disagree(self, what: Literal["tool", "note"], name: str, *, theirs: bool) -> None:
        self.disagreements.append(
            Disagreement(
                what=what,
                name=name,
                source=self.sources[-1] if self.sources else "",
                kept="source" if theirs else "before",
            )
        )

    def summary(self, store: CacheStore) -> Merged:
        return Merged(
            path=self.path,
            sources=tuple(self.sources),
            calls=self.counts["calls"],
            new=self.counts["new"],
            changed=self.counts["changed"],
            conflicts=self.counts["conflicts"],
            shown=tuple(self.shown),
            disagreements=tuple(self.disagreements),
            left_out=self.counts["left_out"],
            redacted=store.note(redact.NOTE) is not None,
            calibration_dropped=(
                self.calibrated
                and bool(self.counts["new"] or self.counts["changed"])
                and fidelity.NOTE not in store.notes()
            ),
        )


@dataclass(slots=True, kw_only=True)
class _Arrived:
    """What has come of one source, as far as its calibration depends on it."""

    to_nothing: bool
    """Nothing was recorded before it."""
    calls: int = 0
    as_told: bool = True
    """Of none of its calls more is known now than it knew."""
    calibration: bytes | None = None


def _arriving(store: CacheStore, tally: _Tally) -> _Arrived:
    tally.calibrated |= fidelity.NOTE in store.notes()
    return _Arrived(to_nothing=next(store.entries(), None) is None)


def _counts(entry: CacheEntry, tally: _Tally) -> bool:
    if is_current(entry.call):
        return True
    tally.counts["left_out"] += 1
    return False


def _absorb_export(store: CacheStore, path: Path, tally: _Tally) -> None:
    """Merge an export in one batch: its last line says whether the others were whole."""
    arrived = _arriving(store, tally)
    with store.batch():
        declared = store.tools()
        entries: list[CacheEntry] = []
        held = 0
        for item in read_export(path):
            match item:
                case Header():
                    pass
                case ToolLine():
                    _absorb_tool(store, declared, item.namespace, item.spec, tally)
                case NoteLine():
                    _absorb_note(store, item.name, item.value, tally, arrived)
                case CacheEntry():
                    entries.append(item)
                    held += _size(item)
                    if len(entries) >= _BATCH_CALLS or held >= _BATCH_BYTES:
                        _absorb(store, entries, tally, arrived)
                        entries, held = [], 0
        _absorb(store, entries, tally, arrived)
        _absorb_calibration(store, tally, arrived)


def _absorb(
    store: CacheStore, page: Sequence[CacheEntry], tally: _Tally, arrived: _Arrived
) -> None:
    arrived.calls += len(page)
    with store.batch():
        more = False
        known = store.get_many([entry.call for entry in page])
        for entry, ours in zip(page, known, strict=True):
            tally.counts["calls"] += 1
            if ours is None:
                tally.counts["new"] += 1
                more = True
            elif ours.kept == entry.kept:
                continue
            else:
                before = merged(ours.kept, ())
                after = merged(before, entry.kept)
                tally.counts["changed"] += after != before
                more |= after != before
                arrived.as_told &= after == merged(entry.kept, ())
                found = list(contradictions(ours, entry))
                tally.counts["conflicts"] += bool(found)
                tally.shown += found[: _SHOWN - len(tally.shown)]
            store.absorb(entry)
        if more:
            fidelity.drop_calibration(store)


def _absorb_calibration(store: CacheStore, tally: _Tally, arrived: _Arrived) -> None:
    """Keep a source's calibration if the cache now holds what that source held, and nothing else."""
    value = arrived.calibration
    if value is None:
        return
    tally.calibrated = True
    if arrived.as_told and (arrived.to_nothing or _holds(store, arrived.calls)):
        _settle_note(store, fidelity.NOTE, value, tally)


def _holds(store: CacheStore, calls: int) -> bool:
    return sum(1 for _ in itertools.islice(store.entries(), calls + 1)) == calls


def _absorb_tool(
    store: CacheStore,
    declared: dict[tuple[str, str], ToolSpec],
    namespace: str,
    spec: ToolSpec,
    tally: _Tally,
) -> None:
    ours = declared.get((namespace, spec.name))
    if ours is None:
        store.put_tool(namespace, spec)
    elif spec_bytes(ours) != spec_bytes(spec):
        theirs = _rank(spec) > _rank(ours)
        if theirs:
            store.put_tool(namespace, spec)
        tally.disagree("tool", f"{namespace}/{spec.name}", theirs=theirs)


def _absorb_note(
    store: CacheStore, name: str, value: bytes, tally: _Tally, arrived: _Arrived
) -> None:
    if name == fidelity.NOTE:
        arrived.calibration = value  # until it is known whether it holds
    else:
        _settle_note(store, name, value, tally)


def _settle_note(store: CacheStore, name: str, value: bytes, tally: _Tally) -> None:
    ours = store.note(name)
    if ours is None:
        store.put_note(name, value)
    elif ours != value:
        if value > ours:
            store.put_note(name, value)
        tally.disagree("note", name, theirs=value > ours)


def _rank(spec: ToolSpec) -> tuple[bool, bool, bytes]:
    """Order declarations by how much they say: a placeholder never wins over the tool's own word."""
    return (
        "*" not in (*spec.effects.reads, *spec.effects.writes),
        bool(spec.parameters.get("properties")),
        spec_bytes(spec),
    )


def spec_bytes(spec: ToolSpec) -> bytes:
    """Return a declaration as bytes: equal ones, equal bytes."""
    return msgspec.json.encode(spec, order="sorted")


def contradictions(ours: CacheEntry, theirs: CacheEntry) -> Iterator[Contradiction]:
    """Yield the scenarios that both know and in which they have no answer in common.

    One common answer is enough to agree: a tool that is not deterministic gives several, and two
    caches have drawn some of them each. Transient failures say nothing and are left aside.
    """
    call = ours.call
    here, there = _answers(ours), _answers(theirs)
    for scenario in sorted(here.keys() & there.keys()):
        if here[scenario].isdisjoint(there[scenario]):
            yield Contradiction(
                namespace=call.namespace,
                tool=call.tool,
                arguments=call.canonical.decode(),
                state=call.state.hex(),
                scenario=scenario,
                ours=excerpt(min(here[scenario])[0]),
                theirs=excerpt(min(there[scenario])[0]),
            )


def _answers(entry: CacheEntry) -> dict[str, set[tuple[str, bool]]]:
    found: dict[str, set[tuple[str, bool]]] = {}
    for kept in entry.kept:
        observation = kept.observation
        if observation.error_class is not ErrorClass.TRANSIENT:
            found.setdefault(observation.scenario, set()).add(
                (observation.text, observation.is_error)
            )
    return found


def excerpt(text: str) -> str:
    """Return the start of a result, to be shown to people."""
    short = text if len(text) <= _EXCERPT else f"{text[:_EXCERPT]}... ({len(text)} characters)"
    return short.encode("utf-8", "replace").decode()


def pages(entries: Iterable[CacheEntry]) -> Iterator[list[CacheEntry]]:
    """Yield entries by the batch, small enough to hold and to write at once."""
    page: list[CacheEntry] = []
    held = 0
    for entry in entries:
        page.append(entry)
        held += _size(entry)
        if len(page) >= _BATCH_CALLS or held >= _BATCH_BYTES:
            yield page
            page, held = [], 0
    if page:
        yield page


def _size(entry: CacheEntry) -> int:
    return len(entry.call.canonical) + sum(kept.observation.length for kept in entry.kept)


def _is_export(name: str) -> bool:
    return "://" not in name and is_export(Path(name))


def _same_file(out: Path, name: str) -> bool:
    path = Path(name)
    return "://" not in name and path.exists() and out.exists() and path.samefile(out)


def _readable(name: str, open_cache: Opener) -> None:
    """Raise now for a source that is missing or none, before `out` is made."""
    if _is_export(name):
        _canon(Path(name))
    else:
        open_cache(name).close()


def _canon(path: Path) -> str:
    with contextlib.closing(read_export(path)) as items:
        first = next(items, None)
    if not isinstance(first, Header):
        raise DataError(f"{path}: the header is missing. Export the cache again.")
    return first.canon


def _same_redaction(
    store: CacheStore, out: Path, sources: Sequence[str], open_cache: Opener
) -> None:
    said: dict[bytes | None, str] = {}
    if next(store.entries(), None) is not None:
        said[store.note(redact.NOTE)] = str(out)
    for name in sources:
        holds, note = _redaction(name, open_cache)
        if holds:
            said.setdefault(note, name)
    if len(said) > 1:
        (one, first), (_, second), *_ = said.items()
        plain = f" {second if one else first} has none." if None in said else ""
        raise CacheError(
            f"{first} and {second} were redacted by different rules.{plain} Merged, one's secrets would "
            "stand in a cache that says it has none, or its calls would not be found. Bring one to the "
            "other's profile and key with `cacherl cache redact`, then merge."
        )


def _redaction(name: str, open_cache: Opener) -> tuple[bool, bytes | None]:
    """Return whether a source holds recordings, and its note on redaction."""
    if _is_export(name):
        note = None
        with contextlib.closing(read_export(Path(name))) as items:
            for item in items:
                if isinstance(item, NoteLine) and item.name == redact.NOTE:
                    note = item.value
                if isinstance(item, CacheEntry):
                    return True, note
        return False, note
    with open_cache(name) as cache:
        return next(cache.store.entries(), None) is not None, cache.store.note(redact.NOTE)
