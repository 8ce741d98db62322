"""What a tool call would have answered, from recordings, and how far to trust that.

Identity: which calls are the same call.
    canonical        JSON values as bytes: equal values, equal bytes
    normalise        arguments brought to a normal form by the tool's schema
    kinds            what a parameter holds, judged from recordings where its schema does not say
    key              the name under which a call's answer is kept
State: what was written before.
    state            the earlier writes of an episode that touch what a call reads
Matching: which other recording may stand in.
    match            the gate of FUZZY and the ranking of BEST_EFFORT, for two calls
    nearest          the closest of many recorded calls, by inverted index
Storage: where recordings are.
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
    (a store on a server: `adapters.redis_store`)
Looking up: the most trustworthy answer.
    settings         what people say of their tools, in one file
    hit              what a lookup is asked with and what it says
    draws            which of several observations a call gets
    tool_cache       the cache: recordings in, answers out
    stats            what a cache holds, counted
    tool_views       what a cache believes of its tools, to be checked and corrected
    queries          what the `cacherl cache` commands ask
Episodes: one rollout on a cache.
    episode          its state, its draws, its ledger
    ledger           how its calls were answered, and what a group of rollouts has in common
    live             when a tool may run for real, once for concurrent calls
    readdress        a recorded receipt made to speak of another call
    replay           an episode as the agent loop sees it
    cached_tool      Python functions as recorded tools
Trust: how often an answer is what the live tool says.
    compare          when two results say the same
    leave_one_out    recorded calls asked again as if they had not been recorded
    calibrate        the fit to what came of it
    fidelity         the fit as it is stored and looked up
    suspects         tools whose recordings contradict their declared effects
Upkeep: recordings after they were made.
    merge            several caches brought into one
    diff             two caches beside each other
    cleaning         recordings dropped by rule
    rekey            recordings moved to today's rules
    named            caches opened by name to be changed
    spool            entries set aside while a cache is read
Safety: what must not be seen, and by whom.
    sensitive        what is a secret or personal data
    redact           both taken out of recordings and queries, with placeholders
    scan             whether a cache holds what must not be published
    audit            whether held-out answers are reachable in training

The names below are loaded on first use: much of the program needs one small module of this room,
and not numpy.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cacherl.cache.cached_tool import cached_tool
    from cacherl.cache.draws import Draw
    from cacherl.cache.episode import Episode
    from cacherl.cache.hit import Hit, Viewpoint
    from cacherl.cache.ledger import MissPolicy
    from cacherl.cache.live import RecordMode
    from cacherl.cache.settings import Settings
    from cacherl.cache.tool_cache import ToolCache

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
    "Draw": "draws",
    "Episode": "episode",
    "Hit": "hit",
    "MissPolicy": "ledger",
    "RecordMode": "live",
    "Settings": "settings",
    "ToolCache": "tool_cache",
    "Viewpoint": "hit",
    "cached_tool": "cached_tool",
}


class _Room(ModuleType):
    """This package, with its public names loaded on first use."""

    def __getattr__(self, name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value: object = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
        setattr(self, name, value)
        return value

    def __setattr__(self, name: str, value: object) -> None:
        # Importing the module `cached_tool` would put it in the place of the function of that name.
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Room
