"""What a program that ended is quoted with."""

from __future__ import annotations

import pytest

from cacherl.toolbox.failures import said_last

NPM = """\
npm error code E404
npm error 404 Not Found - GET https://registry.npmjs.org/@modelcontextprotocol%2fserver-no-such-thing
npm error 404
npm error 404  The requested resource '@modelcontextprotocol/server-no-such-thing@*' could not be found.
npm error 404
npm error 404 Note that you can also install from a
npm error 404 tarball, folder, http url, or git url.
npm error A complete log of this run can be found in: /root/.npm/_logs/2026-11-24T15_03_38_054Z-debug-0.log
"""


def test_a_missing_npm_package_is_named() -> None:
    """npm ends with the place of its log, which tells a reader nothing."""
    said = said_last(NPM)

    assert "server-no-such-thing@*' could not be found" in said
    assert "Not Found - GET https://registry.npmjs.org" in said
    assert "complete log" not in said
    assert "tarball" not in said


@pytest.mark.parametrize(
    ("stderr", "said"),
    [
        ("", ""),
        ("\n ^^^^\n", ""),
        ("no licence\n", "no licence"),
        ('Traceback (most recent call last):\n  File "a.py", line 1\nKeyError: 1', "KeyError: 1"),
        ("one\ntwo\nthree\nfour\n", "two | three | four"),
        ("Error: no port\n    at listen (a.js:1)\n\nNode.js v20.1.0\n", "Error: no port"),
        ("npm ERR! code E401\n", "E401"),
    ],
)
def test_the_lines_that_tell_are_quoted(stderr: str, said: str) -> None:
    """Stacks and rules say where, not why."""
    assert said_last(stderr) == said


def test_a_flood_is_bounded() -> None:
    """An error stays one line that fits a terminal's."""
    assert len(said_last("x" * 10_000)) == 400
