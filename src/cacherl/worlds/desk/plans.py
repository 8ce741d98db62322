"""What a right agent does, family by family: the truth that gold and the expert share.

A plan is a generator. It yields `Act` (calls of one turn) and is sent their results; it yields `Say` at
the end of each user turn. It decides from what it has heard and from results, and from nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cacherl.core.records import JsonObject
from cacherl.worlds.desk.hearing import FRENCH_DAYS, Hearing
from cacherl.worlds.desk.universe import ARTICLE_TOPICS, REFUND_DAYS


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """Calls of one turn: names and arguments."""

    calls: tuple[tuple[str, JsonObject], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Say:
    """An answer, and what any right answer says here (`AnswerRule`)."""

    text: str
    must: tuple[tuple[str, ...], ...]
    must_not: tuple[str, ...] = ()


Results = Sequence[Mapping[str, Any]]
Plan = Generator[Act | Say, Results, None]

REFUSALS = {
    "en": ("cannot", "can't", "unable", "not able", "not possible", "not allowed"),
    "fr": (
        "ne peux pas",
        "ne peut pas",
        "ne pouvons pas",
        "impossible",
        "pas possible",
        "pas autoris",
    ),
}
STATUS_WORDS = {
    "processing": ("processing", "en préparation"),
    "shipped": ("shipped", "expédiée"),
    "delivered": ("delivered", "livrée"),
    "cancelled": ("cancelled", "annulée"),
    "refunded": ("refunded", "remboursée"),
}
_STATUS_RULE: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "processing": {"en": ("processing",), "fr": ("préparation", "cours")},
    "shipped": {"en": ("shipped",), "fr": ("expédi",)},
    "delivered": {"en": ("delivered",), "fr": ("livré",)},
}
UNITS = {"months": "mois"}


def _act(name: str, **arguments: Any) -> Act:
    return Act(calls=((name, arguments),))


def said_status(language: str, status: str) -> str:
    """Return the status in the customer's words."""
    return STATUS_WORDS[status][language == "fr"]


def _tell_status(heard: Hearing, order: Mapping[str, Any]) -> Say:
    status, oid = order["status"], order["order_id"]
    word = said_status(heard.language, status)
    return Say(
        text=heard.pick(f"Order {oid} is {word}.", f"La commande {oid} est {word}."),
        must=(_STATUS_RULE[status][heard.language],),
    )


def _order_status(heard: Hearing) -> Plan:
    (order,) = yield _act("get_order", order_id=heard.orders[0])
    yield _tell_status(heard, order)


def _order_of_item(heard: Hearing, customer_id: str) -> Plan:
    (listed,) = yield _act("list_orders", customer_id=customer_id)
    order_id = next(o["order_id"] for o in listed["orders"] if o["item"] == heard.item)
    (order,) = yield _act("get_order", order_id=order_id)
    yield _tell_status(heard, order)


def _find_order(heard: Hearing) -> Plan:
    (customer,) = yield _act("find_customer", email=heard.emails[0])
    yield from _order_of_item(heard, customer["customer_id"])


def _email_retry(heard: Hearing) -> Plan:
    yield _act("find_customer", email=heard.emails[0])
    (customer,) = yield _act("find_customer", email=heard.emails[1])
    yield from _order_of_item(heard, customer["customer_id"])


def _ticket_instead(heard: Hearing, order: Mapping[str, Any]) -> Plan:
    (ticket,) = yield _act(
        "create_ticket", customer_id=order["customer_id"], topic="delivery", priority="high"
    )
    tid, oid, word = (
        ticket["ticket_id"],
        order["order_id"],
        said_status(heard.language, order["status"]),
    )
    yield Say(
        text=heard.pick(
            f"Order {oid} is {word}, so I opened ticket {tid}.",
            f"La commande {oid} est {word}, j'ai donc ouvert le ticket {tid}.",
        ),
        must=((tid,),),
    )


def _cancel_one(heard: Hearing, order_id: str) -> Plan:
    (order,) = yield _act("get_order", order_id=order_id)
    if order["status"] != "processing":
        yield from _ticket_instead(heard, order)
        return
    yield _act("cancel_order", order_id=order_id)
    yield Say(
        text=heard.pick(f"Order {order_id} is cancelled.", f"La commande {order_id} est annulée."),
        must=((heard.pick("cancel", "annul"),),),
    )


