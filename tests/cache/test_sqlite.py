"""What a file on disk must survive."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cacherl.cache.sqlite import SCHEMA_VERSION, Mode, SqliteStore
from cacherl.core.errors import CacheError
from tests.cache.recordings import GET, SPACE, recorded, seen

ROOT = Path(__file__).parents[2]

WRITER = """
import sys
from pathlib import Path
from cacherl.cache.sqlite import SqliteStore
from tests.cache.recordings import recorded, seen
path, name, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
store = SqliteStore(path, mode="write")
for number in range(count):
    store.add(recorded(b'{"n":%d}' % number), seen("shared"))
    store.add(recorded(f'{{"who":"{name}","n":{number}}}'.encode()), seen(name))
    print(number, flush=True)
store.close()
"""


def writer(path: Path, name: str, count: int) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), name, str(count)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def test_processes_may_create_and_write_one_file_at_once(tmp_path: Path) -> None:
    """Recorders start together; nothing may be lost, and none may see SQLITE_BUSY."""
    path = tmp_path / "new" / "tools.cache"
    writers = [writer(path, f"w{number}", 25) for number in range(4)]
    for each in writers:
        _, problems = each.communicate(timeout=120)
        assert each.returncode == 0, problems

    with_all = SqliteStore(path)
    entries = list(with_all.entries())
    shared = with_all.get(recorded(b'{"n":3}'))
    with_all.close()

    assert len(entries) == 25 + 4 * 25
    assert shared is not None
    assert [kept.times for kept in shared.kept] == [4]


def test_a_killed_writer_loses_nothing_it_was_told_is_kept(tmp_path: Path) -> None:
    """A recording run costs money; `kill -9` may cost the call in flight, not the calls before it."""
    path = tmp_path / "tools.cache"
    for round_ in range(3):
        process = writer(path, f"k{round_}", 100_000)
        assert process.stdout is not None
        acknowledged = -1
        started = time.monotonic()
        while acknowledged < 20 + 30 * round_ and time.monotonic() - started < 60:
            acknowledged = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        acknowledged = max(
            [acknowledged, *(int(line) for line in process.stdout if line.endswith("\n"))]
        )
        process.communicate()

        store = SqliteStore(path, mode="write")
        for number in range(acknowledged + 1):
            assert store.get(recorded(f'{{"who":"k{round_}","n":{number}}}'.encode())) is not None
        store.close()
        check = sqlite3.connect(path)
        assert check.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        check.close()


def filled(path: Path, count: int = 40) -> Path:
    store = SqliteStore(path, mode="write")
    store.put_tool(SPACE, GET)
    for number in range(count):
        store.add(recorded(b'{"n":%d}' % number), seen(f"answer {number} " + "data " * 30))
    store.close()
    return path


def test_a_damaged_value_is_never_served(tmp_path: Path) -> None:
    """SQLite itself let 167 of 200 flipped values through; the checksum names every one."""
    path = filled(tmp_path / "tools.cache")
    whole = bytearray(path.read_bytes())
    silently_wrong = caught = 0
    for place in range(0, len(whole), 97):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            store = SqliteStore(path)
        except CacheError:
            caught += 1
            continue
        for number in range(40):
            try:
                entry = store.get(recorded(b'{"n":%d}' % number))
            except CacheError:
                caught += 1
                continue
            if entry is not None and entry.kept:
                text = f"answer {number} " + "data " * 30
                silently_wrong += entry.kept[0].observation.text != text
        store.close()

    assert silently_wrong == 0
    assert caught > 20


def test_a_damaged_value_is_named(tmp_path: Path) -> None:
    """The reader at 2 a.m. needs to know which file and what to do."""
    path = filled(tmp_path / "tools.cache")
    connection = sqlite3.connect(path)
    connection.execute(
        "UPDATE observation SET value=CAST(replace(value, 'answer 7 ', 'answer 8 ') AS BLOB)"
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
    path = filled(tmp_path / "tools.cache", 2)
    connection = sqlite3.connect(path)
    for old, new in ((1, 99), (2, 1), (99, 2)):
        connection.execute("UPDATE observation SET call=? WHERE call=?", (new, old))
    connection.commit()
    connection.close()
    store = SqliteStore(path)

    with pytest.raises(CacheError, match="damaged"):
        store.get(recorded(b'{"n":0}'))
    store.close()


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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process")
def test_a_store_opened_before_a_fork_works_on_both_sides(tmp_path: Path) -> None:
    """Data loaders fork; a shared SQLite connection corrupts."""
    store = SqliteStore(tmp_path / "tools.cache", mode="write")
    store.add(recorded(b'{"n":0}'), seen("before"))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            store.add(recorded(b'{"n":1}'), seen("child"))
            code = 0 if store.get(recorded(b'{"n":0}')) is not None else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0
    store.add(recorded(b'{"n":2}'), seen("parent"))
    assert len(list(store.entries())) == 3
    store.close()
