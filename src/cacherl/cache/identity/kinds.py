"""What a parameter holds, judged from recorded values, where its schema does not say.

Inferred kinds only ever decide how calls are compared loosely: the gate of FUZZY and the weights of
BEST_EFFORT. They never enter a key, so a key never changes because more was recorded.

A wrong TEXT would let different calls match as FUZZY, so TEXT asks for sentences: many different
values, nearly all of several words with small words (`the`, `for`, `une`) among them, nothing that
looks like code. Every other doubt ends at ENTITY, which must be equal for FUZZY.
"""

from __future__ import annotations

import enum
import heapq
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from cacherl.cache.identity.canonical import canonical_json
from cacherl.cache.identity.normalise import Kind, plan_of
from cacherl.cache.lookup.settings import marked, path_of, schema_at, steps_of
from cacherl.cache.storage.entry import CacheEntry
from cacherl.core.records import JsonObject, Record
from cacherl.core.tools import ToolSpec

MAX_SAMPLED = 2_000
"""Calls of a tool that are looked at: those with the smallest keys, which no order of recording changes."""
MAX_PATHS = 256
"""Places of a tool that are judged; objects whose keys are data have any number of them."""


class Inferred(Record, frozen=True, kw_only=True):
    """What recorded values say of one parameter."""

    kind: Kind
    evidence: str
    """Why, in words."""
    n: int
    """Values looked at."""
    distinct: int


class FrozenKinds(Record, frozen=True, kw_only=True):
    """Inferred kinds as a snapshot keeps them."""

    plan: str
    """Fingerprint (hex) of the plan of the tool that they were inferred for."""
    kinds: dict[str, Kind]


def kinds_note(namespace: str, tool: str) -> str:
    """Return the name of the note that holds a tool's `FrozenKinds`."""
    return f"kinds/{namespace}/{tool}"


class Origin(enum.StrEnum):
    """Where the kind of a parameter comes from."""

    SCHEMA = "schema"
    """The tool's own schema, or the settings."""
    NAME = "name"
    """The parameter's name; the schema says no more than that it is a string."""
    INFERRED = "inferred"
    """Recorded values, of a parameter that nobody described."""
    VALUE = "value"
    """Each value by itself: a date, an id, else a name."""


def infer_kinds(values: Mapping[str, Iterable[Any]]) -> dict[str, Inferred]:
    """Return the kind of each path whose values say something. Pure; their order does not matter.

    Args:
        values: scalar values by path, repeats included.
    """
    found = {}
    for path, seen in sorted(values.items()):
        inferred = infer_kind(seen)
        if inferred is not None:
            found[path] = inferred
    return found


def values_of(arguments: Iterable[JsonObject]) -> dict[str, list[Any]]:
    """Return the scalar values of many calls' arguments by path; the places of an array share one."""
    found: dict[str, list[Any]] = {}
    for each in arguments:
        for steps, value in _leaves(each, ()):
            found.setdefault(path_of(steps), []).append(value)
    if len(found) <= MAX_PATHS:
        return found
    most = heapq.nsmallest(MAX_PATHS, found, key=lambda path: (-len(found[path]), path))
    return {path: found[path] for path in most}


def sampled(entries: Iterable[CacheEntry]) -> list[JsonObject]:
    """Return the arguments that kinds are inferred from; the same calls in other states count once."""
    nearest = heapq.nsmallest(MAX_SAMPLED, entries, key=lambda entry: entry.call.key)
    by_canonical = {entry.call.canonical: entry.call for entry in nearest}
    return [call.arguments for call in by_canonical.values()]


def leaves_kinds_open(spec: ToolSpec) -> bool:
    """Say whether recordings may tell more of a tool's parameters than it does itself.

    False is cheap and spares reading recordings. A tool without a schema, or whose schema lets any
    other parameter in, is open.
    """
    schema = spec.parameters
    properties = schema.get("properties")
    if not isinstance(properties, dict) or not properties:
        return True
    if schema.get("additionalProperties", False) is not False:
        return True
    return any(_may_be_open(member, 0) for member in properties.values())


def matching_spec(spec: ToolSpec, arguments: Iterable[JsonObject]) -> ToolSpec:
    """Return the tool with the inferred kinds of its undescribed parameters marked: for `shape` only.

    Its plan must not normalise: CODE is kept verbatim, which would change keys.

    Args:
        spec: the tool as the settings see it.
        arguments: recorded ones in normal form (`sampled`).
    """
    return with_kinds(spec, marked_kinds(spec, infer_kinds(values_of(arguments))))


