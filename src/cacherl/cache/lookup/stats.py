"""What a cache holds, counted."""

from __future__ import annotations

from collections import Counter

from cacherl.cache.storage.entry import CacheEntry
from cacherl.cache.storage.store import CacheStore
from cacherl.core.records import Record


class ToolStats(Record, frozen=True, kw_only=True):
    """What is recorded of one tool."""

    namespace: str
    tool: str
    calls: int
    observations: int
    errors: int
    contradictions: int
    """Calls that one scenario answered in two ways: not deterministic, or effects misdeclared."""
    scenario_bound: int
    """Calls that two scenarios answered differently."""


class CacheStats(Record, frozen=True, kw_only=True):
    """What is recorded."""

    path: str
    calls: int
    observations: int
    """Distinct ones."""
    repeats: int
    """Observations that said what was known already."""
    scenarios: int
    by_split: dict[str, int]
    by_source: dict[str, int]
    tools: tuple[ToolStats, ...]


def stats_of(store: CacheStore, *, name: str) -> CacheStats:
    """Count what is recorded. Reads everything once, and so verifies every checksum.

    Raises:
        CacheError: something was damaged.
    """
    rows: dict[tuple[str, str], Counter[str]] = {tool: Counter() for tool in store.tools()}
    repeats = 0
    by_split: Counter[str] = Counter()
    by_source: Counter[str] = Counter()
    scenarios: set[str] = set()
    for entry in store.entries():
        row = rows.setdefault((entry.call.namespace, entry.call.tool), Counter())
        row.update(_counted(entry))
        repeats += sum(kept.times - 1 for kept in entry.kept)
        for kept in entry.kept:
            by_split[kept.observation.split] += 1
            by_source[kept.observation.source] += 1
            scenarios.add(kept.observation.scenario)
    tools = tuple(
        ToolStats(
            namespace=namespace,
            tool=tool,
            calls=row["calls"],
            observations=row["observations"],
            errors=row["errors"],
            contradictions=row["contradictions"],
            scenario_bound=row["scenario_bound"],
        )
        for (namespace, tool), row in sorted(rows.items())
    )
    return CacheStats(
        path=name,
        calls=sum(tool.calls for tool in tools),
        observations=sum(tool.observations for tool in tools),
        repeats=repeats,
        scenarios=len(scenarios),
        by_split={str(split): count for split, count in sorted(by_split.items())},
        by_source={str(source): count for source, count in sorted(by_source.items())},
        tools=tools,
    )


def _counted(entry: CacheEntry) -> Counter[str]:
    observations = [kept.observation for kept in entry.kept]
    answers = {(each.scenario, each.text, each.is_error) for each in observations}
    scenarios = {each.scenario for each in observations}
    contradicted = len(answers) > len(scenarios)
    # Only scenarios that are sure of their own answer can disagree with one another.
    bound = not contradicted and len({(text, error) for _, text, error in answers}) > 1
    return Counter(
        calls=1,
        observations=len(observations),
        errors=sum(each.is_error for each in observations),
        contradictions=int(contradicted),
        scenario_bound=int(bound),
    )
