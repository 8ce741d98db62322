"""Python functions as live tools: type hints are the schema, docstrings are the description.

    from cacherl.toolbox.functions import tool

    @tool(reads=["order:{order_id}"], writes=[])
    def get_order(order_id: str) -> Order:
        '''Read one order.'''

A module whose tools share state defines `open_tools(scenario)`; the public methods of what it returns
are the tools, and every episode gets an object of its own.
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import importlib
import importlib.util
import inspect
import queue
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, overload

import docstring_parser
import msgspec

from cacherl.core.errors import RecipeError, ToolError
from cacherl.core.functions import arguments_of, bind, spec_of
from cacherl.core.records import JsonObject
from cacherl.core.sources import Answer
from cacherl.core.tools import UNDECLARED, Effects, ErrorClass, ToolSpec
from cacherl.toolbox.config import did_you_mean, effects_problem
from cacherl.toolbox.failures import exception_answer, printable, refused

F = TypeVar("F", bound=Callable[..., Any])

OPENER = "open_tools"
"""The function of a module that makes the object whose methods are the tools of one episode."""

CLOSE_S = 5.0
"""How long `aclose` waits for a call that still runs; its thread is then left to itself."""

_MARK = "__cacherl_tool__"
_OWN = frozenset({"close", "aclose"})  # of an opened object: how it ends, no tools


# ---- declaring ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Declared:
    name: str | None
    effects: Effects


@overload
def tool(function: F, /) -> F: ...
@overload
def tool(
    *,
    name: str | None = None,
    reads: Sequence[str] | None = None,
    writes: Sequence[str] | None = None,
    idempotent: bool = False,
    open_world: bool = False,
) -> Callable[[F], F]: ...
def tool(
    function: F | None = None,
    /,
    *,
    name: str | None = None,
    reads: Sequence[str] | None = None,
    writes: Sequence[str] | None = None,
    idempotent: bool = False,
    open_world: bool = False,
) -> F | Callable[[F], F]:
    """Offer a function as a tool, and say what it touches. The function itself stays as it is.

    In a module with one decorated function, only decorated ones are offered.

    Args:
        function: for `@tool` without arguments.
        name: what the tool is called; the function's name unless told.
        reads: resources such as `order:{order_id}`; everything unless told.
        writes: the same; `[]` for a function that changes nothing, everything unless told.
        idempotent: writing twice in a row leaves what writing once leaves.
        open_world: what it reads also changes by itself.
    """
    for given in (reads, writes):
        if isinstance(given, str):
            raise RecipeError(f"@tool: {given!r} is one string. Write [{given!r}].")

    def mark(function: F) -> F:
        effects = Effects(
            reads=UNDECLARED.reads if reads is None else tuple(reads),
            writes=UNDECLARED.writes if writes is None else tuple(writes),
            idempotent=idempotent,
            open_world=open_world,
        )
        setattr(function, _MARK, _Declared(name=name, effects=effects))
        return function

    return mark if function is None else mark(function)


def tool_of(function: Callable[..., Any]) -> ToolSpec:
    """Return a function as a tool: schema, description and effects.

    Descriptions come from the docstring (Google, NumPy or Sphinx style); one that stands in the
    annotation (`Annotated[str, msgspec.Meta(description=...)]`) wins.

    Raises:
        RecipeError: it cannot be told as a tool, or its effects name a parameter it lacks.
    """
    declared = getattr(function, _MARK, None) or _Declared(name=None, effects=UNDECLARED)
    spec = spec_of(function, name=declared.name, effects=declared.effects)
    spec = described(spec, inspect.getdoc(function) or "")
    problem = effects_problem(spec)
    if problem is not None:
        raise RecipeError(f"{spec.name}: {problem}. Correct the name in braces.")
    return spec


def described(spec: ToolSpec, docstring: str) -> ToolSpec:
    """Return a tool with the descriptions that a docstring gives it and its parameters."""
    try:
        parsed = docstring_parser.parse(docstring)
    except docstring_parser.ParseError:
        return spec
    parts = [part.strip() for part in (parsed.short_description, parsed.long_description) if part]
    told: dict[str, str] = {}
    for each in parsed.params:
        for name in each.arg_name.split(","):  # NumPy: `a, b : int`
            told[name.strip()] = " ".join((each.description or "").split())
    properties: JsonObject = {
        name: schema
        if "description" in schema or not told.get(name)
        else {**schema, "description": told[name]}
        for name, schema in spec.parameters.get("properties", {}).items()
    }
    return msgspec.structs.replace(
        spec,
        description="\n\n".join(parts) or spec.description,
        parameters={**spec.parameters, "properties": properties},
    )


# ---- finding -----------------------------------------------------------------------------------

_LOADING = threading.RLock()  # a module may load another one


def load_module(module: str, folder: Path) -> ModuleType:
    """Return a module by file (`shop.py`, from `folder`) or by dotted name. Loaded once a process.

    `folder` joins the end of `sys.path`, so that the module finds its neighbours.

    Raises:
        ToolError: there is none, or it fails to load; says where.
    """
    folder = folder.resolve()
    with _LOADING:
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
        try:
            if module.endswith(".py"):
                return _file_module((folder / module).resolve())
            return importlib.import_module(module)
        except ToolError:
            raise
        except (Exception, SystemExit) as error:
            raise ToolError(
                f"the module {module} cannot be loaded (folder {folder}): {_last_place(error)}"
                f"{type(error).__name__}: {error}. Correct it there, correct `module`, or install "
                "what it needs."
            ) from error


def _file_module(path: Path) -> ModuleType:
    name = f"cacherl_tools_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    if not path.is_file():
        raise ToolError(f"{path}: no such module file. Correct `module`.")
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None:
        raise ToolError(f"{path}: not a Python file. Correct `module`.")
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module  # dataclasses and string annotations look their module up there
    try:
        found.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _last_place(error: BaseException) -> str:
    """Return `file:line: ` of the user's own code, where the error came from there."""
    trace, place = error.__traceback__, ""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not file.startswith("<frozen") and file != __file__ and "importlib" not in file:
            place = f"{file}:{trace.tb_lineno}: "
        trace = trace.tb_next
    return place


