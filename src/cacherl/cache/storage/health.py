"""Is a cache file whole, and what can be saved of one that is not?

Every row has a checksum of its own, so what is read is right or an error. What damage took away
altogether leaves no row to check: pages that cannot be read, index entries without a row, answers
that a call should have, transactions that the WAL has lost. `verify` looks for those too.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from cacherl.cache.identity.key import CANON_VERSION
from cacherl.cache.storage import older, rows
from cacherl.cache.storage.entry import CacheEntry, Kept, RecordedCall
from cacherl.cache.storage.filesystem import refuse_shared
from cacherl.cache.storage.rows import APPLICATION_ID, SCHEMA_VERSION, CallRow, Damage
from cacherl.cache.storage.snapshot import SnapshotStore, is_snapshot
from cacherl.cache.storage.sqlite import SqliteStore, connect, trouble
from cacherl.core.errors import CacheError
from cacherl.core.records import Record

_STEP = 256  # rows read at once
_MAX_FAILURES = 200_000
_IDS_A_PAGE = 128
_BATCH = 1000
_TOLD = 100


class Health(Record, frozen=True, kw_only=True):
    """What a cache file holds, and what of it is damaged."""

    path: str
    format: str
    calls: int
    """Whole ones, as all counts here."""
    answers: int
    tools: int
    notes: int
    stale: int
    """Calls of another canon version: they answer nothing until `cacherl cache rekey`."""
    problems: tuple[str, ...]
    """Empty where all is whole."""


class Repaired(Record, frozen=True, kw_only=True):
    """What was saved of a cache file."""

    path: str
    out: str
    calls: int
    answers: int
    tools: int
    notes: int
    lost: tuple[str, ...]


def verify(path: Path) -> Health:
    """Read all of a cache file or snapshot and name everything that is damaged. Changes nothing.

    Raises:
        CacheError: there is no such file, or it never was a cache.
    """
    _exists(path)
    if is_snapshot(path):
        return _snapshot_health(path)
    refuse_shared(path)
    with _opened(path, None) as found:
        problems = [*found.problems, *_structure(found)]
        contents = _Contents()
        for canon, entry in _entries(found, problems, contents):
            contents.calls += 1
            contents.answers += len(entry.kept)
            contents.stale += canon != CANON_VERSION
        contents.tools = len(list(_tools(found, problems)))
        contents.notes = len(list(_notes(found, problems)))
        if found.version == SCHEMA_VERSION:
            problems.extend(_what_belongs_together(found))
        if problems:
            problems.extend(_gone(found, contents))
    return Health(
        path=str(path),
        format=f"SQLite, format {found.version}",
        calls=contents.calls,
        answers=contents.answers,
        tools=contents.tools,
        notes=contents.notes,
        stale=contents.stale,
        problems=tuple(dict.fromkeys(problems)),
    )


def repair(path: Path, out: Path) -> Repaired:
    """Save every call, answer, declaration and note that can be read into a new cache file.

    The damaged file stays as it is. `out` appears when it is complete, and not before.

    Raises:
        CacheError: `out` is there already, `path` is not there, or nothing of it can be read.
    """
    _exists(path)
    if out.exists():
        raise CacheError(f"{out}: is there already. Choose a path where nothing is yet.")
    building = out.with_name(out.name + ".new")
    for left in building.parent.glob(building.name + "*"):
        left.unlink()
    lost: list[str] = []
    contents = _Contents()
    with contextlib.closing(SqliteStore(building, mode="write")) as target:
        if is_snapshot(path):
            _save_snapshot(path, target, contents, lost)
        else:
            refuse_shared(path)
            with _opened(path, out.parent) as found:
                lost.extend(found.problems)
                _save(target, _entries(found, lost, contents), contents)
                with target.batch():
                    for namespace, spec in _tools(found, lost):
                        target.put_tool(namespace, spec)
                        contents.tools += 1
                    for name, note in _notes(found, lost):
                        target.put_note(name, note)
                        contents.notes += 1
                lost.extend(_gone(found, contents))
    building.replace(out)
    return Repaired(
        path=str(path),
        out=str(out),
        calls=contents.calls,
        answers=contents.answers,
        tools=contents.tools,
        notes=contents.notes,
        lost=tuple(dict.fromkeys(lost)),
    )


def _exists(path: Path) -> None:
    if not path.is_file():
        raise CacheError(f"{path}: no such cache. Make one with `cacherl import` or `cacherl run`.")


@dataclass(slots=True)
class _Contents:
    """What was found whole."""

    calls: int = 0
    answers: int = 0
    tools: int = 0
    notes: int = 0
    stale: int = 0
    ids: set[int] = field(default_factory=set)


def _save(
    target: SqliteStore, entries: Iterator[tuple[str, CacheEntry]], contents: _Contents
) -> None:
    more = True
    while more:
        more = False
        with target.batch():
            for _ in range(_BATCH):
                if (item := next(entries, None)) is None:
                    break
                target.keep_whole(*item)
                contents.calls += 1
                contents.answers += len(item[1].kept)
                more = True


# ---- snapshots


def _snapshot_health(path: Path) -> Health:
    try:
        store = SnapshotStore(path)
    except CacheError as error:
        return Health(
            path=str(path),
            format="snapshot",
            calls=0,
            answers=0,
            tools=0,
            notes=0,
            stale=0,
            problems=(str(error),),
        )
    with contextlib.closing(store):
        problems = list(store.verify())
        calls = answers = 0
        for entry in store.salvage():
            calls += 1
            answers += len(entry.kept)
        return Health(
            path=str(path),
            format="snapshot",
            calls=calls,
            answers=answers,
            tools=len(_snapshot_tools(store, [])),
            notes=len(store.notes()),
            stale=0,
            problems=tuple(problems),
        )


def _save_snapshot(path: Path, target: SqliteStore, contents: _Contents, lost: list[str]) -> None:
    with contextlib.closing(SnapshotStore(path)) as store:
        lost.extend(store.verify())
        _save(target, ((CANON_VERSION, entry) for entry in store.salvage()), contents)
        with target.batch():
            for (namespace, _), spec in _snapshot_tools(store, lost).items():
                target.put_tool(namespace, spec)
                contents.tools += 1
            for name in store.notes():
                with contextlib.suppress(CacheError):
                    note = store.note(name)
                    if note is not None:
                        target.put_note(name, note)
                        contents.notes += 1


def _snapshot_tools(store: SnapshotStore, lost: list[str]) -> dict[tuple[str, str], Any]:
    try:
        return dict(store.tools())
    except CacheError:
        lost.append("the declarations of the tools")
        return {}


# ---- SQLite files: opening what may be damaged


@dataclass(frozen=True, slots=True)
class _Found:
    path: Path
    connection: sqlite3.Connection
    version: int
    problems: tuple[str, ...]


@contextlib.contextmanager
def _opened(path: Path, room: Path | None) -> Iterator[_Found]:
    """Open a file as far as it can be: with a damaged head, a copy whose head is mended.

    Args:
        path: the file.
        room: where there is room for a copy; None for the system's own place.

    Raises:
        CacheError: it never was a cache, or nothing of it can be read.
    """
    with contextlib.ExitStack() as stack:
        problems: list[str] = []
        try:
            connection = stack.enter_context(contextlib.closing(connect(path, "read")))
            version = _version(path, connection, problems)
        except rows.UNREADABLE as error:
            if not _looks_like_ours(path):
                raise trouble(path, error) from error
            problems.append(f"the head of the file ({error})")
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=room)))
            for mend in (_with_known_head, _with_known_page):
                copy = _copied(path, folder)
                mend(copy)
                try:
                    connection = stack.enter_context(contextlib.closing(connect(copy, "read")))
                    version = _version(path, connection, problems)
                    break
                except rows.UNREADABLE:
                    continue
            else:
                raise trouble(path, error) from error
        problems.extend(_lost_by_wal(path))
        yield _Found(path, connection, version, tuple(problems))


def _version(path: Path, connection: sqlite3.Connection, problems: list[str]) -> int:
    """Return the format, told by the tables: the numbers in the head may be damaged."""
    names = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
    if {"call", "answer"} <= names:
        version = SCHEMA_VERSION
    elif {"call", "observation"} <= names:
        version = older.FORMATS[-1]
    else:
        raise CacheError(f"{path}: a SQLite file, but not a cache of cacherl. Choose another path.")
    if rows.pragma(connection, "application_id") != APPLICATION_ID:
        problems.append("the mark that says this is a cache")
    written = rows.pragma(connection, "user_version")
    if written != version:
        problems.append(f"the number of the format ({written}, and the tables are of {version})")
    return version


_PAGE = 4096
_MAGIC = b"SQLite format 3\0"


def _looks_like_ours(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(1 << 16)
    return (
        start.startswith(_MAGIC)
        or start[68:72] == APPLICATION_ID.to_bytes(4, "big")
        or b"CREATE TABLE call(" in start
    )


def _copied(path: Path, folder: Path) -> Path:
    copy = folder / "copy.sqlite"
    for ending in ("", "-wal", "-shm"):
        copy.with_name(copy.name + ending).unlink(missing_ok=True)
    shutil.copyfile(path, copy)
    wal = path.with_name(path.name + "-wal")
    if wal.exists():
        shutil.copyfile(wal, folder / "copy.sqlite-wal")
    os.truncate(copy, -(-copy.stat().st_size // _PAGE) * _PAGE)
    return copy


def _with_known_head(copy: Path) -> None:
    """Let the head of a copy say again what the heads of all of ours say."""
    with copy.open("r+b") as file:
        file.write(_MAGIC + _PAGE.to_bytes(2, "big") + b"\x02\x02\x00\x40\x20\x20")
        for place, number in ((44, 4), (56, 1)):  # the schema's format; UTF-8
            file.seek(place)
            file.write(number.to_bytes(4, "big"))
    _tell_pages(copy)


def _with_known_page(copy: Path) -> None:
    """Give a copy the first page of a new file: the tables, which stand where they always stand.

    Not in a file that was migrated: there they stand elsewhere, and nothing is found.
    """
    new = copy.with_name("new.sqlite")
    with contextlib.closing(sqlite3.connect(new, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA page_size={_PAGE}")
        connection.execute("PRAGMA journal_mode=WAL")
        rows.create(connection)
    with copy.open("r+b") as file:
        file.write(new.read_bytes()[:_PAGE])
    _tell_pages(copy)


def _tell_pages(copy: Path) -> None:
    with copy.open("r+b") as file:
        file.seek(28)  # SQLite opens nothing that was cut short
        file.write((copy.stat().st_size // _PAGE).to_bytes(4, "big"))


def _lost_by_wal(path: Path) -> Iterator[str]:
    """Say whether the WAL holds transactions that SQLite passes over: their frames are damaged.

    SQLite stops at the first frame that does not fit and takes what comes after for leftovers. What
    comes after and was committed in the same run of the WAL is no leftover. (A process killed
    between writing a commit and telling of it can leave one such transaction, acknowledged to nobody.)
    """
    wal, shared = (path.with_name(path.name + ending) for ending in ("-wal", "-shm"))
    try:
        data = wal.read_bytes()
        index = shared.read_bytes()[:20]
    except FileNotFoundError:
        return
    if len(data) <= 32:
        return
    size = int.from_bytes(data[8:12], "big")
    if data[:4] not in (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83") or _wal_sum(data) != data[24:32]:
        yield "the head of the -wal file: the last transactions are gone"
        return
    valid = int.from_bytes(index[16:20], sys.byteorder) if len(index) == 20 else 0
    for number, place in enumerate(range(32, len(data) - 23 - size, 24 + size), start=1):
        committed = data[place + 4 : place + 8] != bytes(4)
        if number > valid and committed and data[place + 8 : place + 16] == data[16:24]:
            yield f"frame {valid + 1} of the -wal file: the transactions from there on are gone"
            return


def _wal_sum(data: bytes) -> bytes:
    """Return the checksum of a WAL's head as SQLite computes it."""
    order = ">" if data[3] & 1 else "<"
    one = two = 0
    for first, second in struct.iter_unpack(f"{order}II", data[:24]):
        one = (one + first + two) & 0xFFFFFFFF
        two = (two + second + one) & 0xFFFFFFFF
    return one.to_bytes(4, "big") + two.to_bytes(4, "big")


