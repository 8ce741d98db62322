"""The rows of other people's files, one at a time, with where each stands.

JSONL, one JSON array, one JSON object that holds such an array, Parquet; plain, gzip or zstd. Memory
holds a row and a buffer, never the file. What is no row (a line that is too long, an end that is missing)
is reported and left out; only a file that cannot be read at all is an error.
"""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import io
import json
import re
import shutil
import tempfile
import zlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeAlias, TypeVar, cast

import msgspec

from cacherl.core.errors import DataError, MissingExtraError
from cacherl.core.records import Record

MAX_ROW_BYTES = 32 << 20
"""A longer row is skipped unread: as Python values it would take ten times as much memory."""

_CHUNK = 1 << 20
_PACKED_CHUNK = 1 << 10  # what is packed best grows a thousandfold (gzip), or 32,000-fold (zstd)
_TABLE_BYTES = 1 << 20  # of a table's values held at once, as a guess from its average row
_SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet")
_PACKED = (".gz", ".zst")
_SPACE = re.compile(r"[ \t\r\n]*")

NO_JSON = (msgspec.DecodeError, RecursionError, UnicodeError)
"""What msgspec raises for bytes or text that are no JSON."""

T = TypeVar("T")
_Buffered: TypeAlias = "io.BufferedReader[Any]"


class Skipped(Record, frozen=True, kw_only=True):
    """Something an import left out, and why."""

    where: str
    """`file:line` for lines, `file: row N` (from 1) for arrays and tables."""
    field: str
    """The path within the row, such as `messages[3].tool_calls`; empty for the row as a whole."""
    problem: str


OnSkip = Callable[[Skipped], None]
OnPosition = Callable[[int], None]
"""Called now and then with the bytes of the file that have been read, packed bytes where it is packed."""


class Unreadable(Exception):
    """A row that is no conversation of its format. Skipped and reported, never fatal to the file."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}" if field else problem)
        self.field = field
        self.problem = problem


@dataclass(slots=True)
class Row:
    """One row as it stands in the file."""

    where: str
    """`file:line` for lines, `file: row N` (from 1) for arrays and tables."""
    raw: bytes
    """The row's own bytes; for a table, its values as JSON."""
    _digest: str = field(default="", init=False, repr=False, compare=False)

    def value(self) -> Any:
        """Return the row's value.

        Raises:
            Unreadable: it is no JSON.
        """
        try:
            return msgspec.json.decode(self.raw)
        except NO_JSON as error:
            raise Unreadable("", f"no JSON ({error})") from error

    def read(self, decoder: msgspec.json.Decoder[T]) -> T:
        """Return the row's value as the decoder's type: several times as fast as `value`.

        Raises:
            Unreadable: it is no JSON, or not of that type.
        """
        try:
            return decoder.decode(self.raw)
        except msgspec.ValidationError as error:
            raise mistyped(error) from error
        except NO_JSON as error:
            raise Unreadable("", f"no JSON ({error})") from error

    def digest(self) -> str:
        """Return 16 hex digits of the untouched row: what provenance keeps."""
        if not self._digest:
            self._digest = hashlib.blake2b(self.raw, digest_size=8).hexdigest()
        return self._digest


def mistyped(error: msgspec.ValidationError, within: str = "") -> Unreadable:
    """Return what msgspec found wrong as field and problem."""
    problem, _, place = str(error).partition(" - at `$")
    path = place.rstrip("`").lstrip(".")
    joint = "." if within and path and not path.startswith("[") else ""
    return Unreadable(f"{within}{joint}{path}", problem)


# ---- which files -----------------------------------------------------------------------------


def files_of(source: Path) -> list[Path]:
    """Return the files that `source` means: itself, a folder's shards, or those of a glob; in order.

    Raises:
        DataError: there is none.
    """
    if source.is_file():
        return [source]
    if source.is_dir():
        found = [
            path
            for path in source.rglob("*")
            if path.is_file()
            and kind_of(path)
            and not any(part.startswith(".") for part in path.relative_to(source).parts)
        ]
        if not found:
            raise DataError(
                f"{source}: holds no {', '.join(_SUFFIXES)} file (.gz and .zst included). "
                "Name the files."
            )
        return sorted(found)
    if any(mark in source.name for mark in "*?["):
        found = sorted(path for path in source.parent.glob(source.name) if path.is_file())
        if found:
            return found
    raise DataError(f"{source}: no such file. Check the path.")


