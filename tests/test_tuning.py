from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from cacherl.cli import main

RECIPE = """
name = "two-steps"

[model]
path = "{model}"
template = "qwen3-thinking-2507"

[sft]
max_steps = {steps}
batch_rows = 2
micro_batch_rows = 2
lora = false
"""
BASE = Path(__file__).parents[1] / "models" / "tiny-base"


def said(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == code, done.output
    return done.output


@pytest.mark.skipif(not (BASE / "model.safetensors").exists(), reason="no models/tiny-base here")
def test_tools_to_a_model_by_single_commands(tmp_path: Path) -> None:
    """The road of a person with tools of their own: record, augment, select, sft."""
    data, recipe = str(tmp_path / "data"), tmp_path / "recipe.toml"
    recipe.write_text(RECIPE.format(model=BASE, steps=2), encoding="utf-8")

    said("record", "--world", "desk", "--count", "6", "--teacher", "expert", "--out", data)
    said("augment", data, "--teacher", "desk")
    said("select", data)
    first = said("sft", data, "--recipe", str(recipe))

    assert "2 steps over" in first
    assert "selected.jsonl" in first
    assert (tmp_path / "data" / "sft" / "model" / "model.safetensors").exists()
    assert "Up to date" in said("sft", data, "--recipe", str(recipe))

    recipe.write_text(RECIPE.format(model=BASE, steps=3), encoding="utf-8")
    assert "other data or settings" in said("sft", data, "--recipe", str(recipe), code=2)
