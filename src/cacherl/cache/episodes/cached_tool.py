"""Python functions as recorded tools.

    @cached_tool(cache, effects=Effects(reads=("order:{order_id}",)), namespace="shop")
    def get_order(order_id: str) -> Order: ...

A hit gives back what the function returned, a miss runs it and records.
"""

from __future__ import annotations

import functools
import inspect
import threading
import time
import typing
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, Protocol, TypeVar, cast

import msgspec

from cacherl.cache.episodes.episode import Answer, Episode, current_episode
from cacherl.cache.episodes.live import RecordMode
from cacherl.cache.identity.normalise import is_writer
from cacherl.cache.lookup.tool_cache import ToolCache
from cacherl.core.errors import CacheError, DataError, RecipeError
from cacherl.core.functions import spec_of
from cacherl.core.messages import ToolCall
from cacherl.core.records import Record
from cacherl.core.tasks import Split
from cacherl.core.tools import (
    UNDECLARED,
    Effects,
    ErrorClass,
    Source,
    Tier,
    ToolResult,
    ToolSpec,
)

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

_ONLY_EXACT = 2.0  # a score that no loose match reaches


class NotRecordedError(CacheError):
    """A cached function was called with what was never recorded, where it must not run."""


class CacheInfo(Record, frozen=True, kw_only=True):
    """How the calls of a cached function were answered."""

    calls: dict[Tier, int]
    """By tier; tiers that did not occur are absent."""
    live_calls: int
    """How often the function itself ran."""


class CachedTool(Protocol[P, R_co]):
    """A function behind a cache."""

    spec: ToolSpec
    """The function as a model and a cache see it."""
    __wrapped__: Callable[..., Any]
    """The function itself."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Return what was recorded of this call, or run it and record.

        Raises:
            NotRecordedError: there is no recording, and the record mode lets nothing run.
            RecipeError: the function writes, and this is no episode; or the arguments are no JSON.
            DataError: the function returned something else than it declares.
        """
        ...

    def cache_info(self) -> CacheInfo:
        """Return how the calls of this process were answered, over all episodes."""
        ...


def cached_tool(
    cache: ToolCache,
    *,
    effects: Effects = UNDECLARED,
    namespace: str = "python",
    name: str | None = None,
    scenario: str = "default",
    split: Split = Split.TRAIN,
    record: RecordMode | str = RecordMode.NEW_EPISODES,
    allow_writes: bool = False,
    errors: Mapping[type[Exception], ErrorClass] | None = None,
) -> Callable[[Callable[P, R]], CachedTool[P, R]]:
    """Return a decorator that puts a function, plain or async, behind a cache.

    Parameters and result must be what msgspec can tell in JSON: scalars, lists, dicts, dates, dataclasses,
    Structs. The annotations make the tool's JSON Schema, the first line of the docstring its
    description. The caller always gets the result as it comes back from JSON into the annotated return
    type, so that a hit and a live call cannot be told apart.

    Inside `with cache.episode(...)` a call belongs to the episode: its scenario, split, record mode, draws
    and miss policies hold, its state and ledger count. Outside each call stands alone and only EXACT
    answers count.

    Args:
        cache: opened to record, unless `record` is NONE.
        effects: what the function reads and writes. Undeclared, it may write anything.
        namespace: whose tool it is; an episode must have the same.
        name: the tool's name; the function's by default.
        scenario: outside an episode: where recordings belong.
        split: outside an episode: who may see recordings.
        record: outside an episode: when the function runs.
        allow_writes: accept a function that writes; an episode still needs its own `allow_writes`.
        errors: exceptions that say something about the call, by exact type; they are recorded and
            raised again. All others are passed on and never recorded.

    Raises:
        RecipeError: the function cannot be told as a tool, or it writes and nothing allows that.
    """
    mode = RecordMode(record)

    def decorate(function: Callable[P, R]) -> CachedTool[P, R]:
        spec = spec_of(function, name=name, effects=effects)
        if is_writer(effects) and mode is not RecordMode.NONE and not allow_writes:
            raise RecipeError(
                f"{spec.name} may write: it would run on a miss. Declare what it reads, "
                "`effects=Effects(reads=(...))`, or say `allow_writes=True`."
            )
        behind = _Function(
            function, cache, spec, namespace, scenario, split, mode, dict(errors or {})
        )
        wrapper: Any
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def wrapper(*args: Any, **kwargs: Any) -> Any:
                return await behind.call_async(args, kwargs)
        else:

            @functools.wraps(function)
            def wrapper(*args: Any, **kwargs: Any) -> Any:
                return behind.call(args, kwargs)

        wrapper.spec = spec
        wrapper.cache_info = behind.info
        return cast("CachedTool[P, R]", wrapper)

    return decorate


