"""The AudioHook feed on a real socket, dialled by callers that behave and callers that do not."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from connectors.errors import StateError, UsageError
from connectors.genesys.feeds.audiohook.feed import AudioHookFeed, AudioHookTiming
from connectors.genesys.feeds.audiohook.session import MAX_TEXT_BYTES, NO_CONVERSATION, SessionTiming
from connectors.genesys.feeds.base import WatchRules, is_sampled
from connectors.genesys.simulator.audiohook import CallResult, dial, upgrade
from connectors.genesys.simulator.caller import FAULTS, CallPlan, Fault, Spell, plan_call
from connectors.genesys.simulator.lifecycle import in_background
from tests.support.audiohook import DEADLINE_S, KEY, LIMITS, QUICK, SECRET, Listening, listening, open_journal

NONCE = "n" * 24
TLS = Path(__file__).parents[4] / "data" / "tls"


def plan(slot: int = 5, seconds: float = 0.6, **changes: Any) -> CallPlan:
    healthy = replace(plan_call(1, slot), late=(), discards=(), pauses=(), seconds=seconds, network_s=0.03)
    return replace(healthy, **changes)


def call(listener: Listening, *plans: CallPlan, key: str = KEY, secret: bytes | None = SECRET) -> list[CallResult]:
    async def all_of_them() -> list[CallResult]:
        async with asyncio.timeout(DEADLINE_S):
            return list(await asyncio.gather(*(dial(listener.url, one, key, secret) for one in plans)))

    return asyncio.run(all_of_them())


def events(listener: Listening, conversation_id: str) -> list[str]:
    return [frame["event"].removeprefix("conversation.") for frame in listener.frames(conversation_id)]


def told(frames: list[dict[str, Any]], key: str) -> list[Any]:
    return [frame["audiohook"][key] for frame in frames if frame["audiohook"].get(key) is not None]


def test_a_call_is_watched_measured_and_ended(tmp_path: Path) -> None:
    """A call gives a watch with the feed's limits, a start, measurements, and an end; its audio leaves no trace."""
    one = plan()
    with listening(tmp_path) as listener:
        assert call(listener, one) == [CallResult(101, closed=True, close_code=1000)]
        listener.wait_for(lambda this: "ended" in events(this, one.conversation_id))
        assert listener.feed.counts.audio_bytes == 0.6 * 8000 * 2
    names = events(listener, one.conversation_id)
    assert (names[0], names[-1], set(names[1:-1])) == ("started", "ended", {"updated"})
    records = listener.records()
    watch = next(record["watch"] for record in records if "watch" in record)
    assert watch == LIMITS.watch(one.conversation_id, one.session_id, codec="g711")
    frames = listener.frames(one.conversation_id)
    assert {record["via"] for record in records if "frame" in record} == {"audiohook"}
    assert {frame["audiohook"]["session"] for frame in frames} == {one.session_id}
    assert sum(told(frames, "audioMs")) == 600.0
    assert {loss for frame in frames if (loss := frame.get("metrics", {}).get("packetLoss")) is not None} == {0.0}
    assert [(state, reason) for _, state, reason in listener.states] == [
        ("up", f"listening on {listener.url.removeprefix('ws://')}"),
        ("down", "the test is over"),
    ]


LOSING = plan(5, 1.2, discards=((0.3, 0.5),))
PAUSING = plan(6, 1.2, pauses=((0.3, 0.6),))
LATE = plan(7, 1.2, late=(Spell(0.4, 0.9, 0.4),))
PINGING = plan(8, 1.3, network_s=0.07)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Listening:
    """What a feed has recorded of four calls, each with something of its own."""
    with listening(tmp_path_factory.mktemp("measured")) as listener:
        assert all(outcome.closed for outcome in call(listener, LOSING, PAUSING, LATE, PINGING))
        listener.wait_for(lambda this: this.feed.counts.open == 0)
    return listener


def test_discarded_audio_is_loss(measured: Listening) -> None:
    """What Genesys threw away is in the loss of its interval, and is reported as it happens."""
    frames = measured.frames(LOSING.conversation_id)
    assert max(frame["metrics"]["packetLoss"] for frame in frames if "metrics" in frame) > 0.3
    assert 200.0 in told([frame for frame in frames if frame["audiohook"].get("event") == "discarded"], "discardedMs")


