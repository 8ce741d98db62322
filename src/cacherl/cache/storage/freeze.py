"""Any cache -> a frozen snapshot, atomically: whoever opens the path sees the old file or the new one.

Recordings are read once, in whatever order the store yields them, and spooled to an unnamed file beside
the target; then every tool is written in the order of its keys. So the same recordings give the same
bytes, and memory holds numbers, never results: about 250 bytes an entry of the largest tool and 32
of the others.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import zlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from cacherl.cache.identity.canonical import decode_canonical
from cacherl.cache.identity.key import CANON_VERSION
from cacherl.cache.identity.kinds import FrozenKinds, kinds_note, leaves_kinds_open
from cacherl.cache.identity.normalise import Plan, plan_of
from cacherl.cache.matching.nearest import (
    MAX_WORDS,
    SMALL_BUCKET,
    Wording,
    facts,
    shape_of,
    state_name,
    word_name,
)
from cacherl.cache.storage.entry import CacheEntry, merged
from cacherl.cache.storage.snapshot import is_snapshot
from cacherl.cache.storage.snapshot_format import (
    BLOCK,
    CODEC_BITS,
    HEAD,
    IS_JSON,
    IS_ZSTD,
    MAGIC,
    MAX_VALUE_BYTES,
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
from cacherl.cache.storage.store import CacheStore
from cacherl.core.errors import CacheError
from cacherl.core.records import Record
from cacherl.core.tools import ToolSpec, undeclared

if TYPE_CHECKING:
    from cacherl.cache.lookup.tool_cache import ToolCache

Compress = Literal["auto", "none"]
Progress: TypeAlias = Callable[[str, int, int | None], None]
"""Told what is going on, how many entries are done, and of how many where that is known."""
PlanOf: TypeAlias = Callable[[str, ToolSpec], Plan]
"""The plan that a tool of a namespace is looked up under."""

_EVERY = 2_000  # entries between two reports
_SAMPLES = 1_024  # values looked at to decide whether compression pays
_MIN_SAMPLES = 64
_SAMPLE_BYTES = 16 << 20
_MAX_SAMPLE = 256 << 10
_DICTIONARY_BYTES = 112_640  # what zstd recommends at most
_PAYS = 0.75  # compressed by a dictionary trained on other values
_LEVEL = 3

U64: TypeAlias = npt.NDArray[np.uint64]
U32: TypeAlias = npt.NDArray[np.uint32]


class FrozenSummary(Record, frozen=True, kw_only=True):
    """What a snapshot holds."""

    path: str
    id: str
    """Equal for equal recordings, settings and plans, whatever the order of recording."""
    calls: int
    observations: int
    tools: int
    bytes: int
    compressed_tools: int
    """Tools whose values a zstd dictionary made at least a quarter smaller."""


def freeze(
    store: CacheStore,
    path: Path,
    *,
    plan: PlanOf | None = None,
    compress: Compress = "auto",
    progress: Progress | None = None,
    more_notes: Mapping[str, bytes] | None = None,
) -> FrozenSummary:
    """Write everything that a cache holds into a snapshot; replaces an older one whole.

    Every observation is kept, in the order of `entry.merged`. Recordings that are added meanwhile
    may or may not be in it.

    Args:
        store: the cache.
        path: the snapshot.
        plan: under which plan each tool's index is made; `plan_of(spec)` by default.
        compress: `auto` where `zstandard` is installed and makes a tool's values a quarter smaller.
        progress: told about every 2,000 entries.
        more_notes: kept beside the store's own.

    Raises:
        CacheError: a recording is damaged, the disk is full, the folder cannot be written, or
            somebody else is freezing to this path.
    """
    path = Path(os.path.realpath(path))  # a link is followed, not replaced
    if path.exists() and not is_snapshot(path):
        raise CacheError(
            f"{path}: there is something that is no snapshot. Freezing replaces older snapshots only: "
            "choose another path."
        )
    with _replacing(path) as out, _temporary(path.parent) as spool:
        writer = _Writer(out)
        spooled = _Spool(spool)
        tell = progress or _nobody
        for number, entry in enumerate(store.entries()):
            spooled.add(entry)
            if number % _EVERY == 0:
                tell("reading", number, None)
        specs = store.tools()
        notes = {name: note for name in store.notes() if (note := store.note(name)) is not None}
        notes |= more_notes or {}
        frozen = _Frozen(writer, spooled, specs, plan or _default_plan, compress, tell)
        table = frozen.written(notes)
        writer.finish(table)
        size = writer.at
    return FrozenSummary(
        path=str(path),
        id=table.id,
        calls=table.entries,
        observations=table.observations,
        tools=len(table.tools),
        bytes=size,
        compressed_tools=sum(tool.dictionary is not None for tool in table.tools),
    )


def freeze_cache(
    cache: ToolCache,
    path: Path,
    *,
    compress: Compress = "auto",
    progress: Progress | None = None,
) -> FrozenSummary:
    """Freeze an open cache, its indexes under the plans that it looks tools up with (see `freeze`).

    The kinds that it infers are kept, so that a reader need not go through all recordings for them.
    """
    kinds = {}
    for (namespace, tool), declared in cache.store.tools().items():
        spec = cache.effective(namespace, declared)
        if leaves_kinds_open(spec):
            found = FrozenKinds(
                plan=cache.plan(spec).fingerprint.hex(),
                kinds=cache.inferred_kinds(namespace, spec),
            )
            kinds[kinds_note(namespace, tool)] = msgspec.json.encode(found, order="sorted")
    return freeze(
        cache.store,
        path,
        plan=lambda namespace, spec: cache.match_plan(namespace, cache.effective(namespace, spec)),
        compress=compress,
        progress=progress,
        more_notes=kinds,
    )


def _default_plan(namespace: str, spec: ToolSpec) -> Plan:
    return plan_of(spec)


def _nobody(stage: str, done: int, total: int | None) -> None:
    """Nobody asked."""


# ---- files -------------------------------------------------------------------------------------


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file that takes the path's place, on disk, if the block succeeds."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(partial, path) as file:
            file.truncate(0)
            try:
                yield file
                file.flush()
                os.fsync(file.fileno())
                partial.replace(path)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise
        _sync_folder(path.parent)
    except OSError as error:
        raise CacheError(
            f"{path}: the snapshot cannot be written ({error}). Free the disk or choose another "
            "path; a snapshot that was there before is untouched."
        ) from error


def _locked(partial: Path, path: Path) -> IO[bytes]:
    """Open the partial file for this process alone; one that a killed process left is taken over."""
    while True:
        file = os.fdopen(os.open(partial, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=1 << 20)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise CacheError(
                f"{path}: another process is freezing to this path. Wait for it, or choose another."
            ) from None
        except OSError:
            return file  # no locks on this file system: as safe as its user
        with suppress(FileNotFoundError):
            if partial.stat().st_ino == os.fstat(file.fileno()).st_ino:
                return file
        file.close()  # it was renamed into place between opening and locking


def _sync_folder(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


@contextmanager
def _temporary(folder: Path) -> Iterator[IO[bytes]]:
    # Unnamed, so that a killed process leaves nothing.
    with tempfile.TemporaryFile(dir=folder, buffering=1 << 20) as file:
        yield file


class _Writer:
    """Writes parts one after the other."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out = out
        self._out.write(bytes(HEAD.size))
        self.at = HEAD.size
        self._begun = 0
        self._hash = blake2b(digest_size=16)

    def begin(self) -> None:
        """Begin a part that is written in pieces."""
        self._begun = self.at
        self._hash = blake2b(digest_size=16)

    def write(self, data: bytes) -> None:
        """Write a piece."""
        self._out.write(data)
        self._hash.update(data)
        self.at += len(data)

    def end(self, *, checked: bool) -> Part:
        """End the part; `checked` was decided by whoever wrote the CRCs."""
        length = self.at - self._begun
        self.write(bytes(padded(length) - length))
        return Part(
            offset=self._begun, length=length, digest=self._hash.hexdigest(), checked=checked
        )

    def part(self, *pieces: bytes) -> Part:
        """Write a part with a CRC a block."""
        self.begin()
        data = b"".join(pieces)
        self.write(data)
        length = len(data)
        self.write(bytes(padded(length) - length))
        view = memoryview(data)
        crcs = array("I", (zlib.crc32(view[at : at + BLOCK]) for at in range(0, length, BLOCK)))
        self.write(_little(crcs))
        self.write(bytes(padded(4 * len(crcs)) - 4 * len(crcs)))
        return Part(offset=self._begun, length=length, digest=self._hash.hexdigest())

    def finish(self, table: Table) -> None:
        """Write the table, the tail and the head."""
        said = msgspec.json.encode(table)
        where = (self.at, len(said), blake2b(said, digest_size=16).digest())
        self._out.write(said)
        self._out.write(head_bytes(TAIL_MAGIC, VERSION, *where))
        self.at += len(said) + HEAD.size
        self._out.seek(0)
        self._out.write(head_bytes(MAGIC, VERSION, *where))


