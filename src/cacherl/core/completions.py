"""The seam to a provider's chat completions: one request, one reply, what it cost.

Everything that a paid teacher needs stands between a `ChatModel` and this seam as a wrapper that is a
`Completions` itself: budget, pace, journal, batch. Outermost first:

    journal (has this very request been answered?) -> retries (once more?) -> budget (may it be asked?)
      -> pace (may it be asked now?) -> live client, or batch
"""

from __future__ import annotations

from typing import Protocol

from cacherl.core.records import JsonObject, Record


class CompletionRequest(Record, frozen=True, kw_only=True):
    """What is asked, whole: two equal requests may be given the same reply."""

    model: str
    """The provider's name for the model, after `provider:` where the endpoint serves several."""
    messages: tuple[JsonObject, ...]
    """OpenAI chat messages."""
    tools: tuple[JsonObject, ...] = ()
    """OpenAI function tools."""
    max_tokens: int
    temperature: float | None = None
    """None leaves it to the endpoint."""
    seed: int | None = None
    extra: JsonObject = {}
    """Further fields of the request, such as `{"top_k": 20}`."""
    purpose: str = ""
    """Whose request this is, for the ledger and to tell apart draws that must differ:
    `record/<task>/<rollout>`, `augment/<task>`, `judge/<task>/<sample>`. Part of the identity."""


class CompletionReply(Record, frozen=True, kw_only=True):
    """What came back, and what it cost."""

    message: JsonObject
    """The assistant message as the endpoint wrote it: `content`, `tool_calls`, `reasoning_content`, ..."""
    finish_reason: str | None = None
    """`length` where the token limit came first."""
    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    """Of `prompt_tokens`, those the provider bills as cached."""
    cache_write_prompt_tokens: int = 0
    """Of `prompt_tokens`, those billed as written to the provider's cache."""
    completion_tokens: int = 0
    """Reasoning included."""
    batched: bool = False
    """Came through the provider's batch endpoint, at its price."""
    context_full: bool = False
    """The conversation no longer fits; `message` is empty and nothing was billed."""
    estimated: bool = False
    """The endpoint told no usage; the token counts are guesses from lengths."""


class KeptReply(CompletionReply, frozen=True, kw_only=True):
    """A reply that was paid for before and kept: nothing was sent for it now."""


class Completions(Protocol):
    """Whoever answers chat requests. Any number may be under way at once."""

    @property
    def name(self) -> str:
        """What ledgers and messages call the endpoint."""
        ...

    async def complete(self, request: CompletionRequest) -> CompletionReply:
        """Return the reply.

        Raises:
            ModelError: no reply, or a refusal; one line with what was seen and the fix.
            BudgetError: it may not be asked: the budget is spent.
        """
        ...

    async def aclose(self) -> None:
        """Close connections and files. Safe to call twice."""
        ...
