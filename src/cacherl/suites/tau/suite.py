"""tau-bench and tau2-bench as `Suite`s, in their own interpreter.

    suite                        benchmark     who plays the user
    tau:airline,user=gpt-4o      tau-bench     its own simulator, with a model that litellm knows by this name
    tau2:retail,user=gpt-4.1     tau2-bench    its own simulator
    tau2:telecom,solo            tau2-bench    nobody: the task is a ticket, the agent has the user's tools
    tau:airline,scripted         either        the user's instruction said whole, then a consent

**Rewards are theirs**: the episode is replayed through their environment and their own reward code is asked.
tau-bench pays actions x outputs (the database as the gold actions leave it; every output said), tau2-bench the
product of the components in a task's `reward_basis`. An episode whose conversation did not end is paid 0.

**What differs.** Calls that the loop refused (unknown tools, arguments that do not fit) never reach the environment;
there they are answered with an error. The text beside a call is not said to the user, as there. In solo, an answer
without a call ends the episode, where tau2-bench wants a call of `done` and fails an agent that talks. Results are
those of the tools when the reward is computed.

**Floors** are the reward for really doing nothing (`idle`): 23 of tau-bench's 50 airline tasks pay in full for it.

Splits: tau2-bench's own `train` and `test` where the checkout has them. Elsewhere `dev` holds the instructions whose
digest is 0 modulo 5, `test` the others.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from cacherl.core.errors import DataError, RecipeError, ToolError
from cacherl.core.messages import (
    AssistantMessage,
    SystemMessage,
    ToolCall,
    UserMessage,
)
from cacherl.core.parameters import parameters_of
from cacherl.core.records import JsonObject, Record
from cacherl.core.suites import Check, SuiteInfo, UserKind, Verdict
from cacherl.core.tasks import AnswerRule, Gold, GoldCall, Split, Task
from cacherl.core.tools import ErrorClass, Source, Tier, ToolResult, ToolSpec
from cacherl.core.trajectories import StopReason, Trajectory
from cacherl.core.worlds import WorldTools
from cacherl.suites.gold_player import GoldPlayer
from cacherl.suites.tau.process import BRIDGE, Process

Benchmark = Literal["tau-bench", "tau2-bench"]

SHORT: dict[Benchmark, str] = {"tau-bench": "tau", "tau2-bench": "tau2"}
CLONE: dict[Benchmark, str] = {
    "tau-bench": "git clone https://github.com/sierra-research/tau-bench",
    "tau2-bench": "git clone https://github.com/sierra-research/tau2-bench",
}
_LANDMARK: dict[Benchmark, str] = {
    "tau-bench": "tau_bench/envs/base.py",
    "tau2-bench": "src/tau2/registry.py",
}
SOLO = "solo"
CONSENT = "Yes, please go ahead with everything that I asked for. I have nothing to add."
"""The scripted user's second turn: both policies want a confirmation before a write."""

_SOLO_SYSTEM = """\
You are a customer service agent that solves the ticket below by the policy. Nobody can be asked anything: call
the tools, the customer's own ones too. When the ticket is solved, say so in one sentence, without a call.

<policy>
{policy}
</policy>"""
_SYSTEM = """\
You are a customer service agent that helps the customer by the policy. Either call tools or speak to the customer.

<policy>
{policy}
</policy>"""


class TauUser(Record, frozen=True, kw_only=True):
    """Who plays the user: the benchmark's own simulator, asking this model through litellm."""

    model: str
    """litellm's name of it, such as `gpt-4o`."""
    provider: str | None = None
    """tau-bench's `user_provider`, such as `openai`."""
    strategy: str | None = None
    """tau-bench's `user_strategy`; `llm` unless told."""
    arguments: JsonObject | None = None
    """tau2-bench's `llm_args_user`; temperature 0 unless told."""


class _Told(msgspec.Struct, kw_only=True):
    id: str
    instruction: str
    ticket: str | None = None
    actions: list[JsonObject]
    outputs: list[str]
    state: str
    split: str | None
    basis: list[str]


