"""Live completions of any provider that any-llm knows, through the providers' own official clients.

any-llm finds the provider, its address, its key and its way of being asked. Replies in OpenAI's format are read
from the bytes that came, not from any-llm's model of them: that one refuses a reply (paid for) whose tool call has
no name or whose finish reason is missing, and drops fields that servers add.
"""

from __future__ import annotations

import asyncio
import contextvars
import email.utils
import json
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import any_llm
import openai
from any_llm.exceptions import (
    AnyLLMError,
    ContextLengthExceededError,
    MissingApiKeyError,
    UnsupportedParameterError,
    UnsupportedProviderError,
)
from any_llm.providers.openai.base import BaseOpenAIProvider

from cacherl.core.completions import CompletionReply, CompletionRequest
from cacherl.core.errors import MissingExtraError, RecipeError
from cacherl.core.records import JsonObject
from cacherl.teacher.failure import EndpointError, Failure
from cacherl.teacher.lines import digest_of
from cacherl.teacher.options import Endpoint

CHARS_PER_TOKEN = 4

NAMED = frozenset(
    {
        "frequency_penalty",
        "logit_bias",
        "parallel_tool_calls",
        "presence_penalty",
        "prompt_cache_key",
        "reasoning_effort",
        "response_format",
        "service_tier",
        "stop",
        "tool_choice",
        "top_p",
        "user",
    }
)
"""Fields of `extra` that any-llm puts into each provider's own words; the others go out as they are."""

CONTEXT_FULL = ("context_length", "context length", "context window", "prompt is too long")


class _Seen:
    """What came over the wire for one request."""

    __slots__ = ("content", "headers", "status")

    def __init__(self) -> None:
        self.status: int | None = None
        self.headers: Mapping[str, str] = {}
        self.content = b""

    def body(self) -> Any:
        try:
            return json.loads(self.content)
        except ValueError:
            return None


_SEEN: contextvars.ContextVar[_Seen | None] = contextvars.ContextVar("seen", default=None)


async def _keep(response: Any) -> None:
    """Keep the bytes of a response for whoever asked in this task (an event hook of httpx)."""
    seen = _SEEN.get()
    if seen is not None:
        await response.aread()
        seen.status, seen.headers, seen.content = (
            response.status_code,
            response.headers,
            response.content,
        )


