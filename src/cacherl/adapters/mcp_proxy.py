"""The transports of the MCP proxy: the client library's own, on both sides, without its sessions.

To the client the proxy is a server, over stdio or streamable HTTP; to the server a client, over
either. Messages pass as the transports gave them.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import os
import signal
import socket
import stat
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import anyio
import httpx2
import uvicorn
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import MCP_SESSION_ID, streamable_http_client
from mcp.server.stdio import stdio_server
from mcp.server.streamable_http import StreamableHTTPServerTransport
from mcp.server.transport_security import RequestBodyLimitMiddleware, TransportSecuritySettings
from mcp.shared.inbound import MCP_PROTOCOL_VERSION_HEADER
from mcp.shared.message import ClientMessageMetadata, ServerMessageMetadata, SessionMessage
from mcp_types import (
    ErrorData,
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
    jsonrpc_message_adapter,
)
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import Message as HttpMessage
from starlette.types import Receive, Scope, Send

from cacherl.core.errors import RecipeError, ToolError
from cacherl.proxy.last_words import last_words
from cacherl.proxy.messages import (
    HANDSHAKE_VERSIONS,
    UNSUPPORTED_VERSION,
    Failure,
    Message,
    MessageId,
    Notification,
    Request,
    Result,
)
from cacherl.proxy.session import Connect, Plan, Server, Session

PATH = "/mcp"
LOOPBACK = ("127.0.0.1", "localhost", "::1")

_STARTS_WITHIN_S = 60.0
_IDLE_S = 30 * 60.0
_MAX_SESSIONS = 64  # each may be a process
_MAX_BODY_BYTES = 64 << 20
_READ_BYTES = 1 << 16
_WORDS_WITHIN_S = 0.5
_WORDS_KEPT = 1 << 13
_GONE = (anyio.ClosedResourceError, anyio.BrokenResourceError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """The server behind the proxy: a program or a URL."""

    command: tuple[str, ...] = ()
    """A program and its arguments, not a shell line. It gets the proxy's own environment."""
    url: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    """Sent with every request to `url`."""

    @property
    def shown(self) -> str:
        """What it is called until it says its name; an address without what may be secret in it."""
        if self.url is None:
            return " ".join(self.command)
        return str(httpx2.URL(self.url).copy_with(userinfo=b"", query=None))


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """Where clients find the proxy over HTTP."""

    host: str
    port: int
    """0 takes a free one."""
    token: str | None = None
    """What clients must send as a bearer token."""

    def __post_init__(self) -> None:
        """Refuse an address that others reach without a token.

        Raises:
            RecipeError: it is one.
        """
        if self.host not in LOOPBACK and not self.token:
            raise RecipeError(
                f"{self.host} can be reached from other machines, so clients need a token. "
                "Put one into a variable and name it: `--token-env PROXY_TOKEN`."
            )


def run_proxy(plan: Plan, upstream: Upstream | None, listen: Listen | None) -> None:
    """Serve until the client of stdio is gone, or until SIGINT or SIGTERM.

    Args:
        plan: what to do with what passes.
        upstream: the server; None plays it from the cache.
        listen: serve any number of clients over HTTP; None serves one over stdio.

    Raises:
        RecipeError: the address cannot be listened on.
    """
    logging.getLogger("mcp").setLevel(logging.CRITICAL)  # what matters is told by the plan's log
    if listen is None:
        asyncio.run(_over_stdio(plan, upstream))
    else:
        asyncio.run(_over_http(plan, upstream, listen))


# ---- messages


def read_message(item: SessionMessage) -> Message:
    """Return a transport's message as a value that remembers it."""
    message = item.message
    match message:
        case JSONRPCRequest():
            return Request(id=message.id, method=message.method, params=message.params, raw=item)
        case JSONRPCNotification():
            return Notification(method=message.method, params=message.params, raw=item)
        case JSONRPCResponse():
            return Result(id=message.id, result=message.result, raw=item)
        case JSONRPCError():
            error = message.error.model_dump(exclude_unset=True)
            return Failure(id=message.id, error=error, raw=item)


def written(message: Message) -> JSONRPCMessage:
    """Return a message for a transport: the very one that came, where it came from one."""
    if isinstance(message.raw, SessionMessage):
        return message.raw.message
    said: dict[str, Any] = {}
    match message:
        case Request() | Notification():
            if message.params is not None:
                said["params"] = message.params
            if isinstance(message, Notification):
                return JSONRPCNotification(jsonrpc="2.0", method=message.method, **said)
            return JSONRPCRequest(jsonrpc="2.0", id=message.id, method=message.method, **said)
        case Result():
            return JSONRPCResponse(jsonrpc="2.0", id=message.id, result=message.result)
        case Failure():
            error = ErrorData(**message.error)
            return JSONRPCError(jsonrpc="2.0", id=message.id, error=error)


