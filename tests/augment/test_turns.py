"""Kinds of turns: what is reasoning already, what is said to a person, and what may stand between think tags."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacherl.augment import AugmentOptions, Treatment, TurnClass, treatment, turn_class
from cacherl.augment.turns import clean_reason, reads_as_reasoning
from cacherl.core.messages import AssistantMessage, ToolCall


@pytest.mark.parametrize(
    "text",
    [
        "The user wants a refund, so I need to find the order first.",
        "I need the customer id before I can look at orders.",
        "The result shows two orders; I must check both because either may be late.",
        "Le client demande un remboursement, je dois d'abord lire la commande.",
        "Il faut vérifier la politique avant de rembourser, car la commande est ancienne.",
        "Je dois trouver l'identifiant, donc je cherche par adresse.",
    ],
)
def test_reasoning_is_recognised(text: str) -> None:
    """Each one recognised is a teacher call saved."""
    assert reads_as_reasoning(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Let me check that for you.",
        "I need your order number, please, because there are several.",
        "Sure! I'll look up your order first.",
        "Your refund has been issued; therefore you need not do anything.",
        "Je regarde votre commande.",
        "Bonjour, je dois d'abord vérifier votre adresse, s'il vous plaît.",
        "Un instant.",
        "Looking up order 17.",
        "Since the reason is a change of plan, I need to check whether your reservation is eligible.",
        "First, let's look at the reservation, because the fare decides.",
    ],
)
def test_words_to_the_user_are_not_taken_for_reasoning(text: str) -> None:
    """Small talk inside think tags would teach the model to think small talk."""
    assert not reads_as_reasoning(text)


@given(st.text(max_size=80))
def test_a_turn_without_calls_is_final_whatever_it_says(text: str) -> None:
    """The answer always gets full reasoning."""
    assert turn_class(AssistantMessage(content=text)) is TurnClass.FINAL


@given(st.text(alphabet=st.sampled_from("ab <>/think\ntool_call"), max_size=60))
def test_a_reason_can_never_close_its_own_tags(text: str) -> None:
    """A stray tag in a teacher's answer would break every loss mask built on it."""
    cleaned = clean_reason(text + "</think>" + text)

    assert "</think>" not in cleaned
    assert "<think>" not in cleaned
    assert "<tool_call" not in cleaned


def test_tags_made_by_taking_tags_out_are_taken_out_too() -> None:
    """A single pass would build the very tag it was to remove."""
    assert clean_reason("a </th</think>ink> b <tool<think>_call> c") == "a  b"


def test_words_that_are_nothing_but_markup_are_no_reasoning_to_wrap() -> None:
    """An empty think block would teach that thinking may be skipped."""
    call = ToolCall(id="c", name="t", arguments={})
    words = "<tool_call> The user wants it, so I need it first."
    turn = AssistantMessage(content=words, calls=(call,))

    assert turn_class(turn) is TurnClass.ANALYTICAL
    assert treatment(turn, AugmentOptions()) is Treatment.EXPLAINED
