"""Which of several recorded observations a call gets: a pure decision.

Where a tool answers one call in several ways, a rollout must get one of them, and the same one when
it is played again, on any machine. One draw shared by a whole group of rollouts would turn the
group's advantages round (see `ledger.coupling`), so each rollout draws for itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

from cacherl.cache.lookup.settings import DrawPolicy
from cacherl.cache.storage.entry import Kept


class Draw(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Who draws: which observation a call gets is a pure function of these, the key and what is kept."""

    seed: int = 0
    rollout: int = 0
    occurrence: int = 0
    """How often this episode has made the same call in the same state before."""
    policy: DrawPolicy = DrawPolicy.SAMPLE
    """Holds unless the cache's settings say otherwise of the tool."""

    def place(self, key: bytes, total: int) -> int:
        """Return a place in [0, total). The same on every machine and in every process."""
        if total == 1:
            return 0
        said = f"{self.seed}|{self.rollout}|{self.occurrence}|".encode() + key
        return int.from_bytes(hashlib.blake2b(said, digest_size=8).digest(), "big") % total


def pick(policy: DrawPolicy, draw: Draw, key: bytes, kept: Sequence[Kept]) -> Kept:
    """Return the observation that answers. Pure, and equal on every platform and under every hash seed.

    SAMPLE does not depend on the order of recording, so merged caches draw alike. Each repetition
    of a call draws anew: a tool that answers one call in several ways would, live, too.

    Args:
        policy: how to choose.
        draw: who draws, and for the how-manieth time.
        key: the entry's.
        kept: what may be drawn, in recorded order; at least one.
    """
    if len(kept) == 1:
        return kept[0]
    if policy is DrawPolicy.MAJORITY:
        return max(kept, key=lambda each: each.times)  # the first of equals: recorded first
    if policy is DrawPolicy.LATEST:
        return max(enumerate(kept), key=lambda placed: (_recorded_at(placed[1]), placed[0]))[1]
    if policy is DrawPolicy.SEQUENCE:
        return _sampled(draw, key, _due(draw, kept))
    return _sampled(draw, key, kept)


def shared(policy: DrawPolicy, draw: Draw, kept: Sequence[Kept]) -> float:
    """Return the chance that another rollout's same draw falls on the same observation, in (0, 1].

    A result observed k times counts as k observations: two rollouts that drew two of them agree as
    two live calls would.
    """
    if policy in (DrawPolicy.MAJORITY, DrawPolicy.LATEST):
        return 1.0
    drawn = _due(draw, kept) if policy is DrawPolicy.SEQUENCE and len(kept) > 1 else kept
    return 1.0 / sum(each.times for each in drawn)


def alternatives(kept: Sequence[Kept]) -> int:
    """Return how many answers a single scenario gave beside the first.

    Above 0 the tool is not deterministic, or its effects are misdeclared.
    """
    answers: dict[str, set[tuple[str, bool]]] = {}
    for each in kept:
        seen = each.observation
        answers.setdefault(seen.scenario, set()).add((seen.text, seen.is_error))
    return max(map(len, answers.values())) - 1


def _recorded_at(kept: Kept) -> float:
    at = kept.observation.recorded_at
    return float("-inf") if at is None else at


def _sampled(draw: Draw, key: bytes, kept: Sequence[Kept]) -> Kept:
    place = draw.place(key, sum(each.times for each in kept))
    by_content = sorted(kept, key=_content)
    for each in by_content:
        if place < each.times:
            return each
        place -= each.times
    return by_content[-1]


def _content(kept: Kept) -> tuple[str, bool, str, str, str, str, str]:
    seen = kept.observation
    error_class, wire = seen.error_class or "", seen.wire or ""
    return seen.text, seen.is_error, seen.scenario, seen.source, seen.split, error_class, wire


def _due(draw: Draw, kept: Sequence[Kept]) -> Sequence[Kept]:
    """Return what the n-th call was answered in each recorded episode, or the last call before it.

    Where no recording says which call of its episode it answered, recorded order is the sequence.
    An answer that came back later is kept once, at its first place: `a, b, a` replays as `a, b, b`.
    """
    told = sorted({each.observation.occurrence for each in kept})
    if told == [0]:
        return [kept[min(draw.occurrence, len(kept) - 1)]]
    reached = [occurrence for occurrence in told if occurrence <= draw.occurrence] or told[:1]
    return [each for each in kept if each.observation.occurrence == reached[-1]]