def marked_kinds(spec: ToolSpec, inferred: Mapping[str, Inferred]) -> dict[str, Kind]:
    """Return which of the inferred kinds hold: those of parameters that the tool leaves undescribed.

    ENTITY says no more than each value says by itself, so it is not among them.
    """
    return {
        path: each.kind
        for path, each in inferred.items()
        if each.kind is not Kind.ENTITY and _may_mark(spec, path, each.kind)
    }


def with_kinds(spec: ToolSpec, kinds: Mapping[str, Kind]) -> ToolSpec:
    """Return the tool with these kinds marked in its schema."""
    if not kinds:
        return spec
    parameters = spec.parameters
    for path, kind in sorted(kinds.items()):
        parameters = marked(parameters, steps_of(path), "x-kind", str(kind))
    return msgspec.structs.replace(spec, parameters=parameters)


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """What a tool itself says of a parameter."""

    kind: Kind | None
    """None: each value by itself."""
    origin: Origin


def declared_kind(spec: ToolSpec, path: str) -> Declared:
    """Return the kind that keys and matching take from the tool's schema or the parameter's name."""
    steps = steps_of(path)
    schema = schema_at(spec.parameters, steps)
    name = next(step for step in reversed(steps) if step != "[]")
    # The compiler itself is asked, so that what is shown is what is done.
    if schema is None:
        shape = plan_of(_with_properties(spec, {})).shape({name: "x"})
        kind = Kind.TEXT if shape.texts else shape.fields[0].kind
        if kind is Kind.ENTITY:  # what "x" is by itself
            return Declared(kind=None, origin=Origin.VALUE)
        return Declared(kind=kind, origin=Origin.NAME)
    said = plan_of(_with_properties(spec, {name: schema})).kinds()[name]
    if said == "by value":
        return Declared(kind=None, origin=Origin.VALUE)
    by_schema = any(key in schema for key in _SAYS_KIND) or not _is_string(schema)
    return Declared(kind=Kind(said), origin=Origin.SCHEMA if by_schema else Origin.NAME)


def _with_properties(spec: ToolSpec, properties: JsonObject) -> ToolSpec:
    return ToolSpec(
        name=spec.name,
        description=spec.description,
        parameters={"properties": properties},
        effects=spec.effects,
    )


def is_described(spec: ToolSpec, path: str) -> bool:
    """Say whether the tool's schema says more of a parameter than that it may be a string."""
    schema = schema_at(spec.parameters, steps_of(path))
    return schema is not None and not _is_bare(schema)


# ---- schemas

_SAYS_KIND = ("x-kind", "enum", "const", "format", "pattern")
_SAYS_NOTHING = {"type", "title", "default", "minLength", "maxLength"}


def _is_string(schema: JsonObject) -> bool:
    types = schema.get("type", "string")
    return "string" in ({types} if isinstance(types, str) else set(types))


def _is_bare(schema: JsonObject) -> bool:
    return _is_string(schema) and set(schema) <= _SAYS_NOTHING


def _may_be_open(schema: Any, depth: int) -> bool:
    """Say whether a member is undescribed or holds something undescribed; what is unclear counts as open."""
    if not isinstance(schema, dict) or depth > 8:
        return True
    if "$ref" in schema or "anyOf" in schema or "oneOf" in schema:
        return True  # cheap rather than thorough: looking at recordings once does no harm
    if _is_bare(schema):
        return True
    types = schema.get("type", ())
    types = {types} if isinstance(types, str) else set(types)
    if "array" in types and "x-kind" not in schema:
        return _may_be_open(schema.get("items"), depth + 1)
    if "object" in types:
        properties = schema.get("properties")
        if not isinstance(properties, dict) or schema.get("additionalProperties", False):
            return True
        return any(_may_be_open(member, depth + 1) for member in properties.values())
    return False


_FIRM = frozenset({Kind.ID, Kind.CODE, Kind.VOLATILE})


def _may_mark(spec: ToolSpec, path: str, kind: Kind) -> bool:
    """Say whether an inferred kind may stand in for what is known of a parameter.

    What its name says firmly (an id, code) is never loosened; TEXT by name gives way to what its
    values show; a tool that runs code has no text.
    """
    if is_described(spec, path):
        return False
    by_name = declared_kind(spec, path).kind
    if by_name in _FIRM:
        return False
    if by_name is Kind.TEXT:
        return kind in (Kind.CODE, Kind.ID)
    if kind is Kind.TEXT:
        # The compiler knows tools that run code: they have no TEXT, whatever the name.
        as_text = _with_properties(spec, {"text": {"type": "string"}})
        return plan_of(as_text).kinds()["text"] == Kind.TEXT
    return True


