"""Caps on dollars and tokens, over the journal's whole history. Never overshot, whatever runs at once."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from cacherl.core.completions import CompletionReply, CompletionRequest, Completions
from cacherl.core.errors import BudgetError, RecipeError
from cacherl.teacher.journal import Book
from cacherl.teacher.ledger import Tally
from cacherl.teacher.lines import Asked
from cacherl.teacher.prices import NANO


class Verdict(enum.Enum):
    """Whether a request may be asked."""

    ASK = enum.auto()
    WAIT = enum.auto()
    """Not now: what is under way may cost less than the most it can."""
    STOP = enum.auto()


def verdict(cap: int, committed: int, wanted: int, *, others_under_way: bool) -> Verdict:
    """Return whether one more request fits under the cap.

    Args:
        cap: what may be spent.
        committed: what was spent, and the most that everything asked or admitted can still cost.
        wanted: the most that the request can cost.
        others_under_way: whether `committed` can still shrink.
    """
    if committed + wanted <= cap:
        return Verdict.ASK
    return Verdict.WAIT if others_under_way else Verdict.STOP


@dataclass(frozen=True, slots=True, kw_only=True)
class Caps:
    """What may be spent in all."""

    dollars: float | None = None
    tokens: int | None = None


class Budget:
    """`Completions` that asks only what the caps leave room for, at its worst price.

    An attempt that brought no reply but may have been billed (a time-out, a request under way when a run
    was killed) counts at the most it can have cost.
    """

    def __init__(self, inner: Completions, book: Book, tally: Tally, caps: Caps) -> None:
        """`tally` follows `book`.

        Raises:
            RecipeError: a cap in dollars, and the model has no known price.
        """
        self._inner = inner
        self._book = book
        self._tally = tally
        self._caps = caps
        if caps.dollars is not None:
            check_priced(tally, inner.name)

    @property
    def name(self) -> str:
        return self._inner.name

    async def complete(self, request: CompletionRequest) -> CompletionReply:
        asked = self._book.asked(request, self.name)
        if self._book.batch_of(asked.digest) is not None:  # asked and counted by an earlier run
            return await self._inner.complete(request)
        await self._admit(asked)
        try:
            return await self._inner.complete(request)
        finally:
            self._book.reserved.pop(asked.digest, None)
            self._book.admitted.discard(asked.digest)
            self._book.wake()

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def _admit(self, asked: Asked) -> None:
        while True:
            verdicts = list(self._verdicts(asked))
            if all(one is Verdict.ASK for one, _ in verdicts):
                self._book.reserved[asked.digest] = asked
                self._book.admitted.add(asked.digest)
                return
            for one, stopped in verdicts:
                if one is Verdict.STOP:
                    raise BudgetError(stopped)
            await self._book.change()

    def _verdicts(self, asked: Asked) -> Iterable[tuple[Verdict, str]]:
        others = bool(self._book.admitted)
        reserved = self._book.reserved.values()
        kept = f"What was bought is kept in {self._book.folder}." if self._book.folder else ""
        if self._caps.tokens is not None:
            wanted = asked.prompt_bound + asked.max_tokens
            committed = (
                self._tally.tokens
                + self._tally.may_cost_tokens
                + sum(one.prompt_bound + one.max_tokens for one in reserved)
            )
            unsure = (
                f" and up to {self._tally.may_cost_tokens:,} by requests that were never answered"
                if self._tally.may_cost_tokens
                else ""
            )
            yield (
                verdict(self._caps.tokens, committed, wanted, others_under_way=others),
                f"the budget of {self._caps.tokens:,} tokens has no room for the next request: "
                f"{self._tally.tokens:,} spent{unsure}, and it may use up to {wanted:,}. {kept} "
                "Raise --budget-tokens and run the same command again to go on.",
            )
        if self._caps.dollars is not None:
            nano_cap = int(self._caps.dollars * NANO)
            wanted = self._most(asked)
            committed = (
                self._tally.nano
                + self._tally.may_cost_nano
                + sum(self._most(one) for one in reserved)
            )
            unsure = (
                f" and up to ${self._tally.may_cost_nano / NANO:.4f} by requests that were never answered"
                if self._tally.may_cost_nano
                else ""
            )
            yield (
                verdict(nano_cap, committed, wanted, others_under_way=others),
                f"the budget of ${self._caps.dollars:g} has no room for the next request: "
                f"${self._tally.nano / NANO:.4f} spent{unsure}, and it may cost up to "
                f"${wanted / NANO:.4f}. {kept} Raise --budget-usd and run the same command again "
                "to go on.",
            )

    def _most(self, asked: Asked) -> int:
        nano = self._tally.prices.most_nanodollars(
            asked.model,
            prompt=asked.prompt_bound,
            completion=asked.max_tokens,
            at=datetime.now(UTC),
        )
        return nano or 0


def check_priced(tally: Tally, model: str) -> None:
    """Refuse a cap in dollars where dollars are unknown.

    Raises:
        RecipeError: the model, or a reply in the journal, has no known price.
    """
    asked = [row.model for row in tally.ledger().rows if row.dollars is None]
    unknown = [name for name in dict.fromkeys([model, *asked]) if tally.prices.source(name) is None]
    if unknown:
        raise RecipeError(
            f"--budget-usd is set, but no price is known for {', '.join(unknown)}. Name a file with "
            f"--prices, which says: as_of = 2026-11-01, "
            f'[prices."{unknown[0]}"], prompt = 1.25, completion = 10 (dollars per million tokens); '
            "or set --budget-tokens instead."
        )
