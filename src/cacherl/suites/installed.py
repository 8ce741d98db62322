"""Where `cacherl suites add` puts what a suite needs, and where measured facts of suites are kept."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from cacherl.core.errors import DataError
from cacherl.core.suites import SuiteInfo


def data_home() -> Path:
    """Return the folder of what is kept between runs: `$CACHERL_HOME`, or XDG's data folder."""
    told = os.environ.get("CACHERL_HOME")
    if told:
        return Path(told).expanduser()
    share = os.environ.get("XDG_DATA_HOME")
    return (Path(share).expanduser() if share else Path.home() / ".local" / "share") / "cacherl"


def suite_folder(name: str) -> Path:
    """Return the folder of one suite. It need not exist."""
    return data_home() / "suites" / name


@contextmanager
def beside(folder: Path) -> Iterator[Path]:
    """Lend an empty folder on the disk of `folder`, so that a finished file moves there in one step.

    Raises:
        DataError: `folder` cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lent = tempfile.TemporaryDirectory(prefix=".adding-", dir=folder)
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be written ({error.strerror}). Set CACHERL_HOME to a folder of yours."
        ) from error
    with lent as path:
        yield Path(path)


def put(at: Path, write: Callable[[Path], object], *, sha256: str | None = None) -> Path:
    """Have a file written and move it to `at`: whole and as pinned, or not at all.

    Args:
        at: where it belongs.
        write: writes the file to the path it is handed.
        sha256: what it must be; None takes anything.

    Raises:
        DataError: it is another file, or `at` cannot be written.
    """
    with beside(at.parent) as lent:
        made = lent / at.name
        write(made)
        if sha256 is not None:
            check_digest(made, sha256, called=at.name)
        made.replace(at)
    return at


def check_digest(path: Path, sha256: str, *, called: str) -> None:
    """Raise unless the file is the pinned one.

    Raises:
        DataError: it is another one, or cannot be read.
    """
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error
    if found != sha256:
        raise DataError(
            f"{called}: sha256 {found}, expected {sha256}. It is damaged or another version, and is "
            "not used. Add the suite again."
        )


def remembered(pin: str, make: Callable[[], SuiteInfo]) -> SuiteInfo:
    """Return what `make` says of a suite, once for each pin: counting tasks may take seconds.

    Where the data folder cannot be written it is made again every time.
    """
    at = data_home() / "suites" / "info" / f"{hashlib.sha256(pin.encode()).hexdigest()[:24]}.json"
    try:
        kept = msgspec.json.decode(at.read_bytes(), type=SuiteInfo)
        if kept.pin == pin:
            return kept
    except (OSError, msgspec.DecodeError):
        pass  # not there, or of another version
    made = make()
    try:
        put(at, lambda path: path.write_bytes(msgspec.json.encode(made)))
    except DataError:
        return made
    return made
