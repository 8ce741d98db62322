"""`EndpointChat` against a real HTTP server on this machine that speaks OpenAI's format."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cacherl.agent import run_episode
from cacherl.core.errors import ModelError
from cacherl.core.messages import (
    AssistantMessage,
    MalformedCall,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from cacherl.core.models import Limits
from cacherl.core.tasks import Split, Task
from cacherl.core.tools import Source, Tier, ToolResult, ToolSpec
from cacherl.core.trajectories import StopReason
from cacherl.teacher.chat import EndpointChat
from cacherl.teacher.options import TeacherOptions
from cacherl.wiring import paid_model

WEATHER = ToolSpec(
    name="weather",
    description="Today's weather.",
    parameters={
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
)
TASK = Task(
    id="t1",
    split=Split.TRAIN,
    family="weather",
    language="en",
    wording="a",
    scenario="s",
    namespace="n",
    system="Be brief.",
    user_turns=("Weather in Nice?",),
    tools=(WEATHER,),
)
LIMITS = Limits(max_turns=4, max_turn_tokens=64, max_context_tokens=4096)
OPENING = (SystemMessage(content="Be brief."), UserMessage(content="Weather in Nice?"))


class Endpoint:
    """A chat-completions server: answers from a script, keeps what it was sent."""

    def __init__(self) -> None:
        self.script: list[tuple[int, Any]] = []
        self.seen: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.idempotency_keys: list[str | None] = []
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                endpoint.seen.append(json.loads(body))
                endpoint.keys.append(self.headers.get("Authorization"))
                endpoint.idempotency_keys.append(self.headers.get("Idempotency-Key"))
                status, answer = endpoint.script.pop(0)
                if self.path != "/v1/chat/completions":
                    status, answer = 404, {"error": {"message": f"no route {self.path}"}}
                data = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
                self.send_response(status)
                kind = "text/html" if isinstance(answer, str) else "application/json"
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                if status == 429:
                    self.send_header("Retry-After", "0.01")
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def says(self, message: dict[str, Any], finish: str = "stop", **usage: int) -> None:
        self.script.append((200, completion(message, finish, **usage)))

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def completion(message: dict[str, Any], finish: str = "stop", **usage: int) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": None, **message},
                "finish_reason": finish,
            }
        ],
        "usage": {"prompt_tokens": 50, "completion_tokens": 10, "total_tokens": 60, **usage},
    }


def call(arguments: str, *, name: str = "weather", id_: str = "c1") -> dict[str, Any]:
    return {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    server = Endpoint()
    yield server
    server.close()


def chat(url: str, **options: Any) -> EndpointChat:
    return paid_model(f"openai:m@{url}", journal=None, options=TeacherOptions(**options))


class Weather:
    async def call(self, call: ToolCall) -> ToolResult:
        return ToolResult(
            call_id=call.id,
            name=call.name,
            text='{"sky": "clear"}',
            tier=Tier.LIVE,
            source=Source.LIVE,
        )

    async def aclose(self) -> None:
        pass


async def test_a_conversation_with_tools_goes_through_the_one_loop(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    """A provider's model is a policy like any other: call, result, answer, tokens and dollars counted."""
    endpoint.says(
        {"reasoning_content": "I need the weather.", "tool_calls": [call('{"city": "Nice"}')]},
        "tool_calls",
    )
    endpoint.says({"content": "It is clear."}, prompt_tokens=80, completion_tokens=5)
    (tmp_path / "prices.toml").write_text(
        f'as_of = 2026-11-01\n[prices."openai:m@{endpoint.url}"]\nprompt = 1.0\ncompletion = 10.0\n'
    )
    model = chat(endpoint.url, temperature=0.5, prices=tmp_path / "prices.toml")

    trajectory = await run_episode(model, Weather(), TASK, limits=LIMITS, seed=7)
    await model.aclose()

    assert trajectory.stop is StopReason.ANSWER
    assert trajectory.messages[2:] == (
        AssistantMessage(
            thinking="I need the weather.",
            calls=(ToolCall(id="c1", name="weather", arguments={"city": "Nice"}),),
        ),
        ToolMessage(call_id="c1", name="weather", content='{"sky": "clear"}'),
        AssistantMessage(content="It is clear."),
    )
    assert trajectory.segments == ()
    assert (trajectory.usage.prompt_tokens, trajectory.usage.completion_tokens) == (130, 15)
    total = model.ledger().total
    assert total.requests == 2
    assert total.dollars == pytest.approx((130 * 1.0 + 15 * 10.0) / 1e6)
    first, second = endpoint.seen
    assert first["seed"] == 7
    assert first["temperature"] == 0.5
    assert first["max_tokens"] == 64
    assert first["tools"][0]["function"]["name"] == "weather"
    assert [message["role"] for message in second["messages"]] == [
        "system",
        "user",
        "assistant",
        "tool",
    ]
    assert second["messages"][3]["tool_call_id"] == "c1"
    assert "reasoning_content" not in second["messages"][2]


