"""The other side of the bridge to tau-bench and tau2-bench: run by their interpreter, never by ours.

    PYTHON bridge.py {tau-bench|tau2-bench} CHECKOUT

Reads one JSON object a line, `{"id": 1, "op": "call", ...}`, and writes one a line, `{"id": 1, "ok": {...}}` or
`{"id": 1, "error": {"kind": "user", "message": "..."}}`, in whatever order they are done. It imports nothing of
CacheRL and nothing beyond Python but the benchmark itself, whose environments, user simulators and rewards
it calls as they are. What they print goes to stderr.
"""

from __future__ import annotations

import copy
import importlib
import json
import os
import platform
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any

JsonObject = dict[str, Any]

THREADS = 32
"""Episodes whose user model may be asked at once."""

GREETING = "Hi! How can I help you today?"
"""What both benchmarks let the agent say before anyone has asked."""
STOP = "###STOP###"
STOPS = (STOP, "###TRANSFER###", "###OUT-OF-SCOPE###")

UNRELATED = (
    "the package tau2 found there is not tau2-bench (it has no registry of domains): on PyPI, tau2 is an "
    "unrelated physics package. Clone https://github.com/sierra-research/tau2-bench and name that folder"
)


class Trouble(Exception):
    """Something the other side is told in one line."""

    def __init__(self, message: str, kind: str = "benchmark") -> None:
        super().__init__(message)
        self.kind = kind


def within(module: Any, checkout: str) -> str:
    """Refuse a package that was found somewhere else."""
    found = Path(module.__file__ or "").resolve()
    if not found.is_relative_to(Path(checkout).resolve()):
        raise Trouble(
            f"imported {module.__name__} from {found}, not from {checkout}. Name an interpreter in which no "
            "other version of it is installed"
        )
    return str(found)


# ---- tau-bench ---------------------------------------------------------------------------------


class Silent:
    """A user who never says anything: for turns that are written beforehand, and for rewards."""

    def reset(self, instruction: str | None = None) -> str:
        return ""

    def step(self, content: str) -> str:
        return ""

    def get_total_cost(self) -> float:
        return 0.0


class TauBench:
    """tau-bench v1."""

    def __init__(self, checkout: str) -> None:
        sys.path.insert(0, checkout)
        envs = importlib.import_module("tau_bench.envs")
        types = importlib.import_module("tau_bench.types")
        self.file = within(envs, checkout)
        self._get_env = envs.get_env
        self._action = types.Action
        self._respond = types.RESPOND_ACTION_NAME

    def _env(self, domain: str, user: JsonObject | None = None) -> Any:
        # `human` is the one strategy whose making asks no model; its place is then taken.
        how: JsonObject = {"user_strategy": "human", "user_model": ""}
        if user:
            how = {
                "user_strategy": user.get("strategy") or "llm",
                "user_model": user["model"],
                "user_provider": user.get("provider"),
            }
        try:
            env = self._get_env(domain, task_split="test", **how)
        except Exception as error:
            # Its simulator asks its model as soon as it is made.
            kind = "user" if user else "benchmark"
            raise Trouble(f"{type(error).__name__}: {error}", kind) from error
        if not user:
            env.user = Silent()
        return env

    def describe(self, domain: str, solo: bool) -> JsonObject:
        env = self._env(domain)
        return {
            "policy": env.wiki,
            "tools": env.tools_info,
            "tasks": [self._told(env, place) for place in range(len(env.tasks))],
        }

    def _told(self, env: Any, place: int) -> JsonObject:
        task = env.tasks[place]
        actions = [
            {"name": action.name, "arguments": action.kwargs, "by": "assistant"}
            for action in task.actions
            if action.name != self._respond
        ]
        env.reset(task_index=place)
        for action in task.actions:
            if action.name not in env.terminate_tools:
                env.step(action)
        return {
            "id": str(place),
            "instruction": task.instruction,
            "actions": actions,
            "outputs": list(task.outputs),
            "state": env.get_data_hash(),
            "split": None,
            "basis": ["actions", "outputs"],
        }

    def open(self, domain: str, task: str, user: JsonObject | None, solo: bool) -> JsonObject:
        env = self._env(domain, user)
        episode = {"env": env, "place": int(task), "over": False, "begun": False}
        if not user:  # else `say` resets it, which asks the user's model for the first words
            env.reset(task_index=int(task))
        return episode

    def call(self, episode: JsonObject, id_: str, name: str, arguments: JsonObject) -> JsonObject:
        env = episode["env"]
        if episode["over"]:
            return {"content": "Error: the conversation is over", "error": True}
        if name in env.terminate_tools:
            # Not `step`: it would compute the reward, and leave the gold's data behind.
            episode["over"] = True
            try:
                content = env.tools_map[name].invoke(data=env.data, **arguments)
            except Exception as error:  # noqa: BLE001 - as tau-bench does
                content = f"Error: {error}"
        else:
            content = env.step(self._action(name=name, kwargs=arguments)).observation
        return {"content": str(content), "error": str(content).startswith("Error")}

    def say(self, episode: JsonObject, heard: str) -> JsonObject:
        if episode["over"]:
            return {"said": None, "did": []}
        env = episode["env"]
        try:
            if not episode["begun"]:
                episode["begun"] = True
                said = env.reset(task_index=episode["place"]).observation
            else:
                said = env.user.step(heard)
        except Exception as error:
            raise Trouble(f"{type(error).__name__}: {error}", kind="user") from error
        episode["over"] = STOP in said
        return {"said": None if episode["over"] else said, "did": []}

    def state(self, episode: JsonObject) -> str:
        return str(episode["env"].get_data_hash())

    def score(
        self, domain: str, task: str, events: list[JsonObject], ended: bool, solo: bool
    ) -> JsonObject:
        env = self._env(domain)

        def replayed(outputs: bool) -> tuple[Any, bool]:
            env.reset(task_index=int(task))
            transferred = False
            for event in events:
                if event["kind"] == "answer":
                    env.step(self._action(name=self._respond, kwargs={"content": event["text"]}))
                for call in event.get("calls", ()):
                    action = self._action(name=call["name"], kwargs=call["arguments"])
                    transferred = call["name"] in env.terminate_tools
                    if transferred:  # the end: not `step`, which would compute the reward
                        env.actions.append(action)
                        break
                    env.step(action)
                if transferred:
                    break
            if not outputs:
                env.task = copy.copy(env.task)
                env.task.outputs = []
            return env.calculate_reward(), ended or transferred

        whole, over = replayed(outputs=True)
        if not over:
            return {"reward": 0.0, "components": {}, "said": "the conversation did not end"}
        actions, _ = replayed(outputs=False)
        components = {"actions": float(actions.reward)}
        found = getattr(whole.info, "outputs", None) or {}
        said = [f"never said {text!r}" for text, was_said in found.items() if not was_said]
        if found:
            components["outputs"] = float(whole.info.r_outputs)
        if not components["actions"]:
            said.insert(0, "the database is not as the gold actions leave it")
        return {
            "reward": float(whole.reward),
            "components": components,
            "said": "; ".join(said),
        }


