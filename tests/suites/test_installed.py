"""What `cacherl suites add` keeps, and where: whole and as pinned, or not at all."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cacherl.core.errors import DataError
from cacherl.core.suites import SuiteInfo, UserKind
from cacherl.suites.bfcl.wheel import WHEEL, backend, checked, installed
from cacherl.suites.installed import data_home, put, remembered, suite_folder
from tests.suites.bfcl_wheel import needs_wheel, wheel


def info(pin: str, tasks: int = 1) -> SuiteInfo:
    return SuiteInfo(
        name="s",
        title="S",
        tasks=tasks,
        distinct_questions=1,
        splits={"test": tasks},
        licence="MIT",
        user=UserKind.SCRIPTED,
        pin=pin,
    )


def test_the_data_folder_is_where_the_person_says_else_where_the_system_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Home folders are small on clusters; a wheel must be able to lie elsewhere."""
    monkeypatch.setenv("CACHERL_HOME", str(tmp_path / "mine"))
    assert data_home() == tmp_path / "mine"
    monkeypatch.delenv("CACHERL_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    assert suite_folder("bfcl") == tmp_path / "share" / "cacherl" / "suites" / "bfcl"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data_home() == tmp_path / ".local" / "share" / "cacherl"


def test_a_file_is_put_whole_and_as_pinned_or_not_at_all(tmp_path: Path) -> None:
    """Code is run out of it: another file, or half of one, must never lie there."""
    right = hashlib.sha256(b"right").hexdigest()
    at = tmp_path / "deep" / "file"

    with pytest.raises(DataError, match=f"sha256 .*, expected {right}"):
        put(at, lambda path: path.write_bytes(b"wrong"), sha256=right)
    with pytest.raises(ZeroDivisionError):
        put(at, lambda path: path.write_bytes(b"x" * (1 // 0)))
    assert list(at.parent.iterdir()) == []

    put(at, lambda path: path.write_bytes(b"right"), sha256=right)
    with pytest.raises(DataError):
        put(at, lambda path: path.write_bytes(b"wrong"), sha256=right)
    assert [(each.name, each.read_bytes()) for each in at.parent.iterdir()] == [("file", b"right")]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """The fix is a variable to set."""
    (tmp_path / "taken").write_text("a file")

    with pytest.raises(DataError, match="Set CACHERL_HOME"):
        put(tmp_path / "taken" / "x", lambda path: path.write_bytes(b""))


@pytest.mark.parametrize("damage", [b"", b"{}", b"not json"])
def test_what_is_remembered_of_a_suite_is_made_again_where_it_is_damaged(
    data_folder: Path, damage: bytes
) -> None:
    """A half-written file must not stop an evaluation, nor a wrong one feed it."""
    assert remembered("p1", lambda: info("p1")) == info("p1")
    assert remembered("p1", lambda: info("p1", tasks=9)) == info("p1")  # remembered
    assert remembered("p2", lambda: info("p2", tasks=9)) == info("p2", tasks=9)

    for kept in (data_folder / "suites" / "info").iterdir():
        kept.write_bytes(damage)
    assert remembered("p1", lambda: info("p1", tasks=5)) == info("p1", tasks=5)


def test_an_unwritable_data_folder_only_costs_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Facts that can be counted again are no reason to stop."""
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setenv("CACHERL_HOME", str(tmp_path / "taken"))

    assert remembered("p1", lambda: info("p1")) == info("p1")


# ---- the command


def cacherl(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cacherl.cli", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **(env or {})},
        check=False,
    )


def test_what_is_not_here_is_listed_with_what_brings_it() -> None:
    """`bfcl` is worth knowing of before it is there."""
    told = cacherl("suites", "list", "--json")
    shown = cacherl("suites", "show", "bfcl")

    assert told.returncode == 0
    listed = json.loads(told.stdout)
    assert [each["name"] for each in listed["suites"]] == ["desk"]
    assert "Run `cacherl suites add bfcl`" in listed["not_here"]["bfcl"]
    assert shown.returncode == 1
    assert shown.stderr.startswith("Error: the suite bfcl is not on this machine")


def test_a_wrong_wheel_is_refused_and_leaves_nothing(tmp_path: Path, data_folder: Path) -> None:
    """Another version has other tasks, and another file other code."""
    (tmp_path / "other.whl").write_bytes(b"not a wheel")

    other = cacherl("suites", "add", "bfcl", "--wheel", str(tmp_path / "other.whl"))
    absent = cacherl("suites", "add", "bfcl", "--wheel", str(tmp_path / "none.whl"))

    assert (other.returncode, absent.returncode) == (1, 1)
    assert "expected 3bb6dfa5f0c6" in other.stderr
    assert "no such file" in absent.stderr
    assert not list(data_folder.rglob("*.whl"))
    with pytest.raises(DataError, match="not on this machine"):
        installed()


def test_nothing_is_added_for_a_suite_that_needs_nothing() -> None:
    """And a name that is none is told with those that are."""
    assert "desk needs nothing added" in cacherl("suites", "add", "desk").stderr
    assert "There are: desk, bfcl" in cacherl("suites", "add", "dsek").stderr


class _Index(http.server.SimpleHTTPRequestHandler):
    """A package index on loopback: the simple API over a folder."""

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def index(tmp_path: Path) -> Iterator[str]:
    page = tmp_path / "simple" / "bfcl-eval"
    page.mkdir(parents=True)
    (page / WHEEL).symlink_to(wheel().resolve())
    (page / "index.html").write_text(f'<a href="{WHEEL}">{WHEEL}</a>')
    handler = functools.partial(_Index, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/simple"
        server.shutdown()
        thread.join()


@needs_wheel
def test_the_wheel_comes_from_the_index_pip_is_set_to_and_brings_nothing_else(
    index: str, data_folder: Path
) -> None:
    """Its 32 pinned dependencies must never become ours; companies have indexes of their own."""
    env = {"PIP_INDEX_URL": index, "PIP_CONFIG_FILE": os.devnull, "PIP_EXTRA_INDEX_URL": ""}

    added = cacherl("suites", "add", "bfcl", "--json", env=env)
    again = cacherl("suites", "add", "bfcl", env={"PIP_INDEX_URL": "http://127.0.0.1:1/simple"})

    assert added.returncode == 0, added.stderr
    at = Path(json.loads(added.stdout)["path"])
    assert [path for path in data_folder.rglob("*") if path.is_file()] == [at]
    assert at == installed()
    assert again.returncode == 0  # it lies there and is as pinned: nobody is asked


def test_an_index_that_cannot_be_reached_is_told_with_the_way_around_it() -> None:
    """Many machines that train have no network."""
    env = {
        "PIP_INDEX_URL": "http://127.0.0.1:1/simple",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_RETRIES": "0",
    }

    told = cacherl("suites", "add", "bfcl", env=env)

    assert told.returncode == 1
    assert "--wheel FILE" in told.stderr
    assert len(told.stderr.splitlines()) == 1


@needs_wheel
def test_show_says_floor_and_ceiling_and_is_fast_the_second_time(
    data_folder: Path,
) -> None:
    """A number on a suite means nothing without what doing nothing and what gold earn."""
    assert cacherl("suites", "add", "bfcl", "--wheel", str(wheel())).returncode == 0

    first = json.loads(cacherl("suites", "show", "bfcl", "--json").stdout)
    kept = {path: path.stat().st_mtime_ns for path in (data_folder / "bounds").iterdir()}
    second = cacherl("suites", "show", "bfcl")

    assert (first["n"], first["floor"], first["ceiling"]) == (160, 0.0, 159 / 160)
    assert first["gold_failed"] == ["multi_turn_miss_func_49"]
    assert "0.994  (its gold; test, n = 160)" in second.stdout
    assert "gold fails         multi_turn_miss_func_49" in second.stdout
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


@needs_wheel
def test_a_wheel_is_checked_before_code_is_run_out_of_it(tmp_path: Path) -> None:
    """Between adding and using, a file can change."""
    changed = tmp_path / WHEEL
    changed.write_bytes(wheel().read_bytes() + b"\0")

    with pytest.raises(DataError, match="expected 3bb6dfa5f0c6"):
        backend(changed, "MathAPI")
    assert checked(wheel()) == wheel().resolve()


@needs_wheel
def test_another_bfcl_eval_in_the_process_is_refused(tmp_path: Path) -> None:
    """Its backends may be of another version, and would be judged as ours."""
    (tmp_path / "bfcl_eval").mkdir()
    (tmp_path / "bfcl_eval" / "__init__.py").write_text("")
    code = (
        "import sys; from pathlib import Path\n"
        "import bfcl_eval\n"
        "from cacherl.suites.bfcl.wheel import backend\n"
        "backend(Path(sys.argv[1]), 'MathAPI')"
    )

    ran = subprocess.run(
        [sys.executable, "-c", code, str(wheel())],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        check=False,
    )

    assert "another bfcl_eval" in ran.stderr
