"""`ShadowTools`: one side answers the policy, and the other is asked the same after the same calls."""

from __future__ import annotations

from collections import Counter

from cacherl.cache.episodes.episode import EpisodeOptions
from cacherl.cache.episodes.replay import ReplayTools
from cacherl.cache.identity.state import StateOverlay
from cacherl.cache.lookup.draws import Draw
from cacherl.cache.lookup.hit import Hit, Scope, Viewpoint
from cacherl.cache.lookup.settings import DrawPolicy
from cacherl.cache.lookup.tool_cache import ToolCache
from cacherl.core.errors import ModelError, ToolError
from cacherl.core.messages import ToolCall
from cacherl.core.records import JsonObject
from cacherl.core.tasks import Split, Task
from cacherl.core.tools import Effects, ErrorClass, Tier, ToolResult, ToolSpec, undeclared
from cacherl.core.worlds import Epilogue, Person, WorldTools
from cacherl.shadow.compared import HITS, Compared, Said, Serve, sameness


class ShadowTools:
    """The tools of one episode: served by the cache or by the world, with the other beside (`WorldTools`).

    What is served is fixed before the other side is asked, so the policy behaves as it would without a
    shadow. The world beside is stepped along with every call; the cache beside follows what the world said.
    From the first write on that came out differently on the two sides they stand in different states
    (`Compared.parted`): with the cache serving, that is a write which was a miss there and happened here.

    A world beside that fails ends nothing: the call is `NOT_COMPARED`. A world that serves and fails ends
    the episode as it does anywhere.
    """

    def __init__(
        self,
        cache: ToolCache,
        task: Task,
        live: WorldTools,
        *,
        serve: Serve,
        may_write: bool = True,
        options: EpisodeOptions | None = None,
    ) -> None:
        """Start an episode.

        Args:
            cache: the recordings.
            task: whose episode it is.
            live: fresh tools of the task's scenario; closed with this.
            serve: whose answers the policy sees.
            may_write: let tools that write run in a world beside. False for tools that act on something
                outside: their writes are not made, and cache and world part there.
            options: how the cache answers. Without live tools of its own: these run beside it.

        Raises:
            RecipeError: an option makes no sense.
        """
        options = options or {}
        self.compared: list[Compared] = []
        self.serve = serve
        self.broken = ""
        """Why the world beside cannot be used any more; empty while it can."""
        self._cache, self._task, self._live = cache, task, live
        self._may_write = may_write
        self._same = sameness(cache)
        self._specs = {spec.name: spec for spec in task.tools}
        self._parted = ""
        self._beside: _Following | ReplayTools = (
            ReplayTools(cache, task, **options)
            if serve is Serve.CACHED
            else _Following(cache, task, options)
        )
        self._state = self._fingerprint()

    async def call(self, call: ToolCall) -> ToolResult:
        if isinstance(self._beside, ReplayTools):
            return await self._from_cache(self._beside, call)
        return await self._from_world(self._beside, call)

    async def _from_cache(self, cached: ReplayTools, call: ToolCall) -> ToolResult:
        served = await cached.call(call)
        effects = self._effects(call)
        live, failure = await self._asked(call, effects)
        row = cached.ledger.rows[-1]
        self._keep(call, effects, served, row.scenario_matched, live, failure)
        return served

    async def _from_world(self, cached: _Following, call: ToolCall) -> ToolResult:
        hit = cached.ask(call)
        served = await self._live.call(call)
        beside = _result(call, hit)
        failed = served.error_class is ErrorClass.TRANSIENT
        same = self._keep(
            call,
            self._effects(call),
            beside,
            hit.scenario_matched,
            None if failed else served,
            served.text if failed else "",
        )
        cached.follow(call, served, hit.observation.after if hit.observation and same else None)
        return served

    async def _asked(self, call: ToolCall, effects: Effects) -> tuple[ToolResult | None, str]:
        """Ask the world beside; return its answer, or why there is none."""
        if self.broken:
            return None, self.broken
        if effects.writes and not self._may_write:
            return None, "it may write, and these tools act on something outside: it was not run"
        try:
            live = await self._live.call(call)
        except (ToolError, ModelError, OSError) as error:
            self.broken = str(error)
            return None, self.broken
        if live.error_class is ErrorClass.TRANSIENT:
            return None, live.text
        return live, ""

    def _keep(
        self,
        call: ToolCall,
        effects: Effects,
        cached: ToolResult,
        scenario_matched: bool,
        live: ToolResult | None,
        failure: str,
    ) -> bool:
        """Keep what both said; say whether it was the same."""
        hit = cached.tier in HITS
        same = None
        if live is not None and hit:
            same = self._same(self._task.namespace, call, cached, live)
        before, self._state = self._state, self._fingerprint()
        changed = before != self._state if before and self._state else None
        self.compared.append(
            Compared(
                tool=call.name,
                arguments=call.arguments,
                tier=cached.tier,
                cached=_said(cached) if hit or self.serve is Serve.CACHED else None,
                live=None if live is None else _said(live),
                same=same,
                fidelity=cached.fidelity,
                score=cached.score,
                state_matched=cached.state_matched,
                scenario_matched=scenario_matched,
                alternatives=cached.alternatives,
                key=cached.key,
                writes=bool(effects.writes),
                ages=effects.open_world,
                changed=changed,
                parted=self._parted,
                failure=failure,
            )
        )
        if self.serve is Serve.CACHED and not self._parted and (effects.writes or changed):
            # Beside a world that serves, the cache follows it: those two never part.
            self._parted = _parting(len(self.compared), call, cached, live, same)
        return same == 1.0

    def _effects(self, call: ToolCall) -> Effects:
        return self._cache.effective(self._task.namespace, _spec(self._specs, call)).effects

    def _fingerprint(self) -> str:
        if self.broken:
            return ""
        try:
            return self._live.fingerprint()
        except (ToolError, OSError):
            return ""

    def fingerprint(self) -> str:
        """Return the world's state, where the policy acted on it or it was stepped along; else nothing."""
        return self._state

    @property
    def parted(self) -> str:
        """Why cache and world stand in different states by now; empty while they do not."""
        return self._parted

    async def aclose(self) -> None:
        await self._live.aclose()


