"""Choose what is worth learning from and write it, in two passes: no file is ever held in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from cacherl.core.errors import DataError
from cacherl.core.jsonl import read_jsonl, write_jsonl
from cacherl.core.tasks import Task
from cacherl.core.trajectories import Trajectory
from cacherl.reward.judge import JudgeScores
from cacherl.select.balance import Selection, balanced, considered
from cacherl.select.duplicates import HeldOutTexts, Sketcher, asked
from cacherl.select.judges import JudgeTold, SamplingJudge, ask_judge
from cacherl.select.options import SelectOptions
from cacherl.select.verdicts import Judgement, Scorers, assess, needs_judge

KeptTold = Callable[[Task, Trajectory, Judgement], None]
"""Handed each kept trajectory, in the order of the file."""
ReadTold = Callable[[int], None]
"""Told how many trajectories were read."""


def choose(
    tasks: Mapping[str, Task],
    trajectories: Iterable[Trajectory],
    scorers: Scorers = Scorers(),  # noqa: B008 - immutable
    options: SelectOptions = SelectOptions(),  # noqa: B008 - immutable
    *,
    held_out: HeldOutTexts | None = None,
    on_read: ReadTold = lambda count: None,
) -> Selection:
    """Judge every trajectory and return what to keep. Pure: same input, same choice.

    Reads the trajectories once and keeps about a kilobyte of each.

    Raises:
        DataError: a trajectory of an unknown task.
    """
    sketcher = Sketcher() if options.near_duplicates else None
    every = []
    for count, (task, trajectory) in enumerate(paired(tasks, trajectories), 1):
        overlap = held_out.repeated_by(asked(trajectory)) if held_out is not None else ""
        judgement = assess(task, trajectory, scorers, options, overlap=overlap)
        every.append(considered(trajectory, judgement, sketcher))
        on_read(count)
    return balanced(every, options)


def select(
    tasks: Mapping[str, Task],
    source: Path,
    out: Path,
    *,
    scorers: Scorers = Scorers(),  # noqa: B008 - immutable
    options: SelectOptions = SelectOptions(),  # noqa: B008 - immutable
    held_out: HeldOutTexts | None = None,
    on_read: ReadTold = lambda count: None,
    on_kept: KeptTold = lambda task, trajectory, judgement: None,
) -> Selection:
    """Write the trajectories of `source` that are worth learning from to `out`, in the order they came.

    Raises:
        DataError: a trajectory of an unknown task, or nothing at all is worth keeping; `out` is as it was.
    """
    selection = choose(
        tasks,
        read_jsonl(source, Trajectory),
        scorers,
        options,
        held_out=held_out,
        on_read=on_read,
    )
    require_some(selection)

    def kept() -> Iterator[Trajectory]:
        pairs = paired(tasks, read_jsonl(source, Trajectory))
        for (task, trajectory), judgement in zip(pairs, selection.judgements, strict=True):
            if judgement.kept:
                on_kept(task, trajectory, judgement)
                yield trajectory

    write_jsonl(out, kept())
    return selection


async def judge_all(
    tasks: Mapping[str, Task],
    source: Path,
    judge: SamplingJudge,
    *,
    samples: int,
    concurrency: int = 8,
    scorers: Scorers = Scorers(),  # noqa: B008 - immutable
    options: SelectOptions = SelectOptions(),  # noqa: B008 - immutable
    held_out: HeldOutTexts | None = None,
    on_progress: JudgeTold = lambda judged, failed: None,
) -> dict[bytes, JudgeScores]:
    """Ask the judge about each trajectory that only a judge can tell the worth of; by signature.

    Raises: as `ask_judge`, and `DataError` for a trajectory of an unknown task.
    """
    return await ask_judge(
        (
            (task, trajectory)
            for task, trajectory in paired(tasks, read_jsonl(source, Trajectory))
            if needs_judge(task, trajectory, scorers, options)
            and not (held_out is not None and held_out.repeated_by(asked(trajectory)))
        ),
        judge,
        samples=samples,
        concurrency=concurrency,
        on_progress=on_progress,
    )


def without_score(selection: Selection) -> Judgement | None:
    """Return the first of those that nothing scored although the judge was asked; None where all were."""
    return next(
        (
            one
            for one in selection.judgements
            if one.verdict == "unscored" and one.judged is not None
        ),
        None,
    )


def require_some(selection: Selection) -> None:
    """Raise a `DataError` with reasons if trajectories were considered and none is kept."""
    if not selection.considered or selection.kept:
        return
    reasons = ", ".join(f"{verdict} {count}" for verdict, count in selection.by_verdict.items())
    raise DataError(
        f"none of {selection.considered} trajectories is worth keeping ({reasons}). {_fix(selection)}"
    )


def _fix(selection: Selection) -> str:
    most = max(selection.by_verdict, key=selection.by_verdict.__getitem__)
    if most == "unscored":
        failed = without_score(selection)
        if failed is not None and failed.judged is not None:
            return (
                f"The judge gave no score: {failed.judged.problem} The same command asks it again."
            )
        return (
            "Nothing says whether these are right: ask a judge (`--judge openai:gpt-5`), name the data "
            "set's own score (`--score-note reward`), or keep them as they are (`--unscored keep`)."
        )
    if most == "broken_off":
        return (
            "They do not end in an answer: record with more turns, or look at why they stopped in the "
            "data card (`cacherl card`)."
        )
    if most == "held_out":
        return "Their tasks are held out: name the split to learn from (`--split`)."
    return "Record with a better policy, or more rollouts a task (`best_of`)."


def paired(
    tasks: Mapping[str, Task], trajectories: Iterable[Trajectory]
) -> Iterator[tuple[Task, Trajectory]]:
    """Yield each trajectory with its task.

    Raises:
        DataError: there is no such task.
    """
    for trajectory in trajectories:
        task = tasks.get(trajectory.task_id)
        if task is None:
            raise DataError(
                f"the trajectory of {trajectory.task_id!r} (rollout {trajectory.rollout}) has no task "
                "of that id among the tasks given. Give the task file that it was recorded with."
            )
        yield task, trajectory
