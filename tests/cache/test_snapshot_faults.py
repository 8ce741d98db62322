"""What happens to a snapshot on bad disks, in killed processes and in wrong hands: never a wrong answer."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cacherl.cache.identity.normalise import plan_of
from cacherl.cache.matching.nearest import Neighbour
from cacherl.cache.storage.entry import CacheEntry, RecordedCall, merged
from cacherl.cache.storage.freeze import freeze
from cacherl.cache.storage.snapshot import SnapshotStore, is_snapshot
from cacherl.cache.storage.snapshot_format import HEAD, Part
from cacherl.cache.storage.store import MemoryStore
from cacherl.core.errors import CacheError
from cacherl.core.tasks import Split
from tests.cache.recordings import GET, SEARCH, SPACE, recorded, seen

ROOT = Path(__file__).parents[2]
PLAN = plan_of(SEARCH)
WORDS = ["red", "blue", "hat", "shoe", "warm", "cheap", "large", "tie"]
QUERIES = [
    {"query": "please find warm red hats", "shelf": "1"},
    {"query": "blue shoe tie", "shelf": "2"},
    {"query": "nothing of this", "shelf": "9"},
]


def shop(count: int = 60) -> MemoryStore:
    """Two tools, one with a bucket large enough for words of its own."""
    rng = random.Random(4)
    store = MemoryStore()
    store.put_tool(SPACE, GET)
    store.put_tool(SPACE, SEARCH)
    store.put_note("settings", b"{}" * 40)
    for number in range(count):
        call = recorded(
            b'{"order_id":"O%d"}' % number, state=rng.choice([b"", b"0123456789abcdef"])
        )
        store.add(call, seen(f"answer {number}", rng.choice(["s1", "s2"]), rng.choice([*Split])))
    for _ in range(3 * count):
        said = b'{"query":"%s","shelf":"%d"}' % (
            " ".join(rng.sample(WORDS, 4)).encode(),
            rng.randint(1, 2),
        )
        store.add(recorded(said, tool="search"), seen(f"answer {rng.random()}", "s1"))
    return store


class Answers:
    """Everything that a healthy snapshot of `shop` answers."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = shop()
        freeze(self.store, path, compress="none")
        self.entries = {
            entry.call: CacheEntry(call=entry.call, kept=merged((), entry.kept))
            for entry in self.store.entries()
        }
        self.missing = [recorded(b'{"order_id":"X%d"}' % number) for number in range(20)]
        frozen = SnapshotStore(path)
        self.table = frozen.table
        self.loose = list(_loose(frozen))
        assert frozen.verify() == ()
        frozen.close()

    def wrong(self, frozen: SnapshotStore) -> list[object]:
        """Return what a damaged copy answers wrongly; an error is no answer."""
        found: list[object] = []
        for call, entry in self.entries.items():
            for answer in (_asked(frozen.get, call), _asked(frozen.by_key, call.key)):
                if answer not in (entry, CacheError):
                    found.append((call, answer))
        for call in self.missing:
            if _asked(frozen.get, call) not in (None, CacheError):
                found.append(call)
        for question, answer in zip(_loose_questions(frozen), self.loose, strict=True):
            now = _asked(lambda asked: asked(), question)
            if now not in (answer, CacheError):
                found.append((answer, now))
        for name in ("settings", "none"):
            if _asked(frozen.note, name) not in (self.store.note(name), CacheError):
                found.append(name)
        return found


def _asked(ask: Callable[[Any], object], what: Any) -> Any:
    try:
        return ask(what)
    except CacheError:
        return CacheError


def _loose_questions(frozen: SnapshotStore) -> Iterator[Callable[[], Neighbour | None]]:
    for splits in (frozenset(Split), frozenset({Split.TRAIN})):
        for query in QUERIES:
            shape = PLAN.shape(PLAN.normal(query).arguments)
            index = frozen.index(SPACE, "search", PLAN, splits)
            assert index is not None
            yield lambda i=index, s=shape: i.fuzzy(s, state=b"", min_score=0.7)  # type: ignore[misc]
            yield lambda i=index, s=shape: i.best(s, min_score=0.0, scenario="s2")  # type: ignore[misc]
            yield lambda i=index, s=shape: i.best(s, min_score=0.2, state=b"", own_only=True, scenario="s1")  # type: ignore[misc]  # fmt: skip


