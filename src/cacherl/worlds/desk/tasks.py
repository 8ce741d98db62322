"""Tasks of the support desk, with gold got by really doing what is right.

A task is a family, a scenario, values that fit both, and a wording. Everything is drawn from seeds:
the same arguments give the same tasks on every machine.
"""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cacherl.core.tasks import AnswerRule, Gold, GoldCall, Split, Task
from cacherl.core.tools import ToolSpec
from cacherl.worlds.desk import wordings
from cacherl.worlds.desk.database import Desk
from cacherl.worlds.desk.hearing import Hearing
from cacherl.worlds.desk.plans import PLANS, Act, said_day
from cacherl.worlds.desk.tools import SPEC, run_tool
from cacherl.worlds.desk.universe import (
    ARTICLE_TOPICS,
    DAYS,
    DEV_FROM,
    HELD_ITEMS,
    ITEMS,
    REFUND_DAYS,
    REFUND_REASONS,
    TEST_FROM,
    TICKET_TOPICS,
    Customer,
    Order,
    Scenario,
    cities,
    email_of,
    known_emails,
    scenario,
    seeded,
)

NAMESPACE = "desk"
TASKS_A_SCENARIO = 8
FRENCH_SHARE = 0.4
_SEED_RANGE = {
    Split.TRAIN: range(100_000),
    Split.DEV: range(DEV_FROM, DEV_FROM + 100_000),
    Split.TEST: range(TEST_FROM, TEST_FROM + 100_000),
}
_SHARE_OF_HELD_WORDINGS = 0.5
"""In dev and test tasks."""

_ROLE = "You are the support agent of Nordia, a web shop."
SYSTEMS: Mapping[str, str] = {
    "orders": f"{_ROLE} Read an order before you change it. Only processing orders can be cancelled "
    "or sent to another city. If it is not processing, open a ticket instead: topic delivery, priority high.",
    "refunds": f"{_ROLE} Read the order first. Refund the full total, only if it is delivered and at most "
    f"{REFUND_DAYS} days old. Otherwise refuse.",
    "tickets": f"{_ROLE} Ticket priority is high only if the customer says it is urgent, otherwise low. "
    "Read a ticket before you close it.",
    "slots": f"{_ROLE} List the free slots before you book one. If the hour is not free, name the free hours. "
    "To move a booking, cancel the old slot, then book the new one.",
    "kb": f"{_ROLE} Answer product questions from the articles only: search by product and topic, then "
    "read the article.",
    "accounts": f"{_ROLE} Find the customer by email; if not found, try the other email. "
    "Never share the data of another customer.",
}
"""The policy of each area: all a model is told of the rules."""

Values = dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pick:
    """Where a family's values are drawn from."""

    rng: random.Random
    scenario: Scenario
    language: str
    held: bool
    """Whether phrases kept out of training are used."""

    def phrase(self, by_language: Mapping[str, tuple[str, ...]]) -> str:
        """Return one of four phrases; the last is kept for held-out wordings."""
        phrases = by_language[self.language]
        return phrases[-1] if self.held else self.rng.choice(phrases[:-1])

    def order(self, *statuses: str) -> Order | None:
        """Return an order in one of the statuses, or None."""
        orders = [o for o in self.scenario.orders if o.status in statuses]
        return self.rng.choice(orders) if orders else None

    def two_orders(self, status: str = "") -> tuple[Order, Order] | None:
        """Return two orders of one customer, the second in the status where one is given, or None."""
        pairs = [
            (one, two)
            for customer in self.scenario.customers
            for one in customer.orders
            for two in customer.orders
            if one is not two and status in ("", two.status)
        ]
        return self.rng.choice(pairs) if pairs else None

    def customer(self, orders: int = 0) -> Customer:
        """Return a customer, with so many orders where a number is given and one has them."""
        fit = [c for c in self.scenario.customers if orders in (0, len(c.orders))]
        return self.rng.choice(fit or list(self.scenario.customers))


_ANY = ("processing", "shipped", "delivered")


def _item_forms(item: str) -> Values:
    feminine = (ITEMS | HELD_ITEMS)[item] == "f"
    return {
        "item": item,
        "my_item": f"{'ma' if feminine else 'mon'} {item}",
        "a_item": f"{'une' if feminine else 'un'} {item}",
        "of_item": f"{'de la' if feminine else 'du'} {item}",
    }


def _order_status(pick: _Pick) -> Values | None:
    status = pick.rng.choice(_ANY)  # even over statuses, so that no guess is a good guess
    order = pick.order(status)
    return {"order": order.id} if order else None


