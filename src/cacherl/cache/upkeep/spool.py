"""Entries set aside while the cache that they come from is still being read."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import IO

from cacherl.cache.storage.entry import CacheEntry, RecordedCall
from cacherl.cache.storage.portable import ObservationLine, kept_of, observation_lines
from cacherl.core.jsonl import decode_line, encode_line


class Spool:
    """Entries set aside in a file without a name, until what they come from has been read."""

    def __enter__(self) -> Spool:
        self._file: IO[bytes] = tempfile.TemporaryFile()
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def put(self, entry: CacheEntry) -> None:
        """Set an entry aside."""
        for line in observation_lines(entry):
            self._file.write(encode_line(line))

    def entries(self) -> Iterator[CacheEntry]:
        """Yield what was put, in order, one observation at a time."""
        self._file.seek(0)
        for said in self._file:
            line = decode_line(said, ObservationLine, "the spool", strict=True)
            call = RecordedCall.of(
                line.namespace, line.tool, line.arguments.encode(), bytes.fromhex(line.state)
            )
            yield CacheEntry(call=call, kept=(kept_of(line),))
