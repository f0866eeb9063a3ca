"""Personal data of messages reaches neither the state directory nor a log."""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.sync.server import ServerConnection, serve

from connectors.genesys.simulator.audiohook import upgrade
from connectors.genesys.simulator.caller import plan_call
from connectors.genesys.simulator.notifications import NotificationsSimulator
from connectors.genesys.simulator.server import running
from tests.support.cli import DEADLINE_S, configuration, voicewatch
from tests.support.cli import running as running_command
from tests.support.kafka import mock_kafka
from tests.support.simulators import send_to_all
from tests.support.sqs import AWS, sqs_server
from tests.support.tape import until

MARK = "MARKED-PERSONAL-TEXT"
BUS_KEY = "key-of-the-connection"
QUEUE = "5a1b7c3e-0000-4000-8000-00000000000a"
PAGES = (
    *("/fleet", "/conversations", "/conversation?id=c-5", "/incidents", "/failures", "/feeds", "/what-if", "/metrics"),
    "/journal?id=c-5&from=0&to=9e9",
)
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
            send_to_all(simulator, *messages("c-1"), MARK.encode())
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


def strays(id_: str) -> list[str]:
    """Notifications where none belongs: as Genesys writes them, and with keys whose letters are escaped."""
    text = messages(id_)[1]
    return [text, text.replace('"topicName"', '"\\u0074opicName"').replace('"eventBody"', '"\\u0065ventBody"')]


def voice_events(connection: ServerConnection) -> None:
    """Send a client of the event feed messages that are not frames, with the mark, until it closes."""
    connection.recv()
    participant = {"participants": [{"name": MARK, "ani": MARK}]}
    found: list[str | bytes] = [
        json.dumps({"event": "conversation.updated", **participant}),
        f'{{"conversationId":"c-2","transcript":"{MARK}',
        f'{{"eventBody":{{"x":"{MARK}"}}}}'.encode(),
        *strays("c-2"),
    ]
    for message in found:
        connection.send(message)
    with suppress(ConnectionClosed):
        connection.recv()


def call_audiohook(url: str, number: int, *texts: str) -> None:
    """Open a session with the mark in every field for people's texts, send it some texts, and wait for its end."""
    plan = plan_call(7, number)
    headers = upgrade(url, plan, "key", None, created=time.time(), nonce="n" * 22)
    participant = {"id": plan.session_id, "ani": f"tel:{MARK}", "aniName": MARK, "dnis": f"tel:{MARK}"}
    parameters = {
        "organizationId": plan.organization_id,
        "conversationId": plan.conversation_id,
        "participant": participant,
        "media": plan.media,
        "customConfig": {"secret": MARK, "note": {"deep": MARK}},
        "inputVariables": {"account": MARK},
        "language": MARK,
    }
    with connect(url, additional_headers=headers, proxy=None) as dialled:
        dialled.send(said_by_client(plan.session_id, 1, "open", parameters))
        assert json.loads(dialled.recv(DEADLINE_S))["type"] == "opened"
        for text in texts:
            dialled.send(text.replace("SESSION", plan.session_id))
        with suppress(ConnectionClosed, TimeoutError):
            while json.loads(dialled.recv(DEADLINE_S))["type"] != "disconnect":
                pass


def said_by_client(session_id: str, seq: int, type_: str, parameters: dict[str, Any]) -> str:
    """Build a message of an AudioHook client."""
    head = {"version": "2", "id": session_id, "type": type_, "seq": seq, "serverseq": seq - 1, "position": "PT0S"}
    return json.dumps({**head, "parameters": parameters})


