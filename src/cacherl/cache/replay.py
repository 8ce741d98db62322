"""One episode played on recordings instead of live tools."""

from __future__ import annotations

import enum
import json
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from cacherl.cache import match
from cacherl.cache.canonical import canonical_json, decode_canonical
from cacherl.cache.entry import Observation
from cacherl.cache.normalise import Kind, NormalCall, Plan, is_writer
from cacherl.cache.state import NO_WRITES, CallState, StateOverlay
from cacherl.cache.tool_cache import Draw, Hit, Scope, ToolCache, Viewpoint
from cacherl.core.errors import RecipeError
from cacherl.core.messages import ToolCall
from cacherl.core.records import Record
from cacherl.core.schema import error_text
from cacherl.core.tasks import Split, Task
from cacherl.core.tools import (
    ErrorClass,
    Source,
    Tier,
    ToolResult,
    ToolSpec,
    worst_tier,
)

LiveCall = Callable[[ToolCall], Awaitable[ToolResult]]
"""Runs a read-only tool for real, on a world that nobody has written to."""


class MissPolicy(enum.StrEnum):
    """What a call is answered when nothing recorded may be served. Never silent: the ledger tells."""

    ERROR = "error"
    """A typed message that says so; tier MISS."""
    BEST_EFFORT = "best_effort"
    """The nearest recorded success of the tool, however far; reads only."""
    ACKNOWLEDGE = "acknowledge"
    """A success in the shape of the nearest recorded one, with this call's values; writes only."""
    LIVE = "live"
    """The tool itself, while the episode has not written what it reads; reads only."""


class LedgerRow(Record, frozen=True, kw_only=True):
    """How one call was answered."""

    tool: str
    tier: Tier
    key: str | None
    """The entry that answered."""
    score: float | None
    state_matched: bool
    scenario_matched: bool
    is_error: bool
    observations: int
    """How many observations there were to draw from; 0 where nothing recorded answered."""
    drawn: int
    """Which distinct observation of the entry answered."""
    policy: MissPolicy | None = None
    """The miss policy that answered, where one had to."""


class Ledger(Record, frozen=True, kw_only=True):
    """How the calls of one rollout were answered: what a reward may trust."""

    rows: tuple[LedgerRow, ...]
    live_calls: int = 0

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


def coupling(group: Sequence[Ledger]) -> float:
    """Return the share of a group's recorded answers that another of its rollouts got as well, in [0, 1].

    High is harmless for deterministic tools. For others, one shared draw can flip the sign of
    advantages that are divided by the group's standard deviation.
    """
    holders: dict[tuple[str, int], set[int]] = {}
    for place, ledger in enumerate(group):
        for row in ledger.rows:
            if row.key is not None and row.observations:
                holders.setdefault((row.key, row.drawn), set()).add(place)
    shared = total = 0
    for ledger in group:
        for row in ledger.rows:
            if row.key is not None and row.observations:
                total += 1
                shared += len(holders[row.key, row.drawn]) > 1
    return shared / total if total else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    result: ToolResult
    row: LedgerRow


