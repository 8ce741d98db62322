"""The figures people compare models by."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacherl.agent import run_episode
from cacherl.core.errors import DataError
from cacherl.core.messages import AssistantMessage, MalformedCall
from cacherl.core.models import Limits
from cacherl.core.tasks import AnswerRule, Task
from cacherl.core.tools import Tier, Tools
from cacherl.core.trajectories import StopReason
from cacherl.metrics import (
    SYMPTOMS,
    EvalRow,
    EvalSummary,
    FailureKind,
    paired_difference,
    right_calls,
    score_episode,
    summarise,
)
from tests.desk_of_two import (
    RIGHT,
    SILENT,
    WRONG_VALUE,
    NoteTools,
    StatelessTools,
    TaskModel,
    copy_task,
    read,
    says,
    write,
)


def row(task_id: str, accuracy: float = 1.0, **changes: object) -> EvalRow:
    plain = EvalRow(
        task_id=task_id,
        policy="m",
        seed=0,
        live=True,
        family="copy",
        language="en",
        wording="a",
        process_accuracy=accuracy,
        end_to_end=accuracy == 1.0,
        outcome_right=accuracy == 1.0,
        answer_right=True,
        stop=StopReason.ANSWER,
        tiers=(Tier.LIVE,),
        worst_tier=Tier.LIVE,
        calls=1,
        gold_calls=1,
        turns=2,
        prompt_tokens=10,
        completion_tokens=5,
        thinking_share=0.0,
    )
    return msgspec.structs.replace(plain, **changes)


async def play(
    script: tuple[AssistantMessage, ...],
    *,
    task: Task | None = None,
    tools: Tools | None = None,
    seen_tools: frozenset[str] | None = None,
    max_turns: int = 8,
) -> EvalRow:
    task = task or copy_task("t")
    trajectory = await run_episode(
        TaskModel({"t": script}),
        tools or StatelessTools(),
        task,
        limits=Limits(max_turns=max_turns),
    )
    return score_episode(task, trajectory, seen_tools=seen_tools)


async def test_a_right_episode_shows_no_failure() -> None:
    """Failure counts mean nothing if success raises them."""
    assert (await play(RIGHT, seen_tools=frozenset())).failures == ()


async def test_an_answer_without_any_call_is_an_early_ending() -> None:
    """The paper's most common failure, before its first-turn minimum."""
    assert (await play(SILENT)).failures == (FailureKind.EARLY_ENDING,)


async def test_an_attempt_that_did_not_parse_is_no_early_ending() -> None:
    """The model meant to call; its format failed, not its will."""
    broken = AssistantMessage(calls=(MalformedCall(id="x", text="{", problem="not JSON"),))

    assert FailureKind.EARLY_ENDING not in (await play((broken, *SILENT))).failures


@pytest.mark.parametrize("tier", [Tier.FUZZY, Tier.BEST_EFFORT])
async def test_wrong_calls_after_a_loose_answer_are_a_cascade(tier: Tier) -> None:
    """Was it the model or the cache? The count keeps the two apart."""
    loose = StatelessTools(tier=tier)

    assert FailureKind.MISMATCH_CASCADE in (await play(WRONG_VALUE, tools=loose)).failures


async def test_right_calls_after_a_loose_answer_are_no_cascade() -> None:
    """A loose answer that misleads nobody did no harm."""
    loose = StatelessTools(tier=Tier.BEST_EFFORT)

    assert (await play(RIGHT, tools=loose)).failures == ()


async def test_wrong_calls_after_exact_answers_are_the_models_own() -> None:
    """No cache to blame."""
    assert FailureKind.MISMATCH_CASCADE not in (await play(WRONG_VALUE)).failures


async def test_an_answer_about_how_to_answer_is_meta_reasoning() -> None:
    """The user gets the model's plan instead of an answer."""
    leaked = says("The user wants me to copy a note, so I should respond with milk.")

    assert FailureKind.META_REASONING in (await play((*RIGHT[:2], leaked))).failures


async def test_failing_with_a_new_tool_is_counted_only_when_it_was_new() -> None:
    """Transfer to unseen schemas is a question of its own."""
    new = await play(WRONG_VALUE, seen_tools=frozenset({"read_note"}))
    known = await play(WRONG_VALUE, seen_tools=frozenset({"read_note", "write_note"}))
    unknown = await play(WRONG_VALUE)

    assert FailureKind.UNSEEN_TOOLS in new.failures
    assert FailureKind.UNSEEN_TOOLS not in known.failures + unknown.failures


async def test_more_calls_than_the_solution_are_over_chaining() -> None:
    """Calls cost money and time even when the outcome is right."""
    wandering = (says("", read(1, "c0")), *RIGHT)

    assert (await play(wandering)).failures == (FailureKind.OVER_CHAINING,)
    assert (await play(wandering)).end_to_end


async def test_thinking_that_outweighs_the_rest_is_a_cost() -> None:
    """The paper counts two to three times the latency for it."""
    pondering = (says("", read(0), thinking="Hm. " * 100), *RIGHT[1:])

    found = await play(pondering)

    assert found.failures == (FailureKind.THINKING_COST,)
    assert 0.5 < found.thinking_share < 1


async def test_a_surplus_write_fails_the_outcome_without_a_state() -> None:
    """All gold calls made, and one refund too many: not a success."""
    surplus = (*RIGHT[:2], says("", write("milk", "c9")), RIGHT[2])

    found = await play(surplus)

    assert found.process_accuracy == 1.0
    assert not found.outcome_right
    assert not found.end_to_end


