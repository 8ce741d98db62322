"""More tools on the desk than anyone needs: read-only tools of the back office, for crowded prompts.

They are real: each answers from a small file of records that no one writes, so calling one does no harm
and helps no one. None of them tells anything about customers, orders, tickets, slots or articles.
"""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from cacherl.core.errors import RecipeError
from cacherl.core.messages import ToolCall
from cacherl.core.records import JsonObject
from cacherl.core.schema import argument_problem, error_text
from cacherl.core.tasks import Task
from cacherl.core.tools import Effects, ErrorClass, ToolResult, ToolSpec
from cacherl.worlds.desk.tasks import FAMILIES
from cacherl.worlds.desk.tools import SPECS, DeskTools, timed
from cacherl.worlds.desk.universe import seeded

MOST = 100
"""Tools in one prompt."""

_SUBJECTS: Mapping[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "supplier": ("suppliers", ("active", "paused"), ("Nordholz", "Bellini", "Oakline", "Vertex")),
    "warehouse": ("warehouses", ("open", "full"), ("North hall", "South hall", "Depot 4", "Annex")),
    "carrier": ("carriers", ("active", "on_strike"), ("Swiftline", "Parcelo", "Roadex", "Aeris")),
    "pallet": ("pallets", ("stored", "loaded"), ("Glass", "Ceramics", "Textiles", "Mixed")),
    "voucher": ("vouchers", ("valid", "expired"), ("SPRING", "WELCOME", "VIP", "STUDENT")),
    "campaign": (
        "campaigns",
        ("running", "planned"),
        ("Summer sale", "Back home", "Gifts", "Move"),
    ),
    "newsletter": ("newsletters", ("draft", "sent"), ("Weekly", "New in", "Members", "Events")),
    "survey": ("surveys", ("open", "closed"), ("Checkout", "Packaging", "Website", "Staff")),
    "review": (
        "reviews",
        ("public", "hidden"),
        ("Lovely", "Arrived fast", "Too small", "As shown"),
    ),
    "invoice": ("supplier invoices", ("paid", "due"), ("Glassware", "Boxes", "Rent", "Cleaning")),
    "currency": ("currencies", ("traded", "frozen"), ("Krone", "Franc", "Yen", "Dollar")),
    "tax_rate": ("tax rates", ("in_force", "past"), ("Standard", "Reduced", "Books", "Food")),
    "employee": ("employees", ("on_duty", "away"), ("Ines", "Tomas", "Priya", "Karl")),
    "shift": ("shifts", ("covered", "open"), ("Early", "Late", "Night", "Weekend")),
    "meeting_room": ("meeting rooms", ("free", "taken"), ("Atrium", "Harbour", "Loft", "Garden")),
    "van": ("delivery vans", ("on_road", "in_garage"), ("Blue", "White", "Electric", "Spare")),
    "printer": ("printers", ("ready", "jammed"), ("Labels", "Office", "Posters", "Receipts")),
    "contract": ("contracts", ("signed", "draft"), ("Lease", "Cleaning", "Security", "Power")),
    "event": (
        "events in the shops",
        ("planned", "past"),
        ("Opening", "Workshop", "Tasting", "Fair"),
    ),
    "loyalty_tier": ("loyalty tiers", ("offered", "retired"), ("Bronze", "Silver", "Gold", "Jade")),
    "price_list": ("price lists", ("current", "old"), ("Retail", "Trade", "Export", "Outlet")),
    "holiday": (
        "public holidays",
        ("worked", "closed"),
        ("Easter", "Labour day", "May 8", "Harvest"),
    ),
    "audit": ("stock audits", ("done", "due"), ("January", "April", "July", "October")),
    "server": ("servers", ("up", "down"), ("Mail", "Web", "Backup", "Till")),
    "certificate": ("certificates", ("valid", "lapsed"), ("Fire", "Eco", "Food safety", "Access")),
}
"""Name -> its plural in words, its states, and what its records are called."""


def _spec(name: str, description: str, properties: JsonObject, subject: str) -> ToolSpec:
    return ToolSpec(
        name=name,
        description=description,
        parameters={"type": "object", "properties": properties, "required": list(properties)},
        effects=Effects(reads=(f"{subject}:*",)),
    )


