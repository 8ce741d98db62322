"""What every suite promises. A new one is a line in `SUITES`."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable

import msgspec
import pytest

from cacherl.agent import run_episode
from cacherl.core.models import ChatModel, Limits
from cacherl.core.suites import Suite
from cacherl.core.tasks import Split, Task
from cacherl.core.trajectories import Trajectory
from cacherl.suites.bfcl import BfclSuite
from cacherl.suites.desk import DeskSuite
from cacherl.suites.nothing import nothing
from cacherl.worlds.desk import DeskExpert, DeskWorld
from tests.suites import standins
from tests.suites.bfcl_wheel import needs_wheel, wheel

LIMITS = Limits(max_turns=200, max_context_tokens=10**9, max_result_tokens=10**9)
COUNT = 12


def desk() -> Suite:
    return DeskSuite(DeskWorld(), DeskExpert(detour=0.0))


def crowded_desk() -> Suite:
    return DeskSuite(DeskWorld(tools=50), DeskExpert(detour=0.0), name="desk:50")


def bfcl() -> Suite:
    return BfclSuite(wheel())


SUITES = [
    pytest.param(desk, id="desk"),
    pytest.param(crowded_desk, id="desk:50"),
    pytest.param(bfcl, id="bfcl", marks=needs_wheel),
    pytest.param(standins.acebench, id="acebench"),
    pytest.param(standins.tau, id="tau"),
    pytest.param(standins.own, id="own"),
]


@pytest.fixture(params=SUITES)
def suite(request: pytest.FixtureRequest) -> Suite:
    make: Callable[[], Suite] = request.param
    return _made(make)


@functools.cache
def _made(make: Callable[[], Suite]) -> Suite:
    return make()


def drawn(suite: Suite, split: Split = Split.DEV) -> list[Task]:
    return suite.tasks(split, count=COUNT, seed=1)


def play(suite: Suite, model: ChatModel, task: Task) -> Trajectory:
    async def played() -> Trajectory:
        tools = suite.open(task)
        episode = await run_episode(model, tools, task, limits=LIMITS)
        episode = msgspec.structs.replace(episode, final_state=tools.fingerprint())
        await tools.aclose()
        return episode

    return asyncio.run(played())


def test_info_adds_up(suite: Suite) -> None:
    """A reader takes n, splits and pin from it, and nothing else."""
    info = suite.info

    assert sum(info.splits.values()) == info.tasks
    assert set(info.splits) == {split.value for split in Split}
    assert 0 < info.distinct_questions <= info.tasks
    assert info.licence
    assert info.pin


def test_the_same_question_gets_the_same_tasks(suite: Suite) -> None:
    """A number can only be compared with another on the same tasks."""
    again = suite.tasks(Split.DEV, count=COUNT, seed=1)

    assert drawn(suite) == again
    assert len({task.id for task in again}) == COUNT
    assert suite.tasks(Split.DEV, count=COUNT, seed=2) != again


def test_no_task_is_in_two_splits(suite: Suite) -> None:
    """What settings were chosen on, and what was trained on, is never reported."""
    sizes = suite.info.splits
    by_split = {split: suite.tasks(split, count=min(100, sizes[split.value])) for split in Split}
    ids = [task.id for tasks in by_split.values() for task in tasks]

    assert len(set(ids)) == len(ids)
    for split, tasks in by_split.items():
        assert {task.split for task in tasks} <= {split}
    assert len(suite.tasks(Split.DEV)) == suite.info.splits["dev"]


def test_an_episode_starts_fresh_whatever_another_one_did(suite: Suite) -> None:
    """Trials of one task, and tasks at once, share nothing."""
    for task in drawn(suite):
        other = suite.open(task)
        before = other.fingerprint()
        play(suite, suite.oracle(), task)

        assert other.fingerprint() == before
        assert suite.open(task).fingerprint() == before
        asyncio.run(other.aclose())
        asyncio.run(other.aclose())


def test_gold_passes_and_reaches_the_gold_state(suite: Suite) -> None:
    """The ceiling of a suite whose gold does not replay is not 1, and must be known."""
    for task in drawn(suite):
        episode = play(suite, suite.oracle(), task)
        verdict = suite.check(task, episode)

        assert verdict.success, (task.id, verdict)
        assert task.gold is not None
        assert episode.final_state == task.gold.state


def test_a_verdict_is_a_function_of_what_is_stored_and_says_what_failed(suite: Suite) -> None:
    """A stored episode is scored again without a model and without tools."""
    for task in drawn(suite):
        episode = play(suite, nothing(), task)
        stored = msgspec.json.decode(msgspec.json.encode(episode), type=Trajectory)
        verdict = suite.check(task, stored)

        assert verdict == suite.check(task, episode)
        assert all(0.0 <= check.score <= 1.0 for check in verdict.checks)
        assert all(check.said for check in verdict.checks if check.score < 1.0)
        assert verdict.success == all(
            check.score == 1.0 for check in verdict.checks if check.decides
        )


def test_doing_nothing_earns_nothing_here(suite: Suite) -> None:
    """A floor above 0 is a fact that must stand beside every number; these suites have none."""
    assert not any(suite.check(task, play(suite, nothing(), task)).success for task in drawn(suite))
