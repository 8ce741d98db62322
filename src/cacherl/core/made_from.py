"""What a file of a data folder was made from, so that a file that has fallen behind can be told."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Sequence
from pathlib import Path

import msgspec

from cacherl.core.errors import DataError
from cacherl.core.folders import DataFolder
from cacherl.core.records import Record


class MadeFrom(Record, frozen=True, kw_only=True):
    """A file as it was when another was made from it."""

    file: str
    """Its name in the folder; a whole path where it lies elsewhere."""
    bytes: int
    sha256: str
    named: bool = False
    """A person named this file; else it was the furthest there was."""
    renew: str = ""
    """The command that makes the other file anew, after `cacherl `."""

    def is_now(self, root: Path) -> bool:
        """Say whether the file is still the same, byte for byte."""
        path = root / self.file
        try:
            return path.stat().st_size == self.bytes and digest_of(path) == self.sha256
        except OSError:
            return False


def made_from(
    folder: DataFolder, source: Path, renew: Sequence[str], *, named: bool = False
) -> MadeFrom:
    """Return what the source is now; `renew` is the command line that makes its product anew.

    Raises:
        DataError: it cannot be read.
    """
    inside = source.resolve().parent == folder.root.resolve()
    try:
        return MadeFrom(
            file=source.name if inside else str(source.resolve()),
            bytes=source.stat().st_size,
            sha256=digest_of(source),
            named=named,
            renew=shlex.join(renew),
        )
    except OSError as error:
        raise DataError(
            f"{source}: cannot be read ({error.strerror}). Make it with `cacherl record` or "
            "`cacherl import`."
        ) from error


def fallen_behind(folder: DataFolder, path: Path) -> str:
    """Return a line on what the trajectories in `path` no longer are made from; empty where all is well.

    Files of versions that did not note what they were made from are taken as they are.
    """
    notes = {folder.selected: folder.select_json, folder.augmented: folder.augment_json}
    made = noted(notes[path]) if path in notes and path.exists() else None
    if made is None:
        return ""
    source = folder.root / made.file
    could_be_further = path == folder.selected and source == folder.trajectories and not made.named
    behind = ""
    if not made.is_now(folder.root):
        behind = f"{path} is out of date: {made.file} has changed since."
    elif could_be_further and folder.augmented.exists():
        behind = f"{path} was made before {folder.augmented.name}, from {made.file}."
    if behind:
        return f"{behind} Renew it: cacherl {made.renew}"
    return fallen_behind(folder, source)


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


class _Note(msgspec.Struct):
    made_from: MadeFrom | None = None


def noted(path: Path) -> MadeFrom | None:
    """Return what a summary such as augment.json says its file was made from; None where it says nothing."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Note).made_from
    except (FileNotFoundError, msgspec.DecodeError):
        return None
