"""What the rows of an evaluation say together: every figure with n, interval, floor and ceiling."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from cacherl.core.errors import DataError
from cacherl.core.records import Record
from cacherl.core.tasks import Task
from cacherl.core.tools import Source, Tier
from cacherl.core.trajectories import StopReason
from cacherl.evaluate.bounds import NO_BOUND, Bound, BoundRow, bound
from cacherl.evaluate.episode import unreached_calls
from cacherl.evaluate.folder import EvalFolder, Manifest
from cacherl.evaluate.results import Result, Sample, read_lines
from cacherl.evaluate.scoring import MAIN, SUCCESS
from cacherl.metrics.attempts import attempt_curve
from cacherl.metrics.calls import CallScores, EpisodeFacts, call_scores, episode_facts
from cacherl.metrics.cost import CostSummary, EpisodeCost, cost_summary
from cacherl.metrics.intervals import Measured, score_mean
from cacherl.metrics.power import power_note
from cacherl.teacher.ledger import Ledger

NEARLY_ALL = 0.95
"""Fewer distinct questions than this share of the tasks are worth a warning."""
UNPLACED = "unplaced"
EXAMPLES = 3
"""Failed samples named for each kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What the summary needs of a `Result`: trajectories stay in the file."""

    task_id: str
    trial: int
    metrics: Mapping[str, float]
    cause: str | None
    kinds: tuple[str, ...]
    wrong_fields: tuple[str, ...]
    stop: StopReason
    tiers: tuple[Tier, ...]
    """Of the calls that reached tools or a cache."""
    refused: int
    """Calls that the loop itself answered: malformed, of an unknown tool, or unfit."""
    prompt_tokens: int
    completion_tokens: int
    model_s: float
    tools_s: float
    """Of the live calls."""
    dollars: float | None
    facts: EpisodeFacts
    unreached: int = 0
    """Live calls that met a tool which could not be reached, or failed for the moment."""

    @property
    def success(self) -> bool:
        """The suite's verdict."""
        return self.metrics[SUCCESS] == 1.0


def row_of(task: Task, result: Result) -> Row:
    """Return the row without its transcript."""
    played = result.trajectory
    return Row(
        task_id=result.task_id,
        trial=result.trial,
        metrics=result.metrics,
        cause=result.cause,
        kinds=result.kinds,
        wrong_fields=result.wrong_fields,
        stop=played.stop,
        tiers=tuple(each.tier for each in played.results if each.source is not Source.LOOP),
        refused=sum(each.source is Source.LOOP for each in played.results),
        prompt_tokens=played.usage.prompt_tokens,
        completion_tokens=played.usage.completion_tokens,
        model_s=played.usage.model_s,
        tools_s=sum(each.latency_s for each in played.results if each.tier is Tier.LIVE),
        dollars=played.usage.dollars,
        facts=episode_facts(task, played),
        unreached=unreached_calls(played),
    )


class Figure(Record, frozen=True, kw_only=True):
    """One number, with all that a reader needs to believe it."""

    metric: str
    measured: Measured
    rows: int
    """Tasks times trials."""
    floor: Bound
    """What doing nothing earns on these tasks."""
    ceiling: Bound
    """What gold earns on these tasks."""


class Group(Record, frozen=True, kw_only=True):
    """The main figures over some of the tasks."""

    name: str
    figures: tuple[Figure, ...]


class Attempts(Record, frozen=True, kw_only=True):
    """Figures over several trials of a task."""

    k: int
    at: Figure
    """pass@k: one of k succeeds."""
    hat: Figure
    """pass^k: all of k succeed."""


class FailureCount(Record, frozen=True, kw_only=True):
    """One way to fail, among the rows that failed."""

    kind: str
    """Of `metrics.FailureKind`; `unplaced` where no rule could say."""
    rows: int
    """Rows that failed because of it; these sum to the failed ones."""
    seen: int
    """Failed rows that show it, whatever the cause."""
    examples: tuple[tuple[str, int], ...]
    """Task and trial of some that failed because of it."""


