"""What an exception or an HTTP status says of a call: the class of its error, and its words."""

from __future__ import annotations

import re

from cacherl.core.schema import error_text
from cacherl.core.sources import Answer
from cacherl.core.tools import ErrorClass

MAX_MESSAGE = 2_000
"""Characters of an exception's message that a model is shown."""

_KINDS: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], ErrorClass], ...] = (
    ((TimeoutError, ConnectionError), ErrorClass.TRANSIENT),
    (PermissionError, ErrorClass.PERMISSION),
    ((LookupError, FileNotFoundError), ErrorClass.NOT_FOUND),
    ((ValueError, TypeError), ErrorClass.VALIDATION),
)

_TRANSIENT_NAMES = frozenset(
    {"Timeout", "TimeoutException", "ConnectionError", "TransportError", "ClientConnectionError"}
)
"""Of requests, httpx and aiohttp, whose exceptions are no kin of Python's own."""


def class_of_exception(error: BaseException) -> ErrorClass:
    """Return what an exception of a tool says of its call.

    Python's own exceptions speak for themselves; an exception that carries an HTTP response (of
    requests or httpx) is what its status is.
    """
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(status, int):
        return class_of_status(status)
    if not _TRANSIENT_NAMES.isdisjoint(kind.__name__ for kind in type(error).__mro__):
        return ErrorClass.TRANSIENT
    for kinds, found in _KINDS:
        if isinstance(error, kinds):
            return found
    return ErrorClass.UNKNOWN


def class_of_status(status: int) -> ErrorClass:
    """Return what an HTTP status of 400 or more says of the call."""
    match status:
        case 404 | 410:
            return ErrorClass.NOT_FOUND
        case 401 | 403:
            return ErrorClass.PERMISSION
        case 400 | 422:
            return ErrorClass.VALIDATION
        case 408 | 425 | 429:
            return ErrorClass.TRANSIENT
        case _ if status >= 500 and status != 501:
            return ErrorClass.TRANSIENT
        case _:
            return ErrorClass.UNKNOWN


def exception_answer(error: BaseException) -> Answer:
    """Return an exception as a tool's answer: its class and its words, no traceback."""
    kind = class_of_exception(error)
    words = str(error)
    if isinstance(error, KeyError) and error.args:
        words = str(error.args[0])  # str() of a KeyError is the repr of its key
    if kind is ErrorClass.UNKNOWN or not words:
        words = f"{type(error).__name__}: {words}".removesuffix(": ")
    return refused(kind, words, may_have_run=True)


def refused(kind: ErrorClass, words: str, *, may_have_run: bool = False) -> Answer:
    """Return an error answer in the loop's own form."""
    if len(words) > MAX_MESSAGE:
        words = words[:MAX_MESSAGE] + " [...]"
    return Answer(
        text=error_text(kind, printable(words)), error_class=kind, may_have_run=may_have_run
    )


def printable(text: str) -> str:
    """Return the text as a file can hold it: half a surrogate pair (odd file names) is escaped."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="backslashreplace").decode()
    return text


_NOISE = re.compile(
    r"[\W_]*$|at \S+ |File \"|Traceback |Node\.js v|A complete log of this run"
    r"|Note that you can also install from|tarball, folder, http url"
)
"""Rules and carets, frames of a stack, and what npm says below every error of its own."""
_OF_NPM = re.compile(r"npm (error|ERR!)( code)?( \d+\b)?\s*")
_LINES, _CHARS = 3, 400


def said_last(stderr: str) -> str:
    """Return the last few lines in which a program told why it ended, as one line; nothing if none did."""
    lines = (_OF_NPM.sub("", " ".join(line.split()), count=1) for line in stderr.splitlines())
    telling = [line for line in lines if not _NOISE.match(line)]
    return printable(" | ".join(telling[-_LINES:]))[-_CHARS:]