class _Function:
    """A function, and everything that is known of it."""

    def __init__(
        self,
        function: Callable[..., Any],
        cache: ToolCache,
        spec: ToolSpec,
        namespace: str,
        scenario: str,
        split: Split,
        record: RecordMode,
        errors: dict[type[Exception], ErrorClass],
    ) -> None:
        self._function, self._cache, self._spec = function, cache, spec
        self._namespace, self._scenario, self._split = namespace, scenario, split
        self._record, self._errors = record, errors
        self._by_name = {kind.__qualname__: kind for kind in errors}
        if len(self._by_name) < len(errors):
            raise RecipeError(f"{spec.name}: two classes of `errors` share a name. Rename one.")
        self._signature = inspect.signature(function)
        returns = typing.get_type_hints(function, include_extras=True).get("return", Any)
        try:
            msgspec.json.schema(returns)  # refuses what a decoder would take on trust
            self._decoder = msgspec.json.Decoder(returns)
        except TypeError as error:
            raise RecipeError(
                f"{spec.name} returns {returns!r}, which cannot come back from JSON ({error}). "
                "Return scalars, lists, dicts, dataclasses or msgspec Structs."
            ) from error
        self._lock = threading.Lock()
        self._tiers: Counter[Tier] = Counter()
        self._ran = 0

    def info(self) -> CacheInfo:
        with self._lock:
            return CacheInfo(calls=dict(self._tiers), live_calls=self._ran)

    def call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        call, episode = self._asked(args, kwargs), self._episode()
        turn = episode.begin(call, brings_live=True)
        if isinstance(turn, ToolResult):
            return self._value(turn)

        def run() -> Answer:
            found = episode.recheck(turn)
            if found is not None:
                return found
            started = self._start()
            try:
                result = self._result(call, self._function(*args, **kwargs))
            except Exception as error:
                recorded = self._failed(call, error)
                if recorded is None:
                    raise
                result = recorded
            return episode.ran(turn, result, time.perf_counter() - started)

        return self._value(episode.settle_blocking(turn, run))

    async def call_async(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        call, episode = self._asked(args, kwargs), self._episode()
        turn = episode.begin(call, brings_live=True)
        if isinstance(turn, ToolResult):
            return self._value(turn)

        async def run() -> Answer:
            found = episode.recheck(turn)
            if found is not None:
                return found
            started = self._start()
            try:
                result = self._result(call, await self._function(*args, **kwargs))
            except Exception as error:
                recorded = self._failed(call, error)
                if recorded is None:
                    raise
                result = recorded
            return episode.ran(turn, result, time.perf_counter() - started)

        return self._value(await episode.settle(turn, run))

    # ---- values in, values out

    def _start(self) -> float:
        with self._lock:
            self._ran += 1
        return time.perf_counter()

    def _asked(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> ToolCall:
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        try:
            arguments = msgspec.to_builtins(bound.arguments, order="deterministic")
        except (TypeError, ValueError) as error:
            raise RecipeError(
                f"{self._spec.name}: an argument cannot be told in JSON ({error}). "
                "Pass scalars, lists, dicts, dataclasses or msgspec Structs."
            ) from error
        return ToolCall(id="", name=self._spec.name, arguments=arguments)

    def _episode(self) -> Episode:
        """Return the episode that the caller stands in, or one for this call alone."""
        episode = current_episode(self._cache)
        if episode is not None:
            if episode.namespace != self._namespace:
                raise RecipeError(
                    f"{self._spec.name} is a tool of {self._namespace!r}, the episode's tools are "
                    f"those of {episode.namespace!r}. Give both the same `namespace=`."
                )
            episode.offer(self._spec)
            return episode
        if is_writer(self._spec.effects):
            raise RecipeError(
                f"{self._spec.name} writes, and outside an episode nobody knows what reads come "
                "after it. Call it inside `with cache.episode(...)`."
            )
        return Episode(
            self._cache,
            self._scenario,
            namespace=self._namespace,
            tools=(self._spec,),
            split=self._split,
            record=self._record,
            fuzzy_min_score=_ONLY_EXACT,
            best_effort_min_score=_ONLY_EXACT,
        )

    def _result(self, call: ToolCall, value: object) -> ToolResult:
        try:
            text = msgspec.json.encode(value, order="deterministic").decode()
            self._decoder.decode(text)
        except (TypeError, ValueError, OverflowError) as error:
            raise DataError(
                f"{self._spec.name} returned a {type(value).__name__} that does not come back from "
                f"JSON as what it declares ({error}). Correct its return annotation."
            ) from error
        return ToolResult(
            call_id=call.id, name=call.name, text=text, tier=Tier.LIVE, source=Source.LIVE
        )

    def _failed(self, call: ToolCall, error: Exception) -> ToolResult | None:
        """Return an exception as the tool's answer.

        None where it says nothing of the call, or could not be raised again as it was.
        """
        error_class = self._errors.get(type(error))
        if error_class is None or error_class is ErrorClass.TRANSIENT:
            return None
        said = {
            "error": type(error).__qualname__,
            "message": str(error),
            "args": list(error.args),
        }
        try:
            text = msgspec.json.encode(said).decode()
            again = self._raised(text)
        except (TypeError, ValueError, OverflowError):
            return None
        if again is None or again.args != error.args:
            return None
        return ToolResult(
            call_id=call.id,
            name=call.name,
            text=text,
            is_error=True,
            error_class=error_class,
            tier=Tier.LIVE,
            source=Source.LIVE,
        )

    def _value(self, result: ToolResult) -> Any:
        with self._lock:
            self._tiers[result.tier] += 1
        if result.is_error:
            again = self._raised(result.text)
            if again is not None:
                raise again
            raise NotRecordedError(
                f'{self._spec.name}: {result.text}. Record it with `record="new_episodes"`, or '
                "name the exception in `errors=`."
            )
        try:
            return self._decoder.decode(result.text)
        except msgspec.DecodeError as error:
            raise DataError(
                f"{self._spec.name}: the recorded answer {result.key} is not what the function "
                f"declares ({error}). Correct the annotation, or record into a new cache."
            ) from error

    def _raised(self, text: str) -> Exception | None:
        """Return a recorded exception anew, or None where it is none of those that were named."""
        try:
            said = msgspec.json.decode(text, type=_Said)
        except msgspec.DecodeError:
            return None
        kind = self._by_name.get(said.error)
        return None if kind is None else kind(*said.args)


class _Said(msgspec.Struct, frozen=True, kw_only=True):
    error: str
    args: list[Any] = []
