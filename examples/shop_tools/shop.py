"""A small shop as tools: plain methods of a plain class, with what each one touches."""

from __future__ import annotations

import dataclasses
import datetime
from typing import Any, Literal

from cacherl.toolbox.functions import tool

Status = Literal["processing", "shipped", "delivered", "cancelled"]


@dataclasses.dataclass
class Order:
    """One order."""

    order_id: str
    customer: str
    article: str
    euros: int
    placed: datetime.date
    city: str
    status: Status


def _orders(day: int, changed: dict[str, Status]) -> dict[str, Order]:
    placed = datetime.date(2025, 3, day)
    known = (
        Order("A-1", "mia@mail.example", "kettle", 35, placed, "Bremen", "processing"),
        Order("A-2", "mia@mail.example", "lamp", 60, placed, "Bremen", "shipped"),
        Order("A-3", "omar@mail.example", "desk", 240, placed, "Nantes", "processing"),
        Order("A-4", "lena@mail.example", "chair", 95, placed, "Graz", "delivered"),
    )
    return {
        order.order_id: dataclasses.replace(order, status=changed.get(order.order_id, order.status))
        for order in known
    }


class Shop:
    """The shop of one episode: what it changes, no other episode sees."""

    def __init__(self, orders: dict[str, Order]) -> None:
        self._orders = orders

    @tool(reads=["orders_of:{customer}", "order:*"], writes=[])
    def list_orders(self, customer: str) -> list[Order]:
        """List a customer's orders.

        Args:
            customer: the customer's email address.
        """
        return [order for order in self._orders.values() if order.customer == customer]

    @tool(reads=["order:{order_id}"], writes=[])
    def get_order(self, order_id: str) -> Order:
        """Read one order.

        Args:
            order_id: as printed on the bill, such as A-1.
        """
        if order_id not in self._orders:
            raise LookupError(f"there is no order {order_id}")
        return self._orders[order_id]

    @tool(reads=["order:{order_id}"], writes=["order:{order_id}"])
    def cancel_order(self, order_id: str) -> Order:
        """Cancel an order that is still processing.

        Args:
            order_id: as printed on the bill, such as A-1.
        """
        return self._change(order_id, status="cancelled")

    @tool(reads=["order:{order_id}"], writes=["order:{order_id}"], idempotent=True)
    def send_to(self, order_id: str, city: str) -> Order:
        """Send an order that is still processing to another city.

        Args:
            order_id: as printed on the bill, such as A-1.
            city: the new city.
        """
        return self._change(order_id, city=city)

    def _change(self, order_id: str, **changes: Any) -> Order:
        order = self.get_order(order_id)
        if order.status != "processing":
            raise PermissionError(f"order {order_id} is {order.status}, too late to change it")
        self._orders[order_id] = dataclasses.replace(order, **changes)
        return self._orders[order_id]


def open_tools(scenario: str) -> Shop:
    """Return the shop as an episode finds it; called once an episode."""
    days: dict[str, Shop] = {
        "monday": Shop(_orders(3, {})),
        "friday": Shop(_orders(7, {"A-1": "shipped", "A-2": "delivered"})),
    }
    return days[scenario]
