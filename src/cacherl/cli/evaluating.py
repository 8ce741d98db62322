"""`cacherl eval`, `eval show`, `compare`, `rescore`: what a model does on tasks it has never seen."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    Progress,
    TaskID,
)

from cacherl.cli.evaluated import (
    plain,
    tell_comparison,
    tell_failed,
    tell_rescored,
    tell_row,
    tell_summary,
)
from cacherl.cli.paying import paying, paying_options
from cacherl.cli.terminal import FILE, FOLDER, JSON, Group, as_json, example
from cacherl.cli.terminal import bars as draw_bars
from cacherl.core.errors import MissingExtraError, ModelError, RecipeError
from cacherl.core.messages import ToolCall
from cacherl.core.models import ChatModel, Limits
from cacherl.core.records import JsonObject
from cacherl.core.suites import Suite, UserKind
from cacherl.core.tasks import Split, Task
from cacherl.core.tools import ToolResult
from cacherl.core.worlds import Epilogue, WorldTools
from cacherl.experiment import EvaluateSection, LimitsSection, RunLock
from cacherl.render import Template

if TYPE_CHECKING:
    from cacherl.cache.lookup.tool_cache import ToolCache
    from cacherl.evaluate.folder import EvalFolder, Manifest
    from cacherl.evaluate.run import OpenTrial, Played
    from cacherl.evaluate.summary import Summary
    from cacherl.teacher.chat import EndpointChat
    from cacherl.teacher.options import TeacherOptions

_SCRIPTED = ("oracle", "expert", "nothing")
_AT_ONCE = {"endpoint": 8, "local": 128, "scripted": 32, "batch": 512}
"""Episodes at once, unless told: a local engine writes the turns of a whole batch together."""
_DESK_TASKS = 100
"""Of the desk, which makes as many as one wants."""
_LOG_EVERY_S = 10.0


class _Default(click.Command):
    """A command that stands where its group stands: no word of its own in its usage."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        above = None if parent is None else parent.parent
        return super().make_context(self.name, args, parent=above, **extra)


class _WithDefault(Group):
    """A group whose first word may be what the default command takes: `eval MODEL` beside `eval show`."""

    default: click.Command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args or ["--help"])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] in self.commands:
            return super().resolve_command(ctx, args)
        return "", self.default, args

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return self.default if cmd_name == "" else super().get_command(ctx, cmd_name)


# ---- eval --------------------------------------------------------------------------------------


@click.command("eval", cls=_Default)
@click.argument("model")
@click.option(
    "--suite",
    default="desk",
    show_default=True,
    help="Whose tasks: a suite of `cacherl suites list`, or your tools.toml.",
)
@click.option(
    "--split", type=click.Choice([s.value for s in Split]), default="test", show_default=True
)
@click.option(
    "--tools",
    type=click.Choice(["live", "cached", "shadow"]),
    default="live",
    show_default=True,
    help="The suite's own tools, a cache, or both in turn.",
)
@click.option("--cache", "cache_path", type=FILE, help="The cache for --tools cached and shadow.")
@click.option(
    "--trials",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Times each task is played.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    help=f"How many tasks, drawn by the seed. Unless told: all, {_DESK_TASKS} of the desk.",
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Draws the tasks and the sampling."
)
@click.option(
    "--temperature",
    type=click.FloatRange(min=0),
    help="0 takes the most likely token. Unless told: 0, and an endpoint's own.",
)
@click.option("--max-turns", type=click.IntRange(min=1), help="Assistant turns of an episode.")
@click.option("--max-turn-tokens", type=click.IntRange(min=1))
@click.option("--max-context-tokens", type=click.IntRange(min=16))
@click.option("--max-result-tokens", type=click.IntRange(min=1))
@click.option(
    "--template",
    type=click.Choice([t.value for t in Template]),
    default=Template.QWEN3_THINKING_2507.value,
    show_default=True,
    help="Of a local model.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(min=1),
    help=f"Episodes at once. Unless told: {_AT_ONCE['local']}, {_AT_ONCE['endpoint']} of an endpoint.",
)
@paying
@click.option(
    "--out",
    type=FOLDER,
    help="The folder. Unless told: runs/eval/SUITE-SPLIT-MODEL-N. The same command goes on in it.",
)
@click.option("--dry-run", is_flag=True, help="Say what would run and cost; play nothing.")
@JSON
@example(
    "cacherl eval runs/quickstart/grpo/model --suite desk --split test --tools live --seed 7 --limit 100 --json"
)
def _eval(**options: Any) -> None:
    """Measure MODEL on a suite: every figure with its 95 % interval, floor and ceiling.

    MODEL is a folder, a Hugging Face id, PROVIDER:NAME, openai:NAME@URL (vLLM, llama.cpp, any
    OpenAI-compatible server), or a script: oracle (the suite's gold), expert (the desk's), nothing.

    Every episode is kept in the folder, so a run that was stopped or killed goes on with the same command
    and pays for nothing twice. Episodes that the infrastructure ended are played again and never counted.

    \b
    cacherl eval show RUN TASK   explains one row
    cacherl compare A B          is B better than A?
    cacherl rescore RUN          verdicts again, without a model
    """  # noqa: D301 - \b is click's mark for lines that must not be joined
    _evaluate(_Wanted(**options))


