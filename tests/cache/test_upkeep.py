"""Merging, comparing, cleaning up and moving caches: nothing is lost and nothing comes to lie."""

from __future__ import annotations

import itertools
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from cacherl.cache.canonical import canonical_json
from cacherl.cache.entry import MAX_DISTINCT, CacheEntry, Kept, Observation, RecordedCall
from cacherl.cache.portable import export
from cacherl.cache.settings import Settings, ToolRules
from cacherl.cache.sqlite import SqliteStore
from cacherl.cache.store import CacheStore, MemoryStore
from cacherl.cache.tool_cache import ToolCache
from cacherl.cache.upkeep import (
    Collected,
    GcRules,
    diff,
    diff_files,
    gc,
    import_file,
    merge,
    merge_store,
    rekey,
)
from cacherl.cli import main
from cacherl.core.errors import CacheError, DataError, RecipeError
from cacherl.core.tasks import Split
from cacherl.core.tools import Effects, ErrorClass, Source, Tier, ToolSpec
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

numbers = itertools.count()


def exported(store: CacheStore, folder: Path) -> bytes:
    path = folder / f"{next(numbers)}.jsonl"
    export(store, path)
    return path.read_bytes()


def file_with(path: Path, *entries: CacheEntry, notes: dict[str, bytes] | None = None) -> Path:
    store = SqliteStore(path, mode="write")
    with store.batch():
        for entry in entries:
            store.absorb(entry)
        for name, value in (notes or {}).items():
            store.put_note(name, value)
    store.close()
    return path


def entry(of: RecordedCall, *observations: Observation) -> CacheEntry:
    return CacheEntry(call=of, kept=tuple(Kept(observation=each, times=1) for each in observations))


def contents(path: Path) -> bytes:
    store = SqliteStore(path)
    try:
        return exported(store, path.parent)
    finally:
        store.close()


# ---- merging

OBSERVATIONS = st.builds(
    Observation,
    text=st.sampled_from("abc"),
    is_error=st.booleans(),
    source=st.sampled_from([Source.LIVE, Source.SIMULATED]),
    scenario=st.sampled_from(["s1", "s2"]),
    split=st.sampled_from(Split),
    latency_s=st.sampled_from([0.0, 0.5]),
    recorded_at=st.none() | st.sampled_from([1.0, 2.0]),
    occurrence=st.integers(0, 2),
    asked=st.none() | st.sampled_from(["{}", '{"a":1}']),
)
ENTRIES = st.builds(
    CacheEntry,
    call=st.sampled_from([recorded(b'{"n":%d}' % n) for n in range(3)]),
    kept=st.lists(
        st.builds(Kept, observation=OBSERVATIONS, times=st.integers(1, 3)), min_size=1, max_size=4
    ).map(tuple),
)
DECLARED = [
    GET,
    msgspec.structs.replace(GET, description="Returns an order."),
    ToolSpec(name="get_order", description="zzz", parameters={"type": "object"}),
]


def built(entries: list[CacheEntry], spec: ToolSpec | None, notes: dict[str, bytes]) -> MemoryStore:
    store = MemoryStore()
    if spec is not None:
        store.put_tool(SPACE, spec)
    for each in entries:
        store.absorb(each)
    for name, value in notes.items():
        store.put_note(name, value)
    return store


CACHES = st.builds(
    built,
    st.lists(ENTRIES, max_size=4),
    st.none() | st.sampled_from(DECLARED),
    st.dictionaries(
        st.sampled_from(["settings", "calibration"]), st.sampled_from([b"1", b"2"]), max_size=2
    ),
)


def joined(*stores: MemoryStore) -> MemoryStore:
    out = MemoryStore()
    for store in stores:
        merge_store(out, store)
    return out


