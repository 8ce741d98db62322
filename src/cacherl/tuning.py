"""A data folder into a fine-tuned model: SFT by itself, with a recipe's settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from cacherl import wiring
from cacherl.core.errors import RecipeError
from cacherl.core.folders import DataFolder
from cacherl.core.jsonl import atomic_writer, read_jsonl
from cacherl.core.records import Record
from cacherl.core.tasks import Split, Task
from cacherl.core.trajectories import Trajectory
from cacherl.experiment import Recipe, RunLock, digest_of, file_digest
from cacherl.sft import SFTSummary, sft

Progress = Callable[[int, int, Mapping[str, float]], None]


class Tuned(Record, frozen=True, kw_only=True):
    """What was made, and of what."""

    model: str
    source: str
    """The file of trajectories that was learnt from."""
    summary: SFTSummary
    up_to_date: bool = False
    """It had been made before; nothing was done."""


class _Begun(Record, frozen=True, kw_only=True):
    """What the checkpoints, and the model once it is there, belong to."""

    key: str


def tune(
    folder: Path, recipe: Recipe, recipe_path: Path, out: Path, *, on_progress: Progress | None
) -> Tuned:
    """Fine-tune the recipe's model on the furthest trajectories of the folder's training split.

    Called again after a kill it goes on from the last checkpoint; called again after it is done, with
    the same data and settings, it does nothing.

    Raises:
        DataError: the folder holds no trajectories, or none to learn from.
        RecipeError: `out` holds another run.
    """
    data = DataFolder(folder)
    source = data.best()
    model = wiring.model_path(recipe.model.path, recipe_path.resolve().parent)
    key = digest_of([file_digest(source), file_digest(data.tasks), recipe.model, recipe.sft])
    done, begun = out / "sft.json", out / "begun.json"
    out.mkdir(parents=True, exist_ok=True)
    with RunLock(out):
        if begun.exists() and msgspec.json.decode(begun.read_bytes(), type=_Begun).key != key:
            raise RecipeError(
                f"{out} holds a model or checkpoints of other data or settings. "
                "Name another folder with --out, or move this one away."
            )
        _write(begun, _Begun(key=key))
        if done.exists():
            tuned = msgspec.json.decode(done.read_bytes(), type=Tuned)
            return msgspec.structs.replace(tuned, up_to_date=True)
        tasks = {
            task.id: task for task in read_jsonl(data.tasks, Task) if task.split is Split.TRAIN
        }
        wiring.prepare_cpu(recipe.threads)
        summary = sft(
            tasks,
            (each for each in read_jsonl(source, Trajectory) if each.task_id in tasks),
            wiring.codec_of(model, recipe.model.template),
            wiring.trainer_of(recipe),
            recipe.sft,
            model=model,
            out=out / "model",
            work=out / "work",
            on_progress=on_progress,
        )
        tuned = Tuned(model=str(out / "model"), source=str(source), summary=summary)
        _write(done, tuned)
    return tuned


def _write(path: Path, record: Record) -> None:
    with atomic_writer(path) as handle:
        handle.write(msgspec.json.encode(record))
