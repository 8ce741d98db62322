"""An HTTP service as live tools, against a real server on the loopback."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from cacherl.core.errors import ToolError
from cacherl.core.tools import ErrorClass

pytest.importorskip("httpx")

from cacherl.adapters.openapi_tools import MAX_ANSWER, OpenApiSource

KEY = "sk-very-secret-1234"


@dataclass
class Seen:
    method: str
    path: str
    headers: dict[str, str]
    body: str


@dataclass
class Service:
    url: str
    seen: list[Seen] = field(default_factory=list)
    gate: threading.Barrier = field(default_factory=lambda: threading.Barrier(3, timeout=30))


class _Handler(BaseHTTPRequestHandler):
    """Answers by the path: what a service does in good and in bad times."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: two would wait 40 ms for each other
    service: Service

    def log_message(self, format: str, *args: Any) -> None: ...

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length).decode()
        self.service.seen.append(Seen(self.command, self.path, dict(self.headers), body))
        path, query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
        match path.split("/")[1:]:
            case ["orders", order]:
                self._send(200, json.dumps({"id": order, "query": query, "body": body}))
            case ["status", status]:
                extra = {"Retry-After": "1"} if "retry" in query else {}
                self._send(int(status), json.dumps({"said": f"bad key {KEY}"}), **extra)
            case ["empty"]:
                self._send(204, "")
            case ["text"]:
                self._send(200, "Grüße".encode("latin-1"), "text/plain; charset=iso-8859-1")
            case ["image"]:
                self._send(200, b"\x89PNG\x00", "image/png")
            case ["nameless"]:
                self._send(200, b"\xff\x00\x01", "")
            case ["html"]:
                self._send(500, "<h1>" + "x" * 9_000, "text/html")
            case ["long"]:
                self._send(200, b"x" * (MAX_ANSWER + 1), "text/plain")
            case ["slow"]:
                time.sleep(0.5)
                self._send(200, "{}")
            case ["meet"]:
                self.service.gate.wait()
                self._send(200, "{}")
            case ["cut"]:
                self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort")
                self.close_connection = True
            case ["moved"]:
                self._send(307, "", Location="/orders/A")
            case ["away"]:
                self._send(307, "", Location="http://localhost:1/orders/A")
            case ["cookie"]:
                self._send(200, json.dumps(self.headers.get("Cookie")), **{"Set-Cookie": "a=1"})
            case ["spec.json"]:
                self._send(200, json.dumps(SPEC))
            case _:
                self._send(404, json.dumps({"path": self.path}))

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = _answer

    def _send(
        self, status: int, text: str | bytes, media: str = "application/json", **more: str
    ) -> None:
        data = text.encode() if isinstance(text, str) else text
        self.send_response(status)
        if media:
            self.send_header("Content-Type", media)
        if status != 204:
            self.send_header("Content-Length", str(len(data)))
        for name, value in more.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD" and status != 204:
            self.wfile.write(data)


def _get(name: str, path: str) -> dict[str, Any]:
    return {path: {"get": {"operationId": name}}}


SPEC: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {"title": "t", "version": "1"},
    "servers": [{"url": "/"}],
    "paths": {
        "/orders/{id}": {
            "parameters": [
                {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
            ],
            "get": {
                "operationId": "get_order",
                "parameters": [
                    {"name": "fields", "in": "query", "schema": {"type": "array"}},
                    {"name": "api_key", "in": "query", "schema": {"type": "string"}},
                    {"name": "X-Api-Key", "in": "header", "schema": {"type": "string"}},
                    {"name": "X-Trace", "in": "header", "schema": {"type": "string"}},
                ],
            },
            "put": {
                "operationId": "change_order",
                "requestBody": {
                    "required": True,
                    "content": {
                        "application/json": {
                            "schema": {
                                "type": "object",
                                "properties": {"count": {"type": "integer", "minimum": 1}},
                                "required": ["count"],
                            }
                        }
                    },
                },
            },
            "head": {"operationId": "has_order"},
        },
        "/status/{status}": {
            "post": {
                "operationId": "say",
                "parameters": [
                    {"name": "status", "in": "path", "required": True, "schema": {}},
                    {"name": "retry", "in": "query", "schema": {}},
                ],
            }
        },
        **{
            path: item
            for name in [
                "empty",
                "text",
                "image",
                "nameless",
                "html",
                "long",
                "slow",
                "meet",
                "cut",
                "moved",
                "away",
                "cookie",
            ]
            for path, item in _get(name, f"/{name}").items()
        },
    },
}


