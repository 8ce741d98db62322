"""Recordings moved to new rules: they end where lookups look, and never come to lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from cacherl.cache.lookup.settings import Settings, ToolRules
from cacherl.cache.lookup.tool_cache import ToolCache
from cacherl.cache.storage.entry import CacheEntry, Observation, RecordedCall
from cacherl.cache.storage.portable import export
from cacherl.cache.storage.sqlite import SqliteStore
from cacherl.cache.storage.store import CacheStore, MemoryStore
from cacherl.cache.upkeep.merge import import_file, merge_store
from cacherl.cache.upkeep.rekey import rekey
from cacherl.core.errors import CacheError
from cacherl.core.tasks import Split
from cacherl.core.tools import Effects, ErrorClass, Tier, ToolSpec
from tests.cache.caches import Breaking, entry, exported, texts
from tests.cache.recordings import (
    CANCEL,
    GET,
    SPACE,
    SPECS,
    call,
    recorded,
    result,
    seen,
    task,
    trajectory,
)

TAGS = ToolSpec(
    name="tagged",
    description="",
    parameters={
        "type": "object",
        "properties": {"tags": {"type": "array"}, "trace": {"type": "string"}},
    },
    effects=Effects(reads=("article:*",)),
)
UNORDERED = Settings(tools={"tagged": ToolRules(unordered=("tags",))})
VOLATILE = Settings(tools={"tagged": ToolRules(kinds={"trace": "volatile"})})
CODE = Settings(tools={"tagged": ToolRules(kinds={"trace": "code"})})


def record(
    store: CacheStore, settings: Settings, spec: ToolSpec, *asked: dict[str, Any], text: str = "r"
) -> None:
    cache = ToolCache(store, settings=settings, clock=lambda: 5.0)
    for arguments in asked:
        made = call(spec, **arguments)
        cache.record(SPACE, spec, made, result(made, text), scenario="s1", split=Split.TRAIN)


def tier(store: CacheStore, settings: Settings, spec: ToolSpec, **arguments: Any) -> Tier:
    return ToolCache(store, settings=settings).lookup(SPACE, spec, arguments).tier


def test_recordings_follow_new_settings_and_are_found_by_them() -> None:
    """Said once that tags are a set, old recordings answer for every order of them."""
    store = MemoryStore()
    record(store, Settings(), TAGS, {"tags": ["b", "a"]}, {"tags": ["a", "b"]}, {"tags": ["c"]})
    assert tier(store, UNORDERED, TAGS, tags=["b", "a"]) is Tier.EXACT
    store = MemoryStore()
    record(store, Settings(), TAGS, {"tags": ["b", "a"]}, {"tags": ["c"]})
    assert tier(store, UNORDERED, TAGS, tags=["a", "b"]) is not Tier.EXACT

    found = rekey(store, settings=UNORDERED)

    assert (found.calls, found.moved, found.merged) == (2, 1, 0)
    assert tier(store, UNORDERED, TAGS, tags=["a", "b"]) is Tier.EXACT
    assert store.note("settings") == msgspec.json.encode(UNORDERED)
    assert rekey(store).moved == 0


def test_calls_that_become_one_are_joined_and_calls_that_become_several_are_parted() -> None:
    """What was dropped from a key is still known from the arguments as they were asked."""
    asked = [{"tags": [], "trace": "x1"}, {"tags": [], "trace": "x2"}]
    store = MemoryStore()
    record(store, Settings(), TAGS, asked[0], text="one")
    record(store, Settings(), TAGS, asked[1], text="two")

    joined = rekey(store, settings=VOLATILE)

    assert (joined.moved, joined.merged) == (2, 1)
    assert [len(each.kept) for each in store.entries()] == [2]
    parted = rekey(store, settings=Settings())
    assert (parted.moved, parted.split) == (1, 1)
    assert [len(each.kept) for each in store.entries()] == [1, 1]
    assert tier(store, Settings(), TAGS, **asked[1]) is Tier.EXACT


ASKED = st.fixed_dictionaries(
    {},
    optional={
        "tags": st.lists(st.sampled_from(["a", "b", 1.0]), max_size=3),
        "trace": st.sampled_from(["x", " x", "x  y", "x y"]),
    },
)
ANY_SETTINGS = st.sampled_from([Settings(), UNORDERED, VOLATILE, CODE])


@examples(max_examples=80, deadline=None)
@given(st.lists(ASKED, max_size=5), ANY_SETTINGS, ANY_SETTINGS, ANY_SETTINGS)
def test_a_moved_cache_is_the_cache_that_would_have_been_recorded(
    asked: list[dict[str, Any]], first: Settings, second: Settings, third: Settings
) -> None:
    """Through any number of changes of mind, answers end where lookups look."""
    moved, fresh = MemoryStore(), MemoryStore()
    for number, arguments in enumerate(asked):
        record(moved, first, TAGS, arguments, text=f"answer {number}")
        record(fresh, third, TAGS, arguments, text=f"answer {number}")
    moved.put_tool(SPACE, TAGS)
    moved.put_note("settings", msgspec.json.encode(first))

    rekey(moved, settings=second)
    rekey(moved, settings=third)

    assert known(moved) == known(fresh)
    assert rekey(moved, settings=third).moved == 0


def known(store: CacheStore) -> dict[RecordedCall, set[str]]:
    return {each.call: {kept.observation.text for kept in each.kept} for each in store.entries()}


def test_a_refusal_of_what_is_now_mended_is_dropped() -> None:
    """The tool refused "10"; now that "10" means 10, its refusal must not answer for 10."""
    loose = ToolSpec(
        name="pick",
        description="",
        parameters={"type": "object", "properties": {"n": {}}},
        effects=Effects(reads=("article:*",)),
    )
    strict = msgspec.structs.replace(
        loose, parameters={"type": "object", "properties": {"n": {"type": "integer"}}}
    )
    store = MemoryStore()
    made = call(loose, n="10")
    ToolCache(store).record(
        SPACE,
        loose,
        made,
        result(made, "n is no integer", ErrorClass.VALIDATION),
        scenario="s1",
        split=Split.TRAIN,
    )
    store.put_tool(SPACE, strict)

    found = rekey(store)

    assert found.refusals_dropped == 1
    assert list(store.entries()) == []


NOTED = ToolSpec(
    name="annotate",
    description="",
    parameters={
        "type": "object",
        "properties": {
            "order_id": {"type": "string", "x-kind": "id"},
            "labels": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["order_id"],
    },
    effects=Effects(reads=("order:{order_id}",), writes=("order:{order_id}",)),
)
LABELS = Settings(tools={"annotate": ToolRules(unordered=("labels",))})


def read_after_write(store: CacheStore, labels: list[str]) -> bytes:
    """Record a read, a write and a read; return the state key of the second read."""
    write = call(NOTED, order_id="A", labels=labels)
    read = call(GET, order_id="A")
    cache = ToolCache(store, settings=Settings(), clock=lambda: 5.0)
    cache.record_trajectory(
        task(tools=(*SPECS, NOTED)),
        trajectory(
            (read, result(read, "before")),
            (write, result(write, "done")),
            (read, result(read, "after")),
        ),
    )
    return next(
        each.call.state for each in store.entries() if each.kept[0].observation.text == "after"
    )


def reads(store: CacheStore, state: bytes) -> Tier:
    return ToolCache(store).lookup(SPACE, GET, {"order_id": "A"}, state_key=state).tier


def test_states_stay_where_no_write_changed_its_form() -> None:
    """A rule for another tool, or for values that were not written, costs no EXACT answer."""
    store = MemoryStore()
    state = read_after_write(store, ["a", "b"])

    found = rekey(store, settings=LABELS)

    assert (found.states_kept, found.states_lost, found.writers_changed) == (1, 0, ())
    assert reads(store, state) is Tier.EXACT


def test_a_state_behind_a_write_that_changed_its_form_answers_no_longer_exactly() -> None:
    """The state key holds the write's old form: under the new rules it would stand for another write."""
    store = MemoryStore()
    state = read_after_write(store, ["b", "a"])
    assert reads(store, state) is Tier.EXACT

    found = rekey(store, settings=LABELS)

    assert found.states_lost == 1
    assert found.writers_changed == (f"{SPACE}/annotate",)
    assert reads(store, state) is Tier.BEST_EFFORT
    assert reads(store, b"") is Tier.EXACT  # before the write nothing changed
    again = rekey(store)
    assert (again.moved, again.states_lost, again.states_kept) == (0, 0, 1)


