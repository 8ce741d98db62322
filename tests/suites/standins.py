"""Suites over stand-ins, large enough to draw from: for the contract that every suite is held to."""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import sys
import tempfile
from pathlib import Path

from cacherl.core.suites import Suite
from cacherl.core.tasks import Split
from cacherl.suites.acebench import AceBench
from cacherl.suites.acebench.checkout import MULTI_STEP
from cacherl.suites.own import OwnSuite
from cacherl.suites.tau import TauSuite
from cacherl.wiring import toolbox_world
from tests.suites.acebench_checkout import build
from tests.suites.tau_checkout import build_v1

MORE = 90
"""About a fifth of the tasks are for DEV."""

SHELF = '''
from cacherl.toolbox.functions import tool


class Shelf:
    def __init__(self):
        self._books = {}

    @tool(reads=[], writes=["book:{title}"])
    def put(self, title: str) -> str:
        """Put a book on the shelf."""
        self._books[title] = "here"
        return "done"

    @tool(reads=["book:{title}"], writes=[])
    def look(self, title: str) -> str:
        """Look for a book."""
        return self._books.get(title, "absent")


def open_tools(scenario: str) -> Shelf:
    return Shelf()
'''


@functools.cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="cacherl-suites-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def acebench() -> Suite:
    """Return ACEBench's multi_step over a stand-in."""
    return AceBench(build(_folder() / "acebench", more=MORE), categories=[MULTI_STEP])


def tau() -> Suite:
    """Return tau-bench over a stand-in, with a scripted user."""
    checkout = build_v1(_folder() / "tau", more=MORE)
    return TauSuite("tau-bench", checkout, "library", python=Path(sys.executable), scripted=True)


def own() -> Suite:
    """Return a person's tasks on a shelf."""
    folder = _folder() / "own"
    folder.mkdir()
    (folder / "shelf.py").write_text(SHELF)
    tools = folder / "tools.toml"
    tools.write_text('namespace = "shelf"\nresets = true\n[python.shelf]\nmodule = "shelf.py"\n')
    lines = [
        {
            "task": f"Put book {n} on the shelf.",
            "expect": {
                "calls": [{"name": "put", "arguments": {"title": f"book {n}"}}],
                "state": [{"name": "look", "arguments": {"title": f"book {n}"}, "equals": "here"}],
            },
        }
        for n in range(20)
    ]
    tasks = folder / "tasks.jsonl"
    tasks.write_text("\n".join(map(json.dumps, lines)))
    return OwnSuite(toolbox_world(tools), tasks, whole=Split.DEV)