class Summary(Record, frozen=True, kw_only=True):
    """`summary.json`."""

    manifest: Manifest
    n: int
    """Tasks with a row."""
    rows: int
    distinct_questions: int
    """Among these tasks, by what the user says."""
    not_scored: int
    """Samples without a row: outages, and what a stopped run left."""
    outages: dict[str, int]
    """Samples without a row whose last try the infrastructure ended, by why."""
    figures: tuple[Figure, ...]
    attempts: tuple[Attempts, ...] = ()
    """For more than one trial."""
    groups: dict[str, tuple[Group, ...]]
    """By `family` and `language`, where there are several."""
    stops: dict[str, int]
    call_tiers: dict[str, int]
    """Calls by how they were answered; `refused` by the loop before they reached any tool."""
    worst_tiers: dict[str, int]
    """Rows by the worst tier of their calls; `live` for no calls at all."""
    failed: int
    failures: tuple[FailureCount, ...]
    """Most frequent cause first, the unplaced last."""
    unplaced_share: float
    """Of the failed rows, those that no rule could place; 0 for none."""
    wrong_fields: dict[str, int]
    """Wrong arguments by the kind of their field, in all failed rows."""
    costs: CostSummary
    """Of the scored rows, by today's prices. Nothing in it has a floor or a ceiling."""
    paid_dollars: float | None = None
    """Over the whole history of the folder's journal, outages and what was asked twice included."""
    power: str
    """What a run of this size can and cannot tell apart."""
    wall_s: float
    """Over all runs that led here."""
    unreached_calls: int = 0
    """Live calls that met a tool which could not be reached, or failed for the moment."""
    unreached_rows: int = 0
    """Rows with such a call. They are counted."""
    notes: tuple[str, ...] = ()
    """What to know before believing a figure."""

    def figure(self, metric: str) -> Figure | None:
        """Return the figure of a metric, where rows have it."""
        return next((each for each in self.figures if each.metric == metric), None)


# ---- printing --------------------------------------------------------------------------------


def figure_text(measured: Measured, floor: Bound, ceiling: Bound) -> str:
    """Return a figure as it is printed: never without n, interval, floor and ceiling.

    `0.920 (95 % 0.724-0.980, n = 20; doing nothing 0.000, gold 1.000)`
    """
    return (
        f"{measured.value:.3f} (95 % {measured.low:.3f}-{measured.high:.3f}, n = {measured.n}; "
        f"doing nothing {bound_text(floor)}, gold {bound_text(ceiling)})"
    )


def bound_text(end: Bound) -> str:
    """Return a floor or a ceiling as it is printed."""
    if end.value is None:
        return "not measured"
    return f"{end.value:.3f} ({end.said})" if end.said else f"{end.value:.3f}"


# ---- reckoning -------------------------------------------------------------------------------


def summarise_rows(
    manifest: Manifest,
    tasks: Sequence[Task],
    rows: Sequence[Row],
    bounds: Mapping[str, BoundRow],
    *,
    outages: Mapping[str, int],
    paid_dollars: float | None = None,
) -> Summary:
    """Return the summary of an evaluation. Same arguments, same figures, whatever the order of the rows.

    Args:
        manifest: what it is of.
        tasks: every task that was to be played.
        rows: at least one.
        bounds: by task id.
        outages: samples whose last try the infrastructure ended, by why.
        paid_dollars: what the journal says was paid.
    """
    by_id = {task.id: task for task in tasks}
    rows = sorted(rows, key=lambda row: (row.task_id, row.trial))
    scored = [by_id[task_id] for task_id in dict.fromkeys(row.task_id for row in rows)]
    names = list(dict.fromkeys([*MAIN, *sorted({name for row in rows for name in row.metrics})]))
    figures = (
        *(found for name in names if (found := figure_of(name, rows, bounds)) is not None),
        *_call_figures(rows, bounds),
    )
    failed = [row for row in rows if not row.success]
    worst = Counter(max(row.tiers, key=lambda t: t.rank, default=Tier.LIVE) for row in rows)
    tiers = Counter(tier for row in rows for tier in row.tiers)
    refused = sum(row.refused for row in rows)
    return Summary(
        manifest=manifest,
        n=len(scored),
        rows=len(rows),
        distinct_questions=distinct_questions(scored),
        not_scored=len(tasks) * manifest.trials - len(rows),
        outages=dict(outages),
        figures=figures,
        attempts=_attempts(rows, bounds),
        groups=_groups(scored, rows, bounds),
        stops=dict(sorted(Counter(row.stop.value for row in rows).items())),
        call_tiers={tier.value: tiers[tier] for tier in Tier if tiers[tier]}
        | ({"refused": refused} if refused else {}),
        worst_tiers={tier.value: worst[tier] for tier in Tier if worst[tier]},
        failed=len(failed),
        failures=_failures(failed),
        unplaced_share=sum(row.cause is None for row in failed) / max(1, len(failed)),
        wrong_fields=dict(
            Counter(kind for row in failed for kind in row.wrong_fields).most_common()
        ),
        costs=cost_summary([_cost(row) for row in rows]),
        paid_dollars=paid_dollars,
        power=str(
            power_note(
                len(scored),
                figures[0].measured.value,
                interval=(figures[0].measured.low, figures[0].measured.high),
            )
        ),
        wall_s=sum(run.wall_s for run in manifest.runs),
        unreached_calls=sum(row.unreached for row in rows),
        unreached_rows=sum(row.unreached > 0 for row in rows),
        notes=(*_unreached(rows), *_notes(manifest, scored, figures[0], len(tasks))),
    )


