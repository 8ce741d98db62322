"""`OpenApiSource`: the operations of an HTTP service as live tools, by its OpenAPI document."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import httpx

from cacherl.core.errors import ToolError
from cacherl.core.records import JsonObject
from cacherl.core.schema import argument_problem
from cacherl.core.sources import Answer
from cacherl.core.tools import ErrorClass, ToolSpec
from cacherl.toolbox.config import did_you_mean
from cacherl.toolbox.failures import class_of_status, refused
from cacherl.toolbox.openapi import Described, Operation, decoded, operations_of, request_of

CONNECT_S = 10.0
"""To reach the service. How long it may then take is the caller's time limit."""
IDLE_S = 2.0
"""A connection unused for longer is opened anew. Services drop theirs after 5 s or more, and a call sent
into that moment would count as one that may have run."""
FETCH_S = 60.0
"""For a document that lies behind a URL."""
MAX_ANSWER = 16 * 1024 * 1024
"""Bytes of an answer. A longer one is no answer that a model could read."""
MAX_ERROR = 4_000
"""Characters of an error's body that a model is shown."""
_HOPS = 5
_ACCEPT = "application/json, text/*;q=0.9, */*;q=0.5"


class OpenApiSource:
    """The operations of an HTTP service (`ToolSource`).

    An answer is the response's text as it is; binary content is described, an empty one is its status.
    From 400 on it is an error, whose class the status says. A call that the service turned away (429,
    503 with Retry-After) or that never reached it counts as not run. Nothing is remembered between
    calls: cookies that the service sets are dropped.

    GET and HEAD read everything and write nothing, PUT and DELETE are idempotent (RFC 9110), and
    `x-cacherl-effects` on an operation says it better. Redirects are followed for reads, and only on
    the same host: keys go nowhere else.

    Args:
        name: what the source is called.
        spec: a file (JSON or YAML), from `folder`, or a URL.
        folder: where relative files lie.
        server: where the service runs, over what the document says.
        headers: sent with every call; a parameter of such a name is not asked of the model.
        query: the same for the query string.
        only: the tools to offer; all of them unless told.
        secrets: what must stand in no answer and in no error.
    """

    def __init__(
        self,
        name: str,
        spec: str,
        *,
        folder: Path = Path(),
        server: str | None = None,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
        only: Iterable[str] = (),
        secrets: Iterable[str] = (),
    ) -> None:
        self._name = name
        self._spec = spec
        self._folder = folder
        self._server = server
        self._headers = dict(headers or {})
        self._query = httpx.QueryParams(dict(query or {}))
        self._only = tuple(only)
        self._secrets = sorted(filter(None, secrets), key=len, reverse=True)
        self._operations: dict[str, tuple[Operation, httpx.URL]] = {}
        self._client: httpx.AsyncClient | None = None
        self.notes: tuple[str, ...] = ()
        """After `start`: what of the document was left out or renamed, and why."""

    @property
    def name(self) -> str:
        return self._name

    @property
    def lasting(self) -> str:
        """Why its state outlives an episode, and what to write."""
        return (
            "the service runs on. Say `writes = []` of what only reads ([tools.NAME]), or `resets = true` "
            f"under [openapi.{self._name}] if it keeps nothing of an episode."
        )

    async def start(self) -> Sequence[ToolSpec]:
        """Read the document and return its operations as tools. The service is not asked yet.

        Raises:
            ToolError: the document cannot be had or used, or nothing says where the service runs.
        """
        await self.aclose()
        sent = frozenset(
            [("header", name.lower()) for name in self._headers]
            + [("query", name) for name in self._query]
        )
        uri = _uri_of(self._spec, self._folder)
        try:
            described = await asyncio.to_thread(_described, uri, _version_of(uri), sent)
        except ToolError as error:
            raise ToolError(f"{self._name}: {self._hidden(str(error))}") from None
        found = {each.spec.name: each for each in described.operations}
        for wanted in self._only:
            if wanted not in found:
                raise ToolError(
                    f"{self._name} has no tool {wanted!r}{did_you_mean(wanted, found)}. Correct `only`."
                )
        self._operations = {
            name: (each, self._base(each, uri))
            for name, each in found.items()
            if not self._only or name in self._only
        }
        self.notes = described.notes
        self._client = httpx.AsyncClient(
            headers={"Accept": _ACCEPT, "User-Agent": "cacherl", **self._headers},
            timeout=httpx.Timeout(None, connect=CONNECT_S),
            limits=httpx.Limits(keepalive_expiry=IDLE_S),
        )
        return [operation.spec for operation, _ in self._operations.values()]

    def _base(self, operation: Operation, uri: str) -> httpx.URL:
        """Return where the operation's service runs."""
        said = self._server or operation.server or ""
        joined = said if self._server else urljoin(uri, said)
        try:
            url = httpx.URL(joined)
        except httpx.InvalidURL:
            url = httpx.URL("")
        if url.scheme not in ("http", "https") or not url.host:
            raise ToolError(
                f"{self._name}: nothing says where the service runs"
                + (f" ({self._hidden(said)!r} is no http address)" if said else "")
                + '. Write server = "http://127.0.0.1:8080".'
            )
        return url

    async def call(self, tool: str, arguments: JsonObject) -> Answer:
        """Send one request, once."""
        found = self._operations.get(tool)
        if found is None or self._client is None:
            return refused(
                ErrorClass.NOT_FOUND,
                f"{self._name} has no tool {tool}{did_you_mean(tool, self._operations)}",
            )
        operation, base = found
        problem = argument_problem(operation.spec, arguments)
        if problem is not None:
            return refused(ErrorClass.VALIDATION, problem)
        try:
            request = self._request(operation, base, arguments, self._client)
        except (ValueError, httpx.InvalidURL) as error:
            return refused(ErrorClass.VALIDATION, str(error))
        where = f"{operation.method} {operation.path}"
        try:
            return await self._sent(self._client, request, where)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            return self._failed(f"{where}: no connection ({_words(error)})", may_have_run=False)
        except httpx.LocalProtocolError as error:
            return refused(ErrorClass.VALIDATION, self._hidden(f"{where}: {_words(error)}"))
        except httpx.HTTPError as error:
            return self._failed(f"{where}: {_words(error)}", may_have_run=True)
        finally:
            self._client.cookies.clear()

    def _failed(self, words: str, *, may_have_run: bool) -> Answer:
        return refused(ErrorClass.TRANSIENT, self._hidden(words), may_have_run=may_have_run)

    def _request(
        self,
        operation: Operation,
        base: httpx.URL,
        arguments: JsonObject,
        client: httpx.AsyncClient,
    ) -> httpx.Request:
        made = request_of(operation, arguments)
        query = "&".join(filter(None, [made.query, str(self._query)]))
        raw = base.raw_path.partition(b"?")[0].rstrip(b"/") + made.path.encode()
        if query:
            raw += b"?" + query.encode()
        headers = [(name.encode(), value.encode()) for name, value in made.headers]
        return client.build_request(
            made.method, base.copy_with(raw_path=raw), headers=headers, content=made.content
        )

    async def _sent(self, client: httpx.AsyncClient, request: httpx.Request, where: str) -> Answer:
        response = await client.send(request, stream=True)
        try:
            for _ in range(_HOPS):
                following = response.next_request
                if following is None or not _may_follow(request, following):
                    break
                await response.aclose()
                response = await client.send(following, stream=True)
            body = await _body(response)
        finally:
            await response.aclose()
        if body is None:
            words = f"{where}: the answer is longer than {MAX_ANSWER} bytes"
            return refused(ErrorClass.UNKNOWN, words, may_have_run=True)
        return self._answer(response, body, where)

    def _answer(self, response: httpx.Response, body: bytes, where: str) -> Answer:
        shown = _shown(response, body)
        if response.is_success:
            text = shown or json.dumps({"status": response.status_code})
            return Answer(text=self._hidden(text))
        kind = class_of_status(response.status_code)
        said = f"{where}: {response.status_code} {response.reason_phrase}".strip()
        if response.has_redirect_location:
            said += f", to {response.headers['location']}"
        told: JsonObject = {"error": kind, "message": said}
        if shown:
            told["body"] = _json_or_text(shown)
        turned_away = response.status_code == 429 or (
            response.status_code == 503 and "retry-after" in response.headers
        )
        return Answer(
            text=self._hidden(json.dumps(told, ensure_ascii=False)),
            error_class=kind,
            may_have_run=not turned_away,
        )

    def _hidden(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    async def aclose(self) -> None:
        """Close the connections."""
        client, self._client = self._client, None
        self._operations = {}
        if client is not None:
            await client.aclose()


def _may_follow(first: httpx.Request, following: httpx.Request) -> bool:
    here, there = first.url, following.url
    return first.method in ("GET", "HEAD") and (here.scheme, here.host, here.port) == (
        there.scheme,
        there.host,
        there.port,
    )


async def _body(response: httpx.Response) -> bytes | None:
    """Return the whole body, or None where it is longer than any answer."""
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > MAX_ANSWER:
            return None
    return bytes(body)


def _shown(response: httpx.Response, body: bytes) -> str:
    """Return text as it is, and anything else as what it is."""
    if not body:
        return ""
    media = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    textual = media.startswith("text/") or media.endswith(("json", "xml", "yaml", "javascript"))
    if textual or media in ("", "application/x-www-form-urlencoded", "application/graphql"):
        try:
            return body.decode(response.charset_encoding or "utf-8")
        except (UnicodeDecodeError, LookupError):
            if textual:
                return body.decode("utf-8", errors="replace")
    return f"[{media or 'binary'}, {len(body)} bytes]"


def _json_or_text(text: str) -> Any:
    if len(text) > MAX_ERROR:
        return text[:MAX_ERROR] + " [...]"
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".removesuffix(": ")


# ---- getting documents -------------------------------------------------------------------------


def _uri_of(spec: str, folder: Path) -> str:
    if urlsplit(spec).scheme in ("http", "https"):
        return spec
    return (folder / spec).resolve().as_uri()


def _version_of(uri: str) -> int:
    """Return what changes when a file changes; a URL is read once a process."""
    try:
        return _path_of(uri).stat().st_mtime_ns if uri.startswith("file:") else 0
    except OSError:
        return 0


def _path_of(uri: str) -> Path:
    return Path(unquote(urlsplit(uri).path))


@functools.lru_cache(
    maxsize=64
)  # every episode starts its sources, and large documents take seconds
def _described(uri: str, version: int, sent: frozenset[tuple[str, str]]) -> Described:
    """Read a document, with what it refers to.

    Raises:
        ToolError: it cannot be had, or is no OpenAPI 3 document.
    """

    def fetch(other: str) -> Any:
        if other.startswith("file:") and not uri.startswith("file:"):
            raise ValueError("a document from the network may not refer to files here")
        return decoded(_text_at(other), other)

    try:
        document = fetch(uri)
    except (OSError, ValueError, RecursionError, httpx.HTTPError, httpx.InvalidURL) as error:
        raise ToolError(f"{uri}: cannot be read ({_words(error)}). Correct `spec`.") from error
    return operations_of(document, uri, fetch, sent=sent)


def _text_at(uri: str) -> str:
    if uri.startswith("file:"):
        return _path_of(uri).read_text(encoding="utf-8")
    response = httpx.get(uri, timeout=FETCH_S, follow_redirects=True)
    response.raise_for_status()
    return response.text
