"""`cacherl cache calibrate`: measure how often a cache's answers are what the live tools said."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from cacherl.cli.cache import cache
from cacherl.cli.terminal import FILE, JSON, as_json, example

if TYPE_CHECKING:
    from cacherl.cache.trust.fidelity import Calibration, Estimate

_SHOWN = 40


@cache.command("calibrate")
@click.argument("path")
@click.option(
    "--settings", type=FILE, help="Settings to look up by; those of the cache unless told."
)
@click.option(
    "--unit",
    type=click.Choice(["observation", "scenario"]),
    default="observation",
    show_default=True,
    help="Leave out one observation (new episodes of recorded scenarios) or its whole scenario (new ones).",
)
@click.option("--per-tool", type=click.IntRange(1), help="The most calls to ask of one tool.")
@click.option("--seed", type=int, default=0, show_default=True)
@JSON
@example("cacherl cache calibrate imports/airline/cache.sqlite")
def cache_calibrate(
    path: str, settings: Path | None, unit: str, per_tool: int | None, seed: int, json_out: bool
) -> None:
    """Ask the recordings of PATH again, each as if it were not there, and keep how often they agree.

    Hits carry their fidelity from then on. A run calibrates its own cache, and its rewards may follow
    that: `[reward] trust = "calibrated"` in the recipe.
    """
    from cacherl.cache.trust.calibrate import PER_TOOL, calibrate_named
    from cacherl.cache.trust.fidelity import Unit
    from cacherl.wiring import open_cache

    found = calibrate_named(
        path,
        open_cache=open_cache,
        made_at=datetime.now(UTC).timestamp(),
        settings=settings,
        unit=Unit(unit),
        per_tool=per_tool or PER_TOOL,
        seed=seed,
    )
    if json_out:
        click.echo(as_json(found))
        return
    _tell(path, found)


def _tell(path: str, found: Calibration) -> None:
    by_tier = ", ".join(f"{_words(tier)} {count:g}" for tier, count in found.answered.items())
    click.echo(f"{path}: {found.asked} recorded calls asked again: {by_tier or 'none'}")
    rows = [each for each in found.estimates if each.scenario_matched is None]
    table = Table("tool", "tier", "n", "same", "fidelity", "95 %")
    for each in sorted(rows, key=lambda e: (bool(e.tool), e.namespace, e.tool))[:_SHOWN]:
        table.add_row(
            each.tool or "all tools",
            _tier(each),
            f"{each.n:g}",
            f"{each.same:g}",
            f"{each.fidelity:.3f}",
            f"{each.low:.2f} to {each.high:.2f}",
        )
    Console().print(table)
    if len(rows) > _SHOWN:
        click.echo(f"... and {len(rows) - _SHOWN} more: --json has all")
    if found.reliability is not None:
        click.echo(
            f"expected calibration error {found.reliability.error:.3f} (n = {found.reliability.n:g}, on "
            "scenarios that had no part in the fit)"
        )
    for suspect in found.suspects:
        click.echo(
            f"! {suspect.tool}: {suspect.contradicted} of {suspect.repeated} repeated calls contradict "
            f"one another (looks {suspect.looks.value}): {suspect.advice}"
        )
        click.echo(f"    {suspect.arguments}\n    {suspect.answers[0]}\n    {suspect.answers[1]}")
    if found.suspects:
        click.echo(f"Next: cacherl cache tools {path}")
    else:
        click.echo(f"Next: cacherl cache stats {path}")


def _tier(each: Estimate) -> str:
    return _words(each.tier) + ("" if each.state_matched else ", other state")


def _words(tier: str) -> str:
    return tier.replace("_", " ")
