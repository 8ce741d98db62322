"""`cacherl augment`: the reason before each turn."""

from __future__ import annotations

import click

COMMANDS: tuple[click.Command, ...] = ()