def _little(values: array[Any]) -> bytes:
    return np.frombuffer(values, dtype=values.typecode).astype(f"<u{values.itemsize}").tobytes()


# ---- recordings, spooled -----------------------------------------------------------------------


class _Arrived:
    """Where one tool's recordings lie in the spool."""

    def __init__(self) -> None:
        self.keys = bytearray()
        self.offsets = array("Q")
        self.lengths = array("Q")
        self.is_json = bytearray()

    def order(self) -> list[int]:
        """Return the recordings by key."""
        keys = np.frombuffer(bytes(self.keys), dtype=">u8").reshape(-1, 2)
        ordered: list[int] = np.lexsort((keys[:, 1], keys[:, 0])).tolist()
        return ordered


class _Spool:
    """Encoded recordings in the order they came."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._at = 0
        self._flushed = False
        self.tools: dict[tuple[str, str], _Arrived] = {}
        self.total = 0
        self.newest: float | None = None
        self.observations = 0

    def add(self, entry: CacheEntry) -> None:
        """Spool an entry."""
        call = entry.call
        kept = entry.kept if len(entry.kept) == 1 else merged((), entry.kept)
        data, codec = encoded(Value(canonical=call.canonical, state=call.state, kept=kept))
        if len(data) > MAX_VALUE_BYTES:
            raise CacheError(
                f"the call {call.key.hex()} of {call.tool} has {len(data)} bytes of answers, and a "
                "snapshot takes 4 GiB a call at most. Remove it from the cache and freeze again."
            )
        arrived = self.tools.setdefault((call.namespace, call.tool), _Arrived())
        arrived.keys += call.key
        arrived.offsets.append(self._at)
        arrived.lengths.append(len(data))
        arrived.is_json.append(codec)
        self._file.write(data)
        self._at += len(data)
        self.total += 1
        for each in kept:
            at = each.observation.recorded_at
            if at is not None and (self.newest is None or at > self.newest):
                self.newest = at

    def read(self, arrived: _Arrived, place: int) -> tuple[bytes, int]:
        """Return a recording's bytes and codec."""
        if not self._flushed:
            self._file.flush()
            self._flushed = True
        # Read, not mapped: pages of a mapping would count as this process's memory.
        data = os.pread(self._file.fileno(), arrived.lengths[place], arrived.offsets[place])
        return data, arrived.is_json[place]

    def sorted(self, name: tuple[str, str]) -> Iterator[tuple[bytes, bytes, int, Value]]:
        """Yield (key, bytes, codec, value) of a tool by key, every call once."""
        arrived = self.tools.get(name)
        if arrived is None:
            return
        run: list[int] = []
        run_key = b""
        for place in arrived.order():
            key = bytes(arrived.keys[16 * place : 16 * place + 16])
            if key != run_key and run:
                yield from self._of_one_key(arrived, run_key, run)
                run.clear()
            run.append(place)
            run_key = key
        if run:
            yield from self._of_one_key(arrived, run_key, run)

    def _of_one_key(
        self, arrived: _Arrived, key: bytes, places: list[int]
    ) -> Iterator[tuple[bytes, bytes, int, Value]]:
        if len(places) == 1:
            data, codec = self.read(arrived, places[0])
            yield key, data, codec, decoded(data, is_json=codec == IS_JSON)
            return
        # Calls that collide, or one call that its store yielded twice.
        calls: dict[tuple[bytes, bytes], Value] = {}
        for place in places:
            data, codec = self.read(arrived, place)
            value = decoded(data, is_json=codec == IS_JSON)
            known = calls.get((value.canonical, value.state))
            kept = value.kept if known is None else merged(known.kept, value.kept)
            calls[value.canonical, value.state] = msgspec.structs.replace(value, kept=kept)
        for _, value in sorted(calls.items()):
            yield key, *encoded(value), value


