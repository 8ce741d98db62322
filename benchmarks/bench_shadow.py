"""Was a policy on the cache on the world? Shadow runs of straying policies on two worlds.

    python -m benchmarks.bench_shadow

Worlds: the desk (its expert recorded on 400 training tasks) and BFCL's multi-turn base tasks (gold recorded
on 160). Policies stray from the recorded path (`shadow.straying`, seeded), so that caches are asked what was
never recorded. Beside ours, BFCL is looked up without any state: every tool declared to touch nothing, which
leaves canonical arguments as the key.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.machine import machine
from cacherl.agent import run_episode
from cacherl.cache.episodes.episode import EpisodeOptions
from cacherl.cache.lookup.settings import Settings, ToolRules
from cacherl.cache.lookup.tool_cache import ToolCache
from cacherl.core.models import ChatModel, Limits
from cacherl.core.tasks import Split, Task
from cacherl.core.trajectories import Trajectory
from cacherl.core.worlds import WorldTools
from cacherl.rollout import episode_seed
from cacherl.shadow.compared import sameness
from cacherl.shadow.rows import ShadowFolder, ShadowPlan
from cacherl.shadow.stage import shadow
from cacherl.shadow.straying import Straying
from cacherl.shadow.summary import ShadowSummary, Steps, summarise
from cacherl.suites.bfcl import BfclSuite
from cacherl.suites.bfcl.suite import MAX_TURNS
from cacherl.worlds.desk import DeskExpert, DeskWorld

LIMITS = Limits(max_turns=MAX_TURNS, max_result_tokens=1_000_000)
RESULTS = Path("benchmarks/results")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One row of figures."""

    title: str
    tasks: Sequence[Task]
    model: ChatModel
    open: Callable[[Task], WorldTools]
    cache: ToolCache
    scope: str = "global"


async def recorded(
    model: ChatModel, tasks: Sequence[Task], opened: Callable[[Task], WorldTools]
) -> list[tuple[Task, Trajectory]]:
    """Play tasks on their world."""
    found = []
    for task in tasks:
        tools = opened(task)
        seed = episode_seed(0, task.id, 0)
        found.append((task, await run_episode(model, tools, task, limits=LIMITS, seed=seed)))
        await tools.aclose()
    return found


def cache_of(
    episodes: Sequence[tuple[Task, Trajectory]], settings: Settings | None = None
) -> ToolCache:
    """Return a calibrated cache of episodes."""
    cache = ToolCache.open(":memory:", mode="write", settings=settings)
    for task, trajectory in episodes:
        cache.record_trajectory(task, trajectory, recorded_at=0.0)
    cache.calibrate()
    return cache


async def measured(case: Case) -> ShadowSummary:
    """Run one case and return its summary."""
    namespace = case.tasks[0].namespace
    same = sameness(case.cache)
    options: EpisodeOptions = {"splits": frozenset(Split), "scope": case.scope}
    with tempfile.TemporaryDirectory() as place:
        folder = ShadowFolder(Path(place))
        await shadow(
            case.model,
            case.tasks,
            case.open,
            case.cache,
            folder,
            limits=LIMITS,
            seed=1,
            concurrency=8,
            options=options,
        )
        plan = ShadowPlan(
            model=case.model.name,
            world=namespace,
            cache=":memory:",
            cache_holds="",
            split=case.tasks[0].split,
            sees=tuple(Split),
            scope=case.scope,
            on_miss="error",
            seed=1,
            limits={},
        )
        return summarise(
            plan,
            folder.legs().values(),
            same=lambda call, one, other: same(namespace, call, one, other),
        )


async def desk_cases() -> list[Case]:
    """A straying expert on tasks that were recorded, and on tasks of scenarios that were not."""
    world = DeskWorld()

    def opened(task: Task) -> WorldTools:
        return world.open(task.scenario)

    train = world.tasks(Split.TRAIN, count=400, seed=0)
    dev = world.tasks(Split.DEV, count=200, seed=0)
    cache = cache_of(await recorded(DeskExpert(detour=0.25), train, opened))
    gold = DeskExpert(detour=0.0)
    policies = (DeskExpert(detour=0.5), Straying(gold, 0.4), Straying(gold, 1.0))
    cases = [
        Case(
            title=f"desk train, {_named(model)}", tasks=train, model=model, open=opened, cache=cache
        )
        for model in policies
    ]
    return [
        *cases,
        *(
            Case(
                title=f"desk dev, {_named(policies[1])}, {scope}",
                tasks=dev,
                model=policies[1],
                open=opened,
                cache=cache,
                scope=scope,
            )
            for scope in ("global", "scenario")
        ),
    ]


def _named(model: ChatModel) -> str:
    return f"expert, detours {model.detour:g}" if isinstance(model, DeskExpert) else model.name


async def bfcl_cases(wheel: Path) -> list[Case]:
    """Gold recorded: strayed runs of the same tasks, and gold of the tasks held out."""
    suite = BfclSuite(wheel, ("base",))
    known = [task for split in (Split.TRAIN, Split.DEV) for task in suite.tasks(split)]
    held_out = suite.tasks(Split.TEST)
    gold = await recorded(suite.oracle(), known, suite.open)
    nothing = ToolRules(reads=(), writes=())
    schemes = {
        "state keys": cache_of(gold),
        "stateless": cache_of(gold, Settings(tools=dict.fromkeys(_names(suite), nothing))),
    }
    cases = []
    for scheme, cache in schemes.items():
        for scope in ("scenario", "global"):
            for title, tasks, model in (
                ("strayed", known, Straying(suite.oracle(), 0.3)),
                ("held-out gold", held_out, suite.oracle()),
            ):
                cases.append(
                    Case(
                        title=f"bfcl {title}, {scheme}, {scope}",
                        tasks=tasks,
                        model=model,
                        open=suite.open,
                        cache=cache,
                        scope=scope,
                    )
                )
    return cases


