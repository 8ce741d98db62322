"""What is kept together: duplicates out, the best solutions of a task, rare tools back, common ones cut.

The paper finds that rejection sampling alone (its v3) thins out the hard tools, and trains on the
rejection-sampled set combined with the originals (v4: reward 0.522 -> 0.614 with nothing else changed). It
does not say how the two are combined. Taking every original back would undo the rejection, so here the best
of the rejected come back only where a tool, a family or a length has become rare, best first, until it is no
longer rare - never one that left the world in a wrong state, broke off or repeats another.

Source: CacheRL, arXiv:2606.14179, combined SFT data (v4).
"""

from __future__ import annotations

import hashlib
import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from cacherl.core.messages import AssistantMessage
from cacherl.core.records import Record
from cacherl.core.trajectories import Trajectory
from cacherl.reward.process import made_calls
from cacherl.select.duplicates import Alike, Sketch, Sketcher, done, signature
from cacherl.select.options import SelectOptions
from cacherl.select.verdicts import Judgement, Verdict

LENGTHS = (0, 1, 2, 3, 4, 6, 9, 14)
"""Calls: the largest of each length but the last. Long conversations differ less by one call."""


@dataclass(slots=True, kw_only=True)
class Considered:
    """What is kept of one trajectory while all of them are looked at: about a kilobyte."""

    judgement: Judgement
    calls: int
    written: int
    """Characters that the assistant wrote."""
    tools: tuple[str, ...]
    """Those that answered at least one call: a refused call teaches no tool."""
    signature: bytes
    sketch: Sketch | None

    @property
    def name(self) -> str:
        """What people call the trajectory."""
        return f"{self.judgement.task_id}#{self.judgement.rollout}"

    @property
    def length(self) -> str:
        """How many calls, as lengths are counted together."""
        return length_of(self.calls)

    def mark(self, verdict: Verdict, duplicate_of: str = "") -> None:
        """Say what becomes of it."""
        self.judgement = msgspec.structs.replace(
            self.judgement, verdict=verdict, duplicate_of=duplicate_of
        )


class Diversity(Record, frozen=True, kw_only=True):
    """How varied a set of trajectories is."""

    trajectories: int
    tools: dict[str, int]
    """Trajectories in which each tool answered at least one call."""
    families: dict[str, int]
    lengths: dict[str, int]
    """Trajectories by the number of their calls."""
    effective_tools: float
    """exp(Shannon entropy) of `tools`: as many tools, equally common, would be as varied. 0 for none."""
    effective_lengths: float
    """The same of `lengths`."""


class Selection(Record, frozen=True, kw_only=True):
    """What selecting did: counts, reasons, and every judgement in the order of the input."""

    considered: int
    kept: int
    perfect: int
    returned: int
    by_verdict: dict[str, int]
    before: Diversity
    """All that was considered."""
    alone: Diversity
    """What rejection sampling alone would keep: no balance, no combining."""
    after: Diversity
    """What is kept."""
    tools_lost: tuple[str, ...]
    """Tools that the input calls and the kept never do."""
    rare_tools: tuple[str, ...]
    """Tools that stayed below the floor although the input had more."""
    judgements: tuple[Judgement, ...]


def length_of(calls: int) -> str:
    """Return the name of the length that so many calls are counted under: `3`, `5-6`, `15+`."""
    low = 0
    for high in LENGTHS:
        if calls <= high:
            return str(high) if low == high else f"{low}-{high}"
        low = high + 1
    return f"{low}+"


def considered(
    trajectory: Trajectory, judgement: Judgement, sketcher: Sketcher | None
) -> Considered:
    """Return what is kept of a trajectory; with a sketch where near duplicates are looked for."""
    return Considered(
        judgement=judgement,
        calls=len(made_calls(trajectory)),
        written=sum(
            len(message.content) + len(message.thinking or "")
            for message in trajectory.messages
            if isinstance(message, AssistantMessage)
        ),
        tools=good_tools(trajectory),
        signature=signature(trajectory),
        sketch=sketcher.of(done(trajectory)) if sketcher is not None else None,
    )


