"""Looking after caches: merge, compare, clean up, and move recordings to new rules.

Merging is a join of sets. Calls and observations: `entry.merged`. Where two caches say two things
under one name, the same one is kept in whatever order they come, and the disagreement is told:

- a tool's declaration: the one that says more (declares its effects, then describes parameters),
  then the one with the greater canonical bytes;
- a note: the greater bytes. A calibration or settings of one of them are not those of both, so
  look at what the summary tells;
- caches with different redaction, or with and without, are not merged at all: the result would
  claim to hold no secrets and hold some.

So merging is commutative, associative and idempotent in what an export of the result holds. It
goes in batches, each durable once done: killed, it is run again and adds what is missing.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Literal

import msgspec

from cacherl.cache import redact
from cacherl.cache.canonical import decode_canonical
from cacherl.cache.entry import CacheEntry, Kept, Observation, RecordedCall, merged
from cacherl.cache.key import CANON_VERSION
from cacherl.cache.normalise import COERCIONS, Plan, plan_of
from cacherl.cache.portable import (
    Exported,
    Header,
    NoteLine,
    ObservationLine,
    ToolLine,
    export,
    is_current,
    is_export,
    kept_of,
    observation_lines,
    read_export,
)
from cacherl.cache.settings import NO_SETTINGS, Settings
from cacherl.cache.sqlite import SqliteStore
from cacherl.cache.state import NO_WRITES, resources
from cacherl.cache.store import CacheStore
from cacherl.cache.tool_cache import ToolCache
from cacherl.core.errors import CacheError, DataError, RecipeError
from cacherl.core.jsonl import decode_line, encode_line
from cacherl.core.records import Record
from cacherl.core.tasks import Split
from cacherl.core.tools import Effects, ErrorClass, Source, ToolSpec

Opener = Callable[..., ToolCache]
"""Opens a cache by name, with `mode="write"` where told: `ToolCache.open`, or one that knows more names."""

REDACTION = redact.NOTE
_OTHER_STATES = "c1"
"""Rules whose state keys were computed in another way: no state of theirs can be reached."""
SETTINGS = "settings"

_BATCH_CALLS = 1000
_BATCH_BYTES = 32 << 20
_SHOWN = 20
"""Contradictions told in full by a merge."""
_EXCERPT = 200


# ---- merging


class Disagreement(Record, frozen=True, kw_only=True):
    """Two caches that say two things under one name."""

    what: Literal["tool", "note"]
    name: str
    source: str
    """Whose was compared with what was merged before it."""
    kept: Literal["before", "source"]


class Contradiction(Record, frozen=True, kw_only=True):
    """One call that one scenario answers in two ways: two caches have no answer of it in common."""

    namespace: str
    tool: str
    arguments: str
    state: str
    scenario: str
    ours: str
    theirs: str


class Merged(Record, frozen=True, kw_only=True):
    """What a merge did."""

    path: str
    sources: tuple[str, ...]
    calls: int
    """Calls read from the sources."""
    new: int
    """Calls that were not there before."""
    changed: int
    """Calls of which more is known now."""
    conflicts: int
    """Calls that a scenario answers one way here and another way there. Both are kept."""
    shown: tuple[Contradiction, ...]
    """The first of them."""
    disagreements: tuple[Disagreement, ...]
    left_out: int
    """Calls recorded under other normalisation rules: rekey the source, then merge it again."""
    redacted: bool
    """Queries need the key that the sources were redacted with; it is in no cache and in no export."""


def merge(out: Path, sources: Sequence[str], *, open_cache: Opener = ToolCache.open) -> Merged:
    """Merge caches (files, snapshots, servers, exports) into a new or existing cache file.

    `out` itself among the sources is passed over.

    Raises:
        CacheError: `out` cannot be written, a source cannot be read, or their redaction differs.
        DataError: an export is damaged; nothing of it is merged.
    """
    _refuse_other_files(out)
    others = [name for name in sources if not _same_file(out, name)]
    for name in others:
        _readable(name, open_cache)
    tally = _Tally(str(out))
    with contextlib.closing(SqliteStore(out, mode="write")) as store:
        _same_redaction(store, out, others, open_cache)
        for name in others:
            tally.sources.append(name)
            if _is_export(name) and _canon(Path(name)) == CANON_VERSION:
                _absorb_export(store, Path(name), tally)
                continue
            with opened(name, open_cache) as source:
                merge_store(store, source, tally)
        return tally.summary(store)


def import_file(file: Path, out: str, *, open_cache: Opener = ToolCache.open) -> Merged:
    """Merge an export into a cache, new or not: all of it or nothing.

    Raises:
        DataError: it is no export, or a damaged one; names file, line and field.
        CacheError: `out` cannot be written, or its redaction is another.
    """
    if file.exists() and not is_export(file):
        raise DataError(
            f"{file}: not an export. Merge caches with `cacherl cache merge {out} {file}`."
        )
    tally = _Tally(out)
    _readable(str(file), open_cache)
    with open_cache(out, mode="write") as cache:
        _same_redaction(cache.store, Path(out), [str(file)], open_cache)
        tally.sources.append(str(file))
        if _canon(file) == CANON_VERSION:
            _absorb_export(cache.store, file, tally)
        else:
            with opened(str(file), open_cache) as source, cache.store.batch():
                merge_store(cache.store, source, tally)
        return tally.summary(cache.store)


@contextlib.contextmanager
def opened(name: str, open_cache: Opener = ToolCache.open) -> Iterator[CacheStore]:
    """Open whatever holds recordings, to read. An export is read whole into a temporary cache first.

    An export of older normalisation rules is moved to today's there (see `rekey`).
    """
    path = Path(name)
    if not _is_export(name):
        with open_cache(name) as cache:
            yield cache.store
        return
    with tempfile.TemporaryDirectory(prefix="cacherl-") as folder:
        store = SqliteStore(Path(folder) / "export.sqlite", mode="write")
        with contextlib.closing(store):
            _absorb_export(store, path, _Tally(name))
            if _canon(path) != CANON_VERSION:
                rekey(store)
            yield store


def merge_store(store: CacheStore, source: CacheStore, tally: _Tally | None = None) -> Merged:
    """Merge one open store into another, in batches."""
    tally = tally or _Tally("")
    with store.batch():
        declared = store.tools()
        for (namespace, _), spec in source.tools().items():
            _absorb_tool(store, declared, namespace, spec, tally)
        for name in source.notes():
            value = source.note(name)
            if value is not None:
                _absorb_note(store, name, value, tally)
    current = (entry for entry in source.entries() if _counts(entry, tally))
    for page in _pages(current):
        _absorb(store, page, tally)
    if isinstance(source, SqliteStore):
        tally.counts["left_out"] += source.stale()
    return tally.summary(store)


class _Tally:
    """What a merge has done so far."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.sources: list[str] = []
        self.counts: Counter[str] = Counter()
        self.shown: list[Contradiction] = []
        self.disagreements: list[Disagreement] = []

    def disagree(self, what: Literal["tool", "note"], name: str, *, theirs: bool) -> None:
        self.disagreements.append(
            Disagreement(
                what=what,
                name=name,
                source=self.sources[-1] if self.sources else "",
                kept="source" if theirs else "before",
            )
        )

    def summary(self, store: CacheStore) -> Merged:
        return Merged(
            path=self.path,
            sources=tuple(self.sources),
            calls=self.counts["calls"],
            new=self.counts["new"],
            changed=self.counts["changed"],
            conflicts=self.counts["conflicts"],
            shown=tuple(self.shown),
            disagreements=tuple(self.disagreements),
            left_out=self.counts["left_out"],
            redacted=store.note(REDACTION) is not None,
        )


