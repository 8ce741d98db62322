"""A recipe with tools of one's own: a `tools.toml` and a file of tasks in place of a built-in world."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cacherl.core.jsonl import write_jsonl
from cacherl.core.tasks import Split
from cacherl.worlds.desk import DeskWorld
from tests.teacher_server import TeacherServer
from tests.test_pipeline import environment

BASE = Path(__file__).parents[1] / "models" / "tiny-base"
TOOLS = """
namespace = "{namespace}"
resets = true
scenario = "desk-1"

[mcp.desk]
command = "{python}"
args = ["-m", "cacherl.worlds.desk", "--scenario", "{{scenario}}"]
env = {{ PYTHONPATH = "{source}" }}
"""
RECIPE = """
name = "own"
out = "{out}"
threads = 1
[model]
path = "{model}"
[world]
tools = "tools.toml"
tasks = "tasks.jsonl"
[tasks]
train = 8
test = 2
evaluate_split = "dev"
[record]
policy = "openai:desk@{url}"
[augment]
reasoner = "desk"
[sft]
lora = false
batch_rows = 2
micro_batch_rows = 2
max_steps = 1
[grpo]
lora = false
steps = 1
tasks_per_step = 1
group_size = 2
beta = 0.0
[limits]
max_turns = 5
max_turn_tokens = 48
max_context_tokens = 4096
"""


def run(recipe: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cacherl.cli", "run", str(recipe), *options],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
        timeout=600,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    world = DeskWorld()
    source = Path(__file__).parents[1] / "src"
    tools = TOOLS.format(namespace=world.namespace, python=sys.executable, source=source)
    (tmp_path / "tools.toml").write_text(tools, encoding="utf-8")
    tasks = [
        *world.tasks(Split.TRAIN, count=8, seed=0),
        *world.tasks(Split.DEV, count=2, seed=0),
    ]
    write_jsonl(tmp_path / "tasks.jsonl", tasks)
    return tmp_path


@pytest.mark.skipif(not (BASE / "model.safetensors").exists(), reason="no models/tiny-base here")
def test_a_recipe_goes_all_the_way_on_tools_of_ones_own(folder: Path) -> None:
    """The promise of the first page: record live, then train without calling anything."""
    recipe = folder / "own.toml"
    with TeacherServer(folder=folder) as teacher:
        said = RECIPE.format(out=folder / "run", model=BASE, url=teacher.url)
        recipe.write_text(said, encoding="utf-8")
        done = run(recipe)

    assert done.returncode == 0, done.stderr
    metrics = json.loads((folder / "run" / "metrics.json").read_text())
    assert metrics["live_calls_in_record"] > 0
    assert metrics["live_calls_in_training"] == 0
    assert {metrics[name]["n"] for name in ("base", "sft", "grpo")} == {2}


def test_tools_without_tasks_and_files_that_are_not_there_are_told(folder: Path) -> None:
    """Before anything is started."""
    recipe = folder / "own.toml"
    said = RECIPE.format(out=folder / "run", model=BASE, url="http://127.0.0.1:9/v1")
    for change, told in (
        (('tasks = "tasks.jsonl"', ""), "[world] tasks is missing"),
        (('"tools.toml"', '"tolls.toml"'), "[world] tools = 'tolls.toml': no such file"),
    ):
        recipe.write_text(said.replace(*change), encoding="utf-8")
        done = run(recipe, "--dry-run")

        assert done.returncode == 2
        assert told in done.stderr
