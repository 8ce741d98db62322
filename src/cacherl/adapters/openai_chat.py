"""Models behind an OpenAI-compatible endpoint: providers, vLLM, Ollama, LM Studio, llama.cpp."""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import openai

from cacherl.core.errors import ModelError
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
from cacherl.core.tasks import Task
from cacherl.core.tools import ToolSpec
from cacherl.core.trajectories import TokenSegment

CHARS_PER_TOKEN = 4
"""A guess, used where the endpoint's tokenizer is out of reach; providers give the same rule of thumb."""

CUT = "... [cut]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Dollars per million tokens."""

    prompt: float
    completion: float

    def dollars(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Return what that many tokens cost."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What a model has cost since it was made."""

    requests: int = 0
    """Answered ones; the client's own retries are not among them."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    dollars: float | None = None
    """None where no price was given."""


class OpenAIChat:
    """A `ChatModel` over `POST {base_url}/chat/completions`.

    Time-outs, lost connections, 408, 409, 429 and 5xx are tried again by the official client, with
    exponential back-off and the server's `Retry-After`. `limits.first_turn_min_tokens` has no
    counterpart in the protocol and is not applied. Token ids are not exposed, so
    `segments()` is empty.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str = "https://api.openai.com/v1",
        api_key_env: str = "OPENAI_API_KEY",
        temperature: float | None = None,
        timeout_s: float = 120.0,
        max_retries: int = 4,
        price: Price | None = None,
        send_seed: bool = True,
        extra_body: Mapping[str, Any] | None = None,
    ) -> None:
        """Connects on first use.

        Args:
            model: the endpoint's name for the model.
            base_url: up to and including `/v1`.
            api_key_env: the environment variable that holds the key; local servers need none.
            temperature: None leaves it to the endpoint.
            timeout_s: seconds for one attempt.
            max_retries: attempts after the first.
            price: dollars per million tokens.
            send_seed: False for endpoints that refuse a `seed`.
            extra_body: further fields of each request, such as `{"top_k": 20}`.
        """
        self.name = model
        self.base_url = base_url.rstrip("/")
        self.spent = Spent(dollars=0.0 if price is not None else None)
        self._api_key_env = api_key_env
        self._temperature = temperature
        self._timeout_s = timeout_s
        self._max_retries = max_retries
        self._price = price
        self._send_seed = send_seed
        self._extra_body = dict(extra_body or {})
        # OpenAI's reasoning models refuse the old name; many other servers know only that.
        hosted = "api.openai.com" in self.base_url
        self._max_tokens_field = "max_completion_tokens" if hosted else "max_tokens"
        self._client: tuple[asyncio.AbstractEventLoop, openai.AsyncOpenAI] | None = None

    def start(self, task: Task, *, limits: Limits, seed: int) -> _Session:
        """Open a conversation. Costs nothing until the first reply."""
        return _Session(self, task.tools, limits, seed)

    async def aclose(self) -> None:
        """Close the connections. Safe to call twice; a later reply opens new ones."""
        if self._client is not None:
            loop, client = self._client
            self._client = None
            if loop is asyncio.get_running_loop():
                await client.close()

    def _connected(self) -> openai.AsyncOpenAI:
        # Connections belong to an event loop, and each command's stage runs a loop of its own.
        loop = asyncio.get_running_loop()
        if self._client is None or self._client[0] is not loop:
            client = openai.AsyncOpenAI(
                api_key=os.environ.get(self._api_key_env) or "none",
                base_url=self.base_url,
                timeout=self._timeout_s,
                max_retries=self._max_retries,
            )
            self._client = (loop, client)
        return self._client[1]

    async def _complete(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        *,
        max_tokens: int,
        seed: int,
    ) -> Mapping[str, Any] | None:
        """Return the response body, or None where the conversation no longer fits.

        Raises:
            ModelError: no answer, or a refusal; one line with the URL, what was seen and the fix.
        """
        body: dict[str, Any] = {
            "model": self.name,
            "messages": list(messages),
            self._max_tokens_field: max_tokens,
            **self._extra_body,
        }
        if tools:
            body["tools"] = list(tools)
        if self._temperature is not None:
            body["temperature"] = self._temperature
        if self._send_seed:
            body["seed"] = seed
        url = f"{self.base_url}/chat/completions"
        try:
            # The plain body, not the client's typed method: servers add fields (`reasoning_content`)
            # and leave out others, and both are read below.
            response = await self._connected().post(
                "/chat/completions", cast_to=dict[str, Any], body=body
            )
        except openai.APITimeoutError as error:
            raise ModelError(
                f"{url}: no answer within {self._timeout_s:g} s, {self._max_retries + 1} times. "
                "Give it a longer `timeout_s`, or fewer requests at once."
            ) from error
        except openai.APIConnectionError as error:
            seen = error.__cause__ or error
            raise ModelError(
                f"{url}: no connection ({type(seen).__name__}: {_one_line(str(seen))}). "
                "Start the server, or correct `base_url`."
            ) from error
        except openai.APIStatusError as error:
            if _is_context_full(error):
                return None
            raise self._refused(url, error) from error
        except (openai.APIResponseValidationError, ValueError) as error:
            raise ModelError(
                f"{url}: the answer is not JSON ({_one_line(str(error))}). "
                "Is `base_url` an OpenAI-compatible endpoint (it usually ends in /v1)?"
            ) from error
        if not isinstance(response, Mapping) or not response.get("choices"):
            raise ModelError(
                f"{url}: the answer has no `choices` ({_one_line(str(response))}). "
                "Is `base_url` an OpenAI-compatible endpoint (it usually ends in /v1)?"
            )
        return response

    def _refused(self, url: str, error: openai.APIStatusError) -> ModelError:
        seen = f"{error.status_code}: {_one_line(_server_words(error))}"
        match error.status_code:
            case 401 | 403:
                known = "is set" if os.environ.get(self._api_key_env) else "is not set"
                fix = f"The key is read from ${self._api_key_env}, which {known}: put a valid key there."
            case 404:
                fix = (
                    f"Does the server know the model {self.name!r}? `curl {self.base_url}/models` lists "
                    "what it has; correct `model` or `base_url`."
                )
            case 429:
                fix = (
                    f"Still so after {self._max_retries + 1} attempts: wait, lower the concurrency, or check "
                    "the account's quota."
                )
            case status if status >= 500:
                fix = f"Still so after {self._max_retries + 1} attempts: look at the server's log."
            case _:
                fix = "Correct the request's settings (`model`, `temperature`, `send_seed`, `extra_body`)."
        return ModelError(f"{url}: refused with {seen}. {fix}")

    def _count(self, prompt_tokens: int, completion_tokens: int) -> None:
        old = self.spent
        dollars = old.dollars
        if self._price is not None:
            dollars = (dollars or 0.0) + self._price.dollars(prompt_tokens, completion_tokens)
        self.spent = Spent(
            requests=old.requests + 1,
            prompt_tokens=old.prompt_tokens + prompt_tokens,
            completion_tokens=old.completion_tokens + completion_tokens,
            dollars=dollars,
        )


