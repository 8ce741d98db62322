"""One session, without processes: what is written down when calls overlap, fail, or get lost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from cacherl.cache.episodes.ledger import MissPolicy
from cacherl.cache.lookup.tool_cache import ToolCache
from cacherl.cache.safety.redact import Profile
from cacherl.cache.safety.scan import scan_store
from cacherl.core.errors import CacheError, ToolError
from cacherl.core.tools import Tier, ToolSpec
from cacherl.proxy.messages import Failure, Message, MessageId, Notification, Request, Result
from cacherl.proxy.server_note import kept_server
from cacherl.proxy.session import Connect, Plan, Session, played
from tests.proxy.plain_server import Shop


@dataclass
class Screen:
    """A client's side: what it was sent."""

    sent: list[Message] = field(default_factory=list)
    gone: list[MessageId] = field(default_factory=list)

    async def send(self, message: Message, *, related: MessageId | None) -> None:
        self.sent.append(message)

    async def unanswered(self, request: Request) -> None:
        self.gone.append(request.id)

    def has(self, number: MessageId) -> bool:
        return any(isinstance(each, Result) and each.id == number for each in self.sent)

    def reply(self, number: MessageId) -> Any:
        (found,) = (
            each for each in self.sent if isinstance(each, Result | Failure) and each.id == number
        )
        return found.result if isinstance(found, Result) else found.error


class Counter:
    """A shop in this process, whose answers to calls are handed out one by one where a test wants it."""

    def __init__(self) -> None:
        self.shop = Shop()
        self.holding = False
        self.held: dict[MessageId, Message] = {}
        self.seen: list[Message] = []
        self.starts = 0
        self.broken = False

    async def connect(
        self,
        on_message: Callable[[Message], Awaitable[None]],
        on_stop: Callable[[str], Awaitable[None]],
    ) -> Counter:
        if self.broken:
            raise ToolError("the shop is shut")
        self.starts += 1
        self.say, self.stop = on_message, on_stop
        return self

    async def send(self, message: Message) -> None:
        self.seen.append(message)
        if not isinstance(message, Request):
            return
        said = self.shop.answer(
            {"id": message.id, "method": message.method, "params": message.params}
        )
        assert said is not None
        reply: Message = (
            Result(id=message.id, result=said["result"])
            if "result" in said
            else Failure(id=message.id, error=said["error"])
        )
        if self.holding and message.method == "tools/call":
            self.held[message.id] = reply
        else:
            await self.say(reply)

    async def release(self, number: MessageId) -> None:
        await self.say(self.held.pop(number))

    async def dies(self) -> None:
        self.held.clear()
        self.shop = Shop()
        await self.stop("it fell over")

    async def aclose(self) -> None:
        self.held.clear()


HELLO = Request(id=0, method="initialize", params={"protocolVersion": "2025-06-18"})
READY = Notification(method="notifications/initialized")


def call(number: MessageId, tool: str, **arguments: Any) -> Request:
    params = {"name": tool, "arguments": arguments}
    return Request(id=number, method="tools/call", params=params)


async def until(condition: Callable[[], bool]) -> None:
    """Let the others go on until something is so."""
    while not condition():  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0)


async def opened(plan: Plan, connect: Connect | None) -> tuple[Session, Screen]:
    screen = Screen()
    session = Session(plan, screen, connect)
    for message in (HELLO, READY):
        await session.receive(message)
    return session, screen


@pytest.fixture
def cache() -> Any:
    with ToolCache.open(":memory:") as found:
        yield found


def statuses(cache: ToolCache, *calls: Request) -> list[Any]:
    """What a client is told that makes these calls one after the other in a replay."""

    async def run() -> list[Any]:
        session, screen = await opened(Plan(cache=cache, record=False), None)
        for each in calls:
            await session.receive(each)
        await session.aclose()
        return [screen.reply(each.id)["content"][0]["text"] for each in calls]

    return asyncio.run(run())


GET = call(1, "get_order", order_id="A")
CANCEL = call(2, "cancel_order", order_id="A")
AGAIN = call(3, "get_order", order_id="A")


