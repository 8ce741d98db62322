"""A cache in Redis or Valkey, for recorders on several hosts.

One string per call, found by its hash, with the whole identity and a checksum inside; one sorted
set per tool keeps the order of recording. All of it is in the server's memory (1.3 kB for a result
of 560 B), and a look-up is a round trip: rollouts read a frozen snapshot, recorders share this.

What is acknowledged is in the server's memory. Whether it outlives the server is the server's to
say (`appendonly yes`). Needs Redis 6.2 or Valkey: one server with any replicas, no cluster.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import msgspec
import redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, ConnectionError, RedisError, TimeoutError
from redis.retry import Retry

from cacherl.cache.identity.key import CANON_VERSION
from cacherl.cache.identity.normalise import Plan
from cacherl.cache.matching.nearest import LooseIndex
from cacherl.cache.storage.entry import CacheEntry, Kept, Observation, RecordedCall, grown, merged
from cacherl.cache.storage.sqlite import Mode
from cacherl.core.errors import CacheError
from cacherl.core.tasks import Split
from cacherl.core.tools import ToolSpec

T = TypeVar("T")

FORMAT = 1
SCHEMES = ("redis", "rediss", "unix", "valkey", "valkeys")
"""What the url of such a cache starts with; `rediss` and `valkeys` are TLS."""
DEFAULT_PREFIX = "cacherl"
MAX_BATCH_CALLS = 100_000
MAX_BATCH_BYTES = 256 << 20
"""A batch is one command to the server, which answers nobody else meanwhile."""

_SUM_BYTES = 16
_PAGE = 500
_CONNECT_S = 10.0
_ANSWER_S = 60.0
_CONTENTION_S = 60.0

# The values that the writes below were derived from must still stand; then all of them happen.
# JOIN gives a member the next place in the order of recording, once.
_COMMIT = """
local checks = #KEYS - 2
for i = 1, checks do
  if redis.call('GETRANGE', KEYS[i + 2], 0, 15) ~= ARGV[i] then return i end
end
local at = checks + 1
while at <= #ARGV do
  local count = tonumber(ARGV[at])
  if ARGV[at + 1] == 'JOIN' then
    if not redis.call('ZSCORE', KEYS[2], ARGV[at + 3]) then
      local place = redis.call('INCR', KEYS[1])
      redis.call('ZADD', KEYS[2], place, ARGV[at + 3])
      redis.call('ZADD', ARGV[at + 2], place, ARGV[at + 3])
    end
  else
    redis.call(unpack(ARGV, at + 1, at + count))
  end
  at = at + count + 1
end
return 0
"""


class _Packed(msgspec.Struct, array_like=True, frozen=True):
    """An entry as it lies in the server. Bytes throughout: names may hold lone surrogates."""

    canon: str
    namespace: bytes
    tool: bytes
    arguments: bytes
    state: bytes
    kept: list[tuple[int, bytes]]
    """(times, observation as MessagePack, or as JSON where it holds half a surrogate pair)."""


_pack = msgspec.msgpack.Encoder()
_unpack = msgspec.msgpack.Decoder(list[_Packed])
_observation = msgspec.msgpack.Decoder(Observation)
_spec = msgspec.json.Decoder(ToolSpec)


@dataclass(frozen=True, slots=True)
class _Bucket:
    """All entries under one hash: one, unless two calls collide."""

    sum: bytes = b""
    """What the server's value starts with; empty where there is none."""
    entries: tuple[CacheEntry, ...] = ()
    older: tuple[_Packed, ...] = ()
    """Of another canon version: kept as they are, never told."""

    def find(self, call: RecordedCall) -> CacheEntry | None:
        for entry in self.entries:
            if entry.call == call:
                return entry
        return None

    def with_kept(self, call: RecordedCall, kept: tuple[Kept, ...] | None) -> _Bucket:
        """Return the bucket with a call's observations replaced, or without the call."""
        entries = [entry for entry in self.entries if entry.call != call]
        place = next(
            (n for n, entry in enumerate(self.entries) if entry.call == call), len(entries)
        )
        if kept is not None:
            entries.insert(place, CacheEntry(call=call, kept=kept))
        return _Bucket(self.sum, tuple(entries), self.older)


_Change = Callable[[_Bucket], _Bucket]


