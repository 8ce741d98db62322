"""The desk as plain Python over SQLite."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from cacherl.core.errors import RecipeError, ToolError
from cacherl.core.messages import ToolCall
from cacherl.core.tools import ErrorClass, Source, Tier
from cacherl.worlds.desk import DeskWorld
from cacherl.worlds.desk.database import Desk, DeskRefusal
from cacherl.worlds.desk.universe import Order, Scenario, scenario


@pytest.fixture
def window() -> Scenario:
    return scenario(7)


@pytest.fixture
def desk(window: Scenario) -> Iterator[Desk]:
    desk = Desk(window)
    yield desk
    desk.close()


def in_status(window: Scenario, status: str) -> Order:
    return next(order for order in window.orders if order.status == status)


def test_a_database_is_built_in_under_five_milliseconds(window: Scenario) -> None:
    """Every rollout opens a fresh one: slow building would be felt in every live run."""
    Desk(window).close()
    times = []
    for seed in range(20):
        other = scenario(seed)
        began = time.perf_counter()
        Desk(other).close()
        times.append(time.perf_counter() - began)

    assert sorted(times)[len(times) // 2] < 0.005


def test_a_customer_can_be_followed_from_email_to_order(desk: Desk, window: Scenario) -> None:
    """The chain that half of the tasks walk."""
    customer = window.customers[0]

    found = desk.find_customer(email=customer.email.upper())
    listed = desk.list_orders(customer_id=found["customer_id"])
    order = desk.get_order(order_id=listed["orders"][0]["order_id"])

    assert order["customer_id"] == customer.id
    assert order["total"] == customer.orders[0].total


def test_a_processing_order_can_be_cancelled_once(desk: Desk, window: Scenario) -> None:
    """Writes change what is read, and refuse what the policy forbids."""
    order = in_status(window, "processing")

    desk.cancel_order(order_id=order.id)

    assert desk.get_order(order_id=order.id)["status"] == "cancelled"
    with pytest.raises(DeskRefusal, match="not processing") as refusal:
        desk.cancel_order(order_id=order.id)
    assert refusal.value.error_class is ErrorClass.PERMISSION


def test_a_refund_is_refused_late_undelivered_or_too_high(desk: Desk) -> None:
    """The tool holds the policy even where an agent does not."""
    for seed in range(30):
        for order in scenario(seed).orders:
            other = Desk(scenario(seed))
            fine = order.status == "delivered" and order.days_ago <= 30
            if fine:
                with pytest.raises(DeskRefusal, match="amount must be"):
                    other.refund_order(order_id=order.id, amount=order.total + 1, reason="late")
                other.refund_order(order_id=order.id, amount=order.total, reason="late")
                assert other.get_order(order_id=order.id)["status"] == "refunded"
            with pytest.raises(DeskRefusal) as refusal:
                other.refund_order(order_id=order.id, amount=order.total, reason="late")
            assert refusal.value.error_class is ErrorClass.PERMISSION
            other.close()


def test_full_text_search_finds_an_article_in_both_languages(desk: Desk, window: Scenario) -> None:
    """French customers ask for the garantie, the articles are in English."""
    article = window.products[0][0]

    english = desk.search_kb(query=f"{article.product} warranty")
    french = desk.search_kb(query=f"garantie {article.product}")
    chatty = desk.search_kb(query=f'what is the "warranty" of {article.product}?')

    assert english["articles"][0]["article_id"] == article.id
    assert french == english
    assert chatty["articles"][0]["article_id"] == article.id
    assert desk.search_kb(query="")["articles"] == []
    assert str(article.value) in desk.get_article(article_id=article.id)["text"]


def test_a_slot_goes_from_free_to_booked_to_free(desk: Desk, window: Scenario) -> None:
    """Moving an appointment relies on all three."""
    slot = next(slot for slot in window.shops[0] if not slot.taken)
    customer = window.customers[0]

    desk.book_slot(slot_id=slot.id, customer_id=customer.id)
    hours = [s["hour"] for s in desk.list_slots(shop_id=slot.shop_id, day=slot.day)["slots"]]
    with pytest.raises(DeskRefusal, match="is taken"):
        desk.book_slot(slot_id=slot.id, customer_id=customer.id)
    desk.cancel_slot(slot_id=slot.id)

    assert slot.hour not in hours
    with pytest.raises(DeskRefusal, match="is not booked"):
        desk.cancel_slot(slot_id=slot.id)


def test_equal_states_have_equal_fingerprints(window: Scenario) -> None:
    """Gold is compared by fingerprint: it must see every write and nothing but writes."""
    one, two = Desk(window), Desk(window)
    before = one.fingerprint()
    one.list_tickets(customer_id=window.customers[0].id)

    assert one.fingerprint() == before == two.fingerprint()

    one.create_ticket(customer_id=window.customers[0].id, topic="account", priority="low")
    assert one.fingerprint() != before
    two.create_ticket(customer_id=window.customers[0].id, topic="account", priority="low")
    assert one.fingerprint() == two.fingerprint()


async def test_failures_are_results_with_a_class(window: Scenario) -> None:
    """A bad call is something the model learns from, never an exception."""
    tools = DeskWorld().open(window.name)
    shipped = in_status(window, "shipped")
    calls = {
        "get_order": ({"order_id": "O-1"}, ErrorClass.NOT_FOUND),
        "cancel_order": ({"order_id": shipped.id}, ErrorClass.PERMISSION),
        "list_slots": ({"shop_id": "B-100", "day": "someday"}, ErrorClass.VALIDATION),
        "fly_to_moon": ({}, ErrorClass.NOT_FOUND),
    }
    for name, (arguments, error) in calls.items():
        result = await tools.call(ToolCall(id="1", name=name, arguments=arguments))
        assert result.is_error
        assert result.error_class is error
        assert result.text.startswith(f'{{"error": "{error.value}", "message": ')
        assert (result.tier, result.source) == (Tier.LIVE, Source.LIVE)
    await tools.aclose()
    await tools.aclose()


def test_wrong_names_are_refused_with_the_right_ones() -> None:
    """The message is all that a person sees at the terminal."""
    with pytest.raises(ToolError, match="such as desk-1"):
        DeskWorld().open("airline-1")
    with pytest.raises(RecipeError, match="There are: order_status"):
        DeskWorld(families=["order_statsu"])
