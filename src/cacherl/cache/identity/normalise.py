"""When two calls of one tool are the same call: schema-aware normalisation of arguments.

A `Plan` is compiled once per tool and rewrites arguments to a normal form; every rule that
rewrote something is reported. The rules undo only what the schema says cannot matter: a rule that
guesses would make EXACT a lie. Where the schema is silent, strings are identities.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import math
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from cacherl.cache.identity.canonical import canonical_json, encode_folded, fold_number
from cacherl.core.errors import DataError
from cacherl.core.records import JsonObject
from cacherl.core.schema import MAX_DEPTH
from cacherl.core.tools import Effects, ErrorClass, ToolSpec

PLAN_VERSION = "p1"
"""Bump it when kinds, shapes or features change: indexes made before are then built anew."""


class Kind(enum.StrEnum):
    """What a field means to matching. Only TEXT may ever differ in a FUZZY hit."""

    ID = "id"
    NUMBER = "number"
    DATE = "date"
    ENUM = "enum"
    ENTITY = "entity"
    """A name: the default of a string that nothing is known about."""
    TEXT = "text"
    CODE = "code"
    """Code, SQL, expressions: kept byte for byte, never matched loosely."""
    VOLATILE = "volatile"
    """Request ids, time stamps: no part of the call's identity at all."""


class Rule(enum.StrEnum):
    """A rewriting of arguments that leaves the call the same."""

    INTEGRAL_FLOAT = "10.0 is 10"
    NUMBER_FROM_STRING = '"10" is 10 where the schema wants a number'
    UNICODE_NFC = "Unicode NFC"
    WHITE_SPACE = "white space"
    ENUM_CASE = "letter case of an enum value"
    DATE_TIME_FORM = "RFC 3339 form of a date-time"
    DEFAULT_FILLED = "schema default filled in"
    NULL_DROPPED = "null of an optional parameter dropped"
    VOLATILE_DROPPED = "volatile parameter dropped"
    UNORDERED_SORTED = "unordered array sorted"


_COERCIONS = frozenset(Rule) - {Rule.DEFAULT_FILLED, Rule.UNORDERED_SORTED}
_OF_ARGUMENTS = frozenset({ErrorClass.VALIDATION, ErrorClass.NOT_FOUND, ErrorClass.UNKNOWN})


