"""A real teacher on this machine: it plays the desk's expert over HTTP, and misbehaves on demand.

It speaks OpenAI's chat format (`/v1/chat/completions`, `/v1/models`, `/v1/files`, `/v1/batches`) and Anthropic's
(`/v1/messages`, `/v1/messages/batches`). What it says is a function of the request alone, so that a run that was
disturbed can be compared with one that was not. It writes down every reply it bills, per idempotency key, in a file
that survives its death.

    with TeacherServer(Trouble("rate_limit", every=3), Trouble("die", at=(40,)), folder=tmp_path) as teacher:
        model = paid_model(f"openai:desk@{teacher.url}", ...)
        ...
        teacher.start_again()      # after it died: same port, same bills, no more dying
        teacher.bills()            # [Bill(key=..., digest=..., prompt_tokens=..., ...), ...]

As a process of its own: `python -m tests.teacher_server CONFIG.json` (what `TeacherServer` runs).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from cacherl.core.jsonl import JsonlAppender, read_jsonl
from cacherl.core.messages import (
    AssistantMessage,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from cacherl.core.models import Limits
from cacherl.core.records import Record
from cacherl.core.tasks import Split, Task
from cacherl.worlds.desk import DeskExpert, DeskWorld
from cacherl.worlds.desk.reasons import explain

ROOT = Path(__file__).parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
"""For processes of the tests' own: they run the same code as the tests."""

Kind = Literal[
    "rate_limit",  # 429 with Retry-After; not billed
    "overloaded",  # 503; not billed
    "error",  # 500; not billed
    "timeout",  # does the work, bills it, and never answers
    "cut",  # does the work, bills it, and hangs up half-way through the body
    "html",  # answers 200 with a web page; billed
    "broken_json",  # a tool call whose arguments are no JSON; billed
    "unknown_tool",  # a call of a tool that was not offered; billed
    "nameless",  # a tool call without a name; billed
    "truncated",  # cut by the token limit: finish_reason `length`; billed
    "die",  # does the work, bills it, and the process is gone
    "die_before",  # the process is gone at once; not billed
]


class Trouble(Record, frozen=True):
    """One way to misbehave, and when: at these requests (counted from 1), or every so many."""

    kind: Kind
    at: tuple[int, ...] = ()
    every: int = 0
    retry_after_s: float = 0.05

    def due(self, number: int) -> bool:
        return number in self.at or (self.every > 0 and number % self.every == 0)


class Bill(Record, frozen=True):
    """One reply that somebody pays for."""

    digest: str
    """Of the request's body."""
    key: str | None
    """The idempotency key it came with."""
    prompt_tokens: int
    completion_tokens: int
    batched: bool = False
    reply: dict[str, Any] = {}
    """In OpenAI's format, so that an honoured key is answered with the same again."""


class Config(Record, frozen=True):
    """How one process of the server behaves."""

    port: int
    bills: str
    troubles: tuple[Trouble, ...] = ()
    honours_keys: bool = False
    """A key seen before is answered with the same reply, and not billed again."""
    at_once: int | None = None
    """More requests than this under way at once are refused with 429."""
    latency_s: float = 0.0
    thinks: bool = False
    detour: float = 0.0
    key: str | None = None
    """The only API key that is let in."""
    models: tuple[str, ...] = ("desk",)
    tasks: tuple[tuple[str, int, int], ...] = (("train", 300, 0), ("dev", 100, 0))
    """(split, count, seed) of the desk's tasks it can play."""
    batch_looks: tuple[int, ...] = (1,)
    """How often the first batch is looked at before it has ended, and the second...; the last counts on."""


# ------------------------------------------------------------------------------- what it says


