"""Two calls stand in one state exactly when the same writes touched what they see."""

from __future__ import annotations

import json
import time
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cacherl.cache.canonical import canonical_json
from cacherl.cache.state import EVERYTHING, NO_WRITES, Resource, StateOverlay, resources
from cacherl.core.tools import UNDECLARED, Effects

READ = Effects(reads=("order:{order_id}",))
WRITE = Effects(reads=("order:{order_id}",), writes=("order:{order_id}",))
LIST = Effects(reads=("order:*",))
CREATE = Effects(writes=("order:{result.order_id}",))


class Episode:
    """An overlay that is told of calls the way replay and recording tell it."""

    def __init__(self) -> None:
        self.overlay = StateOverlay()

    def key(self, effects: Effects, **arguments: Any) -> bytes:
        return self.overlay.state(effects, arguments).key

    def write(self, tool: str, effects: Effects, result: str = "{}", **arguments: Any) -> bytes:
        state = self.overlay.state(effects, arguments)
        self.overlay.write(tool, effects, arguments, canonical_json(arguments), state, result)
        return state.key


def test_a_read_without_writes_before_it_has_the_empty_state() -> None:
    """Recordings of untouched things serve every episode, whatever else it did."""
    episode = Episode()
    assert episode.key(READ, order_id="A") == NO_WRITES

    episode.write("cancel", WRITE, order_id="B")

    assert episode.key(READ, order_id="A") == NO_WRITES


def test_a_write_changes_the_state_of_what_it_touches() -> None:
    """A read after a write must never be answered from before it."""
    episode = Episode()
    episode.write("cancel", WRITE, order_id="A")

    assert episode.key(READ, order_id="A") != NO_WRITES
    assert episode.key(LIST) != NO_WRITES
    assert episode.key(READ) != NO_WRITES  # an absent id widens to every order


def test_reads_and_failed_calls_leave_no_trace() -> None:
    """Only what happened to the world counts; the caller drops failures, reads drop themselves."""
    episode = Episode()
    state = episode.overlay.state(READ, {"order_id": "A"})
    episode.overlay.write("get", READ, {"order_id": "A"}, b"{}", state, "{}")

    assert episode.key(READ, order_id="A") == NO_WRITES


def test_the_same_write_twice_is_not_once() -> None:
    """[a, b, a] is neither [a, b] nor [b, a]; two tickets are not one."""
    seen = []
    episode = Episode()
    for tool in ("a", "a", "b", "a"):
        episode.write(tool, WRITE, order_id="A")
        seen.append(episode.key(READ, order_id="A"))

    assert len(set(seen)) == len(seen)


def test_the_order_of_writes_matters() -> None:
    """Close then reopen is not reopen then close."""
    keys = set()
    for order in (("close", "reopen"), ("reopen", "close")):
        episode = Episode()
        for tool in order:
            episode.write(tool, WRITE, order_id="A")
        keys.add(episode.key(READ, order_id="A"))

    assert len(keys) == 2


def test_a_write_to_something_else_in_between_does_not_matter() -> None:
    """Otherwise hardly any recording would serve a policy that takes another way."""
    one, other = Episode(), Episode()
    for episode in (one, other):
        episode.write("cancel", WRITE, order_id="A")
    other.write("cancel", WRITE, order_id="B")

    assert one.key(READ, order_id="A") == other.key(READ, order_id="A")
    assert one.key(LIST) != other.key(LIST)


def test_an_undeclared_tool_writes_everything() -> None:
    """Silence about effects is no promise."""
    episode = Episode()
    episode.write("mystery", UNDECLARED)

    assert episode.key(READ, order_id="A") != NO_WRITES
    assert episode.key(Effects(reads=("ticket:{t}",)), t=1) != NO_WRITES
    assert episode.key(Effects()) == NO_WRITES  # a pure function sees nothing


def test_a_result_may_name_what_was_written() -> None:
    """The id of a new order is known only once it exists."""
    episode = Episode()
    episode.write("create", CREATE, json.dumps({"order_id": "N1"}), customer="c")

    assert episode.key(READ, order_id="N1") != NO_WRITES
    assert episode.key(READ, order_id="N2") == NO_WRITES

    episode.write("create", CREATE, "not json", customer="c")
    assert episode.key(READ, order_id="N2") != NO_WRITES  # unknown: any order


