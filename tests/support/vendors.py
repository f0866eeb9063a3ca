"""Local servers that accept and refuse requests as the services of the targets do, by their published APIs."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import Any, NamedTuple


class Answer(NamedTuple):
    """A status, a body, and further headers."""

    status: int
    body: str = ""
    headers: Mapping[str, str] = MappingProxyType({})


ENTITY = re.compile("&(amp|lt|gt);")
Judge = Callable[[str, dict[str, str], bytes], Answer]


class Vendor:
    """A running server: its URL, and the requests that it accepted, as paths, headers and bodies."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self.first: list[Answer] = []  # given before the requests are judged
        self.accepted: list[tuple[str, dict[str, str], bytes]] = []
        self.refused: list[Answer] = []
        self.lock = threading.Lock()
        self.url = ""

    def bodies(self) -> list[Any]:
        """The bodies of what was accepted."""
        with self.lock:
            return [json.loads(body) for _, _, body in self.accepted]

    def take(self, path: str, headers: dict[str, str], body: bytes) -> Answer:
        """Judge a request and note it."""
        with self.lock:
            answer = self.first.pop(0) if self.first else self.judge(path, headers, body)
            if 200 <= answer.status < 300 and "failed" not in answer.body:
                self.accepted.append((path, headers, body))
            else:
                self.refused.append(answer)
            return answer


@contextlib.contextmanager
def serving(judge: Judge) -> Iterator[Vendor]:
    """Run a vendor's server on loopback."""
    vendor = Vendor(judge)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            answer = vendor.take(self.path, {k.lower(): v for k, v in self.headers.items()}, body)
            data = answer.body.encode()
            self.send_response(answer.status)
            for name, value in {"content-length": str(len(data)), **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Keep quiet."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """Ignore closed connections."""

    server = Server(("127.0.0.1", 0), Handler)
    vendor.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield vendor
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def pagerduty(path: str, headers: dict[str, str], body: bytes) -> Answer:
    """Events API v2: https://developer.pagerduty.com/docs/send-alert-event."""
    event = json.loads(body)
    errors = [f"'{key}' is missing or blank" for key in ("routing_key", "event_action") if not event.get(key)]
    if path != "/v2/enqueue":
        return Answer(404)
    if event.get("event_action") == "trigger":
        payload = event.get("payload") or {}
        errors += [f"'payload.{key}' is missing or blank" for key in ("summary", "source") if not payload.get(key)]
        if payload.get("severity") not in ("critical", "error", "warning", "info"):
            errors.append("'payload.severity' is invalid (must be one of the following: 'critical', 'warning', ...)")
        if len(payload.get("summary", "")) > 1024:
            errors.append("'payload.summary' is too long")
    elif event.get("event_action") not in ("acknowledge", "resolve"):
        errors.append("'event_action' is invalid")
    elif not event.get("dedup_key"):
        errors.append("'dedup_key' is missing or blank")
    if len(event.get("dedup_key") or "") > 255 or len(body) > 512 * 1024:
        errors.append("'dedup_key' or the event is too long")
    if errors:
        message = {"status": "invalid event", "message": "Event object is invalid", "errors": errors}
        return Answer(400, json.dumps(message))
    done = {"status": "success", "message": "Event processed", "dedup_key": event.get("dedup_key")}
    return Answer(202, json.dumps(done))


def slack(path: str, headers: dict[str, str], body: bytes) -> Answer:
    """Incoming webhooks and Block Kit: https://docs.slack.dev/reference/block-kit/blocks/section-block."""
    if not path.startswith("/services/"):
        return Answer(404, "no_service")
    message = json.loads(body)
    blocks = message.get("blocks", [])
    if not message.get("text"):
        return Answer(400, "no_text")
    sound = len(blocks) <= 50
    for block in blocks:
        fields = block.get("fields", [])
        sound &= block["type"] == "section" and ("text" in block or bool(fields)) and len(fields) <= 10
        texts = [*fields, *([block["text"]] if "text" in block else [])]
        sound &= all(1 <= len(field["text"]) <= 2000 for field in fields)
        sound &= all(1 <= len(text["text"]) <= 3000 and text["type"] == "mrkdwn" for text in texts)
        sound &= all("&" not in ENTITY.sub("", text["text"]) for text in texts)
    return Answer(200, "ok") if sound else Answer(400, "invalid_blocks")


def teams(path: str, headers: dict[str, str], body: bytes) -> Answer:
    """Workflows: an adaptive card in a message of at most 28 KB, also as UTF-16, answered with 202 and nothing."""
    if max(len(body), len(body.decode().encode("utf-16-le"))) > 28 * 1024:
        return Answer(413)
    message = json.loads(body)
    (attachment,) = message.get("attachments", [{}])
    card = attachment.get("content", {})
    kind = "application/vnd.microsoft.card.adaptive"
    sound = message.get("type") == "message" and attachment.get("contentType") == kind
    sound &= card.get("type") == "AdaptiveCard" and card.get("version") in ("1.2", "1.3", "1.4", "1.5")
    sound &= all(part["type"] in ("TextBlock", "FactSet") for part in card.get("body", [{"type": ""}]))
    return Answer(202) if sound else Answer(400, "BadRequest")


TEAMS_429 = Answer(
    200, "Webhook message delivery failed with error: Microsoft Teams endpoint returned HTTP error 429 with ContextId x"
)


def cloudevents(path: str, headers: dict[str, str], body: bytes) -> Answer:
    """A consumer of CloudEvents 1.0 in binary mode: the required attributes are there."""
    needed = {"ce-id", "ce-source", "ce-specversion", "ce-type", "content-type"}
    sound = needed <= headers.keys() and headers["ce-specversion"] == "1.0" and bool(json.loads(body))
    return Answer(204) if sound else Answer(400)
