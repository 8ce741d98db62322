"""The terminal: help, examples, and one line for every mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from cacherl.cli import main

TAU = Path(__file__).parents[2] / "shared" / "data" / "tau-bench" / "gpt-4o-airline.json"


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


@pytest.mark.parametrize("path", list(commands(main)), ids=" ".join)
def test_every_command_has_help_with_an_example(path: tuple[str, ...]) -> None:
    """A person learns a command from its example."""
    result = CliRunner().invoke(main, [*path, "--help"])

    assert result.exit_code == 0
    assert "Example:" in result.output
    assert f"cacherl {' '.join(path)}" in result.output


@pytest.mark.parametrize(
    ("arguments", "code", "seen"),
    [
        (["run", "nope.toml"], 2, "nope.toml"),
        (["eval", "runs/none/model"], 1, "runs/none/model"),
        (["eval", "expert", "--suite", "moon"], 2, "moon"),
        (["eval", "expert", "--tools", "cached"], 2, "--cache"),
        (["cache", "stats", "nope.sqlite"], 1, "nope.sqlite"),
        (["import", "--format", "tau-bench", "nope.json"], 1, "nope.json"),
        (["replay", "nope"], 1, "nope"),
        (["eval", "openai:m@http://127.0.0.1:9/v1", "--limit", "1"], 1, "127.0.0.1:9"),
    ],
)
def test_a_mistake_is_one_line_and_an_exit_code(
    arguments: list[str], code: int, seen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No traceback for what a person can mend."""
    monkeypatch.chdir(tmp_path)

    result = CliRunner().invoke(main, arguments)

    lines = [line for line in result.stderr.splitlines() if line.startswith("Error:")]
    assert result.exit_code == code, result.output
    assert len(lines) == 1
    assert seen in lines[0]
    assert "Traceback" not in result.output


def test_eval_of_the_expert_prints_figures_and_intervals_as_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ceiling of the suite, by the same command that measures a model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CACHERL_HOME", str(tmp_path / "home"))
    arguments = ["eval", "expert", "--suite", "desk", "--split", "dev", "--seed", "3"]
    result = CliRunner().invoke(main, [*arguments, "--limit", "32", "--json"])

    figures = json.loads(result.stdout)
    assert result.exit_code == 0
    assert figures["n"] == 32
    assert figures["process_accuracy"] == pytest.approx(1.0)
    assert figures["end_to_end"] == pytest.approx(1.0)
    assert len(figures["process_accuracy_interval"]) == 2


def test_tasks_shows_how_the_expert_solves_them() -> None:
    """The quickest way to see what the desk is about."""
    result = CliRunner().invoke(main, ["tasks", "--limit", "3", "--solve", "--family", "cancel"])

    assert result.exit_code == 0
    assert "-> get_order" in result.output


@pytest.mark.skipif(not TAU.exists(), reason="../shared/data/tau-bench is not here")
def test_an_import_can_be_looked_up_and_replays_byte_for_byte(tmp_path: Path) -> None:
    """Real recordings from outside come back through the loop exactly as they were."""
    runner = CliRunner()
    out = str(tmp_path / "air")

    imported = runner.invoke(
        main, ["import", "--format", "tau-bench", str(TAU), "--out", out, "--json"]
    )
    replayed = runner.invoke(main, ["replay", out, "--json"])
    stats = runner.invoke(main, ["cache", "stats", f"{out}/cache.sqlite", "--json"])
    call = ["get_user_details", '{"user_id": "mia_li_3668"}', "--json"]
    hit = runner.invoke(main, ["cache", "lookup", f"{out}/cache.sqlite", *call])
    near = runner.invoke(
        main, ["cache", "explain", f"{out}/cache.sqlite", call[0], '{"user_id": "mia_li_3669"}']
    )

    assert json.loads(imported.stdout)["trajectories"] == 200
    summary = json.loads(replayed.stdout)
    assert summary["different"] == summary["refused"] == 0
    assert summary["identical"] == summary["results"] == 1164
    assert len(json.loads(stats.stdout)["tools"]) == 14
    assert json.loads(hit.stdout)["tier"] == "exact"
    assert near.exit_code == 0
    assert "not fuzzy" in near.output


def test_a_corrupt_line_is_named_by_file_and_line(tmp_path: Path) -> None:
    """Nobody can fix a file without knowing where."""
    (tmp_path / "tasks.jsonl").write_text('{"id": 3}\n')
    (tmp_path / "trajectories.jsonl").write_text("")

    result = CliRunner().invoke(main, ["replay", str(tmp_path)])

    assert result.exit_code == 1
    assert "tasks.jsonl:1" in result.stderr
    assert "$.id" in result.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("more", [(), ("--json",)])
def test_a_full_disk_is_one_line_too(more: tuple[str, ...]) -> None:
    """What was done is on file; a traceback on top would look as if it were not."""
    command = [sys.executable, "-c", "from cacherl.cli import main; main()", "tasks", *more]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)

    assert done.returncode == 1
    assert done.stderr.startswith("Error: No space left on device.")
    assert done.stderr.count("\n") == 1
