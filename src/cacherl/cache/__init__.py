"""What a tool call would have answered, from recordings, and how far to trust that.

identity: which calls are the same call, and in which state they stand.
    canonical        JSON values as bytes: equal values, equal bytes
    normalise        arguments brought to a normal form by the tool's schema
    kinds            what a parameter holds, judged from recordings where its schema does not say
    key              the name under which a call's answer is kept
    state            the earlier writes of an episode that touch what a call reads
matching: which other recording may stand in for a call that was not recorded.
    match            the gate of FUZZY and the ranking of BEST_EFFORT, for two calls
    nearest          the closest of many recorded calls, by inverted index
storage: where recordings are, whole or not, on one machine or carried between them.
    entry            what is kept: calls, and what was observed of each
    store            the seam every store fills, and the store in memory
    sqlite           the store in a file, for several processes of one machine
    rows             what stands in its rows, with their checksums
    filesystem       whether a path is on a file system that several machines share
    older            earlier formats of the file, read
    migrate          an older file made into one of today's, in place
    health           whether a file is whole, and what can be saved of one that is not
    snapshot         a frozen cache, mapped into memory by any number of readers
    snapshot_format  its bytes
    freeze           any cache made into a snapshot
    portable         any cache as JSON lines or Parquet, both ways
lookup: the most trustworthy recorded answer, and what a cache says of itself.
    settings         what people say of their tools, in one file
    hit              what a lookup is asked with and what it says
    draws            which of several observations a call gets
    tool_cache       the cache: recordings in, answers out
    stats            what a cache holds, counted
    tool_views       what a cache believes of its tools, to be checked and corrected
    queries          what the `cacherl cache` commands ask
episodes: one rollout on a cache: its state, its draws, its ledger, its misses.
    episode          its state, its draws, its ledger
    ledger           how its calls were answered, and what a group of rollouts has in common
    live             when a tool may run for real, once for concurrent calls
    readdress        a recorded receipt made to speak of another call
    replay           an episode as the agent loop sees it
    cached_tool      Python functions as recorded tools
trust: how often an answer is what the live tool says, measured on the recordings themselves.
    compare          when two results say the same
    leave_one_out    recorded calls asked again as if they had not been recorded
    calibrate        the fit to what came of it
    fidelity         the fit as it is stored and looked up
    suspects         tools whose recordings contradict their declared effects
upkeep: recordings after they were made: merged, compared, dropped, moved.
    merge            several caches brought into one
    diff             two caches beside each other
    cleaning         recordings dropped by rule
    rekey            recordings moved to today's rules
    named            caches opened by name to be changed
    spool            entries set aside while a cache is read
safety: what must not be seen, and by whom: secrets, personal data, held-out answers.
    sensitive        what is a secret or personal data
    redact           both taken out of recordings and queries, with placeholders
    scan             whether a cache holds what must not be published
    audit            whether held-out answers are reachable in training

A store on a server is `cacherl.adapters.redis_store`. The names below are loaded on first use: much
of the program needs one small module of this room, and not numpy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cacherl.cache.episodes.cached_tool import cached_tool
    from cacherl.cache.episodes.episode import Episode
    from cacherl.cache.episodes.ledger import MissPolicy
    from cacherl.cache.episodes.live import RecordMode
    from cacherl.cache.lookup.draws import Draw
    from cacherl.cache.lookup.hit import Hit, Viewpoint
    from cacherl.cache.lookup.settings import Settings
    from cacherl.cache.lookup.tool_cache import ToolCache

__all__ = [
    "Draw",
    "Episode",
    "Hit",
    "MissPolicy",
    "RecordMode",
    "Settings",
    "ToolCache",
    "Viewpoint",
    "cached_tool",
]

_HOMES = {
    "Draw": "lookup.draws",
    "Episode": "episodes.episode",
    "Hit": "lookup.hit",
    "MissPolicy": "episodes.ledger",
    "RecordMode": "episodes.live",
    "Settings": "lookup.settings",
    "ToolCache": "lookup.tool_cache",
    "Viewpoint": "lookup.hit",
    "cached_tool": "episodes.cached_tool",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
