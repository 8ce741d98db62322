"""The card: every figure counted from the trajectories, every doubt said."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacherl.core.errors import DataError
from cacherl.core.messages import AssistantMessage, MalformedCall, ToolCall, UserMessage
from cacherl.core.tasks import Task
from cacherl.core.tools import ErrorClass
from cacherl.core.trajectories import Trajectory
from cacherl.select.card import Card, CardBuilder, costs_of, selection_facts
from cacherl.teacher.ledger import Ledger, Row
from tests.select.sample import choose, made, make_task

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
GITHUB = "ghp_" + "".join(random.Random(3).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=36))


def card_of(pairs: Iterable[tuple[Task, Trajectory]], **how: Any) -> Card:
    builder = CardBuilder(**how)
    for task, trajectory in pairs:
        builder.add(task, trajectory)
    return builder.build(name="set", made_at=NOON)


def one(trajectory: Trajectory, **task: Any) -> tuple[Task, Trajectory]:
    return make_task(trajectory.task_id, **task), trajectory


def noted(**notes: Any) -> Trajectory:
    return msgspec.structs.replace(made("t"), notes=notes)


def test_tools_are_counted_by_call_and_by_trajectory() -> None:
    """A tool called nine times in one trajectory is still seen once."""
    failed = made("t2", tools=("look",))
    failed = msgspec.structs.replace(
        failed,
        results=tuple(
            msgspec.structs.replace(r, is_error=True, error_class=ErrorClass.NOT_FOUND)
            for r in failed.results
        ),
    )
    card = card_of([one(made("t0", tools=("look", "rare", "rare"))), one(made("t1")), one(failed)])

    rows = {tool.name: (tool.calls, tool.trajectories, tool.errors) for tool in card.tools}
    assert rows == {"look": (3, 3, 1), "rare": (2, 1, 0)}
    assert [tool.name for tool in card.tools] == ["look", "rare"]
    assert sum(tool.share for tool in card.tools) == pytest.approx(1)
    assert card.tools_seen_once == ("rare",)
    assert card.error_classes == {"not_found": 1}
    assert any("rare" in warning.text for warning in card.warnings)


def test_tokens_are_counted_by_part_and_thinking_apart() -> None:
    """Thinking costs two to three times the latency (paper): a reader wants to see it."""
    trajectory = made("t", tools=("look",), said="four words are said")
    trajectory = msgspec.structs.replace(
        trajectory,
        messages=(*trajectory.messages[:-1], AssistantMessage(content="done", thinking="a b c")),
    )

    counted = card_of([one(trajectory)], count_tokens=lambda t: len(t.split()), tokenizer="words")
    guessed = card_of([one(trajectory)])

    assert counted.tokens.by_part | {"tools": 0} == {
        "tools": 0,
        "system": 0,
        "user": 4,
        "thinking": 3,
        "answers": 1,
        "calls": 1,
        "results": 0,
    }
    assert counted.tokens.counted_by == "words"
    assert not counted.tokens.estimated
    assert guessed.tokens.estimated
    assert guessed.tokens.counted_by.startswith("estimate")
    assert any(warning.kind == "tokens" for warning in guessed.warnings)
    assert not any(warning.kind == "tokens" for warning in counted.warnings)


def test_a_language_is_detected_only_where_nobody_says() -> None:
    """Imported rows say `und`; a recorded task knows its language, however short it is."""
    card = card_of(
        [
            one(made("t0", said="Où est ma commande ? Je ne l'ai pas reçue."), language="und"),
            one(made("t1", said="Where is my order? I have not received it."), language="und"),
            one(made("t2", said="4711"), language="und"),
            one(made("t3", said="Where is my order?"), language="fr"),
        ]
    )

    assert card.languages == {"fr": 2, "en": 1, "und": 1}
    assert card.languages_detected == 2


def test_licences_that_forbid_or_are_unknown_are_warned_of() -> None:
    """The owner of a non-commercial set is found out after the model is sold."""
    card = card_of(
        [
            (make_task("t"), noted(format="apigen-mt", licence="CC-BY-NC-4.0")),
            (make_task("t"), noted(format="openai", **{"from": "/data/mine.jsonl:17"})),
            (make_task("t"), noted(format="toucan", licence="Apache-2.0")),
            (make_task("t"), noted()),
        ]
    )

    rows = {(row.format, row.file, row.licence) for row in card.sources}
    assert rows == {
        ("apigen-mt", "", "CC-BY-NC-4.0"),
        ("openai", "mine.jsonl", None),
        ("toucan", "", "Apache-2.0"),
        ("recorded here", "", ""),
    }
    said = [warning.text for warning in card.warnings if warning.kind == "licence"]
    assert len(said) == 2
    assert any("CC-BY-NC-4.0" in text and "apigen-mt" in text for text in said)
    assert any("openai" in text and "Nobody said" in text for text in said)


def test_what_looks_like_a_secret_is_told_and_never_shown() -> None:
    """The card is what gets published."""
    leaky = made(
        "t",
        said=f"My key is {GITHUB}.",
        calls=(ToolCall(id="c0", name="login", arguments={"password": "hunter2hunter2"}),),
    )

    card = card_of([one(leaky)])

    places = {(place.kind, place.path) for place in card.secrets.places}
    assert places == {
        ("github_token", "messages[0]"),
        ("secret", "messages[1].password"),
    }
    assert card.warnings[0].kind == "secrets"
    plain = msgspec.json.encode(msgspec.structs.replace(card, examples=())).decode()
    assert GITHUB not in plain
    assert "hunter2" not in plain


def test_secrets_in_notes_prompts_and_tools_are_told_once() -> None:
    """A key in a system prompt is published with every row."""
    task = msgspec.structs.replace(make_task("t"), system=f"Call us with {GITHUB}.")

    card = card_of([(task, noted(comment=f"seen {GITHUB}")), (task, noted())])

    places = [(place.kind, place.path) for place in card.secrets.places]
    assert sorted(places) == [("github_token", "notes.comment"), ("github_token", "system")]


def test_an_example_does_not_show_a_secret_either() -> None:
    """It would be the first thing on the page."""
    leaky = made(
        "t",
        said=f"My key is {GITHUB}.",
        calls=(ToolCall(id="c0", name="login", arguments={"password": "hunter2hunter2"}),),
    )

    shown = msgspec.json.encode(card_of([one(leaky)]).examples).decode()

    assert "My key is" in shown
    assert GITHUB not in shown
    assert "hunter2" not in shown


def test_examples_are_few_differ_and_do_not_depend_on_the_order() -> None:
    """Six examples of one family show one family."""
    pairs = [one(made(f"t{n}"), family=f"f{n % 9}") for n in range(60)]
    shuffled = pairs[:]
    random.Random(1).shuffle(shuffled)

    examples = card_of(pairs).examples

    assert len(examples) == 6
    assert len({example.family for example in examples}) == 6
    assert card_of(shuffled).examples == examples


def test_the_judge_is_described_by_all_it_was_asked() -> None:
    """Agreement among the kept alone would look better than it is."""
    tasks = [make_task(f"t{n}", gold=None) for n in range(4)]
    judged: list[tuple[int, ...]] = [(5, 5, 5), (4, 4, 5), (0, 3, 1), (2, 2, 2)]
    selection = choose(tasks, [made(f"t{n}", judged=p) for n, p in enumerate(judged)])

    judge = selection_facts(selection, "openai:gpt-5").judge

    assert judge is not None
    assert (judge.conversations, judge.samples, judge.contested) == (4, 12, 1)
    assert judge.points == {"0": 0, "1": 1, "2": 1, "3": 0, "4": 1, "5": 1}
    assert judge.agreement is not None
    assert judge.agreement.trajectories == 4


def test_a_judge_that_disagrees_with_itself_is_warned_of() -> None:
    """Below two thirds its author draws no conclusions from alpha, not even tentative ones."""
    draw = random.Random(1)
    tasks = [make_task(f"t{n}", gold=None) for n in range(30)]
    random_judge = [
        made(f"t{n}", judged=tuple(draw.randint(0, 5) for _ in range(3))) for n in range(30)
    ]
    selection = choose(tasks, random_judge)
    builder = CardBuilder()
    builder.add(tasks[0], random_judge[0], selection.judgements[0])

    card = builder.build(name="set", made_at=NOON, selection=selection_facts(selection, "m"))

    assert any("agrees little" in w.text for w in card.warnings if w.kind == "judge")


@given(st.lists(st.integers(0, 40), min_size=1, max_size=60))
def test_every_trajectory_stands_under_one_bar(lengths: Sequence[int]) -> None:
    """Bars that do not add up are worse than none."""
    card = card_of(
        [one(made(f"t{n}", said="w " * words)) for n, words in enumerate(lengths)],
        count_tokens=lambda text: len(text.split()),
    )

    for bars in (card.tokens.per_trajectory, card.calls, card.user_turns):
        assert sum(bars.bars.values()) == len(lengths)
    assert len(card.tokens.per_trajectory.bars) <= 13
    assert card.tokens.per_trajectory.largest >= card.tokens.per_trajectory.p95


def test_malformed_calls_are_counted_apart() -> None:
    """They name no tool."""
    broken = made("t", calls=(MalformedCall(id="c", text="x(", problem="y"),))

    card = card_of([one(broken)])

    assert card.malformed_calls == 1
    assert card.tools == ()


def test_what_models_were_paid_comes_from_the_ledger(tmp_path: Path) -> None:
    """The bill is the journal's, not an estimate of ours."""
    row = Row(
        purpose="judge",
        model="gpt-5",
        replies=3,
        prompt_tokens=10,
        completion_tokens=2,
        dollars=0.5,
    )
    Ledger(total=row, rows=(row,), prices={"gpt-5": "of 2026-01-01"}).write(
        tmp_path / "ledger.json"
    )

    (cost,) = costs_of(tmp_path / "ledger.json")

    assert (cost.purpose, cost.tokens, cost.dollars, cost.price) == (
        "judge",
        12,
        0.5,
        "of 2026-01-01",
    )
    assert costs_of(tmp_path / "none.json") == ()
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(DataError, match=r"bad\.json: not a ledger"):
        costs_of(tmp_path / "bad.json")


def test_a_card_survives_a_file_and_an_empty_set_has_none() -> None:
    """The page is drawn from the file, later and elsewhere."""
    card = card_of([one(made("t"))])

    assert msgspec.json.decode(msgspec.json.encode(card), type=Card) == card
    assert isinstance(made("t").messages[0], UserMessage)
    with pytest.raises(DataError, match="holds no trajectory"):
        CardBuilder().build(name="set", made_at=NOON)
