"""What every command shares: options, errors as one line, examples in the help."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec

from cacherl.core.errors import CacheRLError


class Group(click.Group):
    """Turns every `CacheRLError` into one line and its exit code; anything else keeps its traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CacheRLError as error:
            click.echo(f"Error: {' '.join(str(error).split())}", err=True)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo(
                "Interrupted. What was done is kept; run the same command to go on.", err=True
            )
            ctx.exit(130)


def example(text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add an example to a command's help. `tests/test_cli.py` holds every command to having one."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        function.__doc__ = (
            f"{inspect.cleandoc(function.__doc__ or '')}\n\nExample:\n\n\b\n    {text}\n"
        )
        return function

    return add


def as_json(value: Any) -> str:
    """Return a value as indented JSON for machines."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


FILE = click.Path(exists=False, dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)
JSON = click.option("--json", "json_out", is_flag=True, help="Print JSON for machines.")
