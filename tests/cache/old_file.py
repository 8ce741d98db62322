"""A cache file as the first format had it, byte for byte what its program wrote."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from pathlib import Path

import msgspec

from cacherl.cache.identity.key import CANON_VERSION
from cacherl.cache.storage.entry import RecordedCall
from tests.cache.recordings import GET, SPACE, recorded

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
"""


def old_file(path: Path, count: int) -> Path:
    """Write `count` calls `{"n":0}`, `{"n":1}`, ... whose answers are those of `old_texts`."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.executescript(_TABLES)
    connection.execute(f"PRAGMA application_id={0x43524C31}")
    connection.execute("PRAGMA user_version=1")
    spec = msgspec.json.encode(GET, order="sorted")
    connection.execute(
        "INSERT INTO tool VALUES(?,?,?,?)", (SPACE, GET.name, spec, _sum(SPACE, GET.name, spec))
    )
    for number in range(count):
        call = old_call(number)
        identity = (call.key, CANON_VERSION, SPACE, call.tool, call.canonical, call.state)
        connection.execute(
            "INSERT INTO call VALUES(?,?,?,?,?,?,?,?)", (number + 1, *identity, _sum(*identity))
        )
        for sequence, text in enumerate(old_texts(number)):
            said = {"text": text, "source": "live", "scenario": "s1", "split": "train"}
            value = json.dumps(said, separators=(",", ":")).encode()
            connection.execute(
                "INSERT INTO observation VALUES(?,?,?,?,?)",
                (number + 1, sequence, value, _sum(call.key, sequence, value, 3), 3),
            )
    connection.commit()
    connection.close()
    return path


def old_call(number: int) -> RecordedCall:
    """The call number `number` of an old file."""
    return recorded(b'{"n":%d}' % number)


def old_texts(number: int) -> list[str]:
    """What was answered to it: every third call got two answers, each three times."""
    return [f"answer {number}", "\ud800 half"][: 1 + (number % 3 == 0)]


def _sum(*parts: str | bytes | int) -> bytes:
    hashed = hashlib.blake2b(digest_size=8)
    for part in parts:
        if isinstance(part, str):
            part_bytes, kind = part.encode(), b"s"
        elif isinstance(part, bytes):
            part_bytes, kind = part, b"b"
        else:
            part_bytes, kind = str(part).encode(), b"i"
        hashed.update(kind + len(part_bytes).to_bytes(8, "big"))
        hashed.update(part_bytes)
    return hashed.digest()
