"""BFCL's checks, in its own odd corners."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacherl.core.errors import DataError
from cacherl.core.messages import Call, MalformedCall, ToolCall
from cacherl.core.tools import ToolSpec
from cacherl.metrics import (
    AcceptedCall,
    accepted_call,
    answer_found,
    ast_problem,
    missing_results,
    public_attributes,
    state_difference,
    turn_problem,
)


class Folder:
    """A backend that compares itself, as the file system's folders do."""

    def __init__(self, name: str, files: list[str]) -> None:
        self.name = name
        self.files = files
        self._seen = 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Folder) and (self.name, self.files) == (other.name, other.files)

    __hash__ = None  # type: ignore[assignment]


def test_private_attributes_are_nobodys_business() -> None:
    """The file system's current directory is private: being elsewhere at the end is no failure."""
    assert set(public_attributes(Folder("a", []))) == {"name", "files"}


def test_equal_states_pass_and_more_is_free() -> None:
    """Only what gold has is looked at."""
    wanted = {"Files": {"root": Folder("/", ["a"])}}

    assert state_difference({"Files": {"root": Folder("/", ["a"]), "more": 1}}, wanted) is None


def test_the_first_difference_is_told_to_the_leaf() -> None:
    """`eval show` has to say more than that something differs."""
    found = state_difference(
        {
            "Files": {"root": Folder("/", ["a", "b"])},
            "Tickets": {"queue": [{"id": 1, "open": True}]},
        },
        {
            "Files": {"root": Folder("/", ["a", "b"])},
            "Tickets": {"queue": [{"id": 1, "open": False}]},
        },
    )

    assert found is not None
    assert str(found) == "Tickets.queue[0].open is True, not False"
    other = state_difference(
        {"Files": {"root": Folder("/", ["a"])}}, {"Files": {"root": Folder("/", [])}}
    )
    assert other is not None
    assert other.path == "Files.root.files[0]"


def test_a_missing_backend_differs() -> None:
    """A model that never opened a backend did not reach its state."""
    assert str(state_difference({}, {"Car": {"doors": 1}})) == "Car.doors is absent, not 1"


results = st.lists(st.sampled_from(["a", "b", "c"]), max_size=6)


@given(results, results)
def test_results_are_a_sub_multiset(seen: list[str], wanted: list[str]) -> None:
    """Order is free and more is free, but twice is twice."""
    missing = Counter(missing_results(seen, wanted))

    assert missing == Counter(wanted) - Counter(seen)


def turn(**changes: Any) -> str | None:
    plain: dict[str, Any] = {
        "called": True,
        "seen_state": {"A": {"x": 1}},
        "wanted_state": {"A": {"x": 1}},
        "seen_results": ["earlier", "r"],
        "wanted_results": ["r"],
    }
    return turn_problem(**{**plain, **changes})


def test_a_turn_passes_by_call_state_and_response() -> None:
    """Each of the three fails it alone."""
    assert turn() is None
    assert turn(called=False) == "no call in a turn that needs one"
    assert turn(seen_state={"A": {"x": 2}}) == "state: A.x is 2, not 1"
    assert turn(seen_results=["earlier"]) == "response: nothing answered 'r'"


def test_a_turn_without_gold_calls_is_not_judged() -> None:
    """The official irrelevance check is imported there and never called: extra calls in such turns are free."""
    assert turn(wanted_results=[], seen_state={"A": {"x": 9}}) is None


# ---- single turns ----------------------------------------------------------------------------


def spec(**properties: Any) -> ToolSpec:
    return ToolSpec(
        name="f",
        description="",
        parameters={"type": "dict", "properties": properties, "required": ["x"]},
    )


def call(**arguments: Any) -> ToolCall:
    return ToolCall(id="x", name="f", arguments=arguments)


def matches(kind: Any, accepted: list[Any], value: Any, *, lenient: bool) -> bool:
    schema = kind if isinstance(kind, dict) else {"type": kind}
    want = AcceptedCall(name="f", arguments={"x": accepted})
    return ast_problem([call(x=value)], [want], {"f": spec(x=schema)}, lenient=lenient) is None