class ReplayTools:
    """The tools of one episode, answered from a cache. A `Tools`; single use.

    Never raises for a miss and never runs a live tool unless the miss policy of that tool is LIVE.
    Errors replay as recorded when the call matches exactly; loose tiers never serve errors.
    """

    def __init__(
        self,
        cache: ToolCache,
        task: Task,
        *,
        seed: int = 0,
        rollout: int = 0,
        on_miss: MissPolicy | Mapping[str, MissPolicy] = MissPolicy.ERROR,
        splits: frozenset[Split] = frozenset({Split.TRAIN}),
        scope: Scope = Scope.GLOBAL,
        fuzzy_min_score: float = match.FUZZY_MIN_SCORE,
        best_effort_min_score: float = match.BEST_EFFORT_MIN_SCORE,
        live: LiveCall | None = None,
    ) -> None:
        """Start an episode.

        Args:
            cache: the recordings.
            task: the task; its tools, namespace and scenario say what is looked up.
            seed: of the run.
            rollout: index within the group; with the seed it decides every draw.
            on_miss: one policy for all tools, or one per tool (`*` for the rest, else ERROR).
                A policy that does not fit a tool (ACKNOWLEDGE for a read) counts as ERROR.
            splits: observations of other splits cannot be seen under any tier.
            scope: what other scenarios' observations are worth.
            fuzzy_min_score: overlap of content words that FUZZY asks for, in [0, 1].
            best_effort_min_score: overlap of fields that BEST_EFFORT asks for, in [0, 1].
            live: runs a tool for the LIVE policy.

        Raises:
            RecipeError: a LIVE policy without `live`.
        """
        self._cache = cache
        self._task = task
        self._specs = {spec.name: spec for spec in task.tools}
        self._seed, self._rollout = seed, rollout
        self._on_miss = on_miss
        self._view = Viewpoint(
            scenario=task.scenario,
            splits=splits,
            scope=scope,
            fuzzy_min_score=fuzzy_min_score,
            best_effort_min_score=best_effort_min_score,
        )
        policies = on_miss.values() if isinstance(on_miss, Mapping) else [on_miss]
        if MissPolicy.LIVE in policies and live is None:
            raise RecipeError(
                'on_miss = "live" needs live tools, and this run has none. '
                'Choose "error" or "best_effort".'
            )
        self._live = live
        self._overlay = StateOverlay()
        self._asked: Counter[tuple[str, bytes, bytes]] = Counter()
        self._rows: list[LedgerRow] = []
        self.live_calls = 0

    async def call(self, call: ToolCall) -> ToolResult:
        spec = self._specs.get(call.name)
        if spec is None:
            return self._unknown(call)
        normal = self._cache.plan(spec).normal(call.arguments)
        state = self._overlay.state(spec.effects, normal.arguments)
        draw = self._draw(spec, normal, state)
        hit = self._cache.find(
            self._task.namespace,
            spec,
            normal,
            state_key=state.key,
            view=self._view,
            draw=draw,
        )
        if hit.observation is None:
            answer = await self._missed(call, spec, normal, state, draw)
        else:
            answer = _served(call, hit, hit.observation)
        self._rows.append(answer.row)
        if not answer.result.is_error:
            self._overlay.write(
                spec.name,
                spec.effects,
                normal.arguments,
                normal.canonical,
                state,
                answer.result.text,
            )
        return answer.result

    async def aclose(self) -> None:
        """Nothing to release: the cache belongs to whoever opened it."""

    @property
    def ledger(self) -> Ledger:
        """How the calls so far were answered."""
        return Ledger(rows=tuple(self._rows), live_calls=self.live_calls)

    def _draw(self, spec: ToolSpec, normal: NormalCall, state: CallState) -> Draw:
        same = (spec.name, normal.canonical, state.key)
        occurrence = self._asked[same]
        self._asked[same] += 1
        return Draw(seed=self._seed, rollout=self._rollout, occurrence=occurrence)

    def _unknown(self, call: ToolCall) -> ToolResult:
        """Answer as the loop does: live tools would have refused the name just the same."""
        offered = ", ".join(self._specs) or "none"
        result = ToolResult(
            call_id=call.id,
            name=call.name,
            text=error_text("unknown_tool", f"no tool {call.name}; there are: {offered}"),
            is_error=True,
            error_class=ErrorClass.VALIDATION,
            tier=Tier.EXACT,
            source=Source.LOOP,
        )
        self._rows.append(_row(result, hit=None, policy=None))
        return result

    # ---- misses

    async def _missed(
        self, call: ToolCall, spec: ToolSpec, normal: NormalCall, state: CallState, draw: Draw
    ) -> _Answer:
        policy = self._policy(spec)
        if policy is MissPolicy.LIVE and self._live is not None and state.key == NO_WRITES:
            self.live_calls += 1
            result = await self._live(call)
            return _Answer(result=result, row=_row(result, hit=None, policy=policy))
        if policy in (MissPolicy.BEST_EFFORT, MissPolicy.ACKNOWLEDGE):
            hit = self._cache.nearest_success(
                self._task.namespace, spec, normal, view=self._view, draw=draw
            )
            if hit.observation is not None:
                if policy is MissPolicy.BEST_EFFORT:
                    return _served(call, hit, hit.observation, policy)
                return self._acknowledged(call, spec, normal, hit, hit.observation)
        result = ToolResult(
            call_id=call.id,
            name=call.name,
            text=error_text(
                "not_recorded",
                f"no recorded answer of {call.name} for these arguments; "
                "try other arguments or another tool",
            ),
            is_error=True,
            error_class=ErrorClass.UNKNOWN,
            tier=Tier.MISS,
        )
        return _Answer(result=result, row=_row(result, hit=None, policy=MissPolicy.ERROR))

    def _policy(self, spec: ToolSpec) -> MissPolicy:
        if isinstance(self._on_miss, Mapping):
            policy = self._on_miss.get(spec.name) or self._on_miss.get("*") or MissPolicy.ERROR
        else:
            policy = self._on_miss
        fits = (policy is MissPolicy.ACKNOWLEDGE) == is_writer(spec.effects)
        return policy if fits else MissPolicy.ERROR

    def _acknowledged(
        self,
        call: ToolCall,
        spec: ToolSpec,
        normal: NormalCall,
        hit: Hit,
        success: Observation,
    ) -> _Answer:
        recorded = decode_canonical((hit.matched_arguments or "{}").encode())
        text = readdress(success.text, self._cache.plan(spec), recorded, normal.arguments)
        result = ToolResult(
            call_id=call.id,
            name=call.name,
            text=text,
            tier=Tier.BEST_EFFORT,
            score=hit.score,
            source=Source.SIMULATED,
            state_matched=False,
            key=hit.key,
            latency_s=success.latency_s,
        )
        return _Answer(result=result, row=_row(result, hit=hit, policy=MissPolicy.ACKNOWLEDGE))


