"""The cache: recorded answers in, the most trustworthy answer out."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import msgspec

from cacherl.cache.identity.canonical import canonical_json, encode_folded
from cacherl.cache.identity.kinds import (
    FrozenKinds,
    infer_kinds,
    kinds_note,
    leaves_kinds_open,
    marked_kinds,
    sampled,
    values_of,
    with_kinds,
)
from cacherl.cache.identity.normalise import (
    Fired,
    Kind,
    NormalCall,
    Plan,
    Shape,
    is_mended_refusal,
    is_writer,
    plan_of,
)
from cacherl.cache.identity.state import DOUBT, NO_WRITES, StateOverlay, touches_no_more
from cacherl.cache.lookup.draws import Draw, alternatives, pick, shared
from cacherl.cache.lookup.hit import (
    EVERY_SPLIT,
    EVERYTHING_VISIBLE,
    Closest,
    Explanation,
    Hit,
    Scope,
    Viewpoint,
)
from cacherl.cache.lookup.settings import (
    NO_SETTINGS,
    DrawPolicy,
    Settings,
    ToolRules,
    load_settings,
)
from cacherl.cache.lookup.stats import CacheStats, ToolStats, stats_of
from cacherl.cache.matching import match
from cacherl.cache.matching.nearest import LooseIndex, Neighbour, ToolIndex
from cacherl.cache.safety.redact import Profile, Redactor, redactor_of
from cacherl.cache.storage.entry import CacheEntry, Kept, Observation, RecordedCall, json_text
from cacherl.cache.storage.portable import is_export
from cacherl.cache.storage.snapshot import SnapshotStore, is_snapshot
from cacherl.cache.storage.sqlite import Durability, Mode, SqliteStore
from cacherl.cache.storage.store import CacheStore, MemoryStore
from cacherl.cache.trust.fidelity import Calibration, Unit, kept_calibration
from cacherl.core.errors import CacheError, DataError, RecipeError
from cacherl.core.messages import AssistantMessage, MalformedCall, ToolCall
from cacherl.core.records import Record
from cacherl.core.tasks import Split, Task
from cacherl.core.tools import Effects, ErrorClass, Source, Tier, ToolResult, ToolSpec, undeclared
from cacherl.core.trajectories import Trajectory

__all__ = [
    "EVERYTHING_VISIBLE",
    "EVERY_SPLIT",
    "CacheStats",
    "Closest",
    "Draw",
    "Explanation",
    "Hit",
    "Recorded",
    "Scope",
    "ToolCache",
    "ToolStats",
    "Viewpoint",
]

if TYPE_CHECKING:  # they stand on this module
    from cacherl.cache.episodes.episode import Episode, EpisodeOptions
    from cacherl.cache.storage.freeze import FrozenSummary

Clock = Callable[[], float]
"""Seconds since 1970 UTC."""

FIRST_DRAW = Draw()
_EFFECTS = "effects/"

_MAX_REMEMBERED = 1 << 14
_MAX_REMEMBERED_TEXT = (
    1 << 16
)  # characters: one 50 MB result must not fill the memory of every worker
_MAX_PLANS = 1 << 16
_MAX_TRIED = 64


def wall_clock() -> float:
    """Return seconds since 1970 UTC."""
    return datetime.now(UTC).timestamp()


class Recorded(Record, frozen=True, kw_only=True):
    """What came of recording a trajectory."""

    calls: int
    """Calls whose answer is now kept."""
    new: int
    """Of these, answers that were not kept before."""
    skipped: int
    """Calls that were not a tool's own answer: refused by the loop, replayed, or transient failures."""


