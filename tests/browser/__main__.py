"""`make screenshots`: the views of the live page and the report over made-up calls, into docs/images."""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from connectors.callbacks.model import AttemptResult, Callback
from connectors.callbacks.outbox import Outbox
from connectors.runtime.shutdown import Shutdown
from connectors.state.audit import AuditLog
from flows.commands.replay import replay
from flows.commands.report import report
from flows.settings.web import WebSettings
from flows.web.page import LivePage
from tests.support.state_dirs import BEGAN

IMAGES = Path(__file__).parents[2] / "docs" / "images"
QUEUES = ("Support", "Sales", "Billing", "Claims", "Onboarding", "Retention")
EDGES = ("edge-fra-1", "edge-fra-2", "edge-dub-1", "edge-lon-3")
HOUR_S = 3600.0
WEEK_S = 7 * 86_400.0
GAP_S = (1750.0, 1890.0)
Record = tuple[float, dict[str, Any]]


def journal(seed: int, calls: int) -> list[Record]:
    """An hour of calls: for ten minutes one edge is slow, for seven one queue loses packets, the feed is lost once."""
    chance = random.Random(seed)
    settings = {
        "windows": {"length_s": 10.0, "slide_s": 5.0},
        "alerts": {"raise_m": 5, "raise_n": 3},
        "groups": {"by": ["edge", "queue"], "min_conversations": 3, "raise_ratio": 0.5},
    }
    records: list[Record] = [(0.0, {"settings": settings})]
    feed = {"name": "voice-events"}
    records.append((0.0, {"feed": feed | {"state": "up", "reason": "connected"}}))
    records.append((GAP_S[0], {"feed": feed | {"state": "down", "reason": "no heartbeat for 30 s"}}))
    records.append((GAP_S[1], {"feed": feed | {"state": "up", "reason": "connected"}}))
    for number in range(calls):
        records += call(chance, number)
    records += [(float(at), {"tick": True}) for at in range(int(HOUR_S))]
    return sorted(records, key=lambda one: one[0])


def call(chance: random.Random, number: int) -> list[Record]:
    """One call: its watch, two frames a second, its end."""
    id_ = str(uuid.UUID(int=chance.getrandbits(128), version=4))
    begin = chance.uniform(0, HOUR_S - 300)
    length = min(chance.expovariate(1 / 420) + 60, HOUR_S - begin - 1)
    labels = {"queue": chance.choice(QUEUES), "edge": chance.choice(EDGES), "agent": f"agent-{number % 24:02d}"}
    limits = {"max_latency_ms": 150.0, "packet_loss_threshold": 0.02, "qa_callback_url": "https://qa.example.com/"}
    watch = {"conversation_id": id_, "leg_id": f"leg-{number}", "labels": labels, **limits}
    records: list[Record] = [(begin, {"watch": watch})]
    at, usual = begin + 0.1, chance.uniform(35, 80)
    while at < begin + length:
        is_slow = labels["edge"] == "edge-lon-3" and 2300 < at < 2900
        is_lossy = labels["queue"] == "Billing" and 900 < at < 1300
        latency_ms = usual + chance.expovariate(1 / 6) + (chance.uniform(60, 190) if is_slow else 0)
        loss = max(chance.gauss(0.002, 0.001), 0) + (chance.uniform(0, 0.05) if is_lossy else 0)
        arrival = at + latency_ms / 1000
        if not GAP_S[0] < arrival < GAP_S[1]:
            records.append((arrival, frame(id_, "conversation.updated", at, loss)))
        at += 0.5
    if begin + length < HOUR_S - 20:
        records.append((begin + length + 0.05, frame(id_, "conversation.ended", begin + length, 0.0)))
    return records


def frame(id_: str, event: str, at: float, loss: float) -> dict[str, Any]:
    """A frame of the wire."""
    metrics = {"packetLoss": round(loss, 5), "jitter": 3.0}
    return {"frame": {"event": event, "entity": {"id": id_}, "timestamp": round(BEGAN + at, 3), "metrics": metrics}}


def make_state(directory: Path) -> str:
    """Write a state directory; return the conversation with most alerts."""
    segment = directory / "journal" / "00000001.jsonl"
    segment.parent.mkdir()
    lines = [orjson.dumps({"received_at": round(BEGAN + at, 6), **record}) for at, record in journal(5, 130)]
    segment.write_bytes(b"\n".join(lines) + b"\n")
    out = directory / "out"
    replay([segment], out, settings=None, environ={}, speed=None, deliver=False, stop=Shutdown().requested)
    for name in ("windows.jsonl", "alerts.jsonl", "groups.jsonl"):
        (out / name).rename(directory / name)
    shutil.rmtree(out)
    alerts = [orjson.loads(line) for line in (directory / "alerts.jsonl").read_bytes().splitlines()]
    deliver(directory, alerts)
    remember(directory)
    ids: list[str] = [alert["conversationId"] for alert in alerts if alert["conversationId"] is not None]
    return max(sorted(set(ids)), key=ids.count)


