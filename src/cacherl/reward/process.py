"""Was the way right? Calls against the gold calls, deterministic, no judge, no clock.

Two readers use this room. Evaluation asks for `process_accuracy`, one number with one meaning. GRPO asks for
`process_reward`, whose parts give credit for every gold call on the way there, so that two failed rollouts of a
group still differ where one of them was closer.

Source: CacheRL, arXiv:2606.14179, R_process (call format, schema validity, call order, no leaked thinking).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from cacherl.cache.identity.normalise import plan_of
from cacherl.core.messages import AssistantMessage, Call, ToolCall
from cacherl.core.pairing import best_pairs
from cacherl.core.records import JsonObject, Record
from cacherl.core.schema import argument_problem
from cacherl.core.tasks import GoldCall, Task
from cacherl.core.tools import ToolSpec
from cacherl.core.trajectories import StopReason, Trajectory

TEXT_OVERLAP = 0.5
"""Two free texts say the same when their word sets overlap at least this much (Jaccard)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessWeights:
    """What each part is worth. The shares of the parts that apply are scaled to sum to 1."""

    format: float = 0.10
    schema: float = 0.10
    tool: float = 0.10
    arguments: float = 0.20
    order: float = 0.40
    """The largest: this part is the process accuracy that evaluation reports."""
    no_leaked_thinking: float = 0.10
    superfluous: float = 0.20
    """Subtracted at `superfluous` = 1; a rollout never falls below 0 for it."""

    def __post_init__(self) -> None:
        shares = (
            *(self.format, self.schema, self.tool),
            *(self.arguments, self.order, self.no_leaked_thinking),
        )
        if min(*shares, self.superfluous) < 0 or self.format + self.schema <= 0:
            raise ValueError("process weights must not be negative, format or schema must count")


class ProcessReward(Record, frozen=True, kw_only=True):
    """How right the way was, part by part; every number lies in [0, 1].

    `tool`, `arguments` and `order` are None for tasks whose way nobody said.
    """

    format: float
    """Share of assistant turns that were closed and whose calls all parsed."""
    schema: float
    """Share of the calls that named an offered tool and fitted its schema. 0 where calls were due
    and none came: an early ending earns nothing here."""
    tool: float | None
    """Share of the gold calls whose tool was called, arguments and order aside."""
    arguments: float | None
    """Mean agreement of the arguments with their gold call, order aside; partly right counts in part."""
    order: float | None
    """Share of the gold calls made exactly and in order: the process accuracy."""
    no_leaked_thinking: float
    """Share of assistant turns whose visible text holds no thinking or call tags."""
    superfluous: float
    """Rises with each call beyond the matched ones: extra / (extra + gold calls + 1)."""
    total: float
    """The weighted sum, less the penalty for superfluous calls."""


# ---- comparing two calls ---------------------------------------------------------------------


def canonical(spec: ToolSpec | None, arguments: JsonObject) -> JsonObject:
    """Return the arguments as equal calls share them: the cache's own normal form.

    What the cache takes for one call, the reward takes for one call. None stands for a tool nobody
    offered; its arguments stay as they are.
    """
    return plan_of(spec).normal(arguments).arguments if spec else arguments


def _words(value: object) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", str(value).casefold()))


def _same(kind: str | None, left: object, right: object) -> bool:
    if kind == "text" and isinstance(left, str) and isinstance(right, str):
        a, b = _words(left), _words(right)
        return a == b or len(a & b) >= TEXT_OVERLAP * len(a | b)
    # JSON has one true and one 1; Python calls them equal.
    return msgspec.json.encode(left, order="sorted") == msgspec.json.encode(right, order="sorted")


def agreement(spec: ToolSpec | None, made: JsonObject, gold: JsonObject) -> float:
    """Return the share of argument fields that agree, in [0, 1]; 1.0 means the same call.

    Fields that only one of the two has count as disagreements. Properties with `x-kind: text` agree
    when their words overlap by `TEXT_OVERLAP`.
    """
    properties = (spec.parameters.get("properties") or {}) if spec else {}
    left, right = canonical(spec, made), canonical(spec, gold)
    names = {*left, *right}
    if not names:
        return 1.0
    absent = object()
    agreed = 0
    for name in names:
        a, b = left.get(name, absent), right.get(name, absent)
        if a is not absent and b is not absent:
            agreed += _same((properties.get(name) or {}).get("x-kind"), a, b)
    return agreed / len(names)


