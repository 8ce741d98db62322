"""A cache as one file for other programs: JSON lines or Parquet, both ways, without loss.

A file holds, in this order: one header, the tools' declarations, the notes, one line an
observation, and an end with counts and a digest. Every line carries a checksum (`core.jsonl`), so
`jq` and pandas read the file, and nobody edits it unseen. Parquet has the observations as rows and
everything else in the file's metadata under `cacherl`; the checksums are the same.

The order is canonical: tools and notes by name; observations by namespace, tool, arguments and
state; within a call by time of recording, as `entry.merged` has it. So equal caches make equal
bytes, whatever order they were recorded in, and exports can be compared by `diff`.

Arguments are JSON text, never columns or nested objects: Arrow would fill absent members with
nulls, and many readers round integers past 2^53. Half a character (a lone surrogate) in a result
stands in `text` as U+FFFD, and the true text as escaped JSON in `text_escaped`.
"""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import json
import math
import re
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgspec

from cacherl.cache.identity.canonical import canonical_json, decode_canonical, encode_folded
from cacherl.cache.identity.key import CANON_VERSION, digest, full_key
from cacherl.cache.storage.entry import CacheEntry, Kept, Observation, RecordedCall, merged
from cacherl.cache.storage.store import CacheStore
from cacherl.core.errors import DataError, MissingExtraError, RecipeError
from cacherl.core.jsonl import atomic_writer, decode_line, encode_line
from cacherl.core.records import Record
from cacherl.core.tasks import Split
from cacherl.core.tools import ErrorClass, Source, ToolSpec

FORMAT = 1
_CAME_LATER = {"wire"}
"""Columns that older Parquet files lack."""
METADATA = b"cacherl"
"""Where a Parquet file keeps the lines that are no observations."""

_CHUNK_BYTES = 64 << 20  # what the sort holds in memory before it spills
_MAX_RUNS = 128  # open files
_GROUP_BYTES = 32 << 20  # of a Parquet row group: Arrow's strings end at 2 GB a column
_GROUP_ROWS = 8192
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
_SUM = slice(len('{"_sum":"'), len('{"_sum":"') + 16)


class Header(Record, frozen=True, kw_only=True, tag_field="kind", tag="cache"):
    """The first line."""

    format: int
    canon: str
    """The version of the rules that made the normal arguments."""


class ToolLine(Record, frozen=True, kw_only=True, tag_field="kind", tag="tool"):
    """A tool's declaration."""

    namespace: str
    spec: ToolSpec


class NoteLine(Record, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind", tag="note"):
    """What is kept beside the recordings under a name."""

    name: str
    text: str | None = None
    data: bytes | None = None
    """Base64, where the value is no UTF-8 text."""

    @property
    def value(self) -> bytes:
        """The note's bytes."""
        return (self.text or "").encode() if self.data is None else self.data


class ObservationLine(
    Record, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind", tag="observation"
):
    """A call and one answer: everything that a cache knows of the two but the hash."""

    namespace: str
    tool: str
    arguments: str
    """In normal form, as canonical JSON."""
    state: str = ""
    """Hex; empty before any write."""
    text: str
    text_escaped: str | None = None
    """The text as ASCII JSON, where UTF-8 cannot carry it."""
    is_error: bool = False
    error_class: ErrorClass | None = None
    source: Source
    scenario: str
    split: Split
    latency_s: float
    """Without a default: msgspec leaves defaults out by identity, and 0.0 is not one object."""
    recorded_at: float | None = None
    occurrence: int = 0
    asked: str | None = None
    after: str | None = None
    times: int = 1
    wire: str | None = None
    """The whole answer of the tool's server, as JSON text. Last: it came later than the others."""


class End(Record, frozen=True, kw_only=True, tag_field="kind", tag="end"):
    """The last line: a file that was cut, or lost a line, does not match it."""

    tools: int
    notes: int
    observations: int
    digest: str
    """BLAKE2b-128 of all lines before this one: equal for equal caches."""


Line = Header | ToolLine | NoteLine | ObservationLine | End
Item = Header | ToolLine | NoteLine | CacheEntry


class Exported(Record, frozen=True, kw_only=True):
    """What an export holds."""

    path: str
    calls: int
    observations: int
    tools: int
    notes: int
    left_out: int
    """Calls recorded under other normalisation rules: `cacherl cache rekey` brings them along."""
    digest: str
    """Equal for equal caches, in either format."""


# ---- writing


def export(store: CacheStore, path: Path, *, chunk_bytes: int = _CHUNK_BYTES) -> Exported:
    """Write everything that a store holds into one file, which appears whole or not at all.

    Memory stays bounded however large the cache: lines are sorted in runs of `chunk_bytes` that go
    to unnamed temporary files beside `path` (as much disk again as the export) and are merged.
    What others record meanwhile may be missing.

    Raises:
        RecipeError: the file's name ends neither in `.jsonl` nor in `.parquet`.
        DataError: it cannot be written, or something in the cache cannot be said in it.
        MissingExtraError: Parquet, and pyarrow is not installed.
    """
    write = _writer_for(path)
    tally = _Tally()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(_lines(store, path.parent, tally, chunk_bytes)) as lines:
            write(path, lines)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written ({error.strerror or error}). "
            "Nothing was left behind; free the disk or choose another path."
        ) from error
    return Exported(
        path=str(path),
        calls=tally.calls,
        observations=tally.observations,
        tools=tally.tools,
        notes=tally.notes,
        left_out=tally.left_out,
        digest=tally.digest.hexdigest(),
    )