def kind_of(path: Path) -> str:
    """Return the suffix that says what the file holds, packing aside; empty for one nobody knows."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _PACKED:
        suffixes.pop()
    return suffixes[-1] if suffixes and suffixes[-1] in _SUFFIXES else ""


def bare_name(path: Path) -> str:
    """Return the name without the suffixes that say kind and packing."""
    name = path.name
    while Path(name).suffix.lower() in (*_SUFFIXES, *_PACKED):
        name = Path(name).stem
    return name


# ---- the rows --------------------------------------------------------------------------------


def rows_of(
    path: Path,
    *,
    under: str = "",
    columns: Collection[str] = (),
    on_skip: OnSkip | None = None,
    on_position: OnPosition | None = None,
    max_row_bytes: int = MAX_ROW_BYTES,
) -> Iterator[Row]:
    """Yield the rows of a file in order.

    A byte order mark, CRLF and blank lines are nothing special. Fields of a table that are null are
    left out: Arrow gives every row of a struct column all keys of all rows, and an argument that was never
    passed must not become a null that was.

    Args:
        path: the file; `.gz` and `.zst` are unpacked on the way.
        under: the key under which the rows stand, where the file is one JSON object.
        columns: read only these of a table's columns, where it has them; none means all.
        on_skip: told of what is no row.
        on_position: told how far the reading is.
        max_row_bytes: longer rows are skipped.

    Raises:
        DataError: the file is missing, packed wrongly from its first byte, in another encoding, or no
            table although it says so.
    """
    skip = on_skip or _forget
    tell = on_position or _forget
    if kind_of(path) == ".parquet":
        yield from _table_rows(path, columns, tell)
        return
    with _opened(path) as (handle, raw):
        try:
            peeked = handle.peek(_CHUNK)
        except EOFError as error:
            raise DataError(f"{path}: cannot be unpacked ({error}). Fetch it again.") from error
        if peeked.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise DataError(
                f"{path}: is UTF-16. Convert it: `iconv -f UTF-16 -t UTF-8 {path.name}`."
            )
        if peeked.startswith(codecs.BOM_UTF8):
            handle.read(len(codecs.BOM_UTF8))
            peeked = peeked[len(codecs.BOM_UTF8) :]
        if _is_lines(peeked, kind_of(path), under):
            rows = _lines(path, handle, raw, skip, tell, max_row_bytes)
        else:
            rows = _document_rows(path, handle, raw, under, skip, tell, max_row_bytes)
        try:
            yield from rows
        except EOFError as error:
            skip(Skipped(where=str(path), field="", problem=f"the packed file is damaged: {error}"))


def _forget(_: object) -> None:
    """Tell nobody."""


class _Packed(io.RawIOBase):
    """A gzip or zstd stream that gives all it can and then says where its end is missing.

    The libraries' own readers lose the last buffer before a break (gzip), or take it for the end (zstd).
    """

    def __init__(self, packed: IO[bytes], new: Callable[[], Any]) -> None:
        self._packed = packed
        self._new = new
        self._frame = new()
        self._within = False
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            packed = self._packed.read(_PACKED_CHUNK)
            if not packed and self._within:
                raise EOFError("its end is missing")
            if not packed:
                return 0
            self._left = memoryview(self._unpacked(packed))
        size = min(len(buffer), len(self._left))
        buffer[:size] = self._left[:size]
        self._left = self._left[size:]
        return size

    def _unpacked(self, packed: bytes) -> bytes:
        out = []
        while packed:
            try:
                out.append(self._frame.decompress(packed))
            except Exception as error:  # zlib and zstd have error classes of their own
                raise EOFError(str(error)) from error
            packed, self._within = b"", True
            if self._frame.eof:
                packed = self._frame.unused_data.lstrip(b"\0")  # tapes pad with zeros
                self._frame, self._within = self._new(), False
        return b"".join(out)


def _gzip() -> Any:
    return zlib.decompressobj(wbits=31)


def _zstd() -> Any:
    import zstandard

    return zstandard.ZstdDecompressor().decompressobj()


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[_Buffered, IO[bytes]]]:
    """Open for reading: the unpacked bytes, and the file whose position says how far that is."""
    try:
        raw = path.open("rb")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file. Check the path.") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error
    with raw:
        packing = path.suffix.lower()
        if packing in _PACKED:
            new = _gzip if packing == ".gz" else _zstd
            with io.BufferedReader(_Packed(raw, new), _CHUNK) as handle:
                yield handle, raw
        else:
            with io.BufferedReader(io.FileIO(raw.fileno(), closefd=False), _CHUNK) as handle:
                yield handle, raw


def _is_lines(start: bytes, kind: str, under: str) -> bool:
    """Say whether the file is one value a line, from its first bytes."""
    if kind in (".jsonl", ".ndjson"):
        return True
    line, newline, rest = start.lstrip().partition(b"\n")
    if not line.startswith((b"[", b"{")):
        return True  # what else it may be, every line will say
    try:
        value = msgspec.json.decode(line)
    except NO_JSON:
        return False
    if newline and rest.strip():
        return True  # a whole value, and another line after it
    return isinstance(value, dict) and under not in value


def _lines(
    path: Path,
    handle: _Buffered,
    raw: IO[bytes],
    skip: OnSkip,
    tell: OnPosition,
    max_row_bytes: int,
) -> Iterator[Row]:
    number = 0
    said = 0
    name = str(path)
    while line := handle.readline(max_row_bytes):
        number += 1
        said += len(line)
        if said > _CHUNK:
            said = 0
            tell(raw.tell())
        if len(line) == max_row_bytes and line[-1:] != b"\n":
            while (more := handle.readline(_CHUNK)) and more[-1:] != b"\n":
                pass
            problem = f"a line of more than {max_row_bytes >> 20} MiB"
            skip(Skipped(where=f"{name}:{number}", field="", problem=problem))
            continue
        body = line.strip()
        if body:
            yield Row(f"{name}:{number}", body)
    tell(raw.tell())


# ---- one JSON document -----------------------------------------------------------------------


class _Cut(Exception):
    """What follows cannot be read, so neither can anything after it."""


class _Document:
    """Walks through one JSON text with the standard library's parser, a buffer at a time."""

    def __init__(self, handle: _Buffered, raw: IO[bytes], tell: OnPosition, max_value: int) -> None:
        self._handle = handle
        self._raw = raw
        self._tell = tell
        self._max = max_value
        # Wrong bytes come through as they are: the row that holds them is refused, not the file.
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._scan = json.JSONDecoder().raw_decode
        self._text = ""
        self._at = 0
        self._ended = False

    def _more(self) -> bool:
        """Read on; a longer and longer piece for a value that is still not whole."""
        if self._ended:
            return False
        block = self._handle.read(max(_CHUNK, len(self._text) - self._at))
        self._ended = not block
        self._text = self._text[self._at :] + self._decoder.decode(block, final=self._ended)
        self._at = 0
        self._tell(self._raw.tell())
        return not self._ended

    def peek(self) -> str:
        """Return the next character that is no white space; empty at the end."""
        while True:
            self._at = cast(re.Match[str], _SPACE.match(self._text, self._at)).end()
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def take(self, expected: str) -> None:
        """Pass over one of the characters.

        Raises:
            _Cut: something else stands there.
        """
        seen = self.peek()
        if not seen or seen not in expected:
            raise _Cut(f"{' or '.join(expected)} expected, {seen or 'the end of the file'!r} found")
        self._at += 1

    def value(self) -> tuple[Any, str]:
        """Return the next value and its text.

        Raises:
            _Cut: there is none, or it is too long.
        """
        self.peek()
        while True:
            try:
                value, end = self._scan(self._text, self._at)
                # A number at the end of the buffer may go on in the next.
                if end < len(self._text) or self._ended or not self._more():
                    text = self._text[self._at : end]
                    self._at = end
                    return value, text
                continue
            except (ValueError, RecursionError) as error:
                if isinstance(error, RecursionError):
                    raise _Cut("nested too deeply") from error
                if len(self._text) - self._at > self._max:
                    problem = f"no JSON, or a value of more than {self._max >> 20} MiB"
                    raise _Cut(problem) from error
                if not self._more():
                    problem = "the file ends early" if _is_torn(error, self._text) else str(error)
                    raise _Cut(f"no JSON ({problem})") from error

    def items(self) -> Iterator[tuple[Any, str]]:
        """Yield the members of the array that stands here."""
        self.take("[")
        if self.peek() == "]":
            self._at += 1
            return
        while True:
            yield self.value()
            self.take(",]")
            if self._text[self._at - 1] == "]":
                return

    def keys(self) -> Iterator[str]:
        """Yield the keys of the object that stands here; the caller takes each value."""
        self.take("{")
        if self.peek() == "}":
            self._at += 1
            return
        while True:
            if self.peek() != '"':
                raise _Cut("a key expected")
            key, _ = self.value()
            self.take(":")
            yield key
            self.take(",}")
            if self._text[self._at - 1] == "}":
                return


