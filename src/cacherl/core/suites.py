"""The seam to a benchmark: its tasks, fresh environments for them, and its own verdict."""

from __future__ import annotations

import enum
from typing import Protocol

from cacherl.core.models import ChatModel
from cacherl.core.records import Record
from cacherl.core.tasks import Split, Task
from cacherl.core.trajectories import Trajectory
from cacherl.core.worlds import WorldTools


class UserKind(enum.StrEnum):
    """Who plays the person. Scores under different users are different measurements."""

    SCRIPTED = "scripted"
    """Every turn is written beforehand."""
    MODEL = "model"
    """A named model improvises the turns."""


class SuiteInfo(Record, frozen=True, kw_only=True):
    """What a reader must know of a suite before a number on it means anything."""

    name: str
    title: str
    tasks: int
    distinct_questions: int
    """Tasks that ask something no other task asks: n overstates what was measured where they differ."""
    splits: dict[str, int]
    """Tasks by split."""
    licence: str
    """SPDX."""
    user: UserKind
    needs: str = ""
    """What must be installed or added first; empty where nothing."""
    pin: str = ""
    """Version and digest of the suite's own files: equal pins, equal tasks."""


class Check(Record, frozen=True, kw_only=True):
    """One thing the suite looked at."""

    name: str
    """Such as `state`, `response`, `answer`."""
    score: float
    """In [0, 1]; 1 is passed."""
    said: str = ""
    """What failed, for a person: the first diverging state key, the missing result."""
    decides: bool = True
    """Whether success wants it passed. False for a figure that stands beside the verdict."""


class Verdict(Record, frozen=True, kw_only=True):
    """The suite's judgement of one episode, by its own rules."""

    success: bool
    checks: tuple[Check, ...] = ()


class Suite(Protocol):
    """A benchmark. `tests/suites/test_suite_contract.py` holds every implementation to this."""

    @property
    def info(self) -> SuiteInfo:
        """What it is."""
        ...

    def tasks(self, split: Split, *, count: int | None = None, seed: int = 0) -> list[Task]:
        """Return the split's tasks, or `count` of them drawn by `seed`. Same arguments, same tasks.

        Raises:
            DataError: there are fewer than `count`, or the suite's files are damaged.
        """
        ...

    def open(self, task: Task) -> WorldTools:
        """Return fresh tools in the task's initial state; nothing is shared with another episode."""
        ...

    def check(self, task: Task, trajectory: Trajectory) -> Verdict:
        """Return the verdict. A function of its arguments: stored trajectories can be checked again."""
        ...

    def oracle(self) -> ChatModel:
        """Return a model that plays each task's gold: the ceiling, and what fills a held-out cache."""
        ...
