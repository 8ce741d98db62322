"""Tools of real MCP servers over stdio, as the live tools of an episode.

Every episode starts its own server processes, so its state is its own. Servers are told the
scenario by `{scenario}` in their arguments or environment.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import mcp
import mcp_types
import msgspec
from mcp_types.jsonrpc import CONNECTION_CLOSED, INVALID_PARAMS, METHOD_NOT_FOUND, REQUEST_TIMEOUT

from cacherl.core.errors import DataError, ToolError
from cacherl.core.jsonl import read_jsonl
from cacherl.core.messages import ToolCall
from cacherl.core.schema import error_text
from cacherl.core.tasks import Split, Task
from cacherl.core.tools import (
    UNDECLARED,
    Effects,
    ErrorClass,
    Source,
    Tier,
    ToolResult,
    ToolSpec,
)

EFFECTS_META = "cacherl/effects"
"""A tool's `_meta` entry of this name, `{"reads": [...], "writes": [...]}`, declares its effects."""

READ_ONLY = Effects(reads=("*",))


@dataclass(frozen=True, slots=True, kw_only=True)
class McpServer:
    """How to start one server."""

    name: str
    command: str
    """A program, not a shell line."""
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    """Added to the few variables (PATH, HOME, ...) that a server gets; keys and secrets go here."""
    cwd: str | None = None
    only: tuple[str, ...] = ()
    """The tools to offer, by the server's names; empty offers all."""
    prefix: bool = False
    """Offer tools as `<server>__<tool>`, for servers that share a tool's name."""
    effects: Mapping[str, Effects] = field(default_factory=dict)
    """Effects by the server's tool name; they win over what the server says."""

    def offered(self, tool: str) -> str:
        """Return the name under which a tool is offered."""
        return f"{self.name}__{tool}" if self.prefix else tool


def spec_of(server: McpServer, tool: mcp_types.Tool) -> ToolSpec:
    """Return a listed tool as we know tools.

    Effects come from the recipe, else from `_meta`, else from the annotations. The settings of a cache
    win over all three.

    Raises:
        ToolError: what the server says under `cacherl/effects` is no effects.
    """
    return ToolSpec(
        name=server.offered(tool.name),
        description=tool.description or "",
        parameters={"type": "object", **tool.input_schema},
        effects=_effects(server, tool),
    )


def _effects(server: McpServer, tool: mcp_types.Tool) -> Effects:
    if tool.name in server.effects:
        return server.effects[tool.name]
    declared = (tool.meta or {}).get(EFFECTS_META)
    if declared is None:
        return annotated_effects(tool.annotations)
    try:
        return msgspec.convert(declared, Effects)
    except msgspec.ValidationError as error:
        raise ToolError(
            f"the MCP server {server.name}: {EFFECTS_META} of its tool {tool.name} is no effects ({error}). "
            'Write {"reads": [...], "writes": [...]}.'
        ) from error


def annotated_effects(annotations: mcp_types.ToolAnnotations | None) -> Effects:
    """Return the effects that MCP's annotations stand for. They are hints: no resource is named.

    `readOnlyHint` reads everything and writes nothing, and with `openWorldHint` its answers age;
    `idempotentHint` writes everything, twice as once; any other tool writes everything. A tool that
    calls itself read-only and destructive is believed the worse of the two.
    """
    if annotations is None or (annotations.read_only_hint and annotations.destructive_hint):
        return UNDECLARED
    if annotations.read_only_hint:
        # Said, that is: MCP's default is true, and says nothing.
        open_world = annotations.open_world_hint is True
        return msgspec.structs.replace(READ_ONLY, open_world=open_world)
    if annotations.idempotent_hint:
        return msgspec.structs.replace(UNDECLARED, idempotent=True)
    return UNDECLARED