class _Domain(msgspec.Struct, kw_only=True):
    policy: str
    tools: list[JsonObject]
    tasks: list[_Told]
    skipped: list[str] = []


class TauSuite:
    """One domain of tau-bench or tau2-bench (`Suite`). Close it, or its process lives as long as ours.

    Args:
        benchmark: which one.
        checkout: a clone of its repository.
        domain: `airline`, `retail`; tau2-bench's own (`telecom`, ...).
        python: the interpreter that has its packages; the checkout's `.venv` unless told.
        user: who plays the user.
        scripted: play it from a script instead; the suite's name then ends in `-scripted`.
        solo: tau2-bench: without a user.

    Raises:
        DataError: the folder is no checkout of that benchmark.
        RecipeError: nobody plays the user, or more than one does; no interpreter.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        checkout: Path,
        domain: str,
        *,
        python: Path | None = None,
        user: TauUser | None = None,
        scripted: bool = False,
        solo: bool = False,
    ) -> None:
        check_layout(benchmark, checkout)
        if solo and benchmark != "tau2-bench":
            raise RecipeError(
                "tau-bench has no solo mode. Use tau2-bench's telecom, or name a user."
            )
        if [user is not None, scripted, solo].count(True) != 1:
            raise RecipeError(
                f"{SHORT[benchmark]}:{domain} needs one to play the user: name a model for its own simulator "
                f"(`--suite {SHORT[benchmark]}:{domain},user=gpt-4o`), or evaluate "
                f"{SHORT[benchmark]}:{domain},scripted"
                + (" or tau2:telecom,solo" if benchmark == "tau2-bench" else "")
                + ". Scores under different users are different measurements."
            )
        self._benchmark = benchmark
        self._checkout = checkout
        self._domain_name = domain
        self._python = interpreter(benchmark, checkout) if python is None else python
        self._user = user
        self._scripted = scripted
        self._solo = solo
        self._name = f"{SHORT[benchmark]}:{domain},{_who(user, scripted=scripted)}"

    # ---- what it is ----------------------------------------------------------------------------

    @property
    def info(self) -> SuiteInfo:
        tasks = self._domain.tasks
        splits = [self._split(task) for task in tasks]
        who = "alone" if self._solo else "scripted user"
        if self._user is not None:
            who = f"user {self._user.model}"
        return SuiteInfo(
            name=self._name,
            title=f"{self._benchmark} {self._domain_name}, {who}",
            tasks=len(tasks),
            distinct_questions=len({_asked(task) for task in tasks}),
            splits={split.value: splits.count(split) for split in Split},
            licence="MIT",
            user=UserKind.SCRIPTED if self._user is None else UserKind.MODEL,
            needs=self._needs(),
            pin=self._pin,
        )

    def _needs(self) -> str:
        short = SHORT[self._benchmark]
        needs = [
            f"cacherl suites add {short} --path DIR --python PYTHON ({CLONE[self._benchmark]})"
        ]
        judged = sum("NL_ASSERTION" in task.basis for task in self._domain.tasks)
        if judged:
            needs.append(f"{judged} tasks ask {self._benchmark}'s own judge model")
        if skipped := self._domain.skipped:
            more = f" and {len(skipped) - 3} more" if len(skipped) > 3 else ""
            needs.append(f"left out: {'; '.join(skipped[:3])}{more}")
        return ". ".join(needs)

    @functools.cached_property
    def _pin(self) -> str:
        """A digest of policy, tools and tasks with their gold states, and of the code that pays."""
        digest = hashlib.sha256(msgspec.json.encode(self._domain, order="sorted"))
        digest.update(BRIDGE.read_bytes())
        paying = (
            ("tau_bench/envs/base.py",)
            if self._benchmark == "tau-bench"
            else ("src/tau2/evaluator/evaluator.py", "src/tau2/evaluator/evaluator_env.py")
        )
        for name in paying:
            path = self._checkout / name
            digest.update(path.read_bytes() if path.is_file() else b"")
        return f"sha256:{digest.hexdigest()[:16]}"

    @functools.cached_property
    def process(self) -> Process:
        """The benchmark's process, started when first asked."""
        return Process(self._python, self._benchmark, self._checkout)

    @functools.cached_property
    def _domain(self) -> _Domain:
        told = self.process.ask("describe", domain=self._domain_name, solo=self._solo)
        domain = msgspec.convert(told, _Domain)
        if not domain.tasks:
            raise DataError(
                f"{self._name}: no task can be used ({'; '.join(domain.skipped[:3]) or 'there are none'}). "
                "Choose another domain."
            )
        return domain

    @functools.cached_property
    def _told(self) -> dict[str, _Told]:
        return {
            f"{SHORT[self._benchmark]}-{self._domain_name}-{t.id}": t for t in self._domain.tasks
        }

    @staticmethod
    def _split(task: _Told) -> Split:
        if task.split is not None:
            return Split(task.split)
        digest = hashlib.sha256(" ".join(_asked(task).split()).encode()).hexdigest()
        return Split.DEV if int(digest[:8], 16) % 5 == 0 else Split.TEST

    # ---- tasks ---------------------------------------------------------------------------------

    def tasks(self, split: Split, *, count: int | None = None, seed: int = 0) -> list[Task]:
        ids = [id_ for id_, told in self._told.items() if self._split(told) is split]
        if count is not None:
            if count > len(ids):
                raise DataError(
                    f"{self._name} has {len(ids)} tasks in split {split}, not {count}. Ask for fewer."
                )
            ids = random.Random(f"{self._name}|{split}|{seed}").sample(ids, count)  # noqa: S311
        return [self._task(id_) for id_ in ids]

    @functools.cached_property
    def _specs(self) -> tuple[ToolSpec, ...]:
        functions = [tool.get("function", tool) for tool in self._domain.tools]
        return tuple(
            ToolSpec(
                name=str(function["name"]),
                description=str(function.get("description") or ""),
                parameters=parameters_of(function.get("parameters")),
            )
            for function in functions
        )

    def _task(self, id_: str) -> Task:
        told = self._told[id_]
        turns: tuple[str, ...] = ()
        if self._solo:
            turns = (f"<ticket>\n{told.ticket}\n</ticket>",)
        elif self._scripted:
            turns = (told.instruction, CONSENT)
        return Task(
            id=id_,
            split=self._split(told),
            family=self._domain_name,
            language="en",
            wording=self._name,
            scenario=told.id,
            namespace=f"{SHORT[self._benchmark]}-{self._domain_name}",
            system=(_SOLO_SYSTEM if self._solo else _SYSTEM).format(policy=self._domain.policy),
            user_turns=turns,
            tools=self._specs,
            gold=Gold(
                calls=tuple(
                    GoldCall(name=action["name"], arguments=action["arguments"], step=step)
                    for step, action in enumerate(self._own(told))
                ),
                answer=AnswerRule(must=tuple((output,) for output in told.outputs)),
                state=told.state,
            ),
        )

    def _own(self, told: _Told) -> list[JsonObject]:
        """Return the gold actions that the agent can do itself."""
        return [each for each in told.actions if self._solo or each["by"] == "assistant"]

    # ---- episodes ------------------------------------------------------------------------------

    def open(self, task: Task) -> WorldTools:
        told = self._of(task)
        user = None if self._user is None else msgspec.to_builtins(self._user)
        kind = TauTools if self._user is None else ConversedTools
        return kind(
            self.process, domain=self._domain_name, task=told.id, user=user, solo=self._solo
        )

    def check(self, task: Task, trajectory: Trajectory) -> Verdict:
        told = self._of(task)
        paid = self.process.ask(
            "score",
            domain=self._domain_name,
            task=told.id,
            events=events_of(trajectory),
            ended=trajectory.stop is StopReason.ANSWER,
            solo=self._solo,
        )
        reward = float(paid["reward"])
        components: JsonObject = paid["components"]
        passed = abs(reward - 1.0) <= 1e-6  # as their own success rate counts
        checks = [Check(name="reward", score=1.0 if passed else reward, said=paid["said"])]
        checks += [
            Check(
                name=name.lower(),
                score=score,
                said="" if score == 1.0 else f"{name.lower()} pays {score:g}",
                decides=False,
            )
            for name, score in components.items()
        ]
        return Verdict(success=passed, checks=tuple(checks))

    def idle(self, task: Task) -> Trajectory:
        """Return the episode of an agent that does nothing and a user who gives up: the floor.

        It asks no model, whoever plays the user.
        """
        said = [UserMessage(content=turn) for turn in task.user_turns or ("...",)]
        return Trajectory(
            task_id=task.id,
            policy="nothing",
            messages=(SystemMessage(content=task.system), *said[:1], AssistantMessage()),
            results=(),
            stop=StopReason.ANSWER,
        )

    def oracle(self) -> GoldPlayer:
        """The gold actions one a turn, then every output. What only the user can do stays undone."""
        return GoldPlayer(self._gold_turns)

    def _gold_turns(self, task: Task) -> Sequence[AssistantMessage]:
        told = self._of(task)
        calls = [
            AssistantMessage(
                calls=(ToolCall(id=f"gold_{n}", name=each["name"], arguments=each["arguments"]),)
            )
            for n, each in enumerate(self._own(told))
        ]
        return [*calls, AssistantMessage(content=" ".join(told.outputs) or "Done.")]

    def close(self) -> None:
        """End the benchmark's process. Safe to call twice, and before it was started."""
        started = self.__dict__.pop("process", None)
        if started is not None:
            started.close()

    def _of(self, task: Task) -> _Told:
        told = self._told.get(task.id)
        if told is None:
            raise DataError(
                f"task {task.id} is none of {self._name}. Name the suite that it was played in."
            )
        return told


