"""Conversations and tasks out of a folder, and the card of what was written."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from cacherl.cli import main
from cacherl.core.errors import DataError, RecipeError
from cacherl.core.folders import DataFolder
from cacherl.core.jsonl import read_jsonl, write_jsonl
from cacherl.core.tasks import Split, Task
from cacherl.core.trajectories import StopReason, Trajectory
from cacherl.exports import ExportCard, ExportOptions, Origin, export_folder
from cacherl.formats.table import TARGETS
from cacherl.imports import ImportOptions, import_files
from tests.formats.conversations import answered, kept, task_of

SPLITS = (Split.TRAIN, Split.DEV, Split.TEST, Split.TRAIN)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four tasks, two of them held out, and a failed conversation."""
    tasks = [task_of([f"{n}?"], name=f"t{n}", split=split) for n, split in enumerate(SPLITS)]
    failed = msgspec.structs.replace(answered(tasks[0]), rollout=1, stop=StopReason.MODEL_FAILED)
    pairs = [(task, answered(task, f"answer {task.id}", licence="MIT")) for task in tasks]
    return kept(tmp_path / "data", *pairs, (tasks[0], failed))


def exported(folder: Path, out: Path, **options: Any) -> tuple[ExportCard, list[Any]]:
    card = export_folder(folder, out, ExportOptions(**{"format_name": "openai", **options}))
    return card, [json.loads(line) for line in out.read_text().splitlines()]


@pytest.mark.parametrize("name", [name for name, target in TARGETS.items() if target.lines])
def test_held_out_tasks_get_into_no_training_file(folder: Path, tmp_path: Path, name: str) -> None:
    """A test set that was trained on measures nothing, and nobody would see it."""
    card, rows = exported(folder, tmp_path / "a.jsonl", format_name=name)

    text = json.dumps(rows)
    assert "0?" in text
    assert "3?" in text
    assert "1?" not in text
    assert "2?" not in text
    assert card.rows == len(rows) == 2
    assert card.left_out["held out: not of split train"] == 2
    _, tested = exported(folder, tmp_path / "b.jsonl", format_name=name, split=Split.TEST)
    assert "2?" in json.dumps(tested)


def test_the_card_says_what_the_file_holds(folder: Path, tmp_path: Path) -> None:
    """Whoever finds the file in a year can tell what it is and whether it may be used."""
    card, _ = exported(folder, tmp_path / "a.jsonl")

    kept_card = msgspec.json.decode((tmp_path / "a.jsonl.card.json").read_bytes(), type=ExportCard)
    assert kept_card == card
    assert (card.tasks, card.tools, card.turns, card.licences) == (2, 2, 2, {"MIT": 2})
    assert card.left_out["the model or the tools failed"] == 1
    assert card.bytes == (tmp_path / "a.jsonl").stat().st_size


def test_the_furthest_conversations_are_taken(folder: Path, tmp_path: Path) -> None:
    """What was selected is what somebody wants to train on; the others by name."""
    root = DataFolder(folder)
    first = next(iter(read_jsonl(root.trajectories, Trajectory)))
    write_jsonl(root.selected, [first])

    assert exported(folder, tmp_path / "a.jsonl")[0].rows == 1
    assert exported(folder, tmp_path / "b.jsonl", origin=Origin.TRAJECTORIES)[0].rows == 2
    assert exported(folder, tmp_path / "c.jsonl", format_name="trl-prompt")[0].rows == 2
    prompts, _ = exported(
        folder, tmp_path / "d.jsonl", format_name="trl-prompt", origin=Origin.SELECTED
    )
    assert (prompts.rows, prompts.left_out["not in selected.jsonl"]) == (1, 1)
    with pytest.raises(DataError, match=r"augmented.jsonl: no such file"):
        exported(folder, tmp_path / "e.jsonl", origin=Origin.AUGMENTED)


