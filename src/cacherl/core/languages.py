"""Which language a text is in. The detector's package is loaded when a text is first looked at."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from cacherl.core.errors import MissingExtraError

UNDETERMINED = "und"
"""ISO 639-2 for a language that nobody told and nobody could tell."""


class Guess(NamedTuple):
    """What a text looks like."""

    language: str
    """ISO 639-1."""
    confidence: float
    """In [0, 1]."""


Detect = Callable[[str], Guess]
"""Returns the likeliest language of a text."""

_NOT_PROSE = re.compile(r"[!-~]*[\d_{}\[\]@/\\<>=\"`|][!-~]*")
# ASCII alone: other scripts put no space between words, and one number would take a whole sentence away


def prose(text: str) -> str:
    """Return the words of a text without what is of no language: ids, numbers, code, addresses."""
    return " ".join(_NOT_PROSE.sub(" ", text).split())


def letters(text: str) -> int:
    """Return how many letters a text has: what a guess stands on."""
    return sum(map(str.isalpha, text))


def same_language(one: str, other: str) -> bool:
    """Say whether two tags name one language, or two that a detector mixes up: `pt-BR` and `pt`, `no` and `nb`."""
    first, second = (tag.replace("_", "-").split("-")[0].lower() for tag in (one, other))
    return first == second or any(first in group and second in group for group in _MIXED_UP)


_MIXED_UP = (
    frozenset({"no", "nb", "nn", "da"}),
    frozenset({"hr", "sr", "bs", "sh"}),
    frozenset({"id", "ms"}),
    frozenset({"cs", "sk"}),
    frozenset({"gl", "pt"}),
    frozenset({"af", "nl"}),
)


@functools.cache
def detector() -> Detect:
    """Return the detector.

    Raises:
        MissingExtraError: its package is not installed.
    """
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise MissingExtraError("py3langid", "card") from error
    identifier: Any = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)

    def detect(text: str) -> Guess:
        language, confidence = identifier.classify(text)
        return Guess(str(language), float(confidence))

    return detect
