"""How far a chain of calls can be trusted, and what it costs, from the episodes of one evaluation.

`metrics.chains` knows the mathematics. Here the figures of a run go in, what was only assumed is named as
assumed, and no share leaves without the number of tasks it stands on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from cacherl.core.errors import DataError, RecipeError
from cacherl.core.records import Record
from cacherl.evaluate.bounds import Bound, says_calls
from cacherl.evaluate.folder import EvalFolder, Plan
from cacherl.evaluate.results import on_file, task_digest
from cacherl.metrics.chains import (
    Bill,
    CallRecord,
    MeasuredSteps,
    ProductRule,
    StepPolicy,
    bill,
    call_record,
    chain,
    dollars_per_call_by_time,
    measured_steps,
    product_rule,
    resampled_chain,
)
from cacherl.metrics.comparison import holm
from cacherl.metrics.intervals import Measured
from cacherl.teacher.prices import NANO, PriceTable, TokensUsed

LENGTHS = (1, 2, 3, 5, 8, 10)
NO_FLOOR = "doing nothing makes no call"
LEAST_RETRIED = 5
"""Tasks with a retry below which the success of a retry is taken to be that of a first try."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCalls:
    """The calls of one evaluation, and what they took."""

    root: str
    plan: Plan
    records: tuple[CallRecord, ...]
    """Of every episode of a task that says its calls, those without a call too."""
    left_out: int
    """Episodes of tasks that say no calls."""
    ceiling: Bound
    prompt_tokens: int
    completion_tokens: int
    model_s: float
    dollars: float | None
    """What providers billed; None where that is unknown for any episode."""

    @property
    def calls(self) -> int:
        """In all; at least one."""
        return sum(len(record.right) for record in self.records)


class Assumption(Record, frozen=True, kw_only=True):
    """One figure that the chains are reckoned with, and where it comes from."""

    name: str
    value: float
    said: str


class Fallback(Record, frozen=True, kw_only=True):
    """The larger model that is asked when every try was objected to."""

    success: float
    dollars_per_call: float | None
    """None where nobody knows."""
    said: str
    """Whose figures these are, with their n."""


class ChainRow(Record, frozen=True, kw_only=True):
    """What becomes of chains of so many steps."""

    steps: int
    retries: int
    fallback: bool
    success: float
    """Every step right."""
    low: float
    """With the lower end of the measured success of a call, all else as assumed."""
    high: float
    n: int
    """Tasks behind the measured success of a call."""
    wrong_unnoticed: float
    given_up: float
    calls: float
    fallback_calls: float
    dollars: float | None
    """Of a chain, expected; None where a price is missing."""


class LengthCheck(Record, frozen=True, kw_only=True):
    """The product of single calls against what was recorded."""

    steps: int
    product: float
    """The success of a call to the power of `steps`."""
    resampled: Measured
    """Chains put together from recorded episodes, their calls kept together."""
    rule: ProductRule | None
    """The test on episodes of at least so many calls; None where there is none."""
    corrected_p: float | None
    """For the number of lengths tested (Holm)."""
    holds: bool | None
    """Whether nothing speaks against the product, at 5 %; None where nothing was tested."""


class Costs(Record, frozen=True, kw_only=True):
    """What calls take and cost. An episode's answer is counted into its calls."""

    calls_per_interaction: float
    prompt_tokens: float
    """A call."""
    completion_tokens: float
    model_s: float
    student_per_call: float | None
    student_said: str
    teacher: str | None
    teacher_per_call: float | None
    teacher_said: str
    plain: Bill | None
    """Without a retry or a fallback; None where a price is missing."""
    watched: Bill | None
    """With all retries and the fallback paid."""


class Reliability(Record, frozen=True, kw_only=True):
    """What `cacherl reliability` tells."""

    run: str
    model: str
    suite: str
    split: str
    tools: str
    tasks: int
    """With at least one call."""
    episodes: int
    calls: int
    silent: int
    """Episodes without a call: they are no chain, and only their tokens count."""
    left_out: int
    """Episodes of tasks that do not say which calls solve them."""
    floor: Bound
    ceiling: Bound
    """Of the success of a call: what gold earns on these tasks."""
    steps: MeasuredSteps
    assumed: tuple[Assumption, ...]
    fallback: Fallback | None
    chains: tuple[ChainRow, ...]
    checks: tuple[LengthCheck, ...]
    costs: Costs
    sentences: tuple[str, ...]
    """The same in words."""


# ---- what a run holds ------------------------------------------------------------------------


