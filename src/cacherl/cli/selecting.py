"""`cacherl select`, `card`: what is worth learning from, and its data card."""

from __future__ import annotations

import asyncio
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from cacherl.cli.paying import paying, paying_options, told_dollars, told_requests
from cacherl.cli.terminal import FILE, FOLDER, JSON, as_json, counted, example, typed_command
from cacherl.core.folders import DataFolder
from cacherl.core.made_from import fallen_behind
from cacherl.core.tasks import Split

if TYPE_CHECKING:
    from cacherl.core.trajectories import Trajectory
    from cacherl.reward.judge import JudgeScores
    from cacherl.select import HeldOutTexts, Scorers, Selection
    from cacherl.select.card import Card, JudgeFacts, SelectionFacts
    from cacherl.select.folder import Wanted
    from cacherl.teacher.ledger import Ledger
    from cacherl.teacher.options import TeacherOptions

_SHOWN_TOOLS = 20
_BATCHED = 2000
"""Conversations waiting at once for batches; all of them are held in memory."""
_JUDGE = "judge"
"""What its requests are for, in journal and ledger."""
_SHARE = click.FloatRange(0, 1)
_TO_TRL = ("--format", "trl", "--out", "train.jsonl")
_COUNT = click.IntRange(min=0)
_TIMES = click.FloatRange(min=0)

_TOKENIZER = click.option(
    "--tokenizer", default="", help="Count tokens with this model's; else they are estimated."
)
_FROM = click.option("--from", "source", type=FILE, help="Another file of trajectories in FOLDER.")