@click.group(
    "eval",
    cls=_WithDefault,
    add_help_option=False,
    context_settings={"ignore_unknown_options": True},
)
def eval_group() -> None:
    """Measure a model on tasks it has never seen."""


_WithDefault.default = _eval


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """The command line."""

    model: str
    suite: str
    split: str
    tools: str
    cache_path: Path | None
    trials: int
    limit: int | None
    seed: int
    temperature: float | None
    max_turns: int | None
    max_turn_tokens: int | None
    max_context_tokens: int | None
    max_result_tokens: int | None
    template: str
    concurrency: int | None
    budget_usd: float | None
    budget_tokens: int | None
    rpm: float | None
    tpm: int | None
    timeout_s: float
    prices: Path | None
    batch: bool
    out: Path | None
    dry_run: bool
    json_out: bool

    @property
    def kind(self) -> str:
        """Who plays: an `endpoint`, a `local` model, or a `scripted` agent."""
        from cacherl.wiring import names_endpoint

        if self.model in _SCRIPTED:
            return "scripted"
        return "endpoint" if names_endpoint(self.model) else "local"

    @property
    def at_once(self) -> int:
        # A batch is only as large as what waits.
        return self.concurrency or _AT_ONCE["batch" if self.batch else self.kind]

    def paying(self) -> TeacherOptions:
        return paying_options(
            budget_usd=self.budget_usd,
            budget_tokens=self.budget_tokens,
            rpm=self.rpm,
            tpm=self.tpm,
            timeout_s=self.timeout_s,
            prices=self.prices,
            batch=self.batch,
            temperature=self.temperature,
        )

    def section(self) -> EvaluateSection:
        return EvaluateSection(temperature=self.temperature or 0.0, seed=self.seed)

    def limits(self) -> Limits:
        """Small ones for small models on the desk; room enough for everyone else."""
        desk = self.suite.partition(":")[0] == "desk"
        if desk and self.kind != "endpoint":
            given = LimitsSection().limits()
        else:
            given = Limits(
                max_turns=20 if desk else 128,
                max_turn_tokens=4096,
                max_context_tokens=32768,
                max_result_tokens=2048,
            )
        return Limits(
            max_turns=self.max_turns or given.max_turns,
            max_turn_tokens=self.max_turn_tokens or given.max_turn_tokens,
            max_context_tokens=self.max_context_tokens or given.max_context_tokens,
            max_result_tokens=self.max_result_tokens or given.max_result_tokens,
        )

    def sampling(self) -> dict[str, Any]:
        match self.kind:
            case "scripted":
                return {}
            case "endpoint":
                return {"temperature": self.temperature}
            case _:
                section = self.section()
                return {
                    "temperature": section.temperature,
                    "top_p": section.top_p,
                    "top_k": section.top_k,
                    "template": self.template,
                }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """What is to be played, and where it is kept."""

    wanted: _Wanted
    suite: Suite
    tasks: Sequence[Task]
    limits: Limits
    manifest: Manifest
    folder: EvalFolder


