"""Prompts with 1 to 100 tools: the tasks stay what they were, and the tools nobody needs are real."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacherl.agent import run_episode
from cacherl.core.errors import RecipeError
from cacherl.core.messages import ToolCall
from cacherl.core.models import Limits
from cacherl.core.tasks import Split
from cacherl.core.tools import ErrorClass, ToolResult
from cacherl.core.trajectories import StopReason
from cacherl.worlds.desk import DeskExpert, DeskWorld
from cacherl.worlds.desk.crowd import CROWD, MOST
from cacherl.worlds.desk.tasks import FAMILIES
from cacherl.worlds.desk.tools import SPECS

LIMITS = Limits(max_turns=20, max_context_tokens=10**9)


def test_without_a_crowd_nothing_changed() -> None:
    """Published figures were measured on these tasks."""
    plain = DeskWorld()

    assert plain.specs == SPECS
    assert {len(t.tools) for t in plain.tasks(Split.TEST, count=100, seed=0)} <= {4, 5, 6}
    unknown = asyncio.run(plain.open("desk-1").call(call("list_vans", status="on_road")))
    assert unknown.error_class is ErrorClass.NOT_FOUND


def call(name: str, /, **arguments: object) -> ToolCall:
    return ToolCall(id="c", name=name, arguments=dict(arguments))


@given(st.integers(1, MOST), st.integers(0, 50))
def test_a_prompt_has_so_many_tools_and_always_those_the_task_takes(tools: int, seed: int) -> None:
    """A crowd that pushed a needed tool out would make the task impossible."""
    crowded = DeskWorld(tools=tools).tasks(Split.TEST, count=16, seed=seed)
    plain = DeskWorld().tasks(Split.TEST, count=16, seed=seed)

    for many, few in zip(crowded, plain, strict=True):
        names = [spec.name for spec in many.tools]
        needs = FAMILIES[many.family].needs
        assert len(set(names)) == len(names) == max(tools, len(needs), 1)
        assert set(needs) <= set(names)
        assert (many.id, many.user_turns, many.gold) == (few.id, few.user_turns, few.gold)


def test_the_same_crowd_comes_again() -> None:
    """Same arguments, same tasks; and tasks of one list keep sharing a list."""
    one, other = (DeskWorld(tools=40).tasks(Split.DEV, count=48, seed=2) for _ in range(2))

    assert one == other
    lists = {tuple(spec.name for spec in task.tools) for task in one}
    assert len(lists) < len(one)


def test_the_expert_plays_in_a_crowd_and_strays_in_one() -> None:
    """What is recorded with a crowd must be as good as without."""
    world = DeskWorld(tools=60)

    async def each(detour: float) -> set[StopReason]:
        stops = set()
        for task in world.tasks(Split.TRAIN, count=48, seed=1):
            tools = world.open(task.scenario)
            expert = DeskExpert(detour=detour)
            stops.add((await run_episode(expert, tools, task, limits=LIMITS)).stop)
            await tools.aclose()
        return stops

    assert asyncio.run(each(0.0)) == {StopReason.ANSWER}
    assert asyncio.run(each(1.0)) == {StopReason.ANSWER}


def test_every_tool_of_the_crowd_answers_and_changes_nothing() -> None:
    """They are real tools: a call gets data, an unknown id an error, and the desk stays as it is."""

    async def ask(*calls: ToolCall) -> list[ToolResult]:
        tools = DeskWorld(tools=MOST).open("desk-7")
        before = tools.fingerprint()
        results = [await tools.call(each) for each in calls]
        assert tools.fingerprint() == before
        await tools.aclose()
        return results

    assert len(CROWD) == MOST
    assert not {spec.name for spec in CROWD} & {spec.name for spec in SPECS}
    for place in range(0, MOST, 4):
        get, lists, count, find = CROWD[place : place + 4]
        (id_key,) = get.parameters["required"]
        statuses = lists.parameters["properties"]["status"]["enum"]
        listed = asyncio.run(ask(*(call(lists.name, status=each) for each in statuses)))
        ids = [i for result in listed for i in next(iter(json.loads(result.text).values()))]
        counted = asyncio.run(ask(*(call(count.name, status=each) for each in statuses)))
        record, absent, wrong, found = asyncio.run(
            ask(
                call(get.name, **{id_key: ids[0]}),
                call(get.name, **{id_key: "X-0"}),
                call(get.name),
                call(find.name, name="a"),
            )
        )
        assert len(ids) == len(set(ids)) == 4
        assert sum(json.loads(result.text)["count"] for result in counted) == 4
        assert json.loads(record.text)["id"] == ids[0]
        assert absent.error_class is ErrorClass.NOT_FOUND
        assert wrong.error_class is ErrorClass.VALIDATION
        assert not found.is_error
        assert not any(spec.effects.writes for spec in CROWD)


@pytest.mark.parametrize("tools", [0, -3, 101])
def test_a_crowd_of_no_size_is_refused(tools: int) -> None:
    """Before any work starts."""
    with pytest.raises(RecipeError, match="1 to 100 tools"):
        DeskWorld(tools=tools)
