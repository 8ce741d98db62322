"""How often an answer like this one was what the live tool says: the stored record and its look-up.

Fitting it needs scikit-learn (`calibrate.py`); applying it needs nothing and costs less than a microsecond.
"""

from __future__ import annotations

import enum
import functools
from bisect import bisect_right

import msgspec

from cacherl.cache.lookup.settings import Compare
from cacherl.cache.storage.store import CacheStore
from cacherl.core.errors import CacheError
from cacherl.core.records import Record
from cacherl.core.tools import Tier

NOTE = "calibration"
"""The note of a store that holds it."""


class Unit(enum.StrEnum):
    """What is left out of the cache before a recorded call is asked again."""

    OBSERVATION = "observation"
    """The one observation. What is left is what a new episode of a recorded scenario meets, which is
    what rollouts in training are: other recordings of its scenario answer it first."""
    SCENARIO = "scenario"
    """Everything its scenario ever recorded. What is left is what an episode of a scenario that
    nobody recorded meets. Says nothing of answers from one's own scenario."""


class Knots(Record, frozen=True, kw_only=True):
    """A rising piecewise-linear curve, flat beyond its ends."""

    scores: tuple[float, ...]
    """Rising strictly; at least one."""
    shares: tuple[float, ...]
    """Never falling, in [0, 1]."""

    def at(self, score: float) -> float:
        """Return the curve's value at a score."""
        scores, shares = self.scores, self.shares
        place = bisect_right(scores, score)
        if place == 0:
            return shares[0]
        if place == len(scores):
            return shares[-1]
        left, low = scores[place - 1], shares[place - 1]
        return low + (shares[place] - low) * (score - left) / (scores[place] - left)


class Estimate(Record, frozen=True, kw_only=True, omit_defaults=True):
    """What was found for one tool, or for all tools, under one tier."""

    namespace: str = ""
    tool: str = ""
    """Empty for the pool of all tools, which stands in for tools that were never asked."""
    tier: Tier
    state_matched: bool = True
    scenario_matched: bool | None = None
    """Whether the answers came from the asker's own scenario; None for both together."""
    n: float
    """Recorded calls that this tier answered; a call is one however often its scenario made it."""
    same: float
    """Of these, how many got what the tool had really said; fractions where it could fall either
    way, or where results are compared by their fields."""
    fidelity: float
    """P(same result as live), smoothed, in [0, 1]."""
    low: float
    high: float
    """The 95 % Wilson interval of the smoothed counts. Calls of one scenario are not independent of
    one another, so it is rather too narrow than too wide."""
    knots: Knots | None = None
    """Fidelity by match score, for FUZZY and BEST_EFFORT."""


class Bin(Record, frozen=True, kw_only=True):
    """Answers whose stated fidelity lies in [low, high), the last bin with its upper end."""

    low: float
    high: float
    n: float
    stated: float
    """Mean of the stated fidelities."""
    observed: float
    """Share that was what the tool had really said."""


class Reliability(Record, frozen=True, kw_only=True):
    """Whether stated fidelities hold, on scenarios that had no part in fitting them."""

    n: float
    folds: int
    error: float
    """The expected calibration error: mean |stated - observed| over bins, weighted by n. Chance alone
    gives about 0.4 / sqrt(n of a bin) where answers are right half the time, less elsewhere."""
    bins: tuple[Bin, ...]
    """Without the empty ones."""


class Looks(enum.StrEnum):
    """What a tool that contradicts itself looks like, as far as recordings can tell."""

    VOLATILE = "volatile"
    """The answers differ in the same few fields every time."""
    STOCHASTIC = "stochastic"
    """Most calls that were repeated were answered in several ways."""
    EFFECTS = "effects"
    """Few repeated calls were: something changed in between that the tool does not say it reads."""
    UNCLEAR = "unclear"


