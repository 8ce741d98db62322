"""Reasoning that knows a result before the call: what is found, what is let through, and where it ends."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacherl.agent import run_episode
from cacherl.augment import leaks
from cacherl.core.messages import AssistantMessage, Message, ToolCall, ToolMessage, UserMessage
from cacherl.core.models import Limits
from cacherl.core.tasks import Split
from cacherl.core.tools import ToolSpec
from cacherl.worlds.desk import DeskExpert, DeskWorld, explain

BEFORE: tuple[Message, ...] = (UserMessage(content="Move my booking for Mia Li, ref HX-204."),)
TURN = AssistantMessage(calls=(ToolCall(id="c", name="find", arguments={"ref": "HX-204"}),))
FOUND = {
    "reservation": "ZFA04Y",
    "owner": "Renée Dupont",
    "total": 1234.0,
    "paid": 87,
    "mail": "renee@example.org",
    "day": "2024-05-16",
    "note": "the gate closes twenty minutes before the plane departs from the terminal",
}
AFTER: tuple[Message, ...] = (
    ToolMessage(call_id="c", name="find", content=json.dumps(FOUND)),
    AssistantMessage(content="Booking ZFA04Y is moved, and 42 seats are left."),
)


@pytest.mark.parametrize(
    ("reason", "found"),
    [
        ("The reservation ZFA04Y has to be read.", ["ZFA04Y"]),
        ("I look for zfa04y.", ["zfa04y"]),
        ("The fare of $1,234.00 is known.", ["1,234.00"]),
        ("Le total est de 1234,00 euros.", ["1234,00"]),
        ("It belongs to Renée Dupont.", ["Renée Dupont"]),
        ("I write to renee@example.org.", ["renee@example.org"]),
        ("They fly on 2024-05-16.", ["2024-05-16"]),
        (
            "I know the gate closes twenty minutes before the plane departs.",
            ["the gate closes twenty minutes before the plane", None],
        ),
    ],
)
def test_a_value_that_only_the_result_shows_is_found(reason: str, found: list[str | None]) -> None:
    """Ids, numbers however written, addresses, dates, names, quotations."""
    leaked = leaks(reason, BEFORE, TURN, AFTER)

    assert leaked[: len(found) - found.count(None)] == tuple(x for x in found if x is not None)


@pytest.mark.parametrize(
    "reason",
    [
        "",
        "The user wants HX-204 moved for Mia Li, so I find it.",
        "Mia Li's booking is hx-204; the tool takes the ref.",
        "I find the reservation, because its owner and its total are not known yet.",
        "There may be 87 or 42 of them.",  # too short to tell
        "The booking 99999 is not it.",  # wrong, but not from the future
    ],
)
def test_what_was_known_or_stands_nowhere_is_let_through(reason: str) -> None:
    """Each false alarm costs a question, two of them a trajectory."""
    assert leaks(reason, BEFORE, TURN, AFTER) == ()


def test_what_the_tools_on_offer_say_was_known() -> None:
    """An enum in a schema is there before any call."""
    spec = ToolSpec(name="find", description="such as ZFA04Y", parameters={"type": "object"})

    assert leaks("Like ZFA04Y.", BEFORE, TURN, AFTER, [spec]) == ()


COSTS: tuple[Message, ...] = (
    UserMessage(content="I am Ana. Take card 128 first."),
    ToolMessage(
        call_id="b", name="cost", content='{"total": 375, "family": "Gómez", "first": "Ana"}'
    ),
)
LATER: tuple[Message, ...] = (
    ToolMessage(
        call_id="c", name="pay", content='{"rest": 247, "at": "10:00", "owner": "Ana Gómez"}'
    ),
    AssistantMessage(content="If there is anything else that I can do, just let me know."),
)


@pytest.mark.parametrize(
    "reason",
    [
        "Of 375 the card pays 128, so 247 are left.",
        "Ana Gómez pays.",
        "It is for 10:00.",
        "If there is anything else that I can do, just let me know.",
    ],
)
def test_what_can_be_worked_out_is_let_through(reason: str) -> None:
    """Found on the thoughts of a real model: arithmetic, names in parts, times, its own turns of phrase."""
    assert leaks(reason, COSTS, AssistantMessage(), LATER) == ()


def test_a_number_that_nothing_adds_up_to_is_found() -> None:
    """The operands have to be named, and known."""
    assert leaks("So 247 are left.", COSTS, AssistantMessage(), LATER) == ("247",)


def test_nothing_can_leak_into_the_last_turn() -> None:
    """An answer quotes the results that it rests on."""
    answer = AssistantMessage(content="Booking ZFA04Y is moved.")

    assert leaks("ZFA04Y is found, so I say so.", (*BEFORE, TURN, AFTER[0]), answer, ()) == ()


IDS = st.from_regex(r"[A-Z]{2}[0-9]{4}", fullmatch=True)


@given(known=st.lists(IDS, min_size=1, max_size=4), later=st.lists(IDS, min_size=1, max_size=4))
def test_an_id_leaks_exactly_where_nothing_had_shown_it(known: list[str], later: list[str]) -> None:
    """The promise, over all ways to share ids between before and after."""
    before = (UserMessage(content=f"About {', '.join(known)}."),)
    after = (ToolMessage(call_id="c", name="t", content=json.dumps(later)),)
    turn = AssistantMessage()

    for id_ in known:
        assert leaks(f"I look at {id_} now.", before, turn, after) == ()
    for id_ in later:
        expected = () if id_ in known else (id_,)
        assert leaks(f"I look at {id_} now.", before, turn, after) == expected


@given(st.text(max_size=60), st.text(max_size=60), st.text(max_size=60))
def test_any_text_is_judged_and_what_was_said_before_never_leaks(
    reason: str, before: str, after: str
) -> None:
    """Conversations hold anything at all."""
    later = (ToolMessage(call_id="c", name="t", content=after + reason),)

    leaks(reason, (UserMessage(content=before),), AssistantMessage(), later)
    assert leaks(reason, (UserMessage(content=f"{before} {reason}"),), TURN, later) == ()


def test_on_the_desk_honest_reasons_pass_and_dishonest_ones_do_not() -> None:
    """Measured on whole conversations with real tools: every script's reason, and each made to peep."""
    world, honest, peeped, caught = DeskWorld(), 0, 0, 0
    readers = {spec.name for spec in world.specs if not spec.effects.writes}
    for task in world.tasks(Split.TRAIN, count=40, seed=3):
        tools = world.open(task.scenario)
        played = run_episode(
            DeskExpert(), tools, task, limits=Limits(max_turns=12), seed=0, rollout=0
        )
        messages = asyncio.run(played).messages
        for place, turn in enumerate(messages):
            if not isinstance(turn, AssistantMessage):
                continue
            before, after = messages[:place], messages[place + 1 :]
            reason = explain(task, before, turn)
            assert leaks(reason, before, turn, after, task.tools) == ()
            honest += 1
            # What a writer answers says nothing new: it repeats the call.
            if any(getattr(call, "name", "") in readers for call in turn.calls):
                peeped += 1
                peep = f"{reason} {after[0].content}"
                caught += bool(leaks(peep, before, turn, after, task.tools))
    assert honest > 100
    assert caught > 0.95 * peeped, f"{caught} of {peeped}"
