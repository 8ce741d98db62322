"""Recordings dropped by rule: by split, source, age, or for being too many."""

from __future__ import annotations

import contextlib
from collections import Counter

from cacherl.cache.lookup.tool_cache import ToolCache
from cacherl.cache.storage.entry import CacheEntry, Observation
from cacherl.cache.storage.store import CacheStore
from cacherl.cache.trust import fidelity
from cacherl.cache.upkeep.named import Opener, writable
from cacherl.cache.upkeep.spool import Spool
from cacherl.core.errors import RecipeError
from cacherl.core.records import Record
from cacherl.core.tasks import Split
from cacherl.core.tools import ErrorClass, Source


class GcRules(Record, frozen=True, kw_only=True):
    """Which observations to drop: those that all the given conditions hold for."""

    splits: frozenset[Split] = frozenset()
    """Of any of these; empty: of every split. Likewise below."""
    sources: frozenset[Source] = frozenset()
    scenarios: frozenset[str] = frozenset()
    tools: frozenset[str] = frozenset()
    """`tool`, in every namespace, or `namespace/tool`."""
    older_than_s: float | None = None
    """Recorded longer ago than this; of unknown age is too old, as for `max_age_s`."""
    transient: bool = False
    """Failures in transit, which are never replayed."""
    beyond: int | None = None
    """More than so many observations of one call: those with the smallest content hashes stay, as
    `entry.merged` has it."""


class Collected(Record, frozen=True, kw_only=True):
    """What a clean-up dropped, or would drop."""

    path: str
    applied: bool
    observations: int
    """Distinct observations dropped."""
    calls: int
    """Calls of which nothing is left."""
    reduced: int
    """Calls that keep some observations."""
    unknown_age: int
    """Observations dropped as too old because nobody knows their age."""
    left_calls: int
    left_observations: int
    by_tool: dict[str, int]
    """Observations dropped, by `namespace/tool`."""
    calibration_dropped: bool
    """The cache's calibration goes with them: it was of what was recorded before."""


def gc_file(
    name: str, rules: GcRules, *, now: float, apply: bool, open_cache: Opener = ToolCache.open
) -> Collected:
    """Clean up a cache by name. Arguments, result and errors as `gc`."""
    with writable(name, open_cache, apply=apply) as store:
        return gc(store, rules, now=now, apply=apply, name=name)


def gc(store: CacheStore, rules: GcRules, *, now: float, apply: bool, name: str = "") -> Collected:
    """Drop observations by rule, in one transaction; without `apply` only count them.

    Never on a cache that rollouts read, and never on a snapshot: clean up the cache it was made of
    and freeze that again.

    Args:
        store: the cache.
        rules: what to drop.
        now: seconds since 1970 UTC.
        apply: do it.
        name: what the cache is called.

    Raises:
        RecipeError: no condition was given.
        CacheError: the store cannot be written.
    """
    if rules == GcRules():
        raise RecipeError(
            "nothing says what to drop. Give a condition, such as `--split test` or `--transient`."
        )
    counts: Counter[str] = Counter()
    by_tool: Counter[str] = Counter()
    with contextlib.ExitStack() as stack:
        spool = stack.enter_context(Spool())
        if apply:
            stack.enter_context(store.batch())
        for entry in store.entries():
            dropped = _dropped(entry, rules, now)
            left = tuple(kept for kept in entry.kept if kept.observation.content() not in dropped)
            counts["left_calls"] += bool(left)
            counts["left"] += len(left)
            if len(left) == len(entry.kept):
                continue
            gone = len(entry.kept) - len(left)
            counts["gone"] += gone
            counts["reduced" if left else "calls"] += 1
            by_tool[f"{entry.call.namespace}/{entry.call.tool}"] += gone
            if rules.older_than_s is not None:
                counts["unknown"] += sum(
                    kept.observation.recorded_at is None and kept not in left for kept in entry.kept
                )
            if apply:
                store.remove(entry.call)
                if left:
                    spool.put(CacheEntry(call=entry.call, kept=left))
        for entry in spool.entries():
            store.absorb(entry)
        calibrated = counts["gone"] > 0 and fidelity.NOTE in store.notes()
        if apply and calibrated:
            fidelity.drop_calibration(store)
    return Collected(
        path=name,
        applied=apply,
        observations=counts["gone"],
        calls=counts["calls"],
        reduced=counts["reduced"],
        unknown_age=counts["unknown"],
        left_calls=counts["left_calls"],
        left_observations=counts["left"],
        by_tool=dict(sorted(by_tool.items())),
        calibration_dropped=calibrated,
    )


def _dropped(entry: CacheEntry, rules: GcRules, now: float) -> frozenset[bytes]:
    """Return the contents of the observations to drop."""
    call = entry.call
    named = not rules.tools or bool(rules.tools & {call.tool, f"{call.namespace}/{call.tool}"})
    if not named:
        return frozenset()
    contents = sorted(kept.observation.content() for kept in entry.kept)
    staying = frozenset(contents[: rules.beyond] if rules.beyond is not None else ())
    return frozenset(
        kept.observation.content()
        for kept in entry.kept
        if _selected(kept.observation, rules, now) and kept.observation.content() not in staying
    )


def _selected(observation: Observation, rules: GcRules, now: float) -> bool:
    at = observation.recorded_at
    return (
        (not rules.splits or observation.split in rules.splits)
        and (not rules.sources or observation.source in rules.sources)
        and (not rules.scenarios or observation.scenario in rules.scenarios)
        and (not rules.transient or observation.error_class is ErrorClass.TRANSIENT)
        and (rules.older_than_s is None or at is None or now - at > rules.older_than_s)
    )
