"""`cacherl record`: a teacher solves tasks with live tools."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    Progress,
)
from rich.table import Table

from cacherl.cli.paying import paying, paying_options, told_dollars, told_requests
from cacherl.cli.terminal import FILE, FOLDER, JSON, as_json, example
from cacherl.cli.terminal import bars as draw_bars
from cacherl.core.errors import BudgetError, RecipeError
from cacherl.core.folders import DataFolder
from cacherl.core.models import ChatModel, Limits
from cacherl.core.records import Record
from cacherl.core.tasks import Split, Task
from cacherl.core.trajectories import Trajectory
from cacherl.core.worlds import World
from cacherl.experiment import RunLock, WorldSection

if TYPE_CHECKING:
    from cacherl.record.folder import FolderSummary, Plan
    from cacherl.teacher.chat import EndpointChat
    from cacherl.teacher.ledger import Ledger
    from cacherl.teacher.options import TeacherOptions
    from cacherl.toolbox.toolbox import ToolboxReport

_AT_ONCE = 8
_AT_ONCE_IN_BATCHES = 512
_DETOUR = (
    0.25  # share of tasks that the desk's script plays worse: selection needs something to reject
)
"""A batch holds one request of each episode under way: with few of them batches would be small."""
_FEW = 100  # tasks; with so few, who writes them wants to say which are learnt from
_TICK_S = 0.5
_LOG_EVERY_S = 10.0


@click.command("record")
@click.option("--tools", "tools_file", type=FILE, help="Where your tools come from: tools.toml.")
@click.option("--tasks", "tasks_file", type=FILE, help="What is to be solved with them (JSONL).")
@click.option(
    "--world", "world_name", help="A built-in world instead of tools and tasks: desk, bfcl."
)
@click.option(
    "--count", type=click.IntRange(min=1), default=100, show_default=True, help="Its tasks."
)
@click.option(
    "--teacher",
    required=True,
    help="PROVIDER:MODEL or PROVIDER:MODEL@URL; expert is the script of a built-in world.",
)
@click.option("--out", type=FOLDER, required=True, help="The folder to record into.")
@click.option(
    "--split",
    type=click.Choice([s.value for s in Split]),
    default=Split.TRAIN.value,
    show_default=True,
    help="Only tasks of this split. Held-out tasks belong in a folder of their own.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Only the first so many tasks.")
@click.option(
    "--best-of", type=click.IntRange(min=1), default=1, show_default=True, help="Episodes a task."
)
@click.option(
    "--concurrency",
    type=click.IntRange(min=1),
    help=f"Episodes at once; {_AT_ONCE} unless told, {_AT_ONCE_IN_BATCHES} with --batch.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--temperature", type=click.FloatRange(min=0), help="Left to the teacher unless told."
)
@click.option("--max-turns", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--max-turn-tokens", type=click.IntRange(min=1), default=4096, show_default=True)
@click.option("--max-context-tokens", type=click.IntRange(min=16), default=32768, show_default=True)
@click.option("--max-result-tokens", type=click.IntRange(min=1), default=2048, show_default=True)
@paying
@click.option(
    "--redact",
    type=click.Choice(["secrets", "personal"]),
    help="Take these out before anything but the journal is written.",
)
@click.option("--retry-refused", is_flag=True, help="Ask again what the teacher refused.")
@click.option("--dry-run", is_flag=True, help="Say what would run and cost; call nothing.")
@JSON
@example(
    "cacherl record --tools tools.toml --tasks tasks.jsonl --teacher openai:gpt-5 "
    "--out data/office --budget-usd 5"
)
def record_command(**options: Any) -> None:
    """Let a teacher solve tasks with live tools, and keep every episode and every answer.

    A run that was stopped or killed goes on with the same command: what is recorded is kept, what was
    paid for is not paid again, and no call that changes something is made twice.
    """
    wanted = _Wanted(**options)
    wanted.check()
    world, tasks = _world_and_tasks(wanted)
    plan = wanted.plan()
    if wanted.dry_run:
        _tell_plan(wanted, world, tasks, plan)
        return
    folder = DataFolder(wanted.out)
    with RunLock(folder.root):
        outcome = asyncio.run(_record(wanted, folder, world, tasks, plan))
    if wanted.json_out:
        click.echo(as_json(outcome))
    else:
        _tell(folder, outcome)
        if wanted.redact is not None:
            click.echo(
                f"! {folder.journal} holds what was really said, for runs that go on from here. "
                "Delete it once you need no more of them; never publish it."
            )
    run = outcome.summary.run
    if run.out_of_budget is not None:
        total = run.skipped + run.episodes + run.left
        raise BudgetError(
            f"budget spent: {total - run.left} of {total} episodes done; run again with a larger "
            f"--budget-usd or --budget-tokens to go on ({run.out_of_budget})"
        )


COMMANDS = (record_command,)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """The command line."""

    tools_file: Path | None
    tasks_file: Path | None
    world_name: str | None
    count: int
    teacher: str
    out: Path
    split: str
    limit: int | None
    best_of: int
    concurrency: int | None
    seed: int
    temperature: float | None
    max_turns: int
    max_turn_tokens: int
    max_context_tokens: int
    max_result_tokens: int
    budget_usd: float | None
    budget_tokens: int | None
    rpm: float | None
    tpm: int | None
    timeout_s: float
    prices: Path | None
    batch: bool
    redact: str | None
    retry_refused: bool
    dry_run: bool
    json_out: bool

    def check(self) -> None:
        """Refuse what makes no sense together.

        Raises:
            RecipeError: says which options, and what to write.
        """
        if (self.tools_file is None) == (self.world_name is None):
            raise RecipeError(
                "name your tools with --tools tools.toml, or a built-in world with --world desk; "
                "one of the two."
            )
        if (self.tools_file is None) != (self.tasks_file is None):
            raise RecipeError(
                "--tools and --tasks go together: --tools tools.toml --tasks tasks.jsonl. "
                "A built-in world brings its own tasks (--count)."
            )
        if self.teacher == "expert" and self.world_name is None:
            raise RecipeError(
                "--teacher expert is the script of --world desk or bfcl. For your own tools name a model, "
                "such as --teacher openai:gpt-5."
            )

    def plan(self) -> Plan:
        from cacherl.cache.safety.redact import Profile
        from cacherl.record.folder import Plan

        return Plan(
            teacher=self.teacher,
            limits=Limits(
                max_turns=self.max_turns,
                max_turn_tokens=self.max_turn_tokens,
                max_context_tokens=self.max_context_tokens,
                max_result_tokens=self.max_result_tokens,
            ),
            temperature=self.temperature,
            split=Split(self.split),
            redact=None
            if self.redact is None
            else Profile(name="personal" if self.redact == "personal" else "secrets"),
            seed=self.seed,
            best_of=self.best_of,
            concurrency=self.concurrency or (_AT_ONCE_IN_BATCHES if self.batch else _AT_ONCE),
            retry_refused=self.retry_refused,
        )

    def teacher_options(self) -> TeacherOptions:
        return paying_options(
            temperature=self.temperature,
            timeout_s=self.timeout_s,
            rpm=self.rpm,
            tpm=self.tpm,
            budget_usd=self.budget_usd,
            budget_tokens=self.budget_tokens,
            prices=self.prices,
            batch=self.batch,
        )


def _world_and_tasks(wanted: _Wanted) -> tuple[World, list[Task]]:
    from cacherl import wiring

    split = Split(wanted.split)
    if wanted.tools_file is None or wanted.tasks_file is None:
        world = wiring.world_of(WorldSection(name=wanted.world_name or ""))
        return world, world.tasks(split, count=wanted.limit or wanted.count, seed=wanted.seed)
    world = wiring.toolbox_world(wanted.tools_file)
    every = wiring.written_tasks(wanted.tasks_file, world)
    tasks = [task for task in every if task.split is split]
    if not tasks:
        there = ", ".join(sorted({task.split.value for task in every})) or "none at all"
        raise RecipeError(
            f"{wanted.tasks_file}: no tasks of split {split.value} ({there}). "
            "Name another with --split."
        )
    if len(tasks) < len(every):
        others = Counter(task.split.value for task in every if task.split is not split)
        click.echo(
            f"! {len(every) - len(tasks)} of {len(every)} tasks are left out: they are not of split "
            f"{split.value} ({_counts(others)}). Record them into a folder of their own (--split)"
            + (', or write "split": "train" on those to learn from.' if len(every) < _FEW else "."),
            err=True,
        )
    return world, tasks[: wanted.limit]


def _teacher(wanted: _Wanted, folder: DataFolder) -> tuple[ChatModel, EndpointChat | None]:
    from cacherl import wiring

    if wanted.teacher == "expert":
        return wiring.EXPERTS[wanted.world_name or ""](_DETOUR, wanted.seed), None
    paid = wiring.paid_model(
        wanted.teacher, journal=folder.journal, options=wanted.teacher_options(), purpose="record"
    )
    return paid, paid


class Outcome(Record, frozen=True, kw_only=True):
    """What the command prints with --json."""

    summary: FolderSummary
    ledger: Ledger | None
    """What the teacher cost, over all runs."""
    tools: ToolboxReport | None
    """How the live tools held, in this run."""
    warnings: tuple[str, ...] = ()


async def _record(
    wanted: _Wanted, folder: DataFolder, world: World, tasks: Sequence[Task], plan: Plan
) -> Outcome:
    from cacherl.record.folder import record_folder

    # What was really said stands in there, also with --redact.
    folder.journal.mkdir(mode=0o700, parents=True, exist_ok=True)
    model, paid = _teacher(wanted, folder)
    for notice in () if paid is None else paid.notices:
        click.echo(f"! {notice}", err=True)
    with _screen(wanted, paid) as screen:
        ticker = asyncio.create_task(_ticking(screen))
        try:
            summary = await record_folder(
                folder,
                model,
                world,
                tasks,
                plan,
                on_trajectory=lambda task, trajectory: screen.ended(trajectory),
                on_progress=screen.progress,
            )
        finally:
            ticker.cancel()
            if paid is not None:
                paid.ledger().write(folder.ledger)
                await paid.aclose()
    ledger = None if paid is None else paid.ledger()
    return Outcome(
        summary=summary,
        ledger=ledger,
        tools=_report(world),
        warnings=_warnings(world, plan, summary.run.episodes),
    )


def _warnings(world: World, plan: Plan, episodes: int) -> tuple[str, ...]:
    from cacherl.cache.identity.normalise import is_writer

    at_once = min(plan.concurrency, episodes)
    if world.resets or at_once < 2 or not any(is_writer(spec.effects) for spec in world.specs):
        return ()
    return (
        f"{at_once} episodes at once acted on one state (resets = false), and the cache knows what an episode "
        "wrote itself, not what others did: recorded answers may contradict each other. Give each a fresh "
        "state (resets = true) or a {scenario} of its own; --concurrency 1 keeps out only what is written "
        "meanwhile.",
    )


def _report(world: World) -> ToolboxReport | None:
    from cacherl.toolbox.world import ToolboxWorld

    return world.report() if isinstance(world, ToolboxWorld) else None


# ---- while it runs -----------------------------------------------------------------------------


class _Screen(Protocol):
    def ended(self, trajectory: Trajectory) -> None: ...

    def progress(self, done: int, total: int) -> None: ...

    def tick(self) -> None: ...


async def _ticking(screen: _Screen) -> None:
    while True:
        await asyncio.sleep(_TICK_S)
        screen.tick()


class _Facts:
    """Dollars so far and errors by kind."""

    def __init__(self, paid: EndpointChat | None, budget: float | None) -> None:
        self._paid, self._budget = paid, budget
        self._tools: Counter[str] = Counter()

    def count(self, trajectory: Trajectory) -> None:
        from cacherl.record.stage import tool_errors

        self._tools.update(tool_errors(trajectory))

    def now(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"tool_errors": dict(sorted(self._tools.items()))}
        if self._paid is not None:
            total = self._paid.ledger().total
            facts["dollars"] = total.dollars
            facts["model_errors"] = total.failures
        return facts

    def line(self) -> str:
        facts = self.now()
        said = []
        if self._paid is not None:
            dollars = facts["dollars"]
            spent = "price unknown" if dollars is None else f"${dollars:.2f}"
            said.append(spent + (f" of ${self._budget:g}" if self._budget else ""))
        said += [f"{kind} {count}" for kind, count in facts.get("model_errors", {}).items()]
        said += [f"tool {kind} {count}" for kind, count in facts["tool_errors"].items()]
        return ", ".join(said)


class _Bar:
    """For a person: one bar; in a log file a line every ten seconds."""

    def __init__(self, facts: _Facts, bars: Progress, console: Console) -> None:
        self._facts, self._bars, self._console = facts, bars, console
        self._bar = bars.add_task("record", total=None, facts="")
        self._done, self._total, self._printed = 0, 0, time.monotonic()

    def ended(self, trajectory: Trajectory) -> None:
        self._facts.count(trajectory)

    def progress(self, done: int, total: int) -> None:
        self._done, self._total = done, total
        self.tick()

    def tick(self) -> None:
        facts = self._facts.line()
        self._bars.update(
            self._bar, completed=self._done, total=self._total or None, facts=escape(facts)
        )
        due = time.monotonic() - self._printed > _LOG_EVERY_S
        if not self._console.is_terminal and (due or 0 < self._total == self._done):
            self._printed = time.monotonic()
            click.echo(f"  record {self._done}/{self._total} {facts}".rstrip(), err=True)


class _Lines:
    """For machines: one JSON object a line on standard error, one a second at most."""

    def __init__(self, facts: _Facts) -> None:
        self._facts = facts
        self._told = 0.0

    def ended(self, trajectory: Trajectory) -> None:
        self._facts.count(trajectory)

    def progress(self, done: int, total: int) -> None:
        if done < total and time.monotonic() - self._told < 1:
            return
        self._told = time.monotonic()
        said = {"done": done, "total": total, **self._facts.now()}
        click.echo(msgspec.json.encode(said).decode(), err=True)

    def tick(self) -> None:
        """Episodes are told as they end."""


@contextlib.contextmanager
def _screen(wanted: _Wanted, paid: EndpointChat | None) -> Iterator[_Screen]:
    facts = _Facts(paid, wanted.budget_usd)
    if wanted.json_out:
        yield _Lines(facts)
        return
    console = Console(stderr=True, highlight=False)
    with draw_bars(console, transient=True) as bars:
        yield _Bar(facts, bars, console)


# ---- before and after --------------------------------------------------------------------------


class Planned(Record, frozen=True, kw_only=True):
    """What --dry-run prints with --json."""

    out: str
    teacher: str
    tasks: int
    episodes: int
    """Still to be recorded."""
    on_file: int
    tools: tuple[str, ...]
    writers: tuple[str, ...]
    likely_tokens: int
    most_tokens: int
    likely_dollars: float | None
    """None where no price is known, or nothing is paid."""
    most_dollars: float | None
    prices: str | None
    """Where the price comes from, and of when it is."""
    within_budget: int | None
    """About how many of the episodes the rest of the budget pays for; None without one."""
    missing_key: str | None
    """The environment variable that the teacher's key is read from, if it is not set."""
    basis: str