def test_a_write_that_depends_on_another_carries_its_state() -> None:
    """Copying A to B after A was changed does something else to B."""
    copy = Effects(reads=("doc:{source}",), writes=("doc:{target}",))
    edit = Effects(writes=("doc:{target}",))
    keys = []
    for edited in (False, True):
        episode = Episode()
        if edited:
            episode.write("edit", edit, target="A")
        episode.write("copy", copy, source="A", target="B")
        keys.append(episode.key(Effects(reads=("doc:B",))))

    assert keys[0] != keys[1]


def test_a_write_lost_in_transit_makes_a_state_of_its_own() -> None:
    """After a time-out nobody knows whether the order is cancelled."""
    known, unknown = Episode(), Episode()
    known.write("cancel", WRITE, order_id="A")
    arguments = {"order_id": "A"}
    unknown.overlay.uncertain("cancel", WRITE, arguments, canonical_json(arguments))
    keys = {episode.key(READ, order_id="A") for episode in (Episode(), known, unknown)}

    assert len(keys) == 3


def test_templates_name_resources() -> None:
    """What a tool's author may write, and what it means."""
    arguments = {"id": 7, "ids": ["a", "b"], "legs": [{"f": "X"}, {"f": "Y"}], "obj": {"k": 1}}

    def named(*templates: str) -> set[Resource]:
        return set(resources(templates, arguments))

    assert named("*") == {EVERYTHING}
    assert named("order:{id}") == {Resource("order", "7")}
    assert named("order:{ids}") == {Resource("order", "a"), Resource("order", "b")}
    assert named("flight:{legs.f}") == {Resource("flight", "X"), Resource("flight", "Y")}
    assert named("seat:{id}-{ids}") == {Resource("seat", "7-a"), Resource("seat", "7-b")}
    assert named("order:{gone}", "order:{obj}", "order:*", "order") == {Resource("order", None)}
    assert named("{gone}:1") == {EVERYTHING}
    assert named("order:A") == {Resource("order", "A")}


KINDS = st.sampled_from(["a:{x}", "b:{x}", "a:*", "b", "*"])
STEPS = st.lists(
    st.tuples(
        st.lists(KINDS, max_size=2).map(tuple),
        st.lists(KINDS, max_size=2).map(tuple),
        st.integers(0, 2),
    ),
    max_size=12,
)
Step = tuple[tuple[str, ...], tuple[str, ...], int]


def plain_states(steps: list[Step]) -> list[list[int]]:
    """For each step the numbers of the earlier writes that touch it, the slow and obvious way."""
    written: list[tuple[int, tuple[Resource, ...]]] = []
    found = []
    for number, (reads, writes, x) in enumerate(steps):
        sees = resources((*reads, *writes), {"x": x})
        found.append([
            place for place, did in written if any(s.touches(d) for s in sees for d in did)
        ])  # fmt: skip
        if writes:
            written.append((number, resources(writes, {"x": x})))
    return found


@given(STEPS)
def test_the_key_covers_exactly_the_writes_that_touch(steps: list[Step]) -> None:
    """The index finds what comparing every write with every read would find."""
    episode = Episode()
    keys = [
        episode.write(f"tool{number}", Effects(reads=reads, writes=writes), x=x)
        for number, (reads, writes, x) in enumerate(steps)
    ]
    plain = plain_states(steps)
    for number, touching in enumerate(plain):
        for earlier in range(number):
            assert (keys[number] == keys[earlier]) == (touching == plain[earlier])
        assert (keys[number] == NO_WRITES) == (not touching)


@given(STEPS)
def test_asking_early_and_often_changes_nothing(steps: list[Step]) -> None:
    """Keys are remembered and grown; remembering must not show."""
    asking, silent = Episode(), Episode()
    probes = [Effects(reads=(f"{kind}:{x}",)) for kind in "ab" for x in range(3)]
    probes += [Effects(reads=("*",)), Effects(reads=("a:1", "b"))]
    for number, (reads, writes, x) in enumerate(steps):
        for episode in (asking, silent):
            episode.write(f"tool{number}", Effects(reads=reads, writes=writes), x=x)
        for probe in probes:
            asking.key(probe)

    assert [asking.key(probe) for probe in probes] == [silent.key(probe) for probe in probes]


def test_ten_thousand_calls_cost_no_more_each_than_a_few() -> None:
    """Prefix-keyed caches break down on long histories; this one may not grow with them."""
    episode = Episode()
    started = time.process_time()
    for number in range(10_000):
        episode.write("set", WRITE, order_id=f"o{number % 50}")
        episode.key(READ, order_id=f"o{number % 7}")
        episode.key(LIST)

    assert (
        time.process_time() - started < 10.0
    )  # CPU seconds; about 0.5, and quadratic would be minutes
