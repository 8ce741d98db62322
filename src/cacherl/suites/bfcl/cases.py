"""BFCL's multi-turn tasks as its files have them: four categories of 200, with gold."""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from cacherl.cache.identity.canonical import canonical_json
from cacherl.core.errors import DataError
from cacherl.core.messages import ToolCall
from cacherl.core.parameters import parameters_of
from cacherl.core.records import JsonObject
from cacherl.core.tasks import Split
from cacherl.core.tools import ToolSpec
from cacherl.suites.bfcl.effects import EFFECTS
from cacherl.suites.bfcl.wheel import BACKENDS, lines

CATEGORIES = ("base", "miss_func", "miss_param", "long_context")
"""One set of 200 questions in four costumes: scores of two of them are not independent."""

MORE_TOOLS = "I have updated some more functions you can choose from. What about now?"
"""What the user says where held-back tools are revealed. Source: `constants/default_prompts.py`,
`DEFAULT_USER_PROMPT_FOR_ADDITIONAL_FUNCTION_FC`."""

_HINT = " Note that the provided function is in Python 3 syntax."
"""What their loader adds to each description. Source: `utils.py`, `_get_language_specific_hint`."""

_WIDER: Mapping[str, JsonObject] = {
    "close_ticket": {
        "ticket_id": {
            "type": ["integer", "string"],
            "description": "ID of the ticket to be closed.",
        }
    }
}
"""Parameters that gold fills with what their documentation rules out: the tickets of question 173 are
called `ticket_001`, documented are integers. Their runner checks no types; the agent loop does."""


class _Said(msgspec.Struct):
    role: str
    content: str


class _Question(msgspec.Struct):
    id: str
    question: list[list[_Said]]
    initial_config: dict[str, Any]
    involved_classes: list[str]
    missed_function: dict[str, list[str]] = {}


class _Answer(msgspec.Struct):
    id: str
    ground_truth: list[list[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One task."""

    id: str
    category: str
    number: int
    """0 to 199; the same question stands behind one number in all categories."""
    classes: tuple[str, ...]
    """The backends involved."""
    initial: Mapping[str, Any]
    """Class -> its initial state."""
    user_turns: tuple[str, ...]
    gold: tuple[tuple[ToolCall, ...], ...]
    """By user turn; empty where the agent should not be able to act."""
    late: Mapping[str, int]
    """Tool -> the user turn that reveals it."""

    @property
    def split(self) -> Split:
        """Which split: by the number, so that no costume of a test question is trained on."""
        return {4: Split.TEST, 3: Split.DEV}.get(self.number % 5, Split.TRAIN)

    @property
    def is_long(self) -> bool:
        """Whether backends pad their state and answers."""
        return self.category == "long_context"

    @property
    def scenario(self) -> str:
        """The initial state, by digest: tasks that start alike share it."""
        state = [self.is_long, {name: self.initial.get(name) for name in self.classes}]
        return "bfcl-" + hashlib.blake2b(canonical_json(state), digest_size=8).hexdigest()

    @property
    def asked(self) -> tuple[str, ...]:
        """The words of the question, without the costume's fixed sentence."""
        return tuple(turn for turn in self.user_turns if turn != MORE_TOOLS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cases:
    """All of them, and the tools."""

    by_id: Mapping[str, Case]
    """In the order of the files, category after category."""
    specs: Mapping[str, ToolSpec]
    """By name."""
    class_of: Mapping[str, str]
    """Tool -> its backend."""

    def tools(self, case: Case) -> tuple[ToolSpec, ...]:
        """Return every tool of the case, late ones included, in the order their runner shows them."""
        names = [
            name for each in case.classes for name, owner in self.class_of.items() if owner == each
        ]
        # Their runner takes a late tool out and appends it when it is revealed.
        names.sort(key=lambda name: case.late.get(name, 0))
        return tuple(self.specs[name] for name in names)


@functools.cache
def read_cases(wheel: Path) -> Cases:
    """Read the wheel's multi-turn files.

    Raises:
        DataError: it is another wheel.
    """
    specs: dict[str, ToolSpec] = {}
    class_of: dict[str, str] = {}
    for class_name, doc in BACKENDS.items():
        for row in lines(wheel, f"multi_turn_func_doc/{doc}.json"):
            name = row["name"]
            class_of[name] = class_name
            parameters = parameters_of(row["parameters"])
            if name in _WIDER:
                parameters["properties"] |= _WIDER[name]
            specs[name] = ToolSpec(
                name=name,
                description=row["description"] + _HINT,
                parameters=parameters,
                effects=EFFECTS[name],
            )
    by_id: dict[str, Case] = {}
    for category in CATEGORIES:
        file = f"BFCL_v4_multi_turn_{category}.json"
        questions = msgspec.convert(lines(wheel, file), list[_Question])
        answers = msgspec.convert(lines(wheel, f"possible_answer/{file}"), list[_Answer])
        for question, answer in zip(questions, answers, strict=True):
            by_id[question.id] = _case(category, question, answer, specs)
    return Cases(by_id=by_id, specs=specs, class_of=class_of)


def _case(
    category: str, question: _Question, answer: _Answer, specs: Mapping[str, ToolSpec]
) -> Case:
    late = {name: int(turn) for turn, names in question.missed_function.items() for name in names}
    texts: list[str] = []
    for place, turn in enumerate(question.question):
        if len(turn) > 1 or any(said.role != "user" for said in turn):
            raise DataError(f"{question.id}: turn {place} is not one message of the user.")
        texts.append(turn[0].content if turn else MORE_TOOLS)
    counter = iter(range(10_000))
    return Case(
        id=question.id,
        category=category,
        number=int(question.id.rsplit("_", 1)[1]),
        classes=tuple(question.involved_classes),
        initial=question.initial_config,
        user_turns=tuple(texts),
        gold=tuple(
            tuple(gold_call(text, specs, f"call_{next(counter)}") for text in turn)
            for turn in answer.ground_truth
        ),
        late=late,
    )


def gold_call(text: str, specs: Mapping[str, ToolSpec], id_: str) -> ToolCall:
    """Return the call that a line of Python says. Its values must be literals: nothing is evaluated.

    Positional arguments get the names of the documented parameters, in their order.

    Raises:
        DataError: it is something else than one plain call of a documented tool.
    """
    try:
        call = ast.parse(text, mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise ValueError("not a plain call")
        names: Sequence[str] = list(specs[call.func.id].parameters.get("properties", {}))
        if len(call.args) > len(names):
            raise ValueError(f"{len(call.args)} arguments, {len(names)} parameters")
        arguments: JsonObject = {
            name: _value(value) for name, value in zip(names, call.args, strict=False)
        }
        for word in call.keywords:
            if word.arg is None:
                raise ValueError("** in a call")
            arguments[word.arg] = _value(word.value)
    except (SyntaxError, ValueError, KeyError) as error:
        raise DataError(f"{text!r} is no call of a documented tool ({error}).") from error
    return ToolCall(id=id_, name=call.func.id, arguments=arguments)


def _value(node: ast.expr) -> Any:
    # Through JSON, as a model's arguments come: a tuple becomes a list.
    return msgspec.json.decode(msgspec.json.encode(ast.literal_eval(node)))
