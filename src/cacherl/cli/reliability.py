"""`cacherl reliability`: how far chains of an evaluation's calls can be trusted, and what they cost."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from cacherl.cli.evaluated import plain
from cacherl.cli.terminal import FILE, FOLDER, JSON, as_json, example

if TYPE_CHECKING:
    from cacherl.evaluate.reliability import Costs, Fallback, Reliability
    from cacherl.teacher.prices import PriceTable

_SHARE = click.FloatRange(0, 1)
_WIDTH = 160


@click.command("reliability")
@click.argument("run", type=FOLDER)
@click.option("--steps", type=click.IntRange(1, 100), default=10, show_default=True)
@click.option(
    "--retries", type=click.IntRange(0, 10), default=3, show_default=True, help="At most."
)
@click.option("--catch", type=_SHARE, help="Share of wrong calls that your check objects to.")
@click.option("--false-alarm", type=_SHARE, help="Share of right calls that it objects to.")
@click.option("--fallback", type=FOLDER, help="Evaluation of the model that is asked last.")
@click.option(
    "--fallback-success", type=_SHARE, help="Its success a call, where none was measured."
)
@click.option("--fallback-usd", type=click.FloatRange(min=0), help="What a call of it costs.")
@click.option("--teacher", help="Whose price to set beside, as openai:gpt-5.")
@click.option("--prices", type=FILE, help="Prices of your own (TOML) over the bundled ones.")
@click.option(
    "--usd-per-hour",
    type=click.FloatRange(min=0),
    help="Price of the machine that played RUN; its measured seconds do the rest.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of resamples.")
@click.option("--out", type=FILE, help="Write a page here.")
@JSON
@example("cacherl reliability runs/eval/desk-test-grpo-100 --teacher openai:gpt-5 --usd-per-hour 2")
def reliability_command(
    run: Path,
    steps: int,
    retries: int,
    catch: float | None,
    false_alarm: float | None,
    fallback: Path | None,
    fallback_success: float | None,
    fallback_usd: float | None,
    teacher: str | None,
    prices: Path | None,
    usd_per_hour: float | None,
    seed: int,
    out: Path | None,
    json_out: bool,
) -> None:
    """Say how many chains of calls go right, with retries, checks and a fallback, and what they cost.

    RUN is the folder of an evaluation. Without --catch the check is what comes for nothing: a tool's error.
    A call that should have been made and was not counts nowhere here: see process accuracy in `cacherl eval`.
    """
    from cacherl.evaluate.folder import EvalFolder
    from cacherl.evaluate.reliability import reliability, run_calls
    from cacherl.teacher.prices import PriceTable

    table = PriceTable.read(prices)
    now = datetime.now(UTC)
    found = reliability(
        run_calls(EvalFolder(run)),
        prices=table,
        at=now,
        most_steps=steps,
        most_retries=retries,
        catch=catch,
        false_alarm=false_alarm,
        fallback=_fallback(fallback, fallback_success, fallback_usd, table, now),
        teacher=teacher,
        dollars_per_hour=usd_per_hour,
        seed=seed,
    )
    if out is not None:
        from cacherl.report.reliability import write_reliability

        write_reliability(found, out)
    if json_out:
        click.echo(as_json(found))
        return
    _tell(found)
    if out is not None:
        click.echo(f"Page: {out.resolve()}")


def _fallback(
    run: Path | None,
    success: float | None,
    dollars: float | None,
    prices: PriceTable,
    now: datetime,
) -> Fallback | None:
    from cacherl.evaluate.folder import EvalFolder
    from cacherl.evaluate.reliability import Fallback, fallback_of, run_calls

    if run is not None:
        if success is not None or dollars is not None:
            raise click.UsageError("Give --fallback, or --fallback-success and --fallback-usd.")
        return fallback_of(run_calls(EvalFolder(run)), prices, at=now)
    if success is None:
        if dollars is not None:
            raise click.UsageError("--fallback-usd needs --fallback-success.")
        return None
    return Fallback(success=success, dollars_per_call=dollars, said="given, not measured")


def _tell(found: Reliability) -> None:
    from cacherl.evaluate.summary import bound_text

    click.echo(
        plain(
            f"{found.model} on {found.suite}/{found.split}, {found.tools} tools: {found.calls} calls in "
            f"{found.episodes} episodes, {found.tasks} tasks"
        )
    )
    for sentence in found.sentences:
        click.echo(sentence)
    if found.silent:
        click.echo(
            f"! {found.silent} episodes made no call: they are no chain, and not counted as one"
        )
    if found.left_out:
        click.echo(
            f"! {found.left_out} episodes left out: their tasks do not say which calls are right"
        )

    ceiling = bound_text(found.ceiling)
    table = Table("a right call", "value", "95 %", "n", "doing nothing", "gold", box=None)
    rows = [("any", found.steps.success)]
    rows += [(f"call {place}", each) for place, each in enumerate(found.steps.by_position, 1)]
    for name, each in rows:
        if each is not None:
            cells = (f"{each.value:.3f}", f"{each.low:.3f} to {each.high:.3f}", str(each.n))
            table.add_row(
                name,
                *cells,
                found.floor.said if name == "any" else "",
                ceiling if name == "any" else "",
            )
    _print(table)

    click.echo("Chains are reckoned with:")
    for assumed in found.assumed:
        click.echo(plain(f"  {assumed.name} {assumed.value:.3f}: {assumed.said}"))
    if found.fallback is not None:
        click.echo(plain(f"  fallback {found.fallback.success:.3f}: {found.fallback.said}"))
    click.echo("n-step chains, calls failing independently:")
    table = Table(
        *("steps", "retries", "fallback", "all right", "95 %", "n", "wrong, unnoticed", "given up"),
        *("calls", "fallback calls", "dollars"),
        box=None,
    )
    for row in found.chains:
        table.add_row(
            *(str(row.steps), str(row.retries), "yes" if row.fallback else "no"),
            *(f"{row.success:.3f}", f"{row.low:.3f} to {row.high:.3f}", str(row.n)),
            *(f"{row.wrong_unnoticed:.3f}", f"{row.given_up:.3f}"),
            *(f"{row.calls:.2f}", f"{row.fallback_calls:.3f}", _dollars(row.dollars)),
        )
    _print(table)

    if found.checks:
        _tell_checks(found)
    _tell_costs(found.costs, found.calls)
    wrong = found.steps.success is not None and found.steps.success.value < 1
    click.echo(
        f"Next: cacherl eval show {found.run}"
        if wrong
        else "Next: more tasks narrow the interval: cacherl eval with a larger --limit"
    )


def _tell_checks(found: Reliability) -> None:
    click.echo("The product of single calls against recorded episodes, resampled:")
    table = Table("steps", "product", "resampled", "95 %", "n", "recorded", "n", "holds", box=None)
    for check in found.checks:
        seen = check.rule.observed if check.rule is not None else None
        holds = "not tested" if check.holds is None else "yes" if check.holds else "NO"
        table.add_row(
            *(str(check.steps), f"{check.product:.3f}", f"{check.resampled.value:.3f}"),
            *(f"{check.resampled.low:.3f} to {check.resampled.high:.3f}", str(check.resampled.n)),
            *((f"{seen.value:.3f}", str(seen.n)) if seen is not None else ("none so long", "0")),
            f"{holds} (p = {check.corrected_p:.3g})" if check.corrected_p is not None else holds,
        )
    _print(table)


def _tell_costs(costs: Costs, calls: int) -> None:
    took = []
    if costs.prompt_tokens + costs.completion_tokens:
        took.append(
            f"{costs.prompt_tokens:,.0f} tokens read and {costs.completion_tokens:,.0f} written"
        )
    if costs.model_s:
        took.append(f"{costs.model_s:.3f} s of the model")
    click.echo(
        f"A call takes {', '.join(took) or 'an unknown number of tokens'} (n = {calls} calls); "
        f"{costs.calls_per_interaction:.2f} calls an interaction"
    )
    click.echo(plain(f"Student: {_dollars(costs.student_per_call)} a call ({costs.student_said})"))
    if costs.teacher is not None:
        said = f"Teacher: {_dollars(costs.teacher_per_call)} a call ({costs.teacher_said})"
        click.echo(plain(said))
    table = Table("dollars", "1,000,000 calls", "10,000 interactions", "of the teacher's", box=None)
    for name, each in (("one try", costs.plain), ("retries and fallback paid", costs.watched)):
        if each is not None:
            share = each.share_of_teacher
            table.add_row(
                name,
                _dollars(each.per_million_calls),
                _dollars(each.per_10k_interactions),
                "unknown" if share is None else f"{share:.1%}",
            )
    if costs.teacher_per_call is not None:
        table.add_row(
            "teacher",
            _dollars(1e6 * costs.teacher_per_call),
            _dollars(1e4 * costs.calls_per_interaction * costs.teacher_per_call),
            "",
        )
    if table.row_count:
        _print(table)


def _dollars(amount: float | None) -> str:
    if amount is None:
        return "unknown"
    return f"${amount:,.2f}" if amount >= 1 else f"${amount:.3g}"


def _print(table: Table) -> None:
    for column in table.columns:
        column.no_wrap = True
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _WIDTH
    console.print(table)


COMMANDS: tuple[click.Command, ...] = (reliability_command,)
