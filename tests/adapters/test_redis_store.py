"""What a cache on a server must survive: many writers, a dead server, damage, secrets in its url."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from cacherl.adapters.redis_store import MAX_BATCH_CALLS, RedisStore
from cacherl.cache.episodes.replay import ReplayTools
from cacherl.cache.lookup.tool_cache import ToolCache
from cacherl.cache.storage.entry import RecordedCall
from cacherl.core.errors import CacheError
from cacherl.core.messages import ToolCall
from cacherl.core.tools import Tier
from cacherl.wiring import open_cache
from tests.cache.recordings import (
    CANCEL,
    GET,
    SPACE,
    call,
    recorded,
    result,
    seen,
    task,
    trajectory,
)
from tests.redis_server import RedisServer, free_port, running_redis

ROOT = Path(__file__).parents[2]

WRITER = """
import sys
from cacherl.adapters.redis_store import RedisStore
from tests.cache.recordings import SPACE, GET, recorded, seen
url, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
store = RedisStore(url, mode="write")
for number in range(count):
    with store.batch():
        store.put_tool(SPACE, GET)
        store.add(recorded(b"hot"), seen("shared"))
        store.add(recorded(b"hot"), seen(name))
        store.add(recorded(f"{name}-{number}".encode()), seen(name))
    print(number, flush=True)
store.close()
"""


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with running_redis() as running:
        yield running


@pytest.fixture
def url(server: RedisServer, request: pytest.FixtureRequest) -> str:
    return f"{server.url}?prefix={request.node.name}"


def writer(url: str, name: str, count: int) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, url, name, str(count)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def test_eight_processes_lose_no_update_of_one_call(url: str) -> None:
    """Every host records the popular call; reading, growing and writing back would drop counts."""
    writers = [writer(url, f"w{number}", 20) for number in range(8)]
    for each in writers:
        _, problems = each.communicate(timeout=120)
        assert each.returncode == 0, problems

    store = RedisStore(url)
    hot = store.get(recorded(b"hot"))
    entries = list(store.entries())
    by_tool = list(store.by_tool(SPACE, "get_order"))
    store.close()

    assert hot is not None
    assert {kept.observation.text: kept.times for kept in hot.kept} == {
        "shared": 160,
        **{f"w{number}": 20 for number in range(8)},
    }
    assert len(entries) == 1 + 8 * 20
    assert by_tool == entries


def test_a_killed_writer_leaves_whole_batches(url: str) -> None:
    """`kill -9` may cost the trajectory under way, never half of one, never an acknowledged one."""
    process = writer(url, "k", 100_000)
    assert process.stdout is not None
    acknowledged = -1
    while acknowledged < 30:
        acknowledged = int(process.stdout.readline())
    process.kill()
    acknowledged = max([acknowledged, *(int(s) for s in process.stdout if s.endswith("\n"))])
    process.communicate()

    store = RedisStore(url, mode="write")
    singles = [each for each in store.entries() if each.call.canonical != b"hot"]
    hot = store.get(recorded(b"hot"))
    store.close()

    assert hot is not None
    assert len(singles) in (acknowledged + 1, acknowledged + 2)
    assert [kept.times for kept in hot.kept] == [len(singles)] * 2


def test_two_threads_batch_apart(url: str) -> None:
    """One instance serves several threads: what one takes back, the other has kept."""
    store = RedisStore(url, mode="write")
    inside, done = threading.Event(), threading.Event()

    def other() -> None:
        inside.wait(30)
        store.add(recorded(b"other"), seen("kept"))
        done.set()

    def fail_half_way() -> None:
        with store.batch():
            store.add(recorded(b"mine"), seen("taken back"))
            inside.set()
            assert done.wait(30)
            raise ZeroDivisionError

    thread = threading.Thread(target=other)
    thread.start()
    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    thread.join()

    assert [each.call.canonical for each in store.entries()] == [b"other"]
    store.close()


def test_a_store_outlives_its_server(tmp_path: Path) -> None:
    """Servers restart at night; the run goes on where it can and says what to do where it cannot."""
    with running_redis("--appendonly", "yes", "--appendfsync", "always") as server:
        store = RedisStore(server.url, mode="write")
        store.add(recorded(), seen("kept"))

        server.kill()
        with pytest.raises(CacheError, match=rf"127\.0\.0\.1:{server.port}.*redis-cli -u .* ping"):
            store.get(recorded())
        with pytest.raises(CacheError, match="cannot be reached"):
            store.add(recorded(), seen("lost"))
        server.start()

        found = store.get(recorded())
        assert found is not None
        assert found.kept[0].observation.text == "kept"
        assert store.add(recorded(), seen("after"))
        store.close()


def test_no_server_is_one_line_with_the_next_step() -> None:
    """The commonest fault of all."""
    port = free_port()

    with pytest.raises(CacheError) as refused:
        RedisStore(f"redis://127.0.0.1:{port}")

    assert str(refused.value).startswith(f"redis://127.0.0.1:{port}: the server cannot be reached")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "secret", ["s3cret", "s3/cret", "3/cret", "3?cret", "s3@cret", "s3:cret#", "s3%2Fcret"]
)
def test_a_password_is_in_no_error_and_no_traceback(secret: str) -> None:
    """Logs are shared. A slash in a password even lands in the port's place and is quoted there."""
    with running_redis("--requirepass", "right") as server:
        for place in (f"127.0.0.1:{server.port}", f"127.0.0.1:{free_port()}"):
            for options in ("", "?prefix=x", "?cret_bogus=1"):
                with pytest.raises(CacheError) as refused:
                    RedisStore(f"redis://me:{secret}@{place}/0{options}")
                told = "".join(traceback.format_exception(refused.value)) + repr(refused.value)
                # The call itself stands in the traceback as code, not as values.
                assert "cret" not in told.replace("{secret}", "")
                assert "//me" not in told.replace("//me:{secret}", "")
        store = RedisStore(f"redis://:right@127.0.0.1:{server.port}", mode="write")
        assert "right" not in store.name
        store.close()


