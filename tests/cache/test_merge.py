"""Recordings of several caches in one: nothing is lost, and nobody's order is seen in it."""

from __future__ import annotations

import itertools
import random
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from cacherl.cache.storage.entry import MAX_DISTINCT, CacheEntry, Kept, Observation
from cacherl.cache.storage.portable import export
from cacherl.cache.storage.sqlite import SqliteStore
from cacherl.cache.storage.store import MemoryStore
from cacherl.cache.upkeep.merge import import_file, merge, merge_store
from cacherl.core.errors import CacheError, DataError
from cacherl.core.tasks import Split
from cacherl.core.tools import Source, ToolSpec
from tests.cache.caches import built, calibration, contents, entry, exported, file_with, numbers
from tests.cache.recordings import GET, SPACE, recorded, seen

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


def note_of(path: Path, name: str = "calibration") -> bytes | None:
    store = SqliteStore(path)
    try:
        return store.note(name)
    finally:
        store.close()


def test_a_calibration_does_not_outlive_the_recordings_that_it_is_of(tmp_path: Path) -> None:
    """A stated fidelity that nobody measured on these recordings is worse than none."""
    one, two = (entry(recorded(b'{"n":%d}' % n), seen("x")) for n in range(2))
    calibrated = file_with(tmp_path / "a.sqlite", one, notes={"calibration": calibration()})
    more = file_with(tmp_path / "b.sqlite", one, two)
    again = file_with(tmp_path / "c.sqlite", entry(one.call, seen("x")))

    assert not merge(calibrated, [str(again)]).calibration_dropped
    assert note_of(calibrated) == calibration()
    both = tmp_path / "both.sqlite"
    assert merge(both, [str(more), str(calibrated)]).calibration_dropped
    assert note_of(both) is None
    assert merge(calibrated, [str(more)]).calibration_dropped
    assert note_of(calibrated) is None
    assert not merge(calibrated, [str(more)]).calibration_dropped


def test_a_calibration_of_all_that_was_merged_stays(tmp_path: Path) -> None:
    """An import into a new cache is the cache that was exported; a part adds nothing to the whole."""
    one, two = (entry(recorded(b'{"n":%d}' % n), seen("x")) for n in range(2))
    part = file_with(tmp_path / "part.sqlite", one, notes={"calibration": calibration(9)})
    whole = file_with(tmp_path / "whole.sqlite", one, two, notes={"calibration": calibration(1)})

    for order in ([part, whole], [whole, part], [whole, part, whole]):
        out = tmp_path / f"out{next(numbers)}.sqlite"
        assert not merge(out, [str(path) for path in order]).calibration_dropped
        assert note_of(out) == calibration(1)
    store = SqliteStore(whole)
    export(store, tmp_path / "whole.jsonl")
    store.close()
    assert not import_file(
        tmp_path / "whole.jsonl", str(tmp_path / "new.sqlite")
    ).calibration_dropped
    assert note_of(tmp_path / "new.sqlite") == calibration(1)


def test_an_answer_seen_once_more_makes_a_calibration_untrue(tmp_path: Path) -> None:
    """How often an answer was seen is part of what was calibrated."""
    once = file_with(
        tmp_path / "a.sqlite", entry(recorded(), seen("x")), notes={"calibration": calibration()}
    )
    other = file_with(tmp_path / "b.sqlite", entry(recorded(), seen("x", scenario="s2")))

    assert merge(once, [str(other)]).calibration_dropped
    assert note_of(once) is None


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
    for number in range(1200):
        store.absorb(entry(recorded(b'{"n":%d}' % number), seen("x")))
    export(store, tmp_path / "a.jsonl")
    lines = (tmp_path / "a.jsonl").read_bytes().splitlines(keepends=True)
    lines[-3] = lines[-3].replace(b'"text":"x"', b'"text":"y"')
    (tmp_path / "a.jsonl").write_bytes(b"".join(lines))

    with pytest.raises(DataError, match=r"a\.jsonl:1200"):
        merge(tmp_path / "out.sqlite", [str(tmp_path / "a.jsonl")])
    assert list(SqliteStore(tmp_path / "out.sqlite").entries()) == []
    for missing in ("no.sqlite", "no.jsonl"):
        with pytest.raises((CacheError, DataError), match=missing):
            merge(tmp_path / "new.sqlite", [str(tmp_path / missing)])
    assert not (tmp_path / "new.sqlite").exists()


_KILLED = """
import sys, time
from pathlib import Path
from cacherl.cache.storage.sqlite import SqliteStore
from cacherl.cache.upkeep.merge import merge_store

class Slow(SqliteStore):
    def entries(self):
        for number, entry in enumerate(super().entries()):
            if number == 1500:
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
        for number in range(2200)
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
    assert len(kept) == 1001

    found = merge(out, [str(source)])
    assert (found.calls, found.new) == (2200, 1200)
    straight = file_with(tmp_path / "straight.sqlite", before, *many)
    assert contents(out) == contents(straight)
