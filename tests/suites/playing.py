"""Playing a task of a suite, as an evaluation does."""

from __future__ import annotations

import asyncio

import msgspec

from cacherl.agent import run_episode
from cacherl.core.models import ChatModel, Limits
from cacherl.core.suites import Suite, Verdict
from cacherl.core.tasks import Task
from cacherl.core.trajectories import Trajectory

LIMITS = Limits(max_turns=40, max_turn_tokens=1024, max_context_tokens=100_000)


def played(suite: Suite, task: Task, model: ChatModel, *, max_turns: int = 40) -> Trajectory:
    """Return one episode on fresh tools, stored and read again."""

    async def play() -> Trajectory:
        tools = suite.open(task)
        limits = Limits(max_turns=max_turns, max_turn_tokens=1024, max_context_tokens=100_000)
        try:
            made = await run_episode(model, tools, task, limits=limits)
            return msgspec.structs.replace(made, final_state=tools.fingerprint())
        finally:
            await tools.aclose()

    # Through a file: what a verdict needs must be in what is stored.
    return msgspec.json.decode(msgspec.json.encode(asyncio.run(play())), type=Trajectory)


def verdict(suite: Suite, task: Task, model: ChatModel, *, max_turns: int = 40) -> Verdict:
    """Return the verdict of one episode on fresh tools."""
    return suite.check(task, played(suite, task, model, max_turns=max_turns))
