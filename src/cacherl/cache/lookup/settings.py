"""What people say of their tools, in one file: kinds, effects, thresholds, ages, draws.

    # cache.toml
    [tools."airline/get_user_details"]      # or the tool's name alone: in every namespace
    reads = ["user:{user_id}"]
    writes = []
    max_age_s = 3600
    [tools.search.kinds]
    query = "text"
    "filters.code" = "code"

What stands here wins over the tool's own declaration, which comes from whoever wrote its server.

A `tools.toml` (see `cacherl.toolbox.config`) can be given instead: what it says of a tool's effects is
taken, what it says of how tools are reached and called is not.
"""

from __future__ import annotations

import difflib
import enum
import json
import math
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from cacherl.cache.identity.normalise import Kind
from cacherl.core.errors import RecipeError
from cacherl.core.records import JsonObject, Record
from cacherl.core.tools import Effects, ToolSpec

SETTINGS_NOTE = "settings"
"""The note of a store under which its settings are kept, as JSON."""


class DrawPolicy(enum.StrEnum):
    """Which of several observations of one call answers."""

    SAMPLE = "sample"
    """By (seed, rollout, key, occurrence), as often as each was observed."""
    SEQUENCE = "sequence"
    """The n-th call of an episode gets what the n-th call was answered when it was recorded."""
    MAJORITY = "majority"
    """What was observed most often."""
    LATEST = "latest"
    """What was recorded last."""


class Compare(enum.StrEnum):
    """When two results of one call count as the same."""

    BYTES = "bytes"
    JSON = "json"
    """Equal JSON values, without `volatile_paths`."""
    FIELDS = "fields"
    """By the F1 of their leaf fields, in [0, 1]."""


class ToolRules(Record, frozen=True, kw_only=True, omit_defaults=True):
    """What is said of one tool; None where nothing is."""

    reads: tuple[str, ...] | None = None
    writes: tuple[str, ...] | None = None
    idempotent: bool | None = None
    open_world: bool | None = None
    kinds: dict[str, str] = {}
    """Parameter (a path such as `filters.code` or `legs[].date`) to kind (see `normalise.Kind`)."""
    unordered: tuple[str, ...] = ()
    """Parameters whose arrays are sets."""
    fuzzy_min_score: float | None = None
    """In [0, 1]; above 1 there is no FUZZY for this tool."""
    best_effort_min_score: float | None = None
    """In [0, 1]; above 1 there is no BEST_EFFORT for this tool."""
    max_age_s: float | None = None
    """Older observations are not seen; those of unknown age neither."""
    draw: DrawPolicy | None = None
    compare: Compare | None = None
    volatile_paths: tuple[str, ...] = ()
    """Paths of the result that say nothing, such as `generated_at` or `items[].rank`."""


NOTHING_SAID = ToolRules()


class Settings(Record, frozen=True, kw_only=True):
    """The settings of one cache."""

    tools: dict[str, ToolRules] = {}

    def rules(self, namespace: str, tool: str) -> ToolRules:
        """Return what is said of a tool: under `namespace/tool`, else under its name alone."""
        return self.tools.get(f"{namespace}/{tool}") or self.tools.get(tool) or NOTHING_SAID

    def applied(self, namespace: str, spec: ToolSpec) -> ToolSpec:
        """Return the tool as these settings see it: its effects and the kinds of its parameters."""
        rules = self.rules(namespace, spec.name)
        said = {
            name: value
            for name in ("reads", "writes", "idempotent", "open_world")
            if (value := getattr(rules, name)) is not None
        }
        effects: Effects = msgspec.structs.replace(spec.effects, **said)
        parameters = spec.parameters
        for path, kind in rules.kinds.items():
            parameters = marked(parameters, steps_of(path), "x-kind", kind)
        for path in rules.unordered:
            parameters = marked(parameters, steps_of(path), "x-unordered", True)
        if parameters is spec.parameters and effects == spec.effects:
            return spec
        return msgspec.structs.replace(spec, parameters=parameters, effects=effects)


NO_SETTINGS = Settings()


# ---- the file