def _planned(wanted: _Wanted, world: World, tasks: Sequence[Task], plan: Plan) -> Planned:
    from cacherl import wiring
    from cacherl.cache.identity.normalise import is_writer
    from cacherl.record.estimate import Tokens, episodes_within, estimate
    from cacherl.record.folder import holdings, read_manifest
    from cacherl.record.stage import settled, still_to_record
    from cacherl.teacher.prices import NANO, PriceTable, TokensUsed

    folder = DataFolder(wanted.out)
    begun = read_manifest(folder, plan, world) is not None and folder.trajectories.exists()
    on_file = (
        settled(folder.trajectories, retry_refused=plan.retry_refused) if begun else frozenset()
    )
    left = still_to_record(tasks, plan.best_of, on_file)
    held = holdings(folder) if begun else None
    guess = estimate(left, plan.limits, held)
    prices = PriceTable.read(wanted.prices, folder.journal)

    def dollars(tokens: Tokens) -> float | None:
        from datetime import UTC, datetime

        nano = prices.nanodollars(
            wanted.teacher,
            TokensUsed(prompt=tokens.prompt, completion=tokens.completion),
            at=datetime.now(UTC),
            batched=wanted.batch,
        )
        return None if nano is None else nano / NANO

    is_paid = wanted.teacher != "expert"
    spent_dollars, spent_tokens = _spent(folder)

    def within(
        budget: float | None, spent: float, count: Callable[[Tokens], float | None]
    ) -> list[int]:
        likely, request = count(guess.likely), count(guess.request)
        if budget is None or likely is None or request is None:
            return []
        return [episodes_within(budget - spent, likely=likely, episodes=len(left), request=request)]

    covered = within(wanted.budget_usd, spent_dollars, dollars)
    covered += within(wanted.budget_tokens, spent_tokens, lambda t: t.prompt + t.completion)
    return Planned(
        out=str(wanted.out),
        teacher=wanted.teacher,
        tasks=len(tasks),
        episodes=len(left),
        on_file=len(tasks) * plan.best_of - len(left),
        tools=tuple(spec.name for spec in world.specs),
        writers=tuple(spec.name for spec in world.specs if is_writer(spec.effects)),
        likely_tokens=guess.likely.prompt + guess.likely.completion,
        most_tokens=guess.most.prompt + guess.most.completion,
        likely_dollars=dollars(guess.likely) if is_paid else None,
        most_dollars=dollars(guess.most) if is_paid else None,
        prices=prices.source(wanted.teacher) if is_paid else None,
        within_budget=min(covered) if is_paid and covered else None,
        missing_key=wiring.missing_key(wanted.teacher) if is_paid else None,
        basis=guess.basis,
    )


