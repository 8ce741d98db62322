"""A frozen cache: one read-only file, mapped into memory, that any number of processes share.

Opening reads head, tail and table, nothing else. What is read later is checked when
it is read: a value under the checksum in its record, everything else under a CRC a block of 4 KiB,
once a process. An exact hit compares the whole call under the value's checksum, so it needs no other
check; a miss is only told after the blocks that say so were checked.

A file must not be changed or cut while it is mapped; `freeze` replaces it and never does.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import numpy as np
import numpy.typing as npt

from cacherl.cache.identity.key import CANON_VERSION
from cacherl.cache.identity.normalise import Plan, Shape
from cacherl.cache.matching.nearest import NOBODY, LooseIndex, Numbers, Search, state_name
from cacherl.cache.storage.entry import CacheEntry, Observation, RecordedCall
from cacherl.cache.storage.snapshot_format import (
    BLOCK,
    CODEC_BITS,
    HEAD,
    IS_JSON,
    IS_ZSTD,
    KEY_ROW,
    MAGIC,
    NAME_ROW,
    RECORD,
    SPLIT_BIT,
    TAIL_MAGIC,
    UNDECLARED_SPEC,
    VERSION,
    FrozenTool,
    Part,
    Table,
    Value,
    column_places,
    decoded,
    encoded,
    head_bytes,
    padded,
    plan_name,
    scenario_name,
    snapshot_id,
)
from cacherl.core.errors import CacheError
from cacherl.core.tasks import Split
from cacherl.core.tools import ToolSpec

_PAIR = struct.Struct("<II").unpack_from
_record = RECORD.unpack_from
_key_row = KEY_ROW.unpack_from
_name_row = NAME_ROW.unpack_from
_MAX_UNCHECKED_BUCKET = 256
_MAX_SHAPES = 4096
_FEW = 64
_value = msgspec.msgpack.Decoder(Value)
_table = msgspec.json.Decoder(Table)
_spec = msgspec.json.Decoder(ToolSpec)


def is_snapshot(path: Path) -> bool:
    """Say whether the file is a snapshot, whole or damaged; False where there is no file."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


# ---- reading -----------------------------------------------------------------------------------


