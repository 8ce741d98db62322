"""Python functions as live tools: what a model is told, what a function gets, what becomes of errors."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import enum
import json
import subprocess
import sys
import textwrap
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from types import GenericAlias
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacherl.core.errors import RecipeError, ToolError
from cacherl.core.functions import arguments_of, bind, spec_of
from cacherl.core.schema import argument_problem
from cacherl.core.sources import Answer
from cacherl.core.tools import UNDECLARED, Effects, ErrorClass
from cacherl.toolbox.functions import FunctionSource, tool, tool_of


class Size(enum.Enum):
    SMALL = "s"
    LARGE = "l"


@dataclasses.dataclass
class Line:
    article: str
    count: int = 1


class Order(msgspec.Struct):
    order_id: str
    placed: datetime.date
    lines: list[Line]


# ---- what a model is told

GOOGLE = """Look orders up.

Slowly, and in the order
in which they were placed.

Args:
    customer: whose orders, by
        number.
    limit (int): how many at most.

Returns:
    The orders.
"""
NUMPY = """Look orders up.

Slowly, and in the order
in which they were placed.

Parameters
----------
customer : str
    whose orders, by
    number.
limit : int, optional
    how many at most.

Returns
-------
list
    The orders.
"""
SPHINX = """Look orders up.

Slowly, and in the order
in which they were placed.

:param str customer: whose orders, by
    number.
