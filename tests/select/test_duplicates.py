"""One lesson twice, and held-out tasks among the training tasks."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacherl.core.messages import ToolCall
from cacherl.select import HeldOutTexts, SelectOptions, Verdict
from cacherl.select.duplicates import (
    Alike,
    Sketcher,
    bands,
    done,
    likeness,
    runs,
    signature,
    words,
)
from tests.select.sample import choose, made, make_task

LONG = (
    "I ordered a green poncho three weeks ago and it has still not arrived at my new address in Lille, "
    "so please find out where the parcel is and, if it is lost, send another one with express shipping"
)


def exact_likeness(left: list[str], right: list[str]) -> float:
    a, b = runs(left, 3), runs(right, 3)
    return len(a & b) / len(a | b)


def test_a_sketch_estimates_the_likeness_it_stands_for() -> None:
    """Thresholds are said in Jaccard; a sketch that is off by more than its error selects something else."""
    draw, sketcher = random.Random(1), Sketcher()
    vocabulary = [f"w{n}" for n in range(400)]
    errors = []
    for _ in range(60):
        left = draw.choices(vocabulary, k=120)
        right = [word if draw.random() > 0.03 else draw.choice(vocabulary) for word in left]
        found = likeness(sketcher.of(left), sketcher.of(right))
        errors.append(found - exact_likeness(left, right))

    assert max(map(abs, errors)) < 0.16  # four standard deviations at likeness 0.7
    assert abs(sum(errors) / len(errors)) < 0.02


def test_the_index_finds_what_comparing_everything_finds() -> None:
    """Locality-sensitive hashing is a short cut, not another answer."""
    draw, sketcher = random.Random(2), Sketcher()
    vocabulary = [f"w{n}" for n in range(300)]
    texts = [draw.choices(vocabulary, k=80) for _ in range(40)]
    texts += [[*text[:-2], "other", "end"] for text in texts]
    sketches = [sketcher.of(text) for text in texts]
    alike = Alike(0.8)
    found, wanted = [], []
    for n, sketch in enumerate(sketches):
        hit = alike.find(sketch)
        found.append(hit[0] if hit else None)
        near = [(-likeness(sketch, sketches[m]), m) for m in range(n)]
        best = min(near, default=(0.0, 0))
        wanted.append(best[1] if -best[0] >= 0.8 else None)
        alike.add(n, sketch)

    assert found == wanted
    assert sum(hit is not None for hit in found) == 40


@given(st.floats(0.05, 1.0))
def test_a_text_at_the_threshold_is_found(threshold: float) -> None:
    """A short cut that misses a fifth of what it is asked for is not one; more alike is found more surely."""
    count, rows = bands(threshold)

    assert count * rows <= 128
    assert 1 - (1 - threshold**rows) ** count >= min(0.99, 1 - (1 - threshold) ** 128)


@given(st.text(max_size=80))
def test_words_are_compared_without_case_width_and_punctuation(text: str) -> None:
    """`Où EST ma commande ?` and `où est ma commande` ask the same."""
    assert words(text) == words(f"  {text} !")
    assert words(text.upper()) == words(text.upper().lower().upper())


def test_scripts_without_spaces_have_words() -> None:
    """Else two Chinese requests are either equal or have nothing in common."""
    assert words("我的订单在哪里") == list("我的订单在哪里")
    assert exact_likeness(words("我的订单现在在哪里呢"), words("我的订单现在在哪里")) > 0.7


def test_a_near_duplicate_leaves_the_better_one() -> None:
    """Twenty paraphrases of one request are one lesson; the one with the better score teaches it."""
    tasks = [make_task(f"t{n}") for n in range(3)]
    trajectories = [
        made("t0", said=LONG, process=0.9),
        made("t1", said=f"{LONG} please"),
        made("t2", said="Something else entirely, about a refund of order seven"),
    ]

    selection = choose(tasks, trajectories, options=SelectOptions(near_duplicates=0.9))

    verdicts = [j.verdict for j in selection.judgements]
    assert verdicts == [Verdict.NEAR_DUPLICATE, Verdict.PERFECT, Verdict.PERFECT]
    assert selection.judgements[0].duplicate_of == "t1#0"
    assert choose(tasks, trajectories).judgements[0].verdict is not Verdict.NEAR_DUPLICATE


def test_another_tool_is_another_lesson_however_alike_the_words() -> None:
    """Balance must not lose a tool to a likeness of words."""
    tasks = [make_task("t0"), make_task("t1")]
    trajectories = [made("t0", said=LONG), made("t1", said=LONG, tools=("rare",))]

    selection = choose(tasks, trajectories, options=SelectOptions(near_duplicates=0.5))

    assert selection.kept == 2


def test_another_id_in_a_short_request_is_another_lesson() -> None:
    """Generators fill templates: order 7 and order 8 are two tasks with two answers."""
    tasks = [make_task("t0"), make_task("t1")]
    said = "Hello, where is my order O-{}? Thanks a lot."
    trajectories = [made("t0", said=said.format(1234)), made("t1", said=said.format(5678))]

    assert choose(tasks, trajectories, options=SelectOptions(near_duplicates=0.9)).kept == 2


def test_a_duplicate_is_never_dropped_for_one_that_is_not_kept_itself() -> None:
    """A copy of a surplus solution would else take the lesson away from its own task too."""
    tasks = [make_task("t0"), make_task("t1")]
    trajectories = [
        made("t0", rollout=0, said="same"),
        made("t0", rollout=1, said="same", tools=("look", "look")),
        made("t1", rollout=0, said="same", tools=("look", "look")),
    ]

    selection = choose(tasks, trajectories)

    assert [j.verdict for j in selection.judgements] == [
        Verdict.PERFECT,
        Verdict.SURPLUS_OF_TASK,
        Verdict.PERFECT,
    ]


def test_the_signature_ignores_what_does_not_make_the_lesson() -> None:
    """Ids of calls and of tasks are drawn anew by every generator."""
    plain = made("t0", said="same")
    other_ids = made("t9", said="same", calls=(ToolCall(id="z", name="look", arguments={}),))
    other_arguments = made(
        "t0", said="same", calls=(ToolCall(id="z", name="look", arguments={"order": 1}),)
    )

    assert signature(plain) == signature(other_ids)
    assert signature(plain) != signature(other_arguments)
    assert done(other_arguments) == ["same", "look", "order", "1"]


# ---- held-out tasks --------------------------------------------------------------------------

HELD = [
    ("short", "Bonjour. Merci, je n'ai besoin de rien d'autre."),
    ("long", LONG),
    ("template", "Where is my order O-4711?"),
]


@pytest.mark.parametrize(
    ("said", "repeats"),
    [
        ("bonjour ! merci, je n'ai besoin de rien d'autre", "short: the same words"),
        (f"Hi there! {LONG}. Thank you so much, you are the best support in the world.", "long: "),
        (LONG.replace("green", "blue"), "long: "),
        (f"{' '.join(LONG.split()[:28])}; my neighbour wants a voucher for his own.", "long: "),
        (" ".join(reversed(LONG.split())), ""),
        ("Where is my order O-9999?", ""),
        ("", ""),
    ],
)
def test_a_held_out_text_is_found_in_training(said: str, repeats: str) -> None:
    """What a model has seen in training says nothing about what it can do."""
    found = HeldOutTexts(HELD).repeated_by(said)

    assert found.startswith(repeats)
    assert bool(found) == bool(repeats)


def test_the_wording_of_a_generator_is_no_contamination() -> None:
    """Held-out tasks of one template share runs of words with all of training, and none of the answers."""
    template = "Good morning, I would like to know as soon as possible where on earth my parcel {} has gone to"
    held = HeldOutTexts([(f"h{n}", template.format(f"P-{n}-X{n * 7}")) for n in range(50)])
    fresh = "I would like to know as soon as possible where on earth my sister's lost parcel is"

    assert held.repeated_by(fresh) == ""
    assert held.repeated_by(template.format("P-3-X21")) == "h3: the same words"


def test_what_repeats_a_held_out_task_is_dropped_and_says_why() -> None:
    """The report names the task, so that a person can look at both."""
    tasks = [make_task("t0"), make_task("t1")]
    trajectories = [made("t0", said=f"{LONG} please"), made("t1", said="another request")]

    selection = choose(tasks, trajectories, held_out=HeldOutTexts(HELD))

    assert [j.verdict for j in selection.judgements] == [Verdict.CONTAMINATED, Verdict.PERFECT]
    assert selection.judgements[0].overlap.startswith("long: ")
