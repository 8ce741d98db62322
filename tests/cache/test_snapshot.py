"""A snapshot answers as the cache it was frozen from, and only ever answers."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from cacherl.cache.identity.normalise import plan_of
from cacherl.cache.lookup.tool_cache import Draw, Scope, ToolCache, Viewpoint
from cacherl.cache.storage.entry import MAX_DISTINCT, CacheEntry, Observation, RecordedCall, merged
from cacherl.cache.storage.freeze import FrozenSummary, freeze
from cacherl.cache.storage.snapshot import SnapshotStore, is_snapshot
from cacherl.cache.storage.sqlite import SqliteStore
from cacherl.cache.storage.store import CacheStore, MemoryStore
from cacherl.cli import main
from cacherl.core.errors import CacheError
from cacherl.core.tasks import Split
from cacherl.core.tools import ErrorClass, Tier, ToolSpec
from tests.cache.recordings import CANCEL, GET, SEARCH, SPACE, recorded, seen


def snapshot(store: CacheStore, path: Path) -> SnapshotStore:
    freeze(store, path)
    return SnapshotStore(path)


def small_shop(count: int = 40, seed: int = 0) -> MemoryStore:
    """A cache with two tools, states, splits, errors and a note."""
    rng = random.Random(seed)
    store = MemoryStore()
    store.put_tool(SPACE, GET)
    store.put_tool(SPACE, SEARCH)
    store.put_note("settings", b"{}")
    for number in range(count):
        call = recorded(
            b'{"order_id":"O%d"}' % number, state=rng.choice([b"", b"0123456789abcdef"])
        )
        for _ in range(rng.randint(1, 3)):
            store.add(call, odd_observation(rng))
        query = " ".join(rng.sample(["red", "blue", "hat", "shoe", "warm", "cheap"], 3))
        search = b'{"query":"%s","shelf":"%d"}' % (query.encode(), rng.randint(1, 3))
        store.add(recorded(search, tool="search"), odd_observation(rng))
    return store


def odd_observation(rng: random.Random) -> Observation:
    error = rng.choice([None, None, None, ErrorClass.NOT_FOUND])
    scenario, split = rng.choice(["s1", "s2"]), rng.choice([*Split])
    return seen(f"answer {rng.randint(1, 99)}", scenario, split, error)


def known(store: CacheStore) -> dict[tuple[bytes, bytes, str], CacheEntry]:
    """Every entry by its call, its observations in the order that merging gives them."""
    return {
        (entry.call.canonical, entry.call.state, entry.call.tool): CacheEntry(
            call=entry.call, kept=merged((), entry.kept)
        )
        for entry in store.entries()
    }


# ---- reading


def test_what_was_recorded_is_answered(tmp_path: Path) -> None:
    """By call, by key, by tool and all together; a call that was not recorded is a miss."""
    store = small_shop()
    frozen = snapshot(store, tmp_path / "a b#1.snapshot")
    expected = known(store)

    assert known(frozen) == expected
    assert len(frozen) == len(expected)
    for entry in expected.values():
        assert frozen.get(entry.call) == entry
        assert frozen.by_key(entry.call.key) == entry
    assert frozen.get_many([recorded(b"{}"), *(e.call for e in expected.values())]) == [
        None,
        *expected.values(),
    ]
    assert {e.call.key for e in frozen.by_tool(SPACE, "search")} == {
        e.call.key for e in store.by_tool(SPACE, "search")
    }
    assert frozen.tools() == store.tools()
    assert list(frozen.by_tool(SPACE, "nobody")) == []
    assert frozen.by_key(b"0" * 16) is None
    assert frozen.verify() == ()
    frozen.close()


def test_an_empty_cache_freezes(tmp_path: Path) -> None:
    """A run may have recorded nothing yet."""
    frozen = snapshot(MemoryStore(), tmp_path / "empty")

    assert frozen.get(recorded()) is None
    assert frozen.by_key(recorded().key) is None
    assert list(frozen.entries()) == []
    assert (frozen.tools(), frozen.notes(), frozen.newest()) == ({}, (), None)
    assert frozen.verify() == ()
    frozen.close()


def test_observations_come_back_as_they_were(tmp_path: Path) -> None:
    """Byte for byte, whatever a tool says; in the order of recording where times are known."""
    store = MemoryStore()
    odd = ["", "\x00", "é\u2028😀", '{"a":1e400}', "\ud800 half", "x" * 200_000]
    for number, text in enumerate(odd):
        store.add(recorded(b'{"n":%d}' % number), seen(text, error=ErrorClass.NOT_FOUND))
    late = Observation(source=seen("").source, scenario="s", split=Split.DEV, text="z",
                       recorded_at=9.5, latency_s=0.25, occurrence=3, asked='{"\\ud800":1}')  # fmt: skip
    early = Observation(
        source=late.source, scenario="s", split=Split.DEV, text="y", recorded_at=8.0
    )
    store.add(recorded(), late)
    store.add(recorded(), late)
    store.add(recorded(), early)
    frozen = snapshot(store, tmp_path / "s")

    for number, text in enumerate(odd):
        entry = frozen.get(recorded(b'{"n":%d}' % number))
        assert entry is not None
        assert entry.kept[0].observation == seen(text, error=ErrorClass.NOT_FOUND)
    entry = frozen.get(recorded())
    assert entry is not None
    assert [(kept.observation, kept.times) for kept in entry.kept] == [(early, 1), (late, 2)]
    assert frozen.newest() == 9.5
    frozen.close()


def test_calls_differ_by_any_part_of_their_identity(tmp_path: Path) -> None:
    """Namespace, tool, arguments and state are all part of the key; undeclared tools are kept too."""
    store = MemoryStore()
    calls = [
        recorded(),
        recorded(b'{"order_id":"B"}'),
        recorded(tool="other"),
        recorded(state=b"0123456789abcdef"),
        RecordedCall.of("other", "get_order", b'{"order_id":"A"}', b""),
    ]
    for number, each in enumerate(calls):
        store.add(each, seen(str(number)))
    frozen = snapshot(store, tmp_path / "s")

    for number, each in enumerate(calls):
        entry = frozen.get(each)
        assert entry is not None
        assert entry.kept[0].observation.text == str(number)
    assert frozen.tools() == {}
    frozen.close()


@pytest.mark.parametrize("count", [2, 300])
def test_a_hash_collision_answers_for_nobody_else(tmp_path: Path, count: int) -> None:
    """128 bits collide by design of an attacker if not by chance; the bytes decide."""
    store = MemoryStore()
    key = recorded().key
    spaces = ["get_order", "other"]
    calls = [
        RecordedCall(
            namespace=SPACE, tool=spaces[n % 2], canonical=b"%d" % (n // 2), state=b"", key=key
        )
        for n in range(count)
    ]
    for number, call in enumerate(calls):
        store.add(call, seen(str(number)))
    frozen = snapshot(store, tmp_path / "s")

    for number, call in enumerate(calls):
        entry = frozen.get(call)
        assert entry is not None
        assert entry.kept[0].observation.text == str(number)
    assert frozen.get(recorded()) is None
    assert frozen.by_key(key) in list(frozen.entries())
    assert frozen.verify() == ()
    frozen.close()


def test_the_number_of_distinct_observations_is_bounded(tmp_path: Path) -> None:
    """As everywhere."""
    store = MemoryStore()
    for number in range(MAX_DISTINCT + 5):
        store.add(recorded(), seen(str(number)))
    frozen = snapshot(store, tmp_path / "s")

    assert known(frozen) == known(store)
    frozen.close()


def test_notes_and_the_newest_time_travel(tmp_path: Path) -> None:
    """Settings and calibration belong to the recordings."""
    store = MemoryStore()
    store.put_note("settings", b"\x00\xff" * 5000)
    store.put_note("calibration", b"")
    frozen = snapshot(store, tmp_path / "s")

    assert frozen.notes() == ("calibration", "settings")
    assert frozen.note("settings") == b"\x00\xff" * 5000
    assert frozen.note("calibration") == b""
    assert frozen.note("nothing") is None
    frozen.close()


# ---- the same bytes


def test_the_same_recordings_give_the_same_bytes(tmp_path: Path) -> None:
    """The id that a run prints says which answers it saw, not on which day they came."""
    store = small_shop()
    entries = list(store.entries())
    one = freeze(store, tmp_path / "one")
    ids = set()
    for seed in range(3):
        random.Random(seed).shuffle(entries)
        other = MemoryStore()
        for spec in random.Random(seed).sample([GET, SEARCH], 2):
            other.put_tool(SPACE, spec)
        other.put_note("settings", b"{}")
        for entry in entries:
            other.absorb(entry)
        ids.add(freeze(other, tmp_path / "other").id)
        assert (tmp_path / "other").read_bytes() == (tmp_path / "one").read_bytes()

    assert ids == {one.id}
    store.add(recorded(b'{"order_id":"O1"}'), seen("something new"))
    assert freeze(store, tmp_path / "other").id != one.id


def test_a_snapshot_freezes_to_itself(tmp_path: Path) -> None:
    """Freezing is a fixed point, also from SQLite."""
    sqlite = SqliteStore(tmp_path / "c.sqlite", mode="write")
    for entry in small_shop().entries():
        sqlite.absorb(entry)
    first = snapshot(sqlite, tmp_path / "one")
    second = snapshot(first, tmp_path / "two")

    assert first.id == second.id
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    for store in (sqlite, first, second):
        store.close()


_ONE_ID = """
import sys
from pathlib import Path
from cacherl.cache.storage.freeze import freeze
from cacherl.cache.storage.store import MemoryStore
from tests.cache.recordings import SEARCH, SPACE, recorded, seen
store = MemoryStore()
store.put_tool(SPACE, SEARCH)
for number in range(100):
    call = recorded(b'{"query":"red hats and blue shoes","shelf":"%d"}' % number, tool="search")
    for scenario in "abcd":
        store.add(call, seen("x", scenario))
