"""A paid model over the desk, against a server that misbehaves: what is paid, and that nothing is paid twice."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cacherl.agent import run_episode
from cacherl.core.errors import BudgetError
from cacherl.core.messages import AssistantMessage, MalformedCall, UserMessage
from cacherl.core.models import Limits
from cacherl.core.tasks import Split
from cacherl.core.trajectories import StopReason, Trajectory
from cacherl.teacher.chat import EndpointChat
from cacherl.teacher.failure import EndpointError, Failure
from cacherl.teacher.options import TeacherOptions
from cacherl.wiring import paid_model
from cacherl.worlds.desk import DeskExpert, DeskWorld
from tests.teacher_server import ENVIRONMENT, ROOT, Bill, TeacherServer, Trouble

LIMITS = Limits(max_turns=12, max_turn_tokens=512, max_context_tokens=32_768)
WORLD = DeskWorld()
TASKS = WORLD.tasks(Split.TRAIN, count=6, seed=0)
OPENING = (UserMessage(content="hello"),)
BATCH: dict[str, Any] = {"batch": True, "batch_pause_s": 0.05, "batch_poll_s": 0.01}


async def play(
    model: EndpointChat, count: int = len(TASKS), *, at_once: int = len(TASKS)
) -> list[Trajectory]:
    """Run tasks at once, as `record` does."""
    places = asyncio.Semaphore(at_once)

    async def one(index: int) -> Trajectory:
        tools = WORLD.open(TASKS[index].scenario)
        try:
            async with places:
                return await run_episode(model, tools, TASKS[index], limits=LIMITS, seed=0)
        finally:
            await tools.aclose()

    try:
        return list(await asyncio.gather(*(one(index) for index in range(count))))
    finally:
        await model.aclose()


def teacher(
    server: TeacherServer | Calm, journal: Path | None, provider: str = "openai", **options: Any
) -> EndpointChat:
    return paid_model(
        f"{provider}:desk@{server.url}",
        journal=journal,
        options=TeacherOptions(**{"timeout_s": 20, **options}),
        purpose="record",
    )


async def alone(index: int) -> Trajectory:
    """What the teacher's own mind does without a network."""
    task = TASKS[index]
    tools = WORLD.open(task.scenario)
    return await run_episode(DeskExpert(detour=0.0), tools, task, limits=LIMITS, seed=0)


async def undisturbed(trajectories: list[Trajectory]) -> None:
    """Check that each is what it would have been without any trouble."""
    for index, trajectory in enumerate(trajectories):
        assert trajectory.stop is StopReason.ANSWER, trajectory.notes
        assert trajectory.messages == (await alone(index)).messages


def paid_twice(bills: list[Bill]) -> int:
    """Return how many bills there are beyond one for each request."""
    return sum(count - 1 for count in Counter(bill.digest for bill in bills).values())


class Calm:
    """A server that behaves, shared by tests; each sees its own bills."""

    def __init__(self, server: TeacherServer) -> None:
        self.url = server.url
        self._server = server
        self._before = len(server.bills())

    def bills(self) -> list[Bill]:
        return self._server.bills()[self._before :]


@pytest.fixture(scope="module")
def calm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TeacherServer]:
    with TeacherServer(folder=tmp_path_factory.mktemp("calm")) as server:
        yield server


@pytest.fixture
def calm(calm_server: TeacherServer) -> Calm:
    return Calm(calm_server)


@pytest.fixture(scope="module")
def thinking_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TeacherServer]:
    folder = tmp_path_factory.mktemp("thinking")
    with TeacherServer(folder=folder, thinks=True, key="let-me-in") as server:
        yield server


async def test_the_teacher_plays_the_desk_and_the_bill_agrees(calm: Calm, tmp_path: Path) -> None:
    """The server is worth testing against, and our account is the provider's account."""
    model = teacher(calm, tmp_path / "journal")
    await undisturbed(await play(model))
    bills = calm.bills()

    total = model.ledger().total
    assert paid_twice(bills) == 0
    assert total.replies == total.requests == len(bills)
    assert total.prompt_tokens == sum(bill.prompt_tokens for bill in bills)
    assert total.completion_tokens == sum(bill.completion_tokens for bill in bills)
    assert total.cached_prompt_tokens > 0
    assert total.dollars is None  # nobody told the price of a model called `desk` here
    assert (tmp_path / "journal" / "ledger.json").exists()


