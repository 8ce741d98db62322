"""The folder of one evaluation: what it is of, its rows, its figures.

eval.json       what is evaluated: suite and pin, tasks, model, tools, sampling (`Plan`)
tasks.jsonl     the tasks, so that rows can be explained and checked again
bounds.jsonl    floor and ceiling of each task
results.jsonl   a line a task and trial
summary.json    every figure with its interval, floor and ceiling
page.html       the same for people
journal/        what a paid model was asked and what it replied
ledger.json     what that cost
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from cacherl.core.errors import DataError, RecipeError
from cacherl.core.jsonl import atomic_writer, read_jsonl, write_jsonl
from cacherl.core.records import JsonObject, Record
from cacherl.core.suites import SuiteInfo
from cacherl.core.tasks import Split, Task
from cacherl.evaluate.bounds import BoundRow
from cacherl.evaluate.provenance import Made


class Plan(Record, frozen=True, kw_only=True):
    """What an evaluation is of. Rows made under two plans never stand in one folder."""

    suite: str
    pin: str
    split: Split
    tasks: int
    tasks_digest: str
    model: str
    model_digest: str
    """Of the model's files; for an endpoint its name says all that is known."""
    tools: str
    """`live` or `cached`."""
    cache: str = ""
    """Whose answers: the id of a snapshot, or the digest of a cache file."""
    seed: int
    limits: JsonObject
    sampling: JsonObject
    """Temperature and the like, and the template of a local model."""


class Manifest(Record, frozen=True, kw_only=True):
    """`eval.json`."""

    plan: Plan
    trials: int
    """Times each task is played. May grow, never shrink: later trials join the earlier ones."""
    info: SuiteInfo
    runs: tuple[Made, ...] = ()
    """Every run that added rows, with its code and its machine."""


@dataclass(frozen=True, slots=True)
class EvalFolder:
    """Where its parts are."""

    root: Path

    @property
    def manifest(self) -> Path:
        """What is evaluated."""
        return self.root / "eval.json"

    @property
    def tasks(self) -> Path:
        """`Task` records."""
        return self.root / "tasks.jsonl"

    @property
    def bounds(self) -> Path:
        """`BoundRow` records."""
        return self.root / "bounds.jsonl"

    @property
    def results(self) -> Path:
        """`Result` and `Outage` records."""
        return self.root / "results.jsonl"

    @property
    def summary(self) -> Path:
        """The figures for machines."""
        return self.root / "summary.json"

    @property
    def page(self) -> Path:
        """The figures for people."""
        return self.root / "page.html"

    @property
    def journal(self) -> Path:
        """A folder: every paid request and its reply."""
        return self.root / "journal"

    @property
    def ledger(self) -> Path:
        """What the model cost."""
        return self.root / "ledger.json"

    def read_manifest(self) -> Manifest:
        """Return what the folder is of.

        Raises:
            DataError: it is no folder of an evaluation, or its manifest is damaged.
        """
        try:
            return msgspec.json.decode(self.manifest.read_bytes(), type=Manifest)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise DataError(
                f"{self.root}: holds no evaluation (no {self.manifest.name}). Name a folder that "
                "`cacherl eval` wrote, such as one in runs/eval."
            ) from error
        except msgspec.DecodeError as error:
            raise DataError(
                f"{self.manifest}: cannot be read ({error}). Restore it, or evaluate again into "
                "another folder."
            ) from error

    def read_tasks(self) -> list[Task]:
        """Return the tasks, in their order."""
        return list(read_jsonl(self.tasks, Task))

    def read_bounds(self) -> dict[str, BoundRow]:
        """Return the bounds by task id; none where the run ended before they were measured."""
        if not self.bounds.exists():
            return {}
        return {row.task_id: row for row in read_jsonl(self.bounds, BoundRow)}

    def write(self, path: Path, record: Record) -> None:
        """Write one record as indented JSON, whole or not at all."""
        with atomic_writer(path) as handle:
            handle.write(msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")


def begin(folder: EvalFolder, manifest: Manifest, tasks: Sequence[Task]) -> Manifest:
    """Prepare the folder, or find that it is of this very evaluation, and return its manifest.

    Raises:
        RecipeError: it is of another evaluation; says what differs.
    """
    if folder.manifest.exists():
        earlier = folder.read_manifest()
        differs = difference(earlier.plan, manifest.plan)
        if differs:
            raise RecipeError(
                f"{folder.root} holds another evaluation ({'; '.join(differs)}). Name another folder "
                "with --out, or move this one away."
            )
        manifest = msgspec.structs.replace(
            manifest, runs=earlier.runs, trials=max(manifest.trials, earlier.trials)
        )
    write_jsonl(folder.tasks, tasks)
    folder.write(folder.manifest, manifest)
    return manifest


def difference(there: Plan, now: Plan) -> list[str]:
    """Return what two plans differ in, field by field, in words."""
    found = []
    old, new = _flat(msgspec.to_builtins(there)), _flat(msgspec.to_builtins(now))
    for name in sorted({*old, *new}):
        if old.get(name) != new.get(name):
            found.append(f"{name}: {_said(old.get(name))} there, {_said(new.get(name))} now")
    return found


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _said(value: Any) -> str:
    return "nothing" if value is None or value == "" else str(value)


def folder_name(plan: Plan, shown_model: str) -> str:
    """Return what a folder is called unless told: `<suite>-<split>-<model>-<n>`, and what is unusual.

    A seed, cached tools or a temperature of one's own get a folder of their own: two evaluations that differ
    in them are both wanted more often than not.
    """
    parts = [_slug(plan.suite), plan.split.value, _slug(shown_model), str(plan.tasks)]
    if plan.tools != "live":
        parts.append(plan.tools)
    if plan.seed:
        parts.append(f"s{plan.seed}")
    if plan.sampling.get("temperature"):
        parts.append(f"t{plan.sampling['temperature']:g}")
    return "-".join(parts)


def _slug(text: str) -> str:
    text = re.sub(r"@https?://", "-", text)
    text = re.sub(r"^(\./)?(runs|models)/", "", text.rstrip("/"))
    text = re.sub(r"/model$", "", text)
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.") or "model"
