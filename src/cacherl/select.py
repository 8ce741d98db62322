"""Select: keep the trajectories worth learning from, without losing tools on the way.

Rejection sampling keeps what the verifiers find perfect. Scores alone thin out the hard tools, so
the best of the rejected come back where a tool or a family has become rare - never one that left the
world in a wrong state. The two sets together are the training set.

Source: CacheRL, arXiv:2606.14179, rejection-sampled (v3) and combined (v4) SFT data.
"""

from __future__ import annotations

import enum
import hashlib
import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from cacherl.core.errors import DataError
from cacherl.core.jsonl import write_jsonl
from cacherl.core.messages import (
    AssistantMessage,
    MalformedCall,
    ToolCall,
    UserMessage,
    last_assistant,
)
from cacherl.core.records import Record
from cacherl.core.tasks import AnswerRule, Task
from cacherl.core.trajectories import StopReason, Trajectory

PERFECT = 1.0 - 1e-9  # scores are means of fractions


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorers:
    """The verifiers. Handed in, so that this stage stands on no other."""

    process: Callable[[Task, Trajectory], float]
    """Process accuracy against the gold calls, in [0, 1]."""
    answer_ok: Callable[[AnswerRule, str], bool]
    """Whether the final answer says what it must."""
    is_meta: Callable[[str], bool]
    """Whether an answer talks about how to answer."""
    judged: Callable[[Task, Trajectory], float | None] = lambda task, trajectory: None
    """A judge's score of the answer, in [0, 1], for tasks without gold; None where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectOptions:
    """What is kept."""

    per_task: int = 1
    """Different solutions kept of one task, best and shortest first."""
    min_judged: float = 0.8
    """Without gold, a judge's score from here on counts as perfect (4 of 5), in [0, 1]."""
    tool_floor: int = 8
    """Below this many trajectories a tool is rare, and the best of the rejected may come back."""
    family_floor: int = 8
    """The same for a task family."""
    min_returned: float = 0.5
    """Nothing below this score comes back, in [0, 1]."""
    family_ceiling: float = 3.0
    """A family is cut to this many times the median family; 0 cuts nothing."""


class Verdict(enum.StrEnum):
    """What became of a trajectory, and why."""

    PERFECT = "perfect"
    RETURNED = "returned"
    """Imperfect, kept because a tool or its family was rare."""
    BROKEN_OFF = "broken_off"
    """It did not end in an answer."""
    META_REASONING = "meta_reasoning"
    """The answer talks about how to answer."""
    EMPTY_ANSWER = "empty_answer"
    MALFORMED_CALL = "malformed_call"
    WRONG_STATE = "wrong_state"
    WRONG_ANSWER = "wrong_answer"
    IMPERFECT_PROCESS = "imperfect_process"
    LOW_JUDGED = "low_judged"
    UNSCORED = "unscored"
    """No gold and no judge: nothing says that it is right."""
    DUPLICATE = "duplicate"
    """The same words, calls and answer as a better one."""
    SURPLUS_OF_TASK = "surplus_of_task"
    """Good, but enough solutions of this task were better or shorter."""
    SURPLUS_OF_FAMILY = "surplus_of_family"
    """Good, but its family outgrew the others."""


NEVER_RETURNED = frozenset(
    {
        Verdict.BROKEN_OFF,
        Verdict.META_REASONING,
        Verdict.EMPTY_ANSWER,
        Verdict.MALFORMED_CALL,
        Verdict.WRONG_STATE,
        Verdict.UNSCORED,
        Verdict.DUPLICATE,
        Verdict.SURPLUS_OF_TASK,
        Verdict.SURPLUS_OF_FAMILY,
    }
)
"""What no rarity excuses. What remains did the world no harm and is partly right."""


