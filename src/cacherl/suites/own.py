"""A person's own tasks against their own tools, as a `Suite`.

What a task says is looked at, and nothing else (`toolbox.written_tasks`):

    expect.calls     every expected call, arguments included, in the order of the steps; more reads are free.
    expect.or_calls  other ways that are as right; the best one counts
    expect.state     calls that look how things stand, made on the episode's own tools once it is over;
                     what they answered is stored with the episode, so that it can be scored again
    expect.answer    what the final answer must and must not say
    expect.judge     a model's score of the final answer

Where the ways are told, a tool that declares what it writes must not have written anything else. And every
episode must end in an answer. A task that says nothing of what is expected is left out.

Gold needs calls: the ceiling is known only where a way is told, and on tools without `resets` playing it changes
what the tools stand on.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from cacherl.core.errors import DataError, RecipeError, ToolError
from cacherl.core.messages import AssistantMessage, ToolCall
from cacherl.core.records import JsonObject
from cacherl.core.suites import Check, SuiteInfo, UserKind, Verdict
from cacherl.core.tasks import AnswerRule, Gold, GoldCall, Split, Task
from cacherl.core.tools import UNDECLARED, ErrorClass, ToolResult
from cacherl.core.trajectories import StopReason, Trajectory
from cacherl.core.worlds import WorldTools
from cacherl.metrics.episodes import calls_with_results
from cacherl.metrics.milestones import same_call
from cacherl.reward.answer import Judge, answer_score, final_answer, says
from cacherl.reward.process import made_calls, matched_gold_calls
from cacherl.suites.gold_player import GoldPlayer
from cacherl.toolbox.world import ToolboxWorld
from cacherl.toolbox.written_tasks import (
    SYSTEM,
    UNDETERMINED,
    Expected,
    ExpectedResult,
    gold_of,
    read_tasks,
)

LOOKED = "looked"
"""The note of what the looks at the state were answered, in their order."""
PASSES = 0.8
"""The least score of a judge that passes where a task does not say: 4 points of 5."""

OpenJudge = Callable[[], AbstractAsyncContextManager[Judge]]
"""Opens the judge for one score. With a journal behind it, a score is paid for once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """What a task says of its right outcome."""

    ways: tuple[tuple[GoldCall, ...], ...] = ()
    answer: AnswerRule | None = None
    looks: tuple[ExpectedResult, ...] = ()
    digest: str = ""
    judged: float | None = None


