"""BFCL's own wheel: fetched once without its 32 dependencies, checked, and imported as it lies.

Source: Berkeley Function Calling Leaderboard v4, `bfcl-eval` on PyPI, Apache-2.0.
"""

from __future__ import annotations

import functools
import importlib
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from cacherl.core.errors import DataError, MissingExtraError
from cacherl.suites.installed import check_digest, put, suite_folder

VERSION = "2026.3.23"
SHA256 = "3bb6dfa5f0c68ad403c9ec50b00db2bb3b4cc9b38ab1ff33f48fe30d853d3a0a"
WHEEL = f"bfcl_eval-{VERSION}-py3-none-any.whl"
ADD = "cacherl suites add bfcl"

BACKENDS: Mapping[str, str] = {
    "GorillaFileSystem": "gorilla_file_system",
    "MathAPI": "math_api",
    "MessageAPI": "message_api",
    "TwitterAPI": "posting_api",
    "TicketAPI": "ticket_api",
    "TradingBot": "trading_bot",
    "TravelAPI": "travel_booking",
    "VehicleControlAPI": "vehicle_control",
}
"""Class -> its module, and the file that documents it."""
_PACKAGE = "bfcl_eval"
_SOURCES = f"{_PACKAGE}.eval_checker.multi_turn_eval.func_source_code"


def wheel_path() -> Path:
    """Return where the wheel is kept. It need not be there."""
    return suite_folder("bfcl") / WHEEL


def add_wheel(given: Path | None = None) -> Path:
    """Keep the wheel, from a file or from the package index that pip is set to; return where.

    Nothing is installed: no dependency of it ever becomes ours. A wheel that is kept already is
    checked and left alone.

    Args:
        given: the file, for a machine without a network.

    Raises:
        DataError: it cannot be fetched or is not the pinned file.
    """
    at = wheel_path()
    if given is None and at.exists():
        check_digest(at, SHA256, called=str(at))
        return at
    if given is not None and not given.is_file():
        raise DataError(f"{given}: no such file. Give --wheel the path of {WHEEL}.")
    return put(
        at, _fetch if given is None else lambda to: shutil.copyfile(given, to), sha256=SHA256
    )


def _fetch(to: Path) -> None:
    asked = [f"bfcl-eval=={VERSION}", "--no-deps", "--only-binary", ":all:", "--dest"]
    quiet = ["--quiet", "--no-input", "--disable-pip-version-check"]
    done = subprocess.run(  # noqa: S603 - our own words
        [sys.executable, "-m", "pip", "download", *quiet, *asked, str(to.parent)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0 or not to.exists():
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        told = lines[-1] if lines else f"pip exited with {done.returncode}"
        raise DataError(
            f"bfcl-eval=={VERSION} could not be downloaded ({told}). Fetch {WHEEL} from "
            f"https://pypi.org/project/bfcl-eval/{VERSION}/#files and run `{ADD} --wheel FILE`."
        )


def installed() -> Path:
    """Return the wheel that was added.

    Raises:
        DataError: none was, or it is damaged.
    """
    at = wheel_path()
    if not at.exists():
        raise DataError(
            f"the suite bfcl is not on this machine (no {at}). Run `{ADD}`, or `{ADD} --wheel FILE` "
            "without a network."
        )
    return at


@functools.cache
def checked(wheel: Path) -> Path:
    """Return the path once the file is known to be the pinned one; code is run out of it.

    Raises:
        DataError: it is another file.
    """
    check_digest(wheel, SHA256, called=str(wheel))
    return wheel.resolve()


def lines(wheel: Path, name: str) -> list[Any]:
    """Return the JSON values of a `.json` file of the wheel's data, one a line.

    Raises:
        DataError: the wheel has no such file.
    """
    with zipfile.ZipFile(checked(wheel)) as archive:
        try:
            text = archive.read(f"{_PACKAGE}/data/{name}")
        except KeyError as error:
            raise DataError(f"{wheel}: holds no {name}. Add the suite again: `{ADD}`.") from error
    return [msgspec.json.decode(line) for line in text.splitlines() if line.strip()]


@functools.cache
def backend(wheel: Path, name: str) -> Any:
    """Return one of its backend classes, imported straight from the wheel.

    Raises:
        DataError: another `bfcl_eval` is imported in this process already.
        MissingExtraError: the backend is MathAPI, and mpmath is not installed.
    """
    path = str(checked(wheel))
    loaded = sys.modules.get(_PACKAGE)
    if loaded is not None:
        origin = Path(loaded.__path__[0]).parent  # a copy of the wheel is as good
        if not origin.is_file():
            raise DataError(
                f"another bfcl_eval ({origin}) is imported in this process; its tools may differ. "
                "Run in an environment without it."
            )
        checked(origin)
    # Only while importing: what is imported later must not find the wheel's other packages.
    sys.path.insert(0, path)
    try:
        return getattr(importlib.import_module(f"{_SOURCES}.{BACKENDS[name]}"), name)
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "mpmath", "suites") from error
    finally:
        sys.path.remove(path)