# ---- the parts ---------------------------------------------------------------------------------


class _Frozen:
    """One snapshot in the making."""

    def __init__(
        self,
        writer: _Writer,
        spool: _Spool,
        specs: dict[tuple[str, str], ToolSpec],
        plan: PlanOf,
        compress: Compress,
        tell: Progress,
    ) -> None:
        self._writer = writer
        self._spool = spool
        self._specs = specs
        self._plan = plan
        self._compress = compress
        self._tell = tell
        self._records = bytearray()
        self._content = blake2b(digest_size=16)
        self._entries = 0
        self._observations = 0

    def written(self, notes: dict[str, bytes]) -> Table:
        """Write every part; return the table that tells where they are."""
        names = sorted({*self._spool.tools, *self._specs})
        tools = tuple(self._tool(number, name) for number, name in enumerate(names))
        self._tell("indexing keys", self._entries, self._entries)
        keys = np.frombuffer(bytes(self._records), dtype=np.uint8).reshape(-1, RECORD.size)[:, :16]
        directory, bits, rows = _keys_part(np.ascontiguousarray(keys))
        writer = self._writer
        return Table(
            id=snapshot_id(tools, notes, self._content.digest()),
            canon=CANON_VERSION,
            entries=self._entries,
            observations=self._observations,
            newest=self._spool.newest,
            tools=tools,
            records=writer.part(bytes(self._records)),
            key_directory=writer.part(directory),
            key_directory_bits=bits,
            key_rows=writer.part(rows),
            notes={name: writer.part(notes[name]) for name in sorted(notes)},
        )

    def _tool(self, number: int, name: tuple[str, str]) -> FrozenTool:
        spec = self._specs.get(name)
        plan = self._plan(name[0], spec or undeclared(name[1]))
        zipped = None if self._compress == "none" else _trained(self._spool, name)
        writer = self._writer
        first = self._entries
        index = _ToolColumns(plan)
        writer.begin()
        for key, plain, bits, value in self._spool.sorted(name):
            self._content.update(key + plain)
            data, codec = (plain, bits) if zipped is None else zipped(plain, bits)
            head = RECORD.pack(key, writer.at, len(data), number << CODEC_BITS | codec, 0)[:32]
            said = blake2b(head + data, digest_size=8).digest()
            self._records += head + said
            writer.write(data)
            index.add(value)
            self._entries += 1
            self._observations += len(value.kept)
            if self._entries % _EVERY == 0:
                self._tell("writing", self._entries, self._spool.total)
        values = writer.end(checked=False)
        columns, names, postings = index.parts()
        directory, directory_bits, rows, posted = _names_part(names, postings)
        return FrozenTool(
            namespace=name[0],
            tool=name[1],
            spec=_declared(spec),
            plan=plan_name(plan),
            first=first,
            count=self._entries - first,
            seen=index.seen(),
            common_state=index.common_state(),
            one_state=index.one_state(),
            values=values,
            columns=writer.part(columns),
            directory=writer.part(directory),
            directory_bits=directory_bits,
            rows=writer.part(rows),
            postings=writer.part(posted),
            dictionary=None if zipped is None else writer.part(zipped.dictionary),
        )


