"""A task: what the user says, which tools are on offer, and what a right outcome is."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence

from cacherl.core.records import JsonObject, Record
from cacherl.core.tools import ToolSpec


class Split(enum.StrEnum):
    """Who may look at a task. Settings are chosen on DEV; TEST is only ever reported."""

    TRAIN = "train"
    DEV = "dev"
    TEST = "test"


class GoldCall(Record, frozen=True, kw_only=True):
    """One call that a right solution makes."""

    name: str
    arguments: JsonObject
    step: int = 0
    """Calls of one step may come in any order (they could have been parallel)."""


class AnswerRule(Record, frozen=True, kw_only=True):
    """What the final answer must and must not say, case-insensitively."""

    must: tuple[tuple[str, ...], ...] = ()
    """All of these groups; one string of a group is enough."""
    must_not: tuple[str, ...] = ()


class Gold(Record, frozen=True, kw_only=True):
    """What a right outcome is. Never shown to the model, never in a training cache."""

    calls: tuple[GoldCall, ...] | None
    """None where nobody said: then nothing is asked of the way. Empty where no call is right."""
    answer: AnswerRule
    state: str
    """Digest of the world after the gold calls (`World.fingerprint`)."""

    @property
    def listed(self) -> tuple[GoldCall, ...]:
        """The calls that were said; none where nobody said any."""
        return self.calls or ()


class Task(Record, frozen=True, kw_only=True):
    """One task, complete in itself."""

    id: str
    split: Split
    family: str
    language: str
    """ISO 639-1: `en`, `fr`."""
    wording: str
    """The wording set the user's text came from; some sets are held out of training."""
    scenario: str
    """The world instance (for the desk: the database seed, as `desk-<seed>`). Part of provenance,
    not of a cache key."""
    namespace: str
    """Whose tools these are; part of every cache key. Results of two worlds never mix."""
    system: str
    user_turns: tuple[str, ...]
    """The user's turns in order; each after the first is said once the model has answered."""
    tools: tuple[ToolSpec, ...]
    """Every tool that is on offer at any time."""
    gold: Gold | None = None
    late: dict[str, int] = {}
    """Tools held back at first: name -> index of the user turn from which on they are on offer."""

    def offered(self, turn: int) -> tuple[ToolSpec, ...]:
        """Return the tools on offer once user turn `turn` (the first is 0) has been said."""
        return offered(self.tools, self.late, turn)


def offered(tools: Sequence[ToolSpec], late: Mapping[str, int], turn: int) -> tuple[ToolSpec, ...]:
    """Return those of a task's tools that are on offer once user turn `turn` has been said."""
    return tuple(spec for spec in tools if late.get(spec.name, 0) <= turn)