class _Connection:
    """One running server. A task of its own enters and leaves the client, which demands just that."""

    def __init__(self, server: McpServer, scenario: str, call_timeout_s: float) -> None:
        self.server = server
        self._call_timeout_s = call_timeout_s
        self._params = mcp.StdioServerParameters(
            command=server.command,
            args=[arg.replace("{scenario}", scenario) for arg in server.args],
            env={name: value.replace("{scenario}", scenario) for name, value in server.env.items()},
            cwd=server.cwd,
        )
        self._stop = asyncio.Event()
        self._owner: asyncio.Task[None] | None = None
        self._session: mcp.ClientSession | None = None

    async def start(self, timeout_s: float) -> list[mcp_types.Tool]:
        """Start the process and return its tools.

        Raises:
            ToolError: it does not start, or does not speak MCP, within `timeout_s`.
        """
        ready: asyncio.Future[list[mcp_types.Tool]] = asyncio.get_running_loop().create_future()
        self._owner = asyncio.create_task(self._own(ready))
        try:
            return await asyncio.wait_for(ready, timeout_s)
        except TimeoutError as error:
            self._owner.cancel()
            raise ToolError(
                f"the MCP server {self.server.name} ({self._line()}) did not answer within {timeout_s:g} s. "
                "Run the command by hand to see what it waits for, or raise `start_timeout_s`."
            ) from error

    async def _own(self, ready: asyncio.Future[list[mcp_types.Tool]]) -> None:
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as words:
            try:
                async with (
                    mcp.stdio_client(self._params, errlog=words) as (reading, writing),
                    mcp.ClientSession(reading, writing) as session,
                ):
                    try:
                        await session.initialize()
                        tools = await _all_tools(session)
                    except (mcp.MCPError, RuntimeError, ValueError) as error:
                        _fail(ready, self._unready(error, words))
                        return
                    self._session = session
                    if not ready.done():
                        ready.set_result(tools)
                    await self._stop.wait()
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or str(error)
                _fail(
                    ready,
                    ToolError(
                        f"the MCP server {self.server.name} cannot be started: {self._line()}: {reason}. "
                        "Install the program, or correct `command`."
                    ),
                )
            finally:
                self._session = None

    def _unready(self, error: Exception, words: IO[str]) -> ToolError:
        words.seek(0)
        lines = [line.strip() for line in words if line.strip()]
        said = f"; its last line was: {lines[-1][:200].rstrip('.')}" if lines else ""
        return ToolError(
            f"the MCP server {self.server.name} ({self._line()}) ended or failed before it was ready "
            f"({_one_line(str(error))}){said}. Run the command by hand to see why."
        )

    def _line(self) -> str:
        return " ".join([self._params.command, *self._params.args])

    async def call(self, tool: str, arguments: dict[str, Any]) -> tuple[str, ErrorClass | None]:
        """Return the text of the answer, and the class of the error if it is one."""
        if self._session is None:
            return _stopped(self.server.name)
        try:
            answer = await self._session.call_tool(
                tool, arguments, read_timeout_seconds=self._call_timeout_s
            )
        except mcp.MCPError as error:
            return self._protocol_error(error)
        except (RuntimeError, ValueError) as error:
            # The server answered something that its own schema or the protocol forbids.
            return error_text("invalid_result", _one_line(str(error))), ErrorClass.UNKNOWN
        text = _text_of(answer)
        return text, error_class_of(text) if answer.is_error else None

    def _protocol_error(self, error: mcp.MCPError) -> tuple[str, ErrorClass]:
        match error.code:
            case code if code == CONNECTION_CLOSED:
                return _stopped(self.server.name)
            case code if code == REQUEST_TIMEOUT:
                message = f"no answer within {self._call_timeout_s:g} s"
                return error_text("timeout", message), ErrorClass.TRANSIENT
            case code if code == INVALID_PARAMS:
                kind = error_class_of(error.message)
                if kind is ErrorClass.UNKNOWN:
                    kind = ErrorClass.VALIDATION
                return error_text(kind, error.message), kind
            case code if code == METHOD_NOT_FOUND:
                return error_text("not_found", error.message), ErrorClass.NOT_FOUND
            case _:
                kind = error_class_of(error.message)
                return error_text(kind, error.message), kind

    async def aclose(self) -> None:
        if self._owner is None:
            return
        owner, self._owner = self._owner, None
        self._stop.set()
        with suppress(asyncio.CancelledError):
            await owner


def _fail(ready: asyncio.Future[list[mcp_types.Tool]], error: ToolError) -> None:
    if not ready.done():
        ready.set_exception(error)


def _stopped(server: str) -> tuple[str, ErrorClass]:
    message = f"the tool server {server} has stopped"
    return error_text("unavailable", message), ErrorClass.TRANSIENT


async def _all_tools(session: mcp.ClientSession) -> list[mcp_types.Tool]:
    tools: list[mcp_types.Tool] = []
    cursor: str | None = None
    while True:
        params = mcp_types.PaginatedRequestParams(cursor=cursor) if cursor else None
        page = await session.list_tools(params=params)
        tools += page.tools
        cursor = page.next_cursor
        if not cursor:
            return tools


