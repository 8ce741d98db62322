"""Why one task failed: the transcript with its calls marked, and the first thing that its checker missed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from cacherl.core.errors import DataError
from cacherl.core.messages import (
    AssistantMessage,
    Call,
    MalformedCall,
    SystemMessage,
    ToolMessage,
    UserMessage,
)
from cacherl.core.suites import Check, Verdict
from cacherl.core.tasks import Task
from cacherl.core.tools import Source, ToolResult
from cacherl.core.trajectories import Trajectory
from cacherl.evaluate.folder import EvalFolder
from cacherl.evaluate.results import Result, read_results
from cacherl.metrics import right_calls


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One thing that was said, called or answered."""

    role: str
    """`user`, `thinking`, `assistant`, `call` or `tool`."""
    text: str
    right: bool | None = None
    """Of a call: whether it met a further call of the solution; None where no solution is written."""
    tier: str = ""
    """Of a result: how it was found; `refused` where the loop answered before any tool."""
    fidelity: float | None = None
    """Of a result: the stated chance that it is what the live tool says."""
    is_error: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """One row, explained."""

    task: Task
    result: Result
    lines: tuple[Line, ...]
    expected: tuple[str, ...]
    """The solution's calls, where it is written."""
    fault: Check | None
    """The first check that failed: its `said` names the diverging state key or the missing result."""


def explain(task: Task, result: Result) -> Explanation:
    """Return the explanation of one row."""
    gold = task.gold
    return Explanation(
        task=task,
        result=result,
        lines=transcript(task, result.trajectory),
        expected=tuple(call_text(call.name, call.arguments) for call in gold.listed)
        if gold
        else (),
        fault=first_fault(result.verdict),
    )


def first_fault(verdict: Verdict) -> Check | None:
    """Return the first check that cost the success; for a success that fell short elsewhere, that one."""
    short = [check for check in verdict.checks if check.score < 1]
    return next((check for check in short if check.decides), short[0] if short else None)


def transcript(task: Task, played: Trajectory) -> tuple[Line, ...]:
    """Return the episode line by line, system message aside."""
    right: Sequence[bool | None] = ()
    if task.gold is not None and task.gold.calls:
        right = right_calls(task, played)
    results = {result.call_id: result for result in played.results}
    lines: list[Line] = []
    made = 0
    for message in played.messages:
        match message:
            case SystemMessage():
                pass
            case UserMessage():
                lines.append(Line(role="user", text=message.content))
            case ToolMessage():
                result = results.get(message.call_id)
                lines.append(
                    Line(
                        role="tool",
                        text=message.content,
                        tier=_answered_by(result),
                        fidelity=result.fidelity if result else None,
                        is_error=bool(result and result.is_error),
                    )
                )
            case AssistantMessage():
                if message.thinking:
                    lines.append(Line(role="thinking", text=message.thinking))
                if message.content:
                    lines.append(Line(role="assistant", text=message.content))
                for call in message.calls:
                    mark = right[made] if made < len(right) else None
                    lines.append(Line(role="call", text=_call(call), right=mark))
                    made += 1
    return tuple(lines)


def _answered_by(result: ToolResult | None) -> str:
    if result is None:
        return ""
    return "refused" if result.source is Source.LOOP else result.tier.value


def _call(call: Call) -> str:
    if isinstance(call, MalformedCall):
        return f"no call ({call.problem}): {call.text}"
    return call_text(call.name, call.arguments)


def call_text(name: str, arguments: dict[str, object]) -> str:
    """Return a call as a person reads it: `cancel_order(order_id="W1", reason="late")`."""
    said = ", ".join(
        f"{key}={msgspec.json.encode(value).decode()}" for key, value in arguments.items()
    )
    return f"{name}({said})"


def find_row(folder: EvalFolder, task_id: str, trial: int | None = None) -> Explanation:
    """Return the explanation of a task: of the trial named, else of its first failed one, else of its first.

    Args:
        folder: an evaluation.
        task_id: the task, or enough of its id to tell it from the others.
        trial: which of its trials.

    Raises:
        DataError: there is no such row, or several tasks are meant.
    """
    folder.read_manifest()
    tasks = {task.id: task for task in folder.read_tasks()}
    name = _meant(task_id, tasks, folder)
    rows = [row for row in read_results(folder.results) if row.task_id == name]
    if trial is not None:
        rows = [row for row in rows if row.trial == trial]
    if not rows:
        which = f"{name}, trial {trial}," if trial is not None else name
        raise DataError(
            f"{folder.root}: {which} has no row: it was not played yet, or the infrastructure ended it. "
            "Run `cacherl eval` with the same options again."
        )
    chosen = next((row for row in rows if not row.verdict.success), rows[0])
    return explain(tasks[name], chosen)


def _meant(task_id: str, tasks: dict[str, Task], folder: EvalFolder) -> str:
    if task_id in tasks:
        return task_id
    meant = [name for name in tasks if task_id in name]
    if len(meant) == 1:
        return meant[0]
    some = ", ".join((meant or list(tasks))[:3])
    if meant:
        raise DataError(
            f"{task_id!r} means {len(meant)} tasks ({some}, ...). Write more of its id."
        )
    raise DataError(f"{folder.root}: has no task {task_id!r}. It has {some}, ...")


def failed_rows(folder: EvalFolder) -> Iterable[Result]:
    """Yield the rows that did not succeed, in the order of the file."""
    return (row for row in read_results(folder.results) if not row.verdict.success)
