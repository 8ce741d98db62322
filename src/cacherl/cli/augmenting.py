"""`cacherl augment`: the reason before each turn."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cacherl.cli.paying import paying, paying_options
from cacherl.cli.terminal import FOLDER, JSON, as_json, example, typed_command
from cacherl.cli.terminal import bars as draw_bars
from cacherl.core.errors import BudgetError, RecipeError
from cacherl.core.folders import DataFolder
from cacherl.experiment import RunLock

if TYPE_CHECKING:
    from cacherl.augment import AugmentOptions
    from cacherl.augment.folder import FolderSummary, Paid
    from cacherl.augment.rehearsal import Estimate
    from cacherl.core.languages import Detect
    from cacherl.teacher.chat import EndpointChat
    from cacherl.teacher.options import TeacherOptions

_DESK = "desk"
_BATCHED = 2000
"""Conversations waiting at once for batches; all of them are held in memory."""
_LOG_EVERY_S = 10.0


@click.command("augment")
@click.argument("folder", type=FOLDER)
@click.option(
    "--teacher",
    required=True,
    help="PROVIDER:MODEL or PROVIDER:MODEL@URL; desk is the desk's own script.",
)
@paying
@click.option(
    "--concurrency",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Trajectories at once.",
)
@click.option(
    "--temperature", type=click.FloatRange(min=0), help="Left to the teacher if not told."
)
@click.option(
    "--max-tokens",
    type=click.IntRange(min=16),
    default=4096,
    show_default=True,
    help="Of one answer, the teacher's own thinking included.",
)
@click.option("--keep-content", is_flag=True, help="Keep words to the user beside tool calls.")
@click.option("--redo-thinking", is_flag=True, help="Replace the thinking that turns already have.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first so many trajectories.")
@click.option("--dry-run", is_flag=True, help="Say what would be asked and cost; ask nobody.")
@JSON
@example("cacherl augment data/office --teacher openai:gpt-5 --budget-usd 20")
def augment_command(**options: Any) -> None:
    """Give every turn of the trajectories in FOLDER the reasoning that leads to it.

    Turns that reason already are kept or wrapped; for the others a teacher is asked, and shown only what came
    before the turn. Calls and results stay byte for byte. Writes augmented.jsonl and augment.json. Every
    answer is kept in the folder's journal first: a run that was stopped or killed goes on with the same
    command, and what was paid for is not paid again.
    """
    wanted = _Wanted(**options)
    folder = DataFolder(wanted.folder)
    if wanted.dry_run:
        _tell_plan(wanted, asyncio.run(_rehearsed(wanted, folder)))
        return
    with RunLock(folder.root):
        summary = asyncio.run(_augmented(wanted, folder))
    if wanted.json_out:
        click.echo(as_json(summary))
    else:
        _tell(folder, summary)
    from cacherl.augment import require_all

    try:
        require_all(summary.run)
    except BudgetError as error:
        raise BudgetError(
            f"budget spent: {error} Run again with a larger --budget-usd or --budget-tokens to go on."
        ) from error


COMMANDS = (augment_command,)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """The command line."""

    folder: Path
    teacher: str
    budget_usd: float | None
    budget_tokens: int | None
    rpm: float | None
    tpm: int | None
    prices: Path | None
    batch: bool
    concurrency: int
    timeout_s: float
    temperature: float | None
    max_tokens: int
    keep_content: bool
    redo_thinking: bool
    limit: int | None
    dry_run: bool
    json_out: bool

    def options(self) -> AugmentOptions:
        from cacherl.augment import AugmentOptions

        return AugmentOptions(keep_content=self.keep_content, keep_thinking=not self.redo_thinking)

    def paying(self) -> TeacherOptions:
        return paying_options(
            temperature=self.temperature,
            timeout_s=self.timeout_s,
            rpm=self.rpm,
            tpm=self.tpm,
            budget_usd=self.budget_usd,
            budget_tokens=self.budget_tokens,
            prices=self.prices,
            batch=self.batch,
        )

    def detect(self) -> Detect | None:
        """Return what judges languages; a script speaks the task's."""
        from cacherl.core.languages import detector

        return None if self.teacher == _DESK else detector()


