"""Kinds of parameters that no schema describes, judged from recorded values."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacherl.cache.identity.kinds import (
    MAX_PATHS,
    MAX_SAMPLED,
    Origin,
    declared_kind,
    infer_kind,
    infer_kinds,
    leaves_kinds_open,
    matching_spec,
    sampled,
    values_of,
)
from cacherl.cache.identity.normalise import Kind, plan_of
from cacherl.cache.matching import match
from cacherl.cache.storage.entry import CacheEntry, Kept
from cacherl.core.tools import ToolSpec
from tests.cache.recordings import recorded, seen

TAU = Path(__file__).parents[3] / "shared" / "data" / "tau-bench" / "gpt-4o-airline.json"


def tool(name: str = "ask", **properties: Any) -> ToolSpec:
    return ToolSpec(
        name=name,
        description="",
        parameters={"type": "object", "properties": properties},
    )


WISHES = [
    f"Please find the {what} that my {who} wanted for {when}"
    for what in ("red shoes", "blue coat", "old book")
    for who in ("sister", "friend")
    for when in ("spring", "school")
]
FRENCH = [
    f"Je voudrais savoir où est {what} de {who}"
    for what in ("le colis", "la facture", "mon billet", "cette commande")
    for who in ("ma sœur", "mon voisin", "notre client")
]
SUMS = [f"{a} * {a + 3} - (12 + {b})" for a in range(4) for b in range(4)]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (WISHES, Kind.TEXT),
        (FRENCH, Kind.TEXT),
        (WISHES[:9], Kind.ENTITY),  # too few to be sure
        (SUMS, Kind.CODE),
        ([*WISHES, *SUMS[:4]], Kind.CODE),  # one in five is enough
        ([*WISHES * 3, "=SUM(A1:A9)"], Kind.ENTITY),  # and one of few too many for TEXT
        ([f"select name from users where id = {n}" for n in range(12)], Kind.CODE),
        ([f"SELECT the, my, our FROM t WHERE you = {n}" for n in range(12)], Kind.CODE),
        ([f"ls -la /home/u{n}" for n in range(12)], Kind.CODE),
        ([rf"^\d{{{n}}}$" for n in range(12)], Kind.CODE),
        ([f"$.items[{n}].name" for n in range(12)], Kind.CODE),
        (["3+4", "12", "5*5", "100/4"], Kind.CODE),
        ([f"{n}" for n in range(12)], Kind.NUMBER),
        ([1, 2.5, "17"], Kind.NUMBER),
        ([3, 3, 4, None], Kind.NUMBER),
        (["02134", "94110", "10001"], Kind.ID),
        ([f"ORD-{n}" for n in range(12)], Kind.ID),
        (["3RK2T9", "HATHAT", "4XGCCM", "FQ8APE"], Kind.ID),
        (["a@b.org", "c.d@e.com", "f@g.net"], Kind.ID),
        (["https://a.org/x", "http://b.org", "/etc/hosts"], Kind.ID),
        (["2024-05-17", "2024-05-18", "2024-05-19T10:00:00Z"], Kind.DATE),
        (["17/05/2024", "18/05/2024", "9/6/2024"], Kind.DATE),
        (["economy", "business"] * 12, Kind.ENUM),
        (["economy", "business"] * 4, Kind.ENTITY),
        ([True, False, True], Kind.ENUM),
        (["JFK", "LAX", "ORD", "SFO", "DTW"], Kind.ENTITY),
        ([f"The {a} {b}" for a in ("Great", "Old", "Last") for b in ("Sea", "Day", "War", "Man")], Kind.ENTITY),
        ([f"{n} Main Street, Springfield" for n in range(12)], Kind.ENTITY),
        (["red shoes", "blue boats", "green hats"] * 5, Kind.ENTITY),
        (["x", 1, True], Kind.ENTITY),
        (["", " ", "  "], Kind.ENTITY),
    ],
)  # fmt: skip
def test_values_show_what_they_are(values: list[Any], expected: Kind) -> None:
    """A wrong TEXT would let different calls match; every doubt ends at a kind that must be equal."""
    inferred = infer_kind(values)

    assert inferred is not None
    assert inferred.kind is expected
    assert inferred.evidence
    assert inferred.n == sum(value is not None for value in values)


def test_few_values_say_nothing() -> None:
    """Two calls are no pattern."""
    assert infer_kind(WISHES[:2]) is None
    assert infer_kind([None] * 50) is None
    assert infer_kinds({"a": ["x"], "b": SUMS}).keys() == {"b"}


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=30),
    st.sampled_from([*WISHES, *SUMS, "a", "b", "2024-01-02", "X1"]),
)


@given(st.lists(SCALARS, max_size=40), st.randoms())
def test_the_order_of_recording_does_not_matter(values: list[Any], rng: random.Random) -> None:
    """Merged caches answer alike, whichever was first."""
    other = list(values)
    rng.shuffle(other)

    assert infer_kind(values) == infer_kind(other)


@given(st.lists(st.none() | st.booleans() | st.integers() | st.floats(), min_size=3))
def test_only_strings_are_ever_text_or_code(values: list[Any]) -> None:
    """Numbers, nulls and truth values are never compared by their words."""
    inferred = infer_kind(values)

    assert inferred is None or inferred.kind in (Kind.NUMBER, Kind.ENUM, Kind.ENTITY)


@pytest.mark.skipif(not TAU.is_file(), reason=f"needs the tau-bench recordings at {TAU}")
def test_real_recordings_without_any_schema() -> None:
    """`calculate.expression` once passed for text, and both of its FUZZY hits were wrong."""
    by_tool: dict[str, list[Any]] = {}
    for conversation in json.loads(TAU.read_text(encoding="utf-8")):
        for message in conversation["traj"]:
            for call in message.get("tool_calls") or []:
                arguments = json.loads(call["function"]["arguments"])
                by_tool.setdefault(call["function"]["name"], []).append(arguments)
    found = {
        f"{name}.{path}": inferred.kind
        for name, arguments in by_tool.items()
        for path, inferred in infer_kinds(values_of(arguments)).items()
    }

    assert found["calculate.expression"] is Kind.CODE
    texts = {"think.thought", "transfer_to_human_agents.summary"}
    assert {place for place, kind in found.items() if kind is Kind.TEXT} == texts
    for place, kind in found.items():
        if place.endswith(("_id", "flight_number")):
            assert kind is Kind.ID, place
        if place.endswith(("date", "dob")):
            assert kind is Kind.DATE, place


def test_places_are_named_as_settings_name_them() -> None:
    """Arrays share a place; a name with a dot is quoted; an object keyed by data is cut off."""
    arguments: dict[str, Any] = {"legs": [{"date": 1}, {"date": 2}], "a.b": {"c": "x"}, "n": None}
    assert values_of([arguments]) == {"legs[].date": [1, 2], '"a.b".c': ["x"], "n": [None]}

    keyed: list[dict[str, Any]] = [
        {"by_id": {f"k{n}": n for n in range(1000)}, "q": "x"},
        {"q": "y"},
    ]
    places = values_of(keyed)
    assert len(places) == MAX_PATHS
    assert places["q"] == ["x", "y"]


def entry(number: int, state: bytes = b"") -> CacheEntry:
    call = recorded(json.dumps({"n": number}).encode(), state=state)
    return CacheEntry(call=call, kept=(Kept(observation=seen("x"), times=1),))


def test_a_bounded_sample_is_the_same_whatever_came_first() -> None:
    """A million recordings must not be read twice, and two merged caches must agree."""
    entries = [entry(n) for n in range(MAX_SAMPLED + 300)]
    sample = sampled(entries)

    assert len(sample) == MAX_SAMPLED
    assert sample == sampled(reversed(entries))
    assert len(sampled([entry(1), entry(1, b"s" * 16), entry(2)])) == 2


def asked(texts: list[str]) -> list[dict[str, Any]]:
    return [{"wish": text, "size": n} for n, text in enumerate(texts)]


def test_inferred_text_opens_the_gate_for_wording_alone() -> None:
    """The matching plan lets a text differ; the plan that keys are made by knows nothing of it."""
    spec = tool()
    matching = plan_of(matching_spec(spec, asked(WISHES)))
    one = {"wish": "Please find the red shoes", "size": 3}
    other = {"wish": "please find the red shoe", "size": 3}

    assert match.fuzzy(matching.shape(one), matching.shape(other)).refused is None
    assert matching.shape(one).gate != matching.shape({**other, "size": 4}).gate
    assert match.fuzzy(plan_of(spec).shape(one), plan_of(spec).shape(other)).refused is not None
    assert plan_of(spec).normal(one).canonical != plan_of(spec).normal(other).canonical


def test_inferred_code_is_never_compared_by_its_words() -> None:
    """A parameter called `query` that holds SQL is code, whatever its name says."""
    spec = tool()
    queries = [{"query": f"select name from t where id = {n}"} for n in range(12)]
    shapes = [plan_of(matching_spec(spec, queries)).shape(each) for each in queries]

    assert not any(shape.texts for shape in shapes)
    assert plan_of(spec).shape(queries[0]).texts
    assert {field.kind for field in shapes[0].fields} == {Kind.CODE}


@pytest.mark.parametrize(
    ("spec", "place", "values"),
    [
        (tool(wish={"type": "string", "description": "a name"}), "wish", WISHES),
        (tool(wish={"type": "string", "enum": WISHES}), "wish", WISHES),
        (tool(wish={"type": "string", "x-kind": "entity"}), "wish", WISHES),
        (tool(), "user_id", WISHES),
        (tool(), "python", WISHES),
        (tool(), "message", ["economy", "business"] * 12),
        (tool("run_sql"), "wish", WISHES),
        (tool(), "wish", WISHES[:5]),
    ],
)
def test_what_is_known_already_is_not_overruled(
    spec: ToolSpec, place: str, values: list[str]
) -> None:
    """Descriptions and firm names win; inference never loosens them."""
    before = plan_of(spec).shape({place: values[0]})
    after = plan_of(matching_spec(spec, [{place: value} for value in values])).shape(
        {place: values[0]}
    )

    assert before == after


def test_a_described_tool_needs_no_recordings() -> None:
    """Inference reads recordings: only for tools that leave something open."""
    described = {"type": "string", "description": "which"}
    assert not leaves_kinds_open(tool(a=described, b={"type": "integer"}, c={"enum": ["x"]}))
    assert not leaves_kinds_open(tool(a={"type": "object", "properties": {"b": described}}))
    assert leaves_kinds_open(tool())
    assert leaves_kinds_open(tool(a=described, b={"type": "string"}))
    assert leaves_kinds_open(tool(a={"type": "object"}))
    assert leaves_kinds_open(tool(a={"type": "array", "items": {}}))


@given(
    st.lists(st.dictionaries(st.sampled_from(["a", "q", "x.y"]), SCALARS, max_size=3), max_size=30)
)
def test_a_matching_plan_reads_whatever_was_recorded(arguments: list[dict[str, Any]]) -> None:
    """Shapes of normal arguments under the matching plan differ from the tool's own in kinds alone."""
    spec = tool()
    plan, matching = plan_of(spec), plan_of(matching_spec(spec, arguments))
    for each in arguments:
        normal = plan.normal(each).arguments
        own, loose = plan.shape(normal), matching.shape(normal)
        assert len(own.fields) + len(own.texts) == len(loose.fields) + len(loose.texts)


