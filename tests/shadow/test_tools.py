"""The instrument itself: what it serves, whom it asks, and what it may conclude."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacherl.agent import run_episode
from cacherl.cache.episodes.replay import ReplayTools
from cacherl.cache.lookup.tool_cache import ToolCache
from cacherl.core.messages import ToolCall
from cacherl.core.tasks import Task
from cacherl.core.tools import ErrorClass, Source, Tier, ToolResult
from cacherl.core.trajectories import Trajectory
from cacherl.shadow import Fate, Serve, ShadowTools
from cacherl.shadow.compared import Why, changes_before, fate, why_wrong
from tests.desk_of_two import READ, WRITE, BrokenTools, NoteTools, read, write
from tests.shadow.notebook import LIMITS, cache_of, lying, policy, task_of


def shadowed(
    cache: ToolCache,
    task: Task,
    calls: Sequence[ToolCall],
    *,
    serve: Serve = Serve.CACHED,
    live: NoteTools | None = None,
    may_write: bool = True,
) -> tuple[ShadowTools, Trajectory]:
    tools = ShadowTools(cache, task, live or NoteTools(), serve=serve, may_write=may_write)
    trajectory = asyncio.run(run_episode(policy(*calls), tools, task, limits=LIMITS))
    return tools, trajectory


def fates(tools: ShadowTools) -> list[Fate]:
    return [fate(each) for each in tools.compared]


def test_a_cache_of_honest_tools_has_no_wrong_exact_answer() -> None:
    """What keys with state are for: the same read before and after a write is two reads."""
    task = task_of()
    cache = cache_of(task, [read(0), read(2), write("x"), read(2), read(0)])

    tools, _ = shadowed(cache, task, [read(2), write("x"), read(2), read(0), read(0)])

    assert fates(tools) == [Fate.RIGHT] * 5
    assert [each.changed for each in tools.compared] == [False, True, False, False, False]


def test_a_reader_that_hides_what_it_reads_is_found_and_named() -> None:
    """The planted lie: recorded before the write, served after it as if nothing had happened."""
    task = task_of(tools=(lying(READ), WRITE))
    cache = cache_of(task, [read(2), write("x")])

    tools, trajectory = shadowed(cache, task, [write("x"), read(2)])

    assert json.loads(trajectory.results[1].text) == {"error": "no such note"}
    assert fates(tools) == [Fate.RIGHT, Fate.WRONG]
    wrong = tools.compared[1]
    assert (wrong.tool, wrong.tier, wrong.same) == ("read_note", Tier.EXACT, 0.0)
    assert wrong.live is not None
    assert json.loads(wrong.live.text) == {"text": "x"}
    assert why_wrong(tools.compared, 1) is Why.EFFECTS
    assert changes_before(tools.compared, 1) == ("write_note",)


def test_recordings_that_contradict_one_another_are_no_excuse_after_a_change() -> None:
    """A lie recorded on both sides of a write looks like a tool that is not deterministic."""
    task = task_of(tools=(lying(READ), WRITE))
    cache = cache_of(task, [read(2), write("x"), read(2)])
    tools, _ = shadowed(cache, task, [write("x"), *[read(2)] * 8])

    wrong = [place for place, each in enumerate(fates(tools)) if each is Fate.WRONG]

    assert wrong
    assert all(tools.compared[place].alternatives for place in wrong)
    assert {why_wrong(tools.compared, place) for place in wrong} == {Why.EFFECTS}


def test_a_writer_that_calls_itself_a_reader_is_caught_in_the_act() -> None:
    """The world's fingerprint tells, even where no answer has been wrong yet."""
    task = task_of(tools=(READ, lying(WRITE)))
    tools, _ = shadowed(cache_of(task, [write("x")]), task, [write("x")])

    [each] = tools.compared
    assert fate(each) is Fate.RIGHT
    assert each.changed
    assert not each.writes


@pytest.mark.parametrize("serve", Serve)
def test_a_shadow_changes_nothing_of_what_is_served(serve: Serve) -> None:
    """Else the figures would be of a policy that nobody trains."""
    task = task_of()
    cache = cache_of(task, [read(0), write("x"), read(2)])
    calls = [read(0), read(1), write("x"), read(2), write("y"), read(3)]
    alone = ReplayTools(cache, task) if serve is Serve.CACHED else NoteTools()
    expected = asyncio.run(run_episode(policy(*calls), alone, task, limits=LIMITS))

    _, trajectory = shadowed(cache, task, calls, serve=serve)

    assert trajectory.messages == expected.messages
    assert [r.tier for r in trajectory.results] == [r.tier for r in expected.results]


