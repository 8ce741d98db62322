"""A paid model over the desk, against a server that misbehaves: what is paid, and that nothing is paid twice."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from cacherl.agent import run_episode
from cacherl.core.models import Limits
from cacherl.core.tasks import Split
from cacherl.core.trajectories import StopReason, Trajectory
from cacherl.teacher.chat import EndpointChat
from cacherl.teacher.options import TeacherOptions
from cacherl.wiring import paid_model
from cacherl.worlds.desk import DeskExpert, DeskWorld
from tests.teacher_server import TeacherServer

LIMITS = Limits(max_turns=12, max_turn_tokens=512, max_context_tokens=32_768)
WORLD = DeskWorld()
TASKS = WORLD.tasks(Split.TRAIN, count=6, seed=0)


async def play(model: EndpointChat, count: int = len(TASKS)) -> list[Trajectory]:
    """Run tasks at once, as `record` does."""

    async def one(index: int) -> Trajectory:
        tools = WORLD.open(TASKS[index].scenario)
        try:
            return await run_episode(model, tools, TASKS[index], limits=LIMITS, seed=0)
        finally:
            await tools.aclose()

    try:
        return list(await asyncio.gather(*(one(index) for index in range(count))))
    finally:
        await model.aclose()


def teacher(server: TeacherServer, journal: Path | None, **options: Any) -> EndpointChat:
    return paid_model(
        f"openai:desk@{server.url}",
        journal=journal,
        options=TeacherOptions(**{"timeout_s": 20, **options}),
        purpose="record",
    )


async def test_the_teacher_plays_the_desk(tmp_path: Path) -> None:
    """The server is worth testing against: through it the expert does what it does without it."""
    with TeacherServer(folder=tmp_path) as server:
        said = await play(teacher(server, None))

    assert [one.stop for one in said] == [StopReason.ANSWER] * len(TASKS)
    for task, one in zip(TASKS, said, strict=True):
        alone = await run_episode(
            DeskExpert(detour=0.0), WORLD.open(task.scenario), task, limits=LIMITS, seed=0
        )
        assert one.messages == alone.messages
