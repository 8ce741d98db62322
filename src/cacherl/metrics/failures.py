"""Why a task failed, by rule: one primary kind where a rule can say, and all kinds that apply.

The order of `PRIMARY` is the order of blame: what ended the episode before anything else could happen; then
what was wrong first and made other things wrong after it (a loop, a break of policy, a lost state, a loose
cache answer); then the plain mistakes; last what only explains where nothing else does. A kind that no rule
finds is not made up: such tasks are counted as unplaced.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from cacherl.cache.identity.canonical import canonical_json
from cacherl.cache.identity.normalise import Kind, plan_of
from cacherl.cache.identity.state import StateOverlay
from cacherl.core.messages import AssistantMessage, MalformedCall, ToolCall, UserMessage
from cacherl.core.records import Record
from cacherl.core.tasks import Task
from cacherl.core.tools import UNDECLARED, ErrorClass, ToolResult, ToolSpec, undeclared
from cacherl.core.trajectories import StopReason, Trajectory
from cacherl.metrics.calls import ArgumentField, argument_fields
from cacherl.metrics.episodes import (
    THINKING_HEAVY,
    FailureKind,
    answer_right,
    calls_with_results,
    cascaded,
    thinking_share,
)
from cacherl.metrics.pairing import Pairing, paired
from cacherl.reward.answer import final_answer, is_meta_reasoning
from cacherl.reward.hybrid import INFRASTRUCTURE
from cacherl.reward.process import made_calls, matched_gold_calls

PRIMARY = (
    FailureKind.TRUNCATED,
    FailureKind.FORMAT,
    FailureKind.EARLY_ENDING,
    FailureKind.LOOP,
    FailureKind.POLICY_BREAK,
    FailureKind.LOST_STATE,
    FailureKind.MISMATCH_CASCADE,
    FailureKind.WRONG_TOOL,
    FailureKind.WRONG_ARGUMENT,
    FailureKind.OVER_CHAINING,
    FailureKind.MISSING_CALL,
    FailureKind.WRONG_ORDER,
    FailureKind.META_REASONING,
    FailureKind.WRONG_ANSWER,
    FailureKind.UNSEEN_TOOLS,
)
"""The first of these that applies is the primary kind. OVER_CHAINING counts here only where the turns were
used up. THINKING_COST is a cost and never why a task failed."""

LOOP_AT = 3
"""So many equal calls in one state are a loop: twice may be a look to make sure."""
_TELLING = 3  # characters; a shorter value (`1`, `en`) stands everywhere and tells nothing


class WrongField(Record, frozen=True, kw_only=True):
    """An argument that made a call another call than gold's."""

    tool: str
    field: ArgumentField
    stale: bool = False
    """The value was seen before gold's was, and gold's has replaced it since."""


class Diagnosis(Record, frozen=True, kw_only=True):
    """Why one task failed."""

    task_id: str
    primary: FailureKind | None
    """None: no rule could say."""
    kinds: tuple[FailureKind, ...]
    """All that apply, in the order of `FailureKind`."""
    fields: tuple[WrongField, ...] = ()
    """Of the calls of the right tool with wrong arguments."""


