"""Faults a cache file must survive: killed processes, damage, full disks, crowds. Real ones, seeded."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from cacherl.cache.lookup.tool_cache import ToolCache
from cacherl.cache.storage.entry import CacheEntry, RecordedCall
from cacherl.cache.storage.health import repair, verify
from cacherl.cache.storage.migrate import migrate
from cacherl.cache.storage.sqlite import SqliteStore
from cacherl.cache.storage.store import MemoryStore
from cacherl.core.errors import CacheError
from cacherl.core.tasks import Split
from cacherl.core.tools import Tier
from tests.cache.old_file import old_call, old_file, old_texts
from tests.cache.recordings import GET, MYSTERY, SEARCH, SPACE, call, recorded, result, seen

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here"),
    pytest.mark.filterwarnings("ignore:This process"),  # fork in a process with threads
]
ROOT = Path(__file__).parents[2]


def forked(act: Callable[[], object]) -> int:
    """Run an act in a process of its own; return its id. Its exit code is 0 where it did not raise."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        act()
        code = 0
    except BaseException as error:  # noqa: BLE001 - told by the exit code
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(code)


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def is_sound(path: Path) -> bool:
    connection = sqlite3.connect(path)
    try:
        told = connection.execute("PRAGMA integrity_check").fetchall()
        return bool(told == [("ok",)])
    finally:
        connection.close()


# ---- killed


def test_a_killed_recorder_loses_nothing_it_was_told_is_kept(tmp_path: Path) -> None:
    """A recording run costs money; `kill -9` may cost the call in flight, not the calls before it."""
    path = tmp_path / "tools.cache"
    SqliteStore(path, mode="write").close()
    seeded = random.Random(1)
    for round_ in range(8):
        read, write = os.pipe()

        def record(round_: int = round_, write: int = write) -> None:
            with contextlib.closing(SqliteStore(path, mode="write")) as store:
                for number in range(1_000_000):
                    store.add(recorded(b'{"round":%d,"n":%d}' % (round_, number)), seen("x" * 3000))
                    os.write(write, b"%8d" % number)

        child = forked(record)
        os.close(write)
        for _ in range(seeded.randrange(1, 300)):
            os.read(read, 8)
        os.kill(child, signal.SIGKILL)
        told = b"".join(iter(functools.partial(os.read, read, 8), b""))
        assert ended(child) == -signal.SIGKILL
        os.close(read)
        acknowledged = int(told[-8:]) if told else 0

        with contextlib.closing(SqliteStore(path, mode="write")) as store:
            for number in range(acknowledged + 1):
                assert store.get(recorded(b'{"round":%d,"n":%d}' % (round_, number))) is not None
    assert verify(path).problems == ()


def test_a_killed_migration_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    """Never between: last month's recordings are there whichever moment the power button chose."""
    old = old_file(tmp_path / "old.cache", 900)
    trial = tmp_path / "trial.cache"
    shutil.copyfile(old, trial)
    started = time.perf_counter()
    assert ended(forked(functools.partial(migrate, trial))) == 0
    whole_s = time.perf_counter() - started
    seeded = random.Random(2)
    found = []
    for round_ in range(7):
        path = tmp_path / f"{round_}.cache"
        shutil.copyfile(old, path)
        child = forked(functools.partial(migrate, path))
        time.sleep(seeded.uniform(0, whole_s))
        os.kill(child, signal.SIGKILL)
        ended(child)

        connection = sqlite3.connect(path)
        found.append(connection.execute("PRAGMA user_version").fetchone()[0])
        connection.close()
        assert is_the_old_content(path, 900)
        assert migrate(path).after == 2
        assert is_the_old_content(path, 900)
        assert verify(path).problems == ()
    assert 1 in found


