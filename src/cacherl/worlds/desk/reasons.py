"""Why a turn is the right one: the scripted teacher's reasoning, one short sentence a turn.

The sentence says what is known and what follows, and names the values that the turn copies. The same
situation gives the same kind of sentence, so a very small model can learn to say it before it acts. It
speaks of the user in the third person, which tells reasoning from words to the user.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cacherl.core.messages import AssistantMessage, Message, ToolCall, ToolMessage, UserMessage
from cacherl.core.tasks import Task
from cacherl.worlds.desk.hearing import Hearing
from cacherl.worlds.desk.plans import REFUSALS, UNITS, said_day, said_status
from cacherl.worlds.desk.universe import REFUND_DAYS


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """One call and its answer."""

    name: str
    arguments: Mapping[str, Any]
    result: Mapping[str, Any]

    @property
    def failed(self) -> bool:
        return "error" in self.result


class _Evidence:
    """What stands in the messages before a turn."""

    def __init__(self, language: str, before: Sequence[Message], family: str = "") -> None:
        self.heard = Hearing(language)
        self.family = family
        self.seen: list[_Seen] = []
        """All calls so far."""
        self.now: list[_Seen] = []
        """Those since the user last spoke."""
        calls: dict[str, ToolCall] = {}
        for message in before:
            if isinstance(message, UserMessage):
                self.heard.turns.append(message.content)
                self.now = []
            elif isinstance(message, AssistantMessage):
                calls |= {call.id: call for call in message.calls if isinstance(call, ToolCall)}
            elif isinstance(message, ToolMessage) and message.call_id in calls:
                call = calls[message.call_id]
                seen = _Seen(
                    name=call.name, arguments=call.arguments, result=_object(message.content)
                )
                self.seen.append(seen)
                self.now.append(seen)

    def wish(self, order: str) -> str:
        """Return what the user wants of an order, as the start of a sentence.

        It stands before every decision about an order, so that who decides has just said what for.
        """
        family, heard = self.family, self.heard
        if family == "correct_order":
            family = "cancel" if len(heard.turns) > 1 else "order_status"
        if family == "address":
            return heard.pick(
                f"The user sends {order} to {heard.city}",
                f"Le client envoie {order} à {heard.city}",
            )
        verb = {
            "order_status": ("asks about", "demande"),
            "cancel": ("cancels", "annule"),
            "refund": ("returns", "rend"),
        }.get(family, ("has", "a"))
        return heard.pick(f"The user {verb[0]} {order}", f"Le client {verb[1]} {order}")

    def last(self, name: str, **results: Any) -> _Seen | None:
        """Return the last good answer of a tool whose result has these values."""
        for seen in reversed(self.seen):
            same = all(seen.result.get(key) == value for key, value in results.items())
            if seen.name == name and not seen.failed and same:
                return seen
        return None


def _object(text: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {"error": "cut"}
    return value if isinstance(value, dict) else {"error": "no object"}


def explain(task: Task, before: Sequence[Message], turn: AssistantMessage) -> str:
    """Return why `turn` follows `before`, in the task's language and at most 16 words.

    A pure function of what the actor could see: it looks at `before` and at the turn, never at the gold.
    """
    evidence = _Evidence(task.language, before, task.family)
    calls = [call for call in turn.calls if isinstance(call, ToolCall)]
    if calls:
        try:
            return _why_call(evidence, calls)
        except (KeyError, IndexError, TypeError, StopIteration):
            # An odd call (a detour, another agent's trajectory) for which no sentence was written.
            name = calls[0].name
            return evidence.heard.pick(f"The user needs {name}.", f"Le client demande {name}.")
    try:
        return _why_answer(evidence, turn.content)
    except (KeyError, IndexError, TypeError, ValueError, StopIteration):
        return evidence.heard.pick("The user can be answered.", "Le client peut avoir sa réponse.")


def _why_call(evidence: _Evidence, calls: Sequence[ToolCall]) -> str:
    heard, pick = evidence.heard, evidence.heard.pick
    name, arguments = calls[0].name, calls[0].arguments
    ids = [call.arguments[key] for call in calls for key in call.arguments if key == "order_id"]
    english, french = " and ".join(ids), " et ".join(ids)
    many = len(ids) > 1
    match name:
        case "find_customer":
            email = arguments["email"]
            if any(seen.failed for seen in evidence.now):
                return pick(
                    f"The user was not found. Try {email}.",
                    f"Le client est introuvable. Essayer {email}.",
                )
            said = {
                "move_house": ("moves house", "déménage"),
                "ticket_new": ("wants a ticket", "veut un ticket"),
            }.get(evidence.family, ("asks for an order", "cherche une commande"))
            return pick(
                f"The user {said[0]}. Find by {email}.",
                f"Le client {said[1]}. Chercher avec {email}.",
            )
        case "list_orders":
            cid = arguments["customer_id"]
            return pick(f"The user is {cid}: list the orders.", f"Le client est {cid} : lister.")
        case "get_order":
            listed = evidence.last("list_orders")
            if listed is not None and not many and ids[0] not in heard.orders:
                item = next(
                    order["item"]
                    for order in listed.result["orders"]
                    if order["order_id"] == ids[0]
                )
                if item == heard.item:
                    return pick(
                        f"The user's {item} is {english}: read it.",
                        f"Le client veut {item}, donc {french} : lire.",
                    )
            if many:
                return pick(f"The user has {english}: read.", f"Le client a {french} : lire.")
            wish = evidence.wish(english)
            return pick(f"{wish}: read.", f"{wish} : lire.")
        case "cancel_order":
            wish, status = evidence.wish(ids[0]), _order(evidence, ids[0])["status"]
            return pick(
                f"{wish}, {status}: cancel.", f"{wish}, {said_status('fr', status)} : annuler."
            )
        case "change_address":
            for order_id in ids:
                _order(evidence, order_id)
            city = arguments["city"]
            if not many:
                wish = evidence.wish(ids[0])
                return pick(f"{wish}, processing: change.", f"{wish}, en préparation : changer.")
            return pick(
                f"The user's {english} are processing: send to {city}.",
                f"Le client a {french}, en préparation : envoyer à {city}.",
            )
        case "refund_order":
            order, wish = _order(evidence, ids[0]), evidence.wish(ids[0])
            return pick(
                f"{wish}, delivered, {order['days_ago']} days, "
                f"{arguments['reason']}: refund {arguments['amount']}.",
                f"{wish}, livrée, {order['days_ago']} jours, "
                f"{arguments['reason']} : rembourser {arguments['amount']}.",
            )
        case "create_ticket":
            return _why_ticket(evidence, arguments)
        case "get_ticket":
            tid = arguments["ticket_id"]
            return pick(f"The user has {tid}: read.", f"Le client a {tid} : lire.")
        case "close_ticket":
            tid = arguments["ticket_id"]
            known = evidence.last("get_ticket", ticket_id=tid)
            status = known.result["status"] if known else "?"
            return pick(
                f"The user's {tid} is {status}: close it.",
                f"Le client a {tid}, {_said_ticket('fr', status)} : fermer.",
            )
        case "search_kb":
            query = arguments["query"]
            return pick(
                f"The user asks for {query}: search.", f"Le client demande {query} : chercher."
            )
        case "get_article":
            aid = arguments["article_id"]
            return pick(f"The user's article is {aid}: read.", f"Le client cherche {aid} : lire.")
        case "list_slots":
            shop, day = arguments["shop_id"], arguments["day"]
            return pick(
                f"The user wants {shop}, {day}: list the slots.",
                f"Le client veut {shop}, {day} : lister.",
            )
        case "cancel_slot":
            sid = arguments["slot_id"]
            return pick(
                f"The user moves to {heard.hour}: cancel {sid} first.",
                f"Le client passe à {heard.hour} h : annuler {sid} d'abord.",
            )
        case "book_slot":
            sid, cid = arguments["slot_id"], arguments["customer_id"]
            return pick(
                f"The user wants {heard.hour}, free as {sid}: book for {cid}.",
                f"Le client veut {heard.hour} h, libre : {sid} pour {cid}.",
            )
    raise KeyError(name)


def _order(evidence: _Evidence, order_id: str) -> Mapping[str, Any]:
    """Return the order as it was read before; raises KeyError where it was not."""
    seen = evidence.last("get_order", order_id=order_id)
    if seen is None:
        raise KeyError(order_id)
    return seen.result


def _said_ticket(language: str, status: str) -> str:
    return {"open": "ouvert", "closed": "fermé"}.get(status, "?") if language == "fr" else status


def _why_ticket(evidence: _Evidence, arguments: Mapping[str, Any]) -> str:
    pick = evidence.heard.pick
    cid, topic, priority = arguments["customer_id"], arguments["topic"], arguments["priority"]
    order = evidence.last("get_order", customer_id=cid)
    if order is not None:
        status, wish = order.result["status"], evidence.wish(order.result["order_id"])
        return pick(
            f"{wish}, {status}: ticket for {cid}, {topic}, {priority}.",
            f"{wish}, {said_status('fr', status)} : ticket pour {cid}, {topic}, {priority}.",
        )
    urgent = priority == "high"
    return pick(
        f"The user is {cid}, topic {topic}, {'urgent' if urgent else 'not urgent'}: priority {priority}.",
        f"Le client est {cid}, sujet {topic}, {'urgent' if urgent else 'pas urgent'} : priorité {priority}.",
    )


def _why_answer(evidence: _Evidence, answer: str) -> str:
    heard, pick = evidence.heard, evidence.heard.pick
    if not evidence.now:
        return _why_no_call(evidence, answer)
    last = evidence.now[-1]
    if last.failed:
        return pick(
            "The user's request failed: say it.", "Le client doit savoir que cela a échoué."
        )
    result = last.result
    match last.name:
        case "get_order":
            return _why_order_answer(evidence, answer)
        case "cancel_order":
            oid = result["order_id"]
            return pick(
                f"The user's {oid} is cancelled: say it.", f"Le client a {oid} annulée : le dire."
            )
        case "change_address":
            done = [seen.result["order_id"] for seen in evidence.now if seen.name == last.name]
            return pick(
                f"The user's {' and '.join(done)} {'goes' if len(done) == 1 else 'go'} to {result['city']}: say it.",
                f"Le client a {' et '.join(done)} pour {result['city']} : le dire.",
            )
        case "refund_order":
            oid, amount = result["order_id"], result["refunded"]
            return pick(
                f"The user got {amount} back for {oid}: say it.",
                f"Le client récupère {amount} pour {oid} : le dire.",
            )
        case "create_ticket":
            tid = result["ticket_id"]
            order = evidence.last("get_order")
            if order is None:
                return pick(f"The user's ticket is {tid}: say it.", f"Le client a {tid} : le dire.")
            oid, status = order.result["order_id"], order.result["status"]
            return pick(
                f"The user's {oid} is {status}, ticket {tid}: say it.",
                f"Le client a {oid}, {said_status('fr', status)}, et {tid} : le dire.",
            )
        case "close_ticket":
            tid = result["ticket_id"]
            return pick(
                f"The user's {tid} is closed now: say it.",
                f"Le client a {tid} maintenant fermé : le dire.",
            )
        case "get_ticket":
            tid, status = result["ticket_id"], result["status"]
            return pick(
                f"The user's {tid} is {status} already: say it.",
                f"Le client a {tid} déjà {_said_ticket('fr', status)} : le dire.",
            )
        case "get_article":
            value, unit = result["text"].rsplit(": ", 1)[1].split(" ", 1)
            return pick(
                f"The user's answer is {value} {unit}.",
                f"Le client demande : {value} {UNITS.get(unit, unit)}.",
            )
        case "book_slot":
            sid, hour = result["slot_id"], result["hour"]
            day = said_day(heard.language, heard.day)
            return pick(
                f"The user has {sid}, {day} at {hour}: say it.",
                f"Le client a {sid}, {day} à {hour} h : le dire.",
            )
        case "list_slots":
            hours = ", ".join(str(slot["hour"]) for slot in result["slots"])
            return pick(
                f"The user wants {heard.hour}, free are {hours}: name them.",
                f"Le client veut {heard.hour} h, libre : {hours} : le dire.",
            )
    raise KeyError(last.name)


def _why_order_answer(evidence: _Evidence, answer: str) -> str:
    pick = evidence.heard.pick
    read = [seen.result for seen in evidence.now if seen.name == "get_order" and not seen.failed]
    orders = list({order["order_id"]: order for order in read}.values())
    if len(orders) > 1:
        one, two = orders[-2:]
        return pick(
            f"The user's {one['order_id']} is {one['total']}, {two['order_id']} is {two['total']}: say it.",
            f"Le client a {one['order_id']} à {one['total']}, {two['order_id']} à {two['total']} : le dire.",
        )
    order = orders[0]
    oid, status, days = order["order_id"], order["status"], order["days_ago"]
    word = said_status(evidence.heard.language, status)
    refused = any(phrase in answer.lower() for phrase in REFUSALS[evidence.heard.language])
    wish = evidence.wish(oid)
    if refused and status != "delivered":
        return pick(f"{wish}, {status}: refuse.", f"{wish}, {word} : refuser.")
    if refused:
        return pick(
            f"{wish}, {status}, {days} days, over {REFUND_DAYS}: refuse.",
            f"{wish}, {word}, {days} jours, plus de {REFUND_DAYS} : refuser.",
        )
    return pick(f"{wish}, {status}: say it.", f"{wish}, {word} : le dire.")


def _why_no_call(evidence: _Evidence, answer: str) -> str:
    pick = evidence.heard.pick
    if any(phrase in answer.lower() for phrase in REFUSALS[evidence.heard.language]):
        return pick(
            "The user asks for another person's data: refuse.",
            "Le client demande les données d'une autre personne : refuser.",
        )
    if evidence.heard.asks_refund_rule:
        return pick(
            f"The user asks for the rule: {REFUND_DAYS} days, no tool.",
            f"Le client demande la règle : {REFUND_DAYS} jours, pas d'outil.",
        )
    return pick("The user only says thanks: no tool.", "Le client remercie : pas d'outil.")
