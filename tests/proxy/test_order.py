"""When overlapping calls are written down: whatever comes first, the order is that of the requests."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cacherl.proxy.order import Order, Step


class Call:
    """A call that is itself and no other."""

    def __init__(self, number: int, writes: bool) -> None:
        self.number, self.writes = number, writes


@st.composite
def sessions(draw: st.DrawFn) -> tuple[list[Call], list[tuple[str, int]]]:
    """Calls, and an order of events in which each is asked for before it is over."""
    calls = [Call(n, writes) for n, writes in enumerate(draw(st.lists(st.booleans(), max_size=8)))]
    events: list[tuple[str, int]] = []
    asked, over = 0, set[int]()
    while len(over) < len(calls):
        open_calls = [n for n in range(asked) if n not in over]
        if asked < len(calls) and (not open_calls or draw(st.booleans())):
            events.append(("asked", asked))
            asked += 1
        else:
            number = draw(st.sampled_from(open_calls))
            events.append(("over", number))
            over.add(number)
    return calls, events


def walked(calls: list[Call], events: list[tuple[str, int]]) -> list[tuple[int, Step, int]]:
    """Every step with the number of the event that allowed it."""
    order: Order[Call] = Order()
    steps = []
    for when, (event, number) in enumerate(events):
        call = calls[number]
        due = order.asked(call, writes=call.writes) if event == "asked" else order.over(call)
        steps += [(when, step, each.number) for step, each in due]
    assert len(order) == 0
    return steps


@given(sessions())
def test_each_call_begins_once_and_then_ends_once(
    session: tuple[list[Call], list[tuple[str, int]]],
) -> None:
    """Nothing that was answered is left out of the cache."""
    calls, events = session
    steps = walked(calls, events)
    for call in calls:
        mine = [step for _, step, number in steps if number == call.number]
        assert mine == [Step.BEGIN, Step.END]


@given(sessions())
def test_a_call_stands_behind_exactly_the_changes_asked_for_before_it(
    session: tuple[list[Call], list[tuple[str, int]]],
) -> None:
    """So a replay, which makes the calls one after the other, finds each in its state."""
    calls, events = session
    written: list[int] = []
    for _, step, number in walked(calls, events):
        earlier = [call.number for call in calls[:number] if call.writes]
        if step is Step.BEGIN:
            assert written == earlier
        if step is Step.END and calls[number].writes:
            assert written == earlier
            written.append(number)


@given(sessions())
def test_an_answer_waits_only_for_changes_asked_for_before_it(
    session: tuple[list[Call], list[tuple[str, int]]],
) -> None:
    """What a client was told is in the cache at once, as far as that can be right."""
    calls, events = session
    ended = {number: when for when, step, number in walked(calls, events) if step is Step.END}
    for number, when in ended.items():
        before = [each.number for each in calls[:number] if each.writes]
        assert when == max(events.index(("over", each)) for each in [number, *before])