async def _augmented(wanted: _Wanted, folder: DataFolder) -> FolderSummary:
    from cacherl.augment.folder import augment_folder, count_trajectories
    from cacherl.wiring import reasoner_named

    total = count_trajectories(folder)
    if wanted.teacher == _DESK:
        _check_desk(folder)
    reasoner, paid = reasoner_named(
        wanted.teacher,
        journal=folder.journal,
        options=wanted.paying(),
        max_tokens=wanted.max_tokens,
    )
    for notice in () if paid is None else paid.notices:
        click.echo(f"! {notice}", err=True)
    try:
        with _screen(wanted, paid, min(total, wanted.limit or total)) as told:
            return await augment_folder(
                folder,
                reasoner,
                ledger=None if paid is None else paid.ledger,
                options=wanted.options(),
                detect=wanted.detect(),
                concurrency=_BATCHED if wanted.batch else wanted.concurrency,
                turns_at_once=wanted.batch,
                limit=wanted.limit,
                renew=typed_command(),
                on_progress=told,
            )
    finally:
        if paid is not None:
            paid.ledger().write(folder.ledger)
            await paid.aclose()


def _check_desk(folder: DataFolder) -> None:
    """Refuse the desk's script for what was recorded elsewhere: it would explain nothing.

    Raises:
        RecipeError: so it is.
    """
    from cacherl.core.jsonl import read_jsonl
    from cacherl.core.tasks import Task

    first = next(read_jsonl(folder.tasks, Task), None)
    if first is not None and first.namespace != _DESK:
        raise RecipeError(
            f"--teacher desk explains what was recorded on the desk; these tasks are of "
            f"{first.namespace!r}. Name a model, such as --teacher openai:gpt-5."
        )


async def _rehearsed(wanted: _Wanted, folder: DataFolder) -> Estimate:
    from cacherl.augment.rehearsal import rehearse

    return await rehearse(
        folder,
        None if wanted.teacher == _DESK else wanted.teacher,
        wanted.paying(),
        options=wanted.options(),
        detect=wanted.detect(),
        max_tokens=wanted.max_tokens,
        limit=wanted.limit,
        now=datetime.now(UTC),
    )


# ---- what is shown -----------------------------------------------------------------------------


@contextlib.contextmanager
def _screen(
    wanted: _Wanted, paid: EndpointChat | None, total: int
) -> Iterator[Callable[[int], None]]:
    """Show how far it is on standard error: a bar, a line every ten seconds in a log, or JSON lines."""
    console = Console(stderr=True, highlight=False)
    told = time.monotonic()

    def is_due(every_s: float, done: int) -> bool:
        nonlocal told
        if done < total and time.monotonic() - told < every_s:
            return False
        told = time.monotonic()
        return True

    def as_line(done: int) -> None:
        if is_due(1.0, done):
            dollars = None if paid is None else paid.ledger().total.dollars
            said = {"done": done, "total": total, "dollars": dollars}
            click.echo(msgspec.json.encode(said).decode(), err=True)

    if wanted.json_out:
        yield as_line
        return
    with draw_bars(console, transient=True) as bars:
        bar = bars.add_task("augment", total=total, facts="")

        def on_bar(done: int) -> None:
            if console.is_terminal:
                if is_due(0.2, done):
                    bars.update(bar, completed=done, facts=escape(_spent(wanted, paid)))
            elif is_due(_LOG_EVERY_S, done):
                click.echo(f"  augment {done}/{total} {_spent(wanted, paid)}".rstrip(), err=True)

        yield on_bar