class _Tally:
    """What has gone into a file, or come out of it, so far."""

    def __init__(self) -> None:
        self.calls = self.observations = self.tools = self.notes = self.left_out = 0
        self.digest = hashlib.blake2b(digest_size=16)

    def add(self, line: Line, said: bytes) -> None:
        self.digest.update(said)
        self.tools += isinstance(line, ToolLine)
        self.notes += isinstance(line, NoteLine)
        self.observations += isinstance(line, ObservationLine)

    def end(self) -> End:
        return End(
            tools=self.tools,
            notes=self.notes,
            observations=self.observations,
            digest=self.digest.hexdigest(),
        )


Written = Generator[tuple[Line | None, bytes], None, None]
"""Lines with their bytes; of observations the bytes alone."""


def _writer_for(path: Path) -> Callable[[Path, Written], None]:
    if path.suffix == ".jsonl":
        return _write_jsonl
    if path.suffix == ".parquet":
        _pyarrow()
        return _write_parquet
    raise RecipeError(
        f"{path}: exports are .jsonl or .parquet files. Give the file one of these endings."
    )


def _lines(store: CacheStore, folder: Path, tally: _Tally, chunk_bytes: int) -> Written:
    """Yield every line in canonical order."""

    def told(line: Line) -> tuple[Line, bytes]:
        said = encode_line(line)
        tally.add(line, said)
        return line, said

    yield told(Header(format=FORMAT, canon=CANON_VERSION))
    for (namespace, _), spec in sorted(store.tools().items()):
        yield told(_tool_line(namespace, spec))
    for name in store.notes():
        value = store.note(name)
        if value is not None:
            yield told(_note_line(name, value))
    with contextlib.closing(_in_order(_rows(store, tally), folder, chunk_bytes)) as rows:
        for row in rows:
            tally.digest.update(row.line)
            tally.observations += 1
            yield None, row.line
    end = tally.end()
    yield end, encode_line(end)


def _rows(store: CacheStore, tally: _Tally) -> Iterator[_Row]:
    for entry in store.entries():
        if not is_current(entry.call):
            tally.left_out += 1
            continue
        tally.calls += 1
        for place, line in enumerate(observation_lines(entry)):
            yield _Row(
                line.namespace, line.tool, line.arguments, line.state, place, encode_line(line)
            )


def is_current(call: RecordedCall) -> bool:
    """Say whether a call's key is of this version's normalisation rules."""
    return call.key == digest(full_key(call.namespace, call.tool, call.canonical, call.state))


