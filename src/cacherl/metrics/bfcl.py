"""How the Berkeley Function-Calling Leaderboard judges: states, responses, single calls, last words.

Written anew from the behaviour of `bfcl-eval` 2026.3.23, whose own checker imports the client library of
every vendor. Values in, values out: executing calls is the suite's business.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cacherl.cache.identity.canonical import canonical_json
from cacherl.core.errors import DataError
from cacherl.core.messages import Call, ToolCall
from cacherl.core.records import JsonObject
from cacherl.core.tools import ToolSpec

# ---- several turns: states and responses -----------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class StateDifference:
    """The first place in which two states differ, for a person."""

    path: str
    """`TicketAPI.ticket_queue[0].status`."""
    seen: Any
    wanted: Any

    def __str__(self) -> str:
        """One line, long values cut."""
        return f"{self.path} is {_short(self.seen)}, not {_short(self.wanted)}"


class _Absent:
    def __repr__(self) -> str:
        return "absent"


ABSENT = _Absent()
"""Stands in a `StateDifference` where one of the two has nothing."""


def public_attributes(instance: object) -> dict[str, Any]:
    """Return what BFCL compares of a backend: its attributes, save those that start with `_`.

    The current directory of the file system is one of those left out. Source: `multi_turn_checker.py`,
    `_compare_instances`.
    """
    return {name: value for name, value in vars(instance).items() if not name.startswith("_")}


def state_difference(
    seen: Mapping[str, Mapping[str, Any]], wanted: Mapping[str, Mapping[str, Any]]
) -> StateDifference | None:
    """Return where the states differ, or None where BFCL's state check passes.

    Every public attribute of every wanted backend must be equal (`==`); what only `seen` has is free.
    The verdict is theirs; the path looks further into dicts, lists and plain objects.

    Args:
        seen: by backend, its attributes after the turn (`public_attributes`).
        wanted: the same after the gold calls.

    Source: BFCL v3, `multi_turn_checker.py`, `state_checker`.
    """
    for backend, attributes in wanted.items():
        for name, value in attributes.items():
            here = f"{backend}.{name}"
            found = seen.get(backend, {}).get(name, ABSENT)
            if found is ABSENT or found != value:
                return _first(here, found, value)
    return None


def _first(path: str, seen: Any, wanted: Any) -> StateDifference:
    if isinstance(seen, dict) and isinstance(wanted, dict):
        for key in sorted({*seen, *wanted}, key=str):
            one, other = seen.get(key, ABSENT), wanted.get(key, ABSENT)
            if one is ABSENT or other is ABSENT or one != other:
                return _first(f"{path}.{key}", one, other)
    elif isinstance(seen, list | tuple) and isinstance(wanted, list | tuple):
        for place in range(max(len(seen), len(wanted))):
            one = seen[place] if place < len(seen) else ABSENT
            other = wanted[place] if place < len(wanted) else ABSENT
            if one is ABSENT or other is ABSENT or one != other:
                return _first(f"{path}[{place}]", one, other)
    elif type(seen) is type(wanted) and hasattr(seen, "__dict__") and len(path) < _LONGEST_PATH:
        inner = _first(path, public_attributes(seen), public_attributes(wanted))
        if inner.path != path:
            return inner
    return StateDifference(path=path, seen=seen, wanted=wanted)


_LONGEST_PATH = 400  # objects that hold their parents would never end


def _short(value: Any, most: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= most else text[: most - 1] + "…"


def missing_results(seen: Sequence[str], wanted: Sequence[str]) -> tuple[str, ...]:
    """Return the results that BFCL's response check misses; none means that it passes.

    Order is free, more is free, but a result wanted twice must have been seen twice.

    Args:
        seen: what every call so far answered, earlier turns included.
        wanted: what the gold calls of this turn answer.

    Source: BFCL v3, `multi_turn_checker.py`, `response_checker`.
    """
    left = Counter(seen)
    missing = []
    for result in wanted:
        if left[result] > 0:
            left[result] -= 1
        else:
            missing.append(result)
    return tuple(missing)


def turn_problem(
    *,
    called: bool,
    seen_state: Mapping[str, Mapping[str, Any]],
    wanted_state: Mapping[str, Mapping[str, Any]],
    seen_results: Sequence[str],
    wanted_results: Sequence[str],
) -> str | None:
    """Return why a turn fails BFCL's multi-turn check, or None. A task passes if every turn does.

    A turn whose gold has no call is not judged at all (the official irrelevance check is never run).

    Args:
        called: the model made a call that parsed in this turn.
        seen_state: after the turn, as `state_difference`.
        wanted_state: after its gold calls.
        seen_results: of every call so far.
        wanted_results: of this turn's gold calls.

    Source: BFCL v3, `multi_turn_checker.py`, `multi_turn_checker`.
    """
    if not wanted_results:
        return None
    if not called:
        return "no call in a turn that needs one"
    difference = state_difference(seen_state, wanted_state)
    if difference is not None:
        return f"state: {difference}"
    missing = missing_results(seen_results, wanted_results)
    return f"response: nothing answered {_short(missing[0])}" if missing else None


# ---- one turn: calls against accepted values -------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptedCall:
    """One wanted call, as BFCL's answer files give it."""

    name: str
    arguments: Mapping[str, Sequence[Any]]
    """For each argument the values that are right; `""` among them says that it may be left out. Inside an
    object every member has such a list of its own."""


