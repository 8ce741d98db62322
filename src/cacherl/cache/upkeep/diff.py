"""Two caches beside each other, call by call: what each knows, and where they contradict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Literal

from cacherl.cache.lookup.tool_cache import ToolCache
from cacherl.cache.storage.entry import CacheEntry
from cacherl.cache.storage.store import CacheStore
from cacherl.cache.upkeep.merge import contradictions, excerpt, opened, pages, spec_bytes
from cacherl.cache.upkeep.named import Opener
from cacherl.core.records import Record
from cacherl.core.tools import ToolSpec


class Differs(Record, frozen=True, kw_only=True):
    """One call that two caches do not know alike."""

    how: Literal["contradicting", "only a", "only b", "changed"]
    """`changed`: other answers or counts, but no scenario without a common answer. When they were
    recorded and how long they took does not matter."""
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
        elif _said(ours) != _said(theirs):
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
    for page in pages(a.entries()):
        yield from zip(page, b.get_many([entry.call for entry in page]), strict=True)


def _said(entry: CacheEntry) -> frozenset[tuple[bytes, int]]:
    return frozenset((kept.observation.content(), kept.times) for kept in entry.kept)


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
    return excerpt(entry.kept[0].observation.text) if entry.kept else None


def _declared(
    a: ToolSpec | None, b: ToolSpec | None
) -> Literal["same", "changed", "only a", "only b", "none"]:
    if a is None or b is None:
        return "none" if a is b else "only a" if b is None else "only b"
    return "same" if spec_bytes(a) == spec_bytes(b) else "changed"
