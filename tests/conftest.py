"""What holds for every test: hypothesis profiles, and no network."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# Wall-clock deadlines make a busy two-core machine fail tests that are right.
settings.register_profile("fast", max_examples=40, deadline=None)
settings.register_profile(
    "ci", max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))

# Two cores are shared with everything else; a tiny model is not faster on more threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "agg")

LOOPBACK = ("127.", "::1", "localhost")


class _NetworkGuard:
    """Refuses connections to other machines while `closed`. An audit hook cannot be removed, so it is switched."""

    def __init__(self) -> None:
        self.closed = False

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.closed or event != "socket.connect":
            return
        address = args[1]
        if isinstance(address, tuple) and not str(address[0]).startswith(LOOPBACK):
            raise RuntimeError(
                f"a test tried to reach {address[0]}:{address[1]}. "
                "Mark it `live` if it must, or give it a local server."
            )


_guard = _NetworkGuard()
sys.addaudithook(_guard)


@pytest.fixture(autouse=True)
def _no_network(request: pytest.FixtureRequest) -> Iterator[None]:
    _guard.closed = request.node.get_closest_marker("live") is None
    yield
    _guard.closed = False
