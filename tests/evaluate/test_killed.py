"""`cacherl eval` of a paid model, killed again and again: nothing lost, nothing billed twice."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cacherl.evaluate.folder import EvalFolder
from cacherl.evaluate.results import Result, Sample, read_lines, read_results
from cacherl.evaluate.summary import summary_of
from tests.record.preloaded import Preloaded
from tests.teacher_server import TeacherServer, Trouble

TASKS, TRIALS = 6, 2
MODULES = ("cacherl.cli.evaluating", "cacherl.suites.desk", "cacherl.report.evaluation")


@pytest.fixture(scope="module")
def cacherl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Preloaded]:
    folder = tmp_path_factory.mktemp("preloaded")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CACHERL_HOME", str(folder / "home"))
        with Preloaded(folder, *MODULES) as preloaded:
            yield preloaded


def command(teacher: TeacherServer, out: Path) -> list[str | Path]:
    return [
        *("eval", f"openai:desk@{teacher.url}", "--split", "dev", "--limit", str(TASKS)),
        *("--trials", str(TRIALS), "--concurrency", "3", "--timeout-s", "2", "--out", out),
    ]


def server(*troubles: Trouble, folder: Path) -> TeacherServer:
    return TeacherServer(
        *troubles,
        folder=folder,
        honours_keys=True,
        latency_s=0.01,
        tasks=(("dev", TASKS, 0),),
        detour=0.4,
    )


def written(out: Path) -> int:
    """Count the lines of all the files that a kill could tear."""
    folder = EvalFolder(out)
    files = (folder.journal / "requests.jsonl", folder.results)
    return sum(path.read_bytes().count(b"\n") for path in files if path.exists())


def said(out: Path) -> dict[Sample, tuple[object, ...]]:
    """Return what came of each sample; one that has two rows is an error."""
    rows = list(read_results(EvalFolder(out).results))
    found: dict[Sample, tuple[object, ...]] = {
        (row.task_id, row.trial): (row.trajectory.messages, row.verdict, row.metrics)
        for row in rows
    }
    assert len(found) == len(rows)
    return found


def test_a_paid_evaluation_killed_anywhere_bills_no_request_twice(
    cacherl: Preloaded, tmp_path: Path
) -> None:
    """An evaluation of a large model costs real money; a power cut must not cost it again."""
    drawn = random.Random(3)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    with server(folder=tmp_path) as teacher:
        assert cacherl.run(command(teacher, whole)) == 0, cacherl.log.read_text()[-3000:]
        bills = tmp_path / "bills.jsonl"
        needed = len(teacher.bills())
        bills.rename(tmp_path / "bills-of-whole.jsonl")
        teacher.start_again()

        def somewhere() -> Callable[[], bool]:
            goal = written(cut) + drawn.randint(1, 9)
            at = time.monotonic() + drawn.uniform(0.3, 2.0)
            return lambda: written(cut) >= goal or time.monotonic() > at

        killed = 0
        for _ in range(40):
            code = cacherl.run(command(teacher, cut), until=somewhere() if killed < 8 else never)
            if code == 0:
                break
            assert code == -signal.SIGKILL, cacherl.log.read_text()[-3000:]
            killed += 1

        assert killed >= 4
        assert said(cut) == said(whole)
        assert len(said(cut)) == TASKS * TRIALS
        assert len(teacher.bills()) == needed
        billed = Counter(bill.digest for bill in teacher.bills())
        assert max(billed.values()) == 1
    figures = [summary_of(EvalFolder(out)).figures for out in (whole, cut)]
    assert figures[0] == figures[1]
    assert summary_of(EvalFolder(cut)).manifest.runs[-1].played <= TASKS * TRIALS


def never() -> bool:
    return False


def test_a_finished_paid_evaluation_sends_nothing_when_it_is_run_again(
    cacherl: Preloaded, tmp_path: Path
) -> None:
    """Whoever looks at the figures twice pays once; rows that are lost come back from the journal."""
    out = tmp_path / "out"
    with server(folder=tmp_path) as teacher:
        assert cacherl.run(command(teacher, out)) == 0, cacherl.log.read_text()[-3000:]
        billed, rows = len(teacher.bills()), said(out)
        assert cacherl.run(command(teacher, out)) == 0
        EvalFolder(out).results.unlink()
        assert cacherl.run(command(teacher, out)) == 0

        assert len(teacher.bills()) == billed
        assert said(out) == rows


def test_outages_of_the_endpoint_are_never_the_models_failure(
    cacherl: Preloaded, tmp_path: Path
) -> None:
    """A 500 that outlasts its retries says nothing about the model; the next run asks again."""
    out = tmp_path / "out"
    with server(Trouble("html", at=(2, 5)), folder=tmp_path) as teacher:
        assert cacherl.run(command(teacher, out)) == 0, cacherl.log.read_text()[-3000:]
        first = summary_of(EvalFolder(out))
        assert first.not_scored == 2
        assert sum(first.outages.values()) == 2
        assert first.rows == TASKS * TRIALS - 2

        assert cacherl.run(command(teacher, out)) == 0
        second = summary_of(EvalFolder(out))

    assert (second.not_scored, second.outages) == (0, {})
    kinds = Counter(type(line) is Result for line in read_lines(EvalFolder(out).results))
    assert kinds == {True: TASKS * TRIALS, False: 2}


def test_a_spent_budget_is_told_with_what_there_is_and_more_money_goes_on(
    cacherl: Preloaded, tmp_path: Path
) -> None:
    """A partial figure says how partial it is; raising the budget pays for the rest alone."""
    out = tmp_path / "out"
    with server(folder=tmp_path) as teacher:
        small = [*command(teacher, out), "--budget-tokens", "20000"]
        assert cacherl.run(small) == 3, cacherl.log.read_text()[-3000:]
        part = summary_of(EvalFolder(out))
        assert 0 < part.rows < TASKS * TRIALS
        assert part.not_scored == TASKS * TRIALS - part.rows
        assert part.outages == {}, "a spent budget is nobody's failure"
        assert sum(b.prompt_tokens + b.completion_tokens for b in teacher.bills()) <= 20000

        assert cacherl.run(command(teacher, out)) == 0
        assert len(said(out)) == TASKS * TRIALS
        billed = Counter(bill.digest for bill in teacher.bills())
        assert max(billed.values()) == 1
