"""The figures, as inline SVG that takes its colours and type from the page around it."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from cacherl.cache.trust.fidelity import Bin
from cacherl.core.errors import MissingExtraError
from cacherl.metrics import GroupScore, Interval
from cacherl.report.data import Curve

# Stand-ins that no figure uses otherwise: they become CSS variables, so one figure fits a light
# and a dark page. Matplotlib writes colours in lower case.
INK, FAINT, PAPER = "#010203", "#040506", "#070809"
SERIES = ("#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04", "#0a0b05")
_VARIABLES = {
    INK: "var(--ink)",
    FAINT: "var(--faint)",
    PAPER: "var(--card)",
    **{color: f"var(--series-{i})" for i, color in enumerate(SERIES)},
}
TIERS = {"no_call": 0, "live": 1, "exact": 2, "fuzzy": 1, "best_effort": 3, "miss": 4}
"""Series of each tier: the colours mean trust, so they do not follow the models."""


def accuracy_figure(
    names: Sequence[str],
    live: Sequence[Interval | None],
    cached: Sequence[Interval | None],
    *,
    title: str,
) -> str:
    """Return one row a model: the mean with its interval, live filled, cached hollow."""
    figure, axes = _figure(width=5.2, height=0.55 + 0.52 * len(names))
    for i, name in enumerate(names):
        y, color = len(names) - 1 - i, SERIES[i % len(SERIES)]
        solid, hollow = live[i], cached[i]
        both = solid is not None and hollow is not None
        if solid is not None:
            _dot(axes, solid, y + (0.12 if both else 0), color, filled=True)
            axes.annotate(
                f"{100 * solid.mean:.1f}",
                (solid.mean, y + (0.12 if both else 0)),
                xytext=(0, 7),
                textcoords="offset points",
                ha="center",
                color=INK,
                fontsize=9,
                fontweight="bold",
            )
        if hollow is not None:
            _dot(axes, hollow, y - (0.18 if both else 0), color, filled=False)
        axes.text(-0.02, y, name, ha="right", va="center", color=INK, fontsize=10, parse_math=False)
    axes.set_xlim(0, 1.02)
    axes.set_ylim(-0.6, len(names) - 0.25)
    axes.set_yticks([])
    _percent_axis(axes)
    axes.spines["left"].set_visible(False)
    return _svg(figure, f"accuracy-{title}", f"{title}, one row a model")


def family_figure(names: Sequence[str], groups: Sequence[Mapping[str, GroupScore]]) -> str:
    """Return bars of process accuracy by family, one bar a model, with whiskers for the interval."""
    families = sorted({family for group in groups for family in group})
    last = groups[-1]
    families.sort(key=lambda f: last[f].process_accuracy.mean if f in last else 0.0)
    thick = 0.8 / len(names)
    figure, axes = _figure(width=11.2, height=0.5 + 0.5 * len(families))
    for i, group in enumerate(groups):
        shift = 0.4 - thick * (i + 0.5)
        for row, family in enumerate(families):
            if family not in group:
                continue
            value, y = group[family].process_accuracy, row + shift
            axes.barh(y, value.mean, height=thick * 0.86, color=SERIES[i % len(SERIES)], lw=0)
            axes.plot([value.low, value.high], [y, y], color=INK, lw=0.9, alpha=0.65)
    axes.set_yticks(
        range(len(families)), [family.replace("_", " ") for family in families], parse_math=False
    )
    axes.set_ylim(-0.6, len(families) - 0.4)
    axes.set_xlim(0, 1.02)
    _percent_axis(axes)
    axes.spines["left"].set_visible(False)
    return _svg(figure, "families", "Process accuracy by task family")


def curves_figure(curves: Mapping[str, Curve], *, name: str, label: str, unit: bool = False) -> str:
    """Return lines over steps, each named at its right end.

    Args:
        curves: by name; empty ones are skipped.
        name: an id that no other figure of the page has.
        label: what a screen reader says.
        unit: the values are shares in [0, 1].
    """
    figure, axes = _figure(width=4.2, height=2.3)
    ends = []
    for i, (line, curve) in enumerate(curves.items()):
        if not curve.values:
            continue
        color = SERIES[(i + 1) % len(SERIES)]
        dense = len(curve.values) > 40
        if dense:
            axes.plot(curve.steps, curve.values, color=color, lw=0.7, alpha=0.3)
        shown = _smooth(curve.values) if dense else list(curve.values)
        axes.plot(curve.steps, shown, color=color, lw=1.8, solid_capstyle="round")
        ends.append((shown[-1], curve.steps[-1], line, color))
    if unit:
        axes.set_ylim(0, 1.03)
    elif all(value >= 0 for curve in curves.values() for value in curve.values):
        axes.set_ylim(bottom=0)
    axes.margins(x=0)
    _label_ends(axes, ends, single=len(ends) == 1)
    axes.grid(axis="y", color=FAINT, lw=0.5, alpha=0.5)
    axes.set_xlabel("step", color=INK, fontsize=9)
    return _svg(figure, name, label)


def tier_figure(tiers: Mapping[str, Curve]) -> str:
    """Return the share of rollouts by worst tier over steps, stacked, most trusted at the bottom."""
    shown = [(tier, tiers[tier]) for tier in TIERS if tier in tiers and tiers[tier].values]
    figure, axes = _figure(width=4.2, height=2.3)
    axes.stackplot(
        shown[0][1].steps,
        *[curve.values for _, curve in shown],
        colors=[SERIES[TIERS[tier]] for tier, _ in shown],
        alpha=0.85,
        lw=0,
    )
    bottom, ends = 0.0, []
    for tier, curve in shown:
        value = curve.values[-1]
        if value > 0.02:
            words = tier.replace("_", " ")
            ends.append((bottom + value / 2, curve.steps[-1], words, SERIES[TIERS[tier]]))
        bottom += value
    axes.set_ylim(0, 1)
    axes.margins(x=0)
    _label_ends(axes, ends, single=False)
    axes.set_xlabel("step", color=INK, fontsize=9)
    return _svg(figure, "tiers", "Rollouts by worst tier")


def reliability_figure(bins: Sequence[Bin]) -> str:
    """Return what was stated against what came true: a dot a bin, with how many answers it holds."""
    figure, axes = _figure(width=4.2, height=3.4)
    axes.plot([0, 1], [0, 1], color=FAINT, lw=1.2, ls=(0, (4, 3)))
    most = max((each.n for each in bins), default=1.0)
    for each in bins:
        axes.plot([each.stated] * 2, [each.stated, each.observed], color=SERIES[2], lw=1.2)
        size = 5.0 + 8.0 * (each.n / most) ** 0.5
        axes.plot(
            [each.stated], [each.observed], marker="o", ms=size, color=SERIES[2], alpha=0.9, lw=0
        )
        above = each.observed >= each.stated  # not on the line to the diagonal
        axes.annotate(
            f"{each.n:,.0f}",
            (each.stated, each.observed),
            xytext=(0, 9 if above else -9),
            textcoords="offset points",
            ha="center",
            va="bottom" if above else "top",
            color=INK,
            fontsize=8,
        )
    axes.set_xlim(-0.02, 1.04)
    axes.set_ylim(-0.13, 1.13)  # room for the numbers of dots at both ends
    _percent_axis(axes)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "25", "50", "75", "100 %"])
    axes.grid(axis="y", color=FAINT, lw=0.5, alpha=0.5)
    axes.set_xlabel("stated fidelity", color=INK, fontsize=9)
    axes.set_ylabel("really the same", color=INK, fontsize=9)
    return _svg(figure, "reliability", "Stated fidelity against the share that was right")


def _smooth(values: Sequence[float]) -> list[float]:
    """Return centred means over a fifteenth of the curve: no lag, so a drop shows where it was."""
    half = max(1, len(values) // 30)
    windows = (values[max(0, i - half) : i + half + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def _dot(axes: Any, value: Interval, y: float, color: str, *, filled: bool) -> None:
    axes.plot([value.low, value.high], [y, y], color=color, lw=2.4 if filled else 1.2, alpha=0.75)
    axes.plot(
        [value.mean],
        [y],
        marker="o",
        ms=8 if filled else 6,
        color=color,
        mfc=color if filled else PAPER,
        mew=1.4,
        lw=0,
    )


def _percent_axis(axes: Any) -> None:
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25", "50", "75", "100 %"])
    axes.grid(axis="x", color=FAINT, lw=0.5, alpha=0.5)
    axes.set_axisbelow(True)


def _label_ends(axes: Any, ends: list[tuple[float, float, str, str]], *, single: bool) -> None:
    low, high = axes.get_ylim()
    gap, floor = 0.085 * (high - low), -float("inf")
    for value, step, words, color in sorted(ends):
        y = max(value, floor + gap)
        floor = y
        axes.annotate(
            f"{value:.3g}" if single else words,
            (step, y),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            color=color,
            fontsize=9,
            annotation_clip=False,
            parse_math=False,
        )


def _figure(*, width: float, height: float) -> tuple[Any, Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "report") from error
    figure = Figure(figsize=(width, height))
    axes = figure.add_subplot()
    figure.patch.set_alpha(0)
    axes.patch.set_alpha(0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=9, length=0)
    return figure, axes


def _svg(figure: Any, name: str, label: str) -> str:
    """Return the figure as an SVG element that refers to nothing outside itself."""
    import matplotlib

    name = re.sub(r"[^a-z0-9]+", "-", name.lower())
    out = io.StringIO()
    # Text stays text: it takes the page's type, can be searched, and is a tenth of the bytes.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(
            out,
            format="svg",
            bbox_inches="tight",
            pad_inches=0.04,
            metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")),
        )
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
    # Ids must be unique on the page, and matplotlib counts each figure from one.
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = svg.replace('href="#', f'href="#{name}-').replace("url(#", f"url(#{name}-")
    svg = re.sub(r"font: ((?:\w+ )*?)([\d.]+)px [^;\"]*", r"font: \1\2px var(--sans)", svg)
    for stand_in, variable in _VARIABLES.items():
        svg = svg.replace(stand_in, variable)
    return svg.strip()