print(freeze(store, Path(sys.argv[1])).id)
"""


def test_the_id_does_not_depend_on_pythons_hash_seed(tmp_path: Path) -> None:
    """Sets and dicts of strings come in another order in every process."""
    ids = {
        subprocess.run(
            [sys.executable, "-c", _ONE_ID, str(tmp_path / f"s{seed}")],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(ids) == 1


def repetitive() -> MemoryStore:
    store = MemoryStore()
    for number in range(300):
        text = f'{{"status": "shipped", "carrier": "post", "order": {number}, "items": []}}'
        store.add(recorded(b'{"order_id":"%d"}' % number), seen(text * 3))
    return store


def test_compression_changes_the_size_and_nothing_else(tmp_path: Path) -> None:
    """The id is that of the recordings: two machines agree though one has no zstandard."""
    pytest.importorskip("zstandard")
    plain = freeze(repetitive(), tmp_path / "plain", compress="none")
    small = freeze(repetitive(), tmp_path / "small")
    frozen = SnapshotStore(tmp_path / "small")

    assert (plain.compressed_tools, small.compressed_tools) == (0, 1)
    assert small.bytes < 0.7 * plain.bytes
    assert small.id == plain.id
    assert known(frozen) == known(repetitive())
    assert frozen.verify() == ()
    frozen.close()


def test_what_does_not_compress_is_kept_as_it_is(tmp_path: Path) -> None:
    """A dictionary that does not pay is not there."""
    rng = random.Random(3)
    store = MemoryStore()
    for number in range(300):
        store.add(
            recorded(b"%d" % number), seen("".join(map(chr, rng.choices(range(32, 127), k=250))))
        )

    assert freeze(store, tmp_path / "s").compressed_tools == 0


@given(st.lists(st.tuples(st.integers(0, 6), st.text(max_size=3)), max_size=12))
def test_every_recording_survives(tmp_path_factory: pytest.TempPathFactory, made: list[tuple[int, str]]) -> None:  # fmt: skip
    """Whatever was recorded, in whatever order."""
    store = MemoryStore()
    for number, text in made:
        store.add(recorded(b'{"n":%d}' % number), seen(text))
    frozen = snapshot(store, tmp_path_factory.mktemp("s") / "s")

    assert known(frozen) == known(store)
    frozen.close()


# ---- only ever answers


def test_a_snapshot_cannot_be_written(tmp_path: Path) -> None:
    """What rollouts read does not change under them; the error says what to do instead."""
    frozen = snapshot(small_shop(1), tmp_path / "s")
    entry = next(frozen.entries())
    attempts: list[Callable[[], object]] = [
        lambda: frozen.put_tool(SPACE, CANCEL),
        lambda: frozen.add(recorded(), seen("x")),
        lambda: frozen.absorb(entry),
        lambda: frozen.remove(entry.call),
        lambda: frozen.put_note("a", b""),
        lambda: frozen.drop_note("a"),
        frozen.batch,
    ]
    for attempt in attempts:
        with pytest.raises(CacheError, match="cacherl cache freeze"):
            attempt()
    frozen.close()


def test_a_snapshot_opens_where_nothing_can_be_written(tmp_path: Path) -> None:
    """A read-only mount: no lock, no shared memory, no journal."""
    folder = tmp_path / "readonly"
    freeze(small_shop(), folder / "s")
    assert [each.name for each in folder.iterdir()] == ["s"]
    folder.chmod(0o555)
    try:
        frozen = SnapshotStore(folder / "s")
        assert len(known(frozen)) > 40
        frozen.close()
    finally:
        folder.chmod(0o755)


def test_what_is_open_stays_as_it_was(tmp_path: Path) -> None:
    """A new snapshot takes the path; rollouts that opened the old one keep its answers."""
    old = snapshot(small_shop(5), tmp_path / "s")
    before = known(old)
    freeze(small_shop(30, seed=1), tmp_path / "s")
    new = SnapshotStore(tmp_path / "s")

    assert known(old) == before
    assert new.id != old.id
    assert known(new) == known(small_shop(30, seed=1))
    old.close()
    new.close()


def test_a_link_is_followed_not_replaced(tmp_path: Path) -> None:
    """A path such as `latest` may point elsewhere."""
    (tmp_path / "link").symlink_to(tmp_path / "s")
    freeze(small_shop(3), tmp_path / "link")

    assert (tmp_path / "link").is_symlink()
    assert is_snapshot(tmp_path / "s")


def _read_in_child(frozen: SnapshotStore, told: multiprocessing.SimpleQueue[bool]) -> None:
    told.put(known(frozen) == known(small_shop()))


def test_a_snapshot_survives_a_fork(tmp_path: Path) -> None:
    """Rollout workers are forked from a process that has it open."""
    frozen = snapshot(small_shop(), tmp_path / "s")
    context = multiprocessing.get_context("fork")
    told: multiprocessing.SimpleQueue[bool] = context.SimpleQueue()
    workers = [context.Process(target=_read_in_child, args=(frozen, told)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    assert [told.get(), told.get()] == [True, True]
    assert known(frozen) == known(small_shop())
    frozen.close()


def test_threads_share_one_snapshot(tmp_path: Path) -> None:
    """Scratch memory and decompression are nobody's twice at once."""
    pytest.importorskip("zstandard")
    frozen = snapshot(repetitive(), tmp_path / "s")
    plan = plan_of(GET)
    expected = known(frozen)
    wrong: list[object] = []

    def work(seed: int) -> None:
        rng = random.Random(seed)
        index = frozen.index(SPACE, "get_order", plan, frozenset(Split))
        for entry in rng.sample(list(expected.values()), 60):
            shape = plan.shape(entry.call.arguments)
            near = index.best(shape, min_score=0.5) if index else None
            if frozen.get(entry.call) != entry or near is None or near.key != entry.call.key:
                wrong.append(entry)

    freeze(frozen, tmp_path / "t", plan=lambda *_: plan)
    frozen.close()
    frozen = SnapshotStore(tmp_path / "t")
    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    frozen.close()


