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
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

import any_llm
import msgspec
import openai
from any_llm.exceptions import (
    AnyLLMError,
    AuthenticationError,
    ContextLengthExceededError,
    GatewayTimeoutError,
    InsufficientFundsError,
    InvalidRequestError,
    MissingApiKeyError,
    ModelNotFoundError,
    RateLimitError,
    UnsupportedParameterError,
    UnsupportedProviderError,
    UpstreamProviderError,
)
from any_llm.providers.openai.base import BaseOpenAIProvider
from any_llm.types.completion import CompletionParams

from cacherl.core.completions import CompletionReply, CompletionRequest
from cacherl.core.errors import CacheRLError, MissingExtraError, RecipeError
from cacherl.core.records import JsonObject
from cacherl.teacher.batch import BatchLook
from cacherl.teacher.failure import EndpointError, Failure
from cacherl.teacher.lines import digest_of
from cacherl.teacher.options import Endpoint

CHARS_PER_TOKEN = 4

UPLOAD_S = 600.0
"""A batch may be hundreds of megabytes."""
ENDED = frozenset({"completed", "failed", "expired", "cancelled"})

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

STATUS: tuple[tuple[type[AnyLLMError], int], ...] = (
    (RateLimitError, 429),
    (AuthenticationError, 401),
    (ModelNotFoundError, 404),
    (InsufficientFundsError, 402),
    (GatewayTimeoutError, 504),
    (UpstreamProviderError, 502),
    (InvalidRequestError, 400),
)
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


class _ContextFull(Exception):
    """The conversation no longer fits."""


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
        self._unused: list[Any] = []
        """Clients that any-llm made beside the one that is asked."""

    def missing_key(self) -> str | None:
        """Return the environment variable in which the provider's key is looked for, if it is not set."""
        named = self._api_key_env and self._api_key_env != "None"  # any-llm's word for none
        needs = named and self._endpoint.url is None
        return self._api_key_env if needs and not os.environ.get(self._api_key_env) else None

    @property
    def name(self) -> str:
        return self._endpoint.name

    async def complete(self, request: CompletionRequest) -> CompletionReply:
        """Return the reply of one attempt.

        Raises:
            EndpointError: no reply; says of what kind.
        """
        provider = self._connected()
        try:
            converted, seen = await self._ask(
                lambda: provider.acompletion(**self._arguments(request)),
                timeout_s=self._timeout_s,
                reply=True,
            )
        except _ContextFull:
            return CompletionReply(message={}, context_full=True)
        if self._is_openai:
            if not _is_reply(seen):
                raise self._unreadable(None, seen)
            return _read(seen.body(), request, _extra_content(converted))
        body = converted.model_dump(mode="json", exclude_none=True)
        return _read(body, request, _extra_content(converted))

    async def _ask(
        self, call: Callable[[], Awaitable[Any]], *, timeout_s: float, reply: bool = False
    ) -> tuple[Any, _Seen]:
        """Return what the call gives and what came over the wire; None where `reply` and only that came.

        Raises:
            EndpointError: it failed.
            _ContextFull: it is too long for the model.
        """
        seen = _Seen()
        token = _SEEN.set(seen)
        try:
            async with asyncio.timeout(timeout_s):
                return await call(), seen
        except TimeoutError as error:
            raise self._no_answer() from error
        except UnsupportedParameterError as error:
            raise RecipeError(
                f"{self.name}: {_one_line(str(error))}. Correct the settings."
            ) from error
        except CacheRLError:
            raise
        except AnyLLMError as error:
            if reply and _is_reply(seen):
                return None, seen
            raise self._failure(error, seen) from error
        except Exception as error:  # any-llm's or a client's own reading: what came decides
            if reply and _is_reply(seen):
                return None, seen
            if seen.status is None:
                raise EndpointError(
                    f"{self.name}: the request cannot be put ({self._scrubbed(str(error))}). Correct the "
                    "settings (`extra`, the token limit).",
                    kind=Failure.REFUSED,
                ) from error
            raise self._unreadable(error, seen) from error
        finally:
            _SEEN.reset(token)

    async def aclose(self) -> None:
        provider, self._provider = self._provider, None
        clients, self._unused = [getattr(provider, "client", None), *self._unused], []
        for client in clients:
            if client is not None and hasattr(client, "close"):
                await client.close()

    # ------------------------------------------------------------------------------------- asking

    def _connected(self) -> Any:
        if self._provider is not None:
            return self._provider
        options: dict[str, Any] = {}
        url = self._endpoint.url
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
        if self._is_openai:
            # Not as an argument above: DeepSeek's provider would hand it to Anthropic's client as well.
            plain = self._provider.client
            self._unused.append(plain)
            self._provider.client = plain.with_options(
                http_client=openai.DefaultAsyncHttpxClient(event_hooks={"response": [_keep]})
            )
        if hasattr(self._provider, "_anthropic_client"):
            self._unused.append(self._provider._anthropic_client)
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
        key = os.environ.get(self._api_key_env)
        # Before it is cut short: half a key is half a secret.
        return _one_line(text.replace(key, "***") if key else text)

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

    def _failure(self, error: AnyLLMError, seen: _Seen) -> Exception:
        status = seen.status if seen.status is not None else error.status_code
        if status is None:  # providers with clients of their own: any-llm's class tells
            status = next((code for kind, code in STATUS if isinstance(error, kind)), None)
        original = error.original_exception or error
        if status is None or status < 400:
            return self._no_status(original, seen)
        headers = seen.headers or getattr(getattr(original, "response", None), "headers", {}) or {}
        body = seen.body() if seen.content else getattr(original, "body", None)
        words = _words(body, seen.content or str(error).encode())
        if isinstance(error, ContextLengthExceededError) or _is_context_full(status, body, words):
            return _ContextFull()
        return self._refused(status, words, headers, code=error.code)

    def _no_status(self, original: BaseException, seen: _Seen) -> EndpointError:
        """Return what kept the endpoint from answering; the clients' errors are told apart by name."""
        causes = list(_causes(original))
        kinds = [type(each).__name__ for each in causes]
        root = self._scrubbed(str(causes[-1]) or kinds[-1])
        if any(kind in ("ConnectError", "ConnectTimeout") for kind in kinds):
            return EndpointError(
                f"{self._where()}: no connection ({root}). Start the server, or correct the URL.",
                kind=Failure.CONNECTION,
            )
        if any(kind.endswith(("TimeoutError", "Timeout")) for kind in kinds):
            return self._no_answer()
        if "APIConnectionError" in kinds:
            return EndpointError(
                f"{self._where()}: the connection broke before the reply was whole ({root}). Look at the "
                "server's log.",
                kind=Failure.CUT,
            )
        return self._unreadable(Exception(str(original)), seen)

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