class _Session:
    """One conversation: the history in the endpoint's format."""

    def __init__(
        self, model: OpenAIChat, tools: Sequence[ToolSpec], limits: Limits, seed: int
    ) -> None:
        self._model = model
        self._tools = [_function(spec) for spec in tools]
        self._limits = limits
        self._seed = seed
        self._history: list[dict[str, Any]] = []
        self._ids: set[str] = set()
        self._turns = 0
        self._known_tokens = 0
        """What the endpoint counted for the history up to and including its last turn."""

    async def reply(self, new: Sequence[Message]) -> ModelTurn:
        added = [_wire(message) for message in new]
        if self._known_tokens == 0:  # tools are part of what the endpoint counts
            estimate = _tokens(self._tools) + _tokens(added)
        else:
            estimate = self._known_tokens + _tokens(added)
        if estimate >= self._limits.max_context_tokens:
            return ModelTurn(message=AssistantMessage(), context_full=True)
        self._history += added
        started = time.perf_counter()
        response = await self._model._complete(
            self._history,
            self._tools,
            max_tokens=min(
                self._limits.max_turn_tokens, self._limits.max_context_tokens - estimate
            ),
            seed=self._seed,
        )
        model_s = time.perf_counter() - started
        if response is None:
            return ModelTurn(message=AssistantMessage(), context_full=True, model_s=model_s)
        choice = response["choices"][0]
        said = choice.get("message") or {}
        message = self._read(said)
        self._history.append(_wire(message))
        self._turns += 1
        usage = response.get("usage") or {}
        prompt_tokens = usage.get("prompt_tokens") or estimate
        completion_tokens = usage.get("completion_tokens") or _tokens([said])
        self._known_tokens = prompt_tokens + completion_tokens
        self._model._count(prompt_tokens, completion_tokens)
        return ModelTurn(
            message=message,
            truncated=choice.get("finish_reason") == "length",
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            model_s=model_s,
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
        content = said.get("content") or ""
        thinking = said.get("reasoning_content") or said.get("reasoning")
        if thinking is None:
            thinking, content = _split_thinking(content)
        calls = tuple(
            self._read_call(raw, position)
            for position, raw in enumerate(said.get("tool_calls") or ())
        )
        return AssistantMessage(
            content=content.strip(),
            thinking=thinking.strip() or None if isinstance(thinking, str) else None,
            calls=calls,
        )

    def _read_call(self, raw: Mapping[str, Any], position: int) -> Call:
        function = raw.get("function") or {}
        name, text = function.get("name") or "", function.get("arguments")
        # Some servers number the calls of every turn from 0; ids must be unique in a conversation.
        id_ = str(raw.get("id") or "")
        if not id_ or id_ in self._ids:
            id_ = f"call_{self._turns}_{position}"
        self._ids.add(id_)
        if isinstance(text, Mapping):  # Ollama's own API shape, seen through proxies
            return ToolCall(id=id_, name=name, arguments=dict(text))
        problem = None
        arguments: Any = {}
        if not name:
            problem = "the call names no tool"
        else:
            try:
                arguments = json.loads(text) if text and text.strip() else {}
            except ValueError as error:
                problem = f"the arguments of {name} are not valid JSON: {error}"
            else:
                if not isinstance(arguments, dict):
                    problem = f"the arguments of {name} are not a JSON object"
        if problem is not None:
            return MalformedCall(id=id_, text=f"{name}({text})", problem=problem)
        return ToolCall(id=id_, name=name, arguments=arguments)


# --------------------------------------------------------------------------------------- the wire


def _function(spec: ToolSpec) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {
            "name": spec.name,
            "description": spec.description,
            "parameters": spec.parameters,
        },
    }


