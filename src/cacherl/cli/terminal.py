"""What every command shares: options, errors as one line, examples in the help."""

from __future__ import annotations

import contextlib
import errno
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec
from click.core import ParameterSource
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from cacherl.core.errors import CacheRLError

# A full disk, a folder that is not ours, a machine that gives no more: nothing that a traceback helps with.
_OF_THE_MACHINE = frozenset(
    {
        *(
            errno.ENOSPC,
            errno.EDQUOT,
            errno.EFBIG,
            errno.EROFS,
            errno.EIO,
            errno.EACCES,
            errno.EPERM,
        ),
        *(errno.EMFILE, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG),
    }
)


class Group(click.Group):
    """Turns every `CacheRLError` into one line and its exit code, and so what the machine refuses.

    Anything else keeps its traceback.
    """

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CacheRLError as error:
            click.echo(f"Error: {' '.join(str(error).split())}", err=True)
            ctx.exit(error.exit_code)
        except OSError as error:
            if error.errno not in _OF_THE_MACHINE:
                raise
            _let_go_of_output()
            where = f"{error.filename}: " if error.filename else ""
            click.echo(
                f"Error: {where}{error.strerror or error}. Make room, or change what is allowed, and "
                "run the same command again.",
                err=True,
            )
            ctx.exit(1)
        except KeyboardInterrupt:
            click.echo(
                "Interrupted. What was done is kept; run the same command to go on.", err=True
            )
            ctx.exit(130)


def _let_go_of_output() -> None:
    """Where standard output itself is full, let nothing that it still holds fail once more at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def example(text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add an example to a command's help. `tests/test_cli.py` holds every command to having one."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        function.__doc__ = (
            f"{inspect.cleandoc(function.__doc__ or '')}\n\nExample:\n\n\b\n    {text}\n"
        )
        return function

    return add


def counted(number: int, what: str, many: str = "") -> str:
    """Return a number and its noun: `1 task`, `2,000 tasks`; `many` where it takes more than an s."""
    return f"{number:,} {what if number == 1 else many or what + 's'}"


def typed_command() -> list[str]:
    """Return the command under way as it was typed, without the program's name and --json."""
    ctx = click.get_current_context()
    words = [ctx.info_name or ""]
    for param in ctx.command.params:
        value = ctx.params.get(param.name or "")
        if ctx.get_parameter_source(param.name or "") is not ParameterSource.COMMANDLINE:
            continue
        if isinstance(param, click.Argument):
            words.append(str(value))
        elif isinstance(param, click.Option) and param.name != "json_out":
            if param.is_flag:
                words.append((param.opts if value else param.secondary_opts)[0])
            else:
                for each in (value or ()) if param.multiple else (value,):
                    words += [param.opts[0], str(each)]
    return words


def bars(console: Console, *, what_width: int = 0, **how: Any) -> Progress:
    """Return bars with done and total, elapsed time, ETA and a task's `facts` field.

    Args:
        console: where they are drawn.
        what_width: columns kept for what is being done; 0 as many as it takes.
        how: more of `rich.progress.Progress`, such as `transient`.
    """
    return Progress(
        TextColumn(f"{{task.description:<{what_width}}}" if what_width else "{task.description}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[facts]}"),
        console=console,
        **how,
    )


def as_json(value: Any) -> str:
    """Return a value as indented JSON for machines."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


FILE = click.Path(exists=False, dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)
JSON = click.option("--json", "json_out", is_flag=True, help="Print JSON for machines.")
