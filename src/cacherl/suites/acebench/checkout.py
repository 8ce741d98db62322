"""A user's checkout of ACEBench: its rows, its prompts and where its classes lie.

    data_all/data_{en,zh}/data_<category>.json                  JSON lines, whatever the name says
    data_all/data_{en,zh}/possible_answer/data_<category>.json  the same ids in the same order
    model_inference/{multi_step,multi_turn}/scenarios{en,zh}/   the environments, plain classes
    model_inference/prompt_{en,zh}.py, .../APIModel_{agent,user}.py   prompts as string constants

Nothing of it is run here: prompts are read out of the syntax tree.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from cacherl.core.errors import DataError
from cacherl.core.records import JsonObject

Language = Literal["en", "zh"]

SINGLE_TURN = tuple(
    f"normal_{name}"
    for name in (
        "single_turn_single_function",
        "single_turn_parallel_function",
        "similar_api",
        "preference",
        "atom_bool",
        "atom_enum",
        "atom_list",
        "atom_number",
        "atom_object_deep",
        "atom_object_short",
    )
)
DIALOGUES = ("normal_multi_turn_user_adjust", "normal_multi_turn_user_switch")
"""One row is one turn of a dialogue, with the turns before it as they should have gone."""
NORMAL = (*SINGLE_TURN, *DIALOGUES)
SPECIAL = ("special_incomplete", "special_error_param", "special_irrelevant")
MULTI_STEP, MULTI_TURN = "agent_multi_step", "agent_multi_turn"
AGENT = (MULTI_STEP, MULTI_TURN)
CATEGORIES = (*NORMAL, *SPECIAL, *AGENT)

_T = TypeVar("_T")
_CLONE = "Clone it (`git clone https://github.com/ACEBench/ACEBench`) and name that folder."


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One task of the checkout, with its answer."""

    category: str
    id: str
    question: str
    functions: tuple[JsonObject, ...]
    time: str = ""
    profile: str = ""
    initial_config: JsonObject
    classes: tuple[str, ...]
    ground_truth: JsonObject | tuple[JsonObject, ...]
    """A list in normal categories is a list of alternatives; in agent ones, the gold classes."""
    milestones: tuple[tuple[str, ...], ...]
    """The alternatives, each a list of call strings; one for most tasks."""
    has_alternatives: bool
    """Written as a list of lists: the official process accuracy rounds these first."""

    @property
    def answers(self) -> tuple[JsonObject, ...]:
        """The ground truth as a list."""
        if isinstance(self.ground_truth, dict):
            return (self.ground_truth,)
        return self.ground_truth

    @property
    def dialogue(self) -> str:
        """What groups the turns of one dialogue: the id without its last number."""
        return self.id.rpartition("_")[0]


def check_layout(checkout: Path) -> None:
    """Refuse a folder that is no checkout.

    Raises:
        DataError: says what is missing.
    """
    if not checkout.is_dir():
        raise DataError(f"{checkout}: no such folder. {_CLONE}")
    for part in ("data_all", "model_inference"):
        if not (checkout / part).is_dir():
            raise DataError(f"{checkout}: no ACEBench checkout, it has no {part}/. {_CLONE}")


def read_rows(checkout: Path, category: str, language: Language) -> list[Row]:
    """Return the rows of a category.

    Raises:
        DataError: a file is missing or damaged, or tasks and answers are not the same.
    """
    folder = checkout / "data_all" / f"data_{language}"
    path, answers_path = (
        folder / f"data_{category}.json",
        folder / "possible_answer" / f"data_{category}.json",
    )
    tasks, answers = _lines(path), _lines(answers_path)
    if [each.get("id") for _, each in tasks] != [each.get("id") for _, each in answers]:
        raise DataError(
            f"{answers_path}: its ids are not those of {path} in the same order. "
            "Check the file out again: `git checkout -- data_all`."
        )
    rows = []
    for (where, task), (there, answer) in zip(tasks, answers, strict=True):
        rows.append(_row(category, task, where, answer, there))
    return rows