def test_a_pause_is_no_loss(measured: Listening) -> None:
    """What is left out in a pause is reported, and not a loss; the frames in between say that there is a pause."""
    frames = measured.frames(PAUSING.conversation_id)
    assert {frame["metrics"]["packetLoss"] for frame in frames if "metrics" in frame} == {0.0}
    assert [frame["audiohook"]["leftOutMs"] for frame in frames if "leftOutMs" in frame["audiohook"]] == [300.0]
    assert any(frame["audiohook"].get("paused") for frame in frames)
    assert set(told(frames, "unaccountedMs")) <= {0.0}


def test_audio_that_comes_late_is_latency(measured: Listening) -> None:
    """Frames that come 400 ms late show as latency: the timestamp is when what has arrived was due."""
    records = [record for record in measured.records() if "frame" in record]
    records = [record for record in records if record["frame"]["entity"]["id"] == LATE.conversation_id]
    latencies_ms = [(record["received_at"] - record["frame"]["timestamp"]) * 1000 for record in records]
    assert 300 < max(latencies_ms) < 5000
    for record, latency_ms in zip(records, latencies_ms, strict=True):
        told_ms = [record["frame"]["audiohook"].get(key) or 0.0 for key in ("latenessMs", "rttMs")]
        assert latency_ms == pytest.approx(max(told_ms), abs=0.01)


def test_the_round_trip_of_the_pings_is_latency(measured: Listening) -> None:
    """The second ping brings the round trip of the first, and a frame of its own tells it."""
    frames = measured.frames(PINGING.conversation_id)
    pings = [frame for frame in frames if frame["audiohook"].get("event") == "ping"]
    assert len(pings) == 1
    assert 70 <= pings[0]["audiohook"]["rttMs"] < 5000
    assert "metrics" not in pings[0]


def test_a_conversation_lasts_from_its_first_session_to_its_last(tmp_path: Path) -> None:
    """Two sessions of one conversation: one start, one end, and the one watch that was there already is left alone."""
    short, long = plan(5, 0.2), plan(6, 0.6)
    long = replace(long, conversation_id=short.conversation_id)
    with listening(tmp_path) as listener:
        listener.wait_for(lambda this: bool(this.states))  # until then it ends what an earlier run has left
        listener.journal.watch(LIMITS.watch(short.conversation_id, "mine"))
        call(listener, short, long)
        listener.wait_for(lambda this: "ended" in events(this, short.conversation_id))
    names = events(listener, short.conversation_id)
    assert (names.count("started"), names.count("ended"), names[-1]) == (1, 1, "ended")
    assert [record["watch"]["leg_id"] for record in listener.records() if "watch" in record] == ["mine"]


def test_calls_outside_the_sample_are_closed_and_leave_no_record(tmp_path: Path) -> None:
    """A call that is not sampled is opened without audio and closed in the protocol's way; it is counted."""
    plans = [plan(number, 0.4) for number in range(8)]
    wanted = [one for one in plans if is_sampled(one.conversation_id, 0.5)]
    told_of: list[dict[str, str]] = []
    with listening(
        tmp_path,
        rules=WatchRules(sample=0.5),
        on_event=lambda *event: told_of.append(event[2]),
    ) as listener:
        outcomes = call(listener, *plans)
        assert all(outcome.closed for outcome in outcomes)
        listener.wait_for(lambda this: this.feed.counts.open == 0)
        assert listener.feed.counts.declined == len(plans) - len(wanted) > 0
    watched = [record["watch"]["conversation_id"] for record in listener.records() if "watch" in record]
    assert sorted(watched) == sorted(one.conversation_id for one in wanted)
    assert {event["reason"] for event in told_of} == {"sample"}
    assert len(told_of) == len(plans) - len(wanted)


def test_a_probe_is_answered_and_leaves_no_record(tmp_path: Path) -> None:
    """The connection probe of an activation completes, is counted as a probe, not as a conversation."""
    with listening(tmp_path) as listener:
        assert call(listener, plan(conversation_id=NO_CONVERSATION, seconds=0.1))[0].closed
        assert (listener.feed.counts.probes, listener.feed.counts.opened) == (1, 0)
    assert listener.frames() == []
    assert not any("watch" in record for record in listener.records())


