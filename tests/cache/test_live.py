"""When a tool runs for real: once for all who ask, never where it could lie or harm."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacherl.cache.episodes.episode import Episode
from cacherl.cache.episodes.ledger import MissPolicy
from cacherl.cache.episodes.live import RecordMode, SingleFlight
from cacherl.cache.episodes.replay import ReplayTools
from cacherl.cache.lookup.settings import Settings, ToolRules
from cacherl.cache.lookup.tool_cache import ToolCache
from cacherl.cache.storage.entry import Observation
from cacherl.cache.storage.store import MemoryStore
from cacherl.core.errors import CacheError, RecipeError, ToolError
from cacherl.core.messages import ToolCall
from cacherl.core.tasks import Split
from cacherl.core.tools import ErrorClass, Source, Tier, ToolResult
from tests.cache.recordings import CANCEL, GET, SEARCH, SPACE, call, result, task, trajectory

GET_A, GET_B = call(GET, order_id="A"), call(GET, order_id="B")
CANCEL_A = call(CANCEL, order_id="A")


class Shop:
    """The live tools: every answer is numbered, so that a second run of a call shows."""

    def __init__(self, *errors: ErrorClass | None, wait: Callable[[], Awaitable[object]] | None = None) -> None:  # fmt: skip
        self.ran: list[str] = []
        self._errors = itertools.chain(errors, itertools.repeat(None))
        self._wait = wait

    async def __call__(self, asked: ToolCall) -> ToolResult:
        self.ran.append(asked.name)
        number = len(self.ran)
        if self._wait is not None:
            await self._wait()
        return result(asked, f"live {number}", next(self._errors))


def shop(*steps: tuple[ToolCall, str], scenario: str = "s1") -> ToolCache:
    cache = ToolCache.open(":memory:", clock=lambda: 1234.5)
    cache.record_trajectory(
        task(scenario), trajectory(*((asked, result(asked, text)) for asked, text in steps))
    )
    return cache


def answers(episode: Episode, *calls: ToolCall) -> list[ToolResult]:
    async def play() -> list[ToolResult]:
        return [await episode.answer(each) for each in calls]

    return asyncio.run(play())


def kept(cache: ToolCache) -> list[Observation]:
    return [each.observation for entry in cache.store.entries() for each in entry.kept]


# ---- record modes


@pytest.mark.parametrize(
    ("mode", "recorded", "expected"),
    [
        (RecordMode.NONE, True, ["old", "MISS", "MISS"]),
        (RecordMode.NONE, False, ["MISS", "MISS", "MISS"]),
        (RecordMode.ONCE, True, ["old", "MISS", "MISS"]),
        (RecordMode.ONCE, False, ["live 1", "live 2", "live 2"]),
        (RecordMode.NEW_EPISODES, True, ["old", "live 1", "live 1"]),
        (RecordMode.NEW_EPISODES, False, ["live 1", "live 2", "live 2"]),
        (RecordMode.ALL, True, ["live 1", "live 2", "live 3"]),
        (RecordMode.ALL, False, ["live 1", "live 2", "live 3"]),
    ],
)
def test_the_record_modes_are_those_of_vcr(
    mode: RecordMode, recorded: bool, expected: list[str]
) -> None:
    """People know them; a mode that means nearly the same would be a trap."""
    cache = shop((GET_A, "old")) if recorded else shop((GET_A, "other"), scenario="s9")
    live = Shop()
    episode = Episode(cache, task(), live=live, record=mode, exclude_scenarios=frozenset({"s9"}))
    got = answers(episode, GET_A, GET_B, GET_B)

    assert ["MISS" if each.tier is Tier.MISS else each.text for each in got] == expected
    assert episode.ledger.live_calls == len(live.ran)


def test_once_is_once_for_all_episodes_of_an_open_cache(tmp_path: Path) -> None:
    """A group's second rollout goes on recording; the next run finds a closed scenario."""
    live = Shop()
    path = tmp_path / "c.sqlite"

    def tiers(cache: ToolCache, *calls: ToolCall) -> list[Tier]:
        episode = Episode(cache, task(), live=live, record="once")
        return [each.tier for each in answers(episode, *calls)]

    with ToolCache.open(path, mode="write") as cache:
        assert tiers(cache, GET_A) == [Tier.LIVE]
        assert tiers(cache, GET_A, GET_B) == [Tier.EXACT, Tier.LIVE]
    with ToolCache.open(path, mode="write") as cache:
        assert tiers(cache, GET_A, call(GET, order_id="C")) == [Tier.EXACT, Tier.MISS]


