"""One client's session through the proxy, whatever carries its messages."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from cacherl.cache.episodes.ledger import MissPolicy
from cacherl.cache.lookup.hit import EVERY_SPLIT
from cacherl.cache.lookup.settings import DrawPolicy
from cacherl.cache.lookup.tool_cache import ToolCache
from cacherl.core.errors import CacheError, CacheRLError, ToolError
from cacherl.core.messages import ToolCall
from cacherl.core.records import JsonObject
from cacherl.core.tasks import Split
from cacherl.core.tools import ErrorClass, Tier, ToolResult
from cacherl.proxy.messages import (
    ENVELOPE,
    HANDSHAKE_VERSIONS,
    INTERNAL_ERROR,
    UNSUPPORTED_VERSION,
    Failure,
    Message,
    MessageId,
    Notification,
    Reply,
    Request,
    Result,
    failure,
)
from cacherl.proxy.offline import Replayer, answer_of, call_of, policies
from cacherl.proxy.recorder import Recorder
from cacherl.proxy.results import is_final, lost, reply_of, suited, tool_result
from cacherl.proxy.routing import Routes
from cacherl.proxy.server_note import (
    LISTS,
    READS,
    ServerNote,
    joined,
    keep_read,
    keep_server,
    known_server,
    namespaces,
    server_name,
    specs_of,
)
from cacherl.proxy.summary import Tally

_LISTED_WITHIN_S = 10.0
_READY_WITHIN_S = 60.0
_MAX_PAGES = 1000


class Client(Protocol):
    """The way to the client."""

    async def send(self, message: Message, *, related: MessageId | None) -> None:
        """Send a message; `related` is the client's request that it belongs to. Never raises."""
        ...

    async def unanswered(self, request: Request) -> None:
        """Tell the transport that a request was cancelled and need not be answered."""
        ...


class Server(Protocol):
    """The way to one running server."""

    async def send(self, message: Message) -> None:
        """Send a message. A server that is gone is told by `stopped`, not here."""
        ...

    async def aclose(self) -> None:
        """Stop it. Safe to call twice."""
        ...


Connect = Callable[
    [Callable[[Message], Awaitable[None]], Callable[[str], Awaitable[None]]], Awaitable[Server]
]
"""Starts a server, given what to do with its messages and, once, with the news that it has stopped.

Raises ToolError where it cannot be started.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the proxy is for: the same for all sessions."""

    cache: ToolCache
    record: bool
    """Record what passes; else answer calls from the cache."""
    namespace: str | None = None
    """Whose tools; None takes the server's own name."""
    scenario: str = "default"
    split: Split = Split.TRAIN
    """Where recordings go. Replay sees all."""
    on_miss: frozenset[MissPolicy] = frozenset()
    on_miss_of: Mapping[str, MissPolicy] = field(default_factory=dict)
    """By tool."""
    meta: bool = True
    """Add tier, fidelity and key to the `_meta` of replayed results."""
    tally: Tally = field(default_factory=Tally)
    log: Callable[[str], None] = lambda line: None


