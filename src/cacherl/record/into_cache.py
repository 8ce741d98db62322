"""The cache of a recording: it holds what the file of trajectories holds, each episode once.

The cache counts how often an answer was observed, so an episode put in twice would be counted twice.
Episodes therefore go into the file first, then into the cache together with a mark that says how far
the cache has come, in one transaction. A kill between the two leaves the cache behind the file, never
before it, and the next start brings it level.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path

import msgspec
from msgspec.structs import replace

from cacherl.cache.lookup.tool_cache import ToolCache
from cacherl.cache.trust.suspects import RECORDED
from cacherl.core.errors import DataError
from cacherl.core.jsonl import read_jsonl
from cacherl.core.records import Record
from cacherl.core.tasks import Task
from cacherl.core.trajectories import Trajectory
from cacherl.record.stage import is_failure

RECORDED_AT = "recorded_at"
"""The note of a trajectory that says when it was recorded (ISO 8601): the cache keeps that time, so
that it is the same whenever it is built from the file."""


class Mark(Record, frozen=True, kw_only=True):
    """How far along the file of trajectories a cache has come."""

    episodes: int = 0
    """Episodes of the file, from its beginning and without failures, that are in the cache."""
    chain: str = ""
    """Digest (hex) over which episodes they are."""
    resets: bool = True
    """Whether each episode began on a fresh state."""

    def past(self, trajectory: Trajectory) -> Mark:
        """Return the mark one episode further on."""
        said = msgspec.json.encode((self.chain, trajectory.task_id, trajectory.rollout))
        chain = hashlib.blake2b(said, digest_size=8).hexdigest()
        return Mark(episodes=self.episodes + 1, chain=chain, resets=self.resets)


def is_in_cache(path: Path, folder: str) -> bool:
    """Say whether a cache holds episodes of this recording."""
    if not path.exists():
        return False
    with ToolCache.open(path) as cache:
        return cache.store.note(_mark_of(folder)) is not None


def _mark_of(folder: str) -> str:
    return f"{RECORDED}{folder}"


class CacheOfFile:
    """A cache that follows a file of trajectories. Failures stay out: most are recorded again."""

    def __init__(
        self, cache: ToolCache, folder: str, tasks: Mapping[str, Task], *, resets: bool = True
    ) -> None:
        """Stand on an open cache.

        Args:
            cache: open to write.
            folder: tells this file's mark from those of others that were merged into the cache.
            tasks: by id.
            resets: whether each episode began on a fresh state.
        """
        self._none = Mark(resets=resets)
        self._cache, self._tasks = cache, tasks
        self._note = _mark_of(folder)
        said = cache.store.note(self._note)
        self._mark = self._none
        if said is not None:  # a mark of an older version does not say `resets`
            self._mark = replace(msgspec.json.decode(said, type=Mark), resets=resets)

    def catch_up(self, path: Path) -> int:
        """Put in the episodes of the file that are not in yet; return how many those were.

        Raises:
            DataError: the cache holds other episodes than the file begins with.
        """
        if not path.exists():
            self._refuse_unless(self._mark.episodes == 0, path)
            return 0
        return self._follow(read_jsonl(path, Trajectory, drop_torn_tail=True), path)

    def _follow(self, trajectories: Iterable[Trajectory], path: Path) -> int:
        passed, added = self._none, 0
        for trajectory in trajectories:
            if is_failure(trajectory):
                continue
            if passed.episodes == self._mark.episodes:
                self._refuse_unless(passed == self._mark, path)
                self.add(trajectory)
                added += 1
            passed = passed.past(trajectory)
        self._refuse_unless(passed == self._mark, path)
        return added

    def add(self, trajectory: Trajectory) -> None:
        """Put in the next episode of the file, whole, with the mark, or not at all.

        Raises:
            DataError: its task is unknown.
        """
        if is_failure(trajectory):
            return
        task = self._tasks.get(trajectory.task_id)
        if task is None:
            raise DataError(
                f"{self._cache.name}: an episode of task {trajectory.task_id} is on file, and the "
                "task is not. Restore tasks.jsonl, or record into another folder."
            )
        at = trajectory.notes.get(RECORDED_AT)
        mark = self._mark.past(trajectory)
        with self._cache.store.batch():
            self._cache.record_trajectory(
                task,
                trajectory,
                recorded_at=None if at is None else datetime.fromisoformat(at).timestamp(),
            )
            self._cache.store.put_note(self._note, msgspec.json.encode(mark))
        self._mark = mark

    def _refuse_unless(self, agrees: bool, path: Path) -> None:
        if not agrees:
            raise DataError(
                f"{self._cache.name}: holds {self._mark.episodes} episodes of this folder, and they "
                f"are not those that {path} begins with. Restore that file, or move the cache away: "
                "it is built again from the file by the same command."
            )
