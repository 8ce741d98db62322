"""The page a person judges the run by: true, safe to open, and whole in one file."""

from __future__ import annotations

import html.parser
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cacherl.cache.trust.fidelity import Calibration
from cacherl.core.messages import AssistantMessage, ToolMessage, UserMessage
from cacherl.core.trajectories import StopReason, Trajectory
from cacherl.report import Curve, ModelReport, ReportData, Transcript, render_report, write_report
from cacherl.report.page import FAILURES, GROUPS, count, dollars, percent, points, seconds
from tests.desk_of_two import copy_task, read

HOSTILE = "</pre></style><script>alert(1)</script><img src=\"http://evil.example/x\" onerror='a'>{{ 7*7 }}"
WORDS_WITH_NUMBERS = {"95", "2606.14179"}  # the level of the intervals, the paper


class _Reader(html.parser.HTMLParser):
    """Collects tags, attributes and the text outside figures and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._skipping: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("svg", "style"):
            self._skipping.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._skipping and tag == self._skipping[-1]:
            self._skipping.pop()

    def handle_data(self, data: str) -> None:
        if not self._skipping:
            self.text.append(data)


def read_page(page: str) -> _Reader:
    reader = _Reader()
    reader.feed(page)
    return reader


def test_the_page_stands_alone(sample: ReportData) -> None:
    """It is mailed, archived and opened offline; it must not call home either."""
    page = render_report(sample)

    assert not re.search(r"https?:|//[a-z]|@import|file:", page)
    for tag, attributes in read_page(page).tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "img", "base")
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("href", "xlink:href", "src"):
                assert (value or "").startswith("#")
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page))


def test_nothing_a_model_or_tool_wrote_becomes_markup(sample: ReportData) -> None:
    """A model can be talked into writing a script; the reader's browser must not run it."""
    call = msgspec.structs.replace(read(0), name=HOSTILE, arguments={HOSTILE: HOSTILE})
    trajectory = Trajectory(
        task_id=HOSTILE,
        policy=HOSTILE,
        messages=(
            UserMessage(content=HOSTILE),
            AssistantMessage(content=HOSTILE, thinking=HOSTILE, calls=(call,)),
            ToolMessage(call_id=call.id, name=HOSTILE, content=HOSTILE),
        ),
        results=(),
        stop=StopReason.MAX_TURNS,
    )
    task = msgspec.structs.replace(
        copy_task(HOSTILE, family=HOSTILE, language=HOSTILE), user_turns=(HOSTILE, HOSTILE)
    )
    main = (
        msgspec.structs.replace(
            sample.models[0].live, by_family={HOSTILE: sample.models[0].live.by_family["refund"]}
        )
        if sample.models[0].live
        else None
    )
    hostile = msgspec.structs.replace(
        sample,
        recipe=HOSTILE,
        models=(ModelReport(name=HOSTILE, live=main),),
        grpo={HOSTILE: sample.grpo["reward"]},
        cache_stats={HOSTILE: HOSTILE},
        stage_wall_s={HOSTILE: 1.0},
        notes=(HOSTILE,),
        calibration=_hostile(sample.calibration),
        transcripts=(Transcript(task=task, played={HOSTILE: trajectory}),),
    )

    page = render_report(hostile)

    tags = {tag for tag, _ in read_page(page).tags}
    assert "<script" not in page
    assert "<img" not in page
    assert not tags & {"script", "img"}
    assert "{{ 7*7 }}" in page
    assert page.count("&lt;script&gt;") >= 10


def _hostile(calibration: Calibration | None) -> Calibration | None:
    """Return the calibration of tools that wrote what they could."""
    if calibration is None:
        return None
    suspect = msgspec.structs.replace(
        calibration.suspects[0],
        tool=HOSTILE,
        arguments=HOSTILE,
        answers=(HOSTILE, HOSTILE),
        advice=HOSTILE,
    )
    estimates = tuple(
        msgspec.structs.replace(each, tool=each.tool and HOSTILE) for each in calibration.estimates
    )
    return msgspec.structs.replace(calibration, suspects=(suspect,), estimates=estimates)


def written_forms(value: Any) -> Iterator[str]:
    """Yield every way in which the page may write a number of the data, or one within its words."""
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
        forms = (percent(value), points(value), seconds(value), count(value), dollars(value))
        for form in (*forms, str(round(value, 2)), count(float(round(value)))):
            yield from re.findall(NUMBER, form)


NUMBER = r"\d+(?:[.,\u202f]\d+)*"


