"""`cacherl proxy` at the terminal: what it refuses before any work starts, and what it writes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cacherl.adapters.mcp_proxy import Upstream, connects, parse_headers
from cacherl.cli import main
from cacherl.cli.proxying import _say, _told
from cacherl.core.errors import RecipeError, ToolError
from cacherl.proxy.session import Connect
from cacherl.proxy.summary import Tally
from tests.proxy.plain_server import PLAIN


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "--record CACHE and --replay CACHE"),
        (("--record", "a", "--replay", "a"), 2, "choose one"),
        (("--record", "a"), 2, "needs a server"),
        (("--record", "a", "--on-miss", "error", *PLAIN), 2, "--on-miss is for --replay"),
        (("--record", "a", "--url", "http://127.0.0.1:9/mcp", *PLAIN), 2, "one of them"),
        (("--replay", "a", *PLAIN), 2, "without its server"),
        (("--replay", "a", "--on-miss", "live"), 2, "needs a server"),
        (("--replay", "a", "--on-miss", "best"), 2, "best-effort, acknowledge, live"),
        (("--replay", "a", "--http", "8080"), 2, "HOST:PORT"),
        (("--replay", "a", "--http", "127.0.0.1:0", "--token-env", "NOT_SET"), 2, "NOT_SET"),
        (("--record", "a", "--http", "0.0.0.0:0", *PLAIN), 2, "--token-env"),
        (("--record", "a", "--header", "x ${NOT_SET}", "--url", "http://x"), 2, "NAME: VALUE"),
        (("--record", "a", "--header", "x: ${NOT_SET}", "--url", "http://x"), 2, "not set"),
        (("--replay", "nothing-here"), 1, "no such cache"),
        (("--record", "a", "--", "no-such-server"), 1, "no-such-server: there is no such program"),
        (("--record", "a", "--", "./a", "x"), 1, "./a: there is no such program"),
        (("--replay", "a", "--on-miss", "live", "--", "no-such-server"), 1, "no such program"),
        (("--record", "nope/x.cache", *PLAIN), 1, "mkdir -p nope`"),
        (("--record", "a", "--log", "nope/log", *PLAIN), 2, "nope/log: cannot be written"),
    ],
)
def test_a_mistake_is_told_before_any_work_starts(
    arguments: tuple[str, ...],
    code: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A client shows nothing but a server that does not answer: the words must come at the terminal."""
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["proxy", *arguments])
    assert result.exit_code == code, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error:")]
    assert said in line
    assert result.stdout == ""
    assert not list(tmp_path.iterdir()), "and before anything is made"


def test_the_help_shows_how_an_agent_is_tested_without_its_servers() -> None:
    """In three lines."""
    shown = CliRunner().invoke(main, ["proxy", "--help"]).output
    assert "cacherl proxy --record files.cache -- npx" in shown
    assert "cacherl proxy --replay files.cache" in shown
    assert "it was not, and may write      runs        a miss      a miss" in shown


def test_headers_take_their_secrets_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token on the command line would stand in the history and in the list of processes."""
    monkeypatch.setenv("SEARCH_TOKEN", "abc")
    assert parse_headers(["Authorization: Bearer ${SEARCH_TOKEN}", "X-A:b:c"]) == {
        "Authorization": "Bearer abc",
        "X-A": "b:c",
    }
    with pytest.raises(RecipeError):
        parse_headers(["no colon"])


def test_a_program_that_is_not_there_is_named() -> None:
    """The words end up in the client's error, where they are all that a person sees."""

    async def never(*_: object) -> None:
        raise AssertionError

    connect = connects(Upstream(command=("no-such-program-here", "x")))
    with pytest.raises(ToolError, match=r"no-such-program-here x cannot be started: No such file"):
        asyncio.run(_started(connect, never))


async def _started(connect: Connect, never: Any) -> None:
    await connect(never, never)


def test_what_servers_and_models_said_cannot_move_the_cursor(tmp_path: Path) -> None:
    """A log is read in a terminal."""
    path = tmp_path / "log"
    with path.open("w", encoding="utf-8") as out:
        _say(out, "a\x1b[2Jb\nc\u202ed")
    assert path.read_text() == "a [2Jb c d\n"


@pytest.mark.parametrize(("recorded", "told"), [(0, False), (1, True)])
def test_a_replay_is_offered_of_what_was_recorded(recorded: int, told: bool) -> None:
    """Of nothing there is none."""
    tally = Tally()
    tally.recorded = recorded
    lines = list(_told(tally.summary(mode="record", cache="a.cache", scenario="s")))
    assert f"{recorded} recorded in a.cache (s)" in lines
    assert ("Next: cacherl proxy --replay a.cache" in lines) is told