# ---- SQLite files: reading what may be damaged


def _structure(found: _Found) -> Iterator[str]:
    """Name what SQLite itself finds wrong with its pages and indexes."""
    try:
        told = found.connection.execute(f"PRAGMA integrity_check({_TOLD})").fetchall()
    except rows.UNREADABLE as error:
        yield f"the file's structure ({error})"
        return
    yield from (f"the file's structure: {row[0]}" for row in told if row[0] != "ok")


def _entries(
    found: _Found, problems: list[str], contents: _Contents
) -> Iterator[tuple[str, CacheEntry]]:
    """Yield all that is whole of every call, and say of what is not that it is not."""
    connection = found.connection
    today = found.version == SCHEMA_VERSION

    def between(first: int, last: int) -> list[CallRow]:
        if not today:
            return older.calls_between(connection, first, last, _STEP)
        query = rows.SELECT_CALLS + " WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?"
        return connection.execute(query, (first, last, _STEP)).fetchall()

    for row in _readable(between, _last_id(found, problems), problems):
        if row[0] in contents.ids:
            continue  # damaged pages may lead in circles
        contents.ids.add(row[0])
        entry = (_whole_of if today else _whole_of_older)(connection, row, problems)
        if entry is not None:
            yield row[2], entry


def _last_id(found: _Found, problems: list[str]) -> int:
    """Return an id that no call's is above."""
    told = []
    for query in (
        "SELECT max(id) FROM call",  # the last row's, and that may be damaged
        "SELECT max(id) FROM (SELECT key, id FROM call INDEXED BY call_by_key)",
    ):
        with contextlib.suppress(*rows.UNREADABLE):
            told.append(int(found.connection.execute(query).fetchone()[0] or 0))
    if told:
        return max(told)
    try:
        found.connection.execute("SELECT key FROM call WHERE id=0").fetchall()
    except rows.UNREADABLE as error:
        problems.append(f"the table of the calls ({error}): none can be read")
        return 0
    return found.path.stat().st_size // _PAGE * _IDS_A_PAGE


