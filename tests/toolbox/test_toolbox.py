"""Several sources as the tools of one episode, and of the episodes of a world."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacherl.adapters.mcp_tools import McpSource
from cacherl.core.errors import DataError, ToolError
from cacherl.core.messages import ToolCall
from cacherl.core.records import JsonObject
from cacherl.core.sources import Answer
from cacherl.core.tasks import Split, Task
from cacherl.core.tools import Effects, ErrorClass, Source, Tier, ToolResult, ToolSpec
from cacherl.toolbox.policy import CallPolicy, ToolRule
from cacherl.toolbox.toolbox import Gates, Toolbox, ToolCounts, offered_names
from cacherl.toolbox.world import Place, ToolboxWorld
from tests.adapters.notes import http_notes, logged, over_stdio

READER = Effects(reads=("*",))
FAST = CallPolicy(first_wait_s=0.001, longest_wait_s=0.002)
BUSY = Answer(text="429 Too Many Requests", error_class=ErrorClass.TRANSIENT)
TURNED_AWAY = Answer(text="busy", error_class=ErrorClass.TRANSIENT, may_have_run=False)
CRASHED = Answer(text="it died", error_class=ErrorClass.TRANSIENT, down=True)
DENIED = Answer(text="denied", error_class=ErrorClass.PERMISSION)
FINE = Answer(text="fine", wire='{"content":[]}')


class Scripted:
    """A source that answers as it is told, the last answer for ever."""

    def __init__(
        self,
        name: str,
        *answers: Answer,
        tools: Sequence[str] = ("go",),
        effects: Effects = READER,
        refuse: Sequence[int] = (),
    ) -> None:
        self.name = name
        self.starts = self.calls = self.closed = 0
        self._answers = list(answers) or [FINE]
        self._refuse = refuse
        self._specs = [
            ToolSpec(name=tool, description="", parameters={"type": "object"}, effects=effects)
            for tool in tools
        ]

    async def start(self) -> Sequence[ToolSpec]:
        self.starts += 1
        if self.starts in self._refuse:
            raise ToolError(f"{self.name} does not start.")
        return self._specs

    async def call(self, tool: str, arguments: JsonObject) -> Answer:
        self.calls += 1
        await asyncio.sleep(0)
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]

    async def aclose(self) -> None:
        self.closed += 1


def call(name: str, **arguments: Any) -> ToolCall:
    return ToolCall(id="c1", name=name, arguments=arguments)


async def only(source: Scripted, policy: CallPolicy = FAST, times: int = 1) -> ToolResult:
    """Return the last of some calls of a source's one tool."""
    tools = Toolbox([source], policy=policy)
    results = [await tools.call(call("go")) for _ in range(times)]
    await tools.aclose()
    return results[-1]


# ---- names -------------------------------------------------------------------------------------


names = st.text("ab_", min_size=1, max_size=4)


@given(st.dictionaries(names, st.lists(names, max_size=4, unique=True), max_size=4), st.booleans())
def test_every_tool_has_one_name_whatever_the_order(
    tools: dict[str, list[str]], prefix: bool
) -> None:
    """Which of two `search` tools was meant must never be a matter of order; names are in cache keys."""
    try:
        named = offered_names(tools, prefix=prefix)
    except ToolError:
        return  # a__b of one and b of another source: nobody could tell

    assert len(set(named.values())) == len(named) == sum(map(len, tools.values()))
    turned = dict(reversed(tools.items()))
    assert offered_names(turned, prefix=prefix) == named
    every = [tool for own in tools.values() for tool in own]
    for (source, tool), offered in named.items():
        assert offered in (tool, f"{source}__{tool}")
        if every.count(tool) > 1 or prefix:
            assert offered == f"{source}__{tool}"


@pytest.mark.parametrize(
    ("tools", "expected"),
    [
        ({"a": ["x"], "b": ["y"]}, ["x", "y"]),
        ({"a": ["x", "z"], "b": ["x"]}, ["a__x", "z", "b__x"]),
        ({"a": ["x"], "b": ["x", "a__x"]}, ["a__x", "b__x", "b__a__x"]),
    ],
)
def test_a_tool_keeps_its_name_unless_another_source_has_it(
    tools: dict[str, list[str]], expected: list[str]
) -> None:
    """Models know `read_file`; they have never seen `files__read_file`."""
    assert list(offered_names(tools).values()) == expected