def load_settings(path: Path) -> Settings:
    """Read a settings file.

    Raises:
        RecipeError: no such file, no TOML, or something in it that is not allowed; the message
            names file, tool and key, and what was probably meant.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        reason = error.strerror or str(error)
        raise RecipeError(
            f"{path}: the settings cannot be read ({reason}). "
            f"Write a file to start from with `cacherl cache tools CACHE --write {path}`."
        ) from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: byte {error.start} is no UTF-8. Save it as UTF-8.") from error
    return parse_settings(text, str(path))


def parse_settings(text: str, where: str) -> Settings:
    """Return the settings that a TOML text holds; `where` starts every complaint.

    Raises:
        RecipeError: as `load_settings`.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{where}: no TOML: {error}. Correct the line.") from error
    if isinstance(table.get("namespace"), str):
        table = _of_tools_file(table)
    for name in table:
        if name != "tools":
            raise RecipeError(
                f"{where}: unknown key {name!r}; settings stand under tools, "
                'as in [tools."NAMESPACE/TOOL"] or [tools.TOOL].'
            )
    tools = table.get("tools", {})
    if not isinstance(tools, dict):
        raise RecipeError(f"{where}: `tools` is no table. Write [tools.TOOL].")
    return Settings(
        tools={tool: _rules(said, f"{where}: [tools.{_key(tool)}]") for tool, said in tools.items()}
    )


_OF_CALLS = ("timeout_s", "concurrency", "retries", "hide")
"""What a tools.toml says of a tool that a cache need not know."""


def _of_tools_file(table: JsonObject) -> JsonObject:
    """Return the settings in a tools.toml, so that nobody has to say the same twice."""
    tools = table.get("tools", {})
    if not isinstance(tools, dict):
        return {"tools": tools}
    return {
        "tools": {
            tool: {name: value for name, value in said.items() if name not in _OF_CALLS}
            if isinstance(said, dict)
            else said
            for tool, said in tools.items()
        }
    }


def _rules(said: Any, where: str) -> ToolRules:
    if not isinstance(said, dict):
        raise RecipeError(f"{where} is no table. Write the header on a line of its own.")
    for name in said:
        if name not in ToolRules.__struct_fields__:
            raise RecipeError(
                f"{where}: unknown key {name!r}{_meant(name, ToolRules.__struct_fields__)}. "
                f"Allowed are {', '.join(ToolRules.__struct_fields__)}."
            )
    kinds = said.get("kinds", {})
    if isinstance(kinds, dict):
        # TOML reads `filters.code = "code"` as a table in a table, and means the same.
        said = {**said, "kinds": _flat(kinds, (), f"{where}: kinds")}
    for name, choices in (("draw", DrawPolicy), ("compare", Compare)):
        if name in said:
            _one_of(said[name], choices, f"{where}: {name}")
    for path, kind in (said.get("kinds") or {}).items() if isinstance(kinds, dict) else ():
        _one_of(kind, Kind, f"{where}: the kind of {path}")
    try:
        rules = msgspec.convert(said, ToolRules)
    except msgspec.ValidationError as error:
        problem, _, place = str(error).partition(" - at `$.")
        raise RecipeError(
            f"{where}: {place.rstrip('`') or 'it'}: {problem[:1].lower()}{problem[1:]}. Correct the value."
        ) from error
    _check_numbers(rules, where)
    for name in ("reads", "writes"):
        for template in getattr(rules, name) or ():
            _check_template(template, f"{where}: {name}")
    for name in ("kinds", "unordered", "volatile_paths"):
        for path in getattr(rules, name):
            _check_path(path, f"{where}: {name}")
    return rules


def _check_numbers(rules: ToolRules, where: str) -> None:
    for name in ("fuzzy_min_score", "best_effort_min_score"):
        value = getattr(rules, name)
        if value is not None and not 0.0 <= value < math.inf:
            raise RecipeError(
                f"{where}: {name} is {value}. Allowed is a score in [0, 1], or more to switch the tier off."
            )
    if rules.max_age_s is not None and not 0.0 < rules.max_age_s < math.inf:
        raise RecipeError(
            f"{where}: max_age_s is {rules.max_age_s}. Allowed are seconds above 0; leave it out for no limit."
        )


