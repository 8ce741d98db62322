"""The seam to a hub of models and data sets."""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Protocol

from cacherl.core.records import Record


class RepoType(enum.StrEnum):
    """What a repository is for."""

    DATASET = "dataset"
    MODEL = "model"


class HubFile(Record, frozen=True, kw_only=True):
    """One file of a commit."""

    name: str
    """Its path in the repository."""
    bytes: int
    sha256: str | None = None
    """Of a large file."""
    git_sha1: str | None = None
    """Git's id of any other."""


class Commit(Record, frozen=True, kw_only=True):
    """One commit of a repository; it never changes."""

    repo: str
    type: RepoType
    sha: str
    url: str
    """For a browser."""
    private: bool
    files: tuple[HubFile, ...]


class Hub(Protocol):
    """A hub. Logins and endpoints are its own affair.

    Everything raises `HubError` where the hub cannot be reached or refuses.
    """

    def push(
        self,
        repo: str,
        type_: RepoType,
        files: Mapping[str, Path | bytes],
        *,
        gone: Collection[str],
        private: bool,
        revision: str | None,
        message: str,
    ) -> Commit:
        """Make these the repository's files of these names, in one commit; make repository and branch if need be.

        What was uploaded before an interruption is not uploaded again.

        Args:
            repo: `owner/name`, or a name of one's own.
            type_: what it is for.
            files: by path in the repository.
            gone: paths that go, where they are there.
            private: nobody else may see it; refused where the repository is there and public.
            revision: the branch; None is the main one.
            message: of the commit.
        """
        ...

    def look(self, repo: str, type_: RepoType, revision: str | None) -> Commit:
        """Return what a branch, a tag or a commit holds now."""
        ...

    def download(self, commit: Commit, folder: Path) -> None:
        """Bring the files of a commit into the folder. Begun again, it goes on where it was."""
        ...
