"""Languages, with the real detector: what is judged, and what is too short to be."""

from __future__ import annotations

import pytest

from cacherl.augment.faults import is_wrong_language, user_language
from cacherl.core.languages import UNDETERMINED, detector, same_language
from cacherl.core.messages import UserMessage

THOUGHTS = {
    "en": "The order was shipped yesterday and cannot be cancelled, so I offer a return instead.",
    "fr": "La commande est partie hier et ne peut plus être annulée, je propose donc un retour.",
    "de": "Die Bestellung wurde gestern verschickt, ich biete dem Kunden also eine Rücksendung an.",
    "es": "El pedido se envió ayer y ya no se puede cancelar, así que ofrezco una devolución.",
    "it": "L'ordine è stato spedito ieri e non si può più annullare, quindi propongo un reso.",
    "nl": "De bestelling is gisteren verzonden en kan niet meer worden geannuleerd, dus ik bied aan.",
    "zh": "这个订单昨天已经发货，不能再取消了，所以我向用户建议办理退货，然后查询退货的运费由谁承担，再把结果告诉用户。",
}


@pytest.mark.parametrize("wanted", THOUGHTS)
def test_a_reason_is_known_by_its_language(wanted: str) -> None:
    """French stays French, and a right one is not thrown away."""
    detect = detector()

    for language, text in THOUGHTS.items():
        assert is_wrong_language(text, wanted, detect) == (language != wanted)


@pytest.mark.parametrize(
    "text",
    [
        "Lookup first.",
        'get_order(order_id=\'A-7123\', verbose=True) -> {"status": "late", "carrier": "UPS"}',
        "order:7123 order:7124 order:7125 customer_id=c_88 https://example.org/a/b?c=d",
    ],
)
def test_what_is_short_or_no_prose_is_not_judged(text: str) -> None:
    """A detector guesses there, and a guess must not cost a trajectory."""
    assert not is_wrong_language(text, "fr", detector())


def test_nothing_is_wrong_where_nobody_knows_the_language() -> None:
    """A conversation in no language at all can still be explained."""
    assert not is_wrong_language(THOUGHTS["en"], UNDETERMINED, detector())


@pytest.mark.parametrize(
    ("said", "language"),
    [
        (("Ou est ma commande ? J'attends depuis deux semaines.",), "fr"),
        (("Where is my parcel?", "It should have been here last week."), "en"),
        (("ok",), UNDETERMINED),
        (("A-7123", "{}"), UNDETERMINED),
        ((), UNDETERMINED),
    ],
)
def test_the_users_language_is_told_by_what_they_said(said: tuple[str, ...], language: str) -> None:
    """Where they said next to nothing, nobody pretends to know."""
    assert user_language([UserMessage(content=text) for text in said], detector()) == language


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("pt-BR", "pt", True), ("no", "nb", True), ("zh_CN", "zh", True), ("en", "fr", False)],
)
def test_tags_of_one_language_are_one(one: str, other: str, same: bool) -> None:
    """A data set that says pt-BR is not answered in the wrong language by Portuguese."""
    assert same_language(one, other) == same
