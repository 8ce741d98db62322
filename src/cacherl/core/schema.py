"""Do a call's arguments fit the tool's JSON Schema?"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

import jsonschema
import msgspec

from cacherl.core.tools import ToolSpec

MAX_DEPTH = 100
"""Levels of nesting in arguments. No tool needs as many, and recursion has an end."""


@functools.lru_cache(maxsize=4096)
def _validator(schema_json: bytes) -> Any:
    schema = msgspec.json.decode(schema_json)
    # Models invent argument names; a schema that forgot to say so still means its own list.
    schema.setdefault("additionalProperties", False)
    return jsonschema.Draft202012Validator(schema)


def argument_problem(spec: ToolSpec, arguments: Mapping[str, Any]) -> str | None:
    """Return the first thing wrong with the arguments, in words a model can act on, or None.

    Unknown argument names are wrong unless the schema allows them by `additionalProperties`, and so
    is nesting past `MAX_DEPTH`.
    """
    if is_deeper_than(arguments, MAX_DEPTH):
        return f"nested deeper than {MAX_DEPTH} levels"
    validator = _validator(msgspec.json.encode(spec.parameters))
    errors = sorted(
        validator.iter_errors(dict(arguments)), key=lambda e: (list(map(str, e.path)), e.message)
    )
    if not errors:
        return None
    path = ".".join(str(step) for step in errors[0].path)
    return f"{path}: {errors[0].message}" if path else str(errors[0].message)


def is_deeper_than(value: Any, levels: int) -> bool:
    """Say whether objects and arrays are nested more than so many levels deep. Never recurses."""
    layer = [value]
    for _ in range(levels + 1):
        layer = [
            inner
            for each in layer
            if isinstance(each, Mapping | list | tuple)
            for inner in (each.values() if isinstance(each, Mapping) else each)
            if isinstance(inner, Mapping | list | tuple)
        ]
        if not layer:
            return False
    return True


def error_text(kind: str, message: str) -> str:
    """Return the JSON text in which the loop and the built-in worlds report a failed call."""
    return json.dumps({"error": kind, "message": message}, ensure_ascii=False)
