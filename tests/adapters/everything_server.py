"""A real MCP server with a bit of everything that can pass a proxy. Its folder is its state."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from mcp.server.mcpserver import Context, Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations
from pydantic import BaseModel

FOLDER = Path(sys.argv[1])
PIXEL = b"\x89PNG\r\n\x1a\n not much of a picture"
server = MCPServer("everything", instructions="Use with care.", log_level="CRITICAL")
reads = ToolAnnotations(read_only_hint=True)


class Order(BaseModel):
    """Structured content."""

    order_id: str
    total: float
    tags: list[str]


class Age(BaseModel):
    """What is asked of the person."""

    age: int


@server.tool(annotations=reads, structured_output=False)
def read(name: str) -> str:
    """Read a file."""
    path = FOLDER / name
    if not path.exists():
        raise ToolError(f"{name} not found")
    return path.read_text()


@server.tool(structured_output=False)
def write(name: str, text: str) -> str:
    """Write a file."""
    with (FOLDER / "journal").open("a") as journal:
        journal.write(f"{name}\n")
    (FOLDER / name).write_text(text)
    return f"wrote {len(text)} characters"


@server.tool(structured_output=False)
def write_and_die(name: str, text: str) -> str:
    """Write a file, then end as a bug in native code would."""
    write(name, text)
    os._exit(3)


@server.tool(annotations=reads)
def order(order_id: str) -> Order:
    """Return structured content."""
    return Order(order_id=order_id, total=12.0, tags=["x", "ü"])


@server.tool(annotations=reads, structured_output=False)
def pictures(count: int) -> list[Any]:
    """Return several blocks."""
    return ["a picture:", *[Image(data=PIXEL, format="png") for _ in range(count)]]


@server.tool(annotations=reads, structured_output=False)
def tick() -> str:
    """Answer the same call in another way each time."""
    path = FOLDER / "ticks"
    count = int(path.read_text()) + 1 if path.exists() else 1
    path.write_text(str(count))
    return f"tick {count}"


@server.tool(annotations=reads, structured_output=False)
async def crawl(steps: int, ctx: Context) -> str:
    """Report progress."""
    for step in range(steps):
        await ctx.report_progress(step + 1, steps, f"step {step + 1}")
    return f"{steps} steps"


@server.tool(annotations=reads, structured_output=False)
async def sleep(seconds: float) -> str:
    """Answer late, and say so where a test can see it."""
    (FOLDER / "asleep").write_text("")
    try:
        await asyncio.sleep(seconds)
    except BaseException:
        (FOLDER / "cancelled").write_text("")
        raise
    return "awake"


@server.tool(annotations=reads, structured_output=False)
async def ask_age(ctx: Context) -> str:
    """Ask the client something in the middle of a call."""
    answer = await ctx.elicit("How old?", Age)
    return f"{answer.action} {getattr(answer, 'data', None)}"


@server.tool(annotations=reads, structured_output=False)
def environment(name: str) -> str:
    """Say what the server was started with."""
    return os.environ.get(name, "not set")


@server.tool(annotations=reads, structured_output=False)
def process() -> str:
    """Say which process answers."""
    return str(os.getpid())


@server.resource("memo://{name}")
def memo(name: str) -> str:
    """A resource by template."""
    return f"memo of {name}"


@server.resource("memo://today")
def today() -> str:
    """A resource."""
    return "today's memo"


@server.prompt()
def greet(name: str) -> str:
    """A prompt."""
    return f"Greet {name}."


if __name__ == "__main__":
    if len(sys.argv) > 2:
        server.settings.log_level = "CRITICAL"
        server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[2]))
    else:
        server.run("stdio")
