"""No request to a teacher holds anything from at or after the turn, nor what nobody but us may know.

Every message, argument, result, user turn, gold answer and note of a generated conversation holds a word of its
own that stands nowhere else. The words of a request are then its whole story.
"""

from __future__ import annotations

import asyncio
import re
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from cacherl.augment import AugmentOptions, ChatReasoner, augment
from cacherl.augment.folder import augment_folder
from cacherl.core.completions import CompletionReply, CompletionRequest
from cacherl.core.folders import DataFolder
from cacherl.core.jsonl import write_jsonl
from cacherl.core.languages import Guess
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
from cacherl.core.tasks import AnswerRule, Gold, GoldCall, Split, Task
from cacherl.core.tools import Tier, ToolResult, ToolSpec
from cacherl.core.trajectories import StopReason, Trajectory
from cacherl.teacher.chat import EndpointChat
from cacherl.wiring import reasoner_named
from tests.augment.scripted_teacher import ScriptedTeacher

WORD = re.compile(r"zq\d+qz")


class Conversation:
    """A task, a trajectory of it, and which words stand where."""

    def __init__(self, shape: list[list[str]], *, thinks: bool, first: int = 0) -> None:
        """`shape` has a list for each user turn, of the turns that answer it; words are counted from `first`."""
        self._numbers = count(first)
        self.secret: set[str] = set()
        self.own: list[set[str]] = []
        """Words by the place of their message; those of thinking are no one's to see."""
        messages: list[Message] = []
        results: list[ToolResult] = []
        system, said = self.word(), [self.word() for _ in shape]
        self._add(messages, SystemMessage(content=f"You are {system}."))
        for words, kinds in zip(said, shape, strict=True):
            self._add(messages, UserMessage(content=f"Please {words}."))
            for kind in kinds:
                self._turn(messages, results, kind, thinks)
            self._add(messages, AssistantMessage(content=f"Done {self.word()}."))
        self.tools = f"tool {self.word()}"
        self.task = Task(
            id="task-1",
            split=Split.TRAIN,
            family=self._hidden(),
            language="en",
            wording=self._hidden(),
            scenario=self._hidden(),
            namespace=self._hidden(),
            system=f"You are {system}.",
            user_turns=(*(f"Please {words}." for words in said), f"Never said {self._hidden()}."),
            tools=(ToolSpec(name="t", description=self.tools, parameters={"type": "object"}),),
            gold=Gold(
                calls=(GoldCall(name=self._hidden(), arguments={"a": self._hidden()}),),
                answer=AnswerRule(must=((self._hidden(),),), must_not=(self._hidden(),)),
                state=self._hidden(),
            ),
        )
        self.trajectory = Trajectory(
            task_id="task-1",
            policy=self._hidden(),
            messages=tuple(messages),
            results=tuple(results),
            stop=StopReason.ANSWER,
            final_state=self._hidden(),
            notes={"why": self._hidden(), "nested": {"deep": [self._hidden()]}},
        )

    def word(self) -> str:
        return f"zq{next(self._numbers)}qz"

    def _hidden(self) -> str:
        word = self.word()
        self.secret.add(word)
        return word

    def _add(self, messages: list[Message], message: Message) -> None:
        messages.append(message)
        shown = message
        if isinstance(message, AssistantMessage):
            shown = msgspec.structs.replace(message, thinking=None)
        self.own.append(words_of(shown))

    def _turn(
        self, messages: list[Message], results: list[ToolResult], kind: str, thinks: bool
    ) -> None:
        id_ = f"call-{len(messages)}"
        call: Call = ToolCall(id=id_, name="t", arguments={"a": self.word()})
        if kind == "malformed":
            call = MalformedCall(id=id_, text=self.word(), problem=self.word())
        content = f"I look {self.word()} up." if kind == "wordy" else ""
        if kind == "analytical":
            content = f"The user wants {self.word()}, so I need it first."
        thinking = f"Thought {self.word()}." if thinks else None
        self._add(messages, AssistantMessage(content=content, thinking=thinking, calls=(call,)))
        if kind == "unanswered":
            return
        text = self.word()
        self._add(messages, ToolMessage(call_id=id_, name="t", content=text))
        results.append(
            ToolResult(
                call_id=id_,
                name="t",
                text=text,
                wire=f'"{self._hidden()}"',
                tier=Tier.LIVE,
                key=self._hidden(),
            )
        )

    def may_be_asked(self, tools: str) -> list[set[str]]:
        """Return, for each turn, the words of what came before it, of the turn, and of the tools."""
        turns = [
            place
            for place, message in enumerate(self.trajectory.messages)
            if isinstance(message, AssistantMessage)
        ]
        return [set(WORD.findall(tools)).union(*self.own[: place + 1]) for place in turns]


