"""`results.jsonl`: one line a task and trial, with everything needed to check it again without a model.

Append-only, each line with its checksum: a killed run loses at most the line it was writing. Episodes that the
infrastructure ended are lines of another kind: the next run plays them again, and no figure counts them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import msgspec

from cacherl.core.errors import DataError
from cacherl.core.jsonl import atomic_writer, encode_line, read_jsonl
from cacherl.core.records import Record
from cacherl.core.suites import Verdict
from cacherl.core.tasks import Split, Task
from cacherl.core.trajectories import StopReason, Trajectory

Sample = tuple[str, int]
"""Task id and trial."""


class Result(Record, frozen=True, kw_only=True, tag_field="line", tag="result"):
    """What a model did on one task, once, and what that was worth."""

    task_id: str
    task_digest: str
    suite: str
    pin: str
    split: Split
    trial: int
    trajectory: Trajectory
    """Every message, call, result with its tier, usage, the episode's seed and why it stopped. Token ids are
    left out: they are most of the bytes, and no check needs them."""
    verdict: Verdict
    metrics: dict[str, float]
    """The figures of this row, by name. A metric that does not apply to it is absent."""
    cause: str | None = None
    """Why it failed; None for a success, and where no rule could say."""
    kinds: tuple[str, ...] = ()
    """Everything that went wrong in a failure, the cause among it."""
    wrong_fields: tuple[str, ...] = ()
    """Kinds of the arguments that made a call another call than the solution's."""
    wall_s: float = 0.0
    """From the opening of the tools to the verdict."""


class Outage(Record, frozen=True, kw_only=True, tag_field="line", tag="infrastructure"):
    """An episode that model or tools could not play to its end. Played again by the next run."""

    task_id: str
    task_digest: str
    trial: int
    stop: StopReason
    error: str
    kind: str | None = None
    """Why, in a word (`teacher.failure.Failure`), where that is known."""


Line = Result | Outage


def task_digest(task: Task) -> str:
    """Return what tells this task from every other, for a reader with another version of cacherl.

    Fields that hold nothing are left out, so that a field which later versions add changes no digest.
    """
    said = {name: value for name, value in msgspec.to_builtins(task).items() if value}
    body = msgspec.json.encode(said, order="sorted")
    return hashlib.blake2b(body, digest_size=12).hexdigest()


def digest_of_tasks(tasks: Iterable[Task]) -> str:
    """Return the digest of a set of tasks; their order does not count."""
    digests = sorted(task_digest(task) for task in tasks)
    return hashlib.blake2b("\n".join(digests).encode(), digest_size=12).hexdigest()


def read_lines(path: Path) -> Iterator[Line]:
    """Yield the lines of a results file in order; a torn last line is left out.

    Raises:
        DataError: the file is missing, or a line is damaged.
    """
    return read_jsonl(path, cast(Any, Line), drop_torn_tail=True)


def read_results(path: Path) -> Iterator[Result]:
    """Yield the scored rows of a results file, in order."""
    return (line for line in read_lines(path) if isinstance(line, Result))


def on_file(path: Path, digests: Mapping[str, str]) -> dict[Sample, Result]:
    """Return the rows that earlier runs have scored, of the tasks wanted.

    Args:
        path: the results file; it need not exist.
        digests: task id -> digest of each task wanted.

    Raises:
        DataError: a row is of another task of the same name, or the file is damaged.
    """
    if not path.exists():
        return {}
    found: dict[Sample, Result] = {}
    for row in read_results(path):
        wanted = digests.get(row.task_id)
        if wanted is None:
            continue
        if row.task_digest != wanted:
            raise DataError(
                f"{path}: the row of {row.task_id} is of another task of that name (digest "
                f"{row.task_digest}, now {wanted}). The suite has changed: name another folder with --out."
            )
        found[row.task_id, row.trial] = row
    return found


def rewrite(path: Path, lines: Iterable[Line]) -> None:
    """Replace the file by these lines, whole or not at all."""
    with atomic_writer(path) as handle:
        for line in lines:
            handle.write(encode_line(line))
