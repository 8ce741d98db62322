"""Which files of a folder go up, and what speaks against it."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from pathlib import Path

from cacherl.cache.safety.scan import Allowed, Finding, every_entry, scan_jsonl, scan_store
from cacherl.cache.safety.sensitive import Profile
from cacherl.cache.storage.snapshot import is_snapshot
from cacherl.core.errors import DataError
from cacherl.core.folders import DataFolder
from cacherl.core.jsonl import read_jsonl
from cacherl.core.records import Record
from cacherl.core.tasks import Split, Task
from cacherl.wiring import open_cache

README = "README.md"
PARQUET = "data/train.parquet"
"""The conversations as TRL and `datasets` read them."""

_MODEL = (
    "*.safetensors",
    "*.safetensors.index.json",
    "*.gguf",
    "adapter_config.json",
    "added_tokens.json",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "LICENSE*",
    README,
)
_TEXTS = (".jsonl", ".json", ".html", ".md", ".txt", ".jinja")


class Kind(enum.StrEnum):
    """What a path holds."""

    FOLDER = "data folder"
    CACHE = "cache"
    MODEL = "model"


def kind_of(path: Path) -> Kind:
    """Return what there is to publish at a path.

    Raises:
        DataError: nothing.
    """
    if path.is_file() and (is_snapshot(path) or path.suffix == ".sqlite"):
        return Kind.CACHE
    if DataFolder(path).tasks.is_file():
        return Kind.FOLDER
    if (path / "config.json").is_file() or (path / "adapter_config.json").is_file():
        return Kind.MODEL
    raise DataError(
        f"{path}: holds no tasks.jsonl, is no cache and no model, so there is nothing to push. Name a folder "
        "of `cacherl record` or `cacherl import`, a .sqlite or .snapshot file, or a model folder."
    )


def known_names() -> tuple[str, ...]:
    """Return every name under which a data folder's files go up."""
    folder = DataFolder(Path())
    return (
        folder.tasks.name,
        folder.trajectories.name,
        folder.augmented.name,
        folder.selected.name,
        folder.cache.name,
        folder.card_json.name,
        folder.card_html.name,
        PARQUET,
        README,
    )


def files_of(path: Path, kind: Kind, *, only_best: bool) -> dict[str, Path]:
    """Return the files that go up as they are, by their name there.

    Args:
        path: see `kind_of`.
        kind: what is there.
        only_best: of a data folder's conversations only the furthest file.

    Raises:
        DataError: a cache is still being written to, or a link leads somewhere else.
    """
    found: dict[str, Path] = {}
    match kind:
        case Kind.CACHE:
            found = {path.name: path}
        case Kind.MODEL:
            found = {each.name: each for pattern in _MODEL for each in sorted(path.glob(pattern))}
        case Kind.FOLDER:
            folder = DataFolder(path)
            every = (folder.trajectories, folder.augmented, folder.selected)
            conversations = (folder.best(),) if only_best else every
            parts = (folder.tasks, *conversations, folder.cache, folder.card_json, folder.card_html)
            found = {part.name: part for part in parts if part.exists()}
    for name, file in found.items():
        if not file.resolve().is_relative_to(path.resolve()):
            raise DataError(f"{file}: is a link to {file.resolve()}. Put the file itself there.")
        log = file.with_name(file.name + "-wal")
        if log.exists() and log.stat().st_size:
            raise DataError(
                f"{file}: is being written to: {log.name} holds what {name} does not yet. End the command "
                "that writes, or push a snapshot (`cacherl cache freeze`)."
            )
    return found


class Found(Record, frozen=True, kw_only=True):
    """Something that looks as if it must not be published."""

    file: str
    what: Finding


def secrets_in(
    files: Mapping[str, Path], profile: Profile, allowed: Sequence[Allowed]
) -> tuple[Found, ...]:
    """Return what looks secret in the files; caches are gone over to their last free byte."""
    found = []
    for name, path in files.items():
        if is_snapshot(path) or path.suffix == ".sqlite":
            with open_cache(str(path)) as cache:
                scanned = scan_store(cache.store, name, profile=profile, allowed=allowed, file=path)
        elif path.suffix in _TEXTS:
            scanned = scan_jsonl(path, profile=profile, allowed=allowed)
        else:
            continue
        found += [Found(file=name, what=finding) for finding in scanned.findings]
    return tuple(found)


class HeldOut(Record, frozen=True, kw_only=True):
    """What belongs to a held-out split."""

    tasks_with_gold: int = 0
    answers: int = 0
    """Recorded results in a cache."""

    @property
    def any(self) -> bool:
        """Whether there is something."""
        return bool(self.tasks_with_gold or self.answers)


def held_out_in(files: Mapping[str, Path]) -> HeldOut:
    """Return how much of the files a model must not learn from, if it is to be measured by it."""
    tasks = answers = 0
    for name, path in files.items():
        if name == DataFolder(Path()).tasks.name:
            tasks += sum(
                task.split is not Split.TRAIN and task.gold is not None
                for task in read_jsonl(path, Task)
            )
        elif is_snapshot(path) or path.suffix == ".sqlite":
            with open_cache(str(path)) as cache:
                answers += sum(
                    kept.observation.split is not Split.TRAIN
                    for entry in every_entry(cache.store)
                    for kept in entry.kept
                )
    return HeldOut(tasks_with_gold=tasks, answers=answers)


def size_of(files: Mapping[str, Path]) -> int:
    """Return how many bytes the files are."""
    return sum(path.stat().st_size for path in files.values())
