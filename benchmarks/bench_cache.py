"""How near the cache is to the speed of memory, and how far ahead of what else could do its work.

    python -m benchmarks.bench_cache                 the whole table
    python -m benchmarks.bench_cache --quick         the same at a tenth of the size
    python -m benchmarks.bench_cache --full          growth up to 1e7 entries (10 GB of disk, half an hour)
    python -m benchmarks.bench_cache --rows cold,open

What is compared is measured in the same run, in turns, and medians are told. "Cold" is an entry
that this process has never looked up, in a file whose pages the machine holds in memory: what is
left out is the disk, not the work. A lookup is `ToolCache.lookup` of arguments as a model writes
them: normalisation, key, index, checksum and decoding are in every figure. What is built stays in
a folder (`--work`) for the next run.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.cache_rows import PAPER_MIX, ROWS, Bench, power
from benchmarks.cache_workload import Hotels
from benchmarks.machine import machine
from benchmarks.rows import Row, keep, say

PACKAGES = ("msgspec", "numpy", "redis", "rapidfuzz", "tantivy")


def bench_of(args: argparse.Namespace) -> Bench:
    """Return the run that the options ask for."""
    if args.quick:
        sizes: dict[str, Any] = {
            "count": 100_000,
            "scan": 20_000,
            "growth": (10_000, 100_000),
            "queries": 2000,
            "records": 400,
        }
    else:
        sizes = {
            "count": 1_000_000,
            "scan": 100_000,
            "growth": (10_000, 100_000, 1_000_000, *((10_000_000,) if args.full else ())),
            "queries": 10_000,
            "records": 2000,
        }
    args.work.mkdir(parents=True, exist_ok=True)
    return Bench(work=args.work, seed=args.seed, small=args.full, **sizes)


def main() -> None:
    """Measure, print, and keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the size, in a minute")
    parser.add_argument("--full", action="store_true", help="growth up to 1e7, with small results")
    parser.add_argument("--rows", default=",".join(ROWS), help=f"of {', '.join(ROWS)}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "cacherl-bench")
    parser.add_argument("--out", type=Path, help="where the JSON goes; else benchmarks/results")
    args = parser.parse_args()
    chosen = [name.strip() for name in args.rows.split(",") if name.strip()]
    unknown = [name for name in chosen if name not in ROWS]
    if unknown:
        parser.error(f"no such row: {', '.join(unknown)}. There are: {', '.join(ROWS)}")

    bench, started = bench_of(args), time.perf_counter()
    here = machine(*(name for name in PACKAGES if importlib.util.find_spec(name) is not None))
    busy = os.getloadavg()[0]
    say(f"{here['cpu']} x{here['cores']}, Python {here['python']}, commit {here['commit']}")
    if busy > 0.5:
        say(f"  this machine is busy (load {busy:.1f}): ratios hold, times less")
    Hotels(bench.seed).check()
    rows: list[Row] = []
    for name in chosen:
        rows += ROWS[name](bench)
        gc.collect()
    say("")
    for row in rows:
        say(row.line())
    result = {
        "what": "cache",
        "machine": here,
        "load_average_before": busy,
        "seed": bench.seed,
        "sizes": {
            "entries": bench.count,
            "scan": bench.scan,
            "growth": bench.growth,
            "queries": bench.queries,
            "records_per_writer": bench.records,
            "small_results_in_growth": bench.small,
            "paper_mix": PAPER_MIX,
        },
        "taken_s": round(time.perf_counter() - started, 1),
        "rows": msgspec.to_builtins(rows),
        "facts": bench.facts,
    }
    whole = chosen == list(ROWS)
    scale = "quick" if args.quick else "full" if args.full else power(bench.count)
    path = args.out or (
        Path(__file__).parent / "results" / f"cache-{scale}.json" if whole else None
    )
    keep(result, rows, path)


if __name__ == "__main__":
    main()
