"""Augmenting: reasons are added, nothing else is touched, and what is done is kept."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from cacherl.augment import (
    AugmentOptions,
    AugmentSummary,
    Fault,
    FunctionReasoner,
    Reason,
    augment,
    require_all,
    unchanged_calls,
)
from cacherl.core.errors import BudgetError, CacheRLError, DataError, ModelError
from cacherl.core.jsonl import read_jsonl
from cacherl.core.languages import Guess
from cacherl.core.messages import AssistantMessage, Message, UserMessage
from cacherl.core.tasks import Task
from cacherl.core.trajectories import StopReason, Trajectory
from cacherl.teacher.failure import EndpointError, Failure
from tests.augment.conversations import Listener, make_task, make_trajectory, turns

MANY = [f"t{n}" for n in range(40)]
TASKS = {id_: make_task(id_) for id_ in ["t1", *MANY]}


async def augmented(
    tmp_path: Path, reasoner: Listener, options: AugmentOptions | None = None
) -> Trajectory:
    out = tmp_path / "augmented.jsonl"
    await augment(TASKS, [make_trajectory()], reasoner, out, options=options or AugmentOptions())
    (one,) = read_jsonl(out, Trajectory)
    return one


async def test_every_turn_gets_the_reasoning_its_kind_needs(tmp_path: Path) -> None:
    """The paper's table: new, wrapped, always new."""
    silent, wrapped, answer, last = turns(await augmented(tmp_path, Listener()))

    assert (silent.thinking, silent.content) == ("Because of 2 messages.", "")
    assert wrapped.thinking == "The user asked where it is, so I need the parcel before I answer."
    assert wrapped.content == ""
    assert (answer.thinking, answer.content) == (
        "Because of 6 messages.",
        "It is on its way as PX-9911.",
    )
    assert (last.thinking, last.content) == ("Because of 8 messages.", "Cancelled.")


async def test_calls_and_results_stay_byte_for_byte(tmp_path: Path) -> None:
    """Real tool interactions are what the method lives on; a reordered key would already be another key."""
    before = make_trajectory()

    after = await augmented(tmp_path, Listener())

    assert unchanged_calls(before, after)
    assert after.results == before.results
    assert after.segments == ()  # those ids no longer spell these messages


async def test_the_summary_says_how_many_turns_needed_no_teacher(tmp_path: Path) -> None:
    """The paper saves 15-20 % of teacher calls this way; a user wants to see his own share."""
    given = [make_trajectory(), make_trajectory("t2", stop=StopReason.MODEL_FAILED)]

    summary = await augment(TASKS, given, Listener(), tmp_path / "out.jsonl")

    assert summary.by_class == {"analytical": 1, "final": 2, "user_facing": 1}
    assert (summary.explained, summary.wrapped, summary.kept_thinking) == (3, 1, 0)
    assert summary.without_teacher_share == 0.25
    assert summary.left_out == {"model_failed": 1}
    assert (summary.trajectories, summary.questions, summary.prompt_tokens) == (1, 3, 300)


@pytest.mark.parametrize("keep", [True, False])
async def test_words_to_the_user_beside_calls_are_optional(tmp_path: Path, keep: bool) -> None:
    """Some deployments show them, the paper's format does not need them."""
    first = turns(await augmented(tmp_path, Listener(), AugmentOptions(keep_content=keep)))[0]

    assert first.content == ("I'll look that up for you." if keep else "")


@pytest.mark.parametrize(
    ("keep", "expected"), [(True, "My own."), (False, "Because of 0 messages.")]
)
async def test_a_policy_that_thought_keeps_its_thinking_if_wanted(
    tmp_path: Path, keep: bool, expected: str
) -> None:
    """Trajectories of thinking models need no teacher; a better teacher may still replace theirs."""
    out = tmp_path / "out.jsonl"
    messages = (AssistantMessage(thinking="My own.", content="Done."),)
    thought = Trajectory(
        task_id="t1", policy="p", messages=messages, results=(), stop=StopReason.ANSWER
    )
    listener = Listener()

    summary = await augment(
        TASKS, [thought], listener, out, options=AugmentOptions(keep_thinking=keep)
    )

    (one,) = read_jsonl(out, Trajectory)
    assert turns(one)[0].thinking == expected
    assert summary.kept_thinking == keep
    assert all(turn.thinking is None for _, _, turn, _ in listener.heard)


