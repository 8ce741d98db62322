"""ACEBench as a `Suite`, from a user's checkout.

    suite                 categories                              user
    acebench              agent_multi_step, normal, special       nobody, or one written message
    acebench              agent_multi_turn                        a named model, `UserKind.MODEL`
    acebench-scripted     agent_multi_turn                        the instruction said whole, then a consent

How native calls become its strings, and where the protocol differs (see `TextProtocol` for its own):

- **Process accuracy.** One assistant message is one string, `[name(key='value', ...)]`, with texts between
  single quotes and nothing escaped, as the milestones are written; arguments in the model's order. Two calls
  in one message are one string and equal no milestone, as there.
- **Normal.** The calls of the first assistant turn are the answer; every call is told that it was
  received. They are written as Python and go through ACEBench's own reading: white space dropped, then parsed.
- **Special.** The words of the first assistant turn are the answer.
- **Ends.** An answer without a call ends an episode, where ACEBench waits for "finish conversation".
- **Refusals.** The loop refuses arguments that do not fit a tool's schema; ACEBench would run them.

Splits: `dev` holds the questions whose digest is 0 modulo 5, `test` the others; no split for training. A
question, and all turns of a dialogue, lie in one split, in both languages alike (the English question of
the same id decides). Published figures are over all tasks: evaluate both splits to stand beside them.
"""

from __future__ import annotations

import functools
import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from cacherl.core.errors import DataError, RecipeError
from cacherl.core.messages import AssistantMessage, MalformedCall, ToolCall
from cacherl.core.models import ChatModel
from cacherl.core.parameters import parameters_of
from cacherl.core.suites import Check, SuiteInfo, UserKind, Verdict
from cacherl.core.tasks import AnswerRule, Gold, GoldCall, Split, Task
from cacherl.core.tools import Source, Tier, ToolResult, ToolSpec
from cacherl.core.trajectories import Trajectory
from cacherl.core.worlds import WorldTools
from cacherl.metrics.episodes import calls_with_results
from cacherl.metrics.milestones import acebench_official, milestone_recall
from cacherl.suites.acebench.checkout import (
    AGENT,
    CATEGORIES,
    DIALOGUES,
    MULTI_STEP,
    MULTI_TURN,
    NORMAL,
    SPECIAL,
    Language,
    Row,
    check_layout,
    class_files,
    pin_of,
    read_rows,
)
from cacherl.suites.acebench.environment import Classes, Environment, EnvironmentTools, answered
from cacherl.suites.acebench.prompts import native_system, text_system
from cacherl.suites.acebench.protocol import TextProtocol
from cacherl.suites.acebench.users import FINISH, ConversedTools, UserModel, user_prompt
from cacherl.suites.acebench.verdicts import (
    end_state_problem,
    normal_problem,
    special_phrases,
    special_problem,
)
from cacherl.suites.acebench.written import as_milestone, as_python, calls_in
from cacherl.suites.gold_player import GoldPlayer

ADD = "cacherl suites add acebench --path DIR  # git clone https://github.com/ACEBench/ACEBench"
PEACEFUL = (*NORMAL, *SPECIAL, MULTI_STEP)
"""The categories that need nobody to play a user."""

CONSENT: Mapping[Language, str] = {
    "en": "Yes, please go ahead. If anything of what I asked for is left, do it now.",
    "zh": "好的，请继续。如果我要求的事情还有没完成的，请现在完成。",
}
"""The scripted user's second turn: many rules want a confirmation before a write."""

RECEIVED = json.dumps({"status": "received"})


