"""One episode played on recordings: never better than the truth, never silent about it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest

from cacherl.cache.episodes.ledger import MissPolicy
from cacherl.cache.episodes.readdress import readdress
from cacherl.cache.episodes.replay import ReplayTools
from cacherl.cache.identity.normalise import plan_of
from cacherl.cache.lookup.tool_cache import ToolCache
from cacherl.core.errors import RecipeError
from cacherl.core.messages import ToolCall
from cacherl.core.tasks import Split
from cacherl.core.tools import Effects, ErrorClass, Source, Tier, ToolResult, Tools, ToolSpec
from tests.cache.recordings import CANCEL, GET, SEARCH, call, result, task, trajectory

GET_A, CANCEL_A = call(GET, order_id="A"), call(CANCEL, order_id="A")
EPISODE = ((GET_A, "paid"), (CANCEL_A, "done"), (GET_A, "cancelled"))


def recorded(
    *steps: tuple[ToolCall, str], into: ToolCache | None = None, split: Split = Split.TRAIN
) -> ToolCache:
    cache = into or ToolCache.open(":memory:")
    walked = trajectory(*((asked, result(asked, text)) for asked, text in steps))
    cache.record_trajectory(task(split=split), walked)
    return cache


def answers(tools: Tools, *calls: ToolCall) -> list[ToolResult]:
    async def play() -> list[ToolResult]:
        return [await tools.call(each) for each in calls]

    return asyncio.run(play())


def test_a_recorded_episode_replays_as_it_was() -> None:
    """Every answer EXACT, in its own state, and no live call."""
    tools = ReplayTools(recorded(*EPISODE), task())
    got = answers(tools, *(asked for asked, _ in EPISODE))

    assert [(each.text, each.tier) for each in got] == [(text, Tier.EXACT) for _, text in EPISODE]
    assert [each.call_id for each in got] == [asked.id for asked, _ in EPISODE]
    assert all(each.source is Source.LIVE and each.fidelity is None for each in got)
    assert tools.live_calls == 0
    assert tools.ledger.worst is Tier.EXACT


def test_a_read_after_a_write_is_never_exact_from_before_it() -> None:
    """The policy reads once more than anybody was recorded doing."""
    cache = recorded((GET_A, "paid"))
    recorded((CANCEL_A, "done"), into=cache)
    got = answers(ReplayTools(cache, task()), GET_A, CANCEL_A, GET_A)

    assert [each.tier for each in got] == [Tier.EXACT, Tier.EXACT, Tier.BEST_EFFORT]
    assert [each.state_matched for each in got] == [True, True, False]


def test_a_replayed_failure_of_a_write_changes_nothing() -> None:
    """The order is still paid."""
    cache = ToolCache.open(":memory:")
    refused = result(CANCEL_A, "too late", ErrorClass.PERMISSION)
    cache.record_trajectory(task(), trajectory((CANCEL_A, refused), (GET_A, result(GET_A, "paid"))))
    got = answers(ReplayTools(cache, task()), GET_A, CANCEL_A, GET_A)

    assert [each.tier for each in got] == [Tier.EXACT] * 3
    assert got[1].is_error
    assert got[1].error_class is ErrorClass.PERMISSION


def test_a_miss_is_an_error_that_the_model_sees_and_the_ledger_counts() -> None:
    """Never silent, never an exception."""
    tools = ReplayTools(recorded(*EPISODE), task())
    missed, unknown = answers(tools, call(CANCEL, order_id="B"), call("no_such_tool"))

    assert (missed.tier, missed.is_error) == (Tier.MISS, True)
    assert missed.error_class is ErrorClass.UNKNOWN
    assert json.loads(missed.text)["error"] == "not_recorded"
    assert json.loads(unknown.text)["error"] == "unknown_tool"
    assert tools.ledger.counts[Tier.MISS] == 1
    assert tools.ledger.worst is Tier.MISS
    assert tools.ledger.rows[0].policy is MissPolicy.ERROR


def test_held_out_recordings_are_invisible_by_default() -> None:
    """A training rollout sees the training split unless a recipe says otherwise."""
    cache = recorded(*EPISODE, split=Split.TEST)

    hidden = answers(ReplayTools(cache, task()), GET_A, call(GET, order_id="B"))
    seen = answers(ReplayTools(cache, task(), splits=frozenset({Split.TEST})), GET_A)
    assert [each.tier for each in hidden] == [Tier.MISS, Tier.MISS]
    assert seen[0].tier is Tier.EXACT


def test_best_effort_policy_serves_the_nearest_however_far() -> None:
    """What the paper does with everything it has not recorded; still not for writers."""
    cache = recorded((GET_A, "paid"))
    far = call(GET, order_id="Z")
    assert answers(ReplayTools(cache, task()), far)[0].tier is Tier.MISS

    tools = ReplayTools(cache, task(), on_miss=MissPolicy.BEST_EFFORT)
    read, write = answers(tools, far, call(CANCEL, order_id="Z"))
    assert (read.tier, read.text, read.score) == (Tier.BEST_EFFORT, "paid", 0.0)
    assert tools.ledger.rows[0].policy is MissPolicy.BEST_EFFORT
    assert write.tier is Tier.MISS


def test_an_acknowledged_write_speaks_of_this_call_and_enters_the_state() -> None:
    """A plausible receipt, marked as made up, after which nothing is as recorded."""
    receipt = json.dumps({"order_id": "ORD-1", "status": "cancelled", "note": "ORD-1 closed"})
    cache = recorded((call(CANCEL, order_id="ORD-1"), receipt))
    recorded((call(GET, order_id="ORD-2"), "paid"), into=cache)
    tools = ReplayTools(cache, task(), on_miss={"cancel_order": MissPolicy.ACKNOWLEDGE})
    write, read = answers(tools, call(CANCEL, order_id="ORD-2"), call(GET, order_id="ORD-2"))

    assert json.loads(write.text) == {
        "order_id": "ORD-2",
        "status": "cancelled",
        "note": "ORD-2 closed",
    }
    assert (write.tier, write.source) == (Tier.BEST_EFFORT, Source.SIMULATED)
    assert not write.state_matched
    assert (read.tier, read.state_matched) == (Tier.BEST_EFFORT, False)
    assert tools.ledger.rows[0].policy is MissPolicy.ACKNOWLEDGE


def test_a_write_without_any_recorded_success_cannot_be_acknowledged() -> None:
    """There is no shape to fill in."""
    tools = ReplayTools(ToolCache.open(":memory:"), task(), on_miss=MissPolicy.ACKNOWLEDGE)

    assert answers(tools, CANCEL_A)[0].tier is Tier.MISS


def test_live_answers_only_reads_of_an_untouched_world() -> None:
    """The live world has not seen what this episode wrote, and must never be written to."""
    ran: list[str] = []

    async def live(asked: ToolCall) -> ToolResult:
        ran.append(asked.name)
        return result(asked, "fresh")

    tools = ReplayTools(
        recorded((CANCEL_A, "done")), task(), on_miss={"*": MissPolicy.LIVE}, live=live
    )
    got = answers(tools, GET_A, CANCEL_A, GET_A, call(CANCEL, order_id="B"))

    assert [each.tier for each in got] == [Tier.LIVE, Tier.EXACT, Tier.BEST_EFFORT, Tier.MISS]
    assert not got[2].state_matched
    assert ran == ["get_order"]
    assert tools.live_calls == tools.ledger.live_calls == 1


def test_a_live_policy_without_live_tools_stops_before_work_starts() -> None:
    """A wrong recipe is an exception; a wrong rollout is data."""
    with pytest.raises(RecipeError, match="live"):
        ReplayTools(ToolCache.open(":memory:"), task(), on_miss={"get_order": MissPolicy.LIVE})


def dice(*texts: str) -> ToolCache:
    cache = ToolCache.open(":memory:")
    for text in texts:
        recorded((GET_A, text), into=cache)
    return cache


def test_draws_depend_on_seed_rollout_and_occurrence_alone() -> None:
    """A rollout can be played again; its neighbours draw for themselves."""
    cache = dice(*"abcdefgh")

    def play(seed: int, rollout: int) -> str:
        tools = ReplayTools(cache, task(), seed=seed, rollout=rollout)
        return "".join(each.text for each in answers(tools, GET_A, GET_A, GET_A))

    assert play(1, 2) == play(1, 2)
    assert len({play(1, rollout) for rollout in range(8)}) > 4
    assert len({play(seed, 0) for seed in range(8)}) > 4
    assert any(len(set(play(0, rollout))) > 1 for rollout in range(4))


def test_the_ledger_is_a_record_of_every_call() -> None:
    """It goes into files beside the rollout, and a reward reads nothing else."""
    cache = recorded(*EPISODE)
    recorded((call(SEARCH, query="red shoes", shelf="S1"), "x"), into=cache)
    tools = ReplayTools(cache, task())
    got = answers(tools, GET_A, call(SEARCH, query="the red shoe", shelf="S1"), CANCEL_A)
    ledger = tools.ledger

    assert [row.tier for row in ledger.rows] == [each.tier for each in got]
    assert [row.key for row in ledger.rows] == [each.key for each in got]
    assert [ledger.counts[tier] for tier in Tier] == [0, 2, 1, 0, 0]
    assert ledger.state_mismatches == 0


BOOK = ToolSpec(
    name="book",
    description="",
    parameters={
        "type": "object",
        "properties": {
            "origin": {"type": "string"},
            "destination": {"type": "string"},
            "seats": {"type": "integer"},
            "memo": {"type": "string", "x-kind": "text"},
        },
    },
    effects=Effects(writes=("booking:*",)),
)
OSLO = {"origin": "Oslo", "destination": "Paris"}
PARIS = {"origin": "Paris", "destination": "Oslo"}


@pytest.mark.parametrize(
    ("told", "old", "new", "expected"),
    [
        ("Oslo to Paris", OSLO, PARIS, "Paris to Oslo"),
        ({"seats": 2, "gate": 2}, {"seats": 2}, {"seats": 3}, {"seats": 3, "gate": 2}),
        ({"from": "Oslo", "x": "Osloland"}, OSLO, PARIS, {"from": "Paris", "x": "Osloland"}),
        ({"a": "Oslo"}, OSLO | {"destination": "Oslo"}, PARIS, {"a": "Oslo"}),
        (
            {"memo": "old", "x": "old"},
            {"memo": "old"},
            {"memo": "new"},
            {"memo": "new", "x": "old"},
        ),
        ({"code": "UA"}, {"origin": "UA"}, {"origin": "BR"}, {"code": "UA"}),
        ("plain", OSLO, OSLO, "plain"),
    ],
)
def test_a_receipt_is_readdressed_only_where_the_value_is_the_argument(
    told: Any, old: Mapping[str, Any], new: Mapping[str, Any], expected: Any
) -> None:
    """A value that happens to be equal is not the argument."""
    text = told if isinstance(told, str) else json.dumps(told)
    got = readdress(text, plan_of(BOOK), old, new)

    assert (got if isinstance(told, str) else json.loads(got)) == expected
