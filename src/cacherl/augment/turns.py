"""Kinds of assistant turns, and what each needs.

Source: CacheRL, arXiv:2606.14179, knowledge transfer.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from cacherl.core.messages import AssistantMessage


class TurnClass(enum.StrEnum):
    """What an assistant turn is, and so what it needs."""

    USER_FACING = "user_facing"
    """Calls tools, with words for the user or none at all."""
    ANALYTICAL = "analytical"
    """Calls tools, and its words are already the reasoning."""
    FINAL = "final"
    """Calls nothing: it answers a user turn."""


THIRD_PERSON = re.compile(
    r"\b(?:the (?:user|customer|client)|l['’]utilisat(?:eur|rice)|l[ea] client(?:e)?)\b",
    re.IGNORECASE,
)
"""Nobody speaks to a person and calls them `the user`."""

REASONING = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        # obligation and plan
        r"\b(?:i|we) (?:need|have|must|should|want|will need)\b",
        r"\b(?:i|we) can(?:not|'t)? (?:not )?(?:be sure|know|tell|assume)\b",
        r"\b(?:je dois|nous devons|il (?:me )?faut|il faudrait)\b",
        # order
        r"\b(?:first|next step|before (?:i|we|that|any)|afterwards|then (?:i|we|call|use))\b",
        r"\b(?:d['’]abord|ensuite|avant (?:de|d['’])|prochaine étape|étape suivante|puis (?:je|il))",
        # cause
        r"\b(?:because|since|therefore|so that|which means|this means|thus|hence)\b",
        r"\b(?:parce qu|puisqu|donc|car|afin d|ce qui (?:veut dire|signifie)|par conséquent)",
        # evidence
        r"\b(?:the (?:result|output|response|policy|tool) (?:shows|says|gives|returned|allows|forbids))\b",
        r"\b(?:le résultat|la politique|la règle|l['’]outil) (?:montre|dit|donne|indique|permet|interdit)",
        # deliberation
        r"\b(?:let me think|hmm|wait,|alternatively|it seems|the right tool)\b",
        r"\b(?:voyons|réfléchissons|il semble|le bon outil)\b",
    )
)
ADDRESS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"\b(?:you|your|yours)\b",
        r"\b(?:vous|votre|vos|toi|ton|tes)\b",
        r"\b(?:please|sorry|apolog|thank|let['’]s)",
        r"\b(?:s['’]il (?:vous|te) pla|désolé|excuse|merci|bonjour)",
        r"^(?:hello|hi|sure|of course|certainly|bien sûr|certainement)\b",
    )
)


def reads_as_reasoning(text: str) -> bool:
    """Return whether the words reason about the task rather than speak to the person.

    The rule: a point for each family of cue in `REASONING`, two for a person in the third
    person (`THIRD_PERSON`). Reasoning has at least two points, and addresses nobody (`ADDRESS`); where it
    names the person in the third person it may quote their words, and needs more points than it has
    address. English and French; other languages have few cues and come out as not reasoning, which
    costs a teacher call and spoils nothing.
    """
    points = sum(cue.search(text) is not None for cue in REASONING)
    address = sum(cue.search(text.strip()) is not None for cue in ADDRESS)
    if THIRD_PERSON.search(text) is not None:
        return points + 2 > address
    return points >= 2 and address == 0


def turn_class(turn: AssistantMessage) -> TurnClass:
    """Return what the turn is; a function of the turn alone."""
    if not turn.calls:
        return TurnClass.FINAL
    return TurnClass.ANALYTICAL if reads_as_reasoning(turn.content) else TurnClass.USER_FACING


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentOptions:
    """How turns are treated."""

    keep_content: bool = False
    """Keep words to the user in turns that call tools. Without them the turn is thinking and calls
    only, which is shorter and what the chat format of a thinking model expects."""
    keep_thinking: bool = True
    """Keep the thinking of a policy that thought; otherwise it is thrown away and made anew."""


class Treatment(enum.Enum):
    """Where a turn's thinking comes from."""

    KEPT = enum.auto()
    """It has some already."""
    WRAPPED = enum.auto()
    """Its own words become the thinking."""
    EXPLAINED = enum.auto()
    """Whoever knows why is asked."""


def treatment(turn: AssistantMessage, options: AugmentOptions) -> Treatment:
    """Return where the turn's thinking comes from; a function of the turn and the options alone."""
    if options.keep_thinking and turn.thinking:
        return Treatment.KEPT
    if turn_class(turn) is TurnClass.ANALYTICAL and clean_reason(turn.content):
        return Treatment.WRAPPED
    return Treatment.EXPLAINED


_MARKUP = re.compile(r"</?think>", re.IGNORECASE)
_CALL = re.compile(r"<\s*/?\s*tool_(?:call|response)\b.*", re.IGNORECASE | re.DOTALL)


def clean_reason(text: str) -> str:
    """Return the text as it may stand between think tags: no think tags, nothing from a call on."""
    while (cleaned := _MARKUP.sub("", _CALL.sub("", text)).strip()) != text:
        text = cleaned  # taking a tag out of `<th<think>ink>` makes another
    return cleaned