def _leaves(value: Any, steps: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict):
        for name, member in value.items():
            if name and name != "[]":
                yield from _leaves(member, (*steps, name))
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item, (*steps, "[]"))
    elif steps:
        yield steps, value


# ---- values

_MIN_SEEN = 3  # fewer say nothing
_MIN_SENTENCES = 10  # different ones, for TEXT
_MAX_WORDS_OF_ENUM = 12
_MIN_REPEATS_OF_ENUM = 10  # a value, on average
_MAX_ENUM_LENGTH = 40  # characters
_MIN_CODE_SHARE = 0.2
_MAX_CODE_SHARE_OF_TEXT = 0.02
_MIN_SENTENCE_SHARE = 0.8
_MIN_WORDS = 4  # of a sentence; titles are shorter
_MIN_MEAN_WORDS = 5
_MIN_ID_SHARE = 0.5

_DATE = re.compile(
    r"(?:\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}.*)?|\d{4}/\d{1,2}/\d{1,2}|\d{1,2}/\d{1,2}/\d{2,4}"
    r"|\d{1,2}\.\d{1,2}\.\d{2,4}|\d{1,2}:\d{2}(?::\d{2})?)\Z"
)
_DECIMAL = re.compile(r"[-+]?(?:0|[1-9]\d*)(?:\.\d+)?\Z")
_ISO_DAY = re.compile(r"\b\d{4}-\d{2}-\d{2}\b")
_ADDRESS = re.compile(r"(?:[^\s@]+@[^\s@]+\.[^\s@]+|[a-z][a-z0-9+.-]*://\S+|/\S+)\Z", re.IGNORECASE)
# Signs that no sentence holds: brackets of programs, options, backslashes, the words of SQL.
_CODE = re.compile(
    r"[{}\[\]\\|<>^~`]|^\s*=|==|=>|->|&&|\$\w*[({]|\w\(\)|;\s*$|(?:^|\s)--?[a-z]\w*"
    r"|\b(?:SELECT|INSERT|UPDATE|DELETE|FROM|WHERE|MATCH|RETURN)\b"
    r"|\b(?:select|delete)\b.*\bfrom\b|\bupdate\b.*\bset\b|\b(?:def|lambda|import|function|var)\s+\w"
)
# Operators between numbers or names, which a sentence may hold in passing: "and/or", "13 - 11".
_OPERATOR = re.compile(r"(?<!\w)[\w.)]+\s*[*/%=+]\s*[\w(.]|\d\s*-\s*\d|\)\s*[-+*/]|[-+*/]\s*\(")
_ARITHMETIC = re.compile(r"(?=.*\d)(?=.*[-+*/%^(])[\d\s.,()+\-*/%^]+\Z")
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")


def _lexicon(words: str) -> frozenset[str]:
    return frozenset(words.split())


# Small words that sentences are held together by, and that programs do not use.
_SMALL_WORDS = _lexicon(
    "the an of my me you your we our this that these those it its it's are was were be been has have"
    " had do does did can could would should will please what how which who why there their they she"
    " he his her us about need needs want wants i'm don't doesn't can't cannot"
    " le la les un une des du de et est pour que qui dans avec mon ma mes nous vous je il elle ce"
    " cette au aux sont sur plus votre vos"
    " der das und ist ein eine nicht ich el los las una por para con es mi"
)
# These do stand in programs, and single letters are variables: no evidence by themselves.
_LOOSE_WORDS = _lexicon(
    "a i and or not in from where if for with to all as is like on by at so when while more than any"
    " no but due after before"
)


def infer_kind(values: Iterable[Any]) -> Inferred | None:
    """Return what the values of one parameter are, or None where they are too few or say nothing.

    Args:
        values: scalars, repeats included; nulls count for nothing.
    """
    counted: Counter[bytes] = Counter()
    by_token: dict[bytes, Any] = {}
    for value in values:
        if value is not None:
            token = canonical_json(value)
            counted[token] += 1
            by_token[token] = value
    n, distinct = counted.total(), len(counted)
    if n < _MIN_SEEN:
        return None
    # Sorted, so that no sum depends on the order of recording.
    seen = [by_token[token] for token in sorted(counted)]
    kind, evidence = _judged(seen, n)
    return Inferred(kind=kind, evidence=evidence, n=n, distinct=distinct)


