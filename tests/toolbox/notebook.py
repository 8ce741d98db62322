"""A notebook as plain functions: what every source in `test_source_contract.py` offers."""

from __future__ import annotations

import asyncio

notes = {"n1": "first note"}


def read_note(note_id: str) -> str:
    """Read one note."""
    if note_id not in notes:
        raise LookupError(f"note {note_id} not found")
    return notes[note_id]


def write_note(note_id: str, text: str) -> str:
    """Write one note."""
    notes[note_id] = text
    return "written"


async def sleep(seconds: float) -> str:
    """Answer late."""
    await asyncio.sleep(seconds)
    return "awake"
