"""Two evaluations side by side: paired by task, refused where they measure different things."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from cacherl.core.errors import DataError
from cacherl.evaluate.compare import compare_folders, comparison_text, verdict_text
from cacherl.evaluate.folder import EvalFolder
from tests.evaluate.folders import evaluated, model
from tests.evaluate.notes import NotesSuite


def folder(
    root: Path, wrong: str = "", *, count: int = 40, name: str = "m", trials: int = 1
) -> EvalFolder:
    """Return an evaluation that is wrong on the tasks whose number ends in one of these digits."""
    player = model(lambda task: task[-1] in wrong, name=name)
    evaluated(root, player, count=count, trials=trials)
    return EvalFolder(root)


def test_an_evaluation_compared_with_itself_differs_in_nothing(tmp_path: Path) -> None:
    """A comparison that sees what is not there sees nothing."""
    one = folder(tmp_path, "37")

    found = compare_folders(one, one)

    assert found.won == found.lost == ()
    assert found.tied == found.n == 40
    assert found.differs == ()
    assert all(each.comparison.difference == 0 for each in found.metrics)
    assert all(each.comparison.p_value == 1 for each in found.metrics)
    assert verdict_text(found.metrics[0]) == "no task differs"


def test_a_better_model_wins_the_tasks_it_wins(tmp_path: Path) -> None:
    """Which tasks were won and lost says more than a difference of means."""
    a, b = folder(tmp_path / "a", "0123"), folder(tmp_path / "b", "9", name="better")

    found = compare_folders(a, b)

    success = found.metrics[0]
    assert success.metric == "success"
    assert (success.comparison.wins, success.comparison.losses) == (16, 4)
    assert [gain.task_id[-1] for gain in found.lost] == ["9"] * 4
    assert {gain.task_id[-1] for gain in found.won} == set("0123")
    assert verdict_text(success) == "B is better"
    assert comparison_text(success) == (
        "0.600 to 0.900: +0.300 (95 % +0.085 to +0.487, p = 0.012, n = 40; doing nothing 0.000, "
        "gold 1.000)"
    )
    groups = {group.name: group.success.comparison.n for group in found.groups["family"]}
    assert groups == {"again": 13, "copy": 14, "once_more": 13}


def test_tasks_that_only_one_has_are_left_out_and_said(tmp_path: Path) -> None:
    """Means over different tasks are no comparison."""
    a, b = folder(tmp_path / "a", count=40), folder(tmp_path / "b", count=30)

    found = compare_folders(a, b)

    assert found.n == 30
    assert found.left_out == (10, 0)


def test_trials_of_a_task_count_as_one_task(tmp_path: Path) -> None:
    """Ten tries at one task are no ten tasks."""
    a, b = folder(tmp_path / "a", "1", trials=3), folder(tmp_path / "b", "2")

    found = compare_folders(a, b)

    assert found.metrics[0].comparison.n == 40


def test_what_else_they_differ_in_is_said(tmp_path: Path) -> None:
    """A gain that comes from another seed is not the model's."""
    a, b = folder(tmp_path / "a"), folder(tmp_path / "b")
    manifest = json.loads(b.manifest.read_bytes())
    manifest["plan"]["tools"] = "cached"
    b.manifest.write_bytes(json.dumps(manifest).encode())

    assert compare_folders(a, b).differs == ("tools: live there, cached now",)


def test_another_suite_or_no_shared_task_is_refused(tmp_path: Path) -> None:
    """Two measurements of two things have no difference."""
    a, b = folder(tmp_path / "a"), folder(tmp_path / "b")
    manifest = b.read_manifest()
    other = msgspec.structs.replace(manifest.plan, suite="other")
    b.write(b.manifest, msgspec.structs.replace(manifest, plan=other))
    with pytest.raises(DataError, match=r"of the suite notes and .* of other"):
        compare_folders(a, b)

    evaluated(tmp_path / "c", model(), suite=NotesSuite(), count=4, seed=1)
    with pytest.raises(DataError, match="share no task"):
        compare_folders(a, EvalFolder(tmp_path / "c"))

    with pytest.raises(DataError, match="holds no evaluation"):
        compare_folders(a, EvalFolder(tmp_path / "nowhere"))
