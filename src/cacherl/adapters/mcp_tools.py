"""`McpSource`: the tools of a real MCP server, started over stdio or reached over streamable HTTP.

Source: Model Context Protocol, 2025-11-25, basic/transports and basic/lifecycle.
"""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TextIO

import httpx2
import mcp
import mcp_types
from mcp.client.streamable_http import MCP_SESSION_ID, streamable_http_client
from mcp.shared.message import SessionMessage
from mcp_types.jsonrpc import (
    CONNECTION_CLOSED,
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    REQUEST_TIMEOUT,
    UNSUPPORTED_PROTOCOL_VERSION,
)
from pydantic import RootModel

from cacherl.core.errors import ToolError
from cacherl.core.records import JsonObject
from cacherl.core.schema import error_text
from cacherl.core.sources import Answer
from cacherl.core.tools import ErrorClass, ToolSpec
from cacherl.toolbox.failures import said_last
from cacherl.toolbox.mcp_results import error_class_of, spec_of, text_of, wire_of

SCENARIO = "{scenario}"
"""Stands for the episode's scenario in arguments, environment, working directory, URL and headers."""

PING_S = 5.0
"""A server that was given up on and leaves a ping unanswered for so long is stuck, not slow."""

_WORDS_KEPT = 1 << 20
"""Bytes of a server's stderr on disk; a run of hours must not fill it."""

_IDLE_S = 2.0
"""A connection unused for longer is opened anew. Servers drop theirs after 5 s or more, and a call sent
into that moment would count as one that may have run."""

_LONGEST = 256 << 20
"""Bytes of one answer over HTTP; the client's own limit of 1 MiB would lose the connection."""

_TOLD = "cacherl"
"""In the data of an error: it was written here, by `_Client`, and says what became of the request."""


for _name in ("mcp", "client"):
    # What its loggers have to say of servers that print lines which are no JSON, with tracebacks, would
    # otherwise end up between the bars of a terminal. Whoever configures logging still gets it.
    logging.getLogger(_name).addHandler(logging.NullHandler())


@dataclass(frozen=True, slots=True, kw_only=True)
class McpServer:
    """A server, either started by `command` or reached at `url`."""

    name: str
    command: str | None = None
    """A program, not a shell line."""
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    """Added to the few variables (PATH, HOME, ...) that a server gets; keys and secrets go here."""
    cwd: str | None = None
    url: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    only: tuple[str, ...] = ()
    """The tools to offer, by the server's names; empty offers all."""
    start_timeout_s: float = 30.0
    secrets: frozenset[str] = frozenset()
    """What must not stand in an error, such as values that came from the environment."""

    def __post_init__(self) -> None:
        if (self.command is None) == (self.url is None):
            raise ToolError(
                f"the MCP server {self.name} needs either a `command` or a `url`. Give one of them."
            )

    @property
    def by_scenario(self) -> bool:
        """Whether the scenario says which server this is."""
        return any(SCENARIO in text for text in self._texts())

    def _texts(self) -> list[str]:
        texts = [*self.args, *self.env.values(), *self.headers.values()]
        return texts + [text for text in (self.command, self.cwd, self.url) if text]

    def shown(self) -> str:
        """Return how the server is started or reached, without secrets."""
        if self.url is not None:
            # Neither who logs in nor the query: that is where keys are put.
            return str(httpx2.URL(self.url).copy_with(userinfo=b"", query=None))
        return self.without_secrets(" ".join([self.command or "", *self.args]))

    def without_secrets(self, text: str) -> str:
        """Return the text with every secret blotted out."""
        for secret in sorted(self.secrets, key=len, reverse=True):
            text = text.replace(secret, "***")
        return text

    def in_scenario(self, scenario: str) -> McpServer:
        """Return the server of one scenario."""

        def filled(text: str) -> str:
            return text.replace(SCENARIO, scenario)

        return McpServer(
            name=self.name,
            command=self.command and filled(self.command),
            args=tuple(filled(arg) for arg in self.args),
            env={name: filled(value) for name, value in self.env.items()},
            cwd=self.cwd and filled(self.cwd),
            url=self.url and filled(self.url),
            headers={name: filled(value) for name, value in self.headers.items()},
            only=self.only,
            start_timeout_s=self.start_timeout_s,
            secrets=self.secrets,
        )


class _Raw(RootModel[JsonObject]):
    """A result as it came over the wire: the client's own types drop what they do not know."""


