"""Two caches compared: every difference is counted, contradictions come first."""

from __future__ import annotations

from pathlib import Path

import msgspec

from cacherl.cache.identity.canonical import canonical_json
from cacherl.cache.storage.portable import export
from cacherl.cache.storage.sqlite import SqliteStore
from cacherl.cache.storage.store import MemoryStore
from cacherl.cache.upkeep.diff import diff, diff_files
from cacherl.core.tools import ErrorClass
from tests.cache.caches import built, entry, file_with
from tests.cache.recordings import GET, recorded, seen


def test_a_diff_counts_by_tool_and_puts_contradictions_first() -> None:
    """Before a new recording replaces an old one, somebody wants to know what would change."""
    same, gone, fresh, other, drawn = (recorded(b'{"n":%d}' % n) for n in range(5))
    a = built(
        [
            entry(same, seen("x")),
            entry(gone, seen("x")),
            entry(other, seen("x"), seen("x", scenario="s2")),
            entry(drawn, seen("heads"), seen("tails")),
        ],
        GET,
        {"settings": b"1"},
    )
    b = built(
        [
            entry(drawn, seen("tails"), seen("edge")),
            entry(fresh, seen("x")),
            entry(other, seen("y"), seen("x", scenario="s2")),
            entry(same, seen("x")),
        ],
        msgspec.structs.replace(GET, description="Returns an order."),
        {},
    )

    found = diff(a, b)

    assert (found.same, found.contradicting, found.only_a, found.only_b, found.changed) == (
        *(1, 1, 1, 1),
        1,
    )
    assert [each.how for each in found.calls] == ["contradicting", "only a", "only b", "changed"]
    assert (found.calls[0].scenario, found.calls[0].a, found.calls[0].b) == ("s1", "x", "y")
    assert [(tool.tool, tool.declaration) for tool in found.tools] == [("get_order", "changed")]
    assert found.notes == ("settings",)
    back = diff(b, a)
    assert (back.only_a, back.only_b, back.contradicting) == (1, 1, 1)
    assert diff(a, a).calls == ()


def test_a_transient_failure_contradicts_nothing() -> None:
    """A time-out says nothing about the call."""
    a = built([entry(recorded(), seen("timed out", error=ErrorClass.TRANSIENT))], None, {})
    b = built([entry(recorded(), seen("sunny"))], None, {})

    assert diff(a, b).contradicting == 0


def test_a_limit_cuts_what_is_listed_and_not_what_is_counted() -> None:
    """The terminal shows a few; the counts stay true."""
    a = built([entry(recorded(b'{"n":%d}' % n), seen("x")) for n in range(9)], None, {})

    found = diff(a, MemoryStore(), limit=2)

    assert (found.only_a, len(found.calls)) == (9, 2)


def test_a_diff_of_files_reads_every_form(tmp_path: Path) -> None:
    """An export from last month is compared with today's cache without importing it first."""
    a = file_with(tmp_path / "a.sqlite", entry(recorded(canonical_json({"n": 2**70})), seen("x")))
    store = SqliteStore(a)
    export(store, tmp_path / "a.parquet")
    store.close()

    assert diff_files(str(a), str(tmp_path / "a.parquet")).same == 1


def test_when_a_call_was_recorded_does_not_make_it_another() -> None:
    """Yesterday's recording and today's are the same where the tool said the same."""
    stores = MemoryStore(), MemoryStore()
    for at, store in enumerate(stores):
        store.add(recorded(), msgspec.structs.replace(seen("sunny"), recorded_at=float(at)))

    assert (diff(*stores).same, diff(*stores).changed) == (1, 0)
