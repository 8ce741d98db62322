"""`cacherl proxy` over streamable HTTP: on the client's side, and on the server's."""

from __future__ import annotations

import asyncio
import json
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import anyio
import httpx2
from mcp import Client
from mcp.client.session import ClientRequestContext
from mcp.client.streamable_http import streamable_http_client
from mcp_types import ElicitRequestParams, ElicitResult

from cacherl.core.tools import Tier
from tests.adapters.through import (
    called,
    http_server,
    over_http,
    proxied,
    said,
    serving,
    summary,
    text,
    wired,
)
from tests.redis_server import free_port


def asked(url: str, **headers: str) -> int:
    """The status of a bare request."""
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping"}).encode()
    kinds = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
    request = urllib.request.Request(url, body, {**kinds, **headers})
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_clients_at_once_have_a_server_each(tmp_path: Path) -> None:
    """One episode is one client: its server's state, its progress, its questions are its own."""
    cache, folder, log = str(tmp_path / "a.cache"), tmp_path / "s", tmp_path / "log"

    async def answer(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        return ElicitResult(action="accept", content={"age": 7})

    async def use(url: str, mode: str) -> dict[str, Any]:
        steps: list[float] = []

        async def seen(progress: float, total: float | None, message: str | None) -> None:
            steps.append(progress)

        async with Client(url, mode=mode, elicitation_callback=answer) as client:
            crawl = said(await client.call_tool("crawl", {"steps": 3}, progress_callback=seen))
            age = await called(client, "ask_age")
            with anyio.move_on_after(0.3):
                await client.call_tool("sleep", {"seconds": 60})
            return {
                "crawl": text(crawl),
                "progress": steps,
                "age": text(age),
                "order": await called(client, "order", order_id="A-17"),
                "process": text(await called(client, "process")),
                "tools": [tool.name for tool in (await client.list_tools()).tools],
            }

    async def both(url: str) -> list[dict[str, Any]]:
        return list(await asyncio.gather(use(url, "legacy"), use(url, "auto")))

    with over_http("--record", cache, *serving(folder), log=log) as url:
        one, two = asyncio.run(both(url))
        assert asked(url, host="evil.example") == 421, "a web page that was rebound to this machine"
        assert asked(url) == 400, "no session"
        assert asked(url.replace("/mcp", "/")) == 404
    assert one["progress"] == two["progress"] == [1, 2, 3]
    assert one["age"] == "accept age=7"
    assert one["process"] != two["process"]
    counted = summary(log)
    assert (counted.sessions, counted.server_starts) == (2, 2)
    assert counted.not_recorded == {"cancelled": 2}

    secret = "open-sesame"
    environment = {**os.environ, "PROXY_TOKEN": secret}
    again = tmp_path / "log2"
    playing = ("--token-env", "PROXY_TOKEN", "--replay", cache, "--no-meta")
    with over_http(*playing, log=again, env=environment) as url:
        assert asked(url) == asked(url, authorization="Bearer open-sesam") == 401
        assert asked(url, authorization=f"Bearer {secret}") == 400, "no session"

        async def replay() -> list[Any]:
            http = httpx2.AsyncClient(headers={"authorization": f"Bearer {secret}"}, timeout=30)
            async with http, Client(streamable_http_client(url, http_client=http)) as client:
                tools = [tool.name for tool in (await client.list_tools()).tools]
                return [tools, await called(client, "order", order_id="A-17")]

        assert asyncio.run(replay()) == [one["tools"], one["order"]]
    assert summary(again).tiers == {Tier.EXACT: 1}


def test_a_server_behind_a_url_is_recorded_and_may_come_back(tmp_path: Path) -> None:
    """A remote server restarts as any other: its sessions are gone, and the proxy begins a new one.

    Where HTTP is on a side there are sessions: a client of 2026-07-28 is sent back to them.
    """
    cache, folder, log = str(tmp_path / "a.cache"), tmp_path / "s", tmp_path / "log"
    port = free_port()
    to = ("--url", f"http://127.0.0.1:{port}/mcp")

    async def newest() -> Any:
        async with Client(proxied("--record", cache, *to, log=tmp_path / "log2")) as client:
            return [client.protocol_version, await called(client, "order", order_id="C-30")]

    with wired("--record", cache, "--log", str(log), "--json", *to) as wire:
        with http_server(folder, port):
            hello = wire.hello()
            first = wire.call(1, "order", order_id="A-17")
            wire.call(2, "crawl", steps=1)
            version, order = asyncio.run(newest())
        lost = json.loads(wire.call(3, "order", order_id="B-20"))["result"]
        with http_server(folder, port):
            back = json.loads(wire.call(4, "order", order_id="B-20"))["result"]
    assert (version, order["structuredContent"]["order_id"]) == ("2025-11-25", "C-30")
    assert lost["isError"] is True
    assert "has stopped" in text(lost)
    assert back["structuredContent"]["order_id"] == "B-20"
    assert summary(log).recorded == 3
    with wired("--replay", cache, "--no-meta") as wire:
        assert json.loads(wire.hello())["result"]["serverInfo"]["name"] == "everything"
        assert wire.call(1, "order", order_id="A-17") == first
    assert json.loads(hello)["result"]["protocolVersion"] == "2025-06-18"
