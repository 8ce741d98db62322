"""The expert, its detours and its reasons, through the one agent loop and on live tools."""

from __future__ import annotations

import re
from collections import Counter, defaultdict

import msgspec
import pytest

from cacherl.agent import run_episode
from cacherl.augment import TurnClass, turn_class
from cacherl.core.errors import RecipeError
from cacherl.core.messages import (
    AssistantMessage,
    Message,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from cacherl.core.models import Limits
from cacherl.core.tasks import Split, Task
from cacherl.core.trajectories import StopReason, Trajectory
from cacherl.core.worlds import World
from cacherl.reward.answer import rule_score
from cacherl.worlds.desk import DeskExpert, DeskWorld, explain
from cacherl.worlds.desk.universe import CITIES, ITEMS, REFUND_DAYS

WORLD: World = DeskWorld()


async def play(expert: DeskExpert, tasks: list[Task], seed: int = 0) -> list[Trajectory]:
    played = []
    for task in tasks:
        tools = WORLD.open(task.scenario)
        trajectory = await run_episode(expert, tools, task, limits=Limits(), seed=seed)
        state = tools.fingerprint()
        await tools.aclose()
        played.append(msgspec.structs.replace(trajectory, final_state=state))
    return played


def solved(task: Task, trajectory: Trajectory) -> bool:
    return (
        task.gold is not None
        and trajectory.stop is StopReason.ANSWER
        and trajectory.final_state == task.gold.state
        and rule_score(task, trajectory) == 1.0
    )


def made(trajectory: Trajectory) -> list[tuple[str, dict[str, object]]]:
    return [
        (call.name, call.arguments)
        for message in trajectory.messages
        if isinstance(message, AssistantMessage)
        for call in message.calls
        if isinstance(call, ToolCall)
    ]


@pytest.mark.parametrize("split", list(Split))
async def test_the_expert_solves_the_tasks_live(split: Split) -> None:
    """If the teacher cannot, nobody learns it."""
    tasks = WORLD.tasks(split, count=300, seed=4)

    played = await play(DeskExpert(detour=0.0), tasks)

    assert sum(map(solved, tasks, played)) >= 0.99 * len(tasks)
    for task, trajectory in zip(tasks, played, strict=True):
        assert task.gold is not None
        assert made(trajectory) == [(c.name, c.arguments) for c in task.gold.listed]


async def test_detours_are_taken_as_often_as_asked_and_mostly_end_badly() -> None:
    """Selection needs something to reject, and something imperfect to keep."""
    tasks = WORLD.tasks(Split.TRAIN, count=400, seed=5)

    always = await play(DeskExpert(detour=1.0), tasks)
    some = await play(DeskExpert(detour=0.25), tasks)

    def gold(task: Task) -> list[tuple[str, dict[str, object]]]:
        assert task.gold is not None
        return [(call.name, call.arguments) for call in task.gold.listed]

    differs = [made(tr) != gold(t) or not solved(t, tr) for t, tr in zip(tasks, some, strict=True)]
    assert 0.1 < sum(differs) / len(tasks) < 0.3
    assert 0.2 < sum(map(solved, tasks, always)) / len(tasks) < 0.6
    assert all(trajectory.stop is StopReason.ANSWER for trajectory in always)
    failures = Counter(r.error_class for tr in always for r in tr.results if r.is_error)
    assert len(failures) >= 2  # ids that do not exist, and writes that are refused


async def test_the_same_seed_plays_the_same_game() -> None:
    """Recording again must give the same file."""
    tasks = WORLD.tasks(Split.TRAIN, count=40, seed=6)

    one, two = await play(DeskExpert(detour=0.5), tasks), await play(DeskExpert(detour=0.5), tasks)
    other = await play(DeskExpert(detour=0.5), tasks, seed=1)

    assert [t.messages for t in one] == [t.messages for t in two]
    assert [t.messages for t in one] != [t.messages for t in other]


async def test_half_of_the_calling_turns_say_why_and_no_answer_does() -> None:
    """Augment turns such words into thinking; in an answer they would be leaked thinking."""
    tasks = WORLD.tasks(Split.TRAIN, count=300, seed=7)
    kinds: Counter[TurnClass] = Counter()
    for trajectory in await play(DeskExpert(detour=0.0), tasks):
        for message in trajectory.messages:
            if isinstance(message, AssistantMessage):
                kinds[turn_class(message)] += 1
                if not message.calls:
                    assert len(message.content.split()) <= 20
                    assert not re.search(r"\bthe user\b|\ble client\b", message.content.lower())
    calling = kinds[TurnClass.ANALYTICAL] + kinds[TurnClass.USER_FACING]

    assert 0.4 < kinds[TurnClass.ANALYTICAL] / calling < 0.6


async def test_every_right_turn_has_a_short_reason_that_names_what_it_copies() -> None:
    """A tiny model copies an id more easily once it has said it."""
    tasks = WORLD.tasks(Split.TEST, count=320, seed=8)
    for task, trajectory in zip(tasks, await play(DeskExpert(detour=0.0), tasks), strict=True):
        hidden = msgspec.structs.replace(task, gold=None, user_turns=task.user_turns[:1])
        for place, message in enumerate(trajectory.messages):
            if not isinstance(message, AssistantMessage):
                continue
            reason = explain(hidden, trajectory.messages[:place], message)
            assert 3 <= len(reason.split()) <= 16, reason
            assert not re.search(r"user needs|client demande [a-z_]+\.$|can be answered", reason)
            assert ("Le client" in reason or "le client" in reason) == (task.language == "fr")
            for call in message.calls:
                assert isinstance(call, ToolCall)
                for key, value in call.arguments.items():
                    if key.endswith("_id") or key == "amount":
                        assert str(value) in reason, (key, value, reason)


async def test_reasons_of_strange_turns_never_fail() -> None:
    """Augment explains whatever was recorded, detours included."""
    tasks = WORLD.tasks(Split.TRAIN, count=200, seed=9)
    for task, trajectory in zip(tasks, await play(DeskExpert(detour=1.0), tasks), strict=True):
        for place, message in enumerate(trajectory.messages):
            if isinstance(message, AssistantMessage):
                assert explain(task, trajectory.messages[:place], message)
        odd = AssistantMessage(calls=(ToolCall(id="1", name="fly", arguments={}),))
        assert explain(task, trajectory.messages[:2], odd)


async def test_the_same_evidence_never_asks_for_two_different_things() -> None:
    """Ambiguity is poison: what to do follows from policy, words and results, not from the family.

    Names, ids and numbers are replaced by their order of appearance, so that tasks meet.
    """
    tasks = WORLD.tasks(Split.TRAIN, count=1000, seed=10)
    turns = 0
    asked: defaultdict[str, set[str]] = defaultdict(set)
    for task, trajectory in zip(tasks, await play(DeskExpert(detour=0.0), tasks), strict=True):
        names: dict[str, str] = {}
        evidence = task.system
        for message in trajectory.messages[1:]:
            if isinstance(message, AssistantMessage):
                turns += 1
                act = f"{message.content if not message.calls else ''}{_plain_calls(message)}"
                act = _without_names(act, names)
                asked[evidence].add(act)
                evidence += f"\n{act}"
            elif isinstance(message, (UserMessage, ToolMessage)):
                evidence += "\n" + _without_names(message.content, names)
    assert [(e, acts) for e, acts in asked.items() if len(acts) > 1] == []
    assert turns - len(asked) > 200  # many tasks really met


def _plain_calls(message: AssistantMessage) -> str:
    return str([(c.name, c.arguments) for c in message.calls if isinstance(c, ToolCall)])


_NAMED = re.compile(
    r"\b[A-Z]-\d{3,4}\b|[\w.]+@[\w.]*\w|\b\d+\b|\"name\": \"[^\"]+\"|\w+ \w+ here\.|Ici \w+ \w+\.|"
    + "|".join((*ITEMS, *CITIES))
)


def _without_names(text: str, names: dict[str, str]) -> str:
    text = re.sub(
        r"\"days_ago\": (\d+)",
        lambda match: f"days_ago: {'many' if int(match[1]) > REFUND_DAYS else 'few'}",
        text,
    )
    return _NAMED.sub(lambda match: names.setdefault(match[0], f"<{len(names)}>"), text)


async def test_a_cache_that_makes_no_sense_ends_the_episode_politely() -> None:
    """The expert may play on replayed tools, which can answer anything."""
    task = next(t for t in WORLD.tasks(Split.TRAIN, count=40, seed=2) if t.family == "find_order")
    session = DeskExpert(detour=0.0).start(task, limits=Limits(), seed=0)
    opening: list[Message] = [UserMessage(content=task.user_turns[0])]
    await session.reply(opening)

    turn = await session.reply([ToolMessage(call_id="call_1", name="find_customer", content="[]")])

    assert turn.message.calls == ()
    assert turn.message.content
    assert session.clip("x" * 100, 10).endswith("[cut]")
    session.close()
    session.close()


def test_a_wrong_detour_share_is_refused() -> None:
    """A recipe's typo must not become a silent always."""
    with pytest.raises(RecipeError, match="between 0 and 1"):
        DeskExpert(detour=25)
