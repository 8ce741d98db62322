"""Tools of real MCP server processes, as the live tools of an episode."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cacherl.adapters.mcp_tools import McpServer, McpTools, McpWorld, error_class_of
from cacherl.cache.episodes.replay import ReplayTools
from cacherl.cache.lookup.settings import parse_settings
from cacherl.cache.lookup.tool_cache import ToolCache
from cacherl.core.errors import DataError, ToolError
from cacherl.core.jsonl import read_jsonl, write_jsonl
from cacherl.core.messages import AssistantMessage, ToolCall
from cacherl.core.models import Limits
from cacherl.core.schema import error_text
from cacherl.core.tasks import Split, Task
from cacherl.core.tools import UNDECLARED, Effects, ErrorClass, Source, Tier
from cacherl.core.trajectories import StopReason, Trajectory
from cacherl.record import record
from cacherl.worlds.desk.expert import DeskExpert
from cacherl.worlds.desk.world import DeskWorld

SCRIPT = str(Path(__file__).with_name("mcp_notes_server.py"))
NOTES = McpServer(name="notes", command=sys.executable, args=(SCRIPT, "{scenario}"))


@pytest.fixture
async def tools() -> AsyncIterator[McpTools]:
    opened = McpTools([NOTES], scenario="s1", call_timeout_s=5)
    yield opened
    await opened.aclose()


def call(name: str, **arguments: Any) -> ToolCall:
    return ToolCall(id="c1", name=name, arguments=arguments)


def task(number: int, *, split: Split = Split.TRAIN, namespace: str = "notes") -> Task:
    return Task(
        id=f"t{number}",
        split=split,
        family="read",
        language="en",
        wording="a",
        scenario="s1",
        namespace=namespace,
        system="",
        user_turns=("Read n1.",),
        tools=(),
    )


async def test_an_episode_keeps_its_state_and_knows_its_scenario(tools: McpTools) -> None:
    """What the model writes it can read again, and each scenario starts where the task says."""
    first = await tools.call(call("read_note", note_id="n1"))
    await tools.call(call("write_note", note_id="n1", text="changed"))
    second = await tools.call(call("read_note", note_id="n1"))

    assert (first.text, second.text) == ("first note of s1", "changed")
    assert (first.tier, first.source, first.is_error) == (Tier.LIVE, Source.LIVE, False)
    assert first.latency_s > 0


async def test_two_episodes_do_not_share_state(tools: McpTools) -> None:
    """Otherwise rollout 2 would find the world as rollout 1 left it."""
    other = McpTools([NOTES], scenario="s1")
    await tools.call(call("write_note", note_id="n1", text="changed"))

    seen = await other.call(call("read_note", note_id="n1"))
    await other.aclose()

    assert seen.text == "first note of s1"


async def test_a_failing_tool_is_a_result_with_its_class(tools: McpTools) -> None:
    """The model must see the error, and the cache must know whether it may be replayed."""
    result = await tools.call(call("read_note", note_id="n9"))

    assert result.is_error
    assert result.error_class is ErrorClass.NOT_FOUND
    assert "n9" in result.text


async def test_an_unknown_tool_is_a_result(tools: McpTools) -> None:
    """`Tools.call` promises it for every name."""
    result = await tools.call(call("fly"))

    assert result.error_class is ErrorClass.NOT_FOUND
    assert "read_note" in result.text


async def test_a_slow_tool_is_a_transient_error() -> None:
    """A time-out says nothing about the call, so it must never be replayed."""
    tools = McpTools([NOTES], call_timeout_s=0.3)
    result = await tools.call(call("sleep", seconds=30))
    await tools.aclose()

    assert result.error_class is ErrorClass.TRANSIENT
    assert "0.3 s" in result.text


async def test_a_crashed_server_is_a_transient_error_and_stays_one(tools: McpTools) -> None:
    """One crash costs one episode its answers, not the recording."""
    crashed = await tools.call(call("crash"))
    after = await tools.call(call("read_note", note_id="n1"))

    assert crashed.error_class is ErrorClass.TRANSIENT
    assert after.error_class is ErrorClass.TRANSIENT
    assert "stopped" in after.text


async def test_closing_twice_or_unused_is_harmless() -> None:
    """`Tools.aclose` promises it."""
    unused = McpTools([NOTES])
    await unused.aclose()
    await unused.aclose()


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
            "its last line was: no licence",
        ),
        (
            McpServer(name="notes", command=sys.executable, args=(SCRIPT,), only=("fly",)),
            "has no tool 'fly'; it has count_words, crash",
        ),
    ],
)
async def test_a_server_that_cannot_be_used_is_one_line(server: McpServer, expected: str) -> None:
    """The reader learns which server, which command, what it said and what to do."""
    tools = McpTools([server])

    with pytest.raises(ToolError) as caught:
        await tools.call(call("read_note", note_id="n1"))
    await tools.aclose()

    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_a_server_that_says_nothing_is_given_up() -> None:
    """A program that is no MCP server must not hang a recording."""
    silent = McpServer(
        name="silent", command=sys.executable, args=("-c", "import sys; sys.stdin.read()")
    )
    tools = McpTools([silent], start_timeout_s=0.5)

    with pytest.raises(ToolError, match=r"did not answer within 0.5 s"):
        await tools.start()


async def test_servers_that_share_a_name_need_a_prefix() -> None:
    """Which of two `search` tools was meant must never be a matter of order."""
    again = McpServer(name="more", command=sys.executable, args=(SCRIPT, "more"))
    with pytest.raises(ToolError, match="prefix = true"):
        await McpTools([NOTES, again]).start()

    prefixed = McpServer(name="more", command=sys.executable, args=(SCRIPT, "more"), prefix=True)
    both = McpTools([NOTES, prefixed], scenario="s1")
    one = await both.call(call("read_note", note_id="n1"))
    two = await both.call(call("more__read_note", note_id="n1"))
    await both.aclose()

    assert (one.text, two.text) == ("first note of s1", "first note of more")


async def test_a_world_lists_its_tools_even_inside_an_event_loop() -> None:
    """`World.specs` is plain, and stages are async."""
    declared = McpServer(
        name="notes",
        command=sys.executable,
        args=(SCRIPT,),
        only=("read_note", "write_note", "count_words", "sleep"),
        effects={"sleep": Effects()},
    )
    world = McpWorld([declared], namespace="notes")

    specs = {spec.name: spec for spec in world.specs}

    assert list(specs) == ["read_note", "write_note", "count_words", "sleep"]
    assert specs["read_note"].effects == Effects(reads=("*",))
    assert specs["write_note"].effects == UNDECLARED
    assert specs["count_words"].effects == Effects(reads=("note:{note_id}",))
    assert specs["sleep"].effects == Effects()
    assert specs["read_note"].parameters["required"] == ["note_id"]


async def test_annotations_stand_for_effects_as_far_as_they_go(tools: McpTools) -> None:
    """A server that declares nothing of ours still says what it only reads and what it does twice as once."""
    effects = {spec.name: spec.effects for spec in await tools.start()}

    assert effects["read_note"] == Effects(reads=("*",))
    assert effects["find_pages"] == Effects(reads=("*",), open_world=True)
    assert effects["put_note"] == Effects(reads=("*",), writes=("*",), idempotent=True)
    assert effects["write_note"] == effects["tidy"] == UNDECLARED
    # `_meta` wins over the annotations, which call this tool a writer.
    assert effects["count_words"] == Effects(reads=("note:{note_id}",))


async def test_what_people_say_wins_over_what_a_server_says_of_itself(tools: McpTools) -> None:
    """Annotations are hints from whoever wrote the server, and some set all of them wrong."""
    specs = {spec.name: spec for spec in await tools.start()}
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


async def test_a_note_put_twice_over_mcp_is_one_state(tools: McpTools) -> None:
    """What the server annotates reaches the keys of the cache."""
    task_of_notes = msgspec.structs.replace(task(1), tools=tuple(await tools.start()))
    read, put = call("read_note", note_id="n1"), call("put_note", note_id="n1", text="new")
    played = (put, put, read)
    answers = [await tools.call(each) for each in played]
    with ToolCache.open(":memory:") as cache:
        messages = [AssistantMessage(calls=(each,)) for each in played]
        cache.record_trajectory(
            task_of_notes,
            Trajectory(
                task_id="t1",
                policy="p",
                messages=tuple(messages),
                results=tuple(answers),
                stop=StopReason.ANSWER,
            ),
        )
        replayed = ReplayTools(cache, task_of_notes)
        got = [await replayed.call(each) for each in (put, read)]

    # Recorded after two puttings, and right after one.
    assert [each.tier for each in got] == [Tier.EXACT, Tier.EXACT]
    assert got[1].text == "new"


def test_tasks_come_from_the_file_by_split_and_seed(tmp_path: Path) -> None:
    """The same seed gives the same tasks; a task without tools is offered all of them."""
    path = tmp_path / "tasks.jsonl"
    write_jsonl(path, [*(task(n) for n in range(6)), task(9, split=Split.TEST)])
    world = McpWorld([NOTES], namespace="notes", tasks=path)

    drawn = world.tasks(Split.TRAIN, count=3, seed=1)

    assert drawn == world.tasks(Split.TRAIN, count=3, seed=1)
    assert {one.split for one in drawn} == {Split.TRAIN}
    assert [spec.name for spec in drawn[0].tools] == [spec.name for spec in world.specs]
    with pytest.raises(DataError, match="1 tasks of split test, 2 asked for"):
        world.tasks(Split.TEST, count=2, seed=1)


def test_tasks_of_another_world_are_refused(tmp_path: Path) -> None:
    """Their results would be cached under the wrong tools."""
    path = tmp_path / "tasks.jsonl"
    write_jsonl(path, [task(1, namespace="desk")])

    with pytest.raises(DataError, match="namespace 'desk'"):
        McpWorld([NOTES], namespace="notes", tasks=path).tasks(Split.TRAIN, count=1, seed=0)
    with pytest.raises(DataError, match="no tasks of its own"):
        McpWorld([NOTES], namespace="notes").tasks(Split.TRAIN, count=1, seed=0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (error_text("permission", "refunds over 100 need a manager"), ErrorClass.PERMISSION),
        ("Error executing tool x: request timed out", ErrorClass.TRANSIENT),
        ("HTTP 429 Too Many Requests", ErrorClass.TRANSIENT),
        ("Order 17 does not exist", ErrorClass.NOT_FOUND),
        ("Access denied", ErrorClass.PERMISSION),
        ("quantity must be positive", ErrorClass.VALIDATION),
        ("boom", ErrorClass.UNKNOWN),
    ],
)
def test_errors_are_classed_by_what_they_say(text: str, expected: ErrorClass) -> None:
    """Only transient errors are kept out of the cache; the others are lessons."""
    assert error_class_of(text) is expected


async def test_the_desk_over_mcp_answers_as_the_desk_itself(tmp_path: Path) -> None:
    """People's tools come over MCP; the built-in world proves that nothing is lost on that way."""
    desk = DeskWorld()
    tasks = [
        next(t for t in desk.tasks(Split.TRAIN, count=40, seed=1) if t.family == family)
        for family in ("cancel", "email_retry")
    ]
    source = str(Path(__file__).parents[2] / "src")
    server = McpServer(
        name="desk",
        command=sys.executable,
        args=("-m", "cacherl.worlds.desk", "--scenario", "{scenario}"),
        env={"PYTHONPATH": source},
    )
    remote = McpWorld([server], namespace=desk.namespace, list_scenario="desk-1")
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


async def test_a_server_that_refuses_its_scenario_is_quoted() -> None:
    """The reason it died must stand in the error, not only on a terminal long gone."""
    server = McpServer(
        name="desk",
        command=sys.executable,
        args=("-m", "cacherl.worlds.desk", "--scenario", "{scenario}"),
        env={"PYTHONPATH": str(Path(__file__).parents[2] / "src")},
    )
    tools = McpTools([server], scenario="moon-1")

    with pytest.raises(ToolError, match="no scenario 'moon-1'"):
        await tools.start()
