"""ACEBench's calls as text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacherl.core.messages import ToolCall
from cacherl.suites.acebench.written import as_milestone, as_python, calls_in

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)
CALLS = st.lists(
    st.builds(
        lambda name, arguments: ToolCall(id="c", name=name, arguments=arguments),
        st.sampled_from(["send", "add_reminder", "Api.call"]),
        st.dictionaries(st.sampled_from(["title", "time", "items"]), JSON, max_size=3),
    ),
    min_size=1,
    max_size=3,
)


@given(CALLS)
def test_calls_written_as_python_are_read_back(calls: list[ToolCall]) -> None:
    """The answer that is judged must be the answer that was given."""
    assert calls_in(as_python(calls)) == [(call.name, call.arguments) for call in calls]


def test_milestones_are_written_as_acebench_writes_them() -> None:
    """One quote or space of difference and the official process accuracy is zero."""
    call = ToolCall(
        id="c",
        name="add_food_delivery_order",
        arguments={"username": "Eve", "items": [{"product": "Tea", "quantity": 1}], "rush": True},
    )

    assert as_milestone([call]) == (
        "[add_food_delivery_order(username='Eve', items=[{'product': 'Tea', 'quantity': 1}], rush=True)]"
    )


def test_a_milestone_that_is_no_python_keeps_its_texts() -> None:
    """Apostrophes in single quotes occur in 14 of ACEBench's English milestones."""
    written = "[add_reminder(title='Today's spending', description='It's 5, or so', count=3)]"

    assert calls_in(written, ["title", "description", "count"]) == [
        ("add_reminder", {"title": "Today's spending", "description": "It's 5, or so", "count": 3})
    ]
    assert (
        as_milestone(
            [
                ToolCall(id="c", name=name, arguments=args)
                for name, args in calls_in(written, ["title", "description", "count"])
            ]
        )
        == written
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "[",
        "[1, 2]",
        "finish conversation",
        '["Missing necessary parameters"]',
        "f(" * 500,
    ],
)
def test_what_is_no_call_is_said_to_be_none(text: str) -> None:
    """A sentence must never pass for a call."""
    with pytest.raises(ValueError, match="no"):
        calls_in(text)


def test_nothing_of_a_text_is_ever_run() -> None:
    """ACEBench evaluates what a model writes; we read it."""
    [(name, arguments)] = calls_in(
        "[f(a=__import__('os').getcwd(), b=1 + 1, c=open('x', mode='w'))]"
    )

    assert name == "f"
    assert arguments == {
        "a": "__import__('os').getcwd()",
        "b": "1 + 1",
        "c": {"open": {"mode": "w"}},
    }