async def test_a_busy_server_is_asked_again(endpoint: Endpoint) -> None:
    """A rate limit in the middle of a long recording is no reason to lose an episode."""
    endpoint.script.append((429, {"error": {"message": "slow down"}}))
    endpoint.says({"content": "Clear."})
    model = chat(endpoint.url, retries=2)

    turn = await model.start(TASK, limits=LIMITS, seed=0).reply(OPENING)
    await model.aclose()

    assert turn.message.content == "Clear."
    assert len(endpoint.seen) == 2


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ('{"city": "Nice"', "not valid JSON"),
        ('["Nice"]', "not a JSON object"),
        (r'{"city": "Ni\ud83d"}', "half a character"),
    ],
)
async def test_a_call_that_does_not_parse_is_a_malformed_call(
    endpoint: Endpoint, arguments: str, problem: str
) -> None:
    """The model is told what was wrong and can mend it; nothing crashes, and history stays valid JSON."""
    endpoint.says({"tool_calls": [call(arguments)]}, "tool_calls")
    endpoint.says({"content": "Sorry, clear."})
    model = chat(endpoint.url)

    trajectory = await run_episode(model, Weather(), TASK, limits=LIMITS)
    await model.aclose()

    turn = trajectory.messages[2]
    assert isinstance(turn, AssistantMessage)
    assert isinstance(turn.calls[0], MalformedCall)
    assert problem in turn.calls[0].problem
    assert trajectory.results[0].is_error
    sent_back = endpoint.seen[1]["messages"][2]["tool_calls"][0]["function"]
    assert sent_back["name"] == "weather"
    assert json.loads(sent_back["arguments"]) == {"malformed": f"weather({arguments})"}


async def test_ids_that_a_server_repeats_become_unique(endpoint: Endpoint) -> None:
    """Some servers number calls from 0 in every turn; results must still find their call."""
    endpoint.says({"tool_calls": [call('{"city": "Nice"}', id_="0")]}, "tool_calls")
    endpoint.says({"tool_calls": [call('{"city": "Lyon"}', id_="0")]}, "tool_calls")
    endpoint.says({"content": "Both clear."})
    model = chat(endpoint.url)

    trajectory = await run_episode(model, Weather(), TASK, limits=LIMITS)
    await model.aclose()

    assert len({result.call_id for result in trajectory.results}) == 2


async def test_thinking_left_in_the_content_is_taken_out(endpoint: Endpoint) -> None:
    """Ollama and llama.cpp may pass think tags through; an answer with them would count as a leak."""
    endpoint.says({"content": "<think>\nEasy.\n</think>\n\nClear."})
    model = chat(endpoint.url)

    turn = await model.start(TASK, limits=LIMITS, seed=0).reply(OPENING)
    await model.aclose()

    assert (turn.message.thinking, turn.message.content) == ("Easy.", "Clear.")


async def test_a_turn_cut_by_its_limit_is_truncated(endpoint: Endpoint) -> None:
    """Half an answer must not be scored as an answer."""
    endpoint.says({"content": "It is cl"}, "length")
    model = chat(endpoint.url)

    turn = await model.start(TASK, limits=LIMITS, seed=0).reply(OPENING)
    await model.aclose()

    assert turn.truncated


async def test_a_conversation_too_long_for_the_server_is_full_not_failed(
    endpoint: Endpoint,
) -> None:
    """It is the episode's own length that ends it, so it counts against the policy, not the machine."""
    endpoint.script.append(
        (
            400,
            {
                "error": {
                    "message": "maximum context length is 8",
                    "code": "context_length_exceeded",
                }
            },
        )
    )
    model = chat(endpoint.url)

    trajectory = await run_episode(model, Weather(), TASK, limits=LIMITS)
    await model.aclose()

    assert trajectory.stop is StopReason.CONTEXT_FULL


async def test_a_conversation_beyond_its_own_limit_is_not_sent(endpoint: Endpoint) -> None:
    """The recipe's context limit holds even where the server would take more, and be paid for it."""
    model = chat(endpoint.url)

    turn = await model.start(TASK, limits=Limits(max_context_tokens=20), seed=0).reply(OPENING)

    assert turn.context_full
    assert endpoint.seen == []


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (401, "The key is read from $NO_SUCH_KEY, which is not set"),
        (404, "/models` lists"),
        (400, "Correct the settings"),
        (503, "Look at the server's log"),
    ],
)
async def test_a_refusal_is_one_line_with_url_reason_and_fix(
    endpoint: Endpoint, status: int, expected: str
) -> None:
    """At 2 a.m. the line must be enough: which URL, what it said, what to do."""
    endpoint.script.append((status, {"error": {"message": "no\nsuch thing"}}))
    model = chat(endpoint.url, retries=0, api_key_env="NO_SUCH_KEY")

    with pytest.raises(ModelError) as caught:
        await model.start(TASK, limits=LIMITS, seed=0).reply(OPENING)
    await model.aclose()

    line = str(caught.value)
    assert line.startswith(f"{endpoint.url}: refused with ")
    assert f"{status}: no such thing" in line
    assert expected in line
    assert "\n" not in line


