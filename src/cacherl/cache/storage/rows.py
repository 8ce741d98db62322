"""What stands in the rows of a SQLite cache: their columns, their checksums, and nothing else.

Format 2. A call and its first answer are one row: most calls have one answer, and one row is one
page to write where two tables and their indexes were five. Further answers have rows of their own.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from cacherl.cache.storage.entry import CacheEntry, Kept, Observation, RecordedCall
from cacherl.core.errors import CacheError
from cacherl.core.tools import ToolSpec

SCHEMA_VERSION = 2
APPLICATION_ID = 0x43524C31  # "CRL1": tells our files from other SQLite files

TABLES = (
    "CREATE TABLE tool(namespace TEXT NOT NULL, name TEXT NOT NULL, spec BLOB NOT NULL, "
    "sum BLOB NOT NULL, PRIMARY KEY (namespace, name)) WITHOUT ROWID",
    # The big columns stand last, so that the others are read without them.
    # `twin` tells calls apart that share a hash; being unique, the index makes adding a new call one
    # statement, with no look before it and no lock held between two.
    "CREATE TABLE call(id INTEGER PRIMARY KEY, key BLOB NOT NULL, twin INTEGER NOT NULL, canon TEXT NOT NULL, "
    "namespace TEXT NOT NULL, tool TEXT NOT NULL, state BLOB NOT NULL, answers INTEGER NOT NULL, "
    "times INTEGER NOT NULL, newest REAL, sum BLOB NOT NULL, arguments BLOB NOT NULL, "
    "value BLOB NOT NULL)",
    "CREATE UNIQUE INDEX call_by_key ON call(key, twin)",
    # The calls by tool, filed in lots (`file`): an index of SQLite's own would be one more page to
    # write with every call, a third of what recording costs. `mark` says how far the lots reach;
    # what stands after it is found by looking.
    "CREATE TABLE filed(namespace TEXT NOT NULL, tool TEXT NOT NULL, call INTEGER NOT NULL, "
    "PRIMARY KEY (namespace, tool, call)) WITHOUT ROWID",
    "CREATE TABLE mark(id INTEGER PRIMARY KEY, filed INTEGER NOT NULL, newest REAL, sum BLOB NOT NULL)",
    # The id says whose answer it is and which (`answer_id`): an index less to write and to damage.
    "CREATE TABLE answer(id INTEGER PRIMARY KEY, times INTEGER NOT NULL, sum BLOB NOT NULL, "
    "value BLOB NOT NULL)",
    "CREATE TABLE note(name TEXT PRIMARY KEY, value BLOB NOT NULL, sum BLOB NOT NULL)",
)

CALL_COLUMNS = (
    "id, key, canon, namespace, tool, state, answers, times, newest, sum, arguments, value"
)
CallRow = tuple[Any, ...]
"""The columns above, as SQLite gave them: damage may have changed their types."""

SELECT_CALLS = f"SELECT {CALL_COLUMNS} FROM call"  # noqa: S608 constants
INSERT_CALL = (
    f"INSERT INTO call({CALL_COLUMNS}, twin) VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?) "
    "ON CONFLICT(key, twin) DO NOTHING"
)

_PLACES = 1 << 16
_NUMBERS = (1 << 63) // _PLACES - 1
_ANSWERS = "SELECT id, times, sum, value FROM answer WHERE id BETWEEN ? AND ? ORDER BY id"

LOT = 1024
"""Calls that are filed together."""

UNREADABLE = (sqlite3.Error, UnicodeDecodeError)
"""What reading a damaged file may raise: SQLite quotes the damage in messages that are no UTF-8."""

_SUM_BYTES = 8
_observation = msgspec.json.Decoder(Observation)
_spec = msgspec.json.Decoder(ToolSpec)


class Damage(CacheError):
    """Something that is not as it was written. The message names it, not the file."""


# ---- what is written


def call_row(number: int | None, canon: str, entry: CacheEntry, twin: int = 0) -> CallRow:
    """Return the values of `INSERT_CALL`.

    Args:
        number: the row's id; None for the next one.
        canon: the canon version of the call's key.
        entry: the call and its answers.
        twin: how many calls with the same hash stand before it.
    """
    call, kept = entry.call, entry.kept
    value, times = (encoded(kept[0].observation), kept[0].times) if kept else (b"", 0)
    head = call.key, canon, call.namespace, call.tool, call.state, len(kept), times, newest_of(kept)
    kept_sum = call_sum(*head, call.canonical, value)
    return (number, *head, kept_sum, call.canonical, value, twin)


def answer_row(number: int, key: bytes, place: int, kept: Kept) -> tuple[int, int, bytes, bytes]:
    """Return the values of a row of `answer`: for every observation but the first."""
    value = encoded(kept.observation)
    return (
        answer_id(number, place),
        kept.times,
        answer_sum(key, place, value, kept.times),
        value,
    )


def answer_id(number: int, place: int) -> int:
    """Return the row that holds a call's observation number `place` (from 1)."""
    return number * _PLACES + place


