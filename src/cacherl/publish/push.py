"""A folder, a cache or a model onto a hub, in one commit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cacherl.cache.safety.scan import Allowed
from cacherl.cache.safety.sensitive import Profile
from cacherl.core.errors import DataError
from cacherl.core.folders import DataFolder
from cacherl.core.hubs import Commit, Hub, RepoType
from cacherl.exports import ExportOptions, export_folder
from cacherl.publish.contents import (
    PARQUET,
    README,
    Found,
    HeldOut,
    Kind,
    files_of,
    held_out_in,
    kind_of,
    known_names,
    secrets_in,
    size_of,
)
from cacherl.publish.readme import cache_readme, dataset_readme, model_readme
from cacherl.report.card import write_card
from cacherl.select.card import Card, file_facts
from cacherl.select.folder import THIS_SET, Wanted, describe_folder, read_card
from cacherl.wiring import open_cache


@dataclass(frozen=True, slots=True, kw_only=True)
class PushOptions:
    """How to publish."""

    private: bool = False
    revision: str | None = None
    message: str = ""
    licence: str | None = None
    """SPDX id of the whole; None takes what the sources say."""
    only_best: bool = False
    keep_readme: bool = False
    """Leave the README that is there as it is."""
    include_held_out: bool = False
    allow_findings: bool = False
    allowed: Sequence[Allowed] = ()
    profile: Profile = field(default_factory=Profile)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What would go up."""

    kind: Kind
    type: RepoType
    files: Mapping[str, Path]
    bytes: int
    found: tuple[Found, ...]
    held_out: HeldOut
    table_left_out: str | None
    """Why the data set cannot be loaded by `datasets`."""


def planned(
    path: Path,
    repo: str,
    type_: RepoType | None,
    options: PushOptions,
    *,
    work: Path,
    now: datetime,
    on_step: Callable[[str], None] = lambda what: None,
) -> Plan:
    """Return what would go up, made and gone over. Asks no hub.

    Args:
        path: a data folder, a cache or a model folder.
        repo: where it is to go, for the README.
        type_: what the repository is for; None is told by the path.
        options: how to publish.
        work: an empty folder, for what is made for the hub alone.
        now: for a data card that is made anew.
        on_step: told what is being done.

    Raises:
        DataError: there is nothing to publish, or a file is damaged.
    """
    kind = kind_of(path)
    table_left_out = None
    if kind is Kind.FOLDER:
        on_step("data card")
        card = current_card(DataFolder(path), now)
        files = files_of(path, kind, only_best=options.only_best)
        on_step("table")
        table_left_out = _table(path, work / PARQUET)
        if table_left_out is None:
            files[PARQUET] = work / PARQUET
        text = dataset_readme(
            card,
            repo,
            licence=options.licence,
            has_table=table_left_out is None,
            files=list(files),
        )
    else:
        files = files_of(path, kind, only_best=options.only_best)
        text = model_readme(path.resolve().name, options.licence)
        if kind is Kind.CACHE:
            text = _about_cache(path, repo, options.licence)
    if README not in files:
        files[README] = work / README
        files[README].write_text(text, encoding="utf-8")
    on_step("secrets")
    return Plan(
        kind=kind,
        type=type_ or (RepoType.MODEL if kind is Kind.MODEL else RepoType.DATASET),
        files=files,
        bytes=size_of(files),
        found=secrets_in(files, options.profile, options.allowed),
        held_out=held_out_in(files),
        table_left_out=table_left_out,
    )


def require_harmless(plan: Plan, options: PushOptions) -> None:
    """Refuse what must not be published.

    Raises:
        DataError: it holds secrets or held-out answers, and nobody said that this is meant.
    """
    if plan.found and not options.allow_findings:
        first = plan.found[0]
        raise DataError(
            f"{len(plan.found)} places look secret, the first in {first.file}: {first.what.kind}, "
            f"{first.what.key} {first.what.path}".rstrip()
            + ". Nothing was pushed. Take them out (`cacherl record --redact secrets`, `cacherl cache redact`), "
            "name what is harmless with --allow, or say --allow-findings."
        )
    if plan.held_out.any and not options.include_held_out:
        raise DataError(
            f"{plan.held_out.tasks_with_gold:,} held-out tasks with their right answers and "
            f"{plan.held_out.answers:,} held-out tool results would become public, and models that are "
            "trained on them cannot be measured by them. Nothing was pushed. Push the training folder, or say "
            "--include-held-out."
        )


def push(plan: Plan, repo: str, hub: Hub, options: PushOptions) -> Commit:
    """Put the files of a plan onto a hub, in one commit; files of ours that are no more go.

    Raises:
        DataError: see `require_harmless`.
        HubError: the hub cannot be reached or refuses.
    """
    require_harmless(plan, options)
    files = dict(plan.files)
    if options.keep_readme:
        files.pop(README)
    gone = set(known_names()) - set(plan.files) if plan.kind is Kind.FOLDER else set()
    return hub.push(
        repo,
        plan.type,
        files,
        gone=gone,
        private=options.private,
        revision=options.revision,
        message=options.message or f"Push a {plan.kind.value} with cacherl",
    )


def current_card(folder: DataFolder, now: datetime) -> Card:
    """Return the folder's data card, made anew where it is about another file than the furthest one."""
    best = folder.best()
    card = read_card(folder.card_json)
    if card is None or file_facts(best, THIS_SET) not in card.files:
        card = describe_folder(folder, Wanted(source=best, made_at=now))
        write_card(card, folder.card_html)
    return card


def _about_cache(path: Path, repo: str, licence: str | None) -> str:
    with open_cache(str(path)) as cache:
        tools = [name for _, name in cache.store.tools()]
        calls = sum(1 for _ in cache.store.entries())
    return cache_readme(path.name, repo, calls, tools, licence)


def _table(path: Path, out: Path) -> str | None:
    """Write the conversations for TRL, or return why there are none."""
    out.parent.mkdir(parents=True)
    try:
        export_folder(path, out, ExportOptions(format_name="trl"))
    except DataError as error:  # all held out, or nothing that anybody should learn from
        return str(error)
    return None