def _readable(
    between: Callable[[int, int], list[CallRow]], last: int, problems: list[str]
) -> Iterator[CallRow]:
    """Yield the rows of all ids that can be read, and name those that cannot.

    Args:
        between: returns the first `_STEP` rows of a range of ids.
        last: the highest id, or more: damage may have made it enormous.
        problems: where what cannot be read is told.
    """
    holes: list[list[int]] = []
    spans = [(1, last)]
    failures = 0
    while spans:
        first, end = spans.pop()
        if first > end:
            continue
        try:
            page = between(first, end)
        except rows.UNREADABLE:
            failures += 1
            if failures > _MAX_FAILURES:
                problems.append(f"calls number {first} and on: too much of them cannot be read")
                break
            if first < end:
                middle = (first + end) // 2
                spans += [(middle + 1, end), (first, middle)]
            elif holes and holes[-1][1] == first - 1:
                holes[-1][1] = first
            else:
                holes.append([first, first])
        else:
            yield from page
            if len(page) == _STEP:
                after = page[-1][0] if page[-1][0] >= first else max(row[0] for row in page)
                spans.append((after + 1, end))
    for first, end in holes:
        problems.append(f"calls number {first} to {end}: they cannot be read")


def _whole_of(
    connection: sqlite3.Connection, row: CallRow, problems: list[str]
) -> CacheEntry | None:
    """Return what is whole of a call; None where not even the call is."""
    number, key, answers = row[0], row[1], row[6]
    kept: list[Kept] = []
    if rows.is_whole(row):
        call = rows.call_of(row)
        expected: set[int] | None = set(range(1, answers))
        with _named(problems, f"an answer of the call {rows.named(key)}"):
            kept.extend(rows.first_kept(row))
    else:
        problems.append(f"an answer of the call {rows.named(key)}")
        expected = None
        try:
            # The row's checksum covers its answer too; that the call is whole, its own hash tells.
            call = RecordedCall.of(row[3], row[4], row[10], row[5])
        except (TypeError, AttributeError):
            return None
        if call.key != key or row[2] != CANON_VERSION:
            problems.append(f"the call {rows.named(key)}")
            return None
    try:
        others = rows.answers_of(connection, number)
    except (*rows.UNREADABLE, Damage):
        problems.append(f"answers of the call {rows.named(key)}: they cannot be read")
        others, expected = [], None
    for place, *rest in others:
        with _named(problems, f"an answer of the call {rows.named(key)}"):
            kept.append(rows.answer_of(key, place, rest))
    if expected is not None and expected != {place for place, *_ in others}:
        problems.append(f"answers of the call {rows.named(key)}: not as many as there were")
    if not kept and answers != 0:
        return None
    return CacheEntry(call=call, kept=tuple(kept))


