"""Which code and which machine made a figure."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import subprocess
from datetime import datetime
from pathlib import Path

from cacherl import __version__
from cacherl.core.records import Record

_PACKAGE = Path(__file__).parents[1]


class Made(Record, frozen=True, kw_only=True):
    """One run of the command, and what ran."""

    at: datetime
    version: str
    commit: str
    """Empty where cacherl does not run from a checkout."""
    code: str
    """Digest of cacherl's source files: equal digests, equal code, whatever the commit says."""
    machine: str
    played: int = 0
    """Rows that this run added."""
    wall_s: float = 0.0


def made_now(at: datetime, *, played: int = 0, wall_s: float = 0.0) -> Made:
    """Return what runs here and now."""
    return Made(
        at=at,
        version=__version__,
        commit=commit(),
        code=code_digest(),
        machine=machine(),
        played=played,
        wall_s=wall_s,
    )


def machine() -> str:
    """Return what this machine is, in a few words."""
    return f"{os.cpu_count()} CPU cores, {platform.machine()}, Python {platform.python_version()}"


@functools.cache
def commit() -> str:
    """Return the commit of the source tree that runs, or nothing where there is none."""
    try:
        done = subprocess.run(  # noqa: S603 - a fixed command, no shell
            ["git", "-C", str(_PACKAGE), "rev-parse", "--short", "HEAD"],  # noqa: S607
            capture_output=True,
            text=True,
            check=False,
            timeout=5,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


@functools.cache
def code_digest() -> str:
    """Return the digest of every source file of the package."""
    digest = hashlib.blake2b(digest_size=12)
    for path in sorted(_PACKAGE.rglob("*.py")):
        digest.update(path.relative_to(_PACKAGE).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def files_digest(folder: Path) -> str:
    """Return the digest of the files directly in a folder: a model's weights, settings and tokenizer."""
    digest = hashlib.blake2b(digest_size=12)
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as handle:
            digest.update(hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()
