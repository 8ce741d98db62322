"""OpenAI messages as everybody writes them, and the two APIs that grew from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cacherl.core.messages import AssistantMessage, MalformedCall, SystemMessage
from cacherl.core.tasks import Split
from cacherl.core.tools import UNDECLARED, ErrorClass, Source, Tier
from cacherl.core.trajectories import StopReason, Trajectory
from cacherl.formats.anthropic_messages import ANTHROPIC
from cacherl.formats.format import Format, Reading
from cacherl.formats.openai_messages import OPENAI, TRL, read_openai
from cacherl.formats.openai_responses import RESPONSES
from cacherl.formats.rows import Row
from cacherl.formats.table import guess
from tests.formats.reading import calls_of, made, read, read_one, read_rows, said, skipped_of

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a place.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


def call(name: str, arguments: Any, number: str | None = "c1") -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"type": "function", "function": function} | ({} if number is None else {"id": number})


def asks(*calls: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(calls)} | more


def tells(content: Any, number: str | None = "c1", **more: Any) -> dict[str, Any]:
    told = {"role": "tool", "content": content} | more
    return told if number is None else told | {"tool_call_id": number}


USER = {"role": "user", "content": "Oslo?"}
DONE = {"role": "assistant", "content": "Rain."}


def chat(*messages: Any, **more: Any) -> dict[str, Any]:
    return {"messages": [USER, *messages], "tools": [WEATHER]} | more


def unchecked(row: Any) -> Trajectory:
    """Read a row whose conversation cannot be replayed to its end: a call of it was never answered."""
    ((_, trajectory),) = read_openai(Row("a:1", json.dumps(row).encode()), Reading(namespace="ns"))
    return trajectory


def turns(trajectory: Trajectory) -> list[AssistantMessage]:
    return [m for m in trajectory.messages if isinstance(m, AssistantMessage)]


# ---- the plain row


def test_a_row_becomes_a_task_and_a_trajectory(tmp_path: Path) -> None:
    """Everything later stages need, and where it came from."""
    row = chat(asks(call("weather", '{"city": "Oslo"}')), tells("rain"), DONE, id="r7", model="gpt")

    task, trajectory = read_one(OPENAI, tmp_path, row)

    assert (task.id, task.split, task.namespace) == ("ns-r7", Split.TRAIN, "ns")
    assert task.user_turns == ("Oslo?",)
    assert [spec.name for spec in task.tools] == ["weather"]
    assert task.tools[0].parameters == WEATHER["function"]["parameters"]  # type: ignore[index]
    assert said(trajectory) == [
        ("user", "Oslo?"),
        ("assistant", ""),
        ("tool", "rain"),
        ("assistant", "Rain."),
    ]
    assert made(trajectory) == [("weather", {"city": "Oslo"})]
    assert (trajectory.policy, trajectory.stop) == ("gpt", StopReason.ANSWER)
    assert trajectory.results[0].source is Source.IMPORTED
    assert trajectory.notes["from"] == f"{tmp_path / 'rows.jsonl'}:1"
    assert len(trajectory.notes["row"]) == 16


@pytest.mark.parametrize("arguments", ['{"city": "Oslo"}', {"city": "Oslo"}])
def test_arguments_are_text_or_an_object(tmp_path: Path, arguments: Any) -> None:
    """The API has text, templates have objects, files have both."""
    _, trajectory = read_one(OPENAI, tmp_path, chat(asks(call("weather", arguments)), tells("x")))

    assert made(trajectory) == [("weather", {"city": "Oslo"})]


@pytest.mark.parametrize("arguments", [None, "", "  ", "{}"])
def test_no_arguments_are_an_empty_object(tmp_path: Path, arguments: Any) -> None:
    """A tool without parameters is called in four ways."""
    _, trajectory = read_one(OPENAI, tmp_path, chat(asks(call("now", arguments)), tells("x")))

    assert made(trajectory) == [("now", {})]


@pytest.mark.parametrize("arguments", ['{"city"', "[1]", 5, '"Oslo"'])
def test_arguments_that_are_no_object_make_a_malformed_call(tmp_path: Path, arguments: Any) -> None:
    """The mistake is part of the conversation, and its result still finds it."""
    row = chat(asks(call("weather", arguments)), tells("error: bad arguments"), DONE)

    _, trajectory = read_one(OPENAI, tmp_path, row)

    (malformed,) = calls_of(trajectory)
    assert isinstance(malformed, MalformedCall)
    assert malformed.text.startswith("weather(")
    assert trajectory.results[0].source is Source.LOOP


# ---- the ways of saying it


@pytest.mark.parametrize("key", ["messages", "conversation", "conversations"])
@pytest.mark.parametrize("as_text", [False, True])
def test_messages_and_tools_may_be_text_of_themselves(
    tmp_path: Path, key: str, as_text: bool
) -> None:
    """Tables hold as text what has no fixed columns."""
    pack: Any = json.dumps if as_text else lambda value: value
    messages = [USER, asks(call("weather", "{}")), tells("x"), DONE]

    task, trajectory = read_one(
        OPENAI, tmp_path, {key: pack(messages), "tools": pack([WEATHER]), "metadata": {"x": 1}}
    )

    assert task.tools[0].description == "Weather of a place."
    assert len(trajectory.messages) == 4


def test_a_row_may_be_the_list_of_messages_alone(tmp_path: Path) -> None:
    """No tools, no id: the digest of the row names the task."""
    task, trajectory = read_one(OPENAI, tmp_path, [USER, DONE])

    assert task.id == f"ns-{trajectory.notes['row']}"
    assert task.tools == ()


def test_functions_of_before_there_were_tools(tmp_path: Path) -> None:
    """`function_call` has no id; the result names the function."""
    row = {
        "messages": [
            USER,
            {
                "role": "assistant",
                "content": None,
                "function_call": {"name": "weather", "arguments": "{}"},
            },
            {"role": "function", "name": "weather", "content": "rain"},
            DONE,
        ],
        "functions": [WEATHER["function"]],
    }

    task, trajectory = read_one(OPENAI, tmp_path, row)

    assert [spec.name for spec in task.tools] == ["weather"]
    assert [(r.name, r.text) for r in trajectory.results] == [("weather", "rain")]
    assert trajectory.notes["paired_by_order"] is True


@pytest.mark.parametrize(
    "more",
    [
        {"reasoning_content": " It rains. \n", "content": "Rain."},
        {"reasoning": "It rains.", "content": "Rain."},
        {"thinking": "It rains.", "content": "Rain."},
        {"content": "<think>\nIt rains.\n</think>\n\nRain."},
        {"content": "It rains.\n</think>\n\nRain."},
        {
            "content": [
                {"type": "thinking", "thinking": "It rains."},
                {"type": "text", "text": "Rain."},
            ]
        },
        {
            "reasoning_details": [{"type": "reasoning.text", "text": "It rains."}],
            "content": "Rain.",
        },
        {"reasoning_content": "It rains.", "content": "<think>\n\n</think>Rain."},
    ],
)
def test_thinking_is_found_wherever_it_stands(tmp_path: Path, more: dict[str, Any]) -> None:
    """It is what the next stage is about: lost or left in the words, a model learns the wrong thing."""
    _, trajectory = read_one(OPENAI, tmp_path, chat({"role": "assistant", **more}))

    (turn,) = turns(trajectory)
    assert (turn.thinking, turn.content) == ("It rains.", "Rain.")


def test_content_may_be_parts(tmp_path: Path) -> None:
    """Words stand on lines of their own; a picture among a tool's words is named and kept whole."""
    row = {
        "messages": [
            {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
            {
                "role": "user",
                "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
            },
            asks(call("photo", "{}")),
            tells(
                [{"type": "text", "text": "here"}, {"type": "image_url", "image_url": {"url": "u"}}]
            ),
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        ]
    }

    task, trajectory = read_one(OPENAI, tmp_path, row)

    assert (task.system, task.user_turns) == ("Be brief.", ("a\nb",))
    assert trajectory.results[0].text == "here\n[image_url]"
    assert json.loads(trajectory.results[0].wire or "")[1]["image_url"] == {"url": "u"}
    assert turns(trajectory)[-1].content == "No."


def test_data_as_content_of_a_result_becomes_json(tmp_path: Path) -> None:
    """Some files hold the tool's object and not its text."""
    _, trajectory = read_one(
        OPENAI, tmp_path, chat(asks(call("a", "{}")), tells({"temp": 3, "list": [1]}), DONE)
    )

    assert json.loads(trajectory.results[0].text) == {"temp": 3, "list": [1]}


def test_a_refusal_is_what_was_said(tmp_path: Path) -> None:
    """The API puts it beside the content."""
    row = chat({"role": "assistant", "content": None, "refusal": "I cannot."})

    _, trajectory = read_one(OPENAI, tmp_path, row)

    assert turns(trajectory)[0].content == "I cannot."
    assert trajectory.notes["refusal"] is True


def test_prompt_and_completion_are_one_conversation(tmp_path: Path) -> None:
    """TRL's other form."""
    row = {"prompt": [USER], "completion": [asks(call("weather", {})), tells("x"), DONE]}

    _, trajectory = read_one(TRL, tmp_path, row)

    assert [role for role, _ in said(trajectory)] == ["user", "assistant", "tool", "assistant"]


# ---- calls and results


def test_results_of_parallel_calls_may_come_in_any_order(tmp_path: Path) -> None:
    """They belong by id; the trajectory has them in the order of the calls."""
    row = chat(
        asks(call("a", '{"n":1}', "x"), call("a", '{"n":2}', "y"), call("b", "{}", "z")),
        tells("three", "z"),
        tells("one", "x"),
        tells("two", "y"),
        DONE,
    )

    _, trajectory = read_one(OPENAI, tmp_path, row)

    assert [result.text for result in trajectory.results] == ["one", "two", "three"]
    assert "paired_by_order" not in trajectory.notes


def test_results_without_ids_belong_by_name_and_order(tmp_path: Path) -> None:
    """And the notes say that somebody had to guess."""
    row = chat(
        asks(call("a", '{"n":1}', None), call("b", "{}", None), call("a", '{"n":2}', None)),
        tells("of b", None, name="b"),
        tells("of a 1", None, name="a"),
        tells("of a 2", None),
        DONE,
    )

    _, trajectory = read_one(OPENAI, tmp_path, row)

    assert [result.text for result in trajectory.results] == ["of a 1", "of b", "of a 2"]
    assert trajectory.notes["paired_by_order"] is True


def test_a_result_without_id_belongs_to_the_turn_before_it() -> None:
    """An interrupted call of an earlier turn must not take the answer of a later one."""
    row = chat(
        asks(call("a", '{"n":1}', None)),
        {"role": "user", "content": "never mind"},
        asks(call("a", '{"n":2}', None)),
        tells("two", None),
        DONE,
    )

    trajectory = unchecked(row)

    lost, kept = trajectory.results
    assert (lost.tier, lost.error_class, kept.text) == (Tier.MISS, ErrorClass.TRANSIENT, "two")


def test_repeated_ids_are_made_unique(tmp_path: Path) -> None:
    """Some servers number the calls of every turn from zero."""
    row = chat(
        asks(call("a", "{}", "0")), tells("1", "0"), asks(call("a", "{}", "0")), tells("2", "0")
    )

    _, trajectory = read_one(OPENAI, tmp_path, row)

    assert [result.text for result in trajectory.results] == ["1", "2"]
    assert len({result.call_id for result in trajectory.results}) == 2


def test_a_call_without_a_result_keeps_its_place() -> None:
    """What comes after it must not move up: one result a call, a missing one being a transient failure.

    The cache keeps nothing of it, and what is read after it counts as read in a doubtful state.
    """
    row = chat(
        asks(call("a", "{}", "x"), call("b", "{}", "y"), call("c", "{}", "z")),
        tells("of a", "x"),
        tells("of c", "z"),
        asks(call("d", "{}", "w")),
    )

    trajectory = unchecked(row)

    assert [(r.name, r.text, r.tier) for r in trajectory.results] == [
        ("a", "of a", Tier.LIVE),
        ("b", "", Tier.MISS),
        ("c", "of c", Tier.LIVE),
        ("d", "", Tier.MISS),
    ]
    assert trajectory.stop is StopReason.TRUNCATED


def test_a_tool_that_was_never_declared_may_do_anything(tmp_path: Path) -> None:
    """It is on offer in the task, or replaying the conversation would refuse it."""
    task, _ = read_one(OPENAI, tmp_path, chat(asks(call("nope", '{"x": 1}')), tells("1"), DONE))

    spec = {each.name: each for each in task.tools}["nope"]
    assert spec.effects == UNDECLARED


@pytest.mark.parametrize(
    "text", ["Error: no such city", '{"error": "nope"}', "Traceback (most recent call last)"]
)
def test_a_failure_is_known_by_its_text_where_nothing_says_so(tmp_path: Path, text: str) -> None:
    """A failed write changed nothing: the state after it is the one before."""
    row = chat(
        asks(call("a", "{}")),
        tells(text),
        asks(call("a", "{}", "c2")),
        tells(text, "c2", is_error=False),
    )

    _, trajectory = read_one(OPENAI, tmp_path, row)

    assert [result.is_error for result in trajectory.results] == [True, False]


def test_tools_that_the_provider_runs_are_no_tools_of_ours(tmp_path: Path) -> None:
    """`{"type": "web_search"}` has no name and no schema."""
    task, _ = read_one(OPENAI, tmp_path, chat(DONE, tools=[{"type": "web_search"}, WEATHER]))

    assert [spec.name for spec in task.tools] == ["weather"]


# ---- what is skipped


@pytest.mark.parametrize(
    ("row", "field", "problem"),
    [
        ({"text": "x"}, "messages", "missing"),
        (5, "", "Expected `object`"),
        (chat({"role": "wizard", "content": "x"}), "messages[1].role", "unknown role 'wizard'"),
        (chat({"content": "x"}), "messages[1]", "missing required field `role`"),
        (chat({"role": "assistant", "content": 5}), "messages[1].content", "no text but int"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}, DONE]},
            "messages[0].content",
            "'image_url'",
        ),
        (chat(tells("x"), DONE), "messages[1]", "that no call asked for"),
        ({"messages": [DONE]}, "messages", "no user turn"),
        ({"messages": [USER]}, "messages", "no assistant turn"),
        ({"messages": "[nope"}, "messages", "no JSON list"),
        ({"messages": '[{"role": 5}]'}, "messages[0].role", "Expected `str`"),
        (chat(DONE, tools=[{"function": {"description": "x"}}]), "tools[0].name", "without a name"),
        (chat(DONE, tools="[nope"), "tools", "no JSON"),
    ],
)
def test_a_row_that_cannot_be_read_is_named_by_field(
    tmp_path: Path, row: Any, field: str, problem: str
) -> None:
    """The report is what somebody mends the file by."""
    skipped = skipped_of(OPENAI, tmp_path, row)

    assert skipped.where.endswith("rows.jsonl:1")
    assert skipped.field == field
    assert problem in skipped.problem


