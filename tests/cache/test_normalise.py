"""When two calls of one tool are the same call."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacherl.cache.identity.normalise import Kind, Rule, plan_of
from cacherl.core.errors import DataError
from cacherl.core.records import JsonObject
from cacherl.core.schema import argument_problem
from cacherl.core.tools import Effects, ToolSpec

READ = Effects(reads=("thing:*",))


def tool(
    properties: JsonObject, *, required: tuple[str, ...] = (), effects: Effects = READ
) -> ToolSpec:
    parameters = {"type": "object", "properties": properties, "required": list(required)}
    return ToolSpec(name="tool", description="", parameters=parameters, effects=effects)


SEARCH = tool(
    {
        "query": {"type": "string", "x-kind": "text"},
        "city": {"type": "string"},
        "limit": {"type": "integer", "default": 10},
        "price": {"type": "number"},
        "sort": {"type": "string", "enum": ["price", "Date"]},
        "after": {"type": "string", "format": "date-time"},
        "tags": {"type": "array", "items": {"type": "string"}, "x-unordered": True},
        "legs": {
            "type": "array",
            "items": {"type": "object", "properties": {"n": {"type": "integer"}}},
        },
        "trace": {"type": "string", "x-kind": "volatile"},
        "nickname": {"type": ["string", "null"], "default": "Bo"},
        "sql": {"type": "string"},
    },
    required=("query",),
)
BASE: JsonObject = {"query": "red shoes"}


def canonical(arguments: JsonObject, spec: ToolSpec = SEARCH) -> bytes:
    return plan_of(spec).normal(arguments).canonical


@pytest.mark.parametrize(
    ("more", "same_as", "rule"),
    [
        ({"limit": 10}, {}, Rule.DEFAULT_FILLED),
        ({"limit": 3.0}, {"limit": 3}, Rule.INTEGRAL_FLOAT),
        ({"limit": "3"}, {"limit": 3}, Rule.NUMBER_FROM_STRING),
        ({"limit": str(2**70)}, {"limit": 2**70}, Rule.NUMBER_FROM_STRING),
        ({"price": "1e2"}, {"price": 100}, Rule.NUMBER_FROM_STRING),
        ({"city": None}, {}, Rule.NULL_DROPPED),
        ({"city": "  New   York\n"}, {"city": "New York"}, Rule.WHITE_SPACE),
        ({"city": "Orle\u0301ans"}, {"city": "Orléans"}, Rule.UNICODE_NFC),
        ({"sort": "PRICE"}, {"sort": "price"}, Rule.ENUM_CASE),
        ({"after": "2024-05-01t10:00:00.500+00:00"}, {"after": "2024-05-01T10:00:00.5Z"}, Rule.DATE_TIME_FORM),
        ({"tags": ["b", "a"]}, {"tags": ["a", "b"]}, Rule.UNORDERED_SORTED),
        ({"legs": [{"n": "1"}]}, {"legs": [{"n": 1}]}, Rule.NUMBER_FROM_STRING),
        ({"trace": "req-1"}, {"trace": "req-2"}, Rule.VOLATILE_DROPPED),
        ({"_meta": {"progressToken": 1}}, {}, Rule.VOLATILE_DROPPED),
    ],
)  # fmt: skip
def test_harmless_differences_make_no_other_call(
    more: JsonObject, same_as: JsonObject, rule: Rule
) -> None:
    """Nearly half of harmless rewrites are caught by the schema alone, and each says why."""
    written = plan_of(SEARCH).normal(BASE | more)
    plain = plan_of(SEARCH).normal(BASE | same_as)

    assert written.canonical == plain.canonical
    assert rule in {fired.rule for fired in written.fired + plain.fired}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"city": "Oslo"}, {"city": "oslo"}),
        ({"city": "Oslo"}, {}),
        ({"limit": 3}, {"limit": 4}),
        ({"limit": "03"}, {"limit": 3}),
        ({"limit": True}, {"limit": 1}),
        ({"tags": ["a"]}, {"tags": ["a", "a"]}),
        ({"legs": [{"n": 1}, {"n": 2}]}, {"legs": [{"n": 2}, {"n": 1}]}),
        ({"nickname": None}, {}),
        ({"city": "10"}, {"city": 10}),
        ({"sql": "SELECT  1"}, {"sql": "SELECT 1"}),
        ({"after": "2024-05-01T10:00:00Z"}, {"after": "2024-05-01T10:00:00+01:00"}),
        ({"unknown": 1}, {}),
        ({"other": {"_meta": 1}}, {"other": {}}),
        ({"other": "a:\n  b: 1"}, {"other": "a:\n b: 1"}),
        ({"other": "one\ntwo"}, {"other": "one two"}),
        ({"path": "a  b"}, {"path": "a b"}),
        ({"limit": "1٣"}, {"limit": 13}),
    ],
)
def test_what_the_schema_does_not_excuse_stays_another_call(
    one: JsonObject, other: JsonObject
) -> None:
    """A rule that guesses makes EXACT a lie."""
    assert canonical(BASE | one) != canonical(BASE | other)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6)
    | st.sampled_from(["10", "1e20", "-0", " x ", "PRICE", "2024-05-01T10:00:00+00:00", "e\u0301"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["n", "id", "x"]), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
ARGUMENTS = st.dictionaries(
    st.sampled_from([*SEARCH.parameters["properties"], "other", "_meta"]), VALUES, max_size=8
)


@given(ARGUMENTS)
def test_normal_arguments_are_a_fixed_point(arguments: JsonObject) -> None:
    """A recorded call that is read back and looked up again finds itself."""
    once = plan_of(SEARCH).normal(arguments)
    twice = plan_of(SEARCH).normal(once.arguments)

    assert twice.canonical == once.canonical
    assert not twice.fired


@given(ARGUMENTS)
def test_argument_order_never_matters(arguments: JsonObject) -> None:
    """JSON objects have no order."""
    backwards = dict(reversed(arguments.items()))

    assert canonical(backwards) == canonical(arguments)


@given(ARGUMENTS)
def test_normalising_does_not_touch_what_it_was_given(arguments: JsonObject) -> None:
    """The call that the model made is also what the trajectory keeps."""
    before = repr(arguments)
    plan_of(SEARCH).normal(arguments)

    assert repr(arguments) == before


def test_schemas_of_pydantic_and_mcp_are_understood() -> None:
    """References and `X or null` unions are how real tool servers write their schemas."""
    who = {
        "type": "object",
        "properties": {"age": {"type": "integer"}, "boss": {"$ref": "#/$defs/Who"}},
    }
    spec = ToolSpec(
        name="tool",
        description="",
        parameters={
            "type": "object",
            "properties": {
                "who": {"$ref": "#/$defs/Who"},
                "limit": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None},
            },
            "$defs": {"Who": who},
        },
        effects=READ,
    )

    assert canonical({"who": {"age": "7"}, "limit": "5"}, spec) == canonical(
        {"who": {"age": 7.0}, "limit": 5}, spec
    )
    assert canonical({"who": {}, "limit": None}, spec) == canonical({"who": {}}, spec)
    assert canonical({"who": {"boss": {"age": 7}}}, spec) != canonical({"who": {"age": 7}}, spec)


def test_a_writer_keeps_the_line_breaks_of_its_texts() -> None:
    """Two files that differ in a line break are two files."""
    spec = tool({"content": {"type": "string"}}, effects=Effects(writes=("file:*",)))

    assert canonical({"content": "a\nb"}, spec) != canonical({"content": "a b"}, spec)


def test_kinds_are_inferred_conservatively() -> None:
    """A wrong TEXT lets different calls match; a wrong identity only misses."""
    spec = tool(
        {
            "query": {"type": "string"},
            "customer_id": {"type": "string"},
            "city": {"type": "string"},
            "note": {"type": "string", "enum": ["a", "b"]},
            "summary": {"type": "string", "description": "a regular expression"},
            "sql": {"type": "string"},
            "count": {"type": "integer"},
            "odd": {"type": "string", "x-kind": "no such kind"},
            "day": {"type": "string", "format": "date"},
        }
    )
    kinds = plan_of(spec).kinds()

    assert kinds == {
        "_meta": "volatile",
        "query": "text",
        "customer_id": "id",
        "city": "by value",
        "note": "enum",
        "summary": "code",
        "sql": "code",
        "count": "number",
        "odd": "code",
        "day": "date",
    }


@pytest.mark.parametrize("name", ["run_sql", "evaluate_expression", "execute_code"])
def test_the_texts_of_tools_that_run_code_are_code(name: str) -> None:
    """One changed character of a program is another program."""
    spec = ToolSpec(
        name=name,
        description="",
        parameters={"type": "object", "properties": {"query": {"type": "string"}}},
    )

    assert plan_of(spec).kinds()["query"] == "code"


def test_the_gate_hides_texts_and_nothing_else() -> None:
    """FUZZY compares gates as bytes: whatever is left out of them may differ."""
    plan = plan_of(SEARCH)
    shapes = [
        plan.shape(plan.normal(BASE | more).arguments)
        for more in ({}, {"query": "blue hats"}, {"city": "Oslo"})
    ]

    assert shapes[0].gate == shapes[1].gate != shapes[2].gate
    assert shapes[0].texts == (("query", "red shoes"),)
    assert {(f.path, f.kind) for f in shapes[2].fields} == {
        ("city", Kind.ENTITY),
        ("limit", Kind.NUMBER),
        ("nickname", Kind.ENTITY),
    }


def test_arguments_without_end_are_refused_in_words() -> None:
    """A model can write ten thousand brackets; that is its mistake, not a crash of the run."""
    parameters = {"type": "object", "additionalProperties": True}
    anything = ToolSpec(name="anything", description="", parameters=parameters)
    deep: dict[str, Any] = {}
    for _ in range(10_000):
        deep = {"a": deep}

    with pytest.raises(DataError, match="nested too deep"):
        plan_of(anything).normal(deep)
    assert argument_problem(anything, deep) == "nested deeper than 100 levels"
    assert argument_problem(anything, {"a": {"b": [{"c": 1}]}}) is None


@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_odd_numbers_are_not_taken_for_null(odd: float) -> None:
    """JSON has no word for them, and an encoder that writes null would let other calls match."""
    plan = plan_of(ToolSpec(name="t", description="", parameters={"type": "object"}))

    gates = {plan.shape({"a": value}).gate for value in (odd, None, 1.5, [odd], [None])}

    assert len(gates) == 5


@pytest.mark.parametrize(
    ("due", "writes", "reads"),
    [
        ({"type": ["string", "null"]}, True, False),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, True, False),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}, {"type": "null"}]}, True, False),
        ({"description": "when"}, True, False),
        ({"enum": ["today", None]}, True, False),
        ({"type": "string"}, False, False),
        ({"enum": ["today"]}, False, False),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, False, False),
        ({"type": ["string", "null"], "default": None}, False, False),
        ({"enum": ["today", None], "default": "today"}, True, True),
        ({"description": "when", "default": "today"}, True, True),
        ({"type": "string", "default": "today"}, False, False),
    ],
)
def test_null_is_told_from_nothing_where_it_may_mean_something(
    due: JsonObject, writes: bool, reads: bool
) -> None:
    """A writer that may be given null may clear what it leaves alone otherwise; null is no default."""
    for effects, differs in ((Effects(writes=("x:{id}",)), writes), (Effects(), reads)):
        plan = plan_of(
            ToolSpec(
                name="update",
                description="",
                parameters={"type": "object", "properties": {"id": {}, "due": due}},
                effects=effects,
            )
        )
        cleared, left = plan.normal({"id": 1, "due": None}), plan.normal({"id": 1})
        assert (cleared.canonical != left.canonical) == differs


@pytest.mark.parametrize(
    ("place", "written", "other"),
    [
        (
            {"type": "array", "prefixItems": [{"type": "string"}], "items": {"type": "integer"}},
            ["10"],
            [10],
        ),
        (
            {
                "type": "object",
                "patternProperties": {"^s": {"type": "string"}},
                "additionalProperties": {"type": "integer"},
            },
            {"s": "10"},
            {"s": 10},
        ),
        ({"enum": ["a b", "a  b"]}, "a b", "a  b"),
    ],
)
def test_places_that_a_schema_describes_twice_are_left_alone(
    place: JsonObject, written: object, other: object
) -> None:
    """What the rest may be says nothing of what stands before it."""
    plan = plan_of(
        ToolSpec(
            name="t", description="", parameters={"type": "object", "properties": {"p": place}}
        )
    )
    assert plan.normal({"p": written}).canonical != plan.normal({"p": other}).canonical
