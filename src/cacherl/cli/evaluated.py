"""How evaluations are told at the terminal: tables in which no figure stands without n, floor and ceiling.

Whatever a model, a tool or a task wrote is data: it is escaped, and moves no cursor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cacherl.cli.terminal import as_json

if TYPE_CHECKING:
    from cacherl.evaluate.compare import Compared, ComparedRuns, TaskGain
    from cacherl.evaluate.explain import Explanation, Line
    from cacherl.evaluate.folder import EvalFolder
    from cacherl.evaluate.rescore import Rescored
    from cacherl.evaluate.results import Result
    from cacherl.evaluate.run import Played
    from cacherl.evaluate.summary import Figure, Summary

_SHOWN = 10
_WIDTH = 160
"""Of a table that goes into a pipe or a file."""


def plain(text: str) -> str:
    """Return the text without what would move the cursor: names and words of tools and models are data."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)


def tell_summary(folder: EvalFolder, summary: Summary, played: Played) -> None:
    """Tell what one evaluation found, and where to look next."""
    plan = summary.manifest.plan
    trials = summary.manifest.trials
    tasks = f"{summary.n} of {plan.tasks}" if summary.n < plan.tasks else str(summary.n)
    episodes = f"{played.scored} episodes played, {played.resumed} were on file"
    if summary.not_scored:
        whole = summary.rows + summary.not_scored
        episodes = f"{summary.rows} of {whole} episodes counted, {played.scored} of them played now"
    click.echo(
        plain(
            f"{plan.model} on {plan.suite}/{plan.split.value}, {plan.tools} tools, seed {plan.seed}: "
            f"{tasks} tasks ({summary.distinct_questions} distinct questions), "
            f"{trials} trial{'s' if trials > 1 else ''} each; {episodes}"
        )
    )
    _print_figures(summary)
    _print_groups(summary)
    for name, count in (("Calls", summary.call_tiers), ("Ended", summary.stops)):
        if count:
            click.echo(f"{name}: {counted(count)}")
    if summary.failed:
        causes = {each.kind: each.rows for each in summary.failures if each.rows}
        click.echo(f"{summary.failed} of {summary.rows} rows failed: {counted(causes)}")
        if summary.wrong_fields:
            click.echo(f"Wrong arguments by kind: {counted(summary.wrong_fields)}")
    if summary.costs.completion_tokens.most:
        click.echo(_cost_line(summary))
    click.echo(summary.power)
    for note in summary.notes:
        click.echo(f"! {note}")
    if summary.not_scored:
        why = counted(summary.outages) if summary.outages else "not played yet"
        first = f" ({plain(played.outages[0].error)})" if played.outages else ""
        click.echo(
            f"! {summary.not_scored} not scored, {why}: never counted, and played by the same command{first}"
        )
    click.echo(f"Page: {folder.page.resolve()}" if folder.page.exists() else f"In: {folder.root}")
    example_ = next((each.examples[0] for each in summary.failures if each.examples), None)
    if example_ is not None:
        click.echo(f"Next: cacherl eval show {folder.root} {example_[0]}")


def _print(table: Table) -> None:
    """Print a table. A pipe has no width of its own; on a narrow screen names give way, never figures."""
    for column in table.columns[1:]:
        column.no_wrap = True
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _WIDTH
    console.print(table)


def _print_figures(summary: Summary) -> None:
    table = Table("", "value", "95 %", "n", "doing nothing", "gold", box=None)
    for figure in _headline(summary):
        table.add_row(*_cells(figure.metric, figure))
    _print(table)


def _headline(summary: Summary) -> list[Figure]:
    from cacherl.evaluate.scoring import MAIN

    shown = [
        figure
        for figure in summary.figures
        if figure.metric in MAIN or figure.metric.startswith("check.")
    ]
    return [*shown, *(each for point in summary.attempts for each in (point.at, point.hat))]


def _cells(name: str, figure: Figure) -> tuple[str, ...]:
    """Return a figure as a row of a table: never without n, interval, floor and ceiling."""
    from cacherl.evaluate.summary import bound_text

    measured = figure.measured
    return (
        escape(plain(name.replace("_", " "))),
        f"{measured.value:.3f}",
        f"{measured.low:.3f} to {measured.high:.3f}",
        str(measured.n),
        bound_text(figure.floor),
        bound_text(figure.ceiling),
    )


