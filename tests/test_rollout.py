"""A batch of rollouts runs at once, each with its own seed and tools, and forgets nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from cacherl.core.errors import CacheError, ModelError
from cacherl.core.jsonl import read_jsonl, write_jsonl
from cacherl.core.messages import AssistantMessage, ToolCall
from cacherl.core.models import Limits
from cacherl.core.tasks import Task
from cacherl.core.tools import Source, Tier, ToolResult
from cacherl.core.trajectories import StopReason, Trajectory
from cacherl.reward.hybrid import Alphas, TrustBy
from cacherl.rollout import (
    Rollout,
    episode_seed,
    ledger_of,
    rollout_batch,
    rollout_group,
    score_rollouts,
)
from tests.fakes import ScriptedModel
from tests.training_kit import Buttons, button_task

LIMITS = Limits()
PRESS = AssistantMessage(calls=(ToolCall(id="c", name="red", arguments={}),))
OK = AssistantMessage(content="ok")


class Meeting(Buttons):
    """Tools that answer only when every episode has come to its call."""

    def __init__(self, gate: asyncio.Barrier, closed: list[int], rollout: int) -> None:
        self._gate, self._closed, self._rollout = gate, closed, rollout

    async def call(self, call: ToolCall) -> ToolResult:
        await self._gate.wait()
        return await super().call(call)

    async def aclose(self) -> None:
        self._closed.append(self._rollout)


async def test_all_episodes_of_a_batch_are_under_way_at_once() -> None:
    """An engine that batches can only batch what waits for it: one by one would hang here."""
    tasks = [button_task(n) for n in range(3)]
    gate, closed = asyncio.Barrier(6), list[int]()

    groups = await asyncio.wait_for(
        rollout_batch(
            ScriptedModel([PRESS, OK]),
            tasks,
            lambda task, seed, rollout: Meeting(gate, closed, rollout),
            group_size=2,
            limits=LIMITS,
            seed=1,
        ),
        timeout=20,
    )

    assert [[t.task_id for t in group] for group in groups] == [[t.id] * 2 for t in tasks]
    assert [[t.rollout for t in group] for group in groups] == [[0, 1]] * 3
    assert sorted(closed) == [0, 0, 0, 1, 1, 1]


async def test_rollouts_of_a_group_differ_in_their_seed_and_share_the_seed_of_their_tools() -> None:
    """Equal sampling seeds would make a group of copies; tools draw from (seed, rollout)."""
    opened: list[tuple[str, int, int]] = []

    def open_tools(task: Task, seed: int, rollout: int) -> Buttons:
        opened.append((task.id, seed, rollout))
        return Buttons()

    group = await rollout_group(
        ScriptedModel([PRESS, OK]), button_task(0), open_tools, group_size=4, limits=LIMITS, seed=9
    )

    assert len({t.seed for t in group}) == 4
    assert [t.seed for t in group] == [episode_seed(9, "t0", r) for r in range(4)]
    assert opened == [("t0", 9, r) for r in range(4)]


async def test_tools_that_cannot_be_opened_stop_the_batch_and_close_the_rest() -> None:
    """A missing cache is a wrong recipe, not a bad rollout."""
    closed: list[int] = []

    def open_tools(task: Task, seed: int, rollout: int) -> Buttons:
        if rollout == 1:
            raise CacheError("no cache here. Build it.")
        return Meeting(asyncio.Barrier(9), closed, rollout)

    with pytest.raises(CacheError, match="no cache here"):
        await rollout_group(
            ScriptedModel([PRESS, OK]),
            button_task(0),
            open_tools,
            group_size=3,
            limits=LIMITS,
            seed=0,
        )

    assert sorted(closed) == [0, 2]


class HalfJudge:
    """A judge that finds everything half good."""

    async def score(self, task: Task, trajectory: Trajectory) -> float:
        return 0.5


async def test_scores_ledgers_and_judges_reach_every_rollout(tmp_path: Path) -> None:
    """The reward of a rollout can be explained years later from its line in a file."""
    task = button_task(0)
    group = await rollout_group(
        ScriptedModel([PRESS, OK]),
        task,
        lambda *_: Buttons(),
        group_size=2,
        limits=LIMITS,
        seed=0,
    )

    [scored] = await score_rollouts([task], [group], judge=HalfJudge(), alphas=Alphas(exact=0.5))

    reward = scored[0].reward
    assert reward is not None
    assert (reward.answer, reward.process.total, reward.total) == (0.5, 1.0, 0.75)
    assert scored[0].ledger.tiers == {Tier.EXACT: 1}
    assert scored[0].ledger.live_calls == 0
    write_jsonl(tmp_path / "rollouts.jsonl", scored)
    assert list(read_jsonl(tmp_path / "rollouts.jsonl", Rollout)) == scored


class Doubtful(Buttons):
    """Tools whose recordings are right half the time."""

    async def call(self, call: ToolCall) -> ToolResult:
        return msgspec.structs.replace(await super().call(call), fidelity=0.5, source=Source.LIVE)


async def test_calibrated_trust_reaches_the_reward_of_a_rollout() -> None:
    """`[reward] trust` is only worth a key if rollouts are scored by it."""
    task = button_task(0)
    group = await rollout_group(
        ScriptedModel([PRESS, OK]),
        task,
        lambda *_: Doubtful(),
        group_size=2,
        limits=LIMITS,
        seed=0,
    )

    [by_tier] = await score_rollouts([task], [group])
    [by_fidelity] = await score_rollouts([task], [group], trust=TrustBy.CALIBRATED)

    assert [one.reward.alpha for one in by_tier if one.reward] == [0.6, 0.6]
    assert [one.reward.alpha for one in by_fidelity if one.reward] == [0.3, 0.3]


async def test_an_infrastructure_failure_is_not_scored() -> None:
    """A lost server says nothing about the policy."""
    task = button_task(0)
    [group] = await rollout_batch(
        ScriptedModel([ModelError("gone")]),
        [task],
        lambda *_: Buttons(),
        group_size=1,
        limits=LIMITS,
        seed=0,
    )

    [[rollout]] = await score_rollouts([task], [group])

    assert rollout.trajectory.stop is StopReason.MODEL_FAILED
    assert rollout.reward is None


def test_a_ledger_counts_where_observations_came_from() -> None:
    """`live_calls` is the number that must be zero in training."""
    exact = ToolResult(call_id="c", name="red", text="1", tier=Tier.EXACT, source=Source.LIVE)
    tiers = (Tier.EXACT, Tier.MISS, Tier.LIVE)

    ledger = ledger_of([msgspec.structs.replace(exact, tier=tier) for tier in tiers])

    assert ledger.worst is Tier.MISS
    assert ledger.live_calls == 1
    assert ledger.tiers == {Tier.EXACT: 1, Tier.MISS: 1, Tier.LIVE: 1}
    assert ledger_of([]).worst is Tier.LIVE
