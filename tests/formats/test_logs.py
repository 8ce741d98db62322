"""Logs of evaluations, servers and traces: tau2, Inspect, MCP, OpenTelemetry."""

from __future__ import annotations

import json
import random
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pytest

from cacherl.core.errors import DataError
from cacherl.core.messages import AssistantMessage, MalformedCall
from cacherl.core.tools import UNDECLARED, Effects, ErrorClass, Source
from cacherl.core.trajectories import StopReason, Trajectory
from cacherl.formats.format import Format, Reading
from cacherl.formats.inspect_logs import INSPECT
from cacherl.formats.mcp_log import MCP_LOG, NO_WORDS
from cacherl.formats.otel import OTEL, read_file
from cacherl.formats.rows import Skipped
from cacherl.formats.tau2 import TAU2_BENCH
from tests.formats import samples
from tests.formats.reading import calls_of, made, read, read_rows, said

OSLO = ("get_weather", {"city": "Oslo"})


def read_object(kind: Format, folder: Path, value: Any) -> tuple[list[Any], list[Skipped]]:
    path = folder / "results.json"
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")
    return read(kind, path)


def thoughts(trajectory: Trajectory) -> list[str | None]:
    return [m.thinking for m in trajectory.messages if isinstance(m, AssistantMessage)]


# ---- tau2


def test_what_the_agent_never_saw_stays_out(tmp_path: Path) -> None:
    """The user's tool calls, the orchestrator's greeting and the stop word are not the model's."""
    ((task, trajectory),), skipped = read_object(TAU2_BENCH, tmp_path, samples.tau2())

    assert not skipped
    assert made(trajectory) == [("get_line", {"line": "L1"}), ("get_line", {"line": "L2"})]
    assert said(trajectory) == [
        ("system", "Be kind."),
        ("user", "My phone is offline."),
        ("assistant", ""),
        ("tool", '{"on": true}'),
        ("tool", "Error: no such line"),
        ("assistant", "Toggle airplane mode."),
        ("user", "Done."),
        ("assistant", "Then it works."),
    ]
    assert trajectory.notes["user_tool_calls"] == 1
    assert trajectory.notes["greeting"] == "Hi! How can I help?"
    assert "toggle_airplane_mode" not in {spec.name for spec in task.tools}


def test_tau2_keeps_trial_reward_gold_and_stop(tmp_path: Path) -> None:
    """The agent's gold actions only; the user's belong to the user."""
    ((task, trajectory),), _ = read_object(TAU2_BENCH, tmp_path, samples.tau2())

    assert (task.id, task.family, task.scenario) == ("ns-t1", "telecom", "t1")
    assert (trajectory.rollout, trajectory.policy) == (2, "some-model")
    assert trajectory.notes["reward"] == 1.0
    assert trajectory.stop is StopReason.ANSWER
    assert [result.error_class for result in trajectory.results] == [None, ErrorClass.NOT_FOUND]
    assert task.gold is not None
    assert [call.name for call in task.gold.calls] == ["get_line"]
    assert task.gold.answer.must == (("works",),)


def test_tau2_declares_tools_or_shows_them(tmp_path: Path) -> None:
    """Definitions where the run wrote them, else the types that all its calls had."""
    value = samples.tau2()
    ((task, _),), _ = read_object(TAU2_BENCH, tmp_path, value)
    assert task.tools[0].parameters["properties"] == {"line": {"type": "string"}}

    value["info"]["environment_info"]["tool_defs"] = {
        "get_line": {"name": "get_line", "doc": "A line.", "params": samples.WEATHER["parameters"]}
    }
    ((task, _),), _ = read_object(TAU2_BENCH, tmp_path, value)
    assert (task.tools[0].description, task.tools[0].effects) == ("A line.", UNDECLARED)


@pytest.mark.parametrize(
    ("ended", "stop"),
    [
        ("max_steps", StopReason.MAX_TURNS),
        ("context_window_exceeded", StopReason.CONTEXT_FULL),
        ("infrastructure_error", StopReason.MODEL_FAILED),
    ],
)
def test_how_a_simulation_ended(ended: str, stop: StopReason, tmp_path: Path) -> None:
    """A run that its infrastructure ended says nothing of the model."""
    value = samples.tau2()
    value["simulations"][0]["termination_reason"] = ended
    ((_, trajectory),), _ = read_object(TAU2_BENCH, tmp_path, value)

    assert trajectory.stop is stop


