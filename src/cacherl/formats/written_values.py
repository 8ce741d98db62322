"""Values as other people's rows write them: JSON inside a string, Python's quotes, values amid prose.

Nothing is ever executed: Python's own parser makes a tree, and only literals of it are read.
"""

from __future__ import annotations

import ast
import json
import math
import warnings
from collections.abc import Iterator
from typing import Any

import msgspec

from cacherl.core.records import JsonObject
from cacherl.formats.rows import Unreadable


def unpacked(value: Any, field: str) -> Any:
    """Return the value of a JSON text, and anything else as it is. A blank text is None.

    Raises:
        Unreadable: it is a text, and no JSON.
    """
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    try:
        return decoded(value)
    except ValueError as error:
        raise Unreadable(field, f"no JSON ({error})") from error


def decoded(text: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: it is no JSON, or nested too deep.
    """
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise ValueError(str(error)) from error
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def an_object(value: Any, field: str) -> JsonObject:
    """Return the value if it is an object, or the JSON text of one.

    Raises:
        Unreadable: it is not.
    """
    value = unpacked(value, field)
    if not isinstance(value, dict):
        raise Unreadable(field, "missing" if value is None else f"no object but {_kind(value)}")
    return value


def a_list(value: Any, field: str) -> list[Any]:
    """Return the value if it is a list, or the JSON text of one.

    Raises:
        Unreadable: it is not.
    """
    value = unpacked(value, field)
    if not isinstance(value, list):
        raise Unreadable(field, "missing" if value is None else f"no list but {_kind(value)}")
    return value


def a_text(value: Any, field: str) -> str:
    """Return the value if it is a text; None is an empty one.

    Raises:
        Unreadable: it is neither.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Unreadable(field, f"no text but {_kind(value)}")
    return value


def a_count(value: Any) -> int:
    """Return the value if it is a whole number from 0, else 0."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def as_text(value: Any) -> str:
    """Return what a tool answered as a text: texts as they are, other values as JSON.

    Raises:
        Unreadable: it is nested too deep to be written.
    """
    if value is None:
        return ""
    try:
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    except RecursionError as error:
        raise Unreadable("", "nested too deep") from error


def content_text(value: Any, field: str) -> str:
    """Return the text of a message's content: a text, or the texts of its parts, one below the other.

    Parts of other kinds (images, sound) are left out.

    Raises:
        Unreadable: it is neither.
    """
    if isinstance(value, dict):
        return as_text(value)
    if not isinstance(value, list):
        return a_text(value, field)
    texts = [part.get("text") if isinstance(part, dict) else part for part in value]
    return "\n".join(text for text in texts if isinstance(text, str))


def _kind(value: Any) -> str:
    return {dict: "an object", list: "a list", str: "a text", bool: "a truth value"}.get(
        type(value), "a number"
    )


def literal(text: str) -> Any:
    """Return the value of a JSON text or of a Python literal (`{'a': True, 'b': None}`).

    `true`, `false` and `null` are read in either.

    Raises:
        ValueError: it is neither, or holds what JSON cannot.
    """
    try:
        return decoded(text)
    except ValueError:
        pass
    try:
        with warnings.catch_warnings(action="ignore"):  # of backslashes that escape nothing
            tree = ast.parse(text.strip(), mode="eval")
        return _plain(tree.body)
    except SyntaxError as error:
        raise ValueError(f"neither JSON nor a Python literal ({error.msg})") from error
    except (RecursionError, MemoryError) as error:
        raise ValueError("nested too deep") from error


_WORDS = {"true": True, "false": False, "null": None, "none": None}


def _plain(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=None | bool() | int() as value):
            return value
        case ast.Constant(value=float() as value) if math.isfinite(value):
            return value
        case ast.Constant(value=str() as value):
            value.encode()  # a lone surrogate cannot be written to any file: UnicodeEncodeError
            return value
        case ast.List(elts=parts) | ast.Tuple(elts=parts) | ast.Set(elts=parts):
            return [_plain(part) for part in parts]
        case ast.Dict(keys=keys, values=values):
            return {_key(key): _plain(value) for key, value in zip(keys, values, strict=True)}
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -_plain(ast.Constant(value=value))
        case ast.Name(id=word) if word.lower() in _WORDS:
            return _WORDS[word.lower()]
    raise ValueError(f"no literal but {type(node).__name__}")


def _key(node: ast.expr | None) -> str:
    value = None if node is None else _plain(node)
    if isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return json.dumps(value)
    raise ValueError("a key that is no text")


def values_in(prose: str) -> Iterator[tuple[int, int, Any]]:
    """Yield the JSON objects and arrays amid a text: start, end, value. Those inside others are not told."""
    decoder = json.JSONDecoder()
    place = 0
    while True:
        starts = [at for at in (prose.find("{", place), prose.find("[", place)) if at >= 0]
        if not starts:
            return
        start = min(starts)
        try:
            value, end = decoder.raw_decode(prose, start)
            text = prose[start:end]
            value = decoded(text)  # json admits NaN and lone surrogates
        except (ValueError, RecursionError):
            place = start + 1
            continue
        yield start, end, value
        place = end