def test_a_closed_snapshot_says_so(tmp_path: Path) -> None:
    """Rather than something about struct."""
    frozen = snapshot(small_shop(), tmp_path / "s")
    index = frozen.index(SPACE, "search", plan_of(SEARCH), frozenset(Split))
    frozen.close()
    frozen.close()

    for attempt in (lambda: frozen.get(recorded()), lambda: frozen.note("settings")):
        with pytest.raises(CacheError, match="was closed"):
            attempt()
    assert index is not None
    with pytest.raises(CacheError, match="was closed"):
        index.best(plan_of(SEARCH).shape({"query": "red hat", "shelf": "1"}), min_score=0.0)


# ---- the index


def test_an_index_is_told_only_under_the_plan_it_was_made_with(tmp_path: Path) -> None:
    """Kinds that were set by hand later change what is near: then one is built in memory."""
    frozen = snapshot(small_shop(), tmp_path / "s")
    splits = frozenset(Split)
    other = plan_of(CANCEL)

    assert frozen.index(SPACE, "search", plan_of(SEARCH), splits) is not None
    assert frozen.index(SPACE, "search", other, splits) is None
    assert frozen.index(SPACE, "nobody", other, splits) is None
    frozen.close()

    freeze(small_shop(), tmp_path / "s", plan=lambda *_: other)
    frozen = SnapshotStore(tmp_path / "s")
    assert frozen.index(SPACE, "search", plan_of(SEARCH), splits) is None
    assert frozen.index(SPACE, "search", other, splits) is not None
    frozen.close()