class Teacher:
    """The desk's expert, found again from the conversation; for other prompts a short true sentence."""

    def __init__(self, config: Config) -> None:
        self._expert = DeskExpert(detour=config.detour)
        self._thinks = config.thinks
        self._tasks: dict[tuple[str, str], Task] = {}
        for split, count, seed in config.tasks:
            for task in DeskWorld().tasks(Split(split), count=count, seed=seed):
                self._tasks.setdefault((task.system, task.user_turns[0]), task)

    async def message(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return the assistant message that answers the request."""
        messages = body["messages"]
        system = next((m["content"] for m in messages if m["role"] == "system"), "")
        user = next((m["content"] for m in messages if m["role"] == "user"), "")
        task = self._tasks.get((system, user))
        if any(m["role"] == "tool" and '"unknown_outcome"' in m["content"] for m in messages):
            return {"role": "assistant", "content": "Perhaps that was done; I ask a colleague."}
        if task is not None:
            return await self._play(task, body)
        if '{"score": N}' in system:
            return {"role": "assistant", "content": json.dumps({"score": score(user)})}
        return {"role": "assistant", "content": sentence(messages)}

    async def _play(self, task: Task, body: dict[str, Any]) -> dict[str, Any]:
        session = self._expert.start(task, limits=Limits(), seed=body.get("seed") or 0)
        names = {tool["function"]["name"] for tool in body.get("tools") or ()}
        heard: list[Message] = []
        before: list[Message] = []
        turn = AssistantMessage()
        for new in turns(body["messages"], names):
            turn = (await session.reply(new)).message
            heard += new
            before = list(heard)
            heard.append(turn)
        session.close()
        message: dict[str, Any] = {"role": "assistant", "content": turn.content or None}
        if self._thinks:
            message["reasoning_content"] = explain(task, before, turn)
        if turn.calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": json.dumps(call.arguments)},
                }
                for call in turn.calls
                if isinstance(call, ToolCall)
            ]
        return message


def turns(messages: Sequence[dict[str, Any]], tools: set[str]) -> Iterable[list[Message]]:
    """Yield what came before each turn of the assistant. Turns that misbehaved, and what they got, are left out."""
    new: list[Message] = []
    names: dict[str, str] = {}
    left_out: set[str] = set()
    for message in messages:
        match message["role"]:
            case "system":
                new.append(SystemMessage(content=message["content"]))
            case "user":
                new.append(UserMessage(content=message["content"]))
            case "tool":
                id_ = message["tool_call_id"]
                if id_ not in left_out:
                    new.append(
                        ToolMessage(
                            call_id=id_, name=names.get(id_, ""), content=message["content"]
                        )
                    )
            case "assistant":
                calls = message.get("tool_calls") or []
                odd = [
                    call
                    for call in calls
                    if call["function"]["name"] not in tools
                    or "malformed" in json.loads(call["function"]["arguments"] or "{}")
                ]
                if odd:
                    left_out |= {call["id"] for call in calls}
                    continue
                names |= {call["id"]: call["function"]["name"] for call in calls}
                yield new
                new = []
    yield new


def sentence(messages: Sequence[dict[str, Any]]) -> str:
    """Return a sentence that is true of the conversation and differs with it."""
    last = str(messages[-1].get("content") or "")
    words = re.findall(r"\w+", last)
    return (
        f"I need to go on from the last message, which has {len(words)} words and ends with "
        f"{words[-1] if words else 'nothing'!r}, because the answer depends on it."
    )


def score(question: str) -> int:
    """Return 5 for a record without an error in it, else 2."""
    return 2 if '"error"' in question else 5


def completion(message: dict[str, Any], finish: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return the response body, in OpenAI's format."""
    prompt = tokens([body["messages"], body.get("tools") or []])
    history = [m for m in body["messages"][:-1] if m["role"] == "assistant"]
    return {
        "id": "chatcmpl-" + digest(body)[:12],
        "object": "chat.completion",
        "created": 1,
        "model": body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": tokens([message]),
            "total_tokens": prompt + tokens([message]),
            "prompt_tokens_details": {"cached_tokens": prompt // 2 if history else 0},
        },
    }


def tokens(values: Sequence[Any]) -> int:
    return sum(len(json.dumps(each)) for each in values) // 4 + 1


def digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


# ------------------------------------------------------------------------------------- the server


class HalfOf(Response):
    """Half of a body, and then the connection is closed."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send(
            {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        )
        half = self.body[: len(self.body) // 2]
        await send({"type": "http.response.body", "body": bytes(half), "more_body": True})


class Server:
    """The state of one process."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.teacher = Teacher(config)
        self.bills = Path(config.bills)
        self.paid = {
            bill.key: bill.reply
            for bill in (read_jsonl(self.bills, Bill) if self.bills.exists() else ())
            if bill.key is not None
        }
        self.journal = JsonlAppender(self.bills)
        self.number = 0
        self.under_way = 0
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}

    def routes(self) -> list[Route]:
        return [
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/v1/models", self.models),
            Route("/v1/files", self.upload, methods=["POST"]),
            Route("/v1/files/{id}/content", self.content),
            Route("/v1/batches", self.create_batch, methods=["POST"]),
            Route("/v1/batches", self.list_batches),
            Route("/v1/batches/{id}", self.batch),
            Route("/v1/messages", self.messages, methods=["POST"]),
            Route("/v1/messages/batches", self.create_message_batch, methods=["POST"]),
            Route("/v1/messages/batches/{id}", self.message_batch),
            Route("/v1/messages/batches/{id}/results", self.message_results),
        ]

    async def models(self, _: Request) -> Response:
        data = [
            {"id": name, "object": "model", "created": 1, "owned_by": "desk"}
            for name in self.config.models
        ]
        return JSONResponse({"object": "list", "data": data})

    async def chat(self, request: Request) -> Response:
        body = await request.json()
        refusal = self.refusal(request.headers.get("authorization"), body)
        if refusal is not None:
            return refusal
        return await self.answer(body, request.headers.get("idempotency-key"), lambda reply: reply)

    def refusal(self, key: str | None, body: dict[str, Any]) -> Response | None:
        if self.config.key is not None and key not in (
            f"Bearer {self.config.key}",
            self.config.key,
        ):
            return fault(401, f"Incorrect API key provided: {(key or '').removeprefix('Bearer ')}")
        if body.get("model") not in self.config.models:
            return fault(404, f"The model {body.get('model')!r} does not exist")
        return None

    async def answer(self, body: dict[str, Any], key: str | None, shape: Any) -> Response:
        """Return the reply in its shape, or whatever trouble is due."""
        self.number += 1
        trouble = next((t for t in self.config.troubles if t.due(self.number)), None)
        kind = trouble.kind if trouble is not None else None
        if self.config.at_once is not None and self.under_way >= self.config.at_once:
            return fault(429, "too many requests at once")
        match kind:
            case "rate_limit":
                assert trouble is not None
                return fault(429, "slow down", headers={"Retry-After": str(trouble.retry_after_s)})
            case "overloaded":
                return fault(503, "overloaded")
            case "error":
                return fault(500, "something broke")
            case "die_before":
                os._exit(1)
        self.under_way += 1
        try:
            if self.config.latency_s:
                await asyncio.sleep(self.config.latency_s)
            reply = await self.billed(body, key, kind)
        finally:
            self.under_way -= 1
        match kind:
            case "die":
                os._exit(1)
            case "timeout":
                await asyncio.Event().wait()
            case "cut":
                return HalfOf(json.dumps(shape(reply)), media_type="application/json")
            case "html":
                return PlainTextResponse("<html>hello</html>", media_type="text/html")
        return JSONResponse(shape(reply))

    async def billed(
        self, body: dict[str, Any], key: str | None, kind: str | None, *, batched: bool = False
    ) -> dict[str, Any]:
        """Return the reply of a request, billed unless its key was honoured."""
        if self.config.honours_keys and key is not None and key in self.paid:
            return self.paid[key]
        message, finish = misbehave(await self.teacher.message(body), kind)
        reply = completion(message, finish, body)
        usage = reply["usage"]
        self.journal.append(
            Bill(
                digest=digest(body),
                key=key,
                prompt_tokens=usage["prompt_tokens"],
                completion_tokens=usage["completion_tokens"],
                batched=batched,
                reply=reply,
            )
        )
        if key is not None:
            self.paid[key] = reply
        return reply

    # ------------------------------------------------------------------------- OpenAI's batches

    async def upload(self, request: Request) -> Response:
        form = await request.form()
        file = form["file"]
        assert not isinstance(file, str)
        id_ = f"file-{len(self.files)}"
        self.files[id_] = await file.read()
        await form.close()
        return JSONResponse(
            {
                "id": id_,
                "object": "file",
                "bytes": len(self.files[id_]),
                "created_at": 1,
                "filename": "batch.jsonl",
                "purpose": "batch",
                "status": "processed",
            }
        )

    async def content(self, request: Request) -> Response:
        return Response(self.files[request.path_params["id"]], media_type="application/jsonl")

    async def create_batch(self, request: Request) -> Response:
        self.number += 1
        asked = await request.json()
        trouble = next((t for t in self.config.troubles if t.due(self.number)), None)
        if trouble is not None and trouble.kind == "overloaded":
            return fault(503, "overloaded")
        batch = {
            "id": f"batch-{len(self.batches)}",
            "object": "batch",
            "endpoint": asked["endpoint"],
            "input_file_id": asked["input_file_id"],
            "completion_window": "24h",
            "created_at": 1,
            "status": "in_progress",
            "metadata": asked.get("metadata"),
            "looks": 0,
        }
        self.batches[str(batch["id"])] = batch
        if trouble is not None and trouble.kind == "die":
            os._exit(1)
        if trouble is not None and trouble.kind == "cut":
            return HalfOf(json.dumps(batch), media_type="application/json")
        return JSONResponse(batch)

    async def list_batches(self, _: Request) -> Response:
        data = list(reversed(self.batches.values()))
        return JSONResponse({"object": "list", "data": data, "has_more": False})

    async def batch(self, request: Request) -> Response:
        batch = self.batches[request.path_params["id"]]
        batch["looks"] += 1
        if self._done(batch) and batch["status"] == "in_progress":
            await self._run_batch(batch)
        return JSONResponse(batch)

    def _done(self, batch: dict[str, Any]) -> bool:
        position = list(self.batches).index(batch["id"])
        looks = self.config.batch_looks
        return bool(batch["looks"] > looks[min(position, len(looks) - 1)])

    async def _run_batch(self, batch: dict[str, Any]) -> None:
        replies, errors = [], []
        for number, line in enumerate(self.files[batch["input_file_id"]].splitlines(), 1):
            entry = json.loads(line)
            trouble = next((t for t in self.config.troubles if t.due(number)), None)
            kind = trouble.kind if trouble is not None else None
            if kind == "error":
                answer = {"status_code": 500, "body": {"error": {"message": "something broke"}}}
                errors.append({"custom_id": entry["custom_id"], "response": answer, "error": None})
                continue
            reply = await self.billed(entry["body"], entry["custom_id"], kind, batched=True)
            replies.append(
                {
                    "id": f"r-{number}",
                    "custom_id": entry["custom_id"],
                    "response": {"status_code": 200, "request_id": "x", "body": reply},
                    "error": None,
                }
            )
        batch["status"] = "completed"
        for name, entries in (("output_file_id", replies), ("error_file_id", errors)):
            if entries:
                batch[name] = f"file-{len(self.files)}"
                self.files[batch[name]] = b"".join(
                    json.dumps(entry).encode() + b"\n" for entry in entries
                )

    # --------------------------------------------------------------------- Anthropic's messages

    async def messages(self, request: Request) -> Response:
        asked = await request.json()
        refusal = self.refusal(request.headers.get("x-api-key"), asked)
        if refusal is not None:
            return refusal
        try:
            body = from_anthropic(asked, signed=self.config.thinks)
        except ValueError as error:
            return fault(400, str(error))
        return await self.answer(body, request.headers.get("idempotency-key"), to_anthropic)

    async def create_message_batch(self, request: Request) -> Response:
        asked = await request.json()
        batch = {
            "id": f"msgbatch_{len(self.batches)}",
            "looks": 0,
            "requests": asked["requests"],
            "ended": False,
        }
        self.batches[str(batch["id"])] = batch
        return JSONResponse(message_batch(batch))

    async def message_batch(self, request: Request) -> Response:
        batch = self.batches[request.path_params["id"]]
        batch["looks"] += 1
        batch["ended"] = self._done(batch)
        return JSONResponse(message_batch(batch, str(request.base_url)))

    async def message_results(self, request: Request) -> Response:
        batch = self.batches[request.path_params["id"]]
        lines = []
        for number, entry in enumerate(batch["requests"], 1):
            trouble = next((t for t in self.config.troubles if t.due(number)), None)
            if trouble is not None and trouble.kind == "error":
                error = {"type": "error", "error": {"type": "api_error", "message": "it broke"}}
                result: dict[str, Any] = {"type": "errored", "error": error}
            else:
                body = from_anthropic(entry["params"], signed=self.config.thinks)
                reply = await self.billed(body, entry["custom_id"], None, batched=True)
                result = {"type": "succeeded", "message": to_anthropic(reply)}
            lines.append(json.dumps({"custom_id": entry["custom_id"], "result": result}))
        return Response("\n".join(lines), media_type="application/x-jsonl")


