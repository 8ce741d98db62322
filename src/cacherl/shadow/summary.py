"""What the lines of a shadow run say together: pure, from records alone."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

from cacherl.cache.lookup.settings import Compare
from cacherl.cache.storage.entry import Observation
from cacherl.cache.trust.calibrate import Stated, reliability_of
from cacherl.cache.trust.compare import agreement
from cacherl.cache.trust.fidelity import Bin
from cacherl.core.messages import ToolCall
from cacherl.core.records import JsonObject, Record
from cacherl.core.tasks import Split
from cacherl.core.tools import Source, Tier, ToolResult
from cacherl.metrics import LOOSE
from cacherl.metrics.comparison import Comparison, compare
from cacherl.metrics.intervals import Measured, share_of
from cacherl.shadow.compared import (
    HITS,
    Compared,
    Fate,
    Said,
    Serve,
    Why,
    changes_before,
    fate,
    why_wrong,
)
from cacherl.shadow.divergence import Cause, Divergence, SameResult, divergence, shown_tier
from cacherl.shadow.rows import Leg, Outage, ShadowPlan

VERDICTS = ("success", "end_to_end")
"""What counts as the verdict of an episode: the first of these that it has."""
EXAMPLES = 12


class HitGroup(Record, frozen=True, kw_only=True, omit_defaults=True):
    """Hits of one kind, held against what the world says after the same calls."""

    tier: Tier | None = None
    """None for all tiers together; an answer from another state counts as a best effort."""
    tool: str = ""
    band: str = ""
    """The match scores, such as `0.8-0.9`."""
    split: str = ""
    hits: int
    wrong: float
    """Fractions where results are compared by their fields."""
    wrong_share: Measured | None
    """Wilson's interval, with as many calls as the spread between tasks is worth."""
    stated: float | None = None
    """Mean fidelity stated of the hits that have one."""
    stated_hits: int = 0
    observed: float | None = None
    """Of these hits, the share that was right."""


class Reliable(Record, frozen=True, kw_only=True):
    """Whether what was stated came true."""

    tier: Tier | None
    """None for all tiers together."""
    n: int
    error: float
    """The expected calibration error: mean |stated - observed| over bins, weighted by hits."""
    bins: tuple[Bin, ...]


class WrongHit(Record, frozen=True, kw_only=True, omit_defaults=True):
    """One hit that the world contradicts."""

    task_id: str
    trial: int
    call: int
    """Its place among the episode's calls that reached a tool, from 0."""
    tool: str
    arguments: JsonObject
    tier: Tier
    fidelity: float | None = None
    score: float | None = None
    cached: Said
    live: Said
    why: Why | None = None
    """For an EXACT answer: what explains it."""
    changed_before: tuple[str, ...] = ()
    """Tools that had changed the world before it, the last first."""
    key: str | None = None


class Steps(Record, frozen=True, kw_only=True):
    """Step by step: every call of the episodes that one side served, put to the other as well."""

    episodes: int
    tasks: int
    calls: int
    fates: dict[Fate, int]
    """Every fate named; adds up to `calls`."""
    tiers: dict[Tier, int]
    """Calls by what the cache had for them; adds up to `calls`."""
    answered: Measured | None
    """The share of calls that the cache had an answer for, at any tier."""
    by_tier: tuple[HitGroup, ...]
    """The last is all tiers together. Like the groups below, of hits that can be told right from wrong."""
    by_tool: tuple[HitGroup, ...]
    """By tool and tier."""
    by_band: tuple[HitGroup, ...]
    """By tier and match score, for loose tiers."""
    by_split: tuple[HitGroup, ...]
    """By split and tier."""
    after_parting: dict[Tier, tuple[int, float]]
    """By tier: hits once the two sides stood in different states, and how many were wrong."""
    parted: int
    """Episodes that ended in different states."""
    reliability: tuple[Reliable, ...]
    exact_wrong: tuple[WrongHit, ...]
    """Every one. There should be none that is not explained."""
    unsaid_writers: dict[str, int]
    """Tools declared to write nothing, after whose calls the world was another: how often."""
    failures: dict[str, int]
    """Why the world had no answer."""

    @property
    def unexplained(self) -> tuple[WrongHit, ...]:
        """EXACT answers that are wrong without an explanation: mistakes in declared effects."""
        return tuple(each for each in self.exact_wrong if each.why is Why.EFFECTS)