class ToolCache:
    """Recorded answers of tools, in a file or in memory.

    Reading is cheap enough to run inside an event loop: microseconds for EXACT, the loose tiers
    build an index of the tool on first use. Recordings that other processes add are seen by exact
    lookups of new calls at once, by everything else after reopening: answers do not change under
    a running rollout.
    """

    def __init__(
        self,
        store: CacheStore,
        *,
        name: str = ":memory:",
        settings: Settings | None = None,
        redactor: Redactor | None = None,
        clock: Clock = wall_clock,
    ) -> None:
        """Stand on a store.

        Args:
            store: where the recordings are.
            name: for messages.
            settings: what people say of the tools; None takes those kept in the store.
            redactor: goes over everything before it is hashed, kept or asked.
            clock: when recordings are made, and how old they are.
        """
        self.name = name
        self.redactor = redactor
        self._store = store
        self._clock = clock
        self._newest: float | None = None
        self._settings = _kept_settings(store) if settings is None else settings
        self._calibration = kept_calibration(store, name=name)
        self._no_redactor: CacheError | None = None
        self._remember = not isinstance(store, MemoryStore)
        self._remembered: dict[bytes, CacheEntry] = {}
        self._indexes: dict[tuple[str, str, frozenset[Split], Plan], LooseIndex] = {}
        self._match_plans: dict[tuple[str, int], tuple[ToolSpec, Plan]] = {}
        self._matching: dict[tuple[str, str, bytes], Plan] = {}
        self._plans: dict[int, tuple[ToolSpec, Plan]] = {}
        self._effective: dict[tuple[str, int], tuple[ToolSpec, ToolSpec]] = {}
        self._rules: dict[tuple[str, str], ToolRules] = {}
        self._declared: dict[tuple[str, str], ToolSpec] = {}
        self._recorded_effects: dict[tuple[str, str], set[Effects]] | None = None
        self._doubtful: set[tuple[str, str | None]] = set()
        self._bare_names: dict[frozenset[str], frozenset[str]] = {}

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        mode: Mode = "read",
        settings: Settings | Path | str | None = None,
        redactor: Redactor | None = None,
        redact: Profile | None = None,
        durability: Durability = "normal",
        clock: Clock = wall_clock,
    ) -> ToolCache:
        """Open a cache file, a frozen snapshot, or `:memory:`, a new cache that ends with the process.

        Args:
            path: the file. For caches on a server see `wiring.open_cache`.
            mode: `read`, or `write` to record as well.
            settings: what people say of the tools, or the file that says it (TOML); None takes
                those kept in the cache.
            redactor: goes over everything recorded and asked; None takes what the cache asks for.
            redact: begin redaction in a new cache, by this profile.
            durability: `full` keeps what was acknowledged even when the power fails, at several
                times the price of a recording; a killed process loses nothing either way.
            clock: when recordings are made, and how old they are.

        Raises:
            CacheError: there is no such cache (read), it is damaged, newer or something else.
        """
        if isinstance(settings, str | Path):
            settings = load_settings(Path(settings))
        return cls.on(
            _opened(path, mode, durability),
            name=str(path),
            path=None if str(path) == ":memory:" else Path(path),
            settings=settings,
            redactor=redactor,
            redact=redact,
            clock=clock,
        )

    @classmethod
    def on(
        cls,
        store: CacheStore,
        *,
        name: str,
        path: Path | None = None,
        settings: Settings | None = None,
        redactor: Redactor | None = None,
        redact: Profile | None = None,
        clock: Clock = wall_clock,
    ) -> ToolCache:
        """Stand on an open store, with the redaction that it asks for; closes it if that fails.

        Arguments as `open`; `path` is the file beside which a redaction key stands.
        """
        try:
            cache = cls(store, name=name, settings=settings, redactor=redactor, clock=clock)
            if redactor is None:
                cache._find_redactor(path, redact)
        except BaseException:
            store.close()
            raise
        return cache

    def _find_redactor(self, path: Path | None, profile: Profile | None) -> None:
        try:
            self.redactor = redactor_of(self._store, self.name, path=path, profile=profile)
        except CacheError as error:
            if profile is not None:
                raise
            self._no_redactor = error  # counting and copying need no key; looking up does

    def close(self) -> None:
        """Let go of the file. Safe to call twice."""
        self._store.close()

    def __enter__(self) -> ToolCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def store(self) -> CacheStore:
        """Where the recordings are."""
        return self._store

    # ---- identity

    @property
    def settings(self) -> Settings:
        """What people say of the tools."""
        return self._settings

    @property
    def calibration(self) -> Calibration | None:
        """How far answers can be trusted, if somebody measured it: sets `Hit.fidelity`."""
        return self._calibration

    def effective(self, namespace: str, spec: ToolSpec) -> ToolSpec:
        """Return the tool as the settings see it; every other method but `find` does so by itself."""
        name = (namespace, id(spec))
        known = self._effective.get(name)
        if known is not None and known[0] is spec:
            return known[1]
        if len(self._effective) >= _MAX_PLANS:
            self._effective.clear()
        bare = spec if self.redactor is None else self.redactor.spec(spec)
        seen = self._settings.applied(namespace, bare)
        self._effective[name] = (spec, seen)
        self._effective[namespace, id(seen)] = (seen, seen)
        self._doubt_states(namespace, seen)
        return seen

    def _doubt_states(self, namespace: str, spec: ToolSpec) -> None:
        """Note where states say too little: recorded under effects that touch less than these.

        A call that was filed as untouched by a write may then have come after one. Where a tool
        writes more than it was known to, that holds for every call of its namespace.
        """
        if self._recorded_effects is None:
            self._recorded_effects = {}
            for name in self._store.notes():
                if name.startswith(_EFFECTS):
                    kept = msgspec.json.decode(self._store.note(name) or b"", type=_RecordedUnder)
                    tool = (kept.namespace, kept.tool)
                    self._recorded_effects.setdefault(tool, set()).add(kept.effects)
        for effects in self._recorded_effects.get((namespace, spec.name), ()):
            if touches_no_more(effects, spec.effects):
                continue
            self._doubtful.add((namespace, spec.name))
            if not touches_no_more(
                Effects(writes=effects.writes), Effects(writes=spec.effects.writes)
            ):
                self._doubtful.add((namespace, None))

    def _is_doubtful(self, namespace: str, tool: str) -> bool:
        return (namespace, tool) in self._doubtful or (namespace, None) in self._doubtful

    def plan(self, spec: ToolSpec) -> Plan:
        """Return the normalisation of an effective tool, compiled once."""
        known = self._plans.get(id(spec))
        if known is not None and known[0] is spec:
            return known[1]
        if len(self._plans) >= _MAX_PLANS:
            self._plans.clear()
        plan = plan_of(spec)
        self._plans[id(spec)] = (spec, plan)
        return plan

    def match_plan(self, namespace: str, spec: ToolSpec) -> Plan:
        """Return the plan by which an effective tool's calls are compared loosely.

        Where the schema leaves parameters undescribed, their kinds are inferred when the tool is
        first looked up: from training recordings (held-out ones must not shape training), or from
        all where there are none. That never changes a key.
        """
        name = (namespace, id(spec))
        known = self._match_plans.get(name)
        if known is not None and known[0] is spec:
            return known[1]
        plan = self.plan(spec)
        alike = (namespace, spec.name, plan.fingerprint)
        matching = self._matching.get(alike)
        if matching is None:
            kinds = self.inferred_kinds(namespace, spec)
            matching = plan_of(with_kinds(spec, kinds)) if kinds else plan
            self._matching[alike] = matching
        if len(self._match_plans) >= _MAX_PLANS:
            self._match_plans.clear()
        self._match_plans[name] = (spec, matching)
        return matching

    def inferred_kinds(self, namespace: str, spec: ToolSpec) -> dict[str, Kind]:
        """Return the kinds of an effective tool's undescribed parameters, by path, as recordings show them.

        A snapshot keeps those of its freezing, so that it need not read all its recordings again.
        """
        if not leaves_kinds_open(spec):
            return {}
        kept = self._store.note(kinds_note(namespace, spec.name))
        if kept is not None:
            frozen = msgspec.json.decode(kept, type=FrozenKinds)
            if frozen.plan == self.plan(spec).fingerprint.hex():
                return frozen.kinds
        for splits in (frozenset({Split.TRAIN}), EVERY_SPLIT):
            recorded = sampled(
                entry
                for entry in self._store.by_tool(namespace, spec.name)
                if any(
                    kept.observation.split in splits and not kept.observation.is_error
                    for kept in entry.kept
                )
            )
            if recorded:
                return marked_kinds(spec, infer_kinds(values_of(recorded)))
        return {}

    def normal(self, spec: ToolSpec, arguments: Mapping[str, Any]) -> NormalCall:
        """Return the arguments of an effective tool in normal form, without secrets."""
        if self.redactor is not None:
            arguments = self.redactor.arguments(arguments)
        elif self._no_redactor is not None:
            raise self._no_redactor
        return self.plan(spec).normal(arguments)

    def bare(self, text: str) -> str:
        """Return a text (the name of a scenario, a fingerprint) without secrets, as it is kept."""
        return text if self.redactor is None else self.redactor.text(text)

    def rules(self, namespace: str, tool: str) -> ToolRules:
        """Return what the settings say of a tool."""
        name = (namespace, tool)
        rules = self._rules.get(name)
        if rules is None:
            rules = self._rules[name] = self._settings.rules(namespace, tool)
        return rules

    def spec(self, namespace: str, tool: str) -> ToolSpec:
        """Return a recorded tool's declaration.

        Raises:
            CacheError: no such tool was recorded.
        """
        specs = self._store.tools()
        found = specs.get((namespace, tool))
        if found is None:
            known = ", ".join(sorted({name for _, name in specs})) or "none"
            near = difflib.get_close_matches(tool, [name for _, name in specs], n=1)
            meant = f" Did you mean {near[0]}?" if near else ""
            where = f" of {namespace}" if namespace else ""
            raise CacheError(
                f"{self.name}: no tool {tool}{where} was recorded; there are: {known}.{meant} "
                "See them with `cacherl cache stats`."
            )
        return found

    # ---- recording

    def record(
        self,
        namespace: str,
        spec: ToolSpec,
        call: ToolCall,
        result: ToolResult,
        *,
        state_key: bytes = NO_WRITES,
        scenario: str,
        split: Split,
        recorded_at: float | None = None,
        occurrence: int = 0,
        after: str | None = None,
    ) -> bool:
        """Keep a tool's own answer; return whether it is kept (now or already).

        Not kept: the loop's refusals, replayed and missed answers, transient failures, and
        errors that may be due to what normalisation would have mended.

        Args:
            namespace: whose tool it is.
            spec: the tool as it declares itself.
            call: what it was asked.
            result: what it answered.
            state_key: where the call stood, by `StateOverlay.state`.
            scenario: the world instance.
            split: who may see it.
            recorded_at: seconds since 1970 UTC; None asks the clock.
            occurrence: how often the episode had made this call in this state before.
            after: the environment's word for its state after the call, where it gives one.
        """
        seen = self.effective(namespace, spec)
        made = _Made(
            declared=spec,
            normal=self.normal(seen, call.arguments),
            arguments=call.arguments,
            state_key=state_key,
            scenario=scenario,
            split=split,
            recorded_at=self._clock() if recorded_at is None else recorded_at,
            occurrence=occurrence,
            after=after,
        )
        return self._record(namespace, made, result)[0]

    def _record(self, namespace: str, made: _Made, result: ToolResult) -> tuple[bool, bool]:
        normal, spec = made.normal, made.declared
        if not _is_tools_own(result) or is_mended_refusal(normal.fired, result.error_class):
            return False, False
        self._declare(namespace, spec)
        recorded = RecordedCall.of(namespace, spec.name, normal.canonical, made.state_key)
        error_class = result.error_class or ErrorClass.UNKNOWN
        arguments, text, scenario = made.arguments, result.text, self.bare(made.scenario)
        wire = None if result.wire is None else json_text(result.wire)
        if self.redactor is not None:
            text = self.redactor.text(text, echoing=arguments)
            wire = None if wire is None else self.redactor.wire(wire, echoing=arguments)
            arguments = self.redactor.arguments(arguments)
        new = self._store.add(
            recorded,
            Observation(
                text=text,
                is_error=result.is_error,
                error_class=error_class if result.is_error else None,
                source=result.source or Source.LIVE,
                scenario=scenario,
                split=made.split,
                latency_s=result.latency_s,
                recorded_at=made.recorded_at,
                occurrence=made.occurrence,
                after=None if made.after is None else self.bare(made.after),
                asked=canonical_json(dict(arguments)).decode() if normal.fired else None,
                wire=wire,
            ),
        )
        self._remembered.pop(recorded.key, None)
        if made.recorded_at is not None and self._newest is not None:
            self._newest = max(self._newest, made.recorded_at)
        if new and not result.is_error:
            for (space, tool, splits, _), index in self._indexes.items():
                same = (space, tool) == (namespace, spec.name) and made.split in splits
                # Only what was built here can grow; a ready index belongs to a store that is frozen.
                if same and isinstance(index, ToolIndex):
                    index.add(recorded.key, normal.arguments, made.state_key, (scenario,))
        return True, new

    def _declare(self, namespace: str, spec: ToolSpec) -> None:
        # As the tool declares itself: what the settings say of it must be free to change.
        name = (namespace, spec.name)
        if self._declared.get(name) != spec:
            kept = spec if self.redactor is None else self.redactor.spec(spec)
            self._store.put_tool(namespace, kept)
            self._declared[name] = spec
            self._keep_effects(namespace, spec.name, self.effective(namespace, spec).effects)

    def _keep_effects(self, namespace: str, tool: str, effects: Effects) -> None:
        kept = _RecordedUnder(namespace=namespace, tool=tool, effects=effects)
        said = msgspec.json.encode(kept, order="sorted")
        # Named by its content: caches recorded under different effects keep both when they are merged.
        self._store.put_note(_EFFECTS + hashlib.blake2b(said, digest_size=8).hexdigest(), said)
        if self._recorded_effects is not None:
            self._recorded_effects.setdefault((namespace, tool), set()).add(effects)

    def record_trajectory(
        self,
        task: Task,
        trajectory: Trajectory,
        *,
        recorded_at: float | None = None,
        fingerprints: Sequence[str] | None = None,
    ) -> Recorded:
        """Keep every answer of a trajectory that a tool gave itself, all or none.

        Walks the calls in order with the episode's state, so that a read after a write is kept
        apart from the same read before it. Recording a trajectory again adds nothing new.

        Args:
            task: whose tools, scenario and split they are.
            trajectory: an episode on live tools.
            recorded_at: when, in seconds since 1970 UTC; None where nobody knows.
            fingerprints: the environment's word for its state, before the first well-formed call
                and after each. Then that is the state that calls are kept under, and episodes
                follow the recorded transitions; what tools declare to read and write is not used.

        Raises:
            DataError: the results do not belong to the calls, or the fingerprints do not.
        """
        pairs = _answered(trajectory)
        if fingerprints is not None and len(fingerprints) != len(pairs) + 1:
            raise DataError(
                f"trajectory of {trajectory.task_id}, rollout {trajectory.rollout}: "
                f"{len(fingerprints)} fingerprints for {len(pairs)} well-formed calls; there must be "
                "one before the first call and one after each. Record it again."
            )
        if fingerprints is not None:
            fingerprints = [self.bare(each) for each in fingerprints]
        made = self._made(task, pairs, recorded_at, fingerprints)
        # What is to be kept is worked out before: others wait while a batch is open.
        kept = new = 0
        with self._all_or_none():
            if fingerprints is not None:
                start = _start(task.namespace, self.bare(task.scenario))
                self._store.put_note(start, fingerprints[0].encode())
            for each, result in made:
                is_kept, is_new = self._record(task.namespace, each, result)
                kept += is_kept
                new += is_new
        skipped = len(pairs) - kept
        return Recorded(calls=kept, new=new, skipped=skipped)

    def _made(
        self,
        task: Task,
        pairs: Sequence[tuple[ToolCall, ToolResult]],
        recorded_at: float | None,
        fingerprints: Sequence[str] | None,
    ) -> list[tuple[_Made, ToolResult]]:
        """Walk an episode and return where each of its calls stood."""
        specs = {spec.name: spec for spec in task.tools}
        overlay = StateOverlay()
        asked: Counter[tuple[str, bytes, bytes]] = Counter()
        found = []
        for place, (call, result) in enumerate(pairs):
            if fingerprints is not None:
                overlay.fingerprint(fingerprints[place])
            if result.source is Source.LOOP:
                continue
            declared = specs.get(call.name) or undeclared(call.name)
            spec = self.effective(task.namespace, declared)
            normal = self.normal(spec, call.arguments)
            state = overlay.state(spec.effects, normal.arguments)
            same = (spec.name, normal.canonical, state.key)
            made = _Made(
                declared=declared,
                normal=normal,
                arguments=call.arguments,
                state_key=state.key,
                scenario=task.scenario,
                split=task.split,
                recorded_at=recorded_at,
                occurrence=asked[same],
                after=None if fingerprints is None else fingerprints[place + 1],
            )
            asked[same] += 1
            found.append((made, result))
            change = (spec.name, spec.effects, normal.arguments, normal.canonical)
            if result.error_class is ErrorClass.TRANSIENT:
                overlay.uncertain(*change)
            elif not result.is_error:
                text = result.text
                if self.redactor is not None:
                    text = self.redactor.text(text, echoing=call.arguments)
                overlay.write(*change, state, text)
        return found

    @contextlib.contextmanager
    def _all_or_none(self) -> Iterator[None]:
        try:
            with self._store.batch():
                yield
        except BaseException:
            # What was taken back must not live on in what was derived from it.
            self._remembered.clear()
            self._indexes.clear()
            self._declared.clear()
            raise

    def start_of(self, namespace: str, scenario: str) -> str | None:
        """Return the environment's word for the state that a scenario starts in, if it was recorded."""
        said = self._store.note(_start(namespace, self.bare(scenario)))
        return None if said is None else said.decode()

    # ---- looking up

    def lookup(
        self,
        namespace: str,
        spec: ToolSpec,
        arguments: Mapping[str, Any],
        *,
        state_key: bytes = NO_WRITES,
        view: Viewpoint = EVERYTHING_VISIBLE,
        draw: Draw = FIRST_DRAW,
    ) -> Hit:
        """Return the most trustworthy recorded answer, or a MISS. Never raises for a miss.

        Tiers in order: EXACT, FUZZY, BEST_EFFORT in the same state, BEST_EFFORT in another.
        Tools that write are only ever answered EXACT.
        """
        spec = self.effective(namespace, spec)
        normal = self.normal(spec, arguments)
        return self.find(namespace, spec, normal, state_key=state_key, view=view, draw=draw)

    def lookup_many(
        self,
        namespace: str,
        asked: Sequence[tuple[ToolSpec, Mapping[str, Any]]],
        *,
        state_key: bytes = NO_WRITES,
        view: Viewpoint = EVERYTHING_VISIBLE,
        draw: Draw = FIRST_DRAW,
    ) -> list[Hit]:
        """Return what `lookup` returns for each call; a store with round trips makes one for all."""
        specs = [self.effective(namespace, spec) for spec, _ in asked]
        normals = [
            self.normal(spec, arguments) for spec, (_, arguments) in zip(specs, asked, strict=True)
        ]
        self.prefetch(
            [
                RecordedCall.of(namespace, spec.name, normal.canonical, state_key)
                for spec, normal in zip(specs, normals, strict=True)
            ]
        )
        return [
            self.find(namespace, spec, normal, state_key=state_key, view=view, draw=draw)
            for spec, normal in zip(specs, normals, strict=True)
        ]

    def prefetch(self, calls: Sequence[RecordedCall]) -> None:
        """Read the entries of exactly these calls in one go, so that looking them up costs no round trip."""
        if not self._remember:
            return
        unknown = [call for call in calls if call.key not in self._remembered]
        for entry in self._store.get_many(unknown):
            if entry is not None:
                self._keep(entry)

    def find(
        self,
        namespace: str,
        spec: ToolSpec,
        normal: NormalCall,
        *,
        state_key: bytes,
        view: Viewpoint,
        draw: Draw,
    ) -> Hit:
        """Return what `lookup` returns, for an effective tool and arguments in normal form already."""
        fired = _told(normal.fired) if normal.fired else ()
        if self._doubtful and self._is_doubtful(namespace, spec.name):
            state_key += DOUBT
            fired = (*fired, "effects: touch more than they did when this was recorded")
        call = RecordedCall.of(namespace, spec.name, normal.canonical, state_key)
        rules = self._rules.get((namespace, spec.name)) or self.rules(namespace, spec.name)
        asked = self._asking(namespace, spec, call, rules, view, draw, fired)
        entry = self._entry(call)
        if entry is not None:
            pool, faithful = _visible(entry, asked, errors=True)
            if pool and faithful:
                return self._hit(Tier.EXACT, entry, pool, asked, None, state_matched=True)
        if not is_writer(spec.effects):
            found = self._loose(asked, normal, rules)
            if found is not None:
                return found
        return Hit(tier=Tier.MISS, key=call.key.hex(), fired=asked.fired)

    def nearest_success(
        self, namespace: str, spec: ToolSpec, normal: NormalCall, *, view: Viewpoint, draw: Draw
    ) -> Hit:
        """Return the nearest recorded success of a tool, however far: for miss policies only."""
        rules = self.rules(namespace, spec.name)
        call = RecordedCall.of(namespace, spec.name, normal.canonical, NO_WRITES)
        fired = _told(normal.fired) if normal.fired else ()
        asked = self._asking(namespace, spec, call, rules, view, draw, fired)
        index = self._index(namespace, spec, view.splits)
        shape = self.match_plan(namespace, spec).shape(normal.arguments)
        if asked.restricted:
            candidates = iter(index.ranked(shape, _MAX_TRIED))
        else:
            near = index.best(shape, min_score=0.0, scenario=asked.view.scenario)
            candidates = iter(() if near is None else (near,))
        for near in candidates:
            entry = self._indexed(namespace, spec.name, near)
            pool, _ = ((), False) if entry is None else _visible(entry, asked, errors=False)
            if entry is not None and pool:
                return self._hit(
                    Tier.BEST_EFFORT, entry, pool, asked, near.score, state_matched=False
                )
        return Hit(tier=Tier.MISS, fired=asked.fired)

    def _asking(
        self,
        namespace: str,
        spec: ToolSpec,
        call: RecordedCall,
        rules: ToolRules,
        view: Viewpoint,
        draw: Draw,
        fired: tuple[str, ...],
    ) -> _Asked:
        if self.redactor is not None:
            view = self._redacted(view)
        return _Asked(
            namespace=namespace,
            spec=spec,
            call=call,
            view=view,
            oldest=None if rules.max_age_s is None else self._now(view) - rules.max_age_s,
            draw=draw,
            policy=rules.draw,
            fired=fired,
        )

    def _redacted(self, view: Viewpoint) -> Viewpoint:
        scenario = None if view.scenario is None else self.bare(view.scenario)
        excluded = view.exclude_scenarios
        if excluded:
            known = self._bare_names.get(excluded)
            if known is None:
                if len(self._bare_names) >= _MAX_PLANS:
                    self._bare_names.clear()
                known = self._bare_names[excluded] = frozenset(map(self.bare, excluded))
            excluded = known
        if scenario == view.scenario and excluded == view.exclude_scenarios:
            return view
        return msgspec.structs.replace(view, scenario=scenario, exclude_scenarios=excluded)

    def _now(self, view: Viewpoint) -> float:
        if view.now is not None:
            return view.now
        if self._newest is None:
            self._newest = self._store.newest() or 0.0
        # A clock that was set back must not make old answers young.
        return max(self._clock(), self._newest)

    def _entry(self, call: RecordedCall) -> CacheEntry | None:
        if not self._remember:
            return self._store.get(call)
        entry = self._remembered.get(call.key)
        if entry is not None and entry.call == call:
            return entry
        entry = self._store.get(call)
        if entry is not None:
            self._keep(entry)
        return entry

    def _keep(self, entry: CacheEntry) -> None:
        kept = entry.kept
        if len(kept) == 1:
            length = kept[0].observation.length
        else:
            length = sum(each.observation.length for each in kept)
        if length > _MAX_REMEMBERED_TEXT:
            return
        if len(self._remembered) >= _MAX_REMEMBERED:
            self._remembered.clear()
        self._remembered[entry.call.key] = entry

    def _index(self, namespace: str, spec: ToolSpec, splits: frozenset[Split]) -> LooseIndex:
        plan = self.match_plan(namespace, spec)
        name = (namespace, spec.name, splits, plan)
        index = self._indexes.get(name)
        if index is None:
            index = self._store.index(namespace, spec.name, plan, splits)
            if index is None:
                index = self._built(namespace, spec.name, splits, plan)
            self._indexes[name] = index
        return index

    def _built(self, namespace: str, tool: str, splits: frozenset[Split], plan: Plan) -> ToolIndex:
        index = ToolIndex(plan)
        for entry in self._store.by_tool(namespace, tool):
            scenarios = [
                kept.observation.scenario
                for kept in entry.kept
                if kept.observation.split in splits and not kept.observation.is_error
            ]
            if scenarios:
                call = entry.call
                index.add(call.key, call.arguments, call.state, scenarios)
        return index

    def _loose(self, asked: _Asked, normal: NormalCall, rules: ToolRules) -> Hit | None:
        view, state = asked.view, asked.call.state
        fuzzy_min = _first(view.fuzzy_min_score, rules.fuzzy_min_score, match.FUZZY_MIN_SCORE)
        best_min = _first(
            view.best_effort_min_score, rules.best_effort_min_score, match.BEST_EFFORT_MIN_SCORE
        )
        if fuzzy_min > 1.0 and best_min > 1.0:
            return None
        index = self._index(asked.namespace, asked.spec, view.splits)
        if not len(index):
            return None
        shape = self.match_plan(asked.namespace, asked.spec).shape(normal.arguments)
        if asked.restricted:
            return self._loose_restricted(asked, index, shape, fuzzy_min, best_min)
        bound = view.scope is Scope.SCENARIO and view.scenario is not None
        if shape.texts and fuzzy_min <= 1.0:
            near = index.fuzzy(
                shape, state=state, min_score=fuzzy_min, scenario=view.scenario, own_only=bound
            )
            if near is not None:
                entry = self._indexed(asked.namespace, asked.spec.name, near)
                if entry is not None and entry.call.state == state:
                    pool, faithful = _visible(entry, asked, errors=False)
                    if pool and faithful:
                        return self._hit(
                            Tier.FUZZY, entry, pool, asked, near.score, state_matched=True
                        )
        # Another scenario's data is farther away than another state of one's own.
        passes = [(state, bound), (None, bound)] + [(None, False)] * bound
        for wanted, own_only in passes if best_min <= 1.0 else ():
            near = index.best(
                shape,
                min_score=best_min,
                state=wanted,
                scenario=view.scenario,
                own_only=own_only,
            )
            entry = None if near is None else self._indexed(asked.namespace, asked.spec.name, near)
            if near is not None and entry is not None:
                pool, faithful = _visible(entry, asked, errors=False)
                if pool:
                    same = faithful and entry.call.state == state
                    return self._hit(
                        Tier.BEST_EFFORT, entry, pool, asked, near.score, state_matched=same
                    )
        return None

    def _loose_restricted(
        self,
        asked: _Asked,
        index: LooseIndex,
        shape: Shape,
        fuzzy_min: float,
        best_min: float,
    ) -> Hit | None:
        """Return what `_loose` returns where recordings that the index knows may not be seen.

        Slower: goes through the nearest ones until one may be seen.
        """
        plan = self.match_plan(asked.namespace, asked.spec)
        state = asked.call.state
        fuzzy: tuple[float, CacheEntry, Sequence[Kept]] | None = None
        near_here: tuple[float, CacheEntry, Sequence[Kept]] | None = None
        near: tuple[float, CacheEntry, Sequence[Kept]] | None = None
        for neighbour in index.ranked(shape, _MAX_TRIED):
            entry = self._indexed(asked.namespace, asked.spec.name, neighbour)
            if entry is None:
                continue
            pool, faithful = _visible(entry, asked, errors=False)
            if not pool:
                continue
            here = entry.call.state == state
            if here and faithful:
                verdict = match.fuzzy(shape, plan.shape(entry.call.arguments), fuzzy_min)
                if verdict.refused is None and (fuzzy is None or verdict.score > fuzzy[0]):
                    fuzzy = (verdict.score, entry, pool)
            if here and faithful and near_here is None:
                near_here = (neighbour.score, entry, pool)
            if near is None:
                near = (neighbour.score, entry, pool)
        if fuzzy is not None:
            score, entry, pool = fuzzy
            return self._hit(Tier.FUZZY, entry, pool, asked, score, state_matched=True)
        for found, matched in ((near_here, True), (near, False)):
            if found is not None and found[0] >= best_min:
                score, entry, pool = found
                return self._hit(Tier.BEST_EFFORT, entry, pool, asked, score, state_matched=matched)
        return None

    def _hit(
        self,
        tier: Tier,
        entry: CacheEntry,
        pool: Sequence[Kept],
        asked: _Asked,
        score: float | None,
        *,
        state_matched: bool,
    ) -> Hit:
        call, view = entry.call, asked.view
        chosen = pool[0]
        total = chosen.times
        various, shared_share = 0, 1.0
        if len(pool) > 1 or total > 1:
            policy = asked.policy or asked.draw.policy
            total = sum(kept.times for kept in pool)
            chosen = pick(policy, asked.draw, call.key, pool)
            various = alternatives(pool) if len(pool) > 1 else 0
            shared_share = shared(policy, asked.draw, pool)
        observation = chosen.observation
        drawn = 0
        if len(entry.kept) > 1:
            drawn = next(place for place, kept in enumerate(entry.kept) if kept is chosen)
        scenario_matched = view.scenario is None or observation.scenario == view.scenario
        fidelity = None
        if self._calibration is not None:
            fidelity = self._calibration.fidelity(
                call.namespace,
                call.tool,
                tier,
                score,
                state_matched,
                None if view.scenario is None else scenario_matched,
            )
        return Hit(
            tier=tier,
            key=call.key.hex(),
            observation=observation,
            fidelity=fidelity,
            score=score,
            state_matched=state_matched,
            scenario_matched=scenario_matched,
            matched_arguments=call.canonical.decode(),
            fired=asked.fired,
            observations=total,
            drawn=drawn,
            alternatives=various,
            shared=shared_share,
        )

    def _indexed(self, namespace: str, tool: str, near: Neighbour) -> CacheEntry | None:
        """Return the call that an index named, or None where another one has the same key."""
        key = near.key
        entry = self._remembered.get(key)
        if entry is None:
            entry = self._store.by_key(key)
            if entry is not None and self._remember:
                self._keep(entry)
        if entry is None:
            raise CacheError(
                f"{self.name}: the call {key.hex()} vanished while the cache was open. "
                "Open it again; never remove from a cache that rollouts read."
            )
        call = entry.call
        if call.tool != tool or call.namespace != namespace:
            return None
        if near.shape is None:
            return entry
        meant = near.shape.arguments
        if call.canonical == encode_folded(meant, odd=False):
            return entry
        return entry if call.canonical == canonical_json(meant) else None  # it holds NaN, perhaps

    # ---- showing

    def closest(
        self,
        namespace: str,
        spec: ToolSpec,
        arguments: Mapping[str, Any],
        *,
        state_key: bytes = NO_WRITES,
        view: Viewpoint = EVERYTHING_VISIBLE,
        count: int = 3,
    ) -> tuple[Closest, ...]:
        """Return the nearest recorded successes of the tool in any state, of any age, best first."""
        spec = self.effective(namespace, spec)
        rules = self.rules(namespace, spec.name)
        fuzzy_min = _first(view.fuzzy_min_score, rules.fuzzy_min_score, match.FUZZY_MIN_SCORE)
        plan = self.match_plan(namespace, spec)
        normal = self.normal(spec, arguments)
        shape = plan.shape(normal.arguments)
        asked = _Asked(
            namespace=namespace,
            spec=spec,
            call=RecordedCall.of(namespace, spec.name, normal.canonical, state_key),
            view=self._redacted(view),
            oldest=None,
            draw=FIRST_DRAW,
            policy=None,
            fired=(),
        )
        tried = max(count, _MAX_TRIED) if asked.restricted else count
        found: list[Closest] = []
        for near in self._index(namespace, spec, view.splits).ranked(shape, tried):
            entry = self._indexed(namespace, spec.name, near)
            if entry is None or len(found) == count:
                continue
            if not _visible(entry, asked, errors=False)[0]:
                continue
            kept = plan.shape(entry.call.arguments)
            found.append(
                Closest(
                    key=near.key.hex(),
                    arguments=entry.call.canonical.decode(),
                    score=near.score,
                    state_matched=entry.call.state == state_key,
                    differs=match.differences(shape, kept),
                    not_fuzzy=match.fuzzy(shape, kept, fuzzy_min).refused,
                )
            )
        return tuple(found)

    def explain(
        self,
        namespace: str,
        spec: ToolSpec,
        arguments: Mapping[str, Any],
        *,
        state_key: bytes = NO_WRITES,
        view: Viewpoint = EVERYTHING_VISIBLE,
        draw: Draw = FIRST_DRAW,
    ) -> Explanation:
        """Return what `lookup` finds, why, and what came closest. Scans the tool's recordings."""
        spec = self.effective(namespace, spec)
        rules = self.rules(namespace, spec.name)
        normal = self.normal(spec, arguments)
        same = sum(
            entry.call.canonical == normal.canonical and entry.call.state != state_key
            for entry in self._store.by_tool(namespace, spec.name)
            if any(kept.observation.split in view.splits for kept in entry.kept)
        )
        return Explanation(
            tool=spec.name,
            arguments=normal.canonical.decode(),
            kinds=self.match_plan(namespace, spec).kinds(),
            state=state_key.hex(),
            hit=self.find(namespace, spec, normal, state_key=state_key, view=view, draw=draw),
            other_states=same,
            fuzzy_min_score=_first(
                view.fuzzy_min_score, rules.fuzzy_min_score, match.FUZZY_MIN_SCORE
            ),
            best_effort_min_score=_first(
                view.best_effort_min_score, rules.best_effort_min_score, match.BEST_EFFORT_MIN_SCORE
            ),
            max_age_s=rules.max_age_s,
            closest=self.closest(namespace, spec, arguments, state_key=state_key, view=view),
        )

    # ---- taking it further

    def episode(self, about: Task | str, **options: Unpack[EpisodeOptions]) -> Episode:
        """Start an episode on these recordings: state, draws, misses and a ledger (see `Episode`)."""
        from cacherl.cache.episodes.episode import Episode

        return Episode(self, about, **options)

    def calibrate(
        self,
        *,
        unit: Unit = Unit.OBSERVATION,
        scope: Scope = Scope.GLOBAL,
        per_tool: int = 300,
        seed: int = 0,
    ) -> Calibration:
        """Measure on its own recordings how far this cache can be trusted, and say so from now on.

        Kept beside the recordings. Arguments as `calibrate.calibrate`.

        Raises:
            MissingExtraError: scikit-learn is not installed.
            CacheError: nothing is recorded, or this is a snapshot: calibrate before freezing.
        """
        from cacherl.cache.trust.calibrate import calibrate_and_keep

        self._calibration = calibrate_and_keep(
            self, made_at=self._clock(), unit=unit, scope=scope, per_tool=per_tool, seed=seed
        )
        return self._calibration

    def freeze(self, path: Path | str) -> FrozenSummary:
        """Write everything into a memory-mapped snapshot that any number of processes can read.

        Raises:
            CacheError: something recorded is damaged, or the snapshot cannot be written.
        """
        from cacherl.cache.storage.freeze import freeze_cache

        return freeze_cache(self, Path(path))

    def stats(self) -> CacheStats:
        """Count what is recorded. Reads everything once, and so verifies every checksum."""
        return stats_of(self._store, name=self.name)


