"""What is read of MCP's JSON, by the live adapter and by the proxy alike."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacherl.core.errors import ToolError
from cacherl.core.schema import error_text
from cacherl.core.tools import UNDECLARED, Effects, ErrorClass
from cacherl.toolbox.mcp_results import (
    effects_of,
    error_class_of,
    result_of,
    spec_of,
    text_of,
    wire_of,
)

TEXT = {"type": "text", "text": "21 °C"}
IMAGE = {"type": "image", "data": "aGVq", "mimeType": "image/png"}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([TEXT], "21 °C"),
        ([TEXT, {"type": "text", "text": ""}, TEXT], "21 °C\n\n21 °C"),
        ([TEXT, IMAGE], "21 °C\n[image image/png, 4 characters of base64]"),
        ([{"type": "audio", "data": "aGVq"}], "[audio , 4 characters of base64]"),
        ([{"type": "resource", "resource": {"uri": "file:///a", "text": "A"}}], "A"),
        (
            [{"type": "resource", "resource": {"uri": "file:///a", "blob": "QQ=="}}],
            "[resource file:///a]",
        ),
        ([{"type": "resource_link", "uri": "file:///a", "name": "a"}], "[resource_link file:///a]"),
        ([{"type": "hologram"}], "[hologram]"),
        (["text"], "[unknown]"),
        ([], ""),
    ],
)
def test_a_model_reads_text_and_is_told_of_the_rest(content: list[Any], expected: str) -> None:
    """A picture's base64 would cost thousands of tokens and say nothing."""
    assert text_of({"content": content}) == expected


def test_structured_content_is_shown_where_nothing_else_is() -> None:
    """Servers repeat it as text, as MCP asks them to; showing both would show it twice."""
    structured = {"temperature": 21, "where": "Tromsø"}

    assert text_of({"content": [], "structuredContent": structured}) == (
        '{"temperature": 21, "where": "Tromsø"}'
    )
    assert text_of({"content": [TEXT], "structuredContent": structured}) == "21 °C"


@pytest.mark.parametrize(
    "result",
    [
        {"content": [TEXT]},
        {"content": [TEXT], "isError": False},
        {"content": [TEXT], "isError": True},
        {"content": [TEXT], "structuredContent": None, "_meta": None, "resultType": "complete"},
    ],
)
def test_what_one_text_says_is_not_kept_twice(result: dict[str, Any]) -> None:
    """Most answers of most servers: a cache of them must not double in size."""
    assert wire_of(result) is None


@pytest.mark.parametrize(
    "result",
    [
        {"content": []},
        {"content": [TEXT, TEXT]},
        {"content": [IMAGE]},
        {"content": [TEXT], "structuredContent": {}},
        {"content": [TEXT], "_meta": {"page": 2}},
        {"content": [TEXT | {"annotations": {"audience": ["user"]}}]},
        {"content": [TEXT], "resultType": "partial"},
        {"content": [TEXT], "later": 1},
    ],
)
def test_what_is_more_than_a_text_comes_back_whole(result: dict[str, Any]) -> None:
    """A client behind the proxy may read any of it."""
    wire = wire_of(result)

    assert wire is not None
    assert result_of(text_of(result), is_error=False, wire=wire) == result


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
blocks = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "image", "resource"])},
    optional={"text": st.text(), "data": json_values},
)


@given(
    st.fixed_dictionaries(
        {"content": st.lists(blocks | json_values, max_size=3), "isError": st.booleans()},
        optional={
            "structuredContent": json_values,
            "_meta": json_values,
            "resultType": json_values,
        },
    )
)
def test_no_result_loses_anything_on_its_way_through_a_recording(result: dict[str, Any]) -> None:
    """Replay answers as the server did."""
    text, wire = text_of(result), wire_of(result)
    again = result_of(text, is_error=result["isError"], wire=wire)

    assert text_of(again) == text
    assert again["isError"] == result["isError"]
    if wire is not None:
        assert again == result
    else:
        assert again["content"] == result["content"]


