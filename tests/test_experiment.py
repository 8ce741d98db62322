"""Recipes and run folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from cacherl.core.errors import DataError, RecipeError
from cacherl.experiment import RunFolder, RunLock, Stage, load_recipe

MINIMAL = '[model]\npath = "m"\n[tasks]\ntrain = 4\ntest = 2\n'
RECIPES = Path(__file__).parents[1] / "recipes"


def recipe(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "r.toml"
    path.write_text(text)
    return path


def test_a_minimal_recipe_takes_the_papers_settings(tmp_path: Path) -> None:
    """Whoever sets nothing must get the published method, not somebody's tuning."""
    loaded = load_recipe(recipe(tmp_path, 'name = "x"\n' + MINIMAL))

    assert (loaded.grpo.group_size, loaded.grpo.learning_rate, loaded.grpo.beta) == (16, 1e-6, 0.15)
    assert loaded.grpo.lora is not None
    assert (loaded.grpo.lora.rank, loaded.grpo.lora.alpha) == (128, 128)
    alphas = loaded.reward.alphas()
    assert (alphas.exact, alphas.fuzzy, alphas.best_effort) == (0.6, 0.3, 0.1)


@pytest.mark.parametrize("name", ["quickstart.toml", "qwen3-4b.toml"])
def test_recipes_that_ship_are_valid(name: str) -> None:
    """A GPU owner must not find a typo after an hour of recording."""
    assert load_recipe(RECIPES / name).name


def test_the_4b_recipe_has_the_papers_settings() -> None:
    """It is what the README sells as the paper's run."""
    loaded = load_recipe(RECIPES / "qwen3-4b.toml")

    assert loaded.model.path == "Qwen/Qwen3-4B-Thinking-2507"
    assert loaded.sft.lora is None
    assert loaded.limits.first_turn_min_tokens == 150
    assert (loaded.grpo.group_size, loaded.grpo.learning_rate, loaded.grpo.beta) == (16, 1e-6, 0.15)
    assert loaded.grpo.lora is not None
    assert loaded.grpo.lora.rank == loaded.grpo.lora.alpha == 128


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ('name = "x"\nfoo = 1\n' + MINIMAL, "foo"),
        ('name = "x"\n' + MINIMAL + '[sft]\nlearning_rate = "fast"\n', "sft.learning_rate"),
        ('name = "x"\n' + MINIMAL + "[sft]\nlearnin_rate = 1.0\n", "learnin_rate"),
        ('name = "x"\n' + MINIMAL + "[grpo]\ngroup_size = 1\n", "group_size"),
        ('name = "x"\n' + MINIMAL + "[record]\ndetour = 2.0\n", "record.detour"),
        ('name = "x"\n' + MINIMAL + "[reward]\nalpha_fuzzy = 0.9\n", "[reward]"),
        ("name = \n", "TOML"),
        ('name = "x"\n', "model"),
    ],
)
def test_a_broken_recipe_is_one_line_that_names_file_and_field(
    tmp_path: Path, text: str, seen: str
) -> None:
    """The fix must be findable from the message alone."""
    path = recipe(tmp_path, text)

    with pytest.raises(RecipeError) as caught:
        load_recipe(path)

    assert str(path) in str(caught.value)
    assert seen in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_recipe_says_where_recipes_are(tmp_path: Path) -> None:
    """The commonest first mistake."""
    with pytest.raises(RecipeError, match="recipes/quickstart"):
        load_recipe(tmp_path / "nope.toml")


def finished(folder: RunFolder, key: str) -> Path:
    folder.begin(Stage.SELECT, key)
    output = folder.path(Stage.SELECT) / "out.jsonl"
    output.write_text("kept\n")
    folder.finish(
        Stage.SELECT, key, wall_s=1.0, live_calls=0, outputs={"out.jsonl": output}, facts={}
    )
    return output


def test_a_stage_is_done_only_for_the_settings_it_was_made_from(tmp_path: Path) -> None:
    """A changed recipe must never be answered with old results."""
    folder = RunFolder(tmp_path)
    finished(folder, "a")

    assert folder.done(Stage.SELECT, "a") is not None
    assert folder.done(Stage.SELECT, "b") is None


def test_an_output_changed_by_hand_stops_the_run(tmp_path: Path) -> None:
    """A damaged file must not flow into a checkpoint in silence."""
    folder = RunFolder(tmp_path)
    finished(folder, "a").write_text("forged\n")

    with pytest.raises(DataError, match="changed after"):
        folder.done(Stage.SELECT, "a")


def test_what_a_killed_stage_left_is_kept_for_the_same_settings_only(tmp_path: Path) -> None:
    """Going on is right for the same settings; for others it would mix two runs."""
    folder = RunFolder(tmp_path)
    folder.begin(Stage.SFT, "a")
    part = folder.path(Stage.SFT) / "part"
    part.write_text("half")

    folder.begin(Stage.SFT, "a")
    assert part.exists()

    folder.begin(Stage.SFT, "b")
    assert not part.exists()


def test_recordings_of_other_settings_are_moved_aside_not_deleted(tmp_path: Path) -> None:
    """Recordings may have cost money."""
    folder = RunFolder(tmp_path)
    folder.begin(Stage.RECORD, "a")
    (folder.path(Stage.RECORD) / "trajectories.jsonl").write_text("dear\n")

    folder.begin(Stage.RECORD, "b")

    assert (tmp_path / "record.old-1" / "trajectories.jsonl").read_text() == "dear\n"


def test_two_runs_never_share_a_folder(tmp_path: Path) -> None:
    """Two writers would corrupt each other's checkpoints."""
    with RunLock(tmp_path), pytest.raises(RecipeError, match="in use"), RunLock(tmp_path):
        pass
