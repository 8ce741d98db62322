"""The process reward must mean what evaluation reports, and pull GRPO towards it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacherl.core.messages import (
    AssistantMessage,
    Call,
    MalformedCall,
    Message,
    ToolCall,
    UserMessage,
)
from cacherl.core.records import JsonObject
from cacherl.core.tasks import AnswerRule, Gold, GoldCall, Split, Task
from cacherl.core.tools import ToolSpec
from cacherl.core.trajectories import StopReason, Trajectory
from cacherl.reward.process import (
    canonical,
    matched_gold_calls,
    process_accuracy,
    process_reward,
)


def spec(name: str) -> ToolSpec:
    return ToolSpec(
        name=name,
        description=name,
        parameters={
            "type": "object",
            "properties": {
                "n": {"type": "integer"},
                "level": {"type": "string", "enum": ["Low", "High"], "default": "Low"},
                "note": {"type": "string", "x-kind": "text"},
                "tags": {"type": "array", "items": {"type": "string"}, "x-unordered": True},
                "request": {"type": "string", "x-kind": "volatile"},
                "flag": {"type": "boolean"},
            },
            "required": ["n"],
        },
    )


TOOLS = (spec("a"), spec("b"), spec("c"))


def gold(name: str, n: int = 1, *, step: int = 0, **more: Any) -> GoldCall:
    return GoldCall(name=name, arguments={"n": n, **more}, step=step)


def call(name: str, n: Any = 1, **more: Any) -> ToolCall:
    return ToolCall(id="x", name=name, arguments={"n": n, **more})


def task(*calls: GoldCall, with_gold: bool = True) -> Task:
    return Task(
        id="t",
        split=Split.DEV,
        family="f",
        language="en",
        wording="w",
        scenario="s",
        namespace="n",
        system="",
        user_turns=("do it",),
        tools=TOOLS,
        gold=Gold(calls=calls, answer=AnswerRule(), state="") if with_gold else None,
    )


def episode(*calls: Call, answer: str = "done", stop: StopReason = StopReason.ANSWER) -> Trajectory:
    turns: list[Message] = [AssistantMessage(calls=(c,)) for c in calls]
    if stop is StopReason.ANSWER:
        turns.append(AssistantMessage(content=answer))
    return Trajectory(
        task_id="t",
        policy="p",
        messages=(UserMessage(content="do it"), *turns),
        results=(),
        stop=stop,
    )


MALFORMED = MalformedCall(id="x", text="{", problem="no JSON")
IN_ORDER = task(gold("a", step=0), gold("b", step=1), gold("c", step=2))


# ---- accuracy --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("calls", "matched"),
    [
        ([call("a"), call("b"), call("c")], 3),
        ([call("c"), call("b"), call("a")], 1),
        ([call("a"), call("x"), call("b"), MALFORMED, call("c")], 3),
        ([call("b"), call("c"), call("a")], 2),
        ([call("a", 2), call("b"), call("c")], 2),
        ([], 0),
    ],
)
def test_gold_calls_match_as_a_subsequence_in_order(calls: list[Call], matched: int) -> None:
    """Extra calls between right ones cost nothing here; a swapped order does."""
    assert matched_gold_calls(IN_ORDER, calls) == matched


def test_calls_of_one_step_may_come_in_any_order() -> None:
    """Parallel calls have no order, so none may be held against the model."""
    parallel = task(gold("a", step=0), gold("b", step=1), gold("b", 2, step=1), gold("c", step=2))

    right = matched_gold_calls(parallel, [call("a"), call("b", 2), call("b", 1), call("c")])
    split = matched_gold_calls(parallel, [call("b", 2), call("a"), call("b", 1), call("c")])

    assert (right, split) == (4, 3)


def test_one_made_call_covers_one_gold_call() -> None:
    """Asking twice is two calls where gold asks twice."""
    twice = task(gold("a", step=0), gold("a", step=0))

    assert matched_gold_calls(twice, [call("a")]) == 1


def test_a_step_rematches_when_a_pickier_gold_call_needs_the_call() -> None:
    """Loose text matches must not steal the only call that another gold call can use."""
    loose, strict = gold("a", note="alpha beta gamma"), gold("a", note="alpha beta")
    both = task(loose, strict)

    made = [call("a", note="alpha beta"), call("a", note="alpha beta gamma delta")]

    assert matched_gold_calls(both, made) == 2


@pytest.mark.parametrize(
    ("made", "same"),
    [
        ({"n": "1"}, True),
        ({"n": 1.0}, True),
        ({"n": 1, "level": "low"}, True),
        ({"n": 1, "level": None}, True),
        ({"n": 1, "request": "abc"}, True),
        ({"n": 1, "level": "High"}, False),
        ({"n": True}, False),
        ({"n": 2}, False),
        ({"n": 1, "flag": True}, False),
    ],
)
def test_arguments_are_compared_after_schema_normalisation(made: JsonObject, same: bool) -> None:
    """The same request in another spelling is the same request; another value is not."""
    one = task(gold("a"))

    assert matched_gold_calls(one, [ToolCall(id="x", name="a", arguments=made)]) == int(same)


def test_unordered_arrays_compare_as_sets_and_texts_by_their_words() -> None:
    """Only what the schema declares as free may differ."""
    one = task(gold("a", tags=["x", "y"], note="the parcel arrived broken"))

    good = call("a", tags=["y", "x"], note="Parcel arrived broken.")
    bad = call("a", tags=["y", "x"], note="customer wants a call back")

    assert matched_gold_calls(one, [good]) == 1
    assert matched_gold_calls(one, [bad]) == 0


def test_huge_numbers_written_as_text_stay_exact() -> None:
    """A 19-digit id must not become another one through a float."""
    assert canonical(spec("a"), {"n": "9007199254740993"}) == {
        "level": "Low",
        "n": 9007199254740993,
    }
    assert canonical(spec("a"), {"n": "nan"})["n"] == "nan"


def test_a_task_that_needs_no_call_is_right_only_without_one() -> None:
    """Restraint is a skill too."""
    assert process_accuracy(task(), episode()) == 1.0
    assert process_accuracy(task(), episode(call("a"))) == 0.0


def test_accuracy_without_gold_is_an_error() -> None:
    """A silent 0 or 1 would end up in a report."""
    with pytest.raises(ValueError, match="task t has no gold"):
        process_accuracy(task(with_gold=False), episode())


# ---- the reward ------------------------------------------------------------------------------


def test_a_perfect_episode_scores_one() -> None:
    """The top of the scale is reachable, and only there is nothing left to gain."""
    reward = process_reward(IN_ORDER, episode(call("a"), call("b"), call("c")))

    assert reward.total == 1.0
    assert reward.superfluous == 0.0


def test_an_early_ending_scores_below_every_attempt() -> None:
    """The paper's first failure: 42 % of rollouts answered at once. The reward must not like that."""
    early = process_reward(IN_ORDER, episode()).total

    assert early < process_reward(IN_ORDER, episode(call("a", 9))).total
    assert early < process_reward(IN_ORDER, episode(call("a"), MALFORMED)).total