def _whole_of_older(
    connection: sqlite3.Connection, row: CallRow, problems: list[str]
) -> CacheEntry | None:
    try:
        call = older.call_of(row)
        answers = older.answers_of(connection, row[0])
    except Damage as damage:
        problems.append(str(damage))
        return None
    except rows.UNREADABLE:
        problems.append(f"answers of the call {rows.named(row[1])}: they cannot be read")
        return None
    kept = []
    for answer in answers:
        with _named(problems, f"an answer of the call {rows.named(call.key)}"):
            kept.append(older.answer_of(call.key, answer))
    return CacheEntry(call=call, kept=tuple(kept)) if kept else None


@contextlib.contextmanager
def _named(problems: list[str], what: str) -> Iterator[None]:
    try:
        yield
    except (Damage, msgspec.MsgspecError, ValueError):
        problems.append(what)


def _tools(found: _Found, problems: list[str]) -> Iterator[tuple[str, Any]]:
    try:
        declared = older.tools(found.connection)
    except rows.UNREADABLE as error:
        problems.append(f"the declarations of the tools ({error}): they cannot be read")
        return
    for row in declared:
        try:
            yield row[0], rows.spec_of(*row)
        except (Damage, msgspec.MsgspecError, ValueError):
            problems.append(f"the declaration of {row[0]}/{row[1]}")