def _evaluate(wanted: _Wanted) -> None:
    if wanted.tools != "live" and wanted.cache_path is None:
        raise RecipeError(
            f"--tools {wanted.tools} needs --cache FILE, such as runs/quickstart/cache/heldout.sqlite."
        )
    job = _job(wanted)
    if job.manifest.trials > wanted.trials:
        click.echo(
            f"! {job.folder.root} is of {job.manifest.trials} trials a task: all of them are played and used, "
            f"not {wanted.trials} alone. For fewer name another folder with --out.",
            err=True,
        )
    if wanted.dry_run:
        _tell_plan(job)
        return
    root = job.folder.root
    with RunLock(root):
        if wanted.tools == "shadow":
            _shadow(job)
            return
        ended = asyncio.run(_play(job, {wanted.tools: job.folder}, root))
    summary = _concluded(job.folder, wanted, ended[wanted.tools])
    if wanted.json_out:
        click.echo(as_json(_figures(job, summary, ended[wanted.tools])))
    else:
        tell_summary(job.folder, summary, ended[wanted.tools])
    _raise_stop(ended[wanted.tools])


def _job(wanted: _Wanted) -> _Job:
    from cacherl import wiring
    from cacherl.evaluate.folder import EvalFolder, Manifest, Plan, folder_name
    from cacherl.evaluate.results import digest_of_tasks

    suite = wiring.suite_of(wanted.suite)
    split = Split(wanted.split)
    limit = wanted.limit
    if limit is None and wanted.suite.partition(":")[0] == "desk":
        limit = _DESK_TASKS
    tasks = suite.tasks(split, count=limit, seed=wanted.seed)
    info, limits = suite.info, wanted.limits()
    plan = Plan(
        suite=info.name,
        pin=info.pin,
        split=split,
        tasks=len(tasks),
        tasks_digest=digest_of_tasks(tasks),
        model=wanted.model,
        model_digest=_model_digest(wanted),
        tools=wanted.tools,
        cache="" if wanted.cache_path is None else _cache_digest(wanted.cache_path),
        seed=wanted.seed,
        limits=msgspec.to_builtins(limits),
        sampling=wanted.sampling(),
    )
    folder = EvalFolder(wanted.out or Path("runs") / "eval" / folder_name(plan, wanted.model))
    # Trials may grow, never shrink (`begin`): what is told beforehand counts them alike.
    earlier = folder.read_manifest().trials if folder.manifest.exists() else 0
    return _Job(
        wanted=wanted,
        suite=suite,
        tasks=tasks,
        limits=limits,
        manifest=Manifest(plan=plan, trials=max(wanted.trials, earlier), info=info),
        folder=folder,
    )


def _model_digest(wanted: _Wanted) -> str:
    from cacherl import wiring
    from cacherl.evaluate.provenance import files_digest

    if wanted.kind != "local":
        return ""
    path = Path(wiring.model_path(wanted.model))
    return files_digest(path) if path.is_dir() else ""


def _cache_digest(path: Path) -> str:
    from cacherl.cache.lookup.tool_cache import ToolCache
    from cacherl.cache.storage.snapshot import SnapshotStore
    from cacherl.experiment import file_digest

    with ToolCache.open(path) as cache:
        if isinstance(cache.store, SnapshotStore):
            return f"snapshot {cache.store.short_id}"
    return f"{path.name} {file_digest(path)}"


