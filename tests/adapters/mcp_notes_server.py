"""A small real MCP server for the tests: a notebook that can also fail in every way."""

from __future__ import annotations

import asyncio
import os
import sys

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations

server = MCPServer("notes")
notes = {"n1": f"first note of {sys.argv[1] if len(sys.argv) > 1 else 'nowhere'}"}


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


@server.tool(structured_output=False)
def crash() -> str:
    """End the process, as a bug in native code would."""
    os._exit(3)


if __name__ == "__main__":
    server.run("stdio")
