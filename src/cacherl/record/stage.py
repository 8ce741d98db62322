"""Record: run a policy on live tools and keep every episode.

Tasks and a world in, a file of trajectories out. This is the only stage before evaluation that
touches live tools; `RecordSummary.live_calls` says how often.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from pathlib import Path

import msgspec

from cacherl.agent import run_episode
from cacherl.core.bounded import run_bounded
from cacherl.core.errors import BudgetError, CacheRLError, ModelError, RecipeError, ToolError
from cacherl.core.jsonl import JsonlAppender, read_jsonl, write_jsonl
from cacherl.core.messages import (
    AssistantMessage,
    MalformedCall,
    SystemMessage,
    ToolCall,
    UserMessage,
)
from cacherl.core.models import ChatModel, Limits
from cacherl.core.records import Record
from cacherl.core.tasks import Task
from cacherl.core.tools import ToolResult
from cacherl.core.trajectories import StopReason, Trajectory
from cacherl.core.worlds import World, WorldTools
from cacherl.record.live_calls import LiveCalls
from cacherl.teacher.failure import FATAL, Failure

INFRASTRUCTURE = (StopReason.MODEL_FAILED, StopReason.TOOLS_FAILED)
"""Stops that say nothing about the policy; a later run records these episodes again, but for those
that the teacher refuses."""

OnTrajectory = Callable[[Task, Trajectory], None]
OnProgress = Callable[[int, int], None]
"""Called with (episodes done, episodes in all), those of earlier runs included."""


class RecordSummary(Record, frozen=True, kw_only=True):
    """What one run of `record` did."""

    episodes: int
    """Episodes written by this run."""
    skipped: int
    """Episodes that were already on file."""
    retried: int
    """Episodes on file as an infrastructure failure, taken out and run again."""
    left: int = 0
    """Episodes still to be recorded: the budget was spent before."""
    cut_short: int = 0
    """Of these, episodes that had begun; they go on where they were stopped."""
    out_of_budget: str | None = None
    """What was spent and the next command, where the budget ended the run."""
    live_calls: int
    """Calls that reached a live tool in this run, those of failed episodes included."""
    stops: dict[str, int]
    """Episodes of this run by `StopReason`."""
    tool_errors: dict[str, int]
    """Tool results of this run that were errors, by `ErrorClass` (`unclassed` where none is known)."""
    model_errors: dict[str, int] = {}
    """What went wrong with the model in this run, by kind: malformed calls, and why episodes failed."""
    prompt_tokens: int
    completion_tokens: int
    wall_s: float


class _CountedTools:
    """The world's tools, counting what reaches them."""

    def __init__(self, tools: WorldTools, tally: _Tally) -> None:
        self._tools, self._tally = tools, tally

    async def call(self, call: ToolCall) -> ToolResult:
        self._tally.live_calls += 1
        return await self._tools.call(call)

    async def aclose(self) -> None:
        await self._tools.aclose()

    def fingerprint(self) -> str:
        return self._tools.fingerprint()


