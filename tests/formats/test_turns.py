"""What entries of any data set may hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cacherl.core.messages import MalformedCall
from cacherl.formats.apigen import APIGEN_MT
from cacherl.formats.hermes import HERMES
from cacherl.formats.toolace import TOOLACE
from tests.formats import samples
from tests.formats.reading import calls_of, read, read_one, skipped_of


@pytest.mark.parametrize("kind", [TOOLACE, HERMES, APIGEN_MT], ids=lambda each: each.name)
def test_an_unknown_speaker_is_told_by_place(kind: Any, tmp_path: Path) -> None:
    """A new configuration of a data set must not be read wrongly in silence."""
    make = {"toolace": samples.toolace, "hermes": samples.hermes, "apigen-mt": samples.apigen}
    row = make[kind.name]()
    row["conversations"][1]["from"] = "oracle"

    assert skipped_of(kind, tmp_path, row).field == "conversations[1].from"


def test_a_call_that_is_none_is_kept_with_its_answer(tmp_path: Path) -> None:
    """A model's mistake is part of the conversation."""
    row = samples.hermes()
    row["conversations"][2]["value"] = "<tool_call>get_weather(Oslo)</tool_call>"
    row["conversations"][3]["value"] = "Error: no such format"
    _, trajectory = read_one(HERMES, tmp_path, row)
    (call,) = calls_of(trajectory)

    assert isinstance(call, MalformedCall)
    assert trajectory.results[0].text == "Error: no such format"


def test_an_array_is_read_like_lines(tmp_path: Path) -> None:
    """ToolACE and xLAM come as one JSON array."""
    path = tmp_path / "data.json"
    path.write_text(json.dumps([samples.toolace(), {"system": 1}]), encoding="utf-8")
    found, skipped = read(TOOLACE, path)

    assert len(found) == 1
    assert [each.field for each in skipped] == ["system"]
