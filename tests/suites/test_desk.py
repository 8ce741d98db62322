"""The desk as a suite: what its verdicts say, and that they are those of the published figures."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from cacherl.agent import run_episode
from cacherl.core.messages import AssistantMessage, ToolCall
from cacherl.core.models import Limits
from cacherl.core.suites import Verdict
from cacherl.core.tasks import Split, Task
from cacherl.core.trajectories import StopReason, Trajectory
from cacherl.metrics import score_episode
from cacherl.suites.desk import DeskSuite
from cacherl.suites.gold_player import GoldPlayer
from cacherl.worlds.desk import DeskExpert, DeskWorld
from cacherl.worlds.desk.world import scenario_named

LIMITS = Limits(max_turns=20, max_context_tokens=10**9)
SUITE = DeskSuite(DeskWorld(), DeskExpert(detour=0.0))


def play(task: Task, *turns: AssistantMessage, live: bool = True) -> Trajectory:
    async def played() -> Trajectory:
        tools = SUITE.open(task)
        episode = await run_episode(GoldPlayer(lambda task: turns), tools, task, limits=LIMITS)
        state = tools.fingerprint() if live else None
        await tools.aclose()
        return msgspec.structs.replace(episode, final_state=state)

    return asyncio.run(played())


def expert_play(task: Task, detour: float, seed: int) -> Trajectory:
    async def played() -> Trajectory:
        tools = SUITE.open(task)
        expert = DeskExpert(detour=detour, seed=seed)
        episode = await run_episode(expert, tools, task, limits=LIMITS)
        state = tools.fingerprint()
        await tools.aclose()
        return msgspec.structs.replace(episode, final_state=state)

    return asyncio.run(played())


def said(verdict: Verdict) -> dict[str, str]:
    return {check.name: check.said for check in verdict.checks}


def cancelling() -> Task:
    tasks = SUITE.tasks(Split.DEV, count=64, seed=0)
    return next(
        task
        for task in tasks
        if task.family == "cancel"
        and task.gold is not None
        and [call.name for call in task.gold.listed] == ["get_order", "cancel_order"]
    )


def test_success_is_what_the_published_figures_call_end_to_end() -> None:
    """Two numbers of one name would be two numbers nobody can compare."""
    for task in SUITE.tasks(Split.TEST, count=32, seed=3):
        for detour in (0.0, 1.0):
            episode = expert_play(task, detour, seed=1)
            for each in (episode, msgspec.structs.replace(episode, final_state=None)):
                assert SUITE.check(task, each).success == score_episode(task, each).end_to_end


def test_a_missing_write_is_named() -> None:
    """The first thing to know of a failure is what was not done."""
    task = cancelling()
    assert task.gold is not None
    order = task.gold.listed[1].arguments["order_id"]

    verdict = SUITE.check(task, play(task, AssistantMessage(content="It is cancelled.")))

    assert not verdict.success
    assert said(verdict)["state"] == f'gold\'s write is missing: cancel_order(order_id="{order}")'


def test_a_write_too_many_is_named() -> None:
    """Doing more than was asked is a failure of its own."""
    task = next(t for t in SUITE.tasks(Split.DEV, count=64, seed=0) if t.family == "refuse_other")
    offered = msgspec.structs.replace(task, tools=tuple(DeskWorld().specs))
    customers = scenario_named(task.scenario).customers
    order = next(o.id for c in customers for o in c.orders if o.status == "processing")
    move = calls("change_address", order_id=order, city="Paris")

    verdict = SUITE.check(offered, play(offered, move, AssistantMessage(content="Done.")))

    assert said(verdict)["state"] == (
        f'a write that gold does not have: change_address(order_id="{order}", city="Paris")'
    )


def calls(name: str, **arguments: object) -> AssistantMessage:
    return AssistantMessage(calls=(ToolCall(id="c", name=name, arguments=dict(arguments)),))


def test_a_wrong_answer_is_told_by_what_it_lacks() -> None:
    """An answer rule is not in the conversation; a reader needs it beside the answer."""
    task = cancelling()
    assert task.gold is not None
    turns = [calls(c.name, **c.arguments) for c in task.gold.listed]

    silent = SUITE.check(task, play(task, *turns, AssistantMessage(content="Hm.")))
    cut = msgspec.structs.replace(play(task, *turns), stop=StopReason.TRUNCATED)

    assert said(silent)["state"] == ""
    assert said(silent)["answer"].startswith("it does not say '")
    assert said(SUITE.check(task, cut))["answer"] == "there is none: the episode ended by truncated"


def test_the_pin_follows_the_code_and_the_tasks_are_counted_once_for_it(data_folder: Path) -> None:
    """Equal pins, equal tasks; counting them takes a second that `cacherl eval` need not spend."""
    info = DeskSuite(DeskWorld(), DeskExpert(detour=0.0)).info

    (kept,) = (data_folder / "suites" / "info").glob("*.json")
    kept.write_bytes(msgspec.json.encode(msgspec.structs.replace(info, distinct_questions=7)))
    assert DeskSuite(DeskWorld(), DeskExpert(detour=0.0)).info.distinct_questions == 7
    crowd = DeskSuite(DeskWorld(tools=20), DeskExpert(detour=0.0), name="desk:20")
    assert crowd.info.pin != info.pin