class OwnSuite:
    """A file of tasks against a `tools.toml` (`Suite`).

    Args:
        world: the tools; its namespace names the suite.
        tasks: the file.
        judge: who judges, for tasks that ask for it.
        system: what the model is told, for tasks that do not say.
        language: of tasks that name none.
        whole: take the whole file as this split: for a file that is for evaluation alone. Else each
            task's split is its own, 80 % train, 10 % dev, 10 % test by its text where it says none.
        name: what opens this suite again.
    """

    def __init__(
        self,
        world: ToolboxWorld,
        tasks: Path,
        *,
        judge: OpenJudge | None = None,
        system: str = SYSTEM,
        language: str = UNDETERMINED,
        whole: Split | None = None,
        name: str = "own",
    ) -> None:
        self._world = world
        self._name = name
        self._path = tasks
        self._judge = judge
        self._system = system
        self._language = language
        self._whole = whole

    @property
    def resets(self) -> bool:
        """Whether an episode starts fresh. Where not, playing gold changes what the next one finds."""
        return self._world.resets

    @property
    def info(self) -> SuiteInfo:
        tasks = [task for task, _ in self._tasks.values()]
        wanted = [wanted for _, wanted in self._tasks.values()]
        splits = [task.split for task in tasks]
        needs = []
        if not self._world.resets:
            needs.append(
                "tools that stand as they are: what one episode writes, the next one finds"
            )
        unknown = sum(not each.ways for each in wanted)
        if unknown:
            needs.append(f"{unknown} tasks name no calls, so their ceiling is not known")
        if self._silent:
            needs.append(f"{self._silent} tasks say nothing of what is expected and are left out")
        return SuiteInfo(
            name=self._name,
            title=f"{self._path.name} on {self._world.namespace}",
            tasks=len(tasks),
            distinct_questions=len({(task.user_turns, task.scenario) for task in tasks}),
            splits={split.value: splits.count(split) for split in Split},
            licence="LicenseRef-own",
            user=UserKind.SCRIPTED,
            needs=". ".join(needs),
            pin=self._pin,
        )

    @functools.cached_property
    def _pin(self) -> str:
        digest = hashlib.sha256(self._path.read_bytes())
        digest.update(msgspec.json.encode(tuple(self._world.specs), order="sorted"))
        return f"sha256:{digest.hexdigest()[:16]}"

    @functools.cached_property
    def _read(self) -> tuple[dict[str, tuple[Task, _Wanted]], int]:
        """Return the tasks with what they expect, and how many expect nothing."""
        said: dict[str, Expected] = {}
        tasks = read_tasks(
            self._path,
            namespace=self._world.namespace,
            tools=self._world.specs,
            system=self._system,
            scenario=self._world.list_scenario,
            language=self._language,
            on_expected=lambda task, expected: said.__setitem__(task.id, expected),
        )
        found = {}
        for task in tasks:
            wanted = _wanted(task, said.get(task.id))
            if wanted != _Wanted():
                kept = task if self._whole is None else _in(task, self._whole)
                found[task.id] = kept, wanted
        if not found:
            raise DataError(
                f"{self._path}: no task says what is expected, so nothing can be right or wrong. Add it: "
                '{"task": "...", "expect": {"answer": "..."}}.'
            )
        judged = [id_ for id_, (_, wanted) in found.items() if wanted.judged is not None]
        if judged and self._judge is None:
            raise RecipeError(
                f"{self._path}: {len(judged)} tasks want a judge ({judged[0]}, ...), and none is named. "
                "Name one: `--suite own:TOOLS,TASKS,judge=openai:gpt-5`."
            )
        return found, len(tasks) - len(found)

    @property
    def _tasks(self) -> dict[str, tuple[Task, _Wanted]]:
        return self._read[0]

    @property
    def _silent(self) -> int:
        return self._read[1]

    def tasks(self, split: Split, *, count: int | None = None, seed: int = 0) -> list[Task]:
        found = [task for task, _ in self._tasks.values() if task.split is split]
        if count is None:
            return found
        if count > len(found):
            raise DataError(
                f"{self._path}: {len(found)} tasks in split {split}, not {count}. Ask for fewer, or take the "
                "whole file as that split: `--suite own:TOOLS,TASKS,all`."
            )
        return random.Random(f"own|{split}|{seed}").sample(found, count)  # noqa: S311

    def knows_way(self, task: Task) -> bool:
        """Say whether the task names its calls; where not, its ceiling is not known."""
        return bool(self._of(task).ways)

    def open(self, task: Task) -> WorldTools:
        return LookedAt(self._world.open(task.scenario), self._of(task).looks)

    def check(self, task: Task, trajectory: Trajectory) -> Verdict:
        wanted = self._of(task)
        checks = [_ended(trajectory)]
        if wanted.ways:
            checks += [
                _calls_made(task, wanted.ways, trajectory),
                _writes_made(task, wanted, trajectory),
            ]
        if wanted.looks:
            checks.append(_looked(wanted, trajectory))
        if wanted.digest:
            right = trajectory.final_state == wanted.digest
            said = "" if right else f"the state is {trajectory.final_state or 'not known'}"
            checks.append(Check(name="state-digest", score=float(right), said=said))
        if wanted.answer is not None:
            checks.append(_answered(wanted.answer, trajectory))
        if wanted.judged is not None:
            checks.append(self._judged(task, wanted.judged, trajectory))
        return Verdict(
            success=all(check.score == 1.0 for check in checks if check.decides),
            checks=tuple(checks),
        )

    def _judged(self, task: Task, passes: float, trajectory: Trajectory) -> Check:
        open_judge = self._judge
        assert open_judge is not None  # noqa: S101 - `_read` refused

        async def score() -> float:
            async with open_judge() as judge:
                return await judge.score(task, trajectory)

        # In a thread: whoever checks may itself stand in an event loop.
        with ThreadPoolExecutor(max_workers=1) as thread:
            points = thread.submit(asyncio.run, score()).result()
        passed = points >= passes
        return Check(
            name="judge",
            score=float(passed),
            said="" if passed else f"the judge gives {points:.2f}, {passes:.2f} passes",
        )

    def oracle(self) -> GoldPlayer:
        """The first way, step by step, in the last user turn; then everything the answer must say."""
        return GoldPlayer(self._gold_turns)

    def _gold_turns(self, task: Task) -> Sequence[AssistantMessage]:
        wanted = self._of(task)
        steps: dict[int, list[ToolCall]] = {}
        for number, call in enumerate(wanted.ways[0] if wanted.ways else ()):
            made = ToolCall(id=f"gold_{number}", name=call.name, arguments=call.arguments)
            steps.setdefault(call.step, []).append(made)
        rule = wanted.answer or AnswerRule()
        words = "; ".join(group[0] for group in rule.must) or "Done."
        return [
            *[AssistantMessage(content="Go on.")] * (len(task.user_turns) - 1),
            *(AssistantMessage(calls=tuple(steps[step])) for step in sorted(steps)),
            AssistantMessage(content=words),
        ]

    def _of(self, task: Task) -> _Wanted:
        found = self._tasks.get(task.id)
        if found is None:
            raise DataError(
                f"{self._path}: no task {task.id} that says what is expected. Name the file that it is of."
            )
        return found[1]


