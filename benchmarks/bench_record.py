"""What recording costs: the proxy, live tools, whole episodes, the journal of a paid teacher, and imports.

    python -m benchmarks.bench_record                the whole table
    python -m benchmarks.bench_record --quick        the same at a sixth of the size
    python -m benchmarks.bench_record --rows stdio,import

What is compared is measured in turns, call by call, in the same run, and medians are told with the
direct call beside them: the official client library and a server that does nothing. The file that is
imported is made from the seed and thrown away.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import msgspec

from benchmarks.machine import machine
from benchmarks.record_rows import ROWS, Bench
from benchmarks.rows import Row, keep, say

PACKAGES = ("mcp", "msgspec", "orjson")


def bench_of(args: argparse.Namespace, work: Path) -> Bench:
    """Return the run that the options ask for."""
    if args.quick:
        return Bench(
            work=work,
            seed=args.seed,
            calls=400,
            http_calls=200,
            episodes=150,
            requests=500,
            file_bytes=30_000_000,
        )
    return Bench(
        work=work,
        seed=args.seed,
        calls=2500,
        http_calls=1000,
        episodes=1000,
        requests=3000,
        file_bytes=200_000_000,
    )


def main() -> None:
    """Measure, print, and keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a sixth of the size")
    parser.add_argument("--rows", default=",".join(ROWS), help=f"of {', '.join(ROWS)}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="where the JSON goes; else benchmarks/results")
    args = parser.parse_args()
    chosen = [name.strip() for name in args.rows.split(",") if name.strip()]
    unknown = [name for name in chosen if name not in ROWS]
    if unknown:
        parser.error(f"no such row: {', '.join(unknown)}. There are: {', '.join(ROWS)}")

    started, busy = time.perf_counter(), os.getloadavg()[0]
    here = machine(*PACKAGES)
    say(f"{here['cpu']} x{here['cores']}, Python {here['python']}, commit {here['commit']}")
    if busy > 0.5:
        say(f"  this machine is busy (load {busy:.1f}): ratios hold, times less")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="cacherl-bench-") as work:
        bench = bench_of(args, Path(work))
        for name in chosen:
            begun = time.perf_counter()
            rows += ROWS[name](bench)
            say(f"  {name}: {time.perf_counter() - begun:.0f} s")
    say("")
    for row in rows:
        say(row.line())
    result = {
        "what": "record",
        "machine": here,
        "load_average_before": busy,
        "seed": bench.seed,
        "sizes": {
            "calls": bench.calls,
            "http_calls": bench.http_calls,
            "episodes": bench.episodes,
            "requests": bench.requests,
            "file_bytes": bench.file_bytes,
        },
        "taken_s": round(time.perf_counter() - started, 1),
        "rows": msgspec.to_builtins(rows),
        "facts": bench.facts,
    }
    whole = chosen == list(ROWS)
    scale = "quick" if args.quick else "full"
    path = args.out or (
        Path(__file__).parent / "results" / f"record-{scale}.json" if whole else None
    )
    keep(result, rows, path)


if __name__ == "__main__":
    main()
