"""verl's own SFT dataset on a file of ours. Runs where verl is installed, apart from TRL's environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cacherl.core.messages import AssistantMessage, ToolCall, ToolMessage, UserMessage
from cacherl.exports import ExportOptions, export_folder
from cacherl.render import tool_json
from tests.formats.conversations import answered, kept, task_of

pytest.importorskip("verl")
BASE = Path(__file__).parents[2] / "models" / "tiny-base"


def test_verl_shows_the_tools_and_the_calls_as_they_were(tmp_path: Path) -> None:
    """Its stock dataset would hand the text of the tools to the template, which refuses it."""
    import msgspec
    from transformers import AutoTokenizer

    from cacherl.adapters.verl_sft import ToolsAsTextDataset

    task = task_of(system="Be brief.")
    calls = (ToolCall(id="1", name="weather", arguments={"city": None, "x": [1, {"y": "é"}]}),)
    messages = (
        UserMessage(content="?"),
        AssistantMessage(calls=calls),
        ToolMessage(call_id="1", name="weather", content="rain"),
        AssistantMessage(content="Done."),
    )
    conversation = msgspec.structs.replace(answered(task), messages=messages)
    folder = kept(tmp_path, (task, conversation))
    export_folder(folder, folder / "t.parquet", ExportOptions(format_name="verl-sft"))
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    options: dict[str, Any] = {
        "pad_mode": "no_padding",
        "ignore_input_ids_mismatch": True,
        "max_length": 4096,
    }

    rows = ToolsAsTextDataset([str(folder / "t.parquet")], tokenizer, options)

    text = tokenizer.decode(rows[0]["input_ids"])
    assert all(tool_json(spec) in text for spec in task.tools)
    assert '{"name": "weather", "arguments": {"city": null, "x": [1, {"y": "é"}]}}' in text
