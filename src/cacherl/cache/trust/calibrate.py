"""How far a cache's answers can be trusted, from its own recordings: the fit.

    every recorded call --left out, asked again--> tier, score, same or not --fit--> P(same)

Shares are smoothed by a Beta prior, from a tool to the pool of all tools under the same tier and
from the pool to one half; how strongly a tool is drawn to its pool is what makes the tools' counts
most likely (empirical Bayes). Where there is a match score, P rises with it (isotonic regression).
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cacherl.cache.lookup.hit import Scope
from cacherl.cache.lookup.settings import Compare, load_settings
from cacherl.cache.lookup.tool_cache import ToolCache
from cacherl.cache.storage.snapshot import is_snapshot
from cacherl.cache.storage.sqlite import Mode
from cacherl.cache.trust.fidelity import (
    Bin,
    Calibration,
    Estimate,
    Knots,
    Reliability,
    Suspect,
    Unit,
    keep_calibration,
)
from cacherl.cache.trust.leave_one_out import Outcome, outcomes_of_tool
from cacherl.cache.trust.suspects import on_shared_state, suspect_of
from cacherl.core.errors import CacheError, MissingExtraError
from cacherl.core.tools import Tier

PER_TOOL = 300
"""Calls asked of one tool: its share is then known to 6 points, its pool's better."""
CORPUS = 50_000
"""Entries of one tool to look among. Fewer make high scores rarer, not less true."""

_PRIOR_MEAN, _PRIOR_WEIGHT = 0.5, 1.0  # Jeffreys' prior of a share
_STRENGTHS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
_LONELY_STRENGTH = 8.0  # with one tool there is nothing to learn it from
_GRID = 9  # places of a curve where the prior stands
_POOL_CURVE_WEIGHT = 2.0
_FOLDS = 5
_BINS = 10
_Z = 1.959964
_SCORED = (Tier.FUZZY, Tier.BEST_EFFORT)


class OpenCache(Protocol):
    """Opens a cache by name (see `wiring.open_cache`)."""

    def __call__(self, name: str, *, mode: Mode = "read") -> ToolCache: ...


def calibrate(
    cache: ToolCache,
    *,
    made_at: float | None,
    unit: Unit = Unit.OBSERVATION,
    scope: Scope = Scope.GLOBAL,
    per_tool: int = PER_TOOL,
    corpus: int = CORPUS,
    seed: int = 0,
    on_tool: Callable[[int, int], None] | None = None,
) -> Calibration:
    """Ask a cache's recordings again, each as if it were not there, and return what came of it.

    What a calibration says holds for calls like the recorded ones. A policy's own calls are worse
    than an expert's, so their loose hits are right at most this often.

    Args:
        cache: the recordings; nothing is written.
        made_at: now, in seconds since 1970 UTC; None to leave it out.
        unit: what is left out with each call (see `Unit`).
        scope: what other scenarios' observations are worth, as in the rollouts to come.
        per_tool: the most calls asked of one tool.
        corpus: the most entries of one tool to look among.
        seed: of the choice, of the draws and of the folds.
        on_tool: told after each tool.

    Raises:
        MissingExtraError: scikit-learn is not installed.
        CacheError: nothing is recorded, or something was damaged.
    """
    _needs_sklearn()
    specs = cache.store.tools()
    if not specs:
        raise CacheError(
            f"{cache.name}: nothing is recorded, so there is nothing to calibrate. "
            "Record first: `cacherl import` or `cacherl run`."
        )
    stats = cache.stats()
    outcomes: list[Outcome] = []
    suspects: list[Suspect] = []
    shared_state = on_shared_state(cache.store)
    compare: dict[str, Compare] = {}
    for done, ((namespace, tool), declared) in enumerate(sorted(specs.items()), 1):
        spec = cache.effective(namespace, declared)
        rules = cache.rules(namespace, tool)
        outcomes += outcomes_of_tool(
            cache,
            namespace,
            spec,
            unit=unit,
            per_tool=per_tool,
            corpus=corpus,
            seed=seed,
            scope=scope,
        )
        entries = cache.store.by_tool(namespace, tool)
        suspect = suspect_of(namespace, spec, rules, entries, shared_state=shared_state)
        suspects += [suspect] if suspect else []
        compare[f"{namespace}/{tool}"] = rules.compare or Compare.JSON
        if on_tool is not None:
            on_tool(done, len(specs))
    answered: dict[Tier, float] = defaultdict(float)
    for outcome in outcomes:
        answered[outcome.tier if outcome.served else Tier.MISS] += outcome.weight
    stated = _stated_out_of_fold(outcomes, seed)
    return Calibration(
        made_at=made_at,
        cache=Path(cache.name).name,
        calls=stats.calls,
        observations=stats.observations,
        scenarios=stats.scenarios,
        unit=unit,
        seed=seed,
        per_tool=per_tool,
        compare=compare,
        asked=round(sum(answered.values())),
        answered={tier: round(answered[tier], 3) for tier in Tier if answered[tier]},
        estimates=estimates_of(outcomes),
        reliability=reliability_of(stated),
        by_tier={
            tier: found
            for tier in Tier
            if (found := reliability_of([each for each in stated if each.tier is tier]))
        },
        suspects=tuple(suspects),
    )


