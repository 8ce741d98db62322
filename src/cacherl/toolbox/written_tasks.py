"""Tasks that a person wrote: one JSON object a line, a text a line, or a table.

    {"task": "Cancel order A-17 and tell me what I get back."}
    {"user": ["Where is my order?", "It is A-17."], "tools": ["get_order"], "scenario": "s1",
     "expect": {"answer": {"must": ["shipped"]}, "calls": [{"name": "get_order", ...}]}}
    {"task": "Cancel order A-17.",
     "expect": {"state": [{"name": "get_order", "arguments": {"order_id": "A-17"},
                           "contains": {"status": "cancelled"}}]}}

What a line does not say is filled in the same way every time: its id and its split come from its
text, so that a file can grow and a held-out task stays held out.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from cacherl.core.errors import DataError
from cacherl.core.jsonl import decode_line
from cacherl.core.records import JsonObject, Record
from cacherl.core.schema import argument_problem
from cacherl.core.tasks import AnswerRule, Gold, GoldCall, Split, Task
from cacherl.core.tools import ToolSpec
from cacherl.toolbox.config import did_you_mean

SYSTEM = (
    "You are a helpful assistant with tools. Call them to find out or to do what is asked; make up "
    "nothing that a tool can tell you. When you are done, answer in a few plain sentences."
)
"""What the model is told where neither the task nor the caller says otherwise."""

WRITTEN = "written"
"""Family and wording of a task that names none."""
UNDETERMINED = "und"
"""The language of a task that names none (ISO 639-2)."""

_SHARES = ((80, Split.TRAIN), (90, Split.DEV), (100, Split.TEST))
_TEXTS = ("task", "prompt", "user")


class ExpectedCall(Record, frozen=True, kw_only=True):
    """A call that a right solution makes."""

    name: str
    arguments: JsonObject = {}
    step: int | None = None
    """Calls of one step may come in any order; its place in the list unless told."""


class ExpectedAnswer(Record, frozen=True, kw_only=True):
    """What the final answer must and must not say, case-insensitively."""

    must: tuple[str | tuple[str, ...], ...] = ()
    """All of these; of a list inside, one string is enough."""
    must_not: tuple[str, ...] = ()


class ExpectedResult(Record, frozen=True, kw_only=True):
    """A call that is made once the episode is over, on its own tools, and what it must then answer.

    The model never sees it, and it must change nothing. One of `equals` and `contains` is said.
    """

    name: str
    arguments: JsonObject = {}
    equals: Any = msgspec.UNSET
    """The whole answer: JSON where the tool answers with data, else its text."""
    contains: Any = msgspec.UNSET
    """A part of it: fields of an object, items of a list, words of a text."""

    def __post_init__(self) -> None:
        if (self.equals is msgspec.UNSET) == (self.contains is msgspec.UNSET):
            raise ValueError("needs one of `equals` and `contains`, what the call must then answer")


class Expected(Record, frozen=True, kw_only=True):
    """What a right outcome is. Each part may be left out: then nothing is asked of it."""

    answer: ExpectedAnswer | str | None = None
    """A plain string must occur."""
    calls: tuple[ExpectedCall, ...] | None = None
    """An empty list says that no call is right."""
    or_calls: tuple[tuple[ExpectedCall, ...], ...] = ()
    """Other ways, each as right as `calls`."""
    state: str | tuple[ExpectedResult, ...] | None = None
    """How things must then stand, by calls that look; or the digest of a world that has one."""
    judge: bool | float = False
    """Whether a model judges the final answer; a number is the least score that passes, in [0, 1]."""

    def ways(self) -> tuple[tuple[ExpectedCall, ...], ...]:
        """Return every way that was said; none where nobody said any."""
        return (*(() if self.calls is None else (self.calls,)), *self.or_calls)


class WrittenTask(Record, frozen=True, kw_only=True):
    """One line. Exactly one of `task`, `prompt` and `user` holds what the user says."""

    task: str | None = None
    prompt: str | None = None
    user: tuple[str, ...] | None = None
    """The user's turns; each after the first is said once the model has answered."""
    id: str | None = None
    system: str | None = None
    tools: tuple[str, ...] | None = None
    """Names; all tools unless told."""
    scenario: str | None = None
    split: Split | None = None
    family: str | None = None
    language: str | None = None
    expect: Expected | None = None

    def turns(self) -> tuple[str, ...]:
        """Return what the user says.

        Raises:
            ValueError: nothing, or in two places.
        """
        said = [name for name in _TEXTS if getattr(self, name) is not None]
        if len(said) != 1:
            raise ValueError(
                f"{' and '.join(f'`{name}`' for name in said)} both say what the user wants; keep one"
                if said
                else 'nothing says what the user wants; write {"task": "..."}'
            )
        one = self.task if self.task is not None else self.prompt
        turns = self.user if one is None else (one,)
        if not turns or not all(turn.strip() for turn in turns):
            raise ValueError(f"`{said[0]}` is empty")
        return turns


