"""The store in a file: SQLite in WAL mode, every row under a checksum of its own.

Several processes may read and write one file at once, on one machine: WAL needs shared memory, so
a network file system is refused (`filesystem`). A killed process loses nothing that `add` returned
for. Power loss is another matter: with `durability="normal"` SQLite syncs only when it moves the
WAL into the file, so the last seconds of recording may be gone (never torn: what is there is whole);
with `"full"` every commit waits for the disk, and an add costs three to seven times as much.
"""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from cacherl.cache.identity.key import CANON_VERSION
from cacherl.cache.identity.normalise import Plan
from cacherl.cache.matching.nearest import LooseIndex
from cacherl.cache.storage import older, rows
from cacherl.cache.storage.entry import CacheEntry, Kept, Observation, RecordedCall, grown, merged
from cacherl.cache.storage.filesystem import refuse_shared
from cacherl.cache.storage.rows import APPLICATION_ID, SCHEMA_VERSION, CallRow, Damage, pragma
from cacherl.core.errors import CacheError
from cacherl.core.tasks import Split
from cacherl.core.tools import ToolSpec

T = TypeVar("T")
Mode = Literal["read", "write"]
Durability = Literal["normal", "full"]
"""What power loss may cost: the last transactions, or nothing. `kill -9` costs nothing either way."""

_BUSY_S = 30.0
_SPIN_MS = 128
"""SQLite waits for a lock in steps of 1, 2, 5, 10, 15, 20 and 25 ms and then asks us. Left alone it
goes on to 100 ms, and whoever sleeps longest is passed by all others: 1 to 2 s with 8 writers. Shorter
steps cost throughput: every process that tries takes a core from the one that writes."""
_WAL_PAGES = 4000  # 16 MB; moving it into the file every 1000 pages costs a sync every 250 adds
_PAGE_ROWS, _PAGE_BYTES = 500, 8 << 20
_KEYS_A_QUERY = 256

_SELECT = rows.SELECT_CALLS + " "
_BY_KEY = _SELECT + "WHERE key=? ORDER BY id"
_BY_ID = _SELECT + "WHERE id=?"
_PAGE = _SELECT + f"WHERE id>? ORDER BY id LIMIT {_PAGE_ROWS}"
_FROM_FILED = (
    " FROM filed f LEFT JOIN call c ON c.id = f.call "
    f"WHERE f.namespace=? AND f.tool=? AND f.call>? ORDER BY f.call LIMIT {_PAGE_ROWS}"
)
_FILED = "SELECT f.call, c." + rows.CALL_COLUMNS.replace(", ", ", c.") + _FROM_FILED
_NOT_FILED = _SELECT + f"WHERE namespace=? AND tool=? AND id>? ORDER BY id LIMIT {_PAGE_ROWS}"
_LATEST_NOT_FILED = _SELECT + "WHERE id>? AND newest IS NOT NULL ORDER BY newest DESC, id LIMIT 1"
_UPDATE = "UPDATE call SET answers=?, times=?, newest=?, sum=?, value=? WHERE id=?"


