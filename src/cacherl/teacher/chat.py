"""A `ChatModel` over an endpoint: conversations in OpenAI's chat format, one request a turn."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from cacherl.core.completions import CompletionReply, CompletionRequest, Completions, KeptReply
from cacherl.core.jsonl import whole
from cacherl.core.messages import (
    AssistantMessage,
    Call,
    MalformedCall,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from cacherl.core.models import Limits, ModelTurn
from cacherl.core.records import JsonObject
from cacherl.core.tasks import Task
from cacherl.core.tools import ToolSpec
from cacherl.core.trajectories import TokenSegment
from cacherl.teacher.ledger import Ledger, Tally, tokens_used
from cacherl.teacher.prices import NANO, PriceTable

CHARS_PER_TOKEN = 4
"""A guess, used where the endpoint's tokenizer is out of reach; providers give the same rule of thumb."""

CUT = "... [cut]"


class EndpointChat:
    """A `ChatModel` that asks through `Completions`.

    `limits.first_turn_min_tokens` has no counterpart in the protocol and is not applied. Token ids
    are not exposed, so `segments()` is empty.
    """

    def __init__(
        self,
        completions: Completions,
        *,
        model: str,
        purpose: str = "chat",
        temperature: float | None = None,
        send_seed: bool = True,
        extra: JsonObject | None = None,
        tally: Tally | None = None,
        notices: Sequence[str] = (),
    ) -> None:
        """Costs nothing until the first reply.

        Args:
            completions: who answers the requests.
            model: the endpoint's name for the model.
            purpose: what the requests are for; each is asked as `<purpose>/<task>/<seed>`.
            temperature: None leaves it to the endpoint.
            send_seed: False for endpoints that refuse a `seed`.
            extra: further fields of each request, such as `{"top_k": 20}`.
            tally: what `ledger()` reports; None counts nothing.
            notices: what a person should be told before the first request.
        """
        self.notices = tuple(notices)
        self._completions = completions
        self._model = model
        self._purpose = purpose
        self._temperature = temperature
        self._send_seed = send_seed
        self._extra = dict(extra or {})
        self._prices = None if tally is None else tally.prices
        self._tally = tally if tally is not None else Tally(PriceTable())

    @property
    def name(self) -> str:
        return self._completions.name

    def start(self, task: Task, *, limits: Limits, seed: int) -> _Session:
        """Open a conversation. Costs nothing until the first reply."""
        return _Session(self, task, limits, seed)

    def ledger(self) -> Ledger:
        """Return what was asked and what it cost, over the whole history of the journal folder."""
        return self._tally.ledger()

    async def aclose(self) -> None:
        """Close connections and files. Safe to call twice."""
        await self._completions.aclose()

    def _dollars(self, reply: CompletionReply) -> float | None:
        if self._prices is None:
            return None
        used = tokens_used(reply)
        at = datetime.now(UTC)
        nano = self._prices.nanodollars(self.name, used, at=at, batched=reply.batched)
        return None if nano is None else nano / NANO

    def _request(
        self,
        messages: Sequence[JsonObject],
        tools: Sequence[JsonObject],
        *,
        max_tokens: int,
        task_id: str,
        seed: int,
    ) -> CompletionRequest:
        return CompletionRequest(
            model=self._model,
            messages=tuple(messages),
            tools=tuple(tools),
            max_tokens=max_tokens,
            temperature=self._temperature,
            seed=seed if self._send_seed else None,
            extra=self._extra,
            purpose=f"{self._purpose}/{task_id}/{seed}",
        )


