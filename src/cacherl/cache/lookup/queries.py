"""What `cacherl cache` commands ask of a cache; the commands only print."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from cacherl.cache.identity.canonical import canonical_json, decode_canonical
from cacherl.cache.identity.kinds import Origin, declared_kind
from cacherl.cache.identity.normalise import Plan, is_writer
from cacherl.cache.identity.state import NO_WRITES, StateOverlay
from cacherl.cache.lookup.draws import Draw
from cacherl.cache.lookup.hit import EVERYTHING_VISIBLE, Closest, Hit, Viewpoint
from cacherl.cache.lookup.settings import NO_SETTINGS, Settings, doubts, load_settings
from cacherl.cache.lookup.stats import CacheStats
from cacherl.cache.lookup.tool_cache import ToolCache
from cacherl.cache.lookup.tool_views import (
    BY_VALUE,
    Applied,
    ToolView,
    apply_settings,
    starter,
    tool_views,
)
from cacherl.cache.matching import match
from cacherl.core.errors import RecipeError
from cacherl.core.records import JsonObject, Record
from cacherl.core.tools import Tier, ToolSpec

Opener = Callable[..., ToolCache]
"""Opens a cache by name, with `mode="write"` where told: `ToolCache.open`, or one that knows more names."""


def stats(path: Path | str, *, open_cache: Opener = ToolCache.open) -> CacheStats:
    """Count what a cache holds; every value's checksum is verified on the way.

    Raises:
        CacheError: no such cache, or a damaged one.
    """
    with open_cache(str(path)) as cache:
        return cache.stats()


# ---- one call


class Difference(Record, frozen=True, kw_only=True):
    """A place where the call asked for and a recorded one differ."""

    path: str
    """With the places of arrays numbered: `legs[1].date`."""
    kind: str
    asked: str | None
    """As JSON; None where the call has nothing there."""
    recorded: str | None


class Near(Record, frozen=True, kw_only=True):
    """A recorded call near the one asked for."""

    key: str
    arguments: str
    score: float
    """Weighted overlap of fields, in [0, 1]: what BEST_EFFORT goes by."""
    state: str
    state_matched: bool
    not_fuzzy: str | None
    """Which guard refuses it as FUZZY; None where only its state or an earlier tier does."""
    differences: tuple[Difference, ...]


class Limit(Record, frozen=True, kw_only=True):
    """A value that decides, and where it comes from."""

    value: float | None
    origin: str
    """`lookup`, `settings` or `default`."""


class Explained(Record, frozen=True, kw_only=True):
    """Why a lookup finds what it finds."""

    namespace: str
    tool: str
    asked: str
    """The arguments as written, as JSON."""
    arguments: str
    """In normal form."""
    fired: tuple[str, ...]
    """Which normalisation rule rewrote which place."""
    kinds: dict[str, str]
    """The kind of each place of this call as matching takes it."""
    origins: dict[str, str]
    """Where these come from: schema (or settings), name, inferred, value."""
    state: str
    """Hex; empty where no earlier write touches the call."""
    after: tuple[str, ...]
    """The earlier writes that were asked for, and what became of each."""
    states: tuple[str, ...]
    """The states in which the same arguments are recorded."""
    fuzzy_min_score: Limit
    best_effort_min_score: Limit
    max_age_s: Limit
    hit: Hit
    tiers: dict[str, str]
    """What came of each tier, in words."""
    differences: tuple[Difference, ...]
    """Between the call and the recording that answers it."""
    closest: tuple[Near, ...]


def lookup(
    path: Path | str,
    tool: str,
    arguments_json: str | None = None,
    *,
    namespace: str | None = None,
    state: str = "",
    after: Sequence[str] = (),
    settings: Path | None = None,
    view: Viewpoint = EVERYTHING_VISIBLE,
    open_cache: Opener = ToolCache.open,
) -> Hit:
    """Look one call up.

    Args:
        path: the cache.
        tool: a recorded tool; or, where there are no arguments, the whole call as a JSON object
            with `name` and `arguments`.
        arguments_json: a JSON object.
        namespace: needed only where several namespaces recorded a tool of this name.
        state: the state key (hex), as `explain` and hits show it; empty before any write.
        after: earlier calls of the episode, each a JSON object with `name` and `arguments`: another
            way to tell the state.
        settings: a settings file to look up by; None takes those kept with the cache.
        view: what may be seen.
        open_cache: opens the cache.

    Raises:
        CacheError: no such cache or tool.
        RecipeError: no JSON object where one belongs, or the tool's namespace is not clear.
    """
    tool, arguments = _call(tool, arguments_json)
    key = _state(state)
    with _opened(path, settings, open_cache) as cache:
        space, spec = _tool(cache, tool, namespace)
        key, _ = _state_after(cache, space, spec, arguments, key, after, view)
        return cache.lookup(space, spec, arguments, state_key=key, view=view)


def explain(
    path: Path | str,
    tool: str,
    arguments_json: str | None = None,
    *,
    namespace: str | None = None,
    state: str = "",
    after: Sequence[str] = (),
    settings: Path | None = None,
    view: Viewpoint = EVERYTHING_VISIBLE,
    open_cache: Opener = ToolCache.open,
) -> Explained:
    """Say what a lookup finds, why, and what came closest. Arguments and errors as `lookup`."""
    tool, arguments = _call(tool, arguments_json)
    key = _state(state)
    with _opened(path, settings, open_cache) as cache:
        space, spec = _tool(cache, tool, namespace)
        key, told = _state_after(cache, space, spec, arguments, key, after, view)
        return explained(cache, space, spec, arguments, state_key=key, after=told, view=view)


def explained(
    cache: ToolCache,
    namespace: str,
    spec: ToolSpec,
    arguments: JsonObject,
    *,
    state_key: bytes = NO_WRITES,
    after: tuple[str, ...] = (),
    view: Viewpoint = EVERYTHING_VISIBLE,
    draw: Draw = Draw(),  # noqa: B008 - immutable
) -> Explained:
    """Return why a lookup in an open cache finds what it finds. Scans the tool's recordings."""
    effective = cache.effective(namespace, spec)
    rules = cache.rules(namespace, spec.name)
    normal = cache.normal(effective, arguments)
    hit = cache.find(namespace, effective, normal, state_key=state_key, view=view, draw=draw)
    kinds = _kinds(cache.match_plan(namespace, effective), normal.arguments)
    by_itself = _kinds(cache.plan(effective), normal.arguments)
    own = {
        entry.call.state.hex()
        for entry in cache.store.by_tool(namespace, spec.name)
        if entry.call.canonical == normal.canonical
        and any(kept.observation.split in view.splits for kept in entry.kept)
    }
    ranked = cache.closest(
        namespace, effective, arguments, state_key=state_key, view=view, count=_RANKED
    )
    closest = []
    for each in sorted(ranked, key=lambda near: _nearness(near, normal.canonical.decode()))[
        :_SHOWN
    ]:
        entry = cache.store.by_key(bytes.fromhex(each.key))
        closest.append(
            Near(
                key=each.key,
                arguments=each.arguments,
                score=each.score,
                state="" if entry is None else entry.call.state.hex(),
                state_matched=each.state_matched,
                not_fuzzy=each.not_fuzzy,
                differences=_differences(kinds, normal.arguments, each.arguments),
            )
        )
    matched = hit.matched_arguments
    explanation = Explained(
        namespace=namespace,
        tool=spec.name,
        asked=canonical_json(arguments).decode(),
        arguments=normal.canonical.decode(),
        fired=tuple(f"{fired.path}: {fired.rule}" for fired in normal.fired),
        kinds=kinds,
        origins={
            path: _origin(effective, path, kind, by_itself.get(path))
            for path, kind in kinds.items()
        },
        state=state_key.hex(),
        after=after,
        states=tuple(sorted(own)),
        fuzzy_min_score=_limit(view.fuzzy_min_score, rules.fuzzy_min_score, match.FUZZY_MIN_SCORE),
        best_effort_min_score=_limit(
            view.best_effort_min_score, rules.best_effort_min_score, match.BEST_EFFORT_MIN_SCORE
        ),
        max_age_s=_limit(None, rules.max_age_s, None),
        hit=hit,
        tiers={},
        differences=() if matched is None else _differences(kinds, normal.arguments, matched),
        closest=tuple(closest),
    )
    return msgspec.structs.replace(explanation, tiers=_tiers(explanation, effective))


