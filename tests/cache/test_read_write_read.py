"""Whatever is recorded and whatever is played: EXACT and FUZZY say what the live world would say."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from cacherl.cache.episodes.ledger import MissPolicy
from cacherl.cache.episodes.replay import ReplayTools
from cacherl.cache.lookup.tool_cache import ToolCache
from cacherl.core.messages import ToolCall
from cacherl.core.tools import UNDECLARED, Effects, Tier, ToolSpec
from tests.cache.recordings import call, result, task, trajectory


def tool(name: str, effects: Effects, **kinds: str) -> ToolSpec:
    return ToolSpec(
        name=name,
        description="",
        parameters={
            "type": "object",
            "properties": {
                each: {"type": "string", "x-kind": kind} for each, kind in kinds.items()
            },
        },
        effects=effects,
    )


READ = tool("read", Effects(reads=("item:{item}",)), item="id")
LIST = tool("list", Effects(reads=("item:*", "shelf:*")), order="enum")
FIND = tool("find", Effects(reads=("shelf:{shelf}",)), shelf="id", query="text")
SET = tool("set", Effects(reads=("item:{item}",), writes=("item:{item}",)), item="id", to="text")
PUT = tool("put", Effects(writes=("shelf:{shelf}",), idempotent=True), shelf="id", what="id")
COPY = tool(
    "copy", Effects(reads=("item:{item}",), writes=("shelf:{shelf}",)), item="id", shelf="id"
)
WIPE = tool("wipe", UNDECLARED)
ALL = (READ, LIST, FIND, SET, PUT, COPY, WIPE)

FILLER = frozenset({"the", "please", "find"})


class World:
    """Items with counters of what was set, shelves with what lies on them."""

    def __init__(self) -> None:
        self.items: dict[str, tuple[str, ...]] = {}
        self.shelves: dict[str, tuple[str, ...]] = {}

    def run(self, asked: ToolCall) -> str:
        a: dict[str, Any] = dict(asked.arguments)
        match asked.name:
            case "read":
                return f"item {a['item']}: {self.items.get(a['item'], ())}"
            case "list":
                return f"{a['order']}: {self.items} {self.shelves}"
            case "find":
                words = sorted(set(a["query"].split()) - FILLER)
                return f"{words} among {self.shelves.get(a['shelf'], ())}"
            case "set":
                self.items[a["item"]] = (*self.items.get(a["item"], ()), a["to"])
                return f"set {len(self.items[a['item']])} times"
            case "put":
                self.shelves[a["shelf"]] = (a["what"],)
                return "lies there"
            case "copy":
                self.shelves[a["shelf"]] = self.items.get(a["item"], ())
                return "copied"
            case _:
                self.items, self.shelves = {}, {}
                return "empty"


NAMES = st.sampled_from("AB")
CALLS = st.one_of(
    NAMES.map(lambda n: call(READ, item=n)),
    st.just(call(LIST, order="asc")),
    st.tuples(NAMES, st.sampled_from(["red shoes", "please find the red shoes", "red hats"])).map(
        lambda q: call(FIND, shelf=q[0], query=q[1])
    ),
    st.tuples(NAMES, st.sampled_from(["new", "old"])).map(lambda s: call(SET, item=s[0], to=s[1])),
    st.tuples(NAMES, NAMES).map(lambda s: call(PUT, shelf=s[0], what=s[1])),
    st.tuples(NAMES, NAMES).map(lambda s: call(COPY, item=s[0], shelf=s[1])),
    st.just(call(WIPE)),
)
EPISODE = st.lists(CALLS, max_size=7)


def recorded(episodes: list[list[ToolCall]]) -> ToolCache:
    cache = ToolCache.open(":memory:")
    for calls in episodes:
        world = World()
        steps = [(each, result(each, world.run(each))) for each in calls]
        cache.record_trajectory(task(tools=ALL), trajectory(*steps))
    return cache


@settings(max_examples=200, deadline=None)
@given(st.lists(EPISODE, max_size=5), EPISODE, st.sampled_from(list(MissPolicy)[:2]))
def test_a_trusted_answer_is_what_the_world_says(
    episodes: list[list[ToolCall]], played: list[ToolCall], on_miss: MissPolicy
) -> None:
    """A read after a write is never answered from before it, under any tier that is trusted.

    The world runs beside the replay and does what the replay said was done.
    """

    async def play() -> None:
        tools, world = ReplayTools(recorded(episodes), task(tools=ALL), on_miss=on_miss), World()
        for each in played:
            got = await tools.call(each)
            if got.tier in (Tier.EXACT, Tier.FUZZY):
                assert got.text == world.run(each)
                assert got.state_matched
            else:
                # A write that was not recorded here is not done; a guessed read is flagged.
                assert got.is_error or each.name in ("read", "list", "find")

    asyncio.run(play())


@settings(max_examples=50, deadline=None)
@given(EPISODE)
def test_an_episode_that_was_recorded_is_exact_throughout(played: list[ToolCall]) -> None:
    """However its reads and writes are mixed."""

    async def play() -> None:
        tools, world = ReplayTools(recorded([played]), task(tools=ALL)), World()
        for each in played:
            got = await tools.call(each)
            assert (got.tier, got.text) == (Tier.EXACT, world.run(each))

    asyncio.run(play())


def test_the_wordings_of_this_world_do_meet_as_fuzzy() -> None:
    """Otherwise the property above would hold of nothing."""
    asked = call(FIND, shelf="A", query="please find the red shoes")
    put = call(PUT, shelf="A", what="B")

    async def play() -> list[Tier]:
        cache = recorded([[call(FIND, shelf="A", query="red shoes"), put]])
        tools = ReplayTools(cache, task(tools=ALL))
        return [(await tools.call(each)).tier for each in (asked, put, asked)]

    assert asyncio.run(play()) == [Tier.FUZZY, Tier.EXACT, Tier.BEST_EFFORT]
