"""Real stand-ins for tests: small, deterministic, and honest about what they are."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cacherl.core.messages import AssistantMessage, Message, ToolCall
from cacherl.core.models import Limits, ModelTurn
from cacherl.core.tasks import Task
from cacherl.core.tools import ErrorClass, Source, Tier, ToolResult
from cacherl.core.trajectories import TokenSegment
from cacherl.token_chat import Sampled

if TYPE_CHECKING:
    from typing import Protocol

    class TorchModel(Protocol):
        """A causal language model of transformers."""

        def __call__(self, **inputs: Any) -> Any: ...


class ByteTokenizer:
    """Bytes as ids 0 to 255, and Qwen3's special tokens as one id each."""

    SPECIAL = (
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "<think>",
        "</think>",
        "<tool_call>",
        "</tool_call>",
        "<tool_response>",
        "</tool_response>",
    )
    vocab_size = 256 + len(SPECIAL)

    def __init__(self) -> None:
        self._ids = {token: 256 + i for i, token in enumerate(self.SPECIAL)}
        self._split = re.compile("(" + "|".join(map(re.escape, self.SPECIAL)) + ")")

    def encode(self, text: str) -> list[int]:
        """Return one id a special token and one a byte of all other text."""
        ids: list[int] = []
        for part in self._split.split(text):
            if part in self._ids:
                ids.append(self._ids[part])
            else:
                ids += part.encode("utf-8", "surrogatepass")
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text; bytes that are no UTF-8 become U+FFFD, as real tokenizers do."""
        out, run = [], bytearray()
        for i in ids:
            if i < 256:
                run.append(i)
            else:
                out += [run.decode("utf-8", "replace"), self.SPECIAL[i - 256]]
                run = bytearray()
        return "".join([*out, run.decode("utf-8", "replace")])


Script = AssistantMessage | ModelTurn | Exception


class ScriptedModel:
    """A `ChatModel` that says what it was told to say, turn by turn.

    Args:
        turns: the turns of every conversation, or a function from the task to them. An exception
            is raised in the place of the turn.
        name: what reports call it.
    """

    def __init__(
        self,
        turns: Iterable[Script] | Callable[[Task], Iterable[Script]],
        *,
        name: str = "scripted",
    ) -> None:
        self._turns = turns if callable(turns) else list(turns)
        self.name = name
        self.sessions: list[ScriptedSession] = []

    def start(self, task: Task, *, limits: Limits, seed: int) -> ScriptedSession:
        """Open a conversation; all opened ones stay in `sessions` for a test to look at."""
        turns = self._turns(task) if callable(self._turns) else self._turns
        session = ScriptedSession(list(turns), seed=seed)
        self.sessions.append(session)
        return session


class ScriptedSession:
    """One conversation of a `ScriptedModel`. See `ChatSession`."""

    def __init__(self, turns: list[Script], *, seed: int) -> None:
        self._turns = turns
        self.seed = seed
        self.seen: list[list[Message]] = []
        """What each `reply` was handed."""
        self.closed = 0

    async def reply(self, new: Sequence[Message]) -> ModelTurn:
        """Return the next turn of the script."""
        self.seen.append(list(new))
        if not self._turns:
            raise AssertionError("the script has no more turns")
        turn = self._turns.pop(0)
        if isinstance(turn, Exception):
            raise turn
        return turn if isinstance(turn, ModelTurn) else ModelTurn(message=turn, completion_tokens=1)

    def clip(self, text: str, max_tokens: int) -> str:
        """Count characters as tokens."""
        return text if len(text) <= max_tokens else text[:max_tokens] + "... [cut]"

    def segments(self) -> tuple[TokenSegment, ...]:
        """No ids, as a provider's model."""
        return ()

    def close(self) -> None:
        """Count the closings."""
        self.closed += 1


class DictTools:
    """Tools that are Python functions from arguments to text. See `Tools`."""

    def __init__(self, functions: Mapping[str, Callable[..., str]]) -> None:
        self._functions = functions
        self.calls: list[ToolCall] = []
        self.closed = 0

    async def call(self, call: ToolCall) -> ToolResult:
        """Run the function of the call's name; what it raises is an error result."""
        self.calls.append(call)
        try:
            text, failure = self._functions[call.name](**call.arguments), None
        except (LookupError, TypeError, ValueError) as error:
            text, failure = f'{{"error": "{error}"}}', ErrorClass.UNKNOWN
        return ToolResult(
            call_id=call.id,
            name=call.name,
            text=text,
            is_error=failure is not None,
            error_class=failure,
            tier=Tier.LIVE,
            source=Source.LIVE,
        )

    async def aclose(self) -> None:
        """Count the closings."""
        self.closed += 1


class ScriptedEngine:
    """An `Engine` that writes given ids, one list a turn, for every session alike."""

    def __init__(self, turns: Iterable[Sequence[int]], *, name: str = "scripted-engine") -> None:
        self._turns = [list(turn) for turn in turns]
        self._at: dict[str, int] = {}
        self.asked: list[tuple[str, list[int], int, int]] = []
        """Session, stream, max_new and min_new of every request."""
        self.name = name

    def open(self, session: str, *, seed: int) -> None:
        """Start the session's script."""
        self._at[session] = 0

    async def generate(
        self,
        session: str,
        ids: Sequence[int],
        *,
        max_new: int,
        min_new: int,
        stop_ids: frozenset[int],
    ) -> Sampled:
        """Return the next list of ids, cut at `max_new`."""
        self.asked.append((session, list(ids), max_new, min_new))
        turn = self._turns[self._at[session]]
        self._at[session] += 1
        cut = turn[:max_new]
        return Sampled(
            ids=cut, logprobs=[-0.5] * len(cut), truncated=not cut or cut[-1] not in stop_ids
        )

    def close(self, session: str) -> None:
        """Forget the session."""
        self._at.pop(session, None)


class NaiveEngine:
    """The engine as anyone would first write it: no KV, no batch, the whole stream read again for every id.

    Slow and obviously right: what `TransformersEngine` is compared with. Greedy.
    """

    def __init__(self, model: TorchModel, *, temperature: float = 1.0, name: str = "naive") -> None:
        self._model = model
        self._temperature = temperature
        self.name = name

    def open(self, session: str, *, seed: int) -> None:
        """Do nothing: it holds no state."""

    async def generate(
        self,
        session: str,
        ids: Sequence[int],
        *,
        max_new: int,
        min_new: int,
        stop_ids: frozenset[int],
    ) -> Sampled:
        """Take the most likely id, again and again."""
        import torch

        stream = list(ids)
        logprobs: list[float] = []
        while len(stream) < len(ids) + max_new:
            with torch.no_grad():
                logits = self._model(input_ids=torch.tensor([stream]), use_cache=False).logits[
                    0, -1
                ]
            scores = logits.float() / self._temperature
            allowed = scores.clone()
            if len(logprobs) < min_new:
                allowed[list(stop_ids)] = -torch.inf
            pick = int(allowed.argmax())
            stream.append(pick)
            logprobs.append(float(scores.log_softmax(-1)[pick]))
            if pick in stop_ids:
                break
        new = stream[len(ids) :]
        return Sampled(ids=new, logprobs=logprobs, truncated=new[-1] not in stop_ids)

    def close(self, session: str) -> None:
        """Do nothing: it holds no state."""
