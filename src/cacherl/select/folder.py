"""A whole data folder: what is chosen of it, every judgement, and the data card."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from cacherl.core.errors import DataError, RecipeError
from cacherl.core.folders import DataFolder
from cacherl.core.jsonl import atomic_writer, read_jsonl, write_jsonl
from cacherl.core.made_from import MadeFrom, made_from
from cacherl.core.records import JsonObject, Record
from cacherl.core.task_file import TaskFile
from cacherl.core.tasks import Task
from cacherl.core.trajectories import Trajectory
from cacherl.select.balance import Selection
from cacherl.select.card import (
    Card,
    CardBuilder,
    Counting,
    costs_of,
    file_facts,
    selection_facts,
)
from cacherl.select.duplicates import HeldOutTexts, asked
from cacherl.select.options import SelectOptions
from cacherl.select.stage import ReadTold, choose, paired, select
from cacherl.select.verdicts import Scorers
from cacherl.teacher.ledger import Row

THIS_SET = "this set"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to be done with a folder, apart from how trajectories are scored."""

    source: Path
    """The trajectories to choose from, or to describe."""
    options: SelectOptions = field(default_factory=SelectOptions)
    judge: str = ""
    """The judge's name, for the card."""
    against: Sequence[Path] = ()
    """Folders or files of held-out tasks."""
    count_tokens: Counting | None = None
    tokenizer: str = ""
    said: JsonObject = field(default_factory=dict)
    """Further options, for the card."""
    paid: tuple[Row, ...] = ()
    """What the judge was paid over the whole history of the journal."""
    named: bool = False
    """A person named `source`; else it is the furthest there is."""
    renew: Sequence[str] = ()
    """The command line that does this again."""
    made_at: datetime


class SelectSummary(Record, frozen=True, kw_only=True):
    """What selecting did. Kept as select.json."""

    made_from: MadeFrom
    kept: int
    by_verdict: dict[str, int]
    paid: tuple[Row, ...] = ()
    """The judge's rows of the ledger, over all runs."""


def source_of(folder: DataFolder) -> Path:
    """Return what selecting chooses from: the trajectories with reasoning, else as they were recorded.

    Raises:
        DataError: there is neither.
    """
    for path in (folder.augmented, folder.trajectories):
        if path.exists():
            return path
    raise DataError(
        f"{folder.root}: holds no trajectories. Make some with `cacherl record` or `cacherl import`."
    )


def judgements_of(folder: DataFolder) -> Path:
    """Return where every trajectory's scores and verdict are: `Judgement` records in the order read."""
    return folder.root / "judgements.jsonl"


def select_folder(
    folder: DataFolder,
    wanted: Wanted,
    scorers: Scorers,
    held_out: HeldOutTexts | None = None,
    on_read: ReadTold = lambda count: None,
) -> tuple[Selection, Card]:
    """Write selected.jsonl, judgements.jsonl, select.json and card.json; each whole or not at all.

    Raises:
        DataError: a file is missing or damaged, or nothing is worth keeping.
    """
    builder = _builder(wanted)
    source = made_from(
        folder,
        wanted.source,
        wanted.renew or ("select", str(folder.root)),
        named=wanted.named,
    )
    with TaskFile(folder.tasks) as tasks:
        selection = select(
            tasks,
            wanted.source,
            folder.selected,
            scorers=scorers,
            options=wanted.options,
            held_out=held_out,
            on_read=on_read,
            on_kept=builder.add,
        )
    write_jsonl(judgements_of(folder), selection.judgements)
    summary = SelectSummary(
        made_from=source,
        kept=selection.kept,
        by_verdict=selection.by_verdict,
        paid=wanted.paid,
    )
    _write(summary, folder.select_json)
    said = {
        **msgspec.to_builtins(wanted.options, order="deterministic"),
        **wanted.said,
    }
    card = builder.build(
        name=folder.root.resolve().name,
        made_at=wanted.made_at,
        files=(
            file_facts(folder.selected, THIS_SET),
            file_facts(wanted.source, "trajectories"),
            file_facts(folder.tasks, "tasks"),
            *(file_facts(path, "held out") for path in _held_out_files(wanted.against)),
        ),
        options=said,
        selection=selection_facts(selection, wanted.judge),
        costs=costs_of(_ledger(folder)),
    )
    write_card_json(card, folder.card_json)
    return selection, card