class SqliteStore:
    """A `CacheStore` in one file.

    Survives a fork outside a batch: connections are closed before it and opened again on both
    sides. Entries of another `CANON_VERSION` never answer and are not listed; `stale` counts them.
    """

    def __init__(
        self, path: Path, *, mode: Mode = "read", durability: Durability = "normal"
    ) -> None:
        """Open or, in write mode, create the file.

        Raises:
            CacheError: no such cache, not a cache, one of another version, or on a network file
                system.
        """
        self.path = path
        self._mode = mode
        self._durability = durability
        self._lock = threading.RLock()
        self._in_batch = False
        self._closed = False
        self._pid = os.getpid()
        self._open: sqlite3.Connection | None = self._connect()
        _stores.add(self)

    # ---- opening

    def _connect(self) -> sqlite3.Connection:
        if self._mode == "read" and not self.path.is_file():
            raise CacheError(
                f"{self.path}: no such cache. Make one with `cacherl import` or `cacherl run`."
            )
        refuse_shared(self.path)
        try:
            if self._mode == "write":
                self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = connect(self.path, self._mode)
        except (OSError, *rows.UNREADABLE) as error:
            raise trouble(self.path, error) from error
        try:
            return self._prepared(connection)
        except rows.UNREADABLE as error:
            connection.close()
            raise trouble(self.path, error) from error
        except BaseException:
            connection.close()
            raise

    def _prepared(self, connection: sqlite3.Connection) -> sqlite3.Connection:
        if self._mode == "write":
            if not patiently(lambda: _is_empty(connection)):
                self._version(connection)  # before anything is changed in somebody else's file
            _execute(connection, "PRAGMA journal_mode=WAL")
            connection.execute(f"PRAGMA synchronous={self._durability}")
            connection.execute(f"PRAGMA wal_autocheckpoint={_WAL_PAGES}")
            if patiently(lambda: _is_empty(connection)):
                _execute(connection, "BEGIN IMMEDIATE")  # one process creates, the others wait here
                try:
                    if _is_empty(connection):
                        rows.create(connection)
                    connection.execute("COMMIT")
                except BaseException:
                    _roll_back(connection)
                    raise
        if self._version(connection) == SCHEMA_VERSION:
            return connection
        try:
            return older.in_memory(connection)
        except Damage as damage:
            raise _told(self.path, damage) from damage
        finally:
            connection.close()

    def _version(self, connection: sqlite3.Connection) -> int:
        version = patiently(lambda: version_of(self.path, connection))
        if version > SCHEMA_VERSION:
            raise CacheError(
                f"{self.path}: cache format {version}, and this cacherl knows formats up to "
                f"{SCHEMA_VERSION}. Upgrade cacherl."
            )
        if version not in (SCHEMA_VERSION, *older.FORMATS):
            raise CacheError(
                f"{self.path}: cache format {version}, which never was. "
                f"Save what is whole with `cacherl cache repair {self.path} OUT`."
            )
        if version < SCHEMA_VERSION and self._mode == "write":
            raise CacheError(
                f"{self.path}: cache format {version} can be read but not written. "
                f"Run `cacherl cache migrate {self.path}`."
            )
        return version

    def _connection(self) -> sqlite3.Connection:
        if self._pid != os.getpid():
            # Forked within a batch: a connection must not cross a fork, nor be closed on this side.
            if self._open is not None:
                _orphans.append(self._open)
            self._pid, self._open, self._in_batch = os.getpid(), None, False
        if self._closed:
            raise CacheError(f"{self.path}: the cache was closed. Open it again.")
        if self._open is None:
            self._open = self._connect()
        return self._open

    def close(self) -> None:
        with self._lock:
            if self._open is not None and self._pid == os.getpid():
                self._open.close()
                self._open = None
            self._closed = True

    def _let_go(self) -> None:
        """Close the connection until the next use, if nothing is under way."""
        with self._lock:
            if self._open is not None and not self._in_batch and self._pid == os.getpid():
                self._open.close()
                self._open = None

    # ---- writing

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        with self._transaction():
            yield

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._transaction() as connection, self._reported():
            yield connection

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """A transaction of its own, or the one that is under way."""
        if self._mode == "read":
            raise CacheError(f"{self.path}: opened to read. Open it with mode 'write' to record.")
        with self._lock:
            connection = self._connection()
            if self._in_batch:
                if not connection.in_transaction:  # SQLite takes all back where the disk is full
                    raise CacheError(f"{self.path}: the batch was taken back. Begin it again.")
                yield connection  # the outer block decides
                return
            with self._reported():
                _execute(connection, "BEGIN IMMEDIATE")
            self._in_batch = True
            try:
                yield connection
                if (
                    self._pid == os.getpid()
                ):  # a child that was forked within leaves all to its parent
                    with self._reported():
                        connection.execute("COMMIT")
            except BaseException:
                if self._pid == os.getpid():
                    _roll_back(connection)
                raise
            finally:
                self._in_batch = False

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except Damage as damage:
            raise _told(self.path, damage) from damage
        except rows.UNREADABLE as error:
            raise trouble(self.path, error) from error

    @property
    def writable(self) -> bool:
        return self._mode == "write"

    def put_tool(self, namespace: str, spec: ToolSpec) -> None:
        self._check_names(namespace, spec.name)
        value = rows.encoded_spec(spec)
        kept_sum = rows.sum_of(namespace, spec.name, value)
        with self._lock, self._reported():
            known = self._fetch(
                "SELECT spec, sum FROM tool WHERE namespace=? AND name=?", (namespace, spec.name)
            )
            if known == [(value, kept_sum)]:
                return
        with self._writing() as connection:
            connection.execute(
                "INSERT INTO tool(namespace, name, spec, sum) VALUES(?,?,?,?) "
                "ON CONFLICT(namespace, name) DO UPDATE SET spec=excluded.spec, sum=excluded.sum",
                (namespace, spec.name, value, kept_sum),
            )

    def add(self, call: RecordedCall, observation: Observation) -> bool:
        # Ready before the lock is taken: most calls are new, and others wait.
        fresh = CacheEntry(call=call, kept=(Kept(observation=observation, times=1),))
        self._check_names(call.namespace, call.tool)
        row = rows.call_row(None, CANON_VERSION, fresh)
        with self._lock, self._reported():
            if self._mode == "write" and not self._in_batch and self._insert(row):
                return True
        with self._writing() as connection:
            if self._in_batch and self._insert(row):
                return True
            known = self._known(connection, call)
            if known is None:  # another call has its hash
                rows.insert(connection, CANON_VERSION, fresh)
                return True
            before = rows.kept_of(connection, known)
            after, is_new = grown(before, observation)
            self._replace(connection, known, before, after)
            return is_new

    def _insert(self, row: CallRow) -> bool:
        """Write a call that is new and its first answer; say whether it was."""
        cursor = self._run(rows.INSERT_CALL, row)
        number = cursor.lastrowid
        if not cursor.rowcount:
            return False
        if number is not None and number % rows.LOT == 0:
            self._file()
        return True

    def _file(self) -> None:
        if self._in_batch:
            rows.file(self._connection())
            return
        # The call is kept by now. If the disk is full for this, the next lot takes it along.
        with contextlib.suppress(CacheError), self._writing() as connection:
            rows.file(connection)

    def absorb(self, entry: CacheEntry) -> bool:
        self._check_names(entry.call.namespace, entry.call.tool)
        with self._writing() as connection:
            known = self._known(connection, entry.call)
            if known is None:
                kept = merged((), entry.kept)
                rows.insert(connection, CANON_VERSION, CacheEntry(call=entry.call, kept=kept))
                return True
            before = rows.kept_of(connection, known)
            after = merged(before, entry.kept)
            self._replace(connection, known, before, after)
            return after != before

    def keep_whole(self, canon: str, entry: CacheEntry) -> None:
        """Write an entry as it is, under the canon version that it has: for copies of whole files.

        Looks for no entry of the same call.
        """
        with self._writing() as connection:
            rows.insert(connection, canon, entry)

    def remove(self, call: RecordedCall) -> bool:
        with self._writing() as connection:
            known = self._known(connection, call)
            if known is None:
                return False
            rows.forget(connection, known[0])
            return True

    def drop_stale(self) -> int:
        """Forget every entry of another canon version; return how many there were."""
        with self._writing() as connection:
            found = connection.execute("SELECT id FROM call WHERE canon<>?", (CANON_VERSION,))
            numbers = [number for (number,) in found.fetchall()]
            for number in numbers:
                rows.forget(connection, number)
            return len(numbers)

    def put_note(self, name: str, value: bytes) -> None:
        with self._writing() as connection:
            connection.execute(
                "INSERT INTO note(name, value, sum) VALUES(?,?,?) "
                "ON CONFLICT(name) DO UPDATE SET value=excluded.value, sum=excluded.sum",
                (name, value, rows.sum_of(name, value)),
            )

    def drop_note(self, name: str) -> None:
        with self._writing() as connection:
            connection.execute("DELETE FROM note WHERE name=?", (name,))

    def _check_names(self, *names: str) -> None:
        if not all(map(_is_text, names)):
            raise CacheError(
                f"{self.path}: {'/'.join(map(ascii, names))} is no name that can be kept "
                "(half a character). Rename the tool."
            )

    def _known(self, connection: sqlite3.Connection, call: RecordedCall) -> CallRow | None:
        """Return the row of exactly this call, checked."""
        for row in connection.execute(_BY_KEY, (call.key,)).fetchall():
            rows.check(row)  # the others too: damage may have made this call look like another
            if rows.is_call(row, call, CANON_VERSION):
                found: CallRow = row
                return found
        return None

    def _replace(
        self,
        connection: sqlite3.Connection,
        row: CallRow,
        before: tuple[Kept, ...],
        after: tuple[Kept, ...],
    ) -> None:
        """Write what differs between two lists of a call's observations."""
        number, key = row[0], row[1]
        if before[:1] != after[:1] or len(before) != len(after):
            new = rows.call_row(number, row[2], CacheEntry(call=rows.call_of(row), kept=after))
            connection.execute(_UPDATE, (*new[6:10], new[11], number))
            filed, latest = rows.mark(connection)
            if number <= filed and new[8] is not None and (latest is None or latest < new[8]):
                rows.set_mark(connection, filed, new[8])
        changed = [
            rows.answer_row(number, key, place, kept)
            for place, kept in enumerate(after)
            if place and (place >= len(before) or before[place] != kept)
        ]
        if changed:
            connection.executemany(
                "REPLACE INTO answer(id, times, sum, value) VALUES(?,?,?,?)", changed
            )
        if len(after) < len(before):
            connection.execute(
                "DELETE FROM answer WHERE id BETWEEN ? AND ?",
                (
                    rows.answer_id(number, max(len(after), 1)),
                    rows.answer_id(number, len(before)),
                ),
            )

    # ---- reading

    def tools(self) -> dict[tuple[str, str], ToolSpec]:
        with self._lock, self._reported():
            found = self._fetch(
                "SELECT namespace, name, spec, sum FROM tool ORDER BY namespace, name"
            )
            return {(row[0], row[1]): rows.spec_of(*row) for row in found}

    def get(self, call: RecordedCall) -> CacheEntry | None:
        with self._lock, self._reported():
            for row in self._fetch(_BY_KEY, (call.key,)):
                rows.check(row)
                if rows.is_call(row, call, CANON_VERSION):
                    if row[6] > 1:
                        return self._read_together(row[0])
                    return CacheEntry(call=call, kept=rows.first_kept(row))
            return None

    def get_many(self, calls: Sequence[RecordedCall]) -> list[CacheEntry | None]:
        found: dict[bytes, list[CallRow]] = {}
        keys = list({call.key for call in calls})
        with self._lock, self._reported():
            for start in range(0, len(keys), _KEYS_A_QUERY):
                some = keys[start : start + _KEYS_A_QUERY]
                # A power of two of places, so that few statements are compiled; NULL matches nothing.
                places = 1 << (len(some) - 1).bit_length()
                query = f"{_SELECT}WHERE key IN ({','.join('?' * places)}) ORDER BY id"
                for row in self._fetch(query, (*some, *[None] * (places - len(some)))):
                    rows.check(row)
                    found.setdefault(row[1], []).append(row)
            return [self._among(found.get(call.key, ()), call) for call in calls]

    def _among(self, candidates: Sequence[CallRow], call: RecordedCall) -> CacheEntry | None:
        for row in candidates:
            if rows.is_call(row, call, CANON_VERSION):
                if row[6] > 1:
                    return self._read_together(row[0])
                return CacheEntry(call=call, kept=rows.first_kept(row))
        return None

    def note(self, name: str) -> bytes | None:
        with self._lock, self._reported():
            found = self._fetch("SELECT name, value, sum FROM note WHERE name=?", (name,))
            return rows.note_of(*found[0]) if found else None

    def notes(self) -> tuple[str, ...]:
        with self._lock, self._reported():
            return tuple(row[0] for row in self._fetch("SELECT name FROM note ORDER BY name"))

    def newest(self) -> float | None:
        with self._lock, self._reported(), self._one_moment() as connection:
            filed, latest = rows.mark(connection)
            row = connection.execute(_LATEST_NOT_FILED, (filed,)).fetchone()
            if row is not None:
                rows.check(row)
            times = [at for at in (latest, None if row is None else row[8]) if at is not None]
            return max(times, default=None)

    def index(
        self, namespace: str, tool: str, plan: Plan, splits: frozenset[Split]
    ) -> LooseIndex | None:
        return None

    def by_key(self, key: bytes) -> CacheEntry | None:
        with self._lock, self._reported(), self._one_moment() as connection:
            for row in connection.execute(_BY_KEY, (key,)).fetchall():
                if row[2] == CANON_VERSION:
                    return self._entry(connection, row)
                rows.check(row)
            return None

    def by_tool(self, namespace: str, tool: str) -> Iterator[CacheEntry]:
        def of_tool(connection: sqlite3.Connection, last: int) -> Iterator[CallRow]:
            asked = namespace, tool
            for number, *row in connection.execute(_FILED, (*asked, last)):
                if (row[3], row[4]) != asked:
                    raise Damage(f"the call {number} of {namespace}/{tool}")
                yield tuple(row)
                last = number
            filed, _ = rows.mark(connection)
            yield from connection.execute(_NOT_FILED, (*asked, max(last, filed)))

        if not (_is_text(namespace) and _is_text(tool)):
            return iter(())  # nor can it have been recorded
        return (entry for canon, entry in self._pages(of_tool) if canon == CANON_VERSION)

    def entries(self) -> Iterator[CacheEntry]:
        return (entry for canon, entry in self.all_entries() if canon == CANON_VERSION)

    def all_entries(self) -> Iterator[tuple[str, CacheEntry]]:
        """Yield the canon version and the entry of every call, stale ones too, as recorded."""
        return self._pages(lambda connection, last: connection.execute(_PAGE, (last,)))

    def stale(self) -> int:
        """Return how many calls were recorded under another canon version: none of them answers."""
        with self._lock, self._reported():
            found = self._fetch("SELECT count(*) FROM call WHERE canon<>?", (CANON_VERSION,))
            count: int = found[0][0]
            return count

    def _pages(
        self, rows_after: Callable[[sqlite3.Connection, int], Iterator[CallRow]]
    ) -> Iterator[tuple[str, CacheEntry]]:
        # By pages: an open cursor would hold the WAL back for as long as somebody iterates.
        last = 0
        while True:
            page = []
            with self._lock, self._reported(), self._one_moment() as connection:
                read = 0
                for row in rows_after(connection, last):
                    if not isinstance(row[0], int) or row[0] <= last:  # or it would never end
                        raise Damage("the order of the calls")
                    page.append((row[2], self._entry(connection, row)))
                    last = row[0]
                    read += len(row[11])
                    if read > _PAGE_BYTES or len(page) == _PAGE_ROWS:
                        break
            if not page:
                return
            yield from page

    def _fetch(self, query: str, values: tuple[Any, ...] = ()) -> list[CallRow]:
        connection = self._connection()
        return patiently(lambda: connection.execute(query, values).fetchall())

    def _run(self, query: str, values: tuple[Any, ...]) -> sqlite3.Cursor:
        connection = self._connection()
        try:
            return connection.execute(query, values)
        except sqlite3.OperationalError as error:
            if not _is_busy(error):
                raise
        return patiently(lambda: connection.execute(query, values))

    @contextlib.contextmanager
    def _one_moment(self) -> Iterator[sqlite3.Connection]:
        """Let several statements see one state of the file."""
        connection = self._connection()
        if connection.in_transaction:
            yield connection
            return
        connection.execute("BEGIN")
        try:
            # Here the moment begins, and here somebody's recovery may have to be waited for.
            _execute(connection, "SELECT 1 FROM call WHERE id=0")
            yield connection
        finally:
            _roll_back(connection)

    def _read_together(self, number: int) -> CacheEntry | None:
        """Return a call's entry with all its answers, as they were at one moment."""
        with self._one_moment() as connection:
            row = connection.execute(_BY_ID, (number,)).fetchone()
            return None if row is None else self._entry(connection, row)

    def _entry(self, connection: sqlite3.Connection, row: CallRow) -> CacheEntry:
        rows.check(row)
        return CacheEntry(call=rows.call_of(row), kept=rows.kept_of(connection, row))


