"""`cacherl hub`: push and pull data sets, caches and models."""

from __future__ import annotations

import tempfile
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cacherl.cli.terminal import FILE, FOLDER, JSON, as_json, example
from cacherl.core.hubs import RepoType

if TYPE_CHECKING:
    from cacherl.core.hubs import Commit
    from cacherl.publish.push import Plan, PushOptions

_SHOWN = 10
_TYPE = click.Choice([each.value for each in RepoType])


@click.group("hub")
@example("cacherl hub push data/office my-team/office --private")
def hub() -> None:
    """Share data folders, caches and models over the Hugging Face Hub.

    HF_TOKEN or `hf auth login` says who you are, HF_ENDPOINT where the Hub is.
    """


@hub.command("push")
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.argument("repo")
@click.option("--type", "type_name", type=_TYPE, help="Told by PATH unless given.")
@click.option("--private", is_flag=True, help="Nobody else may see it. Public unless told.")
@click.option("--revision", help="A branch; made where it is not there.")
@click.option("--message", default="", help="Of the commit.")
@click.option("--licence", help="SPDX id of the whole; what its sources say unless told.")
@click.option("--only-best", is_flag=True, help="Of the conversations only the furthest file.")
@click.option("--keep-readme", is_flag=True, help="Leave the README that is there as it is.")
@click.option("--personal", is_flag=True, help="Look for personal data too, not for secrets alone.")
@click.option("--allow", type=FILE, help="Lines of `KIND TOOL PATH` that are known to be harmless.")
@click.option("--allow-findings", is_flag=True, help="Push in spite of what looks secret.")
@click.option("--include-held-out", is_flag=True, help="Push held-out tasks with their answers.")
@click.option("--dry-run", is_flag=True, help="Say what would go up; ask nobody.")
@JSON
@example("cacherl hub push data/office my-team/office --private")
def push_command(path: Path, repo: str, **options: Any) -> None:
    """Put PATH (a data folder, a cache, a model) into REPO, in one commit.

    A data folder goes up as it is, with a table that `datasets` and TRL load and a README made of its data
    card. The journal never does. What looks secret, and held-out answers, are refused.
    """
    from cacherl.publish.push import planned, push, require_harmless
    from cacherl.wiring import hub as the_hub

    wanted = _options(options)
    json_out = options["json_out"]
    chosen = options["type_name"]
    with tempfile.TemporaryDirectory(prefix="cacherl-hub-") as work:
        plan = planned(
            path,
            repo,
            None if chosen is None else RepoType(chosen),
            wanted,
            work=Path(work),
            now=datetime.now(UTC),
            on_step=lambda what: _step(what, json_out),
        )
        if options["dry_run"]:
            _tell_plan(plan, repo, json_out)
            require_harmless(plan, wanted)
            return
        require_harmless(plan, wanted)
        _step("upload", json_out)
        commit = push(plan, repo, the_hub(), wanted)
    if json_out:
        click.echo(as_json(_facts(commit, plan)))
        return
    _tell(commit, plan)


@hub.command("pull")
@click.argument("repo")
@click.option(
    "--type",
    "type_name",
    type=_TYPE,
    default=RepoType.DATASET.value,
    show_default=True,
)
@click.option("--out", type=FOLDER, help="Where to; the repository's name unless told.")
@click.option("--revision", help="A branch, a tag or a commit; the newest unless told.")
@JSON
@example("cacherl hub pull my-team/office --out data/office")
def pull_command(
    repo: str, type_name: str, out: Path | None, revision: str | None, json_out: bool
) -> None:
    """Bring REPO into a folder: a data folder, a cache, a model, or anybody's data set.

    The revision is pinned to its commit and written into hub.json. Every file is checked against the Hub's own
    id of it, records and caches by their checksums; then the folder appears, whole. A pull that broke off goes
    on with the same command.
    """
    from cacherl.publish.pull import pull
    from cacherl.wiring import hub as the_hub

    folder = out or Path(repo.rpartition("/")[2])
    pulled = pull(
        the_hub(),
        repo,
        RepoType(type_name),
        folder,
        revision=revision,
        now=datetime.now(UTC),
        on_step=lambda what: _step(what, json_out),
    )
    if json_out:
        click.echo(as_json(pulled))
        return
    click.echo(
        f"{folder}: {pulled.files:,} files, {pulled.bytes:,} bytes of {pulled.repo} at {pulled.commit}; "
        "all as the Hub has them"
    )
    for remark in pulled.remarks:
        click.echo(f"! {_plain(remark)}")
    click.echo(f"Next: {_next(folder, pulled.caches)}")