def test_what_goes_live_is_recorded_with_its_provenance() -> None:
    """Whoever replays it must know that it was live, when, and the how-manieth call it answered."""
    cache = shop()
    episode = Episode(cache, task(), live=Shop(), record="all", split=Split.DEV)
    got = answers(episode, GET_A, GET_A)
    observations = kept(cache)

    assert [(each.tier, each.source) for each in got] == [(Tier.LIVE, Source.LIVE)] * 2
    assert [each.occurrence for each in observations] == [0, 1]
    assert {
        (each.source, each.scenario, each.split, each.recorded_at) for each in observations
    } == {(Source.LIVE, "s1", Split.DEV, 1234.5)}


def test_what_goes_live_is_declared_as_it_declares_itself() -> None:
    """What the settings say of a tool must be free to change: it is no part of its declaration."""
    said = Settings(tools={"get_order": ToolRules(reads=("order:*",), kinds={"order_id": "text"})})
    cache = ToolCache(MemoryStore(), settings=said)
    answers(Episode(cache, task(), live=Shop()), GET_A)

    assert cache.store.tools()[SPACE, "get_order"] == GET


def test_the_live_tool_comes_before_loose_answers() -> None:
    """Where the truth can be had, nobody wants what is only near it; where not, it is better than nothing."""
    cache = shop((call(SEARCH, query="red shoes", shelf="S1"), "recorded"))
    asked = call(SEARCH, query="the red shoe", shelf="S1")

    without = answers(Episode(cache, task(), live=Shop(), record="none"), asked)
    [answer] = answers(Episode(cache, task(), live=Shop()), asked)
    assert (without[0].tier, without[0].text) == (Tier.FUZZY, "recorded")
    assert (answer.tier, answer.text) == (Tier.LIVE, "live 1")


def test_a_policy_keeps_single_tools_from_running() -> None:
    """One tool costs money: it is not called, whatever the mode."""
    live = Shop()
    episode = Episode(shop(), task(), live=live, on_miss={"search": MissPolicy.ERROR, "*": "live"})
    got = answers(episode, call(SEARCH, query="x", shelf="y"), GET_A)

    assert [each.tier for each in got] == [Tier.MISS, Tier.LIVE]
    assert live.ran == ["get_order"]


def test_a_call_can_bring_its_own_function() -> None:
    """Plain or async, its value becomes text; whatever it raises is passed on as a failure."""

    def get_order(order_id: str) -> dict[str, str]:
        if order_id == "Z":
            raise TimeoutError("too slow")
        return {"order_id": order_id}

    async def get_text(order_id: str) -> str:
        await asyncio.sleep(0)
        return f"order {order_id}"

    async def play(episode: Episode) -> list[ToolResult]:
        return [
            await episode.call("get_order", {"order_id": "A"}, live=get_order),
            await episode.call("get_order", {"order_id": "B"}, live=get_text),
            await episode.call("get_order", {"order_id": "Z"}, live=get_order),
            await episode.call("get_order", {"order_id": "A"}),
            await episode.call("get_order", {"order_id": "Z"}),
        ]

    cache = shop()
    got = asyncio.run(play(Episode(cache, task())))
    assert [each.text for each in got[:2]] == ['{"order_id":"A"}', "order B"]
    assert got[2].error_class is ErrorClass.TRANSIENT
    assert "too slow" in got[2].text
    assert [each.tier for each in got] == [Tier.LIVE] * 3 + [Tier.EXACT, Tier.MISS]


def test_replay_tools_want_live_tools_for_a_live_mode() -> None:
    """A wrong recipe stops before work starts."""
    with pytest.raises(RecipeError, match="record"):
        ReplayTools(shop(), task(), record="new_episodes")


class Counter:
    """A live world in which every cancellation shows in what is read after it."""

    def __init__(self) -> None:
        self.cancelled = {"A": 0, "B": 0}

    async def __call__(self, asked: ToolCall) -> ToolResult:
        order = str(asked.arguments["order_id"])
        if asked.name == "cancel_order":
            self.cancelled[order] += 1
        return result(asked, f"{order} cancelled {self.cancelled[order]} times")


MOVES = st.lists(
    st.builds(call, st.sampled_from([GET, CANCEL]), order_id=st.sampled_from("AB")), max_size=8
)


