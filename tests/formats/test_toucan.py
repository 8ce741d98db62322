"""Toucan: Qwen-Agent messages inside texts, and prefixes of servers."""

from __future__ import annotations

import json
from pathlib import Path

from cacherl.core.messages import AssistantMessage
from cacherl.core.tools import UNDECLARED
from cacherl.core.trajectories import StopReason
from cacherl.formats.toucan import TOUCAN
from tests.formats import samples
from tests.formats.reading import made, read_one, texts
from tests.formats.samples import BERGEN, OSLO


def test_toucans_parallel_calls_are_one_turn(tmp_path: Path) -> None:
    """Qwen-Agent writes a message for each; their results come after all of them."""
    task, trajectory = read_one(TOUCAN, tmp_path, samples.toucan())
    turns = [m for m in trajectory.messages if isinstance(m, AssistantMessage)]

    assert [len(turn.calls) for turn in turns] == [2, 0]
    assert turns[0].thinking == "Two cities, two calls."
    assert texts(trajectory) == ["sun", "rain"]
    assert (task.id, task.family, task.system) == (
        "ns-u-1",
        "single-turn-original",
        "Use the tools.",
    )
    assert trajectory.stop is StopReason.ANSWER


def test_toucans_tools_get_the_prefix_of_their_calls(tmp_path: Path) -> None:
    """Metadata declares `get_weather`, messages call `weather-get_weather`."""
    task, _ = read_one(TOUCAN, tmp_path, samples.toucan())

    (spec,) = task.tools
    assert spec.name == "weather-get_weather"
    assert spec.parameters == samples.WEATHER["parameters"]
    assert spec.effects == UNDECLARED

    row = samples.toucan()
    row["messages"] = row["messages"].replace("weather-get_weather", "get_weather")  # as in OSS
    task, _ = read_one(TOUCAN, tmp_path, row)
    assert [spec.name for spec in task.tools] == ["get_weather"]


def test_a_prefix_is_that_of_the_server_that_has_it(tmp_path: Path) -> None:
    """Two servers offer a tool of one name; the call says whose it is."""
    row = samples.toucan()
    metadata = json.loads(row["metadata"])
    other = {"tools": [{"name": "get_weather", "description": "other"}]}
    metadata["mcp_servers"].insert(0, {"server_name": "Maps", "remote_server_response": other})
    row["metadata"] = json.dumps(metadata)
    task, _ = read_one(TOUCAN, tmp_path, row)

    described = {spec.name: spec.description for spec in task.tools}
    assert described["weather-get_weather"] == "Weather of a city."


def test_toucans_scores_and_licence_travel(tmp_path: Path) -> None:
    """Selection wants the judges' numbers, a data card the licence."""
    _, trajectory = read_one(TOUCAN, tmp_path, samples.toucan())

    assert trajectory.notes["scores"] == {
        "question_realism": 4,
        "response_overall_score": 4.5,
        "response_completeness": 5,
    }
    assert trajectory.notes["licence"] == TOUCAN.licence == "Apache-2.0"


def test_toucans_sft_roles(tmp_path: Path) -> None:
    """Their converter writes `tool_call` and `tool_response`, the calls as texts."""
    row = samples.toucan()
    row["messages"] = json.dumps(
        [
            {"role": "user", "content": "Oslo and Bergen?"},
            {
                "role": "tool_call",
                "content": "{'name': 'get_weather', 'arguments': {'city': 'Oslo'}}",
            },
            {
                "role": "tool_call",
                "content": json.dumps({"name": "get_weather", "arguments": '{"city": "Bergen"}'}),
            },
            {"role": "tool_response", "content": "sun"},
            {"role": "tool_response", "content": "rain"},
            {"role": "assistant", "content": "Sun, rain."},
        ]
    )
    row["available_tools"] = json.dumps([samples.function(samples.WEATHER)])
    task, trajectory = read_one(TOUCAN, tmp_path, row)

    assert made(trajectory) == [OSLO, BERGEN]
    assert texts(trajectory) == ["sun", "rain"]
    assert [spec.name for spec in task.tools] == ["get_weather"]
