"""Every tool of five servers that nobody here wrote: what passes the proxy is what is replayed."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, StdioServerParameters
from mcp.types import ListRootsResult, Root
from pydantic import FileUrl

from cacherl.agent import run_episode
from cacherl.cache.episodes.replay import ReplayTools
from cacherl.cache.lookup.tool_cache import ToolCache
from cacherl.core.folders import DataFolder
from cacherl.core.jsonl import read_jsonl
from cacherl.core.messages import AssistantMessage, ToolCall
from cacherl.core.models import ChatSession, Limits
from cacherl.core.records import JsonObject
from cacherl.core.tasks import Task
from cacherl.core.tools import Tier
from cacherl.core.trajectories import StopReason, Trajectory
from cacherl.record.folder import Plan, record_folder
from cacherl.recorded import RecordedModel
from cacherl.wiring import toolbox_world, written_tasks
from tests.adapters.through import called, proxied, said, summary

SERVERS = Path(__file__).parents[2] / ".servers"

pytestmark = pytest.mark.skipif(
    not (SERVERS / ".installed").exists(),
    reason="the real MCP servers are not installed: make servers",
)

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
ODD = "ünïcödé 文件 🦊.txt"
ADA = {"name": "Ada", "entityType": "person", "observations": ["pays rent"]}
BOB = {"name": "Bob", "entityType": "person", "observations": []}
KNOWS = {"from": "Ada", "to": "Bob", "relationType": "knows"}
TEA = {"entityName": "Ada", "contents": ["likes tea"]}

Calls = list[tuple[str, JsonObject]]

COMMANDS: dict[str, list[str]] = {
    "files": ["mcp-server-filesystem", "desk"],
    "git": ["mcp-server-git"],
    "clock": ["mcp-server-time", "--local-timezone", "Europe/Berlin"],
    "sqlite": ["mcp-server-sqlite", "--db-path", "office.db"],
    "memory": ["mcp-server-memory"],
}
CALLS: dict[str, Calls] = {
    "files": [
        ("list_allowed_directories", {}),
        ("read_text_file", {"path": "notes.txt"}),
        ("read_text_file", {"path": "notes.txt", "head": 1}),
        ("read_text_file", {"path": "notes.txt", "tail": 1, "head": 1}),
        ("read_file", {"path": ODD}),
        ("read_text_file", {"path": "latin1.txt"}),
        ("read_text_file", {"path": "big.txt"}),
        ("read_media_file", {"path": "pixel.png"}),
        ("read_media_file", {"path": "song.mp3"}),
        ("read_media_file", {"path": "blob.bin"}),
        ("read_multiple_files", {"paths": ["notes.txt", "gone.txt", ODD]}),
        ("read_text_file", {"path": "/etc/passwd"}),
        ("read_text_file", {"path": "report-503.txt"}),
        ("read_text_file", {}),
        ("list_directory", {"path": "."}),
        ("list_directory_with_sizes", {"path": ".", "sortBy": "size"}),
        ("directory_tree", {"path": "."}),
        ("search_files", {"path": ".", "pattern": "*.txt"}),
        ("get_file_info", {"path": "notes.txt"}),
        ("write_file", {"path": "notes.txt", "content": "Paid. ✓\n"}),
        ("read_text_file", {"path": "notes.txt"}),
        (
            "edit_file",
            {"path": "notes.txt", "edits": [{"oldText": "Paid", "newText": "Due"}], "dryRun": True},
        ),
        ("read_text_file", {"path": "notes.txt"}),
        ("edit_file", {"path": "notes.txt", "edits": [{"oldText": "Paid", "newText": "Due"}]}),
        ("read_text_file", {"path": "notes.txt"}),
        ("edit_file", {"path": "notes.txt", "edits": [{"oldText": "timeout", "newText": "x"}]}),
        ("create_directory", {"path": "new/deep"}),
        ("move_file", {"source": "notes.txt", "destination": "new/notes.txt"}),
        ("move_file", {"source": "notes.txt", "destination": "new/notes.txt"}),
        ("read_text_file", {"path": "notes.txt"}),
        ("read_text_file", {"path": "new/notes.txt"}),
    ],
    "git": [
        ("git_status", {"repo_path": "project"}),
        ("git_diff_unstaged", {"repo_path": "project"}),
        ("git_add", {"repo_path": "project", "files": ["a.txt"]}),
        ("git_diff_staged", {"repo_path": "project"}),
        ("git_reset", {"repo_path": "project"}),
        ("git_status", {"repo_path": "project"}),
        ("git_add", {"repo_path": "project", "files": ["a.txt"]}),
        ("git_commit", {"repo_path": "project", "message": "Add a, ünïcode"}),
        ("git_log", {"repo_path": "project", "max_count": 5}),
        ("git_create_branch", {"repo_path": "project", "branch_name": "dev"}),
        ("git_checkout", {"repo_path": "project", "branch_name": "dev"}),
        ("git_branch", {"repo_path": "project", "branch_type": "local"}),
        ("git_diff", {"repo_path": "project", "target": "HEAD~1"}),
        ("git_show", {"repo_path": "project", "revision": "HEAD"}),
        ("git_show", {"repo_path": "project", "revision": "nope"}),
        ("git_status", {"repo_path": "/nowhere"}),
    ],
    "clock": [
        ("get_current_time", {"timezone": "Europe/Berlin"}),
        ("get_current_time", {"timezone": "Mars/Base"}),
        (
            "convert_time",
            {"source_timezone": "Europe/Berlin", "time": "16:30", "target_timezone": "Asia/Tokyo"},
        ),
    ],
    "sqlite": [
        ("list_tables", {}),
        ("create_table", {"query": "CREATE TABLE bills (id INTEGER PRIMARY KEY, what TEXT)"}),
        ("read_query", {"query": "SELECT * FROM bills"}),
        ("write_query", {"query": "INSERT INTO bills (what) VALUES ('rent ünï')"}),
        ("write_query", {"query": "INSERT INTO bills (what) VALUES ('rent ünï')"}),
        ("read_query", {"query": "SELECT * FROM bills"}),
        ("describe_table", {"table_name": "bills"}),
        ("append_insight", {"insight": "Rent is dear."}),
        ("read_query", {"query": "DELETE FROM bills"}),
    ],
    "memory": [
        ("read_graph", {}),
        ("create_entities", {"entities": [ADA, BOB]}),
        ("read_graph", {}),
        ("create_relations", {"relations": [KNOWS]}),
        ("add_observations", {"observations": [TEA]}),
        ("add_observations", {"observations": [{**TEA, "entityName": "Zed"}]}),
        ("search_nodes", {"query": "tea"}),
        ("open_nodes", {"names": ["Ada"]}),
        ("delete_observations", {"deletions": [{"entityName": "Ada", "observations": ["x"]}]}),
        ("delete_relations", {"relations": [KNOWS]}),
        ("delete_entities", {"entityNames": ["Bob"]}),
        ("read_graph", {}),
    ],
}


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for the servers to work in, and the servers on the path."""
    folder = tmp_path / "play"
    desk, project = folder / "desk", folder / "project"
    desk.mkdir(parents=True)
    project.mkdir()
    (desk / "notes.txt").write_text("Rent is due.\nOn the 3rd.\n")
    (desk / ODD).write_text("Grüße, 你好\u2028next \x00 nul\r\nwin\n", newline="")
    (desk / "latin1.txt").write_bytes(b"caf\xe9 \xff\xfe\x00")
    (desk / "big.txt").write_text("0123456789abcdef é\n" * 150_000)
    (desk / "pixel.png").write_bytes(base64.b64decode(PIXEL))
    (desk / "song.mp3").write_bytes(bytes(range(256)) * 40)
    (desk / "blob.bin").write_bytes(bytes(range(256)) * 40)
    (project / "a.txt").write_text("one\n")
    for words in (
        "init --quiet --initial-branch main",
        "config user.name Ada",
        "config user.email ada@mail.example",
        "commit --quiet --allow-empty --message Begin",
    ):
        subprocess.run(["git", "-C", str(project), *words.split()], check=True)
    monkeypatch.setenv("PATH", f"{SERVERS / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("MEMORY_FILE_PATH", str(folder / "memory.jsonl"))
    return folder


def at(folder: Path, server: StdioServerParameters) -> StdioServerParameters:
    return server.model_copy(update={"cwd": str(folder)})


def without_ours(answer: JsonObject) -> JsonObject:
    meta = {k: v for k, v in (answer.get("_meta") or {}).items() if not k.startswith("cacherl/")}
    rest = {name: value for name, value in answer.items() if name != "_meta"}
    return {**rest, "_meta": meta} if meta else rest


async def worked(server: StdioServerParameters, calls: Calls) -> list[Any]:
    """All that a server says of itself, then all that it answers."""
    async with Client(server, mode="legacy") as client:
        offered = said(await client.list_tools())
        seen: list[Any] = [{"serverInfo": said(client.server_info)}, offered]
        if client.server_capabilities.resources is not None:
            seen.append(said(await client.list_resources()))
        if client.server_capabilities.prompts is not None:
            seen.append(said(await client.list_prompts()))
        seen += [without_ours(await called(client, tool, **given)) for tool, given in calls]
    left = {tool["name"] for tool in offered["tools"]} - {tool for tool, _ in calls}
    assert not left, "every tool is called"
    return seen


async def all_worked(folder: Path, mode: str, cache: Path) -> dict[str, list[Any]]:
    """Let all servers work at once, each through a proxy of its own, into one cache."""
    jobs = {}
    for name, command in COMMANDS.items():
        log = cache.with_name(f"{mode}-{name}.log")
        behind = ["--", *command] if mode == "record" else []
        server = proxied(f"--{mode}", str(cache), "--namespace", name, *behind, log=log)
        jobs[name] = worked(at(folder, server), CALLS[name])
    return dict(zip(jobs, await asyncio.gather(*jobs.values()), strict=True))


def test_every_tool_of_five_real_servers_is_replayed_as_it_was(
    play: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures, sounds, megabytes, odd names, refusals: what one server does, another will do too."""
    cache = tmp_path / "office.cache"
    recorded = asyncio.run(all_worked(play, "record", cache))
    play.rename(tmp_path / "gone")
    play.mkdir()
    monkeypatch.setenv("PATH", os.environ["PATH"].removeprefix(f"{SERVERS / 'bin'}:"))

    replayed = asyncio.run(all_worked(play, "replay", cache))

    for name, calls in CALLS.items():
        assert replayed[name] == recorded[name], name
        assert summary(tmp_path / f"record-{name}.log").recorded == len(calls)
        assert summary(tmp_path / f"replay-{name}.log").tiers == {Tier.EXACT: len(calls)}
    kinds = {
        block["type"]
        for seen in recorded.values()
        for answer in seen
        for block in answer.get("content", ())
    }
    assert kinds >= {"text", "image", "audio", "resource"}


class Script:
    """A teacher that makes these calls, one a turn, and is done."""

    name = "script"

    def __init__(self, calls: Calls) -> None:
        self._turns = [
            AssistantMessage(calls=(ToolCall(id=f"c{place}", name=tool, arguments=given),))
            for place, (tool, given) in enumerate(calls)
        ]

    def start(self, task: Task, *, limits: Limits, seed: int) -> ChatSession:
        said = Trajectory(
            task_id=task.id,
            policy=self.name,
            messages=(*self._turns, AssistantMessage(content="Done.")),
            results=(),
            stop=StopReason.ANSWER,
        )
        return RecordedModel(said).start(task, limits=limits, seed=seed)


def test_an_episode_recorded_with_all_of_them_is_served_by_its_cache(
    play: Path, tmp_path: Path
) -> None:
    """Training sees what the live tools said, across servers, and never starts one."""
    config = play / "tools.toml"
    lines = ['namespace = "office"']
    for name, (command, *words) in COMMANDS.items():
        lines += [f"[mcp.{name}]", f'command = "{command}"', f"args = {json.dumps(words)}"]
    lines += ["[mcp.memory.env]", 'MEMORY_FILE_PATH = "${MEMORY_FILE_PATH}"']
    config.write_text("\n".join(lines))
    (play / "tasks.jsonl").write_text('{"task": "Do all you can.", "split": "train"}\n')
    calls = [call for each in CALLS.values() for call in each]
    limits = Limits(max_turns=100, max_turn_tokens=1000, max_context_tokens=10**9)
    folder = DataFolder(tmp_path / "data")

    async def run() -> tuple[Trajectory, Trajectory]:
        world = toolbox_world(config)
        [task] = written_tasks(play / "tasks.jsonl", world)
        try:
            await record_folder(
                folder, Script(calls), world, [task], Plan(teacher="script", limits=limits)
            )
        finally:
            await world.aclose()
        [recorded] = read_jsonl(folder.trajectories, Trajectory)
        with ToolCache.open(folder.cache) as cache:
            tools = ReplayTools(cache, task)
            replayed = await run_episode(Script(calls), tools, task, limits=limits)
        return recorded, replayed

    recorded, replayed = asyncio.run(run())

    assert recorded.stop is replayed.stop is StopReason.ANSWER
    assert len(recorded.results) == len(calls)
    assert [each.text for each in replayed.results] == [each.text for each in recorded.results]
    assert {each.tier for each in replayed.results} == {Tier.EXACT}


def test_a_real_server_asks_its_client_for_roots_through_the_proxy(
    play: Path, tmp_path: Path
) -> None:
    """A server that does not learn what it may touch refuses everything. Eighty calls at once besides."""
    cache = tmp_path / "a.cache"
    other = tmp_path / "other"
    other.mkdir()
    for number in range(20):
        (other / f"{number}.txt").write_text(f"file {number}\n" * 500)

    async def roots(context: Any) -> ListRootsResult:
        return ListRootsResult(roots=[Root(uri=FileUrl(other.as_uri()), name="other")])

    async def work(server: StdioServerParameters) -> list[JsonObject]:
        async with Client(at(play, server), mode="legacy", list_roots_callback=roots) as client:
            with anyio.fail_after(30):  # it asks once it has heard that the client is ready
                asked = "list_allowed_directories"
                while str(other) not in str(await called(client, asked)):  # noqa: ASYNC110
                    await anyio.sleep(0.05)
            paths = [str(other / f"{number % 20}.txt") for number in range(80)]
            reads = [called(client, "read_text_file", path=path) for path in paths]
            return [without_ours(answer) for answer in await asyncio.gather(*reads)]

    recorded = asyncio.run(
        work(proxied("--record", str(cache), "--", *COMMANDS["files"], log=tmp_path / "log"))
    )
    replayed = asyncio.run(work(proxied("--replay", str(cache), log=tmp_path / "again")))

    assert recorded[19]["content"][0]["text"] == "file 19\n" * 500
    assert replayed == recorded
