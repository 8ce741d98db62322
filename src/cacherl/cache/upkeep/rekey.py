"""Recordings moved to where today's normalisation rules look for them."""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec

from cacherl.cache.identity.canonical import decode_canonical
from cacherl.cache.identity.key import CANON_VERSION
from cacherl.cache.identity.normalise import Plan, is_mended_refusal, plan_of
from cacherl.cache.identity.state import NO_WRITES, seen, touches_no_more
from cacherl.cache.lookup.settings import NO_SETTINGS, SETTINGS_NOTE, Settings
from cacherl.cache.lookup.tool_cache import ToolCache
from cacherl.cache.storage.entry import CacheEntry, Kept, Observation, RecordedCall
from cacherl.cache.storage.sqlite import SqliteStore
from cacherl.cache.storage.store import CacheStore
from cacherl.cache.trust import fidelity
from cacherl.cache.upkeep.named import Opener, writable
from cacherl.cache.upkeep.spool import Spool
from cacherl.core.errors import CacheError
from cacherl.core.records import Record
from cacherl.core.tools import Effects, ToolSpec, undeclared

_OTHER_STATES = "c1"
"""Rules whose state keys were computed in another way: no state of theirs can be reached."""


class Rekeyed(Record, frozen=True, kw_only=True):
    """What moving a cache to today's rules did, or would do."""

    path: str
    applied: bool
    calls: int
    """Calls read."""
    older: int
    """Of these, recorded under another version of the rules."""
    moved: int
    """Calls whose identity changed."""
    merged: int
    """Observations that came to stand beside those of another call."""
    split: int
    """Calls whose observations went to several calls."""
    refusals_dropped: int
    """Validation errors of arguments that today's rules mend: they would answer for the mended call."""
    repeats_assumed: int
    """Repeats of moved observations: taken to have been asked as the first was, whose spelling alone
    is kept."""
    states_kept: int
    """Calls in a written state whose state stands as it was recorded."""
    states_lost: int
    """Calls whose state can no longer be told: set apart, so that they answer BEST_EFFORT only. Record
    their trajectories again to have them EXACT."""
    writers_changed: tuple[str, ...]
    """Writing tools (`namespace/tool`) with calls whose normal form changed."""
    calibration_dropped: bool
    """The cache's calibration goes where calls moved: it was of where they stood before."""


def rekey_file(
    name: str,
    *,
    settings: Settings | None = None,
    keep_states: bool = False,
    apply: bool = True,
    open_cache: Opener = ToolCache.open,
) -> Rekeyed:
    """Move the recordings of a cache by name. Arguments, result and errors as `rekey`."""
    with writable(name, open_cache, apply=apply) as store:
        return rekey(store, settings=settings, keep_states=keep_states, apply=apply, name=name)


def rekey(
    store: CacheStore,
    *,
    settings: Settings | None = None,
    keep_states: bool = False,
    apply: bool = True,
    name: str = "",
) -> Rekeyed:
    """Move every recording to where today's rules look for it, in one transaction. Idempotent.

    The normal form is computed again from the arguments as they were asked, else from the normal
    form they had. Observations that now belong to several calls are parted, those that now belong
    to one are joined (`entry.merged`).

    What a call can not tell is the writes before it. Its state key is a digest over them, and each
    of them is known by its own normal form and by the resources it names. So where any successful
    call of a writing tool changed its normal form, no state of that namespace can be told any more;
    and where a call now names other resources than it did, earlier writes may touch it that did
    not, or the reverse. Such calls are set apart in states that no episode can reach: they answer
    BEST_EFFORT, flagged, and never EXACT or FUZZY. A changed version alone leaves states as they are.

    Args:
        store: the cache.
        settings: new settings, kept with the cache; None keeps its own.
        keep_states: trust every state key as it is: right where the environment's own fingerprint
            was the state, wrong where it was computed.
        apply: do it; otherwise only count.
        name: what the cache is called.

    Raises:
        CacheError: the new settings change what tools read or write: which writes touch a call stands
            in the trajectories alone, so the cache must be built again (or `keep_states`).
    """
    kept_note = store.note(SETTINGS_NOTE)
    old = NO_SETTINGS if kept_note is None else msgspec.json.decode(kept_note, type=Settings)
    new = old if settings is None else settings
    rules = _Rules(store.tools(), old, new)
    changed_effects = rules.changed_effects()
    if changed_effects and not keep_states:
        raise CacheError(
            f"{name or 'the cache'}: the settings change what {', '.join(changed_effects)} read or "
            "write. Which earlier writes touch a call stands in the trajectories, not in the cache: "
            "build it again from them, or pass --keep-states to leave the states as recorded."
        )
    with contextlib.ExitStack() as stack:
        spool = stack.enter_context(Spool())
        if apply:
            stack.enter_context(store.batch())
        states = _States(store, rules, keep=keep_states)
        counts: Counter[str] = Counter()
        leaving: set[bytes] = set()
        arriving: Counter[bytes] = Counter()
        for version, entry in _versions(store):
            counts["calls"] += 1
            counts["older"] += version != CANON_VERSION
            placed = _placed(version, entry, rules, states, counts)
            if version == CANON_VERSION and placed == [(entry.call, each) for each in entry.kept]:
                continue
            targets = {call.key for call, _ in placed}
            counts["moved"] += 1
            counts["split"] += len(targets) > 1
            leaving.add(entry.call.key)
            arriving.update(targets)
            if apply and version == CANON_VERSION:
                store.remove(entry.call)
            for call, kept in placed:
                spool.put(CacheEntry(call=call, kept=(kept,)))
        if apply and isinstance(store, SqliteStore):
            store.drop_stale()
        for key, times in arriving.items():
            stays = key not in leaving and store.by_key(key) is not None
            counts["merged"] += times - 1 + stays
        calibrated = counts["moved"] > 0 and fidelity.NOTE in store.notes()
        if apply:
            for entry in spool.entries():
                store.absorb(entry)
            if calibrated:
                fidelity.drop_calibration(store)
            if settings is not None:
                store.put_note(SETTINGS_NOTE, msgspec.json.encode(settings))
    return Rekeyed(
        path=name,
        applied=apply,
        calls=counts["calls"],
        older=counts["older"],
        moved=counts["moved"],
        merged=counts["merged"],
        split=counts["split"],
        refusals_dropped=counts["refusals"],
        repeats_assumed=counts["repeats"],
        states_kept=counts["states_kept"],
        states_lost=counts["states_lost"],
        writers_changed=states.changed(),
        calibration_dropped=calibrated,
    )


