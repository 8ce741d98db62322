"""BFCL's own checker, run on what is exported, agrees with ours task by task."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from cacherl.agent import run_episode
from cacherl.core.errors import DataError
from cacherl.core.messages import AssistantMessage, ToolCall
from cacherl.core.models import Limits
from cacherl.core.tasks import Split, Task
from cacherl.core.trajectories import StopReason, Trajectory
from cacherl.suites.bfcl import BfclSuite
from cacherl.suites.bfcl.cases import CATEGORIES, Case, Cases, read_cases
from cacherl.suites.bfcl.export import result_of, write_results
from cacherl.suites.bfcl.suite import MAX_TURNS, gold_messages
from cacherl.suites.bfcl.wheel import add_wheel
from cacherl.suites.gold_player import DONE, GoldPlayer
from tests.suites.bfcl_wheel import needs_wheel, wheel

pytestmark = needs_wheel
LIMITS = Limits(max_turns=MAX_TURNS, max_context_tokens=10**9, max_result_tokens=10**9)

OFFICIAL = """
import json, sys
sys.path.insert(0, sys.argv[1])
from bfcl_eval.eval_checker.multi_turn_eval.multi_turn_checker import multi_turn_checker

def lines(path):
    return [json.loads(line) for line in open(path)]

import zipfile
archive = zipfile.ZipFile(sys.argv[1])

def data(name):
    text = archive.read(f"bfcl_eval/data/{name}").decode()
    return {row["id"]: row for row in map(json.loads, text.splitlines())}

verdicts = {}
for path in sys.argv[2:]:
    category = path.split("BFCL_v4_")[1].removesuffix("_result.json")
    questions = data(f"BFCL_v4_{category}.json")
    answers = data(f"possible_answer/BFCL_v4_{category}.json")
    for row in lines(path):
        gold = answers[row["id"]]["ground_truth"]
        if len(row["result"]) != len(gold):  # eval_runner.py: force-terminated
            verdicts[row["id"]] = False
            continue
        turns = [
            [
                [f"{k}({','.join(f'{a}={v!r}' for a, v in json.loads(w).items())})"
                 for call in step for k, w in call.items()]
                for step in turn
            ]
            for turn in row["result"]
        ]
        told = multi_turn_checker(turns, gold, questions[row["id"]], category, "m")
        verdicts[row["id"]] = told["valid"]
print(json.dumps(verdicts))
"""
"""What `bfcl evaluate` does with a multi-turn result file, without the vendors' client libraries."""


@functools.cache
def cases() -> Cases:
    return read_cases(wheel())


def shaken(case: Case) -> list[AssistantMessage]:
    """Return gold with a call dropped, repeated, swapped or changed here and there; often still right."""
    dice = random.Random(case.id)
    messages = []
    for turn in case.gold:
        calls = list(turn)
        for place in range(len(calls)):
            match dice.randrange(12):
                case 0:
                    calls[place] = calls[place - 1]
                case 1:
                    calls.insert(place, calls[place])
                case 2:
                    calls[place - 1], calls[place] = calls[place], calls[place - 1]
                case 3:
                    del calls[place]
                    break
        messages += [*(AssistantMessage(calls=(call,)) for call in calls), DONE]
    return messages


def backwards(case: Case) -> list[AssistantMessage]:
    return [
        message
        for turn in case.gold
        for message in ((AssistantMessage(calls=turn[::-1]),) if turn else ()) + (DONE,)
    ]


def wild(case: Case) -> list[AssistantMessage]:
    """Return gold between calls that nobody should make: unknown tools, unknown names, wrong types."""
    odd = (
        ToolCall(id="a", name="no_such_tool", arguments={}),
        ToolCall(id="b", name="ls", arguments={"a": "yes"}),
        ToolCall(id="c", name="cd", arguments={"path": "/"}),
    )
    return [m for message in gold_messages(case) for m in (AssistantMessage(calls=odd), message)]


@pytest.mark.parametrize("played", [shaken, backwards, wild])
def test_the_official_checker_says_the_same_of_every_task(
    tmp_path: Path, played: Callable[[Case], list[AssistantMessage]]
) -> None:
    """A number from here must mean what the same number means elsewhere."""
    suite = BfclSuite(wheel())
    model = GoldPlayer(lambda task: played(cases().by_id[task.id]))

    async def each() -> list[tuple[Task, Trajectory]]:
        return [
            (task, await run_episode(model, suite.open(task), task, limits=LIMITS))
            for task in suite.tasks(Split.TEST)
        ]

    episodes = asyncio.run(each())
    ours = {task.id: suite.check(task, episode).success for task, episode in episodes}
    counts = write_results(tmp_path, cases(), (episode for _, episode in episodes))
    files = sorted(str(path) for path in tmp_path.rglob("*_result.json"))
    told = subprocess.run(
        [sys.executable, "-c", OFFICIAL, str(wheel().resolve()), *files],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )

    assert counts == dict.fromkeys(CATEGORIES, 40)
    assert json.loads(told.stdout) == ours
    if played is not wild:
        assert 10 < sum(ours.values()) < 150  # both verdicts occur


def episode() -> Trajectory:
    suite = BfclSuite(wheel())
    (task,) = (t for t in suite.tasks(Split.TRAIN) if t.id == "multi_turn_base_0")
    return asyncio.run(run_episode(suite.oracle(), suite.open(task), task, limits=LIMITS))


def test_an_episode_that_was_cut_has_fewer_turns_than_gold() -> None:
    """By that BFCL knows a run that it would have forced to quit, and fails it."""
    whole = episode()
    cut = msgspec.structs.replace(whole, stop=StopReason.MAX_TURNS)

    assert len(result_of(whole)) == 4
    assert len(result_of(cut)) == 3
    assert result_of(whole)[2] == [[{"sort": '{"file_name": "final_report.pdf"}'}]]


def test_two_trials_of_a_task_or_a_foreign_task_are_refused(tmp_path: Path) -> None:
    """Their files hold one result a task; a second one would be dropped in silence."""
    with pytest.raises(DataError, match=r"more than once.*--trial"):
        write_results(tmp_path, cases(), [episode(), episode()])
    foreign = msgspec.structs.replace(episode(), task_id="desk-1")
    with pytest.raises(DataError, match="'desk-1' is no task of BFCL"):
        write_results(tmp_path, cases(), [foreign])
    assert list(tmp_path.iterdir()) == []


def test_the_command_exports_an_evaluation_and_says_what_to_run_next(
    data_folder: Path, tmp_path: Path
) -> None:
    """The cross-check is two commands: ours, and theirs where their package is installed."""
    add_wheel(wheel())
    run, out = str(tmp_path / "run"), str(tmp_path / "official")

    def cacherl(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "cacherl.cli", *arguments],
            capture_output=True,
            text=True,
            env={**os.environ, "CACHERL_HOME": str(data_folder)},
            check=False,
        )

    played = cacherl("eval", "oracle", "--suite", "bfcl:base", "--limit", "5", "--out", run)
    exported = cacherl("suites", "export", run, "--out", out)
    absent = cacherl("suites", "export", run, "--out", out, "--trial", "3")

    assert played.returncode == 0, played.stderr
    assert exported.stdout.startswith(f"5 episodes into {out}; 5 of them passed here.")
    assert "--test-category multi_turn_base --partial-eval" in exported.stdout
    (file,) = Path(out).rglob("*.json")
    assert len(file.read_text().splitlines()) == 5
    assert "holds no episode of trial 3" in absent.stderr
