"""Small real tools, calls and answers for the tests of this room."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from cacherl.cache.identity.state import NO_WRITES
from cacherl.cache.storage.entry import Observation, RecordedCall
from cacherl.core.messages import AssistantMessage, ToolCall, UserMessage
from cacherl.core.tasks import Split, Task
from cacherl.core.tools import Effects, ErrorClass, Source, Tier, ToolResult, ToolSpec
from cacherl.core.trajectories import StopReason, Trajectory

SPACE = "shop"


def _spec(name: str, properties: dict[str, Any], effects: Effects) -> ToolSpec:
    return ToolSpec(
        name=name,
        description="",
        parameters={"type": "object", "properties": properties, "required": list(properties)},
        effects=effects,
    )


_ID = {"type": "string", "x-kind": "id"}
_ORDER = ("order:{order_id}",)
GET = _spec("get_order", {"order_id": _ID}, Effects(reads=_ORDER))
CANCEL = _spec("cancel_order", {"order_id": _ID}, Effects(reads=_ORDER, writes=_ORDER))
SEARCH = _spec(
    "search",
    {"query": {"type": "string", "x-kind": "text"}, "shelf": {"type": "string"}},
    Effects(reads=("article:*",)),
)
MYSTERY = ToolSpec(name="mystery", description="", parameters={"type": "object"})
SPECS = (GET, CANCEL, SEARCH, MYSTERY)


def task(
    scenario: str = "s1", split: Split = Split.TRAIN, tools: Sequence[ToolSpec] = SPECS
) -> Task:
    """A task of the shop."""
    return Task(
        id=f"t-{scenario}",
        split=split,
        family="f",
        language="en",
        wording="w",
        scenario=scenario,
        namespace=SPACE,
        system="",
        user_turns=("hi",),
        tools=tuple(tools),
    )


def call(tool: ToolSpec | str, **arguments: Any) -> ToolCall:
    """A call with an id of its own."""
    name = tool if isinstance(tool, str) else tool.name
    return ToolCall(id=f"c-{name}-{json.dumps(arguments)}", name=name, arguments=arguments)


def result(
    of: ToolCall,
    text: str,
    error: ErrorClass | None = None,
    tier: Tier = Tier.LIVE,
    source: Source | None = Source.LIVE,
) -> ToolResult:
    """What a tool answered."""
    return ToolResult(
        call_id=of.id,
        name=of.name,
        text=text,
        is_error=error is not None,
        error_class=error,
        tier=tier,
        source=source,
        latency_s=0.25,
    )


def trajectory(*steps: tuple[ToolCall, ToolResult], rollout: int = 0) -> Trajectory:
    """One call a turn, in order; call ids are made unique by their place."""
    messages: list[Any] = [UserMessage(content="hi")]
    results = []
    for place, (asked, answer) in enumerate(steps):
        number = f"{place}-{asked.id}"
        messages.append(
            AssistantMessage(
                calls=(ToolCall(id=number, name=asked.name, arguments=asked.arguments),)
            )
        )
        results.append(
            ToolResult(
                call_id=number,
                name=answer.name,
                text=answer.text,
                is_error=answer.is_error,
                error_class=answer.error_class,
                tier=answer.tier,
                source=answer.source,
            )
        )
    return Trajectory(
        task_id="t",
        policy="expert",
        rollout=rollout,
        messages=tuple(messages),
        results=tuple(results),
        stop=StopReason.ANSWER,
    )


def recorded(canonical: bytes = b'{"order_id":"A"}', tool: str = "get_order", state: bytes = NO_WRITES) -> RecordedCall:  # fmt: skip
    """The identity of a call, for stores."""
    return RecordedCall.of(SPACE, tool, canonical, state)


def seen(
    text: str, scenario: str = "s1", split: Split = Split.TRAIN, error: ErrorClass | None = None
) -> Observation:
    """An observation, for stores."""
    return Observation(
        text=text,
        is_error=error is not None,
        error_class=error,
        source=Source.LIVE,
        scenario=scenario,
        split=split,
    )
