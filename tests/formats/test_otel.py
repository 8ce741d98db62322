"""OpenTelemetry: spans in any order, content that may be missing."""

from __future__ import annotations

import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

from cacherl.core.schema import argument_problem
from cacherl.core.trajectories import StopReason
from cacherl.formats.format import Reading
from cacherl.formats.otel import OTEL, read_file
from tests.formats import samples
from tests.formats.reading import made, read_object, read_rows, said, thoughts
from tests.formats.samples import OSLO


def test_a_trace_becomes_a_conversation(tmp_path: Path) -> None:
    """Spans stand in any order; the tool's span has no conversation id; reasoning is sent once."""
    ((task, trajectory),), skipped = read_rows(OTEL, tmp_path, *samples.otel())

    assert not skipped
    assert said(trajectory) == [
        ("system", "Use the tools."),
        ("user", "Oslo?"),
        ("assistant", ""),
        ("tool", "sun"),
        ("assistant", "Sun."),
    ]
    assert made(trajectory) == [OSLO]
    assert thoughts(trajectory) == ["I need the tool.", None]
    assert (task.id, trajectory.policy) == ("ns-conv-1", "some-model")
    assert trajectory.notes["input_tokens"] == 20
    assert [spec.name for spec in task.tools] == ["get_weather"]


def test_one_export_in_one_object(tmp_path: Path) -> None:
    """The same spans in one pretty-printed file, values structured instead of JSON texts."""
    rows = samples.otel()
    spans = [row["resourceSpans"][0]["scopeSpans"][0]["spans"][0] for row in rows]
    for span in spans:
        for each in span["attributes"]:
            text = each["value"].get("stringValue", "")
            if text.startswith(("[", "{")):
                each["value"] = samples.typed(json.loads(text))
    whole = {"resourceSpans": [{"scopeSpans": [{"spans": [*spans, "noise"]}]}]}
    ((_, trajectory),), skipped = read_object(OTEL, tmp_path, whole)

    assert made(trajectory) == [OSLO]
    assert [each.field for each in skipped] == ["scopeSpans[0].spans[4]"]