async def test_servers_that_share_names_serve_side_by_side(tmp_path: Path) -> None:
    """Two instances of one server are the common case: two folders, two accounts."""
    two = [
        McpSource(over_stdio("mine", log=tmp_path / "log"), scenario="s1"),
        McpSource(over_stdio("yours", log=tmp_path / "log"), scenario="s2"),
    ]
    tools = Toolbox([*two, Scripted("clock", tools=["now"])])
    specs = [spec.name for spec in await tools.start()]
    mine = await tools.call(call("mine__read_note", note_id="n1"))
    yours = await tools.call(call("yours__read_note", note_id="n1"))
    neither = await tools.call(call("read_note", note_id="n1"))
    await tools.aclose()

    assert {"mine__read_note", "yours__read_note", "now"} <= set(specs)
    assert (mine.text, yours.text) == ("first note of s1", "first note of s2")
    assert mine.name == "mine__read_note"
    assert neither.error_class is ErrorClass.NOT_FOUND
    assert "mine__read_note" in neither.text


async def test_two_sources_of_one_name_are_refused() -> None:
    """Their tools could not be told apart, and neither could their limits."""
    with pytest.raises(ToolError, match="2 sources are called 'a'"):
        await Toolbox([Scripted("a"), Scripted("a", tools=["other"])]).start()


# ---- results -----------------------------------------------------------------------------------


async def test_an_answer_reaches_the_model_as_it_is() -> None:
    """Text, the whole answer beside it, and where it came from."""
    result = await only(Scripted("a", FINE))

    assert (result.text, result.wire, result.call_id) == ("fine", '{"content":[]}', "c1")
    assert (result.tier, result.source, result.is_error) == (Tier.LIVE, Source.LIVE, False)


async def test_what_a_person_says_of_a_tool_wins() -> None:
    """By the name it is offered under, or by its full one."""
    rules = {
        "go": ToolRule(reads=("a",)),
        "b__stop": ToolRule(writes=("b",)),
        "secret": ToolRule(hide=True),
    }
    tools = Toolbox([Scripted("a"), Scripted("b", tools=["stop", "secret"])], rules=rules)
    specs = {spec.name: spec.effects for spec in await tools.start()}
    hidden = await tools.call(call("secret"))

    assert specs == {"go": Effects(reads=("a",)), "stop": Effects(reads=("*",), writes=("b",))}
    assert hidden.error_class is ErrorClass.NOT_FOUND


async def test_a_rule_of_no_tool_is_refused() -> None:
    """A typo would otherwise leave a writer retried, or a secret tool offered."""
    with pytest.raises(ToolError, match=r"tool 'gone', and there is none: the tools are go\."):
        await Toolbox([Scripted("a")], rules={"gone": ToolRule()}).start()


# ---- trying again ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "effects", "expected", "calls"),
    [
        (BUSY, READER, "fine", 2),
        (BUSY, Effects(writes=("x",)), BUSY.text, 1),
        (BUSY, Effects(writes=("x",), idempotent=True), BUSY.text, 1),
        (TURNED_AWAY, Effects(writes=("x",)), "fine", 2),
        (DENIED, READER, "denied", 1),
    ],
)
async def test_only_what_can_do_no_harm_is_tried_again(
    first: Answer, effects: Effects, expected: str, calls: int
) -> None:
    """A person's rule that a tool only reads is what allows it."""
    source = Scripted("a", first, FINE, effects=effects)

    assert (await only(source)).text == expected
    assert source.calls == calls


async def test_trying_again_ends() -> None:
    """And then the error is what the model sees."""
    source = Scripted("a", BUSY)
    tools = Toolbox([source], policy=FAST)
    result = await tools.call(call("go"))

    assert (result.error_class, source.calls) == (ErrorClass.TRANSIENT, 3)
    assert tools.report().tools["go"] == ToolCounts(calls=1, errors=1, retries=2)


