"""Clean-ups: what a rule names goes, nothing else, and all of it or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cacherl.cache.storage.entry import Observation
from cacherl.cache.storage.sqlite import SqliteStore
from cacherl.cache.storage.store import CacheStore
from cacherl.cache.upkeep.cleaning import Collected, GcRules, gc
from cacherl.cache.upkeep.merge import merge_store
from cacherl.core.errors import CacheError, RecipeError
from cacherl.core.tasks import Split
from cacherl.core.tools import ErrorClass, Source
from tests.cache.caches import Breaking, built, entry, exported, texts
from tests.cache.recordings import SPACE, recorded, seen


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


def test_a_calibration_goes_with_what_it_was_of(mixed: SqliteStore) -> None:
    """It was measured on recordings of which some are no longer there."""
    mixed.put_note("calibration", b"1")
    mixed.put_note("settings", b"{}")
    rules = GcRules(transient=True)

    assert not swept(mixed, tools=frozenset({"nobody"})).calibration_dropped
    assert gc(mixed, rules, now=1000.0, apply=False).calibration_dropped
    assert mixed.note("calibration") == b"1"
    assert gc(mixed, rules, now=1000.0, apply=True).calibration_dropped
    assert mixed.notes() == ("settings",)
    assert not swept(mixed, splits=frozenset({Split.TEST})).calibration_dropped


def test_a_clean_up_without_a_condition_is_refused(mixed: SqliteStore) -> None:
    """It would drop everything."""
    with pytest.raises(RecipeError, match="--split"):
        swept(mixed)


def test_a_clean_up_that_fails_leaves_everything_as_it_was(tmp_path: Path) -> None:
    """One transaction: a full disk must not cost what was to stay."""
    store = Breaking()
    store.absorb(entry(recorded(), seen("x"), seen("y")))
    store.put_note("calibration", b"1")
    before = exported(store, tmp_path)
    store.fails = True

    with pytest.raises(CacheError, match="disk is full"):
        gc(store, GcRules(beyond=1), now=0.0, apply=True)

    assert exported(store, tmp_path) == before
