"""Suites of a user's own files by name: what follows the colon, and where the files were said to lie.

acebench                              multi_step, normal and special of the checkout that was added
acebench:multi_step,zh,text           one category, in Chinese, with calls as text
acebench:multi_turn,user=openai:gpt-4o
acebench-scripted
tau:airline,user=gpt-4o   tau:retail,scripted   tau2:telecom,solo
own:tools.toml,tasks.jsonl,all,judge=openai:gpt-5      or just the path of a tools.toml
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from cacherl.core.errors import DataError, RecipeError
from cacherl.core.models import ChatModel
from cacherl.core.records import Record
from cacherl.core.tasks import Split
from cacherl.suites.acebench import AceBench, UserModel
from cacherl.suites.acebench.checkout import CATEGORIES, NORMAL, SPECIAL, Language, check_layout
from cacherl.suites.acebench.users import TEMPERATURE
from cacherl.suites.installed import put, suite_folder
from cacherl.suites.own import OpenJudge, OwnSuite
from cacherl.suites.tau import TauSuite, TauUser
from cacherl.suites.tau.suite import Benchmark, interpreter
from cacherl.suites.tau.suite import check_layout as check_tau
from cacherl.toolbox.config import did_you_mean
from cacherl.toolbox.world import ToolboxWorld

OpenChat = Callable[[str, float], ChatModel]
"""Opens a model by its name, to be asked at a temperature."""

BY_PATH = ("acebench", "tau", "tau2")
"""Suites that are added by the path of a checkout."""
TASKS = "tasks.jsonl"
"""The file of tasks beside a `tools.toml` that names none."""

_TAU: dict[str, Benchmark] = {"tau": "tau-bench", "tau2": "tau2-bench"}


class Whereabouts(Record, frozen=True, kw_only=True):
    """Where a suite's checkout lies, and which interpreter has its packages."""

    path: str
    python: str | None = None


def add_checkout(kind: str, path: Path, python: Path | None = None) -> Whereabouts:
    """Keep where a checkout lies. Nothing of it is copied or run.

    Args:
        kind: of `BY_PATH`.
        path: the checkout.
        python: for `tau` and `tau2`: the interpreter that has its packages; its own `.venv` unless told.

    Raises:
        DataError: the folder is no such checkout, or there is no such interpreter.
        RecipeError: an interpreter is needed and none is found, or none is needed and one is named.
    """
    path = path.expanduser().resolve()
    if kind == "acebench":
        check_layout(path)
        if python is not None:
            raise RecipeError("acebench runs in ours and needs no --python. Leave it out.")
    else:
        check_tau(_TAU[kind], path)
        if python is None:
            python = interpreter(_TAU[kind], path)
        elif not python.expanduser().is_file():
            raise DataError(f"{python}: no such interpreter. Give --python the path of one.")
    # Not resolved: the link is what tells Python that it is in a virtual environment.
    kept = Whereabouts(
        path=str(path), python=None if python is None else str(python.expanduser().absolute())
    )
    put(_kept_at(kind), lambda to: to.write_bytes(msgspec.json.encode(kept)))
    return kept


def checkout_of(kind: str) -> Whereabouts:
    """Return where the checkout of a suite lies.

    Raises:
        DataError: it was never added, or what was kept of it is damaged.
    """
    at = _kept_at(kind)
    python = "" if kind == "acebench" else " --python PYTHON"
    fix = f"Add it: `cacherl suites add {kind} --path DIR{python}`."
    try:
        return msgspec.json.decode(at.read_bytes(), type=Whereabouts)
    except FileNotFoundError as error:
        raise DataError(f"{kind} is a checkout of yours, and none was added. {fix}") from error
    except (OSError, msgspec.DecodeError) as error:
        raise DataError(f"{at}: cannot be read ({error}). {fix}") from error


def _kept_at(kind: str) -> Path:
    return suite_folder(kind) / "where.json"


# ---- by name -----------------------------------------------------------------------------------