class _RecordedUnder(Record, frozen=True, kw_only=True):
    """The effects under which calls of a tool were filed."""

    namespace: str
    tool: str
    effects: Effects


class _Made(msgspec.Struct, frozen=True, kw_only=True):
    """A call that was made, and where."""

    declared: ToolSpec
    normal: NormalCall
    arguments: Mapping[str, Any]
    state_key: bytes
    scenario: str
    split: Split
    recorded_at: float | None
    occurrence: int
    after: str | None


class _Asked(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One lookup."""

    namespace: str
    spec: ToolSpec
    call: RecordedCall
    view: Viewpoint
    oldest: float | None
    """Observations from before do not exist."""
    draw: Draw
    policy: DrawPolicy | None
    fired: tuple[str, ...]

    @property
    def restricted(self) -> bool:
        """Say whether observations are hidden for reasons that no index knows."""
        view = self.view
        return self.oldest is not None or view.sources is not None or bool(view.exclude_scenarios)


def _start(namespace: str, scenario: str) -> str:
    return f"start/{namespace}/{scenario}"


def _first(asked: float | None, said: float | None, usual: float) -> float:
    if asked is not None:
        return asked
    return usual if said is None else said


def _kept_settings(store: CacheStore) -> Settings:
    note = store.note("settings")
    return NO_SETTINGS if note is None else msgspec.json.decode(note, type=Settings)


def _opened(path: Path | str, mode: Mode, durability: Durability) -> CacheStore:
    if str(path) == ":memory:":
        return MemoryStore()
    path = Path(path)
    if mode not in ("read", "write"):
        raise RecipeError(f"mode = {mode!r}: no such mode. There are: read, write.")
    if durability not in ("normal", "full"):
        raise RecipeError(f"durability = {durability!r}: no such. There are: normal, full.")
    if not is_snapshot(path):
        if path.is_file() and is_export(path):
            raise CacheError(
                f"{path}: an export, not a cache. Read it into one with "
                f"`cacherl cache import {path} NEW.sqlite`."
            )
        return SqliteStore(path, mode=mode, durability=durability)
    if mode != "read":
        raise CacheError(
            f"{path}: a frozen snapshot, which nothing can be recorded into. Record into the cache "
            "that it was frozen from, then `cacherl cache freeze` that again."
        )
    return SnapshotStore(path)


def _is_tools_own(result: ToolResult) -> bool:
    """Say whether the tool itself answered this call, in a way that says something about it."""
    return (
        result.tier is Tier.LIVE
        and result.source is not Source.LOOP
        and result.error_class is not ErrorClass.TRANSIENT
    )


def _answered(trajectory: Trajectory) -> list[tuple[ToolCall, ToolResult]]:
    """Pair the well-formed calls with their results; calls of a cut-off last turn have none."""
    calls = [
        call
        for message in trajectory.messages
        if isinstance(message, AssistantMessage)
        for call in message.calls
    ]
    if len(trajectory.results) > len(calls):
        raise DataError(
            f"trajectory of {trajectory.task_id}, rollout {trajectory.rollout}: "
            f"{len(trajectory.results)} results for {len(calls)} calls. Record it again."
        )
    pairs = []
    for call, result in zip(calls, trajectory.results, strict=False):
        if result.call_id != call.id:
            raise DataError(
                f"trajectory of {trajectory.task_id}, rollout {trajectory.rollout}: the result of "
                f"{result.call_id!r} stands where that of {call.id!r} belongs. Record it again."
            )
        if not isinstance(call, MalformedCall):
            pairs.append((call, result))
    return pairs


def _told(fired: tuple[Fired, ...]) -> tuple[str, ...]:
    return tuple(f"{each.path}: {each.rule}" for each in fired)


def _visible(entry: CacheEntry, asked: _Asked, *, errors: bool) -> tuple[Sequence[Kept], bool]:
    """Return the observations to draw from, and whether they may count as this scenario's answer."""
    view = asked.view
    pool: Sequence[Kept] = entry.kept
    if len(pool) == 1:
        if not _may_see(pool[0].observation, asked, errors):
            return (), False
    else:
        pool = [kept for kept in pool if _may_see(kept.observation, asked, errors)]
        if not pool:
            return (), False
    if view.scenario is None:
        return pool, True
    own = [kept for kept in pool if kept.observation.scenario == view.scenario]
    if own:
        return own, True
    # Others' answers that contradict one another show that the answer depends on the scenario.
    agreed = all(kept.observation.same_answer(pool[0].observation) for kept in pool)
    return pool, agreed and view.scope is Scope.GLOBAL


def _may_see(observation: Observation, asked: _Asked, errors: bool) -> bool:
    view = asked.view
    if observation.split not in view.splits:
        return False
    if observation.is_error and (not errors or observation.error_class is ErrorClass.TRANSIENT):
        return False
    if view.sources is not None and observation.source not in view.sources:
        return False
    if observation.scenario in view.exclude_scenarios:
        return False
    at = observation.recorded_at
    return asked.oldest is None or (at is not None and at >= asked.oldest)
