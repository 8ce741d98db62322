"""Secrets and personal data out of recordings and queries, with placeholders that keep them apart.

`<email:3f9a2c81d07b>`: the kind of what stood there, and a keyed hash of it. Equal values get equal
placeholders, so that a query with the real value finds what was recorded for it; different values
stay different (two of a million collide with P = 0.2 %). Without the key nobody can test a guess.

What follows from it:

- The model sees placeholders in replayed results and hands them on in calls; both find recordings.
- A live tool cannot use a placeholder: with live calls on a miss, keep to tools that need none.
- A number that was taken out (a card number, a numeric password) becomes a string.
- The key is in no cache. It stands in `CACHERL_REDACTION_KEY` (64 hex digits) or beside the cache in
  `<cache>.redaction-key`, readable by its owner only. Whoever has it can test guesses: never publish it.
- A lost key loses no recording, only the way to those with placeholders in their arguments: new
  queries hash differently. `cacherl cache redact OLD NEW` gives the rest a new key.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from cacherl.cache.identity.normalise import is_writer, plan_of
from cacherl.cache.identity.state import NO_WRITES
from cacherl.cache.lookup.settings import Settings
from cacherl.cache.safety.sensitive import PLACEHOLDER, RULES_VERSION, Found, Profile, Sweep
from cacherl.cache.storage.entry import CacheEntry, Kept, RecordedCall, json_text
from cacherl.cache.storage.sqlite import SqliteStore
from cacherl.cache.storage.store import CacheStore
from cacherl.core.errors import CacheError
from cacherl.core.records import JsonObject, Record
from cacherl.core.tools import ToolSpec, undeclared

__all__ = [
    "KEY_VARIABLE",
    "NOTE",
    "Profile",
    "Redacted",
    "RedactionNote",
    "Redactor",
    "key_path",
    "new_key",
    "read_key",
    "redact_into",
    "redaction_note",
    "redactor_of",
]

NOTE = "redaction"
KEY_VARIABLE = "CACHERL_REDACTION_KEY"
_KEY_BYTES = 32
_MIN_ECHO = 6  # characters: a shorter secret would be "found" all over a result
_CARRIED = (
    "settings",
    "effects/",
)  # notes that hold no values of calls, by the start of their names
_SERVERS = "mcp/"  # what tool servers say of themselves, as JSON


class RedactionNote(Record, frozen=True, kw_only=True):
    """What a cache says of its redaction."""

    rules: int
    """`sensitive.RULES_VERSION` of what was taken out."""
    profile: Profile
    key: str
    """Fingerprint of the key (16 hex digits); says nothing about it."""


class Redactor:
    """Takes secrets out of arguments and texts. Deterministic: profile, key and value decide alone.

    Safe to share between threads.
    """

    def __init__(self, profile: Profile, key: bytes) -> None:
        """Make one.

        Args:
            profile: what is taken out.
            key: 16 to 64 bytes that nobody else knows (`new_key`).

        Raises:
            CacheError: the key is too short to keep anything secret.
            MissingExtraError: the packages that know secrets are not installed.
        """
        if not 16 <= len(key) <= 64:
            raise CacheError(
                f"a redaction key has 16 to 64 bytes, this one has {len(key)}. "
                f"Write 64 hex digits into {KEY_VARIABLE}, such as `openssl rand -hex 32` prints."
            )
        self.profile = profile
        self._key = key
        self._sweep = Sweep(profile, self._placeholder)

    @property
    def fingerprint(self) -> str:
        """Which key this is, without saying anything about it."""
        return hashlib.blake2b(
            b"fingerprint", key=self._key, digest_size=8, person=b"cacherl-key"
        ).hexdigest()

    @property
    def note(self) -> RedactionNote:
        """What a cache that this one wrote says of itself."""
        return RedactionNote(rules=RULES_VERSION, profile=self.profile, key=self.fingerprint)

    def arguments(self, arguments: Mapping[str, Any]) -> JsonObject:
        """Return the arguments without what the profile takes out. Idempotent."""
        return self._sweep.arguments(arguments)

    def text(self, text: str, *, echoing: Mapping[str, Any] | None = None) -> str:
        """Return a text without what the profile takes out; JSON stays JSON. Idempotent.

        Args:
            text: a result, an error, a scenario's name.
            echoing: the call's arguments as they were asked: what is secret there by its name alone
                (`password`) is taken out wherever the result repeats it.
        """
        swept = self._sweep.text(text)
        return _replaced(swept, self._named(echoing)) if echoing else swept

    def wire(self, wire: str, *, echoing: Mapping[str, Any] | None = None) -> str:
        """Return an answer in JSON without what the profile takes out, the same where nothing is.

        Each string in it is gone over as `text` goes over a result, so a secret that a tool wrote
        into JSON inside of JSON is found here too. Idempotent. Arguments as `text`.
        """
        try:
            value = json.loads(wire)
        except (ValueError, RecursionError):
            return self.text(wire, echoing=echoing)
        swept = self._sweep.value(value, "")
        named = self._named(echoing) if echoing else []
        if named:
            swept = _each_string(swept, lambda text: _replaced(text, named))
        if swept == value:
            return wire
        return json_text(json.dumps(swept, ensure_ascii=False, separators=(",", ":")))

    def spec(self, spec: ToolSpec) -> ToolSpec:
        """Return a tool's declaration without what the profile takes out, the same where nothing is.

        A secret default would otherwise be filled into the arguments after they were redacted.
        """
        description = self.text(spec.description)
        parameters = self.arguments(spec.parameters)
        if description == spec.description and parameters is spec.parameters:
            return spec
        return msgspec.structs.replace(spec, description=description, parameters=parameters)

    def opaque(self, value: bytes) -> bytes:
        """Return 16 bytes in place of a hash of real values, which could be tested by guessing."""
        return hashlib.blake2b(
            value, key=self._key, digest_size=16, person=b"cacherl-opaque"
        ).digest()

    def _placeholder(self, found: Found) -> str:
        digest = hashlib.blake2b(
            found.value.encode("utf-8", "surrogatepass"),
            key=self._key,
            digest_size=6,
            person=found.kind.encode()[:16],
        )
        return f"<{found.kind}:{digest.hexdigest()}>"

    def _named(self, arguments: Mapping[str, Any]) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []

        def remember(what: Found) -> str:
            placeholder = self._placeholder(what)
            found.append((what.value, placeholder))
            return placeholder

        if Sweep(self.profile, remember).arguments(arguments) is arguments:
            return []
        long = {pair for pair in found if len(pair[0]) >= _MIN_ECHO}
        return sorted(long, key=lambda pair: (-len(pair[0]), pair[0]))


def _replaced(text: str, named: Sequence[tuple[str, str]]) -> str:
    """Return the text with values replaced by their placeholders, and placeholders left alone."""
    for value, placeholder in named:
        if value in text:
            text = "".join(
                part if place % 2 else part.replace(value, placeholder)
                for place, part in enumerate(_around_placeholders(text))
            )
    return text


def _each_string(value: Any, change: Callable[[str], str]) -> Any:
    """Return a JSON value with every string in it changed, names of members included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(name): _each_string(member, change) for name, member in value.items()}
    if isinstance(value, list):
        return [_each_string(item, change) for item in value]
    return value


