"""The page on one's own tools: its commands run, its files are read, its options exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from cacherl.cli import main
from cacherl.experiment import load_recipe
from cacherl.teacher.prices import PriceTable
from cacherl.toolbox.config import read_tools

PAGE = (Path(__file__).parents[2] / "docs" / "own-tools.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
LINES = [
    line.strip().split("     ")[0] for line in PAGE.splitlines() if line.startswith("    cacherl ")
]


def block(language: str, at: int = 0) -> str:
    found: list[str] = [text for name, text in BLOCKS if name == language]
    return found[at]


def test_the_commands_that_need_no_key_run_as_they_stand(tmp_path: Path) -> None:
    """The first thing a reader does."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block("sh")],
        cwd=tmp_path,
        env={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "data/desk/card.html").exists()
    assert (tmp_path / "data/desk.jsonl").stat().st_size > 0
    assert (tmp_path / "data/desk.parquet").stat().st_size > 0


def test_the_files_of_the_page_are_read(tmp_path: Path) -> None:
    """Their readers are strict: a key that the page made up would be refused."""
    tools, prices = tmp_path / "tools.toml", tmp_path / "prices.toml"
    tools.write_text(block("toml"), encoding="utf-8")
    prices.write_text(block("toml", 1), encoding="utf-8")

    recipe = tmp_path / "office.toml"
    recipe.write_text(block("toml", 2), encoding="utf-8")
    (tmp_path / "tasks.jsonl").touch()

    assert load_recipe(recipe).world.tools == str(tools)
    assert set(read_tools(tools).mcp) == {"files", "search"}
    assert "2026-11-01" in PriceTable.read(prices).show("openai:my-model")


@pytest.mark.parametrize("line", LINES)
def test_every_command_of_the_page_is_one_with_these_options(line: str) -> None:
    """Commands that need a key or a server cannot run here; what they are made of is checked."""
    words = shlex.split(line)[1:]
    words = words[: words.index("--")] if "--" in words else words
    command: click.Command = main
    while isinstance(command, click.Group):
        found = command.get_command(click.Context(command), words.pop(0))
        assert found is not None, line
        command = found
    known = {option for each in command.params for option in each.opts}

    for word in words:
        if word.startswith("--"):
            assert word in known, f"{line}: {word}"
