"""An OpenAPI document as tools, and a call as a request: pure, nothing is sent."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qsl, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacherl.core.errors import ToolError
from cacherl.core.records import JsonObject
from cacherl.core.schema import argument_problem
from cacherl.core.tools import UNDECLARED, Effects
from cacherl.toolbox.openapi import Described, Operation, decoded, operations_of, request_of

URI = "file:///work/billing.json"


def document(paths: JsonObject, version: str = "3.1.0", **more: Any) -> JsonObject:
    return {"openapi": version, "info": {"title": "t", "version": "1"}, "paths": paths, **more}


def described(paths: JsonObject, version: str = "3.1.0", **more: Any) -> Described:
    def fetch(uri: str) -> Any:
        raise FileNotFoundError(uri)

    return operations_of(document(paths, version, **more), URI, fetch)


def one(operation: JsonObject, path: str = "/x", method: str = "get", **more: Any) -> Operation:
    found = described({path: {method: operation}}, **more)
    assert found.notes == ()
    (only,) = found.operations
    return only


def query(style: str | None, explode: bool | None, value: Any, **more: Any) -> str:
    parameter = {"name": "p", "in": "query", "schema": {}, **more}
    parameter |= {"style": style} if style else {}
    parameter |= {} if explode is None else {"explode": explode}
    return request_of(one({"parameters": [parameter]}), {"p": value}).query


ARRAY, OBJECT = ["blue", "black"], {"R": 100, "G": 200}


@pytest.mark.parametrize(
    ("style", "explode", "value", "sent"),
    [
        (None, None, ARRAY, "p=blue&p=black"),
        ("form", False, ARRAY, "p=blue,black"),
        ("form", True, OBJECT, "R=100&G=200"),
        ("form", False, OBJECT, "p=R,100,G,200"),
        ("spaceDelimited", False, ARRAY, "p=blue%20black"),
        ("pipeDelimited", False, ARRAY, "p=blue%7Cblack"),
        ("deepObject", True, OBJECT, "p%5BR%5D=100&p%5BG%5D=200"),
        ("deepObject", True, {"a": {"b": [1, 2]}}, "p%5Ba%5D%5Bb%5D=1&p%5Ba%5D%5Bb%5D=2"),
        (None, None, True, "p=true"),
        (None, None, 1.5, "p=1.5"),
        (None, None, None, ""),
        (None, None, "a&b=c d/é", "p=a%26b%3Dc%20d%2F%C3%A9"),
        ("form", False, ["a,b", "c"], "p=a%2Cb,c"),
    ],
)
def test_query_parameters_are_sent_in_their_style(
    style: str | None, explode: bool | None, value: Any, sent: str
) -> None:
    """OpenAPI 3.1.1, "Style Examples"; the table's own values."""
    assert query(style, explode, value) == sent


def test_reserved_characters_and_json_stay_where_the_document_says_so() -> None:
    """Some services want a URL in a query, some a whole filter."""
    content = {"application/json": {"schema": {"type": "object"}}}

    assert query(None, None, "http://a/b?c", allowReserved=True) == "p=http://a/b?c"
    sent = query(None, None, {"a": [1]}, content=content)
    assert dict(parse_qsl(sent)) == {"p": '{"a":[1]}'}


@pytest.mark.parametrize(
    ("style", "explode", "value", "sent"),
    [
        ("simple", False, "blue", "/x/blue"),
        ("simple", False, ARRAY, "/x/blue,black"),
        ("simple", False, OBJECT, "/x/R,100,G,200"),
        ("simple", True, OBJECT, "/x/R=100,G=200"),
        ("label", False, ARRAY, "/x/.blue,black"),
        ("label", True, ARRAY, "/x/.blue.black"),
        ("label", True, OBJECT, "/x/.R=100.G=200"),
        ("matrix", False, "blue", "/x/;p=blue"),
        ("matrix", False, ARRAY, "/x/;p=blue,black"),
        ("matrix", True, ARRAY, "/x/;p=blue;p=black"),
        ("matrix", True, OBJECT, "/x/;R=100;G=200"),
        ("matrix", False, OBJECT, "/x/;p=R,100,G,200"),
    ],
)
def test_path_parameters_are_sent_in_their_style(
    style: str, explode: bool, value: Any, sent: str
) -> None:
    """The same table."""
    parameter = {"name": "p", "in": "path", "required": True, "style": style, "explode": explode}
    operation = one({"parameters": [{**parameter, "schema": {}}]}, path="/x/{p}")

    assert request_of(operation, {"p": value}).path == sent


