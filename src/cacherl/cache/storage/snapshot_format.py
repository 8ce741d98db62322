"""The bytes of a snapshot: what `freeze.py` writes and `snapshot.py` reads.

From front to back (numbers little-endian, parts aligned to 8 bytes):

    head        magic, version, where the table is and its digest
    per tool    values, columns, directory, rows, postings, a zstd dictionary where it pays
    records     40 bytes an entry: key, place, size, codec, checksum
    keys        a directory on the leading bits of a key -> rows (entry number, 4 more bytes of key)
    the notes
    table       JSON: every part with its place and digest, every tool with its declaration
    tail        the head again

Entries are numbered by (namespace, tool, key), so a tool is a range and the order of numbers is the
order of keys.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import msgspec
import numpy as np

from cacherl.cache.identity.key import CANON_VERSION
from cacherl.cache.identity.normalise import Plan
from cacherl.cache.matching import match
from cacherl.cache.matching.nearest import name_of
from cacherl.cache.storage.entry import Kept, Observation
from cacherl.core.records import Record
from cacherl.core.tasks import Split

MAGIC = b"CRLSNAP\n"
TAIL_MAGIC = b"CRLSEND\n"
VERSION = 1
HEAD = struct.Struct("<8sIIQQ16s16s")
"""Magic, version, zero, the table's place, length and digest, a digest of all this."""
RECORD = struct.Struct("<16sQIIQ")
"""Key, place, length, codec, checksum."""
KEY_ROW = struct.Struct("<I4s")
"""Entry number, bytes 8 to 12 of its key."""
NAME_ROW = struct.Struct("<QII")
"""Name, first posting, postings; of a single posting, the entry's number instead of the first."""
BLOCK = 4096
ALIGNMENT = 8
IS_JSON, IS_ZSTD, CODEC_BITS = 1, 2, 2
"""A codec is the tool's number, and below it two bits."""
MAX_VALUE_BYTES = (1 << 32) - 1
SPLIT_BIT = {Split.TRAIN: 1, Split.DEV: 2, Split.TEST: 4}


class Value(msgspec.Struct, array_like=True, frozen=True):
    """What the value log holds of an entry."""

    canonical: bytes
    state: bytes
    kept: tuple[Kept, ...]


