"""From the data of a run to one HTML page that needs nothing beside itself."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cacherl.cache.trust.fidelity import Calibration, Estimate
from cacherl.core.errors import MissingExtraError
from cacherl.core.jsonl import atomic_writer
from cacherl.core.messages import (
    AssistantMessage,
    Call,
    MalformedCall,
    SystemMessage,
    ToolMessage,
    UserMessage,
)
from cacherl.core.tasks import Task
from cacherl.core.tools import Tier
from cacherl.core.trajectories import Trajectory
from cacherl.metrics import (
    EvalSummary,
    FailureKind,
    GroupScore,
    answer_right,
    outcome_right,
    right_calls,
)
from cacherl.report import plots
from cacherl.report.data import ModelReport, ReportData, Transcript
from cacherl.reward.process import process_accuracy

RESULT_CHARS = 280  # of a tool result on the page; the trajectory file has the whole
THINKING_CHARS = 1200

FIGURES = (
    "process_accuracy",
    "end_to_end",
    "families",
    "sft_loss",
    "grpo",
    "kl",
    "tiers",
    "reliability",
)
GROUPS = {
    "seen": "wordings seen in training",
    "new": "wordings never seen",
    "en": "English",
    "fr": "French",
}
FAILURES = {
    FailureKind.EARLY_ENDING: ("Early ending", "answered without a call where calls were due"),
    FailureKind.MISMATCH_CASCADE: (
        "Mismatch cascade",
        "a loosely matched result, wrong calls after it",
    ),
    FailureKind.META_REASONING: ("Meta-reasoning", "the answer talks about how to answer"),
    FailureKind.UNSEEN_TOOLS: ("Unseen tools", "failed where a tool was new to it"),
    FailureKind.OVER_CHAINING: ("Over-chaining", "more calls than the solution has"),
    FailureKind.THINKING_COST: ("Thinking cost", "at least half of the writing was thinking"),
}


def write_report(data: ReportData, path: Path) -> None:
    """Write the page; it appears whole or not at all.

    Raises:
        MissingExtraError: jinja2 or matplotlib is not installed.
    """
    page = render_report(data)
    with atomic_writer(path) as handle:
        handle.write(page.encode())


def render_report(data: ReportData) -> str:
    """Return the page. Same data, same page.

    Whatever a model, a tool or a task wrote is shown as text: nothing of it is ever markup. The
    page has no script and loads nothing.
    """
    return str(templates().get_template("page.html.j2").render(_view(data)))


def templates() -> Any:
    """Return the room's templates, escaping whatever is filled in.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError as error:
        raise MissingExtraError("jinja2", "report") from error
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "points": points,
        "seconds": seconds,
        "count": count,
        "dollars": dollars,
    }
    return environment


# ---- how values are written ------------------------------------------------------------------


def percent(share: float) -> str:
    """Return a share as a percentage with one decimal, without the sign."""
    return f"{100 * share:.1f}"


def points(share: float) -> str:
    """Return a difference of shares in signed percentage points."""
    return f"{100 * share:+.1f}".replace("-", "\N{MINUS SIGN}")


