"""Real clients through the real proxy: what the tests of this room share."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from mcp import Client, MCPError, StdioServerParameters

from cacherl.core.records import JsonObject
from cacherl.proxy.summary import Summary

PROXY = (sys.executable, "-m", "cacherl.cli", "proxy")
SERVER = str(Path(__file__).with_name("everything_server.py"))
WITHIN_S = 30.0


def serving(folder: Path) -> tuple[str, ...]:
    """The command of the server whose state is this folder."""
    folder.mkdir(exist_ok=True)
    return "--", sys.executable, SERVER, str(folder)


def direct(folder: Path) -> StdioServerParameters:
    """The server itself."""
    folder.mkdir(exist_ok=True)
    return StdioServerParameters(command=sys.executable, args=[SERVER, str(folder)])


def proxied(*arguments: str, log: Path) -> StdioServerParameters:
    """The proxy, as a client starts it; its summary goes to `log`."""
    args = [*PROXY[1:], "--json", "--log", str(log), *arguments]
    return StdioServerParameters(command=PROXY[0], args=args, env=dict(os.environ))


def summary(log: Path) -> Summary:
    """What a proxy that ended has counted."""
    end = time.monotonic() + WITHIN_S
    while time.monotonic() < end:
        lines = log.read_text().splitlines() if log.exists() else []
        if lines and lines[-1].startswith("{"):
            return msgspec.json.decode(lines[-1], type=Summary)
        time.sleep(0.01)
    raise AssertionError("the proxy wrote no summary")


def said(value: Any) -> JsonObject:
    """A result as the server's JSON said it."""
    whole: JsonObject = value.model_dump(mode="json", by_alias=True, exclude_unset=True)
    return whole


async def called(client: Client, tool: str, **arguments: Any) -> JsonObject:
    """The JSON of a tool's result, or of the protocol's error."""
    try:
        return said(await client.call_tool(tool, arguments))
    except MCPError as error:
        return {"code": error.error.code, "message": error.error.message}


def text(result: JsonObject) -> str:
    """What a model would read of a result."""
    words: str = result["content"][0]["text"]
    return words


async def tour(client: Client) -> list[JsonObject]:
    """Use everything, and return all that came back."""
    seen_so_far: list[Any] = []

    async def seen(progress: float, total: float | None, message: str | None) -> None:
        seen_so_far.append([progress, total, message])

    return [
        said(await client.list_tools()),
        said(await client.list_resources()),
        said(await client.list_resource_templates()),
        said(await client.list_prompts()),
        said(await client.read_resource("memo://today")),
        said(await client.get_prompt("greet", {"name": "Ann"})),
        await called(client, "read", name="a.txt"),
        await called(client, "write", name="a.txt", text="first"),
        await called(client, "read", name="a.txt"),
        await called(client, "write", name="a.txt", text="second"),
        await called(client, "read", name="a.txt"),
        await called(client, "order", order_id="A-17"),
        await called(client, "pictures", count=2),
        *[await called(client, "tick") for _ in range(3)],
        said(await client.call_tool("crawl", {"steps": 3}, progress_callback=seen)),
        {"progress": seen_so_far},
    ]


# ---- by hand: JSON lines to a process


@dataclass(slots=True)
class Wire:
    """A proxy that is spoken to without a client library, to see its bytes and to kill it."""

    process: subprocess.Popen[bytes]

    def send(self, **message: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
        self.process.stdin.flush()

    def line(self) -> bytes:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], WITHIN_S)
        assert ready, "the proxy says nothing"
        return self.process.stdout.readline()

    def reply(self, number: int) -> bytes:
        """The line that answers a request."""
        while line := self.line():
            if json.loads(line).get("id") == number:
                return line
        raise AssertionError("the proxy is gone")

    def end(self) -> None:
        """The client goes away."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def rest(self) -> tuple[bytes, str, int]:
        """What is left on standard output and standard error, and the exit code."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        left, words = self.process.stdout.read(), self.process.stderr.read().decode()
        return left, words, self.process.wait(WITHIN_S)

    def hello(self) -> bytes:
        info = {"name": "by hand", "version": "1"}
        params = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": info}
        self.send(id=0, method="initialize", params=params)
        line = self.reply(0)
        self.send(method="notifications/initialized")
        return line

    def call(self, number: int, tool: str, **arguments: Any) -> bytes:
        self.send(id=number, method="tools/call", params={"name": tool, "arguments": arguments})
        return self.reply(number)


@contextlib.contextmanager
def wired(*arguments: str) -> Iterator[Wire]:
    """A running proxy; stopped at the end, if it still runs."""
    with started([*PROXY, *arguments]) as process:
        yield Wire(process)


@contextlib.contextmanager
def started(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process, for as long as the block lasts."""
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


@contextlib.contextmanager
def over_http(*arguments: str, log: Path, **options: Any) -> Iterator[str]:
    """A proxy that listens; yields its URL."""
    at = ("--http", "127.0.0.1:0", "--json", "--log", str(log))
    with started([*PROXY, *at, *arguments], **options) as process:
        end = time.monotonic() + WITHIN_S
        while time.monotonic() < end and process.poll() is None:
            words = log.read_text() if log.exists() else ""
            if "listening on " in words:
                yield words.split("listening on ")[1].split()[0]
                return
            time.sleep(0.02)
        raise AssertionError(f"the proxy does not listen: {process.stderr}")


@contextlib.contextmanager
def http_server(folder: Path, port: int) -> Iterator[str]:
    """The server over HTTP; yields its URL."""
    folder.mkdir(exist_ok=True)
    with started([sys.executable, SERVER, str(folder), str(port)]) as process:
        end = time.monotonic() + WITHIN_S
        while time.monotonic() < end and process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                yield f"http://127.0.0.1:{port}/mcp"
                return
            time.sleep(0.02)
        raise AssertionError("the server does not listen")
