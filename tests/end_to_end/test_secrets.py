"""Nothing secret is ever written, however much is logged; and what is written is the owner's alone."""

from __future__ import annotations

import base64
import json
import sqlite3
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path

from websockets.sync.server import ServerConnection

from tests.support.callbacks import eventually
from tests.support.cli import DEADLINE_S, SECRET, configuration, started
from tests.support.genesys_server import CREATE, LOAD, TOKEN, Answer, EventsServer, RestServer, Session, stay_open
from tests.support.receiver import Reply, ScriptedReceiver

# Every logger of the process at its most verbose, before anything is imported; asyncio in its debug mode.
LOUD = """
import http.client, logging, sys
logging.basicConfig(level=1, stream=sys.stderr)
http.client.HTTPConnection.debuglevel = 1
sys.argv[0] = "voicewatch"
from flows.cli import main
main()
"""
CALLBACK_SECRET = "whsec_Y2FsbGJhY2stc2VjcmV0LW5vYm9keS1tYXktc2Vl"
LEG = "leg-of-a-body-that-must-stay-secret"
ECHOED = "body-of-an-answer-that-must-stay-secret"
BASIC = base64.b64encode(f"client:{SECRET}".encode()).decode()
TOKENS = "secret-token-"
SECRETS = (SECRET, BASIC, TOKENS, CALLBACK_SECRET, CALLBACK_SECRET.removeprefix("whsec_"), "v1,")
BODY = (LEG, "genesys-interceptor", ECHOED)


def telling(frames: list[tuple[str, float]], then: Callable[[ServerConnection], None]) -> Callable[..., None]:
    """A session that sends frames, each of a conversation and with a latency in seconds."""

    def session(connection: ServerConnection) -> None:
        for conversation, latency_s in frames:
            frame = {
                "event": "conversation.updated",
                "entity": {"id": conversation},
                "timestamp": time.time() - latency_s,
            }
            connection.send(json.dumps(frame))
        connection.send("no frame")
        then(connection)

    return session


def config_of(directory: Path, rest: RestServer, events: EventsServer, receivers: list[str]) -> Path:
    return configuration(
        directory / "voicewatch.toml",
        {
            "genesys": {"base_url": rest.url, "events_url": events.url},
            "windows": {"length_s": 1, "slide_s": 1},
            "delivery": {"allow_private_addresses": True, "timeout_s": 1},
            "state": {"dir": directory / "state"},
            "defaults": {"interceptor_address": "sip:qa@monitoring.internal", "leg_id": LEG},
            "interceptor": [
                {"conversation_id": f"c{number}", "qa_callback_url": url} for number, url in enumerate(receivers)
            ],
        },
    )


def run(directory: Path, config: Path, until: Callable[[], bool], expected: int) -> str:
    """A run with everything logged, until something has happened; what it has printed and logged."""
    command = [sys.executable, "-c", LOUD, "run", str(config), "--log-json"]
    variables = {"VOICEWATCH_CALLBACK_SECRET": CALLBACK_SECRET, "PYTHONASYNCIODEBUG": "1"}
    with started(directory, command, **variables) as process:
        eventually(lambda: until() or process.process.poll() is not None, DEADLINE_S)
        code = process.stop() if process.process.poll() is None else process.wait()
        said = process.output + process.log
    assert code == expected, said
    return said


