"""Process accuracy: ACEBench's, to the bit, and the one that skips."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacherl.core.messages import Call, MalformedCall, ToolCall
from cacherl.core.tasks import GoldCall
from cacherl.core.tools import ToolSpec
from cacherl.metrics import acebench_official, acebench_official_mean, milestone_recall
from cacherl.reward.process import matched_gold_calls, process_accuracy
from tests.desk_of_two import READ, WRITE, copy_task

GOLD = ["[login(user='a')]", "[get(id='1')]", "[send(to='b')]"]
SPECS = {"read_note": READ, "write_note": WRITE}


def official(milestones: list[Any], sent: list[str]) -> float:
    return acebench_official(milestones, sent, end_state_right=False)


def as_the_official_loop_counts(stones: list[str], sent: list[str]) -> float:
    """The loop of `agent_eval_process`, with its index that is never restored."""
    if not stones:
        return 1.0
    met, index = 0, 0
    for stone in stones:
        while index < len(sent):
            index += 1
            if sent[index - 1].strip() == stone.strip():
                met += 1
                break
    return met / len(stones)


few = st.lists(st.sampled_from(["a", "b", " a ", "c"]), max_size=6)


@given(few, few)
def test_the_official_figure_is_the_official_loop(stones: list[str], sent: list[str]) -> None:
    """A figure under ACEBench's name must be ACEBench's."""
    assert official(stones, sent) == as_the_official_loop_counts(stones, sent)


@given(few, few)
def test_the_official_figure_is_a_prefix(stones: list[str], sent: list[str]) -> None:
    """The longest prefix of the milestones that occurs in order: what the loop amounts to."""

    def occurs(prefix: list[str]) -> bool:
        left = iter(sent)
        return all(any(m.strip() == stone.strip() for m in left) for stone in prefix)

    longest = max(k for k in range(len(stones) + 1) if occurs(stones[:k]))
    assert official(stones, sent) == (longest / len(stones) if stones else 1.0)


def test_gold_without_its_first_call_scores_nothing() -> None:
    """Prefix, not recall."""
    assert official(GOLD, GOLD[1:]) == 0.0


def test_gold_without_a_middle_call_scores_what_came_before() -> None:
    """A missed milestone is never skipped."""
    assert official(GOLD, [GOLD[0], GOLD[2]]) == 1 / 3


@pytest.mark.parametrize(
    "sent", ['[login(user="a")]', "[login(user = 'a')]", "[login( user='a')]", "login(user='a')"]
)
def test_quotes_and_spaces_matter(sent: str) -> None:
    """The same call in other letters is another string."""
    assert official(GOLD[:1], [sent]) == 0.0


def test_spaces_around_a_message_do_not_matter() -> None:
    """Both sides are stripped."""
    assert official(GOLD[:1], ["  [login(user='a')]\n"]) == 1.0


def test_parallel_calls_in_one_message_score_nothing() -> None:
    """One string that holds two calls equals neither."""
    assert official(GOLD[:2], ["[login(user='a'), get(id='1')]"]) == 0.0


def test_the_best_alternative_counts_rounded() -> None:
    """Alternatives are rounded before the mean, a single list is not: so it is in the official file."""
    assert official([["x", "y", "z"], GOLD], GOLD[:1]) == 0.333
    assert official(GOLD, GOLD[:1]) == 1 / 3


def test_an_empty_list_of_milestones_is_met() -> None:
    """Nothing to do was done."""
    assert official([], ["x"]) == official([["a"], []], []) == 1.0


def test_a_right_end_state_is_all_that_counts() -> None:
    """Whatever way led there."""
    assert acebench_official(GOLD, [], end_state_right=True) == 1.0


def test_the_mean_is_rounded_to_three_digits() -> None:
    """As published."""
    assert acebench_official_mean([1 / 3, 1.0, 0.0]) == 0.444


# ---- recall ----------------------------------------------------------------------------------

made = st.lists(
    st.sampled_from(
        [
            ToolCall(id="x", name="read_note", arguments={"number": 0}),
            ToolCall(id="x", name="read_note", arguments={"number": "0"}),
            ToolCall(id="x", name="read_note", arguments={"number": 1}),
            ToolCall(id="x", name="write_note", arguments={"text": "milk"}),
            MalformedCall(id="x", text="{", problem="not JSON"),
        ]
    ),
    max_size=6,
)
stones = st.lists(
    st.sampled_from(
        [
            GoldCall(name="read_note", arguments={"number": 0}),
            GoldCall(name="read_note", arguments={"number": 1.0}),
            GoldCall(name="write_note", arguments={"text": " milk"}),
        ]
    ),
    max_size=4,
)


def longest(gold: list[GoldCall], calls: list[Call]) -> int:
    """The definition, by trying everything."""
    if not gold or not calls:
        return 0
    both = longest(gold[:-1], calls[:-1])
    task = copy_task("t")
    one = process_of(task, gold[-1:])
    if matched_gold_calls(one, calls[-1:]):
        both += 1
    return max(both, longest(gold[:-1], calls), longest(gold, calls[:-1]))


def process_of(task: Any, gold: list[GoldCall]) -> Any:
    steps = tuple(msgspec.structs.replace(call, step=n) for n, call in enumerate(gold))
    return msgspec.structs.replace(task, gold=msgspec.structs.replace(task.gold, calls=steps))


@given(stones, made)
def test_recall_is_the_longest_common_subsequence(gold: list[GoldCall], calls: list[Call]) -> None:
    """What the official figure is often taken for."""
    found = milestone_recall([gold], calls, SPECS)

    assert found == (longest(gold, calls) / len(gold) if gold else float(not calls))


@given(stones, made)
def test_recall_agrees_with_the_process_accuracy_of_training(
    gold: list[GoldCall], calls: list[Call]
) -> None:
    """One notion of equality: what earns reward is what evaluation counts."""
    from cacherl.core.messages import AssistantMessage
    from cacherl.core.trajectories import StopReason, Trajectory

    trajectory = Trajectory(
        task_id="t",
        policy="m",
        messages=(AssistantMessage(calls=tuple(calls)),),
        results=(),
        stop=StopReason.ANSWER,
    )
    task = process_of(copy_task("t"), gold)

    assert milestone_recall([gold], calls, SPECS) == process_accuracy(task, trajectory)


def test_recall_takes_the_best_alternative_and_skips() -> None:
    """Where the official figure is 0, three of four calls were right."""
    gold = [GoldCall(name="f", arguments={"n": n}) for n in range(4)]
    calls = [ToolCall(id="x", name="f", arguments={"n": n}) for n in (1, 2, 3)]
    spec = {"f": ToolSpec(name="f", description="", parameters={"type": "object"})}

    assert milestone_recall([gold[:1], gold], calls, spec) == 0.75