def test_a_voice_run_is_skipped_with_its_reason(tmp_path: Path) -> None:
    """Ticks are no turns."""
    value = samples.tau2()
    value["simulations"].append({"task_id": "t1", "messages": None, "ticks": []})
    found, skipped = read_object(TAU2_BENCH, tmp_path, value)

    assert len(found) == 1
    assert [(each.field, each.problem) for each in skipped] == [
        ("ticks", "a voice run, which has no turns")
    ]


# ---- Inspect


def test_an_inspect_log_is_read_whole(tmp_path: Path) -> None:
    """Reasoning parts, attachments, parse errors, tool errors, tools from the model's event."""
    ((task, trajectory),), skipped = read_object(INSPECT, tmp_path, samples.inspect())

    assert not skipped
    assert made(trajectory) == [OSLO]
    assert isinstance(calls_of(trajectory)[1], MalformedCall)
    first, second = trajectory.results
    assert (first.text, first.is_error) == ("sun, all day long", False)
    assert (second.text, second.error_class) == ("Expecting value", ErrorClass.VALIDATION)
    assert second.source is Source.LOOP
    assert thoughts(trajectory) == ["I need the tool.", None]
    assert (task.id, task.family, trajectory.rollout) == ("ns-cities1", "cities", 1)
    assert trajectory.policy == "provider/some-model"
    assert trajectory.notes["scores"] == {"match": "C"}
    assert [spec.parameters for spec in task.tools] == [samples.WEATHER["parameters"]]


def test_an_eval_file_is_the_same_log_zipped(tmp_path: Path) -> None:
    """A sample a member, so memory holds one."""
    log = samples.inspect()
    path = tmp_path / "log.eval"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("header.json", json.dumps({"eval": log["eval"]}))
        archive.writestr("samples/1_epoch_2.json", json.dumps(log["samples"][0]))
        archive.writestr("samples/2_epoch_2.json", "{}")
    ((task, trajectory),), skipped = read(INSPECT, path)

    assert made(trajectory) == [OSLO]
    assert task.family == "cities"
    assert [(each.where, each.field) for each in skipped] == [
        (f"{path}: samples/2_epoch_2.json", "messages")
    ]


def test_a_damaged_eval_file_is_an_error(tmp_path: Path) -> None:
    """With the way out."""
    path = tmp_path / "log.eval"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("header.json", "{")
    with pytest.raises(DataError, match=r"header\.json is no JSON"):
        read(INSPECT, path)


# ---- MCP


def test_answers_find_their_calls_in_any_order(tmp_path: Path) -> None:
    """Two calls at once, and the server's own request with the id of one of them."""
    ((task, trajectory),), skipped = read_rows(MCP_LOG, tmp_path, *samples.mcp())

    assert not skipped
    assert [(r.name, r.text) for r in trajectory.results] == [
        ("get_weather", "rain"),
        ("get_weather", "sun"),
        ("no_tool", "Unknown tool"),
        ("send_mail", ""),
    ]
    rain, sun, unknown, lost = trajectory.results
    assert rain.wire is not None
    assert json.loads(rain.wire)["structuredContent"] == {"sky": "rain"}
    assert sun.wire is None
    assert (unknown.is_error, unknown.error_class) == (True, ErrorClass.NOT_FOUND)
    assert lost.error_class is ErrorClass.TRANSIENT
    assert task.user_turns == (NO_WORDS,)
    assert trajectory.notes["only_calls"] is True
    assert trajectory.policy == "some-client"


def test_annotations_say_what_a_tool_touches(tmp_path: Path) -> None:
    """The one format that declares effects; a tool without annotations writes everything."""
    ((task, _),), _ = read_rows(MCP_LOG, tmp_path, *samples.mcp())
    effects = {spec.name: spec.effects for spec in task.tools}

    assert effects["get_weather"] == Effects(reads=("*",))
    assert effects["send_mail"] == UNDECLARED


def test_every_initialize_begins_a_conversation(tmp_path: Path) -> None:
    """A server that keeps state starts afresh; wrapped lines and noise are common in logs."""
    rows = samples.mcp()
    wrapped = [{"ts": 1, "direction": "in", "message": row} for row in rows]
    found, skipped = read_rows(MCP_LOG, tmp_path, *rows, {"level": "info"}, *wrapped)

    assert [len(trajectory.results) for _, trajectory in found] == [4, 4]
    assert [each.problem for each in skipped] == ["no JSON-RPC message"]


# ---- OpenTelemetry


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