def figure_of(metric: str, rows: Iterable[Row], bounds: Mapping[str, BoundRow]) -> Figure | None:
    """Return the figure of a metric over the rows that have it; None where none has."""
    by_task: dict[str, list[float]] = {}
    for row in rows:
        if metric in row.metrics:
            by_task.setdefault(row.task_id, []).append(row.metrics[metric])
    if not by_task:
        return None
    task_ids = list(by_task)
    return Figure(
        metric=metric,
        measured=score_mean(list(by_task.values())),
        rows=sum(len(values) for values in by_task.values()),
        floor=bound(bounds, task_ids, metric, ceiling=False),
        ceiling=bound(bounds, task_ids, metric, ceiling=True),
    )


def _call_figures(rows: Sequence[Row], bounds: Mapping[str, BoundRow]) -> list[Figure]:
    """Return what the calls of all rows say together, with what they say of both ends."""
    ids = [row.task_id for row in rows]
    found = measured_in(
        call_scores([row.facts for row in rows], [row.success for row in rows], task_ids=ids)
    )
    ends = [_end(list(dict.fromkeys(ids)), bounds, ceiling=ceiling) for ceiling in (False, True)]
    known = bound(bounds, list(dict.fromkeys(ids)), SUCCESS, ceiling=True).said
    return [
        Figure(
            metric=name,
            measured=measured,
            rows=len(rows),
            floor=_bound_of(ends[0], name),
            ceiling=_bound_of(ends[1], name, known),
        )
        for name, measured in found.items()
    ]


def _bound_of(end: Mapping[str, Measured] | str, name: str, said: str = "") -> Bound:
    if isinstance(end, str):
        return Bound(value=None, said=end)
    if name not in end:
        return Bound(value=None, said="does not apply")
    return Bound(value=end[name].value, said=said)


def _end(
    task_ids: Sequence[str], bounds: Mapping[str, BoundRow], *, ceiling: bool
) -> dict[str, Measured] | str:
    """Return the call figures of the agent at one end, or why there are none."""
    facts, successes = [], []
    for task_id in task_ids:
        row = bounds.get(task_id)
        if row is None or row.missing:
            return NO_BOUND.said if row is None else row.missing
        if ceiling and row.no_way:
            continue
        try:
            said = row.ceiling_facts if ceiling else row.floor_facts
            facts.append(msgspec.convert(said, EpisodeFacts))
        except msgspec.ValidationError:
            return "measured by another version of cacherl: evaluate again to measure it anew"
        successes.append((row.ceiling if ceiling else row.floor).get(SUCCESS) == 1.0)
    if not facts:
        return "nobody said which calls solve these tasks"
    return measured_in(call_scores(facts, successes))


def measured_in(scores: CallScores) -> dict[str, Measured]:
    """Return every figure of the call scores by a name of its own: `calls_micro.precision`."""
    found: dict[str, Measured] = {}

    def walk(value: object, name: str) -> None:
        match value:
            case Measured():
                found[name] = value
            case dict():
                for key, member in value.items():
                    walk(member, f"{name}.{key}")
            case msgspec.Struct():
                for field in value.__struct_fields__:
                    walk(getattr(value, field), f"{name}.{field}" if name else field)
            case _:
                pass

    walk(scores, "")
    return found


def distinct_questions(tasks: Iterable[Task]) -> int:
    """Return how many different things the users of the tasks say."""
    return len({" ".join(" ".join(task.user_turns).split()).casefold() for task in tasks})


def _attempts(rows: Sequence[Row], bounds: Mapping[str, BoundRow]) -> tuple[Attempts, ...]:
    by_task: dict[str, list[bool]] = {}
    for row in rows:
        by_task.setdefault(row.task_id, []).append(row.success)
    trials = [len(each) for each in by_task.values()]
    if min(trials) < 2:
        return ()
    whole = figure_of(SUCCESS, rows, bounds)
    if whole is None:  # every row has a verdict
        return ()

    def of(name: str, measured: Measured) -> Figure:
        # Scripted agents do the same every time: their pass@k and pass^k are their success.
        return msgspec.structs.replace(whole, metric=name, measured=measured)

    return tuple(
        Attempts(
            k=point.k,
            # One of one is success itself: one quantity has one interval.
            at=of(f"pass@{point.k}", point.pass_at_k if point.k > 1 else whole.measured),
            hat=of(f"pass^{point.k}", point.pass_hat_k if point.k > 1 else whole.measured),
        )
        for point in attempt_curve([sum(each) for each in by_task.values()], trials)
    )


