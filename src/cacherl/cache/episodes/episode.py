"""One episode on a cache: its state, its draws, its ledger. All that replaying and recording mean."""

from __future__ import annotations

import contextlib
import contextvars
import enum
import inspect
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, TypedDict, TypeVar, Unpack

import msgspec

from cacherl.cache.episodes.ledger import Ledger, LedgerRow, MissPolicy
from cacherl.cache.episodes.live import LiveCall, RecordMode, had_recordings, shared_by
from cacherl.cache.episodes.readdress import readdress
from cacherl.cache.identity.canonical import decode_canonical
from cacherl.cache.identity.normalise import NormalCall, is_writer
from cacherl.cache.identity.state import DOUBT, NO_WRITES, CallState, StateOverlay
from cacherl.cache.lookup.draws import Draw
from cacherl.cache.lookup.hit import Explanation, Hit, Scope, Viewpoint
from cacherl.cache.lookup.settings import DrawPolicy
from cacherl.cache.lookup.tool_cache import ToolCache
from cacherl.cache.storage.entry import Observation, RecordedCall
from cacherl.core.errors import CacheError, CacheRLError, RecipeError
from cacherl.core.messages import ToolCall
from cacherl.core.schema import error_text
from cacherl.core.tasks import Split, Task
from cacherl.core.tools import ErrorClass, Source, Tier, ToolResult, ToolSpec, undeclared

_NEVER = 2.0  # no score reaches it


class EpisodeOptions(TypedDict, total=False):
    """How an episode looks, draws and answers."""

    namespace: str
    """Whose tools. Default: the task's; for a bare scenario the only one the cache holds."""
    tools: Sequence[ToolSpec]
    """The tools on offer. Default: the task's; for a bare scenario all that the cache declares."""
    seed: int
    """Of the run. With `rollout` it decides every draw. Default 0."""
    rollout: int
    """Index within the group. Default 0."""
    draw: DrawPolicy | str
    """For tools of which the cache's settings say nothing. Default SAMPLE."""
    split: Split
    """What is recorded goes here. Default: the task's, else the only one of `splits`, else TRAIN."""
    splits: frozenset[Split]
    """Observations of others cannot be seen under any tier. Default: `split` if given, else TRAIN."""
    scope: Scope | str
    """What other scenarios' observations are worth. Default GLOBAL."""
    fingerprint: Callable[[], str] | None
    """Tells the state of an environment that runs beside the episode (the simulator without its dear
    tools, say). Default: where the scenario was recorded with fingerprints, those."""
    sources: frozenset[Source] | None
    """Observations of others cannot be seen. Default None: all can."""
    exclude_scenarios: frozenset[str]
    """Observations of these cannot be seen. Default none."""
    fuzzy_min_score: float | None
    """In [0, 1]; above 1 there is no FUZZY. Default: the settings' of each tool."""
    best_effort_min_score: float | None
    """In [0, 1]; above 1 there is no BEST_EFFORT. Default: the settings' of each tool."""
    on_miss: MissPolicy | str | Mapping[str, MissPolicy | str] | None
    """One policy for all tools, or one per tool (`*` for the rest). Default: LIVE where there is a
    live tool, else ERROR. A policy that does not fit a tool (ACKNOWLEDGE for a read, LIVE
    for a write without `allow_writes`) counts as ERROR."""
    live: LiveCall | None
    """Runs a tool for real. Default None; `call` can bring its own."""
    record: RecordMode | str
    """When tools run live and are recorded. Default NEW_EPISODES; no mode runs what there is no live
    tool for. NONE never runs anything."""
    allow_writes: bool
    """Let tools that write run live, once for every call. Default False."""


