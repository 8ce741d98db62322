"""A small real MCP server for the tests: a notebook that can also fail in every way.

    python mcp_notes_server.py [SCENARIO [PORT]]

Over stdio, or over streamable HTTP on PORT. `NOTES_LOG` names a file that outlives it, in which
every call that begins or ends in a noteworthy way leaves a line.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import CallToolResult, ImageContent, TextContent, ToolAnnotations

server = MCPServer("notes")
notes = {"n1": f"first note of {sys.argv[1] if len(sys.argv) > 1 else 'nowhere'}"}
under_way: set[object] = set()
READS = ToolAnnotations(read_only_hint=True)


def log(line: str) -> int:
    """Write a line, and return how often it has been written."""
    path = Path(os.environ["NOTES_LOG"])
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    return path.read_text(encoding="utf-8").splitlines().count(line)


@server.tool(annotations=ToolAnnotations(read_only_hint=True), structured_output=False)
def read_note(note_id: str) -> str:
    """Read one note."""
    if note_id not in notes:
        raise ToolError(f"note {note_id} not found")
    return notes[note_id]


@server.tool(structured_output=False)
def write_note(note_id: str, text: str) -> str:
    """Write one note."""
    notes[note_id] = text
    return "written"


@server.tool(
    annotations=ToolAnnotations(read_only_hint=False),
    meta={"cacherl/effects": {"reads": ["note:{note_id}"], "writes": []}},
    structured_output=False,
)
def count_words(note_id: str) -> str:
    """Count the words of one note."""
    return str(len(notes[note_id].split()))


@server.tool(
    annotations=ToolAnnotations(read_only_hint=True, open_world_hint=True), structured_output=False
)
def find_pages(query: str) -> str:
    """Ask the world outside."""
    return f"pages about {query}"


@server.tool(
    annotations=ToolAnnotations(read_only_hint=False, idempotent_hint=True),
    structured_output=False,
)
def put_note(note_id: str, text: str) -> str:
    """Write one note; twice is once."""
    notes[note_id] = text
    return "put"


@server.tool(
    annotations=ToolAnnotations(read_only_hint=True, destructive_hint=True),
    structured_output=False,
)
def tidy() -> str:
    """Say two things at once of itself."""
    notes.clear()
    return "tidied"


@server.tool(structured_output=False)
async def sleep(seconds: float) -> str:
    """Answer late."""
    await asyncio.sleep(seconds)
    return "awake"


@server.tool(annotations=READS, structured_output=False)
async def look_slowly() -> str:
    """Read; the first time it takes for ever."""
    if log("look_slowly") == 1:
        await asyncio.sleep(60)
    return "seen"


@server.tool(structured_output=False)
async def write_slowly() -> str:
    """Write, and take for ever."""
    log("write_slowly")
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        log("write_slowly cancelled")
        raise
    return "written"


@server.tool(structured_output=False)
async def get_stuck() -> str:
    """Hold up the whole server, as a bug does."""
    time.sleep(60)  # noqa: ASYNC251 - that is the point
    return "never"


@server.tool(structured_output=False)
def crash() -> str:
    """End the process, as a bug in native code would."""
    sys.stderr.write("Segmentation fault (core dumped)\n")
    sys.stderr.flush()
    log("crash")
    os._exit(3)


@server.tool(structured_output=False)
async def die_later() -> str:
    """Answer, and end the process while nobody calls."""
    asyncio.get_running_loop().call_later(0.05, os._exit, 3)
    return "farewell"


@server.tool(annotations=READS, structured_output=False)
def crash_once() -> str:
    """End the process the first time it reads."""
    if log("crash_once") == 1:
        os._exit(3)
    return "read after all"


@server.tool(structured_output=False)
async def count_busy() -> str:
    """Say how many calls of this tool are under way."""
    me = object()
    under_way.add(me)
    await asyncio.sleep(0.02)
    seen = len(under_way)
    await asyncio.sleep(0.02)
    under_way.remove(me)
    return str(seen)


@server.tool(annotations=READS, structured_output=False)
def read_much(characters: int) -> str:
    """Answer with so much text, and print a line that is no JSON."""
    if len(sys.argv) < 3:
        sys.stdout.write("reading much ...\n")
        sys.stdout.flush()
    return "x" * characters


@server.tool(annotations=READS, structured_output=False)
def process_id() -> str:
    """Say which process this is."""
    return str(os.getpid())


@server.tool(annotations=READS)
def show_picture() -> CallToolResult:
    """Answer with more than a text."""
    return CallToolResult(
        content=[
            TextContent(type="text", text="a pixel"),
            ImageContent(type="image", data="aGVq", mime_type="image/png"),
        ],
        structured_content={"width": 1},
        _meta={"page": 1},
    )


@server.tool(annotations=READS, structured_output=False)
async def add_tool(ctx: Context) -> str:
    """Offer one tool more, and say so."""
    server.add_tool(lambda: "new", name="late_tool", description="", structured_output=False)
    await ctx.session.send_tool_list_changed()
    return "added"


if __name__ == "__main__":
    if len(sys.argv) > 2:
        server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[2]))
    else:
        server.run("stdio")
