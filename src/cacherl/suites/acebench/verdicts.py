"""ACEBench's verdicts on the same answers, rule by rule; every oddity of its checkers is kept and named.

Oddities that decide scores, and that a reader of a figure should know:

    normal    numbers, booleans and enums are compared by type alone: 5 for 7 is right
    normal    a text is right where the gold text occurs in it, after ` ,./-_*^` and case are dropped
    normal    white space is dropped from the whole answer before it is read, inside texts too
    normal    an empty list in the gold can never be matched, nor can a call without arguments of a
              tool whose schema has `properties`
    normal    one right call may serve for several gold calls of the same tool
    agent     a gold class whose name is misspelt is not looked at; see `flaws`
    special   three sentences are looked for; calls made beside them do not matter

Source: ACEBench, arXiv:2501.12851; its `model_eval/checker.py` and `eval_main.py`. Rules read in public copies
of the repository (zeppombal/ACEBench c9391d0, yxli2123/ACEBench 110e99e), re-told here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from cacherl.core.records import JsonObject
from cacherl.suites.acebench.checkout import Row
from cacherl.suites.acebench.written import calls_in

# ---- agent: the end state ----------------------------------------------------------------------


def end_state_problem(gold: Sequence[JsonObject], saved: Sequence[JsonObject]) -> str | None:
    """Return the first thing by which an end state differs from the gold one, or None where it is right.

    As many classes as the gold has; of each class that both name, every attribute of the model is in the
    gold and equal, where of a dict only the gold's keys are looked at.

    Args:
        gold: the gold classes, one an entry: `{"BaseApi": {"wifi": true, ...}}`.
        saved: the model's, as JSON holds them.
    """
    if len(gold) != len(saved):
        return f"{len(saved)} classes at the end, {len(gold)} in the gold"
    for each in gold:
        made = next((one for one in saved if one.keys() == each.keys()), None)
        if made is None or not each:
            continue
        (name, wanted), *_ = each.items()
        problem = _attributes_problem(name, wanted, made[name])
        if problem is not None:
            return problem
    return None


def _attributes_problem(name: str, wanted: JsonObject, made: JsonObject) -> str | None:
    for key, value in made.items():
        if key not in wanted:
            return f"{name}.{key}: not in the gold"
        gold = wanted[key]
        if not isinstance(gold, dict):
            if gold != value:
                return f"{name}.{key}: {_short(value)}, gold {_short(gold)}"
            continue
        for inner, expected in gold.items():
            if inner not in value:
                return f"{name}.{key}.{inner}: missing, gold {_short(expected)}"
            if expected != value[inner]:
                return f"{name}.{key}.{inner}: {_short(value[inner])}, gold {_short(expected)}"
    return None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


# ---- normal: the calls of one turn -------------------------------------------------------------

_KINDS: Mapping[str, type] = {
    "string": str,
    "integer": int,
    "float": float,
    "boolean": bool,
    "array": list,
    "tuple": list,
    "dict": dict,
    "any": str,
    "list": list,
    "object": dict,
    "objectArray": list,
    "list(string)": list,
    "list(enum)": list,
    "int": int,
    "enum": enumerate,  # no value has this type: an enum falls through to the type of the gold
    "number": int,
}
_NESTED = ("array", "tuple", "list(string)", "list(enum)", "object", "objectArray")


def normal_problem(row: Row, text: str) -> str | None:
    """Return why an answer is wrong, or None where it equals one of the row's alternatives.

    Args:
        row: of a normal category.
        text: the answer as ACEBench's protocol writes it, `[Api(key='value'), ...]`.
    """
    bare = "".join(text.split())
    try:
        calls = calls_in(bare)
    except ValueError as error:
        return f"no list of calls: {error}"
    if len(calls) == 1 and bare[0] not in "[(":
        return "no list of calls: the brackets are missing"
    problems = [_calls_problem(row.functions, calls, answer) for answer in row.answers]
    return None if None in problems else next(iter(problems), "there is no gold")


def _calls_problem(
    functions: Sequence[JsonObject],
    calls: Sequence[tuple[str, JsonObject]],
    answer: JsonObject,
) -> str | None:
    if len(calls) != len(answer):
        return f"{len(calls)} calls, gold {len(answer)}"
    # Several calls of one tool are told apart by a number behind its name.
    wanted = [(re.sub(r"_\d+$", "", key), key, value) for key, value in answer.items()]
    made, due = Counter(name for name, _ in calls), Counter(name for name, _, _ in wanted)
    for name in [*made, *due]:
        if made[name] != due[name]:
            return f"{name}: called {made[name]} times, gold {due[name]}"
    for name, key, value in wanted:
        function = next((each for each in functions if each["name"] in key), None)
        if function is None:
            return f"{name}: the gold calls a tool that is not on offer"
        problems = [
            _call_problem(function, called, arguments, value)
            for called, arguments in calls
            if called == name
        ]
        if None not in problems:
            return f"{name}: {problems[-1] if problems else 'not called'}"
    return None


def _call_problem(function: JsonObject, name: str, made: JsonObject, gold: Any) -> str | None:
    parameters = function.get("parameters") or {}
    if not made or not parameters:
        return None if not made and not parameters else "no arguments"
    properties = parameters.get("properties") or {}
    if gold == properties:
        return None
    if not gold:
        return "the gold has no arguments"
    if function["name"] != name:  # the first tool whose name is part of the gold's is taken
        return f"ACEBench's checker takes the schema of {function['name']} for it"
    for key in parameters.get("required", ()):
        if key not in made:
            return f"{key} is missing"
    for key, value in made.items():
        if key not in properties or key not in gold:
            return f"{key} is not in the gold"
        problem = _argument_problem(properties[key], value, gold[key])
        if problem is not None:
            return f"{key}: {problem}"
    return None


def _argument_problem(schema: JsonObject, value: Any, gold: Any) -> str | None:
    said = schema.get("type")
    kind = _KINDS.get(said) if isinstance(said, str) else None
    if kind is None or not isinstance(said, str):
        return f"ACEBench's checker knows no type {said!r}"
    inner = _inner_kind(said, schema)
    if isinstance(inner, str):
        return inner
    if said == "float" and type(value) is int:
        value = float(value)
    problem, by_type_alone = _type_problem(value, gold, kind, inner)
    if problem is not None or by_type_alone:
        return problem
    if kind is dict:
        return _dict_problem(value, gold)
    if kind is list and inner is dict:
        if said == "objectArray" and value:
            return "ACEBench's checker fails on every objectArray"
        return _dicts_problem(value, gold)
    if kind is str:
        return None if plain(gold) in plain(value) else f"{_short(value)}, gold {_short(gold)}"
    if kind is list:
        same = [_plain_text(each) for each in value] == [_plain_text(each) for each in gold]
        return None if same else f"{_short(value)}, gold {_short(gold)}"
    return None


def _inner_kind(said: str, schema: JsonObject) -> type | str | None:
    """Return the type of what an argument holds, None where it is not looked at, or what is wrong."""
    if said not in _NESTED:
        return None
    items = schema.get("items")
    if isinstance(items, dict) and "type" in items:
        inner = _KINDS.get(items["type"]) if isinstance(items["type"], str) else None
        return inner or f"ACEBench's checker knows no type {items['type']!r}"
    return str if "string" in said else enumerate if "enum" in said else dict


def _type_problem(value: Any, gold: Any, kind: type, inner: type | None) -> tuple[str | None, bool]:
    """Return what is wrong with a type, and whether nothing more of the argument is looked at."""
    by_type_alone = gold != "" and type(gold) is not kind
    value = {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value
    wrong = f"a {type(value).__name__}, not a {kind.__name__}"
    if type(value) is kind:
        if inner is None:
            return None, by_type_alone
        if not isinstance(gold, list | dict | str):
            return "ACEBench's checker fails on a gold of another type", by_type_alone
        if any(_items_fit(value, each, inner) for each in gold):
            return None, by_type_alone
        # What follows would pass it, had the failure not been noted already.
        return f"{_short(value)} does not fit the gold's items", by_type_alone
    if gold != "" and (type(value) is type(gold) or gold == value):
        return None, True
    return wrong, False


def _items_fit(value: Any, gold: Any, inner: type) -> bool:
    if not isinstance(gold, list):
        return True
    return all(_type_problem(each, gold, inner, None)[0] is None for each in value)


def _dict_problem(made: Any, gold: Any) -> str | None:
    if not isinstance(gold, dict):
        return "ACEBench's checker fails on a gold of another type"
    if not isinstance(made, dict) or len(made) != len(gold):
        return f"{_short(made)}, gold {_short(gold)}"
    for key, value in made.items():
        if key not in gold:
            return f"{key} is not in the gold"
        wanted = gold[key]
        if isinstance(wanted, dict):
            problem = _dict_problem(value, wanted)
            if problem is not None:
                return f"{key}: {problem}"
            continue
        said = value
        if isinstance(value, str):
            said = {"true": True, "false": False}.get(value, plain(value))
        # As texts, and contained: 1 is found in 10.
        if str(_plain_text(wanted)) not in str(said):
            return f"{key}: {_short(value)}, gold {_short(wanted)}"
    return None


def _dicts_problem(made: Sequence[Any], gold: Sequence[Any]) -> str | None:
    if len(made) != len(gold):
        return f"{len(made)} items, gold {len(gold)}"
    return next(
        (
            problem
            for one, other in zip(made, gold, strict=True)
            if (problem := _dict_problem(one, other)) is not None
        ),
        None,
    )


def plain(text: str) -> str:
    """Return a text as ACEBench compares it: ` ,./-_*^` dropped, lower case, double quotes."""
    return re.sub(r"[ ,./\-_*^]", "", text).lower().replace("'", '"')


def _plain_text(value: Any) -> Any:
    return plain(value) if isinstance(value, str) else value


def dialogue_accuracy(verdicts: Mapping[str, bool]) -> tuple[float, float]:
    """Return ACEBench's two figures of a multi-turn normal category, each rounded to three digits.

    The share of dialogues whose turns are all right, and the mean share of right turns of a dialogue.
    (They bear the names of the agent categories' figures there, and are something else.)

    Args:
        verdicts: by row id, in the order of the file; the last number of an id is its turn.

    Raises:
        ValueError: there is no row.
    """
    dialogues: dict[str, list[bool]] = {}
    for row_id, right in verdicts.items():
        dialogues.setdefault(row_id.rpartition("_")[0], []).append(right)
    if not dialogues:
        raise ValueError("no turn was scored")
    whole = [float(all(turns)) for turns in dialogues.values()]
    shares = [round(sum(turns) / len(turns), 3) for turns in dialogues.values()]
    return round(sum(whole) / len(whole), 3), round(sum(shares) / len(shares), 3)


# ---- special: pointing out what is wrong -------------------------------------------------------

MISSING = "Missing necessary parameters"
INCORRECT = "There is incorrect value"
LIMITED = "the limitations of the function"


def special_problem(row: Row, text: str) -> str | None:
    """Return what an answer fails to point out, or None where it says all that is looked for.

    Args:
        row: of a special category.
        text: what the model wrote.
    """
    for phrase in special_phrases(row):
        if phrase not in text:
            return f"does not say {phrase!r}"
    return None


def special_phrases(row: Row) -> tuple[str, ...]:
    """Return everything that a right answer to a special row holds, letter for letter."""
    if row.category == "special_irrelevant":
        return (LIMITED,)
    (answer,) = row.answers
    if row.category == "special_error_param":
        return (INCORRECT, *(value for values in answer.values() for value in values))
    return (
        MISSING,
        *(phrase for name, values in answer.items() for phrase in (name, *values)),
    )
