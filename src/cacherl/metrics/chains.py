"""From the reliability of a call to that of a chain of calls, and to its bill.

    92 % a call     5 calls in a row: 0.92^5 = 66 %, so 34 % of chains fail somewhere

A call may be checked (a schema, a rule, a second look): the check catches a share of the wrong results and
raises false alarms on a share of the right ones. What is caught is tried again, then handed to a larger model
or given up. A wrong result that nothing catches is the worst of the three: the chain goes on with it.

The first half of this room is closed form over assumed figures, with steps independent of one another; the
second half measures the figures and the independence on recorded episodes, and chains what really happened.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cacherl.core.errors import DataError
from cacherl.core.messages import Call, ToolCall
from cacherl.core.records import Record
from cacherl.core.tasks import Task
from cacherl.core.trajectories import Trajectory
from cacherl.metrics.episodes import calls_with_results, right_calls
from cacherl.metrics.intervals import RESAMPLES, Measured, Method, score_mean, share_of, wilson
from cacherl.reward.process import canonical
from cacherl.teacher.prices import Price

# ---- assumed figures -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPolicy:
    """How one call of a chain is made and watched over. Shares lie in [0, 1], costs in dollars."""

    success: float
    """Of the first try."""
    retries: int = 0
    """Further tries, each only after the check objected to the one before."""
    retry_success: float | None = None
    """Of each further try; None: as the first. Measure it (`call_record`): what failed once often fails again."""
    catch: float = 0.0
    """Share of wrong results that the check objects to. At 0 nobody notices, and retries change nothing."""
    false_alarm: float = 0.0
    """Share of right results that the check objects to."""
    fallback_success: float | None = None
    """Of the larger model that is asked when every try was objected to; None: there is none, and the
    chain is given up. Its answer is taken as it is."""
    dollars_per_call: float = 0.0
    dollars_per_fallback: float = 0.0

    def __post_init__(self) -> None:
        shares = (self.success, self.retry_success, self.catch, self.false_alarm)
        for share in (*shares, self.fallback_success):
            if share is not None and not 0 <= share <= 1:
                raise ValueError(f"a share of {share} lies outside [0, 1]")
        if self.retries < 0:
            raise ValueError(f"{self.retries} retries are fewer than none")


class ChainOutcome(Record, frozen=True, kw_only=True):
    """What becomes of a chain of so many steps, by closed form. The three shares sum to 1."""

    steps: int
    retries: int
    success: float
    """Every step is right."""
    wrong_unnoticed: float
    """It ran to its end with a wrong step that nothing caught."""
    given_up: float
    """It stopped and said so."""
    calls: float
    """Expected calls of the small model."""
    fallback_calls: float
    dollars: float
    """Expected, a chain."""
    dollars_per_success: float | None
    """None where no chain succeeds."""


def chain(policy: StepPolicy, steps: int) -> ChainOutcome:
    """Return what becomes of a chain of independent steps.

    >>> round(1 - chain(StepPolicy(success=0.92), 5).success, 2)
    0.34

    Steps are independent, a wrong step that is not caught does not stop the chain, and one that is given
    up does. `product_rule` says how far recorded episodes bear that out.

    Raises:
        DataError: `steps` is below 1.
    """
    if steps < 1:
        raise DataError(f"a chain of {steps} steps is none; give one or more.")
    right, wrong, up, calls, asked = _step(policy)
    through = right + wrong
    success, passed = right**steps, through**steps
    # A step is reached if none before it was given up.
    reached = float(steps) if up == 0 else (1 - passed) / up
    dollars = reached * (calls * policy.dollars_per_call + asked * policy.dollars_per_fallback)
    return ChainOutcome(
        steps=steps,
        retries=policy.retries,
        success=success,
        wrong_unnoticed=max(0.0, passed - success),
        given_up=max(0.0, 1 - passed),
        calls=reached * calls,
        fallback_calls=reached * asked,
        dollars=dollars,
        dollars_per_success=dollars / success if success > 0 else None,
    )


def _step(policy: StepPolicy) -> tuple[float, float, float, float, float]:
    """Return P(right), P(wrong and passed on), P(given up), expected calls and fallback calls of one step."""
    again = policy.success if policy.retry_success is None else policy.retry_success
    right = wrong = calls = 0.0
    left = 1.0
    for attempt in range(policy.retries + 1):
        p = policy.success if attempt == 0 else again
        calls += left
        right += left * p * (1 - policy.false_alarm)
        wrong += left * (1 - p) * (1 - policy.catch)
        left *= p * policy.false_alarm + (1 - p) * policy.catch
    if policy.fallback_success is None:
        return right, wrong, left, calls, 0.0
    right += left * policy.fallback_success
    wrong += left * (1 - policy.fallback_success)
    return right, wrong, 0.0, calls, left


def chain_table(
    policy: StepPolicy, *, steps: Sequence[int] = (1, 2, 3, 5, 8, 10), most_retries: int = 3
) -> tuple[ChainOutcome, ...]:
    """Return the outcome for every length and 0 to `most_retries` retries, lengths first."""
    return tuple(
        chain(replace(policy, retries=retries), length)
        for length in steps
        for retries in range(most_retries + 1)
    )


# ---- measured figures ------------------------------------------------------------------------


class CallRecord(Record, frozen=True, kw_only=True):
    """The calls of one episode, as chains are made of them."""

    task_id: str
    right: tuple[bool, ...]
    """For each call in order, whether it was a further call of the solution. A call that does no harm and
    no good counts as wrong: it is no step of the chain."""
    errors: tuple[bool, ...]
    """For each call, whether it was answered with an error: what a check gets for nothing."""
    retries: int
    """Wrong calls followed, as the next call, by another call of the same tool."""
    retries_right: int
    """Of those, the ones whose next call was right."""


def call_record(task: Task, trajectory: Trajectory) -> CallRecord:
    """Return the calls of one episode; the same call word for word is no retry but a repetition."""
    pairs = calls_with_results(trajectory)
    right = right_calls(task, trajectory)[: len(pairs)]
    specs = {spec.name: spec for spec in task.tools}

    def said(call: Call) -> tuple[str, object]:
        if isinstance(call, ToolCall):
            return call.name, canonical(specs.get(call.name), call.arguments)
        return "", call.text

    retries = retries_right = 0
    for place in range(len(pairs) - 1):
        (name, arguments), (next_name, next_arguments) = (
            said(pairs[place][0]),
            said(pairs[place + 1][0]),
        )
        if not right[place] and name in ("", next_name) and arguments != next_arguments:
            retries += 1
            retries_right += right[place + 1]
    return CallRecord(
        task_id=task.id,
        right=right,
        errors=tuple(result.is_error for _, result in pairs),
        retries=retries,
        retries_right=retries_right,
    )


_Tally = Callable[[CallRecord], int]


class MeasuredSteps(Record, frozen=True, kw_only=True):
    """What recorded episodes say of a step. Intervals take tasks as the unit; None: nothing to say."""

    success: Measured | None
    """Right calls over calls."""
    by_position: tuple[Measured, ...]
    """First call, second call, ...: over the tasks that got so far."""
    retry_success: Measured | None
    catch: Measured | None
    """Wrong calls answered with an error, over wrong calls."""
    false_alarm: Measured | None
    """Right calls answered with an error, over right calls. (A refusal may be what the task is about.)"""


def measured_steps(records: Sequence[CallRecord], *, positions: int = 10) -> MeasuredSteps:
    """Return the figures that `StepPolicy` asks for, as far as episodes can tell them."""
    tasks = _by_task(records)

    def share(part: _Tally, whole: _Tally) -> Measured | None:
        return share_of(
            [sum(part(r) for r in task) for task in tasks],
            [sum(whole(r) for r in task) for task in tasks],
        )

    by_position = []
    for place in range(positions):
        reached = [[float(r.right[place]) for r in task if len(r.right) > place] for task in tasks]
        said = [values for values in reached if values]
        if not said:
            break
        by_position.append(score_mean(said))
    return MeasuredSteps(
        success=share(lambda r: sum(r.right), lambda r: len(r.right)),
        by_position=tuple(by_position),
        retry_success=share(lambda r: r.retries_right, lambda r: r.retries),
        catch=share(
            lambda r: sum(e and not ok for ok, e in zip(r.right, r.errors, strict=True)),
            lambda r: sum(not ok for ok in r.right),
        ),
        false_alarm=share(
            lambda r: sum(e and ok for ok, e in zip(r.right, r.errors, strict=True)),
            lambda r: sum(r.right),
        ),
    )


class ProductRule(Record, frozen=True, kw_only=True):
    """Whether steps fail independently: is the success of n steps the product of n successes?"""

    steps: int
    observed: Measured
    """Tasks whose first `steps` calls were all right, over tasks that made so many."""
    predicted: float
    """The success of one call, in the same tasks and positions, to the power of `steps`."""
    after_right: Measured | None
    """Success of a call that follows a right one."""
    after_wrong: Measured | None
    """Success of a call that follows a wrong one: equal to `after_right` where steps are independent."""
    p_value: float
    """P(chains all right at least as far from the product | right and wrong calls mixed at random among
    the tasks, position by position), two-sided."""

    @property
    def holds(self) -> bool:
        """Whether nothing speaks against the product, at 5 %. With few tasks nothing may."""
        return self.p_value > 0.05


def product_rule(records: Sequence[CallRecord], steps: int, *, seed: int = 0) -> ProductRule | None:
    """Return how the product rule fares on chains of the first `steps` calls; None: none is so long.

    Failures usually come together (a hard task, a value misread once), so the product says too little of
    whole chains: more succeed than it predicts.

    Args:
        records: of recorded episodes.
        steps: at least 2.
        seed: of the mixing.

    Raises:
        DataError: `steps` is below 2.

    Source: a permutation test within positions (Fisher, The Design of Experiments, 1935).
    """
    if steps < 2:
        raise DataError(f"a chain of {steps} steps has no product to test; give two or more.")
    tasks = [
        [record.right[:steps] for record in task if len(record.right) >= steps]
        for task in _by_task(records)
    ]
    tasks = [task for task in tasks if task]
    if not tasks:
        return None
    right = np.array([row for task in tasks for row in task], dtype=bool)
    positions = right.mean(axis=0)
    expected = float(positions.prod())
    observed = float(right.all(axis=1).mean())
    rng = np.random.default_rng(seed)
    # The number right at each position stays, who is right is drawn anew: of those right so far, so many
    # are right here as balls of one colour in a draw without replacement.
    kept = np.full(RESAMPLES, len(right))
    for count in right.sum(axis=0):
        kept = rng.hypergeometric(count, len(right) - count, kept)
    mixed = kept / len(right)
    further = np.abs(mixed - expected) >= abs(observed - expected) - 1e-12
    return ProductRule(
        steps=steps,
        observed=score_mean([[float(all(row)) for row in task] for task in tasks]),
        predicted=expected,
        after_right=_after(tasks, wanted=True),
        after_wrong=_after(tasks, wanted=False),
        p_value=(1 + float(further.sum())) / (1 + RESAMPLES),
    )


def _after(tasks: Sequence[Sequence[Sequence[bool]]], *, wanted: bool) -> Measured | None:
    followed = [
        [row[place + 1] for row in task for place in range(len(row) - 1) if row[place] is wanted]
        for task in tasks
    ]
    return share_of([sum(task) for task in followed], [len(task) for task in followed])


def resampled_chain(
    records: Sequence[CallRecord], steps: int, *, chains: int = 20_000, seed: int = 0
) -> Measured:
    """Return the success of chains of `steps` calls put together from what was recorded.

    An episode is drawn and followed from its first call; where it ends too soon another one follows it.
    Within an episode calls stay together, so whatever dependence they have is kept; across episodes
    there is none. The interval is that of other episodes having been recorded.

    Args:
        records: of recorded episodes; those without a call say nothing.
        steps: at least 1.
        chains: drawn; 20,000 know the share to 0.4 points.
        seed: of the draws.

    Raises:
        DataError: `steps` is below 1, or no episode has a call.
    """
    tasks = [[r for r in task if r.right] for task in _by_task(records)]
    tasks = [task for task in tasks if task]
    if steps < 1 or not tasks:
        raise DataError(
            f"chains of {steps} steps cannot be put together from {len(tasks)} tasks with calls. "
            "Record episodes that call tools, and ask for one step or more."
        )
    lengths = np.array([len(r.right) for task in tasks for r in task])
    whole = np.array([_right_run(r.right) for task in tasks for r in task])
    owner = np.array([place for place, task in enumerate(tasks) for _ in task])
    rng = np.random.default_rng(seed)
    every = np.ones((1, len(tasks)))
    value = float(_chained(rng, lengths, whole, owner, every, steps, chains)[0])
    weights = rng.multinomial(len(tasks), np.full(len(tasks), 1 / len(tasks)), size=_OUTER)
    found = _chained(rng, lengths, whole, owner, weights, steps, max(200, chains // 40))
    low, high = (float(edge) for edge in np.quantile(found, [0.025, 0.975]))
    if low == high:
        # All chains went one way: nothing to resample, but so few tasks prove little.
        low, high = wilson(value * len(tasks), len(tasks))
    return Measured(
        value=value,
        low=min(low, value),
        high=max(high, value),
        n=len(tasks),
        method=Method.BOOTSTRAP,
    )


_OUTER = 400


def _chained(
    rng: np.random.Generator,
    lengths: NDArray[np.int_],
    whole: NDArray[np.int_],
    owner: NDArray[np.int_],
    weights: NDArray[np.float64] | NDArray[np.int_],
    steps: int,
    chains: int,
) -> NDArray[np.float64]:
    """Return the share of chains that succeed, for each row of task weights."""
    found = []
    trials = np.bincount(owner)
    for row in weights:
        # A task with many trials is no likelier than one with few.
        chance = np.cumsum(row[owner] / trials[owner])
        left = np.full(chains, steps)
        good = np.ones(chains, dtype=bool)
        for _ in range(steps):
            drawn = np.searchsorted(chance, rng.random(chains) * chance[-1], side="right")
            drawn = np.minimum(drawn, len(lengths) - 1)
            taken = np.minimum(lengths[drawn], left)
            good &= whole[drawn] >= taken
            left -= taken
            if not left.any():
                break
        found.append(good.mean())
    return np.array(found)


def _right_run(right: Sequence[bool]) -> int:
    return right.index(False) if False in right else len(right)


def _by_task(records: Sequence[CallRecord]) -> list[list[CallRecord]]:
    tasks: dict[str, list[CallRecord]] = {}
    for record in records:
        tasks.setdefault(record.task_id, []).append(record)
    return list(tasks.values())


# ---- the bill --------------------------------------------------------------------------------


def dollars_per_call(price: Price, *, prompt_tokens: float, completion_tokens: float) -> float:
    """Return what a call costs at a provider's prices, from the mean tokens of one call."""
    return (prompt_tokens * price.prompt + completion_tokens * price.completion) / 1e6


