"""Recording: real episodes through the one loop, on a small world with state."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from cacherl.core.errors import (
    BudgetError,
    CacheRLError,
    DataError,
    ModelError,
    RecipeError,
    ToolError,
)
from cacherl.core.jsonl import read_jsonl
from cacherl.core.messages import AssistantMessage, Message, ToolCall, ToolMessage
from cacherl.core.models import Limits, ModelTurn
from cacherl.core.schema import error_text
from cacherl.core.tasks import Split, Task
from cacherl.core.tools import ErrorClass, Source, Tier, ToolResult, ToolSpec
from cacherl.core.trajectories import StopReason, TokenSegment, Trajectory
from cacherl.record import record
from cacherl.teacher.failure import EndpointError, Failure

ADD = ToolSpec(
    name="add",
    description="Add to the counter.",
    parameters={
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
    },
)


def make_task(number: int, *, scenario: str = "s") -> Task:
    return Task(
        id=f"t{number}",
        split=Split.TRAIN,
        family="add",
        language="en",
        wording="a",
        scenario=scenario,
        namespace="counter",
        system="",
        user_turns=(f"Add {number}.",),
        tools=(ADD,),
    )


class CounterTools:
    def __init__(self, world: Counter) -> None:
        self._world = world
        self._total = 0
        self.closed = 0

    async def call(self, call: ToolCall) -> ToolResult:
        self._world.calls += 1
        n = call.arguments["n"]
        if n == 13:
            return ToolResult(
                call_id=call.id,
                name=call.name,
                text=error_text("permission", "not that one"),
                is_error=True,
                error_class=ErrorClass.PERMISSION,
                tier=Tier.LIVE,
                source=Source.LIVE,
            )
        self._total += n
        return ToolResult(
            call_id=call.id,
            name=call.name,
            text=str(self._total),
            tier=Tier.LIVE,
            source=Source.LIVE,
        )

    def fingerprint(self) -> str:
        if self.closed:
            raise AssertionError("the state was asked for after closing")
        return hashlib.blake2b(str(self._total).encode(), digest_size=8).hexdigest()

    async def aclose(self) -> None:
        self.closed += 1


class Counter:
    """A world with one number in it; the scenario `gone` cannot be opened."""

    namespace = "counter"

    def __init__(self, *, resets: bool = True) -> None:
        self.resets = resets
        self.calls = 0
        self.opened: list[CounterTools] = []

    @property
    def specs(self) -> Sequence[ToolSpec]:
        return (ADD,)

    def open(self, scenario: str) -> CounterTools:
        if scenario == "gone":
            raise ToolError("no scenario gone. Use s.")
        tools = CounterTools(self)
        self.opened.append(tools)
        return tools

    def tasks(self, split: Split, *, count: int, seed: int) -> list[Task]:
        return [make_task(number) for number in range(count)]


class Adder:
    """A policy that adds what it is told to, then says the result."""

    name = "adder"

    def __init__(self) -> None:
        self.broken = False
        self.broken_after_calls = False
        self.error: CacheRLError = ModelError("http://x: no connection. Start the server.")
        self.seeds: list[int] = []

    def start(self, task: Task, *, limits: Limits, seed: int) -> AdderSession:
        self.seeds.append(seed)
        return AdderSession(self, int(task.id[1:]))


class AdderSession:
    def __init__(self, model: Adder, number: int) -> None:
        self._model = model
        self._number = number

    async def reply(self, new: Sequence[Message]) -> ModelTurn:
        last = new[-1]
        if self._model.broken or (self._model.broken_after_calls and isinstance(last, ToolMessage)):
            raise self._model.error
        if isinstance(last, ToolMessage):
            message = AssistantMessage(content=f"Now {last.content}.")
        else:
            call = ToolCall(id="c1", name="add", arguments={"n": self._number})
            message = AssistantMessage(calls=(call,))
        return ModelTurn(message=message, prompt_tokens=10, completion_tokens=2)

    def clip(self, text: str, max_tokens: int) -> str:
        return text

    def segments(self) -> tuple[TokenSegment, ...]:
        return ()

    def close(self) -> None:
        pass


LIMITS = Limits()


async def test_every_episode_is_on_file_with_its_final_state(tmp_path: Path) -> None:
    """Selection compares that state with gold; without it a wrong write passes for a right one."""
    world, out = Counter(), tmp_path / "trajectories.jsonl"
    seen: list[tuple[int, int]] = []

    summary = await record(
        Adder(),
        world,
        world.tasks(Split.TRAIN, count=3, seed=0),
        limits=LIMITS,
        seed=0,
        out=out,
        concurrency=2,
        best_of=2,
        on_progress=lambda done, total: seen.append((done, total)),
    )

    trajectories = list(read_jsonl(out, Trajectory))
    assert {(t.task_id, t.rollout) for t in trajectories} == {
        (f"t{n}", r) for n in range(3) for r in range(2)
    }
    for trajectory in trajectories:
        total = trajectory.task_id[1:].encode()
        assert trajectory.final_state == hashlib.blake2b(total, digest_size=8).hexdigest()
    assert summary.live_calls == world.calls == 6
    assert summary.stops == {"answer": 6}
    assert (summary.prompt_tokens, summary.completion_tokens) == (120, 24)
    assert seen[-1] == (6, 6)
    assert all(tools.closed for tools in world.opened)


async def test_a_second_run_makes_no_live_call(tmp_path: Path) -> None:
    """What is recorded is paid for; running the same command again must cost nothing."""
    world, out = Counter(), tmp_path / "trajectories.jsonl"
    tasks = world.tasks(Split.TRAIN, count=3, seed=0)
    await record(Adder(), world, tasks, limits=LIMITS, seed=0, out=out)
    before = out.read_bytes()

    summary = await record(Adder(), world, tasks, limits=LIMITS, seed=0, out=out)

    assert (summary.episodes, summary.skipped, summary.live_calls) == (0, 3, 0)
    assert out.read_bytes() == before


async def test_a_killed_run_goes_on_where_it_was_cut(tmp_path: Path) -> None:
    """A torn last line costs one episode, not the file."""
    world, out = Counter(), tmp_path / "trajectories.jsonl"
    tasks = world.tasks(Split.TRAIN, count=3, seed=0)
    await record(Adder(), world, tasks, limits=LIMITS, seed=0, out=out, concurrency=1)
    out.write_bytes(out.read_bytes()[:-20])

    summary = await record(Adder(), world, tasks, limits=LIMITS, seed=0, out=out)

    assert (summary.episodes, summary.skipped) == (1, 2)
    assert sorted(t.task_id for t in read_jsonl(out, Trajectory)) == ["t0", "t1", "t2"]


async def test_one_failing_episode_is_on_record_and_stops_nothing(tmp_path: Path) -> None:
    """A broken scenario among thousands must not end a night's recording."""
    world, out = Counter(), tmp_path / "trajectories.jsonl"
    tasks = [make_task(1), make_task(2, scenario="gone"), make_task(13)]

    summary = await record(Adder(), world, tasks, limits=LIMITS, seed=0, out=out)

    on_file = {t.task_id: t for t in read_jsonl(out, Trajectory)}
    assert summary.stops == {"answer": 2, "tools_failed": 1}
    assert summary.tool_errors == {"permission": 1}
    assert on_file["t2"].stop is StopReason.TOOLS_FAILED
    assert "no scenario gone" in on_file["t2"].notes["error"]
    assert on_file["t2"].final_state is None