def _who(user: TauUser | None, *, scripted: bool) -> str:
    if user is None:
        return "scripted" if scripted else SOLO
    words = [f"user={user.model}"]
    words += [] if user.provider is None else [f"provider={user.provider}"]
    words += [] if user.strategy is None else [f"strategy={user.strategy}"]
    return ",".join(words)


def check_layout(benchmark: Benchmark, checkout: Path) -> None:
    """Refuse a folder that is no checkout of the benchmark.

    Raises:
        DataError: says what it is, where that can be told.
    """
    if (checkout / _LANDMARK[benchmark]).is_file():
        return
    clone = f"`{CLONE[benchmark]}`, and name that folder."
    if not checkout.is_dir():
        raise DataError(f"{checkout}: no such folder. Clone it: {clone}")
    if benchmark == "tau2-bench" and any(
        (checkout / each).is_dir() for each in ("tau2", "src/tau2")
    ):
        raise DataError(
            f"{checkout}: a package tau2 without a registry of domains. The tau2 on PyPI is an unrelated physics "
            f"package, not tau2-bench. Clone it: {clone}"
        )
    other: Benchmark = "tau2-bench" if benchmark == "tau-bench" else "tau-bench"
    if (checkout / _LANDMARK[other]).is_file():
        raise DataError(f"{checkout}: a checkout of {other}, not of {benchmark}. Clone it: {clone}")
    raise DataError(f"{checkout}: no {_LANDMARK[benchmark]}, so no {benchmark}. Clone it: {clone}")


