"""The service that billing.json describes: `python billing_service.py [PORT]`."""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

EUROS = {"A-1": 35, "A-2": 60, "A-3": 240, "A-4": 95}
RATES = {"EUR": 1.0, "USD": 1.1, "GBP": 0.8}


class Billing(BaseHTTPRequestHandler):
    """Answers `get_invoice` and `quote_shipping`."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: two would wait 40 ms for each other

    def do_GET(self) -> None:
        """Answer `get_invoice`."""
        url = urlsplit(self.path)
        order = unquote(url.path.removeprefix("/invoices/"))
        currency = parse_qs(url.query).get("currency", ["EUR"])[0]
        if order not in EUROS:
            self._answer(404, {"detail": f"no invoice for order {order}"})
        elif currency not in RATES:
            self._answer(422, {"detail": f"no rate for {currency}"})
        else:
            amount = round(EUROS[order] * RATES[currency], 2)
            self._answer(200, {"order_id": order, "amount": amount, "currency": currency})

    def do_POST(self) -> None:
        """Answer `quote_shipping`."""
        parcel = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        euros = 4 + 2 * parcel["kilos"] + (9 if parcel.get("express") else 0)
        self._answer(200, {"city": parcel["city"], "euros": euros})

    def _answer(self, status: int, said: dict[str, Any]) -> None:
        body = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def main() -> None:
    """Serve until interrupted."""
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8765
    server = ThreadingHTTPServer(("127.0.0.1", port), Billing)
    print(f"billing on http://127.0.0.1:{server.server_address[1]}", flush=True)  # noqa: T201 - whoever started it reads it
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()


if __name__ == "__main__":
    main()
