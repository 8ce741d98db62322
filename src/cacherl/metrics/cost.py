"""What an evaluation cost: seconds, tokens and dollars, a task and a successful task."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from cacherl.core.errors import DataError
from cacherl.core.records import Record
from cacherl.metrics.intervals import Measured, bootstrap_mean, bootstrap_ratio


class EpisodeCost(Record, frozen=True, kw_only=True):
    """What one episode cost."""

    task_id: str
    success: bool
    model_s: float
    """Wall seconds spent waiting for the model."""
    tools_s: float = 0.0
    """Wall seconds of live tools; on a cache, the recorded ones would be a fiction: leave them out."""
    prompt_tokens: int
    completion_tokens: int
    dollars: float | None = None
    """None where no price is known. Nothing is guessed."""


class Spread(Record, frozen=True, kw_only=True):
    """How a quantity is spread over episodes."""

    n: int
    mean: float
    sd: float | None
    """Of the sample (n - 1); None for one episode."""
    p95: float
    """Between the two nearest values, as numpy does by default. Below 20 episodes it is nearly the largest."""
    most: float


class CostSummary(Record, frozen=True, kw_only=True):
    """What the episodes of one evaluation cost."""

    episodes: int
    successes: int
    model_s: Spread
    wall_s: Spread
    """Model and tools."""
    prompt_tokens: Spread
    completion_tokens: Spread
    tokens_per_success: float | None
    """All tokens, those of failures too, over successes; None without a success: it is not infinite, nobody
    knows it."""
    dollars: float | None
    """In all; None where the price of any episode is unknown."""
    dollars_per_task: Measured | None
    """An episode; the interval takes tasks as the unit."""
    dollars_per_success: Measured | None
    """All dollars, those of failures too, over successes; None without a success or a price."""
    unpriced: int
    """Episodes of unknown price."""


def cost_summary(costs: Sequence[EpisodeCost], *, seed: int = 0) -> CostSummary:
    """Return what the episodes cost. A success pays for the failures before it.

    Args:
        costs: of every scored episode; those that the infrastructure ended belong elsewhere.
        seed: of the bootstrap.

    Raises:
        DataError: there is no episode.

    Source: cost and latency columns (mean, sd, p95) of BFCL; average agent cost of tau2-bench.
    """
    if not costs:
        raise DataError("no episode was scored, so nothing can be said of its cost.")
    successes = sum(cost.success for cost in costs)
    tokens = sum(cost.prompt_tokens + cost.completion_tokens for cost in costs)
    priced = [cost.dollars for cost in costs if cost.dollars is not None]
    per_task = per_success = None
    if len(priced) == len(costs):
        tasks: dict[str, list[EpisodeCost]] = {}
        for cost in costs:
            tasks.setdefault(cost.task_id, []).append(cost)
        spent = [[cost.dollars or 0.0 for cost in task] for task in tasks.values()]
        won = [sum(cost.success for cost in task) for task in tasks.values()]
        per_task = bootstrap_mean(spent, seed=seed)
        per_success = bootstrap_ratio([sum(task) for task in spent], won, seed=seed)
    return CostSummary(
        episodes=len(costs),
        successes=successes,
        model_s=spread([cost.model_s for cost in costs]),
        wall_s=spread([cost.model_s + cost.tools_s for cost in costs]),
        prompt_tokens=spread([cost.prompt_tokens for cost in costs]),
        completion_tokens=spread([cost.completion_tokens for cost in costs]),
        tokens_per_success=tokens / successes if successes else None,
        dollars=math.fsum(priced) if len(priced) == len(costs) else None,
        dollars_per_task=per_task,
        dollars_per_success=per_success,
        unpriced=len(costs) - len(priced),
    )


def spread(values: Sequence[float]) -> Spread:
    """Return mean, standard deviation and 95th percentile.

    Raises:
        DataError: there is no value.
    """
    if not values:
        raise DataError("no value was measured, so there is no spread.")
    array = np.asarray(values, dtype=float)
    return Spread(
        n=len(array),
        mean=float(array.mean()),
        sd=float(array.std(ddof=1)) if len(array) > 1 else None,
        p95=float(np.percentile(array, 95)),
        most=float(array.max()),
    )