@pytest.mark.parametrize(
    ("tool", "expected"),
    [
        ({}, UNDECLARED),
        ({"annotations": None}, UNDECLARED),
        ({"annotations": {"readOnlyHint": True}}, Effects(reads=("*",))),
        (
            {"annotations": {"readOnlyHint": True, "openWorldHint": True}},
            Effects(reads=("*",), open_world=True),
        ),
        ({"annotations": {"readOnlyHint": True, "destructiveHint": True}}, UNDECLARED),
        (
            {"annotations": {"readOnlyHint": False, "idempotentHint": True}},
            Effects(reads=("*",), writes=("*",), idempotent=True),
        ),
        (
            {
                "annotations": {"readOnlyHint": True},
                "_meta": {"cacherl/effects": {"reads": ["note:{id}"], "writes": ["log"]}},
            },
            Effects(reads=("note:{id}",), writes=("log",)),
        ),
    ],
)
def test_a_server_says_what_its_tools_touch(tool: dict[str, Any], expected: Effects) -> None:
    """Annotations go as far as hints can; `_meta` names resources and wins."""
    assert effects_of({"name": "t", **tool}) == expected


def test_wrong_effects_name_the_tool_and_the_field() -> None:
    """Whoever wrote the server reads this."""
    tool = {"name": "t", "_meta": {"cacherl/effects": {"reads": "everything"}}}

    with pytest.raises(ToolError, match=r"of the tool t is no effects .*\$.reads"):
        effects_of(tool)
    with pytest.raises(ToolError, match="has no name"):
        spec_of({"title": "t"})


def test_a_tool_keeps_its_schema_word_for_word() -> None:
    """Keys of the cache and refusals of the loop hang on it."""
    schema = {"properties": {"a": {"type": "string", "x-kind": "id"}}, "required": ["a"]}
    spec = spec_of({"name": "t", "inputSchema": schema})

    assert spec.parameters == {"type": "object", **schema}
    assert spec.description == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (error_text("permission", "refunds over 100 need a manager"), ErrorClass.PERMISSION),
        ("Error executing tool x: request timed out", ErrorClass.TRANSIENT),
        ("HTTP 429 Too Many Requests", ErrorClass.TRANSIENT),
        ("Order 17 does not exist", ErrorClass.NOT_FOUND),
        ("Access denied", ErrorClass.PERMISSION),
        ("quantity must be positive", ErrorClass.VALIDATION),
        ("boom", ErrorClass.UNKNOWN),
        ("[" * 100_000, ErrorClass.UNKNOWN),
        ('{"error": {"code": 7, "message": "no such order"}}', ErrorClass.NOT_FOUND),
    ],
    ids=lambda value: str(value)[:20],
)
def test_errors_are_classed_by_what_they_say(text: str, expected: ErrorClass) -> None:
    """Only transient errors are kept out of the cache; the others are lessons."""
    assert error_class_of(text) is expected


@pytest.mark.parametrize(
    ("text", "arguments", "expected"),
    [
        (
            "ENOENT: no such file or directory, open '/desk/report-503.txt'",
            {"path": "report-503.txt"},
            ErrorClass.NOT_FOUND,
        ),
        ("no order with the number 429", {"order": {"number": 429}}, ErrorClass.NOT_FOUND),
        (
            "Could not find exact match for edit:\ntimeout = 5",
            {"edits": [{"oldText": "timeout = 5", "newText": "timeout = 9"}]},
            ErrorClass.UNKNOWN,
        ),
        ("503 Service Unavailable", {"path": "report-503.txt"}, ErrorClass.TRANSIENT),
        ("HTTP 429", {"limit": 4, "tags": ["t", None, True]}, ErrorClass.TRANSIENT),
        ("/tmp/temporary: permission denied", {"path": "/tmp/temporary"}, ErrorClass.PERMISSION),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_an_error_quotes_of_the_call_says_nothing_of_its_kind(
    text: str, arguments: dict[str, Any], expected: ErrorClass
) -> None:
    """Else the lesson that a file is not there is never recorded, because its name has a number in it."""
    assert error_class_of(text, arguments) is expected