@pytest.mark.parametrize("spoilt", [b'"\x81"', b"[" * 100_000 + b"]" * 100_000])
@pytest.mark.parametrize("kind", [OPENAI, ANTHROPIC])
def test_tools_of_broken_bytes_or_without_end_are_reported(
    tmp_path: Path, kind: Format, spoilt: bytes
) -> None:
    """They are walked over with the row and read only later."""
    path = tmp_path / "rows.jsonl"
    row = json.dumps({"messages": [USER, DONE], "tools": "HERE"}).encode()
    path.write_bytes(row.replace(b'"HERE"', spoilt) + b"\n")
    found, skipped = read(kind, path)

    assert found == []
    assert len(skipped) == 1


def test_no_row_whatever_it_holds_breaks_the_reader(tmp_path: Path) -> None:
    """An import of a million rows must not die at the last."""
    junk: list[Any] = [None, 5, "x", [], {}, [[]], {"a": 1}, True, 1e300, "[{", "\ud800"]
    rows = []
    for value in junk:
        rows += [
            {"messages": value},
            chat({"role": "assistant", "content": value}),
            chat({"role": "assistant", "tool_calls": value}),
            chat(
                {
                    "role": "assistant",
                    "tool_calls": [{"function": {"name": value, "arguments": value}}],
                }
            ),
            chat({"role": "assistant", "function_call": value, "reasoning": value}),
            chat(asks(call("a", "{}")), tells(value)),
            chat(DONE, tools=value, id=value, model=value, language=value),
            chat(DONE, tools=[value]),
            {"role": value, "messages": [{"role": value, "content": value}]},
        ]

    found, skipped = read_rows(OPENAI, tmp_path, *rows)

    assert len(found) + len(skipped) == len(rows)
    assert found
    assert skipped