# ---- to the server

_Streams = AbstractAsyncContextManager[tuple[Any, Any]]
_OnMessage = Callable[[Message], Awaitable[None]]
_OnStop = Callable[[str], Awaitable[None]]


class _Running:
    """One running server. A task of its own enters and leaves its transport, which demands just that."""

    def __init__(self, streams: _Streams, name: str, on_message: _OnMessage, on_stop: _OnStop):
        self._streams, self._name = streams, name
        self._on_message, self._on_stop = on_message, on_stop
        self._scope = anyio.CancelScope()
        self._writing: Any = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start it.

        Raises:
            ToolError: it cannot be started.
        """
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._own(ready))
        try:
            await asyncio.wait_for(asyncio.shield(ready), _STARTS_WITHIN_S)
        except TimeoutError as error:
            await self.aclose()
            raise ToolError(f"{self._name} did not start within {_STARTS_WITHIN_S:g} s") from error

    async def _own(self, ready: asyncio.Future[None]) -> None:
        reason = "it closed the connection"
        try:
            with self._scope:
                async with self._streams as (reading, writing):
                    self._writing = writing
                    ready.set_result(None)
                    async for item in reading:
                        if self.lost(item):
                            reason = "it does not know this session any more"
                            break
                        if isinstance(item, SessionMessage):
                            await self._on_message(read_message(item))
        except Exception as error:  # noqa: BLE001 - whatever ends a transport ends the server
            reason = _reason(error)
            if not ready.done():
                ready.set_exception(
                    ToolError(
                        f"{self._name} cannot be started: {reason}. "
                        "Install the program, or correct the command."
                    )
                )
                return
        finally:
            self._writing = None
            if not ready.done():
                ready.cancel()
        words = "" if self._scope.cancel_called else await self.last_words()
        await self._on_stop(f"{reason}; its last words: {words}" if words else reason)

    async def last_words(self) -> str:
        """Return what the server said of its end, or nothing."""
        return ""

    def lost(self, item: object) -> bool:
        """Say whether a message tells that the server has forgotten the session."""
        return False

    def sent(self, message: Message) -> SessionMessage:
        """Return what is sent for a message."""
        return SessionMessage(written(message))

    async def send(self, message: Message) -> None:
        if self._writing is not None:
            with suppress(*_GONE):
                await _sent(self._writing, self.sent(message))

    async def aclose(self) -> None:
        self._scope.cancel()
        if self._task is not None and self._task is not asyncio.current_task():
            await asyncio.wait([self._task])


class _Remote(_Running):
    """A server behind a URL: what its transport needs to know of the session, it is told here."""

    def __init__(self, upstream: Upstream, on_message: _OnMessage, on_stop: _OnStop):
        super().__init__(self._open(upstream), upstream.shown, self._seen, on_stop)
        self._pass_on = on_message
        self._initialize: MessageId | None = None
        self._headers: dict[str, str] = {}
        self._forgotten = False

    @asynccontextmanager
    async def _open(self, upstream: Upstream) -> AsyncIterator[tuple[Any, Any]]:
        client = httpx2.AsyncClient(
            headers=dict(upstream.headers),
            timeout=httpx2.Timeout(
                30.0, read=None
            ),  # how long a call may take is the client's to say
            event_hooks={"response": [self._answered]},
        )
        async with (
            client,
            streamable_http_client(
                str(upstream.url), http_client=client, max_sse_event_size=None
            ) as streams,
        ):
            yield streams

    async def _answered(self, response: httpx2.Response) -> None:
        if response.status_code == 404 and MCP_SESSION_ID in response.request.headers:
            self._forgotten = True

    async def _seen(self, message: Message) -> None:
        if isinstance(message, Result) and message.id == self._initialize:
            version = message.result.get("protocolVersion")
            if isinstance(version, str):
                self._headers = {MCP_PROTOCOL_VERSION_HEADER: version}
        await self._pass_on(message)

    def lost(self, item: object) -> bool:
        return (
            self._forgotten
            and isinstance(item, SessionMessage)
            and isinstance(item.message, JSONRPCError)
        )

    def sent(self, message: Message) -> SessionMessage:
        if isinstance(message, Request) and message.method == "initialize":
            self._initialize, self._headers = message.id, {}
        metadata = ClientMessageMetadata(headers=dict(self._headers)) if self._headers else None
        return SessionMessage(written(message), metadata=metadata)


class _Program(_Running):
    """A server that is a program: what it writes to standard error is passed on, and its end remembered."""

    def __init__(self, upstream: Upstream, on_message: _OnMessage, on_stop: _OnStop):
        super().__init__(self._open(upstream), upstream.shown, on_message, on_stop)
        self._words = b""
        self._silent = asyncio.Event()

    @asynccontextmanager
    async def _open(self, upstream: Upstream) -> AsyncIterator[tuple[Any, Any]]:
        program, *arguments = upstream.command
        parameters = StdioServerParameters(command=program, args=arguments, env=dict(os.environ))
        reading, writing = os.pipe()
        # A thread, so that a client that does not read our standard error holds up nobody but the server.
        threading.Thread(
            target=self._listen, args=(reading, asyncio.get_running_loop()), daemon=True
        ).start()
        errors = os.fdopen(writing, "w")
        try:
            async with stdio_client(parameters, errlog=errors) as streams:
                errors.close()  # the server's own is the last: its end is the end of what is read
                yield streams
        finally:
            errors.close()

    def _listen(self, number: int, loop: asyncio.AbstractEventLoop) -> None:
        with os.fdopen(number, "rb", buffering=0) as said:
            while words := said.read(_READ_BYTES):
                self._words = (self._words + words)[-_WORDS_KEPT:]
                with suppress(OSError):
                    os.write(2, words)
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(self._silent.set)

    async def last_words(self) -> str:
        with suppress(TimeoutError):  # a program that it left behind may hold it open
            await asyncio.wait_for(self._silent.wait(), _WORDS_WITHIN_S)
        return last_words(self._words.decode("utf-8", "replace").splitlines())


def connects(upstream: Upstream) -> Connect:
    """Return what starts a server, or connects to it."""

    async def connect(on_message: _OnMessage, on_stop: _OnStop) -> Server:
        if upstream.url is not None:
            running: _Running = _Remote(upstream, on_message, on_stop)
        else:
            running = _Program(upstream, on_message, on_stop)
        await running.start()
        return running

    return connect


async def _sent(writing: Any, item: SessionMessage) -> None:
    """Send an item, at once where its transport waits for one: going round the event loop is dear."""
    try:
        writing.send_nowait(item)
    except (anyio.WouldBlock, AttributeError):  # streams that carry a context have no such method
        await writing.send(item)


def _reason(error: BaseException) -> str:
    """Return what went wrong, of the first of several errors that a transport raised at once."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(said.split())