@pytest.mark.parametrize("value", ["", ".", "..", "../admin", "a/../../b", "..\\b", "a/."])
def test_a_path_parameter_cannot_leave_its_place(value: str) -> None:
    """A model must not reach /admin through /orders/{id}, whatever a server decodes."""
    operation = one({}, path="/orders/{id}")

    with pytest.raises(ValueError, match="path"):
        request_of(operation, {"id": value})


@given(st.text(min_size=1))
def test_any_other_path_value_arrives_as_it_is(value: str) -> None:
    """Encoded once, in one segment."""
    operation = one({}, path="/orders/{id}")
    try:
        path = request_of(operation, {"id": value}).path
    except ValueError:
        assert "." in value
        return

    assert path.isascii()
    assert path.count("/") == 2
    assert not set(path) & set("?#\\ ")
    if value.isprintable():
        assert unquote(path) == f"/orders/{value}"


def test_headers_and_cookies_take_arguments_too() -> None:
    """And no argument can smuggle a header of its own in."""
    operation = one(
        {
            "parameters": [
                {"name": "X-Trace", "in": "header", "schema": {"type": "string"}},
                {"name": "tags", "in": "cookie", "schema": {}, "explode": False},
                {"name": "Authorization", "in": "header", "schema": {"type": "string"}},
            ]
        }
    )

    assert list(operation.spec.parameters["properties"]) == ["X-Trace", "tags"]
    sent = request_of(operation, {"X-Trace": "é 1", "tags": ["a;b", "c"]})
    assert sent.headers == (("X-Trace", "é 1"), ("Cookie", "tags=a%3Bb,c"))
    with pytest.raises(ValueError, match="X-Trace"):
        request_of(operation, {"X-Trace": "a\r\nAuthorization: b"})


ORDER = {
    "type": "object",
    "required": ["article", "id"],
    "properties": {
        "id": {"type": "string", "readOnly": True},
        "article": {"type": "string"},
        "count": {"type": "integer", "default": 1},
        "gift": {"$ref": "#/components/schemas/Gift"},
    },
}
GIFT = {"type": "object", "properties": {"inside": {"$ref": "#/components/schemas/Gift"}}}
SCHEMAS = {"schemas": {"Order": ORDER, "Gift": GIFT}}


def body(schema: JsonObject, media: str = "application/json", required: bool = True) -> JsonObject:
    return {"required": required, "content": {media: {"schema": schema}}}


def test_the_fields_of_a_body_stand_beside_the_parameters() -> None:
    """One flat object is what models are good at."""
    order = {"$ref": "#/components/schemas/Order"}
    operation = one(
        {"operationId": "place_order", "requestBody": body(order)},
        path="/shops/{shop}/orders",
        method="post",
        components=SCHEMAS,
    )
    spec = operation.spec

    assert list(spec.parameters["properties"]) == ["shop", "article", "count", "gift"]
    assert spec.parameters["required"] == ["shop", "article"]
    assert spec.effects == UNDECLARED
    nested = {"shop": "s", "article": "x", "gift": {"inside": {"inside": {}}}}
    assert argument_problem(spec, nested) is None
    assert argument_problem(spec, {**nested, "gift": {"inside": 3}}) is not None
    sent = request_of(operation, nested)
    assert sent.path == "/shops/s/orders"
    assert json.loads(sent.content or b"") == {"article": "x", "gift": {"inside": {"inside": {}}}}
    assert sent.headers == (("Content-Type", "application/json"),)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "items": {"type": "integer"}},
        {"type": "object", "additionalProperties": {"type": "integer"}},
        {"oneOf": [{"type": "object", "properties": {"a": {}}}, {"type": "string"}]},
        {},
    ],
)
def test_a_body_that_is_no_plain_object_is_one_argument(schema: JsonObject) -> None:
    """Lists and free maps have no fields to stand beside anything."""
    operation = one({"requestBody": body(schema)}, method="put")

    assert list(operation.spec.parameters["properties"]) == ["body"]
    assert operation.spec.parameters["required"] == ["body"]
    assert request_of(operation, {"body": [1, 2]}).content == b"[1,2]"


def test_a_body_is_put_together_from_all_of_its_parts() -> None:
    """`allOf` is how documents inherit."""
    parts = [{"$ref": "#/components/schemas/Order"}, {"properties": {"note": {"type": "string"}}}]
    operation = one({"requestBody": body({"allOf": parts})}, method="post", components=SCHEMAS)

    assert list(operation.spec.parameters["properties"]) == ["article", "count", "gift", "note"]


