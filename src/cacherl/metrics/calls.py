"""How well an episode's calls fit the gold calls, and what many episodes say together.

An episode becomes counts (`episode_facts`), which can be kept and added; figures come from counts
(`call_scores`). Two calls are equal where the cache and the reward say so (`reward.process.agreement`):
arguments in normal form, free text by its words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from cacherl.cache.identity.canonical import canonical_json
from cacherl.cache.identity.normalise import Kind, plan_of
from cacherl.core.errors import DataError
from cacherl.core.messages import AssistantMessage, Call, MalformedCall, ToolCall
from cacherl.core.records import JsonObject, Record
from cacherl.core.schema import argument_problem
from cacherl.core.tasks import GoldCall, Task
from cacherl.core.tools import ToolSpec, undeclared
from cacherl.core.trajectories import StopReason, Trajectory
from cacherl.metrics.intervals import Measured, bootstrap_mean, score_mean, share_of
from cacherl.metrics.pairing import paired
from cacherl.reward.process import agreement, canonical, made_calls

# ---- counts ----------------------------------------------------------------------------------


class FieldCounts(Record, frozen=True, kw_only=True):
    """Argument values of one kind, in calls of the right tool."""

    right: int = 0
    wrong: int = 0
    """There, but another value than gold's."""
    missing: int = 0
    invented: int = 0
    """Where gold has nothing."""


class GoldCounts(Record, frozen=True, kw_only=True):
    """An episode's calls against its gold calls; order plays no part."""

    wanted: int
    matched: int
    """Gold calls made, arguments included; each call counts once."""
    named: int
    """Gold calls whose tool was called, as multisets of names."""
    aligned: int
    """Calls that stand for a gold call of the same tool, equal or not."""
    names_wanted: int
    """Argument names of the gold calls that a call stands for, in normal form: defaults filled in."""
    names_made: int
    names_missing: int
    names_invented: int
    fields: dict[str, FieldCounts]
    """By kind: `id`, `number`, `date`, `enum`, `entity`, `text`, `code`."""


class EpisodeFacts(Record, frozen=True, kw_only=True):
    """What one episode adds to the figures of its evaluation."""

    made: int
    """Everything meant as a call, what did not parse included."""
    malformed: int
    undeclared: int
    """Calls that parsed and named a tool nobody offered."""
    misfits: int
    """Calls of an offered tool whose arguments do not fit its schema."""
    arguments: int
    """Arguments of calls of offered tools."""
    arguments_undeclared: int
    """Of those, the ones whose names the tool's schema does not have."""
    error_results: int
    """Calls answered with an error, by the loop or by the tool."""
    turns: int
    """Assistant messages."""
    format_errors: int
    """Assistant messages that are neither calls that parsed nor words, or were cut off."""
    gold: GoldCounts | None
    """None for a task without gold calls."""


def episode_facts(task: Task, trajectory: Trajectory) -> EpisodeFacts:
    """Return the counts of one episode."""
    specs = {spec.name: spec for spec in task.tools}
    calls = made_calls(trajectory)
    parsed = [call for call in calls if isinstance(call, ToolCall)]
    offered = [call for call in parsed if call.name in specs]
    written = [m for m in trajectory.messages if isinstance(m, AssistantMessage)]
    return EpisodeFacts(
        made=len(calls),
        malformed=len(calls) - len(parsed),
        undeclared=len(parsed) - len(offered),
        misfits=sum(argument_problem(specs[c.name], c.arguments) is not None for c in offered),
        arguments=sum(len(call.arguments) for call in offered),
        arguments_undeclared=sum(
            len(undeclared_arguments(specs[call.name], call.arguments)) for call in offered
        ),
        error_results=sum(result.is_error for result in trajectory.results),
        turns=len(written),
        format_errors=format_errors(written, trajectory.stop),
        gold=None
        if task.gold is None or task.gold.calls is None
        else gold_counts(task.gold.calls, calls, specs),
    )


def undeclared_arguments(spec: ToolSpec, arguments: JsonObject) -> tuple[str, ...]:
    """Return the argument names that the tool's schema does not have; none where it lets any name in.

    A schema that only forgot to forbid other names still means its own list, as in the agent loop.
    """
    if spec.parameters.get("additionalProperties", False) is not False:
        return ()
    if spec.parameters.get("patternProperties"):
        return ()
    known = spec.parameters.get("properties") or {}
    return tuple(name for name in arguments if name not in known)