async def test_a_reader_that_hangs_is_asked_again_and_a_writer_is_not(tmp_path: Path) -> None:
    """The whole point of declaring what a tool does."""
    log = tmp_path / "log"
    tools = Toolbox(
        [McpSource(over_stdio(log=log))],
        policy=CallPolicy(timeout_s=0.4, first_wait_s=0.01),
        rules={"sleep": ToolRule(timeout_s=0.1)},
    )
    read = await tools.call(call("look_slowly"))
    wrote = await tools.call(call("write_slowly"))
    slept = await tools.call(call("sleep", seconds=30))
    after = await tools.call(call("read_note", note_id="n1"))
    report = tools.report()
    await tools.aclose()

    assert read.text == "seen"
    assert wrote.error_class is ErrorClass.TRANSIENT
    assert "may or may not have taken effect" in wrote.text
    assert "within 0.1 s" in slept.text
    assert after.error_class is None
    assert logged(log) == ["look_slowly", "look_slowly", "write_slowly", "write_slowly cancelled"]
    assert report.tools["look_slowly"] == ToolCounts(calls=1, retries=1, timeouts=1)
    assert report.tools["write_slowly"] == ToolCounts(calls=1, errors=1, timeouts=1)


# ---- sources that go down ----------------------------------------------------------------------


async def test_a_crash_is_reported_and_the_server_comes_back(tmp_path: Path) -> None:
    """One bad call costs one call: not the episode, and never a second run of what may have run."""
    log = tmp_path / "log"
    tools = Toolbox([McpSource(over_stdio(log=log), scenario="s1")], policy=FAST)
    crashed = await tools.call(call("crash"))
    after = await tools.call(call("read_note", note_id="n1"))
    reader = await tools.call(call("crash_once"))
    report = tools.report()
    await tools.aclose()

    assert crashed.error_class is ErrorClass.TRANSIENT
    assert json.loads(crashed.text) == {
        "error": "unavailable",
        "message": "notes stopped while crash was under way. "
        "The call may or may not have taken effect.",
    }
    assert after.text == "first note of s1"
    assert reader.text == "read after all"
    assert logged(log) == ["crash", "crash_once", "crash_once"]
    assert report.restarts == {"notes": 2}
    assert report.tools["crash"] == ToolCounts(calls=1, errors=1, crashes=1)
    assert report.tools["crash_once"] == ToolCounts(calls=1, retries=1, crashes=1)


async def test_a_source_that_keeps_crashing_stays_down_and_says_so() -> None:
    """Starting a server for every call of a night would bury the one line that explains it."""
    source = Scripted("a", CRASHED, effects=Effects(writes=("x",)))

    with pytest.raises(ToolError, match=r"a went down 4 times .* stays down .*it died"):
        await only(source, times=9)
    assert (source.starts, source.calls) == (4, 4)


async def test_an_answered_call_forgives_earlier_crashes() -> None:
    """A server that crashes now and then is a nuisance, not a loss."""
    script = [CRASHED, CRASHED, FINE] * 4
    source = Scripted("a", *script, effects=Effects(writes=("x",)))

    assert (await only(source, times=12)).text == "fine"
    assert source.starts == 9


async def test_a_source_that_comes_up_late_is_waited_for() -> None:
    """It is being replaced: the next attempt but one finds it."""
    source = Scripted("a", CRASHED, FINE, refuse=(2,))

    assert (await only(source)).text == "fine"
    assert source.starts == 3


async def test_a_source_that_does_not_come_up_stops_the_episode() -> None:
    """Its answers would say nothing about who called; such an episode is run again later."""
    with pytest.raises(ToolError, match="a does not start"):
        await only(Scripted("a", CRASHED, refuse=range(2, 99)))


async def test_one_crash_that_many_calls_met_is_one_restart() -> None:
    """Eight episodes share a server, and it dies once."""
    source = Scripted("a", *[CRASHED] * 8, FINE)
    tools = Toolbox([source], policy=FAST)
    await tools.start()

    results = await asyncio.gather(*(tools.call(call("go")) for _ in range(8)))

    assert [result.text for result in results] == ["fine"] * 8
    assert source.starts == 2


@pytest.mark.parametrize("wrote", [False, True])
async def test_an_episode_whose_writes_are_lost_ends(wrote: bool) -> None:
    """A server that is started anew has forgotten: what it answers then would be recorded as the truth."""
    source = Scripted(
        "a", *([FINE] if wrote else []), CRASHED, FINE, effects=Effects(writes=("x",))
    )
    world = ToolboxWorld(
        [Place(name="a", open=lambda _: source)], namespace="a", resets=True, policy=FAST
    )
    tools = world.open("s1")
    if wrote:
        assert (await tools.call(call("go"))).text == "fine"
    met = await tools.call(call("go"))

    assert met.error_class is ErrorClass.TRANSIENT
    if wrote:
        with pytest.raises(
            ToolError, match=r"a went down and has lost what this episode wrote \(it died\)"
        ):
            await tools.call(call("go"))
    else:
        assert (await tools.call(call("go"))).text == "fine"
    await tools.aclose()


