"""Asking a judge: what is rejected anyway costs nothing, failures are no scores, spent is spent."""

from __future__ import annotations

import asyncio

import pytest

from cacherl.core.errors import BudgetError, ModelError
from cacherl.core.messages import MalformedCall
from cacherl.core.tasks import AnswerRule, Gold, Split, Task
from cacherl.core.trajectories import StopReason, Trajectory
from cacherl.reward.judge import NoScoreError
from cacherl.select import SelectOptions
from cacherl.select.duplicates import signature
from cacherl.select.judges import GIVE_UP, ask_judge
from cacherl.select.verdicts import needs_judge
from tests.select.sample import GOLD, SCORERS, made, make_task


class Points:
    """A judge that says what the answer says, and notes what it was asked."""

    name = "points"

    def __init__(self, error: Exception | None = None) -> None:
        self.asked: list[tuple[str, int]] = []
        self.under_way = self.most = 0
        self.error = error

    async def points(self, task: Task, trajectory: Trajectory, *, sample: int = 0) -> int:
        self.asked.append((task.id, sample))
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(0)
        self.under_way -= 1
        said = trajectory.messages[-1]
        if self.error is not None:
            raise self.error
        if said.content == "sick" or (said.content == "wavering" and sample == 1):
            raise ModelError("no score")
        return 3 + sample % 2


def pairs(*answers: str) -> list[tuple[Task, Trajectory]]:
    return [
        (make_task(f"t{n}", gold=None), made(f"t{n}", answer=answer))
        for n, answer in enumerate(answers)
    ]


async def test_every_sample_is_kept_and_a_failure_is_no_score() -> None:
    """`judgements.jsonl` must show where a mean comes from."""
    judged = pairs("well", "wavering", "sick")

    scores = await ask_judge(judged, Points(), samples=3)

    well, wavering, sick = (scores[signature(trajectory)] for _, trajectory in judged)
    assert (well.points, well.failed) == ((3, 4, 3), 0)
    assert (wavering.points, wavering.failed, wavering.problem) == ((3, 3), 1, "no score")
    assert (sick.points, sick.failed, sick.score) == ((), 3, None)


async def test_equal_conversations_are_asked_about_once() -> None:
    """Generators repeat themselves, and a judge is paid by the question."""
    judge = Points()
    twice = [
        (make_task(f"t{n}", gold=None), made(f"t{n}", said="the same request")) for n in range(2)
    ]

    scores = await ask_judge(twice, judge, samples=2)

    assert judge.asked == [("t0", 0), ("t0", 1)]
    assert len(scores) == 1


async def test_no_more_are_under_way_than_allowed() -> None:
    """A million conversations must not all be held at once."""
    judge = Points()

    await ask_judge(pairs(*(f"answer {n}" for n in range(20))), judge, samples=2, concurrency=3)

    assert judge.most <= 6
    assert len(judge.asked) == 40


async def test_a_judge_that_cannot_be_asked_stops_the_work_at_once() -> None:
    """A wrong key fails a thousand times as fast as it fails once."""
    judge = Points(ModelError("wrong key"))

    with pytest.raises(ModelError, match="wrong key"):
        await ask_judge(pairs(*(f"a {n}" for n in range(500))), judge, samples=1, concurrency=2)

    assert len(judge.asked) <= GIVE_UP + 2


async def test_few_failures_and_nothing_else_are_an_error_too() -> None:
    """Three conversations without a score are no selection by a judge."""
    with pytest.raises(ModelError, match="scored none of 2 conversations: wrong key"):
        await ask_judge(pairs("a", "b"), Points(ModelError("wrong key")), samples=1)


async def test_conversations_that_get_no_score_do_not_stop_the_others() -> None:
    """One stubborn conversation must not cost the run; a judge that never scores is found out soon."""
    stubborn = Points(NoScoreError("prose"))
    few = await ask_judge(pairs("a", "b"), stubborn, samples=3)

    assert [(scores.score, scores.failed) for scores in few.values()] == [(None, 3)] * 2
    many = Points(NoScoreError("prose"))
    with pytest.raises(NoScoreError, match="prose"):
        await ask_judge(pairs(*(f"a {n}" for n in range(500))), many, samples=3, concurrency=2)
    assert 3 * GIVE_UP <= len(many.asked) <= 3 * (GIVE_UP + 2)


async def test_a_spent_budget_stops_and_says_so() -> None:
    """What was bought lies in the journal; going on without the rest would bias the set."""
    judge = Points(BudgetError("10 dollars are spent"))

    with pytest.raises(BudgetError, match="10 dollars"):
        await ask_judge(pairs("a", "b", "c"), judge, samples=1, concurrency=1)

    assert len(judge.asked) == 1


@pytest.mark.parametrize(
    ("task", "trajectory", "needed"),
    [
        (make_task("t", gold=None), made("t"), True),
        (make_task("t", gold=Gold(calls=(), answer=AnswerRule(), state="right")), made("t"), True),
        (make_task("t", gold=GOLD), made("t"), False),
        (make_task("t", gold=None), made("t", noted=1.0), False),
        (make_task("t", gold=None), made("t", answer=" "), False),
        (make_task("t", gold=None), made("t", answer="I should answer"), False),
        (make_task("t", gold=None), made("t", stop=StopReason.TRUNCATED), False),
        (make_task("t", gold=None, split=Split.TEST), made("t"), False),
        (
            make_task("t", gold=None),
            made("t", calls=(MalformedCall(id="c", text="x", problem="y"),)),
            False,
        ),
        (
            make_task("t", gold=Gold(calls=(), answer=AnswerRule(), state="right")),
            made("t", state="wrong"),
            False,
        ),
    ],
)
def test_only_what_nothing_else_can_tell_is_asked_about(
    task: Task, trajectory: Trajectory, needed: bool
) -> None:
    """The bill is for what is in doubt."""
    assert needs_judge(task, trajectory, SCORERS, SelectOptions()) is needed