def _declared(spec: ToolSpec | None) -> msgspec.Raw:
    if spec is None:
        return UNDECLARED_SPEC
    return msgspec.Raw(msgspec.json.encode(spec, order="sorted"))


class _ToolColumns:
    """What the loose index knows of one tool, entry by entry."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._signatures = array("Q")
        self._states = array("Q")
        self._weights = array("f")
        self._sizes = array("H")
        self._masks = bytearray()
        self._buckets = array("Q")
        self._names = array("Q")
        self._numbers = array("I")
        self._words = array("Q")
        self._word_numbers = array("I")
        self._scenario_names: dict[tuple[str, Any], int] = {}
        self._state_names: dict[bytes, int] = {}

    def add(self, value: Value) -> None:
        """Take in the next entry. One with errors only, or nested too deeply, gets no loose answer."""
        number = len(self._masks)
        successes = {
            (each.observation.scenario, each.observation.split)
            for each in value.kept
            if not each.observation.is_error
        }
        shape = shape_of(self._plan, decode_canonical(value.canonical)) if successes else None
        known = None if shape is None else facts(shape, value.state)
        state = self._state_names.get(value.state)
        if state is None:
            state = self._state_names[value.state] = state_name(value.state)
        self._states.append(state)
        self._weights.append(0.0 if known is None else known.weight)
        self._worded(number, None if known is None else known.wording)
        mask = 0
        for name in () if known is None else known.features:
            self._post(name, number)
        for pair in () if known is None else successes:
            mask |= SPLIT_BIT[pair[1]]
            scenario = self._scenario_names.get(pair)
            if scenario is None:
                scenario = self._scenario_names[pair] = scenario_name(*pair)
            self._post(scenario, number)
        self._masks.append(mask)

    def _post(self, name: int, number: int) -> None:
        self._names.append(name)
        self._numbers.append(number)

    def _worded(self, number: int, wording: Wording | None) -> None:
        self._signatures.append(0 if wording is None else wording.signature)
        self._sizes.append(0 if wording is None else min(len(wording.words), MAX_WORDS))
        self._buckets.append(0 if wording is None else wording.bucket)
        if wording is not None:
            self._post(wording.bag, number)
            self._post(wording.bucket, number)
            self._words.extend(wording.words)
            self._word_numbers.extend([number] * len(wording.words))

    def seen(self) -> dict[str, int]:
        """Return how many entries have a success, by mask of splits."""
        counts = Counter(self._masks)
        return {str(mask): counts[mask] for mask in sorted(counts) if mask}

    def common_state(self) -> str | None:
        """Return the state of more than half of the entries, if there is one."""
        common = self._common()
        return None if common is None else f"{common:016x}"

    def one_state(self) -> bool:
        """Say whether all entries are in one state."""
        return len(self._state_names) == 1

    def _common(self) -> int | None:
        if not self._states:
            return None
        state, count = Counter(self._states).most_common(1)[0]
        return state if 2 * count > len(self._states) else None

    def parts(self) -> tuple[bytes, U64, U32]:
        """Return the columns, and every (name, number) pair with ascending numbers for each name."""
        count = len(self._masks)
        columns = {
            "signatures": self._signatures,
            "states": self._states,
            "weights": self._weights,
            "sizes": self._sizes,
            "masks": self._masks,
        }
        places = column_places(count)
        packed = b"".join(
            np.array(columns[name]).astype(kind).tobytes() for name, (_, kind) in places.items()
        )
        states, numbers = self._stated()
        words, word_numbers = self._in_large_buckets()
        return (
            packed,
            np.concatenate((np.array(self._names, dtype=np.uint64), states, words)),
            np.concatenate((np.array(self._numbers, dtype=np.uint32), numbers, word_numbers)),
        )

    def _stated(self) -> tuple[U64, U32]:
        states = np.array(self._states, dtype=np.uint64)
        seen = np.frombuffer(bytes(self._masks), dtype=np.uint8) != 0
        common = self._common()
        if common is not None:
            seen &= states != np.uint64(common)
        numbers = np.flatnonzero(seen).astype(np.uint32)
        return states[numbers], numbers

    def _in_large_buckets(self) -> tuple[U64, U32]:
        buckets = np.array(self._buckets, dtype=np.uint64)
        known, sizes = np.unique(buckets, return_counts=True)
        large = known[(sizes > SMALL_BUCKET) & (known != 0)]
        words = np.array(self._words, dtype=np.uint64)
        numbers = np.array(self._word_numbers, dtype=np.uint32)
        if len(large):
            mine = buckets[numbers]
            kept = np.isin(mine, large)
            return word_name(mine[kept], words[kept]), numbers[kept]
        return words[:0], numbers[:0]


def _bits_for(count: int) -> int:
    """Return the bits of a directory with about one of `count` rows a bucket."""
    return max(0, count - 1).bit_length()


def _directory(buckets: U64, bits: int) -> bytes:
    """Return where the rows of each bucket begin, and where the last ends."""
    counts = np.bincount(buckets.astype(np.int64), minlength=1 << bits)
    starts = np.zeros(len(counts) + 1, dtype="<u4")
    starts[1:] = np.cumsum(counts)
    return starts.tobytes()


def _leading(names: U64, bits: int) -> U64:
    if bits == 0:
        return np.zeros(len(names), dtype=np.uint64)
    found: U64 = names >> np.uint64(64 - bits)
    return found


def _names_part(names: U64, numbers: U32) -> tuple[bytes, int, bytes, bytes]:
    """Return directory, its bits, rows and postings of (name, number) pairs."""
    order = np.argsort(names, kind="stable")
    names, numbers = names[order], numbers[order]
    del order
    first = np.ones(len(names), dtype=np.bool_)
    first[1:] = names[1:] != names[:-1]
    starts = np.flatnonzero(first)
    counts = np.diff(np.append(starts, len(names)))
    known = names[starts]
    single = counts == 1
    rows = np.zeros(len(known), dtype=[("name", "<u8"), ("first", "<u4"), ("count", "<u4")])
    rows["name"] = known
    rows["count"] = counts
    lengths = np.where(single, 0, counts)
    rows["first"] = np.where(single, numbers[starts], np.cumsum(lengths) - lengths)
    posted = numbers[np.repeat(~single, counts)]
    bits = _bits_for(len(known))
    return (
        _directory(_leading(known, bits), bits),
        bits,
        rows.tobytes(),
        posted.astype("<u4").tobytes(),
    )


def _keys_part(keys: npt.NDArray[np.uint8]) -> tuple[bytes, int, bytes]:
    """Return directory, its bits and rows of the keys, by key and then by number."""
    halves = keys.view(">u8").astype(np.uint64)
    order = np.lexsort((halves[:, 1], halves[:, 0]))
    rows = np.zeros(len(keys), dtype=[("number", "<u4"), ("tail", "V4")])
    rows["number"] = order
    rows["tail"] = keys[order, 8:12].copy().view("V4").reshape(-1)
    bits = _bits_for(len(keys))
    return _directory(_leading(halves[order, 0], bits), bits), bits, rows.tobytes()


# ---- compression -------------------------------------------------------------------------------


class _Zipped:
    """Compression with a dictionary."""

    def __init__(self, dictionary: bytes) -> None:
        import zstandard

        self.dictionary = dictionary
        known = zstandard.ZstdCompressionDict(dictionary)
        self._zstd = zstandard.ZstdCompressor(level=_LEVEL, dict_data=known)

    def __call__(self, data: bytes, codec: int) -> tuple[bytes, int]:
        """Return the smaller form of a value and its codec."""
        smaller = self._zstd.compress(data)
        return (smaller, codec | IS_ZSTD) if len(smaller) < len(data) else (data, codec)


def _trained(spool: _Spool, name: tuple[str, str]) -> _Zipped | None:
    """Return compression for a tool's values, or None where it does not pay."""
    arrived = spool.tools.get(name)
    if arrived is None or len(arrived.is_json) < _MIN_SAMPLES:
        return None
    try:
        import zstandard
    except ImportError:
        return None
    samples: list[bytes] = []
    size = 0
    order = arrived.order()
    for place in order[:: max(1, len(order) // _SAMPLES)]:
        if arrived.lengths[place] <= _MAX_SAMPLE and size < _SAMPLE_BYTES:
            samples.append(spool.read(arrived, place)[0])
            size += len(samples[-1])
    learnt, held = samples[::2], samples[1::2]
    if len(samples) < _MIN_SAMPLES:
        return None
    try:
        made = zstandard.train_dictionary(min(_DICTIONARY_BYTES, max(1024, size // 16)), [*learnt])
    except zstandard.ZstdError:
        return None  # too little in common to learn from
    zipped = _Zipped(made.as_bytes())
    plain = sum(map(len, held))
    small = sum(len(zipped(data, 0)[0]) for data in held)
    dictionary = len(zipped.dictionary) * plain / max(1, sum(arrived.lengths))
    return zipped if small + dictionary <= _PAYS * plain else None