@pytest.mark.parametrize("answers", [(1, 2, 3), (3, 2, 1), (2, 3, 1), (3, 1, 2)])
def test_calls_that_overlap_stand_in_the_order_of_their_requests(
    cache: ToolCache, answers: tuple[int, ...]
) -> None:
    """A replay answers at once, so it meets the calls one after the other, in that order."""

    async def run() -> list[Any]:
        counter = Counter()
        session, screen = await opened(Plan(cache=cache, record=True), counter.connect)
        counter.holding = True
        for each in (GET, CANCEL, AGAIN):
            await session.receive(each)
        for number in answers:
            await counter.release(number)
        await session.aclose()
        return [screen.reply(number)["content"][0]["text"] for number in (1, 2, 3)]

    live = asyncio.run(run())
    assert live == ["paid", "A is off", "cancelled"], "the client has each answer as it came"
    assert statuses(cache, GET, CANCEL, AGAIN) == live


def test_an_answer_waits_for_nothing_but_an_earlier_change(cache: ToolCache) -> None:
    """What the client was told is in the cache; only a change under way before it holds it back."""

    async def run() -> list[int]:
        counter = Counter()
        plan = Plan(cache=cache, record=True)
        session, _ = await opened(plan, counter.connect)
        counter.holding = True
        kept = []
        for each in (GET, CANCEL, AGAIN):
            await session.receive(each)
        for number in (3, 2, 1):
            await counter.release(number)
            kept.append(plan.tally.recorded)
        await session.aclose()
        return kept

    assert asyncio.run(run()) == [0, 2, 3]


def test_a_change_that_was_cancelled_leaves_a_state_that_nothing_is_recorded_in(
    cache: ToolCache,
) -> None:
    """Whether the order is off nobody knows: a read of it now must not pass for either."""

    async def run() -> tuple[Plan, Screen]:
        counter = Counter()
        plan = Plan(cache=cache, record=True)
        session, screen = await opened(plan, counter.connect)
        counter.holding = True
        await session.receive(CANCEL)
        cancel = {"requestId": 2, "reason": "changed my mind"}
        await session.receive(Notification(method="notifications/cancelled", params=cancel))
        counter.holding = False
        for each in (AGAIN, call(4, "get_order", order_id="B")):
            await session.receive(each)
        assert counter.seen[-3] == Notification(method="notifications/cancelled", params=cancel)
        await session.aclose()
        return plan, screen

    plan, screen = asyncio.run(run())
    assert screen.gone == [2]
    asked = {entry.call.canonical for entry in cache.store.entries()}
    assert asked == {b'{"order_id":"B"}'}, "the other order was not touched"
    assert dict(plan.tally.not_recorded) == {
        "cancelled": 1,
        "after a change that may not have happened": 1,
    }


def test_a_server_that_is_started_again_meets_its_client_again(cache: ToolCache) -> None:
    """With the client's own words; and what it may have forgotten is not taken for known."""

    async def run() -> tuple[Plan, Counter, Screen]:
        counter = Counter()
        plan = Plan(cache=cache, record=True)
        session, screen = await opened(plan, counter.connect)
        await session.receive(CANCEL)
        await counter.say(Request(id=77, method="roots/list"))
        await counter.dies()
        await session.receive(AGAIN)
        await session.receive(Result(id=77, result={"roots": []}))
        await session.receive(call(4, "get_order", order_id="B"))
        await session.aclose()
        return plan, counter, screen

    plan, counter, screen = asyncio.run(run())
    assert counter.starts == 2
    hellos = [
        each for each in counter.seen if isinstance(each, Request) and each.params == HELLO.params
    ]
    assert [each.method for each in hellos] == ["initialize", "initialize"]
    assert counter.seen.count(READY) == 2
    assert not any(isinstance(each, Result) for each in counter.seen), "that question is dead"
    told = Notification(
        method="notifications/cancelled",
        params={"requestId": 77, "reason": "the MCP server shop has stopped (it fell over)"},
    )
    assert told in screen.sent
    assert screen.reply(3)["content"][0]["text"] == "paid", "this server has forgotten"
    assert plan.tally.not_recorded["after a change that may not have happened"] == 1
    assert plan.tally.recorded == 2


