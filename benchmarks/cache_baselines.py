"""What the cache is measured against: a dict, Redis, a rapidfuzz scan, tantivy."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from benchmarks.cache_workload import Call, Hotels

T = TypeVar("T")

VALUE_BYTES = 570


def timed(function: Callable[[T], object], items: Sequence[T]) -> list[float]:
    """Return the seconds of each call, the clock's own (about 60 ns) included."""
    clock = time.perf_counter
    taken = []
    for item in items:
        start = clock()
        function(item)
        taken.append(clock() - start)
    return taken


class DictTable:
    """A dict of 16-byte keys to values of the cache's size: the speed of memory as Python sees it.

    Keys are asked for as new objects, whose hash is not known yet, as a key made from a call is.
    """

    CHUNK = 16

    def __init__(self, count: int, seed: int) -> None:
        self._raw = np.random.default_rng(seed).bytes(16 * count)
        self._count = count
        # Each value is an object of its own beside its key, as decoded answers would lie.
        self._table = {
            self._raw[at : at + 16]: self._raw[at : at + 8] + bytes(VALUE_BYTES - 8)
            for at in range(0, 16 * count, 16)
        }

    def keys(self, numbers: Sequence[int]) -> list[bytes]:
        """Return new objects of these keys."""
        return [self._raw[16 * number : 16 * number + 16] for number in numbers]

    def timed(self, keys: Sequence[bytes]) -> list[float]:
        """Return the seconds of a look-up, each the mean of 16: one is too short for the clock."""
        clock, table = time.perf_counter, self._table
        taken = []
        for low in range(0, len(keys), self.CHUNK):
            part = keys[low : low + self.CHUNK]
            start = clock()
            for key in part:
                table[key]
            taken.append((clock() - start) / len(part))
        return taken


def redis_is_here() -> bool:
    """Say whether a Redis server and its client are installed."""
    return (
        importlib.util.find_spec("redis") is not None and shutil.which("redis-server") is not None
    )


@contextlib.contextmanager
def filled_redis(
    values: dict[bytes, bytes],
) -> Iterator[tuple[Callable[[bytes], object], Callable[[bytes], object], str]]:
    """Run a server that holds the values; yield a GET by redis-py, one by a bare socket, and what they are."""
    import redis

    from tests.redis_server import running_redis

    with running_redis() as server:
        client = redis.Redis(unix_socket_path=str(server.socket), protocol=3)
        client.mset(values)
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as bare:
            bare.connect(str(server.socket))

            def bare_get(key: bytes) -> bytes:
                bare.sendall(b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(key), key))
                answer = bare.recv(65536)
                head, _, rest = answer.partition(b"\r\n")
                left = int(head[1:]) + 2 - len(rest)
                while left > 0:
                    more = bare.recv(65536)
                    rest += more
                    left -= len(more)
                return rest[:-2]

            hiredis = importlib.util.find_spec("hiredis") is not None
            parser = "hiredis" if hiredis else "its Python parser"
            version = client.info("server")["redis_version"]
            yield client.get, bare_get, f"redis {version}, redis-py {redis.__version__}, {parser}"
        client.close()


class Scan:
    """rapidfuzz over the canonical arguments of every entry of the tool."""

    def __init__(self, calls: Sequence[Call]) -> None:
        self._texts = [call.canonical.decode() for call in calls]

    def timed(self, asked: Sequence[Call], scorer_name: str) -> list[float]:
        """Return the seconds of `process.extractOne` with a scorer."""
        from rapidfuzz import fuzz, process

        scorer = getattr(fuzz, scorer_name)
        return timed(
            lambda text: process.extractOne(text, self._texts, scorer=scorer),
            [call.canonical.decode() for call in asked],
        )


class Tantivy:
    """BM25 over the same fields: the text tokenised, the others as keywords."""

    _FIELDS = ("city", "check_in", "limit", "sort")

    def __init__(self, hotels: Hotels, count: int, folder: Path) -> None:
        """Open the index in `folder`, building it there on first use."""
        import tantivy

        self._module = tantivy
        builder = tantivy.SchemaBuilder()
        builder.add_unsigned_field("number", stored=True)
        builder.add_text_field("query", stored=False)
        for name in self._FIELDS:
            builder.add_text_field(name, stored=False, tokenizer_name="raw", index_option="basic")
        self._schema = builder.build()
        done = folder / "done"
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            self._build(hotels, count, folder)
            done.touch()
        self._searcher = tantivy.Index(self._schema, path=str(folder)).searcher()

    def _build(self, hotels: Hotels, count: int, folder: Path) -> None:
        index = self._module.Index(self._schema, path=str(folder))
        writer = index.writer(heap_size=512 << 20, num_threads=1)
        for low in range(0, count, 20_000):
            for call in hotels.calls(range(low, min(low + 20_000, count))):
                fields = {name: str(getattr(call, name)) for name in self._FIELDS}
                writer.add_document(
                    self._module.Document(number=call.number, query=call.query, **fields)
                )
        writer.commit()
        writer.wait_merging_threads()

    def search(self, call: Call) -> Any:
        """Return the ten best by BM25, as addresses: no document is read."""
        term, should = self._module.Query.term_query, self._module.Occur.Should
        clauses = [
            (should, term(self._schema, "query", word))
            for word in dict.fromkeys(call.query.lower().split())
        ]
        clauses += [
            (should, term(self._schema, name, str(getattr(call, name)))) for name in self._FIELDS
        ]
        query = self._module.Query.boolean_query(clauses)
        return self._searcher.search(query, limit=10, count=False)

    def first(self, found: Any) -> int | None:
        """Return the number of the best call found."""
        if not found.hits:
            return None
        number: int = self._searcher.doc(found.hits[0][1])["number"][0]
        return number