# ---- the file, for others who must open it


def connect(path: Path, mode: Mode, *, immutable: bool = True) -> sqlite3.Connection:
    """Return a connection to a file that may be anything.

    Args:
        path: the file; made if it is not there and `mode` is "write".
        mode: "read" never changes the file.
        immutable: read a file in a read-only folder as one that nobody writes.

    Raises:
        sqlite3.Error: it cannot be opened.
    """
    name = path.absolute().as_uri()
    if mode == "write":
        return _sqlite(f"{name}?mode=rwc")
    connection = _sqlite(f"{name}?mode=ro")
    try:
        _execute(connection, "PRAGMA schema_version")
    except sqlite3.OperationalError:
        connection.close()
        wal = path.with_name(path.name + "-wal")
        if not immutable or (wal.exists() and wal.stat().st_size):
            raise  # what stands in the WAL would be passed over
        # A read-only folder: no shared memory can be made, and nobody can be writing.
        connection = _sqlite(f"{name}?mode=ro&immutable=1")
    return connection


def version_of(path: Path, connection: sqlite3.Connection) -> int:
    """Return the version of a cache's format.

    Raises:
        CacheError: the file is no cache of ours.
    """
    if pragma(connection, "application_id") != APPLICATION_ID:
        raise CacheError(f"{path}: a SQLite file, but not a cache of cacherl. Choose another path.")
    return pragma(connection, "user_version")


