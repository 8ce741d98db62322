"""From what a row says, in order, to a task and a trajectory: the one place that pairs calls with results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from cacherl.core.messages import (
    AssistantMessage,
    Call,
    MalformedCall,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from cacherl.core.parameters import ANYTHING
from cacherl.core.records import JsonObject
from cacherl.core.tasks import Gold, Split, Task
from cacherl.core.tools import (
    ErrorClass,
    Source,
    Tier,
    ToolResult,
    ToolSpec,
    undeclared,
)
from cacherl.core.trajectories import StopReason, Trajectory
from cacherl.formats.rows import NO_JSON, Row, Unreadable

Conversation = tuple[Task, Trajectory]

UNDETERMINED = "und"
"""ISO 639's word for a language nobody has told."""


class Builder:
    """Collects one conversation and returns it as task and trajectory.

    Results find their calls by id; where ids are missing or repeated, by order (and the trajectory's
    notes say `paired_by_order`). A call that nothing answered keeps its place among the results
    (`unanswered`): the trajectory has one result a call, and what comes after stands where it belongs.
    """

    def __init__(self, row: Row, *, format_name: str, namespace: str) -> None:
        self._row = row
        self._format = format_name
        self._namespace = namespace
        self._system: list[str] = []
        self._messages: list[Message] = []
        self._calls: list[Call] = []
        self._results: dict[str, ToolResult] = {}
        self._waiting: dict[str, list[Call]] = {}
        """Calls without a result yet, by the id the row gave them; the same id may come again."""
        self._used: set[str] = set()
        self._turn = 0
        """Where the calls of the last turn that has any begin."""
        self._by_order = False

    # ---- what the row says, in order -----------------------------------------------------------

    def system(self, text: str) -> None:
        """Add instructions; those after the first user turn stay where they stand."""
        if self._messages:
            self._messages.append(SystemMessage(content=text))
        elif text:
            self._system.append(text)

    def user(self, text: str) -> None:
        """Add a turn of the person."""
        self._messages.append(UserMessage(content=text))

    def assistant(
        self, content: str, *, thinking: str | None = None, calls: Iterable[Call] = ()
    ) -> None:
        """Add a turn of the model. Ids of its calls may be empty or taken: they are made unique here."""
        placed = tuple([self._placed(call) for call in calls])
        if placed:
            self._turn = len(self._calls)
            self._calls += placed
        self._messages.append(
            AssistantMessage(content=content, thinking=thinking or None, calls=placed)
        )

    def _placed(self, call: Call) -> Call:
        said = unique = call.id
        if not said or said in self._used:
            number = 2 if said else len(self._used)
            stem = f"{said}#" if said else "call_"
            while (unique := f"{stem}{number}") in self._used:
                number += 1
            call = msgspec.structs.replace(call, id=unique)
        self._used.add(unique)
        self._waiting.setdefault(said, []).append(call)
        return call

    def result(
        self,
        text: str,
        *,
        call_id: str = "",
        name: str = "",
        is_error: bool = False,
        error_class: ErrorClass | None = None,
        wire: str | None = None,
    ) -> None:
        """Add what a tool answered.

        Raises:
            Unreadable: no call waits for a result.
        """
        call = self._answered(call_id, name)
        if isinstance(call, ToolCall):
            called, tier, source = name or call.name, Tier.LIVE, Source.IMPORTED
        else:  # what is no call reached no tool: whoever ran this model refused it, as our loop does
            called, tier, source = name, Tier.EXACT, Source.LOOP
        self._results[call.id] = ToolResult(
            call_id=call.id,
            name=called,
            text=text,
            wire=wire,
            is_error=is_error,
            error_class=error_class if is_error else None,
            tier=tier,
            source=source,
        )
        self._messages.append(ToolMessage(call_id=call.id, name=called, content=text))

    def _answered(self, call_id: str, name: str) -> Call:
        """Return the call that this result answers, and take it from those that wait."""
        waiting = self._waiting.get(call_id) if call_id else None
        if waiting:
            return waiting.pop(0)
        self._by_order = True
        call = self._next_in_order(call_id, name)
        for calls in self._waiting.values():
            if call in calls:
                calls.remove(call)
        return call

    def _next_in_order(self, call_id: str, name: str) -> Call:
        """Return the call of this name, else any, that waits: of the last turn, else of an earlier one."""
        waiting = {call.id for calls in self._waiting.values() for call in calls}
        recent = [call for call in self._calls[self._turn :] if call.id in waiting]
        every = recent + [call for call in self._calls[: self._turn] if call.id in waiting]
        if not every:
            raise Unreadable(
                "messages", f"a result of {name or call_id or 'a tool'!r} that no call asked for"
            )
        named = (
            call for call in every if name and isinstance(call, ToolCall) and call.name == name
        )
        return next(named, every[0])

    # ---- what becomes of it --------------------------------------------------------------------

    def build(
        self,
        *,
        task_id: str,
        tools: Iterable[ToolSpec],
        family: str = "",
        language: str = UNDETERMINED,
        split: Split = Split.TRAIN,
        scenario: str = "",
        rollout: int = 0,
        policy: str = "",
        gold: Gold | None = None,
        stop: StopReason | None = None,
        notes: Mapping[str, Any] | None = None,
    ) -> Conversation:
        """Return the conversation.

        Tools that were called and never declared are added as such (they count as writers of
        everything). Results stand in the order of their calls, one a call. Without `stop`, a conversation that ends
        with an assistant turn without calls is an ANSWER, any other was TRUNCATED.

        Raises:
            Unreadable: nobody asks anything, or no assistant says anything.
        """
        said = tuple([m.content for m in self._messages if isinstance(m, UserMessage)])
        if not said:
            raise Unreadable("messages", "no user turn")
        if not any(isinstance(m, AssistantMessage) for m in self._messages):
            raise Unreadable("messages", "no assistant turn")
        specs = {spec.name: spec for spec in tools}
        for call in self._calls:
            if isinstance(call, ToolCall) and call.name not in specs:
                # What was answered fitted: a schema without arguments would refuse it on replay.
                specs[call.name] = msgspec.structs.replace(
                    undeclared(call.name), parameters=dict(ANYTHING)
                )
        system = "\n\n".join(self._system)
        messages = (*((SystemMessage(content=system),) if system else ()), *self._messages)
        last = self._messages[-1]
        if stop is None:
            answered = isinstance(last, AssistantMessage) and not last.calls
            stop = StopReason.ANSWER if answered else StopReason.TRUNCATED
        facts: JsonObject = {
            "from": self._row.where,
            "format": self._format,
            "row": self._row.digest(),
            **({"paired_by_order": True} if self._by_order else {}),
            **(notes or {}),
        }
        task = Task(
            id=task_id,
            split=split,
            family=family or self._format,
            language=language,
            wording=self._format,
            scenario=scenario or task_id,
            namespace=self._namespace,
            system=system,
            user_turns=said,
            tools=tuple(specs.values()),
            gold=gold,
        )
        trajectory = Trajectory(
            task_id=task_id,
            policy=policy or self._format,
            rollout=rollout,
            messages=messages,
            results=tuple([self._results.get(call.id) or unanswered(call) for call in self._calls]),
            stop=stop,
            notes=facts,
        )
        return task, trajectory


