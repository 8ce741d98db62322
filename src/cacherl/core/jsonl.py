"""Files of records: one JSON object a line, each with its own checksum.

A line is `{"_sum":"<16 hex digits>",...record}`: still plain JSONL for `jq` and pandas. The sum is
BLAKE2b-64 of the record's bytes without the `_sum` member. Lines without a sum (written by hand or
by others) are accepted unless `strict`; lines with a wrong one never are.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, TypeVar

import msgspec

from cacherl.core.errors import DataError
from cacherl.core.records import Record

R = TypeVar("R", bound=Record)

_PREFIX = b'{"_sum":"'
_HEX = 16


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=_HEX // 2).hexdigest().encode()


def whole(value: Any) -> Any:
    """Return a JSON value with each half of a character (a lone surrogate) replaced by `?`.

    Models and tools write such halves where they cut a text; no file and no request can hold them.
    """
    match value:
        case str():
            return value.encode(errors="replace").decode()
        case dict():
            return {whole(name): whole(member) for name, member in value.items()}
        case list() | tuple():
            return [whole(item) for item in value]
        case _:
            return value


def encode_line(record: Record) -> bytes:
    """Return the record's line, newline included. Halves of characters are written as `?`."""
    try:
        body = msgspec.json.encode(record)
    except UnicodeEncodeError:
        body = msgspec.json.encode(whole(msgspec.to_builtins(record)))
    joint = b'"}' if body == b"{}" else b'",' + body[1:]
    return _PREFIX + _digest(body) + joint + b"\n"


def decode_line(line: bytes, kind: type[R], where: str, *, strict: bool = False) -> R:
    """Return the record of one line.

    Args:
        line: the line, with or without its newline.
        kind: the record type, or a union of record types.
        where: `file:line`, for the error.
        strict: refuse lines without a checksum.

    Raises:
        DataError: the line is no such record, or its checksum does not match.
    """
    body = line.rstrip(b"\r\n")
    if body.startswith(_PREFIX):
        start = len(_PREFIX)
        said, rest = body[start : start + _HEX], body[start + _HEX :]
        body = b"{}" if rest == b'"}' else b"{" + rest[2:]
        if _digest(body) != said:
            raise DataError(
                f"{where}: the checksum does not match, so the line was damaged after it was written. "
                "Restore the file, or delete the line and run the stage again."
            )
    elif strict:
        raise DataError(f"{where}: the line has no checksum. Write the file with cacherl.")
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        name = getattr(kind, "__name__", str(kind))
        raise DataError(f"{where}: not a {name}: {error}. Fix or delete the line.") from error


def read_jsonl(path: Path, kind: type[R], *, drop_torn_tail: bool = False) -> Iterator[R]:
    """Yield the records of a file in order, one at a time.

    Args:
        path: the file.
        kind: the record type.
        drop_torn_tail: ignore a last line without a newline: what a killed writer leaves behind.

    Raises:
        DataError: the file is missing, or a line is not a `kind`.
    """
    try:
        handle = path.open("rb")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file. Run the stage that writes it first.") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error
    with handle:
        for number, line in enumerate(handle, 1):
            if not line.strip():
                continue
            if drop_torn_tail and not line.endswith(b"\n"):
                return
            yield decode_line(line, kind, f"{path}:{number}")


@contextlib.contextmanager
def atomic_writer(path: Path) -> Iterator[IO[bytes]]:
    """Open `path` for writing so that it either appears whole, synced to disk, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_jsonl(path: Path, records: Iterable[Record]) -> int:
    """Write the records as one atomic file and return how many there were."""
    count = 0
    with atomic_writer(path) as handle:
        for record in records:
            handle.write(encode_line(record))
            count += 1
    return count


class JsonlAppender:
    """An append-only file of records: a killed writer loses at most the line it was writing.

    Opening cuts a torn last line off, so that what follows stands on a line of its own.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._handle = path.open("a+b")
        self._cut_torn_tail()

    def _cut_torn_tail(self) -> None:
        end = self._handle.seek(0, os.SEEK_END)
        position = end
        while position > 0:
            start = max(0, position - 65536)
            self._handle.seek(start)
            newline = self._handle.read(position - start).rfind(b"\n")
            if newline >= 0:
                position = start + newline + 1
                break
            position = start
        if position != end:
            self._handle.truncate(position)
        self._handle.seek(0, os.SEEK_END)

    def append(self, record: Record) -> None:
        """Write one record and hand it to the operating system."""
        self._handle.write(encode_line(record))
        self._handle.flush()

    def close(self) -> None:
        """Sync to disk and close."""
        self._handle.flush()
        os.fsync(self._handle.fileno())
        self._handle.close()

    def __enter__(self) -> JsonlAppender:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
