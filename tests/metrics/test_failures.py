"""Why tasks fail: every kind by a real episode that shows it, and the order of blame."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from cacherl.agent import run_episode
from cacherl.core.errors import ModelError
from cacherl.core.messages import AssistantMessage, MalformedCall, ToolCall, UserMessage
from cacherl.core.models import Limits
from cacherl.core.tasks import Gold, GoldCall, Task
from cacherl.core.tools import Effects, Tier, ToolResult, Tools, ToolSpec, undeclared
from cacherl.core.trajectories import StopReason, Trajectory
from cacherl.metrics import Diagnosis, FailureKind, diagnose, failure_table
from tests.desk_of_two import (
    READ,
    RIGHT,
    SILENT,
    UNREACHABLE,
    WRONG_VALUE,
    NoteTools,
    StatelessTools,
    TaskModel,
    copy_task,
    read,
    says,
    write,
)
from tests.fakes import Script

K = FailureKind


async def play(
    script: Sequence[Script],
    *,
    task: Task | None = None,
    tools: Tools | None = None,
    success: bool = False,
    max_turns: int = 8,
    forbidden: frozenset[str] = frozenset(),
    seen_tools: frozenset[str] | None = None,
) -> Diagnosis | None:
    task = task or copy_task("t")
    trajectory = await run_episode(
        TaskModel({"t": script}),
        tools or NoteTools(),
        task,
        limits=Limits(max_turns=max_turns),
    )
    return diagnose(task, trajectory, success=success, forbidden=forbidden, seen_tools=seen_tools)


def gold(task: Task) -> Gold:
    assert task.gold is not None
    return task.gold


BROKEN = AssistantMessage(calls=(MalformedCall(id="x", text="{", problem="not JSON"),))
STRAY = ToolCall(id="s", name="send_mail", arguments={})


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        (SILENT, K.EARLY_ENDING),
        ((AssistantMessage(),), K.EARLY_ENDING),
        ((says("", read(0)), BROKEN, says("I give up.")), K.FORMAT),
        ((*(says("", read(0, f"c{n}")) for n in range(3)), says("milk")), K.LOOP),
        ((*RIGHT[:2], says("", write("jam", "c9")), RIGHT[2]), K.POLICY_BREAK),
        ((says("", read(0)), says("", STRAY), says("milk")), K.WRONG_TOOL),
        (WRONG_VALUE, K.WRONG_ARGUMENT),
        ((says("", read(0)), says("It says milk.")), K.MISSING_CALL),
        ((says("", write("milk")), says("", read(0)), says("milk")), K.WRONG_ORDER),
        ((*RIGHT[:2], says("The user wants milk, so I should respond with it.")), K.META_REASONING),
        ((*RIGHT[:2], says("Done.")), K.WRONG_ANSWER),
    ],
)
async def test_each_kind_is_found_where_it_shows(
    script: Sequence[Script], kind: FailureKind
) -> None:
    """A count of failures is only as good as its rules."""
    found = await play(script)

    assert found is not None
    assert found.primary is kind
    assert kind in found.kinds


async def test_using_up_the_turns_is_over_chaining() -> None:
    """Different calls, so no loop, until none is left."""
    wandering = [says("", read(n % 2, f"c{n}"), read(9 + n, f"d{n}")) for n in range(2)]

    found = await play(wandering, max_turns=2)

    assert found is not None
    assert found.primary is K.OVER_CHAINING


async def test_a_loose_answer_is_blamed_before_the_calls_it_misled() -> None:
    """Was it the model or the cache?"""
    found = await play(WRONG_VALUE, tools=StatelessTools(tier=Tier.BEST_EFFORT))

    assert found is not None
    assert found.primary is K.MISMATCH_CASCADE
    assert K.WRONG_ARGUMENT in found.kinds


async def test_a_mistake_made_good_is_not_blamed() -> None:
    """One turn that did not parse, then a call that did: what failed is the argument."""
    found = await play((BROKEN, *WRONG_VALUE))

    assert found is not None
    assert found.primary is K.WRONG_ARGUMENT


async def test_a_forbidden_tool_breaks_policy_though_nothing_came_of_it() -> None:
    """The call itself is what the policy forbids."""
    found = await play((says("", read(0)), says("milk")), forbidden=frozenset({"read_note"}))

    assert found is not None
    assert found.primary is K.POLICY_BREAK


async def test_new_tools_explain_only_what_nothing_else_does() -> None:
    """Else every failure on new tools would be theirs, and nobody would see how it failed."""
    found = await play(WRONG_VALUE, seen_tools=frozenset())
    bare = await play(RIGHT, seen_tools=frozenset())

    assert found is not None
    assert bare is not None
    assert (found.primary, bare.primary) == (K.WRONG_ARGUMENT, K.UNSEEN_TOOLS)
    assert K.UNSEEN_TOOLS in found.kinds


async def test_success_and_broken_infrastructure_are_no_failures() -> None:
    """A server that is down is never the model's."""
    assert await play(RIGHT, success=True) is None
    assert await play(UNREACHABLE) is None
    assert isinstance(UNREACHABLE[0], ModelError)


