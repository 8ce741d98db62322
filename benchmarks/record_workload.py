"""What recording and importing are measured on: clients, servers and a file, made from a seed."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SERVER = Path(__file__).with_name("record_server.py")
DIRECT = (sys.executable, "-S", str(SERVER))
PROXY = (sys.executable, "-m", "cacherl.cli", "proxy")
WITHIN_S = 60.0

Call = Callable[[str], Awaitable[str]]
"""Asks for an order, returns the text of the answer."""


# ---- clients and servers


@contextlib.asynccontextmanager
async def over_stdio(command: tuple[str, ...]) -> AsyncIterator[Call]:
    """Yield the official client's call of a server that it starts."""
    from mcp import ClientSession, StdioServerParameters, stdio_client

    first, *rest = command
    parameters = StdioServerParameters(command=first, args=rest, env=dict(os.environ), cwd=ROOT)
    async with stdio_client(parameters) as streams, ClientSession(*streams) as session:
        await session.initialize()
        yield _call(session)


@contextlib.asynccontextmanager
async def over_http(url: str) -> AsyncIterator[Call]:
    """Yield the official client's call of a server at an address."""
    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    async with streamable_http_client(url) as streams, ClientSession(*streams[:2]) as session:
        await session.initialize()
        yield _call(session)


def _call(session: Any) -> Call:
    async def call(order_id: str) -> str:
        result = await session.call_tool("get_order", {"order_id": order_id})
        return str(result.content[0].text)

    return call


@contextlib.contextmanager
def serving() -> Iterator[str]:
    """Run the server over HTTP; yield its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def listens() -> str | None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return f"http://127.0.0.1:{port}/mcp"
        return None

    with _running((sys.executable, str(SERVER), str(port)), listens) as url:
        yield url


@contextlib.contextmanager
def proxying(*words: str, log: Path) -> Iterator[str]:
    """Run the proxy over HTTP; yield its address."""

    def listens() -> str | None:
        said = log.read_text(encoding="utf-8") if log.exists() else ""
        return said.split("listening on ")[1].split()[0] if "listening on " in said else None

    with _running((*PROXY, *words, "--http", "127.0.0.1:0", "--log", str(log)), listens) as url:
        yield url


@contextlib.contextmanager
def _running(command: tuple[str, ...], ready: Callable[[], str | None]) -> Iterator[str]:
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)  # noqa: S603 - our own words
    try:
        until = time.monotonic() + WITHIN_S
        while (found := ready()) is None:
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{' '.join(command)} did not start. Run it by hand.")
            time.sleep(0.05)
        yield found
    finally:
        process.terminate()
        process.wait(WITHIN_S)


async def in_turns(ways: Mapping[str, Call], count: int, start: int = 0) -> dict[str, list[float]]:
    """Return the seconds of each call, every way taking each order's turn: drift meets all alike."""
    names = list(ways)
    taken: dict[str, list[float]] = {name: [] for name in names}
    for number in range(start, start + count):
        first = number % len(names)
        order, texts = f"A-{number}", set()
        for name in names[first:] + names[:first]:
            began = time.perf_counter()
            texts.add(await ways[name](order))
            taken[name].append(time.perf_counter() - began)
        if len(texts) != 1:
            raise AssertionError(f"the ways {', '.join(names)} answer {order} differently")
    return taken


# ---- a file to import

_WORDS = (
    "the order was shipped and should arrive on monday please check address invoice refund customer "
    "account booking flight hotel ticket status open closed pending total amount city street number "
    "thank you for waiting I have found what you asked details below let me look that up policy allows"
)
_FRENCH = (
    "la commande a été expédiée et devrait arriver lundi veuillez vérifier l'adresse du client où "
    "l'hôtel est réservé merci d'avoir patienté voici le détail de votre dossier"
)
_CHINESE = "订单 已经 发货 请 核对 地址 客户 退款 航班 酒店 预订 谢谢 等待 以下 是 详情"


