"""Older formats of a cache file, read.

Format 1 kept every answer in rows of its own; it had no notes and no index by time.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

from cacherl.cache.storage import rows
from cacherl.cache.storage.entry import CacheEntry, Kept, RecordedCall
from cacherl.cache.storage.rows import Damage

FORMATS = (1,)
"""The formats that can be read and migrated."""


def in_memory(connection: sqlite3.Connection) -> sqlite3.Connection:
    """Return a copy of an old cache in today's format, in memory: for reading it as it stands.

    Raises:
        Damage: something in it is not as it was written.
    """
    copy = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    try:
        copy.execute("BEGIN")
        rows.create(copy)
        for canon, entry in entries(connection):
            rows.insert(copy, canon, entry)
        for row in tools(connection):
            rows.spec_of(*row)
            copy.execute("INSERT INTO tool(namespace, name, spec, sum) VALUES(?,?,?,?)", row)
        copy.execute("COMMIT")
    except BaseException:
        copy.close()
        raise
    return copy


def entries(connection: sqlite3.Connection, tables: str = "") -> Iterator[tuple[str, CacheEntry]]:
    """Yield the canon version and the entry of every call, in the order they were recorded.

    Args:
        connection: to a file of format 1.
        tables: what the names of its tables were given at their end.

    Raises:
        Damage: something is not as it was written.
    """
    for row in connection.execute(f"{_CALLS.format(tables)} ORDER BY id"):
        yield row[2], entry_of(connection, row, tables)


def tools(connection: sqlite3.Connection, tables: str = "") -> list[tuple[Any, ...]]:
    """Return the rows of the declarations, unchecked: they are the same in every format."""
    return connection.execute(_TOOLS.format(tables)).fetchall()


def calls_between(
    connection: sqlite3.Connection, first: int, last: int, most: int
) -> list[tuple[Any, ...]]:
    """Return at most so many rows of a range of calls, unchecked."""
    query = f"{_CALLS.format('')} WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?"
    return connection.execute(query, (first, last, most)).fetchall()


def call_of(row: tuple[Any, ...]) -> RecordedCall:
    """Return a row's call.

    Raises:
        Damage: it is not as it was written.
    """
    _, key, canon, namespace, tool, arguments, state, kept_sum = row
    if rows.sum_of(key, canon, namespace, tool, arguments, state) != kept_sum:
        raise Damage(f"the call {rows.named(key)}")
    return RecordedCall(namespace=namespace, tool=tool, canonical=arguments, state=state, key=key)


def entry_of(connection: sqlite3.Connection, row: tuple[Any, ...], tables: str = "") -> CacheEntry:
    """Return a row's call with all its answers.

    Raises:
        Damage: something of it is not as it was written.
    """
    call = call_of(row)
    answers = answers_of(connection, row[0], tables)
    return CacheEntry(call=call, kept=tuple(answer_of(call.key, each) for each in answers))


def answer_of(key: bytes, row: tuple[Any, ...]) -> Kept:
    """Return an answer of a call.

    Raises:
        Damage: it is not as it was written.
    """
    sequence, value, kept_sum, times = row
    if rows.sum_of(key, sequence, value, times) != kept_sum:
        raise Damage(f"an answer of the call {rows.named(key)}")
    return Kept(observation=rows.decoded(value), times=times)


def answers_of(
    connection: sqlite3.Connection, number: int, tables: str = ""
) -> list[tuple[Any, ...]]:
    """Return the rows of a call's answers, unchecked: sequence, value, sum, times."""
    return connection.execute(_ANSWERS.format(tables), (number,)).fetchall()


_TOOLS = "SELECT namespace, name, spec, sum FROM tool{0}"
_CALLS = "SELECT id, key, canon, namespace, tool, arguments, state, sum FROM call{0}"
_ANSWERS = "SELECT sequence, value, sum, times FROM observation{0} WHERE call=? ORDER BY sequence"
