"""The folder of a shadow run.

shadow.json     what it is of (`ShadowPlan`)
shadow.jsonl    a line an episode: served by the cache or by the world, with what the other said beside
summary.json    what the lines say together (`ShadowSummary`)
shadow.html     the same for people
journal/        what a paid model was asked and what it replied
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import msgspec

from cacherl.core.errors import DataError, RecipeError
from cacherl.core.jsonl import atomic_writer, read_jsonl
from cacherl.core.records import JsonObject, Record
from cacherl.core.tasks import Split
from cacherl.core.trajectories import StopReason, Trajectory
from cacherl.shadow.compared import Compared, Serve

Sample = tuple[str, int, Serve]
"""Task id, trial and who serves."""


class ShadowPlan(Record, frozen=True, kw_only=True):
    """What a shadow run is of. Lines of two plans never stand in one file."""

    model: str
    world: str
    cache: str
    cache_holds: str
    """Calls and observations in it: another recording is another cache."""
    split: Split
    sees: tuple[Split, ...]
    """Whose recordings the cache may show."""
    scope: str
    on_miss: str
    seed: int
    limits: JsonObject
    sampling: JsonObject = {}


class Leg(Record, frozen=True, kw_only=True, tag_field="line", tag="leg"):
    """One episode, served by one side, with the other beside."""

    task_id: str
    trial: int
    serve: Serve
    split: Split
    family: str
    scenario: str
    trajectory: Trajectory
    """Token ids are left out. `final_state` is the world's, which was acted on or stepped along."""
    compared: tuple[Compared, ...]
    """Every call that reached a tool, in order."""
    metrics: dict[str, float]
    """As the side that served can tell: on the cache without the world's state, as training scores it."""
    world: dict[str, float] = {}
    """What the same calls are worth in the world. Equal to `metrics` where the world served; empty where
    the world was not stepped along to the end."""
    parted: str = ""
    """Why cache and world stood in different states at the end; empty where they did not."""
    wall_s: float = 0.0


class Outage(Record, frozen=True, kw_only=True, tag_field="line", tag="infrastructure"):
    """An episode that model or tools could not play to its end. Played again by the next run."""

    task_id: str
    trial: int
    serve: Serve
    stop: StopReason
    error: str


Line = Leg | Outage


@dataclass(frozen=True, slots=True)
class ShadowFolder:
    """Where its parts are."""

    root: Path

    @property
    def plan(self) -> Path:
        """`ShadowPlan`."""
        return self.root / "shadow.json"

    @property
    def rows(self) -> Path:
        """`Leg` and `Outage` records."""
        return self.root / "shadow.jsonl"

    @property
    def summary(self) -> Path:
        """`ShadowSummary`."""
        return self.root / "summary.json"

    @property
    def page(self) -> Path:
        """The page."""
        return self.root / "shadow.html"

    @property
    def journal(self) -> Path:
        """A folder: every paid request and its reply."""
        return self.root / "journal"

    def begin(self, plan: ShadowPlan) -> None:
        """Write the plan, or find that the folder is of this very one.

        Raises:
            RecipeError: it is of another; says what differs.
            DataError: its plan is damaged.
        """
        if self.plan.exists():
            try:
                earlier = msgspec.json.decode(self.plan.read_bytes(), type=ShadowPlan)
            except msgspec.DecodeError as error:
                raise DataError(
                    f"{self.plan}: cannot be read ({error}). Restore it, or name another folder with --out."
                ) from error
            differs = difference(earlier, plan)
            if differs:
                raise RecipeError(
                    f"{self.root} holds another shadow run ({'; '.join(differs)}). Name another folder "
                    "with --out, or move this one away."
                )
        self.write(self.plan, plan)

    def write(self, path: Path, record: Record) -> None:
        """Write one record as indented JSON, whole or not at all."""
        with atomic_writer(path) as handle:
            handle.write(msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")

    def legs(self) -> dict[Sample, Leg]:
        """Return the episodes on file, in order; none where there is no file yet.

        Raises:
            DataError: a line is damaged (a torn last line is left out).
        """
        if not self.rows.exists():
            return {}
        return {
            (line.task_id, line.trial, line.serve): line
            for line in read_lines(self.rows)
            if isinstance(line, Leg)
        }


def read_lines(path: Path) -> Iterator[Line]:
    """Yield the lines of a file in order; a torn last line is left out.

    Raises:
        DataError: the file is missing, or a line is damaged.
    """
    return read_jsonl(path, cast(Any, Line), drop_torn_tail=True)


def difference(there: ShadowPlan, now: ShadowPlan) -> list[str]:
    """Return what two plans differ in, in words."""
    old: Mapping[str, Any] = msgspec.to_builtins(there)
    new: Mapping[str, Any] = msgspec.to_builtins(now)
    return [
        f"{name}: {old.get(name)} there, {value} now"
        for name, value in new.items()
        if old.get(name) != value
    ]
