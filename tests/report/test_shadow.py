"""The page of a shadow run: complete, escaped, loading nothing."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from cacherl.core.tools import Tier
from cacherl.report.shadow import render_shadow
from cacherl.shadow import Compared, Said, Serve, summarise
from tests.desk_of_two import says
from tests.shadow.test_divergence import asks, episode
from tests.shadow.test_summary import PLAN, leg

EVIL = "</pre><script>alert(1)</script>"


def page() -> str:
    wrong = Compared(
        tool="read_note",
        arguments={"number": EVIL},
        tier=Tier.EXACT,
        cached=Said(text=EVIL),
        live=Said(text='{"text": "milk"}'),
        same=0.0,
        fidelity=0.9,
    )
    loose = Compared(
        tool="search",
        arguments={},
        tier=Tier.FUZZY,
        cached=Said(text="a"),
        live=Said(text="b"),
        same=0.0,
        score=0.83,
        fidelity=0.4,
    )
    legs = [
        leg(
            wrong,
            loose,
            metrics={"end_to_end": 1.0},
            world={"end_to_end": 0.0},
            trajectory=episode(asks(0, EVIL), says(EVIL), tier=Tier.EXACT),
        ),
        leg(
            loose,
            serve=Serve.LIVE,
            metrics={"end_to_end": 1.0},
            world={"end_to_end": 1.0},
            trajectory=episode(asks(0, '{"text": "milk"}'), says("milk")),
        ),
    ]
    return render_shadow(summarise(PLAN, legs))


def test_everything_measured_is_on_it() -> None:
    """The lie, its cost, and what was stated."""
    text = page()
    for said in (
        "1 EXACT answer is wrong without an explanation",
        "Every EXACT answer that was wrong",
        "Was training on the cache training on the world?",
        "Is the reward of a cached episode true?",
        "came to another verdict",
        "0.8-0.9",
        "Stated against true",
    ):
        assert said in text


def test_what_tools_and_models_wrote_is_never_markup() -> None:
    """A tool that answers with a script must not run in anybody's browser."""
    text = page()
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert not re.search(r'(?:src|href)="https?:', text)


def test_tags_close_in_their_order() -> None:
    """A browser mends what is torn, each in its own way."""
    open_: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag not in ("meta", "br", "path", "use"):
                open_.append(tag)

        def handle_startendtag(self, tag: str, attrs: object) -> None:
            pass

        def handle_endtag(self, tag: str) -> None:
            assert open_.pop() == tag

    Reader().feed(page())
    assert open_ == []


def test_the_same_summary_is_the_same_page() -> None:
    """So that two pages differ only where their figures do."""
    assert page() == page()
