"""The journal: what was bought once is never bought again."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cacherl.core.completions import CompletionReply, KeptReply
from cacherl.core.errors import DataError, ModelError, RecipeError
from cacherl.teacher.failure import Failure
from cacherl.teacher.journal import REQUESTS, Book, Journal, ledger_of
from cacherl.teacher.ledger import Ledger, Tally
from cacherl.teacher.lines import (
    Asked,
    Failed,
    JournalLine,
    Replied,
    Reused,
    digest_of,
    prompt_bound,
)
from cacherl.teacher.pace import Pace
from cacherl.teacher.prices import Price, PricesFile, PriceTable
from tests.teacher.completions import MODEL, Told, failure, reply, request
from tests.teacher_server import ENVIRONMENT

PRICES = PriceTable(
    PricesFile(
        as_of=datetime(2026, 11, 1, tzinfo=UTC).date(),
        prices={MODEL: Price(prompt=1.0, cached_prompt=0.1, completion=10.0, batch=0.5)},
    )
)


def as_kept(reply: CompletionReply) -> KeptReply:
    return KeptReply(**msgspec.structs.asdict(reply))


def journal(folder: Path, told: Told) -> tuple[Journal, Book]:
    book = Book.open(folder)
    return Journal(Pace(told, book), book, on_close=book.close), book


async def test_the_same_request_is_answered_for_free_in_this_run_and_the_next(
    tmp_path: Path,
) -> None:
    """A killed recording that starts again pays only for what it had not received."""
    told = Told()
    first, _ = journal(tmp_path, told)
    bought = await first.complete(request())
    again = await first.complete(request())
    await first.aclose()
    second, _ = journal(tmp_path, told)
    later = await second.complete(request())
    await second.aclose()

    assert bought == reply()
    assert again == later == as_kept(reply())
    assert len(told.asked) == 1


async def test_everything_about_a_request_tells_it_apart(tmp_path: Path) -> None:
    """Two draws of best-of, or a judge and a teacher, must never be given one another's reply."""
    base = request()
    others = [
        request("goodbye"),
        request(purpose="record/t1/1"),
        request(max_tokens=11),
        msgspec.structs.replace(base, temperature=0.5),
        msgspec.structs.replace(base, seed=1),
        msgspec.structs.replace(base, extra={"top_k": 2}),
        msgspec.structs.replace(base, tools=({"type": "function"},)),
        msgspec.structs.replace(base, model="n"),
    ]
    told = Told()
    open_journal, _ = journal(tmp_path, told)
    for each in [base, *others]:
        await open_journal.complete(each)
    await open_journal.aclose()

    assert len(told.asked) == len(others) + 1
    assert digest_of("openai:m@http://a/v1", base) != digest_of("openai:m@http://b/v1", base)


async def test_the_same_request_at_once_is_asked_once(tmp_path: Path) -> None:
    """Two workers on one task must not both pay."""
    told = Told(steps=5)
    open_journal, _ = journal(tmp_path, told)
    replies = await asyncio.gather(*(open_journal.complete(request()) for _ in range(8)))
    await open_journal.aclose()

    assert len(told.asked) == 1
    assert replies == [reply(), *[as_kept(reply())] * 7]


async def test_when_the_first_of_two_fails_the_second_asks_for_itself(tmp_path: Path) -> None:
    """A failure is the failure of one attempt, not of all that waited for it."""
    told = Told(lambda _, number: failure(Failure.REFUSED) if number == 0 else reply(), steps=3)
    open_journal, _ = journal(tmp_path, told)
    outcomes = await asyncio.gather(
        *(open_journal.complete(request()) for _ in range(2)), return_exceptions=True
    )
    await open_journal.aclose()

    assert sorted(type(each).__name__ for each in outcomes) == ["CompletionReply", "EndpointError"]


async def test_a_torn_last_line_costs_one_reply_and_nothing_else(tmp_path: Path) -> None:
    """A machine that lost power in the middle of a write must still start."""
    told = Told(lambda asked, _: reply(str(asked.messages[0]["content"])))
    first, _ = journal(tmp_path, told)
    for text in ("one", "two"):
        await first.complete(request(text))
    await first.aclose()
    path = tmp_path / REQUESTS
    path.write_bytes(path.read_bytes()[:-10])

    second, book = journal(tmp_path, told)
    assert book.left_unanswered == 1
    assert (await second.complete(request("one"))).message["content"] == "one"
    assert (await second.complete(request("two"))).message["content"] == "two"
    await second.aclose()
    assert len(told.asked) == 3
    third, _ = journal(tmp_path, told)
    assert (await third.complete(request("two"))).message["content"] == "two"
    await third.aclose()
    assert len(told.asked) == 3


async def test_a_damaged_line_is_refused_by_number(tmp_path: Path) -> None:
    """A reply that changed on disk would be training data that nobody wrote."""
    told = Told()
    first, _ = journal(tmp_path, told)
    await first.complete(request())
    await first.aclose()
    path = tmp_path / REQUESTS
    path.write_bytes(path.read_bytes().replace(b'"hi"', b'"ho"'))

    with pytest.raises(DataError, match=r"requests\.jsonl:2: the checksum does not match"):
        Book.open(tmp_path)


def test_two_processes_cannot_write_one_journal(tmp_path: Path) -> None:
    """Both would pay for the same requests, and tear one another's lines."""
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys\nfrom pathlib import Path\nfrom cacherl.teacher.journal import Book\n"
            "Book.open(Path(sys.argv[1]))\nprint('open', flush=True)\nsys.stdin.read()",
            str(tmp_path),
        ],
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    holder.stdout.readline()

    with pytest.raises(RecipeError, match="another run writes to this journal now"):
        Book.open(tmp_path)
    holder.kill()
    holder.communicate()
    Book.open(tmp_path).close()


