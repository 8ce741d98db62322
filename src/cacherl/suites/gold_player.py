"""A model that plays turns which are known beforehand: the ceiling of a suite."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cacherl.core.messages import AssistantMessage, Message
from cacherl.core.models import Limits, ModelTurn
from cacherl.core.tasks import Task
from cacherl.core.trajectories import TokenSegment

DONE = AssistantMessage(content="Done.")


class GoldPlayer:
    """Plays each task's own turns in their order (`ChatModel`), and then says that it is done.

    Args:
        turns_of: a task's turns, whatever the tools and the user say.
        name: what reports call it.
    """

    def __init__(
        self, turns_of: Callable[[Task], Sequence[AssistantMessage]], *, name: str = "gold"
    ) -> None:
        self.name = name
        self._turns_of = turns_of

    def start(self, task: Task, *, limits: Limits, seed: int) -> _Playing:
        return _Playing(self._turns_of(task))


class _Playing:
    def __init__(self, turns: Sequence[AssistantMessage]) -> None:
        self._left = list(turns)

    async def reply(self, new: Sequence[Message]) -> ModelTurn:
        return ModelTurn(message=self._left.pop(0) if self._left else DONE)

    def clip(self, text: str, max_tokens: int) -> str:
        return text

    def segments(self) -> tuple[TokenSegment, ...]:
        return ()

    def close(self) -> None:
        self._left = []
