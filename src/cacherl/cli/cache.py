"""`cacherl cache`: look into a cache of tool results, look after it, take it elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from cacherl.cli.terminal import FILE, JSON, Group, as_json, example

if TYPE_CHECKING:
    from cacherl.cache.lookup.queries import Difference, Explained, Limit
    from cacherl.cache.lookup.tool_views import ToolView


@click.group(cls=Group)
@example("cacherl cache stats runs/quickstart/cache/train.sqlite")
def cache() -> None:
    """Look into a cache of tool results."""


@cache.command("stats")
@click.argument("path")
@JSON
@example("cacherl cache stats runs/quickstart/cache/train.sqlite")
def cache_stats(path: str, json_out: bool) -> None:
    """Count what is recorded in PATH, per tool; every checksum is verified on the way."""
    from cacherl.cache.lookup.queries import stats
    from cacherl.wiring import open_cache

    found = stats(path, open_cache=open_cache)
    if json_out:
        click.echo(as_json(found))
        return
    click.echo(
        f"{path}: {found.calls} calls, {found.observations} observations, {found.repeats} repeats, "
        f"{found.scenarios} scenarios"
    )
    click.echo("splits: " + ", ".join(f"{k} {v}" for k, v in found.by_split.items()))
    table = Table("tool", "calls", "answers", "errors", "contradictions")
    for tool in found.tools:
        table.add_row(
            tool.tool,
            str(tool.calls),
            str(tool.observations),
            str(tool.errors),
            str(tool.contradictions),
        )
    Console().print(table)
    click.echo(f"Next: cacherl cache tools {path}")


def _call_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--namespace", help="Needed only where several namespaces have the tool."),
        click.option("--state", default="", help="The state key (hex); empty before any write."),
        click.option(
            "--after",
            multiple=True,
            metavar="CALL",
            help="An earlier call of the episode as JSON, with name and arguments; in order, instead of --state.",
        ),
        click.option(
            "--settings", type=FILE, help="Settings to look up by; those of the cache unless told."
        ),
        click.argument("arguments", required=False),
        click.argument("tool", metavar="TOOL|CALL"),
        click.argument("path"),
    ):
        function = option(function)
    return function


@cache.command("lookup")
@_call_options
@JSON
@example(
    """cacherl cache lookup imports/airline/cache.sqlite get_user_details '{"user_id": "mia_li_3668"}'"""
)
def cache_lookup(
    path: str,
    tool: str,
    arguments: str | None,
    namespace: str | None,
    state: str,
    after: tuple[str, ...],
    settings: Path | None,
    json_out: bool,
) -> None:
    """Look up one call in PATH: TOOL with ARGUMENTS (a JSON object), or a whole CALL as JSON."""
    from cacherl.cache.lookup.queries import lookup
    from cacherl.wiring import open_cache

    hit = lookup(
        path,
        tool,
        arguments,
        namespace=namespace,
        state=state,
        after=after,
        settings=settings,
        open_cache=open_cache,
    )
    if json_out:
        click.echo(as_json(hit))
        return
    score = f", score {hit.score:.2f}" if hit.score is not None else ""
    click.echo(
        f"{hit.tier.value}{score}" + ("" if hit.state_matched else ", recorded in another state")
    )
    if hit.matched_arguments:
        click.echo(f"matched  {hit.matched_arguments}")
    for rule in hit.fired:
        click.echo(f"rule     {rule}")
    if hit.observation is not None:
        click.echo(hit.observation.text)


# ---- explain


@cache.command("explain")
@_call_options
@JSON
@example(
    """cacherl cache explain imports/airline/cache.sqlite get_user_details '{"user_id": "mia_li_3669"}'"""
)
def cache_explain(
    path: str,
    tool: str,
    arguments: str | None,
    namespace: str | None,
    state: str,
    after: tuple[str, ...],
    settings: Path | None,
    json_out: bool,
) -> None:
    """Say why a lookup in PATH finds what it finds, and what came closest.

    The call is TOOL with ARGUMENTS (a JSON object), or a whole CALL as JSON.
    """
    from cacherl.cache.lookup.queries import explain
    from cacherl.wiring import open_cache

    found = explain(
        path,
        tool,
        arguments,
        namespace=namespace,
        state=state,
        after=after,
        settings=settings,
        open_cache=open_cache,
    )
    if json_out:
        click.echo(as_json(found))
        return
    for line in _explained(found):
        click.echo(line)
    click.echo(f"Next: cacherl cache tools {path}")


def _explained(found: Explained) -> Iterator[str]:
    hit = found.hit
    yield f"{found.namespace}/{found.tool} {found.asked}"
    if found.fired:
        yield f"  normal form  {found.arguments}"
        yield from _listed("rules", found.fired)
    yield from _listed(
        "kinds",
        [f"{path}: {kind} ({found.origins[path]})" for path, kind in found.kinds.items()],
    )
    yield from _listed("after", found.after)
    state = f"after writes that touch it ({found.state})" if found.state else "no write touches it"
    yield f"  state        {state}"
    others = [other or "before any write" for other in found.states if other != found.state]
    yield from _listed(
        "also in", others[:_SHOWN] + [f"{len(others)} states"] * (len(others) > _SHOWN)
    )
    yield (
        f"  limits       fuzzy {_limit(found.fuzzy_min_score)}, best effort "
        f"{_limit(found.best_effort_min_score)}, max age {_limit(found.max_age_s, 's')}"
    )
    yield f"tier           {hit.tier.value}" + (
        "" if hit.fidelity is None else f", fidelity {hit.fidelity:.2f}"
    )
    for tier, what in found.tiers.items():
        yield f"  {tier:<12} {what}"
    if hit.matched_arguments is not None:
        yield f"  matched      {hit.key} {hit.matched_arguments}"
        yield from _differing(found.differences)
    for near in found.closest:
        if near.key == hit.key:
            continue
        where = "" if near.state_matched else f", state {near.state or 'before any write'}"
        yield f"closest        {near.score:.2f}{where}  {near.key}"
        if near.not_fuzzy:
            yield f"  not fuzzy    {near.not_fuzzy}"
        yield from _differing(near.differences)


_SHOWN = 5
_WIDE = 60


def _listed(label: str, lines: tuple[str, ...] | list[str]) -> Iterator[str]:
    for place, line in enumerate(lines):
        yield f"  {label if place == 0 else '':<12} {line}"


def _differing(differences: tuple[Difference, ...]) -> Iterator[str]:
    if not differences:
        yield "  differs      in nothing but its state or who may see it"
    for each in differences:
        yield (
            f"  differs      {each.path} ({each.kind}): asked {_cut(each.asked)}, "
            f"recorded {_cut(each.recorded)}"
        )


def _cut(value: str | None) -> str:
    if value is None:
        return "nothing"
    return value if len(value) <= _WIDE else f"{value[: _WIDE - 3]}..."


def _limit(limit: Limit, unit: str = "") -> str:
    value = "none" if limit.value is None else f"{limit.value:g}{unit and ' ' + unit}"
    return f"{value} ({limit.origin})"


# ---- tools


@cache.command("tools")
@click.argument("path")
@click.option("--tool", "only", help="Only this one.")
@click.option(
    "--settings", type=FILE, help="Look at them by this file; by those of the cache unless told."
)
@click.option("--write", type=FILE, help="Write a settings file to start from.")
@click.option("--apply", "keep", is_flag=True, help="Keep the file of --settings with the cache.")
@JSON
@example("cacherl cache tools imports/airline/cache.sqlite --write cache.toml")
def cache_tools(
    path: str,
    only: str | None,
    settings: Path | None,
    write: Path | None,
    keep: bool,
    json_out: bool,
) -> None:
    """Show what PATH believes of its tools: kinds, effects, draws, ages, and why.

    To correct it: --write a file, edit it, look again with --settings, then --apply.
    """
    from cacherl.cache.lookup.queries import apply, tools, write_starter
    from cacherl.core.errors import RecipeError
    from cacherl.wiring import open_cache

    if keep:
        if settings is None or write is not None:
            raise RecipeError("--apply keeps the file of --settings. Name one, and no --write.")
        applied = apply(path, settings, open_cache=open_cache)
        if json_out:
            click.echo(as_json(applied))
            return
        click.echo(
            f"{settings} is kept with {path}; it changes {', '.join(applied.changed) or 'nothing'}."
        )
        for tool in applied.narrowed:
            click.echo(
                f"! {tool} now touches less: its recordings from after a write answer BEST_EFFORT "
                "until they are recorded again"
            )
        for doubt in applied.doubts:
            click.echo(f"! {doubt}")
        click.echo(f"Next: cacherl cache tools {path}")
        return
    if write is not None:
        found = write_starter(path, write, settings=settings, open_cache=open_cache)
    else:
        found = tools(path, settings=settings, open_cache=open_cache)
    shown = [view for view in found.tools if only in (None, view.tool)]
    if only is not None and not shown:
        raise RecipeError(
            f"no tool {only} is recorded; there are: {', '.join(view.tool for view in found.tools)}."
        )
    if json_out:
        click.echo(as_json(found if only is None else shown))
        return
    click.echo(f"{path}: {len(found.tools)} tools; settings: {found.settings}")
    for view in shown:
        for line in _tool(view):
            click.echo(line)
    for doubt in found.doubts:
        click.echo(f"! {doubt}")
    if write is not None:
        click.echo(f"Next: edit {write}, then cacherl cache tools {path} --settings {write}")
    elif settings is not None:
        click.echo(f"Next: cacherl cache tools {path} --settings {settings} --apply")
    else:
        click.echo(f"Next: cacherl cache tools {path} --write cache.toml")


def _tool(view: ToolView) -> Iterator[str]:
    yield ""
    calls = "1 call" if view.calls == 1 else f"{view.calls} calls"
    yield f"{view.namespace}/{view.tool}  {calls} recorded"
    origin = {"tool": "as it declares", "nothing": "nothing declared"}.get(
        view.effects_from, view.effects_from
    )
    more = ", idempotent" * view.idempotent + ", open world" * view.open_world
    yield (
        f"  effects  reads {', '.join(view.reads) or 'nothing'}; "
        f"writes {', '.join(view.writes) or 'nothing'}{more} ({origin})"
    )
    age = "never age" if view.max_age_s is None else f"age after {view.max_age_s:g} s"
    yield f"  answers  draw by {view.draw} ({view.draw_from}); {age}"
    wide = max((len(each.path) for each in view.parameters), default=0)
    for each in view.parameters:
        seen = "" if each.evidence is None else f"  {each.evidence} (n = {each.n})"
        wish = ""
        if each.looks_like not in (None, each.kind) and each.origin in ("name", "value"):
            wish = f"; looks like {each.looks_like}"
        yield f"  {each.path:<{wide}}  {each.kind:<8} {each.origin}{wish}{seen}"
    for warning in view.warnings:
        yield f"  ! {warning}"