def _counts(entry: CacheEntry, tally: _Tally) -> bool:
    if is_current(entry.call):
        return True
    tally.counts["left_out"] += 1
    return False


def _absorb_export(store: CacheStore, path: Path, tally: _Tally) -> None:
    """Merge an export in one batch: its last line says whether the others were whole."""
    with store.batch():
        declared = store.tools()
        entries: list[CacheEntry] = []
        held = 0
        for item in read_export(path):
            match item:
                case Header():
                    pass
                case ToolLine():
                    _absorb_tool(store, declared, item.namespace, item.spec, tally)
                case NoteLine():
                    _absorb_note(store, item.name, item.value, tally)
                case CacheEntry():
                    entries.append(item)
                    held += _size(item)
                    if len(entries) >= _BATCH_CALLS or held >= _BATCH_BYTES:
                        _absorb(store, entries, tally)
                        entries, held = [], 0
        _absorb(store, entries, tally)


def _absorb(store: CacheStore, page: Sequence[CacheEntry], tally: _Tally) -> None:
    with store.batch():
        known = store.get_many([entry.call for entry in page])
        for entry, ours in zip(page, known, strict=True):
            tally.counts["calls"] += 1
            if ours is None:
                tally.counts["new"] += 1
            elif ours.kept == entry.kept:
                continue
            else:
                before = merged(ours.kept, ())
                tally.counts["changed"] += merged(before, entry.kept) != before
                found = list(contradictions(ours, entry))
                tally.counts["conflicts"] += bool(found)
                tally.shown += found[: _SHOWN - len(tally.shown)]
            store.absorb(entry)