:param limit: how many at most.
:returns: The orders.
"""


@pytest.mark.parametrize("docstring", [GOOGLE, NUMPY, SPHINX], ids=["google", "numpy", "sphinx"])
def test_descriptions_come_from_the_docstring_in_any_style(docstring: str) -> None:
    """People have written down already what a model needs to know."""

    def look_up(
        customer: str,
        limit: Annotated[int, msgspec.Meta(ge=1)] = 10,
        state: Annotated[str, msgspec.Meta(description="open or closed")] = "open",
    ) -> None: ...

    look_up.__doc__ = docstring
    spec = tool_of(look_up)
    properties = spec.parameters["properties"]

    assert spec.description == (
        "Look orders up.\n\nSlowly, and in the order\nin which they were placed."
    )
    assert properties["customer"]["description"] == "whose orders, by number."
    assert properties["limit"]["description"] == "how many at most."
    assert properties["limit"]["minimum"] == 1
    assert properties["limit"]["default"] == 10
    assert properties["state"]["description"] == "open or closed"
    assert spec.parameters["required"] == ["customer"]


def test_a_function_without_a_docstring_is_a_tool_too() -> None:
    """Nothing is invented for it."""

    def ping() -> str:
        return "pong"

    spec = tool_of(ping)

    assert (spec.name, spec.description) == ("ping", "")
    assert spec.parameters == {"type": "object", "properties": {}, "required": []}


def test_effects_are_what_the_decorator_says_and_everything_where_it_is_silent() -> None:
    """A tool that does not say what it writes may have written anything."""

    @tool(reads=["order:{order_id}"], writes=[], open_world=True)
    def read(order_id: str) -> str:
        return order_id

    @tool(writes=["order:{order_id}"], idempotent=True, name="cancel_order")
    def cancel(order_id: str) -> str:
        return order_id

    @tool
    def bare() -> None: ...

    assert tool_of(read).effects == Effects(reads=("order:{order_id}",), open_world=True)
    assert tool_of(cancel).name == "cancel_order"
    assert tool_of(cancel).effects == Effects(
        reads=("*",), writes=("order:{order_id}",), idempotent=True
    )
    assert tool_of(bare).effects == UNDECLARED
    assert read("A") == "A"


def test_a_typo_in_the_effects_is_refused() -> None:
    """`order:{id}` of a tool that takes `order_id` would stand for every order there is."""

    @tool(reads=["order:{orderid}"], writes=[])
    def read(order_id: str) -> str:
        return order_id

    with pytest.raises(RecipeError, match="did you mean `order_id`"):
        tool_of(read)
    with pytest.raises(RecipeError, match=r"Write \['\*'\]"):
        tool(reads="*")


# ---- what a function gets

SCALARS: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(-(2**60), 2**60),
    float: st.floats(allow_nan=False, allow_infinity=False),
    str: st.text(st.characters(codec="utf-8")),
    bool: st.booleans(),
    datetime.date: st.dates(),
    datetime.datetime: st.datetimes(timezones=st.just(datetime.UTC)),
    uuid.UUID: st.uuids(),
    Size: st.sampled_from(Size),
    Line: st.builds(Line, st.text(st.characters(codec="utf-8")), st.integers(0, 9)),
    Order: st.builds(
        Order, st.just("A"), st.dates(), st.lists(st.builds(Line, st.just("x")), max_size=2)
    ),
    Literal["a", 1]: st.sampled_from(["a", 1]),
}


@st.composite
def hinted(draw: st.DrawFn) -> tuple[Any, st.SearchStrategy[Any]]:
    """A type hint, and values of it."""
    hint: Any = draw(st.sampled_from(list(SCALARS)))
    values = SCALARS[hint]
    match draw(st.integers(0, 4)):
        case 1:
            return GenericAlias(list, (hint,)), st.lists(values, max_size=3)
        case 2:
            return hint | None, st.none() | values
        case 3:
            return GenericAlias(dict, (str, hint)), st.dictionaries(st.sampled_from("ab"), values)
        case 4:
            return GenericAlias(tuple, (hint, ...)), st.lists(values, max_size=3).map(tuple)
        case _:
            return hint, values


@given(st.data())
def test_a_schema_accepts_what_the_function_accepts(data: st.DataObject) -> None:
    """A model that follows the schema is never refused by the types, nor the other way about."""
    hint, values = data.draw(hinted())

    def takes(value: Any) -> None: ...

    takes.__annotations__ = {"value": hint}
    spec = spec_of(takes)
    value = data.draw(values)
    arguments = msgspec.json.decode(msgspec.json.encode({"value": value}))

    assert argument_problem(spec, arguments) is None
    assert bind(takes, arguments_of(takes, "takes"), arguments) == ([], {"value": value})


@given(st.data())
def test_what_no_type_accepts_no_schema_accepts(data: st.DataObject) -> None:
    """Otherwise a call would pass the loop's check and fail in the tool."""
    hint, _ = data.draw(hinted())
    wrong = data.draw(
        st.recursive(
            st.none() | st.booleans() | st.integers(-9, 9) | st.floats(0.1, 0.9) | st.just("\x00"),
            lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.just("k"), inner),
            max_leaves=3,
        )
    )

    def takes(value: Any) -> None: ...

    takes.__annotations__ = {"value": hint}
    try:
        bind(takes, arguments_of(takes, "takes"), {"value": wrong})
        fits = True
    except msgspec.ValidationError:
        fits = False
    formatted = any(each in repr(hint) for each in ("date", "UUID", "Order"))  # of no JSON type

    if fits or not formatted:
        assert (argument_problem(spec_of(takes), {"value": wrong}) is None) is fits


async def test_a_function_gets_objects_and_its_own_defaults() -> None:
    """Tools are written in Python, not in JSON."""
    seen: list[Any] = []

    def place(
        lines: list[Line],
        when: datetime.date,
        size: Size,
        /,
        *,
        note: str | None = None,
        tags: list[str] = ["new"],  # noqa: B006 - msgspec has no such default, Python has
    ) -> Order:
        seen.extend([lines, when, size, note, tags])
        return Order("A", when, lines)

    source = FunctionSource("shop", [place])
    await source.start()
    answer = await source.call(
        "place", {"lines": [{"article": "shoe", "count": 2.0}], "when": "2024-02-29", "size": "l"}
    )

    assert seen == [[Line("shoe", 2)], datetime.date(2024, 2, 29), Size.LARGE, None, ["new"]]
    assert json.loads(answer.text) == {
        "order_id": "A",
        "placed": "2024-02-29",
        "lines": [{"article": "shoe", "count": 2}],
    }