class Conversations:
    """Rows as people have them: agents of many tools, some in other languages, results as JSON."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)  # noqa: S311 - no secret
        self._texts = [self._text(_WORDS) for _ in range(1600)]
        self._texts += [self._text(_FRENCH) for _ in range(250)]
        self._texts += [self._text(_CHINESE) for _ in range(150)]
        self._tools = [self._tool(number) for number in range(60)]
        self._systems = [" ".join(self._draw.choices(self._texts, k=5)) for _ in range(20)]

    def _text(self, words: str) -> str:
        return (
            " ".join(self._draw.choices(words.split(), k=self._draw.randint(8, 50))).capitalize()
            + "."
        )

    def _tool(self, number: int) -> dict[str, Any]:
        properties = {
            name: {"type": kind, "description": self._draw.choice(self._texts)}
            for name, kind in (
                ("item_id", "string"),
                ("query", "string"),
                ("limit", "integer"),
                ("urgent", "boolean"),
            )
        }
        return {
            "type": "function",
            "function": {
                "name": f"tool_{number}",
                "description": self._draw.choice(self._texts),
                "parameters": {"type": "object", "properties": properties, "required": ["item_id"]},
            },
        }

    def row(self, number: int) -> dict[str, Any]:
        """Return one conversation."""
        draw = self._draw
        tools = draw.sample(self._tools, draw.randint(3, 8))
        messages: list[dict[str, Any]] = [
            {"role": "system", "content": draw.choice(self._systems)},
            {"role": "user", "content": f"{draw.choice(self._texts)} (case {number})"},
        ]
        for step in range(draw.randint(1, 7)):
            calls = []
            for place in range(draw.choices((1, 2), (5, 1))[0]):
                arguments: dict[str, Any] = {
                    "item_id": f"I-{number}-{step}",
                    "query": draw.choice(self._texts)[:60],
                }
                if draw.random() < 0.5:
                    arguments |= {"limit": draw.randint(1, 50), "urgent": draw.random() < 0.5}
                name = draw.choice(tools)["function"]["name"]
                function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
                calls.append({"id": f"c{step}_{place}", "type": "function", "function": function})
            said = draw.choice(self._texts) if draw.random() < 0.3 else ""
            messages.append({"role": "assistant", "content": said, "tool_calls": calls})
            messages += [
                {"role": "tool", "tool_call_id": call["id"], "content": self._result(number, step)}
                for call in calls
            ]
        messages.append({"role": "assistant", "content": " ".join(draw.choices(self._texts, k=2))})
        if draw.random() < 0.3:
            messages += [
                {"role": "user", "content": draw.choice(self._texts)},
                {"role": "assistant", "content": draw.choice(self._texts)},
            ]
        return {"messages": messages, "tools": tools}

    def _result(self, number: int, step: int) -> str:
        draw = self._draw
        items = [
            {"id": f"{number}-{step}-{place}", "price": draw.randint(1, 99_999) / 100, "note": text}
            for place, text in enumerate(draw.choices(self._texts, k=draw.randint(1, 8)))
        ]
        return json.dumps({"ok": True, "items": items}, ensure_ascii=False)

    def write(self, path: Path, size: int) -> int:
        """Write rows until the file has this many bytes; return how many rows there are."""
        written = number = 0
        with path.open("wb", buffering=1 << 20) as file:
            while written < size:
                line = json.dumps(self.row(number), ensure_ascii=False).encode()
                written += file.write(line + b"\n")
                number += 1
        return number


STAGES = ("read", "convert", "import", "import_cached")


def staged(stage: str, path: str, folder: str, told: Any) -> None:
    """Put what one stage of an import takes into `told`: seconds, rows, peak memory. In a process of its own.

    On one core: the process and all its threads are bound to the core it is on.
    """
    from cacherl.formats.format import Reading
    from cacherl.formats.rows import rows_of
    from cacherl.formats.table import format_named
    from cacherl.imports import ImportOptions, import_files

    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    before = _peak_mb()
    rows, started, cpu = 0, time.perf_counter(), time.process_time()
    if stage == "read":
        for row in rows_of(Path(path)):
            row.value()
            rows += 1
    elif stage == "convert":
        read_row, reading = format_named("openai").read_row, Reading(namespace="bench")
        if read_row is None:
            raise RuntimeError("the format openai reads no rows")
        for row in rows_of(Path(path)):
            rows += sum(1 for _ in read_row(row, reading))
    else:
        options = ImportOptions(format_name="openai", cache=stage == "import_cached")
        rows = import_files(Path(path), Path(folder) / stage, options).trajectories
    told.put(
        {
            "s": time.perf_counter() - started,
            "cpu_s": time.process_time() - cpu,
            "rows": rows,
            "peak_mb": round(_peak_mb(), 1),
            "before_mb": round(before, 1),
        }
    )


def _peak_mb() -> float:
    """Return the most memory this process ever held. Not `ru_maxrss`: that one remembers the parent's."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