def _absorb_tool(
    store: CacheStore,
    declared: dict[tuple[str, str], ToolSpec],
    namespace: str,
    spec: ToolSpec,
    tally: _Tally,
) -> None:
    ours = declared.get((namespace, spec.name))
    if ours is None:
        store.put_tool(namespace, spec)
    elif _bytes_of(ours) != _bytes_of(spec):
        theirs = _rank(spec) > _rank(ours)
        if theirs:
            store.put_tool(namespace, spec)
        tally.disagree("tool", f"{namespace}/{spec.name}", theirs=theirs)


def _absorb_note(store: CacheStore, name: str, value: bytes, tally: _Tally) -> None:
    ours = store.note(name)
    if ours is None:
        store.put_note(name, value)
    elif ours != value:
        if value > ours:
            store.put_note(name, value)
        tally.disagree("note", name, theirs=value > ours)


def _rank(spec: ToolSpec) -> tuple[bool, bool, bytes]:
    """Order declarations by how much they say: a placeholder never wins over the tool's own word."""
    return (
        "*" not in (*spec.effects.reads, *spec.effects.writes),
        bool(spec.parameters.get("properties")),
        _bytes_of(spec),
    )


def _bytes_of(spec: ToolSpec) -> bytes:
    return msgspec.json.encode(spec, order="sorted")


def contradictions(ours: CacheEntry, theirs: CacheEntry) -> Iterator[Contradiction]:
    """Yield the scenarios that both know and in which they have no answer in common.

    One common answer is enough to agree: a tool that is not deterministic gives several, and two
    caches have drawn some of them each. Transient failures say nothing and are left aside.
    """
    call = ours.call
    here, there = _answers(ours), _answers(theirs)
    for scenario in sorted(here.keys() & there.keys()):
        if here[scenario].isdisjoint(there[scenario]):
            yield Contradiction(
                namespace=call.namespace,
                tool=call.tool,
                arguments=call.canonical.decode(),
                state=call.state.hex(),
                scenario=scenario,
                ours=_excerpt(min(here[scenario])[0]),
                theirs=_excerpt(min(there[scenario])[0]),
            )


def _answers(entry: CacheEntry) -> dict[str, set[tuple[str, bool]]]:
    found: dict[str, set[tuple[str, bool]]] = {}
    for kept in entry.kept:
        observation = kept.observation
        if observation.error_class is not ErrorClass.TRANSIENT:
            found.setdefault(observation.scenario, set()).add(
                (observation.text, observation.is_error)
            )
    return found


def _excerpt(text: str) -> str:
    short = text if len(text) <= _EXCERPT else f"{text[:_EXCERPT]}... ({len(text)} characters)"
    return short.encode("utf-8", "replace").decode()


def _pages(entries: Iterable[CacheEntry]) -> Iterator[list[CacheEntry]]:
    page: list[CacheEntry] = []
    held = 0
    for entry in entries:
        page.append(entry)
        held += _size(entry)
        if len(page) >= _BATCH_CALLS or held >= _BATCH_BYTES:
            yield page
            page, held = [], 0
    if page:
        yield page


def _size(entry: CacheEntry) -> int:
    return len(entry.call.canonical) + sum(len(kept.observation.text) for kept in entry.kept)


def _is_export(name: str) -> bool:
    return "://" not in name and is_export(Path(name))


def _same_file(out: Path, name: str) -> bool:
    path = Path(name)
    return "://" not in name and path.exists() and out.exists() and path.samefile(out)


def _refuse_other_files(out: Path) -> None:
    """Refuse to write into what is no SQLite file, before anything is opened."""
    if not out.is_file():
        return
    with out.open("rb") as handle:
        start = handle.read(15)
    if start and start != b"SQLite format 3":
        raise CacheError(
            f"{out}: a snapshot or an export, which nothing is ever written into. Do this to a cache "
            "file (.sqlite), and write it out again with `cacherl cache freeze` or `export`."
        )


def _readable(name: str, open_cache: Opener) -> None:
    """Raise now for a source that is missing or none, before `out` is made."""
    if _is_export(name):
        _canon(Path(name))
    else:
        open_cache(name).close()


def _canon(path: Path) -> str:
    with contextlib.closing(read_export(path)) as items:
        first = next(items, None)
    if not isinstance(first, Header):
        raise DataError(f"{path}: the header is missing. Export the cache again.")
    return first.canon


