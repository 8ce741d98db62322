"""A `ChatModel` that says again what a recorded trajectory said."""

from __future__ import annotations

from collections.abc import Sequence

from cacherl.core.errors import ModelError
from cacherl.core.messages import AssistantMessage, Message
from cacherl.core.models import Limits, ModelTurn
from cacherl.core.tasks import Task
from cacherl.core.trajectories import TokenSegment, Trajectory


class RecordedModel:
    """Repeats the assistant turns of one trajectory, whatever it is answered."""

    def __init__(self, trajectory: Trajectory) -> None:
        self.name = trajectory.policy
        self._turns = [m for m in trajectory.messages if isinstance(m, AssistantMessage)]

    def start(self, task: Task, *, limits: Limits, seed: int) -> _Session:
        """Open the conversation from its first turn."""
        return _Session(self._turns)


class _Session:
    def __init__(self, turns: Sequence[AssistantMessage]) -> None:
        self._turns = iter(turns)

    async def reply(self, new: Sequence[Message]) -> ModelTurn:
        turn = next(self._turns, None)
        if turn is None:
            raise ModelError("the recorded conversation has no further turn. Record it to its end.")
        return ModelTurn(message=turn)

    def clip(self, text: str, max_tokens: int) -> str:
        """Show results whole: the recording was made with whatever was shown then."""
        return text

    def segments(self) -> tuple[TokenSegment, ...]:
        return ()

    def close(self) -> None:
        """Nothing is held."""
