"""`cacherl hub`: push and pull data sets and caches."""

from __future__ import annotations

import click

COMMANDS: tuple[click.Command, ...] = ()