def diagnose(
    task: Task,
    trajectory: Trajectory,
    *,
    success: bool,
    seen_tools: Collection[str] | None = None,
    forbidden: Collection[str] = (),
) -> Diagnosis | None:
    """Return why the episode failed, or None where it succeeded or the infrastructure ended it.

    Without gold calls only the rules that need none are applied (truncated, format, loop, forbidden
    tools, meta-reasoning, turns used up).

    Args:
        task: the task.
        trajectory: the episode.
        success: the suite's verdict.
        seen_tools: names of the tools that training showed; None where unknown.
        forbidden: tools that must not be called in this task.

    Source: the first five kinds, CacheRL, arXiv:2606.14179, error analysis; the rules are ours.
    """
    if success or trajectory.stop in INFRASTRUCTURE:
        return None
    specs = {spec.name: spec for spec in task.tools}
    calls = made_calls(trajectory)
    written = [m for m in trajectory.messages if isinstance(m, AssistantMessage)]
    gold = task.gold.calls if task.gold is not None else None
    steps = _steps(trajectory, specs)
    pairing = paired(gold or (), calls, specs)
    fields = () if gold is None else _wrong_fields(task, trajectory, pairing)
    kinds = set()
    if trajectory.stop in (StopReason.TRUNCATED, StopReason.CONTEXT_FULL):
        kinds.add(FailureKind.TRUNCATED)
    if calls and _broken_at_the_end(written):  # who tried no call ended early
        kinds.add(FailureKind.FORMAT)
    if _loops(steps):
        kinds.add(FailureKind.LOOP)
    if any(isinstance(call, ToolCall) and call.name in forbidden for call in calls):
        kinds.add(FailureKind.POLICY_BREAK)
    if is_meta_reasoning(final_answer(trajectory)):
        kinds.add(FailureKind.META_REASONING)
    if thinking_share(written) >= THINKING_HEAVY:
        kinds.add(FailureKind.THINKING_COST)
    if trajectory.stop is StopReason.MAX_TURNS:
        kinds.add(FailureKind.OVER_CHAINING)
    if gold is not None:
        kinds |= _against_gold(task, trajectory, pairing, specs)
        if any(field.stale for field in fields) or _outdated(steps, pairing):
            kinds.add(FailureKind.LOST_STATE)
        if seen_tools is not None and {call.name for call in gold} - set(seen_tools):
            kinds.add(FailureKind.UNSEEN_TOOLS)
    blamed = set(kinds)
    if trajectory.stop is not StopReason.MAX_TURNS:
        blamed.discard(FailureKind.OVER_CHAINING)
    return Diagnosis(
        task_id=task.id,
        primary=next((kind for kind in PRIMARY if kind in blamed), None),
        kinds=tuple(kind for kind in FailureKind if kind in kinds),
        fields=fields,
    )


def _against_gold(
    task: Task, trajectory: Trajectory, pairing: Pairing, specs: Mapping[str, ToolSpec]
) -> set[FailureKind]:
    gold = task.gold.listed if task.gold is not None else ()
    calls = made_calls(trajectory)
    answered = trajectory.stop is StopReason.ANSWER
    kinds = set()
    if answered and gold and not calls:
        kinds.add(FailureKind.EARLY_ENDING)
    if cascaded(task, trajectory):
        kinds.add(FailureKind.MISMATCH_CASCADE)
    if len(calls) > len(gold):
        kinds.add(FailureKind.OVER_CHAINING)
    if any(_is_unasked_write(trajectory, place, specs) for place in pairing.extra):
        kinds.add(FailureKind.POLICY_BREAK)
    if pairing.near:
        kinds.add(FailureKind.WRONG_ARGUMENT)
    if pairing.missing:
        wanted = {call.name for call in gold}
        extra = [calls[place] for place in pairing.extra]
        strays = [c for c in extra if isinstance(c, ToolCall) and c.name not in wanted]
        kinds.add(FailureKind.WRONG_TOOL if strays else FailureKind.MISSING_CALL)
    if len(pairing.exact) == len(gold):
        if matched_gold_calls(task, calls) < len(gold):
            kinds.add(FailureKind.WRONG_ORDER)
        if answered and not answer_right(task, trajectory):
            kinds.add(FailureKind.WRONG_ANSWER)
    return kinds


def _is_unasked_write(trajectory: Trajectory, place: int, specs: Mapping[str, ToolSpec]) -> bool:
    """Say whether a call of no gold call wrote: a tool that declares nothing is not said to have."""
    if place >= len(trajectory.results):
        return False
    result = trajectory.results[place]
    spec = specs.get(result.name)
    declared = spec is not None and spec.effects != UNDECLARED and bool(spec.effects.writes)
    return declared and not result.is_error


def _broken_at_the_end(written: Sequence[AssistantMessage]) -> bool:
    """Say whether the last turn that called, or was empty, never made it to a call or words."""
    for turn in reversed(written):
        if turn.calls:
            return any(isinstance(call, MalformedCall) for call in turn.calls)
        if not turn.content.strip():
            return True
    return False