def _print_groups(summary: Summary) -> None:
    for field, groups in summary.groups.items():
        table = Table(field, "success", "95 %", "n", "doing nothing", "gold", box=None)
        for group in groups[: 3 * _SHOWN]:
            table.add_row(*_cells(group.name, group.figures[0]))
        _print(table)
        if len(groups) > 3 * _SHOWN:
            click.echo(f"... and {len(groups) - 3 * _SHOWN} more in summary.json")


def _cost_line(summary: Summary) -> str:
    costs = summary.costs
    said = (
        f"Cost: {costs.prompt_tokens.mean:,.0f} tokens read and {costs.completion_tokens.mean:,.0f} written "
        f"an episode, {costs.model_s.mean:.2f} s of the model (95 of 100 within {costs.model_s.p95:.2f} s)"
    )
    if costs.dollars is not None:
        said += f"; ${costs.dollars:.4f} for the counted episodes"
        if costs.dollars_per_success is not None:
            said += f", ${costs.dollars_per_success.value:.4f} a success"
    elif summary.paid_dollars is not None:
        said += f"; ${summary.paid_dollars:.4f} paid"
    return said


def counted(counts: dict[str, int]) -> str:
    """Return counts in words, in their order."""
    return plain(", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in counts.items()))


def tell_failed(folder: EvalFolder, failed: Sequence[Result], *, json_out: bool) -> None:
    """List the rows that failed, each with its cause and what its checker missed."""
    from cacherl.evaluate.explain import first_fault

    if json_out:
        click.echo(
            as_json(
                [
                    {
                        "task_id": row.task_id,
                        "trial": row.trial,
                        "cause": row.cause,
                        "kinds": row.kinds,
                        "fault": first_fault(row.verdict),
                    }
                    for row in failed
                ]
            )
        )
        return
    if not failed:
        click.echo("No row failed.")
        return
    table = Table("task", "trial", "how", "what the checker missed", box=None)
    for row in failed:
        fault = first_fault(row.verdict)
        how = (row.cause or row.trajectory.stop.value).replace("_", " ")
        said = f"{fault.name}: {fault.said}" if fault else ""
        table.add_row(
            escape(plain(row.task_id)), str(row.trial), escape(plain(how)), escape(plain(said))
        )
    Console(highlight=False).print(table)
    click.echo(f"Next: cacherl eval show {folder.root} {failed[0].task_id}")


_MARKS = {True: "[green]right[/] ", False: "[red]wrong[/] ", None: ""}


def tell_row(found: Explanation, *, thinking: bool) -> None:
    """Tell how one row went: verdict, transcript, and the solution's calls."""
    console = Console(highlight=False)
    task, row = found.task, found.result
    verdict = "[green]succeeded[/]" if row.verdict.success else "[red]failed[/]"
    console.print(
        f"[bold]{escape(plain(task.id))}[/], trial {row.trial}: {verdict}, "
        f"{escape(plain(task.family))}, {escape(plain(task.language))}, ended with {row.trajectory.stop.value}"
    )
    for check in row.verdict.checks:
        said = f" {check.said}" if check.said else ""
        mark = "[green]+[/]" if check.score >= 1 else "[red]-[/]" if check.decides else "."
        console.print(f"  {mark} {escape(plain(f'{check.name} {check.score:.3g}{said}'))}")
    if not row.verdict.success:
        others = [kind for kind in row.kinds if kind != row.cause]
        also = f"; also {', '.join(others)}" if others else ""
        said = f"{row.cause or 'no rule could say'}{also}".replace("_", " ")
        console.print(f"  why: {escape(plain(said))}")
    for name, value in row.metrics.items():
        if name != "success" and not name.startswith("check."):
            console.print(f"  {escape(name.replace('_', ' '))} {value:.3f}")
    console.print()
    for line in found.lines:
        if line.role != "thinking" or thinking:
            console.print(_said(line), soft_wrap=True)
    if found.expected:
        console.print("\n[bold]The solution's calls[/]")
        for call in found.expected:
            console.print(f"  {escape(plain(call))}", soft_wrap=True)


def _said(line: Line) -> str:
    text = escape(plain(line.text))
    match line.role:
        case "call":
            return f"  -> {_MARKS[line.right]}{text}"
        case "tool":
            tier = line.tier + ("" if line.fidelity is None else f" {line.fidelity:.2f}")
            shown = f"  <- [dim]{escape(tier)}[/] {text}"
            return f"[red]{shown}[/]" if line.is_error else shown
        case "thinking":
            return f"[dim italic]{text}[/]"
        case _:
            return f"[bold]{line.role}:[/] {text}"


def tell_comparison(compared: ComparedRuns) -> None:
    """Tell what a paired comparison found."""
    from cacherl.evaluate.compare import disagreement_text, verdict_text

    click.echo(
        plain(
            f"A {compared.models[0]} ({compared.a})\nB {compared.models[1]} ({compared.b})\n"
            f"{compared.suite}/{compared.split}, {compared.n} tasks that both have"
        )
    )
    if any(compared.left_out):
        click.echo(
            f"! left out: {compared.left_out[0]} tasks of A and {compared.left_out[1]} of B, which only one has"
        )
    for each in compared.differs:
        click.echo(
            f"! they differ: {plain(each.replace(' there', ' in A').replace(' now', ' in B'))}"
        )
    table = Table("", *_GAIN, box=None)
    for one in compared.metrics:
        if one.metric in ("success", "process_accuracy", "end_to_end") or one.metric.startswith(
            "check."
        ):
            table.add_row(*_gain_cells(one.metric, one))
    _print(table)
    _tell_disagreements([(one.metric, disagreement_text(one)) for one in compared.metrics])
    click.echo(
        f"Success: {verdict_text(compared.metrics[0])} ({compared.metrics[0].comparison.test})."
    )
    for field, groups in compared.groups.items():
        table = Table(field, *_GAIN, box=None)
        for group in groups[: 3 * _SHOWN]:
            table.add_row(*_gain_cells(group.name, group.success))
        _print(table)
        _tell_disagreements([(g.name, disagreement_text(g.success)) for g in groups[: 3 * _SHOWN]])
    click.echo(
        f"By success: B won {len(compared.won)} tasks, lost {len(compared.lost)}, {compared.tied} tied"
    )
    for word, gains, side in (("won", compared.won, 1), ("lost", compared.lost, 0)):
        _name_tasks(word, gains, compared, side)
    click.echo(compared.power)


def _tell_disagreements(rows: Sequence[tuple[str, str]]) -> None:
    for name, said in rows:
        if said:
            click.echo(f"! {plain(name.replace('_', ' '))}: {said}")


_GAIN = ("A", "B", "B - A", "95 %", "p", "corrected", "n", "nothing", "gold")


def _gain_cells(name: str, one: Compared) -> tuple[str, ...]:
    from cacherl.evaluate.compare import p_text
    from cacherl.evaluate.summary import bound_text

    c = one.comparison
    return (
        escape(plain(name.replace("_", " "))),
        f"{c.a:.3f}",
        f"{c.b:.3f}",
        f"{c.difference:+.3f}",
        f"{c.low:+.3f} to {c.high:+.3f}",
        p_text(c.p_value).removeprefix("= "),
        p_text(one.corrected_p).removeprefix("= "),
        str(c.n),
        bound_text(one.floor),
        bound_text(one.ceiling),
    )


def _name_tasks(word: str, gains: Sequence[TaskGain], compared: ComparedRuns, side: int) -> None:
    if not gains:
        return
    names = ", ".join(gain.task_id for gain in gains[:_SHOWN])
    more = f" and {len(gains) - _SHOWN} more" if len(gains) > _SHOWN else ""
    click.echo(f"  {word}: {plain(names)}{more}")
    # The run that failed is the one to look at.
    folder = compared.a if side else compared.b
    click.echo(f"  Next: cacherl eval show {folder} {gains[0].task_id}")


def tell_rescored(found: Rescored, *, dry_run: bool) -> None:
    """Tell what scoring again changed."""
    would = "would change" if dry_run else "changed"
    click.echo(
        f"{found.rows} rows scored again: {len(found.changed)} {would}; {found.won} failures are successes "
        f"now, {found.lost} successes are failures"
    )
    if found.pin[0] != found.pin[1]:
        click.echo(f"! the suite changed: {plain(found.pin[0])} then, {plain(found.pin[1])} now")
    for one in found.changed[:_SHOWN]:
        said = ", ".join(
            f"{name} {_number(before)} to {_number(now)}"
            for name, (before, now) in one.metrics.items()
        )
        click.echo(
            f"  {plain(one.task_id)}, trial {one.trial}: {plain(said) or 'what is said of it'}"
        )
    if len(found.changed) > _SHOWN:
        click.echo(f"  ... and {len(found.changed) - _SHOWN} more (--json)")


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"
