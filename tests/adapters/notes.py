"""The notebook server of `mcp_notes_server.py`, over stdio or as a process that listens."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cacherl.adapters.mcp_tools import McpServer

SCRIPT = str(Path(__file__).with_name("mcp_notes_server.py"))
_STARTS_WITHIN_S = 30.0


def over_stdio(
    name: str = "notes", *, log: Path | None = None, scenario: str = "{scenario}"
) -> McpServer:
    """Return the server as a program to start."""
    env = {"NOTES_LOG": str(log)} if log is not None else {}
    return McpServer(name=name, command=sys.executable, args=(SCRIPT, scenario), env=env)


def logged(log: Path) -> list[str]:
    """Return what servers wrote into their log."""
    return log.read_text(encoding="utf-8").splitlines() if log.exists() else []


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@dataclass(slots=True)
class HttpNotes:
    """A notebook server over streamable HTTP, on a free port of the loopback interface."""

    log: Path
    port: int = field(default_factory=_free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def server(self) -> McpServer:
        return McpServer(name="notes", url=f"http://127.0.0.1:{self.port}/mcp")

    def start(self) -> None:
        """Start it, and wait until it listens."""
        self.process = subprocess.Popen(
            [sys.executable, SCRIPT, "web", str(self.port)],
            env=os.environ | {"NOTES_LOG": str(self.log)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        give_up = time.monotonic() + _STARTS_WITHIN_S
        while not self._listens():
            if self.process.poll() is not None or time.monotonic() > give_up:
                raise RuntimeError(f"the notebook server did not start on port {self.port}")
            time.sleep(0.02)

    def kill(self) -> None:
        """End it at once, as a crash would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1.0):
            return True
        return False


@contextlib.contextmanager
def http_notes(log: Path) -> Iterator[HttpNotes]:
    """Run a notebook server for as long as a test needs it."""
    server = HttpNotes(log)
    server.start()
    try:
        yield server
    finally:
        server.kill()