def _text_of(answer: mcp_types.CallToolResult) -> str:
    """Return what a model can read: text as it is, everything else named but not shown."""
    parts = []
    for block in answer.content:
        match block:
            case mcp_types.TextContent():
                parts.append(block.text)
            case mcp_types.EmbeddedResource(resource=mcp_types.TextResourceContents() as resource):
                parts.append(resource.text)
            case mcp_types.ImageContent() | mcp_types.AudioContent():
                parts.append(
                    f"[{block.type} {block.mime_type}, {len(block.data)} characters of base64]"
                )
            case _:
                parts.append(f"[{block.type}]")
    if not parts and answer.structured_content is not None:
        return json.dumps(answer.structured_content, ensure_ascii=False)
    return "\n".join(parts)


_WORDS: tuple[tuple[ErrorClass, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(pattern, re.IGNORECASE))
    for kind, pattern in (
        (
            ErrorClass.TRANSIENT,
            r"timed?[ -]?out|rate.?limit|too many requests|temporar|unavailable|connection (?:reset|refused|closed|lost)|\b(?:429|502|503|504)\b",
        ),
        (
            ErrorClass.PERMISSION,
            r"permission|forbidden|not (?:allowed|permitted|authori[sz]ed)|unauthori[sz]ed|denied|policy|\b(?:401|403)\b",
        ),
        (
            ErrorClass.NOT_FOUND,
            r"not[ _]found|no such|does(?: not|n't) exist|unknown|no \w+ with|\b404\b",
        ),
        (
            ErrorClass.VALIDATION,
            r"invalid|validation|required|must be|expected|missing|malformed|\b(?:400|422)\b",
        ),
    )
)


def error_class_of(text: str) -> ErrorClass:
    """Return the class of an error a tool reported.

    A JSON object with an `error` or `kind` that is one of our classes says it; otherwise its words do,
    the transient ones first: replaying a time-out for ever is worse than asking a live tool again.
    """
    with suppress(ValueError):
        said = json.loads(text)
        if isinstance(said, dict):
            for name in ("error_class", "error", "kind"):
                if said.get(name) in set(ErrorClass):
                    return ErrorClass(said[name])
    for kind, words in _WORDS:
        if words.search(text):
            return kind
    return ErrorClass.UNKNOWN


class McpTools:
    """The tools of one episode; its servers start with the first call."""

    def __init__(
        self,
        servers: Sequence[McpServer],
        *,
        scenario: str = "",
        call_timeout_s: float = 60.0,
        start_timeout_s: float = 30.0,
    ) -> None:
        self._servers = servers
        self._scenario = scenario
        self._call_timeout_s = call_timeout_s
        self._start_timeout_s = start_timeout_s
        self._connections: list[_Connection] | None = None
        self._routes: dict[str, tuple[_Connection, str]] = {}

    async def start(self) -> list[ToolSpec]:
        """Start the servers and return their tools.

        Raises:
            ToolError: a server cannot be started, two offer the same name, or one lacks a tool of its `only`.
        """
        connections = [
            _Connection(server, self._scenario, self._call_timeout_s) for server in self._servers
        ]
        self._connections = connections
        listed = await asyncio.gather(
            *(connection.start(self._start_timeout_s) for connection in connections),
            return_exceptions=True,
        )
        specs: list[ToolSpec] = []
        try:
            for connection, tools in zip(connections, listed, strict=True):
                if isinstance(tools, BaseException):
                    raise tools
                specs += self._routed(connection, tools)
        except BaseException:
            await self.aclose()
            self._connections = None
            raise
        return specs

    def _routed(self, connection: _Connection, tools: Sequence[mcp_types.Tool]) -> list[ToolSpec]:
        server = connection.server
        lacking = set(server.only) - {tool.name for tool in tools}
        if lacking:
            raise ToolError(
                f"the MCP server {server.name} has no tool {sorted(lacking)[0]!r}; it has "
                f"{', '.join(sorted(tool.name for tool in tools)) or 'none'}. Correct `only`."
            )
        specs = []
        for tool in tools:
            if server.only and tool.name not in server.only:
                continue
            spec = spec_of(server, tool)
            if spec.name in self._routes:
                other = self._routes[spec.name][0].server.name
                raise ToolError(
                    f"the MCP servers {other} and {server.name} both have a tool {spec.name!r}. "
                    "Set `prefix = true` on one of them."
                )
            self._routes[spec.name] = (connection, tool.name)
            specs.append(spec)
        return specs

    async def call(self, call: ToolCall) -> ToolResult:
        """Answer a call of any name; a failing, slow or crashed server is a result.

        Raises:
            ToolError: on the first call, when the servers cannot be started at all.
        """
        if self._connections is None:
            await self.start()
        started = time.perf_counter()
        route = self._routes.get(call.name)
        error: ErrorClass | None
        if route is None:
            offered = ", ".join(sorted(self._routes)) or "none"
            text = error_text("not_found", f"no tool {call.name}; there are: {offered}")
            error = ErrorClass.NOT_FOUND
        else:
            connection, tool = route
            text, error = await connection.call(tool, call.arguments)
        return ToolResult(
            call_id=call.id,
            name=call.name,
            text=text,
            is_error=error is not None,
            error_class=error,
            tier=Tier.LIVE,
            source=Source.LIVE,
            latency_s=time.perf_counter() - started,
        )

    def fingerprint(self) -> str:
        """Return the empty string: MCP has no way to ask a server for its state."""
        return ""

    async def aclose(self) -> None:
        """Stop the servers. Safe to call twice."""
        connections, self._connections = self._connections or [], []
        self._routes = {}
        await asyncio.gather(*(connection.aclose() for connection in connections))