class AceBench:
    """ACEBench (`Suite`).

    Args:
        checkout: a clone of the repository, at e6db74b or near it.
        categories: of `CATEGORIES`; all that need no user unless told.
        language: `en` or `zh`.
        user: who plays the user of agent_multi_turn.
        scripted: play it from a script instead; the suite is then called `acebench-scripted`.
        protocol: `native` tool calls, or ACEBench's own `text` (wrap the model with `speaking`).
    """

    def __init__(
        self,
        checkout: Path,
        *,
        categories: Sequence[str] = (),
        language: Language = "en",
        user: UserModel | None = None,
        scripted: bool = False,
        protocol: Literal["native", "text"] = "native",
    ) -> None:
        for name in categories:
            if name not in CATEGORIES:
                raise RecipeError(
                    f"acebench has no category {name!r}. There are: {', '.join(CATEGORIES)}."
                )
        if language not in CONSENT:
            raise RecipeError(f"acebench has no language {language!r}. There are: en, zh.")
        check_layout(checkout)
        self._default = (MULTI_TURN,) if user is not None or scripted else PEACEFUL
        # In an order of its own: a name opens the same tasks in the same order.
        chosen = tuple(name for name in CATEGORIES if name in categories)
        self._categories = chosen or self._default
        if MULTI_TURN in self._categories and (user is None) is not scripted:
            raise RecipeError(
                f"{MULTI_TURN} needs somebody to play the user: name a model for it "
                "(`--suite acebench:multi_turn,user=openai:gpt-4o`), or evaluate acebench-scripted, which is "
                "another measurement. Not both."
            )
        self._checkout = checkout
        self._language = language
        self._user = user
        self._scripted = scripted
        self._protocol = protocol

    # ---- what it is ----------------------------------------------------------------------------

    @property
    def info(self) -> SuiteInfo:
        rows = list(self._rows.values())
        splits = [self._split(row) for row in rows]
        spoken_by = ", scripted user" if self._scripted else ""
        if self._user is not None:
            spoken_by = f", user {self._user.name}"
        return SuiteInfo(
            name=self._name,
            title=(
                f"ACEBench ({self._language}{spoken_by}), "
                + ("native calls" if self._protocol == "native" else "calls as text")
            ),
            tasks=len(rows),
            distinct_questions=len({row.question for row in rows}),
            splits={split.value: splits.count(split) for split in Split},
            licence="MIT",
            user=UserKind.SCRIPTED if self._user is None else UserKind.MODEL,
            needs=ADD,
            pin=self._pin,
        )

    @property
    def _name(self) -> str:
        """What opens this suite again: `acebench`, `acebench:multi_turn,zh,user=openai:gpt-4o`."""
        words = [] if self._categories == self._default else _shortened(self._categories)
        words += [self._language] if self._language != "en" else []
        words += ["text"] if self._protocol == "text" else []
        words += [] if self._user is None else [f"user={self._user.name}"]
        kind = "acebench-scripted" if self._scripted else "acebench"
        return f"{kind}:{','.join(words)}" if words else kind

    @functools.cached_property
    def _user_chat(self) -> Callable[[], ChatModel]:
        """Opens the model that plays the user, once for all episodes."""
        assert self._user is not None  # noqa: S101 - asked for only where there is one
        return functools.cache(self._user.open)

    @functools.cached_property
    def _pin(self) -> str:
        data = self._checkout / "data_all" / f"data_{self._language}"
        files = [
            folder / f"data_{category}.json"
            for category in self._categories
            for folder in (data, data / "possible_answer")
        ]
        for category in self._categories:
            if category in AGENT:
                files += class_files(self._checkout, category, self._language).values()
        return pin_of(files, self._checkout)

    @functools.cached_property
    def _rows(self) -> dict[str, Row]:
        return {
            f"acebench-{self._language}-{row.id}": row
            for category in self._categories
            for row in read_rows(self._checkout, category, self._language)
        }

    @functools.cached_property
    def _deciding(self) -> dict[str, str]:
        """Row id -> the question that decides its split: the English one, where there is one."""
        if self._language == "en":
            return {}
        try:
            return {
                row.id: row.question
                for category in self._categories
                for row in read_rows(self._checkout, category, "en")
            }
        except DataError:  # a checkout with one language alone
            return {}

    def _split(self, row: Row) -> Split:
        if row.category in DIALOGUES:
            decides = f"{row.category}/{row.dialogue}"
        else:
            decides = " ".join(self._deciding.get(row.id, row.question).split())
        digest = hashlib.sha256(decides.encode()).hexdigest()
        return Split.DEV if int(digest[:8], 16) % 5 == 0 else Split.TEST

    # ---- tasks ---------------------------------------------------------------------------------

    def tasks(self, split: Split, *, count: int | None = None, seed: int = 0) -> list[Task]:
        ids = [id_ for id_, row in self._rows.items() if self._split(row) is split]
        if count is not None:
            if count > len(ids):
                raise DataError(
                    f"acebench has {len(ids)} tasks in split {split}, not {count}. Ask for fewer."
                )
            ids = random.Random(f"acebench|{split}|{seed}").sample(ids, count)  # noqa: S311
        return [self._task(id_) for id_ in ids]

    def _task(self, id_: str) -> Task:
        row = self._rows[id_]
        written = native_system if self._protocol == "native" else text_system
        turns: tuple[str, ...] = (row.question,)
        if row.category == MULTI_TURN:
            turns = (row.question, CONSENT[self._language]) if self._scripted else ()
        elif row.category not in AGENT:
            turns = (f"Conversation history 1..t:\n{row.question}",)
        return Task(
            id=id_,
            split=self._split(row),
            family=row.category,
            language=self._language,
            wording=row.category,
            scenario=_scenario(row),
            namespace=f"acebench-{self._language}-{row.category}",
            system=written(self._checkout, row, self._language),
            user_turns=turns,
            tools=tuple({spec.name: spec for spec in map(_spec, row.functions)}.values()),
            gold=self._gold(row),
        )

    def _gold(self, row: Row) -> Gold:
        if row.category in SPECIAL:
            must = tuple((phrase,) for phrase in special_phrases(row))
            return Gold(calls=(), answer=AnswerRule(must=must), state=RECEIVED)
        if row.category in NORMAL:
            calls = [
                GoldCall(name=call.name, arguments=call.arguments) for call in normal_calls(row)
            ]
            return Gold(calls=tuple(calls), answer=AnswerRule(), state=RECEIVED)
        steps = self._best_way(row)
        environment = self.environment(row)
        for call in (call for step in steps for call in step):
            answered(environment, call)
        return Gold(
            calls=tuple(
                GoldCall(name=call.name, arguments=call.arguments, step=place)
                for place, step in enumerate(steps)
                for call in step
            ),
            answer=AnswerRule(),
            state=environment.fingerprint(),
        )

    def _best_way(self, row: Row) -> list[list[ToolCall]]:
        """Return the alternative whose replay reaches the gold state, else the first."""
        ways = ways_of(row)
        return next((way for way in ways if self.replay_problem(row, way) is None), ways[0])

    # ---- episodes ------------------------------------------------------------------------------

    def open(self, task: Task) -> WorldTools:
        row = self._row(task)
        if row.category not in AGENT:
            return _Received()
        environment = self.environment(row)
        if row.category == MULTI_TURN and self._user is not None:
            return ConversedTools(
                environment,
                user=self._user_chat,
                task=task,
                told=user_prompt(self._checkout, row, self._language),
                language=self._language,
            )
        return EnvironmentTools(environment)

    def environment(self, row: Row) -> Environment:
        """Return fresh instances in the row's initial state."""
        return Environment(self.classes(row.category), row.classes, row.initial_config)

    @functools.cache  # noqa: B019 - a suite lives as long as its process
    def classes(self, category: str) -> Classes:
        """Return the environment classes of an agent category."""
        return Classes(self._checkout, class_files(self._checkout, category, self._language))

    def rows(self) -> list[Row]:
        """Return every row of the chosen categories."""
        return list(self._rows.values())

    def speaking(self, model: ChatModel) -> ChatModel:
        """Return the model as this suite's protocol wants it."""
        if self._protocol == "native":
            return model
        return TextProtocol(model, multi_step=(MULTI_STEP,))

    # ---- verdicts ------------------------------------------------------------------------------

    def check(self, task: Task, trajectory: Trajectory) -> Verdict:
        row = self._row(task)
        if row.category in AGENT:
            return self._agent_verdict(row, task, trajectory)
        first = next((m for m in trajectory.messages if isinstance(m, AssistantMessage)), None)
        if first is None:
            problem: str | None = "no answer"
        elif row.category in SPECIAL:
            problem = special_problem(row, first.content or as_python(_parsed(first)))
        else:
            problem = _normal_answer_problem(row, first)
        name = "said" if row.category in SPECIAL else "calls"
        checks = [Check(name=name, score=float(problem is None), said=problem or "")]
        if row.category in NORMAL and first is not None:
            checks.append(_exact(row, _parsed(first)))
        return Verdict(success=problem is None, checks=tuple(checks))

    def _agent_verdict(self, row: Row, task: Task, trajectory: Trajectory) -> Verdict:
        environment = self.environment(row)
        for call, result in calls_with_results(trajectory):
            if isinstance(call, ToolCall) and result.source is not Source.LOOP:
                answered(environment, call)
        problem = end_state_problem(row.answers, environment.saved())
        right = problem is None
        milestones = row.milestones if row.has_alternatives else row.milestones[0]
        official = acebench_official(milestones, sent(trajectory), end_state_right=right)
        ways = ways_of(row)
        recall = milestone_recall(
            [
                [
                    GoldCall(name=call.name, arguments=call.arguments)
                    for step in way
                    for call in step
                ]
                for way in ways
            ],
            [call for call, _ in calls_with_results(trajectory)],
            {spec.name: spec for spec in task.tools},
        )
        return Verdict(
            success=right,
            checks=(
                Check(name="state", score=float(right), said=problem or ""),
                _beside("process-official", official),
                _beside("process-recall", recall),
            ),
        )

    def replay_problem(self, row: Row, way: Sequence[Sequence[ToolCall]]) -> str | None:
        """Return why replaying calls misses the row's gold state, or None where it is reached."""
        environment = self.environment(row)
        for call in (call for step in way for call in step):
            answered(environment, call)
        return end_state_problem(row.answers, environment.saved())

    def oracle(self) -> GoldPlayer:
        """The milestones one message a step; the gold calls in one message; the words to be said."""
        return GoldPlayer(self._gold_turns)

    def _gold_turns(self, task: Task) -> list[AssistantMessage]:
        row = self._row(task)
        if row.category in SPECIAL:
            return [AssistantMessage(content=" ".join(special_phrases(row)))]
        done = AssistantMessage(content=FINISH)
        if row.category in NORMAL:
            return [AssistantMessage(calls=tuple(normal_calls(row))), done]
        return [*(AssistantMessage(calls=tuple(step)) for step in self._best_way(row)), done]

    def _row(self, task: Task) -> Row:
        row = self._rows.get(task.id)
        if row is None:
            raise DataError(
                f"task {task.id} is none of {self.info.name} with categories "
                f"{', '.join(self._categories)} in {self._language}. Name its category and language."
            )
        return row


