"""Which call stands for which gold call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cacherl.core.messages import Call, ToolCall
from cacherl.core.pairing import best_pairs
from cacherl.core.tasks import GoldCall
from cacherl.core.tools import ToolSpec
from cacherl.reward.process import agreement


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairing:
    """Gold calls and made calls, each in at most one place. Numbers are indices, rising by gold call."""

    exact: tuple[tuple[int, int], ...]
    """(gold, made): the same call, wherever it stood in the episode."""
    near: tuple[tuple[int, int], ...]
    """(gold, made): the same tool with other arguments."""
    missing: tuple[int, ...]
    """Gold calls without any call of their tool left for them."""
    extra: tuple[int, ...]
    """Made calls that stand for no gold call, malformed ones included."""


def paired(
    gold: Sequence[GoldCall], calls: Sequence[Call], specs: Mapping[str, ToolSpec]
) -> Pairing:
    """Pair as many equal calls as can be paired; what is left by tool, so that arguments agree most.

    Equal is what `reward.process.agreement` calls equal. Order plays no part.
    """
    worth = [
        [
            agreement(specs.get(want.name), call.arguments, want.arguments)
            if isinstance(call, ToolCall) and call.name == want.name
            else None
            for call in calls
        ]
        for want in gold
    ]
    exact = best_pairs([[float(cell == 1.0) for cell in row] for row in worth])
    rows = sorted(set(range(len(gold))) - {g for g, _ in exact})
    columns = sorted(set(range(len(calls))) - {c for _, c in exact})
    # One more pair is worth more than any agreement of the others.
    left = best_pairs(
        [
            [0.0 if (cell := worth[g][c]) is None else len(gold) + cell for c in columns]
            for g in rows
        ]
    )
    near = tuple((rows[g], columns[c]) for g, c in left)
    return Pairing(
        exact=tuple(exact),
        near=near,
        missing=tuple(sorted(set(rows) - {g for g, _ in near})),
        extra=tuple(sorted(set(columns) - {c for _, c in near})),
    )