def test_an_optional_body_is_sent_only_where_something_is_said() -> None:
    """And a form is a form."""
    schema = {"type": "object", "properties": {"a": {}, "b": {}}, "required": ["a"]}
    media = "application/x-www-form-urlencoded"
    operation = one({"requestBody": body(schema, media, required=False)}, method="post")

    assert operation.spec.parameters["required"] == []
    assert request_of(operation, {}).content is None
    assert request_of(operation, {"a": "x y", "b": [1, True]}).content == b"a=x+y&b=1&b=true"


def test_names_that_clash_are_told_apart_and_noted() -> None:
    """Three things called id in one operation is everyday life."""
    schema = {"type": "object", "properties": {"id": {"type": "string"}}}
    found = described(
        {
            "/x/{id}": {
                "parameters": [{"name": "id", "in": "path", "required": True, "schema": {}}],
                "put": {
                    "parameters": [{"name": "id", "in": "query", "schema": {}}],
                    "requestBody": body(schema),
                },
            }
        }
    )
    (operation,) = found.operations

    assert list(operation.spec.parameters["properties"]) == ["id", "query_id", "body_id"]
    assert len(found.notes) == 2
    assert "PUT /x/{id}: id of the query is called query_id" in found.notes[0]
    sent = request_of(operation, {"id": "1", "query_id": "2", "body_id": "3"})
    assert (sent.path, sent.query, sent.content) == ("/x/1", "id=2", b'{"id":"3"}')


def test_names_are_what_providers_allow() -> None:
    """Letters, digits, - and _, at most 64; every tool has a name of its own."""
    found = described(
        {
            "/orders/{order-id}": {"get": {}, "delete": {"operationId": "orders.delete it"}},
            "/a": {"get": {"operationId": "x" * 80}},
            "/b": {"get": {"operationId": "x" * 80}},
            "/c": {"get": {"parameters": [{"name": "filter[state]", "in": "query", "schema": {}}]}},
        }
    )
    names = [each.spec.name for each in found.operations]

    assert names == ["get_orders_order-id", "orders_delete_it", "x" * 64, "x" * 60 + "_2", "get_c"]
    sent = request_of(found.operations[-1], {"filter_state": "open"})
    assert sent.query == "filter%5Bstate%5D=open"


def test_methods_say_what_is_touched_and_the_document_says_it_better() -> None:
    """RFC 9110: GET is safe, PUT and DELETE are idempotent."""
    effects = {"reads": ["order:{id}"], "writes": ["order:{id}"]}
    found = described(
        {
            "/x/{id}": {
                "get": {},
                "head": {},
                "post": {},
                "delete": {},
                "patch": {"x-cacherl-effects": effects},
            }
        }
    )
    by_method = {each.method: each.spec.effects for each in found.operations}

    assert by_method["GET"] == by_method["HEAD"] == Effects(reads=("*",))
    assert by_method["POST"] == UNDECLARED
    assert by_method["DELETE"] == Effects(reads=("*",), writes=("*",), idempotent=True)
    assert by_method["PATCH"] == Effects(reads=("order:{id}",), writes=("order:{id}",))


def test_what_cannot_be_a_tool_is_left_out_and_noted() -> None:
    """One broken operation must not take the others along."""
    file = {"multipart/form-data": {"schema": {"type": "object"}}}
    found = described(
        {
            "/good": {"get": {}},
            "/upload": {"post": {"requestBody": {"required": True, "content": file}}},
            "/maybe": {"post": {"requestBody": {"content": file}}},
            "/lost": {"get": {"parameters": [{"$ref": "#/components/parameters/None"}]}},
            "/far": {"get": {"parameters": [{"$ref": "other.json#/x"}]}},
            "/odd": {"get": {"parameters": [{"name": "a", "in": "body", "schema": {}}]}},
            "/wrong": {
                "get": {"parameters": [{"name": "a", "in": "query", "schema": {"type": 3}}]}
            },
            "/typo/{id}": {"get": {"x-cacherl-effects": {"reads": ["order:{order}"]}}},
            "/no": {"get": {"x-cacherl-effects": {"read": ["*"]}}},
            "/circle": {"$ref": "#/paths/~1circle"},
        }
    )

    assert [each.path for each in found.operations] == ["/good", "/maybe"]
    notes = "\n".join(found.notes)
    for seen in (
        "POST /upload is left out: its body is multipart/form-data",
        "POST /maybe: its optional body",
        "GET /lost is left out: its reference /components/parameters/None leads nowhere",
        "GET /far is left out: its reference other.json#/x leads nowhere",
        "GET /odd is left out: its parameter a stands in 'body'",
        "GET /wrong is left out",
        "no parameter 'order'",
        "GET /no is left out: its x-cacherl-effects",
        "/circle is left out",
    ):
        assert seen in notes


