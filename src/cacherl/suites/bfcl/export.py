"""Episodes as BFCL's own result files, for its own evaluator to judge in an environment of its own.

    BFCL_PROJECT_ROOT=OUT bfcl evaluate --model openbmb/MiniCPM-SALA-FC \
        --test-category multi_turn_base --partial-eval

That model is BFCL's one entry for plain chat completions with tools; only its decoder is used. Calls that
the agent loop refused never happened and are left out: BFCL would run them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cacherl.core.errors import DataError
from cacherl.core.jsonl import atomic_writer
from cacherl.core.records import JsonObject
from cacherl.core.trajectories import StopReason, Trajectory
from cacherl.suites.bfcl.cases import CATEGORIES, Cases
from cacherl.suites.bfcl.verdict import MAX_STEPS, turns_of

MODEL = "openbmb/MiniCPM-SALA-FC"
"""Whose folder and decoder stand in for the model that was measured."""


def write_results(out: Path, cases: Cases, trajectories: Iterable[Trajectory]) -> dict[str, int]:
    """Write one file a category below `out`, and return how many episodes each holds.

    Raises:
        DataError: an episode is of no task of BFCL, or of one that was there already.
    """
    rows: dict[str, dict[str, JsonObject]] = {category: {} for category in CATEGORIES}
    for trajectory in trajectories:
        case = cases.by_id.get(trajectory.task_id)
        if case is None:
            raise DataError(
                f"{trajectory.task_id!r} is no task of BFCL. Export what was played on --suite bfcl."
            )
        if case.id in rows[case.category]:
            raise DataError(
                f"{case.id} was played more than once, and BFCL's files hold one result a task. "
                "Name one trial with --trial."
            )
        rows[case.category][case.id] = {"id": case.id, "result": result_of(trajectory)}
    folder = out / "result" / MODEL.replace("/", "_") / "multi_turn"
    written = {category: found for category, found in rows.items() if found}
    for category, found in written.items():
        with atomic_writer(folder / f"BFCL_v4_multi_turn_{category}_result.json") as handle:
            for row in sorted(found.values(), key=lambda row: cases.by_id[row["id"]].number):
                handle.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    return {category: len(found) for category, found in written.items()}


def result_of(trajectory: Trajectory) -> list[list[Any]]:
    """Return an episode as BFCL's runner stores it: by user turn and step, the calls of each by name.

    An episode that did not get to its end has fewer turns than gold, by which BFCL knows that it was cut.
    """
    turns = turns_of(trajectory)
    result: list[list[Any]] = [
        [
            [{call.name: json.dumps(call.arguments, ensure_ascii=False)} for call in step]
            for step in turn
            if step
        ]
        for turn in turns
    ]
    too_long = any(len(turn) > MAX_STEPS for turn in turns)
    return result[:-1] if too_long or trajectory.stop is StopReason.MAX_TURNS else result
