"""The stage: trajectories in, the same with reasoning out."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from cacherl.augment.faults import Fault, fault_of, user_language
from cacherl.augment.reasoners import Reasoner
from cacherl.augment.turns import (
    AugmentOptions,
    Treatment,
    clean_reason,
    treatment,
    turn_class,
)
from cacherl.core.bounded import run_bounded
from cacherl.core.errors import BudgetError, DataError, ModelError
from cacherl.core.jsonl import atomic_writer, encode_line
from cacherl.core.languages import UNDETERMINED, Detect
from cacherl.core.messages import AssistantMessage, Message, UserMessage
from cacherl.core.records import Record
from cacherl.core.tasks import Task
from cacherl.core.trajectories import StopReason, Trajectory
from cacherl.teacher.failure import FATAL, Failure

GIVE_UP_AFTER = 8
"""Trajectories in a row that the teacher fails on, after which nothing is to be hoped for."""
AHEAD = 4
"""Times `concurrency`: trajectories that may wait, finished, for an earlier one."""

REFUSED = "refused"
"""The teacher turned the question itself away."""
TEACHER_FAILED = "teacher_failed"
"""No answer, this time; the next run asks again."""

OnProgress = Callable[[int], None]
"""Called with the trajectories done so far, in order."""


class AugmentSummary(Record, frozen=True, kw_only=True):
    """What one run of augmenting did."""

    reasoner: str
    trajectories: int
    """Written."""
    turns: int
    """Assistant turns, those of trajectories left out included."""
    by_class: dict[str, int]
    """Turns by `TurnClass`."""
    kept_thinking: int
    """Turns that had thinking already."""
    wrapped: int
    """Turns whose own words became the thinking."""
    explained: int
    """Turns that need new reasoning."""
    without_teacher_share: float
    """Share of turns that needed no new reasoning (paper: 15-20 % of teacher calls saved), in [0, 1]."""
    questions: int
    """Put to the reasoner, those included that the teacher's journal answered."""
    asked_again: dict[str, int]
    """Second questions, by what was wrong with the first answer."""
    left_out: dict[str, int]
    """Trajectories not written, by reason: how they stopped, a `Fault`, `refused`, `teacher_failed`."""
    languages: dict[str, int]
    """New reasons by the language that was asked for."""
    prompt_tokens: int
    """Of all questions, those included that the journal answered."""
    completion_tokens: int
    left: int = 0
    """Trajectories still to be done: the run was stopped."""
    stopped: str | None = None
    """Why, and what to do."""
    out_of_budget: bool = False
    """The budget stopped it; else the teacher is gone."""
    published: bool = True
    """False where a run that was stopped, or that the teacher failed, left a file that holds more."""
    wall_s: float


@dataclass(slots=True)
class _Counts:
    turns: int = 0
    by_class: Counter[str] = field(default_factory=Counter)
    treatments: Counter[Treatment] = field(default_factory=Counter)
    questions: int = 0
    asked_again: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    written: int = 0
    left: int = 0
    failed_in_a_row: int = 0
    stopped: str | None = None
    out_of_budget: bool = False


async def augment(
    tasks: Mapping[str, Task],
    trajectories: Iterable[Trajectory],
    reasoner: Reasoner,
    out: Path | None,
    *,
    options: AugmentOptions = AugmentOptions(),  # noqa: B008 - immutable
    detect: Detect | None = None,
    concurrency: int = 8,
    turns_at_once: bool = False,
    on_progress: OnProgress = lambda done: None,
) -> AugmentSummary:
    """Write the trajectories with reasoning to `out`, in the order they came.

    `out` is a function of the input and of the reasoner's answers, and appears whole: a killed run leaves
    it as it was. A paid teacher's answers stand in its journal before anything is made of them, so
    the next run goes over them for free. A run that is stopped, by its budget or because the teacher is
    gone, begins no new trajectory and writes what is finished. Such a run, and one with questions that the
    teacher failed on, never replaces a file that holds more.

    Args:
        tasks: the tasks that the trajectories belong to, by id.
        trajectories: read once, a few at a time.
        reasoner: who knows why.
        out: the file of trajectories with reasoning; None writes nothing.
        options: how turns are treated.
        detect: tells languages: the user's where the task names none, and whether a reason is in the
            task's. None judges no language.
        concurrency: trajectories under way at once.
        turns_at_once: ask about all turns of a trajectory at once, as batches want it. One after the other
            is cheaper: questions of one conversation begin alike, and the first fault ends it.
        on_progress: told of every trajectory done.

    Returns:
        What was done. `require_all` raises where the run was stopped.

    Raises:
        DataError: a trajectory of an unknown task; `out` is as it was.
    """
    started = time.perf_counter()
    counts = _Counts()
    work = _Work(
        tasks=tasks,
        reasoner=reasoner,
        options=options,
        detect=detect,
        turns_at_once=turns_at_once,
        counts=counts,
    )
    published = True
    if out is None:
        await work.all(trajectories, lambda line: None, concurrency, on_progress)
    else:
        try:
            with atomic_writer(out) as file:
                await work.all(trajectories, file.write, concurrency, on_progress)
                is_partial = counts.stopped is not None or counts.left_out[TEACHER_FAILED]
                if is_partial and counts.written < _lines(out):
                    raise _KeepOld
        except _KeepOld:
            published = False
    no_teacher = counts.treatments[Treatment.KEPT] + counts.treatments[Treatment.WRAPPED]
    return AugmentSummary(
        reasoner=reasoner.name,
        trajectories=counts.written,
        turns=counts.turns,
        by_class=dict(sorted(counts.by_class.items())),
        kept_thinking=counts.treatments[Treatment.KEPT],
        wrapped=counts.treatments[Treatment.WRAPPED],
        explained=counts.treatments[Treatment.EXPLAINED],
        without_teacher_share=no_teacher / counts.turns if counts.turns else 0.0,
        questions=counts.questions,
        asked_again=dict(sorted(counts.asked_again.items())),
        left_out=dict(sorted(counts.left_out.items())),
        languages=dict(counts.languages.most_common()),
        prompt_tokens=counts.prompt_tokens,
        completion_tokens=counts.completion_tokens,
        left=counts.left,
        stopped=counts.stopped,
        out_of_budget=counts.out_of_budget,
        published=published,
        wall_s=time.perf_counter() - started,
    )