def _loose(frozen: SnapshotStore) -> Iterator[Neighbour | None]:
    for ask in _loose_questions(frozen):
        yield ask()


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    return Answers(tmp_path_factory.mktemp("healthy") / "s")


def _regions(answers: Answers) -> dict[str, range]:
    table = answers.table
    size = answers.path.stat().st_size
    regions = {"head": range(HEAD.size), "tail": range(size - HEAD.size, size)}
    parts: dict[str, Part] = {
        "records": table.records,
        "key directory": table.key_directory,
        "key rows": table.key_rows,
        "note": table.notes["settings"],
    }
    for tool in table.tools:
        for name in ("values", "columns", "directory", "rows", "postings"):
            parts[f"{name} of {tool.tool}"] = getattr(tool, name)
    for name, part in parts.items():
        regions[name] = range(part.offset, part.end)
    regions["table"] = range(max(part.end for part in parts.values()), size - HEAD.size)
    return {name: region for name, region in regions.items() if len(region)}


def test_a_flipped_bit_is_never_a_wrong_answer(healthy: Answers, tmp_path: Path) -> None:
    """Any region, any bit: the right answer or an error, and `verify` knows."""
    rng = random.Random(11)
    whole = healthy.path.read_bytes()
    damaged = tmp_path / "s"
    noticed = 0
    for region, places in _regions(healthy).items():
        for place in {places[0], places[-1], *rng.choices(places, k=8)}:
            bit = 1 << rng.randrange(8)
            damaged.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
            try:
                frozen = SnapshotStore(damaged)
            except CacheError:
                noticed += 1
                continue
            assert healthy.wrong(frozen) == [], (region, place)
            assert frozen.verify() != (), (region, place)
            frozen.close()
    assert noticed > 20  # head, tail and table


def test_damage_is_named_and_the_rest_can_be_salvaged(healthy: Answers, tmp_path: Path) -> None:
    """One bad sector costs one answer, not the cache."""
    whole = bytearray(healthy.path.read_bytes())
    whole[healthy.table.tools[0].values.offset + 5] ^= 1
    (tmp_path / "s").write_bytes(whole)
    frozen = SnapshotStore(tmp_path / "s")

    broken = frozen.verify()
    assert broken[0] == "the values of shop/get_order"
    assert broken[1].startswith("entry 0, key ")
    assert len(broken) == 2
    saved = list(frozen.salvage())
    assert len(saved) == len(healthy.entries) - 1
    assert all(healthy.entries[entry.call] == entry for entry in saved)
    with pytest.raises(CacheError, match="damaged after it was written"):
        list(frozen.entries())
    frozen.close()


def test_a_cut_file_is_refused(healthy: Answers, tmp_path: Path) -> None:
    """A copy that was interrupted, at any length; and one that grew."""
    rng = random.Random(5)
    whole = healthy.path.read_bytes()
    cut = tmp_path / "s"
    for length in {0, 1, 7, 8, 63, 64, 127, 128, len(whole) - 1, *rng.choices(range(len(whole)), k=60)}:  # fmt: skip
        cut.write_bytes(whole[:length])
        with pytest.raises(CacheError):
            SnapshotStore(cut)
    cut.write_bytes(whole + b"\0")
    with pytest.raises(CacheError, match="was cut"):
        SnapshotStore(cut)


def test_what_is_no_snapshot_is_refused(tmp_path: Path) -> None:
    """Somebody else's file; a folder; nothing."""
    (tmp_path / "text").write_text("hello, this is no snapshot " * 100)
    for name in ("text", "nothing", "."):
        with pytest.raises(CacheError) as refused:
            SnapshotStore(tmp_path / name)
        assert "\n" not in str(refused.value)
        assert not is_snapshot(tmp_path / name)


def test_a_newer_snapshot_is_refused_in_one_line(healthy: Answers, tmp_path: Path) -> None:
    """Better than to misread it."""
    whole = bytearray(healthy.path.read_bytes())
    whole[8:12] = struct.pack("<I", 2)
    (tmp_path / "s").write_bytes(whole)

    with pytest.raises(CacheError, match=r"snapshot format 2.*Upgrade cacherl") as refused:
        SnapshotStore(tmp_path / "s")
    assert "\n" not in str(refused.value)


