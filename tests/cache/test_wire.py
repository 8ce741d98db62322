"""A server's whole answer beside the text that a model sees: kept, told apart, redacted, replayed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from cacherl.cache.lookup.tool_cache import ToolCache
from cacherl.cache.safety.redact import Profile, Redactor, redact_into
from cacherl.cache.safety.scan import scan_store
from cacherl.cache.storage.entry import CacheEntry, Observation, json_text, merged
from cacherl.cache.storage.freeze import freeze
from cacherl.cache.storage.portable import export, read_export
from cacherl.cache.storage.snapshot import SnapshotStore
from cacherl.cache.storage.sqlite import SqliteStore
from cacherl.cache.storage.store import CacheStore, MemoryStore
from cacherl.core.messages import ToolCall
from cacherl.core.tools import Source, Tier, ToolResult
from tests.cache.caches import entry
from tests.cache.recordings import CANCEL, GET, SPACE, recorded, seen
from tests.redis_server import RedisServer, running_redis

WIRE = '{"content":[{"type":"text","text":"paid"}],"structuredContent":{"status":"paid"}}'
OTHER = '{"content":[{"type":"text","text":"paid"}],"structuredContent":{"status":"PAID"}}'
SECRET = "hunter2-and-more"


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


def whole(wire: str | None, text: str = "paid") -> Observation:
    return msgspec.structs.replace(seen(text), wire=wire)


def wires(store: CacheStore) -> list[str | None]:
    return [kept.observation.wire for each in store.entries() for kept in each.kept]


@pytest.mark.parametrize("kind", ["memory", "sqlite", "redis", "snapshot", "jsonl", "parquet"])
def test_the_whole_answer_outlives_every_store(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A replayed server must answer as the recorded one did, wherever the recording went."""
    store: CacheStore = MemoryStore()
    if kind == "sqlite":
        store = SqliteStore(tmp_path / "a.db", mode="write")
    if kind == "redis":
        pytest.importorskip("redis")
        from cacherl.adapters.redis_store import RedisStore

        server: RedisServer = request.getfixturevalue("redis_server")
        store = RedisStore(server.unix_url, mode="write", prefix="wire")
    with store.batch():
        store.put_tool(SPACE, GET)
        assert store.add(recorded(), whole(WIRE))
        assert store.add(recorded(), whole(None))
    found = store
    if kind == "snapshot":
        freeze(store, tmp_path / "a.snapshot")
        found = SnapshotStore(tmp_path / "a.snapshot")
    if kind in ("jsonl", "parquet"):
        if kind == "parquet":
            pytest.importorskip("pyarrow")
        path = tmp_path / f"a.{kind}"
        export(store, path)
        found = MemoryStore()
        for item in read_export(path):
            if isinstance(item, CacheEntry):
                found.absorb(item)

    assert set(wires(found)) == {WIRE, None}
    found.close()
    store.close()


def test_two_answers_with_the_same_text_are_two_where_the_rest_differs() -> None:
    """A client that reads structured content must not be given another call's."""
    store = MemoryStore()
    assert store.add(recorded(), whole(WIRE))
    assert store.add(recorded(), whole(OTHER))
    assert not store.add(recorded(), whole(WIRE))

    one, other = whole(WIRE), whole(OTHER)
    assert one.content() != other.content() != whole(None).content()
    assert one.same_answer(other), "a model sees the same"
    assert msgspec.structs.replace(one, wire=None, after=WIRE).content() != one.content()
    both = merged(entry(recorded(), one).kept, entry(recorded(), other).kept)
    assert [kept.observation.wire for kept in both] in ([WIRE, OTHER], [OTHER, WIRE])


def test_what_was_kept_before_there_was_a_whole_answer_is_the_same_to_the_byte() -> None:
    """Files of yesterday open today, and merging them with today's finds what is equal."""
    assert b"wire" not in msgspec.json.encode(whole(None))
    assert whole(None).content().hex() == seen("paid").content().hex()
    old = b'{"text":"paid","source":"live","scenario":"s1","split":"train"}'
    assert msgspec.json.decode(old, type=Observation).wire is None


def test_a_parquet_file_from_before_opens(tmp_path: Path) -> None:
    """A column that came later must not make a published data set unreadable."""
    pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    store = MemoryStore()
    store.add(recorded(), whole(None))
    export(store, tmp_path / "new.parquet")
    table = pq.read_table(tmp_path / "new.parquet")
    assert "wire" in table.column_names
    beside = pq.read_metadata(tmp_path / "new.parquet").metadata[b"cacherl"]
    with pq.ParquetWriter(tmp_path / "old.parquet", table.drop_columns(["wire"]).schema) as writer:
        writer.write_table(table.drop_columns(["wire"]))
        writer.add_key_value_metadata({"cacherl": beside.decode()})

    assert list(read_export(tmp_path / "old.parquet")) == list(
        read_export(tmp_path / "new.parquet")
    )


