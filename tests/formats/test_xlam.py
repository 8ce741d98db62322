"""xLAM: calls that nobody made, parameters in Python's words."""

from __future__ import annotations

from pathlib import Path

from cacherl.core.tools import ErrorClass
from cacherl.formats.xlam import XLAM
from tests.formats import samples
from tests.formats.reading import made, read_one
from tests.formats.samples import OSLO


def test_xlams_answers_are_calls_and_gold(tmp_path: Path) -> None:
    """Nothing was executed: there is nothing to replay, and much to compare with."""
    task, trajectory = read_one(XLAM, tmp_path, samples.xlam())

    assert made(trajectory) == [OSLO, ("get_weather", {"city": "Bergen", "days": 1})]
    assert task.gold is not None
    assert [call.arguments for call in task.gold.listed] == [
        {"city": "Oslo"},
        {"city": "Bergen", "days": 1},
    ]
    assert task.tools[0].parameters["required"] == ["city"]
    assert {result.error_class for result in trajectory.results} == {ErrorClass.TRANSIENT}
    assert task.id == "ns-7"
