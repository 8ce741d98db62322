"""Rejection sampling: what the verifiers, a judge or the data set's own score say of one trajectory.

What decides, first that applies: a score of the data set that the person named; the verifiers of a task
with gold (state, answer, process); a judge. Where none applies nothing says that it is right.

Source: CacheRL, arXiv:2606.14179, rejection-sampled SFT data (v3).
"""

from __future__ import annotations

import enum
import statistics
from collections.abc import Callable
from dataclasses import dataclass

from cacherl.core.messages import MalformedCall, last_assistant
from cacherl.core.records import Record
from cacherl.core.tasks import AnswerRule, Gold, Task
from cacherl.core.trajectories import StopReason, Trajectory
from cacherl.reward.answer import answer_ok, is_meta_reasoning
from cacherl.reward.judge import JudgeScores
from cacherl.reward.process import made_calls, process_reward
from cacherl.select.options import SelectOptions

PERFECT = 1.0 - 1e-9  # scores are means of fractions


def _process(task: Task, trajectory: Trajectory) -> float:
    return process_reward(task, trajectory).total


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorers:
    """Who says how good a trajectory is. Each must give the same trajectory the same score."""

    process: Callable[[Task, Trajectory], float] = _process
    """How right the way was, in [0, 1]: against the gold calls where there are any, else its form."""
    answer_ok: Callable[[AnswerRule, str], bool] = answer_ok
    """Whether the final answer says what it must."""
    is_meta: Callable[[str], bool] = is_meta_reasoning
    """Whether an answer talks about how to answer."""
    judged: Callable[[Task, Trajectory], JudgeScores | None] = lambda task, trajectory: None
    """What a judge said of the answer; None where it was not asked."""
    noted: Callable[[Trajectory], float | None] = lambda trajectory: None
    """The data set's own score, in [0, 1]; None where it has none, or none is to decide."""


class Verdict(enum.StrEnum):
    """What became of a trajectory, and why."""

    PERFECT = "perfect"
    RETURNED = "returned"
    """Imperfect, kept because a tool, its family or its length was rare."""
    UNVERIFIED = "unverified"
    """Nothing says that it is right; kept because that was asked for."""
    HELD_OUT = "held_out"
    """Its task is of a split that nobody may learn from."""
    CONTAMINATED = "contaminated"
    """What its user asks stands, nearly word for word, among held-out tasks."""
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
    LOW_NOTED = "low_noted"
    """The data set's own score is too low."""
    CONTESTED = "contested"
    """The judge's samples are too far apart to say anything."""
    UNSCORED = "unscored"
    """No gold, no judge and no score: nothing says that it is right."""
    DUPLICATE = "duplicate"
    """The same words, calls, results and answer as a better one."""
    NEAR_DUPLICATE = "near_duplicate"
    """Nearly the words and calls of a better one, with the same tools."""
    SURPLUS_OF_TASK = "surplus_of_task"
    """Good, but enough solutions of this task were better or shorter."""
    SURPLUS_OF_FAMILY = "surplus_of_family"
    """Good, but its family outgrew the others."""
    SURPLUS_OF_TOOL = "surplus_of_tool"
    """Good, but it has only tools that outgrew the others."""
    SURPLUS_OF_LENGTH = "surplus_of_length"
    """Good, but its length outgrew the others."""

    @property
    def kept(self) -> bool:
        """Whether such a trajectory is in the training set."""
        return self in _KEPT

    @property
    def may_return(self) -> bool:
        """Whether rarity excuses it: it did the world no harm and is partly right."""
        return self in _MAY_RETURN


_KEPT = frozenset({Verdict.PERFECT, Verdict.RETURNED, Verdict.UNVERIFIED})
_MAY_RETURN = frozenset(
    {
        Verdict.WRONG_ANSWER,
        Verdict.IMPERFECT_PROCESS,
        Verdict.LOW_JUDGED,
        Verdict.LOW_NOTED,
    }
)


class Judgement(Record, frozen=True, kw_only=True, gc=False):
    """One trajectory's scores and what became of it."""

    task_id: str
    rollout: int
    family: str
    verdict: Verdict
    score: float
    """Mean of the scores that decide, in [0, 1]; where nothing decides, the form of its calls."""
    process: float | None = None
    """None where the task has no gold calls to compare with."""
    answer: float | None = None
    """By the task's rule: 1 right, 0 wrong; None where it has none."""
    state: float | None = None
    """1 where the world ended as it should, 0 where it did not, None where nobody knows."""
    judged: JudgeScores | None = None
    """Every sample of the judge; None where it was not asked."""
    contested: bool = False
    """The judge's samples lie further apart than allowed."""
    noted: float | None = None
    """The data set's own score, in [0, 1]."""
    duplicate_of: str = ""
    """`task#rollout` of the trajectory kept in its place."""
    overlap: str = ""
    """The held-out task that it repeats, and how much of it."""

    @property
    def kept(self) -> bool:
        """Whether it is in the training set."""
        return self.verdict.kept