def _same_redaction(
    store: CacheStore, out: Path, sources: Sequence[str], open_cache: Opener
) -> None:
    said: dict[bytes | None, str] = {}
    if next(store.entries(), None) is not None:
        said[store.note(REDACTION)] = str(out)
    for name in sources:
        holds, note = _redaction(name, open_cache)
        if holds:
            said.setdefault(note, name)
    if len(said) > 1:
        (one, first), (_, second), *_ = said.items()
        plain = f" {second if one else first} has none." if None in said else ""
        raise CacheError(
            f"{first} and {second} were redacted by different rules.{plain} Merged, one's secrets would "
            "stand in a cache that says it has none, or its calls would not be found. Bring one to the "
            "other's profile and key with `cacherl cache redact`, then merge."
        )


def _redaction(name: str, open_cache: Opener) -> tuple[bool, bytes | None]:
    """Return whether a source holds recordings, and its note on redaction."""
    if _is_export(name):
        note = None
        with contextlib.closing(read_export(Path(name))) as items:
            for item in items:
                if isinstance(item, NoteLine) and item.name == REDACTION:
                    note = item.value
                if isinstance(item, CacheEntry):
                    return True, note
        return False, note
    with open_cache(name) as cache:
        return next(cache.store.entries(), None) is not None, cache.store.note(REDACTION)


# ---- comparing


class Differs(Record, frozen=True, kw_only=True):
    """One call that two caches do not know alike."""

    how: Literal["contradicting", "only a", "only b", "changed"]
    """`changed`: other observations, but no scenario without a common answer."""
    namespace: str
    tool: str
    arguments: str
    state: str
    scenario: str | None = None
    a: str | None = None
    """What A answers, shortened."""
    b: str | None = None


class ToolDiff(Record, frozen=True, kw_only=True):
    """How two caches differ in one tool, in calls."""

    namespace: str
    tool: str
    same: int
    changed: int
    contradicting: int
    only_a: int
    only_b: int
    declaration: Literal["same", "changed", "only a", "only b", "none"]


class Diff(Record, frozen=True, kw_only=True):
    """How two caches differ."""

    a: str
    b: str
    same: int
    changed: int
    contradicting: int
    only_a: int
    only_b: int
    tools: tuple[ToolDiff, ...]
    notes: tuple[str, ...]
    """Names of notes that differ or that only one has."""
    calls: tuple[Differs, ...]
    """Contradictions first, by tool and arguments; cut where a limit was given."""


def diff_files(
    a: str, b: str, *, limit: int | None = None, open_cache: Opener = ToolCache.open
) -> Diff:
    """Compare two caches of whatever form. Arguments and result as `diff`."""
    with opened(a, open_cache) as left, opened(b, open_cache) as right:
        return diff(left, right, names=(a, b), limit=limit)


def diff(
    a: CacheStore, b: CacheStore, *, names: tuple[str, str] = ("a", "b"), limit: int | None = None
) -> Diff:
    """Compare two stores, call by call.

    Args:
        a: one.
        b: the other.
        names: what they are called.
        limit: how many calls of each kind to list; None lists all of them, in memory.
    """
    counts: dict[tuple[str, str], Counter[str]] = {}
    listed: dict[str, list[Differs]] = {}

    def tell(differs: Differs) -> None:
        _count(counts, differs.namespace, differs.tool)[differs.how] += 1
        kind = listed.setdefault(differs.how, [])
        if limit is None or len(kind) < limit:
            kind.append(differs)

    for ours, theirs in _beside(a, b):
        if theirs is None:
            tell(_differs("only a", ours, a=_first(ours)))
        elif (found := next(contradictions(ours, theirs), None)) is not None:
            tell(
                _differs(
                    "contradicting", ours, scenario=found.scenario, a=found.ours, b=found.theirs
                )
            )
        elif ours.kept != theirs.kept and merged(ours.kept, ()) != merged(theirs.kept, ()):
            tell(_differs("changed", ours, a=_first(ours), b=_first(theirs)))
        else:
            _count(counts, ours.call.namespace, ours.call.tool)["same"] += 1
    for theirs, found_in_a in _beside(b, a):
        if found_in_a is None:
            tell(_differs("only b", theirs, b=_first(theirs)))
    specs = a.tools(), b.tools()
    tools = tuple(
        ToolDiff(
            namespace=namespace,
            tool=tool,
            same=row["same"],
            changed=row["changed"],
            contradicting=row["contradicting"],
            only_a=row["only a"],
            only_b=row["only b"],
            declaration=_declared(*(each.get((namespace, tool)) for each in specs)),
        )
        for namespace, tool in sorted({*counts, *specs[0], *specs[1]})
        for row in [counts.get((namespace, tool), Counter())]
    )
    return Diff(
        a=names[0],
        b=names[1],
        same=sum(tool.same for tool in tools),
        changed=sum(tool.changed for tool in tools),
        contradicting=sum(tool.contradicting for tool in tools),
        only_a=sum(tool.only_a for tool in tools),
        only_b=sum(tool.only_b for tool in tools),
        tools=tools,
        notes=tuple(
            name for name in sorted({*a.notes(), *b.notes()}) if a.note(name) != b.note(name)
        ),
        calls=tuple(
            differs
            for how in ("contradicting", "only a", "only b", "changed")
            for differs in sorted(listed.get(how, ()), key=_place)
        ),
    )