def test_a_write_that_the_cache_missed_parts_the_two() -> None:
    """From there on a hit that is wrong is a consequence, and no evidence against the effects."""
    task = task_of()
    cache = cache_of(task, [read(0), read(2), write("x")])

    tools, _ = shadowed(cache, task, [read(0), write("never recorded"), read(2), read(0)])

    assert fates(tools) == [Fate.RIGHT, Fate.MISSED, Fate.AFTER_PARTING, Fate.AFTER_PARTING]
    assert tools.compared[2].tier is Tier.EXACT  # and wrong: the world has the note
    assert tools.compared[2].same == 0.0
    assert tools.parted == "since call 2, write_note: a miss in the cache, done in the world"


def test_beside_a_world_that_serves_the_cache_follows_the_world() -> None:
    """A miss is looked past: the next call is looked up in the state that the world is really in."""
    task = task_of()
    cache = cache_of(task, [write("x"), read(2)], [read(0)])

    tools, _ = shadowed(
        cache, task, [read(1), write("x"), read(2), write("y"), read(2)], serve=Serve.LIVE
    )

    assert fates(tools) == [
        Fate.MISSED,
        Fate.RIGHT,
        Fate.RIGHT,
        Fate.MISSED,
        Fate.RIGHT,
    ]
    assert [each.tier for each in tools.compared[:3]] == [Tier.MISS, Tier.EXACT, Tier.EXACT]
    last = tools.compared[4]  # nobody recorded a read after two writes: a guess, and a lucky one
    assert (last.tier, last.state_matched) == (Tier.BEST_EFFORT, False)
    assert not tools.parted


def test_a_world_that_fails_beside_is_infrastructure() -> None:
    """A dead database is no reason to distrust a cache, nor to end the policy's episode."""
    task = task_of()
    cache = cache_of(task, [read(0), write("x")])

    tools, trajectory = shadowed(cache, task, [read(0), write("x")], live=BrokenTools())

    assert [result.tier for result in trajectory.results] == [Tier.EXACT, Tier.EXACT]
    assert fates(tools) == [Fate.NOT_COMPARED, Fate.NOT_COMPARED]
    assert "the notes are gone" in tools.compared[0].failure
    assert tools.parted.startswith("since call 2, write_note: written in the cache")


class FlakyNotes(NoteTools):
    """Times out on every read."""

    async def call(self, call: ToolCall) -> ToolResult:
        if call.name == "read_note":
            return ToolResult(
                call_id=call.id,
                name=call.name,
                text="timed out",
                is_error=True,
                error_class=ErrorClass.TRANSIENT,
                tier=Tier.LIVE,
                source=Source.LIVE,
            )
        return await super().call(call)


@pytest.mark.parametrize("serve", Serve)
def test_a_time_out_is_not_compared(serve: Serve) -> None:
    """It says nothing about the call, so it says nothing about the cache."""
    task = task_of()
    tools, _ = shadowed(
        cache_of(task, [read(0), write("x")]),
        task,
        [read(0), write("x")],
        serve=serve,
        live=FlakyNotes(),
    )

    assert fates(tools) == [Fate.NOT_COMPARED, Fate.RIGHT]
    assert tools.compared[0].failure == "timed out"


def test_tools_that_act_outside_are_only_read() -> None:
    """A shadow run must not send somebody's mail a second time."""
    task, live = task_of(), NoteTools()
    cache = cache_of(task, [read(0), write("x"), read(0)])

    tools, _ = shadowed(cache, task, [read(0), write("x"), read(0)], live=live, may_write=False)

    assert live.notes == ["milk", "bread"]
    assert fates(tools) == [Fate.RIGHT, Fate.NOT_COMPARED, Fate.AFTER_PARTING]
    assert "was not run" in tools.compared[1].failure


CALLS = st.lists(
    st.one_of(
        st.builds(read, st.integers(0, 4)),
        st.builds(write, st.sampled_from(["x", "y"])),
    ),
    max_size=8,
)


@given(recorded=st.lists(CALLS, min_size=1, max_size=3), asked=CALLS)
def test_no_history_makes_an_honest_cache_lie(
    recorded: list[list[ToolCall]], asked: list[ToolCall]
) -> None:
    """The promise of EXACT, for whatever was recorded and whatever is asked."""
    task = task_of()
    cache = cache_of(task, *recorded)

    for serve in Serve:
        tools, _ = shadowed(cache, task, asked, serve=serve)
        assert len(tools.compared) == len(asked)
        for each in tools.compared:
            assert not (fate(each) is Fate.WRONG and each.tier is Tier.EXACT), each


def test_closing_closes_the_world() -> None:
    """A server left running for every episode is a machine left without memory."""
    live = NoteTools()
    task = task_of()
    tools = ShadowTools(cache_of(task, [read(0)]), task, live, serve=Serve.CACHED)
    asyncio.run(tools.aclose())
    assert live.closed
