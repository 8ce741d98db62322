"""Which calls may be made again, and when: decisions only."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacherl.core.sources import Answer
from cacherl.core.tools import UNDECLARED, Effects, ErrorClass
from cacherl.toolbox.policy import (
    CallPolicy,
    ToolRule,
    attempt_s,
    interrupted,
    may_repeat,
    message_of,
    timed_out,
    wait_s,
)

READER = Effects(reads=("*",))
WRITER = Effects(writes=("order:{id}",))
TWICE_AS_ONCE = Effects(writes=("order:{id}",), idempotent=True)

effects = st.sampled_from([READER, WRITER, TWICE_AS_ONCE, UNDECLARED, Effects()])
answers = st.builds(
    Answer,
    text=st.just(""),
    error_class=st.none() | st.sampled_from(ErrorClass),
    may_have_run=st.booleans(),
    down=st.booleans(),
)
policies = st.builds(
    CallPolicy,
    retries=st.integers(0, 6),
    first_wait_s=st.floats(0.001, 100),
    longest_wait_s=st.floats(0.001, 100),
    deadline_s=st.none() | st.floats(0.001, 1000),
)


@given(answers, effects)
def test_nothing_is_ever_written_twice(answer: Answer, touched: Effects) -> None:
    """A refund paid out twice is real money."""
    if may_repeat(answer, touched):
        assert answer.error_class is ErrorClass.TRANSIENT
        assert not answer.may_have_run or not touched.writes


@pytest.mark.parametrize(
    ("touched", "ran", "expected"),
    [
        (READER, True, True),
        (READER, False, True),
        (TWICE_AS_ONCE, True, False),
        (TWICE_AS_ONCE, False, True),
        (WRITER, True, False),
        (WRITER, False, True),
        (UNDECLARED, True, False),
        (UNDECLARED, False, True),
    ],
)
def test_what_can_do_no_harm_is_tried_again(touched: Effects, ran: bool, expected: bool) -> None:
    """Otherwise every rate limit would end up in the training data."""
    answer = Answer(text="", error_class=ErrorClass.TRANSIENT, may_have_run=ran)

    assert may_repeat(answer, touched) is expected


@given(policies, st.integers(1, 2000), st.floats(0, 2000), st.floats(0, 1, exclude_max=True))
def test_waits_keep_every_bound(
    policy: CallPolicy, attempt: int, spent_s: float, draw: float
) -> None:
    """A call ends: by its number of attempts, and by its deadline."""
    wait = wait_s(policy, attempt=attempt, spent_s=spent_s, draw=draw)

    if attempt > policy.retries:
        assert wait is None
    if wait is not None:
        assert 0 < wait <= policy.longest_wait_s
        assert wait >= min(policy.first_wait_s, policy.longest_wait_s) / 2
        assert policy.deadline_s is None or spent_s + wait < policy.deadline_s
    assert 0 <= attempt_s(policy, spent_s=spent_s) <= policy.timeout_s


def test_waits_double_and_half_of_each_is_drawn() -> None:
    """Fifty callers turned away together must not come back together."""
    policy = CallPolicy(retries=9, first_wait_s=1, longest_wait_s=5)

    def waits(draw: float) -> list[float | None]:
        return [wait_s(policy, attempt=n, spent_s=0, draw=draw) for n in (1, 2, 3, 4)]

    assert waits(0.0) == [0.5, 1.0, 2.0, 2.5]
    assert waits(0.5) == [0.75, 1.5, 3.0, 3.75]


def test_a_call_that_was_given_up_says_what_became_of_it() -> None:
    """The model decides what to do next by this; and so does the person who reads the trajectory."""
    late = timed_out(0.5, WRITER)

    assert late.error_class is ErrorClass.TRANSIENT
    assert late.may_have_run
    assert json.loads(late.text) == {
        "error": "timeout",
        "message": "no answer within 0.5 s. The call may or may not have taken effect.",
    }
    assert "nothing was changed" in timed_out(0.5, READER).text


@pytest.mark.parametrize(
    ("ran", "touched", "expected"),
    [
        (True, WRITER, "shop stopped while pay was under way. The call may or may not have taken"),
        (True, READER, "shop stopped while pay was under way. The tool only reads"),
        (False, WRITER, "shop could not be reached. The call did not run."),
    ],
)
def test_a_call_that_met_a_crash_says_what_became_of_it(
    ran: bool, touched: Effects, expected: str
) -> None:
    """And keeps the server's last words, which differ from run to run, from the model."""
    met = Answer(text="core dumped, pid 4711", error_class=ErrorClass.TRANSIENT, may_have_run=ran)
    told = interrupted("shop", "pay", met, touched)

    assert message_of(told.text).startswith(expected)
    assert "4711" not in told.text
    assert (told.error_class, told.may_have_run) == (ErrorClass.TRANSIENT, ran)


def test_what_a_person_says_of_a_tool_wins_and_the_rest_stays() -> None:
    """Most servers declare nothing; some declare it wrong."""
    rule = ToolRule(writes=(), timeout_s=5, retries=0)

    assert rule.effects(UNDECLARED) == Effects(reads=("*",), writes=())
    assert ToolRule().effects(WRITER) == WRITER
    assert rule.policy(CallPolicy(retries=4)) == CallPolicy(timeout_s=5, retries=0)
    assert ToolRule().policy(CallPolicy(retries=4)) == CallPolicy(retries=4)


@pytest.mark.parametrize("wrong", [{"timeout_s": 0}, {"concurrency": 0}, {"retries": -1}, {"x": 1}])
def test_a_policy_that_means_nothing_is_refused(wrong: dict[str, int]) -> None:
    """A concurrency of 0 would wait for ever."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(wrong, CallPolicy)


@given(st.text())
def test_the_words_of_any_text_can_be_told(text: str) -> None:
    """Servers answer with anything."""
    assert isinstance(message_of(text), str)