def unanswered(call: Call) -> ToolResult:
    """Return the place that a call without an answer holds among the results.

    A transient failure: it says nothing of the call, is never replayed, and a writer may have run.
    """
    return ToolResult(
        call_id=call.id,
        name=call.name if isinstance(call, ToolCall) else "",
        text="",
        is_error=True,
        error_class=ErrorClass.TRANSIENT,
        tier=Tier.MISS,
        source=Source.IMPORTED,
    )


_ERROR_STARTS = ('{"error":', "Error:", "error:", "Error executing", "Traceback (most recent call")


def looks_like_error(text: str) -> bool:
    """Guess whether a tool's answer is a failure, where the format has no field that says so."""
    return text.startswith(_ERROR_STARTS)


def call_of(name: object, arguments: object, *, id: str = "") -> Call:
    """Return a call as a row wrote it: `arguments` an object, or the text of one.

    What is no name or no JSON object becomes a `MalformedCall`, which keeps the text.
    """
    if not isinstance(name, str) or not name:
        return MalformedCall(id=id, text=f"{name}({arguments})", problem="the call names no tool")
    if isinstance(arguments, dict):
        return ToolCall(id=id, name=name, arguments=arguments)
    if arguments is None or (isinstance(arguments, str) and not arguments.strip()):
        return ToolCall(id=id, name=name, arguments={})
    if isinstance(arguments, str):
        try:
            value = msgspec.json.decode(arguments)
        except NO_JSON as error:
            return MalformedCall(id=id, text=f"{name}({arguments})", problem=f"no JSON: {error}")
        if isinstance(value, dict):
            return ToolCall(id=id, name=name, arguments=value)
    return MalformedCall(
        id=id, text=f"{name}({arguments})", problem="the arguments are no JSON object"
    )