def newest_of(kept: Sequence[Kept]) -> float | None:
    """Return the latest time of recording that is known."""
    times = [
        at
        for each in kept
        if (at := each.observation.recorded_at) is not None and math.isfinite(at)
    ]
    return float(max(times)) if times else None


def encoded(observation: Observation) -> bytes:
    """Return the observation's bytes."""
    try:
        return msgspec.json.encode(observation)
    except UnicodeEncodeError:  # a lone surrogate in the tool's text
        return json.dumps(msgspec.to_builtins(observation)).encode()


def encoded_spec(spec: ToolSpec) -> bytes:
    """Return a declaration's bytes: the same for the same declaration."""
    return msgspec.json.encode(spec, order="sorted")


# ---- what is read


def call_of(row: CallRow) -> RecordedCall:
    """Return a row's call, unchecked."""
    return RecordedCall(namespace=row[3], tool=row[4], canonical=row[10], state=row[5], key=row[1])


def is_call(row: CallRow, call: RecordedCall, canon: str) -> bool:
    """Say whether a row is exactly this call: a hash collision must not answer for another."""
    return bool(
        row[10] == call.canonical
        and row[5] == call.state
        and row[4] == call.tool
        and row[3] == call.namespace
        and row[2] == canon
    )


def is_whole(row: CallRow) -> bool:
    """Say whether a row of `call` is as it was written."""
    return bool(row[9] == call_sum(*row[1:9], *row[10:12]))


def check(row: CallRow) -> None:
    """Pass a whole row.

    Raises:
        Damage: it is not as it was written.
    """
    if not is_whole(row):
        raise Damage(f"an answer of the call {named(row[1])}")


def first_kept(row: CallRow) -> tuple[Kept, ...]:
    """Return the observation in a checked row, or none where the call has none."""
    return (Kept(observation=decoded(row[11]), times=row[7]),) if row[6] else ()


def answer_of(key: bytes, place: int, row: Sequence[Any]) -> Kept:
    """Return a further observation of a call, checked.

    Args:
        key: the call's.
        place: which of its observations.
        row: times, sum, value.

    Raises:
        Damage: it is not as it was written.
    """
    times, kept_sum, value = row
    if answer_sum(key, place, value, times) != kept_sum:
        raise Damage(f"an answer of the call {named(key)}")
    return Kept(observation=decoded(value), times=times)


def spec_of(namespace: Any, name: Any, value: Any, kept_sum: Any) -> ToolSpec:
    """Return a declaration, checked.

    Raises:
        Damage: it is not as it was written.
    """
    if sum_of(namespace, name, value) != kept_sum:
        raise Damage(f"the declaration of {namespace}/{name}")
    return _spec.decode(value)


def note_of(name: Any, value: Any, kept_sum: Any) -> bytes:
    """Return a note, checked.

    Raises:
        Damage: it is not as it was written.
    """
    if sum_of(name, value) != kept_sum:
        raise Damage(f"the note {name}")
    note: bytes = value
    return note


def decoded(value: bytes) -> Observation:
    """Return the observation of its bytes."""
    try:
        return _observation.decode(value)
    except msgspec.DecodeError:
        return msgspec.convert(json.loads(value), Observation)


def named(key: Any) -> str:
    """Return a key as people see it, whatever damage made of it."""
    return key.hex() if isinstance(key, bytes) else repr(key)


# ---- checksums


def call_sum(
    key: Any,
    canon: Any,
    namespace: Any,
    tool: Any,
    state: Any,
    answers: Any,
    times: Any,
    newest: Any,
    arguments: Any,
    value: Any,
) -> bytes:
    """Return the checksum of a row's columns; none at all where damage changed a column's type."""
    try:
        hashed = hashlib.blake2b(
            b"%d %d %d %d %d %a %b%b%b%b"
            % (
                len(key),
                len(state),
                len(arguments),
                answers,
                times,
                newest,
                _names(canon, namespace, tool),
                key,
                state,
                arguments,
            ),
            digest_size=_SUM_BYTES,
        )
        hashed.update(value)
    except (TypeError, AttributeError):
        return b""
    return hashed.digest()


@functools.lru_cache(maxsize=4096)
def _names(canon: str, namespace: str, tool: str) -> bytes:
    parts = [each.encode("utf-8", "surrogatepass") for each in (canon, namespace, tool)]
    return b"".join(b"%d:%b" % (len(part), part) for part in parts)


def answer_sum(key: Any, place: int, value: Any, times: Any) -> bytes:
    """Return the checksum of a further answer: it names its call, so rows cannot trade places."""
    return sum_of(key, place, value, times)


def sum_of(*parts: object) -> bytes:
    """Return the checksum of columns; none at all where damage changed a column's type."""
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


# ---- the file


def create(connection: sqlite3.Connection) -> None:
    """Make the tables of this format, inside the caller's transaction."""
    for statement in TABLES:
        connection.execute(statement)
    set_mark(connection, 0, None)
    connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")