def test_a_server_that_does_not_come_back_is_an_error_each_time(cache: ToolCache) -> None:
    """No call hangs, and the session goes on when the server does."""

    async def run() -> list[Any]:
        counter = Counter()
        session, screen = await opened(Plan(cache=cache, record=True), counter.connect)
        counter.holding = True
        await session.receive(GET)
        await counter.dies()
        counter.broken = True
        await session.receive(AGAIN)
        await session.receive(Request(id=5, method="resources/read", params={}))
        counter.broken = counter.holding = False
        await session.receive(call(6, "get_order", order_id="A"))
        await session.aclose()
        return [screen.reply(number) for number in (1, 3, 5, 6)]

    died, shut, other, back = asyncio.run(run())
    assert died["isError"] is shut["isError"] is True
    assert "Whether it was done nobody knows" in died["content"][0]["text"]
    assert "the shop is shut" in shut["content"][0]["text"]
    assert other["code"] == -32603
    assert "isError" not in back


def test_what_the_server_says_of_itself_is_kept_whole(cache: ToolCache) -> None:
    """All pages of a list as one, and names that a replay needs."""

    async def run() -> None:
        session, _ = await opened(Plan(cache=cache, record=True), Counter().connect)
        await session.receive(GET)
        await session.aclose()

    asyncio.run(run())
    note = kept_server(cache, "shop")
    assert note is not None
    assert note.initialize is not None
    assert note.initialize["capabilities"]["experimental"] == {"odd": {"x": 1.5}}
    listed = note.lists["tools/list"]
    assert [each["name"] for each in listed["tools"]] == [
        "get_order",
        "cancel_order",
        "environment",
    ]
    assert "nextCursor" not in listed
    assert played(cache) == "shop"


def test_a_redacted_recording_holds_no_secret_anywhere() -> None:
    """In arguments, texts, whole answers, and in what the server says of itself."""
    token = "ghp_" + "a1B2" * 9

    async def run(cache: ToolCache) -> Any:
        counter = Counter()
        session, screen = await opened(Plan(cache=cache, record=True), counter.connect)
        await session.receive(call(1, "get_order", order_id=token))
        await session.aclose()
        return screen.reply(1)

    with ToolCache.on(ToolCache.open(":memory:").store, name="x", redactor=None) as cache:
        from cacherl.cache.safety.redact import Redactor

        cache.redactor = Redactor(Profile(), bytes(range(32)))
        live = asyncio.run(run(cache))
        assert live["structuredContent"]["id"] == token, "the client gets what the server said"
        assert not scan_store(cache.store, "x").findings
        found = statuses(cache, call(1, "get_order", order_id=token))
        assert found == ["paid"], "asked with the real value, it is found"


def test_misses_follow_the_policy_of_each_tool(cache: ToolCache) -> None:
    """Reads may be answered by the nearest, writes by a receipt, and one tool be kept strict."""

    async def record() -> None:
        session, _ = await opened(Plan(cache=cache, record=True), Counter().connect)
        await session.receive(GET)
        await session.receive(CANCEL)
        await session.aclose()

    async def replay(*general: MissPolicy, **by_tool: MissPolicy) -> tuple[Any, Any]:
        plan = Plan(cache=cache, record=False, on_miss=frozenset(general), on_miss_of=by_tool)
        session, screen = await opened(plan, None)
        await session.receive(call(1, "get_order", order_id="B"))
        await session.receive(call(2, "cancel_order", order_id="B"))
        return screen.reply(1), screen.reply(2)

    asyncio.run(record())
    read, write = asyncio.run(replay())
    assert read["isError"] is write["isError"] is True
    assert '{\\"order_id\\":\\"A\\"} (differs in order_id)' in read["content"][0]["text"]
    read, write = asyncio.run(replay(MissPolicy.BEST_EFFORT, MissPolicy.ACKNOWLEDGE))
    assert read["_meta"]["cacherl/tier"] == write["_meta"]["cacherl/tier"] == "best_effort"
    assert read["content"][0]["text"] == "paid"
    read, _ = asyncio.run(replay(MissPolicy.BEST_EFFORT, get_order=MissPolicy.ERROR))
    assert read["_meta"]["cacherl/tier"] == "miss"


def test_what_was_recorded_in_another_state_is_a_miss_unless_asked_for(cache: ToolCache) -> None:
    """The answer from after a write, served where nothing was written, lets a broken agent pass."""

    async def record() -> None:
        session, _ = await opened(Plan(cache=cache, record=True), Counter().connect)
        await session.receive(CANCEL)
        await session.receive(GET)
        await session.aclose()

    async def replay(*policies: MissPolicy) -> Any:
        plan = Plan(cache=cache, record=False, on_miss=frozenset(policies))
        session, screen = await opened(plan, None)
        await session.receive(GET)
        return screen.reply(1)

    asyncio.run(record())
    strict, loose = asyncio.run(replay()), asyncio.run(replay(MissPolicy.BEST_EFFORT))
    assert strict["_meta"]["cacherl/tier"] == "miss"
    assert "recorded after other changes (1 times)" in strict["content"][0]["text"]
    assert loose["_meta"]["cacherl/tier"] == "best_effort"