def format_errors(turns: Sequence[AssistantMessage], stop: StopReason) -> int:
    """Return how many turns are neither calls that parsed nor words to the user, or were cut off.

    Source: decoding failures of BFCL v1; the string ratio of HammerBench, arXiv:2412.16516.
    """
    broken = [
        any(isinstance(call, MalformedCall) for call in turn.calls)
        or not (turn.calls or turn.content.strip())
        for turn in turns
    ]
    if broken and stop is StopReason.TRUNCATED:
        broken[-1] = True
    return sum(broken)


def gold_counts(
    gold: Sequence[GoldCall], calls: Sequence[Call], specs: Mapping[str, ToolSpec]
) -> GoldCounts:
    """Return how the calls fit the gold calls.

    Invented and missing names are HammerBench's PN_FP and PN_FN, of calls in normal form: a default
    written out is no invention.

    Source: multisets of names and argument values as in Seal-Tools, arXiv:2405.08355; slips of
    argument names, HammerBench, arXiv:2412.16516 (`evaluation/metrics.py`, `get_miss_redundant_num`).
    """
    pairing = paired(gold, calls, specs)
    wanted = Counter(call.name for call in gold)
    made = Counter(call.name for call in calls if isinstance(call, ToolCall))
    names = Counter[str]()
    fields: dict[str, Counter[str]] = {}
    for g, c in (*pairing.exact, *pairing.near):
        want, call = gold[g], calls[c]
        if not isinstance(call, ToolCall):
            continue
        spec = specs.get(want.name)
        left, right = canonical(spec, want.arguments), canonical(spec, call.arguments)
        names["wanted"] += len(left)
        names["made"] += len(right)
        names["missing"] += len(left.keys() - right.keys())
        names["invented"] += len(right.keys() - left.keys())
        for field in argument_fields(spec, call.arguments, want.arguments):
            fields.setdefault(field.kind, Counter())[field.verdict] += 1
    return GoldCounts(
        wanted=len(gold),
        matched=len(pairing.exact),
        named=(wanted & made).total(),
        aligned=len(pairing.exact) + len(pairing.near),
        names_wanted=names["wanted"],
        names_made=names["made"],
        names_missing=names["missing"],
        names_invented=names["invented"],
        fields={kind: FieldCounts(**fields[kind]) for kind in sorted(fields)},
    )


# ---- fields ----------------------------------------------------------------------------------


class ArgumentField(Record, frozen=True, kw_only=True):
    """One value within the arguments of a call that stands for a gold call."""

    path: str
    """`items[0].sku`."""
    kind: Kind
    verdict: str
    """`right`, `wrong`, `missing` (gold has it, the call has not) or `invented`."""
    made: Any = None
    wanted: Any = None


def argument_fields(
    spec: ToolSpec | None, made: JsonObject, wanted: JsonObject
) -> tuple[ArgumentField, ...]:
    """Return every value of the two calls, by place, with its kind and verdict.

    All are right exactly where `reward.process.agreement` is 1. Kinds are the cache's: by the schema, by
    the name, else by the value. An array that is one element off is wrong from there on.
    """
    left, right = canonical(spec, wanted), canonical(spec, made)
    found = []
    for name in (*left, *(name for name in right if name not in left)):
        ours, theirs = _part(right, name), _part(left, name)
        same = bool(ours and theirs) and agreement(spec, ours, theirs) == 1.0
        made_at, wanted_at = _leaves(spec, ours), _leaves(spec, theirs)
        for path in (*wanted_at, *(path for path in made_at if path not in wanted_at)):
            found.append(_field(path, made_at.get(path), wanted_at.get(path), same=same))
    return tuple(found)


_Leaf = tuple[Kind, Any]


def _part(arguments: JsonObject, name: str) -> JsonObject:
    return {name: arguments[name]} if name in arguments else {}


def _field(path: str, made: _Leaf | None, wanted: _Leaf | None, *, same: bool) -> ArgumentField:
    if made is None or wanted is None:
        kind, value = made or wanted or (Kind.ENTITY, None)
        # Texts that say the same may be cut into other parts.
        verdict = "right" if same else "missing" if made is None else "invented"
        return ArgumentField(
            path=path,
            kind=kind,
            verdict=verdict,
            made=value if made is not None else None,
            wanted=value if wanted is not None else None,
        )
    right = same or canonical_json(made[1]) == canonical_json(wanted[1])
    return ArgumentField(
        path=path,
        kind=wanted[0],
        verdict="right" if right else "wrong",
        made=made[1],
        wanted=wanted[1],
    )