def made_calls(trajectory: Trajectory) -> list[Call]:
    """Return every call of the episode, malformed ones included, in order."""
    return [c for m in trajectory.messages if isinstance(m, AssistantMessage) for c in m.calls]


def _agreements(task: Task, calls: Sequence[Call], gold: Sequence[GoldCall]) -> list[list[float]]:
    """Return the agreement of gold call g (row) with made call c (column); 0 for another tool."""
    specs = {spec.name: spec for spec in task.tools}
    return [
        [
            agreement(specs.get(want.name), call.arguments, want.arguments)
            if isinstance(call, ToolCall) and call.name == want.name
            else 0.0
            for call in calls
        ]
        for want in gold
    ]


# ---- matching the calls of an episode --------------------------------------------------------


def _steps(gold: Sequence[GoldCall]) -> list[list[int]]:
    """Return the indices of the gold calls, one list a step, in the order of the steps."""
    steps: dict[int, list[int]] = {}
    for index, call in enumerate(gold):
        steps.setdefault(call.step, []).append(index)
    return [steps[step] for step in sorted(steps)]


def _matched_in_order(same: Sequence[Sequence[bool]], steps: Sequence[Sequence[int]]) -> int:
    """Return the largest number of gold calls that the made calls cover, step after step.

    `reach[i]` is the best count with the steps so far and the first i made calls. A step takes a window
    of made calls and covers as much of itself in it as a bipartite matching can.
    """
    calls = len(same[0]) if same else 0
    reach = [0] * (calls + 1)
    for step in steps:
        best = list(reach)
        for start in range(calls):
            owner: dict[int, int] = {}  # gold call -> made call
            covered = 0
            for call in range(start, calls):
                covered += _augment(call, step, same, owner, set())
                best[call + 1] = max(best[call + 1], reach[start] + covered)
                if covered == len(step):
                    break
        reach = [max(best[: i + 1]) for i in range(calls + 1)]
    return reach[calls]


def _augment(
    call: int,
    step: Sequence[int],
    same: Sequence[Sequence[bool]],
    owner: dict[int, int],
    seen: set[int],
) -> bool:
    """Cover one more gold call of the step by `call`, moving others aside (Kuhn's algorithm)."""
    for want in step:
        if same[want][call] and want not in seen:
            seen.add(want)
            if want not in owner or _augment(owner[want], step, same, owner, seen):
                owner[want] = call
                return True
    return False


def matched_gold_calls(task: Task, calls: Sequence[Call]) -> int:
    """Return how many gold calls were made, arguments included, in the order of their steps.

    The longest common subsequence of the gold calls and `calls`, where calls of one `GoldCall.step`
    may come in any order among themselves. Each made call covers at most one gold call.

    Raises:
        ValueError: the task has no gold calls.
    """
    gold = _gold(task)
    same = [[a == 1.0 for a in row] for row in _agreements(task, calls, gold)]
    return _matched_in_order(same, _steps(gold))


def _gold(task: Task) -> tuple[GoldCall, ...]:
    if task.gold is None or task.gold.calls is None:
        raise ValueError(f"task {task.id} has no gold calls to compare with")
    return task.gold.calls


def process_accuracy(task: Task, trajectory: Trajectory) -> float:
    """Return the share of gold calls made in order, arguments included, in [0, 1].

    A task whose gold has no call scores 1.0 if no call was made, else 0.0.

    Raises:
        ValueError: the task has no gold calls.
    """
    gold, calls = _gold(task), made_calls(trajectory)
    if not gold:
        return 0.0 if calls else 1.0
    return matched_gold_calls(task, calls) / len(gold)


# ---- the reward ------------------------------------------------------------------------------