def _beside(a: CacheStore, b: CacheStore) -> Iterator[tuple[CacheEntry, CacheEntry | None]]:
    for page in _pages(a.entries()):
        yield from zip(page, b.get_many([entry.call for entry in page]), strict=True)


def _count(counts: dict[tuple[str, str], Counter[str]], namespace: str, tool: str) -> Counter[str]:
    return counts.setdefault((namespace, tool), Counter())


def _differs(
    how: Literal["contradicting", "only a", "only b", "changed"],
    entry: CacheEntry,
    *,
    scenario: str | None = None,
    a: str | None = None,
    b: str | None = None,
) -> Differs:
    call = entry.call
    return Differs(
        how=how,
        namespace=call.namespace,
        tool=call.tool,
        arguments=call.canonical.decode(),
        state=call.state.hex(),
        scenario=scenario,
        a=a,
        b=b,
    )


def _place(differs: Differs) -> tuple[str, str, str, str]:
    return differs.namespace, differs.tool, differs.arguments, differs.state


def _first(entry: CacheEntry) -> str | None:
    return _excerpt(entry.kept[0].observation.text) if entry.kept else None


def _declared(
    a: ToolSpec | None, b: ToolSpec | None
) -> Literal["same", "changed", "only a", "only b", "none"]:
    if a is None or b is None:
        return "none" if a is b else "only a" if b is None else "only b"
    return "same" if _bytes_of(a) == _bytes_of(b) else "changed"


# ---- cleaning up


class GcRules(Record, frozen=True, kw_only=True):
    """Which observations to drop: those that all the given conditions hold for."""

    splits: frozenset[Split] = frozenset()
    """Of any of these; empty: of every split. Likewise below."""
    sources: frozenset[Source] = frozenset()
    scenarios: frozenset[str] = frozenset()
    tools: frozenset[str] = frozenset()
    """`tool`, in every namespace, or `namespace/tool`."""
    older_than_s: float | None = None
    """Recorded longer ago than this; of unknown age is too old, as for `max_age_s`."""
    transient: bool = False
    """Failures in transit, which are never replayed."""
    beyond: int | None = None
    """More than so many observations of one call: those with the smallest content hashes stay, as
    `entry.merged` has it."""


class Collected(Record, frozen=True, kw_only=True):
    """What a clean-up dropped, or would drop."""

    path: str
    applied: bool
    observations: int
    """Distinct observations dropped."""
    calls: int
    """Calls of which nothing is left."""
    reduced: int
    """Calls that keep some observations."""
    unknown_age: int
    """Observations dropped as too old because nobody knows their age."""
    left_calls: int
    left_observations: int
    by_tool: dict[str, int]
    """Observations dropped, by `namespace/tool`."""


def gc(store: CacheStore, rules: GcRules, *, now: float, apply: bool, name: str = "") -> Collected:
    """Drop observations by rule, in one transaction; without `apply` only count them.

    Never on a cache that rollouts read, and never on a snapshot: clean up the cache it was made of
    and freeze that again.

    Args:
        store: the cache.
        rules: what to drop.
        now: seconds since 1970 UTC.
        apply: do it.
        name: what the cache is called.

    Raises:
        RecipeError: no condition was given.
        CacheError: the store cannot be written.
    """
    if rules == GcRules():
        raise RecipeError(
            "nothing says what to drop. Give a condition, such as `--split test` or `--transient`."
        )
    counts: Counter[str] = Counter()
    by_tool: Counter[str] = Counter()
    with contextlib.ExitStack() as stack:
        spool = stack.enter_context(_Spool())
        if apply:
            stack.enter_context(store.batch())
        for entry in store.entries():
            dropped = _dropped(entry, rules, now)
            left = tuple(kept for kept in entry.kept if kept.observation.content() not in dropped)
            counts["left_calls"] += bool(left)
            counts["left"] += len(left)
            if len(left) == len(entry.kept):
                continue
            gone = len(entry.kept) - len(left)
            counts["gone"] += gone
            counts["reduced" if left else "calls"] += 1
            by_tool[f"{entry.call.namespace}/{entry.call.tool}"] += gone
            if rules.older_than_s is not None:
                counts["unknown"] += sum(
                    kept.observation.recorded_at is None and kept not in left for kept in entry.kept
                )
            if apply:
                store.remove(entry.call)
                if left:
                    spool.put(CacheEntry(call=entry.call, kept=left))
        for entry in spool.entries():
            store.absorb(entry)
    return Collected(
        path=name,
        applied=apply,
        observations=counts["gone"],
        calls=counts["calls"],
        reduced=counts["reduced"],
        unknown_age=counts["unknown"],
        left_calls=counts["left_calls"],
        left_observations=counts["left"],
        by_tool=dict(sorted(by_tool.items())),
    )