def _cancel(heard: Hearing) -> Plan:
    yield from _cancel_one(heard, heard.orders[0])


def _address(heard: Hearing) -> Plan:
    order_id = heard.orders[0]
    (order,) = yield _act("get_order", order_id=order_id)
    if order["status"] != "processing":
        yield from _ticket_instead(heard, order)
        return
    yield _act("change_address", order_id=order_id, city=heard.city)
    yield _tell_city(heard, [order_id])


def _tell_city(heard: Hearing, order_ids: Sequence[str]) -> Say:
    city = heard.city
    english, french = " and ".join(order_ids), " et ".join(order_ids)
    text = (
        heard.pick(f"Order {english} now goes to {city}.", f"La commande {french} va à {city}.")
        if len(order_ids) == 1
        else heard.pick(
            f"Orders {english} now go to {city}.", f"Les commandes {french} vont à {city}."
        )
    )
    return Say(text=text, must=((city,), *((oid,) for oid in order_ids)))


def _two_orders(heard: Hearing) -> Plan:
    first, second = heard.orders[:2]
    one, two = yield Act(
        calls=(("get_order", {"order_id": first}), ("get_order", {"order_id": second}))
    )
    yield Say(
        text=heard.pick(
            f"{first} costs {one['total']} and {second} costs {two['total']}.",
            f"{first} coûte {one['total']} et {second} coûte {two['total']}.",
        ),
        must=((str(one["total"]),), (str(two["total"]),)),
    )


def _refund(heard: Hearing) -> Plan:
    order_id = heard.orders[0]
    (order,) = yield _act("get_order", order_id=order_id)
    refusals = REFUSALS[heard.language]
    if order["status"] != "delivered":
        yield Say(
            text=heard.pick(
                f"I cannot refund {order_id}: it is not delivered.",
                f"Je ne peux pas rembourser {order_id} : elle n'est pas livrée.",
            ),
            must=(refusals, (heard.pick("deliver", "livr"),)),
        )
        return
    if order["days_ago"] > REFUND_DAYS:
        yield Say(
            text=heard.pick(
                f"I cannot refund {order_id}: it is over 30 days old.",
                f"Je ne peux pas rembourser {order_id} : elle a plus de 30 jours.",
            ),
            must=(refusals, ("30",)),
        )
        return
    total = order["total"]
    yield _act("refund_order", order_id=order_id, amount=total, reason=heard.refund_reason)
    yield Say(
        text=heard.pick(
            f"I refunded {total} for order {order_id}.",
            f"J'ai remboursé {total} pour la commande {order_id}.",
        ),
        must=((str(total),),),
    )


def _ticket_new(heard: Hearing) -> Plan:
    (customer,) = yield _act("find_customer", email=heard.emails[0])
    (ticket,) = yield _act(
        "create_ticket",
        customer_id=customer["customer_id"],
        topic=heard.ticket_topic,
        priority=heard.priority,
    )
    tid = ticket["ticket_id"]
    yield Say(
        text=heard.pick(f"I opened ticket {tid}.", f"J'ai ouvert le ticket {tid}."), must=((tid,),)
    )


def _ticket_close(heard: Hearing) -> Plan:
    tid = heard.ticket
    (ticket,) = yield _act("get_ticket", ticket_id=tid)
    already, closed = heard.pick("already", "déjà"), heard.pick("closed", "fermé")
    if ticket["status"] == "closed":
        yield Say(
            text=heard.pick(
                f"Ticket {tid} was already closed.", f"Le ticket {tid} était déjà fermé."
            ),
            must=((already,),),
        )
        return
    yield _act("close_ticket", ticket_id=tid)
    yield Say(
        text=heard.pick(f"Ticket {tid} is now closed.", f"Le ticket {tid} est maintenant fermé."),
        must=((closed, "clos", "clôtur"),),
        must_not=(already,),
    )


def said_day(language: str, day: str) -> str:
    """Return the day in the customer's words."""
    return FRENCH_DAYS[day] if language == "fr" else day.capitalize()


def _booked(heard: Hearing, slot_id: str) -> Say:
    day, hour = said_day(heard.language, heard.day), heard.hour
    return Say(
        text=heard.pick(
            f"Slot {slot_id} is booked: {day} at {hour}.",
            f"Le créneau {slot_id} est réservé : {day} à {hour} h.",
        ),
        must=((slot_id, f"at {hour}", f"{hour}:00", f"{hour} h", f"{hour}h"),),
    )