@examples(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(CACHES, CACHES, CACHES)
def test_merging_gives_the_same_in_any_order_and_grouping_and_again(
    tmp_path: Path, a: MemoryStore, b: MemoryStore, c: MemoryStore
) -> None:
    """Nodes merge when they please: the result must not say who came first."""
    whole = exported(joined(a, b, c), tmp_path)

    assert exported(joined(c, b, a), tmp_path) == whole
    assert exported(joined(a, joined(b, c)), tmp_path) == whole
    assert exported(joined(joined(a, b), c), tmp_path) == whole
    assert exported(joined(a, b, c, a, joined(a, c)), tmp_path) == whole


def test_more_answers_than_are_kept_merge_the_same_in_any_order(tmp_path: Path) -> None:
    """Which observations of a stochastic tool stay is decided by what they say, not by who comes first."""
    files = [
        file_with(
            tmp_path / f"{name}.sqlite",
            entry(recorded(), *(seen(f"{name}{n % (n // 2 + 1)}-{n}") for n in range(50))),
        )
        for name in "abc"
    ]
    results = []
    for order in itertools.permutations(files):
        out = tmp_path / f"out{next(numbers)}.sqlite"
        merge(out, [str(path) for path in order])
        results.append(contents(out))

    assert len(set(results)) == 1
    assert results[0].count(b'"kind":"observation"') == MAX_DISTINCT


def test_caches_and_exports_of_one_content_merge_alike(tmp_path: Path) -> None:
    """What a source looks like on disk makes no difference."""
    a = file_with(tmp_path / "a.sqlite", entry(recorded(), seen("sunny")))
    b = file_with(tmp_path / "b.sqlite", entry(recorded(), seen("rain", scenario="s2")))
    store = SqliteStore(b)
    export(store, tmp_path / "b.jsonl")
    export(store, tmp_path / "b.parquet")
    store.close()

    merged = []
    for source in ("b.sqlite", "b.jsonl", "b.parquet"):
        out = tmp_path / f"out{next(numbers)}.sqlite"
        merge(out, [str(a), str(tmp_path / source)])
        merged.append(contents(out))

    assert merged[0] == merged[1] == merged[2]
    assert merged[0].count(b'"kind":"observation"') == 2


def test_a_merge_tells_what_is_new_changed_and_contradicting(tmp_path: Path) -> None:
    """Two recordings of one world that disagree are a finding, not a detail."""
    one, two, three = (recorded(b'{"n":%d}' % n) for n in range(3))
    a = file_with(tmp_path / "a.sqlite", entry(one, seen("x")), entry(two, seen("x")))
    b = file_with(
        tmp_path / "b.sqlite",
        entry(one, seen("y")),
        entry(two, seen("x"), seen("z", scenario="s2")),
        entry(three, seen("x")),
    )

    merge(tmp_path / "out.sqlite", [str(a)])
    found = merge(tmp_path / "out.sqlite", [str(b), str(tmp_path / "out.sqlite")])

    assert (found.calls, found.new, found.changed, found.conflicts) == (3, 1, 2, 1)
    assert [(each.arguments, each.ours, each.theirs) for each in found.shown] == [
        ('{"n":0}', "x", "y")
    ]
    again = merge(tmp_path / "out.sqlite", [str(a), str(b)])
    assert (again.new, again.changed, again.conflicts) == (0, 0, 0)


def test_other_declarations_and_notes_are_told_and_settled_alike(tmp_path: Path) -> None:
    """A tool's own word wins over a placeholder, and nobody is overruled in silence."""
    placeholder = ToolSpec(name="get_order", description="zzz", parameters={"type": "object"})
    for name, spec, note in (("a", GET, b"1"), ("b", placeholder, b"2")):
        store = SqliteStore(tmp_path / f"{name}.sqlite", mode="write")
        store.put_tool(SPACE, spec)
        store.put_note("remark", note)
        store.close()

    for order in ("ab", "ba"):
        out = tmp_path / f"{order}.sqlite"
        found = merge(out, [str(tmp_path / f"{name}.sqlite") for name in order])

        assert {(each.what, each.name) for each in found.disagreements} == {
            ("tool", f"{SPACE}/get_order"),
            ("note", "remark"),
        }
        store = SqliteStore(out)
        assert store.tools() == {(SPACE, "get_order"): GET}
        assert store.note("remark") == b"2"
        store.close()


def test_caches_that_were_redacted_differently_are_not_merged(tmp_path: Path) -> None:
    """The result would say that it holds no secrets, and hold some."""
    plain = file_with(tmp_path / "plain.sqlite", entry(recorded(), seen("key 123")))
    clean = file_with(
        tmp_path / "clean.sqlite", entry(recorded(), seen("<key:1>")), notes={"redaction": b"p1"}
    )
    nothing = file_with(tmp_path / "empty.sqlite")
    store = SqliteStore(plain)
    export(store, tmp_path / "plain.jsonl")
    store.close()

    for sources in ([plain, clean], [clean, plain], [clean, tmp_path / "plain.jsonl"]):
        with pytest.raises(CacheError, match="redacted by different rules"):
            merge(tmp_path / "out.sqlite", [str(path) for path in sources])
    with pytest.raises(CacheError, match="redacted by different rules"):
        import_file(tmp_path / "plain.jsonl", str(clean))
    merge(tmp_path / "other.sqlite", [str(nothing), str(clean)])
    store = SqliteStore(tmp_path / "other.sqlite")
    assert store.note("redaction") == b"p1"
    store.close()


def test_a_damaged_export_merges_nothing_and_a_missing_source_makes_no_file(
    tmp_path: Path,
) -> None:
    """Half an export is worse than none: nobody could say which half."""
    store = MemoryStore()
    for number in range(2500):
        store.absorb(entry(recorded(b'{"n":%d}' % number), seen("x")))
    export(store, tmp_path / "a.jsonl")
    lines = (tmp_path / "a.jsonl").read_bytes().splitlines(keepends=True)
    lines[-3] = lines[-3].replace(b'"text":"x"', b'"text":"y"')
    (tmp_path / "a.jsonl").write_bytes(b"".join(lines))

    with pytest.raises(DataError, match=r"a\.jsonl:2500"):
        merge(tmp_path / "out.sqlite", [str(tmp_path / "a.jsonl")])
    assert list(SqliteStore(tmp_path / "out.sqlite").entries()) == []
    for missing in ("no.sqlite", "no.jsonl"):
        with pytest.raises((CacheError, DataError), match=missing):
            merge(tmp_path / "new.sqlite", [str(tmp_path / missing)])
    assert not (tmp_path / "new.sqlite").exists()


_KILLED = """
import sys, time
from pathlib import Path
from cacherl.cache.sqlite import SqliteStore
from cacherl.cache.upkeep import merge_store

class Slow(SqliteStore):
    def entries(self):
        for number, entry in enumerate(super().entries()):
            if number == 2500:
                print("half way", flush=True)
                time.sleep(600)
            yield entry

merge_store(SqliteStore(Path(sys.argv[1]), mode="write"), Slow(Path(sys.argv[2])))
"""


def test_a_killed_merge_keeps_what_was_there_and_completes_when_run_again(tmp_path: Path) -> None:
    """kill -9 in the middle: nothing acknowledged is lost, and the second run gives the whole."""
    chance = random.Random(3)
    many = [
        entry(recorded(b'{"n":%d}' % number), seen(f"answer {chance.random()}"))
        for number in range(4000)
    ]
    source = file_with(tmp_path / "in.sqlite", *many)
    before = entry(recorded(b'{"n":"before"}'), seen("kept"))
    out = file_with(tmp_path / "out.sqlite", before)
    child = subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(out), str(source)], stdout=subprocess.PIPE
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"half way\n"
        child.send_signal(signal.SIGKILL)

    store = SqliteStore(out)
    kept = list(store.entries())
    store.close()
    assert kept[0] == before
    assert kept[1:] == many[: len(kept) - 1]
    assert len(kept) == 2001

    found = merge(out, [str(source)])
    assert (found.calls, found.new) == (4000, 2000)
    straight = file_with(tmp_path / "straight.sqlite", before, *many)
    assert contents(out) == contents(straight)


