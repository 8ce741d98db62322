"""Live tools: list, show, call."""

from __future__ import annotations

import click

COMMANDS: tuple[click.Command, ...] = ()