def calibrate_and_keep(
    cache: ToolCache,
    *,
    made_at: float | None,
    unit: Unit = Unit.OBSERVATION,
    scope: Scope = Scope.GLOBAL,
    per_tool: int = PER_TOOL,
    seed: int = 0,
    on_tool: Callable[[int, int], None] | None = None,
) -> Calibration:
    """Calibrate a cache that is open to write, and keep the result beside its recordings.

    Hits carry their fidelity once the cache is opened again.
    """
    found = calibrate(
        cache,
        made_at=made_at,
        unit=unit,
        scope=scope,
        per_tool=per_tool,
        seed=seed,
        on_tool=on_tool,
    )
    keep_calibration(cache.store, found)
    return found


def calibrate_named(
    name: str,
    *,
    open_cache: OpenCache,
    made_at: float | None,
    settings: Path | None = None,
    unit: Unit = Unit.OBSERVATION,
    per_tool: int = PER_TOOL,
    seed: int = 0,
) -> Calibration:
    """Calibrate a cache by its name and keep the result in it.

    Args:
        name: a file or a server's address.
        open_cache: opens it.
        made_at: now, in seconds since 1970 UTC; None to leave it out.
        settings: a settings file to look up by; None takes those kept in the cache.
        unit: what is left out with each call.
        per_tool: the most calls asked of one tool.
        seed: of the choice, of the draws and of the folds.

    Raises:
        CacheError: no such cache, a damaged or a frozen one, or nothing is recorded.
        RecipeError: the settings file is wrong.
        MissingExtraError: scikit-learn is not installed.
    """
    said = None if settings is None else load_settings(settings)
    if "://" not in name and is_snapshot(Path(name)):
        raise CacheError(
            f"{name}: a snapshot is frozen. Calibrate the cache that it was frozen from "
            f"(`cacherl cache calibrate CACHE`), then freeze it again (`cacherl cache freeze CACHE {name}`)."
        )
    open_cache(name).close()  # opened to write, a cache that is not there would be made
    with open_cache(name, mode="write") as opened:
        cache = opened
        if said is not None:
            cache = ToolCache(opened.store, name=opened.name, settings=said)
        return calibrate_and_keep(cache, made_at=made_at, unit=unit, per_tool=per_tool, seed=seed)


# ---- the fit


_Cell = tuple[Tier, bool, bool | None]
"""Tier, state matched, scenario matched (None: either)."""