_SHOWN = 3
_RANKED = 200
_COMPARED = 300  # characters


def _nearness(near: Closest, asked: str) -> tuple[float, float, str]:
    """Rank by score, then by how alike the two are to the eye: a mistyped id shares no field at all."""
    alike = difflib.SequenceMatcher(None, asked[:_COMPARED], near.arguments[:_COMPARED]).ratio()
    return (-near.score, -alike, near.key)


def _limit(asked: float | None, said: float | None, default: float | None) -> Limit:
    if asked is not None:
        return Limit(value=asked, origin="lookup")
    if said is not None:
        return Limit(value=said, origin="settings")
    return Limit(value=default, origin="default")


def _kinds(plan: Plan, arguments: JsonObject) -> dict[str, str]:
    """Return the kind of each place of a call; places of an array share one, save for texts."""
    shape = plan.shape(arguments)
    kinds = {path: "text" for path, _ in shape.texts}
    kinds |= {field.path: str(field.kind) for field in shape.fields}
    return dict(sorted(kinds.items()))


def _origin(spec: ToolSpec, path: str, kind: str, own: str | None) -> str:
    """Return where the kind of a place comes from; `own` is what it is without recordings."""
    if kind != own:
        return str(Origin.INFERRED)
    try:
        return str(declared_kind(spec, _unnumbered(path)).origin)
    except ValueError:
        return str(Origin.VALUE)  # a name that is no path, such as one with a dot


