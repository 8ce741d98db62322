"""The seam to whatever writes the assistant's turns: an expert, a checkpoint, a provider."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from cacherl.core.messages import AssistantMessage, Message
from cacherl.core.tasks import Task
from cacherl.core.trajectories import TokenSegment


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one episode."""

    max_turns: int = 8
    """Assistant turns, over all user turns."""
    max_turn_tokens: int = 256
    """Tokens the model may write in one turn."""
    max_context_tokens: int = 2048
    """Prompt and completion together."""
    max_result_tokens: int = 512
    """A tool result longer than this is cut, with a visible marker."""
    first_turn_min_tokens: int = 0
    """The model may not end its first turn before this many tokens (paper: 150). Never applied
    to later turns: there it causes over-chaining (arXiv:2606.14179, CacheAgentLoop)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTurn:
    """One assistant turn as the model produced it."""

    message: AssistantMessage
    truncated: bool = False
    """The token limit came before the end of the turn."""
    context_full: bool = False
    """The conversation no longer fits; `message` is empty."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    model_s: float = 0.0
    dollars: float | None = None
    """What a provider bills for it; None where nobody does, or no price is known."""
    kept: bool = False
    """It was said in an earlier run and kept: nobody was asked now."""


class ChatSession(Protocol):
    """One conversation with a model. Single use: it lives as long as its episode."""

    async def reply(self, new: Sequence[Message]) -> ModelTurn:
        """Append `new` (tool results or a user turn) and return the model's next turn.

        The first call passes the opening messages (system and first user turn). Raises
        `ModelError` when the model cannot be reached.
        """
        ...

    def clip(self, text: str, max_tokens: int) -> str:
        """Return `text`, cut to about `max_tokens` with a visible marker where it is longer."""
        ...

    def segments(self) -> tuple[TokenSegment, ...]:
        """The token streams so far; empty for models that do not expose ids."""
        ...

    def close(self) -> None:
        """Free what the conversation held (a place in a batch, KV memory). Safe to call twice."""
        ...


class ChatModel(Protocol):
    """Something that can hold conversations, many at once."""

    @property
    def name(self) -> str:
        """What reports and ledgers call this model."""
        ...

    def start(self, task: Task, *, limits: Limits, seed: int) -> ChatSession:
        """Open a conversation. The model sees `task.tools` and the messages, never `task.gold`."""
        ...
