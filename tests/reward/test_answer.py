"""An answer is right when it says the right things, in either language, and nothing else counts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacherl.core.tasks import AnswerRule
from cacherl.reward.answer import answer_ok, answer_score, is_meta_reasoning, says


@pytest.mark.parametrize(
    ("text", "phrase", "said"),
    [
        ("The total is 42.", "42", True),
        ("The total is 142.", "42", False),
        ("The total is 42.5.", "42", False),
        ("The total is 42.00 EUR", "42", True),
        ("Total : 42,50 €", "42.5", True),
        ("Total: -42", "42", False),
        ("Items 10-42", "42", True),
        ("It costs 1,500 dollars", "1500", True),
        ("Cela coûte 1\u202f500\u00a0€", "1500", True),
        ("It costs 42,000", "42", False),
        ("Order A42", "42", False),
        ("Order ORD-1042 is late", "ORD-1042", True),
        ("Order ORD-10421 is late", "ORD-1042", False),
        ("Order #1042", "1042", True),
        ("code 007", "7", False),
        ("The room is unavailable", "available", False),
        ("It was refunded", "refund", True),
        ("L’annulation est faite", "l'annulation", True),
        ("ANNULÉE", "annulé", True),
        ("2024-05-01", "2024-05-01", True),
        ("at 14:30", "14:30", True),
        ("anything", "", False),
    ],
)
def test_phrases_match_as_whole_numbers_and_word_starts(text: str, phrase: str, said: bool) -> None:
    """42 inside 142 is another number; a plural or an ending is the same word."""
    assert says(text, phrase) is said


def test_the_score_is_the_share_of_groups_and_must_not_spoils_it() -> None:
    """Half an answer is worth half; a forbidden statement makes all of it worthless."""
    rule = AnswerRule(must=(("shipped", "expédiée"), ("Monday",)), must_not=("refund",))

    assert answer_score(rule, "It was shipped on Monday.") == 1.0
    assert answer_score(rule, "Expédiée hier.") == 0.5
    assert answer_score(rule, "Shipped on Monday, and a refund is due.") == 0.0
    assert not answer_ok(rule, "Expédiée hier.")


def test_silence_is_never_a_right_answer() -> None:
    """A rule without groups still asks that something be said."""
    assert answer_score(AnswerRule(), " \n") == 0.0
    assert answer_score(AnswerRule(), "Hello!") == 1.0


@given(
    st.lists(st.lists(st.text(max_size=6), max_size=3).map(tuple), max_size=4).map(tuple),
    st.text(max_size=40),
    st.text(max_size=10),
)
def test_saying_more_never_lowers_a_score_without_forbidden_words(
    must: tuple[tuple[str, ...], ...], text: str, more: str
) -> None:
    """The score is bounded and monotone in what is said (on a new line)."""
    rule = AnswerRule(must=must)
    before, after = answer_score(rule, text), answer_score(rule, f"{text} ; {more}")

    assert 0.0 <= before <= after <= 1.0


@pytest.mark.parametrize(
    "text",
    [
        "The user is asking about order 12, so I should look it up.",
        "Okay, the user wants a refund.",
        "I should respond with the order status.",
        "Let me think about how to answer this.",
        "We need to answer the question first.",
        "My final answer should mention the date.",
        "The assistant should apologise.",
        "L'utilisateur demande où est sa commande.",
        "Je dois répondre avec le statut.",
        "Il faut que je réponde poliment.",
        "Bon, ma réponse doit rester courte.",
    ],
)
def test_planning_an_answer_is_meta_reasoning(text: str) -> None:
    """The paper's third failure: the plan of an answer in place of the answer."""
    assert is_meta_reasoning(text)


@pytest.mark.parametrize(
    "text",
    [
        "Your order 12 was shipped on Monday.",
        "You should respond to the email before Friday.",
        "I will send you a confirmation.",
        "The user account ada@example.com is active.",
        "I have asked the user to reset the password.",
        "Let me know if you need anything else.",
        "Je vais envoyer une confirmation.",
        "Vous devez répondre au courriel avant vendredi.",
        "Votre réponse a été enregistrée.",
        "L'utilisateur ada@example.com est actif.",
        "I need to check with the warehouse and will call you back.",
        "I can't refund this order: policy allows refunds within 30 days.",
        "",
    ],
)
def test_answers_are_not_meta_reasoning(text: str) -> None:
    """A false alarm zeroes a good answer, which is worse than a miss."""
    assert not is_meta_reasoning(text)
