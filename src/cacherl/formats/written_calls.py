"""Calls written into the text of a turn: tags around JSON, Glaive's quotes, ToolACE's brackets.

Each reader parts a turn into what was said and what was called. What was meant as a call and cannot
be read as one is a `MalformedCall`, so that the result which follows still finds it.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from cacherl.core.messages import Call, MalformedCall, ToolCall
from cacherl.core.records import JsonObject
from cacherl.formats.conversation import call_of
from cacherl.formats.written_values import decoded, literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What a text comes apart into."""

    content: str = ""
    thinking: str | None = None
    calls: tuple[Call, ...] = ()


_THOUGHT = re.compile(
    r"<(think|thinking|scratch_pad|scratchpad)>(.*?)(?:</\1>|\Z)", re.DOTALL | re.IGNORECASE
)
_THOUGHT_END = re.compile(r"\A(.*?)</think>", re.DOTALL)


def thought_apart(text: str) -> tuple[str | None, str]:
    """Return the thinking of a turn, stripped, and the rest of it.

    `<think>` and `<scratch_pad>` blocks, one that nobody closed included; a `</think>` alone ends
    thinking that the prompt had opened. A call inside thinking is no call.
    """
    thoughts = [found[2].strip() for found in _THOUGHT.finditer(text)]
    rest = _THOUGHT.sub("", text)
    if opened := _THOUGHT_END.match(rest):
        thoughts.insert(0, opened[1].strip())
        rest = rest[opened.end() :]
    thinking = "\n\n".join(thought for thought in thoughts if thought)
    return thinking or None, rest.strip() if thoughts else rest


def tagged(text: str, tag: str = "tool_call") -> Turn:
    """Part a turn with `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` blocks.

    The object may be JSON or Python's (single quotes, True); the closing tag may be missing where
    the next block or the end follows.
    """
    thinking, rest = thought_apart(text)
    block = re.compile(rf"<{tag}>(.*?)(?:</{tag}>|(?=<{tag}>)|\Z)", re.DOTALL)
    calls = tuple(_named(found[1].strip()) for found in block.finditer(rest))
    content = block.sub("", rest).strip() if calls else rest
    return Turn(content=content, thinking=thinking, calls=calls)


def _named(text: str) -> Call:
    try:
        return call_in(literal(text), text)
    except ValueError as error:
        return MalformedCall(id="", text=text, problem=str(error))


def call_in(value: Any, text: str) -> Call:
    """Return the call that an object with `name` and `arguments` is; `text` is how it was written."""
    if not isinstance(value, dict):
        return MalformedCall(id="", text=text, problem="the call is no JSON object")
    if isinstance(value.get("function"), dict):
        value = value["function"]
    arguments = next(
        (value[key] for key in ("arguments", "parameters", "args") if key in value), None
    )
    said = call_of(value.get("name"), arguments)
    if isinstance(said, MalformedCall) and isinstance(arguments, str):
        try:
            return call_of(value.get("name"), literal(arguments))
        except ValueError:
            return said
    return said


_FUNCTION_CALL = re.compile(r"<functioncall>", re.IGNORECASE)
_QUOTED = re.compile(
    r"""\{\s*["']name["']\s*:\s*("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')\s*,"""
    r"""\s*["']arguments["']\s*:\s*'(.*)'\s*\}""",
    re.DOTALL,
)


def glaive(text: str) -> Turn:
    """Part a turn with `<functioncall> {"name": "f", "arguments": '{"who": "O'Hara"}'}`.

    The arguments stand as JSON between single quotes that nothing escapes, so the last quote before
    the closing brace ends them.
    """
    said, *written = _FUNCTION_CALL.split(text)
    calls = tuple(_glaive_call(each.strip()) for each in written)
    return Turn(content=said.strip() if calls else said, calls=calls)


def _glaive_call(text: str) -> Call:
    found = _QUOTED.fullmatch(text)
    if found is None:
        return _named(text)
    try:
        name, arguments = literal(found[1]), found[2]
    except ValueError as error:
        return MalformedCall(id="", text=text, problem=f"name: {error}")
    for each in (arguments, arguments.replace("\\'", "'")):
        try:
            value = decoded(each)
        except ValueError:
            continue
        if isinstance(value, dict):
            return call_of(name, value)
    try:
        return call_of(name, literal(arguments))
    except ValueError as error:
        return MalformedCall(id="", text=text, problem=f"arguments: {error}")