def is_the_old_content(path: Path, count: int) -> bool:
    with contextlib.closing(SqliteStore(path)) as store:
        entries = list(store.entries())
        return [entry.call for entry in entries] == [old_call(n) for n in range(count)] and [
            [kept.observation.text for kept in entry.kept] for entry in entries
        ] == [old_texts(n) for n in range(count)]


def test_a_migration_keeps_a_backup_and_says_so(tmp_path: Path) -> None:
    """Whoever goes back to the old program finds the old file, whole."""
    path = old_file(tmp_path / "old.cache", 20)
    told = migrate(path)

    assert (told.before, told.after, told.calls, told.answers) == (1, 2, 20, 27)
    assert told.backup == f"{path}.v1.bak"
    assert is_the_old_content(Path(told.backup), 20)
    again = migrate(path)
    assert (again.before, again.after, again.backup) == (2, 2, None)
    with contextlib.closing(SqliteStore(path, mode="write")) as store:
        store.add(recorded(b'"new"'), seen("new"))
        assert store.tools() == {(SPACE, GET.name): GET}


def test_a_damaged_old_file_is_not_migrated_but_can_be_saved(tmp_path: Path) -> None:
    """A migration that drops what it cannot read would hide the damage for good."""
    path = old_file(tmp_path / "old.cache", 20)
    connection = sqlite3.connect(path)
    connection.execute("UPDATE observation SET times=4 WHERE call=5")
    connection.execute("UPDATE call SET state='x' WHERE id=9")
    connection.commit()
    connection.close()

    with pytest.raises(CacheError, match="cacherl cache repair"):
        migrate(path)
    assert len(verify(path).problems) == 2
    saved = repair(path, tmp_path / "saved.cache")
    assert (saved.calls, len(saved.lost)) == (18, 2)
    assert old_call(4).key.hex() in saved.lost[0]


# ---- damaged


def damaged_ways(seeded: random.Random, whole: bytes, flips_a_page: int) -> Iterator[bytes]:
    """Yield the file with one bit flipped, in every page, and cut at and within every page."""
    for page in range(0, len(whole), 4096):
        for _ in range(flips_a_page):
            damaged = bytearray(whole)
            place = page + seeded.randrange(min(4096, len(whole) - page))
            damaged[place] ^= 1 << seeded.randrange(8)
            yield bytes(damaged)
        yield whole[:page]
        yield whole[: page + seeded.randrange(1, 4096)]


def rich_file(path: Path) -> list[CacheEntry]:
    """Write a file with every kind of row; return its entries."""
    with contextlib.closing(SqliteStore(path, mode="write")) as store:
        store.put_tool(SPACE, GET)
        store.put_tool(SPACE, SEARCH)
        store.put_note("settings", b"s" * 900)
        with store.batch():
            for number in range(60):
                asked = recorded(b'{"n":%d}' % number, ("get_order", "search")[number % 2])
                for again in range(1 + (number % 4 == 0) * 3):
                    text = f"answer {again} to {number} " + "data " * (number * 11 % 150)
                    store.add(asked, seen(text, f"s{number % 3}"))
            store.add(recorded(b'"long"'), seen("long " * 3000))
            for number in range(60, 80):
                store.add(recorded(b'{"n":%d}' % number), seen("late"))
        return list(store.entries())


def read_back(path: Path, entries: list[CacheEntry]) -> int:
    """Read a damaged file in every way; return how many calls are gone without an error."""
    try:
        store = SqliteStore(path)
    except CacheError:
        return 0
    known = {entry.call.key: entry for entry in entries}
    gone = 0
    with contextlib.closing(store):
        for entry in entries:
            with contextlib.suppress(CacheError):
                found = store.get(entry.call)
                assert found in (entry, None)
                gone += found is None
        with contextlib.suppress(CacheError):
            many = store.get_many([entry.call for entry in entries])
            assert all(a in (b, None) for a, b in zip(many, entries, strict=True))
        ways: list[Callable[[], Iterator[CacheEntry]]] = [
            store.entries,
            lambda: store.by_tool(SPACE, "get_order"),
            lambda: store.by_tool(SPACE, "search"),
        ]
        for way in ways:
            with contextlib.suppress(CacheError):
                listed = list(way())
                assert all(known.get(each.call.key) == each for each in listed)
                if way == store.entries:
                    gone += len(listed) < len(entries)
        with contextlib.suppress(CacheError):
            assert all(tool in (GET, SEARCH) for tool in store.tools().values())
        with contextlib.suppress(CacheError):
            assert store.note("settings") in (b"s" * 900, None)
    return gone