# ---- answers


async def said(function: Callable[..., Any], arguments: dict[str, Any] | None = None) -> Answer:
    source = FunctionSource("shop", [function])
    (spec,) = await source.start()
    return await source.call(spec.name, arguments or {})


class ResponseError(Exception):
    """As of requests or httpx."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.response = type("Response", (), {"status_code": status})()


class ConnectTimeout(type("TransportError", (Exception,), {})):  # type: ignore[misc]
    """As of httpx, whose exceptions are no kin of Python's own."""


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (KeyError("no order A"), ErrorClass.NOT_FOUND, "no order A"),
        (IndexError("9"), ErrorClass.NOT_FOUND, "9"),
        (FileNotFoundError(2, "No such file", "a.txt"), ErrorClass.NOT_FOUND, "a.txt"),
        (ValueError("7 is too many"), ErrorClass.VALIDATION, "7 is too many"),
        (TypeError("no"), ErrorClass.VALIDATION, "no"),
        (PermissionError("paid already"), ErrorClass.PERMISSION, "paid already"),
        (TimeoutError(), ErrorClass.TRANSIENT, "TimeoutError"),
        (ConnectionResetError("gone"), ErrorClass.TRANSIENT, "gone"),
        (ConnectTimeout("slow"), ErrorClass.TRANSIENT, "slow"),
        (ResponseError(404), ErrorClass.NOT_FOUND, "status 404"),
        (ResponseError(503), ErrorClass.TRANSIENT, "status 503"),
        (RuntimeError("odd \udce9"), ErrorClass.UNKNOWN, "RuntimeError: odd \\udce9"),
        (SystemExit(3), ErrorClass.UNKNOWN, "SystemExit: 3"),
        (StopIteration("x"), ErrorClass.UNKNOWN, "raised StopIteration"),
    ],
    ids=lambda value: repr(value) if isinstance(value, BaseException) else "",
)
@pytest.mark.parametrize("is_async", [False, True])
async def test_an_exception_is_an_answer_with_a_class_and_no_traceback(
    error: BaseException, kind: ErrorClass, words: str, is_async: bool
) -> None:
    """The model must learn from "no such order", and nobody from a lost connection."""

    def plain() -> None:
        raise error

    async def awaited() -> None:
        raise error

    answer = await said(awaited if is_async else plain)

    told = json.loads(answer.text)
    assert answer.error_class is kind
    assert told["error"] == kind
    assert words in told["message"]
    assert "Traceback" not in answer.text
    assert answer.may_have_run
    answer.text.encode()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain words", "plain words"),
        (None, "null"),
        ({"b": 1, "a": {3, 1, 2}}, '{"a":[1,2,3],"b":1}'),
        ([Line("x")], '[{"article":"x","count":1}]'),
        (Size.SMALL, '"s"'),
        ("half \udce9", "half \\udce9"),
    ],
)
async def test_a_result_is_json_and_a_string_is_itself(value: Any, text: str) -> None:
    """The same result is the same bytes in every process."""

    def give() -> Any:
        return value

    assert await said(give) == Answer(text=text)


async def test_what_cannot_be_told_in_json_is_an_answer_that_says_so() -> None:
    """The call has happened: raising would lose it."""

    def give() -> Any:
        return threading.Lock()

    answer = await said(give)

    assert answer.error_class is ErrorClass.UNKNOWN
    assert "JSON cannot hold" in answer.text
    assert answer.may_have_run


