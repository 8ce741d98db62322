"""What was asked of paid models and what it cost: a fold over the journal, and nothing else."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from cacherl.core.completions import CompletionReply
from cacherl.core.jsonl import atomic_writer
from cacherl.core.records import Record
from cacherl.teacher.failure import MAY_BE_BILLED
from cacherl.teacher.lines import Asked, Failed, JournalLine, Replied, Reused
from cacherl.teacher.prices import NANO, PriceTable, TokensUsed


class Row(Record, frozen=True, kw_only=True):
    """One purpose of one model; or all of them."""

    purpose: str
    """The first part of the requests' purposes: `record`, `augment`, `judge`."""
    model: str
    requests: int = 0
    """Attempts sent."""
    replies: int = 0
    from_journal: int = 0
    """Asked again and answered for free."""
    batched: int = 0
    """Of `replies`, those that came through the batch endpoint."""
    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    completion_tokens: int = 0
    dollars: float | None = 0.0
    """None where a reply has no known price."""
    estimated: int = 0
    """Of `replies`, those whose endpoint told no usage: their tokens are guesses from lengths."""
    retries: int = 0
    failures: dict[str, int] = {}
    """Attempts without a reply, by kind (teacher/failure.py)."""
    unanswered: int = 0
    """Sent and neither answered nor failed: under way now, or when a run was killed."""
    may_be_billed: int = 0
    """Attempts without a reply that the endpoint may have billed; `unanswered` among them."""
    may_cost_dollars: float | None = 0.0
    """The most that those can cost, beside `dollars`."""
    may_cost_tokens: int = 0


class Ledger(Record, frozen=True, kw_only=True):
    """The whole account."""

    total: Row
    rows: tuple[Row, ...]
    prices: dict[str, str | None]
    """Model -> where its price comes from and of when it is; None where no price is known."""

    def write(self, path: Path) -> None:
        """Write the account as one JSON file, whole or not at all."""
        with atomic_writer(path) as handle:
            handle.write(msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n")


@dataclass(slots=True)
class _Sums:
    """A row in the making. Nanodollars."""

    requests: int = 0
    replies: int = 0
    from_journal: int = 0
    batched: int = 0
    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    completion_tokens: int = 0
    nano: int = 0
    unpriced: int = 0
    estimated: int = 0
    retries: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    unanswered: int = 0
    may_be_billed: int = 0
    may_cost_nano: int = 0
    may_cost_tokens: int = 0

    def row(self, purpose: str, model: str, *, priced: bool) -> Row:
        return Row(
            purpose=purpose,
            model=model,
            requests=self.requests,
            replies=self.replies,
            from_journal=self.from_journal,
            batched=self.batched,
            prompt_tokens=self.prompt_tokens,
            cached_prompt_tokens=self.cached_prompt_tokens,
            completion_tokens=self.completion_tokens,
            dollars=None if self.unpriced else self.nano / NANO,
            estimated=self.estimated,
            retries=self.retries,
            failures=dict(sorted(self.failures.items())),
            unanswered=self.unanswered,
            may_be_billed=self.may_be_billed,
            may_cost_dollars=self.may_cost_nano / NANO if priced else None,
            may_cost_tokens=self.may_cost_tokens,
        )

    def add(self, other: _Sums) -> None:
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


def tokens_used(reply: CompletionReply) -> TokensUsed:
    """Return what a reply is billed by."""
    return TokensUsed(
        prompt=reply.prompt_tokens,
        completion=reply.completion_tokens,
        cached_prompt=reply.cached_prompt_tokens,
        cache_write=reply.cache_write_prompt_tokens,
    )


class Tally:
    """Folds journal lines, one at a time. The same lines give the same ledger."""

    def __init__(self, prices: PriceTable) -> None:
        self.prices = prices
        self._sums: dict[tuple[str, str], _Sums] = {}
        self._open: dict[str, list[Asked]] = {}
        self._failed: set[str] = set()
        self.nano = 0
        """Spent for certain."""
        self.tokens = 0
        self.may_cost_nano = 0
        """The most that attempts without a reply can still have cost."""
        self.may_cost_tokens = 0

    def add(self, line: JournalLine) -> None:
        """Count one line."""
        match line:
            case Asked():
                sums = self._of(line)
                sums.requests += 1
                sums.unanswered += 1
                sums.retries += line.digest in self._failed
                self._open.setdefault(line.digest, []).append(line)
                self._risk(sums, line, 1)
            case Failed():
                sums = self._of(line)
                sums.failures[line.failure.value] += 1
                self._failed.add(line.digest)
                asked = self._close(line.digest)
                if asked is not None:
                    sums.unanswered -= 1
                    if line.failure not in MAY_BE_BILLED:
                        self._risk(sums, asked, -1)
            case Replied():
                sums = self._of(line)
                self._failed.discard(line.digest)
                asked = self._close(line.digest)
                if asked is not None:
                    sums.unanswered -= 1
                    self._risk(sums, asked, -1)
                self._count(sums, line)
            case Reused():
                self._of(line).from_journal += 1
            case _:
                pass  # of a batch: its requests are counted one by one

    def ledger(self) -> Ledger:
        """Return the account so far."""
        total = _Sums()
        rows = []
        prices: dict[str, str | None] = {}
        for (purpose, model), sums in sorted(self._sums.items()):
            total.add(sums)
            if model not in prices:
                prices[model] = self.prices.source(model)
            rows.append(sums.row(purpose, model, priced=prices[model] is not None))
        priced = all(source is not None for source in prices.values())
        return Ledger(total=total.row("all", "all", priced=priced), rows=tuple(rows), prices=prices)

    def _of(self, line: Asked | Failed | Replied | Reused) -> _Sums:
        key = (line.purpose.split("/", 1)[0], line.model)
        return self._sums.setdefault(key, _Sums())

    def _close(self, digest: str) -> Asked | None:
        """Take the latest open attempt off: an older one was left open by a run that was killed."""
        asked = self._open.get(digest)
        if not asked:
            return None
        last = asked.pop()
        if not asked:
            del self._open[digest]
        return last

    def _risk(self, sums: _Sums, asked: Asked, sign: int) -> None:
        tokens = asked.prompt_bound + asked.max_tokens
        nano = self.prices.most_nanodollars(
            asked.model,
            prompt=asked.prompt_bound,
            completion=asked.max_tokens,
            at=asked.at,
            batched=asked.batched,
        )
        sums.may_be_billed += sign
        sums.may_cost_tokens += sign * tokens
        sums.may_cost_nano += sign * (nano or 0)
        self.may_cost_tokens += sign * tokens
        self.may_cost_nano += sign * (nano or 0)

    def _count(self, sums: _Sums, line: Replied) -> None:
        reply = line.reply
        sums.replies += 1
        if reply.context_full:
            return
        sums.batched += reply.batched
        sums.prompt_tokens += reply.prompt_tokens
        sums.cached_prompt_tokens += reply.cached_prompt_tokens
        sums.completion_tokens += reply.completion_tokens
        sums.estimated += reply.estimated
        nano = self.prices.nanodollars(
            line.model,
            tokens_used(reply),
            at=line.at,
            batched=reply.batched,
        )
        sums.unpriced += nano is None
        sums.nano += nano or 0
        self.nano += nano or 0
        self.tokens += reply.prompt_tokens + reply.completion_tokens
