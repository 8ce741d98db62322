"""Tools that play the user, and tools that keep something of the episode."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from cacherl.agent import run_episode
from cacherl.core.errors import ModelError
from cacherl.core.messages import AssistantMessage, Message, ToolCall, UserMessage
from cacherl.core.models import Limits, ModelTurn
from cacherl.core.records import JsonObject
from cacherl.core.tasks import Split, Task
from cacherl.core.tools import Tier, ToolResult, ToolSpec
from cacherl.core.trajectories import StopReason, TokenSegment

SPEC = ToolSpec(name="look", description="", parameters={"type": "object"})


def task(*turns: str) -> Task:
    return Task(
        id="t",
        split=Split.TEST,
        family="f",
        language="en",
        wording="w",
        scenario="",
        namespace="n",
        system="",
        user_turns=turns,
        tools=(SPEC,),
    )


class Caller:
    """Tools whose user says what it was given, one line a turn."""

    def __init__(self, *lines: str, fails: bool = False) -> None:
        self.lines = list(lines)
        self.heard: list[str] = []
        self._fails = fails

    async def call(self, call: ToolCall) -> ToolResult:
        return ToolResult(call_id=call.id, name=call.name, text="seen", tier=Tier.LIVE)

    async def aclose(self) -> None:
        pass

    async def say(self, heard: str) -> str | None:
        if self._fails:
            raise ModelError("the user's line is dead. Call again.")
        self.heard.append(heard)
        return self.lines.pop(0) if self.lines else None

    async def epilogue(self) -> JsonObject:
        return {"lines_left": len(self.lines)}


class Looker:
    """Looks once a turn, then answers."""

    name = "looker"

    def start(self, task: Task, *, limits: Limits, seed: int) -> Looker:
        self.turn = 0
        return self

    async def reply(self, new: Sequence[Message]) -> ModelTurn:
        if isinstance(new[-1], UserMessage):
            self.turn += 1
            call = ToolCall(id=f"c{self.turn}", name="look", arguments={})
            return ModelTurn(message=AssistantMessage(calls=(call,)))
        return ModelTurn(message=AssistantMessage(content=f"answer {self.turn}"))

    def clip(self, text: str, max_tokens: int) -> str:
        return text

    def segments(self) -> tuple[TokenSegment, ...]:
        return ()

    def close(self) -> None:
        pass


def test_a_person_speaks_first_and_hears_every_answer() -> None:
    """A user simulator must be told what the model said, or it cannot react to it."""
    tools = Caller("hello", "and now?")

    played = asyncio.run(run_episode(Looker(), tools, task(), limits=Limits()))

    said = [m.content for m in played.messages if isinstance(m, UserMessage)]
    assert said == ["hello", "and now?"]
    assert tools.heard == ["", "answer 1", "answer 2"]
    assert played.stop is StopReason.ANSWER
    assert not any(result.is_error for result in played.results), "its tools are on offer"


def test_written_turns_come_before_a_person_improvises() -> None:
    """What a task wrote is said as written, whoever plays the rest."""
    tools = Caller("more")

    played = asyncio.run(run_episode(Looker(), tools, task("first"), limits=Limits()))

    said = [m.content for m in played.messages if isinstance(m, UserMessage)]
    assert said == ["first", "more"]
    assert tools.heard == ["answer 1", "answer 2"]


def test_a_user_who_cannot_be_reached_is_nobodys_failure_but_the_infrastructures() -> None:
    """A dead user simulator must never lower the score of the model that waits for it."""
    played = asyncio.run(run_episode(Looker(), Caller(fails=True), task(), limits=Limits()))

    assert played.stop is StopReason.MODEL_FAILED
    assert "dead" in played.notes["error"]


def test_what_tools_keep_of_an_episode_stands_in_its_notes() -> None:
    """Checks that run on the live tools must be there when a stored trajectory is scored again."""
    tools = Caller("hello", "again", "never said")

    played = asyncio.run(run_episode(Looker(), tools, task(), limits=Limits(max_turns=4)))

    assert played.stop is StopReason.MAX_TURNS
    assert played.notes == {"lines_left": 0}


def test_an_episode_in_which_nobody_speaks_does_not_start() -> None:
    """A task without a user turn is a mistake of its file, and says so."""
    played = asyncio.run(run_episode(Looker(), Caller(), task(), limits=Limits()))

    assert played.stop is StopReason.TOOLS_FAILED
    assert "nobody says anything" in played.notes["error"]
