"""Calls against gold calls: counted by pairing, compared by the reward's own notion of equality."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacherl.agent import run_episode
from cacherl.core.errors import DataError
from cacherl.core.messages import AssistantMessage, Call, MalformedCall, ToolCall
from cacherl.core.models import Limits
from cacherl.core.pairing import best_pairs
from cacherl.core.tasks import GoldCall, Task
from cacherl.core.tools import Effects, ToolSpec
from cacherl.core.trajectories import StopReason, Trajectory
from cacherl.metrics import EpisodeFacts, argument_fields, call_scores, episode_facts
from cacherl.metrics.calls import gold_counts
from cacherl.metrics.pairing import paired
from cacherl.reward.process import agreement
from tests.desk_of_two import RIGHT, NoteTools, TaskModel, copy_task, read, says, write

BOOK = ToolSpec(
    name="book",
    description="Book a table.",
    parameters={
        "type": "object",
        "properties": {
            "table_id": {"type": "string"},
            "seats": {"type": "integer"},
            "day": {"type": "string", "format": "date"},
            "area": {"type": "string", "enum": ["indoor", "terrace"], "default": "indoor"},
            "note": {"type": "string", "x-kind": "text"},
            "guests": {"type": "array", "items": {"type": "object"}},
        },
        "required": ["table_id"],
    },
    effects=Effects(writes=("table:{table_id}",)),
)
OTHER = ToolSpec(name="other", description="", parameters={"type": "object"})
SPECS = {"book": BOOK, "other": OTHER}


def made(name: str = "book", **arguments: Any) -> ToolCall:
    return ToolCall(id="x", name=name, arguments=arguments)


def gold(name: str = "book", **arguments: Any) -> GoldCall:
    return GoldCall(name=name, arguments=arguments)


# ---- pairing ---------------------------------------------------------------------------------


@given(
    st.integers(0, 4).flatmap(
        lambda rows: st.integers(0, 4).flatmap(
            lambda columns: st.lists(
                st.lists(
                    st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=columns, max_size=columns
                ),
                min_size=rows,
                max_size=rows,
            )
        )
    )
)
def test_pairs_are_the_best_there_are(worth: list[list[float]]) -> None:
    """Against every way to pair them."""
    rows, columns = len(worth), len(worth[0]) if worth else 0
    padded = [*range(columns), *[None] * rows]
    best = max(
        sum(worth[row][column] for row, column in enumerate(way) if column is not None)
        for way in itertools.permutations(padded, rows)
    )

    found = best_pairs(worth)

    assert sum(worth[row][column] for row, column in found) == pytest.approx(best)
    assert len({row for row, _ in found}) == len({column for _, column in found}) == len(found)


some_calls = st.lists(
    st.one_of(
        st.builds(made, table_id=st.sampled_from(["a", "b"]), seats=st.sampled_from([2, "2", 4])),
        st.just(made("other")),
        st.just(MalformedCall(id="x", text="{", problem="not JSON")),
    ),
    max_size=5,
)
some_gold = st.lists(
    st.one_of(
        st.builds(gold, table_id=st.sampled_from(["a", "b "]), seats=st.sampled_from([2, 4.0])),
        st.just(gold("other")),
    ),
    max_size=4,
)


@given(some_gold, some_calls)
def test_matched_calls_are_the_most_that_can_be_matched(
    wanted: list[GoldCall], calls: list[Call]
) -> None:
    """Multiset precision and recall by their definition, over the reward's equality."""

    def same(want: GoldCall, call: Call) -> bool:
        return (
            isinstance(call, ToolCall)
            and call.name == want.name
            and agreement(SPECS[want.name], call.arguments, want.arguments) == 1.0
        )

    padded = [*range(len(calls)), *[None] * len(wanted)]
    most = max(
        sum(c is not None and same(wanted[g], calls[c]) for g, c in enumerate(way))
        for way in itertools.permutations(padded, len(wanted))
    )

    found = paired(wanted, calls, SPECS)

    assert len(found.exact) == most
    everyone = [g for g, _ in (*found.exact, *found.near)] + list(found.missing)
    assert sorted(everyone) == list(range(len(wanted)))
    stood = [c for _, c in (*found.exact, *found.near)] + list(found.extra)
    assert sorted(stood) == list(range(len(calls)))
    for name in ("book", "other"):  # a tool has both missing and extra calls only if it has neither
        missing = [g for g in found.missing if wanted[g].name == name]
        extra = [c for c in found.extra if getattr(calls[c], "name", "") == name]
        assert not (missing and extra)


