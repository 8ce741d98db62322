"""Python functions as tools: type hints as JSON Schema, JSON as arguments of the hinted types."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Any

import msgspec

from cacherl.core.errors import RecipeError
from cacherl.core.records import JsonObject
from cacherl.core.tools import UNDECLARED, Effects, ToolSpec

_DEFS = "#/$defs/"


def spec_of(
    function: Callable[..., Any], *, name: str | None = None, effects: Effects = UNDECLARED
) -> ToolSpec:
    """Return a function as a tool: its annotations as JSON Schema, its docstring's first line.

    Raises:
        RecipeError: it takes `*args` or `**kwargs`, or something that JSON cannot hold.
    """
    called = name or function.__name__
    arguments = arguments_of(function, called)
    try:
        (reference,), defined = msgspec.json.schema_components(
            [arguments], ref_template=_DEFS + "{name}"
        )
    except TypeError as error:
        raise _untold(called, error) from error
    schema: JsonObject = defined.pop(reference["$ref"].removeprefix(_DEFS))
    schema.pop("title", None)
    schema.pop("additionalProperties", None)  # `argument_problem` refuses other names anyway
    parameters = inspect.signature(function).parameters.values()
    schema["required"] = [each.name for each in parameters if each.default is each.empty]
    for each in parameters:
        if each.default is not each.empty:
            schema["properties"][each.name] = {
                **schema["properties"][each.name],
                **_default(each.default),
            }
    if defined:
        schema["$defs"] = defined
    told = (inspect.getdoc(function) or "").strip().partition("\n")[0]
    return ToolSpec(name=called, description=told, parameters=schema, effects=effects)


def arguments_of(function: Callable[..., Any], called: str) -> type[msgspec.Struct]:
    """Return the function's parameters as a Struct; one that was left out is `UNSET` in it.

    Raises:
        RecipeError: it takes `*args` or `**kwargs`, or its annotations mean nothing.
    """
    parameters = inspect.signature(function).parameters.values()
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError, SyntaxError) as error:
        raise _untold(called, error) from error
    for each in parameters:
        if each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD):
            raise RecipeError(
                f"{called} takes {each}: a tool's parameters have names. Spell them out."
            )
    fields: list[Any] = [
        (each.name, hints.get(each.name, Any))
        if each.default is each.empty
        # Not the default itself: msgspec refuses most mutable ones, and the function has it anyway.
        else (each.name, hints.get(each.name, Any), msgspec.field(default_factory=_unset))
        for each in parameters
    ]
    try:
        return msgspec.defstruct(called, fields, kw_only=True, forbid_unknown_fields=True)
    except TypeError as error:
        raise _untold(called, error) from error


def bind(
    function: Callable[..., Any], takes: type[msgspec.Struct], arguments: JsonObject
) -> tuple[list[Any], dict[str, Any]]:
    """Return the positional and the named arguments of a call, in the hinted types.

    A number without a fraction is taken as an integer where one is wanted, as JSON Schema does.

    Args:
        function: what is called.
        takes: its `arguments_of`.
        arguments: as a model gave them.

    Raises:
        msgspec.ValidationError: they do not fit.
    """
    try:
        read = msgspec.convert(arguments, takes, str_keys=True)
    except msgspec.ValidationError:
        try:
            read = msgspec.convert(_whole(arguments), takes, str_keys=True)
        except msgspec.ValidationError as error:
            raise error from None
    positional, named = [], {}
    for each in inspect.signature(function).parameters.values():
        value = getattr(read, each.name)
        if each.kind is each.POSITIONAL_ONLY:
            positional.append(each.default if value is msgspec.UNSET else value)
        elif value is not msgspec.UNSET:
            named[each.name] = value
    return positional, named


def _whole(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _whole(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_whole(inner) for inner in value]
    return value


def _unset() -> msgspec.UnsetType:
    return msgspec.UNSET


def _untold(called: str, error: Exception) -> RecipeError:
    return RecipeError(
        f"{called} cannot be told as a tool: {error}. Annotate its parameters with types that "
        "JSON can hold."
    )


def _default(value: object) -> JsonObject:
    try:
        return {"default": msgspec.to_builtins(value, order="deterministic")}
    except (TypeError, ValueError):
        return {}
