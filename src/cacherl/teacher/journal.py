"""The journal: what was asked of paid models, and every reply, kept before anything is done with it.

A run that is killed and starts again is answered from here, for free. Only requests that were under way at
the kill are asked twice, with the same `Idempotency-Key`, so that a provider that honours it bills once.

    <folder>/requests.jsonl     checksummed, append-only (teacher/lines.py)
    <folder>/journal.lock       held while a process writes
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, cast

import msgspec

from cacherl.core.completions import CompletionReply, CompletionRequest, Completions, KeptReply
from cacherl.core.errors import DataError, RecipeError
from cacherl.core.jsonl import JsonlAppender, decode_line, read_jsonl
from cacherl.teacher.failure import Failure
from cacherl.teacher.ledger import Ledger, Tally
from cacherl.teacher.lines import (
    Asked,
    BatchEnded,
    BatchPlanned,
    BatchSubmitted,
    Failed,
    JournalLine,
    Replied,
    Reused,
    digest_of,
    prompt_bound,
)
from cacherl.teacher.prices import PriceTable

REQUESTS = "requests.jsonl"
LOCK = "journal.lock"


class Batch:
    """A batch of which the journal does not know the end."""

    def __init__(self, planned: BatchPlanned) -> None:
        self.name = planned.name
        self.model = planned.model
        self.digests = planned.digests
        self.id: str | None = None
        """None until the endpoint took it; a killed run may never have learnt its id."""


class Book:
    """The open journal of one folder, shared by all that write to it in this process.

    Memory: about 250 bytes a reply; the replies themselves stay in the file. Not for several threads.
    """

    _open_books: dict[Path, Book] = {}

    def __init__(self, folder: Path | None) -> None:
        """Use `Book.open`."""
        self.folder = folder
        self._users = 0
        self._replies: dict[bytes, tuple[int, int]] = {}
        self._asked: dict[str, list[Asked]] = {}
        self._batches: dict[str, Batch] = {}
        self._in_batch: dict[str, Batch] = {}
        self._tallies: list[Tally] = []
        self._waiting: list[asyncio.Future[None]] = []
        self._lock: IO[bytes] | None = None
        self._appender: JsonlAppender | None = None
        self._reader: IO[bytes] | None = None
        self._end = 0
        self.reserved: dict[str, Asked] = {}
        """Admitted by a budget and not yet sent, by digest."""
        self.admitted: set[str] = set()
        """Admitted by a budget and not yet done with."""
        self.left_unanswered = 0
        """Requests that were under way when an earlier run ended and have no reply since, batches apart."""

    @classmethod
    def open(cls, folder: Path | None) -> Book:
        """Return the journal of the folder; without a folder one that keeps no replies.

        Opened again in the same process it is the same book; each `open` wants its `close`.

        Raises:
            RecipeError: another process writes to it.
            DataError: a line is damaged, or the folder cannot be written.
        """
        if folder is None:
            book = cls(None)
        else:
            key = folder.resolve()
            found = cls._open_books.get(key)
            if found is None:
                found = cls(folder)
                found._load(folder)
                cls._open_books[key] = found
            book = found
        book._users += 1
        return book

    def close(self) -> None:
        """Sync and close once every user has closed."""
        self._users -= 1
        if self._users > 0 or self.folder is None:
            return
        self._open_books.pop(self.folder.resolve(), None)
        for handle in (self._appender, self._reader, self._lock):
            if handle is not None:
                handle.close()
        self._appender = self._reader = self._lock = None

    def follow(self, tally: Tally) -> None:
        """Fold all lines so far into the tally, and every further one as it is written."""
        for _, _, line in self._lines():
            tally.add(line)
        self._tallies.append(tally)

    def find(self, digest: str) -> CompletionReply | None:
        """Return the reply to the request of this digest, or None."""
        place = self._replies.get(bytes.fromhex(digest))
        if place is None or self._reader is None or self.folder is None:
            return None
        offset, length = place
        line = os.pread(self._reader.fileno(), length, offset)
        kept = _decode(line, f"{self.folder / REQUESTS} at byte {offset}")
        if not isinstance(kept, Replied) or kept.digest != digest:
            raise DataError(
                f"{self.folder / REQUESTS} was changed while it was in use (byte {offset}). "
                "Leave it alone while a run goes on, and start again."
            )
        return kept.reply

    def note(self, line: JournalLine) -> None:
        """Write the line and hand it to the operating system, then count it."""
        if self.folder is not None:
            if self._appender is None:
                raise RuntimeError(f"{self.folder}: the journal is closed; make the model anew")
            start = self._end
            self._appender.append(line)
            self._end = (self.folder / REQUESTS).stat().st_size
            self._index(line, start, self._end - start)
        else:
            self._index(line, 0, 0)
        for tally in self._tallies:
            tally.add(line)
        if isinstance(line, Asked):
            self.reserved.pop(line.digest, None)
        elif isinstance(line, Replied | Failed):
            self.wake()

    def asked(self, request: CompletionRequest, endpoint: str, *, batched: bool = False) -> Asked:
        """Return the line that says that the request is about to be sent."""
        return Asked(
            digest=digest_of(endpoint, request),
            purpose=request.purpose,
            model=endpoint,
            at=datetime.now(UTC),
            prompt_bound=prompt_bound(request),
            max_tokens=request.max_tokens,
            batched=batched,
        )

    def failed(self, digest: str, failure: Failure) -> None:
        """Note that the attempt under way brought no reply."""
        asked = self.open_attempt(digest)
        if asked is not None:
            self.note(
                Failed(
                    digest=digest,
                    purpose=asked.purpose,
                    model=asked.model,
                    at=datetime.now(UTC),
                    failure=failure,
                )
            )

    def replied(self, digest: str, purpose: str, model: str, reply: CompletionReply) -> None:
        """Keep the reply; the first one under a digest is the one that counts."""
        if bytes.fromhex(digest) in self._replies:
            return
        self.note(
            Replied(digest=digest, purpose=purpose, model=model, at=datetime.now(UTC), reply=reply)
        )

    def open_attempt(self, digest: str) -> Asked | None:
        """Return the latest attempt under this digest that has neither reply nor failure."""
        asked = self._asked.get(digest)
        return asked[-1] if asked else None

    def batches(self, model: str) -> list[Batch]:
        """Return the batches of an endpoint whose end is not known."""
        return [batch for batch in self._batches.values() if batch.model == model]

    def batch_of(self, digest: str) -> Batch | None:
        """Return the unfinished batch that the request is part of, or None."""
        return self._in_batch.get(digest)

    def wake(self) -> None:
        """Let those who wait for room in a budget look again."""
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def change(self) -> None:
        """Return after the next reply, failure or release."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future

    # ------------------------------------------------------------------------------------ reading

    def _load(self, folder: Path) -> None:
        try:
            folder.mkdir(
                parents=True, exist_ok=True, mode=0o700
            )  # prompts and replies as they were
            self._lock = (folder / LOCK).open("ab")
        except OSError as error:
            raise DataError(
                f"{folder}: no journal can be kept there ({error.strerror}). Name another folder."
            ) from error
        try:
            fcntl.flock(self._lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._appender = JsonlAppender(folder / REQUESTS)
            self._reader = (folder / REQUESTS).open("rb")
            for offset, length, line in self._lines():
                self._index(line, offset, length)
                self._end = offset + length
        except BlockingIOError as error:
            self._abandon()
            raise RecipeError(
                f"{folder}: another run writes to this journal now. Wait for it to end, or name "
                "another folder."
            ) from error
        except BaseException:
            self._abandon()
            raise
        self.left_unanswered = sum(
            len(asked)
            for digest, asked in self._asked.items()
            if digest not in self._in_batch and bytes.fromhex(digest) not in self._replies
        )

    def _abandon(self) -> None:
        for handle in (self._appender, self._reader, self._lock):
            if handle is not None:
                handle.close()

    def _lines(self) -> Iterator[tuple[int, int, JournalLine]]:
        if self.folder is None:
            return
        path = self.folder / REQUESTS
        offset = 0
        with path.open("rb") as handle:
            for number, raw in enumerate(handle, 1):
                if raw.strip():
                    yield offset, len(raw), _decode(raw, f"{path}:{number}")
                offset += len(raw)

    def _index(self, line: JournalLine, offset: int, length: int) -> None:
        match line:
            case Asked():
                self._asked.setdefault(line.digest, []).append(line)
            case Replied():
                if length:
                    self._replies.setdefault(bytes.fromhex(line.digest), (offset, length))
                self._close_attempt(line.digest)
            case Failed():
                self._close_attempt(line.digest)
            case BatchPlanned():
                batch = self._batches[line.name] = Batch(line)
                self._in_batch.update(dict.fromkeys(line.digests, batch))
            case BatchSubmitted():
                if line.name in self._batches:
                    self._batches[line.name].id = line.id
            case BatchEnded():
                ended = self._batches.pop(line.name, None)
                for digest in ended.digests if ended is not None else ():
                    if self._in_batch.get(digest) is ended:
                        del self._in_batch[digest]
            case Reused():
                pass

    def _close_attempt(self, digest: str) -> None:
        asked = self._asked.get(digest)
        if asked:
            asked.pop()
            if not asked:
                del self._asked[digest]


class Journal:
    """`Completions` that asks only what the journal cannot answer. Outermost.

    A request that is under way already is not asked a second time: the second waits for the first.
    """

    def __init__(
        self, inner: Completions, book: Book, *, on_close: Callable[[], None] | None = None
    ) -> None:
        """`on_close` runs once, when the journal is closed."""
        self._inner = inner
        self._book = book
        self._on_close = on_close
        self._under_way: dict[str, asyncio.Event] = {}

    @property
    def name(self) -> str:
        return self._inner.name

    async def complete(self, request: CompletionRequest) -> CompletionReply:
        digest = digest_of(self.name, request)
        while True:
            found = self._book.find(digest)
            if found is not None:
                self._book.note(
                    Reused(
                        digest=digest,
                        purpose=request.purpose,
                        model=self.name,
                        at=datetime.now(UTC),
                    )
                )
                return KeptReply(**msgspec.structs.asdict(found))
            other = self._under_way.get(digest)
            if other is None:
                break
            await other.wait()
        done = self._under_way[digest] = asyncio.Event()
        try:
            reply = await self._inner.complete(request)
            self._book.replied(digest, request.purpose, self.name, reply)
        finally:
            del self._under_way[digest]
            done.set()
        return reply

    async def aclose(self) -> None:
        await self._inner.aclose()
        if self._on_close is not None:
            on_close, self._on_close = self._on_close, None
            on_close()


def ledger_of(folder: Path, prices: PriceTable) -> Ledger:
    """Return the account of a folder's journal, also while another process writes to it.

    Raises:
        DataError: there is no journal, or a line is damaged.
    """
    tally = Tally(prices)
    for line in read_jsonl(folder / REQUESTS, cast(Any, JournalLine), drop_torn_tail=True):
        tally.add(line)
    return tally.ledger()


def _decode(line: bytes, where: str) -> JournalLine:
    decoded: JournalLine = decode_line(line, cast(Any, JournalLine), where, strict=True)
    return decoded
