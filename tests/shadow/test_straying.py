"""A policy that strays: the same way on both sides, and never so that the other policy notices."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacherl.agent import run_episode
from cacherl.core.errors import ModelError, RecipeError
from cacherl.core.messages import AssistantMessage, ToolCall
from cacherl.core.tools import Source
from cacherl.core.trajectories import Trajectory
from cacherl.shadow.straying import Replaying, Straying
from tests.desk_of_two import NoteTools, StatelessTools, read, write
from tests.shadow.notebook import LIMITS, played, policy, task_of

GOLD = (read(0), write("milk"), read(2))


def calls(trajectory: Trajectory) -> list[tuple[str, dict[str, object]]]:
    return [
        (call.name, call.arguments)
        for message in trajectory.messages
        if isinstance(message, AssistantMessage)
        for call in message.calls
        if isinstance(call, ToolCall)
    ]


def strayed(share: float, *, seed: int = 0, episode: int = 0) -> Trajectory:
    model = Straying(policy(*GOLD), share, seed=seed)
    return asyncio.run(run_episode(model, NoteTools(), task_of(), limits=LIMITS, seed=episode))


@given(share=st.floats(0, 1), seed=st.integers(0, 50))
def test_the_other_policys_calls_all_come_in_their_order(share: float, seed: int) -> None:
    """Strays stand between them; they replace nothing."""
    made = calls(strayed(share, seed=seed))
    wanted = [(call.name, call.arguments) for call in GOLD]

    left = iter(made)
    assert all(each in left for each in wanted)
    assert len(wanted) <= len(made) <= 2 * len(wanted)


def test_a_share_of_nothing_and_of_everything() -> None:
    """0 is the other policy itself; 1 strays before each of its calls."""
    assert calls(strayed(0.0)) == [(call.name, call.arguments) for call in GOLD]
    assert len(calls(strayed(1.0))) == 2 * len(GOLD)


def test_it_strays_alike_whatever_it_is_answered() -> None:
    """Else a difference between cache and world would be its own doing."""
    model = Straying(policy(*GOLD), 0.7, seed=4)
    one = asyncio.run(run_episode(model, NoteTools(), task_of(), limits=LIMITS, seed=9))
    again = Straying(policy(*GOLD), 0.7, seed=4)
    other = asyncio.run(
        run_episode(again, StatelessTools(live=NoteTools([])), task_of(), limits=LIMITS, seed=9)
    )

    assert calls(one) == calls(other)
    assert [r.text for r in one.results] != [r.text for r in other.results]


def test_seeds_stray_differently_and_calls_are_well_formed() -> None:
    """Many paths off the gold one, all of which reach a tool."""
    runs = [strayed(0.6, seed=seed, episode=episode) for seed in range(4) for episode in range(4)]

    assert len({str(calls(each)) for each in runs}) > 8
    assert {r.source for each in runs for r in each.results} == {Source.LIVE}
    ids = [call.id for m in runs[0].messages if isinstance(m, AssistantMessage) for call in m.calls]
    assert len(ids) == len(set(ids))


def test_the_share_is_a_share() -> None:
    """A clear line instead of a policy that never stops."""
    with pytest.raises(RecipeError, match=r"1\.5; it must lie between 0 and 1"):
        Straying(policy(), 1.5)


def test_what_was_recorded_can_be_played_again() -> None:
    """One's own tools have no gold: their recording is the path to stray from."""
    recorded = played(task_of(), GOLD)
    model = Replaying([recorded])
    again = asyncio.run(run_episode(model, NoteTools(), task_of(), limits=LIMITS))

    assert again.messages == recorded.messages
    with pytest.raises(ModelError, match="nothing was recorded of task other"):
        model.start(task_of(id="other"), limits=LIMITS, seed=0)
