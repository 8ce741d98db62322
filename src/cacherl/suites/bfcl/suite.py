"""BFCL v4 multi-turn as a `Suite`, and its backends as a `World`."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from pathlib import Path

from cacherl.core.errors import DataError, ToolError
from cacherl.core.messages import AssistantMessage
from cacherl.core.suites import SuiteInfo, UserKind, Verdict
from cacherl.core.tasks import AnswerRule, Gold, GoldCall, Split, Task
from cacherl.core.tools import ToolSpec
from cacherl.core.trajectories import Trajectory
from cacherl.suites.bfcl.backends import Backends
from cacherl.suites.bfcl.cases import CATEGORIES, Case, Cases, read_cases
from cacherl.suites.bfcl.verdict import MAX_STEPS, verdict_of
from cacherl.suites.bfcl.wheel import ADD, SHA256, VERSION, installed
from cacherl.suites.gold_player import DONE, GoldPlayer

NAMESPACE = "bfcl"
MAX_TURNS = 8 * (MAX_STEPS + 1)
"""Assistant turns that let every episode go on for as long as BFCL's runner does: eight user turns at most,
each of `MAX_STEPS` steps and an answer."""


class BfclSuite:
    """Berkeley Function Calling Leaderboard v4, multi-turn (`Suite`).

    Args:
        wheel: BFCL's own wheel; the added one unless told.
        categories: of `CATEGORIES`; all of them unless told.
    """

    def __init__(self, wheel: Path | None = None, categories: Sequence[str] = ()) -> None:
        unknown = [name for name in categories if name not in CATEGORIES]
        if unknown:
            raise DataError(
                f"bfcl has no category {unknown[0]!r}. There are: {', '.join(CATEGORIES)}."
            )
        self._wheel = installed() if wheel is None else wheel
        self._cases = read_cases(self._wheel)
        wanted = tuple(categories) or CATEGORIES
        self._name = ":".join(["bfcl", *categories])
        self._chosen = [c for c in self._cases.by_id.values() if c.category in wanted]

    @functools.cached_property
    def info(self) -> SuiteInfo:
        splits = [case.split for case in self._chosen]
        return SuiteInfo(
            name=self._name,
            title="Berkeley Function Calling Leaderboard v4, multi-turn",
            tasks=len(self._chosen),
            distinct_questions=len({case.asked for case in self._chosen}),
            splits={split.value: splits.count(split) for split in Split},
            licence="Apache-2.0",
            user=UserKind.SCRIPTED,
            needs=ADD,
            pin=f"bfcl-eval {VERSION} sha256:{SHA256}",
        )

    def tasks(self, split: Split, *, count: int | None = None, seed: int = 0) -> list[Task]:
        cases = [case for case in self._chosen if case.split is split]
        if count is not None:
            if count > len(cases):
                raise DataError(
                    f"bfcl has {len(cases)} tasks in split {split}, not {count}. Ask for fewer."
                )
            cases = random.Random(f"bfcl|{split}|{seed}").sample(cases, count)  # noqa: S311
        return [self._task(case.id) for case in cases]

    def open(self, task: Task) -> Backends:
        return Backends(self._wheel, self._cases, self._case(task.id))

    def check(self, task: Task, trajectory: Trajectory) -> Verdict:
        return verdict_of(self._wheel, self._cases, self._case(task.id), trajectory)

    def oracle(self) -> GoldPlayer:
        """The gold calls, whatever they are answered.

        Its score is 1 but for `multi_turn_miss_func_49`, whose gold calls a tool before it is revealed.
        """
        return GoldPlayer(lambda task: gold_messages(self._case(task.id)))

    def specs(self) -> tuple[ToolSpec, ...]:
        """Return all documented tools."""
        return tuple(self._cases.specs.values())

    def open_scenario(self, scenario: str) -> Backends:
        """Return fresh backends in an initial state that some task starts from.

        Raises:
            ToolError: no task starts there.
        """
        case = self._by_scenario.get(scenario)
        if case is None:
            raise ToolError(
                f"bfcl has no scenario {scenario!r}. Scenarios are those of its tasks: "
                "`cacherl tasks --suite bfcl --json`."
            )
        return Backends(self._wheel, self._cases, case)

    @functools.cached_property
    def _by_scenario(self) -> dict[str, Case]:
        return {case.scenario: case for case in self._cases.by_id.values()}

    def _case(self, id_: str) -> Case:
        case = self._cases.by_id.get(id_)
        if case is None:
            raise DataError(
                f"{id_!r} is no task of bfcl {VERSION}. Its ids are such as multi_turn_base_0."
            )
        return case

    def _task(self, id_: str) -> Task:
        return task_of(self._wheel, self._cases, self._case(id_))


def gold_messages(case: Case) -> list[AssistantMessage]:
    """Return the gold calls a step at a time, and an answer after each user turn.

    A step is one call, as of an agent that waits for each answer; two or more only where a turn has more
    calls than it may have steps.
    """
    messages = []
    for turn in case.gold:
        size = -(-len(turn) // MAX_STEPS) or 1
        steps = (turn[start : start + size] for start in range(0, len(turn), size))
        messages += [*(AssistantMessage(calls=calls) for calls in steps), DONE]
    return messages


@functools.lru_cache(maxsize=1024)
def _gold_state(wheel: Path, id_: str) -> str:
    cases = read_cases(wheel)
    case = cases.by_id[id_]
    backends = Backends(wheel, cases, case)
    for turn in case.gold:
        for call in turn:
            backends.run(call)
    return backends.fingerprint()


def task_of(wheel: Path, cases: Cases, case: Case) -> Task:
    """Return a case as a task with gold, after running its gold calls for the state they lead to."""
    calls = [call for turn in case.gold for call in turn]
    return Task(
        id=case.id,
        split=case.split,
        family=case.category,
        language="en",
        wording=case.category,
        scenario=case.scenario,
        namespace=NAMESPACE,
        system="",
        user_turns=case.user_turns,
        tools=cases.tools(case),
        gold=Gold(
            calls=tuple(
                GoldCall(name=call.name, arguments=call.arguments, step=step)
                for step, call in enumerate(calls)
            ),
            answer=AnswerRule(),
            state=_gold_state(wheel, case.id),
        ),
        late=dict(case.late),
    )


class BfclWorld:
    """BFCL's backends (`World`): for recording, caching, training and shadow runs."""

    namespace = NAMESPACE
    resets = True

    def __init__(self, suite: BfclSuite) -> None:
        """The suite whose tasks and backends these are."""
        self._suite = suite

    @property
    def specs(self) -> Sequence[ToolSpec]:
        return self._suite.specs()

    def open(self, scenario: str) -> Backends:
        return self._suite.open_scenario(scenario)

    def tasks(self, split: Split, *, count: int, seed: int) -> list[Task]:
        return self._suite.tasks(split, count=count, seed=seed)