async def _play(job: _Job, folders: dict[str, EvalFolder], root: Path) -> dict[str, Played]:
    """Play the job on each kind of tools, into its folder. The model and its journal are common to all."""
    from cacherl.evaluate.folder import EvalFolder
    from cacherl.evaluate.into_folder import evaluate_into
    from cacherl.suites.installed import data_home
    from cacherl.suites.nothing import nothing

    ended: dict[str, Played] = {}
    async with contextlib.AsyncExitStack() as open_parts:
        told = open_parts.enter_context(_screen(job.wanted))
        paid: EndpointChat | None = None

        @functools.cache
        def player() -> ChatModel:
            nonlocal paid
            model, paid = _player(job, root)
            told.spent_by(paid)
            return model

        try:
            for tools, folder in folders.items():
                plan = msgspec.structs.replace(job.manifest.plan, tools=tools)
                ended[tools] = await evaluate_into(
                    folder,
                    msgspec.structs.replace(job.manifest, plan=plan),
                    job.suite,
                    job.tasks,
                    player,
                    open_parts.enter_context(_opened(job, tools)),
                    nothing(),
                    limits=job.limits,
                    concurrency=job.wanted.at_once,
                    keep_bounds=data_home() / "bounds",
                    unplayable=_unplayable(job.suite),
                    on_progress=told,
                )
                if ended[tools].stopped is not None:
                    break
        finally:
            if paid is not None:
                paid.ledger().write(EvalFolder(root).ledger)
                await paid.aclose()
    return ended


def _player(job: _Job, root: Path) -> tuple[ChatModel, EndpointChat | None]:
    from cacherl import wiring
    from cacherl.evaluate.folder import EvalFolder

    journal = EvalFolder(root).journal
    if job.wanted.kind == "endpoint":
        # What was really said stands in there.
        journal.mkdir(mode=0o700, parents=True, exist_ok=True)
    model, paid = wiring.player_of(
        job.wanted.model,
        job.suite,
        Template(job.wanted.template),
        job.wanted.section(),
        journal=journal,
        options=job.wanted.paying(),
    )
    for notice in () if paid is None else paid.notices:
        click.echo(f"! {notice}", err=True)
    return model, paid


def _unplayable(suite: Suite) -> str:
    """Return why floor and ceiling of a suite must not be played, or nothing where they may."""
    if suite.info.user is UserKind.MODEL:
        return "the user is a model, and playing it is paid"
    if not getattr(suite, "resets", True):
        return "the tools act on something outside, which playing gold would change"
    return ""


@contextlib.contextmanager
def _opened(job: _Job, tools: str) -> Iterator[OpenTrial]:
    """Lend what opens the tools of an episode. A shadow run is one run on each kind."""
    if tools == "live":
        if getattr(job.suite, "resets", True):
            yield lambda task, trial: job.suite.open(task)
            return
        with _remembering(job) as opened:
            yield opened
        return
    from cacherl.cache.episodes.replay import ReplayTools
    from cacherl.cache.safety.audit import open_for_evaluation

    split, seed = Split(job.wanted.split), job.wanted.seed
    cache: ToolCache = open_for_evaluation(str(job.wanted.cache_path), split)
    try:
        yield lambda task, trial: ReplayTools(
            cache, task, seed=seed, rollout=trial, splits=frozenset({split})
        )
    finally:
        cache.close()


@contextlib.contextmanager
def _remembering(job: _Job) -> Iterator[OpenTrial]:
    """Lend tools that act on something outside: a call that ran is not made again by a run that goes on."""
    from cacherl.evaluate.results import on_file, task_digest
    from cacherl.record.live_calls import LiveCalls

    digests = {task.id: task_digest(task) for task in job.tasks}
    path = job.folder.journal / "live_calls.jsonl"
    with LiveCalls(path, without=on_file(job.folder.results, digests)) as memory:

        def opened(task: Task, trial: int) -> WorldTools:
            live = job.suite.open(task)
            return _Remembered(memory.tools(live, task, trial), live)

        yield opened


class _Remembered:
    """Live tools whose calls are written down; what they keep of the episode is their own (`Epilogue`)."""

    def __init__(self, remembered: WorldTools, live: WorldTools) -> None:
        self._remembered, self._live = remembered, live

    async def call(self, call: ToolCall) -> ToolResult:
        return await self._remembered.call(call)

    def fingerprint(self) -> str:
        return self._remembered.fingerprint()

    async def epilogue(self) -> JsonObject:
        return await self._live.epilogue() if isinstance(self._live, Epilogue) else {}

    async def aclose(self) -> None:
        await self._remembered.aclose()


