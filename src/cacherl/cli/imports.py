"""`cacherl import`, `replay`, `export`: other people's files, read in, played again, and written."""

from __future__ import annotations

import asyncio
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from cacherl.cli.terminal import FILE, FOLDER, JSON, as_json, counted, example
from cacherl.core.errors import DataError
from cacherl.core.folders import DataFolder
from cacherl.core.tasks import Split

if TYPE_CHECKING:
    from cacherl.imports import ImportSummary

_SHOWN = 5
"""Problems told in the summary; skipped.jsonl has them all."""

_SPLIT = click.Choice([split.value for split in Split])


@click.command("import")
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "format_name",
    metavar="NAME",
    default="auto",
    show_default=True,
    help="openai, anthropic, openai-responses, trl, toucan, apigen-mt, tau-bench, ...; "
    "auto looks at the first row.",
)
@click.option("--out", type=FOLDER, help="Where to; imports/<file name> unless told.")
@click.option("--namespace", default="", help="Whose tools these are; the file's name unless told.")
@click.option("--split", type=_SPLIT, default="train", show_default=True)
@click.option(
    "--language", default="und", show_default=True, help="ISO 639-1, where rows do not say."
)
@click.option("--licence", default="", help="SPDX id, kept with every conversation.")
@click.option("--limit", type=click.IntRange(min=1), help="Stop after so many conversations.")
@click.option("--no-cache", is_flag=True, help="Tasks and conversations only.")
@click.option("--force", is_flag=True, help="Replace what is there, whoever wrote it.")
@JSON
@example("cacherl import conversations.jsonl.gz --out imports/shop")
def import_command(
    source: Path,
    format_name: str,
    out: Path | None,
    namespace: str,
    split: str,
    language: str,
    licence: str,
    limit: int | None,
    no_cache: bool,
    force: bool,
    json_out: bool,
) -> None:
    """Read somebody else's trajectories in SOURCE into tasks, trajectories and a cache.

    SOURCE is a file, a folder of shards or a quoted glob: JSON lines, a JSON array or Parquet, plain, .gz
    or .zst. What cannot be read is left out and listed in skipped.jsonl. All is built beside what is there
    and then takes its place, so an import that fails changes nothing.
    """
    from cacherl.formats.rows import bare_name
    from cacherl.imports import ImportOptions, import_files

    folder = out or Path("imports") / bare_name(source)
    options = ImportOptions(
        format_name=format_name,
        namespace=namespace,
        split=Split(split),
        language=language,
        licence=licence,
        limit=limit,
        cache=not no_cache,
        force=force,
    )
    with Progress(
        TextColumn("import"),
        BarColumn(bar_width=28),
        DownloadColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[found]} conversations"),
        console=_stderr(),
        transient=True,
        disable=not _stderr().is_terminal,
    ) as bars:
        bar = bars.add_task("import", total=None, found=0)
        summary = import_files(
            source,
            folder,
            options,
            on_progress=lambda done, total, found: bars.update(
                bar, completed=done, total=total, found=found
            ),
        )
    click.echo(as_json(summary) if json_out else _told(summary, folder, cached=not no_cache))


def _stderr() -> Console:
    return Console(stderr=True, highlight=False)


