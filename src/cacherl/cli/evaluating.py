"""`cacherl eval`, `eval show`, `compare`, `rescore`: what a model does on tasks it has never seen."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from cacherl.cli.terminal import FILE, FOLDER, JSON, Group, as_json, example
from cacherl.core.errors import MissingExtraError, ModelError, RecipeError
from cacherl.core.models import ChatModel, Limits
from cacherl.core.suites import Suite, UserKind
from cacherl.core.tasks import Split, Task
from cacherl.experiment import EvaluateSection, LimitsSection, RunLock
from cacherl.render import Template

if TYPE_CHECKING:
    from cacherl.cache.lookup.tool_cache import ToolCache
    from cacherl.evaluate.compare import Compared, ComparedRuns, TaskGain
    from cacherl.evaluate.explain import Explanation, Line
    from cacherl.evaluate.folder import EvalFolder, Manifest
    from cacherl.evaluate.rescore import Rescored
    from cacherl.evaluate.results import Outage, Result
    from cacherl.evaluate.run import OpenTrial, Played
    from cacherl.evaluate.summary import Figure, Summary
    from cacherl.teacher.chat import EndpointChat
    from cacherl.teacher.options import TeacherOptions

_SCRIPTED = ("oracle", "expert", "nothing")
_AT_ONCE = {"endpoint": 8, "local": 128, "scripted": 32}
"""Episodes at once, unless told: a local engine writes the turns of a whole batch together."""
_DESK_TASKS = 100
"""Of the desk, which makes as many as one wants."""
_LOG_EVERY_S = 10.0
_SHOWN = 10
_WIDTH = 160
"""Of a table that goes into a pipe or a file."""


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


@click.command("eval")
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
@click.option("--budget-usd", type=float, help="Stop before more than this is spent, all runs.")
@click.option("--budget-tokens", type=int, help="The same in tokens, read and written together.")
@click.option("--rpm", type=float, help="Requests a minute at most.")
@click.option("--tpm", type=int, help="Tokens a minute at most.")
@click.option("--timeout-s", type=float, default=180.0, show_default=True, help="One request.")
@click.option("--prices", type=FILE, help="Prices of your own (TOML) over the bundled ones.")
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
        return self.concurrency or _AT_ONCE[self.kind]

    def paying(self) -> TeacherOptions:
        from cacherl.teacher.options import TeacherOptions

        return TeacherOptions(
            temperature=self.temperature,
            timeout_s=self.timeout_s,
            requests_per_minute=self.rpm,
            tokens_per_minute=self.tpm,
            budget_dollars=self.budget_usd,
            budget_tokens=self.budget_tokens,
            prices=self.prices,
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
        _tell(job.folder, summary, ended[wanted.tools])
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
    root = wanted.out or Path("runs") / "eval" / folder_name(plan, wanted.model)
    return _Job(
        wanted=wanted,
        suite=suite,
        tasks=tasks,
        limits=limits,
        manifest=Manifest(plan=plan, trials=wanted.trials, info=info),
        folder=EvalFolder(root),
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
    from cacherl.core.jsonl import write_jsonl
    from cacherl.evaluate.bounds import bounds_of
    from cacherl.evaluate.folder import EvalFolder, begin
    from cacherl.evaluate.provenance import made_now
    from cacherl.evaluate.results import on_file, task_digest
    from cacherl.evaluate.run import run_samples, still_to_play
    from cacherl.suites.installed import data_home
    from cacherl.suites.nothing import nothing

    wanted = job.wanted
    manifests = {
        tools: begin(
            folder,
            msgspec.structs.replace(
                job.manifest, plan=msgspec.structs.replace(job.manifest.plan, tools=tools)
            ),
            job.tasks,
        )
        for tools, folder in folders.items()
    }
    digests = {task.id: task_digest(task) for task in job.tasks}
    left = {
        tools: len(still_to_play(job.tasks, wanted.trials, on_file(folder.results, digests)))
        for tools, folder in folders.items()
    }
    model, paid = _player(job, root) if any(left.values()) else (None, None)
    ended: dict[str, Played] = {}
    try:
        with _screen(wanted, paid) as told:
            bounds = await bounds_of(
                job.suite,
                job.tasks,
                nothing(),
                limits=job.limits,
                keep=data_home() / "bounds",
                unplayable=_unplayable(job.suite),
                on_progress=lambda done, total: told("floor and ceiling", done, total),
            )
            for tools, folder in folders.items():
                write_jsonl(folder.bounds, bounds)
                total = len(job.tasks) * wanted.trials
                done = total - left[tools]
                label = wanted.model if len(folders) == 1 else f"{wanted.model}, {tools}"

                def on_row(row: Result | Outage, label: str = label, total: int = total) -> None:
                    nonlocal done
                    done += 1
                    told(label, done, total)

                started, at = time.perf_counter(), datetime.now(UTC)
                before = done
                try:
                    if model is None:
                        ended[tools] = _nothing_to_do(total)
                    else:
                        with _opened(job, tools) as open_tools:
                            ended[tools] = await run_samples(
                                model,
                                job.suite,
                                job.tasks,
                                open_tools,
                                folder.results,
                                limits=job.limits,
                                seed=wanted.seed,
                                trials=wanted.trials,
                                concurrency=wanted.at_once,
                                on_row=on_row,
                            )
                finally:
                    if done > before:
                        wall_s = time.perf_counter() - started
                        made = made_now(at, played=done - before, wall_s=wall_s)
                        runs = (*manifests[tools].runs, made)
                        folder.write(
                            folder.manifest, msgspec.structs.replace(manifests[tools], runs=runs)
                        )
                if ended[tools].stopped is not None:
                    break
    finally:
        if paid is not None:
            paid.ledger().write(EvalFolder(root).ledger)
            await paid.aclose()
    return ended


def _nothing_to_do(total: int) -> Played:
    from cacherl.evaluate.run import Played

    return Played(resumed=total, scored=0, outages=(), left=0, wall_s=0.0)


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
        yield lambda task, trial: job.suite.open(task)
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
            _tell(folders[tools], summary, played)
        _raise_stop(played)
    compared = compare_folders(folders["cached"], folders["live"])
    if job.wanted.json_out:
        click.echo(as_json(compared))
    else:
        _tell_comparison(compared)


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


@contextlib.contextmanager
def _screen(
    wanted: _Wanted, paid: EndpointChat | None
) -> Iterator[Callable[[str, int, int], None]]:
    """Show how far it is on standard error: a bar, a line every ten seconds in a log, or JSON lines."""
    console = Console(stderr=True, highlight=False)
    told_at = time.monotonic()

    def is_due(every_s: float, *, last: bool) -> bool:
        nonlocal told_at
        if not last and time.monotonic() - told_at < every_s:
            return False
        told_at = time.monotonic()
        return True

    def spent() -> str:
        if paid is None:
            return ""
        total = paid.ledger().total
        said = "price unknown" if total.dollars is None else f"${total.dollars:.2f}"
        said += f" of ${wanted.budget_usd:g}" if wanted.budget_usd else ""
        return ", ".join([said, *(f"{kind} {count}" for kind, count in total.failures.items())])

    if wanted.json_out:

        def as_line(what: str, done: int, total: int) -> None:
            if is_due(1.0, last=done == total):
                dollars = None if paid is None else paid.ledger().total.dollars
                said = {"what": what, "done": done, "total": total, "dollars": dollars}
                click.echo(msgspec.json.encode(said).decode(), err=True)

        yield as_line
        return
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[facts]}"),
        console=console,
        transient=True,
    ) as bars:
        ids: dict[str, Any] = {}

        def on_bar(what: str, done: int, total: int) -> None:
            if what not in ids:
                ids[what] = bars.add_task(escape(_plain(what)), total=total, facts="")
            if console.is_terminal:
                if is_due(0.2, last=done == total):
                    bars.update(ids[what], completed=done, facts=escape(spent()))
            elif is_due(_LOG_EVERY_S, last=False):
                click.echo(f"  {_plain(what)} {done}/{total} {spent()}".rstrip(), err=True)

        yield on_bar


def _plain(text: str) -> str:
    """Return the text without what would move the cursor: names and words of tools and models are data."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)


