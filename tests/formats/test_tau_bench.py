"""Real conversations of gpt-4o with stateful tools, and what the cache makes of them."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cacherl.cache.episodes.replay import ReplayTools
from cacherl.cache.identity.state import StateOverlay
from cacherl.cache.lookup.tool_cache import Draw, ToolCache, Viewpoint
from cacherl.core.errors import DataError
from cacherl.core.messages import AssistantMessage, MalformedCall, ToolCall, ToolMessage
from cacherl.core.tasks import Split, Task
from cacherl.core.tools import UNDECLARED, ErrorClass, Source, Tier, ToolResult
from cacherl.core.trajectories import StopReason, Trajectory
from cacherl.formats.tau_bench import read_tau_bench

FILE = Path(__file__).parents[2].parent / "shared/data/tau-bench/gpt-4o-airline.json"
Recording = tuple[Task, Trajectory]


@pytest.fixture(scope="module")
def recordings() -> list[Recording]:
    if not FILE.is_file():
        pytest.skip(f"{FILE} is not here: data of others is not part of this repository")
    return list(read_tau_bench(FILE))


def calls_of(trajectory: Trajectory) -> list[ToolCall]:
    return [
        call
        for message in trajectory.messages
        if isinstance(message, AssistantMessage)
        for call in message.calls
        if isinstance(call, ToolCall)
    ]


def test_every_conversation_is_read_whole(recordings: list[Recording]) -> None:
    """50 tasks, 4 trials, 1,164 calls; nothing dropped on the way in."""
    assert len(recordings) == 200
    assert Counter(trajectory.rollout for _, trajectory in recordings) == dict.fromkeys(
        range(4), 50
    )
    assert sum(len(trajectory.results) for _, trajectory in recordings) == 1164
    for task, trajectory in recordings:
        calls = calls_of(trajectory)
        assert [call.id for call in calls] == [result.call_id for result in trajectory.results]
        assert len({call.id for call in calls}) == len(calls)  # gpt-4o repeated ids
        assert {call.name for call in calls} <= {spec.name for spec in task.tools}
        assert all(result.source is Source.IMPORTED for result in trajectory.results)
        assert trajectory.notes["file"] == FILE.name
    failed = [r for _, t in recordings for r in t.results if r.is_error]
    assert failed
    assert {result.error_class for result in failed} <= {
        ErrorClass.NOT_FOUND,
        ErrorClass.PERMISSION,
        ErrorClass.VALIDATION,
    }


def test_a_conversation_replays_to_its_own_results(recordings: list[Recording]) -> None:
    """All 200, byte for byte, EXACT: the cache adds nothing and loses nothing."""

    async def replay(task: Task, trajectory: Trajectory) -> list[ToolResult]:
        cache = ToolCache.open(":memory:")
        cache.record_trajectory(task, trajectory)
        tools = ReplayTools(cache, task)
        return [await tools.call(call) for call in calls_of(trajectory)]

    for task, trajectory in recordings:
        replayed = asyncio.run(replay(task, trajectory))
        said = [(result.text, result.is_error, Tier.EXACT) for result in trajectory.results]
        assert [(result.text, result.is_error, result.tier) for result in replayed] == said


def shares(
    recordings: list[Recording], known: Callable[[Recording], bool]
) -> dict[Tier, tuple[float, float]]:
    """Return (share of calls, share right) by tier over the calls that `known` leaves out.

    `think` and `transfer_to_human_agents` answer every call alike, so they are not counted.
    """
    cache = ToolCache.open(":memory:")
    for recording in recordings:
        if known(recording):
            cache.record_trajectory(*recording)
    met: Counter[Tier] = Counter()
    right: Counter[Tier] = Counter()
    for task, trajectory in (recording for recording in recordings if not known(recording)):
        overlay = StateOverlay()
        specs = {spec.name: spec for spec in task.tools}
        view = Viewpoint(scenario=task.scenario)
        for call, truth in zip(calls_of(trajectory), trajectory.results, strict=True):
            spec = specs[call.name]
            normal = cache.plan(spec).normal(call.arguments)
            state = overlay.state(spec.effects, normal.arguments)
            hit = cache.find(
                task.namespace, spec, normal, state_key=state.key, view=view, draw=Draw()
            )
            if call.name not in ("think", "transfer_to_human_agents"):
                met[hit.tier] += 1
                right[hit.tier] += hit.observation is not None and (
                    hit.observation.text == truth.text
                )
            if not truth.is_error:
                overlay.write(
                    spec.name, spec.effects, normal.arguments, normal.canonical, state, truth.text
                )
    total = met.total()
    return {tier: (met[tier] / total, right[tier] / met[tier]) for tier in met}


def test_what_a_fourth_trial_finds_in_three(recordings: list[Recording]) -> None:
    """EXACT is right every time at 68 % of the calls or more; FUZZY has nothing to be wrong about here.

    Measured: EXACT 69.4 %, all right; FUZZY 0 %; BEST_EFFORT 4.5 %, right in 2 of 12; the rest misses.
    Elsewhere on this file: canonical keys without state 70.1 % and 98.9 % right, full history 47.4 %
    and 100 %, writer prefix 63.4 % and 100 % (shared/cache.md).
    """
    found = shares(recordings, lambda recording: recording[1].rollout < 3)

    assert found[Tier.EXACT][0] >= 0.68
    assert found[Tier.EXACT][1] == 1.0
    assert Tier.FUZZY not in found
    assert found[Tier.BEST_EFFORT][0] < 0.10
    assert found[Tier.BEST_EFFORT][1] < 0.50  # loose is loose: that is why the reward is told


def test_what_new_tasks_find_in_others(recordings: list[Recording]) -> None:
    """Keys of state alone share answers across tasks, and stay right."""
    found = shares(recordings, lambda recording: int(recording[0].scenario) < 40)

    assert found[Tier.EXACT][0] >= 0.20
    assert found[Tier.EXACT][1] == 1.0


# ------------------------------------------------------------------------- what files may hold


def conversation(*turns: dict[str, Any], **more: Any) -> dict[str, Any]:
    opening = [{"role": "system", "content": "policy"}, {"role": "user", "content": "hi"}]
    return {"task_id": 7, "trial": 1, "reward": 1.0, "traj": [*opening, *turns]} | more


def asks(name: str, arguments: str, number: str | None = "c1") -> dict[str, Any]:
    call: dict[str, Any] = {"function": {"name": name, "arguments": arguments}, "type": "function"}
    if number is not None:
        call["id"] = number
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def says(content: str, number: str | None = "c1") -> dict[str, Any]:
    told = {"role": "tool", "name": "x", "content": content}
    return told if number is None else {**told, "tool_call_id": number}


def written(folder: Path, *rows: Any) -> Path:
    path = folder / "results.json"
    path.write_text(json.dumps(list(rows)), encoding="utf-8")
    return path


def test_ids_may_be_missing_or_repeated(tmp_path: Path) -> None:
    """Providers do both; a result belongs to the first open call it can belong to."""
    path = written(
        tmp_path,
        conversation(asks("a", "{}"), says("1"), asks("b", "{}"), says("2")),
        conversation(
            asks("a", "{}", None), says("3", None), {"role": "assistant", "content": "ok"}
        ),
    )
    (_, repeated), (_, missing) = read_tau_bench(path)

    assert [(r.name, r.text) for r in repeated.results] == [("a", "1"), ("b", "2")]
    assert [m.call_id for m in repeated.messages if isinstance(m, ToolMessage)] == ["c1", "c1#2"]
    assert missing.results[0].text == "3"
    assert missing.stop is StopReason.ANSWER


def test_broken_arguments_and_missing_results_are_data(tmp_path: Path) -> None:
    """A model's mistake is part of the conversation; it must not stop the import."""
    path = written(
        tmp_path,
        conversation(asks("get_user_details", "{nope"), says("Error: bad"), asks("a", "{}", "c2")),
    )
    ((task, trajectory),) = read_tau_bench(path, split=Split.TEST)
    malformed = [
        call
        for message in trajectory.messages
        if isinstance(message, AssistantMessage)
        for call in message.calls
        if isinstance(call, MalformedCall)
    ]

    assert malformed[0].text == "get_user_details({nope)"
    assert [result.error_class for result in trajectory.results][1] is ErrorClass.TRANSIENT
    assert task.split is Split.TEST
    assert {spec.name: spec.effects for spec in task.tools}["a"] == UNDECLARED
    assert ToolCache.open(":memory:").record_trajectory(task, trajectory).calls == 0


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ([], "row 1: no object but a list"),
        ({"traj": []}, "row 1: task_id: missing"),
        ({"task_id": 1, "traj": "x"}, "row 1: traj: no JSON"),
        (conversation({"role": "wizard", "content": ""}), r"traj\[2\].role: unknown role 'wizard'"),
        (conversation({"role": "user", "content": 5}), r"traj\[2\].content: no text but a number"),
        (
            conversation(asks("a", "{}"), says("1", "c9")),
            r"traj\[3\].tool_call_id: answers no open",
        ),
        (
            conversation({"role": "assistant", "content": None, "tool_calls": [{"id": "c"}]}),
            r"traj\[2\].tool_calls\[0\].function: missing",
        ),
        (conversation(info={"task": {"actions": [{}]}}), r"info.task.actions\[0\].name: missing"),
    ],
)
def test_a_record_that_cannot_be_read_is_named(tmp_path: Path, row: Any, complaint: str) -> None:
    """Record, place and problem in one line: the file has 200 of them."""
    path = written(tmp_path, row)

    with pytest.raises(DataError, match=complaint):
        list(read_tau_bench(path))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b'[{"task_id": 1,\n "traj": [}]', "row 1: no JSON"),
        (b"{}", "task_id: missing"),
        (b"[]", "holds no conversation"),
        (b"\xff\xfe", "is UTF-16"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(
    tmp_path: Path, content: bytes, complaint: str
) -> None:
    """Where in the file, and what to do."""
    path = tmp_path / "results.json"
    path.write_bytes(content)

    with pytest.raises(DataError, match=complaint):
        list(read_tau_bench(path))
    with pytest.raises(DataError, match="no such file"):
        list(read_tau_bench(tmp_path / "typo.json"))