def test_an_index_counts_the_successes_of_its_splits(tmp_path: Path) -> None:
    """An error never answers loosely, and a held-out answer does not exist."""
    store = MemoryStore()
    store.add(recorded(b'{"order_id":"A"}'), seen("a"))
    store.add(recorded(b'{"order_id":"B"}'), seen("b", split=Split.TEST))
    store.add(recorded(b'{"order_id":"B"}'), seen("b"))
    store.add(recorded(b'{"order_id":"C"}'), seen("c", split=Split.TEST))
    store.add(recorded(b'{"order_id":"D"}'), seen("d", error=ErrorClass.NOT_FOUND))
    frozen = snapshot(store, tmp_path / "s")

    def size(*splits: Split) -> int:
        index = frozen.index(SPACE, "get_order", plan_of(_undeclared()), frozenset(splits))
        return -1 if index is None else len(index)

    assert [size(Split.TRAIN), size(Split.TEST), size(*Split), size(Split.DEV)] == [2, 2, 3, 0]
    frozen.close()


def _undeclared() -> ToolSpec:
    return ToolSpec(name="get_order", description="", parameters={"type": "object"})


def test_a_cache_on_a_snapshot_hits_what_the_same_cache_in_memory_hits(tmp_path: Path) -> None:
    """Every tier, every split, with the same score from the same recording."""
    frozen = snapshot(small_shop(200), tmp_path / "s")
    memory = MemoryStore()
    for spec in (GET, SEARCH):
        memory.put_tool(SPACE, spec)
    for entry in frozen.entries():
        memory.absorb(entry)
    ours, theirs = ToolCache(frozen), ToolCache(memory)
    rng = random.Random(8)
    tiers = set()
    for number in range(120):
        words = rng.sample(["please", "red", "blue", "hats", "shoes", "warm", "cheap"], 4)
        search = {"query": " ".join(words), "shelf": str(rng.randint(1, 4))}
        spec, arguments = rng.choice([(SEARCH, search), (GET, {"order_id": f"O{number * 2}"})])
        view = Viewpoint(
            scenario=rng.choice(["s1", "s2", None]),
            splits=frozenset(rng.choice([[*Split], [Split.TRAIN]])),
            scope=rng.choice([*Scope]),
        )
        draw = Draw(seed=number)
        state = rng.choice([b"", b"0123456789abcdef"])
        hits = [
            each.lookup(SPACE, spec, arguments, state_key=state, view=view, draw=draw)
            for each in (ours, theirs)
        ]
        assert hits[0] == hits[1]
        tiers.add(hits[0].tier)

    assert tiers == {Tier.EXACT, Tier.FUZZY, Tier.BEST_EFFORT, Tier.MISS}
    frozen.close()


