"""Suites keep facts in the data folder; tests get one of their own."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def data_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the data folder of this test. The machine's own is never written."""
    folder = tmp_path_factory.mktemp("data")
    monkeypatch.setenv("CACHERL_HOME", str(folder))
    return folder
