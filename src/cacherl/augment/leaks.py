"""What reasoning knows too early: values that nothing had shown yet, and that a later message holds.

A teacher is never shown what comes after a turn. It can still guess it: a model that was trained on a public
benchmark knows its database. Whether it guessed or knew, reasoning that names a result before the call teaches
a model to make results up.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Sequence
from decimal import Decimal, InvalidOperation
from itertools import combinations, pairwise

import msgspec

from cacherl.core.messages import (
    AssistantMessage,
    MalformedCall,
    Message,
    ToolMessage,
    UserMessage,
)
from cacherl.core.tools import ToolSpec

PHRASE_WORDS = 8
"""So many words in a row are a quotation, not chance."""
MIN_DIGITS = 3
"""Shorter numbers are everywhere: `two of 12 seats` tells nothing about where the 12 was learnt."""
MIN_ID = 4
LONG_WORD = 20
MOST_OPERANDS = 50

_NUMBER = re.compile(r"\d{1,3}(?:[,\u00a0\u202f ]\d{3})+(?:[.,]\d+)?|\d+(?:[.,]\d+)?", re.ASCII)
_TOKEN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._:/@#+-]*[A-Za-z0-9])?", re.ASCII)
_TIME = re.compile(r"\d{1,2}:\d{2}(?::\d{2})?")
_WORD = re.compile(r"[^\W_]+")
_SENTENCE_END = re.compile(r"[.!?:;\n\"“”«»(]\s*$")


def leaks(
    reason: str,
    before: Sequence[Message],
    turn: AssistantMessage,
    after: Sequence[Message],
    tools: Sequence[ToolSpec] = (),
) -> tuple[str, ...]:
    """Return the values in `reason` that stand in `after` and in nothing that was known, in their order.

    Values are ids (a digit among letters or marks, or an address; from 4 characters) and numbers of at
    least 3 digits, wherever they stand later; and names (two capitalised words in a row), words of at
    least 20 letters and any 8 words in a row, where a result or the user says them later: a model's own
    turns of phrase are its own. What is known is every message before the turn, the turn itself and the
    tools on offer, and the sum, difference or product of two numbers that the reason names and that are
    known. Numbers are compared as numbers (`1,234.00` is 1234). Not found are values in other words than
    the later message's (`next Tuesday`), times of day, small numbers, single names, and yes or no.

    Args:
        reason: what somebody gives as the thinking of the turn.
        before: the messages before the turn.
        turn: the turn; its words and calls may be quoted.
        after: the messages after it.
        tools: what was on offer.
    """
    values = _values(reason)
    if not values or not after:
        return ()
    later = _Seen(after)
    told = _Seen([m for m in after if isinstance(m, ToolMessage | UserMessage)])
    found = [
        value
        for value in values
        if (later if value.kind in ("id", "number") else told).holds(value)
    ]
    if not found:
        return ()
    known = _Seen([*before, turn], more=msgspec.json.encode(tools).decode() if tools else "")
    numbers = [n for written in _NUMBER.findall(reason) for n in known.known_of(_numbers(written))]
    return tuple(
        value.text
        for value in found
        if not known.may_hold(value) and value.numbers.isdisjoint(_computed(numbers))
    )


def _computed(numbers: Sequence[Decimal]) -> set[Decimal]:
    """Return what can be computed from two of the numbers, or from all."""
    found = {sum(numbers, Decimal(0))}
    for one, other in combinations(numbers[:MOST_OPERANDS], 2):
        found |= {one + other, abs(one - other), one * other}
    return found


class _Value(msgspec.Struct, frozen=True):
    """Something in a text that is learnt, not thought up."""

    text: str
    kind: str
    numbers: frozenset[Decimal] = frozenset()
    """What a number may mean: `1,234` is 1234 here and 1.234 there."""


def _values(text: str) -> list[_Value]:
    found: dict[str, _Value] = {}
    covered: list[tuple[int, int]] = []
    for match in _TOKEN.finditer(text):
        token = match.group()
        if len(token) >= MIN_ID and _is_id(token):
            found.setdefault(token, _Value(token, "id"))
            covered.append(match.span())
    for match in _NUMBER.finditer(text):
        if any(start <= match.start() < end for start, end in covered):
            continue
        if sum(map(str.isdigit, match.group())) >= MIN_DIGITS:
            found.setdefault(
                match.group(), _Value(match.group(), "number", _numbers(match.group()))
            )
    words = list(_WORD.finditer(text))
    for first, second in pairwise(words):
        if _is_name(first, text) and _is_name(second, text) and second.start() - first.end() == 1:
            name = f"{first.group()} {second.group()}"
            found.setdefault(name, _Value(name, "name"))
    for match in words:
        if len(match.group()) >= LONG_WORD:
            found.setdefault(match.group(), _Value(match.group(), "phrase"))
    for place in range(len(words) - PHRASE_WORDS + 1):
        phrase = " ".join(match.group() for match in words[place : place + PHRASE_WORDS])
        found.setdefault(phrase, _Value(phrase, "phrase"))
    return list(found.values())


def _is_id(token: str) -> bool:
    if "@" in token:
        return True
    if _TIME.fullmatch(token):
        return False
    rest = token.replace(",", "").replace(".", "", 1)
    return any(map(str.isdigit, token)) and not rest.isdigit()


def _is_name(word: re.Match[str], text: str) -> bool:
    """Say whether a word is capitalised other than as the first of a sentence."""
    written = word.group()
    if len(written) < 2 or not written[0].isupper() or written.isupper():
        return False
    return word.start() > 0 and _SENTENCE_END.search(text[: word.start()]) is None


def _numbers(written: str) -> frozenset[Decimal]:
    bare = re.sub(r"[\u00a0\u202f ]", "", written)
    meanings = {bare.replace(",", ""), bare.replace(",", ".")}
    if bare.count(".") == 1 and "," not in bare and re.fullmatch(r"\d{1,3}\.\d{3}", bare):
        meanings.add(bare.replace(".", ""))
    numbers = set()
    for meaning in meanings:
        try:
            numbers.add(Decimal(meaning))
        except InvalidOperation:  # `1,234,5.6` is none
            continue
    return frozenset(numbers)


class _Seen:
    """Texts to be searched."""

    def __init__(self, messages: Iterable[Message], more: str = "") -> None:
        self._text = "\n".join([*(text for message in messages for text in _texts(message)), more])
        self._lower = self._text.casefold()
        self._words: str | None = None
        self._numbers: frozenset[Decimal] | None = None

    def holds(self, value: _Value) -> bool:
        """Say whether the value stands there as it is written."""
        match value.kind:
            case "id":
                edge = r"(?<![^\W_]){}(?![^\W_])"
                return re.search(edge.format(re.escape(value.text)), self._text, re.I) is not None
            case "number":
                return not value.numbers.isdisjoint(self._all_numbers())
            case "name":
                return re.search(rf"\b{re.escape(value.text)}\b", self._text) is not None
            case _:
                return f" {value.text.casefold()} " in self._all_words()

    def may_hold(self, value: _Value) -> bool:
        """Say whether the value stands there in any form, as part of something longer too."""
        if value.kind == "number":
            return self.holds(value) or value.text in self._text
        if value.kind == "name":  # its parts may be two members of an object
            return all(f" {word} " in self._all_words() for word in value.text.casefold().split())
        return value.text.casefold() in self._lower or self.holds(value)

    def known_of(self, numbers: frozenset[Decimal]) -> frozenset[Decimal]:
        """Return those of the numbers that stand there."""
        return numbers & self._all_numbers()

    def _all_words(self) -> str:
        if self._words is None:
            self._words = f" {' '.join(_WORD.findall(self._lower))} "
        return self._words

    def _all_numbers(self) -> frozenset[Decimal]:
        if self._numbers is None:
            found: set[Decimal] = set()
            for written in set(_NUMBER.findall(self._text)):
                found |= _numbers(written)
            self._numbers = frozenset(found)
        return self._numbers


def _texts(message: Message) -> Iterable[str]:
    """Yield what a message says, as a model is shown it."""
    yield message.content
    if isinstance(message, ToolMessage) and "\\u" in message.content:
        with contextlib.suppress(ValueError, RecursionError):  # `Ren\u00e9e` is Renée
            yield json.dumps(json.loads(message.content), ensure_ascii=False)
    if isinstance(message, AssistantMessage):
        for call in message.calls:
            if isinstance(call, MalformedCall):
                yield call.text
            else:
                yield f"{call.name} {msgspec.json.encode(call.arguments).decode()}"