class AnyLLMCompletions:
    """`Completions` that ask the endpoint, once: retries are `teacher.pace`'s.

    Connects on first use, and belongs to one event loop.
    """

    def __init__(
        self, endpoint: Endpoint, *, timeout_s: float = 180.0, api_key_env: str | None = None
    ) -> None:
        """Connects on first use.

        Args:
            endpoint: provider, model, and address where it is not the provider's own.
            timeout_s: seconds for one request, whole.
            api_key_env: the environment variable that holds the key; None: the provider's own.

        Raises:
            RecipeError: any-llm knows no such provider.
        """
        self._endpoint = endpoint
        self._timeout_s = timeout_s
        try:
            self._kind: Any = any_llm.AnyLLM.get_provider_class(endpoint.provider)
        except UnsupportedProviderError as error:
            known = ", ".join(any_llm.AnyLLM.get_supported_providers())
            raise RecipeError(
                f"{endpoint.name}: no such provider. There are: {known}. Any OpenAI-compatible server is "
                "openai:MODEL@URL."
            ) from error
        except ImportError as error:
            raise self._no_client() from error
        self._api_key_env = api_key_env or self._kind.ENV_API_KEY_NAME
        self._is_openai = issubclass(self._kind, BaseOpenAIProvider)
        self._is_anthropic = endpoint.provider == "anthropic"
        self._provider: Any = None

    @property
    def name(self) -> str:
        return self._endpoint.name

    async def complete(self, request: CompletionRequest) -> CompletionReply:
        """Return the reply of one attempt.

        Raises:
            EndpointError: no reply; says of what kind.
        """
        provider = self._connected()
        seen = _Seen()
        token = _SEEN.set(seen)
        converted: Any = None
        try:
            async with asyncio.timeout(self._timeout_s):
                converted = await provider.acompletion(**self._arguments(request))
        except TimeoutError as error:
            raise self._no_answer() from error
        except UnsupportedParameterError as error:
            raise RecipeError(
                f"{self.name}: {_one_line(str(error))}. Correct the settings."
            ) from error
        except AnyLLMError as error:
            if not _is_reply(seen):
                return self._not_a_reply(error, seen)
        except Exception as error:  # any-llm's or a client's own reading: what came decides
            if not _is_reply(seen):
                raise self._unreadable(error, seen) from error
        finally:
            _SEEN.reset(token)
        if self._is_openai:
            if not _is_reply(seen):
                raise self._unreadable(None, seen)
            return _read(seen.body(), request, _extra_content(converted))
        return _read(
            converted.model_dump(mode="json", exclude_none=True),
            request,
            _extra_content(converted),
        )

    async def aclose(self) -> None:
        provider, self._provider = self._provider, None
        client = getattr(provider, "client", None)
        second = getattr(provider, "_anthropic_client", None)  # DeepSeek's, never used
        for each in (client, second):
            if each is not None and hasattr(each, "close"):
                await each.close()

    # ------------------------------------------------------------------------------------- asking

    def _connected(self) -> Any:
        if self._provider is not None:
            return self._provider
        options: dict[str, Any] = {}
        url = self._endpoint.url
        if self._is_openai:
            options["http_client"] = openai.DefaultAsyncHttpxClient(
                event_hooks={"response": [_keep]}
            )
        if self._is_anthropic and url is not None:
            url = url.removesuffix("/v1")  # its client adds that itself
        if self._kind.MAX_RETRIES_SUPPORT != "unsupported":
            options["max_retries"] = 0
        key = os.environ.get(self._api_key_env) or None
        if key is None and url is not None:
            key = "none"  # a server of one's own needs no key
        try:
            self._provider = any_llm.AnyLLM.create(
                self._endpoint.provider,
                api_key=key,
                api_base=url,
                unified_exceptions=True,
                **options,
            )
        except MissingApiKeyError as error:
            raise EndpointError(
                f"{self.name}: the key is read from ${self._api_key_env}, which is not set: put a valid "
                "key there.",
                kind=Failure.KEY,
            ) from error
        except ImportError as error:
            raise self._no_client() from error
        return self._provider

    def _arguments(self, request: CompletionRequest) -> dict[str, Any]:
        named = {key: value for key, value in request.extra.items() if key in NAMED}
        other = {key: value for key, value in request.extra.items() if key not in NAMED}
        arguments: dict[str, Any] = {
            "model": request.model,
            "messages": list(self._messages(request)),
            **named,
        }
        if request.tools:
            arguments["tools"] = list(request.tools)
        if request.temperature is not None:
            arguments["temperature"] = request.temperature
        if request.seed is not None and self._is_openai:
            arguments["seed"] = request.seed
        if self._is_openai and not self._wants_new_name():
            other.setdefault("max_tokens", request.max_tokens)
        elif "max_completion_tokens" not in other and "max_tokens" not in other:
            arguments["max_tokens"] = request.max_tokens
        if self._kind.TIMEOUT_SUPPORT != "unsupported":
            arguments["timeout"] = self._timeout_s
        if self._is_openai or self._is_anthropic:
            # Honoured, it makes a provider answer (and bill) a request asked twice only once.
            arguments["extra_headers"] = {"Idempotency-Key": digest_of(self.name, request)}
            if other:
                arguments["extra_body"] = other
        else:
            arguments.update(other)
        return arguments

    def _messages(self, request: CompletionRequest) -> Iterator[JsonObject]:
        # What providers want back beside the words travels in `extra_content`, which any-llm unpacks. The
        # words of signed thinking are wanted by Claude alone; OpenAI-compatible servers refuse the field.
        for message in request.messages:
            if self._is_anthropic:
                yield message
            else:
                yield {key: value for key, value in message.items() if key != "reasoning_content"}

    def _wants_new_name(self) -> bool:
        """Whether `max_tokens` is for any-llm to name: many servers know only the old name of OpenAI's."""
        if self._endpoint.provider != "openai":
            return True
        return getattr(self._connected().client.base_url, "host", "") == "api.openai.com"

    # ------------------------------------------------------------------------------------ failing

    def _where(self) -> str:
        url = getattr(getattr(self._provider, "client", None), "base_url", None)
        return str(url).rstrip("/") if url is not None else self.name

    def _scrubbed(self, text: str) -> str:
        line = _one_line(text)
        key = os.environ.get(self._api_key_env)
        return line.replace(key, "***") if key else line

    def _no_client(self) -> Exception:
        missing = MissingExtraError(f"any-llm-sdk[{self._endpoint.provider}]", "teacher")
        if self._endpoint.provider in {"openai", "anthropic", "deepseek"}:
            return missing
        return RecipeError(
            f"{self.name}: this provider's own client is not installed. Install it with "
            f"`pip install 'any-llm-sdk[{self._endpoint.provider}]'`."
        )

    def _no_answer(self) -> EndpointError:
        return EndpointError(
            f"{self._where()}: no answer within {self._timeout_s:g} s. Give it a longer `timeout_s`, or "
            "fewer requests at once.",
            kind=Failure.TIMEOUT,
        )

    def _unreadable(self, error: Exception | None, seen: _Seen) -> EndpointError:
        if seen.status is not None and seen.status >= 400:
            return self._refused(seen.status, _words(seen.body(), seen.content), seen.headers)
        body = seen.body()
        shown = seen.content.decode(errors="replace") if seen.content else str(error)
        what = "is not JSON" if body is None else "has no `choices`"
        return EndpointError(
            f"{self._where()}: the answer {what} ({self._scrubbed(shown)}). Is it an OpenAI-compatible "
            "endpoint (its URL usually ends in /v1)?",
            kind=Failure.UNREADABLE,
        )

    def _not_a_reply(self, error: AnyLLMError, seen: _Seen) -> CompletionReply:
        """Return that the conversation is full, or raise what went wrong."""
        status = seen.status if seen.status is not None else error.status_code
        original = error.original_exception or error
        if status is None or status < 400:
            kinds = [type(each).__name__ for each in _causes(original)]
            if any("Timeout" in kind and "Connect" not in kind for kind in kinds):
                raise self._no_answer() from error
            if any("Connect" in kind and kind != "APIConnectionError" for kind in kinds):
                seen_error = list(_causes(original))[-1]
                raise EndpointError(
                    f"{self._where()}: no connection ({self._scrubbed(str(seen_error))}). Start the "
                    "server, or correct the URL.",
                    kind=Failure.CONNECTION,
                ) from error
            if "APIConnectionError" in kinds:
                seen_error = list(_causes(original))[-1]
                raise EndpointError(
                    f"{self._where()}: the connection broke before the reply was whole "
                    f"({self._scrubbed(str(seen_error) or kinds[-1])}). Look at the server's log.",
                    kind=Failure.CUT,
                ) from error
            raise self._unreadable(error, seen) from error
        headers = seen.headers or getattr(getattr(original, "response", None), "headers", {}) or {}
        body = seen.body() if seen.content else getattr(original, "body", None)
        words = _words(body, seen.content or str(error).encode())
        if isinstance(error, ContextLengthExceededError) or _is_context_full(status, body, words):
            return CompletionReply(message={}, context_full=True)
        raise self._refused(status, words, headers, code=error.code) from error

    def _refused(
        self, status: int, words: str, headers: Mapping[str, str], *, code: str | None = None
    ) -> EndpointError:
        match status:
            case 401 | 403:
                known = "is set" if os.environ.get(self._api_key_env) else "is not set"
                kind = Failure.KEY
                fix = f"The key is read from ${self._api_key_env}, which {known}: put a valid key there."
            case 404:
                kind = Failure.NOT_FOUND
                fix = (
                    f"Does the endpoint know the model {self._endpoint.model!r}? "
                    f"`curl {self._where()}/models` lists what it has; correct the name or the URL."
                )
            case 402:
                kind = Failure.QUOTA
                fix = "The account's money is spent: top it up."
            case 429 if code == "insufficient_quota" or "insufficient_quota" in words:
                kind = Failure.QUOTA
                fix = "The account's quota is spent: top it up."
            case 429:
                kind = Failure.RATE_LIMIT
                fix = "Wait, set `requests_per_minute`, lower the concurrency, or ask for a higher limit."
            case 503 | 529:
                kind = Failure.OVERLOADED
                fix = "Look at the server's log, or come back later."
            case 408 | 409 | 500 | 502 | 504:
                kind = Failure.SERVER
                fix = "Look at the server's log."
            case _ if status >= 500:
                kind = Failure.SERVER
                fix = "Look at the server's log."
            case _:
                kind = Failure.REFUSED
                fix = "Correct the settings (model, `temperature`, `send_seed`, `extra`, the token limit)."
        return EndpointError(
            f"{self._where()}: refused with {status}: {self._scrubbed(words)}. {fix}",
            kind=kind,
            retry_after_s=_retry_after_s(headers),
        )