def _tell_plan(job: _Job) -> None:
    from cacherl.evaluate.results import on_file, task_digest
    from cacherl.evaluate.run import still_to_play
    from cacherl.record.estimate import estimate
    from cacherl.teacher.prices import NANO, PriceTable

    wanted, plan = job.wanted, job.manifest.plan
    digests = {task.id: task_digest(task) for task in job.tasks}
    left = still_to_play(job.tasks, wanted.trials, on_file(job.folder.results, digests))
    times = 2 if wanted.tools == "shadow" else 1
    said: dict[str, Any] = {
        "model": wanted.model,
        "suite": plan.suite,
        "pin": plan.pin,
        "split": plan.split.value,
        "tasks": plan.tasks,
        "trials": wanted.trials,
        "tools": wanted.tools,
        "episodes": len(left) * times,
        "on_file": len(job.tasks) * wanted.trials - len(left),
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
        f"{wanted.trials} trials each; {said['episodes']} episodes to play, {said['on_file']} on file"
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
        "not_scored": summary.not_scored,
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
    return summarise(rows, seed=job.wanted.seed) if rows else None


def _tell(folder: EvalFolder, summary: Summary, played: Played) -> None:
    plan = summary.manifest.plan
    trials = summary.manifest.trials
    click.echo(
        _plain(
            f"{plan.model} on {plan.suite}/{plan.split.value}, {plan.tools} tools, seed {plan.seed}: "
            f"{summary.n} tasks ({summary.distinct_questions} distinct questions), "
            f"{trials} trial{'s' if trials > 1 else ''} each; {played.scored} episodes played, "
            f"{played.resumed} were on file"
        )
    )
    _print_figures(summary)
    _print_groups(summary)
    for name, count in (("Calls", summary.call_tiers), ("Ended", summary.stops)):
        if count:
            click.echo(f"{name}: {_counts(count)}")
    if summary.failed:
        kinds = {each.kind: each.rows for each in summary.failures}
        kinds |= {"not placed": summary.unplaced} if summary.unplaced else {}
        click.echo(f"{summary.failed} of {summary.rows} rows failed: {_counts(kinds)}")
    if summary.costs.completion_tokens.most:
        click.echo(_cost_line(summary))
    click.echo(summary.power)
    for note in summary.notes:
        click.echo(f"! {note}")
    if summary.not_scored:
        why = _counts(summary.outages) if summary.outages else "not played yet"
        first = f" ({_plain(played.outages[0].error)})" if played.outages else ""
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
        escape(_plain(name.replace("_", " "))),
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
        said += f"; ${costs.dollars:.4f} in all"
        if costs.dollars_per_success is not None:
            said += f", ${costs.dollars_per_success.value:.4f} a success"
    elif summary.paid_dollars is not None:
        said += f"; ${summary.paid_dollars:.4f} paid"
    return said


def _counts(counts: dict[str, int]) -> str:
    return _plain(
        ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in counts.items())
    )


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
        _list_failed(folder, list(failed_rows(folder)), json_out=json_out)
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
    _tell_row(found, thinking=thinking)


