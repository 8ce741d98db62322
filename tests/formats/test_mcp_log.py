"""MCP logs: which answer belongs to which call, and what annotations say."""

from __future__ import annotations

import json
from pathlib import Path

from cacherl.core.tools import UNDECLARED, Effects, ErrorClass
from cacherl.formats.mcp_log import MCP_LOG, NO_WORDS
from tests.formats import samples
from tests.formats.reading import read_rows


def test_answers_find_their_calls_in_any_order(tmp_path: Path) -> None:
    """Two calls at once, and the server's own request with the id of one of them."""
    ((task, trajectory),), skipped = read_rows(MCP_LOG, tmp_path, *samples.mcp())

    assert not skipped
    assert [(r.name, r.text) for r in trajectory.results] == [
        ("get_weather", "rain"),
        ("get_weather", "sun"),
        ("no_tool", "Unknown tool"),
        ("send_mail", ""),
    ]
    rain, sun, unknown, lost = trajectory.results
    assert rain.wire is not None
    assert json.loads(rain.wire)["structuredContent"] == {"sky": "rain"}
    assert sun.wire is None
    assert (unknown.is_error, unknown.error_class) == (True, ErrorClass.NOT_FOUND)
    assert lost.error_class is ErrorClass.TRANSIENT
    assert task.user_turns == (NO_WORDS,)
    assert trajectory.notes["only_calls"] is True
    assert trajectory.policy == "some-client"


def test_annotations_say_what_a_tool_touches(tmp_path: Path) -> None:
    """The one format that declares effects; a tool without annotations writes everything."""
    ((task, _),), _ = read_rows(MCP_LOG, tmp_path, *samples.mcp())
    effects = {spec.name: spec.effects for spec in task.tools}

    assert effects["get_weather"] == Effects(reads=("*",))
    assert effects["send_mail"] == UNDECLARED


def test_every_initialize_begins_a_conversation(tmp_path: Path) -> None:
    """A server that keeps state starts afresh; wrapped lines and noise are common in logs."""
    rows = samples.mcp()
    wrapped = [{"ts": 1, "direction": "in", "message": row} for row in rows]
    found, skipped = read_rows(MCP_LOG, tmp_path, *rows, {"level": "info"}, *wrapped)

    assert [len(trajectory.results) for _, trajectory in found] == [4, 4]
    assert [each.problem for each in skipped] == ["no JSON-RPC message"]
