"""`cacherl shadow`: one policy on cache and world at once."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    Progress,
)
from rich.table import Table

from cacherl.cli.terminal import FILE, FOLDER, JSON, as_json, example
from cacherl.cli.terminal import bars as draw_bars
from cacherl.core.errors import DataError, MissingExtraError, RecipeError, ToolError
from cacherl.core.models import ChatModel, Limits
from cacherl.core.tasks import Split, Task
from cacherl.core.trajectories import Trajectory
from cacherl.core.worlds import WorldTools
from cacherl.experiment import EvaluateSection, RunLock
from cacherl.render import Template

if TYPE_CHECKING:
    from cacherl.metrics.comparison import Comparison
    from cacherl.shadow.rows import ShadowFolder, ShadowPlan
    from cacherl.shadow.stage import OpenLive, Played, Score
    from cacherl.shadow.summary import HitGroup, ShadowSummary, Steps
    from cacherl.teacher.chat import EndpointChat

_AT_ONCE = {"endpoint": 8, "local": 128, "scripted": 16}
"""Episodes at once, unless told: a local engine writes the turns of a whole batch together."""
_LOG_EVERY_S = 10.0
_SHOWN_EXACT = 10
_TOLD = 110  # characters of an answer at the terminal


@click.command("shadow")
@click.argument("model")
@click.option(
    "--world",
    "world_name",
    required=True,
    help="desk, bfcl, or another suite; or your own tools: tools.toml.",
)
@click.option("--tasks", "tasks_file", type=FILE, help="What to solve with a tools.toml (JSONL).")
@click.option("--cache", "cache_name", required=True, help="Whose answers are held to the world.")
@click.option(
    "--settings", type=FILE, help="Settings to look up by; those of the cache unless told."
)
@click.option(
    "--split",
    type=click.Choice([s.value for s in Split]),
    default=Split.TRAIN.value,
    show_default=True,
    help="Whose tasks: train is what training meets, dev what is new to the cache.",
)
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="Tasks.")
@click.option("--trials", type=click.IntRange(min=1), default=1, show_default=True)
@click.option(
    "--serve",
    type=click.Choice(["both", "cached", "live"]),
    default="both",
    show_default=True,
    help="Whose answers the policy sees; both in turn makes pairs.",
)
@click.option(
    "--stray",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="The chance of a call of its own before each of the model's: what a policy in training asks.",
)
@click.option(
    "--sees",
    type=click.Choice([s.value for s in Split]),
    multiple=True,
    default=(Split.TRAIN.value,),
    show_default=True,
    help="Whose recordings the cache shows; again for more.",
)
@click.option(
    "--scope",
    type=click.Choice(["global", "scenario"]),
    default="global",
    show_default=True,
    help="What recordings of other scenarios are worth.",
)
@click.option(
    "--on-miss",
    type=click.Choice(["error", "best_effort", "acknowledge"]),
    default="error",
    show_default=True,
)
@click.option(
    "--live-writes",
    is_flag=True,
    help="Let tools that act on something outside really write. Never on an account that matters.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--template",
    type=click.Choice([t.value for t in Template]),
    default=Template.QWEN3_THINKING_2507.value,
    show_default=True,
)
@click.option(
    "--temperature",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="0 takes the most likely token.",
)
@click.option("--budget-usd", type=float, help="Stop before more than this is spent, all runs.")
@click.option("--max-turns", type=click.IntRange(min=1), default=40, show_default=True)
@click.option("--max-turn-tokens", type=click.IntRange(min=1), default=512, show_default=True)
@click.option("--max-context-tokens", type=click.IntRange(min=16), default=8192, show_default=True)
@click.option("--max-result-tokens", type=click.IntRange(min=1), default=2048, show_default=True)
@click.option("--concurrency", type=click.IntRange(min=1), help="Episodes at once.")
@click.option("--out", type=FOLDER, help="The folder; one in runs/shadow unless told.")
@JSON
@example(
    "cacherl shadow runs/quickstart/sft/model --world desk --cache runs/quickstart/cache/train.sqlite"
)
def shadow_command(**options: Any) -> None:
    """Ask cache and world the same: was training on the cache training on the world?

    MODEL is a folder, a Hugging Face id, PROVIDER:MODEL[@URL], oracle (the suite's gold), or a file of
    trajectories, whose turns are played again. A run that was stopped or killed goes on with the same
    command.
    """
    wanted = _Wanted(**options)
    ground = _ground(wanted)
    folder = _folder(wanted)
    with RunLock(folder.root):
        played, summary = asyncio.run(_run(wanted, ground, folder))
    page = _page(summary, folder)
    if wanted.json_out:
        click.echo(as_json(summary))
    else:
        _tell(wanted, folder, played, summary, page)
    if played.stopped is not None:
        raise played.stopped


COMMANDS = (shadow_command,)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """The command line."""

    model: str
    world_name: str
    tasks_file: Path | None
    cache_name: str
    settings: Path | None
    split: str
    limit: int
    trials: int
    serve: str
    stray: float
    sees: tuple[str, ...]
    scope: str
    on_miss: str
    live_writes: bool
    seed: int
    template: str
    temperature: float
    budget_usd: float | None
    max_turns: int
    max_turn_tokens: int
    max_context_tokens: int
    max_result_tokens: int
    concurrency: int | None
    out: Path | None
    json_out: bool

    @property
    def kind(self) -> str:
        from cacherl.wiring import names_endpoint

        if self.model == "oracle" or self.model.endswith(".jsonl"):
            return "scripted"
        return "endpoint" if names_endpoint(self.model) else "local"

    @property
    def limits(self) -> Limits:
        return Limits(
            max_turns=self.max_turns,
            max_turn_tokens=self.max_turn_tokens,
            max_context_tokens=self.max_context_tokens,
            max_result_tokens=self.max_result_tokens,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ground:
    """Where the policy acts: a suite, or a person's own tools."""

    tasks: Sequence[Task]
    open: OpenLive
    score: Score
    oracle: ChatModel | None
    resets: bool


def _ground(wanted: _Wanted) -> _Ground:
    from cacherl import wiring
    from cacherl.shadow.stage import gold_score

    split = Split(wanted.split)
    if not wanted.world_name.endswith(".toml"):
        if wanted.tasks_file is not None:
            raise RecipeError(f"{wanted.world_name} brings its own tasks; leave --tasks out.")
        suite = wiring.suite_of(wanted.world_name)

        def judged(task: Task, trajectory: Trajectory) -> dict[str, float]:
            found = gold_score(task, trajectory)
            if trajectory.final_state is not None:
                found["success"] = float(suite.check(task, trajectory).success)
            return found

        try:
            tasks = suite.tasks(split, count=wanted.limit, seed=wanted.seed)
        except DataError:  # the suite has fewer
            tasks = suite.tasks(split, seed=wanted.seed)
        return _Ground(
            tasks=tasks, open=suite.open, score=judged, oracle=suite.oracle(), resets=True
        )
    if wanted.tasks_file is None:
        raise RecipeError(
            f"--world {wanted.world_name} needs --tasks FILE: what is to be solved with these tools."
        )
    world = wiring.toolbox_world(Path(wanted.world_name))
    if not world.resets and not wanted.live_writes and wanted.serve != "cached":
        raise RecipeError(
            f"{wanted.world_name} acts on something outside (it has no `resets = true`), and a policy that "
            "it serves would write there. Use --serve cached, which asks it to read only, or say "
            "--live-writes for an account that nobody needs."
        )
    every = wiring.written_tasks(wanted.tasks_file, world)
    chosen = [task for task in every if task.split is split][: wanted.limit]
    if not chosen:
        there = ", ".join(sorted({task.split.value for task in every})) or "none at all"
        raise RecipeError(
            f"{wanted.tasks_file}: no tasks of split {split.value} ({there}). Name another with --split."
        )

    def opened(task: Task) -> WorldTools:
        return world.open(task.scenario)

    return _Ground(tasks=chosen, open=opened, score=gold_score, oracle=None, resets=world.resets)


def _folder(wanted: _Wanted) -> ShadowFolder:
    from cacherl.shadow.rows import ShadowFolder

    if wanted.out is not None:
        return ShadowFolder(wanted.out)
    parts = [Path(wanted.world_name).stem, wanted.split, wanted.model, str(wanted.limit)]
    if wanted.stray:
        parts.append(f"stray{wanted.stray:g}")
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(parts)).strip("-.")
    return ShadowFolder(Path("runs/shadow") / slug)


