"""The pages of an evaluation and of a comparison: true to their figures, safe to open, whole in one file."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from cacherl.core.jsonl import write_jsonl
from cacherl.core.messages import AssistantMessage, ToolCall, ToolMessage, UserMessage
from cacherl.core.suites import Check, Verdict
from cacherl.evaluate.bounds import NO_BOUND
from cacherl.evaluate.compare import compare_folders
from cacherl.evaluate.folder import EvalFolder
from cacherl.evaluate.results import Result, read_results, rewrite, task_digest
from cacherl.evaluate.summary import Summary, summary_of
from cacherl.report.evaluation import write_comparison, write_evaluation
from tests.evaluate.folders import evaluated, model
from tests.report.test_report import HOSTILE, read_page

INERT = {"script", "link", "iframe", "object", "embed", "img", "base", "a", "form"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[EvalFolder, EvalFolder]:
    root = tmp_path_factory.mktemp("evaluations")
    evaluated(root / "a", model(lambda task: task[-1] in "0123"), count=40, trials=2)
    evaluated(root / "b", model(lambda task: task[-1] in "9", name="better"), count=40)
    return EvalFolder(root / "a"), EvalFolder(root / "b")


def page_of(folder: EvalFolder, beside: Path) -> str:
    write_evaluation(folder, summary_of(folder), beside / "page.html")
    return (beside / "page.html").read_text()


def compared(a: EvalFolder, b: EvalFolder, beside: Path) -> str:
    write_comparison(compare_folders(a, b), a, b, beside / "ab.html")
    return (beside / "ab.html").read_text()


def test_the_pages_stand_alone(folders: tuple[EvalFolder, EvalFolder], tmp_path: Path) -> None:
    """They are mailed and archived; they must not call home."""
    for page in (page_of(folders[0], tmp_path), compared(*folders, tmp_path)):
        assert not re.search(r"https?:|//[a-z]|@import|file:|url\(", page)
        for tag, attributes in read_page(page).tags:
            assert tag not in INERT
            assert not any(name.startswith("on") or name in ("href", "src") for name in attributes)


def test_every_figure_stands_beside_n_interval_floor_and_ceiling(
    folders: tuple[EvalFolder, EvalFolder], tmp_path: Path
) -> None:
    """A number without them is what this project does not print."""
    summary = summary_of(folders[0])
    text = " ".join(" ".join(read_page(page_of(folders[0], tmp_path)).text).split())

    for figure in summary.figures:
        if figure.metric in ("success", "process_accuracy"):
            m = figure.measured
            floor, ceiling = figure.floor.value, figure.ceiling.value
            assert (
                f"{m.value:.3f} {m.low:.3f} to {m.high:.3f} {m.n} {floor:.3f} {ceiling:.3f}" in text
            )
    assert "pass^2" in text
    assert summary.power.split(":")[0] in text


def test_an_end_that_nobody_measured_is_said_not_left_out(
    folders: tuple[EvalFolder, EvalFolder], tmp_path: Path
) -> None:
    """An empty cell would read as zero."""
    summary = summary_of(folders[0])
    blind = [msgspec.structs.replace(f, floor=NO_BOUND, ceiling=NO_BOUND) for f in summary.figures]
    summary = msgspec.structs.replace(summary, figures=tuple(blind))
    write_evaluation(folders[0], summary, tmp_path / "page.html")

    assert "not measured" in (tmp_path / "page.html").read_text()


def test_failures_are_shown_with_the_call_that_was_wrong(
    folders: tuple[EvalFolder, EvalFolder], tmp_path: Path
) -> None:
    """Counts say that something is wrong; a transcript says what."""
    page = page_of(folders[0], tmp_path)

    assert "bread&#39; is last, &#39;milk&#39; was expected" in page
    assert '<div class="turn call wrong">write_note(text=&#34;bread&#34;)</div>' in page
    assert '<div class="turn call right">read_note(number=0)</div>' in page
    assert "Wrong argument" in page


def test_a_comparison_names_the_tasks_won_and_lost_with_both_transcripts(
    folders: tuple[EvalFolder, EvalFolder], tmp_path: Path
) -> None:
    """What the better model does better is what one wants to see."""
    page = compared(*folders, tmp_path)

    assert "<h1>better is better</h1>" in page
    assert "Won by B: 16" in page
    assert "Lost by B: 4" in page
    assert "note-0-009: 1 to 0" in page


def hostile(folder: EvalFolder, root: Path) -> EvalFolder:
    """Return the evaluation as a model, a task and a checker with bad intentions would leave it."""
    there = EvalFolder(root)
    call = ToolCall(id="c", name=HOSTILE, arguments={HOSTILE: HOSTILE})
    messages = (
        UserMessage(content=HOSTILE),
        AssistantMessage(content=HOSTILE, thinking=HOSTILE, calls=(call,)),
        ToolMessage(call_id="c", name=HOSTILE, content=HOSTILE),
    )
    tasks = [
        msgspec.structs.replace(task, family=HOSTILE + str(n % 2), language=HOSTILE + str(n % 3))
        for n, task in enumerate(folder.read_tasks())
    ]
    digests = {task.id: task_digest(task) for task in tasks}

    def spoilt(row: Result) -> Result:
        return msgspec.structs.replace(
            row,
            task_digest=digests[row.task_id],
            trajectory=msgspec.structs.replace(row.trajectory, messages=messages),
            verdict=Verdict(
                success=row.verdict.success,
                checks=(Check(name=HOSTILE, score=0.0, said=HOSTILE),),
            ),
            metrics={**row.metrics, f"check.{HOSTILE}": 0.0},
            cause=None if row.verdict.success else HOSTILE,
            kinds=(HOSTILE,),
            wrong_fields=(HOSTILE,),
        )

    manifest = folder.read_manifest()
    plan = msgspec.structs.replace(
        manifest.plan, model=HOSTILE, pin=HOSTILE, sampling={HOSTILE: HOSTILE}
    )
    info = msgspec.structs.replace(manifest.info, title=HOSTILE, licence=HOSTILE)
    there.write(there.manifest, msgspec.structs.replace(manifest, plan=plan, info=info))
    write_jsonl(there.tasks, tasks)
    rewrite(there.results, [spoilt(row) for row in read_results(folder.results)])
    write_jsonl(there.bounds, folder.read_bounds().values())
    return there


@pytest.mark.parametrize(
    "draw",
    [
        lambda a, b, beside: page_of(a, beside),
        compared,
    ],
    ids=["evaluation", "comparison"],
)
def test_nothing_that_a_model_a_tool_or_a_task_wrote_becomes_markup(
    folders: tuple[EvalFolder, EvalFolder],
    tmp_path: Path,
    draw: Callable[[EvalFolder, EvalFolder, Path], str],
) -> None:
    """A tool's result can be a web page, and a model can be talked into writing a script."""
    a, b = (hostile(each, tmp_path / str(n)) for n, each in enumerate(folders))

    page = draw(a, b, tmp_path)

    tags = read_page(page).tags
    assert {tag for tag, _ in tags} <= {
        tag
        for each in (page_of(folders[0], tmp_path), compared(*folders, tmp_path))
        for tag, _ in read_page(each).tags
    }
    assert not any(name.startswith("on") for _, attributes in tags for name in attributes)
    assert "<script" not in page
    assert "<img" not in page
    assert "{{ 7*7 }}" in page
    assert page.count("&lt;script&gt;") >= 15


def test_the_summary_file_reads_back_whole(folders: tuple[EvalFolder, EvalFolder]) -> None:
    """Programs read it, and so do we."""
    summary = summary_of(folders[0])

    assert msgspec.json.decode(msgspec.json.encode(summary), type=Summary) == summary
