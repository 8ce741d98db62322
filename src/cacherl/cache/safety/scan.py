"""Does a cache hold what must not be published? Every byte of it, by the rules of redaction.

What `scan` finds in a file is what a redaction with the same profile would take out of it: both go
over values with one and the same `Sweep`. Findings show where and what kind, never the secret.
"""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from cacherl.cache.safety.redact import key_path
from cacherl.cache.safety.sensitive import Found, Profile, Sweep
from cacherl.cache.storage.entry import CacheEntry
from cacherl.cache.storage.sqlite import SqliteStore
from cacherl.cache.storage.store import CacheStore
from cacherl.core.errors import CacheError, RecipeError
from cacherl.core.records import Record
from cacherl.core.tools import ToolSpec

_CHUNK, _OVERLAP = 1 << 22, 1 << 14  # bytes; a private key is shorter than the overlap
_MARK = "0" * 12
_PREFIXED = re.compile(r"[A-Za-z]{2,8}[-_]|AKIA|ASIA|AIza")
_WITH_PREFIX = (
    "_key",
    "github_token",
    "gitlab_token",
    "slack_token",
    "npm_token",
    "huggingface_token",
)


class Finding(Record, frozen=True, kw_only=True):
    """One thing that looks as if it must not be published."""

    kind: str
    """What it looks like: `github_token`, `secret` (by its name), `email`."""
    tool: str
    """Whose call it is in; the file's part where it is in no call."""
    key: str
    """The call's key (hex), or the line of a JSONL file, or the offset in a file's free bytes."""
    path: str
    """Where, such as `arguments.password`, `results[0].user.api_key` or `spec.description`."""
    excerpt: str
    """Its first characters where those are public, and its length."""


class Scanned(Record, frozen=True, kw_only=True):
    """What a scan went over and found."""

    name: str
    profile: str
    calls: int
    """Calls gone over, or lines of a JSONL file."""
    findings: tuple[Finding, ...]
    allowed: int
    """Findings that the allow-list names."""
    warnings: tuple[str, ...] = ()


class Allowed(Record, frozen=True, kw_only=True):
    """What is known to be harmless. Patterns as in file names: `*` is anything."""

    kind: str
    tool: str
    path: str

    def covers(self, finding: Finding) -> bool:
        """Say whether this line names the finding."""
        return (
            fnmatch.fnmatchcase(finding.kind, self.kind)
            and fnmatch.fnmatchcase(finding.tool, self.tool)
            and fnmatch.fnmatchcase(_plain(finding.path), _plain(self.path))
        )


def _plain(path: str) -> str:
    return path.replace("[", ".").replace("]", "")  # fnmatch reads brackets as sets