@pytest.mark.parametrize(
    ("spec", "path", "kind", "origin"),
    [
        (tool(a={"type": "string", "x-kind": "code"}), "a", Kind.CODE, Origin.SCHEMA),
        (tool(a={"type": "integer"}), "a", Kind.NUMBER, Origin.SCHEMA),
        (tool(query={"type": "string"}), "query", Kind.TEXT, Origin.NAME),
        (tool(), "query", Kind.TEXT, Origin.NAME),
        (tool(), "filters.sku", Kind.ID, Origin.NAME),
        (tool(city={"type": "string"}), "city", None, Origin.VALUE),
        (tool(), "city", None, Origin.VALUE),
        (
            tool(ids={"type": "array", "x-kind": "entity", "items": {"type": "string"}}),
            "ids[]",
            Kind.ENTITY,
            Origin.SCHEMA,
        ),
        (
            tool(leg={"anyOf": [{"type": "object", "properties": {"on": {"format": "date"}}}, {"type": "null"}]}),
            "leg.on",
            Kind.DATE,
            Origin.SCHEMA,
        ),
    ],
)  # fmt: skip
def test_a_declared_kind_says_where_it_comes_from(
    spec: ToolSpec, path: str, kind: Kind | None, origin: Origin
) -> None:
    """People check what the cache believes before they trust it."""
    declared = declared_kind(spec, path)

    assert (declared.kind, declared.origin) == (kind, origin)