def test_every_number_on_the_page_comes_from_the_data(sample: ReportData) -> None:
    """A figure that nobody measured is the one thing a report must never show."""
    plain = msgspec.to_builtins(sample)
    derived = [
        sum(sample.stage_wall_s.values()),
        *(
            kind / main.n
            for m in sample.models
            if (main := m.live)
            for kind in main.failures.values()
        ),
        *(0.0, 0.5, 1.0),  # process accuracies of the transcripts' three episodes
    ]
    allowed = {*written_forms(plain), *written_forms(derived), *WORDS_WITH_NUMBERS}
    allowed |= {
        number for pair in FAILURES.values() for text in pair for number in re.findall(NUMBER, text)
    }

    shown = re.findall(NUMBER, " ".join(read_page(render_report(sample)).text))

    assert len(shown) > 100
    assert set(shown) <= allowed, set(shown) - allowed


def test_the_headline_figures_are_the_first_and_last_models(sample: ReportData) -> None:
    """What people quote from the page is its largest line."""
    text = " ".join("".join(read_page(render_report(sample)).text).split())

    first, last = sample.models[0].live, sample.models[-1].live
    assert first is not None
    assert last is not None
    assert (
        f"From {percent(first.process_accuracy.mean)} % to {percent(last.process_accuracy.mean)} % "
        "of the right tool calls, without a live call in training"
    ) in text


def test_the_page_says_how_often_the_cache_is_right_and_which_tools_contradict_themselves(
    sample: ReportData,
) -> None:
    """Training on answers nobody checked is the first thing a reader will ask about."""
    page = render_report(sample)
    text = " ".join("".join(read_page(page).text).split())

    assert sample.calibration is not None
    assert 'aria-label="Stated fidelity against the share that was right"' in page
    assert re.search(r">118</text>", page)
    assert re.search(r">702</text>", page)
    assert "Expected calibration error 1.7 points over 820 answers" in text
    assert "search_kb contradicts itself: 8 of 31 repeated calls" in text
    assert "best effort, other state" in text
    bare = msgspec.structs.replace(sample, calibration=None)
    assert "How often the cache is right" not in render_report(bare)


def test_live_calls_in_training_are_shown_when_there_were_any(sample: ReportData) -> None:
    """The page may not claim what did not hold."""
    leaky = msgspec.structs.replace(sample, live_calls_in_training=3)

    page = render_report(leaky)

    assert "without a live call" not in page
    assert re.search(r'<div class="fact">3</div><div>live tool calls in training', page)


def test_each_call_carries_its_verdict(sample: ReportData) -> None:
    """The eye should find the wrong call without reading."""
    page = render_report(msgspec.structs.replace(sample, transcripts=sample.transcripts[:1]))

    assert page.count('class="turn call right"') == 3
    assert page.count('class="turn call wrong"') == 1


def test_ids_are_unique_and_every_reference_is_met(sample: ReportData) -> None:
    """Two figures with one id draw each other's clipping."""
    page = render_report(sample)

    ids = re.findall(r'\bid="([^"]*)"', page)
    wanted = set(re.findall(r'href="#([^"]*)"', page)) | set(re.findall(r"url\(#([^)]*)\)", page))
    assert len(ids) == len(set(ids))
    assert wanted <= set(ids)


def test_the_same_data_make_the_same_page(sample: ReportData, tmp_path: Path) -> None:
    """A page that changes without reason cannot be compared; a killed writer leaves the old one."""
    write_report(sample, tmp_path / "a.html")
    write_report(sample, tmp_path / "b.html")

    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.html", "b.html"]


def test_the_page_shows_what_there_is(sample: ReportData) -> None:
    """An evaluation alone, or a run cut short, still deserves its page."""
    only_cached = ModelReport(name="sft", cached=sample.models[1].cached)

    for data in (
        ReportData(recipe="empty", models=()),
        ReportData(recipe="cached", models=(only_cached,)),
        ReportData(recipe="short", models=(), sft_loss=Curve(steps=(1.0,), values=(2.5,))),
    ):
        page = render_report(data)
        assert f"<b>{data.recipe}</b>" in page
        assert "None" not in page
    assert "answered from the cache" in render_report(
        ReportData(recipe="cached", models=(only_cached,))
    )


def test_report_data_survive_a_file(sample: ReportData) -> None:
    """The page can be drawn again from the run's folder, without the run."""
    assert msgspec.json.decode(msgspec.json.encode(sample), type=ReportData) == sample


@pytest.mark.parametrize(
    ("shown", "meant"),
    [
        (seconds(8.04), "8.0 s"),
        (seconds(119.7), "2 min 0 s"),
        (seconds(59.97), "1 min 0 s"),
        (seconds(3600 * 26 + 120), "26 h 2 min"),
        (count(1234567), "1\u202f234\u202f567"),
        (count(0.97312), "0.973"),
        (dollars(0.0005), "$0.0005"),
        (dollars(1234.5), "$1,234.50"),
        (points(-0.021), "\N{MINUS SIGN}2.1"),
        (percent(1.0), "100.0"),
    ],
)
def test_values_are_written_for_people(shown: str, meant: str) -> None:
    """Units and rounding are part of a figure."""
    assert shown == meant


def test_known_groups_have_names_a_reader_understands() -> None:
    """`fr` is a code; French is a word."""
    assert GROUPS["fr"] == "French"
