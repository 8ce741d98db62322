"""The command line must start on a machine that has none of the extras."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "trl", "peft", "datasets", "mcp", "openai", "matplotlib", "verl")


@pytest.mark.parametrize(
    "room",
    ["cacherl.cli", "cacherl.evaluate", "cacherl.metrics", "cacherl.report", "cacherl.worlds"],
)
def test_importing_a_room_loads_no_heavy_package(room: str) -> None:
    """`cacherl --help` has to answer at once, and on a laptop without torch."""
    script = f"import sys, {room}; print(*(set({HEAVY!r}) & set(sys.modules)))"

    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