# ---- arguments -------------------------------------------------------------------------------


def verdicts(call: ToolCall, want: GoldCall) -> dict[str, tuple[str, str]]:
    found = argument_fields(BOOK, call.arguments, want.arguments)
    return {field.path: (field.kind.value, field.verdict) for field in found}


def test_every_value_has_its_kind_and_its_verdict() -> None:
    """`wrong argument` helps nobody; `wrong date` does."""
    found = verdicts(
        made(table_id="t-1", seats=3, day="2026-05-01", area="terrace", guests=[{"name": "Ann"}]),
        gold(
            table_id="t-1",
            seats=4,
            day="2026-05-02",
            note="by the window please",
            guests=[{"name": "Ann"}, {"name": "Bo"}],
        ),
    )

    assert found == {
        "table_id": ("id", "right"),
        "seats": ("number", "wrong"),
        "day": ("date", "wrong"),
        "area": ("enum", "wrong"),
        "note": ("text", "missing"),
        "guests[0].name": ("entity", "right"),
        "guests[1].name": ("entity", "missing"),
    }


def test_what_normalisation_undoes_is_no_slip() -> None:
    """A default written out, a number in quotes, other letter case of an enum: the same call to the cache."""
    found = verdicts(
        made(table_id="t-1", seats="4", area="Indoor", note="at the window, please"),
        gold(table_id="t-1", seats=4, note="please at the window"),
    )

    assert {verdict for _, verdict in found.values()} == {"right"}


@given(
    st.fixed_dictionaries(
        {"table_id": st.sampled_from(["a", "b"])},
        optional={
            "seats": st.sampled_from([1, 2, "2"]),
            "note": st.sampled_from(["x y z", "z y x", "q"]),
            "guests": st.lists(
                st.fixed_dictionaries({"name": st.sampled_from(["A", "B"])}), max_size=2
            ),
        },
    ),
    st.fixed_dictionaries(
        {"table_id": st.sampled_from(["a", "b"])},
        optional={
            "seats": st.sampled_from([1, 2]),
            "note": st.sampled_from(["x y z", "q"]),
            "guests": st.lists(
                st.fixed_dictionaries({"name": st.sampled_from(["A", "B"])}), max_size=2
            ),
        },
    ),
)
def test_all_fields_are_right_exactly_where_the_calls_agree(
    call: dict[str, Any], want: dict[str, Any]
) -> None:
    """One notion of equality for reward, process accuracy and argument accuracy."""
    fields = argument_fields(BOOK, call, want)

    assert all(field.verdict == "right" for field in fields) == (agreement(BOOK, call, want) == 1.0)


def test_invented_and_missing_names_are_counted_in_normal_form() -> None:
    """HammerBench's PN_FP and PN_FN."""
    found = gold_counts(
        [gold(table_id="a", seats=2, note="n")],
        [made(table_id="a", seats=2, day="2026-05-01", area="indoor")],
        SPECS,
    )

    assert (found.names_invented, found.names_missing) == (1, 1)
    assert (found.names_made, found.names_wanted) == (4, 4)
    assert (found.matched, found.named, found.aligned) == (0, 1, 1)


# ---- episodes --------------------------------------------------------------------------------


async def play(*script: AssistantMessage, task: Task | None = None) -> EpisodeFacts:
    task = task or copy_task("t")
    trajectory = await run_episode(
        TaskModel({"t": script}), NoteTools(), task, limits=Limits(max_turns=8)
    )
    return episode_facts(task, trajectory)


async def test_a_right_episode_counts_no_slip() -> None:
    """The baseline of every rate."""
    found = await play(*RIGHT)

    assert found.gold is not None
    assert (found.made, found.gold.wanted, found.gold.matched) == (2, 2, 2)
    assert (found.malformed, found.undeclared, found.misfits, found.format_errors) == (0, 0, 0, 0)


