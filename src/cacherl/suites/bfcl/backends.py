"""BFCL's real backends, fresh for each episode, called by name with parsed arguments.

Their own runner evaluates text and keeps instances in module globals; neither is used.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cacherl.core.messages import ToolCall
from cacherl.core.records import JsonObject
from cacherl.core.schema import error_text
from cacherl.core.tools import ErrorClass, Source, Tier, ToolResult
from cacherl.suites.bfcl.cases import Case, Cases
from cacherl.suites.bfcl.wheel import backend

_STATELESS = frozenset({"MathAPI"})
_UNREAD = frozenset({"_api_description", "_flight_cost_lookup", "_last_modified"})
"""Attributes that no tool's answer depends on: a text, prices kept within one call, and when by this
machine's clock a file was written."""
_BY_REFERENCE = (list, dict, set)


class Backends:
    """The tools of one episode (`WorldTools`)."""

    def __init__(self, wheel: Path, cases: Cases, case: Case) -> None:
        """Start the case's backends in its initial state.

        Raises:
            MissingExtraError: MathAPI is one of them, and mpmath is not installed.
        """
        self._class_of = cases.class_of
        self.instances: dict[str, Any] = {}
        """Class name -> its instance."""
        for name in case.classes:
            made = backend(wheel, name)()
            if name not in _STATELESS:
                initial = copy.deepcopy(case.initial.get(name, {}))
                made._load_scenario(initial, long_context=case.is_long)
                # The padding of long contexts is one object of the module: a booking on a padded card
                # would be seen by every later episode.
                vars(made).update(copy.deepcopy(vars(made)))
            self.instances[name] = made

    async def call(self, call: ToolCall) -> ToolResult:
        began = time.perf_counter()
        text, error = self.run(call)
        return ToolResult(
            call_id=call.id,
            name=call.name,
            text=text,
            is_error=error is not None,
            error_class=error,
            tier=Tier.LIVE,
            source=Source.LIVE,
            latency_s=time.perf_counter() - began,
        )

    def run(self, call: ToolCall) -> tuple[str, ErrorClass | None]:
        """Return what BFCL's own runner shows for the call, and why it failed if it did."""
        made = self.instances.get(self._class_of.get(call.name, ""))
        if made is None:
            return error_text("not_found", f"no tool {call.name}"), ErrorClass.NOT_FOUND
        try:
            said = getattr(made, call.name)(**_owned(getattr(made, call.name), call.arguments))
        except Exception as error:  # noqa: BLE001 - any exception of the backend is its answer
            return f"Error during execution: {error}", ErrorClass.UNKNOWN
        failed = isinstance(said, dict) and "error" in said
        return _shown(said), ErrorClass.UNKNOWN if failed else None

    def fingerprint(self) -> str:
        """Digest of everything the backends hold, private parts and their dice included."""
        digest = hashlib.blake2b(digest_size=16)
        for name, made in self.instances.items():
            digest.update(repr((name, state_of(made))).encode())
        return digest.hexdigest()

    async def aclose(self) -> None:
        """Nothing is held outside this process."""


def _owned(method: Any, arguments: Mapping[str, Any]) -> JsonObject:
    """Return the arguments as objects of this call alone.

    `post_tweet` keeps the list that it was handed and `mention` appends to it, be it the caller's or
    the default of the signature, which all episodes of a process would share.
    """
    given = copy.deepcopy(dict(arguments))
    for name, parameter in inspect.signature(method).parameters.items():
        if name not in given and isinstance(parameter.default, _BY_REFERENCE):
            given[name] = copy.deepcopy(parameter.default)
    return given


def _shown(said: Any) -> str:
    if isinstance(said, str):
        return said
    if isinstance(said, dict):
        try:
            return json.dumps(said)
        except TypeError:
            return str(said)
    return str(said)


def state_of(made: Any) -> Any:
    """Return what an instance holds as nested tuples that print alike for equal states."""
    return _plain(made, {})


def _plain(value: Any, seen: dict[int, int]) -> Any:
    """Return a value as nested tuples; what was met already becomes a back reference.

    Only what the instance itself holds is remembered by its id: a value made here could be gone, and its id
    another's, before the walk ends.
    """
    if isinstance(value, random.Random):
        return ("dice", value.getstate())
    if isinstance(value, str | int | float | bool | None):
        return value
    if id(value) in seen:
        return ("again", seen[id(value)])
    seen[id(value)] = len(seen)
    if isinstance(value, dict):
        return tuple((repr(name), _plain(member, seen)) for name, member in value.items())
    if isinstance(value, list | tuple):
        return tuple(_plain(member, seen) for member in value)
    if isinstance(value, set | frozenset):
        return tuple(sorted(repr(member) for member in value))
    held = [
        (name, _plain(member, seen)) for name, member in vars(value).items() if name not in _UNREAD
    ]
    return (type(value).__name__, tuple(held))