def _flat(table: JsonObject, above: tuple[str, ...], where: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in table.items():
        try:
            steps = (*above, *steps_of(name))
        except ValueError:
            steps = (*above, name)  # _check_path will complain of it as it was written
        if isinstance(value, dict):
            found |= _flat(value, steps, where)
        else:
            found[name if not above else path_of(steps)] = value
    return found


def _one_of(said: Any, choices: type[enum.StrEnum], where: str) -> None:
    if said not in list(choices):
        allowed = [str(choice) for choice in choices]
        raise RecipeError(
            f"{where} is {said!r}{_meant(str(said), allowed)}. Allowed are {', '.join(allowed)}."
        )


def _check_template(template: str, where: str) -> None:
    bare = _TEMPLATE_FIELD.sub("", template)
    if not template.strip() or "{" in bare or "}" in bare:
        raise RecipeError(
            f"{where}: {template!r} names no resource. Write kind:{{parameter}}, kind:* or *."
        )


def _check_path(path: str, where: str) -> None:
    try:
        steps_of(path)
    except ValueError as error:
        raise RecipeError(
            f"{where}: {path!r} is no path ({error}). Write it like filters.code or legs[].date; "
            'a name with a dot stands in quotes: filters."a.b".'
        ) from error


def _meant(said: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(said, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+\Z")
_TEMPLATE_FIELD = re.compile(r"\{[^{}]+\}")


def _key(name: str) -> str:
    """Return a TOML key."""
    return name if _BARE_KEY.match(name) else json.dumps(name, ensure_ascii=False)


def doubts(settings: Settings, specs: Mapping[tuple[str, str], ToolSpec]) -> tuple[str, ...]:
    """Return what in the settings fits none of the recorded tools, a sentence each.

    No error: a tool may be recorded later, and a schema need not name every parameter.

    Args:
        settings: what was read.
        specs: the tools by namespace and name, as they declare themselves.
    """
    names = {f"{space}/{tool}" for space, tool in specs} | {tool for _, tool in specs}
    found = []
    for name, rules in sorted(settings.tools.items()):
        here = [spec for (space, tool), spec in specs.items() if name in (f"{space}/{tool}", tool)]
        if not here:
            found.append(f"no tool {name!r} is recorded{_meant(name, names)}")
        for spec in here:
            found += _unknown_parameters(name, rules, spec)
    return tuple(dict.fromkeys(found))


def _unknown_parameters(name: str, rules: ToolRules, spec: ToolSpec) -> Iterable[str]:
    schema = spec.parameters
    properties = schema.get("properties")
    if not isinstance(properties, dict) or schema.get("additionalProperties"):
        return  # a tool without a schema takes anything
    fields = [
        (field.split(".")[0], f"its effects name {{{field}}}")
        for template in (*(rules.reads or ()), *(rules.writes or ()))
        for field in re.findall(r"\{([^{}]*)\}", template)
        if field.split(".")[0] != "result"
    ]
    fields += [(steps_of(path)[0], f"kinds name {path}") for path in rules.kinds]
    fields += [(steps_of(path)[0], f"unordered names {path}") for path in rules.unordered]
    for parameter, words in fields:
        if parameter not in properties:
            yield f"{name}: {words}, and it has no such parameter{_meant(parameter, properties)}"


# ---- places in a schema

_STEP = re.compile(r'"((?:[^"\\]|\\.)*)"|(\[\])|([^.\[\]"]+)')


def steps_of(path: str) -> tuple[str, ...]:
    """Return the steps of a path: `filters.code`, `legs[].date`, `filters."a.b"`.

    Raises:
        ValueError: it is no path.
    """
    steps: list[str] = []
    at = 0
    while at < len(path):
        if steps and path[at] == ".":
            at += 1
        elif steps and not path.startswith("[]", at):
            raise ValueError(f"a dot is missing before {path[at:]!r}")
        found = _STEP.match(path, at)
        if found is None:
            raise ValueError(f"a name is missing at {path[at:]!r}")
        quoted, items, plain = found.groups()
        if items and not steps:
            raise ValueError("it starts with []")
        steps.append(items or plain or json.loads(f'"{quoted}"'))
        at = found.end()
    if not steps:
        raise ValueError("it is empty")
    return tuple(steps)


def path_of(steps: Sequence[str]) -> str:
    """Return the path of these steps, such that `steps_of` gives them back."""
    path = ""
    for step in steps:
        if step == "[]":
            path += step
            continue
        plain = step and not any(sign in step for sign in '."[]')
        path += ("." if path else "") + (step if plain else json.dumps(step))
    return path


def schema_at(root: JsonObject, steps: Sequence[str]) -> JsonObject | None:
    """Return what a schema says of a place, references followed; None where it says nothing at all."""
    schema: Any = root
    for step in steps:
        schema = _opened(root, schema)
        kind = schema.get("x-kind")
        if step == "[]":
            schema = schema.get("items")
            # As the compiler has it: an array's kind is its items'.
            if kind is not None and "x-kind" not in (schema if isinstance(schema, dict) else {}):
                schema = {**(schema if isinstance(schema, dict) else {}), "x-kind": kind}
        else:
            properties = schema.get("properties")
            properties = properties if isinstance(properties, dict) else {}
            schema = properties.get(step, schema.get("additionalProperties"))
        if not isinstance(schema, dict):
            return None
    return _opened(root, schema)


_MAX_PLACES = 256
_MAX_DEPTH = 6


def places_of(root: JsonObject) -> list[str]:
    """Return the paths of what a schema describes: the innermost places, in its order."""
    found: list[str] = []

    def walk(schema: Any, steps: tuple[str, ...]) -> None:
        schema = _opened(root, schema) if isinstance(schema, dict) else {}
        properties, items = schema.get("properties"), schema.get("items")
        if len(steps) <= _MAX_DEPTH and isinstance(properties, dict) and properties:
            for name, member in properties.items():
                walk(member, (*steps, name))
        elif len(steps) <= _MAX_DEPTH and steps and isinstance(items, dict):
            walk(items, (*steps, "[]"))
        elif steps and len(found) < _MAX_PLACES:
            found.append(path_of(steps))

    walk(root, ())
    return found


def marked(root: JsonObject, steps: Sequence[str], name: str, value: Any) -> JsonObject:
    """Return the schema with one keyword set at a place; places that it does not describe are made."""
    return _marked(root, root, steps, name, value)


def _marked(
    root: JsonObject, schema: Any, steps: Sequence[str], name: str, value: Any
) -> JsonObject:
    schema = schema if isinstance(schema, dict) else {}
    if not steps:
        return {**schema, name: value}
    schema = _referred(root, schema)
    union = _nullable(schema)
    if union is not None:
        options = schema[union]
        return {
            **schema,
            union: [
                option if option == _NULL else _marked(root, option, steps, name, value)
                for option in options
            ],
        }
    step, rest = steps[0], steps[1:]
    if step == "[]":
        return {**schema, "items": _marked(root, schema.get("items"), rest, name, value)}
    properties = schema.get("properties")
    properties = properties if isinstance(properties, dict) else {}
    inner = properties.get(step, schema.get("additionalProperties"))
    return {
        **schema,
        "properties": {**properties, step: _marked(root, inner, rest, name, value)},
    }


_NULL = {"type": "null"}


def _nullable(schema: JsonObject) -> str | None:
    """Return the keyword under which a schema says `X or null`."""
    for union in ("anyOf", "oneOf"):
        options = schema.get(union)
        if isinstance(options, list):
            others = [option for option in options if option != _NULL]
            if len(others) == 1 and isinstance(others[0], dict):
                return union
    return None


def _referred(root: JsonObject, schema: JsonObject) -> JsonObject:
    """Return the schema with its local reference, if any, written out."""
    above: set[str] = set()
    while isinstance(reference := schema.get("$ref"), str):
        target: Any = root
        own = {key: value for key, value in schema.items() if key != "$ref"}
        if reference in above or not reference.startswith("#/"):
            return own
        above.add(reference)
        for step in reference[2:].split("/"):
            name = step.replace("~1", "/").replace("~0", "~")
            target = target.get(name) if isinstance(target, dict) else None
        schema = {**(target if isinstance(target, dict) else {}), **own}
    return schema


_MAX_NESTED = 32  # unions in unions; a schema that refers to itself has no end


def _opened(root: JsonObject, schema: JsonObject, depth: int = 0) -> JsonObject:
    """Return the schema with references and `X or null` written out, as the compiler reads it."""
    schema = _referred(root, schema)
    union = _nullable(schema)
    if union is None or depth == _MAX_NESTED:
        return schema
    inner = next(option for option in schema[union] if option != _NULL)
    own = {key: value for key, value in schema.items() if key != union}
    return _opened(root, {**inner, **own}, depth + 1)