def test_states_that_the_environment_told_are_kept_on_demand() -> None:
    """A fingerprint of the world does not depend on how calls are spelled."""
    store = MemoryStore()
    state = read_after_write(store, ["b", "a"])

    found = rekey(store, settings=LABELS, keep_states=True)

    assert (found.states_kept, found.states_lost) == (1, 0)
    assert reads(store, state) is Tier.EXACT


def test_a_call_that_now_names_other_resources_may_have_missed_a_write() -> None:
    """`A  1` and `A 1` are one order now: what was read before a write may have been read after it."""
    code = Settings(tools={"get_order": ToolRules(kinds={"order_id": "code"})})
    entity = Settings(tools={"get_order": ToolRules(kinds={"order_id": "entity"})})
    store = MemoryStore()
    cache = ToolCache(store, settings=code, clock=lambda: 5.0)
    write, read = call(CANCEL, order_id="A 1"), call(GET, order_id="A  1")
    cache.record_trajectory(
        task(), trajectory((write, result(write, "done")), (read, result(read, "cancelled")))
    )
    store.put_tool(SPACE, GET)
    store.put_note("settings", msgspec.json.encode(code))
    assert cache.lookup(SPACE, GET, {"order_id": "A  1"}).tier is Tier.EXACT

    found = rekey(store, settings=entity)

    assert found.states_lost == 1
    after = ToolCache(store).lookup(SPACE, GET, {"order_id": "A 1"})
    assert after.tier is Tier.BEST_EFFORT
    assert not after.state_matched