class Judgement(Record, frozen=True, kw_only=True):
    """One trajectory's scores and what became of it."""

    task_id: str
    rollout: int
    family: str
    verdict: Verdict
    score: float
    """Mean of the known scores, in [0, 1]."""
    process: float | None = None
    answer: float | None = None
    state: float | None = None
    """1 where the world ended as it should, 0 where it did not, None where nobody knows."""

    @property
    def kept(self) -> bool:
        """Whether it is in the training set."""
        return self.verdict in (Verdict.PERFECT, Verdict.RETURNED)


class Selection(Record, frozen=True, kw_only=True):
    """What selecting did: counts, reasons, and every judgement in the order of the input."""

    considered: int
    kept: int
    perfect: int
    returned: int
    by_verdict: dict[str, int]
    kept_by_family: dict[str, int]
    tools_before: dict[str, int]
    """Trajectories calling each tool, in the input."""
    tools_after: dict[str, int]
    """Trajectories calling each tool, among the kept."""
    tools_lost: tuple[str, ...]
    """Tools that the input calls and the kept never do."""
    rare_tools: tuple[str, ...]
    """Tools that stayed below the floor although the input had more."""
    judgements: tuple[Judgement, ...]


def judge(
    task: Task, trajectory: Trajectory, scorers: Scorers, options: SelectOptions
) -> Judgement:
    """Return one trajectory's scores and verdict, before duplicates and balance are looked at."""
    final = last_assistant(trajectory.messages)
    text = final.content if final is not None else ""
    process: float | None = None
    state: float | None = None
    if task.gold is not None:
        process = scorers.process(task, trajectory)
        answer: float | None = float(scorers.answer_ok(task.gold.answer, text))
        if trajectory.final_state is not None:
            state = float(trajectory.final_state == task.gold.state)
    else:
        answer = scorers.judged(task, trajectory)
    known = [score for score in (process, answer, state) if score is not None]
    score = statistics.fmean(known) if known else 0.0
    malformed = any(isinstance(call, MalformedCall) for call in _calls(trajectory))

    if trajectory.stop is not StopReason.ANSWER:
        verdict = Verdict.BROKEN_OFF
    elif not text.strip():
        verdict = Verdict.EMPTY_ANSWER
    elif scorers.is_meta(text):
        verdict = Verdict.META_REASONING
    elif malformed:
        verdict = Verdict.MALFORMED_CALL
    elif not known:
        verdict = Verdict.UNSCORED
    elif state == 0.0:
        verdict = Verdict.WRONG_STATE
    elif task.gold is None:
        verdict = Verdict.PERFECT if score >= options.min_judged else Verdict.LOW_JUDGED
    elif answer == 0.0:
        verdict = Verdict.WRONG_ANSWER
    elif score < PERFECT:
        verdict = Verdict.IMPERFECT_PROCESS
    else:
        verdict = Verdict.PERFECT
    return Judgement(
        task_id=task.id,
        rollout=trajectory.rollout,
        family=task.family,
        verdict=verdict,
        score=score,
        process=process,
        answer=answer,
        state=state,
    )


def choose(
    tasks: Iterable[Task],
    trajectories: Sequence[Trajectory],
    scorers: Scorers,
    options: SelectOptions = SelectOptions(),
) -> Selection:
    """Judge every trajectory and return what to keep. Pure: same input, same choice.

    In order: verdicts by the verifiers; duplicates; the best solutions of each task; the best of the
    rejected for rare tools and families; families cut to a ceiling.

    Raises:
        DataError: a trajectory of an unknown task.
    """
    by_id = {task.id: task for task in tasks}
    judgements = [
        judge(_task_of(trajectory, by_id), trajectory, scorers, options)
        for trajectory in trajectories
    ]
    best_first = sorted(
        range(len(trajectories)),
        key=lambda i: (
            -judgements[i].score,
            len(_calls(trajectories[i])),
            _length(trajectories[i]),
            i,
        ),
    )
    _drop_surplus(best_first, judgements, trajectories, options)
    _return_rare(best_first, judgements, trajectories, options)
    _cut_families(best_first, judgements, trajectories, options)
    return _selection(judgements, trajectories, options)


