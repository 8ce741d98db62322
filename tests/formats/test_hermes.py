"""Hermes: calls between tags, in either quotes."""

from __future__ import annotations

from pathlib import Path

from cacherl.core.messages import AssistantMessage
from cacherl.formats.hermes import HERMES
from tests.formats import samples
from tests.formats.reading import made, read_one, texts
from tests.formats.samples import BERGEN, OSLO


def test_hermes_calls_in_either_quotes(tmp_path: Path) -> None:
    """JSON and Python's way of it, two responses in one entry, a scratch pad."""
    task, trajectory = read_one(HERMES, tmp_path, samples.hermes())

    assert made(trajectory) == [OSLO, BERGEN]
    assert texts(trajectory) == ['{"sky": "sun"}', "rain"]
    assert [m.thinking for m in trajectory.messages if isinstance(m, AssistantMessage)] == [
        "two calls",
        None,
    ]
    assert (task.family, task.system) == ("Weather", "")
    assert trajectory.notes["subcategory"] == "Cities"


def test_hermes_tools_may_stand_in_the_prompt_only(tmp_path: Path) -> None:
    """Some configurations have no `tools` column."""
    row = samples.hermes()
    del row["tools"]
    task, _ = read_one(HERMES, tmp_path, row)

    assert [spec.name for spec in task.tools] == ["get_weather"]
