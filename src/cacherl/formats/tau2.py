"""tau2-bench result files: an agent and a simulated user who both have tools.

A file is one JSON object: `info` (domain, policy, agent, perhaps tool definitions), `tasks`, and `simulations`
with `messages`, `reward_info`, `termination_reason`, `trial`. Assistant messages hold `tool_calls` of
`{id, name, arguments, requestor}`; tool messages `{id, content, error, requestor}`, or several of them under
`tool_messages`.

What the agent never saw stays out: tool calls of the simulated user and their results (the note
`user_tool_calls` counts them), and the stop words by which the user ends a conversation. The greeting that
the orchestrator speaks in the agent's name before anyone asked is no turn of the model: note
`greeting`. Voice runs hold `ticks` instead of messages and are skipped.

Source: sierra-research/tau2-bench (MIT), src/tau2/data_model/{message,simulation,tasks}.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cacherl.core.messages import Call, ToolCall
from cacherl.core.records import JsonObject
from cacherl.core.tasks import AnswerRule, Gold, GoldCall
from cacherl.core.tools import ToolSpec
from cacherl.core.trajectories import StopReason
from cacherl.formats.conversation import Builder, Conversation, call_of
from cacherl.formats.declarations import spec_of
from cacherl.formats.format import Format, Reading
from cacherl.formats.inferred import CallsSeen
from cacherl.formats.rows import Row, Unreadable, bare_name, rows_of, sample_of
from cacherl.formats.written_calls import thought_apart
from cacherl.formats.written_values import a_count, a_list, a_text, an_object
from cacherl.toolbox.mcp_results import error_class_of

NAME = "tau2-bench"
LICENCE = "MIT"
ROWS = "simulations"

_STOP_WORDS = ("###STOP###", "###TRANSFER###", "###OUT-OF-SCOPE###")
_STOPS: Mapping[str, StopReason] = {
    "max_steps": StopReason.MAX_TURNS,
    "too_many_errors": StopReason.MAX_TURNS,
    "context_window_exceeded": StopReason.CONTEXT_FULL,
    "agent_error": StopReason.MODEL_FAILED,
    "timeout": StopReason.MODEL_FAILED,
    "infrastructure_error": StopReason.MODEL_FAILED,
    "unexpected_error": StopReason.MODEL_FAILED,
}


def read_file(path: Path, reading: Reading) -> Iterator[Conversation]:
    """Yield the file's conversations. Where it declares no tools, they are inferred from all its calls."""
    info = _info(path)
    tasks = _tasks(path)
    tools = _declared(info)
    seen = CallsSeen()
    if not tools:
        for row in rows_of(path, under=ROWS):
            try:
                for call in _agent_calls(an_object(row.value(), "")):
                    seen.add(call)
            except Unreadable:
                continue  # told below
        tools = [
            ToolSpec(name=name, description="", parameters=seen.parameters(name))
            for name in sorted(seen.names())
        ]
    for row in rows_of(path, under=ROWS, on_skip=reading.on_skip):
        try:
            yield _conversation(row, reading, info, tasks, tools, path)
        except Unreadable as error:
            reading.skip(row.where, error.field, error.problem)


def _info(path: Path) -> JsonObject:
    """Return what the file says of the run; it stands before the simulations."""
    brief = sample_of(path)
    info = brief.get("info") if isinstance(brief, dict) else None
    return info if isinstance(info, dict) else {}


def _at(value: Any, *steps: str) -> Any:
    for step in steps:
        value = value.get(step) if isinstance(value, dict) else None
    return value


def _tasks(path: Path) -> dict[str, JsonObject]:
    """Return the tasks' criteria by task id: what makes gold, and nothing else of them."""
    tasks: dict[str, JsonObject] = {}
    for row in rows_of(path, under="tasks"):
        try:
            value = row.value()
        except Unreadable:
            continue
        criteria = _at(value, "evaluation_criteria")
        if isinstance(criteria, dict):
            tasks[str(value.get("id"))] = criteria
    return tasks


def _declared(info: JsonObject) -> list[ToolSpec]:
    """Return the tools that the run's environment declares, if it does."""
    definitions = _at(info, "environment_info", "tool_defs")
    specs = []
    for name, each in definitions.items() if isinstance(definitions, dict) else ():
        about = each if isinstance(each, dict) else {}
        said = about.get("params", about.get("parameters"))
        try:
            spec = spec_of(
                {
                    "name": name,
                    "description": about.get("doc", about.get("description")),
                    "parameters": said,
                },
                "info.environment_info.tool_defs",
            )
        except Unreadable:
            continue
        specs.append(spec)
    return specs


def _messages(simulation: JsonObject) -> Iterator[tuple[str, JsonObject]]:
    """Yield the messages with their fields, bundles of tool messages opened."""
    if simulation.get("messages") is None and simulation.get("ticks") is not None:
        raise Unreadable("ticks", "a voice run, which has no turns")
    for place, each in enumerate(a_list(simulation.get("messages"), "messages")):
        field = f"messages[{place}]"
        message = an_object(each, field)
        if message.get("tool_messages") is None:
            yield field, message
            continue
        inner = f"{field}.tool_messages"
        for number, part in enumerate(a_list(message["tool_messages"], inner)):
            yield f"{inner}[{number}]", an_object(part, f"{inner}[{number}]")