@dataclass(slots=True)
class _Pending:
    """What a batch will write: changes to be done again should another writer come first."""

    found: dict[bytes, _Bucket] = field(default_factory=dict)
    changed: dict[bytes, _Bucket] = field(default_factory=dict)
    changes: list[tuple[bytes, _Change]] = field(default_factory=list)
    tools: dict[tuple[str, str], ToolSpec] = field(default_factory=dict)
    notes: dict[str, bytes | None] = field(default_factory=dict)
    """None: to be dropped."""


class RedisStore:
    """A `CacheStore` in a Redis or Valkey server. Survives a fork and a lost connection.

    A batch is gathered here and written by one command, so that a lost connection leaves all of it
    or none. A command that was under way when the connection broke may have been done: recording
    again is safe, a repeated observation is only counted. Entries of another `CANON_VERSION` never
    answer and are not listed; `stale` counts them.
    """

    def __init__(self, url: str, *, mode: Mode = "read", prefix: str | None = None) -> None:
        """Reach the server and, in write mode, start the cache.

        Args:
            url: `redis://[user:password@]host:port/db`, `rediss://` for TLS, `unix://path`; a query
                `?prefix=tools` names the cache, other queries are redis-py's (`ssl_ca_certs=...`).
            mode: "read" refuses a cache that is not there.
            prefix: what the names of all keys start with; wins over the url's.

        Raises:
            CacheError: no such server, no access, no such cache, or one of a newer version.
        """
        address, in_url = _split(url)
        self.prefix = prefix or in_url or DEFAULT_PREFIX
        self.name = _shown(url, self.prefix)
        """The url without what is secret in it."""
        self._mode = mode
        self._closed = False
        self._local = threading.local()
        try:
            self._client = redis.Redis.from_url(
                address,
                # What may safely be repeated is repeated by `_asked`, nothing else is.
                retry=Retry(NoBackoff(), 0),
                protocol=3,
                **_timeouts(address),
            )
            self._client.connection_pool.make_connection()  # refuses options that do not exist
        except (ValueError, TypeError, AttributeError, RedisError):
            raise _no_address(url) from None
        self._commit_script = self._client.register_script(_COMMIT)
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    # ---- opening

    def _prepare(self) -> None:
        said = self._asked(lambda: self._client.get(self._key("format")))
        if said is None:
            if self._mode == "read":
                raise CacheError(
                    f"{self.name}: no such cache on this server. Record one with "
                    "`cacherl import`, or name another with ?prefix=."
                )
            self._refuse_eviction()
            self._asked(lambda: self._client.set(self._key("format"), FORMAT, nx=True))
            return
        version = int(said) if said.isdigit() else None
        if version is None:
            raise CacheError(
                f"{self.name}: its keys hold something else than a cache of cacherl. "
                "Name another with ?prefix=."
            )
        if version > FORMAT:
            raise CacheError(
                f"{self.name}: cache format {version}, and this cacherl knows formats up to "
                f"{FORMAT}. Upgrade cacherl."
            )
        if self._mode == "write":
            self._refuse_eviction()

    def _refuse_eviction(self) -> None:
        info = self._asked(lambda: self._client.info("memory"))
        policy = str(info.get("maxmemory_policy", ""))
        if info.get("maxmemory") and policy.startswith("allkeys"):
            raise CacheError(
                f"{self.name}: this server forgets keys when its memory is full "
                f"(maxmemory-policy {policy}). Set it with "
                "`redis-cli CONFIG SET maxmemory-policy noeviction`."
            )

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._client.close()

    def _key(self, kind: str, rest: bytes = b"") -> bytes:
        return _bytes(f"{self.prefix}:{kind}") + (b":" + rest if rest else b"")

    def _entry_key(self, key: bytes) -> bytes:
        return self._key("entry", key)

    def _tool_key(self, namespace: str, tool: str) -> bytes:
        return self._key("tool", _bytes(f"{len(namespace)}:{namespace}{tool}"))

    # ---- talking to the server

    def _asked(self, command: Callable[[], T]) -> T:
        """Return what the server answers to a command that may be repeated: once if the connection is lost."""
        try:
            return self._once(command)
        except _LostError:
            try:
                return self._once(command)
            except _LostError as lost:
                raise CacheError(
                    f"{self.name}: the server cannot be reached ({lost}). "
                    f"Start it, or check with `{self._ping()}`."
                ) from None

    def _once(self, command: Callable[[], T]) -> T:
        if self._closed:
            raise CacheError(f"{self.name}: the cache was closed. Open it again.")
        try:
            return command()
        except AuthenticationError as error:
            raise CacheError(
                f"{self.name}: the server refuses access ({_first_line(error)}). "
                "Put user and password into the url: redis://user:password@host."
            ) from None
        except (ConnectionError, TimeoutError, OSError) as error:
            raise _LostError(_first_line(error)) from None
        except RedisError as error:
            raise CacheError(
                f"{self.name}: the server refused a command ({_first_line(error)}). "
                f"Look at its log, or check with `{self._ping()}`."
            ) from None

    def _ping(self) -> str:
        return f"redis-cli -u {self.name.partition('?')[0]} ping"

    # ---- writing

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        if self._mode == "read":
            raise CacheError(f"{self.name}: opened to read. Open it with mode 'write' to record.")
        if self._pending is not None:
            yield  # the outer block decides
            return
        self._local.pending = pending = _Pending()
        try:
            yield
        finally:
            self._local.pending = None
        self._commit(pending)

    @property
    def _pending(self) -> _Pending | None:
        """The batch of this thread: another thread's is not seen before it is written."""
        pending: _Pending | None = getattr(self._local, "pending", None)
        return pending

    def _commit(self, pending: _Pending) -> None:
        give_up = time.monotonic() + _CONTENTION_S
        while True:
            keys, values = self._commands(pending)
            if not values:
                return
            size = sum(map(len, values))
            if len(keys) > MAX_BATCH_CALLS or size > MAX_BATCH_BYTES:
                raise CacheError(
                    f"{self.name}: a batch of {len(keys)} calls and {size >> 20} MiB; at most "
                    f"{MAX_BATCH_CALLS} and {MAX_BATCH_BYTES >> 20} MiB are written at once. "
                    "Nothing of it was kept. Record in smaller batches."
                )
            try:
                refused = self._once(lambda: self._run(keys, values))  # noqa: B023 - runs at once
            except _LostError as lost:
                raise CacheError(
                    f"{self.name}: the connection was lost while writing ({lost}); whether the last "
                    "batch was kept is unknown. Record it again: repeats are only counted."
                ) from None
            if not refused:
                return
            if time.monotonic() > give_up:
                raise CacheError(
                    f"{self.name}: other writers changed the same calls for {_CONTENTION_S:.0f} s. "
                    "Nothing of the batch was kept. Record again with fewer writers."
                )
            self._redo(pending)

    def _run(self, keys: list[bytes], values: list[bytes]) -> int:
        names = [self._key("places"), self._key("order"), *map(self._entry_key, keys)]
        refused: int = self._commit_script(keys=names, args=values)
        return refused

    def _redo(self, pending: _Pending) -> None:
        """Derive a batch anew from what now stands in the server."""
        pending.found = dict(zip(pending.found, self._buckets(list(pending.found)), strict=True))
        pending.changed = {}
        for key, change in pending.changes:
            pending.changed[key] = change(pending.changed.get(key) or pending.found[key])

    def _commands(self, pending: _Pending) -> tuple[list[bytes], list[bytes]]:
        """Return the hashes whose values must not have changed, and the script's arguments."""
        changed = {k: b for k, b in pending.changed.items() if b != pending.found[k]}
        commands: list[Sequence[bytes]] = []
        for key, bucket in changed.items():
            commands += self._entry_commands(key, pending.found[key].entries, bucket)
        for (namespace, tool), spec in pending.tools.items():
            name = msgspec.json.encode([namespace, tool])
            value = msgspec.json.encode(spec, order="sorted")
            commands.append((b"HSET", self._key("tools"), name, _sum(name, value) + value))
        for note, said in pending.notes.items():
            name = _bytes(note)
            if said is None:
                commands.append((b"HDEL", self._key("notes"), name))
            else:
                commands.append((b"HSET", self._key("notes"), name, _sum(name, said) + said))
        if not commands:
            return [], []
        flat = [pending.found[key].sum for key in changed]
        for command in commands:
            flat.append(b"%d" % len(command))
            flat += command
        return list(changed), flat

    def _entry_commands(
        self, key: bytes, before: Sequence[CacheEntry], bucket: _Bucket
    ) -> Iterator[Sequence[bytes]]:
        name, after = self._entry_key(key), bucket.entries
        packed = [*bucket.older, *map(_packed, after)]
        body = _pack.encode(packed)
        yield (b"SET", name, _sum(key, body) + body) if packed else (b"DEL", name)
        left = {entry.call for entry in after}
        for call in (entry.call for entry in before if entry.call not in left):
            member = _member(call)
            yield b"ZREM", self._key("order"), member
            yield b"ZREM", self._tool_key(call.namespace, call.tool), member
        known = {entry.call: entry for entry in before}
        for entry in after:
            call = entry.call
            if call not in known:
                yield b"JOIN", self._tool_key(call.namespace, call.tool), _member(call)
            newest = _newest(entry.kept)
            if newest is not None and entry != known.get(call):
                yield b"ZADD", self._key("newest"), b"GT", repr(newest).encode(), b"at"

    def _change(self, key: bytes, change: _Change) -> None:
        pending = self._pending
        if pending is None:
            raise AssertionError("a change outside a batch")
        if key not in pending.found:
            pending.found[key] = self._buckets([key])[0]
        pending.changes.append((key, change))
        pending.changed[key] = change(pending.changed.get(key) or pending.found[key])

    @property
    def writable(self) -> bool:
        return self._mode == "write"

    def put_tool(self, namespace: str, spec: ToolSpec) -> None:
        with self.batch():
            if self.tools().get((namespace, spec.name)) != spec and self._pending is not None:
                self._pending.tools[namespace, spec.name] = spec

    def put_note(self, name: str, value: bytes) -> None:
        with self.batch():
            if self.note(name) != value and self._pending is not None:
                self._pending.notes[name] = value

    def drop_note(self, name: str) -> None:
        with self.batch():
            if self.note(name) is not None and self._pending is not None:
                self._pending.notes[name] = None

    def add(self, call: RecordedCall, observation: Observation) -> bool:
        is_new = False

        def more(bucket: _Bucket) -> _Bucket:
            nonlocal is_new
            known = bucket.find(call)
            kept, is_new = grown(() if known is None else known.kept, observation)
            return bucket.with_kept(call, kept)

        with self.batch():
            self._change(call.key, more)
        return is_new

    def absorb(self, entry: CacheEntry) -> bool:
        differs = False

        def more(bucket: _Bucket) -> _Bucket:
            nonlocal differs
            known = bucket.find(entry.call)
            kept = merged(() if known is None else known.kept, entry.kept)
            differs = known is None or kept != known.kept
            return bucket.with_kept(entry.call, kept)

        with self.batch():
            self._change(entry.call.key, more)
        return differs

    def remove(self, call: RecordedCall) -> bool:
        known = False

        def less(bucket: _Bucket) -> _Bucket:
            nonlocal known
            known = bucket.find(call) is not None
            return bucket.with_kept(call, None)

        with self.batch():
            self._change(call.key, less)
        return known

    # ---- reading

    def _buckets(self, keys: Sequence[bytes]) -> list[_Bucket]:
        if not keys:
            return []
        names = [self._entry_key(key) for key in keys]
        values: list[bytes | None] = []
        for start in range(0, len(names), _PAGE):
            page = names[start : start + _PAGE]
            values += self._asked(lambda: self._client.mget(page))  # noqa: B023 - runs at once
        return [self._decoded(key, value) for key, value in zip(keys, values, strict=True)]

    def _seen(self, keys: Sequence[bytes]) -> list[_Bucket]:
        """Return buckets as this thread's batch leaves them."""
        pending = self._pending
        if pending is None:
            return self._buckets(keys)
        asked = [key for key in dict.fromkeys(keys) if key not in pending.changed]
        found = dict(zip(asked, self._buckets(asked), strict=True)) | pending.changed
        return [found[key] for key in keys]

    def _decoded(self, key: bytes, value: bytes | None) -> _Bucket:
        if value is None:
            return _Bucket()
        said, body = value[:_SUM_BYTES], value[_SUM_BYTES:]
        if said != _sum(key, body):
            raise self._damaged(f"what is kept of the call {key.hex()}")
        try:
            packed = _unpack.decode(body)
            entries = tuple(_entry(key, each) for each in packed if each.canon == CANON_VERSION)
        except (msgspec.MsgspecError, ValueError) as error:
            raise CacheError(
                f"{self.name}: what is kept of the call {key.hex()} is not an entry as this cacherl "
                f"knows it ({_first_line(error)}). Upgrade cacherl."
            ) from None
        older = tuple(each for each in packed if each.canon != CANON_VERSION)
        return _Bucket(said, entries, older)

    def _damaged(self, what: str) -> CacheError:
        return CacheError(
            f"{self.name}: {what} was damaged after it was written (checksum). "
            "Restore the server's data, or record again."
        )

    def get(self, call: RecordedCall) -> CacheEntry | None:
        return self._seen([call.key])[0].find(call)

    def get_many(self, calls: Sequence[RecordedCall]) -> list[CacheEntry | None]:
        buckets = self._seen([call.key for call in calls])
        return [bucket.find(call) for bucket, call in zip(buckets, calls, strict=True)]

    def by_key(self, key: bytes) -> CacheEntry | None:
        entries = self._seen([key])[0].entries
        return entries[0] if entries else None

    def by_tool(self, namespace: str, tool: str) -> Iterator[CacheEntry]:
        wanted = (namespace, tool)
        for entry in self._in_order(self._tool_key(namespace, tool)):
            if (entry.call.namespace, entry.call.tool) == wanted:
                yield entry

    def entries(self) -> Iterator[CacheEntry]:
        return self._in_order(self._key("order"))

    def stale(self) -> int:
        """Return how many calls were recorded under another canon version: none of them answers."""
        pages = self._pages(self._key("order"))
        # A hash belongs to one version alone, so no bucket is counted twice.
        return sum(len(bucket.older) for page in pages for _, bucket in page)

    def _in_order(self, index: bytes) -> Iterator[CacheEntry]:
        for page in self._pages(index):
            for member, bucket in page:
                yield from (entry for entry in bucket.entries if _member(entry.call) == member)
        pending = self._pending
        if pending is not None:
            for key, bucket in pending.changed.items():
                known = {entry.call for entry in pending.found[key].entries}
                yield from (entry for entry in bucket.entries if entry.call not in known)

    def _pages(self, index: bytes) -> Iterator[list[tuple[bytes, _Bucket]]]:
        """Yield the members of an order with what is kept under their hashes."""
        last = "-inf"
        while True:
            page = self._asked(
                lambda: self._client.zrangebyscore(
                    index,
                    last,  # noqa: B023 - runs at once
                    "+inf",
                    start=0,
                    num=_PAGE,
                    withscores=True,
                )
            )
            members: list[bytes] = [member for member, _ in page]
            yield list(zip(members, self._seen([m[:16] for m in members]), strict=True))
            if len(page) < _PAGE:
                return
            last = f"({int(page[-1][1])}"

    def tools(self) -> dict[tuple[str, str], ToolSpec]:
        found: dict[tuple[str, str], ToolSpec] = {}
        rows = self._asked(lambda: self._client.hgetall(self._key("tools")))
        for name, value in rows.items():
            namespace, tool = msgspec.json.decode(name, type=tuple[str, str])
            spec = self._checked(name, value, f"the declaration of {tool}")
            found[namespace, tool] = _spec.decode(spec)
        if self._pending is not None:
            found |= self._pending.tools
        return dict(sorted(found.items()))

    def note(self, name: str) -> bytes | None:
        if self._pending is not None and name in self._pending.notes:
            return self._pending.notes[name]
        value = self._asked(lambda: self._client.hget(self._key("notes"), _bytes(name)))
        return None if value is None else self._checked(_bytes(name), value, f"the note {name}")

    def notes(self) -> tuple[str, ...]:
        names = self._asked(lambda: self._client.hkeys(self._key("notes")))
        kept = {name.decode("utf-8", "surrogatepass") for name in names}
        if self._pending is not None:
            for name, value in self._pending.notes.items():
                (kept.discard if value is None else kept.add)(name)
        return tuple(sorted(kept))

    def _checked(self, name: bytes, value: bytes, what: str) -> bytes:
        said, body = value[:_SUM_BYTES], value[_SUM_BYTES:]
        if said != _sum(name, body):
            raise self._damaged(what)
        return body

    def newest(self) -> float | None:
        at = self._asked(lambda: self._client.zscore(self._key("newest"), b"at"))
        times = [] if at is None else [float(at)]
        if self._pending is not None:
            for bucket in self._pending.changed.values():
                times += [n for entry in bucket.entries if (n := _newest(entry.kept)) is not None]
        return max(times, default=None)

    def index(
        self, namespace: str, tool: str, plan: Plan, splits: frozenset[Split]
    ) -> LooseIndex | None:
        return None