def bracketed(text: str, known: Collection[str] = ()) -> Turn:
    """Part a turn that is nothing but calls: `[Get Weather(city="Oslo", days=2), now()]`.

    Names may hold spaces, dots and slashes; a declared one may hold brackets. Any other turn is text,
    such as one that begins with a footnote mark or a JSON list.
    """
    body = text.strip()
    if not body.startswith("[") or not _opens_call(body, 1, known):
        return Turn(content=text)
    calls: list[Call] = []
    place = 1
    try:
        while True:
            start = _past_spaces(body, place)
            opening = _opening(body, start, known)
            end = _closing(body, opening + 1)
            calls.append(
                _bracket_call(body[start:opening], body[opening + 1 : end], body[start : end + 1])
            )
            place = _past_spaces(body, end + 1)
            if body[place : place + 1] != ",":
                break
            place += 1
        if body[place:] != "]":
            raise ValueError(f"'{body[place : place + 20]}' where the list should end")
    except ValueError as error:
        return Turn(calls=(MalformedCall(id="", text=text, problem=str(error)),))
    return Turn(calls=tuple(calls))


_NAME = re.compile(r"[^\[\](){}\"'\n,=:]{1,200}\(")


def _opens_call(body: str, place: int, known: Collection[str]) -> bool:
    start = _past_spaces(body, place)
    return bool(_NAME.match(body, start)) or _known_at(body, start, known) is not None


def _known_at(body: str, start: int, known: Collection[str]) -> int | None:
    """Return where the bracket after the longest declared name opens, or None."""
    names = [name for name in known if body.startswith(name, start)]
    for name in sorted(names, key=len, reverse=True):
        opening = _past_spaces(body, start + len(name))
        if body[opening : opening + 1] == "(":
            return opening
    return None


def _opening(body: str, start: int, known: Collection[str]) -> int:
    at = _known_at(body, start, known)
    if at is not None:
        return at
    found = _NAME.match(body, start)
    if found is None:
        raise ValueError(f"'{body[start : start + 20]}' where a call should begin")
    return found.end() - 1


def _past_spaces(body: str, place: int) -> int:
    while place < len(body) and body[place].isspace():
        place += 1
    return place


_PAIRS = {"(": ")", "[": "]", "{": "}"}


def _closing(body: str, place: int) -> int:
    """Return where the bracket closes that opened before `place`; quotes hide brackets."""
    awaited = [")"]
    quote = ""
    while place < len(body):
        char = body[place]
        if quote:
            if char == "\\":
                place += 1
            elif char == quote:
                quote = ""
        elif char in "\"'":
            quote = char
        elif char in _PAIRS:
            awaited.append(_PAIRS[char])
        elif char in ")]}":
            if awaited.pop() != char:
                raise ValueError(f"'{char}' closes what was not opened")
            if not awaited:
                return place
        place += 1
    raise ValueError("the call does not end")


def _bracket_call(name: str, inner: str, text: str) -> Call:
    arguments: JsonObject = {}
    for part in _parts(inner):
        key, is_pair, value = part.partition("=")
        if not is_pair or not key.strip():
            problem = f"'{part.strip()[:60]}' where name=value belongs"
            return MalformedCall(id="", text=text, problem=problem)
        try:
            arguments[key.strip().strip("\"'")] = literal(value)
        except ValueError as error:
            return MalformedCall(id="", text=text, problem=f"{key.strip()}: {error}")
    return ToolCall(id="", name=name.strip(), arguments=arguments)


def _parts(inner: str) -> list[str]:
    """Return what stands between the commas that no bracket and no quote hides."""
    parts, start, depth, quote, place = [], 0, 0, "", 0
    while place < len(inner):
        char = inner[place]
        if quote:
            if char == "\\":
                place += 1
            elif char == quote:
                quote = ""
        elif char in "\"'":
            quote = char
        elif char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
        elif char == "," and depth == 0:
            parts.append(inner[start:place])
            start = place + 1
        place += 1
    last = inner[start:]
    return [*parts, last] if last.strip() else parts