# ---- to the client


class _ToClient:
    """The way to one client."""

    def __init__(self, writing: Any) -> None:
        self._writing = writing

    async def send(self, message: Message, *, related: MessageId | None) -> None:
        metadata = None
        if isinstance(message, Request | Notification) and related is not None:
            metadata = ServerMessageMetadata(related_request_id=related)
        with suppress(*_GONE):
            await self._writing.send(SessionMessage(written(message), metadata=metadata))

    async def unanswered(self, request: Request) -> None:
        metadata = request.raw.metadata if isinstance(request.raw, SessionMessage) else None
        if isinstance(metadata, ServerMessageMetadata) and metadata.on_request_unanswered:
            with suppress(*_GONE):
                await metadata.on_request_unanswered()


async def _converse(session: Session, reading: Any, log: Callable[[str], None]) -> None:
    """Hand a client's messages to its session until the client is gone."""
    try:
        async for item in reading:
            if isinstance(item, SessionMessage):
                await session.receive(read_message(item))
            else:
                log(f"a message that is no JSON-RPC was left out: {_reason(item)[:200]}")
    finally:
        with anyio.CancelScope(shield=True):
            await session.aclose()


def _begun(plan: Plan, upstream: Upstream | None, writing: Any, *, http: bool) -> Session:
    return Session(
        plan,
        _ToClient(writing),
        None if upstream is None else connects(upstream),
        server="" if upstream is None else upstream.shown,
        handshake_only=http or (upstream is not None and upstream.url is not None),
    )


async def _over_stdio(plan: Plan, upstream: Upstream | None) -> None:
    scope = anyio.CancelScope()
    with _on_signals(scope.cancel), scope:
        async with _standard_streams() as (reading, writing):
            await _converse(_begun(plan, upstream, writing, http=False), reading, plan.log)