async def test_the_wrong_field_is_named_with_its_kind() -> None:
    """`wrong argument` helps nobody; which one does."""
    found = await play(WRONG_VALUE)

    assert found is not None
    (field,) = found.fields
    assert (field.tool, field.field.path, field.field.kind) == ("write_note", "text", "text")
    assert (field.field.made, field.field.wanted, field.stale) == ("bread", "milk", False)


# ---- state -----------------------------------------------------------------------------------

CANCEL = ToolSpec(
    name="cancel",
    description="",
    parameters={
        "type": "object",
        "properties": {"order_id": {"type": "string"}},
        "required": ["order_id"],
    },
    effects=Effects(writes=("order:{order_id}",)),
)


def orders(*calls: GoldCall, tools: tuple[ToolSpec, ...] = (CANCEL, READ)) -> Task:
    task = copy_task("t")
    return msgspec.structs.replace(
        task, tools=tools, gold=msgspec.structs.replace(gold(task), calls=calls)
    )


def episode(*turns: UserMessage | tuple[ToolCall, str, bool]) -> Trajectory:
    """An episode whose calls were answered with these texts; True: an error."""
    messages: list[UserMessage | AssistantMessage] = []
    results = []
    for turn in turns:
        if isinstance(turn, UserMessage):
            messages.append(turn)
            continue
        call, text, failed = turn
        messages.append(says("", call))
        results.append(
            ToolResult(call_id=call.id, name=call.name, text=text, is_error=failed, tier=Tier.LIVE)
        )
    return Trajectory(
        task_id="t",
        policy="m",
        messages=(*messages, says("Done, milk.")),
        results=tuple(results),
        stop=StopReason.ANSWER,
    )


def cancel(order: str, id: str = "c") -> ToolCall:
    return ToolCall(id=id, name="cancel", arguments={"order_id": order})


def found_in(task: Task, trajectory: Trajectory) -> Diagnosis:
    found = diagnose(task, trajectory, success=False)
    assert found is not None
    return found


def test_an_id_that_a_later_answer_replaced_is_lost_state() -> None:
    """The rebooked order has a new number; the model cancels the old one."""
    task = orders(
        GoldCall(name="read_note", arguments={"number": 0}, step=0),
        GoldCall(name="cancel", arguments={"order_id": "A-200"}, step=1),
    )
    told = (
        UserMessage(content="Rebook A-100, then cancel it."),
        (read(0), '{"order": "A-200"}', False),
    )

    stale = found_in(task, episode(*told, (cancel("A-100"), "{}", False)))
    made_up = found_in(task, episode(*told, (cancel("A-300"), "{}", False)))

    assert (stale.primary, stale.fields[0].stale) == (K.LOST_STATE, True)
    assert (made_up.primary, made_up.fields[0].stale) == (K.WRONG_ARGUMENT, False)


def test_a_value_of_another_thing_is_not_stale() -> None:
    """The customer's number in place of the order's is a mix-up, however early it was told."""
    task = orders(GoldCall(name="cancel", arguments={"order_id": "A-200"}))
    trajectory = episode(
        UserMessage(content="I am C-4769. Cancel my order."),
        (read(0), '{"order_id": "A-200"}', False),
        (cancel("C-4769"), "{}", False),
    )

    assert found_in(task, trajectory).primary is K.WRONG_ARGUMENT


def test_a_name_that_a_later_answer_replaced_is_lost_state() -> None:
    """Names have no form of their own: the field they stand in says that one followed the other."""
    task = orders(GoldCall(name="cancel", arguments={"order_id": "violet"}))
    trajectory = episode(
        UserMessage(content="Cancel it."),
        (read(0, "r0"), '{"current": "scarlet"}', False),
        (read(1, "r1"), '{"current": "violet"}', False),
        (cancel("scarlet"), "{}", False),
    )

    assert found_in(task, trajectory).primary is K.LOST_STATE