def test_callers_that_misbehave_end_their_own_sessions_only(tmp_path: Path) -> None:
    """Whatever callers do wrong: each is asked to close, its conversation ends, and a good call does not notice."""
    bad = {kind: plan(slot, 5.0, faults=(Fault(0.25, kind),)) for slot, kind in enumerate(FAULTS, 6)}
    good = plan(5, 0.5)
    with listening(tmp_path) as listener:
        other, *outcomes = call(listener, good, *bad.values())
        listener.wait_for(lambda this: this.feed.counts.open == 0)
        counts = listener.feed.counts
        assert listener.feed.failure is None
    assert other == CallResult(101, closed=True, close_code=1000)
    assert sum(told(listener.frames(good.conversation_id), "audioMs")) == pytest.approx(500.0)
    assert {events(listener, one.conversation_id)[-1] for one in bad.values()} == {"ended"}
    assert (counts.lost, counts.failed) == (1, len(FAULTS) - 2)
    for kind, outcome in zip(bad, outcomes, strict=True):
        if kind == "abrupt-end":
            assert not outcome.closed
        elif kind == "late-pong":
            assert (outcome.closed, outcome.errors[0][0], outcome.disconnects) == (True, 408, ())
        else:
            assert (outcome.closed, [reason for reason, _ in outcome.disconnects]) == (True, ["error"])


def refusal(listener: Listening, headers: dict[str, str], path: str = "") -> tuple[int, bytes]:
    async def attempt() -> tuple[int, bytes]:
        try:
            async with connect(listener.url + path, additional_headers=headers, proxy=None):
                return 101, b""
        except InvalidStatus as refused:
            return refused.response.status_code, bytes(refused.response.body or b"")

    return asyncio.run(attempt())


def test_a_wrong_handshake_is_refused_and_nothing_is_told(tmp_path: Path) -> None:
    """Whatever is wrong with key, signature, nonce, path or headers: the same 401, and the reason in a count only."""
    one = plan()
    with listening(tmp_path) as listener:

        def headers(key: str = KEY, secret: bytes | None = SECRET, nonce: str = NONCE) -> dict[str, str]:
            return upgrade(listener.url, one, key, secret, created=time.time(), nonce=nonce)

        nonces = map(str, itertools.count(10**23))
        assert refusal(listener, headers())[0] == 101
        attempts = [
            refusal(listener, headers()),
            refusal(listener, headers(secret=b"another", nonce=next(nonces))),
            refusal(listener, headers(key="unknown", nonce=next(nonces))),
            refusal(listener, headers(secret=None)),
            refusal(listener, headers(nonce="short")),
            refusal(listener, headers(nonce=next(nonces)), path="/elsewhere"),
            refusal(listener, {"X-API-KEY": "open"}),
            refusal(listener, {}),
        ]
        assert len(set(attempts)) == 1
        assert attempts[0][0] == 401
        assert attempts[0][1] == b"unauthorized\n"
        assert listener.feed.refused == {
            "replayed nonce": 1,
            "wrong signature": 1,
            "unknown key": 1,
            "unsigned": 1,
            "no nonce": 1,
            "other path": 1,
            "no session or organization": 2,
        }
        assert refusal(listener, headers(key="open", secret=None))[0] == 101


def test_sessions_beyond_the_limit_are_told_to_come_later(tmp_path: Path) -> None:
    """Up to the limit of sessions there is room, and the next one is answered 503, which Genesys tries again."""
    one, two = plan(5, 30.0), plan(6, 30.0)

    async def work(stop: asyncio.Event, ready: Callable[[], None]) -> None:
        ready()
        await dial(listener.url, one, KEY, SECRET, stop=stop)

    with listening(tmp_path, max_sessions=1) as listener:
        with in_background(work):
            listener.wait_for(lambda this: this.feed.counts.open == 1)
            headers = upgrade(listener.url, two, KEY, SECRET, created=time.time(), nonce=NONCE)
            assert refusal(listener, headers)[0] == 503
        listener.wait_for(lambda this: this.feed.counts.open == 0)
        assert call(listener, plan(7, 0.2))[0].closed


def test_stopping_asks_every_client_to_close_and_waits(tmp_path: Path) -> None:
    """When the feed stops no connection is dropped: clients are asked to close, do, and their conversations end."""
    plans = [plan(slot, 30.0) for slot in range(5, 10)]
    outcomes: list[CallResult] = []

    async def work(stop: asyncio.Event, ready: Callable[[], None]) -> None:
        ready()
        outcomes.extend(await asyncio.gather(*(dial(listener.url, one, KEY, SECRET) for one in plans)))

    with listening(tmp_path) as listener:
        with in_background(work):
            listener.wait_for(lambda this: this.feed.counts.open == 5)
            listener.feed.stop("enough")
        with pytest.raises(OSError, match=r"refused|Connect"):
            call(listener, plan(11))
    expected = CallResult(101, True, (("completed", "voicewatch is stopping"),), (), 1000)
    assert outcomes == [expected] * 5
    assert {events(listener, one.conversation_id)[-1] for one in plans} == {"ended"}
    assert listener.states[-1] == ("audiohook", "down", "enough")
    assert [record["feed"]["state"] for record in listener.records() if "feed" in record] == ["up", "down"]


