"""Completions without a network, for the wrappers: they answer what they are told to, and count."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from cacherl.core.completions import CompletionReply, CompletionRequest
from cacherl.teacher.failure import EndpointError, Failure

MODEL = "openai:m"

Answer = CompletionReply | EndpointError


def request(
    text: str = "hello", *, purpose: str = "record/t1/0", max_tokens: int = 10
) -> CompletionRequest:
    return CompletionRequest(
        model="m",
        messages=({"role": "user", "content": text},),
        max_tokens=max_tokens,
        purpose=purpose,
    )


def reply(text: str = "hi", *, prompt: int = 20, completion: int = 5) -> CompletionReply:
    return CompletionReply(
        message={"content": text},
        finish_reason="stop",
        prompt_tokens=prompt,
        completion_tokens=completion,
    )


def failure(kind: Failure, retry_after_s: float | None = None) -> EndpointError:
    return EndpointError(f"it is {kind}", kind=kind, retry_after_s=retry_after_s)


class Told:
    """`Completions` that answer by a function of (request, how many were asked before it)."""

    name = MODEL

    def __init__(
        self,
        answer: Callable[[CompletionRequest, int], Answer] = lambda _, __: reply(),
        *,
        steps: int = 1,
    ) -> None:
        """`steps` turns of the event loop pass before each answer."""
        self._answer = answer
        self._steps = steps
        self.asked: list[CompletionRequest] = []
        self.under_way = 0
        self.most_under_way = 0
        self.closed = False

    async def complete(self, request: CompletionRequest) -> CompletionReply:
        number = len(self.asked)
        self.asked.append(request)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            for _ in range(self._steps):
                await asyncio.sleep(0)
        finally:
            self.under_way -= 1
        answer = self._answer(request, number)
        if isinstance(answer, EndpointError):
            raise answer
        return answer

    async def aclose(self) -> None:
        self.closed = True