def _model(
    wanted: _Wanted, ground: _Ground, folder: ShadowFolder
) -> tuple[ChatModel, EndpointChat | None]:
    from cacherl import wiring
    from cacherl.shadow.straying import Straying

    paid: EndpointChat | None = None
    model: ChatModel
    if wanted.model == "oracle":
        if ground.oracle is None:
            raise RecipeError(
                "your own tools have no oracle. Name a model, or the trajectories.jsonl of a recording."
            )
        model = ground.oracle
    elif wanted.model.endswith(".jsonl"):
        model = _recorded(wanted, ground)
    elif wanted.kind == "endpoint":
        from cacherl.teacher.options import TeacherOptions

        model = paid = wiring.paid_model(
            wanted.model,
            journal=folder.journal,
            options=TeacherOptions(
                temperature=wanted.temperature, budget_dollars=wanted.budget_usd
            ),
            purpose="shadow",
        )
    else:
        section = EvaluateSection(temperature=wanted.temperature, seed=wanted.seed)
        model = wiring.chat_of(
            wanted.model, Template(wanted.template), section, called=wanted.model
        )
    if wanted.stray:
        model = Straying(model, wanted.stray, seed=wanted.seed)
    return model, paid


def _recorded(wanted: _Wanted, ground: _Ground) -> ChatModel:
    from cacherl.core.jsonl import read_jsonl
    from cacherl.shadow.straying import Replaying

    model = Replaying(
        list(read_jsonl(Path(wanted.model), Trajectory, drop_torn_tail=True)),
        name=f"recorded {Path(wanted.model).name}",
    )
    missing = [task.id for task in ground.tasks if task.id not in model.task_ids]
    if missing:
        raise RecipeError(
            f"{wanted.model}: holds no episode of {len(missing)} of {len(ground.tasks)} tasks, such as "
            f"{missing[0]}. Shadow the tasks that were recorded (--split, --seed, --limit), or record these."
        )
    return model


