"""Rows carry loss where the model writes, and come in an order that wastes little and repeats exactly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacherl.core.errors import DataError, RecipeError
from cacherl.core.training import Progress
from cacherl.render import ChatCodec, Template
from cacherl.sft import (
    IGNORED,
    Example,
    SFTConfig,
    SFTPoint,
    examples_of,
    schedule,
    sft,
    steps_of,
)
from tests.fakes import ByteTokenizer
from tests.training_kit import button_task, button_trajectory

TOKENIZER = ByteTokenizer()
CODEC = ChatCodec(TOKENIZER, Template.QWEN3_NO_THINKING)


class CountingTrainer:
    """A `SupervisedTrainer` that keeps what it was given and pretends one loss a step."""

    def __init__(self) -> None:
        self.examples: list[Example] = []

    def fit(
        self,
        examples: Sequence[Example],
        config: SFTConfig,
        *,
        model: str,
        out: Path,
        work: Path,
        on_progress: Progress | None,
    ) -> tuple[list[SFTPoint], int]:
        self.examples = list(examples)
        steps = range(1, steps_of(len(examples), config) + 1)
        return [SFTPoint(step=s, loss=1.0 / s, lr=0.1, tokens=s, seconds=s) for s in steps], 0


def written(example: Example) -> str:
    """Return the text that carries loss."""
    return TOKENIZER.decode([i for i, m in zip(example.ids, example.mask, strict=True) if m])


def test_loss_falls_on_every_turn_of_the_model_and_on_nothing_else() -> None:
    """Learning to write tool results or the user's words would be learning to make things up."""
    task = button_task(7, turns=2)

    rows = examples_of({task.id: task}, [button_trajectory(task, "red")], CODEC)

    press = '<tool_call>\n{"name": "red", "arguments": {}}\n</tool_call><|im_end|>'
    assert [written(row) for row in rows] == [f"{press}ok<|im_end|>"] * 2
    assert [row.labels.count(IGNORED) for row in rows] == [row.mask.count(0) for row in rows]


def test_the_head_of_a_row_is_its_system_message_and_tools() -> None:
    """Rows with equal heads share a forward pass; a wrong head would only cost time, a missing one all."""
    task = button_task(7)

    [row] = examples_of({task.id: task}, [button_trajectory(task, "red")], CODEC)

    head = TOKENIZER.decode(row.ids[: row.head])
    assert head.startswith("<|im_start|>system\n# Tools")
    assert head.endswith("</tool_call><|im_end|>")


def test_a_trajectory_of_an_unknown_task_names_it() -> None:
    """Its tools are unknown, so its prompt would be wrong."""
    with pytest.raises(DataError, match="'t7'"):
        examples_of({}, [button_trajectory(button_task(7), "red")], CODEC)


def test_long_rows_are_left_out_and_counted_never_cut(tmp_path: Path) -> None:
    """A cut row ends in the middle of a call, and would teach just that."""
    short, long = button_task(1), button_task(2)
    tasks = {"t1": short, "t2": long}
    trajectories = [button_trajectory(short, "red"), button_trajectory(long, "x" * 500)]
    rows = examples_of(tasks, trajectories, CODEC)
    trainer = CountingTrainer()
    limit = len(rows[0].ids)

    summary = sft(
        tasks,
        trajectories,
        CODEC,
        trainer,
        SFTConfig(max_tokens=limit, max_steps=10),
        model="m",
        out=tmp_path,
        work=tmp_path,
    )

    assert trainer.examples == rows[:1]
    assert (summary.rows, summary.too_long, summary.steps) == (1, 1, 10)
    assert (summary.first_loss, summary.final_loss) == (1.0, 0.1)


def test_nothing_to_learn_is_an_error(tmp_path: Path) -> None:
    """An empty training would leave the base model under the name of a trained one."""
    with pytest.raises(DataError, match="max_tokens = 8"):
        sft(
            {"t1": button_task(1)},
            [button_trajectory(button_task(1), "red")],
            CODEC,
            CountingTrainer(),
            SFTConfig(max_tokens=8),
            model="m",
            out=tmp_path,
            work=tmp_path,
        )


@pytest.mark.parametrize(
    "wrong", [{"batch_rows": 10, "micro_batch_rows": 4}, {"learning_rate": 0.0}, {"save_every": 0}]
)
def test_a_config_no_trainer_could_mean_is_refused(wrong: dict[str, float]) -> None:
    """Before any work starts."""
    with pytest.raises(RecipeError):
        SFTConfig(**wrong)  # type: ignore[arg-type]


EXAMPLES = st.lists(
    st.tuples(st.integers(0, 3), st.integers(5, 30)).map(
        lambda pair: Example(ids=(pair[0],) * pair[1], mask=(1,) * pair[1], head=1)
    ),
    min_size=1,
    max_size=40,
)


@given(EXAMPLES, st.integers(1, 6), st.integers(1, 3), st.integers(0, 5))
def test_a_pass_holds_every_row_and_repeats_exactly(
    examples: list[Example], micro: int, factor: int, seed: int
) -> None:
    """No row is forgotten, and a resumed run finds the same order."""
    whole = -(-len(examples) // micro) * micro
    config = SFTConfig(
        batch_rows=micro * factor,
        micro_batch_rows=micro,
        max_steps=-(-whole // (micro * factor)),
        seed=seed,
    )

    order = schedule(examples, config)

    assert order == schedule(examples, config)
    assert len(order) == steps_of(len(examples), config) * config.batch_rows
    counts = Counter(order[:whole])
    assert set(counts) == set(range(len(examples)))
    assert sum(counts.values()) - len(examples) < micro


def test_micro_batches_share_their_tools_where_they_can() -> None:
    """What is shared is read once: mixed batches cost two to three times as much."""
    examples = [
        Example(ids=(kind,) * 10, mask=(1,) * 10, head=1) for kind in range(4) for _ in range(20)
    ]

    order = schedule(examples, SFTConfig(batch_rows=8, micro_batch_rows=4, epochs=1))

    batches = [order[i : i + 4] for i in range(0, len(order), 4)]
    assert all(len({examples[row].ids[0] for row in batch}) == 1 for batch in batches)
    assert len({examples[batch[0]].ids[0] for batch in batches[:8]}) > 1
