"""`cacherl record` at the terminal: what it asks for, what it says, where it stops."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cacherl.cache.lookup.tool_cache import ToolCache
from cacherl.cache.trust.suspects import on_shared_state
from cacherl.cli import main
from cacherl.core.folders import DataFolder
from cacherl.core.jsonl import read_jsonl
from cacherl.core.trajectories import Trajectory
from cacherl.record.live_calls import read_live_calls
from tests.record.preloaded import Preloaded
from tests.record.test_killed import check_writes, lasting_desk
from tests.teacher_server import TeacherServer, Trouble


@pytest.fixture
def cacherl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Preloaded]:
    with Preloaded(tmp_path_factory.mktemp("preloaded")) as preloaded:
        yield preloaded


def record(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["record", *map(str, arguments)])


def expert(out: Path, *more: str) -> Result:
    return record("--world", "desk", "--teacher", "expert", "--out", out, "--count", "5", *more)


@pytest.mark.parametrize(
    ("arguments", "seen"),
    [
        (["--teacher", "expert"], "--world desk"),
        (["--teacher", "openai:m", "--world", "moon"], "no such world"),
        (["--teacher", "openai:m", "--tools", "tools.toml"], "--tools and --tasks go together"),
        (["--teacher", "gpt-5", "--world", "desk"], "PROVIDER:MODEL"),
        (["--teacher", "expert", "--tools", "t.toml", "--tasks", "t.jsonl"], "script of --world"),
        (
            ["--teacher", "openai:no-such-model", "--world", "desk", "--budget-usd", "1"],
            "no price is known",
        ),
    ],
)
def test_a_wrong_command_line_is_one_line_and_makes_no_call(
    tmp_path: Path, arguments: list[str], seen: str
) -> None:
    """Told before anything is asked or written."""
    result = record("--out", tmp_path / "data", *arguments)

    errors = [line for line in result.stderr.splitlines() if line.startswith("Error:")]
    assert result.exit_code == 2
    assert len(errors) == 1
    assert seen in errors[0]
    assert not (tmp_path / "data" / "trajectories.jsonl").exists()


def test_the_end_says_what_happened_and_what_to_type_next(tmp_path: Path) -> None:
    """A person should not need the documentation to go on."""
    out = tmp_path / "data"

    first = expert(out, "--best-of", "2")
    second = expert(out, "--best-of", "2", "--json")

    assert first.exit_code == second.exit_code == 0, first.output
    assert "Recorded 10 episodes; 0 were there" in first.stdout
    assert f"Next: cacherl augment {out}" in first.stdout
    told = json.loads(second.stdout)
    assert told["summary"]["run"]["skipped"] == told["summary"]["folder"]["episodes"] == 10
    assert told["summary"]["run"]["live_calls"] == 0
    assert told["warnings"] == []


def test_another_teacher_is_refused_in_one_line_that_names_it(tmp_path: Path) -> None:
    """The wrong folder after a long day must not mix two teachers."""
    expert(tmp_path)

    result = record("--world", "desk", "--teacher", "openai:gpt-5", "--out", tmp_path)

    assert result.exit_code == 2
    assert 'teacher: "expert" there, "openai:gpt-5" now' in result.stderr


def test_a_folder_takes_one_recording_at_a_time(tmp_path: Path) -> None:
    """Two writers would tear each other's lines."""
    from cacherl.experiment import RunLock

    with RunLock(tmp_path):
        result = expert(tmp_path)

    assert result.exit_code == 2
    assert "in use by another cacherl command" in result.stderr


def test_a_dry_run_tells_the_price_and_asks_nobody(tmp_path: Path) -> None:
    """The first question before spending money is how much."""
    out = tmp_path / "data"
    asked = ["--world", "desk", "--teacher", "openai:gpt-5", "--out", str(out), "--dry-run"]

    for_people, for_machines = record(*asked), record(*asked, "--json")

    told = json.loads(for_machines.stdout)
    assert for_people.exit_code == 0
    assert "100 episodes to record" in for_people.stdout
    assert "genai-prices" in told["prices"]
    assert 0 < told["likely_dollars"] < told["most_dollars"]
    assert told["episodes"] == 100
    assert "refund_order" in told["writers"]
    assert not out.exists()


