"""`cacherl shadow` as a person meets it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cacherl.cache.lookup.tool_cache import ToolCache
from cacherl.cli.shadowing import shadow_command
from cacherl.cli.terminal import Group
from cacherl.core.jsonl import read_jsonl
from cacherl.core.tasks import Task
from cacherl.core.trajectories import Trajectory


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of the desk."""
    from cacherl.cli import main

    root = tmp_path_factory.mktemp("recorded") / "desk"
    done = CliRunner().invoke(
        main,
        ["record", "--world", "desk", "--teacher", "expert", "--count", "40", "--out", str(root)],
    )
    assert done.exit_code == 0, done.output
    return root


def shadowed(*words: str | Path) -> Result:
    group = Group(commands={"shadow": shadow_command})
    return CliRunner().invoke(group, ["shadow", *map(str, words)])


def figures(*words: str | Path) -> dict[str, Any]:
    done = shadowed(*words, "--json")
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def on_desk(desk: Path, out: Path) -> tuple[str | Path, ...]:
    return ("--world", "desk", "--cache", desk / "cache.sqlite", "--limit", "12", "--out", out)


def test_an_honest_cache_is_told_so_with_n_and_intervals(desk: Path, tmp_path: Path) -> None:
    """Figures, where the rows are, what to type next."""
    done = shadowed("oracle", *on_desk(desk, tmp_path), "--stray", "0.5")

    assert done.exit_code == 0, done.output
    assert "12 tasks" in done.output
    assert "95 %" in done.output
    assert "EXACT and wrong" not in done.output
    assert f"Rows: {tmp_path / 'shadow.jsonl'}" in done.output
    assert f"cacherl cache calibrate {desk / 'cache.sqlite'}" in done.output
    assert {path.name for path in tmp_path.iterdir()} >= {
        "shadow.json",
        "shadow.jsonl",
        "shadow.html",
        "summary.json",
    }
    again = shadowed("oracle", *on_desk(desk, tmp_path), "--stray", "0.5")
    assert "24 episodes were on file, 0 were played now." in again.output


LIES = """
[tools.cancel_order]
reads = []
writes = []
[tools.get_order]
reads = []
"""


def test_a_cache_recorded_under_wrong_effects_is_found_and_named(
    desk: Path, tmp_path: Path
) -> None:
    """The same recordings, put into a cache that was told that cancelling changes nothing."""
    (tmp_path / "lies.toml").write_text(LIES)
    cache = tmp_path / "cache.sqlite"
    tasks = {task.id: task for task in read_jsonl(desk / "tasks.jsonl", Task)}
    with ToolCache.open(cache, mode="write", settings=tmp_path / "lies.toml") as lying:
        for each in read_jsonl(desk / "trajectories.jsonl", Trajectory):
            lying.record_trajectory(tasks[each.task_id], each, recorded_at=0.0)

    words = ("oracle", "--world", "desk", "--cache", cache, "--settings", tmp_path / "lies.toml")
    more = ("--limit", "40", "--stray", "1.0", "--serve", "cached", "--out", tmp_path / "run")
    done = shadowed(*words, *more)

    assert done.exit_code == 0, done.output
    assert "! changed the world, declared not to: cancel_order" in done.output
    assert "! EXACT and wrong (effects): " in done.output
    assert "changed before: cancel_order" in done.output
    assert f"Next: cacherl cache tools {cache} --write cache.toml" in done.output
    page = (tmp_path / "run" / "shadow.html").read_text()
    assert "Every EXACT answer that was wrong" in page
    assert "cancel_order" in page


def test_json_is_the_summary(desk: Path, tmp_path: Path) -> None:
    """For machines: the same record as summary.json."""
    found = figures("oracle", *on_desk(desk, tmp_path), "--serve", "cached")

    assert found == json.loads((tmp_path / "summary.json").read_text())
    assert found["live"] is None
    assert found["pairs"] is None
    assert sum(found["cached"]["fates"].values()) == found["cached"]["calls"] > 0


def test_a_recording_can_be_shadowed_with_no_model_at_all(desk: Path, tmp_path: Path) -> None:
    """What one has on the first day: trajectories and the cache of them."""
    found = figures(desk / "trajectories.jsonl", *on_desk(desk, tmp_path))

    assert found["cached"]["fates"]["wrong"] == 0
    assert found["cached"]["fates"]["missed"] == 0
    assert found["pairs"]["funnel"]["differed"] == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--world", "moon"), "no such suite"),
        (("--world", "tools.toml"), "needs --tasks FILE"),
        (("--world", "desk", "--tasks", "t.jsonl"), "brings its own tasks"),
    ],
)
def test_what_makes_no_sense_is_said_in_one_line(
    words: tuple[str, ...], said: str, desk: Path, tmp_path: Path
) -> None:
    """Before anything is played."""
    done = shadowed("oracle", *words, "--cache", desk / "cache.sqlite", "--out", tmp_path)
    assert done.exit_code == 2
    assert said in done.output
    assert done.output.count("\n") == 1


def test_a_name_that_is_no_cache_does_not_become_one(tmp_path: Path) -> None:
    """A typing error must not read as a cache that misses everything."""
    done = shadowed(
        "oracle", "--world", "desk", "--cache", tmp_path / "none.sqlite", "--out", tmp_path / "o"
    )
    assert done.exit_code == 1
    assert "none.sqlite" in done.output
    assert not (tmp_path / "none.sqlite").exists()


def test_tools_that_act_outside_are_not_handed_to_a_policy(tmp_path: Path, desk: Path) -> None:
    """Without a reset every write would be one on a real account."""
    (tmp_path / "acts.py").write_text(
        'def send_mail(to: str) -> str:\n    """Send a mail."""\n    return "sent"\n'
    )
    (tmp_path / "tools.toml").write_text(
        'namespace = "office"\n[python.acts]\nmodule = "acts.py"\n'
    )
    (tmp_path / "tasks.jsonl").write_text('{"id": "a", "user": "Write to Ann."}\n')
    done = shadowed(
        *("oracle", "--world", tmp_path / "tools.toml", "--tasks", tmp_path / "tasks.jsonl"),
        *("--cache", desk / "cache.sqlite", "--out", tmp_path / "o"),
    )
    assert done.exit_code == 2
    assert "--live-writes" in done.output
