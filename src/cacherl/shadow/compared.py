"""What the cache and the world said to one call, and what that says of the cache."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence

from cacherl.cache.lookup.settings import Compare
from cacherl.cache.lookup.tool_cache import ToolCache
from cacherl.cache.storage.entry import Observation
from cacherl.cache.trust.compare import agreement
from cacherl.core.messages import ToolCall
from cacherl.core.records import JsonObject, Record
from cacherl.core.tasks import Split
from cacherl.core.tools import Source, Tier, ToolResult

HITS = frozenset({Tier.EXACT, Tier.FUZZY, Tier.BEST_EFFORT})


class Serve(enum.StrEnum):
    """Whose answers the policy sees."""

    CACHED = "cached"
    LIVE = "live"


class Said(Record, frozen=True, kw_only=True, omit_defaults=True):
    """One side's answer."""

    text: str
    is_error: bool = False


class Compared(Record, frozen=True, kw_only=True, omit_defaults=True):
    """One call, put to both sides after the same earlier calls."""

    tool: str
    arguments: JsonObject
    tier: Tier
    """Of the cache's answer."""
    cached: Said | None = None
    """None where the world served and nothing was recorded: nobody answers such a call then."""
    live: Said | None = None
    """None where the world was not asked, or failed."""
    same: float | None = None
    """How far the two say the same, in [0, 1], by the cache's own comparator; None where the cache had no
    hit or the world no answer."""
    fidelity: float | None = None
    """What the cache stated of its answer."""
    score: float | None = None
    state_matched: bool = True
    scenario_matched: bool = True
    alternatives: int = 0
    """Other answers recorded of this very call in one scenario."""
    key: str | None = None
    writes: bool = False
    """By declaration."""
    ages: bool = False
    """By declaration: what it reads changes by itself."""
    changed: bool | None = None
    """Whether the world's fingerprint changed with the call; None where it has none."""
    parted: str = ""
    """Why cache and world no longer stood in the same state when the call was made; empty while they did."""
    failure: str = ""
    """Why the world has no answer: infrastructure, never a wrong hit."""


class Fate(enum.StrEnum):
    """What became of one call. Every call has exactly one."""

    RIGHT = "right"
    """A hit that said what the world says."""
    WRONG = "wrong"
    """A hit that said something else."""
    MISSED = "missed"
    """Nothing recorded was served."""
    AFTER_PARTING = "after parting"
    """A hit, once cache and world stood in different states: a consequence, not a fault of its own."""
    NOT_COMPARED = "not compared"
    """The world had no answer, or the cache ran a tool itself."""


def fate(each: Compared) -> Fate:
    """Return what became of a call."""
    if each.tier is Tier.MISS:
        return Fate.MISSED
    if each.tier not in HITS or each.same is None:
        return Fate.NOT_COMPARED
    if each.parted:
        return Fate.AFTER_PARTING
    return Fate.RIGHT if each.same == 1.0 else Fate.WRONG


class Why(enum.StrEnum):
    """What explains an EXACT answer that was wrong."""

    EFFECTS = "effects"
    """Nothing else does: what the tools declare to read and write is wrong."""
    SCENARIO = "scenario"
    """It was recorded in another scenario, whose data differ."""
    UNSTEADY = "unsteady"
    """The tool was recorded answering this very call in several ways, and nothing had changed the world."""
    AGES = "ages"
    """The tool is declared open-world: its answers age."""


WHY = {
    Why.EFFECTS: "effects are declared wrong, or the tool is not deterministic",
    Why.SCENARIO: "recorded in another scenario: scenarios have data of their own",
    Why.UNSTEADY: "the tool was recorded answering this call in several ways, with nothing changed before",
    Why.AGES: "the tool is open-world: what was recorded has aged",
}


def why_wrong(calls: Sequence[Compared], place: int) -> Why:
    """Return what explains the wrong EXACT answer of a call of an episode, as far as the episode tells.

    Several recorded answers are no excuse once something has changed the world: recordings made before
    and after a change contradict one another for the very reason that a tool conceals what it reads.
    """
    each = calls[place]
    if not each.scenario_matched:
        return Why.SCENARIO
    if each.ages:
        return Why.AGES
    if each.alternatives and not changes_before(calls, place):
        return Why.UNSTEADY
    return Why.EFFECTS


def changes_before(calls: Sequence[Compared], place: int) -> tuple[str, ...]:
    """Return the tools that had changed the world before a call, the last first: who may have been forgotten.

    In a world that shows no state, those that are declared to write.
    """
    changed = [
        each.tool
        for each in calls[:place]
        if each.changed or (each.changed is None and each.writes)
    ]
    return tuple(dict.fromkeys(reversed(changed)))


Sameness = Callable[[str, ToolCall, ToolResult, ToolResult], float]
"""(namespace, call, one answer, another) -> how far they say the same, in [0, 1]."""


def sameness(cache: ToolCache) -> Sameness:
    """Return how a cache compares answers: by its settings, after its redaction.

    As calibration does it, so that stated and observed fidelity mean the same.
    """

    def same(namespace: str, call: ToolCall, one: ToolResult, other: ToolResult) -> float:
        rules = cache.rules(namespace, call.name)
        return agreement(
            _observed(cache, call, one),
            _observed(cache, call, other),
            rules.compare or Compare.JSON,
            rules.volatile_paths,
        )

    return same


def _observed(cache: ToolCache, call: ToolCall, result: ToolResult) -> Observation:
    text = result.text
    if cache.redactor is not None:
        text = cache.redactor.text(text, echoing=call.arguments)
    return Observation(
        text=text,
        is_error=result.is_error,
        source=result.source or Source.LIVE,
        scenario="",
        split=Split.TRAIN,
    )