def _plan(wanted: _Wanted, model: ChatModel) -> ShadowPlan:
    from cacherl.experiment import file_digest
    from cacherl.shadow.rows import ShadowPlan

    path = Path(wanted.cache_name)
    return ShadowPlan(
        model=model.name,
        world=wanted.world_name,
        cache=wanted.cache_name,
        cache_holds=file_digest(path) if path.is_file() else "on a server",
        split=Split(wanted.split),
        sees=tuple(sorted({Split(each) for each in wanted.sees})),
        scope=wanted.scope,
        on_miss=wanted.on_miss,
        seed=wanted.seed,
        limits=msgspec.to_builtins(wanted.limits),
        sampling={"temperature": wanted.temperature, "template": wanted.template}
        if wanted.kind != "scripted"
        else {},
    )


async def _run(
    wanted: _Wanted, ground: _Ground, folder: ShadowFolder
) -> tuple[Played, ShadowSummary]:
    from cacherl import wiring
    from cacherl.cache.lookup.settings import load_settings
    from cacherl.shadow.compared import Serve, sameness
    from cacherl.shadow.rows import Line, Outage
    from cacherl.shadow.stage import BOTH, shadow
    from cacherl.shadow.summary import summarise

    settings = None if wanted.settings is None else load_settings(wanted.settings)
    serve = BOTH if wanted.serve == "both" else (Serve(wanted.serve),)
    with wiring.open_cache(wanted.cache_name, settings=settings) as cache:
        cache.store.tools()  # a name that is no cache must not become one
        model, paid = _model(wanted, ground, folder)
        plan = _plan(wanted, model)
        folder.begin(plan)
        on_file = len(folder.legs())
        total = len(ground.tasks) * wanted.trials * len(serve)
        try:
            with _bar(wanted, f"{model.name} on {wanted.world_name}", total, on_file) as told:

                def on_line(line: Line) -> None:
                    spent = None if paid is None else paid.ledger().total.dollars
                    told("" if spent is None else f"${spent:.4f}")
                    if isinstance(line, Outage):
                        told.note(f"{line.task_id}: {line.error}")

                played = await shadow(
                    model,
                    ground.tasks,
                    ground.open,
                    cache,
                    folder,
                    limits=wanted.limits,
                    seed=wanted.seed,
                    trials=wanted.trials,
                    serve=serve,
                    concurrency=wanted.concurrency or _AT_ONCE[wanted.kind],
                    score=ground.score,
                    may_write=ground.resets or wanted.live_writes,
                    on_line=on_line,
                    options={
                        "splits": frozenset(plan.sees),
                        "scope": wanted.scope,
                        "on_miss": wanted.on_miss,
                    },
                )
        finally:
            if paid is not None:
                await paid.aclose()
        legs = folder.legs()
        if not legs:
            why = played.outages[0].error if played.outages else "nothing was to be played"
            raise ToolError(f"no episode of {total} could be played: {why}")
        namespaces = {task.id: task.namespace for task in ground.tasks}
        namespace = next(iter(namespaces.values()))
        same = sameness(cache)
        summary = summarise(
            plan,
            legs.values(),
            outages=played.outages,
            same=lambda call, one, other: same(namespace, call, one, other),
        )
    folder.write(folder.summary, summary)
    return played, summary