def trouble(path: Path, error: Exception) -> CacheError:
    """Return what went wrong with a file as one line, and what to do."""
    code = getattr(error, "sqlite_errorcode", None)
    what = _TROUBLE.get(code & 0xFF if code is not None else None, _TROUBLE[None])
    return CacheError(f"{path}: {what.format(error=error, path=path)}")


_TROUBLE = {
    sqlite3.SQLITE_FULL: "the disk is full. The last write was taken back, nothing acknowledged is lost. "
    "Free some space and go on.",
    sqlite3.SQLITE_IOERR: "the disk refused ({error}). The last write was taken back, nothing "
    "acknowledged is lost. Look at the space that is left, the quota and the disk.",
    sqlite3.SQLITE_READONLY: "cannot be written: the file, its folder or its mount is read-only. "
    "Copy it to where you may write, or open it to read.",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened ({error}). Check the path, its permissions, and that "
    "the -wal file beside it, if there is one, came along.",
    sqlite3.SQLITE_BUSY: f"another process has held the file for {_BUSY_S:.0f} s. End it and go on.",
    sqlite3.SQLITE_NOTADB: "not a cache ({error}). Choose another path, or restore the file.",
    sqlite3.SQLITE_CORRUPT: "damaged ({error}). See what is lost with `cacherl cache verify {path}`, and "
    "save the rest with `cacherl cache repair {path} OUT`.",
    None: "the cache cannot be used ({error}). See what is wrong with `cacherl cache verify {path}`.",
}