def message_batch(batch: dict[str, Any], base: str = "") -> dict[str, Any]:
    total = len(batch["requests"])
    ended = batch["ended"]
    return {
        "id": batch["id"],
        "type": "message_batch",
        "processing_status": "ended" if ended else "in_progress",
        "request_counts": {
            "processing": 0 if ended else total,
            "succeeded": total if ended else 0,
            "errored": 0,
            "canceled": 0,
            "expired": 0,
        },
        "created_at": "2026-01-01T00:00:00Z",
        "expires_at": "2026-01-02T00:00:00Z",
        "ended_at": "2026-01-01T00:01:00Z" if ended else None,
        "archived_at": None,
        "cancel_initiated_at": None,
        "results_url": f"{base}v1/messages/batches/{batch['id']}/results" if ended else None,
    }


def misbehave(message: dict[str, Any], kind: str | None) -> tuple[dict[str, Any], str]:
    """Return the message as the trouble would have it, and its finish reason."""
    calls = message.get("tool_calls")
    finish = "tool_calls" if calls else "stop"
    if kind == "truncated":
        return {"role": "assistant", "content": str(message.get("content") or "I wo")[:4]}, "length"
    if calls and kind in ("broken_json", "unknown_tool", "nameless"):
        function = dict(calls[0]["function"])
        if kind == "broken_json":
            function["arguments"] = function["arguments"][:-1] + ", "
        elif kind == "unknown_tool":
            function["name"] = "no_such_tool"
        else:
            del function["name"]
        return message | {"tool_calls": [calls[0] | {"function": function}]}, finish
    return message, finish