def test_a_dry_run_tells_what_the_budget_covers_and_whether_the_key_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`at most $13` beside a budget of two cents says nothing of what two cents buy."""
    asked = ["--world", "desk", "--teacher", "openai:gpt-5", "--out", str(tmp_path / "data")]
    asked += ["--dry-run", "--budget-usd"]
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    bare = record(*asked, "0.02")
    some = json.loads(record(*asked, "0.5", "--json").stdout)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-x")
    all_of_it = record(*asked, "1000", "--budget-tokens", "900000000")
    few_tokens = json.loads(record(*asked, "1000", "--budget-tokens", "30000", "--json").stdout)

    assert "The budget of $0.02, over all runs, covers not one episode" in bare.stdout
    assert "--max-turn-tokens (4,096)" in bare.stdout
    assert "$OPENAI_API_KEY is not set" in bare.stdout
    assert some["missing_key"] == "OPENAI_API_KEY"
    assert 0 < some["within_budget"] < 100
    assert "covers about 100 of 100 episodes" in all_of_it.stdout
    assert "OPENAI_API_KEY" not in all_of_it.stdout
    assert 0 < few_tokens["within_budget"] < some["within_budget"]


def test_a_run_that_recorded_nothing_points_nowhere_and_ties_nothing(
    cacherl: Preloaded, tmp_path: Path
) -> None:
    """There is nothing to augment, and the mended command may be another one."""
    folder = DataFolder(tmp_path / "data")
    with TeacherServer(folder=tmp_path) as teacher:
        command = paid(teacher, folder.root, "--budget-tokens", "100")
        assert cacherl.run(command) == 3
        said = cacherl.log.read_text()
        assert cacherl.run([*command[:-2], "--count", "2", "--temperature", "0.5"]) == 0
        mended = cacherl.log.read_text()

    assert "budget spent: 0 of 12 episodes done" in said
    assert "augment" not in said
    assert f"Next: cacherl augment {folder.root}" in mended
    assert mended.index("this run:") < mended.index("tokens") < mended.index("all runs:")
    assert mended.index("all runs:") < mended.index("requests")
    assert lines(folder) == 2


def test_a_few_tasks_left_out_come_with_the_word_that_keeps_them(tmp_path: Path) -> None:
    """Of a dozen tasks three are held out by their texts; whoever wrote them may want all to learn from."""
    (tmp_path / "t.py").write_text("def look(a: str) -> str:\n    return a\n")
    tools, tasks = tmp_path / "tools.toml", tmp_path / "tasks.jsonl"
    tools.write_text('namespace = "n"\n[python.t]\nmodule = "t.py"\n')
    tasks.write_text('{"task": "a", "split": "train"}\n{"task": "b", "split": "test"}\n')

    teacher = ("--teacher", "openai:gpt-5", "--out", tmp_path / "data", "--dry-run")
    result = record("--tools", tools, "--tasks", tasks, *teacher)

    assert "1 of 2 tasks are left out" in result.stderr
    assert '"split": "train"' in result.stderr
    assert result.exit_code == 0


def paid(teacher: TeacherServer, out: Path, *more: str) -> list[str | Path]:
    model = f"openai:desk@{teacher.url}"
    return [
        *("record", "--world", "desk", "--count", "12", "--teacher", model, "--out", out),
        *("--max-turn-tokens", "64", *more),
    ]


def test_a_spent_budget_stops_and_a_larger_one_goes_on(cacherl: Preloaded, tmp_path: Path) -> None:
    """Never a cent over the cap, and nothing that was bought is bought again."""
    folder = DataFolder(tmp_path / "data")
    with TeacherServer(folder=tmp_path) as teacher:
        small = cacherl.run(paid(teacher, folder.root, "--budget-tokens", "12000"))
        said = cacherl.log.read_text()
        done = len(list(read_jsonl(folder.trajectories, Trajectory)))
        spent = sum(bill.prompt_tokens + bill.completion_tokens for bill in teacher.bills())
        large = cacherl.run(paid(teacher, folder.root, "--budget-tokens", "3000000"))
        billed = Counter(bill.digest for bill in teacher.bills())

    assert (small, large) == (3, 0)
    assert 0 < done < 12
    assert spent <= 12_000
    assert f"budget spent: {done} of 12 episodes done; run again with a larger" in said
    assert len(list(read_jsonl(folder.trajectories, Trajectory))) == 12
    assert max(billed.values()) == 1


def test_ctrl_c_keeps_what_was_done(cacherl: Preloaded, tmp_path: Path) -> None:
    """Stopping for the night is no accident."""
    folder = DataFolder(tmp_path / "data")
    with TeacherServer(folder=tmp_path, honours_keys=True, latency_s=0.05) as teacher:
        command = paid(teacher, folder.root, "--concurrency", "2")
        code = cacherl.run(command, until=lambda: lines(folder) >= 2, end=signal.SIGINT)
        said = cacherl.log.read_text()
        kept = lines(folder)
        assert cacherl.run(command) == 0
        billed = Counter(bill.digest for bill in teacher.bills())

    assert code == 130
    assert "Interrupted. What was done is kept" in said
    assert "Traceback" not in said
    assert 2 <= kept < 12
    assert lines(folder) == 12
    assert max(billed.values()) == 1


def test_ctrl_c_waits_for_the_calls_that_are_under_way(cacherl: Preloaded, tmp_path: Path) -> None:
    """A payment that is on its way cannot be called back; its answer is on record before the end."""
    folder = DataFolder(tmp_path / "data")
    with TeacherServer(folder=tmp_path, honours_keys=True, latency_s=0.01) as teacher:
        command = lasting_desk(teacher, folder.root, tmp_path)
        code = cacherl.run(command, until=lambda: journaled(folder) >= 9, end=signal.SIGINT)
        said = cacherl.log.read_text()
        made = read_live_calls(folder.live_calls)
        assert cacherl.run(command) == 0
        rest = cacherl.log.read_text()

    assert code == 130
    assert "acted on one state (resets = false)" in rest
    with ToolCache.open(folder.cache) as cache:
        assert on_shared_state(cache.store)
    assert "Traceback" not in said
    assert all(each.result is not None for calls in made.values() for each in calls)
    check_writes(folder, cacherl.folder)


def journaled(folder: DataFolder) -> int:
    path = folder.live_calls
    return path.read_bytes().count(b"\n") if path.exists() else 0


def lines(folder: DataFolder) -> int:
    path = folder.trajectories
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_a_wrong_key_ends_the_run_at_once(cacherl: Preloaded, tmp_path: Path) -> None:
    """A hundred tasks failing for one typo help nobody; the next run tries them again."""
    folder = DataFolder(tmp_path / "data")
    with TeacherServer(folder=tmp_path, key="right") as teacher:
        code = cacherl.run(paid(teacher, folder.root, "--concurrency", "1"))
        said = cacherl.log.read_text()
        teacher.start_again(key=None)
        again = cacherl.run(paid(teacher, folder.root, "--concurrency", "1"))

    assert code == 1
    assert "Error: An episode failed" in said
    assert "401" in said
    assert again == 0
    assert lines(folder) == 12


def test_failures_are_told_by_kind_and_recorded_again(cacherl: Preloaded, tmp_path: Path) -> None:
    """What went wrong, how often, and whether anything needs doing."""
    folder = DataFolder(tmp_path / "data")
    with TeacherServer(Trouble("html", at=(3,)), folder=tmp_path, honours_keys=True) as teacher:
        cacherl.run([*paid(teacher, folder.root), "--json"])
        first = json.loads(folder.summary.read_bytes())
        cacherl.run([*paid(teacher, folder.root), "--json"])
        second = json.loads(folder.summary.read_bytes())
        billed = Counter(bill.digest for bill in teacher.bills())

    assert first["run"]["model_errors"] == {"unreadable": 1}
    assert first["folder"]["failed"] == 1
    assert second["run"]["retried"] == 1
    assert second["folder"]["failed"] == 0
    assert max(billed.values()) == 1