# ---- tau2-bench --------------------------------------------------------------------------------


class Tau2Bench:
    """tau2-bench."""

    def __init__(self, checkout: str) -> None:
        source = Path(checkout, "src")
        data = Path(checkout, "data")
        sys.path.insert(0, str(source))
        if data.is_dir():
            os.environ.setdefault("TAU2_DATA_DIR", str(data))
        try:
            registry = importlib.import_module("tau2.registry")
        except ModuleNotFoundError as error:
            if error.name in ("tau2", "tau2.registry"):
                raise Trouble(UNRELATED) from error
            raise
        self.file = within(registry, str(source))
        self._registry = registry.registry
        self._message: Any = importlib.import_module("tau2.data_model.message")
        self._simulation: Any = importlib.import_module("tau2.data_model.simulation")
        self._evaluator: Any = importlib.import_module("tau2.evaluator.evaluator")
        self._tasks: dict[str, dict[str, Any]] = {}

    def _of(self, domain: str, task: str) -> Any:
        if domain not in self._tasks:
            self._load(domain)
        if task not in self._tasks[domain]:
            raise Trouble(f"{domain} has no task {task}")
        return self._tasks[domain][task]

    def _load(self, domain: str) -> dict[str, str]:
        """Return the split of each task by id, where the checkout has splits."""
        loader = self._registry.get_tasks_loader(domain)
        get_splits = getattr(self._registry, "get_task_splits_loader", lambda name: None)(domain)
        splits = (get_splits() if get_splits is not None else None) or {}
        # `base` is what tau2-bench itself evaluates unless told.
        tasks = loader("base") if "base" in splits else loader()
        self._tasks[domain] = {str(task.id): task for task in tasks}
        return {str(id_): name for name in ("train", "test") for id_ in splits.get(name, ())}

    def _env(self, domain: str, task: Any, solo: bool, prepared: bool = True) -> Any:
        constructor = self._registry.get_env_constructor(domain)
        env = constructor(solo_mode=True) if solo else constructor()
        if prepared:
            initial = task.initial_state
            env.set_state(
                initialization_data=getattr(initial, "initialization_data", None),
                initialization_actions=getattr(initial, "initialization_actions", None),
                message_history=[],
            )
        return env

    @staticmethod
    def _hash(env: Any) -> str:
        return f"{env.get_db_hash()}/{env.get_user_db_hash()}"

    def describe(self, domain: str, solo: bool) -> JsonObject:
        splits = self._load(domain)
        tasks, skipped = [], []
        for task in self._tasks[domain].values():
            reason = self._unfit(task, solo)
            if reason is None:
                tasks.append(self._told(domain, task, splits.get(str(task.id))))
            else:
                skipped.append(f"{task.id}: {reason}")
        constructor = self._registry.get_env_constructor(domain)
        env = constructor(solo_mode=True) if solo else constructor()
        tools = list(env.get_tools())
        if solo and env.user_tools is not None:
            tools += env.get_user_tools()
        return {
            "policy": env.get_policy(),
            "tools": [tool.openai_schema for tool in tools],
            "tasks": tasks,
            "skipped": skipped,
        }

    @staticmethod
    def _unfit(task: Any, solo: bool) -> str | None:
        if getattr(task.initial_state, "message_history", None):
            return "begins in the middle of a conversation"
        if solo and not task.ticket:
            return "has no ticket, so it cannot be played alone"
        if task.evaluation_criteria is None:
            return "has no evaluation criteria"
        return None

    def _told(self, domain: str, task: Any, split: str | None) -> JsonObject:
        criteria = task.evaluation_criteria
        actions = criteria.actions or []
        # As their evaluator makes the gold: never alone, failing actions passed over.
        env = self._env(domain, task, solo=False)
        for action in actions:
            try:
                env.make_tool_call(
                    tool_name=action.name, requestor=action.requestor, **action.arguments
                )
            except Exception:  # noqa: BLE001, S112 - as tau2-bench does
                continue
        return {
            "id": str(task.id),
            "instruction": str(task.user_scenario),
            "ticket": task.ticket,
            "actions": [
                {"name": action.name, "arguments": action.arguments, "by": action.requestor}
                for action in actions
            ],
            "outputs": list(criteria.communicate_info or []),
            "state": self._hash(env),
            "split": split,
            "basis": [getattr(kind, "value", str(kind)) for kind in criteria.reward_basis],
        }

    def open(self, domain: str, task: str, user: JsonObject | None, solo: bool) -> JsonObject:
        found = self._of(domain, task)
        env = self._env(domain, found, solo)
        episode = {"env": env, "user": None, "state": None, "over": False}
        if user:
            tools = env.get_user_tools() if env.user_tools is not None else None
            constructor = self._registry.get_user_constructor("user_simulator")
            arguments = user.get("arguments")
            player = constructor(
                tools=tools,
                instructions=str(found.user_scenario),
                llm=user["model"],
                llm_args={"temperature": 0.0} if arguments is None else arguments,
            )
            episode["user"], episode["state"] = player, player.get_init_state()
        return episode

    def _called(self, id_: str, name: str, arguments: JsonObject, by: str) -> Any:
        return self._message.ToolCall(id=id_, name=name, arguments=arguments, requestor=by)

    def call(self, episode: JsonObject, id_: str, name: str, arguments: JsonObject) -> JsonObject:
        answer = episode["env"].get_response(self._called(id_, name, arguments, "assistant"))
        return {"content": answer.content or "", "error": bool(answer.error)}

    def say(self, episode: JsonObject, heard: str) -> JsonObject:
        player, env = episode["user"], episode["env"]
        did: list[JsonObject] = []
        if player is None or episode["over"]:
            return {"said": None, "did": did}
        message = self._message.AssistantMessage(role="assistant", content=heard or GREETING)
        while True:
            try:
                said, episode["state"] = player.generate_next_message(message, episode["state"])
            except Exception as error:
                raise Trouble(f"{type(error).__name__}: {error}", kind="user") from error
            if not said.is_tool_call():
                break
            answers = [env.get_response(call) for call in said.tool_calls]
            did += [
                {"id": call.id, "name": call.name, "arguments": call.arguments}
                for call in said.tool_calls
            ]
            message = (
                answers[0]
                if len(answers) == 1
                else self._message.MultiToolMessage(role="tool", tool_messages=answers)
            )
        text = said.content or ""
        episode["over"] = any(stop in text for stop in STOPS)
        return {"said": None if episode["over"] else text, "did": did}

    def state(self, episode: JsonObject) -> str:
        return self._hash(episode["env"])

    def score(
        self, domain: str, task: str, events: list[JsonObject], ended: bool, solo: bool
    ) -> JsonObject:
        found = self._of(domain, task)
        reasons = self._simulation.TerminationReason
        stopped = reasons.AGENT_STOP if solo else reasons.USER_STOP
        now = datetime.now(timezone.utc).isoformat()  # noqa: UP017 - their interpreter may be 3.10
        run = self._simulation.SimulationRun(
            id="cacherl",
            task_id=found.id,
            start_time=now,
            end_time=now,
            duration=0.0,
            termination_reason=stopped if ended else reasons.MAX_STEPS,
            messages=self._messages(self._env(domain, found, solo), events, solo),
        )
        info = self._evaluator.evaluate_simulation(
            simulation=run,
            task=found,
            evaluation_type=self._evaluator.EvaluationType.ALL,
            solo_mode=solo,
            domain=domain,
        )
        told = info.info or {}
        # Newer versions swallow what their evaluator raises and pay 0 for it.
        if isinstance(told, dict) and told.get("error"):
            raise Trouble(f"tau2-bench could not evaluate: {told['error']}")
        breakdown = info.reward_breakdown or {}
        components = {
            getattr(kind, "value", str(kind)): float(value) for kind, value in breakdown.items()
        }
        failed = [f"{kind} is {value}" for kind, value in components.items() if value < 1.0]
        if not ended:
            failed = ["the conversation did not end"]
        return {
            "reward": float(info.reward),
            "components": components,
            "said": "; ".join(failed),
        }

    def _messages(self, env: Any, events: list[JsonObject], solo: bool) -> list[Any]:
        """Return the conversation as tau2-bench keeps it, with results as the tools give them now."""
        m = self._message
        messages = [] if solo else [m.AssistantMessage(role="assistant", content=GREETING)]

        def answered(calls: list[JsonObject], by: str) -> None:
            made = [self._called(call["id"], call["name"], call["arguments"], by) for call in calls]
            kind = m.AssistantMessage if by == "assistant" else m.UserMessage
            messages.append(kind(role=by, content=None, tool_calls=made))
            messages.extend(env.get_response(call) for call in made)

        for event in events:
            if event.get("calls"):
                answered(event["calls"], "assistant")
            for call in event.get("did", ()):
                answered([call], "user")
            if event["kind"] == "user" and not solo:
                messages.append(m.UserMessage(role="user", content=event["text"]))
            if event["kind"] == "answer" and not solo:
                messages.append(m.AssistantMessage(role="assistant", content=event["text"]))
        if solo:
            messages.append(m.AssistantMessage(role="assistant", content=STOP))
        else:
            messages.append(m.UserMessage(role="user", content=STOP))
        return messages


