"""Batch mode: requests are gathered, sent as one batch, and answered when the provider has done it.

About half the price, and up to a day. It serves conversations of many turns too: each round of turns is a batch, so
let as many tasks run at once as there are. A batch is written down before it is submitted, under a name by which
it can be found again; a run that was killed picks its batches up instead of paying for them again.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from cacherl.core.completions import CompletionReply, CompletionRequest
from cacherl.core.errors import CacheRLError
from cacherl.teacher.failure import EndpointError, Failure
from cacherl.teacher.journal import Batch, Book
from cacherl.teacher.lines import BatchEnded, BatchPlanned, BatchSubmitted, digest_of

FAILED_LOOKS = 20
"""Looks at a batch that may fail in a row before those who wait are told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLook:
    """What a look at a batch showed."""

    status: str
    ended: bool = False
    replies: Mapping[str, CompletionReply] = field(default_factory=dict)
    """By digest; only once the batch has ended."""
    failures: Mapping[str, EndpointError] = field(default_factory=dict)


class BatchService(Protocol):
    """A provider's batch endpoint."""

    @property
    def name(self) -> str:
        """As `Completions.name`."""
        ...

    async def submit(self, name: str, requests: Mapping[str, CompletionRequest]) -> str:
        """Submit the requests (by digest) and return the provider's id of the batch.

        Raises:
            EndpointError: it was not taken, or nobody knows whether it was (`may_be_billed`).
        """
        ...

    async def find(self, name: str) -> str | None:
        """Return the id of the batch that was submitted under our name, or None where there is none.

        Raises:
            EndpointError: the provider cannot tell (kind REFUSED), or cannot be reached.
        """
        ...

    async def look(self, batch_id: str) -> BatchLook:
        """Return how the batch stands, and its replies once it has ended.

        Raises:
            EndpointError: the provider cannot be reached.
        """
        ...

    async def aclose(self) -> None:
        """Close connections. Safe to call twice."""
        ...


