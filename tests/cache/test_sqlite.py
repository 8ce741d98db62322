"""What a file on disk must survive."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import msgspec
import pytest

from cacherl.cache.identity.key import CANON_VERSION
from cacherl.cache.storage import rows
from cacherl.cache.storage.entry import CacheEntry, Kept, Observation, RecordedCall
from cacherl.cache.storage.health import verify
from cacherl.cache.storage.rows import SCHEMA_VERSION
from cacherl.cache.storage.sqlite import Mode, SqliteStore
from cacherl.core.errors import CacheError
from tests.cache.old_file import old_call, old_file, old_texts
from tests.cache.recordings import GET, SPACE, recorded, seen


def filled(path: Path, count: int = 40) -> Path:
    store = SqliteStore(path, mode="write")
    store.put_tool(SPACE, GET)
    for number in range(count):
        store.add(recorded(b'{"n":%d}' % number), seen(f"answer {number} " + "data " * 30))
    store.close()
    return path


def test_a_damaged_value_is_named(tmp_path: Path) -> None:
    """The reader at 2 a.m. needs to know which file and what to do."""
    path = filled(tmp_path / "tools.cache")
    connection = sqlite3.connect(path)
    connection.execute(
        "UPDATE call SET value=CAST(replace(value, 'answer 7 ', 'answer 8 ') AS BLOB)"
    )
    connection.commit()
    connection.close()
    store = SqliteStore(path)

    with pytest.raises(
        CacheError, match=r"tools\.cache: an answer of the call [0-9a-f]{32} was damaged"
    ):
        store.get(recorded(b'{"n":7}'))
    store.close()


def test_an_answer_moved_to_another_call_is_caught(tmp_path: Path) -> None:
    """A checksum over the value alone would let two rows trade places."""
    path = tmp_path / "tools.cache"
    store = SqliteStore(path, mode="write")
    for number in range(2):
        for text in ("first", "second"):
            store.add(recorded(b'{"n":%d}' % number), seen(f"{text} of {number}"))
    store.close()
    first, second = rows.answer_id(1, 1), rows.answer_id(2, 1)
    connection = sqlite3.connect(path)
    for old, new in ((first, 9), (second, first), (9, second)):
        connection.execute("UPDATE answer SET id=? WHERE id=?", (new, old))
    connection.commit()
    connection.close()
    store = SqliteStore(path)

    with pytest.raises(CacheError, match="damaged"):
        store.get(recorded(b'{"n":0}'))
    store.close()


def test_an_answer_that_is_gone_is_missed(tmp_path: Path) -> None:
    """A draw among fewer answers than were observed would be a silently wrong one."""
    path = tmp_path / "tools.cache"
    store = SqliteStore(path, mode="write")
    for text in ("one", "two", "three"):
        store.add(recorded(), seen(text))
    store.close()
    connection = sqlite3.connect(path)
    connection.execute("DELETE FROM answer WHERE id=?", (rows.answer_id(1, 1),))
    connection.commit()
    connection.close()

    with contextlib.closing(SqliteStore(path)) as damaged:
        with pytest.raises(CacheError, match="damaged"):
            damaged.get(recorded())
        with pytest.raises(CacheError, match="damaged"):
            damaged.get_many([recorded()])


@pytest.mark.parametrize("keep", [0, 10, 100, 5000])
def test_a_truncated_file_is_refused_or_misses(tmp_path: Path, keep: int) -> None:
    """A full disk or a broken copy gives an error, never a wrong answer."""
    path = filled(tmp_path / "tools.cache")
    path.write_bytes(path.read_bytes()[:keep])

    def read_all() -> None:
        with contextlib.closing(SqliteStore(path)) as store:
            list(store.entries())

    with pytest.raises(CacheError):
        read_all()


def test_a_newer_file_is_refused(tmp_path: Path) -> None:
    """An old program must not guess what a new one wrote."""
    path = filled(tmp_path / "tools.cache")
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    connection.close()

    modes: tuple[Mode, ...] = ("read", "write")
    for mode in modes:
        with pytest.raises(CacheError, match="Upgrade cacherl"):
            SqliteStore(path, mode=mode)


@pytest.mark.parametrize("mode", ["read", "write"])
def test_what_is_no_cache_is_refused_and_left_alone(tmp_path: Path, mode: Mode) -> None:
    """A typed path must not turn somebody's database into ours."""
    text, database = tmp_path / "notes.txt", tmp_path / "other.db"
    text.write_text("dear diary " * 100)
    connection = sqlite3.connect(database)
    connection.execute("CREATE TABLE mine(x)")
    connection.commit()
    connection.close()
    before = text.read_bytes(), database.read_bytes()

    for path in (text, database):
        with pytest.raises(CacheError, match=path.name):
            SqliteStore(path, mode=mode)
    assert (text.read_bytes(), database.read_bytes()) == before