def _find_order(pick: _Pick) -> Values | None:
    customer = pick.customer(pick.rng.choice((1, 2, 2, 3)))
    order = pick.rng.choice(customer.orders)
    return {"email": customer.email, "name": customer.name, **_item_forms(order.item)}


def _email_retry(pick: _Pick) -> Values | None:
    values = _find_order(pick)
    if values is None:
        return None
    first, last = values["name"].split(" ")
    wrong = email_of(pick.rng, first, last)
    if wrong in known_emails():
        return None
    return values | {"email": wrong, "email2": values["email"]}


def _cancel(pick: _Pick) -> Values | None:
    status = pick.rng.choice(("processing", "processing", "shipped", "delivered"))
    order = pick.order(status)
    return {"order": order.id} if order else None


def _address(pick: _Pick) -> Values | None:
    status = pick.rng.choice(("processing", "processing", "processing", "shipped"))
    order = pick.order(status)
    if order is None:
        return None
    city = pick.rng.choice([c for c in cities(pick.scenario.split) if c != order.city])
    return {"order": order.id, "city": city}


def _two_orders(pick: _Pick) -> Values | None:
    pair = pick.two_orders()
    if pair is None or pair[0].total == pair[1].total:
        return None
    one, two = pair
    return {"order": one.id, "order2": two.id}


def _refund(pick: _Pick) -> Values | None:
    refundable = pick.rng.random() < 0.6
    orders = [
        o
        for o in pick.scenario.orders
        if (o.status == "delivered" and o.days_ago <= REFUND_DAYS) == refundable
    ]
    late = [o for o in orders if o.status == "delivered"]
    if not orders:
        return None
    if not refundable and late and pick.rng.random() < 0.65:
        orders = late
    order = pick.rng.choice(orders)
    reason = pick.rng.choice(REFUND_REASONS)
    why = pick.phrase(wordings.WHYS[reason])
    return {"order": order.id, "why": why, "Why": why[0].upper() + why[1:]}


def _ticket_new(pick: _Pick) -> Values | None:
    customer = pick.customer()
    order = pick.rng.choice(customer.orders)
    topic = pick.rng.choice(TICKET_TOPICS)
    forms = _item_forms(order.item)
    problem = pick.phrase(wordings.PROBLEMS[topic]).format(**forms)
    tone = wordings.URGENT if pick.rng.random() < 0.5 else wordings.CALM
    return {
        "email": customer.email,
        "name": customer.name,
        "problem": problem,
        "Problem": problem[0].upper() + problem[1:],
        "urgency": pick.rng.choice(tone[pick.language]),
    }


def _ticket_close(pick: _Pick) -> Values | None:
    status = "open" if pick.rng.random() < 0.65 else "closed"
    tickets = [t for c in pick.scenario.customers for t in c.tickets if t.status == status]
    return {"ticket": pick.rng.choice(tickets).id} if tickets else None


def _slot_book(pick: _Pick, *, certain: bool = False) -> Values | None:
    slots = pick.rng.choice(pick.scenario.shops)
    day = pick.rng.choice(DAYS)
    free = [str(slot.hour) for slot in slots if slot.day == day and not slot.taken]
    if len(free) < 2:
        return None
    busy = [str(hour) for hour in range(10, 19) if str(hour) not in free]
    hour = pick.rng.choice(free if certain or pick.rng.random() < 0.75 else busy)
    customer = pick.customer()
    return {
        "shop": slots[0].shop_id,
        "day": said_day(pick.language, day),
        "hour": hour,
        "hour2": pick.rng.choice([other for other in free if other != hour]),
        "customer": customer.id,
        "name": customer.name,
    }


def _slot_move(pick: _Pick) -> Values | None:
    return _slot_book(pick, certain=True)


def _kb(pick: _Pick) -> Values | None:
    article = pick.rng.choice(pick.rng.choice(pick.scenario.products))
    if article.product == f"P-{article.value}":
        return None  # naming the product would pass for knowing the answer
    french = ARTICLE_TOPICS[article.topic][0]
    articles = {"poids": "le poids"}
    return {
        "product": article.product,
        "topic": french if pick.language == "fr" else article.topic,
        "the_topic": articles.get(french, f"la {french}"),
    }


def _no_tool(pick: _Pick) -> Values | None:
    return {}


def _refuse_other(pick: _Pick) -> Values | None:
    customer = pick.customer()
    relation = pick.rng.choice(wordings.RELATIONS[pick.language])
    return {"customer": customer.id, "email": customer.email, "relation": relation}


def _correct_order(pick: _Pick) -> Values | None:
    status = pick.rng.choice(("processing", "processing", "shipped", "delivered"))
    pair = pick.two_orders(status)
    return {"order": pair[0].id, "order2": pair[1].id} if pair else None