class Batching:
    """`Completions` that answer through batches.

    Belongs to one event loop. Submits when no request has come for `pause_s`, or `size` of them wait.
    """

    def __init__(
        self, service: BatchService, book: Book, *, pause_s: float, size: int, poll_s: float
    ) -> None:
        """Nothing is submitted or looked at before the first request."""
        self._service = service
        self._book = book
        self._pause_s = pause_s
        self._size = size
        self._poll_s = poll_s
        self._gathered: dict[str, CompletionRequest] = {}
        self._waiting: dict[str, list[asyncio.Future[CompletionReply]]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._followed: set[str] = set()
        self._resumed = False

    @property
    def name(self) -> str:
        return self._service.name

    async def complete(self, request: CompletionRequest) -> CompletionReply:
        if not self._resumed:
            self._resumed = True
            for left in self._book.batches(self.name):
                self._run(self._follow(left))
        digest = digest_of(self.name, request)
        future = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(digest, []).append(future)
        batch = self._book.batch_of(digest)
        if batch is None:
            self._gathered[digest] = request
            self._restart_timer()
            if len(self._gathered) >= self._size:
                self._submit()
        elif batch.name not in self._followed:  # looking at it failed before
            self._run(self._follow(batch))
        reply: CompletionReply = await future
        return reply

    async def aclose(self) -> None:
        """Leave the batches to the provider: the next run picks them up."""
        if self._timer is not None:
            self._timer.cancel()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._service.aclose()

    # ----------------------------------------------------------------------------------- batches

    def _restart_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(self._pause_s, self._submit)

    def _submit(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        # Who left in the meantime (a cancelled task) is not paid for.
        asked = {
            digest: request
            for digest, request in self._gathered.items()
            if any(not future.done() for future in self._waiting.get(digest, ()))
        }
        self._gathered = {}
        if asked:
            self._run(self._send(asked))

    def _run(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        for futures in self._waiting.values():  # a full disk, say: nobody may wait for ever
            for future in futures:
                if not future.done():
                    future.set_exception(error)
        self._waiting = {}

    async def _send(self, asked: Mapping[str, CompletionRequest]) -> None:
        now = datetime.now(UTC)
        name = hashlib.blake2b(
            "".join([now.isoformat(), *asked]).encode(), digest_size=12
        ).hexdigest()
        self._book.note(BatchPlanned(name=name, model=self.name, digests=tuple(asked), at=now))
        for request in asked.values():
            self._book.note(self._book.asked(request, self.name, batched=True))
        (batch,) = (each for each in self._book.batches(self.name) if each.name == name)
        try:
            id_: str | None = await self._service.submit(name, asked)
        except EndpointError as error:
            id_ = await self._found(name) if error.may_be_billed else None
            if id_ is None:
                self._end(batch, "not submitted", {}, dict.fromkeys(asked, error))
                return
        except CacheRLError as error:
            self._end(batch, "not submitted", {}, {}, otherwise=error)
            return
        self._book.note(BatchSubmitted(name=name, id=str(id_), at=datetime.now(UTC)))
        await self._follow(batch)

    async def _found(self, name: str) -> str | None:
        try:
            return await self._service.find(name)
        except EndpointError:
            return None

    async def _follow(self, batch: Batch) -> None:
        """Look at the batch until it has ended, and hand out what came of it."""
        self._followed.add(batch.name)
        failed = 0
        try:
            while True:
                try:
                    if batch.id is None and not await self._pick_up(batch):
                        return
                    look = await self._service.look(str(batch.id))
                    failed = 0
                except EndpointError as error:
                    failed += 1
                    if not error.transient or failed >= FAILED_LOOKS:
                        # It may still end well: it stays open in the journal, to be looked at again.
                        self._tell(batch, error)
                        return
                else:
                    if look.ended:
                        self._end(batch, look.status, look.replies, look.failures)
                        return
                await asyncio.sleep(self._poll_s)
        finally:
            self._followed.discard(batch.name)

    async def _pick_up(self, batch: Batch) -> bool:
        """Find a batch that a killed run planned; where there is none, let its requests be asked again."""
        unsure = False
        try:
            id_ = await self._service.find(batch.name)
        except EndpointError as error:
            if error.kind is not Failure.REFUSED:
                raise
            id_, unsure = None, True
        if id_ is not None:
            self._book.note(BatchSubmitted(name=batch.name, id=id_, at=datetime.now(UTC)))
            return True
        gone = EndpointError(
            f"{self.name}: a batch that an earlier run planned was not submitted, or cannot be found. "
            "Run the same command again.",
            kind=Failure.CONNECTION,
        )
        if unsure:  # then it may have been taken, and is billed
            for digest in batch.digests:
                self._book.failed(digest, Failure.CANCELLED)
        self._end(batch, "lost", {}, dict.fromkeys(batch.digests, gone))
        return False

    def _end(
        self,
        batch: Batch,
        status: str,
        replies: Mapping[str, CompletionReply],
        failures: Mapping[str, EndpointError],
        *,
        otherwise: CacheRLError | None = None,
    ) -> None:
        """Keep all replies, paid for whether or not somebody waits; then tell those who wait."""
        missing = EndpointError(
            f"{self.name}: the batch {batch.id} ended ({status}) without a reply to this request. "
            "Run the same command again.",
            kind=Failure.SERVER,
        )
        asked = {digest: self._book.open_attempt(digest) for digest in batch.digests}
        for digest, line in asked.items():
            if digest in replies:
                purpose = line.purpose if line is not None else ""
                self._book.replied(digest, purpose, self.name, replies[digest])
            else:
                self._book.failed(digest, failures.get(digest, missing).kind)
        self._book.note(BatchEnded(name=batch.name, status=status, at=datetime.now(UTC)))
        for digest in batch.digests:
            for future in self._waiting.pop(digest, ()):
                if future.done():
                    continue
                if digest in replies:
                    future.set_result(replies[digest])
                else:
                    future.set_exception(otherwise or failures.get(digest, missing))

    def _tell(self, batch: Batch, error: EndpointError) -> None:
        for digest in batch.digests:
            for future in self._waiting.pop(digest, ()):
                if not future.done():
                    future.set_exception(error)
