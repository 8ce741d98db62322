"""Everything that exists in the shop, by split.

Scenarios are windows on one universe per split: customer C-4821 has the same orders wherever she
appears. So the same call means the same thing in every scenario, as it does in one real company,
and a recorded result never contradicts another. Splits share no id at all.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from dataclasses import dataclass

from cacherl.core.tasks import Split

DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday")
TICKET_TOPICS = ("delivery", "product", "account")
REFUND_REASONS = ("damaged", "late", "unwanted")
PRIORITIES = ("low", "high")
REFUND_DAYS = 30
"""Delivered orders older than this are not refunded."""
NEW_TICKETS = 2
"""Tickets that one customer may open during an episode."""

ARTICLE_TOPICS = {
    "warranty": ("garantie", "months", (12, 18, 24, 36, 48, 60)),
    "weight": ("poids", "kg", tuple(range(2, 90))),
    "height": ("hauteur", "cm", tuple(range(20, 220))),
    "power": ("puissance", "watts", tuple(range(30, 900, 10))),
}
"""English word: French word, unit, values."""

ITEMS = {
    "sofa": "m", "vase": "m", "radio": "f", "table": "f", "piano": "m", "robot": "m",
    "kayak": "m", "drone": "m", "parasol": "m", "console": "f", "scanner": "m", "futon": "m",
    "poncho": "m", "trampoline": "m",
}  # fmt: skip
"""What the shop sells: words that English and French share, with their French gender."""
HELD_ITEMS = {"webcam": "f", "kimono": "m", "barbecue": "m", "pergola": "f"}
CITIES = (
    "Lyon", "Nantes", "Lille", "Bordeaux", "Geneva", "Bristol", "Leeds", "Dublin", "Turin",
    "Madrid", "Porto", "Vienna", "Rennes", "Cardiff", "Toulouse", "Hamburg",
)  # fmt: skip
HELD_CITIES = ("Dijon", "Oslo", "Glasgow", "Grenoble", "Seville", "Prague")
_FIRST = (
    "Ana", "Leo", "Mia", "Paul", "Nora", "Hugo", "Emma", "Louis", "Zoe", "Adam", "Lina", "Oscar",
    "Jade", "Theo", "Alice", "Simon", "Ines", "Marc", "Clara", "Victor", "Rose", "Jules", "Eva",
    "Noah", "Sara", "David", "Julia", "Karim", "Elena", "Tom",
)  # fmt: skip
_LAST = (
    "Petit", "Martin", "Brown", "Silva", "Moreau", "Clark", "Rossi", "Weber", "Garnier", "Evans",
    "Lopez", "Blanc", "Young", "Fischer", "Dubois", "Hall", "Costa", "Roux", "Baker", "Leroy",
    "Novak", "Fontaine", "Walsh", "Meyer", "Girard", "Ward", "Marin", "Collin", "Price", "Duval",
)  # fmt: skip
_HELD_FIRST = ("Ivan", "Maud", "Felix", "Nadia", "Boris", "Celine", "Ruth", "Yves")
_HELD_LAST = ("Tanner", "Perrin", "Olsen", "Renard", "Quinn", "Besson", "Lang", "Ferrer")
_ONSETS, _VOWELS = "bcdfgjklmnprstvwz", "aeiou"
_DOMAINS = ("mail.com", "post.fr", "web.net", "inbox.org")

_SPLIT_SHARE = {Split.TRAIN: (0.0, 0.7), Split.DEV: (0.7, 0.8), Split.TEST: (0.8, 1.0)}
_CUSTOMERS = {Split.TRAIN: 2000, Split.DEV: 280, Split.TEST: 560}
_SHOPS = {Split.TRAIN: 400, Split.DEV: 55, Split.TEST: 110}
_PRODUCTS = {Split.TRAIN: 630, Split.DEV: 90, Split.TEST: 180}
DEV_FROM, TEST_FROM = 200_000, 300_000
"""Scenario seeds from here on show the dev and the test universe."""


def seeded(text: str) -> random.Random:
    """Return a generator that gives the same draws for the same text, on every machine."""
    return random.Random(text)  # noqa: S311 - reproducible worlds, no secrets


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """An order as it stands when an episode begins."""

    id: str
    customer_id: str
    item: str
    status: str
    """`processing`, `shipped` or `delivered`; an episode can add `cancelled` and `refunded`."""
    total: int
    days_ago: int
    """Days since delivery, or since the order was placed where it is not delivered."""
    city: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """A ticket as it stands when an episode begins."""

    id: str
    customer_id: str
    topic: str
    priority: str
    status: str
    """`open` or `closed`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Customer:
    """A customer, with everything that is hers."""

    id: str
    name: str
    email: str
    city: str
    orders: tuple[Order, ...]
    """One to three, of different items."""
    tickets: tuple[Ticket, ...]
    new_tickets: tuple[str, ...]
    """The ids her next tickets will get, in order: they depend on her alone, not on the scenario."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """An hour at a shop that can be booked."""

    id: str
    shop_id: str
    day: str
    hour: int
    """10 to 18."""
    taken: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Article:
    """One fact of the knowledge base about one product."""

    id: str
    product: str
    topic: str
    value: int
    unit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Universe:
    """Everything that exists in one split."""

    customers: tuple[Customer, ...]
    shops: tuple[tuple[Slot, ...], ...]
    """The slots of each shop, by day and hour."""
    products: tuple[tuple[Article, ...], ...]
    """The articles of each product, one a topic."""
    emails: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """The window on the universe that one database holds."""

    name: str
    split: Split
    customers: tuple[Customer, ...]
    shops: tuple[tuple[Slot, ...], ...]
    products: tuple[tuple[Article, ...], ...]

    @property
    def orders(self) -> Iterator[Order]:
        """Every order, customer by customer."""
        return (order for customer in self.customers for order in customer.orders)


def _ids(letter: str, low: int, high: int, split: Split) -> Iterator[str]:
    numbers = list(range(low, high))
    seeded(f"desk|ids|{letter}").shuffle(numbers)
    start, end = _SPLIT_SHARE[split]
    return (f"{letter}-{n}" for n in numbers[int(start * len(numbers)) : int(end * len(numbers))])


def cities(split: Split) -> tuple[str, ...]:
    """Return the cities of a split; training never sees `HELD_CITIES`."""
    return CITIES if split is Split.TRAIN else CITIES[:6] + HELD_CITIES


def _items(split: Split) -> tuple[str, ...]:
    return tuple(ITEMS) if split is Split.TRAIN else (*tuple(ITEMS)[:8], *HELD_ITEMS)


def email_of(rng: random.Random, first: str, last: str) -> str:
    """Return an address such a person could have; half of them are made-up handles.

    Handles keep a model from learning names by heart where it must learn to copy.
    """
    number = rng.randrange(2, 99)
    handle = "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(rng.choice((2, 3))))
    named = (f"{first}.{last}", f"{first}{number}", f"{last}{number}")
    local = rng.choice((*named, f"{handle}{number}", f"{handle}.{last}", f"{first}_{handle}"))
    return f"{local}@{rng.choice(_DOMAINS)}".lower()


@functools.cache
def universe(split: Split) -> Universe:
    """Return the split's universe; made once a process, the same on every machine."""
    rng = seeded(f"desk|universe|{split}")
    held = split is not Split.TRAIN
    firsts = _FIRST[:10] + _HELD_FIRST if held else _FIRST
    lasts = _LAST[:10] + _HELD_LAST if held else _LAST
    ids = {k: _ids(k, 1000, 10000, split) for k in "COTSA"}
    taken = {
        email
        for other in list(Split)[: list(Split).index(split)]
        for email in universe(other).emails
    }
    emails: set[str] = set()

    def customer() -> Customer:
        cid = next(ids["C"])
        first, last = rng.choice(firsts), rng.choice(lasts)
        email = email_of(rng, first, last)
        while email in emails or email in taken:
            email = email_of(rng, first, last)
        emails.add(email)
        city = rng.choice(cities(split))
        items = rng.sample(_items(split), rng.choices((1, 2, 3), (30, 50, 20))[0])
        return Customer(
            id=cid,
            name=f"{first} {last}",
            email=email,
            city=city,
            orders=tuple(order(cid, item, city) for item in items),
            tickets=tuple(ticket(cid) for _ in range(rng.choice((0, 0, 1, 1, 1)))),
            new_tickets=tuple(next(ids["T"]) for _ in range(NEW_TICKETS)),
        )

    def order(customer_id: str, item: str, city: str) -> Order:
        status = rng.choices(("processing", "shipped", "delivered"), (45, 20, 35))[0]
        days = rng.randrange(1, 10)
        if status == "delivered":
            # Well away from the limit on either side: nobody should have to argue about day 30.
            days = rng.randrange(2, 27) if rng.random() < 0.6 else rng.randrange(41, 99)
        return Order(
            id=next(ids["O"]),
            customer_id=customer_id,
            item=item,
            status=status,
            total=rng.randrange(15, 480),
            days_ago=days,
            city=city,
        )

    def ticket(customer_id: str) -> Ticket:
        return Ticket(
            id=next(ids["T"]),
            customer_id=customer_id,
            topic=rng.choice(TICKET_TOPICS),
            priority=rng.choice(PRIORITIES),
            status=rng.choice(("open", "open", "closed")),
        )

    def shop(shop_id: str) -> tuple[Slot, ...]:
        return tuple(
            Slot(id=next(ids["S"]), shop_id=shop_id, day=day, hour=hour, taken=rng.random() < 0.2)
            for day in DAYS
            for hour in sorted(rng.sample(range(10, 19), 3))
        )

    def product(code: str) -> tuple[Article, ...]:
        return tuple(
            Article(
                id=next(ids["A"]), product=code, topic=topic, value=rng.choice(values), unit=unit
            )
            for topic, (_, unit, values) in ARTICLE_TOPICS.items()
        )

    shop_ids, codes = _ids("B", 100, 1000, split), _ids("P", 100, 1000, split)
    return Universe(
        customers=tuple(customer() for _ in range(_CUSTOMERS[split])),
        shops=tuple(shop(next(shop_ids)) for _ in range(_SHOPS[split])),
        products=tuple(product(next(codes)) for _ in range(_PRODUCTS[split])),
        emails=frozenset(emails),
    )


@functools.cache
def known_emails() -> frozenset[str]:
    """Return every address of every split: one outside them belongs to nobody anywhere."""
    return frozenset().union(*(universe(split).emails for split in Split))


def split_of(seed: int) -> Split:
    """Return the split whose universe the scenario seed shows."""
    if seed < DEV_FROM:
        return Split.TRAIN
    return Split.DEV if seed < TEST_FROM else Split.TEST


@functools.lru_cache(maxsize=256)
def scenario(seed: int) -> Scenario:
    """Return the window `desk-<seed>`: 12 customers, 2 shops, 3 products."""
    split = split_of(seed)
    everything = universe(split)
    rng = seeded(f"desk|scenario|{seed}")
    return Scenario(
        name=f"desk-{seed}",
        split=split,
        customers=tuple(rng.sample(everything.customers, 12)),
        shops=tuple(rng.sample(everything.shops, 2)),
        products=tuple(rng.sample(everything.products, 3)),
    )