def test_a_miss_may_run_a_tool_that_reads_and_is_recorded(cache: ToolCache) -> None:
    """A recording grows where it was too small; nothing that writes runs unasked, and nothing twice."""

    async def record(counter: Counter) -> None:
        session, _ = await opened(Plan(cache=cache, record=True), counter.connect)
        await session.receive(GET)
        await session.aclose()

    async def replay(counter: Counter) -> tuple[Plan, list[Any]]:
        plan = Plan(cache=cache, record=False, on_miss=frozenset({MissPolicy.LIVE}))
        session, screen = await opened(plan, counter.connect)
        asked = [GET, call(2, "get_order", order_id="B"), call(3, "cancel_order", order_id="B")]
        for each in asked:
            await session.receive(each)
            await until(partial(screen.has, each.id))
        counter.holding = True
        await session.receive(call(4, "get_order", order_id="C"))
        await until(lambda: 4 in counter.held)
        given_up = Notification(method="notifications/cancelled", params={"requestId": 4})
        await session.receive(given_up)
        await session.receive(call(5, "get_order", order_id="D"))
        await until(lambda: 5 in counter.held)
        await counter.dies()
        await until(lambda: screen.has(5))
        assert given_up in counter.seen
        await session.aclose()
        return plan, [screen.reply(number) for number in (1, 2, 3, 5)]

    asyncio.run(record(Counter()))
    counter = Counter()
    plan, (known, grown, write, died) = asyncio.run(replay(counter))
    assert known["_meta"]["cacherl/tier"] == "exact"
    assert "_meta" not in grown, "the server's own answer stays the server's"
    assert write["isError"] is died["isError"] is True
    assert "has stopped" in died["content"][0]["text"]
    assert counter.shop.cancelled == set()
    assert plan.tally.tiers == {Tier.EXACT: 1, Tier.LIVE: 2, Tier.MISS: 1}
    assert statuses(cache, call(1, "get_order", order_id="B")) == ["paid"]
    assert {entry.call.canonical[-3:-2] for entry in cache.store.entries()} == {b"A", b"B"}


def test_a_server_that_is_down_does_not_keep_recorded_answers_back(cache: ToolCache) -> None:
    """With a miss allowed to run live, what is recorded still needs nobody; then the server is back."""

    async def record() -> None:
        session, _ = await opened(Plan(cache=cache, record=True), Counter().connect)
        await session.receive(GET)
        await session.aclose()

    async def replay() -> list[Any]:
        counter = Counter()
        counter.broken = True
        plan = Plan(cache=cache, record=False, on_miss=frozenset({MissPolicy.LIVE}))
        session, screen = await opened(plan, counter.connect)
        await session.receive(GET)
        await session.receive(call(2, "get_order", order_id="B"))
        counter.broken = False
        await session.receive(call(3, "get_order", order_id="B"))
        await until(lambda: screen.has(3))
        await session.aclose()
        seen = [getattr(each, "method", "") for each in counter.seen]
        assert seen[:2] == ["initialize", "notifications/initialized"]
        return [screen.reply(number) for number in range(4)]

    asyncio.run(record())
    hello, known, missed, grown = asyncio.run(replay())
    assert hello["serverInfo"]["name"] == "shop"
    assert known["_meta"]["cacherl/tier"] == "exact"
    assert missed["isError"] is True
    assert grown["structuredContent"]["id"] == "B"