@click.command("select")
@click.argument("folder", type=FOLDER)
@_FROM
@click.option(
    "--judge", "judge_name", default="", help="PROVIDER:MODEL[@URL], for tasks without gold."
)
@click.option("--judge-samples", type=click.IntRange(min=1), default=3, show_default=True)
@click.option(
    "--min-judged", type=click.FloatRange(0, 5), default=4.0, show_default=True, help="Mean, of 5."
)
@click.option(
    "--max-spread",
    type=click.IntRange(0, 5),
    default=2,
    show_default=True,
    help="Points between samples; beyond it a score is contested.",
)
@click.option("--drop-contested", is_flag=True, help="Leave contested conversations out.")
@click.option("--concurrency", type=click.IntRange(min=1), default=8, show_default=True)
@paying
@click.option("--score-note", default="", help="A score in the trajectories' notes: `reward`.")
@click.option("--min-note", type=float, default=1.0, show_default=True)
@click.option("--note-max", type=float, default=1.0, show_default=True, help="The best such score.")
@click.option(
    "--unscored",
    type=click.Choice(["drop", "keep"]),
    default="drop",
    show_default=True,
    help="What nothing speaks for or against.",
)
@click.option("--split", "splits", type=click.Choice([s.value for s in Split]), multiple=True)
@click.option("--per-task", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--near-duplicates", type=_SHARE, default=0.0, help="Drop what is so alike: 0.9.")
@click.option(
    "--against",
    type=click.Path(exists=True, path_type=Path),
    multiple=True,
    help="Held-out tasks: drop what repeats them.",
)
@click.option("--tool-floor", type=_COUNT, default=8, show_default=True)
@click.option("--tool-ceiling", type=_TIMES, default=0.0, help="Times the median tool; 0: none.")
@click.option("--family-floor", type=_COUNT, default=8, show_default=True)
@click.option("--family-ceiling", type=_TIMES, default=3.0, show_default=True)
@click.option("--length-floor", type=_COUNT, default=0, help="By the number of calls.")
@click.option(
    "--length-ceiling", type=_TIMES, default=0.0, help="Times the median length; 0: none."
)
@click.option(
    "--combine/--no-combine", default=True, help="Let the best rejected of rare tools back."
)
@click.option("--seed", type=_COUNT, default=0, show_default=True, help="Draws what ceilings cut.")
@_TOKENIZER
@click.option("--dry-run", is_flag=True, help="Write nothing and ask nobody.")
@JSON
@example("cacherl select recordings/shop --judge openai:gpt-5 --near-duplicates 0.9")
def select_command(
    folder: Path,
    source: Path | None,
    judge_name: str,
    judge_samples: int,
    min_judged: float,
    max_spread: int,
    drop_contested: bool,
    concurrency: int,
    score_note: str,
    min_note: float,
    note_max: float,
    unscored: str,
    splits: tuple[str, ...],
    per_task: int,
    near_duplicates: float,
    against: tuple[Path, ...],
    tool_floor: int,
    tool_ceiling: float,
    family_floor: int,
    family_ceiling: float,
    length_floor: int,
    length_ceiling: float,
    combine: bool,
    seed: int,
    tokenizer: str,
    dry_run: bool,
    json_out: bool,
    **paying_told: Any,
) -> None:
    """Keep the trajectories in FOLDER worth learning from, and describe them.

    Tasks with gold are checked by state, answer and process; others need a judge or a score of their
    own. What is right is kept, and the best of the rest where a tool has become rare. Writes
    selected.jsonl, judgements.jsonl (every score and reason), select.json, card.json and card.html.
    A judge's answers are kept in the folder's journal: asking again costs nothing, and a run that was
    stopped goes on with the same command.
    """
    from dataclasses import replace

    from cacherl.report.card import write_card
    from cacherl.select import Scorers, SelectOptions
    from cacherl.select.folder import (
        Wanted,
        held_out_of,
        noted_by,
        preview,
        select_folder,
        source_of,
    )

    data = DataFolder(folder)
    scorers = Scorers(noted=noted_by(score_note, note_max)) if score_note else Scorers()
    options = SelectOptions(
        splits=frozenset(Split(name) for name in splits) or frozenset({Split.TRAIN}),
        per_task=per_task,
        min_judged=min_judged / 5,
        max_spread=max_spread,
        drop_contested=drop_contested,
        min_noted=min_note / note_max if note_max > 0 else 1.0,
        keep_unscored=unscored == "keep",
        near_duplicates=near_duplicates,
        combine=combine,
        tool_floor=tool_floor,
        family_floor=family_floor,
        length_floor=length_floor,
        family_ceiling=family_ceiling,
        tool_ceiling=tool_ceiling,
        length_ceiling=length_ceiling,
        seed=seed,
    )
    wanted = Wanted(
        source=source or source_of(data),
        options=options,
        judge=judge_name,
        against=against,
        count_tokens=_counter(tokenizer),
        tokenizer=tokenizer,
        said={
            "judge": judge_name,
            "judge_samples": judge_samples if judge_name else "",
            "score_note": score_note,
            "against": [path.name for path in against],
        },
        made_at=datetime.now(UTC),
        named=source is not None,
        renew=typed_command(),
    )
    _warn_behind(data, wanted.source)
    ledger = None
    held_out = held_out_of(against) if against else None
    if judge_name and not dry_run:
        scores, ledger = asyncio.run(
            _judged(
                data,
                wanted,
                scorers,
                held_out,
                paying_options(**paying_told),
                samples=judge_samples,
                concurrency=_BATCHED if paying_told["batch"] else concurrency,
                json_out=json_out,
            )
        )
        scorers = _with_judge(scorers, scores)
        wanted = replace(wanted, paid=tuple(row for row in ledger.rows if row.purpose == _JUDGE))
    with _reading("trajectories", json_out) as told:
        if dry_run:
            selection = preview(
                data, wanted, scorers, held_out, on_read=lambda n: told(n, None, "")
            )
            card = None
        else:
            selection, card = select_folder(
                data, wanted, scorers, held_out, on_read=lambda n: told(n, None, "")
            )
    if card is not None:
        write_card(card, data.card_html)
    if json_out:
        click.echo(as_json(_facts(data, selection, card, wanted)))
        return
    _tell(data, selection, card, wanted, ledger)


def _counter(tokenizer: str) -> Any:
    if not tokenizer:
        return None
    from cacherl.wiring import token_counter

    return token_counter(tokenizer)


def _with_judge(scorers: Scorers, scores: dict[bytes, JudgeScores]) -> Scorers:
    from dataclasses import replace

    from cacherl.select.duplicates import signature

    def judged(task: Any, trajectory: Trajectory) -> JudgeScores | None:
        return scores.get(signature(trajectory))

    return replace(scorers, judged=judged)


async def _judged(
    data: DataFolder,
    wanted: Wanted,
    scorers: Scorers,
    held_out: HeldOutTexts | None,
    paying: TeacherOptions,
    *,
    samples: int,
    concurrency: int,
    json_out: bool,
) -> tuple[dict[bytes, JudgeScores], Ledger]:
    """Ask the judge through the folder's journal, so that asking again costs nothing."""
    from cacherl.core.task_file import TaskFile
    from cacherl.reward.judge import ChatJudge
    from cacherl.select import judge_all
    from cacherl.wiring import paid_model

    paid = paid_model(wanted.judge, journal=data.journal, options=paying, purpose=_JUDGE)
    for notice in paid.notices:
        click.echo(f"! {notice}", err=True)
    try:
        with TaskFile(data.tasks) as tasks, _reading("judged", json_out) as told:

            def progress(judged: int, failed: int) -> None:
                spent = paid.ledger().total.dollars
                cost = "price unknown" if spent is None else f"${spent:.2f}"
                told(judged, None, cost + (f", {failed} failed" if failed else ""))

            scores = await judge_all(
                tasks,
                wanted.source,
                ChatJudge(paid),
                samples=samples,
                concurrency=concurrency,
                scorers=scorers,
                options=wanted.options,
                held_out=held_out,
                on_progress=progress,
            )
    finally:
        paid.ledger().write(data.ledger)
        await paid.aclose()
    return scores, paid.ledger()


@click.command("card")
@click.argument("folder", type=FOLDER)
@_FROM
@_TOKENIZER
@JSON
@example("cacherl card imports/toucan")
def card_command(folder: Path, source: Path | None, tokenizer: str, json_out: bool) -> None:
    """Describe the trajectories in FOLDER: card.json and card.html. Chooses nothing.

    The furthest file is described: selected, else with reasoning, else as recorded or imported.
    """
    from cacherl.report.card import write_card
    from cacherl.select.folder import Wanted, describe_folder

    data = DataFolder(folder)
    wanted = Wanted(
        source=source or data.best(),
        count_tokens=_counter(tokenizer),
        tokenizer=tokenizer,
        made_at=datetime.now(UTC),
    )
    _warn_behind(data, wanted.source)
    with _reading("trajectories", json_out) as told:
        card = describe_folder(data, wanted, on_read=lambda n: told(n, None, ""))
    write_card(card, data.card_html)
    if json_out:
        click.echo(as_json(card))
        return
    click.echo(f"{wanted.source}: {_about(card)}")
    _warn(card)
    click.echo(f"Card: {data.card_html.resolve()}")
    if card.selection is None:
        click.echo(f"Next: {shlex.join(['cacherl', 'select', str(folder)])}")


# ---- what is shown ---------------------------------------------------------------------------


@contextmanager
def _reading(what: str, json_out: bool) -> Iterator[Any]:
    """Show how far it is, on standard error: a bar for a person, a line every ten seconds in a log."""
    console = Console(stderr=True, highlight=False)
    if json_out:
        yield lambda done, total, facts: None
        return
    with Progress(
        TextColumn("{task.description:<14}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[facts]}"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bars:
        bar = bars.add_task(what, total=None, facts="")
        told = time.monotonic()

        def tell(done: int, total: int | None, facts: str) -> None:
            nonlocal told
            now = time.monotonic()
            if console.is_terminal:
                if now - told > 0.1:
                    told = now
                    bars.update(bar, completed=done, total=total, facts=escape(facts))
            elif now - told > 10:
                told = now
                click.echo(f"  {what} {done} {facts}".rstrip(), err=True)

        yield tell


def _plain(text: str) -> str:
    """Return names that others chose without what moves a terminal's cursor or colours."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _facts(
    data: DataFolder, selection: Selection, card: Card | None, wanted: Wanted
) -> dict[str, Any]:
    from cacherl.select.card import selection_facts

    facts: SelectionFacts = selection_facts(selection, wanted.judge)
    return {
        "kept": selection.kept,
        "selection": facts,
        "rare_tools": selection.rare_tools,
        "paid": wanted.paid,
        "warnings": card.warnings if card is not None else (),
        "card": str(data.card_html) if card is not None else None,
    }


def _tell(
    data: DataFolder,
    selection: Selection,
    card: Card | None,
    wanted: Wanted,
    ledger: Ledger | None,
) -> None:
    from cacherl.report.card import VERDICTS
    from cacherl.select.card import selection_facts

    console = Console(highlight=False)
    dry = card is None
    share = selection.kept / selection.considered if selection.considered else 0.0
    click.echo(
        f"{selection.kept:,} of {counted(selection.considered, 'trajectory', 'trajectories')} "
        f"{'would be' if dry else 'is' if selection.kept == 1 else 'are'} kept ({share:.1%})"
    )
    table = Table("verdict", box=None, pad_edge=False)
    table.add_column("trajectories", justify="right")
    table.add_column("%", justify="right")
    table.add_column("")
    for verdict, meaning in VERDICTS.items():
        count = selection.by_verdict.get(verdict.value, 0)
        if count:
            table.add_row(
                ("+ " if verdict.kept else "  ") + verdict.value.replace("_", " "),
                f"{count:,}",
                f"{100 * count / selection.considered:.1f}",
                meaning,
            )
    console.print(table)
    asked = selection_facts(selection, wanted.judge).judge
    if asked is not None:
        click.echo(_judge_line(asked))
    if ledger is not None:
        click.echo(f"Requests: {told_requests(ledger, _JUDGE)}")
        click.echo(f"Dollars: {told_dollars(ledger, _JUDGE)}")
    _tell_tools(console, selection)
    _tell_unscored(selection, wanted)
    if card is None:
        click.echo("Nothing was written and nobody was asked. Leave --dry-run out to select.")
        return
    _warn(card)
    click.echo(f"Card: {data.card_html.resolve()}")
    click.echo(f"Next: {shlex.join(['cacherl', 'export', str(data.root), *_TO_TRL])}")


def _judge_line(asked: JudgeFacts) -> str:
    said = (
        f"Judge: {counted(asked.conversations, 'conversation')}, {counted(asked.samples, 'sample')}"
    )
    if asked.agreement is not None:
        alpha = asked.agreement.alpha_interval
        said += f", {asked.agreement.exact:.0%} of pairs equal" + (
            " (every sample gave the same points, so nothing says how well it tells answers apart)"
            if alpha is None
            else f", Krippendorff's alpha {alpha:.2f}"
        )
    return (
        f"{said}; {asked.contested:,} contested, {counted(asked.failed, 'sample')} without a score"
    )


def _tell_unscored(selection: Selection, wanted: Wanted) -> None:
    from cacherl.select.stage import without_score

    unscored = selection.by_verdict.get("unscored")
    if not unscored:
        return
    failed = without_score(selection)
    if failed is not None and failed.judged is not None:
        click.echo(
            f"No score for {counted(unscored, 'trajectory', 'trajectories')}: "
            f"{_plain(failed.judged.problem)} The same command asks about them again"
        )
        return
    click.echo(
        f"Nothing says whether {unscored:,} of them {'is' if unscored == 1 else 'are'} right: "
        + ("" if wanted.judge else "--judge openai:gpt-5 asks a model, ")
        + "--score-note NAME takes the data set's own score, --unscored keep takes them as they are"
    )


def _tell_tools(console: Console, selection: Selection) -> None:
    before, alone, after = selection.before, selection.alone, selection.after
    table = Table("tool, answered in", box=None, pad_edge=False)
    for column in ("before", "scores alone", "kept"):
        table.add_column(column, justify="right")
    rarest = sorted(before.tools, key=lambda tool: (before.tools[tool], tool))
    for tool in rarest[:_SHOWN_TOOLS]:
        table.add_row(
            escape(_plain(tool)),
            *(f"{each.tools.get(tool, 0):,}" for each in (before, alone, after)),
        )
    if len(rarest) > _SHOWN_TOOLS:
        table.add_row(f"... {len(rarest) - _SHOWN_TOOLS} more common ones", "", "", "")
    table.add_row("tools", *(f"{len(each.tools):,}" for each in (before, alone, after)))
    table.add_row(
        "effective tools", *(f"{each.effective_tools:.1f}" for each in (before, alone, after))
    )
    console.print(table)


def _about(card: Card) -> str:
    tokens = sum(card.tokens.by_part.values())
    return (
        f"{counted(card.trajectories, 'trajectory', 'trajectories')} of {counted(card.tasks, 'task')}, "
        f"{counted(len(card.tools), 'tool')} called, "
        f"{'about ' if card.tokens.estimated else ''}{tokens:,} tokens"
    )


def _warn_behind(data: DataFolder, path: Path) -> None:
    behind = fallen_behind(data, path)
    if behind:
        click.echo(f"! {_plain(behind)}", err=True)


def _warn(card: Card) -> None:
    for warning in card.warnings:
        click.echo(f"! {_plain(warning.text)}")


COMMANDS = (select_command, card_command)
