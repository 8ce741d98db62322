"""An OpenAPI document as tools, and a call of one as an HTTP request. Pure: nothing is sent here.

Every operation is one tool. Its parameters and the fields of its body are the tool's arguments, side
by side; where two share a name, one is renamed and that is noted.

Source: OpenAPI Specification 3.0.4 and 3.1.1, "Parameter Object" (styles), "Request Body Object".
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote, urlencode

import jsonschema
import msgspec
import referencing
import referencing.exceptions
import referencing.jsonschema

from cacherl.core.errors import MissingExtraError, ToolError
from cacherl.core.records import JsonObject
from cacherl.core.tools import UNDECLARED, Effects, ToolSpec
from cacherl.toolbox.config import effects_problem

EFFECTS = "x-cacherl-effects"
"""On an operation, `{"reads": [...], "writes": [...]}` declares what it touches."""

METHODS = ("get", "head", "post", "put", "patch", "delete")
_READS = ("get", "head")
_IDEMPOTENT = ("put", "delete")  # RFC 9110, 9.2.2
_WHOLE = "body"
_JSON = "application/json"
_FORM = "application/x-www-form-urlencoded"
_NAME_CHARACTERS = 64  # what the large providers allow in names of tools and arguments

Fetch = Callable[[str], Any]
"""Returns the decoded document at a URI; raises `OSError` or `ValueError` where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """Where one argument goes."""

    argument: str
    """What the tool calls it."""
    name: str
    """What the service calls it."""
    place: str
    """`path`, `query`, `header` or `cookie`."""
    style: str
    explode: bool
    reserved: bool = False
    """Reserved characters stay as they are (query only)."""
    as_json: bool = False
    """The value is sent as JSON text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """How arguments become the request's body."""

    media: str
    required: bool
    whole: str | None = None
    """The argument that is the body itself."""
    fields: Mapping[str, str] = field(default_factory=dict)
    """Else: the field of the body that an argument is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One tool, and how a call of it is sent."""

    spec: ToolSpec
    method: str
    path: str
    """A template: `/orders/{order_id}`."""
    server: str | None
    """As the document says it; perhaps relative to the document."""
    parameters: tuple[Parameter, ...]
    body: Body | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """What a document offers."""

    operations: tuple[Operation, ...]
    notes: tuple[str, ...]
    """What was left out or renamed, and why; a sentence each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request but for the server and its keys. Everything is encoded."""

    method: str
    path: str
    query: str
    headers: tuple[tuple[str, str], ...]
    content: bytes | None


# ---- reading a document ------------------------------------------------------------------------


def decoded(text: str, where: str) -> Any:
    """Return a JSON or YAML document.

    YAML is read by the rules of YAML 1.2, as OpenAPI asks: `no` is a word, `2024-01-01` a string.

    Raises:
        ValueError: it is neither.
        MissingExtraError: it is YAML, and PyYAML is not installed.
    """
    if text.lstrip()[:1] in ("{", "["):
        return json.loads(text)
    try:
        import yaml
    except ModuleNotFoundError as error:
        raise MissingExtraError("pyyaml", "http") from error

    ours = ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:bool")
    fast: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    resolvers = {
        first: [(tag, pattern) for tag, pattern in pairs if tag not in ours]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    loader: Any = type("Loader", (fast,), {"yaml_implicit_resolvers": resolvers})
    loader.add_implicit_resolver(ours[1], re.compile(r"(?:true|false)\Z", re.I), list("tTfF"))
    try:
        return yaml.load(text, loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(f"{where}: neither JSON nor YAML: {error}") from error


def operations_of(
    document: Any,
    uri: str,
    fetch: Fetch,
    *,
    sent: frozenset[tuple[str, str]] = frozenset(),
) -> Described:
    """Return the tools that a document describes.

    An operation that cannot be a tool is left out and noted.

    Args:
        document: decoded.
        uri: where it came from; relative references start there.
        fetch: gets the other documents that it refers to.
        sent: (place, name in lower case) of parameters that are sent with every call anyway.

    Raises:
        ToolError: it is no OpenAPI 3 document, or offers nothing.
    """
    version = document.get("openapi") if isinstance(document, dict) else None
    if not isinstance(version, str) or not version.startswith("3."):
        seen = document.get("swagger") if isinstance(document, dict) else None
        raise ToolError(
            f"{uri}: not an OpenAPI 3 document"
            + (
                f" but Swagger {seen}; convert it first, with `npx swagger2openapi`."
                if seen
                else "."
            )
        )

    kept: dict[str, referencing.Resource[Any]] = {}

    def retrieve(other: str) -> referencing.Resource[Any]:
        if other not in kept:
            kept[other] = referencing.Resource.opaque(fetch(other))
        return kept[other]

    registry: referencing.Registry[Any] = referencing.Registry(retrieve=retrieve)  # type: ignore[call-arg]
    registry = registry.with_resource(uri, referencing.Resource.opaque(document))
    reader = _Reader(
        resolver=registry.resolver(base_uri=uri), old=version.startswith("3.0"), sent=sent
    )
    operations: list[Operation] = []
    if not sent and _asks_for_keys(document):
        reader.notes.append("the service asks for keys: give them as `headers` or `query`")
    taken: set[str] = set()
    for path, method, item, here in reader.items(document):
        try:
            operation = reader.operation(path, method, item, here, document, taken)
        except _BROKEN as error:
            reader.notes.append(f"{method.upper()} {path} is left out: {_reason(error)}")
            continue
        taken.add(operation.spec.name)
        operations.append(operation)
    if not operations:
        raise ToolError(
            f"{uri}: describes no operation that can be a tool"
            + (f" ({reader.notes[0]})." if reader.notes else ".")
        )
    return Described(operations=tuple(operations), notes=tuple(reader.notes))


def _asks_for_keys(document: JsonObject) -> bool:
    items = document.get("paths")
    operations = [
        operation
        for item in (items.values() if isinstance(items, dict) else ())
        if isinstance(item, dict)
        for operation in item.values()
        if isinstance(operation, dict)
    ]
    return any(bool(each.get("security")) for each in (document, *operations))


class _Unusable(Exception):
    """This operation cannot be a tool."""


_BROKEN = (_Unusable, referencing.exceptions.Unresolvable, RecursionError)


def _reason(error: Exception) -> str:
    if isinstance(error, referencing.exceptions.Unresolvable):
        return f"its reference {error.ref} leads nowhere"
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)


_Resolver = Any  # referencing.Resolver, which is not exported by name


@dataclass(slots=True, kw_only=True)
class _Reader:
    resolver: _Resolver
    old: bool
    """OpenAPI 3.0, whose schemas are no JSON Schema yet."""
    sent: frozenset[tuple[str, str]]
    notes: list[str] = field(default_factory=list)

    def items(self, document: JsonObject) -> Iterator[tuple[str, str, JsonObject, _Resolver]]:
        """Yield path, method, path item and resolver of every operation."""
        paths = document.get("paths")
        for path, said in (paths if isinstance(paths, dict) else {}).items():
            try:
                item, here = _followed(said, self.resolver)
            except _BROKEN as error:
                self.notes.append(f"{path} is left out: {_reason(error)}")
                continue
            for method in METHODS:
                if isinstance(item, dict) and isinstance(item.get(method), dict):
                    yield str(path), method, item, here

    def operation(
        self,
        path: str,
        method: str,
        item: JsonObject,
        resolver: _Resolver,
        document: JsonObject,
        taken: set[str],
    ) -> Operation:
        """Return one operation as a tool.

        Raises:
            _Unusable: says why it cannot be one.
        """
        said = item[method]
        schemas = _Schemas(old=self.old)
        name = _free(_name(str(said.get("operationId") or f"{method}{path}")), taken)
        properties: JsonObject = {}
        required: list[str] = []
        parameters = []
        for each, here in self._parameters(path, item, said, resolver):
            place, own = str(each["in"]), str(each["name"])
            if (place, own.lower() if place == "header" else own) in self.sent:
                continue
            argument = self._argument(own, place, properties, f"{method.upper()} {path}")
            parameter, properties[argument] = _parameter(each, here, argument, schemas)
            parameters.append(parameter)
            if each.get("required") or place == "path":
                required.append(argument)
        body = self._body(said, resolver, schemas, properties, required, f"{method.upper()} {path}")
        schema: JsonObject = {"type": "object", "properties": properties, "required": required}
        if schemas.defs:
            schema["$defs"] = schemas.defs
        try:
            jsonschema.Draft202012Validator.check_schema(schema)
        except jsonschema.SchemaError as error:
            at = ".".join(str(step) for step in error.path)
            raise _Unusable(f"{at} is no JSON Schema ({error.message[:200]})") from error
        servers = said.get("servers") or item.get("servers") or document.get("servers") or []
        return Operation(
            spec=_spec(name, method, path, said, item, schema),
            method=method.upper(),
            path=path,
            server=_server(servers),
            parameters=tuple(parameters),
            body=body,
        )

    def _parameters(
        self, path: str, item: JsonObject, said: JsonObject, resolver: _Resolver
    ) -> list[tuple[JsonObject, _Resolver]]:
        """Return the operation's parameters; its own win over those of the path."""
        found: dict[tuple[str, str], tuple[JsonObject, _Resolver]] = {}
        for each in (*_list(item.get("parameters")), *_list(said.get("parameters"))):
            parameter, here = _followed(each, resolver)
            if not isinstance(parameter, dict) or not {"in", "name"} <= set(parameter):
                raise _Unusable("one of its parameters has no `in` or no `name`")
            place, name = parameter["in"], parameter["name"]
            if place not in ("path", "query", "header", "cookie"):
                raise _Unusable(f"its parameter {name} stands in {place!r}, which is unknown")
            if place == "header" and name.lower() in ("accept", "content-type", "authorization"):
                continue  # the specification says that these shall be ignored
            found[place, name] = parameter, here
        for name in _TEMPLATE.findall(path):
            undeclared = {"name": name, "in": "path", "schema": {"type": "string"}}
            found.setdefault(("path", name), (undeclared, resolver))
        return list(found.values())

    def _argument(self, own: str, place: str, taken: Mapping[str, Any], where: str) -> str:
        plain = _name(own, dots=True)
        if plain not in taken:
            return plain
        argument = _free(f"{place}_{plain}"[:_NAME_CHARACTERS], taken)
        self.notes.append(f"{where}: {own} of the {place} is called {argument}, {plain} is taken")
        return argument

    def _body(
        self,
        said: JsonObject,
        resolver: _Resolver,
        schemas: _Schemas,
        properties: JsonObject,
        required: list[str],
        where: str,
    ) -> Body | None:
        """Return how the body is made; its arguments are added to `properties` and `required`."""
        if said.get("requestBody") is None:
            return None
        body, resolver = _followed(said["requestBody"], resolver)
        content = body.get("content") if isinstance(body, dict) else None
        media = _media(content if isinstance(content, dict) else {})
        needed = bool(body.get("required"))
        if media is None:
            if not needed:
                self.notes.append(f"{where}: its optional body is no JSON and is left out")
                return None
            raise _Unusable(f"its body is {', '.join(content or ['nothing'])}, not JSON or a form")
        node = (content or {})[media].get("schema", {})
        fields = _fields(node, resolver)
        kind = _FORM if media.partition(";")[0].strip() == _FORM else media
        kind = _JSON if "*" in kind else kind
        if not fields:
            argument = self._argument(_WHOLE, "request", properties, where)
            schema = schemas.schema(node, resolver)
            told = body.get("description")
            properties[argument] = {"description": told, **schema} if told else schema
            if needed:
                required.append(argument)
            return Body(media=kind, required=needed, whole=argument)
        named: dict[str, str] = {}
        for name, (inner, here, is_required) in fields.items():
            target, _ = _followed(inner, here)
            if isinstance(target, dict) and target.get("readOnly"):
                continue  # of answers only
            argument = self._argument(name, _WHOLE, properties, where)
            properties[argument] = schemas.schema(inner, here)
            named[argument] = name
            if needed and is_required:
                required.append(argument)
        return Body(media=kind, required=needed, fields=named)


def _spec(
    name: str, method: str, path: str, said: JsonObject, item: JsonObject, schema: JsonObject
) -> ToolSpec:
    parts = [said.get("summary") or item.get("summary"), said.get("description")]
    told = [part.strip() for part in parts if isinstance(part, str) and part.strip()]
    if len(told) == 2 and told[1].startswith(told[0]):
        del told[0]
    if said.get("deprecated"):
        told.append("Deprecated.")
    effects = Effects(reads=("*",)) if method in _READS else UNDECLARED
    if method in _IDEMPOTENT:
        effects = msgspec.structs.replace(effects, idempotent=True)
    declared = said.get(EFFECTS, item.get(EFFECTS))
    if declared is not None:
        try:
            effects = msgspec.convert(declared, Effects)
        except msgspec.ValidationError as error:
            raise _Unusable(f"its {EFFECTS} are no effects ({error})") from error
    spec = ToolSpec(
        name=name,
        description="\n\n".join(told) or f"{method.upper()} {path}",
        parameters=schema,
        effects=effects,
    )
    problem = effects_problem(spec)
    if problem is not None:
        raise _Unusable(problem)
    return spec


def _parameter(
    said: JsonObject, resolver: _Resolver, argument: str, schemas: _Schemas
) -> tuple[Parameter, JsonObject]:
    content = said.get("content")
    as_json = isinstance(content, dict) and bool(content)
    if as_json:
        media, described = next(iter(content.items()))  # type: ignore[union-attr]
        if not _is_json(media):
            raise _Unusable(f"its parameter {said['name']} is {media}, not JSON")
        node = described.get("schema", {})
    else:
        node = said.get("schema", {})
    schema = schemas.schema(node, resolver)
    if said.get("description") and "description" not in schema:
        schema = {**schema, "description": said["description"]}
    place = said["in"]
    style = said.get("style") or ("form" if place in ("query", "cookie") else "simple")
    return (
        Parameter(
            argument=argument,
            name=said["name"],
            place=place,
            style=style,
            explode=bool(said.get("explode", style == "form")),
            reserved=bool(said.get("allowReserved")),
            as_json=as_json,
        ),
        schema,
    )


def _followed(node: Any, resolver: _Resolver) -> tuple[Any, _Resolver]:
    """Return what a reference leads to, and the resolver of the document it stands in."""
    for _ in range(100):
        if not isinstance(node, dict) or not isinstance(node.get("$ref"), str):
            return node, resolver
        found = resolver.lookup(node["$ref"])
        node, resolver = found.contents, found.resolver
    raise _Unusable(f"its reference {node['$ref']} leads in a circle")


def _fields(node: Any, resolver: _Resolver) -> dict[str, tuple[Any, _Resolver, bool]] | None:
    """Return the fields of a body (schema, resolver, required), or None where it is no plain object."""
    node, resolver = _followed(node, resolver)
    if not isinstance(node, dict) or node.get("type", "object") != "object":
        return None
    if node.get("nullable") or node.get("additionalProperties"):
        return None
    if any(key in node for key in ("oneOf", "anyOf", "not", "if", "patternProperties")):
        return None
    found: dict[str, tuple[Any, _Resolver, bool]] = {}
    required = set(_list(node.get("required")))
    for part in _list(node.get("allOf")):
        inner = _fields(part, resolver)
        if inner is None or inner.keys() & found.keys():
            return None
        found |= inner
    properties = node.get("properties")
    own = properties if isinstance(properties, dict) else {}
    if own.keys() & found.keys():
        return None
    found |= {name: (schema, resolver, False) for name, schema in own.items()}
    return {
        name: (schema, here, needed or name in required)
        for name, (schema, here, needed) in found.items()
    }


def _media(content: Mapping[str, Any]) -> str | None:
    """Return the media type in which a body is sent: JSON before a form, nothing else."""
    for media in content:
        if media.partition(";")[0].strip() == _JSON:
            return media
    for media in content:
        if _is_json(media) or media == "*/*":
            return media
    return next((media for media in content if media.partition(";")[0].strip() == _FORM), None)


def _is_json(media: str) -> bool:
    plain = media.partition(";")[0].strip().lower()
    return plain in (_JSON, "application/*") or plain.endswith("+json")


def _server(servers: Any) -> str | None:
    if not isinstance(servers, list) or not servers or not isinstance(servers[0], dict):
        return None
    variables = servers[0].get("variables") or {}
    return _TEMPLATE.sub(
        lambda m: str(variables.get(m[1], {}).get("default", m[0])), str(servers[0].get("url", ""))
    )


def _name(text: str, *, dots: bool = False) -> str:
    plain = re.sub(r"[^A-Za-z0-9_.-]+" if dots else r"[^A-Za-z0-9_-]+", "_", text).strip("_")
    return plain[:_NAME_CHARACTERS] or "unnamed"


def _free(name: str, taken: Sequence[str] | Mapping[str, Any] | set[str]) -> str:
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name[: _NAME_CHARACTERS - 4]}_{number}"
    return free


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


