"""Every format by name, read and written; guessing which one a row is of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from cacherl.core.errors import RecipeError
from cacherl.formats.anthropic_messages import ANTHROPIC, ANTHROPIC_FILE
from cacherl.formats.apigen import APIGEN_MT
from cacherl.formats.format import Format, Target
from cacherl.formats.glaive import GLAIVE
from cacherl.formats.hermes import HERMES
from cacherl.formats.inspect_logs import INSPECT
from cacherl.formats.mcp_log import MCP_LOG
from cacherl.formats.openai_messages import OPENAI, OPENAI_FILE, TRL
from cacherl.formats.openai_responses import RESPONSES
from cacherl.formats.otel import OTEL
from cacherl.formats.rows import Unreadable
from cacherl.formats.sharegpt import SHAREGPT
from cacherl.formats.tau2 import TAU2_BENCH
from cacherl.formats.tau_bench import TAU_BENCH
from cacherl.formats.toolace import TOOLACE
from cacherl.formats.toolathlon import TOOLATHLON
from cacherl.formats.toucan import TOUCAN
from cacherl.formats.trl import TRL_COMPLETION_FILE, TRL_FILE, TRL_PROMPT_FILE
from cacherl.formats.verl import VERL_FILE, VERL_SFT_FILE
from cacherl.formats.xlam import XLAM

_FORMATS: tuple[Format, ...] = (
    TAU_BENCH,
    TAU2_BENCH,
    TOOLATHLON,
    TOUCAN,
    APIGEN_MT,
    XLAM,
    TOOLACE,
    HERMES,
    GLAIVE,
    SHAREGPT,
    INSPECT,
    MCP_LOG,
    OTEL,
    ANTHROPIC,
    TRL,
    OPENAI,
    RESPONSES,
)
"""The more special first: `guess` takes the first that knows the row."""

FORMATS: Mapping[str, Format] = {each.name: each for each in _FORMATS}

TARGETS: Mapping[str, Target] = {
    each.name: each
    for each in (
        OPENAI_FILE,
        TRL_FILE,
        TRL_COMPLETION_FILE,
        TRL_PROMPT_FILE,
        VERL_FILE,
        VERL_SFT_FILE,
        ANTHROPIC_FILE,
    )
}
"""What can be written, by name."""


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
        except (
            TypeError,
            LookupError,
            AttributeError,
            ValueError,
            Unreadable,
            RecursionError,
            msgspec.MsgspecError,
        ):
            continue
    return None