# ---- Anthropic


def test_anthropic_blocks(tmp_path: Path) -> None:
    """Thinking, words and calls of a turn; results and the next words in one user message."""
    row = {
        "model": "claude",
        "system": [{"type": "text", "text": "Be brief."}],
        "tools": [
            {
                "name": "weather",
                "description": "d",
                "input_schema": {"type": "object", "properties": {}},
            }
        ],
        "messages": [
            {"role": "user", "content": "Oslo?"},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "Look.", "signature": "s"},
                    {"type": "text", "text": "One moment."},
                    {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Oslo"}},
                    {"type": "tool_use", "id": "t2", "name": "weather", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "t2",
                        "content": "no city",
                        "is_error": True,
                    },
                    {
                        "type": "tool_result",
                        "tool_use_id": "t1",
                        "content": [{"type": "text", "text": "rain"}],
                    },
                    {"type": "text", "text": "and?"},
                ],
            },
            {"role": "assistant", "content": "Rain."},
        ],
    }

    task, trajectory = read_one(ANTHROPIC, tmp_path, row)

    assert guess(row) is ANTHROPIC
    assert (task.system, task.user_turns) == ("Be brief.", ("Oslo?", "and?"))
    first = turns(trajectory)[0]
    assert (first.thinking, first.content) == ("Look.", "One moment.")
    assert made(trajectory) == [("weather", {"city": "Oslo"}), ("weather", {})]
    assert [(r.text, r.is_error) for r in trajectory.results] == [
        ("rain", False),
        ("no city", True),
    ]
    assert trajectory.policy == "claude"


