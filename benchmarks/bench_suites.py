"""How long the suites take: importing, playing and judging gold, without any model.

    python -m benchmarks.bench_suites

BFCL must import its backends, execute and check the 200 gold tasks of a category in under 5 seconds.
Each row is measured in a process of its own, import included.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.machine import machine
from cacherl.suites.bfcl.wheel import add_wheel

RESULTS = Path("benchmarks/results")
CATEGORIES = ("base", "miss_func", "miss_param", "long_context")
BOUND_S = 5.0


def checked_gold(wheel: Path, category: str) -> int:
    """Return how many of a category's gold tasks pass, executed and checked on real backends."""
    from cacherl.suites.bfcl.cases import read_cases
    from cacherl.suites.bfcl.verdict import judge

    cases = read_cases(wheel)
    return sum(
        judge(wheel, cases, case, [[turn] for turn in case.gold]).success
        for case in cases.by_id.values()
        if case.category == category
    )


def played_gold(name: str, count: int) -> int:
    """Return how many test tasks of a suite its oracle passes, played through the agent loop."""
    import asyncio

    from cacherl import wiring
    from cacherl.agent import run_episode
    from cacherl.core.models import Limits
    from cacherl.core.tasks import Split

    suite = wiring.suite_of(name)
    limits = Limits(max_turns=200, max_context_tokens=10**9, max_result_tokens=10**9)

    async def each() -> int:
        passed = 0
        for task in suite.tasks(Split.TEST, count=count):
            tools = suite.open(task)
            episode = await run_episode(suite.oracle(), tools, task, limits=limits)
            await tools.aclose()
            passed += suite.check(task, episode).success
        return passed

    return asyncio.run(each())


def timed(*arguments: str) -> dict[str, Any]:
    """Return what a row's own process says, with its wall seconds."""
    began = time.perf_counter()
    done = subprocess.run(  # noqa: S603 - our own words
        [sys.executable, "-m", "benchmarks.bench_suites", *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return {"seconds": round(time.perf_counter() - began, 2), "passed": int(done.stdout)}


def main() -> int:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--checked", help="Only print how many gold tasks of this category pass.")
    parser.add_argument("--played", help="Only print how many tasks of this suite its gold passes.")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--out", type=Path, default=RESULTS / "suites.json")
    chosen = parser.parse_args()
    wheel = add_wheel()
    if chosen.checked:
        print(checked_gold(wheel, chosen.checked))
        return 0
    if chosen.played:
        print(played_gold(chosen.played, chosen.count))
        return 0
    rows = {f"bfcl {c}: gold executed and checked": timed("--checked", c) for c in CATEGORIES}
    fast = all(row["seconds"] < BOUND_S and row["passed"] == 200 for row in rows.values())
    for name in ("bfcl", "desk", "desk:100"):
        rows[f"{name}: 100 gold episodes in the loop"] = timed("--played", name)
    print(f"  {'':<44}{'passed':>8}{'seconds':>9}")
    for what, row in rows.items():
        print(f"  {what:<44}{row['passed']:>8}{row['seconds']:>9.2f}")
    print(f"\n  {'ok' if fast else 'falls short':<12}200 gold tasks of BFCL in under {BOUND_S:g} s")
    kept = {"machine": machine(), "rows": rows, "bfcl_under_5_s": fast}
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    print(f"\nKept in {chosen.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