@contextmanager
def _on_signals(stop: Callable[[], None]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    caught = (signal.SIGINT, signal.SIGTERM)
    for number in caught:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in caught:
            loop.remove_signal_handler(number)


# ---- standard input and output
#
# The library's `stdio_server` takes a thread for every line each way, and four turns of the event loop
# a message: more than all else that the proxy does. This is its framing, on pipes.


class _Lines:
    """The client's messages on standard input."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    async def __aiter__(self) -> AsyncIterator[SessionMessage | Exception]:
        parts: list[bytes] = []  # of a line that is longer than what is read at once
        while chunk := await self._reader.read(_READ_BYTES):
            first, *others = chunk.split(b"\n")
            parts.append(first)
            for following in others:
                line = b"".join(parts).strip()
                parts = [following]
                if line:
                    yield _parsed(line)
        if line := b"".join(parts).strip():
            yield _parsed(line)


def _parsed(line: bytes) -> SessionMessage | Exception:
    try:
        return SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False))
    except ValueError as error:
        return error


class _Out:
    """The client's standard input, from our side."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    async def send(self, item: SessionMessage) -> None:
        said = item.message.model_dump_json(by_alias=True, exclude_unset=True)
        with suppress(ConnectionError):  # the client is gone: its end of input tells
            self._writer.write(said.encode() + b"\n")
            await self._writer.drain()


@asynccontextmanager
async def _standard_streams() -> AsyncIterator[tuple[Any, Any]]:
    """Yield what comes from the client and what goes to it.

    Nothing else in this process can write to standard output meanwhile. Where the streams are plain
    files, which the event loop cannot wait for, the library's threads serve them.
    """
    if not (_can_wait(0) and _can_wait(1)):
        async with stdio_server() as (in_threads, out_threads), in_threads, out_threads:
            yield in_threads, out_threads
        return
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=_READ_BYTES)
    coming, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(os.dup(0), "rb", buffering=0)
    )
    wire = os.dup(1)
    going, flow = await loop.connect_write_pipe(
        lambda: asyncio.streams.FlowControlMixin(loop=loop), os.fdopen(wire, "wb", buffering=0)
    )
    os.dup2(2, 1)
    try:
        yield _Lines(reader), _Out(asyncio.StreamWriter(going, flow, None, loop))
    finally:
        os.dup2(wire, 1)
        coming.close()
        going.close()


def _can_wait(number: int) -> bool:
    mode = os.fstat(number).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(number)


# ---- over HTTP