def _shortened(categories: Sequence[str]) -> list[str]:
    left = list(categories)
    words = []
    for name, group in (("normal", NORMAL), ("special", SPECIAL)):
        if set(group) <= set(left):
            words.append(name)
            left = [each for each in left if each not in group]
    return words + [each.removeprefix("agent_") for each in left]


# ---- from rows to calls ------------------------------------------------------------------------


def ways_of(row: Row) -> list[list[list[ToolCall]]]:
    """Return the alternatives of an agent row, each a list of steps with the calls of one message.

    Raises:
        DataError: a milestone is no call at all.
    """
    parameters = {
        name
        for function in row.functions
        for name in (function.get("parameters") or {}).get("properties") or {}
    }
    ways = []
    for place, milestones in enumerate(row.milestones):
        way = []
        for step, written in enumerate(milestones):
            try:
                calls = calls_in(written, parameters)
            except ValueError as error:
                raise DataError(
                    f"{row.id}: milestone {step} of way {place} is no call: {error}. Check the answer file."
                ) from error
            way.append(
                [
                    ToolCall(id=f"gold_{step}_{number}", name=name, arguments=arguments)
                    for number, (name, arguments) in enumerate(calls)
                ]
            )
        ways.append(way)
    return ways or [[]]


def normal_calls(row: Row) -> list[ToolCall]:
    """Return the gold calls of a normal row, the first alternative's."""
    names = {str(function["name"]) for function in row.functions}
    calls = []
    for number, (key, arguments) in enumerate(row.answers[0].items() if row.answers else ()):
        name = key if key in names else key.rpartition("_")[0]
        calls.append(ToolCall(id=f"gold_{number}", name=name, arguments=arguments or {}))
    return calls


