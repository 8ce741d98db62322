"""Tools as other people declare them, into `ToolSpec`s whose schema any validator accepts."""

from __future__ import annotations

from typing import Any

from cacherl.core.parameters import parameters_of
from cacherl.core.tools import UNDECLARED, Effects, ToolSpec
from cacherl.formats.rows import Unreadable
from cacherl.formats.written_values import unpacked


def specs_of(value: Any, field: str, *, effects: Effects = UNDECLARED) -> tuple[ToolSpec, ...]:
    """Return the tools of a list of declarations, or of the JSON text of one. None is no tools.

    Of two tools of one name the first counts.

    Raises:
        Unreadable: it is no list of declarations.
    """
    value = unpacked(value, field)
    if value is None or value == "":
        return ()
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        raise Unreadable(field, f"no list of tools but {type(value).__name__}")
    specs: dict[str, ToolSpec] = {}
    for place, each in enumerate(value):
        spec = spec_of(each, f"{field}[{place}]", effects=effects)
        specs.setdefault(spec.name, spec)
    return tuple(specs.values())


def spec_of(value: Any, field: str, *, effects: Effects = UNDECLARED) -> ToolSpec:
    """Return one tool: bare or wrapped as `{"type": "function", "function": {...}}`.

    Parameters are looked for under `parameters`, `input_schema`, `inputSchema` and `arguments`.

    Raises:
        Unreadable: it has no name.
    """
    value = unpacked(value, field)
    if isinstance(value, dict) and isinstance(value.get("function"), str | dict):
        value = unpacked(value["function"], f"{field}.function")
    if not isinstance(value, dict):
        raise Unreadable(field, f"no tool but {type(value).__name__}")
    name = value.get("name")
    if not isinstance(name, str) or not name.strip():
        raise Unreadable(f"{field}.name", "a tool without a name")
    said = next((value[key] for key in _PARAMETERS if value.get(key) is not None), None)
    description = value.get("description")
    return ToolSpec(
        name=name,
        description=description if isinstance(description, str) else "",
        parameters=parameters_of(said),
        effects=effects,
    )


_PARAMETERS = ("parameters", "input_schema", "inputSchema", "arguments")
