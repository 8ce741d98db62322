"""`cacherl select`: what is worth learning from, and its data card."""

from __future__ import annotations

import click

COMMANDS: tuple[click.Command, ...] = ()
