"""G rollouts a task, all at once, on whatever tools the caller opens (in training: the cache).

All episodes of a batch run as asyncio tasks of one loop, so that an engine which batches sees every
conversation that is ready for its next turn.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Sequence

from cacherl.agent import run_episode
from cacherl.core.models import ChatModel, Limits
from cacherl.core.records import Record
from cacherl.core.tasks import Task
from cacherl.core.tools import Tier, ToolResult, Tools
from cacherl.core.trajectories import Trajectory
from cacherl.reward.answer import Judge
from cacherl.reward.hybrid import (
    INFRASTRUCTURE,
    PAPER_ALPHAS,
    Alphas,
    HybridReward,
    TrustBy,
    reward_of,
    tier_of,
)
from cacherl.reward.process import DEFAULT_WEIGHTS, ProcessWeights

OpenTools = Callable[[Task, int, int], Tools]
"""(task, seed, rollout) -> fresh tools of one episode. The seed is the group's: a replay draws its
observations from (seed, rollout), never from the order in which episodes happen to run."""


class Ledger(Record, frozen=True, kw_only=True):
    """Where the observations of one episode came from."""

    worst: Tier
    """LIVE for an episode without calls: nothing untrue was seen."""
    tiers: dict[Tier, int]
    """Calls by tier; tiers that did not occur are absent."""
    errors: int
    """Calls answered with an error, refusals of the loop included."""
    live_calls: int
    """Calls for which a tool itself ran. 0 in training on a cache."""


class Rollout(Record, frozen=True, kw_only=True):
    """One episode with its reward and its ledger."""

    trajectory: Trajectory
    reward: HybridReward | None
    """None where the episode ended by an infrastructure failure: it says nothing about the policy."""
    ledger: Ledger


def ledger_of(results: Sequence[ToolResult]) -> Ledger:
    """Return where the results came from."""
    tiers = Counter(result.tier for result in results)
    return Ledger(
        worst=tier_of(results),
        tiers=dict(tiers),
        errors=sum(result.is_error for result in results),
        live_calls=tiers[Tier.LIVE],
    )


def episode_seed(seed: int, task_id: str, rollout: int) -> int:
    """Return the sampling seed of one episode, in [0, 2^63); distinct for each rollout of a group."""
    text = f"{seed}\0{task_id}\0{rollout}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


async def rollout_group(
    model: ChatModel,
    task: Task,
    open_tools: OpenTools,
    *,
    group_size: int,
    limits: Limits,
    seed: int,
) -> list[Trajectory]:
    """Return `group_size` episodes of one task, in the order of their rollout index."""
    [group] = await rollout_batch(
        model, [task], open_tools, group_size=group_size, limits=limits, seed=seed
    )
    return group


async def rollout_batch(
    model: ChatModel,
    tasks: Sequence[Task],
    open_tools: OpenTools,
    *,
    group_size: int,
    limits: Limits,
    seed: int,
) -> list[list[Trajectory]]:
    """Return one group of episodes a task, in the order of the tasks; all episodes run at once.

    Failing models and tools end their own episode only (see `run_episode`).

    Raises:
        CacheRLError: `open_tools` could not open the tools of an episode; the others are cancelled.
    """

    async def episode(task: Task, rollout: int) -> Trajectory:
        tools = open_tools(task, seed, rollout)
        try:
            return await run_episode(
                model,
                tools,
                task,
                limits=limits,
                seed=episode_seed(seed, task.id, rollout),
                rollout=rollout,
            )
        finally:
            await tools.aclose()

    running = [
        asyncio.ensure_future(episode(task, rollout))
        for task in tasks
        for rollout in range(group_size)
    ]
    try:
        done = await asyncio.gather(*running)
    except BaseException:
        for one in running:
            one.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        raise
    return [done[start : start + group_size] for start in range(0, len(done), group_size)]


async def score_rollouts(
    tasks: Sequence[Task],
    groups: Sequence[Sequence[Trajectory]],
    *,
    judge: Judge | None = None,
    alphas: Alphas = PAPER_ALPHAS,
    weights: ProcessWeights = DEFAULT_WEIGHTS,
    trust: TrustBy = TrustBy.PAPER,
) -> list[list[Rollout]]:
    """Return the groups with rewards and ledgers.

    Args:
        tasks: one task a group.
        groups: the episodes.
        judge: scores the final answers, all at once; None scores by the tasks' own answer rules.
        alphas: the answer's share by worst tier.
        weights: the shares of the process's parts.
        trust: what the answer's share follows.
    """

    async def scored(task: Task, trajectory: Trajectory) -> Rollout:
        reward = None
        if trajectory.stop not in INFRASTRUCTURE:
            answer = await judge.score(task, trajectory) if judge else None
            reward = reward_of(
                task, trajectory, answer=answer, alphas=alphas, weights=weights, trust=trust
            )
        return Rollout(trajectory=trajectory, reward=reward, ledger=ledger_of(trajectory.results))

    return [
        list(await asyncio.gather(*(scored(task, one) for one in group)))
        for task, group in zip(tasks, groups, strict=True)
    ]
