"""How the calls of one rollout were answered, and how much the rollouts of a group have in common."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

import msgspec

from cacherl.core.records import Record
from cacherl.core.tools import Tier, ToolResult, worst_tier

HIGH_COUPLING = 0.25
"""Above it, advantages divided by a group's standard deviation lean towards what the one recorded
answer says: four observations a call share a quarter of their draws."""


class MissPolicy(enum.StrEnum):
    """What a call is answered when nothing recorded may be served. Never silent: the ledger tells."""

    ERROR = "error"
    """A typed message that says so; tier MISS."""
    BEST_EFFORT = "best_effort"
    """The nearest recorded success of the tool, however far; reads only."""
    ACKNOWLEDGE = "acknowledge"
    """A success in the shape of the nearest recorded one, with this call's values; writes only."""
    LIVE = "live"
    """The tool itself, before any loose answer, where it may run (see `live.RecordMode`)."""


class LedgerRow(Record, frozen=True, kw_only=True, gc=False):
    """How one call was answered."""

    tool: str
    tier: Tier
    key: str | None
    """The entry that answered."""
    fidelity: float | None = None
    """Calibrated P(same result as the live tool); None where nobody measured it."""
    score: float | None
    state_matched: bool
    scenario_matched: bool
    is_error: bool
    observations: int
    """How many observations there were to draw from; 0 where nothing recorded answered."""
    drawn: int
    """Which distinct observation of the entry answered."""
    alternatives: int = 0
    """Other answers recorded of this very call in one scenario."""
    shared: float = 0.0
    """The chance that another rollout making this call gets the same observation."""
    policy: MissPolicy | None = None
    """The miss policy that answered, where one had to."""


class LedgerSummary(Record, frozen=True, kw_only=True):
    """One rollout's answers, counted."""

    calls: int
    tiers: dict[Tier, int]
    """Calls by tier; tiers that did not occur are absent."""
    worst: Tier
    """LIVE for no calls at all: nothing untrue was seen."""
    mean_fidelity: float | None
    """Over the calls whose fidelity is known; live answers count as 1. None where none is known."""
    min_fidelity: float | None
    errors: int
    state_mismatches: int
    policies: dict[MissPolicy, int]
    """Calls that a miss policy had to answer."""
    live_calls: int


class Ledger(Record, frozen=True, kw_only=True):
    """How the calls of one rollout were answered: what a reward may trust."""

    rows: tuple[LedgerRow, ...]
    live_calls: int = 0
    """How often this episode ran a tool itself. An answer shared with a concurrent call is LIVE too,
    and counts with the episode that asked first."""

    @property
    def worst(self) -> Tier:
        """The least trusted tier met."""
        return worst_tier([row.tier for row in self.rows])

    @property
    def counts(self) -> dict[Tier, int]:
        """Calls by tier, every tier named."""
        counted = Counter(row.tier for row in self.rows)
        return {tier: counted[tier] for tier in Tier}

    @property
    def state_mismatches(self) -> int:
        """Calls answered from another state than the episode's."""
        return sum(not row.state_matched for row in self.rows)

    @property
    def drawn(self) -> tuple[Drawn, ...]:
        """What the cache answered: `coupling` needs it of the whole group."""
        return tuple(
            Drawn(tool=row.tool, key=row.key, alternatives=row.alternatives, shared=row.shared)
            for row in self.rows
            if row.key is not None and row.shared > 0
        )

    def summary(self) -> LedgerSummary:
        """Count the rows."""
        known = [
            1.0 if row.tier is Tier.LIVE else row.fidelity
            for row in self.rows
            if row.tier is Tier.LIVE or row.fidelity is not None
        ]
        fidelities = [each for each in known if each is not None]
        return LedgerSummary(
            calls=len(self.rows),
            tiers={tier: count for tier, count in self.counts.items() if count},
            worst=self.worst,
            mean_fidelity=sum(fidelities) / len(fidelities) if fidelities else None,
            min_fidelity=min(fidelities, default=None),
            errors=sum(row.is_error for row in self.rows),
            state_mismatches=self.state_mismatches,
            policies=dict(Counter(row.policy for row in self.rows if row.policy is not None)),
            live_calls=self.live_calls,
        )


class Drawn(msgspec.Struct, frozen=True, kw_only=True):
    """One answer that a rollout got from the cache."""

    tool: str
    key: str
    alternatives: int
    shared: float


def drawn_of(results: Iterable[ToolResult]) -> tuple[Drawn, ...]:
    """Return what the cache answered in an episode, from its results alone."""
    return tuple(
        Drawn(
            tool=result.name,
            key=result.key,
            alternatives=result.alternatives,
            shared=result.shared,
        )
        for result in results
        if result.key is not None and result.shared > 0
    )


def unsteady(rollouts: Iterable[Sequence[Drawn]]) -> frozenset[str]:
    """Return the tools that were recorded answering one call in several ways in one scenario."""
    return frozenset(each.tool for rollout in rollouts for each in rollout if each.alternatives)


def coupling(group: Sequence[Sequence[Drawn]], tools: Collection[str] | None = None) -> float:
    """Return how much the recorded answers of a group's rollouts hang together, in [0, 1].

    The mean, over the answers of tools that are not deterministic, of the chance that another
    rollout of the group got the very same observation: 1 where one recording answers everybody,
    1/K where K do, 0 where each call was made by one rollout alone. Deterministic tools have no part
    in it: sharing their answers is harmless.

    A shared draw can flip the sign of advantages that are divided by the group's standard deviation:
    what one recording happened to say becomes what the call is worth.

    Args:
        group: what each rollout of one task drew (`Ledger.drawn`, `drawn_of`).
        tools: the tools that are not deterministic; None takes those the group shows to be so.

    Source: a two-action model, simulated in `tests/cache/test_draws.py`; docs/cache.md has the figures.
    """
    chosen = unsteady(group) if tools is None else tools
    askers = Counter(
        (tool, key)
        for rollout in group
        for tool, key in {(each.tool, each.key) for each in rollout if each.tool in chosen}
    )
    shares = [
        each.shared if askers[each.tool, each.key] > 1 else 0.0
        for rollout in group
        for each in rollout
        if each.tool in chosen
    ]
    return sum(shares) / len(shares) if shares else 0.0
