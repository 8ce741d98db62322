"""Tools of real MCP server processes, over stdio and streamable HTTP."""

from __future__ import annotations

import asyncio
import dataclasses
import http.server
import json
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cacherl.adapters.mcp_tools import McpServer, McpSource
from cacherl.cache.episodes.replay import ReplayTools
from cacherl.cache.lookup.settings import parse_settings
from cacherl.cache.lookup.tool_cache import ToolCache
from cacherl.core.errors import ToolError
from cacherl.core.jsonl import read_jsonl
from cacherl.core.messages import AssistantMessage, ToolCall
from cacherl.core.models import Limits
from cacherl.core.tasks import Split, Task
from cacherl.core.tools import UNDECLARED, Effects, ErrorClass, Tier, ToolSpec
from cacherl.core.trajectories import StopReason, Trajectory
from cacherl.record import record
from cacherl.toolbox.toolbox import Toolbox
from cacherl.toolbox.world import Place, ToolboxWorld
from cacherl.worlds.desk.expert import DeskExpert
from cacherl.worlds.desk.world import DeskWorld
from tests.adapters.notes import SCRIPT, HttpNotes, http_notes, logged, over_stdio

SRC = str(Path(__file__).parents[2] / "src")
DESK = McpServer(
    name="desk",
    command=sys.executable,
    args=("-m", "cacherl.worlds.desk", "--scenario", "{scenario}"),
    env={"PYTHONPATH": SRC},
)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "notes.log"


@pytest.fixture(scope="module")
def specs() -> dict[str, ToolSpec]:
    """Return the notebook's tools, listed once: a start costs most of a second."""

    async def listed() -> dict[str, ToolSpec]:
        source = McpSource(over_stdio())
        found = {spec.name: spec for spec in await source.start()}
        await source.aclose()
        return found

    return asyncio.run(listed())


@pytest.fixture
async def source(log: Path) -> AsyncIterator[McpSource]:
    opened = McpSource(over_stdio(log=log), scenario="s1")
    await opened.start()
    yield opened
    await opened.aclose()


@pytest.fixture
def web(log: Path) -> Iterator[HttpNotes]:
    with http_notes(log) as server:
        yield server


@pytest.fixture
async def over_http(web: HttpNotes) -> AsyncIterator[McpSource]:
    opened = McpSource(web.server)
    await opened.start()
    yield opened
    await opened.aclose()


# ---- what a server says ------------------------------------------------------------------------


async def test_an_answer_of_several_blocks_is_kept_whole(source: McpSource) -> None:
    """The model reads text; whoever replays to a real client needs the picture too."""
    answer = await source.call("show_picture", {})

    assert answer.text == "a pixel\n[image image/png, 4 characters of base64]"
    assert answer.wire is not None
    wire = json.loads(answer.wire)
    assert [block["type"] for block in wire["content"]] == ["text", "image"]
    assert (wire["structuredContent"], wire["_meta"]) == ({"width": 1}, {"page": 1})


def test_annotations_stand_for_effects_as_far_as_they_go(specs: dict[str, ToolSpec]) -> None:
    """A server that declares nothing of ours still says what it only reads and what it does twice as once."""
    effects = {name: spec.effects for name, spec in specs.items()}

    assert effects["read_note"] == Effects(reads=("*",))
    assert effects["find_pages"] == Effects(reads=("*",), open_world=True)
    assert effects["put_note"] == Effects(reads=("*",), writes=("*",), idempotent=True)
    assert effects["write_note"] == effects["tidy"] == UNDECLARED
    # `_meta` wins over the annotations, which call this tool a writer.
    assert effects["count_words"] == Effects(reads=("note:{note_id}",))


def test_what_people_say_wins_over_what_a_server_says_of_itself(
    specs: dict[str, ToolSpec],
) -> None:
    """Annotations are hints from whoever wrote the server, and some set all of them wrong."""
    settings = parse_settings(
        """
        [tools.write_note]
        writes = ["note:{note_id}"]
        [tools."notes/count_words"]
        reads = ["*"]
        """,
        "cache.toml",
    )

    def applied(name: str) -> Effects:
        return settings.applied("notes", specs[name]).effects

    assert applied("write_note") == Effects(reads=("*",), writes=("note:{note_id}",))
    assert applied("count_words") == Effects(reads=("*",))
    assert applied("put_note") == specs["put_note"].effects


