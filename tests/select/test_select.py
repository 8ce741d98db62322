"""Selecting: perfect ones are kept, rare tools are not lost, wrong worlds never come back."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacherl.core.errors import DataError, RecipeError
from cacherl.core.jsonl import read_jsonl
from cacherl.core.messages import MalformedCall
from cacherl.core.tasks import AnswerRule, Gold, Split
from cacherl.core.trajectories import StopReason, Trajectory
from cacherl.select import SelectOptions, Verdict, select
from tests.select.sample import GOLD, SCORERS, STRICT, choose, made, make_task, on_file


@pytest.mark.parametrize(
    ("trajectory", "verdict"),
    [
        (made("t"), Verdict.PERFECT),
        (made("t", state=None), Verdict.PERFECT),
        (made("t", stop=StopReason.MAX_TURNS), Verdict.BROKEN_OFF),
        (made("t", answer="I should answer that it is done"), Verdict.META_REASONING),
        (made("t", answer="  "), Verdict.EMPTY_ANSWER),
        (made("t", calls=(MalformedCall(id="c", text="x", problem="y"),)), Verdict.MALFORMED_CALL),
        (made("t", state="wrong"), Verdict.WRONG_STATE),
        (made("t", answer="no idea"), Verdict.WRONG_ANSWER),
        (made("t", process=0.5), Verdict.IMPERFECT_PROCESS),
    ],
)
def test_each_rejection_has_its_reason(trajectory: Trajectory, verdict: Verdict) -> None:
    """The report shows why data was thrown away; a count alone would hide a broken verifier."""
    selection = choose([make_task("t")], [trajectory], SCORERS, STRICT)

    assert selection.judgements[0].verdict is verdict
    assert selection.kept == (verdict is Verdict.PERFECT)


@pytest.mark.parametrize(
    ("judged", "verdict"),
    [
        ((5, 5, 4), Verdict.PERFECT),
        ((4,), Verdict.PERFECT),
        ((4, 4, 3), Verdict.LOW_JUDGED),
        ((), Verdict.UNSCORED),
        (None, Verdict.UNSCORED),
    ],
)
def test_without_gold_a_judge_decides(judged: tuple[int, ...] | None, verdict: Verdict) -> None:
    """Own tasks have no gold calls; nothing unscored slips into the training set."""
    selection = choose([make_task("t", gold=None)], [made("t", judged=judged)], SCORERS, STRICT)

    assert selection.judgements[0].verdict is verdict


def test_the_best_and_shortest_solution_of_a_task_is_kept() -> None:
    """A detour that ends well is still a detour."""
    trajectories = [
        made("t", rollout=0, tools=("look", "look", "look")),
        made("t", rollout=1, tools=("look",)),
        made("t", rollout=2, tools=("look", "fly"), process=0.9),
    ]

    selection = choose([make_task("t")], trajectories, SCORERS, STRICT)

    assert [j.verdict for j in selection.judgements] == [
        Verdict.SURPLUS_OF_TASK,
        Verdict.PERFECT,
        Verdict.IMPERFECT_PROCESS,
    ]


def test_the_same_lesson_is_kept_once() -> None:
    """Generators repeat themselves under new ids; twenty copies are one lesson learnt twenty times."""
    tasks = [make_task("t1"), make_task("t2"), make_task("t3")]
    trajectories = [made("t1", said="same"), made("t2", said="same"), made("t3", said="other")]

    selection = choose(tasks, trajectories, SCORERS, STRICT)

    assert selection.by_verdict == {"duplicate": 1, "perfect": 2}


def test_a_tool_that_only_imperfect_trajectories_use_comes_back() -> None:
    """Scores alone lose tool diversity (paper: the combined set is worth +0.092)."""
    tasks = [make_task(f"t{n}") for n in range(6)]
    trajectories = [made(f"t{n}") for n in range(3)]
    trajectories += [
        made("t3", tools=("rare",), process=0.6),
        made("t4", tools=("rare",), process=0.9),
        made("t5", tools=("rare",), process=0.7),
    ]
    options = SelectOptions(tool_floor=2, family_floor=0, family_ceiling=0)

    selection = choose(tasks, trajectories, SCORERS, options)

    assert [j.task_id for j in selection.judgements if j.verdict is Verdict.RETURNED] == [
        "t4",
        "t5",
    ]
    assert selection.after.tools == {"look": 3, "rare": 2}
    assert choose(tasks, trajectories, SCORERS, STRICT).tools_lost == ("rare",)


@pytest.mark.parametrize(
    "bad",
    [
        made("t1", tools=("rare",), state="wrong"),
        made("t1", tools=("rare",), answer="I should answer done", process=0.9),
        made("t1", tools=("rare",), stop=StopReason.TRUNCATED),
        made("t1", tools=("rare",), process=0.0, answer="no", state=None),
    ],
)
def test_no_rarity_excuses_harm(bad: Trajectory) -> None:
    """A rare tool taught by an example that breaks the world is worse than an unknown tool."""
    selection = choose([make_task("t0"), make_task("t1")], [made("t0"), bad], SCORERS)

    assert not selection.judgements[1].kept
    assert selection.rare_tools == ("rare",)


def test_a_worse_solution_never_joins_a_perfect_one() -> None:
    """Two lessons for one task, one of them worse, teach the worse one half of the time."""
    trajectories = [made("t", rollout=0), made("t", rollout=1, tools=("rare",), process=0.9)]

    selection = choose([make_task("t")], trajectories, SCORERS)

    assert not selection.judgements[1].kept


def test_a_family_that_outgrew_the_others_is_cut_but_keeps_its_tools() -> None:
    """Balance must not undo what was returned for diversity."""
    families = {"big": 40, "a": 4, "b": 4}
    tasks, trajectories = [], []
    for family, count in families.items():
        for n in range(count):
            tasks.append(make_task(f"{family}{n}", family=family))
            tools = ("only_here",) if (family, n) == ("big", 0) else ("look",)
            trajectories.append(made(f"{family}{n}", tools=tools))
    options = SelectOptions(tool_floor=2, family_floor=2, family_ceiling=2.0)

    selection = choose(tasks, trajectories, SCORERS, options)

    assert selection.after.families == {"a": 4, "b": 4, "big": 8}
    assert selection.after.tools["only_here"] == 1
    assert selection.by_verdict["surplus_of_family"] == 32


@given(
    st.lists(
        st.tuples(
            st.integers(0, 5),
            st.sampled_from(["look", "rare", "other"]),
            st.sampled_from(["right", "wrong", None]),
            st.floats(0, 1),
            st.sampled_from(["done", "no", "I should answer done"]),
        ),
        max_size=20,
    )
)
def test_whatever_comes_in_nothing_wrong_goes_out(
    rows: list[tuple[int, str, str | None, float, str]],
) -> None:
    """The promise of the stage, for any input: counts add up, no wrong state, no meta-reasoning."""
    tasks = [make_task(f"t{n}", family=f"f{n % 2}") for n in range(6)]
    trajectories = [
        made(f"t{n}", rollout=i, tools=(tool,), state=state, process=process, answer=answer)
        for i, (n, tool, state, process, answer) in enumerate(rows)
    ]

    selection = choose(tasks, trajectories, SCORERS)

    assert selection.considered == len(rows) == sum(selection.by_verdict.values())
    assert selection.kept == sum(selection.after.families.values())
    kept = [t for t, j in zip(trajectories, selection.judgements, strict=True) if j.kept]
    assert all(t.final_state != "wrong" for t in kept)
    assert all("I should" not in str(t.messages[-1]) for t in kept)
    assert all(0.0 <= judgement.score <= 1.0 for judgement in selection.judgements)


def test_the_kept_are_on_file_in_the_order_they_came(tmp_path: Path) -> None:
    """The file is the training set; the summary is a record like any other."""
    tasks = {f"t{n}": make_task(f"t{n}") for n in range(5)}
    source = on_file(
        tmp_path / "all.jsonl",
        [made(f"t{n}", state="wrong" if n == 2 else "right") for n in range(5)],
    )
    out = tmp_path / "selected.jsonl"

    selection = select(tasks, source, out, scorers=SCORERS)

    assert [t.task_id for t in read_jsonl(out, Trajectory)] == ["t0", "t1", "t3", "t4"]
    again = msgspec.json.decode(msgspec.json.encode(selection), type=type(selection))
    assert again == selection


def test_an_empty_training_set_is_an_error_with_reasons(tmp_path: Path) -> None:
    """Training on nothing would fail an hour later, with a worse message."""
    source = on_file(tmp_path / "all.jsonl", [made("t", state="wrong")])

    with pytest.raises(DataError, match=r"none of 1 .*wrong_state 1.*best_of"):
        select({"t": make_task("t")}, source, tmp_path / "out.jsonl", scorers=SCORERS)

    assert not (tmp_path / "out.jsonl").exists()


def test_a_trajectory_of_an_unknown_task_is_named() -> None:
    """The wrong task file is a common slip."""
    with pytest.raises(DataError, match="'t9'"):
        choose([make_task("t")], [made("t9")], SCORERS)


# ---- what decides where no verifier knows ----------------------------------------------------


@pytest.mark.parametrize(
    ("noted", "verdict"),
    [(1.0, Verdict.PERFECT), (0.0, Verdict.LOW_NOTED), (None, Verdict.IMPERFECT_PROCESS)],
)
def test_a_score_of_the_data_set_decides_alone(noted: float | None, verdict: Verdict) -> None:
    """Its own verifier ran on the real world; ours compares with one of several right ways."""
    selection = choose([make_task("t")], [made("t", process=0.5, noted=noted)], SCORERS, STRICT)

    assert selection.judgements[0].verdict is verdict


@pytest.mark.parametrize(
    ("judged", "drop", "verdict"),
    [
        ((5, 5, 2), True, Verdict.CONTESTED),
        ((5, 5, 2), False, Verdict.PERFECT),
        ((5, 4, 3), True, Verdict.PERFECT),
    ],
)
def test_a_contested_score_is_flagged_and_can_be_refused(
    judged: tuple[int, ...], drop: bool, verdict: Verdict
) -> None:
    """A mean of 4 out of 5, 5 and 2 is a guess that happened to pass."""
    options = SelectOptions(max_spread=2, drop_contested=drop)

    judgement = choose([make_task("t", gold=None)], [made("t", judged=judged)], SCORERS, options)

    assert judgement.judgements[0].verdict is verdict
    assert judgement.judgements[0].contested == (max(judged) - min(judged) > 2)
    assert judgement.judgements[0].judged is not None
    assert judgement.judgements[0].judged.points == judged


def test_what_nothing_speaks_for_is_kept_only_when_asked() -> None:
    """Imported sets have no gold: training on them unseen is a choice, not an accident."""
    tasks = [make_task("t", gold=None)]

    dropped = choose(tasks, [made("t")], SCORERS, SelectOptions())
    kept = choose(tasks, [made("t")], SCORERS, SelectOptions(keep_unscored=True))

    assert dropped.judgements[0].verdict is Verdict.UNSCORED
    assert kept.judgements[0].verdict is Verdict.UNVERIFIED
    assert kept.kept == 1


def test_a_held_out_task_is_never_learnt_from() -> None:
    """A test task in the training set makes every later figure worthless."""
    task = make_task("t", split=Split.TEST)

    assert choose([task], [made("t")]).judgements[0].verdict is Verdict.HELD_OUT
    assert choose([task], [made("t")], options=SelectOptions(splits=frozenset(Split))).kept == 1


@pytest.mark.parametrize(
    ("gold", "known"),
    [
        (Gold(calls=(), answer=AnswerRule(), state="right"), {"process", "state"}),
        (Gold(calls=(), answer=AnswerRule(must=(("done",),)), state=""), {"answer"}),
        (GOLD, {"process", "answer", "state"}),
    ],
)
def test_gold_that_says_nothing_of_a_part_does_not_judge_it(gold: Gold, known: set[str]) -> None:
    """An imported gold without a state would else reject every world, one without a rule praise every answer."""
    judgement = choose([make_task("t", gold=gold)], [made("t")]).judgements[0]

    assert {n for n in ("process", "answer", "state") if getattr(judgement, n) is not None} == known
    assert judgement.verdict is Verdict.PERFECT


def test_options_out_of_range_are_refused_before_any_work() -> None:
    """`--near-duplicates 90` means 0.9, and silently keeps everything."""
    with pytest.raises(RecipeError, match=r"near_duplicates = 90"):
        SelectOptions(near_duplicates=90)
