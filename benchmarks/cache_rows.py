"""The rows of `bench_cache`: each measures, says how, and holds the figure to its target."""

from __future__ import annotations

import asyncio
import functools
import gc
import hashlib
import importlib.util
import json
import multiprocessing
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from benchmarks import cache_workload
from benchmarks.cache_baselines import (
    DictTable,
    Scan,
    Tantivy,
    filled_redis,
    redis_is_here,
    timed,
)
from benchmarks.cache_workload import HOTELS, SPACE, Call, Catalogue, Hotels
from benchmarks.rows import Row, judged, percentile, say, told_us, unmeasured, us
from cacherl.cache.episodes.replay import ReplayTools
from cacherl.cache.lookup.tool_cache import Hit, ToolCache
from cacherl.cache.storage.entry import CacheEntry
from cacherl.cache.storage.sqlite import SqliteStore
from cacherl.cache.storage.store import CacheStore, MemoryStore
from cacherl.core.messages import AssistantMessage, ToolCall, UserMessage
from cacherl.core.tasks import Split, Task
from cacherl.core.tools import Source, Tier, ToolResult, ToolSpec
from cacherl.core.trajectories import StopReason, Trajectory

TURN = 48
STEPS = 20  # training steps at paper scale: enough for nearly every tool to have been met before
ROUNDS = 5
"""What is compared takes turns this often: a busy moment then meets all of it."""
PAPER_MIX = {"exact": 0.70, "fuzzy": 0.17, "best_effort": 0.10, "miss": 0.03}
ROLLOUTS, CALLS_EACH = 128, 8
TURN_S = 1.0
WRITERS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """One run: what it was asked for."""

    work: Path
    seed: int
    count: int
    """Entries of the one large tool."""
    scan: int
    """Entries that are scanned, and that Redis holds."""
    growth: tuple[int, ...]
    small: bool
    """Growth with results of 60 B in place of 570 B, so that 1e7 fit."""
    queries: int
    records: int
    """Results that each of the writers records, one by one and by trajectories."""
    facts: dict[str, Any] = field(default_factory=dict)

    def draw(self, row: int) -> random.Random:
        """Return the chance of one row."""
        return random.Random(self.seed * 100 + row)  # noqa: S311 - no secret

    def hotels(self, *, small: bool = False) -> Hotels:
        """Return the one large tool."""
        return Hotels(self.seed, small=small)

    def cache(self, count: int, *, small: bool = False) -> Path:
        """Return the frozen cache with this many entries, building it on first use."""
        name = f"hotels-{count}{'-small' if small else ''}-{self.seed}"
        return self._built(name, lambda: _Generated(self.hotels(small=small), count), count)

    def paper_cache(self, catalogue: Catalogue) -> Path:
        """Return the frozen catalogue."""
        return self._built(
            f"paper-{self.seed}", lambda: _filled(catalogue), cache_workload.PAPER_ENTRIES
        )

    def _built(self, name: str, store: Callable[[], CacheStore], count: int) -> Path:
        path = self.work / f"{name}-{_source_digest()}.cache"
        if not path.exists():
            for stale in self.work.glob(f"{name}-*.cache*"):
                stale.unlink()
            started = time.perf_counter()
            ToolCache(store()).freeze(path)
            taken = time.perf_counter() - started
            self.facts[f"built {name}"] = {"s": round(taken, 1), "us_per_entry": us(taken / count)}
            say(f"  built {name}: {taken:.1f} s, {taken / count * 1e6:.0f} us an entry")
        return path


class _Generated(MemoryStore):
    """A store of one tool whose entries are made while they are read: a million never lie in memory."""

    def __init__(self, hotels: Hotels, count: int) -> None:
        super().__init__()
        self._hotels, self._count = hotels, count
        self.put_tool(SPACE, HOTELS)

    def entries(self) -> Iterator[CacheEntry]:
        return self._hotels.entries(self._count)

    def by_tool(self, namespace: str, tool: str) -> Iterator[CacheEntry]:
        return self._hotels.entries(self._count)


def _filled(catalogue: Catalogue) -> MemoryStore:
    store = MemoryStore()
    for spec in catalogue.specs:
        store.put_tool(SPACE, spec)
    for entry in catalogue.entries():
        store.absorb(entry)
    return store


