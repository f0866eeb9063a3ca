"""`voicewatch notify`: send a test alert to targets, and listen for callbacks."""

from __future__ import annotations

import asyncio
import json
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import orjson

from connectors.callbacks.addresses import resolve
from connectors.callbacks.policy import Delivered, classify, excerpt
from connectors.callbacks.receiver import CallbackReceiver, Received
from connectors.callbacks.signing import sign
from connectors.callbacks.targets import Target, callback_of, route_of, sample_alert
from connectors.errors import UsageError
from connectors.runtime.shutdown import Shutdown
from flows.live import policy_of
from flows.notify import Notifier
from flows.settings.models import Settings
from flows.settings.secrets import secrets_of

__all__ = ["Tried", "listen_for_callbacks", "try_targets"]


@dataclass(frozen=True, slots=True)
class Tried:
    """Hold the result of a test alert in one of its states."""

    target: str
    state: str
    accepted: bool
    reason: str
    answer: str


def try_targets(settings: Settings, environ: Mapping[str, str], name: str | None) -> Iterator[Tried]:
    """Send a test alert, raised and resolved, to each target, or to the one of this name; one attempt each.

    Raise UsageError if there is no such target.
    """
    targets = [target for target in Notifier(settings, environ).targets if name in (None, target.name)]
    if not targets:
        known = ", ".join(table.name for table in settings.notify_targets)
        raise UsageError(
            f"no [[notify]] table has the name {name} (there are: {known})" if known else "there is no [[notify]] table"
        )
    incident = str(uuid.uuid4())
    for target in targets:
        for state in ("raised", "resolved"):
            alert = sample_alert("raised" if state == "raised" else "resolved", time.time(), incident)
            yield asyncio.run(_attempt(settings, environ, target, alert))


async def _attempt(settings: Settings, environ: Mapping[str, str], target: Target, alert: dict[str, Any]) -> Tried:
    severity = settings.alerts.severity.get(alert["alertType"], "warning")
    callback = callback_of(target, alert, orjson.dumps(alert), severity, settings.web.link(alert))
    route = route_of(target)
    body, headers = route.request(callback.body)
    if route.signed:
        headers |= sign(alert["alertId"], int(time.time()), body, secrets_of(environ))
    sender = route.sender(policy_of(settings), httpx.create_ssl_context(), resolve)
    try:
        outcome = await sender.send(body, headers, time.time)
    finally:
        sender.close()
    verdict = classify(outcome, route.rules)
    answer = excerpt(outcome.body, route.url, route.secrets)
    return Tried(target.name, alert["state"], isinstance(verdict, Delivered), verdict.reason, answer)


def listen_for_callbacks(port: int, environ: Mapping[str, str], shutdown: Shutdown) -> None:
    """Receive callbacks on loopback until a shutdown; print each as a JSON line that says if its signature is right."""

    def show(received: Received) -> None:
        try:
            body: Any = json.loads(received.body)
        except ValueError:
            body = received.body.decode("utf-8", "replace")
        line = {
            "at": round(received.at, 3),
            "path": received.path,
            "id": received.id,
            "verified": received.verified,
            "status": received.status,
            "body": body,
        }
        print(json.dumps(line, ensure_ascii=False), flush=True)

    try:
        receiver = CallbackReceiver(port, secrets_of(environ), on_received=show)
    except OSError as error:
        raise UsageError(f"--port {port}: {error.strerror or error}; choose another port") from error
    with receiver:
        print(f"listening on {receiver.url}", file=sys.stderr, flush=True)
        shutdown.requested.wait()