def test_clients_that_do_not_close_are_hung_up_on_in_order(tmp_path: Path) -> None:
    """A client that never says a word after the upgrade is asked to close, then closed with a close frame."""
    heard: list[str] = []

    async def mute(url: str) -> int | None:
        headers = upgrade(url, plan(), KEY, SECRET, created=time.time(), nonce=NONCE)
        async with connect(url, additional_headers=headers, proxy=None) as connection:
            with suppress(ConnectionClosed):
                while True:
                    heard.append(json.loads(await connection.recv())["type"])
            return connection.close_code

    timing = replace(QUICK, sample_s=0.05)
    with listening(tmp_path, timing) as listener:
        assert asyncio.run(asyncio.wait_for(mute(listener.url), DEADLINE_S)) == 1000
    assert heard == ["disconnect"]


def test_messages_in_fragments_are_put_together(tmp_path: Path) -> None:
    """Text and audio that come in several WebSocket frames are the same messages."""
    one = plan()

    async def fragments(url: str) -> list[str]:
        headers = upgrade(url, one, KEY, SECRET, created=time.time(), nonce=NONCE)
        opening = {"organizationId": one.organization_id, "conversationId": "c", "media": list(one.media)}
        base = {"version": "2", "id": one.session_id, "position": "PT0S"}
        heard = []
        async with connect(url, additional_headers=headers, proxy=None) as connection:
            text = json.dumps(base | {"type": "open", "seq": 1, "serverseq": 0, "parameters": opening})
            await connection.send([text[:40], text[40:90], text[90:]])
            heard.append(json.loads(await connection.recv())["type"])
            await connection.send([b"\xff" * 801, b"\xff" * 799])
            await connection.send(b"\xff" * 1600)
            text = json.dumps(base | {"type": "ping", "seq": 2, "serverseq": 1, "parameters": {}})
            await connection.send([text[:50], text[50:]])
            heard.append(json.loads(await connection.recv())["type"])
        return heard

    with listening(tmp_path) as listener:
        assert asyncio.run(fragments(listener.url)) == ["opened", "pong"]
        listener.wait_for(lambda this: this.feed.counts.open == 0)
        assert listener.feed.counts.audio_bytes == 3200
    assert events(listener, "c")[-1] == "ended"
    assert listener.frames("c")[-1]["audiohook"]["event"] == "lost"


def test_text_that_is_not_utf_8_is_answered_in_order(tmp_path: Path) -> None:
    """Bytes that are not text end the session with a disconnect, not the connection with an error."""

    async def nonsense(url: str) -> str:
        headers = upgrade(url, plan(), KEY, SECRET, created=time.time(), nonce=NONCE)
        async with connect(url, additional_headers=headers, proxy=None) as connection:
            await connection.send(b"\xff\xfe{}", text=True)
            return str(json.loads(await connection.recv())["type"])

    with listening(tmp_path) as listener:
        assert asyncio.run(nonsense(listener.url)) == "disconnect"


def test_a_session_that_reconnects_does_not_end_its_conversation(tmp_path: Path) -> None:
    """A session closed to reconnect leaves its conversation open for the next one."""

    async def reconnecting(url: str) -> None:
        for number, reason in enumerate(["reconnect", "end"]):
            one = plan(seconds=0.2)
            headers = upgrade(url, one, KEY, SECRET, created=time.time(), nonce=f"{NONCE}{number}")
            opening = {"organizationId": one.organization_id, "conversationId": "c", "media": list(one.media)}
            base = {"version": "2", "id": one.session_id, "position": "PT0S"}
            async with connect(url, additional_headers=headers, proxy=None) as connection:
                for seq, kind, parameters in ((1, "open", opening), (2, "close", {"reason": reason})):
                    message = base | {"type": kind, "seq": seq, "serverseq": seq - 1, "parameters": parameters}
                    await connection.send(json.dumps(message))
                    await connection.recv()

    with listening(tmp_path) as listener:
        asyncio.run(reconnecting(listener.url))
        listener.wait_for(lambda this: "ended" in events(this, "c"))
    assert events(listener, "c").count("started") == 1
    assert events(listener, "c").count("ended") == 1


