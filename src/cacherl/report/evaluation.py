"""From an evaluation, or from two, to one HTML page that needs nothing beside itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from cacherl.core.jsonl import atomic_writer
from cacherl.core.tasks import Task
from cacherl.evaluate.bounds import Bound
from cacherl.evaluate.compare import Compared, ComparedRuns, p_text, verdict_text
from cacherl.evaluate.explain import Explanation, Line, explain
from cacherl.evaluate.folder import EvalFolder
from cacherl.evaluate.results import Result, Sample, read_results
from cacherl.evaluate.scoring import MAIN
from cacherl.evaluate.summary import Figure, Summary, bound_text
from cacherl.metrics.intervals import Measured
from cacherl.report.page import count, percent, templates

SHOWN_GROUPS = 60
SHOWN_TASKS = 8
"""Tasks won, and tasks lost, whose transcripts stand on a comparison's page."""
CUT = {"tool": 500, "thinking": 900}
"""Characters of one line of a transcript; others are cut at 2,000. The file has the whole."""

NAMES = {
    "success": "Success",
    "process_accuracy": "Process accuracy",
    "end_to_end": "End to end",
    "early_ending": "Early ending",
    "mismatch_cascade": "Mismatch cascade",
    "meta_reasoning": "Meta-reasoning",
    "over_chaining": "Over-chaining",
}
MEANINGS = {
    "success": "the suite's own verdict",
    "process_accuracy": "share of the solution's calls made in order, arguments included",
    "end_to_end": "state and answer both right, by the task's gold",
    "early_ending": "an answer without a single call, where the solution has calls",
    "mismatch_cascade": "a loosely matched result, wrong calls after it",
    "meta_reasoning": "the answer talks about how to answer",
    "unseen_tools": "the solution uses a tool that training never showed",
    "thinking_cost": "at least half of the writing was thinking",
    "over_chaining": "more calls than the solution has, or calls until the turns were used up",
    "truncated": "a turn hit its token limit, or the conversation outgrew the context",
    "format": "the last call that it tried to make did not parse",
    "loop": "the same call in the same state three times or more",
    "policy_break": "a write that the solution never makes took effect",
    "lost_state": "a value that the episode has since replaced",
    "wrong_tool": "a call of the solution is missing, and another tool was called",
    "wrong_argument": "the right tool with other arguments",
    "missing_call": "a call of the solution is missing, and nothing stands for it",
    "wrong_order": "every call of the solution was made, but not in its order",
    "wrong_answer": "every call of the solution was made, and the answer is wrong",
    "unplaced": "no rule could say why",
}


def write_evaluation(folder: EvalFolder, summary: Summary, path: Path) -> None:
    """Write the page of one evaluation; it appears whole or not at all.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    wanted = {sample for each in summary.failures for sample in each.examples}
    tasks = {task.id: task for task in folder.read_tasks()}
    _write(path, render_evaluation(summary, _explained(folder, tasks, wanted)))


def render_evaluation(summary: Summary, examples: Mapping[Sample, Explanation]) -> str:
    """Return the page of one evaluation. Same arguments, same page.

    Whatever a model, a tool or a task wrote is shown as text: nothing of it is ever markup. The page
    has no script and loads nothing.

    Args:
        summary: the figures.
        examples: the rows that `summary.failures` names, explained.
    """
    return _render("evaluation.html.j2", _evaluation(summary, examples))


def write_comparison(compared: ComparedRuns, a: EvalFolder, b: EvalFolder, path: Path) -> None:
    """Write the page of two evaluations; it appears whole or not at all.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    shown = [*compared.won[:SHOWN_TASKS], *compared.lost[:SHOWN_TASKS]]
    tasks = {task.id: task for task in a.read_tasks()}
    sides = [
        _explained(folder, tasks, {(gain.task_id, gain.trials[side]) for gain in shown})
        for side, folder in enumerate((a, b))
    ]
    _write(path, render_comparison(compared, sides[0], sides[1]))


def render_comparison(
    compared: ComparedRuns,
    a: Mapping[Sample, Explanation],
    b: Mapping[Sample, Explanation],
) -> str:
    """Return the page of two evaluations. Same arguments, same page; as inert as `render_evaluation`.

    Args:
        compared: the figures.
        a: rows of A on tasks won or lost, explained.
        b: rows of B on the same tasks.
    """
    return _render("comparison.html.j2", _comparison(compared, a, b))


