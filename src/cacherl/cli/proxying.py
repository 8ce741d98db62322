"""`cacherl proxy`: between an MCP client and an MCP server."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click
import msgspec

from cacherl.cache.episodes.ledger import MissPolicy
from cacherl.cli.terminal import FILE, JSON, example
from cacherl.core.errors import CacheError, MissingExtraError, RecipeError, ToolError
from cacherl.core.tasks import Split

if TYPE_CHECKING:
    from cacherl.adapters.mcp_proxy import Listen, Upstream
    from cacherl.cache.lookup.tool_cache import ToolCache
    from cacherl.proxy.summary import Summary

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")


@click.command(
    "proxy", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}
)
@click.option("--record", "record", metavar="CACHE", help="Pass everything on, and record calls.")
@click.option("--replay", "replay", metavar="CACHE", help="Answer calls from CACHE.")
@click.option("--url", help="The server, where it is not a command but an address.")
@click.option(
    "--header",
    "headers",
    multiple=True,
    metavar="'NAME: VALUE'",
    help="Sent to --url; ${VAR} in it is taken from the environment. May be repeated.",
)
@click.option(
    "--http",
    "http",
    metavar="HOST:PORT",
    help="Serve clients over HTTP at /mcp instead of stdio. Port 0 takes a free one.",
)
@click.option(
    "--token-env",
    metavar="VAR",
    help="Clients over HTTP must send the token in VAR. Needed beyond this machine.",
)
@click.option("--namespace", help="Whose tools these are. Default: the server's own name.")
@click.option("--scenario", default="default", show_default=True, help="The world's data.")
@click.option(
    "--split",
    type=click.Choice([each.value for each in Split]),
    default=Split.TRAIN.value,
    show_default=True,
    help="Where recordings go. Replay sees all.",
)
@click.option(
    "--settings",
    type=FILE,
    help="What you say of the tools: effects, kinds, ages. --record keeps it in CACHE.",
)
@click.option(
    "--redact",
    type=click.Choice(["secrets", "personal"]),
    help="Begin a new CACHE that takes these out of all it keeps.",
)
@click.option(
    "--on-miss",
    "on_miss",
    multiple=True,
    metavar="[TOOL=]POLICY",
    help="error (default), best-effort (reads), acknowledge (writes), live (reads; needs a server). "
    "May be repeated.",
)
@click.option("--no-meta", is_flag=True, help="Add nothing to the _meta of replayed results.")
@click.option("--log", "log", type=FILE, help="Where messages and the summary go. Default: stderr.")
@JSON
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND...]")
@example(
    "cacherl proxy --record files.cache -- npx -y @modelcontextprotocol/server-filesystem .\n"
    "    # ... let your agent work with that as its server, then test it without the server:\n"
    "    cacherl proxy --replay files.cache"
)
def proxy(
    record: str | None,
    replay: str | None,
    url: str | None,
    headers: tuple[str, ...],
    http: str | None,
    token_env: str | None,
    namespace: str | None,
    scenario: str,
    split: str,
    settings: Path | None,
    redact: str | None,
    on_miss: tuple[str, ...],
    no_meta: bool,
    log: Path | None,
    json_out: bool,
    command: tuple[str, ...],
) -> None:
    """Stand between an MCP client and an MCP server: record it once, then test without it.

    Give your agent this command in place of the server's. Everything passes as it came; with
    --record each call of a tool and its result go into CACHE, in the state that earlier calls of
    the same session left. With --replay calls are answered from CACHE, byte for byte, and the
    server is not needed; `_meta` tells the tier: `cacherl/tier`, `cacherl/fidelity`, `cacherl/key`.

    \b
    what happens to a call         --record    --replay    --replay --on-miss live -- COMMAND
    it was recorded                runs        replayed    replayed
    it was not, and only reads     runs        a miss      runs, and is recorded
    it was not, and may write      runs        a miss      a miss
    """  # noqa: D301 - click's own mark for lines that stay as they are
    if (record is None) == (replay is None):
        raise RecipeError("choose one of --record CACHE and --replay CACHE.")
    if command and url:
        raise RecipeError("a server is either a command or a --url. Give one of them.")
    try:
        from cacherl.adapters import mcp_proxy
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "mcp", "mcp") from error
    from cacherl.proxy.session import Plan, played
    from cacherl.proxy.summary import Tally

    general, by_tool = _policies(on_miss)
    lively = MissPolicy.LIVE in general or MissPolicy.LIVE in by_tool.values()
    upstream: Upstream | None = None
    if command or url:
        upstream = mcp_proxy.Upstream(
            command=command, url=url, headers=mcp_proxy.parse_headers(headers)
        )
    _check(record, upstream is not None, lively, bool(on_miss))
    listen: Listen | None = None
    if http is not None:
        host, port = _address(http)
        listen = mcp_proxy.Listen(host=host, port=port, token=_token(token_env))
    name = record or replay or ""
    writes = record is not None or lively
    _check_there(command, name if writes else None)
    tally = Tally()
    with _log_to(log) as out, _opened(name, writes, settings, redact) as cache:
        if record is not None and settings is not None:
            _keep(cache, settings)
        if upstream is None:
            played(cache, namespace)  # now, where it can be told at the terminal
        plan = Plan(
            cache=cache,
            record=record is not None,
            namespace=namespace,
            scenario=scenario,
            split=Split(split),
            on_miss=general,
            on_miss_of=by_tool,
            meta=not no_meta,
            tally=tally,
            log=lambda line: _say(out, f"cacherl proxy: {line}"),
        )
        try:
            mcp_proxy.run_proxy(plan, upstream, listen)
        finally:
            mode = "replay" if record is None else "record"
            found = tally.summary(mode=mode, cache=name, scenario=scenario)
            if json_out:
                _say(out, msgspec.json.encode(found).decode())
            else:
                for line in _told(found):
                    _say(out, line)


def _check(record: str | None, server: bool, lively: bool, on_miss: bool) -> None:
    if record is not None and not server:
        raise RecipeError("--record needs a server: `-- COMMAND...` or --url.")
    if record is not None and on_miss:
        raise RecipeError("--on-miss is for --replay: a recording runs every call.")
    if lively and not server:
        raise RecipeError("--on-miss live needs a server: `-- COMMAND...` or --url.")
    if record is None and server and not lively:
        raise RecipeError(
            "--replay does without its server. Leave the command out, or say `--on-miss live`."
        )


def _check_there(command: tuple[str, ...], written: str | None) -> None:
    """Refuse, before anything is made, a program or a cache's folder that is not there: typos, mostly."""
    if command and shutil.which(command[0]) is None:
        raise ToolError(
            f"{command[0]}: there is no such program to run. Install it, or correct the command."
        )
    if written is None or "://" in written or written == ":memory:":
        return
    folder = Path(written).parent
    if not folder.is_dir():
        raise CacheError(
            f"{written}: there is no folder {folder}. Make it with `mkdir -p {folder}`, "
            "or correct the path."
        )


