"""The notebook of `tests/toolbox/notebook.py` as an HTTP service with an OpenAPI document."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from cacherl.adapters.openapi_tools import OpenApiSource

_NOTE = {"name": "note_id", "in": "path", "required": True, "schema": {"type": "string"}}


def _body(name: str, kind: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": {name: {"type": kind}}, "required": [name]}
    return {"required": True, "content": {"application/json": {"schema": schema}}}


SPEC = {
    "openapi": "3.1.0",
    "info": {"title": "notes", "version": "1"},
    "paths": {
        "/notes/{note_id}": {
            "parameters": [_NOTE],
            "get": {"operationId": "read_note", "summary": "Read one note."},
            "put": {
                "operationId": "write_note",
                "summary": "Write one note.",
                "requestBody": _body("text", "string"),
            },
        },
        "/sleep": {
            "post": {
                "operationId": "sleep",
                "summary": "Answer late.",
                "requestBody": _body("seconds", "number"),
            }
        },
    },
}


class _Notes(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: two would wait 40 ms for each other
    notes: dict[str, str]
    ended: threading.Event

    def log_message(self, format: str, *args: Any) -> None: ...

    def do_GET(self) -> None:
        note = unquote(self.path.removeprefix("/notes/"))
        if note in self.notes:
            self._answer(200, self.notes[note])
        else:
            self._answer(404, f"note {note} not found")

    def do_PUT(self) -> None:
        self.notes[unquote(self.path.removeprefix("/notes/"))] = self._said()["text"]
        self._answer(200, "written")

    def do_POST(self) -> None:
        self.ended.wait(self._said()["seconds"])
        self._answer(200, "awake")

    def _said(self) -> Any:
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def handle(self) -> None:
        with suppress(ConnectionError):  # a client gave up
            super().handle()


@contextmanager
def notes_service(folder: Path) -> Iterator[OpenApiSource]:
    """Serve the notebook on a free port, and yield a source that has not started."""

    class Handler(_Notes):
        notes = {"n1": "first note"}
        ended = threading.Event()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    (folder / "notes.json").write_text(json.dumps(SPEC))
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}"
        yield OpenApiSource("notes", "notes.json", folder=folder, server=url)
    finally:
        Handler.ended.set()
        server.shutdown()
        thread.join()
        server.server_close()
