"""`cacherl record`: a teacher solves tasks with live tools."""

from __future__ import annotations

import click

COMMANDS: tuple[click.Command, ...] = ()