@pytest.mark.parametrize(
    ("arguments", "seen"),
    [({}, "a"), ({"a": "x"}, "a"), ({"a": 1, "c": 1}, "c"), ({"a": 1.5}, "a")],
)
async def test_wrong_arguments_never_reach_the_function(
    arguments: dict[str, Any], seen: str
) -> None:
    """And the answer says so, so that even a writer may be tried again."""
    ran: list[int] = []

    def write(a: int, b: int = 0) -> None:
        ran.append(a)

    answer = await said(write, arguments)

    assert answer.error_class is ErrorClass.VALIDATION
    assert f"`{seen}`" in json.loads(answer.text)["message"]
    assert not answer.may_have_run
    assert ran == []


async def test_an_unknown_tool_is_an_answer() -> None:
    """Models invent names."""

    def get_order() -> None: ...

    source = FunctionSource("shop", [get_order])
    await source.start()
    answer = await source.call("get_ordre", {})

    assert answer.error_class is ErrorClass.NOT_FOUND
    assert "did you mean `get_order`" in answer.text
    assert not answer.may_have_run


# ---- threads


async def test_plain_functions_run_side_by_side_and_leave_the_loop_free() -> None:
    """A function that waits must not make the others wait."""
    gate = threading.Barrier(3, timeout=30)

    def meet() -> str:
        return str(gate.wait() >= 0)

    source = FunctionSource("shop", [meet])
    await source.start()

    answers = await asyncio.gather(*(source.call("meet", {}) for _ in range(3)))

    assert [answer.text for answer in answers] == ["True"] * 3


async def test_a_call_that_was_given_up_goes_on_and_the_next_one_runs() -> None:
    """A time limit cannot stop a thread; it must not block the tool for ever either."""
    release, finished = threading.Event(), threading.Event()

    def work(wait: bool) -> str:
        if wait:
            release.wait(30)
            finished.set()
        return "done"

    source = FunctionSource("shop", [work])
    await source.start()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await source.call("work", {"wait": True})
    answer = await source.call("work", {"wait": False})
    release.set()

    assert answer.text == "done"
    assert finished.wait(30)


