"""`cacherl import`, `replay`: other people's files, read in and played again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from cacherl.cli.terminal import FILE, FOLDER, JSON, as_json, example
from cacherl.core.errors import DataError


@click.command("import")
@click.argument("source", type=FILE)
@click.option("--format", "format_name", type=click.Choice(["tau-bench"]), required=True)
@click.option("--out", type=FOLDER, help="Where to; imports/<file name> unless told.")
@JSON
@example(
    "cacherl import --format tau-bench ../shared/data/tau-bench/gpt-4o-airline.json --out imports/airline"
)
def import_command(source: Path, format_name: str, out: Path | None, json_out: bool) -> None:
    """Read somebody else's trajectories in SOURCE into tasks, trajectories and a cache.

    The cache is built beside the file that is there and then takes its place, so an import that
    fails changes nothing.
    """
    from cacherl.imports import import_file

    folder = out or Path("imports") / source.stem
    summary = import_file(source, format_name, folder)
    if json_out:
        click.echo(as_json(summary))
        return
    click.echo(
        f"{summary.trajectories} trajectories of {summary.tasks} tasks, {summary.calls} calls; "
        f"{summary.new} answers kept, {summary.skipped} not a tool's own."
    )
    click.echo(f"Next: cacherl cache stats {folder}/cache.sqlite")
    click.echo(f"      cacherl replay {folder}")


@click.command()
@click.argument("folder", type=FOLDER)
@JSON
@example("cacherl replay imports/airline")
def replay(folder: Path, json_out: bool) -> None:
    """Play every imported conversation in FOLDER again through the loop, answered by its cache.

    Tells how many tool results came back byte for byte.
    """
    from cacherl.imports import replay_folder

    summary = asyncio.run(replay_folder(folder))
    if json_out:
        click.echo(as_json(summary))
        return
    click.echo(
        f"{summary.conversations} conversations, {summary.results} results: "
        f"{summary.identical} byte for byte, {summary.refused} refused by the loop, "
        f"{summary.different} different."
    )
    for tier, count in summary.tiers.items():
        click.echo(f"  {tier:<12} {count}")
    if summary.different:
        raise DataError(
            f"{summary.different} results differ; the first: {summary.first_difference}"
        )


COMMANDS = (import_command, replay)
