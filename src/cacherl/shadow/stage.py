"""The run: every task on the cache with the world beside it, and on the world with the cache beside it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from cacherl.agent import run_episode
from cacherl.cache.episodes.episode import EpisodeOptions
from cacherl.cache.lookup.tool_cache import ToolCache
from cacherl.core.bounded import run_bounded
from cacherl.core.errors import BudgetError, ModelError, ToolError
from cacherl.core.jsonl import JsonlAppender
from cacherl.core.models import ChatModel, Limits
from cacherl.core.tasks import Task
from cacherl.core.trajectories import StopReason, Trajectory
from cacherl.core.worlds import WorldTools
from cacherl.metrics import score_episode
from cacherl.reward.hybrid import INFRASTRUCTURE
from cacherl.rollout import episode_seed
from cacherl.shadow.compared import Serve
from cacherl.shadow.rows import Leg, Line, Outage, Sample, ShadowFolder
from cacherl.shadow.tools import open_shadow

BOTH = (Serve.CACHED, Serve.LIVE)
GIVE_UP_AFTER = 8
"""Outages in a row on one side after which nothing is to be hoped for."""

OpenLive = Callable[[Task], WorldTools]
"""Opens fresh tools of the task's scenario."""
Score = Callable[[Task, Trajectory], dict[str, float]]
"""What an episode is worth, by metric, each in [0, 1]. Without `final_state` the episode's own results are
all there is to judge by, as in training on a cache."""


class OnLine(Protocol):
    """What the caller does with each episode: draw progress."""

    def __call__(self, line: Line) -> None:
        """See one line, once it is on file."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What one run did."""

    resumed: int
    """Episodes that earlier runs had played."""
    played: int
    outages: tuple[Outage, ...]
    """Of this run; the next one plays them again."""
    left: int
    """Episodes without a line, outages among them."""
    stopped: BudgetError | None = None
    """What ended the run before its end."""


def gold_score(task: Task, trajectory: Trajectory) -> dict[str, float]:
    """Return what an episode is worth by the task's gold; nothing where it has none."""
    if task.gold is None:
        return {}
    row = score_episode(task, trajectory)
    way = {} if row.process_accuracy is None else {"process_accuracy": row.process_accuracy}
    return way | {
        "end_to_end": float(row.end_to_end),
        "outcome_right": float(row.outcome_right),
        "answer_right": float(row.answer_right),
    }


async def shadow(
    model: ChatModel,
    tasks: Sequence[Task],
    open_live: OpenLive,
    cache: ToolCache,
    folder: ShadowFolder,
    *,
    limits: Limits,
    seed: int = 0,
    trials: int = 1,
    serve: Sequence[Serve] = BOTH,
    concurrency: int,
    score: Score = gold_score,
    may_write: bool = True,
    on_line: OnLine | None = None,
    give_up_after: int = GIVE_UP_AFTER,
    options: EpisodeOptions | None = None,
) -> Played:
    """Play what is not on file yet and append a line for each episode as it ends.

    Can be stopped anywhere and started again: episodes that have a line are not played. Both episodes of a
    pair get the same sampling seed, which depends on `seed`, the task and the trial alone. An episode that
    the infrastructure ends neither stops the others nor counts. When a budget is spent, `stopped` says so.

    Args:
        model: the policy.
        tasks: with ids of their own.
        open_live: opens the world.
        cache: the recordings, open to read.
        folder: begun with the plan of this run.
        limits: of each episode.
        seed: of sampling and of the cache's draws.
        trials: episodes of each task on each side.
        serve: which sides.
        concurrency: episodes under way at once.
        score: what an episode is worth.
        may_write: see `ShadowTools`.
        on_line: called after each line.
        give_up_after: so many outages in a row on one side end the run with the last one's error.
        options: how the cache answers; `seed` and `rollout` are set here.

    Raises:
        ModelError: the model failed again and again.
        ToolError: the tools did.
        CacheError: the cache cannot be read.
        DataError: the file is damaged.
    """
    done = folder.legs()
    wanted = [(task, trial, side) for task in tasks for trial in range(trials) for side in serve]
    missing = [each for each in wanted if _sample(*each) not in done]
    outages: list[Outage] = []
    in_a_row = dict.fromkeys(Serve, 0)
    stopped: list[BudgetError] = []

    said: EpisodeOptions = options or {}

    def drawn(trial: int) -> EpisodeOptions:
        return {**said, "seed": seed, "rollout": trial}

    with JsonlAppender(folder.rows) as file:

        async def one(each: tuple[Task, int, Serve]) -> None:
            if stopped:
                return
            task, trial, side = each
            try:
                line = await play(
                    model,
                    task,
                    open_live,
                    cache,
                    side,
                    limits=limits,
                    seed=seed,
                    trial=trial,
                    score=score,
                    may_write=may_write,
                    options=drawn(trial),
                )
            except BudgetError as error:
                stopped.append(error)
                return
            file.append(line)
            if isinstance(line, Outage):
                outages.append(line)
                in_a_row[side] += 1
                if in_a_row[side] >= give_up_after:
                    raise _given_up(line, in_a_row[side])
            else:
                in_a_row[side] = 0
            if on_line is not None:
                on_line(line)

        await run_bounded(missing, one, concurrency=concurrency)
    now = folder.legs()
    left = sum(_sample(*each) not in now for each in wanted)
    return Played(
        resumed=len(wanted) - len(missing),
        played=len(missing) - left,
        outages=tuple(outages),
        left=left,
        stopped=stopped[0] if stopped else None,
    )