async def test_what_cannot_be_started_raises_and_leaves_nothing_running() -> None:
    """No episode can be played without its tools."""
    good = Scripted("good", tools=["other"])
    tools = Toolbox([good, Scripted("bad", refuse=(1,))])

    with pytest.raises(ToolError, match="bad does not start"):
        await tools.call(call("go"))
    assert good.closed == 1
    await tools.aclose()
    await tools.aclose()
    with pytest.raises(ToolError, match="this episode is over"):
        await tools.call(call("go"))


async def test_a_web_server_replaced_under_way_costs_its_readers_nothing(tmp_path: Path) -> None:
    """Calls made while it is away wait for it, as they have not run."""
    with http_notes(tmp_path / "log") as web:
        tools = Toolbox(
            [McpSource(web.server)],
            policy=CallPolicy(retries=12, first_wait_s=0.2, longest_wait_s=0.5),
        )
        before = await tools.call(call("read_note", note_id="n1"))
        web.kill()
        starting = threading.Timer(0.3, web.start)
        starting.start()
        away = await tools.call(call("write_note", note_id="n1", text="late"))
        after = await tools.call(call("read_note", note_id="n1"))
        starting.join()
        await tools.aclose()

    assert before.text == "first note of web"
    assert (away.text, after.text) == ("written", "late")


# ---- limits ------------------------------------------------------------------------------------


async def test_no_more_calls_are_under_way_than_allowed(tmp_path: Path) -> None:
    """Counted at the server, over all episodes: a provider's limit does not care whose calls they are."""
    with http_notes(tmp_path / "log") as web:
        world = ToolboxWorld(
            [Place(name="notes", open=lambda _: McpSource(web.server))],
            namespace="n",
            resets=True,
            policy=CallPolicy(concurrency=4),
        )
        episodes = [world.open(f"s{number}") for number in range(5)]
        results = await asyncio.gather(
            *(tools.call(call("count_busy")) for tools in episodes for _ in range(10))
        )
        await asyncio.gather(*(tools.aclose() for tools in episodes))

    seen = [int(result.text) for result in results]
    assert len(seen) == 50
    assert 2 <= max(seen) <= 4


async def test_a_tool_may_have_a_limit_of_its_own(tmp_path: Path) -> None:
    """The one slow search of a server; its other tools go on meanwhile."""
    tools = Toolbox(
        [McpSource(over_stdio(log=tmp_path / "log"))],
        policy=CallPolicy(concurrency=3),
        rules={"count_busy": ToolRule(concurrency=2), "sleep": ToolRule(concurrency=1)},
    )
    await tools.start()
    sleeping = [asyncio.create_task(tools.call(call("sleep", seconds=0.5))) for _ in range(5)]
    await asyncio.sleep(0.05)
    # One of five sleepers holds a place of the server; who waits for the tool holds none.
    busy = await asyncio.gather(*(tools.call(call("count_busy")) for _ in range(8)))
    still_sleeping = sum(not task.done() for task in sleeping)
    for task in sleeping:
        task.cancel()
    await asyncio.wait(sleeping)
    await tools.aclose()

    assert max(int(result.text) for result in busy) == 2
    assert still_sleeping >= 4


async def test_a_limit_is_per_event_loop_and_never_breaks() -> None:
    """Commands run several loops one after the other; a semaphore belongs to one."""
    gates = Gates()

    async def contend() -> None:
        async def hold() -> None:
            async with gates.at("a", width=1):
                await asyncio.sleep(0)

        await asyncio.gather(*(hold() for _ in range(5)))

    await contend()
    await asyncio.to_thread(asyncio.run, contend())


# ---- worlds ------------------------------------------------------------------------------------


