"""A real Redis server for as long as a test needs it: loopback and a unix socket, nothing on disk."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

_STARTS_WITHIN_S = 20.0


@dataclass(slots=True)
class RedisServer:
    """One server; its data lives as long as its process."""

    port: int
    socket: Path
    options: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its address on the loopback interface."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def unix_url(self) -> str:
        """Its address on the unix socket."""
        return f"unix://{self.socket}?db=0"

    def start(self) -> None:
        """Start it, and wait until it listens."""
        program = shutil.which("redis-server")
        if program is None:
            pytest.skip("redis-server is not on PATH: apt-get install redis-server")
        self.process = subprocess.Popen(
            [
                program,
                *("--bind", "127.0.0.1", "--port", str(self.port)),
                *("--unixsocket", str(self.socket), "--dir", str(self.socket.parent)),
                *("--save", "", "--appendonly", "no", "--loglevel", "warning"),
                *self.options,
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        give_up = time.monotonic() + _STARTS_WITHIN_S
        while not self._listens():
            if self.process.poll() is not None or time.monotonic() > give_up:
                raise RuntimeError(f"redis-server did not start on port {self.port}")
            time.sleep(0.01)

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as unix, socket.socket() as tcp:
            return (
                unix.connect_ex(str(self.socket)) == 0
                and tcp.connect_ex(("127.0.0.1", self.port)) == 0
            )

    def kill(self) -> None:
        """Kill it; everything in it is gone. Safe to call twice."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@contextlib.contextmanager
def running_redis(*options: str) -> Iterator[RedisServer]:
    """Run a server on a free port; skip the test where there is no redis-server."""
    # Not tmp_path: a unix socket's path may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:
        server = RedisServer(port=free_port(), socket=Path(folder) / "s", options=options)
        server.start()
        try:
            yield server
        finally:
            server.kill()


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
