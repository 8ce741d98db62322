"""The `cacherl` command: parse, call one function, print, exit.

Exit codes: 0 done, 1 something could not be done (one line says what), 2 the recipe or the options are
wrong, 130 interrupted (what was done is kept; run the same command again).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table

from cacherl import __version__
from cacherl.cli import (
    augmenting,
    evaluating,
    hub,
    imports,
    proxying,
    recording,
    reliability,
    selecting,
    shadowing,
    suites,
    tools,
    training,
)
from cacherl.cli import cache_calibrate as _cache_calibrate  # noqa: F401 - adds a command
from cacherl.cli import cache_health as _cache_health  # noqa: F401 - adds commands
from cacherl.cli import cache_safety as _cache_safety  # noqa: F401 - adds commands
from cacherl.cli import cache_snapshot as _cache_snapshot  # noqa: F401 - adds a command
from cacherl.cli import cache_upkeep as _cache_upkeep  # noqa: F401 - adds commands
from cacherl.cli.cache import cache as cache_commands
from cacherl.cli.terminal import FILE, JSON, Group, as_json, example
from cacherl.cli.terminal import bars as draw_bars
from cacherl.core.tasks import Split
from cacherl.experiment import EvaluateSection, LimitsSection, Stage, WorldSection
from cacherl.render import Template


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="cacherl")
@example("cacherl run recipes/quickstart.toml")
def main() -> None:
    """Train small models that call tools, from cached tool results."""


main.add_command(cache_commands)
_ROOMS = (
    tools,
    recording,
    proxying,
    imports,
    augmenting,
    selecting,
    training,
    suites,
    evaluating,
    reliability,
    shadowing,
    hub,
)
for _room in _ROOMS:
    for _command in _room.COMMANDS:
        main.add_command(_command)


# ---- run ---------------------------------------------------------------------------------------


class _Bars:
    """Progress for a person: one bar a piece of work, with elapsed time and ETA."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self._bars = draw_bars(self.console, what_width=26)
        self._ids: dict[tuple[Stage, str], Any] = {}
        self._printed = 0.0

    def __enter__(self) -> _Bars:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def stage(self, stage: Stage, state: str) -> None:
        if state == "running":
            return
        mark = "=" if state == "up to date" else "+"
        self._bars.console.print(f"{mark} {stage.value:<9} {state}")

    def progress(self, stage: Stage, what: str, done: int, total: int, facts: str) -> None:
        key = (stage, what)
        if key not in self._ids:
            for other in self._ids.values():
                self._bars.update(other, visible=False)
            self._ids[key] = self._bars.add_task(f"{stage.value}: {what}", total=total, facts=facts)
        self._bars.update(self._ids[key], completed=done, total=total, facts=facts)
        # A log file or CI has no moving bar: say something every ten seconds instead.
        if not self.console.is_terminal and (
            time.monotonic() - self._printed > 10 or done in (1, total)
        ):
            self._printed = time.monotonic()
            self.console.print(f"  {stage.value}: {what} {done}/{total} {facts}".rstrip())

    def note(self, text: str) -> None:
        self._bars.console.print(f"! {text}")


class _JsonScreen:
    """Progress for machines: one JSON object a line on standard error."""

    def _say(self, **facts: Any) -> None:
        click.echo(msgspec.json.encode(facts).decode(), err=True)

    def stage(self, stage: Stage, state: str) -> None:
        self._say(stage=stage.value, state=state)

    def progress(self, stage: Stage, what: str, done: int, total: int, facts: str) -> None:
        self._say(stage=stage.value, what=what, done=done, total=total, facts=facts)

    def note(self, text: str) -> None:
        self._say(note=text)


@main.command()
@click.argument("recipe", type=FILE)
@click.option("--dry-run", is_flag=True, help="Check the recipe and print the plan; run nothing.")
@click.option("--until", type=click.Choice([s.value for s in Stage]), help="Last stage to run.")
@click.option(
    "--redo",
    type=click.Choice([s.value for s in Stage]),
    help="Run this stage and all after it again.",
)
@JSON
@example("cacherl run recipes/quickstart.toml")
def run(recipe: Path, dry_run: bool, until: str | None, redo: str | None, json_out: bool) -> None:
    """Run every stage of RECIPE: record, cache, augment, select, SFT, GRPO, evaluate, report.

    Stages whose settings and inputs have not changed are skipped; a run that was killed goes on.
    """
    from cacherl import pipeline
    from cacherl.experiment import RunFolder, load_recipe

    loaded = load_recipe(recipe)
    stages = pipeline.plan(loaded, recipe)
    if dry_run:
        folder = RunFolder(loaded.folder)
        rows = [
            {"stage": s.value, "key": key, "up_to_date": folder.done(s, key) is not None}
            for s, key in stages
        ]
        if json_out:
            click.echo(as_json({"recipe": loaded, "folder": str(loaded.folder), "stages": rows}))
            return
        click.echo(
            f"{recipe}: valid. Model {loaded.model.path}, world {loaded.world.name}, run folder {loaded.folder}"
        )
        sft, grpo = loaded.sft, loaded.grpo
        details = {
            Stage.TASKS: f"{loaded.tasks.train} training tasks, {loaded.tasks.test} held out ({loaded.tasks.evaluate_split})",
            Stage.RECORD: f"{loaded.record.policy} on live tools, {loaded.record.best_of} a task",
            Stage.CACHE: "one cache for training, one for the cached evaluation",
            Stage.AUGMENT: f"reasons by {loaded.augment.reasoner}",
            Stage.SELECT: f"rejection sampling; {loaded.select.sft_share:.0%} of what is kept goes to SFT",
            Stage.SFT: f"{sft.max_steps or f'{sft.epochs:g} epochs'} x {sft.batch_rows} rows, lr {sft.learning_rate:g}, "
            + ("LoRA" if sft.lora else "all weights"),
            Stage.GRPO: f"{grpo.steps} steps of {grpo.tasks_per_step} x {grpo.group_size} rollouts, lr {grpo.learning_rate:g}, "
            f"beta {grpo.beta:g}, "
            + (f"LoRA r = {grpo.lora.rank}" if grpo.lora else "all weights"),
            Stage.EVALUATE: "base, sft and grpo; cached, then live",
            Stage.REPORT: f"{loaded.folder}/report.html",
        }
        for row in rows:
            state = "up to date" if row["up_to_date"] else "to run"
            click.echo(f"  {row['stage']:<9} {state:<11} {details[Stage(str(row['stage']))]}")
        return
    last = Stage(until) if until else None
    again = Stage(redo) if redo else None
    if json_out:
        pipeline.Run(loaded, recipe, _JsonScreen()).all(last, again)
    else:
        with _Bars() as bars:
            pipeline.Run(loaded, recipe, bars).all(last, again)
    if last is None or last is Stage.REPORT:
        _print_metrics(loaded.folder, json_out)


