"""What a lookup is asked with and what it says."""

from __future__ import annotations

import enum

import msgspec

from cacherl.cache.storage.entry import Observation
from cacherl.core.records import Record
from cacherl.core.tasks import Split
from cacherl.core.tools import Source, Tier

EVERY_SPLIT = frozenset(Split)


class Scope(enum.StrEnum):
    """What an observation from another scenario (another world instance) is worth."""

    GLOBAL = "global"
    """All scenarios stand on the same data: as good as one's own, unless they contradict one another."""
    SCENARIO = "scenario"
    """Each scenario has data of its own: never EXACT or FUZZY, at most BEST_EFFORT in another state."""


class Viewpoint(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Who asks: what may be seen, and what is preferred."""

    scenario: str | None = None
    """Observations of this scenario come first."""
    splits: frozenset[Split] = EVERY_SPLIT
    """Observations of other splits do not exist, under any tier."""
    scope: Scope = Scope.GLOBAL
    sources: frozenset[Source] | None = None
    """Observations of other sources do not exist either; None sees all."""
    exclude_scenarios: frozenset[str] = frozenset()
    """Observations of these scenarios do not exist."""
    fuzzy_min_score: float | None = None
    """In [0, 1]; None takes the tool's own, else `match.FUZZY_MIN_SCORE`."""
    best_effort_min_score: float | None = None
    """In [0, 1]; None takes the tool's own, else `match.BEST_EFFORT_MIN_SCORE`."""
    now: float | None = None
    """Seconds since 1970 UTC, for tools whose answers age; None asks the clock."""


EVERYTHING_VISIBLE = Viewpoint()


class Hit(Record, frozen=True, kw_only=True, gc=False):
    """What a lookup found."""

    tier: Tier
    """EXACT, FUZZY, BEST_EFFORT or MISS."""
    key: str | None = None
    """The entry that answers (hex); the key that was asked for on a MISS."""
    observation: Observation | None = None
    """None on a MISS."""
    fidelity: float | None = None
    """Calibrated P(the live tool would say the same), in [0, 1]; None where nobody measured it."""
    score: float | None = None
    """The match score of a loose tier."""
    state_matched: bool = True
    scenario_matched: bool = True
    """False when the answer comes from another scenario than the one asked for."""
    matched_arguments: str | None = None
    """The normal arguments of the recorded call, as canonical JSON."""
    fired: tuple[str, ...] = ()
    """Normalisation rules that rewrote the call, each with its place."""
    observations: int = 0
    """Observations to draw from, repeats included."""
    drawn: int = 0
    """Which of the entry's distinct observations answers, in recorded order."""
    alternatives: int = 0
    """Other answers that one scenario gave to this very call: the tool is not deterministic."""
    shared: float = 1.0
    """The chance that another rollout's same draw falls on the same observation, in (0, 1]."""


class Closest(Record, frozen=True, kw_only=True):
    """A recorded call near the one asked for."""

    key: str
    arguments: str
    score: float
    state_matched: bool
    differs: tuple[str, ...]
    """Paths of the arguments that differ."""
    not_fuzzy: str | None
    """Why it is no FUZZY match; None where only the state or an earlier tier stood in the way."""


class Explanation(Record, frozen=True, kw_only=True):
    """Why a lookup found what it found."""

    tool: str
    arguments: str
    """In normal form."""
    kinds: dict[str, str]
    """The kind of each parameter, as declared or inferred."""
    state: str
    hit: Hit
    other_states: int
    """Recordings of the same arguments in other states."""
    fuzzy_min_score: float
    best_effort_min_score: float
    max_age_s: float | None
    closest: tuple[Closest, ...]