def test_flat_spans_of_an_sdk(tmp_path: Path) -> None:
    """One span a line, plain attributes, ISO times."""
    rows = []
    for row in samples.otel():
        span = row["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
        attributes = {each["key"]: each["value"] for each in span["attributes"]}
        rows.append(
            {
                "name": span["name"],
                "context": {"trace_id": "0x1", "span_id": "0x2"},
                "start_time": f"2025-01-01T00:00:0{span['startTimeUnixNano']}Z",
                "attributes": {k: next(iter(v.values())) for k, v in attributes.items()},
                "status": {"status_code": "UNSET"},
            }
        )
    ((_, trajectory),), skipped = read_rows(OTEL, tmp_path, *rows)

    assert not skipped
    assert made(trajectory) == [OSLO]
    assert [r.text for r in trajectory.results] == ["sun"]


def without(rows: list[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    """Return the rows without attributes of these names."""
    for row in rows:
        span = row["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
        span["attributes"] = [each for each in span["attributes"] if each["key"] not in names]
    return rows


MESSAGES = ("gen_ai.input.messages", "gen_ai.output.messages")


def test_content_that_nobody_captured_is_told(tmp_path: Path) -> None:
    """Capture is opt-in everywhere, so this is what most first exports look like."""
    rows = without(samples.otel(), *MESSAGES, "gen_ai.tool.call.arguments")
    found, skipped = read_rows(OTEL, tmp_path, *rows)

    assert not found
    (one,) = skipped
    assert one.field == "gen_ai.input.messages"
    assert "content attributes are opt-in and missing" in one.problem


def test_bare_calls_are_kept_for_the_cache(tmp_path: Path) -> None:
    """Tools' contents were captured, the model's were not."""
    ((task, trajectory),), _ = read_rows(OTEL, tmp_path, *without(samples.otel(), *MESSAGES))

    assert made(trajectory) == [OSLO]
    assert trajectory.notes["only_calls"] is True
    assert len(task.user_turns) == 1
    # Nobody declared the tool, and still the loop lets its calls through when they are replayed.
    assert argument_problem(task.tools[0], OSLO[1]) is None


def test_a_tools_span_adds_the_answer_that_no_history_shows(tmp_path: Path) -> None:
    """The agent stopped after its call; its span failed."""
    rows = samples.otel()[1:]  # without the second model call
    tool = next(r for r in rows if "execute_tool" in json.dumps(r))
    tool["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["status"] = {"code": "STATUS_CODE_ERROR"}
    ((_, trajectory),), _ = read_rows(OTEL, tmp_path, *rows)

    (result,) = trajectory.results
    assert (result.text, result.is_error) == ('"sun"', True)
    assert trajectory.stop is StopReason.TRUNCATED


def test_a_sub_agent_has_a_conversation_of_its_own(tmp_path: Path) -> None:
    """Another history under the same conversation id is no continuation."""
    other = [{"role": "user", "parts": [{"type": "text", "content": "Summarise."}]}]
    answer = [{"role": "assistant", "parts": [{"type": "text", "content": "Short."}]}]
    attributes = {
        "gen_ai.operation.name": "chat",
        "gen_ai.conversation.id": "conv-1",
        "gen_ai.input.messages": json.dumps(other),
        "gen_ai.output.messages": json.dumps(answer),
    }
    row = samples.export("t1", "chat", 2, attributes)
    found, _ = read_rows(OTEL, tmp_path, *samples.otel(), row)

    assert [task.id for task, _ in found] == ["ns-conv-1", "ns-conv-1#2"]
    assert [task.user_turns for task, _ in found] == [("Oslo?",), ("Summarise.",)]


def test_openinference_flattens_its_messages(tmp_path: Path) -> None:
    """`llm.input_messages.0.message.role` and so on."""
    attributes = {
        "openinference.span.kind": "LLM",
        "llm.model_name": "some-model",
        "llm.tools.0.tool.json_schema": json.dumps(samples.function(samples.WEATHER)),
        "llm.input_messages.0.message.role": "user",
        "llm.input_messages.0.message.contents.0.message_content.text": "Oslo?",
        "llm.input_messages.1.message.role": "assistant",
        "llm.input_messages.1.message.tool_calls.0.tool_call.id": "c1",
        "llm.input_messages.1.message.tool_calls.0.tool_call.function.name": "get_weather",
        "llm.input_messages.1.message.tool_calls.0.tool_call.function.arguments": '{"city": "Oslo"}',
        "llm.input_messages.2.message.role": "tool",
        "llm.input_messages.2.message.tool_call_id": "c1",
        "llm.input_messages.2.message.content": "sun",
        "llm.output_messages.0.message.role": "assistant",
        "llm.output_messages.0.message.content": "Sun.",
    }
    ((task, trajectory),), skipped = read_rows(
        OTEL, tmp_path, samples.export("t9", "llm", 1, attributes)
    )

    assert not skipped
    assert made(trajectory) == [OSLO]
    assert [r.text for r in trajectory.results] == ["sun"]
    assert [spec.name for spec in task.tools] == ["get_weather"]


def test_memory_holds_one_conversation_however_the_spans_are_mixed(tmp_path: Path) -> None:
    """Spans are grouped on disk: 300 conversations of 100 KB each, shuffled, in a tenth of their size."""
    words = "x" * 50_000
    path = tmp_path / "traces.jsonl"
    order = [(n, side) for n in range(300) for side in (0, 1)]
    random.Random(1).shuffle(order)
    with path.open("w", encoding="utf-8") as file:
        for n, side in order:
            asked = [{"role": "user", "parts": [{"type": "text", "content": f"{n} {words}"}]}]
            first = {"role": "assistant", "parts": [{"type": "text", "content": "Yes?"}]}
            again = {"role": "user", "parts": [{"type": "text", "content": "And?"}]}
            attributes = {
                "gen_ai.operation.name": "chat",
                "gen_ai.input.messages": json.dumps([*asked, *([first, again] if side else [])]),
                "gen_ai.output.messages": json.dumps([first]),
            }
            file.write(json.dumps(samples.export(f"t{n}", "chat", side, attributes)) + "\n")
    tracemalloc.start()
    turns = [len(task.user_turns) for task, _ in read_file(path, Reading(namespace="ns"))]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert turns == [2] * 300
    assert peak < path.stat().st_size / 10
