"""What an evaluation says: one row a task, and what the rows say together. Values in, values out."""

from __future__ import annotations

import enum
import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from cacherl.core.errors import DataError
from cacherl.core.messages import AssistantMessage, Call, MalformedCall, ToolCall
from cacherl.core.records import Record
from cacherl.core.tasks import Gold, Task
from cacherl.core.tools import Source, Tier, ToolResult
from cacherl.core.trajectories import StopReason, Trajectory
from cacherl.reward.answer import answer_ok, final_answer, is_meta_reasoning
from cacherl.reward.hybrid import tier_of
from cacherl.reward.process import made_calls, matched_gold_calls, process_accuracy

RESAMPLES = 2000
LEVEL = 0.95
LOOSE = frozenset({Tier.FUZZY, Tier.BEST_EFFORT, Tier.MISS})
THINKING_HEAVY = 0.5  # share of what was written: at a half, a turn takes twice as long as without
_DRAWS_AT_ONCE = 2_000_000  # indices held while resampling, about 16 MB


class FailureKind(enum.StrEnum):
    """How tool-calling models fail, after the paper's error analysis.

    Source: CacheRL, arXiv:2606.14179, error analysis; OVER_CHAINING from its CacheAgentLoop section.
    """

    EARLY_ENDING = "early_ending"
    """An answer without a single call, where the solution has calls."""
    MISMATCH_CASCADE = "mismatch_cascade"
    """A loosely matched result, and wrong calls after it."""
    META_REASONING = "meta_reasoning"
    """The answer talks about how to answer."""
    UNSEEN_TOOLS = "unseen_tools"
    """The task failed, and its solution uses a tool that training never showed."""
    THINKING_COST = "thinking_cost"
    """At least half of what the model wrote was thinking. A cost, not a wrong answer."""
    OVER_CHAINING = "over_chaining"
    """More calls than the solution has, or calls until the turns were used up."""


class EvalRow(Record, frozen=True, kw_only=True):
    """How one model did on one task."""

    task_id: str
    policy: str
    seed: int
    """Of the evaluation, not of the episode."""
    live: bool
    """The tools were real and showed their state; else the cache answered."""
    family: str
    language: str
    wording: str
    seen_wording: bool | None = None
    """Training used this wording set; None where nobody said which ones it used."""
    process_accuracy: float
    """Share of gold calls matched in order, arguments included, in [0, 1]."""
    end_to_end: bool
    """The outcome and the answer are both right."""
    outcome_right: bool
    """Live: the final state is the gold state. Cached: the effective writes are the gold writes."""
    answer_right: bool
    stop: StopReason
    tiers: tuple[Tier, ...]
    """One a call, in order."""
    worst_tier: Tier
    """LIVE for no calls at all: nothing untrue was seen."""
    failures: tuple[FailureKind, ...] = ()
    calls: int
    gold_calls: int
    turns: int
    prompt_tokens: int
    completion_tokens: int
    thinking_share: float
    """Thinking characters over all characters the model wrote, in [0, 1]."""
    model_s: float = 0.0


class Interval(Record, frozen=True, kw_only=True):
    """A mean over tasks with its 95 % bootstrap interval.

    The interval says how much another draw of tasks would move the mean. Where all values are
    equal it has no width, however few there are: read it beside `n`.
    """

    mean: float
    low: float
    high: float


class GroupScore(Record, frozen=True, kw_only=True):
    """The two accuracies over one group of tasks."""

    n: int
    process_accuracy: Interval
    end_to_end: Interval


class EvalSummary(Record, frozen=True, kw_only=True):
    """What the rows of one evaluation say together."""

    policy: str
    live: bool
    n: int
    process_accuracy: Interval
    end_to_end: Interval
    by_family: dict[str, GroupScore]
    by_language: dict[str, GroupScore]
    by_wording: dict[str, GroupScore]
    """`seen` and `new`; empty where nobody said which wordings training used."""
    tier_mix: dict[str, float]
    """Share of episodes by their worst tier, best tier first; sums to 1."""
    call_tiers: dict[str, int]
    """Calls by tier."""
    stops: dict[str, int]
    failures: dict[str, int]
    """Episodes by failure kind, zeros included; one episode may show several."""
    calls_mean: float
    gold_calls_mean: float
    turns_mean: float
    completion_tokens_mean: float
    thinking_share: float


