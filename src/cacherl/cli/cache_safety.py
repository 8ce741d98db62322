"""`cacherl cache scan | redact | audit`: nothing secret out, nothing held out in."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from cacherl.cli.cache import cache
from cacherl.cli.terminal import FILE, JSON, as_json, example

_SHOWN = 10

_PERSONAL = click.option(
    "--personal",
    is_flag=True,
    help="E-mail, phone, card and bank numbers, public IPs, ids and dates of birth too.",
)
_FIELD = click.option(
    "--field",
    "fields",
    multiple=True,
    metavar="NAME",
    help="A member that is always secret, such as first_name. May be repeated.",
)


@cache.command("scan")
@click.argument("path")
@_PERSONAL
@_FIELD
@click.option("--allow", type=FILE, help="Lines of `KIND TOOL PATH` that are known to be harmless.")
@JSON
@example("cacherl cache scan train.sqlite --personal --allow harmless.txt")
@click.pass_context
def cache_scan(
    context: click.Context,
    path: str,
    personal: bool,
    fields: tuple[str, ...],
    allow: Path | None,
    json_out: bool,
) -> None:
    """Look for secrets in every byte of PATH: a cache, a snapshot, or any .jsonl file.

    Exits with 1 where something is found. Never shows what it found, only where and of what kind.
    """
    from cacherl.cache.safety.scan import is_jsonl, read_allowed, scan_jsonl, scan_store
    from cacherl.cache.safety.sensitive import Profile
    from cacherl.wiring import open_cache

    profile = Profile(name="personal" if personal else "secrets", fields=fields)
    allowed = () if allow is None else read_allowed(allow)
    file = None if "://" in path else Path(path)
    if file is not None and is_jsonl(file):
        found = scan_jsonl(file, profile=profile, allowed=allowed)
    else:
        with open_cache(path) as opened:
            found = scan_store(opened.store, path, profile=profile, allowed=allowed, file=file)
    if json_out:
        click.echo(as_json(found))
        context.exit(1 if found.findings else 0)
    allowed_told = f", {found.allowed} allowed" if found.allowed else ""
    click.echo(
        f"{path}: {found.calls} calls gone over for {profile.name}, "
        f"{len(found.findings)} findings{allowed_told}"
    )
    for warning in found.warnings:
        click.echo(f"! {warning}")
    if not found.findings:
        return
    table = Table("kind", "tool", "key", "where", "what")
    for each in found.findings[:_SHOWN]:
        table.add_row(each.kind, each.tool, each.key[:12], each.path, each.excerpt)
    Console().print(table)
    if len(found.findings) > _SHOWN:
        kinds = Counter(each.kind for each in found.findings)
        click.echo("In all: " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()))
    click.echo(
        f"Next: cacherl cache redact {path} OUT{' --personal' if personal else ''}"
        "   (or name what is harmless with --allow)"
    )
    context.exit(1)


@cache.command("redact")
@click.argument("path")
@click.argument("out", type=FILE)
@_PERSONAL
@_FIELD
@JSON
@example("cacherl cache redact train.sqlite public.sqlite --personal")
def cache_redact(
    path: str, out: Path, personal: bool, fields: tuple[str, ...], json_out: bool
) -> None:
    """Copy the cache PATH to OUT, a new file, with placeholders for secrets.

    The key of the placeholders is CACHERL_REDACTION_KEY, or made and kept in OUT.redaction-key: keep
    it to look up real values in OUT, and never publish it.
    """
    from cacherl.cache.safety.redact import redact_file
    from cacherl.cache.safety.sensitive import Profile
    from cacherl.wiring import open_cache

    profile = Profile(name="personal" if personal else "secrets", fields=fields)
    with open_cache(path) as source:
        found = redact_file(source.store, out, profile, source_file=_file(path))
    if json_out:
        click.echo(as_json(found))
        return
    click.echo(
        f"{out}: {found.calls} calls, {found.changed} of them changed, {found.merged} became one "
        f"with another, {found.tools} declarations changed"
    )
    if found.unreachable:
        click.echo(
            f"! {found.unreachable} calls stand after a write that was itself redacted: they answer "
            "BEST_EFFORT at most. Record them anew into a redacted cache to have them EXACT"
        )
    if found.old_placeholders:
        click.echo(
            f"! {found.old_placeholders} calls hold placeholders of another key: only calls with "
            "those very placeholders find them"
        )
    if found.left_out:
        click.echo(
            f"! {found.left_out} calls left out, recorded under other rules: "
            f"`cacherl cache rekey {path}`, then redact again"
        )
    for note in found.dropped_notes:
        click.echo(f"! the note {note} was left out: make it anew")
    click.echo(f"Next: cacherl cache scan {out}{' --personal' if personal else ''}")


@cache.command("audit")
@click.argument("training")
@click.option(
    "--holdout", required=True, help="Held-out tasks (.jsonl) or a cache of their episodes."
)
@JSON
@example("cacherl cache audit runs/quickstart/cache/train.sqlite --holdout heldout.sqlite")
@click.pass_context
def cache_audit(context: click.Context, training: str, holdout: str, json_out: bool) -> None:
    """Find what of the held-out episodes the cache TRAINING could answer.

    Exits with 1 on a leak: something reachable only through what is held out. What training
    scenarios answered by themselves is shared data, and only counted.
    """
    from cacherl.cache.safety.audit import Kind, Severity, audit, held_out_cache, held_out_tasks
    from cacherl.cache.safety.scan import is_jsonl
    from cacherl.core.jsonl import read_jsonl
    from cacherl.core.tasks import Task
    from cacherl.reward.answer import says
    from cacherl.wiring import open_cache

    tasks = None if "://" in holdout else Path(holdout)
    if tasks is not None and is_jsonl(tasks):
        held_out = held_out_tasks(read_jsonl(tasks, Task))
    else:
        with open_cache(holdout) as opened:
            held_out = held_out_cache(opened.store)
    with open_cache(training) as opened:
        found = audit(opened, held_out, holdout=holdout, says=says)
    if json_out:
        click.echo(as_json(found))
        context.exit(1 if found.leaks else 0)
    click.echo(
        f"{training} ({found.training_calls} calls) against {holdout} "
        f"({found.held_out_scenarios} scenarios, {found.held_out_calls} calls)"
    )
    same = f", {found.same_answer} with the held-out answer" if held_out.tasks == () else ""
    click.echo(
        f"Held-out calls in the training cache: {found.present} word for word{same}; "
        f"{found.near} in other words"
    )
    if found.counts:
        table = Table("kind", *(each.value for each in Severity))
        for kind in Kind:
            row = [str(found.counts.get(f"{severity} {kind}", 0)) for severity in Severity]
            if any(cell != "0" for cell in row):
                table.add_row(kind.value, *row)
        Console().print(table)
    for each in found.findings[:_SHOWN]:
        key = f"  {each.key[:12]}" if each.key else ""
        click.echo(f"{each.severity:<8} {each.what}{key}")
    if len(found.findings) > _SHOWN:
        click.echo(f"... and {len(found.findings) - _SHOWN} more: add --json")
    if not found.leaks:
        click.echo("No leak: nothing here is reachable only through what is held out.")
        return
    splits = sorted(each.held_out for each in found.leaks if each.kind is Kind.SPLIT)
    scenarios = sorted(each.held_out for each in found.leaks if each.kind is Kind.SCENARIO)
    drop = (
        " ".join(f"--{split}" for split in splits)
        if splits
        else " ".join(f"--scenario {name}" for name in scenarios[:5])
    )
    if drop:
        click.echo(f"Next: cacherl cache gc {training} {drop} --apply")
    else:
        click.echo("Next: see who recorded those training scenarios, and record them anew")
    context.exit(1)


def _file(name: str) -> Path | None:
    return None if "://" in name or name == ":memory:" else Path(name)