class _Told:
    """Progress: a bar for a person, a line every ten seconds for a log."""

    def __init__(self, bars: Progress, bar: Any, total: int, done: int) -> None:
        self._bars, self._bar, self._total, self._done = bars, bar, total, done
        self._at = 0.0

    def __call__(self, facts: str) -> None:
        self._done += 1
        self._bars.update(self._bar, completed=self._done, facts=facts)
        console = self._bars.console
        if not console.is_terminal and time.monotonic() - self._at > _LOG_EVERY_S:
            self._at = time.monotonic()
            console.print(f"  episodes {self._done}/{self._total} {facts}".rstrip())

    def note(self, text: str) -> None:
        self._bars.console.print(f"! {escape(_plain(text))}")


@contextlib.contextmanager
def _bar(wanted: _Wanted, title: str, total: int, done: int) -> Iterator[_Told]:
    console = Console(stderr=True, highlight=False, quiet=wanted.json_out)
    with draw_bars(console, transient=True) as bars:
        bar = bars.add_task(escape(title), total=total, completed=done, facts="")
        yield _Told(bars, bar, total, done)


def _page(summary: ShadowSummary, folder: ShadowFolder) -> Path | None:
    from cacherl.report.shadow import write_shadow

    try:
        write_shadow(summary, folder.page)
    except MissingExtraError as error:
        click.echo(f"! no page: {error}", err=True)
        return None
    return folder.page


# ---- what it says ------------------------------------------------------------------------------


def _tell(
    wanted: _Wanted,
    folder: ShadowFolder,
    played: Played,
    summary: ShadowSummary,
    page: Path | None,
) -> None:
    plan = summary.plan
    click.echo(
        _plain(
            f"{plan.model} on {plan.world}, {plan.split.value} tasks, cache {plan.cache}, seed {plan.seed}"
        )
    )
    if played.resumed:
        click.echo(f"{played.resumed} episodes were on file, {played.played} were played now.")
    if summary.cached is not None:
        _tell_steps("On the cache, the world asked beside", summary.cached)
    if summary.live is not None:
        _tell_steps("On the world, the cache asked beside", summary.live)
    if summary.pairs is not None:
        found = summary.pairs.funnel
        click.echo(
            f"Pairs: {found.pairs}; {found.met_loose} met a loose answer or a miss, {found.differed} saw "
            f"something else than on the world, {found.diverged} then behaved differently, "
            f"{found.verdict_changed} came to another verdict."
        )
        for cost in summary.pairs.by_tier:
            click.echo(
                f"  first difference {cost.tier.value.replace('_', ' ')}: {cost.pairs} pairs, {cost.diverged} "
                f"behaved differently, {cost.lost} verdicts lost, {cost.won} won"
            )
        click.echo(
            f"  behaved differently though nothing differed: {found.noise}"
            + (" (sampling)" if found.noise else "")
        )
        _tell_compared("on the cache against on the world", summary.pairs.metrics)
    if summary.believed:
        rest = {k: v for k, v in summary.believed.items() if k != "process_accuracy"}
        _tell_compared("cached episodes: believed by the cache against true in the world", rest)
    if summary.outages:
        click.echo(f"! {summary.outages} episodes could not be played; run again to try once more.")
    click.echo(f"Rows: {folder.rows}" + (f"  Page: {page.resolve()}" if page else ""))
    for line in _next(wanted, summary):
        click.echo(f"Next: {line}")