def test_a_wrong_password_says_where_it_goes() -> None:
    """NOAUTH alone sends people to the manual."""
    with (
        running_redis("--requirepass", "right") as server,
        pytest.raises(CacheError, match=r"refuses access.*redis://user:password@host"),
    ):
        RedisStore(server.url)


def test_a_url_asks_for_tls_and_the_certificate_is_checked(tmp_path: Path) -> None:
    """A password in clear on a shared network is no password, nor is one told to whoever answers."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not on PATH: it makes the certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-keyout", str(key), "-out", str(certificate), "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    secure = free_port()
    with running_redis(
        *("--tls-port", str(secure), "--tls-auth-clients", "no", "--requirepass", "right"),
        *("--tls-cert-file", str(certificate), "--tls-key-file", str(key)),
    ):
        address = f"rediss://:right@127.0.0.1:{secure}/0"
        store = RedisStore(f"{address}?ssl_ca_certs={certificate}", mode="write")
        assert store.add(recorded(), seen("x"))
        store.close()
        with pytest.raises(CacheError, match=r"rediss://127\.0\.0\.1:\d+/0: .*CERTIFICATE_VERIFY"):
            RedisStore(address)


def test_reading_what_is_not_there_is_refused(url: str) -> None:
    """A typo in the prefix must not look like a cache that misses."""
    with pytest.raises(CacheError, match=r"no such cache.*\?prefix="):
        RedisStore(url)


def test_a_reader_cannot_write(url: str) -> None:
    """Rollouts never change what later rollouts are answered."""
    RedisStore(url, mode="write").close()
    store = RedisStore(url)
    with pytest.raises(CacheError, match="opened to read"):
        store.add(recorded(), seen("x"))
    store.close()
    with pytest.raises(CacheError, match="was closed"):
        store.get(recorded())


def test_a_newer_cache_and_a_foreign_one_are_refused(server: RedisServer, url: str) -> None:
    """An old program must not guess what a new one wrote, nor write into somebody's keys."""
    prefix = url.partition("prefix=")[2]
    client = redis.Redis(port=server.port)
    for mark, said in ((b"2", "Upgrade cacherl"), (b"theirs", "something else")):
        client.set(f"{prefix}:format", mark)
        with pytest.raises(CacheError, match=said):
            RedisStore(url, mode="write")
    client.delete(f"{prefix}:format")
    client.rpush(f"{prefix}:format", "a list")
    with pytest.raises(CacheError, match="refused a command"):
        RedisStore(url, mode="write")
    client.close()


