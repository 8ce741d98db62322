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
"""

from __future__ import annotations

import enum
from typing import Any

import msgspec

from cacherl.core.records import Record
from cacherl.core.tools import Effects, ToolSpec


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
        effects = Effects(
            reads=spec.effects.reads if rules.reads is None else rules.reads,
            writes=spec.effects.writes if rules.writes is None else rules.writes,
        )
        parameters = spec.parameters
        for path, kind in rules.kinds.items():
            parameters = _marked(parameters, _steps(path), "x-kind", kind)
        for path in rules.unordered:
            parameters = _marked(parameters, _steps(path), "x-unordered", True)
        if parameters is spec.parameters and effects == spec.effects:
            return spec
        return msgspec.structs.replace(spec, parameters=parameters, effects=effects)


NO_SETTINGS = Settings()


def _steps(path: str) -> list[str]:
    return [step for step in path.replace("[]", ".[]").split(".") if step]


def _marked(schema: Any, steps: list[str], name: str, value: Any) -> dict[str, Any]:
    """Return the schema with one keyword set at a path; places that it does not describe are made."""
    schema = schema if isinstance(schema, dict) else {}
    if not steps:
        return {**schema, name: value}
    step, rest = steps[0], steps[1:]
    if step == "[]":
        return {**schema, "items": _marked(schema.get("items"), rest, name, value)}
    properties = schema.get("properties")
    properties = properties if isinstance(properties, dict) else {}
    inner = _marked(properties.get(step), rest, name, value)
    return {**schema, "properties": {**properties, step: inner}}