# ---- states ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """One call, what it is, where it stood and what it met."""

    name: str
    said: bytes
    """The call in normal form."""
    state: bytes
    """The writes before it that touch what it sees, where tools declare them."""
    result: ToolResult
    declared: bool


def _steps(trajectory: Trajectory, specs: Mapping[str, ToolSpec]) -> list[_Step]:
    overlay, steps = StateOverlay(), []
    for call, result in calls_with_results(trajectory):
        if isinstance(call, MalformedCall):
            said = call.text.encode("utf-8", "surrogatepass")
            steps.append(_Step(name="", said=said, state=b"", result=result, declared=False))
            continue
        spec = specs.get(call.name) or undeclared(call.name)
        normal = plan_of(spec).normal(call.arguments)
        declared = spec.effects != UNDECLARED
        state = overlay.state(spec.effects, normal.arguments)
        steps.append(
            _Step(
                name=call.name,
                said=call.name.encode("utf-8", "surrogatepass") + b"\0" + normal.canonical,
                state=state.key,
                result=result,
                declared=declared,
            )
        )
        # What declares nothing may have written anything or nothing; as writes, every such call would
        # stand in a state of its own, and no loop would ever be one.
        if not declared:
            continue
        if not result.is_error:
            overlay.write(
                call.name, spec.effects, normal.arguments, normal.canonical, state, result.text
            )
        elif result.error_class is ErrorClass.TRANSIENT:
            overlay.uncertain(call.name, spec.effects, normal.arguments, normal.canonical)
    return steps


def _loops(steps: Sequence[_Step]) -> bool:
    """Say whether a call came three times in one state; of a tool that declares nothing, with one answer."""
    counted = Counter(
        (step.said, step.state, "" if step.declared else step.result.text) for step in steps
    )
    return max(counted.values(), default=0) >= LOOP_AT


def _outdated(steps: Sequence[_Step], pairing: Pairing) -> bool:
    """Say whether a call failed that had worked before, since the episode changed what it stands on."""
    right = {place for _, place in pairing.exact}
    worked: dict[bytes, bytes] = {}
    for place, step in enumerate(steps):
        before = worked.get(step.said)
        if not step.result.is_error:
            worked[step.said] = step.state
        elif before is not None and before != step.state and place not in right:
            return True
    return False


# ---- arguments -------------------------------------------------------------------------------


def _wrong_fields(task: Task, trajectory: Trajectory, pairing: Pairing) -> tuple[WrongField, ...]:
    if task.gold is None or not pairing.near:
        return ()
    specs = {spec.name: spec for spec in task.tools}
    calls = made_calls(trajectory)
    heard = _heard(trajectory)
    found = []
    for g, c in pairing.near:
        want, call = task.gold.listed[g], calls[c]
        if not isinstance(call, ToolCall):
            continue
        for field in argument_fields(specs.get(want.name), call.arguments, want.arguments):
            if field.verdict != "right":
                stale = field.verdict == "wrong" and _is_stale(field, heard[c])
                found.append(WrongField(tool=want.name, field=field, stale=stale))
    return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Heard:
    """One thing the model was told: a user's words or a tool's answer."""

    text: str
    values: Mapping[bytes, Collection[str]]
    """Scalars of an answer that is JSON, with the names they stand under."""

    def holds(self, value: Any) -> bool:
        token = canonical_json(value)
        if token in self.values:
            return True
        plain = value if isinstance(value, str) else token.decode()
        return re.search(rf"(?<!\w){re.escape(plain)}(?!\w)", self.text) is not None

    def names(self, value: Any) -> Collection[str]:
        return self.values.get(canonical_json(value), ())


def _heard(trajectory: Trajectory) -> list[tuple[_Heard, ...]]:
    """Return for each call what the model had been told before it made it, in order."""
    told: list[_Heard] = []
    before: list[tuple[_Heard, ...]] = []
    results = iter(trajectory.results)
    for message in trajectory.messages:
        if isinstance(message, UserMessage):
            told.append(_Heard(text=message.content, values={}))
        elif isinstance(message, AssistantMessage):
            so_far = tuple(told)
            for _ in message.calls:
                before.append(so_far)
                result = next(results, None)
                if result is not None:
                    told.append(_of_result(result.text))
    return before


