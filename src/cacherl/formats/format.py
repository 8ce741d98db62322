"""What a format is: its name, its licence, and how a row or a file of it is read or written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cacherl.core.records import JsonObject
from cacherl.core.tasks import Split, Task
from cacherl.core.trajectories import Trajectory
from cacherl.formats.conversation import UNDETERMINED, Conversation
from cacherl.formats.rows import Row, Skipped


def _forget(skipped: Skipped) -> None:
    """Drop the report: for a reader that is tried by hand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What the reader of a file is told, and where it reports what it had to leave out."""

    namespace: str
    """Whose tools these are; part of every cache key and of every task id."""
    split: Split = Split.TRAIN
    language: str = UNDETERMINED
    """What to say where the row does not tell."""
    policy: str = ""
    """Who acted, where the row does not tell."""
    on_skip: Callable[[Skipped], None] = field(default=_forget)

    def skip(self, where: str, field: str, problem: str) -> None:
        """Report something left out: a row (also by raising `Unreadable`), or a part of one that is read."""
        self.on_skip(Skipped(where=where, field=field, problem=problem))

    def task_id(self, row: Row, said: object = None) -> str:
        """Return the id of a row's task: by what the row calls itself, else by its digest.

        The import tells apart two different tasks of one id, so this needs not be unique.
        """
        own = said if isinstance(said, str | int) and not isinstance(said, bool) else ""
        return f"{self.namespace}-{own if own != '' else row.digest()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One kind of trajectory file. Exactly one of `read_row` and `read_file` is there.

    `read_row` is handed one row at a time, from whatever kind of file; what raises `Unreadable` is
    skipped and reported. `read_file` is for formats whose conversations span rows, or whose tools are
    known only from all rows; it uses `rows_of` and reports what it skips by `Reading.skip`.
    """

    name: str
    """As in `--format NAME`."""
    title: str
    """One line for people: what wrote it, which data sets use it."""
    licence: str | None = None
    """SPDX id of the data set that the format belongs to; None where anyone writes the format."""
    warning: str = ""
    """Shown after an import: a licence that forbids something, a loss that cannot be avoided."""
    read_row: Callable[[Row, Reading], Iterable[Conversation]] | None = None
    read_file: Callable[[Path, Reading], Iterator[Conversation]] | None = None
    sniff: Callable[[Any], bool]
    """Whether this first row (its JSON value) is of this format. Asked in the table's order."""
    under: str = ""
    """The key under which the rows stand, where the file is one JSON object."""
    trials: bool = False
    """Its task ids are its own: rows of one id are rollouts of one task, however the user put it."""
    namespace: str = ""
    """Whose tools these always are; else the name of the file says."""


MAX_TOOL_COLUMNS = 256
"""A table that has a column for every tool cannot have them for more."""


class Unwritable(Exception):
    """A conversation that a format cannot say, or that nobody should learn from. Left out and counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One kind of file that trainers read. Exactly one of `row` and `prompt` is there."""

    name: str
    """As in `--format NAME`."""
    title: str
    """One line for people."""
    row: Callable[[Task, Trajectory], JsonObject] | None = None
    """A conversation's row; raises `Unwritable`."""
    prompt: Callable[[Task, int, Sequence[str]], JsonObject] | None = None
    """The row of a task to be solved, for reinforcement learning: given its place in the file and the names
    of all tools of the file (none where they are more than `MAX_TOOL_COLUMNS`)."""
    schema: Callable[[Sequence[str]], Any] | None = None
    """The Arrow schema of its Parquet file, given the same names; None where it is JSON lines only."""
    lines: bool = True
    """Whether it may be JSON lines."""
    advice: str = ""
    """How to read the file, and what to mind."""
