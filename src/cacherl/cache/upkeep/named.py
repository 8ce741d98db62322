"""Caches by name, opened to be changed in place."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from cacherl.cache.lookup.tool_cache import ToolCache
from cacherl.cache.storage.store import CacheStore
from cacherl.core.errors import CacheError

Opener = Callable[..., ToolCache]
"""Opens a cache by name, with `mode="write"` where told: `ToolCache.open`, or one that knows more names."""


@contextlib.contextmanager
def writable(name: str, open_cache: Opener, *, apply: bool) -> Iterator[CacheStore]:
    """Open a cache that is there, to write where `apply` says so.

    Raises:
        CacheError: there is none of that name, or it is a snapshot or an export.
    """
    if "://" not in name:
        refuse_other_files(Path(name))
        if not Path(name).is_file():
            raise CacheError(
                f"{name}: no such cache. Make one with `cacherl import` or `cacherl run`."
            )
    with open_cache(name, mode="write" if apply else "read") as cache:
        yield cache.store


def refuse_other_files(out: Path) -> None:
    """Refuse to write into what is no SQLite file, before anything is opened."""
    if not out.is_file():
        return
    with out.open("rb") as handle:
        start = handle.read(15)
    if start and start != b"SQLite format 3":
        raise CacheError(
            f"{out}: a snapshot or an export, which nothing is ever written into. Do this to a cache "
            "file (.sqlite), and write it out again with `cacherl cache freeze` or `export`."
        )