class Cost(Record, frozen=True, kw_only=True):
    """What followed where the first observation that differed came of one tier."""

    tier: Tier
    pairs: int
    diverged: int
    """Behaved differently after it."""
    verdict_changed: int
    lost: int
    """Right in the world and wrong on the cache."""
    won: int
    """The other way round."""


class Pair(Record, frozen=True, kw_only=True):
    """One policy, task and seed on both sides."""

    task_id: str
    trial: int
    family: str
    divergence: Divergence
    met_loose: bool
    """The cache answered loosely, from another state, or not at all."""
    cached_verdict: bool | None
    live_verdict: bool | None
    """None where the task has nothing to judge by."""

    @property
    def verdict_changed(self) -> bool:
        """Whether the verdicts differ after behaviour did, because of an observation."""
        return self.divergence.diverged and self.cached_verdict != self.live_verdict


class Funnel(Record, frozen=True, kw_only=True):
    """From a loose answer to another verdict, in episodes. Each holds the next, but for `met_loose`."""

    pairs: int
    met_loose: int
    differed: int
    """Saw an observation that the world would not have given."""
    differed_exact: int
    """Of these, where it was an EXACT answer."""
    diverged: int
    """Behaved differently after it."""
    verdict_changed: int
    wording: int
    """Behaved differently after observations that said the same in other bytes."""
    noise: int
    """Behaved differently before anything differed: sampling. 0 for a deterministic policy."""


class Pairs(Record, frozen=True, kw_only=True):
    """Whole episodes on the cache against whole episodes on the world."""

    funnel: Funnel
    by_tier: tuple[Cost, ...]
    metrics: dict[str, Comparison]
    """By metric: on the world (a), on the cache (b), and the difference, task by task."""
    examples: tuple[Pair, ...]
    """The first few that differed, those whose verdict changed first."""


class ShadowSummary(Record, frozen=True, kw_only=True):
    """What a shadow run says."""

    plan: ShadowPlan
    cached: Steps | None
    """Episodes on the cache, the world beside: how true the cache was on the policy's own path."""
    live: Steps | None
    """Episodes on the world, the cache beside: what the cache has on the path the policy really takes."""
    pairs: Pairs | None
    believed: dict[str, Comparison]
    """Episodes on the cache by metric: in the world (a) and as the cache alone can tell (b), which is what
    training is rewarded by."""
    wrong_examples: tuple[WrongHit, ...]
    """A few loose hits that were wrong, those stated surest first."""
    outages: int

    @property
    def unexplained(self) -> int:
        """EXACT answers without an excuse, on both sides."""
        return sum(len(each.unexplained) for each in (self.cached, self.live) if each)


def summarise(
    plan: ShadowPlan,
    legs: Iterable[Leg],
    *,
    outages: Sequence[Outage] = (),
    same: SameResult | None = None,
    seed: int = 0,
) -> ShadowSummary:
    """Return what episodes say together. Same episodes, same summary, in whatever order they came.

    Args:
        plan: what they are of.
        legs: the episodes.
        outages: those that could not be played.
        same: how the cache compares answers, for pairs; JSON values unless told.
        seed: of resampling.
    """
    every = sorted(legs, key=lambda leg: (leg.task_id, leg.trial, leg.serve))
    sides = {side: [leg for leg in every if leg.serve is side] for side in Serve}
    pairs = paired(sides[Serve.CACHED], sides[Serve.LIVE], same or same_json)
    followed = [leg for leg in sides[Serve.CACHED] if leg.world]
    return ShadowSummary(
        plan=plan,
        cached=steps_of(sides[Serve.CACHED]) if sides[Serve.CACHED] else None,
        live=steps_of(sides[Serve.LIVE]) if sides[Serve.LIVE] else None,
        pairs=_pairs(pairs, sides, seed) if pairs else None,
        believed=_compared(
            {_id(leg): leg.world for leg in followed},
            {_id(leg): leg.metrics for leg in followed},
            seed,
        ),
        wrong_examples=_examples(every),
        outages=len(outages),
    )


