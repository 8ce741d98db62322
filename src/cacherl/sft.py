"""Supervised fine-tuning: conversations to token rows whose loss falls only on what the model writes.

Rows are made by our own codec and reach the trainer as ids and labels: no chat template, no Arrow
column of tool calls and no re-tokenization stands between a trajectory and its loss mask.

Source: CacheRL, arXiv:2606.14179, knowledge transfer (SFT on reasoning-augmented trajectories).
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cacherl.core.errors import DataError, RecipeError
from cacherl.core.records import Record
from cacherl.core.tasks import Task
from cacherl.core.training import Dtype, LoRA, Optimizer, Progress, Scheduler
from cacherl.core.trajectories import Trajectory
from cacherl.render import ChatCodec

IGNORED = -100
"""The label of an id without loss (PyTorch's `ignore_index`)."""


class SFTConfig(Record, frozen=True, kw_only=True):
    """How to fine-tune. The defaults suit a 4 B model; a recipe for the tiny one raises the rate."""

    learning_rate: float = 1e-5
    """Peak, after the warm-up."""
    optimizer: Optimizer = Optimizer.ADAMW
    matrix_learning_rate: float = 0.01
    """Peak rate of Muon's matrices; `learning_rate` is then that of everything else."""
    scheduler: Scheduler = Scheduler.COSINE
    warmup: float = 0.03
    """Steps from 0 to the peak: a share of all steps below 1, else a number of steps."""
    batch_rows: int = 32
    """Rows in one optimizer step."""
    micro_batch_rows: int = 8
    """Rows in one forward pass; divides `batch_rows`."""
    epochs: float = 3.0
    """Passes over the rows; ignored where `max_steps` is set."""
    max_steps: int | None = None
    """Optimizer steps."""
    max_tokens: int = 4096
    """Longer rows are left out and counted: cutting one would teach an unfinished turn."""
    weight_decay: float = 0.0
    grad_clip: float = 1.0
    """Largest norm of the gradient; 0 does not clip."""
    adam_beta2: float = 0.999
    lora: LoRA | None = None
    """None trains all weights, as the paper does."""
    dtype: Dtype = Dtype.FLOAT32
    gradient_checkpointing: bool = False
    """Less memory for about a third more time; switches `share_prefix` off."""
    share_prefix: bool = True
    """Read what the rows of a micro batch have in common (the tools) once. Exact, not approximate."""
    save_every: int = 100
    """Optimizer steps between checkpoints."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what no trainer could mean."""
        if self.micro_batch_rows < 1 or self.batch_rows % self.micro_batch_rows:
            raise RecipeError(
                f"batch_rows {self.batch_rows} is no multiple of micro_batch_rows "
                f"{self.micro_batch_rows}. Make it one."
            )
        if self.optimizer is Optimizer.MUON and self.lora is not None:
            raise RecipeError(
                'optimizer = "muon" trains all weights, and lora is set. Set lora = false, or '
                'optimizer = "adamw".'
            )
        if self.save_every < 1 or self.max_tokens < 2 or self.learning_rate <= 0:
            raise RecipeError(
                f"save_every {self.save_every}, max_tokens {self.max_tokens} and learning_rate "
                f"{self.learning_rate} must be positive. Correct the [sft] section."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One token row."""

    ids: tuple[int, ...]
    """Shape [T]."""
    mask: tuple[int, ...]
    """Shape [T]: 1 on ids the model writes, 0 on the prompt and on injected ids."""
    head: int
    """How many leading ids hold the system message and the tools: likely shared with other rows."""

    @property
    def labels(self) -> list[int]:
        """Shape [T]: the id where the loss falls, else `IGNORED`."""
        return [i if m else IGNORED for i, m in zip(self.ids, self.mask, strict=True)]


class SFTPoint(Record, frozen=True, kw_only=True):
    """One line of the learning curve: one optimizer step."""

    step: int
    loss: float
    """Mean negative log likelihood of the trained ids of the step, in nats."""
    lr: float
    tokens: int
    """Ids of the rows so far, prompts included, padding left out."""
    seconds: float
    """Wall seconds of training so far, over all runs that led here."""
    grad_norm: float | None = None
    accuracy: float | None = None
    """Share of trained ids that were the model's first choice."""


class SFTSummary(Record, frozen=True, kw_only=True):
    """What the training was."""

    rows: int
    too_long: int
    """Rows left out for `max_tokens`."""
    steps: int
    resumed_from: int
    """The step of the checkpoint the run went on from; 0 for a fresh start."""
    trained_tokens: int
    """Ids with loss in one pass over the rows."""
    first_loss: float
    final_loss: float
    """Mean over the last tenth of the steps."""
    seconds: float


class SupervisedTrainer(Protocol):
    """Fits a model to token rows."""

    def fit(
        self,
        examples: Sequence[Example],
        config: SFTConfig,
        *,
        model: str,
        out: Path,
        work: Path,
        on_progress: Progress | None,
    ) -> tuple[list[SFTPoint], int]:
        """Train `model` and leave the result, with its tokenizer, in `out`.

        `out` appears whole or not at all. Checkpoints and the curve (`curve.jsonl`) live in `work`; called
        again after a kill, training goes on from the last whole checkpoint there and passes the
        rows in the same order. Returns the curve and the step it went on from.
        """
        ...


def examples_of(
    tasks: Mapping[str, Task], trajectories: Iterable[Trajectory], codec: ChatCodec
) -> list[Example]:
    """Return the rows of the trajectories, one a user turn.

    Raises:
        DataError: a trajectory is of a task that is not there.
    """
    rows = []
    for trajectory in trajectories:
        task = tasks.get(trajectory.task_id)
        if task is None:
            raise DataError(
                f"a trajectory is of task {trajectory.task_id!r}, which is not among the {len(tasks)} tasks. "
                "Give the task file the trajectories were recorded with."
            )
        for segment in codec.training_segments(task.tools, trajectory.messages, task.late):
            prompt = segment.prompt_ids
            end = prompt.index(codec.end_id) + 1 if codec.end_id in prompt else 0
            rows.append(
                Example(
                    ids=prompt + segment.completion_ids,
                    mask=(0,) * len(prompt) + segment.mask,
                    head=end,
                )
            )
    return rows


def sft(
    tasks: Mapping[str, Task],
    trajectories: Iterable[Trajectory],
    codec: ChatCodec,
    trainer: SupervisedTrainer,
    config: SFTConfig,
    *,
    model: str,
    out: Path,
    work: Path,
    on_progress: Progress | None = None,
) -> SFTSummary:
    """Fine-tune `model` on the trajectories and write the result to the folder `out`.

    Args:
        tasks: the tasks by id; their tools stand in the prompts.
        trajectories: the conversations to learn, taken as they are: selection is another stage's.
        codec: makes the rows; its tokenizer and template must be the model's.
        trainer: the library that trains.
        config: how.
        model: a folder or a model id.
        out: where the trained model appears, whole or not at all.
        work: checkpoints and `curve.jsonl`; a killed run goes on from here.
        on_progress: told after every step.

    Raises:
        DataError: a trajectory's task is missing, or no row is left to train on.
    """
    rows = examples_of(tasks, trajectories, codec)
    short = [row for row in rows if len(row.ids) <= config.max_tokens and any(row.mask)]
    if not short:
        raise DataError(
            f"none of {len(rows)} rows has at most max_tokens = {config.max_tokens} ids and something to "
            "learn. Raise max_tokens, or record and select more trajectories."
        )
    points, resumed_from = trainer.fit(
        short, config, model=model, out=out, work=work, on_progress=on_progress
    )
    last = points[-max(1, len(points) // 10) :]
    return SFTSummary(
        rows=len(short),
        too_long=sum(len(row.ids) > config.max_tokens for row in rows),
        steps=points[-1].step,
        resumed_from=resumed_from,
        trained_tokens=sum(sum(row.mask) for row in short),
        first_loss=points[0].loss,
        final_loss=sum(point.loss for point in last) / len(last),
        seconds=points[-1].seconds,
    )


# ---- the order of the rows -------------------------------------------------------------------


def steps_of(rows: int, config: SFTConfig) -> int:
    """Return the number of optimizer steps."""
    if config.max_steps is not None:
        return config.max_steps
    return max(1, round(config.epochs * rows / config.batch_rows))


def schedule(examples: Sequence[Example], config: SFTConfig) -> list[int]:
    """Return the index of each row in the order of training: micro batch after micro batch.

    A micro batch holds rows that begin with the same tools where there are enough of them, and rows of
    similar length, so that little is read twice and little is padding. The micro batches of a pass come
    in random order, so one step sees several kinds of rows. Each pass holds every row once, and as
    many a second time as fill the last micro batch. Same arguments, same order.
    """
    need = steps_of(len(examples), config) * config.batch_rows
    rng = random.Random(config.seed)  # noqa: S311 - an order of rows, not a secret
    order: list[int] = []
    while len(order) < need:
        order += _one_pass(examples, config.micro_batch_rows, rng)
    return order[:need]


def _one_pass(examples: Sequence[Example], size: int, rng: random.Random) -> list[int]:
    rows = list(range(len(examples)))
    rng.shuffle(rows)
    clusters: dict[tuple[int, ...], list[int]] = {}
    for row in rows:
        clusters.setdefault(examples[row].ids[: examples[row].head], []).append(row)
    batches: list[list[int]] = []
    rest: list[int] = []
    for cluster in clusters.values():
        spare = len(cluster) % size
        rest += cluster[:spare]  # the order was shuffled: another part is spare in each pass
        whole = sorted(cluster[spare:], key=lambda row: len(examples[row].ids))
        batches += [whole[i : i + size] for i in range(0, len(whole), size)]
    while len(rest) % size:
        rest.append(rng.choice(rows))
    rest.sort(key=lambda row: len(examples[row].ids))
    batches += [rest[i : i + size] for i in range(0, len(rest), size)]
    rng.shuffle(batches)
    return [row for batch in batches for row in batch]
