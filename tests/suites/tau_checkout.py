"""Stand-ins for checkouts of tau-bench and tau2-bench: their entry points over a small library of our own.

Both lend books: `find_book` reads, `lend_book` writes, `transfer_to_human_agents` ends. In the second one a reader
has tools too: `press_button` opens the door that `lend_book` needs.
"""

from __future__ import annotations

from pathlib import Path

# ---- tau-bench ---------------------------------------------------------------------------------

V1_ENVS = """
def get_env(env_name, user_strategy, user_model, task_split, user_provider=None, task_index=None):
    print("a benchmark that prints to stdout")
    if env_name != "library":
        raise ValueError(f"Unknown environment: {env_name}")
    from tau_bench.envs.library import Library
    return Library(user_strategy, user_model, user_provider, task_split)
"""
V1_TYPES = """
RESPOND_ACTION_NAME = "respond"

class Action:
    def __init__(self, name, kwargs):
        self.name, self.kwargs = name, kwargs

class Task:
    def __init__(self, instruction, actions, outputs):
        self.instruction, self.actions, self.outputs = instruction, actions, outputs
"""
V1_BASE = '''
import hashlib, json
from types import SimpleNamespace as Thing
from tau_bench.types import RESPOND_ACTION_NAME, Action

class Model:
    """A user model that speaks by script; the name `dead` is a model nobody reaches."""

    def __init__(self, model):
        self.model, self.turn = model, 0

    def reset(self, instruction=None):
        self.turn = 0
        return self.step("")

    def step(self, content):
        if self.model == "dead":
            raise ConnectionError("no route to the user's model")
        self.turn += 1
        return ["I want Dune.", "Yes, do."][self.turn - 1] if self.turn <= 2 else "###STOP###"

    def get_total_cost(self):
        return 0.0

class Env:
    def __init__(self, load, tools, tasks, wiki, user_strategy, user_model, user_provider):
        self.data_load_func, self.tasks, self.wiki = load, tasks, wiki
        self.data = load()
        self.tools_map = {tool.get_info()["function"]["name"]: tool for tool in tools}
        self.tools_info = [tool.get_info() for tool in tools]
        self.terminate_tools = []
        self.task, self.actions = tasks[0], []
        self.user = None if user_strategy == "human" else Model(user_model)

    def reset(self, task_index=None):
        self.data, self.task, self.actions = self.data_load_func(), self.tasks[task_index], []
        return Thing(observation=self.user.reset(instruction=self.task.instruction))

    def step(self, action):
        self.actions.append(action)
        done = False
        if action.name == RESPOND_ACTION_NAME:
            observation = self.user.step(action.kwargs["content"])
            done = "###STOP###" in observation
        elif action.name in self.tools_map:
            try:
                observation = self.tools_map[action.name].invoke(data=self.data, **action.kwargs)
            except Exception as error:
                observation = f"Error: {error}"
            done = action.name in self.terminate_tools
        else:
            observation = f"Unknown action {action.name}"
        return Thing(observation=observation, done=done, reward=self.calculate_reward().reward if done else 0)

    def get_data_hash(self):
        return hashlib.sha256(json.dumps(self.data, sort_keys=True).encode()).hexdigest()

    def calculate_reward(self):
        made = self.get_data_hash()
        self.data = self.data_load_func()
        said = [a.kwargs["content"] for a in self.actions if a.name == RESPOND_ACTION_NAME]
        for action in self.task.actions:
            if action.name not in self.terminate_tools:
                self.step(action)
        right = made == self.get_data_hash()
        reward = 1.0 if right else 0.0
        info = Thing(r_actions=float(right))
        if self.task.outputs:
            found = {o: any(o.lower() in s.lower().replace(",", "") for s in said) for o in self.task.outputs}
            info = Thing(r_outputs=float(all(found.values())), outputs=found)
            reward *= info.r_outputs
        return Thing(reward=reward, info=info)
'''
V1_LIBRARY = """
from tau_bench.envs.base import Env
from tau_bench.types import Action, Task

def load():
    return {"Dune": "in", "Emma": "in", "Ulysses": "out"}

def tool(name, parameters, run):
    class Tool:
        @staticmethod
        def get_info():
            properties = {each: {"type": "string"} for each in parameters}
            return {"type": "function", "function": {"name": name, "description": name,
                "parameters": {"type": "object", "properties": properties, "required": parameters}}}
        invoke = staticmethod(run)
    return Tool

def find(data, title):
    if title not in data:
        raise KeyError(f"book {title} not found")
    return data[title]

def lend(data, title):
    if data.get(title) != "in":
        return "Error: not available"
    data[title] = "out"
    return "lent"

TOOLS = [tool("find_book", ["title"], find), tool("lend_book", ["title"], lend),
         tool("transfer_to_human_agents", ["summary"], lambda data, summary: "Transfer successful")]
TASKS = [
    Task("You want Dune.", [Action("find_book", {"title": "Dune"}), Action("lend_book", {"title": "Dune"})], []),
    Task("You want Ulysses, which is out. Give up then.", [Action("find_book", {"title": "Ulysses"})], []),
    Task("You want to know how many of Dune and Emma are in.", [], ["2"]),
    Task("You want a manager.", [Action("transfer_to_human_agents", {"summary": "angry"})], []),
    Task("You want Emma, and its year.", [Action("lend_book", {"title": "Emma"})], ["1815"]),
]

class Library(Env):
    def __init__(self, user_strategy, user_model, user_provider, task_split):
        assert task_split == "test"
        super().__init__(load, TOOLS, TASKS, "Lend what is in.", user_strategy, user_model, user_provider)
        self.terminate_tools = ["transfer_to_human_agents"]
"""