# ---- schemas -----------------------------------------------------------------------------------

_PLAIN = frozenset(
    [
        "type",
        "enum",
        "const",
        "format",
        "description",
        "default",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "multipleOf",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
        "uniqueItems",
        "minProperties",
        "maxProperties",
        "x-kind",
        "x-unordered",
    ]
)
_ONE = frozenset(
    [
        "additionalProperties",
        "items",
        "not",
        "contains",
        "propertyNames",
        "if",
        "then",
        "else",
        "unevaluatedProperties",
    ]
)
_MANY = frozenset(["allOf", "anyOf", "oneOf", "prefixItems"])
_MAPS = frozenset(["properties", "patternProperties", "dependentSchemas"])


@dataclass(slots=True, kw_only=True)
class _Schemas:
    """Schemas of one operation as JSON Schema 2020-12; references lead into its own `$defs`."""

    old: bool
    defs: JsonObject = field(default_factory=dict)
    _names: dict[int, str] = field(default_factory=dict)

    def schema(self, node: Any, resolver: _Resolver) -> JsonObject:
        """Return a schema; always an object, so that a description can be added."""
        found = self._schema(node, resolver)
        return found if isinstance(found, dict) else ({} if found else {"not": {}})

    def _schema(self, node: Any, resolver: _Resolver) -> Any:
        if isinstance(node, bool) or not isinstance(node, dict):
            return node is not False
        if isinstance(node.get("$ref"), str):
            return self._referred(node, resolver)
        found: JsonObject = {key: value for key, value in node.items() if key in _PLAIN}
        for key, value in node.items():
            if key in _ONE:
                found[key] = self._schema(value, resolver)
            elif key in _MANY:
                found[key] = [self._schema(each, resolver) for each in _list(value)]
            elif key in _MAPS and isinstance(value, dict):
                found[key] = {
                    name: self._schema(inner, resolver)
                    for name, inner in value.items()
                    if not (isinstance(inner, dict) and inner.get("readOnly"))
                    and (key != "patternProperties" or _compiles(name))
                }
        if "pattern" in node and _compiles(node["pattern"]):
            found["pattern"] = node["pattern"]
        shown, every = found.get("properties", {}), node.get("properties")
        hidden = every.keys() - shown.keys() if isinstance(every, dict) else ()
        required = [each for each in _list(node.get("required")) if each not in hidden]
        if required:
            found["required"] = required
        return _modern(found, node) if self.old else found

    def _referred(self, node: JsonObject, resolver: _Resolver) -> JsonObject:
        reference = node["$ref"]
        _followed(node, resolver)  # a circle of nothing but references would never be a schema
        resolved = resolver.lookup(reference)
        # By identity: two documents may both have a #/components/schemas/Order.
        name = self._names.get(id(resolved.contents))
        if name is None:
            last = unquote(reference.rstrip("/").rpartition("/")[2]) or "schema"
            name = self._names[id(resolved.contents)] = _free(_name(last, dots=True), self.defs)
            self.defs[name] = {}  # taken, before anything inside refers back to it
            self.defs[name] = self._schema(resolved.contents, resolved.resolver)
        beside = {key: value for key, value in node.items() if key != "$ref"}
        if self.old:  # 3.0 ignores what stands beside a reference; people write descriptions there
            beside = {key: value for key, value in beside.items() if key == "description"}
        own = self._schema(beside, resolver)
        return {"$ref": f"#/$defs/{name}", **(own if isinstance(own, dict) else {})}


