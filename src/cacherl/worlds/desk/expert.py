"""The scripted agent of the support desk: a `ChatModel` that follows the plans, and sometimes strays.

It hears the customer, calls tools through the same loop as any model, and copies values from the results
that it was really shown. On some tasks it takes a detour, so that selection has something to reject: see
`Detour`. Nothing but the messages tells that it did.
"""

from __future__ import annotations

import enum
import json
import random
from collections.abc import Generator, Iterator, Sequence
from typing import Any, cast

from cacherl.core.errors import ModelError, RecipeError
from cacherl.core.messages import (
    AssistantMessage,
    Message,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from cacherl.core.models import Limits, ModelTurn
from cacherl.core.records import JsonObject
from cacherl.core.tasks import Task
from cacherl.core.trajectories import TokenSegment
from cacherl.worlds.desk.hearing import Hearing
from cacherl.worlds.desk.plans import PLANS, Act, Plan, Say
from cacherl.worlds.desk.reasons import explain
from cacherl.worlds.desk.tools import READERS, SPEC, WRITERS
from cacherl.worlds.desk.universe import PRIORITIES, REFUND_REASONS, TICKET_TOPICS, seeded

_CUT = "... [cut]"
_CHARS_A_TOKEN = 4


class Detour(enum.StrEnum):
    """A worse path. The first three still end well; the others do not."""

    EXTRA_READ = "extra_read"
    """Reads something that nobody needs."""
    WRONG_ID = "wrong_id"
    """Mistypes the first id, sees the error, and goes on with the right one."""
    SKIP_CHECK = "skip_check"
    """Writes without the check that the policy asks for; sees reason where the tool refuses."""
    WRONG_ENUM = "wrong_enum"
    """Takes another value of an enum."""
    DROP_WRITE = "drop_write"
    """Leaves the last write out and says that it is done."""
    WRONG_ANSWER = "wrong_answer"
    """Acts well and then says something else."""
    META = "meta"
    """Talks about the request in the answer."""


_BLIND_WRITES = {
    "cancel": "cancel_order",
    "correct_order": "cancel_order",
    "address": "change_address",
    "ticket_close": "close_ticket",
}
"""Families whose write needs nothing that a read would tell."""
_ENUMS = {"topic": TICKET_TOPICS, "priority": PRIORITIES, "reason": REFUND_REASONS}
_WAIT = {
    "en": ("One moment, I am looking that up.", "Let me check that for you.", "One moment please."),
    "fr": ("Un instant, je regarde.", "Je vérifie cela pour vous.", "Un instant, s'il vous plaît."),
}
_META = {
    "en": "The user wants me to answer their request. I should reply briefly. ",
    "fr": "L'utilisateur veut que je réponde à sa demande. Je dois répondre brièvement. ",
}
_VAGUE = {"en": "I have dealt with it.", "fr": "C'est fait."}
_SORRY = {
    "en": "I am sorry, something went wrong.",
    "fr": "Désolé, quelque chose s'est mal passé.",
}


class DeskExpert:
    """The scripted expert (`ChatModel`).

    Args:
        detour: the share of tasks, in [0, 1], on which it takes a worse path.
        seed: which tasks those are, and how it talks.
    """

    name = "expert"

    def __init__(self, detour: float = 0.25, seed: int = 0) -> None:
        if not 0.0 <= detour <= 1.0:
            raise RecipeError(f"the expert's detour is {detour}; it must lie between 0 and 1.")
        self.detour = detour
        self.seed = seed

    def start(self, task: Task, *, limits: Limits, seed: int) -> _Session:
        if task.family not in PLANS:
            raise ModelError(
                f"task {task.id}: the desk's expert does not know the family {task.family!r}. "
                "It plays the tasks of the support desk only."
            )
        rng = seeded(f"desk|expert|{self.seed}|{seed}|{task.id}")
        strays = rng.random() < self.detour
        return _Session(task, rng, rng.choice(_possible(task)) if strays else None)


def _possible(task: Task) -> list[Detour]:
    """Return the detours that make sense for a task."""
    gold = task.gold.listed if task.gold else ()
    possible = [Detour.EXTRA_READ, Detour.WRONG_ANSWER, Detour.META]
    if gold:
        possible.append(Detour.WRONG_ID)
    if task.family in _BLIND_WRITES:
        possible.append(Detour.SKIP_CHECK)
    if any(key in _ENUMS for call in gold for key in call.arguments):
        possible.append(Detour.WRONG_ENUM)
    if any(call.name in WRITERS for call in gold):
        possible.append(Detour.DROP_WRITE)
    return possible


class _Session:
    """One conversation of the expert."""

    def __init__(self, task: Task, rng: random.Random, detour: Detour | None) -> None:
        self._task = task
        self._rng = rng
        self._detour = detour
        self._offered = {spec.name for spec in task.tools}
        self._heard = Hearing(task.language)
        self._before: list[Message] = []
        self._calls = 0
        self._moves = self._walk(PLANS[task.family](self._heard))
        self._begun = False

    async def reply(self, new: Sequence[Message]) -> ModelTurn:
        self._before += new
        self._heard.turns += [m.content for m in new if isinstance(m, UserMessage)]
        results = [json.loads(m.content) for m in new if isinstance(m, ToolMessage)]
        message = self._turn(results)
        self._before.append(message)
        return ModelTurn(message=message)

    def clip(self, text: str, max_tokens: int) -> str:
        limit = max_tokens * _CHARS_A_TOKEN
        return text if len(text) <= limit else text[: limit - len(_CUT)] + _CUT

    def segments(self) -> tuple[TokenSegment, ...]:
        return ()

    def close(self) -> None:
        self._moves.close()

    def _turn(self, results: Sequence[Any]) -> AssistantMessage:
        try:
            move = self._moves.send(results) if self._begun else next(self._moves)
            self._begun = True
        except (KeyError, IndexError, TypeError, ValueError, StopIteration):
            # The tools (a cache, say) answered something that the plan cannot go on from.
            return AssistantMessage(content=_SORRY[self._task.language])
        if isinstance(move, Say):
            return AssistantMessage(content=move.text)
        calls = []
        for name, arguments in move.calls:
            self._calls += 1
            calls.append(ToolCall(id=f"call_{self._calls}", name=name, arguments=arguments))
        turn = AssistantMessage(calls=tuple(calls))
        return AssistantMessage(content=self._words(turn), calls=turn.calls)

    def _words(self, turn: AssistantMessage) -> str:
        """Return what stands beside the calls: nothing, words to the customer, or reasoning."""
        kind = self._rng.random()
        if kind < 0.25:
            return ""
        if kind < 0.5:
            return self._rng.choice(_WAIT[self._task.language])
        return explain(self._task, self._before, turn)

    # ---------------------------------------------------------------------------------- detours

    def _walk(self, plan: Plan) -> Generator[Act | Say, Sequence[Any], None]:
        """Walk the plan, with the detour where it comes in; yields moves, is sent results."""
        last_write = self._last_write()
        acts = 0
        writes = 0
        results: Sequence[Any] = []
        move: Act | Say = next(plan)
        if self._detour is Detour.EXTRA_READ and isinstance(move, Say):
            extra = self._read_from_words()
            if extra is not None:
                yield extra
        while True:
            if isinstance(move, Act):
                writing = any(name in WRITERS for name, _ in move.calls)
                writes += writing
                if acts == 0 and self._detour is Detour.WRONG_ID:
                    yield self._mistyped(move)
                if self._detour is Detour.SKIP_CHECK and self._is_check(move):
                    blind = self._blind_write(move)
                    answers = yield blind
                    if "error" not in answers[0]:
                        yield self._claim(plan, move, answers)
                        return
                if self._detour is Detour.WRONG_ENUM and writing:
                    move = self._other_enum(move)
                if self._detour is Detour.DROP_WRITE and writing and writes == last_write:
                    results = [self._made_up(name, arguments) for name, arguments in move.calls]
                else:
                    results = yield move
                acts += 1
                if acts == 1 and self._detour is Detour.EXTRA_READ:
                    yield self._another_read(move, results)
            else:
                results = yield self._spoken(move)
            move = plan.send(results)

    def _last_write(self) -> int:
        """Return which writing turn, counted from 1, is the last."""
        gold = self._task.gold.listed if self._task.gold else ()
        return len({call.step for call in gold if call.name in WRITERS})

    def _mistyped(self, move: Act) -> Act:
        name, arguments = move.calls[0]
        key = next(iter(arguments))
        value = str(arguments[key])
        places = [i for i, c in enumerate(value) if c.isdigit()] or [0]
        place = self._rng.choice(places)
        other = self._rng.choice([d for d in "123456789" if d != value[place]])
        return Act(calls=((name, arguments | {key: value[:place] + other + value[place + 1 :]}),))

    def _is_check(self, move: Act) -> bool:
        """Whether the move reads what the family's blind write would change."""
        if len(self._heard.turns) < len(self._task.user_turns):
            return False  # what is to be written comes last
        return move.calls[0][0] in ("get_order", "get_ticket")

    def _blind_write(self, move: Act) -> Act:
        name = _BLIND_WRITES[self._task.family]
        arguments = dict(move.calls[0][1])
        if name == "change_address":
            arguments["city"] = self._heard.city
        return Act(calls=((name, arguments),))

    def _claim(self, plan: Plan, check: Act, answers: Sequence[Any]) -> Say:
        """Return the plan's answer after a blind write that worked: it was processing, or open."""
        key = "order_id" if "order_id" in check.calls[0][1] else "ticket_id"
        status = "processing" if key == "order_id" else "open"
        plan.send([{key: check.calls[0][1][key], "status": status, "customer_id": ""}])
        return cast(Say, plan.send(answers))

    def _other_enum(self, move: Act) -> Act:
        calls = []
        for name, arguments in move.calls:
            keys = [key for key in arguments if key in _ENUMS]
            changed = dict(arguments)
            if keys:
                key = self._rng.choice(keys)
                changed[key] = self._rng.choice([v for v in _ENUMS[key] if v != arguments[key]])
            calls.append((name, changed))
        return Act(calls=tuple(calls))

    def _made_up(self, name: str, arguments: JsonObject) -> JsonObject:
        """Return what a careless agent imagines that the write would have said."""
        imagined: JsonObject = dict(arguments) | {"status": "closed"}
        if name == "create_ticket":
            imagined["ticket_id"] = f"T-{self._rng.randrange(1000, 10000)}"
        return imagined

    def _reads(self, known: JsonObject) -> Iterator[Act]:
        """Yield the reads on offer for which the arguments are known."""
        for name in sorted(self._offered & READERS):
            keys = SPEC[name].parameters["required"]
            if all(key in known for key in keys):
                yield Act(calls=((name, {key: known[key] for key in keys}),))

    def _another_read(self, move: Act, results: Sequence[Any]) -> Act:
        """Return a read of something just seen, or the same call once more."""
        name, arguments = move.calls[0]
        known: JsonObject = dict(arguments)
        if results and isinstance(results[0], dict):
            known |= results[0]
        others = [act for act in self._reads(known) if act.calls[0][0] != name]
        return self._rng.choice(others) if others else Act(calls=(move.calls[0],))

    def _read_from_words(self) -> Act | None:
        """Return a read of something that the customer named, though nothing should be read."""
        heard = self._heard
        known: JsonObject = {"query": "help"}
        if heard.emails:
            known["email"] = heard.emails[0]
        if heard.has_customer:
            known["customer_id"] = heard.customer
        return next(self._reads(known), None)

    def _spoken(self, say: Say) -> Say:
        """Return the answer as the detour has it. Earlier answers of a conversation stay right."""
        if len(self._heard.turns) < len(self._task.user_turns):
            return say
        language = self._task.language
        if self._detour is Detour.META:
            return Say(text=_META[language] + say.text, must=say.must)
        if self._detour is Detour.WRONG_ANSWER:
            # Every digit moves on by one, so ids and amounts are wrong; vague where that says nothing.
            text = say.text.translate(str.maketrans("123456789", "234567891"))
            valued = self._task.gold and any(c.isdigit() for c in str(self._task.gold.answer.must))
            return Say(
                text=text if valued and text != say.text else _VAGUE[language], must=say.must
            )
        return say