def _spent(folder: DataFolder) -> tuple[float, int]:
    """Return the dollars and tokens that earlier runs on the folder spent, or may have spent."""
    from cacherl.teacher.ledger import Ledger

    if not folder.ledger.exists():
        return 0.0, 0
    total = msgspec.json.decode(folder.ledger.read_bytes(), type=Ledger).total
    return (
        (total.dollars or 0.0) + (total.may_cost_dollars or 0.0),
        total.prompt_tokens + total.completion_tokens + total.may_cost_tokens,
    )


def _tell_plan(wanted: _Wanted, world: World, tasks: Sequence[Task], plan: Plan) -> None:
    planned = _planned(wanted, world, tasks, plan)
    if wanted.json_out:
        click.echo(as_json(planned))
        return
    resets = (
        "every episode starts on a fresh state"
        if world.resets
        else "they act for real: no state is reset between episodes"
    )
    click.echo(
        f"{_count(planned.episodes, 'episode')} to record "
        f"({_count(planned.tasks, f'{wanted.split} task')}, {plan.best_of} each; {planned.on_file} on file) into {planned.out}"
    )
    click.echo(
        f"{len(planned.tools)} tools, {len(planned.writers)} that write "
        f"({', '.join(planned.writers) or 'none'}); {resets}"
    )
    if wanted.teacher != "expert":
        click.echo(
            f"About {planned.likely_tokens:,} tokens (from {planned.basis}), "
            f"at most {planned.most_tokens:,}"
        )
    if planned.likely_dollars is not None and planned.most_dollars is not None:
        click.echo(
            f"About ${planned.likely_dollars:.2f}, at most ${planned.most_dollars:.2f} "
            f"({planned.prices})"
        )
    elif wanted.teacher != "expert":
        click.echo(
            f"No price is known for {wanted.teacher}: name one with --prices, or set --budget-tokens"
        )
    if planned.within_budget is not None:
        dollars = "" if wanted.budget_usd is None else f"${wanted.budget_usd:g}"
        tokens = "" if wanted.budget_tokens is None else f"{wanted.budget_tokens:,} tokens"
        budget = " and ".join(filter(None, (dollars, tokens)))
        covers = f"about {planned.within_budget:,} of {_count(planned.episodes, 'episode')}"
        if planned.within_budget == 0 < planned.episodes:
            covers = "not one episode: each request needs room for its longest answer, so raise it "
            covers += f"or lower --max-turn-tokens ({wanted.max_turn_tokens:,})"
        click.echo(f"The budget of {budget}, over all runs, covers {covers}")
    if planned.missing_key is not None:
        click.echo(f"! ${planned.missing_key} is not set here: {wanted.teacher} needs its key.")
    click.echo("Nothing was called. Leave --dry-run out to record.")