class Part(Record, frozen=True, kw_only=True, omit_defaults=True):
    """One part of the file."""

    offset: int
    length: int
    """Without the padding and the CRCs that follow."""
    digest: str
    """Of all of it, padding and CRCs too."""
    checked: bool = True
    """Whether a CRC a block follows."""

    @property
    def blocks(self) -> int:
        """How many CRCs follow."""
        return -(-self.length // BLOCK) if self.checked else 0

    @property
    def end(self) -> int:
        """Where the next part begins."""
        return self.offset + padded(self.length) + padded(4 * self.blocks)


UNDECLARED_SPEC = msgspec.Raw(b"null")


class FrozenTool(Record, frozen=True, kw_only=True):
    """One tool of a snapshot."""

    namespace: str
    tool: str
    spec: msgspec.Raw
    """Its declaration, decoded on use; null where it was never declared."""
    plan: str
    """Under which plan its index was made; see `plan_name`."""
    first: int
    count: int
    """Its entries are numbered from `first`."""
    seen: dict[str, int]
    """Entries with a success, by the mask of the splits that have one."""
    common_state: str | None
    """The name (hex) of the state that most entries are in: not among the postings."""
    one_state: bool
    """Whether all are."""
    values: Part
    columns: Part
    directory: Part
    directory_bits: int
    rows: Part
    postings: Part
    dictionary: Part | None


class Table(Record, frozen=True, kw_only=True):
    """What stands where."""

    id: str
    canon: str
    entries: int
    observations: int
    newest: float | None
    tools: tuple[FrozenTool, ...]
    records: Part
    key_directory: Part
    key_directory_bits: int
    key_rows: Part
    notes: dict[str, Part]


value_encoder = msgspec.msgpack.Encoder()
_value = msgspec.msgpack.Decoder(Value)


def padded(length: int) -> int:
    """Return the length with its padding."""
    return -(-length // ALIGNMENT) * ALIGNMENT


def encoded(value: Value) -> tuple[bytes, int]:
    """Return a value's bytes and its codec bits."""
    try:
        return value_encoder.encode(value), 0
    except UnicodeEncodeError:  # a lone surrogate in a tool's text
        kept = [[msgspec.to_builtins(each.observation), each.times] for each in value.kept]
        said = [value.canonical.hex(), value.state.hex(), kept]
        return json.dumps(said, separators=(",", ":")).encode(), IS_JSON


def decoded(data: bytes, *, is_json: bool) -> Value:
    """Return the value of `encoded` bytes.

    Raises:
        ValueError: they are none.
    """
    if not is_json:
        return _value.decode(data)
    canonical, state, kept = json.loads(data)
    return Value(
        canonical=bytes.fromhex(canonical),
        state=bytes.fromhex(state),
        kept=tuple(
            Kept(observation=msgspec.convert(each, Observation), times=times)
            for each, times in kept
        ),
    )


def column_places(count: int) -> dict[str, tuple[int, Any]]:
    """Return where each column of a tool with `count` entries begins in its part, and its type."""
    places, at = {}, 0
    for name, kind in (
        ("signatures", np.dtype("<u8")),
        ("states", np.dtype("<u8")),
        ("weights", np.dtype("<f4")),
        ("sizes", np.dtype("<u2")),
        ("masks", np.dtype("u1")),
    ):
        places[name] = (at, kind)
        at += count * kind.itemsize
    return places


def scenario_name(scenario: str, split: Split) -> int:
    """Return the name of the calls that a scenario has a success of in a split."""
    return name_of("scenario", f"{split}\n{scenario}".encode("utf-8", "surrogatepass"))


def snapshot_id(tools: Sequence[FrozenTool], notes: dict[str, bytes], content: bytes) -> str:
    """Return the id of a snapshot: a digest of all that decides answers.

    Args:
        tools: what the table says of them.
        notes: by name.
        content: the digest of every entry's key and bytes, uncompressed, in order.
    """
    said = [
        [
            tool.namespace,
            tool.tool,
            tool.plan,
            tool.count,
            bytes(tool.spec).decode(),
        ]
        for tool in tools
    ]
    noted = [[name, notes[name].hex()] for name in sorted(notes)]
    whole = json.dumps([VERSION, CANON_VERSION, said, noted, content.hex()])
    return blake2b(whole.encode(), digest_size=16).hexdigest()


def head_bytes(magic: bytes, version: int, offset: int, length: int, digest: bytes) -> bytes:
    """Return the first or last 64 bytes of a snapshot."""
    front = HEAD.pack(magic, version, 0, offset, length, digest, b"")[:48]
    return front + blake2b(magic + front, digest_size=16).digest()


# ---- plans -------------------------------------------------------------------------------------


def plan_name(plan: Plan) -> str:
    """Return a name that two plans share only if they, and the rules of matching, do the same."""
    return blake2b(plan.fingerprint + _rules(), digest_size=16).hexdigest()


_PROBES = (
    "Please find the two red shoes from Oslo to Rome, not “before” 2024-05-01 at 10:30!",
    "N'ai pas besoin d'Oslo, SELECT * FROM x; 'quoted' children's studies #12 & mails@x.org 3 €",
)


@lru_cache(maxsize=1)
def _rules() -> bytes:
    """Return what distinguishes these rules of matching from those of another version."""
    profiles = [repr(_told_profile(text)) for text in _PROBES]
    weights = sorted((str(kind), weight) for kind, weight in match.KIND_WEIGHT.items())
    return repr(
        (CANON_VERSION, profiles, weights, match.TEXT_TOKEN_WEIGHT, match.MAX_TEXT_TOKENS)
    ).encode()


def _told_profile(text: str) -> list[Any]:
    profile = match.text_profile(text)
    return [
        sorted(profile.stems),
        profile.order,
        profile.guarded,
        profile.negations,
        profile.quoted,
        sorted(profile.names),
        profile.directed,
        profile.code,
        profile.must_agree,
        profile.content,
    ]