def from_anthropic(asked: dict[str, Any], *, signed: bool) -> dict[str, Any]:
    """Return the request in OpenAI's format.

    Raises:
        ValueError: what Anthropic's API refuses: an unknown field, or thinking that was not given back.
    """
    known = {"model", "messages", "system", "max_tokens", "tools", "tool_choice", "temperature"}
    if unknown := set(asked) - known - {"thinking", "top_p", "stop_sequences", "stream"}:
        raise ValueError(f"{sorted(unknown)[0]}: Extra inputs are not permitted")
    messages: list[dict[str, Any]] = []
    if asked.get("system"):
        messages.append({"role": "system", "content": asked["system"]})
    for message in asked["messages"]:
        content = message["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        texts = "".join(block["text"] for block in blocks if block["type"] == "text")
        if message["role"] == "user":
            for block in blocks:
                if block["type"] == "tool_result":
                    messages.append(
                        {
                            "role": "tool",
                            "tool_call_id": block["tool_use_id"],
                            "content": block["content"],
                        }
                    )
            if texts:
                messages.append({"role": "user", "content": texts})
            continue
        calls = [
            {
                "id": block["id"],
                "type": "function",
                "function": {"name": block["name"], "arguments": json.dumps(block["input"])},
            }
            for block in blocks
            if block["type"] == "tool_use"
        ]
        thinking = [block for block in blocks if block["type"] == "thinking"]
        if signed and calls:
            if not thinking:
                raise ValueError("Expected `thinking`, but found `tool_use`")
            if thinking[0]["signature"] != signature(thinking[0]["thinking"]):
                raise ValueError("Invalid `signature` in `thinking` block")
        messages.append(
            {"role": "assistant", "content": texts or None}
            | ({"tool_calls": calls} if calls else {})
        )
    body = {"model": asked["model"], "messages": messages, "max_tokens": asked["max_tokens"]}
    if asked.get("tools"):
        body["tools"] = [
            {
                "type": "function",
                "function": {
                    "name": tool["name"],
                    "description": tool["description"],
                    "parameters": tool["input_schema"],
                },
            }
            for tool in asked["tools"]
        ]
    return body


def to_anthropic(reply: dict[str, Any]) -> dict[str, Any]:
    """Return the reply in Anthropic's format."""
    choice, usage = reply["choices"][0], reply["usage"]
    message = choice["message"]
    blocks: list[dict[str, Any]] = []
    if thinking := message.get("reasoning_content"):
        blocks.append({"type": "thinking", "thinking": thinking, "signature": signature(thinking)})
    if message.get("content"):
        blocks.append({"type": "text", "text": message["content"]})
    for call in message.get("tool_calls") or ():
        function = call["function"]
        blocks.append(
            {
                "type": "tool_use",
                "id": call["id"],
                "name": function["name"],
                "input": json.loads(function["arguments"]),
            }
        )
    reasons = {"stop": "end_turn", "tool_calls": "tool_use", "length": "max_tokens"}
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    return {
        "id": "msg_" + reply["id"],
        "type": "message",
        "role": "assistant",
        "model": reply["model"],
        "content": blocks,
        "stop_reason": reasons[choice["finish_reason"]],
        "stop_sequence": None,
        "usage": {
            "input_tokens": usage["prompt_tokens"] - cached,
            "output_tokens": usage["completion_tokens"],
            "cache_read_input_tokens": cached,
            "cache_creation_input_tokens": 0,
        },
    }


def signature(thinking: str) -> str:
    return hashlib.sha256(thinking.encode()).hexdigest()[:16]


def fault(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    body = {"type": "error", "error": {"message": message, "type": "fault", "code": None}}
    return JSONResponse(body, status_code=status, headers=headers)


def serve(config: Config) -> None:
    """Serve until killed."""
    server = Server(config)
    app = Starlette(routes=server.routes())
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=config.port,
        log_level="critical",
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=0,
    )


# ------------------------------------------------------------------------------ for the tests


class TeacherServer:
    """The server as a process of its own, while the `with` block lasts."""

    def __init__(
        self, *troubles: Trouble, folder: Path, port: int | None = None, **how: Any
    ) -> None:
        """Start it, and return when it listens.

        Args:
            troubles: how it misbehaves; the first that is due counts.
            folder: where the bills go.
            port: None takes a free one.
            how: further fields of `Config`.
        """
        if port is None:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
        self._folder = folder
        self.config = Config(port=port, bills=str(folder / "bills.jsonl"), troubles=troubles, **how)
        self.url = f"http://127.0.0.1:{port}/v1"
        self._process: subprocess.Popen[bytes] | None = None
        self.start_again(*troubles)

    def start_again(self, *troubles: Trouble, **how: Any) -> None:
        """Start it after its death, on the same port with the same bills, with these troubles instead."""
        self.close()
        self.config = msgspec.structs.replace(self.config, troubles=troubles, **how)
        path = self._folder / "teacher_server.json"
        path.write_bytes(msgspec.json.encode(self.config))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.teacher_server", str(path)],
            cwd=ROOT,
            env=ENVIRONMENT,
        )
        for _ in range(600):
            if self._process.poll() is not None:
                raise RuntimeError("the teacher server ended before it listened")
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.config.port)) == 0:
                    return
            time.sleep(0.05)
        raise RuntimeError("the teacher server does not listen")

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def bills(self) -> list[Bill]:
        """Return everything it ever billed, in order, lives before this one included."""
        path = Path(self.config.bills)
        return list(read_jsonl(path, Bill, drop_torn_tail=True)) if path.exists() else []

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> TeacherServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


if __name__ == "__main__":
    serve(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Config))