def _is_torn(error: Exception, text: str) -> bool:
    return isinstance(error, json.JSONDecodeError) and (
        error.pos >= len(text.rstrip()) - 1 or error.msg.startswith("Unterminated")
    )


def _document_rows(
    path: Path,
    handle: _Buffered,
    raw: IO[bytes],
    under: str,
    skip: OnSkip,
    tell: OnPosition,
    max_row_bytes: int,
) -> Iterator[Row]:
    document = _Document(handle, raw, tell, max_row_bytes)
    number = 0

    def row(text: str) -> Row:
        nonlocal number
        number += 1
        return Row(f"{path}: row {number}", text.encode("utf-8", "surrogateescape"))

    try:
        while first := document.peek():
            if first == "[":
                for _, text in document.items():
                    yield row(text)
            elif first == "{" and under:
                for key in document.keys():  # noqa: SIM118 - no dict: a walk through the text
                    if key == under and document.peek() == "[":
                        for _, text in document.items():
                            yield row(text)
                    else:
                        document.value()
            else:
                yield row(document.value()[1])
    except _Cut as cut:
        where = f"{path}: row {number + 1}"
        skip(Skipped(where=where, field="", problem=f"{cut}; nothing after it was read"))


# ---- tables ----------------------------------------------------------------------------------