async def test_infrastructure_failures_are_recorded_again(tmp_path: Path) -> None:
    """A server that was down yesterday says nothing about the policy."""
    world, model, out = Counter(), Adder(), tmp_path / "trajectories.jsonl"
    tasks = world.tasks(Split.TRAIN, count=2, seed=0)
    model.broken = True
    await record(model, world, tasks, limits=LIMITS, seed=0, out=out)
    model.broken = False

    summary = await record(model, world, tasks, limits=LIMITS, seed=0, out=out)

    assert (summary.retried, summary.episodes) == (2, 2)
    assert [t.stop for t in read_jsonl(out, Trajectory)] == [StopReason.ANSWER] * 2


async def test_a_dead_model_ends_the_run_with_its_own_line(tmp_path: Path) -> None:
    """Ten thousand failures in a row help nobody; the line names the cause and what to do next."""
    world, model, out = Counter(), Adder(), tmp_path / "trajectories.jsonl"
    model.broken = True

    with pytest.raises(ModelError, match=r"4 episodes in a row .* no connection") as caught:
        await record(
            model,
            world,
            world.tasks(Split.TRAIN, count=50, seed=0),
            limits=LIMITS,
            seed=0,
            out=out,
            concurrency=1,
            give_up_after=4,
        )

    assert "\n" not in str(caught.value)
    assert len(list(read_jsonl(out, Trajectory))) == 4


