"""The scan: what could be published is gone over whole, and what is found is never shown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from cacherl.cache.lookup.tool_cache import ToolCache
from cacherl.cache.safety.audit import require_single_split
from cacherl.cache.safety.redact import key_path, redact_file
from cacherl.cache.safety.scan import Allowed, excerpt, read_allowed, scan_jsonl, scan_store
from cacherl.cache.safety.sensitive import Profile
from cacherl.cache.storage.sqlite import SqliteStore
from cacherl.cli import main
from cacherl.core.errors import CacheError, RecipeError
from cacherl.core.tasks import Split
from cacherl.core.tools import Effects, ToolSpec
from tests.cache.recordings import SPACE, call, result

TOKEN = "ghp_" + "a1B2" * 9
SECRET = "hunter2-of-bob"
TOOL = ToolSpec(
    name="login",
    description="Logs in.",
    parameters={"type": "object", "properties": {"limit": {"type": "integer"}}},
    effects=Effects(),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "c.sqlite"


@pytest.fixture
def cache(path: Path) -> Iterator[ToolCache]:
    with ToolCache.open(path, mode="write") as cache:
        yield cache


def record(cache: ToolCache, text: str, scenario: str = "s", **arguments: object) -> None:
    asked = call(TOOL, **arguments)
    assert cache.record(
        SPACE, TOOL, asked, result(asked, text), scenario=scenario, split=Split.TRAIN
    )


def test_every_part_of_a_cache_is_gone_over(cache: ToolCache, path: Path) -> None:
    """A secret in a schema's default or in the settings is published as well as one in a result."""
    record(cache, f"token {TOKEN}", password=SECRET)
    record(cache, "fine", "run of mia@example.com", user="b", limit=" 3 ")
    record(cache, json.dumps({"user": {"keys": [1, {"api_key": SECRET}]}}), user="c")
    declared = {"type": "object", "properties": {"password": {"default": SECRET}}}
    cache.store.put_tool(SPACE, ToolSpec(name="x", description=TOKEN, parameters=declared))
    cache.store.put_note("settings", json.dumps({"remark": f"url https://a:{SECRET}@b.c"}).encode())

    found = scan_store(cache.store, "c", profile=Profile(name="personal"), file=path)

    places = {(each.kind, each.tool, each.path) for each in found.findings}
    assert places == {
        ("github_token", "login", "results[0]"),
        ("secret", "login", "arguments.password"),
        ("email", "login", "scenarios[0]"),
        ("secret", "login", "results[0].user.keys[1].api_key"),
        ("github_token", "x", "spec.description"),
        ("secret", "x", "spec.parameters.properties.password.default"),
        ("url_password", "-", "note settings.remark"),
    }
    assert found.calls == 3


def test_what_was_removed_is_still_in_the_file(cache: ToolCache, path: Path) -> None:
    """SQLite keeps deleted rows until their space is used again, and the log longer."""
    record(cache, f"token {TOKEN}", user="a")
    (entry,) = cache.store.entries()
    cache.store.remove(entry.call)

    found = scan_store(cache.store, "c", file=path)

    assert {each.kind for each in found.findings} == {"github_token"}
    assert found.findings[0].tool in ("(write-ahead log)", "(removed data)")
    assert scan_store(cache.store, "c").findings == ()


def test_calls_that_no_lookup_finds_are_published_all_the_same(
    cache: ToolCache, path: Path, tmp_path: Path
) -> None:
    """Recordings under older normalisation rules stay in the file until they are moved."""
    record(cache, "fine", password=SECRET)
    (entry,) = cache.store.entries()
    assert isinstance(cache.store, SqliteStore)
    cache.store.remove(entry.call)
    cache.store.keep_whole("c0", entry)

    found = scan_store(cache.store, "c")
    copied = redact_file(cache.store, tmp_path / "out.sqlite", Profile())

    assert [each.path for each in found.findings] == ["arguments.password"]
    assert (copied.calls, copied.left_out) == (0, 1)
    with pytest.raises(CacheError, match="holds 1 of train"):
        require_single_split(cache.store, Split.TEST, "c")


def test_a_redacted_copy_is_clean(cache: ToolCache, path: Path, tmp_path: Path) -> None:
    """The two commands agree on what a secret is, and the key beside the copy is pointed out."""
    record(cache, f"token {TOKEN} {SECRET}", password=SECRET)
    out = tmp_path / "out.sqlite"
    redact_file(cache.store, out, Profile(name="personal"))

    with ToolCache.open(out) as copy:
        found = scan_store(copy.store, "out", profile=Profile(name="personal"), file=out)

    assert found.findings == ()
    assert str(key_path(out)) in found.warnings[0]
    assert SECRET.encode() not in out.read_bytes()