def remember(directory: Path) -> None:
    """Write the same hour of a week ago, in which the edges had changed places."""
    begin = datetime.fromtimestamp(BEGAN - WEEK_S, UTC)
    others = dict(zip(EDGES, EDGES[2:] + EDGES[:2], strict=True))
    with (directory / f"windows-{begin:%Y-%m-%d}.jsonl").open("wb") as file:
        for line in (directory / "windows.jsonl").read_bytes().splitlines():
            window = orjson.loads(line)
            window |= {key: window[key] - WEEK_S for key in ("start", "end")}
            window["labels"]["edge"] = others[window["labels"]["edge"]]
            file.write(orjson.dumps(window) + b"\n")


def deliver(directory: Path, alerts: list[dict[str, Any]]) -> None:
    """Write what a receiver answered that was down for a while: the audit log and the outbox."""
    receiver, at = "https://qa.example.com", BEGAN
    audit = AuditLog(directory / "audit.jsonl", now=lambda: at)
    outbox = Outbox(directory / "outbox" / "outbox.sqlite3")
    sent = [alert for alert in alerts if not alert.get("inhibitedBy")]
    callbacks = [Callback(one["alertId"], str(one["conversationId"]), f"{receiver}/alerts", b"{}") for one in sent]
    outbox.insert(callbacks, BEGAN)
    for number, (alert, callback) in enumerate(zip(sent, callbacks, strict=True)):
        known = {"conversation": alert["conversationId"], "id": alert["alertId"], "endpoint": receiver}
        failures = ("503 Service Unavailable", "timeout: no answer within 10 s") if number % 5 == 1 else ()
        for attempt, outcome in enumerate(failures, 1):
            at = alert["timestamp"] + 2.0 * attempt
            audit.append("CALLBACK_FAILED", outcome=outcome, attempt=attempt, took_s=0.5, **known)
        at = alert["timestamp"] + (9.0 if failures else 0.02)
        audit.append("CALLBACK_DELIVERED", outcome="200 OK", attempt=len(failures) + 1, took_s=0.012, **known)
        outbox.record_results([AttemptResult(callback, "delivered", at, len(failures) + 1, None)])
    outbox.close()


def main() -> None:
    """Write the images."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("there is no Chromium; `apt-get install chromium` installs it")
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        id_ = make_state(Path(name))
        served = LivePage(WebSettings(listen="127.0.0.1:0"), Path(name), os.environ, {})
        served.start()
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_context(viewport={"width": 1440, "height": 760}, timezone_id="UTC").new_page()
        page.goto(served.url)
        page.wait_for_selector(".heat")
        page.wait_for_selector("#loading", state="hidden")
        views = ("fleet?by=edge", "conversations", f"conversation?id={id_}", "incidents", "feeds", "what-if")
        for view in views:
            page.set_viewport_size({"width": 1440, "height": 760})
            page.goto(served.url + view)
            page.wait_for_selector('#live[data-state="live"]')
            if view.startswith("fleet"):  # the week ago is read when it is asked for
                page.reload()
                page.wait_for_selector("#ranking >> text=worse")
            if view.startswith("conversation?"):
                page.wait_for_selector("[data-chart=lanes] canvas")
                page.set_viewport_size({"width": 1440, "height": 1500})
            if view == "what-if":
                page.set_viewport_size({"width": 1440, "height": 900})
                page.get_by_label("Latency limit").fill("120")
                page.get_by_role("button", name="Try it out").click()
                page.wait_for_selector("text=Now against proposed", timeout=120_000)
            page.screenshot(path=IMAGES / f"{view.partition('?')[0]}.png")
        file = Path(name) / "report.html"
        begin, end = BEGAN + HOUR_S / 2, BEGAN + HOUR_S
        report(Path(name), file, journal=[], begin=begin, end=end, names_agents=False, now=end)
        page.set_viewport_size({"width": 1440, "height": 1500})
        page.goto(f"file://{file}")
        page.screenshot(path=IMAGES / "report.png")
        browser.close()
        served.stop()


if __name__ == "__main__":
    main()