def _tell(folder: DataFolder, outcome: Outcome) -> None:
    run, held = outcome.summary.run, outcome.summary.folder
    more = f", {run.retried} of them once more after a failure" if run.retried else ""
    click.echo(
        f"Recorded {_count(run.episodes, 'episode')}{more}; {run.skipped} were there. "
        f"{folder.root} holds {_count(held.episodes, 'episode')} of {_count(held.tasks, 'task')}."
    )
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in _rows(outcome):
        table.add_row(name, escape(value))
    Console(highlight=False).print(table)
    if held.failed:
        again = held.failed - held.refused
        click.echo(
            f"Failed: {_count(again, 'episode')}, which the same command records again, and "
            f"{held.refused} that the teacher refused (--retry-refused asks again)"
        )
    for warning in outcome.warnings:
        click.echo(f"! {warning}")
    if held.episodes == held.failed:
        click.echo("Nothing is recorded yet; the same command, mended, begins anew.")
        return
    click.echo(f"Next: cacherl augment {folder.root}")
    click.echo(f"      cacherl cache stats {folder.cache}")


def _rows(outcome: Outcome) -> list[tuple[str, str]]:
    run, ledger, tools = outcome.summary.run, outcome.ledger, outcome.tools
    rows = []
    if run.episodes or run.cut_short:
        rows += [
            ("this run:", ""),
            ("episodes", _counts(run.stops)),
            ("live calls", f"{run.live_calls:,}"),
            ("tool errors", _counts(run.tool_errors)),
            ("model errors", _counts(run.model_errors)),
            ("tokens", f"{run.prompt_tokens:,} read, {run.completion_tokens:,} written"),
        ]
        if tools is not None:
            rows.append(("tool restarts", _counts(tools.restarts)))
        rows.append(("time", f"{run.wall_s:.0f} s"))
    if ledger is not None:
        rows += [
            ("all runs:", ""),
            ("requests", told_requests(ledger)),
            ("dollars", told_dollars(ledger)),
        ]
    return rows


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "none"
