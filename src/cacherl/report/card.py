"""From a data card to one HTML page that needs nothing beside itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cacherl.core.jsonl import atomic_writer
from cacherl.report.page import count, percent, templates
from cacherl.select.card import Card, Histogram
from cacherl.select.verdicts import Verdict

SHOWN_TOOLS = 30
"""The rest stand in a fold."""
SHOWN_NAMES = 16
"""Families, policies, sources: the rest are counted together."""

VERDICTS = {
    Verdict.PERFECT: "right by everything that could be checked",
    Verdict.RETURNED: "imperfect, kept because a tool, its family or its length was rare",
    Verdict.UNVERIFIED: "nothing says that it is right; kept because that was asked for",
    Verdict.HELD_OUT: "its task is held out",
    Verdict.CONTAMINATED: "repeats a held-out task",
    Verdict.BROKEN_OFF: "did not end in an answer",
    Verdict.META_REASONING: "the answer talks about how to answer",
    Verdict.EMPTY_ANSWER: "the answer is empty",
    Verdict.MALFORMED_CALL: "a call that does not parse",
    Verdict.WRONG_STATE: "left the world in a wrong state",
    Verdict.WRONG_ANSWER: "the answer lacks what it must say",
    Verdict.IMPERFECT_PROCESS: "calls too many, too few or with wrong arguments",
    Verdict.LOW_JUDGED: "the judge's mean is too low",
    Verdict.LOW_NOTED: "the data set's own score is too low",
    Verdict.CONTESTED: "the judge's samples are too far apart",
    Verdict.UNSCORED: "nothing says that it is right",
    Verdict.DUPLICATE: "the same lesson as a better one",
    Verdict.NEAR_DUPLICATE: "nearly the same lesson as a better one",
    Verdict.SURPLUS_OF_TASK: "enough solutions of its task",
    Verdict.SURPLUS_OF_FAMILY: "its family outgrew the others",
    Verdict.SURPLUS_OF_TOOL: "has only tools that outgrew the others",
    Verdict.SURPLUS_OF_LENGTH: "its length outgrew the others",
}
PARTS = {
    "tools": "tool descriptions",
    "system": "instructions",
    "user": "user",
    "thinking": "thinking",
    "answers": "words to the user",
    "calls": "calls",
    "results": "tool results",
}
LANGUAGES = {
    "ar": "Arabic",
    "de": "German",
    "en": "English",
    "es": "Spanish",
    "fr": "French",
    "it": "Italian",
    "ja": "Japanese",
    "ko": "Korean",
    "nl": "Dutch",
    "pt": "Portuguese",
    "ru": "Russian",
    "und": "not known",
    "zh": "Chinese",
}


def write_card(card: Card, path: Path) -> None:
    """Write the page; it appears whole or not at all.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    page = render_card(card)
    with atomic_writer(path) as handle:
        handle.write(
            page.encode("utf-8", "replace")
        )  # a lone surrogate of a tool is no reason to fail


def render_card(card: Card) -> str:
    """Return the page. Same card, same page.

    Whatever a model, a tool or a task wrote is shown as text: nothing of it is ever markup. The page
    has no script and loads nothing.
    """
    environment = templates()
    environment.filters["bytes"] = size
    return str(environment.get_template("card.html.j2").render(_view(card)))


def size(value: int) -> str:
    """Return a number of bytes in the largest unit that leaves it above 1."""
    number, unit = float(value), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if number < 1000:
            break
        number, unit = number / 1000, larger
    return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"


def _view(card: Card) -> dict[str, Any]:
    chosen = card.selection
    kept = {verdict for verdict in VERDICTS if verdict.kept}
    dollars = [row.dollars for row in card.costs]
    return {
        "card": card,
        "calls": sum(tool.calls for tool in card.tools),
        "tokens": sum(card.tokens.by_part.values()),
        "turns": [
            ("User turns", _columns(card.user_turns), card.user_turns),
            ("Assistant turns", _columns(card.assistant_turns), card.assistant_turns),
            ("Calls", _columns(card.calls), card.calls),
        ],
        "length": [
            {**bar, "name": bar["name"].split("-")[0]}
            for bar in _columns(card.tokens.per_trajectory)
        ],
        "parts": _bars({PARTS[part]: n for part, n in card.tokens.by_part.items() if n}),
        "verdicts": [
            {
                "name": verdict.value.replace("_", " "),
                "meaning": VERDICTS[verdict],
                "kept": verdict in kept,
                "count": chosen.by_verdict[verdict.value],
                "share": chosen.by_verdict[verdict.value] / chosen.considered,
            }
            for verdict in VERDICTS
            if chosen.by_verdict.get(verdict.value)
        ]
        if chosen
        else [],
        "points": _columns_of(chosen.judge.points) if chosen and chosen.judge else [],
        "balance": [
            ("trajectories", "", lambda d: count(d.trajectories)),
            ("tools", "that answered at least one call", lambda d: count(len(d.tools))),
            (
                "effective tools",
                "as many, equally common, would be as varied",
                lambda d: f"{d.effective_tools:.1f}",
            ),
            ("families", "", lambda d: count(len(d.families))),
            (
                "effective lengths",
                "the same, of the number of calls",
                lambda d: f"{d.effective_lengths:.1f}",
            ),
        ],
        "lengths": list(dict.fromkeys([*chosen.before.lengths, *chosen.after.lengths]))
        if chosen
        else [],
        "shown_tools": card.tools[:SHOWN_TOOLS],
        "more_tools": card.tools[SHOWN_TOOLS:],
        "languages": _bars({LANGUAGES.get(k, k): v for k, v in card.languages.items()}),
        "families": _bars(card.families),
        "policies": _bars(card.policies),
        "stops": _bars(card.stops),
        "splits": _bars(card.splits),
        "errors": _bars(card.error_classes),
        "dollars": sum(d for d in dollars if d is not None) if card.costs else None,
        "priced": any(d is not None for d in dollars),
        "unpriced": any(d is None for d in dollars),
        "options": sorted(
            (name, _said(value))
            for name, value in card.options.items()
            if value not in ("", [], None)
        ),
    }


def _bars(counts: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return the largest of some counts, with how long each bar is; the rest as one row without a bar."""
    held = sorted(counts.items(), key=lambda kv: -kv[1])
    shown, rest = held[:SHOWN_NAMES], held[SHOWN_NAMES:]
    total = sum(counts.values())
    rows: list[dict[str, Any]] = [
        {
            "name": name.replace("_", " "),
            "count": held_by,
            "share": percent(held_by / total),
            "width": round(100 * held_by / shown[0][1], 1),
        }
        for name, held_by in shown
    ]
    if rest:
        together = sum(held_by for _, held_by in rest)
        rows.append(
            {
                "name": f"{count(len(rest))} more",
                "count": together,
                "share": percent(together / total),
                "width": None,
            }
        )
    return rows


def _columns(histogram: Histogram) -> list[dict[str, Any]]:
    return _columns_of(histogram.bars)


def _columns_of(counts: Mapping[str, int]) -> list[dict[str, Any]]:
    most = max(counts.values(), default=0) or 1
    return [
        {"name": name, "count": held_by, "height": round(100 * held_by / most, 1)}
        for name, held_by in counts.items()
    ]


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(str(each) for each in value)
    return str(value)