class _LostError(Exception):
    """The connection broke; says why, in one line."""


def _split(url: str) -> tuple[str, str | None]:
    """Return the url as redis-py takes it, and the prefix in it."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in SCHEMES:
        seen = f"{scheme}://..." if separator else "no scheme"
        raise CacheError(
            f"not the url of a Redis or Valkey server ({seen}). It starts with "
            f"{', '.join(f'{known}://' for known in SCHEMES)}."
        )
    address, _, query = rest.partition("?")
    try:
        options = parse_qsl(query, strict_parsing=bool(query))
    except ValueError:
        raise _no_address(url) from None
    if "@" in address[len(urlsplit(f"x://{address}").netloc) :]:
        raise _no_address(url)  # else a part of the password would be taken for the host
    prefix = next((value for name, value in options if name == "prefix"), None)
    kept = urlencode([option for option in options if option[0] != "prefix"])
    scheme = scheme.replace("valkeys", "rediss").replace("valkey", "redis")
    return f"{scheme}://{address}{'?' + kept if kept else ''}", prefix


def _no_address(url: str) -> CacheError:
    """Return the error for a url that cannot be read: which part is the password is unknown, so none is told."""
    return CacheError(
        f"{url.partition('://')[0]}://...: not an address of a server. Write "
        "redis://user:password@host:port/db?prefix=NAME, with %2F for a slash, %3F for a question "
        "mark, %40 for an @ and %23 for a # in a password or a path; other options are redis-py's."
    )


def _shown(url: str, prefix: str) -> str:
    """Return the url without user, password and options."""
    scheme, _, rest = url.partition("://")
    place = rest.partition("?")[0].rpartition("@")[2]
    shown = urlsplit(f"{scheme}://{place}")
    query = "" if prefix == DEFAULT_PREFIX else urlencode({"prefix": prefix})
    return urlunsplit((shown.scheme, shown.netloc, shown.path, query, ""))


def _timeouts(address: str) -> dict[str, float]:
    given = dict(parse_qsl(address.partition("?")[2]))
    ours = {"socket_timeout": _ANSWER_S, "socket_connect_timeout": _CONNECT_S}
    return {name: value for name, value in ours.items() if name not in given}


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0][:200].rstrip(" .")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _sum(name: bytes, body: bytes) -> bytes:
    """Return the checksum of a value under its name: one that moved to another is caught too."""
    hashed = hashlib.blake2b(len(name).to_bytes(8, "big") + name, digest_size=_SUM_BYTES)
    hashed.update(body)
    return hashed.digest()


def _member(call: RecordedCall) -> bytes:
    """Return the call's name in the orders of recording; calls whose hashes collide differ here."""
    identity = (_bytes(call.namespace), _bytes(call.tool), call.canonical, call.state)
    hashed = hashlib.blake2b(digest_size=16)
    for part in identity:
        hashed.update(len(part).to_bytes(8, "big") + part)
    return call.key + hashed.digest()


