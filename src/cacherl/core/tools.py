"""What a tool is, what it touches, what it answered and how far to trust that."""

from __future__ import annotations

import enum
from typing import Protocol

from cacherl.core.messages import ToolCall
from cacherl.core.records import JsonObject, Record


class Tier(enum.StrEnum):
    """How an answer was found, best first. The order is the order of trust."""

    LIVE = "live"
    """The tool itself ran."""
    EXACT = "exact"
    """The same call, after schema normalisation, in the same state, was recorded."""
    FUZZY = "fuzzy"
    """All identity fields agree; only free text differs, within the guards."""
    BEST_EFFORT = "best_effort"
    """The nearest recorded call of the same tool; some identity field or the state differs."""
    MISS = "miss"
    """Nothing recorded was served; the miss policy answered."""

    @property
    def rank(self) -> int:
        """0 for the most trusted tier, rising as trust falls."""
        return list(Tier).index(self)


def worst_tier(tiers: list[Tier]) -> Tier:
    """Return the least trusted tier, or LIVE for no calls at all (nothing untrue was seen)."""
    return max(tiers, key=lambda tier: tier.rank, default=Tier.LIVE)


class ErrorClass(enum.StrEnum):
    """Why a tool failed. Only transient failures must never be replayed."""

    VALIDATION = "validation"
    NOT_FOUND = "not_found"
    PERMISSION = "permission"
    """The tool understood and refused: a policy or a precondition."""
    TRANSIENT = "transient"
    """Time-outs, rate limits, lost connections: says nothing about the call."""
    UNKNOWN = "unknown"


class Source(enum.StrEnum):
    """Who produced an observation."""

    LIVE = "live"
    IMPORTED = "imported"
    """Read from somebody else's trajectories; live there, as far as we know."""
    TEACHER = "teacher"
    """Written by a large model that played the tool."""
    SIMULATED = "simulated"
    LOOP = "loop"
    """The agent loop itself refused the call (malformed, unknown tool, invalid arguments). It does so
    before any tool, live or cached, so the answer is the same in both and its tier is EXACT."""


class Effects(Record, frozen=True, kw_only=True, omit_defaults=True):
    """The resources a tool reads and writes.

    A resource is a template over the call's arguments, such as `order:{order_id}`; `*` is
    everything; a template whose argument is absent widens to its whole kind (`order:*`).
    A result field may name a resource too: `order:{result.order_id}` (known only after the call).
    """

    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    idempotent: bool = False
    """Writing the same twice in a row leaves what writing it once leaves."""
    open_world: bool = False
    """What it reads also changes by itself (weather, a web page): its answers age."""


UNDECLARED = Effects(reads=("*",), writes=("*",))
"""A tool that says nothing about its effects counts as a writer of everything."""


class ToolSpec(Record, frozen=True, kw_only=True):
    """What a model and a cache need to know of a tool."""

    name: str
    description: str
    parameters: JsonObject
    """JSON Schema of the arguments, always `type: object`. Two extensions: `"x-kind"` on a
    property (`id`, `text`, `code`, `entity`, `volatile`) and `"x-unordered": true` on an array."""
    effects: Effects = UNDECLARED


def undeclared(name: str) -> ToolSpec:
    """Return the spec of a tool that was called but never declared: it may do anything."""
    return ToolSpec(name=name, description="", parameters={"type": "object"})


class ToolResult(Record, frozen=True, kw_only=True, gc=False):
    """What one call was answered, and how far to trust it."""

    call_id: str
    name: str
    text: str
    """What the model sees; JSON where the tool answers with data."""
    wire: str | None = None
    """The answer as the tool's server gave it (JSON), where that is more than `text` says."""
    is_error: bool = False
    error_class: ErrorClass | None = None
    tier: Tier
    fidelity: float | None = None
    """Calibrated P(same result as the live tool), in [0, 1]; None where nobody measured it."""
    score: float | None = None
    """The match score of a loose tier, in [0, 1]; None for other tiers."""
    source: Source | None = None
    state_matched: bool = True
    """False when the answer was recorded in another state than this episode's."""
    key: str | None = None
    """The cache entry that answered (hex), or None."""
    alternatives: int = 0
    """Other answers recorded of this very call in one scenario: the tool is not deterministic."""
    shared: float = 0.0
    """The chance that another rollout making this call gets the very same recorded observation."""
    latency_s: float = 0.0
    """Wall seconds of the live call; replay repeats the recorded value."""


class Tools(Protocol):
    """The tools of one episode. One instance serves one episode and keeps its state.

    `tests/test_tools_contract.py` holds every implementation to this.
    """

    async def call(self, call: ToolCall) -> ToolResult:
        """Answer a well-formed call of any name. A failing or unknown tool is a result, not an exception.

        Calls of one assistant turn arrive one after the other in the model's order.
        """
        ...

    async def aclose(self) -> None:
        """Release what the episode held. Safe to call twice."""
        ...
