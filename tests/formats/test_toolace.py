"""ToolACE: tools amid prose, calls in brackets."""

from __future__ import annotations

from pathlib import Path

from cacherl.core.tools import ErrorClass
from cacherl.formats.toolace import TOOLACE
from tests.formats import samples
from tests.formats.reading import made, read_one, texts


def test_toolaces_tools_stand_amid_prose(tmp_path: Path) -> None:
    """The list goes to the task, the call syntax goes, the date stays."""
    task, trajectory = read_one(TOOLACE, tmp_path, samples.toolace())

    assert [spec.name for spec in task.tools] == ["Get Weather"]
    assert task.tools[0].parameters["properties"]["days"] == {"type": "integer"}
    assert task.system == "The current time is 2025-01-02 10:00:00."
    assert made(trajectory) == [
        ("Get Weather", {"city": "Oslo"}),
        ("Get Weather", {"city": "Bergen", "days": 2}),
    ]
    assert texts(trajectory) == ['{"sky": "sun"}', '{"sky": "rain"}']


def test_a_toolace_answer_that_cannot_be_shared_stays_whole(tmp_path: Path) -> None:
    """Better one true answer than two guessed ones; the other call is marked as unanswered."""
    row = samples.toolace()
    row["conversations"][2]["value"] = "both fine"
    _, trajectory = read_one(TOOLACE, tmp_path, row)

    assert texts(trajectory) == ["both fine", ""]
    assert trajectory.results[1].error_class is ErrorClass.TRANSIENT