def _tell_steps(title: str, steps: Steps) -> None:
    click.echo(f"{title}: {steps.calls} calls in {steps.episodes} episodes of {steps.tasks} tasks")
    if not steps.calls:
        return
    fates = ", ".join(f"{fate.value} {count}" for fate, count in steps.fates.items() if count)
    click.echo(f"  {fates}")
    if steps.answered is not None:
        each = steps.answered
        click.echo(f"  had an answer: {each.value:.1%} (95 % {each.low:.1%} to {each.high:.1%})")
    table = Table("tier", "hits", "wrong", "wrong %", "95 %", "stated %", "right %")
    for group in steps.by_tier:
        table.add_row(*_cells(group))
    Console().print(table)
    whole = next((each for each in steps.reliability if each.tier is None), None)
    if whole is not None:
        click.echo(f"  expected calibration error {whole.error:.3f} (n = {whole.n})")
    if steps.unsaid_writers:
        told = ", ".join(
            f"{tool} {times}" for tool, times in list(steps.unsaid_writers.items())[:8]
        )
        click.echo(_plain(f"! changed the world, declared not to: {told}"))
    for hit in steps.exact_wrong[:_SHOWN_EXACT]:
        said = msgspec.json.encode(hit.arguments).decode()
        why = "" if hit.why is None else hit.why.value
        click.echo(_plain(f"! EXACT and wrong ({why}): {hit.tool} {said} in {hit.task_id}"))
        click.echo(_plain(f"    cache: {hit.cached.text[:_TOLD]}"))
        click.echo(_plain(f"    world: {hit.live.text[:_TOLD]}"))
        if hit.changed_before:
            click.echo(_plain(f"    changed before: {', '.join(hit.changed_before[:5])}"))
    more = len(steps.exact_wrong) - _SHOWN_EXACT
    if more > 0:
        click.echo(f"  ... and {more} more: --json has all")
    for why, times in list(steps.failures.items())[:3]:
        click.echo(_plain(f"! {times} x not compared: {why[:_TOLD]}"))


def _cells(group: HitGroup) -> tuple[str, ...]:
    share = group.wrong_share
    return (
        "all" if group.tier is None else group.tier.value.replace("_", " "),
        str(group.hits),
        f"{group.wrong:g}",
        "" if share is None else f"{100 * share.value:.1f}",
        "" if share is None else f"{100 * share.low:.1f} to {100 * share.high:.1f}",
        "" if group.stated is None else f"{100 * group.stated:.1f} (n = {group.stated_hits})",
        "" if group.observed is None else f"{100 * group.observed:.1f}",
    )


def _tell_compared(title: str, metrics: dict[str, Comparison]) -> None:
    if not metrics:
        return
    click.echo(f"{title}:")
    for name, each in metrics.items():
        click.echo(
            f"  {name.replace('_', ' '):<17} {each.b:.3f} against {each.a:.3f}: {each.difference:+.3f} "
            f"(95 % {each.low:+.3f} to {each.high:+.3f}, n = {each.n} tasks)"
        )


def _next(wanted: _Wanted, summary: ShadowSummary) -> list[str]:
    sides = [side for side in (summary.cached, summary.live) if side is not None]
    silent = any(
        group.hits and not group.stated_hits for side in sides for group in side.by_tier[-1:]
    )
    found = []
    if summary.unexplained or any(side.unsaid_writers for side in sides):
        found.append(
            f"cacherl cache tools {wanted.cache_name} --write cache.toml, correct what the tools named above "
            "read and write, then record again"
        )
    if silent:
        found.append(f"cacherl cache calibrate {wanted.cache_name}")
    return found or [f"cacherl cache tools {wanted.cache_name}"]


def _plain(text: str) -> str:
    """Return what a tool or a model wrote on one line, without control characters."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]+", " ", text)