def observation_lines(entry: CacheEntry) -> Iterator[ObservationLine]:
    """Yield an entry's observations as lines, in canonical order.

    Raises:
        DataError: something in it cannot be said in JSON; the message names call and field.
    """
    call = entry.call
    for kept in merged(entry.kept, ()):
        observation = kept.observation
        text, escaped = _carried(observation.text)
        line = ObservationLine(
            namespace=call.namespace,
            tool=call.tool,
            arguments=call.canonical.decode(),
            state=call.state.hex(),
            text=text,
            text_escaped=escaped,
            is_error=observation.is_error,
            error_class=observation.error_class,
            source=observation.source,
            scenario=observation.scenario,
            split=observation.split,
            latency_s=float(observation.latency_s),
            recorded_at=None if observation.recorded_at is None else float(observation.recorded_at),
            occurrence=observation.occurrence,
            asked=observation.asked,
            after=observation.after,
            times=kept.times,
            wire=observation.wire,
        )
        refused = _unsayable(line)
        if refused is not None:
            raise DataError(
                f"the call {call.key.hex()} of {call.tool!r}: {refused}. "
                "Record it again without that, or drop it with `cacherl cache gc`."
            )
        yield line


def _unsayable(line: ObservationLine) -> str | None:
    for name in ("namespace", "tool", "scenario", "wire"):
        if _HALF_CHARACTER.search(getattr(line, name) or ""):
            return f"its {name} holds half a character, which no file of text can carry"
    for name in ("latency_s", "recorded_at"):
        value = getattr(line, name)
        if value is not None and not math.isfinite(value):
            return f"its {name} is {value}, which JSON cannot say"
    return None


def _carried(text: str) -> tuple[str, str | None]:
    """Return the text as UTF-8 can carry it, and the whole of it escaped where it cannot."""
    if text.isascii() or not _HALF_CHARACTER.search(text):
        return text, None
    # Two halves that belong together are one character to everything that reads JSON.
    text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    if not _HALF_CHARACTER.search(text):
        return text, None
    return _HALF_CHARACTER.sub("\ufffd", text), json.dumps(text)


def _tool_line(namespace: str, spec: ToolSpec) -> ToolLine:
    line = ToolLine(
        namespace=namespace,
        spec=msgspec.structs.replace(spec, parameters=_by_name(spec.parameters)),
    )
    try:
        same = decode_line(encode_line(line), ToolLine, "") == line
    except (UnicodeEncodeError, DataError):
        same = False
    if not same:
        raise DataError(
            f"the declaration of {namespace}/{spec.name} holds what JSON cannot say "
            "(NaN, or half a character). Correct the tool's schema and record with it again."
        )
    return line


def _by_name(value: Any) -> Any:
    """Return a JSON value with the members of every object sorted."""
    if isinstance(value, dict):
        return {name: _by_name(value[name]) for name in sorted(value)}
    if isinstance(value, list | tuple):
        return [_by_name(item) for item in value]
    return value


def _note_line(name: str, value: bytes) -> NoteLine:
    try:
        return NoteLine(name=name, text=value.decode())
    except UnicodeDecodeError:
        return NoteLine(name=name, data=value)


def _write_jsonl(path: Path, lines: Written) -> None:
    with atomic_writer(path) as handle:
        for _, said in lines:
            handle.write(said)


# ---- sorting more than fits into memory


class _Row(NamedTuple):
    """A line and what it is sorted by."""

    namespace: str
    tool: str
    arguments: str
    state: str
    place: int
    line: bytes


def _in_order(rows: Iterable[_Row], folder: Path, chunk_bytes: int) -> Generator[_Row, None, None]:
    """Yield the rows sorted; at most about `chunk_bytes` of them are in memory at once."""
    with contextlib.ExitStack() as open_files:
        runs: list[IO[bytes]] = []
        chunk: list[_Row] = []
        held = 0
        for row in rows:
            chunk.append(row)
            held += 3 * len(row.arguments) + len(row.line)
            if held >= chunk_bytes:
                chunk.sort()
                if len(runs) == _MAX_RUNS:
                    runs = [_run(heapq.merge(*map(_of_run, runs)), folder, open_files)]
                runs.append(_run(chunk, folder, open_files))
                chunk, held = [], 0
        chunk.sort()
        yield from heapq.merge(*map(_of_run, runs), chunk)