@given(st.lists(MOVES, min_size=1, max_size=4))
def test_episodes_that_were_recorded_live_replay_as_they_were(
    episodes: list[list[ToolCall]],
) -> None:
    """Whatever is read and written in whatever order, each episode in a world of its own."""
    cache = shop()
    for mode in (RecordMode.ALL, RecordMode.NONE):
        for moves in episodes:
            truth = Counter()
            expected = [asyncio.run(truth(each)).text for each in moves] if moves else []
            live = Episode(cache, task(), live=Counter(), record=mode, allow_writes=True)
            got = answers(live, *moves)
            assert [each.text for each in got] == expected
            assert {each.tier for each in got} <= {
                Tier.LIVE if mode is RecordMode.ALL else Tier.EXACT
            }


# ---- never


def test_a_tool_that_writes_runs_only_where_the_recipe_says_so() -> None:
    """Training must not cancel orders."""
    live = Shop()
    got = answers(Episode(shop(), task(), live=live, record="all"), CANCEL_A, call("mystery"))
    assert [each.tier for each in got] == [Tier.MISS, Tier.MISS]
    assert live.ran == []

    [answer] = answers(Episode(shop(), task(), live=live, allow_writes=True), CANCEL_A)
    assert (answer.tier, live.ran) == (Tier.LIVE, ["cancel_order"])


def test_no_tool_runs_in_a_world_that_has_not_seen_the_episodes_writes() -> None:
    """The order was cancelled in this episode only: the live shop would say that it is paid."""
    cache = shop((CANCEL_A, "done"))
    live = Shop()
    episode = Episode(cache, task(), live=live, record="all")
    got = answers(episode, CANCEL_A, GET_A, GET_B)

    assert [each.tier for each in got] == [Tier.EXACT, Tier.MISS, Tier.LIVE]
    assert live.ran == ["get_order"]


def test_a_write_that_ran_live_may_be_looked_at_live() -> None:
    """The live world has seen it; what it says then is recorded in that state and no other."""
    cache = shop((GET_A, "paid"))
    live = Shop()
    episode = Episode(cache, task(), live=live, allow_writes=True)
    got = answers(episode, GET_A, CANCEL_A, GET_A)
    again = answers(Episode(cache, task()), GET_A, CANCEL_A, GET_A)

    assert [each.text for each in got] == ["paid", "live 1", "live 2"]
    assert [(each.tier, each.text) for each in again] == [
        (Tier.EXACT, "paid"),
        (Tier.EXACT, "live 1"),
        (Tier.EXACT, "live 2"),
    ]


def test_transient_failures_are_told_and_never_recorded() -> None:
    """A time-out says nothing about the call."""
    cache = shop()
    live = Shop(ErrorClass.TRANSIENT, ErrorClass.NOT_FOUND)
    first, second, third = answers(Episode(cache, task(), live=live), GET_A, GET_A, GET_A)

    assert (first.error_class, first.tier) == (ErrorClass.TRANSIENT, Tier.LIVE)
    assert (second.error_class, second.tier) == (ErrorClass.NOT_FOUND, Tier.LIVE)
    assert (third.error_class, third.tier) == (ErrorClass.NOT_FOUND, Tier.EXACT)
    assert [each.text for each in kept(cache)] == ["live 2"]


def test_after_a_write_of_which_nobody_knows_nothing_is_exact_and_nothing_is_recorded() -> None:
    """Cancelled or not? What the shop says now belongs to neither state."""
    cache = shop((GET_A, "paid"))
    live = Shop(ErrorClass.TRANSIENT)
    episode = Episode(cache, task(), live=live, allow_writes=True)
    before = len(kept(cache))
    got = answers(episode, CANCEL_A, GET_A, GET_A)

    assert [each.tier for each in got] == [Tier.LIVE] * 3
    assert len(kept(cache)) == before
    unlike = Episode(cache, task(), live=Shop(ErrorClass.TRANSIENT), allow_writes=True)
    answers(unlike, CANCEL_A)
    assert unlike.lookup("get_order", {"order_id": "A"}).tier is Tier.BEST_EFFORT


def test_a_cache_that_was_opened_to_read_says_so(tmp_path: Path) -> None:
    """The answer would be lost."""
    ToolCache.open(tmp_path / "c.sqlite", mode="write").close()
    with (
        ToolCache.open(tmp_path / "c.sqlite") as cache,
        pytest.raises(CacheError, match="mode 'write'"),
    ):
        answers(Episode(cache, task(), live=Shop()), GET_A)