def read_tasks(
    path: Path,
    *,
    namespace: str,
    tools: Sequence[ToolSpec],
    system: str = SYSTEM,
    scenario: str = "",
    language: str = UNDETERMINED,
    on_expected: Callable[[Task, Expected], None] | None = None,
) -> list[Task]:
    """Read a file of tasks: `.jsonl`, `.txt` (a task a line), or `.csv`.

    A line of JSON may also be a whole `Task` record, as cacherl writes them.

    Args:
        path: the file.
        namespace: of the tools; part of every cache key.
        tools: every tool there is.
        system: what the model is told, for tasks that do not say.
        scenario: for tasks that name none.
        language: for tasks that name none.
        on_expected: told of each task that says what is expected of it, with all that it says.

    Raises:
        DataError: the file or a line cannot be used; names the line, the field and the fix.
    """
    reading = _READERS.get(path.suffix.lower())
    if reading is None:
        raise DataError(
            f"{path}: a file of tasks is .jsonl, .txt or .csv. Rename it to what it holds."
        )
    offered = {spec.name: spec for spec in tools}
    tasks: dict[str, tuple[Task, str]] = {}
    for where, line in reading(_text_of(path), str(path)):
        if isinstance(line, WrittenTask):
            task = _task(line, where, namespace, offered, system, scenario, language)
        else:
            task = _whole(line, where, namespace, tools)
        if task.id in tasks:
            raise DataError(
                f"{where}: field `id`: {tasks[task.id][1]} has the id {task.id} too. "
                "Delete one of the two lines, or give each an `id` of its own."
            )
        tasks[task.id] = task, where
        if on_expected is not None and isinstance(line, WrittenTask) and line.expect is not None:
            on_expected(task, line.expect)
    if not tasks:
        raise DataError(f'{path}: holds no tasks. Write one a line, such as {{"task": "..."}}.')
    return [task for task, _ in tasks.values()]