def _run(rows: Iterable[_Row], folder: Path, open_files: contextlib.ExitStack) -> IO[bytes]:
    """Write sorted rows to a file without a name: a killed export leaves nothing behind."""
    handle: IO[bytes] = open_files.enter_context(tempfile.TemporaryFile(dir=folder))  # noqa: SIM115 - the stack closes it
    for row in rows:
        said = msgspec.msgpack.encode(row)
        handle.write(len(said).to_bytes(8, "big") + said)
    return handle


def _of_run(handle: IO[bytes]) -> Iterator[_Row]:
    handle.seek(0)
    while size := handle.read(8):
        yield _Row(*msgspec.msgpack.decode(handle.read(int.from_bytes(size, "big"))))
    handle.close()


# ---- reading


def is_export(path: Path) -> bool:
    """Say whether a file looks like an export (of either format) rather than a cache."""
    try:
        with path.open("rb") as handle:
            start = handle.read(9)
    except OSError:
        return path.suffix in (".jsonl", ".parquet")
    return start == b'{"_sum":"' or start[:4] == b"PAR1" or path.suffix in (".jsonl", ".parquet")


def read_export(path: Path) -> Generator[Item, None, None]:
    """Yield what an export holds, in its order: header, tools, notes, entries.

    Nothing is known to be whole before the last one has come: use it inside `CacheStore.batch`.
    An entry's key is computed by this version's rules from the arguments that the file holds; for
    a header of an older version that is not yet where lookups look (see `rekey.rekey`).

    Raises:
        DataError: a line is damaged, edited, missing or of a newer version; names file and line.
        MissingExtraError: Parquet, and pyarrow is not installed.
    """
    group: list[ObservationLine] = []
    for line in _checked(path):
        if isinstance(line, ObservationLine):
            if group and _identity(group[0]) != _identity(line):
                yield _entry(group)
                group = []
            group.append(line)
        elif not isinstance(line, End):
            yield line
    if group:
        yield _entry(group)


def _identity(line: ObservationLine) -> tuple[str, str, str, str]:
    return line.namespace, line.tool, line.arguments, line.state


def _entry(lines: list[ObservationLine]) -> CacheEntry:
    first = lines[0]
    call = RecordedCall.of(
        first.namespace, first.tool, first.arguments.encode(), bytes.fromhex(first.state)
    )
    return CacheEntry(call=call, kept=tuple(kept_of(line) for line in lines))


def kept_of(line: ObservationLine) -> Kept:
    """Return a line's observation and how often it was made."""
    observation = Observation(
        text=line.text if line.text_escaped is None else json.loads(line.text_escaped),
        is_error=line.is_error,
        error_class=line.error_class,
        source=line.source,
        scenario=line.scenario,
        split=line.split,
        latency_s=line.latency_s,
        recorded_at=line.recorded_at,
        occurrence=line.occurrence,
        asked=line.asked,
        after=line.after,
        wire=line.wire,
    )
    return Kept(observation=observation, times=line.times)


def _checked(path: Path) -> Iterator[Line]:
    """Yield the lines of a file, each checked, and the file as a whole at the end."""
    tally = _Tally()
    ended = False
    before: Line | None = None
    for where, line, said in _said(path):
        if ended:
            raise DataError(f"{where}: something follows the end. Export the cache again.")
        if isinstance(line, Header) != (before is None):
            raise DataError(
                f"{where}: the header must come first, and once. Export the cache again."
            )
        before = line
        if isinstance(line, End):
            ended = True
            if line != tally.end():
                raise DataError(
                    f"{where}: the end counts {line.tools} tools, {line.notes} notes and "
                    f"{line.observations} observations, digest {line.digest[:12]}; before it stand "
                    f"{tally.tools}, {tally.notes} and {tally.observations}, digest "
                    f"{tally.digest.hexdigest()[:12]}: lines were lost, added or moved. "
                    "Export the cache again."
                )
        else:
            _trusted(line, where)
            tally.add(line, said)
        yield line
    if not ended:
        raise DataError(f"{path}: the end is missing: the file was cut. Export the cache again.")


