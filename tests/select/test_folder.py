"""`cacherl select` and `cacherl card` on whole folders, from the command line."""

from __future__ import annotations

import json
import random
import shlex
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from cacherl.cli import main
from cacherl.core.folders import DataFolder
from cacherl.core.jsonl import read_jsonl, write_jsonl
from cacherl.core.messages import AssistantMessage, ToolCall, UserMessage
from cacherl.core.task_file import TaskFile
from cacherl.core.tasks import AnswerRule, Gold, Split, Task
from cacherl.core.trajectories import Trajectory
from cacherl.select import Judgement
from cacherl.select.card import Card
from cacherl.select.folder import judgements_of, read_card
from cacherl.teacher.ledger import Ledger
from tests.augment.scripted_teacher import ScriptedTeacher
from tests.select.sample import made, make_task
from tests.teacher_server import TeacherServer

TAU = Path(__file__).parents[3] / "shared" / "data" / "tau-bench" / "gpt-4o-airline.json"


def folder_of(
    root: Path, pairs: list[tuple[Task, Trajectory]], *, name: str = "trajectories.jsonl"
) -> DataFolder:
    root.mkdir(parents=True, exist_ok=True)
    write_jsonl(root / "tasks.jsonl", {task.id: task for task, _ in pairs}.values())
    write_jsonl(root / name, [trajectory for _, trajectory in pairs])
    return DataFolder(root)


def unjudged(count: int, *, failing: int = 0) -> list[tuple[Task, Trajectory]]:
    """Tasks without gold; the test teacher gives 2 points where a record holds an "error", else 5."""
    pairs = []
    for n in range(count):
        call = ToolCall(id="c0", name="look", arguments={"error": n} if n < failing else {})
        pairs.append((make_task(f"t{n}", gold=None), made(f"t{n}", calls=(call,))))
    return pairs


