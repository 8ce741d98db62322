"""What every store promises, whatever it stands on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cacherl.cache.entry import MAX_DISTINCT, RecordedCall
from cacherl.cache.sqlite import SqliteStore
from cacherl.cache.store import CacheStore, MemoryStore
from cacherl.core.tasks import Split
from cacherl.core.tools import ErrorClass
from tests.cache.recordings import CANCEL, GET, SPACE, recorded, seen


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CacheStore]:
    made: CacheStore = (
        MemoryStore()
        if request.param == "memory"
        else SqliteStore(tmp_path / "a cache#1.db", mode="write")
    )
    yield made
    made.close()
    made.close()  # safe twice


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