def test_a_missing_file_is_not_created_by_reading(tmp_path: Path) -> None:
    """A typing error in a path must not become an empty cache that misses everything."""
    with pytest.raises(CacheError, match="no such cache"):
        SqliteStore(tmp_path / "typo.cache")
    assert list(tmp_path.iterdir()) == []


def test_a_reader_cannot_write(tmp_path: Path) -> None:
    """Rollout workers hold the cache open; none may change what the others see."""
    store = SqliteStore(filled(tmp_path / "tools.cache"))

    with pytest.raises(CacheError, match="opened to read"):
        store.add(recorded(b"{}"), seen("x"))
    store.close()


def test_a_reader_sees_what_a_writer_adds(tmp_path: Path) -> None:
    """Recording and looking go on at once."""
    path = filled(tmp_path / "tools.cache")
    reader, recorder = SqliteStore(path), SqliteStore(path, mode="write")
    recorder.add(recorded(b'{"late":1}'), seen("late"))

    assert reader.get(recorded(b'{"late":1}')) is not None
    reader.close()
    recorder.close()


def test_a_cache_in_a_read_only_folder_can_be_read(tmp_path: Path) -> None:
    """Data sets are mounted read-only in containers."""
    folder = tmp_path / "mounted"
    path = filled(folder / "tools.cache")
    path.chmod(0o444)
    folder.chmod(0o555)
    try:
        store = SqliteStore(path)
        assert store.get(recorded(b'{"n":1}')) is not None
        store.close()
    finally:
        folder.chmod(0o755)


def at(when: float | None, text: str = "x") -> Observation:
    return msgspec.structs.replace(seen(text), recorded_at=when)


def test_the_newest_recording_is_told_at_once(tmp_path: Path) -> None:
    """The clock of a replay may not stand before it; nobody waits for a million rows to know."""
    with contextlib.closing(SqliteStore(tmp_path / "tools.cache", mode="write")) as store:
        assert store.newest() is None
        store.add(recorded(b"0"), at(None))
        assert store.newest() is None
        with store.batch():
            for number in range(1, rows.LOT + 10):
                store.add(recorded(b"%d" % number), at(float(number % 1000)))
        assert store.newest() == 999.0

        store.add(recorded(b"1"), at(5000.5, "another answer of a call that was filed"))
        assert store.newest() == 5000.5
        store.add(recorded(b"last"), at(7000))
        assert store.newest() == 7000.0


def test_calls_come_by_tool_however_they_were_filed(tmp_path: Path) -> None:
    """Filed in lots, or not yet: the tool's calls are all there, in order, and no others."""
    tools = ("one", "two", "three")
    count = 2 * rows.LOT + 300
    with contextlib.closing(SqliteStore(tmp_path / "tools.cache", mode="write")) as store:
        with store.batch():
            for number in range(count):
                store.add(recorded(b"%d" % number, tools[number % 3]), seen("x"))
        for place, tool in enumerate(tools):
            found = [entry.call.canonical for entry in store.by_tool(SPACE, tool)]
            assert found == [b"%d" % number for number in range(place, count, 3)]
        assert list(store.by_tool("other", "one")) == []


def test_a_call_forgotten_and_a_call_in_its_place(tmp_path: Path) -> None:
    """SQLite gives the last row's number again: the new call must not be lost behind the mark."""
    with contextlib.closing(SqliteStore(tmp_path / "tools.cache", mode="write")) as store:
        with store.batch():
            for number in range(rows.LOT):
                store.add(recorded(b"%d" % number), seen("x"))
        last = recorded(b"%d" % (rows.LOT - 1))
        assert store.remove(last)
        store.add(recorded(b'"new"'), seen("y"))

        found = [entry.call.canonical for entry in store.by_tool(SPACE, "get_order")]
    assert found == [*(b"%d" % number for number in range(rows.LOT - 1)), b'"new"']
    assert verify(tmp_path / "tools.cache").problems == ()