class AnyLLMBatches(AnyLLMCompletions):
    """`BatchService` of OpenAI (and servers with its files and batches) and of Anthropic.

    any-llm submits and looks. Two things are done beside it: OpenAI's results are read from their files, since
    any-llm leaves the file of errors aside and refuses all results for one odd reply; Anthropic's batches are
    handed to its own client, since any-llm drops their tools.
    """

    def __init__(
        self, endpoint: Endpoint, *, timeout_s: float = 180.0, api_key_env: str | None = None
    ) -> None:
        """As `AnyLLMCompletions`.

        Raises:
            RecipeError: the provider has no batch endpoint, or none that is known here.
        """
        super().__init__(endpoint, timeout_s=timeout_s, api_key_env=api_key_env)
        if not (self._is_anthropic or (self._is_openai and self._kind.SUPPORTS_BATCH)):
            raise RecipeError(
                f"{endpoint.name}: batch mode is known for openai and anthropic only. Leave `batch` out."
            )
        self._upload_s = max(timeout_s, UPLOAD_S)

    async def submit(self, name: str, requests: Mapping[str, CompletionRequest]) -> str:
        provider = self._connected()
        headers = {"Idempotency-Key": name}
        if self._is_anthropic:
            entries = [
                {"custom_id": digest, "params": self._params(request)}
                for digest, request in requests.items()
            ]
            batch, _ = await self._ask(
                lambda: provider.client.messages.batches.create(
                    requests=entries, extra_headers=headers
                ),
                timeout_s=self._upload_s,
            )
            return str(batch.id)
        lines = [
            json.dumps(
                {
                    "custom_id": digest,
                    "method": "POST",
                    "url": "/v1/chat/completions",
                    "body": self._body(request),
                },
                ensure_ascii=False,
            )
            for digest, request in requests.items()
        ]
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".jsonl") as file:
            file.write("\n".join(lines) + "\n")
            file.flush()
            batch, _ = await self._ask(
                lambda: provider.acreate_batch(
                    input_file_path=file.name,
                    endpoint="/v1/chat/completions",
                    metadata={"cacherl": name},
                    extra_headers=headers,
                ),
                timeout_s=self._upload_s,
            )
        return str(batch.id)

    async def find(self, name: str) -> str | None:
        provider = self._connected()
        if self._is_anthropic:
            raise EndpointError(
                f"{self.name}: Anthropic's batches carry no name to be found by.",
                kind=Failure.REFUSED,
            )
        batches, _ = await self._ask(
            lambda: provider.alist_batches(limit=100), timeout_s=self._timeout_s
        )
        for batch in batches:
            if (batch.metadata or {}).get("cacherl") == name:
                return str(batch.id)
        return None

    async def look(self, batch_id: str) -> BatchLook:
        provider = self._connected()
        batch, _ = await self._ask(
            lambda: provider.aretrieve_batch(batch_id), timeout_s=self._timeout_s
        )
        if batch.status not in ENDED:
            return BatchLook(status=str(batch.status))
        replies: dict[str, CompletionReply] = {}
        failures: dict[str, EndpointError] = {}
        if self._is_anthropic:
            results, _ = await self._ask(
                lambda: provider.aretrieve_batch_results(batch_id), timeout_s=self._upload_s
            )
            for item in results.results:
                if item.result is not None:
                    body = item.result.model_dump(mode="json", exclude_none=True)
                    replies[item.custom_id] = _batched(
                        _read(body, None, _extra_content(item.result))
                    )
                else:
                    failures[item.custom_id] = self._left_out(item.error.code, item.error.message)
            return BatchLook(status="ended", ended=True, replies=replies, failures=failures)
        for file_id in (batch.output_file_id, batch.error_file_id):
            if not file_id:
                continue
            content, _ = await self._ask(
                partial(provider.client.files.content, file_id), timeout_s=self._upload_s
            )
            for line in content.text.splitlines():
                if line.strip():
                    self._entry(json.loads(line), replies, failures)
        if batch.errors is not None and batch.errors.data:  # refused as a whole
            words = str(batch.errors.data[0].message)
            raise self._refused(400, f"batch {batch.status}: {words}", {})
        return BatchLook(status=str(batch.status), ended=True, replies=replies, failures=failures)

    def _entry(
        self,
        entry: Mapping[str, Any],
        replies: dict[str, CompletionReply],
        failures: dict[str, EndpointError],
    ) -> None:
        """Read one line of a result file."""
        response = entry.get("response") or {}
        status, body = response.get("status_code"), response.get("body")
        digest = str(entry.get("custom_id"))
        if status == 200 and isinstance(body, dict) and _has_choice(body):
            replies[digest] = _batched(_read(body, None, None))
        elif status is not None and status >= 400:
            words = _words(body, b"")
            if _is_context_full(status, body, words):
                replies[digest] = CompletionReply(message={}, context_full=True, batched=True)
            else:
                failures[digest] = self._refused(status, words, {})
        else:
            error = entry.get("error") or {}
            failures[digest] = self._left_out(str(error.get("code")), str(error.get("message")))

    def _left_out(self, code: str, words: str) -> EndpointError:
        again = code in {"api_error", "batch_expired", "expired", "overloaded_error", "canceled"}
        return EndpointError(
            f"{self._where()}: no reply in the batch: {code}: {self._scrubbed(words)}. Run the same "
            "command again, or correct the settings.",
            kind=Failure.SERVER if again else Failure.REFUSED,
        )

    def _body(self, request: CompletionRequest) -> JsonObject:
        """Return the request as OpenAI's API takes it."""
        new = self._wants_new_name()
        body: JsonObject = {
            "model": request.model,
            "messages": [_without_extras(message) for message in request.messages],
            "max_completion_tokens" if new else "max_tokens": request.max_tokens,
            **request.extra,
        }
        if request.tools:
            body["tools"] = list(request.tools)
        if request.temperature is not None:
            body["temperature"] = request.temperature
        if request.seed is not None:
            body["seed"] = request.seed
        return body

    def _params(self, request: CompletionRequest) -> JsonObject:
        """Return the request as Anthropic's API takes it, put so by any-llm's own conversion."""
        named = {key: value for key, value in request.extra.items() if key in NAMED}
        other = {key: value for key, value in request.extra.items() if key not in NAMED}
        params = CompletionParams(
            model_id=request.model,
            messages=list(self._messages(request)),
            tools=list(request.tools) or None,
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            **named,
        )
        converted = self._kind._convert_completion_params(params, provider_name="anthropic")
        return {**converted, **other}