def select(
    tasks: Iterable[Task],
    trajectories: Iterable[Trajectory],
    scorers: Scorers,
    out: Path,
    *,
    options: SelectOptions = SelectOptions(),
) -> Selection:
    """Write the trajectories worth learning from to `out`, in the order they came.

    Raises:
        DataError: a trajectory of an unknown task, or nothing at all is worth keeping.
    """
    considered = list(trajectories)
    selection = choose(tasks, considered, scorers, options)
    if considered and not selection.kept:
        reasons = ", ".join(f"{verdict} {count}" for verdict, count in selection.by_verdict.items())
        raise DataError(
            f"none of {len(considered)} trajectories is worth keeping ({reasons}). "
            "Record with a better policy, or more rollouts a task (`best_of`)."
        )
    write_jsonl(
        out,
        (
            trajectory
            for trajectory, judgement in zip(considered, selection.judgements, strict=True)
            if judgement.kept
        ),
    )
    return selection


# ---------------------------------------------------------------------------------- the four steps


def _drop_surplus(
    best_first: Sequence[int],
    judgements: list[Judgement],
    trajectories: Sequence[Trajectory],
    options: SelectOptions,
) -> None:
    """Mark duplicates, and perfect solutions beyond `per_task`."""
    seen: set[bytes] = set()
    of_task: Counter[str] = Counter()
    for i in best_first:
        verdict = judgements[i].verdict
        if verdict in NEVER_RETURNED:
            continue
        signature = _signature(trajectories[i])
        if signature in seen:
            judgements[i] = _marked(judgements[i], Verdict.DUPLICATE)
            continue
        seen.add(signature)
        if verdict is Verdict.PERFECT:
            if of_task[judgements[i].task_id] >= options.per_task:
                judgements[i] = _marked(judgements[i], Verdict.SURPLUS_OF_TASK)
            of_task[judgements[i].task_id] += 1


def _return_rare(
    best_first: Sequence[int],
    judgements: list[Judgement],
    trajectories: Sequence[Trajectory],
    options: SelectOptions,
) -> None:
    """Take the best of the rejected back, as long as one of its tools or its family is rare."""
    tools, families = _kept_counts(judgements, trajectories)
    solved = {judgement.task_id for judgement in judgements if judgement.kept}
    for i in best_first:
        judgement = judgements[i]
        if (
            judgement.kept
            or judgement.verdict in NEVER_RETURNED
            or judgement.score < options.min_returned
            # A worse solution beside a perfect one of the same task would teach the worse one.
            or judgement.task_id in solved
        ):
            continue
        rare_family = families[judgement.family] < options.family_floor
        if rare_family or any(tools[t] < options.tool_floor for t in _good_tools(trajectories[i])):
            judgements[i] = _marked(judgement, Verdict.RETURNED)
            solved.add(judgement.task_id)
            families[judgement.family] += 1
            tools.update(_good_tools(trajectories[i]))


def _cut_families(
    best_first: Sequence[int],
    judgements: list[Judgement],
    trajectories: Sequence[Trajectory],
    options: SelectOptions,
) -> None:
    """Cut families that outgrew the others, sparing whatever keeps a tool above its floor."""
    tools, families = _kept_counts(judgements, trajectories)
    if not options.family_ceiling or len(families) < 2:
        return
    ceiling = math.ceil(options.family_ceiling * statistics.median(families.values()))
    ceiling = max(ceiling, options.family_floor)
    # By digest of the task, not by its place in the file: generators put easy tasks first.
    order = sorted(best_first, key=lambda i: _digest(judgements[i].task_id.encode()))
    for i in order:
        judgement = judgements[i]
        if not judgement.kept or families[judgement.family] <= ceiling:
            continue
        used = _good_tools(trajectories[i])
        if any(tools[tool] <= options.tool_floor for tool in used):
            continue
        judgements[i] = _marked(judgement, Verdict.SURPLUS_OF_FAMILY)
        families[judgement.family] -= 1
        tools.subtract(used)


