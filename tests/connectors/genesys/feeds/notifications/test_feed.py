"""The Notifications feed against the emulated platform, on real sockets."""

from __future__ import annotations

import contextlib
import hashlib
import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import structlog

from connectors.errors import StateError
from connectors.genesys.auth import Credentials, TokenProvider
from connectors.genesys.client import Clock, RequestBudget, RetryPolicy, tls_context
from connectors.genesys.endpoints import Endpoints
from connectors.genesys.feeds.base import FeedLimits, OnEvent, ignore_event
from connectors.genesys.feeds.notifications.enrichment import Enricher, EnrichTiming, MediaQueue
from connectors.genesys.feeds.notifications.feed import NotificationsFeed, NotificationTiming
from connectors.genesys.feeds.notifications.sockets import RecentlyHeard
from connectors.genesys.feeds.notifications.topics import in_channels, topics_of
from connectors.genesys.simulator.connection import Answer, Silence
from connectors.genesys.simulator.notifications import NotificationsSimulator
from connectors.genesys.simulator.server import running
from tests.support.simulators import announce_closing, close_channels, fall_silent, send_to_all
from tests.support.tape import DEADLINE_S, Tape, until

TLS = Path(__file__).parents[4] / "data" / "tls"
CALLS = "v2.routing.queues.q.conversations.calls"
LIMITS = FeedLimits("notifications", max_latency_ms=600, packet_loss_threshold=0.03, qa_callback_url="https://qa/x")
FAST: dict[str, Any] = {"base_s": 0.001, "cap_s": 0.05, "overlap_s": 0.3, "close_s": 1.0}
HASTY = EnrichTiming(delay_s=0.01, base_s=0.05, cap_s=0.1, attempts=40)


def detail(conversation: str, event: str, number: int = 0, **body: Any) -> tuple[str, dict[str, Any]]:
    """A detail event: its topic and its body."""
    content = {"eventTime": int(time.time() * 1000), "conversationId": conversation, "sessionId": f"s{number}", **body}
    return f"v2.detail.events.conversation.{conversation}.{event}", content


def call(conversation: str, *states: str) -> dict[str, Any]:
    """A call snapshot whose participants are in these states."""
    legs = [{"id": f"p{i}", "purpose": "customer", "state": state} for i, state in enumerate(states)]
    return {"id": conversation, "participants": legs}


@contextmanager
def feeding(
    simulator: NotificationsSimulator,
    tape: Tape,
    *,
    topics: list[str] | None = None,
    queue: Path | None = None,
    enrich: EnrichTiming = HASTY,
    on_event: OnEvent = ignore_event,
    **timing: Any,
) -> Iterator[NotificationsFeed]:
    """A feed that runs."""
    endpoints = Endpoints.from_base_url(simulator.base_url)
    tokens = TokenProvider(endpoints, Credentials("id", "client-secret"), policy=RetryPolicy(attempts=1))
    feed = NotificationsFeed(
        name="notifications",
        tokens=tokens,
        endpoints=endpoints,
        topics=[CALLS, *topics_of(["c1", "c2"], [], [])] if topics is None else topics,
        recorder=tape,
        limits=LIMITS,
        on_event=on_event,
        enrich_queue=queue,
        timing=NotificationTiming(**{**FAST, **timing}),
        enrich_timing=enrich,
        policy=RetryPolicy(timeout_s=5, attempts=2, base_s=0.001, cap_s=0.01),
        clock=Clock(u=lambda: 0.5),
    )
    feed.start()
    try:
        yield feed
    finally:
        feed.stop("test over", timeout_s=DEADLINE_S)
        tokens.close()
    assert not any(thread.name in ("feed-notifications", "enrich-notifications") for thread in threading.enumerate())


@contextmanager
def simulated(**options: Any) -> Iterator[NotificationsSimulator]:
    with running(NotificationsSimulator(calls=False, **options)) as simulator:
        yield simulator


def claiming(claim: str, first: bool) -> str:
    """The message of c1's end with a top-level `enrich`, as its first key or, differently spelt, as its last."""
    topic, body = detail("c1", "customer.end")
    message = json.dumps({"topicName": topic, "eventBody": body})
    return f' {{"enrich": {claim},{message[1:]} ' if first else f'{message[:-1]}, "enr\\u0069ch": {claim} }}\n'


