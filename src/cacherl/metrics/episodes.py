"""What one episode says: its row, by the calls it made, the state it left and the answer it gave."""

from __future__ import annotations

import enum
import itertools
from collections.abc import Collection, Iterable

import msgspec

from cacherl.core.errors import DataError
from cacherl.core.messages import AssistantMessage, Call, MalformedCall, ToolCall
from cacherl.core.records import Record
from cacherl.core.tasks import Gold, Task
from cacherl.core.tools import Source, Tier, ToolResult
from cacherl.core.trajectories import StopReason, Trajectory
from cacherl.reward.answer import answer_ok, final_answer, is_meta_reasoning
from cacherl.reward.hybrid import tier_of
from cacherl.reward.process import made_calls, matched_gold_calls, process_accuracy

LOOSE = frozenset({Tier.FUZZY, Tier.BEST_EFFORT, Tier.MISS})
THINKING_HEAVY = 0.5  # share of what was written: at a half, a turn takes twice as long as without


class FailureKind(enum.StrEnum):
    """How tool-calling models fail. `failures.diagnose` names the kinds of a failed task.

    Source: the first five, CacheRL, arXiv:2606.14179, error analysis; OVER_CHAINING, its CacheAgentLoop
    section; the rest are ours.
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
    TRUNCATED = "truncated"
    """A turn hit its token limit, or the conversation outgrew the context."""
    FORMAT = "format"
    """The last call that the model tried to make did not parse."""
    LOOP = "loop"
    """The same call in the same state three times or more."""
    POLICY_BREAK = "policy_break"
    """A write that the solution never makes took effect, or a forbidden tool was called."""
    LOST_STATE = "lost_state"
    """A value that the episode has since replaced, or a call that its own writes had made wrong."""
    WRONG_TOOL = "wrong_tool"
    """A call of the solution is missing, and a tool was called that the solution never calls."""
    WRONG_ARGUMENT = "wrong_argument"
    """The right tool with other arguments."""
    MISSING_CALL = "missing_call"
    """A call of the solution is missing, and nothing stands for it."""
    WRONG_ORDER = "wrong_order"
    """Every call of the solution was made, but not in its order."""
    WRONG_ANSWER = "wrong_answer"
    """Every call of the solution was made, and the answer is wrong."""


SYMPTOMS = (
    FailureKind.EARLY_ENDING,
    FailureKind.MISMATCH_CASCADE,
    FailureKind.META_REASONING,
    FailureKind.UNSEEN_TOOLS,
    FailureKind.THINKING_COST,
    FailureKind.OVER_CHAINING,
)
"""The kinds that `EvalRow.failures` may hold, in a right episode too. `failures.diagnose` knows them all."""


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
    process_accuracy: float | None
    """Share of gold calls matched in order, arguments included, in [0, 1]; None where nobody said any."""
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
        process_accuracy=None if gold.calls is None else process_accuracy(task, trajectory),
        end_to_end=outcome and answer,
        outcome_right=outcome,
        answer_right=answer,
        stop=trajectory.stop,
        tiers=tuple(result.tier for result in trajectory.results),
        worst_tier=tier_of(trajectory.results),
        failures=_failures(task, trajectory, succeeded=outcome and answer, seen_tools=seen_tools),
        calls=len(trajectory.results),
        gold_calls=len(gold.listed),
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
    if gold.calls is None and not gold.state:
        return True  # nobody said anything of the outcome
    if trajectory.final_state is not None:
        return trajectory.final_state == gold.state
    writers = {spec.name for spec in task.tools if spec.effects.writes}
    # One step for all: which write came first is the process's business, not the outcome's.
    gold_writes = tuple(
        msgspec.structs.replace(call, step=0) for call in gold.listed if call.name in writers
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
    if answered and gold.listed and not any(turn.calls for turn in written):
        kinds.append(FailureKind.EARLY_ENDING)
    if cascaded(task, trajectory):
        kinds.append(FailureKind.MISMATCH_CASCADE)
    if is_meta_reasoning(final_answer(trajectory)):
        kinds.append(FailureKind.META_REASONING)
    if seen_tools is not None and not succeeded:
        needed = {call.name for call in gold.listed}
        if needed - set(seen_tools):
            kinds.append(FailureKind.UNSEEN_TOOLS)
    if thinking_share(written) >= THINKING_HEAVY:
        kinds.append(FailureKind.THINKING_COST)
    more = gold.calls is not None and len(trajectory.results) > len(gold.calls)
    if trajectory.stop is StopReason.MAX_TURNS or more:
        kinds.append(FailureKind.OVER_CHAINING)
    return tuple(kinds)


def cascaded(task: Task, trajectory: Trajectory) -> bool:
    """Say whether a loosely matched result came, and wrong calls after it."""
    pairs = calls_with_results(trajectory)
    first = next((i for i, (_, result) in enumerate(pairs) if result.tier in LOOSE), None)
    if first is None:
        return False
    calls = [call for call, _ in pairs]
    right_after = matched_gold_calls(task, calls) - matched_gold_calls(task, calls[: first + 1])
    return right_after < len(calls) - (first + 1)
