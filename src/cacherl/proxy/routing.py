"""Which message answers which, in both directions: pure bookkeeping of one client's session.

Ids pass unchanged. Client and server each number their own requests, so a reply is told by who sent
it, and an id can stand for one request each way at the same time.
"""

from __future__ import annotations

from cacherl.proxy.messages import Message, MessageId, Notification, Request


class Routes:
    """The requests that are under way between one client and one running server.

    A reply is good for the server that asked: once that has stopped, what the client still answers
    must not reach the next one, whose requests start with the same numbers.
    """

    def __init__(self) -> None:
        self._clients: dict[MessageId, Request] = {}
        self._tokens: dict[MessageId, MessageId] = {}
        """Progress token -> the request that carried it."""
        self._servers: dict[MessageId, Request] = {}

    def asked(self, request: Request) -> None:
        """The client's request goes to the server."""
        self._clients.pop(request.id, None)  # an id that is used again stands for the newer request
        self._clients[request.id] = request
        token = request.meta.get("progressToken")
        if isinstance(token, int | str):
            self._tokens[token] = request.id

    def pending(self, request_id: MessageId) -> Request | None:
        """Return the client's request of this id, if the server has not answered it."""
        return self._clients.get(request_id)

    def answered(self, request_id: MessageId | None) -> Request | None:
        """The server answers; return what, or None for what nobody asked any more."""
        request = self._clients.pop(request_id, None) if request_id is not None else None
        if request is not None:
            token = request.meta.get("progressToken")
            if isinstance(token, int | str) and self._tokens.get(token) == request.id:
                del self._tokens[token]
        return request

    def asks(self, request: Request) -> None:
        """The server's request goes to the client."""
        self._servers[request.id] = request

    def replied(self, request_id: MessageId | None) -> bool:
        """The client replies; say whether the server that runs now has asked."""
        return request_id is not None and self._servers.pop(request_id, None) is not None

    def related(self, message: Message) -> MessageId | None:
        """Return the client's request that a message of the server belongs to, as far as can be told.

        Progress says it. Anything else belongs to the request that came last: over HTTP that is the
        stream on which the client surely listens.
        """
        if not isinstance(message, Request | Notification):
            return message.id
        token = (message.params or {}).get("progressToken")
        if message.method == "notifications/progress" and isinstance(token, int | str):
            return self._tokens.get(token)
        return next(reversed(self._clients), None)

    def stopped(self) -> tuple[list[Request], list[Request]]:
        """The server is gone; return what it owes the client, and what the client owes it."""
        owed, asking = list(self._clients.values()), list(self._servers.values())
        self._clients.clear()
        self._tokens.clear()
        self._servers.clear()
        return owed, asking
