"""One number for training: the answer trusted as far as the observations, the process for the rest.

    total = alpha * answer + (1 - alpha) * process          alpha by the worst tier of the episode

Source: CacheRL, arXiv:2606.14179, cache-tier-aware reward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cacherl.core.records import Record
from cacherl.core.tasks import Task
from cacherl.core.tools import Source, Tier, ToolResult, worst_tier
from cacherl.core.trajectories import StopReason, Trajectory
from cacherl.reward.answer import final_answer, is_meta_reasoning, rule_score
from cacherl.reward.process import DEFAULT_WEIGHTS, ProcessReward, ProcessWeights, process_reward

INFRASTRUCTURE = frozenset({StopReason.MODEL_FAILED, StopReason.TOOLS_FAILED})
"""Stops that say nothing about the policy: such episodes are never scored as the model's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alphas:
    """The answer's share of the reward, in [0, 1], by the worst tier met. The paper's values."""

    exact: float = 0.60
    fuzzy: float = 0.30
    best_effort: float = 0.10

    def __post_init__(self) -> None:
        if not 1.0 >= self.exact >= self.fuzzy >= self.best_effort >= 0.0:
            raise ValueError(f"alphas must fall with trust and lie in [0, 1], not {self}")

    def of(self, tier: Tier) -> float:
        """Return the share: a live result is at least as true as an exact one, a miss helps no answer."""
        match tier:
            case Tier.LIVE | Tier.EXACT:
                return self.exact
            case Tier.FUZZY:
                return self.fuzzy
            case Tier.BEST_EFFORT | Tier.MISS:
                return self.best_effort


class HybridReward(Record, frozen=True, kw_only=True):
    """The reward of one episode with every part kept; all numbers lie in [0, 1]."""

    total: float
    alpha: float
    """The answer's share: by `tier`, or that of a best effort where calls were due and none got through."""
    tier: Tier
    """The worst tier met; LIVE for an episode without calls."""
    answer: float
    """After the meta-reasoning clamp."""
    meta_reasoning: bool
    process: ProcessReward


PAPER_ALPHAS = Alphas()


def blend(alpha: float, answer: float, process: float) -> float:
    """Return alpha * answer + (1 - alpha) * process."""
    return alpha * answer + (1.0 - alpha) * process


def tier_of(results: Sequence[ToolResult]) -> Tier:
    """Return the worst tier among the results; an answer from another state is a best effort at most."""
    return worst_tier(
        [
            result.tier if result.state_matched else max(result.tier, Tier.BEST_EFFORT, key=_rank)
            for result in results
        ]
    )


def _rank(tier: Tier) -> int:
    return tier.rank


def reward_of(
    task: Task,
    trajectory: Trajectory,
    *,
    answer: float | None = None,
    alphas: Alphas = PAPER_ALPHAS,
    weights: ProcessWeights = DEFAULT_WEIGHTS,
) -> HybridReward:
    """Return the training reward of one episode.

    Args:
        task: the task, with gold unless `answer` is given.
        trajectory: an episode that did not end by an infrastructure failure (see `INFRASTRUCTURE`).
        answer: a judge's score in [0, 1]; None scores by the task's answer rule.
        alphas: the answer's share by tier.
        weights: the shares of the process's parts.

    Raises:
        ValueError: the task has neither a rule nor a judge's score, or `answer` lies outside [0, 1].
    """
    if answer is None:
        answer = rule_score(task, trajectory)
    elif not 0.0 <= answer <= 1.0:
        raise ValueError(f"the answer's score must lie in [0, 1], not {answer}")
    meta = is_meta_reasoning(final_answer(trajectory))
    answer = 0.0 if meta else answer
    tier = tier_of(trajectory.results)
    process = process_reward(task, trajectory, weights)
    # Without a single observation the answer is a guess, and a lucky guess must not pay more than work: a policy
    # that answers at once, or after calls that the loop refused, is the paper's first failure.
    observed = any(result.source is not Source.LOOP for result in trajectory.results)
    guess = bool(task.gold and task.gold.calls) and not observed
    alpha = alphas.of(Tier.BEST_EFFORT if guess else tier)
    return HybridReward(
        total=blend(alpha, answer, process.total),
        alpha=alpha,
        tier=tier,
        answer=answer,
        meta_reasoning=meta,
        process=process,
    )
