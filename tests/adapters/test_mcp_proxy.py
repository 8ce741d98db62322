"""The official client library, unchanged, through `cacherl proxy` over stdio."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.client.session import ClientRequestContext
from mcp_types import ElicitRequestParams, ElicitResult

from cacherl.cache.lookup.tool_cache import ToolCache
from cacherl.core.tools import Tier
from tests.adapters.through import called, direct, proxied, serving, summary, text, tour, wired
from tests.proxy.plain_server import PLAIN, TOOLS

MODES = ("legacy", "auto")
"""Up to 2025-11-25 with `initialize`, and 2026-07-28 without."""

MANY = 1000


async def many(client: Client) -> list[str]:
    """A thousand calls, fifty at once."""
    found: list[str] = []
    for lot in range(0, MANY, 50):
        answers = await asyncio.gather(
            *(called(client, "order", order_id=f"A-{n}") for n in range(lot, lot + 50))
        )
        found += [each["structuredContent"]["order_id"] for each in answers]
    return found


@pytest.mark.parametrize("mode", MODES)
def test_an_agent_is_tested_without_its_server(tmp_path: Path, mode: str) -> None:
    """Recorded through the proxy, the server is as it was; replayed, it is not needed, and is the same.

    With a thousand calls in the session: nothing grows, and each call gets its own answer.
    """
    log, cache = tmp_path / "log", str(tmp_path / "a.cache")

    async def run(server: Any, *, calls: bool = True) -> Any:
        async with Client(server, mode=mode) as client:
            return [await tour(client), await many(client) if calls and mode == "legacy" else []]

    plain = None
    if mode == "legacy":
        plain, _ = asyncio.run(run(direct(tmp_path / "one"), calls=False))
    recording = proxied("--record", cache, *serving(tmp_path / "two"), log=tmp_path / "log1")
    recorded, names = asyncio.run(run(recording))
    replayed, again = asyncio.run(run(proxied("--replay", cache, "--no-meta", log=log)))

    assert plain in (None, recorded), "the proxy changes nothing"
    assert recorded[-1]["progress"] == [[step, 3.0, f"step {step}"] for step in (1, 2, 3)]
    assert replayed[:-1] == recorded[:-1], "structured content, pictures, errors, sequences"
    assert again == names == [f"A-{number}" for number in range(len(names))]
    counted, calls = summary(log), 11 + len(names)
    assert (counted.calls, counted.tiers, counted.errors) == (calls, {Tier.EXACT: calls}, 1)
    assert summary(tmp_path / "log1").recorded == calls


@pytest.mark.parametrize("mode", MODES)
def test_a_live_session_survives_what_can_happen_to_it(tmp_path: Path, mode: str) -> None:
    """The server asks back, a call is given up, the server dies in two others: all is told, none repeated.

    Who gives up must not leave the server working. A write may have happened: the agent must know,
    and the proxy must not do it again.
    """
    log, cache, folder = tmp_path / "log", tmp_path / "a.cache", tmp_path / "s"
    asked: list[str] = []

    async def answer(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        asked.append(params.message)
        return ElicitResult(action="accept", content={"age": 7 * len(asked)})

    async def exists(name: str) -> None:
        with anyio.fail_after(20):
            while not (folder / name).exists():  # noqa: ASYNC110 - another process makes it
                await anyio.sleep(0.01)

    async def run() -> list[Any]:
        server = proxied("--record", str(cache), *serving(folder), log=log)
        async with Client(server, mode=mode, elicitation_callback=answer) as client:
            ages = [] if mode == "auto" else [called(client, "ask_age") for _ in range(2)]
            told = sorted(map(text, await asyncio.gather(*ages)))
            first = await called(client, "process")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.call_tool, "sleep", {"seconds": 60})
                await exists("asleep")
                tasks.cancel_scope.cancel()
            await exists("cancelled")
            (folder / "asleep").unlink()
            waiting = asyncio.create_task(called(client, "sleep", seconds=61))
            await exists("asleep")
            dead = await called(client, "write_and_die", name="a.txt", text="x")
            return [told, first, dead, await waiting, await called(client, "process")]

    told, first, dead, waiting, second = asyncio.run(run())
    assert told == ([] if mode == "auto" else ["accept age=14", "accept age=7"])
    assert dead["isError"] is waiting["isError"] is True
    assert "has stopped" in text(dead)
    assert "it was not repeated" in text(dead)
    assert (folder / "journal").read_text() == "a.txt\n"
    assert text(first) != text(second), "another process answers"
    counted = summary(log)
    assert counted.server_starts == 2
    assert counted.not_recorded["cancelled"] == 1
    assert counted.not_recorded["the server stopped"] == 2
    with ToolCache.open(cache) as found:
        assert not list(found.store.by_tool("everything", "write_and_die"))
        assert not list(found.store.by_tool("everything", "sleep"))


def test_what_was_answered_survives_kill_9_and_replays_to_the_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that was seen and is not in the cache would be missed in every replay.

    By hand, with a server of nobody's library: what it leaves out is left out, how it writes stays.
    Keys that a client's configuration gives its server must reach it through the proxy, and one
    stray line on standard output would break any client.
    """
    monkeypatch.setenv("KEY_OF_THE_SERVER", "k-1")
    cache = str(tmp_path / "a.cache")
    orders = [f"Ä-{number}" for number in range(20)]
    with wired("--record", cache, *PLAIN) as wire:
        hello = wire.hello()
        live = [wire.call(n, "get_order", order_id=order) for n, order in enumerate(orders, 1)]
        live += [wire.call(30, "cancel_order", order_id="Ä-3")]
        live += [wire.call(31, "get_order", order_id="Ä-3"), wire.call(32, "environment")]
        wire.process.send_signal(signal.SIGKILL)
        wire.process.wait()
    with wired("--replay", cache, "--no-meta") as wire:
        assert wire.hello() == hello
        again = [wire.call(n, "get_order", order_id=order) for n, order in enumerate(orders, 1)]
        again += [wire.call(30, "cancel_order", order_id="Ä-3")]
        again += [wire.call(31, "get_order", order_id="Ä-3"), wire.call(32, "environment")]
        wire.send(id=40, method="tools/list")
        listed = json.loads(wire.reply(40))["result"]
        wire.end()
        left, words, code = wire.rest()
    assert again == live
    assert b'"total":100000000000000000000,"share":0.1' in live[0]
    assert b"cancelled" in live[21]
    assert text(json.loads(live[22])["result"]) == "k-1"
    assert listed == {"tools": TOOLS}
    assert (left, code) == (b"", 0)
    assert "23 calls of shop in 1 session: 23 exact" in words


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("raise SystemExit('no folder was named')", "no folder was named"),
        ("import sys; sys.stderr.write('x' * 30000); import nothing_there", "ModuleNotFoundError"),
        ("pass", ""),
    ],
)
def test_why_a_server_did_not_start_is_told(tmp_path: Path, words: str, why: str) -> None:
    """Clients show their error, and a person the proxy's standard error: both must say it."""
    cache = str(tmp_path / "a.cache")
    with wired("--record", cache, "--", sys.executable, "-c", words) as wire:
        error = json.loads(wire.hello())["error"]["message"]
        wire.end()
        _, told, code = wire.rest()
    assert error.startswith(f"the MCP server {sys.executable} -c {words} has stopped (")
    assert error.endswith("before it was ready. Run it by hand to see why")
    assert f"its last words: {why}" in error if why else "last words" not in error
    assert told.count(why) >= 2 or not why, "as the server said it, and in what the proxy says"
    assert "0 recorded in" in told
    assert "Next:" not in told
    assert code == 0


def test_what_a_server_says_on_the_side_comes_through_while_it_runs(tmp_path: Path) -> None:
    """Its log is read while an agent works, a prompt without an end of line among it."""
    server = "import sys; sys.stderr.write('up'); sys.stderr.flush(); sys.stdin.read()"
    with wired("--record", str(tmp_path / "a"), "--", sys.executable, "-c", server) as wire:
        wire.send(id=0, method="initialize", params={})
        assert wire.process.stderr is not None
        assert wire.process.stderr.read(2) == b"up"


def test_a_recording_is_replayed_to_a_client_of_another_version(tmp_path: Path) -> None:
    """The live server spoke the client's version; so must its replay."""
    cache = str(tmp_path / "a.cache")
    spoken: list[str] = []
    for words in (("--record", cache, *PLAIN), ("--replay", cache)):
        with wired(*words) as wire:
            asked = {"protocolVersion": ("2025-11-25", "2025-06-18")[len(spoken)]}
            wire.send(id=0, method="initialize", params=asked)
            spoken.append(json.loads(wire.reply(0))["result"]["protocolVersion"])
            wire.end()
            wire.rest()
    assert spoken == ["2025-11-25", "2025-06-18"]
