"""GRPO on cached rollouts: the policy writes its own calls, the cache answers, the hybrid reward scores.

The trainer is somebody else's (TRL, verl). Ours are the episodes: a trainer asks `play` for the rollouts of
its next tasks on whatever engine holds the current weights, and gets token segments with masks and rewards.

Source: GRPO, arXiv:2402.03300; CacheRL, arXiv:2606.14179, training section for the defaults.
"""

from __future__ import annotations

import asyncio
import enum
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cacherl.cache.episodes.ledger import HIGH_COUPLING, coupling, drawn_of, unsteady
from cacherl.core.errors import DataError, RecipeError
from cacherl.core.models import Limits
from cacherl.core.records import Record
from cacherl.core.tasks import Task
from cacherl.core.tools import Tier
from cacherl.core.training import Dtype, LoRA, Progress, Scheduler
from cacherl.core.trajectories import StopReason, TokenSegment
from cacherl.render import ChatCodec
from cacherl.reward.answer import Judge
from cacherl.reward.hybrid import PAPER_ALPHAS, Alphas, TrustBy
from cacherl.reward.process import DEFAULT_WEIGHTS, ProcessWeights
from cacherl.rollout import OpenTools, Rollout, rollout_batch, score_rollouts
from cacherl.token_chat import Engine, TokenChat

FLAT = 1e-6  # reward units: a group whose rewards spread less teaches nothing


class Loss(enum.StrEnum):
    """How token losses become one number; TRL's names."""

    GRPO = "grpo"
    """Mean over each rollout's ids, then over rollouts."""
    DAPO = "dapo"
    """Mean over all ids of the step: long rollouts count by their length."""
    DR_GRPO = "dr_grpo"
    """Sum over ids by a constant: no length bias."""
    BNPO = "bnpo"
    CISPO = "cispo"


class Scale(enum.StrEnum):
    """What advantages are divided by."""

    GROUP = "group"
    """The standard deviation of the group's rewards."""
    BATCH = "batch"
    """That of the whole step: easy and hard tasks keep their weight."""
    NONE = "none"


class GRPOConfig(Record, frozen=True, kw_only=True):
    """How to run GRPO. The defaults are the paper's; a recipe for the tiny model sets most of them."""

    steps: int = 200
    """Batches of rollouts; each leads to `iterations` optimizer steps."""
    tasks_per_step: int = 8
    group_size: int = 16
    """Rollouts of one task."""
    iterations: int = 1
    """Optimizer steps on one batch of rollouts. Above 1 costs one more forward pass for old logprobs."""
    micro_batch_rows: int | None = None
    """Rollouts in one forward pass; None is one group, whose prompt is then read once."""
    learning_rate: float = 1e-6
    scheduler: Scheduler = Scheduler.CONSTANT
    warmup: float = 0.0
    """Steps from 0 to the rate: a share of all steps below 1, else a number of steps."""
    beta: float = 0.15
    """Weight of the KL to the model that training started from; 0 keeps no reference."""
    loss: Loss = Loss.DAPO
    scale_rewards: Scale = Scale.GROUP
    clip: float = 0.2
    clip_high: float | None = None
    """Upper clip of the ratio; None is `clip`."""
    budget_tokens: int = 2048
    """Ids a rollout may hold after its prompt: the constant that DR_GRPO divides by."""
    temperature: float = 1.0
    """Of sampling and of the logprobs in the loss."""
    grad_clip: float = 1.0
    weight_decay: float = 0.0
    lora: LoRA | None = LoRA()
    """None trains all weights."""
    dtype: Dtype = Dtype.FLOAT32
    gradient_checkpointing: bool = False
    """Less memory for about a third more time; switches `share_prefix` off."""
    share_prefix: bool = True
    """Read what the rollouts of a micro batch have in common once. Exact, not approximate."""
    save_every: int = 10
    """Optimizer steps between checkpoints."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what no trainer could mean."""
        rows = self.tasks_per_step * self.group_size
        micro = self.micro_batch_rows or self.group_size
        if self.group_size < 2 or self.tasks_per_step < 1 or rows % micro:
            raise RecipeError(
                f"tasks_per_step {self.tasks_per_step} x group_size {self.group_size} (at least 2) must be "
                f"a multiple of micro_batch_rows {micro}. Correct the [grpo] section."
            )
        if min(self.steps, self.iterations, self.save_every) < 1 or self.learning_rate <= 0:
            raise RecipeError(
                f"steps {self.steps}, iterations {self.iterations}, save_every {self.save_every} and "
                f"learning_rate {self.learning_rate} must be positive. Correct the [grpo] section."
            )
        if self.beta < 0 or self.temperature <= 0:
            raise RecipeError(
                f"beta {self.beta} must not be negative and temperature {self.temperature} must be "
                "positive. Correct the [grpo] section."
            )