def _modern(found: JsonObject, node: JsonObject) -> JsonObject:
    """Return a schema of OpenAPI 3.0 as JSON Schema 2020-12."""
    for bound in ("Minimum", "Maximum"):
        exclusive, plain = f"exclusive{bound}", bound.lower()
        if isinstance(found.get(exclusive), bool) and found.pop(exclusive) and plain in found:
            found[exclusive] = found.pop(plain)
    if not node.get("nullable"):
        return found
    if isinstance(found.get("type"), str):
        found["type"] = [found["type"], "null"]
        if "enum" in found and None not in found["enum"]:
            found["enum"] = [*found["enum"], None]
        return found
    return {"anyOf": [found, {"type": "null"}]}


def _compiles(pattern: Any) -> bool:
    """Say whether Python can read a pattern: they are ECMAScript's, and not every one is."""
    try:
        re.compile(pattern)
    except (re.error, TypeError):
        return False
    return True


# ---- a call as a request -----------------------------------------------------------------------

_TEMPLATE = re.compile(r"\{([^{}]+)\}")
_RESERVED = ":/?@!$'()*,;[]"  # & = + # would end the value


def request_of(operation: Operation, arguments: JsonObject) -> Request:
    """Return the request of a call. An argument that is null is left out, but in a JSON body.

    Args:
        operation: what is called.
        arguments: valid by the operation's schema.

    Raises:
        ValueError: an argument cannot be sent there; says which and why.
    """
    path = operation.path
    query: list[str] = []
    headers: list[tuple[str, str]] = []
    cookies: list[str] = []
    for each in operation.parameters:
        value = arguments.get(each.argument)
        if value is None:
            continue
        if each.as_json:
            value = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        match each.place:
            case "path":
                path = path.replace(f"{{{each.name}}}", _in_path(each, value))
            case "query":
                query += _in_query(each, value)
            case "header":
                headers.append((each.name, _in_header(each, value)))
            case _:
                cookies += _in_query(each, value)
    if any(part in (".", "..") for part in re.split(r"[/\\]", unquote(path))):
        raise ValueError("a path must not contain . or .. as a part")
    if cookies:
        headers.append(("Cookie", "; ".join(cookies)))
    content = None if operation.body is None else _content(operation.body, arguments)
    if content is not None and operation.body is not None:
        headers.append(("Content-Type", operation.body.media))
    return Request(
        method=operation.method,
        path=path,
        query="&".join(query),
        headers=tuple(headers),
        content=content,
    )