def _served(
    call: ToolCall, hit: Hit, observation: Observation, policy: MissPolicy | None = None
) -> _Answer:
    result = ToolResult(
        call_id=call.id,
        name=call.name,
        text=observation.text,
        is_error=observation.is_error,
        error_class=observation.error_class,
        tier=hit.tier,
        score=hit.score,
        source=observation.source,
        state_matched=hit.state_matched,
        key=hit.key,
        latency_s=observation.latency_s,
    )
    return _Answer(result=result, row=_row(result, hit=hit, policy=policy))


def _row(result: ToolResult, *, hit: Hit | None, policy: MissPolicy | None) -> LedgerRow:
    return LedgerRow(
        tool=result.name,
        tier=result.tier,
        key=result.key,
        score=result.score,
        state_matched=result.state_matched,
        scenario_matched=hit is None or hit.scenario_matched,
        is_error=result.is_error,
        observations=0 if hit is None else hit.observations,
        drawn=0 if hit is None else hit.drawn,
        policy=policy,
    )


_DISTINCTIVE = 4  # characters: shorter values occur in results by chance
_ADDRESSES = frozenset({Kind.ID, Kind.ENTITY, Kind.DATE})


def readdress(text: str, plan: Plan, recorded: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """Return a recorded result with the recorded call's argument values replaced by the asked call's.

    A value in the result is replaced where it stands under the argument's own name, or where it is
    an id, a name or a date too distinctive to be there by chance. Everything else stays recorded.

    Args:
        text: the recorded result.
        plan: the tool's.
        recorded: the recorded call's normal arguments.
        asked: this call's normal arguments.
    """
    replaced = _replacements(plan, recorded, asked)
    if not replaced.by_name and not replaced.anywhere:
        return text
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return _reworded(text, replaced.anywhere)
    if isinstance(value, str):
        return json.dumps(_reworded(value, replaced.anywhere), ensure_ascii=False)
    return json.dumps(_readdressed(value, "", replaced), ensure_ascii=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Replacements:
    by_name: dict[tuple[str, str], Any]
    """(argument name, recorded token) -> asked value."""
    anywhere: dict[str, str]


def _replacements(
    plan: Plan, recorded: Mapping[str, Any], asked: Mapping[str, Any]
) -> _Replacements:
    by_name: dict[tuple[str, str], Any] = {}
    anywhere: dict[str, str] = {}
    unclear: set[str] = set()
    kinds = {field.path: field.kind for field in plan.shape(dict(recorded)).fields}
    for name, old in recorded.items():
        new = asked.get(name)
        if name not in asked or isinstance(old, dict | list) or isinstance(new, dict | list):
            continue
        if old == new:
            # The same value elsewhere in the result must stay.
            unclear.add(str(old))
            continue
        by_name[name, canonical_json(old).decode()] = new
        address = kinds.get(name) in _ADDRESSES
        if isinstance(old, str) and isinstance(new, str) and address and len(old) >= _DISTINCTIVE:
            if anywhere.get(old, new) != new:
                unclear.add(old)
            anywhere[old] = new
    return _Replacements(
        by_name=by_name,
        anywhere={old: new for old, new in anywhere.items() if old not in unclear},
    )


def _readdressed(value: Any, name: str, replaced: _Replacements) -> Any:
    if isinstance(value, dict):
        return {key: _readdressed(member, key, replaced) for key, member in value.items()}
    if isinstance(value, list):
        return [_readdressed(item, name, replaced) for item in value]
    said = (name, canonical_json(value).decode())
    if said in replaced.by_name:
        return replaced.by_name[said]
    return _reworded(value, replaced.anywhere) if isinstance(value, str) else value


def _reworded(text: str, anywhere: Mapping[str, str]) -> str:
    if not anywhere:
        return text
    # Longest first and in one pass: a swap of two values must not undo itself.
    found = "|".join(re.escape(old) for old in sorted(anywhere, key=lambda old: (-len(old), old)))
    return re.sub(rf"(?<!\w)(?:{found})(?!\w)", lambda hit: anywhere[hit.group()], text)
