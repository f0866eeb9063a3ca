"""`replay --deliver` waits for what it has to deliver, and `outbox` shows what became of it."""

from __future__ import annotations

import itertools
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.bad_receivers import bad_receivers
from tests.support.callbacks import eventually
from tests.support.cli import configuration, running, voicewatch
from tests.support.receiver import Reply, ScriptedReceiver

TEAMS = b"Webhook message delivery failed with error: Microsoft Teams endpoint returned HTTP error 429 with ContextId x"


@pytest.fixture
def receiver() -> Any:
    with ScriptedReceiver() as server:
        yield server


def prepared(directory: Path, url: str, **delivery: Any) -> tuple[Path, Path]:
    """A recording with one incident, raised and resolved, and a configuration that delivers to `url`."""
    recording = directory / "recording.jsonl"
    frames = [
        {"event": "conversation.updated", "entity": {"id": "c1"}, "timestamp": at, "receivedAt": at + latency_s}
        for at, latency_s in ((1000.0, 0.4), (1020.0, 0.01))
    ]
    recording.write_text("".join(json.dumps(frame) + "\n" for frame in frames))
    config = configuration(
        directory / "voicewatch.toml",
        {
            "alerts": {"unwatched": "default"},
            "delivery": {"allow_private_addresses": True, "max_attempts": 4} | delivery,
            "defaults": {"qa_callback_url": url},
        },
    )
    return recording, config


def delivered(directory: Path, recording: Path, config: Path) -> Any:
    return voicewatch("replay", recording, "--config", config, "--out", directory / "out", "--deliver")


@pytest.mark.parametrize(
    "first",
    [
        Reply(429, headers={"Retry-After": "4"}, body=b"rate_limited"),
        Reply(200, body=TEAMS),
        Reply(202, headers={"Content-Type": "text/html"}, body=b"<html><title>Sign in</title></html>"),
    ],
    ids=["slack-429", "teams-200-but-429", "html-202"],
)
def test_it_waits_for_the_next_attempt(tmp_path: Path, receiver: ScriptedReceiver, first: Reply) -> None:
    """What a receiver has refused for now is sent again, in order; what the replay waits for is shown."""
    receiver.script("/hook/very-secret", [first])
    recording, config = prepared(tmp_path, receiver.url + "/hook/very-secret")
    done = delivered(tmp_path, recording, config)
    assert done.returncode == 0, done.stderr
    assert "callbacks: 0 pending, 2 delivered, 0 dead" in done.stdout
    assert [json.loads(r.body)["state"] for r in receiver.received] == ["raised", "raised", "resolved"]
    if first.status == 429:
        assert f"waiting for callbacks: 2 to {receiver.url} (next attempt in" in done.stderr
    assert "very-secret" not in done.stderr + done.stdout


def test_a_signal_ends_the_wait(tmp_path: Path) -> None:
    """What is left is reported and stays in the outbox."""
    with bad_receivers() as there:
        recording, config = prepared(tmp_path, there.url + "/hang", max_attempts=50, timeout_s=60)
        out = tmp_path / "out"
        with running(tmp_path, "replay", recording, "--config", config, "--out", out, "--deliver") as process:
            eventually(lambda: there.count("/hang") == 1 and "waiting for callbacks: 2 to" in process.log, 60.0)
            process.stop(signal.SIGTERM)
        assert "stopped: 2 callback(s) stay in the outbox" in process.log
        assert "callbacks: 2 pending, 0 delivered, 0 dead" in process.output


def test_dead_callbacks_are_reported_with_the_answer(tmp_path: Path, receiver: ScriptedReceiver) -> None:
    """A log line each, counted in the summary with what to do; the answer is shown without the URL's secrets."""
    answer = b'{"status":"invalid event","errors":["no key at /hook/very-secret?k=also-secret"]}'
    receiver.script("/hook/very-secret?k=also-secret", itertools.repeat(Reply(400, body=answer)))
    recording, config = prepared(tmp_path, receiver.url + "/hook/very-secret?k=also-secret")
    done = delivered(tmp_path, recording, config)
    assert done.returncode == 0
    assert done.stderr.count("callback_dead") == 2
    assert "callbacks: 0 pending, 0 delivered, 2 dead" in done.stdout
    assert "voicewatch outbox retry CONFIG" in done.stdout
    out = str(tmp_path / "out")
    listed = voicewatch("outbox", "list", config, VOICEWATCH_STATE__DIR=out)
    assert '400 Bad Request | {"status":"invalid event","errors":["no key at ***?***"]}' in listed.stdout
    assert receiver.url in listed.stdout
    alert_id = json.loads((tmp_path / "out/alerts.jsonl").read_text().splitlines()[0])["alertId"]
    shown = voicewatch("outbox", "show", config, alert_id, VOICEWATCH_STATE__DIR=out)
    assert json.loads(shown.stdout)["url"] == receiver.url
    written = done.stderr + done.stdout + listed.stdout + shown.stdout + (tmp_path / "out/audit.jsonl").read_text()
    assert "very-secret" not in written
    assert "also-secret" not in written


def test_a_run_warns_of_a_missing_callback_secret(tmp_path: Path) -> None:
    """As `check` does, once nothing refuses the run."""
    genesys = {"base_url": "http://127.0.0.1:9"}
    config = configuration(tmp_path / "voicewatch.toml", {"genesys": genesys, "state": {"dir": tmp_path / "state"}})
    with running(tmp_path, "run", config) as process:
        process.wait_for_log("warning: VOICEWATCH_CALLBACK_SECRET is not set: callbacks will not be signed")
        process.stop()