async def record(
    model: ChatModel,
    world: World,
    tasks: Sequence[Task],
    *,
    limits: Limits,
    seed: int,
    out: Path,
    concurrency: int = 4,
    best_of: int = 1,
    live_calls: Path | None = None,
    as_kept: Callable[[Trajectory], Trajectory] | None = None,
    on_trajectory: OnTrajectory | None = None,
    on_progress: OnProgress | None = None,
    give_up_after: int = 8,
    retry_refused: bool = False,
) -> RecordSummary:
    """Run `best_of` episodes of every task on live tools and append them to `out`.

    Can be stopped at any point and started again: pairs of task and rollout that are on file are
    skipped, a torn last line is cut off, and episodes that ended in an infrastructure failure are run
    again; those whose task the teacher refuses stay as they are unless `retry_refused`. A failing
    episode is itself on record and stops nothing. Where the world does not reset, an
    episode that was cut short goes on from its file of live calls and repeats none that ran.

    When the budget is spent no new episode begins, those under way go on until they are refused too,
    and the summary says so (`out_of_budget`); what they bought is in the teacher's journal.

    Args:
        model: the policy.
        world: the live tools.
        tasks: what to solve; ids are unique.
        limits: the bounds of each episode.
        seed: gives each episode its seed, by `episode_seed`.
        out: the file of trajectories.
        concurrency: episodes under way at once.
        best_of: rollouts of each task; `select` keeps the best.
        live_calls: where the calls of a world that does not reset are written down; beside `out`
            unless told. A world that resets needs none: its calls are made again on a fresh state.
        as_kept: what is written in place of an episode (redaction, a time); None writes it as it is.
        on_trajectory: called with each finished episode once it is on file, in the order of the file.
            It is not called again if the process dies before or within it: what it keeps must be
            brought level with the file at the next start (`CacheOfFile`).
        on_progress: called before the first episode and after each.
        give_up_after: infrastructure failures in a row, with no success between them, after which
            nothing is to be hoped for. A wrong key and an account without money end the run at once.
        retry_refused: record episodes again that the teacher refused.

    Raises:
        RecipeError: `out` holds episodes of another policy or seed.
        DataError: a line of `out` or of the live calls is damaged.
        ModelError: the model failed `give_up_after` times in a row, or for good.
        ToolError: the tools did.
    """
    started = time.perf_counter()
    on_file, retried = _resume(out, policy=model.name, seed=seed, retry_refused=retry_refused)
    missing = still_to_record(tasks, best_of, on_file)
    wanted = len(tasks) * best_of
    tally = _Tally()
    done = wanted - len(missing)
    if on_progress is not None:
        on_progress(done, wanted)

    def while_allowed() -> Iterator[tuple[Task, int]]:
        for pair in missing:
            if tally.out_of_budget is not None:
                return
            yield pair

    async def one(pair: tuple[Task, int]) -> None:
        nonlocal done
        task, rollout = pair
        try:
            trajectory = await _episode(
                model, world, task, memory, tally, limits=limits, seed=seed, rollout=rollout
            )
        except BudgetError as error:
            tally.cut_short += 1
            tally.out_of_budget = str(error)
            return
        # No await from here on: what is counted, written and hooked is one step for other episodes.
        if as_kept is not None:
            trajectory = as_kept(trajectory)
        tally.add(trajectory)
        file.append(trajectory)
        if on_trajectory is not None:
            on_trajectory(task, trajectory)
        done += 1
        if on_progress is not None:
            on_progress(done, wanted)
        if tally.failures_in_a_row >= give_up_after or _is_hopeless(trajectory):
            raise _given_up(trajectory, tally.failures_in_a_row, out)

    with contextlib.ExitStack() as files:
        memory = None
        if not world.resets:
            path = live_calls or out.with_name("live_calls.jsonl")
            memory = files.enter_context(LiveCalls(path, without=on_file))
        file = files.enter_context(JsonlAppender(out))
        await run_bounded(while_allowed(), one, concurrency=concurrency)

    return RecordSummary(
        episodes=sum(tally.stops.values()),
        skipped=wanted - len(missing),
        retried=retried,
        left=wanted - done,
        cut_short=tally.cut_short,
        out_of_budget=tally.out_of_budget,
        live_calls=tally.live_calls,
        stops=dict(sorted(tally.stops.items())),
        tool_errors=dict(sorted(tally.tool_errors.items())),
        model_errors=dict(sorted(tally.model_errors.items())),
        prompt_tokens=tally.prompt_tokens,
        completion_tokens=tally.completion_tokens,
        wall_s=time.perf_counter() - started,
    )


class _Tally:
    """What has come of a run so far."""

    def __init__(self) -> None:
        self.stops: Counter[str] = Counter()
        self.tool_errors: Counter[str] = Counter()
        self.model_errors: Counter[str] = Counter()
        self.live_calls = self.prompt_tokens = self.completion_tokens = 0
        self.failures_in_a_row = self.cut_short = 0
        self.out_of_budget: str | None = None

    def add(self, trajectory: Trajectory) -> None:
        self.stops[trajectory.stop.value] += 1
        self.tool_errors.update(tool_errors(trajectory))
        self.model_errors.update(model_errors(trajectory))
        self.prompt_tokens += trajectory.usage.prompt_tokens
        self.completion_tokens += trajectory.usage.completion_tokens
        self.failures_in_a_row = self.failures_in_a_row + 1 if is_failure(trajectory) else 0


def is_failure(trajectory: Trajectory) -> bool:
    """Say whether model or tools failed: the episode says nothing about the policy."""
    return trajectory.stop in INFRASTRUCTURE


def is_refused(trajectory: Trajectory) -> bool:
    """Say whether the teacher turned the request itself away: the same one will be refused again."""
    return is_failure(trajectory) and trajectory.notes.get("error_kind") == Failure.REFUSED


def tool_errors(trajectory: Trajectory) -> list[str]:
    """Return the classes of the tool errors in an episode, one an error."""
    return [str(each.error_class or "unclassed") for each in trajectory.results if each.is_error]


def model_errors(trajectory: Trajectory) -> list[str]:
    """Return what went wrong with the model in an episode: malformed calls, and why it failed."""
    found = [
        "malformed_call"
        for message in trajectory.messages
        if isinstance(message, AssistantMessage)
        for call in message.calls
        if isinstance(call, MalformedCall)
    ]
    if trajectory.stop is StopReason.MODEL_FAILED:
        found.append(str(trajectory.notes.get("error_kind") or "unclassed"))
    return found