class BatchMetrics(Record, frozen=True, kw_only=True):
    """What one batch of rollouts was like. Means are over scored rollouts."""

    rollouts: int
    failed: int
    """Ended by an infrastructure failure: not scored, no part in the loss."""
    reward: float
    group_std: float
    """Mean over groups of the standard deviation of their rewards."""
    flat_groups: int
    """Groups whose rewards are all equal: they teach nothing."""
    groups: int
    alpha: float
    answer: float
    process: float
    accuracy: float | None
    """Mean process accuracy; None without gold."""
    format: float
    schema: float
    tool: float | None
    arguments: float | None
    no_leaked_thinking: float
    superfluous: float
    meta_reasoning: float
    """Share of rollouts whose answer talked about answering."""
    tiers: dict[Tier, float]
    """Share of rollouts by worst tier, so that they sum to 1."""
    stops: dict[StopReason, int]
    calls: float
    """Calls a rollout."""
    early: float
    """Share of rollouts without any call."""
    live_calls: int
    completion_tokens: float
    """Ids the policy wrote, a rollout."""
    coupled_share: float = 0.0
    """Mean of `cache.ledger.coupling` over the groups that met a tool which is not deterministic; 0
    where none did."""
    coupled_groups: int = 0
    """Groups above `HIGH_COUPLING`."""


class GRPOPoint(Record, frozen=True, kw_only=True):
    """One line of the learning curve: one optimizer step."""

    step: int
    batch: BatchMetrics
    loss: float
    lr: float
    kl: float | None
    """To the reference, in nats an id; None where beta is 0."""
    entropy: float | None
    """Nats an id, over the micro batches that had something to learn."""
    grad_norm: float | None
    clip_share: float | None
    """Share of ids whose ratio was clipped; above 0 only for `iterations` above 1."""
    rollout_s: float
    """Wall seconds of the rollouts and their scoring, 0 where the step reused a batch."""
    train_s: float
    """Wall seconds of everything else in the step."""
    seconds: float
    """Wall seconds of training so far, over all runs that led here."""