def _newest(kept: Iterable[Kept]) -> float | None:
    times = (each.observation.recorded_at for each in kept)
    return max((at for at in times if at is not None), default=None)


def _packed(entry: CacheEntry) -> _Packed:
    call = entry.call
    return _Packed(
        canon=CANON_VERSION,
        namespace=_bytes(call.namespace),
        tool=_bytes(call.tool),
        arguments=call.canonical,
        state=call.state,
        kept=[(each.times, _encoded(each.observation)) for each in entry.kept],
    )


def _entry(key: bytes, packed: _Packed) -> CacheEntry:
    call = RecordedCall(
        namespace=packed.namespace.decode("utf-8", "surrogatepass"),
        tool=packed.tool.decode("utf-8", "surrogatepass"),
        canonical=packed.arguments,
        state=packed.state,
        key=key,
    )
    return CacheEntry(
        call=call,
        kept=tuple(Kept(observation=_observed(value), times=times) for times, value in packed.kept),
    )


def _encoded(observation: Observation) -> bytes:
    try:
        return _pack.encode(observation)
    except UnicodeEncodeError:
        return json.dumps(msgspec.to_builtins(observation)).encode()


def _observed(value: bytes) -> Observation:
    if value.startswith(b"{"):  # no map of MessagePack starts so
        return msgspec.convert(json.loads(value), Observation)
    return _observation.decode(value)
