"""What every store promises, whatever it stands on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cacherl.cache.storage.entry import MAX_DISTINCT, CacheEntry, Kept, Observation, RecordedCall
from cacherl.cache.storage.sqlite import SqliteStore
from cacherl.cache.storage.store import CacheStore, MemoryStore
from cacherl.core.tasks import Split
from cacherl.core.tools import ErrorClass
from tests.cache.recordings import CANCEL, GET, SPACE, recorded, seen
from tests.redis_server import RedisServer, running_redis

STORES = ("memory", "sqlite", "redis")


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CacheStore]:
    made = _made(request.param, request, tmp_path)
    yield made
    made.close()
    made.close()  # safe twice


def _made(kind: str, request: pytest.FixtureRequest, folder: Path) -> CacheStore:
    if kind == "memory":
        return MemoryStore()
    if kind == "sqlite":
        return SqliteStore(folder / "a cache#1.db", mode="write")
    pytest.importorskip("redis")
    from cacherl.adapters.redis_store import RedisStore

    server: RedisServer = request.getfixturevalue("redis_server")
    prefix = f"{request.node.name}:{folder.name}"
    return RedisStore(server.unix_url, mode="write", prefix=prefix)


def texts(store: CacheStore, call: RecordedCall) -> list[tuple[str, int]]:
    entry = store.get(call)
    return [] if entry is None else [(kept.observation.text, kept.times) for kept in entry.kept]


def test_what_was_never_kept_is_none(store: CacheStore) -> None:
    """A miss is an answer, not an exception."""
    assert store.get(recorded()) is None
    assert store.by_key(recorded().key) is None
    assert list(store.by_tool(SPACE, "get_order")) == []
    assert list(store.entries()) == []
    assert store.tools() == {}


def test_the_first_observation_stays_the_first(store: CacheStore) -> None:
    """Replays stay the same when a tool later answers differently, and the other answer is not lost."""
    assert store.add(recorded(), seen("sunny"))
    assert store.add(recorded(), seen("rain"))
    assert not store.add(recorded(), seen("sunny"))

    assert texts(store, recorded()) == [("sunny", 2), ("rain", 1)]


def test_the_same_answer_elsewhere_is_an_observation_of_its_own(store: CacheStore) -> None:
    """Who may see an answer depends on its scenario and split."""
    store.add(recorded(), seen("sunny"))
    store.add(recorded(), seen("sunny", scenario="s2"))
    store.add(recorded(), seen("sunny", split=Split.TEST))
    store.add(recorded(), seen("sunny", error=ErrorClass.UNKNOWN))

    assert texts(store, recorded()) == [("sunny", 1)] * 4


def test_observations_come_back_as_they_were(store: CacheStore) -> None:
    """Byte for byte, whatever a tool says."""
    odd = ["", "\x00", "é\u2028😀", '{"a":1e400}', "\ud800 half", "x" * 2_000_000]
    for number, text in enumerate(odd):
        observation = seen(text, error=ErrorClass.NOT_FOUND)
        store.add(recorded(b'{"n":%d}' % number), observation)
        entry = store.get(recorded(b'{"n":%d}' % number))
        assert entry is not None
        assert entry.kept[0].observation == observation


def test_calls_differ_by_any_part_of_their_identity(store: CacheStore) -> None:
    """Namespace, tool, arguments and state are all part of the key."""
    calls = [
        recorded(),
        recorded(b'{"order_id":"B"}'),
        recorded(tool="other"),
        recorded(state=b"0123456789abcdef"),
        RecordedCall.of("other", "get_order", b'{"order_id":"A"}', b""),
    ]
    for number, each in enumerate(calls):
        store.add(each, seen(str(number)))

    assert [texts(store, each) for each in calls] == [[(str(n), 1)] for n in range(len(calls))]
    assert [entry.call for entry in store.entries()] == calls
    assert [entry.call for entry in store.by_tool(SPACE, "get_order")] == [
        calls[0],
        calls[1],
        calls[3],
    ]


def test_a_hash_collision_answers_for_neither(store: CacheStore) -> None:
    """128 bits collide by design of an attacker if not by chance; the bytes decide."""
    one = recorded()
    other = RecordedCall(
        namespace=SPACE, tool="get_order", canonical=b'{"order_id":"B"}', state=b"", key=one.key
    )
    store.add(one, seen("one"))
    assert store.get(other) is None

    store.add(other, seen("other"))

    assert texts(store, one) == [("one", 1)]
    assert texts(store, other) == [("other", 1)]


def test_a_batch_is_kept_whole_or_not_at_all(store: CacheStore) -> None:
    """A trajectory half recorded would have reads without the writes before them."""
    store.add(recorded(), seen("before"))

    def fail_half_way() -> None:
        with store.batch():
            store.put_tool(SPACE, GET)
            store.add(recorded(), seen("more"))
            with store.batch():
                store.add(recorded(b"{}"), seen("new"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()

    assert texts(store, recorded()) == [("before", 1)]
    assert store.get(recorded(b"{}")) is None
    assert store.tools() == {}
    assert len(list(store.by_tool(SPACE, "get_order"))) == 1

    with store.batch():
        store.add(recorded(b"{}"), seen("new"))
    assert texts(store, recorded(b"{}")) == [("new", 1)]


def test_the_number_of_distinct_observations_is_bounded(store: CacheStore) -> None:
    """A clock behind a tool must not fill the disk."""
    for number in range(MAX_DISTINCT + 5):
        store.add(recorded(), seen(str(number)))

    assert len(texts(store, recorded())) == MAX_DISTINCT


def test_the_last_declaration_of_a_tool_is_told(store: CacheStore) -> None:
    """`cacherl cache lookup` needs schemas, and schemas change."""
    store.put_tool(SPACE, CANCEL)
    store.put_tool(SPACE, GET)
    store.put_tool(SPACE, GET)

    assert store.tools() == {(SPACE, "cancel_order"): CANCEL, (SPACE, "get_order"): GET}


def test_many_entries_come_in_the_order_they_were_recorded(store: CacheStore) -> None:
    """Paging must neither skip nor repeat."""
    with store.batch():
        for number in range(1203):
            store.add(recorded(b"%d" % number), seen("x"))

    assert [entry.call.canonical for entry in store.entries()] == [b"%d" % n for n in range(1203)]


def test_many_calls_are_got_as_one_by_one(store: CacheStore) -> None:
    """A round trip for all is worth nothing if it answers something else."""
    for number in range(5):
        store.add(recorded(b"%d" % number), seen(str(number)))
    collided = msgspec.structs.replace(recorded(b"9"), key=recorded(b"1").key)
    calls = [recorded(b"3"), recorded(b"7"), recorded(b"3"), collided, recorded(b"0")]

    assert store.get_many(calls) == [store.get(each) for each in calls]
    assert [found is None for found in store.get_many(calls)] == [False, True, False, True, False]
    assert store.get_many([]) == []


def entry(call: RecordedCall, *observations: tuple[Observation, int]) -> CacheEntry:
    return CacheEntry(
        call=call, kept=tuple(Kept(observation=seen_, times=times) for seen_, times in observations)
    )


def at(text: str, recorded_at: float | None) -> Observation:
    return msgspec.structs.replace(seen(text), recorded_at=recorded_at)


def test_absorbing_in_any_order_and_again_ends_the_same(store: CacheStore) -> None:
    """Segments recorded on many hosts are merged in whatever order they arrive, and some twice."""
    store.add(recorded(b"own"), seen("mine"))
    parts = [
        entry(recorded(), (at("sunny", 10.0), 2), (at("rain", 20.0), 1)),
        entry(recorded(), (at("snow", 5.0), 1), (at("sunny", 12.0), 3)),
    ]

    assert [store.absorb(each) for each in (*parts, *parts)] == [True, True, False, False]

    assert texts(store, recorded()) == [("snow", 1), ("sunny", 3), ("rain", 1)]
    found = store.get(recorded())
    assert found is not None
    assert [kept.observation.recorded_at for kept in found.kept] == [5.0, 10.0, 20.0]
    assert [each.call.canonical for each in store.entries()] == [b"own", recorded().canonical]


def test_a_call_without_observations_is_absorbed_once(store: CacheStore) -> None:
    """What a repair left of an entry is an entry; taking it again changes nothing."""
    bare = entry(recorded())

    assert [store.absorb(bare), store.absorb(bare)] == [True, False]


def test_a_removed_call_was_never_there(store: CacheStore) -> None:
    """A withdrawn recording must be reachable by no path, and its neighbours by all."""
    one, other = recorded(b"1"), recorded(b"2")
    collided = msgspec.structs.replace(recorded(b"3"), key=one.key)
    for each in (one, other, collided):
        store.add(each, seen(each.canonical.decode()))

    assert [store.remove(one), store.remove(one)] == [True, False]

    assert store.get(one) is None
    assert [each.call for each in store.entries()] == [other, collided]
    assert [each.call for each in store.by_tool(SPACE, "get_order")] == [other, collided]
    by_key = store.by_key(one.key)
    assert by_key is not None
    assert by_key.call == collided
    store.add(one, seen("again"))
    assert [each.call for each in store.entries()] == [other, collided, one]


def test_notes_are_told_as_last_put(store: CacheStore) -> None:
    """Settings, calibration and redaction travel in the cache they belong to."""
    assert store.note("settings") is None
    assert store.notes() == ()

    store.put_note("settings", b"{}")
    store.put_note("calibration", bytes(range(256)))
    store.put_note("settings", b'{"tools":{}}')

    assert store.note("settings") == b'{"tools":{}}'
    assert store.note("calibration") == bytes(range(256))
    assert store.notes() == ("calibration", "settings")


def test_a_dropped_note_is_gone_and_may_come_back(store: CacheStore) -> None:
    """What was calibrated of other recordings must not speak for these."""
    store.put_note("settings", b"{}")
    store.put_note("calibration", b"old")

    with store.batch():
        store.drop_note("calibration")
        store.drop_note("never there")
        assert store.note("calibration") is None
        assert store.notes() == ("settings",)

    assert store.note("calibration") is None
    assert store.notes() == ("settings",)
    with store.batch():
        store.put_note("calibration", b"new")
        store.drop_note("calibration")
        store.put_note("calibration", b"newer")
    assert store.note("calibration") == b"newer"


def test_the_newest_observation_sets_the_clock(store: CacheStore) -> None:
    """A clock that stands before what was recorded is wrong, and would keep stale answers alive."""
    assert store.newest() is None
    store.add(recorded(b"1"), seen("nobody knows when"))
    assert store.newest() is None

    store.add(recorded(b"1"), at("then", 1700000000.123456))
    store.add(recorded(b"2"), at("before", 1600000000.0))
    assert store.newest() == 1700000000.123456

    store.absorb(entry(recorded(b"3"), (at("later", 1700000000.5), 1)))
    assert store.newest() == 1700000000.5


def test_a_failed_batch_takes_back_everything(store: CacheStore) -> None:
    """A merge that stops half way must leave the cache as it was."""
    kept, gone = recorded(b"kept"), recorded(b"gone")
    store.add(kept, at("here", 1.0))
    store.add(gone, seen("there"))
    store.put_note("settings", b"old")
    store.put_note("redaction", b"old")

    def all_of_it() -> dict[str, Any]:
        return {
            "entries": list(store.entries()),
            "tool": list(store.by_tool(SPACE, "get_order")),
            "notes": [(name, store.note(name)) for name in store.notes()],
            "tools": store.tools(),
            "by_key": [store.by_key(call.key) for call in (kept, gone)],
        }

    before = all_of_it()

    def fail_half_way() -> None:
        with store.batch():
            store.remove(gone)
            store.absorb(entry(kept, (at("elsewhere", 9.0), 4)))
            store.absorb(entry(recorded(b"new"), (at("new", 9.0), 1)))
            store.put_note("settings", b"new")
            store.put_note("calibration", b"new")
            store.drop_note("redaction")
            store.put_tool(SPACE, GET)
            assert all_of_it() != before
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()

    assert all_of_it() == before


def test_a_batch_sees_its_own_writes(store: CacheStore) -> None:
    """A trajectory that makes a call twice counts it twice, and merging counts on what it wrote."""
    store.add(recorded(b"1"), seen("old"))

    with store.batch():
        assert store.add(recorded(b"2"), seen("new"))
        assert not store.add(recorded(b"2"), seen("new"))
        assert not store.add(recorded(b"1"), seen("old"))
        store.put_note("n", b"1")
        assert texts(store, recorded(b"2")) == [("new", 2)]
        assert [each.call.canonical for each in store.entries()] == [b"1", b"2"]
        assert [found is None for found in store.get_many([recorded(b"2"), recorded(b"3")])] == [
            False,
            True,
        ]
        assert store.remove(recorded(b"1"))
        assert store.get(recorded(b"1")) is None
        assert [each.call.canonical for each in store.by_tool(SPACE, "get_order")] == [b"2"]
        assert store.note("n") == b"1"
        assert store.notes() == ("n",)

    assert [each.call.canonical for each in store.entries()] == [b"2"]
    assert texts(store, recorded(b"2")) == [("new", 2)]
