"""What every test of a reader does: write rows, read them back, and hold what comes to its promises."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec

from cacherl.cache.episodes.replay import ReplayTools
from cacherl.cache.lookup.tool_cache import ToolCache
from cacherl.core.messages import AssistantMessage, Call, MalformedCall, ToolCall
from cacherl.core.tasks import Split, Task
from cacherl.core.tools import ErrorClass, Source, Tier
from cacherl.core.trajectories import Trajectory
from cacherl.formats.conversation import Conversation
from cacherl.formats.format import Format, Reading
from cacherl.formats.rows import Row, Skipped, Unreadable, rows_of


def read(
    kind: Format, path: Path, namespace: str = "ns"
) -> tuple[list[Conversation], list[Skipped]]:
    """Return what a file holds and what was skipped, each conversation checked."""
    skipped: list[Skipped] = []
    reading = Reading(namespace=kind.namespace or namespace, on_skip=skipped.append)
    if kind.read_file is not None:
        found = list(kind.read_file(path, reading))
    else:
        found = []
        for row in rows_of(path, under=kind.under, on_skip=skipped.append):
            found += _rows(kind, row, reading)
    for task, trajectory in found:
        check(task, trajectory)
    return found, skipped


def _rows(kind: Format, row: Row, reading: Reading) -> list[Conversation]:
    assert kind.read_row is not None
    try:
        return list(kind.read_row(row, reading))
    except Unreadable as error:
        reading.skip(row.where, error.field, error.problem)
        return []


def read_rows(kind: Format, folder: Path, *rows: Any) -> tuple[list[Conversation], list[Skipped]]:
    """Return what rows hold, written a line each."""
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return read(kind, path)


def read_object(kind: Format, folder: Path, value: Any) -> tuple[list[Conversation], list[Skipped]]:
    """Return what a file of one JSON object holds."""
    path = folder / "results.json"
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")
    return read(kind, path)


def read_one(kind: Format, folder: Path, row: Any) -> Conversation:
    """Return the one conversation of a row."""
    found, skipped = read_rows(kind, folder, row)
    assert not skipped, skipped
    (conversation,) = found
    return conversation


def skipped_of(kind: Format, folder: Path, row: Any) -> Skipped:
    """Return why a row was skipped."""
    found, skipped = read_rows(kind, folder, row)
    assert not found
    (one,) = skipped
    return one


def calls_of(trajectory: Trajectory) -> list[Call]:
    return [
        call
        for message in trajectory.messages
        if isinstance(message, AssistantMessage)
        for call in message.calls
    ]


def made(trajectory: Trajectory) -> list[tuple[str, dict[str, Any]]]:
    """Return name and arguments of the well-formed calls."""
    return [
        (call.name, call.arguments) for call in calls_of(trajectory) if isinstance(call, ToolCall)
    ]


def said(trajectory: Trajectory) -> list[tuple[str, str]]:
    """Return role and content of every message."""
    return [
        (type(m).__name__.removesuffix("Message").lower(), m.content) for m in trajectory.messages
    ]


def texts(trajectory: Trajectory) -> list[str]:
    """Return what every call was answered."""
    return [result.text for result in trajectory.results]


def thoughts(trajectory: Trajectory) -> list[str | None]:
    """Return the thinking of every turn of the model."""
    return [m.thinking for m in trajectory.messages if isinstance(m, AssistantMessage)]


def check(task: Task, trajectory: Trajectory) -> None:
    """Hold a conversation to what every stage relies on, replay included."""
    assert task.id == trajectory.task_id
    assert msgspec.json.decode(msgspec.json.encode(task), type=Task) == task
    assert msgspec.json.decode(msgspec.json.encode(trajectory), type=Trajectory) == trajectory
    calls = calls_of(trajectory)
    assert [call.id for call in calls] == [result.call_id for result in trajectory.results]
    assert len({call.id for call in calls}) == len(calls)
    names = {spec.name for spec in task.tools}
    assert len(names) == len(task.tools)
    assert {call.name for call in calls if isinstance(call, ToolCall)} <= names
    asyncio.run(_replayed(task, trajectory, calls))


async def _replayed(task: Task, trajectory: Trajectory, calls: list[Call]) -> None:
    with ToolCache.open(":memory:") as cache:
        cache.record_trajectory(task, trajectory)
        tools = ReplayTools(cache, task, splits=frozenset(Split))
        for call, result in zip(calls, trajectory.results, strict=True):
            if isinstance(call, MalformedCall):
                continue
            replayed = await tools.call(call)
            if result.error_class is ErrorClass.TRANSIENT:
                return  # a writer that may have run: nothing after it is EXACT, recorded or replayed
            if result.source is Source.LOOP:
                continue
            assert replayed.tier is Tier.EXACT, (call, replayed)
            assert (replayed.text, replayed.is_error) == (result.text, result.is_error)
