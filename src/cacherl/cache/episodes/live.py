"""When a tool may run for real, and how many concurrent calls come to run it once."""

from __future__ import annotations

import contextvars
import enum
import threading
import weakref
from asyncio import wrap_future
from collections.abc import Awaitable, Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from cacherl.cache.lookup.tool_cache import ToolCache
from cacherl.core.messages import ToolCall
from cacherl.core.tools import ToolResult

T = TypeVar("T")

LiveCall = Callable[[ToolCall], Awaitable[ToolResult]]
"""Runs a tool for real. Raising, or answering with a TRANSIENT error, says nothing about the call."""


class RecordMode(enum.StrEnum):
    """When a tool runs live and is recorded: what the record modes of vcr.py mean.

    A miss is a call without an EXACT answer. Whatever the mode, a tool that writes never runs unless
    `allow_writes` says so, and no tool runs that could see a write of this episode which the live
    world has not seen.

    Source: vcr.py, "Record Modes"; its cassette is a scenario here.
    """

    NONE = "none"
    """Never."""
    ONCE = "once"
    """On a miss, unless the scenario had recordings when the first such episode was opened on this
    `ToolCache`: a scenario that was recorded before is closed."""
    NEW_EPISODES = "new_episodes"
    """On a miss."""
    ALL = "all"
    """Always: where a tool may run, nothing recorded answers."""


class _Abandoned:
    """The one who ran the call was cancelled: somebody else has to."""


_ABANDONED = _Abandoned()
_LEADING: contextvars.ContextVar[frozenset[Hashable]] = contextvars.ContextVar(
    "cacherl_leading", default=frozenset()
)


class SingleFlight(Generic[T]):
    """Runs one call for all who ask for it at the same time, in any threads and event loops.

    Everybody gets the value, or the exception. A waiter that is cancelled leaves the others alone;
    when the one who runs the call is cancelled, a waiter runs it anew with what it brought itself.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[Hashable, Future[T | _Abandoned]] = {}

    def __len__(self) -> int:
        """How many calls are on their way."""
        return len(self._flights)

    async def join(self, key: Hashable, run: Callable[[], Awaitable[T]]) -> T:
        """Return what `run`, or an equal call that is on its way already, returns."""
        key = ("task", key)
        while True:
            flight, leads = self._board(key)
            if flight is None:
                return await run()
            if not leads:
                value = await wrap_future(flight)
                if isinstance(value, _Abandoned):
                    continue
                return value
            token = _LEADING.set(_LEADING.get() | {key})
            try:
                value = await run()
            except BaseException as error:
                self._fail(key, flight, error)
                raise
            finally:
                _LEADING.reset(token)
            self._land(key, flight, value)
            return value

    def join_blocking(self, key: Hashable, run: Callable[[], T]) -> T:
        """Do what `join` does, among threads. Never waits for an event loop, which could be its own."""
        key = ("thread", key)
        while True:
            flight, leads = self._board(key)
            if flight is None:
                return run()
            if not leads:
                value = flight.result()
                if isinstance(value, _Abandoned):
                    continue
                return value
            token = _LEADING.set(_LEADING.get() | {key})
            try:
                value = run()
            except BaseException as error:
                self._fail(key, flight, error)
                raise
            finally:
                _LEADING.reset(token)
            self._land(key, flight, value)
            return value

    def _board(self, key: Hashable) -> tuple[Future[T | _Abandoned] | None, bool]:
        """Return the flight and whether the caller has to fly it; None inside that very flight."""
        if key in _LEADING.get():
            return None, False  # a tool that calls itself: waiting would be for ever
        with self._lock:
            flight = self._flights.get(key)
            if flight is not None:
                return flight, False
            flight = self._flights[key] = Future()
        # A running future cannot be cancelled by one of those who wait for it.
        flight.set_running_or_notify_cancel()
        return flight, True

    def _land(self, key: Hashable, flight: Future[T | _Abandoned], value: T | _Abandoned) -> None:
        with self._lock:
            del self._flights[key]
        flight.set_result(value)

    def _fail(self, key: Hashable, flight: Future[T | _Abandoned], error: BaseException) -> None:
        if not isinstance(error, Exception):
            self._land(key, flight, _ABANDONED)
            return
        with self._lock:
            del self._flights[key]
        flight.set_exception(error)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What all episodes on one open cache have in common."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    """Held while an episode looks, counts or records, never while a tool runs."""
    flights: SingleFlight[Any] = field(default_factory=SingleFlight)
    known: dict[str, frozenset[str]] = field(default_factory=dict)
    """Namespace -> scenarios that had recordings when first asked."""


_SHARED: weakref.WeakKeyDictionary[ToolCache, Shared] = weakref.WeakKeyDictionary()
_SHARED_LOCK = threading.Lock()


def shared_by(cache: ToolCache) -> Shared:
    """Return what the episodes on this cache share."""
    shared = _SHARED.get(cache)
    if shared is None:
        with _SHARED_LOCK:
            shared = _SHARED.setdefault(cache, Shared())
    return shared


def had_recordings(cache: ToolCache, namespace: str, scenario: str) -> bool:
    """Say whether the scenario had recordings when this was first asked of the namespace.

    Reads the whole cache, once.
    """
    shared = shared_by(cache)
    with shared.lock:
        known = shared.known.get(namespace)
        if known is None:
            known = frozenset(
                kept.observation.scenario
                for entry in cache.store.entries()
                if entry.call.namespace == namespace
                for kept in entry.kept
            )
            shared.known[namespace] = known
    return scenario in known
