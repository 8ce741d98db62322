"""The agent that does nothing: the floor of any suite."""

from __future__ import annotations

from cacherl.core.messages import AssistantMessage
from cacherl.suites.gold_player import GoldPlayer


def nothing() -> GoldPlayer:
    """Return a model that meets every user turn with an empty answer."""
    return GoldPlayer(lambda task: [AssistantMessage()] * len(task.user_turns), name="nothing")
