"""A server played from a cache: what it says of itself from its note, its tools from their recordings."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping

from cacherl.cache.episodes.episode import Episode
from cacherl.cache.episodes.ledger import MissPolicy
from cacherl.cache.identity.normalise import is_writer
from cacherl.cache.lookup.tool_cache import ToolCache
from cacherl.core.messages import ToolCall
from cacherl.core.schema import error_text
from cacherl.core.tools import Tier, ToolResult, ToolSpec
from cacherl.proxy.messages import (
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    Reply,
    Request,
    Result,
    failure,
)
from cacherl.proxy.results import reply_of
from cacherl.proxy.server_note import LISTS, READS, ServerNote, kept_read
from cacherl.proxy.summary import Tally

_SHOWN = 300
_NOTHING_TO_DO = frozenset(
    {"ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe"}
)

Live = Callable[[ToolCall], Awaitable[ToolResult]]


def answer_of(cache: ToolCache, namespace: str, note: ServerNote, request: Request) -> Reply:
    """Return what a recorded server answers to anything but a call of a tool."""
    method, params = request.method, request.params or {}
    if method == "initialize":
        return Result(id=request.id, result=note.greeting(params))
    if method == "server/discover" and note.discover is not None:
        return Result(id=request.id, result=note.discover)
    if method in _NOTHING_TO_DO:
        return Result(id=request.id, result={})
    if method in LISTS:
        capability, items = LISTS[method]
        listed = note.lists.get(method)
        if listed is None and capability in note.capabilities:
            listed = {items: []}
        if listed is not None:
            return Result(id=request.id, result=listed)
    if method in READS:
        read = kept_read(cache, namespace, method, params)
        if read is not None:
            return Result(id=request.id, result=read)
        named = params.get("uri") or params.get("name")
        return failure(
            request.id, INVALID_PARAMS, f"{method} of {named} was not recorded from {namespace}"
        )
    return failure(request.id, METHOD_NOT_FOUND, f"{method} is not replayed for {namespace}")


def call_of(request: Request) -> ToolCall | None:
    """Return a `tools/call` as a call, None where it is none."""
    params = request.params or {}
    name, arguments = params.get("name"), params.get("arguments", {})
    arguments = {} if arguments is None else arguments
    if not isinstance(name, str) or not isinstance(arguments, dict):
        return None
    return ToolCall(id=str(request.id), name=name, arguments=arguments)


class Replayer:
    """Answers the calls of one client's session from a cache."""

    def __init__(
        self,
        episode: Episode,
        tools: Iterable[ToolSpec],
        tally: Tally,
        *,
        listed: Iterable[str],
        on_miss: Mapping[str, MissPolicy],
        meta: bool,
    ) -> None:
        """Answer from an episode that was given these tools and policies (see `policies`).

        Tools that are not `listed` were called all the same when this was recorded.
        """
        self._episode, self._tally, self._meta = episode, tally, meta
        self._on_miss = on_miss
        self._listed = set(listed)
        self._names = {spec.name for spec in tools}

    def offer(self, tools: Iterable[ToolSpec]) -> None:
        """Take note of the server's tools."""
        for spec in tools:
            self._listed.add(spec.name)
            self._names.add(spec.name)
            self._episode.offer(spec)

    async def answer(self, request: Request, live: Live | None = None) -> Reply:
        """Answer a `tools/call`; `live` runs it where the episode's miss policy lets it."""
        call = call_of(request)
        if call is None:
            return failure(
                request.id, INVALID_PARAMS, "tools/call needs a name, and arguments as an object"
            )
        if call.name not in self._names:
            return _unknown(request, call)
        result = await self._episode.answer(call, live)
        if result.tier is Tier.MISS or self._is_guess(result):
            if call.name not in self._listed:
                return _unknown(request, call)
            result = self._explained(call, result)
        self._tally.answered(result.tier, is_error=result.is_error)
        return reply_of(request.id, result, meta=self._meta and result.tier is not Tier.LIVE)

    def _is_guess(self, result: ToolResult) -> bool:
        """Say whether a result is of another call or state, and nobody asked for such.

        In training the nearest recording beats none. A test must fail where an agent does something new.
        """
        policy = self._on_miss.get(result.name, self._on_miss["*"])
        asked_for = policy in (MissPolicy.BEST_EFFORT, MissPolicy.ACKNOWLEDGE)
        return result.tier is Tier.BEST_EFFORT and not asked_for

    def _explained(self, call: ToolCall, result: ToolResult) -> ToolResult:
        """Return a miss that says what came closest."""
        why = self._episode.explain(call.name, call.arguments)
        words = [f"no recorded answer of {call.name} for {_short(why.arguments)}."]
        if why.other_states:
            words.append(
                f"These arguments were recorded after other changes ({why.other_states} times)."
            )
        others = [near for near in why.closest if near.arguments != why.arguments]
        if others:
            near = others[0]
            differs = f" (differs in {', '.join(near.differs)})" if near.differs else ""
            words.append(f"Closest recorded call: {_short(near.arguments)}{differs}.")
        elif not why.closest:
            words.append(f"No success of {call.name} is recorded at all.")
        words.append(
            "Record it with `cacherl proxy --record`, or allow other answers by --on-miss."
        )
        message = " ".join(words)
        self._tally.missed(call.name, why.arguments, message)
        text = error_text("not_recorded", message)
        return ToolResult(
            call_id=result.call_id,
            name=result.name,
            text=text,
            is_error=True,
            error_class=result.error_class,
            tier=Tier.MISS,
            key=why.hit.key,
        )


def _unknown(request: Request, call: ToolCall) -> Reply:
    return failure(request.id, INVALID_PARAMS, f"Unknown tool: {call.name}")


def _short(arguments: str) -> str:
    return arguments if len(arguments) <= _SHOWN else f"{arguments[:_SHOWN]}..."


def policies(
    cache: ToolCache,
    namespace: str,
    tools: Iterable[ToolSpec],
    wanted: Iterable[MissPolicy],
    by_tool: Mapping[str, MissPolicy],
) -> dict[str, MissPolicy]:
    """Return the miss policy of each tool: what is said of it alone, else the one wanted that fits.

    BEST_EFFORT is for tools that only read, ACKNOWLEDGE for those that change something, LIVE for
    the first; ERROR is what is left.
    """
    general = set(wanted)
    found = {"*": MissPolicy.ERROR}
    for spec in tools:
        writes = is_writer(cache.effective(namespace, spec).effects)
        fitting = (MissPolicy.ACKNOWLEDGE,) if writes else (MissPolicy.LIVE, MissPolicy.BEST_EFFORT)
        found[spec.name] = next((each for each in fitting if each in general), MissPolicy.ERROR)
    return found | dict(by_tool)
