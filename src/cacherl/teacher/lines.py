"""What stands in the journal: one line for each thing that happened between us and an endpoint."""

from __future__ import annotations

import hashlib
from datetime import datetime

import msgspec

from cacherl.core.completions import CompletionReply, CompletionRequest
from cacherl.core.records import Record
from cacherl.teacher.failure import Failure

DIGEST_SCHEME = "1"  # part of every digest: bump it and old replies are asked for anew, not misread

_ENCODER = msgspec.json.Encoder(order="deterministic")


def digest_of(endpoint: str, request: CompletionRequest) -> str:
    """Return the identity of a request: 32 hex digits over all of it, its purpose and its endpoint.

    The order of keys inside JSON objects does not matter; everything else does.
    """
    body = _ENCODER.encode([DIGEST_SCHEME, endpoint, request])
    return hashlib.blake2b(body, digest_size=16).hexdigest()


def prompt_bound(request: CompletionRequest) -> int:
    """Return a number of prompt tokens that the request cannot exceed.

    No tokenizer in use spends more than one token on a byte of text. The constants cover what
    providers add themselves (chat markup; a system prompt of their own where there are tools).
    """
    body = msgspec.json.encode([request.messages, request.tools])
    return len(body) + (1024 if request.tools else 64)


class Worst(Record, frozen=True, kw_only=True):
    """The most that a request can cost."""

    model: str
    """As the person named it: `openai:gpt-5`."""
    prompt_tokens: int
    completion_tokens: int
    batched: bool = False


class Line(Record, frozen=True, kw_only=True, tag_field="kind"):
    """What every line says."""

    digest: str
    purpose: str
    model: str
    at: datetime


class Asked(Line, frozen=True, kw_only=True, tag="asked"):
    """A request is about to be sent. Without a later `Replied` or `Failed` it may have been billed."""

    prompt_bound: int
    max_tokens: int
    batched: bool = False

    @property
    def worst(self) -> Worst:
        """The most that it can cost."""
        return Worst(
            model=self.model,
            prompt_tokens=self.prompt_bound,
            completion_tokens=self.max_tokens,
            batched=self.batched,
        )


class Failed(Line, frozen=True, kw_only=True, tag="failed"):
    """The attempt that was asked last under this digest brought no reply."""

    failure: Failure


class Replied(Line, frozen=True, kw_only=True, tag="replied"):
    """The reply, whole."""

    reply: CompletionReply


class Reused(Line, frozen=True, kw_only=True, tag="reused"):
    """The journal answered; nothing was sent."""


class BatchPlanned(Record, frozen=True, kw_only=True, tag_field="kind", tag="batch_planned"):
    """A batch is about to be submitted, under a name of ours by which it can be found again."""

    name: str
    model: str
    digests: tuple[str, ...]
    at: datetime


class BatchSubmitted(Record, frozen=True, kw_only=True, tag_field="kind", tag="batch_submitted"):
    """The endpoint took the batch, under an id of its own."""

    name: str
    id: str
    at: datetime


class BatchEnded(Record, frozen=True, kw_only=True, tag_field="kind", tag="batch_ended"):
    """All that came of the batch stands in the journal."""

    name: str
    status: str
    at: datetime


JournalLine = Asked | Failed | Replied | Reused | BatchPlanned | BatchSubmitted | BatchEnded
