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
from cacherl.formats.tau_bench import NAMESPACE, read_tau_bench

TAU_BENCH = Format(
    name="tau-bench",
    title="tau-bench v1 result files",
    licence="MIT",
    read_file=lambda path, reading: read_tau_bench(
        path, split=reading.split, namespace=reading.namespace
    ),
    sniff=lambda row: "traj" in row and "task_id" in row,
    trials=True,
    namespace=NAMESPACE,
)

_FORMATS: tuple[Format, ...] = (
    TAU_BENCH,
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