def test_a_full_disk_ends_the_feed_after_the_clients_were_asked_to_close(tmp_path: Path) -> None:
    """When the recorder fails, clients are asked to close with an error, and the failure is there for the run."""

    class Full:
        def __init__(self, recorder: Any) -> None:
            self.watch = recorder.watch
            self.is_watching = recorder.is_watching
            self.watched_by = recorder.watched_by
            self.watch_feed = recorder.watch_feed
            self.feed = recorder.feed
            self.flush = recorder.flush

        def frame(self, text: str | bytes, *, at: float | None = None) -> None:
            raise StateError("no space left")

    journal = open_journal(tmp_path / "journal")
    with listening(tmp_path, journal=journal, recorder=Full(journal.recorder("audiohook"))) as listener:
        outcome = call(listener, plan(5, 30.0))[0]
        assert outcome.closed
        assert outcome.disconnects == (("error", "voicewatch is stopping"),)
        listener.wait_for(lambda this: isinstance(this.feed.failure, StateError))


def test_an_address_that_is_taken_is_explained(tmp_path: Path) -> None:
    """A feed that cannot listen says so, with what to change; stopping it does no harm."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        with listening(tmp_path, listen=other.getsockname()[:2]) as listener:
            assert isinstance(listener.feed.failure, UsageError)
            assert "choose another [audiohook] listen" in str(listener.feed.failure)
        assert listener.states == []


def test_the_feed_speaks_tls(tmp_path: Path) -> None:
    """With a certificate, the feed answers wss."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(TLS / "server.pem")
    client = ssl.create_default_context(cafile=TLS / "ca.pem")

    name = "qa.example.test"

    async def hello(url: str) -> str:
        one = plan()
        headers = upgrade(url, one, "open", None, created=time.time(), nonce=NONCE)
        async with connect(url, additional_headers=headers, ssl=client, server_hostname=name, proxy=None) as connection:
            await connection.send("nonsense")
            return str(json.loads(await connection.recv())["type"])

    with listening(tmp_path, tls=context) as listener:
        assert asyncio.run(hello(listener.url.replace("ws:", "wss:"))) == "disconnect"


def test_calls_that_a_killed_run_left_are_ended_at_the_next_start(tmp_path: Path) -> None:
    """Their sessions do not come back, and the watches of others stay."""
    before = open_journal(tmp_path / "journal")
    before.watch(LIMITS.watch("left", "session"))
    before.watch({"conversation_id": "interceptors"})
    with listening(tmp_path) as heard:
        heard.wait_for(lambda heard: bool(heard.states))
        assert [frame["event"] for frame in heard.frames("left")] == ["conversation.ended"]
        assert not heard.journal.is_watching("left")
        assert heard.journal.is_watching("interceptors")


def test_a_feed_that_was_never_started_can_be_stopped(tmp_path: Path) -> None:
    """Stopping before the start, or twice, does nothing."""
    journal = open_journal(tmp_path / "journal")
    feed = AudioHookFeed(
        name="audiohook",
        listen=("127.0.0.1", 0),
        path="/audiohook",
        keys={},
        recorder=journal,
        limits=LIMITS,
        timing=AudioHookTiming(),
    )
    feed.stop("early")
    feed.stop("twice")
    assert feed.address == ("127.0.0.1", 0)
    journal.close()


def test_text_at_the_limit_is_taken_and_beyond_the_hard_limit_the_connection_is_closed(tmp_path: Path) -> None:
    """64,000 bytes are a message; a megabyte and more is refused by the WebSocket itself, with its close code."""
    one = plan()

    async def large(url: str) -> tuple[str, int | None]:
        headers = upgrade(url, one, KEY, SECRET, created=time.time(), nonce=NONCE)
        opening = {"organizationId": one.organization_id, "conversationId": "c", "media": list(one.media), "x": ""}
        message = {"version": "2", "id": one.session_id, "position": "PT0S", "type": "open", "seq": 1, "serverseq": 0}
        opening["x"] = "x" * (MAX_TEXT_BYTES - len(json.dumps(message | {"parameters": opening})))
        async with connect(url, additional_headers=headers, proxy=None) as connection:
            await connection.send(json.dumps(message | {"parameters": opening}))
            kind = str(json.loads(await connection.recv())["type"])
            await connection.send("x" * (2**20 + 1))
            with suppress(ConnectionClosed):
                await connection.recv()
            return kind, connection.close_code

    with listening(tmp_path) as listener:
        assert asyncio.run(large(listener.url)) == ("opened", 1009)