class Fired(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One rule that rewrote one place."""

    rule: Rule
    path: str


def is_mended_refusal(fired: Sequence[Fired], error_class: ErrorClass | None) -> bool:
    """Say whether an error may be due to what normalisation mends, and so says nothing of the normal form.

    A strict tool refuses `"10"`, does not find `"A1 "`, and answers 10 and `"A1"`.
    """
    return error_class in _OF_ARGUMENTS and any(each.rule in _COERCIONS for each in fired)


class NormalCall(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Arguments in normal form."""

    arguments: JsonObject
    canonical: bytes
    """`arguments` as canonical JSON: what the key is made of."""
    fired: tuple[Fired, ...]


class Field(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One identity leaf of the arguments."""

    path: str
    """`flights[].date`: places in an array share a path."""
    kind: Kind
    token: str
    """The value as canonical JSON text."""


class Shape:
    """Normal arguments as matching sees them. FUZZY asks for gate and texts, BEST_EFFORT for fields."""

    __slots__ = ("_arguments", "_fields", "_root", "gate", "texts")

    def __init__(self, root: _Node, arguments: JsonObject) -> None:
        texts: list[tuple[str, str]] = []
        try:
            gate, odd = root.gate(arguments, "", texts, odd=False), False
        except _OddNumberError:
            texts.clear()
            gate, odd = root.gate(arguments, "", texts, odd=True), True
        if len(texts) > 1:
            texts.sort()
        self.gate = encode_folded(gate, odd=odd)
        """Canonical arguments without their texts: must agree for FUZZY."""
        self.texts = tuple(texts)
        """(path, text), array places numbered: the only part that may differ for FUZZY."""
        self._root = root
        self._arguments = arguments
        self._fields: tuple[Field, ...] | None = None

    @property
    def arguments(self) -> JsonObject:
        """What it was made of."""
        return self._arguments

    @property
    def fields(self) -> tuple[Field, ...]:
        """The identity leaves."""
        if self._fields is None:
            leaves = self._root.leaves(self._arguments, "") if self._arguments else ()
            self._fields = tuple(leaves)
        return self._fields

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Shape)
            and self.gate == other.gate
            and self.texts == other.texts
            and self.fields == other.fields
        )

    def __hash__(self) -> int:
        return hash((self.gate, self.texts))

    def __repr__(self) -> str:
        return f"Shape(gate={self.gate!r}, texts={self.texts!r}, fields={self.fields!r})"


class _OddNumberError(Exception):
    """NaN or an infinity, which only the slower encoder can write."""


def _lexicon(words: str) -> frozenset[str]:
    return frozenset(words.split())


# Names of parameters, not of values. A wrong TEXT would let different calls match, so only words
# that hardly ever name an identity stand here; everything else stays an entity.
_TEXT_NAMES = _lexicon(
    "body comment comments content description details explanation feedback message note notes"
    " prompt q query question reason search_query summary text thought"
)
_CODE_NAMES = _lexicon(
    "cmd code command cypher expr expression formula graphql html javascript jq json jsonpath"
    " pattern python query_string regex regexp script shell snippet sparql sql statement template"
    " where xpath yaml"
)
_ID_NAMES = _lexicon(
    "code email hash iban id ids isbn key number path phone ref reference sku token uri url uuid"
    " zip"
)
_CODE_WORDS = re.compile(
    r"\b(sql|sparql|cypher|graphql|regex|regular expression|expression|code|shell|command|script"
    r"|jsonpath|xpath|formula|python)\b"
)
_WORD_BREAK = re.compile(r"[_\-.\s]+|(?<=[a-z0-9])(?=[A-Z])")
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,4000})\Z")
_DECIMAL = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?\Z")
_ISO_DATE = re.compile(r"\d{4}-\d{2}-\d{2}(?:[Tt ].*)?\Z")
_DATE_TIME = re.compile(
    r"(\d{4}-\d{2}-\d{2})[Tt ](\d{2}:\d{2}:\d{2})(?:\.(\d+))?(?:([Zz])|([+-]\d{2}:\d{2}))\Z"
)
_ID_VALUE = re.compile(r"(?=\S*\d)\S+\Z")
_UNSAID: Any = object()
_TEXT_MARK = None  # stands in the gate where a text was


class _Log:
    """What fired during one normalisation."""

    __slots__ = ("fired", "odd")

    def __init__(self) -> None:
        self.fired: list[Fired] = []
        self.odd = False

    def add(self, rule: Rule, path: str) -> None:
        self.fired.append(Fired(rule=rule, path=path))


# Which strings of a place are in normal form already, at a glance. Plain integers: an enum's
# attributes cost more to read than the comparison itself, five times a call.
_NEVER = 0
_VERBATIM = 1  # all of them
_ASCII = 2
_TIDY = 3  # printable ASCII with single spaces inside only
_DAY = 4  # tidy ones without a time of day
_WORD = 5  # lower-case words of the enum


class _Node:
    """The compiled rules of one place in the arguments."""

    __slots__ = (
        "additional",
        "coerce",
        "default",
        "defaults",
        "enum_by_fold",
        "fast",
        "items",
        "kind",
        "null_means",
        "optional",
        "properties",
        "runs_code",
        "unordered",
        "volatile",
        "writes",
    )

    def __init__(self, kind: Kind | None, *, writes: bool, runs_code: bool = False) -> None:
        self.kind = kind
        """None: decided by the value (ID, DATE or ENTITY for strings)."""
        self.writes = writes
        self.runs_code = runs_code
        """The tool runs code: what its schema does not describe may be code as well."""
        self.properties: dict[str, _Node] = {}
        self.additional: _Node | None = None
        self.items: _Node | None = None
        self.optional: frozenset[str] = frozenset()
        self.defaults: tuple[tuple[str, Any], ...] = ()
        self.coerce: str | None = None
        self.enum_by_fold: dict[str, str] | None = None
        self.null_means = False
        """An explicit null is allowed and differs from leaving the parameter out."""
        self.unordered = False
        self.volatile = kind is Kind.VOLATILE
        self.fast = _NEVER

    def settle(self) -> _Node:
        """Decide how little can be done for the strings that models usually write. Call once, when complete."""
        if self.volatile or self.coerce is not None:
            self.fast = _NEVER
        elif self.kind is Kind.CODE:
            self.fast = _VERBATIM
        elif self.enum_by_fold is not None:
            self.fast = _WORD
        elif self.kind is Kind.DATE:
            self.fast = _DAY
        elif self.writes and self.kind is Kind.TEXT:
            self.fast = _ASCII
        else:
            self.fast = _TIDY
        return self

    # ---- rewriting

    def apply(self, value: Any, path: str, log: _Log) -> Any:
        if isinstance(value, str):
            return self._string(value, path, log)
        if isinstance(value, dict):
            return self.apply_object(value, path, log)
        if isinstance(value, list | tuple):
            return self._array(value, path, log)
        if isinstance(value, float):
            if not math.isfinite(value):
                log.odd = True
            elif value.is_integer():
                log.add(Rule.INTEGRAL_FLOAT, path)
                return fold_number(value)
        return value

    def _string(self, value: str, path: str, log: _Log) -> Any:
        if self.coerce is not None:
            number = _number(value, integer=self.coerce == "integer")
            if number is not None:
                log.add(Rule.NUMBER_FROM_STRING, path)
                return number
        if self.kind is Kind.CODE:
            return value
        if not value.isascii():
            composed = unicodedata.normalize("NFC", value)
            if composed != value:
                log.add(Rule.UNICODE_NFC, path)
                value = composed
        # What a writer stores, it stores with its line breaks.
        if not (self.writes and self.kind is Kind.TEXT):
            squeezed = _squeezed(value, self.kind)
            if squeezed != value:
                log.add(Rule.WHITE_SPACE, path)
                value = squeezed
        if self.enum_by_fold is not None:
            said = self.enum_by_fold.get(value.casefold())
            if said is not None and said != value:
                log.add(Rule.ENUM_CASE, path)
                return said
        if self.kind is Kind.DATE:
            form = _date_time(value)
            if form != value:
                log.add(Rule.DATE_TIME_FORM, path)
                return form
        return value

    def apply_object(self, value: Mapping[str, Any], path: str, log: _Log) -> JsonObject:
        out: JsonObject = {}
        properties = self.properties
        for name, member in value.items():
            # Most members need no rewriting at all: see that for the price of a few comparisons.
            node = properties.get(name) or self.member(name)
            kind = type(member)
            if kind is str:
                fast = node.fast
                if fast == _TIDY or (fast == _DAY and len(member) <= 10):
                    if (
                        member.isascii()
                        and member.isprintable()
                        and "  " not in member
                        and member[:1] != " "
                        and member[-1:] != " "
                    ):
                        out[name] = member
                        continue
                elif fast == _WORD:
                    if node.enum_by_fold and node.enum_by_fold.get(member) == member:
                        out[name] = member
                        continue
                elif fast == _VERBATIM or (fast == _ASCII and member.isascii()):
                    out[name] = member
                    continue
            elif (kind is int or kind is bool) and not node.volatile:
                out[name] = member
                continue
            here = f"{path}.{name}" if path else name
            if node.volatile:
                log.add(Rule.VOLATILE_DROPPED, here)
                continue
            if member is None and name in self.optional and not node.null_means:
                log.add(Rule.NULL_DROPPED, here)
                continue
            out[name] = node.apply(member, here, log)
        for name, default in self.defaults:
            if name not in out:
                here = f"{path}.{name}" if path else name
                log.add(Rule.DEFAULT_FILLED, here)
                out[name] = self.member(name).apply(default, here, _Log())
        return out

    def _array(self, value: Sequence[Any], path: str, log: _Log) -> list[Any]:
        node = self.item()
        items = [node.apply(item, f"{path}[{place}]", log) for place, item in enumerate(value)]
        if self.unordered:
            ordered = sorted(items, key=canonical_json)
            if ordered != items:
                log.add(Rule.UNORDERED_SORTED, path)
            return ordered
        return items

    def member(self, name: str) -> _Node:
        return (
            self.properties.get(name) or self.additional or _bare(name, self.writes, self.runs_code)
        )

    def item(self) -> _Node:
        return self.items or _Node(self.kind, writes=self.writes, runs_code=self.runs_code).settle()

    # ---- reading

    def gate(self, value: Any, place: str, texts: list[tuple[str, str]], odd: bool) -> Any:
        """Collect the texts and return the value with one and the same mark in place of each.

        Raises:
            _OddNumberError: it holds NaN or an infinity, and `odd` does not say so.
        """
        if isinstance(value, dict) and value:
            gate = {}
            properties = self.properties
            for name, member in value.items():
                kind = type(member)
                if kind is str:
                    node = properties.get(name) or self.member(name)
                    if node.kind is not Kind.TEXT:
                        gate[name] = member
                        continue
                    texts.append((f"{place}.{name}" if place else name, member))
                    gate[name] = _TEXT_MARK
                elif kind is dict or kind is list:
                    inner = f"{place}.{name}" if place else name
                    gate[name] = self.member(name).gate(member, inner, texts, odd)
                elif kind is float and not odd and not math.isfinite(member):
                    raise _OddNumberError
                else:
                    gate[name] = member
            return gate
        if isinstance(value, list) and value:
            node = self.item()
            return [
                node.gate(item, f"{place}[{number}]", texts, odd)
                for number, item in enumerate(value)
            ]
        if self.kind is Kind.TEXT and isinstance(value, str):
            texts.append((place, value))
            return _TEXT_MARK
        if isinstance(value, float) and not odd and not math.isfinite(value):
            raise _OddNumberError
        return value

    def leaves(self, value: Any, path: str) -> Iterator[Field]:
        """Yield the leaves that are no texts."""
        if isinstance(value, dict) and value:
            for name, member in value.items():
                yield from self.member(name).leaves(member, f"{path}.{name}" if path else name)
        elif isinstance(value, list) and value:
            node = self.item()
            for item in value:
                yield from node.leaves(item, f"{path}[]")
        else:
            kind = self._kind_of(value)
            if kind is not Kind.TEXT:
                yield Field(path=path, kind=kind, token=canonical_json(value).decode())

    def _kind_of(self, value: Any) -> Kind:
        if isinstance(value, str):
            if self.kind is not None:
                return self.kind
            if _ISO_DATE.match(value):
                return Kind.DATE
            return Kind.ID if _ID_VALUE.match(value) else Kind.ENTITY
        if isinstance(value, bool) or value is None:
            return Kind.ENUM
        if isinstance(value, int | float):
            return self.kind if self.kind in (Kind.ID, Kind.ENUM) else Kind.NUMBER
        return Kind.ENTITY


class Plan:
    """The compiled normalisation of one tool. Pure: equal specs, equal plans."""

    __slots__ = ("_root", "fingerprint", "tool")

    def __init__(self, tool: str, root: _Node, fingerprint: bytes) -> None:
        self.tool = tool
        self.fingerprint = fingerprint
        """Equal for plans that normalise and match alike; kept beside what was derived from a plan."""
        self._root = root

    def normal(self, arguments: Mapping[str, Any]) -> NormalCall:
        """Return the arguments in normal form, with the rules that fired.

        Idempotent: normal arguments come back as they are, with no rule fired.

        Raises:
            DataError: the arguments are nested too deep to be compared. The agent loop refuses
                such a call before it gets here.
        """
        log = _Log()
        try:
            value = self._root.apply_object(arguments, "", log)
        except RecursionError as error:
            raise DataError(
                f"a call of {self.tool}: the arguments are nested too deep to be looked up or "
                f"recorded. Refuse calls nested deeper than {MAX_DEPTH} levels, as the agent loop does."
            ) from error
        return NormalCall(
            arguments=value,
            canonical=encode_folded(value, odd=log.odd),
            fired=tuple(log.fired),
        )

    def shape(self, arguments: JsonObject) -> Shape:
        """Return what matching compares, of arguments in normal form."""
        return Shape(self._root, arguments)

    def kinds(self) -> dict[str, str]:
        """Return the declared or inferred kind of each parameter, for people to check."""
        return {
            name: "by value" if node.kind is None else str(node.kind)
            for name, node in sorted(self._root.properties.items())
        }


def plan_of(spec: ToolSpec) -> Plan:
    """Return the tool's plan, compiled on first use."""
    return _plan(
        spec.name,
        spec.description,
        msgspec.json.encode(spec.parameters, order="sorted"),
        bool(spec.effects.writes),
    )


def is_writer(effects: Effects) -> bool:
    """Say whether the tool changes anything; one that declares nothing counts as a writer."""
    return bool(effects.writes)


@functools.lru_cache(maxsize=8192)
def _plan(name: str, description: str, schema_json: bytes, writes: bool) -> Plan:
    schema = msgspec.json.decode(schema_json)
    runs_code = bool(_CODE_WORDS.search(" ".join(_words(name)))) or "SQL" in description
    compiler = _Compiler(schema, writes=writes, runs_code=runs_code)
    root = compiler.node(schema, "", ())
    # MCP clients put request ids and progress tokens here.
    root.properties.setdefault("_meta", _Node(Kind.VOLATILE, writes=writes))
    said = b"\n".join(
        (PLAN_VERSION.encode(), name.encode(), description.encode(), schema_json, b"%d" % writes)
    )
    return Plan(name, root, hashlib.blake2b(said, digest_size=16).digest())


class _Compiler:
    """JSON Schema -> nodes. What it does not understand becomes an untyped place: less is undone."""

    def __init__(self, root: JsonObject, *, writes: bool, runs_code: bool) -> None:
        self._root = root
        self._writes = writes
        self._runs_code = runs_code

    def node(self, schema: Any, name: str, above: tuple[str, ...]) -> _Node:
        schema, above, nullable = self._resolved(schema, above)
        types = schema.get("type", ())
        types = {types} if isinstance(types, str) else set(types)
        nullable = nullable or "null" in types
        node = _Node(
            self._kind(schema, types, name), writes=self._writes, runs_code=self._runs_code
        )
        if "string" not in types and types & {"integer", "number"}:
            node.coerce = "number" if "number" in types else "integer"
        words = schema.get("enum")
        if isinstance(words, list):
            node.enum_by_fold = _unambiguous(words)
        default = schema.get("default", _UNSAID)
        # To a writer null may say "clear it" where nothing says "leave it"; a reader looks alike.
        silent = default is _UNSAID and self._writes
        node.null_means = (silent or default not in (None, _UNSAID)) and (
            nullable or _allows_null(schema)
        )
        node.unordered = schema.get("x-unordered") is True
        properties = schema.get("properties")
        if isinstance(properties, dict):
            self._members(node, properties, schema.get("required", ()), above)
        # Places that other words of the schema describe as well are left alone.
        if isinstance(schema.get("additionalProperties"), dict) and not (
            schema.get("patternProperties")
        ):
            node.additional = self.node(schema["additionalProperties"], name, above)
        if isinstance(schema.get("items"), dict) and not schema.get("prefixItems"):
            items = schema["items"]
            if "x-kind" in schema and "x-kind" not in items:
                items = {**items, "x-kind": schema["x-kind"]}
            node.items = self.node(items, name, above)
        return node.settle()

    def _members(
        self, node: _Node, properties: JsonObject, required: Sequence[str], above: tuple[str, ...]
    ) -> None:
        defaults = []
        for name, member in properties.items():
            child = self.node(member, name, above)
            node.properties[name] = child
            default = member.get("default") if isinstance(member, dict) else None
            if default is not None and name not in required and not child.volatile:
                defaults.append((name, default))
        described = {
            name
            for name, member in properties.items()
            if not isinstance(member, dict) or any(not key.startswith("x-") for key in member)
        }
        # Settings can mark a place that no schema describes; whether it is optional they do not say.
        node.optional = frozenset(described - set(required))
        node.defaults = tuple(defaults)

    def _resolved(
        self, schema: Any, above: tuple[str, ...]
    ) -> tuple[JsonObject, tuple[str, ...], bool]:
        """Follow local references and `X or null` unions; anything else stays as it stands."""
        if not isinstance(schema, dict):
            return {}, above, False
        reference = schema.get("$ref")
        if isinstance(reference, str):
            if reference in above or not reference.startswith("#/"):
                return {}, above, False  # recursive or elsewhere: untyped from here on
            target: Any = self._root
            for step in reference[2:].split("/"):
                name = step.replace("~1", "/").replace("~0", "~")
                target = target.get(name) if isinstance(target, dict) else None
            own = {key: value for key, value in schema.items() if key != "$ref"}
            merged = {**target, **own} if isinstance(target, dict) else own
            return self._resolved(merged, (*above, reference))
        for union in ("anyOf", "oneOf"):
            options = schema.get(union)
            if isinstance(options, list):
                others = [option for option in options if option != {"type": "null"}]
                nullable = len(others) < len(options)
                own = {key: value for key, value in schema.items() if key != union}
                if len(others) == 1 and isinstance(others[0], dict):
                    inner, above, deeper = self._resolved({**others[0], **own}, above)
                    return inner, above, nullable or deeper
                return schema, above, nullable
        return schema, above, False

    def _kind(self, schema: JsonObject, types: set[str], name: str) -> Kind | None:
        said = schema.get("x-kind")
        if said is not None:
            # An unknown kind must not match loosely.
            return Kind(said) if said in set(Kind) else Kind.CODE
        if "enum" in schema or "const" in schema or types == {"boolean"}:
            return Kind.ENUM
        if types and types <= {"integer", "number", "null"}:
            return Kind.ID if _is_id(name) else Kind.NUMBER
        form = schema.get("format")
        if form in ("date", "date-time", "time"):
            return Kind.DATE
        if form is not None or "pattern" in schema:
            return Kind.ID
        kind = _kind_by_name(name)
        says_code = bool(_CODE_WORDS.search(str(schema.get("description", "")).lower()))
        if kind is Kind.TEXT and (self._runs_code or says_code):
            return Kind.CODE
        return kind


@functools.lru_cache(maxsize=65536)
def _bare(name: str, writes: bool, runs_code: bool) -> _Node:
    """Return the rules of a parameter that no schema describes."""
    kind = _kind_by_name(name)
    if kind is Kind.TEXT and runs_code:
        kind = Kind.CODE
    return _Node(kind, writes=writes, runs_code=runs_code).settle()


def _words(name: str) -> list[str]:
    return [word.lower() for word in _WORD_BREAK.split(name) if word]


def _is_id(name: str) -> bool:
    words = _words(name)
    return bool(words) and words[-1] in {"id", "ids", "number", "code"}


def _kind_by_name(name: str) -> Kind | None:
    words = _words(name)
    if not words:
        return None
    if name.lower() in _TEXT_NAMES:
        return Kind.TEXT
    if name.lower() in _CODE_NAMES - {"code"} or words[-1] in _CODE_NAMES - {"code", "where"}:
        return Kind.CODE
    if words == ["code"]:
        return Kind.CODE  # a program or a voucher: verbatim is right for both
    if words[-1] in _ID_NAMES:
        return Kind.ID
    return None


def _allows_null(schema: Any) -> bool:
    """Say whether a place may be null for all that its schema says."""
    if not isinstance(schema, dict):
        return schema is not False
    types = schema.get("type")
    if types is not None and types != "null" and "null" not in types:
        return False
    if "const" in schema and schema["const"] is not None:
        return False
    words = schema.get("enum")
    if isinstance(words, list) and None not in words:
        return False
    unions = (schema.get(name) for name in ("anyOf", "oneOf"))
    return all(any(map(_allows_null, union)) for union in unions if isinstance(union, list))


def _squeezed(text: str, kind: Kind | None) -> str:
    """Return the text with single spaces inside and none around it.

    Two spaces are part of a path, and line breaks of a document.
    """
    stripped = text.strip()
    if kind is Kind.ID or "\n" in stripped or "\r" in stripped:
        return stripped
    return " ".join(stripped.split())


def _unambiguous(words: Sequence[Any]) -> dict[str, str] | None:
    by_fold: dict[str, list[str]] = {}
    for word in words:
        if isinstance(word, str):
            by_fold.setdefault(word.casefold(), []).append(word)
    return {fold: said[0] for fold, said in by_fold.items() if len(said) == 1} or None


def _number(text: str, *, integer: bool) -> int | float | None:
    text = text.strip()
    if _INTEGER.match(text):
        return int(text)
    if not _DECIMAL.match(text):
        return None
    value = float(text)
    if not math.isfinite(value):
        return None
    if value.is_integer():
        return int(value)
    return None if integer else value


def _date_time(text: str) -> str:
    """Return RFC 3339's one form: `T`, `Z` for +00:00, no zero fraction. Other text is left alone."""
    found = _DATE_TIME.match(text)
    if found is None:
        return text
    day, clock, fraction, _, offset = found.groups()
    fraction = (fraction or "").rstrip("0")
    zone = "Z" if offset in (None, "+00:00") else offset
    return f"{day}T{clock}{'.' + fraction if fraction else ''}{zone}"