def _in_path(parameter: Parameter, value: Any) -> str:
    name = quote(parameter.name, safe="")
    pieces = [_quoted(piece) for piece in _pieces(value)]
    if not pieces or not all(pieces):
        raise ValueError(f"{parameter.argument}: empty, and it stands in the path")
    pairs = (
        [f"{_quoted(key)}={_quoted(inner)}" for key, inner in value.items()]
        if isinstance(value, dict)
        else []
    )
    explode, is_plain = parameter.explode, not isinstance(value, dict | list)
    match parameter.style:
        case "label":
            joined = pairs if pairs and explode else pieces
            return "." + (".".join(joined) if explode else ",".join(joined))
        case "matrix" if pairs and explode:
            return "".join(f";{pair}" for pair in pairs)
        case "matrix" if explode and not is_plain:
            return "".join(f";{name}={piece}" for piece in pieces)
        case "matrix":
            return f";{name}={','.join(pieces)}"
        case _:
            return ",".join(pairs if pairs and explode else pieces)


def _in_query(parameter: Parameter, value: Any) -> list[str]:
    """Return the `name=value` parts of a query or a cookie."""
    safe = _RESERVED if parameter.reserved else ""
    name = quote(parameter.name, safe="")
    if parameter.style == "deepObject" and isinstance(value, dict):
        return list(_deep(name, value, safe))
    if isinstance(value, dict) and parameter.explode:
        return [f"{_quoted(key)}={_quoted(inner, safe)}" for key, inner in value.items()]
    pieces = [_quoted(piece, safe) for piece in _pieces(value)]
    if parameter.explode and isinstance(value, list):
        return [f"{name}={piece}" for piece in pieces]
    between = {"spaceDelimited": "%20", "pipeDelimited": "%7C"}.get(parameter.style, ",")
    return [f"{name}={between.join(pieces)}"]