def _told(summary: ImportSummary, folder: Path, *, cached: bool) -> str:
    lines = [
        f"{counted(summary.trajectories, 'trajectory', 'trajectories')} of "
        f"{counted(summary.tasks, 'task')}, read as {summary.format}; {counted(summary.calls, 'call')}, "
        f"{counted(summary.new, 'answer')} kept, {summary.not_kept:,} not a tool's own."
    ]
    if not cached:
        lines[0] = lines[0].partition(";")[0] + "; no cache."
    if summary.renamed:
        lines.append(
            f"{counted(summary.renamed, 'task')} had the id of another and got one of its own."
        )
    if summary.unanswered:
        lines.append(f"No result for {counted(summary.unanswered, 'call')}: interrupted there.")
    if summary.skipped:
        lines.append(f"{summary.skipped:,} left out ({folder / 'skipped.jsonl'}), most often:")
        shown = list(summary.problems.items())[:_SHOWN]
        lines += [f"  {count:>8,}  {_plain(problem)}" for problem, count in shown]
    lines.append(f"Licence: {summary.licence or 'not known; say it with --licence'}.")
    if summary.warning:
        lines.append(f"Warning: {summary.warning}")
    here = shlex.quote(str(folder))
    nexts = [f"cacherl select {here}", f"cacherl export {here} --format trl --out train.jsonl"]
    if cached:
        cache = shlex.quote(str(folder / "cache.sqlite"))
        nexts = [f"cacherl cache stats {cache}", f"cacherl replay {here}", *nexts]
    lines += [f"{'Next: ' if place == 0 else '      '}{each}" for place, each in enumerate(nexts)]
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Return text from a file without what a terminal would obey."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


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
        f"{counted(summary.conversations, 'conversation')}, {counted(summary.results, 'result')}: "
        f"{summary.identical} byte for byte, {summary.refused} refused by the loop, "
        f"{summary.different} different."
    )
    if summary.unanswered or summary.in_doubt:
        click.echo(
            f"{summary.unanswered} calls were never answered; {summary.in_doubt} results are transient "
            "failures, which are never served, or stand in a state that nobody knows after one."
        )
    for tier, count in summary.tiers.items():
        click.echo(f"  {tier:<12} {count}")
    if summary.different:
        raise DataError(
            f"{counted(summary.different, 'result')} came back different; the first: {_plain(str(summary.first_difference))}"
        )


@click.command("export")
@click.argument("folder", type=FOLDER)
@click.option(
    "--format",
    "format_name",
    metavar="NAME",
    required=True,
    help="openai, trl, trl-completion, trl-prompt, verl, verl-sft or anthropic.",
)
@click.option("--out", type=FILE, required=True, help="A .jsonl (.gz, .zst) or .parquet file.")
@click.option(
    "--from",
    "origin",
    type=click.Choice(["selected", "augmented", "trajectories"]),
    help="Which conversations; the furthest there are unless told.",
)
@click.option(
    "--split", type=_SPLIT, default="train", show_default=True, help="Others are held out."
)
@click.option("--limit", type=click.IntRange(min=1), help="Stop after so many rows.")
@JSON
@example("cacherl export imports/shop --format trl --out train.parquet")
def export_command(
    folder: Path,
    format_name: str,
    out: Path,
    origin: str | None,
    split: str,
    limit: int | None,
    json_out: bool,
) -> None:
    """Write the conversations or tasks of FOLDER as a file that other people's trainers read.

    Tasks of another split are left out, and so is what nobody should learn from: malformed calls,
    calls without a result. A card beside the file says what is in it.
    """
    from cacherl.core.made_from import fallen_behind
    from cacherl.exports import ExportOptions, Origin, export_folder, source_of

    options = ExportOptions(
        format_name=format_name,
        origin=None if origin is None else Origin(origin),
        split=Split(split),
        limit=limit,
    )
    behind = fallen_behind(DataFolder(folder), source_of(folder, options))
    if behind:
        click.echo(f"! {_plain(behind)}", err=True)
    with Progress(
        TextColumn("export {task.completed:,.0f} rows"),
        TimeElapsedColumn(),
        console=_stderr(),
        transient=True,
        disable=not _stderr().is_terminal,
    ) as bars:
        bar = bars.add_task("export", total=None)
        card = export_folder(
            folder, out, options, on_progress=lambda rows: bars.update(bar, completed=rows)
        )
    if json_out:
        click.echo(as_json(card))
        return
    click.echo(
        f"{counted(card.rows, 'row')} of {counted(card.tasks, 'task')} with "
        f"{counted(card.tools, 'tool')} from {card.source}: "
        f"{counted(card.turns, 'turn')}, {card.thinking:,} with thinking; {card.bytes:,} bytes."
    )
    for reason, count in card.left_out.items():
        click.echo(f"  {count:>8,}  left out: {reason}")
    licences = ", ".join(f"{_plain(name)} {count:,}" for name, count in card.licences.items())
    click.echo(f"Licences: {licences or 'see the tasks'}.")
    if card.advice:
        click.echo(f"Mind: {card.advice}")
    click.echo(f"Wrote {out} and {out}.card.json")


COMMANDS = (import_command, replay, export_command)
