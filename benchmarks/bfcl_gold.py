"""BFCL's multi-turn gold calls, run on its real backends: a world whose answers hang on its state.

The wheel is fetched once, without its dependencies, checked, and imported as it lies. Backends are
called by name with parsed arguments; the wheel's own runner evaluates text and is not used.

Source: Berkeley Function Calling Leaderboard v4, `bfcl-eval` on PyPI, Apache-2.0.
"""

from __future__ import annotations

import ast
import copy
import hashlib
import importlib
import json
import random
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cacherl.cache.identity.canonical import canonical_json
from cacherl.core.messages import ToolCall
from cacherl.core.tools import ErrorClass, Source, Tier, ToolResult, ToolSpec

VERSION = "2026.3.23"
SHA256 = "3bb6dfa5f0c68ad403c9ec50b00db2bb3b4cc9b38ab1ff33f48fe30d853d3a0a"
_NAME = f"bfcl_eval-{VERSION}-py3-none-any.whl"
_DOCS = {
    "GorillaFileSystem": "gorilla_file_system",
    "MathAPI": "math_api",
    "MessageAPI": "message_api",
    "TwitterAPI": "posting_api",
    "TicketAPI": "ticket_api",
    "TradingBot": "trading_bot",
    "TravelAPI": "travel_booking",
    "VehicleControlAPI": "vehicle_control",
}
_MODULES = {**_DOCS, "TravelAPI": "travel_booking"}


def wheel(folder: Path) -> Path:
    """Return the wheel in `folder`, fetched from PyPI where it is not there.

    Raises:
        ValueError: what lies there is another file.
        subprocess.CalledProcessError: it could not be fetched.
    """
    path = folder / _NAME
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        asked = [f"bfcl-eval=={VERSION}", "--no-deps", "--dest", str(folder)]
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", *asked], check=True)  # noqa: S603 - our own words
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != SHA256:
        raise ValueError(f"{path}: sha256 {found}, expected {SHA256}. Delete it and run again.")
    return path


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldTask:
    """One task: where it starts and what is called."""

    number: int
    classes: tuple[str, ...]
    initial: dict[str, Any]
    calls: tuple[ToolCall, ...]

    @property
    def scenario(self) -> str:
        """The initial state, by digest: tasks that start alike share it."""
        state = {name: self.initial.get(name) for name in self.classes}
        return hashlib.blake2b(canonical_json(state), digest_size=8).hexdigest()