def accepted_call(row: Mapping[str, Mapping[str, Sequence[Any]]]) -> AcceptedCall:
    """Return the call of one object of a `ground_truth` list: `{"name": {"argument": [values]}}`.

    Raises:
        DataError: it does not hold exactly one name.
    """
    if len(row) != 1:
        raise DataError(f"an accepted call names one function, not {len(row)}: {_short(dict(row))}")
    ((name, arguments),) = row.items()
    return AcceptedCall(name=name, arguments=arguments)


def ast_problem(
    calls: Sequence[Call],
    accepted: Sequence[AcceptedCall],
    specs: Mapping[str, ToolSpec],
    *,
    lenient: bool,
) -> str | None:
    """Return why the calls of one turn are not the accepted ones, or None where they match.

    As many calls as accepted ones, each matched once in any order. Lenient is BFCL to the letter: strings
    are compared without `` ,./-_*^``, case and the kind of quotes, a value of another type passes where
    an accepted value has that type. Strict compares values as JSON: same type, same text, 5 is 5.0.

    Args:
        calls: the turn's; one that did not parse fails the turn.
        accepted: of the answer file.
        specs: the tools on offer by name, with the types of BFCL (`float`, `dict`, `tuple`) or of JSON
            Schema (`number`, `object`).
        lenient: see above.

    Raises:
        DataError: an accepted call names a tool that is not on offer, or a parameter has a type that only
            the Java and JavaScript categories have, whose values are source code.

    Source: BFCL v1, `ast_checker.py`.
    """
    if len(calls) != len(accepted):
        return f"{len(calls)} calls where {len(accepted)} are right"
    left = list(range(len(calls)))
    for want in accepted:
        spec = specs.get(want.name)
        if spec is None:
            raise DataError(
                f"the accepted call {want.name} names no tool on offer ({', '.join(specs) or 'none'}). "
                "Give the tools of the same task."
            )
        problems = []
        for place in left:
            problem = _call_problem(calls[place], want, spec, lenient=lenient)
            if problem is None:
                # Taken at once, as there: a later wanted call may be left with nothing.
                left.remove(place)
                break
            problems.append(problem)
        else:
            return problems[0] if len(problems) == 1 else f"no call is the wanted {want.name}"
    return None


def _call_problem(call: Call, want: AcceptedCall, spec: ToolSpec, *, lenient: bool) -> str | None:
    if not isinstance(call, ToolCall):
        return f"no call: {call.problem}"
    # Providers allow no dot in a name.
    if call.name not in (want.name, want.name.replace(".", "_")):
        return f"{call.name} was called, not {want.name}"
    properties: JsonObject = spec.parameters.get("properties") or {}
    for name in spec.parameters.get("required") or ():
        if name not in call.arguments:
            return f"{want.name}: {name} is missing"
    for name, value in call.arguments.items():
        if name not in properties or name not in want.arguments:
            return f"{want.name}: {name} is not expected"
        values = want.arguments[name]
        right = (
            _lenient(value, values, properties[name], f"{want.name}.{name}")
            if lenient
            else any(_strict(value, each) for each in values)
        )
        if not right:
            return f"{want.name}: {name} is {_short(value)}, not one of {_short(list(values))}"
    for name, values in want.arguments.items():
        if name not in call.arguments and "" not in values:
            return f"{want.name}: {name} is missing"
    return None