def same_json(call: ToolCall, one: ToolResult, other: ToolResult) -> float:
    """Compare answers as a cache without settings does."""
    return agreement(_observed(one), _observed(other), Compare.JSON)


def _observed(result: ToolResult) -> Observation:
    return Observation(
        text=result.text,
        is_error=result.is_error,
        source=Source.LIVE,
        scenario="",
        split=Split.TRAIN,
    )


# ---- step by step ----------------------------------------------------------------------------

_Call = tuple[Leg, int, Compared]


def steps_of(legs: Sequence[Leg]) -> Steps:
    """Return what the calls of episodes of one side say."""
    every: list[_Call] = [
        (leg, place, each) for leg in legs for place, each in enumerate(leg.compared)
    ]
    fates: Counter[Fate] = Counter(fate(each) for _, _, each in every)
    tiers = Counter(_tier(each) for _, _, each in every)
    told = [call for call in every if fate(call[2]) in (Fate.RIGHT, Fate.WRONG)]
    parted: dict[Tier, tuple[int, float]] = {}
    for _, _, each in every:
        if fate(each) is Fate.AFTER_PARTING:
            hits, wrong = parted.get(_tier(each), (0, 0.0))
            parted[_tier(each)] = hits + 1, wrong + _wrong(each)
    unsaid = Counter(each.tool for _, _, each in every if each.changed and not each.writes)
    failures = Counter(each.failure for _, _, each in every if each.failure)
    return Steps(
        episodes=len(legs),
        tasks=len({leg.task_id for leg in legs}),
        calls=len(every),
        fates={each: fates[each] for each in Fate},
        tiers={tier: tiers[tier] for tier in Tier if tiers[tier]},
        answered=_share(every, lambda each: float(each.tier in HITS)),
        by_tier=(
            *_groups(told, lambda c: (_tier(c[2]), "", "", "")),
            _group(told, (None, "", "", "")),
        ),
        by_tool=_groups(told, lambda c: (_tier(c[2]), c[2].tool, "", "")),
        by_band=_groups(
            [call for call in told if call[2].score is not None],
            lambda c: (_tier(c[2]), "", band(c[2].score or 0.0), ""),
        ),
        by_split=_groups(told, lambda c: (_tier(c[2]), "", "", c[0].split.value)),
        after_parting=dict(sorted(parted.items(), key=lambda kv: kv[0].rank)),
        parted=sum(bool(leg.parted) for leg in legs),
        reliability=_reliability(told),
        exact_wrong=tuple(
            wrong_hit(*call)
            for call in told
            if fate(call[2]) is Fate.WRONG and call[2].tier is Tier.EXACT
        ),
        unsaid_writers=dict(sorted(unsaid.items())),
        failures=dict(sorted(failures.items())),
    )


def band(score: float) -> str:
    """Return the tenth that a match score in [0, 1] lies in; 1 has one of its own."""
    if score >= 1.0:
        return "1.0"
    low = math.floor(max(score, 0.0) * 10 + 1e-9)
    return f"{low / 10:.1f}-{(low + 1) / 10:.1f}"


