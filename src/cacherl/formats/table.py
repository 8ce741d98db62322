"""Every format by name; guessing which one a row is of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cacherl.core.errors import RecipeError
from cacherl.formats.format import Format

_FORMATS: tuple[Format, ...] = ()
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
        except (TypeError, KeyError, IndexError, AttributeError, ValueError):
            continue
    return None
