"""When to ask: rates, one slow-down for the whole endpoint, and another attempt where a failure may pass.

`Pace` holds the rates and the slow-down that all requests share; `Retries` around it decides on another
attempt. The providers' own clients are told not to retry: attempts are counted and journaled here, and only here.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from cacherl.core.completions import CompletionReply, CompletionRequest, Completions
from cacherl.core.errors import MissingExtraError
from cacherl.teacher.failure import EndpointError, Failure
from cacherl.teacher.journal import Book
from cacherl.teacher.lines import digest_of, prompt_bound

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
SLOW_DOWN = frozenset({Failure.RATE_LIMIT, Failure.OVERLOADED})


@dataclass(slots=True)
class SlowDown:
    """How many requests may be under way, and from when on. Times are an event loop's, in seconds.

    As in TCP: a refusal halves the window and stops everybody for a while; each reply opens the window by
    a little. Refusals of requests that were sent before the last slow-down are the same news again.
    """

    window: float = float("inf")
    not_before: float = 0.0
    pause_s: float = 0.0
    slowed_at: float = float("-inf")

    def refused(
        self, *, sent_at: float, now: float, under_way: int, retry_after_s: float | None
    ) -> None:
        """Take in that a request sent at `sent_at` was refused."""
        if retry_after_s is not None:
            self.not_before = max(self.not_before, now + min(retry_after_s, LONGEST_PAUSE_S * 5))
        if sent_at < self.slowed_at:
            return
        self.slowed_at = now
        self.window = max(1.0, min(self.window, under_way) / 2)
        if retry_after_s is None:
            self.pause_s = min(LONGEST_PAUSE_S, 2 * self.pause_s or FIRST_PAUSE_S)
            self.not_before = max(self.not_before, now + self.pause_s)

    def replied(self, *, sent_at: float) -> None:
        """Take in that a request sent at `sent_at` was answered."""
        if sent_at >= self.slowed_at:
            self.pause_s = 0.0
            self.window += 1.0 / self.window if self.window < float("inf") else 0.0


class Pace:
    """`Completions` that keeps to the rates, and slows down as one.

    Belongs to one event loop.
    """

    def __init__(
        self,
        inner: Completions,
        book: Book,
        *,
        requests_per_minute: float | None = None,
        tokens_per_minute: int | None = None,
    ) -> None:
        """Keep to the provider's rates.

        Requests come in bursts of a second's worth at most, tokens in bursts of a minute's worth, as
        providers' own buckets have it.
        """
        self._inner = inner
        self._book = book
        self._slow = SlowDown()
        self._under_way = 0
        self._changed = asyncio.Event()
        self._turn = asyncio.Lock()
        self._tokens_per_minute = tokens_per_minute
        try:
            from aiolimiter import AsyncLimiter
        except ModuleNotFoundError as error:
            raise MissingExtraError("aiolimiter", "teacher") from error
        self._request_rate: AsyncLimiter | None = None
        self._token_rate: AsyncLimiter | None = None
        if requests_per_minute is not None:
            burst = max(1.0, requests_per_minute / 60)
            self._request_rate = AsyncLimiter(burst, 60 * burst / requests_per_minute)
        if tokens_per_minute is not None:
            self._token_rate = AsyncLimiter(tokens_per_minute, 60)

    @property
    def name(self) -> str:
        return self._inner.name

    async def complete(self, request: CompletionRequest) -> CompletionReply:
        loop = asyncio.get_running_loop()
        async with self._place(request):
            sent_at = loop.time()
            digest = digest_of(self.name, request)
            self._book.note(self._book.asked(request, self.name))
            try:
                reply = await self._inner.complete(request)
            except EndpointError as error:
                self._book.failed(digest, error.kind)
                if error.kind in SLOW_DOWN:
                    self._slow.refused(
                        sent_at=sent_at,
                        now=loop.time(),
                        under_way=self._under_way,
                        retry_after_s=error.retry_after_s,
                    )
                raise
            except BaseException:
                self._book.failed(digest, Failure.CANCELLED)
                raise
            self._slow.replied(sent_at=sent_at)
            return reply

    async def aclose(self) -> None:
        await self._inner.aclose()

    @asynccontextmanager
    async def _place(self, request: CompletionRequest) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        async with (
            self._turn
        ):  # in order of arrival: the limiter alone would let small requests pass
            while True:
                if self._under_way >= self._slow.window:
                    self._changed.clear()
                    await self._changed.wait()
                elif (wait_s := self._slow.not_before - loop.time()) > 0:
                    await asyncio.sleep(wait_s)
                else:
                    break
            if self._request_rate is not None:
                await self._request_rate.acquire()
            if self._token_rate is not None and self._tokens_per_minute is not None:
                likely = likely_tokens(request)
                await self._token_rate.acquire(min(likely, self._tokens_per_minute))
            self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1
            self._changed.set()


class Retries:
    """`Completions` that asks again where a failure may pass: the one place that does.

    Where the endpoint said how long to wait, or is slowed down, `Pace` waits; elsewhere the wait doubles
    from one second, less up to half of it by chance.
    """

    def __init__(self, inner: Completions, *, retries: int, first_wait_s: float = 1.0) -> None:
        """`retries` are attempts after the first."""
        self._inner = inner
        self._retries = retries
        self._first_wait_s = first_wait_s

    @property
    def name(self) -> str:
        return self._inner.name

    async def complete(self, request: CompletionRequest) -> CompletionReply:
        chance = random.Random(digest_of(self.name, request))  # noqa: S311 - jitter, no secret
        for attempt in range(self._retries + 1):
            try:
                return await self._inner.complete(request)
            except EndpointError as error:
                if not error.transient:
                    raise
                if attempt == self._retries:
                    raise EndpointError(
                        f"{error} (attempt {attempt + 1} of {self._retries + 1})"
                        if self._retries
                        else str(error),
                        kind=error.kind,
                        retry_after_s=error.retry_after_s,
                    ) from error
                if error.kind not in SLOW_DOWN:
                    wait_s = min(LONGEST_PAUSE_S, self._first_wait_s * 2**attempt)
                    await asyncio.sleep(wait_s * chance.uniform(0.5, 1.0))
        raise AssertionError("unreachable")

    async def aclose(self) -> None:
        await self._inner.aclose()


def likely_tokens(request: CompletionRequest) -> int:
    """Return about how many tokens the request counts for at the provider's rate limit."""
    return prompt_bound(request) // 4 + request.max_tokens


class PerLoop:
    """`Completions` made anew for each event loop: connections, locks and rates belong to one.

    A command runs each stage in a loop of its own, and one model may serve several.
    """

    def __init__(
        self, name: str, connect: Callable[[], Completions], *, on_close: Callable[[], None]
    ) -> None:
        """`on_close` runs once, at the first `aclose`."""
        self._name = name
        self._connect = connect
        self._on_close: Callable[[], None] | None = on_close
        self._connected: tuple[asyncio.AbstractEventLoop, Completions] | None = None

    @property
    def name(self) -> str:
        return self._name

    async def complete(self, request: CompletionRequest) -> CompletionReply:
        loop = asyncio.get_running_loop()
        if self._connected is None or self._connected[0] is not loop:
            self._connected = (loop, self._connect())
        return await self._connected[1].complete(request)

    async def aclose(self) -> None:
        if self._connected is not None:
            loop, completions = self._connected
            self._connected = None
            if loop is asyncio.get_running_loop():
                await completions.aclose()
        if self._on_close is not None:
            on_close, self._on_close = self._on_close, None
            on_close()
