"""tau-bench v1 result files: conversations of a model with real, stateful shop and airline tools.

A file is one JSON array; an element holds `task_id`, `trial`, `reward`, `info` and `traj`, OpenAI
chat messages with `tool_calls` and `tool` results. It declares no tools, so their argument names
and types are inferred from all its calls (which takes reading the file twice), and the effects of the
airline's tools are declared here, by hand.

Source: sierra-research/tau-bench, `historical_trajectories/` and `tau_bench/envs/airline/tools`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cacherl.core.errors import DataError
from cacherl.core.messages import Call, ToolCall
from cacherl.core.records import JsonObject
from cacherl.core.tasks import AnswerRule, Gold, GoldCall, Split
from cacherl.core.tools import UNDECLARED, Effects, ErrorClass, ToolSpec
from cacherl.core.trajectories import StopReason
from cacherl.formats.conversation import Builder, Conversation, call_of
from cacherl.formats.format import Format, Reading
from cacherl.formats.inferred import CallsSeen
from cacherl.formats.rows import Row, Skipped, Unreadable, bare_name, rows_of
from cacherl.formats.written_values import a_count, a_list, a_text, an_object

NAME = "tau-bench"
LICENCE = "MIT"
NAMESPACE = "tau-airline"
RETAIL = "tau-retail"

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

AIRLINE_ONLY = AIRLINE_EFFECTS.keys() - {
    "get_user_details",
    "calculate",
    "think",
    "transfer_to_human_agents",
}
"""Tools by which an airline's file is told from a shop's."""

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
) -> Iterator[Conversation]:
    """Yield every conversation of a tau-bench result file, in order, or none at all.

    `read_file` for a file that must be whole: the first record that cannot be read is an error.

    Args:
        path: the file.
        split: who may look at its tasks and answers.
        namespace: whose tools these are.

    Raises:
        DataError: the file is missing or is no such file; the message names record and field.
    """

    def refuse(skipped: Skipped) -> None:
        field = f": {skipped.field}" if skipped.field else ""
        raise DataError(f"{skipped.where}{field}: {skipped.problem}. Fix or remove the record.")

    yielded = False
    reading = Reading(namespace=namespace, split=split, on_skip=refuse)
    for conversation in read_file(path, reading):
        yielded = True
        yield conversation
    if not yielded:
        raise DataError(f"{path}: holds no conversation. Choose another --format.")


def read_file(path: Path, reading: Reading) -> Iterator[Conversation]:
    """Yield the file's conversations.

    The trial becomes the trajectory's rollout, the task id the scenario: every conversation starts
    from the same database, so other scenarios' answers are as good as one's own.
    """
    seen = CallsSeen()
    for row in rows_of(path):
        try:
            for call in _Record(row).calls():
                seen.add(call)
        except Unreadable:
            continue  # told below
    is_airline = not seen.names() or not AIRLINE_ONLY.isdisjoint(seen.names())
    # A namespace given by the user stays; our own says airline, which a shop is not.
    is_default = reading.namespace == NAMESPACE
    namespace = RETAIL if is_default and not is_airline else reading.namespace
    reading = replace(reading, namespace=namespace)
    tools = _tools(seen, is_airline=is_airline)
    for number, row in enumerate(rows_of(path, on_skip=reading.on_skip)):
        try:
            yield _Record(row).conversation(
                tools, "airline" if is_airline else "retail", reading, path, number
            )
        except Unreadable as error:
            reading.skip(row.where, error.field, error.problem)


class _Record:
    """One element of the file; every complaint names the field."""

    def __init__(self, row: Row) -> None:
        self._row = row
        self._record = an_object(row.value(), "")
        said = self._record.get("task_id")
        if not isinstance(said, int | str) or isinstance(said, bool):
            raise Unreadable("task_id", "missing" if said is None else "neither number nor text")
        self.task_id = str(said)
        self._turns = [
            an_object(turn, f"traj[{place}]")
            for place, turn in enumerate(a_list(self._record.get("traj"), "traj"))
        ]

    def calls(self) -> list[ToolCall]:
        """Return the well-formed calls in order."""
        return [
            call
            for place, turn in enumerate(self._turns)
            if turn.get("role") == "assistant"
            for call in _calls(turn, place)
            if isinstance(call, ToolCall)
        ]

    def conversation(
        self, tools: tuple[ToolSpec, ...], family: str, reading: Reading, path: Path, number: int
    ) -> Conversation:
        """Return what was asked and what happened."""
        builder = Builder(self._row, format_name=NAME, namespace=reading.namespace)
        open_ids: Counter[str] = Counter()
        last_calls: list[Call] | None = None
        for place, turn in enumerate(self._turns):
            here, role = f"traj[{place}]", turn.get("role")
            if role not in ("assistant", "tool", "user", "system"):
                raise Unreadable(f"{here}.role", f"unknown role {role!r}")
            content = a_text(turn.get("content"), f"{here}.content")
            if role == "assistant":
                last_calls = _calls(turn, place)
                open_ids.update(call.id for call in last_calls)
                builder.assistant(content, calls=last_calls)
            elif role == "user":
                builder.user(content)
            elif role == "system":
                builder.system(content)
            else:
                self._answer(turn, content, here, builder, open_ids)
        trial, reward = self._record.get("trial"), self._record.get("reward")
        return builder.build(
            task_id=f"{reading.namespace}-{self.task_id}",
            tools=tools,
            family=family,
            language="en",
            split=reading.split,
            scenario=self.task_id,
            rollout=a_count(trial),
            policy=reading.policy or bare_name(path),
            gold=self._gold(),
            # A conversation may also end in a hand-over to a person, which is a call.
            stop=StopReason.MAX_TURNS if last_calls else StopReason.ANSWER,
            notes={"licence": LICENCE, "file": path.name, "record": number, "reward": reward},
        )

    def _answer(
        self, turn: JsonObject, content: str, here: str, builder: Builder, open_ids: Counter[str]
    ) -> None:
        said = a_text(turn.get("tool_call_id"), f"{here}.tool_call_id")
        if said and not open_ids[said]:
            raise Unreadable(f"{here}.tool_call_id", f"answers no open call ({said!r})")
        open_ids[said] -= 1
        failed = content.startswith(_ERROR)
        builder.result(
            content,
            call_id=said,
            is_error=failed,
            error_class=_error_class(content) if failed else None,
        )

    def _gold(self) -> Gold | None:
        info = an_object(self._record.get("info") or {}, "info")
        asked = an_object(info.get("task") or {}, "info.task")
        if asked.get("actions") is None:
            return None
        calls = []
        for number, each in enumerate(a_list(asked["actions"], "info.task.actions")):
            field = f"info.task.actions[{number}]"
            action = an_object(each, field)
            name = a_text(action.get("name"), f"{field}.name")
            if not name:
                raise Unreadable(f"{field}.name", "missing")
            arguments = an_object(action.get("kwargs"), f"{field}.kwargs")
            calls.append(GoldCall(name=name, arguments=arguments, step=number))
        outputs = a_list(asked.get("outputs") or [], "info.task.outputs")
        verdict = info.get("reward_info")
        details = verdict.get("info") if isinstance(verdict, dict) else None
        state = details.get("gt_data_hash") if isinstance(details, dict) else None
        return Gold(
            calls=tuple(calls),
            answer=AnswerRule(must=tuple((str(output),) for output in outputs)),
            state=str(state or ""),
        )


def _calls(turn: JsonObject, place: int) -> list[Call]:
    field = f"traj[{place}].tool_calls"
    return [
        _call(each, f"{field}[{number}]", f"call_{place}.{number}")
        for number, each in enumerate(a_list(turn.get("tool_calls") or [], field))
    ]


def _call(value: Any, field: str, fallback: str) -> Call:
    call = an_object(value, field)
    function = an_object(call.get("function"), f"{field}.function")
    name = a_text(function.get("name"), f"{field}.function.name")
    number = a_text(call.get("id"), f"{field}.id")
    return call_of(name, function.get("arguments"), id=number or fallback)


def _error_class(text: str) -> ErrorClass:
    lower = text.lower()
    return next((kind for words, kind in _ERROR_WORDS if words in lower), ErrorClass.UNKNOWN)


def _tools(seen: CallsSeen, *, is_airline: bool) -> tuple[ToolSpec, ...]:
    """Return the declared airline tools and whatever else was called, by name."""
    effects = AIRLINE_EFFECTS if is_airline else {}
    return tuple(
        ToolSpec(
            name=name,
            description=f"{name.replace('_', ' ').capitalize()} (argument types seen in recordings).",
            parameters=seen.parameters(name, _KINDS),
            effects=effects.get(name, UNDECLARED),
        )
        for name in sorted({*effects, *seen.names()})
    )


def _sniff(value: Any) -> bool:
    return bool({"task_id", "traj", "reward"} <= value.keys())


TAU_BENCH = Format(
    name=NAME,
    title="tau-bench v1 result files: airline and retail",
    licence=LICENCE,
    read_file=read_file,
    sniff=_sniff,
    trials=True,
    namespace=NAMESPACE,
)
