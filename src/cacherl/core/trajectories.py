"""What happened in one episode, complete enough to score, train on, replay and explain."""

from __future__ import annotations

import enum

from cacherl.core.messages import Message
from cacherl.core.records import JsonObject, Record
from cacherl.core.tools import ToolResult


class StopReason(enum.StrEnum):
    """Why an episode ended. Everything but ANSWER is a failure the report counts."""

    ANSWER = "answer"
    """The model answered the last user turn without a call."""
    MAX_TURNS = "max_turns"
    """The model kept calling tools until its turns were used up."""
    TRUNCATED = "truncated"
    """A model turn hit its token limit before it closed."""
    CONTEXT_FULL = "context_full"
    """The conversation would have outgrown the context."""
    MODEL_FAILED = "model_failed"
    """The model could not be reached; an infrastructure failure, never scored as the model's."""
    TOOLS_FAILED = "tools_failed"
    """The tools could not be used at all; an infrastructure failure."""


class TokenSegment(Record, frozen=True, kw_only=True):
    """One token stream the model really saw and sampled: a prompt and its continuation.

    A conversation whose template rewrites history at a new user turn (Qwen3 drops old
    thinking) is several segments, one a user turn; no id is ever re-tokenized within one.
    """

    prompt_ids: tuple[int, ...]
    """Shape [P]: everything before the first sampled token."""
    completion_ids: tuple[int, ...]
    """Shape [T]: sampled and injected ids in order."""
    mask: tuple[int, ...]
    """Shape [T]: 1 on ids the model sampled, 0 on injected ones (tool results, headers)."""
    logprobs: tuple[float, ...] | None = None
    """Shape [T]: log p of each sampled id at the sampling temperature; 0.0 where mask is 0."""


class Usage(Record, frozen=True, kw_only=True):
    """What an episode cost."""

    prompt_tokens: int = 0
    """Tokens the model read, summed over its turns as a server without a prefix cache bills them."""
    completion_tokens: int = 0
    """Tokens the model wrote, thinking included."""
    model_s: float = 0.0
    """Wall seconds spent waiting for the model. Batched engines share them among the batch."""
    dollars: float | None = None
    """What a provider bills for it; None where nobody does, or a turn has no known price."""


class Trajectory(Record, frozen=True, kw_only=True):
    """One episode from the system message to its stop."""

    task_id: str
    policy: str
    """Who acted: `expert`, a checkpoint name, a provider's model name."""
    seed: int = 0
    rollout: int = 0
    """Index within the group of rollouts of this task."""
    messages: tuple[Message, ...]
    results: tuple[ToolResult, ...]
    """One per call, malformed ones included, in the order of the calls."""
    stop: StopReason
    segments: tuple[TokenSegment, ...] = ()
    """Empty for policies without token ids (the expert, provider APIs)."""
    final_state: str | None = None
    """The world's fingerprint after the episode; None where no live world ran."""
    usage: Usage = Usage()
    notes: JsonObject = {}
    """Free provenance: file and line of an import, the expert's detour, ..."""
