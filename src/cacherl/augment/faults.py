"""What may be wrong with a reason. The one who gave it is asked once more; then the trajectory is left out."""

from __future__ import annotations

import enum
from collections.abc import Sequence

from cacherl.augment.leaks import leaks
from cacherl.core.languages import (
    UNDETERMINED,
    Detect,
    letters,
    prose,
    same_language,
)
from cacherl.core.messages import AssistantMessage, Message, UserMessage
from cacherl.core.tools import ToolSpec

MIN_LETTERS = 40
"""Of prose: below it the language of a reason is not judged. About eight words."""
SURE = 0.9
"""A reason is in a wrong language only where the detector is so confident of another."""
LIKELY = 0.5
"""A user's language counts from this confidence on, as in the data card."""
MIN_USER_LETTERS = 12
LOOKED_AT = 4000
"""Characters of a text that the detector is shown."""


class Fault(enum.StrEnum):
    """Why a reason cannot be used, and a trajectory is left out."""

    EMPTY = "unexplained"
    """Nothing was said, or nothing but markup."""
    CUT = "cut"
    """The token limit came first: half a sentence teaches to stop in the middle of a thought."""
    LEAKED = "leaked_future"
    """It names what only a later message shows."""
    LANGUAGE = "wrong_language"
    """It is not in the language of the task."""
    TOO_LONG = "too_long"
    """The conversation does not fit into the teacher's context."""


def fault_of(
    text: str,
    language: str,
    before: Sequence[Message],
    turn: AssistantMessage,
    after: Sequence[Message],
    tools: Sequence[ToolSpec],
    detect: Detect | None,
) -> Fault | None:
    """Return what is wrong with a reason, or None. `detect` None judges no language."""
    if not text:
        return Fault.EMPTY
    if leaks(text, before, turn, after, tools):
        return Fault.LEAKED
    if detect is not None and is_wrong_language(text, language, detect):
        return Fault.LANGUAGE
    return None


def is_wrong_language(text: str, wanted: str, detect: Detect) -> bool:
    """Say whether a text is surely in another language than the wanted one.

    Short texts (`MIN_LETTERS`) are never judged: a detector guesses there.
    """
    words = prose(text)[:LOOKED_AT]
    if wanted == UNDETERMINED or letters(words) < MIN_LETTERS:
        return False
    guess = detect(words)
    return guess.confidence >= SURE and not same_language(guess.language, wanted)


def user_language(before: Sequence[Message], detect: Detect | None) -> str:
    """Return the language of what the user has said so far; `und` where that cannot be told."""
    if detect is None:
        return UNDETERMINED
    said = prose(" ".join(m.content for m in before if isinstance(m, UserMessage)))[:LOOKED_AT]
    if letters(said) < MIN_USER_LETTERS:
        return UNDETERMINED
    guess = detect(said)
    return guess.language if guess.confidence >= LIKELY else UNDETERMINED