def test_a_fault_of_ours_costs_the_connection_that_met_it(tmp_path: Path) -> None:
    """An exception that is not the recorder's own closes one connection, and the feed goes on with the others."""

    class Faulty:
        def __init__(self, recorder: Any) -> None:
            self.recorder = recorder

        def __getattr__(self, name: str) -> Any:
            return getattr(self.recorder, name)

        def frame(self, text: bytes, *, at: float | None = None) -> None:
            if bad.conversation_id.encode() in text:
                raise TypeError("a fault")
            self.recorder.frame(text, at=at)

    good, bad = plan(5, 0.6), plan(6, 30.0)
    journal = open_journal(tmp_path / "journal")
    with listening(tmp_path, journal=journal, recorder=Faulty(journal.recorder("audiohook"))) as listener:
        assert call(listener, bad) == [CallResult(101, closed=False, close_code=1006)]
        assert call(listener, good)[0].closed
        assert listener.feed.failure is None
    assert events(listener, good.conversation_id)[-1] == "ended"


def test_a_nested_message_costs_its_own_session_only(tmp_path: Path) -> None:
    """A message as deep as JSON may be is answered with a disconnect at most, and calls go on."""

    async def deep(url: str) -> str:
        one = plan()
        headers = upgrade(url, one, KEY, SECRET, created=time.time(), nonce=NONCE)
        opening = {
            "organizationId": one.organization_id,
            "conversationId": "c",
            "media": [one.media[0] | {"x": "DEEP"}],
        }
        message = {"version": "2", "id": one.session_id, "position": "PT0S", "type": "open", "seq": 1, "serverseq": 0}
        text = json.dumps(message | {"parameters": opening}).replace('"DEEP"', "[" * 1000 + "]" * 1000)
        async with connect(url, additional_headers=headers, proxy=None) as connection:
            await connection.send(text)
            return str(json.loads(await connection.recv())["type"])

    with listening(tmp_path) as listener:
        assert asyncio.run(deep(listener.url)) in ("opened", "disconnect")
        assert call(listener, plan(6, 0.2))[0].closed
        assert listener.feed.failure is None


PATIENT = replace(QUICK, session=SessionTiming(open_s=600.0, close_s=600.0, quiet_s=600.0))


def raw_upgrade(listener: Listening) -> socket.socket:
    """A connection after its upgrade, for a client that no library would be."""
    headers = upgrade(listener.url, plan(), "open", None, created=time.time(), nonce=NONCE)
    headers |= {"Host": "{}:{}".format(*listener.feed.address), "Connection": "Upgrade", "Upgrade": "websocket"}
    headers |= {"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    connection = socket.create_connection(listener.feed.address, timeout=DEADLINE_S)
    connection.sendall(f"GET /audiohook HTTP/1.1\r\n{lines}\r\n".encode())
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += connection.recv(1)
    assert answer.startswith(b"HTTP/1.1 101 ")
    return connection


def send_until_cut_off(connection: socket.socket, data: bytes) -> None:
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        connection.sendall(data)


def test_a_client_that_pings_and_never_reads_is_given_up(tmp_path: Path) -> None:
    """Pongs that the client does not read are not kept without limit: the connection is cut."""
    pings = b"\x89\xfd\0\0\0\0" + b"x" * 125
    with (
        listening(tmp_path, PATIENT) as listener,
        raw_upgrade(listener) as connection,
        pytest.raises(ConnectionError),
    ):
        send_until_cut_off(connection, pings * 500)


def test_a_message_in_too_many_fragments_is_not_kept(tmp_path: Path) -> None:
    """Fragments without a byte are not a message, however many come: the connection is cut."""
    with listening(tmp_path, PATIENT) as listener, raw_upgrade(listener) as connection:
        connection.sendall(b"\x02\x80\0\0\0\0" + b"\x00\x80\0\0\0\0" * 1023)
        connection.sendall(b"\x89\x80\0\0\0\0")
        assert connection.recv(2) == b"\x8a\0"
        with pytest.raises(ConnectionError):
            send_until_cut_off(connection, b"\x00\x80\0\0\0\0")
