"""A real Alertmanager groups, silences and resolves what is sent to it."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from connectors.callbacks.targets import Target, callback_of, route_of
from tests.connectors.callbacks.targets.test_targets import RAISED, RESOLVED
from tests.support.callbacks import DEADLINE_S, FAST, eventually, insert
from tests.support.vendors import Answer, serving

PROGRAM = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="prometheus-alertmanager is not installed")

CONFIGURATION = """
route:
  receiver: hook
  group_by: [queue]
  group_wait: 100ms
  group_interval: 300ms
  repeat_interval: 1h
receivers:
  - name: hook
    webhook_configs:
      - url: {url}
        send_resolved: true
"""


@pytest.fixture
def hook():
    with serving(lambda *_: Answer(200)) as server:
        yield server


@pytest.fixture
def alertmanager(tmp_path: Path, hook: Any) -> Iterator[str]:
    config = tmp_path / "alertmanager.yml"
    config.write_text(CONFIGURATION.format(url=hook.url))
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    options = [
        f"--config.file={config}",
        f"--storage.path={tmp_path / 'data'}",
        f"--web.listen-address={address}",
        "--cluster.listen-address=",
    ]
    with (tmp_path / "alertmanager.log").open("wb") as log:
        process = subprocess.Popen([str(PROGRAM), *options], stdout=log, stderr=log)
    try:
        eventually(lambda: _ready(address))
        yield f"http://{address}"
    finally:
        process.kill()
        process.wait()


def _ready(address: str) -> bool:
    try:
        return httpx.get(f"http://{address}/-/ready").status_code == 200
    except httpx.TransportError:
        return False


def alerts(url: str) -> list[Any]:
    return list(httpx.get(f"{url}/api/v2/alerts").json())


def states(url: str) -> dict[str, str]:
    """The states of the alerts that are there, by conversation."""
    return {alert["labels"]["conversation"]: alert["status"]["state"] for alert in alerts(url)}


def sent(url: str, *given: dict[str, Any]) -> tuple[Target, list[Any]]:
    target = Target("am", "alertmanager", url, allow_private_addresses=True)
    return target, [callback_of(target, alert, json.dumps(alert).encode(), "critical") for alert in given]


def now(alert: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return alert | {"timestamp": time.time()} | changes


def test_it_groups_silences_and_resolves(outbox, deliver, alertmanager, hook):
    """Two conversations of a queue are one notification; a silenced one is suppressed; a resolve ends an alert."""
    first = now(RAISED)
    second = now(RAISED, conversationId="c2", alertId="b-1", incidentId="i-2")
    target, callbacks = sent(alertmanager, first, second)
    insert(outbox, *callbacks)
    deliver(FAST, routes={target.key: route_of(target)})
    eventually(lambda: len(alerts(alertmanager)) == 2)
    eventually(lambda: any(len(n["alerts"]) == 2 and n["status"] == "firing" for n in hook.bodies()))
    notice = next(n for n in hook.bodies() if len(n["alerts"]) == 2)
    assert notice["groupLabels"] == {"queue": "support & sales"}
    assert {a["labels"]["severity"] for a in notice["alerts"]} == {"critical"}

    silence = {
        "matchers": [{"name": "conversation", "value": "c2", "isRegex": False}],
        "startsAt": "2020-01-01T00:00:00Z",
        "endsAt": "2100-01-01T00:00:00Z",
        "createdBy": "test",
        "comment": "test",
    }
    assert httpx.post(f"{alertmanager}/api/v2/silences", json=silence).status_code == 200
    eventually(
        lambda: (
            {a["labels"]["conversation"]: a["status"]["state"] for a in alerts(alertmanager)}.get("c2") == "suppressed"
        )
    )

    insert(outbox, *sent(alertmanager, now(RESOLVED))[1])
    eventually(lambda: states(alertmanager) == {"c2": "suppressed"})
    eventually(lambda: any(a["status"] == "resolved" for n in hook.bodies() for a in n["alerts"]))
    assert outbox.counts()["dead"] == 0


def test_a_replayed_old_alert_is_accepted(outbox, deliver, alertmanager):
    """Times of long ago are valid: a resolve of that time is over, and is not an error."""
    target, callbacks = sent(alertmanager, RAISED, RESOLVED)
    insert(outbox, *callbacks)
    deliver(FAST, routes={target.key: route_of(target)}).stop(DEADLINE_S)
    assert outbox.counts() == {"pending": 0, "delivered": 2, "dead": 0}
    assert alerts(alertmanager) == []