class Episode:
    """One episode of one rollout. Single use; ends with the rollout.

    `lookup` only looks: nothing it does changes what any later call gets. `call` answers: it counts,
    it draws, a successful write changes the state of what is read later, and the ledger gets a row.
    Inside `with`, functions made by `cached_tool` on the same cache belong to the episode.

    Safe to use from several tasks and threads; calls whose order matters must be awaited in order.
    """

    def __init__(
        self, cache: ToolCache, about: Task | str, **options: Unpack[EpisodeOptions]
    ) -> None:
        """Start an episode.

        Args:
            cache: the recordings.
            about: the task, or the name of the scenario.
            options: see `EpisodeOptions`.

        Raises:
            RecipeError: a bare scenario, and the cache does not say whose tools are meant.
        """
        unknown = sorted(set(options) - set(EpisodeOptions.__annotations__))
        if unknown:
            known = ", ".join(EpisodeOptions.__annotations__)
            raise TypeError(f"an episode has no option {unknown[0]!r}; there are: {known}")
        self.cache = cache
        self.scenario = about.scenario if isinstance(about, Task) else about
        self.namespace = options.get("namespace") or _namespace(cache, about)
        tools = options.get("tools")
        if tools is None:
            tools = about.tools if isinstance(about, Task) else _declared(cache, self.namespace)
        self._specs = {spec.name: spec for spec in tools}
        for spec in tools:
            cache.effective(
                self.namespace, spec
            )  # what it doubts, it must doubt from the first call on
        self._seed, self._rollout = options.get("seed", 0), options.get("rollout", 0)
        self._policy = _chosen(DrawPolicy, "draw", options.get("draw", DrawPolicy.SAMPLE))
        splits = options.get("splits")
        if splits is None:
            splits = frozenset({options.get("split", Split.TRAIN)})
        self._split = options.get("split") or _recorded_under(about, splits)
        self._view = Viewpoint(
            scenario=self.scenario,
            splits=splits,
            scope=_chosen(Scope, "scope", options.get("scope", Scope.GLOBAL)),
            sources=options.get("sources"),
            exclude_scenarios=options.get("exclude_scenarios", frozenset()),
            fuzzy_min_score=options.get("fuzzy_min_score"),
            best_effort_min_score=options.get("best_effort_min_score"),
        )
        self._exactly = msgspec.structs.replace(
            self._view, fuzzy_min_score=_NEVER, best_effort_min_score=_NEVER
        )
        self._on_miss = _policies(options.get("on_miss"))
        self._live = options.get("live")
        record = options.get("record", RecordMode.NEW_EPISODES)
        self.record = _chosen(RecordMode, "record", record)
        self._allow_writes = options.get("allow_writes", False)
        self._closed = self.record is RecordMode.ONCE and had_recordings(
            cache, self.namespace, self.scenario
        )
        self._shared = shared_by(cache)
        self._overlay = StateOverlay()
        self._fingerprint = options.get("fingerprint")
        start = None if self._fingerprint else cache.start_of(self.namespace, self.scenario)
        if start is not None:
            self._overlay.fingerprint(start)
        self._unseen = StateOverlay()
        """Writes that were answered without running: the live world knows nothing of them."""
        self._doubtful = StateOverlay()
        """Writes that failed in transit: nobody knows whether the live world has seen them."""
        self._doubted = False
        self._asked: Counter[tuple[str, bytes, bytes]] = Counter()
        self._rows: list[LedgerRow] = []
        self._live_calls = 0
        self._tokens: list[contextvars.Token[Episode | None]] = []

    def __enter__(self) -> Episode:
        self._tokens.append(_CURRENT.set(self))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # A generator that is closed from elsewhere leaves in another context than it entered.
        with contextlib.suppress(ValueError):
            _CURRENT.reset(self._tokens.pop())

    @property
    def ledger(self) -> Ledger:
        """How the calls so far were answered."""
        return Ledger(rows=tuple(self._rows), live_calls=self._live_calls)

    @property
    def live_calls(self) -> int:
        """How often this episode ran a tool itself so far."""
        return self._live_calls

    def offer(self, spec: ToolSpec) -> None:
        """Add a tool, unless there is one of its name that declared itself."""
        if self._specs.get(spec.name) in (None, undeclared(spec.name)):
            self._specs[spec.name] = spec

    # ---- looking

    def lookup(self, tool: str, arguments: Mapping[str, Any]) -> Hit:
        """Return what a call would be answered from the cache now, or a MISS. Changes nothing.

        Raises:
            RecipeError: the episode has no such tool.
        """
        with self._shared.lock:
            spec, normal, state = self._stand(tool, arguments)
            return self._find(spec, normal, state, self._occurrence(spec, normal, state))

    def lookup_many(self, asked: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Hit]:
        """Return what `lookup` returns for each, with one round trip to the store for all.

        Raises:
            RecipeError: the episode has no such tool.
        """
        with self._shared.lock:
            stands = [self._stand(tool, arguments) for tool, arguments in asked]
            self.cache.prefetch(
                [
                    RecordedCall.of(self.namespace, spec.name, normal.canonical, state.key)
                    for spec, normal, state in stands
                ]
            )
            return [
                self._find(spec, normal, state, self._occurrence(spec, normal, state))
                for spec, normal, state in stands
            ]

    def explain(self, tool: str, arguments: Mapping[str, Any]) -> Explanation:
        """Return what `lookup` finds, why, and what came closest. Scans the tool's recordings.

        Raises:
            RecipeError: the episode has no such tool.
        """
        with self._shared.lock:
            spec, normal, state = self._stand(tool, arguments)
            return self.cache.explain(
                self.namespace,
                spec,
                arguments,
                state_key=state.key,
                view=self._view,
                draw=self._draw(self._occurrence(spec, normal, state)),
            )

    def _stand(
        self, tool: str, arguments: Mapping[str, Any]
    ) -> tuple[ToolSpec, NormalCall, CallState]:
        spec = self._specs.get(tool)
        if spec is None:
            raise RecipeError(
                f"no tool {tool} in this episode; there are: {_names(self._specs)}. "
                "Give it with `tools=[...]`."
            )
        spec = self.cache.effective(self.namespace, spec)
        normal = self.cache.normal(spec, arguments)
        return spec, normal, self._state(spec, normal)

    def _state(self, spec: ToolSpec, normal: NormalCall) -> CallState:
        if self._fingerprint is not None:
            self._overlay.fingerprint(self.cache.bare(self._fingerprint()))
        state = self._overlay.state(spec.effects, normal.arguments)
        if self._doubted and self._touched(self._doubtful, spec, normal):
            return CallState(key=state.key + DOUBT)
        return state

    @staticmethod
    def _touched(writes: StateOverlay, spec: ToolSpec, normal: NormalCall) -> bool:
        return writes.state(spec.effects, normal.arguments).key != NO_WRITES

    def _occurrence(self, spec: ToolSpec, normal: NormalCall, state: CallState) -> int:
        return self._asked.get((spec.name, normal.canonical, state.key), 0)

    def _draw(self, occurrence: int) -> Draw:
        return Draw(
            seed=self._seed, rollout=self._rollout, occurrence=occurrence, policy=self._policy
        )

    def _find(
        self,
        spec: ToolSpec,
        normal: NormalCall,
        state: CallState,
        occurrence: int,
        view: Viewpoint | None = None,
    ) -> Hit:
        return self.cache.find(
            self.namespace,
            spec,
            normal,
            state_key=state.key,
            view=view or self._view,
            draw=self._draw(occurrence),
        )

    # ---- answering

    async def call(
        self,
        tool: str,
        arguments: Mapping[str, Any],
        *,
        live: Callable[..., Any] | None = None,
        call_id: str = "",
    ) -> ToolResult:
        """Answer a call, and count it.

        Misses and failing tools are results, not exceptions.

        Args:
            tool: its name.
            arguments: the call's.
            live: runs this tool where nothing recorded is EXACT and the record mode lets it: any
                function, called with the arguments by name, plain or async. Its result becomes
                text as JSON; a string stays as it is, a `ToolResult` too. Raising counts as a
                transient failure, which is never recorded.
            call_id: goes into the result.

        Raises:
            CacheError: the cache is damaged, or was not opened to record.
        """
        runs = None if live is None else _as_live(live)
        return await self.answer(ToolCall(id=call_id, name=tool, arguments=dict(arguments)), runs)

    async def answer(self, call: ToolCall, live: LiveCall | None = None) -> ToolResult:
        """Answer a call as a `Tools` does; `live` stands in for the episode's own."""
        turn = self.begin(call, brings_live=live is not None)
        if isinstance(turn, ToolResult):
            return turn
        runs = live or self._live
        if runs is None:
            raise TypeError("a turn is open only where something can run")
        return await self.settle(turn, partial(self._run, turn, runs))

    def begin(self, call: ToolCall, *, brings_live: bool = False) -> ToolResult | Turn:
        """Answer a call from the cache, or return the turn in which its tool has to run.

        A turn that was begun must be settled.
        """
        spec = self._specs.get(call.name)
        if spec is None:
            return self._unknown(call)
        with self._shared.lock:
            spec = self.cache.effective(self.namespace, spec)
            normal = self.cache.normal(spec, call.arguments)
            state = self._state(spec, normal)
            same = (spec.name, normal.canonical, state.key)
            occurrence = self._asked[same]
            may_run = (brings_live or self._live is not None) and self._may_run(
                spec, normal, brings_live
            )
            if may_run and self.record is RecordMode.ALL:
                hit = None
            else:
                view = self._exactly if may_run else self._view
                hit = self._find(spec, normal, state, occurrence, view)
            found = hit is not None and hit.observation is not None
            if may_run and not found and not self.cache.store.writable:
                # Before it runs: what a tool did cannot be taken back, and its answer would be lost.
                raise CacheError(
                    f"{self.cache.name}: {spec.name} would have to run live, and what it answers could "
                    "not be recorded here. Open a cache file with mode 'write', or say record='none'."
                )
            self._asked[same] = occurrence + 1
            turn = Turn(call=call, spec=spec, normal=normal, state=state, occurrence=occurrence)
            if hit is not None and hit.observation is not None:
                return self.finish(turn, _served(call, hit, hit.observation))
            if not may_run:
                return self.finish(turn, self._missed(turn, brings_live))
        turn.alone = is_writer(spec.effects) or self.record is RecordMode.ALL
        turn.flight = (self.namespace, *same, self.scenario, self._split)
        return turn

    async def settle(self, turn: Turn, run: Callable[[], Awaitable[Answer]]) -> ToolResult:
        """Run an open turn's tool, unless an equal call is running it already; return the result."""
        try:
            flights = self._shared.flights
            answer = await run() if turn.alone else await flights.join(turn.flight, run)
        except BaseException:
            self.abandon(turn)
            raise
        return self.finish(turn, answer)

    def settle_blocking(self, turn: Turn, run: Callable[[], Answer]) -> ToolResult:
        """Do what `settle` does, among threads."""
        try:
            flights = self._shared.flights
            answer = run() if turn.alone else flights.join_blocking(turn.flight, run)
        except BaseException:
            self.abandon(turn)
            raise
        return self.finish(turn, answer)

    def finish(self, turn: Turn, answer: Answer) -> ToolResult:
        """Put an answer into the ledger and into the state; return it as this call's result."""
        result = answer.result
        if result.call_id != turn.call.id:
            result = msgspec.structs.replace(result, call_id=turn.call.id)
        with self._shared.lock:
            self._rows.append(answer.row)
            if turn.spec.effects.writes:
                self._wrote(turn, result)
            if answer.after is not None and result.tier is Tier.EXACT:
                # A looser answer says nothing of the state that this episode is in.
                self._overlay.fingerprint(answer.after)
        return result

    def abandon(self, turn: Turn) -> None:
        """Forget a call that was cancelled, or whose tools cannot be used at all: it was not answered.

        A write that had begun may have happened.
        """
        same = (turn.spec.name, turn.normal.canonical, turn.state.key)
        with self._shared.lock:
            self._asked[same] -= 1
            self._doubt(turn)

    def doubt(self, turn: Turn) -> None:
        """Take it that the live world may not have seen a write: its server was started anew, say."""
        with self._shared.lock:
            self._doubt(turn)

    def _wrote(self, turn: Turn, result: ToolResult) -> None:
        if result.error_class is ErrorClass.TRANSIENT:
            self._doubt(turn)
        elif not result.is_error:
            redactor = self.cache.redactor
            text = result.text
            if redactor is not None:
                text = redactor.text(text, echoing=turn.call.arguments)
            spec, normal = turn.spec, turn.normal
            change = (spec.name, spec.effects, normal.arguments, normal.canonical, turn.state, text)
            self._overlay.write(*change)
            if result.tier is not Tier.LIVE:
                self._unseen.write(*change)

    def _doubt(self, turn: Turn) -> None:
        spec, normal = turn.spec, turn.normal
        self._doubted = self._doubted or bool(spec.effects.writes)
        for overlay in (self._overlay, self._doubtful):
            overlay.uncertain(spec.name, spec.effects, normal.arguments, normal.canonical)

    # ---- running a tool

    def _may_run(self, spec: ToolSpec, normal: NormalCall, brings_live: bool) -> bool:
        if self._closed or self.record is RecordMode.NONE:
            return False
        if self._miss_policy(spec, brings_live) is not MissPolicy.LIVE:
            return False
        return not self._touched(self._unseen, spec, normal)

    async def _run(self, turn: Turn, live: LiveCall) -> Answer:
        found = self.recheck(turn)
        if found is not None:
            return found
        started = time.perf_counter()
        try:
            result = await live(turn.call)
        except CacheRLError:
            raise  # the tools cannot be used at all
        except Exception as error:  # noqa: BLE001 - whatever a tool raises, the model sees
            result = _failed(turn.call, error)
        return self.ran(turn, result, time.perf_counter() - started)

    def recheck(self, turn: Turn) -> Answer | None:
        """Return what somebody else recorded of an open turn's call just now, or None."""
        if turn.alone:
            return None
        with self._shared.lock:
            hit = self._find(turn.spec, turn.normal, turn.state, turn.occurrence, self._exactly)
        return None if hit.observation is None else _served(turn.call, hit, hit.observation)

    def ran(self, turn: Turn, result: ToolResult, seconds: float) -> Answer:
        """Count and keep what a tool itself answered to the call of a turn.

        Not kept: what `ToolCache.record` never keeps, and what a write that may or may not have
        happened could have changed.
        """
        if not result.latency_s:
            result = msgspec.structs.replace(result, latency_s=seconds)
        spec, normal = turn.spec, turn.normal
        kept = False
        with self._shared.lock:
            self._live_calls += 1
            if not self._touched(self._doubtful, spec, normal):
                kept = self.cache.record(
                    self.namespace,
                    self._specs[spec.name],  # as it declares itself
                    turn.call,
                    result,
                    state_key=turn.state.key,
                    scenario=self.scenario,
                    split=self._split,
                    occurrence=turn.occurrence,
                    after=None if self._fingerprint is None else self._fingerprint(),
                )
        row = _row(result, hit=None, policy=MissPolicy.LIVE)
        return Answer(result=result, row=row, kept=kept)

    # ---- misses

    def _unknown(self, call: ToolCall) -> ToolResult:
        """Answer as the loop does: live tools would have refused the name just the same."""
        result = ToolResult(
            call_id=call.id,
            name=call.name,
            text=error_text(
                "unknown_tool", f"no tool {call.name}; there are: {_names(self._specs)}"
            ),
            is_error=True,
            error_class=ErrorClass.VALIDATION,
            tier=Tier.EXACT,
            source=Source.LOOP,
        )
        with self._shared.lock:
            self._rows.append(_row(result, hit=None, policy=None))
        return result

    def _miss_policy(self, spec: ToolSpec, brings_live: bool) -> MissPolicy:
        policy = self._on_miss.get(spec.name) or self._on_miss.get("*")
        if policy is None:
            wanted = brings_live or self._live is not None
            policy = MissPolicy.LIVE if wanted else MissPolicy.ERROR
        if is_writer(spec.effects):
            fits = policy is MissPolicy.ACKNOWLEDGE or (
                policy is MissPolicy.LIVE and self._allow_writes
            )
        else:
            fits = policy is not MissPolicy.ACKNOWLEDGE
        return policy if fits else MissPolicy.ERROR

    def _missed(self, turn: Turn, brings_live: bool) -> Answer:
        call, spec, normal = turn.call, turn.spec, turn.normal
        policy = self._miss_policy(spec, brings_live)
        if policy in (MissPolicy.BEST_EFFORT, MissPolicy.ACKNOWLEDGE):
            hit = self.cache.nearest_success(
                self.namespace, spec, normal, view=self._view, draw=self._draw(turn.occurrence)
            )
            if hit.observation is not None:
                if policy is MissPolicy.BEST_EFFORT:
                    return _served(call, hit, hit.observation, policy)
                return self._acknowledged(turn, hit, hit.observation)
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
        return Answer(result=result, row=_row(result, hit=None, policy=MissPolicy.ERROR))

    def _acknowledged(self, turn: Turn, hit: Hit, success: Observation) -> Answer:
        recorded = decode_canonical((hit.matched_arguments or "{}").encode())
        about = (self.cache.plan(turn.spec), recorded, turn.normal.arguments)
        text = readdress(success.text, *about)
        wire = None if success.wire is None else readdress(success.wire, *about)
        result = ToolResult(
            call_id=turn.call.id,
            name=turn.call.name,
            text=text,
            wire=wire,
            tier=Tier.BEST_EFFORT,
            score=hit.score,
            source=Source.SIMULATED,
            state_matched=False,
            key=hit.key,
            latency_s=success.latency_s,
        )
        return Answer(result=result, row=_row(result, hit=hit, policy=MissPolicy.ACKNOWLEDGE))