def _groups(
    tasks: Sequence[Task], rows: Sequence[Row], bounds: Mapping[str, BoundRow]
) -> dict[str, tuple[Group, ...]]:
    found = {}
    for field, name_of in GROUPS.items():
        names = {task.id: name_of(task) for task in tasks}
        if len(set(names.values())) < 2:
            continue
        found[field] = tuple(
            Group(
                name=name,
                figures=tuple(
                    figure
                    for metric in MAIN
                    if (
                        figure := figure_of(
                            metric, [row for row in rows if names[row.task_id] == name], bounds
                        )
                    )
                ),
            )
            for name in sorted(set(names.values()))
        )
    return found


GROUPS: dict[str, Callable[[Task], str]] = {
    "family": lambda task: task.family,
    "language": lambda task: task.language,
}
"""What tasks are grouped by."""


def _failures(failed: Sequence[Row]) -> tuple[FailureCount, ...]:
    causes: dict[str, list[Sample]] = {}
    for row in failed:
        causes.setdefault(row.cause or UNPLACED, []).append((row.task_id, row.trial))
    seen = Counter(kind for row in failed for kind in row.kinds)
    names = sorted({*causes, *seen}, key=lambda k: (k == UNPLACED, -len(causes.get(k, ())), k))
    return tuple(
        FailureCount(
            kind=name,
            rows=len(causes.get(name, ())),
            seen=seen[name] if name != UNPLACED else len(causes[name]),
            examples=tuple(causes.get(name, ())[:EXAMPLES]),
        )
        for name in names
    )


def _cost(row: Row) -> EpisodeCost:
    return EpisodeCost(
        task_id=row.task_id,
        success=row.success,
        model_s=row.model_s,
        tools_s=row.tools_s,
        prompt_tokens=row.prompt_tokens,
        completion_tokens=row.completion_tokens,
        dollars=row.dollars,
    )


def _unreached(rows: Sequence[Row]) -> tuple[str, ...]:
    met = [row.unreached for row in rows if row.unreached]
    if not met:
        return ()
    calls, episodes = sum(met), len(met)
    return (
        f"{calls} call{'s' if calls > 1 else ''} in {episodes} episode{'s' if episodes > 1 else ''} met a "
        "tool that could not be reached or failed for the moment; they are counted. If that is no part of "
        "the task, mend the tools and evaluate again into another folder (--out).",
    )


def _notes(
    manifest: Manifest, scored: Sequence[Task], success: Figure, wanted: int
) -> tuple[str, ...]:
    notes = []
    for name, end in (("doing nothing", success.floor), ("gold", success.ceiling)):
        if end.value is None:
            notes.append(f"What {name} earns was not measured: {end.said}.")
    if success.ceiling.value is not None and success.ceiling.value < 1:
        notes.append(
            f"Gold itself earns {success.ceiling.value:.3f}: no model can be expected to earn more "
            "under these limits."
        )
    distinct = distinct_questions(scored)
    if distinct < NEARLY_ALL * len(scored):
        notes.append(
            f"The {len(scored)} tasks ask {distinct} distinct questions: n overstates what was measured."
        )
    codes = {run.code for run in manifest.runs if run.played}
    if len(codes) > 1:
        notes.append(
            f"The rows were made by {len(codes)} versions of the code; `cacherl rescore` checks them "
            "all by this one."
        )
    if manifest.trials > 1 and manifest.plan.sampling.get("temperature") == 0:
        notes.append(
            "Several trials at temperature 0 repeat themselves: give --temperature to see how much "
            "the model varies."
        )
    if len(scored) < wanted:
        notes.append(
            f"{wanted - len(scored)} of {wanted} tasks have no row and are not in any figure."
        )
    return tuple(notes)


# ---- from a folder ---------------------------------------------------------------------------


def summary_of(folder: EvalFolder) -> Summary:
    """Return the summary of what is on file.

    Raises:
        DataError: the folder is of no evaluation, a file is damaged, or nothing was scored yet.
    """
    manifest = folder.read_manifest()
    tasks = {task.id: task for task in folder.read_tasks()}
    rows: dict[tuple[str, int], Row] = {}
    outages: dict[tuple[str, int], str] = {}
    for line in read_lines(folder.results) if folder.results.exists() else ():
        sample = (line.task_id, line.trial)
        if line.task_id not in tasks:
            continue
        if isinstance(line, Result):
            rows[sample] = row_of(tasks[line.task_id], line)
            outages.pop(sample, None)
        elif sample not in rows:
            outages[sample] = line.kind or line.stop.value
    if not rows:
        raise DataError(
            f"{folder.root}: no task was scored, so there is nothing to summarise. Check the model and "
            "the tools, and run the same command again."
        )
    return summarise_rows(
        manifest,
        list(tasks.values()),
        list(rows.values()),
        folder.read_bounds(),
        outages=dict(Counter(outages.values())),
        paid_dollars=_paid(folder),
    )


def _paid(folder: EvalFolder) -> float | None:
    if not folder.ledger.exists():
        return None
    ledger = msgspec.json.decode(folder.ledger.read_bytes(), type=Ledger)
    return ledger.total.dollars
