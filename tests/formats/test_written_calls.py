"""Calls written into text: what is one, what is not, and what was meant as one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacherl.core.messages import MalformedCall, ToolCall
from cacherl.formats.written_calls import bracketed, glaive, tagged, thought_apart
from cacherl.formats.written_values import literal, values_in


def called(turn: Any) -> list[tuple[str, dict[str, Any]]]:
    return [(c.name, c.arguments) for c in turn.calls if isinstance(c, ToolCall)]


def test_brackets_hold_names_with_spaces_and_nested_values() -> None:
    """ToolACE's calls look like Python and are none: names hold spaces, dots and slashes."""
    turn = bracketed(
        """[Get Weather(city="Oslo, (N]", days=2), v1/a.b(x={'k': [1, true, None]}, y=-0.5), now()]"""
    )

    assert turn.content == ""
    assert called(turn) == [
        ("Get Weather", {"city": "Oslo, (N]", "days": 2}),
        ("v1/a.b", {"x": {"k": [1, True, None]}, "y": -0.5}),
        ("now", {}),
    ]


@pytest.mark.parametrize(
    "text",
    ["[1] is a footnote", '["a", "b"]', "[see below] f(x)", "[]", "no brackets", "[a(b) and"],
)
def test_text_that_begins_with_a_bracket_may_be_no_call(text: str) -> None:
    """Only a list of calls is one; the last of these is meant as one and does not end."""
    turn = bracketed(text)

    assert not called(turn)
    assert [c.text for c in turn.calls if isinstance(c, MalformedCall)] in ([], ["[a(b) and"])
    assert turn.content == ("" if turn.calls else text)


def test_a_declared_name_may_hold_brackets() -> None:
    """Only the list of tools says where such a name ends."""
    assert called(bracketed("[Plan (v2)(days=1)]", ["Plan", "Plan (v2)"])) == [
        ("Plan (v2)", {"days": 1})
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[f(a=open("x"))]', "no literal but Call"),
        ("[f(a=b'x')]", "no literal"),
        ("[f(a=1]", "closes what was not opened"),
        ("[f(1)]", "name=value"),
        ("[f(a=1) g()]", "should end"),
    ],
)
def test_what_is_no_literal_is_never_run(text: str, problem: str) -> None:
    """A data set is other people's text: nothing of it is executed, and a broken call stays a call."""
    (call,) = bracketed(text).calls

    assert isinstance(call, MalformedCall)
    assert problem in call.problem


def test_tags_hold_json_or_pythons_way_of_it() -> None:
    """Hermes rows mix both; one block may lack its end."""
    turn = tagged(
        '<think>which?</think>Let me see.\n<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
        "<tool_call>{'name': 'g', 'arguments': {'who': \"O'Hara\", 'on': True}}</tool_call>"
        "<tool_call>{'arguments': {}, 'name': 'h'}"
    )

    assert (turn.thinking, turn.content) == ("which?", "Let me see.")
    assert called(turn) == [("f", {"a": 1}), ("g", {"who": "O'Hara", "on": True}), ("h", {})]


def test_a_call_inside_thinking_is_none() -> None:
    """A model that plans a call has not made it."""
    turn = tagged("<think>maybe <tool_call>{}</tool_call></think>No.")

    assert (turn.calls, turn.content) == ((), "No.")
    assert thought_apart("plan</think>\n\nDone.") == ("plan", "Done.")
    assert thought_apart("<scratch_pad>plan</scratch_pad>Done.") == ("plan", "Done.")
    assert thought_apart("<think>never closed") == ("never closed", "")


@pytest.mark.parametrize(
    ("written", "arguments"),
    [
        ("""'{"who": "O'Hara"}'""", {"who": "O'Hara"}),
        ("""'{"who": "O\\'Hara"}'""", {"who": "O'Hara"}),
        ('{"n": 1}', {"n": 1}),
        ("'{}'", {}),
        ("""'{"a": "say \\"hi\\"", "b": {"c": [1]}}'""", {"a": 'say "hi"', "b": {"c": [1]}}),
    ],
)
def test_glaives_arguments_stand_in_single_quotes(written: str, arguments: dict[str, Any]) -> None:
    """Nothing escapes an apostrophe inside them, so no JSON or Python parser reads such a call."""
    turn = glaive(f'Sure. <functioncall> {{"name": "f", "arguments": {written}}} ')

    assert turn.content == "Sure."
    assert called(turn) == [("f", arguments)]


def test_a_broken_glaive_call_keeps_its_text() -> None:
    """The response that follows must still find the call it answers."""
    (call,) = glaive('<functioncall> {"name": "f", "arguments": \'{"a": }\'}').calls

    assert isinstance(call, MalformedCall)
    assert call.problem.startswith("arguments:")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(VALUES)
def test_a_value_is_read_back_however_it_was_written(value: Any) -> None:
    """JSON and Python's `repr` of one value are one value."""
    assert literal(json.dumps(value)) == value
    assert literal(repr(value)) == value


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), VALUES, max_size=3))
def test_bracket_calls_are_read_back(arguments: dict[str, Any]) -> None:
    """Whatever quotes and brackets stand inside the values."""
    inner = ", ".join(f"{name}={value!r}" for name, value in arguments.items())

    assert called(bracketed(f"[Some Tool({inner}), b()]")) == [("Some Tool", arguments), ("b", {})]


@given(st.text(alphabet="[](){}'\",=: \\abn1<>/tool_call\n", max_size=60))
def test_no_text_breaks_a_reader(text: str) -> None:
    """Whatever a model wrote is a turn: text, calls or malformed calls."""
    for reader in (bracketed, tagged, glaive):
        for each in (text, f"[f({text})]", f"<tool_call>{text}", f"<functioncall>{text}"):
            reader(each)
    list(values_in(text))
