"""Declarations of tools by people who do not read JSON Schema's specification."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacherl.core.parameters import parameters_of, typed
from cacherl.core.schema import argument_problem
from cacherl.core.tools import UNDECLARED
from cacherl.formats.declarations import spec_of, specs_of
from cacherl.formats.rows import Unreadable

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "type",
                    "properties",
                    "required",
                    "items",
                    "enum",
                    "$ref",
                    "anyOf",
                    "pattern",
                    "minimum",
                    "multipleOf",
                    "default",
                    "name",
                    "additionalProperties",
                    "prefixItems",
                    "$defs",
                    "a",
                    "b",
                    "optional",
                ]
            )
            | st.text(max_size=4),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@pytest.mark.parametrize(
    "written",
    [
        {"name": "f", "description": "d", "parameters": {"type": "object"}},
        {"type": "function", "function": {"name": "f", "description": "d", "parameters": {}}},
        {"name": "f", "description": "d", "input_schema": {"type": "object"}},
        {"name": "f", "description": "d", "inputSchema": {"type": "object"}},
        '{"name": "f", "description": "d"}',
    ],
)
def test_one_tool_in_every_wrapping(written: Any) -> None:
    """OpenAI, Anthropic, MCP and bare declarations name the same things differently."""
    spec = spec_of(written, "tools[0]")

    assert (spec.name, spec.description, spec.effects) == ("f", "d", UNDECLARED)
    assert spec.parameters["type"] == "object"


def test_a_nearly_right_schema_is_mended() -> None:
    """`dict`, `int` and a `required: true` inside a property are what data sets write."""
    schema = parameters_of(
        {
            "type": "dict",
            "properties": {
                "city": {"type": "str", "required": True},
                "days": {"type": "int", "default": 3},
                "tags": {"type": "list", "items": {"type": "string"}},
                "kind": {"type": "any"},
            },
        }
    )

    assert schema == {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer", "default": 3},
            "tags": {"type": "array", "items": {"type": "string"}},
            "kind": {},
        },
        "required": ["city"],
    }


def test_parameters_listed_by_name_become_a_schema() -> None:
    """xLAM's way: Python types, `optional` inside the type, a default that may be an empty text."""
    schema = parameters_of(
        {
            "city": {"type": "str", "description": "where"},
            "days": {"type": "int, optional", "default": 3},
            "units": {"type": "List[str]", "default": ""},
            "type": {"type": "str", "description": "a parameter of this name"},
        }
    )

    assert schema["required"] == ["city", "type"]
    assert schema["properties"] == {
        "city": {"type": "string", "description": "where"},
        "days": {"type": "integer", "default": 3},
        "units": {"type": "array", "items": {"type": "string"}},
        "type": {"type": "string", "description": "a parameter of this name"},
    }


@pytest.mark.parametrize(
    ("words", "schema"),
    [
        ("str", {"type": "string"}),
        ("List[int]", {"type": "array", "items": {"type": "integer"}}),
        ("Optional[float]", {"type": "number"}),
        ("Union[int, str]", {"anyOf": [{"type": "integer"}, {"type": "string"}]}),
        ("int | None", {"type": "integer"}),
        ("Dict[str, List[int]]", {"type": "object"}),
        ("Tuple[float, float]", {"type": "array", "items": {"type": "number"}}),
        ("List[Dict[str, Any]], optional", {"type": "array", "items": {"type": "object"}}),
        ("Literal['a', 'b']", {"type": "string", "enum": ["a", "b"]}),
        ("Frobnicator", {}),
        ("[" * 500, {}),
    ],
)
def test_types_as_python_writes_them(words: str, schema: dict[str, Any]) -> None:
    """A type that nobody knows must allow everything, not refuse everything."""
    assert typed(words) == schema


def test_a_tool_without_a_name_is_told_by_field() -> None:
    """The report says which of twenty tools it was."""
    with pytest.raises(Unreadable, match=r"tools\[1\].name: a tool without a name"):
        specs_of([{"name": "f"}, {"description": "nameless"}], "tools")
    with pytest.raises(Unreadable, match="tools: no JSON"):
        specs_of("[{", "tools")


@given(JSON)
def test_whatever_is_declared_a_validator_can_use(said: Any) -> None:
    """A schema that chokes a validator would stop a rollout months after the import."""
    schema = parameters_of(said)

    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["type"] == "object"
    for arguments in ({}, {"a": 1, "b": [None]}, {"type": "x", "name": {}}):
        argument_problem(spec_of({"name": "f", "parameters": said}, ""), arguments)
    assert parameters_of(json.loads(json.dumps(said))) == schema