class McpWorld:
    """A `World` of MCP servers, whose tasks a person wrote.

    The task file is JSONL of `Task` records. A task with `"tools": []` is offered every tool.
    `list_scenario` is the scenario in which servers are started to list their tools, for
    servers that refuse to start without a real one.
    """

    def __init__(
        self,
        servers: Sequence[McpServer],
        *,
        namespace: str,
        tasks: Path | None = None,
        list_scenario: str = "",
        call_timeout_s: float = 60.0,
        start_timeout_s: float = 30.0,
    ) -> None:
        self.namespace = namespace
        self._servers = tuple(servers)
        self._tasks = tasks
        self._list_scenario = list_scenario
        self._call_timeout_s = call_timeout_s
        self._start_timeout_s = start_timeout_s
        self._specs: tuple[ToolSpec, ...] | None = None

    @property
    def specs(self) -> Sequence[ToolSpec]:
        """Every tool of the servers, asked for once.

        Raises:
            ToolError: a server cannot be started.
        """
        if self._specs is None:
            # In a thread: the caller may itself stand in an event loop.
            with ThreadPoolExecutor(max_workers=1) as thread:
                self._specs = thread.submit(asyncio.run, self._list()).result()
        return self._specs

    async def _list(self) -> tuple[ToolSpec, ...]:
        tools = self.open(self._list_scenario)
        try:
            return tuple(await tools.start())
        finally:
            await tools.aclose()

    def open(self, scenario: str) -> McpTools:
        """Return fresh tools; servers start with the first call, and a server that cannot raises there."""
        return McpTools(
            self._servers,
            scenario=scenario,
            call_timeout_s=self._call_timeout_s,
            start_timeout_s=self._start_timeout_s,
        )

    def tasks(self, split: Split, *, count: int, seed: int) -> list[Task]:
        """Return `count` tasks of the split, drawn from the file by `seed`.

        Raises:
            DataError: no task file, too few tasks in it, or a task of another namespace.
        """
        if self._tasks is None:
            raise DataError(
                f"the MCP world {self.namespace} has no tasks of its own. Name a JSONL file of tasks (`tasks`)."
            )
        found = [task for task in read_jsonl(self._tasks, Task) if task.split is split]
        for task in found:
            if task.namespace != self.namespace:
                raise DataError(
                    f"{self._tasks}: the task {task.id} is of namespace {task.namespace!r}, these servers are "
                    f"{self.namespace!r}. Results of two worlds must not mix: correct one of them."
                )
        if len(found) < count:
            raise DataError(
                f"{self._tasks}: {len(found)} tasks of split {split}, {count} asked for. "
                "Write more, or ask for fewer."
            )
        found.sort(key=lambda task: hashlib.blake2b(f"{seed}/{task.id}".encode()).digest())
        return [
            task if task.tools else msgspec.structs.replace(task, tools=tuple(self.specs))
            for task in found[:count]
        ]


def _one_line(text: str, limit: int = 200) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 3] + "..."
