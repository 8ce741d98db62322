"""What `verify` tells of, and what `repair` saves."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from cacherl.cache.storage import rows
from cacherl.cache.storage.entry import CacheEntry
from cacherl.cache.storage.freeze import freeze
from cacherl.cache.storage.health import repair, verify
from cacherl.cache.storage.snapshot import SnapshotStore
from cacherl.cache.storage.sqlite import SqliteStore
from cacherl.cli import main
from cacherl.core.errors import CacheError
from tests.cache.old_file import old_file
from tests.cache.recordings import GET, SPACE, recorded, seen

CALLS = 400


def filled(path: Path) -> list[CacheEntry]:
    """Write a cache of many pages; every tenth call has three answers. Return its entries."""
    with contextlib.closing(SqliteStore(path, mode="write")) as store:
        store.put_tool(SPACE, GET)
        store.put_note("settings", b"{}")
        with store.batch():
            for number in range(CALLS):
                for text in ("a", "b", "c")[: 1 + 2 * (number % 10 == 0)]:
                    store.add(recorded(b'{"n":%d}' % number), seen(text + " data" * 100))
        return list(store.entries())


def change(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def entries_of(path: Path) -> list[CacheEntry]:
    with contextlib.closing(SqliteStore(path)) as store:
        return list(store.entries())


def page_of(path: Path, text: bytes) -> int:
    """The place of the page that holds a text."""
    return path.read_bytes().index(text) // 4096 * 4096


def overwrite(path: Path, place: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        file.write(data)


def test_a_whole_file_has_no_problems_and_is_not_changed(tmp_path: Path) -> None:
    """Verifying must be safe on the only copy there is."""
    path = tmp_path / "tools.cache"
    filled(path)
    before = path.read_bytes()
    found = verify(path)

    assert (found.calls, found.answers, found.tools, found.notes) == (CALLS, CALLS + 80, 1, 1)
    assert found.problems == ()
    assert path.read_bytes() == before
    repaired = repair(path, tmp_path / "copy.cache")
    assert (repaired.calls, repaired.answers, repaired.lost) == (CALLS, CALLS + 80, ())
    assert entries_of(tmp_path / "copy.cache") == entries_of(path)


def test_everything_damaged_is_named_and_the_rest_is_saved(tmp_path: Path) -> None:
    """The first damage must not hide the second, nor cost what stands beside it."""
    path, out = tmp_path / "tools.cache", tmp_path / "saved.cache"
    entries = filled(path)
    change(
        path,
        "UPDATE call SET value=x'7b7d' WHERE id=4",  # an only answer
        "UPDATE call SET times=7 WHERE id=11",  # the first of three
        "UPDATE call SET arguments=x'7b7d' WHERE id=13",
        f"DELETE FROM answer WHERE id={rows.answer_id(21, 2)}",
        f"UPDATE answer SET value=x'00' WHERE id={rows.answer_id(31, 1)}",
        f"INSERT INTO answer VALUES({rows.answer_id(9999, 1)}, 1, x'00', x'00')",
        "DELETE FROM filed",
        "INSERT INTO filed VALUES('shop', 'get_order', 3)",
        "UPDATE tool SET spec=x'00'",
        "UPDATE note SET value=x'00'",
    )
    problems = "\n".join(verify(path).problems)
    for number in (3, 10, 12, 20, 30):
        assert entries[number].call.key.hex() in problems
    for what in (
        "the declaration of shop/get_order",
        "the note settings",
        "further answers",
        "list",
    ):
        assert what in problems

    saved = repair(path, out)
    expected = {entry.call: list(entry.kept) for entry in entries}
    del expected[entries[3].call], expected[entries[12].call]
    for number, place in ((10, 0), (20, 2), (30, 1)):
        del expected[entries[number].call][place]
    assert {entry.call: list(entry.kept) for entry in entries_of(out)} == expected
    assert (saved.calls, saved.tools, saved.notes) == (CALLS - 2, 0, 0)
    assert len(saved.lost) >= 7
    assert verify(out).problems == ()


def test_lost_pages_cost_what_stood_on_them(tmp_path: Path) -> None:
    """Disks fail by the sector. What the index still knows of the lost calls is their keys."""
    path, out = tmp_path / "tools.cache", tmp_path / "saved.cache"
    entries = filled(path)
    for text in (b'{"n":57}', b'{"n":233}'):
        overwrite(path, page_of(path, text), b"\xff" * 4096)
    problems = "\n".join(verify(path).problems)
    saved = repair(path, out)
    kept = entries_of(out)

    assert CALLS - 20 < saved.calls < CALLS
    assert all(entry in entries for entry in kept)
    gone = [entry.call for entry in entries if entry not in kept]
    for call in gone:
        assert call.key.hex() in problems
        assert call.key.hex() in "\n".join(saved.lost)


def test_a_listing_of_damaged_pages_ends(tmp_path: Path) -> None:
    """One flipped bit in the last row's number led the pages in a circle, until memory ran out."""
    path, out = tmp_path / "tools.cache", tmp_path / "saved.cache"
    with contextlib.closing(SqliteStore(path, mode="write")) as store:
        for number in range(100):
            store.add(recorded(b"%d" % number), seen("x"))
    data = path.read_bytes()
    place = data.rindex(b"\x64", 0, data.rindex(recorded(b"99").key))  # the row's number, 100
    overwrite(path, place, b"\x24")

    with contextlib.closing(SqliteStore(path)) as store, pytest.raises(CacheError, match="order"):
        list(store.entries())
    assert verify(path).problems
    assert repair(path, out).calls >= 99