def test_closer_arguments_score_higher_before_they_are_right() -> None:
    """Groups in which every rollout fails still need a direction."""
    one = task(gold("a", 5, level="High"))

    far = process_reward(one, episode(call("a", 1))).total
    near = process_reward(one, episode(call("a", 5))).total
    right = process_reward(one, episode(call("a", 5, level="High"))).total

    assert far < near < right


def test_leaked_thinking_and_unclosed_turns_cost() -> None:
    """Tags in the visible text break every client that shows it."""
    clean = process_reward(task(), episode(answer="fine"))
    leaked = process_reward(task(), episode(answer="hm </think> fine"))
    cut = process_reward(task(gold("a")), episode(call("a"), stop=StopReason.TRUNCATED))

    assert (clean.no_leaked_thinking, leaked.no_leaked_thinking) == (1.0, 0.0)
    assert leaked.total < clean.total
    assert cut.format == 0.0


def test_without_gold_format_schema_and_repeats_are_judged() -> None:
    """Imported conversations have no gold, and still show malformed and repeated calls."""
    free = task(with_gold=False)

    good = process_reward(free, episode(call("a"), call("b")))
    bad = process_reward(free, episode(call("a", "x"), MALFORMED, call("a", "x")))

    assert (good.tool, good.arguments, good.order) == (None, None, None)
    assert good.total == 1.0
    assert (bad.schema, bad.format) == (0.0, 0.75)
    assert bad.superfluous > 0.0