class _Front:
    """The proxy as an ASGI application: one session of ours for each session of a client."""

    def __init__(self, plan: Plan, upstream: Upstream | None, listen: Listen) -> None:
        self._plan, self._upstream = plan, upstream
        self._token = listen.token
        self._sessions: dict[str, StreamableHTTPServerTransport] = {}
        self._tasks: Any = None
        local = listen.host in LOOPBACK
        self._security = TransportSecuritySettings(
            enable_dns_rebinding_protection=local,
            allowed_hosts=["127.0.0.1:*", "localhost:*", "[::1]:*"],
            allowed_origins=["http://127.0.0.1:*", "http://localhost:*", "http://[::1]:*"],
        )
        self._limited = RequestBodyLimitMiddleware(self._handle, _MAX_BODY_BYTES)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep sessions for as long as the block lasts."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            try:
                yield
            finally:
                await self.aclose()
                tasks.cancel_scope.cancel()

    async def aclose(self) -> None:
        """End all sessions."""
        for transport in list(self._sessions.values()):
            await transport.terminate()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        if scope["type"] == "http":
            await self._limited(scope, receive, send)

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = HttpRequest(scope, receive)
        if scope["path"].rstrip("/") != PATH:
            await PlainTextResponse(f"MCP is at {PATH}", 404)(scope, receive, send)
            return
        if not self._allowed(request.headers.get("authorization", "")):
            challenge = {"WWW-Authenticate": "Bearer"}
            await PlainTextResponse("a token is needed", 401, challenge)(scope, receive, send)
            return
        version = request.headers.get(MCP_PROTOCOL_VERSION_HEADER)
        if version is not None and version not in HANDSHAKE_VERSIONS:
            await (await _other_version(request, version))(scope, receive, send)
            return
        session_id = request.headers.get(MCP_SESSION_ID)
        if session_id is None:
            await self._open(scope, receive, send)
            return
        transport = self._sessions.get(session_id)
        if transport is None:
            await _refused("Session not found", 404)(scope, receive, send)
            return
        await transport.handle_request(scope, receive, send)

    def _allowed(self, authorization: str) -> bool:
        if self._token is None:
            return True
        kind, _, token = authorization.partition(" ")
        same = hmac.compare_digest(token.strip().encode(), self._token.encode())
        return same and kind.lower() == "bearer"

    async def _open(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Begin a session with the request that opens it; what it refuses leaves none behind."""
        if len(self._sessions) >= _MAX_SESSIONS:
            await _refused("Too many open sessions", 503)(scope, receive, send)
            return
        session_id = uuid4().hex
        transport = StreamableHTTPServerTransport(
            mcp_session_id=session_id, security_settings=self._security, idle_timeout=_IDLE_S
        )
        self._sessions[session_id] = transport
        status = 500

        async def watched(message: HttpMessage) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._tasks.start(self._serve, session_id, transport)
            await transport.handle_request(scope, receive, watched)
        finally:
            if status >= 400:
                with anyio.CancelScope(shield=True):
                    await transport.terminate()

    async def _serve(
        self,
        session_id: str,
        transport: StreamableHTTPServerTransport,
        *,
        task_status: anyio.abc.TaskStatus[None],
    ) -> None:
        try:
            async with transport.connect() as (reading, writing):
                session = _begun(self._plan, self._upstream, writing, http=True)
                task_status.started()
                with transport.idle_scope or contextlib.nullcontext(), suppress(*_GONE):
                    await _converse(session, reading, self._plan.log)
        finally:
            self._sessions.pop(session_id, None)
            with anyio.CancelScope(shield=True):
                await transport.terminate()


async def _other_version(request: HttpRequest, version: str) -> JSONResponse:
    """Send a client of another version back to the handshake, as the protocol says it."""
    try:
        said = await request.json()
        asked = said.get("id") if isinstance(said, dict) else None
    except ValueError:
        asked = None
    data = {"supported": list(HANDSHAKE_VERSIONS), "requested": version}
    error = {"code": UNSUPPORTED_VERSION, "message": "the proxy speaks versions with sessions"}
    return JSONResponse({"jsonrpc": "2.0", "id": asked, "error": {**error, "data": data}}, 400)


def _refused(message: str, status: int) -> JSONResponse:
    error = {"code": -32600, "message": message}
    return JSONResponse({"jsonrpc": "2.0", "id": None, "error": error}, status)


class _Web(uvicorn.Server):
    """uvicorn without its signal handlers, which would end the process before the summary."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _over_http(plan: Plan, upstream: Upstream | None, listen: Listen) -> None:
    bound = _bound(listen)
    front = _Front(plan, upstream, listen)
    web = _Web(
        uvicorn.Config(
            front,
            log_config=None,
            log_level="error",
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
    )

    def stop() -> None:
        web.should_exit = True

    async with front.running():
        with _on_signals(stop):
            host = f"[{listen.host}]" if ":" in listen.host else listen.host
            plan.log(f"listening on http://{host}:{bound.getsockname()[1]}{PATH}")
            serving = asyncio.create_task(web.serve(sockets=[bound]))
            while not serving.done() and not web.should_exit:
                await asyncio.wait([serving], timeout=0.1)
            await front.aclose()  # open streams would hold the shutdown up
            await serving


def _bound(listen: Listen) -> socket.socket:
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((listen.host, listen.port))
        bound.listen(128)  # before it is told: who connects at once waits until it is served
    except OSError as error:
        bound.close()
        raise RecipeError(
            f"cannot listen on {listen.host}:{listen.port} ({error.strerror or error}). "
            "Choose another address; port 0 takes a free one."
        ) from error
    bound.set_inheritable(False)
    return bound


def parse_headers(said: Sequence[str]) -> dict[str, str]:
    """Return `NAME: VALUE` texts as headers; `${VAR}` in a value stands for an environment variable.

    Raises:
        RecipeError: one is no header, or a variable is not set.
    """
    headers = {}
    for each in said:
        name, colon, value = each.partition(":")
        if not colon or not name.strip():
            raise RecipeError("a header is written as `NAME: VALUE`; one has no colon.")
        headers[name.strip()] = os.path.expandvars(value.strip())
        if "${" in headers[name.strip()]:
            raise RecipeError(
                f"the header {name.strip()} names a variable that is not set. Export it first."
            )
    return headers