COMMANDS = (hub,)


def _options(said: dict[str, Any]) -> PushOptions:
    from cacherl.cache.safety.scan import read_allowed
    from cacherl.cache.safety.sensitive import Profile
    from cacherl.publish.push import PushOptions

    return PushOptions(
        private=said["private"],
        revision=said["revision"],
        message=said["message"],
        licence=said["licence"],
        only_best=said["only_best"],
        keep_readme=said["keep_readme"],
        include_held_out=said["include_held_out"],
        allow_findings=said["allow_findings"],
        allowed=() if said["allow"] is None else read_allowed(said["allow"]),
        profile=Profile(name="personal" if said["personal"] else "secrets"),
    )


def _step(what: str, json_out: bool) -> None:
    if not json_out:
        click.echo(f"  {what} ...", err=True)


def _facts(commit: Commit, plan: Plan) -> dict[str, Any]:
    return {
        "repo": commit.repo,
        "type": commit.type,
        "commit": commit.sha,
        "url": commit.url,
        "private": commit.private,
        "files": sorted(plan.files),
        "bytes": plan.bytes,
        "findings": len(plan.found),
    }


def _tell_plan(plan: Plan, repo: str, json_out: bool) -> None:
    from cacherl.publish.contents import README

    if json_out:
        click.echo(
            as_json(
                {
                    "repo": repo,
                    "type": plan.type,
                    "files": {name: path.stat().st_size for name, path in plan.files.items()},
                    "bytes": plan.bytes,
                    "findings": plan.found,
                    "held_out": plan.held_out,
                    "table_left_out": plan.table_left_out,
                    "readme": plan.files[README].read_text(encoding="utf-8"),
                }
            )
        )
        return
    click.echo(
        f"{plan.kind.value} to the {plan.type.value} repository {repo}: {plan.bytes:,} bytes"
    )
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, path in plan.files.items():
        table.add_row(escape(_plain(name)), f"{path.stat().st_size:,}")
    Console(highlight=False).print(table)
    _tell_table(plan)
    kinds = Counter(found.what.kind for found in plan.found)
    for found in plan.found[:_SHOWN]:
        what = found.what
        click.echo(
            _plain(f"! {found.file}: {what.kind} {what.key} {what.path} {what.excerpt}".rstrip())
        )
    if len(plan.found) > _SHOWN:
        click.echo("  in all: " + ", ".join(f"{n} {kind}" for kind, n in kinds.most_common()))
    click.echo("Nobody was asked. Leave --dry-run out to push.")


def _tell_table(plan: Plan) -> None:
    if plan.table_left_out is not None:
        click.echo(f"! without a table that `datasets` loads: {_plain(plan.table_left_out)}")


def _tell(commit: Commit, plan: Plan) -> None:
    seen = "only you and your team see it" if commit.private else "everybody sees it"
    click.echo(f"{len(plan.files)} files, {plan.bytes:,} bytes: {commit.url} ({seen})")
    _tell_table(plan)
    if plan.found:
        click.echo(f"! {len(plan.found)} places look secret, and were pushed all the same")
    click.echo(f"Commit: {commit.sha}")
    kind = f" --type {commit.type}" if commit.type is not RepoType.DATASET else ""
    click.echo(f"Next: cacherl hub pull {commit.repo}{kind} --revision {commit.sha[:12]}")


def _next(folder: Path, caches: tuple[str, ...]) -> str:
    from cacherl.core.folders import DataFolder

    if DataFolder(folder).tasks.exists():
        return f"cacherl card {folder}"
    if caches:
        return f"cacherl cache stats {folder / caches[0]}"
    if (folder / "config.json").exists():
        return f"cacherl eval {folder}"
    return f"cacherl import {folder}"


def _plain(text: str) -> str:
    """Return names that others chose without what moves a terminal's cursor or colours."""
    return "".join(c if c.isprintable() else "?" for c in text)