def _judged(seen: Sequence[Any], n: int) -> tuple[Kind, str]:
    """Return the kind of the different values of `n`, and why."""
    strings = [value for value in seen if isinstance(value, str)]
    if not strings:
        if all(isinstance(value, bool) for value in seen):
            return Kind.ENUM, "true or false"
        if any(isinstance(value, bool) for value in seen):
            return Kind.ENTITY, "true, false and numbers"
        return Kind.NUMBER, "numbers"
    if len(strings) < len(seen):
        if all(_DECIMAL.match(value) for value in strings):
            return Kind.NUMBER, "numbers, some of them written as text"
        return Kind.ENTITY, "text and other values"
    return (
        _of_one_form(strings)
        or _code(strings)
        or _words_of_few(strings, n)
        or _sentences(strings)
        or (Kind.ENTITY, "names, or too little to say more")
    )


def _of_one_form(strings: Sequence[str]) -> tuple[Kind, str] | None:
    stripped = [value.strip() for value in strings]
    if all(_DATE.match(value) for value in stripped):
        return Kind.DATE, "dates or times"
    if all(_DECIMAL.match(value) for value in stripped):
        lengths = {len(value) for value in stripped}
        if len(lengths) == 1 and min(lengths) >= 5:
            return Kind.ID, "digits, all of one length"
        return Kind.NUMBER, "numbers written as text"
    if any(not value or any(sign.isspace() for sign in value) for value in stripped):
        return None
    if all(_ADDRESS.match(value) for value in stripped):
        return Kind.ID, "addresses: email, URL or path"
    with_digits = sum(any(sign.isdigit() for sign in value) for value in stripped)
    plain = not any(_is_code(value) for value in stripped)
    if plain and _share(with_digits, stripped) >= _MIN_ID_SHARE:
        return Kind.ID, f"single words, {with_digits} of {len(stripped)} with digits"
    return None


def _code(strings: Sequence[str]) -> tuple[Kind, str] | None:
    code = sum(_is_code(value) for value in strings)
    if _share(code, strings) >= _MIN_CODE_SHARE:
        return Kind.CODE, f"{code} of {len(strings)} different values hold operators or code signs"
    return None


def _words_of_few(strings: Sequence[str], n: int) -> tuple[Kind, str] | None:
    few = len(strings) <= _MAX_WORDS_OF_ENUM and n >= _MIN_REPEATS_OF_ENUM * len(strings)
    if few and n > _MAX_WORDS_OF_ENUM and all(len(value) <= _MAX_ENUM_LENGTH for value in strings):
        return Kind.ENUM, f"{len(strings)} different among {n}"
    return None


def _sentences(strings: Sequence[str]) -> tuple[Kind, str] | None:
    if len(strings) < _MIN_SENTENCES:
        return None
    code = sum(_is_code(value) for value in strings)
    sentences = sum(_is_sentence(value) for value in strings)
    if _share(code, strings) > _MAX_CODE_SHARE_OF_TEXT:
        return None
    words = sum(len(_WORD.findall(value)) for value in strings)
    if words < _MIN_MEAN_WORDS * len(strings):
        return None
    if _share(sentences, strings) >= _MIN_SENTENCE_SHARE:
        return Kind.TEXT, f"{sentences} of {len(strings)} different values are sentences"
    return None


def _is_code(value: str) -> bool:
    if _CODE.search(value) or _ARITHMETIC.match(value.strip()):
        return True
    return bool(_OPERATOR.search(_ISO_DAY.sub("", value))) and not _is_sentence(value, min_words=6)


def _is_sentence(value: str, min_words: int = _MIN_WORDS) -> bool:
    """Say whether a value is mostly letters, mostly lower-case words, and some of them small ones."""
    words = _WORD.findall(value)
    lower = sum(word[0].islower() for word in words)
    folded = [word.casefold().replace("’", "'") for word in words]
    small = sum(word in _SMALL_WORDS for word in folded)
    loose = sum(word in _LOOSE_WORDS for word in folded)
    letters = sum(sign.isalpha() or sign.isspace() for sign in value)
    return (
        len(words) >= min_words
        and small > 0
        and 6 * (small + loose) >= len(words)
        and 2 * lower >= len(words)
        and letters >= 0.7 * len(value)
    )


def _share(part: int, whole: Sequence[object]) -> float:
    return part / len(whole) if whole else math.nan