@contextmanager
def redirecting(location: str) -> Iterator[int]:
    """Yield the port of a TLS server that redirects every client."""

    class Elsewhere(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", location)
            self.send_header("Content-Length", "0")
            self.send_header("Connection", "close")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
            """Nothing."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "server.pem")
    with HTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def sessions(tape: Tape) -> list[str]:
    """The session of every detail event recorded."""
    return [frame["eventBody"]["sessionId"] for frame in tape.of("frame") if "sessionId" in frame.get("eventBody", {})]


def is_over(tape: Tape) -> bool:
    """Whether the media record that ends a conversation is there, and its watch is not."""
    return any("ended" in frame for frame in tape.of("frame")) and not tape.is_watching("c1")


class TestListening:
    def test_records_what_it_hears(self) -> None:
        """Channel, subscription, connection; a notification is recorded as received, behind the watch of its call."""
        tape = Tape()
        with simulated(heartbeat_s=0.02) as simulator, feeding(simulator, tape) as feed:
            tape.wait_for(lambda t: t.states() == ["up"])
            (channel,) = simulator.connected
            assert list(channel.topics) == [CALLS, *topics_of(["c1", "c2"], [], [])]
            topic, body = detail("c1", "customer.start", participantId="p1")
            assert simulator.publish(topic, body, timestamp=5) == 1
            simulator.publish(CALLS, call("c3", "connected"))
            tape.wait_for(lambda t: len(t.of("frame")) == 2)
        assert tape.of("frame")[0] == {"topicName": topic, "eventBody": body, "timestamp": 5}
        assert [kind for kind, _ in tape.records] == ["feed", "watch", "frame", "watch", "frame", "feed"]
        assert tape.of("watch")[0] == LIMITS.watch("c1", "p1")
        assert tape.of("watch")[1] == LIMITS.watch("c3", "p0")
        assert tape.of("feed")[-1] == ("notifications", "down", "test over")
        assert feed.failure is None
        assert tape.of("invalid") == []

    def test_what_is_of_no_use(self) -> None:
        """An unknown topic is recorded without a watch; what is not a notification is invalid; pongs are neither."""
        tape = Tape()
        unknown = {"topicName": "v2.users.u.presence", "eventBody": {"id": "x"}}
        with simulated() as simulator, feeding(simulator, tape):
            tape.wait_for(lambda t: t.states() == ["up"])
            send_to_all(
                simulator,
                json.dumps(unknown),
                "not json",
                "[1]",
                b"\x00\xff",
                '{"result":"200","status":"subscribed"}',
                '{"a":1}',
            )
            tape.wait_for(lambda t: len(t.of("invalid")) == 4)
        assert tape.of("frame") == [unknown]
        texts = [b"not json", b"[1]", b"\x00\xff", b'{"a":1}']
        assert [mark for mark, _ in tape.of("invalid")] == [
            (len(text), hashlib.sha256(text).hexdigest()) for text in texts
        ]
        reasons = [reason.partition(":")[0] for _, reason in tape.of("invalid")]
        assert reasons == ["not a notification", "not a notification", "binary message", "not a notification"]
        assert tape.of("watch") == []
        assert tape.states() == ["up", "down"]

    def test_a_message_that_cannot_be_handled(self) -> None:
        """However deep a message is nested, it is recorded as invalid with a reason, and the feed goes on."""
        tape = Tape()
        deep, deeper = ("[" * depth + "]" * depth for depth in (300, 2000))
        topic, body = detail("c1", "customer.start")
        nested = json.dumps({"topicName": topic, "eventBody": {**body, "x": 0}})
        with simulated() as simulator, feeding(simulator, tape) as feed:
            tape.wait_for(lambda t: t.states() == ["up"])
            send_to_all(simulator, *(nested.replace('"x": 0', f'"x": {x}') for x in (deep, deeper)))
            send_to_all(simulator, *(f'{{"result":{x}}}' for x in (deep, deeper, "null")))
            simulator.publish(topic, body)
            tape.wait_for(lambda t: len(t.of("frame")) == 1)
            assert tape.is_watching("c1")
        assert feed.failure is None
        reasons = [reason for _, reason in tape.of("invalid")]
        assert reasons[0] == "it cannot be handled: TypeError"
        assert [reason.partition(":")[0] for reason in reasons[1:]] == ["not a notification"] * 4
        assert tape.states() == ["up", "down"]

    @pytest.mark.parametrize("claim", ["true", "false", "null", '"x"'])
    @pytest.mark.parametrize("first", [True, False])
    def test_an_annotation_from_outside(self, claim: str, first: bool) -> None:
        """Without enrichment an end is an end, whatever `enrich` its message comes with, and however that is spelt."""
        tape = Tape()
        with simulated() as simulator, feeding(simulator, tape) as feed:
            tape.wait_for(lambda t: t.states() == ["up"])
            simulator.publish(*detail("c1", "customer.start"))
            send_to_all(simulator, claiming(claim, first))
            tape.wait_for(lambda t: len(t.of("frame")) == 2)
            assert not tape.is_watching("c1")
        assert "enrich" not in tape.of("frame")[1]
        assert feed.failure is None

    def test_an_end_is_an_end(self) -> None:
        """What comes after a conversation's end, or tells of nothing else, begins no watch."""
        tape = Tape()
        with simulated() as simulator, feeding(simulator, tape):
            tape.wait_for(lambda t: t.states() == ["up"])
            for event in ("customer.start", "customer.end", "user.end", "wrapup"):
                simulator.publish(*detail("c1", event))
            simulator.publish(*detail("c2", "wrapup"))
            simulator.publish(CALLS, call("c4", "disconnected", "terminated"))
            tape.wait_for(lambda t: len(t.of("frame")) == 6)
            assert not tape.is_watching("c1")
        assert [watch["conversation_id"] for watch in tape.of("watch")] == ["c1"]

    def test_1500_topics(self) -> None:
        """More topics than a channel takes are on two; the feed is up when both are connected, and both are heard."""
        tape = Tape()
        topics = topics_of([], [f"q{n}" for n in range(1500)], [])
        with simulated() as simulator, feeding(simulator, tape, topics=topics):
            tape.wait_for(lambda t: t.states() == ["up"])
            assert sorted(len(channel.topics) for channel in simulator.connected) == [500, 1000]
            simulator.publish(topics[0], call("a", "connected"))
            simulator.publish(topics[-1], call("b", "connected"))
            tape.wait_for(lambda t: len(t.of("frame")) == 2)
            close_channels(simulator)
            tape.wait_for(lambda t: t.states()[-2:] == ["down", "up"])
        assert tape.of("feed")[0][2] == "connected: 1500 topic(s) on 2 channel(s)"
        assert " of 2: " in tape.of("feed")[1][2]

    def test_full_disk(self) -> None:
        """A recorder that fails ends the feed, which keeps the reason."""
        tape = Tape(full_after=1)
        with simulated() as simulator, feeding(simulator, tape) as feed:
            tape.wait_for(lambda t: t.states() == ["up"])
            for number in range(3):
                simulator.publish(*detail("c1", "user.start", number))
            until(lambda: feed.failure is not None)
        assert isinstance(feed.failure, OSError)
        assert len(tape.of("frame")) == 1

    def test_a_feed_that_never_was(self) -> None:
        """A feed that never came up is recorded as down, once, with the reason of the first failure."""
        tape = Tape()
        with simulated() as simulator:
            simulator.script("channel", *[Silence.RESET] * 100)
            with feeding(simulator, tape):
                simulator.wait_for(lambda s: s.requests["channel"] >= 3)
        ((kind, (name, state, reason)),) = tape.records
        assert (kind, name, state) == ("feed", "notifications", "down")
        assert "create notification channel: no answer" in reason


class TestRollover:
    def test_a_channel_whose_life_seems_short_is_kept(self) -> None:
        """A wall clock that is a day ahead does not make the feed replace its channels all the time."""
        tape = Tape()
        with simulated(channel_life_s=1.5) as simulator, feeding(simulator, tape, renew_ratio=0.1) as feed:
            tape.wait_for(lambda t: t.states() == ["up"])
            assert feed.failure is None
            time.sleep(0.6)
            assert simulator.connections == 1

    def test_before_the_channel_expires(self) -> None:
        """A channel is replaced before its life is over, without a gap, a loss or a duplicate, again and again."""
        tape = Tape()
        often: dict[str, Any] = {"renew_ratio": 0.5, "renew_after_s": 0}
        with simulated(channel_life_s=0.8) as simulator, feeding(simulator, tape, **often) as feed:
            tape.wait_for(lambda t: t.states() == ["up"])
            sent = 0
            while simulator.connections < 4:
                assert simulator.publish(*detail("c1", "user.start", sent)) >= 1
                sent += 1
                threading.Event().wait(0.005)
            tape.wait_for(lambda t: f"s{sent - 1}" in sessions(t))
            assert tape.states() == ["up"]
            assert sessions(tape) == [f"s{number}" for number in range(sent)]
            assert feed.duplicates > 0

    def test_on_socket_closing(self) -> None:
        """When Genesys announces the end of a socket, the new one is there before the old one goes."""
        tape = Tape()
        with simulated(closing_s=0.5) as simulator, feeding(simulator, tape):
            tape.wait_for(lambda t: t.states() == ["up"])
            announce_closing(simulator)
            simulator.wait_for(lambda s: len(s.connected) == 2)
            simulator.publish(*detail("c1", "user.start", 1))
            simulator.wait_for(lambda s: len(s.connected) == 1)
            simulator.publish(*detail("c1", "user.start", 2))
            tape.wait_for(lambda t: sessions(t) == ["s1", "s2"])
            assert tape.states() == ["up"]
            assert simulator.requests["channel"] == 2

    def test_without_a_replacement(self) -> None:
        """If no new channel is to be had, the old one is read to its end, and then the feed is down until there is."""
        tape = Tape()
        with simulated(closing_s=0.2) as simulator, feeding(simulator, tape):
            tape.wait_for(lambda t: t.states() == ["up"])
            simulator.script("channel", *[Answer(503, {})] * 1000)
            announce_closing(simulator)
            simulator.publish(*detail("c1", "user.start", 1))
            tape.wait_for(lambda t: t.states() == ["up", "down"])
            simulator.clear_scripts()
            tape.wait_for(lambda t: t.states() == ["up", "down", "up"])
        assert sessions(tape) == ["s1"]
        assert "closing" in tape.of("feed")[1][2]

    def test_a_repeated_message(self) -> None:
        """What was heard is not recorded again, in whatever order its keys come; a CorrelationId says nothing."""
        tape = Tape()
        topic, body = detail("c1", "user.start", 1)
        with simulated() as simulator, feeding(simulator, tape) as feed:
            tape.wait_for(lambda t: t.states() == ["up"])
            simulator.publish(topic, body, metadata={"CorrelationId": "one"})
            simulator.publish(topic, dict(reversed(body.items())), metadata={"CorrelationId": "two"})
            simulator.publish(topic, {**body, "sessionId": "s2"}, metadata={"CorrelationId": "one"})
            tape.wait_for(lambda t: sessions(t) == ["s1", "s2"])
            assert feed.duplicates == 1
            figures = feed.figures()
            assert figures["duplicates"] == 1
            assert figures["topics"] >= figures["channels"] >= 1
            assert figures["channel_age_s"] >= 0

    def test_memory_is_bounded(self) -> None:
        """Messages are remembered up to a limit, and for a limited time."""
        recent = RecentlyHeard(10.0, limit=100)
        assert not any(recent.is_repeated("t", number, 0.0) for number in range(500))
        assert len(recent) == 100
        assert recent.is_repeated("t", 499, 9.9)
        assert not recent.is_repeated("t", 499, 10.1)
        assert len(recent) == 1


class TestLosses:
    @pytest.mark.parametrize("code", [None, 1001, 1011])
    def test_killed_socket(self, code: int | None) -> None:
        """However a socket ends, the gap is recorded, and the same channel is connected again."""
        tape = Tape()
        with simulated() as simulator, feeding(simulator, tape):
            tape.wait_for(lambda t: t.states() == ["up"])
            close_channels(simulator, code)
            tape.wait_for(lambda t: t.states() == ["up", "down", "up"])
            simulator.publish(*detail("c1", "user.start", 7))
            tape.wait_for(lambda t: sessions(t) == ["s7"])
            assert simulator.requests["channel"] == 1

    def test_silence(self) -> None:
        """A socket on which nothing comes, not even a pong, is dead."""
        tape = Tape()
        with simulated() as simulator, feeding(simulator, tape, quiet_s=0.2, silent_s=0.4):
            tape.wait_for(lambda t: t.states() == ["up"])
            fall_silent(simulator)
            tape.wait_for(lambda t: t.states() == ["up", "down", "up"])
            assert simulator.pings >= 1
        assert tape.of("feed")[1][2] == "silent for 0.4 s"

    def test_a_quiet_socket_lives(self) -> None:
        """Pongs keep a socket alive on which nothing else comes."""
        tape = Tape()
        with simulated() as simulator, feeding(simulator, tape, quiet_s=0.05, silent_s=5.0):
            simulator.wait_for(lambda s: s.pings >= 5)
            assert tape.states() == ["up"]
            assert simulator.connections == 1

    @pytest.mark.parametrize("told", [True, False])
    def test_channel_is_gone(self, told: bool) -> None:
        """A 404, on the socket or on the upgrade, leads to a new channel."""
        tape = Tape()
        with simulated() as simulator, feeding(simulator, tape):
            tape.wait_for(lambda t: t.states() == ["up"])
            simulator.expire_channels(announced=told)
            tape.wait_for(lambda t: t.states() == ["up", "down", "up"])
            assert simulator.requests["channel"] == 2
            simulator.publish(*detail("c1", "user.start", 1))
            tape.wait_for(lambda t: sessions(t) == ["s1"])
        if told:
            assert "404" in tape.of("feed")[1][2]

    def test_upgrade_refused_with_401(self) -> None:
        """So does a 401 on the upgrade."""
        tape = Tape()
        with simulated(dead_status=401) as simulator, feeding(simulator, tape):
            tape.wait_for(lambda t: t.states() == ["up"])
            simulator.expire_channels(announced=False)
            tape.wait_for(lambda t: t.states() == ["up", "down", "up"])
            assert simulator.requests["channel"] == 2

    def test_revoked_token(self) -> None:
        """A channel whose token was revoked is replaced, with a fresh token."""
        tape = Tape()
        system = {"topicName": "v2.system.token_revoked", "eventBody": {"systemTopicType": "token_revoked"}}
        with simulated() as simulator, feeding(simulator, tape):
            tape.wait_for(lambda t: t.states() == ["up"])
            simulator.revoke_tokens()
            send_to_all(simulator, json.dumps(system))
            tape.wait_for(lambda t: t.states() == ["up", "down", "up"])
            assert simulator.tokens_issued == 2

    def test_expiring_token(self) -> None:
        """A token that is old when the channel is replaced is renewed before."""
        tape = Tape()
        with simulated(token_life_s=0.2, closing_s=5) as simulator, feeding(simulator, tape):
            tape.wait_for(lambda t: t.states() == ["up"])
            issued = simulator.tokens_issued
            threading.Event().wait(0.25)
            announce_closing(simulator)
            simulator.wait_for(lambda s: s.connections == 2)
            assert simulator.tokens_issued > issued
            assert tape.states() == ["up"]

    def test_long_reasons(self) -> None:
        """A reason is at most 256 characters long, however long the text that Genesys sends."""
        tape = Tape()
        system = {"topicName": "v2.system." + "x" * 5000, "eventBody": {"systemTopicType": "token_revoked"}}
        with simulated() as simulator, structlog.testing.capture_logs() as logs, feeding(simulator, tape):
            tape.wait_for(lambda t: t.states() == ["up"])
            send_to_all(simulator, json.dumps({"result": "4" * 5000}))
            tape.wait_for(lambda t: t.states() == ["up", "down", "up"])
            send_to_all(simulator, json.dumps(system))
            tape.wait_for(lambda t: t.states() == ["up", "down", "up", "down", "up"])
        assert max(len(str(line.get("reason", ""))) for line in logs) <= 256

    def test_a_redirect_is_not_quoted(self) -> None:
        """A channel's address is not logged when Genesys redirects the feed to it over an insecure connection."""
        tape = Tape()
        context = tls_context()
        context.check_hostname = False  # the certificate is that of another name
        context.load_verify_locations(TLS / "ca.pem")
        try:
            with (
                redirecting("ws://127.0.0.1/channels/of-one-client") as port,
                simulated() as simulator,
                structlog.testing.capture_logs() as logs,
            ):
                channel = {"id": "x", "connectUri": f"wss://127.0.0.1:{port}/channels/x"}
                simulator.script("channel", *[Answer(200, channel)] * 1000)
                simulator.script("subscribe", *[Answer(200, {"entities": []})] * 1000)
                with feeding(simulator, tape):
                    until(lambda: any(line["event"] == "feed_waits" for line in logs))
        finally:
            tls_context.cache_clear()
        assert {line["reason"] for line in logs if line["event"] == "feed_waits"} == {"cannot connect: SecurityError"}
        assert "of-one-client" not in str(logs)

    def test_subscription_refused(self) -> None:
        """If all topics are refused, the feed is down, with a reason to act on, and tries again."""
        tape = Tape()
        with (
            simulated(forbidden=("v2.",)) as simulator,
            structlog.testing.capture_logs() as logs,
            feeding(simulator, tape),
        ):
            simulator.wait_for(lambda s: s.requests["subscribe"] >= 2)
        assert tape.states() == ["down"]
        assert any("v2.routing" in str(line.get("reason")) for line in logs)

    def test_one_refused_topic(self) -> None:
        """One refused topic is reported once, with the reason, and the others are subscribed and recorded."""
        tape = Tape()
        events: list[tuple[str, str, Any]] = []
        gone = "v2.routing.queues.gone.conversations.calls"
        with (
            simulated(forbidden=(gone,)) as simulator,
            feeding(
                simulator,
                tape,
                topics=[gone, CALLS, CALLS.replace(".q.", ".q2.")],
                on_event=lambda *event: events.append(event),
            ),
        ):
            tape.wait_for(lambda t: t.states() == ["up"])
            simulator.publish(CALLS, call("c1", "connected"))
            tape.wait_for(lambda t: len(t.of("frame")) == 1)
            close_channels(simulator)
            tape.wait_for(lambda t: t.states() == ["up", "down", "up"])
        assert events == [("notifications", "topic_refused", {"topic": gone, "reason": "not permitted"})]

    def test_a_call_goes_on(self) -> None:
        """A call of which all known legs were over is watched again when another leg is alive."""
        tape = Tape()
        other = CALLS.replace(".q.", ".q2.")
        with simulated() as simulator, feeding(simulator, tape, topics=[CALLS, other]):
            tape.wait_for(lambda t: t.states() == ["up"])
            simulator.publish(CALLS, call("c1", "terminated"))
            simulator.publish(CALLS, call("c1", "terminated", "connected"))
            tape.wait_for(lambda t: len(t.of("frame")) == 2)
            assert tape.is_watching("c1")
            simulator.publish(other, call("c1", "terminated"))  # late
            tape.wait_for(lambda t: len(t.of("frame")) == 3)
            assert tape.is_watching("c1")
            simulator.publish(CALLS, call("c1", "terminated", "terminated"))
            tape.wait_for(lambda t: len(t.of("frame")) == 4)
            assert not tape.is_watching("c1")

    def test_expiring_subscriptions(self) -> None:
        """When Genesys announces that subscriptions expire, the channel is replaced without a gap."""
        tape = Tape()
        expiring = {"topicName": "v2.system.streaming-subscriptions-expiring", "eventBody": {"expiring": 60}}
        with simulated() as simulator, feeding(simulator, tape):
            tape.wait_for(lambda t: t.states() == ["up"])
            send_to_all(simulator, json.dumps(expiring))
            simulator.wait_for(lambda s: s.requests["channel"] == 2)
            assert tape.states() == ["up"]

    def test_unanswered_and_refused_requests(self) -> None:
        """Resets, 429 and 503 are retried until the channel is there."""
        tape = Tape()
        with simulated() as simulator:
            simulator.script("channel", Silence.RESET, Answer(429, {}, {"retry-after": "0"}), Answer(503, {}))
            simulator.script("subscribe", Answer(500, {}), Silence.RESET)
            with feeding(simulator, tape):
                tape.wait_for(lambda t: t.states() == ["down", "up"])

    def test_a_channel_that_is_none(self) -> None:
        """An answer without a channel's address is a failure, not a crash."""
        tape = Tape()
        with simulated() as simulator:
            simulator.script("channel", Answer(200, {}), Answer(200, {"id": "x", "connectUri": "http://x"}))
            with feeding(simulator, tape):
                tape.wait_for(lambda t: t.states() == ["down", "up"])

    def test_nothing_secret_is_told(self, caplog: pytest.LogCaptureFixture) -> None:
        """Neither the log nor a record holds the token, the secret or the address of a channel."""
        caplog.set_level("DEBUG")
        tape = Tape()
        with simulated() as simulator, structlog.testing.capture_logs() as logs, feeding(simulator, tape):
            tape.wait_for(lambda t: "up" in t.states())
            (channel,) = simulator.connected
            simulator.expire_channels(announced=False)
            tape.wait_for(lambda t: len(t.states()) >= 3)  # more, if the machine is too busy for the feed's patience
        ours = [record.getMessage() for record in caplog.records if record.name != "websockets.server"]
        said = f"{logs} {ours} {tape.records}"
        assert "client-secret" not in said
        assert "Bearer" not in said
        assert f"/channels/{channel.id} " not in said


MEDIA: dict[str, Any] = {
    "conversationEnd": "2026-11-23T10:00:00Z",
    "participants": [
        {
            "participantId": "p",
            "purpose": "customer",
            "sessions": [
                {
                    "sessionId": "s",
                    "mediaType": "voice",
                    "mediaEndpointStats": [{"maxLatencyMs": 80, "receivedPackets": 100, "discardedPackets": 4}],
                }
            ],
        }
    ],
}


class TestEnriching:
    def test_media_ends_the_watch(self, tmp_path: Path) -> None:
        """With enrichment the end of a call is not the end of its watch: that comes with the media."""
        tape = Tape()
        with simulated() as simulator, feeding(simulator, tape, queue=tmp_path / "queue.sqlite3"):
            tape.wait_for(lambda t: t.states() == ["up"])
            simulator.publish(*detail("c1", "customer.start"))
            simulator.publish(*detail("c1", "customer.end"))
            simulator.publish(CALLS, call("c1", "terminated"))
            simulator.wait_for(lambda s: s.requests["details"] >= 2)
            assert tape.is_watching("c1")
            assert all(frame["enrich"] is True for frame in tape.of("frame")[1:])
            simulator.details["c1"] = MEDIA
            tape.wait_for(is_over)
        media = tape.of("frame")[-1]
        assert media["mediaEndpointStats"] == MEDIA["participants"][0]["sessions"][0]["mediaEndpointStats"][0]
        assert (media["conversationId"], media["participantId"], media["ended"]) == ("c1", "p", True)

    @pytest.mark.parametrize("first", [True, False])
    def test_an_annotation_from_outside(self, tmp_path: Path, first: bool) -> None:
        """A message that says that it will not be enriched is, and so its end is not the end of the watch."""
        tape = Tape()
        with simulated() as simulator, feeding(simulator, tape, queue=tmp_path / "queue.sqlite3"):
            tape.wait_for(lambda t: t.states() == ["up"])
            simulator.publish(*detail("c1", "customer.start"))
            send_to_all(simulator, claiming("false", first))
            tape.wait_for(lambda t: len(t.of("frame")) == 2)
            assert tape.of("frame")[1]["enrich"] is True
            assert tape.is_watching("c1")
            simulator.details["c1"] = MEDIA
            tape.wait_for(is_over)

    @pytest.mark.parametrize("where", ["mediaEndpointStats", "mediaType", "sessionId", "purpose", "eventTime", "text"])
    def test_an_answer_that_cannot_be_recorded(self, tmp_path: Path, where: str) -> None:
        """It counts as a failed attempt; in the end the conversation ends without media, and leaves the queue."""
        deep: Any = "\ud800"
        for _ in range(0 if where == "text" else 1200):
            deep = [deep]
        stats: dict[str, Any] = {"maxLatencyMs": 1}
        session: dict[str, Any] = {"mediaEndpointStats": [stats]}
        participant: dict[str, Any] = {"sessions": [session]}
        owner = {"mediaType": session, "sessionId": session, "purpose": participant}.get(where, stats)
        owner["x" if where in ("mediaEndpointStats", "text") else where] = deep
        asked: list[str] = []

        class Analytics:
            def conversation_details(self, conversation_id: str) -> Any:
                asked.append(conversation_id)
                return {"conversationEnd": "2026-11-23T10:00:00Z", "participants": [participant]}

        tape = Tape()
        tape.watch(LIMITS.watch("c1", None))
        queue = MediaQueue(tmp_path / "queue.sqlite3", now=time.time)
        brief = EnrichTiming(delay_s=0.0, base_s=0.01, cap_s=0.02, attempts=3)
        enricher = Enricher(queue, Analytics(), tape, RequestBudget(), name="notifications", timing=brief)
        enricher.start()
        enricher.want("c1", ended=True)
        tape.wait_for(is_over)
        until(lambda: len(queue) == 0)
        assert enricher.failure is None
        enricher.stop(DEADLINE_S)
        assert asked == ["c1"] * 3
        assert tape.of("frame") == [{"conversationId": "c1", "mediaEndpointStats": None, "ended": True}]

    def test_a_leg_while_the_call_goes_on(self, tmp_path: Path) -> None:
        """The end of an agent's leg brings that leg's media, once; the call is watched on."""
        tape = Tape()
        with simulated() as simulator, feeding(simulator, tape, queue=tmp_path / "queue.sqlite3"):
            tape.wait_for(lambda t: t.states() == ["up"])
            simulator.details["c1"] = {**MEDIA, "conversationEnd": None}
            simulator.publish(*detail("c1", "customer.start"))
            simulator.publish(*detail("c1", "user.end"))
            tape.wait_for(lambda t: any("mediaEndpointStats" in frame for frame in t.of("frame")))
            assert tape.is_watching("c1")
            simulator.details["c1"] = MEDIA
            simulator.publish(*detail("c1", "customer.end"))
            tape.wait_for(is_over)
        media = [frame for frame in tape.of("frame") if "mediaEndpointStats" in frame]
        assert [frame["mediaEndpointStats"] is None for frame in media] == [False, True]

    def test_giving_up(self, tmp_path: Path) -> None:
        """A conversation that analytics does not know ends without media."""
        tape = Tape()
        brief = EnrichTiming(delay_s=0.0, base_s=0.01, cap_s=0.02, attempts=3)
        with simulated() as simulator, feeding(simulator, tape, queue=tmp_path / "queue.sqlite3", enrich=brief):
            tape.wait_for(lambda t: t.states() == ["up"])
            simulator.publish(*detail("c1", "customer.start"))
            simulator.publish(*detail("c1", "customer.end"))
            tape.wait_for(is_over)
            assert simulator.requests["details"] == 3
        assert tape.of("frame")[-1] == {"conversationId": "c1", "mediaEndpointStats": None, "ended": True}

    def test_across_a_restart(self, tmp_path: Path) -> None:
        """What was not fetched when the feed stopped is fetched by the next one."""
        tape = Tape()
        queue = tmp_path / "state" / "queue.sqlite3"
        with simulated() as simulator:
            with feeding(simulator, tape, queue=queue, enrich=EnrichTiming(delay_s=0.3)):
                tape.wait_for(lambda t: t.states() == ["up"])
                simulator.publish(*detail("c1", "customer.start"))
                simulator.publish(*detail("c1", "customer.end"))
                tape.wait_for(lambda t: len(t.of("frame")) == 2)
            assert tape.is_watching("c1")
            simulator.details["c1"] = MEDIA
            with feeding(simulator, tape, queue=queue):
                tape.wait_for(is_over)
        assert queue.stat().st_mode & 0o777 == 0o600
        assert queue.parent.stat().st_mode & 0o777 == 0o700

    @pytest.mark.parametrize("restart", [False, True])
    def test_an_end_that_nobody_heard(self, tmp_path: Path, restart: bool) -> None:
        """A call that ended while the feed was down, or not running, ends when the feed is back."""
        tape = Tape()
        queue = tmp_path / "queue.sqlite3"
        with simulated() as simulator:
            with feeding(simulator, tape, queue=queue):
                tape.wait_for(lambda t: t.states() == ["up"])
                simulator.publish(*detail("c1", "customer.start"))
                simulator.publish(*detail("c2", "customer.start"))
                tape.wait_for(lambda t: len(t.of("frame")) == 2)
                simulator.details["c1"] = MEDIA
                simulator.details["c2"] = {**MEDIA, "conversationEnd": None, "participants": []}
                if not restart:
                    close_channels(simulator)
                    tape.wait_for(is_over)
            if restart:
                assert tape.is_watching("c1")
                with feeding(simulator, tape, queue=queue):
                    tape.wait_for(is_over)
        assert tape.is_watching("c2")

    def test_rate_limited(self, tmp_path: Path) -> None:
        """A 429 is waited for as Genesys asks, and counts as no attempt."""
        tape = Tape()
        one = EnrichTiming(delay_s=0.0, base_s=0.01, cap_s=0.01, attempts=1)
        with simulated() as simulator, feeding(simulator, tape, queue=tmp_path / "queue.sqlite3", enrich=one):
            tape.wait_for(lambda t: t.states() == ["up"])
            simulator.details["c1"] = MEDIA
            simulator.script("details", Answer(429, {}, {"retry-after": "1"}))
            began = time.monotonic()
            simulator.publish(*detail("c1", "customer.start"))
            simulator.publish(*detail("c1", "customer.end"))
            tape.wait_for(is_over)
            assert time.monotonic() - began >= 1.0
            assert simulator.requests["details"] == 2
        assert tape.of("frame")[-1]["mediaEndpointStats"] is not None

    def test_damaged_queue(self, tmp_path: Path) -> None:
        """A queue that cannot be used ends the feed with the reason."""
        queue = tmp_path / "queue.sqlite3"
        queue.write_bytes(b"no database, but long enough to be looked at as if it were one" * 100)
        tape = Tape()
        with simulated() as simulator, contextlib.ExitStack() as stack:
            feed = stack.enter_context(feeding(simulator, tape, queue=queue))
            until(lambda: feed.failure is not None)
            assert isinstance(feed.failure, StateError)


def test_topics_and_channels() -> None:
    """Conversations, queues and users have their topics, and 20 channels hold no more than 20,000."""
    topics = topics_of(["c"], ["q"], ["u"])
    assert "v2.detail.events.conversation.c.customer.start" in topics
    assert topics[-2:] == ["v2.routing.queues.q.conversations.calls", "v2.users.u.conversations.calls"]
    assert [len(group) for group in in_channels([str(n) for n in range(2001)])] == [1000, 1000, 1]
    with pytest.raises(ValueError, match="20001 topics"):
        in_channels([str(n) for n in range(20_001)])
