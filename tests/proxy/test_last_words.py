"""Why a program ended, of all that it wrote."""

from __future__ import annotations

import pytest

from cacherl.proxy.last_words import last_words

PYTHON = """Traceback (most recent call last):
  File "/x/server.py", line 3, in <module>
    import nothing
ModuleNotFoundError: No module named 'nothing'
"""
NODE = """node:internal/modules/cjs/loader:1228
  throw err;
  ^

Error: Cannot find module '/x/server.js'
    at Module._resolveFilename (node:internal/modules/cjs/loader:1225:15)
    at Module._load (node:internal/modules/cjs/loader:1051:27) {
  code: 'MODULE_NOT_FOUND',
  requireStack: []
}

Node.js v20.11.1
"""
NPM = """npm error code E404
npm error 404  'no-such-server@*' is not in this registry.
npm error A complete log of this run can be found in: /root/.npm/_logs/2026-debug-0.log
"""


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (PYTHON, "ModuleNotFoundError: No module named 'nothing'"),
        (NODE, "Error: Cannot find module '/x/server.js'"),
        (NPM, "npm error 404 'no-such-server@*' is not in this registry."),
        ("usage: s [-h]\ns: error: --db is required\nbye\n", "s: error: --db is required"),
        ("Usage: server DIR\nAt least one folder, please\n\n", "At least one folder, please"),
        ("}\n", "}"),
        ("\n", ""),
        ("", ""),
        ("x" * 500, "x" * 200),
    ],
)
def test_the_line_that_tells_why_is_found(said: str, line: str) -> None:
    """Below it stand frames, versions and where a log lies."""
    assert last_words(said.splitlines()) == line