CALLS = st.one_of(
    st.just(MALFORMED),
    st.builds(call, st.sampled_from(["a", "b", "c", "nope"]), st.sampled_from([1, 2, "1", "x"])),
)
GOLDS = st.lists(
    st.builds(
        lambda name, n, step: gold(name, n, step=step),
        st.sampled_from(["a", "b", "c"]),
        st.sampled_from([1, 2]),
        st.integers(0, 3),
    ),
    max_size=5,
)


@given(st.lists(CALLS, max_size=8), GOLDS, st.sampled_from(list(StopReason)))
def test_every_part_stays_in_bounds(
    calls: list[Call], golds: list[GoldCall], stop: StopReason
) -> None:
    """A reward outside [0, 1] would dominate its group."""
    reward = process_reward(task(*golds), episode(*calls, stop=stop))

    values = [getattr(reward, name) for name in reward.__struct_fields__]
    assert all(value is not None and 0.0 <= value <= 1.0 for value in values)
    assert reward.order == process_accuracy(task(*golds), episode(*calls, stop=stop))


@given(st.lists(CALLS, max_size=6), GOLDS)
def test_one_more_matched_gold_call_always_pays(calls: list[Call], golds: list[GoldCall]) -> None:
    """The gradient of the reward points where process accuracy rises."""
    for want in golds:
        more = [*calls, ToolCall(id="x", name=want.name, arguments=want.arguments)]
        before, after = (process_reward(task(*golds), episode(*c)) for c in (calls, more))
        assert (after.order or 0.0) >= (before.order or 0.0)
        if (after.order or 0.0) > (before.order or 0.0):
            assert after.total > before.total


@given(st.lists(CALLS, max_size=4), GOLDS)
def test_repeating_a_perfect_solution_costs(calls: list[Call], golds: list[GoldCall]) -> None:
    """Over-chaining must not be free."""
    ordered = sorted(golds, key=lambda want: want.step)
    right = [ToolCall(id="x", name=want.name, arguments=want.arguments) for want in ordered]

    perfect = process_reward(task(*golds), episode(*right)).total
    padded = process_reward(task(*golds), episode(*right, *calls)).total

    assert perfect == 1.0
    assert padded < perfect or not calls


@given(st.permutations([call("a"), call("b"), call("b", 2), call("c")]))
def test_matching_agrees_with_brute_force(calls: list[Call]) -> None:
    """The dynamic programme is checked against the definition on every order of four calls."""
    import itertools

    golds = [gold("a", step=0), gold("b", step=1), gold("b", 2, step=1), gold("c", step=2)]
    best = 0
    for order in ([0, 1, 2, 3], [0, 2, 1, 3]):
        for size in range(5):
            for chosen in itertools.combinations(order, size):
                for places in itertools.combinations(range(4), size):
                    if all(
                        isinstance(calls[p], ToolCall)
                        and calls[p].name == golds[g].name  # type: ignore[union-attr]
                        and calls[p].arguments == golds[g].arguments  # type: ignore[union-attr]
                        for g, p in zip(chosen, places, strict=True)
                    ):
                        best = max(best, size)

    assert matched_gold_calls(task(*golds), calls) == best
