"""`cacherl cache`: look into a cache of tool results, look after it, take it elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from cacherl.cli.terminal import FILE, JSON, Group, as_json, example


@click.group(cls=Group)
@example("cacherl cache stats runs/quickstart/cache/train.sqlite")
def cache() -> None:
    """Look into a cache of tool results."""


@cache.command("stats")
@click.argument("path", type=FILE)
@JSON
@example("cacherl cache stats runs/quickstart/cache/train.sqlite")
def cache_stats(path: Path, json_out: bool) -> None:
    """Count what is recorded in PATH, per tool; every checksum is verified on the way."""
    from cacherl.cache.queries import stats

    found = stats(path)
    if json_out:
        click.echo(as_json(found))
        return
    click.echo(
        f"{path}: {found.calls} calls, {found.observations} distinct answers, {found.repeats} repeats, "
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


def _call_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--namespace", help="Needed only where several namespaces have the tool."),
        click.option("--state", default="", help="The state key (hex); empty before any write."),
        click.argument("arguments"),
        click.argument("tool"),
        click.argument("path", type=FILE),
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
    path: Path, tool: str, arguments: str, namespace: str | None, state: str, json_out: bool
) -> None:
    """Look up one call of TOOL with ARGUMENTS (a JSON object) in PATH."""
    from cacherl.cache.queries import lookup

    hit = lookup(path, tool, arguments, namespace=namespace, state=state)
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


@cache.command("explain")
@_call_options
@JSON
@example(
    """cacherl cache explain imports/airline/cache.sqlite get_user_details '{"user_id": "mia_li_3669"}'"""
)
def cache_explain(
    path: Path, tool: str, arguments: str, namespace: str | None, state: str, json_out: bool
) -> None:
    """Say why a lookup in PATH finds what it finds, and what came closest."""
    from cacherl.cache.queries import explain

    found = explain(path, tool, arguments, namespace=namespace, state=state)
    if json_out:
        click.echo(as_json(found))
        return
    click.echo(f"{found.tool} {found.arguments}")
    click.echo("kinds    " + ", ".join(f"{name}: {kind}" for name, kind in found.kinds.items()))
    click.echo(
        f"tier     {found.hit.tier.value}; the same arguments in other states: {found.other_states}"
    )
    for near in found.closest:
        why = f"; not fuzzy: {near.not_fuzzy}" if near.not_fuzzy else ""
        differs = ", ".join(near.differs) or "nothing"
        click.echo(f"closest  {near.score:.2f}  {near.arguments}  differs in {differs}{why}")