def good_tools(trajectory: Trajectory) -> tuple[str, ...]:
    """Return the tools that answered at least one call, by name."""
    return tuple(sorted({r.name for r in trajectory.results if r.name and not r.is_error}))


def balanced(every: Sequence[Considered], options: SelectOptions) -> Selection:
    """Choose among judged trajectories; marks each with its last verdict. Same input, same choice.

    In order: duplicates; the best solutions of each task; the best of the rejected where something is
    rare; ceilings. The order of the input does not matter as long as no two trajectories share task and
    rollout. No tool that rejection sampling alone keeps is lost.
    """
    best_first = sorted(
        every,
        key=lambda one: (
            -one.judgement.score,
            one.calls,
            one.written,
            one.judgement.task_id,
            one.judgement.rollout,
        ),
    )
    _drop_repeated(best_first, options)
    alone = diversity(one for one in every if one.judgement.kept)
    if options.combine:
        _return_rare(best_first, options)
    _cut_common(best_first, options)
    return _selection(every, alone, options)


def diversity(every: Iterable[Considered]) -> Diversity:
    """Return how varied the trajectories are."""
    counts = _Counts()
    trajectories = 0
    for one in every:
        counts.add(one)
        trajectories += 1
    return Diversity(
        trajectories=trajectories,
        tools=_positive(counts.tools),
        families=_positive(counts.families),
        lengths=_by_length(counts.lengths),
        effective_tools=effective_number(counts.tools.values()),
        effective_lengths=effective_number(counts.lengths.values()),
    )


def effective_number(counts: Iterable[int]) -> float:
    """Return exp(Shannon entropy): n for n equally common things, near 1 where one has almost all.

    Source: M. O. Hill, Diversity and Evenness (1973), the number of order 1.
    """
    held = [count for count in counts if count > 0]
    total = sum(held)
    if not held:
        return 0.0
    return math.exp(-sum(count / total * math.log(count / total) for count in held))


# ---------------------------------------------------------------------------------------- the steps


class _Counts:
    """Trajectories by tool, family and length."""

    def __init__(self, every: Iterable[Considered] = ()) -> None:
        self.tools: Counter[str] = Counter()
        self.families: Counter[str] = Counter()
        self.lengths: Counter[str] = Counter()
        for one in every:
            self.add(one)

    def add(self, one: Considered) -> None:
        self.tools.update(one.tools)
        self.families[one.judgement.family] += 1
        self.lengths[one.length] += 1

    def remove(self, one: Considered) -> None:
        self.tools.subtract(one.tools)
        self.families[one.judgement.family] -= 1
        self.lengths[one.length] -= 1


def _drop_repeated(best_first: Sequence[Considered], options: SelectOptions) -> None:
    """Mark duplicates, and good solutions beyond `per_task`."""
    seen: dict[bytes, str] = {}
    alike = Alike(options.near_duplicates) if options.near_duplicates else None
    of_task: Counter[str] = Counter()
    for number, one in enumerate(best_first):
        verdict = one.judgement.verdict
        if not (verdict.kept or verdict.may_return):
            continue
        if one.signature in seen:
            one.mark(Verdict.DUPLICATE, seen[one.signature])
            continue
        if alike is not None and one.sketch is not None:
            # With other tools it is another lesson, however alike the words are.
            near = alike.find(one.sketch, lambda other: best_first[other].tools == one.tools)  # noqa: B023 - used at once
            if near is not None:
                one.mark(Verdict.NEAR_DUPLICATE, best_first[near[0]].name)
                continue
        if verdict.kept:
            if of_task[one.judgement.task_id] >= options.per_task:
                one.mark(Verdict.SURPLUS_OF_TASK)
                continue
            of_task[one.judgement.task_id] += 1
        seen[one.signature] = one.name
        if alike is not None and one.sketch is not None:
            alike.add(number, one.sketch)