def _move_house(pick: _Pick) -> Values | None:
    fit = [
        c
        for c in pick.scenario.customers
        if len(c.orders) == 2 and any(o.status == "processing" for o in c.orders)
    ]
    if not fit:
        return None
    customer = pick.rng.choice(fit)
    city = pick.rng.choice([c for c in cities(pick.scenario.split) if c != customer.city])
    return {"email": customer.email, "name": customer.name, "city": city}


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A kind of request: its policy, the tools that it takes, likely distractors and its values."""

    area: str
    needs: tuple[str, ...]
    near: tuple[str, ...]
    """Tools of the area that are not needed."""
    values: Callable[[_Pick], Values | None]
    """The wording's values, or None where the scenario has nothing that fits."""


_ORDER_TOOLS = ("get_order", "cancel_order", "change_address", "list_orders")
_ACCOUNT_TOOLS = ("find_customer", "get_customer", "list_orders", "get_order", "list_tickets")

FAMILIES: Mapping[str, Family] = {
    "order_status": Family(
        area="orders", needs=("get_order",), near=_ORDER_TOOLS, values=_order_status
    ),
    "find_order": Family(
        area="accounts",
        needs=("find_customer", "list_orders", "get_order"),
        near=_ACCOUNT_TOOLS,
        values=_find_order,
    ),
    "cancel": Family(
        area="orders",
        needs=("get_order", "cancel_order", "create_ticket"),
        near=_ORDER_TOOLS,
        values=_cancel,
    ),
    "address": Family(
        area="orders",
        needs=("get_order", "change_address", "create_ticket"),
        near=_ORDER_TOOLS,
        values=_address,
    ),
    "two_orders": Family(
        area="orders", needs=("get_order",), near=_ORDER_TOOLS, values=_two_orders
    ),
    "refund": Family(
        area="refunds",
        needs=("get_order", "refund_order"),
        near=("list_orders", "cancel_order"),
        values=_refund,
    ),
    "email_retry": Family(
        area="accounts",
        needs=("find_customer", "list_orders", "get_order"),
        near=_ACCOUNT_TOOLS,
        values=_email_retry,
    ),
    "ticket_new": Family(
        area="tickets",
        needs=("find_customer", "create_ticket"),
        near=("get_ticket", "close_ticket", "list_tickets"),
        values=_ticket_new,
    ),
    "ticket_close": Family(
        area="tickets",
        needs=("get_ticket", "close_ticket"),
        near=("list_tickets", "find_customer"),
        values=_ticket_close,
    ),
    "slot_book": Family(
        area="slots",
        needs=("list_slots", "book_slot"),
        near=("cancel_slot", "get_customer"),
        values=_slot_book,
    ),
    "slot_move": Family(
        area="slots",
        needs=("list_slots", "book_slot", "cancel_slot"),
        near=("get_customer",),
        values=_slot_move,
    ),
    "kb": Family(area="kb", needs=("search_kb", "get_article"), near=("get_order",), values=_kb),
    "no_tool": Family(area="refunds", needs=(), near=_ORDER_TOOLS, values=_no_tool),
    "refuse_other": Family(area="accounts", needs=(), near=_ACCOUNT_TOOLS, values=_refuse_other),
    "correct_order": Family(
        area="orders",
        needs=("get_order", "cancel_order", "create_ticket"),
        near=_ORDER_TOOLS,
        values=_correct_order,
    ),
    "move_house": Family(
        area="accounts",
        needs=("find_customer", "list_orders", "get_order", "change_address"),
        near=("get_customer", "cancel_order"),
        values=_move_house,
    ),
}


def make_tasks(
    split: Split, *, count: int, seed: int, families: Sequence[str] = tuple(FAMILIES)
) -> list[Task]:
    """Return `count` tasks with gold, as even over the families as `count` allows.

    About eight tasks share a scenario, so that a cache meets the same entities again.
    """
    order = seeded(f"desk|families|{split}|{seed}")
    deck: list[str] = []
    while len(deck) < count:
        hand = list(families)
        order.shuffle(hand)
        deck += hand
    return [
        _make_task(split, seed=seed, number=number, family=family)
        for number, family in enumerate(deck[:count])
    ]


