"""The data card's page: true to its record, safe to open, and whole in one file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cacherl.core.messages import AssistantMessage, ToolCall, ToolMessage, UserMessage
from cacherl.core.tools import ErrorClass, Tier, ToolResult
from cacherl.core.trajectories import StopReason, Trajectory
from cacherl.report.card import PARTS as PART_NAMES
from cacherl.report.card import VERDICTS, render_card, size, write_card
from cacherl.report.page import count, dollars, percent
from cacherl.select import SelectOptions, Verdict
from cacherl.select.card import (
    PARTS,
    Card,
    CardBuilder,
    CostRow,
    FileFacts,
    SecretPlace,
    Secrets,
    selection_facts,
)
from tests.report.test_report import HOSTILE, NUMBER, read_page
from tests.select.sample import GOLD, choose, made, make_task

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def build(extra: tuple[Trajectory, ...] = ()) -> Card:
    """Return a card with everything on it: verdicts, a judge, costs, languages, warnings."""
    tasks, trajectories = [], []
    for n in range(40):
        language = ("en", "fr")[n % 3 == 0]
        gold = GOLD if n % 2 else None
        tasks.append(make_task(f"t{n}", family=f"f{n % 7}", language=language, gold=gold))
        trajectories.append(
            made(
                f"t{n}",
                tools=("look",) * (n % 6) + (("rare",) if n == 4 else ()),
                judged=((5, 4, 5), (1, 4, 2), (3, 3, 3))[n % 3],
                process=0.7 if n % 5 == 0 else 1.0,
            )
        )
    for trajectory in extra:
        tasks.append(make_task(trajectory.task_id, family=HOSTILE, language=HOSTILE))
        trajectories.append(trajectory)
    selection = choose(tasks, trajectories, options=SelectOptions(family_floor=2, tool_floor=2))
    builder = CardBuilder()
    for task, trajectory, judgement in zip(tasks, trajectories, selection.judgements, strict=True):
        if judgement.kept or trajectory in extra:
            builder.add(task, trajectory, judgement)
    return builder.build(
        name="shop",
        made_at=NOON,
        files=(FileFacts(name="selected.jsonl", role="this set", bytes=12_345, sha256="ab" * 32),),
        options={"per_task": 1, "combine": True, "against": ["held"]},
        selection=selection_facts(selection, "openai:gpt-5"),
        costs=(
            CostRow(
                purpose="judge",
                model="gpt-5",
                replies=60,
                tokens=9000,
                dollars=0.25,
                price="of May",
            ),
            CostRow(purpose="record", model="mine", replies=2, tokens=10, dollars=None, price=""),
        ),
    )


@pytest.fixture(scope="module")
def card() -> Card:
    return build()


def test_the_page_stands_alone(card: Card) -> None:
    """It is mailed and archived beside the data; it must not call home."""
    page = render_card(card)

    assert not re.search(r"https?:|//[a-z]|@import|file:|url\(", page)
    for tag, attributes in read_page(page).tags:
        assert tag not in (
            "script",
            "link",
            "iframe",
            "object",
            "embed",
            "img",
            "base",
            "a",
            "form",
        )
        assert not any(name.startswith("on") or name in ("href", "src") for name in attributes)


def test_nothing_of_the_data_becomes_markup() -> None:
    """A tool's result can be a web page, and a model can be talked into writing a script."""
    call = ToolCall(id="c0", name=HOSTILE, arguments={HOSTILE: HOSTILE, "password": HOSTILE})
    hostile = Trajectory(
        task_id=HOSTILE,
        policy=HOSTILE,
        messages=(
            UserMessage(content=HOSTILE),
            AssistantMessage(content=HOSTILE, thinking=HOSTILE, calls=(call,)),
            ToolMessage(call_id="c0", name=HOSTILE, content=HOSTILE),
            AssistantMessage(content=f"done {HOSTILE}"),
        ),
        results=(
            ToolResult(
                call_id="c0",
                name=HOSTILE,
                text=HOSTILE,
                is_error=True,
                error_class=ErrorClass.UNKNOWN,
                tier=Tier.LIVE,
            ),
        ),
        stop=StopReason.ANSWER,
        final_state="right",
        notes={"format": HOSTILE, "from": HOSTILE, "licence": HOSTILE, "process": 1.0},
    )
    card = build((hostile,))
    card = msgspec.structs.replace(
        card,
        name=HOSTILE,
        version=HOSTILE,
        options={HOSTILE: HOSTILE, "list": [HOSTILE]},
        files=(FileFacts(name=HOSTILE, role=HOSTILE, bytes=1, sha256=HOSTILE),),
        costs=(
            CostRow(
                purpose=HOSTILE, model=HOSTILE, replies=1, tokens=1, dollars=None, price=HOSTILE
            ),
        ),
        secrets=Secrets(
            profile=HOSTILE,
            kinds={HOSTILE: 1},
            places=(SecretPlace(kind=HOSTILE, trajectory=HOSTILE, path=HOSTILE, excerpt=HOSTILE),),
        ),
    )

    page = render_card(card)

    tags = read_page(page).tags
    assert {tag for tag, _ in tags} == {tag for tag, _ in read_page(render_card(build())).tags}
    assert not any(name.startswith("on") for _, attributes in tags for name in attributes)
    assert "<script" not in page
    assert "<img" not in page
    assert "{{ 7*7 }}" in page
    assert page.count("&lt;script&gt;") >= 15


