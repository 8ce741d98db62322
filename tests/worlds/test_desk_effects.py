"""Declared effects are true: what a cache relies on to know when an answer is stale."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cacherl.worlds.desk.database import Desk
from cacherl.worlds.desk.tools import SPEC, SPECS, WRITERS, run_tool
from cacherl.worlds.desk.universe import DAYS, Scenario, scenario

WINDOW = scenario(11)


def resources(
    templates: tuple[str, ...], arguments: Mapping[str, Any], result: Mapping[str, Any]
) -> set[str]:
    """Fill templates in; a value that is not there widens to the whole kind."""

    def fill(match: re.Match[str]) -> str:
        name = match[1]
        value = result.get(name[7:]) if name.startswith("result.") else arguments.get(name)
        return "*" if value is None else str(value)

    return {re.sub(r"\{([\w.]+)\}", fill, template) for template in templates}


def touch(written: str, read: str) -> bool:
    """Whether a write to one resource may change what a read of the other says."""
    kind, _, which = written.partition(":")
    other_kind, _, other = read.partition(":")
    return kind == other_kind and ("*" in (which, other) or which == other)


def some_arguments(window: Scenario) -> dict[str, list[Any]]:
    """A small pool per parameter, so that random calls meet each other."""
    customers = window.customers[:2]
    slots = [slot for slot in window.shops[0] if slot.day == "monday"]
    tickets = [t for c in customers for t in (*[t.id for t in c.tickets], *c.new_tickets)]
    return {
        "email": [customers[0].email],
        "customer_id": [c.id for c in customers],
        "order_id": [o.id for c in customers for o in c.orders],
        "ticket_id": tickets,
        "slot_id": [slot.id for slot in slots],
        "shop_id": [slots[0].shop_id],
        "day": list(DAYS[:1]),
        "article_id": [window.products[0][0].id],
        "query": ["warranty"],
        "city": ["Oslo", "Lyon"],
        "amount": [1, 15],
        "reason": ["late"],
        "topic": ["account", "product"],
        "priority": ["low"],
    }


POOL = some_arguments(WINDOW)
CALLS = [
    st.tuples(
        st.just(spec.name),
        st.fixed_dictionaries(
            {key: st.sampled_from(POOL[key]) for key in spec.parameters["required"]}
        ),
    )
    for spec in SPECS
]


@given(st.lists(st.one_of(CALLS), min_size=2, max_size=25))
def test_no_result_changes_without_a_declared_write(
    calls: list[tuple[str, dict[str, Any]]],
) -> None:
    """An undeclared write would let the cache replay an answer that is no longer true."""
    desk = Desk(WINDOW)
    known: dict[str, tuple[str, int]] = {}
    written: list[set[str]] = []
    try:
        for name, arguments in calls:
            before = desk.fingerprint()
            text, _ = run_tool(desk, name, arguments)
            effects = SPEC[name].effects
            result = json.loads(text)
            if name not in WRITERS:
                assert desk.fingerprint() == before
            call = json.dumps([name, arguments])
            if call in known and known[call][0] != text:
                reads = resources(effects.reads, arguments, result)
                since = written[known[call][1] :]
                assert any(touch(w, r) for ws in since for w in ws for r in reads), (call, written)
            written.append(resources(effects.writes, arguments, result))
            # The call's own write counts too: cancelling twice does not say the same twice.
            known[call] = (text, len(written) - 1)
    finally:
        desk.close()


def test_every_tool_declares_its_effects_over_its_own_arguments() -> None:
    """A template that names no argument would widen to everything in silence."""
    for spec in SPECS:
        assert spec.effects.reads, spec.name
        for template in (*spec.effects.reads, *spec.effects.writes):
            for name in re.findall(r"\{([\w.]+)\}", template):
                assert name.startswith("result.") or name in spec.parameters["properties"], template


def test_tools_are_described_in_few_words() -> None:
    """Descriptions stand in every prompt of a model that reads 500 tokens."""
    assert len(SPECS) >= 12
    for spec in SPECS:
        assert len(spec.description.split()) <= 8
        assert spec.parameters["required"] == list(spec.parameters["properties"])
