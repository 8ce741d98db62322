"""The audit: what only a held-out scenario can have said is a leak, what worlds share is none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from cacherl.cache.lookup.tool_cache import ToolCache
from cacherl.cache.safety.audit import (
    Audit,
    Kind,
    Severity,
    audit,
    held_out_cache,
    held_out_tasks,
    open_for_evaluation,
    require_single_split,
)
from cacherl.cli import main
from cacherl.core.errors import CacheError
from cacherl.core.jsonl import write_jsonl
from cacherl.core.tasks import AnswerRule, Gold, GoldCall, Split, Task
from cacherl.core.tools import ToolSpec
from cacherl.formats.tau_bench import read_tau_bench
from cacherl.reward.answer import says
from tests.cache.recordings import CANCEL, GET, SEARCH, SPACE, call, result, task

TAU = Path(__file__).parents[3] / "shared" / "data" / "tau-bench" / "gpt-4o-airline.json"


@pytest.fixture
def training() -> Iterator[ToolCache]:
    with ToolCache.open(":memory:") as cache:
        yield cache


@pytest.fixture
def held() -> Iterator[ToolCache]:
    with ToolCache.open(":memory:") as cache:
        yield cache


def record(
    cache: ToolCache,
    tool: ToolSpec,
    text: str,
    scenario: str,
    split: Split = Split.TRAIN,
    **arguments: object,
) -> None:
    asked = call(tool, **arguments)
    assert cache.record(SPACE, tool, asked, result(asked, text), scenario=scenario, split=split)


def held_task(scenario: str, must: tuple[tuple[str, ...], ...] = (), *calls: GoldCall) -> Task:
    gold = Gold(calls=calls, answer=AnswerRule(must=must), state="")
    return msgspec.structs.replace(task(scenario, Split.TEST), gold=gold)


def against_cache(training: ToolCache, held: ToolCache) -> Audit:
    return audit(training, held_out_cache(held.store), holdout="held", says=says)


def against_tasks(training: ToolCache, *tasks: Task) -> Audit:
    return audit(training, held_out_tasks(tasks), holdout="tasks", says=says)


def told(found: Audit) -> set[tuple[Severity, Kind, str]]:
    return {(each.severity, each.kind, each.held_out) for each in found.findings}


def test_recordings_of_a_held_out_scenario_are_leaks(training: ToolCache, held: ToolCache) -> None:
    """The plainest leak: one episode in both files."""
    record(held, GET, "shipped", "h1", Split.TEST, order_id="A")
    record(training, GET, "shipped", "h1", order_id="A")

    found = against_cache(training, held)

    assert told(found) == {
        (Severity.LEAK, Kind.SCENARIO, "h1"),
        (Severity.LEAK, Kind.CALL, "h1"),
    }
    assert (found.held_out_calls, found.present, found.same_answer) == (1, 1, 1)


def test_observations_of_another_split_are_leaks(training: ToolCache, held: ToolCache) -> None:
    """A recorder that was told the wrong file."""
    record(training, GET, "shipped", "s1", order_id="A")
    record(training, GET, "shipped", "s2", Split.DEV, order_id="B")
    record(held, GET, "lost", "h1", Split.TEST, order_id="Z")

    found = against_cache(training, held)

    assert told(found) == {(Severity.LEAK, Kind.SPLIT, "split dev")}


def test_what_training_recorded_itself_is_shared_data(training: ToolCache, held: ToolCache) -> None:
    """Opening hours are the same in every shop: asking for them is no cheating."""
    record(training, SEARCH, "9 to 5", "s1", query="opening hours", shelf="a")
    record(held, SEARCH, "9 to 5", "h1", Split.TEST, query="opening hours", shelf="a")
    record(held, SEARCH, "9 to 5", "h1", Split.TEST, query="the hours of opening", shelf="a")

    found = against_cache(training, held)

    assert found.findings == ()
    assert found.counts == {"shared call": 1, "shared near": 1}
    assert (found.present, found.near) == (1, 1)


def test_a_leak_through_the_fuzzy_gate_is_a_leak(training: ToolCache, held: ToolCache) -> None:
    """Other words, same answer: a lookup would serve it."""
    record(training, SEARCH, "9 to 5", "h1", query="opening hours", shelf="a")
    record(held, SEARCH, "9 to 5", "h1", Split.TEST, query="the hours of opening", shelf="a")

    found = against_cache(training, held)

    assert (Severity.LEAK, Kind.NEAR, "h1") in told(found)


def test_another_answer_to_the_same_call_is_no_leak(training: ToolCache, held: ToolCache) -> None:
    """Order A of another shop is another order."""
    record(training, GET, "shipped", "s1", order_id="A")
    record(held, GET, "lost", "h1", Split.TEST, order_id="A")

    found = against_cache(training, held)

    assert found.findings == ()
    assert (found.present, found.same_answer) == (1, 0)


def test_a_held_out_scenario_under_another_name_is_found(
    training: ToolCache, held: ToolCache
) -> None:
    """Renaming the scenario hides the provenance, not that all its own data comes back."""
    for order in "ABC":
        record(training, GET, f"{order} of one", "s1", order_id=order)
        record(training, GET, f"{order} of two", "renamed", order_id=order)
        record(held, GET, f"{order} of two", "h1", Split.TEST, order_id=order)

    found = against_cache(training, held)

    assert (Severity.LEAK, Kind.TWIN, "h1") in told(found)
    assert "renamed" in found.leaks[0].what


def test_an_answer_that_only_the_held_out_scenario_gave_is_a_leak(training: ToolCache) -> None:
    """Not every word of an answer is one: what training says too gives nothing away."""
    record(training, GET, '{"total": 42.0, "city": "Lyon"}', "h1", order_id="A")
    record(training, GET, '{"total": 7, "city": "Lyon"}', "s1", order_id="B")

    only = against_tasks(training, held_task("h1", (("42",),)))
    shared = against_tasks(training, held_task("h1", (("Lyon",),)))

    assert (Severity.LEAK, Kind.ANSWER, "t-h1") in told(only)
    assert only.leaks[0].kind is Kind.ANSWER or only.leaks
    assert (Severity.LEAK, Kind.ANSWER, "t-h1") not in told(shared)
    assert shared.counts["shared answer"] == 1


def test_gold_calls_in_training_are_told_apart(training: ToolCache) -> None:
    """A gold read in training is shared data, a gold write deserves a look, neither fails."""
    record(training, GET, "open", "s1", order_id="A")
    record(training, CANCEL, "done", "s1", order_id="A")
    gold = (
        GoldCall(name="get_order", arguments={"order_id": "A"}),
        GoldCall(name="cancel_order", arguments={"order_id": "A"}, step=1),
        GoldCall(name="cancel_order", arguments={"order_id": "B"}, step=1),
    )

    found = against_tasks(training, held_task("h1", (), *gold))

    assert told(found) == {(Severity.WARNING, Kind.CALL, "t-h1")}
    assert found.leaks == ()
    assert (found.held_out_calls, found.present) == (3, 2)


@pytest.mark.skipif(not TAU.exists(), reason="needs ../shared/data/tau-bench")
def test_real_episodes_split_by_task_hold_no_leak_until_one_is_put_in(training: ToolCache) -> None:
    """All tasks stand on one database, so that every overlap here is shared data but the planted one."""
    episodes = list(read_tau_bench(TAU))
    held = [pair for pair in episodes if int(pair[0].scenario.split("-")[-1]) % 4 == 3]
    held_tasks = [msgspec.structs.replace(read, split=Split.TEST) for read, _ in held]
    for read, trajectory in episodes:
        if (read, trajectory) not in held:
            training.record_trajectory(read, trajectory)

    before = against_tasks(training, *held_tasks)
    training.record_trajectory(*held[-1])
    after = against_tasks(training, *held_tasks)

    assert before.leaks == ()
    assert before.present > 0
    assert {each.kind for each in after.leaks} >= {Kind.SCENARIO}


# ---- the commands


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    train, test = tmp_path / "train.sqlite", tmp_path / "test.sqlite"
    with ToolCache.open(train, mode="write") as cache:
        record(cache, GET, "shipped", "s1", order_id="A")
    with ToolCache.open(test, mode="write") as cache:
        record(cache, GET, "lost", "h1", Split.TEST, order_id="A")
    return train, test


def test_the_command_passes_what_is_clean_and_fails_a_leak(files: tuple[Path, Path]) -> None:
    """It stands in CI before a training run."""
    train, test = files
    arguments = ["cache", "audit", str(train), "--holdout", str(test)]

    clean = CliRunner().invoke(main, arguments)
    with ToolCache.open(train, mode="write") as cache:
        record(cache, GET, "lost", "h1", order_id="A")
    leaky = CliRunner().invoke(main, arguments)
    machine = CliRunner().invoke(main, [*arguments, "--json"])

    assert clean.exit_code == 0, clean.output
    assert "No leak" in clean.output
    assert leaky.exit_code == 1
    assert f"cacherl cache gc {train} --scenario h1 --apply" in leaky.output
    assert machine.exit_code == 1
    assert {each["kind"] for each in json.loads(machine.stdout)["findings"]} >= {"scenario", "call"}


def test_the_command_takes_tasks(files: tuple[Path, Path], tmp_path: Path) -> None:
    """Tasks are held out before anything of them was recorded."""
    tasks = tmp_path / "tasks.jsonl"
    write_jsonl(tasks, [held_task("s1", (("shipped",),))])

    said = CliRunner().invoke(main, ["cache", "audit", str(files[0]), "--holdout", str(tasks)])

    assert said.exit_code == 1
    assert "1 of 1 parts of the answer" in said.output


# ---- evaluation


def test_an_evaluation_opens_files_of_its_split_only(files: tuple[Path, Path]) -> None:
    """One training recording is enough to make a figure worthless."""
    train, test = files
    open_for_evaluation(test, Split.TEST).close()
    with pytest.raises(CacheError, match="Name the cache of split test"):
        open_for_evaluation(train, Split.TEST)

    with ToolCache.open(test, mode="write") as cache:
        record(cache, GET, "shipped", "s1", order_id="A")
    with pytest.raises(CacheError, match=r"1 of test, 1 of train.*gc COPY --split train --apply"):
        open_for_evaluation(test, Split.TEST)


def test_an_empty_cache_answers_no_evaluation(training: ToolCache) -> None:
    """A figure of 0 % that comes from a wrong file looks like a bad model."""
    with pytest.raises(CacheError, match="no recordings"):
        require_single_split(training.store, Split.TEST, "c")