def test_many_are_got_as_one_by_one(tmp_path: Path) -> None:
    """A group's calls are looked up together; order, repeats, misses and twins stay what they are."""
    calls = [recorded(b"%d" % number) for number in range(700)]
    twin = RecordedCall(namespace=SPACE, tool="t", canonical=b"{}", state=b"", key=calls[5].key)
    with contextlib.closing(SqliteStore(tmp_path / "tools.cache", mode="write")) as store:
        with store.batch():
            for number, call in enumerate(calls):
                if number % 3:
                    store.add(call, seen(f"answer {number}"))
                    if number % 5 == 0:
                        store.add(call, seen("another"))
            store.add(twin, seen("of the twin"))
        asked = [*calls, twin, calls[1], calls[1]]
        assert store.get_many(asked) == [store.get(call) for call in asked]
        assert store.get_many([]) == []
        assert [kept.observation.text for kept in (store.get(twin) or nothing()).kept] == [
            "of the twin"
        ]


def nothing() -> CacheEntry:
    raise AssertionError("no entry")


def test_calls_of_another_canon_version_never_answer(tmp_path: Path) -> None:
    """Two versions in one file: the old ones are there to be counted and rekeyed, not to be told."""
    path = tmp_path / "tools.cache"
    kept = (Kept(observation=seen("old"), times=1),)
    with contextlib.closing(SqliteStore(path, mode="write")) as store:
        store.keep_whole("c0", CacheEntry(call=recorded(), kept=kept))
        assert store.get(recorded()) is None
        assert store.by_key(recorded().key) is None
        assert store.get_many([recorded()]) == [None]
        store.add(recorded(), seen("new"))

        assert [each.kept[0].observation.text for each in store.entries()] == ["new"]
        assert [each.kept[0].observation.text for each in store.by_tool(SPACE, "get_order")] == [
            "new"
        ]
        assert [
            (canon, entry.kept[0].observation.text) for canon, entry in store.all_entries()
        ] == [("c0", "old"), (CANON_VERSION, "new")]
        assert store.stale() == 1
        assert verify(path).stale == 1

        assert store.drop_stale() == 1
        assert store.stale() == 0
        assert (store.get(recorded()) or nothing()).kept[0].observation.text == "new"


def test_an_old_file_is_read_and_not_written(tmp_path: Path) -> None:
    """Last month's recordings still answer; nothing changes them before somebody says so."""
    path = old_file(tmp_path / "old.cache", 7)
    before = path.read_bytes()
    with contextlib.closing(SqliteStore(path)) as store:
        for number in range(7):
            entry = store.get(old_call(number))
            assert entry is not None
            assert [kept.observation.text for kept in entry.kept] == old_texts(number)
            assert [kept.times for kept in entry.kept] == [3] * len(entry.kept)
        assert len(list(store.by_tool(SPACE, "get_order"))) == 7
        assert store.tools() == {(SPACE, GET.name): GET}
        assert store.notes() == ()
    assert path.read_bytes() == before

    with pytest.raises(CacheError, match="cacherl cache migrate"):
        SqliteStore(path, mode="write")
    assert path.read_bytes() == before


def test_full_durability_is_asked_of_sqlite(tmp_path: Path) -> None:
    """What power loss may cost is the recorder's choice, and the same file either way."""
    path = tmp_path / "tools.cache"
    with contextlib.closing(SqliteStore(path, mode="write", durability="full")) as store:
        store.add(recorded(), seen("x"))
        assert store._open is not None
        assert rows.pragma(store._open, "synchronous") == 2
    with contextlib.closing(SqliteStore(path, mode="write")) as store:
        assert store._open is not None
        assert rows.pragma(store._open, "synchronous") == 1


def test_a_name_that_is_no_text_is_refused_in_one_line(tmp_path: Path) -> None:
    """Half a character in a tool's name comes from broken files; it must not end a recording run."""
    with contextlib.closing(SqliteStore(tmp_path / "tools.cache", mode="write")) as store:
        with pytest.raises(CacheError, match="no name that can be kept"):
            store.add(recorded(tool="half \ud800"), seen("x"))
        assert store.get(recorded(tool="half \ud800")) is None
        assert list(store.by_tool(SPACE, "half \ud800")) == []


def test_a_batch_that_sqlite_took_back_does_not_go_on(tmp_path: Path) -> None:
    """Writes after it would be kept one by one, half a trajectory."""
    with contextlib.closing(SqliteStore(tmp_path / "tools.cache", mode="write")) as store:

        def lose_the_transaction() -> None:
            with store.batch():
                store.add(recorded(), seen("x"))
                assert store._open is not None
                store._open.execute("ROLLBACK")  # as SQLite does where the disk is full
                with pytest.raises(CacheError, match="taken back"):
                    store.add(recorded(b"{}"), seen("y"))

        with pytest.raises(CacheError):
            lose_the_transaction()
        assert list(store.entries()) == []
