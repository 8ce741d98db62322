"""The desk's functions as tools: what a model is told, what a cache is told, and the live calls."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from cacherl.core.messages import ToolCall
from cacherl.core.records import JsonObject
from cacherl.core.schema import argument_problem, error_text
from cacherl.core.tools import Effects, ErrorClass, Source, Tier, ToolResult, ToolSpec
from cacherl.worlds.desk.database import Desk, DeskRefusal
from cacherl.worlds.desk.universe import (
    DAYS,
    PRIORITIES,
    REFUND_REASONS,
    TICKET_TOPICS,
    Scenario,
)


def _text(**extension: str) -> JsonObject:
    return {"type": "string"} | {f"x-{key}": value for key, value in extension.items()}


def _one_of(values: tuple[str, ...]) -> JsonObject:
    return {"type": "string", "enum": list(values)}


def _tool(
    name: str,
    description: str,
    properties: Mapping[str, JsonObject],
    *,
    reads: tuple[str, ...] = (),
    writes: tuple[str, ...] = (),
) -> ToolSpec:
    return ToolSpec(
        name=name,
        description=description,
        parameters={
            "type": "object",
            "properties": dict(properties),
            "required": list(properties),
        },
        effects=Effects(reads=reads, writes=writes),
    )


_ID = _text(kind="id")
_ORDER = ("order:{order_id}",)
_TICKET = ("ticket:{ticket_id}",)

# A write's own answer depends on the state too (cancelling twice fails), so writes also read.
SPECS: tuple[ToolSpec, ...] = (
    _tool("find_customer", "Find a customer by email.", {"email": _ID}, reads=("email:{email}",)),
    _tool(
        "get_customer",
        "Read one customer.",
        {"customer_id": _ID},
        reads=("customer:{customer_id}",),
    ),
    _tool(
        "list_orders",
        "List a customer's orders.",
        {"customer_id": _ID},
        reads=("orders_of:{customer_id}",),
    ),
    _tool("get_order", "Read one order.", {"order_id": _ID}, reads=_ORDER),
    _tool("cancel_order", "Cancel an order.", {"order_id": _ID}, reads=_ORDER, writes=_ORDER),
    _tool(
        "change_address",
        "Send an order to another city.",
        {"order_id": _ID, "city": _text(kind="entity")},
        reads=_ORDER,
        writes=_ORDER,
    ),
    _tool(
        "refund_order",
        "Refund an order.",
        {"order_id": _ID, "amount": {"type": "integer"}, "reason": _one_of(REFUND_REASONS)},
        reads=_ORDER,
        writes=_ORDER,
    ),
    _tool(
        "create_ticket",
        "Open a ticket.",
        {
            "customer_id": _ID,
            "topic": _one_of(TICKET_TOPICS),
            "priority": _one_of(PRIORITIES),
        },
        reads=("tickets_of:{customer_id}",),
        writes=("tickets_of:{customer_id}", "ticket:{result.ticket_id}"),
    ),
    _tool(
        "list_tickets",
        "List a customer's tickets.",
        {"customer_id": _ID},
        reads=("tickets_of:{customer_id}",),
    ),
    _tool("get_ticket", "Read one ticket.", {"ticket_id": _ID}, reads=_TICKET),
    _tool("close_ticket", "Close a ticket.", {"ticket_id": _ID}, reads=_TICKET, writes=_TICKET),
    _tool(
        "search_kb",
        "Search articles by keywords.",
        {"query": _text(kind="text")},
        reads=("kb:*",),
    ),
    _tool(
        "get_article",
        "Read one article.",
        {"article_id": _ID},
        reads=("kb:*",),
    ),
    _tool(
        "list_slots",
        "List free slots of a shop.",
        {"shop_id": _ID, "day": _one_of(DAYS)},
        reads=("slots:{shop_id}",),
    ),
    _tool(
        "book_slot",
        "Book a slot.",
        {"slot_id": _ID, "customer_id": _ID},
        reads=("slot:{slot_id}", "customer:{customer_id}"),
        writes=("slot:{slot_id}", "slots:{result.shop_id}"),
    ),
    _tool(
        "cancel_slot",
        "Free a booked slot.",
        {"slot_id": _ID},
        reads=("slot:{slot_id}",),
        writes=("slot:{slot_id}", "slots:{result.shop_id}"),
    ),
)
SPEC = {spec.name: spec for spec in SPECS}
WRITERS = frozenset(spec.name for spec in SPECS if spec.effects.writes)
READERS = frozenset(SPEC) - WRITERS


def run_tool(desk: Desk, name: str, arguments: Mapping[str, Any]) -> tuple[str, ErrorClass | None]:
    """Return what the tool answers, as JSON text, and why it failed if it did."""
    if name not in SPEC:
        return error_text("not_found", f"no tool {name}"), ErrorClass.NOT_FOUND
    problem = argument_problem(SPEC[name], arguments)
    if problem is not None:
        return error_text("validation", problem), ErrorClass.VALIDATION
    try:
        result = getattr(desk, name)(**arguments)
    except DeskRefusal as refusal:
        kind = refusal.error_class
        return error_text(kind.value, refusal.message), kind
    return json.dumps(result, ensure_ascii=False), None


class DeskTools:
    """Live tools of one episode (`WorldTools`)."""

    def __init__(self, scenario: Scenario) -> None:
        self._desk = Desk(scenario)

    async def call(self, call: ToolCall) -> ToolResult:
        return timed(call, lambda: run_tool(self._desk, call.name, call.arguments))

    def fingerprint(self) -> str:
        return self._desk.fingerprint()

    async def aclose(self) -> None:
        self._desk.close()


def timed(call: ToolCall, run: Callable[[], tuple[str, ErrorClass | None]]) -> ToolResult:
    """Return what `run` answers to the call, as a live result with the time that it took."""
    began = time.perf_counter()
    text, error = run()
    return ToolResult(
        call_id=call.id,
        name=call.name,
        text=text,
        is_error=error is not None,
        error_class=error,
        tier=Tier.LIVE,
        source=Source.LIVE,
        latency_s=time.perf_counter() - began,
    )
