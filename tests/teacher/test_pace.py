"""When to ask: rates that hold, one slow-down for all, and another attempt only where it may help."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacherl.teacher.failure import EndpointError, Failure
from cacherl.teacher.journal import Book
from cacherl.teacher.lines import digest_of
from cacherl.teacher.pace import LONGEST_PAUSE_S, Pace, PerLoop, Retries, SlowDown, likely_tokens
from tests.teacher.completions import Told, failure, reply, request


async def test_the_rate_holds_in_every_window() -> None:
    """A provider counts by the second as well as by the minute; bursts beyond it are refused and wasted."""
    sent: list[float] = []

    def note(*_: object) -> object:
        sent.append(asyncio.get_running_loop().time())
        return reply()

    pace = Pace(Told(note), Book.open(None), requests_per_minute=3000)  # type: ignore[arg-type]
    await asyncio.gather(*(pace.complete(request(f"{n}")) for n in range(70)))

    burst, per_s = 50, 50
    for first in range(len(sent)):
        for last in range(first, len(sent)):
            window = sent[last] - sent[first]
            assert last - first + 1 <= burst + per_s * window + 1.5


async def test_tokens_are_paced_by_what_a_request_likely_uses() -> None:
    """Long prompts fill a provider's token limit long before its request limit."""
    asked = request("x" * 400, max_tokens=400)
    likely = likely_tokens(asked)
    told = Told()
    pace = Pace(told, Book.open(None), tokens_per_minute=3 * likely)
    work = [asyncio.create_task(pace.complete(asked)) for _ in range(5)]
    for _ in range(50):
        await asyncio.sleep(0)

    assert len(told.asked) == 3
    for task in work:
        task.cancel()
    await asyncio.gather(*work, return_exceptions=True)


async def test_a_request_longer_than_the_whole_limit_is_still_asked() -> None:
    """It waits for a full minute's worth, not for ever."""
    pace = Pace(Told(), Book.open(None), tokens_per_minute=10)

    assert await pace.complete(request("x" * 1000)) == reply()


async def test_one_refusal_slows_everybody_down() -> None:
    """Eight workers that each find out for themselves hammer an endpoint that asked for quiet."""
    told = Told(
        lambda _, number: failure(Failure.RATE_LIMIT, 0.05) if number == 0 else reply(), steps=20
    )
    pace = Pace(told, Book.open(None))
    retrying = Retries(pace, retries=3)
    first = asyncio.create_task(retrying.complete(request("first")))
    for _ in range(30):
        await asyncio.sleep(0)
    assert len(told.asked) == 1
    others = [asyncio.create_task(retrying.complete(request(f"{n}"))) for n in range(8)]
    for _ in range(30):
        await asyncio.sleep(0)
    assert len(told.asked) == 1  # all wait out the pause, those too that were never refused

    await asyncio.gather(first, *others)
    assert len(told.asked) == 10
    assert told.most_under_way < 9  # and come back a few at a time


def test_the_same_news_halves_the_window_once() -> None:
    """A burst of refusals is one refusal: all of it was sent before anybody knew."""
    slow = SlowDown()
    for _ in range(8):
        slow.refused(sent_at=1.0, now=2.0, under_way=8, retry_after_s=None)

    assert slow.window == 4.0
    assert slow.not_before == 3.0
    slow.refused(sent_at=3.0, now=3.5, under_way=4, retry_after_s=None)
    assert slow.window == 2.0
    assert slow.not_before == 5.5


def test_replies_open_the_window_again() -> None:
    """A slow hour must not leave a run slow for the day."""
    slow = SlowDown()
    slow.refused(sent_at=0.0, now=1.0, under_way=2, retry_after_s=None)
    for number in range(20):
        slow.replied(sent_at=2.0 + number)

    assert slow.window > 5
    assert slow.pause_s == 0.0


@given(
    st.lists(
        st.tuples(
            st.booleans(),
            st.floats(0, 10),
            st.integers(1, 64),
            st.none() | st.floats(0, 1e6),
        ),
        max_size=50,
    )
)
def test_a_slow_down_always_ends(events: list[tuple[bool, float, int, float | None]]) -> None:
    """One request at a time always goes through, and no pause outlasts five minutes."""
    slow, now = SlowDown(), 0.0
    for refused, gap, under_way, retry_after_s in events:
        sent_at, now = now, now + gap
        if refused:
            slow.refused(sent_at=sent_at, now=now, under_way=under_way, retry_after_s=retry_after_s)
        else:
            slow.replied(sent_at=sent_at)
        assert slow.window >= 1.0
        assert slow.not_before - now <= 5 * LONGEST_PAUSE_S


@pytest.mark.parametrize("kind", [Failure.SERVER, Failure.TIMEOUT, Failure.CONNECTION, Failure.CUT])
async def test_what_may_pass_is_tried_again(kind: Failure) -> None:
    """A lost connection in the middle of a long recording is no reason to lose an episode."""
    told = Told(lambda _, number: failure(kind) if number < 2 else reply())

    assert await Retries(told, retries=2, first_wait_s=0.0).complete(request()) == reply()
    assert len(told.asked) == 3


@pytest.mark.parametrize(
    "kind", [Failure.KEY, Failure.NOT_FOUND, Failure.REFUSED, Failure.QUOTA, Failure.UNREADABLE]
)
async def test_what_will_not_pass_is_told_at_once(kind: Failure) -> None:
    """Five attempts with a wrong key are five times as late."""
    told = Told(lambda *_: failure(kind))

    with pytest.raises(EndpointError):
        await Retries(told, retries=5, first_wait_s=0.0).complete(request())
    assert len(told.asked) == 1


async def test_the_last_attempt_says_how_many_there_were() -> None:
    """`still so after 3 attempts` is another problem than `once`."""
    told = Told(lambda *_: failure(Failure.SERVER))

    with pytest.raises(EndpointError, match=r"attempt 3 of 3") as caught:
        await Retries(told, retries=2, first_wait_s=0.0).complete(request())
    assert caught.value.kind is Failure.SERVER


async def test_who_leaves_gives_the_place_free() -> None:
    """A cancelled task must not shrink the window for those that stay."""
    told = Told(lambda *_: reply(), steps=1000)
    book = Book.open(None)
    pace = Pace(told, book)
    task = asyncio.create_task(pace.complete(request()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert pace._under_way == 0
    assert book.open_attempt(digest_of(told.name, request())) is None


def test_a_model_may_serve_one_loop_after_another() -> None:
    """Each stage of a command runs a loop of its own, and connections belong to one."""
    made: list[Told] = []

    def connect() -> Told:
        made.append(Told())
        return made[-1]

    closed: list[bool] = []
    model = PerLoop("openai:m", connect, on_close=lambda: closed.append(True))

    async def two() -> None:
        await model.complete(request())
        await model.complete(request())

    asyncio.run(two())
    asyncio.run(two())
    asyncio.run(model.aclose())
    asyncio.run(model.aclose())
    assert [len(each.asked) for each in made] == [2, 2]
    assert closed == [True]
