"""`cacherl cache merge | diff | gc | rekey | export | import`: look after caches, take them elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from cacherl.cli.cache import cache
from cacherl.cli.terminal import FILE, JSON, as_json, example
from cacherl.core.tasks import Split
from cacherl.core.tools import Source

if TYPE_CHECKING:
    from cacherl.cache.upkeep.merge import Merged

_SHOWN = 5
_DROPPED = "! the calibration was dropped: it was of other recordings than these"


def _calls(count: int) -> str:
    return f"{count} call" if count == 1 else f"{count} calls"


@cache.command("merge")
@click.argument("out", type=FILE)
@click.argument("sources", nargs=-1, required=True)
@JSON
@example("cacherl cache merge all.sqlite node1.sqlite node2.sqlite old.jsonl")
def cache_merge(out: Path, sources: tuple[str, ...], json_out: bool) -> None:
    """Merge SOURCES (caches, snapshots, exports) into OUT, a new or existing cache file.

    The order does not matter, and merging again adds nothing. Killed, run it again.
    """
    from cacherl.cache.upkeep.merge import merge
    from cacherl.wiring import open_cache

    _tell_merged(merge(out, sources, open_cache=open_cache), json_out)


@cache.command("import")
@click.argument("file", type=FILE)
@click.argument("path")
@JSON
@example("cacherl cache import train.jsonl train.sqlite")
def cache_import(file: Path, path: str, json_out: bool) -> None:
    """Read the export FILE (.jsonl or .parquet) into the cache PATH: all of it or nothing."""
    from cacherl.cache.upkeep.merge import import_file
    from cacherl.wiring import open_cache

    _tell_merged(import_file(file, path, open_cache=open_cache), json_out)


def _tell_merged(found: Merged, json_out: bool) -> None:
    from cacherl.cache.safety.redact import KEY_VARIABLE, key_path

    if json_out:
        click.echo(as_json(found))
        return
    click.echo(
        f"{found.path}: {_calls(found.calls)} read, {found.new} new, {found.changed} now better "
        f"known, {found.conflicts} contradicting"
    )
    for each in found.shown[:_SHOWN]:
        click.echo(f"! {each.tool} {each.arguments} in {each.scenario}:")
        click.echo(f"    here   {each.ours}")
        click.echo(f"    there  {each.theirs}")
    for disagreement in found.disagreements:
        whose = "its own" if disagreement.kept == "source" else "the one before"
        click.echo(
            f"! {disagreement.source} has another {disagreement.what} {disagreement.name}; kept {whose}"
        )
    if found.left_out:
        click.echo(
            f"! {_calls(found.left_out)} left out, recorded under other rules: "
            "`cacherl cache rekey SOURCE`, then merge again"
        )
    if found.redacted and "://" not in found.path and not key_path(Path(found.path)).exists():
        click.echo(
            f"! redacted: to look calls up, copy the source's key to {key_path(Path(found.path))}, "
            f"or set {KEY_VARIABLE}"
        )
    if found.calibration_dropped:
        click.echo(_DROPPED)
    if any(each.what == "tool" for each in found.disagreements):
        then = f", then cacherl cache calibrate {found.path}" if found.calibration_dropped else ""
        click.echo(f"Next: cacherl cache rekey {found.path} --dry-run{then}")
    elif found.calibration_dropped:
        click.echo(f"Next: cacherl cache calibrate {found.path}")
    else:
        click.echo(f"Next: cacherl cache stats {found.path}")


@cache.command("diff")
@click.argument("a")
@click.argument("b")
@click.option(
    "--fail-on",
    type=click.Choice(["contradicting"]),
    help="Exit with 1 where calls are answered in contradiction.",
)
@JSON
@example("cacherl cache diff yesterday.sqlite today.sqlite --fail-on contradicting")
@click.pass_context
def cache_diff(context: click.Context, a: str, b: str, fail_on: str | None, json_out: bool) -> None:
    """Compare the caches A and B, call by call; --json lists every call that differs."""
    from cacherl.cache.upkeep.diff import diff_files
    from cacherl.wiring import open_cache

    found = diff_files(a, b, limit=None if json_out else _SHOWN, open_cache=open_cache)
    if json_out:
        click.echo(as_json(found))
    else:
        click.echo(
            f"{_calls(found.same)} the same, {found.contradicting} contradicting, {found.only_a} only "
            f"in {a}, {found.only_b} only in {b}, {found.changed} with other observations"
        )
        table = Table("tool", "same", "contradicting", "only a", "only b", "changed", "declaration")
        for tool in found.tools:
            counts = (tool.same, tool.contradicting, tool.only_a, tool.only_b, tool.changed)
            table.add_row(tool.tool, *map(str, counts), tool.declaration)
        Console().print(table)
        for each in found.calls:
            where = f" in {each.scenario}" if each.scenario else ""
            click.echo(f"{each.how:<13} {each.tool} {each.arguments}{where}")
            if each.how == "contradicting":
                click.echo(f"    a  {each.a}")
                click.echo(f"    b  {each.b}")
        for name in found.notes:
            click.echo(f"note          {name} differs")
        if found.contradicting:
            click.echo(
                "Next: cacherl cache calibrate, which names tools that contradict themselves"
            )
    if fail_on and found.contradicting:
        context.exit(1)


@cache.command("gc")
@click.argument("path")
@click.option("--split", "splits", multiple=True, type=click.Choice([s.value for s in Split]))
@click.option("--source", "sources", multiple=True, type=click.Choice([s.value for s in Source]))
@click.option("--scenario", "scenarios", multiple=True)
@click.option("--tool", "tools", multiple=True, help="NAME or NAMESPACE/NAME.")
@click.option(
    "--older-than-days",
    type=click.FloatRange(min=0),
    help="Of unknown age counts as older.",
)
@click.option("--transient", is_flag=True, help="Failures in transit.")
@click.option(
    "--beyond",
    type=click.IntRange(min=1),
    metavar="K",
    help="All but K observations of each call.",
)
@click.option("--apply", is_flag=True, help="Drop them; otherwise only count.")
@JSON
@example("cacherl cache gc train.sqlite --source simulated --older-than-days 90 --apply")
def cache_gc(
    path: str,
    splits: tuple[str, ...],
    sources: tuple[str, ...],
    scenarios: tuple[str, ...],
    tools: tuple[str, ...],
    older_than_days: float | None,
    transient: bool,
    beyond: int | None,
    apply: bool,
    json_out: bool,
) -> None:
    """Drop from PATH the observations that meet all conditions; an option given twice means either.

    Without --apply nothing is changed. Never while rollouts read the cache.
    """
    from cacherl.cache.lookup.tool_cache import wall_clock
    from cacherl.cache.upkeep.cleaning import GcRules, gc_file
    from cacherl.wiring import open_cache

    rules = GcRules(
        splits=frozenset(map(Split, splits)),
        sources=frozenset(map(Source, sources)),
        scenarios=frozenset(scenarios),
        tools=frozenset(tools),
        older_than_s=None if older_than_days is None else older_than_days * 86400,
        transient=transient,
        beyond=beyond,
    )
    found = gc_file(path, rules, now=wall_clock(), apply=apply, open_cache=open_cache)
    if json_out:
        click.echo(as_json(found))
        return
    verb = "dropped" if apply else "would drop"
    click.echo(
        f"{path}: {verb} {found.observations} observations: {_calls(found.calls)} whole, "
        f"{found.reduced} in part; {_calls(found.left_calls)} and {found.left_observations} "
        "observations stay"
    )
    for tool, count in found.by_tool.items():
        click.echo(f"  {tool}  {count}")
    if found.unknown_age:
        click.echo(f"! {found.unknown_age} of them only because nobody knows their age")
    if not apply:
        click.echo("Nothing was changed. Next: the same command with --apply")
    elif found.observations:
        if found.calibration_dropped:
            click.echo(_DROPPED)
        click.echo("Freeze again what was frozen from it.")
        click.echo(f"Next: cacherl cache calibrate {path}")


@cache.command("rekey")
@click.argument("path")
@click.option("--settings", type=FILE, help="New settings (TOML), kept with the cache from now on.")
@click.option(
    "--keep-states",
    is_flag=True,
    help="Trust every state key: for states that the environment told itself.",
)
@click.option("--dry-run", is_flag=True, help="Only count.")
@JSON
@example("cacherl cache rekey train.sqlite --settings cache.toml --dry-run")
def cache_rekey(
    path: str, settings: Path | None, keep_states: bool, dry_run: bool, json_out: bool
) -> None:
    """Move the recordings in PATH to where today's normalisation rules look for them."""
    from cacherl.cache.lookup.settings import load_settings
    from cacherl.cache.upkeep.rekey import rekey_file
    from cacherl.wiring import open_cache

    found = rekey_file(
        path,
        settings=None if settings is None else load_settings(settings),
        keep_states=keep_states,
        apply=not dry_run,
        open_cache=open_cache,
    )
    if json_out:
        click.echo(as_json(found))
        return
    verb = "would move" if dry_run else "moved"
    click.echo(
        f"{path}: {_calls(found.calls)} read, {found.older} of older rules; {verb} {found.moved}, of "
        f"which {found.merged} join another call and {found.split} are parted"
    )
    if found.refusals_dropped:
        click.echo(f"! {found.refusals_dropped} refusals of what is now mended are dropped")
    if found.repeats_assumed:
        click.echo(
            f"! {found.repeats_assumed} repeats may have been spelled otherwise than the first"
        )
    if found.states_lost:
        why = ", ".join(found.writers_changed) or "the resources they name"
        click.echo(
            f"! {_calls(found.states_lost)} stood behind writes that can no longer be told ({why} "
            "changed): they answer best effort only. Record their trajectories again."
        )
    if found.states_kept:
        click.echo(f"{_calls(found.states_kept)} in a written state keep it as recorded")
    if found.moved and not dry_run:
        if found.calibration_dropped:
            click.echo(_DROPPED)
        click.echo("Freeze again what was frozen from it.")
        click.echo(f"Next: cacherl cache calibrate {path}")


@cache.command("export")
@click.argument("path")
@click.argument("file", type=FILE)
@JSON
@example("cacherl cache export train.sqlite train.parquet")
def cache_export(path: str, file: Path, json_out: bool) -> None:
    """Write the cache PATH to FILE, a .jsonl or a .parquet: equal caches make equal bytes."""
    from cacherl.cache.upkeep.merge import export_file
    from cacherl.wiring import open_cache

    found = export_file(path, file, open_cache=open_cache)
    if json_out:
        click.echo(as_json(found))
        return
    click.echo(
        f"{file}: {_calls(found.calls)}, {found.observations} observations, {found.tools} tools, "
        f"{found.notes} notes; digest {found.digest}"
    )
    if found.left_out:
        click.echo(
            f"! {_calls(found.left_out)} left out, recorded under other rules: "
            f"`cacherl cache rekey {path}`, then export again"
        )
    click.echo(f"Next: cacherl cache import {file} OTHER.sqlite")