class _Task(msgspec.Struct, kw_only=True):
    id: str
    question: str
    function: JsonObject | list[JsonObject]
    time: str = ""
    profile: str | JsonObject = ""
    initial_config: JsonObject = {}
    involved_classes: list[str] = []


class _Answer(msgspec.Struct, kw_only=True):
    ground_truth: JsonObject | list[JsonObject] | str
    mile_stone: list[str | list[str]] = []


def _row(category: str, task: JsonObject, where: str, answer: JsonObject, there: str) -> Row:
    read = _converted(task, _Task, where)
    gold = _converted(answer, _Answer, there)
    alternatives = [each for each in gold.mile_stone if isinstance(each, list)]
    plain = [each for each in gold.mile_stone if isinstance(each, str)]
    truth = gold.ground_truth
    if isinstance(truth, str):  # special_irrelevant says in words that nothing is to be called
        truth = {}
    return Row(
        category=category,
        id=read.id,
        question=read.question,
        functions=tuple(read.function if isinstance(read.function, list) else [read.function]),
        time=read.time,
        profile=read.profile if isinstance(read.profile, str) else str(read.profile),
        initial_config=read.initial_config,
        classes=tuple(read.involved_classes),
        ground_truth=truth if isinstance(truth, dict) else tuple(truth),
        milestones=tuple(map(tuple, alternatives)) if alternatives else (tuple(plain),),
        has_alternatives=bool(alternatives),
    )


def _lines(path: Path) -> list[tuple[str, JsonObject]]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file. {_CLONE}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}). Check it out again.") from error
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = msgspec.json.decode(line.strip())
        except msgspec.DecodeError as error:
            raise DataError(f"{where}: no JSON ({error}). Check the file out again.") from error
        if not isinstance(row, dict):
            raise DataError(f"{where}: no object. Check the file out again.")
        rows.append((where, row))
    return rows


def _converted(value: JsonObject, kind: type[_T], where: str) -> _T:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise DataError(
            f"{where}: {error}. CacheRL was written for ACEBench e6db74b: check that commit out."
        ) from error


# ---- prompts and classes -----------------------------------------------------------------------


def constants(path: Path) -> dict[str, str]:
    """Return the string constants of a module by name, out of its syntax tree.

    Raises:
        DataError: the file is missing or no Python.
    """
    return {
        target.id: node.value.value
        for node in _tree(path).body
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def prompt(checkout: Path, files: Iterable[str], name: str) -> str:
    """Return a prompt by the name of its constant, from the first of `files` that has it.

    Raises:
        DataError: none has.
    """
    looked = []
    for file in files:
        path = checkout / "model_inference" / file
        if path.is_file():
            looked.append(str(path))
            found = constants(path).get(name)
            if found is not None:
                return found
    raise DataError(
        f"{checkout}: no constant {name} in {' or '.join(looked) or ', '.join(files)}. CacheRL was "
        "written for ACEBench e6db74b: check that commit out."
    )


def class_files(checkout: Path, category: str, language: Language) -> dict[str, Path]:
    """Return the files of the environment classes by class name.

    The classes of multi_step and multi_turn are not the same files; a fork that keeps only one set
    of them is read too.

    Raises:
        DataError: there are none.
    """
    inference = checkout / "model_inference"
    kind = category.removeprefix("agent_")
    for folder in (inference / kind, inference):
        found: dict[str, Path] = {}
        for path in sorted(folder.glob(f"**/scenarios{language}/**/*.py")):
            for node in _tree(path).body:
                if isinstance(node, ast.ClassDef):
                    found.setdefault(node.name, path)
        if found:
            return found
    raise DataError(f"{inference}: no environments in scenarios{language}/. {_CLONE}")


def _tree(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_bytes(), filename=str(path))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file. {_CLONE}") from error
    except (SyntaxError, ValueError) as error:
        raise DataError(f"{path}: no Python ({error}). Check the file out again.") from error


def pin_of(files: Iterable[Path], checkout: Path) -> str:
    """Return a digest of files, in an order of its own."""
    digest = hashlib.sha256()
    for path in sorted(set(files)):
        digest.update(path.relative_to(checkout).as_posix().encode())
        digest.update(b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return f"sha256:{digest.hexdigest()[:16]}"