def test_anthropic_rows_that_cannot_be_read(tmp_path: Path) -> None:
    """A picture teaches a text model nothing; a tool of the provider's own is left out and told."""
    picture = {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}
    assert skipped_of(ANTHROPIC, tmp_path, picture).field == "messages[0].content"
    hosted = {
        "messages": [
            {"role": "user", "content": "x"},
            {
                "role": "assistant",
                "content": [
                    {"type": "server_tool_use", "id": "s", "name": "web"},
                    {"type": "text", "text": "y"},
                ],
            },
        ]
    }

    found, skipped = read_rows(ANTHROPIC, tmp_path, hosted)

    assert len(found) == 1
    assert "server_tool_use" in skipped[0].problem


# ---- Responses


def test_responses_items(tmp_path: Path) -> None:
    """Reasoning, words and calls that follow one another are one turn."""
    row = {
        "model": "gpt-5",
        "instructions": "Be brief.",
        "tools": [
            {
                "type": "function",
                "name": "weather",
                "parameters": {"type": "object", "properties": {}},
            },
            {"type": "web_search"},
        ],
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "Oslo?"}]},
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Look."}]},
            {
                "type": "function_call",
                "call_id": "c1",
                "name": "weather",
                "arguments": '{"city":"Oslo"}',
            },
            {"type": "function_call", "call_id": "c2", "name": "weather", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c2", "output": "no city"},
            {
                "type": "function_call_output",
                "call_id": "c1",
                "output": [{"type": "input_text", "text": "rain"}],
            },
        ],
        "output": [
            {"type": "web_search_call", "id": "w"},
            {
                "type": "message",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "Rain."}],
            },
        ],
    }

    ((task, trajectory),), skipped = read_rows(RESPONSES, tmp_path, row)

    assert guess(row) is RESPONSES
    assert (task.system, task.user_turns) == ("Be brief.", ("Oslo?",))
    assert [spec.name for spec in task.tools] == ["weather"]
    assert [(turn.thinking, turn.content, len(turn.calls)) for turn in turns(trajectory)] == [
        ("Look.", "", 2),
        (None, "Rain.", 0),
    ]
    assert [result.text for result in trajectory.results] == ["rain", "no city"]
    assert "web_search_call" in skipped[0].problem


