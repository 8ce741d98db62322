"""TRL's conversational files: what `SFTTrainer` and `GRPOTrainer` load with `datasets`.

Arguments of calls and lists of tools are JSON text. Arrow gives every row of a struct column all keys of
all rows, so as objects two calls with different arguments would come back with each other's as nulls, and
the model would learn to write them. Text that looks like the template's own tokens is made harmless, as our
own rendering does: TRL's tokenizer would take a tool's `<|im_end|>` for the end of a turn.

Source: trl 1.16, `trainer/sft_trainer.py` (`tools` as text is parsed there), docs/source/dataset_formats.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from cacherl.core.errors import MissingExtraError
from cacherl.core.messages import (
    AssistantMessage,
    Message,
    SystemMessage,
    ToolMessage,
    UserMessage,
)
from cacherl.core.records import JsonObject
from cacherl.core.tasks import Task
from cacherl.core.trajectories import Trajectory
from cacherl.formats.format import Target
from cacherl.formats.openai_messages import openai_message, sayable
from cacherl.formats.prompts import ground_truth, opening
from cacherl.render import defuse, tool_json

_TOKENS = re.compile(
    r"<(?=\|im_start\|>|\|im_end\|>|\|endoftext\|>|/?think>|/?tool_call>|/?tool_response>)"
)
"""As `defuse` has them; `tests/formats/test_tables.py` compares the ids."""


def template_message(message: Message) -> JsonObject:
    """Return a message as chat templates read it: content is always text, and holds no tokens of theirs."""
    said = openai_message(message)
    match message:
        case SystemMessage():
            pass  # written by whoever made the data, as our own rendering has it
        case UserMessage() | ToolMessage():
            said["content"] = defuse(message.content)
        case AssistantMessage():
            said["content"] = defuse(message.content)
            if message.thinking is not None:
                said["reasoning_content"] = defuse(message.thinking)
            for call in said.get("tool_calls", ()):
                # JSON has another spelling for `<`: nothing is lost.
                function = call["function"]
                function["arguments"] = _TOKENS.sub(r"\\u003c", function["arguments"])
    return said


def tools_text(task: Task) -> str:
    """Return the task's tools as the JSON text of their list, byte for byte as our own prompts show them."""
    return "[" + ", ".join(tool_json(spec) for spec in task.tools) + "]"


def trl_row(task: Task, trajectory: Trajectory) -> JsonObject:
    """Return a conversation as `messages` and `tools`.

    Raises:
        Unwritable: see `sayable`.
    """
    messages = [template_message(message) for message in sayable(trajectory)]
    return {"messages": messages, "tools": tools_text(task), "task_id": task.id}


def trl_completion_row(task: Task, trajectory: Trajectory) -> JsonObject:
    """Return a conversation as what came before the model's first turn, and all from there on.

    Raises:
        Unwritable: see `sayable`.
    """
    messages = sayable(trajectory)
    first = next(i for i, m in enumerate(messages) if isinstance(m, AssistantMessage))
    said = [template_message(message) for message in messages]
    return {
        "prompt": said[:first],
        "completion": said[first:],
        "tools": tools_text(task),
        "task_id": task.id,
    }


def trl_prompt_row(task: Task, place: int, tools: Sequence[str]) -> JsonObject:
    """Return a task to be solved: what is said to the model, and beside it what rewards need."""
    return {
        "prompt": [template_message(message) for message in opening(task)],
        "tools": tools_text(task),
        "task_id": task.id,
        "ground_truth": ground_truth(task),
    }


# ---- Arrow -----------------------------------------------------------------------------------


def messages_type() -> Any:
    """Return the Arrow type of a list of messages."""
    pa = pyarrow_module()
    text = pa.string()
    function = pa.struct([("name", text), ("arguments", text)])
    call = pa.struct([("id", text), ("type", text), ("function", function)])
    return pa.list_(
        pa.struct(
            [
                ("role", text),
                ("content", text),
                ("reasoning_content", text),
                ("tool_calls", pa.list_(call)),
                ("tool_call_id", text),
                ("name", text),
            ]
        )
    )


def prompt_type() -> Any:
    """Return the Arrow type of a prompt: no calls in it, so no nulls either."""
    pa = pyarrow_module()
    return pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


def text_type() -> Any:
    """Return the Arrow type of text."""
    return pyarrow_module().string()


def pyarrow_module() -> Any:
    """Return pyarrow.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise MissingExtraError("pyarrow", "parquet") from error
    return pyarrow


def _schema(**columns: Any) -> Any:
    pa = pyarrow_module()
    return pa.schema([*columns.items(), ("tools", pa.string()), ("task_id", pa.string())])


_ADVICE = (
    "arguments and tools are JSON text; templates of Qwen print it as it is, those that write arguments "
    "with `tojson` (Llama, Mistral) would quote it twice."
)
TRL_FILE = Target(
    name="trl",
    title="TRL conversational, for SFTTrainer: messages and tools",
    row=trl_row,
    schema=lambda _: _schema(messages=messages_type()),
    advice=_ADVICE,
)
TRL_COMPLETION_FILE = Target(
    name="trl-completion",
    title="TRL prompt and completion, for SFTTrainer with completion_only_loss",
    row=trl_completion_row,
    schema=lambda _: _schema(prompt=messages_type(), completion=messages_type()),
    advice=_ADVICE,
)
TRL_PROMPT_FILE = Target(
    name="trl-prompt",
    title="TRL prompts only, for GRPOTrainer",
    prompt=trl_prompt_row,
    schema=lambda _: _schema(prompt=prompt_type(), ground_truth=text_type()),
    advice="ground_truth reaches the reward functions as a column and is no part of the prompt.",
)
