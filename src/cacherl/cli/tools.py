"""Live tools: list, show, call."""

from __future__ import annotations

import asyncio
import re
import sys
import textwrap
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cacherl.cli.terminal import JSON, as_json, example
from cacherl.core.errors import RecipeError
from cacherl.core.records import JsonObject
from cacherl.core.tools import UNDECLARED, Effects, ToolResult, ToolSpec

if TYPE_CHECKING:
    from cacherl.core.sources import ToolSource
    from cacherl.toolbox.config import ToolsFile
    from cacherl.toolbox.toolbox import Toolbox

T = TypeVar("T")

_COMMAND = "cacherl.cli.tools.command"
_AFTER = "--"
_WIDTH = 160  # of a table that goes into a file or a pipe
_TOLD = 64  # characters of a description in the table; `show` tells all of it


class _WithCommand(click.Command):
    """Takes an MCP server's command after `--`, in place of TOOLS."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if _AFTER in args:
            at = args.index(_AFTER)
            words = zip(["", *args], args[:at], strict=False)
            file = next((w for before, w in words if _is_file(before, w)), None)
            if file is not None:
                raise click.UsageError(
                    f"give either a file ({file}) or a server's command after {_AFTER}, not both",
                    ctx,
                )
            ctx.meta[_COMMAND] = tuple(args[at + 1 :])
            args = ["-", *args[:at]]
        return super().parse_args(ctx, args)


def _is_file(before: str, word: str) -> bool:
    return word.endswith(".toml") and before != "--scenario"


@click.group("tools")
@example("cacherl tools list tools.toml")
def tools_group() -> None:
    """See and try the live tools of a tools.toml, or of one MCP server after `--`."""


TOOLS = click.argument("tools", metavar="TOOLS", type=click.Path(path_type=Path))
SCENARIO = click.option("--scenario", help="What {scenario} stands for, over the file's own.")


@tools_group.command("list", cls=_WithCommand)
@TOOLS
@SCENARIO
@JSON
@example("cacherl tools list tools.toml\n    cacherl tools list -- npx -y some-server /tmp")
def list_command(tools: Path, scenario: str | None, json_out: bool) -> None:
    """List the tools of TOOLS, with what each reads and writes."""

    async def listed(toolbox: Toolbox) -> list[tuple[ToolSpec, str]]:
        return [(spec, toolbox.source_of(spec.name)) for spec in await toolbox.start()]

    found, notes = _with_tools(tools, scenario, listed)
    notes += [note for spec, _ in found if (note := _untyped(spec))]
    if json_out:
        rows = [{"source": source, **msgspec.to_builtins(spec)} for spec, source in found]
        click.echo(as_json({"tools": rows, "notes": notes}))
        return
    table = Table("tool", "source", "effects", "what it does")
    for spec, source in found:
        told = textwrap.shorten(
            spec.description.strip().partition("\n")[0], _TOLD, placeholder=" ..."
        )
        words = effects_in_words(spec.effects)
        table.add_row(*(escape(_plain(each)) for each in (spec.name, source, words, told)))
    Console(width=None if sys.stdout.isatty() else _WIDTH).print(table)
    for note in notes:
        click.echo(_plain(note), err=True)
    sources = len({source for _, source in found})
    many, several = ("" if number == 1 else "s" for number in (len(found), sources))
    click.echo(f"{len(found)} tool{many} of {sources} source{several}.")
    undeclared = [spec.name for spec, _ in found if spec.effects == UNDECLARED]
    if undeclared:
        click.echo(
            f"{len(undeclared)} of them may write anything, as nothing is declared. Say what they touch: "
            f"[tools.{_plain(undeclared[0])}] reads = [...] writes = [...]"
        )


@tools_group.command("show", cls=_WithCommand)
@TOOLS
@click.argument("name")
@SCENARIO
@JSON
@example("cacherl tools show tools.toml get_order")
def show_command(tools: Path, name: str, scenario: str | None, json_out: bool) -> None:
    """Show one tool as a model and a cache see it: description, effects, schema of its arguments."""

    async def shown(toolbox: Toolbox) -> tuple[ToolSpec, str]:
        spec = _named(name, await toolbox.start())
        return spec, toolbox.source_of(spec.name)

    (spec, source), _ = _with_tools(tools, scenario, shown)
    if json_out:
        click.echo(as_json({"source": source, **msgspec.to_builtins(spec)}))
        return
    click.echo(_plain(f"{spec.name}  (of {source}; {effects_in_words(spec.effects)})"))
    if spec.description:
        click.echo(f"\n{_plain(spec.description)}")
    click.echo(f"\n{as_json(spec.parameters)}\n")
    if note := _untyped(spec):
        click.echo(f"{_plain(note)}\n")
    click.echo(_plain(f"Try it: {_try_it(tools, spec)}"))


@tools_group.command("call", cls=_WithCommand)
@TOOLS
@click.argument("name")
@click.argument("arguments", metavar="ARGS_JSON", default="{}")
@SCENARIO
@click.option("--yes", is_flag=True, help="Call it though it may write.")
@JSON
@example("""cacherl tools call tools.toml get_order '{"order_id": "A-1"}'""")
def call_command(
    tools: Path, name: str, arguments: str, scenario: str | None, yes: bool, json_out: bool
) -> None:
    """Call one tool for real and print what it answers. Exit code 1 where that is an error.

    A tool that may write is called with --yes only.
    """
    from cacherl.core.messages import ToolCall

    asked = _arguments(arguments)

    async def called(toolbox: Toolbox) -> ToolResult:
        spec = _named(name, await toolbox.start())
        _check(spec, asked, tools)
        _agree(spec, yes)
        return await toolbox.call(ToolCall(id="call", name=spec.name, arguments=asked))

    result, _ = _with_tools(tools, scenario, called)
    if json_out:
        click.echo(as_json(result))
    else:
        click.echo(_plain(result.text))
        outcome = f"error ({result.error_class})" if result.is_error else "answered"
        click.echo(f"{outcome} in {result.latency_s * 1000:.3g} ms", err=True)
    if result.is_error:
        click.get_current_context().exit(1)


COMMANDS: tuple[click.Command, ...] = (tools_group,)


# ---- opening -----------------------------------------------------------------------------------


def _with_tools(
    tools: Path, scenario: str | None, use: Callable[[Toolbox], Awaitable[T]]
) -> tuple[T, list[str]]:
    """Open the tools, use them, close them; return what came of it and what the sources noted."""
    from cacherl import wiring

    file, path = _file(tools)
    opened: list[ToolSource] = []
    world = wiring.live_tools(file, path, scenario=scenario, on_open=opened.append)
    waiting: Any = nullcontext()
    if sys.stderr.isatty():
        waiting = Console(stderr=True).status(f"starting {escape(', '.join(file.sources()))}")

    async def used() -> T:
        toolbox = world.open(world.list_scenario)
        try:
            with waiting:
                await toolbox.start()
            return await use(toolbox)
        finally:
            await toolbox.aclose()
            await world.aclose()

    found = asyncio.run(used())
    notes = [f"{s.name}: {note}" for s in opened for note in getattr(s, "notes", ())]
    return found, notes


def _file(tools: Path) -> tuple[ToolsFile, Path]:
    """Return what is asked for: a tools.toml, or one MCP server started by the command after `--`."""
    from cacherl.toolbox.config import McpSection, ToolsFile, read_tools

    if str(tools) != "-":
        return read_tools(tools), tools
    command: Sequence[str] = click.get_current_context().meta.get(_COMMAND, ())
    if not command:
        raise RecipeError(
            "no tools are named. Give a tools.toml, or a server: `cacherl tools list -- npx -y SERVER`."
        )
    # The shell has filled in what it should: a `${` that is left stands for itself.
    first, *rest = (word.replace("${", "$${") for word in command)
    section = McpSection(command=first, args=tuple(rest))
    return ToolsFile(namespace="server", mcp={"server": section}), Path("tools.toml")


def _named(name: str, specs: Sequence[ToolSpec]) -> ToolSpec:
    from cacherl.toolbox.config import did_you_mean

    for spec in specs:
        if spec.name == name:
            return spec
    names = [spec.name for spec in specs]
    raise RecipeError(
        f"there is no tool {name!r}{did_you_mean(name, names)}. There are: {', '.join(names)}."
    )


# ---- calling -----------------------------------------------------------------------------------


def _arguments(text: str) -> JsonObject:
    try:
        found = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise RecipeError(
            f"ARGS_JSON is not JSON: {error}. Write it in single quotes: "
            """'{"order_id": "A-1"}'."""
        ) from error
    if not isinstance(found, dict):
        raise RecipeError(f"ARGS_JSON is {text}, not an object. Write {{...}}.")
    return found


def _check(spec: ToolSpec, arguments: JsonObject, tools: Path) -> None:
    from cacherl.core.schema import argument_problem

    problem = argument_problem(spec, arguments)
    if problem is not None:
        raise RecipeError(f"{spec.name}: wrong arguments: {problem}. Try: {_try_it(tools, spec)}")


def _agree(spec: ToolSpec, yes: bool) -> None:
    if yes or not spec.effects.writes:
        return
    words = effects_in_words(spec.effects)
    if sys.stdin.isatty() and sys.stderr.isatty():
        click.confirm(_plain(f"{spec.name} {words}. Call it?"), abort=True, err=True)
        return
    raise RecipeError(f"{spec.name} {words}: it was not called. Add --yes to call it.")


# ---- words -------------------------------------------------------------------------------------


def effects_in_words(effects: Effects) -> str:
    """Return what a tool touches, for people."""
    if effects == UNDECLARED:
        return "writes everything, because nothing is declared"
    parts = []
    if effects.reads:
        parts.append(f"reads {_resources(effects.reads)}")
    if effects.writes:
        twice = ", twice as once" if effects.idempotent else ""
        parts.append(f"writes {_resources(effects.writes)}{twice}")
    words = "; ".join(parts) or "touches nothing"
    return f"{words}; changes by itself" if effects.open_world else words


def _untyped(spec: ToolSpec) -> str:
    """Return which parameters take anything because nobody said what they are, or nothing."""
    said = spec.parameters.get("properties")
    if not isinstance(said, dict):
        return ""
    # `{}` says nothing, and neither does a default or what stands in a docstring.
    silent = [name for name, schema in said.items() if _is_silent(schema)]
    if not silent:
        return ""
    return f"{spec.name}: no type hint for {', '.join(silent)}: anything is accepted"


def _is_silent(schema: Any) -> bool:
    return schema is True or (isinstance(schema, dict) and schema.keys() <= _SAY_NOTHING)


_SAY_NOTHING = frozenset({"default", "description", "title", "examples"})


def _resources(templates: Sequence[str]) -> str:
    return "everything" if "*" in templates else ", ".join(templates)


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def _plain(text: str) -> str:
    """Return text of a tool with its control characters shown: they could rewrite the terminal."""
    text = text.replace("\r\n", "\n")
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def _try_it(tools: Path, spec: ToolSpec) -> str:
    """Return a command that calls the tool, to be copied and changed."""
    properties = spec.parameters.get("properties", {})
    required = spec.parameters.get("required", [])
    sample = {name: _sample(properties.get(name)) for name in required}
    words = msgspec.json.encode(sample).decode().replace("'", "'\\''")
    yes = " --yes" if spec.effects.writes else ""
    if str(tools) == "-":
        command = " ".join(click.get_current_context().meta.get(_COMMAND, ()))
        return f"cacherl tools call {spec.name} '{words}'{yes} -- {command}"
    return f"cacherl tools call {tools} {spec.name} '{words}'{yes}"


def _sample(schema: Any) -> Any:
    """Return a value such as the schema asks for, as far as its outermost level says."""
    if not isinstance(schema, dict):
        return ""
    for key in ("default", "const"):
        if key in schema:
            return schema[key]
    if isinstance(schema.get("enum"), list) and schema["enum"]:
        return schema["enum"][0]
    kind = schema.get("type")
    kind = kind[0] if isinstance(kind, list) and kind else kind
    samples: dict[Any, Any] = {
        "integer": 1,
        "number": 1,
        "boolean": True,
        "array": [],
        "object": {},
    }
    return samples.get(kind, "...")