class Asking(Shop):
    """A shop that asks something back before it answers, as servers of 2026-07-28 do."""

    def result(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        if method == "tools/call" and "inputResponses" not in params:
            return {"resultType": "input_required", "inputRequests": {}, "requestState": "s"}
        return super().result(method, params)


@pytest.mark.parametrize("record", [True, False])
def test_a_question_back_is_not_taken_for_the_answer(cache: ToolCache, record: bool) -> None:
    """It passes, the call is made again with what was asked for, and only that answer is kept."""

    async def run() -> list[Any]:
        counter = Counter()
        counter.shop = Asking()
        live = frozenset({MissPolicy.LIVE})
        plan = Plan(cache=cache, record=record, on_miss=frozenset() if record else live)
        session, screen = await opened(plan, counter.connect)
        await session.receive(GET)
        again = {**(GET.params or {}), "inputResponses": {}, "requestState": "s"}
        await session.receive(Request(id=2, method="tools/call", params=again))
        await until(lambda: screen.has(1) and screen.has(2))
        await session.aclose()
        return [screen.reply(1), screen.reply(2)]

    question, answer = asyncio.run(run())
    assert question == {"resultType": "input_required", "inputRequests": {}, "requestState": "s"}
    assert answer["structuredContent"]["id"] == "A"
    assert statuses(cache, GET) == ["paid"]
    assert sum(len(entry.kept) for entry in cache.store.entries()) == 1


def test_arguments_as_deep_as_the_wire_lets_through_do_no_harm(cache: ToolCache) -> None:
    """Somebody else's odd call must not end everybody's session."""
    deep: Any = "x"
    for _ in range(190):
        deep = [deep]

    async def run(plan: Plan, connect: Connect | None) -> Any:
        session, screen = await opened(plan, connect)
        await session.receive(call(1, "environment", deep=deep))
        await session.aclose()
        return screen.reply(1)

    asyncio.run(run(Plan(cache=cache, record=True), Counter().connect))
    replayed = asyncio.run(run(Plan(cache=cache, record=False), None))
    assert replayed["content"] == [{"type": "text", "text": ""}]


def test_a_cache_that_no_proxy_recorded_can_be_played_too(cache: ToolCache) -> None:
    """Recordings from anywhere make a server: its tools are what was recorded of them."""
    from tests.cache.recordings import GET as SPEC
    from tests.cache.recordings import SPACE, result
    from tests.cache.recordings import call as asked

    made = asked(SPEC, order_id="A-17")
    from cacherl.core.tasks import Split

    cache.record(SPACE, SPEC, made, result(made, "paid"), scenario="s1", split=Split.TEST)

    async def run() -> Screen:
        session, screen = await opened(Plan(cache=cache, record=False), None)
        await session.receive(Request(id=1, method="tools/list"))
        await session.receive(call(2, "get_order", order_id="A-17"))
        for number, method in enumerate(("ping", "prompts/list", "server/discover"), 3):
            await session.receive(Request(id=number, method=method))
        return screen

    screen = asyncio.run(run())
    assert screen.reply(0)["serverInfo"]["name"] == SPACE
    assert [tool["name"] for tool in screen.reply(1)["tools"]] == ["get_order"]
    assert screen.reply(2)["content"] == [{"type": "text", "text": "paid"}]
    assert screen.reply(3) == {}
    assert screen.reply(4)["code"] == screen.reply(5)["code"] == -32601


def test_calls_that_are_none_get_an_error_of_the_protocol(cache: ToolCache) -> None:
    """A client with a fault must not take the proxy down."""

    async def run() -> list[Any]:
        session, _ = await opened(Plan(cache=cache, record=True), Counter().connect)
        await session.receive(GET)
        await session.aclose()
        session, screen = await opened(Plan(cache=cache, record=False), None)
        odd: list[Any] = [None, {}, {"name": 7}, {"name": "get_order", "arguments": [1]}]
        for number, params in enumerate(odd, 1):
            await session.receive(Request(id=number, method="tools/call", params=params))
        return [screen.reply(number)["code"] for number in range(1, 5)]

    assert asyncio.run(run()) == [-32602] * 4


def test_whose_tools_a_cache_plays_must_be_clear(cache: ToolCache) -> None:
    """Two servers in one cache are two names, and the message says them."""
    with pytest.raises(CacheError, match="nothing is recorded"):
        played(cache)
    for name in ("one", "two"):
        cache.store.put_note(f"mcp/{name}/server", b"{}")
    with pytest.raises(CacheError, match="one, two"):
        played(cache)
    with pytest.raises(CacheError, match="nothing of three"):
        played(cache, "three")
    assert played(cache, "two") == "two"


def test_the_summary_counts_by_tier(cache: ToolCache) -> None:
    """A test run can fail on a miss."""
    plan = Plan(cache=cache, record=True)

    async def run() -> None:
        session, _ = await opened(plan, Counter().connect)
        await session.receive(GET)
        await session.receive(call(9, "no_such", order_id="A"))
        await session.aclose()

    asyncio.run(run())
    found = plan.tally.summary(mode="record", cache="c", scenario="s")
    assert (found.calls, found.recorded, found.errors) == (2, 2, 1)
    assert found.tiers == {Tier.LIVE: 2}
    assert found.not_recorded == {}
    assert json.loads(json.dumps(found.namespaces)) == ["shop"]


class Strict(Counter):
    """A shop that answers a tool it does not have as the newer servers do: by a result."""

    async def send(self, message: Message) -> None:
        if isinstance(message, Request) and (message.params or {}).get("name") == "refund":
            self.seen.append(message)
            words = {"type": "text", "text": "Tool refund not found"}
            await self.say(Result(id=message.id, result={"content": [words], "isError": True}))
            return
        await super().send(message)


@pytest.mark.parametrize("server", [Counter, Strict])
def test_a_call_of_a_tool_that_was_never_listed_is_replayed_as_it_was_refused(
    cache: ToolCache, server: type[Counter]
) -> None:
    """A model that makes a name up must be told what it was told live, in the protocol's way or not.

    It changed nothing: what is recorded after it stands where it stood.
    """
    refund = call(1, "refund", order_id="A")
    calls = [refund, call(2, "get_order", order_id="A"), call(3, "cancel_order", order_id="A")]

    async def run(plan: Plan, connect: Connect | None, calls: list[Request]) -> list[Any]:
        session, screen = await opened(plan, connect)
        for each in calls:
            await session.receive(each)
        await session.aclose()
        return [screen.reply(each.id) for each in calls]

    live = asyncio.run(run(Plan(cache=cache, record=True), server().connect, calls))
    quiet = Plan(cache=cache, record=False, meta=False)
    assert asyncio.run(run(quiet, None, calls)) == live
    assert asyncio.run(run(quiet, None, calls[1:])) == live[1:]
    assert "refund" not in [tool.name for tool in _listed(cache)]
    never = [call(4, "refund", order_id="B"), call(5, "invented"), call(6, "")]
    assert [each["code"] for each in asyncio.run(run(quiet, None, never))] == [-32602] * 3


def test_a_tool_that_is_listed_after_it_was_refused_is_what_it_is_listed_as(
    cache: ToolCache,
) -> None:
    """Servers unlock tools as they go; taken for one that may do anything, a read would be missed."""
    read = {"name": "refund", "inputSchema": {}, "annotations": {"readOnlyHint": True}}

    async def run() -> None:
        server = Strict()
        session, screen = await opened(Plan(cache=cache, record=True), server.connect)
        await session.receive(call(1, "refund", order_id="A"))
        server.shop.more.append(read)
        await server.say(Notification(method="notifications/tools/list_changed"))
        await until(lambda: "refund" in [tool.name for tool in _listed(cache)])
        await session.receive(call(2, "refund", order_id="B"))
        await until(partial(screen.has, 2))
        await session.aclose()

    asyncio.run(run())
    spec = cache.store.tools()["shop", "refund"]
    assert not spec.effects.writes


def _listed(cache: ToolCache) -> tuple[ToolSpec, ...]:
    found = kept_server(cache, "shop")
    return () if found is None else found.tools()


def test_a_server_that_ends_before_it_is_ready_is_told_by_its_command(cache: ToolCache) -> None:
    """It has not said its name yet, and who reads this has only configured a command."""

    async def run() -> tuple[Any, list[str]]:
        counter, screen, told = Counter(), Screen(), list[str]()
        plan = Plan(cache=cache, record=True, log=told.append)

        async def send(message: Message) -> None:
            await counter.stop("it closed the connection; its last words: no such folder")

        counter.send = send  # type: ignore[method-assign]
        session = Session(plan, screen, counter.connect, server="shop-server --folder x")
        await session.receive(HELLO)
        await session.aclose()
        return screen.reply(0), told

    error, told = asyncio.run(run())
    words = (
        "the MCP server shop-server --folder x has stopped (it closed the connection; "
        "its last words: no such folder)"
    )
    assert error["message"] == f"{words} before it was ready. Run it by hand to see why"
    assert told == [f"{words}; calls under way: 1"]