def seconds(value: float) -> str:
    """Return a duration in the two largest units that matter."""
    if value < 59.95:  # what would be written as 60.0 s is a minute
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def count(value: float | str) -> str:
    """Return a number with its thousands set apart, and words as they are."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and not value.is_integer():
        return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{int(value):,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def dollars(value: float) -> str:
    """Return US dollars, with cents, or with four decimals below one dollar."""
    return f"${value:,.2f}" if value >= 1 or value == 0 else f"${value:.4f}"


# ---- what the template sees ------------------------------------------------------------------


def _view(data: ReportData) -> dict[str, Any]:
    import markupsafe

    names = [model.name for model in data.models]
    mains = [_main(model) for model in data.models]
    scored = [(name, main) for name, main in zip(names, mains, strict=True) if main is not None]
    figures = {
        name: markupsafe.Markup(svg)  # noqa: S704 - drawn by us; names inside are escaped by matplotlib
        for name, svg in _figures(data, scored).items()
    }
    return {
        "data": data,
        "names": names,
        "scored": scored,
        "first": scored[0] if scored else None,
        "last": scored[-1] if scored else None,
        "figures": figures,
        "failures": _failure_rows(scored),
        "groups": _group_rows(scored),
        "pairs": [model for model in data.models if model.live and model.cached],
        "wall_s": sum(data.stage_wall_s.values()),
        "transcripts": [_transcript(one, names) for one in data.transcripts],
        "trust": _trust(data.calibration),
    }


def _main(model: ModelReport) -> EvalSummary | None:
    return model.live or model.cached


def _figures(data: ReportData, scored: Sequence[tuple[str, EvalSummary]]) -> dict[str, str]:
    figures = dict.fromkeys(FIGURES, "")
    if scored:
        shown = [model for model in data.models if _main(model)]
        for metric, title in (
            ("process_accuracy", "Process accuracy"),
            ("end_to_end", "End to end"),
        ):
            figures[metric] = plots.accuracy_figure(
                [model.name for model in shown],
                [getattr(model.live, metric, None) for model in shown],
                [getattr(model.cached, metric, None) for model in shown],
                title=title,
            )
        figures["families"] = plots.family_figure(
            [name for name, _ in scored], [main.by_family for _, main in scored]
        )
    if data.sft_loss.values:
        figures["sft_loss"] = plots.curves_figure(
            {"loss": data.sft_loss}, name="sft-loss", label="SFT loss over steps"
        )
    scores = {name: curve for name, curve in data.grpo.items() if name != "kl" and curve.values}
    if scores:
        figures["grpo"] = plots.curves_figure(
            scores, name="grpo-reward", label="GRPO reward over steps", unit=True
        )
    if "kl" in data.grpo and data.grpo["kl"].values:
        figures["kl"] = plots.curves_figure(
            {"KL": data.grpo["kl"]}, name="grpo-kl", label="KL to the reference over steps"
        )
    if data.calibration and data.calibration.reliability:
        figures["reliability"] = plots.reliability_figure(data.calibration.reliability.bins)
    if any(curve.values for curve in data.grpo_tier_mix.values()):
        figures["tiers"] = plots.tier_figure(data.grpo_tier_mix)
    return figures


def _trust(calibration: Calibration | None) -> dict[str, Any] | None:
    if calibration is None:
        return None
    rows = [
        {"name": each.tool, "tier": _tier(each), "found": each}
        for each in calibration.estimates
        if each.scenario_matched is None
    ]
    return {
        "pools": [row for row in rows if not row["name"]],
        "tools": sorted(
            (row for row in rows if row["name"]),
            key=lambda row: (row["found"].namespace, row["name"]),
        ),
        "missed": calibration.answered.get(Tier.MISS, 0.0),
    }


def _tier(each: Estimate) -> str:
    return each.tier.value.replace("_", " ") + ("" if each.state_matched else ", other state")


def _failure_rows(scored: Sequence[tuple[str, EvalSummary]]) -> list[dict[str, Any]]:
    return [
        {
            "name": title,
            "meaning": meaning,
            "cells": [
                {
                    "count": main.failures.get(kind.value, 0),
                    "share": main.failures.get(kind.value, 0) / main.n,
                }
                for _, main in scored
            ],
        }
        for kind, (title, meaning) in FAILURES.items()
    ]


def _group_rows(scored: Sequence[tuple[str, EvalSummary]]) -> list[dict[str, Any]]:
    rows = []
    for field in ("by_wording", "by_language"):
        groups: list[Mapping[str, GroupScore]] = [getattr(main, field) for _, main in scored]
        for name in sorted({name for group in groups for name in group}, reverse=True):
            label = GROUPS.get(name, name)
            rows.append({"label": label, "cells": [group.get(name) for group in groups]})
    return rows


def _transcript(one: Transcript, names: Sequence[str]) -> dict[str, Any]:
    task = one.task
    gold = task.gold
    return {
        "family": task.family.replace("_", " "),
        "language": task.language,
        "user_turns": task.user_turns,
        "gold": [f"{call.name}({_arguments(call.arguments)})" for call in gold.listed]
        if gold
        else [],
        "played": [
            {
                "name": name,
                "series": names.index(name) if name in names else 0,
                **_episode(task, played),
            }
            for name, played in one.played.items()
        ],
    }


def _episode(task: Task, played: Trajectory) -> dict[str, Any]:
    judged = task.gold is not None
    right = right_calls(task, played) if judged else ()
    lines: list[dict[str, Any]] = []
    made = 0
    for message in played.messages:
        match message:
            case SystemMessage():
                continue
            case UserMessage():
                lines.append({"role": "user", "text": message.content})
            case ToolMessage():
                result = next((r for r in played.results if r.call_id == message.call_id), None)
                lines.append(
                    {
                        "role": "tool",
                        "text": _cut(message.content, RESULT_CHARS),
                        "tier": result.tier.value.replace("_", " ") if result else "",
                        "is_error": bool(result and result.is_error),
                    }
                )
            case AssistantMessage():
                if message.thinking:
                    lines.append(
                        {"role": "thinking", "text": _cut(message.thinking, THINKING_CHARS)}
                    )
                if message.content:
                    lines.append({"role": "assistant", "text": message.content})
                for call in message.calls:
                    lines.append({**_call(call), "right": right[made] if judged else None})
                    made += 1
    return {
        "lines": lines,
        "stop": played.stop.value.replace("_", " "),
        "judged": judged,
        "process": process_accuracy(task, played) if judged else 0.0,
        "answer": judged and answer_right(task, played),
        "outcome": judged and outcome_right(task, played),
    }


def _call(call: Call) -> dict[str, Any]:
    if isinstance(call, MalformedCall):
        return {"role": "call", "name": "malformed", "arguments": call.text}
    return {"role": "call", "name": call.name, "arguments": _arguments(call.arguments)}


def _arguments(arguments: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in arguments.items()
    )


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[:limit].rstrip() + " …"
