"""`cacherl cache freeze`: recordings into one read-only file that every rollout worker shares."""

from __future__ import annotations

from pathlib import Path

import click

from cacherl.cli.cache import cache
from cacherl.cli.terminal import FILE, JSON, as_json, example


@cache.command("freeze")
@click.argument("source", metavar="CACHE")
@click.argument("target", metavar="SNAPSHOT", type=FILE)
@click.option(
    "--compress",
    type=click.Choice(["auto", "none"]),
    default="auto",
    show_default=True,
    help="auto: a tool's answers are compressed where that makes them a quarter smaller.",
)
@JSON
@example("cacherl cache freeze runs/quickstart/cache/train.sqlite train.snapshot")
def cache_freeze(source: str, target: Path, compress: str, json_out: bool) -> None:
    """Freeze CACHE into SNAPSHOT, a read-only file that any number of workers map into memory.

    The same recordings give the same id. Killed, it leaves an older SNAPSHOT as it was.
    """
    from cacherl.cache.storage.freeze import freeze_cache
    from cacherl.wiring import open_cache

    with open_cache(source) as opened:
        found = freeze_cache(
            opened, target, compress="none" if compress == "none" else "auto", progress=_tell
        )
    if json_out:
        click.echo(as_json(found))
        return
    zipped = f", {found.compressed_tools} compressed" if found.compressed_tools else ""
    click.echo(
        f"{found.path}: snapshot {found.id[:12]}, {found.calls} calls, {found.observations} distinct "
        f"answers, {found.tools} tools{zipped}, {found.bytes / 1e6:.1f} MB"
    )
    click.echo(f"Next: cacherl cache stats {target}")


_SILENT_BELOW = 20_000


def _tell(stage: str, done: int, total: int | None) -> None:
    if done >= _SILENT_BELOW and done % _SILENT_BELOW == 0:
        of = f" of {total}" if total is not None else ""
        click.echo(f"{stage}: {done}{of} calls", err=True)