def _tools_of(subject: str) -> tuple[ToolSpec, ...]:
    plural, states, _ = _SUBJECTS[subject]
    word = subject.replace("_", " ")
    many = f"{subject[:-1]}ies" if subject.endswith("y") else f"{subject}s"
    state: JsonObject = {"status": {"type": "string", "enum": list(states)}}
    return (
        _spec(
            f"get_{subject}",
            f"Read one {word}.",
            {f"{subject}_id": {"type": "string", "x-kind": "id"}},
            subject,
        ),
        _spec(f"list_{many}", f"List {plural} in a status.", state, subject),
        _spec(f"count_{many}", f"Count {plural} in a status.", state, subject),
        _spec(
            f"find_{subject}",
            f"Find {plural} by name.",
            {"name": {"type": "string", "x-kind": "text"}},
            subject,
        ),
    )


CROWD: tuple[ToolSpec, ...] = tuple(spec for subject in _SUBJECTS for spec in _tools_of(subject))
"""100 tools; their names meet none of the desk's own."""
_SUBJECT_OF = {spec.name: subject for subject in _SUBJECTS for spec in _tools_of(subject)}
_SPEC = {spec.name: spec for spec in CROWD}


@functools.cache
def _records(scenario: str, subject: str) -> tuple[JsonObject, ...]:
    rng = seeded(f"desk|crowd|{scenario}|{subject}")
    _, states, names = _SUBJECTS[subject]
    letters = "".join(part[0] for part in subject.split("_")).upper() + subject[-1].upper()
    return tuple(
        {
            "id": f"{letters}-{rng.randrange(100, 1000)}{number}",
            "name": name,
            "status": rng.choice(states),
            "since": f"2024-{rng.randrange(1, 13):02d}-{rng.randrange(1, 29):02d}",
        }
        for number, name in enumerate(names)
    )


def answer(scenario: str, name: str, arguments: Mapping[str, Any]) -> tuple[str, ErrorClass | None]:
    """Return what a tool of the crowd answers, as JSON text, and why it failed if it did."""
    problem = argument_problem(_SPEC[name], arguments)
    if problem is not None:
        return error_text("validation", problem), ErrorClass.VALIDATION
    subject = _SUBJECT_OF[name]
    records = _records(scenario, subject)
    match name.partition("_")[0]:
        case "get":
            wanted = arguments[f"{subject}_id"]
            for record in records:
                if record["id"] == wanted:
                    return json.dumps(record), None
            return error_text("not_found", f"no {subject} {wanted}"), ErrorClass.NOT_FOUND
        case "find":
            word = arguments["name"].casefold()
            found = [record["id"] for record in records if word in record["name"].casefold()]
        case _:
            found = [record["id"] for record in records if record["status"] == arguments["status"]]
    if name.startswith("count"):
        return json.dumps({"count": len(found)}), None
    return json.dumps({f"{subject}_ids": found}), None


class CrowdedDesk:
    """The desk's live tools of one episode, and the crowd's (`WorldTools`)."""

    def __init__(self, desk: DeskTools, scenario: str) -> None:
        """`scenario` is the desk's; the crowd's records differ from one to the next."""
        self._desk = desk
        self._scenario = scenario

    async def call(self, call: ToolCall) -> ToolResult:
        if call.name not in _SPEC:
            return await self._desk.call(call)
        return timed(call, lambda: answer(self._scenario, call.name, call.arguments))

    def fingerprint(self) -> str:
        """The desk's: the crowd's records follow from the scenario and never change."""
        return self._desk.fingerprint()

    async def aclose(self) -> None:
        await self._desk.aclose()


def check_size(tools: int) -> int:
    """Return the number of tools that a prompt is to have.

    Raises:
        RecipeError: there are not as many, or none.
    """
    if not 1 <= tools <= MOST:
        raise RecipeError(f"the support desk has 1 to {MOST} tools in a prompt, not {tools}.")
    return tools


def crowded(task: Task, tools: int) -> Task:
    """Return the task with so many tools on offer, or as many as it takes where that is more.

    What is on offer without a crowd comes first, then the desk's other tools and the crowd's, mixed. Tasks
    that had the same list have the same one again.
    """
    needs = FAMILIES[task.family].needs
    before = sorted(task.tools, key=lambda spec: spec.name not in needs)
    size = max(tools, len(needs), 1)
    rng = seeded(f"desk|crowd|{tools}|{'|'.join(spec.name for spec in task.tools)}")
    shown = _filled(rng, before[:size], size)
    rng.shuffle(shown)
    return msgspec.structs.replace(task, tools=tuple(shown))


def _filled(rng: random.Random, shown: Sequence[ToolSpec], size: int) -> list[ToolSpec]:
    names = {spec.name for spec in shown}
    others = [spec for spec in (*SPECS, *CROWD) if spec.name not in names]
    return [*shown, *rng.sample(others, size - len(shown))]