def _shadow(job: _Job) -> None:
    """Play everything on the cache and then live: the same model, tasks, seeds and journal."""
    from cacherl.evaluate.compare import compare_folders
    from cacherl.evaluate.folder import EvalFolder

    root = job.folder.root
    folders = {tools: EvalFolder(root / tools) for tools in ("cached", "live")}
    ended = asyncio.run(_play(job, folders, root))
    for tools, played in ended.items():
        summary = _concluded(folders[tools], job.wanted, played)
        if not job.wanted.json_out:
            tell_summary(folders[tools], summary, played)
        _raise_stop(played)
    compared = compare_folders(folders["cached"], folders["live"])
    if job.wanted.json_out:
        click.echo(as_json(compared))
    else:
        tell_comparison(compared)


def _concluded(folder: EvalFolder, wanted: _Wanted, played: Played) -> Summary:
    """Write the summary and the page of what is on file."""
    if played.resumed + played.scored == 0:
        first = played.outages[0].error if played.outages else str(played.stopped)
        if played.stopped is not None:
            raise played.stopped
        raise ModelError(f"none of {played.left} tasks could be scored: {first}")
    return _write_summary(folder)


def _write_summary(folder: EvalFolder) -> Summary:
    from cacherl.evaluate.summary import summary_of

    summary = summary_of(folder)
    folder.write(folder.summary, summary)
    try:
        from cacherl.report.evaluation import write_evaluation

        write_evaluation(folder, summary, folder.page)
    except MissingExtraError as error:
        click.echo(f"! no page: {error}", err=True)
    return summary


def _raise_stop(played: Played) -> None:
    if played.stopped is not None:
        raise played.stopped


# ---- what is shown -----------------------------------------------------------------------------


class _Screen(Protocol):
    """Where a run tells how far it is, on standard error."""

    def __call__(self, what: str, done: int, total: int) -> None: ...

    def spent_by(self, paid: EndpointChat | None) -> None:
        """Show what this model costs from now on."""
        ...


@contextlib.contextmanager
def _screen(wanted: _Wanted) -> Iterator[_Screen]:
    if wanted.json_out:
        yield _Lines()
        return
    console = Console(stderr=True, highlight=False)
    with draw_bars(console, transient=True, disable=not console.is_terminal) as bars:
        yield _Bar(bars, console, wanted.budget_usd)


