"""tau-bench v1 result files: conversations of a model with real, stateful airline tools.

A file is one JSON array; an element holds `task_id`, `trial`, `reward`, `info` and `traj`, OpenAI
chat messages with `tool_calls` and `tool` results. It declares no tools, so their argument names
and types are inferred from the calls, and their effects are declared here, by hand.

Source: sierra-research/tau-bench, `historical_trajectories/` and `tau_bench/envs/airline/tools`.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cacherl.core.errors import DataError
from cacherl.core.messages import (
    AssistantMessage,
    Call,
    MalformedCall,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from cacherl.core.records import JsonObject
from cacherl.core.tasks import AnswerRule, Gold, GoldCall, Split, Task
from cacherl.core.tools import UNDECLARED, Effects, ErrorClass, Source, Tier, ToolResult, ToolSpec
from cacherl.core.trajectories import StopReason, Trajectory

NAMESPACE = "tau-airline"

_RESERVATION = "reservation:{reservation_id}"

AIRLINE_EFFECTS: Mapping[str, Effects] = {
    "get_user_details": Effects(reads=("user:{user_id}",)),
    "get_reservation_details": Effects(reads=(_RESERVATION,)),
    # No tool of the domain changes flights: booking checks the seats and does not take any.
    "search_direct_flight": Effects(reads=("flight:*",)),
    "search_onestop_flight": Effects(reads=("flight:*",)),
    "list_all_airports": Effects(),
    "calculate": Effects(),
    "think": Effects(),
    "transfer_to_human_agents": Effects(),
    "book_reservation": Effects(
        reads=("flight:*", "user:{user_id}"),
        writes=("user:{user_id}", "reservation:{result.reservation_id}"),
    ),
    # A refund is noted in the reservation; no balance changes.
    "cancel_reservation": Effects(reads=(_RESERVATION,), writes=(_RESERVATION,)),
    # They charge a gift card of the reservation's owner, whom the arguments do not name.
    "update_reservation_flights": Effects(
        reads=("flight:*", "user:*", _RESERVATION), writes=(_RESERVATION, "user:{result.user_id}")
    ),
    "update_reservation_baggages": Effects(
        reads=("user:*", _RESERVATION), writes=(_RESERVATION, "user:{result.user_id}")
    ),
    "update_reservation_passengers": Effects(reads=(_RESERVATION,), writes=(_RESERVATION,)),
    "send_certificate": Effects(reads=("user:{user_id}",), writes=("user:{user_id}",)),
}
"""What the airline tools read and write, from their source. Others count as writers of everything."""

_KINDS = {
    ("calculate", "expression"): "code",
    ("think", "thought"): "text",
    ("transfer_to_human_agents", "summary"): "text",
}
_ERROR = "Error"
_ERROR_WORDS: tuple[tuple[str, ErrorClass], ...] = (
    ("not found", ErrorClass.NOT_FOUND),
    ("invalid", ErrorClass.VALIDATION),
    ("not available", ErrorClass.PERMISSION),
    ("not enough", ErrorClass.PERMISSION),
    ("cannot", ErrorClass.PERMISSION),
    ("does not add up", ErrorClass.PERMISSION),
    ("should", ErrorClass.PERMISSION),
)


def read_tau_bench(
    path: Path, *, split: Split = Split.TRAIN, namespace: str = NAMESPACE
) -> Iterator[tuple[Task, Trajectory]]:
    """Yield every conversation of a tau-bench result file, in order.

    The trial becomes the trajectory's rollout, the task id the scenario: every conversation starts
    from the same database, so other scenarios' answers are as good as one's own.

    Args:
        path: the file.
        split: who may look at its tasks and answers.
        namespace: whose tools these are.

    Raises:
        DataError: the file is missing or is no such file; the message names record and field.
    """
    records = _records(path)
    conversations = [
        _Conversation(record, f"{path}: record {n}") for n, record in enumerate(records)
    ]
    tools = _tools([call for each in conversations for call in each.calls()])
    for number, conversation in enumerate(conversations):
        task = conversation.task(tools, split, namespace)
        yield task, conversation.trajectory(path, number)


def _records(path: Path) -> list[Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file. Check the path.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is no UTF-8. Restore the file.") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). Check the path.") from error
    try:
        records = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        where = f":{error.lineno}:{error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        raise DataError(f"{path}{where}: no JSON ({error}). Restore the file.") from error
    if not isinstance(records, list) or not records:
        raise DataError(
            f"{path}: a tau-bench file is an array of conversations, and this is not. "
            "Choose another --format."
        )
    return records


class _Conversation:
    """One element of the file, checked on construction; `where` starts every complaint."""

    def __init__(self, record: Any, where: str) -> None:
        self._where = where
        self._record: JsonObject = self._is(record, dict, "")
        self.task_id = str(self._need(self._record, "task_id", (int, str), "task_id"))
        self.trial = self._need(self._record, "trial", int, "trial", default=0)
        self.reward = self._need(self._record, "reward", (int, float), "reward", default=None)
        self._messages: list[Message] = []
        self._results: dict[str, ToolResult] = {}
        self._order: list[Call] = []
        self._said_ids: Counter[str] = Counter()
        turns = self._need(self._record, "traj", list, "traj")
        for place, turn in enumerate(turns):
            self._read(self._is(turn, dict, f"traj[{place}]"), place)

    def _fail(self, field: str, problem: str) -> DataError:
        at = f": {field}" if field else ""
        return DataError(f"{self._where}{at}: {problem}. Fix or remove the record.")

    def _is(self, value: Any, kind: Any, field: str) -> Any:
        if not isinstance(value, kind) or isinstance(value, bool):
            raise self._fail(field, f"unexpected {type(value).__name__}")
        return value

    def _need(self, holder: JsonObject, name: str, kind: Any, field: str, **default: Any) -> Any:
        if holder.get(name) is None and "default" in default:
            return default["default"]
        if name not in holder:
            raise self._fail(field, "missing")
        return self._is(holder[name], kind, field)

    def _read(self, turn: JsonObject, place: int) -> None:
        here = f"traj[{place}]"
        role = self._need(turn, "role", str, f"{here}.role")
        if role == "assistant":
            content = self._need(turn, "content", str, f"{here}.content", default="")
            calls = self._need(turn, "tool_calls", list, f"{here}.tool_calls", default=[])
            said = tuple(
                self._call(call, f"{here}.tool_calls[{number}]", f"{place}.{number}")
                for number, call in enumerate(calls)
            )
            self._order += said
            self._messages.append(AssistantMessage(content=content, calls=said))
            return
        content = self._need(turn, "content", str, f"{here}.content")
        if role == "system":
            self._messages.append(SystemMessage(content=content))
        elif role == "user":
            self._messages.append(UserMessage(content=content))
        elif role == "tool":
            self._answer(turn, content, here)
        else:
            raise self._fail(f"{here}.role", f"unknown role {role!r}")

    def _call(self, call: Any, field: str, fallback: str) -> Call:
        self._is(call, dict, field)
        function = self._need(call, "function", dict, f"{field}.function")
        name = self._need(function, "name", str, f"{field}.function.name")
        said = self._need(function, "arguments", (str, dict), f"{field}.function.arguments")
        number = self._unique(
            self._need(call, "id", str, f"{field}.id", default=f"call_{fallback}")
        )
        if isinstance(said, dict):
            return ToolCall(id=number, name=name, arguments=said)
        try:
            arguments = json.loads(said)
        except json.JSONDecodeError as error:
            return MalformedCall(id=number, text=f"{name}({said})", problem=f"no JSON: {error}")
        if not isinstance(arguments, dict):
            problem = "the arguments are no JSON object"
            return MalformedCall(id=number, text=f"{name}({said})", problem=problem)
        return ToolCall(id=number, name=name, arguments=arguments)

    def _unique(self, said: str) -> str:
        """Return the id, or for a repeated one an id of its own: gpt-4o reused ids in 49 of 200."""
        self._said_ids[said] += 1
        return said if self._said_ids[said] == 1 else f"{said}#{self._said_ids[said]}"

    def _answer(self, turn: JsonObject, content: str, here: str) -> None:
        open_calls = [call for call in self._order if call.id not in self._results]
        said = self._need(turn, "tool_call_id", str, f"{here}.tool_call_id", default=None)
        call = next((c for c in open_calls if said in (None, c.id.partition("#")[0])), None)
        if call is None:
            raise self._fail(f"{here}.tool_call_id", f"answers no open call ({said!r})")
        name = call.name if isinstance(call, ToolCall) else str(turn.get("name", ""))
        self._messages.append(ToolMessage(call_id=call.id, name=name, content=content))
        failed = content.startswith(_ERROR)
        self._results[call.id] = ToolResult(
            call_id=call.id,
            name=name,
            text=content,
            is_error=failed,
            error_class=_error_class(content) if failed else None,
            tier=Tier.LIVE,
            source=Source.IMPORTED if isinstance(call, ToolCall) else Source.LOOP,
        )

    def calls(self) -> list[ToolCall]:
        """Return the well-formed calls in order."""
        return [call for call in self._order if isinstance(call, ToolCall)]

    def task(self, tools: tuple[ToolSpec, ...], split: Split, namespace: str) -> Task:
        """Return what was asked."""
        system = next((m.content for m in self._messages if isinstance(m, SystemMessage)), "")
        users = tuple(m.content for m in self._messages if isinstance(m, UserMessage))
        return Task(
            id=f"{namespace}-{self.task_id}",
            split=split,
            family="airline",
            language="en",
            wording="tau-bench",
            scenario=self.task_id,
            namespace=namespace,
            system=system,
            user_turns=users,
            tools=tools,
            gold=self._gold(),
        )

    def _gold(self) -> Gold | None:
        info = self._need(self._record, "info", dict, "info", default={})
        asked = self._need(info, "task", dict, "info.task", default={})
        actions = self._need(asked, "actions", list, "info.task.actions", default=None)
        if actions is None:
            return None
        calls = []
        for number, action in enumerate(actions):
            field = f"info.task.actions[{number}]"
            self._is(action, dict, field)
            name = self._need(action, "name", str, f"{field}.name")
            arguments = self._need(action, "kwargs", dict, f"{field}.kwargs")
            calls.append(GoldCall(name=name, arguments=arguments, step=number))
        outputs = self._need(asked, "outputs", list, "info.task.outputs", default=[])
        verdict = info.get("reward_info")
        details = verdict.get("info") if isinstance(verdict, dict) else None
        state = details.get("gt_data_hash") if isinstance(details, dict) else None
        return Gold(
            calls=tuple(calls),
            answer=AnswerRule(must=tuple((str(output),) for output in outputs)),
            state=str(state or ""),
        )

    def trajectory(self, path: Path, number: int) -> Trajectory:
        """Return what happened, with where it was read from in its notes."""
        results = [self._results.get(call.id) or _interrupted(call) for call in self._order]
        last = next((m for m in reversed(self._messages) if isinstance(m, AssistantMessage)), None)
        answered = last is not None and not last.calls
        row = json.dumps(self._record, sort_keys=True).encode()
        return Trajectory(
            task_id=f"{NAMESPACE}-{self.task_id}",
            policy=path.stem,
            rollout=self.trial,
            messages=tuple(self._messages),
            results=tuple(results),
            # A conversation may also end in a hand-over to a person, which is a call.
            stop=StopReason.ANSWER if answered else StopReason.MAX_TURNS,
            notes={
                "format": "tau-bench",
                "file": path.name,
                "record": number,
                "row_hash": hashlib.blake2b(row, digest_size=16).hexdigest(),
                "reward": self.reward,
            },
        )


def _interrupted(call: Call) -> ToolResult:
    """Return the result of a call that the file has no answer for."""
    return ToolResult(
        call_id=call.id,
        name=call.name if isinstance(call, ToolCall) else "",
        text="",
        is_error=True,
        error_class=ErrorClass.TRANSIENT,
        tier=Tier.MISS,
        source=Source.IMPORTED,
    )


def _error_class(text: str) -> ErrorClass:
    lower = text.lower()
    return next((kind for words, kind in _ERROR_WORDS if words in lower), ErrorClass.UNKNOWN)


def _tools(calls: Sequence[ToolCall]) -> tuple[ToolSpec, ...]:
    """Return the declared airline tools and whatever else was called, by name."""
    by_name: dict[str, list[JsonObject]] = {name: [] for name in AIRLINE_EFFECTS}
    for call in calls:
        by_name.setdefault(call.name, []).append(call.arguments)
    return tuple(
        ToolSpec(
            name=name,
            description=f"{name.replace('_', ' ').capitalize()} (argument types seen in recordings).",
            parameters=_parameters(name, seen),
            effects=AIRLINE_EFFECTS.get(name, UNDECLARED),
        )
        for name, seen in sorted(by_name.items())
    )


def _parameters(tool: str, seen: Sequence[JsonObject]) -> JsonObject:
    names = sorted({name for arguments in seen for name in arguments})
    properties: JsonObject = {}
    for name in names:
        values = [arguments[name] for arguments in seen if name in arguments]
        properties[name] = _type_of(values)
        if (tool, name) in _KINDS:
            properties[name]["x-kind"] = _KINDS[tool, name]
    required = [name for name in names if all(name in arguments for arguments in seen)]
    schema: JsonObject = {"type": "object", "properties": properties, "required": required}
    if not seen:
        schema["additionalProperties"] = True  # never called: its arguments are not known
    return schema


def _type_of(values: Sequence[Any]) -> JsonObject:
    types = sorted({_json_type(value) for value in values})
    if set(types) == {"integer", "number"}:
        types = ["number"]
    schema: JsonObject = {"type": types[0] if len(types) == 1 else types}
    if types == ["array"]:
        items = [item for value in values for item in value]
        if items:
            schema["items"] = _type_of(items)
    if types == ["object"]:
        schema["properties"] = {
            name: _type_of([value[name] for value in values if name in value])
            for name in sorted({name for value in values for name in value})
        }
    return schema


def _json_type(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    for kind, name in (
        (str, "string"),
        (int, "integer"),
        (float, "number"),
        (list, "array"),
        (dict, "object"),
    ):
        if isinstance(value, kind):
            return name
    return "null"