async def test_through_every_trouble_nothing_is_lost_and_nothing_paid_twice(
    tmp_path: Path,
) -> None:
    """A provider that honours idempotency keys, on its worst day."""
    troubles = (
        Trouble("rate_limit", at=(3, 4, 11)),
        Trouble("overloaded", at=(6,)),
        Trouble("error", at=(8,)),
        Trouble("cut", at=(10, 15)),
        Trouble("timeout", at=(13,)),
    )
    with TeacherServer(*troubles, folder=tmp_path, honours_keys=True) as server:
        model = teacher(server, tmp_path / "journal", timeout_s=1.5)
        await undisturbed(await play(model))
        bills = server.bills()

    total = model.ledger().total
    assert total.failures == {
        "cut": 2,
        "overloaded": 1,
        "rate_limit": 3,
        "server": 1,
        "timeout": 1,
    }
    assert total.retries == 8
    assert total.may_be_billed == 3
    assert len({bill.key for bill in bills}) == len(bills)
    assert paid_twice(bills) == 0
    assert total.replies == len(bills)


async def test_calls_that_make_no_sense_are_told_to_the_model_and_not_to_the_user(
    tmp_path: Path,
) -> None:
    """Broken JSON, unknown tools and nameless calls are a policy's mistakes: data, not crashes."""
    troubles = (
        Trouble("broken_json", at=(1,)),
        Trouble("nameless", at=(2,)),
        Trouble("unknown_tool", at=(3,)),
        Trouble("truncated", at=(12,)),
    )
    with TeacherServer(*troubles, folder=tmp_path) as server:
        played = await play(teacher(server, tmp_path / "journal"), count=4, at_once=1)

    stops = Counter(each.stop for each in played)
    assert stops == {StopReason.ANSWER: 3, StopReason.TRUNCATED: 1}
    odd = [
        call
        for each in played
        for message in each.messages
        if isinstance(message, AssistantMessage)
        for call in message.calls
        if isinstance(call, MalformedCall)
    ]
    assert sorted(call.problem.split(":")[0] for call in odd)[1] == "the call names no tool"
    assert len(odd) == 2
    assert sum(result.is_error for each in played for result in each.results) == 3


async def test_after_the_teacher_died_only_the_rest_is_paid(tmp_path: Path) -> None:
    """The failure is on record, and the next run buys what is missing and nothing else."""
    with TeacherServer(Trouble("die", at=(12,)), folder=tmp_path, honours_keys=True) as server:
        broken = await play(teacher(server, tmp_path / "journal", retries=0))
        assert not server.alive
        failed = [each for each in broken if each.stop is StopReason.MODEL_FAILED]
        assert failed
        assert {each.notes["error_kind"] for each in failed} <= {"cut", "connection"}
        server.start_again()
        model = teacher(server, tmp_path / "journal")
        await undisturbed(await play(model))
        bills = server.bills()

    total = model.ledger().total
    assert paid_twice(bills) == 0
    assert total.replies == len(bills)
    assert total.from_journal >= 10


PLAYER = """
import asyncio, sys
from pathlib import Path
from cacherl.teacher.options import TeacherOptions
from cacherl.wiring import paid_model
from tests.teacher.test_recording import play
model = paid_model(
    sys.argv[1], journal=Path(sys.argv[2]), purpose="record",
    options=TeacherOptions(batch=sys.argv[3] == "batch", batch_pause_s=0.1, batch_poll_s=0.05),
)
asyncio.run(play(model))
"""


def play_until(
    done: Callable[[], bool], server: TeacherServer, journal: Path, how: str = "live"
) -> None:
    """Play in a process of its own, and kill -9 it once `done`."""
    player = subprocess.Popen(
        [sys.executable, "-c", PLAYER, f"openai:desk@{server.url}", str(journal), how],
        cwd=ROOT,
        env=ENVIRONMENT,
    )
    while not done() and player.poll() is None:
        time.sleep(0.01)
    assert player.poll() is None, "it was done before it could be killed"
    player.send_signal(signal.SIGKILL)
    player.wait()


