"""What counts as the same answer decides every fidelity: it must be symmetric, bounded and ordered."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacherl.cache.lookup.settings import Compare
from cacherl.cache.storage.entry import Observation
from cacherl.cache.trust.compare import agreement, differing_paths
from cacherl.core.tools import ErrorClass
from tests.cache.recordings import seen

NAMES = st.sampled_from(["id", "rank", "items", "a b", ""])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
RESULTS = st.builds(json.dumps, VALUES) | st.text(max_size=5)
VOLATILE = st.lists(st.sampled_from(["rank", "items[].rank", "items", "[].id", "[]"]), max_size=2)


def said(value: Any) -> Observation:
    return seen(json.dumps(value))


@given(RESULTS, RESULTS, VOLATILE)
def test_every_comparator_is_symmetric_bounded_and_no_stricter_than_the_one_before(
    one: str, other: str, volatile: list[str]
) -> None:
    """A calibration by JSON can only find more agreement than one by bytes."""
    ladder = []
    for compare in Compare:
        there = agreement(seen(one), seen(other), compare, volatile)
        assert there == agreement(seen(other), seen(one), compare, volatile)
        assert agreement(seen(one), seen(one), compare, volatile) == 1.0
        assert 0.0 <= there <= 1.0
        ladder.append(there)
    assert ladder == sorted(ladder)
    assert set(ladder[:2]) <= {0.0, 1.0}


@given(VALUES, VALUES, VALUES)
def test_what_stands_at_a_volatile_path_never_matters(kept: Any, one: Any, other: Any) -> None:
    """A time stamp in every answer would otherwise call every tool a liar."""
    results = [
        said({"kept": kept, "at": at, "rows": [{"rank": at, "n": 1}, kept]}) for at in (one, other)
    ]

    for compare in (Compare.JSON, Compare.FIELDS):
        assert agreement(results[0], results[1], compare, ("at", "rows[].rank")) == 1.0


@pytest.mark.parametrize(
    ("one", "other", "compare", "same"),
    [
        ({"a": 1, "b": 2}, {"b": 2.0, "a": 1}, Compare.JSON, 1.0),
        ({"a": 1}, {"a": True}, Compare.JSON, 0.0),
        ({"n": 2**70}, {"n": 2**70 + 1}, Compare.JSON, 0.0),
        ({"a": 1, "b": 2}, {"a": 1, "b": 3}, Compare.FIELDS, 0.5),
        ({"rows": [1, 2, 3]}, {"rows": [1, 2, 3, 4]}, Compare.FIELDS, 6 / 7),
        ({}, {"a": 1}, Compare.FIELDS, 0.0),
        ([], {}, Compare.FIELDS, 0.0),
        ({"a": [1, 1]}, {"a": [1]}, Compare.FIELDS, 2 / 3),
    ],
)
def test_values_are_compared_as_json(one: Any, other: Any, compare: Compare, same: float) -> None:
    """Order of members and the spelling of numbers say nothing; digits do."""
    assert agreement(said(one), said(other), compare) == pytest.approx(same)


@pytest.mark.parametrize("compare", list(Compare))
def test_a_failure_never_equals_a_success(compare: Compare) -> None:
    """The same words mean another thing where the tool failed."""
    failed = seen("{}", error=ErrorClass.NOT_FOUND)

    assert agreement(seen("{}"), failed, compare) == 0.0
    assert agreement(failed, failed, compare) == 1.0


@pytest.mark.parametrize("compare", list(Compare))
def test_results_nested_past_recursion_are_equal_only_as_texts(compare: Compare) -> None:
    """A tool that answers with 100,000 brackets must not end a calibration."""
    deep, deeper = "[" * 100_000 + "]" * 100_000, "[" * 100_001 + "]" * 100_001

    assert agreement(seen(deep), seen(deep), compare) == 1.0
    assert agreement(seen(deep), seen(deeper), compare) == 0.0
    assert differing_paths(seen(deep), seen(deeper)) == ("$",)


def test_differences_are_named_by_path() -> None:
    """Whoever has to declare volatile paths should be able to copy them."""
    one = said({"at": 1, "rows": [{"rank": 1, "id": 7}]})
    other = said({"at": 2, "rows": [{"rank": 2, "id": 7}]})

    assert differing_paths(one, other) == ("at", "rows[].rank")
    assert differing_paths(one, seen("plain")) == ("$",)
    assert differing_paths(said(1), said(2)) == ("$",)