def test_damage_is_never_served_and_never_missed(tmp_path: Path) -> None:
    """SQLite itself let 167 of 200 flipped values through. Here: the recorded answer or an error; what
    is absent without one, `verify` tells of; what `repair` saves is what was recorded."""
    entries = rich_file(tmp_path / "whole.cache")
    by_call = {entry.call.key: entry for entry in entries}
    whole = (tmp_path / "whole.cache").read_bytes()
    assert read_back(tmp_path / "whole.cache", entries) == 0
    path, out = tmp_path / "damaged.cache", tmp_path / "saved.cache"
    seeded = random.Random(3)
    tried = told = saved_calls = 0
    for damaged in damaged_ways(seeded, whole, 4):
        path.write_bytes(damaged)
        gone = read_back(path, entries)
        tried += 1
        problems: tuple[str, ...] = ()
        try:
            problems = verify(path).problems
        except CacheError as error:
            problems = (str(error),)
        assert problems or not gone
        told += bool(problems)
        if problems and tried % 3 == 0:
            out.unlink(missing_ok=True)
            try:
                saved = repair(path, out)
            except CacheError:
                continue
            with contextlib.closing(SqliteStore(out)) as store:
                kept = list(store.entries())
            answers = sum(len(entry.kept) for entry in entries)
            assert saved.lost or (saved.calls, saved.answers) == (len(entries), answers)
            assert all(
                set(each.kept) <= set(by_call[each.call.key].kept)
                and by_call[each.call.key].call == each.call
                for each in kept
            )
            saved_calls += len(kept)
    assert tried > 100
    assert told > tried // 4  # the rest hit free space or bits that mean nothing
    assert saved_calls > 0


def test_damage_to_the_wal_is_told(tmp_path: Path) -> None:
    """After a crash the last transactions stand only there; SQLite drops them without a word."""
    live, entries = tmp_path / "live", []
    live.mkdir()
    with contextlib.closing(SqliteStore(live / "tools.cache", mode="write")) as store:
        for number in range(40):
            store.add(recorded(b'{"n":%d}' % number), seen(f"answer {number} " + "data " * 90))
        entries = list(store.entries())
        crashed = {each.name: each.read_bytes() for each in live.iterdir()}
    wal = crashed["tools.cache-wal"]
    seeded = random.Random(4)
    silent = 0
    for round_ in range(60):
        folder = tmp_path / str(round_)
        folder.mkdir()
        path = folder / "tools.cache"
        path.write_bytes(crashed["tools.cache"])
        damaged = bytearray(wal)
        place = seeded.randrange(32 if round_ < 6 else len(wal))
        damaged[place] ^= 1 << seeded.randrange(8)
        (folder / "tools.cache-wal").write_bytes(damaged)
        gone = read_back(path, entries)
        try:
            problems = verify(path).problems
        except CacheError as error:
            problems = (str(error),)
        # The last commit alone looks like one that was cut short and acknowledged to nobody.
        silent += not problems and gone > 1
    assert silent == 0


# ---- full, read-only


def fill(path: Path, report: Path) -> None:
    """Record until the disk is full; write what was acknowledged and what was said then."""
    count, said = 0, ""
    store = SqliteStore(path, mode="write")
    try:
        while count < 5000:
            store.add(recorded(b"%d" % count), seen("x" * 4000))
            count += 1
    except CacheError as error:
        said = str(error)
    still = sum(store.get(recorded(b"%d" % number)) is not None for number in range(count))
    store.close()
    report.write_bytes(msgspec.json.encode([count, still, said, list(verify(path).problems)]))