def run_calls(folder: EvalFolder) -> RunCalls:
    """Return the calls of an evaluation.

    Raises:
        DataError: it is no evaluation, nothing was scored, no task says its calls, or none was made.
    """
    plan = folder.read_manifest().plan
    tasks = {task.id: task for task in folder.read_tasks()}
    rows = on_file(folder.results, {task.id: task_digest(task) for task in tasks.values()})
    if not rows:
        raise DataError(
            f"{folder.results}: no row of its {len(tasks)} tasks is scored yet. Run the same "
            "`cacherl eval` command again to play them."
        )
    told = [row for row in rows.values() if says_calls(tasks[row.task_id])]
    if not told:
        raise DataError(
            f"{folder.root}: none of its {len(rows)} scored episodes is of a task with gold calls, so no "
            "call can be told right from wrong. Evaluate on a suite that has them; `cacherl suites list` "
            "names the suites."
        )
    records = tuple(call_record(tasks[row.task_id], row.trajectory) for row in told)
    if not any(record.right for record in records):
        raise DataError(
            f"{folder.root}: {plan.model} made no call in {len(records)} episodes, so there is no chain. "
            f"See why with `cacherl eval show {folder.root}`."
        )
    usages = [row.trajectory.usage for row in told]
    billed = [usage.dollars for usage in usages if usage.dollars is not None]
    return RunCalls(
        root=str(folder.root),
        plan=plan,
        records=records,
        left_out=len(rows) - len(told),
        ceiling=_ceiling(folder, {row.task_id for row in told}),
        prompt_tokens=sum(usage.prompt_tokens for usage in usages),
        completion_tokens=sum(usage.completion_tokens for usage in usages),
        model_s=math.fsum(usage.model_s for usage in usages),
        dollars=math.fsum(billed) if len(billed) == len(usages) else None,
    )


def _ceiling(folder: EvalFolder, task_ids: set[str]) -> Bound:
    """Return the success of gold's own calls: below 1 where gold does not play as it is written."""
    rows = folder.read_bounds()
    made = matched = 0
    for task_id in task_ids:
        row = rows.get(task_id)
        counts = row.ceiling_facts.get("gold") if row is not None else None
        if row is None or not isinstance(counts, dict):
            return Bound(value=None, said=(row and row.missing) or "nobody measured it")
        made += row.ceiling_facts["made"]
        matched += counts["matched"]
    return Bound(value=matched / made) if made else Bound(value=None, said="gold makes no call")


# ---- what follows from it --------------------------------------------------------------------


def fallback_of(run: RunCalls, prices: PriceTable, *, at: datetime) -> Fallback:
    """Return another run's model as a fallback: its measured success, and its price where it is known."""
    success = _success(measured_steps(run.records))
    dollars, said = _billed(run, prices, at)
    return Fallback(
        success=success.value,
        dollars_per_call=dollars,
        said=f"{run.plan.model} in {run.root}: {success}; {said}",
    )


def reliability(
    run: RunCalls,
    *,
    prices: PriceTable,
    at: datetime,
    most_steps: int = 10,
    most_retries: int = 3,
    catch: float | None = None,
    false_alarm: float | None = None,
    fallback: Fallback | None = None,
    teacher: str | None = None,
    dollars_per_hour: float | None = None,
    seed: int = 0,
) -> Reliability:
    """Return how far chains of a run's calls can be trusted, and what they cost.

    Args:
        run: whose calls.
        prices: of teachers and of models that somebody bills.
        at: the day whose prices count.
        most_steps: the longest chain.
        most_retries: chains are told for 0 to so many.
        catch: share of wrong calls that a check objects to; None: errors of tools are the check.
        false_alarm: share of right calls that it objects to; None: none.
        fallback: whom to ask when every try was objected to.
        teacher: whose price to set beside; its calls are taken to need as many tokens as the run's.
        dollars_per_hour: of the machine that played the run; wins over what was billed.
        seed: of the resampling.

    Raises:
        DataError: `most_steps` is below 1.
    """
    steps = measured_steps(run.records, positions=most_steps)
    success = _success(steps)
    assumed = _assumed(steps, success, catch, false_alarm)
    figures = {each.name: each.value for each in assumed}
    costs_s, said_s = _student(run, prices, at, dollars_per_hour)
    policy = StepPolicy(
        success=success.value,
        retry_success=figures.get("retry success"),
        catch=figures["catch"],
        false_alarm=figures["false alarm"],
        dollars_per_call=costs_s or 0.0,
    )
    policies: list[tuple[StepPolicy, Fallback | None]] = [(policy, None)]
    if fallback is not None:
        handed_on = replace(
            policy,
            fallback_success=fallback.success,
            dollars_per_fallback=fallback.dollars_per_call or 0.0,
        )
        policies.append((handed_on, fallback))
    lengths = sorted({each for each in LENGTHS if each < most_steps} | {most_steps})
    chains = tuple(
        _row(replace(each, retries=retries), length, success, asked, priced=costs_s is not None)
        for each, asked in policies
        for length in lengths
        for retries in range(most_retries + 1)
    )
    checks = _checks(run.records, [n for n in lengths if n > 1], success, seed)
    costs = _costs(run, prices, at, (costs_s, said_s), teacher, policies[-1], most_retries)
    return Reliability(
        run=run.root,
        model=run.plan.model,
        suite=run.plan.suite,
        split=run.plan.split.value,
        tools=run.plan.tools,
        tasks=success.n,
        episodes=len(run.records),
        calls=run.calls,
        silent=sum(not record.right for record in run.records),
        left_out=run.left_out,
        floor=Bound(value=None, said=NO_FLOOR),
        ceiling=run.ceiling,
        steps=steps,
        assumed=assumed,
        fallback=fallback,
        chains=chains,
        checks=checks,
        costs=costs,
        sentences=_sentences(run, success, chains, checks),
    )