def _render(template: str, view: Mapping[str, Any]) -> str:
    environment = templates()
    environment.filters |= {"name": _name, "meaning": lambda key: MEANINGS.get(key, "")}
    return str(environment.get_template(template).render(view))


def _write(path: Path, page: str) -> None:
    with atomic_writer(path) as handle:
        handle.write(page.encode("utf-8", "replace"))  # half a character is no reason to fail


def _explained(
    folder: EvalFolder, tasks: Mapping[str, Task], wanted: Iterable[Sample]
) -> dict[Sample, Explanation]:
    wanted = set(wanted)
    rows: dict[Sample, Result] = {}
    if wanted:
        for row in read_results(folder.results):
            if (row.task_id, row.trial) in wanted:
                rows[row.task_id, row.trial] = row
    return {sample: explain(tasks[sample[0]], row) for sample, row in rows.items()}


# ---- what the templates see ------------------------------------------------------------------


def _evaluation(summary: Summary, examples: Mapping[Sample, Explanation]) -> dict[str, Any]:
    plan = summary.manifest.plan
    main = [_figure(each) for each in summary.figures if each.metric in MAIN]
    return {
        "summary": summary,
        "plan": plan,
        "head": main[0],
        "headline": _headline(summary),
        "main": main,
        "checks": [_figure(f) for f in summary.figures if f.metric.startswith("check.")],
        "others": [
            _figure(f)
            for f in summary.figures
            if f.metric not in MAIN and not f.metric.startswith("check.")
        ],
        "attempts": [
            {"k": each.k, "at": _figure(each.at), "hat": _figure(each.hat)}
            for each in summary.attempts
        ],
        "groups": {
            field: [
                {"name": group.name, "figures": [_figure(f) for f in group.figures]}
                for group in groups[:SHOWN_GROUPS]
            ]
            for field, groups in summary.groups.items()
        },
        "failures": [
            {
                "kind": each.kind,
                "rows": each.rows,
                "seen": each.seen,
                "share": each.rows / summary.failed,
                "examples": [
                    _example(examples[sample]) for sample in each.examples if sample in examples
                ],
            }
            for each in summary.failures
        ],
        "tiers": _bars(summary.call_tiers),
        "worst": _bars(summary.worst_tiers),
        "stops": _bars(summary.stops),
        "outages": _bars(summary.outages),
        "settings": list(_settings(msgspec.to_builtins(plan))),
        "last": summary.manifest.runs[-1] if summary.manifest.runs else None,
    }


def _headline(summary: Summary) -> str:
    tasks = f"{count(summary.n)} task{'s' if summary.n != 1 else ''}"
    if summary.rows == summary.n:
        return f"{count(summary.n - summary.failed)} of {tasks}"
    return (
        f"{percent(1 - summary.failed / summary.rows)} % of {count(summary.rows)} tries at {tasks}"
    )


def _comparison(
    compared: ComparedRuns, a: Mapping[Sample, Explanation], b: Mapping[Sample, Explanation]
) -> dict[str, Any]:
    shown = [one for one in compared.metrics if one.metric in MAIN or "check." in one.metric]
    return {
        "compared": compared,
        "head": _gain(compared.metrics[0]),
        "verdict": verdict_text(compared.metrics[0]),
        "metrics": [_gain(one) for one in shown],
        "groups": {
            field: [{"name": each.name, **_gain(each.success)} for each in groups[:SHOWN_GROUPS]]
            for field, groups in compared.groups.items()
        },
        "sets": [
            {
                "title": title,
                "count": len(gains),
                "rest": [gain.task_id for gain in gains[SHOWN_TASKS:]],
                "tasks": [
                    {
                        "task_id": gain.task_id,
                        "a": gain.a,
                        "b": gain.b,
                        "played": [
                            {"side": side, **_example(rows[gain.task_id, trial])}
                            for side, rows, trial in (
                                ("A", a, gain.trials[0]),
                                ("B", b, gain.trials[1]),
                            )
                            if (gain.task_id, trial) in rows
                        ],
                    }
                    for gain in gains[:SHOWN_TASKS]
                ],
            }
            for title, gains in (("Won by B", compared.won), ("Lost by B", compared.lost))
        ],
    }