@pytest.mark.parametrize(
    ("kind", "accepted", "value", "lenient", "strict"),
    [
        ("string", ["New York, NY"], "new york ny", True, False),
        ("string", ["it's"], 'it"s', True, False),
        ("string", ["a"], "b", False, False),
        ("integer", [5], 5, True, True),
        ("integer", [5], "5", False, False),
        ("integer", [1], True, False, False),
        ("float", [5.0], 5, True, True),
        ("float", [5], 5.0, True, True),
        ("boolean", [True], True, True, True),
        ("boolean", [True], 1, False, False),
        ({"type": "array", "items": {"type": "string"}}, [["A", "b"]], ["a", "B"], True, False),
        ({"type": "array", "items": {"type": "string"}}, [["a", "b"]], ["b", "a"], False, False),
        ({"type": "array", "items": {"type": "integer"}}, [[1, 2]], [1, 2], True, True),
        ({"type": "dict"}, [{"k": [1, 2], "o": ["", 3]}], {"k": 2}, True, True),
        ({"type": "dict"}, [{"k": [1, 2], "o": [3]}], {"k": 2}, False, False),
        ({"type": "dict"}, [{"k": [1]}], {"k": 1, "z": 1}, False, False),
        # A value of another type stands for a variable where an accepted value has that type.
        ("integer", ["n"], "n", True, True),
    ],
)
def test_values_pass_as_they_do_there(
    kind: Any, accepted: list[Any], value: Any, lenient: bool, strict: bool
) -> None:
    """Lenient is the leaderboard's; strict is what a tool would say."""
    assert matches(kind, accepted, value, lenient=True) is lenient
    assert matches(kind, accepted, value, lenient=False) is strict


TWO = {"f": spec(x={"type": "integer"}, y={"type": "integer"})}


def problem(calls: list[Call], *wanted: dict[str, list[Any]]) -> str | None:
    accepted = [AcceptedCall(name="f", arguments=each) for each in wanted]
    return ast_problem(calls, accepted, TWO, lenient=True)


def test_arguments_must_be_there_known_and_no_more() -> None:
    """Each slip is named."""
    assert problem([call()], {"x": [1]}) == "f: x is missing"
    assert problem([call(x=1, z=1)], {"x": [1]}) == "f: z is not expected"
    assert problem([call(x=1, y=1)], {"x": [1]}) == "f: y is not expected"
    assert problem([call(x=1)], {"x": [1], "y": [2]}) == "f: y is missing"
    assert problem([call(x=1)], {"x": [1], "y": [2, ""]}) is None


def test_parallel_calls_come_in_any_order_and_number() -> None:
    """As many as wanted, each once."""
    assert problem([call(x=2), call(x=1)], {"x": [1]}, {"x": [2]}) is None
    assert problem([call(x=2), call(x=2)], {"x": [1]}, {"x": [2]}) == "no call is the wanted f"
    assert problem([call(x=1)], {"x": [1]}, {"x": [2]}) == "1 calls where 2 are right"


def test_what_did_not_parse_is_no_call() -> None:
    """A decoding failure fails the turn."""
    broken = MalformedCall(id="x", text="{", problem="not JSON")

    assert problem([broken], {"x": [1]}) == "no call: not JSON"


def test_a_dot_in_a_name_may_have_become_an_underscore() -> None:
    """Providers allow no dots, so suites rename tools on the way."""
    dotted = spec(x={"type": "integer"})
    want = accepted_call({"math.add": {"x": [1]}})
    made = ToolCall(id="x", name="math_add", arguments={"x": 1})

    assert ast_problem([made], [want], {"math.add": dotted}, lenient=True) is None


def test_java_types_are_refused_and_not_guessed() -> None:
    """Their values are source code, which this check does not read."""
    with pytest.raises(DataError, match=r"f\.x has the type 'HashMap'"):
        matches("HashMap", [1], 1, lenient=True)


def test_an_answer_is_found_as_whole_words() -> None:
    """12 is not 1,2,3's."""
    assert answer_found("It took 1,200 days.", ["1200"])
    assert not answer_found("It took 11,200 days.", ["1200"])
