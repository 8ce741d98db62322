"""What evaluations say, as pure functions: values in, values out, the source in each docstring."""

from cacherl.metrics.episodes import (
    LOOSE,
    SYMPTOMS,
    EvalRow,
    FailureKind,
    answer_right,
    calls_with_results,
    gold_of,
    outcome_right,
    right_calls,
    score_episode,
    thinking_share,
)
from cacherl.metrics.summary import (
    EvalSummary,
    GroupScore,
    Interval,
    paired_difference,
    summarise,
)

__all__ = [
    "LOOSE",
    "SYMPTOMS",
    "EvalRow",
    "EvalSummary",
    "FailureKind",
    "GroupScore",
    "Interval",
    "answer_right",
    "calls_with_results",
    "gold_of",
    "outcome_right",
    "paired_difference",
    "right_calls",
    "score_episode",
    "summarise",
    "thinking_share",
]