_TAGS = re.compile(r"</?(?:think|tool_call|tool_response|tools)>|<\|im_(?:start|end)\|>")


def _format(turns: Sequence[AssistantMessage], stop: StopReason) -> float:
    good = sum(all(isinstance(c, ToolCall) for c in turn.calls) for turn in turns)
    if (
        turns
        and stop is StopReason.TRUNCATED
        and all(isinstance(c, ToolCall) for c in turns[-1].calls)
    ):
        good -= 1  # the last turn never closed
    return good / len(turns) if turns else 0.0


def _repeats(task: Task, calls: Sequence[Call]) -> int:
    """Return how many calls say again what an earlier one said."""
    specs: Mapping[str, ToolSpec] = {spec.name: spec for spec in task.tools}
    seen: Counter[bytes] = Counter()
    for call in calls:
        if isinstance(call, ToolCall):
            arguments = canonical(specs.get(call.name), call.arguments)
            seen[msgspec.json.encode([call.name, arguments], order="sorted")] += 1
        else:
            seen[call.text.encode()] += 1
    return sum(count - 1 for count in seen.values())


DEFAULT_WEIGHTS = ProcessWeights()


def process_reward(
    task: Task, trajectory: Trajectory, weights: ProcessWeights = DEFAULT_WEIGHTS
) -> ProcessReward:
    """Return how right the way was, part by part.

    With gold, one more gold call made right and in order always raises the total, whatever calls came
    before it, and a valid call that is of no use lowers it. Without gold, format, schema and leaks are
    judged and repeated calls count as superfluous.
    """
    turns = [m for m in trajectory.messages if isinstance(m, AssistantMessage)]
    calls = made_calls(trajectory)
    specs = {spec.name: spec for spec in task.tools}
    valid = sum(
        isinstance(c, ToolCall)
        and c.name in specs
        and argument_problem(specs[c.name], c.arguments) is None
        for c in calls
    )
    due = bool(task.gold and task.gold.calls)
    format_ = _format(turns, trajectory.stop)
    schema = valid / len(calls) if calls else float(not due)
    clean = sum(not _TAGS.search(turn.content) for turn in turns)
    no_leak = clean / len(turns) if turns else 0.0
    tool, arguments, order = _against_gold(task, calls)
    if task.gold is None or task.gold.calls is None:
        extra, gold_calls = _repeats(task, calls), 0
    else:
        gold_calls = len(task.gold.calls)
        extra = len(calls) - round((order or 0.0) * gold_calls if due else 0.0)
    superfluous = extra / (extra + gold_calls + 1)
    parts = (
        (weights.format, format_),
        (weights.schema, schema),
        (weights.tool, tool),
        (weights.arguments, arguments),
        (weights.order, order),
        (weights.no_leaked_thinking, no_leak),
    )
    scored = [(weight, value) for weight, value in parts if value is not None]
    credit = sum(w * value for w, value in scored) / sum(w for w, _ in scored)
    total = min(1.0, max(0.0, credit - weights.superfluous * superfluous))
    return ProcessReward(
        format=format_,
        schema=schema,
        tool=tool,
        arguments=arguments,
        order=order,
        no_leaked_thinking=no_leak,
        superfluous=superfluous,
        total=total,
    )


def _against_gold(
    task: Task, calls: Sequence[Call]
) -> tuple[float, float, float] | tuple[None, None, None]:
    """Return the tool, arguments and order parts, or Nones for a task whose way nobody said."""
    if task.gold is None or task.gold.calls is None:
        return None, None, None
    gold = task.gold.calls
    if not gold:
        restraint = 0.0 if calls else 1.0
        return restraint, restraint, restraint
    wanted = Counter(call.name for call in gold)
    made = Counter(call.name for call in calls if isinstance(call, ToolCall))
    worth = _agreements(task, calls, gold)
    same = [[a == 1.0 for a in row] for row in worth]
    return (
        (wanted & made).total() / len(gold),
        min(1.0, sum(worth[g][c] for g, c in best_pairs(worth)) / len(gold)) if calls else 0.0,
        _matched_in_order(same, _steps(gold)) / len(gold),
    )
