"""`cacherl proxy`: between an MCP client and an MCP server."""

from __future__ import annotations

import click

COMMANDS: tuple[click.Command, ...] = ()
