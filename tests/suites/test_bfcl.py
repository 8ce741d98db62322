"""BFCL as a suite: its verdicts on gold and on mutated gold, directly and through the agent loop."""

from __future__ import annotations

import asyncio
import functools
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest

from cacherl.agent import run_episode
from cacherl.core.errors import DataError, ToolError
from cacherl.core.messages import AssistantMessage, MalformedCall, ToolCall, UserMessage
from cacherl.core.models import Limits
from cacherl.core.schema import argument_problem
from cacherl.core.suites import Verdict
from cacherl.core.tasks import Split
from cacherl.core.tools import Source
from cacherl.core.trajectories import StopReason, Trajectory
from cacherl.suites.bfcl import BfclSuite, BfclWorld
from cacherl.suites.bfcl.backends import Backends
from cacherl.suites.bfcl.cases import CATEGORIES, MORE_TOOLS, Case, Cases, gold_call, read_cases
from cacherl.suites.bfcl.effects import EFFECTS
from cacherl.suites.bfcl.suite import MAX_TURNS
from cacherl.suites.bfcl.verdict import MAX_STEPS, judge, turns_of
from cacherl.suites.gold_player import GoldPlayer
from cacherl.suites.nothing import nothing
from tests.suites.bfcl_wheel import needs_wheel, wheel

pytestmark = needs_wheel
LIMITS = Limits(max_turns=MAX_TURNS, max_context_tokens=10**9, max_result_tokens=10**9)
Turns = Sequence[Sequence[Sequence[ToolCall]]]
JUNK = ToolCall(id="junk", name="no_such_tool", arguments={"why": "none"})


@functools.cache
def cases() -> Cases:
    return read_cases(wheel())


def of(category: str) -> list[Case]:
    return [case for case in cases().by_id.values() if case.category == category]


def passed(category: str, played: Callable[[Case], Turns]) -> int:
    verdicts = (judge(wheel(), cases(), case, played(case)) for case in of(category))
    return sum(verdict.success for verdict in verdicts)


# ---- the counts of the official checker, on the same mutations


@pytest.mark.parametrize("category", CATEGORIES)
def test_gold_passes_however_it_is_cut_into_steps_and_whatever_else_fails(category: str) -> None:
    """The ceiling is 1: otherwise the suite's environments or the checker differ from BFCL's."""
    assert passed(category, lambda case: [[turn] for turn in case.gold]) == 200
    assert passed(category, lambda case: [[(call,) for call in turn] for turn in case.gold]) == 200
    assert passed(category, lambda case: [[(*turn, JUNK)] for turn in case.gold]) == 200


@pytest.mark.parametrize("category", CATEGORIES)
def test_doing_nothing_or_not_all_of_it_never_passes(category: str) -> None:
    """The floor is 0, and the checker sees the last missing call."""

    def dropped(case: Case) -> Turns:
        last = len(case.gold) - 1
        return [
            [turn[:-1] if len(turn) > 1 or place == last else turn]
            for place, turn in enumerate(case.gold)
        ]

    assert passed(category, lambda case: []) == 0
    assert passed(category, dropped) == 0


@pytest.mark.parametrize("category", CATEGORIES)
def test_order_matters_in_110_of_200_tasks(category: str) -> None:
    """A checker that executed nothing would see no difference."""
    assert passed(category, lambda case: [[turn[::-1]] for turn in case.gold]) == 90


@pytest.mark.parametrize("category", CATEGORIES)
def test_only_looking_passes_where_there_is_only_something_to_look_at(category: str) -> None:
    """Calls that neither change what is scored nor calculate: 2 of 200 tasks ask for nothing else."""
    changers = set()
    for case in of("base"):
        backends = Backends(wheel(), cases(), case)
        for call in (call for turn in case.gold for call in turn):
            before = _scored(backends)
            backends.run(call)
            if _scored(backends) != before:
                changers.add(call.name)
    assert len(changers) == 42

    def looking(call: ToolCall) -> bool:
        return call.name not in changers and cases().class_of[call.name] != "MathAPI"

    kept = passed(category, lambda case: [[tuple(filter(looking, turn))] for turn in case.gold])
    assert kept == 2


def _scored(backends: Backends) -> str:
    return repr(
        {
            name: {key: value for key, value in vars(made).items() if not key.startswith("_")}
            for name, made in backends.instances.items()
        }
    )


def test_more_calls_where_nothing_can_be_done_are_run_and_forgiven() -> None:
    """BFCL imports a check of such turns and never calls it; numbers elsewhere are without it."""
    looks = {
        case.id: gold_call("ls()", cases().specs, "look")
        for case in of("miss_param")
        if "GorillaFileSystem" in case.classes
    }
    chosen = [case for case in of("miss_param") if case.id in looks]

    verdicts = [
        judge(wheel(), cases(), case, [[turn or (looks[case.id],)] for turn in case.gold])
        for case in chosen
    ]

    assert len(chosen) == 50
    assert all(verdict.success for verdict in verdicts)


