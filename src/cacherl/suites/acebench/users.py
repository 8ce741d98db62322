"""Who plays ACEBench's user: a model with ACEBench's own instructions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from cacherl.core.errors import ModelError
from cacherl.core.messages import Message, SystemMessage, UserMessage
from cacherl.core.models import ChatModel, ChatSession, Limits
from cacherl.core.tasks import Task
from cacherl.suites.acebench.checkout import Language, Row, prompt
from cacherl.suites.acebench.environment import BASE, Environment, EnvironmentTools

FINISH = "finish conversation"
"""What ends a conversation, in either language."""
TEMPERATURE = 0.001
"""At which ACEBench asks the model that plays the user."""

_OPENING = {
    "en": "Is there anything you need help with today?",
    "zh": "今天有什么需要帮助的吗？",
}
_LIMITS = Limits(max_turns=40, max_turn_tokens=1000, max_context_tokens=131_072)
_FILES = ("multi_turn/APIModel_user.py",)


@dataclass(frozen=True, slots=True, kw_only=True)
class UserModel:
    """A model that plays the user."""

    name: str
    """Part of the suite's name: scores under different users are different measurements."""
    open: Callable[[], ChatModel]
    """Opens it, at `TEMPERATURE`; first called when somebody has to speak."""


def user_prompt(checkout: Path, row: Row, language: Language) -> str:
    """Return what the model that plays the user is told: ACEBench's own words, from the checkout."""
    kind = "BASE" if BASE in row.classes else "TRAVEL"
    template = prompt(checkout, _FILES, f"SYSTEM_PROMPT_{kind}_{language.upper()}")
    return template.replace("{instruction}", row.question)


class ConversedTools(EnvironmentTools):
    """The tools of one episode whose user is played by a model (`Person`).

    To that model the agent is its user, and what it is asked first is ACEBench's greeting.

    Args:
        environment: the instances of the episode.
        user: who plays the user.
        task: whose user it is.
        told: what it is told.
        language: in which it is asked what it needs.
    """

    def __init__(
        self,
        environment: Environment,
        *,
        user: Callable[[], ChatModel],
        task: Task,
        told: str,
        language: Language,
    ) -> None:
        super().__init__(environment)
        self._user = user
        self._opening = _OPENING[language]
        # Never the agent's tools, nor its gold.
        self._played = msgspec.structs.replace(
            task, system=told, user_turns=(self._opening,), tools=(), late={}, gold=None
        )
        self._session: ChatSession | None = None

    async def say(self, heard: str) -> str | None:
        """Return the user's next words, or None once either side has finished the conversation."""
        if self._session is None:
            model = self._user()
            self._session = model.start(self._played, limits=_LIMITS, seed=0)
            new: list[Message] = [
                SystemMessage(content=self._played.system),
                UserMessage(content=self._opening),
            ]
        elif FINISH in heard:
            return None
        else:
            new = [UserMessage(content=heard)]
        turn = await self._session.reply(new)
        said = turn.message.content.strip()
        if not said or turn.truncated or turn.context_full:
            raise ModelError(
                f"task {self._played.id}: the model that plays the user said nothing whole. Name another model "
                "for the user."
            )
        return None if FINISH in said else said

    async def aclose(self) -> None:
        if self._session is not None:
            self._session.close()
        await super().aclose()