def episode_seed(seed: int, rollout: int) -> int:
    """Return the seed of one rollout: the run's own for the first, far apart for the others.

    A policy that draws from the seed alone would otherwise solve a task `best_of` times the same way.
    """
    return seed + 1_000_003 * rollout


async def _episode(
    model: ChatModel,
    world: World,
    task: Task,
    memory: LiveCalls | None,
    tally: _Tally,
    *,
    limits: Limits,
    seed: int,
    rollout: int,
) -> Trajectory:
    """Return the episode with its final state; `tally` counts the calls that reached live tools."""
    try:
        live = _CountedTools(world.open(task.scenario), tally)
        tools = live if memory is None else memory.tools(live, task, rollout)
        try:
            trajectory = await run_episode(
                model,
                tools,
                task,
                limits=limits,
                seed=episode_seed(seed, rollout),
                rollout=rollout,
            )
            state = trajectory.final_state or tools.fingerprint() or None
        finally:
            await tools.aclose()
        return _with_state(trajectory, state)
    except BudgetError:
        raise
    except CacheRLError as error:
        stop = StopReason.MODEL_FAILED if isinstance(error, ModelError) else StopReason.TOOLS_FAILED
        return Trajectory(
            task_id=task.id,
            policy=model.name,
            seed=episode_seed(seed, rollout),
            rollout=rollout,
            messages=(
                SystemMessage(content=task.system),
                *(UserMessage(content=turn) for turn in task.user_turns[:1]),
            ),
            results=(),
            stop=stop,
            notes={"error": str(error)},
        )


def _with_state(trajectory: Trajectory, state: str | None) -> Trajectory:
    if state == trajectory.final_state:
        return trajectory
    return msgspec.structs.replace(trajectory, final_state=state)


def is_retried(trajectory: Trajectory, *, retry_refused: bool) -> bool:
    """Say whether the next run takes this episode out of the file and records it again."""
    return is_failure(trajectory) and (retry_refused or not is_refused(trajectory))


def still_to_record(
    tasks: Sequence[Task], best_of: int, on_file: Container[tuple[str, int]]
) -> list[tuple[Task, int]]:
    """Return task and rollout of each episode that is not on file, in the order of recording."""
    wanted = [(task, rollout) for task in tasks for rollout in range(best_of)]
    return [pair for pair in wanted if (pair[0].id, pair[1]) not in on_file]


def settled(out: Path, *, retry_refused: bool) -> set[tuple[str, int]]:
    """Return the episodes on file that need no new run, as pairs of task id and rollout."""
    if not out.exists():
        return set()
    return {
        (trajectory.task_id, trajectory.rollout)
        for trajectory in read_jsonl(out, Trajectory, drop_torn_tail=True)
        if not is_retried(trajectory, retry_refused=retry_refused)
    }


def _resume(
    out: Path, *, policy: str, seed: int, retry_refused: bool
) -> tuple[set[tuple[str, int]], int]:
    """Return the pairs that need no new run, and how many failed ones were taken out of the file."""
    if not out.exists():
        return set(), 0
    failed = 0
    for trajectory in read_jsonl(out, Trajectory, drop_torn_tail=True):
        wanted = episode_seed(seed, trajectory.rollout)
        if trajectory.policy != policy or trajectory.seed != wanted:
            raise RecipeError(
                f"{out} holds rollout {trajectory.rollout} of {trajectory.policy!r} with seed {trajectory.seed}, "
                f"and this run's would be of {policy!r} with seed {wanted}. "
                "Name another file, or move this one away."
            )
        failed += is_retried(trajectory, retry_refused=retry_refused)
    if failed:
        kept = read_jsonl(out, Trajectory, drop_torn_tail=True)
        write_jsonl(
            out, (each for each in kept if not is_retried(each, retry_refused=retry_refused))
        )
    return settled(out, retry_refused=retry_refused), failed


def _is_hopeless(trajectory: Trajectory) -> bool:
    return is_failure(trajectory) and trajectory.notes.get("error_kind") in FATAL


def _given_up(last: Trajectory, failures: int, out: Path) -> CacheRLError:
    kind = ModelError if last.stop is StopReason.MODEL_FAILED else ToolError
    seen = str(last.notes.get("error") or last.stop)
    which = "An episode" if failures == 1 else f"{failures} episodes in a row"
    return kind(
        f"{which} failed, the last ({last.task_id}) with: {seen} "
        f"What was recorded is in {out}; run the same command again to go on."
    )
