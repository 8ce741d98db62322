"""ShareGPT as LLaMA-Factory has it: order, tags, several calls in one entry."""

from __future__ import annotations

import json
from pathlib import Path

from cacherl.formats.sharegpt import SHAREGPT
from tests.formats import samples
from tests.formats.reading import made, read_one, skipped_of, texts
from tests.formats.samples import BERGEN, OSLO


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
