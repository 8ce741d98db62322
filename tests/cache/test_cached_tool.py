"""Python functions behind the cache: a hit and a live call cannot be told apart."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest

from cacherl.cache.episodes.cached_tool import NotRecordedError, cached_tool
from cacherl.cache.episodes.episode import Episode
from cacherl.cache.lookup.tool_cache import ToolCache
from cacherl.core.errors import DataError, RecipeError
from cacherl.core.functions import spec_of
from cacherl.core.schema import argument_problem
from cacherl.core.tools import Effects, ErrorClass, Tier

ORDER = Effects(reads=("order:{order_id}",))
CANCELS = Effects(reads=("order:{order_id}",), writes=("order:{order_id}",))


@dataclasses.dataclass
class Line:
    article: str
    count: int


class Order(msgspec.Struct):
    order_id: str
    placed: datetime.date
    lines: list[Line]
    tags: tuple[str, ...] = ()


def order(order_id: str) -> Order:
    return Order(order_id, datetime.date(2024, 2, 29), [Line("shoe", 2)], ("gift",))


@pytest.fixture
def cache() -> ToolCache:
    return ToolCache.open(":memory:")


def test_a_hit_gives_back_what_the_function_returned(cache: ToolCache) -> None:
    """Types and all: code behind a cache must not meet dicts where it knows objects."""
    ran = []

    @cached_tool(cache, effects=ORDER)
    def get_order(order_id: str) -> Order:
        ran.append(order_id)
        return order(order_id)

    first, again = get_order("A"), get_order(order_id="A")
    assert first == again == order("A")
    assert ran == ["A"]
    assert get_order.cache_info().calls == {Tier.LIVE: 1, Tier.EXACT: 1}
    assert get_order.cache_info().live_calls == 1
    assert get_order.__wrapped__("B") == order("B")


def test_an_async_function_stays_one(cache: ToolCache) -> None:
    """Awaited as before."""
    ran = []

    @cached_tool(cache, effects=ORDER)
    async def get_order(order_id: str) -> Order:
        ran.append(order_id)
        await asyncio.sleep(0)
        return order(order_id)

    async def play() -> list[Order]:
        together = await asyncio.gather(*(get_order("A") for _ in range(100)))
        return [*together, await get_order("A")]

    assert asyncio.run(play()) == [order("A")] * 101
    assert ran == ["A"]


def test_a_hundred_threads_run_the_function_once(cache: ToolCache) -> None:
    """Whoever comes while it runs waits, whoever comes after it finds the recording."""
    ran, gate = [], threading.Barrier(100)

    @cached_tool(cache, effects=ORDER)
    def get_order(order_id: str) -> str:
        ran.append(order_id)
        return order_id * 3

    def one(_: int) -> str:
        gate.wait(30)
        return get_order("A")

    with ThreadPoolExecutor(100) as pool:
        assert set(pool.map(one, range(100))) == {"AAA"}
    assert ran == ["A"]
    assert get_order.cache_info().live_calls == 1


def look_up(
    order_id: Annotated[str, msgspec.Meta(description="as on the bill", min_length=1)],
    state: Literal["open", "closed"] = "open",
    since: datetime.date | None = None,
    line: Line | None = None,
    limit: int = 10,
) -> list[Order]:
    """Look orders up.

    Slowly.
    """
    return []


def test_the_signature_is_the_schema() -> None:
    """A model is told what the person wrote, defaults and descriptions too."""
    spec = spec_of(look_up, effects=ORDER)
    properties = spec.parameters["properties"]

    assert (spec.name, spec.description) == ("look_up", "Look orders up.")
    assert spec.parameters["required"] == ["order_id"]
    assert properties["order_id"]["description"] == "as on the bill"
    assert properties["state"]["enum"] == ["closed", "open"]
    assert properties["limit"] == {"type": "integer", "default": 10}
    assert argument_problem(spec, {"order_id": "A", "line": {"article": "x", "count": 1}}) is None
    assert argument_problem(spec, {"order_id": ""}) is not None
    assert argument_problem(spec, {"order_id": "A", "line": {"article": "x"}}) is not None


def test_calls_that_mean_the_same_are_the_same_call(cache: ToolCache) -> None:
    """By position, by name, with the default spelled out."""
    ran = []

    @cached_tool(cache, effects=ORDER)
    def find(order_id: str, limit: int = 10, tags: frozenset[str] = frozenset()) -> int:
        ran.append(order_id)
        return limit

    assert find("A") == find("A", 10) == find(limit=10, order_id="A", tags=frozenset()) == 10
    assert find("A", 11) == 11
    find("B", tags=frozenset("abc"))
    find("B", tags=frozenset("cab"))
    assert ran == ["A", "A", "B"]


class ShopError(Exception):
    pass


def test_named_exceptions_are_recorded_and_raised_again(cache: ToolCache) -> None:
    """The agent must learn that there is no such order; the function need not be asked twice."""
    ran = []

    @cached_tool(
        cache,
        effects=ORDER,
        errors={KeyError: ErrorClass.NOT_FOUND, ShopError: ErrorClass.PERMISSION},
    )
    def get_order(order_id: str) -> Order:
        ran.append(order_id)
        raise KeyError(order_id) if order_id == "X" else ShopError("closed", 3)

    for _ in range(2):
        with pytest.raises(KeyError) as missing:
            get_order("X")
        assert missing.value.args == ("X",)
        with pytest.raises(ShopError) as closed:
            get_order("A")
        assert closed.value.args == ("closed", 3)
    assert ran == ["X", "A"]


@pytest.mark.parametrize(
    "error", [TimeoutError("slow"), LookupError("a parent"), KeyError(("not", "json", {1}))]
)
def test_other_exceptions_are_passed_on_and_never_recorded(
    cache: ToolCache, error: Exception
) -> None:
    """A time-out says nothing; what could not be raised again as it was is not kept."""
    ran = []

    @cached_tool(cache, effects=ORDER, errors={KeyError: ErrorClass.NOT_FOUND})
    def get_order(order_id: str) -> str:
        ran.append(order_id)
        if len(ran) < 3:
            raise error
        return "at last"

    for _ in range(2):
        with pytest.raises(type(error)) as caught:
            get_order("A")
        assert caught.value is error
    assert get_order("A") == get_order("A") == "at last"
    assert len(ran) == 3


def test_inside_an_episode_state_and_ledger_count(cache: ToolCache) -> None:
    """A read after a write is another read, and the rollout's ledger tells of both."""
    state = {"A": "paid"}

    @cached_tool(cache, effects=ORDER, namespace="shop")
    def get_order(order_id: str) -> str:
        return state[order_id]

    @cached_tool(cache, effects=CANCELS, namespace="shop", allow_writes=True)
    async def cancel_order(order_id: str) -> bool:
        state[order_id] = "cancelled"
        return True

    async def play() -> tuple[list[str], Episode]:
        with Episode(cache, "s1", namespace="shop", tools=(), allow_writes=True) as episode:
            said = [get_order("A")]
            await cancel_order("A")
            return [*said, get_order("A")], episode

    first, live = asyncio.run(play())
    state["A"] = "paid"
    second, replayed = asyncio.run(play())
    assert first == second == ["paid", "cancelled"]
    assert state == {"A": "paid"}
    assert [row.tier for row in live.ledger.rows] == [Tier.LIVE] * 3
    assert [row.tier for row in replayed.ledger.rows] == [Tier.EXACT] * 3
    assert [row.tool for row in live.ledger.rows] == ["get_order", "cancel_order", "get_order"]


