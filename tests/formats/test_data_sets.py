"""Public data sets of tool calls: what a row of each says, and the traps on the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cacherl.core.messages import AssistantMessage, MalformedCall
from cacherl.core.tools import UNDECLARED, ErrorClass
from cacherl.core.trajectories import StopReason
from cacherl.formats.apigen import APIGEN_MT
from cacherl.formats.glaive import GLAIVE
from cacherl.formats.hermes import HERMES
from cacherl.formats.sharegpt import SHAREGPT
from cacherl.formats.toolace import TOOLACE
from cacherl.formats.toolathlon import TOOLATHLON
from cacherl.formats.toucan import TOUCAN
from cacherl.formats.xlam import XLAM
from tests.formats import samples
from tests.formats.reading import calls_of, made, read, read_one, read_rows, said, skipped_of

OSLO = ("get_weather", {"city": "Oslo"})
BERGEN = ("get_weather", {"city": "Bergen"})


def texts(trajectory: Any) -> list[str]:
    return [result.text for result in trajectory.results]


# ---- Toucan


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


# ---- Toolathlon


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


# ---- APIGen-MT, xLAM


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


def test_xlams_answers_are_calls_and_gold(tmp_path: Path) -> None:
    """Nothing was executed: there is nothing to replay, and much to compare with."""
    task, trajectory = read_one(XLAM, tmp_path, samples.xlam())

    assert made(trajectory) == [OSLO, ("get_weather", {"city": "Bergen", "days": 1})]
    assert task.gold is not None
    assert [call.arguments for call in task.gold.calls] == [
        {"city": "Oslo"},
        {"city": "Bergen", "days": 1},
    ]
    assert task.tools[0].parameters["required"] == ["city"]
    assert {result.error_class for result in trajectory.results} == {ErrorClass.TRANSIENT}
    assert task.id == "ns-7"


# ---- ToolACE


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


# ---- Hermes


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


# ---- Glaive


def test_glaives_one_text_becomes_turns(tmp_path: Path) -> None:
    """An apostrophe inside single quotes, end marks, a label inside a turn, functions in a row."""
    task, trajectory = read_one(GLAIVE, tmp_path, samples.glaive())

    assert made(trajectory) == [("get_weather", {"city": "O'Hara"})]
    assert said(trajectory) == [
        ("user", "Weather at O'Hara's?"),
        ("assistant", ""),
        ("tool", '{"sky": "sun"}'),
        ("assistant", "Sun.\nUSER: is a label here."),
        ("user", "Thanks!"),
        ("assistant", "Welcome."),
    ]
    assert [spec.name for spec in task.tools] == ["get_weather", "send_mail"]
    assert trajectory.notes["licence"] == "Apache-2.0"


def test_glaives_first_version_has_one_column(tmp_path: Path) -> None:
    """Another licence too."""
    sample = (
        "SYSTEM: You are an helpful assistant who has access to the following functions:\n"
        f"{json.dumps(samples.WEATHER)}\n\nUSER: Oslo?\nASSISTANT: <functioncall> "
        """{"name": "get_weather", "arguments": '{"city": "Oslo"}'}\n"""
        'FUNCTION RESPONSE: {"error": "no such city"}\nASSISTANT: Unknown.'
    )
    _, trajectory = read_one(GLAIVE, tmp_path, {"sample": sample})

    assert made(trajectory) == [OSLO]
    assert trajectory.results[0].error_class is ErrorClass.NOT_FOUND
    assert trajectory.notes["licence"] == "CC-BY-4.0"


def test_a_plain_glaive_prompt_stays(tmp_path: Path) -> None:
    """Without functions there is no call syntax to take out."""
    row = {
        "system": "SYSTEM: You are a helpful assistant, with no access to external functions.",
        "chat": "USER: Hi\n\n\nASSISTANT: Hello. <|endoftext|>",
    }
    task, _ = read_one(GLAIVE, tmp_path, row)

    assert task.system == "You are a helpful assistant, with no access to external functions."
    assert task.tools == ()
    assert skipped_of(GLAIVE, tmp_path, {**row, "chat": "Hi"}).field == "chat"


# ---- ShareGPT


def test_several_calls_in_one_entry_share_an_observation(tmp_path: Path) -> None:
    """A list of answers, one a call."""
    task, trajectory = read_one(SHAREGPT, tmp_path, samples.sharegpt())

    assert made(trajectory) == [OSLO, BERGEN]
    assert texts(trajectory) == ["sun", '{"sky": "rain"}']
    assert "unshared" not in trajectory.notes
    assert task.system == "Be brief."


def test_an_observation_that_cannot_be_shared_is_noted(tmp_path: Path) -> None:
    """Two calls, one text."""
    row = samples.sharegpt()
    row["conversations"][2]["value"] = "sun and rain"
    _, trajectory = read_one(SHAREGPT, tmp_path, row)

    assert texts(trajectory) == ["sun and rain", ""]
    assert trajectory.notes["unshared"] == 1


def test_roles_that_do_not_alternate_are_told(tmp_path: Path) -> None:
    """LLaMA-Factory skips such a row in silence."""
    row = samples.sharegpt()
    row["conversations"].insert(1, {"from": "human", "value": "And Bergen?"})
    skipped = skipped_of(SHAREGPT, tmp_path, row)

    assert skipped.field == "conversations[1].from"
    assert "roles alternate" in skipped.problem


def test_tags_may_be_named_otherwise(tmp_path: Path) -> None:
    """`dataset_info.json` beside the file says how."""
    row = {
        "messages": [
            {"role": "user", "content": "Oslo?"},
            {
                "role": "call",
                "content": json.dumps({"name": "get_weather", "arguments": {"city": "Oslo"}}),
            },
            {"role": "observation", "content": "sun"},
            {"role": "assistant", "content": "Sun."},
        ]
    }
    info = {
        "mine": {
            "file_name": "rows.jsonl",
            "formatting": "sharegpt",
            "columns": {"messages": "messages"},
            "tags": {
                "role_tag": "role",
                "content_tag": "content",
                "user_tag": "user",
                "assistant_tag": "assistant",
                "function_tag": "call",
            },
        }
    }
    (tmp_path / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    _, trajectory = read_one(SHAREGPT, tmp_path, row)

    assert made(trajectory) == [OSLO]


# ---- what all of them may hold


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
