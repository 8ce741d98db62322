"""Every format by name; guessing which one a row is of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from cacherl.core.errors import RecipeError
from cacherl.formats.anthropic_messages import ANTHROPIC
from cacherl.formats.format import Format
from cacherl.formats.openai_messages import OPENAI, TRL
from cacherl.formats.openai_responses import RESPONSES

_FORMATS: tuple[Format, ...] = (
    ANTHROPIC,
    TRL,
    OPENAI,
    RESPONSES,
)
"""The more special first: `guess` takes the first that knows the row."""

FORMATS: Mapping[str, Format] = {each.name: each for each in _FORMATS}


def format_named(name: str) -> Format:
    """Return the format.

    Raises:
        RecipeError: there is none of this name.
    """
    if name not in FORMATS:
        raise RecipeError(f"no format {name!r}. There are: {', '.join(sorted(FORMATS))}.")
    return FORMATS[name]


def guess(value: Any) -> Format | None:
    """Return the format that a row looks like, or None. Never raises, whatever the row is."""
    for each in _FORMATS:
        try:
            if each.sniff(value):
                return each
        except (TypeError, LookupError, AttributeError, ValueError, msgspec.MsgspecError):
            continue
    return None