def score_episode(
    task: Task,
    trajectory: Trajectory,
    *,
    seed: int = 0,
    seen_tools: Collection[str] | None = None,
    seen_wordings: Collection[str] | None = None,
) -> EvalRow:
    """Return the row of one finished episode.

    Args:
        task: the task, with gold.
        trajectory: the episode; `final_state` decides whether it counts as live.
        seed: the evaluation's seed.
        seen_tools: names of the tools that training showed; None where unknown.
        seen_wordings: wording sets that training used; None where unknown.

    Raises:
        DataError: the task has no gold, so nothing can be right or wrong.
    """
    gold = gold_of(task)
    outcome = outcome_right(task, trajectory)
    answer = answer_right(task, trajectory)
    written = [m for m in trajectory.messages if isinstance(m, AssistantMessage)]
    return EvalRow(
        task_id=task.id,
        policy=trajectory.policy,
        seed=seed,
        live=trajectory.final_state is not None,
        family=task.family,
        language=task.language,
        wording=task.wording,
        seen_wording=None if seen_wordings is None else task.wording in seen_wordings,
        process_accuracy=process_accuracy(task, trajectory),
        end_to_end=outcome and answer,
        outcome_right=outcome,
        answer_right=answer,
        stop=trajectory.stop,
        tiers=tuple(result.tier for result in trajectory.results),
        worst_tier=tier_of(trajectory.results),
        failures=_failures(task, trajectory, succeeded=outcome and answer, seen_tools=seen_tools),
        calls=len(trajectory.results),
        gold_calls=len(gold.calls),
        turns=len(written),
        prompt_tokens=trajectory.usage.prompt_tokens,
        completion_tokens=trajectory.usage.completion_tokens,
        thinking_share=thinking_share(written),
        model_s=trajectory.usage.model_s,
    )


def gold_of(task: Task) -> Gold:
    """Return the task's gold.

    Raises:
        DataError: it has none.
    """
    if task.gold is None:
        raise DataError(
            f"task {task.id} has no gold calls and answer, so it cannot be evaluated. "
            "Evaluate on a suite with gold, such as `--suite desk`."
        )
    return task.gold


def answer_right(task: Task, trajectory: Trajectory) -> bool:
    """Whether the episode ended in an answer, and that answer passes the task's rule."""
    if trajectory.stop is not StopReason.ANSWER:
        return False
    return answer_ok(gold_of(task).answer, final_answer(trajectory))


def outcome_right(task: Task, trajectory: Trajectory) -> bool:
    """Whether the world ended up as it should.

    With a live world the final state decides. A cache has no state: there every gold write must
    have been made and reached a recorded answer, and nothing else may have taken effect. (A gold
    write that the tool itself refused is right: some tasks recover from a refusal.)
    """
    gold = gold_of(task)
    if trajectory.final_state is not None:
        return trajectory.final_state == gold.state
    writers = {spec.name for spec in task.tools if spec.effects.writes}
    # One step for all: which write came first is the process's business, not the outcome's.
    gold_writes = tuple(
        msgspec.structs.replace(call, step=0) for call in gold.calls if call.name in writers
    )
    writes_only = msgspec.structs.replace(
        task, gold=msgspec.structs.replace(gold, calls=gold_writes)
    )
    answered = [
        (call, result)
        for call, result in calls_with_results(trajectory)
        if isinstance(call, ToolCall) and call.name in writers
    ]
    made = [call for call, result in answered if _reached_a_tool(result)]
    effective = [call for call, result in answered if not result.is_error]
    return matched_gold_calls(writes_only, made) == len(gold_writes) and matched_gold_calls(
        writes_only, effective
    ) == len(effective)