_CURRENT: contextvars.ContextVar[Episode | None] = contextvars.ContextVar(
    "cacherl_episode", default=None
)


def current_episode(cache: ToolCache) -> Episode | None:
    """Return the innermost episode on this cache that the caller stands in, or None."""
    episode = _CURRENT.get()
    return episode if episode is not None and episode.cache is cache else None


class Turn(msgspec.Struct, kw_only=True):
    """A call in the state it was made in."""

    call: ToolCall
    spec: ToolSpec
    normal: NormalCall
    state: CallState
    occurrence: int
    alone: bool = False
    """Every such call runs; none shares another's answer."""
    flight: tuple[Any, ...] = ()
    """Equal for calls that one run can answer."""


class Answer(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a call is answered, and how the ledger tells it."""

    result: ToolResult
    row: LedgerRow
    after: str | None = None
    """The environment's state after the call, where the recording knows it."""
    kept: bool = False
    """Whether what the tool answered just now is in the cache."""


E = TypeVar("E", bound=enum.Enum)


def _chosen(kind: type[E], name: str, value: E | str) -> E:
    try:
        return kind(value)
    except ValueError:
        known = ", ".join(f'"{each.value}"' for each in kind)
        raise RecipeError(f"{name} = {value!r} is none of {known}. Choose one of these.") from None


def _policies(
    given: MissPolicy | str | Mapping[str, MissPolicy | str] | None,
) -> dict[str, MissPolicy]:
    by_tool = given if isinstance(given, Mapping) else {} if given is None else {"*": given}
    return {
        tool: _chosen(MissPolicy, f"on_miss of {tool}", policy) for tool, policy in by_tool.items()
    }


def _namespace(cache: ToolCache, about: Task | str) -> str:
    if isinstance(about, Task):
        return about.namespace
    known = sorted({namespace for namespace, _ in cache.store.tools()})
    if len(known) == 1:
        return known[0]
    raise RecipeError(
        f"{cache.name}: whose tools does scenario {about!r} use? The cache knows "
        f"{', '.join(known) or 'none'}. Give `namespace=`, or a task."
    )


def _declared(cache: ToolCache, namespace: str) -> list[ToolSpec]:
    return [spec for (space, _), spec in cache.store.tools().items() if space == namespace]


def _recorded_under(about: Task | str, splits: frozenset[Split]) -> Split:
    if isinstance(about, Task):
        return about.split
    return next(iter(splits)) if len(splits) == 1 else Split.TRAIN


def _names(specs: Mapping[str, ToolSpec]) -> str:
    return ", ".join(specs) or "none"


def _as_live(function: Callable[..., Any]) -> LiveCall:
    async def live(call: ToolCall) -> ToolResult:
        value = function(**call.arguments)
        if inspect.isawaitable(value):
            value = await value
        return value if isinstance(value, ToolResult) else live_result(call, value)

    return live


def live_result(call: ToolCall, value: object) -> ToolResult:
    """Return what a function returned as its tool's answer."""
    text = value if isinstance(value, str) else _json(value)
    return ToolResult(
        call_id=call.id, name=call.name, text=text, tier=Tier.LIVE, source=Source.LIVE
    )


def _json(value: object) -> str:
    try:
        return msgspec.json.encode(value).decode()
    except UnicodeEncodeError:
        return json.dumps(value)  # a lone surrogate: only the escaping encoder can write it


def _failed(call: ToolCall, error: Exception) -> ToolResult:
    return ToolResult(
        call_id=call.id,
        name=call.name,
        text=error_text("tool_failed", f"{type(error).__name__}: {error}"),
        is_error=True,
        error_class=ErrorClass.TRANSIENT,
        tier=Tier.LIVE,
        source=Source.LIVE,
    )


def _served(
    call: ToolCall, hit: Hit, observation: Observation, policy: MissPolicy | None = None
) -> Answer:
    result = ToolResult(
        call_id=call.id,
        name=call.name,
        text=observation.text,
        wire=observation.wire,
        is_error=observation.is_error,
        error_class=observation.error_class,
        tier=hit.tier,
        fidelity=hit.fidelity,
        score=hit.score,
        source=observation.source,
        state_matched=hit.state_matched,
        key=hit.key,
        alternatives=hit.alternatives,
        shared=hit.shared,
        latency_s=observation.latency_s,
    )
    row = _row(result, hit=hit, policy=policy)
    return Answer(result=result, row=row, after=observation.after)


def _row(result: ToolResult, *, hit: Hit | None, policy: MissPolicy | None) -> LedgerRow:
    return LedgerRow(
        tool=result.name,
        tier=result.tier,
        key=result.key,
        fidelity=result.fidelity,
        score=result.score,
        state_matched=result.state_matched,
        scenario_matched=hit is None or hit.scenario_matched,
        is_error=result.is_error,
        observations=0 if hit is None else hit.observations,
        drawn=0 if hit is None else hit.drawn,
        alternatives=result.alternatives,
        shared=result.shared,
        policy=policy,
    )
