"""One scenario as an in-memory SQLite database, and what the desk can do with it.

`Desk` is the desk as plain Python: every public method is a tool, takes the tool's arguments and returns
the tool's JSON object, or raises `DeskRefusal`.
"""

from __future__ import annotations

import functools
import hashlib
import re
import sqlite3
from typing import Any

from cacherl.core.records import JsonObject
from cacherl.core.tools import ErrorClass
from cacherl.worlds.desk.universe import ARTICLE_TOPICS, NEW_TICKETS, REFUND_DAYS, Scenario

_SCHEMA = """
CREATE TABLE customers (id TEXT PRIMARY KEY, name TEXT, email TEXT UNIQUE, city TEXT);
CREATE TABLE orders (id TEXT PRIMARY KEY, customer_id TEXT REFERENCES customers, item TEXT,
    status TEXT, total INTEGER, days_ago INTEGER, city TEXT);
CREATE TABLE refunds (order_id TEXT PRIMARY KEY REFERENCES orders, amount INTEGER, reason TEXT);
CREATE TABLE tickets (id TEXT PRIMARY KEY, customer_id TEXT REFERENCES customers, topic TEXT,
    priority TEXT, status TEXT);
CREATE TABLE ticket_ids (id TEXT PRIMARY KEY, customer_id TEXT, place INTEGER);
CREATE TABLE slots (id TEXT PRIMARY KEY, shop_id TEXT, day TEXT, hour INTEGER, customer_id TEXT);
CREATE VIRTUAL TABLE articles USING fts5(article_id UNINDEXED, title, text, keywords);
CREATE INDEX orders_of ON orders (customer_id);
CREATE INDEX tickets_of ON tickets (customer_id);
"""
_WALK_IN = "walk-in"
"""Who holds the slots that were taken before the episode."""
_STATE = ("customers", "orders", "refunds", "tickets", "slots", "articles")


class DeskRefusal(Exception):
    """The desk understood a call and did not do it; `error_class` says why."""

    def __init__(self, error_class: ErrorClass, message: str) -> None:
        super().__init__(message)
        self.error_class = error_class
        self.message = message


def _missing(kind: str, value: str) -> DeskRefusal:
    return DeskRefusal(ErrorClass.NOT_FOUND, f"no {kind} {value}")


def _forbidden(message: str) -> DeskRefusal:
    return DeskRefusal(ErrorClass.PERMISSION, message)


@functools.cache
def _empty() -> bytes:
    """The schema without rows: copying it is ten times faster than making it."""
    connection = sqlite3.connect(":memory:")
    try:
        connection.executescript(_SCHEMA)
        return connection.serialize()
    finally:
        connection.close()


def _build(scenario: Scenario) -> sqlite3.Connection:
    db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    db.deserialize(_empty())
    db.row_factory = sqlite3.Row
    customers = scenario.customers
    db.execute("BEGIN")
    db.executemany(
        "INSERT INTO customers VALUES (?,?,?,?)",
        [(c.id, c.name, c.email, c.city) for c in customers],
    )
    db.executemany(
        "INSERT INTO orders VALUES (?,?,?,?,?,?,?)",
        [
            (o.id, o.customer_id, o.item, o.status, o.total, o.days_ago, o.city)
            for o in scenario.orders
        ],
    )
    db.executemany(
        "INSERT INTO tickets VALUES (?,?,?,?,?)",
        [
            (t.id, t.customer_id, t.topic, t.priority, t.status)
            for c in customers
            for t in c.tickets
        ],
    )
    db.executemany(
        "INSERT INTO ticket_ids VALUES (?,?,?)",
        [(tid, c.id, place) for c in customers for place, tid in enumerate(c.new_tickets)],
    )
    db.executemany(
        "INSERT INTO slots VALUES (?,?,?,?,?)",
        [
            (s.id, s.shop_id, s.day, s.hour, _WALK_IN if s.taken else None)
            for shop in scenario.shops
            for s in shop
        ],
    )
    db.executemany(
        "INSERT INTO articles VALUES (?,?,?,?)",
        [
            (
                a.id,
                f"{a.product} {a.topic}",
                f"{a.product} {a.topic}: {a.value} {a.unit}",
                ARTICLE_TOPICS[a.topic][0],
            )
            for articles in scenario.products
            for a in articles
        ],
    )
    db.execute("COMMIT")
    return db