def _table_rows(path: Path, columns: Collection[str], tell: OnPosition) -> Iterator[Row]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtraError("pyarrow", "parquet") from error
    with contextlib.ExitStack() as stack:
        handle, _ = stack.enter_context(_opened(path))
        source: Any = handle
        if path.suffix.lower() in _PACKED:  # a table is read from its end
            source = stack.enter_context(tempfile.TemporaryFile())
            try:
                shutil.copyfileobj(handle, source, _CHUNK)
            except EOFError as error:
                raise DataError(f"{path}: cannot be unpacked ({error}). Fetch it again.") from error
            source.seek(0)
        try:
            # Buffered, a column is read as it is needed and not a row group at a time.
            reader = pq.ParquetFile(source, buffer_size=_CHUNK, pre_buffer=False)
            table = stack.enter_context(reader)
            names = table.schema_arrow.names
            wanted = [name for name in names if not columns or name in columns]
            total, size = table.metadata.num_rows, path.stat().st_size
            unpacked = sum(
                table.metadata.row_group(group).total_byte_size
                for group in range(table.metadata.num_row_groups)
            )
            at_once = max(1, min(1024, _TABLE_BYTES * total // max(1, unpacked)))
            number = 0
            for batch in table.iter_batches(batch_size=at_once, columns=wanted):
                for value in batch.to_pylist():
                    number += 1
                    yield Row(f"{path}: row {number}", msgspec.json.encode(_without_nulls(value)))
                tell(size * number // max(1, total))
                pa.default_memory_pool().release_unused()  # else it keeps what a file once took
        except (pa.ArrowException, OSError) as error:
            problem = " ".join(str(error).split())
            raise DataError(f"{path}: no Parquet table ({problem}). Fetch it again.") from error


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


# ---- a look at the beginning -----------------------------------------------------------------


def sample_of(path: Path, *, look_at: int = 64 << 20) -> Any:
    """Return the value of the first row; of a file that is one JSON object, that object in brief.

    In brief: of every array under its keys the first member alone. Reads no further than it must,
    and about `look_at` bytes at most.

    Raises:
        DataError: the file cannot be read at all, or is empty.
    """
    if kind_of(path) != ".parquet":
        with _opened(path) as (handle, raw):
            start = handle.peek(_CHUNK).removeprefix(codecs.BOM_UTF8).lstrip()
            if start.startswith(b"{") and not _is_lines(start, kind_of(path), ""):
                handle.read(3 if handle.peek(3).startswith(codecs.BOM_UTF8) else 0)
                return _in_brief(_Document(handle, raw, _forget, MAX_ROW_BYTES), raw, look_at)
    for row in rows_of(path):
        try:
            return row.value()
        except Unreadable:
            return None
    raise DataError(f"{path}: is empty. Check the file.")


def _in_brief(document: _Document, raw: IO[bytes], look_at: int) -> dict[str, Any]:
    brief: dict[str, Any] = {}
    with contextlib.suppress(_Cut):
        for key in document.keys():  # noqa: SIM118 - no dict: a walk through the text
            if document.peek() != "[":
                brief[key] = document.value()[0]
                continue
            brief[key] = []
            for value, _ in document.items():
                brief[key] = brief[key] or [value]
                if raw.tell() > look_at:
                    return brief
    return brief
