"""One policy with one seed, on the cache and on the world: where do the two episodes part, and why?"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from itertools import zip_longest

from cacherl.core.messages import (
    AssistantMessage,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from cacherl.core.records import JsonObject, Record
from cacherl.core.tools import Tier, ToolResult
from cacherl.core.trajectories import Trajectory
from cacherl.shadow.compared import Said

SameResult = Callable[[ToolCall, ToolResult, ToolResult], float]
"""(call, cached answer, live answer) -> how far they say the same, in [0, 1]."""


class Cause(enum.StrEnum):
    """Why behaviour differs between the two episodes of a pair."""

    OBSERVATION = "observation"
    """An earlier observation said something else on the cache than on the world."""
    WORDING = "wording"
    """Earlier observations said the same, but not in the same bytes (a time stamp, the order of fields)."""
    NOISE = "noise"
    """All that was seen before was equal: sampling, or a policy or user that is not deterministic."""


class Difference(Record, frozen=True, kw_only=True, omit_defaults=True):
    """The same call, after the same turns, answered differently by cache and world."""

    call: int
    """Its place among the calls of the episode, from 0."""
    tool: str
    arguments: JsonObject
    tier: Tier
    """Of the cache's answer; an answer from another state is a best effort at most."""
    fidelity: float | None = None
    """What the cache stated of it."""
    score: float | None = None
    cached: Said
    live: Said


class Divergence(Record, frozen=True, kw_only=True, omit_defaults=True):
    """How the two episodes of a pair relate."""

    turns: int
    """Assistant turns that both made alike."""
    calls: int
    """Calls that both made alike."""
    differences: tuple[Difference, ...] = ()
    """Those of these calls that were answered differently, in order."""
    cause: Cause | None = None
    """Why they then behaved differently; None where they did not."""
    cached_next: str = ""
    """The first turn that differs, in words, or what ended the episode."""
    live_next: str = ""

    @property
    def first(self) -> Difference | None:
        """The first observation that differed."""
        return self.differences[0] if self.differences else None

    @property
    def diverged(self) -> bool:
        """Whether behaviour differed after a differing observation: what the cache did to the policy."""
        return self.cause is Cause.OBSERVATION


def divergence(cached: Trajectory, live: Trajectory, same: SameResult) -> Divergence:
    """Return where two episodes of one policy, task and seed part.

    Behaviour is what is said to the user and which calls are made with which arguments; thinking and the
    ids of calls are not. Pure: what is stored can be looked at again.
    """
    results = zip(_calls(cached), cached.results, live.results, strict=False)
    turns = calls = 0
    reworded = False
    differences: list[Difference] = []
    for ours, theirs in zip_longest(cached.messages, live.messages):
        if isinstance(ours, ToolMessage) and isinstance(theirs, ToolMessage):
            call, on_cache, on_world = next(results)
            if call is not None and same(call, on_cache, on_world) < 1.0:
                differences.append(_difference(calls, call, on_cache, on_world))
            elif ours.content != theirs.content:
                reworded = True
            calls += 1
        elif ours is None or theirs is None or _behaviour(ours) != _behaviour(theirs):
            return Divergence(
                turns=turns,
                calls=calls,
                differences=tuple(differences),
                cause=_cause(differences, reworded),
                cached_next=_words(ours, cached),
                live_next=_words(theirs, live),
            )
        else:
            turns += isinstance(ours, AssistantMessage)
    if cached.stop is not live.stop:
        # Equal messages and different ends: the context was full on one side.
        return Divergence(
            turns=turns,
            calls=calls,
            differences=tuple(differences),
            cause=_cause(differences, reworded),
            cached_next=f"ended: {cached.stop}",
            live_next=f"ended: {live.stop}",
        )
    return Divergence(turns=turns, calls=calls, differences=tuple(differences))


def _cause(differences: list[Difference], reworded: bool) -> Cause:
    if differences:
        return Cause.OBSERVATION
    return Cause.WORDING if reworded else Cause.NOISE


def _calls(trajectory: Trajectory) -> Iterator[ToolCall | None]:
    """Yield the calls in order; None for one that did not parse, which both sides refuse alike."""
    for message in trajectory.messages:
        if isinstance(message, AssistantMessage):
            for call in message.calls:
                yield call if isinstance(call, ToolCall) else None


def _difference(place: int, call: ToolCall, cached: ToolResult, live: ToolResult) -> Difference:
    return Difference(
        call=place,
        tool=call.name,
        arguments=call.arguments,
        tier=shown_tier(cached.tier, cached.state_matched),
        fidelity=cached.fidelity,
        score=cached.score,
        cached=Said(text=cached.text, is_error=cached.is_error),
        live=Said(text=live.text, is_error=live.is_error),
    )


def shown_tier(tier: Tier, state_matched: bool) -> Tier:
    """Return the tier that an answer counts under: from another state it is a best effort at most."""
    return tier if state_matched or tier is Tier.MISS else Tier.BEST_EFFORT


def _behaviour(message: Message) -> object:
    match message:
        case AssistantMessage():
            made = tuple(
                (call.name, call.arguments) if isinstance(call, ToolCall) else call.text
                for call in message.calls
            )
            return "assistant", message.content, made
        case UserMessage() | SystemMessage():
            return type(message), message.content
        case ToolMessage():
            return "tool"


def _words(message: Message | None, trajectory: Trajectory) -> str:
    match message:
        case None:
            return f"ended: {trajectory.stop}"
        case AssistantMessage():
            calls = [
                f"{call.name}({', '.join(f'{k}={v!r}' for k, v in call.arguments.items())})"
                if isinstance(call, ToolCall)
                else call.text
                for call in message.calls
            ]
            return "; ".join([*([message.content] if message.content else []), *calls])
        case ToolMessage():
            return f"{message.name}: {message.content}"
        case UserMessage() | SystemMessage():
            return f"user: {message.content}"