def _return_rare(best_first: Sequence[Considered], options: SelectOptions) -> None:
    """Take the best of the rejected back, as long as a tool, the family or the length is rare."""
    kept = [one for one in best_first if one.judgement.kept]
    counts = _Counts(kept)
    solved = {one.judgement.task_id for one in kept}
    for one in best_first:
        judgement = one.judgement
        if (
            not judgement.verdict.may_return
            or judgement.score < options.min_returned
            # A worse solution beside a perfect one of the same task would teach the worse one.
            or judgement.task_id in solved
        ):
            continue
        if (
            counts.families[judgement.family] < options.family_floor
            or counts.lengths[one.length] < options.length_floor
            or any(counts.tools[tool] < options.tool_floor for tool in one.tools)
        ):
            one.mark(Verdict.RETURNED)
            solved.add(judgement.task_id)
            counts.add(one)


def _cut_common(best_first: Sequence[Considered], options: SelectOptions) -> None:
    """Cut what outgrew the others, sparing whatever keeps a tool, a family or a length at its floor."""
    # By digest of the task, not by its place in the file: generators put easy tasks first.
    salt = options.seed.to_bytes(16, "little")
    order = sorted(
        (one for one in best_first if one.judgement.kept),
        key=lambda one: hashlib.blake2b(
            one.judgement.task_id.encode(), digest_size=16, salt=salt
        ).digest(),
    )
    counts = _Counts(order)

    def spared(one: Considered) -> bool:
        return (
            any(counts.tools[tool] <= max(1, options.tool_floor) for tool in one.tools)
            or counts.families[one.judgement.family] <= options.family_floor
            or counts.lengths[one.length] <= options.length_floor
        )

    def cut(
        held: Counter[str],
        times: float,
        floor: int,
        names: Callable[[Considered], Sequence[str]],
        verdict: Verdict,
    ) -> None:
        present = [count for count in held.values() if count > 0]
        if not times or len(present) < 2:
            return
        ceiling = max(math.ceil(times * statistics.median(present)), floor)
        for one in order:
            if not one.judgement.kept:
                continue
            mine = names(one)
            if mine and all(held[name] > ceiling for name in mine) and not spared(one):
                one.mark(verdict)
                counts.remove(one)

    cut(
        counts.families,
        options.family_ceiling,
        options.family_floor,
        lambda one: (one.judgement.family,),
        Verdict.SURPLUS_OF_FAMILY,
    )
    # A trajectory goes only if all of its tools are common: a look-up tool that everything begins with
    # must not take the rare tools that follow it along.
    cut(
        counts.tools,
        options.tool_ceiling,
        options.tool_floor,
        lambda one: one.tools,
        Verdict.SURPLUS_OF_TOOL,
    )
    cut(
        counts.lengths,
        options.length_ceiling,
        options.length_floor,
        lambda one: (one.length,),
        Verdict.SURPLUS_OF_LENGTH,
    )


def _selection(every: Sequence[Considered], alone: Diversity, options: SelectOptions) -> Selection:
    before = diversity(every)
    after = diversity(one for one in every if one.judgement.kept)
    by_verdict = Counter(one.judgement.verdict for one in every)
    return Selection(
        considered=len(every),
        kept=after.trajectories,
        perfect=by_verdict[Verdict.PERFECT],
        returned=by_verdict[Verdict.RETURNED],
        by_verdict={verdict.value: by_verdict[verdict] for verdict in sorted(by_verdict)},
        before=before,
        alone=alone,
        after=after,
        tools_lost=tuple(tool for tool in before.tools if tool not in after.tools),
        rare_tools=tuple(
            tool
            for tool, count in before.tools.items()
            if after.tools.get(tool, 0) < min(options.tool_floor, count)
        ),
        judgements=tuple(one.judgement for one in every),
    )


def _positive(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: counts[name] for name in sorted(counts) if counts[name] > 0}


def _by_length(counts: Mapping[str, int]) -> dict[str, int]:
    ordered = dict.fromkeys(length_of(high) for high in (*LENGTHS, LENGTHS[-1] + 1))
    return {name: counts[name] for name in ordered if counts.get(name, 0) > 0}