def test_tools_that_cannot_be_used_at_all_end_the_episode() -> None:
    """A lost server is not an answer: the loop ends the episode, the ledger counts nothing."""

    async def lost(_: ToolCall) -> ToolResult:
        raise ToolError("the server is gone. Start it again.")

    episode = Episode(shop(), task(), live=lost)
    with pytest.raises(ToolError):
        answers(episode, GET_A)
    assert episode.ledger.rows == ()


# ---- one flight for all


def hundred(
    cache: ToolCache, live: Shop, record: RecordMode = RecordMode.NEW_EPISODES
) -> list[ToolResult | BaseException]:
    async def play() -> list[ToolResult | BaseException]:
        episodes = [Episode(cache, task(), rollout=n, live=live, record=record) for n in range(100)]
        calls = [call(GET, order_id="A") for _ in episodes]
        pairs = zip(episodes, calls, strict=True)
        return await asyncio.gather(
            *(episode.answer(asked) for episode, asked in pairs), return_exceptions=True
        )

    return asyncio.run(play())


async def a_moment() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def test_a_hundred_concurrent_misses_make_one_live_call() -> None:
    """A group of rollouts that all ask the same first question must not storm the server."""
    cache, live = shop(), Shop(wait=a_moment)
    got = hundred(cache, live)

    assert live.ran == ["get_order"]
    assert {(each.text, each.tier) for each in got if isinstance(each, ToolResult)} == {
        ("live 1", Tier.LIVE)
    }
    assert [each.text for each in kept(cache)] == ["live 1"]


def test_its_failure_wakes_all() -> None:
    """Everybody is told at once; the next to ask tries again."""
    cache, live = shop(), Shop(ErrorClass.TRANSIENT, wait=a_moment)
    got = hundred(cache, live)

    assert live.ran == ["get_order"]
    assert len(got) == 100
    assert {each.error_class for each in got if isinstance(each, ToolResult)} == {
        ErrorClass.TRANSIENT
    }
    assert hundred(cache, live)[0] != got[0]


def test_an_exception_reaches_all_who_wait() -> None:
    """Nobody may hang because somebody else's server is gone."""

    class Lost(Shop):
        async def __call__(self, asked: ToolCall) -> ToolResult:
            await super().__call__(asked)
            raise ToolError("gone. Start it again.")

    live = Lost(wait=a_moment)
    assert {type(each) for each in hundred(shop(), live)} == {ToolError}
    assert len(live.ran) == 1


def test_where_every_call_runs_none_shares_an_answer() -> None:
    """`all` gathers observations: a hundred rollouts make a hundred of them."""
    live = Shop(wait=a_moment)
    got = hundred(shop(), live, RecordMode.ALL)

    assert len(live.ran) == len({each.text for each in got if isinstance(each, ToolResult)}) == 100


def test_writes_never_share_an_answer() -> None:
    """Two rollouts that each buy a ticket buy two."""

    async def play() -> list[ToolResult]:
        episodes = [Episode(cache, task(), live=live, allow_writes=True) for _ in range(5)]
        return await asyncio.gather(*(each.answer(CANCEL_A) for each in episodes))

    cache, live = shop(), Shop(wait=a_moment)
    assert {each.tier for each in asyncio.run(play())} == {Tier.LIVE}
    assert len(live.ran) == 5


def test_a_cancelled_waiter_leaves_the_others_alone() -> None:
    """One rollout gives up; the call goes on for the rest."""

    async def play() -> list[ToolResult | BaseException]:
        episodes = [Episode(cache, task(), live=live) for _ in range(3)]
        tasks = [asyncio.ensure_future(each.answer(GET_A)) for each in episodes]
        await asyncio.sleep(0)
        tasks[1].cancel()
        ledgers.extend(episodes)
        return await asyncio.gather(*tasks, return_exceptions=True)

    ledgers: list[Episode] = []
    cache, live = shop(), Shop(wait=a_moment)
    first, cancelled, third = asyncio.run(play())

    assert isinstance(cancelled, asyncio.CancelledError)
    assert isinstance(first, ToolResult)
    assert isinstance(third, ToolResult)
    assert first.text == third.text == "live 1"
    assert [len(each.ledger.rows) for each in ledgers] == [1, 0, 1]


