"""What came of a proxy's run, counted."""

from __future__ import annotations

from collections import Counter

from cacherl.core.records import Record
from cacherl.core.tools import Tier

_SHOWN = 20


class Missed(Record, frozen=True, kw_only=True):
    """A call that nothing recorded answered."""

    tool: str
    arguments: str
    """As they were asked, as JSON; without secrets where the cache is redacted."""
    message: str
    """What the client was told."""


class Summary(Record, frozen=True, kw_only=True):
    """The calls of all sessions."""

    mode: str
    """`record` or `replay`."""
    cache: str
    namespaces: tuple[str, ...]
    scenario: str
    sessions: int
    calls: int
    recorded: int
    """Calls whose answer is in the cache now."""
    not_recorded: dict[str, int]
    """Calls that ran and are not, by reason."""
    tiers: dict[Tier, int]
    """Calls by how they were answered; tiers that did not occur are absent."""
    errors: int
    """Calls that were answered with an error, misses included."""
    server_starts: int
    missed: tuple[Missed, ...]
    """The first of them."""


class Tally:
    """Counts while the proxy runs."""

    def __init__(self) -> None:
        self.sessions = self.calls = self.recorded = self.errors = self.starts = 0
        self.namespaces: set[str] = set()
        self.tiers: Counter[Tier] = Counter()
        self.not_recorded: Counter[str] = Counter()
        self._missed: list[Missed] = []

    def answered(self, tier: Tier, *, is_error: bool) -> None:
        """Count an answer."""
        self.tiers[tier] += 1
        self.errors += is_error

    def missed(self, tool: str, arguments: str, message: str) -> None:
        """Remember a miss."""
        if len(self._missed) < _SHOWN:
            self._missed.append(Missed(tool=tool, arguments=arguments, message=message))

    def summary(self, *, mode: str, cache: str, scenario: str) -> Summary:
        """Return what was counted."""
        return Summary(
            mode=mode,
            cache=cache,
            namespaces=tuple(sorted(self.namespaces)),
            scenario=scenario,
            sessions=self.sessions,
            calls=self.calls,
            recorded=self.recorded,
            not_recorded=dict(self.not_recorded),
            tiers=dict(self.tiers),
            errors=self.errors,
            server_starts=self.starts,
            missed=tuple(self._missed),
        )
