"""The support desk as a suite: fresh tasks by seed, judged by the state they leave and by the answer."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from cacherl.core.messages import ToolCall
from cacherl.core.models import ChatModel
from cacherl.core.suites import Check, SuiteInfo, UserKind, Verdict
from cacherl.core.tasks import AnswerRule, Gold, GoldCall, Split, Task
from cacherl.core.tools import Source
from cacherl.core.trajectories import StopReason, Trajectory
from cacherl.core.worlds import World, WorldTools
from cacherl.metrics import answer_right, calls_with_results, gold_of, outcome_right
from cacherl.reward.answer import answer_ok, final_answer
from cacherl.reward.process import matched_gold_calls
from cacherl.suites.installed import remembered

SIZES: Mapping[Split, int] = {Split.TRAIN: 400, Split.DEV: 200, Split.TEST: 400}
"""Tasks of a split where no number is asked for. The desk makes as many as one wants."""


class DeskSuite:
    """The built-in support desk (`Suite`).

    Args:
        world: the desk. A room beside this one, so it is handed in.
        oracle: its expert without detours.
        name: what reports call it; says how many tools a prompt has where that is not the default.
    """

    def __init__(self, world: World, oracle: ChatModel, *, name: str = "desk") -> None:
        self._world = world
        self._oracle = oracle
        self._name = name

    @functools.cached_property
    def info(self) -> SuiteInfo:
        """Counted once for each pin: it makes all tasks of the default sizes, which takes seconds."""
        pin = f"{self._name} sha256:{_sources_digest(self._world)}"
        return remembered(pin, lambda: self._counted(pin))

    def _counted(self, pin: str) -> SuiteInfo:
        tasks = [task for split in Split for task in self.tasks(split)]
        return SuiteInfo(
            name=self._name,
            title="The support desk of a small web shop, English and French",
            tasks=len(tasks),
            distinct_questions=len({task.user_turns for task in tasks}),
            splits={split.value: size for split, size in SIZES.items()},
            licence="Apache-2.0",
            user=UserKind.SCRIPTED,
            pin=pin,
        )

    def tasks(self, split: Split, *, count: int | None = None, seed: int = 0) -> list[Task]:
        return self._world.tasks(split, count=SIZES[split] if count is None else count, seed=seed)

    def open(self, task: Task) -> WorldTools:
        return self._world.open(task.scenario)

    def check(self, task: Task, trajectory: Trajectory) -> Verdict:
        """State and answer, as `cacherl.metrics` has them; on a cache the writes stand for the state."""
        state, answer = outcome_right(task, trajectory), answer_right(task, trajectory)
        return Verdict(
            success=state and answer,
            checks=(
                Check(
                    name="state", score=state, said="" if state else _state_said(task, trajectory)
                ),
                Check(
                    name="answer",
                    score=answer,
                    said="" if answer else _answer_said(gold_of(task).answer, trajectory),
                ),
            ),
        )

    def oracle(self) -> ChatModel:
        return self._oracle


def _sources_digest(world: World) -> str:
    """Return a digest of how many tasks there are and of the code that makes them."""
    folder = Path(inspect.getfile(type(world))).parent
    digest = hashlib.sha256(repr(sorted(SIZES.items())).encode())
    for path in sorted(folder.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _state_said(task: Task, trajectory: Trajectory) -> str:
    """Return the first gold write that is missing, or the first write that gold does not have."""
    gold = gold_of(task)
    writers = {spec.name for spec in task.tools if spec.effects.writes}
    wanted = [call for call in gold.listed if call.name in writers]
    made = [
        call
        for call, result in calls_with_results(trajectory)
        if isinstance(call, ToolCall)
        and call.name in writers
        and not result.is_error
        and result.source is not Source.LOOP
    ]
    for want in wanted:
        if not any(_same(task, want, call) for call in made):
            return f"gold's write is missing: {_told(want.name, want.arguments)}"
    for call in made:
        if not any(_same(task, want, call) for want in wanted):
            return f"a write that gold does not have: {_told(call.name, call.arguments)}"
    return "gold's writes were made, in another order or more than once"


def _same(task: Task, want: GoldCall, call: ToolCall) -> bool:
    one = Gold(calls=(want,), answer=AnswerRule(), state="")
    return matched_gold_calls(msgspec.structs.replace(task, gold=one), [call]) == 1


def _told(name: str, arguments: Mapping[str, object]) -> str:
    words = ", ".join(
        f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in arguments.items()
    )
    return f"{name}({words})"


def _answer_said(rule: AnswerRule, trajectory: Trajectory) -> str:
    if trajectory.stop is not StopReason.ANSWER:
        return f"there is none: the episode ended by {trajectory.stop}"
    text = final_answer(trajectory)
    for group in rule.must:
        if not answer_ok(AnswerRule(must=(group,)), text):
            return f"it does not say {_either(group)}"
    for phrase in rule.must_not:
        if not answer_ok(AnswerRule(must_not=(phrase,)), text):
            return f"it says {phrase!r}"
    return "it does not pass the task's rule"


def _either(group: Sequence[str]) -> str:
    return " or ".join(repr(phrase) for phrase in group)