def _agent_calls(simulation: JsonObject) -> Iterator[ToolCall]:
    for field, message in _messages(simulation):
        if message.get("role") == "assistant":
            calls, _ = _calls(message, field)
            yield from (call for call in calls if isinstance(call, ToolCall))


def _calls(message: JsonObject, field: str) -> tuple[list[Call], int]:
    """Return the calls that the assistant made, and how many of the message are the user's."""
    here = f"{field}.tool_calls"
    calls: list[Call] = []
    of_user = 0
    for place, each in enumerate(a_list(message.get("tool_calls") or [], here)):
        call = an_object(each, f"{here}[{place}]")
        if _is_users(call, message):
            of_user += 1
            continue
        number = a_text(call.get("id"), f"{here}[{place}].id")
        calls.append(call_of(call.get("name"), call.get("arguments"), id=number))
    return calls, of_user


def _is_users(part: JsonObject, message: JsonObject) -> bool:
    requestor = part.get("requestor")
    return requestor == "user" or (requestor is None and message.get("role") == "user")


def _conversation(
    row: Row,
    reading: Reading,
    info: JsonObject,
    tasks: Mapping[str, JsonObject],
    tools: list[ToolSpec],
    path: Path,
) -> Conversation:
    simulation = an_object(row.value(), "")
    said_id = simulation.get("task_id")
    if not isinstance(said_id, str | int) or isinstance(said_id, bool):
        raise Unreadable("task_id", "missing" if said_id is None else "neither number nor text")
    builder = Builder(row, format_name=NAME, namespace=reading.namespace)
    policy = _at(info, "environment_info", "policy")
    builder.system(policy if isinstance(policy, str) else "")
    notes: JsonObject = {"licence": LICENCE}
    users = 0
    asked = False
    held: str | None = None  # the user's last words, which count once somebody answers them
    for field, message in _messages(simulation):
        role = message.get("role")
        content = a_text(message.get("content"), f"{field}.content")
        calls, of_user = _calls(message, field)
        users += of_user
        if role == "user":
            held = _joined(held, content)
        elif role == "assistant":
            if not asked and held is None:
                notes["greeting"] = content
                if calls:
                    raise Unreadable(field, "a call before anyone asked anything")
                continue
            if held is not None:
                builder.user(held)
                asked, held = True, None
            thinking, rest = thought_apart(content)
            builder.assistant(rest, thinking=thinking, calls=calls)
        elif role == "tool":
            if message.get("requestor") == "user":
                continue
            failed = message.get("error") is True
            builder.result(
                content,
                call_id=a_text(message.get("id"), f"{field}.id"),
                is_error=failed,
                error_class=error_class_of(content) if failed else None,
            )
        elif role == "system":
            builder.system(content)
        else:
            raise Unreadable(f"{field}.role", f"unknown role {role!r}")
    ended = simulation.get("termination_reason")
    if held is not None and not any(word in held for word in _STOP_WORDS):
        builder.user(held)  # asked, and never answered
    if users:
        notes["user_tool_calls"] = users
    notes |= {name: simulation[name] for name in ("id", "seed") if simulation.get(name) is not None}
    notes["termination_reason"] = ended
    notes["reward"] = _at(simulation, "reward_info", "reward")
    domain, model = (
        _at(info, "environment_info", "domain_name"),
        _at(info, "agent_info", "llm"),
    )
    return builder.build(
        task_id=f"{reading.namespace}-{said_id}",
        tools=tools,
        family=domain if isinstance(domain, str) else "",
        language="en",
        split=reading.split,
        scenario=str(said_id),
        rollout=a_count(simulation.get("trial")),
        policy=model if isinstance(model, str) else reading.policy or bare_name(path),
        gold=_gold(tasks.get(str(said_id))),
        stop=_STOPS.get(ended) if isinstance(ended, str) else None,
        notes=notes,
    )


def _joined(before: str | None, text: str) -> str | None:
    """Return the user's words so far; turns that are nothing but tool calls say nothing."""
    words = [said for said in (before, text.strip()) if said]
    return "\n\n".join(words) if words else before


def _gold(criteria: JsonObject | None) -> Gold | None:
    """Return the agent's right actions and what it must tell, where the task lists them."""
    if criteria is None or not isinstance(criteria.get("actions"), list):
        return None
    calls: list[GoldCall] = []
    for action in criteria["actions"]:
        if not isinstance(action, dict) or action.get("requestor") == "user":
            continue
        name, arguments = action.get("name"), action.get("arguments")
        if not isinstance(name, str) or not isinstance(arguments, dict):
            return None
        calls.append(GoldCall(name=name, arguments=arguments, step=len(calls)))
    told = criteria.get("communicate_info")
    must = tuple((str(each),) for each in told) if isinstance(told, list) else ()
    return Gold(calls=tuple(calls), answer=AnswerRule(must=must), state="")


def _sniff(value: Any) -> bool:
    return "simulations" in value and "info" in value


TAU2_BENCH = Format(
    name=NAME,
    title="tau2-bench result files: agents and users that both have tools",
    licence=LICENCE,
    read_file=read_file,
    sniff=_sniff,
    under=ROWS,
    trials=True,
)