def test_an_episode_decides_what_runs(cache: ToolCache) -> None:
    """Training says `none`, and no function behind the cache runs, whatever its decorator says."""

    @cached_tool(cache, effects=ORDER, namespace="shop")
    def get_order(order_id: str) -> str:
        raise AssertionError("ran")

    episode = Episode(cache, "s1", namespace="shop", tools=(), record="none")
    with episode, pytest.raises(NotRecordedError, match="get_order"):
        get_order("A")
    assert episode.ledger.counts[Tier.MISS] == 1
    with (
        Episode(cache, "s1", namespace="zoo", tools=()),
        pytest.raises(RecipeError, match=r"'shop'.*'zoo'"),
    ):
        get_order("A")


def test_the_modes_hold_outside_an_episode_too(tmp_path: Path) -> None:
    """Record once, then replay where nothing may run."""
    ran = []

    def tool(cache: ToolCache, record: str) -> Callable[[str], str]:
        @cached_tool(cache, effects=ORDER, record=record)
        def get_order(order_id: str) -> str:
            ran.append(order_id)
            return order_id

        return get_order

    with ToolCache.open(tmp_path / "c.sqlite", mode="write") as cache:
        assert [tool(cache, "once")(each) for each in "AAB"] == ["A", "A", "B"]
        assert tool(cache, "all")("A") == "A"
    with ToolCache.open(tmp_path / "c.sqlite") as cache:
        assert tool(cache, "none")("B") == "B"
        with pytest.raises(NotRecordedError):
            tool(cache, "none")("C")
        with pytest.raises(NotRecordedError):
            tool(cache, "once")("C")
    assert ran == ["A", "B", "A"]


def test_loose_answers_never_come_from_a_plain_cache(cache: ToolCache) -> None:
    """Code is not a reward model: only the same call has the same answer."""

    @cached_tool(cache, effects=Effects(reads=("article:*",)))
    def search(query: str, shelf: str) -> str:
        return query

    assert search("red shoes", "S1") == "red shoes"
    assert search("the red shoe", "S1") == "the red shoe"


def test_a_function_that_writes_needs_leave_and_an_episode(cache: ToolCache) -> None:
    """Undeclared counts as writing: running it on a miss could do anything."""

    def cancel_order(order_id: str) -> bool:
        return True

    with pytest.raises(RecipeError, match="allow_writes"):
        cached_tool(cache)(cancel_order)
    allowed = cached_tool(cache, effects=CANCELS, allow_writes=True)(cancel_order)
    with pytest.raises(RecipeError, match="episode"):
        allowed("A")
    with Episode(cache, "s1", namespace="python", tools=()), pytest.raises(NotRecordedError):
        allowed("A")


def test_what_cannot_be_told_in_json_is_refused_by_name(cache: ToolCache) -> None:
    """At the decorator where it can be seen there, else at the call; never kept as something else."""

    def many(*order_ids: str) -> str:
        return ""

    def opaque(lock: threading.Thread) -> str:
        return ""

    def returns() -> threading.Thread:
        return threading.Thread()

    for function in (many, opaque, returns):
        with pytest.raises(RecipeError, match=function.__name__):
            cached_tool(cache, effects=ORDER)(function)

    @cached_tool(cache, effects=ORDER)
    def lies(order_id: Any) -> int:
        return "no number"  # type: ignore[return-value]

    with pytest.raises(DataError, match="annotation"):
        lies("A")
    with pytest.raises(RecipeError, match="argument"):
        lies(object())
    assert not list(cache.store.entries())


def test_a_cached_function_that_calls_itself_ends(cache: ToolCache) -> None:
    """Every level is a call of its own, recorded as it returns."""

    @cached_tool(cache, effects=Effects(reads=("number:*",)))
    def fibonacci(n: int) -> int:
        return n if n < 2 else int(fibonacci(n - 1)) + int(fibonacci(n - 2))

    assert fibonacci(20) == 6765
    assert fibonacci.cache_info().live_calls == 21
