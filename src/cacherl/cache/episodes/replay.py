"""The tools of one episode, answered from a cache: an `Episode` as the agent loop sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Unpack

from cacherl.cache.episodes.episode import Episode, EpisodeOptions
from cacherl.cache.episodes.ledger import Ledger, MissPolicy
from cacherl.cache.episodes.live import RecordMode
from cacherl.cache.lookup.tool_cache import ToolCache
from cacherl.core.errors import RecipeError
from cacherl.core.messages import ToolCall
from cacherl.core.tasks import Task
from cacherl.core.tools import ToolResult


class ReplayTools:
    """The tools of one episode, answered from a cache. A `Tools`; single use.

    Never raises for a miss and never runs a live tool unless a miss policy or a record mode says so.
    Errors replay as recorded when the call matches exactly; loose tiers never serve errors.
    """

    def __init__(self, cache: ToolCache, task: Task, **options: Unpack[EpisodeOptions]) -> None:
        """Start an episode.

        Args:
            cache: the recordings.
            task: its tools, namespace and scenario say what is looked up.
            options: see `EpisodeOptions`.

        Raises:
            RecipeError: something should run live, and there are no live tools.
        """
        wanted = _wants_live(options)
        if wanted is not None and options.get("live") is None:
            raise RecipeError(
                f"{wanted} needs live tools, and this run has none. "
                'Choose `on_miss = "error"` or `on_miss = "best_effort"`.'
            )
        self.episode = Episode(cache, task, **options)

    async def call(self, call: ToolCall) -> ToolResult:
        return await self.episode.answer(call)

    async def aclose(self) -> None:
        """Nothing to release: cache and live tools belong to whoever opened them."""

    @property
    def ledger(self) -> Ledger:
        """How the calls so far were answered."""
        return self.episode.ledger

    @property
    def live_calls(self) -> int:
        """How often a tool itself ran."""
        return self.episode.live_calls


def _wants_live(options: EpisodeOptions) -> str | None:
    on_miss = options.get("on_miss")
    policies = on_miss.values() if isinstance(on_miss, Mapping) else [on_miss]
    if MissPolicy.LIVE in policies:
        return 'on_miss = "live"'
    record = options.get("record", RecordMode.NONE)
    return None if record == RecordMode.NONE else f'record = "{record}"'
