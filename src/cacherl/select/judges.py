"""Ask a judge about every conversation that nothing else can tell the worth of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Protocol

from cacherl.core.errors import ModelError
from cacherl.core.tasks import Task
from cacherl.core.trajectories import Trajectory
from cacherl.reward.judge import JudgeScores, NoScoreError
from cacherl.select.duplicates import signature

GIVE_UP = 8
"""Failures before the first score, or conversations without one: then every further try is waste."""


class SamplingJudge(Protocol):
    """Scores final answers, another draw for every sample. `reward.judge.ChatJudge` is one."""

    name: str

    async def points(self, task: Task, trajectory: Trajectory, *, sample: int = 0) -> int:
        """Return 0 to 5 points. Raises `NoScoreError` where the replies hold none, else `ModelError`."""
        ...


JudgeTold = Callable[[int, int], None]
"""Told conversations judged and samples that failed so far."""


async def ask_judge(
    conversations: Iterable[tuple[Task, Trajectory]],
    judge: SamplingJudge,
    *,
    samples: int,
    concurrency: int = 8,
    on_progress: JudgeTold = lambda judged, failed: None,
) -> dict[bytes, JudgeScores]:
    """Return what the judge says of each conversation, by its signature; equal ones are asked about once.

    A sample that fails is no score; a conversation whose samples all fail has none, and the others go on.
    Reads on only as fast as it is answered, so that any number of conversations may come.

    Args:
        conversations: each with its task.
        judge: who is asked.
        samples: of each conversation.
        concurrency: conversations under way at once, all samples of each together.
        on_progress: told after each conversation.

    Raises:
        ModelError: it cannot be reached, or the first `GIVE_UP` conversations all have no score.
        BudgetError: the money is spent; with a journal, what was said so far costs nothing next time.
    """
    scores: dict[bytes, JudgeScores] = {}
    failed = given = unreached = without = 0
    room = asyncio.Semaphore(concurrency)
    stopped: list[Exception] = []

    async def one(task: Task, trajectory: Trajectory, key: bytes) -> None:
        nonlocal failed, given, unreached, without
        try:
            said = await asyncio.gather(
                *(judge.points(task, trajectory, sample=sample) for sample in range(samples)),
                return_exceptions=True,
            )
            points = [one for one in said if isinstance(one, int)]
            failures = [one for one in said if isinstance(one, ModelError)]
            given, failed = given + len(points), failed + len(failures)
            unreached += sum(not isinstance(one, NoScoreError) for one in failures)
            without += not points
            other = next((e for e in said if not isinstance(e, int | ModelError)), None)
            if other is not None:
                raise other
            if failures and not given and max(unreached, without) >= GIVE_UP:
                raise failures[-1]
            problem = " ".join(str(failures[-1]).split()) if failures else ""
            missing = len(failures)
            scores[key] = JudgeScores(points=tuple(points), failed=missing, problem=problem)
            on_progress(len(scores), failed)
        except Exception as error:  # noqa: BLE001 - raised below, once those under way have ended
            stopped.append(error)
        finally:
            room.release()

    seen: set[bytes] = set()
    async with asyncio.TaskGroup() as under_way:
        for task, trajectory in conversations:
            key = signature(trajectory)
            if key in seen:
                continue
            seen.add(key)
            await room.acquire()
            if stopped:
                room.release()
                break
            under_way.create_task(one(task, trajectory, key))
    if stopped:
        raise stopped[0]
    if unreached and not given:
        raise ModelError(
            f"the judge {judge.name} scored none of {len(scores)} conversations: "
            f"{next(s.problem for s in scores.values() if s.problem)}"
        )
    return scores
