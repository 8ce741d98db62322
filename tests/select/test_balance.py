"""Balance: diversity survives, bounds hold, and the order of the file decides nothing."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cacherl.core.tasks import Task
from cacherl.core.trajectories import Trajectory
from cacherl.select import Selection, SelectOptions, Verdict
from cacherl.select.balance import effective_number, length_of
from tests.select.sample import SCORERS, choose, made, make_task

TOOLS = ("look", "find", "rare", "odd")


def several(
    rows: Sequence[tuple[int, tuple[int, ...], float, str]],
) -> tuple[list[Task], list[Trajectory]]:
    tasks = [make_task(f"t{n}", family=f"f{n % 3}") for n in range(12)]
    trajectories = [
        made(
            f"t{n}",
            rollout=i,
            tools=tuple(TOOLS[t] for t in tools),
            process=process,
            answer=answer,
        )
        for i, (n, tools, process, answer) in enumerate(rows)
    ]
    return tasks, trajectories


rows = st.lists(
    st.tuples(
        st.integers(0, 11),
        st.lists(st.sampled_from([0, 0, 0, 1, 1, 2, 3]), max_size=5).map(tuple),
        st.sampled_from([0.2, 0.6, 0.9, 1.0, 1.0, 1.0]),
        st.sampled_from(["done", "done", "done", "no"]),
    ),
    max_size=30,
)
options = st.builds(
    SelectOptions,
    per_task=st.integers(1, 3),
    near_duplicates=st.sampled_from([0.0, 0.7]),
    combine=st.booleans(),
    tool_floor=st.integers(0, 4),
    family_floor=st.integers(0, 4),
    length_floor=st.integers(0, 3),
    family_ceiling=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    tool_ceiling=st.sampled_from([0.0, 0.3, 1.0, 2.0]),
    length_ceiling=st.sampled_from([0.0, 0.5, 1.0]),
    seed=st.integers(0, 3),
)


@given(rows, options)
@settings(max_examples=100)
def test_no_tool_is_lost_that_the_scores_alone_would_keep(
    made_of: Any, chosen: SelectOptions
) -> None:
    """Every balance exists for diversity: whatever is asked for, it may not take a tool away."""
    tasks, trajectories = several(made_of)
    alone = SelectOptions(
        per_task=chosen.per_task, combine=False, tool_floor=0, family_floor=0, family_ceiling=0
    )

    balanced = choose(tasks, trajectories, SCORERS, chosen)

    assert set(choose(tasks, trajectories, SCORERS, alone).after.tools) <= set(balanced.after.tools)
    assert balanced.considered == sum(balanced.by_verdict.values()) == len(trajectories)
    assert balanced.kept == sum(judgement.kept for judgement in balanced.judgements)


@given(rows, options, st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_the_order_of_the_file_decides_nothing(
    made_of: Any, chosen: SelectOptions, draw: random.Random
) -> None:
    """Concurrent recording writes in any order; the training set must not depend on it."""
    tasks, trajectories = several(made_of)
    shuffled = trajectories[:]
    draw.shuffle(shuffled)

    def verdicts(selection: Selection) -> dict[tuple[str, int], Verdict]:
        return {(j.task_id, j.rollout): j.verdict for j in selection.judgements}

    first = choose(tasks, trajectories, SCORERS, chosen)
    assert verdicts(first) == verdicts(choose(tasks, shuffled, SCORERS, chosen))


@given(rows, st.integers(0, 4))
@settings(max_examples=80)
def test_what_may_return_returns_until_the_floor(made_of: Any, floor: int) -> None:
    """A tool stays rare only where nothing that may return has it."""
    tasks, trajectories = several(made_of)
    chosen = SelectOptions(tool_floor=floor, family_floor=0, family_ceiling=0)

    selection = choose(tasks, trajectories, SCORERS, chosen)

    solved = {j.task_id for j in selection.judgements if j.kept}
    for trajectory, judgement in zip(trajectories, selection.judgements, strict=True):
        waiting = judgement.verdict.may_return and judgement.score >= chosen.min_returned
        if waiting and judgement.task_id not in solved:
            used = {result.name for result in trajectory.results}
            assert all(selection.after.tools.get(tool, 0) >= floor for tool in used)


def test_without_combining_nothing_imperfect_is_kept() -> None:
    """`--no-combine` is the paper's v3: rejection sampling and nothing else."""
    tasks, trajectories = several([(0, (0,), 1.0, "done"), (1, (2,), 0.9, "done")])

    both = choose(tasks, trajectories, SCORERS, SelectOptions())
    alone = choose(tasks, trajectories, SCORERS, SelectOptions(combine=False))

    assert both.after.tools == {"look": 1, "rare": 1}
    assert alone.after.tools == {"look": 1} == alone.alone.tools
    assert alone.tools_lost == ("rare",)
    assert both.alone == alone.alone