# ---------------------------------------------------------------------------------------- reading


def _is_reply(seen: _Seen) -> bool:
    if seen.status != 200:
        return False
    return _has_choice(seen.body())


def _has_choice(body: Any) -> bool:
    return (
        isinstance(body, dict)
        and isinstance(body.get("choices"), list)
        and bool(body["choices"])
        and isinstance(body["choices"][0], dict)
    )


def _batched(reply: CompletionReply) -> CompletionReply:
    return msgspec.structs.replace(reply, batched=True)


def _without_extras(message: JsonObject) -> JsonObject:
    """Return the message without what only any-llm unpacks."""
    plain = {k: v for k, v in message.items() if k not in ("extra_content", "reasoning_content")}
    if "tool_calls" in plain:
        plain["tool_calls"] = [
            {k: v for k, v in call.items() if k != "extra_content"} for call in plain["tool_calls"]
        ]
    return plain


def _extra_content(converted: Any) -> JsonObject | None:
    try:
        found = converted.choices[0].message.extra_content
    except (AttributeError, IndexError):
        return None
    return dict(found) if found else None


def _read(
    body: Mapping[str, Any], request: CompletionRequest | None, extra_content: JsonObject | None
) -> CompletionReply:
    """Return a body in OpenAI's format as a reply; without the request, prompt tokens are not guessed."""
    choice = body["choices"][0]
    message = dict(choice.get("message") or {})
    if "reasoning_content" not in message and isinstance(message.get("reasoning"), str):
        message["reasoning_content"] = message.pop("reasoning")
    if extra_content:
        message["extra_content"] = extra_content
    sent = [*request.messages, *request.tools] if request is not None else []
    usage = body.get("usage") or {}
    details = usage.get("prompt_tokens_details") or {}
    prompt_tokens = usage.get("prompt_tokens")
    completion_tokens = usage.get("completion_tokens")
    return CompletionReply(
        message=message,
        finish_reason=choice.get("finish_reason"),
        prompt_tokens=_count(prompt_tokens) or _guess(sent),
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
