"""Where the tests find BFCL's wheel. Nothing here downloads: `.ci/run` adds it beforehand."""

from __future__ import annotations

from pathlib import Path

import pytest

from cacherl.suites.bfcl.wheel import WHEEL, wheel_path

_PLACES = (wheel_path(), Path(__file__).parents[2] / ".cache" / "bfcl" / WHEEL)


def found() -> Path | None:
    return next((place for place in _PLACES if place.is_file()), None)


needs_wheel = pytest.mark.skipif(
    found() is None,
    reason=f"BFCL's wheel is not here ({_PLACES[0]}); `cacherl suites add bfcl` puts it there",
)


def wheel() -> Path:
    path = found()
    assert path is not None
    return path