class Settled:
    """True once the server has billed so much, and nothing more for a while: all that is left is stuck."""

    def __init__(self, server: TeacherServer, least: int) -> None:
        self._server = server
        self._least = least
        self._last = (0, 0.0)

    def __call__(self) -> bool:
        bills, now = len(self._server.bills()), time.monotonic()
        if bills != self._last[0]:
            self._last = (bills, now)
        return bills >= self._least and now - self._last[1] > 0.5


async def test_a_killed_run_pays_again_at_most_what_was_under_way(tmp_path: Path) -> None:
    """kill -9 in the middle: what had come is free, what had not may be billed once more, and no more."""
    stuck = Trouble("timeout", at=tuple(range(9, 100)))
    with TeacherServer(stuck, folder=tmp_path) as server:
        play_until(Settled(server, 9), server, tmp_path / "killed")
        under_way = len(server.bills()) - 8
        for honours in (True, False):
            bills_path = tmp_path / f"bills-{honours}.jsonl"
            journal = tmp_path / f"journal-{honours}"
            shutil.copy(tmp_path / "bills.jsonl", bills_path)
            shutil.copytree(tmp_path / "killed", journal)
            server.start_again(bills=str(bills_path), honours_keys=honours)
            model = teacher(server, journal)
            before = model.ledger().total
            assert (before.replies, before.unanswered) == (8, under_way)
            assert f"{under_way} requests were in flight when an" in model.notices[0]
            await undisturbed(await play(model))
            total = model.ledger().total
            assert total.from_journal == 8
            assert total.replies == len({bill.digest for bill in server.bills()})
            assert paid_twice(server.bills()) == (0 if honours else under_way)


async def test_a_budget_stops_the_run_and_the_next_goes_on(calm: Calm, tmp_path: Path) -> None:
    """The cap holds against the provider's own bill; raised, the run buys only the rest."""
    prices = tmp_path / "prices.toml"
    prices.write_text(
        f'as_of = 2026-11-01\n[prices."openai:desk@{calm.url}"]\nprompt = 1\ncompletion = 10\n'
    )
    journal = tmp_path / "journal"
    with pytest.raises(BudgetError, match="--budget-usd"):
        await play(teacher(calm, journal, budget_dollars=0.015, prices=prices))
    spent = sum(bill.prompt_tokens + 10 * bill.completion_tokens for bill in calm.bills()) / 1e6
    assert 0 < spent <= 0.015
    model = teacher(calm, journal, budget_dollars=3.0, prices=prices)
    await undisturbed(await play(model))
    total = model.ledger().total
    assert paid_twice(calm.bills()) <= total.may_be_billed
    assert total.dollars == pytest.approx(
        sum(row.dollars or 0.0 for row in model.ledger().rows), abs=1e-9
    )


@pytest.mark.parametrize(
    ("provider", "variable"),
    [("anthropic", "ANTHROPIC_API_KEY"), ("deepseek", "DEEPSEEK_API_KEY")],
)
async def test_other_providers_play_through_their_own_clients(
    thinking_server: TeacherServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    provider: str,
    variable: str,
) -> None:
    """Claude gets its signed thinking back, DeepSeek its reasoning; both are counted and journaled alike."""
    monkeypatch.setenv(variable, "let-me-in")
    server = Calm(thinking_server)
    model = teacher(server, tmp_path / "journal", provider)
    played = await play(model, count=3)
    bills = server.bills()

    for index, trajectory in enumerate(played):
        assert trajectory.stop is StopReason.ANSWER, trajectory.notes
        expected = (await alone(index)).messages
        said = [m for m in trajectory.messages if isinstance(m, AssistantMessage)]
        assert [m.content for m in said] == [
            m.content for m in expected if isinstance(m, AssistantMessage)
        ]
        assert all(message.thinking for message in said)
    total = model.ledger().total
    assert total.replies == len(bills)
    assert total.prompt_tokens == sum(bill.prompt_tokens for bill in bills)
    assert total.cached_prompt_tokens > 0


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
async def test_batches_answer_whole_conversations(
    calm: Calm, tmp_path: Path, provider: str
) -> None:
    """Each round of turns is one batch, at the batch's price, with tools."""
    prices = tmp_path / "prices.toml"
    prices.write_text(
        f'as_of = 2026-11-01\n[prices."{provider}:desk@{calm.url}"]\n'
        "prompt = 1\ncompletion = 10\nbatch = 0.5\n"
    )
    model = teacher(calm, tmp_path / "journal", provider, prices=prices, **BATCH)
    await undisturbed(await play(model))
    bills = calm.bills()

    total = model.ledger().total
    assert total.batched == total.replies == len(bills)
    assert all(bill.batched for bill in bills)
    assert paid_twice(bills) == 0
    full = sum(bill.prompt_tokens + 10 * bill.completion_tokens for bill in bills) / 1e6
    assert total.dollars == pytest.approx(full / 2)