def _success(steps: MeasuredSteps) -> Measured:
    if steps.success is None:  # `run_calls` refuses a run without a call
        raise DataError(
            "no call was made, so there is no chain. Evaluate a model that calls tools."
        )
    return steps.success


def _assumed(
    steps: MeasuredSteps, success: Measured, catch: float | None, false_alarm: float | None
) -> tuple[Assumption, ...]:
    """Return what the chains are reckoned with; a retry that is too rare to measure is left out."""
    found = [Assumption(name="success", value=success.value, said=f"measured, {success}")]
    again = steps.retry_success
    if again is not None and again.n >= LEAST_RETRIED:
        found.append(Assumption(name="retry success", value=again.value, said=f"measured, {again}"))
    seen = steps.catch
    if catch is not None:
        found.append(Assumption(name="catch", value=catch, said="given, not measured"))
    elif seen is None:
        found.append(Assumption(name="catch", value=0.0, said="no wrong call was seen"))
    else:
        said = f"wrong calls answered with an error, {seen}"
        found.append(Assumption(name="catch", value=seen.value, said=said))
    if false_alarm is not None:
        said = "given, not measured"
    else:
        # An error on a right call is no reason to give up: a refusal may be what the task is about.
        said = f"none given; right calls answered with an error, {steps.false_alarm or 'none seen'}"
    found.append(Assumption(name="false alarm", value=false_alarm or 0.0, said=said))
    return tuple(found)


def _row(
    policy: StepPolicy, steps: int, success: Measured, asked: Fallback | None, *, priced: bool
) -> ChainRow:
    found = chain(policy, steps)
    low, high = (
        chain(replace(policy, success=edge), steps).success for edge in (success.low, success.high)
    )
    known = priced and (asked is None or asked.dollars_per_call is not None)
    return ChainRow(
        steps=steps,
        retries=policy.retries,
        fallback=asked is not None,
        success=found.success,
        low=low,
        high=high,
        n=success.n,
        wrong_unnoticed=found.wrong_unnoticed,
        given_up=found.given_up,
        calls=found.calls,
        fallback_calls=found.fallback_calls,
        dollars=found.dollars if known else None,
    )


def _checks(
    records: Sequence[CallRecord], lengths: Sequence[int], success: Measured, seed: int
) -> tuple[LengthCheck, ...]:
    rules = {n: product_rule(records, n, seed=seed) for n in lengths}
    tested = [n for n, rule in rules.items() if rule is not None]
    corrected = dict(
        zip(tested, holm([rule.p_value for rule in rules.values() if rule]), strict=True)
    )
    return tuple(
        LengthCheck(
            steps=n,
            product=success.value**n,
            resampled=resampled_chain(records, n, seed=seed),
            rule=rules[n],
            corrected_p=corrected.get(n),
            holds=corrected[n] > 0.05 if n in corrected else None,
        )
        for n in lengths
    )


# ---- dollars ---------------------------------------------------------------------------------


def _priced(
    run: RunCalls, model: str, prices: PriceTable, at: datetime
) -> tuple[float | None, str]:
    """Return what the run's tokens cost a call at the price of a model, and where the price is from."""
    if not run.prompt_tokens + run.completion_tokens:
        return None, "the run counted no tokens"
    used = TokensUsed(
        prompt=round(run.prompt_tokens / run.calls),
        completion=round(run.completion_tokens / run.calls),
    )
    nano = prices.nanodollars(model, used, at=at)
    if nano is None:
        return None, f"no price of {model} is known; name one with --prices"
    return nano / NANO, f"{model} at the run's tokens, price of {prices.source(model)}"


def _billed(run: RunCalls, prices: PriceTable, at: datetime) -> tuple[float | None, str]:
    if run.dollars is not None:
        return run.dollars / run.calls, f"billed in the run, n = {run.calls} calls"
    try:
        return _priced(run, run.plan.model, prices, at)
    except RecipeError:  # a folder or a scripted policy: no provider has a price for it
        return None, f"nobody bills {run.plan.model}; name a price with --prices"