class Suspect(Record, frozen=True, kw_only=True):
    """A tool whose recordings contradict its declared effects.

    The same scenario, arguments and state got different answers, though by declaration nothing that
    the tool reads had been written in between.
    """

    namespace: str
    tool: str
    contradicted: int
    """Calls (of one scenario, in one state) with different answers."""
    repeated: int
    """Calls that were recorded at least twice."""
    within_episode: bool
    """Whether an answer changed when one episode repeated its call."""
    reads: tuple[str, ...]
    """What the tool says it reads."""
    paths: tuple[str, ...]
    """Where the answers differ, the first few; `$` where one is no JSON."""
    arguments: str
    """Of one such call."""
    answers: tuple[str, str]
    """Two answers to it, cut."""
    looks: Looks
    advice: str


class Calibration(Record, frozen=True, kw_only=True, dict=True):
    """What a cache's own recordings say about how far its answers can be trusted."""

    version: int = 1
    made_at: float | None = None
    """Seconds since 1970 UTC; None where a run made it, so that equal recordings freeze to equal bytes."""
    cache: str
    """The name of the file it was made of."""
    calls: int
    observations: int
    scenarios: int
    """What that cache held."""
    unit: Unit
    seed: int
    per_tool: int
    """The most calls asked of one tool."""
    compare: dict[str, Compare] = {}
    """How results were compared, by `namespace/tool`."""
    asked: int
    """Recorded calls that were asked again."""
    answered: dict[Tier, float]
    """Of these, how many by each tier; MISS where nothing would have been served."""
    estimates: tuple[Estimate, ...]
    reliability: Reliability | None = None
    """None with less than two scenarios."""
    by_tier: dict[Tier, Reliability] = {}
    suspects: tuple[Suspect, ...] = ()

    @functools.cached_property
    def _found(self) -> dict[tuple[str, str, Tier, bool, bool | None], Estimate]:
        return {
            (each.namespace, each.tool, each.tier, each.state_matched, each.scenario_matched): each
            for each in self.estimates
        }

    def fidelity(
        self,
        namespace: str,
        tool: str,
        tier: Tier,
        score: float | None,
        state_matched: bool,
        scenario_matched: bool | None = None,
    ) -> float | None:
        """Return P(the live tool would say the same), in [0, 1], or None where nothing is known.

        A tool that was never asked gets what all tools together got under that tier. Falls with
        nothing but the score; a MISS has no fidelity, a live answer has 1.

        Args:
            namespace: the tool's.
            tool: its name.
            tier: how the answer was found.
            score: the match score of a loose tier.
            state_matched: whether it was recorded in the asker's state.
            scenario_matched: whether it was recorded in the asker's scenario; None where that is
                not told, which is answered for both together.
        """
        if tier is Tier.LIVE:
            return 1.0
        found = self._found.get((namespace, tool, tier, state_matched, scenario_matched))
        if found is None:
            found = self._found.get(("", "", tier, state_matched, scenario_matched))
            if found is None:
                return None
        if score is None or found.knots is None:
            return found.fidelity
        return found.knots.at(score)


def kept_calibration(store: CacheStore, *, name: str) -> Calibration | None:
    """Return the calibration kept in a store, or None.

    Raises:
        CacheError: what is kept is damaged, or of a version that this program does not know.
    """
    note = store.note(NOTE)
    if note is None:
        return None
    try:
        found = msgspec.json.decode(note, type=Calibration)
    except msgspec.DecodeError as error:
        raise CacheError(
            f"{name}: its calibration cannot be read ({error}). "
            f"Make it anew with `cacherl cache calibrate {name}`."
        ) from error
    if found.version != 1:
        raise CacheError(
            f"{name}: its calibration is of version {found.version}, and this cacherl knows version 1. "
            f"Upgrade cacherl, or make it anew with `cacherl cache calibrate {name}`."
        )
    return found


def drop_calibration(store: CacheStore) -> bool:
    """Forget the calibration of recordings that have changed; say whether there was one."""
    found = NOTE in store.notes()
    if found:
        store.drop_note(NOTE)
    return found


def keep_calibration(store: CacheStore, calibration: Calibration) -> None:
    """Keep a calibration beside the recordings, in place of the one before."""
    store.put_note(NOTE, msgspec.json.encode(calibration))