class Suite:
    """The gold tasks of the category `base`; the other three are the same tasks in other costumes."""

    def __init__(self, path: Path) -> None:
        """Read the wheel and put it on the import path."""
        sys.path.insert(0, str(path))
        self._zip = zipfile.ZipFile(path)
        self.class_of: dict[str, str] = {}
        self._parameters: dict[str, list[str]] = {}
        self._schemas: dict[str, tuple[str, dict[str, Any]]] = {}
        for class_name, doc in _DOCS.items():
            for row in self._lines(f"bfcl_eval/data/multi_turn_func_doc/{doc}.json"):
                self.class_of[row["name"]] = class_name
                self._parameters[row["name"]] = list(row["parameters"]["properties"])
                self._schemas[row["name"]] = (row["description"], _json_schema(row["parameters"]))

    def close(self) -> None:
        """Let go of the wheel."""
        self._zip.close()

    def spec(self, name: str) -> ToolSpec:
        """Return a tool as it is documented; it declares no effects."""
        description, parameters = self._schemas[name]
        return ToolSpec(name=name, description=description, parameters=parameters)

    def tools(self) -> list[str]:
        """Return the names of all documented tools."""
        return sorted(self.class_of)

    def tasks(self) -> Iterator[GoldTask]:
        """Yield the 200 tasks in order."""
        questions = self._lines("bfcl_eval/data/BFCL_v4_multi_turn_base.json")
        answers = self._lines("bfcl_eval/data/possible_answer/BFCL_v4_multi_turn_base.json")
        for question, answer in zip(questions, answers, strict=True):
            texts = [text for turn in answer["ground_truth"] for text in turn]
            yield GoldTask(
                number=int(question["id"].rsplit("_", 1)[1]),
                classes=tuple(question["involved_classes"]),
                initial=question["initial_config"],
                calls=tuple(self._call(text, place) for place, text in enumerate(texts)),
            )

    def _call(self, text: str, place: int) -> ToolCall:
        call = ast.parse(text, mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise ValueError(f"not a plain call: {text}")
        names = self._parameters[call.func.id]
        values = [ast.literal_eval(value) for value in call.args]
        arguments = dict(zip(names, values, strict=False))
        arguments |= {word.arg or "": ast.literal_eval(word.value) for word in call.keywords}
        return ToolCall(id=f"c{place}", name=call.func.id, arguments=arguments)

    def _lines(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._zip.read(name).decode().splitlines() if line]


class Backends:
    """Fresh backends of one task."""

    def __init__(self, suite: Suite, task: GoldTask) -> None:
        """Start them in the task's initial state."""
        self._suite = suite
        self._made = {}
        for name in task.classes:
            where = "bfcl_eval.eval_checker.multi_turn_eval.func_source_code."
            made = getattr(importlib.import_module(where + _MODULES[name]), name)()
            if name != "MathAPI":
                made._load_scenario(copy.deepcopy(task.initial.get(name, {})))
            self._made[name] = made

    def has(self, call: ToolCall) -> bool:
        """Say whether the task offers the tool."""
        return self._suite.class_of.get(call.name) in self._made

    def call(self, call: ToolCall) -> ToolResult:
        """Run one call for real; the text is what BFCL's own runner shows."""
        made = self._made[self._suite.class_of[call.name]]
        try:
            # A copy: post_tweet goes on appending to the list of mentions that it was handed.
            said = getattr(made, call.name)(**copy.deepcopy(call.arguments))
        except Exception as error:  # noqa: BLE001 - any exception of the backend is its answer
            text, failed = f"Error during execution: {error}", True
        else:
            text = said if isinstance(said, str) else _shown(said)
            failed = isinstance(said, dict) and "error" in said
        return ToolResult(
            call_id=call.id,
            name=call.name,
            text=text,
            is_error=failed,
            error_class=ErrorClass.UNKNOWN if failed else None,
            tier=Tier.LIVE,
            source=Source.LIVE,
        )

    def state(self, class_name: str) -> bytes:
        """Return a digest of everything one backend holds, private parts and its dice included."""
        return hashlib.blake2b(
            repr(_plain(vars(self._made[class_name]), {})).encode(), digest_size=16
        ).digest()


def _shown(said: Any) -> str:
    if isinstance(said, dict):
        try:
            return json.dumps(said)
        except TypeError:
            return str(said)
    return str(said)


def _plain(value: Any, seen: dict[int, int]) -> Any:
    """Return a value as nested tuples that print alike for equal states; cycles become back references."""
    if isinstance(value, random.Random):
        return ("dice", value.getstate())
    if isinstance(value, str | int | float | bool | None):
        return value
    if id(value) in seen:
        return ("again", seen[id(value)])
    seen[id(value)] = len(seen)
    if isinstance(value, dict):
        return tuple((repr(name), _plain(member, seen)) for name, member in value.items())
    if isinstance(value, list | tuple):
        return tuple(_plain(member, seen) for member in value)
    if isinstance(value, set | frozenset):
        return tuple(sorted(repr(member) for member in value))
    return (type(value).__name__, _plain(getattr(value, "__dict__", {}), seen))


def _json_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """Return BFCL's dialect (`dict`, `float`) as JSON Schema."""
    named = {"dict": "object", "float": "number", "tuple": "array"}
    out: dict[str, Any] = {}
    for name, value in schema.items():
        if name == "type" and isinstance(value, str):
            out[name] = named.get(value, value)
        elif isinstance(value, dict):
            out[name] = (
                {key: _json_schema(member) for key, member in value.items()}
                if name == "properties"
                else _json_schema(value)
            )
        elif name != "default" or value is not None:
            out[name] = value
    return out
