"""Two calls stand in one state exactly when the same writes touched what they see."""

from __future__ import annotations

import functools
import gc
import json
import sys
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cacherl.cache.identity.canonical import canonical_json
from cacherl.cache.identity.state import EVERYTHING, NO_WRITES, Resource, StateOverlay, resources
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


@given(STEPS, st.lists(KINDS, max_size=2).map(tuple), st.integers(0, 2))
def test_the_key_covers_exactly_the_writes_that_touch(
    steps: list[Step], reads: tuple[str, ...], x: int
) -> None:
    """The chains find what comparing every write with every read would find."""
    episode = Episode()
    asked = Effects(reads=reads)
    seen: list[tuple[bytes, list[int]]] = []
    for number in range(len(steps) + 1):
        key = episode.key(asked, x=x)
        touching = plain_states([*steps[:number], (reads, (), x)])[-1]
        for earlier, before in seen:
            assert (key == earlier) == (touching == before)
        assert (key == NO_WRITES) == (not touching)
        seen.append((key, touching))
        if number < len(steps):
            step = steps[number]
            effects = Effects(reads=step[0], writes=step[1])
            episode.write(f"tool{number}", effects, x=step[2])


SINGLE = [Effects(reads=(f"{kind}:{x}",)) for kind in "ab" for x in range(3)]
SINGLE += [Effects(reads=("a:0", "a:1", "b:2"))]
PROBES = SINGLE + [Effects(reads=reads) for reads in (("a",), ("b:*",), ("*",), ("a:1", "b"))]


@given(STEPS, st.data())
def test_the_order_of_two_writes_matters_exactly_when_they_touch(
    steps: list[Step], data: st.DataObject
) -> None:
    """Rollouts that did independent things in another order share recordings; others never do.

    Who reads a kind as a whole sees an order all the same: a list shows what was made first. So does
    a later write that names the kind, and whoever sees that write.
    """
    steps = [step for step in steps if step[1]]
    if len(steps) < 2:
        return
    place = data.draw(st.integers(0, len(steps) - 2))
    order = list(range(len(steps)))
    order[place], order[place + 1] = order[place + 1], order[place]
    episodes = Episode(), Episode()
    for episode, numbers in zip(episodes, (range(len(steps)), order), strict=True):
        for number in numbers:
            reads, writes, x = steps[number]
            episode.write(f"tool{number}", Effects(reads=reads, writes=writes), x=x)
    one, other = steps[place], steps[place + 1]
    touch = any(
        w.touches(s)
        for a, b in ((one, other), (other, one))
        for w in resources(a[1], {"x": a[2]})
        for s in resources((*b[0], *b[1]), {"x": b[2]})
    )
    told_later = any(
        all(
            any(
                s.touches(w)
                for s in resources((*after[0], *after[1]), {"x": after[2]})
                for w in resources(first[1], {"x": first[2]})
            )
            for first in (one, other)
        )
        for after in steps[place + 2 :]
    )
    for probe in PROBES:
        same = episodes[0].key(probe) == episodes[1].key(probe)
        sees_both = all(
            any(r.touches(w) for r in resources(probe.reads, {}) for w in resources(s[1], {"x": s[2]}))
            for s in (one, other)
        )  # fmt: skip
        if touch and sees_both:
            assert not same
        if not touch and not told_later and probe in SINGLE:
            assert same


@given(STEPS)
def test_asking_early_and_often_changes_nothing(steps: list[Step]) -> None:
    """Keys are remembered and grown; remembering must not show."""
    asking, silent = Episode(), Episode()
    for number, (reads, writes, x) in enumerate(steps):
        for episode in (asking, silent):
            episode.write(f"tool{number}", Effects(reads=reads, writes=writes), x=x)
        for probe in PROBES:
            asking.key(probe)

    assert [asking.key(probe) for probe in PROBES] == [silent.key(probe) for probe in PROBES]