def _leaves(spec: ToolSpec | None, arguments: JsonObject) -> dict[str, _Leaf]:
    """Return the values of normal arguments by place, each with its kind."""
    shape = plan_of(spec or undeclared("")).shape(arguments)
    texts = {place for place, _ in shape.texts}
    # A shape yields its other leaves in the order in which they are walked here.
    kinds = iter(shape.fields)
    return {
        place: (Kind.TEXT if place in texts else next(kinds).kind, value)
        for place, value in _walk(arguments, "")
        if place
    }


def _walk(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, member in value.items():
            yield from _walk(member, f"{place}.{name}" if place else name)
    elif isinstance(value, list) and value:
        for number, item in enumerate(value):
            yield from _walk(item, f"{place}[{number}]")
    else:
        yield place, value


# ---- figures ---------------------------------------------------------------------------------


class PrecisionRecall(Record, frozen=True, kw_only=True):
    """Of what was called, how much was wanted; of what was wanted, how much was called.

    None where nothing was called, nothing was wanted, or neither.
    """

    precision: Measured | None
    recall: Measured | None
    f1: Measured | None


class CallScores(Record, frozen=True, kw_only=True):
    """What the calls of one evaluation say. Rates name what they are a share of; None: of nothing."""

    episodes: int
    calls_micro: PrecisionRecall
    """Whole calls, arguments included; all calls of all tasks in one pot. What did not parse counts as called."""
    calls_macro: PrecisionRecall
    """The same by task, every task counting once."""
    tools_micro: PrecisionRecall
    """Names only."""
    tools_macro: PrecisionRecall
    arguments: Measured | None
    """Right values over gold's values, in calls of the right tool."""
    arguments_by_kind: dict[str, Measured]
    invented_names: Measured | None
    """Argument names that gold has not, over those made, in calls of the right tool."""
    missing_names: Measured | None
    """Argument names of gold that were left out, over gold's."""
    hallucinated_tools: Measured | None
    """Calls of tools that nobody offered, over calls that parsed."""
    hallucinated_arguments: Measured | None
    """Argument names that the tool's schema has not, over arguments of calls of offered tools."""
    schema_errors: Measured | None
    """Calls that do not fit their tool's schema, over calls of offered tools."""
    format_errors: Measured | None
    """Turns that are neither calls nor words, over turns."""
    relevance: Measured | None
    """Tasks with a call that parsed, over tasks whose solution has one."""
    irrelevance: Measured | None
    """Tasks without any call that parsed, over tasks whose solution has none."""
    error_recovery: Measured | None
    """Tasks that succeed, over tasks in which some call was answered with an error."""
    turns: Measured
    extra_calls: Measured | None
    """Calls beyond the number of gold calls, a task."""
    over_chained: Measured | None
    """Tasks with more calls than gold."""


def call_scores(
    facts: Sequence[EpisodeFacts],
    successes: Sequence[bool],
    *,
    task_ids: Sequence[str] | None = None,
    seed: int = 0,
) -> CallScores:
    """Return the figures of one evaluation; intervals take tasks as the unit.

    Args:
        facts: of the episodes.
        successes: the suite's verdicts, in the same order.
        task_ids: which episodes are trials of one task; None: each is a task of its own.
        seed: of the bootstrap behind `turns` and `extra_calls`.

    Raises:
        DataError: there is no episode, or not one verdict and id for each.

    Source: relevance and irrelevance, BFCL v1 and v2 (irrelevance: no call that decodes); precision,
    recall and F1 of names and arguments, Seal-Tools, arXiv:2405.08355; recovery and over-chaining, ours.
    """
    ids = [str(n) for n in range(len(facts))] if task_ids is None else task_ids
    if not facts or not len(facts) == len(successes) == len(ids):
        raise DataError(
            f"{len(facts)} episodes, {len(successes)} verdicts and {len(ids)} task ids make no figures. "
            "Score at least one task, and each episode once."
        )
    tasks: dict[str, list[tuple[EpisodeFacts, bool]]] = {}
    for task_id, fact, success in zip(ids, facts, successes, strict=True):
        tasks.setdefault(task_id, []).append((fact, success))
    trials = list(tasks.values())
    golds = [[(f, f.gold) for f, _ in task if f.gold is not None] for task in trials]

    def rate(part: _Count, whole: _Count) -> Measured | None:
        return share_of(
            [sum(part(f) for f, _ in task) for task in trials],
            [sum(whole(f) for f, _ in task) for task in trials],
        )

    def gold_rate(part: _GoldCount, whole: _GoldCount) -> Measured | None:
        return share_of(
            [sum(part(g) for _, g in task) for task in golds],
            [sum(whole(g) for _, g in task) for task in golds],
        )

    def of_kind(kind: str) -> Measured | None:
        return gold_rate(lambda g: _fields(g, kind)[0], lambda g: _fields(g, kind)[1])

    kinds = sorted({kind for task in golds for _, gold in task for kind in gold.fields})
    by_kind = {kind: of_kind(kind) for kind in kinds}
    whole_calls = [[(g.matched, f.made, g.wanted) for f, g in task] for task in golds]
    names = [[(g.named, f.made, g.wanted) for f, g in task] for task in golds]
    extra = [[max(0, f.made - g.wanted) for f, g in task] for task in golds if task]
    called = [[(f.made > f.malformed, g.wanted > 0) for f, g in task] for task in golds]
    return CallScores(
        episodes=len(facts),
        calls_micro=_micro(whole_calls),
        calls_macro=_macro(whole_calls),
        tools_micro=_micro(names),
        tools_macro=_macro(names),
        arguments=gold_rate(lambda g: _fields(g)[0], lambda g: _fields(g)[1]),
        arguments_by_kind={kind: found for kind, found in by_kind.items() if found is not None},
        invented_names=gold_rate(lambda g: g.names_invented, lambda g: g.names_made),
        missing_names=gold_rate(lambda g: g.names_missing, lambda g: g.names_wanted),
        hallucinated_tools=rate(lambda f: f.undeclared, lambda f: f.made - f.malformed),
        hallucinated_arguments=rate(lambda f: f.arguments_undeclared, lambda f: f.arguments),
        schema_errors=rate(lambda f: f.misfits, lambda f: f.made - f.malformed - f.undeclared),
        format_errors=rate(lambda f: f.format_errors, lambda f: f.turns),
        relevance=_mean([[did for did, due in task if due] for task in called]),
        irrelevance=_mean([[not did for did, due in task if not due] for task in called]),
        error_recovery=_mean(
            [[success for f, success in task if f.error_results] for task in trials]
        ),
        turns=bootstrap_mean([[f.turns for f, _ in task] for task in trials], seed=seed),
        extra_calls=bootstrap_mean(extra, seed=seed) if extra else None,
        over_chained=_mean([[n > 0 for n in task] for task in extra]),
    )


_Count = Callable[[EpisodeFacts], int]
_GoldCount = Callable[[GoldCounts], int]
_Trials = Sequence[Sequence[tuple[int, int, int]]]
"""For each task its trials: matched, made, wanted."""


def _fields(gold: GoldCounts, kind: str | None = None) -> tuple[int, int]:
    """Return the right values and gold's values."""
    counted = [counts for name, counts in gold.fields.items() if kind in (None, name)]
    right = sum(counts.right for counts in counted)
    return right, right + sum(counts.wrong + counts.missing for counts in counted)


def _micro(counts: _Trials) -> PrecisionRecall:
    right = [sum(matched for matched, _, _ in task) for task in counts]
    made = [sum(made for _, made, _ in task) for task in counts]
    wanted = [sum(wanted for _, _, wanted in task) for task in counts]
    both = [one + other for one, other in zip(made, wanted, strict=True)]
    return PrecisionRecall(
        precision=share_of(right, made),
        recall=share_of(right, wanted),
        f1=share_of([2 * n for n in right], both),
    )


def _macro(counts: _Trials) -> PrecisionRecall:
    return PrecisionRecall(
        precision=_mean([[right / made for right, made, _ in task if made] for task in counts]),
        recall=_mean([[right / wanted for right, _, wanted in task if wanted] for task in counts]),
        f1=_mean(
            [
                [2 * right / (made + wanted) for right, made, wanted in task if made + wanted]
                for task in counts
            ]
        ),
    )


def _mean(values: Sequence[Sequence[float]]) -> Measured | None:
    said = [task for task in values if task]
    return score_mean(said) if said else None