def interpreter(benchmark: Benchmark, checkout: Path) -> Path:
    """Return the checkout's own interpreter.

    Raises:
        RecipeError: it has none.
    """
    for place in (".venv/bin/python", "venv/bin/python"):
        if (checkout / place).exists():
            return checkout / place
    short = SHORT[benchmark]
    raise RecipeError(
        f"{checkout}: no .venv. Make one that has {benchmark}'s packages (`uv sync`, or `python -m venv .venv && "
        f".venv/bin/pip install -e .`), or name an interpreter: `cacherl suites add {short} --path {checkout} "
        "--python PYTHON`."
    )


def events_of(trajectory: Trajectory) -> list[JsonObject]:
    """Return what happened as the bridge replays it: what was said and what reached the tools."""
    did: list[list[JsonObject]] = trajectory.notes.get(USER_CALLS, [])
    refused = {result.call_id for result in trajectory.results if result.source is Source.LOOP}
    answered = {result.call_id for result in trajectory.results}
    events: list[JsonObject] = []
    turns = 0
    for message in trajectory.messages:
        match message:
            case UserMessage():
                before = did[turns] if turns < len(did) else []
                events.append({"kind": "user", "text": message.content, "did": before})
                turns += 1
            case AssistantMessage(calls=()):
                events.append({"kind": "answer", "text": message.content})
            case AssistantMessage():
                calls = [
                    {"id": call.id, "name": call.name, "arguments": call.arguments}
                    for call in message.calls
                    if isinstance(call, ToolCall) and call.id in answered - refused
                ]
                if calls:
                    events.append({"kind": "calls", "calls": calls})
            case _:
                pass
    if turns < len(did) and did[turns]:  # before it hung up
        events.append({"kind": "did", "did": did[turns]})
    return events


