"""Toolathlon: parts of a row as texts, rows that never ran."""

from __future__ import annotations

from pathlib import Path

from cacherl.formats.toolathlon import TOOLATHLON
from tests.formats import samples
from tests.formats.reading import made, read_one, read_rows, texts
from tests.formats.samples import OSLO


def test_toolathlons_texts_are_opened(tmp_path: Path) -> None:
    """Nested parts are texts for the viewer's sake."""
    task, trajectory = read_one(TOOLATHLON, tmp_path, samples.toolathlon())

    assert made(trajectory) == [OSLO]
    assert texts(trajectory) == ["sun"]
    assert trajectory.notes["passed"] is True
    assert (trajectory.rollout, trajectory.policy) == (2, "some-model_2")
    assert [spec.name for spec in task.tools] == ["get_weather"]


def test_rows_that_never_ran_are_skipped_and_told(tmp_path: Path) -> None:
    """Some rows are null, some hold null where messages belong."""
    unfinished = {**samples.toolathlon(), "messages": None}
    found, skipped = read_rows(TOOLATHLON, tmp_path, None, samples.toolathlon(), unfinished)

    assert len(found) == 1
    assert [(each.where[-7:], each.field) for each in skipped] == [
        ("jsonl:1", ""),
        ("jsonl:3", "messages"),
    ]