def assess(
    task: Task,
    trajectory: Trajectory,
    scorers: Scorers,
    options: SelectOptions,
    *,
    overlap: str = "",
) -> Judgement:
    """Return one trajectory's scores and verdict, before duplicates and balance are looked at.

    `overlap` names the held-out task that it repeats; empty where it repeats none.
    """
    final = last_assistant(trajectory.messages)
    text = final.content if final is not None else ""
    process, answer, state = _verified(task, trajectory, text, scorers)
    noted = scorers.noted(trajectory)
    said = scorers.judged(task, trajectory) if noted is None and answer is None else None
    judged = said.score if said is not None else None
    contested = said is not None and said.spread > options.max_spread
    deciding = [noted] if noted is not None else [process, answer, judged, state]
    known = [score for score in deciding if score is not None]

    if task.split not in options.splits:
        verdict = Verdict.HELD_OUT
    elif overlap:
        verdict = Verdict.CONTAMINATED
    elif trajectory.stop is not StopReason.ANSWER:
        verdict = Verdict.BROKEN_OFF
    elif not text.strip():
        verdict = Verdict.EMPTY_ANSWER
    elif scorers.is_meta(text):
        verdict = Verdict.META_REASONING
    elif any(isinstance(call, MalformedCall) for call in made_calls(trajectory)):
        verdict = Verdict.MALFORMED_CALL
    elif not known:
        verdict = Verdict.UNVERIFIED if options.keep_unscored else Verdict.UNSCORED
    elif noted is not None:
        verdict = Verdict.PERFECT if noted >= options.min_noted else Verdict.LOW_NOTED
    elif state == 0.0:
        verdict = Verdict.WRONG_STATE
    elif answer == 0.0:
        verdict = Verdict.WRONG_ANSWER
    elif contested and options.drop_contested:
        verdict = Verdict.CONTESTED
    elif judged is not None and judged < options.min_judged:
        verdict = Verdict.LOW_JUDGED
    elif process is not None and process < PERFECT:
        verdict = Verdict.IMPERFECT_PROCESS
    else:
        verdict = Verdict.PERFECT
    return Judgement(
        task_id=task.id,
        rollout=trajectory.rollout,
        family=task.family,
        verdict=verdict,
        score=statistics.fmean(known) if known else scorers.process(task, trajectory),
        process=process,
        answer=answer,
        state=state,
        judged=said,
        contested=contested,
        noted=noted,
        overlap=overlap,
    )


def needs_judge(
    task: Task, trajectory: Trajectory, scorers: Scorers, options: SelectOptions
) -> bool:
    """Say whether only a judge can tell if the answer is right: what is rejected anyway costs nothing."""
    if task.gold is not None and _rule(task.gold) is not None:
        return False
    found = assess(task, trajectory, scorers, options)
    return found.noted is None and found.verdict not in (
        Verdict.HELD_OUT,
        Verdict.BROKEN_OFF,
        Verdict.EMPTY_ANSWER,
        Verdict.META_REASONING,
        Verdict.MALFORMED_CALL,
        Verdict.WRONG_STATE,
    )


def _verified(
    task: Task, trajectory: Trajectory, text: str, scorers: Scorers
) -> tuple[float | None, float | None, float | None]:
    """Return process, answer and state, each None where the gold says nothing of it."""
    gold = task.gold
    if gold is None:
        return None, None, None
    rule = _rule(gold)
    answer = float(scorers.answer_ok(rule, text)) if rule is not None else None
    state = None
    # Imported gold may have no state: an empty one equals no world's.
    if gold.state and trajectory.final_state is not None:
        state = float(trajectory.final_state == gold.state)
    # Files written before None could be said hold an empty list for "nobody said".
    known = gold.calls is not None and (gold.calls or gold.state)
    process = scorers.process(task, trajectory) if known else None
    return process, answer, state


def _rule(gold: Gold) -> AnswerRule | None:
    """Return the answer's rule; None where it asks for nothing, so that any answer would do."""
    return gold.answer if gold.answer.must or gold.answer.must_not else None