def free_address() -> str:
    """Return an address of this machine that is free."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return f"127.0.0.1:{probe.getsockname()[1]}"


def bus_messages(id_: str) -> list[str]:
    """The messages as EventBridge delivers them, some of them broken: in events, arrays, SNS envelopes, and bare."""
    bare = messages(id_)
    events = []
    for number, text in enumerate(bare[:7]):
        message = json.loads(text)
        event = {"id": f"e-{id_}-{number}", "source": f"aws.partner/{MARK}", "account": MARK, "resources": [MARK]}
        type_ = message.get("topicName", "v2.detail.events.conversation.{id}.customer.start")
        events.append({**event, "detail-type": type_, "time": MARK, "detail": {**message, **WHO}})
    return [
        *map(json.dumps, events),
        json.dumps([{**event, "id": f"{event['id']}-again"} for event in events]),
        json.dumps({"Type": "Notification", "Subject": MARK, "Message": json.dumps({**events[1], "id": f"of {MARK}"})}),
        json.dumps({**events[1], "id": {"who": MARK}}),
        json.dumps({**events[1], "id": f"e-{id_}-extra", MARK: MARK, "detail-type": f"{MARK} said"}),
        *bare,
    ]


def post_all(url: str, texts: list[str]) -> str:
    """Post texts to the feed; return all that it answers."""
    with httpx.Client(headers={"X-Api-Key": BUS_KEY, "Content-Type": "application/json"}) as client:
        answers = [client.post(url, content=text, params={"who": MARK}) for text in texts]
        answers.append(client.get(f"{url}/{MARK}"))
        answers.append(client.post(url, content="{}", headers={"X-Api-Key": MARK}))
    assert {answer.status_code for answer in answers} == {200, 400, 401, 404}, [answer.text for answer in answers]
    return "".join(answer.text for answer in answers)


def test_no_text_of_any_feed_reaches_the_disk_or_a_log(tmp_path: Path) -> None:
    """Voice events, notifications, AudioHook, EventBridge by HTTP and by a queue, and Kafka: every field for texts."""
    hook, bus, page = free_address(), free_address(), free_address()
    with (
        running(NotificationsSimulator(calls=False)) as simulator,
        serve(voice_events, "127.0.0.1", 0) as events,
        sqs_server() as sqs,
        mock_kafka() as kafka,
    ):
        queue = sqs.queue("private")
        kafka.create("mixed")
        path = tmp_path / "voicewatch.toml"
        path.write_text(
            f"[genesys]\nbase_url = '{simulator.base_url}'\nevents_url = 'ws://127.0.0.1:{events.socket.getsockname()[1]}'\n"
            f"resolve_names = true\n[state]\ndir = '{tmp_path / 'state'}'\n[watch]\nmode = 'discover'\n"
            "[defaults]\ninterceptor_address = 'sip:qa@example.com'\nqa_callback_url = 'http://127.0.0.1:9/x'\n"
            f"[[feed]]\nkind = 'notifications'\nqueues = ['{QUEUE}']\n[[feed]]\nkind = 'voice-events'\n"
            f"[[feed]]\nkind = 'audiohook'\nlabels_from = {{queue = 'queue'}}\n"
            f"[[feed]]\nname = 'bus'\nkind = 'eventbridge'\nlisten = '{bus}'\nkey_env = 'BUS_KEY'\n"
            f"[[feed]]\nname = 'queue'\nkind = 'eventbridge'\nqueue_url = '{queue}'\n"
            f"[[feed]]\nname = 'topic'\nkind = 'kafka'\ntopic = 'mixed'\nstart = 'earliest'\n"
            f"[kafka]\nbrokers = ['{kafka.brokers}']\n"
            f"[audiohook]\nlisten = '{hook}'\npath = '/hook'\napi_keys = ['key']\n[web]\nlisten = '{page}'\n"
        )
        answering = threading.Thread(target=events.serve_forever)
        answering.start()
        secrets = {"VOICEWATCH_AUDIOHOOK_SECRETS": "key=", "BUS_KEY": BUS_KEY, **AWS}
        with running_command(tmp_path, "--log-json", "run", path, **secrets) as process:
            until(lambda: simulator.connected and process.log.count('"up"') >= 5)  # the queue's first poll is long
            send_to_all(simulator, *messages("c-1"), MARK.encode())
            url = f"ws://{hook}/hook"
            call_audiohook(url, 1, f"{MARK} is not JSON")
            call_audiohook(url, 2, said_by_client("SESSION", 2, MARK, {"text": MARK}), f'{{"{MARK}": 1}}')
            call_audiohook(url, 3, said_by_client("SESSION", 2, "error", {"code": 500, "message": MARK}), "[]")
            call_audiohook(url, 4, said_by_client("SESSION", 2, "update", {"language": MARK}), f'"{MARK}"')
            assert MARK not in post_all(f"http://{bus}/events", bus_messages("c-3"))
            sqs.send(queue, *bus_messages("c-4"))
            texts = [*bus_messages("c-5"), *strays("c-5")]
            kafka.send("mixed", *map(str.encode, texts), f"{MARK} said".encode("utf-16"))
            until(lambda: sqs.count(queue) == 0)
            until(lambda: kafka.committed("voicewatch", "mixed", 0) == len(texts) + 1)
            journal = tmp_path / "state" / "journal"
            until(lambda: sum(file.read_bytes().count(b'"invalid":') for file in journal.glob("*.jsonl")) >= 9)
            with httpx.Client(
                base_url=f"http://{page}", headers={"accept": "text/html"}, timeout=DEADLINE_S
            ) as browser:
                until(lambda: "c-5" in browser.get("/api/conversations").text)
                for view in PAGES:
                    shown = browser.get(view)
                    assert (shown.status_code, MARK in shown.text) == (200, False), view
            assert process.stop() == 0, process.log
        events.shutdown()
        answering.join()
    assert MARK not in process.output + process.log
    told = [
        voicewatch("report", tmp_path / "state", "--out", tmp_path / "report.html"),
        voicewatch("audit", "show", tmp_path / "state" / "audit.jsonl"),
        voicewatch("outbox", "list", path),
        voicewatch("status", tmp_path / "state"),
    ]
    assert [each.returncode for each in told] == [0] * 4, told
    assert not [each for each in told if MARK in each.stdout + each.stderr]
    assert holding_the_mark(tmp_path) == []
    segments = list((tmp_path / "state" / "journal").iterdir())
    assert {segment.suffix for segment in segments} == {".jsonl"}
    records = [json.loads(line) for segment in segments for line in segment.read_bytes().splitlines()]
    watched = {record["watch"]["conversation_id"] for record in records if "watch" in record}
    assert {plan_call(7, 4).conversation_id, "c-3", "c-4", "c-5"} <= watched
    for feed in ("bus", "queue", "topic"):
        kept = [record for record in records if record.get("via") == feed]
        assert {"frame", "invalid"} <= {kind for record in kept for kind in record}


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