_FREEZE = """
import sys, time
from pathlib import Path
from cacherl.cache.storage.freeze import freeze
from cacherl.cache.storage.store import MemoryStore
from tests.cache.recordings import recorded, seen
store = MemoryStore()
for number in range(4100):
    store.add(recorded(b"%d" % number), seen("x" * 100))
def told(stage, done, total):
    if stage == sys.argv[2] and done:
        print(stage, flush=True)
        time.sleep(600)
freeze(store, Path(sys.argv[1]), progress=told)
"""


@pytest.mark.parametrize("stage", ["reading", "writing", "indexing keys"])
def test_a_killed_freeze_leaves_the_old_snapshot(tmp_path: Path, stage: str) -> None:
    """And the next one is not in its way."""
    path = tmp_path / "s"
    before = freeze(shop(), path)
    with subprocess.Popen(
        [sys.executable, "-c", _FREEZE, str(path), stage], cwd=ROOT, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().decode().strip() == stage
        process.send_signal(signal.SIGKILL)

    frozen = SnapshotStore(path)
    assert frozen.id == before.id
    assert frozen.verify() == ()
    frozen.close()
    after = freeze(MemoryStore(), path)
    assert after.id != before.id
    assert [each.name for each in tmp_path.iterdir()] == ["s"]


_FULL = """
import resource, sys
from pathlib import Path
from cacherl.cache.storage.freeze import freeze
from cacherl.cache.storage.store import MemoryStore
from cacherl.core.errors import CacheError
from tests.cache.recordings import recorded, seen
store = MemoryStore()
for number in range(300):
    store.add(recorded(b"%d" % number), seen("x" * 1000))
for limit in (100, 290_000, 350_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        freeze(store, Path(sys.argv[1]), compress="none")
    except CacheError as error:
        print(error)
"""


def test_a_full_disk_leaves_the_old_snapshot(tmp_path: Path) -> None:
    """Whether the spool, the values or the index did not fit."""
    path = tmp_path / "s"
    before = freeze(shop(), path)
    said = subprocess.run(
        [sys.executable, "-c", _FULL, str(path)], cwd=ROOT, capture_output=True, text=True, check=True
    )  # fmt: skip

    assert said.stdout.count("cannot be written") == 3, said
    frozen = SnapshotStore(path)
    assert frozen.id == before.id
    frozen.close()
    assert [each.name for each in tmp_path.iterdir()] == ["s"]


def test_two_processes_do_not_freeze_to_one_path_at_once(tmp_path: Path) -> None:
    """The second says so instead of writing into the file of the first."""
    held = os.open(tmp_path / ".s.partial", os.O_RDWR | os.O_CREAT)
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(CacheError, match="another process is freezing"):
        freeze(MemoryStore(), tmp_path / "s")
    os.close(held)

    freeze(MemoryStore(), tmp_path / "s")
    assert is_snapshot(tmp_path / "s")


def test_a_damaged_recording_stops_the_freeze(healthy: Answers, tmp_path: Path) -> None:
    """What is damaged must not become whole by being copied."""
    whole = bytearray(healthy.path.read_bytes())
    whole[healthy.table.tools[1].values.offset + 5] ^= 1
    (tmp_path / "damaged").write_bytes(whole)
    frozen = SnapshotStore(tmp_path / "damaged")

    with pytest.raises(CacheError, match="damaged"):
        freeze(frozen, tmp_path / "s")
    assert not (tmp_path / "s").exists()
    frozen.close()


def test_very_large_calls_and_answers_are_kept(tmp_path: Path) -> None:
    """10 MB of arguments, 50 MB of result, deep nesting."""
    store = MemoryStore()
    large = recorded(b'{"order_id":"%s"}' % (b"9" * 10_000_000))
    deep = recorded(b'{"order_id":' + b"[" * 500 + b"]" * 500 + b"}")
    wide = recorded(b'{"order_id":"W"}')
    store.add(large, seen("of large arguments"))
    store.add(deep, seen("of deep arguments"))
    store.add(wide, seen("w" * 50_000_000))
    freeze(store, tmp_path / "s")
    frozen = SnapshotStore(tmp_path / "s")

    def text(call: RecordedCall) -> str:
        entry = frozen.get(call)
        return "" if entry is None else entry.kept[0].observation.text

    assert text(large) == "of large arguments"
    assert text(deep) == "of deep arguments"
    assert text(wide) == "w" * 50_000_000
    frozen.close()