@pytest.mark.parametrize("room", [0, 110, 128, 150])
async def test_a_key_that_the_server_repeats_is_in_no_message(
    endpoint: Endpoint, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message goes into the trajectory, and that is published; a part of the key is too much."""
    key = "sk-proj-0123456789abcdefghijklmnopqrstuvwxyz"
    monkeypatch.setenv("REPEATED_KEY", key)
    words = f"{'.' * room} no such key: {key}"
    endpoint.script.append((401, {"error": {"message": words}}))
    model = chat(endpoint.url, retries=0, api_key_env="REPEATED_KEY")

    with pytest.raises(ModelError) as caught:
        await model.start(TASK, limits=LIMITS, seed=0).reply(OPENING)
    await model.aclose()

    assert "refused with 401" in str(caught.value)
    assert key[:8] not in str(caught.value)


async def test_an_unreachable_server_is_one_line() -> None:
    """The commonest mistake of all: the local server is not running."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    model = chat(f"http://127.0.0.1:{port}/v1", retries=0)

    trajectory = await run_episode(model, Weather(), TASK, limits=LIMITS)
    await model.aclose()

    assert trajectory.stop is StopReason.MODEL_FAILED
    assert f"127.0.0.1:{port}" in trajectory.notes["error"]
    assert "Start the server" in trajectory.notes["error"]


@pytest.mark.parametrize("answer", ["<html>hello</html>", {"object": "list", "data": []}])
async def test_a_server_of_another_kind_is_named_as_such(endpoint: Endpoint, answer: Any) -> None:
    """A base URL without /v1 often reaches a web page that answers 200."""
    endpoint.script.append((200, answer))
    model = chat(endpoint.url, retries=0)

    with pytest.raises(ModelError, match="OpenAI-compatible endpoint"):
        await model.start(TASK, limits=LIMITS, seed=0).reply(OPENING)
    await model.aclose()


async def test_the_key_comes_from_the_environment(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key never stands in a recipe, so it never lands in a run folder."""
    monkeypatch.setenv("MY_KEY", "sk-secret")
    endpoint.says({"content": "Clear."})
    model = chat(endpoint.url, api_key_env="MY_KEY")

    await model.start(TASK, limits=LIMITS, seed=0).reply(OPENING)
    await model.aclose()

    assert endpoint.keys == ["Bearer sk-secret"]


async def test_a_reply_that_is_hardly_one_is_read_all_the_same(endpoint: Endpoint) -> None:
    """It was paid for: what a strict client library would throw away is data."""
    odd = completion(
        {
            "reasoning": "Hm.",
            "tool_calls": [
                {"id": 7, "function": {"arguments": "{}"}},
                {"function": {"name": "weather", "arguments": {"city": "Nice"}}},
                {"function": {"name": "weather", "arguments": 3}},
            ],
        }
    )
    odd["choices"][0]["finish_reason"] = None
    del odd["usage"], odd["id"], odd["object"], odd["created"]
    endpoint.script.append((200, odd))
    model = chat(endpoint.url)

    turn = await model.start(TASK, limits=LIMITS, seed=0).reply(OPENING)
    await model.aclose()

    assert turn.message.thinking == "Hm."
    nameless, dictionary, number = turn.message.calls
    assert isinstance(nameless, MalformedCall)
    assert nameless.problem == "the call names no tool"
    assert isinstance(dictionary, ToolCall)
    assert dictionary.arguments == {"city": "Nice"}
    assert isinstance(number, MalformedCall)
    assert not turn.truncated
    total = model.ledger().total
    assert total.estimated == 1
    assert total.prompt_tokens > 20


async def test_words_of_refusal_are_the_answer(endpoint: Endpoint) -> None:
    """OpenAI puts them beside an empty content."""
    endpoint.says({"refusal": "I cannot help with that."})
    model = chat(endpoint.url)

    turn = await model.start(TASK, limits=LIMITS, seed=0).reply(OPENING)
    await model.aclose()

    assert turn.message.content == "I cannot help with that."


async def test_further_fields_go_out_and_attempts_carry_one_key(endpoint: Endpoint) -> None:
    """Any server's own settings must be reachable, and a retry must be recognisable as one."""
    endpoint.script.append((500, {"error": {"message": "no"}}))
    endpoint.says({"content": "Clear."})
    endpoint.says({"content": "Still clear."})
    model = chat(
        endpoint.url, send_seed=False, extra={"top_k": 20, "reasoning_effort": "low", "stop": ["x"]}
    )

    session = model.start(TASK, limits=LIMITS, seed=0)
    await session.reply(OPENING)
    await session.reply([UserMessage(content="And now?")])
    await model.aclose()

    sent = endpoint.seen[0]
    assert (sent["top_k"], sent["reasoning_effort"], sent["stop"]) == (20, "low", ["x"])
    assert "seed" not in sent
    first, retried, second = endpoint.idempotency_keys
    assert first == retried
    assert second != first


def test_a_long_result_is_cut_visibly() -> None:
    """The model must see that something is missing."""
    session = chat("http://127.0.0.1:1/v1").start(TASK, limits=LIMITS, seed=0)

    assert session.clip("short", 10) == "short"
    assert session.clip("x" * 100, 10) == "x" * 31 + "... [cut]"
