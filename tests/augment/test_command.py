"""`cacherl augment` on folders, against a real endpoint: what is asked, kept, told and paid."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from cacherl.augment import unchanged_calls
from cacherl.augment.folder import FolderSummary, augment_folder
from cacherl.cli import main
from cacherl.core.folders import DataFolder
from cacherl.core.jsonl import read_jsonl
from cacherl.core.languages import detector
from cacherl.core.messages import AssistantMessage
from cacherl.core.trajectories import Trajectory
from cacherl.teacher.options import TeacherOptions
from cacherl.wiring import reasoner_named
from tests.augment.scripted_teacher import ScriptedTeacher
from tests.teacher_server import TeacherServer

AIRLINE = Path(__file__).parents[3] / "shared/data/tau-bench/gpt-4o-airline.json"
SAYS = {
    "in English": "I have what I need for this step, so I take it now and look at what comes back.",
    "en français": "J'ai ce qu'il me faut pour cette étape, je la fais donc maintenant et je regarde la suite.",
}


def in_language(body: dict[str, Any]) -> str:
    system = body["messages"][0]["content"]
    return next(words for language, words in SAYS.items() if language in system)


def cacherl(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(each) for each in arguments])


@pytest.fixture(autouse=True)
def _a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("recorded") / "desk"
    done = cacherl("record", "--world", "desk", "--count", "8", "--teacher", "expert", "--out", out)
    assert done.exit_code == 0, done.output
    return out


@pytest.fixture
def desk(recorded: Path, tmp_path: Path) -> DataFolder:
    """A folder recorded on the desk: eight tasks, English and French."""
    folder = DataFolder(tmp_path / "desk")
    folder.root.mkdir()
    for name in ("tasks.jsonl", "trajectories.jsonl"):
        (folder.root / name).write_bytes((recorded / name).read_bytes())
    return folder


@pytest.fixture
def teacher() -> Iterator[ScriptedTeacher]:
    with ScriptedTeacher(in_language) as teacher:
        yield teacher


def pairs(folder: DataFolder) -> Iterator[tuple[Trajectory, Trajectory]]:
    before = {t.task_id: t for t in read_jsonl(folder.trajectories, Trajectory)}
    for after in read_jsonl(folder.augmented, Trajectory):
        yield before[after.task_id], after


def test_a_recorded_folder_gets_its_reasons_and_a_rerun_costs_nothing(
    desk: DataFolder, teacher: ScriptedTeacher
) -> None:
    """The whole way: record, augment, augment again, select."""
    command = ("augment", desk.root, "--teacher", teacher.name, "--json")
    first = cacherl(*command)
    made, asked = desk.augmented.read_bytes(), len(teacher.heard)
    again = cacherl(*command)

    assert (first.exit_code, again.exit_code) == (0, 0), first.output
    summary = msgspec.json.decode(desk.augment_json.read_bytes(), type=FolderSummary)
    told = msgspec.json.decode(again.stdout, type=FolderSummary)
    assert told == summary
    assert summary.paid is not None
    assert summary.run.questions == asked == summary.paid.from_journal
    assert summary.paid.requests == 0
    assert len(teacher.heard) == asked
    assert desk.augmented.read_bytes() == made
    assert set(summary.run.languages) == {"en", "fr"}
    for before, after in pairs(desk):
        assert unchanged_calls(before, after)
        assert all(m.thinking for m in after.messages if isinstance(m, AssistantMessage))
    assert cacherl("select", desk.root).exit_code == 0


def test_a_budget_stops_cleanly_and_the_rest_is_done_later(
    desk: DataFolder, teacher: ScriptedTeacher, tmp_path: Path
) -> None:
    """Exit code 3, what is finished is there to use, and nothing is asked twice."""
    command = ("augment", desk.root, "--teacher", teacher.name, "--concurrency", "1")
    stopped = cacherl(*command, "--max-tokens", "200", "--budget-tokens", "12000")
    partial = list(read_jsonl(desk.augmented, Trajectory))
    done = cacherl(*command, "--max-tokens", "200")

    assert stopped.exit_code == 3, stopped.output
    assert "run again" in stopped.output.lower()
    assert "--budget-tokens" in stopped.output
    assert 0 < len(partial) < 8
    assert done.exit_code == 0
    whole = list(read_jsonl(desk.augmented, Trajectory))
    assert whole[: len(partial)] == partial
    assert len(whole) == 8
    assert len(set(teacher.heard)) == len(teacher.heard)


def test_a_dry_run_says_what_a_run_would_ask(
    desk: DataFolder, teacher: ScriptedTeacher, tmp_path: Path
) -> None:
    """The number of questions is exact, with what the journal holds taken off; the price has a date."""
    prices = tmp_path / "prices.toml"
    prices.write_text(
        f'as_of = 2026-11-01\n[prices."{teacher.name}"]\nprompt = 1.0\ncompletion = 10.0\n'
    )
    command = ("augment", desk.root, "--teacher", teacher.name, "--prices", prices)
    before = json.loads(cacherl(*command, "--dry-run", "--json").stdout)
    assert not desk.augmented.exists()
    assert not desk.journal.exists()
    assert teacher.heard == []
    half = cacherl(*command, "--limit", "4")
    middle = json.loads(cacherl(*command, "--dry-run", "--json").stdout)
    cacherl(*command)
    after = cacherl(*command, "--dry-run")

    assert before["questions"] == len(teacher.heard)
    assert 0 < middle["questions"] < before["questions"]
    assert middle["questions"] + middle["on_file"] == before["questions"]
    tokens = before["prompt_tokens"] + 10 * before["likely_completion_tokens"]
    assert before["likely_dollars"] == pytest.approx(tokens / 1e6, rel=0.02)
    assert "as of 2026-11-01" in before["prices"]
    assert "as of 2026-11-01" in half.output
    assert "0 questions" in after.output


def test_what_a_teacher_says_in_the_wrong_language_is_left_out(
    desk: DataFolder, teacher: ScriptedTeacher
) -> None:
    """A teacher that cannot speak French costs the French tasks, not their language."""
    teacher.says = lambda body: SAYS["in English"]

    done = cacherl("augment", desk.root, "--teacher", teacher.name)

    assert done.exit_code == 0
    assert "wrong_language" in done.output
    run = msgspec.json.decode(desk.augment_json.read_bytes(), type=FolderSummary).run
    french = run.left_out["wrong_language"]
    assert french > 0
    assert run.asked_again == {"wrong_language": french}
    assert run.trajectories == 8 - french


def test_a_wrong_key_stops_at_once_and_says_so(desk: DataFolder, teacher: ScriptedTeacher) -> None:
    """One line, exit code 1, and the good file of an earlier run stays."""
    cacherl("augment", desk.root, "--teacher", teacher.name)
    made = desk.augmented.read_bytes()
    with ScriptedTeacher(lambda body: 401) as locked:
        done = cacherl("augment", desk.root, "--teacher", locked.name, "--concurrency", "1")

    assert done.exit_code == 1
    assert len(locked.heard) == 1
    assert "left as it was" in done.output
    assert "Error:" in done.output
    assert desk.augmented.read_bytes() == made


def test_the_desks_script_explains_the_desk_for_nothing(desk: DataFolder, tmp_path: Path) -> None:
    """And is refused for anything else, where it would say nothing."""
    done = cacherl("augment", desk.root, "--teacher", "desk")
    plan = cacherl("augment", desk.root, "--teacher", "desk", "--dry-run")
    other = DataFolder(tmp_path / "other")
    other.root.mkdir()
    for path in (desk.tasks, desk.trajectories):
        text = path.read_text()
        lines = [json.loads(line) for line in text.splitlines()]
        for line in lines:
            del line["_sum"]
            if "namespace" in line:
                line["namespace"] = "shop"
        (other.root / path.name).write_text("\n".join(map(json.dumps, lines)) + "\n")
    refused = cacherl("augment", other.root, "--teacher", "desk")

    assert done.exit_code == plan.exit_code == 0
    assert "cacherl select" in done.output
    assert not desk.journal.exists()
    assert refused.exit_code == 2
    assert "'shop'" in refused.output


CHAT = [
    {
        "role": "user",
        "content": "Bonjour, quel temps fait-il à Lyon aujourd'hui, s'il vous plaît ?",
    },
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "a",
                "type": "function",
                "function": {"name": "get_weather", "arguments": '{"city": "Lyon"}'},
            },
            {
                "id": "b",
                "type": "function",
                "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'},
            },
        ],
    },
    {"role": "tool", "tool_call_id": "a", "content": "18 degrés"},
    {"role": "assistant", "content": "Il fait 18 degrés à Lyon."},
]


def test_an_imported_folder_is_augmented_in_its_users_language(
    tmp_path: Path, teacher: ScriptedTeacher
) -> None:
    """No declared tools, a call that nothing answered, and nobody who said which language it is."""
    source = tmp_path / "chats.jsonl"
    source.write_text(json.dumps({"messages": CHAT}) + "\n")
    folder = DataFolder(tmp_path / "imported")
    assert cacherl("import", source, "--out", folder.root).exit_code == 0

    done = cacherl("augment", folder.root, "--teacher", teacher.name)

    assert done.exit_code == 0, done.output
    run = msgspec.json.decode(folder.augment_json.read_bytes(), type=FolderSummary).run
    assert (run.trajectories, run.languages) == (1, {"fr": 2})
    for before, after in pairs(folder):
        assert unchanged_calls(before, after)


@pytest.mark.skipif(not AIRLINE.exists(), reason="the recordings of tau-bench are not here")
def test_real_conversations_are_augmented_as_they_are(
    tmp_path: Path, teacher: ScriptedTeacher
) -> None:
    """Two hundred turns that nobody here wrote: not a byte of a call or a result changes."""
    folder = DataFolder(tmp_path / "tau")
    cacherl("import", AIRLINE, "--out", folder.root, "--limit", "12", "--no-cache")

    done = cacherl("augment", folder.root, "--teacher", teacher.name)

    assert done.exit_code == 0, done.output
    run = msgspec.json.decode(folder.augment_json.read_bytes(), type=FolderSummary).run
    assert (run.trajectories, run.left_out) == (12, {})
    assert set(run.languages) == {"en"}
    for before, after in pairs(folder):
        assert unchanged_calls(before, after)


async def test_a_batch_asks_about_all_turns_at_once(desk: DataFolder, tmp_path: Path) -> None:
    """Turn after turn would wait up to a day for each."""
    with TeacherServer(folder=tmp_path) as server:
        reasoner, paid = reasoner_named(
            f"openai:desk@{server.url}",
            journal=desk.journal,
            options=TeacherOptions(batch=True, batch_pause_s=0.2, batch_poll_s=0.05),
        )
        assert paid is not None
        try:
            summary = await augment_folder(
                desk,
                reasoner,
                ledger=paid.ledger,
                detect=detector(),
                concurrency=100,
                turns_at_once=True,
            )
        finally:
            await paid.aclose()
        bills = server.bills()

    run = summary.run
    assert run.trajectories + sum(run.left_out.values()) == 8
    assert run.questions == len(bills)
    assert all(bill.batched for bill in bills)
    lines = (desk.journal / "requests.jsonl").read_text().splitlines()
    planned = [line for line in lines if '"batch_planned"' in line]
    assert len(planned) <= 2  # all first questions, all second ones
