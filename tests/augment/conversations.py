"""Conversations to be augmented, and reasoners that keep what they were shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cacherl.augment import Fault, Reason
from cacherl.core.messages import (
    AssistantMessage,
    MalformedCall,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from cacherl.core.tasks import AnswerRule, Gold, Split, Task
from cacherl.core.tools import Tier, ToolResult
from cacherl.core.trajectories import StopReason, TokenSegment, Trajectory


def make_task(id_: str = "t1", *, language: str = "en") -> Task:
    return Task(
        id=id_,
        split=Split.TRAIN,
        family="f",
        language=language,
        wording="a",
        scenario="s",
        namespace="n",
        system="You are the desk.",
        user_turns=("Where is order 7?", "FUTURE-TURN then cancel it."),
        tools=(),
        gold=Gold(calls=(), answer=AnswerRule(must=(("FUTURE-GOLD",),)), state="x"),
    )


def result(call: str, text: str) -> ToolResult:
    return ToolResult(call_id=call, name="tool", text=text, tier=Tier.LIVE)


def make_trajectory(id_: str = "t1", *, stop: StopReason = StopReason.ANSWER) -> Trajectory:
    """Return a conversation with a turn of every kind: silent call, reasoned call, two answers."""
    return Trajectory(
        task_id=id_,
        policy="expert",
        messages=(
            SystemMessage(content="You are the desk."),
            UserMessage(content="Where is order 7?"),
            AssistantMessage(
                content="I'll look that up for you.",
                calls=(ToolCall(id="c1", name="tool", arguments={"b": 1, "a": "é"}),),
            ),
            ToolMessage(call_id="c1", name="tool", content='{"sent":  true, "parcel": "PX-9911"}'),
            AssistantMessage(
                content="The user asked where it is, so I need the parcel before I answer.",
                calls=(MalformedCall(id="c2", text="{oops", problem="no JSON"),),
            ),
            ToolMessage(call_id="c2", name="", content="try again"),
            AssistantMessage(content="It is on its way as PX-9911."),
            UserMessage(content="FUTURE-TURN then cancel it."),
            AssistantMessage(content="Cancelled."),
        ),
        results=(
            result("c1", '{"sent":  true, "parcel": "PX-9911"}'),
            result("c2", "try again"),
        ),
        stop=stop,
        segments=(TokenSegment(prompt_ids=(1,), completion_ids=(2,), mask=(1,)),),
        final_state="abc",
    )


Shown = tuple[Task, tuple[Message, ...], AssistantMessage, Fault | None]


class Listener:
    """A reasoner that keeps everything it was shown, and says what it is told to."""

    name = "listener"

    def __init__(self, says: Callable[[int, Fault | None], str] | None = None) -> None:
        """`says` is handed the number of messages before the turn, and the earlier fault."""
        self.says = says or (lambda place, earlier: f"Because of {place} messages.")
        self.heard: list[Shown] = []

    async def explain(
        self,
        task: Task,
        before: Sequence[Message],
        turn: AssistantMessage,
        *,
        earlier: Fault | None = None,
    ) -> Reason:
        self.heard.append((task, tuple(before), turn, earlier))
        return Reason(text=self.says(len(before), earlier), prompt_tokens=100, completion_tokens=10)


def turns(trajectory: Trajectory) -> list[AssistantMessage]:
    return [m for m in trajectory.messages if isinstance(m, AssistantMessage)]
