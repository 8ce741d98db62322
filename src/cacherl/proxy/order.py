"""In which order calls that overlap are written down: the order of their requests. Pure.

Replay answers at once, so there every call is over before the next one begins. What was recorded
must therefore stand where it would have stood then:

- A call that changes something is written down after every change that was asked for before it.
- A call that only reads stands in the state of the changes asked for before it, and its answer is
  written down as soon as it is there and that state is known.
- Nothing else waits: reads overlap reads, and a change does not wait for earlier reads.

So an answer is held back from the cache, never from the client, only while a change that was asked
for earlier is still under way.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


class Step(enum.Enum):
    """What is to be done with a call."""

    BEGIN = "begin"
    """All changes before it are written down: this is the state it stands in."""
    END = "end"
    """Its answer can be written down."""


@dataclass(slots=True)
class _Open(Generic[T]):
    call: T
    writes: bool
    begun: bool = False
    over: bool = False


class Order(Generic[T]):
    """The calls of one session that are not written down yet, in order of request."""

    def __init__(self) -> None:
        self._open: list[_Open[T]] = []

    def __len__(self) -> int:
        return len(self._open)

    def asked(self, call: T, *, writes: bool) -> list[tuple[Step, T]]:
        """A call was asked for; return what can be done now, in order."""
        self._open.append(_Open(call, writes))
        return self._due()

    def over(self, call: T) -> list[tuple[Step, T]]:
        """A call was answered, or never will be; return what can be done now, in order."""
        for each in self._open:
            if each.call is call:
                each.over = True
        return self._due()

    def _due(self) -> list[tuple[Step, T]]:
        steps: list[tuple[Step, T]] = []
        left: list[_Open[T]] = []
        changing = False
        for each in self._open:
            if not changing and not each.begun:
                each.begun = True
                steps.append((Step.BEGIN, each.call))
            if each.begun and each.over:
                steps.append((Step.END, each.call))
                continue
            left.append(each)
            changing = changing or each.writes
        self._open = left
        return steps