class Slow(Listener):
    """Answers in no order at all."""

    def __init__(self) -> None:
        super().__init__()
        self.under_way = self.most = 0
        self._draw = random.Random(0)

    async def explain(
        self,
        task: Task,
        before: Sequence[Message],
        turn: AssistantMessage,
        *,
        earlier: Fault | None = None,
    ) -> Reason:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(self._draw.random() / 200)
        self.under_way -= 1
        return await super().explain(task, before, turn, earlier=earlier)


@pytest.mark.parametrize("at_once", [True, False])
async def test_order_is_kept_whatever_finishes_first(tmp_path: Path, at_once: bool) -> None:
    """The same input gives the same file, so the next stage is up to date when nothing changed."""
    slow, out, told = Slow(), tmp_path / "out.jsonl", list[int]()

    await augment(
        TASKS,
        map(make_trajectory, MANY),
        slow,
        out,
        concurrency=3,
        turns_at_once=at_once,
        on_progress=told.append,
    )

    assert [t.task_id for t in read_jsonl(out, Trajectory)] == MANY
    assert told == list(range(1, len(MANY) + 1))
    assert slow.most == (9 if at_once else 3)  # batches want all questions, rates few


async def test_a_trajectory_of_an_unknown_task_is_named(tmp_path: Path) -> None:
    """The wrong task file is a common slip; what an earlier run made is not lost to it."""
    out = tmp_path / "out.jsonl"
    await augment(TASKS, [make_trajectory()], Listener(), out)
    made = out.read_bytes()

    with pytest.raises(DataError, match=r"'t99' .* no task of that id"):
        await augment(TASKS, [make_trajectory("t99")], Listener(), out)

    assert out.read_bytes() == made


# ---- what is wrong with a reason ---------------------------------------------------------------


LEAK = "The parcel is PX-9911, so I look it up."


async def test_a_reason_that_knows_the_future_is_asked_for_once_more(tmp_path: Path) -> None:
    """A model trained on it makes results up before it has them."""
    hasty = Listener(lambda place, earlier: LEAK if place == 2 and earlier is None else "I go on.")

    summary = await augment(TASKS, [make_trajectory()], hasty, tmp_path / "out.jsonl")

    assert summary.asked_again == {"leaked_future": 1}
    assert (summary.trajectories, summary.left_out) == (1, {})
    assert [earlier for *_, earlier in hasty.heard] == [None, Fault.LEAKED, None, None]


async def test_a_reason_that_knows_the_future_twice_leaves_its_trajectory_out(
    tmp_path: Path,
) -> None:
    """And nothing more is paid for it."""
    stubborn = Listener(lambda place, earlier: LEAK)
    out = tmp_path / "out.jsonl"

    summary = await augment(TASKS, [make_trajectory()], stubborn, out)

    assert summary.left_out == {"leaked_future": 1}
    assert summary.questions == 2
    assert out.read_bytes() == b""


async def test_an_answer_may_reason_from_what_came_before_it(tmp_path: Path) -> None:
    """What a tool said is what the answer rests on."""
    honest = Listener(lambda place, earlier: LEAK if place > 3 else "I look it up.")

    summary = await augment(TASKS, [make_trajectory()], honest, tmp_path / "out.jsonl")

    assert (summary.trajectories, summary.asked_again) == (1, {})


async def test_a_turn_without_a_reason_leaves_its_trajectory_out(tmp_path: Path) -> None:
    """One empty think block among full ones teaches that thinking may be skipped."""
    out = tmp_path / "out.jsonl"
    reasoner = FunctionReasoner(lambda task, before, turn: "</think> <tool_call>x")

    summary = await augment(TASKS, [make_trajectory()], reasoner, out)

    assert summary.left_out == {"unexplained": 1}
    assert list(read_jsonl(out, Trajectory)) == []


async def test_a_reason_in_another_language_is_asked_for_once_more(tmp_path: Path) -> None:
    """French tasks are there for a model that thinks in French."""

    def detect(text: str) -> Guess:
        return Guess("fr" if "commande" in text else "en", 1.0)

    english = "I look the order up, because the customer wants to know where it is now."
    french = "Je cherche la commande, car le client veut savoir où elle se trouve maintenant."
    for second, left_out in ((french, {}), (english, {"wrong_language": 1})):
        listener = Listener(lambda place, earlier, s=second: s if earlier else english)  # type: ignore[misc]
        summary = await augment(
            {"t1": make_task(language="fr")},
            [make_trajectory()],
            listener,
            tmp_path / "out.jsonl",
            detect=detect,
        )
        assert summary.left_out == left_out
        assert set(summary.asked_again) == {"wrong_language"}


# ---- a run that is stopped ---------------------------------------------------------------------