def _in(task: Task, split: Split) -> Task:
    return msgspec.structs.replace(task, split=split)


def _wanted(task: Task, said: Expected | None) -> _Wanted:
    """Return what is expected: as written, or the gold of a line that is a whole `Task`."""
    if said is None:
        gold = task.gold
        if gold is None:
            return _Wanted()
        ways = () if gold.calls is None else (gold.calls,)
        return _Wanted(ways=ways, answer=gold.answer, digest=gold.state)
    golds = [gold_of(Expected(calls=way)) for way in said.ways()]
    answer: Gold | None = None if said.answer is None else gold_of(Expected(answer=said.answer))
    judged = None if said.judge is False else PASSES if said.judge is True else float(said.judge)
    return _Wanted(
        ways=tuple(gold.listed for gold in golds if gold is not None),
        answer=None if answer is None else answer.answer,
        looks=said.state if isinstance(said.state, tuple) else (),
        digest=said.state if isinstance(said.state, str) else "",
        judged=judged,
    )


# ---- looking at how things stand ---------------------------------------------------------------


class LookedAt:
    """The tools of one episode, and a look at what they stand on once it is over (`Epilogue`).

    Args:
        tools: the live tools; also those that the model is not offered.
        looks: the calls that look.
    """

    def __init__(self, tools: WorldTools, looks: Sequence[ExpectedResult]) -> None:
        self._tools = tools
        self._looks = tuple(looks)

    async def call(self, call: ToolCall) -> ToolResult:
        return await self._tools.call(call)

    def fingerprint(self) -> str:
        return self._tools.fingerprint()

    async def epilogue(self) -> JsonObject:
        """Make the calls that look, in their order.

        Raises:
            ToolError: a tool could not be reached: that says nothing of the model.
        """
        answers = []
        for number, look in enumerate(self._looks):
            call = ToolCall(id=f"look_{number}", name=look.name, arguments=look.arguments)
            result = await self._tools.call(call)
            if result.error_class is ErrorClass.TRANSIENT:
                raise ToolError(
                    f"{look.name}, which looks at the state after the episode, failed: {result.text[:200]}. "
                    "Run again once it is back."
                )
            answers.append(result.text)
        return {LOOKED: answers} if answers else {}

    async def aclose(self) -> None:
        await self._tools.aclose()


def _looked(wanted: _Wanted, trajectory: Trajectory) -> Check:
    answers = trajectory.notes.get(LOOKED)
    if not isinstance(answers, list) or len(answers) != len(wanted.looks):
        # Replayed tools stand on nothing. Where the way is told, it decides alone.
        said = "nobody looked: the tools were replayed. Evaluate with live tools"
        return Check(name="state", score=0.0, said=said, decides=not wanted.ways)
    problems = [
        problem
        for look, text in zip(wanted.looks, answers, strict=True)
        if (problem := _look_problem(look, str(text))) is not None
    ]
    right = len(wanted.looks) - len(problems)
    return Check(name="state", score=right / len(wanted.looks), said="; ".join(problems))


def _look_problem(look: ExpectedResult, text: str) -> str | None:
    try:
        found: Any = msgspec.json.decode(text)
    except msgspec.DecodeError:
        found = text
    if look.equals is not msgspec.UNSET:
        if _same(found, look.equals) or text == look.equals:
            return None
        return f"{look.name}: {_short(found)}, expected {_short(look.equals)}"
    missing = _missing(found, look.contains, "")
    return None if missing is None else f"{look.name}{missing}"


