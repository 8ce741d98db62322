"""The store in a file: SQLite in WAL mode, every value under a checksum of its own.

Several processes may read and write one file at once, on one machine: WAL needs shared memory, so
never on a network file system. A killed process loses nothing it was told is kept; power loss may
lose the last transactions (`synchronous=NORMAL`; FULL costs about 3.5 times as much a write).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from cacherl.cache.entry import CacheEntry, Kept, Observation, RecordedCall, grown, merged
from cacherl.cache.key import CANON_VERSION
from cacherl.cache.nearest import LooseIndex
from cacherl.cache.normalise import Plan
from cacherl.core.errors import CacheError
from cacherl.core.tasks import Split
from cacherl.core.tools import ToolSpec

Mode = Literal["read", "write"]

SCHEMA_VERSION = 2
_APPLICATION_ID = 0x43524C31  # "CRL1": tells our files from other SQLite files
_BUSY_S = 30.0
_SUM_BYTES = 8

_TABLES = """
CREATE TABLE tool(
    namespace TEXT NOT NULL, name TEXT NOT NULL, spec BLOB NOT NULL, sum BLOB NOT NULL,
    PRIMARY KEY (namespace, name)
) WITHOUT ROWID;
CREATE TABLE call(
    id INTEGER PRIMARY KEY, key BLOB NOT NULL, canon TEXT NOT NULL, namespace TEXT NOT NULL,
    tool TEXT NOT NULL, arguments BLOB NOT NULL, state BLOB NOT NULL, sum BLOB NOT NULL
);
CREATE INDEX call_by_key ON call(key);
CREATE INDEX call_by_tool ON call(namespace, tool);
CREATE TABLE observation(
    call INTEGER NOT NULL REFERENCES call(id), sequence INTEGER NOT NULL, value BLOB NOT NULL,
    sum BLOB NOT NULL, times INTEGER NOT NULL,
    PRIMARY KEY (call, sequence)
);
CREATE TABLE note(name TEXT PRIMARY KEY, value BLOB NOT NULL, sum BLOB NOT NULL);
"""
# `observation` keeps its rowid: WITHOUT ROWID would move 50 MB results through the index pages.

_SELECT_CALLS = "SELECT id, key, canon, namespace, tool, arguments, state, sum FROM call WHERE "
_BY_KEY = _SELECT_CALLS + "key=? ORDER BY id"
_GET = (
    "SELECT c.id, c.key, c.canon, c.namespace, c.tool, c.arguments, c.state, c.sum, "
    "o.sequence, o.value, o.sum, o.times FROM call c LEFT JOIN observation o ON o.call = c.id "
    "WHERE c.key=? ORDER BY c.id, o.sequence"
)
_PAGE = _SELECT_CALLS + "id>? ORDER BY id LIMIT 500"
_TOOL_PAGE = _SELECT_CALLS + "namespace=? AND tool=? AND id>? ORDER BY id LIMIT 500"
_observation = msgspec.json.Decoder(Observation)
_spec = msgspec.json.Decoder(ToolSpec)


class SqliteStore:
    """A `CacheStore` in one file. Survives a fork: each process opens its own connection."""

    def __init__(self, path: Path, *, mode: Mode = "read") -> None:
        """Open or, in write mode, create the file.

        Raises:
            CacheError: no such cache, not a cache, or one of a newer version.
        """
        self.path = path
        self._mode = mode
        self._lock = threading.RLock()
        self._in_batch = False
        self._pid = os.getpid()
        self._open: sqlite3.Connection | None = self._connect()

    # ---- opening

    def _connect(self) -> sqlite3.Connection:
        if self._mode == "read" and not self.path.is_file():
            raise CacheError(f"{self.path}: no such cache. Record one with `cacherl record`.")
        if self._mode == "write":
            self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            connection = self._raw()
        except sqlite3.Error as error:
            raise CacheError(
                f"{self.path}: cannot be opened as a cache ({error}). "
                "Check the path and its permissions."
            ) from error
        try:
            self._prepare(connection)
        except sqlite3.Error as error:
            connection.close()
            raise CacheError(
                f"{self.path}: not a cache ({error}). Choose another path, or restore the file."
            ) from error
        except CacheError:
            connection.close()
            raise
        return connection

    def _raw(self) -> sqlite3.Connection:
        name = self.path.absolute().as_uri()
        if self._mode == "write":
            return self._sqlite(f"{name}?mode=rwc")
        connection = self._sqlite(f"{name}?mode=ro")
        try:
            connection.execute("PRAGMA schema_version").fetchone()
        except sqlite3.OperationalError:
            connection.close()
            if self.path.with_name(self.path.name + "-wal").exists():
                raise
            # A read-only directory: no shared memory can be made, and nobody can be writing.
            connection = self._sqlite(f"{name}?mode=ro&immutable=1")
        return connection

    def _sqlite(self, uri: str) -> sqlite3.Connection:
        return sqlite3.connect(
            uri, uri=True, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
        )

    def _prepare(self, connection: sqlite3.Connection) -> None:
        if self._mode == "write":
            if not _is_empty(connection):
                self._check(connection)  # before anything is changed in somebody else's file
            _until_not_busy(connection, "PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute("BEGIN IMMEDIATE")  # one process creates, the others wait here
            try:
                self._create(connection)
                connection.execute("COMMIT")
            except BaseException:
                connection.execute("ROLLBACK")
                raise
        self._check(connection)

    def _create(self, connection: sqlite3.Connection) -> None:
        if not _is_empty(connection):
            return
        for statement in _TABLES.split(";"):
            if statement.strip():
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id={_APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")

    def _check(self, connection: sqlite3.Connection) -> None:
        if _pragma(connection, "application_id") != _APPLICATION_ID:
            raise CacheError(
                f"{self.path}: a SQLite file, but not a cache of cacherl. Choose another path."
            )
        version = _pragma(connection, "user_version")
        if version > SCHEMA_VERSION:
            raise CacheError(
                f"{self.path}: cache format {version}, and this cacherl knows formats up to "
                f"{SCHEMA_VERSION}. Upgrade cacherl."
            )

    def _connection(self) -> sqlite3.Connection:
        if self._pid != os.getpid():
            # A SQLite connection must not cross a fork; the parent's is left alone, unclosed.
            _orphans.append(self._open)
            self._pid, self._lock, self._in_batch = os.getpid(), threading.RLock(), False
            self._open = self._connect()
        if self._open is None:
            raise CacheError(f"{self.path}: the cache was closed. Open it again.")
        return self._open

    def close(self) -> None:
        if self._open is not None and self._pid == os.getpid():
            self._open.close()
        self._open = None

    # ---- writing

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        if self._mode == "read":
            raise CacheError(f"{self.path}: opened to read. Open it with mode 'write' to record.")
        with self._lock:
            connection = self._connection()
            if self._in_batch:
                yield  # the outer block decides
                return
            with self._reported():
                connection.execute("BEGIN IMMEDIATE")
            self._in_batch = True
            try:
                yield
                with self._reported():
                    connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            finally:
                self._in_batch = False

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise CacheError(
                f"{self.path}: the cache cannot be used ({error}). "
                "Free the disk or the lock, or restore the file; nothing acknowledged is lost."
            ) from error

    def put_tool(self, namespace: str, spec: ToolSpec) -> None:
        value = msgspec.json.encode(spec, order="sorted")
        where = (namespace, spec.name)
        with self._lock, self._reported():
            known = self._connection().execute(
                "SELECT spec FROM tool WHERE namespace=? AND name=?", where
            )
            row = known.fetchone()
        if row is not None and row[0] == value:
            return
        with self.batch(), self._reported():
            self._connection().execute(
                "INSERT INTO tool(namespace, name, spec, sum) VALUES(?,?,?,?) "
                "ON CONFLICT(namespace, name) DO UPDATE SET spec=excluded.spec, sum=excluded.sum",
                (*where, value, _sum(namespace, spec.name, value)),
            )

    def add(self, call: RecordedCall, observation: Observation) -> bool:
        with self.batch(), self._reported():
            number, known = self._call_id(call)
            if number is None:
                number = self._insert_call(call)
            before = self._kept(number, call.key) if known else ()
            after, is_new = grown(before, observation)
            self._replace(number, call.key, before, after)
            return is_new

    def absorb(self, entry: CacheEntry) -> bool:
        call = entry.call
        with self.batch(), self._reported():
            number, known = self._call_id(call)
            if number is None:
                number = self._insert_call(call)
            before = self._kept(number, call.key) if known else ()
            after = merged(before, entry.kept)
            self._replace(number, call.key, before, after)
            return not known or after != before

    def remove(self, call: RecordedCall) -> bool:
        with self.batch(), self._reported():
            number, known = self._call_id(call)
            if not known:
                return False
            connection = self._connection()
            connection.execute("DELETE FROM observation WHERE call=?", (number,))
            connection.execute("DELETE FROM call WHERE id=?", (number,))
            return True

    def _replace(
        self, number: int, key: bytes, before: tuple[Kept, ...], after: tuple[Kept, ...]
    ) -> None:
        """Write what differs between two lists of observations."""
        connection = self._connection()
        for sequence, kept in enumerate(after):
            if sequence < len(before) and before[sequence] == kept:
                continue
            value = _encoded(kept.observation)
            connection.execute(
                "INSERT INTO observation(call, sequence, value, sum, times) VALUES(?,?,?,?,?) "
                "ON CONFLICT(call, sequence) DO UPDATE SET value=excluded.value, "
                "sum=excluded.sum, times=excluded.times",
                (
                    number,
                    sequence,
                    value,
                    _value_sum(key, sequence, value, kept.times),
                    kept.times,
                ),
            )
        if len(after) < len(before):
            connection.execute(
                "DELETE FROM observation WHERE call=? AND sequence>=?", (number, len(after))
            )

    def put_note(self, name: str, value: bytes) -> None:
        with self.batch(), self._reported():
            self._connection().execute(
                "INSERT INTO note(name, value, sum) VALUES(?,?,?) "
                "ON CONFLICT(name) DO UPDATE SET value=excluded.value, sum=excluded.sum",
                (name, value, _sum(name, value)),
            )

    def _insert_call(self, call: RecordedCall) -> int:
        cursor = self._connection().execute(
            "INSERT INTO call(key, canon, namespace, tool, arguments, state, sum) "
            "VALUES(?,?,?,?,?,?,?)",
            (
                call.key,
                CANON_VERSION,
                call.namespace,
                call.tool,
                call.canonical,
                call.state,
                _call_sum(call, CANON_VERSION),
            ),
        )
        return int(cursor.lastrowid or 0)

    # ---- reading

    def tools(self) -> dict[tuple[str, str], ToolSpec]:
        with self._lock, self._reported():
            rows = self._connection().execute(
                "SELECT namespace, name, spec, sum FROM tool ORDER BY namespace, name"
            )
            found = {}
            for namespace, name, value, kept_sum in rows:
                if _sum(namespace, name, value) != kept_sum:
                    raise self._damaged(f"the declaration of {name}")
                found[namespace, name] = _spec.decode(value)
            return found

    def get(self, call: RecordedCall) -> CacheEntry | None:
        with self._lock, self._reported():
            rows = self._connection().execute(_GET, (call.key,)).fetchall()
            if any(_is(call, row) for row in rows):
                kept = tuple(
                    self._checked(call.key, *row[8:])
                    for row in rows
                    if _is(call, row) and row[8] is not None
                )
                return CacheEntry(call=call, kept=kept)
            for row in rows:
                self._other(row)
            return None

    def get_many(self, calls: Sequence[RecordedCall]) -> list[CacheEntry | None]:
        return [self.get(call) for call in calls]

    def note(self, name: str) -> bytes | None:
        with self._lock, self._reported():
            rows = self._connection().execute("SELECT value, sum FROM note WHERE name=?", (name,))
            row = rows.fetchone()
            if row is None:
                return None
            value: bytes = row[0]
            if _sum(name, value) != row[1]:
                raise self._damaged(f"the note {name}")
            return value

    def notes(self) -> tuple[str, ...]:
        with self._lock, self._reported():
            rows = self._connection().execute("SELECT name FROM note ORDER BY name")
            return tuple(row[0] for row in rows)

    def newest(self) -> float | None:
        times = [
            at
            for entry in self.entries()
            for kept in entry.kept
            if (at := kept.observation.recorded_at) is not None
        ]
        return max(times, default=None)

    def index(
        self, namespace: str, tool: str, plan: Plan, splits: frozenset[Split]
    ) -> LooseIndex | None:
        return None

    def by_key(self, key: bytes) -> CacheEntry | None:
        with self._lock, self._reported():
            row = self._connection().execute(_BY_KEY, (key,))
            first = row.fetchone()
            return None if first is None else self._entry(first)

    def by_tool(self, namespace: str, tool: str) -> Iterator[CacheEntry]:
        return self._pages(_TOOL_PAGE, (namespace, tool))

    def entries(self) -> Iterator[CacheEntry]:
        return self._pages(_PAGE, ())

    def _pages(self, query: str, values: tuple[str, ...]) -> Iterator[CacheEntry]:
        # By pages: an open cursor would hold the WAL back for as long as somebody iterates.
        last = 0
        while True:
            with self._lock, self._reported():
                rows = (
                    self._connection()
                    .execute(
                        query,
                        (*values, last),
                    )
                    .fetchall()
                )
                page = [self._entry(row) for row in rows]
            if not rows:
                return
            yield from page
            last = rows[-1][0]

    def _call_id(self, call: RecordedCall) -> tuple[int | None, bool]:
        rows = self._connection().execute(_BY_KEY, (call.key,))
        for row in rows:
            if _is(call, row):
                return row[0], True
            self._other(row)
        return None, False

    def _other(self, row: tuple[Any, ...]) -> RecordedCall:
        """Return the call of a row, after checking that it is whole."""
        _, key, canon, namespace, tool, arguments, state, kept_sum = row[:8]
        call = RecordedCall(
            namespace=namespace, tool=tool, canonical=arguments, state=state, key=key
        )
        if _call_sum(call, canon) != kept_sum:
            raise self._damaged(f"the call {key.hex()}")
        return call

    def _entry(self, row: tuple[Any, ...]) -> CacheEntry:
        call = self._other(row)
        return CacheEntry(call=call, kept=self._kept(row[0], call.key))

    def _kept(self, number: int, key: bytes) -> tuple[Kept, ...]:
        rows = self._connection().execute(
            "SELECT sequence, value, sum, times FROM observation WHERE call=? ORDER BY sequence",
            (number,),
        )
        return tuple(self._checked(key, *row) for row in rows)

    def _checked(
        self, key: bytes, sequence: int, value: bytes, kept_sum: bytes, times: int
    ) -> Kept:
        if _value_sum(key, sequence, value, times) != kept_sum:
            raise self._damaged(f"an answer of the call {key.hex()}")
        return Kept(observation=_decoded(value), times=times)

    def _damaged(self, what: str) -> CacheError:
        return CacheError(
            f"{self.path}: {what} was damaged after it was written (checksum). "
            "Restore the file, or record again."
        )


_orphans: list[sqlite3.Connection | None] = []


def _is(call: RecordedCall, row: tuple[Any, ...]) -> bool:
    """Say whether a row is exactly this call: a hash collision must not answer for another."""
    return bool(
        row[5] == call.canonical
        and row[6] == call.state
        and row[4] == call.tool
        and row[3] == call.namespace
        and row[2] == CANON_VERSION
    )


def _until_not_busy(connection: sqlite3.Connection, statement: str) -> None:
    """Run a statement that SQLite does not wait for: switching to WAL ignores the busy timeout."""
    give_up = time.monotonic() + _BUSY_S
    while True:
        try:
            connection.execute(statement).fetchone()
        except sqlite3.OperationalError as error:
            if "lock" not in str(error) or time.monotonic() > give_up:
                raise
            time.sleep(0.005)
        else:
            return


def _is_empty(connection: sqlite3.Connection) -> bool:
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    marks = _pragma(connection, "application_id") or _pragma(connection, "user_version")
    return not tables and not marks


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    value: int = connection.execute(f"PRAGMA {name}").fetchone()[0]
    return value


def _encoded(observation: Observation) -> bytes:
    try:
        return msgspec.json.encode(observation)
    except UnicodeEncodeError:  # a lone surrogate in the tool's text
        return json.dumps(msgspec.to_builtins(observation)).encode()


def _decoded(value: bytes) -> Observation:
    try:
        return _observation.decode(value)
    except msgspec.DecodeError:
        return msgspec.convert(json.loads(value), Observation)


def _sum(*parts: object) -> bytes:
    """Return the checksum of a row's columns; none at all where damage changed a column's type."""
    hashed = hashlib.blake2b(digest_size=_SUM_BYTES)
    for part in parts:
        if isinstance(part, str):
            part_bytes, kind = part.encode("utf-8", "surrogatepass"), b"s"
        elif isinstance(part, bytes):
            part_bytes, kind = part, b"b"
        elif isinstance(part, int):
            part_bytes, kind = str(part).encode(), b"i"
        else:
            return b""
        hashed.update(kind + len(part_bytes).to_bytes(8, "big"))
        hashed.update(part_bytes)
    return hashed.digest()


def _call_sum(call: RecordedCall, canon: str) -> bytes:
    return _sum(call.key, canon, call.namespace, call.tool, call.canonical, call.state)


def _value_sum(key: bytes, sequence: int, value: bytes, times: int) -> bytes:
    return _sum(key, sequence, value, times)