class Failing(Listener):
    """Answers so many questions, then fails as it is told."""

    def __init__(self, after: int, error: CacheRLError, *, until: int = 10**9) -> None:
        super().__init__()
        self.asked = 0
        self.after, self.until, self.error = after, until, error

    async def explain(
        self,
        task: Task,
        before: Sequence[Message],
        turn: AssistantMessage,
        *,
        earlier: Fault | None = None,
    ) -> Reason:
        self.asked += 1
        if self.after < self.asked <= self.until:
            raise self.error
        return await super().explain(task, before, turn, earlier=earlier)


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def run(out: Path, reasoner: Listener) -> AugmentSummary:
    return await augment(TASKS, map(make_trajectory, MANY), reasoner, out, concurrency=1)


async def test_a_spent_budget_leaves_what_is_finished(tmp_path: Path) -> None:
    """Ten dollars bought ten dollars' worth of training data, not a promise of it."""
    out = tmp_path / "out.jsonl"

    summary = await run(out, Failing(10, BudgetError("spent. Raise it.")))

    assert [t.task_id for t in read_jsonl(out, Trajectory)] == MANY[:3]
    assert (summary.trajectories, summary.left, summary.published) == (3, 37, True)
    with pytest.raises(BudgetError, match=r"3 of 40 trajectories done\. spent\. Raise it\."):
        require_all(summary)


async def test_a_stopped_run_replaces_nothing_by_less(tmp_path: Path) -> None:
    """Trying another teacher on a small budget must not cost what the first one made."""
    out = tmp_path / "out.jsonl"
    await run(out, Listener())
    made = out.read_bytes()

    summary = await run(out, Failing(10, BudgetError("spent")))

    assert out.read_bytes() == made
    assert not summary.published
    assert names_in(tmp_path) == ["out.jsonl"]


async def test_one_question_that_fails_costs_one_trajectory(tmp_path: Path) -> None:
    """An endpoint that hiccups once in 40 tasks is not worth a run; the next run asks again."""
    hiccup = Failing(4, EndpointError("late", kind=Failure.TIMEOUT), until=5)

    out = tmp_path / "out.jsonl"

    summary = await run(out, hiccup)

    assert (summary.trajectories, summary.left_out) == (39, {"teacher_failed": 1})
    require_all(summary)
    whole = await run(out, Listener())
    again = await run(out, Failing(4, EndpointError("late", kind=Failure.TIMEOUT), until=5))
    assert (whole.published, again.published) == (True, False)
    assert len(list(read_jsonl(out, Trajectory))) == 40


async def test_a_question_that_is_refused_is_told_apart(tmp_path: Path) -> None:
    """A content filter says no again; nothing is gained by asking."""
    filter_ = Failing(0, EndpointError("no", kind=Failure.REFUSED))

    summary = await run(tmp_path / "out.jsonl", filter_)

    assert summary.left_out == {"refused": 40}
    assert summary.stopped is None


@pytest.mark.parametrize(
    ("error", "asked"),
    [
        (EndpointError("wrong key", kind=Failure.KEY), 1),
        (EndpointError("late", kind=Failure.TIMEOUT), 8),
        (ModelError("gone"), 8),
    ],
)
async def test_a_teacher_that_is_gone_stops_the_run(
    tmp_path: Path, error: ModelError, asked: int
) -> None:
    """Forty time-outs of three minutes would take two hours to say the same."""
    failing = Failing(30, error)
    out = tmp_path / "out.jsonl"

    summary = await run(out, failing)

    assert failing.asked == 30 + asked
    assert len(list(read_jsonl(out, Trajectory))) == 10
    with pytest.raises(ModelError, match=str(error)):
        require_all(summary)


async def test_the_users_language_stands_in_where_the_task_names_none(tmp_path: Path) -> None:
    """Imported tasks say nothing of their language."""
    listener = Listener()
    said = "¿Dónde está mi pedido? Llevo dos semanas esperando."
    messages = (
        UserMessage(content=said),
        AssistantMessage(content="Está en camino."),
        UserMessage(content="Thank you very much, that is very kind of you and of your team."),
    )
    asked = Trajectory(
        task_id="t1", policy="p", messages=messages, results=(), stop=StopReason.ANSWER
    )
    seen = []

    def detect(text: str) -> Guess:
        seen.append(text)
        return Guess("es", 1.0)

    summary = await augment(
        {"t1": make_task(language="und")}, [asked], listener, None, detect=detect
    )

    assert summary.languages == {"es": 1}
    assert listener.heard[0][0].language == "es"
    assert seen[0] == said  # not what is said later