async def play(
    model: ChatModel,
    task: Task,
    open_live: OpenLive,
    cache: ToolCache,
    serve: Serve,
    *,
    limits: Limits,
    seed: int,
    trial: int,
    score: Score,
    may_write: bool,
    options: EpisodeOptions,
) -> Line:
    """Play one task once, served by one side, on fresh tools.

    Raises:
        BudgetError: the budget is spent.
        CacheError: the cache cannot be read.
    """
    began = time.perf_counter()

    def outage(stop: StopReason, error: str) -> Outage:
        return Outage(task_id=task.id, trial=trial, serve=serve, stop=stop, error=error)

    try:
        live = open_live(task)
    except (ToolError, OSError) as error:
        return outage(StopReason.TOOLS_FAILED, str(error))
    tools = open_shadow(cache, task, live, serve=serve, may_write=may_write, options=options)
    try:
        episode = episode_seed(seed, task.id, trial)
        played = await run_episode(model, tools, task, limits=limits, seed=episode, rollout=trial)
        if played.stop in INFRASTRUCTURE:
            return outage(played.stop, str(played.notes.get("error", "")))
        state = tools.fingerprint() or None
        followed = not tools.broken and not any(
            each.failure and each.writes for each in tools.compared
        )
        # Stored without token ids: they are most of the bytes, and nothing here reads them.
        bare = msgspec.structs.replace(played, segments=(), final_state=None)
        seen = msgspec.structs.replace(bare, final_state=state)
        world = score(task, seen) if state is not None and followed else {}
        return Leg(
            task_id=task.id,
            trial=trial,
            serve=serve,
            split=task.split,
            family=task.family,
            scenario=task.scenario,
            trajectory=seen if followed else bare,
            compared=tuple(tools.compared),
            metrics=score(task, bare) if serve is Serve.CACHED or state is None else world,
            world=world,
            parted=tools.parted,
            wall_s=time.perf_counter() - began,
        )
    except (ModelError, ToolError, OSError) as error:
        stop = StopReason.MODEL_FAILED if isinstance(error, ModelError) else StopReason.TOOLS_FAILED
        return outage(stop, str(error))
    finally:
        await tools.aclose()


def _sample(task: Task, trial: int, serve: Serve) -> Sample:
    return task.id, trial, serve


def _given_up(last: Outage, count: int) -> ModelError | ToolError:
    kind = ModelError if last.stop is StopReason.MODEL_FAILED else ToolError
    return kind(
        f"{count} episodes in a row could not be played; the last, {last.task_id}: {last.error} "
        "What was played is kept: run the same command again once it works."
    )
