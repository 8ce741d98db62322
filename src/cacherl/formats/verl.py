"""verl's Parquet files: tasks for its agent loops, conversations for its multi-turn SFT.

Everything whose keys differ from row to row is JSON text (see `trl`): arguments, tools, later user turns.
`tools_kwargs` must be an object; every row names every tool of the file there, so that no row has a null.

Source: verl 0.9.1, `utils/dataset/rl_dataset.py`, `utils/dataset/multiturn_sft_dataset.py`,
`experimental/agent_loop/tool_agent_loop.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from cacherl.core.records import JsonObject
from cacherl.core.tasks import Task
from cacherl.formats.format import Target
from cacherl.formats.prompts import ground_truth, opening
from cacherl.formats.trl import (
    messages_type,
    prompt_type,
    pyarrow_module,
    template_message,
    text_type,
    tools_text,
    trl_row,
)


def verl_row(task: Task, place: int, tools: Sequence[str]) -> JsonObject:
    """Return a task as verl's `RLHFDataset` reads it."""
    extra: JsonObject = {
        "split": task.split.value,
        "index": place,
        "task_id": task.id,
        "namespace": task.namespace,
        "scenario": task.scenario,
        "language": task.language,
        "tools": tools_text(task),
        "user_turns": msgspec.json.encode(task.user_turns).decode(),
        "need_tools_kwargs": bool(tools),
    }
    if tools:
        extra["tools_kwargs"] = {name: {"create_kwargs": {"task_id": task.id}} for name in tools}
    return {
        "data_source": task.namespace,
        "prompt": [template_message(message) for message in opening(task)],
        "ability": task.family,
        "reward_model": {"style": "rule", "ground_truth": ground_truth(task)},
        "extra_info": extra,
    }


def verl_schema(tools: Sequence[str]) -> Any:
    """Return the Arrow schema of tasks with these tools."""
    pa = pyarrow_module()
    text = text_type()
    extra = [
        *((name, text) for name in ("split", "task_id", "namespace", "scenario", "language")),
        ("index", pa.int64()),
        *((name, text) for name in ("tools", "user_turns")),
        ("need_tools_kwargs", pa.bool_()),
    ]
    if tools:  # an object without keys cannot be written
        kwargs = pa.struct([("create_kwargs", pa.struct([("task_id", text)]))])
        extra.append(("tools_kwargs", pa.struct([(name, kwargs) for name in tools])))
    return pa.schema(
        [
            ("data_source", text),
            ("prompt", prompt_type()),
            ("ability", text),
            ("reward_model", pa.struct([("style", text), ("ground_truth", text)])),
            ("extra_info", pa.struct(extra)),
        ]
    )


def _sft_schema(_: Sequence[str]) -> Any:
    columns = [("messages", messages_type()), ("tools", text_type()), ("task_id", text_type())]
    return pyarrow_module().schema(columns)


VERL_FILE = Target(
    name="verl",
    title="verl tasks, for GRPO and other agent loops",
    prompt=verl_row,
    schema=verl_schema,
    lines=False,
    advice="reward_model.ground_truth, extra_info.tools and extra_info.user_turns are JSON text.",
)
VERL_SFT_FILE = Target(
    name="verl-sft",
    title="verl multi-turn SFT: messages and tools",
    row=trl_row,
    schema=_sft_schema,
    lines=False,
    advice="tools are JSON text, which verl 0.9 hands to the template unread: set "
    "data.custom_cls.path=pkg://cacherl.adapters.verl_sft data.custom_cls.name=ToolsAsTextDataset. It renders "
    "turn by turn, so look at a decoded row before training: Qwen3's templates may drop thinking there, and parallel "
    "results become turns of their own.",
)