async def test_failures_that_a_success_parts_end_nothing(tmp_path: Path) -> None:
    """A teacher that fails now and then is worth going on with, however often that is in all."""
    world, model, out = Counter(), Adder(), tmp_path / "trajectories.jsonl"

    def every_third_works(done: int, _: int) -> None:
        model.broken = done % 3 != 2

    summary = await record(
        model,
        world,
        world.tasks(Split.TRAIN, count=30, seed=0),
        limits=LIMITS,
        seed=0,
        out=out,
        concurrency=1,
        on_progress=every_third_works,
        give_up_after=3,
    )

    assert summary.stops == {"answer": 10, "model_failed": 20}


async def test_the_hook_sees_each_trajectory_once_it_is_on_file(tmp_path: Path) -> None:
    """The cache follows the file there: behind it after a kill, never before it, so nothing counts twice."""
    world, out = Counter(), tmp_path / "trajectories.jsonl"
    seen: list[tuple[str, int]] = []

    def hook(task: Task, trajectory: Trajectory) -> None:
        assert task.id == trajectory.task_id
        seen.append((task.id, len(list(read_jsonl(out, Trajectory)))))

    tasks = world.tasks(Split.TRAIN, count=3, seed=0)
    await record(
        Adder(), world, tasks, limits=LIMITS, seed=0, out=out, concurrency=1, on_trajectory=hook
    )

    assert seen == [("t0", 1), ("t1", 2), ("t2", 3)]


async def test_rollouts_of_one_task_have_seeds_of_their_own(tmp_path: Path) -> None:
    """Best of two is only worth its price if the two can differ."""
    world, model, out = Counter(), Adder(), tmp_path / "trajectories.jsonl"

    await record(model, world, [make_task(1)], limits=LIMITS, seed=5, out=out, best_of=3)

    seeds = [t.seed for t in read_jsonl(out, Trajectory)]
    assert seeds == model.seeds
    assert len(set(seeds)) == 3
    assert seeds[0] == 5


async def test_another_policy_needs_another_file(tmp_path: Path) -> None:
    """Episodes of two policies in one file could not be told apart by task and rollout."""
    world, out = Counter(), tmp_path / "trajectories.jsonl"
    tasks = world.tasks(Split.TRAIN, count=1, seed=0)
    await record(Adder(), world, tasks, limits=LIMITS, seed=0, out=out)

    with pytest.raises(RecipeError, match="Name another file"):
        await record(Adder(), world, tasks, limits=LIMITS, seed=1, out=out)