def wrong_hit(leg: Leg, place: int, each: Compared) -> WrongHit:
    """Return a hit that the world contradicts, with what may explain it."""
    nothing = Said(text="")
    return WrongHit(
        task_id=leg.task_id,
        trial=leg.trial,
        call=place,
        tool=each.tool,
        arguments=each.arguments,
        tier=_tier(each),
        fidelity=each.fidelity,
        score=each.score,
        cached=each.cached or nothing,
        live=each.live or nothing,
        why=why_wrong(leg.compared, place) if each.tier is Tier.EXACT else None,
        changed_before=changes_before(leg.compared, place),
        key=each.key,
    )


def _tier(each: Compared) -> Tier:
    return shown_tier(each.tier, each.state_matched)


def _wrong(each: Compared) -> float:
    return 1.0 - (each.same or 0.0)


_Name = tuple[Tier | None, str, str, str]


def _groups(calls: Sequence[_Call], name: Callable[[_Call], _Name]) -> tuple[HitGroup, ...]:
    found: dict[_Name, list[_Call]] = defaultdict(list)
    for call in calls:
        found[name(call)].append(call)

    def order(each: _Name) -> tuple[str, str, int, str]:
        tier, tool, band_, split = each
        return split, tool, -1 if tier is None else tier.rank, band_

    return tuple(_group(found[each], each) for each in sorted(found, key=order))


def _group(calls: Sequence[_Call], name: _Name) -> HitGroup:
    tier, tool, band_, split = name
    stated = [(each.fidelity, each) for _, _, each in calls if each.fidelity is not None]
    known = len(stated)
    return HitGroup(
        tier=tier,
        tool=tool,
        band=band_,
        split=split,
        hits=len(calls),
        wrong=round(math.fsum(_wrong(each) for _, _, each in calls), 9),
        wrong_share=_share(calls, _wrong),
        stated=math.fsum(fidelity for fidelity, _ in stated) / known if known else None,
        stated_hits=known,
        observed=1 - math.fsum(_wrong(each) for _, each in stated) / known if known else None,
    )


def _share(calls: Sequence[_Call], part: Callable[[Compared], float]) -> Measured | None:
    """Return a share of calls with its interval; the calls of one task stand or fall together."""
    parts: dict[str, float] = defaultdict(float)
    wholes: Counter[str] = Counter()
    for leg, _, each in calls:
        parts[leg.task_id] += part(each)
        wholes[leg.task_id] += 1
    tasks = sorted(wholes)
    # Sums of fractions may pass the whole by a rounding error.
    return share_of(
        [min(parts[task], wholes[task]) for task in tasks], [wholes[task] for task in tasks]
    )


def _reliability(calls: Sequence[_Call]) -> tuple[Reliable, ...]:
    stated = [
        Stated(tier=_tier(each), fidelity=each.fidelity, same=each.same or 0.0, weight=1.0)
        for _, _, each in calls
        if each.fidelity is not None
    ]
    found = []
    for tier in (None, *(tier for tier in Tier if tier in HITS)):
        chosen = [each for each in stated if tier in (None, each.tier)]
        measured = reliability_of(chosen)
        if measured is not None:
            found.append(
                Reliable(tier=tier, n=len(chosen), error=measured.error, bins=measured.bins)
            )
    return tuple(found)


def _examples(legs: Sequence[Leg]) -> tuple[WrongHit, ...]:
    found = [
        wrong_hit(leg, place, each)
        for leg in legs
        for place, each in enumerate(leg.compared)
        if fate(each) is Fate.WRONG and each.tier is not Tier.EXACT
    ]
    # The surest mistakes first, and of each tool and tier a few: they are the ones to learn from.
    found.sort(key=lambda hit: (-(hit.fidelity or 0.0), -(hit.score or 0.0), hit.tool, hit.task_id))
    shown: Counter[tuple[str, Tier]] = Counter()
    chosen: list[WrongHit] = []
    for hit in found:
        shown[hit.tool, hit.tier] += 1
        if shown[hit.tool, hit.tier] <= 2 and len(chosen) < EXAMPLES:
            chosen.append(hit)
    return tuple(chosen)