def _list_failed(folder: EvalFolder, failed: Sequence[Result], *, json_out: bool) -> None:
    from cacherl.evaluate.explain import first_fault

    if json_out:
        click.echo(
            as_json(
                [
                    {
                        "task_id": row.task_id,
                        "trial": row.trial,
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
        how = ", ".join(row.kinds).replace("_", " ") or row.trajectory.stop.value
        said = f"{fault.name}: {fault.said}" if fault else ""
        table.add_row(
            escape(_plain(row.task_id)), str(row.trial), escape(_plain(how)), escape(_plain(said))
        )
    _print(table)
    click.echo(f"Next: cacherl eval show {folder.root} {failed[0].task_id}")


_MARKS = {True: "[green]right[/] ", False: "[red]wrong[/] ", None: ""}


def _tell_row(found: Explanation, *, thinking: bool) -> None:
    console = Console(highlight=False)
    task, row = found.task, found.result
    verdict = "[green]succeeded[/]" if row.verdict.success else "[red]failed[/]"
    console.print(
        f"[bold]{escape(_plain(task.id))}[/], trial {row.trial}: {verdict}, "
        f"{escape(_plain(task.family))}, {escape(_plain(task.language))}, ended with {row.trajectory.stop.value}"
    )
    for check in row.verdict.checks:
        said = f" {check.said}" if check.said else ""
        mark = "[green]+[/]" if check.score >= 1 else "[red]-[/]" if check.decides else "."
        console.print(f"  {mark} {escape(_plain(f'{check.name} {check.score:.3g}{said}'))}")
    if row.kinds:
        console.print(f"  how: {escape(_plain(', '.join(row.kinds).replace('_', ' ')))}")
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
            console.print(f"  {escape(_plain(call))}", soft_wrap=True)


def _said(line: Line) -> str:
    text = escape(_plain(line.text))
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
    _tell_comparison(compared)
    if out is not None:
        click.echo(f"Page: {out.resolve()}")


def _tell_comparison(compared: ComparedRuns) -> None:
    from cacherl.evaluate.compare import verdict_text

    click.echo(
        _plain(
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
            f"! they differ: {_plain(each.replace(' there', ' in A').replace(' now', ' in B'))}"
        )
    table = Table("", *_GAIN, box=None)
    for one in compared.metrics:
        if one.metric in ("success", "process_accuracy", "end_to_end") or one.metric.startswith(
            "check."
        ):
            table.add_row(*_gain_cells(one.metric, one))
    _print(table)
    click.echo(
        f"Success: {verdict_text(compared.metrics[0])} ({compared.metrics[0].comparison.test})."
    )
    for field, groups in compared.groups.items():
        table = Table(field, *_GAIN, box=None)
        for group in groups[: 3 * _SHOWN]:
            table.add_row(*_gain_cells(group.name, group.success))
        _print(table)
    click.echo(
        f"By success: B won {len(compared.won)} tasks, lost {len(compared.lost)}, {compared.tied} tied"
    )
    for word, gains, side in (("won", compared.won, 1), ("lost", compared.lost, 0)):
        _name_tasks(word, gains, compared, side)
    click.echo(compared.power)


_GAIN = ("A", "B", "B - A", "95 %", "p", "corrected", "n", "nothing", "gold")


def _gain_cells(name: str, one: Compared) -> tuple[str, ...]:
    from cacherl.evaluate.compare import p_text
    from cacherl.evaluate.summary import bound_text

    c = one.comparison
    return (
        escape(_plain(name.replace("_", " "))),
        f"{c.a:.3f}",
        f"{c.b:.3f}",
        f"{c.difference:+.3f}",
        f"{c.low:+.3f} to {c.high:+.3f}",
        p_text(c.p_value),
        p_text(one.corrected_p),
        str(c.n),
        bound_text(one.floor),
        bound_text(one.ceiling),
    )


def _name_tasks(word: str, gains: Sequence[TaskGain], compared: ComparedRuns, side: int) -> None:
    if not gains:
        return
    names = ", ".join(gain.task_id for gain in gains[:_SHOWN])
    more = f" and {len(gains) - _SHOWN} more" if len(gains) > _SHOWN else ""
    click.echo(f"  {word}: {_plain(names)}{more}")
    # The run that failed is the one to look at.
    folder = compared.a if side else compared.b
    click.echo(f"  Next: cacherl eval show {folder} {gains[0].task_id}")


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
    _tell_rescored(found, dry_run=dry_run)


def _tell_rescored(found: Rescored, *, dry_run: bool) -> None:
    would = "would change" if dry_run else "changed"
    click.echo(
        f"{found.rows} rows scored again: {len(found.changed)} {would}; {found.won} failures are successes "
        f"now, {found.lost} successes are failures"
    )
    if found.pin[0] != found.pin[1]:
        click.echo(f"! the suite changed: {_plain(found.pin[0])} then, {_plain(found.pin[1])} now")
    for one in found.changed[:_SHOWN]:
        said = ", ".join(
            f"{name} {_number(before)} to {_number(now)}"
            for name, (before, now) in one.metrics.items()
        )
        click.echo(
            f"  {_plain(one.task_id)}, trial {one.trial}: {_plain(said) or 'what is said of it'}"
        )
    if len(found.changed) > _SHOWN:
        click.echo(f"  ... and {len(found.changed) - _SHOWN} more (--json)")


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


COMMANDS: tuple[click.Command, ...] = (eval_group, compare_command, rescore_command)
