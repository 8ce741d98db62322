"""A `ChatModel` over an engine that continues token ids: token in, token out.

The session keeps the ids it was sampled and never re-tokenizes them; only what is new (tool results, a
user turn) is encoded and appended.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from cacherl.core.messages import AssistantMessage, Message, ToolMessage, UserMessage
from cacherl.core.models import Limits, ModelTurn
from cacherl.core.tasks import Task
from cacherl.core.trajectories import TokenSegment
from cacherl.render import ChatCodec


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """What an engine wrote for one turn."""

    ids: list[int]
    """Shape [T], the stop id included when one was sampled."""
    logprobs: list[float]
    """Shape [T], under the sampling distribution at temperature before top-p and top-k cuts."""
    truncated: bool
    """True when `max_new` ids came without a stop id."""
    model_s: float = 0.0


class Engine(Protocol):
    """Continues token ids, many conversations at once."""

    @property
    def name(self) -> str:
        """What reports call the model."""
        ...

    def open(self, session: str, *, seed: int) -> None:
        """Announce a conversation. A batching engine waits for all open conversations to ask."""
        ...

    async def generate(
        self,
        session: str,
        ids: Sequence[int],
        *,
        max_new: int,
        min_new: int,
        stop_ids: frozenset[int],
    ) -> Sampled:
        """Continue `ids`, the whole stream of the session so far, by at most `max_new` ids.

        No stop id is sampled before `min_new` ids. Within a session `ids` usually extends what the
        engine already holds; when it does not, the engine starts the stream afresh.
        """
        ...

    def close(self, session: str) -> None:
        """Forget the conversation. Safe to call twice."""
        ...


class TokenChat:
    """A `ChatModel`: one codec, one engine, any number of sessions."""

    def __init__(self, engine: Engine, codec: ChatCodec) -> None:
        self._engine = engine
        self._codec = codec
        self._numbers = itertools.count()

    @property
    def name(self) -> str:
        """The engine's name."""
        return self._engine.name

    def start(self, task: Task, *, limits: Limits, seed: int) -> TokenSession:
        """Open a conversation on `task.tools`."""
        session = f"{task.id}#{next(self._numbers)}"
        self._engine.open(session, seed=seed)
        return TokenSession(self._engine, self._codec, session, task, limits)


class TokenSession:
    """One conversation as a token stream. See `ChatSession`."""

    def __init__(
        self, engine: Engine, codec: ChatCodec, session: str, task: Task, limits: Limits
    ) -> None:
        self._engine, self._codec, self._session = engine, codec, session
        self._task, self._limits = task, limits
        self._messages: list[Message] = []
        self._done: list[TokenSegment] = []
        self._prompt: list[int] = []
        self._ids: list[int] = []
        self._mask: list[int] = []
        self._logprobs: list[float] = []
        self._calls = 0
        self._turns = 0

    def clip(self, text: str, max_tokens: int) -> str:
        """Cut by tokens of this model."""
        return self._codec.clip(text, max_tokens)

    async def reply(self, new: Sequence[Message]) -> ModelTurn:
        """See `ChatSession.reply`."""
        results = [m for m in new if isinstance(m, ToolMessage)]
        continues = bool(self._ids) and len(results) == len(new)
        self._messages += new
        if continues:
            prompt, injected = self._prompt, self._codec.suffix_ids(results)
        else:  # a user turn: the template rewrites history, so a new stream begins
            said = sum(isinstance(message, UserMessage) for message in self._messages)
            tools = self._task.offered(said - 1)
            prompt, injected = self._codec.prompt_ids(tools, self._messages), []
        held = len(self._ids) if continues else 0
        length = len(prompt) + held + len(injected)
        room = self._limits.max_context_tokens - length
        if room < 1:
            return ModelTurn(message=AssistantMessage(), context_full=True)
        if not continues:
            self._finish_segment()
            self._prompt = prompt
        self._extend(injected, 0, [0.0] * len(injected))
        sampled = await self._engine.generate(
            self._session,
            self._prompt + self._ids,
            max_new=min(self._limits.max_turn_tokens, room),
            min_new=self._limits.first_turn_min_tokens if self._turns == 0 else 0,
            stop_ids=self._codec.stop_ids,
        )
        self._extend(sampled.ids, 1, sampled.logprobs)
        self._turns += 1
        message = self._codec.parse(sampled.ids, first_call=self._calls)
        self._calls += len(message.calls)
        self._messages.append(message)
        return ModelTurn(
            message=message,
            truncated=sampled.truncated,
            prompt_tokens=length,
            completion_tokens=len(sampled.ids),
            model_s=sampled.model_s,
        )

    def _extend(self, ids: Sequence[int], mask: int, logprobs: Sequence[float]) -> None:
        self._ids += ids
        self._mask += [mask] * len(ids)
        self._logprobs += logprobs

    def _finish_segment(self) -> None:
        if self._ids:
            self._done.append(
                TokenSegment(
                    prompt_ids=tuple(self._prompt),
                    completion_ids=tuple(self._ids),
                    mask=tuple(self._mask),
                    logprobs=tuple(self._logprobs),
                )
            )
        self._ids, self._mask, self._logprobs = [], [], []

    def segments(self) -> tuple[TokenSegment, ...]:
        """See `ChatSession.segments`."""
        self._finish_segment()
        return tuple(self._done)

    def close(self) -> None:
        """See `ChatSession.close`."""
        self._engine.close(self._session)
