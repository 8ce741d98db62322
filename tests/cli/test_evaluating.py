"""`cacherl eval`, `eval show`, `compare` and `rescore` as a person types them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cacherl.cli import main
from cacherl.evaluate.folder import EvalFolder
from cacherl.evaluate.results import read_results

FIGURE = re.compile(
    r"\d\.\d{3} +\d\.\d{3} to \d\.\d{3}  \d+ +(\d\.\d{3}|not measured) +(\d\.\d{3}|not measured)"
)
"""value, interval, n, doing nothing, gold."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder to stand in, with a home for what is kept between runs."""
    folder = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CACHERL_HOME", str(folder / "home"))
        patch.chdir(folder)
        yield folder


def cacherl(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == code, result.output
    return result


def evaluate(*arguments: str, code: int = 0) -> Result:
    return cacherl("eval", *arguments, "--split", "dev", code=code)


def figures(*arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(evaluate(*arguments, "--json").stdout)
    return found


def test_a_run_is_kept_where_its_name_says_and_the_same_command_goes_on(place: Path) -> None:
    """Results are never lost, and never paid for twice."""
    first = figures("expert", "--limit", "6")
    again = figures("expert", "--limit", "6")

    assert first["folder"] == "runs/eval/desk-dev-expert-6"
    assert (first["resumed"], again["resumed"]) == (0, 6)
    assert {**first, "resumed": 6} == again
    folder = EvalFolder(place / first["folder"])
    assert len(list(read_results(folder.results))) == 6
    assert folder.page.exists()
    assert json.loads(folder.summary.read_bytes())["n"] == 6


def test_json_holds_the_fields_it_always_held_and_both_ends(place: Path) -> None:
    """Scripts read them."""
    found = figures("expert", "--limit", "6")

    assert {"model", "suite", "split", "tools", "seed", "n", "not_scored", "summary"} <= set(found)
    for metric in ("success", "process_accuracy", "end_to_end"):
        low, high = found[f"{metric}_interval"]
        assert low <= found[metric] <= high
        assert found[f"{metric}_floor"] < found[f"{metric}_ceiling"] == 1.0


def test_every_printed_figure_has_n_interval_floor_and_ceiling(place: Path) -> None:
    """The issue's own promise: never without."""
    printed = evaluate("nothing", "--limit", "20").stdout

    for name in ("success", "process accuracy", "end to end", "check.state", " en ", " fr "):
        line = next(line for line in printed.splitlines() if name in line)
        assert FIGURE.search(line), line
    lone = [line for line in printed.splitlines() if re.search(r"\b[01]\.\d{3}\b", line)]
    assert all(FIGURE.search(line) for line in lone)


def test_trials_are_told_as_pass_at_and_pass_hat_k(place: Path) -> None:
    """One of k, and all of k, are different promises."""
    printed = evaluate("oracle", "--limit", "4", "--trials", "2").stdout

    assert "pass@2" in printed
    assert "pass^2" in printed
    assert "4 tasks" in printed


def test_fewer_trials_than_the_folder_holds_are_told(place: Path) -> None:
    """Whoever asks for one trial must not take the figures of three for it."""
    evaluate("oracle", "--limit", "3", "--trials", "3")

    fewer = evaluate("oracle", "--limit", "3", "--trials", "1", "--json")

    assert "is of 3 trials a task: all of them are played and used, not 1 alone" in fewer.stderr
    found = json.loads(fewer.stdout)
    assert (found["trials"], found["tries"], found["success_tries"]) == (3, 9, 9)


def test_other_settings_in_the_same_folder_are_refused_naming_what_differs(place: Path) -> None:
    """Two settings in one folder would make a figure of neither."""
    evaluate("nothing", "--limit", "4", "--out", "mine")

    said = evaluate("nothing", "--limit", "4", "--out", "mine", "--max-turns", "3", code=2).stderr

    assert "limits.max_turns: 8 there, 3 now" in said
    assert "--out" in said


def test_a_failure_is_shown_with_its_fault_and_the_solution(place: Path) -> None:
    """Where to look first."""
    evaluate("nothing", "--limit", "20")
    run = "runs/eval/desk-dev-nothing-20"

    listed = cacherl("eval", "show", run).stdout
    shown = cacherl("eval", "show", run, "00003").stdout
    machine = json.loads(cacherl("eval", "show", run, "00003", "--json").stdout)

    assert "desk-dev-0-00003" in listed
    assert "failed" in shown
    assert "The solution's calls" in shown
    assert machine["fault"]["said"]
    assert machine["result"]["task_id"] == "desk-dev-0-00003"


def test_a_comparison_with_itself_finds_nothing_and_with_the_expert_finds_it_all(
    place: Path,
) -> None:
    """Paired, on the same tasks, with a page."""
    evaluate("nothing", "--limit", "20")
    evaluate("expert", "--limit", "20")
    a, b = "runs/eval/desk-dev-nothing-20", "runs/eval/desk-dev-expert-20"

    same = cacherl("compare", a, a).stdout
    better = cacherl("compare", a, b, "--out", "ab.html").stdout
    machine = json.loads(cacherl("compare", a, b, "--json").stdout)

    assert "no task differs" in same
    assert "B is better (exact McNemar)" in better
    assert "B won 20 tasks, lost 0, 0 tied" in better
    assert f"cacherl eval show {a}" in better
    assert (place / "ab.html").exists()
    assert machine["metrics"][0]["comparison"]["wins"] == 20


def test_scoring_again_without_a_change_says_so(place: Path) -> None:
    """No model, no tools, the same verdicts."""
    evaluate("nothing", "--limit", "20")

    said = cacherl("rescore", "runs/eval/desk-dev-nothing-20").stdout

    assert "20 rows scored again: 0 changed" in said


def test_a_dry_run_plays_nothing_and_leaves_nothing(place: Path) -> None:
    """What it would cost, before it costs."""
    said = evaluate("openai:gpt-5", "--limit", "5", "--trials", "2", "--dry-run").stdout

    assert "10 episodes to play" in said
    assert re.search(r"About \$\d", said)
    assert not (place / "runs/eval/desk-dev-openai-gpt-5-5").exists()


def test_cached_tools_answer_from_the_recordings_of_that_split(place: Path) -> None:
    """A cache of the expert's episodes holds the expert up, and says which it was."""
    recorded = ["record", "--world", "desk", "--split", "dev", "--teacher", "expert"]
    cacherl(*recorded, "--count", "6", "--out", "data")

    found = figures("expert", "--limit", "6", "--tools", "cached", "--cache", "data/cache.sqlite")

    assert found["folder"] == "runs/eval/desk-dev-expert-6-cached"
    evaluation = found["evaluation"]
    assert set(evaluation["call_tiers"]) <= {"exact", "best_effort", "miss", "fuzzy", "refused"}
    assert evaluation["call_tiers"]["exact"] > 0
    assert evaluation["manifest"]["plan"]["cache"].startswith("cache.sqlite ")


def test_a_shadow_run_plays_the_same_on_the_cache_and_live(place: Path) -> None:
    """Was the score on the cache the score on the world?"""
    recorded = ["record", "--world", "desk", "--split", "dev", "--teacher", "expert"]
    cacherl(*recorded, "--count", "6", "--out", "data")

    said = evaluate(
        *("expert", "--limit", "6", "--tools", "shadow", "--cache", "data/cache.sqlite"),
        *("--out", "shadow"),
    ).stdout

    assert "they differ: tools: cached in A, live in B" in said
    for kind in ("cached", "live"):
        rows = list(read_results(EvalFolder(place / "shadow" / kind).results))
        assert len(rows) == 6


@pytest.mark.parametrize(
    ("arguments", "code", "seen"),
    [
        (["eval", "no/such/model"], 1, "no/such/model"),
        (["eval", "nosuchmodel"], 1, "nosuchmodel"),
        (["eval", "expert", "--tools", "shadow"], 2, "--cache"),
        (["eval", "show", "nowhere"], 1, "holds no evaluation"),
        (["compare", "nowhere", "nowhere"], 1, "holds no evaluation"),
        (["rescore", "nowhere"], 1, "holds no evaluation"),
    ],
)
def test_a_mistake_is_one_line(place: Path, arguments: list[str], code: int, seen: str) -> None:
    """And it comes at once: a folder that is not there is not looked for on the internet for a minute."""
    result = cacherl(*arguments, code=code)

    lines = [line for line in result.stderr.splitlines() if line.startswith("Error:")]
    assert len(lines) == 1
    assert seen in lines[0]
    assert not (place / "nowhere").exists()


def test_eval_alone_is_help_and_show_stands_below_it(place: Path) -> None:
    """`eval MODEL` and `eval show` live side by side."""
    assert "main eval [OPTIONS] MODEL" in cacherl("eval", "--help").stdout
    assert "main eval show" in cacherl("eval", "show", "--help").stdout
    assert "main eval [OPTIONS] MODEL" in cacherl("eval").stdout
    assert evaluate("--limit", "4", "nothing").exit_code == 0, "options may come first"