def estimates_of(outcomes: Iterable[Outcome]) -> tuple[Estimate, ...]:
    """Return what the outcomes say of each tool under each tier, and of all tools together.

    Outcomes that would not have been served only shape the curves below the served scores.
    """
    cells: dict[_Cell, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.tier is not Tier.MISS:
            cells[outcome.tier, outcome.state_matched, outcome.scenario_matched].append(outcome)
            cells[outcome.tier, outcome.state_matched, None].append(outcome)
    found: list[Estimate] = []
    for cell in sorted(cells, key=lambda c: (c[0].rank, not c[1], str(c[2]))):
        found += _cell_estimates(cell, cells[cell])
    return tuple(found)


def _cell_estimates(cell: _Cell, outcomes: Sequence[Outcome]) -> list[Estimate]:
    counts = _Counts.of(outcomes)
    if counts.n == 0.0:
        return []
    pool_share = counts.smoothed(_PRIOR_MEAN, _PRIOR_WEIGHT)
    pool_knots = None
    if cell[0] in _SCORED:
        grid = _grid(outcomes)
        prior = Knots(scores=grid, shares=(pool_share,) * len(grid))
        pool_knots = _curve(outcomes, prior, _POOL_CURVE_WEIGHT)
    by_tool: dict[tuple[str, str], list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        by_tool[outcome.namespace, outcome.tool].append(outcome)
    expected = {
        name: pool_share if pool_knots is None else _mean_of(pool_knots, asked)
        for name, asked in by_tool.items()
    }
    strength = strength_of([(_Counts.of(asked), expected[name]) for name, asked in by_tool.items()])
    pool = _estimate(cell, "", "", counts, _PRIOR_MEAN, _PRIOR_WEIGHT, pool_knots)
    found = [pool]
    for (namespace, tool), asked in sorted(by_tool.items()):
        mine = _Counts.of(asked)
        if mine.n == 0.0:
            continue
        knots = None if pool_knots is None else _curve(asked, _thinned(pool_knots), strength)
        mean = expected[namespace, tool]
        found.append(_estimate(cell, namespace, tool, mine, mean, strength, knots))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Counts:
    n: float
    same: float

    @classmethod
    def of(cls, outcomes: Iterable[Outcome]) -> _Counts:
        served = [each for each in outcomes if each.served]
        return cls(
            n=math.fsum(each.weight for each in served),
            same=math.fsum(each.weight * each.same for each in served),
        )

    def smoothed(self, mean: float, weight: float) -> float:
        return (self.same + weight * mean) / (self.n + weight)


def _estimate(
    cell: _Cell,
    namespace: str,
    tool: str,
    counts: _Counts,
    mean: float,
    weight: float,
    knots: Knots | None,
) -> Estimate:
    tier, state_matched, scenario_matched = cell
    low, high = wilson(counts.same + weight * mean, counts.n + weight)
    return Estimate(
        namespace=namespace,
        tool=tool,
        tier=tier,
        state_matched=state_matched,
        scenario_matched=scenario_matched,
        n=round(counts.n, 3),
        same=round(counts.same, 3),
        fidelity=round(counts.smoothed(mean, weight), 6),
        low=round(low, 6),
        high=round(high, 6),
        knots=knots,
    )


def strength_of(tools: Sequence[tuple[_Counts, float]]) -> float:
    """Return how many pseudo observations of its pool each tool is given.

    The one of a few strengths under which the tools' counts are most likely (beta-binomial): small
    where tools differ, large where they are alike.
    """
    known = [(counts, mean) for counts, mean in tools if counts.n > 0.0]
    if len(known) < 2:
        return _LONELY_STRENGTH
    return max(_STRENGTHS, key=lambda strength: sum(_likelihood(strength, *each) for each in known))


def _likelihood(strength: float, counts: _Counts, mean: float) -> float:
    mean = min(max(mean, 1e-3), 1.0 - 1e-3)
    a, b = strength * mean, strength * (1.0 - mean)
    same, other = counts.same, counts.n - counts.same
    return _log_beta(a + same, b + max(other, 0.0)) - _log_beta(a, b)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def wilson(same: float, n: float) -> tuple[float, float]:
    """Return the 95 % Wilson interval of a share."""
    share = same / n
    spread = _Z * math.sqrt(share * (1.0 - share) / n + _Z**2 / (4.0 * n * n))
    middle = share + _Z**2 / (2.0 * n)
    scale = 1.0 + _Z**2 / n
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def _curve(outcomes: Sequence[Outcome], prior: Knots, weight: float) -> Knots:
    """Return P(same) by score: isotonic, with the prior's curve as `weight` observations among it."""
    isotonic = _needs_sklearn()(y_min=0.0, y_max=1.0, out_of_bounds="clip")
    scored = [(each.score, each.same, each.weight) for each in outcomes if each.score is not None]
    each_prior = weight / len(prior.scores)
    scored += [
        (score, share, each_prior) for score, share in zip(prior.scores, prior.shares, strict=True)
    ]
    scores, same, weights = zip(*scored, strict=True)
    isotonic.fit(scores, same, sample_weight=weights)
    found: dict[float, float] = {}
    for score, share in zip(isotonic.X_thresholds_, isotonic.y_thresholds_, strict=True):
        found[round(float(score), 6)] = round(min(max(float(share), 0.0), 1.0), 6)
    return Knots(scores=tuple(found), shares=tuple(found.values()))


def _grid(outcomes: Sequence[Outcome]) -> tuple[float, ...]:
    scores = sorted(each.score for each in outcomes if each.score is not None)
    places = {round(step * (len(scores) - 1) / (_GRID - 1)) for step in range(_GRID)}
    return tuple(sorted({scores[place] for place in places}))


def _thinned(knots: Knots) -> Knots:
    low, high = knots.scores[0], knots.scores[-1]
    grid = sorted({low + step * (high - low) / (_GRID - 1) for step in range(_GRID)})
    return Knots(scores=tuple(grid), shares=tuple(knots.at(score) for score in grid))


def _mean_of(knots: Knots, outcomes: Iterable[Outcome]) -> float:
    served = [each for each in outcomes if each.served and each.score is not None]
    total = math.fsum(each.weight for each in served)
    if total == 0.0:
        return _PRIOR_MEAN
    stated = math.fsum(
        each.weight * knots.at(each.score) for each in served if each.score is not None
    )
    return stated / total


# ---- does it hold?


@dataclass(frozen=True, slots=True, kw_only=True)
class Stated:
    """A fidelity that was stated, and what came of it."""

    tier: Tier
    fidelity: float
    same: float
    weight: float


def _stated_out_of_fold(outcomes: Sequence[Outcome], seed: int) -> list[Stated]:
    """Return for each served outcome what a calibration without its scenario would have stated."""
    folds: dict[int, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        folds[_fold(seed, outcome.scenario)].append(outcome)
    stated: list[Stated] = []
    for number, held in folds.items():
        rest = [each for other, fold in folds.items() if other != number for each in fold]
        found = _lookup(estimates_of(rest))
        for outcome in held:
            fidelity = found(outcome)
            if fidelity is not None:
                stated.append(
                    Stated(
                        tier=outcome.tier,
                        fidelity=fidelity,
                        same=outcome.same,
                        weight=outcome.weight,
                    )
                )
    return stated


def _fold(seed: int, scenario: str) -> int:
    said = f"{seed}\0{scenario}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(said, digest_size=8).digest(), "big") % _FOLDS


def _lookup(estimates: tuple[Estimate, ...]) -> Callable[[Outcome], float | None]:
    probe = Calibration(
        made_at=0.0,
        cache="",
        calls=0,
        observations=0,
        scenarios=0,
        unit=Unit.OBSERVATION,
        seed=0,
        per_tool=0,
        asked=0,
        answered={},
        estimates=estimates,
    )

    def fidelity(outcome: Outcome) -> float | None:
        if not outcome.served or outcome.tier is Tier.MISS:
            return None
        return probe.fidelity(
            outcome.namespace,
            outcome.tool,
            outcome.tier,
            outcome.score,
            outcome.state_matched,
            outcome.scenario_matched,
        )

    return fidelity


def reliability_of(stated: Sequence[Stated]) -> Reliability | None:
    """Return whether stated fidelities hold, or None where none was stated."""
    if not stated:
        return None
    bins: dict[int, list[Stated]] = defaultdict(list)
    for each in stated:
        bins[min(int(each.fidelity * _BINS), _BINS - 1)].append(each)
    found = []
    for place in sorted(bins):
        n = math.fsum(each.weight for each in bins[place])
        found.append(
            Bin(
                low=place / _BINS,
                high=(place + 1) / _BINS,
                n=round(n, 3),
                stated=round(math.fsum(e.weight * e.fidelity for e in bins[place]) / n, 6),
                observed=round(math.fsum(e.weight * e.same for e in bins[place]) / n, 6),
            )
        )
    total = math.fsum(each.n for each in found)
    error = math.fsum(each.n * abs(each.stated - each.observed) for each in found) / total
    return Reliability(n=round(total, 3), folds=_FOLDS, error=round(error, 6), bins=tuple(found))


def _needs_sklearn() -> Callable[..., Any]:
    try:
        from sklearn.isotonic import IsotonicRegression
    except ImportError as error:
        raise MissingExtraError("scikit-learn", "calibrate") from error
    isotonic: Callable[..., Any] = IsotonicRegression
    return isotonic