def test_no_secret_is_ever_written(tmp_path: Path) -> None:
    """At the most verbose, through refusals and failures, no secret gets into logs, files or errors; nor do bodies."""
    scripts: list[Session | Answer] = [
        Answer(401),
        Answer(503, headers={"Retry-After": "0"}),
        telling([("c1", 0.3), ("c2", 0.3), ("c3", 0.3), ("c4", 0.3)], ServerConnection.close),
        telling([("c1", 0.01)], stay_open),
    ]
    with (
        RestServer() as rest,
        EventsServer(*scripts) as events,
        ScriptedReceiver(secrets=[CALLBACK_SECRET]) as failing,
        ScriptedReceiver(secrets=["whsec_" + "B" * 32]) as refusing,
        ScriptedReceiver() as gone,
    ):
        echo = f"{ECHOED} {SECRET} {TOKENS}1".encode()
        rest.script(TOKEN, Answer(503, {"error": ECHOED, "description": f"Basic {BASIC}"}, {"Retry-After": "0"}))
        rest.script(LOAD, Answer(503, {"message": f"{ECHOED} Bearer {TOKENS}1"}, {"Retry-After": "0"}))
        rest.script(CREATE, Answer(400, {"message": f"Bearer {TOKENS}1 is not welcome"}))
        failing.script("/hook-path", [Reply(status=500, body=echo), Reply(drop=True), Reply(delay_s=1.5)])
        gone.close()
        urls = [f"{each.url}/hook-path" for each in (gone, refusing, failing, failing, gone)]
        config = config_of(tmp_path, rest, events, urls)
        said = run(tmp_path, config, lambda: len(failing.received) >= 5 and len(refusing.received) >= 1, 0)
        assert any(TOKENS in headers.get("authorization", "") for _, headers in events.upgrades)
        assert any(LEG.encode() in one.body and one.verified for one in failing.received)
    state = tmp_path / "state"
    assert "DEBUG" in said, "the libraries' debug logs are part of this test"
    hidden = [*SECRETS, *BODY, "/hook-path"]
    assert [text for text in hidden if text in said] == []
    audit = (state / "audit.jsonl").read_text()
    assert "CALLBACK_FAILED" in audit
    assert [text for text in hidden if text in audit] == []
    written = {path: path.read_bytes() for path in state.rglob("*") if path.is_file()}
    assert len(written) > 8
    for path, data in written.items():
        assert [text for text in SECRETS if text.encode() in data] == [], path
    outbox = sqlite3.connect(state / "outbox" / "outbox.sqlite3")
    errors = [error for (error,) in outbox.execute("SELECT last_error FROM callbacks WHERE last_error IS NOT NULL")]
    outbox.close()
    assert errors
    assert [text for text in hidden for error in errors if text in error] == []


def test_an_error_names_no_secret(tmp_path: Path) -> None:
    """Where Genesys refuses and repeats what it was sent, the run ends with advice and without the secret."""
    with RestServer() as rest, EventsServer() as events:
        rest.script(TOKEN, Answer(401, {"error": "invalid_client", "description": f"{SECRET} Basic {BASIC} {ECHOED}"}))
        said = run(tmp_path, config_of(tmp_path, rest, events, ["http://127.0.0.1:9/"]), lambda: False, 1)
    assert "GENESYS_CLIENT_SECRET" in said
    assert [text for text in [SECRET, BASIC, TOKENS, CALLBACK_SECRET] if text in said] == []


def test_every_file_is_the_owners_alone(tmp_path: Path) -> None:
    """With the usual umask, state files are 0600 and directories 0700 while the run is on: Bytewax' files as well."""
    modes: dict[Path, int] = {}

    def looked() -> bool:
        recovery = tmp_path / "state" / "recovery"
        if not receiver.received or not any(recovery.glob("part-*.sqlite3-wal")):
            return False
        modes.update({path: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "state").rglob("*")})
        return True

    with (
        RestServer() as rest,
        ScriptedReceiver() as receiver,
        EventsServer(telling([("c0", 0.3)], stay_open)) as events,
    ):
        run(tmp_path, config_of(tmp_path, rest, events, [receiver.url]), looked, 0)
    modes.update({path: stat.S_IMODE(path.stat().st_mode) for path in [tmp_path / "state", *modes] if path.exists()})
    assert {path.name for path in modes} >= {"part-0.sqlite3", "part-0.sqlite3-wal", "part-0.sqlite3-shm", "lock"}
    assert {path.name for path in modes} >= {"00000001.jsonl", "outbox.sqlite3-wal", "audit.jsonl", "windows.jsonl"}
    wrong = {str(path): oct(mode) for path, mode in modes.items() if mode != (0o700 if path.is_dir() else 0o600)}
    assert wrong == {}
