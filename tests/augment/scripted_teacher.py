"""An OpenAI-compatible endpoint on this machine that keeps every request, whole, and says what a test tells it."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

Says = Callable[[dict[str, Any]], str | int]
"""Handed the request's body: the words of the answer, or an HTTP status to refuse with."""


class ScriptedTeacher:
    """Serves in a thread while the `with` block lasts."""

    def __init__(self, says: Says = lambda body: "I go on, since that is asked.") -> None:
        self.says = says
        self.heard: list[str] = []
        """The bodies of all requests, as they came over the wire."""
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"
        app = Starlette(routes=[Route("/v1/chat/completions", self._chat, methods=["POST"])])
        self._server = uvicorn.Server(
            uvicorn.Config(app, log_level="critical", lifespan="off", ws="none")
        )
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True
        )

    @property
    def name(self) -> str:
        return f"openai:scripted@{self.url}"

    def questions(self) -> list[str]:
        """Return the user message of every request."""
        return [json.loads(body)["messages"][-1]["content"] for body in self.heard]

    async def _chat(self, request: Request) -> Response:
        raw = await request.body()
        self.heard.append(raw.decode())
        said = self.says(json.loads(raw))
        if isinstance(said, int):
            return JSONResponse({"error": {"message": "no", "type": "fault"}}, status_code=said)
        return JSONResponse(
            {
                "id": "1",
                "object": "chat.completion",
                "created": 1,
                "model": "scripted",
                "choices": [
                    {
                        "index": 0,
                        "message": {"role": "assistant", "content": said},
                        "finish_reason": "stop",
                    }
                ],
                "usage": {"prompt_tokens": len(raw) // 4, "completion_tokens": len(said) // 4},
            }
        )

    def __enter__(self) -> ScriptedTeacher:
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()
