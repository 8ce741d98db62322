"""`cacherl sft`: a data folder into a model, with a recipe's settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click
from rich.console import Console

from cacherl.cli.terminal import FILE, FOLDER, JSON, as_json, example
from cacherl.cli.terminal import bars as draw_bars


@click.command("sft")
@click.argument("folder", type=FOLDER)
@click.option(
    "--recipe",
    "recipe_path",
    type=FILE,
    required=True,
    help="Whose [model] and [sft] to use; its other tables do not count here.",
)
@click.option("--out", type=FOLDER, help="Where the model appears; FOLDER/sft unless told.")
@JSON
@example("cacherl sft data/office --recipe recipes/qwen3-4b.toml")
def sft_command(folder: Path, recipe_path: Path, out: Path | None, json_out: bool) -> None:
    """Fine-tune a model on the selected trajectories of FOLDER.

    Learns from the training split alone: from selected.jsonl, else augmented.jsonl, else
    trajectories.jsonl. Stopped or killed, it goes on from its last checkpoint.
    """
    from cacherl.experiment import load_recipe
    from cacherl.tuning import tune

    recipe = load_recipe(recipe_path)
    console = Console(stderr=True)
    with draw_bars(console, transient=True) as bars:
        bar = bars.add_task("steps", total=None, facts="")

        def told(step: int, total: int, facts: Mapping[str, float]) -> None:
            bars.update(bar, completed=step, total=total, facts=f"loss {facts['loss']:.3f}")

        tuned = tune(folder, recipe, recipe_path, out or folder / "sft", on_progress=told)
    if json_out:
        click.echo(as_json(tuned))
        return
    summary = tuned.summary
    if tuned.up_to_date:
        click.echo("Up to date: same data, same settings.")
    click.echo(
        f"{summary.steps} steps over {summary.rows} rows of {tuned.source}: loss {summary.first_loss:.3f} -> "
        f"{summary.final_loss:.3f}, {summary.seconds / 60:.1f} minutes."
    )
    if summary.too_long:
        click.echo(f"{summary.too_long} rows were longer than max_tokens and are left out.")
    click.echo(f"The model is in {tuned.model}.")
    click.echo(f"Next: cacherl eval {tuned.model}")


COMMANDS = (sft_command,)