def written_forms(value: Any) -> Iterator[str]:
    """Yield every way in which the page may write a number of the card, or one within its words."""
    if isinstance(value, dict):
        for key, member in value.items():
            yield from re.findall(NUMBER, str(key))
            yield from written_forms(member)
    elif isinstance(value, list | tuple):
        for member in value:
            yield from written_forms(member)
    elif isinstance(value, str):
        yield from re.findall(NUMBER, value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        forms = (percent(value), count(value), dollars(value), size(int(value)), f"{value:.1f}")
        for form in (
            *forms,
            *(str(round(value, n)) for n in (1, 2, 3)),
            count(float(round(value))),
        ):
            yield from re.findall(NUMBER, form)


def derived(card: Card) -> Iterator[float]:
    """Yield what the page works out: sums and shares of the card's counts."""
    groups = [card.languages, card.families, card.policies, card.stops, card.splits]
    groups += [card.error_classes, card.tokens.by_part]
    for group in groups:
        total = sum(group.values())
        yield total
        yield from (held / total for held in group.values())
    yield from (tool.errors / tool.calls for tool in card.tools)
    yield sum(tool.calls for tool in card.tools)
    yield len(card.tools)
    yield len(card.tools_seen_once)
    yield from (row.right / row.known for row in card.verifiers)
    if card.selection is not None:
        considered = card.selection.considered
        yield from (held / considered for held in card.selection.by_verdict.values())
        yield card.trajectories / considered
        for each in (card.selection.before, card.selection.alone, card.selection.after):
            yield from (len(each.tools), len(each.families))
    yield sum(row.dollars or 0 for row in card.costs)


def test_every_number_on_the_page_comes_from_the_card(card: Card) -> None:
    """A figure that nobody counted is the one thing a data card must never show."""
    allowed = {*written_forms(msgspec.to_builtins(card)), *written_forms(list(derived(card)))}
    allowed |= {"95", "100", "5", "1", "0", "2606.14179"}  # words of the page itself

    shown = re.findall(NUMBER, " ".join(read_page(render_card(card)).text))

    assert len(shown) > 150
    assert set(shown) <= allowed, set(shown) - allowed


def test_the_page_says_what_a_reader_asks(card: Card) -> None:
    """Is it right, is it varied, may I use it, what did it cost."""
    text = " ".join("".join(read_page(render_card(card)).text).split())

    assert f"{card.trajectories} trajectories that call 1 tool " in text
    assert "Krippendorff's alpha" in text
    assert "English" in text
    assert "price unknown" in text
    assert "your own" in text
    assert "effective tools" in text
    for warning in card.warnings:
        assert warning.text in text


def test_a_plain_set_has_a_plain_card() -> None:
    """No selection, no tools, no thinking: the page leaves out what it does not know."""
    builder = CardBuilder()
    builder.add(make_task("t"), made("t", tools=()))
    page = render_card(builder.build(name="plain", made_at=NOON))

    text = " ".join("".join(read_page(page).text).split())
    assert "Nobody has looked." in text
    assert "None thinks" in text
    assert "1 trajectory" in text
    assert not re.search(r"\bNone\b(?! thinks)", text)


def test_every_verdict_and_part_has_words() -> None:
    """A new verdict without a meaning would be missing from the table and its sum."""
    assert set(VERDICTS) == set(Verdict)
    assert tuple(PART_NAMES) == PARTS


def test_the_same_card_makes_the_same_page(card: Card, tmp_path: Path) -> None:
    """Drawn from the file, later and elsewhere, it is the same page."""
    again = msgspec.json.decode(msgspec.json.encode(card), type=Card)

    write_card(card, tmp_path / "a.html")
    write_card(again, tmp_path / "b.html")

    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


@pytest.mark.parametrize(
    ("number", "words"), [(0, "0 B"), (999, "999 B"), (12_345, "12.3 kB"), (7_787_374, "7.8 MB")]
)
def test_sizes_are_written_for_people(number: int, words: str) -> None:
    """7787374 is a number, 7.8 MB is a size."""
    assert size(number) == words


def test_dollars_that_nobody_knows_are_not_shown_as_nothing() -> None:
    """`$0.00 +` reads as if next to nothing had been paid."""
    card = build()
    unknown = msgspec.structs.replace(card, costs=card.costs[1:])

    for page, told in ((render_card(card), "$0.2500 +"), (render_card(unknown), ">unknown<")):
        assert told in page
    assert "paid to models: no price is known" in render_card(unknown)