def functions_in(module: ModuleType) -> list[Callable[..., Any]]:
    """Return the functions that a module offers, in the order of the file.

    Those decorated; in a module without any, and without `open_tools`, its own public ones.
    """
    decorated = {id(value): value for value in vars(module).values() if _is_marked(value)}
    if decorated or OPENER in vars(module):
        return list(decorated.values())
    return [
        value
        for name, value in vars(module).items()
        if inspect.isfunction(value)
        and value.__module__ == module.__name__
        and not name.startswith("_")
    ]


def methods_of(opened: object) -> list[Callable[..., Any]]:
    """Return the methods that an opened object offers: those decorated, else the public ones."""
    names: dict[str, None] = {}
    for kind in reversed(type(opened).__mro__):
        for name, value in vars(kind).items():
            if inspect.isfunction(value) or isinstance(value, staticmethod | classmethod):
                names[name] = None
    public = [
        getattr(opened, name) for name in names if not name.startswith("_") and name not in _OWN
    ]
    return [method for method in public if _is_marked(method)] or public


def _is_marked(value: Any) -> bool:
    # Not getattr alone: a mock or a proxy has every attribute.
    return callable(value) and isinstance(getattr(value, _MARK, None), _Declared)


# ---- calling -----------------------------------------------------------------------------------