def _print_metrics(folder: Path, json_out: bool) -> None:
    metrics = msgspec.json.decode((folder / "metrics.json").read_bytes())
    if json_out:
        click.echo(as_json({k: v for k, v in metrics.items() if k != "summaries"}))
        return
    table = Table(
        title=f"Held-out tasks ({metrics['split']}), live tools, n = {metrics['base']['n']}"
    )
    for column in ("model", "process accuracy", "95 %", "end to end", "95 %", "cached process"):
        table.add_column(column)
    for name in ("base", "sft", "grpo"):
        row, cached = metrics[name], metrics["cached"][name]
        table.add_row(
            name,
            f"{row['process_accuracy']:.3f}",
            "{:.3f}-{:.3f}".format(*row["process_accuracy_interval"]),
            f"{row['end_to_end']:.3f}",
            "{:.3f}-{:.3f}".format(*row["end_to_end_interval"]),
            f"{cached['process_accuracy']:.3f}",
        )
    console = Console()
    console.print(table)
    for gain in metrics["gains"]:
        if gain["metric"] == "process_accuracy":
            click.echo(
                f"{gain['after']} over {gain['before']}, same tasks: {gain['mean']:+.3f} process accuracy "
                f"(95 % {gain['low']:+.3f} to {gain['high']:+.3f})"
            )
    click.echo(
        f"Live calls: {metrics['live_calls_in_record']} in record, "
        f"{metrics['live_calls_in_training']} between record and the live evaluation"
    )
    minutes = sum(metrics["wall_s"].values()) / 60
    click.echo(f"Time: {minutes:.1f} minutes over all stages; details in {folder}/metrics.json")
    click.echo(f"Report: {(folder / 'report.html').resolve()}")


# ---- tasks -------------------------------------------------------------------------------------


@main.command("tasks")
@click.option("--suite", default="desk", show_default=True)
@click.option("--split", type=click.Choice(["train", "dev"]), default="train", show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--limit", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--family", help="Only this family.")
@click.option("--solve", is_flag=True, help="Show how the expert solves them on live tools.")
@JSON
@example("cacherl tasks --suite desk --split train --limit 3 --solve")
def tasks_command(
    suite: str, split: str, seed: int, limit: int, family: str | None, solve: bool, json_out: bool
) -> None:
    """Show tasks of a suite. The held-out split is not shown."""
    from cacherl import wiring

    families = (family,) if family else ()
    world = wiring.world_of(WorldSection(name=suite, families=families))
    tasks = world.tasks(Split(split), count=limit, seed=seed)
    if json_out:
        click.echo(as_json(tasks))
        return
    for task in tasks:
        click.echo(f"# {task.id}  {task.family}  {task.language}  {task.wording}")
        click.echo(f"tools: {', '.join(tool.name for tool in task.tools)}")
        if solve:
            for line in _solved(world, task):
                click.echo(line)
        else:
            for turn in task.user_turns:
                click.echo(f"user: {turn}")
        click.echo("")


def _solved(world: Any, task: Any) -> Sequence[str]:
    from cacherl import wiring
    from cacherl.agent import run_episode
    from cacherl.core.messages import AssistantMessage, ToolCall, ToolMessage, UserMessage

    expert = wiring.chat_of("expert", Template.QWEN3_THINKING_2507, EvaluateSection())
    played = asyncio.run(
        run_episode(expert, world.open(task.scenario), task, limits=LimitsSection().limits())
    )
    lines = []
    for message in played.messages:
        match message:
            case UserMessage():
                lines.append(f"user: {message.content}")
            case AssistantMessage():
                if message.content:
                    lines.append(f"assistant: {message.content}")
                for call in message.calls:
                    if isinstance(call, ToolCall):
                        lines.append(
                            f"  -> {call.name} {msgspec.json.encode(call.arguments).decode()}"
                        )
            case ToolMessage():
                lines.append(f"  <- {message.content}")
            case _:
                pass
    return lines