class _Session:
    """One conversation: the history in the endpoint's format."""

    def __init__(self, model: EndpointChat, task: Task, limits: Limits, seed: int) -> None:
        self._model = model
        self._task = task
        self._tools: list[JsonObject] = []
        self._said = 0
        self._limits = limits
        self._seed = seed
        self._history: list[JsonObject] = []
        self._ids: set[str] = set()
        self._turns = 0
        self._known_tokens = 0
        """What the endpoint counted for the history up to and including its last turn."""

    async def reply(self, new: Sequence[Message]) -> ModelTurn:
        added = [_wire(message) for message in new]
        self._said += sum(isinstance(message, UserMessage) for message in new)
        before = _tokens(self._tools)
        self._tools = [_function(spec) for spec in self._task.offered(self._said - 1)]
        if self._known_tokens == 0:  # tools are part of what the endpoint counts
            estimate = _tokens(self._tools) + _tokens(added)
        else:
            estimate = self._known_tokens + _tokens(added) + _tokens(self._tools) - before
        if estimate >= self._limits.max_context_tokens:
            return ModelTurn(message=AssistantMessage(), context_full=True)
        self._history += added
        request = self._model._request(
            self._history,
            self._tools,
            max_tokens=min(
                self._limits.max_turn_tokens, self._limits.max_context_tokens - estimate
            ),
            task_id=self._task.id,
            seed=self._seed,
        )
        started = time.perf_counter()
        reply = await self._model._completions.complete(request)
        model_s = time.perf_counter() - started
        if reply.context_full:
            return ModelTurn(message=AssistantMessage(), context_full=True, model_s=model_s)
        said = whole(reply.message)  # what a request cannot hold must not get into the history
        message = self._read(said)
        self._history.append(_echo(message, said))
        self._turns += 1
        self._known_tokens = reply.prompt_tokens + reply.completion_tokens
        return ModelTurn(
            message=message,
            truncated=reply.finish_reason == "length",
            prompt_tokens=reply.prompt_tokens,
            completion_tokens=reply.completion_tokens,
            model_s=model_s,
            dollars=self._model._dollars(reply),
            kept=isinstance(reply, KeptReply),
        )

    def clip(self, text: str, max_tokens: int) -> str:
        limit = max_tokens * CHARS_PER_TOKEN
        if len(text) <= limit:
            return text
        return text[: max(0, limit - len(CUT))] + CUT

    def segments(self) -> tuple[TokenSegment, ...]:
        return ()

    def close(self) -> None:
        self._history = []

    def _read(self, said: Mapping[str, Any]) -> AssistantMessage:
        content = _text(said.get("content")) or _text(said.get("refusal"))
        thinking = said.get("reasoning_content") or said.get("reasoning")
        if thinking is None:
            thinking, content = _split_thinking(content)
        calls = tuple(
            self._read_call(raw if isinstance(raw, Mapping) else {}, position)
            for position, raw in enumerate(said.get("tool_calls") or ())
        )
        return AssistantMessage(
            content=content.strip(),
            thinking=thinking.strip() or None if isinstance(thinking, str) else None,
            calls=calls,
        )

    def _read_call(self, raw: Mapping[str, Any], position: int) -> Call:
        function = raw.get("function") or {}
        name, text = str(function.get("name") or ""), function.get("arguments")
        # Some servers number the calls of every turn from 0; ids must be unique in a conversation.
        id_ = str(raw.get("id") or "")
        if not id_ or id_ in self._ids:
            id_ = f"call_{self._turns}_{position}"
        self._ids.add(id_)
        problem = None
        arguments: Any = {}
        if not name:
            problem = "the call names no tool"
        elif isinstance(text, Mapping):  # Ollama's own API shape, seen through proxies
            arguments = dict(text)
        elif text is not None and not isinstance(text, str):
            problem = f"the arguments of {name} are not a JSON object"
        else:
            try:
                arguments = json.loads(text) if text and text.strip() else {}
            except ValueError as error:
                problem = f"the arguments of {name} are not valid JSON: {error}"
            else:
                if not isinstance(arguments, dict):
                    problem = f"the arguments of {name} are not a JSON object"
                elif whole(arguments) != arguments:
                    problem = f"the arguments of {name} hold half a character (a lone surrogate)"
        if problem is not None:
            return MalformedCall(id=id_, text=f"{name}({text})", problem=problem)
        return ToolCall(id=id_, name=name, arguments=arguments)


# --------------------------------------------------------------------------------------- the wire


def _function(spec: ToolSpec) -> JsonObject:
    return {
        "type": "function",
        "function": {
            "name": spec.name,
            "description": spec.description,
            "parameters": spec.parameters,
        },
    }


def _wire(message: Message) -> JsonObject:
    """Return the message in the endpoint's format. Thinking stays out: providers refuse it as input."""
    match message:
        case SystemMessage() | UserMessage():
            return {
                "role": "system" if isinstance(message, SystemMessage) else "user",
                "content": message.content,
            }
        case ToolMessage():
            return {
                "role": "tool",
                "tool_call_id": message.call_id,
                "content": message.content,
            }
        case AssistantMessage():
            wire: JsonObject = {"role": "assistant", "content": message.content}
            if message.calls:
                wire["tool_calls"] = [_wire_call(call) for call in message.calls]
            return wire


def _wire_call(call: Call) -> JsonObject:
    if isinstance(call, ToolCall):
        name, arguments = call.name, json.dumps(call.arguments, ensure_ascii=False)
    else:
        # Servers parse the arguments of earlier calls again, so what was malformed goes back quoted.
        name = re.sub(r"[^A-Za-z0-9_-]", "", call.text.split("(", 1)[0])[:64] or "malformed_call"
        arguments = json.dumps({"malformed": call.text}, ensure_ascii=False)
    return {"id": call.id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _echo(message: AssistantMessage, said: Mapping[str, Any]) -> JsonObject:
    """Return the model's own turn as it goes back to the endpoint.

    What a provider wants back unchanged while tools are in use (Claude's signed thinking, DeepSeek's
    reasoning, Gemini's thought signatures) stands in `extra_content` and goes along.
    """
    wire = _wire(message)
    if said.get("extra_content"):
        wire["extra_content"] = said["extra_content"]
        if said.get("reasoning_content"):
            wire["reasoning_content"] = said["reasoning_content"]
    for mine, raw in zip(wire.get("tool_calls", ()), said.get("tool_calls") or (), strict=False):
        if isinstance(raw, Mapping) and raw.get("extra_content"):
            mine["extra_content"] = raw["extra_content"]
    return wire


def _text(content: Any) -> str:
    """Return the words of a message's content, which some servers send in parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, Mapping)]
        return "".join(part for part in parts if isinstance(part, str))
    return ""


def _split_thinking(content: str) -> tuple[str | None, str]:
    """Return (thinking, rest) of a text with its own think tags; servers without a parser leave them in."""
    if "</think>" not in content:
        return None, content
    thinking, rest = content.split("</think>", 1)
    return thinking.replace("<think>", "", 1), rest


def _tokens(values: Sequence[JsonObject]) -> int:
    return sum(len(json.dumps(value, ensure_ascii=False)) for value in values) // CHARS_PER_TOKEN
