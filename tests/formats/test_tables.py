"""Files through the libraries that trainers read them with, to the ids that are trained on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from cacherl.core.messages import AssistantMessage, ToolCall, ToolMessage, UserMessage
from cacherl.core.tasks import Task
from cacherl.core.tools import ToolSpec
from cacherl.exports import ExportOptions, export_folder
from cacherl.formats.conversation import Conversation
from cacherl.render import ChatCodec, Template
from tests.formats.conversations import answered, conversations, kept, task_of

BASE = Path(__file__).parents[2] / "models" / "tiny-base"
OPENING = "<|im_start|>assistant\n<think>\n"
pytest.importorskip("transformers")
datasets = pytest.importorskip("datasets")
pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(scope="module")
def codec() -> ChatCodec:
    from cacherl.adapters.transformers_engine import load_tokenizer

    return ChatCodec(load_tokenizer(BASE), Template.QWEN3_THINKING_2507)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(BASE)


def renamed(pairs: Sequence[Conversation]) -> list[Conversation]:
    """Return the conversations with a task each."""
    return [
        (
            msgspec.structs.replace(task, id=f"t{place}"),
            msgspec.structs.replace(trajectory, task_id=f"t{place}"),
        )
        for place, (task, trajectory) in enumerate(pairs)
    ]


def by_pyarrow(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def by_datasets(path: Path) -> list[dict[str, Any]]:
    kind = "parquet" if path.suffix == ".parquet" else "json"
    cache = path.parent / "datasets"
    loaded = datasets.load_dataset(kind, data_files=str(path), cache_dir=str(cache), split="train")
    return list(loaded)


FILES: list[tuple[str, str, Callable[[Path], list[dict[str, Any]]]]] = [
    ("trl", "t.parquet", by_pyarrow),
    ("trl", "t.parquet", by_datasets),
    ("trl", "t.jsonl", by_datasets),
    ("verl-sft", "t.parquet", by_pyarrow),
]


@pytest.mark.parametrize(
    ("name", "file", "read"), FILES, ids=lambda value: getattr(value, "__name__", value)
)
@settings(
    phases=[Phase.generate],
    max_examples=4,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(pairs=st.lists(conversations(thinks=True, user_turns=2), min_size=2, max_size=4))
def test_a_template_renders_the_file_to_the_ids_of_our_own_rendering(
    name: str,
    file: str,
    read: Callable[[Path], list[dict[str, Any]]],
    pairs: list[Conversation],
    tmp_path: Path,
    tokenizer: Any,
    codec: ChatCodec,
) -> None:
    """Calls with different arguments lie in one Arrow column, and no key of one gets into another."""
    shutil.rmtree(tmp_path / "f", ignore_errors=True)
    pairs = renamed(pairs)
    folder = kept(tmp_path / "f", *pairs)
    export_folder(folder, folder / file, ExportOptions(format_name=name))

    rows = read(folder / file)

    assert [row["task_id"] for row in rows] == [task.id for task, _ in pairs]
    for row, (task, trajectory) in zip(rows, pairs, strict=True):
        ids = tokenizer.apply_chat_template(
            row["messages"], tools=json.loads(row["tools"]), return_dict=False
        )
        text = codec.prompt_text(task.tools, trajectory.messages).removesuffix(OPENING)
        assert ids == tokenizer.encode(text)


def lookups(task: Task, *arguments: dict[str, Any]) -> Conversation:
    """Return a conversation that calls the first tool with each of these arguments."""
    calls = tuple(
        ToolCall(id=f"c{place}", name=task.tools[0].name, arguments=each)
        for place, each in enumerate(arguments)
    )
    messages = (
        UserMessage(content="?"),
        AssistantMessage(thinking="Look.", calls=calls),
        *(ToolMessage(call_id=each.id, name=each.name, content="1") for each in calls),
        AssistantMessage(thinking="Say.", content="Done."),
    )
    return task, msgspec.structs.replace(answered(task), messages=messages)


@pytest.mark.parametrize(
    ("name", "file", "read"), FILES, ids=lambda value: getattr(value, "__name__", value)
)
def test_calls_with_clashing_arguments_come_back_as_they_were(
    name: str, file: str, read: Callable[[Path], list[dict[str, Any]]], tmp_path: Path
) -> None:
    """The trap itself: as objects, `{"city": "Oslo"}` would come back as `{"city": "Oslo", "n": null}`,
    and a number beside a list under one key would not be written at all."""
    said: list[dict[str, Any]] = [
        {"city": "Oslo"},
        {"n": 1},
        {"n": [1, 2], "city": None},
        {},
        {"n": {"n": {"city": "2024-05-15"}}},
    ]
    other = ToolSpec(name="other", description="", parameters={"type": "object", "properties": {}})
    pairs = [
        lookups(task_of(name="a"), *said[:2]),
        lookups(task_of(name="b", tools=(other,)), *said[2:]),
    ]
    folder = kept(tmp_path, *pairs)
    export_folder(folder, folder / file, ExportOptions(format_name=name))

    rows = read(folder / file)

    texts = [
        call["function"]["arguments"]
        for row in rows
        for message in row["messages"]
        for call in message.get("tool_calls") or ()
    ]
    assert [json.loads(text) for text in texts] == said
    tools = [json.loads(row["tools"]) for row in rows]
    assert [[tool["function"]["name"] for tool in each] for each in tools] == [
        ["weather", "order-get.v2"],
        ["other"],
    ]
    assert tools[1][0]["function"]["parameters"] == other.parameters


def test_tasks_for_verl_have_what_its_loops_look_up(tmp_path: Path) -> None:
    """verl asks every row for the arguments of every tool; a null there is a crash in the rollout."""
    other = ToolSpec(name="other", description="", parameters={"type": "object", "properties": {}})
    tasks = [
        task_of(name="a", gold="x"),
        task_of(name="b", tools=(other,)),
        task_of(name="c", tools=()),
    ]
    folder = kept(tmp_path, *((task, answered(task)) for task in tasks))
    export_folder(folder, folder / "v.parquet", ExportOptions(format_name="verl"))

    for rows in (by_pyarrow(folder / "v.parquet"), by_datasets(folder / "v.parquet")):
        assert [row["extra_info"]["index"] for row in rows] == [0, 1, 2]
        assert rows[0]["prompt"] == [{"role": "user", "content": "?"}]
        assert rows[0]["reward_model"]["style"] == "rule"
        assert json.loads(rows[0]["reward_model"]["ground_truth"])["calls"][0]["name"] == "weather"
        assert rows[1]["reward_model"]["ground_truth"] == ""
        for row, task in zip(rows, tasks, strict=True):
            kwargs = row["extra_info"]["tools_kwargs"]
            assert kwargs.keys() == {"weather", "order-get.v2", "other"}
            assert all(each["create_kwargs"] == {"task_id": task.id} for each in kwargs.values())
            names = [tool["function"]["name"] for tool in json.loads(row["extra_info"]["tools"])]
            assert names == [spec.name for spec in task.tools]


def test_tasks_without_any_tool_can_be_written(tmp_path: Path) -> None:
    """Parquet has no object without keys."""
    task = task_of(tools=())
    folder = kept(tmp_path, (task, answered(task)))

    export_folder(folder, folder / "v.parquet", ExportOptions(format_name="verl"))

    (row,) = by_pyarrow(folder / "v.parquet")
    assert "tools_kwargs" not in row["extra_info"]
    assert row["extra_info"]["need_tools_kwargs"] is False


@pytest.mark.parametrize(
    ("name", "file"), [("trl", "t.parquet"), ("trl", "t.jsonl"), ("trl-completion", "t.parquet")]
)
def test_trl_prepares_the_ids_and_labels_that_our_own_training_has(
    name: str, file: str, tmp_path: Path
) -> None:
    """The installed TRL, from the file to what its loss falls on: the model's turns and nothing else."""
    trl = pytest.importorskip("trl")
    from transformers import AutoTokenizer

    from cacherl.adapters.transformers_engine import load_tokenizer

    tokenizer = AutoTokenizer.from_pretrained(BASE)
    # TRL masks only templates that it knows byte for byte; Thinking-2507 is none of them.
    templates = Path(trl.__file__).parent / "chat_templates"
    tokenizer.chat_template = (templates / "qwen3.jinja").read_text()
    pairs = [
        lookups(task_of(name="a"), {"city": "Oslo"}, {"n": 1}),
        lookups(task_of(name="b"), {"city": None, "x": [1, {"y": "é"}]}),
    ]
    folder = kept(tmp_path, *pairs)
    export_folder(folder, folder / file, ExportOptions(format_name=name))
    loaded = datasets.load_dataset(
        "parquet" if file.endswith(".parquet") else "json",
        data_files=str(folder / file),
        cache_dir=str(tmp_path / "datasets"),
        split="train",
    )
    config = trl.SFTConfig(
        output_dir=str(tmp_path / "out"),
        assistant_only_loss=True,
        max_length=None,
        report_to=[],
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=None,
    )

    trainer = trl.SFTTrainer(
        model=str(BASE), args=config, train_dataset=loaded, processing_class=tokenizer
    )

    ours = ChatCodec(load_tokenizer(BASE), Template.QWEN3)
    for row, (task, trajectory) in zip(trainer.train_dataset, pairs, strict=True):
        (segment,) = ours.training_segments(task.tools, trajectory.messages)
        ids = [*segment.prompt_ids, *segment.completion_ids]
        mask = [0] * len(segment.prompt_ids) + list(segment.mask)
        assert row["input_ids"][: len(ids)] == ids
        trained = [i for i, label in enumerate(row["labels"][: len(ids)]) if label != -100]
        written = [i for i, mine in enumerate(mask) if mine]
        # TRL's template counts the newline after a turn as the model's; no model ever writes it.
        newlines = {i for i in trained if ids[i - 1] == ours.end_id}
        assert [i for i in trained if i not in newlines] == written
