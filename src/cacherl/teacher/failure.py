"""What can go wrong between us and an endpoint, by kind: what may be tried again, what may have been billed."""

from __future__ import annotations

import enum

from cacherl.core.errors import ModelError


class Failure(enum.StrEnum):
    """Why an attempt brought no reply."""

    RATE_LIMIT = "rate_limit"
    """429: too many requests or tokens."""
    OVERLOADED = "overloaded"
    """503, 529: the endpoint asks everybody to come back later."""
    SERVER = "server"
    """Another 5xx, or 408 and 409."""
    TIMEOUT = "timeout"
    """No reply in time. The endpoint may have answered, and billed, all the same."""
    CONNECTION = "connection"
    """The request never reached the endpoint."""
    CUT = "cut"
    """The connection broke after the request was sent. May be billed."""
    UNREADABLE = "unreadable"
    """Answered with something that is no reply. May be billed."""
    CANCELLED = "cancelled"
    """We left before the reply came. May be billed."""
    QUOTA = "quota"
    """The account's money or monthly quota is spent."""
    KEY = "key"
    """401, 403: no valid key."""
    NOT_FOUND = "not_found"
    """404: no such model or no such path."""
    REFUSED = "refused"
    """Another 4xx: the request itself."""


TRANSIENT = frozenset(
    {
        Failure.RATE_LIMIT,
        Failure.OVERLOADED,
        Failure.SERVER,
        Failure.TIMEOUT,
        Failure.CONNECTION,
        Failure.CUT,
    }
)
"""Worth another attempt."""

MAY_BE_BILLED = frozenset({Failure.TIMEOUT, Failure.CUT, Failure.UNREADABLE, Failure.CANCELLED})
"""The endpoint may have done the work."""

FATAL = frozenset({Failure.KEY, Failure.NOT_FOUND, Failure.QUOTA})
"""The next request will fare no better: stop the run."""


class EndpointError(ModelError):
    """An attempt that brought no reply. One line; never holds the key."""

    kind: Failure

    def __init__(self, message: str, *, kind: Failure, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.retry_after_s = retry_after_s
        """What the endpoint asked for in `Retry-After`."""

    @property
    def transient(self) -> bool:
        """Whether another attempt may fare better."""
        return self.kind in TRANSIENT

    @property
    def may_be_billed(self) -> bool:
        """Whether the endpoint may have done the work."""
        return self.kind in MAY_BE_BILLED

    @property
    def fatal(self) -> bool:
        """Whether every further request of the run will fail the same way."""
        return self.kind in FATAL
