"""Glaive: a whole conversation in one text."""

from __future__ import annotations

import json
from pathlib import Path

from cacherl.core.tools import ErrorClass
from cacherl.formats.glaive import GLAIVE
from tests.formats import samples
from tests.formats.reading import made, read_one, said, skipped_of
from tests.formats.samples import OSLO


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
