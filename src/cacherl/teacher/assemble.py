"""The wrappers around a live endpoint, in their order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cacherl.core.completions import Completions
from cacherl.teacher.batch import Batching, BatchService
from cacherl.teacher.budget import Budget, Caps, check_priced
from cacherl.teacher.chat import EndpointChat
from cacherl.teacher.journal import Book, Journal
from cacherl.teacher.ledger import Tally
from cacherl.teacher.options import Endpoint, TeacherOptions
from cacherl.teacher.pace import Pace, PerLoop, Retries
from cacherl.teacher.prices import PriceTable

LEDGER = "ledger.json"


def assemble(
    endpoint: Endpoint,
    connect: Callable[[], Completions],
    connect_batches: Callable[[], BatchService],
    *,
    journal: Path | None,
    options: TeacherOptions,
    purpose: str,
) -> EndpointChat:
    """Return the model: journal -> retries -> budget -> pace -> what `connect` makes (or batches).

    Raises:
        RecipeError: another process has the journal, or a cap in dollars for an unknown price.
        DataError: the journal is damaged, or the file of prices cannot be read.
    """
    prices = PriceTable.read(options.prices, journal)
    tally = Tally(prices)
    book = Book.open(journal)
    try:
        if journal is not None:
            prices.keep(journal)
        book.follow(tally)
        if options.budget_dollars is not None:
            check_priced(tally, endpoint.name)
    except BaseException:
        book.close()
        raise

    def stack() -> Completions:
        paced: Completions
        if options.batch:
            paced = Batching(
                connect_batches(),
                book,
                pause_s=options.batch_pause_s,
                size=options.batch_size,
                poll_s=options.batch_poll_s,
            )
        else:
            paced = Pace(
                connect(),
                book,
                requests_per_minute=options.requests_per_minute,
                tokens_per_minute=options.tokens_per_minute,
            )
        caps = Caps(dollars=options.budget_dollars, tokens=options.budget_tokens)
        return Journal(Retries(Budget(paced, book, tally, caps), retries=options.retries), book)

    def close() -> None:
        if journal is not None:
            tally.ledger().write(journal / LEDGER)
        book.close()

    return EndpointChat(
        PerLoop(endpoint.name, stack, on_close=close),
        model=endpoint.model,
        purpose=purpose,
        temperature=options.temperature,
        send_seed=options.send_seed,
        extra=options.extra,
        tally=tally,
        notices=notices(book),
    )


def notices(book: Book) -> list[str]:
    """Return what a person should know before the first request."""
    if not book.left_unanswered:
        return []
    one = book.left_unanswered == 1
    return [
        f"{book.left_unanswered} request{' was' if one else 's were'} in flight when an earlier run ended: "
        f"{'it' if one else 'they'} may be billed twice, unless the provider honours idempotency keys"
    ]