class ShadowToolsWithPerson(ShadowTools):
    """The same over a world that plays the user and keeps something of the episode (`Person`, `Epilogue`)."""

    async def say(self, heard: str) -> str | None:
        return await self._live.say(heard) if isinstance(self._live, Person) else None

    async def epilogue(self) -> JsonObject:
        return await self._live.epilogue() if isinstance(self._live, Epilogue) else {}


def _parting(
    number: int, call: ToolCall, cached: ToolResult, live: ToolResult | None, same: float | None
) -> str:
    """Return why a write leaves the two sides in different states, or nothing where it does not."""
    where = f"since call {number}, {call.name}: "
    if live is None:
        return "" if cached.is_error else where + "written in the cache, not in the world"
    if cached.is_error and live.is_error:
        return ""  # neither of them wrote
    if cached.is_error:
        missed = "a miss" if cached.tier is Tier.MISS else "an error"
        return where + f"{missed} in the cache, done in the world"
    if live.is_error:
        return where + "done in the cache, refused by the world"
    return "" if same == 1.0 else where + "both did it, with different answers"


class _Following:
    """The cache beside a world that serves: looked up in the state that the world's answers led to."""

    def __init__(self, cache: ToolCache, task: Task, options: EpisodeOptions) -> None:
        self._cache, self._task = cache, task
        self._specs = {spec.name: spec for spec in task.tools}
        for spec in task.tools:
            cache.effective(task.namespace, spec)  # what it doubts, it must doubt from the start
        splits = options.get("splits")
        self._view = Viewpoint(
            scenario=task.scenario,
            splits=frozenset({options.get("split", Split.TRAIN)}) if splits is None else splits,
            scope=Scope(options.get("scope", Scope.GLOBAL)),
            sources=options.get("sources"),
            exclude_scenarios=options.get("exclude_scenarios", frozenset()),
            fuzzy_min_score=options.get("fuzzy_min_score"),
            best_effort_min_score=options.get("best_effort_min_score"),
        )
        self._draw = (options.get("seed", 0), options.get("rollout", 0))
        self._policy = DrawPolicy(options.get("draw", DrawPolicy.SAMPLE))
        self._overlay = StateOverlay()
        start = cache.start_of(task.namespace, task.scenario)
        if start is not None:
            self._overlay.fingerprint(start)
        self._asked: Counter[tuple[str, bytes, bytes]] = Counter()

    def ask(self, call: ToolCall) -> Hit:
        """Return what the cache has for a call that is about to be made."""
        spec = self._cache.effective(self._task.namespace, _spec(self._specs, call))
        normal = self._cache.normal(spec, call.arguments)
        state = self._overlay.state(spec.effects, normal.arguments)
        seed, rollout = self._draw
        return self._cache.find(
            self._task.namespace,
            spec,
            normal,
            state_key=state.key,
            view=self._view,
            draw=Draw(
                seed=seed,
                rollout=rollout,
                occurrence=self._asked[spec.name, normal.canonical, state.key],
                policy=self._policy,
            ),
        )

    def follow(self, call: ToolCall, result: ToolResult, after: str | None) -> None:
        """Take it that the world answered so."""
        spec = self._cache.effective(self._task.namespace, _spec(self._specs, call))
        normal = self._cache.normal(spec, call.arguments)
        state = self._overlay.state(spec.effects, normal.arguments)
        self._asked[spec.name, normal.canonical, state.key] += 1
        change = (spec.name, spec.effects, normal.arguments, normal.canonical)
        if result.error_class is ErrorClass.TRANSIENT:
            self._overlay.uncertain(*change)
        elif not result.is_error:
            text = result.text
            if self._cache.redactor is not None:
                text = self._cache.redactor.text(text, echoing=call.arguments)
            self._overlay.write(*change, state, text)
        if after is not None:
            self._overlay.fingerprint(after)


def _spec(specs: dict[str, ToolSpec], call: ToolCall) -> ToolSpec:
    return specs.get(call.name) or undeclared(call.name)


def _said(result: ToolResult) -> Said:
    return Said(text=result.text, is_error=result.is_error)


def _result(call: ToolCall, hit: Hit) -> ToolResult:
    """Return what a hit would be served as; a miss has no text, since nothing serves it."""
    seen = hit.observation
    return ToolResult(
        call_id=call.id,
        name=call.name,
        text="" if seen is None else seen.text,
        is_error=seen is None or seen.is_error,
        error_class=None if seen is None else seen.error_class,
        tier=hit.tier,
        fidelity=hit.fidelity,
        score=hit.score,
        source=None if seen is None else seen.source,
        state_matched=hit.state_matched,
        key=hit.key,
        alternatives=hit.alternatives,
    )


def open_shadow(
    cache: ToolCache,
    task: Task,
    live: WorldTools,
    *,
    serve: Serve,
    may_write: bool = True,
    options: EpisodeOptions | None = None,
) -> ShadowTools:
    """Return shadow tools that play the user where the world does. Arguments as `ShadowTools`."""
    plays = isinstance(live, Person | Epilogue)
    kind = ShadowToolsWithPerson if plays else ShadowTools
    return kind(cache, task, live, serve=serve, may_write=may_write, options=options)


__all__ = ["ShadowTools", "open_shadow"]