class McpSource:
    """The tools of one MCP server (`ToolSource`).

    A cancelled call is cancelled at the server too. A stdio server that then leaves a ping
    unanswered counts as down. Tools are listed at each start; a server that announces other tools
    in between is heard at the next.
    """

    def __init__(self, server: McpServer, *, scenario: str = "", ping_s: float = PING_S) -> None:
        self._server = server.in_scenario(scenario)
        self._by_scenario = server.by_scenario
        self._ping_s = ping_s
        self._link: _Link | None = None

    @property
    def name(self) -> str:
        return self._server.name

    @property
    def lasting(self) -> str:
        """Why its state outlives an episode, and what to write; nothing if the scenario holds it."""
        said = f"`resets = true` under [mcp.{self.name}]"
        if self._server.url is not None:
            return f"the server runs on. Say {said} if each connection starts afresh."
        if self._by_scenario:
            return ""
        return (
            f"nothing says where an episode's own state lies. Put {SCENARIO} into its `args`, `env` or "
            f"`cwd`, or say {said} if all it keeps is in its process."
        )

    async def start(self) -> Sequence[ToolSpec]:
        """Start or reach the server and return its tools.

        Raises:
            ToolError: it cannot be, does not speak MCP in time, or lacks a tool of its `only`.
        """
        await self.aclose()
        link = _Link(self._server, self._ping_s)
        tools = await link.open()
        try:
            specs = _specs(self._server, tools)
        except ToolError:
            await link.close()
            raise
        self._link = link
        return specs

    async def call(self, tool: str, arguments: JsonObject) -> Answer:
        """Call the tool, once."""
        link = self._link
        if link is None or link.ended:
            return self._down(ran=False)
        link.trim()
        request = mcp_types.CallToolRequest(
            params=mcp_types.CallToolRequestParams(name=tool, arguments=arguments)
        )
        try:
            result = (await link.session.send_request(request, _Raw)).root
        except asyncio.CancelledError:
            link.doubt()
            raise
        except mcp.MCPError as error:
            return self._protocol_error(link, error, arguments)
        except (RuntimeError, ValueError) as error:
            # What the server answered is nothing that the protocol knows.
            text = error_text("invalid_result", _one_line(str(error)))
            return Answer(text=text, error_class=ErrorClass.UNKNOWN)
        text = text_of(result)
        return Answer(
            text=text,
            wire=wire_of(result),
            error_class=error_class_of(text, arguments) if result.get("isError") is True else None,
        )

    def _protocol_error(self, link: _Link, error: mcp.MCPError, arguments: JsonObject) -> Answer:
        told = error.data.get(_TOLD) if isinstance(error.data, dict) else None
        if isinstance(told, dict):
            if told.get("gone") is True:
                link.ended = True
                return self._down(ran=False, why=error.message)
            kind = error_class_of(error.message)
            text = error_text(
                "unavailable" if kind is ErrorClass.TRANSIENT else kind, error.message
            )
            return Answer(text=text, error_class=kind, may_have_run=told.get("sent") is True)
        if error.code == CONNECTION_CLOSED:
            if link.ended or self._server.url is None:
                link.ended = True
                return self._down(ran=True)
            # The stream of this one answer broke off; the server may be well.
            text = f"the connection to the tool server {self.name} was lost before it answered"
            return Answer(text=error_text("unavailable", text), error_class=ErrorClass.TRANSIENT)
        if error.code == METHOD_NOT_FOUND:
            kind = ErrorClass.NOT_FOUND
        else:
            kind = error_class_of(error.message, arguments)
            if error.code == INVALID_PARAMS and kind is ErrorClass.UNKNOWN:
                kind = ErrorClass.VALIDATION
        return Answer(text=error_text(kind, error.message), error_class=kind)

    def _down(self, *, ran: bool, why: str = "") -> Answer:
        said = why or (self._link.last_words() if self._link is not None else "")
        message = f"the tool server {self.name} has stopped" + (f": {said}" if said else "")
        return Answer(
            text=error_text("unavailable", message),
            error_class=ErrorClass.TRANSIENT,
            may_have_run=ran,
            down=True,
        )

    async def aclose(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            await link.close()


def _specs(server: McpServer, tools: Sequence[JsonObject]) -> list[ToolSpec]:
    names = [tool.get("name") for tool in tools]
    for wanted in server.only:
        if wanted not in names:
            raise ToolError(
                f"the MCP server {server.name} has no tool {wanted!r}; it has "
                f"{', '.join(sorted(map(str, names))) or 'none'}. Correct `only`."
            )
    try:
        return [spec_of(tool) for tool in tools if not server.only or tool["name"] in server.only]
    except ToolError as error:
        raise ToolError(f"the MCP server {server.name}: {error}") from error


class _Link:
    """One connection, from its opening to its end.

    A task of its own holds the client, which must be left by the task that entered it.
    """

    def __init__(self, server: McpServer, ping_s: float) -> None:
        self.server = server
        self.ended = False
        """Nothing sent from now on arrives."""
        self._ping_s = ping_s
        self._session: mcp.ClientSession | None = None
        self._owner: asyncio.Task[None] | None = None
        self._doubt: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._words: TextIO | None = None
        self._last_words = ""

    @property
    def session(self) -> mcp.ClientSession:
        assert self._session is not None  # noqa: S101 - `open` has returned
        return self._session

    async def open(self) -> list[JsonObject]:
        """Connect, and return the server's tools.

        Raises:
            ToolError: it cannot be started or reached, or does not answer in time.
        """
        ready: asyncio.Future[list[JsonObject]] = asyncio.get_running_loop().create_future()
        self._owner = asyncio.create_task(self._own(ready))
        try:
            first: set[asyncio.Future[Any]] = {ready, self._owner}
            await asyncio.wait(
                first,
                timeout=self.server.start_timeout_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if ready.done():
                return ready.result()
            if self._owner.done():
                self._owner.result()  # raises why
            raise ToolError(
                f"the MCP server {self.server.name} ({self.server.shown()}) did not answer within "
                f"{self.server.start_timeout_s:g} s{self._said()}. Run it by hand to see what it waits for, "
                "or raise `start_timeout_s`."
            )
        except BaseException:
            await self.close()
            raise

    async def _own(self, ready: asyncio.Future[list[JsonObject]]) -> None:
        with tempfile.TemporaryFile("w+", encoding="utf-8") as words:
            self._words = words
            try:
                async with (
                    self._streams(words) as (reading, writing),
                    mcp.ClientSession(_Watched(reading, self), writing) as session,
                ):
                    try:
                        await _shake_hands(session)
                        tools = await _all_tools(session)
                    except (mcp.MCPError, RuntimeError, ValueError) as error:
                        raise self._unready(error) from error
                    self._session = session
                    ready.set_result(tools)
                    await self._stop.wait()
            except (OSError, ValueError, RuntimeError, ExceptionGroup) as error:
                if not ready.done():
                    # Not `from` it: what is raised may stand inside this very group.
                    raise self._unready(error) from None
                # It went down under way; whoever waited has been answered CONNECTION_CLOSED.
            finally:
                self.ended = True
                self._last_words = self.last_words()
                self._words = None

    @asynccontextmanager
    async def _streams(self, words: TextIO) -> AsyncIterator[tuple[Any, Any]]:
        server = self.server
        if server.url is not None:
            # A tool may take hours; limits are the caller's.
            client = _Client(
                headers=dict(server.headers),
                timeout=httpx2.Timeout(30.0, read=None),
                limits=httpx2.Limits(max_keepalive_connections=20, keepalive_expiry=_IDLE_S),
            )
            async with (
                client,
                streamable_http_client(
                    server.url, http_client=client, max_sse_event_size=_LONGEST
                ) as streams,
            ):
                yield streams
            return
        parameters = mcp.StdioServerParameters(
            command=server.command or "",
            args=list(server.args),
            env=dict(server.env),
            cwd=server.cwd,
        )
        async with mcp.stdio_client(parameters, errlog=words) as streams:
            yield streams

    def _unready(self, error: BaseException) -> ToolError:
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if isinstance(error, ToolError):
            return error
        server = self.server
        if isinstance(error, OSError) and server.url is None:
            return ToolError(
                f"the MCP server {server.name} cannot be started: {server.shown()}: "
                f"{error.strerror or error}. Install the program, or correct `command`."
            )
        why = server.without_secrets(_one_line(str(error)) or type(error).__name__)
        if server.url is not None:
            return ToolError(
                f"the MCP server {server.name} cannot be used at {server.shown()}: {why}. "
                "Start it there, or correct `url` and `headers`."
            )
        return ToolError(
            f"the MCP server {server.name} ({server.shown()}) ended or failed before it was ready "
            f"({why}){self._said()}. Run the command by hand to see why."
        )

    def _said(self) -> str:
        words = self.last_words()
        return f"; it last said: {words.rstrip('.')}" if words else ""

    def last_words(self) -> str:
        """Return what a started server last wrote to stderr, in one line, or nothing."""
        if self._words is None:
            return self._last_words
        # The server writes at the file's one position, so it is read without moving that.
        number = self._words.fileno()
        size = os.fstat(number).st_size
        tail = os.pread(number, 4096, max(0, size - 4096)).decode("utf-8", "replace")
        return said_last(self.server.without_secrets(tail))

    def trim(self) -> None:
        """Forget what a server wrote to stderr, once it is much."""
        if self._words is not None:
            number = self._words.fileno()
            if os.fstat(number).st_size > _WORDS_KEPT:
                os.ftruncate(number, 0)
                os.lseek(number, 0, os.SEEK_SET)

    def doubt(self) -> None:
        """A call was given up: find out whether the server is slow or stuck."""
        if self.server.url is None and not self.ended and self._doubt is None:
            self._doubt = asyncio.create_task(self._ask())

    async def _ask(self) -> None:
        try:
            await self.session.send_request(
                mcp_types.PingRequest(),
                mcp_types.EmptyResult,
                request_read_timeout_seconds=self._ping_s,
            )
        except mcp.MCPError as error:
            if error.code in (REQUEST_TIMEOUT, CONNECTION_CLOSED):
                self.ended = True
        except ValueError:
            pass  # a strange answer is an answer
        finally:
            self._doubt = None

    async def close(self) -> None:
        self.ended = True
        self._stop.set()
        if self._doubt is not None:
            self._doubt.cancel()
        if self._owner is None:
            return
        if self._session is None:
            self._owner.cancel()  # it still waits for an answer
        with suppress(asyncio.CancelledError, ToolError):
            await self._owner


class _Watched:
    """A stream of messages from a server; tells the link when it ends.

    The session knows too and does not say: a call made afterwards would look like one that was
    under way, and a writer that never ran would count as one that may have.
    """

    def __init__(self, stream: Any, link: _Link) -> None:
        self._stream = stream
        self._link = link

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def __aenter__(self) -> _Watched:
        await self._stream.__aenter__()
        return self

    async def __aexit__(self, *exc: Any) -> None:
        self._link.ended = True
        await self._stream.__aexit__(*exc)

    def __aiter__(self) -> _Watched:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        return await self._stream.__anext__()


class _Client(httpx2.AsyncClient):
    """Tells trouble as a JSON-RPC error, to the request that met it.

    The transport would let a refused connection end every call under way, and say of a status
    nothing but that it was an error.
    """

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        try:
            response = await super().send(request, **options)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            return _told(request, f"connection refused: {error}", sent=False, gone=True)
        except httpx2.TransportError as error:
            why = str(error) or type(error).__name__
            return _told(request, f"connection lost: {why}", sent=True)
        if request.method != "POST" or response.status_code < 400:
            return response
        body = await response.aread()
        await response.aclose()
        status = response.status_code
        if MCP_SESSION_ID in request.headers and (
            status == 404 or (status == 400 and b"session" in body.lower())
        ):
            # As the protocol has it, and as servers of 2025 had it.
            return _told(request, "it no longer knows this session", sent=False, gone=True)
        if _is_rpc_error(body):
            return response
        said = _one_line(body.decode("utf-8", "replace"), 100)
        message = f"HTTP {status} {response.reason_phrase}" + (f": {said}" if said else "")
        return _told(request, message, sent=status >= 500, status=status)


def _told(
    request: httpx2.Request, message: str, *, sent: bool, gone: bool = False, status: int = 503
) -> httpx2.Response:
    if request.method != "POST":
        # Nobody waits: a stream of news that is not to be had, a session that is over anyway.
        return httpx2.Response(405, request=request)
    error = {
        "code": CONNECTION_CLOSED,
        "message": message,
        "data": {_TOLD: {"sent": sent, "gone": gone}},
    }
    return httpx2.Response(
        status, request=request, json={"jsonrpc": "2.0", "id": None, "error": error}
    )


def _is_rpc_error(body: bytes) -> bool:
    try:
        message = mcp_types.jsonrpc_message_adapter.validate_json(body)
    except ValueError:
        return False
    return isinstance(message, mcp_types.JSONRPCError)


async def _shake_hands(session: mcp.ClientSession) -> None:
    try:
        await session.initialize()
    except mcp.MCPError as error:
        if error.code not in (METHOD_NOT_FOUND, UNSUPPORTED_PROTOCOL_VERSION):
            raise
        # A server of 2026 that has given up the handshake of 2025.
        await session.discover()


async def _all_tools(session: mcp.ClientSession) -> list[JsonObject]:
    tools: list[JsonObject] = []
    cursor: str | None = None
    while True:
        params = mcp_types.PaginatedRequestParams(cursor=cursor) if cursor else None
        page = await session.list_tools(params=params)
        tools += (
            tool.model_dump(by_alias=True, mode="json", exclude_unset=True) for tool in page.tools
        )
        cursor = page.next_cursor
        if not cursor:
            return tools


def _one_line(text: str, limit: int = 200) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 3] + "..."
