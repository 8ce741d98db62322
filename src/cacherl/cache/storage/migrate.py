"""An older cache file made into one of today's format, in place."""

from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3
from pathlib import Path

from cacherl.cache.storage import older, rows
from cacherl.cache.storage.filesystem import refuse_shared
from cacherl.cache.storage.rows import SCHEMA_VERSION, Damage
from cacherl.cache.storage.sqlite import connect, patiently, trouble, version_of
from cacherl.core.errors import CacheError
from cacherl.core.records import Record

_OLD = "_1"  # what the old tables are called while both stand in the file


class Migrated(Record, frozen=True, kw_only=True):
    """What came of a migration."""

    path: str
    before: int
    """The format that was found; `after` where there was nothing to do."""
    after: int
    calls: int
    answers: int
    backup: str | None
    """The file as it was, whole; None where there was nothing to do."""


def migrate(path: Path) -> Migrated:
    """Bring a cache file to today's format, or leave it as it is if it has it.

    First a backup is written beside the file. Then one transaction makes the new tables, reads
    everything back and compares it, and drops the old ones: a process that is killed leaves the old
    file or the new one. Readers may have the file open; they see the old state until they ask again.

    Raises:
        CacheError: no such cache, a damaged or newer one, or one that cannot be written.
    """
    if not path.is_file():
        raise CacheError(f"{path}: no such cache. Make one with `cacherl import` or `cacherl run`.")
    refuse_shared(path)
    try:
        with contextlib.closing(connect(path, "write")) as connection:
            return _migrated(path, connection)
    except Damage as damage:
        raise CacheError(
            f"{path}: {damage} was damaged after it was written (checksum); nothing was changed. "
            f"Save the rest with `cacherl cache repair {path} OUT`."
        ) from damage
    except (*rows.UNREADABLE, OSError) as error:
        raise trouble(path, error) from error


def _migrated(path: Path, connection: sqlite3.Connection) -> Migrated:
    before = patiently(lambda: version_of(path, connection))
    if before == SCHEMA_VERSION:
        return _counted(path, connection, before, None)
    if before not in older.FORMATS:
        raise CacheError(
            f"{path}: cache format {before}, and this cacherl migrates from "
            f"{', '.join(map(str, older.FORMATS))} to {SCHEMA_VERSION}. Upgrade cacherl."
        )
    # Nobody writes between the backup and the migration: what is in one is in the other.
    patiently(lambda: connection.execute("BEGIN IMMEDIATE"))
    try:
        if version_of(path, connection) != before:  # another process was quicker
            return _counted(path, connection, SCHEMA_VERSION, None)
        backup = _backed_up(path, before)
        _rewrite(connection)
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    with contextlib.suppress(sqlite3.Error):  # only gives space back; whoever reads may hold it up
        connection.execute("VACUUM")
    return _counted(path, connection, before, backup)


def _backed_up(path: Path, version: int) -> Path:
    """Write the file as it stands beside it, whole and on the disk."""
    backup = path.with_name(f"{path.name}.v{version}.bak")
    building = backup.with_name(backup.name + ".new")
    building.unlink(missing_ok=True)
    with (
        contextlib.closing(connect(path, "read")) as source,
        contextlib.closing(sqlite3.connect(building)) as target,
    ):
        source.backup(target)
        target.execute("PRAGMA journal_mode=DELETE")  # one file, with no WAL to forget
    _synced(building)
    building.replace(backup)
    _synced(backup.parent)
    return backup


def _synced(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _rewrite(connection: sqlite3.Connection) -> None:
    for index in ("call_by_key", "call_by_tool"):
        connection.execute(f"DROP INDEX {index}")
    for table in ("call", "observation", "tool"):
        connection.execute(f"ALTER TABLE {table} RENAME TO {table}{_OLD}")
    rows.create(connection)
    for canon, entry in older.entries(connection, _OLD):
        rows.insert(connection, canon, entry)
    for row in older.tools(connection, _OLD):
        rows.spec_of(*row)
        connection.execute("INSERT INTO tool(namespace, name, spec, sum) VALUES(?,?,?,?)", row)
    pairs = itertools.zip_longest(older.entries(connection, _OLD), rows.entries(connection))
    for old, new in pairs:
        if old != new:
            raise Damage("what was just written")
    for table in ("observation", "call", "tool"):
        connection.execute(f"DROP TABLE {table}{_OLD}")


def _counted(
    path: Path, connection: sqlite3.Connection, before: int, backup: Path | None
) -> Migrated:
    calls, answers = connection.execute("SELECT count(*), total(answers) FROM call").fetchone()
    return Migrated(
        path=str(path),
        before=before,
        after=SCHEMA_VERSION,
        calls=calls,
        answers=int(answers),
        backup=None if backup is None else str(backup),
    )
