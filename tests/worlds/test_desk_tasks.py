"""Tasks: right, even, reproducible, and apart by split."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import msgspec
import pytest

from cacherl.core.tasks import Split, Task
from cacherl.render import tool_json
from cacherl.reward.answer import answer_score
from cacherl.worlds.desk import DeskWorld
from cacherl.worlds.desk import wordings as words
from cacherl.worlds.desk.database import Desk
from cacherl.worlds.desk.plans import PLANS
from cacherl.worlds.desk.tasks import FAMILIES
from cacherl.worlds.desk.tools import WRITERS, run_tool
from cacherl.worlds.desk.universe import universe
from cacherl.worlds.desk.world import scenario_named

SRC = Path(__file__).parents[2] / "src"
WORLD = DeskWorld()


@pytest.fixture(scope="module")
def train() -> list[Task]:
    return WORLD.tasks(Split.TRAIN, count=2000, seed=0)


@pytest.fixture(scope="module")
def test_tasks() -> list[Task]:
    return WORLD.tasks(Split.TEST, count=320, seed=0)


def state_after(task: Task, drop: int | None = None) -> str:
    """Execute the gold calls on a fresh desk, one of them left out where asked."""
    assert task.gold is not None
    desk = Desk(scenario_named(task.scenario))
    try:
        for place, call in enumerate(task.gold.listed):
            if place != drop:
                run_tool(desk, call.name, call.arguments)
        return desk.fingerprint()
    finally:
        desk.close()


def test_the_same_arguments_give_the_same_tasks_in_another_process() -> None:
    """Runs on two machines must be about the same tasks; Python's hash() differs between them."""
    code = (
        "import msgspec, hashlib\n"
        "from cacherl.core.tasks import Split\n"
        "from cacherl.worlds.desk import DeskWorld\n"
        "tasks = DeskWorld().tasks(Split.DEV, count=50, seed=9)\n"
        "print(hashlib.sha256(msgspec.json.encode(tasks)).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONPATH": str(SRC), "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }

    assert len(digests) == 1
    assert WORLD.tasks(Split.DEV, count=50, seed=9) == WORLD.tasks(Split.DEV, count=50, seed=9)
    assert WORLD.tasks(Split.DEV, count=50, seed=9) != WORLD.tasks(Split.DEV, count=50, seed=8)


def test_families_are_even_and_ids_unique(train: list[Task]) -> None:
    """A score per family needs tasks of each family."""
    counts = Counter(task.family for task in train)

    assert set(counts) == set(FAMILIES) == set(PLANS) == set(words.WORDINGS)
    assert len(FAMILIES) >= 12
    assert max(counts.values()) - min(counts.values()) <= 1
    assert len({task.id for task in train}) == len(train)
    assert {t.family for t in DeskWorld(["cancel"]).tasks(Split.DEV, count=3, seed=0)} == {"cancel"}


def test_gold_is_what_its_calls_really_do(train: list[Task], test_tasks: list[Task]) -> None:
    """The state of the gold is the state after the gold calls, in every family and language."""
    seen: Counter[tuple[str, str]] = Counter()
    for task in train[:400] + test_tasks:
        assert task.gold is not None
        seen[task.family, task.language] += 1
        assert state_after(task) == task.gold.state
        steps = [call.step for call in task.gold.listed]
        assert steps == sorted(steps)
        assert len(steps) <= 6
    assert len(seen) == 2 * len(FAMILIES)


def test_nothing_and_less_than_all_is_not_enough(train: list[Task]) -> None:
    """A task that could be passed without its last write would reward doing less."""
    for task in train[:400]:
        assert task.gold is not None
        assert answer_score(task.gold.answer, "") < 1.0
        places = [i for i, call in enumerate(task.gold.listed) if call.name in WRITERS]
        if places:
            assert state_after(task, drop=places[-1]) != task.gold.state


def test_right_calls_do_not_fail_but_where_the_task_is_about_that(train: list[Task]) -> None:
    """An error in the gold would teach the error."""
    for task in train[:400]:
        assert task.gold is not None
        desk = Desk(scenario_named(task.scenario))
        errors = [run_tool(desk, c.name, c.arguments)[1] for c in task.gold.listed]
        desk.close()
        failed = [place for place, error in enumerate(errors) if error is not None]
        assert failed == ([0] if task.family == "email_retry" else []), task


def test_values_come_from_results_or_from_words(train: list[Task]) -> None:
    """Nobody can copy what was never shown."""
    for task in train[:400]:
        assert task.gold is not None
        desk = Desk(scenario_named(task.scenario))
        shown = "\n".join((task.system, *task.user_turns))
        for call in task.gold.listed:
            for key, value in call.arguments.items():
                if key.endswith("_id") or key in ("email", "amount", "city"):
                    assert str(value) in shown, (task.id, key, value)
            shown += run_tool(desk, call.name, call.arguments)[0]
        desk.close()


def test_two_scenarios_do_not_contradict_each_other(train: list[Task]) -> None:
    """The cache key holds no scenario, so one call should have one answer before any write."""
    answers: defaultdict[str, set[str]] = defaultdict(set)
    calls = 0
    for task in train:
        assert task.gold is not None
        desk = Desk(scenario_named(task.scenario))
        written: tuple[str, ...] = ()
        for call in task.gold.listed:
            text, _ = run_tool(desk, call.name, call.arguments)
            made = json.dumps([call.name, call.arguments])
            answers[json.dumps([written, made])].add(text)
            written += (made,) if call.name in WRITERS else ()
            calls += 1
        desk.close()
    contradicted = sum(len(texts) - 1 for texts in answers.values())

    assert contradicted / calls < 0.01
    assert len(answers) < 0.98 * calls  # and some calls do meet again


def test_splits_share_neither_ids_nor_emails() -> None:
    """Held-out means held-out: no value of a test answer is ever seen in training."""
    ids: dict[Split, set[str]] = {}
    for split in Split:
        everything = universe(split)
        ids[split] = (
            {c.id for c in everything.customers}
            | {o.id for c in everything.customers for o in c.orders}
            | {t.id for c in everything.customers for t in c.tickets}
            | {tid for c in everything.customers for tid in c.new_tickets}
            | {s.id for shop in everything.shops for s in shop}
            | {s.shop_id for shop in everything.shops for s in shop}
            | {a.id for product in everything.products for a in product}
            | {a.product for product in everything.products for a in product}
        )
    assert not ids[Split.TRAIN] & (ids[Split.DEV] | ids[Split.TEST])
    assert not ids[Split.DEV] & ids[Split.TEST]
    assert not universe(Split.TRAIN).emails & universe(Split.TEST).emails
    assert not universe(Split.TRAIN).emails & universe(Split.DEV).emails


@pytest.mark.parametrize(
    ("split", "held"), [(Split.DEV, words.DEV_SETS), (Split.TEST, words.TEST_SETS)]
)
def test_half_of_the_held_out_tasks_have_wordings_never_trained_on(
    split: Split, held: tuple[str, ...], train: list[Task]
) -> None:
    """Known and new wordings are reported apart, so both must be there."""
    tasks = WORLD.tasks(split, count=400, seed=1)
    share = sum(task.wording in held for task in tasks) / len(tasks)

    assert 0.4 < share < 0.6
    assert {task.wording for task in tasks} <= {*held, *words.TRAIN_SETS}
    assert {task.wording for task in train} == set(words.TRAIN_SETS)


def test_every_family_has_twelve_different_wordings_in_both_languages() -> None:
    """A wording given twice would leak from training into the held-out sets."""
    for family, languages in words.WORDINGS.items():
        assert set(languages) == {"en", "fr"}, family
        for language, texts in languages.items():
            assert len(texts) == len(set(texts)) == len(words.SETS), (family, language)


def test_languages_are_mixed_sixty_to_forty(train: list[Task]) -> None:
    """French is not an afterthought."""
    assert 0.35 < sum(task.language == "fr" for task in train) / len(train) < 0.45


def test_prompts_are_small(train: list[Task]) -> None:
    """The tiny model learns on prompts near 500 tokens; longer ones cost the quickstart minutes.

    A list of tools serves all families of its area, which costs a few tokens more than one a family.
    """
    sizes = []
    for task in train:
        assert len(task.system.split()) <= 45
        assert 4 <= len(task.tools) <= 6
        names = [spec.name for spec in task.tools]
        assert len(set(names)) == len(names)
        assert task.gold is not None
        assert {call.name for call in task.gold.listed} <= set(names)
        text = "\n".join(map(tool_json, task.tools)) + task.system
        sizes.append(90 + len(text) / 3)
    assert sum(sizes) / len(sizes) < 530
    assert max(sizes) < 620


def test_no_brace_of_a_template_is_left(train: list[Task], test_tasks: list[Task]) -> None:
    """A forgotten value would be read as part of what the customer says."""
    for task in train + test_tasks:
        assert not {"{", "}"} & set("".join(task.user_turns)), task.user_turns


def test_a_task_survives_a_file(test_tasks: list[Task]) -> None:
    """Tasks travel between stages as JSON lines."""
    for task in test_tasks[:50]:
        assert msgspec.json.decode(msgspec.json.encode(task), type=Task) == task
