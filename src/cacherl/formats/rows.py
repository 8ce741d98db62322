"""The rows of other people's files, one at a time, with where each stands.

JSONL, one JSON array, Parquet; plain, gzip or zstd. Memory holds a row and a buffer, never the file.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import msgspec

from cacherl.core.records import Record


class Skipped(Record, frozen=True, kw_only=True):
    """Something an import left out, and why."""

    where: str
    """`file:line` for lines, `file: row N` (from 1) for arrays and tables."""
    field: str
    """The path within the row, such as `messages[3].tool_calls`; empty for the row as a whole."""
    problem: str


class Unreadable(Exception):
    """A row that is no conversation of its format. Skipped and reported, never fatal to the file."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}" if field else problem)
        self.field = field
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Row:
    """One row as it stands in the file."""

    where: str
    """`file:line` for lines, `file: row N` (from 1) for arrays and tables."""
    raw: bytes
    """The row's own bytes; for a table, its values as JSON."""

    def value(self) -> Any:
        """Return the row's value.

        Raises:
            Unreadable: it is no JSON.
        """
        try:
            return msgspec.json.decode(self.raw)
        except (msgspec.DecodeError, RecursionError) as error:
            raise Unreadable("", f"no JSON ({error})") from error

    def digest(self) -> str:
        """Return 16 hex digits of the untouched row: what provenance keeps."""
        return hashlib.blake2b(self.raw, digest_size=8).hexdigest()