async def test_a_surplus_read_does_no_harm_to_the_outcome() -> None:
    """Looking twice changes nothing."""
    assert (await play((says("", read(1, "c0")), *RIGHT))).outcome_right


async def test_an_answer_cut_off_at_the_turn_limit_is_not_an_answer() -> None:
    """Words on the way to a further call were not said to the user as the result."""
    talking = (says("milk", read(0)), says("milk", write("milk")), RIGHT[2])

    found = await play(talking, max_turns=2)

    assert found.stop is StopReason.MAX_TURNS
    assert not found.answer_right
    assert FailureKind.OVER_CHAINING in found.failures


async def test_a_task_that_needs_no_tool_is_right_when_none_is_called() -> None:
    """Knowing when not to call is part of the skill."""
    task = copy_task("t")
    assert task.gold is not None
    quiet = msgspec.structs.replace(
        task,
        gold=msgspec.structs.replace(task.gold, calls=(), answer=AnswerRule(must=(("hello",),))),
    )

    silent = await play((says("Hello!"),), task=quiet)
    busy = await play((says("", read(0)), says("Hello!")), task=quiet)

    assert (silent.process_accuracy, silent.end_to_end) == (1.0, True)
    assert (busy.process_accuracy, busy.failures) == (0.0, (FailureKind.OVER_CHAINING,))


async def test_the_calls_marked_right_are_as_many_as_the_score_says() -> None:
    """The page's colours and its figures tell one story."""
    task = copy_task("t")
    script = (says("", read(1, "c0")), *WRONG_VALUE[:2], says("", write("milk", "c9")), RIGHT[2])
    trajectory = await run_episode(TaskModel({"t": script}), NoteTools(), task, limits=Limits())

    assert right_calls(task, trajectory) == (False, True, False, True)
    assert score_episode(task, trajectory).process_accuracy == 1.0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(0, 9))
def test_an_interval_holds_its_mean_and_stays_within_the_values(
    accuracies: list[float], seed: int
) -> None:
    """An interval outside the data would be a bug that looks like a discovery."""
    found = summarise([row(f"t{i}", a) for i, a in enumerate(accuracies)], seed=seed)

    interval = found.process_accuracy
    assert min(accuracies) - 1e-9 <= interval.low <= interval.high <= max(accuracies) + 1e-9
    assert interval.low - 1e-9 <= interval.mean <= interval.high + 1e-9 or len(accuracies) > 1


@given(st.permutations([row(f"t{i}", i / 9) for i in range(10)]))
def test_a_summary_does_not_depend_on_the_order_of_the_rows(rows: list[EvalRow]) -> None:
    """Episodes end in any order; a report must not change with it."""
    assert summarise(rows) == summarise(sorted(rows, key=lambda one: one.task_id))


def test_the_interval_narrows_as_tasks_are_added() -> None:
    """More tasks, more certainty: by the square root."""

    def width(n: int) -> float:
        found = summarise([row(f"t{i:04}", float(i % 2)) for i in range(n)]).process_accuracy
        return found.high - found.low

    assert width(400) == pytest.approx(width(100) / 2, rel=0.2)
    assert width(100) == pytest.approx(2 * 1.96 * 0.05, rel=0.1)


def test_groups_and_mixes_add_up_to_the_whole() -> None:
    """Nothing is lost between the total and its parts."""
    rows = [
        row("a", 1.0, family="x", language="fr", seen_wording=True),
        row("b", 0.0, family="y", seen_wording=False, failures=(FailureKind.EARLY_ENDING,)),
        row("c", 0.5, family="y", worst_tier=Tier.FUZZY, tiers=(Tier.EXACT, Tier.FUZZY)),
    ]

    found = summarise(rows)

    assert {name: group.n for name, group in found.by_family.items()} == {"x": 1, "y": 2}
    assert found.by_family["y"].process_accuracy.mean == 0.25
    assert {name: group.n for name, group in found.by_wording.items()} == {"seen": 1, "new": 1}
    assert found.tier_mix == {"live": pytest.approx(2 / 3), "fuzzy": pytest.approx(1 / 3)}
    assert found.call_tiers == {"live": 2, "exact": 1, "fuzzy": 1}
    assert found.failures["early_ending"] == 1
    assert set(found.failures) == {kind.value for kind in SYMPTOMS}


def test_a_summary_survives_a_file() -> None:
    """Reports are drawn from what was written."""
    found = summarise([row("a"), row("b", 0.0)])

    assert msgspec.json.decode(msgspec.json.encode(found), type=EvalSummary) == found


def test_rows_of_two_models_do_not_make_one_summary() -> None:
    """An average over two models is a figure of neither."""
    with pytest.raises(DataError, match="mix evaluations"):
        summarise([row("a"), row("b", policy="other")])
    with pytest.raises(DataError, match="no task was scored"):
        summarise([])


def test_a_small_steady_gain_is_seen_through_large_differences_of_tasks() -> None:
    """Paired, a gain shows where two separate intervals overlap."""
    before = [row(f"t{i:03}", (i % 10) / 20) for i in range(100)]
    after = [row(f"t{i:03}", (i % 10) / 20 + 0.05) for i in range(100)]

    mean, low, high = paired_difference(before, after)

    assert (mean, low, high) == pytest.approx((0.05, 0.05, 0.05))
    assert summarise(before).process_accuracy.high > summarise(after).process_accuracy.low


def test_a_difference_is_taken_over_shared_tasks_only() -> None:
    """A task one side could not be scored on says nothing about the gain."""
    assert paired_difference([row("a", 0.0), row("b", 0.0)], [row("a", 1.0)])[0] == 1.0
    with pytest.raises(DataError, match="share no task"):
        paired_difference([row("a")], [row("b")])
