"""What the model is told: our words for native tool calls, ACEBench's own for calls as text."""

from __future__ import annotations

from pathlib import Path

from cacherl.suites.acebench.checkout import (
    MULTI_STEP,
    MULTI_TURN,
    SPECIAL,
    Language,
    Row,
    prompt,
)
from cacherl.suites.acebench.environment import BASE
from cacherl.suites.acebench.verdicts import INCORRECT, LIMITED, MISSING

_NORMAL = (
    "Call the tools that the user's last request needs, all of them in one turn. Take values from the "
    "user's own words; leave out parameters that the user did not speak of."
)
_SPECIAL = f"""\
Call the tools that the user's last request needs, if it can be done as it stands. Otherwise call nothing
and answer with one of these sentences, filled in:
- a value does not fit what the tool takes: {INCORRECT} (VALUE) for the parameters (PARAMETER) in the conversation history.
- required parameters are missing: {MISSING} (PARAMETER, PARAMETER) for the api (TOOL)
- no tool can do it: Due to {LIMITED}, I cannot solve this problem."""
_MULTI_STEP = (
    "Solve the user's task with the tools, one call at a time; look at each result before the next call. "
    "Nobody can be asked anything. Where a tool refuses, do what it asks for. When the task is done, say so "
    "without a call."
)
_NATIVE = (
    "Where the rules below ask for calls written as text, call the tools instead. When the task is done, say "
    "so without a call.\n\n"
)


def native_system(checkout: Path, row: Row, language: Language) -> str:
    """Return the system message for a model that calls tools natively.

    The rules of multi_turn are ACEBench's own, from the checkout: what may be done is in them.
    """
    if row.category == MULTI_TURN:
        return _NATIVE + _rules(checkout, row, language)
    if row.category == MULTI_STEP:
        return _MULTI_STEP
    told = [_SPECIAL if row.category in SPECIAL else _NORMAL, row.time]
    if row.profile:
        told.append(f"Profile of the user:\n{row.profile}")
    return "\n\n".join(part for part in told if part)


def text_system(checkout: Path, row: Row, language: Language) -> str:
    """Return the system message for a model that writes calls as text: ACEBench's own words."""
    lang = language.upper()
    functions = str(list(row.functions))
    if row.category in (MULTI_STEP, MULTI_TURN):
        kind = row.category.removeprefix("agent_")
        told = prompt(
            checkout, (f"{kind}/APIModel_agent.py",), f"MULTI_TURN_AGENT_PROMPT_SYSTEM_{lang}"
        )
        if row.category == MULTI_TURN:
            told += _rules(checkout, row, language)
        return f"{_filled(told, row, functions)}\n\n{functions}"
    kind = (
        "SPECIAL"
        if row.category in SPECIAL
        else "PREFERENCE"
        if "preference" in row.category
        else "NORMAL"
    )
    name = f"SYSTEM_PROMPT_FOR_{kind}_DATA_{lang}"
    return _filled(prompt(checkout, _files(language), name), row, functions)


def _rules(checkout: Path, row: Row, language: Language) -> str:
    kind = "BASE" if BASE in row.classes else "TRAVEL"
    return prompt(checkout, _files(language), f"{kind}_PROMPT_{language.upper()}")


def _files(language: Language) -> tuple[str, ...]:
    return f"prompt_{language}.py", f"prompt/prompt_{language}.py"


def _filled(template: str, row: Row, functions: str) -> str:
    # Not `format`: profiles and schemas hold braces, and so may a template.
    for name, value in (("time", row.time), ("profile", row.profile), ("function", functions)):
        template = template.replace(f"{{{name}}}", value)
    return template
