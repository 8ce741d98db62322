"""A world of two tools and a model with a script: small, real, and enough to evaluate on.

The world keeps notes in a list: `read_note` reads one, `write_note` adds one. The model plays the
turns it was given for each task.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cacherl.core.errors import ModelError, ToolError
from cacherl.core.messages import AssistantMessage, ToolCall
from cacherl.core.models import Limits
from cacherl.core.tasks import AnswerRule, Gold, GoldCall, Split, Task
from cacherl.core.tools import Effects, ErrorClass, Source, Tier, ToolResult, ToolSpec
from tests.fakes import Script, ScriptedModel, ScriptedSession

READ = ToolSpec(
    name="read_note",
    description="Read a note.",
    parameters={
        "type": "object",
        "properties": {"number": {"type": "integer"}},
        "required": ["number"],
    },
    effects=Effects(reads=("note:{number}",)),
)
WRITE = ToolSpec(
    name="write_note",
    description="Write a note.",
    parameters={
        "type": "object",
        "properties": {"text": {"type": "string"}},
        "required": ["text"],
    },
    effects=Effects(writes=("note:*",)),
)


def digest(notes: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(notes)).encode()).hexdigest()


class NoteTools:
    """Live tools over a list of notes."""

    def __init__(self, notes: Sequence[str] = ("milk", "bread")) -> None:
        self.notes = list(notes)
        self.closed = False

    async def call(self, call: ToolCall) -> ToolResult:
        text, error = self._run(call)
        return ToolResult(
            call_id=call.id,
            name=call.name,
            text=text,
            is_error=error is not None,
            error_class=error,
            tier=Tier.LIVE,
            source=Source.LIVE,
        )

    def _run(self, call: ToolCall) -> tuple[str, ErrorClass | None]:
        if call.name == "write_note":
            self.notes.append(call.arguments["text"])
            return json.dumps({"number": len(self.notes) - 1}), None
        number = call.arguments["number"]
        if not 0 <= number < len(self.notes):
            return json.dumps({"error": "no such note"}), ErrorClass.NOT_FOUND
        return json.dumps({"text": self.notes[number]}), None

    def fingerprint(self) -> str:
        return digest(self.notes)

    async def aclose(self) -> None:
        self.closed = True


class BrokenTools(NoteTools):
    """A world whose database is gone."""

    async def call(self, call: ToolCall) -> ToolResult:
        raise ToolError("the notes are gone. Restore the file.")


@dataclass
class StatelessTools:
    """The same answers with no state to show, as a cache gives them, at the tier it is told."""

    tier: Tier = Tier.EXACT
    live: NoteTools = field(default_factory=NoteTools)

    async def call(self, call: ToolCall) -> ToolResult:
        answer = await self.live.call(call)
        return ToolResult(
            call_id=answer.call_id,
            name=answer.name,
            text=answer.text,
            is_error=answer.is_error,
            error_class=answer.error_class,
            tier=self.tier,
        )

    async def aclose(self) -> None:
        await self.live.aclose()


def read(number: int, id: str = "c1") -> ToolCall:
    return ToolCall(id=id, name="read_note", arguments={"number": number})


def write(text: str, id: str = "c2") -> ToolCall:
    return ToolCall(id=id, name="write_note", arguments={"text": text})


def says(content: str, *calls: ToolCall, thinking: str | None = None) -> AssistantMessage:
    return AssistantMessage(content=content, calls=calls, thinking=thinking)


def copy_task(id: str, *, family: str = "copy", wording: str = "a", language: str = "en") -> Task:
    """Read note 0 and write what it says; then say so."""
    return Task(
        id=id,
        split=Split.TEST,
        family=family,
        language=language,
        wording=wording,
        scenario="notes",
        namespace="notes",
        system="You keep notes.",
        user_turns=("Copy note 0, please.",),
        tools=(READ, WRITE),
        gold=Gold(
            calls=(
                GoldCall(name="read_note", arguments={"number": 0}, step=0),
                GoldCall(name="write_note", arguments={"text": "milk"}, step=1),
            ),
            answer=AnswerRule(must=(("milk",),)),
            state=digest(["milk", "bread", "milk"]),
        ),
    )


RIGHT = (says("", read(0)), says("", write("milk")), says("I wrote milk again."))
WRONG_VALUE = (says("", read(0)), says("", write("bread")), says("I wrote milk again."))
SILENT = (says("I wrote milk again."),)
UNREACHABLE = (ModelError("the model does not answer. Start its server."),)


class TaskModel(ScriptedModel):
    """Knows its turns for every task by the task's id, and remembers which it was asked to play."""

    def __init__(self, scripts: Mapping[str, Sequence[Script]], name: str = "m") -> None:
        super().__init__(lambda task: scripts[task.id], name=name)
        self.started: list[tuple[str, int]] = []

    def start(self, task: Task, *, limits: Limits, seed: int) -> ScriptedSession:
        self.started.append((task.id, seed))
        return super().start(task, limits=limits, seed=seed)