async def test_a_note_put_twice_over_mcp_is_one_state(log: Path) -> None:
    """What the server annotates reaches the keys of the cache; tools that nobody wants are not offered."""
    server = dataclasses.replace(over_stdio(log=log), only=("put_note", "read_note"))
    tools = Toolbox([McpSource(server, scenario="s1")])
    task = Task(
        id="t1",
        split=Split.TRAIN,
        family="read",
        language="en",
        wording="a",
        scenario="s1",
        namespace="notes",
        system="",
        user_turns=("Read n1.",),
        tools=tuple(await tools.start()),
    )
    assert [spec.name for spec in task.tools] == ["read_note", "put_note"]
    read = ToolCall(id="c1", name="read_note", arguments={"note_id": "n1"})
    put = ToolCall(id="c1", name="put_note", arguments={"note_id": "n1", "text": "new"})
    played = (put, put, read)
    answers = [await tools.call(each) for each in played]
    await tools.aclose()
    with ToolCache.open(":memory:") as cache:
        messages = [AssistantMessage(calls=(each,)) for each in played]
        cache.record_trajectory(
            task,
            Trajectory(
                task_id="t1",
                policy="p",
                messages=tuple(messages),
                results=tuple(answers),
                stop=StopReason.ANSWER,
            ),
        )
        replayed = ReplayTools(cache, task)
        got = [await replayed.call(each) for each in (put, read)]

    # Recorded after two puttings, and right after one.
    assert [each.tier for each in got] == [Tier.EXACT, Tier.EXACT]
    assert got[1].text == "new"


async def test_tools_added_under_way_are_heard_of_at_the_next_start(source: McpSource) -> None:
    """An episode's tools are those that its task was offered; news of others must not break it."""
    assert (await source.call("add_tool", {})).text == "added"

    assert (await source.call("read_note", {"note_id": "n1"})).error_class is None
    assert (await source.call("late_tool", {})).text == "new"


async def test_a_scenario_says_which_server_it_is() -> None:
    """Sources that do not depend on the scenario may be shared between episodes."""
    assert DESK.by_scenario
    assert McpServer(name="a", url="http://127.0.0.1:1/{scenario}/mcp").by_scenario
    assert not McpServer(name="a", command="b").by_scenario
    filled = McpServer(name="a", url="http://h/{scenario}", headers={"X": "{scenario}"})
    assert filled.in_scenario("s1") == McpServer(name="a", url="http://h/s1", headers={"X": "s1"})


# ---- servers that go wrong ---------------------------------------------------------------------


async def test_a_server_that_crashes_is_down_and_says_whether_the_call_may_have_run(
    source: McpSource,
) -> None:
    """A writer may only be made again where it is certain that it never ran."""
    met = await source.call("crash", {})
    after = await source.call("write_note", {"note_id": "n1", "text": "x"})

    assert (met.down, met.may_have_run, met.error_class) == (True, True, ErrorClass.TRANSIENT)
    assert "Segmentation fault" in met.text
    assert (after.down, after.may_have_run) == (True, False)
    await source.start()
    again = await source.call("read_note", {"note_id": "n1"})
    assert again.text == "first note of s1"


async def test_a_server_that_died_while_nobody_called_ran_nothing(source: McpSource) -> None:
    """Killed for its memory between two calls: the next call is safe to make again."""
    assert (await source.call("die_later", {})).error_class is None
    await asyncio.sleep(0.5)

    answer = await source.call("write_note", {"note_id": "n1", "text": "x"})

    assert (answer.down, answer.may_have_run) == (True, False)