def test_responses_with_a_text_for_input(tmp_path: Path) -> None:
    """The short form of a request."""
    row = {
        "input": "Oslo?",
        "output": [{"type": "message", "role": "assistant", "content": "Rain."}],
    }

    _, trajectory = read_one(RESPONSES, tmp_path, row)

    assert said(trajectory) == [("user", "Oslo?"), ("assistant", "Rain.")]
    assert skipped_of(RESPONSES, tmp_path, {"output": [{"type": "odd"}]}).field == "output[0].type"
    assert skipped_of(RESPONSES, tmp_path, {"x": 1}).field == "input"


# ---- guessing, remembering


def test_what_a_row_looks_like() -> None:
    """`--format auto` must not take one for another."""
    assert guess(chat(DONE)) is OPENAI
    assert guess([USER, DONE]) is OPENAI
    assert guess({"prompt": [USER], "completion": [DONE]}) is TRL
    assert guess({"system": "s", "messages": [USER, DONE]}) is ANTHROPIC
    junk: list[Any] = [None, 5, "x", [], {}, {"messages": 3}, {"messages": "[x"}, [[]]]
    assert [guess(value) for value in [*junk, {"output": [5]}]] == [None] * 9
    assert guess({"messages": "[" * 100_000}) is None


def test_later_instructions_stay_where_they_stand(tmp_path: Path) -> None:
    """The first ones are the task's; a reminder in the middle is part of the conversation."""
    system = {"role": "system", "content": "Be brief."}
    reminder = {"role": "system", "content": "Remember."}

    task, trajectory = read_one(
        OPENAI, tmp_path, {"messages": [system, USER, DONE, reminder, USER, DONE]}
    )

    assert task.system == "Be brief."
    assert trajectory.messages[3] == SystemMessage(content="Remember.")


def test_equal_lists_of_tools_are_parsed_once() -> None:
    """Half the time of a row would go into the list that every row repeats."""
    raw = json.dumps(chat(DONE)).encode()
    reading = Reading(namespace="ns")

    (one, _), (two, _) = (next(read_openai(Row(f"a:{n}", raw), reading)) for n in (1, 2))

    assert one.tools[0] is two.tools[0]
