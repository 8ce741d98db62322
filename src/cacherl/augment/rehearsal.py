"""What augmenting would ask and cost: the stage itself, with nobody at the other end."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, cast

import msgspec

from cacherl.augment.folder import PURPOSE
from cacherl.augment.reasoners import ChatReasoner
from cacherl.augment.stage import augment
from cacherl.augment.turns import AugmentOptions
from cacherl.core.completions import CompletionReply, CompletionRequest
from cacherl.core.folders import DataFolder
from cacherl.core.jsonl import decode_line, read_jsonl
from cacherl.core.languages import Detect
from cacherl.core.records import Record
from cacherl.core.task_file import TaskFile
from cacherl.core.trajectories import Trajectory
from cacherl.teacher.chat import CHARS_PER_TOKEN, EndpointChat
from cacherl.teacher.journal import REQUESTS
from cacherl.teacher.lines import JournalLine, Replied, digest_of
from cacherl.teacher.options import Endpoint, TeacherOptions
from cacherl.teacher.prices import NANO, PriceTable, TokensUsed

GUESSED_TOKENS = 150
"""Of an answer of two to six sentences, where no earlier answer tells. A teacher that thinks first writes more."""


class Estimate(Record, frozen=True, kw_only=True):
    """What a run would ask."""

    trajectories: int
    turns: int
    by_class: dict[str, int]
    without_teacher_share: float
    """Share of turns that need no new reasoning, in [0, 1]."""
    left_out: dict[str, int]
    questions: int
    """To be sent, second questions apart."""
    on_file: int
    """Questions that the journal answers for free."""
    prompt_tokens: int
    """Estimated from lengths."""
    likely_completion_tokens: int
    most_completion_tokens: int
    """With every answer as long as it may be."""
    basis: str
    """Where the length of an answer comes from."""
    likely_dollars: float | None
    most_dollars: float | None
    prices: str | None
    """Where the price comes from, and of when it is; None where none is known."""


@dataclass(slots=True)
class _Answered:
    """What the journal holds for this purpose."""

    digests: set[str]
    completion_tokens: int = 0

    @classmethod
    def read(cls, journal: Path) -> _Answered:
        found = cls(set())
        path = journal / REQUESTS
        if not path.exists():
            return found
        with path.open("rb") as handle:
            for number, raw in enumerate(handle, 1):
                if not raw.endswith(b"\n"):  # a run writes to it now, or was killed
                    break
                line: JournalLine = decode_line(raw, cast(Any, JournalLine), f"{path}:{number}")
                if isinstance(line, Replied) and line.purpose.startswith(f"{PURPOSE}/"):
                    found.digests.add(line.digest)
                    found.completion_tokens += line.reply.completion_tokens
        return found


class _Nobody:
    """`Completions` that answers a dash, and counts what it would have been asked."""

    def __init__(self, name: str, answered: _Answered) -> None:
        self.name = name
        self._answered = answered
        self.questions = self.on_file = self.prompt_tokens = 0

    async def complete(self, request: CompletionRequest) -> CompletionReply:
        if digest_of(self.name, request) in self._answered.digests:
            self.on_file += 1
        else:
            self.questions += 1
            body = msgspec.json.encode(request.messages).decode()
            self.prompt_tokens += len(body) // CHARS_PER_TOKEN
        return CompletionReply(message={"role": "assistant", "content": "-"})

    async def aclose(self) -> None:
        pass


async def rehearse(
    folder: DataFolder,
    teacher: str | None,
    teacher_options: TeacherOptions,
    *,
    options: AugmentOptions,
    detect: Detect | None,
    max_tokens: int,
    limit: int | None,
    now: datetime,
) -> Estimate:
    """Return what augmenting the folder would ask the teacher. Writes nothing and asks nobody.

    Without a `teacher` nobody is paid, and nothing is on file.

    Raises:
        RecipeError: no such teacher.
        DataError: a file of the folder is missing or damaged.
    """
    endpoint = Endpoint.parse(teacher or "nobody:nobody")
    answered = _Answered.read(folder.journal)
    nobody = _Nobody(endpoint.name, answered)
    model = EndpointChat(
        nobody,
        model=endpoint.model,
        purpose=PURPOSE,
        temperature=teacher_options.temperature,
        send_seed=teacher_options.send_seed,
        extra=teacher_options.extra,
    )
    with TaskFile(folder.tasks) as tasks:
        trajectories = read_jsonl(folder.trajectories, Trajectory, drop_torn_tail=True)
        run = await augment(
            tasks,
            islice(trajectories, limit),
            ChatReasoner(model, max_tokens=max_tokens),
            None,
            options=options,
            detect=detect,
            concurrency=1,
        )
    known = len(answered.digests)
    each = round(answered.completion_tokens / known) if known else GUESSED_TOKENS
    prices = PriceTable.read(teacher_options.prices, folder.journal)
    likely, most = nobody.questions * each, nobody.questions * max_tokens

    def dollars(completion: int) -> float | None:
        # One question at a time: a price may depend on a prompt's length.
        count = max(1, nobody.questions)
        nano = prices.nanodollars(
            endpoint.name,
            TokensUsed(prompt=nobody.prompt_tokens // count, completion=completion // count),
            at=now,
            batched=teacher_options.batch,
        )
        return None if nano is None else nano * nobody.questions / NANO

    return Estimate(
        trajectories=run.trajectories,
        turns=run.turns,
        by_class=run.by_class,
        without_teacher_share=run.without_teacher_share,
        left_out=run.left_out,
        questions=nobody.questions,
        on_file=nobody.on_file,
        prompt_tokens=nobody.prompt_tokens,
        likely_completion_tokens=likely,
        most_completion_tokens=most,
        basis=f"the {known:,} answers on file" if known else f"{GUESSED_TOKENS} tokens an answer",
        likely_dollars=dollars(likely),
        most_dollars=dollars(most),
        prices=prices.source(endpoint.name),
    )