def _dropped(entry: CacheEntry, rules: GcRules, now: float) -> frozenset[bytes]:
    """Return the contents of the observations to drop."""
    call = entry.call
    named = not rules.tools or bool(rules.tools & {call.tool, f"{call.namespace}/{call.tool}"})
    if not named:
        return frozenset()
    contents = sorted(kept.observation.content() for kept in entry.kept)
    staying = frozenset(contents[: rules.beyond] if rules.beyond is not None else ())
    return frozenset(
        kept.observation.content()
        for kept in entry.kept
        if _selected(kept.observation, rules, now) and kept.observation.content() not in staying
    )


def _selected(observation: Observation, rules: GcRules, now: float) -> bool:
    at = observation.recorded_at
    return (
        (not rules.splits or observation.split in rules.splits)
        and (not rules.sources or observation.source in rules.sources)
        and (not rules.scenarios or observation.scenario in rules.scenarios)
        and (not rules.transient or observation.error_class is ErrorClass.TRANSIENT)
        and (rules.older_than_s is None or at is None or now - at > rules.older_than_s)
    )


class _Spool:
    """Entries set aside in a file without a name, until what they come from has been read."""

    def __enter__(self) -> _Spool:
        self._file: IO[bytes] = tempfile.TemporaryFile()
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def put(self, entry: CacheEntry) -> None:
        for line in observation_lines(entry):
            self._file.write(encode_line(line))

    def entries(self) -> Iterator[CacheEntry]:
        """Yield what was put, in order, one observation at a time."""
        self._file.seek(0)
        for said in self._file:
            line = decode_line(said, ObservationLine, "the spool", strict=True)
            call = RecordedCall.of(
                line.namespace, line.tool, line.arguments.encode(), bytes.fromhex(line.state)
            )
            yield CacheEntry(call=call, kept=(kept_of(line),))


# ---- moving recordings to new rules


class Rekeyed(Record, frozen=True, kw_only=True):
    """What moving a cache to today's rules did, or would do."""

    path: str
    applied: bool
    calls: int
    """Calls read."""
    older: int
    """Of these, recorded under another version of the rules."""
    moved: int
    """Calls whose identity changed."""
    merged: int
    """Observations that came to stand beside those of another call."""
    split: int
    """Calls whose observations went to several calls."""
    refusals_dropped: int
    """Validation errors of arguments that today's rules mend: they would answer for the mended call."""
    repeats_assumed: int
    """Repeats of moved observations: taken to have been asked as the first was, whose spelling alone
    is kept."""
    states_kept: int
    """Calls in a written state whose state stands as it was recorded."""
    states_lost: int
    """Calls whose state can no longer be told: set apart, so that they answer BEST_EFFORT only. Record
    their trajectories again to have them EXACT."""
    writers_changed: tuple[str, ...]
    """Writing tools (`namespace/tool`) with calls whose normal form changed."""