def dollars_per_call_by_time(
    *, dollars_per_hour: float, seconds_per_call: float, at_once: float = 1.0
) -> float:
    """Return what a call costs on a machine of one's own: its hourly price over the calls of an hour.

    Args:
        dollars_per_hour: rent, or purchase and power over the machine's hours.
        seconds_per_call: wall seconds of one call.
        at_once: calls under way together, on average.
    """
    return dollars_per_hour * seconds_per_call / 3600 / at_once


class Bill(Record, frozen=True, kw_only=True):
    """The student's cost beside the teacher's, in dollars."""

    per_million_calls: float
    teacher_per_million_calls: float
    per_10k_interactions: float
    teacher_per_10k_interactions: float
    share_of_teacher: float | None
    """The student's cost over the teacher's; None where the teacher costs nothing."""
    pays_after: int | None
    """Interactions after which what was spent once (teacher data, training) is earned back; None: never."""


def bill(
    *,
    calls_per_interaction: float,
    student_per_call: float,
    teacher_per_call: float,
    fallback_share: float = 0.0,
    spent_once: float = 0.0,
) -> Bill:
    """Return what 1,000,000 calls and 10,000 interactions cost with the student and with the teacher.

    >>> bill(calls_per_interaction=1, student_per_call=0.0005, teacher_per_call=0.15).pays_after
    0

    Args:
        calls_per_interaction: mean calls, at least 0.
        student_per_call: dollars.
        teacher_per_call: dollars.
        fallback_share: share of the student's calls that go on to the teacher, in [0, 1]; both are paid.
        spent_once: dollars for data and training.

    Raises:
        DataError: a cost is negative or the share lies outside [0, 1].
    """
    amounts = (calls_per_interaction, student_per_call, teacher_per_call, spent_once)
    if min(amounts) < 0 or not 0 <= fallback_share <= 1:
        raise DataError(
            f"costs of {student_per_call} and {teacher_per_call} dollars a call and a fallback share of "
            f"{fallback_share}: give no negative cost, and a share in [0, 1]."
        )
    student = student_per_call + fallback_share * teacher_per_call
    saved = (teacher_per_call - student) * calls_per_interaction
    pays_after = None
    if spent_once == 0:
        pays_after = 0 if saved >= 0 else None
    elif saved > 0:
        pays_after = math.ceil(spent_once / saved)
    return Bill(
        per_million_calls=1e6 * student,
        teacher_per_million_calls=1e6 * teacher_per_call,
        per_10k_interactions=1e4 * calls_per_interaction * student,
        teacher_per_10k_interactions=1e4 * calls_per_interaction * teacher_per_call,
        share_of_teacher=student / teacher_per_call if teacher_per_call else None,
        pays_after=pays_after,
    )
