"""Rows of a table of figures, each held to what it must reach."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One figure and what it must reach."""

    row: str
    measured: str
    ratio: str
    target: str
    verdict: str
    """`ok`, `falls short`, or why there is none."""
    figures: dict[str, Any] = {}

    def line(self) -> str:
        """Return the row of the table."""
        return (
            f"{self.row:<33} {self.measured:>13}  {self.ratio:<38} {self.target:<26} {self.verdict}"
        )


def judged(row: str, measured: str, ratio: str, target: str, holds: bool, **figures: Any) -> Row:
    """Return a row with its verdict."""
    verdict = "ok" if holds else "falls short"
    return Row(
        row=row, measured=measured, ratio=ratio, target=target, verdict=verdict, figures=figures
    )


def unmeasured(row: str, target: str, why: str) -> Row:
    """Return a row without a figure."""
    return Row(row=row, measured="-", ratio="", target=target, verdict=f"not measured: {why}")


def us(seconds: float) -> float:
    """Return microseconds, for JSON."""
    return round(seconds * 1e6, 3)


def told_us(seconds: float) -> str:
    """Return a duration for people."""
    return f"{seconds * 1e6:.1f} us" if seconds < 1e-3 else f"{seconds * 1e3:.1f} ms"


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which a share of them lies."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def say(line: str) -> None:
    """Tell people, not the table."""
    print(line, flush=True)


def keep(result: Mapping[str, Any], rows: Sequence[Row], path: Path | None) -> None:
    """Write the result to the file, and say how many rows fall short and where it is; None keeps nothing."""
    if path is None:
        say("\nOnly some rows: nothing is kept. Name a file with --out to keep it.")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    short = sum(row.verdict == "falls short" for row in rows)
    say(f"\n{len(rows)} rows, {short} fall short; {result['taken_s']} s. Kept in {path}")
