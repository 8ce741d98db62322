"""Suites: what there is to be measured on, and what a number on it would mean."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from pathlib import Path
from typing import Literal

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from cacherl.cli.terminal import FILE, FOLDER, JSON, as_json, example
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
_EXAMPLES = {"acebench": "acebench", "tau": "tau:airline,scripted", "tau2": "tau2:telecom,solo"}
_BY_PATH = tuple(_EXAMPLES)
"""Suites that are a clone of the user's, of which `add` keeps the path."""


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
        click.echo(f"{name}: {said.removeprefix(f'{name}: ')}")
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
@click.option("--path", type=FOLDER, help="Your clone of acebench, tau or tau2. Nothing is copied.")
@click.option(
    "--python",
    type=click.Path(path_type=Path),
    help="For tau and tau2: the interpreter that has its packages. Unless told: the clone's .venv.",
)
@JSON
@example("cacherl suites add bfcl")
def add_command(
    name: str, wheel: Path | None, path: Path | None, python: Path | None, json_out: bool
) -> None:
    """Fetch what a suite needs, check it and keep it. Nothing is installed beside CacheRL.

    It is kept under $CACHERL_HOME, or $XDG_DATA_HOME/cacherl, or ~/.local/share/cacherl.
    """
    from cacherl import wiring

    kind = name.partition(":")[0]
    if kind not in wiring.SUITES:
        raise RecipeError(f"{name!r}: no such suite. There are: {', '.join(wiring.SUITES)}.")
    kind = kind.removesuffix("-scripted")
    if kind in _BY_PATH:
        _add_checkout(kind, path, python, json_out)
        return
    if kind not in _ADDED:
        raise RecipeError(f"{kind} needs nothing added. Look at it: `cacherl suites show {kind}`.")
    from cacherl.suites.bfcl.wheel import SHA256, VERSION, add_wheel

    at = add_wheel(wheel)
    if json_out:
        click.echo(as_json({"suite": kind, "path": str(at), "version": VERSION, "sha256": SHA256}))
        return
    click.echo(f"{kind}: bfcl-eval {VERSION}, sha256 as pinned, kept as {at}")
    click.echo(f"Next: cacherl suites show {kind}")


def _add_checkout(kind: str, path: Path | None, python: Path | None, json_out: bool) -> None:
    from cacherl.suites.named import add_checkout

    if path is None:
        raise RecipeError(
            f"{kind} is a clone of yours: `cacherl suites add {kind} --path DIR`. Its licence or its packages "
            "keep it out of CacheRL."
        )
    kept = add_checkout(kind, path, python)
    if json_out:
        click.echo(as_json({"suite": kind, "path": kept.path, "python": kept.python}))
        return
    run_by = "" if kept.python is None else f", run by {kept.python}"
    click.echo(f"{kind}: {kept.path}{run_by}")
    click.echo(f"Next: cacherl suites show {_EXAMPLES[kind]}")


@suites_group.command("flaws")
@click.argument("name", type=click.Choice(["acebench"]))
@click.option("--language", type=click.Choice(["en", "zh"]), default="en", show_default=True)
@JSON
@example("cacherl suites flaws acebench")
def flaws_command(name: str, language: str, json_out: bool) -> None:
    """Say what is wrong with a suite's own answers: golds nobody can reach, and golds nobody looks at."""
    from cacherl.suites.acebench import report_flaws
    from cacherl.suites.named import checkout_of

    chosen: Literal["en", "zh"] = "zh" if language == "zh" else "en"
    flaws = report_flaws(Path(checkout_of(name).path), language=chosen)
    if json_out:
        click.echo(as_json({"flaws": flaws}))
        return
    table = Table("task", "flaw", "what")
    for flaw in flaws:
        table.add_row(*map(escape, (flaw.id, flaw.kind, flaw.said)))
    Console(width=None if sys.stdout.isatty() else _WIDTH).print(table)
    kinds = Counter(flaw.kind for flaw in flaws)
    click.echo(", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "No flaws.")


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


@suites_group.command("export")
@click.argument("run", metavar="RUN", type=FOLDER)
@click.option("--out", type=FOLDER, required=True, help="Where BFCL's result files go.")
@click.option("--trial", type=click.IntRange(min=0), default=0, show_default=True)
@JSON
@example("cacherl suites export runs/eval/mine --out official")
def export_command(run: Path, out: Path, trial: int, json_out: bool) -> None:
    """Write the episodes of RUN, an evaluation on bfcl, as BFCL's own result files.

    Its own evaluator, in an environment of its own, then gives its verdict: a cross-check of ours.
    """
    from cacherl.evaluate.folder import EvalFolder
    from cacherl.evaluate.results import read_results
    from cacherl.suites.bfcl.cases import read_cases
    from cacherl.suites.bfcl.export import MODEL, write_results
    from cacherl.suites.bfcl.wheel import VERSION, installed

    rows = [r for r in read_results(EvalFolder(run).results) if r.trial == trial]
    if not rows:
        raise DataError(f"{run}: holds no episode of trial {trial}. Name another with --trial.")
    counts = write_results(out, read_cases(installed()), (row.trajectory for row in rows))
    passed = sum(row.verdict.success for row in rows)
    if json_out:
        click.echo(as_json({"out": str(out), "episodes": counts, "passed_here": passed}))
        return
    click.echo(f"{len(rows)} episodes into {out}; {passed} of them passed here.")
    click.echo(
        f"Next, where bfcl-eval {VERSION} is installed: BFCL_PROJECT_ROOT={out} bfcl evaluate"
    )
    for category in counts:
        click.echo(f"  --model {MODEL} --test-category multi_turn_{category} --partial-eval")


COMMANDS: tuple[click.Command, ...] = (suites_group,)