def _versions(store: CacheStore) -> Iterator[tuple[str, CacheEntry]]:
    """Yield every entry with the version of the rules that it was recorded under."""
    if isinstance(store, SqliteStore):
        yield from store.all_entries()
        return
    for entry in store.entries():
        yield CANON_VERSION, entry


class _Rules:
    """Each tool as the old and the new settings see it."""

    def __init__(
        self, specs: dict[tuple[str, str], ToolSpec], old: Settings, new: Settings
    ) -> None:
        self._specs = specs
        self._old = old
        self._new = new
        self._known: dict[tuple[str, str], tuple[ToolSpec, Plan]] = {}

    def of(self, namespace: str, tool: str) -> tuple[ToolSpec, Plan]:
        """Return the tool and its normalisation under the new settings."""
        name = (namespace, tool)
        if name not in self._known:
            spec = self._new.applied(namespace, self._specs.get(name) or undeclared(tool))
            self._known[name] = spec, plan_of(spec)
        return self._known[name]

    def changed_effects(self) -> list[str]:
        """Return the tools that touch more under the new settings: their states say too little."""
        if self._old == self._new:
            return []
        return [
            f"{namespace}/{tool}"
            for (namespace, tool), spec in sorted(self._specs.items())
            if not touches_no_more(
                self._old.applied(namespace, spec).effects, self.of(namespace, tool)[0].effects
            )
        ]


class _States:
    """Which state keys can still be trusted.

    Every version of the rules is judged by its own recordings: what was recorded under today's
    stands as it is, however much the older ones change.
    """

    def __init__(self, store: CacheStore, rules: _Rules, *, keep: bool) -> None:
        self._keep = keep
        self._written: set[tuple[str, str]] = set()  # version, namespace
        self._changed: dict[tuple[str, str], set[str]] = {}
        if keep:
            return
        for version, entry in _versions(store):
            call = entry.call
            spec, plan = rules.of(call.namespace, call.tool)
            if not spec.effects.writes:
                continue
            for kept in entry.kept:
                if kept.observation.is_error:
                    continue  # it wrote nothing
                self._written.add((version, call.namespace))
                if plan.normal(_asked(call, kept.observation)).canonical != call.canonical:
                    self._changed.setdefault((version, call.namespace), set()).add(call.tool)

    def changed(self) -> tuple[str, ...]:
        """Return the writing tools with calls whose normal form changed."""
        found = {f"{space}/{tool}" for (_, space), tools in self._changed.items() for tool in tools}
        return tuple(sorted(found))

    def lost(
        self,
        version: str,
        call: RecordedCall,
        effects: Effects,
        before: dict[str, Any],
        after: dict[str, Any],
    ) -> bool:
        """Say whether the state of a call can no longer be told.

        Args:
            version: the rules it was recorded under.
            call: as it was recorded.
            effects: the tool's.
            before: its normal arguments as recorded.
            after: the same by today's rules.
        """
        where = (version, call.namespace)
        if version == _OTHER_STATES and call.state != NO_WRITES and not self._keep:
            return True
        if self._keep or where not in self._written:
            return False
        if call.state != NO_WRITES and where in self._changed:
            return True
        return before != after and seen(effects, before) != seen(effects, after)


def _asked(call: RecordedCall, observation: Observation) -> dict[str, Any]:
    said = call.canonical if observation.asked is None else observation.asked.encode()
    arguments: dict[str, Any] = decode_canonical(said)
    return arguments


def _placed(
    version: str, entry: CacheEntry, rules: _Rules, states: _States, counts: Counter[str]
) -> list[tuple[RecordedCall, Kept]]:
    """Return where each observation of an entry belongs by today's rules."""
    call = entry.call
    spec, plan = rules.of(call.namespace, call.tool)
    before = call.arguments
    placed = []
    any_lost = False
    for kept in entry.kept:
        observation = kept.observation
        normal = plan.normal(_asked(call, observation))
        if is_mended_refusal(normal.fired, observation.error_class):
            counts["refusals"] += 1
            continue
        state = call.state
        if states.lost(version, call, spec.effects, before, normal.arguments):
            any_lost = True
            state = hashlib.blake2b(b"lost\n" + state, digest_size=16).digest()
        if normal.canonical != call.canonical:
            counts["repeats"] += kept.times - 1
            if observation.asked is None:
                observation = msgspec.structs.replace(observation, asked=call.canonical.decode())
        target = RecordedCall.of(call.namespace, call.tool, normal.canonical, state)
        placed.append((target, Kept(observation=observation, times=kept.times)))
    counts["states_lost"] += any_lost
    counts["states_kept"] += call.state != NO_WRITES and not any_lost
    return placed
