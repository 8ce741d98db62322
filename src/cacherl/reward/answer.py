"""Was the answer right? Rules for tasks that have them; `reward/judge.py` is for everyone else."""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal
from typing import Protocol

from cacherl.core.messages import AssistantMessage
from cacherl.core.tasks import AnswerRule, Task
from cacherl.core.trajectories import StopReason, Trajectory

# ---- rules -----------------------------------------------------------------------------------

_QUOTES = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "“": '"', "”": '"', "«": '"', "»": '"'})
_DASHES = str.maketrans(dict.fromkeys("‐‑‒–—−", "-"))
_NUMBER = re.compile(r"(?:(?<!\w)-)?(?<![\w.])\d+(?:\.\d+)*(?!\w)")
_PLAIN_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?")


def _plain(text: str) -> str:
    """Return the text as rules compare it: case, quotes, dashes, spaces and number signs unified."""
    text = re.sub(r"(?<=\d)[\u00a0\u202f\u2009](?=\d{3}(?!\d))", "", text)  # 1 500 in French print
    text = unicodedata.normalize("NFKC", text).translate(_QUOTES).translate(_DASHES)
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)  # 1,500
    text = re.sub(r"(?<=\d),(?=\d{1,2}(?!\d))", ".", text)  # 42,50
    return " ".join(text.casefold().split())


def _value(number: str) -> Decimal | None:
    # 007 and 2024.05.01 are codes, not quantities: they only equal themselves.
    return Decimal(number) if _PLAIN_NUMBER.fullmatch(number) else None


def says(text: str, phrase: str) -> bool:
    """Does the text say the phrase, as whole numbers and from the start of a word on?

    42 is said by `42.00` and `42 euros` but not by 142, 42.5 or A42; `refund` is said by `refunded`;
    `available` is not said by `unavailable`. Case, typographic quotes and spaces, decimal commas
    and thousands separators do not matter.
    """
    return _says(_plain(text), _plain(phrase))


def _says(text: str, phrase: str) -> bool:
    if not phrase:
        return False
    wanted = _value(phrase)
    if wanted is not None:
        return any(_value(found.group()) == wanted for found in _NUMBER.finditer(text))
    pattern = re.escape(phrase)
    if re.match(r"\w", phrase):
        pattern = r"(?<!\w)" + pattern
    if phrase[0].isdigit():
        pattern = r"(?<!\d\.)" + pattern
    if phrase[-1].isdigit():
        pattern += r"(?!\w)(?!\.(?!0{1,2}(?!\d))\d)"
    return re.search(pattern, text) is not None


def answer_score(rule: AnswerRule, text: str) -> float:
    """Return the share of the rule's groups that the text satisfies, in [0, 1].

    0 when the text is blank or says something it must not.
    """
    text = _plain(text)
    if not text or any(_says(text, _plain(phrase)) for phrase in rule.must_not):
        return 0.0
    if not rule.must:
        return 1.0
    said = sum(any(_says(text, _plain(phrase)) for phrase in group) for group in rule.must)
    return said / len(rule.must)


def answer_ok(rule: AnswerRule, text: str) -> bool:
    """Does the text say everything the rule asks for, and nothing it forbids?"""
    return answer_score(rule, text) == 1.0


def final_answer(trajectory: Trajectory) -> str:
    """Return what the user was told at the end, or "" where the episode ended otherwise."""
    if trajectory.stop is not StopReason.ANSWER or not trajectory.messages:
        return ""
    last = trajectory.messages[-1]
    return last.content if isinstance(last, AssistantMessage) else ""


# ---- meta-reasoning --------------------------------------------------------------------------

# Each pattern is a sentence of somebody planning an answer, not giving one. They are anchored to the start of a
# sentence and to a first person or to "the user" as a third person, because "You should reply to
# the email" and "the user account is active" are good answers.
_SENTENCE = r"(?:^|[.!?:;\n]\s*|\b(?:okay|ok|so|alright|hmm|wait|now|first|bon|alors|donc|d'accord|voyons)[,.]?\s+)"
_META = re.compile(
    _SENTENCE
    + r"(?:"
    + r"|".join(
        [
            # English
            r"the user(?: is asking|'s (?:question|request) (?:is|asks)| asked| asks| wants| said| says| needs me)",
            r"(?:i|we) (?:should|need to|must|have to|will|am going to|can now) "
            r"(?:now |just |probably )?(?:answer the (?:user|question)|respond (?:to the user|with|by)|"
            r"reply (?:to the user|with|by)|craft|formulate|write (?:a|the|my) (?:response|answer|reply)|"
            r"provide (?:a|the|my) (?:final |clear |concise |helpful )?(?:response|answer)|"
            r"call the (?:tool|function)|use the \w+ (?:tool|function)|think about how)",
            r"let me (?:think|craft|formulate|figure out (?:how|what)|consider how|reason through)\b",
            r"let's (?:think|craft|formulate|reason through)\b",
            r"(?:my|the) (?:final )?(?:answer|response|reply) (?:should|must|needs to)\b",
            r"in my (?:answer|response|reply),? i\b",
            r"(?:as an? (?:ai|assistant|language model),? )?the assistant (?:should|must|needs to)\b",
            # French
            r"l'utilisat(?:eur|rice) (?:demande|veut|souhaite|a demandé|voudrait|me demande)\b",
            r"(?:je dois|je devrais|il faut que je|il me faut|je vais (?:maintenant )?|nous devons|on doit) ?"
            r"(?:maintenant )?(?:répond(?:re|e)|rédiger|formuler|réfléchi(?:r|sse)|appeler l'outil|utiliser l'outil)"
            r"(?! (?:à votre (?:client|courriel|mail)))",
            r"(?:réfléchissons|laissez-moi réfléchir|laisse-moi réfléchir)\b",
            r"(?:ma|la) réponse (?:finale )?(?:doit|devrait)\b",
            r"dans ma réponse,? je\b",
            r"l'assistant (?:doit|devrait)\b",
        ]
    )
    + r")",
    re.MULTILINE,
)


def is_meta_reasoning(text: str) -> bool:
    """Does the answer talk about how to answer, in English or French, instead of answering?

    Tuned for few false alarms: a sentence has to open with the plan ("The user wants ...", "I should
    respond with ...", "Je dois répondre ..."). An answer that only mentions a user or a reply is none.

    Source: CacheRL, arXiv:2606.14179, meta-reasoning penalty: such answers are clamped to 0.
    """
    folded = unicodedata.normalize("NFKC", text).translate(_QUOTES).casefold()
    return _META.search(folded) is not None


# ---- judges ----------------------------------------------------------------------------------


class Judge(Protocol):
    """Scores the final answer of an episode."""

    async def score(self, task: Task, trajectory: Trajectory) -> float:
        """Return how good the final answer is, in [0, 1]; 0 where there is none.

        Raises `ModelError` when the judge cannot be reached or does not judge.
        """
        ...


class RuleJudge:
    """Scores by the task's answer rule. Meta-reasoning is clamped to 0."""

    async def score(self, task: Task, trajectory: Trajectory) -> float:
        """See `Judge.score`."""
        return rule_score(task, trajectory)


def rule_score(task: Task, trajectory: Trajectory) -> float:
    """Return the answer's score by the task's own rule, in [0, 1], meta-reasoning clamped to 0.

    Raises:
        ValueError: the task has no gold, so a judge has to score it.
    """
    if task.gold is None:
        raise ValueError(f"task {task.id} has no answer rule; score it with a judge")
    text = final_answer(trajectory)
    return 0.0 if is_meta_reasoning(text) else answer_score(task.gold.answer, text)
