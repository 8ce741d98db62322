"""Scoring again from what is on file: the same without a change, and exactly the change with one."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from cacherl.core.errors import DataError
from cacherl.core.suites import SuiteInfo
from cacherl.evaluate.explain import find_row, first_fault, transcript
from cacherl.evaluate.folder import EvalFolder
from cacherl.evaluate.rescore import rescore
from cacherl.evaluate.results import read_results
from cacherl.evaluate.summary import summary_of
from tests.evaluate.folders import evaluated, model
from tests.evaluate.notes import NotesSuite


@pytest.fixture
def folder(tmp_path: Path) -> EvalFolder:
    suite = NotesSuite(broken=frozenset({"note-0-005"}))
    evaluated(tmp_path, model(lambda task: task.endswith("1")), suite=suite, trials=2)
    return EvalFolder(tmp_path)


def test_scoring_again_changes_nothing(folder: EvalFolder) -> None:
    """What is stored is all that scoring needs: no model, no tools."""
    before, figures = folder.results.read_bytes(), summary_of(folder).figures
    suite = NotesSuite()

    found = rescore(folder, suite)

    assert (found.rows, found.changed, found.won, found.lost) == (22, (), 0, 0)
    assert suite.opened == 0
    assert folder.results.read_bytes() == before, "byte for byte, outages included"
    assert summary_of(folder).figures == figures


def test_a_mended_checker_changes_the_rows_it_was_wrong_about_and_says_which(
    folder: EvalFolder,
) -> None:
    """A faulty checker is found after the run more often than before it."""
    mended = NotesSuite(pin="notes-2", lenient=True)

    would = rescore(folder, mended, write=False)
    assert summary_of(folder).failed == 4, "nothing was written yet"
    found = rescore(folder, mended)

    assert would == found
    assert {(one.task_id, one.trial) for one in found.changed} == {
        ("note-0-001", 0),
        ("note-0-001", 1),
        ("note-0-011", 0),
        ("note-0-011", 1),
    }
    assert (found.won, found.lost, found.pin) == (4, 0, ("notes-1", "notes-2"))
    assert found.changed[0].metrics["success"] == (0.0, 1.0)
    assert all(row.verdict.success and row.pin == "notes-2" for row in read_results(folder.results))
    assert folder.read_manifest().plan.pin == "notes-2"


def test_a_folder_of_another_suite_is_refused(folder: EvalFolder) -> None:
    """The verdict of a stranger means nothing."""

    class Other(NotesSuite):
        @property
        def info(self) -> SuiteInfo:
            return msgspec.structs.replace(super().info, name="other")

    with pytest.raises(DataError, match="is of the suite notes, not of other"):
        rescore(folder, Other())


def test_a_failure_is_explained_by_its_first_fault_and_its_wrong_call(folder: EvalFolder) -> None:
    """What a person wants to know first: where did it go wrong?"""
    found = find_row(folder, "note-0-001")

    assert found.result.trial == 0
    fault = first_fault(found.result.verdict)
    assert fault is not None
    assert fault.said == "notes: 'bread' is last, 'milk' was expected"
    assert [(line.role, line.right) for line in found.lines] == [
        ("user", None),
        ("call", True),
        ("tool", None),
        ("call", False),
        ("tool", None),
        ("assistant", None),
    ]
    assert found.expected == ("read_note(number=0)", 'write_note(text="milk")')
    assert transcript(found.task, found.result.trajectory) == found.lines


def test_a_task_is_found_by_a_part_of_its_id_that_means_no_other(folder: EvalFolder) -> None:
    """Ids are long and typed by hand."""
    assert find_row(folder, "011").task.id == "note-0-011"
    assert find_row(folder, "011", 1).result.trial == 1
    with pytest.raises(DataError, match="means 12 tasks"):
        find_row(folder, "note")
    with pytest.raises(DataError, match="has no task 'x'"):
        find_row(folder, "x")
    with pytest.raises(DataError, match=r"note-0-005 has no row.*infrastructure"):
        find_row(folder, "note-0-005")
