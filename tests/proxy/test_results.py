"""Results of tools into the cache and out again: the same JSON, whatever a server says."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacherl.core.messages import ToolCall
from cacherl.core.tools import ErrorClass
from cacherl.proxy.messages import Failure, Request, Result
from cacherl.proxy.results import is_final, reply_of, suited, tool_result

CALL = ToolCall(id="1", name="t", arguments={})
TEXTS = st.text(max_size=6)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=5,
)
BLOCKS = st.fixed_dictionaries({"type": st.just("text"), "text": TEXTS}) | st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "image", "odd"])},
    optional={"text": TEXTS, "data": TEXTS, "annotations": VALUES},
)
RESULTS = st.fixed_dictionaries(
    {"content": st.lists(BLOCKS, max_size=3)},
    optional={
        "isError": st.booleans(),
        "structuredContent": st.dictionaries(TEXTS, VALUES, max_size=2),
        "_meta": st.dictionaries(TEXTS, VALUES, max_size=2),
        "resultType": st.just("complete"),
        "later": VALUES,
    },
)


def strict(value: Any) -> Any:
    """A JSON value that tells 1 from 1.0 and from true."""
    if isinstance(value, dict):
        return {name: strict(member) for name, member in value.items()}
    if isinstance(value, list):
        return [strict(item) for item in value]
    return type(value), value


@given(RESULTS)
def test_a_result_comes_back_as_the_server_gave_it(result: dict[str, Any]) -> None:
    """Members that say nothing, or that nobody knows yet, among them."""
    kept = tool_result(CALL, Result(id=7, result=result), 0.0)
    again = reply_of(8, kept, meta=False)
    assert isinstance(again, Result)
    assert again.id == 8
    assert strict(again.result) == strict(result)
    assert kept.is_error == (result.get("isError") is True)


@given(st.integers(-33000, -32000), TEXTS, st.none() | VALUES)
def test_an_error_of_the_protocol_comes_back_as_one(code: int, message: str, data: Any) -> None:
    """A client that catches it live must catch it in replay."""
    error = {"code": code, "message": message, **({} if data is None else {"data": data})}
    kept = tool_result(CALL, Failure(id=7, error=error), 0.0)
    assert reply_of(7, kept, meta=True) == Failure(id=7, error=error)
    assert kept.is_error


@pytest.mark.parametrize(
    ("code", "message", "kind"),
    [
        (-32602, "x is wrong", ErrorClass.VALIDATION),
        (-32602, "Unknown tool: x", ErrorClass.NOT_FOUND),
        (-32601, "?", ErrorClass.NOT_FOUND),
        (-32603, "rate limit", ErrorClass.TRANSIENT),
        (-32603, "boom", ErrorClass.UNKNOWN),
    ],
)
def test_errors_have_a_class(code: int, message: str, kind: ErrorClass) -> None:
    """Transient ones are never recorded; the rest an agent must learn from."""
    kept = tool_result(CALL, Failure(id=7, error={"code": code, "message": message}), 0.0)
    assert kept.error_class is kind


def test_what_the_tool_did_not_say_is_not_final() -> None:
    """A question back, a task begun, a cancelled call: none of them answers the call."""
    assert is_final(Result(id=1, result={"content": []}))
    assert is_final(Failure(id=1, error={"code": -32602}))
    assert not is_final(Result(id=1, result={"resultType": "input_required", "content": []}))
    assert not is_final(Result(id=1, result={"task": {"taskId": "t"}}))
    assert not is_final(Failure(id=1, error={"code": -32800}))


def test_a_reply_has_what_its_version_demands() -> None:
    """A client of 2026-07-28 refuses a result without its type; older ones are left alone."""
    envelope = {"_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}}
    new = Request(id=1, method="tools/list", params=envelope)
    old = Request(id=1, method="tools/list")
    reply = Result(id=1, result={"tools": [], "ttlMs": 9})
    assert suited(old, reply) is reply
    assert suited(new, reply) == Result(
        id=1,
        result={"tools": [], "ttlMs": 9, "resultType": "complete", "cacheScope": "private"},
    )