# ---- through the agent loop


def play(suite: BfclSuite, model: GoldPlayer, category: str) -> list[Verdict]:
    tasks = [task for split in Split for task in suite.tasks(split) if task.family == category]

    async def each() -> list[Verdict]:
        verdicts = []
        for task in tasks:
            tools = suite.open(task)
            verdicts.append(suite.check(task, await run_episode(model, tools, task, limits=LIMITS)))
        return verdicts

    return asyncio.run(each())


@functools.cache
def whole_suite() -> BfclSuite:
    return BfclSuite(wheel())


@pytest.mark.parametrize("category", CATEGORIES)
def test_the_loop_lets_gold_pass_and_nothing_fail(category: str) -> None:
    """What is measured is the loop with the suite: held-back tools come in time, no gold call is refused.

    One is, for a flaw of the data: gold of `multi_turn_miss_func_49` calls `tail` in its second turn, and
    the fourth reveals it. Their checker replays gold without asking what was on offer.
    """
    suite = whole_suite()

    ceiling = 199 if category == "miss_func" else 200
    assert sum(verdict.success for verdict in play(suite, suite.oracle(), category)) == ceiling
    assert not any(verdict.success for verdict in play(suite, nothing(), category))


@pytest.mark.parametrize(("category", "refused"), [("miss_func", 1), ("long_context", 0)])
def test_mutated_gold_scores_in_the_loop_as_it_does_directly(category: str, refused: int) -> None:
    """The verdict is read out of the trajectory: refused calls and steps must not shift anything."""
    by_id = cases().by_id

    def backwards(id_: str) -> list[AssistantMessage]:
        return [
            AssistantMessage(calls=calls)
            for turn in by_id[id_].gold
            for calls in ((turn[::-1], ()) if turn else ((),))
        ]

    def junk(id_: str) -> list[AssistantMessage]:
        return [
            m
            for turn in by_id[id_].gold
            for m in (AssistantMessage(calls=(*turn, JUNK)), BROKEN, DONE)
        ]

    suite = whole_suite()
    reverse = GoldPlayer(lambda task: backwards(task.id), name="reversed")
    noisy = GoldPlayer(lambda task: junk(task.id), name="noisy")
    assert sum(v.success for v in play(suite, reverse, category)) == 90 - refused
    assert sum(v.success for v in play(suite, noisy, category)) == 200 - refused


DONE = AssistantMessage()
BROKEN = AssistantMessage(calls=(MalformedCall(id="broken", text="ls(", problem="not closed"),))


def gold_episode(id_: str, *, limits: Limits = LIMITS) -> Trajectory:
    suite = whole_suite()
    (task,) = (t for split in Split for t in suite.tasks(split) if t.id == id_)
    return asyncio.run(run_episode(suite.oracle(), suite.open(task), task, limits=limits))


def test_a_held_back_tool_is_refused_until_its_turn() -> None:
    """Question 0 hides `sort` until its fourth turn; gold calls it then."""
    episode = gold_episode("multi_turn_miss_func_0")

    said = [m.content for m in episode.messages if isinstance(m, UserMessage)]
    assert said[3] == MORE_TOOLS
    assert all(result.source is Source.LIVE for result in episode.results)
    (task,) = (t for t in whole_suite().tasks(Split.TRAIN) if t.id == "multi_turn_miss_func_0")
    assert task.late == {"sort": 3}
    assert "sort" not in {spec.name for spec in task.offered(2)}
    assert [spec.name for spec in task.offered(3)][-1] == "sort"


# ---- what a failure says


def judged(id_: str, turns: Turns) -> dict[str, tuple[float, str]]:
    verdict = judge(wheel(), cases(), cases().by_id[id_], turns)
    return {check.name: (check.score, check.said) for check in verdict.checks}


def test_a_failure_names_the_state_key_the_missing_result_and_the_turn() -> None:
    """A person asks why, and the answer is one line."""
    gold = cases().by_id["multi_turn_base_0"].gold
    moved = gold[0][-1]
    elsewhere = msgspec.structs.replace(
        moved, arguments={**moved.arguments, "source": "previous_report.pdf"}
    )

    checks = judged(
        "multi_turn_base_0", [[(*gold[0][:-1], elsewhere)], [], *([t] for t in gold[2:])]
    )

    state = checks["state"][1]
    assert state.startswith("turn 1: GorillaFileSystem.root.contents.")
    assert "final_report.pdf" in state
    assert checks["response"][1].startswith("turn 1: no result like gold's mv(source=")
    assert checks["calls"] == (0.75, "turn 2: no call")