def _trusted(line: Line, where: str) -> None:
    """Raise for what the types of a line cannot refuse."""
    if isinstance(line, Header):
        if line.format > FORMAT or _number(line.canon) > _number(CANON_VERSION):
            raise DataError(
                f"{where}: format {line.format} with rules {line.canon}, and this cacherl knows up to "
                f"format {FORMAT} with rules {CANON_VERSION}. Upgrade cacherl."
            )
    elif isinstance(line, NoteLine):
        if (line.text is None) == (line.data is None):
            raise _refused(where, "text", "a note has either text or data")
    elif isinstance(line, ObservationLine):
        if not _is_canonical(line.arguments):
            raise _refused(where, "arguments", "no canonical JSON object: no lookup would find it")
        if line.asked is not None and not _is_canonical(line.asked):
            raise _refused(where, "asked", "no canonical JSON object")
        if line.wire is not None and not _is_json(line.wire):
            raise _refused(where, "wire", "no JSON")
        if not _is_hex(line.state):
            raise _refused(where, "state", "no lower-case hex")
        if line.times < 1 or line.occurrence < 0:
            name = "times" if line.times < 1 else "occurrence"
            raise _refused(where, name, f"{getattr(line, name)} is below what can be counted")
        if line.text_escaped is not None and not _is_escape(line):
            raise _refused(where, "text_escaped", "not the text, escaped")


def _refused(where: str, field: str, why: str) -> DataError:
    return DataError(f"{where}: {why} - at `$.{field}`. Write exports with `cacherl cache export`.")


def _number(version: str) -> int:
    digits = version.lstrip("c")
    return int(digits) if digits.isdecimal() else 1 << 30


def _is_canonical(text: str) -> bool:
    try:
        said = text.encode()
        value = decode_canonical(said)
        if not isinstance(value, dict):
            return False
        if canonical_json(value) == said:
            return True
        # Two halves of one character come back as one, which canonical JSON does not escape.
        return b"\\ud" in said and encode_folded(value, odd=True) == said
    except (ValueError, RecursionError):
        return False


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _is_hex(text: str) -> bool:
    try:
        return bytes.fromhex(text).hex() == text
    except ValueError:
        return False


def _is_escape(line: ObservationLine) -> bool:
    try:
        true = json.loads(line.text_escaped or "")
    except ValueError:
        return False
    return isinstance(true, str) and _carried(true) == (line.text, line.text_escaped)


def _said(path: Path) -> Iterator[tuple[str, Line, bytes]]:
    """Yield where a line stands, the line and its bytes."""
    try:
        with path.open("rb") as handle:
            parquet = handle.read(4) == b"PAR1"
            handle.seek(0)
            if parquet:
                yield from _said_in_parquet(path, handle)
                return
            for number, said in enumerate(handle, 1):
                where = f"{path}:{number}"
                yield where, _decoded(said, where), said
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: no such file. Write it with `cacherl cache export CACHE {path.name}`."
        ) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}).") from error


def _decoded(said: bytes, where: str) -> Line:
    try:
        line: Line = decode_line(said, Line, where, strict=True)  # type: ignore[arg-type]
    except DataError as error:
        fault = _fault(said)
        if fault is None or "checksum does not match" not in str(error):
            raise
        raise DataError(f"{error} It reads: {fault}.") from error
    return line


def _fault(said: bytes) -> str | None:
    """Return what a damaged line says, or which field makes no sense, as far as can be told."""
    try:
        members = json.loads(said)
        members.pop("_sum", None)
        line = msgspec.convert(members, Line)
    except msgspec.ValidationError as error:
        return str(error)
    except (ValueError, AttributeError):
        return None
    if isinstance(line, ObservationLine):
        return f"{line.namespace}/{line.tool} {line.arguments[:80]}"
    return None


# ---- Parquet


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "parquet") from error
    return pyarrow, pyarrow.parquet


