"""Who plays ACEBench's user: a model with ACEBench's own instructions."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from cacherl.core.completions import CompletionRequest, Completions
from cacherl.core.errors import ModelError
from cacherl.core.records import JsonObject
from cacherl.suites.acebench.checkout import Language, Row, prompt
from cacherl.suites.acebench.environment import BASE, Environment, EnvironmentTools

FINISH = "finish conversation"
"""What ends a conversation, in either language."""

_OPENING = {
    "en": "Is there anything you need help with today?",
    "zh": "今天有什么需要帮助的吗？",
}
_TEMPERATURE = 0.001
_MAX_TOKENS = 1000
_FILES = ("multi_turn/APIModel_user.py",)


class UserModel(Protocol):
    """A model that plays the user, by name."""

    @property
    def model(self) -> str:
        """The endpoint's name for it; scores under different users are different measurements."""
        ...

    @property
    def completions(self) -> Completions:
        """Who answers its requests."""
        ...


def user_prompt(checkout: Path, row: Row, language: Language) -> str:
    """Return what the model that plays the user is told: ACEBench's own words, from the checkout."""
    kind = "BASE" if BASE in row.classes else "TRAVEL"
    template = prompt(checkout, _FILES, f"SYSTEM_PROMPT_{kind}_{language.upper()}")
    return template.replace("{instruction}", row.question)


class ConversedTools(EnvironmentTools):
    """The tools of one episode whose user is played by a model (`Person`).

    Args:
        environment: the instances of the episode.
        user: who plays the user.
        told: what it is told.
        language: in which it is asked what it needs.
        purpose: of its requests, for the ledger.
    """

    def __init__(
        self,
        environment: Environment,
        *,
        user: UserModel,
        told: str,
        language: Language,
        purpose: str,
    ) -> None:
        super().__init__(environment)
        self._user = user
        self._purpose = purpose
        self._history: list[JsonObject] = [{"role": "system", "content": told}]
        self._opening = _OPENING[language]

    async def say(self, heard: str) -> str | None:
        """Return the user's next words, or None once either side has finished the conversation."""
        opening = len(self._history) == 1
        if not opening and FINISH in heard:
            return None
        self._history.append({"role": "user", "content": self._opening if opening else heard})
        reply = await self._user.completions.complete(
            CompletionRequest(
                model=self._user.model,
                messages=tuple(self._history),
                max_tokens=_MAX_TOKENS,
                temperature=_TEMPERATURE,
                purpose=f"{self._purpose}/{len(self._history)}",
            )
        )
        said = reply.message.get("content")
        if not isinstance(said, str) or not said.strip():
            raise ModelError(
                f"{self._user.model}, who plays the user, said nothing. Name another model for the user."
            )
        self._history.append({"role": "assistant", "content": said})
        return None if FINISH in said else said