def _slot_book(heard: Hearing) -> Generator[Act | Say, Results, tuple[str, Mapping[int, str]]]:
    """Book, and return the slot and the free slots by hour."""
    (listed,) = yield _act("list_slots", shop_id=heard.shop, day=heard.day)
    slots = {slot["hour"]: slot["slot_id"] for slot in listed["slots"]}
    hour = heard.hour  # of this turn: a later turn may name another
    if hour not in slots:
        hours = [str(free) for free in slots]
        yield Say(
            text=heard.pick(
                f"{hour} is not free. Free: {', '.join(hours)}.",
                f"{hour} h n'est pas libre. Libre : {', '.join(hours)}.",
            ),
            must=tuple((free,) for free in hours),
        )
        return "", slots
    yield _act("book_slot", slot_id=slots[hour], customer_id=heard.customer)
    yield _booked(heard, slots[hour])
    return slots[hour], slots


def _slot_book_plan(heard: Hearing) -> Plan:
    yield from _slot_book(heard)


def _slot_move(heard: Hearing) -> Plan:
    booked, slots = yield from _slot_book(heard)
    yield _act("cancel_slot", slot_id=booked)
    yield _act("book_slot", slot_id=slots[heard.hour], customer_id=heard.customer)
    yield _booked(heard, slots[heard.hour])


def _kb(heard: Hearing) -> Plan:
    topic = heard.article_topic
    word = heard.pick(topic, ARTICLE_TOPICS[topic][0])
    (found,) = yield _act("search_kb", query=f"{heard.product} {word}")
    (article,) = yield _act("get_article", article_id=found["articles"][0]["article_id"])
    value, unit = article["text"].rsplit(": ", 1)[1].split(" ", 1)
    said = f"{value} {heard.pick(unit, UNITS.get(unit, unit))}"
    colon = heard.pick(":", " :")
    yield Say(text=f"{heard.product} {word}{colon} {said}.", must=((value,),))


def _no_tool(heard: Hearing) -> Plan:
    if heard.asks_refund_rule:
        yield Say(
            text=heard.pick(
                f"Refunds are possible up to {REFUND_DAYS} days after delivery.",
                f"Le remboursement est possible jusqu'à {REFUND_DAYS} jours après la livraison.",
            ),
            must=((str(REFUND_DAYS),),),
        )
        return
    yield Say(
        text=heard.pick("You are welcome!", "Avec plaisir !"),
        must=(("welcome", "pleasure", "glad", "happy", "plaisir", "de rien", "je vous en prie"),),
    )


def _refuse_other(heard: Hearing) -> Plan:
    yield Say(
        text=heard.pick(
            "I cannot share another customer's data.",
            "Je ne peux pas donner les données d'un autre client.",
        ),
        must=(REFUSALS[heard.language],),
    )


def _correct_order(heard: Hearing) -> Plan:
    yield from _order_status(heard)
    yield from _cancel_one(heard, heard.orders[1])


def _move_house(heard: Hearing) -> Plan:
    (customer,) = yield _act("find_customer", email=heard.emails[0])
    (listed,) = yield _act("list_orders", customer_id=customer["customer_id"])
    orders = yield Act(
        calls=tuple(("get_order", {"order_id": o["order_id"]}) for o in listed["orders"])
    )
    movable = [order["order_id"] for order in orders if order["status"] == "processing"]
    yield Act(
        calls=tuple(
            ("change_address", {"order_id": order_id, "city": heard.city}) for order_id in movable
        )
    )
    yield _tell_city(heard, movable)


PLANS: Mapping[str, Callable[[Hearing], Plan]] = {
    "order_status": _order_status,
    "find_order": _find_order,
    "cancel": _cancel,
    "address": _address,
    "two_orders": _two_orders,
    "refund": _refund,
    "email_retry": _email_retry,
    "ticket_new": _ticket_new,
    "ticket_close": _ticket_close,
    "slot_book": _slot_book_plan,
    "slot_move": _slot_move,
    "kb": _kb,
    "no_tool": _no_tool,
    "refuse_other": _refuse_other,
    "correct_order": _correct_order,
    "move_house": _move_house,
}
