"""Parameters as other people declare them, into JSON Schema that any validator accepts.

Data sets and benchmarks declare parameters as JSON Schema, nearly JSON Schema (`"type": "dict"`, a
`required: true` inside a property) or as a list of names with Python types. A schema that a validator
chokes on would stop a rollout months later, so only keywords we know stay, and only where they are
well formed.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from cacherl.core.records import JsonObject

ANYTHING: JsonObject = {"type": "object", "additionalProperties": True}
"""Arguments of which nothing is known."""

_MAX_DEPTH = 40
_NAMES_OF_TYPES: Mapping[str, str] = {
    **dict.fromkeys(("object", "dict", "dictionary", "map", "mapping", "hashmap"), "object"),
    **dict.fromkeys(("array", "list", "tuple", "set", "sequence", "iterable"), "array"),
    **dict.fromkeys(("string", "str", "text", "char"), "string"),
    **dict.fromkeys(("integer", "int", "long"), "integer"),
    **dict.fromkeys(("number", "float", "double", "decimal"), "number"),
    **dict.fromkeys(("boolean", "bool"), "boolean"),
    **dict.fromkeys(("null", "none", "nonetype"), "null"),
}


def parameters_of(said: Any) -> JsonObject:
    """Return what was said of a tool's parameters as a JSON Schema of `type: object`.

    What cannot be understood says nothing and so allows everything. Never raises.
    """
    if isinstance(said, str):
        try:
            said = msgspec.json.decode(said)
        except (msgspec.DecodeError, RecursionError):
            return dict(ANYTHING)
    if said is None or said in ({}, []):
        return {"type": "object", "properties": {}}
    try:
        key = msgspec.json.encode(said)
    except (RecursionError, TypeError, ValueError, UnicodeEncodeError):
        return dict(ANYTHING)
    return dict(msgspec.json.decode(_schema(key)))


@functools.lru_cache(maxsize=8192)
def _schema(said: bytes) -> bytes:
    """Return the schema, JSON to JSON: data sets repeat the same few thousand tools on every row."""
    return msgspec.json.encode(_root(msgspec.json.decode(said)))


def _root(said: Any) -> JsonObject:
    if isinstance(said, list):  # [{"name": "city", "type": "string"}, ...]
        named = [
            each for each in said if isinstance(each, dict) and isinstance(each.get("name"), str)
        ]
        if len(named) != len(said):
            return dict(ANYTHING)
        said = {each["name"]: {k: v for k, v in each.items() if k != "name"} for each in named}
    if not isinstance(said, dict):
        return dict(ANYTHING)
    schema = _mended(said, said, 0) if _is_schema(said) else _listed(said)
    if schema.get("type") != "object":
        schema["type"] = "object"
    if "properties" not in schema and "additionalProperties" not in schema:
        schema["additionalProperties"] = True
    return schema


def _is_schema(said: JsonObject) -> bool:
    """Say whether this is a schema, and not a mapping of parameter names to what they are."""
    if isinstance(said.get("properties"), dict) or "$ref" in said:
        return True
    kind = said.get("type")
    if isinstance(kind, str) and _NAMES_OF_TYPES.get(kind.strip().lower()) == "object":
        return True
    return any(isinstance(said.get(union), list) for union in ("anyOf", "oneOf", "allOf"))


def _listed(said: JsonObject) -> JsonObject:
    """Return the schema of parameters by name (xLAM): `{"city": {"type": "str, optional", ...}}`."""
    properties: JsonObject = {}
    required = []
    for name, what in said.items():
        about = what if isinstance(what, dict) else {"type": what if isinstance(what, str) else ""}
        kind = about.get("type")
        words = kind if isinstance(kind, str) else ""
        optional = bool(re.search(r"\boptional\b", words, re.IGNORECASE)) or "default" in about
        schema = typed(words) if words else {}
        schema |= {
            k: v for k, v in _mended(about, about, 1).items() if k not in ("type", "default")
        }
        if not isinstance(kind, str):
            schema |= {k: v for k, v in _mended(about, about, 1).items() if k == "type"}
        # An empty text as the default of a number says only that there is one.
        if "default" in about and _is_of(about["default"], schema.get("type")):
            schema["default"] = about["default"]
        properties[name] = schema
        if not optional and about.get("required") is not False:
            required.append(name)
    return {"type": "object", "properties": properties, "required": required}


def _is_of(value: Any, kind: Any) -> bool:
    if isinstance(value, bool):
        return kind in ("boolean", None)
    match value:
        case str():
            return kind in ("string", None)
        case int():
            return kind in ("integer", "number", None)
        case float():
            return kind in ("number", None)
        case list():
            return kind in ("array", None)
        case dict():
            return kind in ("object", None)
    return False


def typed(words: str) -> JsonObject:
    """Return the schema of a type as Python writes it: `str`, `List[int]`, `Optional[Dict[str, Any]]`.

    A type that nobody knows says nothing: `{}`. Never raises.
    """
    return _typed(re.sub(r",\s*(?:optional|default\b[^,\]]*)\s*", "", words.strip(), flags=re.I), 0)


def _typed(words: str, depth: int) -> JsonObject:
    words = words.strip().removeprefix("typing.").strip()
    found = re.fullmatch(r"(\w+)\s*\[(.*)\]", words, re.DOTALL)
    if depth > _MAX_DEPTH:
        return {}
    if found is None:
        options = [part for part in words.split("|") if part.strip()]
        if len(options) > 1:
            return _either(options, depth)
        name = _NAMES_OF_TYPES.get(words.lower())
        return {} if name is None else {"type": name}
    outer, inner = found[1].lower(), _split(found[2])
    if outer == "optional":
        return _typed(inner[0], depth + 1)
    if outer == "union":
        return _either(inner, depth)
    if outer == "literal":
        values = [part.strip().strip("'\"") for part in inner]
        return {"type": "string", "enum": list(dict.fromkeys(values))}
    name = _NAMES_OF_TYPES.get(outer)
    if name == "array":
        items = _typed(inner[0], depth + 1)
        same = len({part.strip() for part in inner if part.strip() != "..."}) == 1
        return {"type": "array", **({"items": items} if items and same else {})}
    return {} if name is None else {"type": name}


def _either(options: Iterable[str], depth: int) -> JsonObject:
    schemas = [_typed(option, depth + 1) for option in options if option.strip().lower() != "none"]
    if len(schemas) == 1:
        return schemas[0]
    return {"anyOf": schemas} if schemas and all(schemas) else {}


def _split(inner: str) -> list[str]:
    """Return the parts between commas that stand in no bracket."""
    parts, depth = [""], 0
    for char in inner:
        depth += (char == "[") - (char == "]")
        if char == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return parts


# ------------------------------------------------------------------------- nearly JSON Schema


def _mended(said: Any, root: JsonObject, depth: int) -> JsonObject:
    """Return the well-formed part of a schema."""
    if not isinstance(said, dict) or depth > _MAX_DEPTH:
        return {}
    schema: JsonObject = {}
    below = functools.partial(_mended, root=root, depth=depth + 1)
    if _leads_somewhere(said.get("$ref"), root):
        schema["$ref"] = said["$ref"]
    schema |= _type_said(said.get("type"))
    for name in ("title", "description", "format", "x-kind"):
        if isinstance(said.get(name), str):
            schema[name] = said[name]
    for name in ("default", "const", "examples", "x-unordered"):
        if name in said and (name != "examples" or isinstance(said[name], list)):
            schema[name] = said[name]
    if isinstance(said.get("enum"), list) and said["enum"]:
        schema["enum"] = said["enum"]
    for name in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"):
        bound = said.get(name)
        if isinstance(bound, bool) or not isinstance(bound, int | float):
            continue
        if name != "multipleOf" or bound > 0:
            schema[name] = bound
    for name in _COUNTS:
        count = said.get(name)
        if isinstance(count, int) and not isinstance(count, bool) and count >= 0:
            schema[name] = count
    if isinstance(said.get("uniqueItems"), bool):
        schema["uniqueItems"] = said["uniqueItems"]
    if _compiles(said.get("pattern")):
        schema["pattern"] = said["pattern"]
    for name in ("anyOf", "oneOf", "allOf"):
        options = said.get(name)
        if isinstance(options, list) and options and all(isinstance(o, dict) for o in options):
            schema[name] = [below(option) for option in options]
    for name in ("$defs", "definitions"):
        if isinstance(said.get(name), dict):
            schema[name] = {key: below(value) for key, value in said[name].items()}
    for name in ("not", "additionalProperties", "contains", "propertyNames"):
        if isinstance(said.get(name), dict):
            schema[name] = below(said[name])
    if isinstance(said.get("additionalProperties"), bool):
        schema["additionalProperties"] = said["additionalProperties"]
    items = said.get("items")
    if isinstance(items, list) and items:  # drafts before 2020-12
        schema["prefixItems"] = [below(item) for item in items]
    elif isinstance(items, dict):
        schema["items"] = below(items)
    elif isinstance(items, str):
        schema["items"] = typed(items)
    if isinstance(said.get("prefixItems"), list) and said["prefixItems"]:
        schema["prefixItems"] = [below(item) for item in said["prefixItems"]]
    _members(schema, said, below)
    return schema


_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")


def _members(schema: JsonObject, said: JsonObject, below: Any) -> None:
    required = said.get("required")
    names = [n for n in required if isinstance(n, str)] if isinstance(required, list) else []
    properties = said.get("properties")
    if isinstance(properties, dict):
        schema["properties"] = {
            name: typed(what) if isinstance(what, str) else below(what)
            for name, what in properties.items()
        }
        names += [
            name
            for name, what in properties.items()
            if isinstance(what, dict) and what.get("required") is True
        ]
    if names:
        schema["required"] = list(dict.fromkeys(names))


def _type_said(kind: Any) -> JsonObject:
    if isinstance(kind, str):
        return typed(kind)
    if isinstance(kind, list):
        names = [_NAMES_OF_TYPES.get(each.lower()) for each in kind if isinstance(each, str)]
        known = list(dict.fromkeys(name for name in names if name is not None))
        # One unknown name among them may have meant anything.
        return {"type": known} if known and len(names) == len(kind) and None not in names else {}
    return {}


def _leads_somewhere(reference: Any, root: JsonObject) -> bool:
    """Say whether a reference ends at a schema of this document, and not at itself."""
    seen = set()
    while True:
        if not isinstance(reference, str) or not re.match(r"#/(?:\$defs|definitions)/", reference):
            return False
        if reference in seen:
            return False
        seen.add(reference)
        place: Any = root
        for step in reference[2:].split("/"):
            if not isinstance(place, dict) or "~" in step or "%" in step or step not in place:
                return False
            place = place[step]
        if not isinstance(place, dict):
            return False
        if "$ref" not in place:
            return True
        reference = place["$ref"]


def _compiles(pattern: Any) -> bool:
    if not isinstance(pattern, str):
        return False
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        return False
    return True
