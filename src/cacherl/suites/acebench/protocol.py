"""ACEBench's own protocol: calls as text, `[Api(key='value')]`, around any `ChatModel`.

The task still carries its tools for the loop, which refuses and answers calls as ever; the model is shown
none, and its text is read as the calls that it writes. Results go back as `execution result: [...]`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

import msgspec

from cacherl.core.messages import (
    Call,
    MalformedCall,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from cacherl.core.models import ChatModel, ChatSession, Limits, ModelTurn
from cacherl.core.tasks import Task
from cacherl.core.trajectories import TokenSegment
from cacherl.suites.acebench.users import FINISH
from cacherl.suites.acebench.written import calls_in

NO_QUESTIONS = "Please do not ask me any questions, use the known conditions to solve the problem"
"""What ACEBench's multi_step answers to anything that is no call."""


class TextProtocol:
    """A model that calls tools in ACEBench's text (`ChatModel`).

    Args:
        model: who writes the text; it is offered no tools.
        multi_step: families in which nobody can be asked anything: text that is no call is told so.
    """

    def __init__(self, model: ChatModel, *, multi_step: Collection[str] = ()) -> None:
        self._model = model
        self._multi_step = frozenset(multi_step)

    @property
    def name(self) -> str:
        return f"{self._model.name} (text calls)"

    def start(self, task: Task, *, limits: Limits, seed: int) -> _Session:
        shown = msgspec.structs.replace(task, tools=(), late={})
        inner = self._model.start(shown, limits=limits, seed=seed)
        return _Session(inner, alone=task.family in self._multi_step)


class _Session:
    def __init__(self, inner: ChatSession, *, alone: bool) -> None:
        self._inner = inner
        self._alone = alone
        self._calls = 0

    async def reply(self, new: Sequence[Message]) -> ModelTurn:
        turn = await self._inner.reply(_as_text(new))
        calls = self._read(turn.message.content)
        # The text stays: the official process accuracy compares it letter for letter.
        message = msgspec.structs.replace(turn.message, calls=calls)
        return dataclasses.replace(turn, message=message)

    def _read(self, text: str) -> tuple[Call, ...]:
        body = text.strip()
        found: list[Call] = []
        problem = None
        if body.startswith("["):
            try:
                for name, arguments in calls_in(body):
                    found.append(ToolCall(id=self._id(), name=name, arguments=arguments))
            except ValueError as error:
                # Special answers are a list of one sentence.
                problem = None if body.startswith(('["', "['")) else str(error)
        if not found and problem is None and self._alone and FINISH not in body:
            problem = NO_QUESTIONS
        if problem is not None:
            return (MalformedCall(id=self._id(), text=text, problem=problem),)
        return tuple(found)

    def _id(self) -> str:
        self._calls += 1
        return f"text_{self._calls}"

    def clip(self, text: str, max_tokens: int) -> str:
        return self._inner.clip(text, max_tokens)

    def segments(self) -> tuple[TokenSegment, ...]:
        return self._inner.segments()

    def close(self) -> None:
        self._inner.close()


def _as_text(new: Sequence[Message]) -> list[Message]:
    results = [message.content for message in new if isinstance(message, ToolMessage)]
    said: list[Message] = [
        message for message in new if isinstance(message, SystemMessage | UserMessage)
    ]
    if results:
        said.append(UserMessage(content=f"execution result: [{', '.join(results)}]"))
    return said
