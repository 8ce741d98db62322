"""What a trainer is given and what a batch is said to have been like: pure, so checked to the digit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacherl.core.errors import DataError, RecipeError
from cacherl.core.messages import AssistantMessage
from cacherl.core.models import Limits
from cacherl.core.tasks import Task
from cacherl.core.tools import Tier
from cacherl.core.training import Progress
from cacherl.core.trajectories import StopReason, TokenSegment, Trajectory
from cacherl.grpo import (
    GRPOConfig,
    GRPOPoint,
    Play,
    grpo,
    metrics_of,
    task_schedule,
    trained_segment,
)
from cacherl.render import ChatCodec, Template
from cacherl.reward.hybrid import HybridReward, reward_of
from cacherl.rollout import Rollout, ledger_of
from tests.fakes import ByteTokenizer, ScriptedEngine
from tests.training_kit import Buttons, button_task

TOKENIZER = ByteTokenizer()
CODEC = ChatCodec(TOKENIZER, Template.QWEN3_NO_THINKING)
RED = '<tool_call>\n{"name": "red", "arguments": {}}\n</tool_call><|im_end|>'
BLUE = RED.replace("red", "blue")


def segment(number: int) -> TokenSegment:
    return TokenSegment(prompt_ids=(number,), completion_ids=(1, 2), mask=(1, 1))


def rollout(
    total: float | None, *, index: int = 0, segments: int = 1, stop: StopReason = StopReason.ANSWER
) -> Rollout:
    trajectory = Trajectory(
        task_id="t0",
        policy="p",
        rollout=index,
        messages=(AssistantMessage(content="ok"),),
        results=(),
        stop=stop,
        segments=tuple(segment(n) for n in range(segments)),
    )
    reward = None
    if total is not None:
        parts = reward_of(button_task(0), trajectory).process
        reward = HybridReward(
            total=total, alpha=0.6, tier=Tier.LIVE, answer=1.0, meta_reasoning=False, process=parts
        )
    return Rollout(trajectory=trajectory, reward=reward, ledger=ledger_of([]))


def test_the_rollouts_of_a_group_take_the_segments_of_a_conversation_in_turn() -> None:
    """A trainer takes one row a rollout; no user turn may go without training."""
    chosen = [trained_segment(rollout(1.0, index=i, segments=2)) for i in range(4)]

    assert chosen == [segment(0), segment(1), segment(0), segment(1)]
    assert trained_segment(rollout(1.0, segments=0)) is None
    assert trained_segment(rollout(None)) is None


def test_flat_groups_and_failures_are_counted_and_do_not_blur_the_means() -> None:
    """A curve that mixes lost servers into the reward cannot be read."""
    groups = [
        [rollout(0.5), rollout(0.5)],
        [rollout(0.0), rollout(1.0)],
        [rollout(1.0), rollout(None, stop=StopReason.MODEL_FAILED)],
    ]

    metrics = metrics_of(groups)

    assert (metrics.rollouts, metrics.failed) == (6, 1)
    assert (metrics.groups, metrics.flat_groups) == (3, 2)
    assert metrics.reward == pytest.approx(0.6)
    assert metrics.group_std == pytest.approx(0.5 / 3)
    assert metrics.stops == {StopReason.ANSWER: 5, StopReason.MODEL_FAILED: 1}
    assert metrics.tiers == {Tier.LIVE: 1.0}
    assert metrics.early == 1.0


@given(st.integers(1, 9), st.integers(1, 5), st.integers(1, 12), st.integers(0, 4))
def test_every_task_comes_once_a_pass_and_no_batch_holds_it_twice(
    count: int, batch: int, steps: int, seed: int
) -> None:
    """A task twice in a batch would be one group of twice the size."""
    tasks = [button_task(n) for n in range(count)]
    config = GRPOConfig(steps=steps, tasks_per_step=batch, group_size=2, seed=seed)

    order = task_schedule(tasks, config)

    assert order == task_schedule(tasks, config)
    assert len(order) == steps * batch
    for start in range(0, len(order) - count + 1, count):
        assert len({task.id for task in order[start : start + count]}) == count
    if batch <= count:
        for start in range(0, len(order), batch):
            assert len({task.id for task in order[start : start + batch]}) == batch


class PlayOnce:
    """A `PolicyTrainer` that plays each batch on scripted ids and trains nothing."""

    def __init__(self, *turns: str) -> None:
        self._turns = turns
        self.points: list[GRPOPoint] = []

    def train(
        self,
        tasks: Sequence[Task],
        play: Play,
        config: GRPOConfig,
        *,
        model: str,
        out: Path,
        work: Path,
        on_progress: Progress | None,
    ) -> tuple[list[GRPOPoint], int]:
        for step in range(config.steps):
            engine = ScriptedEngine([TOKENIZER.encode(turn) for turn in self._turns])
            batch = tasks[step * config.tasks_per_step :][: config.tasks_per_step]
            played = play(engine, batch, step)
            self.points.append(
                GRPOPoint(
                    step=step + 1,
                    batch=played.metrics,
                    loss=0.0,
                    lr=0.0,
                    kl=None,
                    entropy=None,
                    grad_norm=None,
                    clip_share=None,
                    rollout_s=1.0,
                    train_s=1.0,
                    seconds=2.0 * step,
                )
            )
        return self.points, 0


def run(trainer: PlayOnce, folder: Path, tasks: Sequence[Task]) -> None:
    grpo(
        tasks,
        lambda task, seed, rollout: Buttons(),
        CODEC,
        trainer,
        GRPOConfig(steps=2, tasks_per_step=1, group_size=2),
        model="m",
        out=folder,
        work=folder,
        limits=Limits(),
    )


def test_the_policy_writes_and_the_tools_answer_through_the_one_loop(tmp_path: Path) -> None:
    """The stage adds nothing between the engine's ids and the reward."""
    right, wrong = PlayOnce(RED, "ok<|im_end|>"), PlayOnce(BLUE, "ok<|im_end|>")

    run(right, tmp_path, [button_task(0)])
    run(wrong, tmp_path, [button_task(0)])

    assert [point.batch.accuracy for point in right.points] == [1.0, 1.0]
    assert [point.batch.accuracy for point in wrong.points] == [0.0, 0.0]
    assert right.points[0].batch.reward == 1.0
    assert wrong.points[0].batch.reward < 1.0
    assert right.points[0].batch.tiers == {Tier.EXACT: 1.0}
    assert right.points[0].batch.live_calls == 0