def _around_placeholders(text: str) -> list[str]:
    """Return the text in parts, every second one a placeholder."""
    parts: list[str] = []
    position = 0
    for match in PLACEHOLDER.finditer(text):
        parts += (text[position : match.start()], match.group())
        position = match.end()
    return [*parts, text[position:]]


# ---- keys --------------------------------------------------------------------------------------


def new_key() -> bytes:
    """Return a key that nobody has seen."""
    return secrets.token_bytes(_KEY_BYTES)


def key_path(cache: Path) -> Path:
    """Return where a cache's key stands unless it is in the environment."""
    return cache.with_name(cache.name + ".redaction-key")


def read_key(cache: Path | None) -> bytes | None:
    """Return the key of a cache, from the environment or from beside it; None where there is none.

    Raises:
        CacheError: what stands there is no key, or others can read it.
    """
    said = os.environ.get(KEY_VARIABLE)
    if said:
        return _decoded(said, KEY_VARIABLE)
    if cache is None:
        return None
    path = key_path(cache)
    try:
        with path.open("rb") as handle:
            open_to_others = os.fstat(handle.fileno()).st_mode & 0o077
            text = handle.read(1024).decode("ascii", "replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CacheError(f"{path}: the redaction key cannot be read ({error.strerror}).") from error
    if open_to_others:
        raise CacheError(
            f"{path}: others can read the redaction key, and with it test what was taken out. "
            f"Close it with `chmod 600 {path}`, or say it in {KEY_VARIABLE}."
        )
    return _decoded(text, str(path))


def _decoded(text: str, where: str) -> bytes:
    try:
        key = bytes.fromhex(text.strip())
    except ValueError:
        key = b""
    if not 16 <= len(key) <= 64:
        raise CacheError(
            f"{where}: no redaction key: 32 to 128 hex digits are needed. "
            "Restore the file, or make a key with `openssl rand -hex 32` for a new cache."
        )
    return key


def make_key(cache: Path) -> bytes:
    """Return the key of a cache, made and kept beside it if there is none.

    Of several processes that make it at once one wins, and all return its key.
    """
    known = read_key(cache)
    if known is not None:
        return known
    _keep_key(cache, new_key())
    made = read_key(cache)
    if made is None:
        raise CacheError(
            f"{key_path(cache)}: the redaction key vanished while it was made. Run the command again."
        )
    return made


def _keep_key(cache: Path, key: bytes) -> None:
    """Keep a key beside a cache that has none; it appears whole, and an older one stays."""
    path = key_path(cache)
    try:
        _write_key(path, key)
    except OSError as error:
        raise CacheError(
            f"{path}: the redaction key cannot be kept ({error}). Free the disk or choose another "
            "path; nothing was written."
        ) from error


def _write_key(path: Path, key: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    building = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(building, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as handle:
            handle.write(key.hex() + "\n")
            handle.flush()
            os.fsync(handle.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(building, path)
    finally:
        building.unlink(missing_ok=True)


# ---- caches ------------------------------------------------------------------------------------


def redaction_note(store: CacheStore) -> RedactionNote | None:
    """Return what the cache says of its redaction, or None where it has none.

    Raises:
        CacheError: the note is damaged or of a newer version.
    """
    said = store.note(NOTE)
    if said is None:
        return None
    try:
        return msgspec.json.decode(said, type=RedactionNote)
    except msgspec.DecodeError as error:
        raise CacheError(
            f"the cache's note on its redaction cannot be read ({error}). Upgrade cacherl."
        ) from error


def redactor_of(
    store: CacheStore,
    name: str,
    *,
    path: Path | None,
    profile: Profile | None = None,
    key: bytes | None = None,
) -> Redactor | None:
    """Return what must go over everything that is recorded in this cache or asked of it.

    None for a cache without redaction. Reading it in other ways (statistics, export, audit) needs
    no key.

    Args:
        store: the cache, open for writing where redaction begins.
        name: the cache, for messages.
        path: its file, beside which the key stands; None for a cache on a server or in memory.
        profile: begin redaction with this (an empty cache), or make sure that this is in force.
        key: instead of the environment's or the file's.

    Raises:
        CacheError: the key is missing or another one; the cache holds recordings without redaction,
            or with another profile.
    """
    note = redaction_note(store)
    if note is None:
        return None if profile is None else _begun(store, name, path, profile, key)
    if profile is not None and profile != note.profile:
        raise CacheError(
            f"{name}: redacted with profile {_told(note.profile)}, not {_told(profile)}. "
            "Make a copy with `cacherl cache redact`, or leave the profile out."
        )
    if note.rules != RULES_VERSION:
        raise CacheError(
            f"{name}: redacted by rules {note.rules}, and this cacherl has rules {RULES_VERSION}: "
            f"queries would miss. Bring it up with `cacherl cache redact {name} NEW`."
        )
    key = read_key(path) if key is None else key
    where = KEY_VARIABLE if path is None else f"{KEY_VARIABLE} or {key_path(path)}"
    if key is None:
        raise CacheError(
            f"{name}: redacted with key {note.key}, which is not here: what is asked could not be "
            f"found, what is recorded would not be redacted. Put the key into {where}. If it is "
            f"lost, `cacherl cache redact {name} NEW` makes a copy under a new key."
        )
    redactor = Redactor(note.profile, key)
    if redactor.fingerprint != note.key:
        raise CacheError(
            f"{name}: redacted with key {note.key}, and {where} holds key {redactor.fingerprint}. "
            f"Put the right key there; if it is lost, `cacherl cache redact {name} NEW` makes a "
            "copy under a new key."
        )
    return redactor


def _begun(
    store: CacheStore, name: str, path: Path | None, profile: Profile, key: bytes | None
) -> Redactor:
    if next(store.entries(), None) is not None:
        raise CacheError(
            f"{name}: holds recordings that were not redacted. "
            f"Make a redacted copy with `cacherl cache redact {name} NEW`."
        )
    if key is None:
        key = read_key(None) if path is None else make_key(path)
    if key is None:
        raise CacheError(
            f"{name}: a redaction key is needed and this cache has no file to keep it beside. "
            f"Write 64 hex digits into {KEY_VARIABLE}, such as `openssl rand -hex 32` prints."
        )
    redactor = Redactor(profile, key)
    store.put_note(NOTE, msgspec.json.encode(redactor.note))
    # Two processes that began at once with different keys: the note that stands decides.
    kept = redaction_note(store)
    if kept != redactor.note:
        return redactor_of(store, name, path=path, profile=profile, key=key) or redactor
    return redactor


def _told(profile: Profile) -> str:
    return profile.name + "".join(f" +{field}" for field in profile.fields)


class Redacted(Record, frozen=True, kw_only=True):
    """What came of making a redacted copy."""

    calls: int
    """Calls in the copy."""
    changed: int
    """Calls of the original with something taken out of their arguments, results or scenarios."""
    merged: int
    """Calls that were different before and are one now."""
    tools: int
    """Declarations with something taken out."""
    unreachable: int
    """Calls after a write whose own arguments were redacted: their state was hashed from the real
    values, so they answer BEST_EFFORT at most. Record them anew with a redactor to have them EXACT."""
    old_placeholders: int
    """Calls with placeholders of a lost key in their arguments: no query reaches them EXACT."""
    left_out: int
    """Calls recorded under other normalisation rules: rekey the source, then redact it again."""
    dropped_notes: tuple[str, ...]
    """Notes that were left out because they are computed from what changed: make them anew."""


def redact_into(
    source: CacheStore,
    target: CacheStore,
    redactor: Redactor,
    *,
    settings: Settings | None = None,
) -> Redacted:
    """Copy a cache into an empty one, redacted and with new keys. The source stays as it is.

    Args:
        source: any cache; placeholders in it are left alone.
        target: an empty cache, open for writing.
        redactor: decides what is taken out.
        settings: what people say of the tools; None takes the source's.

    Raises:
        CacheError: the target is not empty.
    """
    if next(target.entries(), None) is not None:
        raise CacheError("the target of a redaction must be a new cache. Choose another path.")
    before = redaction_note(source)
    lost = before is not None and before.key != redactor.fingerprint
    settings = _settings_of(source) if settings is None else settings
    declared = source.tools()
    specs = {name: redactor.spec(spec) for name, spec in declared.items()}
    touched = _writes_with_secrets(source, redactor, declared, settings)
    changed = unreachable = old = calls = 0
    with target.batch():
        for (namespace, _), spec in specs.items():
            target.put_tool(namespace, spec)
        for entry in source.entries():
            call = entry.call
            arguments = redactor.arguments(call.arguments)
            canonical = call.canonical
            if arguments != call.arguments:
                said = specs.get((call.namespace, call.tool)) or undeclared(call.tool)
                seen = settings.applied(call.namespace, said)
                canonical = plan_of(seen).normal(arguments).canonical
            state = call.state
            if touched and state != NO_WRITES:
                # Hashed from real values that can be guessed, with no key: not to be published.
                state = redactor.opaque(state)
                unreachable += 1
            moved = RecordedCall.of(call.namespace, call.tool, canonical, state)
            kept = tuple(_redacted(each, redactor, call.arguments) for each in entry.kept)
            changed += moved.canonical != call.canonical or kept != entry.kept
            old += lost and PLACEHOLDER.search(call.canonical.decode()) is not None
            target.absorb(CacheEntry(call=moved, kept=kept))
            calls += 1
        dropped = []
        for note in source.notes():
            value = source.note(note)
            if note.startswith(_CARRIED) and value is not None:
                target.put_note(note, value)
            elif note.startswith(_SERVERS) and value is not None:
                target.put_note(redactor.text(note), redactor.wire(value.decode()).encode())
            elif note != NOTE:
                dropped.append(note)
        target.put_note(NOTE, msgspec.json.encode(redactor.note))
    left = sum(1 for _ in target.entries())
    return Redacted(
        calls=left,
        changed=changed,
        merged=calls - left,
        tools=sum(specs[name] != spec for name, spec in declared.items()),
        unreachable=unreachable,
        old_placeholders=old,
        left_out=source.stale() if isinstance(source, SqliteStore) else 0,
        dropped_notes=tuple(dropped),
    )


def _redacted(kept: Kept, redactor: Redactor, arguments: JsonObject) -> Kept:
    seen = kept.observation
    observation = msgspec.structs.replace(
        seen,
        text=redactor.text(seen.text, echoing=arguments),
        scenario=redactor.text(seen.scenario),
        asked=None if seen.asked is None else redactor.text(seen.asked),
        after=None if seen.after is None else redactor.text(seen.after),
        wire=None if seen.wire is None else redactor.wire(seen.wire, echoing=arguments),
    )
    return kept if observation == seen else Kept(observation=observation, times=kept.times)


def _writes_with_secrets(
    source: CacheStore,
    redactor: Redactor,
    declared: Mapping[tuple[str, str], ToolSpec],
    settings: Settings,
) -> bool:
    """Say whether any recorded write changes by redaction, and with it the states after it."""
    for (namespace, tool), spec in declared.items():
        effects = settings.applied(namespace, spec).effects
        if not is_writer(effects):
            continue
        by_result = any("{result" in template for template in effects.writes)
        for entry in source.by_tool(namespace, tool):
            arguments = entry.call.arguments
            if redactor.arguments(arguments) != arguments:
                return True
            texts = [kept.observation.text for kept in entry.kept] if by_result else []
            if any(redactor.text(text) != text for text in texts):
                return True
    return False


def _settings_of(store: CacheStore) -> Settings:
    said = store.note("settings")
    return Settings() if said is None else msgspec.json.decode(said, type=Settings)


def redact_file(
    source: CacheStore, out: Path, profile: Profile, *, source_file: Path | None = None
) -> Redacted:
    """Make a redacted copy of a cache in a new file: it appears whole or not at all.

    A source that was redacted before hands its key on where it is at hand, so that what found a
    recording before still does.

    Raises:
        CacheError: the file exists, or the key cannot be read.
    """
    if out.exists():
        raise CacheError(f"{out}: exists already. Choose another file for the redacted copy.")
    before = redaction_note(source)
    key = None if before is None else _matching_key(before, source_file)
    if key is not None and not os.environ.get(KEY_VARIABLE):
        _keep_key(out, key)
    redactor = Redactor(profile, make_key(out) if key is None else key)
    out.parent.mkdir(parents=True, exist_ok=True)
    building = out.with_name(f".{out.name}.{os.getpid()}.new")
    _remove(building)
    try:
        target = SqliteStore(building, mode="write")
        try:
            found = redact_into(source, target, redactor)
        finally:
            target.close()
        building.replace(out)
    finally:
        _remove(building)
    return found


def _matching_key(note: RedactionNote, file: Path | None) -> bytes | None:
    key = read_key(file)
    if key is None or Redactor(note.profile, key).fingerprint != note.key:
        return None
    return key


def _remove(file: Path) -> None:
    for ending in ("", "-wal", "-shm"):
        file.with_name(file.name + ending).unlink(missing_ok=True)
