"""What the customer's words name. The scripted agent knows nothing that is not found here."""

from __future__ import annotations

import re

from cacherl.worlds.desk.universe import (
    ARTICLE_TOPICS,
    CITIES,
    DAYS,
    HELD_CITIES,
    HELD_ITEMS,
    ITEMS,
)

FRENCH_DAYS = dict(zip(DAYS, ("lundi", "mardi", "mercredi", "jeudi", "vendredi"), strict=True))
_EMAIL = re.compile(r"[\w.]+@[\w.]*\w")
_HOUR = re.compile(r"(?<![\w-])1\d(?!\d)")
_DAMAGED = re.compile(r"broken|crack|damage|cassé|abîmé|fendu", re.IGNORECASE)
_LATE = re.compile(r"\blate\b|\btard", re.IGNORECASE)
_DELIVERY = re.compile(r"parcel|colis", re.IGNORECASE)
_ACCOUNT = re.compile(r"log in|password|account|connecter|mot de passe|compte", re.IGNORECASE)


class Hearing:
    """The customer's turns so far, and what they name."""

    def __init__(self, language: str) -> None:
        self.language = language
        self.turns: list[str] = []

    def pick(self, english: str, french: str) -> str:
        """Return the text in the customer's language."""
        return french if self.language == "fr" else english

    @property
    def text(self) -> str:
        """All turns so far."""
        return "\n".join(self.turns)

    def _ids(self, letter: str) -> list[str]:
        return re.findall(rf"\b{letter}-\d{{3,4}}\b", self.text)

    def _named(self, words: tuple[str, ...]) -> str:
        """Return the word that comes last in the text; a correction comes after what it corrects."""
        # `bivase.clark@web.net` is an address: it names no vase.
        text = re.sub(r"\S+@\S+", "", self.text).lower()
        found = [(text.rfind(word.lower()), word) for word in words]
        place, word = max(found)
        return word if place >= 0 else ""

    @property
    def orders(self) -> list[str]:
        """Order ids in the order they were said."""
        return self._ids("O")

    @property
    def customer(self) -> str:
        """The customer id."""
        return self._ids("C")[0]

    @property
    def has_customer(self) -> bool:
        """Whether a customer id was said."""
        return bool(self._ids("C"))

    @property
    def ticket(self) -> str:
        """The ticket id."""
        return self._ids("T")[0]

    @property
    def shop(self) -> str:
        """The shop id."""
        return self._ids("B")[0]

    @property
    def product(self) -> str:
        """The product code."""
        return self._ids("P")[0]

    @property
    def emails(self) -> list[str]:
        """Addresses in the order they were said."""
        return _EMAIL.findall(self.text)

    @property
    def hour(self) -> int:
        """The hour said last."""
        return int(_HOUR.findall(self.text)[-1])

    @property
    def day(self) -> str:
        """The day, in English as the tools have it."""
        said = self._named(DAYS + tuple(FRENCH_DAYS.values()))
        return next((en for en, fr in FRENCH_DAYS.items() if fr == said), said)

    @property
    def city(self) -> str:
        """The city as the shop spells it."""
        return self._named(CITIES + HELD_CITIES)

    @property
    def item(self) -> str:
        """The thing bought."""
        return self._named((*ITEMS, *HELD_ITEMS))

    @property
    def article_topic(self) -> str:
        """What about a product is asked, in English."""
        said = self._named((*ARTICLE_TOPICS, *(fr for fr, _, _ in ARTICLE_TOPICS.values())))
        return next((en for en, (fr, _, _) in ARTICLE_TOPICS.items() if fr == said), said)

    @property
    def ticket_topic(self) -> str:
        """What a complaint is about."""
        if _DELIVERY.search(self.text):
            return "delivery"
        return "account" if _ACCOUNT.search(self.text) else "product"

    @property
    def refund_reason(self) -> str:
        """Why money is asked back."""
        if _DAMAGED.search(self.text):
            return "damaged"
        return "late" if _LATE.search(self.text) else "unwanted"

    @property
    def priority(self) -> str:
        """`high` only where the customer says that it is urgent."""
        return "high" if "urgent" in self.text.lower() else "low"

    @property
    def asks_refund_rule(self) -> bool:
        """Whether refunds are asked about in general."""
        return re.search(r"refund|remboursement|money back", self.text.lower()) is not None