def test_an_episode_that_ends_early_fails_and_says_how() -> None:
    """BFCL forces an agent to quit after 20 steps of a turn and fails the task."""
    suite = whole_suite()
    (task,) = (t for t in suite.tasks(Split.TRAIN) if t.id == "multi_turn_base_0")
    short = suite.check(task, gold_episode(task.id, limits=Limits(max_turns=3)))
    whole = gold_episode(task.id)
    assert suite.check(task, whole).success
    first = next(m for m in whole.messages if isinstance(m, AssistantMessage))
    long = msgspec.structs.replace(
        whole,
        messages=(whole.messages[0], *[first] * (MAX_STEPS + 1), *whole.messages[1:]),
        results=(*[whole.results[0]] * (MAX_STEPS + 1), *whole.results),
    )

    assert not short.success
    assert short.checks[0].said == "ended (max_turns) with 3 user turns unsaid"
    assert suite.check(task, long).checks[0].said == "turn 1: more than 20 steps"
    quit_ = msgspec.structs.replace(whole, stop=StopReason.MAX_TURNS)
    assert suite.check(task, quit_).checks[0].said == "ended with the last user turn unanswered"


def test_a_stored_trajectory_is_judged_as_the_live_one() -> None:
    """`cacherl rescore` runs no model: the verdict must come out of the file alone."""
    suite = whole_suite()
    (task,) = (t for t in suite.tasks(Split.TEST) if t.id == "multi_turn_long_context_104")
    episode = asyncio.run(run_episode(suite.oracle(), suite.open(task), task, limits=LIMITS))
    stored = msgspec.json.decode(msgspec.json.encode(episode), type=Trajectory)

    assert suite.check(task, stored) == suite.check(task, episode)
    assert suite.check(task, stored).success


def test_a_call_cut_off_or_refused_did_not_happen() -> None:
    """The checker runs what reached a tool, and nothing else."""
    episode = gold_episode("multi_turn_base_0")
    turns = turns_of(msgspec.structs.replace(episode, results=episode.results[:2]))

    assert [len(step) for step in turns[0]] == [1, 1, 0]


# ---- tasks and environments


def test_no_costume_of_a_test_question_is_in_another_split() -> None:
    """Its four categories are one task set; trained on one of them, the others are known."""
    suite = whole_suite()
    numbers = {split: {task.id.rsplit("_", 1)[1] for task in suite.tasks(split)} for split in Split}

    assert {split: len(found) for split, found in numbers.items()} == {
        Split.TRAIN: 120,
        Split.DEV: 40,
        Split.TEST: 40,
    }
    assert not numbers[Split.TEST] & (numbers[Split.TRAIN] | numbers[Split.DEV])
    assert {int(number) % 5 for number in numbers[Split.TEST]} == {4}
    assert suite.info.tasks == 800
    assert suite.info.distinct_questions == 429
    assert max(len(c.user_turns) for c in cases().by_id.values()) * (MAX_STEPS + 1) <= MAX_TURNS


def test_gold_arguments_fit_the_schemas_and_the_tools_are_those_of_the_involved_backends() -> None:
    """The loop refuses what does not fit: a gold call that it refused would cap the suite."""
    for case in cases().by_id.values():
        offered = {spec.name for spec in cases().tools(case)}
        for call in (call for turn in case.gold for call in turn):
            assert call.name in offered
            assert argument_problem(cases().specs[call.name], call.arguments) is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("__import__('os').system('true')", "not a plain call"),
        ("cd(folder=open('x'))", "malformed node"),
        ("cd('a', 'b')", "2 arguments, 1 parameters"),
        ("nowhere()", "nowhere"),
        ("cd(**{'folder': 'a'})", "** in a call"),
        ("cd(", "was never closed"),
    ],
)
def test_a_gold_line_is_parsed_and_never_evaluated(text: str, problem: str) -> None:
    """Their runner evaluates text; a changed data file would run here as code."""
    with pytest.raises(DataError, match="is no call of a documented tool") as told:
        gold_call(text, cases().specs, "c")

    assert problem in str(told.value)


def test_positional_arguments_get_the_documented_names() -> None:
    """`sort('final_report.pdf')` is a call with a named argument everywhere else."""
    call = gold_call("sort('final_report.pdf')", cases().specs, "c")

    assert call.arguments == {"file_name": "final_report.pdf"}