def _text_of(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(
            f'{path}: no such file. Write one with a task a line, such as {{"task": "..."}}.'
        ) from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: not UTF-8. Save the file as UTF-8.") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error


# ---- a task from a line ------------------------------------------------------------------------


def _task(
    said: WrittenTask,
    where: str,
    namespace: str,
    offered: Mapping[str, ToolSpec],
    system: str,
    scenario: str,
    language: str,
) -> Task:
    try:
        turns = said.turns()
    except ValueError as error:
        raise DataError(f"{where}: {error}.") from error
    names = tuple(offered) if said.tools is None else said.tools
    expected = [] if said.expect is None else list(_calls_expected(said.expect))
    for field, name in (
        *(("tools", name) for name in names),
        *((field, call.name) for field, call in expected),
    ):
        if name not in offered:
            raise DataError(
                f"{where}: field `{field}`: there is no tool {name!r}{did_you_mean(name, offered)}. "
                "See what there is with `cacherl tools list`."
            )
    for field, call in expected:
        problem = argument_problem(offered[call.name], call.arguments)
        if problem is not None:
            properties = offered[call.name].parameters.get("properties", {})
            unknown = [name for name in call.arguments if name not in properties]
            near = did_you_mean(unknown[0], properties) if unknown else ""
            raise DataError(
                f"{where}: field `{field}`: {call.name} does not take these arguments: {problem}{near}. "
                f"See what it takes with `cacherl tools show TOOLS {call.name}`."
            )
    text = _plain("\n".join(turns))
    own = text if said.scenario is None else f"{text}\n{said.scenario}"
    return Task(
        id=said.id or f"{namespace}-{_digest(own)[:12]}",
        split=said.split or split_of(text),
        family=said.family or WRITTEN,
        language=said.language or language,
        wording=WRITTEN,
        scenario=scenario if said.scenario is None else said.scenario,
        namespace=namespace,
        system=system if said.system is None else said.system,
        user_turns=turns,
        tools=tuple(offered[name] for name in dict.fromkeys(names)),
        gold=None if said.expect is None else gold_of(said.expect),
    )


def _calls_expected(expected: Expected) -> Iterator[tuple[str, ExpectedCall | ExpectedResult]]:
    """Yield the calls, each with the field that it stands in."""
    for call in expected.calls or ():
        yield "expect.calls", call
    for way in expected.or_calls:
        yield from (("expect.or_calls", call) for call in way)
    if isinstance(expected.state, tuple):
        yield from (("expect.state", look) for look in expected.state)


def gold_of(expected: Expected) -> Gold | None:
    """Return what is expected as gold; None where nothing is.

    A part that was not written asks nothing: no calls are None, no state is empty, an empty rule asks
    nothing of the answer. Of several ways the first is gold; looks at the state and a judge's
    score are the business of the suite `own`.
    """
    answer = expected.answer
    if isinstance(answer, str):
        answer = ExpectedAnswer(must=(answer,))
    ways = expected.ways()
    state = expected.state if isinstance(expected.state, str) else ""
    if answer is None and not ways and not state:
        return None
    rule = AnswerRule()
    if answer is not None:
        must = tuple((each,) if isinstance(each, str) else each for each in answer.must)
        rule = AnswerRule(must=must, must_not=answer.must_not)
    return Gold(
        calls=tuple(
            GoldCall(
                name=call.name,
                arguments=call.arguments,
                step=place if call.step is None else call.step,
            )
            for place, call in enumerate(ways[0])
        )
        if ways
        else None,
        answer=rule,
        state=state,
    )


def split_of(text: str) -> Split:
    """Return the split of a task by its text: 80 % train, 10 % dev, 10 % test.

    Case, spacing and the other lines of the file do not count.
    """
    place = int(_digest(f"split\n{_plain(text).casefold()}")[:8], 16) % 100
    return next(split for below, split in _SHARES if place < below)


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()


def _whole(line: bytes, where: str, namespace: str, tools: Sequence[ToolSpec]) -> Task:
    task = decode_line(line, Task, where)
    if task.namespace != namespace:
        raise DataError(
            f"{where}: field `namespace`: the task is of {task.namespace!r}, the tools are "
            f"{namespace!r}. Results of two worlds must not mix: correct one of them."
        )
    return task if task.tools else msgspec.structs.replace(task, tools=tuple(tools))


# ---- lines from a file -------------------------------------------------------------------------

_Lines = Iterator[tuple[str, WrittenTask | bytes]]


def _jsonl(text: str, path: str) -> _Lines:
    """Yield written tasks, and the lines of whole `Task` records as they are."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            found = msgspec.json.decode(line)
        except msgspec.DecodeError as error:
            raise DataError(
                f'{where}: not JSON: {error}. Write one object a line, such as {{"task": "..."}}.'
            ) from error
        if not isinstance(found, dict):
            raise DataError(
                f'{where}: a {type(found).__name__}, not an object. Write {{"task": "..."}}.'
            )
        if "user_turns" in found or "_sum" in found:
            yield where, line.encode()
        else:
            yield where, _written(found, where)


def _written(found: JsonObject, where: str) -> WrittenTask:
    known = [field.name for field in msgspec.structs.fields(WrittenTask)]
    for name in found:
        if name not in known:
            raise DataError(
                f"{where}: there is no field `{name}`{did_you_mean(name, known)}. "
                f"There are: {', '.join(known)}."
            )
    try:
        return msgspec.convert(found, WrittenTask)
    except msgspec.ValidationError as error:
        at = re.search(r" - at `\$\.?(.*)`", str(error))
        words = str(error).partition(" - at ")[0]
        field = at[1] if at else ""
        unknown = _UNKNOWN.match(words)
        if unknown is not None:
            inner = [each.name for each in msgspec.structs.fields(_record_at(field))]
            words = f"there is no `{unknown[1]}` in it{did_you_mean(unknown[1], inner)}. "
            raise DataError(
                f"{where}: field `{field}`: {words}There are: {', '.join(inner)}."
            ) from error
        raise DataError(f"{where}: field `{field}`: {words}. Correct that field.") from error


_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`")


def _record_at(field: str) -> type[Record]:
    """Return what stands at a place of a line, by its path (`expect.calls[0]`)."""
    kinds: Mapping[str, type[Record]] = {
        "expect": Expected,
        "expect.answer": ExpectedAnswer,
        "expect.calls": ExpectedCall,
        "expect.or_calls": ExpectedCall,
        "expect.state": ExpectedResult,
    }
    return kinds.get(field.partition("[")[0], WrittenTask)


def _txt(text: str, path: str) -> _Lines:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield f"{path}:{number}", WrittenTask(task=line.strip())


_COLUMNS = ("id", "system", "scenario", "split", "family", "language")


def _csv(text: str, path: str) -> _Lines:
    """Yield the rows of a table. `tools` are separated by spaces or commas, `answer` must occur."""
    head = text.partition("\n")[0]
    between = max(",;\t", key=head.count)  # what a spreadsheet writes depends on its country
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=between, strict=True)
    known = ("task", "prompt", *_COLUMNS, "tools", "answer")
    for name in rows.fieldnames or ():
        if name not in known:
            raise DataError(
                f"{path}:1: there is no column `{name}`{did_you_mean(name, known)}. "
                f"There are: {', '.join(known)}."
            )
    start = rows.line_num
    while True:
        where = f"{path}:{start + 1}"
        try:
            row: dict[str, Any] | None = next(rows, None)
        except csv.Error as error:
            raise DataError(f"{where}: not a row of a table: {error}. Correct that row.") from error
        if row is None:
            return
        start = rows.line_num
        if None in row or None in row.values():
            raise DataError(f"{where}: not as many cells as the first line has. Quote the commas.")
        found: JsonObject = {name: row[name] for name in known[:-2] if row.get(name)}
        if row.get("tools"):
            found["tools"] = re.split(r"[\s,;]+", row["tools"].strip())
        if row.get("answer"):
            found["expect"] = {"answer": row["answer"]}
        yield where, _written(found, where)


_READERS: Mapping[str, Callable[[str, str], _Lines]] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".txt": _txt,
    ".csv": _csv,
}