def mark(connection: sqlite3.Connection) -> tuple[int, float | None]:
    """Return the last call that is filed, and the latest time of recording among those filed.

    Raises:
        Damage: the mark is not as it was written.
    """
    found = connection.execute("SELECT filed, newest, sum FROM mark").fetchall()
    if len(found) != 1 or sum_of(found[0][0], repr(found[0][1])) != found[0][2]:
        raise Damage("the mark of what is filed by tool")
    return found[0][0], found[0][1]


def set_mark(connection: sqlite3.Connection, filed: int, newest: float | None) -> None:
    """Write the mark, inside the caller's transaction."""
    connection.execute(
        "REPLACE INTO mark(id, filed, newest, sum) VALUES(1,?,?,?)",
        (filed, newest, sum_of(filed, repr(newest))),
    )


def file(connection: sqlite3.Connection) -> None:
    """File every call that is not filed yet, inside the caller's transaction."""
    filed, newest = mark(connection)
    connection.execute(
        "INSERT INTO filed(namespace, tool, call) SELECT namespace, tool, id FROM call WHERE id>? "
        "ORDER BY namespace, tool, id",
        (filed,),
    )
    last, latest = connection.execute(
        "SELECT max(id), max(newest) FROM call WHERE id>?", (filed,)
    ).fetchone()
    times = [at for at in (newest, latest) if at is not None]
    set_mark(connection, filed if last is None else last, max(times, default=None))


def forget(connection: sqlite3.Connection, number: int) -> None:
    """Delete a call with all its answers, inside the caller's transaction."""
    connection.execute("DELETE FROM answer WHERE id BETWEEN ? AND ?", _answer_ids(number))
    connection.execute(
        "DELETE FROM filed WHERE (namespace, tool) = (SELECT namespace, tool FROM call WHERE id=?) "
        "AND call=?",
        (number, number),
    )
    connection.execute("DELETE FROM call WHERE id=?", (number,))
    # SQLite gives the last id again: the next call must not look as if it were filed.
    filed, newest = mark(connection)
    last = connection.execute("SELECT max(id) FROM call").fetchone()[0] or 0
    if last < filed:
        set_mark(connection, last, newest)


def entries(connection: sqlite3.Connection) -> Iterator[tuple[str, CacheEntry]]:
    """Yield the canon version and the entry of every call, as recorded, in one statement.

    Raises:
        Damage: something is not as it was written.
    """
    for row in connection.execute(f"{SELECT_CALLS} ORDER BY id"):
        check(row)
        yield row[2], CacheEntry(call=call_of(row), kept=kept_of(connection, row))


def kept_of(connection: sqlite3.Connection, row: CallRow) -> tuple[Kept, ...]:
    """Return all observations of a checked row's call.

    Raises:
        Damage: one is missing, or not as it was written.
    """
    number, key, answers = row[0], row[1], row[6]
    if answers < 2:
        return first_kept(row)
    others = answers_of(connection, number)
    if [place for place, *_ in others] != list(range(1, answers)):
        raise Damage(f"an answer of the call {named(key)}")
    return (*first_kept(row), *(answer_of(key, place, rest) for place, *rest in others))


def answers_of(connection: sqlite3.Connection, number: int) -> list[tuple[Any, ...]]:
    """Return what is kept of a call's answers but the first, unchecked: place, times, sum, value.

    Raises:
        Damage: the call's number cannot be one.
    """
    if not 0 < number < _NUMBERS:
        raise Damage(f"the call number {number}")
    found = connection.execute(_ANSWERS, _answer_ids(number)).fetchall()
    return [(answer - answer_id(number, 0), *rest) for answer, *rest in found]


def orphans(connection: sqlite3.Connection) -> int:
    """Return how many rows of `answer` belong to no call."""
    query = "SELECT count(*) FROM answer a LEFT JOIN call c ON c.id = a.id / ? WHERE c.id IS NULL"
    found: int = connection.execute(query, (_PLACES,)).fetchone()[0]
    return found


def _answer_ids(number: int) -> tuple[int, int]:
    return answer_id(number, 1), answer_id(number + 1, 0) - 1


def insert(connection: sqlite3.Connection, canon: str, entry: CacheEntry) -> None:
    """Write an entry as it is, at the end, inside the caller's transaction."""
    key = entry.call.key
    highest = connection.execute("SELECT max(twin) FROM call WHERE key=?", (key,)).fetchone()[0]
    row = call_row(None, canon, entry, 0 if highest is None else highest + 1)
    number = int(connection.execute(INSERT_CALL, row).lastrowid or 0)
    connection.executemany(
        "INSERT INTO answer(id, times, sum, value) VALUES(?,?,?,?)",
        [
            answer_row(number, key, place, kept)
            for place, kept in enumerate(entry.kept[1:], start=1)
        ],
    )
    if number % LOT == 0:
        file(connection)


def pragma(connection: sqlite3.Connection, name: str) -> int:
    """Return a number that SQLite keeps about the file or the connection."""
    value: int = connection.execute(f"PRAGMA {name}").fetchone()[0]
    return value
