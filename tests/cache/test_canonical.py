"""Equal values, equal bytes; different values, different bytes."""

from __future__ import annotations

from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from cacherl.cache.identity.canonical import canonical_json, decode_canonical

SAFE = 2**53 - 1
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
JCS_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-SAFE, SAFE)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
)
JCS_VALUES = st.recursive(
    JCS_SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(JCS_VALUES, JCS_VALUES)
def test_two_values_share_bytes_exactly_when_rfc_8785_says_they_are_one(a: Any, b: Any) -> None:
    """Where the standard is defined, ours draws the same line between same and different."""
    assert (canonical_json(a) == canonical_json(b)) == (rfc8785.dumps(a) == rfc8785.dumps(b))


@given(st.recursive(st.integers(-99, 99) | st.text("abc é\n\"", max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abcé", max_size=3), inner, max_size=4),
    max_leaves=12))  # fmt: skip
def test_bytes_are_rfc_8785_for_ordinary_values(value: Any) -> None:
    """People can recompute keys of ordinary calls with any JCS library."""
    assert canonical_json(value) == rfc8785.dumps(value)


@given(JCS_VALUES)
def test_decoding_and_encoding_again_changes_nothing(value: Any) -> None:
    """Keys survive being exported and read back."""
    once = canonical_json(value)

    assert canonical_json(decode_canonical(once)) == once


@given(st.integers(), st.integers())
def test_big_integers_keep_every_digit(a: int, b: int) -> None:
    """Order ids pass 2^53, where neighbours share a float."""
    a, b = a + 2**60, b + 2**60

    assert (canonical_json({"id": a}) == canonical_json({"id": b})) == (a == b)


def test_what_json_has_no_word_for_is_told_apart() -> None:
    """A model can write NaN or half a surrogate pair; neither may answer for null or for each other."""
    odd: list[Any] = [None, float("nan"), float("inf"), -float("inf"), "\ud800", "\ud801", "NaN"]
    odd += ["\\ud800", [], {}, 0, False, "", "0"]

    assert len({canonical_json({"x": value}) for value in odd}) == len(odd)
    for value in odd:
        assert canonical_json(decode_canonical(canonical_json(value))) == canonical_json(value)


@pytest.mark.parametrize("pair", [(1, 1.0), (0, -0.0), (10**16, 1e16), (-3, -3.0)])
def test_integral_floats_are_integers(pair: tuple[int, float]) -> None:
    """JSON has one kind of number; Python's two kinds are an accident of the reader."""
    assert canonical_json([pair[0]]) == canonical_json([pair[1]])


def test_true_is_not_one() -> None:
    """Python says True == 1; a tool does not."""
    assert canonical_json(True) != canonical_json(1)