def _unnumbered(path: str) -> str:
    steps = path.split("[")
    return steps[0] + "".join("[" + step[step.index("]") :] for step in steps[1:] if "]" in step)


def _differences(
    kinds: dict[str, str], asked: JsonObject, recorded_json: str
) -> tuple[Difference, ...]:
    ours = dict(_places(asked, ""))
    theirs = dict(_places(decode_canonical(recorded_json.encode()), ""))
    return tuple(
        Difference(
            path=place,
            kind=kinds.get(place) or kinds.get(_unnumbered(place)) or BY_VALUE,
            asked=ours.get(place),
            recorded=theirs.get(place),
        )
        for place in sorted({*ours, *theirs})
        if ours.get(place) != theirs.get(place)
    )


def _places(value: Any, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for name, member in value.items():
            yield from _places(member, f"{place}.{name}" if place else name)
    elif isinstance(value, list) and value:
        for number, item in enumerate(value):
            yield from _places(item, f"{place}[{number}]")
    elif place:
        yield place, canonical_json(value).decode()


def _tiers(found: Explained, spec: ToolSpec) -> dict[str, str]:
    """Return what came of each tier, up to the one that answered."""
    hit = found.hit
    told: dict[str, str] = {}
    others = [state for state in found.states if state != found.state]
    if hit.tier is Tier.EXACT:
        how = " after normalisation" if found.fired else ""
        told["exact"] = f"recorded{how}, {hit.observations} observations to draw from"
        return told
    if found.state in found.states:
        told["exact"] = (
            "recorded, but what is recorded may not be seen here, is too old, or contradicts itself "
            "between scenarios"
        )
    elif others:
        told["exact"] = f"recorded in {len(others)} other states only: an earlier write differs"
    else:
        told["exact"] = "not recorded"
    if is_writer(spec.effects):
        told["fuzzy"] = told["best_effort"] = (
            "never: the tool writes (or does not say what it does)"
        )
        return told
    if hit.tier is Tier.FUZZY:
        told["fuzzy"] = f"only wording differs; {hit.score:.2f} of the content words are shared"
        return told
    here = [near for near in found.closest if near.state_matched]
    if "text" not in found.kinds.values():
        told["fuzzy"] = "the call has no free text, so it is equal or different, nothing between"
    elif not here:
        told["fuzzy"] = "no successful recording in this state among the closest"
    else:
        told["fuzzy"] = here[0].not_fuzzy or "its answer may not be seen here"
    if hit.tier is Tier.BEST_EFFORT:
        where = "" if hit.state_matched else ", recorded in another state or scenario"
        told["best_effort"] = f"nearest by fields, score {hit.score or 0.0:.2f}{where}"
    elif not found.closest:
        told["best_effort"] = "the tool has no successful recording"
    else:
        told["best_effort"] = (
            f"the nearest scores {found.closest[0].score:.2f}, "
            f"{found.best_effort_min_score.value or 0.0:.2f} is asked for"
        )
    return told


# ---- tools and settings


class Tools(Record, frozen=True, kw_only=True):
    """What a cache believes of its tools."""

    path: str
    settings: str
    """The file they were looked at by, or `kept with the cache`, or `none`."""
    tools: tuple[ToolView, ...]
    doubts: tuple[str, ...]
    """What in the settings fits no recorded tool."""


def tools(
    path: Path | str, *, settings: Path | None = None, open_cache: Opener = ToolCache.open
) -> Tools:
    """Say what a cache believes of its tools: kinds, effects, draws, ages. Reads every recording once.

    Args:
        path: the cache.
        settings: a file to look at them by; None takes those kept with the cache.
        open_cache: opens the cache.

    Raises:
        CacheError: no such cache.
        RecipeError: the settings are wrong.
    """
    with _opened(path, settings, open_cache) as cache:
        kept = "none" if cache.settings == NO_SETTINGS else "kept with the cache"
        return Tools(
            path=str(path),
            settings=kept if settings is None else str(settings),
            tools=tool_views(cache),
            doubts=doubts(cache.settings, cache.store.tools()),
        )


def write_starter(
    path: Path | str,
    file: Path,
    *,
    settings: Path | None = None,
    open_cache: Opener = ToolCache.open,
) -> Tools:
    """Write a settings file to start from, and return what it shows. Never over a file that is there.

    Raises:
        CacheError: no such cache.
        RecipeError: there is such a file already, or it cannot be written.
    """
    with _opened(path, settings, open_cache) as cache:
        text = starter(tool_views(cache), cache.settings, str(path), str(file))
    try:
        with file.open("x", encoding="utf-8") as out:
            out.write(text)
    except FileExistsError as error:
        raise RecipeError(f"{file} is there already. Choose another name, or remove it.") from error
    except (OSError, UnicodeEncodeError) as error:
        raise RecipeError(f"{file}: cannot be written ({error}). Choose another place.") from error
    return tools(path, settings=settings, open_cache=open_cache)


def apply(path: Path | str, settings: Path, *, open_cache: Opener = ToolCache.open) -> Applied:
    """Keep a settings file with a cache, in place of the settings that it had.

    Raises:
        RecipeError: the file is wrong.
        CacheError: no such cache, or what is recorded would mean something else (see
            `tool_views.apply_settings`).
    """
    said = load_settings(settings)
    with open_cache(str(path)) as cache:
        cache.store.tools()  # a name that is no cache must not become one
    with open_cache(str(path), mode="write") as cache:
        return apply_settings(cache.store, said, name=str(path), file=str(settings))


# ---- what was typed


@contextlib.contextmanager
def _opened(path: Path | str, settings: Path | None, open_cache: Opener) -> Iterator[ToolCache]:
    said: Settings | None = None if settings is None else load_settings(settings)
    with open_cache(str(path)) as cache:
        if said is None:
            yield cache
        else:
            yield ToolCache(cache.store, name=cache.name, settings=said, redactor=cache.redactor)


def _call(tool: str, arguments_json: str | None) -> tuple[str, JsonObject]:
    if arguments_json is not None:
        return tool, _object(arguments_json, "the arguments are")
    if not tool.lstrip().startswith("{"):
        raise RecipeError(
            f"the tool {tool!r} alone is no call. Add its arguments as JSON: '{{}}' where it has none."
        )
    return _named_call(tool, "the call is")


def _named_call(text: str, what: str) -> tuple[str, JsonObject]:
    said = _object(text, what)
    said = said.get("function", said)  # as OpenAI writes it
    name = said.get("name") if isinstance(said, dict) else None
    arguments = said.get("arguments", {}) if isinstance(said, dict) else None
    if isinstance(arguments, str):
        arguments = _object(arguments, "the arguments are")
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise RecipeError(
            f"{what} no call: {text[:80]!r}. "
            """Write it like '{"name": "get_order", "arguments": {"order_id": "A1"}}'."""
        )
    return name, arguments


def _object(text: str, what: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise RecipeError(
            f"{what} no JSON object ({error}): {text[:80]!r}. Write it like "
            """'{"order_id": "A1"}'."""
        ) from error


def _state(text: str) -> bytes:
    try:
        return bytes.fromhex(text) if text else NO_WRITES
    except ValueError as error:
        raise RecipeError(f"the state {text!r} is no hex text. Copy it from a hit.") from error


def _state_after(
    cache: ToolCache,
    namespace: str,
    spec: ToolSpec,
    arguments: JsonObject,
    key: bytes,
    after: Sequence[str],
    view: Viewpoint,
) -> tuple[bytes, tuple[str, ...]]:
    """Return the state after earlier calls, and what became of each of them."""
    if not after:
        return key, ()
    if key:
        raise RecipeError(
            "both a state and earlier calls are given. Choose one of --state, --after."
        )
    overlay = StateOverlay()
    told = []
    for text in after:
        name, said = _named_call(text, "an earlier call is")
        earlier = cache.effective(namespace, cache.spec(namespace, name))
        normal = cache.normal(earlier, said)
        state = overlay.state(earlier.effects, normal.arguments)
        hit = cache.find(namespace, earlier, normal, state_key=state.key, view=view, draw=Draw())
        answer = hit.observation if hit.tier is Tier.EXACT else None
        if not is_writer(earlier.effects):
            became = "reads only: changes no state"
        elif answer is not None and answer.is_error:
            became = "its recorded answer is an error: it wrote nothing"
        else:
            became = "taken as done" + ("" if answer else ", though not recorded in this state")
            result = "" if answer is None else answer.text
            overlay.write(
                earlier.name, earlier.effects, normal.arguments, normal.canonical, state, result
            )
        told.append(f"{name} {normal.canonical.decode()}: {became}")
    effective = cache.effective(namespace, spec)
    normal = cache.normal(effective, arguments)
    return overlay.state(effective.effects, normal.arguments).key, tuple(told)


def _tool(cache: ToolCache, tool: str, namespace: str | None) -> tuple[str, ToolSpec]:
    if namespace is None:
        spaces = sorted(space for space, name in cache.store.tools() if name == tool)
        if len(spaces) > 1:
            raise RecipeError(
                f"several namespaces recorded {tool}: {', '.join(spaces)}. Say which one."
            )
        namespace = spaces[0] if spaces else ""
    return namespace, cache.spec(namespace, tool)
