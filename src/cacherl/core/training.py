"""What the training stages share: how an adapter is shaped, how progress is told."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping

from cacherl.core.records import Record

Progress = Callable[[int, int, Mapping[str, float]], None]
"""(step, steps in all, metrics of the step): called once after each optimizer step."""


class Scheduler(enum.StrEnum):
    """How the learning rate moves after its warm-up."""

    CONSTANT = "constant_with_warmup"
    LINEAR = "linear"
    COSINE = "cosine"


class Optimizer(enum.StrEnum):
    """Who turns gradients into steps."""

    ADAMW = "adamw"
    MUON = "muon"
    """Muon for the matrices within the layers, AdamW for embeddings, norms and the head.

    Source: K. Jordan et al., Muon: an optimizer for hidden layers in neural networks (2024);
    `torch.optim.Muon`.
    """


class Dtype(enum.StrEnum):
    """The number format of the weights in training."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    """Half the memory. Training all weights in it rounds small updates away; LoRA keeps its own in float32."""


class LoRA(Record, frozen=True, kw_only=True):
    """Train low-rank adapters instead of all weights; they are merged when the model is saved."""

    rank: int = 128
    alpha: int = 128
    dropout: float = 0.0
    targets: tuple[str, ...] = ()
    """Names of the linear layers; empty means all but the LM head."""