def test_a_function_that_never_returns_does_not_keep_the_process(tmp_path: Path) -> None:
    """Ctrl-C after a time-out must end the program."""
    (tmp_path / "run.py").write_text(
        textwrap.dedent(
            """
            import asyncio, threading
            from cacherl.toolbox.functions import FunctionSource

            def never() -> None:
                threading.Event().wait()

            async def main() -> None:
                source = FunctionSource("shop", [never])
                await source.start()
                try:
                    async with asyncio.timeout(0.05):
                        await source.call("never", {})
                except TimeoutError:
                    print("given up")

            asyncio.run(main())
            """
        )
    )

    done = subprocess.run(
        [sys.executable, tmp_path / "run.py"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert (done.stdout, done.stderr, done.returncode) == ("given up\n", "", 0)


# ---- modules


def module(folder: Path, text: str, name: str = "shop.py") -> FunctionSource:
    (folder / name).write_text(textwrap.dedent(text))
    return FunctionSource("shop", name, folder=folder, scenario="s1")


async def names(source: FunctionSource) -> list[str]:
    return [spec.name for spec in await source.start()]


async def test_a_module_offers_its_own_public_functions(tmp_path: Path) -> None:
    """Nothing to declare for a first try; what was imported is not its own."""
    (tmp_path / "prices.py").write_text("def price(article: str) -> int:\n    return 7\n")
    source = module(
        tmp_path,
        """
        from __future__ import annotations
        import dataclasses
        from json import dumps
        from prices import price

        @dataclasses.dataclass
        class Line:
            article: str

        def total(lines: list[Line]) -> int:
            return sum(price(line.article) for line in lines)

        def _hidden() -> None: ...
        """,
    )

    assert await names(source) == ["total"]
    assert (await source.call("total", {"lines": [{"article": "x"}]})).text == "7"


async def test_a_module_with_decorated_functions_offers_those(tmp_path: Path) -> None:
    """Helpers stay helpers."""
    source = module(
        tmp_path,
        """
        from cacherl.toolbox.functions import tool

        def helper() -> None: ...

        @tool(name="look", reads=["*"], writes=[])
        async def look_up() -> str:
            return "seen"
        """,
    )

    assert await names(source) == ["look"]
    assert (await source.call("look", {})).text == "seen"


STATEFUL = """
    import sqlite3
    from pathlib import Path
    from cacherl.toolbox.functions import tool

    class Shop:
        def __init__(self, scenario: str) -> None:
            self.scenario = scenario
            self.orders = sqlite3.connect(":memory:")  # works in the thread that opened it only
            self.orders.execute("create table orders (id text primary key)")

        def place(self, order_id: str) -> str:
            '''Place an order.'''
            self.orders.execute("insert into orders values (?)", (order_id,))
            return self.scenario

        def count(self) -> int:
            return self.orders.execute("select count(*) from orders").fetchone()[0]

        async def later(self) -> int:
            return 3

        def close(self) -> None:
            self.orders.close()
            Path(__file__).with_name("closed").write_text(self.scenario)

        def _hidden(self) -> None: ...

        @property
        def explosive(self) -> str:
            raise RuntimeError("a property is no tool")

    def open_tools(scenario: str) -> Shop:
        if scenario == "none":
            raise LookupError("no such scenario")
        return Shop(scenario)
"""


async def test_every_episode_has_an_object_of_its_own(tmp_path: Path) -> None:
    """Real tools have state, and one episode must not see another's."""
    first = module(tmp_path, STATEFUL)
    second = FunctionSource("shop", "shop.py", folder=tmp_path, scenario="s2")

    assert await names(first) == await names(second) == ["place", "count", "later"]
    placed = await asyncio.gather(*(first.call("place", {"order_id": str(n)}) for n in range(5)))
    assert {answer.text for answer in placed} == {"s1"}
    assert (await first.call("count", {})).text == "5"
    assert (await second.call("count", {})).text == "0"
    assert (await first.call("later", {})).text == "3"
    await first.start()
    assert (await first.call("count", {})).text == "0"
    await first.aclose()
    await first.aclose()
    assert (tmp_path / "closed").read_text() == "s1"
    await second.aclose()


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("def broken(:", "shop.py"),
        ("import no_such_module_at_all", "no_such_module_at_all"),
        ("\n\nraise RuntimeError('at import')", "shop.py:3: RuntimeError: at import"),
        ("x = 1", "no function is offered"),
        ("def many(*orders: str) -> None: ...", "many takes"),
        ("def odd(order: NoSuchType) -> None: ...", "NoSuchType"),
        ("def odd(order: 'NoSuchType') -> None: ...", "odd cannot be told as a tool"),
        ("def open_tools(scenario):\n    raise LookupError(scenario)", "open_tools('s1')"),
        (
            "from cacherl.toolbox.functions import tool\n@tool(name='a')\ndef b(): ...\n@tool\ndef a(): ...",
            "two functions are called a",
        ),
    ],
)
async def test_a_module_that_cannot_be_used_says_where_and_why(
    tmp_path: Path, text: str, seen: str
) -> None:
    """One line, with the person's own file and line in it."""
    with pytest.raises(ToolError) as wrong:
        await module(tmp_path, text).start()

    assert seen in str(wrong.value)


async def test_a_missing_module_or_tool_is_named(tmp_path: Path) -> None:
    """A typo in the file."""
    with pytest.raises(ToolError, match=r"shopp\.py: no such module file"):
        await FunctionSource("shop", "shopp.py", folder=tmp_path).start()
    with pytest.raises(ToolError, match="no_such_package"):
        await FunctionSource("shop", "no_such_package.tools", folder=tmp_path).start()
    (tmp_path / "few.py").write_text("def get_order(): ...\ndef other(): ...\n")
    few = FunctionSource("shop", "few.py", folder=tmp_path, only=["get_order"])
    assert await names(few) == ["get_order"]
    with pytest.raises(ToolError, match="did you mean `get_order`"):
        await FunctionSource("shop", "few.py", folder=tmp_path, only=["get_ordre"]).start()
