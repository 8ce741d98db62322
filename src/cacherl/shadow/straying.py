"""A policy that leaves another's path by calls of its own: what a cache of gold episodes will be asked.

A recorded or scripted policy asks a cache what the cache has heard. A trained one also repeats itself, looks
at the wrong thing first, acts twice and mistypes. Before there is one, this shows what the cache says then.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Mapping, Sequence
from typing import Any

from cacherl.core.errors import ModelError, RecipeError
from cacherl.core.messages import AssistantMessage, Message, ToolCall
from cacherl.core.models import ChatModel, ChatSession, Limits, ModelTurn
from cacherl.core.records import JsonObject
from cacherl.core.schema import argument_problem
from cacherl.core.tasks import Task
from cacherl.core.trajectories import TokenSegment, Trajectory
from cacherl.recorded import RecordedModel


class Stray(enum.StrEnum):
    """A call that the other policy did not make."""

    AGAIN = "again"
    """An earlier call once more: in another state, perhaps."""
    EARLY = "early"
    """The next call before its time: made twice in the end."""
    ELSEWHERE = "elsewhere"
    """Another tool, with arguments known from the calls so far."""
    MISTYPED = "mistyped"
    """The next call with two characters of one argument swapped, or a number that is one off."""


class Straying:
    """Plays another policy's turns with calls of its own in between (`ChatModel`).

    The other never sees them or their answers. Where it strays follows from `seed`, the episode's seed and
    the calls so far, never from what was answered: on cache and world it strays alike while the other
    behaves alike.

    Args:
        model: the other policy.
        share: the chance, in [0, 1], of one more call before each of the other's.
        seed: of the straying.
    """

    def __init__(self, model: ChatModel, share: float, *, seed: int = 0) -> None:
        if not 0.0 <= share <= 1.0:
            raise RecipeError(f"the share of strays is {share}; it must lie between 0 and 1.")
        self._model, self._share, self._seed = model, share, seed

    @property
    def name(self) -> str:
        """The other's name, and how far it strays."""
        return f"{self._model.name}, straying {self._share:g}"

    def start(self, task: Task, *, limits: Limits, seed: int) -> _Session:
        rng = random.Random(f"stray|{self._seed}|{seed}|{task.id}")  # noqa: S311 - repeatable
        inner = self._model.start(task, limits=limits, seed=seed)
        return _Session(inner, task, rng, self._share)


class _Session:
    def __init__(self, inner: ChatSession, task: Task, rng: random.Random, share: float) -> None:
        self._inner, self._task, self._rng, self._share = inner, task, rng, share
        self._made: list[ToolCall] = []
        self._strays = 0
        self._held: ModelTurn | None = None

    async def reply(self, new: Sequence[Message]) -> ModelTurn:
        held, self._held = self._held, None
        turn = await self._inner.reply(new) if held is None else held
        calls = [call for call in turn.message.calls if isinstance(call, ToolCall)]
        if held is None and calls and self._rng.random() < self._share:
            stray = self._stray(calls[0])
            if stray is not None:
                self._held = turn
                return ModelTurn(message=AssistantMessage(calls=(stray,)))
        self._made += calls
        return turn

    def _stray(self, coming: ToolCall) -> ToolCall | None:
        for kind in self._rng.sample(list(Stray), len(Stray)):
            found = self._of(kind, coming)
            if found is not None:
                self._strays += 1
                name, arguments = found
                return ToolCall(id=f"stray-{self._strays}", name=name, arguments=arguments)
        return None

    def _of(self, kind: Stray, coming: ToolCall) -> tuple[str, JsonObject] | None:
        match kind:
            case Stray.AGAIN:
                earlier = self._rng.choice(self._made) if self._made else None
                return None if earlier is None else (earlier.name, earlier.arguments)
            case Stray.EARLY:
                return coming.name, coming.arguments
            case Stray.ELSEWHERE:
                return self._elsewhere(coming)
            case Stray.MISTYPED:
                changed = _mistyped(coming.arguments, self._rng)
                return None if changed is None else (coming.name, changed)

    def _elsewhere(self, coming: ToolCall) -> tuple[str, JsonObject] | None:
        known: dict[str, Any] = {}
        for call in (*self._made, coming):
            known |= call.arguments
        fitting = []
        for spec in self._task.tools:
            if spec.name == coming.name or self._task.late.get(spec.name):
                continue
            properties: Mapping[str, Any] = spec.parameters.get("properties", {})
            arguments = {name: known[name] for name in properties if name in known}
            if argument_problem(spec, arguments) is None:
                fitting.append((spec.name, arguments))
        return self._rng.choice(fitting) if fitting else None

    def clip(self, text: str, max_tokens: int) -> str:
        return self._inner.clip(text, max_tokens)

    def segments(self) -> tuple[TokenSegment, ...]:
        """None: the other's tokens leave out what was put between them."""
        return ()

    def close(self) -> None:
        self._inner.close()


def _mistyped(arguments: JsonObject, rng: random.Random) -> JsonObject | None:
    places = [
        name
        for name, value in arguments.items()
        if (isinstance(value, str) and len(value) > 1)
        or (isinstance(value, int | float) and not isinstance(value, bool))
    ]
    if not places:
        return None
    name = rng.choice(places)
    value = arguments[name]
    if not isinstance(value, str):
        return {**arguments, name: value + 1}
    at = rng.randrange(len(value) - 1)
    return {**arguments, name: value[:at] + value[at + 1] + value[at] + value[at + 2 :]}


class Replaying:
    """Plays what was recorded of each task, whatever it is answered (`ChatModel`).

    Args:
        trajectories: the recordings; the first of each task counts.
        name: what reports call it.
    """

    def __init__(self, trajectories: Sequence[Trajectory], *, name: str = "recorded") -> None:
        self.name = name
        self._of: dict[str, Trajectory] = {}
        for each in trajectories:
            self._of.setdefault(each.task_id, each)

    @property
    def task_ids(self) -> frozenset[str]:
        """The tasks there is a recording of."""
        return frozenset(self._of)

    def start(self, task: Task, *, limits: Limits, seed: int) -> ChatSession:
        found = self._of.get(task.id)
        if found is None:
            raise ModelError(
                f"nothing was recorded of task {task.id}. Record it, or shadow fewer tasks."
            )
        return RecordedModel(found).start(task, limits=limits, seed=seed)


__all__ = ["Replaying", "Stray", "Straying"]
