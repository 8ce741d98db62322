"""Small tasks and trajectories for the tests of selecting."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cacherl.core.jsonl import write_jsonl
from cacherl.core.messages import AssistantMessage, Call, ToolCall, UserMessage
from cacherl.core.tasks import AnswerRule, Gold, Split, Task
from cacherl.core.tools import Tier, ToolResult
from cacherl.core.trajectories import StopReason, Trajectory
from cacherl.reward.judge import JudgeScores
from cacherl.select import Scorers, Selection, SelectOptions
from cacherl.select import choose as choose_by_id

GOLD = Gold(calls=(), answer=AnswerRule(must=(("done",),)), state="right")

SCORERS = Scorers(
    process=lambda task, trajectory: float(trajectory.notes.get("process", 1.0)),
    answer_ok=lambda rule, text: all(any(one in text for one in group) for group in rule.must),
    is_meta=lambda text: text.startswith("I should answer"),
    judged=lambda task, trajectory: (
        JudgeScores(points=tuple(trajectory.notes["judged"]))
        if "judged" in trajectory.notes
        else None
    ),
    noted=lambda trajectory: trajectory.notes.get("reward"),
)
STRICT = SelectOptions(tool_floor=0, family_floor=0, family_ceiling=0)


def choose(
    tasks: Iterable[Task],
    trajectories: Sequence[Trajectory],
    scorers: Scorers = SCORERS,
    options: SelectOptions = SelectOptions(),  # noqa: B008 - immutable
    **more: Any,
) -> Selection:
    return choose_by_id({task.id: task for task in tasks}, trajectories, scorers, options, **more)


def make_task(
    id_: str,
    *,
    family: str = "f",
    gold: Gold | None = GOLD,
    split: Split = Split.TRAIN,
    said: str = "",
    language: str = "en",
) -> Task:
    return Task(
        id=id_,
        split=split,
        family=family,
        language=language,
        wording="a",
        scenario="s",
        namespace="n",
        system="",
        user_turns=(said or id_,),
        tools=(),
        gold=gold,
    )


def made(
    id_: str,
    *,
    rollout: int = 0,
    tools: tuple[str, ...] = ("look",),
    answer: str = "done",
    state: str | None = "right",
    stop: StopReason = StopReason.ANSWER,
    process: float = 1.0,
    said: str | None = None,
    calls: tuple[Call, ...] = (),
    judged: tuple[int, ...] | None = None,
    noted: float | None = None,
) -> Trajectory:
    made_calls: tuple[Call, ...] = calls or tuple(
        ToolCall(id=f"c{n}", name=name, arguments={}) for n, name in enumerate(tools)
    )
    return Trajectory(
        task_id=id_,
        policy="p",
        rollout=rollout,
        messages=(
            UserMessage(content=said or id_),
            AssistantMessage(calls=made_calls),
            AssistantMessage(content=answer),
        ),
        results=tuple(
            ToolResult(call_id=f"c{n}", name=name, text="ok", tier=Tier.LIVE)
            for n, name in enumerate(tools)
        ),
        stop=stop,
        final_state=state,
        notes={"process": process}
        | ({} if judged is None else {"judged": list(judged)})
        | ({} if noted is None else {"reward": noted}),
    )


def on_file(path: Path, trajectories: Iterable[Trajectory]) -> Path:
    write_jsonl(path, trajectories)
    return path