def test_opened_twice_in_one_process_it_is_the_same_book(tmp_path: Path) -> None:
    """A teacher and a judge of one run share a folder, and a budget."""
    first, second = Book.open(tmp_path), Book.open(tmp_path)

    assert first is second
    first.close()
    second.note(asked("00" * 16))
    second.close()
    again = Book.open(tmp_path)
    assert again.left_unanswered == 1
    again.close()


async def test_a_closed_journal_buys_nothing(tmp_path: Path) -> None:
    """A reply that cannot be kept would be paid for again."""
    told = Told()
    closed, _ = journal(tmp_path, told)
    await closed.aclose()
    await closed.aclose()

    with pytest.raises(RuntimeError, match="the journal is closed"):
        await closed.complete(request())
    assert told.asked == []


async def test_a_request_under_way_at_the_end_of_a_run_is_told(tmp_path: Path) -> None:
    """It may be billed twice; whoever pays should know how many there are."""
    book = Book.open(tmp_path)
    book.note(book.asked(request(), MODEL))
    book.close()

    second, opened = journal(tmp_path, Told())
    assert opened.left_unanswered == 1
    tally = Tally(PRICES)
    opened.follow(tally)
    await second.complete(request())
    total = tally.ledger().total
    await second.aclose()

    assert (total.requests, total.replies, total.unanswered, total.may_be_billed) == (2, 1, 1, 1)
    third = Book.open(tmp_path)
    assert third.left_unanswered == 0  # it has its reply: nothing to worry about in every later run
    third.close()


async def test_a_failed_attempt_is_counted_by_its_kind(tmp_path: Path) -> None:
    """`3 time-outs` tells what to change; `3 errors` does not."""
    kinds = [Failure.TIMEOUT, Failure.RATE_LIMIT, Failure.TIMEOUT]
    told = Told(lambda _, number: failure(kinds[number]))
    open_journal, book = journal(tmp_path, told)
    tally = Tally(PRICES)
    book.follow(tally)
    for _ in kinds:
        with pytest.raises(ModelError):
            await open_journal.complete(request())
    total = tally.ledger().total
    await open_journal.aclose()

    assert total.failures == {"rate_limit": 1, "timeout": 2}
    assert total.retries == 2
    assert total.may_be_billed == 2
    assert total.unanswered == 0
    assert total.dollars == 0.0
    bound = prompt_bound(request())
    assert total.may_cost_dollars == pytest.approx(2 * (bound * 1.0 + 10 * 10.0) / 1e6, abs=1e-8)


# ------------------------------------------------------------------- the ledger is a fold

START = datetime(2026, 11, 1, tzinfo=UTC)
DIGESTS = st.sampled_from([f"{n:032x}" for n in range(4)])


def asked(digest: str, *, batched: bool = False, at: datetime = START) -> Asked:
    return Asked(
        digest=digest,
        purpose="record/t/0",
        model=MODEL,
        at=at,
        prompt_bound=100,
        max_tokens=10,
        batched=batched,
    )


@st.composite
def histories(draw: st.DrawFn) -> list[JournalLine]:
    lines: list[JournalLine] = []
    for number in range(draw(st.integers(0, 30))):
        digest = draw(DIGESTS)
        what = draw(st.sampled_from(["asked", "failed", "replied", "reused"]))
        said = {
            "digest": digest,
            "purpose": draw(st.sampled_from(["record/a/0", "augment/a", "judge/b/1"])),
            "model": draw(st.sampled_from([MODEL, "openai:unpriced@http://127.0.0.1:1/v1"])),
            "at": START + timedelta(seconds=number),
        }
        if what == "asked":
            lines.append(Asked(**said, prompt_bound=draw(st.integers(1, 500)), max_tokens=7))  # type: ignore[arg-type]
        elif what == "failed":
            lines.append(Failed(**said, failure=draw(st.sampled_from(list(Failure)))))  # type: ignore[arg-type]
        elif what == "reused":
            lines.append(Reused(**said))  # type: ignore[arg-type]
        else:
            usage = CompletionReply(
                message={"content": "x"},
                prompt_tokens=draw(st.integers(0, 10**6)),
                cached_prompt_tokens=draw(st.integers(0, 1000)),
                completion_tokens=draw(st.integers(0, 10**5)),
                batched=draw(st.booleans()),
                estimated=draw(st.booleans()),
            )
            lines.append(Replied(**said, reply=usage))  # type: ignore[arg-type]
    return lines


@settings(max_examples=60, deadline=None)
@given(histories(), st.integers(0, 30))
def test_the_ledger_is_what_the_journal_says_and_nothing_else(
    lines: list[JournalLine], split: int
) -> None:
    """Whatever happened, in however many runs: reading the file again gives the same account."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        live = Tally(PRICES)
        for part in (lines[:split], lines[split:]):
            book = Book.open(folder)
            follower = Tally(PRICES)
            book.follow(follower)
            for line in part:
                book.note(line)
                live.add(line)
            assert follower.ledger() == live.ledger()
            assert ledger_of(folder, PRICES) == live.ledger()
            assert (follower.nano, follower.may_cost_nano) == (live.nano, live.may_cost_nano)
            book.close()
        ledger = live.ledger()
        ledger.write(folder / "ledger.json")
        assert msgspec.json.decode((folder / "ledger.json").read_bytes(), type=Ledger) == ledger
    assert ledger.total.requests == sum(isinstance(line, Asked) for line in lines)
    assert ledger.total.may_cost_tokens >= 0
    unpriced = any(isinstance(line, Replied) and line.model != MODEL for line in lines)
    assert (ledger.total.dollars is None) == unpriced