def rekey(
    store: CacheStore,
    *,
    settings: Settings | None = None,
    keep_states: bool = False,
    apply: bool = True,
    name: str = "",
) -> Rekeyed:
    """Move every recording to where today's rules look for it, in one transaction. Idempotent.

    The normal form is computed again from the arguments as they were asked, else from the normal
    form they had. Observations that now belong to several calls are parted, those that now belong
    to one are joined (`entry.merged`).

    What a call can not tell is the writes before it. Its state key is a digest over them, and each
    of them is known by its own normal form and by the resources it names. So where any successful
    call of a writing tool changed its normal form, no state of that namespace can be told any more;
    and where a call now names other resources than it did, earlier writes may touch it that did
    not, or the reverse. Such calls are set apart in states that no episode can reach: they answer
    BEST_EFFORT, flagged, and never EXACT or FUZZY. A changed version alone leaves states as they are.

    Args:
        store: the cache.
        settings: new settings, kept with the cache; None keeps its own.
        keep_states: trust every state key as it is: right where the environment's own fingerprint
            was the state, wrong where it was computed.
        apply: do it; otherwise only count.
        name: what the cache is called.

    Raises:
        CacheError: the new settings change what tools read or write: which writes touch a call stands
            in the trajectories alone, so the cache must be built again (or `keep_states`).
    """
    kept_note = store.note(SETTINGS)
    old = NO_SETTINGS if kept_note is None else msgspec.json.decode(kept_note, type=Settings)
    new = old if settings is None else settings
    rules = _Rules(store.tools(), old, new)
    changed_effects = rules.changed_effects()
    if changed_effects and not keep_states:
        raise CacheError(
            f"{name or 'the cache'}: the settings change what {', '.join(changed_effects)} read or "
            "write. Which earlier writes touch a call stands in the trajectories, not in the cache: "
            "build it again from them, or pass --keep-states to leave the states as recorded."
        )
    with contextlib.ExitStack() as stack:
        spool = stack.enter_context(_Spool())
        if apply:
            stack.enter_context(store.batch())
        states = _States(store, rules, keep=keep_states)
        counts: Counter[str] = Counter()
        leaving: set[bytes] = set()
        arriving: Counter[bytes] = Counter()
        for version, entry in _versions(store):
            counts["calls"] += 1
            counts["older"] += version != CANON_VERSION
            placed = _placed(version, entry, rules, states, counts)
            if version == CANON_VERSION and placed == [(entry.call, each) for each in entry.kept]:
                continue
            targets = {call.key for call, _ in placed}
            counts["moved"] += 1
            counts["split"] += len(targets) > 1
            leaving.add(entry.call.key)
            arriving.update(targets)
            if apply and version == CANON_VERSION:
                store.remove(entry.call)
            for call, kept in placed:
                spool.put(CacheEntry(call=call, kept=(kept,)))
        if apply and isinstance(store, SqliteStore):
            store.drop_stale()
        for key, times in arriving.items():
            stays = key not in leaving and store.by_key(key) is not None
            counts["merged"] += times - 1 + stays
        if apply:
            for entry in spool.entries():
                store.absorb(entry)
            if settings is not None:
                store.put_note(SETTINGS, msgspec.json.encode(settings))
    return Rekeyed(
        path=name,
        applied=apply,
        calls=counts["calls"],
        older=counts["older"],
        moved=counts["moved"],
        merged=counts["merged"],
        split=counts["split"],
        refusals_dropped=counts["refusals"],
        repeats_assumed=counts["repeats"],
        states_kept=counts["states_kept"],
        states_lost=counts["states_lost"],
        writers_changed=states.changed(),
    )


def _versions(store: CacheStore) -> Iterator[tuple[str, CacheEntry]]:
    """Yield every entry with the version of the rules that it was recorded under."""
    if isinstance(store, SqliteStore):
        yield from store.all_entries()
        return
    for entry in store.entries():
        yield CANON_VERSION, entry


class _Rules:
    """Each tool as the old and the new settings see it."""

    def __init__(
        self, specs: dict[tuple[str, str], ToolSpec], old: Settings, new: Settings
    ) -> None:
        self._specs = specs
        self._old = old
        self._new = new
        self._known: dict[tuple[str, str], tuple[ToolSpec, Plan]] = {}

    def of(self, namespace: str, tool: str) -> tuple[ToolSpec, Plan]:
        """Return the tool and its normalisation under the new settings."""
        name = (namespace, tool)
        if name not in self._known:
            spec = self._new.applied(namespace, self._specs.get(name) or _undeclared(tool))
            self._known[name] = spec, plan_of(spec)
        return self._known[name]

    def changed_effects(self) -> list[str]:
        """Return the tools that read or write something else under the new settings."""
        if self._old == self._new:
            return []
        return [
            f"{namespace}/{tool}"
            for (namespace, tool), spec in sorted(self._specs.items())
            if _touches(self._old.applied(namespace, spec).effects)
            != _touches(self.of(namespace, tool)[0].effects)
        ]


def _undeclared(name: str) -> ToolSpec:
    """Return the spec of a tool that was called but never declared: it may do anything."""
    return ToolSpec(name=name, description="", parameters={"type": "object"})


def _touches(effects: Effects) -> tuple[frozenset[str], frozenset[str], bool]:
    return frozenset(effects.reads), frozenset(effects.writes), effects.idempotent