def test_tasks_without_gold_need_a_judge(tmp_path: Path) -> None:
    """Found before the first rollout, not after an hour."""
    import msgspec

    with pytest.raises(DataError, match="say nothing of a right answer"):
        run(PlayOnce(RED), tmp_path, [msgspec.structs.replace(button_task(0), gold=None)])
    with pytest.raises(DataError, match="no tasks"):
        run(PlayOnce(RED), tmp_path, [])


@pytest.mark.parametrize(
    "wrong",
    [
        {"group_size": 1},
        {"micro_batch_rows": 5},
        {"steps": 0},
        {"beta": -1.0},
        {"temperature": 0.0},
    ],
)
def test_a_config_no_trainer_could_mean_is_refused(wrong: dict[str, float]) -> None:
    """Before any model is loaded."""
    with pytest.raises(RecipeError):
        GRPOConfig(**wrong)  # type: ignore[arg-type]


def test_the_defaults_are_the_papers() -> None:
    """arXiv:2606.14179: 16 rollouts, lr 1e-6, KL beta 0.15, LoRA r = alpha = 128, temperature 1."""
    config = GRPOConfig()

    assert (config.group_size, config.learning_rate, config.beta) == (16, 1e-6, 0.15)
    assert config.lora is not None
    assert (config.lora.rank, config.lora.alpha, config.temperature) == (128, 128, 1.0)
