"""A person's file of tasks: little to write, and the same tasks every time."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacherl.core.errors import DataError
from cacherl.core.jsonl import write_jsonl
from cacherl.core.tasks import AnswerRule, Gold, GoldCall, Split, Task
from cacherl.core.tools import ToolSpec
from cacherl.toolbox.written_tasks import SYSTEM, read_tasks, split_of

TAKES = {
    "type": "object",
    "properties": {"order_id": {"type": "string"}},
    "required": ["order_id"],
}
TOOLS = tuple(
    ToolSpec(name=name, description=name, parameters=TAKES)
    for name in ("get_order", "cancel_order")
)


def read(path: Path, text: str | None = None, **settings: Any) -> list[Task]:
    if text is not None:
        path.write_text(text, encoding="utf-8")
    return read_tasks(path, namespace="shop", tools=TOOLS, **settings)


def test_one_sentence_is_a_task(tmp_path: Path) -> None:
    """The least a person can write."""
    (task,) = read(tmp_path / "tasks.jsonl", '{"task": "Where is order A-17?"}\n')

    assert task.user_turns == ("Where is order A-17?",)
    assert task.tools == TOOLS
    assert task.system == SYSTEM
    assert (task.namespace, task.scenario, task.language) == ("shop", "", "und")
    assert task.id.startswith("shop-")
    assert task.gold is None


def test_a_line_can_say_everything(tmp_path: Path) -> None:
    """And what it expects becomes gold."""
    line = {
        "user": ["Cancel my order.", "It is A-17."],
        "id": "one",
        "system": "Be brief.",
        "tools": ["cancel_order"],
        "scenario": "s1",
        "split": "test",
        "family": "cancel",
        "language": "en",
        "expect": {
            "answer": {"must": ["cancelled", ["12 euros", "€12"]], "must_not": ["sorry"]},
            "calls": [
                {"name": "get_order", "arguments": {"order_id": "A-17"}},
                {"name": "cancel_order", "arguments": {"order_id": "A-17"}},
            ],
        },
    }
    (task,) = read(tmp_path / "tasks.jsonl", json.dumps(line))

    assert task == Task(
        id="one",
        split=Split.TEST,
        family="cancel",
        language="en",
        wording="written",
        scenario="s1",
        namespace="shop",
        system="Be brief.",
        user_turns=("Cancel my order.", "It is A-17."),
        tools=TOOLS[1:],
        gold=Gold(
            calls=(
                GoldCall(name="get_order", arguments={"order_id": "A-17"}, step=0),
                GoldCall(name="cancel_order", arguments={"order_id": "A-17"}, step=1),
            ),
            answer=AnswerRule(must=(("cancelled",), ("12 euros", "€12")), must_not=("sorry",)),
            state="",
        ),
    )


def test_an_answer_alone_can_be_expected(tmp_path: Path) -> None:
    """Most people know what the answer should say, and not which calls lead there."""
    (task, none) = read(
        tmp_path / "tasks.jsonl",
        '{"task": "a", "expect": {"answer": "42"}}\n{"task": "b", "expect": {}}\n',
    )

    assert task.gold == Gold(calls=None, answer=AnswerRule(must=(("42",),)), state="")
    assert none.gold is None


def test_what_cacherl_wrote_can_be_read_back(tmp_path: Path) -> None:
    """Recorded tasks are tasks."""
    path = tmp_path / "tasks.jsonl"
    first = read(path, '{"task": "a"}\n{"prompt": "b"}\n')
    write_jsonl(path, first)
    assert read(path) == first
    bare = msgspec.structs.replace(first[0], tools=())
    write_jsonl(path, [bare])
    assert read(path) == first[:1]


def test_text_files_and_tables_hold_tasks_too(tmp_path: Path) -> None:
    """Not everybody writes JSON."""
    lines = read(tmp_path / "a.txt", "\ufeffWhere is A-17?\r\n\r\n  Cancel A-17. \n")
    table = read(
        tmp_path / "b.csv",
        'task,tools,split,answer\n"Where, by the way,\nis A-17?",get_order cancel_order,dev,shipped\nCancel,,,\n',
    )
    german = read(tmp_path / "c.csv", "prompt;family\nWo, bitte, ist A-17?;status\n")

    assert [task.user_turns[0] for task in lines] == ["Where is A-17?", "Cancel A-17."]
    assert table[0].user_turns == ("Where, by the way,\nis A-17?",)
    assert table[0].split is Split.DEV
    assert table[0].gold is not None
    assert table[0].gold.answer == AnswerRule(must=(("shipped",),))
    assert table[1].tools == TOOLS
    assert (german[0].user_turns[0], german[0].family) == ("Wo, bitte, ist A-17?", "status")


def test_settings_fill_in_what_a_line_leaves_out(tmp_path: Path) -> None:
    """One system prompt for all."""
    (task,) = read(
        tmp_path / "a.txt", "Bonjour", system="Sois bref.", scenario="/data", language="fr"
    )

    assert (task.system, task.scenario, task.language) == ("Sois bref.", "/data", "fr")


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1), unique=True))
def test_a_held_out_task_stays_held_out(texts: list[str]) -> None:
    """Adding, moving or reformatting lines must not move a task from test to train."""
    assert [split_of(text) for text in texts] == [split_of(f"  {text}\n") for text in texts]


def test_ids_and_splits_do_not_depend_on_the_rest_of_the_file(tmp_path: Path) -> None:
    """The same, through the file."""
    some = read(tmp_path / "a.txt", "one\ntwo\n")
    more = read(tmp_path / "b.txt", "zero\ntwo\nthree\none\n")

    assert {task.id: task.split for task in some}.items() <= {
        task.id: task.split for task in more
    }.items()
    spread = Counter(split_of(f"task {number}") for number in range(2_000))
    assert 1_500 < spread[Split.TRAIN] < 1_700
    assert 150 < spread[Split.DEV] < 250


def test_one_text_in_two_scenarios_is_two_tasks_of_one_split(tmp_path: Path) -> None:
    """Else the held-out one would have been seen."""
    lines = "".join(f'{{"task": "a", "scenario": "s{number}"}}\n' for number in range(20))
    tasks = read(tmp_path / "tasks.jsonl", lines)

    assert len({task.id for task in tasks}) == 20
    assert len({task.split for task in tasks}) == 1


@pytest.mark.parametrize(
    ("name", "text", "seen"),
    [
        ("a.jsonl", '{"task": "a"}\n{"tsak": "b"}', ":2: there is no field `tsak` (did you mean `task`"),
        ("a.jsonl", '{"id": "x"}', ':1: nothing says what the user wants; write {"task": "..."}'),
        ("a.jsonl", '{"task": "a", "prompt": "b"}', ":1: `task` and `prompt` both"),
        ("a.jsonl", '{"task": " "}', ":1: `task` is empty"),
        ("a.jsonl", '{"user": []}', ":1: `user` is empty"),
        ("a.jsonl", '{"task": 3}', ":1: field `task`: Expected `str | null`, got `int`"),
        ("a.jsonl", '{"task": "a", "split": "tets"}', ":1: field `split`: Invalid enum value 'tets'"),
        ("a.jsonl", '{"task": "a", "tools": ["get_ordr"]}', "`tools`: there is no tool 'get_ordr'"),
        (
            "a.jsonl",
            '{"task": "a", "expect": {"calls": [{"name": "x"}]}}',
            "`expect.calls`: there is no tool 'x'",
        ),
        ("a.jsonl", '{"task": "a", "expect": {"must": 1}}', "field `expect`"),
        (
            "a.jsonl",
            '{"task": "a"}\n{"task": "b", "expect": {"anwser": "42"}}',
            ":2: field `expect`: there is no `anwser` in it (did you mean `answer`?)",
        ),
        (
            "a.jsonl",
            '{"task": "a", "expect": {"calls": [{"name": "get_order", "args": {}}]}}',
            "field `expect.calls[0]`: there is no `args` in it (did you mean `arguments`?)",
        ),
        (
            "a.jsonl",
            '{"task": "a", "expect": {"calls": [{"name": "get_order", "arguments": {"oder_id": "A"}}]}}',
            "`expect.calls`: get_order does not take these arguments",
        ),
        (
            "a.jsonl",
            '{"task": "a", "expect": {"or_calls": [[{"name": "get_order", "arguments": {"order_id": 1}}]]}}',
            "1 is not of type 'string'",
        ),
        (
            "a.jsonl",
            '{"task": "a", "expect": {"state": [{"name": "get_order", "contains": 1}]}}',
            "`expect.state`: get_order does not take these arguments",
        ),
        ("a.jsonl", '{"task": "a"}\n{"task": "a "}', ":2: field `id`: "),
        ("a.jsonl", '{"task": "a"', ":1: not JSON"),
        ("a.jsonl", '["a"]', ":1: a list, not an object"),
        ("a.jsonl", "\n", "holds no tasks"),
        ("a.jsonl", '{"user_turns": ["a"]}', ":1: not a Task"),
        ("a.csv", "task,famly\na,b\n", ":1: there is no column `famly` (did you mean `family`"),
        ("a.csv", "task,family\na,b\nc,d,e\n", ":3: not as many cells"),
        ("a.csv", "task,split\na,b\n", ":2: field `split`"),
        ("a.yaml", "x", "is .jsonl, .txt or .csv"),
    ],
)  # fmt: skip
def test_a_mistake_names_the_line_the_field_and_the_fix(
    tmp_path: Path, name: str, text: str, seen: str
) -> None:
    """A few hundred lines by hand: one of them is wrong."""
    with pytest.raises(DataError) as wrong:
        read(tmp_path / name, text)

    assert str(wrong.value).startswith(str(tmp_path / name))
    assert seen in str(wrong.value)


def test_a_file_that_is_not_there_or_no_text_says_so(tmp_path: Path) -> None:
    """With what to write instead."""
    with pytest.raises(DataError, match=r"no such file.*task"):
        read(tmp_path / "none.jsonl")
    (tmp_path / "latin.txt").write_bytes(b"one\nGr\xfc\xdfe\n")
    with pytest.raises(DataError, match=r"latin.txt:2: not UTF-8"):
        read(tmp_path / "latin.txt")


def test_a_task_of_other_tools_is_refused(tmp_path: Path) -> None:
    """Results of two worlds must not mix."""
    path = tmp_path / "tasks.jsonl"
    (task,) = read(path, '{"task": "a"}')
    write_jsonl(path, [msgspec.structs.replace(task, namespace="office")])

    with pytest.raises(DataError, match="'office'"):
        read(path)