def cacherl(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def ran(*arguments: object) -> Any:
    result = cacherl(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")


@pytest.mark.usefixtures("key")
def test_a_judge_decides_and_asking_again_costs_nothing(tmp_path: Path) -> None:
    """Every sample is on file and in the journal: a rerun with other thresholds is free."""
    folder = folder_of(tmp_path / "data", unjudged(8, failing=3))
    with TeacherServer(folder=tmp_path) as teacher:
        judge = ("--judge", f"openai:desk@{teacher.url}", "--judge-samples", 2)
        first = ran("select", folder.root, *judge)
        bills = len(teacher.bills())
        lower = ran("select", folder.root, *judge, "--min-judged", 2)

        assert bills == 16
        assert len(teacher.bills()) == bills

    assert first["selection"]["by_verdict"] == {"low_judged": 3, "perfect": 5}
    assert lower["selection"]["by_verdict"] == {"perfect": 8}
    assert first["selection"]["judge"]["agreement"]["exact"] == 1.0
    judgements = list(read_jsonl(judgements_of(folder), Judgement))
    assert [j.judged.points for j in judgements if j.judged] == [(2, 2)] * 3 + [(5, 5)] * 5
    card = read_card(folder.card_json)
    assert card is not None
    assert [(row.purpose, row.replies) for row in card.costs] == [("judge", 16)]


@pytest.mark.usefixtures("key")
def test_a_judge_without_a_key_ends_in_one_line_and_changes_nothing(tmp_path: Path) -> None:
    """Nothing is selected on failures; an old selection stays."""
    folder = folder_of(tmp_path / "data", unjudged(3))
    with TeacherServer(folder=tmp_path, key="right") as teacher:
        result = cacherl("select", folder.root, "--judge", f"openai:desk@{teacher.url}")

    assert result.exit_code == 1
    assert len([line for line in result.stderr.splitlines() if line.startswith("Error:")]) == 1
    assert not folder.selected.exists()
    assert not folder.card_json.exists()


def test_an_unverifiable_set_is_refused_with_what_to_do(tmp_path: Path) -> None:
    """An imported set without gold: the error is the manual."""
    folder = folder_of(tmp_path / "data", unjudged(3))

    result = cacherl("select", folder.root)

    assert result.exit_code == 1
    for way in ("--judge", "--score-note", "--unscored keep"):
        assert way in result.stderr
    kept = ran("select", folder.root, "--unscored", "keep")
    assert kept["selection"]["by_verdict"] == {"unverified": 3}
    assert any(w["kind"] == "scores" for w in kept["warnings"])


def test_a_score_of_the_data_set_selects_a_real_recording(tmp_path: Path) -> None:
    """tau-bench's rewards are its own verifier's, by the state of the real database."""
    ran("import", TAU, "--format", "tau-bench", "--out", tmp_path / "air", "--no-cache")
    folder = DataFolder(tmp_path / "air")
    rewards = [t.notes["reward"] for t in read_jsonl(folder.trajectories, Trajectory)]

    found = ran("select", folder.root, "--score-note", "reward", "--per-task", 4)

    assert 0 < found["kept"] <= sum(reward == 1.0 for reward in rewards)
    judgements = read_jsonl(judgements_of(folder), Judgement)
    for reward, judgement in zip(rewards, judgements, strict=True):
        assert judgement.noted == reward
        assert not judgement.kept or reward == 1.0
    kept = [t.notes["reward"] for t in read_jsonl(folder.selected, Trajectory)]
    assert len(kept) == found["kept"]


def test_a_score_above_the_scale_is_a_mistake_of_the_command(tmp_path: Path) -> None:
    """5 of 5 read as 5 of 1 would make every score perfect."""
    trajectory = msgspec.structs.replace(made("t"), notes={"scores": {"response_completeness": 4}})
    folder = folder_of(tmp_path / "data", [(make_task("t", gold=None), trajectory)])
    note = ("--score-note", "scores.response_completeness")

    wrong = cacherl("select", folder.root, *note)
    right = ran("select", folder.root, *note, "--note-max", 5, "--min-note", 4)

    assert wrong.exit_code == 2
    assert "--note-max" in wrong.stderr
    assert right["kept"] == 1


def test_what_repeats_a_held_out_folder_is_dropped(tmp_path: Path) -> None:
    """Both tasks and what users really said count as held out."""
    said = "Please cancel the order of the green poncho that I made on Monday and refund me in full, thanks"
    held = folder_of(tmp_path / "held", [(make_task("h", split=Split.TEST), made("h", said=said))])
    folder = folder_of(
        tmp_path / "data",
        [(make_task("t0"), made("t0", said=said.upper())), (make_task("t1"), made("t1"))],
    )

    found = ran("select", folder.root, "--against", held.root)

    assert found["selection"]["by_verdict"]["contaminated"] == 1
    card = read_card(folder.card_json)
    assert card is not None
    assert [file.name for file in card.files if file.role == "held out"] == [
        "tasks.jsonl",
        "trajectories.jsonl",
    ]


def test_reasoning_is_selected_where_there_is_some(tmp_path: Path) -> None:
    """augment writes a second file; the first is the fallback."""
    pairs = [(make_task("t"), made("t"))]
    folder = folder_of(tmp_path / "data", pairs)
    folder_of(
        tmp_path / "data",
        [(make_task("t"), made("t", answer="done, because"))],
        name="augmented.jsonl",
    )

    ran("select", folder.root)

    assert [t.messages[-1].content for t in read_jsonl(folder.selected, Trajectory)] == [
        "done, because"
    ]
    ran("select", folder.root, "--from", folder.trajectories)
    assert [t.messages[-1].content for t in read_jsonl(folder.selected, Trajectory)] == ["done"]


def test_a_dry_run_tells_and_writes_nothing(tmp_path: Path) -> None:
    """Thresholds are tried before they are used."""
    folder = folder_of(tmp_path / "data", [(make_task("t"), made("t"))])

    result = cacherl("select", folder.root, "--dry-run")

    assert result.exit_code == 0
    assert "would be kept" in result.output
    assert sorted(p.name for p in folder.root.iterdir()) == ["tasks.jsonl", "trajectories.jsonl"]


def test_names_of_tools_are_data_at_the_terminal(tmp_path: Path) -> None:
    """A tool called `[red]` or with an escape in it must not paint the screen."""
    pairs = [(make_task("t"), made("t", tools=("[bold red]x[/]", "a\x1b[2Jb")))]
    folder = folder_of(tmp_path / "data", pairs)

    result = cacherl("select", folder.root)

    assert result.exit_code == 0
    assert "[bold red]x[/]" in result.output
    assert "\x1b" not in result.output


def test_a_card_describes_any_folder_and_keeps_what_selecting_said(tmp_path: Path) -> None:
    """`cacherl card` again, with a tokenizer: the verdicts are still there; after a change they are not."""
    pairs = [(make_task(f"t{n}"), made(f"t{n}", process=1.0)) for n in range(3)]
    folder = folder_of(tmp_path / "data", pairs)

    plain = ran("card", folder.root)
    ran("select", folder.root)
    again = ran("card", folder.root, "--tokenizer", "models/tiny-base")
    write_jsonl(folder.selected, [pairs[0][1]])
    changed = ran("card", folder.root)

    assert plain["selection"] is None
    assert again["selection"]["considered"] == 3
    assert again["verifiers"]
    assert not again["tokens"]["estimated"]
    assert changed["selection"] is None
    assert changed["trajectories"] == 1
    assert folder.card_html.read_text().startswith("<!doctype html>")


def test_the_same_folder_is_selected_the_same(tmp_path: Path) -> None:
    """Down to the bytes, the date apart."""
    pairs = [
        (make_task(f"t{n}", family=f"f{n % 2}"), made(f"t{n}", process=[1.0, 0.8][n % 3 == 0]))
        for n in range(12)
    ]
    first, second = folder_of(tmp_path / "a", pairs), folder_of(tmp_path / "b", pairs)
    for folder in (first, second):
        ran("select", folder.root, "--near-duplicates", 0.9)

    assert first.selected.read_bytes() == second.selected.read_bytes()
    assert judgements_of(first).read_bytes() == judgements_of(second).read_bytes()


def test_tasks_are_found_on_file_whatever_their_order(tmp_path: Path) -> None:
    """Of two with one id the last counts, as it does where a file is read whole."""
    tasks = [make_task(f"t{n}", said=f"é{n}" * n) for n in range(30)]
    write_jsonl(tmp_path / "tasks.jsonl", [*tasks, make_task("t7", said="again")])
    by_id = {task.id: task for task in tasks} | {"t7": make_task("t7", said="again")}
    order = list(by_id)
    random.Random(1).shuffle(order)

    with TaskFile(tmp_path / "tasks.jsonl") as found:
        assert len(found) == 30
        assert {name: found[name] for name in order} == by_id
        assert "t99" not in found
        assert found.get("t99") is None


def test_a_damaged_task_is_named_by_file_and_line(tmp_path: Path) -> None:
    """The reader is asked to mend one line, not to search for it."""
    folder = folder_of(tmp_path / "data", [(make_task("t"), made("t"))])
    line = folder.tasks.read_bytes()
    folder.tasks.write_bytes(line.replace(b'"family":"f"', b'"family":"g"'))

    result = cacherl("select", folder.root)

    assert result.exit_code == 1
    assert "tasks.jsonl:1: the checksum does not match" in result.stderr


def test_a_gold_without_calls_or_state_leaves_the_way_to_the_answer(tmp_path: Path) -> None:
    """A person's task file may know only what the answer must say."""
    gold = Gold(calls=(), answer=AnswerRule(must=(("done",),)), state="")
    folder = folder_of(tmp_path / "data", [(make_task("t", gold=gold), made("t"))])

    assert ran("select", folder.root)["selection"]["by_verdict"] == {"perfect": 1}


def test_the_card_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    """Other programs build on card.json."""
    folder = folder_of(tmp_path / "data", [(make_task("t"), made("t"))])
    said = ran("card", folder.root)

    assert msgspec.convert(said, Card) == read_card(folder.card_json)


def told(id_: str) -> tuple[Task, Trajectory]:
    """A conversation that can be exported: no call without a result."""
    short = msgspec.structs.replace(
        made(id_, tools=()),
        messages=(UserMessage(content=id_), AssistantMessage(content="done")),
    )
    return make_task(id_), short


def prices(path: Path, *models: str) -> Path:
    lines = [f'[prices."{model}"]\nprompt = 1\ncompletion = 10\n' for model in models]
    path.write_text("as_of = 2026-11-01\n" + "".join(lines))
    return path


@pytest.mark.usefixtures("key")
def test_a_judge_that_was_mended_is_asked_again_and_one_stubborn_answer_stops_nothing(
    tmp_path: Path,
) -> None:
    """The journal kept the bad replies: the same command failed on them for ever."""
    folder = folder_of(tmp_path / "data", unjudged(3))
    says = {"all": "Score: 5/5", "t1": "Score: 5/5"}

    def judge(body: dict[str, Any]) -> str:
        is_t1 = '"content": "t1"' in body["messages"][1]["content"]
        return says.get("all") or (says.get("t1") if is_t1 else None) or '{"score": 5}'

    with ScriptedTeacher(judge) as teacher:
        command = ("select", folder.root, "--judge", teacher.name, "--judge-samples", 2)
        bad = cacherl(*command)
        written = folder.selected.exists()
        del says["all"]
        first_asked = len(teacher.heard)
        half = cacherl(*command)
        del says["t1"]
        whole = cacherl(*command)
        asked = len(teacher.heard)
        again = cacherl(*command)

    assert bad.exit_code == 1
    assert "gave no score" in bad.stderr
    assert "The same command asks it again" in bad.stderr
    assert not written
    assert half.exit_code == 0, half.output
    assert "2 of 3 trajectories are kept" in half.stdout
    assert "No score for 1 trajectory: the judge" in half.stdout
    assert "2 samples without a score" in half.stdout
    assert "--judge openai" not in half.stdout
    assert first_asked == 3 * 2 * 3
    assert "3 of 3 trajectories are kept" in whole.stdout
    assert len(teacher.heard) == asked
    assert "3 of 3" in again.stdout


@pytest.mark.usefixtures("key")
def test_a_budget_names_options_and_prices_are_told_once(tmp_path: Path) -> None:
    """The price that `record` was told counts for `select` too; the card and the ledger say the same."""
    folder = folder_of(tmp_path / "data", unjudged(2))
    with TeacherServer(folder=tmp_path) as server:
        judge = f"openai:desk@{server.url}"
        command = ("select", folder.root, "--judge", judge, "--judge-samples", 1)
        free = cacherl(*command)
        refused = cacherl(*command, "--budget-usd", 1)
        priced = cacherl(
            *command, "--budget-usd", 1, "--prices", prices(tmp_path / "p.toml", judge)
        )
        (tmp_path / "p.toml").unlink()
        later = ran(*command, "--budget-usd", 1)
        slow = cacherl(
            *command, "--rpm", 600, "--tpm", 100000, "--timeout-s", 9, "--budget-tokens", 1
        )

    assert free.exit_code == 0
    assert "Dollars: price unknown (name one with --prices)" in free.stdout
    assert "Requests: 2 sent, 0 answered by the journal" in free.stdout
    assert refused.exit_code == 2
    assert refused.stderr.count(judge) == 2  # once in words and once in the file to write
    for word in ("--budget-usd", "--prices", "--budget-tokens"):
        assert word in refused.stderr
    assert "budget_" not in refused.stderr
    assert priced.exit_code == 0, priced.output
    assert "over all runs (" in priced.stdout
    (row,) = later["paid"]
    assert (row["purpose"], row["requests"]) == ("judge", 2)
    assert row["dollars"] > 0
    ledger = msgspec.json.decode(folder.ledger.read_bytes(), type=Ledger)
    card = read_card(folder.card_json)
    assert card is not None
    assert [each.dollars for each in ledger.rows] == [c.dollars for c in card.costs]
    assert ledger.total.dollars == row["dollars"]
    assert slow.exit_code == 0  # nothing new is asked
    assert json.loads(folder.select_json.read_bytes())["paid"][0]["requests"] == 2


def test_the_command_it_ends_with_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is printed to be typed must run as it stands, also where a name has a space."""
    folder = folder_of(tmp_path / "my data", [told("t")])
    monkeypatch.chdir(tmp_path)

    said = cacherl("select", folder.root).stdout
    following = shlex.split(said.rpartition("Next: ")[2])

    assert following[0] == "cacherl"
    assert cacherl(*following[1:]).exit_code == 0
    assert (tmp_path / "train.jsonl").exists()


def test_what_was_made_from_files_that_changed_is_told(tmp_path: Path) -> None:
    """`record` added episodes; training on last week's selection must not happen unseen."""
    pairs = [told(f"t{n}") for n in range(2)]
    folder = folder_of(tmp_path / "data", pairs[:1])
    out = tmp_path / "train.jsonl"
    export = ("export", folder.root, "--format", "trl", "--out", out)
    assert cacherl("select", folder.root, "--per-task", 2).stderr == ""
    assert cacherl(*export).stderr == ""

    folder_of(tmp_path / "data", pairs)
    behind = cacherl(*export)
    described = cacherl("card", folder.root)

    assert behind.exit_code == 0
    line = (
        f"! {folder.selected} is out of date: trajectories.jsonl has changed since. "
        f"Renew it: cacherl select {folder.root} --per-task 2"
    )
    assert behind.stderr.splitlines() == described.stderr.splitlines() == [line]
    assert cacherl(*shlex.split(line.partition("Renew it: cacherl ")[2])).exit_code == 0
    assert cacherl(*export).stderr == ""
    folder_of(tmp_path / "data", pairs, name="augmented.jsonl")
    assert "was made before augmented.jsonl, from trajectories.jsonl" in cacherl(*export).stderr


def test_reasons_of_episodes_that_changed_are_told(tmp_path: Path) -> None:
    """select goes on from augmented.jsonl: what was recorded since is not in it."""
    root = tmp_path / "desk"
    record = ("record", "--world", "desk", "--teacher", "expert", "--out", root, "--count")
    augment = ("augment", root, "--teacher", "desk")
    for command in ((*record, 4), augment):
        done = cacherl(*command)
        assert done.exit_code == 0, done.output
    assert cacherl("select", root).stderr == ""
    assert cacherl(*record, 6).exit_code == 0

    behind = cacherl("select", root)
    export = cacherl("export", root, "--format", "trl", "--out", tmp_path / "a.jsonl")

    for said in (behind, export):
        assert f"! {root}/augmented.jsonl is out of date" in said.stderr
        assert f"Renew it: cacherl augment {root} --teacher desk" in said.stderr
    assert cacherl(*augment).exit_code == 0
    assert cacherl("select", root).stderr == ""
