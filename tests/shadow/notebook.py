"""Notes again, this time recorded: a cache of episodes whose tools tell the truth about themselves, or lie."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

import msgspec

from cacherl.agent import run_episode
from cacherl.cache.lookup.tool_cache import ToolCache
from cacherl.core.messages import AssistantMessage, ToolCall
from cacherl.core.models import Limits
from cacherl.core.tasks import Split, Task
from cacherl.core.tools import Effects, ToolSpec
from cacherl.core.trajectories import Trajectory
from tests.desk_of_two import READ, WRITE, NoteTools, copy_task, says
from tests.fakes import ScriptedModel

LIMITS = Limits(max_turns=12)


def lying(spec: ToolSpec) -> ToolSpec:
    """The tool as its author would have it: touches nothing."""
    return msgspec.structs.replace(spec, effects=Effects())


def task_of(*, tools: Sequence[ToolSpec] = (READ, WRITE), id: str = "t") -> Task:
    return msgspec.structs.replace(copy_task(id), tools=tuple(tools), split=Split.TRAIN)


def turns(*calls: ToolCall, answer: str = "It says milk.") -> list[AssistantMessage]:
    """One call a turn, each with an id of its own, and then the answer."""
    each = [
        says("", ToolCall(id=f"c{place}", name=call.name, arguments=call.arguments))
        for place, call in enumerate(calls)
    ]
    return [*each, says(answer)]


def policy(*calls: ToolCall, answer: str = "It says milk.", name: str = "m") -> ScriptedModel:
    return ScriptedModel(turns(*calls, answer=answer), name=name)


def played(task: Task, calls: Iterable[ToolCall]) -> Trajectory:
    return asyncio.run(run_episode(policy(*calls), NoteTools(), task, limits=LIMITS))


def cache_of(task: Task, *episodes: Sequence[ToolCall]) -> ToolCache:
    """What a cache holds once these episodes were played on the real notes."""
    cache = ToolCache.open(":memory:", mode="write")
    for calls in episodes:
        cache.record_trajectory(task, played(task, calls), recorded_at=0.0)
    return cache
