"""`cacherl cache verify | repair | migrate`: is a cache file whole, and what can be saved."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from cacherl.cli.cache import cache
from cacherl.cli.terminal import FILE, JSON, as_json, example
from cacherl.core.errors import CacheError

_SHOWN = 50


@cache.command("verify")
@click.argument("path", type=FILE)
@JSON
@example("cacherl cache verify runs/quickstart/cache/train.sqlite")
def cache_verify(path: Path, json_out: bool) -> None:
    """Read all of PATH, a cache file or a snapshot, and name everything that is damaged.

    Exit code 1 where something is.
    """
    from cacherl.cache.storage.health import verify

    found = verify(path)
    if json_out:
        click.echo(as_json(found))
    else:
        click.echo(
            f"{path} ({found.format}): {found.calls} calls, {found.answers} observations, "
            f"{found.tools} tools, {found.notes} notes are whole."
        )
        if found.stale:
            click.echo(
                f"{found.stale} calls are of another canon version and answer nothing: "
                f"cacherl cache rekey {path}"
            )
        _list("damaged", found.problems)
    if found.problems:
        raise CacheError(
            f"{path}: {len(found.problems)} things are damaged. "
            f"Save the rest with `cacherl cache repair {path} OUT`."
        )


@cache.command("repair")
@click.argument("path", type=FILE)
@click.argument("out", type=FILE)
@JSON
@example("cacherl cache repair broken.sqlite saved.sqlite")
def cache_repair(path: Path, out: Path, json_out: bool) -> None:
    """Save everything of PATH that can be read into a new cache file OUT, and name what is lost.

    PATH, a cache file or a snapshot, stays as it is.
    """
    from cacherl.cache.storage.health import repair

    found = repair(path, out)
    if json_out:
        click.echo(as_json(found))
        return
    click.echo(
        f"{out}: {found.calls} calls, {found.answers} observations, {found.tools} tools, "
        f"{found.notes} notes saved."
    )
    _list("lost", found.lost)
    click.echo(f"Next: cacherl cache stats {out}")


@cache.command("migrate")
@click.argument("path", type=FILE)
@JSON
@example("cacherl cache migrate runs/quickstart/cache/train.sqlite")
def cache_migrate(path: Path, json_out: bool) -> None:
    """Bring PATH, written by an older cacherl, to today's format; a backup stays beside it.

    Killed, it leaves the old file or the new one.
    """
    from cacherl.cache.storage.migrate import migrate

    found = migrate(path)
    if json_out:
        click.echo(as_json(found))
        return
    if found.backup is None:
        click.echo(f"{path}: format {found.after} already, nothing to do.")
        return
    click.echo(
        f"{path}: from format {found.before} to {found.after}, {found.calls} calls, "
        f"{found.answers} observations. The old file is {found.backup}."
    )
    click.echo(f"Next: cacherl cache verify {path}")


def _list(what: str, items: Sequence[str]) -> None:
    for item in items[:_SHOWN]:
        click.echo(f"  {what}: {item}")
    if len(items) > _SHOWN:
        click.echo(f"  and {len(items) - _SHOWN} more; --json names all.")
