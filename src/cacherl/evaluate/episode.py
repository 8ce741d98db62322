"""One episode of an evaluation: the model's doing, or the infrastructure's."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import msgspec

from cacherl.agent import run_episode
from cacherl.core.errors import ModelError, ToolError
from cacherl.core.models import ChatModel, Limits
from cacherl.core.records import Record
from cacherl.core.tasks import Task
from cacherl.core.tools import ErrorClass, Tier, Tools
from cacherl.core.trajectories import StopReason, Trajectory
from cacherl.core.worlds import WorldTools
from cacherl.reward.hybrid import INFRASTRUCTURE
from cacherl.rollout import episode_seed


class NotScored(Record, frozen=True, kw_only=True):
    """An episode that the infrastructure ended. It says nothing about the model."""

    task_id: str
    trial: int = 0
    stop: StopReason
    error: str
    kind: str | None = None
    """Why, in a word (`teacher.failure.Failure`), where that is known."""


def unreached_calls(trajectory: Trajectory) -> int:
    """Return how many live calls met a tool that could not be reached, or failed for the moment."""
    return sum(
        each.tier is Tier.LIVE and each.error_class is ErrorClass.TRANSIENT
        for each in trajectory.results
    )


async def play(
    model: ChatModel,
    task: Task,
    open_tools: Callable[[], Tools],
    *,
    limits: Limits,
    seed: int,
    trial: int = 0,
) -> Trajectory | NotScored:
    """Play a task once, on fresh tools.

    The sampling seed depends on `seed`, the task and the trial alone: a subset of tasks scores as it
    does within the whole, and two kinds of tools meet the same draws.

    Raises:
        CacheRLError: what ends the whole run: a spent budget, a cache that cannot be read.
    """
    try:
        tools = open_tools()
    except (ToolError, OSError) as error:
        return NotScored(
            task_id=task.id, trial=trial, stop=StopReason.TOOLS_FAILED, error=str(error)
        )
    try:
        trajectory = await run_episode(
            model,
            tools,
            task,
            limits=limits,
            seed=episode_seed(seed, task.id, trial),
            rollout=trial,
        )
        if trajectory.stop in INFRASTRUCTURE:
            return NotScored(
                task_id=task.id,
                trial=trial,
                stop=trajectory.stop,
                error=str(trajectory.notes.get("error", "")),
                kind=trajectory.notes.get("error_kind"),
            )
        # Replayed tools stand on no state; whether tools have one is what the method says.
        if hasattr(tools, "fingerprint"):
            # Tools that cannot tell their state give an empty word, which equals no state.
            state = cast(WorldTools, tools).fingerprint() or None
            trajectory = msgspec.structs.replace(trajectory, final_state=state)
        return trajectory
    except (ModelError, ToolError, OSError) as error:
        # Before its first turn a model may fail to open a conversation; after the last, a world
        # may be gone before it shows its state. Neither is the model's doing.
        stop = StopReason.MODEL_FAILED if isinstance(error, ModelError) else StopReason.TOOLS_FAILED
        return NotScored(task_id=task.id, trial=trial, stop=stop, error=str(error))
    finally:
        await tools.aclose()