def _reached_a_tool(result: ToolResult) -> bool:
    if not result.is_error:
        return True
    return result.source is not Source.LOOP and result.tier is not Tier.MISS


def calls_with_results(trajectory: Trajectory) -> list[tuple[Call, ToolResult]]:
    """Return the calls of the episode in order, malformed ones included, each with its answer."""
    # An episode cut off within a turn has calls that nothing answered.
    return list(zip(made_calls(trajectory), trajectory.results, strict=False))


def right_calls(task: Task, trajectory: Trajectory) -> tuple[bool, ...]:
    """Return, for each call of the episode in order, whether it matched a further gold call."""
    calls = made_calls(trajectory)
    matched = [matched_gold_calls(task, calls[:count]) for count in range(len(calls) + 1)]
    return tuple(after > before for before, after in itertools.pairwise(matched))


def thinking_share(turns: Iterable[AssistantMessage]) -> float:
    """Return thinking characters over all characters the model wrote, in [0, 1]."""
    thought = spoken = 0
    for turn in turns:
        thought += len(turn.thinking or "")
        spoken += len(turn.content)
        for call in turn.calls:
            if isinstance(call, MalformedCall):
                spoken += len(call.text)
            else:
                spoken += len(call.name) + len(msgspec.json.encode(call.arguments))
    return thought / (thought + spoken) if thought else 0.0


def _failures(
    task: Task,
    trajectory: Trajectory,
    *,
    succeeded: bool,
    seen_tools: Collection[str] | None,
) -> tuple[FailureKind, ...]:
    gold = gold_of(task)
    written = [m for m in trajectory.messages if isinstance(m, AssistantMessage)]
    answered = trajectory.stop is StopReason.ANSWER
    kinds = []
    if answered and gold.calls and not any(turn.calls for turn in written):
        kinds.append(FailureKind.EARLY_ENDING)
    if _cascaded(task, trajectory):
        kinds.append(FailureKind.MISMATCH_CASCADE)
    if is_meta_reasoning(final_answer(trajectory)):
        kinds.append(FailureKind.META_REASONING)
    if seen_tools is not None and not succeeded:
        needed = {call.name for call in gold.calls}
        if needed - set(seen_tools):
            kinds.append(FailureKind.UNSEEN_TOOLS)
    if thinking_share(written) >= THINKING_HEAVY:
        kinds.append(FailureKind.THINKING_COST)
    if trajectory.stop is StopReason.MAX_TURNS or len(trajectory.results) > len(gold.calls):
        kinds.append(FailureKind.OVER_CHAINING)
    return tuple(kinds)


def _cascaded(task: Task, trajectory: Trajectory) -> bool:
    pairs = calls_with_results(trajectory)
    first = next((i for i, (_, result) in enumerate(pairs) if result.tier in LOOSE), None)
    if first is None:
        return False
    calls = [call for call, _ in pairs]
    right_after = matched_gold_calls(task, calls) - matched_gold_calls(task, calls[: first + 1])
    return right_after < len(calls) - (first + 1)


