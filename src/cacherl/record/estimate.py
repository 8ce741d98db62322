"""What recording will use, guessed before anything is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from cacherl.core.models import Limits
from cacherl.core.tasks import Task
from cacherl.record.folder import Holdings

CHARS_PER_TOKEN = 4
USUAL_CALLS = 4
"""Calls of an episode whose task does not say what a right solution calls."""
USUAL_TURN_TOKENS = 120
USUAL_RESULT_TOKENS = 200
FEW = 5
"""With fewer recorded episodes than this their mean says less than a guess."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """What a number of episodes reads and writes."""

    prompt: int = 0
    completion: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What the episodes still to be recorded will use."""

    likely: Tokens
    most: Tokens
    """Every turn used, every limit reached, nothing cached by the provider."""
    basis: str
    """What `likely` stands on."""
    request: Tokens
    """The first request of an episode, at its most: a budget must have room for it."""


def estimate(
    left: Sequence[tuple[Task, int]], limits: Limits, recorded: Holdings | None
) -> Estimate:
    """Return what the episodes `left` will use: from the mean of those recorded, or from the tasks."""
    most = [_episode(task, limits, worst=True) for task, _ in left]
    if recorded is not None and recorded.episodes - recorded.failed >= FEW:
        share = len(left) / (recorded.episodes - recorded.failed)
        likely = Tokens(
            prompt=round(recorded.prompt_tokens * share),
            completion=round(recorded.completion_tokens * share),
        )
        basis = f"the mean of {recorded.episodes - recorded.failed} recorded episodes"
    else:
        likely = _sum([_episode(task, limits, worst=False) for task, _ in left])
        basis = (
            f"the lengths of tasks and tools, {CHARS_PER_TOKEN} characters a token, and the gold "
            f"calls of each task ({USUAL_CALLS} where it has none)"
        )
    opening = max((_opening(task) for task, _ in left), default=0)
    return Estimate(
        likely=likely,
        most=_sum(most),
        basis=basis,
        request=Tokens(
            prompt=min(limits.max_context_tokens, opening), completion=limits.max_turn_tokens
        ),
    )


def episodes_within(rest: float, *, likely: float, episodes: int, request: float) -> int:
    """Return about how many of so many episodes what is left of a budget pays for.

    A request is asked only where the rest pays it at its most, so that much is never spent.

    Args:
        rest: what is left, in dollars or tokens.
        likely: what all of the episodes will use.
        episodes: their number.
        request: the most that one request can use.
    """
    if rest - request >= likely:
        return episodes
    return max(0, int((rest - request) / likely * episodes))


def _opening(task: Task) -> int:
    said = "".join((task.system, *task.user_turns))
    declared = sum(len(msgspec.json.encode(tool)) for tool in task.tools)
    return (len(said.encode()) + declared) // CHARS_PER_TOKEN


def _episode(task: Task, limits: Limits, *, worst: bool) -> Tokens:
    opening = _opening(task)
    if worst:
        turns, written, result = (
            limits.max_turns,
            limits.max_turn_tokens,
            limits.max_result_tokens,
        )
    else:
        known = None if task.gold is None else task.gold.calls
        calls = USUAL_CALLS if known is None else len(known)
        turns = min(limits.max_turns, calls + len(task.user_turns))
        written = min(limits.max_turn_tokens, USUAL_TURN_TOKENS)
        result = min(limits.max_result_tokens, USUAL_RESULT_TOKENS)
    read = [
        min(limits.max_context_tokens, opening + turn * (written + result)) for turn in range(turns)
    ]
    return Tokens(prompt=sum(read), completion=turns * written)


def _sum(episodes: Sequence[Tokens]) -> Tokens:
    return Tokens(
        prompt=sum(each.prompt for each in episodes),
        completion=sum(each.completion for each in episodes),
    )
