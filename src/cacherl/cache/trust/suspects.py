"""Tools whose recordings contradict what they declare of their effects.

An entry's key holds the state that its tool says it reads. Where one scenario got different answers
under one key, either the tool is stochastic, or something it reads was written without its saying
so. Entries do not tell what other tools did in between; what they do tell is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from cacherl.cache.lookup.settings import Compare, DrawPolicy, ToolRules
from cacherl.cache.storage.entry import CacheEntry, Kept
from cacherl.cache.storage.store import CacheStore
from cacherl.cache.trust.compare import agreement, differing_paths
from cacherl.cache.trust.fidelity import Looks, Suspect
from cacherl.cache.trust.leave_one_out import TRUTHS
from cacherl.core.tools import ToolSpec

RECORDED = "recorded/"
"""How the names of a cache's notes on its recordings begin; a note is a JSON object."""

_MAX_PATHS = 3
_MAX_CHARS = 160
_MANY, _FEW = 0.5, 0.2


def suspect_of(
    namespace: str,
    spec: ToolSpec,
    rules: ToolRules,
    entries: Iterable[CacheEntry],
    *,
    shared_state: bool = False,
) -> Suspect | None:
    """Return the tool if its recordings contradict its declaration, or None.

    A tool that its settings call stochastic (`draw = "sample"` and the like) is none.

    Args:
        namespace: the tool's.
        spec: the tool, with the effects in force.
        rules: what the settings say of it.
        entries: its recordings.
        shared_state: whether episodes acted on one state: keys hold an episode's own writes only.
    """
    if rules.draw is not None:
        return None
    repeated = contradicted = 0
    within = False
    paths: dict[str, None] = {}
    example: tuple[CacheEntry, Kept, Kept] | None = None
    for entry in entries:
        for own in _by_scenario(entry):
            if sum(kept.times for kept in own) < 2:
                continue
            repeated += 1
            first = own[0]
            others = [kept for kept in own[1:] if not _same(first, kept, rules)]
            if not others:
                continue
            contradicted += 1
            within = within or len({k.observation.occurrence for k in (first, *others)}) > 1
            for kept in others:
                paths |= dict.fromkeys(differing_paths(first.observation, kept.observation))
            example = example or (entry, first, others[0])
    if example is None:
        return None
    entry, one, other = example
    looks = _looks(contradicted, repeated, tuple(paths), example)
    return Suspect(
        namespace=namespace,
        tool=spec.name,
        contradicted=contradicted,
        repeated=repeated,
        within_episode=within,
        reads=spec.effects.reads,
        paths=tuple(paths)[: _MAX_PATHS + 1],
        arguments=_cut(entry.call.canonical.decode()),
        answers=(_cut(one.observation.text), _cut(other.observation.text)),
        looks=looks,
        advice=_advice(looks, spec, tuple(paths)) + (_OTHERS if shared_state else ""),
    )


_OTHERS = (
    "; or other episodes wrote in between (recorded with resets = false): record with a fresh state an "
    "episode"
)


def on_shared_state(store: CacheStore) -> bool:
    """Say whether a recording in the cache was made of tools that do not reset."""
    for name in store.notes():
        if name.startswith(RECORDED):
            said = msgspec.json.decode(store.note(name) or b"{}")
            if isinstance(said, dict) and said.get("resets") is False:
                return True
    return False


def _by_scenario(entry: CacheEntry) -> Iterable[Sequence[Kept]]:
    found: dict[str, list[Kept]] = {}
    for kept in entry.kept:
        if kept.observation.source in TRUTHS:
            found.setdefault(kept.observation.scenario, []).append(kept)
    return found.values()


def _same(one: Kept, other: Kept, rules: ToolRules) -> bool:
    compare = rules.compare or Compare.JSON
    return agreement(one.observation, other.observation, compare, rules.volatile_paths) == 1.0


def _looks(
    contradicted: int, repeated: int, paths: Sequence[str], example: tuple[CacheEntry, Kept, Kept]
) -> Looks:
    _, one, other = example
    both_succeed = not one.observation.is_error and not other.observation.is_error
    mostly_alike = agreement(one.observation, other.observation, Compare.FIELDS) > 0.0
    if both_succeed and mostly_alike and len(paths) <= _MAX_PATHS and "$" not in paths:
        return Looks.VOLATILE
    share = contradicted / repeated
    if repeated >= 3 and share >= _MANY:
        return Looks.STOCHASTIC
    if repeated >= 5 and share <= _FEW:
        return Looks.EFFECTS
    return Looks.UNCLEAR


def _advice(looks: Looks, spec: ToolSpec, paths: Sequence[str]) -> str:
    stochastic = f'mark it stochastic (draw = "{DrawPolicy.SAMPLE}")'
    if looks is Looks.VOLATILE:
        listed = ", ".join(f'"{path}"' for path in paths)
        return (
            f"answers differ only at {', '.join(paths)}: if that says nothing, set "
            f"volatile_paths = [{listed}]; if it does, declare what it reads, or {stochastic}"
        )
    if "*" in spec.effects.reads:
        # All declared writes are part of its key already.
        return (
            "answers differ though no tool that says it writes ran in between: declare the writes of "
            f"the tool that does, or {stochastic}"
        )
    return (
        "answers differ though nothing it reads was written: declare what it reads, or "
        + stochastic
    )


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_CHARS else text[: _MAX_CHARS - 1].rstrip() + "…"
