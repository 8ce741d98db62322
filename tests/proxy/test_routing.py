"""Which message answers which: ids of both sides, old servers, progress."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cacherl.proxy.messages import MessageId, Notification, Request, Result
from cacherl.proxy.routing import Routes

IDS = st.integers(0, 3) | st.sampled_from(["0", "1", "x"])


class Session(RuleBasedStateMachine):
    """A client and servers that come and go, under few ids, so that they meet."""

    def __init__(self) -> None:
        super().__init__()
        self.routes = Routes()
        self.owed: dict[MessageId, Request] = {}
        self.asking: dict[MessageId, Request] = {}

    @rule(number=IDS, token=st.none() | IDS)
    def client_asks(self, number: MessageId, token: MessageId | None) -> None:
        params = None if token is None else {"_meta": {"progressToken": token}}
        request = Request(id=number, method="tools/call", params=params)
        self.routes.asked(request)
        self.owed.pop(number, None)
        self.owed[number] = request

    @rule(number=IDS)
    def server_answers(self, number: MessageId) -> None:
        """An answer finds the request of exactly its id; `1` and `"1"` are two."""
        assert self.routes.answered(number) == self.owed.pop(number, None)

    @rule(number=IDS)
    def server_asks(self, number: MessageId) -> None:
        request = Request(id=number, method="roots/list")
        self.routes.asks(request)
        self.asking[number] = request

    @rule(number=IDS)
    def client_replies(self, number: MessageId) -> None:
        """A reply goes to the server only if this very server has asked."""
        assert self.routes.replied(number) == (self.asking.pop(number, None) is not None)

    @rule()
    def server_stops(self) -> None:
        """Everybody who waits is known, and nothing of it reaches the next server."""
        owed, asking = self.routes.stopped()
        assert owed == list(self.owed.values())
        assert Counter(each.id for each in asking) == Counter(list(self.asking))
        self.owed.clear()
        self.asking.clear()

    @invariant()
    def what_is_unrelated_belongs_to_the_newest_request(self) -> None:
        newest = next(reversed(self.owed), None)
        assert self.routes.related(Notification(method="notifications/message")) == newest


TestSession = Session.TestCase


@given(st.lists(IDS, unique=True, min_size=1, max_size=5), st.data())
def test_progress_belongs_to_the_request_that_asked_for_it(
    numbers: list[MessageId], data: st.DataObject
) -> None:
    """Over HTTP each call has a stream of its own: progress on another's is lost."""
    routes = Routes()
    for number in numbers:
        meta = {"progressToken": f"of {number!r}"}
        routes.asked(Request(id=number, method="tools/call", params={"_meta": meta}))
    number = data.draw(st.sampled_from(numbers))
    progress = Notification(
        method="notifications/progress", params={"progressToken": f"of {number!r}", "progress": 1}
    )
    assert routes.related(progress) == number
    routes.answered(number)
    assert routes.related(progress) is None


def test_a_reply_belongs_to_its_request() -> None:
    """Whatever else is under way."""
    routes = Routes()
    routes.asked(Request(id=1, method="a"))
    routes.asked(Request(id=2, method="b"))
    assert routes.related(Result(id=1, result={})) == 1