def _selection(
    judgements: Sequence[Judgement], trajectories: Sequence[Trajectory], options: SelectOptions
) -> Selection:
    after, families = _kept_counts(judgements, trajectories)
    before: Counter[str] = Counter()
    for trajectory in trajectories:
        before.update(_good_tools(trajectory))
    by_verdict = Counter(judgement.verdict for judgement in judgements)
    return Selection(
        considered=len(judgements),
        kept=by_verdict[Verdict.PERFECT] + by_verdict[Verdict.RETURNED],
        perfect=by_verdict[Verdict.PERFECT],
        returned=by_verdict[Verdict.RETURNED],
        by_verdict={verdict.value: by_verdict[verdict] for verdict in sorted(by_verdict)},
        kept_by_family=_positive(families),
        tools_before=_positive(before),
        tools_after=_positive(after),
        tools_lost=tuple(sorted(tool for tool in before if after[tool] <= 0)),
        rare_tools=tuple(
            sorted(t for t in before if after[t] < min(options.tool_floor, before[t]))
        ),
        judgements=tuple(judgements),
    )


# ---------------------------------------------------------------------------------------- readings


def _task_of(trajectory: Trajectory, tasks: Mapping[str, Task]) -> Task:
    task = tasks.get(trajectory.task_id)
    if task is None:
        raise DataError(
            f"the trajectory of {trajectory.task_id!r} (rollout {trajectory.rollout}) has no task of that id "
            "among the tasks given. Give the task file that it was recorded with."
        )
    return task


def _calls(trajectory: Trajectory) -> list[ToolCall | MalformedCall]:
    return [
        call
        for message in trajectory.messages
        if isinstance(message, AssistantMessage)
        for call in message.calls
    ]


def _good_tools(trajectory: Trajectory) -> set[str]:
    """Return the tools that answered at least one call: a refused call teaches no tool."""
    return {result.name for result in trajectory.results if result.name and not result.is_error}


def _kept_counts(
    judgements: Sequence[Judgement], trajectories: Sequence[Trajectory]
) -> tuple[Counter[str], Counter[str]]:
    tools: Counter[str] = Counter()
    families: Counter[str] = Counter()
    for judgement, trajectory in zip(judgements, trajectories, strict=True):
        if judgement.kept:
            tools.update(_good_tools(trajectory))
            families[judgement.family] += 1
    return tools, families


def _length(trajectory: Trajectory) -> int:
    """Return how many characters the assistant wrote."""
    return sum(
        len(message.content) + len(message.thinking or "")
        for message in trajectory.messages
        if isinstance(message, AssistantMessage)
    )


def _signature(trajectory: Trajectory) -> bytes:
    """Return a digest of what makes a trajectory itself: user's words, calls, answer.

    Call ids, thinking and who acted are left out; so is the task's id, because generators repeat
    themselves under new ids.
    """
    encoder = msgspec.json.Encoder(order="sorted")
    parts: list[object] = []
    for message in trajectory.messages:
        if isinstance(message, UserMessage):
            parts.append(["user", message.content])
        elif isinstance(message, AssistantMessage):
            parts.extend(
                ["call", call.name, call.arguments]
                if isinstance(call, ToolCall)
                else ["malformed", call.text]
                for call in message.calls
            )
            if not message.calls:
                parts.append(["answer", " ".join(message.content.split())])
    # Same words over another database are another lesson: the results tell them apart.
    parts.append([result.text for result in trajectory.results])
    return _digest(encoder.encode(parts))


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _marked(judgement: Judgement, verdict: Verdict) -> Judgement:
    return msgspec.structs.replace(judgement, verdict=verdict)


def _positive(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: counts[name] for name in sorted(counts) if counts[name] > 0}