async def test_a_cancelled_call_is_cancelled_at_the_server(source: McpSource, log: Path) -> None:
    """A query that nobody waits for any more must not go on costing its server."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await source.call("write_slowly", {})
    still_well = await source.call("read_note", {"note_id": "n1"})

    assert logged(log) == ["write_slowly", "write_slowly cancelled"]
    assert still_well.error_class is None


async def test_a_server_that_prints_where_it_must_not_is_understood(
    source: McpSource, capfd: pytest.CaptureFixture[str]
) -> None:
    """A forgotten `print` in a tool is the commonest fault of stdio servers."""
    answer = await source.call("read_much", {"characters": 3_000_000})

    assert len(answer.text) == 3_000_000
    assert capfd.readouterr().err == ""


MODERN = """
import json, sys
for line in sys.stdin:
    asked = json.loads(line)
    if "id" not in asked:
        continue
    answer = {"jsonrpc": "2.0", "id": asked["id"]}
    if asked["method"] == "server/discover":
        answer["result"] = {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}}
    elif asked["method"] == "tools/list":
        answer["result"] = {"tools": [{"name": "go", "inputSchema": {"type": "object"}}]}
    elif asked["method"] == "tools/call":
        answer["result"] = {"content": [{"type": "text", "text": "gone"}]}
    else:
        answer["error"] = {"code": -32601, "message": "Method not found"}
    if "result" in answer:
        answer["result"] |= {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"}
    print(json.dumps(answer), flush=True)
"""


async def test_a_server_without_the_old_handshake_is_discovered() -> None:
    """MCP of 2026 drops `initialize`; servers that follow it must not need another client."""
    source = McpSource(McpServer(name="new", command=sys.executable, args=("-c", MODERN)))
    specs = await source.start()
    answer = await source.call("go", {})
    await source.aclose()

    assert [spec.name for spec in specs] == ["go"]
    assert (answer.text, answer.error_class) == ("gone", None)


async def test_a_stuck_server_counts_as_down(log: Path) -> None:
    """It would take every later call with it, each for its whole time limit."""
    source = McpSource(over_stdio(log=log), ping_s=0.2)
    await source.start()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await source.call("get_stuck", {})
    await asyncio.sleep(0.6)

    answer = await source.call("read_note", {"note_id": "n1"})
    await source.aclose()

    assert (answer.down, answer.may_have_run) == (True, False)


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        (
            McpServer(name="gone", command="no-such-program-here"),
            "the MCP server gone cannot be started: no-such-program-here: No such file",
        ),
        (
            McpServer(
                name="broken", command=sys.executable, args=("-c", "raise SystemExit('no licence')")
            ),
            "it last said: no licence",
        ),
        (
            McpServer(name="notes", command=sys.executable, args=(SCRIPT,), only=("fly",)),
            "has no tool 'fly'; it has add_tool, count_busy",
        ),
        (McpServer(name="web", url="http://127.0.0.1:9/mcp"), "connection refused"),
        (
            McpServer(
                name="silent",
                command=sys.executable,
                args=("-c", "import sys; sys.stderr.write('hm'); sys.stdin.read()"),
                start_timeout_s=0.5,
            ),
            "did not answer within 0.5 s",
        ),
        (
            McpServer(
                name="secret",
                command=sys.executable,
                args=("-c", "raise SystemExit('bad key hunter2')"),
                secrets=frozenset({"hunter2"}),
            ),
            "bad key ***",
        ),
    ],
    ids=lambda value: value.name if isinstance(value, McpServer) else "",
)
async def test_a_server_that_cannot_be_used_is_one_line(server: McpServer, expected: str) -> None:
    """The reader learns which server, which command, what it said and what to do."""
    source = McpSource(server)

    with pytest.raises(ToolError) as caught:
        await source.start()
    await source.aclose()

    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


async def test_a_server_that_refuses_its_scenario_is_quoted() -> None:
    """The reason it died must stand in the error, not only on a terminal long gone."""
    with pytest.raises(ToolError, match="no scenario 'moon-1'"):
        await McpSource(DESK, scenario="moon-1").start()


async def test_starting_may_be_cancelled(log: Path) -> None:
    """Ctrl-C while servers come up leaves none behind."""
    source = McpSource(over_stdio(log=log))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await source.start()

    assert len(await source.start()) > 3
    await source.aclose()


def test_a_server_is_a_program_or_an_address() -> None:
    """Which of the two was meant is not to be guessed."""
    with pytest.raises(ToolError, match="either a `command` or a `url`"):
        McpServer(name="both", command="x", url="http://h/mcp")
    with pytest.raises(ToolError, match="either a `command` or a `url`"):
        McpServer(name="neither")


# ---- over HTTP ---------------------------------------------------------------------------------


async def test_over_http_all_is_as_over_stdio(over_http: McpSource) -> None:
    """How a server is reached is nobody's business but the adapter's."""
    read = await over_http.call("read_note", {"note_id": "n1"})
    missing = await over_http.call("read_note", {"note_id": "n9"})
    picture = await over_http.call("show_picture", {})
    much = await over_http.call("read_much", {"characters": 3_000_000})

    assert len(much.text) == 3_000_000
    assert read.text == "first note of web"
    assert missing.error_class is ErrorClass.NOT_FOUND
    assert picture.wire is not None


async def test_a_call_given_up_over_http_is_cancelled_at_the_server(
    over_http: McpSource, log: Path
) -> None:
    """As over stdio."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await over_http.call("write_slowly", {})
    still_well = await over_http.call("read_note", {"note_id": "n1"})

    assert still_well.error_class is None
    assert logged(log) == ["write_slowly", "write_slowly cancelled"]


async def test_a_web_server_killed_mid_call_is_told_and_used_again_when_it_is_back(
    over_http: McpSource, web: HttpNotes
) -> None:
    """Deployments happen; each call says what became of it, and others under way are not taken along."""
    slow = asyncio.create_task(over_http.call("sleep", {"seconds": 60}))
    await asyncio.sleep(0.3)
    web.kill()
    met = await slow
    refused = await over_http.call("write_note", {"note_id": "n1", "text": "x"})
    with pytest.raises(ToolError, match="connection refused"):
        await over_http.start()
    web.start()
    await over_http.start()
    back = await over_http.call("read_note", {"note_id": "n1"})

    assert (met.error_class, met.may_have_run) == (ErrorClass.TRANSIENT, True)
    assert (refused.down, refused.may_have_run) == (True, False)
    assert back.text == "first note of web"


async def test_a_web_server_that_forgot_the_session_is_down_and_ran_nothing(
    over_http: McpSource, web: HttpNotes
) -> None:
    """Replaced between two calls: the new process knows no session, and has done nothing."""
    web.kill()
    web.start()

    forgotten = await over_http.call("write_note", {"note_id": "n1", "text": "x"})
    await over_http.start()
    again = await over_http.call("write_note", {"note_id": "n1", "text": "x"})

    assert (forgotten.down, forgotten.may_have_run) == (True, False)
    assert again.text == "written"


@contextmanager
def gateway(status: int, body: bytes) -> Iterator[str]:
    """Run a server that shakes hands as MCP does and then answers every call with one status."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            method = asked.get("method")
            result: dict[str, Any] | None = None
            if method == "initialize":
                result = {
                    "protocolVersion": asked["params"]["protocolVersion"],
                    "capabilities": {"tools": {}},
                    "serverInfo": {"name": "gateway", "version": "1"},
                }
            elif method == "tools/list":
                result = {"tools": [{"name": "go", "inputSchema": {"type": "object"}}]}
            elif "id" not in asked:
                self._send(202, b"")
                return
            if result is None:
                self._send(status, body)
            else:
                answer = {"jsonrpc": "2.0", "id": asked["id"], "result": result}
                self._send(200, json.dumps(answer).encode())

        def do_GET(self) -> None:
            self._send(405, b"")

        def _send(self, code: int, content: bytes) -> None:
            self.send_response(code)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Stay silent."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/mcp?key=hunter2"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize(
    ("status", "body", "expected", "ran"),
    [
        (429, b"slow down", ErrorClass.TRANSIENT, False),
        (503, b"<html>Service Unavailable</html>", ErrorClass.TRANSIENT, True),
        (504, b"", ErrorClass.TRANSIENT, True),
        (401, b"who are you", ErrorClass.PERMISSION, False),
        (404, b"", ErrorClass.NOT_FOUND, False),
        (
            400,
            b'{"jsonrpc": "2.0", "id": null, "error": {"code": -32602, "message": "no such city"}}',
            ErrorClass.NOT_FOUND,
            True,
        ),
    ],
)
async def test_what_a_gateway_answers_says_whether_the_call_may_have_run(
    status: int, body: bytes, expected: ErrorClass, ran: bool
) -> None:
    """A writer that was turned away at the door may be made again; one that timed out behind it not."""
    with gateway(status, body) as url:
        source = McpSource(McpServer(name="web", url=url))
        await source.start()
        answer = await source.call("go", {})
        await source.aclose()

    assert (answer.error_class, answer.may_have_run, answer.down) == (expected, ran, False)


# ---- the desk ----------------------------------------------------------------------------------


async def test_the_desk_over_mcp_answers_as_the_desk_itself(tmp_path: Path) -> None:
    """People's tools come over MCP; the built-in world proves that nothing is lost on that way."""
    desk = DeskWorld()
    tasks = [
        next(t for t in desk.tasks(Split.TRAIN, count=40, seed=1) if t.family == family)
        for family in ("cancel", "email_retry")
    ]
    remote = ToolboxWorld(
        [Place(name="desk", open=lambda scenario: McpSource(DESK, scenario=scenario))],
        namespace=desk.namespace,
        resets=True,
        list_scenario="desk-1",
    )
    recorded = {}
    for name, world in (("here", desk), ("there", remote)):
        out = tmp_path / f"{name}.jsonl"
        await record(
            DeskExpert(detour=0.0), world, tasks, limits=Limits(max_turns=16), seed=0, out=out
        )
        recorded[name] = {t.task_id: t for t in read_jsonl(out, Trajectory)}

    for one in tasks:
        here, there = recorded["here"][one.id], recorded["there"][one.id]
        assert there.stop is StopReason.ANSWER
        assert there.messages == here.messages
        assert [(r.text, r.error_class) for r in there.results] == [
            (r.text, r.error_class) for r in here.results
        ]
        assert there.final_state is None  # nobody can ask an MCP server for its state
    # Effects too: a recording made over MCP and one made here have the same keys.
    assert list(remote.specs) == list(desk.specs)
