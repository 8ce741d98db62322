"""One sample run, shared by the tests of the page."""

from __future__ import annotations

import asyncio

import pytest

from cacherl.report import ReportData
from tests.report.sample import sample_report


@pytest.fixture(scope="session")
def sample() -> ReportData:
    return asyncio.run(sample_report())