def _wire(message: Message) -> dict[str, Any]:
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
            wire: dict[str, Any] = {"role": "assistant", "content": message.content}
            if message.calls:
                wire["tool_calls"] = [_wire_call(call) for call in message.calls]
            return wire


def _wire_call(call: Call) -> dict[str, Any]:
    if isinstance(call, ToolCall):
        name, arguments = call.name, json.dumps(call.arguments, ensure_ascii=False)
    else:
        # Servers parse the arguments of earlier calls again, so what was malformed goes back quoted.
        name = re.sub(r"[^A-Za-z0-9_-]", "", call.text.split("(", 1)[0])[:64] or "malformed_call"
        arguments = json.dumps({"malformed": call.text}, ensure_ascii=False)
    return {"id": call.id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _split_thinking(content: str) -> tuple[str | None, str]:
    """Return (thinking, rest) of a text with its own think tags; servers without a parser leave them in."""
    if "</think>" not in content:
        return None, content
    thinking, rest = content.split("</think>", 1)
    return thinking.replace("<think>", "", 1), rest


def _tokens(values: Sequence[Mapping[str, Any]]) -> int:
    return sum(len(json.dumps(value, ensure_ascii=False)) for value in values) // CHARS_PER_TOKEN


def _is_context_full(error: openai.APIStatusError) -> bool:
    if error.status_code not in (400, 413, 422):
        return False
    words = f"{getattr(error, 'code', '')} {_server_words(error)}".lower()
    return "context_length" in words or "context length" in words or "context window" in words


def _server_words(error: openai.APIStatusError) -> str:
    body = error.body
    if isinstance(body, Mapping):
        return str(body.get("message") or body.get("error") or body.get("detail") or body)
    return str(body or error.response.text or error.response.reason_phrase)


def _one_line(text: str, limit: int = 160) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 3] + "..."
