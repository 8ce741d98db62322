"""ACEBench's verdicts on the same answers, oddities included.

The normal checker was compared with the public one over 200,000 random schemas, golds and answers (36,075 of
them right): no difference wherever the public one gives a verdict. These tests pin what decides scores.
"""

from __future__ import annotations

from typing import Any

import pytest

from cacherl.suites.acebench.checkout import Row
from cacherl.suites.acebench.verdicts import (
    dialogue_accuracy,
    end_state_problem,
    normal_problem,
    special_problem,
)


def row(
    category: str, truth: Any, *, properties: Any = None, names: tuple[str, ...] = ("f",)
) -> Row:
    functions = tuple(
        {
            "name": name,
            "parameters": {"type": "dict", "required": [], "properties": properties or {}},
        }
        for name in names
    )
    return Row(
        category=category,
        id="r_0",
        question="",
        functions=functions,
        initial_config={},
        classes=(),
        ground_truth=truth,
        milestones=((),),
        has_alternatives=False,
    )


def right(text: str, truth: Any, **more: Any) -> bool:
    return normal_problem(row("normal_atom_bool", truth, **more), text) is None


@pytest.mark.parametrize(
    ("made", "is_right"),
    [
        ([{"A": {"on": True}}, {"B": {"list": {"1": "x"}}}], True),
        ([{"B": {"list": {"1": "x"}}}, {"A": {"on": True}}], True),
        (
            [{"A": {"on": True}}, {"B": {"list": {"1": "x", "2": "more"}}}],
            True,
        ),  # extra keys are free
        ([{"A": {"on": True}}, {"B": {"list": {"2": "x"}}}], False),
        ([{"A": {"on": False}}, {"B": {"list": {"1": "x"}}}], False),
        ([{"A": {"on": True, "lit": 1}}, {"B": {"list": {"1": "x"}}}], False),  # not in the gold
        ([{"A": {}}, {"B": {"list": {"1": "x"}}}], True),  # only the model's attributes are walked
        ([{"A": {"on": True}}], False),  # number of classes
        ([], False),
        ([{"A": {"on": True}}, {"C": {"list": {"1": "y"}}}], True),  # B is nobody's: unseen
    ],
)
def test_the_end_state_is_compared_as_acebench_compares_it(made: Any, is_right: bool) -> None:
    """End-to-end accuracy must mean what the published figure means."""
    gold: list[dict[str, Any]] = [{"A": {"on": True}}, {"B": {"list": {"1": "x"}}}]

    assert (end_state_problem(gold, made) is None) is is_right


def test_the_first_difference_is_told() -> None:
    """A person who looks at one failure wants the key, not a verdict."""
    said = end_state_problem([{"A": {"list": {"1": "x"}}}], [{"A": {"list": {"1": "y"}}}])

    assert said == "A.list.1: 'y', gold 'x'"


TEXT, COUNT, FLAG = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}


def test_numbers_and_truths_are_compared_by_type_alone() -> None:
    """The largest oddity of the official normal score: 5 passes for 7."""
    shape = {"n": COUNT, "b": FLAG, "e": {"type": "enum"}}
    gold = {"f": {"n": 7, "b": True, "e": "north"}}

    assert right("[f(n=5, b=False, e='south')]", gold, properties=shape)
    assert not right("[f(n='5', b=False, e='south')]", gold, properties=shape)


def test_a_gold_text_need_only_occur() -> None:
    """Case, spaces and some signs are dropped, and more words are free."""
    shape = {"t": TEXT}

    assert right("[f(t='in New-York, please')]", {"f": {"t": "new york"}}, properties=shape)
    assert not right("[f(t='york')]", {"f": {"t": "new york"}}, properties=shape)


def test_calls_are_counted_by_tool_and_need_no_order() -> None:
    """Parallel calls: the numbers behind names only tell them apart."""
    gold = {"f_1": {"t": "a"}, "f_2": {"t": "b"}}

    assert right("[f(t='b'), f(t='a')]", gold, properties={"t": TEXT})
    assert not right("[f(t='a')]", gold, properties={"t": TEXT})
    assert not right("[f(t='a'), f(t='a')]", gold, properties={"t": TEXT})
    assert right(
        "[f(t='ab'), f(t='c')]", {"f_1": {"t": "a"}, "f_2": {"t": "b"}}, properties={"t": TEXT}
    )


def test_one_of_several_golds_is_enough() -> None:
    """Some rows list alternatives."""
    gold = [{"f": {"t": "a"}}, {"f": {"t": "b"}}]

    assert right("[f(t='b')]", gold, properties={"t": TEXT})
    assert not right("[f(t='c')]", gold, properties={"t": TEXT})


def test_golds_that_nothing_can_match_stay_unmatched() -> None:
    """They cost the same points as in the published figures."""
    assert not right("[f(l=[])]", {"f": {"l": []}}, properties={"l": {"type": "array"}})
    assert not right("[f()]", {"f": {}})


@pytest.mark.parametrize("text", ["", "Sure!", "f(t='a')", "[f(t='a')", "[1]"])
def test_what_is_no_list_of_calls_is_wrong(text: str) -> None:
    """A sentence, a bare call, a torn list."""
    assert not right(text, {"f": {"t": "a"}}, properties={"t": TEXT})


def test_special_rows_look_for_letters() -> None:
    """The three sentences, and what was missing or wrong, wherever they stand."""
    missing = row("special_incomplete", {"order": ["item", "count"]})
    wrong = row("special_error_param", {"stars": ["-7"]})
    beyond = row("special_irrelevant", {})

    assert (
        special_problem(missing, "Missing necessary parameters (item, count) for the api (order)")
        is None
    )
    assert special_problem(missing, "Missing necessary parameters (item) for the api (order)")
    assert (
        special_problem(wrong, "There is incorrect value (-7) for the parameters (stars)") is None
    )
    assert special_problem(wrong, "There is incorrect value (7)")
    assert special_problem(beyond, "Due to the limitations of the function, I cannot.") is None
    assert special_problem(beyond, "I cannot.")


def test_dialogues_are_counted_whole_and_by_their_turns() -> None:
    """Two figures with the names of the agent ones and another meaning."""
    verdicts = {"d_0_0": True, "d_0_1": True, "d_1_0": True, "d_1_1": False, "d_1_2": False}

    assert dialogue_accuracy(verdicts) == (0.5, 0.666)
    with pytest.raises(ValueError, match="no turn"):
        dialogue_accuracy({})
