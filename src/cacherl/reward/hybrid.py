"""One number for training: the answer trusted as far as the observations, the process for the rest.

    total = alpha * answer + (1 - alpha) * process
    alpha = by the worst tier of the episode                              trust = "paper"
    alpha = alpha of EXACT * P(every observation is what live tools say)  trust = "calibrated"

Source: CacheRL, arXiv:2606.14179, cache-tier-aware reward; the calibrated share is ours.
"""

from __future__ import annotations

import enum
import math
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


class TrustBy(enum.StrEnum):
    """What the answer's share of the reward follows."""

    PAPER = "paper"
    """The worst tier met, whatever that tier is worth in this cache."""
    CALIBRATED = "calibrated"
    """The calibrated fidelity of every observation; needs `cacherl cache calibrate`."""


class HybridReward(Record, frozen=True, kw_only=True):
    """The reward of one episode with every part kept; all numbers lie in [0, 1]."""

    total: float
    alpha: float
    """The answer's share: by `tier` or by `fidelity`, at most that of a best effort where calls were due
    and none got through."""
    tier: Tier
    """The worst tier met; LIVE for an episode without calls."""
    fidelity: float | None = None
    """P(all calibrated observations are what live tools say), in [0, 1]; None under the paper's trust."""
    uncalibrated: Tier | None = None
    """Under calibrated trust, the worst tier among observations of unknown fidelity, whose share the
    paper gives; None where there was none."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Trusted:
    """How far an episode's observations can be trusted."""

    fidelity: float
    """P(all that are calibrated are true), in [0, 1]; 1 for none."""
    unknown: tuple[ToolResult, ...]
    """The ones whose fidelity nobody knows."""


def trusted(results: Sequence[ToolResult]) -> Trusted:
    """Return the probability that every calibrated observation is what the live tool says.

    An answer is only sure to be judged on true grounds if all of them are, so fidelities multiply
    (the least of them is what the product would be if all observations failed together, and it
    would let ten doubtful observations pass for one). One recording served several times is one
    event and counts once. What the loop itself answered and what ran live is true.
    """
    known: dict[str, float] = {}
    unknown = []
    for place, result in enumerate(results):
        if result.source is Source.LOOP or result.tier is Tier.LIVE:
            continue
        if result.fidelity is None or result.tier is Tier.MISS:
            unknown.append(result)
            continue
        recording = f"#{place}" if result.key is None else result.key
        known[recording] = min(known.get(recording, 1.0), result.fidelity)
    return Trusted(fidelity=math.prod(known.values()), unknown=tuple(unknown))


def reward_of(
    task: Task,
    trajectory: Trajectory,
    *,
    answer: float | None = None,
    alphas: Alphas = PAPER_ALPHAS,
    weights: ProcessWeights = DEFAULT_WEIGHTS,
    trust: TrustBy = TrustBy.PAPER,
) -> HybridReward:
    """Return the training reward of one episode.

    With calibrated trust the answer's share never exceeds that of EXACT, equals it where every
    fidelity is 1, and falls with each of them. Observations without a fidelity, misses among them,
    cut it as the paper does: where none has one, the reward is the paper's.

    Args:
        task: the task, with gold unless `answer` is given.
        trajectory: an episode that did not end by an infrastructure failure (see `INFRASTRUCTURE`).
        answer: a judge's score in [0, 1]; None scores by the task's answer rule.
        alphas: the answer's share by tier.
        weights: the shares of the process's parts.
        trust: what the answer's share follows.

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
    fidelity = uncalibrated = None
    if trust is TrustBy.PAPER:
        alpha = alphas.of(tier)
    else:
        seen = trusted(trajectory.results)
        fidelity = seen.fidelity
        uncalibrated = tier_of(seen.unknown) if seen.unknown else None
        alpha = fidelity * alphas.of(tier_of(seen.unknown))
    if guess:
        alpha = min(alpha, alphas.of(Tier.BEST_EFFORT))
    return HybridReward(
        total=blend(alpha, answer, process.total),
        alpha=alpha,
        tier=tier,
        fidelity=fidelity,
        uncalibrated=uncalibrated,
        answer=answer,
        meta_reasoning=meta,
        process=process,
    )