class Session:
    """One client's session: its messages in, in their order; the server's and the cache's answers out.

    What is not a call of a tool passes as it came. Beside it the proxy asks a server that is there
    for its lists (tools, resources, prompts), so that its recording can be replayed without it.
    """

    def __init__(
        self,
        plan: Plan,
        client: Client,
        connect: Connect | None,
        *,
        server: str = "",
        handshake_only: bool = False,
    ) -> None:
        """Begin.

        Args:
            plan: what to do.
            client: who speaks.
            connect: starts the server; None plays it from the cache.
            server: what it is called until it says its name: its command, say.
            handshake_only: send clients of 2026-07-28 back to `initialize`: where HTTP is on either
                side, that version has no sessions, and an episode is a session.
        """
        self._plan, self._client, self._connect = plan, client, connect
        self._command, self._handshake_only = server, handshake_only
        self._routes = Routes()
        self._server: Server | None = None
        self._own: dict[MessageId, asyncio.Future[Reply]] = {}
        self._ids = (f"cacherl-{secrets.token_hex(4)}-{number}" for number in itertools.count())
        self._greeting: Request | None = None
        self._greeted: JsonObject | None = None
        self._initialized: Notification | None = None
        self._namespace: str | None = None
        self._note = ServerNote()
        self._listing = False
        self._listed = asyncio.Event()
        self._recorder: Recorder | None = None
        self._replayer: Replayer | None = None
        self._waiting: dict[MessageId, asyncio.Future[Reply]] = {}
        self._calls: dict[MessageId, tuple[Request, asyncio.Task[None]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._begun = self._closed = False

    # ---- from the client

    async def receive(self, message: Message) -> None:
        """Take a message of the client. One at a time, in the order they came."""
        if not self._begun:  # counted now: what HTTP refuses is no session
            self._begun = True
            self._plan.tally.sessions += 1
        match message:
            case Request():
                await self._request(message)
            case Notification():
                await self._notification(message)
            case Result() | Failure():
                if self._routes.replied(message.id) and self._server is not None:
                    await self._server.send(message)

    async def aclose(self) -> None:
        """End the session: the client is gone. Its server is stopped."""
        if self._closed:
            return
        self._closed = True
        tasks = [*self._tasks, *(task for _, task in self._calls.values())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        server, self._server = self._server, None
        if server is not None:
            await server.aclose()

    async def _request(self, request: Request) -> None:
        if self._handshake_only and request.is_modern:
            await self._answer(_sent_back(request))
            return
        if request.method == "tools/call":
            self._plan.tally.calls += 1
        if self._connect is None:
            await self._answer(suited(request, await self._offline(request)))
            return
        try:
            await self._started()
        except ToolError as error:
            await self._answer(await self._without(request, error))
            return
        if request.method in ("initialize", "server/discover"):
            self._greeting = request
        if request.method == "tools/call" and "task" in (request.params or {}):
            self._plan.tally.not_recorded["begun as a task"] += 1
        elif request.method == "tools/call":
            await self._knows_tools(request)
            if not self._plan.record:
                self._spawn_call(request)
                return
            call = call_of(request)
            if call is not None:
                with self._written():
                    self._recording().asked(request, call)
        await self._pass(request)

    async def _without(self, request: Request, error: ToolError) -> Reply:
        """Answer a request whose server cannot be started: what is recorded needs none."""
        if self._plan.record or not namespaces(self._plan.cache):
            return self._unreachable(request, str(error))
        self._plan.log(f"{error}; the cache answers alone")
        reply = suited(request, await self._offline(request))
        if request.method in ("initialize", "server/discover") and isinstance(reply, Result):
            self._greeting, self._greeted = request, reply.result
        return reply

    async def _pass(self, request: Request) -> None:
        self._routes.asked(request)
        if self._server is not None:
            await self._server.send(request)
        else:  # it stopped just now, and what it owed was answered before this was asked
            await self._stopped("it stopped")

    async def _notification(self, notification: Notification) -> None:
        if notification.method == "notifications/cancelled":
            await self._cancelled(notification)
        if notification.method == "notifications/initialized":
            self._initialized = notification
        if self._server is None:
            return
        await self._server.send(notification)
        if notification.method == "notifications/initialized":
            self._spawn(self._list())

    async def _cancelled(self, notification: Notification) -> None:
        request_id = (notification.params or {}).get("requestId")
        if not isinstance(request_id, int | str):
            return
        request, task = self._calls.get(request_id, (None, None))
        if task is not None:
            task.cancel()
        request = self._routes.pending(request_id) or request
        if request is None:
            return
        if self._recorder is not None:
            self._recorder.cancelled(request_id)
        await self._client.unanswered(request)

    # ---- from the server

    async def _from_server(self, message: Message) -> None:
        match message:
            case Result() | Failure():
                own = None if message.id is None else self._own.pop(message.id, None)
                if own is not None:
                    if not own.done():
                        own.set_result(message)
                    return
                await self._replied(message)
            case Request():
                related = self._routes.related(message)
                self._routes.asks(message)
                await self._client.send(message, related=related)
            case Notification():
                if message.method == "notifications/tools/list_changed":
                    self._spawn(self._list())
                await self._client.send(message, related=self._routes.related(message))

    async def _replied(self, reply: Reply) -> None:
        request = self._routes.answered(reply.id)
        if request is not None:
            waiting = self._waiting.pop(request.id, None)
            if waiting is not None:
                if not waiting.done():
                    waiting.set_result(reply)
                return
            self._learn(request, reply)
        await self._client.send(reply, related=reply.id)
        # Only now: what it asks the server must not come before the client's answer.
        if request is not None and request.method == "server/discover" and self._greeted:
            self._spawn(self._list())

    def _learn(self, request: Request, reply: Reply) -> None:
        """Write down what passes."""
        if request.method == "tools/call":
            if self._recorder is not None:
                with self._written():
                    self._recorder.answered(request.id, reply)
            failed = isinstance(reply, Failure) or reply.result.get("isError") is True
            self._plan.tally.answered(Tier.LIVE, is_error=failed)
        if isinstance(reply, Failure):
            return
        if request.method in ("initialize", "server/discover") and "capabilities" in reply.result:
            self._greeted = reply.result
            self._note = _presented(request, reply.result)
            self._meet(server_name(reply.result))
        elif (
            request.method in READS
            and self._writable
            and self._namespace is not None
            and reply.result.get("resultType", "complete") == "complete"
        ):
            about = (self._namespace, request.method, request.params)
            with self._written():
                keep_read(self._plan.cache, *about, reply.result)

    @contextmanager
    def _written(self) -> Iterator[None]:
        """Let a recording fail aloud: the client gets its answer all the same."""
        try:
            yield
        except CacheRLError as error:
            self._plan.tally.not_recorded["could not be written"] += 1
            self._plan.log(f"not recorded: {error}")

    @property
    def _writable(self) -> bool:
        return self._plan.cache.store.writable

    def _meet(self, name: str | None) -> None:
        if self._namespace is None:
            self._namespace = self._plan.namespace or name or "mcp"
            self._plan.tally.namespaces.add(self._namespace)
        if self._writable:
            with self._written():
                keep_server(self._plan.cache, self._namespace, self._note)

    async def _stopped(self, reason: str) -> None:
        """The server is gone: everybody who waits is told so, nothing is done again."""
        self._server = None
        words = f"the MCP server {self._shown} has stopped ({reason})"
        for own in self._own.values():
            if not own.done():
                own.set_exception(ToolError(words))
        self._own.clear()
        owed, asking = self._routes.stopped()
        if not self._closed and (owed or self._greeted):
            self._plan.log(f"{words}; calls under way: {len(owed)}")
        for request in owed:
            reply = self._unreachable(
                request,
                f"{words} while this was under way. Whether it was done nobody knows; it was not "
                "repeated. The next request starts the server again"
                if self._greeted or request.method == "tools/call"
                else f"{words} before it was ready. Run it by hand to see why",
            )
            waiting = self._waiting.pop(request.id, None)
            if waiting is not None:
                waiting.set_result(reply)
            else:
                await self._answer(reply)
        for request in asking:
            gone = {"requestId": request.id, "reason": words}
            await self._client.send(
                Notification(method="notifications/cancelled", params=gone), related=None
            )

    def _unreachable(self, request: Request, message: str) -> Reply:
        """Return the answer to a request that the server will not give."""
        if request.method != "tools/call":
            return failure(request.id, INTERNAL_ERROR, message)
        told = None
        if self._recorder is not None:
            told = self._recorder.lost(request.id, message)
        if told is None:
            call = call_of(request) or ToolCall(id=str(request.id), name="", arguments={})
            told = lost(call, message)
        if self._plan.record:
            self._plan.tally.answered(Tier.LIVE, is_error=True)
        return suited(request, reply_of(request.id, told, meta=False))

    async def _answer(self, reply: Reply) -> None:
        await self._client.send(reply, related=reply.id)

    # ---- the server's life

    @property
    def _called(self) -> str:
        return self._namespace or self._plan.namespace or ""

    @property
    def _shown(self) -> str:
        """The server in messages: it may stop before it has said its name."""
        return self._called or self._command

    async def _started(self) -> None:
        """Start the server unless it runs; one that stopped meets its client again.

        Raises:
            ToolError: it cannot be started, or does not get ready.
        """
        if self._server is not None or self._connect is None:
            return
        self._server = await self._connect(self._from_server, self._stopped)
        self._plan.tally.starts += 1
        if self._greeted is None:
            return
        self._plan.log(f"the MCP server {self._shown} is started again")
        if self._recorder is not None:
            self._recorder.restarted()
        if self._greeting is not None and self._greeting.method == "initialize":
            reply = await self._ask("initialize", self._greeting.params)
            if isinstance(reply, Failure):
                server, self._server = self._server, None
                if server is not None:
                    await server.aclose()
                raise ToolError(
                    f"the MCP server {self._shown} was started again and refused to be initialised "
                    f"({reply.error.get('message')})"
                )
            if self._initialized is not None and self._server is not None:
                await self._server.send(self._initialized)

    async def _ask(self, method: str, params: JsonObject | None) -> Reply:
        """Ask the server something of our own.

        Raises:
            ToolError: it stopped, or did not answer in time.
        """
        server = self._server
        if server is None:
            raise ToolError(f"the MCP server {self._shown} has stopped")
        request = Request(id=next(self._ids), method=method, params=params)
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._own[request.id] = answer
        try:
            await server.send(request)
            return await asyncio.wait_for(answer, _READY_WITHIN_S)
        except TimeoutError as error:
            raise ToolError(
                f"the MCP server {self._shown} did not answer {method} within {_READY_WITHIN_S:g} s"
            ) from error
        finally:
            self._own.pop(request.id, None)

    async def _knows_tools(self, request: Request) -> None:
        """Let no call pass before the server's tools are known: their effects decide its state."""
        if self._listed.is_set():
            return
        if self._listing:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._listed.wait(), _LISTED_WITHIN_S)
            return
        if self._greeted is None and request.is_modern:  # its client knows the server already
            params = {"_meta": _envelope(request)}
            self._greeting = Request(id=request.id, method="server/discover", params=params)
            with suppress(ToolError):
                self._learn(self._greeting, await self._ask("server/discover", params))
        await self._list()

    async def _list(self) -> None:
        """Ask the server for its lists, and keep them."""
        self._listing = True
        lists: dict[str, JsonObject] = {}
        capabilities = (self._greeted or {}).get("capabilities") or {}
        try:
            for method, (capability, items) in LISTS.items():
                if capability in capabilities:
                    pages = await self._pages(method)
                    if pages:
                        lists[method] = joined(pages, items)
                if method == "tools/list":
                    self._offer(lists.get(method, {}))
        except CacheRLError as error:
            self._plan.log(f"the lists of {self._shown} are not recorded: {error}")
        finally:
            self._listed.set()
        if lists and self._writable and self._namespace is not None:
            with self._written():
                keep_server(self._plan.cache, self._namespace, ServerNote(lists=lists))

    async def _pages(self, method: str) -> list[JsonObject]:
        envelope = {} if self._greeting is None else _envelope(self._greeting)
        params: JsonObject = {"_meta": envelope} if envelope else {}
        pages: list[JsonObject] = []
        while len(pages) < _MAX_PAGES:
            reply = await self._ask(method, params or None)
            if isinstance(reply, Failure):
                return pages
            pages.append(reply.result)
            cursor = reply.result.get("nextCursor")
            if not cursor:
                break
            params = {**params, "cursor": cursor}
        return pages

    def _offer(self, listed: JsonObject) -> None:
        tools = specs_of(listed.get("tools") or ())
        self._note = msgspec.structs.replace(self._note, lists={"tools/list": listed})
        for each in (self._recorder, self._replayer):
            if each is not None:
                each.offer(tools)

    # ---- calls

    def _recording(self) -> Recorder:
        if self._recorder is None:
            self._meet(None)
            plan, tools = self._plan, self._note.tools()
            episode = plan.cache.episode(
                plan.scenario,
                namespace=self._called,
                tools=tools,
                record="all",
                allow_writes=True,
                split=plan.split,
            )
            self._recorder = Recorder(episode, tools, plan.tally)
        return self._recorder

    def _replaying(self) -> Replayer:
        if self._replayer is None:
            self._meet(None)
            plan, tools = self._plan, self._note.tools()
            listed = {spec.name for spec in tools}
            tools += tuple(
                spec
                for (space, name), spec in plan.cache.store.tools().items()
                if space == self._called and name not in listed
            )
            on_miss = policies(plan.cache, self._called, tools, plan.on_miss, plan.on_miss_of)
            episode = plan.cache.episode(
                plan.scenario,
                namespace=self._called,
                tools=tools,
                record="none" if self._connect is None else "new_episodes",
                on_miss=on_miss,
                draw=DrawPolicy.SEQUENCE,
                splits=EVERY_SPLIT,
                split=plan.split,
            )
            self._replayer = Replayer(
                episode, tools, plan.tally, listed=listed, on_miss=on_miss, meta=plan.meta
            )
        return self._replayer

    async def _offline(self, request: Request) -> Reply:
        cache = self._plan.cache
        try:
            if self._namespace is None:
                self._namespace = played(cache, self._plan.namespace)
                self._plan.tally.namespaces.add(self._namespace)
                self._note = known_server(cache, self._namespace)
            if request.method == "tools/call":
                return await self._replaying().answer(request)
            return answer_of(cache, self._namespace, self._note, request)
        except CacheRLError as error:
            self._plan.log(str(error))
            return failure(request.id, INTERNAL_ERROR, str(error))

    def _spawn_call(self, request: Request) -> None:
        task = asyncio.create_task(self._consult(request))
        self._calls[request.id] = (request, task)
        task.add_done_callback(lambda _: self._calls.pop(request.id, None))

    async def _consult(self, request: Request) -> None:
        """Answer a call from the cache, or let the server answer it."""

        async def live(call: ToolCall) -> ToolResult:
            started = asyncio.get_running_loop().time()
            answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
            self._waiting[request.id] = answer
            try:
                await self._pass(request)
                reply = await answer
            finally:
                self._waiting.pop(request.id, None)
            result = tool_result(call, reply, asyncio.get_running_loop().time() - started)
            if is_final(reply):
                return result
            return msgspec.structs.replace(result, error_class=ErrorClass.TRANSIENT)  # kept nowhere

        try:
            await self._answer(suited(request, await self._replaying().answer(request, live)))
        except CacheRLError as error:
            self._plan.log(str(error))
            await self._answer(failure(request.id, INTERNAL_ERROR, str(error)))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def played(cache: ToolCache, wanted: str | None = None) -> str:
    """Return whose tools a cache plays: those wanted, or the only ones it has.

    Raises:
        CacheError: it does not hold them, it holds none, or those of several servers.
    """
    known = namespaces(cache)
    if wanted is not None and known and wanted not in known:
        raise CacheError(
            f"{cache.name}: nothing of {wanted} is recorded here, but of {', '.join(known)}. "
            "Correct `--namespace`, or leave it out where there is one."
        )
    if len(known) == 1 or wanted in known:
        return wanted or known[0]
    if not known:
        raise CacheError(
            f"{cache.name}: nothing is recorded here. Record a server with "
            f"`cacherl proxy --record {cache.name} -- COMMAND`."
        )
    raise CacheError(
        f"{cache.name}: recordings of {', '.join(known)}. Say whose with `--namespace NAME`."
    )


def _presented(request: Request, said: JsonObject) -> ServerNote:
    """Return what a server says of itself in its answer to a greeting."""
    if request.method == "server/discover":
        return ServerNote(discover=said)
    asked = (request.params or {}).get("protocolVersion")
    return ServerNote(initialize=said, asked=asked if isinstance(asked, str) else None)


def _envelope(request: Request) -> JsonObject:
    """Return what a client of 2026-07-28 says with every request of version, name and abilities."""
    return {name: value for name, value in request.meta.items() if name.startswith(ENVELOPE)}


def _sent_back(request: Request) -> Failure:
    asked = request.meta.get(f"{ENVELOPE}protocolVersion", "")
    return failure(
        request.id,
        UNSUPPORTED_VERSION,
        "over HTTP the proxy speaks versions with sessions",
        {"supported": list(HANDSHAKE_VERSIONS), "requested": asked},
    )