def work(step: Callable[[], object]) -> int:
    """Count the function calls, Python's and C's, that a step makes."""
    count = 0

    def seen(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    gc.disable()  # a collection calls back whoever asked for it
    sys.setprofile(seen)
    try:
        step()
    finally:
        sys.setprofile(before)
        gc.enable()
    return count


MIXED = (
    ("set", WRITE),
    ("get", READ),
    ("list", LIST),
    ("anything", UNDECLARED),
    ("copy", Effects(reads=("*", "user:{order_id}"), writes=("doc:{order_id}", "user:*"))),
    ("create", CREATE),
)


def test_a_call_costs_the_same_after_ten_thousand_others() -> None:
    """Prefix-keyed caches break down on long histories; this one may not grow with them.

    Counted, not timed. Every call names a resource of its own, which is the worst case: nothing
    that an earlier call computed is of use to it.
    """
    episode = Episode()
    spent: dict[str, list[set[int]]] = {tool: [set(), set()] for tool, _ in MIXED}
    for number in range(10_000):
        tool, effects = MIXED[number % len(MIXED)]
        answer = json.dumps({"order_id": f"n{number:05}"})
        step = functools.partial(episode.write, tool, effects, answer, order_id=f"o{number:05}")
        if 300 <= number < 600 or number >= 9_700:
            spent[tool][number >= 9_700].add(work(step))
        else:
            step()

    for early, late in spent.values():
        assert early == late
        assert max(late) < 400


IDEMPOTENT = Effects(reads=WRITE.reads, writes=WRITE.writes, idempotent=True)


def test_an_idempotent_write_said_again_changes_nothing() -> None:
    """Setting the same address twice is setting it once, for recordings of both kinds."""
    once, thrice = Episode(), Episode()
    once.write("set", IDEMPOTENT, order_id="A")
    for other in ("A", "B", "A", "A"):  # what happens to B in between does not matter to A
        thrice.write("set", IDEMPOTENT, order_id=other)

    assert once.key(READ, order_id="A") == thrice.key(READ, order_id="A")


def test_an_idempotent_write_counts_again_once_anything_it_sees_has_changed() -> None:
    """[a, b, a] on one order ends otherwise than [a, b]."""
    seen = []
    episode = Episode()
    for tool, effects in (("a", IDEMPOTENT), ("b", WRITE), ("a", IDEMPOTENT)):
        episode.write(tool, effects, order_id="A")
        seen.append(episode.key(READ, order_id="A"))
    assert len(set(seen)) == 3

    put = Effects(writes=("order:{result.order_id}",), idempotent=True)
    put_again, put_once = Episode(), Episode()
    for place, each in enumerate((put_again, put_again, put_once)):
        each.write("put", put, '{"order_id": "A"}', name="x")
        if place != 1:
            each.write("cancel", WRITE, order_id="A")  # what only put's result has named
    assert put_again.key(READ, order_id="A") != put_once.key(READ, order_id="A")


def test_the_environment_may_say_its_state_itself() -> None:
    """Then declared effects do not matter: two ways to one state share recordings."""
    one, other = Episode(), Episode()
    one.overlay.fingerprint("start")
    at_start = one.key(READ, order_id="A")
    one.write("cancel", WRITE, order_id="A")
    one.overlay.fingerprint("cancelled")
    other.write("mystery", UNDECLARED)
    other.overlay.fingerprint("cancelled")

    assert one.key(READ, order_id="A") == other.key(Effects(), x=1)
    assert at_start not in (NO_WRITES, one.key(READ, order_id="A"))
    one.overlay.fingerprint("start")
    assert one.key(READ, order_id="A") == at_start


def test_a_write_whose_outcome_nobody_tells_leads_to_a_state_of_its_own() -> None:
    """No recording made at a told state can answer there as if nothing had happened."""
    told = Episode()
    told.overlay.fingerprint("start")
    start = told.key(READ)
    told.write("get", READ, order_id="A")
    assert told.key(READ) == start

    told.write("cancel", WRITE, order_id="A")
    after = told.key(READ)
    told.overlay.uncertain("cancel", WRITE, {"order_id": "A"}, b"{}")
    assert len({start, after, told.key(READ)}) == 3


class Counter:
    """A world of two numbers, which can tell its state; nothing of its effects is declared."""

    def __init__(self) -> None:
        self.numbers = {"a": 0, "b": 0}

    def run(self, tool: str, name: str) -> str:
        if tool == "add":
            self.numbers[name] += 1
        if tool == "reset":
            self.numbers[name] = 0
        return json.dumps(self.numbers[name])


TOOLS = {"add": UNDECLARED, "reset": UNDECLARED, "read": UNDECLARED}
MOVES = st.lists(st.tuples(st.sampled_from(sorted(TOOLS)), st.sampled_from("ab")), max_size=8)


@given(st.lists(MOVES, max_size=6), MOVES)
def test_recorded_fingerprints_are_a_chain_that_replay_can_follow(
    recorded: list[list[tuple[str, str]]], played: list[tuple[str, str]]
) -> None:
    """Nothing live runs in replay: each recorded answer brings the state that it led to.

    Whatever is found under the key is what the live world would have said at that point.
    """
    kept: dict[tuple[str, str, bytes], tuple[str, str]] = {}
    for moves in recorded:
        world, overlay = Counter(), StateOverlay()
        overlay.fingerprint(json.dumps(world.numbers))
        for tool, name in moves:
            state = overlay.state(TOOLS[tool], {"name": name})
            answer = world.run(tool, name)
            kept[tool, name, state.key] = answer, json.dumps(world.numbers)
            overlay.fingerprint(json.dumps(world.numbers))
    truth, overlay = Counter(), StateOverlay()
    overlay.fingerprint(json.dumps(truth.numbers))
    for tool, name in played:
        state = overlay.state(TOOLS[tool], {"name": name})
        found = kept.get((tool, name, state.key))
        answer = truth.run(tool, name)
        if found is None:
            overlay.write(tool, TOOLS[tool], {"name": name}, name.encode(), state, answer)
            continue
        assert found == (answer, json.dumps(truth.numbers))
        overlay.fingerprint(found[1])


def test_an_argument_called_result_is_an_argument() -> None:
    """What it names is known before the call: a second such write is another call than the first."""
    grade = Effects(writes=("grade:{result.id}",))
    overlay, arguments = StateOverlay(), {"result": {"id": "7"}}
    first = overlay.state(grade, arguments)
    overlay.write("submit", grade, arguments, canonical_json(arguments), first, "ok")

    assert first.key == NO_WRITES
    assert overlay.state(grade, arguments).key != NO_WRITES
    assert overlay.state(grade, {"result": {"id": "8"}}).key == NO_WRITES


def test_a_kind_that_an_argument_widens_is_everything() -> None:
    """A list of all kinds shows whatever was written."""
    listing = Effects(reads=("{kind}:*",))
    episode = Episode()
    episode.write("cancel", WRITE, order_id="A")

    assert episode.key(listing, kind="*") != NO_WRITES
    assert episode.key(listing, kind="order") != NO_WRITES
    assert episode.key(listing, kind="article") == NO_WRITES
