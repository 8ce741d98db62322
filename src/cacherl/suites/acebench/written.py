"""ACEBench's calls as text, `[Api(key='value')]`: written, and read without running anything."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Collection, Sequence
from typing import Any

from cacherl.core.messages import ToolCall
from cacherl.core.records import JsonObject

# ---- writing -----------------------------------------------------------------------------------


def as_milestone(calls: Sequence[ToolCall]) -> str:
    """Return the calls of one message as ACEBench's milestones are written.

    Texts stand between single quotes with nothing escaped, as its own milestones do
    (`title='Today's spending'`); arguments stay in the order in which the model gave them.
    """
    return _listed(calls, _unescaped)


def as_python(calls: Sequence[ToolCall]) -> str:
    """Return the calls of one message as Python would write them: what ACEBench's checker parses."""
    return _listed(calls, repr)


def _listed(calls: Sequence[ToolCall], value: Any) -> str:
    written = (
        f"{call.name}({', '.join(f'{key}={value(given)}' for key, given in call.arguments.items())})"
        for call in calls
    )
    return f"[{', '.join(written)}]"


def _unescaped(value: Any) -> str:
    match value:
        case str():
            return f"'{value}'"
        case list():
            return f"[{', '.join(map(_unescaped, value))}]"
        case dict():
            return (
                "{"
                + ", ".join(f"{_unescaped(key)}: {_unescaped(each)}" for key, each in value.items())
                + "}"
            )
    return repr(value)


# ---- reading -----------------------------------------------------------------------------------


def calls_in(text: str, parameters: Collection[str] = ()) -> list[tuple[str, JsonObject]]:
    """Return the calls of a text: names with their arguments. Positional arguments are dropped.

    A text that is no Python (an apostrophe inside single quotes) is read by the names of the
    parameters: what stands between `name='` and `'` before the next name is a text.

    Args:
        text: `[Api(key='value'), ...]`; the brackets may be missing.
        parameters: every parameter name that may occur, for a text that is no Python.

    Raises:
        ValueError: it is no list of calls.
    """
    body = text.strip()
    try:
        return _parsed(body)
    except ValueError:
        if parameters:
            return [_by_names(body, parameters)]
        raise


def _parsed(body: str) -> list[tuple[str, JsonObject]]:
    try:
        with warnings.catch_warnings(action="ignore"):  # of backslashes that escape nothing
            tree = ast.parse(body, mode="eval").body
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"no Python ({error})") from error
    found = tree.elts if isinstance(tree, ast.List | ast.Tuple) else [tree]
    calls = []
    for each in found:
        if not isinstance(each, ast.Call):
            raise ValueError(f"'{ast.unparse(each)[:60]}' is no call")
        calls.append(_call(each))
    return calls


def _call(node: ast.Call) -> tuple[str, JsonObject]:
    named = {each.arg: _value(each.value) for each in node.keywords if each.arg is not None}
    return ast.unparse(node.func), named


def _value(node: ast.expr) -> Any:
    """Return a literal; what is none stays the text that it was."""
    match node:
        case ast.Constant(value=bool() | int() | float() | str() | None as value):
            return value
        case ast.List(elts=parts) | ast.Tuple(elts=parts) | ast.Set(elts=parts):
            return [_value(part) for part in parts]
        case ast.Dict(keys=keys, values=values):
            return {
                str(_value(key)): _value(value)
                for key, value in zip(keys, values, strict=True)
                if key is not None
            }
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.Name(id=word):
            return word
        case ast.Call(keywords=[_, *_]):
            name, arguments = _call(node)
            return {name: arguments}
    return ast.unparse(node)


_CALL = re.compile(r"\[?\s*([A-Za-z_][\w.]*)\((.*)\)\s*\]?\s*\Z", re.DOTALL)


def _by_names(body: str, parameters: Collection[str]) -> tuple[str, JsonObject]:
    found = _CALL.match(body)
    if found is None:
        raise ValueError(f"'{body[:60]}' is no call")
    names = "|".join(sorted(map(re.escape, parameters), key=len, reverse=True))
    starts = list(re.finditer(rf"(?:\A|,)\s*({names})\s*=", found[2]))
    if not starts:
        raise ValueError(f"'{body[:60]}' names no parameter")
    ends = [start.start() for start in starts[1:]] + [len(found[2])]
    return found[1], {
        start[1]: _bare(found[2][start.end() : end].strip())
        for start, end in zip(starts, ends, strict=True)
    }


def _bare(text: str) -> Any:
    try:
        with warnings.catch_warnings(action="ignore"):
            return _value(ast.parse(text, mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError):
        pass
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    return text
