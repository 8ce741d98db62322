"""Process accuracy, twice: to the bit as ACEBench computes it, and as one would want it.

    milestones   a b c d          ACEBench   recall
    sent         a b c d            1.000     1.000
    sent           b c d            0.000     0.750    the scan for `a` runs to the end and never comes back
    sent         a b   d            0.500     0.750    a missed milestone is never skipped
    sent         a b c d, others    1.000     1.000    more is free
    sent         [a, b] c d         0.000     1.000    two calls in one message equal no milestone
    sent         a("x") for a('x')  0.000     1.000    strings are compared, not calls

They differ because the two ask different questions: ACEBench's how far the model walked along the recorded
way before it first left it, letter for letter; recall how many steps of the way were taken at all. Only the
first may stand beside published ACEBench figures, and only the second says how much of a solution is there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cacherl.core.errors import DataError
from cacherl.core.messages import Call, ToolCall
from cacherl.core.tasks import GoldCall
from cacherl.core.tools import ToolSpec
from cacherl.reward.process import agreement


def acebench_official(
    milestones: Sequence[str] | Sequence[Sequence[str]],
    sent: Sequence[str],
    *,
    end_state_right: bool,
) -> float:
    """Return the process accuracy of one task exactly as ACEBench counts it, in [0, 1].

    1.0 where the end state is right, whatever was called. Otherwise the longest prefix of the milestones
    that occurs in order among the messages, over their number; the best alternative counts, rounded to
    three digits as there. Strings are stripped and must then be equal: quotes, spaces and the order of
    arguments matter, and a message with two calls equals no milestone. No milestones at all are 1.0
    (there the official code would stop with an IndexError).

    Args:
        milestones: `mile_stone` of the answer file as it stands: strings, or a list of alternatives.
        sent: every message that the agent sent to execution, as written.
        end_state_right: ACEBench's end-to-end verdict of the task.

    Source: ACEBench, arXiv:2501.12851, agent split; its `eval_main.py`, `agent_eval_process`.
    """
    if end_state_right or not milestones:
        return 1.0
    if isinstance(milestones[0], str):
        return _prefix_share([each for each in milestones if isinstance(each, str)], sent)
    # Rounded for alternatives alone: one list of milestones enters the mean in full there.
    return max(
        round(_prefix_share(each, sent), 3) for each in milestones if not isinstance(each, str)
    )


def _prefix_share(stones: Sequence[str], sent: Sequence[str]) -> float:
    if not stones:
        return 1.0
    left = iter(sent)
    # `in` uses the iterator up where a milestone is missing: that is what makes it a prefix.
    met = sum(any(message.strip() == stone.strip() for message in left) for stone in stones)
    return met / len(stones)


def acebench_official_mean(scores: Sequence[float]) -> float:
    """Return ACEBench's figure of a category: the mean of its tasks, rounded to three digits.

    Raises:
        DataError: there is no task.

    Source: as `acebench_official`.
    """
    if not scores:
        raise DataError("no task was scored, so there is no mean. Check the suite and its split.")
    total = 0.0
    # Not `sum`: from Python 3.12 on it adds floats more precisely than the official loop does.
    for score in scores:
        total += score
    return round(total / len(scores), 3)


def milestone_recall(
    alternatives: Sequence[Sequence[GoldCall]],
    calls: Sequence[Call],
    specs: Mapping[str, ToolSpec],
) -> float:
    """Return the share of milestones met in order, the others skipped, in [0, 1]: ours, not ACEBench's.

    The longest common subsequence of milestones and calls, over the number of milestones; the best
    alternative counts. Two calls are the same where the cache and the reward say so: same tool, same
    arguments in normal form, free text by its words. 1.0 where an alternative has no milestone and
    nothing was called, as in `reward.process.process_accuracy`, with which it agrees for one
    alternative whose calls all have steps of their own.

    Args:
        alternatives: ways of solving the task; none means that there was nothing to do.
        calls: every call of the episode in order, malformed ones included.
        specs: the tools on offer by name.
    """
    return max((_recall(stones, calls, specs) for stones in alternatives), default=float(not calls))


def _recall(
    stones: Sequence[GoldCall], calls: Sequence[Call], specs: Mapping[str, ToolSpec]
) -> float:
    if not stones:
        return float(not calls)
    longest = [0] * (len(calls) + 1)
    for stone in stones:
        before = longest
        longest = [0]
        for place, call in enumerate(calls):
            best = max(before[place + 1], longest[place])
            if before[place] + 1 > best and same_call(stone, call, specs):
                best = before[place] + 1
            longest.append(best)
    return longest[-1] / len(stones)


def same_call(wanted: GoldCall, call: Call, specs: Mapping[str, ToolSpec]) -> bool:
    """Say whether a call is the wanted one, by the one notion of equality that reward and metrics share."""
    return (
        isinstance(call, ToolCall)
        and call.name == wanted.name
        and agreement(specs.get(call.name), call.arguments, wanted.arguments) == 1.0
    )