def test_a_server_that_forgets_keys_is_no_place_to_record() -> None:
    """An evicted recording is a miss that nobody explains."""
    evicting = ("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
    with (
        running_redis(*evicting) as server,
        pytest.raises(CacheError, match="maxmemory-policy noeviction"),
    ):
        RedisStore(server.url, mode="write")


def test_a_full_server_keeps_none_of_a_batch() -> None:
    """`noeviction` refuses the write; half a trajectory would be worse than none."""
    with running_redis("--maxmemory", "4mb", "--maxmemory-policy", "noeviction") as server:
        store = RedisStore(server.url, mode="write")
        kept = 0

        def fill() -> None:
            nonlocal kept
            for number in range(1000):
                with store.batch():
                    store.add(recorded(b"a%d" % number), seen("x" * 50_000))
                    store.add(recorded(b"b%d" % number), seen("x"))
                kept = number + 1

        with pytest.raises(CacheError, match="refused a command"):
            fill()

        assert 0 < kept < 1000
        assert len(list(store.entries())) == 2 * kept
        store.close()


def test_a_damaged_or_moved_value_is_named_and_never_served(server: RedisServer, url: str) -> None:
    """Another program may write under our keys; a checksum over the value alone lets two trade places."""
    prefix = url.partition("prefix=")[2]
    store = RedisStore(url, mode="write")
    calls = [recorded(b"1"), recorded(b"2")]
    for each in calls:
        store.add(each, seen("answer " + each.canonical.decode()))
    store.put_note("settings", b"{}")
    store.put_tool(SPACE, GET)
    client = redis.Redis(port=server.port)
    names = [f"{prefix}:entry:".encode() + each.key for each in calls]
    one, two = client.mget(names)
    for place in range(len(one)):
        client.set(names[0], one[:place] + bytes([one[place] ^ 1 << place % 8]) + one[place + 1 :])
        with pytest.raises(CacheError, match=f"{calls[0].key.hex()} was damaged"):
            store.get(calls[0])
    for wrong in (one[:-1], one[:10], b"", two):
        client.set(names[0], wrong)
        with pytest.raises(CacheError, match="damaged"):
            store.get_many(calls)
        with pytest.raises(CacheError, match="damaged"):
            store.add(calls[0], seen("on top"))
    for kind in ("tools", "notes"):
        ((field, value),) = client.hgetall(f"{prefix}:{kind}").items()
        client.hset(f"{prefix}:{kind}", field, value[:-1] + b"?")
    with pytest.raises(CacheError, match="declaration of get_order was damaged"):
        store.tools()
    with pytest.raises(CacheError, match="note settings was damaged"):
        store.note("settings")
    client.close()
    store.close()


def test_entries_of_another_canon_version_are_kept_and_never_told(
    server: RedisServer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was normalised by other rules may be another call; what was paid for is not thrown away."""
    store = RedisStore(url, mode="write")
    monkeypatch.setattr("cacherl.adapters.redis_store.CANON_VERSION", "c0")
    store.add(recorded(b"old"), seen("old"))
    monkeypatch.undo()
    store.add(recorded(b"new"), seen("new"))
    collided = msgspec.structs.replace(recorded(b"3"), key=recorded(b"old").key)

    assert store.get(recorded(b"old")) is None
    store.add(collided, seen("beside"))
    assert [each.call for each in store.entries()] == [recorded(b"new"), collided]
    assert [each.call for each in store.by_tool(SPACE, "get_order")] == [recorded(b"new"), collided]
    assert store.remove(collided)
    assert store.stale() == 1

    monkeypatch.setattr("cacherl.adapters.redis_store.CANON_VERSION", "c0")
    assert [each.call for each in store.entries()] == [recorded(b"old")]
    store.close()


def test_a_batch_too_large_for_one_command_is_refused_whole(url: str) -> None:
    """The server answers nobody else while it writes one."""
    store = RedisStore(url, mode="write")

    def too_much() -> None:
        with store.batch():
            store.add(recorded(b"small"), seen("x"))
            for number in range(6):
                store.add(recorded(b"%d" % number), seen("x" * (50 << 20)))

    with pytest.raises(CacheError, match=rf"at most {MAX_BATCH_CALLS}.*smaller batches"):
        too_much()
    assert list(store.entries()) == []
    store.close()


def test_a_forked_process_has_a_connection_of_its_own(url: str) -> None:
    """Workers fork after the cache was opened; a shared socket would mix their answers."""
    store = RedisStore(url, mode="write")
    store.add(recorded(b"1"), seen("parent"))
    child = os.fork()
    if child == 0:
        status = 1
        try:
            store.add(recorded(b"2"), seen("child"))
            status = 0 if store.get(recorded(b"1")) is not None else 1
        finally:
            os._exit(status)
    found = [store.get(recorded(b"1")) for _ in range(50)]
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert None not in found
    assert store.get(recorded(b"2")) is not None
    store.close()


def test_caches_under_two_prefixes_do_not_meet(server: RedisServer) -> None:
    """One server serves a team."""
    one = RedisStore(f"{server.unix_url}&prefix=team%3Aone", mode="write")
    two = RedisStore(server.url, mode="write", prefix="team:two")
    one.add(recorded(), seen("one"))

    assert one.prefix == "team:one"
    assert two.get(recorded()) is None
    assert two.newest() is None
    one.close()
    two.close()


@given(
    parts=st.lists(
        st.tuples(st.text(max_size=6), st.text(max_size=6), st.binary(max_size=8)),
        min_size=1,
        max_size=5,
        unique=True,
    )
)
def test_any_names_and_bytes_come_back(
    server: RedisServer, parts: list[tuple[str, str, bytes]]
) -> None:
    """Namespaces are whatever a server calls itself; `a` + `bc` is not `ab` + `c`."""
    store = RedisStore(server.unix_url, mode="write", prefix="any")
    calls = [RecordedCall.of(space, tool, arguments, b"") for space, tool, arguments in parts]
    for each in calls:
        store.add(each, seen("x"))

    assert [each.call for each in store.entries()] == calls
    for each in calls:
        same_tool = [c for c in calls if (c.namespace, c.tool) == (each.namespace, each.tool)]
        found = [entry.call for entry in store.by_tool(each.namespace, each.tool)]
        assert found == same_tool
        store.remove(each)
        calls = calls[1:]
    assert list(store.entries()) == []
    store.close()


async def test_rollouts_are_answered_from_a_server(url: str) -> None:
    """Recorded on one host, replayed on another: the same cache by its url."""
    asked, cancelled = call(GET, order_id="A1"), call(CANCEL, order_id="A1")
    with open_cache(url, mode="write") as cache:
        cache.record_trajectory(
            task(),
            trajectory(
                (asked, result(asked, '{"status": "open"}')),
                (cancelled, result(cancelled, '{"ok": true}')),
                (asked, result(asked, '{"status": "cancelled"}')),
            ),
        )

    with open_cache(url) as cache:
        tools = ReplayTools(cache, task())
        answers = [
            await tools.call(ToolCall(id="1", name=each.name, arguments=each.arguments))
            for each in (asked, cancelled, asked)
        ]

    assert [answer.tier for answer in answers] == [Tier.EXACT] * 3
    assert [answer.text for answer in answers] == [
        '{"status": "open"}',
        '{"ok": true}',
        '{"status": "cancelled"}',
    ]


def test_a_cache_is_opened_by_any_name(tmp_path: Path, url: str) -> None:
    """One option, `--cache`, takes a file, a snapshot or a server."""
    for name in (str(tmp_path / "tools.cache"), url, ":memory:"):
        with open_cache(name, mode="write") as cache:
            assert isinstance(cache, ToolCache)
            cache.store.put_tool(SPACE, GET)
            assert cache.spec(SPACE, "get_order") == GET
    with pytest.raises(CacheError, match="postgres"):
        open_cache("postgres://host/db")