def _schema(arrow: Any) -> Any:
    """Return the columns: those of `ObservationLine` in its order, and its checksum."""
    types = {
        **dict.fromkeys(("is_error",), arrow.bool_()),
        **dict.fromkeys(("latency_s", "recorded_at"), arrow.float64()),
        **dict.fromkeys(("occurrence", "times"), arrow.int64()),
    }
    may_be_null = {"text_escaped", "error_class", "recorded_at", "asked", "after", *_CAME_LATER}
    names = [*ObservationLine.__struct_fields__, "sum"]
    return arrow.schema(
        [
            arrow.field(name, types.get(name, arrow.string()), nullable=name in may_be_null)
            for name in names
        ]
    )


def _write_parquet(path: Path, lines: Written) -> None:
    arrow, parquet = _pyarrow()
    schema = _schema(arrow)
    names = ObservationLine.__struct_fields__
    beside = b""
    with (
        atomic_writer(path) as handle,
        parquet.ParquetWriter(
            handle, schema, compression="zstd", write_page_checksum=True
        ) as writer,
    ):
        rows: list[tuple[Any, ...]] = []
        held = 0

        def flush() -> None:
            nonlocal rows, held
            if rows:
                columns = [
                    arrow.array(column, field.type)
                    for column, field in zip(zip(*rows, strict=True), schema, strict=True)
                ]
                writer.write_table(arrow.Table.from_arrays(columns, schema=schema))
            rows, held = [], 0

        for line, said in lines:
            if line is not None:
                beside += said
                continue
            row = decode_line(said, ObservationLine, "the sort", strict=True)
            rows.append((*(getattr(row, name) for name in names), said[_SUM].decode()))
            held += len(said)
            if held >= _GROUP_BYTES or len(rows) >= _GROUP_ROWS:
                flush()
        flush()
        writer.add_key_value_metadata({METADATA.decode(): beside.decode()})


# What pyarrow raises beside its own errors where bytes of a file's footer are wrong.
_OF_DAMAGE = (OSError, ValueError, LookupError, TypeError, OverflowError, MemoryError)


def _said_in_parquet(path: Path, handle: IO[bytes]) -> Iterator[tuple[str, Line, bytes]]:
    arrow, parquet = _pyarrow()
    try:
        with parquet.ParquetFile(handle, page_checksum_verification=True) as file:
            beside = (file.metadata.metadata or {}).get(METADATA)
            if beside is None:
                raise DataError(
                    f"{path}: a Parquet file, but not an export of cacherl. "
                    "Write it with `cacherl cache export`."
                )
            lines = [
                (where, _decoded(said, where), said)
                for number, said in enumerate(beside.splitlines(keepends=True), 1)
                for where in [f"{path}: line {number} of the metadata {METADATA.decode()!r}"]
            ]
            # The end stands here too, and comes after the rows.
            end = lines.pop() if lines and isinstance(lines[-1][1], End) else None
            yield from lines
            if set(file.schema_arrow.names) | _CAME_LATER != set(_schema(arrow).names):
                raise DataError(
                    f"{path}: other columns than an export has: "
                    f"{', '.join(file.schema_arrow.names)}. Export the cache again."
                )
            number = 0
            for group in range(file.num_row_groups):
                for row in file.read_row_group(group).to_pylist():
                    number += 1
                    yield _row(row, f"{path}: row {number}")
            if end is not None:
                yield end
    except (arrow.ArrowException, *_OF_DAMAGE) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"{path}: not a whole Parquet file ({reason}). Restore it, or export the cache again."
        ) from error


def _row(row: dict[str, Any], where: str) -> tuple[str, Line, bytes]:
    said_sum = row.pop("sum")
    members = {name: value for name, value in row.items() if value is not None}
    try:
        line = msgspec.convert(members, ObservationLine)
    except msgspec.ValidationError as error:
        raise DataError(f"{where}: {error}. Restore the file, or export again.") from error
    said = encode_line(line)
    if said[_SUM].decode() != said_sum:
        raise DataError(
            f"{where}: the checksum does not match, so the row was changed after it was written. "
            f"It reads: {line.namespace}/{line.tool} {line.arguments[:80]}. "
            "Restore the file, or export again."
        )
    return where, line, said