class _Worker:
    """One daemon thread that runs what it is given, one after the other.

    Not a `ThreadPoolExecutor`: a function that never returns would keep the process from ending.
    """

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def stop(self) -> None:
        """End after what was given so far."""
        self._jobs.put(None)

    async def run(self, function: Callable[[], Any]) -> Any:
        """Return or raise what the function does. Cancelled before it began, it never runs."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()
        context = contextvars.copy_context()

        def job() -> None:
            if done.cancelled():
                return
            outcome: tuple[Any, BaseException | None]
            try:
                outcome = context.run(function), None
            except BaseException as error:  # noqa: BLE001 - it is raised where it is awaited
                outcome = None, error
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(_settle, done, outcome)

        self._jobs.put(job)
        value, error = await done
        if error is not None:
            raise error
        return value


def _settle(
    done: asyncio.Future[tuple[Any, BaseException | None]],
    outcome: tuple[Any, BaseException | None],
) -> None:
    if not done.done():
        done.set_result(outcome)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Function:
    function: Callable[..., Any]
    spec: ToolSpec
    takes: type[msgspec.Struct]
    is_async: bool


class FunctionSource:
    """Python functions as a source of live tools (`ToolSource`).

    Arguments reach a function in its hinted types, results come back as JSON (a string as it is), an
    exception is an error answer. An async function is awaited. A plain one runs in a thread, and no
    time limit can stop a thread: a call that was given up may still take effect.

    Functions of a module may run at the same time. The methods of an object that `open_tools` made run
    one after the other, in one thread, the one it was made in (SQLite connections insist).

    Args:
        name: what the source is called.
        module: a file (`shop.py`) or a dotted module; or the functions themselves.
        folder: where a file, or a dotted module's package, lies.
        scenario: passed to `open_tools`.
        only: the tools to offer; all of them unless told.
    """

    def __init__(
        self,
        name: str,
        module: str | Sequence[Callable[..., Any]],
        *,
        folder: Path = Path(),
        scenario: str = "",
        only: Iterable[str] = (),
    ) -> None:
        self._name = name
        self._module = module
        self._folder = folder
        self._scenario = scenario
        self._only = tuple(only)
        self._functions: dict[str, _Function] = {}
        self._opened: object | None = None
        self._opens = False
        self._worker: _Worker | None = None

    @property
    def name(self) -> str:
        return self._name

    @property
    def lasting(self) -> str:
        """Why its state outlives an episode, once started, and what to write; nothing if it does not."""
        if self._opens:
            return ""
        return (
            f"its module has no {OPENER}(scenario). Write one that makes an episode's own state, or say "
            f"`resets = true` under [python.{self._name}] if its functions keep none."
        )

    async def start(self) -> Sequence[ToolSpec]:
        """Load the module, open its state if it has any, and return its tools.

        Raises:
            ToolError: the module or `open_tools` fails, there is no tool, or a function is no tool.
        """
        await self.aclose()
        try:
            functions = await self._found()
            self._functions = _told(functions, self._name, self._only)
        except BaseException:
            await self.aclose()
            raise
        return [each.spec for each in self._functions.values()]

    async def _found(self) -> list[Callable[..., Any]]:
        if not isinstance(self._module, str):
            return list(self._module)
        where, folder = self._module, self._folder
        worker = self._worker = _Worker(f"cacherl-{self._name}")
        module = await worker.run(lambda: load_module(where, folder))
        functions = functions_in(module)
        opener = getattr(module, OPENER, None)
        self._opens = opener is not None
        if opener is None:
            worker.stop()
            self._worker = None
            return functions
        try:
            if inspect.iscoroutinefunction(opener):
                self._opened = await opener(self._scenario)
            else:
                self._opened = await worker.run(lambda: opener(self._scenario))
        except (Exception, SystemExit) as error:
            raise ToolError(
                f"{self._name}: {OPENER}({self._scenario!r}) of {where} failed: "
                f"{_last_place(error)}{type(error).__name__}: {error}. Correct it there, or the scenario."
            ) from error
        return functions + methods_of(self._opened)

    async def call(self, tool: str, arguments: JsonObject) -> Answer:
        """Call the function, once."""
        found = self._functions.get(tool)
        if found is None:
            return refused(
                ErrorClass.NOT_FOUND,
                f"{self._name} has no tool {tool}{did_you_mean(tool, self._functions)}",
            )
        try:
            positional, named = bind(found.function, found.takes, arguments)
        except msgspec.ValidationError as error:
            return refused(ErrorClass.VALIDATION, str(error).replace("`$.", "`"))
        try:
            if found.is_async:
                value = await found.function(*positional, **named)
            else:
                value = await self._in_thread(lambda: found.function(*positional, **named))
                if inspect.isawaitable(value):
                    value = await value
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the model is told, the loop goes on
            return exception_answer(error)
        return _answer(value)

    async def _in_thread(self, function: Callable[[], Any]) -> Any:
        if self._worker is not None:
            return await self._worker.run(function)
        alone = _Worker(f"cacherl-{self._name}")
        try:
            return await alone.run(function)
        finally:
            alone.stop()

    async def aclose(self) -> None:
        """Close the opened object by its `aclose` or `close`, if it has one. Never raises for it."""
        opened, self._opened = self._opened, None
        worker, self._worker = self._worker, None
        self._functions = {}
        if worker is None:
            return
        try:
            async with asyncio.timeout(CLOSE_S):
                await _close(opened, worker)
        except Exception:  # noqa: BLE001, S110 - the episode is over: what it did is on record already
            pass
        finally:
            worker.stop()


async def _close(opened: object, worker: _Worker) -> None:
    close = getattr(opened, "aclose", None) or getattr(opened, "close", None)
    if close is None:
        return
    if inspect.iscoroutinefunction(close):
        await close()
    else:
        await worker.run(close)


def _told(
    functions: Sequence[Callable[..., Any]], source: str, only: Sequence[str]
) -> dict[str, _Function]:
    found: dict[str, _Function] = {}
    for function in functions:
        try:
            spec = tool_of(function)
            takes = arguments_of(function, spec.name)
        except RecipeError as error:
            raise ToolError(f"{source}: {error}") from error
        if spec.name in found:
            raise ToolError(
                f"{source}: two functions are called {spec.name}. Give one @tool(name=...)."
            )
        found[spec.name] = _Function(
            function=function,
            spec=spec,
            takes=takes,
            is_async=inspect.iscoroutinefunction(function),
        )
    for name in only:
        if name not in found:
            raise ToolError(
                f"{source} has no tool {name!r}{did_you_mean(name, found)}; it has "
                f"{', '.join(found) or 'none'}. Correct `only`."
            )
    if not found:
        raise ToolError(
            f"{source}: no function is offered. Decorate one with @tool, or write a public function."
        )
    return {name: each for name, each in found.items() if not only or name in only}


def _answer(value: Any) -> Answer:
    if isinstance(value, str):
        return Answer(text=printable(value))
    try:
        # Sets and dicts sorted: the same result must be the same bytes in every process.
        text = msgspec.json.encode(value, order="deterministic").decode()
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        return refused(
            ErrorClass.UNKNOWN,
            f"the tool returned a {type(value).__name__} that JSON cannot hold ({error})",
            may_have_run=True,
        )
    return Answer(text=text)