def _make_task(split: Split, *, seed: int, number: int, family: str) -> Task:
    rng = seeded(f"desk|task|{split}|{seed}|{number}")
    scenarios = seeded(f"desk|scenario of|{split}|{seed}|{number // TASKS_A_SCENARIO}")
    language = "fr" if rng.random() < FRENCH_SHARE else "en"
    name = _wording_name(rng, split)
    kind = FAMILIES[family]
    held = name not in wordings.TRAIN_SETS
    while True:
        window = scenario(scenarios.choice(_SEED_RANGE[split]))
        pick = _Pick(rng=rng, scenario=window, language=language, held=held)
        # A few tries in the shared scenario before another one is drawn.
        values = next((v for _ in range(4) if (v := kind.values(pick)) is not None), None)
        if values is not None:
            break
    turns = _dress(rng, language, wordings.wording(family, language, name), values)
    area = kind.area
    if family == "no_tool" and name in wordings.THANKS_SETS:
        area = rng.choice(sorted(SYSTEMS))
    calls, rule, state = _gold(window, family, language, turns)
    return Task(
        id=f"desk-{split}-{seed}-{number:05d}",
        split=split,
        family=family,
        language=language,
        wording=name,
        scenario=window.name,
        namespace=NAMESPACE,
        system=SYSTEMS[area],
        user_turns=turns,
        tools=_on_offer(rng, split, area),
        gold=Gold(calls=calls, answer=rule, state=state),
    )


def _wording_name(rng: random.Random, split: Split) -> str:
    held = {
        Split.TRAIN: wordings.TRAIN_SETS,
        Split.DEV: wordings.DEV_SETS,
        Split.TEST: wordings.TEST_SETS,
    }[split]
    use_held = rng.random() < _SHARE_OF_HELD_WORDINGS
    return rng.choice(held if use_held else wordings.TRAIN_SETS)


def _dress(
    rng: random.Random, language: str, wording: tuple[str, ...], values: Values
) -> tuple[str, ...]:
    """Return the wording with its values, and a greeting or thanks around the first turn."""
    opener = rng.choice(wordings.OPENERS[language])
    if "{name}" in opener and "name" not in values:
        opener = ""
    first, *rest = (turn.format(**values) for turn in wording)
    greeted = first.startswith(("Hello", "Customer", "Ici", "Voilà"))
    opener = "" if greeted else opener.format(**values)
    closer = rng.choice(wordings.CLOSERS[language]) if values else ""
    if any(word in first.lower() for word in ("thank", "please", "merci", "s'il vous")):
        closer = ""
    return (f"{opener}{first}{closer}", *rest)


def _on_offer(rng: random.Random, split: Split, area: str) -> tuple[ToolSpec, ...]:
    """Return the four to six tools on offer: all of the area, and distractors, in one of its orders.

    An agent of a real desk has one list of tools for its area, whatever it is asked, so lists repeat: there
    are `LISTS_OF_AREA` of them an area and split. A list suits every family of its area, so it
    does not give away which one is asked for.
    """
    return tool_list(split, area, rng.randrange(LISTS_OF_AREA))


LISTS_OF_AREA = 3
"""Few, so that training can read the tools that many conversations share once."""


@functools.cache
def tool_list(split: Split, area: str, number: int) -> tuple[ToolSpec, ...]:
    """Return one of an area's tool lists."""
    rng = seeded(f"desk|tools|{split.value}|{area}|{number}")
    families = [family for family in FAMILIES.values() if family.area == area]
    names = list(dict.fromkeys(name for family in families for name in family.needs))
    near = list(dict.fromkeys(n for family in families for n in family.near if n not in names))
    rng.shuffle(near)
    size = max(4, len(names) + 1)
    names += near[: max(0, size - 1 - len(names))]
    far = [name for name in SPEC if name not in names and name not in _COSTLY]
    names += rng.sample(far, size - len(names))
    rng.shuffle(names)
    return tuple(SPEC[name] for name in names)


_COSTLY = ("create_ticket", "refund_order", "list_slots")
"""Tools with long enums: on offer only where they are needed, or a small prompt would be full of them."""


def _gold(
    window: Scenario, family: str, language: str, turns: tuple[str, ...]
) -> tuple[tuple[GoldCall, ...], AnswerRule, str]:
    """Do what is right on a fresh desk; return the calls made, the last answer's rule, the state."""
    desk = Desk(window)
    calls: list[GoldCall] = []
    rule = AnswerRule()
    try:
        heard = Hearing(language)
        waiting = list(turns)
        heard.turns.append(waiting.pop(0))
        plan = PLANS[family](heard)
        step, move = 0, next(plan)
        while True:
            results = []
            if isinstance(move, Act):
                for name, arguments in move.calls:
                    calls.append(GoldCall(name=name, arguments=arguments, step=step))
                    results.append(json.loads(run_tool(desk, name, arguments)[0]))
                step += 1
            else:
                rule = AnswerRule(must=move.must, must_not=move.must_not)
                if not waiting:
                    break
                heard.turns.append(waiting.pop(0))
            move = plan.send(results)
        return tuple(calls), rule, desk.fingerprint()
    finally:
        desk.close()
