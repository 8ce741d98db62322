"""What each of BFCL's 128 tools reads and writes, declared by hand from the backends' sources.

A resource is `backend:part`. Every answer depends on the scenario's initial state; a tool that reads
nothing that any tool writes has no effects here. `dice` is the seeded generator that ids and
measurements are drawn from: each draw moves it on.

`tests/suites/test_bfcl_effects.py` runs every gold call and holds the tables to what really changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain

from cacherl.core.tools import Effects

_NONE: tuple[str, ...] = ()


def _all(backend: str, parts: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"{backend}:{part}" for part in parts)


def _readers(backend: str, parts: str, *names: str) -> dict[str, Effects]:
    return {name: Effects(reads=_all(backend, parts.split())) for name in names}


def _writers(backend: str, reads: str, writes: str, *names: str) -> dict[str, Effects]:
    """What a tool writes it also reads: its own answer depends on what was there."""
    seen = dict.fromkeys([*reads.split(), *writes.split()])
    effects = Effects(reads=_all(backend, seen), writes=_all(backend, writes.split()))
    return dict.fromkeys(names, effects)


def _none(*names: str) -> dict[str, Effects]:
    return dict.fromkeys(names, Effects(reads=_NONE, writes=_NONE))


# The working directory and the tree are one thing: every path is relative.
_FILES = {
    **_readers("files", "tree", "pwd", "ls", "cat", "find", "wc", "sort", "grep", "du", "tail"),
    **_readers("files", "tree", "diff"),
    **_writers("files", "", "tree", "cd", "mkdir", "touch", "echo", "mv", "rm", "rmdir", "cp"),
}
_MATH = _none(
    *("logarithm", "mean", "standard_deviation", "si_unit_conversion", "imperial_si_conversion"),
    *("add", "subtract", "multiply", "divide", "power", "square_root", "absolute_value"),
    *("round_number", "percentage", "min_value", "max_value", "sum_values"),
)
_MESSAGES = {
    **_readers("message", "users", "list_users", "get_user_id"),
    **_readers("message", "login", "message_get_login_status"),
    **_readers(
        "message", "login inbox", "view_messages_sent", "search_messages", "get_message_stats"
    ),
    **_writers("message", "users", "login", "message_login"),
    **_writers("message", "", "users", "add_contact"),
    **_writers("message", "login users", "inbox", "send_message"),
    **_writers("message", "login", "inbox", "delete_message"),
}
_TWITTER = {
    **_readers("twitter", "login", "posting_get_login_status"),
    **_readers("twitter", "login following", "list_all_following"),
    **_readers("twitter", "tweets", "get_tweet", "get_user_tweets", "search_tweets"),
    **_readers("twitter", "tweets comments", "get_tweet_comments"),
    **_readers("twitter", "tweets following retweets", "get_user_stats"),
    **_writers("twitter", "", "login", "authenticate_twitter"),
    **_writers("twitter", "login", "tweets", "post_tweet"),
    **_writers("twitter", "", "tweets", "mention"),
    **_writers("twitter", "login tweets", "retweets", "retweet"),
    **_writers("twitter", "login tweets", "comments", "comment"),
    **_writers("twitter", "login", "following", "follow_user", "unfollow_user"),
}
_TICKETS = {
    **_readers("tickets", "queue", "get_ticket"),
    **_readers("tickets", "login", "ticket_get_login_status"),
    **_readers("tickets", "login queue", "get_user_tickets"),
    **_writers("tickets", "", "login", "ticket_login", "logout"),
    **_writers("tickets", "login", "queue", "create_ticket"),
    **_writers("tickets", "", "queue", "close_ticket", "resolve_ticket", "edit_ticket"),
}
_TRADING = {
    **_none("get_current_time", "get_symbol_by_name", "get_stock_info", "get_available_stocks"),
    **_none("filter_stocks_by_price", "notify_price_change"),
    **_readers("trading", "login", "trading_get_login_status"),
    **_readers("trading", "orders", "get_order_details"),
    **_readers("trading", "login orders", "get_order_history"),
    **_readers("trading", "login watchlist", "get_watchlist"),
    **_readers("trading", "login account", "get_account_info", "get_transaction_history"),
    **_writers("trading", "", "login", "trading_login", "trading_logout"),
    **_writers("trading", "", "orders", "cancel_order"),
    **_writers("trading", "login account", "orders", "place_order"),
    **_writers("trading", "", "watchlist", "add_to_watchlist"),
    **_writers("trading", "login", "watchlist", "remove_stock_from_watchlist"),
    # The time of a transaction is drawn; nothing else draws, so the dice are part of the account.
    **_writers("trading", "login", "account", "fund_account", "withdraw_funds"),
}
_TRAVEL = {
    **_none("list_all_airports", "get_nearest_airport_by_city", "compute_exchange_rate"),
    **_none("get_budget_fiscal_year", "get_flight_cost"),
    **_readers("travel", "login", "travel_get_login_status"),
    **_readers("travel", "cards", "get_all_credit_cards"),
    **_readers("travel", "login cards", "get_credit_card_balance"),
    **_readers("travel", "bookings", "contact_customer_support"),
    **_readers("travel", "login bookings", "retrieve_invoice", "get_booking_history"),
    # An age is counted to today.
    "verify_traveler_information": Effects(reads=("travel:login",), open_world=True),
    **_writers("travel", "", "login dice", "authenticate_travel"),
    **_writers("travel", "login", "budget", "set_budget_limit"),
    **_writers("travel", "login", "cards dice", "register_credit_card"),
    **_writers("travel", "login budget", "cards bookings dice", "book_flight"),
    **_writers("travel", "login budget bookings", "cards dice", "purchase_insurance"),
    **_writers("travel", "login", "cards bookings", "cancel_booking"),
}
# Parts are called what `displayCarStatus` calls them.
_VEHICLE = {
    **_none("get_outside_temperature_from_weather_com", "display_log", "liter_to_gallon"),
    **_none("gallon_to_liter", "estimate_distance", "get_zipcode_based_on_city"),
    **_none("check_tire_pressure", "find_nearest_tire_shop"),
    **_readers("vehicle", "{option}", "displayCarStatus"),
    **_readers("vehicle", "fuel", "estimate_drive_feasibility_by_mileage"),
    **_writers("vehicle", "doors brakePedal fuel", "engine", "startEngine"),
    **_writers("vehicle", "", "fuel", "fillFuelTank"),
    **_writers("vehicle", "", "doors", "lockDoors"),
    **_writers("vehicle", "", "climate", "adjustClimateControl"),
    **_writers("vehicle", "", "headlights", "setHeadlights"),
    **_writers("vehicle", "", "parkingBrake", "activateParkingBrake"),
    **_writers("vehicle", "", "brakePedal", "pressBrakePedal", "releaseBrakePedal"),
    **_writers("vehicle", "engine", "cruise", "setCruiseControl"),
    **_writers("vehicle", "", "navigation", "set_navigation"),
    **_writers("vehicle", "", "dice", "get_current_speed", "get_outside_temperature_from_google"),
}

_BACKENDS = (_FILES, _MATH, _MESSAGES, _TWITTER, _TICKETS, _TRADING, _TRAVEL, _VEHICLE)
EFFECTS: Mapping[str, Effects] = dict(chain.from_iterable(b.items() for b in _BACKENDS))
"""By tool name; names are unique over the backends."""