def _student(
    run: RunCalls, prices: PriceTable, at: datetime, dollars_per_hour: float | None
) -> tuple[float | None, str]:
    if dollars_per_hour is None:
        dollars, said = _billed(run, prices, at)
        return dollars, said if dollars is not None else f"{said}, or --usd-per-hour"
    if not run.model_s:
        return None, "the run measured no latency"
    seconds = run.model_s / run.calls
    each = dollars_per_call_by_time(dollars_per_hour=dollars_per_hour, seconds_per_call=seconds)
    return each, (
        f"{seconds:.3f} s of the model a call (n = {run.calls} calls) on a machine at "
        f"${dollars_per_hour:g} an hour"
    )


def _costs(
    run: RunCalls,
    prices: PriceTable,
    at: datetime,
    student: tuple[float | None, str],
    teacher: str | None,
    watched: tuple[StepPolicy, Fallback | None],
    most_retries: int,
) -> Costs:
    each, said = student
    teaches, teacher_said = _priced(run, teacher, prices, at) if teacher else (None, "none named")
    per = run.calls / len(run.records)
    policy, asked = watched
    plain = watched_bill = None
    if each is not None and teaches is not None:
        plain = bill(calls_per_interaction=per, student_per_call=each, teacher_per_call=teaches)
        if asked is None or asked.dollars_per_call is not None:
            step = chain(replace(policy, retries=most_retries), 1)
            watched_bill = bill(
                calls_per_interaction=per, student_per_call=step.dollars, teacher_per_call=teaches
            )
    return Costs(
        calls_per_interaction=per,
        prompt_tokens=run.prompt_tokens / run.calls,
        completion_tokens=run.completion_tokens / run.calls,
        model_s=run.model_s / run.calls,
        student_per_call=each,
        student_said=said,
        teacher=teacher,
        teacher_per_call=teaches,
        teacher_said=teacher_said,
        plain=plain,
        watched=watched_bill,
    )


# ---- words -----------------------------------------------------------------------------------


def share_text(share: float) -> str:
    """Return a share in percent; what is not all or nothing is never rounded to it."""
    percent = f"{100 * share:.0f}"
    if percent in ("0", "100") and 0 < share < 1:
        percent = "under 1" if share < 0.5 else "over 99"
    return f"{percent} %"


def _sentences(
    run: RunCalls,
    success: Measured,
    chains: Sequence[ChainRow],
    checks: Sequence[LengthCheck],
) -> tuple[str, ...]:
    told = min((row.steps for row in chains if row.steps >= 5), default=chains[-1].steps)
    low, high = (share_text(1 - edge**told) for edge in (success.high, success.low))
    found = [
        f"{share_text(success.value)} a call: {share_text(1 - success.value**told)} of {told}-step "
        f"chains fail somewhere (95 %: {low} to {high}), if calls fail independently "
        f"(n = {_tasks(success.n)}, {run.calls} calls)."
    ]
    rows = [row for row in chains if row.steps == told]
    best = max(rows, key=lambda row: row.success)
    if best.success > success.value**told + 1e-12:
        means = (
            [f"{best.retries} retr{'y' if best.retries == 1 else 'ies'}"] if best.retries else []
        )
        means += ["the fallback"] if best.fallback else []
        found.append(
            f"With {' and '.join(means)} {share_text(1 - best.success)} of them fail: "
            f"{share_text(best.wrong_unnoticed)} wrong and unnoticed, {share_text(best.given_up)} "
            f"given up (n = {_tasks(best.n)})."
        )
    elif success.value == 1:
        found.append(f"No call was wrong, so there was nothing to retry (n = {_tasks(success.n)}).")
    else:
        found.append(
            f"Retries mend no {told}-step chain here: no check that notices a wrong call, or no retry "
            f"that was right (n = {_tasks(success.n)})."
        )
    for check in checks:
        if check.holds is False and check.rule is not None:
            real, rule = check.rule.observed, check.rule
            more = "more" if real.value > rule.predicted else "fewer"
            found.append(
                f"The product rule does not hold for {check.steps} steps: {share_text(real.value)} of "
                f"recorded chains are right throughout, {more} than the {share_text(rule.predicted)} of "
                f"the product (p = {check.corrected_p:.3g}, n = {_tasks(real.n)}). Believe the resampled "
                "column."
            )
    tested = [c for c in checks if c.holds is not None]
    if checks and not tested:
        found.append("The product rule could not be tested: no episode has two calls or more.")
    elif tested and all(c.holds for c in tested):
        least = min(c.rule.observed.n for c in tested if c.rule is not None)
        found.append(
            f"Nothing speaks against the product rule, for up to {tested[-1].steps} steps "
            f"(n = {_tasks(least)} or more; with few tasks nothing may)."
        )
    return tuple(found)


def _tasks(n: int) -> str:
    return f"{n:,} task{'' if n == 1 else 's'}"