def check(request: str, *conversations: Conversation) -> None:
    """Check that a request about one of these conversations, all of one task, knows what it may and no more."""
    words = set(WORD.findall(request))
    tools = conversations[0].tools
    for conversation in conversations:
        assert not words & conversation.secret, "gold, notes, wires and the like"
    asked = [turn for conversation in conversations for turn in conversation.may_be_asked(tools)]
    assert words in asked, "exactly what was known at one turn of one of them, and the turn"


def words_of(value: Any) -> set[str]:
    return set(WORD.findall(msgspec.json.encode(value).decode()))


KINDS = st.sampled_from(["silent", "wordy", "analytical", "malformed", "unanswered"])
SHAPES = st.lists(st.lists(KINDS, max_size=3), min_size=1, max_size=3)


class Overheard:
    """A provider that keeps what it is asked."""

    name = "overheard"

    def __init__(self, says: str) -> None:
        self.says = says
        self.heard: list[CompletionRequest] = []

    async def complete(self, request: CompletionRequest) -> CompletionReply:
        self.heard.append(request)
        return CompletionReply(message={"role": "assistant", "content": self.says})

    async def aclose(self) -> None:
        pass


@settings(max_examples=60)
@given(
    shape=SHAPES,
    thinks=st.booleans(),
    keep_content=st.booleans(),
    at_once=st.booleans(),
    says=st.sampled_from(["I go on.", "", "Wrong language, and long enough to be judged by it."]),
)
def test_a_request_holds_what_was_known_before_the_turn_and_nothing_else(
    shape: list[list[str]], thinks: bool, keep_content: bool, at_once: bool, says: str
) -> None:
    """Reasoning from a result not yet known teaches the model to make results up.

    Second questions, after an empty answer or one in a wrong language, are held to the same.
    """
    made = Conversation(shape, thinks=thinks)
    rollout = Conversation([["silent"], *shape], thinks=thinks, first=1000)
    overheard = Overheard(says)
    reasoner = ChatReasoner(EndpointChat(overheard, model="m", purpose="augment"))

    asyncio.run(
        augment(
            {"task-1": made.task},
            [made.trajectory, msgspec.structs.replace(rollout.trajectory, rollout=1)],
            reasoner,
            None,
            options=AugmentOptions(keep_content=keep_content, keep_thinking=False),
            detect=lambda text: Guess("fr", 1.0),
            turns_at_once=at_once,
        )
    )

    assert overheard.heard
    for request in overheard.heard:
        body = msgspec.json.encode(request).decode()
        check(body, made, rollout)


def test_the_same_holds_of_the_bytes_on_the_wire(tmp_path: Path) -> None:
    """Through the folder, the journal and the provider's own client, to a server that listens."""
    shape = [["silent", "analytical"], ["wordy", "malformed", "unanswered"]]
    made = Conversation(shape, thinks=True)
    with ScriptedTeacher() as teacher:
        folder = DataFolder(tmp_path)
        write_jsonl(folder.tasks, [made.task])
        write_jsonl(folder.trajectories, [made.trajectory])
        reasoner, paid = reasoner_named(teacher.name, journal=folder.journal)
        assert paid is not None

        async def run() -> int:
            try:
                done = await augment_folder(
                    folder,
                    reasoner,
                    ledger=paid.ledger,
                    options=AugmentOptions(keep_thinking=False),
                )
            finally:
                await paid.aclose()
            return done.run.questions

        questions = asyncio.run(run())

    assert len(teacher.heard) == questions == 6
    for body in teacher.heard:
        check(body, made)