class Desk:
    """The support desk over one scenario. Not thread-safe; one episode, one desk."""

    def __init__(self, scenario: Scenario) -> None:
        self._db = _build(scenario)

    def close(self) -> None:
        """Drop the database. Safe to call twice."""
        self._db.close()

    def fingerprint(self) -> str:
        """Return a digest (hex) of every row that a tool can read."""
        digest = hashlib.blake2b(digest_size=16)
        for table in _STATE:
            rows = self._db.execute(f"SELECT * FROM {table}")  # noqa: S608 - names from this file
            for row in sorted(map(repr, map(tuple, rows))):
                digest.update(f"{table}{row}\n".encode())
        return digest.hexdigest()

    def _one(self, kind: str, sql: str, key: str) -> dict[str, Any]:
        row = self._db.execute(sql, (key,)).fetchone()
        if row is None:
            raise _missing(kind, key)
        return dict(row)

    def _customer(self, customer_id: str) -> dict[str, Any]:
        return self._one("customer", "SELECT * FROM customers WHERE id = ?", customer_id)

    def _order(self, order_id: str) -> dict[str, Any]:
        return self._one("order", "SELECT * FROM orders WHERE id = ?", order_id)

    def _ticket(self, ticket_id: str) -> dict[str, Any]:
        return self._one("ticket", "SELECT * FROM tickets WHERE id = ?", ticket_id)

    def _slot(self, slot_id: str) -> dict[str, Any]:
        return self._one("slot", "SELECT * FROM slots WHERE id = ?", slot_id)

    # ------------------------------------------------------------------------------- customers

    def find_customer(self, *, email: str) -> JsonObject:
        """Return the id, name and city of the customer with this address."""
        row = self._one(
            "customer with email", "SELECT * FROM customers WHERE email = ?", email.strip().lower()
        )
        return {"customer_id": row["id"], "name": row["name"], "city": row["city"]}

    def get_customer(self, *, customer_id: str) -> JsonObject:
        """Return name, email and city."""
        row = self._customer(customer_id)
        return {"name": row["name"], "email": row["email"], "city": row["city"]}

    # ---------------------------------------------------------------------------------- orders

    def list_orders(self, *, customer_id: str) -> JsonObject:
        """Return item and id of each order."""
        self._customer(customer_id)
        rows = self._db.execute(
            "SELECT item, id FROM orders WHERE customer_id = ? ORDER BY rowid", (customer_id,)
        )
        return {"orders": [{"item": row["item"], "order_id": row["id"]} for row in rows]}

    def get_order(self, *, order_id: str) -> JsonObject:
        """Return everything about one order."""
        row = self._order(order_id)
        return {
            "order_id": row["id"],
            "customer_id": row["customer_id"],
            "item": row["item"],
            "status": row["status"],
            "total": row["total"],
            "days_ago": row["days_ago"],
            "city": row["city"],
        }

    def _changeable(self, order_id: str) -> None:
        status = self._order(order_id)["status"]
        if status != "processing":
            raise _forbidden(f"{order_id} is {status}, not processing")

    def cancel_order(self, *, order_id: str) -> JsonObject:
        """Cancel an order that is still processing."""
        self._changeable(order_id)
        self._db.execute("UPDATE orders SET status = 'cancelled' WHERE id = ?", (order_id,))
        return {"order_id": order_id, "status": "cancelled"}

    def change_address(self, *, order_id: str, city: str) -> JsonObject:
        """Send an order that is still processing to another city."""
        self._changeable(order_id)
        self._db.execute("UPDATE orders SET city = ? WHERE id = ?", (city, order_id))
        return {"order_id": order_id, "city": city}

    def refund_order(self, *, order_id: str, amount: int, reason: str) -> JsonObject:
        """Refund a delivered order, once, up to its total."""
        order = self._order(order_id)
        if order["status"] != "delivered":
            raise _forbidden(f"{order_id} is {order['status']}, not delivered")
        if order["days_ago"] > REFUND_DAYS:
            raise _forbidden(f"{order_id} is older than {REFUND_DAYS} days")
        if not 0 < amount <= order["total"]:
            raise DeskRefusal(ErrorClass.VALIDATION, f"amount must be 1 to {order['total']}")
        self._db.execute("INSERT INTO refunds VALUES (?,?,?)", (order_id, amount, reason))
        self._db.execute("UPDATE orders SET status = 'refunded' WHERE id = ?", (order_id,))
        return {"order_id": order_id, "refunded": amount}

    # --------------------------------------------------------------------------------- tickets

    def create_ticket(self, *, customer_id: str, topic: str, priority: str) -> JsonObject:
        """Open a ticket for a customer."""
        self._customer(customer_id)
        row = self._db.execute(
            "SELECT id FROM ticket_ids WHERE customer_id = ? AND id NOT IN "
            "(SELECT id FROM tickets) ORDER BY place",
            (customer_id,),
        ).fetchone()
        if row is None:
            raise _forbidden(f"{customer_id} has {NEW_TICKETS} new tickets already")
        self._db.execute(
            "INSERT INTO tickets VALUES (?,?,?,?,'open')", (row["id"], customer_id, topic, priority)
        )
        return {"ticket_id": row["id"]}

    def list_tickets(self, *, customer_id: str) -> JsonObject:
        """Return topic and id of each ticket, open or closed."""
        self._customer(customer_id)
        rows = self._db.execute(
            "SELECT topic, id FROM tickets WHERE customer_id = ? ORDER BY rowid", (customer_id,)
        )
        return {"tickets": [{"topic": row["topic"], "ticket_id": row["id"]} for row in rows]}

    def get_ticket(self, *, ticket_id: str) -> JsonObject:
        """Return everything about one ticket."""
        row = self._ticket(ticket_id)
        return {
            "ticket_id": row["id"],
            "customer_id": row["customer_id"],
            "topic": row["topic"],
            "priority": row["priority"],
            "status": row["status"],
        }

    def close_ticket(self, *, ticket_id: str) -> JsonObject:
        """Close an open ticket."""
        if self._ticket(ticket_id)["status"] == "closed":
            raise _forbidden(f"{ticket_id} is already closed")
        self._db.execute("UPDATE tickets SET status = 'closed' WHERE id = ?", (ticket_id,))
        return {"ticket_id": ticket_id, "status": "closed"}

    # -------------------------------------------------------------------------- knowledge base

    def search_kb(self, *, query: str) -> JsonObject:
        """Return up to three articles that hold all the words, else those that hold most."""
        words = [f'"{word}"' for word in re.findall(r"\w+", query)][:12]
        rows: list[sqlite3.Row] = []
        for joint in (" AND ", " OR "):
            if words and not rows:
                rows = self._db.execute(
                    "SELECT title, article_id FROM articles WHERE articles MATCH ? "
                    "ORDER BY rank, article_id LIMIT 3",
                    (joint.join(words),),
                ).fetchall()
        return {
            "articles": [{"title": row["title"], "article_id": row["article_id"]} for row in rows]
        }

    def get_article(self, *, article_id: str) -> JsonObject:
        """Return the text of one article."""
        row = self._one("article", "SELECT * FROM articles WHERE article_id = ?", article_id)
        return {"article_id": article_id, "text": row["text"]}

    # ----------------------------------------------------------------------------------- slots

    def list_slots(self, *, shop_id: str, day: str) -> JsonObject:
        """Return hour and id of each free slot of one day."""
        if self._db.execute("SELECT 1 FROM slots WHERE shop_id = ?", (shop_id,)).fetchone() is None:
            raise _missing("shop", shop_id)
        rows = self._db.execute(
            "SELECT hour, id FROM slots WHERE shop_id = ? AND day = ? AND customer_id IS NULL "
            "ORDER BY hour",
            (shop_id, day),
        )
        return {"slots": [{"hour": row["hour"], "slot_id": row["id"]} for row in rows]}

    def book_slot(self, *, slot_id: str, customer_id: str) -> JsonObject:
        """Book a free slot for a customer."""
        slot = self._slot(slot_id)
        self._customer(customer_id)
        if slot["customer_id"] is not None:
            raise _forbidden(f"{slot_id} is taken")
        self._db.execute("UPDATE slots SET customer_id = ? WHERE id = ?", (customer_id, slot_id))
        return {"slot_id": slot_id, "shop_id": slot["shop_id"], "hour": slot["hour"]}

    def cancel_slot(self, *, slot_id: str) -> JsonObject:
        """Free a booked slot."""
        slot = self._slot(slot_id)
        if slot["customer_id"] is None:
            raise _forbidden(f"{slot_id} is not booked")
        self._db.execute("UPDATE slots SET customer_id = NULL WHERE id = ?", (slot_id,))
        return {"slot_id": slot_id, "shop_id": slot["shop_id"], "status": "free"}
