"""Calls that pass, into a cache: each in the state that the calls asked for before it left."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from cacherl.cache.episodes.episode import Episode, Turn
from cacherl.cache.identity.normalise import is_writer
from cacherl.core.messages import ToolCall
from cacherl.core.tools import ErrorClass, ToolResult, ToolSpec, undeclared
from cacherl.proxy.messages import MessageId, Reply, Request
from cacherl.proxy.order import Order, Step
from cacherl.proxy.results import is_final, lost, tool_result
from cacherl.proxy.summary import Tally


@dataclass(slots=True)
class _Passing:
    """A call on its way through."""

    call: ToolCall
    spec: ToolSpec
    started: float
    turn: Turn | None = None
    """Where it stands: of a call that only reads, when it is asked for; else when it is over."""
    result: ToolResult | None = None
    """None where it was given up, and nobody knows whether the tool ran."""
    ran: bool = True
    """Whether the tool may have run at all."""


class Recorder:
    """Writes down the calls of one client's session; see `order` for when.

    When `answered` returns, the answer is in the cache, unless a change that was asked for earlier
    is still under way: so what a client was told survives a killed proxy.
    """

    def __init__(self, episode: Episode, tools: Iterable[ToolSpec], tally: Tally) -> None:
        """Record into an episode that runs every tool live (`record="all"`, `allow_writes=True`)."""
        self._episode, self._tally = episode, tally
        self._specs: dict[str, ToolSpec] = {}
        self.offer(tools)
        self._order: Order[_Passing] = Order()
        self._passing: dict[MessageId, _Passing] = {}
        self._writes: list[Turn] = []

    def offer(self, tools: Iterable[ToolSpec]) -> None:
        """Take note of the server's tools."""
        for spec in tools:
            if self._specs.get(spec.name) in (None, undeclared(spec.name)):
                self._specs[spec.name] = spec  # servers list tools later that they refused before
            self._episode.offer(spec)

    def asked(self, request: Request, call: ToolCall) -> None:
        """A call goes to the server."""
        declared = self._specs.get(call.name) or undeclared(call.name)
        spec = self._episode.cache.effective(self._episode.namespace, declared)
        passing = _Passing(call, spec, time.perf_counter())
        self._passing[request.id] = passing
        self._walk(self._order.asked(passing, writes=is_writer(spec.effects)))

    def answered(self, request_id: MessageId, reply: Reply) -> None:
        """The server answers a call."""
        passing = self._passing.pop(request_id, None)
        if passing is None:
            return  # cancelled before
        if not is_final(reply):
            passing.ran = False
            self._over(passing, "not the tool's answer")
            return
        seconds = time.perf_counter() - passing.started
        passing.result = tool_result(passing.call, reply, seconds)
        if passing.call.name not in self._specs:
            if passing.result.error_class is ErrorClass.TRANSIENT:
                passing.ran = False  # what is not there has changed nothing
                self._over(passing, "transient failure")
                return
            self.offer([undeclared(passing.call.name)])
        self._walk(self._order.over(passing))

    def cancelled(self, request_id: MessageId) -> None:
        """The client gives a call up; what it changed, if anything, nobody knows."""
        passing = self._passing.pop(request_id, None)
        if passing is not None:
            self._over(passing, "cancelled")

    def lost(self, request_id: MessageId, message: str) -> ToolResult | None:
        """The server is gone; return what is told to who waits for a call, None for no call."""
        passing = self._passing.pop(request_id, None)
        if passing is None:
            return None
        self._over(passing, "the server stopped")
        return lost(passing.call, message)

    def restarted(self) -> None:
        """The server was started anew: whether it remembers earlier changes nobody knows."""
        for turn in self._writes:
            self._episode.doubt(turn)
        self._writes.clear()

    # ---- in order

    def _over(self, passing: _Passing, reason: str) -> None:
        passing.result = None
        self._tally.not_recorded[reason] += 1
        self._walk(self._order.over(passing))

    def _walk(self, steps: Iterable[tuple[Step, _Passing]]) -> None:
        for step, passing in steps:
            if step is Step.BEGIN and not is_writer(passing.spec.effects):
                passing.turn = self._begun(passing)
            if step is Step.END:
                self._end(passing)

    def _begun(self, passing: _Passing) -> Turn | None:
        if passing.call.name not in self._specs:
            return None
        turn = self._episode.begin(passing.call, brings_live=True)
        return turn if isinstance(turn, Turn) else None

    def _end(self, passing: _Passing) -> None:
        turn = passing.turn
        if turn is None and passing.ran:
            turn = self._begun(passing)
        if turn is None:
            return
        if passing.result is None:
            self._episode.abandon(turn)
            return
        answer = self._episode.ran(turn, passing.result, passing.result.latency_s)
        self._episode.finish(turn, answer)
        self._count(answer.kept, passing.result)
        if is_writer(turn.spec.effects) and not passing.result.is_error:
            self._writes.append(turn)

    def _count(self, kept: bool, result: ToolResult) -> None:
        if kept:
            self._tally.recorded += 1
        elif result.error_class is ErrorClass.TRANSIENT:
            self._tally.not_recorded["transient failure"] += 1
        elif result.is_error:
            self._tally.not_recorded["refused for how it was written"] += 1
        else:
            self._tally.not_recorded["after a change that may not have happened"] += 1