def test_schemas_of_3_0_become_json_schema() -> None:
    """`nullable` and a boolean `exclusiveMinimum` mean nothing to a validator of today."""
    schema = {
        "type": "object",
        "properties": {
            "note": {"type": "string", "nullable": True, "enum": ["a", "b"], "example": "a"},
            "count": {"type": "integer", "minimum": 0, "exclusiveMinimum": True},
            "gift": {"nullable": True, "allOf": [{"$ref": "#/components/schemas/Gift"}]},
            "code": {"type": "string", "pattern": r"^\p{Lu}+$"},
        },
    }
    spec = one(
        {"requestBody": body(schema)}, method="post", version="3.0.3", components=SCHEMAS
    ).spec

    assert argument_problem(spec, {"note": None, "count": 1, "gift": None, "code": "É"}) is None
    assert argument_problem(spec, {"count": 0}) is not None
    assert argument_problem(spec, {"note": "c"}) is not None
    assert argument_problem(spec, {"gift": 3}) is not None
    assert "example" not in json.dumps(spec.parameters)


def test_references_lead_into_other_documents() -> None:
    """Large documents come in parts; two of them may call different things Order."""
    other = {"Order": {"type": "integer"}, "Inner": {"$ref": "#/Order"}}
    parameters = [
        {"name": "a", "in": "query", "schema": {"$ref": "schemas.json#/Inner"}},
        {"name": "b", "in": "query", "schema": {"$ref": "#/components/schemas/Order"}},
    ]
    asked: list[str] = []

    def fetch(uri: str) -> Any:
        asked.append(uri)
        return other

    found = operations_of(
        document({"/x": {"get": {"parameters": parameters}}}, components=SCHEMAS), URI, fetch
    )
    spec = found.operations[0].spec

    assert asked == ["file:///work/schemas.json"]
    assert argument_problem(spec, {"a": 3, "b": {"article": "x", "id": "1"}}) is None
    assert argument_problem(spec, {"a": "x"}) is not None
    assert argument_problem(spec, {"b": 3}) is not None


def test_yaml_means_what_its_author_meant() -> None:
    """`no` is a country and a date is a string, whatever YAML 1.1 says."""
    text = (
        "openapi: 3.0.0\nx:\n  enum: [no, yes, on, true]\n  since: 2024-01-01\n  codes: {200: ok}\n"
    )

    assert decoded(text, "f")["x"] == {
        "enum": ["no", "yes", "on", True],
        "since": "2024-01-01",
        "codes": {200: "ok"},
    }
    with pytest.raises(ValueError, match="neither JSON nor YAML"):
        decoded("a: [", "f")


@pytest.mark.parametrize(
    ("read", "seen"),
    [
        ({"swagger": "2.0"}, "Swagger 2.0"),
        ({"openapi": 3}, "not an OpenAPI 3 document"),
        ([], "not an OpenAPI 3 document"),
        ({"openapi": "3.1.0"}, "no operation"),
        ({"openapi": "3.1.0", "paths": {"/x": {"get": {"requestBody": {"required": True}}}}}, "/x"),
    ],
)
def test_what_is_no_such_document_is_refused(read: Any, seen: str) -> None:
    """With the next thing to type where there is one."""
    with pytest.raises(ToolError) as wrong:
        operations_of(read, URI, lambda uri: {})

    assert seen in str(wrong.value)


def test_descriptions_servers_and_keys_are_read() -> None:
    """Summary and description, variables of the server, and a word about keys."""
    found = described(
        {
            "/x": {
                "get": {"summary": "Read.", "description": "Read. All of it.", "deprecated": True},
                "post": {"servers": [{"url": "/v2"}], "security": [{"key": []}]},
            }
        },
        servers=[{"url": "https://{region}.example", "variables": {"region": {"default": "eu"}}}],
    )
    read, write = found.operations

    assert read.spec.description == "Read. All of it.\n\nDeprecated."
    assert write.spec.description == "POST /x"
    assert (read.server, write.server) == ("https://eu.example", "/v2")
    assert found.notes == ("the service asks for keys: give them as `headers` or `query`",)