# ---- comparing


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
        DECLARED[1],
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


# ---- cleaning up


def aged(text: str, at: float | None, **rest: Any) -> Observation:
    return msgspec.structs.replace(seen(text, **rest), recorded_at=at)


@pytest.fixture
def mixed(tmp_path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(tmp_path / "mixed.sqlite", mode="write")
    simulated = msgspec.structs.replace(seen("guess"), source=Source.SIMULATED)
    for each in (
        entry(recorded(b'{"n":0}'), seen("train"), seen("test", split=Split.TEST)),
        entry(recorded(b'{"n":1}'), seen("test", split=Split.TEST)),
        entry(recorded(b'{"n":2}', tool="search"), simulated, seen("true", scenario="s2")),
        entry(recorded(b'{"n":3}'), seen("slow", error=ErrorClass.TRANSIENT)),
        entry(recorded(b'{"n":4}'), aged("old", 100.0), aged("new", 900.0)),
        entry(recorded(b'{"n":5}'), *(aged(f"draw {n}", 990.0) for n in range(10))),
    ):
        store.absorb(each)
    yield store
    store.close()


def texts(store: CacheStore) -> set[str]:
    return {kept.observation.text for each in store.entries() for kept in each.kept}


def swept(store: CacheStore, **rules: Any) -> Collected:
    return gc(store, GcRules(**rules), now=1000.0, apply=True)


def test_each_condition_drops_what_it_names_and_nothing_else(mixed: SqliteStore) -> None:
    """Deleting the wrong recordings costs live calls to make again."""
    everything = texts(mixed)

    found = swept(mixed, splits=frozenset({Split.TEST}))
    assert (found.observations, found.calls, found.reduced) == (2, 1, 1)
    assert everything - texts(mixed) == {"test"}
    assert swept(mixed, transient=True).observations == 1
    assert swept(mixed, sources=frozenset({Source.SIMULATED})).by_tool == {f"{SPACE}/search": 1}
    old = swept(mixed, older_than_s=500.0, scenarios=frozenset({"s1"}))
    assert (old.observations, old.unknown_age) == (2, 1)
    assert swept(mixed, tools=frozenset({f"{SPACE}/search"})).calls == 1
    assert texts(mixed) == {"new", *(f"draw {n}" for n in range(10))}


def test_conditions_narrow_one_another(mixed: SqliteStore) -> None:
    """`--split test --tool search` drops the held-out answers of one tool, not everything of both."""
    rules = GcRules(splits=frozenset({Split.TEST}), tools=frozenset({"search"}))

    assert gc(mixed, rules, now=1000.0, apply=True).observations == 0


def test_beyond_k_the_same_observations_stay_on_every_machine(
    mixed: SqliteStore, tmp_path: Path
) -> None:
    """Two nodes that clean up and then merge must not bring back what each dropped."""
    draws = [aged(f"draw {n}", 990.0) for n in range(10)]
    other = built([entry(recorded(b'{"n":5}'), *reversed(draws))], None, {})

    swept(mixed, beyond=3)
    swept(other, beyond=3)

    staying = sorted(draws, key=lambda each: each.content())[:3]
    assert texts(other) == {each.text for each in staying}
    assert texts(other) <= texts(mixed)
    merge_store(other, mixed)
    assert swept(other, beyond=3, tools=frozenset({"get_order"})).observations == 0


def test_a_dry_run_counts_the_same_and_changes_nothing(mixed: SqliteStore, tmp_path: Path) -> None:
    """What is deleted is decided by a person who has seen it."""
    before = exported(mixed, tmp_path)
    rules = GcRules(older_than_s=500.0)

    planned = gc(mixed, rules, now=1000.0, apply=False)

    assert exported(mixed, tmp_path) == before
    done = gc(mixed, rules, now=1000.0, apply=True)
    assert msgspec.structs.replace(planned, applied=True) == done
    assert gc(mixed, rules, now=1000.0, apply=True).observations == 0


def test_a_clean_up_without_a_condition_is_refused(mixed: SqliteStore) -> None:
    """It would drop everything."""
    with pytest.raises(RecipeError, match="--split"):
        swept(mixed)


class _Breaking(MemoryStore):
    """A store that fails in the middle of a change."""

    fails = False

    def absorb(self, entry: CacheEntry) -> bool:
        if self.fails:
            raise CacheError("the disk is full")
        return super().absorb(entry)


# ---- moving recordings to new rules

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
    store = _Breaking()
    record(store, Settings(), TAGS, {"tags": ["b", "a"]}, {"tags": ["c"]})
    store.absorb(entry(recorded(), seen("x"), seen("y")))
    before = exported(store, tmp_path)
    store.fails = True

    with pytest.raises(CacheError, match="disk is full"):
        rekey(store, settings=UNORDERED)
    with pytest.raises(CacheError, match="disk is full"):
        gc(store, GcRules(beyond=1), now=0.0, apply=True)

    assert exported(store, tmp_path) == before


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
    from cacherl.cache import portable
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


# ---- commands


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(main, ["cache", *arguments])
        assert not isinstance(done.exception, Exception) or done.exit_code, done.output
        return done.exit_code, done.output

    return run


def test_the_commands_work_together(run: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    """Export, import, merge, compare, clean up and move, as a person types it."""
    file_with(tmp_path / "a.sqlite", entry(recorded(), seen("sunny")))
    file_with(tmp_path / "b.sqlite", entry(recorded(), seen("rain")))
    (tmp_path / "cache.toml").write_text("[tools.get_order]\nunordered = ['lines']\n")

    assert run("export", "a.sqlite", "a.jsonl")[0] == 0
    assert run("import", "a.jsonl", "c.sqlite")[0] == 0
    assert run("diff", "a.sqlite", "c.sqlite", "--fail-on", "contradicting")[0] == 0
    code, said = run("diff", "a.jsonl", "b.sqlite")
    assert code == 0
    assert "1 contradicting" in said
    assert run("diff", "a.sqlite", "b.sqlite", "--fail-on", "contradicting", "--json")[0] == 1
    code, said = run("merge", "all.sqlite", "a.jsonl", "b.sqlite")
    assert "2 calls read, 1 new, 1 now better known, 1 contradicting" in said
    code, said = run("gc", "all.sqlite", "--beyond", "1")
    assert "would drop 1 observations" in said
    assert run("gc", "all.sqlite", "--beyond", "1", "--apply")[0] == 0
    code, said = run("rekey", "all.sqlite", "--settings", "cache.toml")
    assert code == 0
    assert "1 call read" in said
    assert SqliteStore(tmp_path / "all.sqlite").note("settings") is not None


@pytest.mark.parametrize(
    ("arguments", "seen_in_error"),
    [
        (["merge", "a.jsonl", "a.sqlite"], "ever written into"),
        (["merge", "out.sqlite", "no.sqlite"], "no.sqlite"),
        (["import", "a.sqlite", "out.sqlite"], "cacherl cache merge"),
        (["import", "no.jsonl", "out.sqlite"], "no.jsonl"),
        (["export", "a.sqlite", "a.csv"], ".parquet"),
        (["gc", "a.jsonl", "--transient"], "export"),
        (["gc", "no.sqlite", "--transient", "--apply"], "no.sqlite"),
        (["rekey", "a.jsonl"], "export"),
        (["diff", "a.sqlite", "no.parquet"], "no.parquet"),
    ],
)
def test_a_mistake_is_one_line_and_makes_no_file(
    run: Callable[..., tuple[int, str]], tmp_path: Path, arguments: list[str], seen_in_error: str
) -> None:
    """What was typed wrong is named, and nothing was created for it."""
    file_with(tmp_path / "a.sqlite", entry(recorded(), seen("sunny")))
    run("export", "a.sqlite", "a.jsonl")
    before = sorted(path.name for path in tmp_path.iterdir())

    code, said = run(*arguments)

    assert code in (1, 2)
    assert said.count("Error:") == 1
    assert seen_in_error in said
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_diff_of_files_reads_every_form(tmp_path: Path) -> None:
    """An export from last month is compared with today's cache without importing it first."""
    a = file_with(tmp_path / "a.sqlite", entry(recorded(canonical_json({"n": 2**70})), seen("x")))
    store = SqliteStore(a)
    export(store, tmp_path / "a.parquet")
    store.close()

    assert diff_files(str(a), str(tmp_path / "a.parquet")).same == 1
