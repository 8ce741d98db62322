"""What `ToolSource` promises, held against every implementation.

A source joins with one line in `SOURCES`. It offers the three tools of `notebook.py`, under these
names, with a note `n1` in it; each opening starts afresh.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import pytest

from cacherl.adapters.mcp_tools import McpSource
from cacherl.core.sources import ToolSource
from cacherl.core.tools import ErrorClass
from cacherl.toolbox.functions import FunctionSource
from tests.adapters.notes import http_notes, over_stdio
from tests.adapters.notes_service import notes_service

NOTEBOOK = Path(__file__).with_name("notebook.py")


@contextmanager
def mcp_over_http(folder: Path) -> Iterator[ToolSource]:
    with http_notes(folder / "notes.log") as server:
        yield McpSource(server.server)


SOURCES: dict[str, Callable[[Path], AbstractContextManager[ToolSource]]] = {
    "mcp-stdio": lambda folder: nullcontext(McpSource(over_stdio())),
    "mcp-http": mcp_over_http,
    "functions": lambda folder: nullcontext(
        FunctionSource("notes", str(shutil.copy(NOTEBOOK, folder)))
    ),
    "openapi": notes_service,
}


@pytest.fixture(params=SOURCES)
async def source(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ToolSource]:
    """Return a source that has not started."""
    with SOURCES[request.param](tmp_path) as opened:
        yield opened
        await opened.aclose()


async def test_a_source_keeps_every_promise_of_the_seam(source: ToolSource) -> None:
    """One test, as starting a server costs a second; each part says what it is about."""
    # Closing is safe before a start, and a call before it is an answer: nothing ran.
    await source.aclose()

    # A start returns the tools, as a model can be shown them.
    specs = {spec.name: spec for spec in await source.start()}
    assert {"read_note", "write_note", "sleep"} <= set(specs)
    assert specs["read_note"].parameters["type"] == "object"
    assert "note_id" in specs["read_note"].parameters["properties"]
    assert specs["read_note"].description

    # Success has no error class, and what is written can be read.
    read = await source.call("read_note", {"note_id": "n1"})
    assert read.error_class is None
    assert read.text.startswith("first note")
    await source.call("write_note", {"note_id": "n1", "text": "changed"})
    assert (await source.call("read_note", {"note_id": "n1"})).text == "changed"

    # A failing tool, an unknown tool and wrong arguments are answers.
    missing = await source.call("read_note", {"note_id": "n9"})
    assert missing.error_class is ErrorClass.NOT_FOUND
    assert "n9" in missing.text
    unknown = await source.call("fly", {})
    assert unknown.error_class is ErrorClass.NOT_FOUND
    wrong = await source.call("read_note", {"note_id": {"a": 1}})
    assert wrong.error_class is not None
    assert not any(answer.down for answer in (read, missing, unknown, wrong))

    # Calls may be under way at once; each gets its own answer.
    names = [f"m{number}" for number in range(10)]
    await asyncio.gather(
        *(source.call("write_note", {"note_id": name, "text": name * 2}) for name in names)
    )
    answers = await asyncio.gather(*(source.call("read_note", {"note_id": name}) for name in names))
    assert [answer.text for answer in answers] == [name * 2 for name in names]

    # A call may be cancelled; others and later ones do not notice.
    other = asyncio.create_task(source.call("sleep", {"seconds": 0.3}))
    given_up = asyncio.create_task(source.call("sleep", {"seconds": 30}))
    await asyncio.sleep(0.1)
    given_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await given_up
    assert (await other).text == "awake"
    assert (await source.call("read_note", {"note_id": "m1"})).text == "m1m1"

    # It can be closed twice and started again.
    await source.aclose()
    await source.aclose()
    assert set(specs) == {spec.name for spec in await source.start()}
    assert (await source.call("read_note", {"note_id": "n1"})).error_class is None