@functools.cache
def _source_digest() -> str:
    """Return what changes when a file built by another version of the source could differ."""
    source = Path(SqliteStore.__module__.replace(".", "/")).parent
    root = Path(__file__).parents[1] / "src" / source
    hashed = hashlib.blake2b(str(cache_workload.VERSION).encode(), digest_size=4)
    for path in sorted(root.rglob("*.py")):
        if path.stem in _SHAPES_THE_FILE:
            hashed.update(path.read_bytes())
    return hashed.hexdigest()


_SHAPES_THE_FILE = frozenset(
    ["canonical", "entry", "freeze", "key", "match", "nearest", "normalise", "snapshot", "sqlite"]
)


# ---- the rows


def exact_rows(bench: Bench) -> list[Row]:
    """Hot and cold exact lookups next to a dict and to Redis, in turns."""
    hotels = bench.hotels()
    draw = bench.draw(0)
    hot_count, cold_count = bench.queries, bench.queries
    numbers = draw.sample(range(bench.count), hot_count + cold_count + 1000)
    hot = [call.arguments for call in hotels.calls(numbers[:hot_count])]
    cold = [call.arguments for call in hotels.calls(numbers[hot_count : hot_count + cold_count])]
    first = hotels.calls(numbers[hot_count + cold_count :])

    table = DictTable(bench.count, bench.seed)
    taken: dict[str, list[float]] = {"dict": [], "dict_hot": [], "hot": [], "cold": []}
    with ToolCache.open(bench.cache(bench.count)) as cache:
        lookup = functools.partial(cache.lookup, SPACE, HOTELS)
        for call in first:  # warms the code, not the entries
            hit = lookup(call.arguments)
            expect(hit, Tier.EXACT, hotels.result(call.number))
        for arguments in hot:
            lookup(arguments)
        gc.collect()
        for round_ in range(ROUNDS):
            keys = table.keys(draw.sample(range(bench.count), cold_count // ROUNDS))
            taken["dict"] += table.timed(keys)
            part = cold[round_ * len(cold) // ROUNDS : (round_ + 1) * len(cold) // ROUNDS]
            taken["cold"] += timed(lookup, part)
            draw.shuffle(hot)
            taken["hot"] += timed(lookup, hot)
            hot_keys = table.keys(numbers[:hot_count] * 2)
            taken["dict_hot"] += table.timed(draw.sample(hot_keys, len(hot_keys)))[
                hot_count // 16 :
            ]
    one = {name: median(times) for name, times in taken.items()}
    figures = {f"{name}_us": us(value) for name, value in one.items()}
    bench.facts["exact"] = figures | {"cold_p99_us": us(percentile(taken["cold"], 0.99))}
    size = power(bench.count)
    against = f"a dict lookup ({one['dict'] * 1e6:.2f} us)"
    rows = [
        judged(
            "exact, hot",
            told_us(one["hot"]),
            f"{one['hot'] / one['dict']:.1f}x {against}",
            "at most 10x",
            one["hot"] <= 10 * one["dict"],
            **figures,
        ),
        judged(
            f"exact, cold snapshot, {size}",
            told_us(one["cold"]),
            f"{one['cold'] / one['dict']:.1f}x {against}",
            "at most 25x",
            one["cold"] <= 25 * one["dict"],
            **figures,
        ),
    ]
    say(
        f"  a dict of {size} entries, keys drawn evenly: {one['dict'] * 1e6:.2f} us; the same dict asked "
        f"only for the {hot_count} hot keys: {one['dict_hot'] * 1e6:.2f} us (hot is "
        f"{one['hot'] / one['dict_hot']:.0f}x that)"
    )
    del table
    return [*rows, redis_row(bench, one["cold"])]


def redis_row(bench: Bench, cold_s: float) -> Row:
    """Hold the cold lookup against GET of the same values on a unix socket."""
    row, target = f"exact, cold snapshot, {power(bench.count)}", "at least 4x faster"
    if not redis_is_here():
        return unmeasured(row, target, "needs redis-server and `pip install 'cacherl[redis]'`")
    hotels = bench.hotels()
    values = {
        entry.call.key: entry.kept[0].observation.text.encode()
        for entry in hotels.entries(bench.scan)
    }
    draw = bench.draw(1)
    by_client: list[float] = []
    by_socket: list[float] = []
    with filled_redis(values) as (get, bare_get, what):
        keys = draw.sample(list(values), 5000)
        for key in keys[:500]:
            if get(key) != values[key] or bare_get(key) != values[key]:
                raise AssertionError("Redis answers something else")
        for round_ in range(ROUNDS):
            part = keys[round_ * 1000 : (round_ + 1) * 1000]
            by_client += timed(get, part)
            by_socket += timed(bare_get, part)
    client_s, socket_s = median(by_client), median(by_socket)
    say(
        f"  {what}, {power(bench.scan)} of the same values (1e6 take no longer): GET "
        f"{client_s * 1e6:.0f} us; by a bare socket, nothing parsed: {socket_s * 1e6:.0f} us "
        f"({socket_s / cold_s:.1f}x the cold lookup)"
    )
    return judged(
        row,
        told_us(cold_s),
        f"{client_s / cold_s:.1f}x faster than Redis ({client_s * 1e6:.0f} us)",
        target,
        client_s >= 4 * cold_s,
        redis_us=us(client_s),
        bare_socket_us=us(socket_s),
        what=what,
    )


def fuzzy_rows(bench: Bench) -> list[Row]:
    """Rewordings of recorded calls, next to exact cold lookups in the same process and to a scan."""
    hotels, draw = bench.hotels(), bench.draw(2)
    numbers = draw.sample(range(bench.count), 2 * bench.queries + 300)
    calls = hotels.calls(numbers)
    exact = [call.arguments for call in calls[: bench.queries]]
    sources = calls[bench.queries : 2 * bench.queries]
    asked = [hotels.reworded(call, draw).arguments for call in sources]
    exact_s: list[float] = []
    fuzzy_s: list[float] = []
    with ToolCache.open(bench.cache(bench.count)) as cache:
        lookup = functools.partial(cache.lookup, SPACE, HOTELS)
        first = calls[2 * bench.queries :]
        started = time.perf_counter()
        lookup(hotels.reworded(first[0], draw).arguments)
        first_s = time.perf_counter() - started
        for call in first[1:]:
            lookup(hotels.reworded(call, draw).arguments)
            lookup(call.arguments)
        gc.collect()
        for low in range(0, bench.queries, bench.queries // ROUNDS):
            exact_s += timed(lookup, exact[low : low + bench.queries // ROUNDS])
            fuzzy_s += timed(lookup, asked[low : low + bench.queries // ROUNDS])
        right = fuzzy_hits = 0
        sample = list(zip(sources, asked, strict=True))[:1000]
        for call, arguments in sample:
            hit = lookup(arguments)
            fuzzy_hits += hit.tier is Tier.FUZZY
            right += hit.observation is not None and hit.observation.text == hotels.result(
                call.number
            )
    fuzzy, exact_cold = median(fuzzy_s), median(exact_s)
    say(
        f"  fuzzy: {fuzzy_hits / len(sample):.1%} of the rewordings answered FUZZY, "
        f"{right / len(sample):.1%} by the call they reword; p99 "
        f"{percentile(fuzzy_s, 0.99) * 1e6:.0f} us; the first of the process {first_s * 1e3:.1f} ms"
    )
    size = power(bench.count)
    rows = [
        judged(
            f"fuzzy, {size} of one tool",
            told_us(fuzzy),
            f"{fuzzy / exact_cold:.1f}x exact cold ({exact_cold * 1e6:.1f} us)",
            "p50 at most 5x",
            fuzzy <= 5 * exact_cold,
            fuzzy_us=us(fuzzy),
            fuzzy_p99_us=us(percentile(fuzzy_s, 0.99)),
            exact_cold_us=us(exact_cold),
            share_fuzzy=fuzzy_hits / len(sample),
            share_right=right / len(sample),
            first_ms=round(first_s * 1e3, 2),
        )
    ]
    target = "at least 500x faster"
    if importlib.util.find_spec("rapidfuzz") is None:
        return [*rows, unmeasured(rows[0].row, target, "needs `pip install 'cacherl[bench]'`")]
    scan = Scan(hotels.calls(range(bench.scan)))
    reworded = [
        hotels.reworded(call, draw)
        for call in hotels.calls(range(0, bench.scan, 1 + bench.scan // 12))
    ]
    scan.timed(reworded[:1], "ratio")
    ratio_s = median(scan.timed(reworded, "ratio"))
    default_s = median(scan.timed(reworded[:5], "WRatio"))
    rows.append(
        judged(
            rows[0].row,
            told_us(fuzzy),
            f"{ratio_s / fuzzy:.0f}x faster than rapidfuzz ({ratio_s * 1e3:.1f} ms)",
            f"{target} at {power(bench.scan)}",
            ratio_s >= 500 * fuzzy,
            ratio_ms=round(ratio_s * 1e3, 2),
            default_scorer_ms=round(default_s * 1e3, 2),
        )
    )
    say(
        f"  rapidfuzz `process.extractOne` over {power(bench.scan)} calls: {ratio_s * 1e3:.1f} ms with "
        f"`ratio`, its fastest scorer; {default_s * 1e3:.0f} ms with its default scorer"
    )
    return rows


def best_effort_rows(bench: Bench) -> list[Row]:
    """Calls with a word replaced and 0, 1 or 2 identity fields changed, next to tantivy."""
    hotels, draw = bench.hotels(), bench.draw(3)
    each = max(60, bench.queries // 20)
    sources = hotels.calls(draw.sample(range(bench.count), 3 * each + 60))
    asked = [
        hotels.perturbed(call, place % 3, draw) for place, call in enumerate(sources[: 3 * each])
    ]
    warm = [hotels.perturbed(call, 1, draw) for call in sources[3 * each :]]
    size = power(bench.count)
    row = f"best-effort, {size} of one tool"
    has_tantivy = importlib.util.find_spec("tantivy") is not None
    other = None
    if has_tantivy:
        folder = bench.work / f"tantivy-{bench.count}-{bench.seed}-{cache_workload.VERSION}"
        other = Tantivy(hotels, bench.count, folder)
    ours_s: list[float] = []
    theirs_s: list[float] = []
    ours_right: Counter[int] = Counter()
    theirs_right: Counter[int] = Counter()
    tiers: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    with ToolCache.open(bench.cache(bench.count)) as cache:
        lookup = functools.partial(cache.lookup, SPACE, HOTELS)
        for call in warm:
            lookup(call.arguments)
            if other is not None:
                other.search(call)
        gc.collect()
        queries = list(enumerate(zip(sources, asked, strict=False)))
        # In turns of some dozens: one by one, each would find the other's memory in the caches.
        for low in range(0, len(queries), TURN):
            for place, (source, call) in queries[low : low + TURN]:
                arguments = call.arguments
                started = time.perf_counter()
                hit = lookup(arguments)
                ours_s.append(time.perf_counter() - started)
                tiers[hit.tier] += 1
                right = hit.observation is not None and (
                    hit.observation.text == hotels.result(source.number)
                )
                ours_right[place % 3] += right
                if not right:
                    wrong[changes(source, call)] += 1
            if other is None:
                continue
            for place, (source, call) in queries[low : low + TURN]:
                started = time.perf_counter()
                found = other.search(call)
                theirs_s.append(time.perf_counter() - started)
                theirs_right[place % 3] += other.first(found) == source.number
    ours = median(ours_s)
    by_changes = {n: median(ours_s[n::3]) for n in range(3)}
    shown = "/".join(f"{ours_right[n] / each:.0%}" for n in range(3))
    say(
        f"  best-effort p50 with 0/1/2 identity fields changed: "
        f"{'/'.join(told_us(by_changes[n]) for n in range(3))}; p99 "
        f"{told_us(percentile(ours_s, 0.99))}; answered {shares(tiers)}"
    )
    figures: dict[str, Any] = {
        "us": us(ours),
        "p99_us": us(percentile(ours_s, 0.99)),
        "us_by_fields_changed": [us(by_changes[n]) for n in range(3)],
        "recall_at_1": [ours_right[n] / each for n in range(3)],
        "wrong_where_changed": dict(wrong.most_common()),
        "tiers": dict(tiers),
        "queries": len(asked),
    }
    targets = ("at least 10x faster", "equal or better recall@1")
    if other is None:
        why = "needs `pip install 'cacherl[bench]'`"
        return [
            msgspec.structs.replace(unmeasured(row, target, why), measured=told, figures=figures)
            for target, told in zip(targets, (told_us(ours), shown), strict=True)
        ]
    theirs = median(theirs_s)
    figures |= {
        "tantivy_us": us(theirs),
        "tantivy_recall_at_1": [theirs_right[n] / each for n in range(3)],
    }
    theirs_shown = "/".join(f"{theirs_right[n] / each:.0%}" for n in range(3))
    return [
        judged(
            row,
            told_us(ours),
            f"{theirs / ours:.1f}x faster than tantivy ({told_us(theirs)})",
            targets[0],
            theirs >= 10 * ours,
            **figures,
        ),
        judged(
            "  recall@1, 0/1/2 fields changed",
            shown,
            f"tantivy {theirs_shown}",
            targets[1],
            all(ours_right[n] >= theirs_right[n] for n in range(3)),
        ),
    ]


_OPENING = """
import json, sys, time
from cacherl.cache.lookup.tool_cache import ToolCache
from benchmarks.cache_workload import HOTELS, SPACE
def resident(kind):
    for line in open("/proc/self/status"):
        if line.startswith(kind + ":"):
            return int(line.split()[1]) / 1024
ask = json.loads(sys.argv[2])
before, own = resident("VmRSS"), resident("RssAnon")
started = time.perf_counter()
cache = ToolCache.open(sys.argv[1])
opened = time.perf_counter() - started
after = resident("VmRSS")
took = []
for arguments in ask:
    started = time.perf_counter()
    hit = cache.lookup(SPACE, HOTELS, arguments)
    took.append([str(hit.tier), (time.perf_counter() - started) * 1e3])
print(json.dumps({"ms": opened * 1e3, "mb": after - before, "first": took, "used_mb": resident("VmRSS") - before, "own_mb": resident("RssAnon") - own}))
"""


def open_rows(bench: Bench) -> list[Row]:
    """Open the snapshot in processes of their own."""
    path, hotels = bench.cache(bench.count), bench.hotels()
    draw = bench.draw(4)
    one, two, three = hotels.calls(draw.sample(range(bench.count), 3))
    ask = [
        one.arguments,
        hotels.reworded(two, draw).arguments,
        hotels.perturbed(three, 1, draw).arguments,
    ]
    opened = []
    for _ in range(ROUNDS):
        done = subprocess.run(  # noqa: S603 - this Python, this file
            [sys.executable, "-c", _OPENING, str(path), json.dumps(ask)],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            cwd=Path(__file__).parents[1],
        )
        opened.append(json.loads(done.stdout))
    ms, mb = median(each["ms"] for each in opened), median(each["mb"] for each in opened)
    first = opened[0]["first"]
    say(
        "  a new process: its first lookups took "
        + ", ".join(f"{took:.2f} ms ({tier})" for tier, took in first)
        + f"; after them {opened[0]['used_mb']:.1f} MB more resident, "
        f"{opened[0]['own_mb']:.1f} MB of it its own"
    )
    size = power(bench.count)
    return [
        judged(
            f"open a snapshot of {size}",
            f"{ms:.2f} ms",
            f"{ms / 50:.3f} of 50 ms",
            "at most 50 ms",
            ms <= 50,
            opened=opened,
            file_mb=round(path.stat().st_size / 1e6, 1),
        ),
        judged(
            f"open a snapshot of {size}",
            f"{mb:.1f} MB",
            f"{mb / 10:.2f} of 10 MB resident",
            "at most 10 MB before use",
            mb <= 10,
        ),
    ]


def _write(
    path: str, who: int, count: int, seed: int, whole: bool, ready: Any
) -> tuple[float, float]:
    """Record in a process of its own; return when it began and ended on the machine's one clock."""
    hotels = Hotels(seed)
    calls = hotels.calls(range(who * count, (who + 1) * count))
    made = [_answered(call, hotels) for call in calls]
    episodes = [_episode(made[low : low + CALLS_EACH]) for low in range(0, count, CALLS_EACH)]
    with ToolCache.open(path, mode="write") as cache:
        ready.wait()
        started = time.perf_counter()
        if whole:
            for episode in episodes:
                cache.record_trajectory(_task((HOTELS,)), episode)
        else:
            for call, result in made:
                cache.record(SPACE, HOTELS, call, result, scenario="s", split=Split.TRAIN)
        return started, time.perf_counter()


def _writer(path: str, who: int, count: int, seed: int, whole: bool, ready: Any, told: Any) -> None:
    told.put(_write(path, who, count, seed, whole, ready))


def record_rows(bench: Bench) -> list[Row]:
    """Record from eight processes into one file, one by one and by trajectories of eight calls."""
    rows = []
    spawning = multiprocessing.get_context("spawn")
    for whole, what in ((True, "record, trajectories of 8 calls"), (False, "record, one by one")):
        rates, lost = [], 0
        for _ in range(3):
            with tempfile.TemporaryDirectory(dir=bench.work) as folder:
                path = str(Path(folder) / "recorded.cache")
                ready, told = spawning.Barrier(WRITERS, timeout=120), spawning.SimpleQueue()
                writers = [
                    spawning.Process(
                        target=_writer,
                        args=(path, who, bench.records, bench.seed, whole, ready, told),
                    )
                    for who in range(WRITERS)
                ]
                for writer in writers:
                    writer.start()
                for writer in writers:
                    writer.join()
                if any(writer.exitcode for writer in writers):
                    raise RuntimeError("a writer failed; see its message above")
                spans = [told.get() for _ in writers]
                taken = max(end for _, end in spans) - min(start for start, _ in spans)
                rates.append(WRITERS * bench.records / taken)
                store = SqliteStore(Path(path))
                kept = sum(len(entry.kept) for entry in store.entries())
                store.close()
                lost += WRITERS * bench.records - kept
        rate = median(rates)
        rows.append(
            judged(
                what,
                f"{rate:,.0f}/s",
                f"{rate / 10_000:.2f} of 10,000/s; {lost} lost of {3 * WRITERS * bench.records}",
                "at least 10,000/s, 0 lost",
                rate >= 10_000 and lost == 0,
                rates_per_s=[round(each) for each in rates],
                lost=lost,
                writers=WRITERS,
            )
        )
    return rows


def growth_rows(bench: Bench) -> list[Row]:
    """Look up in ever larger caches of one tool; flat is at most twice the smallest one's time."""
    hotels = bench.hotels(small=bench.small)
    draw = bench.draw(5)
    taken: dict[str, dict[int, float]] = {"exact": {}, "fuzzy": {}}
    sizes: dict[int, float] = {}
    count = min(bench.queries, min(bench.growth) // 4)
    for entries in bench.growth:
        path = bench.cache(entries, small=bench.small)
        calls = hotels.calls(draw.sample(range(entries), 2 * count + 200))
        exact = [call.arguments for call in calls[:count]]
        fuzzy = [hotels.reworded(call, draw).arguments for call in calls[count : 2 * count]]
        gc.collect()
        with ToolCache.open(path) as cache:
            lookup = functools.partial(cache.lookup, SPACE, HOTELS)
            for call in calls[2 * count :]:
                lookup(call.arguments)
                lookup(hotels.reworded(call, draw).arguments)
            taken["exact"][entries] = median(timed(lookup, exact))
            taken["fuzzy"][entries] = median(timed(lookup, fuzzy))
        sizes[entries] = path.stat().st_size / entries
    rows = []
    span = f"{power(bench.growth[0])} to {power(bench.growth[-1])}"
    for tier, times in taken.items():
        ratio = times[bench.growth[-1]] / times[bench.growth[0]]
        rows.append(
            judged(
                f"growth, {tier}, {span}",
                "/".join(f"{value * 1e6:.1f}" for value in times.values()) + " us",
                f"{ratio:.2f}x from the smallest to the largest",
                "flat: at most 2x",
                ratio <= 2.0,
                us={str(entries): us(value) for entries, value in times.items()},
            )
        )
    largest = bench.growth[-1]
    result_bytes = len(hotels.result(1234))
    say(
        f"  memory per entry: {sizes[largest]:.0f} B of file at {power(largest)} (results of "
        f"{result_bytes} B, arguments of {len(hotels.calls([1])[0].canonical)} B), mapped and shared by all "
        "processes"
    )
    bench.facts["growth"] = {
        "file_bytes_per_entry": {str(n): round(size) for n, size in sizes.items()},
        "result_bytes": result_bytes,
    }
    return rows


def paper_rows(bench: Bench) -> list[Row]:
    """128 rollouts of 8 calls over 1,185 tools: what the cache adds to a turn in which all make a call."""
    catalogue = Catalogue(bench.seed)
    path = bench.paper_cache(catalogue)
    turns: list[float] = []
    first: list[float] = []
    expected: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    with ToolCache.open(path) as cache:
        for step in range(STEPS):
            asked = catalogue.asked(ROLLOUTS * CALLS_EACH, PAPER_MIX, step)
            expected.update(each.expected for each in asked)
            tools = [
                ReplayTools(cache, _task(catalogue.specs), rollout=rollout)
                for rollout in range(ROLLOUTS)
            ]
            calls = [
                ToolCall(id=str(place), name=each.tool, arguments=each.arguments)
                for place, each in enumerate(asked)
            ]
            by_turn = [calls[low : low + ROLLOUTS] for low in range(0, len(calls), ROLLOUTS)]
            taken = asyncio.run(_step(tools, by_turn))
            first = first or taken
            turns += taken
            seen.update(row.tier for each in tools for row in each.ledger.rows)
    turn = median(turns)
    say(
        f"  paper scale: asked {shares(expected)}; answered {shares(seen)}; the turns of the first "
        f"step, tools met for the first time: {median(first) * 1e3:.1f} ms; the worst turn "
        f"{max(turns) * 1e3:.1f} ms"
    )
    return [
        judged(
            f"paper scale, {ROLLOUTS} x {CALLS_EACH} calls",
            f"{turn * 1e3:.2f} ms a turn",
            f"{turn / TURN_S:.2%} of a 1 s turn of {ROLLOUTS} calls",
            "under 1 %",
            turn < 0.01 * TURN_S,
            turn_ms=round(turn * 1e3, 3),
            worst_turn_ms=round(max(turns) * 1e3, 3),
            first_step_turn_ms=round(median(first) * 1e3, 3),
            asked=dict(expected),
            answered=dict(seen),
            tools=len(catalogue.specs),
            entries=cache_workload.PAPER_ENTRIES,
        )
    ]


async def _step(tools: Sequence[ReplayTools], turns: Sequence[Sequence[ToolCall]]) -> list[float]:
    """Let every rollout make a call a turn, all at once; return the seconds of each turn."""
    taken = []
    for calls in turns:
        started = time.perf_counter()
        await asyncio.gather(*(each.call(call) for each, call in zip(tools, calls, strict=True)))
        taken.append(time.perf_counter() - started)
    return taken


# ---- parts of the rows


def expect(hit: Hit, tier: Tier, text: str) -> None:
    """Stop where a fast answer is a wrong one."""
    if hit.tier is not tier or hit.observation is None or hit.observation.text != text:
        raise AssertionError(f"a wrong answer: {hit}")


def changes(source: Call, asked: Call) -> str:
    """Return the identity fields in which two calls differ."""
    names = ("city", "check_in", "limit", "sort")
    return "+".join(name for name in names if getattr(source, name) != getattr(asked, name))


def _task(tools: Sequence[ToolSpec]) -> Task:
    return Task(
        id="t",
        split=Split.TRAIN,
        family="f",
        language="en",
        wording="w",
        scenario="s",
        namespace=SPACE,
        system="",
        user_turns=("hi",),
        tools=tuple(tools),
    )


def _answered(call: Call, hotels: Hotels) -> tuple[ToolCall, ToolResult]:
    made = ToolCall(id=f"c{call.number}", name=HOTELS.name, arguments=call.arguments)
    result = ToolResult(
        call_id=made.id,
        name=made.name,
        text=hotels.result(call.number),
        tier=Tier.LIVE,
        source=Source.LIVE,
        latency_s=0.2,
    )
    return made, result


def _episode(steps: Sequence[tuple[ToolCall, ToolResult]]) -> Trajectory:
    return Trajectory(
        task_id="t",
        policy="expert",
        messages=(UserMessage(content="hi"), *(AssistantMessage(calls=(c,)) for c, _ in steps)),
        results=tuple(result for _, result in steps),
        stop=StopReason.ANSWER,
    )


def power(count: int) -> str:
    """Return 1000000 as 1e6."""
    digits = len(str(count)) - 1
    return f"{count / 10**digits:g}e{digits}"


def shares(counted: Counter[str]) -> str:
    """Return what was counted as shares."""
    total = counted.total()
    return ", ".join(f"{name} {n / total:.0%}" for name, n in sorted(counted.items()))


ROWS: dict[str, Callable[[Bench], list[Row]]] = {
    "exact": exact_rows,
    "fuzzy": fuzzy_rows,
    "best_effort": best_effort_rows,
    "open": open_rows,
    "record": record_rows,
    "growth": growth_rows,
    "paper": paper_rows,
}
