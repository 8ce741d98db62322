"""A suite over the world of two tools: small, real, and with a verdict of its own."""

from __future__ import annotations

from cacherl.core.errors import ToolError
from cacherl.core.messages import AssistantMessage, ToolCall
from cacherl.core.models import ChatModel
from cacherl.core.suites import Check, SuiteInfo, UserKind, Verdict
from cacherl.core.tasks import Split, Task
from cacherl.core.trajectories import StopReason, Trajectory
from tests.desk_of_two import RIGHT, BrokenTools, NoteTools, copy_task, digest
from tests.fakes import ScriptedModel

FAMILIES = ("copy", "again", "once_more")
WANTED = digest(["milk", "bread", "milk"])


class NotesSuite:
    """Copy a note and say so. `broken` tasks have no world; `unsure` ones cannot be checked."""

    def __init__(
        self,
        *,
        pin: str = "notes-1",
        broken: frozenset[str] = frozenset(),
        unsure: frozenset[str] = frozenset(),
        lenient: bool = False,
    ) -> None:
        self.pin, self.broken, self.unsure, self.lenient = pin, set(broken), set(unsure), lenient
        self.opened = 0

    @property
    def info(self) -> SuiteInfo:
        return SuiteInfo(
            name="notes",
            title="Notes",
            tasks=100,
            distinct_questions=1,
            splits={"test": 100},
            licence="Apache-2.0",
            user=UserKind.SCRIPTED,
            pin=self.pin,
        )

    def tasks(self, split: Split, *, count: int | None = None, seed: int = 0) -> list[Task]:
        return [
            copy_task(f"note-{seed}-{n:03}", family=FAMILIES[n % 3], language=("en", "fr")[n % 2])
            for n in range(count or 100)
        ]

    def open(self, task: Task) -> NoteTools:
        self.opened += 1
        return BrokenTools() if task.id in self.broken else NoteTools()

    def check(self, task: Task, trajectory: Trajectory) -> Verdict:
        if task.id in self.unsure:
            raise ToolError("the checker is gone. Start it.")
        notes = ["milk", "bread"]
        for message in trajectory.messages:
            for call in message.calls if isinstance(message, AssistantMessage) else ():
                if isinstance(call, ToolCall) and call.name == "write_note":
                    notes.append(call.arguments["text"])
        state = self.lenient or digest(notes) == WANTED
        said = "" if state else f"notes: {notes[-1]!r} is last, 'milk' was expected"
        answered = trajectory.stop is StopReason.ANSWER
        return Verdict(
            success=state and answered,
            checks=(
                Check(name="state", score=float(state), said=said),
                Check(name="answered", score=float(answered)),
            ),
        )

    def oracle(self) -> ChatModel:
        return ScriptedModel(RIGHT, name="gold")


def nothing() -> ScriptedModel:
    """Return the agent that does nothing."""
    return ScriptedModel([AssistantMessage()], name="nothing")
