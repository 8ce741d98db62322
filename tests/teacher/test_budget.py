"""The budget: never overshot, whatever runs at once."""

from __future__ import annotations

import asyncio
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cacherl.core.completions import CompletionReply, CompletionRequest, Completions
from cacherl.core.errors import BudgetError, RecipeError
from cacherl.teacher.budget import Budget, Caps, Verdict, verdict
from cacherl.teacher.failure import EndpointError, Failure
from cacherl.teacher.journal import Book, Journal
from cacherl.teacher.ledger import Tally
from cacherl.teacher.lines import prompt_bound
from cacherl.teacher.pace import Pace, Retries
from cacherl.teacher.prices import NANO, Price, PricesFile, PriceTable
from tests.teacher.completions import MODEL, Told, failure, reply, request

PRICES = PriceTable(
    PricesFile(
        as_of=datetime(2026, 11, 1, tzinfo=UTC).date(),
        prices={MODEL: Price(prompt=1.0, completion=10.0)},
    )
)


def test_what_may_still_shrink_is_waited_for() -> None:
    """Requests under way are reserved at their worst; a cap must not stop a run that fits after all."""
    assert verdict(100, 60, 40, others_under_way=False) is Verdict.ASK
    assert verdict(100, 61, 40, others_under_way=True) is Verdict.WAIT
    assert verdict(100, 61, 40, others_under_way=False) is Verdict.STOP


class Bank:
    """What a provider really bills: never more than the request allows, also for replies nobody got."""

    def __init__(self, draws: list[tuple[float, float, Failure | None]]) -> None:
        self._draws = draws
        self.tokens = 0
        self.dollars = 0.0

    def answer(self, asked: CompletionRequest, number: int) -> CompletionReply | EndpointError:
        prompt_share, completion_share, kind = self._draws[number % len(self._draws)]
        prompt = int(prompt_share * prompt_bound(asked))
        completion = int(completion_share * asked.max_tokens)
        if kind is None or kind in (Failure.TIMEOUT, Failure.CUT):
            self.tokens += prompt + completion
            self.dollars += (prompt * 1.0 + completion * 10.0) / 1e6
        return failure(kind) if kind else reply(prompt=prompt, completion=completion)


DRAWS = st.lists(
    st.tuples(
        st.floats(0, 1),
        st.floats(0, 1),
        st.sampled_from([None, None, None, Failure.TIMEOUT, Failure.SERVER, Failure.CUT]),
    ),
    min_size=1,
    max_size=20,
)


@settings(max_examples=60, deadline=None)
@given(DRAWS, st.integers(1, 12), st.integers(1, 40), st.integers(100, 8000), st.integers(1, 4))
def test_no_cap_is_overshot_by_requests_at_once(
    draws: list[tuple[float, float, Failure | None]],
    workers: int,
    requests: int,
    cap_tokens: int,
    steps: int,
) -> None:
    """Eight workers that each see room for one more request must not all take it; retries count too."""
    bank = Bank(draws)
    cap_dollars = cap_tokens / 4e5

    async def run(folder: Path, caps: Caps, first: int) -> int:
        book = Book.open(folder)
        tally = Tally(PRICES)
        book.follow(tally)
        told = Told(bank.answer, steps=steps)
        stack = Journal(
            Retries(
                Budget(Pace(told, book), book, tally, caps),
                retries=2,
                first_wait_s=0.0,
            ),
            book,
            on_close=book.close,
        )
        stopped = 0

        async def work(worker: int) -> None:
            nonlocal stopped
            for number in range(first + worker, first + requests, workers):
                try:
                    await stack.complete(request(f"{number}", max_tokens=50))
                except BudgetError:
                    stopped += 1
                except EndpointError:
                    pass

        await asyncio.wait_for(asyncio.gather(*(work(each) for each in range(workers))), 30)
        assert tally.nano + tally.may_cost_nano <= cap_dollars * NANO + 1
        assert tally.tokens + tally.may_cost_tokens <= cap_tokens
        assert not book.reserved
        assert not book.admitted
        await stack.aclose()
        return stopped

    with tempfile.TemporaryDirectory() as name:
        caps = Caps(dollars=cap_dollars, tokens=cap_tokens)
        asyncio.run(run(Path(name), caps, 0))
        asyncio.run(run(Path(name), caps, 1000))  # the history counts, not the run alone
    assert bank.tokens <= cap_tokens
    assert bank.dollars <= cap_dollars + 1e-9


class Later:
    """`Completions` behind a queue: what is let in is sent a little later."""

    def __init__(self, inner: Completions) -> None:
        self._inner = inner

    @property
    def name(self) -> str:
        return self._inner.name

    async def complete(self, asked: CompletionRequest) -> CompletionReply:
        await asyncio.sleep(0.01)
        return await self._inner.complete(asked)

    async def aclose(self) -> None:
        await self._inner.aclose()


@pytest.mark.parametrize("cap", ["tokens", "dollars"])
async def test_what_waits_for_its_turn_behind_the_budget_counts(tmp_path: Path, cap: str) -> None:
    """With a rate limit many are let in before the first is sent; each has its room all the same."""
    most = prompt_bound(request("0", max_tokens=50)), 50
    caps = {
        "tokens": Caps(tokens=2 * sum(most)),
        "dollars": Caps(dollars=2.5 * (most[0] * 1.0 + most[1] * 10.0) / 1e6),
    }[cap]
    told = Told(lambda asked, number: reply(prompt=most[0], completion=most[1]))
    book = Book.open(tmp_path)
    tally = Tally(PRICES)
    book.follow(tally)
    stack = Journal(Budget(Later(Pace(told, book)), book, tally, caps), book, on_close=book.close)

    asked = (stack.complete(request(f"{number}", max_tokens=50)) for number in range(5))
    came = await asyncio.gather(*asked, return_exceptions=True)
    await stack.aclose()

    assert [type(each) for each in came] == [CompletionReply] * 2 + [BudgetError] * 3
    assert len(told.asked) == 2


async def test_a_spent_budget_says_what_was_spent_and_how_to_go_on(tmp_path: Path) -> None:
    """A clean stop: what was bought stays, and the line names the option to raise."""
    book = Book.open(tmp_path)
    tally = Tally(PRICES)
    book.follow(tally)
    told = Told()
    budget = Budget(Pace(told, book), book, tally, Caps(tokens=200))
    journal = Journal(budget, book, on_close=book.close)
    await journal.complete(request("one"))

    with pytest.raises(BudgetError) as caught:
        await journal.complete(request("two", max_tokens=500))
    free = await journal.complete(request("one"))
    await journal.aclose()

    assert free.message == reply().message
    assert len(told.asked) == 1
    line = str(caught.value)
    assert "200 tokens" in line
    assert "25 spent" in line
    assert str(tmp_path) in line
    assert "--budget-tokens" in line
    assert "\n" not in line
    assert caught.value.exit_code == 3


def test_a_cap_in_dollars_needs_a_price(tmp_path: Path) -> None:
    """A cap that cannot be held must be refused before anything is bought, with the file to write."""
    with pytest.raises(
        RecipeError, match=r"no price is known for openai:m.*--prices.*--budget-tokens"
    ):
        Budget(Told(), Book.open(None), Tally(PriceTable()), Caps(dollars=1.0))