def _asked(task: _Told) -> str:
    return task.ticket or task.instruction


# ---- the tools of one episode ------------------------------------------------------------------

USER_CALLS = "user_calls"
"""The note of what the user's simulator called unseen, a list a user turn: rewards depend on it."""


class TauTools:
    """The tools of one episode (`WorldTools`).

    Args:
        process: where they live.
        opening: what opens the episode there, which first happens when something is asked of it: a
            simulator may ask its model as soon as it is made.
    """

    def __init__(self, process: Process, **opening: Any) -> None:
        self._process = process
        self._opening = opening
        self._episode: int | None = None

    async def asked(self, op: str, **given: Any) -> Any:
        """Return the answer of the episode to a request."""
        if self._episode is None:
            self._episode = await self._process.asked("open", **self._opening)
        return await self._process.asked(op, episode=self._episode, **given)

    async def call(self, call: ToolCall) -> ToolResult:
        answer = await self.asked("call", id_=call.id, name=call.name, arguments=call.arguments)
        text = str(answer["content"])
        return ToolResult(
            call_id=call.id,
            name=call.name,
            text=text,
            is_error=bool(answer["error"]),
            error_class=_error_class(text) if answer["error"] else None,
            tier=Tier.LIVE,
            source=Source.LIVE,
        )

    def fingerprint(self) -> str:
        if self._episode is None:
            self._episode = self._process.ask("open", **self._opening)
        return str(self._process.ask("state", episode=self._episode))

    async def aclose(self) -> None:
        episode, self._episode = self._episode, None
        if episode is not None:
            with contextlib.suppress(ToolError):  # the process is gone, and the episode with it
                await self._process.asked("close", episode=episode)


class ConversedTools(TauTools):
    """The tools of one episode whose user is the benchmark's own simulator (`Person`, `Epilogue`)."""

    def __init__(self, process: Process, **opening: Any) -> None:
        super().__init__(process, **opening)
        self._did: list[list[JsonObject]] = []

    async def say(self, heard: str) -> str | None:
        answer = await self.asked("say", heard=heard)
        self._did.append(answer["did"])
        said = answer["said"]
        return None if said is None else str(said)

    async def epilogue(self) -> JsonObject:
        return {USER_CALLS: self._did} if any(self._did) else {}


def _error_class(text: str) -> ErrorClass:
    lower = text.lower()
    if "not found" in lower:
        return ErrorClass.NOT_FOUND
    if "invalid" in lower or "argument" in lower:
        return ErrorClass.VALIDATION
    return ErrorClass.PERMISSION if "not " in lower or "cannot" in lower else ErrorClass.UNKNOWN
