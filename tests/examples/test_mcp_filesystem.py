"""The page on real MCP servers runs as it stands, and what it says of them is so."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "examples/mcp_filesystem.md").read_text(encoding="utf-8")
SERVERS = ROOT / ".servers"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
SHOWN = [number for number, (language, _) in enumerate(BLOCKS) if language == "text"]

pytestmark = pytest.mark.skipif(
    not (SERVERS / ".installed").exists(),
    reason="the real MCP servers are not installed: make servers",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What came of the page."""

    folder: Path
    """Where the reader stands in the end."""
    printed: dict[int, str]
    """Block to what it printed."""

    def answers(self, name: str) -> list[Any]:
        found: list[Any] = json.loads((self.folder / name).read_text(encoding="utf-8"))
        return found


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    """Run every command of the page, in order, in one shell, in a clone that has been installed."""
    clone = tmp_path_factory.mktemp("clone")
    (clone / ".venv").symlink_to(Path(sys.executable).parents[1])
    (clone / ".servers").symlink_to(SERVERS)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    lines = ["set -euo pipefail"]
    for number, (language, block) in enumerate(BLOCKS):
        if language == "sh":
            out = clone / f"{number}.out"
            lines.append(f"{{\n{block.replace('8765', port)}}} > '{out}' 2>&1")
    script = clone / "page.sh"
    script.write_text("\n".join(lines), encoding="utf-8")
    done = subprocess.run(
        ["bash", str(script)],
        cwd=clone,
        env={**os.environ, "COLUMNS": "200"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    printed = {
        int(path.stem): path.read_text(encoding="utf-8").replace(port, "8765")
        for path in clone.glob("*.out")
    }
    assert done.returncode == 0, (printed[max(printed)] if printed else "") + done.stderr
    return Played(folder=clone / "runs/office", printed=printed)


@pytest.mark.parametrize("number", SHOWN)
def test_every_command_prints_what_the_page_shows(played: Played, number: int) -> None:
    """Line by line, in order, between others perhaps; `...` stands for what differs from day to day."""
    left = [line.rstrip() for line in played.printed[number - 1].splitlines()]
    for line in BLOCKS[number][1].splitlines():
        wanted = re.compile(".*".join(re.escape(part) for part in line.rstrip().split("...")))
        at = next((at for at, said in enumerate(left) if wanted.fullmatch(said)), None)
        assert at is not None, f"{line!r} is not in\n" + "\n".join(left)
        left = left[at + 1 :]


def test_what_is_replayed_without_servers_is_what_was_recorded(played: Played) -> None:
    """The whole of every answer, not its text alone: structured content, error flags, order of keys."""
    recorded = (played.folder / "recorded.json").read_bytes()

    assert (played.folder / "replayed.json").read_bytes() == recorded
    assert len(played.answers("recorded.json")) == 18
    kinds = {name for each in played.answers("recorded.json") for name in each["answer"]}
    assert kinds >= {"content", "structuredContent", "isError"}


def test_reads_follow_the_writes_before_them(played: Played) -> None:
    """A replay that ignores what the agent just did would teach it that nothing it does has effects."""
    answers = played.answers("replayed.json")
    by_tool: dict[str, list[str]] = {}
    for each in answers:
        by_tool.setdefault(each["tool"], []).append(each["answer"]["content"][0]["text"])

    assert by_tool["read_text_file"][1:3] == ["Rent is due on the 3rd.\n", "Rent is paid."]
    before, after = by_tool["git_status"]
    assert "hello.py" in before
    assert "working tree clean" in after
    [commit], [log] = by_tool["git_commit"], by_tool["git_log"]
    assert commit.split()[-1] in log
    assert by_tool["read_query"] == ["[]", "[{'what': 'rent', 'euros': 900}]"]
    assert "Ada" not in by_tool["read_graph"][0]
    assert "Ada" in by_tool["read_graph"][1]


def test_a_miss_is_an_error_that_the_agent_sees(played: Played) -> None:
    """An answer made up in its place would let a broken agent pass."""
    flags = [each["answer"]["isError"] for each in played.answers("other.json")]

    assert flags == [False, False, True, True]
