"""APIGen-MT: reasoning that stands as a tool call."""

from __future__ import annotations

from pathlib import Path

from cacherl.core.messages import AssistantMessage
from cacherl.formats.apigen import APIGEN_MT
from tests.formats import samples
from tests.formats.reading import made, read_one
from tests.formats.samples import OSLO


def test_a_thought_is_the_thinking_of_the_turn_it_opens(tmp_path: Path) -> None:
    """The tool `think` does nothing; a model with thinking has a better place for it."""
    task, trajectory = read_one(APIGEN_MT, tmp_path, samples.apigen())
    turns = [m for m in trajectory.messages if isinstance(m, AssistantMessage)]

    assert made(trajectory) == [OSLO]
    assert turns[0].thinking == "One call will do."
    assert [spec.name for spec in task.tools] == ["get_weather"]
    assert trajectory.notes["thoughts"] == 1
    assert APIGEN_MT.licence == "CC-BY-NC-4.0"
    assert "CC-BY-NC-4.0" in APIGEN_MT.warning