# ---------------------------------------------------------------------------------------- reading


def _is_reply(seen: _Seen) -> bool:
    if seen.status != 200:
        return False
    body = seen.body()
    return (
        isinstance(body, dict)
        and isinstance(body.get("choices"), list)
        and bool(body["choices"])
        and isinstance(body["choices"][0], dict)
    )


def _extra_content(converted: Any) -> JsonObject | None:
    try:
        found = converted.choices[0].message.extra_content
    except (AttributeError, IndexError):
        return None
    return dict(found) if found else None


def _read(
    body: Mapping[str, Any], request: CompletionRequest, extra_content: JsonObject | None
) -> CompletionReply:
    """Return a body in OpenAI's format as a reply."""
    choice = body["choices"][0]
    message = dict(choice.get("message") or {})
    if "reasoning_content" not in message and isinstance(message.get("reasoning"), str):
        message["reasoning_content"] = message.pop("reasoning")
    if extra_content:
        message["extra_content"] = extra_content
    usage = body.get("usage") or {}
    details = usage.get("prompt_tokens_details") or {}
    prompt_tokens = usage.get("prompt_tokens")
    completion_tokens = usage.get("completion_tokens")
    return CompletionReply(
        message=message,
        finish_reason=choice.get("finish_reason"),
        prompt_tokens=_count(prompt_tokens) or _guess([*request.messages, *request.tools]),
        cached_prompt_tokens=_count(details.get("cached_tokens"))
        or _count(usage.get("prompt_cache_hit_tokens")),
        cache_write_prompt_tokens=_count(details.get("cache_write_tokens")),
        completion_tokens=_count(completion_tokens) or _guess([message]),
        estimated=not (_count(prompt_tokens) and _count(completion_tokens)),
    )


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _guess(values: list[Any]) -> int:
    return sum(len(json.dumps(each, ensure_ascii=False)) for each in values) // CHARS_PER_TOKEN


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _words(body: Any, content: bytes) -> str:
    """Return what the server said is wrong."""
    if isinstance(body, Mapping):
        inner = body.get("error") or body.get("detail") or body.get("message") or body
        if isinstance(inner, Mapping):
            inner = inner.get("message") or inner
        return str(inner)
    return content.decode(errors="replace")


def _is_context_full(status: int, body: Any, words: str) -> bool:
    if status not in (400, 413, 422):
        return False
    error = body.get("error") if isinstance(body, Mapping) else None
    code = error.get("code") if isinstance(error, Mapping) else ""
    said = f"{code} {words}".lower()
    return any(phrase in said for phrase in CONTEXT_FULL)


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that `Retry-After` or `retry-after-ms` asks for, or None."""
    in_ms = headers.get("retry-after-ms")
    said = headers.get("retry-after")
    try:
        if in_ms is not None:
            return max(0.0, float(in_ms) / 1000)
        if said is None:
            return None
        return max(0.0, float(said))
    except ValueError:
        pass
    try:
        moment = email.utils.parsedate_to_datetime(said or "")
    except ValueError:
        return None
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def _one_line(text: str, limit: int = 160) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 3] + "..."