def acebench(words: str, open_chat: OpenChat, *, scripted: bool = False) -> AceBench:
    """Return ACEBench by what follows the colon.

    Raises:
        RecipeError: a word means nothing.
        DataError: it was not added.
    """
    groups = {"normal": NORMAL, "special": SPECIAL}
    groups |= {name: (name,) for name in CATEGORIES}
    groups |= {name.removeprefix("agent_"): (name,) for name in CATEGORIES if "agent" in name}
    plain, named = _split_words(words)
    categories: list[str] = []
    languages: dict[str, Language] = {"en": "en", "zh": "zh"}
    language: Language = "en"
    protocol = False
    for word in plain:
        if word in groups:
            categories += groups[word]
        elif word in languages:
            language = languages[word]
        elif word == "text":
            protocol = True
        else:
            raise _unknown("acebench", word, (*groups, *languages, "text", "user=MODEL"))
    user = named.pop("user", None)
    _none_left("acebench", named, ("user",))
    return AceBench(
        Path(checkout_of("acebench").path),
        categories=categories,
        language=language,
        user=None
        if user is None
        else UserModel(name=user, open=lambda: open_chat(user, TEMPERATURE)),
        scripted=scripted,
        protocol="text" if protocol else "native",
    )


def tau(kind: str, words: str) -> TauSuite:
    """Return tau-bench (`tau`) or tau2-bench (`tau2`) by what follows the colon.

    Raises:
        RecipeError: a word means nothing, or no domain is named.
        DataError: it was not added.
    """
    plain, named = _split_words(words)
    marks = {word for word in plain if word in ("scripted", "solo")}
    domains = [word for word in plain if word not in marks]
    if len(domains) != 1:
        raise RecipeError(
            f"{kind if not words else f'{kind}:{words}'}: name one domain and who plays the user, such as `{kind}:airline,user=gpt-4o` or "
            f"`{kind}:{'telecom,solo' if kind == 'tau2' else 'airline,scripted'}`."
        )
    model = named.pop("user", None)
    provider, strategy = named.pop("provider", None), named.pop("strategy", None)
    _none_left(kind, named, ("user", "provider", "strategy"))
    where = checkout_of(kind)
    return TauSuite(
        _TAU[kind],
        Path(where.path),
        domains[0],
        python=None if where.python is None else Path(where.python),
        user=None if model is None else TauUser(model=model, provider=provider, strategy=strategy),
        scripted="scripted" in marks,
        solo="solo" in marks,
    )


def own(
    words: str,
    open_world: Callable[[Path], ToolboxWorld],
    open_judge: Callable[[str], OpenJudge],
) -> OwnSuite:
    """Return a person's own tasks by what follows the colon: `TOOLS[,TASKS][,all][,judge=MODEL]`.

    Raises:
        RecipeError: no `tools.toml` is named, or a word means nothing.
    """
    plain, named = _split_words(words)
    whole = "all" in plain
    files = [Path(word) for word in plain if word != "all"]
    if not files or len(files) > 2 or files[0].suffix != ".toml":
        raise RecipeError(
            f"{'own' if not words else f'own:{words}'}: name your tools.toml and your tasks, such as `own:tools.toml,tasks.jsonl`; `all` "
            "takes the whole file whatever the split."
        )
    judge = named.pop("judge", None)
    _none_left("own", named, ("judge",))
    return OwnSuite(
        open_world(files[0]),
        files[1] if len(files) == 2 else files[0].with_name(TASKS),
        judge=None if judge is None else open_judge(judge),
        whole=Split.TEST if whole else None,
        name=f"own:{words}",
    )


def _split_words(words: str) -> tuple[list[str], dict[str, str]]:
    plain, named = [], {}
    for word in filter(None, (word.strip() for word in words.split(","))):
        name, is_named, value = word.partition("=")
        if is_named:
            named[name] = value
        else:
            plain.append(word)
    return plain, named


def _none_left(suite: str, named: dict[str, str], known: Iterable[str]) -> None:
    for name in named:
        raise _unknown(suite, f"{name}=", [f"{each}=" for each in known])


def _unknown(suite: str, word: str, known: Iterable[str]) -> RecipeError:
    names = list(known)
    return RecipeError(
        f"{suite}: {word!r} means nothing there{did_you_mean(word, names)}. There are: {', '.join(names)}."
    )