def _missing(found: Any, wanted: Any, at: str) -> str | None:
    """Return where something of `wanted` is not in `found`, or None."""
    match wanted:
        case dict() if isinstance(found, dict):
            for key, value in wanted.items():
                if key not in found:
                    return f"{at}.{key}: missing, expected {_short(value)}"
                problem = _missing(found[key], value, f"{at}.{key}")
                if problem is not None:
                    return problem
            return None
        case list() if isinstance(found, list):
            for each in wanted:
                if all(_missing(item, each, at) is not None for item in found):
                    return f"{at}: {_short(each)} is not among {len(found)}"
            return None
        case _ if isinstance(found, list):
            return _missing(found, [wanted], at)
        case str() if isinstance(found, str):
            right = says(found, wanted)
        case str() if not at:  # words of an answer that is data
            right = says(msgspec.json.encode(found).decode(), wanted)
        case _:
            right = _same(found, wanted)
    return None if right else f"{at}: {_short(found)}, expected {_short(wanted)}"


def _same(left: Any, right: Any) -> bool:
    # JSON has one true and one 1, and 2 and 2.0 are one number; Python mixes the first and JSON text the second.
    if isinstance(left, bool) is not isinstance(right, bool):
        return False
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same(left[k], right[k]) for k in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same, left, right))
    return bool(left == right)


def _short(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 100 else f"{text[:97]}..."


# ---- the other checks --------------------------------------------------------------------------


def _ended(trajectory: Trajectory) -> Check:
    right = trajectory.stop is StopReason.ANSWER
    return Check(
        name="ended", score=float(right), said="" if right else f"ended by {trajectory.stop.value}"
    )


def _calls_made(task: Task, ways: Sequence[tuple[GoldCall, ...]], trajectory: Trajectory) -> Check:
    calls = made_calls(trajectory)
    scores = [_share(task, way, calls) for way in ways]
    best = max(scores)
    if best == 1.0:
        return Check(name="calls", score=1.0)
    way = ways[scores.index(best)]
    specs = {spec.name: spec for spec in task.tools}
    absent = [
        f"{want.name}({_short(want.arguments)})"
        for want in way
        if not any(same_call(want, call, specs) for call in calls)
    ]
    said = (
        f"not called: {', '.join(absent)}"
        if absent
        else "called, but not in the order of the steps"
    )
    if not way:
        said = f"{len(calls)} calls, and none is right"
    return Check(name="calls", score=best, said=said)


def _share(task: Task, way: tuple[GoldCall, ...], calls: Sequence[Any]) -> float:
    if not way:
        return float(not calls)
    gold = Gold(calls=way, answer=AnswerRule(), state="")
    return matched_gold_calls(msgspec.structs.replace(task, gold=gold), calls) / len(way)


def _writes_made(task: Task, wanted: _Wanted, trajectory: Trajectory) -> Check:
    """Whether tools that declare what they write wrote nothing that no way holds."""
    specs = {spec.name: spec for spec in task.tools}
    for call, result in calls_with_results(trajectory):
        spec = specs.get(call.name) if isinstance(call, ToolCall) else None
        if spec is None or spec.effects == UNDECLARED or not spec.effects.writes or result.is_error:
            continue
        if not any(same_call(want, call, specs) for way in wanted.ways for want in way):
            arguments = _short(call.arguments) if isinstance(call, ToolCall) else ""
            return Check(
                name="writes", score=0.0, said=f"nobody asked for {spec.name}({arguments})"
            )
    return Check(name="writes", score=1.0)


def _answered(rule: AnswerRule, trajectory: Trajectory) -> Check:
    text = final_answer(trajectory)
    score = answer_score(rule, text)
    if score == 1.0:
        return Check(name="answer", score=1.0)
    if not text.strip():
        return Check(name="answer", score=score, said="there is no answer")
    forbidden = [phrase for phrase in rule.must_not if says(text, phrase)]
    unsaid = [
        " or ".join(group) for group in rule.must if not any(says(text, phrase) for phrase in group)
    ]
    said = f"says {forbidden[0]!r}" if forbidden else f"does not say {', '.join(unsaid)}"
    return Check(name="answer", score=score, said=said)