def test_secrets_are_taken_out_of_the_whole_answer_too() -> None:
    """The text without its secret would be worth nothing with the whole answer beside it."""
    inside = json.dumps({"password": SECRET, "said": f"you are {SECRET}"})
    wire = json.dumps(
        {
            "content": [{"type": "text", "text": inside}, {"type": "text", "text": f"hi {SECRET}"}],
            "structuredContent": {"api_key": "x-ABCDEF-123456-secret", "status": "paid"},
        }
    )
    redactor = Redactor(Profile(), bytes(range(32)))
    swept = redactor.wire(wire, echoing={"password": SECRET})

    assert SECRET not in swept
    assert "x-ABCDEF-123456" not in swept
    assert json.loads(swept)["structuredContent"]["status"] == "paid"
    assert json.loads(swept)["content"][0]["text"] == redactor.text(
        inside, echoing={"password": SECRET}
    )
    assert redactor.wire(swept) == swept
    assert redactor.wire(WIRE) is WIRE


def test_a_redacted_copy_and_a_scan_look_into_the_whole_answer() -> None:
    """What `scan` passes may be published: it must not look past half of what is stored."""
    token = "ghp_" + "a1B2" * 9
    store = MemoryStore()
    store.put_note("mcp/shop/server", json.dumps({"instructions": f"use {token}"}).encode())
    store.add(recorded(), whole(json.dumps({"content": [], "_meta": {"note": f"use {token}"}})))

    assert [found.path for found in scan_store(store, "x").findings if "wire" in found.path]
    target = MemoryStore()
    redact_into(store, target, Redactor(Profile(), bytes(range(32))))
    assert not scan_store(target, "x").findings
    assert token.encode() not in (target.note("mcp/shop/server") or token.encode())
    assert token not in str(wires(target))


def test_an_episode_records_and_replays_the_whole_answer(tmp_path: Path) -> None:
    """Hit and result carry it; a redacting cache keeps it without secrets."""

    async def live(call: ToolCall) -> ToolResult:
        return ToolResult(
            call_id=call.id,
            name=call.name,
            text="paid",
            wire=WIRE,
            tier=Tier.LIVE,
            source=Source.LIVE,
        )

    with ToolCache.open(tmp_path / "a.cache", mode="write") as cache:
        ep = cache.episode("s1", namespace=SPACE, tools=[GET], live=live)
        asyncio.run(ep.call("get_order", {"order_id": "A-17"}))
        hit = ep.lookup("get_order", {"order_id": "A-17"})
        answer = asyncio.run(ep.call("get_order", {"order_id": "A-17"}))

    assert hit.observation is not None
    assert (hit.observation.wire, answer.wire, answer.tier) == (WIRE, WIRE, Tier.EXACT)


def test_an_acknowledged_write_speaks_of_its_own_call_in_the_whole_answer_too() -> None:
    """A client validates structured content: it must be there, and be about this order."""
    wire = '{"content":[{"type":"text","text":"A-17 is off"}],"structuredContent":{"id":"A-17"}}'
    with ToolCache.open(":memory:") as cache:
        result = ToolResult(
            call_id="",
            name="cancel_order",
            text="A-17 is off",
            wire=wire,
            tier=Tier.LIVE,
            source=Source.LIVE,
        )
        made = ToolCall(id="", name="cancel_order", arguments={"order_id": "A-17"})
        scenario = seen("").scenario, seen("").split
        cache.record(SPACE, CANCEL, made, result, scenario=scenario[0], split=scenario[1])
        ep = cache.episode("s1", namespace=SPACE, tools=[CANCEL], on_miss="acknowledge")
        answer = asyncio.run(ep.call("cancel_order", {"order_id": "B-20"}))

    assert answer.text == "B-20 is off"
    assert json.loads(answer.wire or "")["structuredContent"] == {"id": "B-20"}


def test_half_a_character_is_kept_as_json_can_say_it(tmp_path: Path) -> None:
    """One broken emoji must not make the cache unexportable."""
    wire = json_text(json.dumps({"content": ["\ud83d \\"]}, ensure_ascii=False))
    assert json.loads(wire) == {"content": ["\ud83d \\"]}
    store = MemoryStore()
    store.add(recorded(), whole(wire))
    export(store, tmp_path / "a.jsonl")