async def test_a_damaged_line_stops_before_any_live_call(tmp_path: Path) -> None:
    """Nothing already recorded is lost or silently skipped."""
    world, out = Counter(), tmp_path / "trajectories.jsonl"
    tasks = world.tasks(Split.TRAIN, count=2, seed=0)
    await record(Adder(), world, tasks, limits=LIMITS, seed=0, out=out)
    damaged = out.read_bytes().replace(b"Add 1", b"Add 7")
    out.write_bytes(damaged)
    calls = world.calls

    with pytest.raises(DataError, match=r"trajectories.jsonl:2: the checksum"):
        await record(Adder(), world, tasks, limits=LIMITS, seed=0, out=out)

    assert world.calls == calls
    assert out.read_bytes() == damaged


async def test_a_failed_episode_goes_on_without_calling_again_what_it_called(
    tmp_path: Path,
) -> None:
    """The model was lost after the call: asked again it must not book the same thing twice."""
    world, model, out = Counter(resets=False), Adder(), tmp_path / "trajectories.jsonl"
    tasks = [make_task(1), make_task(2)]
    model.broken_after_calls = True
    await record(model, world, tasks, limits=LIMITS, seed=0, out=out)
    model.broken_after_calls = False

    summary = await record(model, world, tasks, limits=LIMITS, seed=0, out=out)

    assert world.calls == 2
    assert (summary.live_calls, summary.retried, summary.stops) == (0, 2, {"answer": 2})
    assert [t.messages[-1] for t in read_jsonl(out, Trajectory)] == [
        AssistantMessage(content="Now 1."),
        AssistantMessage(content="Now 2."),
    ]


async def test_a_spent_budget_begins_nothing_new_and_ends_what_it_can(tmp_path: Path) -> None:
    """Everything bought is on file, and the summary says how much is left to do."""
    world, model, out = Counter(), Adder(), tmp_path / "trajectories.jsonl"
    tasks = world.tasks(Split.TRAIN, count=10, seed=0)

    def spend(done: int, total: int) -> None:
        if done == 3:
            model.broken, model.error = True, BudgetError("the budget of $1 is spent.")

    summary = await record(
        model, world, tasks, limits=LIMITS, seed=0, out=out, concurrency=2, on_progress=spend
    )
    model.broken = False
    after = await record(model, world, tasks, limits=LIMITS, seed=0, out=out)

    assert summary.out_of_budget == "the budget of $1 is spent."
    assert 3 <= summary.episodes < 6
    assert summary.left == 10 - summary.episodes
    assert summary.cut_short >= 1
    assert (after.skipped, after.episodes, after.left) == (summary.episodes, summary.left, 0)


async def test_what_the_teacher_refuses_is_asked_again_only_if_told(tmp_path: Path) -> None:
    """The same request is refused the same way for ever; a failure on record is an answer too."""
    world, model, out = Counter(), Adder(), tmp_path / "trajectories.jsonl"
    model.broken = True
    model.error = EndpointError("http://x: 400: unsafe prompt.", kind=Failure.REFUSED)
    first = await record(model, world, [make_task(1)], limits=LIMITS, seed=0, out=out)
    model.broken = False

    second = await record(model, world, [make_task(1)], limits=LIMITS, seed=0, out=out)
    told = await record(
        model, world, [make_task(1)], limits=LIMITS, seed=0, out=out, retry_refused=True
    )

    assert first.model_errors == {"refused": 1}
    assert (second.episodes, second.skipped) == (0, 1)
    assert (told.episodes, told.stops) == (1, {"answer": 1})


async def test_half_a_character_does_not_end_the_run(tmp_path: Path) -> None:
    """Models cut emoji in two; no file can hold the half, and a night's run must not end with it."""
    world, model, out = Counter(), Adder(), tmp_path / "trajectories.jsonl"
    model.broken, model.error = True, ModelError("http://x: said \ud83d. Try again.")

    await record(model, world, [make_task(1)], limits=LIMITS, seed=0, out=out)

    (trajectory,) = read_jsonl(out, Trajectory)
    assert trajectory.notes["error"] == "http://x: said ?. Try again."
