"""The one true end-to-end test: every stage for real, small, on the model that ships."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("trl", reason="needs the [train] extra")

ROOT = Path(__file__).parents[1]
RECIPE = """
name = "small"
out = "{out}"
threads = 1
[model]
path = "{model}"
[tasks]
train = 48
test = 12
evaluate_split = "dev"
[sft]
lora = false
learning_rate = 1e-3
batch_rows = 8
micro_batch_rows = 8
max_steps = 6
save_every = 2
[grpo]
lora = false
steps = 2
tasks_per_step = 2
group_size = 4
beta = 0.0
learning_rate = 1e-5
save_every = 1
[limits]
max_turns = 5
max_turn_tokens = 64
max_context_tokens = 1024
"""


def command(recipe: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "cacherl.cli", "run", str(recipe), *options]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}


def run(recipe: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(recipe, *options),
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
        timeout=300,
    )


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    model = ROOT / "models" / "tiny-base"
    path.write_text(RECIPE.format(out=tmp_path / "run", model=model))
    return path


def killed_in(recipe: Path, stage: str) -> None:
    """Start the run and kill it as soon as `stage` has begun to leave something behind."""
    log = recipe.parent / "killed.log"
    with log.open("wb") as handle:
        process = subprocess.Popen(command(recipe), stdout=handle, stderr=handle, env=environment())
        sign = recipe.parent / "run" / stage / "begun.json"
        deadline = time.monotonic() + 240
        while not sign.exists():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        time.sleep(1.0)
        process.send_signal(signal.SIGKILL)
        process.wait()


def test_a_recipe_killed_on_the_way_goes_on_and_ends_with_metrics_and_a_report(
    recipe: Path,
) -> None:
    """The stages fit; nothing is lost by a kill; no tool runs live where none may."""
    killed_in(recipe, "sft")
    out = recipe.parent / "run"
    recorded = (out / "record" / "trajectories.jsonl").read_bytes()

    first = run(recipe)

    assert first.returncode == 0, first.stderr
    assert (out / "record" / "trajectories.jsonl").read_bytes() == recorded
    metrics = json.loads((out / "metrics.json").read_text())
    for model in ("base", "sft", "grpo"):
        assert metrics[model]["n"] == 12
        low, high = metrics[model]["process_accuracy_interval"]
        assert 0 <= low <= metrics[model]["process_accuracy"] <= high <= 1
    assert metrics["live_calls_in_record"] > 48
    assert metrics["live_calls_in_training"] == 0
    assert metrics["tier_mix"]["grpo"]["no_call"] < 1
    assert set(metrics["wall_s"]) >= {"record", "sft", "grpo", "evaluate"}
    page = (out / "report.html").read_text()
    assert "grpo" in page

    again = run(recipe)

    assert again.returncode == 0, again.stderr
    assert again.stderr.count("up to date") == 9


def test_a_model_that_is_not_there_stops_before_any_work(recipe: Path) -> None:
    """Recording for an hour to learn of a typo in the model's path would be cruel."""
    text = recipe.read_text().replace("models/tiny-base", "models/tiny-bass")
    recipe.write_text(text)

    result = run(recipe)

    assert result.returncode == 1
    assert "tiny-bass" in result.stderr
    assert not (recipe.parent / "run" / "record").exists()