# ---- in pairs --------------------------------------------------------------------------------


def paired(cached: Sequence[Leg], live: Sequence[Leg], same: SameResult) -> list[Pair]:
    """Return the pairs of episodes that both sides have."""
    there = {_id(leg): leg for leg in live}
    return [
        Pair(
            task_id=ours.task_id,
            trial=ours.trial,
            family=ours.family,
            divergence=divergence(ours.trajectory, theirs.trajectory, same),
            met_loose=any(
                shown_tier(result.tier, result.state_matched) in LOOSE
                for result in ours.trajectory.results
            ),
            cached_verdict=_verdict(ours),
            live_verdict=_verdict(theirs),
        )
        for ours in cached
        if (theirs := there.get(_id(ours))) is not None
    ]


def _id(leg: Leg) -> tuple[str, int]:
    return leg.task_id, leg.trial


def _verdict(leg: Leg) -> bool | None:
    """Return the verdict in the world where it is known: what was really achieved."""
    for values in (leg.world, leg.metrics):
        for name in VERDICTS:
            if name in values:
                return values[name] == 1.0
    return None


def _pairs(pairs: Sequence[Pair], sides: dict[Serve, list[Leg]], seed: int) -> Pairs:
    differed = [pair for pair in pairs if pair.divergence.first is not None]
    by_tier: dict[Tier, list[Pair]] = defaultdict(list)
    for pair in differed:
        if (first := pair.divergence.first) is not None:
            by_tier[first.tier].append(pair)
    causes = Counter(pair.divergence.cause for pair in pairs)
    ids = {(pair.task_id, pair.trial) for pair in pairs}
    shown = sorted(
        differed,
        key=lambda p: (not p.verdict_changed, not p.divergence.diverged, p.task_id, p.trial),
    )
    return Pairs(
        funnel=Funnel(
            pairs=len(pairs),
            met_loose=sum(pair.met_loose for pair in pairs),
            differed=len(differed),
            differed_exact=len(by_tier[Tier.EXACT]),
            diverged=sum(pair.divergence.diverged for pair in pairs),
            verdict_changed=sum(pair.verdict_changed for pair in pairs),
            wording=causes[Cause.WORDING],
            noise=causes[Cause.NOISE],
        ),
        by_tier=tuple(_cost(tier, by_tier[tier]) for tier in Tier if by_tier[tier]),
        metrics=_compared(
            {_id(leg): leg.world or leg.metrics for leg in sides[Serve.LIVE] if _id(leg) in ids},
            {_id(leg): leg.world or leg.metrics for leg in sides[Serve.CACHED] if _id(leg) in ids},
            seed,
        ),
        examples=tuple(shown[:EXAMPLES]),
    )


def _cost(tier: Tier, pairs: Sequence[Pair]) -> Cost:
    changed = [pair for pair in pairs if pair.verdict_changed]
    return Cost(
        tier=tier,
        pairs=len(pairs),
        diverged=sum(pair.divergence.diverged for pair in pairs),
        verdict_changed=len(changed),
        lost=sum(bool(pair.live_verdict) for pair in changed),
        won=sum(bool(pair.cached_verdict) for pair in changed),
    )


def _compared(
    a: dict[tuple[str, int], dict[str, float]],
    b: dict[tuple[str, int], dict[str, float]],
    seed: int,
) -> dict[str, Comparison]:
    """Return, by metric that every episode of both has, the paired comparison by task."""
    shared = sorted(a.keys() & b.keys())
    if not shared:
        return {}
    names = set.intersection(*(set(values[each]) for values in (a, b) for each in shared))
    found = {}
    for name in sorted(names):
        tasks = [list(group) for _, group in groupby(shared, key=lambda each: each[0])]
        found[name] = compare(
            [[a[each][name] for each in task] for task in tasks],
            [[b[each][name] for each in task] for task in tasks],
            seed=seed,
        )
    return found
