"""From a shadow run's summary to one HTML page that needs nothing beside itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cacherl.core.jsonl import atomic_writer
from cacherl.core.records import JsonObject
from cacherl.core.tools import Tier
from cacherl.metrics.comparison import Comparison
from cacherl.metrics.intervals import Measured
from cacherl.report.page import templates
from cacherl.report.plots import reliability_figure
from cacherl.shadow.compared import WHY, Fate
from cacherl.shadow.divergence import Difference
from cacherl.shadow.summary import HitGroup, ShadowSummary, Steps, WrongHit

METRICS = {
    "success": "the suite's verdict",
    "process_accuracy": "process accuracy",
    "end_to_end": "end to end",
    "outcome_right": "outcome",
    "answer_right": "answer",
}
FATES = {
    Fate.RIGHT: "hits that said what the world says",
    Fate.WRONG: "hits that said something else",
    Fate.MISSED: "nothing recorded was served",
    Fate.AFTER_PARTING: "hits once cache and world stood in different states",
    Fate.NOT_COMPARED: "the world had no answer",
}
SHOWN_TOOLS = 40
SHOWN_EXACT = 60
_CUT = 600


def write_shadow(summary: ShadowSummary, path: Path) -> None:
    """Write the page; it appears whole or not at all.

    Raises:
        MissingExtraError: jinja2 or matplotlib is not installed.
    """
    page = render_shadow(summary)
    with atomic_writer(path) as handle:
        handle.write(page.encode("utf-8", "replace"))


def render_shadow(summary: ShadowSummary) -> str:
    """Return the page. Same summary, same page.

    Whatever a model, a tool or a task wrote is shown as text: nothing of it is ever markup. The page
    has no script and loads nothing.
    """
    environment = templates()
    environment.filters |= {"interval": interval, "tier": tier_name}
    return str(environment.get_template("shadow.html.j2").render(_view(summary)))


def interval(value: Measured | None) -> str:
    """Return the ends of an interval in per cent."""
    return "" if value is None else f"{100 * value.low:.1f} to {100 * value.high:.1f}"


def tier_name(tier: Tier | None) -> str:
    """Return a tier for a person."""
    return "all" if tier is None else tier.value.replace("_", " ")


def _view(summary: ShadowSummary) -> dict[str, Any]:
    main = summary.cached or summary.live
    exact = next((g for g in main.by_tier if g.tier is Tier.EXACT), None) if main else None
    return {
        "summary": summary,
        "plan": summary.plan,
        "main": main,
        "exact": exact,
        "sides": [
            _side(title, what, steps)
            for title, what, steps in (
                (
                    "On the cache, the world beside",
                    "The policy saw the cache's answers. After each, the world was asked the same, having "
                    "been stepped along with the same calls.",
                    summary.cached,
                ),
                (
                    "On the world, the cache beside",
                    "The policy saw the world's answers. Before each, the cache was asked what it has for "
                    "this very state: what a cache of these recordings answers on the path the policy takes.",
                    summary.live,
                ),
            )
            if steps is not None
        ],
        "funnel": _funnel(summary),
        "metrics": [_metric(name, each) for name, each in _ordered(summary.pairs)],
        "believed": [
            _metric(name, each)
            for name, each in summary.believed.items()
            if name != "process_accuracy"
        ],
        "pairs": [
            {
                "pair": pair,
                "first": _answer(first),
                "more": len(pair.divergence.differences) - 1,
                "cached_next": _cut(pair.divergence.cached_next),
                "live_next": _cut(pair.divergence.live_next),
            }
            for pair in (summary.pairs.examples if summary.pairs else ())
            if (first := pair.divergence.first) is not None
        ],
        "examples": [_wrong(each) for each in summary.wrong_examples],
        "splits": ", ".join(split.value for split in summary.plan.sees),
    }


def _side(title: str, what: str, steps: Steps) -> dict[str, Any]:
    whole = next((each for each in steps.reliability if each.tier is None), None)
    return {
        "title": title,
        "what": what,
        "steps": steps,
        "fates": [
            {"name": each.value, "what": FATES[each], "count": count, "share": count / steps.calls}
            for each, count in steps.fates.items()
            if count
        ]
        if steps.calls
        else [],
        "reliability": whole,
        "figure": None if whole is None else reliability_figure(whole.bins),
        "tools": [_hits(each) for each in _worst_first(steps.by_tool)[:SHOWN_TOOLS]],
        "more_tools": max(0, len(steps.by_tool) - SHOWN_TOOLS),
        "tiers": [_hits(each) for each in steps.by_tier if each.hits],
        "bands": [_hits(each) for each in steps.by_band],
        "parted": [
            {"tier": tier, "hits": hits, "wrong": wrong}
            for tier, (hits, wrong) in steps.after_parting.items()
        ],
        "exact": [_wrong(each) for each in steps.exact_wrong[:SHOWN_EXACT]],
        "more_exact": max(0, len(steps.exact_wrong) - SHOWN_EXACT),
        "unsaid": sorted(steps.unsaid_writers.items(), key=lambda kv: (-kv[1], kv[0])),
        "failures": sorted(steps.failures.items(), key=lambda kv: -kv[1])[:5],
    }


def _worst_first(groups: tuple[HitGroup, ...]) -> list[HitGroup]:
    return sorted(groups, key=lambda each: (-each.wrong, -each.hits, each.tool))


def _hits(each: HitGroup) -> dict[str, Any]:
    return {
        "group": each,
        "share": None if each.wrong_share is None else each.wrong_share.value,
        "interval": interval(each.wrong_share),
        "off": None
        if each.stated is None or each.observed is None
        else each.observed - each.stated,
    }


def _ordered(pairs: Any) -> list[tuple[str, Comparison]]:
    if pairs is None:
        return []
    place = {name: number for number, name in enumerate(METRICS)}
    return sorted(pairs.metrics.items(), key=lambda kv: (place.get(kv[0], 99), kv[0]))


def _metric(name: str, each: Comparison) -> dict[str, Any]:
    return {"name": METRICS.get(name, name.replace("_", " ")), "each": each}


def _funnel(summary: ShadowSummary) -> list[dict[str, Any]]:
    if summary.pairs is None:
        return []
    found = summary.pairs.funnel
    rows = (
        ("pairs of episodes", "same policy, task and seed", found.pairs),
        ("met a loose answer", "fuzzy, best effort, another state, or a miss", found.met_loose),
        ("saw what the world would not have said", "", found.differed),
        ("behaved differently after it", "", found.diverged),
        ("came to another verdict", "in the world", found.verdict_changed),
    )
    return [
        {
            "name": name,
            "what": what,
            "count": count,
            "width": round(100 * count / found.pairs, 1) if found.pairs else 0,
        }
        for name, what, count in rows
    ]


def _answer(first: Difference) -> dict[str, Any]:
    return {
        "call": f"{first.tool} {_arguments(first.arguments)}",
        "tier": tier_name(first.tier),
        "fidelity": first.fidelity,
        "score": first.score,
        "cached": _cut(first.cached.text),
        "live": _cut(first.live.text),
    }


def _wrong(hit: WrongHit) -> dict[str, Any]:
    return {
        "task": hit.task_id,
        "call": f"{hit.tool} {_arguments(hit.arguments)}",
        "tier": tier_name(hit.tier),
        "fidelity": hit.fidelity,
        "score": hit.score,
        "cached": _cut(hit.cached.text),
        "live": _cut(hit.live.text),
        "why": None if hit.why is None else WHY[hit.why],
        "changed": ", ".join(hit.changed_before[:5]),
        "key": hit.key,
    }


def _arguments(arguments: JsonObject) -> str:
    return _cut(json.dumps(arguments, ensure_ascii=False))


def _cut(text: str) -> str:
    return text if len(text) <= _CUT else text[:_CUT] + " ..."