def _spent(wanted: _Wanted, paid: EndpointChat | None) -> str:
    if paid is None:
        return ""
    total = paid.ledger().total
    spent = "price unknown" if total.dollars is None else f"${total.dollars:.2f}"
    spent += f" of ${wanted.budget_usd:g}" if wanted.budget_usd else ""
    return ", ".join([spent, *(f"{kind} {count}" for kind, count in total.failures.items())])


def _tell_plan(wanted: _Wanted, plan: Estimate) -> None:
    if wanted.json_out:
        click.echo(as_json(plan))
        return
    click.echo(
        f"{plan.trajectories:,} trajectories, {plan.turns:,} turns "
        f"({_counts(plan.by_class)}); {plan.without_teacher_share:.1%} need no teacher"
    )
    if plan.left_out:
        click.echo(f"Left out: {_counts(plan.left_out)}")
    if wanted.teacher == _DESK:
        click.echo("The desk's script explains the others for nothing.")
    else:
        click.echo(
            f"{plan.questions:,} questions to {wanted.teacher}; {plan.on_file:,} more are answered by "
            "the journal"
        )
        click.echo(
            f"About {plan.prompt_tokens:,} tokens to read and {plan.likely_completion_tokens:,} to write "
            f"({plan.basis}), at most {plan.most_completion_tokens:,}"
        )
        if plan.likely_dollars is None or plan.most_dollars is None:
            click.echo(
                f"No price is known for {wanted.teacher}: name one with --prices, or set --budget-tokens"
            )
        else:
            click.echo(
                f"About ${plan.likely_dollars:.2f}, at most ${plan.most_dollars:.2f} ({plan.prices})"
            )
    click.echo("Nobody was asked. Leave --dry-run out to augment.")


def _tell(folder: DataFolder, summary: FolderSummary) -> None:
    run = summary.run
    click.echo(
        f"{run.trajectories:,} trajectories with reasoning in {folder.augmented}"
        if run.published
        else f"{folder.augmented} was left as it was: it holds more than this run finished"
    )
    table = Table(show_header=False, box=None, pad_edge=False)
    rows = [
        ("turns", f"{run.turns:,}: {_counts(run.by_class)}"),
        (
            "no teacher",
            f"{run.without_teacher_share:.1%} ({run.kept_thinking:,} thought already, {run.wrapped:,} wrapped)",
        ),
        ("asked", f"{run.questions:,}, of these again: {_counts(run.asked_again)}"),
        ("languages", _counts(run.languages)),
        ("left out", _counts(run.left_out)),
    ]
    if summary.paid is not None and summary.paid_in_all is not None:
        rows += [
            ("requests", _requests(summary.paid)),
            ("dollars", _dollars(summary.paid, summary.paid_in_all, summary.prices)),
        ]
    for name, value in rows:
        table.add_row(name, escape(value))
    Console(highlight=False).print(table)
    if run.stopped is None:
        again = run.left_out.get("teacher_failed", 0)
        if again:
            click.echo(f"The teacher failed on {again:,}: the same command asks for them again.")
        click.echo(f"Next: cacherl select {folder.root}")


def _requests(paid: Paid) -> str:
    cached = f", {paid.cached_prompt_tokens:,} of them cached" if paid.cached_prompt_tokens else ""
    return (
        f"{paid.requests:,} sent, {paid.from_journal:,} answered by the journal; "
        f"{paid.prompt_tokens:,} tokens read{cached}, {paid.completion_tokens:,} written"
    )


def _dollars(now: Paid, in_all: Paid, prices: str | None) -> str:
    if now.dollars is None or in_all.dollars is None:
        return "price unknown (name one with --prices)"
    return (
        f"${now.dollars:.4f}, ${in_all.dollars:.4f} over all runs ({prices or 'nothing was asked'})"
    )


def _counts(counts: dict[str, int]) -> str:
    told = ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "none"
    return "".join(c if c.isprintable() else "?" for c in told)  # languages are as their tasks say
