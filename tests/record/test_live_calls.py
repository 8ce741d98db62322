"""Live calls on record: what is given again, what is made again, what is never repeated."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacherl.core.errors import DataError, ToolError
from cacherl.core.messages import ToolCall
from cacherl.core.tasks import Split, Task
from cacherl.core.tools import Effects, ErrorClass, Source, Tier, ToolResult, ToolSpec
from cacherl.record.live_calls import LiveCalls, Made, read_live_calls, recalled

PAY = ToolSpec(name="pay", description="", parameters={"type": "object"})
LOOK = ToolSpec(
    name="look", description="", parameters={"type": "object"}, effects=Effects(reads=("*",))
)
TASK = Task(
    id="t",
    split=Split.TRAIN,
    family="",
    language="en",
    wording="",
    scenario="s",
    namespace="till",
    system="",
    user_turns=("Pay.",),
    tools=(PAY, LOOK),
)


class Killed(BaseException):
    """The process ends here."""


class Till:
    """Tools on something outside: what they did is still done after the process has died."""

    def __init__(self) -> None:
        self.made: list[tuple[str, int]] = []
        self.die_before: int | None = None
        self.die_after: int | None = None

    async def call(self, call: ToolCall) -> ToolResult:
        if self.die_before == len(self.made):
            raise Killed
        self.made.append((call.name, call.arguments["n"]))
        if self.die_after == len(self.made):
            raise Killed
        return answer(call, str(len(self.made)))

    def fingerprint(self) -> str:
        return ""

    async def aclose(self) -> None:
        pass


def answer(call: ToolCall, text: str) -> ToolResult:
    return ToolResult(
        call_id=call.id, name=call.name, text=text, tier=Tier.LIVE, source=Source.LIVE
    )


def call_of(name: str, n: int, *, id: str = "c") -> ToolCall:
    return ToolCall(id=id, name=name, arguments={"n": n})


async def play(path: Path, till: Till, script: list[tuple[str, int]]) -> list[ToolResult]:
    """Play an episode of these calls and return what each was answered, until the process dies."""
    answers = []
    with LiveCalls(path) as file:
        tools = file.tools(till, TASK, 0)
        try:
            for place, (name, n) in enumerate(script):
                answers.append(await tools.call(call_of(name, n, id=f"c{place}")))
        except Killed:
            pass
    return answers


async def test_what_was_answered_is_given_again_and_not_made_again(tmp_path: Path) -> None:
    """The payment went out once; the model hears of it twice."""
    path, till = tmp_path / "live.jsonl", Till()
    script = [("pay", 1), ("look", 2), ("pay", 3)]
    before = await play(path, till, script[:2])

    after = await play(path, till, script)

    assert till.made == script
    assert after[:2] == before
    assert [result.text for result in after] == ["1", "2", "3"]


async def test_a_write_of_unknown_outcome_is_told_and_not_repeated(tmp_path: Path) -> None:
    """It may have run: only the model, who can look, may decide to do it again."""
    path, till = tmp_path / "live.jsonl", Till()
    till.die_after = 1
    await play(path, till, [("pay", 1)])
    till.die_after = None

    answers = await play(path, till, [("pay", 1), ("look", 0)])
    again = await play(path, till, [("pay", 1), ("look", 0), ("pay", 1)])

    assert till.made == [
        ("pay", 1),
        ("look", 0),
        ("pay", 1),
    ]  # the last one by the model's own will
    assert answers[0].error_class is ErrorClass.TRANSIENT
    assert "not known whether" in answers[0].text
    assert again[0] == answers[0]


async def test_a_reader_that_was_never_answered_is_asked_again(tmp_path: Path) -> None:
    """Reading twice harms nobody, and the model need not hear of the kill."""
    path, till = tmp_path / "live.jsonl", Till()
    till.die_after = 1
    await play(path, till, [("look", 1)])
    till.die_after = None

    answers = await play(path, till, [("look", 1)])

    assert till.made == [("look", 1)] * 2
    assert not answers[0].is_error


async def test_another_call_than_before_ends_the_episode(tmp_path: Path) -> None:
    """A paid-for refund under an answer about something else would be a lie in the training data."""
    path, till = tmp_path / "live.jsonl", Till()
    await play(path, till, [("pay", 1), ("pay", 2)])

    with pytest.raises(ToolError, match="called pay, and now the model calls pay with other arg"):
        await play(path, till, [("pay", 1), ("pay", 9)])
    with pytest.raises(ToolError, match="called pay, and now the model calls look instead"):
        await play(path, till, [("look", 1)])

    assert till.made == [("pay", 1), ("pay", 2)]


async def test_an_interrupt_waits_for_the_answer_to_a_call_that_is_under_way(
    tmp_path: Path,
) -> None:
    """Ctrl-C in the middle of a payment: better to know what it did than to wonder ever after."""
    path = tmp_path / "live.jsonl"
    begun, may_end = asyncio.Event(), asyncio.Event()

    class Slow(Till):
        async def call(self, call: ToolCall) -> ToolResult:
            begun.set()
            await may_end.wait()
            return await super().call(call)

    with LiveCalls(path) as file:
        episode = asyncio.create_task(file.tools(Slow(), TASK, 0).call(call_of("pay", 1)))
        await begun.wait()
        for _ in range(3):  # a run that ends cancels more than once
            episode.cancel()
            await asyncio.sleep(0)
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await episode

    (made,) = read_live_calls(path)["t", 0]
    assert made.result is not None


SCRIPTS = st.lists(st.tuples(st.sampled_from(["pay", "look"]), st.integers(0, 3)), max_size=6)


@given(SCRIPTS, st.lists(st.tuples(st.booleans(), st.integers(0, 6)), max_size=5))
def test_no_write_is_made_twice_however_often_it_is_killed(
    tmp_path_factory: pytest.TempPathFactory,
    script: list[tuple[str, int]],
    kills: list[tuple[bool, int]],
) -> None:
    """Before the call, after it, on every start: each write reaches the world once or not at all."""
    path, till = tmp_path_factory.mktemp("live") / "live.jsonl", Till()
    for after, calls in kills:
        till.die_before, till.die_after = (None, calls) if after else (calls, None)
        asyncio.run(play(path, till, script))
    till.die_before = till.die_after = None
    answers = asyncio.run(play(path, till, script))

    unknown = [
        place
        for place, each in enumerate(answers)
        if each.is_error and each.error_class is ErrorClass.TRANSIENT
    ]
    writes = [one for one in till.made if one[0] == "pay"]
    asked = [one for one in script if one[0] == "pay"]
    assert len(answers) == len(script)
    assert len(writes) <= len(asked)
    assert len(asked) - len(writes) <= len(unknown)
    assert all(script[place][0] == "pay" for place in unknown)


@given(st.integers(), st.integers(), st.booleans())
def test_ids_of_calls_do_not_matter_and_everything_else_does(a: int, b: int, writes: bool) -> None:
    """Providers number calls anew; 1 and 1.0 and True are different things to a tool."""
    before = call_of("pay", a, id="x")
    made = Made(before, answer(before, "done"))

    if a == b:
        given_again = recalled(made, call_of("pay", b, id="y"), writes=writes)
        assert given_again == answer(call_of("pay", b, id="y"), "done")
    else:
        with pytest.raises(ToolError):
            recalled(made, call_of("pay", b, id="y"), writes=writes)
    with pytest.raises(ToolError):
        recalled(made, ToolCall(id="y", name="pay", arguments={"n": float(a)}), writes=writes)


async def test_a_torn_line_is_forgotten_and_a_damaged_one_named(tmp_path: Path) -> None:
    """A kill tears the last line at most; anything else was not us."""
    path, till = tmp_path / "live.jsonl", Till()
    await play(path, till, [("look", 1), ("look", 2)])
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])

    torn = read_live_calls(path)["t", 0]
    path.write_bytes(whole.replace(b'"n":2', b'"n":7'))

    assert [made.result is None for made in torn] == [False, True]
    with pytest.raises(DataError, match=r"live.jsonl:3: the checksum"):
        read_live_calls(path)


async def test_lines_out_of_order_are_refused(tmp_path: Path) -> None:
    """Half an episode cut out of the file would pair answers with other calls."""
    path, till = tmp_path / "live.jsonl", Till()
    await play(path, till, [("look", 1), ("look", 2)])
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[2:]))

    with pytest.raises(DataError, match=r"live.jsonl:1: call 1 of task t"):
        read_live_calls(path)


async def test_only_the_owner_can_read_what_tools_really_said(tmp_path: Path) -> None:
    """The file holds what redaction takes out of everything else."""
    path = tmp_path / "journal" / "live.jsonl"
    await play(path, Till(), [("look", 1)])

    assert path.stat().st_mode & 0o077 == 0