def test_a_tool_ceiling_cuts_what_has_only_common_tools() -> None:
    """A look-up that everything begins with must not take the rare tools that follow it along."""
    tasks = [make_task(f"t{n}") for n in range(60)]
    trajectories = [made(f"t{n}", tools=("look",)) for n in range(50)]
    trajectories += [made(f"t{n}", tools=("look", "rare")) for n in range(50, 55)]
    trajectories += [made(f"t{n}", tools=("find",)) for n in range(55, 60)]
    chosen = SelectOptions(tool_floor=2, family_floor=0, family_ceiling=0, tool_ceiling=3.0)

    selection = choose(tasks, trajectories, SCORERS, chosen)

    assert selection.before.tools == {"find": 5, "look": 55, "rare": 5}
    assert selection.after.tools == {"find": 5, "look": 15, "rare": 5}
    assert selection.by_verdict["surplus_of_tool"] == 40
    assert selection.after.effective_tools > selection.before.effective_tools


def test_lengths_are_balanced_both_ways() -> None:
    """A set of two-call tasks teaches to stop after two calls (paper: over-chaining and early ending)."""
    tasks = [make_task(f"t{n}") for n in range(40)]
    trajectories = [made(f"t{n}", tools=("look",) * 2) for n in range(30)]
    trajectories += [made(f"t{n}", tools=("look",)) for n in range(30, 36)]
    trajectories += [made(f"t{n}", tools=("look",) * 7, process=0.8) for n in range(36, 40)]
    chosen = SelectOptions(
        tool_floor=0, family_floor=0, family_ceiling=0, length_floor=3, length_ceiling=2.0
    )

    selection = choose(tasks, trajectories, SCORERS, chosen)

    assert selection.alone.lengths == {"1": 6, "2": 30}
    assert selection.after.lengths == {"1": 6, "2": 12, "7-9": 3}
    assert selection.by_verdict["surplus_of_length"] == 18


def test_another_seed_cuts_others_and_the_same_seed_the_same() -> None:
    """A cut is a draw: it can be repeated, and drawn anew to see how much it matters."""
    tasks = [make_task(f"{f}{n}", family=f) for f in ("big", "small") for n in range(30)]
    trajectories = [made(f"big{n}") for n in range(30)] + [made(f"small{n}") for n in range(5)]

    def kept(seed: int) -> list[bool]:
        chosen = SelectOptions(tool_floor=0, family_floor=0, family_ceiling=0.5, seed=seed)
        return [j.kept for j in choose(tasks, trajectories, SCORERS, chosen).judgements]

    assert kept(0) == kept(0)
    assert kept(0) != kept(1)
    assert sum(kept(0)) == sum(kept(1))


@pytest.mark.parametrize(
    ("counts", "number"), [([5, 5, 5, 5], 4.0), ([7], 1.0), ([], 0.0), ([0, 3, 3], 2.0)]
)
def test_the_effective_number_counts_equally_common_things(
    counts: list[int], number: float
) -> None:
    """Sixteen tools of which one has nine calls in ten are not sixteen tools."""
    assert effective_number(counts) == pytest.approx(number)
    assert effective_number([90, *[1] * 10]) < 2


@given(st.integers(0, 200))
def test_every_length_has_one_name(calls: int) -> None:
    """The card's bars must add up."""
    name = length_of(calls)
    low, _, high = name.rstrip("+").partition("-")

    assert int(low) <= calls <= (math.inf if name.endswith("+") else int(high or low))