# ---- the wire ----------------------------------------------------------------------------------


class Bridge:
    """Requests in, answers out."""

    def __init__(self, benchmark: Any, out: IO[str]) -> None:
        self._benchmark = benchmark
        self._out = out
        self._writing = threading.Lock()
        self._episodes: dict[int, JsonObject] = {}
        self._last = 0

    def answer(self, line: str) -> None:
        request = json.loads(line)
        id_ = request.pop("id")
        try:
            self._write({"id": id_, "ok": self._done(request.pop("op"), request)})
        except Trouble as trouble:
            self._write({"id": id_, "error": {"kind": trouble.kind, "message": str(trouble)}})
        except Exception as error:  # noqa: BLE001 - the other side is told, and decides
            traceback.print_exc()
            said = f"{type(error).__name__}: {error}"
            self._write({"id": id_, "error": {"kind": "benchmark", "message": said}})

    def _done(self, op: str, given: JsonObject) -> Any:
        if op == "open":
            with self._writing:
                self._last += 1
                number = self._last
            self._episodes[number] = self._benchmark.open(**given)
            return number
        if op == "close":
            return self._episodes.pop(given["episode"], None) is not None
        if op in ("call", "say", "state"):
            episode = self._episodes[given.pop("episode")]
            return getattr(self._benchmark, op)(episode, **given)
        if op in ("describe", "score"):
            return getattr(self._benchmark, op)(**given)
        raise Trouble(f"no such request: {op}")

    def _write(self, told: JsonObject) -> None:
        text = json.dumps(told, ensure_ascii=True, default=str)
        with self._writing:
            self._out.write(text + "\n")
            self._out.flush()


def main() -> int:
    """Answer requests until there are no more."""
    kind, checkout = sys.argv[1:]
    # The benchmarks print; what they print must not reach the wire.
    out = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    lines = os.fdopen(os.dup(0), "r", encoding="utf-8")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    kinds: dict[str, Any] = {"tau-bench": TauBench, "tau2-bench": Tau2Bench}
    try:
        benchmark = kinds[kind](checkout)
    except Exception as error:  # noqa: BLE001 - the other side is told, and decides
        traceback.print_exc()
        said = str(error) if isinstance(error, Trouble) else f"{type(error).__name__}: {error}"
        out.write(json.dumps({"id": 0, "error": {"kind": "start", "message": said}}) + "\n")
        out.flush()
        return 1
    about = {"file": benchmark.file, "python": platform.python_version()}
    out.write(json.dumps({"id": 0, "ok": about}) + "\n")
    out.flush()
    bridge = Bridge(benchmark, out)
    with ThreadPoolExecutor(max_workers=THREADS) as threads:
        for line in lines:
            if line.strip():
                threads.submit(bridge.answer, line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