def require_all(summary: AugmentSummary) -> None:
    """Raise where a run was stopped before the end.

    Raises:
        BudgetError: by its budget.
        ModelError: because the teacher is gone.
    """
    if summary.stopped is None:
        return
    done = sum(summary.left_out.values()) + summary.trajectories
    kept = "; the file on disk holds more and was left as it was" if not summary.published else ""
    message = f"{done} of {done + summary.left} trajectories done{kept}. {summary.stopped}"
    raise BudgetError(message) if summary.out_of_budget else ModelError(message)


class _KeepOld(Exception):
    """Throw away what was written: the file that is there holds more."""


def _lines(path: Path) -> int:
    if not path.exists():
        return 0
    with path.open("rb") as handle:
        return sum(1 for _ in handle)


class _LeftOut(Exception):
    """The trajectory cannot be used; says why in a word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    tasks: Mapping[str, Task]
    reasoner: Reasoner
    options: AugmentOptions
    detect: Detect | None
    turns_at_once: bool
    counts: _Counts

    async def all(
        self,
        trajectories: Iterable[Trajectory],
        write: Callable[[bytes], object],
        concurrency: int,
        on_progress: OnProgress,
    ) -> None:
        """Work on the trajectories and write them in order."""
        counts = self.counts
        ready: dict[int, bytes | None] = {}
        following = begun = 0
        room = asyncio.Semaphore(AHEAD * concurrency)

        def in_order() -> Iterator[tuple[int, Trajectory]]:
            nonlocal begun
            for position, trajectory in enumerate(trajectories):
                if counts.stopped is not None:
                    counts.left += 1
                else:
                    begun += 1
                    yield position, trajectory

        async def one(item: tuple[int, Trajectory]) -> None:
            nonlocal following
            position, trajectory = item
            await room.acquire()
            ready[position] = await self.one(trajectory)
            while following in ready:
                line = ready.pop(following)
                following += 1
                room.release()
                if line is not None:
                    write(line)
                on_progress(following)

        await run_bounded(in_order(), one, concurrency=concurrency)

    async def one(self, trajectory: Trajectory) -> bytes | None:
        """Return the line of the trajectory with reasoning, or None where there is none to write."""
        counts = self.counts
        try:
            augmented = await self._augmented(trajectory)
        except _LeftOut as reason:
            counts.left_out[str(reason)] += 1
            counts.failed_in_a_row = 0
            return None
        except BudgetError as error:
            counts.stopped, counts.out_of_budget = str(error), True
            counts.left += 1
            return None
        except ModelError as error:
            if error.kind == Failure.REFUSED:
                counts.left_out[REFUSED] += 1
                return None
            counts.left_out[TEACHER_FAILED] += 1
            counts.failed_in_a_row += 1
            is_gone = error.kind in FATAL or counts.failed_in_a_row >= GIVE_UP_AFTER
            if is_gone and counts.stopped is None:
                counts.stopped = str(error)
            return None
        counts.failed_in_a_row = 0
        if not unchanged_calls(trajectory, augmented):
            raise DataError(
                f"the calls or results of {trajectory.task_id!r} (rollout {trajectory.rollout}) did not stay "
                "as they are. This is a fault of cacherl: keep the folder and report it."
            )
        counts.written += 1
        return encode_line(augmented)

    async def _augmented(self, trajectory: Trajectory) -> Trajectory:
        task = self.tasks.get(trajectory.task_id)
        if task is None:
            raise DataError(
                f"the trajectory of {trajectory.task_id!r} (rollout {trajectory.rollout}) has no task of that id "
                "among the tasks given. Give the task file that it was recorded with."
            )
        if trajectory.stop in (StopReason.MODEL_FAILED, StopReason.TOOLS_FAILED):
            raise _LeftOut(trajectory.stop.value)
        turns = {
            place: message
            for place, message in enumerate(trajectory.messages)
            if isinstance(message, AssistantMessage)
        }
        treatments = {place: treatment(turn, self.options) for place, turn in turns.items()}
        self.counts.turns += len(turns)
        self.counts.by_class.update(turn_class(turn).value for turn in turns.values())
        self.counts.treatments.update(treatments.values())
        asked = {p: turns[p] for p, how in treatments.items() if how is Treatment.EXPLAINED}
        reasons = await self._reasons(task, trajectory.messages, asked)
        messages = list(trajectory.messages)
        for place, turn in turns.items():
            keeps_words = not turn.calls or self.options.keep_content
            content = turn.content if keeps_words else ""
            thinking = reasons.get(place, turn.thinking)
            if treatments[place] is Treatment.WRAPPED:
                thinking, content = clean_reason(turn.content), ""
            messages[place] = msgspec.structs.replace(turn, thinking=thinking, content=content)
        return msgspec.structs.replace(
            trajectory,
            messages=tuple(messages),
            # Ids of the turns as they were sampled: they no longer spell these messages.
            segments=(),
            notes={**trajectory.notes, "reasoner": self.reasoner.name},
        )

    async def _reasons(
        self, task: Task, messages: Sequence[Message], asked: Mapping[int, AssistantMessage]
    ) -> dict[int, str]:
        """Return the reasoning of these turns, by their place among the messages.

        Raises:
            _LeftOut: one of them has none that can be used.
        """

        async def one(place: int) -> str:
            turn = msgspec.structs.replace(asked[place], thinking=None)
            return await self._reason(task, messages[:place], turn, messages[place + 1 :])

        if not self.turns_at_once:
            return {place: await one(place) for place in asked}
        # All are waited for: none is left under way, and paid for, behind an exception.
        found = await asyncio.gather(*map(one, asked), return_exceptions=True)
        reasons = {}
        for place, reason in zip(asked, found, strict=True):
            if isinstance(reason, BaseException):
                raise reason
            reasons[place] = reason
        return reasons

    async def _reason(
        self,
        task: Task,
        before: Sequence[Message],
        turn: AssistantMessage,
        after: Sequence[Message],
    ) -> str:
        known = _as_known(task, before, self.detect)
        self.counts.languages[known.language] += 1
        text, fault = await self._answer(known, before, turn, after, None)
        if fault is not None and fault is not Fault.TOO_LONG:
            self.counts.asked_again[fault.value] += 1
            text, fault = await self._answer(known, before, turn, after, fault)
        if fault is not None:
            raise _LeftOut(fault.value)
        return text

    async def _answer(
        self,
        known: Task,
        before: Sequence[Message],
        turn: AssistantMessage,
        after: Sequence[Message],
        earlier: Fault | None,
    ) -> tuple[str, Fault | None]:
        """Return what the reasoner says, and what is wrong with it. `after` is for us alone."""
        self.counts.questions += 1
        reason = await self.reasoner.explain(known, before, turn, earlier=earlier)
        self.counts.prompt_tokens += reason.prompt_tokens
        self.counts.completion_tokens += reason.completion_tokens
        text = clean_reason(reason.text)
        return text, reason.fault or fault_of(
            text, known.language, before, turn, after, known.tools, self.detect
        )


def _as_known(task: Task, before: Sequence[Message], detect: Detect | None) -> Task:
    """Return the task as the actor knew it: without gold and turns not yet said, in the language to reason in."""
    said = sum(isinstance(message, UserMessage) for message in before)
    language = task.language or UNDETERMINED
    if language == UNDETERMINED:
        language = user_language(before, detect)
    return msgspec.structs.replace(
        task, gold=None, user_turns=task.user_turns[:said], language=language
    )


def unchanged_calls(before: Trajectory, after: Trajectory) -> bool:
    """Return whether both trajectories hold the same calls and results, byte for byte, and the same answers.

    The words of a turn that calls tools may go; those of a turn that does not, and all other messages, stay.
    """

    def substance(trajectory: Trajectory) -> bytes:
        said: list[object] = []
        for message in trajectory.messages:
            if isinstance(message, AssistantMessage):
                said.append(message.calls or message.content)
            else:
                said.append(message)
        return msgspec.json.encode([said, trajectory.results, trajectory.final_state])

    return substance(before) == substance(after)
