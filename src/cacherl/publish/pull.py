"""One commit of a hub's repository into one folder, checked byte for byte."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from cacherl.cache.storage.health import verify
from cacherl.cache.storage.snapshot import is_snapshot
from cacherl.core.errors import CacheError, DataError, HubError
from cacherl.core.folders import DataFolder
from cacherl.core.hubs import Commit, Hub, HubFile, RepoType
from cacherl.core.jsonl import atomic_writer, read_jsonl
from cacherl.core.records import Record
from cacherl.core.tasks import Task
from cacherl.core.trajectories import Trajectory

PULLED = "hub.json"
"""Says where a folder came from."""

_CLIENTS_OWN = ".cache"
"""Where the client keeps how far it is."""


class Pulled(Record, frozen=True, kw_only=True):
    """Where a folder came from, to the byte."""

    repo: str
    type: RepoType
    revision: str | None
    """As it was asked for."""
    commit: str
    """What it meant then."""
    url: str
    pulled_at: datetime
    files: int
    bytes: int
    caches: tuple[str, ...]
    """Files that are caches, all of them whole."""
    remarks: tuple[str, ...] = ()


def pull(
    hub: Hub,
    repo: str,
    type_: RepoType,
    out: Path,
    *,
    revision: str | None,
    now: datetime,
    on_step: Callable[[str], None] = lambda what: None,
) -> Pulled:
    """Bring a repository's files, as they are at a revision, into `out`.

    The revision is pinned to its commit first. Everything is brought into a folder beside `out`, checked
    against the hub's own ids of every file, records against their own checksums, caches to their last
    byte; then it becomes `out`, all at once. A pull that broke off goes on where it was.

    Raises:
        HubError: the hub cannot be reached or refuses, or a file is not what it says.
        DataError: `out` holds something else, or what was pushed is damaged.
    """
    commit = hub.look(repo, type_, revision)
    if out.exists() and any(out.iterdir()):
        on_step("check")
        return _there_already(out, commit)
    stage = out.with_name(f".{out.name}.{commit.sha[:12]}.pulling")
    on_step("download")
    hub.download(commit, stage)
    on_step("check")
    check_files(commit, stage)
    caches, remarks = check_contents(stage)
    shutil.rmtree(stage / _CLIENTS_OWN, ignore_errors=True)
    pulled = Pulled(
        repo=commit.repo,
        type=type_,
        revision=revision,
        commit=commit.sha,
        url=commit.url,
        pulled_at=now,
        files=len(commit.files),
        bytes=sum(file.bytes for file in commit.files),
        caches=caches,
        remarks=remarks,
    )
    with atomic_writer(stage / PULLED) as handle:
        handle.write(msgspec.json.format(msgspec.json.encode(pulled), indent=2) + b"\n")
    stage.replace(out)
    return pulled


def _there_already(out: Path, commit: Commit) -> Pulled:
    """Return what an earlier pull of the same commit brought, checked again.

    Raises:
        DataError: there is something else.
    """
    try:
        held = msgspec.json.decode((out / PULLED).read_bytes(), type=Pulled)
    except (OSError, msgspec.DecodeError):
        held = None
    if held is None:
        raise DataError(f"{out}: holds something already. Name another folder with --out.")
    if (held.repo, held.type, held.commit) != (commit.repo, commit.type, commit.sha):
        raise DataError(
            f"{out}: holds {held.repo} at {held.commit[:12]}; this would be {commit.repo} at "
            f"{commit.sha[:12]}. Name another folder with --out."
        )
    check_files(commit, out)
    return held


def check_files(commit: Commit, folder: Path) -> None:
    """Check every file against the hub's own id of it.

    Raises:
        HubError: one is missing or another; it is deleted, so that the next pull brings it.
    """
    for file in commit.files:
        path = folder / file.name
        if not path.is_file() or not is_file_of(file, path):
            path.unlink(missing_ok=True)
            raise HubError(
                f"{path}: is not the file that {commit.repo} has at {commit.sha[:12]}. It was deleted: "
                "run the same command again."
            )


def is_file_of(file: HubFile, path: Path) -> bool:
    """Say whether a file on disk is what a hub says that it is."""
    size = path.stat().st_size
    if size != file.bytes:
        return False
    with path.open("rb") as handle:
        if file.sha256 is not None:
            return hashlib.file_digest(handle, "sha256").hexdigest() == file.sha256
        if file.git_sha1 is None:
            return True
        blob = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
        while chunk := handle.read(1 << 20):
            blob.update(chunk)
        return blob.hexdigest() == file.git_sha1


def check_contents(root: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Check records and caches by their own checksums; return the caches, and remarks on what is none.

    Raises:
        DataError: something was damaged before it was pushed.
    """
    folder = DataFolder(root)
    kinds: dict[Path, Any] = {
        folder.tasks: Task,
        folder.trajectories: Trajectory,
        folder.augmented: Trajectory,
        folder.selected: Trajectory,
    }
    for path, kind in kinds.items():
        if path.exists():
            for _ in read_jsonl(path, kind):
                pass
    caches, remarks = [], []
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root)
        if not path.is_file() or name.parts[0] == _CLIENTS_OWN:
            continue
        if path.suffix != ".sqlite" and not is_snapshot(path):
            continue
        try:
            health = verify(path)
        except CacheError as error:
            remarks.append(f"{name} is no cache: {error}")
            continue
        if health.problems:
            raise DataError(
                f"{path}: was damaged before it was pushed: {health.problems[0]}. "
                "`cacherl cache repair` saves what can be read of it."
            )
        for left in (f"{path.name}-wal", f"{path.name}-shm"):  # of looking at it
            path.with_name(left).unlink(missing_ok=True)
        caches.append(str(name))
    return tuple(caches), tuple(remarks)
