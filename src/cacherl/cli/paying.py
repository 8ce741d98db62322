"""What every command that pays a model is told: how much, how fast, at which prices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cacherl.cli.terminal import FILE

if TYPE_CHECKING:
    from cacherl.teacher.ledger import Ledger
    from cacherl.teacher.options import TeacherOptions

_ABOVE_0 = click.FloatRange(min=0, min_open=True)

_OPTIONS = (
    click.option(
        "--budget-usd", type=_ABOVE_0, help="Stop before the folder has cost more, all runs."
    ),
    click.option(
        "--budget-tokens",
        type=click.IntRange(min=1),
        help="The same in tokens, read and written together.",
    ),
    click.option("--rpm", type=_ABOVE_0, help="Requests a minute at most."),
    click.option("--tpm", type=click.IntRange(min=1), help="Tokens a minute at most."),
    click.option(
        "--timeout-s", type=_ABOVE_0, default=180.0, show_default=True, help="One request."
    ),
    click.option(
        "--prices",
        type=FILE,
        help="Prices of your own (TOML) over the bundled ones; kept with the folder.",
    ),
    click.option("--batch", is_flag=True, help="Ask through the provider's batch endpoint."),
)


def paying(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that `paying_options` reads."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def paying_options(
    *,
    budget_usd: float | None,
    budget_tokens: int | None,
    rpm: float | None,
    tpm: int | None,
    timeout_s: float,
    prices: Path | None,
    batch: bool,
    temperature: float | None = None,
) -> TeacherOptions:
    """Return how the model is asked, and how much it may cost."""
    from cacherl.teacher.options import TeacherOptions

    return TeacherOptions(
        temperature=temperature,
        timeout_s=timeout_s,
        requests_per_minute=rpm,
        tokens_per_minute=tpm,
        budget_dollars=budget_usd,
        budget_tokens=budget_tokens,
        prices=prices,
        batch=batch,
    )


def told_requests(ledger: Ledger, purpose: str = "") -> str:
    """Return how many requests there were over all runs, for one purpose or all."""
    rows = [row for row in ledger.rows if not purpose or row.purpose == purpose]
    failures: dict[str, int] = {}
    for row in rows:
        for kind, count in row.failures.items():
            failures[kind] = failures.get(kind, 0) + count
    said = ", ".join(f"{kind} {count:,}" for kind, count in failures.items())
    return (
        f"{sum(row.requests for row in rows):,} sent, "
        f"{sum(row.from_journal for row in rows):,} answered by the journal"
        + (f"; failed: {said}" if said else "")
    )


def told_dollars(ledger: Ledger, purpose: str = "") -> str:
    """Return what they cost over all runs, and where the prices come from."""
    rows = [row for row in ledger.rows if not purpose or row.purpose == purpose]
    dollars = [row.dollars for row in rows]
    if None in dollars:
        return "price unknown (name one with --prices)"
    sources = {ledger.prices.get(row.model) for row in rows}
    known = "; ".join(sorted(source for source in sources if source)) or "nothing was asked"
    said = f"${sum(each or 0.0 for each in dollars):.4f} over all runs ({known})"
    unsure = sum(row.may_cost_dollars or 0.0 for row in rows)
    return said + (f", and up to ${unsure:.4f} for requests never answered" if unsure else "")
