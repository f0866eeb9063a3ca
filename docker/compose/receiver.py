"""A quality platform for docker/compose.yaml: takes every callback, and prints a line for each."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    """Answers 204 to every POST."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Print what alert it is."""
        alert = json.loads(self.rfile.read(int(self.headers.get("Content-Length", "0"))))
        print(*(alert.get(key) for key in ("alertType", "state", "conversationId", "metricValue")), flush=True)
        self.send_response(204)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nothing more."""


if __name__ == "__main__":
    ThreadingHTTPServer(("0.0.0.0", 9090), Handler).serve_forever()  # noqa: S104 - of a container
