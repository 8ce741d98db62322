"""Suites: what there is to be measured on, and what a number on it would mean."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from cacherl.cli.terminal import FILE, JSON, as_json, example
from cacherl.core.errors import CacheRLError, DataError, RecipeError
from cacherl.core.models import Limits
from cacherl.core.records import Record
from cacherl.core.suites import Suite, SuiteInfo
from cacherl.core.tasks import Split

_WIDTH = 160  # of a table that goes into a file or a pipe
_SHOWN = 5  # task ids named in one line
_LIMITS = Limits(max_turns=256, max_context_tokens=10**9, max_result_tokens=10**9)
"""Those of no model: floor and ceiling of the suite itself."""
_ADDED = ("bfcl",)
"""Suites with files of their own, which `add` fetches."""


class SuiteFacts(Record, frozen=True, kw_only=True):
    """One suite with its floor and ceiling on a split."""

    info: SuiteInfo
    split: Split
    n: int
    """Tasks that floor and ceiling were played on."""
    floor: float | None
    """Share of them on which doing nothing succeeds; None where it cannot be known."""
    ceiling: float | None
    """Share on which the suite's own gold succeeds."""
    floor_passed: tuple[str, ...]
    """Tasks on which doing nothing succeeds."""
    gold_failed: tuple[str, ...]
    """Tasks on which gold fails."""
    said: str = ""
    """Why floor and ceiling are not known."""


@click.group("suites")
@example("cacherl suites list")
def suites_group() -> None:
    """See the benchmarks there are, and add those that need files of their own."""


@suites_group.command("list")
@JSON
@example("cacherl suites list")
def list_command(json_out: bool) -> None:
    """List the suites: tasks, distinct questions, splits, licence, and what each needs."""
    from cacherl import wiring

    infos: list[SuiteInfo] = []
    absent: dict[str, str] = {}
    for name in wiring.SUITES:
        try:
            infos.append(wiring.suite_of(name).info)
        except CacheRLError as error:
            absent[name] = str(error)
    if json_out:
        click.echo(as_json({"suites": infos, "not_here": absent}))
        return
    table = Table("suite", "tasks", "distinct", "train/dev/test", "user", "licence", "what it is")
    for info in infos:
        splits = "/".join(str(info.splits.get(split.value, 0)) for split in Split)
        cells = (info.name, str(info.tasks), str(info.distinct_questions), splits)
        table.add_row(*map(escape, (*cells, info.user.value, info.licence, info.title)))
    Console(width=None if sys.stdout.isatty() else _WIDTH).print(table)
    for name, said in absent.items():
        click.echo(f"{name}: {said}")
    click.echo("Next: cacherl suites show NAME, for its floor and ceiling.")


@suites_group.command("show")
@click.argument("name")
@click.option(
    "--split",
    type=click.Choice([s.value for s in Split]),
    default="test",
    show_default=True,
    help="Whose floor and ceiling.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Only so many tasks of it.")
@JSON
@example("cacherl suites show bfcl")
def show_command(name: str, split: str, limit: int | None, json_out: bool) -> None:
    """Show one suite, with what doing nothing and what its own gold earn on it.

    Both are played once through the agent loop and kept; the second time is fast.
    """
    from cacherl import wiring

    facts = _facts(wiring.suite_of(name), Split(split), limit)
    if json_out:
        click.echo(as_json(facts))
        return
    info = facts.info
    rows = {
        "tasks": f"{info.tasks} ({', '.join(f'{n} {split}' for split, n in info.splits.items())})",
        "distinct questions": str(info.distinct_questions),
        "user": {"scripted": "scripted beforehand", "model": "a model improvises"}[info.user],
        "licence": info.licence,
        "needs": info.needs or "nothing",
        "pin": info.pin or "none",
    }
    click.echo(f"{info.name}: {info.title}")
    for word, said in rows.items():
        click.echo(f"  {word:<19}{said}")
    if facts.floor is None or facts.ceiling is None:
        click.echo(f"  floor, ceiling     not known: {facts.said}")
    else:
        click.echo(
            f"  floor              {facts.floor:.3f}  (doing nothing; {split}, n = {facts.n})"
        )
        click.echo(f"  ceiling            {facts.ceiling:.3f}  (its gold; {split}, n = {facts.n})")
        for word, ids in (
            ("nothing passes", facts.floor_passed),
            ("gold fails", facts.gold_failed),
        ):
            if ids:
                more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
                click.echo(f"  {word:<19}{', '.join(ids[:_SHOWN])}{more}")
    click.echo(f"Next: cacherl eval MODEL --suite {info.name} --split {split}")


@suites_group.command("add")
@click.argument("name")
@click.option("--wheel", type=FILE, help="The suite's own wheel, for a machine without a network.")
@JSON
@example("cacherl suites add bfcl")
def add_command(name: str, wheel: Path | None, json_out: bool) -> None:
    """Fetch what a suite needs, check it and keep it. Nothing is installed beside CacheRL.

    It is kept under $CACHERL_HOME, or $XDG_DATA_HOME/cacherl, or ~/.local/share/cacherl.
    """
    from cacherl import wiring

    kind = name.partition(":")[0]
    if kind not in wiring.SUITES:
        raise RecipeError(f"{name!r}: no such suite. There are: {', '.join(wiring.SUITES)}.")
    if kind not in _ADDED:
        raise RecipeError(f"{kind} needs nothing added. Look at it: `cacherl suites show {kind}`.")
    from cacherl.suites.bfcl.wheel import SHA256, VERSION, add_wheel

    at = add_wheel(wheel)
    if json_out:
        click.echo(as_json({"suite": kind, "path": str(at), "version": VERSION, "sha256": SHA256}))
        return
    click.echo(f"{kind}: bfcl-eval {VERSION}, sha256 as pinned, kept as {at}")
    click.echo(f"Next: cacherl suites show {kind}")


# ---- floor and ceiling ------------------------------------------------------------------------


def _facts(suite: Suite, split: Split, limit: int | None) -> SuiteFacts:
    from cacherl.evaluate.bounds import bound, bounds_of
    from cacherl.evaluate.scoring import SUCCESS
    from cacherl.suites.installed import data_home
    from cacherl.suites.nothing import nothing

    tasks = suite.tasks(split, count=limit)
    if not tasks:
        raise DataError(
            f"{suite.info.name}: has no tasks in split {split}. Name another with --split."
        )
    with Progress(console=Console(stderr=True), transient=True) as bars:
        bar = bars.add_task(f"{suite.info.name}/{split}: nothing, then gold", total=len(tasks))
        rows = asyncio.run(
            bounds_of(
                suite,
                tasks,
                nothing(),
                limits=_LIMITS,
                keep=data_home() / "bounds",
                on_progress=lambda done, total: bars.update(bar, completed=done),
            )
        )
    by_id = {row.task_id: row for row in rows}
    ids = [task.id for task in tasks]
    floor = bound(by_id, ids, SUCCESS, ceiling=False)
    ceiling = bound(by_id, ids, SUCCESS, ceiling=True)
    return SuiteFacts(
        info=suite.info,
        split=split,
        n=len(tasks),
        floor=floor.value,
        ceiling=ceiling.value,
        floor_passed=tuple(row.task_id for row in rows if row.floor.get(SUCCESS) == 1.0),
        gold_failed=tuple(row.task_id for row in rows if row.ceiling.get(SUCCESS, 1.0) < 1.0),
        said=floor.said or ceiling.said,
    )


COMMANDS: tuple[click.Command, ...] = (suites_group,)