class _Due:
    """Says when it is time to say something again."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._last = time.monotonic()

    def __call__(self, *, last: bool) -> bool:
        if not last and time.monotonic() - self._last < self._every_s:
            return False
        self._last = time.monotonic()
        return True


class _Lines:
    """For machines: one JSON object a line, one a second at most."""

    def __init__(self) -> None:
        self._due = _Due(1.0)
        self._paid: EndpointChat | None = None

    def spent_by(self, paid: EndpointChat | None) -> None:
        self._paid = paid

    def __call__(self, what: str, done: int, total: int) -> None:
        if self._due(last=done == total):
            dollars = None if self._paid is None else self._paid.ledger().total.dollars
            said = {"what": what, "done": done, "total": total, "dollars": dollars}
            click.echo(msgspec.json.encode(said).decode(), err=True)


class _Bar:
    """For a person: one bar a piece of work; in a log file a line every ten seconds."""

    def __init__(self, bars: Progress, console: Console, budget: float | None) -> None:
        self._bars, self._console, self._budget = bars, console, budget
        self._due = _Due(0.2 if console.is_terminal else _LOG_EVERY_S)
        self._ids: dict[str, TaskID] = {}
        self._paid: EndpointChat | None = None

    def spent_by(self, paid: EndpointChat | None) -> None:
        self._paid = paid

    def __call__(self, what: str, done: int, total: int) -> None:
        if what not in self._ids:
            # What earlier runs did says nothing about how fast this one is.
            self._ids[what] = self._bars.add_task(
                escape(plain(what)), total=total, completed=done, facts=""
            )
        if self._console.is_terminal:
            if self._due(last=done == total):
                self._bars.update(self._ids[what], completed=done, facts=escape(self._spent()))
        elif self._due(last=False):
            click.echo(f"  {plain(what)} {done}/{total} {self._spent()}".rstrip(), err=True)

    def _spent(self) -> str:
        if self._paid is None:
            return ""
        total = self._paid.ledger().total
        said = "price unknown" if total.dollars is None else f"${total.dollars:.2f}"
        said += f" of ${self._budget:g}" if self._budget else ""
        return ", ".join([said, *(f"{kind} {count}" for kind, count in total.failures.items())])


def _tell_plan(job: _Job) -> None:
    from cacherl.evaluate.results import on_file, task_digest
    from cacherl.evaluate.run import still_to_play
    from cacherl.record.estimate import estimate
    from cacherl.teacher.prices import NANO, PriceTable

    wanted, plan = job.wanted, job.manifest.plan
    digests = {task.id: task_digest(task) for task in job.tasks}
    left = still_to_play(job.tasks, job.manifest.trials, on_file(job.folder.results, digests))
    times = 2 if wanted.tools == "shadow" else 1
    said: dict[str, Any] = {
        "model": wanted.model,
        "suite": plan.suite,
        "pin": plan.pin,
        "split": plan.split.value,
        "tasks": plan.tasks,
        "trials": job.manifest.trials,
        "tools": wanted.tools,
        "episodes": len(left) * times,
        "on_file": len(job.tasks) * job.manifest.trials - len(left),
        "folder": str(job.folder.root),
    }
    if wanted.kind == "endpoint":
        guess = estimate(left, job.limits, None)
        table = PriceTable.read(wanted.prices)
        now = datetime.now(UTC)
        for name, tokens in (("likely", guess.likely), ("most", guess.most)):
            nano = table.most_nanodollars(
                wanted.model,
                prompt=tokens.prompt * times,
                completion=tokens.completion * times,
                at=now,
            )
            said[f"{name}_tokens"] = (tokens.prompt + tokens.completion) * times
            said[f"{name}_dollars"] = None if nano is None else nano / NANO
        said["basis"] = guess.basis
        said["prices"] = table.source(wanted.model)
    if wanted.json_out:
        click.echo(as_json(said))
        return
    click.echo(
        f"{wanted.model} on {plan.suite}/{plan.split.value}, {wanted.tools} tools: {plan.tasks} tasks, "
        f"{job.manifest.trials} trials each; {said['episodes']} episodes to play, {said['on_file']} on file"
    )
    click.echo(f"Suite: {plan.pin or 'no pin'}. Folder: {job.folder.root}")
    if wanted.kind == "endpoint":
        click.echo(
            f"About {said['likely_tokens']:,} tokens (from {said['basis']}), at most {said['most_tokens']:,}"
        )
        if said["likely_dollars"] is None:
            click.echo("No price is known: name one with --prices, or set --budget-tokens")
        else:
            click.echo(
                f"About ${said['likely_dollars']:.2f}, at most ${said['most_dollars']:.2f} ({said['prices']})"
            )
    click.echo("Nothing was played. Leave --dry-run out to evaluate.")


def _figures(job: _Job, summary: Summary, played: Played) -> dict[str, Any]:
    """Return what --json prints: the plain figures first, then everything."""
    wanted = job.wanted
    said: dict[str, Any] = {
        "model": wanted.model,
        "suite": wanted.suite,
        "split": wanted.split,
        "tools": wanted.tools,
        "seed": wanted.seed,
        "n": summary.n,
        "trials": summary.manifest.trials,
        "tries": summary.rows,
        "not_scored": summary.not_scored,
        "unreached_calls": summary.unreached_calls,
        "unreached_tries": summary.unreached_rows,
        "notes": summary.notes,
        "resumed": played.resumed,
        "folder": str(job.folder.root),
    }
    for metric in ("success", "process_accuracy", "end_to_end"):
        figure = summary.figure(metric)
        if figure is None:
            continue
        measured = figure.measured
        said[metric] = measured.value
        said[f"{metric}_interval"] = [measured.low, measured.high]
        said[f"{metric}_tries"] = figure.rows
        said[f"{metric}_floor"] = figure.floor.value
        said[f"{metric}_ceiling"] = figure.ceiling.value
    said["summary"] = _scored_by_gold(job)
    said["evaluation"] = summary
    return said


def _scored_by_gold(job: _Job) -> Any:
    """Return the summary of the rows by their tasks' gold, as `metrics.json` of a run has it."""
    from cacherl.evaluate.results import read_results
    from cacherl.metrics import score_episode, summarise

    tasks = {task.id: task for task in job.tasks if task.gold is not None}
    rows = [
        score_episode(tasks[row.task_id], row.trajectory, seed=job.wanted.seed)
        for row in read_results(job.folder.results)
        if row.task_id in tasks
    ]
    if all(row.process_accuracy is None for row in rows):
        return None
    return summarise(rows, seed=job.wanted.seed)


