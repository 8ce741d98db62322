"""`cacherl reliability` as a person types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cacherl.cli import main
from tests.evaluate.test_reliability import tens

PRICES = """as_of = 2026-11-01
[prices."big:one"]
prompt = 1.25
completion = 10
"""


def cacherl(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["reliability", *arguments])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An evaluation with 18 right calls of 20."""
    return str(tens(tmp_path_factory.mktemp("run")).root)


def test_the_table_says_what_json_says(run: str) -> None:
    """One figure, two forms."""
    options = (run, "--catch", "0.8", "--fallback-success", "0.97", "--fallback-usd", "0.01")
    found = json.loads(cacherl(*options, "--json").stdout)
    printed = cacherl(*options).stdout
    lines = [line.split() for line in printed.splitlines()]

    assert len(found["chains"]) == 2 * 6 * 4
    for row in found["chains"]:
        cells = [str(row["steps"]), str(row["retries"]), "yes" if row["fallback"] else "no"]
        line = next(line for line in lines if line[:3] == cells)
        assert line[3] == f"{row['success']:.3f}"
        assert line[7] == str(row["n"]) == "10"
    assert all(sentence in printed for sentence in found["sentences"])


def test_the_bill_names_the_day_of_its_prices(run: str, tmp_path: Path) -> None:
    """A price without a day is a rumour."""
    prices = tmp_path / "prices.toml"
    prices.write_text(PRICES)
    page = tmp_path / "page.html"
    bill = ("--teacher", "big:one", "--prices", str(prices), "--usd-per-hour", "2")

    printed = cacherl(run, *bill, "--out", str(page)).stdout

    assert "2026-11-01" in printed
    assert "$250.00" in printed
    assert "$337.50" in printed
    assert "74.1%" in printed
    assert "337.5" in page.read_text()


def test_another_run_may_be_the_fallback(run: str) -> None:
    """And its figures come from it, not from the command line."""
    found = json.loads(cacherl(run, "--fallback", run, "--catch", "1", "--json").stdout)

    assert found["fallback"]["success"] == pytest.approx(0.9)
    cacherl(run, "--fallback", run, "--fallback-success", "0.9", code=2)
    cacherl(run, "--fallback-usd", "0.9", code=2)


def test_a_folder_that_is_no_evaluation_is_told_in_one_line(tmp_path: Path) -> None:
    """With the command that makes one."""
    said = cacherl(str(tmp_path), code=1).output

    assert "cacherl eval" in said
    assert said.count("\n") == 1


def test_one_step_is_no_product_to_test(run: str) -> None:
    """The shortest chain is a call."""
    found = json.loads(cacherl(run, "--steps", "1", "--retries", "0", "--json").stdout)

    assert len(found["chains"]) == 1
    assert found["checks"] == []
    assert "product rule" not in cacherl(run, "--steps", "1").stdout