def _strict(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, Mapping):
        return (
            isinstance(value, Mapping)
            and all(
                name in wanted and any(_strict(member, each) for each in _listed(wanted[name]))
                for name, member in value.items()
            )
            and all(name in value or "" in _listed(values) for name, values in wanted.items())
        )
    if isinstance(wanted, list | tuple) and any(isinstance(each, Mapping) for each in wanted):
        return (
            isinstance(value, list | tuple)
            and len(value) == len(wanted)
            and all(_strict(one, other) for one, other in zip(value, wanted, strict=True))
        )
    return canonical_json(value) == canonical_json(wanted)


def _listed(values: Any) -> Sequence[Any]:
    return values if isinstance(values, list | tuple) else (values,)


_TYPES: dict[str, type] = {
    "string": str,
    "integer": int,
    "float": float,
    "number": float,
    "boolean": bool,
    "array": list,
    "tuple": list,
    "dict": dict,
    "object": dict,
    "any": str,
}


def _type(schema: Mapping[str, Any], where: str) -> type:
    said = schema.get("type")
    found = _TYPES.get(said) if isinstance(said, str) else None
    if found is None:
        raise DataError(
            f"{where} has the type {said!r}, which this check does not know. Java and JavaScript tasks, "
            "whose values are source code, are not covered: leave those categories out."
        )
    return found


def _lenient(value: Any, accepted: Sequence[Any], schema: Mapping[str, Any], where: str) -> bool:
    """Say what BFCL says of one argument, its odd corners included."""
    expected = _type(schema, where)
    inner = _type(schema.get("items") or {}, f"{where}[]") if expected is list else None
    if isinstance(value, tuple) and schema.get("type") == "tuple":
        value = list(value)
    if expected is float and type(value) is int:
        value = float(value)
    typed = _typed(value, accepted, expected, inner)
    if typed is None:
        return False
    # An accepted value of another type stands for a variable, or for anything that `==` lets pass.
    if typed == "variable":
        return value in accepted
    if expected is dict:
        return _dict_accepted(value, accepted)
    if inner is dict:
        return any(
            len(value) == len(wanted)
            and all(_dict_accepted(one, [other]) for one, other in zip(value, wanted, strict=True))
            for wanted in accepted
        )
    if expected is str:
        plain = standardised(value)
        return any(standardised(each) == plain for each in accepted if isinstance(each, str))
    if expected is list:
        return [_plain(each) for each in value] in [[_plain(e) for e in each] for each in accepted]
    return value in accepted


def _typed(value: Any, accepted: Sequence[Any], expected: type, inner: type | None) -> str | None:
    """Return "value" or "variable" where the type passes, None where it does not."""
    # `""` says that the argument may be left out and tells nothing of its type.
    other = next((type(each) for each in accepted if each != ""), None)
    passed = "value" if other is None or other is expected else "variable"
    is_expected = type(value) is expected
    if is_expected:
        if inner is None:
            return passed
        for wanted in accepted:
            if not isinstance(wanted, list) or all(_typed(v, wanted, inner, None) for v in value):
                return passed
    return "variable" if other is not None and type(value) is other else None


def _dict_accepted(value: Any, accepted: Sequence[Any]) -> bool:
    return any(
        all(
            name in wanted and _plain(member) in [_plain(each) for each in _listed(wanted[name])]
            for name, member in value.items()
        )
        and all(name in value or "" in _listed(values) for name, values in wanted.items())
        for wanted in accepted
        if wanted != ""
    )


def _plain(value: Any) -> Any:
    return standardised(value) if isinstance(value, str) else value


def standardised(text: str) -> str:
    """Return a string as BFCL compares it: without `` ,./-_*^``, in lower case, with double quotes.

    Source: `ast_checker.py`, `standardize_string`.
    """
    return re.sub(r"[ ,./\-_*^]", "", text).lower().replace("'", '"')


def answer_found(said: str, accepted: Sequence[str]) -> bool:
    """Say whether the last message holds one of the answers as whole words: BFCL's agentic check.

    Compared without ``,./-_*^()``, in lower case. Source: BFCL v4, `agentic_checker.py`.
    """

    def plain(text: str) -> str:
        return re.sub(r"[,./\-_*^()]", "", text).lower().replace("'", '"')

    text = plain(said)
    return any(re.search(rf"\b{re.escape(plain(each))}\b", text) for each in accepted)