def _deep(name: str, value: Any, safe: str) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _deep(f"{name}%5B{_quoted(key)}%5D", inner, safe)
    elif isinstance(value, list):
        for inner in value:
            yield from _deep(name, inner, safe)
    else:
        yield f"{name}={_quoted(_text(value), safe)}"


def _in_header(parameter: Parameter, value: Any) -> str:
    if isinstance(value, dict) and parameter.explode:
        text = ",".join(f"{key}={_text(inner)}" for key, inner in value.items())
    else:
        text = ",".join(_pieces(value))
    if not text.isprintable():
        raise ValueError(f"{parameter.argument}: a header holds no control characters")
    return text


def _content(body: Body, arguments: JsonObject) -> bytes | None:
    if body.whole is not None:
        if body.whole not in arguments:
            return None
        value = arguments[body.whole]
    else:
        value = {name: arguments[own] for own, name in body.fields.items() if own in arguments}
        if not value and not body.required:
            return None
    if body.media == _FORM:
        pairs = value.items() if isinstance(value, dict) else []
        return urlencode(
            [
                (key, _text(each))
                for key, inner in pairs
                if inner is not None
                for each in (inner if isinstance(inner, list) else [inner])
            ]
        ).encode()
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(
        errors="backslashreplace"
    )


def _pieces(value: Any) -> list[str]:
    """Return a value as the texts that a style joins: an object as key, value, key, value."""
    if isinstance(value, dict):
        return [text for key, inner in value.items() for text in (key, _text(inner))]
    if isinstance(value, list):
        return [_text(inner) for inner in value]
    return [_text(value)]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _quoted(value: Any, safe: str = "") -> str:
    return quote(_text(value), safe=safe, errors="backslashreplace")