def notes_world(log: Path, *, resets: bool, **options: Any) -> ToolboxWorld:
    server = over_stdio(log=log, scenario="{scenario}" if resets else "shared")
    return ToolboxWorld(
        [
            Place(
                name="notes",
                open=lambda scenario: McpSource(server, scenario=scenario),
                by_scenario=server.by_scenario,
            )
        ],
        namespace="notes",
        resets=resets,
        **options,
    )


async def read_after_write(world: ToolboxWorld) -> tuple[str, str]:
    """Write in one episode; return what it and another one read."""
    one, two = world.open("s1"), world.open("s1")
    await one.call(call("write_note", note_id="n1", text="changed"))
    texts = [(await tools.call(call("read_note", note_id="n1"))).text for tools in (one, two)]
    await one.aclose()
    await two.aclose()
    return texts[0], texts[1]


async def test_an_episode_that_resets_has_servers_of_its_own(tmp_path: Path) -> None:
    """Otherwise rollout 2 would find the world as rollout 1 left it."""
    world = notes_world(tmp_path / "log", resets=True)

    assert await read_after_write(world) == ("changed", "first note of s1")


def test_episodes_share_a_server_whose_state_lies_outside_anyway(tmp_path: Path) -> None:
    """Starting one by npx takes a second; and it ends with the loop, closed or not."""
    world = notes_world(tmp_path / "log", resets=False)

    async def play() -> tuple[tuple[str, str], int]:
        texts = await read_after_write(world)
        tools = world.open("s9")
        number = int((await tools.call(call("process_id"))).text)
        return texts, number

    (first, one), (second, two) = asyncio.run(play()), asyncio.run(play())

    assert first == second == ("changed", "changed")
    assert one != two  # each loop has started its own ...
    for number in (one, two):
        assert not is_alive(number)  # ... and none is left behind
    # What a recording did to the tools, over all its episodes, is part of its report.
    assert world.report().tools["read_note"] == ToolCounts(calls=4)


async def test_a_shared_server_can_be_stopped_and_starts_again(tmp_path: Path) -> None:
    """A long-lived process lets go of its servers when it is told."""
    world = notes_world(tmp_path / "log", resets=False)
    first = int((await world.open("s1").call(call("process_id"))).text)
    await world.aclose()
    second = int((await world.open("s1").call(call("process_id"))).text)
    await world.aclose()
    await world.aclose()

    assert not is_alive(first)
    assert first != second


async def test_a_world_lists_its_tools_even_inside_an_event_loop(tmp_path: Path) -> None:
    """`World.specs` is plain, and stages are async."""
    rules = {"sleep": ToolRule(reads=(), writes=())}
    world = notes_world(tmp_path / "log", resets=True, rules=rules)

    specs = {spec.name: spec for spec in world.specs}

    assert world.specs is world.specs
    assert specs["sleep"].effects == Effects()
    assert specs["read_note"].parameters["required"] == ["note_id"]


def task(number: int, *, split: Split = Split.TRAIN, namespace: str = "a") -> Task:
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


def small_world(tasks: Sequence[Task] | Callable[[], Sequence[Task]]) -> ToolboxWorld:
    return ToolboxWorld([Place(name="a", open=lambda _: Scripted("a"))], namespace="a", tasks=tasks)


def test_tasks_are_drawn_by_split_and_seed() -> None:
    """The same seed gives the same tasks; a task without tools is offered all of them."""
    world = small_world(lambda: [*(task(n) for n in range(6)), task(9, split=Split.TEST)])

    drawn = world.tasks(Split.TRAIN, count=3, seed=1)

    assert drawn == world.tasks(Split.TRAIN, count=3, seed=1)
    assert [one.id for one in drawn] != [
        one.id for one in world.tasks(Split.TRAIN, count=3, seed=2)
    ]
    assert {one.split for one in drawn} == {Split.TRAIN}
    assert drawn[0].tools == tuple(world.specs)
    with pytest.raises(DataError, match="1 tasks of split test, 2 asked for"):
        world.tasks(Split.TEST, count=2, seed=1)


def test_tasks_of_another_world_are_refused() -> None:
    """Their results would be cached under the wrong tools."""
    with pytest.raises(DataError, match="namespace 'desk'"):
        small_world([task(1, namespace="desk")]).tasks(Split.TRAIN, count=1, seed=0)
    with pytest.raises(DataError, match="come with no tasks"):
        small_world([]).tasks(Split.TRAIN, count=1, seed=0)


def is_alive(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True
