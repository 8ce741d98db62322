"""What the page is drawn from. Every number on it is a field of these records."""

from __future__ import annotations

from cacherl.cache.trust.fidelity import Calibration
from cacherl.core.records import Record
from cacherl.core.tasks import Task
from cacherl.core.trajectories import Trajectory
from cacherl.metrics import EvalSummary


class Curve(Record, frozen=True, kw_only=True):
    """One measured quantity over training steps; both fields have the same length."""

    steps: tuple[float, ...] = ()
    values: tuple[float, ...] = ()


class ModelReport(Record, frozen=True, kw_only=True):
    """One model on the held-out tasks."""

    name: str
    """As the page calls it: `base`, `sft`, `grpo`."""
    live: EvalSummary | None = None
    cached: EvalSummary | None = None


class Gain(Record, frozen=True, kw_only=True):
    """The paired difference of two models on the same tasks (`metrics.paired_difference`)."""

    before: str
    after: str
    metric: str
    mean: float
    low: float
    high: float


class TeacherCost(Record, frozen=True, kw_only=True):
    """What the teacher's help cost, once."""

    usd: float = 0.0
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Transcript(Record, frozen=True, kw_only=True):
    """One held-out task as several models played it."""

    task: Task
    played: dict[str, Trajectory]
    """By model name, in the order of the page's models."""


class NextCommand(Record, frozen=True, kw_only=True):
    """Something worth typing next."""

    why: str
    command: str


class ReportData(Record, frozen=True, kw_only=True):
    """One run, ready to be drawn. What is empty or None is left out of the page."""

    recipe: str
    machine: str = ""
    commit: str = ""
    finished: str = ""
    """When the run ended, as the page shall say it."""
    seed: int | None = None
    models: tuple[ModelReport, ...]
    """First the model that training started from, last the one it ended with."""
    gains: tuple[Gain, ...] = ()
    sft_loss: Curve = Curve()
    grpo: dict[str, Curve] = {}
    """By name; `reward`, `process` and `answer` share an axis, `kl` has its own."""
    grpo_tier_mix: dict[str, Curve] = {}
    """Share of rollouts by worst tier over steps, by tier."""
    stage_wall_s: dict[str, float] = {}
    """In the order of the stages."""
    live_calls_in_training: int | None = None
    """Calls that ran on live tools between the end of `record` and the live evaluation."""
    teacher: TeacherCost | None = None
    training_usd: float | None = None
    cache_stats: dict[str, int | float | str] = {}
    """Facts about the cache, as `cacherl cache stats` names them."""
    calibration: Calibration | None = None
    """What the training cache's own recordings say of its answers."""
    transcripts: tuple[Transcript, ...] = ()
    notes: tuple[str, ...] = ()
    """Caveats a reader must know: what was missed, and why."""
    next_commands: tuple[NextCommand, ...] = ()