def test_a_full_disk_is_one_line_and_the_file_stays_whole(tmp_path: Path) -> None:
    """What was acknowledged is there, what was not is not half there."""
    path, report = tmp_path / "tools.cache", tmp_path / "report"
    SqliteStore(path, mode="write").close()

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
        fill(path, report)

    assert ended(forked(limited)) == 0
    assert_full(report)
    with contextlib.closing(SqliteStore(path, mode="write")) as store:
        count = msgspec.json.decode(report.read_bytes())[0]
        store.add(recorded(b"more"), seen("more"))  # there is space again
        assert len(list(store.entries())) == count + 1


def assert_full(report: Path) -> None:
    count, still, said, problems = msgspec.json.decode(report.read_bytes())
    assert 10 < count < 5000
    assert still == count
    assert "nothing acknowledged is lost" in said
    assert "\n" not in said
    assert problems == []


def mounted(tmp_path: Path, mount: str, program: str) -> None:
    """Run a program among mounts of its own, or skip where that is not allowed."""
    can = subprocess.run(
        ["unshare", "-m", "true"], capture_output=True, check=False
    ) if shutil.which("unshare") else None  # fmt: skip
    if can is None or can.returncode:
        pytest.skip("may not mount here")
    (tmp_path / "program.py").write_text(textwrap.dedent(program))
    done = subprocess.run(
        ["unshare", "-m", "sh", "-ec", f'{mount}; exec "$0" program.py', sys.executable],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    if "mount:" in done.stderr:
        pytest.skip("may not mount here")
    assert done.returncode == 0, done.stderr


def test_a_full_file_system_is_one_line_and_the_file_stays_whole(tmp_path: Path) -> None:
    """The same with ENOSPC, as the kernel says it."""
    (tmp_path / "disk").mkdir()
    mounted(
        tmp_path,
        "mount -t tmpfs -o size=600k tmpfs disk",
        """
        from pathlib import Path
        from tests.cache.test_sqlite_faults import fill
        fill(Path("disk/tools.cache"), Path("report"))
        """,
    )
    assert_full(tmp_path / "report")


def test_a_read_only_mount_can_be_read(tmp_path: Path) -> None:
    """Data sets are mounted read-only in containers; recording into one is refused in one line."""
    (tmp_path / "disk").mkdir()
    rich_file(tmp_path / "disk" / "tools.cache")
    mounted(
        tmp_path,
        "mount --bind disk disk; mount -o remount,ro,bind disk",
        """
        from pathlib import Path
        from cacherl.cache.storage.health import verify
        from cacherl.cache.storage.migrate import migrate
        from cacherl.cache.storage.sqlite import SqliteStore
        from cacherl.core.errors import CacheError
        path = Path("disk/tools.cache")
        store = SqliteStore(path)
        assert len(list(store.entries())) == 81
        store.close()
        assert verify(path).problems == ()
        for name in ("tools.cache", "new.cache", "new/folder.cache"):
            try:
                SqliteStore(Path("disk") / name, mode="write")
            except CacheError as error:
                assert "\\n" not in str(error) and "ead-only" in str(error) or "opened" in str(error), error
            else:
                raise AssertionError(name)
        """,
    )


# ---- crowds


def test_writers_and_readers_do_not_stand_in_one_another_s_way(tmp_path: Path) -> None:
    """32 at once, and none of them hears that the file is locked; nothing is lost."""
    path = tmp_path / "tools.cache"
    SqliteStore(path, mode="write").close()

    def write(number: int) -> None:
        with contextlib.closing(SqliteStore(path, mode="write")) as store:
            for step in range(25):
                store.add(recorded(b'{"shared":%d}' % step), seen("shared"))
                with store.batch():
                    store.add(recorded(b'{"who":%d,"n":%d}' % (number, step)), seen("own"))
                    store.add(recorded(b'{"shared":%d}' % step), seen(f"from {number % 3}"))

    def read() -> None:
        with contextlib.closing(SqliteStore(path)) as store:
            for step in range(40):
                entry = store.get(recorded(b'{"shared":%d}' % (step % 25)))
                assert entry is None or entry.kept
                if step % 10 == 0:
                    assert all(each.kept for each in store.entries())

    children = [
        forked(functools.partial(write, number) if number % 4 else read) for number in range(32)
    ]
    assert [ended(child) for child in children] == [0] * 32

    with contextlib.closing(SqliteStore(path)) as store:
        assert len(list(store.entries())) == 25 + 24 * 25
        for step in range(25):
            entry = store.get(recorded(b'{"shared":%d}' % step))
            assert entry is not None
            times = {kept.observation.text: kept.times for kept in entry.kept}
            assert times == {"shared": 24, "from 0": 8, "from 1": 8, "from 2": 8}
    assert verify(path).problems == ()


def test_many_processes_may_create_one_file_at_once(tmp_path: Path) -> None:
    """Recorders start together: one makes the file, 31 find it, all record."""
    path = tmp_path / "new" / "tools.cache"
    read, write = os.pipe()

    def create(number: int) -> None:
        os.close(write)
        os.read(read, 1)  # until the parent closes its end: all at once
        with contextlib.closing(SqliteStore(path, mode="write")) as store:
            store.add(recorded(b"%d" % number), seen("x"))

    children = [forked(functools.partial(create, number)) for number in range(32)]
    os.close(write)
    assert [ended(child) for child in children] == [0] * 32
    os.close(read)
    with contextlib.closing(SqliteStore(path)) as store:
        assert len(list(store.entries())) == 32
    assert is_sound(path)


def test_a_store_opened_before_a_fork_works_on_both_sides(tmp_path: Path) -> None:
    """Data loaders fork. A child that inherits an open SQLite file believes it holds its parent's
    locks: when the parent ends, others tear down the shared memory under the child."""
    path = tmp_path / "tools.cache"
    store = SqliteStore(path, mode="write")
    store.add(recorded(b'{"n":0}'), seen("before"))
    read, write = os.pipe()

    def child() -> None:
        store.add(recorded(b'{"child":0}'), seen("child"))
        os.close(write)
        os.read(read, 1)  # until the parent has closed its store and others have come and gone
        for number in range(1, 50):
            store.add(recorded(b'{"child":%d}' % number), seen("child"))
        assert store.get(recorded(b'{"n":0}')) is not None
        store.close()

    started = forked(child)
    store.add(recorded(b'{"n":1}'), seen("parent"))
    store.close()
    for number in range(5):
        with contextlib.closing(SqliteStore(path, mode="write")) as other:
            other.add(recorded(b'{"other":%d}' % number), seen("other"))
    os.close(write)
    assert ended(started) == 0
    os.close(read)
    with contextlib.closing(SqliteStore(path)) as after:
        assert len(list(after.entries())) == 2 + 50 + 5
    assert is_sound(path)


def test_a_fork_within_a_batch_leaves_the_batch_to_the_parent(tmp_path: Path) -> None:
    """The child must not commit, take back or close what the parent has under way."""
    path = tmp_path / "tools.cache"
    with contextlib.closing(SqliteStore(path, mode="write")) as store:
        with store.batch():
            store.add(recorded(b"1"), seen("x"))
            assert ended(forked(functools.partial(store.get, recorded(b"1")))) == 0
            store.add(recorded(b"2"), seen("x"))
        assert len(list(store.entries())) == 2
    assert is_sound(path)


# ---- odd values


def test_calls_that_share_a_hash_are_kept_apart(tmp_path: Path) -> None:
    """128 bits may be made to collide; the bytes decide, in every way of asking."""
    key = recorded().key
    twins = [
        RecordedCall(namespace=SPACE, tool="t", canonical=b'{"n":%d}' % n, state=b"", key=key)
        for n in range(4)
    ]
    with contextlib.closing(SqliteStore(tmp_path / "tools.cache", mode="write")) as store:
        for number, twin in enumerate(twins[:3]):
            assert store.add(twin, seen(str(number)))
            assert not store.add(twin, seen(str(number)))
            assert store.add(twin, seen("again"))
        found = store.get_many(twins)
        assert [entry and entry.kept[0].observation.text for entry in found] == [
            "0",
            "1",
            "2",
            None,
        ]
        assert store.remove(twins[0])
        assert store.add(twins[3], seen("3"))
        assert [entry and entry.kept[0].observation.text for entry in store.get_many(twins)] == [
            None, "1", "2", "3",
        ]  # fmt: skip
        assert store.add(twins[0], seen("back"))
        assert len(list(store.by_tool(SPACE, "t"))) == 4
    assert verify(tmp_path / "tools.cache").problems == ()


def test_large_values_come_back_whole(tmp_path: Path) -> None:
    """10 MB of arguments, 50 MB of result: slow is allowed, cut or mixed up is not."""
    asked = recorded(b'{"file":"' + b"a" * 10_000_000 + b'"}')
    answer = seen("é" * 25_000_000)
    with contextlib.closing(SqliteStore(tmp_path / "tools.cache", mode="write")) as store:
        store.add(asked, answer)
        store.add(recorded(), seen("small"))
        found = store.get(asked)
        assert found is not None
        assert found.call == asked
        assert found.kept[0].observation == answer
        assert store.get(recorded(asked.canonical[:-3] + b'b"}')) is None
        assert [len(entry.kept) for entry in store.entries()] == [1, 1]


ODD = [
    {"n": 2**70},
    {"n": 2**70 + 1},
    {"n": -(2**63) - 1},
    {"n": float("nan")},
    {"n": float("inf")},
    {"n": 1e300},
    {"s": "\ud800"},
    {"s": "\ud801"},
    {"s": "\\ud800"},
    {"s": "\x00"},
    {"s": ""},
    msgspec.json.decode(b'{"twice":1,"twice":2}'),
    {"twice": 1},
]


def test_odd_arguments_and_answers_are_told_apart_and_come_back(tmp_path: Path) -> None:
    """Order ids pass 2^53, models emit half characters, JSON repeats keys (the last one counts)."""
    path = tmp_path / "tools.cache"
    with ToolCache.open(path, mode="write") as cache:
        for number, arguments in enumerate(ODD):
            asked = call(MYSTERY, **arguments)
            text = f"\ud800 {number} \x00 NaN {2**70}"
            cache.record(
                SPACE, MYSTERY, asked, result(asked, text), scenario="s", split=Split.TRAIN
            )
    with ToolCache.open(path) as cache:
        for number, arguments in enumerate(ODD):
            hit = cache.lookup(SPACE, MYSTERY, arguments)
            assert hit.tier is Tier.EXACT, arguments
            assert hit.observation is not None
            assert hit.observation.text == f"\ud800 {number} \x00 NaN {2**70}"
        assert len(list(cache.store.entries())) == len(ODD)


def test_arguments_nested_ten_thousand_deep_are_kept(tmp_path: Path) -> None:
    """The store walks nothing: whatever bytes name the call come back."""
    deep = recorded(b'{"a":' * 10_000 + b"1" + b"}" * 10_000)
    memory = MemoryStore()
    with contextlib.closing(SqliteStore(tmp_path / "tools.cache", mode="write")) as store:
        for each in (store, memory):
            each.add(deep, seen("deep"))
        assert list(store.entries()) == list(memory.entries())
