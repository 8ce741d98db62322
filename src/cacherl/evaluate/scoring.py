"""What one episode is worth: the suite's verdict, and every figure that its task allows."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from cacherl.core.suites import Suite, Verdict
from cacherl.core.tasks import Task
from cacherl.core.trajectories import Trajectory
from cacherl.metrics import diagnose, score_episode

SUCCESS = "success"
"""The suite's own verdict. Every row has it."""
MAIN = (SUCCESS, "process_accuracy", "end_to_end")
"""What the head of a table shows, where rows have it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """One episode, judged."""

    verdict: Verdict
    metrics: dict[str, float]
    """Each in [0, 1]. A metric that does not apply is absent."""
    cause: str | None = None
    """Why it failed (`metrics.FailureKind`); None for a success, and where no rule could say."""
    kinds: tuple[str, ...] = ()
    """Everything that went wrong in a failure, the cause among it."""
    wrong_fields: tuple[str, ...] = ()
    """Kinds of the arguments that made a call another call than the solution's."""


def score(suite: Suite, task: Task, trajectory: Trajectory) -> Scored:
    """Return the verdict, the metrics and the kinds of failure of one episode.

    A function of its arguments: what is stored can be scored again.
    """
    said = suite.check(task, trajectory)
    # A checker may say True for 1; a file of records holds numbers.
    checks = tuple(msgspec.structs.replace(c, score=float(c.score)) for c in said.checks)
    verdict = Verdict(success=bool(said.success), checks=checks)
    metrics = {SUCCESS: float(verdict.success)}
    metrics |= {f"check.{check.name}": check.score for check in checks}
    if task.gold is not None:
        row = score_episode(task, trajectory)
        if row.process_accuracy is not None:
            metrics["process_accuracy"] = row.process_accuracy
        metrics["end_to_end"] = float(row.end_to_end)
    found = diagnose(task, trajectory, success=verdict.success)
    if found is None:
        return Scored(verdict=verdict, metrics=metrics)
    return Scored(
        verdict=verdict,
        metrics=metrics,
        cause=None if found.primary is None else found.primary.value,
        kinds=tuple(kind.value for kind in found.kinds),
        wrong_fields=tuple(wrong.field.kind.value for wrong in found.fields),
    )