def test_a_value_told_again_since_is_not_stale() -> None:
    """Both stand in the last answer: choosing the wrong one is a mistake of another kind."""
    task = orders(GoldCall(name="cancel", arguments={"order_id": "A-200"}))
    trajectory = episode(
        UserMessage(content="Cancel A-100."),
        (read(0), '{"orders": ["A-100", "A-200"]}', False),
        (cancel("A-100"), "{}", False),
    )

    assert found_in(task, trajectory).primary is K.WRONG_ARGUMENT


def test_a_call_that_its_own_writes_made_wrong_is_lost_state() -> None:
    """It worked once; the episode cancelled the order itself and tries again."""
    task = orders(GoldCall(name="cancel", arguments={"order_id": "A-1"}))
    trajectory = episode(
        UserMessage(content="Cancel A-1."),
        (cancel("A-1"), "{}", False),
        (cancel("A-1"), '{"error": "already cancelled"}', True),
    )

    assert found_in(task, trajectory).primary is K.LOST_STATE


def test_the_same_call_in_another_state_is_no_loop() -> None:
    """Looking again after each write is care, not a loop."""
    look = ToolSpec(
        name="read_note",
        description="",
        parameters=READ.parameters,
        effects=Effects(reads=("order:*",)),
    )
    task = orders(GoldCall(name="cancel", arguments={"order_id": "Z"}), tools=(CANCEL, look))
    turns = [
        turn
        for n in range(3)
        for turn in (
            (read(0, f"r{n}"), f'{{"left": {9 - n}}}', False),
            (cancel(f"A-{n}"), "{}", False),
        )
    ]

    assert K.LOOP not in found_in(task, episode(*turns)).kinds


def test_tools_that_declare_nothing_loop_by_their_answers() -> None:
    """Most MCP servers declare nothing: there the same call with the same answer three times is a loop."""
    poll = undeclared("poll")
    task = orders(GoldCall(name="poll", arguments={"x": 1}), tools=(poll,))
    again = ToolCall(id="p", name="poll", arguments={})

    stuck = episode(*((again, "pending", False) for _ in range(3)))
    moving = episode(*((again, f"{n} %", False) for n in range(3)))

    assert found_in(task, stuck).primary is K.LOOP
    assert K.LOOP not in found_in(task, moving).kinds


def test_a_tool_that_declares_nothing_is_not_said_to_have_written() -> None:
    """Else every needless read on an MCP server would be a break of policy."""
    task = orders(GoldCall(name="poll", arguments={"x": 1}), tools=(undeclared("poll"),))
    extra = ToolCall(id="p", name="poll", arguments={"y": 1})
    right = ToolCall(id="q", name="poll", arguments={"x": 1})

    found = found_in(task, episode((extra, "a", False), (right, "b", False)))

    assert K.POLICY_BREAK not in found.kinds


# ---- together --------------------------------------------------------------------------------


async def test_what_no_rule_can_place_is_counted() -> None:
    """A taxonomy that always has an answer makes some of them up."""
    placed = await play(SILENT)
    unplaced = await play(RIGHT)  # the suite says it failed; no rule can see why
    fine = await play(RIGHT, success=True)

    found = failure_table([placed, unplaced, fine, placed])

    assert unplaced is not None
    assert unplaced.primary is None
    assert (found.failed, found.unplaced) == (3, 1)
    assert found.unplaced_share == pytest.approx(1 / 3)
    assert found.primary == {"early_ending": 2}
    assert found.any["missing_call"] == 2
    assert found.examples == {"early_ending": ("t", "t"), "unplaced": ("t",)}


def test_no_failures_have_no_share() -> None:
    """Nothing of nothing."""
    assert failure_table([None]).unplaced_share is None


async def test_without_gold_the_rules_that_need_none_still_apply() -> None:
    """tau-bench judges by a reward and has no gold calls to show."""
    task = msgspec.structs.replace(copy_task("t"), gold=None)

    found = await play((*(says("", read(0, f"c{n}")) for n in range(3)), says("milk")), task=task)

    assert found is not None
    assert found.kinds == (K.LOOP,)