def _policies(said: tuple[str, ...]) -> tuple[frozenset[MissPolicy], dict[str, MissPolicy]]:
    general: set[MissPolicy] = set()
    by_tool: dict[str, MissPolicy] = {}
    for each in said:
        tool, equals, name = each.rpartition("=")
        try:
            policy = MissPolicy(name.replace("-", "_"))
        except ValueError:
            known = ", ".join(policy.value.replace("_", "-") for policy in MissPolicy)
            raise RecipeError(f"--on-miss {each}: there are {known}.") from None
        if equals:
            by_tool[tool] = policy
        else:
            general.add(policy)
    return frozenset(general), by_tool


def _address(said: str) -> tuple[str, int]:
    host, colon, port = said.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise RecipeError(f"--http {said}: write HOST:PORT, such as 127.0.0.1:8080.")
    return host.strip("[]") or "127.0.0.1", int(port)


def _token(variable: str | None) -> str | None:
    if variable is None:
        return None
    token = os.environ.get(variable)
    if not token:
        raise RecipeError(f"--token-env {variable}: that variable is not set. Export it first.")
    return token


def _opened(name: str, writes: bool, settings: Path | None, redact: str | None) -> ToolCache:
    from cacherl.cache.lookup.settings import load_settings
    from cacherl.cache.safety.redact import Profile
    from cacherl.wiring import open_cache

    return open_cache(
        name,
        mode="write" if writes else "read",
        settings=None if settings is None else load_settings(settings),
        redact=None
        if redact is None
        else Profile(name="personal" if redact == "personal" else "secrets"),
    )


def _keep(cache: ToolCache, settings: Path) -> None:
    """Keep the settings with what is recorded under them, or nothing would mean the same on replay."""
    from cacherl.cache.lookup.tool_views import apply_settings

    apply_settings(cache.store, cache.settings, name=cache.name, file=str(settings))


@contextmanager
def _log_to(path: Path | None) -> Iterator[IO[str]]:
    if path is None:
        yield sys.stderr
        return
    try:
        handle = path.open("a", encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"{path}: cannot be written ({error.strerror or error}).") from error
    with handle:
        yield handle


def _say(out: IO[str], line: str) -> None:
    """Write a line. What servers and models said is data: it must not move the cursor."""
    print(_CONTROL.sub(" ", line), file=out, flush=True)


def _told(found: Summary) -> Iterator[str]:
    whose = ", ".join(found.namespaces) or "no server"
    sessions = f"{found.sessions} session{'s' * (found.sessions != 1)}"
    tiers = ", ".join(f"{count} {tier.value}" for tier, count in found.tiers.items())
    yield f"{found.calls} call{'s' * (found.calls != 1)} of {whose} in {sessions}" + (
        f": {tiers}" if tiers else ""
    )
    if found.errors:
        yield f"{found.errors} answered with an error"
    for missed in found.missed:
        yield f"missed {missed.tool}: {missed.message}"
    left = ", ".join(f"{count} {reason}" for reason, count in found.not_recorded.items())
    if found.mode == "record" or found.recorded:
        yield f"{found.recorded} recorded in {found.cache} ({found.scenario})" + (
            f"; not recorded: {left}" if left else ""
        )
    if found.recorded:
        yield f"Next: cacherl proxy --replay {found.cache}"


COMMANDS: tuple[click.Command, ...] = (proxy,)
