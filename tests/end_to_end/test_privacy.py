"""Personal data of messages reaches neither the state directory nor a log."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from connectors.genesys.simulator.notifications import NotificationsSimulator
from connectors.genesys.simulator.server import running
from tests.support.cli import configuration, voicewatch
from tests.support.cli import running as running_command
from tests.support.tape import until

MARK = "MARKED-PERSONAL-TEXT"
QUEUE = "5a1b7c3e-0000-4000-8000-00000000000a"
CALLS = f"v2.routing.queues.{QUEUE}.conversations.calls"
WHO = {"ani": f"tel:{MARK}", "dnis": MARK, "name": MARK, "address": MARK, "attributes": {"account": MARK}}


def holding_the_mark(directory: Path) -> list[str]:
    """The files below a directory that hold the mark, whatever they are."""
    return [str(path) for path in directory.rglob("*") if path.is_file() and MARK.encode() in path.read_bytes()]


def messages(id_: str) -> list[str]:
    """Messages with the mark at every place that people may put something, and some that cannot be read."""
    now_ms = int(time.time() * 1000)
    leg: dict[str, Any] = {
        "id": "p1",
        "purpose": "customer",
        "state": "connected",
        **WHO,
        "user": {"id": "u", "name": MARK},
    }
    detail = {"conversationId": id_, "eventTime": now_ms, "participantId": "p1", "queueId": MARK + " ", **WHO}
    words = [{"alternatives": [{"transcript": MARK}]}]
    deep = "[" * 300 + "]" * 300
    found = [
        {"topicName": CALLS, "eventBody": {"id": id_, "participants": [leg], **WHO}, "metadata": {"x": MARK}},
        {"topicName": f"v2.detail.events.conversation.{id_}.customer.start", "eventBody": detail, "version": MARK},
        {"topicName": f"v2.conversations.{id_}.transcription", "eventBody": {**detail, "transcripts": words}},
        {"topicName": "v2.users.u.presence", "eventBody": WHO},
        {"topicName": f"v2.system.{MARK} said", "eventBody": {"message": MARK}},
        {"result": "200", "message": MARK},
        {"event": "conversation.updated", "entity": {"id": id_}, "timestamp": 1.0, "who": MARK},
        [MARK],
    ]
    unreadable = [
        f'{{"topicName":"{MARK}',
        f"{MARK} is not JSON",
        f'{{"topicName":"x","eventBody":{{"{MARK}":{deep}}}}}',
    ]
    return [*map(json.dumps, found), *unreadable]


def run(directory: Path, **privacy: Any) -> str:
    """Run a feed that receives the messages; its output and log."""
    with running(NotificationsSimulator(calls=False)) as simulator:
        tables = {
            "genesys": {"base_url": simulator.base_url},
            "state": {"dir": str(directory / "state")},
            "feed": [{"kind": "notifications", "enrich": True}],
            "privacy": privacy,
        }
        path = configuration(directory / "voicewatch.toml", {name: table for name, table in tables.items() if table})
        path.write_text(path.read_text().replace("enrich = true", f'enrich = true\nqueues = ["{QUEUE}"]'))
        with running_command(directory, "--log-json", "run", path) as process:
            until(lambda: simulator.connected)
            simulator.send_to_all(*messages("c-1"), MARK.encode())
            journal = directory / "state" / "journal"
            until(lambda: sum(file.read_bytes().count(b'"invalid":') for file in journal.glob("*.jsonl")) >= 6)
            assert process.stop() == 0
            return process.output + process.log


def test_no_text_of_a_notification_reaches_the_disk_or_a_log(tmp_path: Path) -> None:
    """The call is watched, and nothing that people have put into its messages is anywhere."""
    said = run(tmp_path)
    assert MARK not in said
    assert holding_the_mark(tmp_path) == []
    records = (tmp_path / "state" / "journal" / "00000001.jsonl").read_bytes()
    assert b'"conversation_id":"c-1"' in records
    assert b'"sha256":' in records


def test_raw_notifications_are_kept_on_request_and_audited(tmp_path: Path) -> None:
    """With `keep_raw` the journal holds the messages, and the audit log an entry of it."""
    run(tmp_path, keep_raw=True)
    assert b"RAW_KEPT" in (tmp_path / "state" / "audit.jsonl").read_bytes()
    held = holding_the_mark(tmp_path)
    assert held
    assert all("journal" in path for path in held)


def test_results_of_a_replay_do_not_quote_a_capture(tmp_path: Path) -> None:
    """Lines of a capture that cannot be read are named by length and SHA-256."""
    capture = tmp_path / "capture.jsonl"
    wrapped = json.dumps({"Body": json.dumps({"detail": {"eventBody": WHO}})})
    capture.write_text("\n".join([*messages("c-1"), wrapped, f'{{"transcript":"{MARK}']) + "\n")
    out = tmp_path / "out"
    done = voicewatch("replay", capture, "--out", out)
    assert MARK not in done.stdout + done.stderr
    assert [path for path in holding_the_mark(out) if not path.endswith("rejected.jsonl")] == []
    for line in (out / "rejected.jsonl").read_text().splitlines():
        rejected = json.loads(line)
        if "text" in rejected:  # without any key of a notification, it is not known to be one
            assert not any(key in rejected["text"] for key in ("topicName", "eventBody", "transcript", "Body", "ani"))
