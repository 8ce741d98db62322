"""What `cacherl.cache` says of itself is so, and its names are there however they are asked for."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import cacherl.cache


def run(script: str) -> str:
    """Run a script in a fresh process, where nothing is imported yet."""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_every_module_of_the_room_stands_in_its_table_once() -> None:
    """A newcomer finds the place of a change in the table alone."""
    told = re.findall(r"^    (\w+)  +\S", cacherl.cache.__doc__ or "", flags=re.MULTILINE)
    there = [path.stem for path in Path(cacherl.cache.__file__).parent.rglob("*.py")]

    assert sorted(told) == sorted(name for name in there if name != "__init__")


@pytest.mark.parametrize("before", ["", "import cacherl.cache.episodes.cached_tool\n"])
def test_public_names_are_there_whatever_was_imported_before(before: str) -> None:
    """`cached_tool` is a function, though a module has its name."""
    names = ", ".join(cacherl.cache.__all__)
    said = run(f"{before}from cacherl.cache import {names}\nprint(cached_tool.__module__, Draw())")

    assert said.startswith("cacherl.cache.episodes.cached_tool Draw(")
    for name in cacherl.cache.__all__:
        assert getattr(cacherl.cache, name).__name__ == name


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    """As of any module: `hasattr` and `from ... import` rely on it."""
    assert not hasattr(cacherl.cache, "Cache")


def test_the_command_line_does_not_load_what_lookups_need() -> None:
    """`cacherl --help` would take twice as long."""
    script = "import sys, cacherl.cli; print(*({'numpy', 'cacherl.cache.lookup.tool_cache'} & set(sys.modules)))"

    assert run(script) == ""