def sent(trajectory: Trajectory) -> list[str]:
    """Return the messages that went to execution, as strings: as written, or as milestones are."""
    strings = []
    for message in trajectory.messages:
        if isinstance(message, AssistantMessage) and message.calls:
            own = message.content.strip()
            strings.append(own if own.startswith("[") else as_milestone(_parsed(message)))
    return strings


def _parsed(message: AssistantMessage) -> list[ToolCall]:
    return [call for call in message.calls if isinstance(call, ToolCall)]


def _normal_answer_problem(row: Row, message: AssistantMessage) -> str | None:
    broken = [call for call in message.calls if isinstance(call, MalformedCall)]
    if broken:
        return f"no list of calls: {broken[0].problem}"
    if not message.calls:
        return "no call"
    own = message.content.strip()
    return normal_problem(row, own if own.startswith("[") else as_python(_parsed(message)))


def _beside(name: str, share: float) -> Check:
    said = "" if share == 1.0 else f"{share:.3f} of the milestones"
    return Check(name=name, score=share, said=said, decides=False)


def _exact(row: Row, calls: Sequence[ToolCall]) -> Check:
    """Whether the calls are exactly an alternative's, values compared: ours, not ACEBench's."""
    made = sorted(json.dumps([call.name, call.arguments], sort_keys=True) for call in calls)
    names = {str(function["name"]) for function in row.functions}
    for answer in row.answers:
        gold = sorted(
            json.dumps([key if key in names else key.rpartition("_")[0], value], sort_keys=True)
            for key, value in answer.items()
        )
        if made == gold:
            return Check(name="calls-exact", score=1.0, decides=False)
    said = "right or not by ACEBench, the values are not those of any gold"
    return Check(name="calls-exact", score=0.0, said=said, decides=False)


def _spec(function: Mapping[str, object]) -> ToolSpec:
    description = function.get("description")
    return ToolSpec(
        name=str(function["name"]),
        description=description if isinstance(description, str) else "",
        parameters=parameters_of(function.get("parameters")),
    )


def _scenario(row: Row) -> str:
    """Name an initial state: equal names, equal states."""
    if row.category not in AGENT:
        return ""
    state = json.dumps([row.classes, row.initial_config], sort_keys=True)
    return f"{'+'.join(row.classes)}-{hashlib.sha256(state.encode()).hexdigest()[:8]}"


class _Received:
    """Tools of rows that are judged by what is called, not by what it does."""

    async def call(self, call: ToolCall) -> ToolResult:
        return ToolResult(
            call_id=call.id, name=call.name, text=RECEIVED, tier=Tier.LIVE, source=Source.LIVE
        )

    def fingerprint(self) -> str:
        return RECEIVED

    async def aclose(self) -> None:
        pass
