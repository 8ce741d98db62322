"""What calls show of the tools they were made to, where a file declares none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from cacherl.core.messages import ToolCall
from cacherl.core.records import JsonObject

Kinds = Mapping[tuple[str, str], str]
"""What is known of a parameter besides its type: (tool, parameter) to `x-kind`."""


class CallsSeen:
    """Gathers the calls of a file. Memory holds each tool's distinct arguments, not the conversations."""

    def __init__(self) -> None:
        self._seen: dict[str, dict[bytes, JsonObject]] = {}

    def add(self, call: ToolCall) -> None:
        """Note what a call was made with."""
        seen = self._seen.setdefault(call.name, {})
        seen.setdefault(msgspec.json.encode(call.arguments), call.arguments)

    def names(self) -> set[str]:
        """Return the tools that were called."""
        return set(self._seen)

    def parameters(self, tool: str, kinds: Kinds | None = None) -> JsonObject:
        """Return the JSON Schema of a tool's arguments as they were seen."""
        return parameters_seen(tool, list(self._seen.get(tool, {}).values()), kinds or {})


def parameters_seen(tool: str, seen: Sequence[JsonObject], kinds: Kinds) -> JsonObject:
    """Return the JSON Schema of the arguments that a tool was seen with; required is what never lacked."""
    names = sorted({name for arguments in seen for name in arguments})
    properties: JsonObject = {}
    for name in names:
        values = [arguments[name] for arguments in seen if name in arguments]
        properties[name] = _type_of(values)
        if (tool, name) in kinds:
            properties[name]["x-kind"] = kinds[tool, name]
    required = [name for name in names if all(name in arguments for arguments in seen)]
    schema: JsonObject = {"type": "object", "properties": properties, "required": required}
    if not seen:
        schema["additionalProperties"] = True  # never called: its arguments are not known
    return schema


def _type_of(values: Sequence[Any]) -> JsonObject:
    types = sorted({_json_type(value) for value in values})
    if set(types) == {"integer", "number"}:
        types = ["number"]
    schema: JsonObject = {"type": types[0] if len(types) == 1 else types}
    if types == ["array"]:
        items = [item for value in values for item in value]
        if items:
            schema["items"] = _type_of(items)
    if types == ["object"]:
        schema["properties"] = {
            name: _type_of([value[name] for value in values if name in value])
            for name in sorted({name for value in values for name in value})
        }
    return schema


def _json_type(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    for kind, name in (
        (str, "string"),
        (int, "integer"),
        (float, "number"),
        (list, "array"),
        (dict, "object"),
    ):
        if isinstance(value, kind):
            return name
    return "null"
