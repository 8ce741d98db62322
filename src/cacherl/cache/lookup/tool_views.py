"""What a cache believes of its tools, for people to check and to correct.

`cacherl cache tools` prints it, writes it as a settings file to start from, and keeps the settings
that come back, where what is recorded allows that.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from cacherl.cache.identity.kinds import (
    Declared,
    Inferred,
    declared_kind,
    infer_kinds,
    marked_kinds,
    sampled,
    values_of,
)
from cacherl.cache.identity.normalise import Kind, is_writer, plan_of
from cacherl.cache.identity.state import touches_no_more
from cacherl.cache.lookup.settings import (
    SETTINGS_NOTE,
    DrawPolicy,
    Settings,
    ToolRules,
    doubts,
    places_of,
)
from cacherl.cache.lookup.tool_cache import ToolCache
from cacherl.cache.storage.entry import CacheEntry
from cacherl.cache.storage.store import CacheStore
from cacherl.core.errors import CacheError
from cacherl.core.records import Record
from cacherl.core.tools import UNDECLARED, Effects, ToolSpec

BY_VALUE = "by value"
"""Shown as the kind of a parameter whose values are judged one by one: a date, an id, else a name."""
DEFAULT_DRAW = DrawPolicy.SAMPLE


class ParameterView(Record, frozen=True, kw_only=True):
    """What a cache believes of one parameter."""

    path: str
    kind: str
    """A kind, or `by value`."""
    origin: str
    """`settings`, `schema`, `name`, `inferred` (from recordings: matching only, never keys) or `value`."""
    evidence: str | None = None
    """What its recorded values look like; None where there are too few."""
    looks_like: str | None = None
    """The kind that its recorded values speak for."""
    n: int = 0
    """Recorded values looked at."""
    distinct: int = 0


class ToolView(Record, frozen=True, kw_only=True):
    """What a cache believes of one tool."""

    namespace: str
    tool: str
    calls: int
    """Recorded ones."""
    parameters: tuple[ParameterView, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    idempotent: bool
    open_world: bool
    effects_from: str
    """`settings`, `tool` or `nothing` (then it counts as a writer of everything)."""
    draw: str
    draw_from: str
    """`settings` or `default`."""
    max_age_s: float | None
    """None: its answers never age."""
    warnings: tuple[str, ...] = ()


def tool_views(cache: ToolCache) -> tuple[ToolView, ...]:
    """Return what the cache believes of each recorded tool, by name. Reads every recording once."""
    return tuple(
        _view(cache, namespace, spec)
        for (namespace, _), spec in sorted(cache.store.tools().items())
    )


def _view(cache: ToolCache, namespace: str, spec: ToolSpec) -> ToolView:
    rules = cache.rules(namespace, spec.name)
    effective = cache.effective(namespace, spec)
    effects = effective.effects
    counted = _Counted(cache.store.by_tool(namespace, spec.name))
    arguments = sampled(counted)
    inferred = infer_kinds(values_of(arguments))
    in_force = marked_kinds(effective, inferred)
    paths = sorted({*places_of(effective.parameters), *inferred})
    return ToolView(
        namespace=namespace,
        tool=spec.name,
        calls=counted.calls,
        parameters=tuple(
            _parameter(path, declared_kind(effective, path), rules, inferred, in_force)
            for path in paths
        ),
        reads=effects.reads,
        writes=effects.writes,
        idempotent=effects.idempotent,
        open_world=effects.open_world,
        effects_from=_effects_from(rules, spec.effects),
        draw=str(rules.draw or DEFAULT_DRAW),
        draw_from="default" if rules.draw is None else "settings",
        max_age_s=rules.max_age_s,
        warnings=tuple(_warnings(effects, rules)),
    )


class _Counted:
    """Entries on their way by, counted."""

    def __init__(self, entries: Iterator[CacheEntry]) -> None:
        self._entries = entries
        self.calls = 0

    def __iter__(self) -> Iterator[CacheEntry]:
        for entry in self._entries:
            self.calls += 1
            yield entry


def _parameter(
    path: str,
    declared: Declared,
    rules: ToolRules,
    inferred: Mapping[str, Inferred],
    in_force: Mapping[str, Kind],
) -> ParameterView:
    seen = inferred.get(path)
    if path in rules.kinds:
        kind, origin = rules.kinds[path], "settings"
    elif path in in_force:
        kind, origin = str(in_force[path]), "inferred"
    else:
        kind, origin = str(declared.kind or BY_VALUE), str(declared.origin)
    return ParameterView(
        path=path,
        kind=kind,
        origin=origin,
        evidence=None if seen is None else seen.evidence,
        looks_like=None if seen is None else str(seen.kind),
        n=0 if seen is None else seen.n,
        distinct=0 if seen is None else seen.distinct,
    )


def _effects_from(rules: ToolRules, declared: Effects) -> str:
    said = (rules.reads, rules.writes, rules.idempotent, rules.open_world)
    if any(each is not None for each in said):
        return "settings"
    return "nothing" if declared == UNDECLARED else "tool"


def _warnings(effects: Effects, rules: ToolRules) -> Iterator[str]:
    if effects == UNDECLARED:
        yield (
            "declares no effects: counts as a writer of everything, is only answered EXACT, and "
            "every read after it needs a recording of its own; say what it reads and writes"
        )
    elif "*" in effects.writes:
        yield "writes everything: every read after it needs a recording of its own; name resources"
    elif not is_writer(effects) and "*" in effects.reads:
        yield "reads everything: any write before it needs a recording of its own; name resources"
    if effects.open_world and rules.max_age_s is None:
        yield "reads a world that changes by itself, and its answers never age; say max_age_s"


# ---- a file to start from


def starter(views: Sequence[ToolView], settings: Settings, name: str, path: str) -> str:
    """Return a settings file in TOML: what holds, as comments; what the settings say, as it is.

    Read back, it says exactly what `settings` said, however little one has understood of it.

    Args:
        views: of the cache.
        settings: those in force.
        name: the cache.
        path: where the file will be.
    """
    lines = [
        f"# What {name} believes of its tools. Take the # off a line and correct it; the rest stays",
        "# as it is shown. What stands here wins over what tools declare themselves.",
        f"#   try it:   cacherl cache tools {name} --settings {path}",
        f"#   keep it:  cacherl cache tools {name} --settings {path} --apply",
        f"# Kinds: {', '.join(Kind)}.",
    ]
    written = set()
    for view in views:
        said = f"{view.namespace}/{view.tool}"
        rules = settings.tools.get(said)
        if rules is None and view.tool in settings.tools and view.tool not in written:
            said, rules = view.tool, settings.tools[view.tool]
        if said in written:
            continue
        written.add(said)
        lines += _tool_lines(view, rules, said)
    for said, rules in sorted(settings.tools.items()):
        if said not in written:
            lines += ["", f"[tools.{_key(said)}]  # not recorded", *_said_lines(said, rules)]
    return "\n".join(lines) + "\n"


def _tool_lines(view: ToolView, rules: ToolRules | None, said: str) -> Iterator[str]:
    rules = rules or ToolRules()
    yield ""
    yield f"[tools.{_key(said)}]  # calls recorded: {view.calls}"
    for warning in view.warnings:
        yield f"# ! {warning}"
    shown: dict[str, Any] = {
        "reads": list(view.reads),
        "writes": list(view.writes),
        "idempotent": view.idempotent,
        "max_age_s": 86400,
        "draw": view.draw,
    }
    notes = {
        "reads": {"tool": "as it declares", "nothing": "it declares nothing"}.get(
            view.effects_from, ""
        ),
        "idempotent": "true: writing the same twice in a row is writing it once",
        "max_age_s": "its answers never age unless you say how many seconds",
        "draw": f"of several answers; {', '.join(DrawPolicy)}",
    }
    own = _own(rules)
    for key, value in shown.items():
        if key not in own:
            note = notes.get(key)
            yield f"# {key} = {_toml(value)}" + (f"  # {note}" if note else "")
    yield from _said_lines(said, rules)
    unsaid = [each for each in view.parameters if each.path not in rules.kinds]
    if unsaid and not rules.kinds:
        yield f"# [tools.{_key(said)}.kinds]"
    for parameter in unsaid:
        kind = parameter.kind if parameter.kind != BY_VALUE else parameter.looks_like or "entity"
        yield f"# {_key(parameter.path)} = {_toml(kind)}  # {_because(parameter)}"


def _because(parameter: ParameterView) -> str:
    seen = f"{parameter.evidence}, n = {parameter.n}" if parameter.evidence else "too few values"
    match parameter.origin:
        case "inferred":
            return f"inferred: {seen}"
        case "value":
            return f"each value by itself so far; {seen}"
        case _:
            return f"by its {parameter.origin}"


def _own(rules: ToolRules) -> dict[str, Any]:
    said: dict[str, Any] = msgspec.to_builtins(rules)
    return said


def _said_lines(said: str, rules: ToolRules) -> Iterator[str]:
    own = _own(rules)
    kinds = own.pop("kinds", {})
    for key, value in own.items():
        yield f"{key} = {_toml(value)}"
    if kinds:
        yield f"[tools.{_key(said)}.kinds]"
        for path, kind in kinds.items():
            yield f"{_key(path)} = {_toml(kind)}"


def _toml(value: Any) -> str:
    # JSON's strings, numbers, truth values and flat arrays are TOML's, save the surrogates.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(name: str) -> str:
    plain = name.isascii() and all(sign.isalnum() or sign in "_-" for sign in name)
    return name if plain and name else _toml(name)


# ---- keeping settings


class Applied(Record, frozen=True, kw_only=True):
    """What came of keeping new settings with a cache."""

    path: str
    changed: tuple[str, ...]
    """Tools of which they say something else than the settings before."""
    narrowed: tuple[str, ...]
    """Tools that now touch less: their answers from after a write may need to be recorded again."""
    doubts: tuple[str, ...]
    """What in them fits no recorded tool."""


def apply_settings(store: CacheStore, settings: Settings, *, name: str, file: str) -> Applied:
    """Keep settings with a cache, where what is recorded still means the same under them.

    Args:
        store: the cache, open for writing.
        settings: the new ones, in place of all that were kept.
        name: the cache, for messages.
        file: where they come from, for messages.

    Raises:
        CacheError: recordings would have other keys, or a tool would touch more than it was recorded to:
            a recording from after such a write would pass for one from before it.
    """
    note = store.note(SETTINGS_NOTE)
    before = Settings() if note is None else msgspec.json.decode(note, type=Settings)
    changed, narrowed, widened, moved = [], [], [], []
    for (namespace, tool), spec in sorted(store.tools().items()):
        said = f"{namespace}/{tool}"
        old, new = before.applied(namespace, spec), settings.applied(namespace, spec)
        if before.rules(namespace, tool) != settings.rules(namespace, tool):
            changed.append(said)
        if not touches_no_more(old.effects, new.effects):
            widened.append(said)
        elif not touches_no_more(new.effects, old.effects):
            narrowed.append(said)
        if plan_of(old).fingerprint != plan_of(new).fingerprint and _moves(
            store, namespace, old, new
        ):
            moved.append(said)
    if widened:
        raise CacheError(
            f"{name}: under {file}, {', '.join(widened)} would read or write more than when it was "
            "recorded, and recordings from after such a write would pass for ones from before it. "
            "Which ones is written in the trajectories alone: build the cache again from them."
        )
    if moved:
        raise CacheError(
            f"{name}: under {file}, recordings of {', '.join(moved)} have other keys. "
            f"Move them and keep the settings with `cacherl cache rekey {name} --settings {file}`."
        )
    store.put_note(SETTINGS_NOTE, msgspec.json.encode(settings))
    return Applied(
        path=name,
        changed=tuple(changed),
        narrowed=tuple(narrowed),
        doubts=doubts(settings, store.tools()),
    )


def _moves(store: CacheStore, namespace: str, old: ToolSpec, new: ToolSpec) -> bool:
    """Say whether any recording has another normal form under the new plan."""
    plan = plan_of(new)
    for entry in store.by_tool(namespace, old.name):
        for kept in entry.kept:
            asked = kept.observation.asked
            arguments = entry.call.arguments if asked is None else json.loads(asked)
            if plan.normal(arguments).canonical != entry.call.canonical:
                return True
    return False