class _Checked:
    """A part whose blocks are checked when they are first read."""

    __slots__ = ("_crcs", "_map", "_name", "_path", "_seen", "_whole", "length", "offset")

    def __init__(self, data: mmap.mmap | bytes, part: Part, path: Path, name: str) -> None:
        self.offset = part.offset
        self.length = part.length
        self._crcs = part.offset + padded(part.length)
        self._map = data
        self._path = path
        self._name = name
        self._seen = bytearray(part.blocks)
        self._whole = False

    def check(self, start: int, length: int) -> None:
        """Check the blocks of these bytes of the part.

        Raises:
            CacheError: they are damaged, or not in the part.
        """
        if start < 0 or start + length > self.length:
            self.damaged()
        seen = self._seen
        first = start // BLOCK
        if length and start + length <= (first + 1) * BLOCK:  # in one block: nearly always
            if not seen[first]:
                self._check_block(first)
            return
        for block in range(first, -(-(start + length) // BLOCK)):
            if not seen[block]:
                self._check_block(block)

    def check_all(self) -> None:
        """Check every block."""
        if not self._whole:
            self.check(0, self.length)
            self._whole = True

    def array(self, start: int, kind: Any, count: int) -> npt.NDArray[Any]:
        """Return checked bytes of the part as an array."""
        self.check(start, count * np.dtype(kind).itemsize)
        return self.unchecked(start, kind, count)

    def unchecked(self, start: int, kind: Any, count: int) -> npt.NDArray[Any]:
        """Return bytes of the part as an array."""
        if start < 0 or start + count * np.dtype(kind).itemsize > self.length:
            self.damaged()
        return np.frombuffer(self._map, dtype=kind, count=count, offset=self.offset + start)

    def _check_block(self, block: int) -> None:
        start = block * BLOCK
        end = min(start + BLOCK, self.length)
        data = self._map[self.offset + start : self.offset + end]
        kept = self._map[self._crcs + 4 * block : self._crcs + 4 * block + 4]
        if zlib.crc32(data) != int.from_bytes(kept, "little"):
            self.damaged()
        self._seen[block] = 1

    def damaged(self) -> NoReturn:
        raise damaged(self._path, self._name)


def damaged(path: Path, what: str) -> CacheError:
    """Return the error that something was damaged."""
    return CacheError(
        f"{path}: {what} was damaged after it was written (checksum). "
        f"Freeze the recordings again; `cacherl cache verify {path}` names what else is damaged."
    )


class SnapshotStore:
    """A read-only `CacheStore` on a frozen file. Survives a fork; may be used from several threads.

    Entries come in the order of (namespace, tool, key), not in that of recording.
    """

    def __init__(self, path: Path) -> None:
        """Open a snapshot: reads its first and last 64 bytes and its table.

        Raises:
            CacheError: no such file, not a snapshot, damaged, cut or one of a newer version.
        """
        self.path = path
        self._map: mmap.mmap | bytes = _mapped(path)
        try:
            self._table = _opened(self._map, path)
        except BaseException:
            self.close()
            raise
        table = self._table
        self.id = table.id
        """Equal for equal recordings, settings and plans, however they were compressed (32 hex digits)."""
        self._names = [(tool.namespace, tool.tool) for tool in table.tools]
        self._records = self._checked(table.records, "the records")
        self._directory = self._checked(table.key_directory, "the key directory")
        self._rows = self._checked(table.key_rows, "the key rows")
        self._record_at = table.records.offset
        self._directory_at = table.key_directory.offset
        self._rows_at = table.key_rows.offset
        self._shift = 64 - table.key_directory_bits
        self._zstd: dict[int, _Unzipped] = {}
        self._recent: CacheEntry | None = None
        """What an index answered last: it is asked for next, by its key."""

    @property
    def short_id(self) -> str:
        """The first 12 digits of the id: for people."""
        return self.id[:12]

    @property
    def table(self) -> Table:
        """What stands where."""
        return self._table

    def __len__(self) -> int:
        return self._table.entries

    def _checked(self, part: Part, name: str) -> _Checked:
        return _Checked(self._map, part, self.path, name)

    # ---- exact

    def get(self, call: RecordedCall) -> CacheEntry | None:
        key = call.key
        data = self._map
        bucket = int.from_bytes(key[:8], "big") >> self._shift
        tail = key[8:12]
        try:
            low, high = _PAIR(data, self._directory_at + 4 * bucket)
            if high - low > _MAX_UNCHECKED_BUCKET or high < low:
                self._check_bucket(bucket, low, high)
            for at in range(self._rows_at + 8 * low, self._rows_at + 8 * high, 8):
                number, found = _key_row(data, at)
                if found == tail:
                    kept_key, tool, value = self._read(number)
                    if (
                        value.canonical == call.canonical
                        and value.state == call.state
                        and kept_key == key
                        and self._names[tool] == (call.namespace, call.tool)
                    ):
                        return CacheEntry(call=call, kept=value.kept)
            self._check_bucket(bucket, low, high)
        except (struct.error, IndexError):
            self._unreadable()
        return None

    def get_many(self, calls: Sequence[RecordedCall]) -> list[CacheEntry | None]:
        return [self.get(call) for call in calls]

    def by_key(self, key: bytes) -> CacheEntry | None:
        recent = self._recent
        if recent is not None and recent.call.key == key:
            return recent
        bucket = int.from_bytes(key[:8], "big") >> self._shift
        try:
            low, high = _PAIR(self._map, self._directory_at + 4 * bucket)
            self._check_bucket(bucket, low, high)
            for at in range(self._rows_at + 8 * low, self._rows_at + 8 * high, 8):
                number, found = _key_row(self._map, at)
                if found == key[8:12]:
                    entry = self.entry(number)
                    if entry.call.key == key:
                        return entry
        except (struct.error, IndexError):
            self._unreadable()
        return None

    def _check_bucket(self, bucket: int, low: int, high: int) -> None:
        """Check what says that a call is not there."""
        self._directory.check(4 * bucket, 8)
        if not low <= high <= self._table.entries:
            self._directory.damaged()
        if low < high:
            self._rows.check(8 * low, 8 * (high - low))

    def entry(self, number: int) -> CacheEntry:
        """Return the entry of a number.

        Raises:
            CacheError: it is damaged.
        """
        try:
            key, tool, value = self._read(number)
            namespace, name = self._names[tool]
        except (struct.error, IndexError):
            self._unreadable()
        call = RecordedCall(
            namespace=namespace,
            tool=name,
            canonical=value.canonical,
            state=value.state,
            key=key,
        )
        return CacheEntry(call=call, kept=value.kept)

    def _read(self, number: int) -> tuple[bytes, int, Value]:
        """Return an entry's key, tool and value, after comparing the checksum over all of them."""
        data = self._map
        at = self._record_at + 40 * number
        key, offset, length, codec, kept_sum = _record(data, at)
        stored = data[offset : offset + length]
        said = blake2b(data[at : at + 32] + stored, digest_size=8).digest()
        if int.from_bytes(said, "little") != kept_sum or number >= self._table.entries:
            raise damaged(self.path, f"entry {number}, key {key.hex()},")
        if codec & IS_ZSTD:
            stored = self._unzipped(codec >> CODEC_BITS, stored)
        if not codec & IS_JSON:
            return key, codec >> CODEC_BITS, _value.decode(stored)
        return key, codec >> CODEC_BITS, decoded(stored, is_json=True)

    def _unzipped(self, tool: int, stored: bytes) -> bytes:
        zstd = self._zstd.get(tool)
        if zstd is None:
            part = self._table.tools[tool].dictionary
            if part is None:
                raise damaged(self.path, f"the dictionary of {self._names[tool][1]}")
            checked = self._checked(part, f"the dictionary of {self._names[tool][1]}")
            checked.check_all()
            data = self._map[part.offset : part.offset + part.length]
            zstd = self._zstd[tool] = _Unzipped(data)
        return zstd(stored)

    def _unreadable(self) -> NoReturn:
        if not self._map:
            raise CacheError(f"{self.path}: the cache was closed. Open it again.")
        raise damaged(self.path, "the index")

    # ---- reading all

    def tools(self) -> dict[tuple[str, str], ToolSpec]:
        return dict(self._specs)

    @cached_property
    def _specs(self) -> dict[tuple[str, str], ToolSpec]:
        return {
            (tool.namespace, tool.tool): _spec.decode(tool.spec)
            for tool in self._table.tools
            if tool.spec != UNDECLARED_SPEC
        }

    @cached_property
    def _by_name(self) -> dict[tuple[str, str], int]:
        return {name: number for number, name in enumerate(self._names)}

    def by_tool(self, namespace: str, tool: str) -> Iterator[CacheEntry]:
        number = self._by_name.get((namespace, tool))
        if number is not None:
            found = self._table.tools[number]
            yield from map(self.entry, range(found.first, found.first + found.count))

    def entries(self) -> Iterator[CacheEntry]:
        yield from map(self.entry, range(self._table.entries))

    def salvage(self) -> Iterator[CacheEntry]:
        """Yield every entry that can still be read."""
        for number in range(self._table.entries):
            with suppress(CacheError):
                yield self.entry(number)

    def note(self, name: str) -> bytes | None:
        part = self._table.notes.get(name)
        if part is None:
            return None
        if not self._map:
            self._unreadable()
        self._checked(part, f"the note {name}").check_all()
        return self._plain(part)

    def notes(self) -> tuple[str, ...]:
        return tuple(sorted(self._table.notes))

    def newest(self) -> float | None:
        return self._table.newest

    def index(
        self, namespace: str, tool: str, plan: Plan, splits: frozenset[Split]
    ) -> LooseIndex | None:
        number = self._by_name.get((namespace, tool))
        if number is None:
            return None
        found = self._table.tools[number]
        if found.plan != plan_name(plan):
            return None
        return _FrozenIndex(self, self._parts(number), plan, splits)

    def _parts(self, number: int) -> _ToolParts:
        known = self._tool_parts.get(number)
        if known is None:
            if not self._map:
                self._unreadable()
            known = self._tool_parts[number] = _ToolParts(self, self._table.tools[number])
        return known

    @cached_property
    def _tool_parts(self) -> dict[int, _ToolParts]:
        return {}

    # ---- verifying

    def verify(self) -> tuple[str, ...]:
        """Return what is damaged, each in a few words; reads every byte."""
        found = []
        table = self._table
        parts = sorted(_named_parts(table), key=lambda named: named[1].offset)
        at = HEAD.size
        for name, part in parts:
            if part.offset != at:
                found.append(f"bytes {at} to {part.offset} belong to nothing")
            at = max(at, part.end)
            if _digest_of(self._map, part) != part.digest:
                found.append(name)
        content = blake2b(digest_size=16)
        readable = True
        for number in range(table.entries):
            try:
                key, _, value = self._read(number)
            except (CacheError, struct.error, IndexError):
                key = self._map[self._record_at + 40 * number :][:16]
                found.append(f"entry {number}, key {key.hex()}")
                readable = False
            else:
                content.update(key + encoded(value)[0])
        notes = {name: self._plain(part) for name, part in table.notes.items()}
        whole = readable and not found
        if whole and snapshot_id(table.tools, notes, content.digest()) != table.id:
            found.append("the id is not that of the recordings")
        return tuple(found)

    def _plain(self, part: Part) -> bytes:
        return self._map[part.offset : part.offset + part.length]

    # ---- writing

    @property
    def writable(self) -> bool:
        return False

    def put_tool(self, namespace: str, spec: ToolSpec) -> None:
        self._frozen()

    def add(self, call: RecordedCall, observation: Observation) -> bool:
        self._frozen()

    def absorb(self, entry: CacheEntry) -> bool:
        self._frozen()

    def remove(self, call: RecordedCall) -> bool:
        self._frozen()

    def put_note(self, name: str, value: bytes) -> None:
        self._frozen()

    def drop_note(self, name: str) -> None:
        self._frozen()

    def batch(self) -> AbstractContextManager[None]:
        self._frozen()

    def _frozen(self) -> NoReturn:
        raise CacheError(
            f"{self.path}: a snapshot is frozen. Record into a SQLite cache and freeze that: "
            f"`cacherl cache freeze CACHE {self.path}`."
        )

    def close(self) -> None:
        mapped, self._map = self._map, b""
        if isinstance(mapped, mmap.mmap):
            with suppress(BufferError):  # an index still looks at it: closed with the last of them
                mapped.close()


def _mapped(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise CacheError(f"{path}: empty, so not a snapshot. Freeze the recordings again.")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError as error:
        raise CacheError(
            f"{path}: no such snapshot. Make one with `cacherl cache freeze CACHE {path}`."
        ) from error
    except OSError as error:
        raise CacheError(f"{path}: cannot be read as a snapshot ({error}).") from error


def _opened(data: mmap.mmap | bytes, path: Path) -> Table:
    """Return the table of a mapped file, once head, tail and table fit together."""
    size = len(data)
    if data[: len(MAGIC)] != MAGIC:
        raise CacheError(f"{path}: not a snapshot of cacherl. Choose another path.")
    if size < 2 * HEAD.size:
        raise _cut(path, f"only {size} bytes are left")
    head = data[: HEAD.size]
    _, version, _, offset, length, digest, _ = HEAD.unpack(head)
    if version > VERSION:
        raise CacheError(
            f"{path}: snapshot format {version}, and this cacherl knows formats up to {VERSION}. "
            "Upgrade cacherl, or freeze the recordings with this one."
        )
    if head != head_bytes(MAGIC, version, offset, length, digest):
        raise damaged(path, "the head")
    if offset + length + HEAD.size != size:
        raise _cut(path, f"{size} bytes where {offset + length + HEAD.size} were written")
    if data[size - HEAD.size :] != head_bytes(TAIL_MAGIC, version, offset, length, digest):
        raise damaged(path, "the tail")
    said = data[offset : offset + length]
    if blake2b(said, digest_size=16).digest() != digest:
        raise damaged(path, "the table")
    try:
        table = _table.decode(said)
    except msgspec.DecodeError as error:  # written by something else than `freeze`
        raise CacheError(f"{path}: not a snapshot of cacherl ({error}).") from error
    if table.canon != CANON_VERSION:
        raise CacheError(
            f"{path}: frozen with canonical form {table.canon}, and this cacherl looks for "
            f"{CANON_VERSION}: every call would miss. Rekey the recordings and freeze them again."
        )
    return table


def _cut(path: Path, what: str) -> CacheError:
    return CacheError(
        f"{path}: the snapshot was cut ({what}). Copy it again, or freeze the recordings again."
    )


def _named_parts(table: Table) -> Iterator[tuple[str, Part]]:
    for tool in table.tools:
        for part in ("values", "columns", "directory", "rows", "postings", "dictionary"):
            found = getattr(tool, part)
            if found is not None:
                yield f"the {part} of {tool.namespace}/{tool.tool}", found
    yield "the records", table.records
    yield "the key directory", table.key_directory
    yield "the key rows", table.key_rows
    for name, found in table.notes.items():
        yield f"the note {name}", found


def _digest_of(data: mmap.mmap | bytes, part: Part) -> str:
    hashed = blake2b(digest_size=16)
    for start in range(part.offset, part.end, 1 << 20):
        hashed.update(data[start : min(start + (1 << 20), part.end)])
    return hashed.hexdigest()


class _Unzipped:
    """Decompression with one tool's dictionary."""

    def __init__(self, dictionary: bytes) -> None:
        try:
            import zstandard
        except ImportError as error:
            raise CacheError(
                "this snapshot is compressed, and zstandard is not installed: pip install zstandard"
            ) from error
        self._zstd = zstandard.ZstdDecompressor(dict_data=zstandard.ZstdCompressionDict(dictionary))
        self._lock = threading.Lock()  # one decompressor serves one thread at a time

    def __call__(self, stored: bytes) -> bytes:
        with self._lock:
            plain: bytes = self._zstd.decompress(stored)
        return plain


# ---- the loose index ---------------------------------------------------------------------------


class _ToolParts:
    """The index parts of one tool."""

    def __init__(self, store: SnapshotStore, tool: FrozenTool) -> None:
        name = f"{tool.namespace}/{tool.tool}"
        self.tool = tool
        self.shift = 64 - tool.directory_bits
        self.directory = store._checked(tool.directory, f"the index directory of {name}")
        self.rows = store._checked(tool.rows, f"the index rows of {name}")
        self.postings = store._checked(tool.postings, f"the postings of {name}")
        self.columns = store._checked(tool.columns, f"the columns of {name}")
        self._places = column_places(tool.count)
        self.scratches: list[npt.NDArray[np.float32]] = []

    def find(self, data: mmap.mmap | bytes, name: int) -> Numbers:
        """Return the entries of a name, numbered from the tool's first."""
        bucket = name >> self.shift
        self.directory.check(4 * bucket, 8)
        low, high = _PAIR(data, self.directory.offset + 4 * bucket)
        if low == high:
            return NOBODY
        if low > high:
            self.directory.damaged()
        self.rows.check(16 * low, 16 * (high - low))
        at = self.rows.offset + 16 * low
        for _ in range(high - low):
            found, first, count = _name_row(data, at)
            if found == name:
                if count == 1:
                    return np.array((first,), dtype=np.uint32)
                return self.postings.array(4 * first, np.uint32, count)
            at += 16
        return NOBODY

    def column(self, name: str) -> npt.NDArray[Any]:
        """Return a whole column, checked."""
        self.columns.check_all()
        start, kind = self._places[name]
        return self.columns.unchecked(start, kind, self.tool.count)

    def gathered(self, name: str, numbers: Numbers) -> npt.NDArray[Any]:
        """Return a column at some places, of which only what is read is checked."""
        start, kind = self._places[name]
        if len(numbers) > _FEW:
            self.columns.check_all()
        else:
            for number in numbers.tolist():
                self.columns.check(start + number * kind.itemsize, kind.itemsize)
        found: npt.NDArray[Any] = self.columns.unchecked(start, kind, self.tool.count)[numbers]
        return found


class _FrozenIndex(Search):
    """A `LooseIndex` on a snapshot."""

    def __init__(
        self, store: SnapshotStore, parts: _ToolParts, plan: Plan, splits: frozenset[Split]
    ) -> None:
        self._store = store
        self._parts = parts
        self._plan = plan
        self._splits = splits
        self._mask = np.uint8(sum(SPLIT_BIT[split] for split in splits))
        seen = {int(mask): count for mask, count in parts.tool.seen.items()}
        self._length = sum(count for mask, count in seen.items() if mask & int(self._mask))
        self._everyone = self._length == sum(seen.values())
        common = parts.tool.common_state
        self._common_state = None if common is None else int(common, 16)
        self._shapes: dict[int, tuple[bytes, bytes, Shape]] = {}

    def __len__(self) -> int:
        return self._length

    def _find(self, name: int) -> Numbers:
        data = self._store._map
        if not data:
            self._store._unreadable()
        return self._parts.find(data, name)

    def _own(self, scenario: str) -> Numbers:
        found = [
            numbers
            for split in self._splits
            if len(numbers := self._find(scenario_name(scenario, split)))
        ]
        if len(found) < 2:
            return found[0] if found else NOBODY
        ordered: Numbers = np.unique(np.concatenate(found))
        return ordered

    def _in_state(self, state: bytes) -> Numbers | None:
        name = state_name(state)
        return None if name == self._common_state else self._find(name)

    def _one_state(self) -> bool:
        return self._parts.tool.one_state

    def _seen(self, numbers: Numbers) -> Numbers:
        if self._everyone or not len(numbers):
            return numbers
        masks = self._parts.gathered("masks", numbers)
        seen: Numbers = numbers[(masks & self._mask) != 0]
        return seen

    def _by_key(self, numbers: Numbers) -> Numbers:
        ordered: Numbers = np.sort(numbers)  # that is how entries are numbered
        return ordered

    def _all_by_key(self) -> Numbers:
        masks = self._parts.column("masks")
        return np.flatnonzero(masks & self._mask).astype(np.uint32)

    def _states(self) -> npt.NDArray[np.uint64]:
        return self._parts.column("states")

    def _weights(self) -> npt.NDArray[np.float32]:
        return self._parts.column("weights")

    def _wordings(self, numbers: Numbers) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint16]]:
        return self._parts.gathered("signatures", numbers), self._parts.gathered("sizes", numbers)

    def _read(self, number: int) -> tuple[bytes, bytes, Shape]:
        known = self._shapes.get(number)
        if known is None:
            entry = self._store.entry(self._parts.tool.first + number)
            self._store._recent = entry
            call = entry.call
            if len(self._shapes) >= _MAX_SHAPES:
                self._shapes.clear()
            known = call.key, call.state, self._plan.shape(call.arguments)
            self._shapes[number] = known
        return known

    def _shape(self, number: int, state: bytes | None) -> Shape | None:
        _, kept_state, shape = self._read(number)
        return shape if state is None or state == kept_state else None

    def _key(self, number: int) -> bytes:
        return self._read(number)[0]

    def _scratch(self) -> npt.NDArray[np.float32]:
        try:
            return self._parts.scratches.pop()  # two threads never get the same one
        except IndexError:
            return np.zeros(self._parts.tool.count, dtype=np.float32)

    def _give_back(self, scratch: npt.NDArray[np.float32]) -> None:
        self._parts.scratches.append(scratch)