class GRPOSummary(Record, frozen=True, kw_only=True):
    """What the training was."""

    steps: int
    resumed_from: int
    rollouts: int
    first_reward: float
    """Mean over the first tenth of the steps."""
    final_reward: float
    """Mean over the last tenth of the steps."""
    flat_groups: float
    """Share of groups without reward variance."""
    failed: int
    live_calls: int
    seconds: float
    coupled_share: float = 0.0
    """Mean over the batches that had any such group; see `BatchMetrics.coupled_share`."""
    coupled_groups: float = 0.0
    """Share of groups above `HIGH_COUPLING`."""
    notes: tuple[str, ...] = ()
    """What the person who trains should know, each with what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """The rollouts of one batch, group by group, and what they were like."""

    groups: list[list[Rollout]]
    metrics: BatchMetrics
    seconds: float


Play = Callable[[Engine, Sequence[Task], int], Played]
"""(engine with the current weights, the tasks, the batch's number) -> their rollouts."""


class PolicyTrainer(Protocol):
    """Improves a policy on rollouts it asks for."""

    def train(
        self,
        tasks: Sequence[Task],
        play: Play,
        config: GRPOConfig,
        *,
        model: str,
        out: Path,
        work: Path,
        on_progress: Progress | None,
    ) -> tuple[list[GRPOPoint], int]:
        """Train `model` and leave the result, with its tokenizer, in `out`.

        Batch n plays `tasks[n * tasks_per_step :][: tasks_per_step]`. `out` appears whole or not at all.
        Checkpoints and the curve (`curve.jsonl`) live in `work`; called again after a kill, training goes on
        from the last whole checkpoint there. Returns the curve and the step it went on from.
        """
        ...


def trained_segment(rollout: Rollout) -> TokenSegment | None:
    """Return the segment of a rollout that trains, or None where the policy wrote nothing.

    A trainer takes one token row a rollout. Where a conversation has several segments (one a user
    turn), the rollouts of a group take them in turn: rollout i trains segment i modulo their number, so
    that every segment is trained in every group.
    """
    segments = rollout.trajectory.segments
    if rollout.reward is None or not segments:
        return None
    return segments[rollout.trajectory.rollout % len(segments)]


def task_schedule(tasks: Sequence[Task], config: GRPOConfig) -> list[Task]:
    """Return the tasks in the order of training: every task once a pass, each pass shuffled anew.

    No batch holds a task twice, unless there are fewer tasks than a batch. Same arguments, same order.
    """
    need = config.steps * config.tasks_per_step
    rng = random.Random(config.seed)  # noqa: S311 - an order of tasks, not a secret
    order: list[Task] = []
    while len(order) < need:
        one_pass = list(tasks)
        rng.shuffle(one_pass)
        # A batch that spans two passes must not hold a task of both.
        begun = {
            task.id for task in order[len(order) // config.tasks_per_step * config.tasks_per_step :]
        }
        order += [t for t in one_pass if t.id not in begun] + [t for t in one_pass if t.id in begun]
    return order[:need]


def grpo(
    tasks: Sequence[Task],
    open_tools: OpenTools,
    codec: ChatCodec,
    trainer: PolicyTrainer,
    config: GRPOConfig,
    *,
    model: str,
    out: Path,
    work: Path,
    limits: Limits,
    judge: Judge | None = None,
    alphas: Alphas = PAPER_ALPHAS,
    weights: ProcessWeights = DEFAULT_WEIGHTS,
    trust: TrustBy = TrustBy.PAPER,
    on_progress: Progress | None = None,
) -> GRPOSummary:
    """Train `model` on rollouts of the tasks and write the result to the folder `out`.

    Args:
        tasks: the tasks to train on.
        open_tools: the tools of one episode; in training they replay the cache.
        codec: the chat format; its tokenizer and template must be the model's.
        trainer: the library that trains.
        config: how.
        model: a folder or a model id.
        out: where the trained model appears, whole or not at all.
        work: checkpoints and `curve.jsonl`; a killed run goes on from here.
        limits: bounds of an episode.
        judge: scores final answers; None scores by the tasks' own rules.
        alphas: the answer's share of the reward by worst tier.
        weights: the shares of the process's parts.
        trust: what the answer's share follows.
        on_progress: told after every optimizer step.

    Raises:
        DataError: there are no tasks, or a task has no gold and there is no judge.
    """
    if not tasks:
        raise DataError("there are no tasks to train on. Choose a split or a count that has some.")
    unruled = [task.id for task in tasks if task.gold is None]
    if unruled and judge is None:
        raise DataError(
            f"task {unruled[0]!r} and {len(unruled) - 1} others say nothing of a right answer. Give them `expect`, or stop before (--until sft)."
        )

    def play(engine: Engine, batch: Sequence[Task], number: int) -> Played:
        started = time.perf_counter()
        groups = asyncio.run(
            _play(
                TokenChat(engine, codec),
                batch,
                open_tools,
                config,
                limits,
                number,
                judge,
                alphas,
                weights,
                trust,
            )
        )
        metrics = metrics_of(groups)
        return Played(groups=groups, metrics=metrics, seconds=time.perf_counter() - started)

    points, resumed_from = trainer.train(
        task_schedule(tasks, config),
        play,
        config,
        model=model,
        out=out,
        work=work,
        on_progress=on_progress,
    )
    return summary_of(points, resumed_from, scale_rewards=config.scale_rewards)


async def _play(
    chat: TokenChat,
    batch: Sequence[Task],
    open_tools: OpenTools,
    config: GRPOConfig,
    limits: Limits,
    number: int,
    judge: Judge | None,
    alphas: Alphas,
    weights: ProcessWeights,
    trust: TrustBy,
) -> list[list[Rollout]]:
    played = await rollout_batch(
        chat,
        batch,
        open_tools,
        group_size=config.group_size,
        limits=limits,
        # Each batch its own seed: a task that comes again must not be played the same way again.
        seed=config.seed * 1_000_003 + number,
    )
    return await score_rollouts(
        batch, played, judge=judge, alphas=alphas, weights=weights, trust=trust
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _mean_or_none(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return _mean(known) if known else None


def metrics_of(groups: Sequence[Sequence[Rollout]]) -> BatchMetrics:
    """Return what a batch of rollouts was like."""
    rollouts = [rollout for group in groups for rollout in group]
    scored = [r for r in rollouts if r.reward is not None]
    rewards = [r.reward for r in scored if r.reward is not None]
    spreads = [
        statistics.pstdev([r.reward.total for r in group if r.reward is not None] or [0.0])
        for group in groups
    ]
    tiers = Counter(r.ledger.worst for r in scored)
    calls = [sum(r.ledger.tiers.values()) for r in scored]
    coupled = coupled_shares(groups)
    return BatchMetrics(
        rollouts=len(rollouts),
        failed=len(rollouts) - len(scored),
        reward=_mean([r.total for r in rewards]),
        group_std=_mean(spreads),
        flat_groups=sum(spread < FLAT for spread in spreads),
        groups=len(groups),
        alpha=_mean([r.alpha for r in rewards]),
        answer=_mean([r.answer for r in rewards]),
        process=_mean([r.process.total for r in rewards]),
        accuracy=_mean_or_none([r.process.order for r in rewards]),
        format=_mean([r.process.format for r in rewards]),
        schema=_mean([r.process.schema for r in rewards]),
        tool=_mean_or_none([r.process.tool for r in rewards]),
        arguments=_mean_or_none([r.process.arguments for r in rewards]),
        no_leaked_thinking=_mean([r.process.no_leaked_thinking for r in rewards]),
        superfluous=_mean([r.process.superfluous for r in rewards]),
        meta_reasoning=_mean([float(r.meta_reasoning) for r in rewards]),
        tiers={tier: tiers[tier] / len(scored) for tier in Tier if tiers[tier]},
        stops=dict(Counter(r.trajectory.stop for r in rollouts)),
        calls=_mean(calls),
        early=_mean([float(count == 0) for count in calls]),
        live_calls=sum(r.ledger.live_calls for r in rollouts),
        completion_tokens=_mean([r.trajectory.usage.completion_tokens for r in scored]),
        coupled_share=_mean(coupled),
        coupled_groups=sum(share > HIGH_COUPLING for share in coupled),
    )


def coupled_shares(groups: Sequence[Sequence[Rollout]]) -> list[float]:
    """Return the coupling of every group that met a tool which is not deterministic, in order.

    A tool counts as such in all groups when its recordings say so in one.
    """
    drawn = [[drawn_of(rollout.trajectory.results) for rollout in group] for group in groups]
    tools = unsteady(rollout for group in drawn for rollout in group)
    met = [
        group for group in drawn if any(each.tool in tools for rollout in group for each in rollout)
    ]
    return [coupling(group, tools) for group in met]


def coupling_note(metrics: Sequence[BatchMetrics], scale_rewards: Scale) -> str | None:
    """Return what to do about groups whose rollouts share their draws, or None where all is well."""
    coupled = sum(batch.coupled_groups for batch in metrics)
    if not coupled or scale_rewards is not Scale.GROUP:
        return None
    groups = sum(batch.groups for batch in metrics)
    return (
        f"{coupled} of {groups} groups got most answers of tools that are not deterministic from the "
        "same few recordings: group-normalised advantages can flip sign. Record at least 4 "
        'observations of such calls, or set `scale_rewards = "none"` in the [grpo] section.'
    )


def summary_of(
    points: Sequence[GRPOPoint], resumed_from: int, *, scale_rewards: Scale = Scale.GROUP
) -> GRPOSummary:
    """Return what the training was, from its curve."""
    fresh = [point for point in points if point.rollout_s > 0] or list(points)
    tenth = max(1, len(points) // 10)
    batches = [point.batch for point in fresh]
    note = coupling_note(batches, scale_rewards)
    return GRPOSummary(
        steps=points[-1].step,
        resumed_from=resumed_from,
        rollouts=sum(point.batch.rollouts for point in fresh),
        first_reward=_mean([point.batch.reward for point in points[:tenth]]),
        final_reward=_mean([point.batch.reward for point in points[-tenth:]]),
        flat_groups=sum(point.batch.flat_groups for point in fresh)
        / max(1, sum(point.batch.groups for point in fresh)),
        failed=sum(point.batch.failed for point in fresh),
        live_calls=sum(point.batch.live_calls for point in fresh),
        seconds=points[-1].seconds,
        coupled_share=_mean([b.coupled_share for b in batches if b.coupled_share]),
        coupled_groups=sum(b.coupled_groups for b in batches)
        / max(1, sum(b.groups for b in batches)),
        notes=() if note is None else (note,),
    )
