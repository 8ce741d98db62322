"""Record: run a policy on live tools and keep every episode.

Tasks and a world in, a file of trajectories out. This is the only stage before evaluation that
touches live tools; `RecordSummary.live_calls` says how often.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from cacherl.agent import run_episode
from cacherl.core.bounded import run_bounded
from cacherl.core.errors import CacheRLError, ModelError, RecipeError, ToolError
from cacherl.core.jsonl import JsonlAppender, read_jsonl, write_jsonl
from cacherl.core.messages import SystemMessage, ToolCall, UserMessage
from cacherl.core.models import ChatModel, Limits
from cacherl.core.records import Record
from cacherl.core.tasks import Task
from cacherl.core.tools import ToolResult
from cacherl.core.trajectories import StopReason, Trajectory
from cacherl.core.worlds import World, WorldTools

INFRASTRUCTURE = (StopReason.MODEL_FAILED, StopReason.TOOLS_FAILED)
"""Stops that say nothing about the policy; a later run records these episodes again."""

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
    live_calls: int
    """Calls that reached a live tool in this run, those of failed episodes included."""
    stops: dict[str, int]
    """Episodes of this run by `StopReason`."""
    tool_errors: dict[str, int]
    """Tool results of this run that were errors, by `ErrorClass` (`unclassed` where none is known)."""
    prompt_tokens: int
    completion_tokens: int
    wall_s: float


class _CountedTools:
    """The world's tools, counting what reaches them."""

    def __init__(self, tools: WorldTools) -> None:
        self._tools = tools
        self.calls = 0

    async def call(self, call: ToolCall) -> ToolResult:
        self.calls += 1
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
    on_trajectory: OnTrajectory | None = None,
    on_progress: OnProgress | None = None,
    give_up_after: int = 8,
) -> RecordSummary:
    """Run `best_of` episodes of every task on live tools and append them to `out`.

    Can be stopped at any point and started again: pairs of task and rollout that are on file are
    skipped, a torn last line is cut off, and episodes that ended in an infrastructure failure are run
    again. A failing episode is itself on record and stops nothing.

    Args:
        model: the policy.
        world: the live tools.
        tasks: what to solve; ids are unique.
        limits: the bounds of each episode.
        seed: gives each episode its seed, by `episode_seed`.
        out: the file of trajectories.
        concurrency: episodes under way at once.
        best_of: rollouts of each task; `select` keeps the best.
        on_trajectory: called with each finished episode, in order of completion and before it is
            written: put it into the cache here. Called again if the process dies between the two.
        on_progress: called after each episode.
        give_up_after: infrastructure failures in a row, with no success between them, after which
            nothing is to be hoped for (a dead server, a wrong key).

    Raises:
        RecipeError: `out` holds episodes of another policy or seed.
        DataError: a line of `out` is damaged.
        ModelError: the model failed `give_up_after` times in a row.
        ToolError: the tools did.
    """
    started = time.perf_counter()
    on_file, retried = _resume(out, policy=model.name, seed=seed)
    wanted = [(task, rollout) for task in tasks for rollout in range(best_of)]
    missing = [pair for pair in wanted if (pair[0].id, pair[1]) not in on_file]
    stops: Counter[str] = Counter()
    tool_errors: Counter[str] = Counter()
    live_calls = prompt_tokens = completion_tokens = failures_in_a_row = 0
    done = len(wanted) - len(missing)

    with JsonlAppender(out) as file:

        async def one(pair: tuple[Task, int]) -> None:
            nonlocal live_calls, prompt_tokens, completion_tokens, failures_in_a_row, done
            task, rollout = pair
            trajectory, calls = await _episode(
                model, world, task, limits=limits, seed=seed, rollout=rollout
            )
            # No await from here on: what is counted, hooked and written is one step for other episodes.
            live_calls += calls
            stops[trajectory.stop.value] += 1
            tool_errors.update(
                str(result.error_class or "unclassed")
                for result in trajectory.results
                if result.is_error
            )
            prompt_tokens += trajectory.usage.prompt_tokens
            completion_tokens += trajectory.usage.completion_tokens
            if on_trajectory is not None:
                on_trajectory(task, trajectory)
            file.append(trajectory)
            done += 1
            if on_progress is not None:
                on_progress(done, len(wanted))
            if trajectory.stop not in INFRASTRUCTURE:
                failures_in_a_row = 0
                return
            failures_in_a_row += 1
            if failures_in_a_row >= give_up_after:
                raise _given_up(trajectory, failures_in_a_row, out)

        await run_bounded(missing, one, concurrency=concurrency)

    return RecordSummary(
        episodes=len(missing),
        skipped=len(wanted) - len(missing),
        retried=retried,
        live_calls=live_calls,
        stops=dict(sorted(stops.items())),
        tool_errors=dict(sorted(tool_errors.items())),
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        wall_s=time.perf_counter() - started,
    )


def episode_seed(seed: int, rollout: int) -> int:
    """Return the seed of one rollout: the run's own for the first, far apart for the others.

    A policy that draws from the seed alone would otherwise solve a task `best_of` times the same way.
    """
    return seed + 1_000_003 * rollout


async def _episode(
    model: ChatModel, world: World, task: Task, *, limits: Limits, seed: int, rollout: int
) -> tuple[Trajectory, int]:
    """Return the episode with its final state, and the calls that reached live tools."""
    calls = 0
    try:
        tools = _CountedTools(world.open(task.scenario))
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
            calls = tools.calls
            await tools.aclose()
        return _with_state(trajectory, state), calls
    except CacheRLError as error:
        stop = StopReason.MODEL_FAILED if isinstance(error, ModelError) else StopReason.TOOLS_FAILED
        failed = Trajectory(
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
        return failed, calls


def _with_state(trajectory: Trajectory, state: str | None) -> Trajectory:
    if state == trajectory.final_state:
        return trajectory
    return msgspec.structs.replace(trajectory, final_state=state)


def _resume(out: Path, *, policy: str, seed: int) -> tuple[set[tuple[str, int]], int]:
    """Return the pairs that need no new run, and how many failed ones were taken out of the file."""
    if not out.exists():
        return set(), 0
    on_file: set[tuple[str, int]] = set()
    failed = 0
    for trajectory in read_jsonl(out, Trajectory, drop_torn_tail=True):
        wanted = episode_seed(seed, trajectory.rollout)
        if trajectory.policy != policy or trajectory.seed != wanted:
            raise RecipeError(
                f"{out} holds rollout {trajectory.rollout} of {trajectory.policy!r} with seed {trajectory.seed}, "
                f"and this run's would be of {policy!r} with seed {wanted}. "
                "Name another file, or move this one away."
            )
        if trajectory.stop in INFRASTRUCTURE:
            failed += 1
        else:
            on_file.add((trajectory.task_id, trajectory.rollout))
    if failed:
        write_jsonl(out, _sound(out))
    return on_file, failed


def _sound(path: Path) -> Iterator[Trajectory]:
    for trajectory in read_jsonl(path, Trajectory, drop_torn_tail=True):
        if trajectory.stop not in INFRASTRUCTURE:
            yield trajectory


def _given_up(last: Trajectory, failures: int, out: Path) -> CacheRLError:
    kind = ModelError if last.stop is StopReason.MODEL_FAILED else ToolError
    seen = str(last.notes.get("error") or last.stop)
    return kind(
        f"{failures} episodes in a row failed, the last ({last.task_id}) with: {seen} "
        f"What was recorded is in {out}; run the same command again to go on."
    )
