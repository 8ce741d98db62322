"""Tools that stand as JSON amid a system prompt, and what remains of the prompt without them."""

from __future__ import annotations

import re
from typing import Any

from cacherl.core.tools import ToolSpec
from cacherl.formats.declarations import spec_of
from cacherl.formats.rows import Unreadable
from cacherl.formats.written_values import values_in

_SYNTAX = re.compile(
    r"\b(?:functions?|function/tool|tools?|tool_call|parameters?|if required|json schema|NO other text)\b"
    r"|<[a-z_]+>|</",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"(?<=[.!?:-])\s+|\n+")


def tools_apart(prompt: str, field: str) -> tuple[list[ToolSpec], str]:
    """Return the tools that a system prompt lists as JSON, and the prompt without call syntax.

    The words around the list tell a model to write calls the way the data set does, which is not how
    whoever reads the rows will: sentences about functions and tools go with the list; others (a
    date, a persona) stay. A prompt that lists no tool stays whole.

    Raises:
        Unreadable: a listed tool has no name.
    """
    specs: dict[str, ToolSpec] = {}
    rest, place = "", 0
    for start, end, value in values_in(prompt):
        listed = value if isinstance(value, list) else [value]
        is_tools = bool(listed) and all(_is_tool(each) for each in listed)
        if not is_tools and not _is_of_a_call(value):
            continue
        rest += prompt[place:start] + "\n"
        place = end
        if not is_tools:
            continue
        for number, each in enumerate(listed):
            spec = spec_of(each, f"{field}[{number}]")
            specs.setdefault(spec.name, spec)
    if not specs:
        return [], prompt
    rest += prompt[place:]
    kept = [
        sentence.strip()
        for sentence in _SENTENCE.split(rest)
        if re.search(r"\w", sentence) and not _SYNTAX.search(sentence)
    ]
    return list(specs.values()), "\n".join(kept)


def _is_of_a_call(value: object) -> bool:
    """Say whether this shows what a call looks like: an example of one, or its JSON Schema."""
    return isinstance(value, dict) and "arguments" in str(value)


def _is_tool(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    if isinstance(value.get("function"), dict):
        value = value["function"]
    said = value.keys() & {"description", "parameters", "input_schema", "inputSchema"}
    try:
        return bool(said) and bool(spec_of(value, "").name)
    except Unreadable:
        return False