def test_a_damaged_head_costs_nothing(tmp_path: Path) -> None:
    """Its first hundred bytes are the same in every cache of ours."""
    path, out = tmp_path / "tools.cache", tmp_path / "saved.cache"
    entries = filled(path)
    overwrite(path, 0, b"\x00" * 24)
    overwrite(path, 56, b"\x00" * 16)

    assert "head" in verify(path).problems[0]
    assert repair(path, out).calls == CALLS
    assert entries_of(out) == entries
    assert path.read_bytes()[:24] == b"\x00" * 24


def test_a_file_cut_short_gives_what_is_left(tmp_path: Path) -> None:
    """A copy that stopped half way still holds half the recordings."""
    path, out = tmp_path / "tools.cache", tmp_path / "saved.cache"
    entries = filled(path)
    path.write_bytes(path.read_bytes()[: 30 * 4096])

    assert verify(path).problems
    saved = repair(path, out)
    assert 0 < saved.calls < CALLS
    assert all(entry in entries for entry in entries_of(out))


def test_a_snapshot_is_verified_and_saved_too(tmp_path: Path) -> None:
    """One command for whatever file there is."""
    path, frozen, out = (tmp_path / name for name in ("tools.cache", "f.snapshot", "saved.cache"))
    entries = filled(path)
    with contextlib.closing(SqliteStore(path)) as store:
        freeze(store, frozen, compress="none")
    assert verify(frozen).problems == ()
    with contextlib.closing(SnapshotStore(frozen)) as snapshot:
        order = [entry.call for entry in snapshot.entries()]
    place = frozen.read_bytes().index(b'{"n":57}')
    overwrite(frozen, place, b'{"n":58}')

    assert entries[57].call.key.hex() in "\n".join(verify(frozen).problems)
    saved = repair(frozen, out)
    assert (saved.calls, saved.tools, saved.notes) == (CALLS - 1, 1, 1)
    assert [entry.call for entry in entries_of(out)] == [c for c in order if c != entries[57].call]
    frozen.write_bytes(frozen.read_bytes()[:100])
    assert verify(frozen).problems


def test_what_never_was_a_cache_is_said_to_be_none(tmp_path: Path) -> None:
    """A typed path is not damage."""
    text, other = tmp_path / "notes.txt", tmp_path / "other.db"
    text.write_text("dear diary " * 1000)
    change(other, "CREATE TABLE mine(x)")
    for path in (text, other, tmp_path / "typo"):
        with pytest.raises(CacheError, match=path.name):
            verify(path)
        with pytest.raises(CacheError, match=path.name):
            repair(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_over(tmp_path: Path) -> None:
    """OUT may be somebody's only good copy."""
    path = tmp_path / "tools.cache"
    filled(path)
    with pytest.raises(CacheError, match="already"):
        repair(path, path)


def test_the_commands_say_what_they_found(tmp_path: Path) -> None:
    """verify fails where something is damaged; repair and migrate name the next command."""
    path, out, old = (str(tmp_path / name) for name in ("tools.cache", "saved.cache", "old.cache"))
    filled(Path(path))
    runner = CliRunner()
    fine = runner.invoke(main, ["cache", "verify", path])
    assert (fine.exit_code, "400 calls" in fine.output) == (0, True)
    change(Path(path), "UPDATE call SET value=x'00' WHERE id=4")

    broken = runner.invoke(main, ["cache", "verify", path])
    assert broken.exit_code == 1
    assert "damaged: an answer of the call" in broken.output
    assert "cacherl cache repair" in broken.output
    told = runner.invoke(main, ["cache", "verify", path, "--json"])
    assert told.exit_code == 1
    assert len(msgspec.json.decode(told.stdout)["problems"]) == 1
    saved = runner.invoke(main, ["cache", "repair", path, out])
    assert saved.exit_code == 0
    assert "lost: an answer of the call" in saved.output

    old_file(Path(old), 5)
    moved = runner.invoke(main, ["cache", "migrate", old])
    assert moved.exit_code == 0
    assert f"{old}.v1.bak" in moved.output
    again = runner.invoke(main, ["cache", "migrate", old])
    assert "nothing to do" in again.output
    assert runner.invoke(main, ["cache", "migrate", old, "--json"]).exit_code == 0
