"""BFCL's multi-turn verdict: state and responses against gold, both run from the same start.

After every turn with gold calls: (1) the model made a call; (2) all public attributes of every involved
backend are equal; (3) each gold result of this turn stands among all the model's results so far, as
often as gold has it, in any order. A task passes when all turns do.

Ours runs what reached a tool: a call that the agent loop refused (no such tool, wrong arguments) never
happened. Theirs hands everything to Python.

Source: `eval_checker/multi_turn_eval/multi_turn_checker.py` of bfcl-eval 2026.3.23, `multi_turn_checker`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cacherl.core.messages import AssistantMessage, ToolCall, UserMessage
from cacherl.core.suites import Check, Verdict
from cacherl.core.tools import Source
from cacherl.core.trajectories import StopReason, Trajectory
from cacherl.metrics.bfcl import missing_results, public_attributes, state_difference
from cacherl.suites.bfcl.backends import Backends
from cacherl.suites.bfcl.cases import Case, Cases

MAX_STEPS = 20
"""Of one user turn; their runner ends an episode that makes more, and it fails.
Source: `constants/default_prompts.py`, `MAXIMUM_STEP_LIMIT`."""

Turns = Sequence[Sequence[Sequence[ToolCall]]]
"""Calls by user turn and step (one assistant message)."""

_SHOWN = 200  # characters of a call or a result in `said`


def turns_of(trajectory: Trajectory) -> list[list[tuple[ToolCall, ...]]]:
    """Return the calls that reached a tool, by user turn and step."""
    turns: list[list[tuple[ToolCall, ...]]] = []
    results = iter(trajectory.results)
    for message in trajectory.messages:
        if isinstance(message, UserMessage):
            turns.append([])
        elif isinstance(message, AssistantMessage) and message.calls:
            step = []
            for call in message.calls:
                result = next(results, None)  # none: the episode ended before it was made
                if (
                    result is not None
                    and result.source is not Source.LOOP
                    and isinstance(call, ToolCall)
                ):
                    step.append(call)
            turns[-1].append(tuple(step))
    return turns


def verdict_of(wheel: Path, cases: Cases, case: Case, trajectory: Trajectory) -> Verdict:
    """Return BFCL's verdict of an episode, by running its calls again on fresh backends."""
    turns = turns_of(trajectory)
    unsaid = len(case.user_turns) - len(turns)
    too_long = [place for place, turn in enumerate(turns) if len(turn) > MAX_STEPS]
    if unsaid or too_long or trajectory.stop is StopReason.MAX_TURNS:
        if too_long:
            said = f"turn {too_long[0] + 1}: more than {MAX_STEPS} steps"
        elif unsaid:
            said = f"ended ({trajectory.stop}) with {unsaid} user turns unsaid"
        else:
            said = "ended with the last user turn unanswered"
        finished = Check(name="finished", score=0.0, said=said)
    else:
        finished = Check(name="finished", score=1.0)
    judged = judge(wheel, cases, case, turns)
    return Verdict(
        success=judged.success and finished.score == 1.0, checks=(finished, *judged.checks)
    )


def judge(wheel: Path, cases: Cases, case: Case, turns: Turns) -> Verdict:
    """Return whether calls, by user turn and step, do what gold does. Turns that are not there are empty.

    Each check's score is the share of turns with gold calls that pass it; `said` is the first that fails.
    """
    model, gold = Backends(wheel, cases, case), Backends(wheel, cases, case)
    calls, state, response = _Tally("calls"), _Tally("state"), _Tally("response")
    seen: list[str] = []
    for place, right in enumerate(case.gold):
        made = [call for step in turns[place] for call in step] if place < len(turns) else []
        seen += [model.run(call)[0] for call in made]
        wanted = [gold.run(call)[0] for call in right]
        if not right:  # nothing can be done here; what was done shows in the next turn's state
            continue
        where = f"turn {place + 1}: "
        calls.add(None if made else where + "no call")
        difference = state_difference(_public(model), _public(gold))
        state.add(None if difference is None else where + str(difference))
        missing = missing_results(seen, wanted)
        response.add(
            where + _missing(right[wanted.index(missing[0])], missing[0]) if missing else None
        )
    checks = (calls.check(), state.check(), response.check())
    return Verdict(success=all(check.score == 1.0 for check in checks), checks=checks)


def _public(backends: Backends) -> dict[str, dict[str, Any]]:
    return {name: public_attributes(made) for name, made in backends.instances.items()}


class _Tally:
    """One kind of check over the turns."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._problems: list[str | None] = []

    def add(self, problem: str | None) -> None:
        self._problems.append(problem)

    def check(self) -> Check:
        failed = [problem for problem in self._problems if problem is not None]
        passed = len(self._problems) - len(failed)
        score = passed / len(self._problems) if self._problems else 1.0
        return Check(name=self._name, score=score, said=failed[0] if failed else "")


def _missing(call: ToolCall, result: str) -> str:
    arguments = ", ".join(
        f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in call.arguments.items()
    )
    return f"no result like gold's {_cut(f'{call.name}({arguments})')} -> {_cut(result)}"


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