def _figure(figure: Figure) -> dict[str, Any]:
    """Return one figure as a page shows it: never without n, interval, floor and ceiling."""
    return {
        "metric": figure.metric,
        "name": _name(figure.metric),
        "meaning": MEANINGS.get(figure.metric, ""),
        "value": f"{figure.measured.value:.3f}",
        "low": f"{figure.measured.low:.3f}",
        "high": f"{figure.measured.high:.3f}",
        "n": figure.measured.n,
        "rows": figure.rows,
        "method": figure.measured.method.value,
        "floor": bound_text(figure.floor),
        "ceiling": bound_text(figure.ceiling),
        "floor_said": figure.floor.said,
        "ceiling_said": figure.ceiling.said,
        "track": _track(figure.measured, figure.floor, figure.ceiling),
    }


def _track(measured: Measured, floor: Bound, ceiling: Bound) -> dict[str, Any] | None:
    """Return where things stand on a line from 0 to 1, in percent; None for what is no share."""
    if not 0 <= measured.low <= measured.high <= 1:
        return None
    ends = [end.value for end in (floor, ceiling) if end.value is not None]
    return {
        "low": round(100 * measured.low, 2),
        "width": round(100 * (measured.high - measured.low), 2),
        "value": round(100 * measured.value, 2),
        "ends": [round(100 * end, 2) for end in ends if 0 <= end <= 1],
    }


def _gain(one: Compared) -> dict[str, Any]:
    c = one.comparison
    return {
        "metric": one.metric,
        "title": _name(one.metric),
        "a": f"{c.a:.3f}",
        "b": f"{c.b:.3f}",
        "difference": f"{c.difference:+.3f}",
        "low": f"{c.low:+.3f}",
        "high": f"{c.high:+.3f}" + (" (the test disagrees, and decides)" if c.disagree else ""),
        "p": p_text(c.p_value),
        "corrected": p_text(one.corrected_p),
        "test": c.test,
        "n": c.n,
        "wins": c.wins,
        "losses": c.losses,
        "ties": c.ties,
        "differs": c.differs,
        "floor": bound_text(one.floor),
        "ceiling": bound_text(one.ceiling),
    }


def _example(found: Explanation) -> dict[str, Any]:
    row = found.result
    return {
        "task_id": found.task.id,
        "trial": row.trial,
        "family": found.task.family,
        "language": found.task.language,
        "asked": next((line.text for line in found.lines if line.role == "user"), found.task.id),
        "success": row.verdict.success,
        "checks": row.verdict.checks,
        "fault": found.fault,
        "kinds": [_name(kind) for kind in row.kinds],
        "stop": row.trajectory.stop.value.replace("_", " "),
        "expected": found.expected,
        "lines": [_line(line) for line in found.lines],
    }


def _line(line: Line) -> dict[str, Any]:
    limit = CUT.get(line.role, 2000)
    text = line.text if len(line.text) <= limit else line.text[:limit].rstrip() + " …"
    mark = {True: "right", False: "wrong", None: ""}[line.right]
    tier = line.tier.replace("_", " ")
    if line.fidelity is not None:
        tier += f" {line.fidelity:.2f}"
    return {
        "role": line.role,
        "text": text,
        "mark": mark,
        "tier": tier,
        "is_error": line.is_error,
    }


def _name(key: str) -> str:
    plain = key.removeprefix("check.").replace("_", " ").replace(".", ", ")
    return NAMES.get(key, plain[:1].upper() + plain[1:])


def _bars(counts: Mapping[str, int]) -> list[dict[str, Any]]:
    total = sum(counts.values())
    most = max(counts.values(), default=1)
    return [
        {
            "name": key.replace("_", " "),
            "count": number,
            "share": f"{100 * number / total:.1f}",
            "width": round(100 * number / most, 1),
        }
        for key, number in sorted(counts.items(), key=lambda item: -item[1])
    ]


def _settings(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in values.items():
        name = f"{prefix}{key.replace('_', ' ')}"
        if isinstance(value, dict):
            yield from _settings(value, f"{name}: ")
        elif isinstance(value, Sequence) and not isinstance(value, str):
            yield name, ", ".join(map(str, value))
        else:
            yield name, "not told" if value is None or value == "" else str(value)