async def test_every_slip_is_counted_where_it_belongs() -> None:
    """A tool nobody offered, an argument nobody declared, text that is no call, an empty turn."""
    stray = ToolCall(id="s", name="send_mail", arguments={"to": "x"})
    odd = ToolCall(id="o", name="read_note", arguments={"number": 0, "deep": True})
    broken = MalformedCall(id="m", text="{", problem="not JSON")

    found = await play(
        says("", stray, odd), AssistantMessage(calls=(broken,)), says("", read(9)), says(" ")
    )

    assert (found.made, found.malformed, found.undeclared) == (4, 1, 1)
    assert (found.misfits, found.arguments, found.arguments_undeclared) == (1, 3, 1)
    assert found.error_results == 4
    assert (found.turns, found.format_errors) == (4, 2)


def test_a_turn_cut_off_is_a_format_error() -> None:
    """It never became a call or an answer."""
    cut = Trajectory(
        task_id="t",
        policy="m",
        messages=(says("I will now"),),
        results=(),
        stop=StopReason.TRUNCATED,
    )

    assert episode_facts(copy_task("t"), cut).format_errors == 1


async def test_figures_of_two_tasks_add_up() -> None:
    """Micro pools the calls, macro lets every task count once."""
    wandering = await play(
        says("", read(1)), says("", read(0)), says("", write("milk")), says("milk")
    )
    silent = await play(says("milk"))

    found = call_scores([wandering, silent], [True, False])

    assert found.calls_micro.precision is not None
    assert found.calls_micro.recall is not None
    assert found.calls_macro.precision is not None
    assert found.calls_macro.f1 is not None
    assert found.calls_micro.precision.value == pytest.approx(2 / 3)
    assert found.calls_micro.recall.value == pytest.approx(2 / 4)
    assert found.calls_macro.precision.n == 1  # the silent one called nothing
    assert found.calls_macro.f1.value == pytest.approx((4 / 5 + 0) / 2)
    assert found.relevance is not None
    assert (found.relevance.value, found.irrelevance) == (0.5, None)
    assert found.extra_calls is not None
    assert (found.turns.value, found.extra_calls.value) == (2.5, 0.5)
    assert found.hallucinated_tools is not None
    assert found.hallucinated_tools.value == 0.0
    assert found.hallucinated_tools.high > 0.5  # one task that called says little
    assert msgspec.json.decode(msgspec.json.encode(found), type=type(found)) == found


async def test_where_nothing_is_due_silence_is_right() -> None:
    """BFCL's irrelevance: no call that parses; one that does not parse is no call."""
    task = copy_task("t")
    assert task.gold is not None
    idle = msgspec.structs.replace(task, gold=msgspec.structs.replace(task.gold, calls=()))
    broken = MalformedCall(id="m", text="{", problem="not JSON")
    facts = [
        await play(says("No tool fits."), task=idle),
        await play(AssistantMessage(calls=(broken,)), says("No tool fits."), task=idle),
        await play(says("", read(0)), says("milk"), task=idle),
    ]

    found = call_scores(facts, [True, True, False])

    assert found.irrelevance is not None
    assert found.irrelevance.value == pytest.approx(2 / 3)
    assert found.relevance is None


async def test_recovery_is_success_after_an_error() -> None:
    """Of the tasks that met an error, not of all."""
    recovered = await play(says("", read(9)), *RIGHT)
    smooth = await play(*RIGHT)

    found = call_scores([recovered, smooth, recovered], [True, True, False])

    assert found.error_recovery is not None
    assert (found.error_recovery.value, found.error_recovery.n) == (0.5, 2)


async def test_trials_of_one_task_are_one_task() -> None:
    """Intervals stand on tasks, not on trials."""
    facts = [await play(*RIGHT)] * 6

    found = call_scores(facts, [True] * 6, task_ids=["a", "a", "a", "b", "b", "b"])

    assert found.calls_micro.recall is not None
    assert (found.episodes, found.calls_micro.recall.n, found.turns.n) == (6, 2, 2)


def test_nothing_scored_makes_no_figures() -> None:
    """An empty evaluation is a mistake, not a row of zeros."""
    with pytest.raises(DataError, match="0 episodes"):
        call_scores([], [])