def test_settings_that_change_effects_are_refused() -> None:
    """Which writes touch a read stands in the trajectories alone."""
    store = MemoryStore()
    read_after_write(store, ["a"])
    effects = Settings(tools={"get_order": ToolRules(reads=("*",))})

    with pytest.raises(CacheError, match=r"get_order.*--keep-states"):
        rekey(store, settings=effects)
    assert store.note("settings") is None
    assert rekey(store, settings=effects, keep_states=True).moved == 0


def old_entry(canonical: bytes, observation: Observation, state: bytes = b"") -> CacheEntry:
    """An entry whose key was made under rules c0."""
    of = RecordedCall.of(SPACE, "get_order", canonical, state)
    key = bytes(byte ^ 0xFF for byte in of.key)
    return entry(msgspec.structs.replace(of, key=key), observation)


def test_recordings_of_an_older_version_are_brought_along(tmp_path: Path) -> None:
    """A new version of the rules must not cost the recordings made under the last."""
    store = SqliteStore(tmp_path / "a.sqlite", mode="write")
    store.put_tool(SPACE, GET)
    store.keep_whole("c0", old_entry(b'{"order_id":"A"}', seen("a")))
    store.keep_whole("c0", old_entry(b'{"order_id":"B"}', seen("b"), state=b"0123456789abcdef"))
    store.add(recorded(b'{"order_id":"A"}'), seen("a again"))
    assert export(store, tmp_path / "a.jsonl").left_out == 0
    assert merge_store(MemoryStore(), store).left_out == 2

    planned = rekey(store, apply=False)
    found = rekey(store)

    assert (found.calls, found.older, found.moved, found.merged) == (3, 2, 2, 1)
    assert msgspec.structs.replace(planned, applied=True) == found
    assert store.stale() == 0
    assert texts(store) == {"a", "b", "a again"}
    assert (found.states_kept, found.states_lost) == (1, 0)
    assert rekey(store).moved == 0
    store.close()


def test_a_move_that_fails_leaves_everything_as_it_was(tmp_path: Path) -> None:
    """One transaction: no recording is ever in neither place."""
    store = Breaking()
    record(store, Settings(), TAGS, {"tags": ["b", "a"]}, {"tags": ["c"]})
    before = exported(store, tmp_path)
    store.fails = True

    with pytest.raises(CacheError, match="disk is full"):
        rekey(store, settings=UNORDERED)

    assert exported(store, tmp_path) == before


def test_a_calibration_goes_where_calls_moved() -> None:
    """It says how well calls are answered that now stand elsewhere."""
    store = MemoryStore()
    record(store, Settings(), TAGS, {"tags": ["b", "a"]})
    store.put_note("calibration", b"1")

    assert not rekey(store).calibration_dropped
    assert rekey(store, settings=UNORDERED, apply=False).calibration_dropped
    assert store.note("calibration") == b"1"
    assert rekey(store, settings=UNORDERED).calibration_dropped
    assert "settings" in store.notes()
    assert "calibration" not in store.notes()


def test_a_dry_run_of_a_move_changes_nothing(tmp_path: Path) -> None:
    """Somebody wants to know how much a rule would move before it does."""
    store = MemoryStore()
    record(store, Settings(), TAGS, {"tags": ["b", "a"]}, {"tags": ["a", "b"]}, {"tags": ["c"]})
    before = exported(store, tmp_path)

    planned = rekey(store, settings=UNORDERED, apply=False)

    assert exported(store, tmp_path) == before
    assert msgspec.structs.replace(planned, applied=True) == rekey(store, settings=UNORDERED)


def test_an_export_of_older_rules_is_imported_under_todays(tmp_path: Path) -> None:
    """Exports are for keeping: they outlive the rules that they were made under."""
    store = MemoryStore()
    store.put_tool(SPACE, TAGS)
    store.absorb(entry(RecordedCall.of(SPACE, "tagged", b'{"trace":"x  y"}', b""), seen("kept")))
    export(store, tmp_path / "new.jsonl")
    lines = (tmp_path / "new.jsonl").read_bytes().splitlines(keepends=True)
    older = resigned(lines, "c0")
    (tmp_path / "old.jsonl").write_bytes(older)

    import_file(tmp_path / "old.jsonl", str(tmp_path / "out.sqlite"))

    out = SqliteStore(tmp_path / "out.sqlite")
    assert [each.call.canonical for each in out.entries()] == [b'{"trace":"x y"}']
    assert tier(out, Settings(), TAGS, trace="x y") is Tier.EXACT
    out.close()


def resigned(lines: list[bytes], canon: str) -> bytes:
    """Return an export as another version of the rules would have written it."""
    from cacherl.cache.storage import portable
    from cacherl.core.jsonl import encode_line

    tally = portable._Tally()
    out = b""
    for number, line in enumerate(lines[:-1]):
        record = portable._decoded(line, "here")
        if number == 0:
            record = portable.Header(format=portable.FORMAT, canon=canon)
        said = encode_line(record)
        tally.add(record, said)
        out += said
    return out + encode_line(tally.end())