def preview(
    folder: DataFolder,
    wanted: Wanted,
    scorers: Scorers,
    held_out: HeldOutTexts | None = None,
    on_read: ReadTold = lambda count: None,
) -> Selection:
    """Return what `select_folder` would keep, and write nothing."""
    with TaskFile(folder.tasks) as tasks:
        return choose(
            tasks,
            read_jsonl(wanted.source, Trajectory),
            scorers,
            wanted.options,
            held_out=held_out,
            on_read=on_read,
        )


def describe_folder(
    folder: DataFolder, wanted: Wanted, on_read: ReadTold = lambda count: None
) -> Card:
    """Write card.json about a file of trajectories as it is.

    What an earlier selection said of this very file is kept: its digest tells.

    Raises:
        DataError: a file is missing or damaged, or holds nothing.
    """
    builder = _builder(wanted)
    with TaskFile(folder.tasks) as tasks:
        for count, (task, trajectory) in enumerate(
            paired(tasks, read_jsonl(wanted.source, Trajectory)), 1
        ):
            builder.add(task, trajectory)
            on_read(count)
    this = file_facts(wanted.source, THIS_SET)
    earlier = read_card(folder.card_json)
    chosen = (
        earlier if earlier is not None and earlier.selection and this in earlier.files else None
    )
    card = builder.build(
        name=folder.root.resolve().name,
        made_at=wanted.made_at,
        files=chosen.files if chosen else (this, file_facts(folder.tasks, "tasks")),
        options={**(chosen.options if chosen else {}), **wanted.said},
        selection=chosen.selection if chosen else None,
        verifiers=chosen.verifiers if chosen else None,
        costs=costs_of(_ledger(folder)),
    )
    write_card_json(card, folder.card_json)
    return card


def read_card(path: Path) -> Card | None:
    """Return the card of a folder; None where there is none that this version can read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Card)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def write_card_json(card: Card, path: Path) -> None:
    """Write the card for machines, indented; it appears whole or not at all."""
    _write(card, path)


def _write(record: Record, path: Path) -> None:
    with atomic_writer(path) as handle:
        handle.write(msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")


# ---- what decides beside the verifiers -------------------------------------------------------


def held_out_of(paths: Sequence[Path]) -> HeldOutTexts:
    """Return what the held-out tasks in these folders and files ask.

    Raises:
        DataError: a path holds no tasks.
    """
    return HeldOutTexts(text for path in _held_out_files(paths) for text in _texts_in(path))


def _held_out_files(paths: Sequence[Path]) -> list[Path]:
    files = []
    for path in paths:
        folder = DataFolder(path)
        held = [path] if path.is_file() else [folder.tasks, folder.trajectories]
        there = [each for each in held if each.is_file()]
        if not there:
            raise DataError(
                f"{path}: holds no held-out tasks. Name a folder with tasks.jsonl, or a file of tasks or "
                "trajectories."
            )
        files += there
    return files


def _texts_in(path: Path) -> list[tuple[str, str]]:
    try:
        list(islice(read_jsonl(path, Task), 1))
    except DataError:
        return [(t.task_id, asked(t)) for t in read_jsonl(path, Trajectory)]
    return [(task.id, "\n".join(task.user_turns)) for task in read_jsonl(path, Task)]


def noted_by(path: str, top: float) -> Callable[[Trajectory], float | None]:
    """Return the reader of a score in the notes of trajectories, such as `reward`, scaled to [0, 1].

    `path` names members within members by dots: `scores.response_completeness`. `top` is the best score.
    """
    if top <= 0:
        raise RecipeError(f"--note-max {top}: the best score must be above 0.")
    names = path.split(".")

    def noted(trajectory: Trajectory) -> float | None:
        value: Any = trajectory.notes
        for name in names:
            value = value.get(name) if isinstance(value, Mapping) else None
        if not isinstance(value, int | float):  # true and false are 1 and 0
            return None
        if value > top:
            raise RecipeError(
                f"{trajectory.task_id}: {path} = {value:g} is above {top:g}. "
                "Say what the best score is with --note-max."
            )
        return max(0.0, float(value)) / top

    return noted


def _builder(wanted: Wanted) -> CardBuilder:
    return CardBuilder(
        count_tokens=wanted.count_tokens, tokenizer=wanted.tokenizer, seed=wanted.options.seed
    )


def _ledger(folder: DataFolder) -> Path:
    whole = folder.journal / "ledger.json"  # of every stage that asked through the journal
    return whole if whole.exists() else folder.ledger