def build_v1(folder: Path, *, more: int = 0) -> Path:
    """Write the stand-in of tau-bench and return its folder.

    Args:
        folder: where to.
        more: this many tasks that nothing but a write solves, in place of the five.
    """
    envs = folder / "tau_bench" / "envs"
    envs.mkdir(parents=True)
    (folder / "tau_bench" / "__init__.py").write_text("")
    (folder / "tau_bench" / "types.py").write_text(V1_TYPES)
    (envs / "__init__.py").write_text(V1_ENVS)
    (envs / "base.py").write_text(V1_BASE)
    library = V1_LIBRARY
    if more:
        library = library.replace(
            'return {"Dune"', f'return {{**{{f"Book {{n}}": "in" for n in range({more})}}, "Dune"'
        ).replace(
            "class Library",
            f'TASKS = [Task(f"You want book {{n}}.", [Action("lend_book", {{"title": f"Book {{n}}"}})], [])\n'
            f"         for n in range({more})]\n\nclass Library",
        )
    (envs / "library.py").write_text(library)
    return folder


# ---- tau2-bench --------------------------------------------------------------------------------

V2_MESSAGE = """
class ToolCall:
    def __init__(self, name, arguments, id="", requestor="assistant"):
        self.id, self.name, self.arguments, self.requestor = id, name, arguments, requestor

class _Message:
    def __init__(self, role, content=None, tool_calls=None):
        self.role, self.content, self.tool_calls = role, content, tool_calls
    def is_tool_call(self):
        return self.tool_calls is not None

class AssistantMessage(_Message): pass
class UserMessage(_Message): pass

class ToolMessage:
    def __init__(self, id, content, role, requestor="assistant", error=False):
        self.id, self.content, self.role, self.requestor, self.error = id, content, role, requestor, error

class MultiToolMessage:
    def __init__(self, role, tool_messages):
        self.role, self.tool_messages = role, tool_messages
"""
V2_SIMULATION = """
from enum import Enum

class TerminationReason(str, Enum):
    USER_STOP = "user_stop"
    AGENT_STOP = "agent_stop"
    MAX_STEPS = "max_steps"

class SimulationRun:
    def __init__(self, id, task_id, start_time, end_time, duration, termination_reason, messages):
        self.task_id, self.termination_reason, self.messages = task_id, termination_reason, messages
"""
V2_REGISTRY = """
import json
from enum import Enum
from types import SimpleNamespace as Thing
from tau2.data_model.message import AssistantMessage, MultiToolMessage, ToolCall, ToolMessage, UserMessage

class RewardType(str, Enum):
    DB = "DB"
    COMMUNICATE = "COMMUNICATE"
    ENV_ASSERTION = "ENV_ASSERTION"

class Tool:
    def __init__(self, name, parameters):
        properties = {each: {"type": "string"} for each in parameters}
        self.name = name
        self.openai_schema = {"type": "function", "function": {"name": name, "description": name,
            "parameters": {"type": "object", "properties": properties, "required": parameters}}}

class Environment:
    def __init__(self, solo_mode=False):
        self.solo_mode, self.user_tools = solo_mode, object()
        self.db, self.user_db = {"Dune": "in", "Emma": "in"}, {"door": "shut"}

    def get_policy(self):
        return "Lend what is in. {Alone}" if self.solo_mode else "Lend what is in."

    def get_tools(self):
        return [Tool("find_book", ["title"]), Tool("lend_book", ["title"])]

    def get_user_tools(self):
        return [Tool("press_button", [])]

    def make_tool_call(self, tool_name, requestor="assistant", **arguments):
        if tool_name == "press_button":
            if requestor != "user" and not self.solo_mode:
                raise ValueError("only the user can")
            self.user_db["door"] = "open"
            return "it opens"
        if tool_name == "find_book":
            return self.db[arguments["title"]]
        if tool_name == "lend_book":
            if self.user_db["door"] != "open":
                raise ValueError("the door is shut")
            self.db[arguments["title"]] = "out"
            return {"lent": arguments["title"]}
        raise ValueError(f"Tool {tool_name} not found")

    def get_response(self, call):
        error = False
        try:
            content = self.make_tool_call(call.name, requestor=call.requestor, **call.arguments)
        except Exception as problem:
            content, error = f"Error: {problem}", True
        content = content if isinstance(content, str) else json.dumps(content)
        return ToolMessage(id=call.id, content=content, role="tool", requestor=call.requestor, error=error)

    def set_state(self, initialization_data, initialization_actions, message_history, strict=True):
        if self.solo_mode:
            assert not any(isinstance(m, UserMessage) for m in message_history), "no user in solo"
        for action in initialization_actions or []:
            self.user_db.update(action)
        waiting = list(message_history)
        while waiting:
            message = waiting.pop(0)
            for call in getattr(message, "tool_calls", None) or []:
                answer = waiting.pop(0)
                assert answer.id == call.id
                if self.get_response(call).content != answer.content:
                    raise ValueError("the replay differs")

    def get_db_hash(self):
        return json.dumps(self.db, sort_keys=True)

    def get_user_db_hash(self):
        return json.dumps(self.user_db, sort_keys=True)

def action(name, by="assistant", **arguments):
    return Thing(name=name, arguments=arguments, requestor=by)

def task(id, scenario, actions, *, says=(), ticket=None, basis=("DB", "COMMUNICATE"), start=None, history=None):
    return Thing(id=id, user_scenario=scenario, ticket=ticket,
        initial_state=Thing(initialization_data=None, initialization_actions=start, message_history=history),
        evaluation_criteria=Thing(actions=actions, communicate_info=list(says),
            reward_basis=[RewardType(each) for each in basis]))

TASKS = [
    task("open", "You want Dune.", [action("lend_book", title="Dune")], start=[{"door": "open"}]),
    task("shut", "You want Emma.", [action("press_button", by="user"), action("lend_book", title="Emma")],
         ticket="Reader wants Emma; the door is shut."),
    task("ask", "You want to know whether Dune is in.", [], says=["it is in"]),
    task("late", "You are half way.", [], history=[AssistantMessage("assistant", "hi")]),
]

class User:
    def __init__(self, tools, instructions, llm, llm_args):
        self.llm, self.turn = llm, 0
    def get_init_state(self):
        return []
    def generate_next_message(self, message, state):
        if self.llm == "dead":
            raise ConnectionError("no route to the user's model")
        self.turn += 1
        if self.turn == 1:
            return UserMessage("user", "I want Emma."), state
        if self.turn == 2:
            return UserMessage("user", tool_calls=[ToolCall("press_button", {}, id="u1", requestor="user")]), state
        if self.turn == 3:
            return UserMessage("user", "The door is open now."), state
        return UserMessage("user", "Thanks ###STOP###"), state

class Registry:
    def _known(self, name):
        if name != "library":
            raise KeyError(f"Domain {name} not found in registry")
    def get_env_constructor(self, name):
        self._known(name)
        return Environment
    def get_tasks_loader(self, name):
        self._known(name)
        return lambda split=None: TASKS
    def get_task_splits_loader(self, name):
        return lambda: {"train": ["ask"], "test": ["open", "shut", "late"], "base": []}
    def get_user_constructor(self, name):
        return User

registry = Registry()
print("tau2 prints too")
"""
V2_EVALUATOR = """
from enum import Enum
from types import SimpleNamespace as Thing
from tau2.data_model.message import AssistantMessage
from tau2.data_model.simulation import TerminationReason
from tau2.registry import RewardType, registry

class EvaluationType(str, Enum):
    ALL = "all"

def evaluate_simulation(simulation, task, evaluation_type, solo_mode, domain):
    if simulation.termination_reason not in (TerminationReason.USER_STOP, TerminationReason.AGENT_STOP):
        return Thing(reward=0.0, reward_breakdown=None, info={"note": "terminated prematurely"})
    criteria, make = task.evaluation_criteria, registry.get_env_constructor(domain)
    start = task.initial_state.initialization_actions
    made, gold = make(solo_mode=solo_mode), make()
    made.set_state(None, start, simulation.messages)
    gold.set_state(None, start, [])
    for each in criteria.actions:
        gold.make_tool_call(tool_name=each.name, requestor=each.requestor, **each.arguments)
    same = (made.get_db_hash(), made.get_user_db_hash()) == (gold.get_db_hash(), gold.get_user_db_hash())
    said = " ".join(m.content.lower() for m in simulation.messages if isinstance(m, AssistantMessage) and m.content)
    told = all(each.lower() in said for each in criteria.communicate_info)
    parts = {RewardType.DB: float(same), RewardType.COMMUNICATE: float(told)}
    parts = {kind: value for kind, value in parts.items() if kind in criteria.reward_basis}
    reward = 1.0
    for value in parts.values():
        reward *= value
    return Thing(reward=reward, reward_breakdown=parts, info={"env": None})
"""


def build_v2(folder: Path) -> Path:
    """Write the stand-in of tau2-bench and return its folder."""
    package = folder / "src" / "tau2"
    for name, text in {
        "__init__": "",
        "registry": V2_REGISTRY,
        "data_model/__init__": "",
        "data_model/message": V2_MESSAGE,
        "data_model/simulation": V2_SIMULATION,
        "evaluator/__init__": "",
        "evaluator/evaluator": V2_EVALUATOR,
    }.items():
        path = package / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder
