"""Tasks by id, on file: an imported task file is as large as its trajectories."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from cacherl.core.errors import DataError
from cacherl.core.jsonl import decode_line
from cacherl.core.tasks import Task


class _Named(msgspec.Struct):
    id: str


class TaskFile(Mapping[str, Task]):
    """The tasks of a file, read when they are asked for; of two with one id the last.

    Holds an id and a position of each. Close it, or use it in a `with`.
    """

    def __init__(self, path: Path) -> None:
        """Go over the file once.

        Raises:
            DataError: there is no such file, or a line is no task.
        """
        self.path = path
        self._places: dict[str, tuple[int, int]] = {}
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise DataError(
                f"{path}: the tasks cannot be read ({error.strerror}). `cacherl record` and "
                "`cacherl import` write them beside the trajectories."
            ) from error
        place = 0
        for number, line in enumerate(self._file, 1):
            if line.strip():
                try:
                    named = msgspec.json.decode(line, type=_Named)
                except msgspec.DecodeError as error:
                    self._file.close()
                    raise DataError(
                        f"{path}:{number}: not a Task: {error}. Fix or delete the line."
                    ) from error
                self._places[named.id] = (place, number)
            place += len(line)
        self._last: Task | None = None

    def __getitem__(self, id_: str) -> Task:
        if self._last is not None and self._last.id == id_:  # rollouts of a task follow one another
            return self._last
        place, number = self._places[id_]
        self._file.seek(place)
        self._last = decode_line(self._file.readline(), Task, f"{self.path}:{number}")
        return self._last

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, id_: object) -> bool:
        return id_ in self._places

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        self._file.close()

    def __enter__(self) -> TaskFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