def _notes(found: _Found, problems: list[str]) -> Iterator[tuple[str, bytes]]:
    if found.version != SCHEMA_VERSION:
        return
    try:
        kept = found.connection.execute("SELECT name, value, sum FROM note").fetchall()
    except rows.UNREADABLE as error:
        problems.append(f"the notes ({error}): they cannot be read")
        return
    for row in kept:
        try:
            yield row[0], rows.note_of(*row)
        except Damage as damage:
            problems.append(str(damage))


def _what_belongs_together(found: _Found) -> Iterator[str]:
    """Name what is whole by itself and yet not what the rest of the file speaks of."""
    connection = found.connection
    try:
        orphans = rows.orphans(connection)
        if orphans:
            yield f"further answers: {orphans} belong to no call"
        filed, _ = rows.mark(connection)
        right = connection.execute(
            "SELECT count(*) FROM filed f JOIN call c ON c.id = f.call "
            "AND c.namespace = f.namespace AND c.tool = f.tool WHERE f.call <= ?",
            (filed,),
        ).fetchone()[0]
        entries = connection.execute("SELECT count(*) FROM filed").fetchone()[0]
        calls = connection.execute("SELECT count(*) FROM call WHERE id <= ?", (filed,)).fetchone()[
            0
        ]
        if not right == entries == calls:
            yield f"the list of calls by tool: {right} of {entries} are right, {calls} should be"
    except (*rows.UNREADABLE, Damage) as error:
        yield f"what belongs together ({error})"


def _gone(found: _Found, contents: _Contents) -> Iterator[str]:
    """Name the calls that the index still knows and the table does not."""
    try:
        known = found.connection.execute(
            "SELECT key, id FROM call INDEXED BY call_by_key ORDER BY key"
        )
        for key, number in known:
            if number not in contents.ids:
                yield f"the call {rows.named(key)}: gone"
    except rows.UNREADABLE:
        return  # told already as the structure's damage
