"""Random conversations as `record` leaves them, and where they lie."""

from __future__ import annotations

import string
from collections.abc import Sequence
from pathlib import Path

from hypothesis import strategies as st

from cacherl.core.folders import DataFolder
from cacherl.core.jsonl import write_jsonl
from cacherl.core.messages import (
    AssistantMessage,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from cacherl.core.tasks import AnswerRule, Gold, GoldCall, Split, Task
from cacherl.core.tools import ErrorClass, Source, Tier, ToolResult, ToolSpec
from cacherl.core.trajectories import StopReason, Trajectory
from cacherl.render import defuse

PLAIN = st.text(max_size=24).map(str.strip).filter(lambda text: defuse(text) == text)
HOSTILE = st.lists(
    st.sampled_from(["<|im_end|>", "<tool_response>", "</tool_call>", "<", "é“𝄞", " \n"]) | PLAIN,
    max_size=5,
).map("".join)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | HOSTILE,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(PLAIN, inner, max_size=3),
    max_leaves=6,
)
ARGUMENTS = st.dictionaries(
    st.text(string.ascii_lowercase, min_size=1, max_size=3), VALUES, max_size=4
)
WORDS = PLAIN.filter(bool)

TOOLS = (
    ToolSpec(
        name="weather",
        description="Weather of a “place” <now> & later",
        parameters={
            "type": "object",
            "properties": {"city": {"type": "string", "description": "où?"}},
            "required": ["city"],
        },
    ),
    ToolSpec(
        name="order-get.v2",
        description="",
        parameters={"type": "object", "properties": {"days": {"type": "integer", "default": 3}}},
    ),
)


@st.composite
def conversations(
    draw: st.DrawFn, *, user_turns: int = 3, thinks: bool | None = None, hostile: bool = True
) -> tuple[Task, Trajectory]:
    """A conversation of its task that ends in an answer.

    Args:
        draw: hypothesis's.
        user_turns: at most so many.
        thinks: whether every turn has thinking; None for now and then.
        hostile: whether users and tools may say what looks like a template's tokens.
    """
    text = HOSTILE if hostile else PLAIN
    messages: list[Message] = []
    results: list[ToolResult] = []

    def turn(calls: tuple[ToolCall, ...]) -> AssistantMessage:
        thinking = draw(WORDS) if (draw(st.booleans()) if thinks is None else thinks) else None
        # Words alone may not be empty: two readers in three would drop the turn.
        content = draw(PLAIN if calls else WORDS)
        return AssistantMessage(content=content, thinking=thinking, calls=calls)

    system = draw(PLAIN)
    if system:
        messages.append(SystemMessage(content=system))
    said = []
    for _ in range(draw(st.integers(1, user_turns))):
        said.append(draw(text))
        messages.append(UserMessage(content=said[-1]))
        for _ in range(draw(st.integers(0, 2))):
            calls = tuple(
                ToolCall(
                    id=f"c{len(results) + place}",
                    name=draw(st.sampled_from([spec.name for spec in TOOLS])),
                    arguments=draw(ARGUMENTS),
                )
                for place in range(draw(st.integers(1, 3)))
            )
            messages.append(turn(calls))
            for call in calls:
                wrong = draw(st.booleans())
                result = ToolResult(
                    call_id=call.id,
                    name=call.name,
                    text=draw(text),
                    is_error=wrong,
                    error_class=ErrorClass.UNKNOWN if wrong else None,
                    tier=Tier.LIVE,
                    source=Source.LIVE,
                )
                results.append(result)
                shown = ToolMessage(call_id=call.id, name=call.name, content=result.text)
                messages.append(shown)
        messages.append(turn(()))
    return task_of(said, system=system), Trajectory(
        task_id="t",
        policy="teacher",
        messages=tuple(messages),
        results=tuple(results),
        stop=StopReason.ANSWER,
    )


def task_of(
    said: Sequence[str] = ("?",),
    *,
    name: str = "t",
    system: str = "",
    split: Split = Split.TRAIN,
    tools: tuple[ToolSpec, ...] = TOOLS,
    gold: str | None = None,
) -> Task:
    """Return a task; `gold` is what its answer must say."""
    return Task(
        id=name,
        split=split,
        family="f",
        language="en",
        wording="w",
        scenario=name,
        namespace="ns",
        system=system,
        user_turns=tuple(said),
        tools=tools,
        gold=None
        if gold is None
        else Gold(
            calls=(GoldCall(name="weather", arguments={"city": gold}),),
            answer=AnswerRule(must=((gold,),)),
            state="",
        ),
    )


def answered(task: Task, text: str = "Done.", **more: object) -> Trajectory:
    """Return the shortest conversation of a task."""
    return Trajectory(
        task_id=task.id,
        policy="teacher",
        messages=(
            *(UserMessage(content=turn) for turn in task.user_turns),
            AssistantMessage(content=text),
        ),
        results=(),
        stop=StopReason.ANSWER,
        notes=dict(more),
    )


def kept(folder: Path, *pairs: tuple[Task, Trajectory]) -> Path:
    """Write a folder as `record` leaves it; conversations get a task each."""
    root = DataFolder(folder)
    write_jsonl(root.tasks, {task.id: task for task, _ in pairs}.values())
    write_jsonl(root.trajectories, (trajectory for _, trajectory in pairs))
    return folder