# ---- the command


def test_the_command_freezes_and_tells_the_id(tmp_path: Path) -> None:
    """What a run prints later is what was printed here."""
    cache = SqliteStore(tmp_path / "c.sqlite", mode="write")
    for entry in small_shop().entries():
        cache.absorb(entry)
    cache.close()
    target = tmp_path / "c.snapshot"
    said = CliRunner().invoke(main, ["cache", "freeze", str(tmp_path / "c.sqlite"), str(target)])

    assert said.exit_code == 0, said.output
    frozen = SnapshotStore(target)
    assert frozen.short_id in said.output
    frozen.close()
    again = CliRunner().invoke(
        main, ["cache", "freeze", "--json", str(tmp_path / "c.sqlite"), str(target)]
    )
    assert msgspec.json.decode(again.stdout, type=FrozenSummary).id == frozen.id
    assert not is_snapshot(tmp_path / "c.sqlite")
    assert not is_snapshot(tmp_path / "nothing")


def test_freezing_replaces_nothing_but_snapshots(tmp_path: Path) -> None:
    """A mistyped path must not cost a cache, or the README."""
    source, other = tmp_path / "a.cache", tmp_path / "notes.txt"
    other.write_text("mine", encoding="utf-8")
    with contextlib.closing(SqliteStore(source, mode="write")) as store:
        for path in (source, other):
            with pytest.raises(CacheError, match="no snapshot"):
                freeze(store, path)
        first, again = (freeze(store, tmp_path / "a.snapshot") for _ in range(2))

    assert other.read_text(encoding="utf-8") == "mine"
    assert first.id == again.id