# ---- eval show ---------------------------------------------------------------------------------


@eval_group.command("show")
@click.argument("run", type=FOLDER)
@click.argument("task", required=False)
@click.option("--trial", type=click.IntRange(min=0), help="Unless told: the first that failed.")
@click.option("--thinking", is_flag=True, help="Show what the model thought, too.")
@JSON
@example("cacherl eval show runs/eval/desk-test-expert-100 desk-test-0-00007")
def show_command(
    run: Path, task: str | None, trial: int | None, thinking: bool, json_out: bool
) -> None:
    """Explain how TASK went in RUN: the transcript with its calls marked, and what its checker missed.

    TASK may be a part of the id. Without it, the rows that failed are listed.
    """
    from cacherl.evaluate.explain import failed_rows, find_row
    from cacherl.evaluate.folder import EvalFolder

    folder = EvalFolder(run)
    if task is None:
        folder.read_manifest()
        tell_failed(folder, list(failed_rows(folder)), json_out=json_out)
        return
    found = find_row(folder, task, trial)
    if json_out:
        said = {
            "task": found.task,
            "result": found.result,
            "expected": found.expected,
            "fault": found.fault,
            "lines": [msgspec.to_builtins(line) for line in found.lines],
        }
        click.echo(as_json(said))
        return
    tell_row(found, thinking=thinking)


# ---- compare -----------------------------------------------------------------------------------


@click.command("compare")
@click.argument("a", type=FOLDER)
@click.argument("b", type=FOLDER)
@click.option("--seed", type=int, default=0, show_default=True, help="Of swaps and resamples.")
@click.option("--out", type=FILE, help="Write a page here.")
@JSON
@example("cacherl compare runs/eval/desk-test-base-100 runs/eval/desk-test-grpo-100 --out ab.html")
def compare_command(a: Path, b: Path, seed: int, out: Path | None, json_out: bool) -> None:
    """Say whether B is better than A: two evaluations of one suite, paired task by task.

    Tasks that only one of them has are left out, and counted.
    """
    from cacherl.evaluate.compare import compare_folders
    from cacherl.evaluate.folder import EvalFolder

    compared = compare_folders(EvalFolder(a), EvalFolder(b), seed=seed)
    if out is not None:
        from cacherl.report.evaluation import write_comparison

        write_comparison(compared, EvalFolder(a), EvalFolder(b), out)
    if json_out:
        click.echo(as_json(compared))
        return
    tell_comparison(compared)
    if out is not None:
        click.echo(f"Page: {out.resolve()}")


# ---- rescore -----------------------------------------------------------------------------------


@click.command("rescore")
@click.argument("run", type=FOLDER)
@click.option("--dry-run", is_flag=True, help="Say what would change; write nothing.")
@JSON
@example("cacherl rescore runs/eval/desk-test-expert-100")
def rescore_command(run: Path, dry_run: bool, json_out: bool) -> None:
    """Recompute every verdict and figure of RUN from its stored episodes, without a model.

    For a suite's checker, a metric or gold that was mended after the run. Says what changed.
    """
    from cacherl import wiring
    from cacherl.evaluate.folder import EvalFolder
    from cacherl.evaluate.rescore import rescore

    folder = EvalFolder(run)
    suite = wiring.suite_of(folder.read_manifest().plan.suite)
    with RunLock(run):
        found = rescore(folder, suite, write=not dry_run)
        if not dry_run:
            _write_summary(folder)
    if json_out:
        click.echo(as_json(found))
        return
    tell_rescored(found, dry_run=dry_run)


COMMANDS: tuple[click.Command, ...] = (eval_group, compare_command, rescore_command)
