"""Two episodes of one policy: which difference is the cache's doing, and which is chance."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from cacherl.core.messages import (
    AssistantMessage,
    MalformedCall,
    Message,
    ToolMessage,
    UserMessage,
)
from cacherl.core.tools import Source, Tier, ToolResult
from cacherl.core.trajectories import StopReason, Trajectory
from cacherl.shadow import divergence
from cacherl.shadow.divergence import Cause
from cacherl.shadow.summary import same_json
from tests.desk_of_two import read, says

SAME = '{"text": "milk"}'
SAME_REORDERED = '{"text":  "milk"}'
OTHER = '{"text": "bread"}'


def episode(
    *turns: AssistantMessage | tuple[AssistantMessage, str],
    tier: Tier = Tier.LIVE,
    stop: StopReason = StopReason.ANSWER,
) -> Trajectory:
    """Turns in order; a turn with a call comes with what it was answered."""
    messages: list[Message] = [UserMessage(content="Copy note 0, please.")]
    results = []
    for turn in turns:
        message, text = turn if isinstance(turn, tuple) else (turn, "")
        messages.append(message)
        for call in message.calls:
            messages.append(ToolMessage(call_id=call.id, name="read_note", content=text))
            results.append(
                ToolResult(
                    call_id=call.id,
                    name="read_note",
                    text=text,
                    tier=tier,
                    source=Source.LIVE,
                    fidelity=None if tier is Tier.LIVE else 0.5,
                )
            )
    return Trajectory(
        task_id="t", policy="m", messages=tuple(messages), results=tuple(results), stop=stop
    )


def asks(number: int, text: str, id: str = "c1") -> tuple[AssistantMessage, str]:
    return says("", read(number, id)), text


def test_equal_episodes_do_not_diverge() -> None:
    """Ids of calls and thinking are no behaviour."""
    found = divergence(
        episode((says("", read(0, "a"), thinking="hm"), SAME), says("milk")),
        episode((says("", read(0, "b")), SAME), says("milk")),
        same_json,
    )

    assert (found.turns, found.calls, found.differences, found.cause) == (2, 1, (), None)


def test_another_answer_and_then_another_turn_is_the_caches_doing() -> None:
    """With the tier and the fidelity that it came with."""
    found = divergence(
        episode(asks(0, OTHER), says("bread"), tier=Tier.BEST_EFFORT),
        episode(asks(0, SAME), says("milk")),
        same_json,
    )

    assert found.diverged
    assert found.first is not None
    assert (found.first.tier, found.first.fidelity) == (Tier.BEST_EFFORT, 0.5)
    assert (found.first.cached.text, found.first.live.text) == (OTHER, SAME)
    assert (found.cached_next, found.live_next) == ("bread", "milk")


def test_another_answer_that_nobody_minds_is_counted_and_costs_nothing() -> None:
    """A policy that does not look at an answer is not led astray by it."""
    found = divergence(
        episode(asks(0, OTHER), says("done"), tier=Tier.EXACT),
        episode(asks(0, SAME), says("done")),
        same_json,
    )

    assert len(found.differences) == 1
    assert not found.diverged


def test_another_turn_before_any_other_answer_is_noise() -> None:
    """Sampling must never be blamed on the cache."""
    found = divergence(
        episode(asks(0, SAME), says("bread"), tier=Tier.EXACT),
        episode(asks(0, SAME), says("milk")),
        same_json,
    )
    assert found.cause is Cause.NOISE

    other_call = divergence(
        episode(asks(1, OTHER), says("bread"), tier=Tier.MISS),
        episode(asks(0, SAME), says("milk")),
        same_json,
    )
    assert other_call.cause is Cause.NOISE
    assert other_call.differences == ()  # not the same call


def test_the_same_in_other_bytes_is_neither() -> None:
    """A model reads bytes; the comparator reads values."""
    found = divergence(
        episode(asks(0, SAME_REORDERED), says("bread"), tier=Tier.EXACT),
        episode(asks(0, SAME), says("milk")),
        same_json,
    )
    assert found.cause is Cause.WORDING


def test_an_episode_that_goes_on_alone_has_diverged() -> None:
    """The turns were used up, or the context was full, on one side only."""
    found = divergence(
        episode(asks(0, OTHER), stop=StopReason.CONTEXT_FULL, tier=Tier.FUZZY),
        episode(asks(0, SAME), says("milk")),
        same_json,
    )
    assert found.diverged
    assert (found.cached_next, found.live_next) == ("ended: context_full", "milk")

    ends = divergence(
        episode(asks(0, OTHER), stop=StopReason.CONTEXT_FULL, tier=Tier.FUZZY),
        episode(asks(0, SAME), stop=StopReason.MAX_TURNS),
        same_json,
    )
    assert ends.diverged


TURNS = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from([SAME, SAME_REORDERED, OTHER])), max_size=5
)


def _played(turns: Sequence[tuple[int, str]]) -> Trajectory:
    return episode(
        *(asks(number, text, f"c{place}") for place, (number, text) in enumerate(turns)),
        says("done"),
    )


@given(cached=TURNS, live=TURNS)
def test_against_the_definition(cached: list[tuple[int, str]], live: list[tuple[int, str]]) -> None:
    """Brute force: the common run of calls, what differs in it, and whether both end there."""
    common = 0
    while common < min(len(cached), len(live)) and cached[common][0] == live[common][0]:
        common += 1
    differing = [
        place for place in range(common) if (cached[place][1] == OTHER) != (live[place][1] == OTHER)
    ]

    found = divergence(_played(cached), _played(live), same_json)

    assert found.calls == common
    assert [each.call for each in found.differences] == differing
    assert (found.cause is None) == (len(cached) == len(live) == common)
    if found.cause is Cause.OBSERVATION:
        assert differing


@given(turns=TURNS)
def test_an_episode_never_diverges_from_itself(turns: list[tuple[int, str]]) -> None:
    """Reflexive, and blind to the ids of calls."""
    one = _played(turns)
    other = msgspec.structs.replace(one, policy="the same under another name")
    found = divergence(one, other, same_json)
    assert (found.cause, found.differences) == (None, ())


def test_a_call_that_did_not_parse_is_answered_alike_by_both() -> None:
    """The loop refuses it before any tool: no difference, and nothing to compare."""
    bad = AssistantMessage(calls=(MalformedCall(id="m", text="{", problem="no JSON"),))
    one = episode((bad, "refused"), asks(0, OTHER), says("a"), tier=Tier.EXACT)
    other = episode((bad, "refused"), asks(0, SAME), says("b"))

    found = divergence(one, other, same_json)

    assert [each.call for each in found.differences] == [1]