async def test_a_killed_run_picks_its_batch_up(tmp_path: Path) -> None:
    """A batch is paid for when it is submitted: submitting it again would pay for all of it twice."""
    broken = Trouble("error", at=(len(TASKS),))
    with TeacherServer(broken, folder=tmp_path, batch_looks=(60, 1)) as server:
        journal = tmp_path / "journal"
        submitted = journal / "requests.jsonl"
        play_until(
            lambda: submitted.exists() and b'"batch_submitted"' in submitted.read_bytes(),
            server,
            journal,
            "batch",
        )
        assert server.bills() == []
        model = teacher(server, journal, **BATCH)
        assert model.notices == ()
        await undisturbed(await play(model))
        assert paid_twice(server.bills()) == 0
        total = model.ledger().total
        assert total.failures == {"server": 1}  # one request of a batch failed, and was asked again
        assert total.replies == len(server.bills())


async def test_a_batch_whose_submission_broke_off_is_found_by_its_name(tmp_path: Path) -> None:
    """The provider has it and we never learnt its id: it must not be submitted a second time."""
    with TeacherServer(Trouble("cut", at=(1,)), folder=tmp_path) as server:
        await undisturbed(await play(teacher(server, tmp_path / "journal", **BATCH), count=2))
        assert paid_twice(server.bills()) == 0


@pytest.mark.parametrize(
    ("provider", "variable"), [("openai", "OPENAI_API_KEY"), ("anthropic", "ANTHROPIC_API_KEY")]
)
async def test_a_refusal_names_the_fix_and_never_shows_the_key(
    thinking_server: TeacherServer, monkeypatch: pytest.MonkeyPatch, provider: str, variable: str
) -> None:
    """An error message ends up in logs and issues; the key must not."""
    monkeypatch.setenv(variable, "sk-very-secret-key")
    model = teacher(Calm(thinking_server), None, provider)
    with pytest.raises(EndpointError) as caught:
        await model.start(TASKS[0], limits=LIMITS, seed=0).reply(OPENING)
    await model.aclose()
    monkeypatch.setenv(variable, "let-me-in")
    unknown = paid_model(f"{provider}:other@{thinking_server.url}", journal=None)
    with pytest.raises(EndpointError) as missing:
        await unknown.start(TASKS[0], limits=LIMITS, seed=0).reply(OPENING)
    await unknown.aclose()

    line = str(caught.value)
    assert f"The key is read from ${variable}, which is set" in line
    assert "sk-very" not in line
    assert caught.value.kind is Failure.KEY
    assert caught.value.fatal
    assert "'other'" in str(missing.value)
    assert missing.value.kind is Failure.NOT_FOUND


async def test_a_provider_without_its_key_is_told_before_anything_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first thing that everybody forgets."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    model = paid_model("openai:gpt-5", journal=None)

    with pytest.raises(EndpointError, match=r"read from \$OPENAI_API_KEY, which is not set"):
        await model.start(TASKS[0], limits=LIMITS, seed=0).reply(OPENING)
    await model.aclose()