def test_packed_lines_are_the_same_bytes_every_time(folder: Path, tmp_path: Path) -> None:
    """Equal data has an equal hash, whatever the clock says."""
    plain, _ = exported(folder, tmp_path / "a.jsonl")
    for name in ("b.jsonl.gz", "c.jsonl.gz", "d.jsonl.zst"):
        export_folder(folder, tmp_path / name, ExportOptions(format_name="openai"))

    assert (tmp_path / "b.jsonl.gz").read_bytes() == (tmp_path / "c.jsonl.gz").read_bytes()
    assert (
        gzip.decompress((tmp_path / "b.jsonl.gz").read_bytes())
        == (tmp_path / "a.jsonl").read_bytes()
    )
    again = import_files(tmp_path / "d.jsonl.zst", tmp_path / "again", ImportOptions())
    assert again.trajectories == plain.rows


@pytest.mark.parametrize(
    ("options", "name", "complaint"),
    [
        ({"format_name": "moon"}, "a.jsonl", "no format 'moon' to write"),
        ({"format_name": "verl"}, "a.jsonl", "written as .parquet"),
        ({"format_name": "openai"}, "a.parquet", "written as .jsonl"),
        ({"split": Split.DEV, "origin": Origin.SELECTED}, "a.jsonl", "nothing of split dev"),
        ({}, "data/tasks.jsonl", "one of the folder's own files"),
    ],
)
def test_what_cannot_be_exported_is_one_line_and_no_file(
    folder: Path, tmp_path: Path, options: dict[str, Any], name: str, complaint: str
) -> None:
    """A file of nothing, or over the data itself, would be found out too late."""
    root = DataFolder(folder)
    write_jsonl(root.selected, [next(iter(read_jsonl(root.trajectories, Trajectory)))])
    before = root.tasks.read_bytes()

    with pytest.raises((RecipeError, DataError), match=complaint):
        exported(folder, tmp_path / name, **options)

    assert root.tasks.read_bytes() == before
    assert not (tmp_path / "a.jsonl").exists()


def test_a_conversation_without_its_task_is_named(folder: Path, tmp_path: Path) -> None:
    """Two folders were mixed up, and its tools would be missing."""
    root = DataFolder(folder)
    write_jsonl(root.tasks, list(read_jsonl(root.tasks, Task))[1:])

    with pytest.raises(DataError, match="task 't0'"):
        exported(folder, tmp_path / "a.jsonl")


def test_a_damaged_task_is_named_by_line(folder: Path, tmp_path: Path) -> None:
    """One line is to be mended, not searched for."""
    path = DataFolder(folder).tasks
    path.write_bytes(path.read_bytes() + b'{"id": 3}\n')

    with pytest.raises(DataError, match=r"tasks.jsonl:5"):
        exported(folder, tmp_path / "a.jsonl")


def test_an_error_is_one_line_at_the_terminal(folder: Path, tmp_path: Path) -> None:
    """A bar of nothing before the error reads as if something had been done."""
    out = tmp_path / "a.jsonl"
    (tmp_path / "odd.jsonl").write_text('{"no": "conversation"}\n')
    for run in (
        ("export", folder, "--format", "moon", "--out", out),
        ("export", folder, "--format", "trl", "--from", "augmented", "--out", out),
        ("import", tmp_path / "none.jsonl", "--out", tmp_path / "i"),
        ("import", tmp_path / "odd.jsonl", "--format", "openai", "--out", tmp_path / "i"),
    ):
        result = CliRunner().invoke(main, [str(each) for each in run])
        assert result.exit_code != 0
        assert len(result.stderr.splitlines()) == 1, result.stderr
        assert result.stderr.startswith("Error: ")


def test_the_command_writes_and_tells(folder: Path, tmp_path: Path) -> None:
    """What is in the file, what is not, and how to read it."""
    out = tmp_path / "train.jsonl"

    result = CliRunner().invoke(main, ["export", str(folder), "--format", "trl", "--out", str(out)])
    as_json = CliRunner().invoke(
        main, ["export", str(folder), "--format", "trl", "--out", str(out), "--json"]
    )

    assert result.exit_code == 0, result.output
    assert "2 rows of 2 tasks with 2 tools" in result.stdout
    assert "left out: held out" in result.stdout
    assert "Licences: MIT 2." in result.stdout
    assert json.loads(as_json.stdout)["rows"] == 2
