"""What reinforcement learning starts from: a task's opening, and beside it what a right outcome is."""

from __future__ import annotations

import msgspec

from cacherl.core.messages import SystemMessage, UserMessage
from cacherl.core.tasks import Task


def opening(task: Task) -> tuple[SystemMessage | UserMessage, ...]:
    """Return what the model is told before its first turn. Nothing of the gold is in it."""
    system = (SystemMessage(content=task.system),) if task.system else ()
    return (*system, UserMessage(content=task.user_turns[0]))


def ground_truth(task: Task) -> str:
    """Return the task's gold as JSON text for a reward function; empty where it has none."""
    return "" if task.gold is None else msgspec.json.encode(task.gold).decode()