def _of_result(text: str) -> _Heard:
    try:
        decoded = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return _Heard(text=text, values={})
    values: dict[bytes, set[str]] = {}
    _gather(decoded, "", values)
    return _Heard(text="", values=values)


def _gather(value: Any, name: str, values: dict[bytes, set[str]]) -> None:
    if isinstance(value, dict):
        for key, member in value.items():
            _gather(member, key, values)
    elif isinstance(value, list):
        for item in value:
            _gather(item, name, values)
    else:
        values.setdefault(canonical_json(value), set()).add(name)


def _is_stale(field: ArgumentField, heard: Sequence[_Heard]) -> bool:
    """Say whether the value was last told before gold's was first told, as a value of the same thing.

    Of the same thing: of one form (`A-100`, `A-200`), or told under one name in answers.
    """
    for value in (field.made, field.wanted):
        if isinstance(value, dict | list | bool) or value is None:
            return False
        if len(value if isinstance(value, str) else canonical_json(value)) < _TELLING:
            return False
    if field.kind in (Kind.TEXT, Kind.CODE):
        return False
    old = [place for place, each in enumerate(heard) if each.holds(field.made)]
    new = [place for place, each in enumerate(heard) if each.holds(field.wanted)]
    if not (old and new and max(old) < min(new)):
        return False
    old_names = {name for place in old for name in heard[place].names(field.made)}
    new_names = {name for place in new for name in heard[place].names(field.wanted)}
    return bool(old_names & new_names) or _form(field.made) == _form(field.wanted) != ""


def _form(value: Any) -> str:
    """Return the form of an id or a date, `A-0`; empty for what has none: numbers, names."""
    if not isinstance(value, str) or not any(sign.isdigit() for sign in value):
        return ""
    return re.sub(r"\d+", "0", value)


# ---- what many say together ------------------------------------------------------------------


class FailureTable(Record, frozen=True, kw_only=True):
    """The failures of one evaluation."""

    failed: int
    primary: dict[str, int]
    """Tasks by primary kind, most first; sums to `failed` less `unplaced`."""
    any: dict[str, int]
    """Tasks by every kind that applies; one task may stand under several."""
    fields: dict[str, int]
    """Wrong arguments by the kind of their field, in all failed tasks."""
    unplaced: int
    """Tasks that no rule could place."""
    unplaced_share: float | None
    """Of the failed tasks; None where none failed."""
    examples: dict[str, tuple[str, ...]]
    """Ids of the first tasks of each primary kind, and of those `unplaced`."""


def failure_table(diagnoses: Sequence[Diagnosis | None], *, examples: int = 3) -> FailureTable:
    """Return the counts; None stands for an episode that did not fail."""
    failed = [each for each in diagnoses if each is not None]
    primary = Counter(each.primary for each in failed if each.primary is not None)
    every = Counter(kind for each in failed for kind in each.kinds)
    fields = Counter(wrong.field.kind for each in failed for wrong in each.fields)
    unplaced = [each.task_id for each in failed if each.primary is None]
    shown = {
        kind.value: tuple(each.task_id for each in failed if each.primary is kind)[:examples]
        for kind, _ in _ranked(primary)
    }
    if unplaced:
        shown["unplaced"] = tuple(unplaced[:examples])
    return FailureTable(
        failed=len(failed),
        primary={kind.value: count for kind, count in _ranked(primary)},
        any={kind.value: count for kind, count in _ranked(every)},
        fields={kind.value: count for kind, count in fields.most_common()},
        unplaced=len(unplaced),
        unplaced_share=len(unplaced) / len(failed) if failed else None,
        examples=shown,
    )


def _ranked(counted: Counter[FailureKind]) -> list[tuple[FailureKind, int]]:
    order = list(FailureKind)
    return sorted(counted.items(), key=lambda pair: (-pair[1], order.index(pair[0])))