def test_episodes_share_nothing() -> None:
    """Backends keep the lists they are handed, and padded cards are one object of their module."""
    posts = next(case for case in of("base") if "TwitterAPI" in case.classes)
    cards = next(case for case in of("long_context") if "TravelAPI" in case.classes)

    def run(case: Case, *texts: str) -> list[str]:
        backends = Backends(wheel(), cases(), case)
        return [backends.run(gold_call(text, cases().specs, "c"))[0] for text in texts]

    user, word = (posts.initial["TwitterAPI"][key] for key in ("username", "password"))
    login = f"authenticate_twitter(username={user!r}, password={word!r})"
    counter = posts.initial["TwitterAPI"].get("tweet_counter", 0)
    first = run(posts, login, "post_tweet(content='hi')")
    run(posts, login, "post_tweet(content='hi')", f"mention({counter}, ['@someone'])")
    assert run(posts, login, "post_tweet(content='hi')") == first
    assert json.loads(first[1])["mentions"] == []

    one, other = (Backends(wheel(), cases(), cards) for _ in range(2))
    held = vars(one.instances["TravelAPI"])["credit_card_list"]
    for card in held.values():
        card["balance"] = -1.0
    assert one.fingerprint() != other.fingerprint()
    assert other.fingerprint() == Backends(wheel(), cases(), cards).fingerprint()


def test_the_fingerprint_tells_what_a_tool_can_read_and_nothing_of_the_clock() -> None:
    """Equal states, equal digests, in every process: caches and shadow runs compare them."""
    code = (
        "import sys; from pathlib import Path\n"
        "from cacherl.core.tasks import Split\n"
        "from cacherl.suites.bfcl import BfclSuite\n"
        "tasks = BfclSuite(Path(sys.argv[1])).tasks(Split.TEST, count=25, seed=3)\n"
        "print(*(task.gold.state for task in tasks))"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code, str(wheel())], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    ]
    here = [t.gold.state for t in whole_suite().tasks(Split.TEST, count=25, seed=3) if t.gold]

    assert runs[0] == runs[1]
    assert runs[0].split() == here
    backends = Backends(wheel(), cases(), cases().by_id["multi_turn_base_0"])
    before = backends.fingerprint()
    backends.run(gold_call("ls()", cases().specs, "c"))
    assert backends.fingerprint() == before
    backends.run(gold_call("cd('document')", cases().specs, "c"))
    assert backends.fingerprint() != before  # the current directory is private, and read by `ls`


def test_the_world_opens_each_tasks_scenario() -> None:
    """Recording, caching and training know a task's environment by its scenario alone."""
    world = BfclWorld(whole_suite())
    (task,) = world.tasks(Split.TRAIN, count=1, seed=5)

    assert world.resets
    assert len(world.specs) == 128
    opened = world.open(task.scenario)
    assert opened.fingerprint() == whole_suite().open(task).fingerprint()
    with pytest.raises(ToolError, match="no scenario 'bfcl-none'"):
        world.open("bfcl-none")
    with pytest.raises(DataError, match="480 tasks in split train, not 481"):
        world.tasks(Split.TRAIN, count=481, seed=0)


async def test_a_tool_that_is_not_the_tasks_is_a_result() -> None:
    """Tools of backends that the task does not involve do not exist for it."""
    backends = Backends(wheel(), cases(), cases().by_id["multi_turn_base_0"])

    for name in ("startEngine", "nowhere", "_load_scenario", "__init__"):
        result = await backends.call(ToolCall(id="c", name=name, arguments={}))
        assert result.is_error
        assert json.loads(result.text)["error"] == "not_found"


# ---- effects


def test_a_tool_that_declares_no_write_never_changes_what_a_tool_can_read() -> None:
    """A reader that writes would let the cache serve answers of another state as exact."""
    wrote = set()
    for case in (*of("base"), *of("long_context")):
        backends = Backends(wheel(), cases(), case)
        for call in (call for turn in case.gold for call in turn):
            before = backends.fingerprint()
            backends.run(call)
            if backends.fingerprint() != before:
                wrote.add(call.name)

    assert wrote
    assert [name for name in sorted(wrote) if not EFFECTS[name].writes] == []


def test_importing_its_code_leaves_nothing_behind(tmp_path: Path) -> None:
    """Their settings module creates folders where it is imported; ours must not reach it."""
    code = (
        "import sys; from pathlib import Path\n"
        "from cacherl.core.tasks import Split\n"
        "from cacherl.suites.bfcl import BfclSuite\n"
        "before = list(sys.path)\n"
        "suite = BfclSuite(Path(sys.argv[1]))\n"
        "[suite.open(task) for split in Split for task in suite.tasks(split)]\n"
        "assert sys.path == before\n"
        "loaded = [name for name in sys.modules if name.startswith('bfcl_eval')]\n"
        "print(len(loaded), any('eval_config' in name for name in loaded))"
    )

    said = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(wheel().resolve())],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    ).stdout

    assert said.split()[1] == "False"
    assert list(tmp_path.iterdir()) == []