class _States:
    """Which state keys can still be trusted.

    Every version of the rules is judged by its own recordings: what was recorded under today's
    stands as it is, however much the older ones change.
    """

    def __init__(self, store: CacheStore, rules: _Rules, *, keep: bool) -> None:
        self._keep = keep
        self._written: set[tuple[str, str]] = set()  # version, namespace
        self._changed: dict[tuple[str, str], set[str]] = {}
        if keep:
            return
        for version, entry in _versions(store):
            call = entry.call
            spec, plan = rules.of(call.namespace, call.tool)
            if not spec.effects.writes:
                continue
            for kept in entry.kept:
                if kept.observation.is_error:
                    continue  # it wrote nothing
                self._written.add((version, call.namespace))
                if plan.normal(_asked(call, kept.observation)).canonical != call.canonical:
                    self._changed.setdefault((version, call.namespace), set()).add(call.tool)

    def changed(self) -> tuple[str, ...]:
        """Return the writing tools with calls whose normal form changed."""
        found = {f"{space}/{tool}" for (_, space), tools in self._changed.items() for tool in tools}
        return tuple(sorted(found))

    def lost(
        self,
        version: str,
        call: RecordedCall,
        effects: Effects,
        before: dict[str, Any],
        after: dict[str, Any],
    ) -> bool:
        """Say whether the state of a call can no longer be told.

        Args:
            version: the rules it was recorded under.
            call: as it was recorded.
            effects: the tool's.
            before: its normal arguments as recorded.
            after: the same by today's rules.
        """
        where = (version, call.namespace)
        if version == _OTHER_STATES and call.state != NO_WRITES and not self._keep:
            return True
        if self._keep or where not in self._written:
            return False
        if call.state != NO_WRITES and where in self._changed:
            return True
        return before != after and _seen(effects, before) != _seen(effects, after)


def _seen(effects: Effects, arguments: dict[str, Any]) -> object:
    known = (template for template in effects.writes if "{result." not in template)
    return resources((*effects.reads, *known), arguments)


def _asked(call: RecordedCall, observation: Observation) -> dict[str, Any]:
    said = call.canonical if observation.asked is None else observation.asked.encode()
    arguments: dict[str, Any] = decode_canonical(said)
    return arguments


def _placed(
    version: str, entry: CacheEntry, rules: _Rules, states: _States, counts: Counter[str]
) -> list[tuple[RecordedCall, Kept]]:
    """Return where each observation of an entry belongs by today's rules."""
    call = entry.call
    spec, plan = rules.of(call.namespace, call.tool)
    before = call.arguments
    placed = []
    any_lost = False
    for kept in entry.kept:
        observation = kept.observation
        normal = plan.normal(_asked(call, observation))
        refused = observation.error_class is ErrorClass.VALIDATION
        if refused and any(fired.rule in COERCIONS for fired in normal.fired):
            counts["refusals"] += 1
            continue
        state = call.state
        if states.lost(version, call, spec.effects, before, normal.arguments):
            any_lost = True
            state = hashlib.blake2b(b"lost\n" + state, digest_size=16).digest()
        if normal.canonical != call.canonical:
            counts["repeats"] += kept.times - 1
            if observation.asked is None:
                observation = msgspec.structs.replace(observation, asked=call.canonical.decode())
        target = RecordedCall.of(call.namespace, call.tool, normal.canonical, state)
        placed.append((target, Kept(observation=observation, times=kept.times)))
    counts["states_lost"] += any_lost
    counts["states_kept"] += call.state != NO_WRITES and not any_lost
    return placed


# ---- files


def gc_file(
    name: str, rules: GcRules, *, now: float, apply: bool, open_cache: Opener = ToolCache.open
) -> Collected:
    """Clean up a cache by name. Arguments, result and errors as `gc`."""
    with _writable(name, open_cache, apply=apply) as store:
        return gc(store, rules, now=now, apply=apply, name=name)


def rekey_file(
    name: str,
    *,
    settings: Settings | None = None,
    keep_states: bool = False,
    apply: bool = True,
    open_cache: Opener = ToolCache.open,
) -> Rekeyed:
    """Move the recordings of a cache by name. Arguments, result and errors as `rekey`."""
    with _writable(name, open_cache, apply=apply) as store:
        return rekey(store, settings=settings, keep_states=keep_states, apply=apply, name=name)


def export_file(name: str, path: Path, *, open_cache: Opener = ToolCache.open) -> Exported:
    """Export a cache by name. Result and errors as `portable.export`."""
    if path.exists() and not is_export(path):
        raise DataError(f"{path}: something else than an export stands there. Choose another name.")
    with opened(name, open_cache) as store:
        return export(store, path)


@contextlib.contextmanager
def _writable(name: str, open_cache: Opener, *, apply: bool) -> Iterator[CacheStore]:
    if "://" not in name:
        _refuse_other_files(Path(name))
        if not Path(name).is_file():
            raise CacheError(f"{name}: no such cache. Record one with `cacherl record`.")
    with open_cache(name, mode="write" if apply else "read") as cache:
        yield cache.store