def _names(suite: BfclSuite) -> list[str]:
    return [spec.name for spec in suite.specs()]


# ---- the table -------------------------------------------------------------------------------


def rows(steps: Steps) -> dict[str, Any]:
    """Return the figures of one side."""
    return {
        "calls": steps.calls,
        "fates": {fate.value: count for fate, count in steps.fates.items()},
        "tiers": {
            "all" if group.tier is None else group.tier.value: {
                "hits": group.hits,
                "wrong": round(group.wrong, 3),
                "wrong_share": None
                if group.wrong_share is None
                else [
                    round(each, 4)
                    for each in (
                        group.wrong_share.value,
                        group.wrong_share.low,
                        group.wrong_share.high,
                    )
                ],
                "stated": None if group.stated is None else round(group.stated, 4),
                "stated_hits": group.stated_hits,
                "observed": None if group.observed is None else round(group.observed, 4),
            }
            for group in steps.by_tier
        },
        "calibration_error": steps.reliability[0].error if steps.reliability else None,
        "exact_wrong_by_why": {
            why: sum(hit.why == why for hit in steps.exact_wrong)
            for why in sorted({str(hit.why) for hit in steps.exact_wrong})
        },
        "parted": steps.parted,
        "tools_that_hide_writes": len(steps.unsaid_writers),
    }


def _print(title: str, found: ShadowSummary) -> None:
    print(f"\n{title}")
    for side, steps in (("cache serves", found.cached), ("world serves", found.live)):
        if steps is None:
            continue
        fates = ", ".join(f"{fate.value} {count}" for fate, count in steps.fates.items() if count)
        print(f"  {side}: {steps.calls} calls, {steps.episodes} episodes; {fates}")
        for group in steps.by_tier:
            share = group.wrong_share
            if share is None:
                continue
            tier = "all" if group.tier is None else group.tier.value
            stated = "" if group.stated is None else f"{group.stated:.3f} of {group.stated_hits}"
            print(
                f"    {tier:<12}{group.hits:>6} hits {group.wrong:>6g} wrong {share.value:>7.1%} "
                f"({share.low:.1%} to {share.high:.1%})  stated {stated}"
            )
        why = rows(steps)["exact_wrong_by_why"]
        if why:
            print(f"    EXACT and wrong by explanation: {why}")
    if found.pairs is not None:
        funnel = found.pairs.funnel
        print(
            f"  pairs {funnel.pairs}: loose {funnel.met_loose}, differed {funnel.differed} "
            f"(first in EXACT {funnel.differed_exact}), behaved differently {funnel.diverged}, "
            f"verdict {funnel.verdict_changed}; noise {funnel.noise}, wording {funnel.wording}"
        )
        for cost in found.pairs.by_tier:
            print(
                f"    first {cost.tier.value:<12}{cost.pairs:>4} pairs, {cost.diverged} behaved differently, "
                f"{cost.lost} lost, {cost.won} won"
            )
    for title_, metrics in (
        ("cache against world", found.pairs.metrics if found.pairs else {}),
        ("believed against true", found.believed),
    ):
        for name in ("process_accuracy", "end_to_end"):
            if name in metrics and not (title_.startswith("believed") and name != "end_to_end"):
                each = metrics[name]
                print(
                    f"  {title_}, {name}: {each.b:.3f} against {each.a:.3f}, {each.difference:+.3f} "
                    f"({each.low:+.3f} to {each.high:+.3f}, n = {each.n})"
                )


async def _measure(wheel: Path | None) -> dict[str, Any]:
    kept: dict[str, Any] = {"machine": machine(), "cases": {}}
    cases = await desk_cases()
    if wheel is not None:
        cases += await bfcl_cases(wheel)
    unexplained = 0
    for case in cases:
        found = await measured(case)
        _print(case.title, found)
        if "stateless" not in case.title:
            unexplained += found.unexplained
        kept["cases"][case.title] = {
            "cached": rows(found.cached) if found.cached else None,
            "live": rows(found.live) if found.live else None,
            "funnel": None if found.pairs is None else _plain(found.pairs.funnel),
            "cached_against_live": {} if found.pairs is None else _plain(found.pairs.metrics),
            "believed_against_true": _plain(found.believed),
        }
    print(
        f"\n  {'ok' if not unexplained else 'falls short'}: EXACT without an explanation: {unexplained}"
    )
    return kept


def _plain(value: Any) -> Any:
    return msgspec.to_builtins(value)


def main() -> int:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument(
        "--wheel",
        type=Path,
        default=Path(".cache/bfcl/bfcl_eval-2026.3.23-py3-none-any.whl"),
        help="BFCL's wheel.",
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "shadow.json")
    chosen = parser.parse_args()
    if not chosen.wheel.exists():
        print(f"{chosen.wheel} is not there: BFCL is left out")
    kept = asyncio.run(_measure(chosen.wheel if chosen.wheel.exists() else None))
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    print(f"Kept in {chosen.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
