"""`cacherl cache merge | diff | gc | rekey | export | import`, as a person types them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from cacherl.cache.storage.sqlite import SqliteStore
from cacherl.cli import main
from tests.cache.caches import calibration, entry, file_with
from tests.cache.recordings import recorded, seen


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(main, ["cache", *arguments])
        assert not isinstance(done.exception, Exception) or done.exit_code, done.output
        return done.exit_code, done.output

    return run


def test_the_commands_work_together(run: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    """Export, import, merge, compare, clean up and move, as a person types it."""
    file_with(tmp_path / "a.sqlite", entry(recorded(), seen("sunny")))
    file_with(tmp_path / "b.sqlite", entry(recorded(), seen("rain")))
    (tmp_path / "cache.toml").write_text("[tools.get_order]\nunordered = ['lines']\n")

    assert run("export", "a.sqlite", "a.jsonl")[0] == 0
    assert run("import", "a.jsonl", "c.sqlite")[0] == 0
    assert run("diff", "a.sqlite", "c.sqlite", "--fail-on", "contradicting")[0] == 0
    code, said = run("diff", "a.jsonl", "b.sqlite")
    assert code == 0
    assert "1 contradicting" in said
    assert run("diff", "a.sqlite", "b.sqlite", "--fail-on", "contradicting", "--json")[0] == 1
    code, said = run("merge", "all.sqlite", "a.jsonl", "b.sqlite")
    assert "2 calls read, 1 new, 1 now better known, 1 contradicting" in said
    code, said = run("gc", "all.sqlite", "--beyond", "1")
    assert "would drop 1 observations" in said
    code, said = run("gc", "all.sqlite", "--beyond", "1", "--apply")
    assert code == 0
    assert said.endswith("Next: cacherl cache calibrate all.sqlite\n")
    code, said = run("rekey", "all.sqlite", "--settings", "cache.toml")
    assert code == 0
    assert "1 call read" in said
    assert SqliteStore(tmp_path / "all.sqlite").note("settings") is not None


def test_a_dropped_calibration_is_told_with_the_command_that_makes_it_anew(
    run: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    """Whoever trains with calibrated trust must not find out from a stopped run."""
    odd = entry(recorded(b'{"lines":[2,1]}'), seen("x"))
    file_with(tmp_path / "other.sqlite", entry(recorded(), seen("rain")))
    file_with(tmp_path / "a.sqlite", entry(recorded(), seen("sunny")), odd)
    (tmp_path / "cache.toml").write_text("[tools.get_order]\nunordered = ['lines']\n")

    for command in (
        ("merge", "a.sqlite", "other.sqlite"),
        ("gc", "a.sqlite", "--beyond", "1", "--apply"),
        ("rekey", "a.sqlite", "--settings", "cache.toml"),
    ):
        store = SqliteStore(tmp_path / "a.sqlite", mode="write")
        store.put_note("calibration", calibration())
        store.close()
        code, said = run(*command)
        assert code == 0
        assert "the calibration was dropped" in said
        assert said.endswith("Next: cacherl cache calibrate a.sqlite\n")
        store = SqliteStore(tmp_path / "a.sqlite")
        assert store.note("calibration") is None
        store.close()


@pytest.mark.parametrize(
    ("arguments", "seen_in_error"),
    [
        (["merge", "a.jsonl", "a.sqlite"], "ever written into"),
        (["merge", "out.sqlite", "no.sqlite"], "no.sqlite"),
        (["import", "a.sqlite", "out.sqlite"], "cacherl cache merge"),
        (["import", "no.jsonl", "out.sqlite"], "no.jsonl"),
        (["export", "a.sqlite", "a.csv"], ".parquet"),
        (["gc", "a.jsonl", "--transient"], "export"),
        (["gc", "no.sqlite", "--transient", "--apply"], "no.sqlite"),
        (["rekey", "a.jsonl"], "export"),
        (["diff", "a.sqlite", "no.parquet"], "no.parquet"),
    ],
)
def test_a_mistake_is_one_line_and_makes_no_file(
    run: Callable[..., tuple[int, str]], tmp_path: Path, arguments: list[str], seen_in_error: str
) -> None:
    """What was typed wrong is named, and nothing was created for it."""
    file_with(tmp_path / "a.sqlite", entry(recorded(), seen("sunny")))
    run("export", "a.sqlite", "a.jsonl")
    before = sorted(path.name for path in tmp_path.iterdir())

    code, said = run(*arguments)

    assert code in (1, 2)
    assert said.count("Error:") == 1
    assert seen_in_error in said
    assert sorted(path.name for path in tmp_path.iterdir()) == before