def read_allowed(path: Path) -> tuple[Allowed, ...]:
    """Return the lines of an allow-list: `KIND TOOL PATH`, each a pattern; `#` begins a remark.

    It names places, not values, so that the list itself gives nothing away:

        email   find_customer   results*.email    # invented by the test world

    Raises:
        RecipeError: there is no such file, or a line is not of that form.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: the allow-list cannot be read ({error}).") from error
    allowed = []
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) != 3:
            raise RecipeError(
                f"{path}:{number}: {line.strip()!r} is not `KIND TOOL PATH`. "
                "Write a line such as `email find_customer results*`."
            )
        allowed.append(Allowed(kind=words[0], tool=words[1], path=words[2]))
    return tuple(allowed)


class _Scanner:
    """Collects findings instead of replacing."""

    def __init__(self, profile: Profile) -> None:
        self._sweep = Sweep(profile, self._found)
        self._here = ("", "", "")
        self.findings: list[Finding] = []
        self.values: set[str] = set()

    def _found(self, found: Found) -> str:
        tool, key, place = self._here
        path = f"{place}.{found.path}" if found.path and place else found.path or place
        self.findings.append(
            Finding(
                kind=found.kind,
                tool=tool,
                key=key,
                path=path,
                excerpt=excerpt(found.kind, found.value),
            )
        )
        self.values.add(found.value)
        return f"<{found.kind}:{_MARK}>"

    def text(self, text: str, tool: str, key: str, place: str) -> None:
        self._here = (tool, key, place)
        self._sweep.text(text)

    def wire(self, wire: str, tool: str, key: str, place: str) -> None:
        try:
            self.value(json.loads(wire), tool, key, place)
        except (ValueError, RecursionError):
            self.text(wire, tool, key, place)

    def value(self, value: Any, tool: str, key: str, place: str) -> None:
        self._here = (tool, key, place)
        self._sweep.value(value, "")


def excerpt(kind: str, value: str) -> str:
    """Return what may be shown of a secret: a published prefix, which tells what to revoke, and the length."""
    prefix = _PREFIXED.match(value) if kind.endswith(_WITH_PREFIX) else None
    shown = prefix.group() if prefix is not None and len(value) >= 20 else ""
    return f"{shown}… ({len(value)} characters)"


def scan_store(
    store: CacheStore,
    name: str,
    *,
    profile: Profile = Profile(),  # noqa: B008 - immutable
    allowed: Sequence[Allowed] = (),
    file: Path | None = None,
) -> Scanned:
    """Go over everything a cache holds: arguments, results, scenarios, declarations, notes.

    Args:
        store: the cache.
        name: for messages.
        profile: what to look for.
        allowed: what is known to be harmless.
        file: go over the file's raw bytes too (and its write-ahead log's): what was removed from a
            SQLite file stays in it until the space is used again.
    """
    scanner = _Scanner(profile)
    for (_, tool), spec in sorted(store.tools().items()):
        _scan_spec(scanner, tool, spec)
    for note in store.notes():
        value = store.note(note)
        scanner.text(note, "-", "", "a note's name")  # it may hold a scenario's
        if value is not None:
            scanner.text(value.decode("utf-8", "replace"), "-", "", f"note {note}")
    calls = 0
    for entry in every_entry(store):
        calls += 1
        tool, key = entry.call.tool, entry.call.key.hex()
        scanner.text(entry.call.namespace, tool, key, "namespace")
        scanner.value(entry.call.arguments, tool, key, "arguments")
        for place, kept in enumerate(entry.kept):
            seen = kept.observation
            scanner.text(seen.text, tool, key, f"results[{place}]")
            scanner.text(seen.scenario, tool, key, f"scenarios[{place}]")
            if seen.asked is not None:
                scanner.text(seen.asked, tool, key, f"asked[{place}]")
            if seen.after is not None:
                scanner.text(seen.after, tool, key, f"after[{place}]")
            if seen.wire is not None:
                scanner.wire(seen.wire, tool, key, f"wire[{place}]")
    warnings = []
    if file is not None:
        for part in (file, file.with_name(file.name + "-wal")):
            if part.is_file():
                scanner.findings += _raw_findings(part, scanner.values)
        if key_path(file).exists():
            warnings.append(
                f"{key_path(file)} holds the redaction key: never publish it with the cache"
            )
    return _scanned(name, profile, calls, scanner.findings, allowed, warnings)


def every_entry(store: CacheStore) -> Iterator[CacheEntry]:
    """Yield what a store answers and what only a `rekey` would bring back: it is in the file all the same."""
    if isinstance(store, SqliteStore):
        return (entry for _, entry in store.all_entries())
    return store.entries()


def _scan_spec(scanner: _Scanner, tool: str, spec: ToolSpec) -> None:
    scanner.text(tool, tool, "", "spec.name")
    scanner.text(spec.description, tool, "", "spec.description")
    scanner.value(spec.parameters, tool, "", "spec.parameters")


def scan_jsonl(
    path: Path,
    *,
    profile: Profile = Profile(),  # noqa: B008 - immutable
    allowed: Sequence[Allowed] = (),
) -> Scanned:
    """Go over any file of JSON lines: an export of a cache, trajectories, tasks.

    Raises:
        CacheError: the file cannot be read.
    """
    scanner = _Scanner(profile)
    lines = 0
    try:
        with path.open("rb") as handle:
            for number, raw in enumerate(handle, 1):
                line = raw.decode("utf-8", "replace").strip()
                if not line:
                    continue
                lines += 1
                tool = _tool_of(line)
                scanner.text(line, tool, f"line {number}", "")
    except OSError as error:
        raise CacheError(f"{path}: cannot be read ({error.strerror}).") from error
    return _scanned(str(path), profile, lines, scanner.findings, allowed, [])


def _tool_of(line: str) -> str:
    try:
        value = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeEncodeError):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            return "-"
    if isinstance(value, dict):
        for name in ("tool", "name", "task_id", "id"):
            if isinstance(value.get(name), str):
                return str(value[name])
    return "-"


def is_jsonl(path: Path) -> bool:
    """Say whether a file holds JSON lines."""
    try:
        with path.open("rb") as handle:
            return handle.read(1) in (b"{", b"[")
    except OSError:
        return False


def _raw_findings(path: Path, known: set[str]) -> list[Finding]:
    """Return what has the shape of a secret in the raw bytes and is in no value that was read."""
    findings: list[Finding] = []
    seen: set[str] = set()
    where = "removed data" if not path.name.endswith("-wal") else "write-ahead log"
    for offset, text in _chunks(path):

        def found(what: Found, offset: int = offset) -> str:
            value = what.value
            # A value that was read may stand here with its neighbours, or cut by a page.
            new = value not in known and value not in seen
            if new and not any(value in other or other in value for other in known):
                seen.add(value)
                findings.append(
                    Finding(
                        kind=what.kind,
                        tool=f"({where})",
                        key=f"byte {offset}+",
                        path=path.name,
                        excerpt=excerpt(what.kind, value),
                    )
                )
            return f"<{what.kind}:{_MARK}>"

        Sweep(Profile(), found).shapes(text)
    return findings


def _chunks(path: Path) -> Iterator[tuple[int, str]]:
    with path.open("rb") as handle:
        offset, kept = 0, b""
        while chunk := handle.read(_CHUNK):
            yield offset - len(kept), (kept + chunk).decode("latin-1")
            offset += len(chunk)
            kept = chunk[-_OVERLAP:]


def _scanned(
    name: str,
    profile: Profile,
    calls: int,
    findings: Sequence[Finding],
    allowed: Sequence[Allowed],
    warnings: Sequence[str],
) -> Scanned:
    left = [each for each in findings if not any(line.covers(each) for line in allowed)]
    return Scanned(
        name=name,
        profile=profile.name,
        calls=calls,
        findings=tuple(dict.fromkeys(left)),
        allowed=len(findings) - len(left),
        warnings=tuple(warnings),
    )