def _told(path: Path, damage: Damage) -> CacheError:
    return CacheError(
        f"{path}: {damage} was damaged after it was written (checksum). Restore the file, or save the "
        f"rest with `cacherl cache repair {path} OUT` and record again."
    )


def _sqlite(uri: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        uri,
        uri=True,
        timeout=_SPIN_MS / 1000,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
    )
    connection.execute("PRAGMA trusted_schema=OFF")  # a file from elsewhere runs no code of its own
    return connection


def patiently(act: Callable[[], T]) -> T:
    """Return what an act on a file returns, waiting as long as others hold the file.

    Every wait is short, whatever came before it, so nobody who waits is passed for long; they
    differ, so those who wait do not come in step.

    Raises:
        sqlite3.Error: anything else, or `_BUSY_S` went by.
    """
    give_up = time.monotonic() + _BUSY_S
    while True:
        try:
            return act()
        except sqlite3.OperationalError as error:
            if not _is_busy(error) or time.monotonic() > give_up:
                raise
        time.sleep(random.uniform(0.0005, 0.002))  # noqa: S311 nothing depends on it


def _execute(connection: sqlite3.Connection, statement: str) -> None:
    patiently(lambda: connection.execute(statement).fetchone())


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return True


def _is_busy(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
    )


def _is_empty(connection: sqlite3.Connection) -> bool:
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    marks = pragma(connection, "application_id") or pragma(connection, "user_version")
    return not tables and not marks


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:  # SQLite may have done it already
        connection.execute("ROLLBACK")


# ---- forks

_stores: weakref.WeakSet[SqliteStore] = weakref.WeakSet()
_orphans: list[sqlite3.Connection] = []


def _before_fork() -> None:
    # SQLite keeps its file locks by process: a child that inherits an open connection believes that
    # it holds its parent's locks, and keeps believing it when the parent has ended.
    for store in list(_stores):
        store._let_go()


def _in_child() -> None:
    for store in list(_stores):
        store._lock = threading.RLock()  # another thread may have held it, and is not here


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_in_child)