@pytest.mark.parametrize("as_json", [True, False])
def test_the_command_fails_and_never_shows_the_secret(
    cache: ToolCache, path: Path, as_json: bool
) -> None:
    """Its output goes into CI logs."""
    record(cache, json.dumps({"note": f"a {TOKEN} b", "password": SECRET}), password=SECRET)
    arguments = ["cache", "scan", str(path), *(["--json"] if as_json else [])]

    said = CliRunner().invoke(main, arguments)

    assert said.exit_code == 1
    assert "github_token" in said.output
    for secret in (TOKEN, TOKEN[6:], SECRET, SECRET[:5]):
        assert secret not in said.output
    if as_json:
        assert len(json.loads(said.stdout)["findings"]) == 3
    else:
        assert f"cacherl cache redact {path}" in said.output


def test_a_clean_cache_passes(cache: ToolCache, path: Path) -> None:
    """Ids and tokens of paging are no secrets."""
    record(cache, json.dumps({"id": "d41d8cd98f00b204e9800998ecf8427e"}), page_token="a1" * 12)

    said = CliRunner().invoke(main, ["cache", "scan", str(path), "--personal"])

    assert said.exit_code == 0, said.output
    assert "0 findings" in said.output


def test_what_is_known_to_be_harmless_is_named_by_place(
    cache: ToolCache, path: Path, tmp_path: Path
) -> None:
    """A list of harmless values would itself have to be kept secret."""
    record(cache, json.dumps({"users": [{"email": "a@example.com"}, {"email": "b@example.com"}]}))
    record(cache, f"token {TOKEN}", user="x")
    allow = tmp_path / "harmless.txt"
    allow.write_text("# made up\nemail  login  results*.users[*].email  # by the test world\n\n")
    arguments = ["cache", "scan", str(path), "--personal", "--allow", str(allow), "--json"]

    said = json.loads(CliRunner().invoke(main, arguments).stdout)

    assert said["allowed"] == 2
    assert [each["kind"] for each in said["findings"]] == ["github_token"]


def test_a_bad_line_of_the_allow_list_is_named(tmp_path: Path) -> None:
    """A line that is not understood must not allow everything."""
    allow = tmp_path / "a.txt"
    allow.write_text("email login\n")
    with pytest.raises(RecipeError, match=r"a\.txt:1"):
        read_allowed(allow)
    with pytest.raises(RecipeError, match="cannot be read"):
        read_allowed(tmp_path / "none.txt")
    assert Allowed(kind="*", tool="*", path="*")


def test_json_lines_of_any_kind_are_gone_over(tmp_path: Path) -> None:
    """Trajectories and exports are published as well, and are not redacted by the cache."""
    file = tmp_path / "t.jsonl"
    file.write_text(
        json.dumps({"task_id": "t1", "messages": [{"content": f"use {TOKEN}"}]})
        + "\n\n"
        + json.dumps({"tool": "login", "arguments": json.dumps({"password": SECRET})})
        + '\n{"half": "password=abc123\n'
    )

    found = scan_jsonl(file)

    assert [(each.tool, each.key, each.path) for each in found.findings] == [
        ("t1", "line 1", "messages[0].content"),
        ("login", "line 3", "arguments.password"),
        ("-", "line 4", ""),
    ]
    assert CliRunner().invoke(main, ["cache", "scan", str(file)]).exit_code == 1


def test_an_excerpt_shows_what_is_public_only() -> None:
    """A prefix tells which key to revoke."""
    assert excerpt("github_token", TOKEN) == "ghp_… (40 characters)"
    assert excerpt("secret", SECRET) == "… (14 characters)"
    assert excerpt("secret", "mine-0123456789-0123456789") == "… (26 characters)"


def test_redact_says_what_it_did_and_refuses_to_overwrite(
    cache: ToolCache, path: Path, tmp_path: Path
) -> None:
    """The second run must not replace a copy that somebody may have the key of."""
    record(cache, "fine", password=SECRET)
    out = tmp_path / "out.sqlite"

    first = CliRunner().invoke(main, ["cache", "redact", str(path), str(out)])
    second = CliRunner().invoke(main, ["cache", "redact", str(path), str(out)])

    assert first.exit_code == 0, first.output
    assert "1 calls, 1 of them changed" in first.output
    assert f"cacherl cache scan {out}" in first.output
    assert second.exit_code == 1
    assert "exists already" in second.stderr