def summarise(rows: Sequence[EvalRow], *, seed: int = 0) -> EvalSummary:
    """Return what the rows of one model on one kind of tools say together.

    Intervals are 95 % percentile intervals over 2,000 resamples of tasks; same rows and seed,
    same interval, in whatever order the rows came.

    Raises:
        DataError: there is no row, or the rows are of several models or of both kinds of tools.
    """
    if not rows:
        raise DataError(
            "no task was scored, so there is nothing to summarise. Check the model and tools."
        )
    policies = sorted({row.policy for row in rows})
    kinds = {row.live for row in rows}
    if len(policies) > 1 or len(kinds) > 1:
        raise DataError(
            f"the rows mix evaluations ({', '.join(policies)}; live: {sorted(kinds)}). "
            "Summarise each evaluation by itself."
        )
    rows = sorted(rows, key=lambda row: row.task_id)
    whole = _group_score(rows, seed)
    worst = Counter(row.worst_tier for row in rows)
    call_tiers = Counter(tier for row in rows for tier in row.tiers)
    failures = Counter(kind for row in rows for kind in row.failures)
    return EvalSummary(
        policy=policies[0],
        live=rows[0].live,
        n=len(rows),
        process_accuracy=whole.process_accuracy,
        end_to_end=whole.end_to_end,
        by_family=_groups(rows, lambda row: row.family, seed),
        by_language=_groups(rows, lambda row: row.language, seed),
        by_wording=_groups(rows, _wording_group, seed),
        tier_mix={tier.value: worst[tier] / len(rows) for tier in Tier if worst[tier]},
        call_tiers={tier.value: call_tiers[tier] for tier in Tier if call_tiers[tier]},
        stops=dict(sorted(Counter(row.stop.value for row in rows).items())),
        failures={kind.value: failures[kind] for kind in FailureKind},
        calls_mean=_mean(row.calls for row in rows),
        gold_calls_mean=_mean(row.gold_calls for row in rows),
        turns_mean=_mean(row.turns for row in rows),
        completion_tokens_mean=_mean(row.completion_tokens for row in rows),
        thinking_share=_mean(row.thinking_share for row in rows),
    )


def paired_difference(
    a_rows: Sequence[EvalRow],
    b_rows: Sequence[EvalRow],
    *,
    metric: str = "process_accuracy",
    seed: int = 0,
) -> tuple[float, float, float]:
    """Return the gain of `b` over `a` on the tasks both were scored on: mean, low, high.

    Pairing takes the difficulty of the tasks out: the interval of the gain is narrower than two
    separate intervals suggest. It excludes 0 when the gain is more than the luck of the draw.

    Args:
        a_rows: the evaluation before.
        b_rows: the evaluation after.
        metric: `process_accuracy` or `end_to_end`.
        seed: of the resampling.

    Raises:
        DataError: no task is in both.
    """
    a = {row.task_id: float(getattr(row, metric)) for row in a_rows}
    b = {row.task_id: float(getattr(row, metric)) for row in b_rows}
    shared = sorted(a.keys() & b.keys())
    if not shared:
        raise DataError(
            "the two evaluations share no task. Run both with the same suite, split and seed."
        )
    gain = _bootstrap(np.array([[b[task] - a[task]] for task in shared]), seed)[0]
    return gain.mean, gain.low, gain.high


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(np.fromiter(values, dtype=float)))


def _wording_group(row: EvalRow) -> str | None:
    if row.seen_wording is None:
        return None
    return "seen" if row.seen_wording else "new"


def _groups(
    rows: Sequence[EvalRow], group_of: Callable[[EvalRow], str | None], seed: int
) -> dict[str, GroupScore]:
    groups: dict[str, list[EvalRow]] = {}
    for row in rows:
        group = group_of(row)
        if group is not None:
            groups.setdefault(group, []).append(row)
    return {name: _group_score(groups[name], seed) for name in sorted(groups)}


def _group_score(rows: Sequence[EvalRow], seed: int) -> GroupScore:
    process, end_to_end = _bootstrap(
        np.array([[row.process_accuracy, float(row.end_to_end)] for row in rows]), seed
    )
    return GroupScore(n=len(rows), process_accuracy=process, end_to_end=end_to_end)


def _bootstrap(values_N_M: NDArray[np.float64], seed: int) -> list[Interval]:
    """Return the interval of each of M metrics over N tasks; all metrics share the resamples."""
    count = len(values_N_M)
    rng = np.random.default_rng(seed)
    chunk = max(1, _DRAWS_AT_ONCE // count)
    means = []
    for start in range(0, RESAMPLES, chunk):
        draws = rng.integers(count, size=(min(chunk, RESAMPLES - start), count))
        means.append(values_N_M[draws].mean(axis=1))
    tail = 100 * (1 - LEVEL) / 2
    low_M, high_M = np.percentile(np.concatenate(means), [tail, 100 - tail], axis=0)
    return [
        Interval(mean=float(mean), low=float(low), high=float(high))
        for mean, low, high in zip(values_N_M.mean(axis=0), low_M, high_M, strict=True)
    ]