@pytest.fixture
def service() -> Iterator[Service]:
    class Handler(_Handler): ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    Handler.service = Service(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield Handler.service
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
async def source(service: Service, tmp_path: Path) -> Any:
    (tmp_path / "spec.json").write_text(json.dumps(SPEC))
    source = OpenApiSource(
        "billing",
        "spec.json",
        folder=tmp_path,
        server=service.url,
        headers={"Authorization": f"Bearer {KEY}", "X-Api-Key": "other"},
        query={"api_key": "a&b"},
        secrets={KEY},
    )
    await source.start()
    yield source
    await source.aclose()
    await source.aclose()


async def test_a_call_is_a_request_and_its_json_is_the_answer(
    source: OpenApiSource, service: Service
) -> None:
    """Path, query, headers, body and keys all get where they belong."""
    read = await source.call("get_order", {"id": "A/1 é", "fields": ["a", "b"], "X-Trace": "é"})
    wrote = await source.call("change_order", {"id": "A", "count": 2})

    assert read.error_class is None
    assert json.loads(read.text) == {
        "id": "A%2F1%20%C3%A9",
        "query": {"fields": ["a", "b"], "api_key": ["a&b"]},
        "body": "",
    }
    assert json.loads(json.loads(wrote.text)["body"]) == {"count": 2}
    assert service.seen[0].headers["Authorization"] == f"Bearer {KEY}"
    assert service.seen[0].headers["X-Api-Key"] == "other"
    assert service.seen[1].headers["Content-Type"] == "application/json"


async def test_keys_are_not_asked_of_the_model(source: OpenApiSource) -> None:
    """What is sent with every call is nobody's argument."""
    specs = {spec.name: spec for spec in await source.start()}

    assert list(specs["get_order"].parameters["properties"]) == ["id", "fields", "X-Trace"]


@pytest.mark.parametrize(
    ("status", "kind", "may_have_run"),
    [
        (400, ErrorClass.VALIDATION, True),
        (401, ErrorClass.PERMISSION, True),
        (403, ErrorClass.PERMISSION, True),
        (404, ErrorClass.NOT_FOUND, True),
        (409, ErrorClass.UNKNOWN, True),
        (422, ErrorClass.VALIDATION, True),
        (429, ErrorClass.TRANSIENT, False),
        (500, ErrorClass.TRANSIENT, True),
        (503, ErrorClass.TRANSIENT, True),
    ],
)
async def test_a_status_is_an_error_with_a_class(
    source: OpenApiSource, status: int, kind: ErrorClass, may_have_run: bool
) -> None:
    """Only transient ones may be tried again, a writer only where it surely did not run."""
    answer = await source.call("say", {"status": status})
    told = json.loads(answer.text)

    assert (answer.error_class, answer.may_have_run, answer.down) == (kind, may_have_run, False)
    assert told["error"] == kind
    assert told["message"].startswith(f"POST /status/{{status}}: {status}")
    assert told["body"] == {"said": "bad key ***"}
    assert KEY not in answer.text


async def test_a_service_that_asks_to_come_back_has_done_nothing(source: OpenApiSource) -> None:
    """503 with Retry-After: a load balancer's way to say "not now"."""
    answer = await source.call("say", {"status": 503, "retry": 1})

    assert (answer.error_class, answer.may_have_run) == (ErrorClass.TRANSIENT, False)


@pytest.mark.parametrize(
    ("tool", "text"),
    [
        ("empty", '{"status": 204}'),
        ("text", "Grüße"),
        ("image", "[image/png, 5 bytes]"),
        ("nameless", "[binary, 3 bytes]"),
        ("moved", '{"id": "A", "query": {}, "body": ""}'),
        ("cookie", "null"),
    ],
)
async def test_every_kind_of_answer_has_a_text(source: OpenApiSource, tool: str, text: str) -> None:
    """A model reads text; a redirect on the same host is followed; cookies are forgotten."""
    for _ in range(2):
        answer = await source.call(tool, {})

        assert answer.error_class is None
        assert answer.text == text


async def test_a_head_says_whether(source: OpenApiSource) -> None:
    """It has no body by definition."""
    assert (await source.call("has_order", {"id": "A"})).text == '{"status": 200}'


async def test_keys_go_to_no_other_host(source: OpenApiSource) -> None:
    """A redirect elsewhere is told, not followed."""
    answer = await source.call("away", {})

    assert answer.error_class is ErrorClass.UNKNOWN
    assert "307" in answer.text
    assert "http://localhost:1/orders/A" in answer.text


async def test_long_answers_are_bounded(source: OpenApiSource) -> None:
    """An error page of megabytes teaches nobody anything."""
    page = await source.call("html", {})
    long = await source.call("long", {})

    assert len(page.text) < 5_000
    assert long.error_class is ErrorClass.UNKNOWN
    assert "longer than" in long.text


async def test_a_slow_answer_can_be_given_up_and_the_next_call_works(
    source: OpenApiSource, service: Service
) -> None:
    """The time limit is the caller's."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await source.call("slow", {})

    assert (await source.call("get_order", {"id": "A"})).error_class is None


async def test_calls_run_side_by_side(source: OpenApiSource) -> None:
    """Each is answered only once all of them have arrived."""
    answers = await asyncio.gather(*(source.call("meet", {}) for _ in range(3)))

    assert [answer.text for answer in answers] == ["{}"] * 3


async def test_a_connection_that_breaks_may_have_run(source: OpenApiSource) -> None:
    """The request was on its way: nobody knows."""
    answer = await source.call("cut", {})

    assert (answer.error_class, answer.may_have_run) == (ErrorClass.TRANSIENT, True)


async def test_a_service_that_is_not_there_has_run_nothing(tmp_path: Path) -> None:
    """Connection refused: even a writer may be tried again."""
    (tmp_path / "spec.json").write_text(json.dumps(SPEC))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    source = OpenApiSource("billing", "spec.json", folder=tmp_path, server=url)
    await source.start()
    answer = await source.call("say", {"status": 200})
    await source.aclose()

    assert (answer.error_class, answer.may_have_run) == (ErrorClass.TRANSIENT, False)
    assert "no connection" in answer.text


@pytest.mark.parametrize(
    ("tool", "arguments", "seen"),
    [
        ("change_order", {"id": "A"}, "'count' is a required property"),
        ("change_order", {"id": "A", "count": 0}, "minimum"),
        ("get_order", {"id": ".."}, "path"),
        ("get_order", {"id": "A", "X-Trace": "a\r\nb: c"}, "control"),
        ("get_order", {"id": "A", "x": 1}, "x"),
        ("get_ordre", {}, "did you mean `get_order`"),
    ],
)
async def test_a_wrong_call_is_never_sent(
    source: OpenApiSource, service: Service, tool: str, arguments: dict[str, Any], seen: str
) -> None:
    """And the answer says that nothing ran."""
    answer = await source.call(tool, arguments)

    assert answer.error_class in (ErrorClass.VALIDATION, ErrorClass.NOT_FOUND)
    assert not answer.may_have_run
    assert seen in answer.text
    assert service.seen == []


async def test_a_document_behind_a_url_says_where_its_service_is(service: Service) -> None:
    """`servers: /` is relative to the document, as FastAPI writes it."""
    source = OpenApiSource("billing", f"{service.url}/spec.json", only=["get_order"])
    specs = await source.start()
    answer = await source.call("get_order", {"id": "A"})
    await source.aclose()

    assert [spec.name for spec in specs] == ["get_order"]
    assert json.loads(answer.text)["id"] == "A"


async def test_a_document_from_the_network_cannot_read_files_here(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reference to file:///etc/passwd is not followed."""
    (tmp_path / "secret.json").write_text(json.dumps({"name": "id", "in": "query", "schema": {}}))
    reference = {"$ref": (tmp_path / "secret.json").as_uri()}
    monkeypatch.setitem(
        SPEC["paths"], "/leak", {"get": {"operationId": "leak", "parameters": [reference]}}
    )
    source = OpenApiSource("billing", f"{service.url}/spec.json")
    specs = await source.start()
    await source.aclose()

    assert "leak" not in [spec.name for spec in specs]
    assert any("GET /leak is left out" in note for note in source.notes)


@pytest.mark.parametrize(
    ("spec", "settings", "seen"),
    [
        ("none.json", {}, "none.json: cannot be read"),
        ("http://127.0.0.1:9/spec.json", {}, "cannot be read (ConnectError"),
        ("bad.json", {}, "cannot be read (JSONDecodeError"),
        ("spec.json", {}, 'Write server = "http'),
        ("spec.json", {"server": "ftp://x"}, "'ftp://x' is no http address"),
        ("spec.json", {"server": "http://x", "only": ["get_ordre"]}, "did you mean `get_order`"),
    ],
)
async def test_what_cannot_be_used_is_one_line(
    tmp_path: Path, spec: str, settings: dict[str, Any], seen: str
) -> None:
    """Before any episode is played."""
    (tmp_path / "spec.json").write_text(json.dumps(SPEC))
    (tmp_path / "bad.json").write_text("{")

    with pytest.raises(ToolError) as wrong:
        await OpenApiSource("billing", spec, folder=tmp_path, **settings).start()

    assert seen in str(wrong.value)