def test_a_cancelled_leader_hands_over_and_leaves_nothing_behind() -> None:
    """Its call dies with it; a waiter runs the call with its own tools, and only that is recorded."""

    async def play() -> list[ToolResult | BaseException]:
        episodes[:] = [Episode(cache, task(), live=live) for live in lives]
        tasks = [asyncio.ensure_future(each.answer(GET_A)) for each in episodes]
        await asyncio.sleep(0)
        tasks[0].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    episodes: list[Episode] = []
    cache = shop()
    lives = [Shop(wait=a_moment) for _ in range(4)]
    got = asyncio.run(play())

    assert isinstance(got[0], asyncio.CancelledError)
    assert [len(live.ran) for live in lives] == [1, 1, 0, 0]
    assert {each.text for each in got[1:] if isinstance(each, ToolResult)} == {"live 1"}
    assert len(kept(cache)) == 1
    assert [len(each.ledger.rows) for each in episodes] == [0, 1, 1, 1]
    assert answers(episodes[0], GET_A)[0].tier is Tier.EXACT


def test_a_cancelled_write_may_have_happened() -> None:
    """What is read after it is neither from before nor from after."""

    async def play(episode: Episode) -> None:
        writing = asyncio.ensure_future(episode.answer(CANCEL_A))
        await asyncio.sleep(0)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)

    cache = shop((GET_A, "paid"))
    episode = Episode(cache, task(), live=Shop(wait=a_moment), allow_writes=True)
    asyncio.run(play(episode))

    assert episode.ledger.rows == ()
    assert episode.lookup("get_order", {"order_id": "A"}).tier is Tier.BEST_EFFORT


def test_threads_wait_for_one_another_too() -> None:
    """A plain function behind the cache is called from a thread pool."""
    flights: SingleFlight[int] = SingleFlight()
    gate, ran = threading.Barrier(8), itertools.count(1)
    begun, together = threading.Event(), threading.Event()

    def run() -> int:
        begun.set()
        together.wait(5)
        return next(ran)

    def one(_: int) -> int:
        gate.wait(5)
        return flights.join_blocking("key", run)

    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(one, n) for n in range(8)]
        begun.wait(5)
        together.set()
        got = [future.result(5) for future in futures]
    # Whoever came only after the first flight had landed began another: nobody got a stale value.
    assert got.count(1) >= 1
    assert next(ran) - 1 == len(set(got))


def test_event_loops_in_two_threads_share_a_flight() -> None:
    """Two trainers in one process, one cache."""
    flights: SingleFlight[str] = SingleFlight()
    landed, asked = threading.Event(), threading.Event()

    async def led() -> str:
        asked.set()
        await asyncio.to_thread(landed.wait, 5)
        return "first"

    async def never() -> str:
        return "second"

    async def follows() -> str:
        waiting = asyncio.ensure_future(flights.join("key", never))
        await asyncio.sleep(0)
        landed.set()
        return await waiting

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(lambda: asyncio.run(flights.join("key", led)))
        asked.wait(5)
        second = pool.submit(lambda: asyncio.run(follows()))
        assert [first.result(5), second.result(5)] == ["first", "first"]


def test_a_tool_that_calls_itself_does_not_wait_for_itself() -> None:
    """Recursion without an end must fail as it would without a cache, not hang."""
    flights: SingleFlight[int] = SingleFlight()

    def deep(left: int) -> int:
        return 0 if left == 0 else 1 + flights.join_blocking("key", lambda: deep(left - 1))

    assert flights.join_blocking("key", lambda: deep(3)) == 3
    assert len(flights) == 0


async def test_a_tool_does_not_run_where_its_answer_could_not_be_kept(tmp_path: Path) -> None:
    """What a tool did cannot be taken back; to find out afterwards that it is lost is too late."""
    path = tmp_path / "shop.cache"
    ToolCache.open(path, mode="write").close()
    ran: list[str] = []

    def cancel(order_id: str) -> str:
        ran.append(order_id)
        return "done"

    with ToolCache.open(path) as cache:
        ep = cache.episode("s1", namespace=SPACE, tools=[CANCEL], allow_writes=True)
        with pytest.raises(CacheError, match="could not be recorded here"):
            await ep.call("cancel_order", {"order_id": "A"}, live=cancel)

    assert ran == []
    assert ep.ledger.rows == ()


def test_a_mistyped_option_is_told() -> None:
    """`recrod` in silence would mean that the tool runs."""
    with ToolCache.open(":memory:") as cache, pytest.raises(TypeError, match="no option 'recrod'"):
        cache.episode("s1", namespace=SPACE, tools=[GET], recrod="none")  # type: ignore[call-arg]
