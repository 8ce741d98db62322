"""`cacherl suites` with a clone of the user's: add it, look at it, see what is wrong with its golds."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cacherl.cli import main
from tests.suites.acebench_checkout import build
from tests.suites.tau_checkout import build_v1


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACHERL_HOME", str(tmp_path / "home"))


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["suites", *map(str, arguments)])


def test_a_clone_is_added_shown_and_its_flaws_told(tmp_path: Path) -> None:
    """Three commands from a clone to what a figure on it would mean."""
    added = run("add", "acebench", "--path", build(tmp_path / "clone"))
    assert added.exit_code == 0
    assert added.stdout.endswith("Next: cacherl suites show acebench\n")

    shown = json.loads(run("show", "acebench", "--json").stdout)
    assert (shown["floor"], shown["ceiling"]) == (0.0, 1.0)
    flaws = run("flaws", "acebench")
    assert "1 not-python, 1 unreachable, 1 unchecked" in flaws.stdout


def test_the_floor_of_tau_is_really_played(tmp_path: Path) -> None:
    """Doing nothing earns rewards there, and the tasks are named."""
    clone = build_v1(tmp_path / "clone")
    assert run("add", "tau", "--path", clone, "--python", sys.executable).exit_code == 0

    shown = json.loads(run("show", "tau:library,scripted", "--json").stdout)
    assert shown["floor"] == 0.25
    assert shown["floor_passed"] == ["tau-library-1"]


def test_a_clone_needs_its_path() -> None:
    """One line, with what to type."""
    said = run("add", "tau2")

    assert said.exit_code == 2
    assert "cacherl suites add tau2 --path DIR" in said.output
