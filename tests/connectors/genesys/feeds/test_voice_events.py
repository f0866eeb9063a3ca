"""The feed against WebSocket servers on real sockets that misbehave on command."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest
import structlog
from websockets.sync.server import ServerConnection

from connectors.errors import StateError
from connectors.format.decode import Received, parse_messages
from connectors.format.lines import beginning_of
from connectors.format.notifications import Heard
from connectors.genesys.auth import Credentials, TokenProvider
from connectors.genesys.client import Clock, RetryPolicy
from connectors.genesys.endpoints import Endpoints
from connectors.genesys.feeds.base import MAX_MESSAGE_BYTES
from connectors.genesys.feeds.voice_events import FeedTiming, VoiceEventsFeed
from tests.support.genesys_server import DEADLINE_S, TOKEN, Answer, DeafServer, EventsServer, RestServer, stay_open

FAST = FeedTiming(base_s=0.001, cap_s=0.05, close_s=1.0)
FRAME = json.dumps({"event": "conversation.updated", "entity": {"id": "c-é"}, "timestamp": 1.5}, ensure_ascii=False)


class Tape:
    """A recorder that keeps what it was given, in order, and lets a test wait for it."""

    def __init__(self, *, full_after: int | None = None) -> None:
        self.records: list[tuple[object, ...]] = []
        self.flushed = 0
        self._full_after = full_after
        self._watches: dict[str, dict[str, Any]] = {}
        self._changed = threading.Condition()

    def frame(self, text: str | bytes, *, at: float | None = None) -> None:
        assert at is None  # voice events are recorded as they arrive
        if self._full_after is not None and len(self.of("frame")) >= self._full_after:
            raise OSError(28, "No space left on device")
        self._add("frame", text if isinstance(text, str) else text.decode())

    def frames(self, messages: Sequence[bytes]) -> Received:
        for message in messages:
            self.frame(message)
        return parse_messages(messages)

    def event(self, message: bytes, heard: Heard | None, *, at: float | None = None) -> None:
        raise AssertionError("voice events are not notifications")

    def invalid(self, message: str | bytes, reason: str, *, private: bool = False) -> None:
        assert not private  # voice events hold no personal data
        self._add("invalid", beginning_of(message), reason)

    def feed(self, name: str, state: str, reason: str) -> None:
        self._add("feed", name, state, reason)

    def watch(self, settings: dict[str, Any]) -> None:
        self._watches[settings["conversation_id"]] = settings
        self._add("watch", settings)

    def is_watching(self, conversation_id: str) -> bool:
        return conversation_id in self._watches

    def watched_by(self, feed: str) -> list[str]:
        return [id_ for id_ in self._watches if self.watch_feed(id_) == feed]

    def watch_feed(self, conversation_id: str) -> str | None:
        return self._watches.get(conversation_id, {}).get("feed")

    def watch_settings(self, conversation_id: str) -> Mapping[str, Any] | None:
        return self._watches.get(conversation_id)

    def sync(self) -> None:
        self.flush()

    def flush(self) -> None:
        with self._changed:
            self.flushed = len(self.records)
            self._changed.notify_all()

    def of(self, kind: str) -> list[tuple[object, ...]]:
        return [record[1:] for record in self.records if record[0] == kind]

    def states(self) -> list[object]:
        return [state for _, state, _ in self.of("feed")]

    def wait_for(self, true: Callable[[Tape], bool]) -> None:
        """Wait until `true` of what has been flushed."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.flushed == len(self.records) and true(self), DEADLINE_S), (
                self.records[-5:]
            )

    def _add(self, *record: object) -> None:
        with self._changed:
            self.records.append(record)


@pytest.fixture(scope="module")
def rest() -> Iterator[RestServer]:
    with RestServer() as running:
        yield running


@pytest.fixture
def tokens(rest: RestServer) -> Iterator[TokenProvider]:
    provider = TokenProvider(
        Endpoints.from_base_url(rest.url), Credentials("id", "client-secret"), policy=RetryPolicy(attempts=1)
    )
    yield provider
    provider.close()


@contextmanager
def running(url: str, tokens: TokenProvider, tape: Tape, timing: FeedTiming = FAST) -> Iterator[VoiceEventsFeed]:
    feed = VoiceEventsFeed(url=url, tokens=tokens, recorder=tape, timing=timing, clock=Clock(u=lambda: 1.0))
    feed.start()
    yield feed
    feed.stop("test over", timeout_s=DEADLINE_S)
    assert not any(thread.name == "feed-voice-events" for thread in threading.enumerate())


def saying(
    *messages: str | bytes | list[str] | list[bytes], then: Callable[[ServerConnection], None] = stay_open
) -> Callable[[ServerConnection], None]:
    """Return a session that sends messages (a list: one message in fragments) and goes on with `then`."""

    def session(connection: ServerConnection) -> None:
        for message in messages:
            connection.send(message)
        then(connection)

    return session


def closing(code: int, reason: str = "") -> Callable[[ServerConnection], None]:
    return lambda connection: connection.close(code, reason)


class TestRecording:
    def test_upgrade_and_subscription(self, tokens: TokenProvider) -> None:
        """The token goes into the upgrade and the contract's subscription is the first message."""
        tape = Tape()
        with EventsServer() as server, running(server.url, tokens, tape):
            server.wait_for(lambda s: len(s.subscriptions) == 1)
            _, headers = server.upgrades[0]
            assert headers["authorization"] == f"Bearer {tokens.token()}"
            assert "sec-websocket-extensions" not in headers
            assert json.loads(server.subscriptions[0]) == {
                "eventTypes": ["conversation.started", "conversation.updated", "conversation.ended"],
                "filters": {"entityTypes": ["conversation"]},
            }

    def test_frames_in_order(self, tokens: TokenProvider) -> None:
        """Every text message reaches the recorder as it was sent, in order, after the feed is up."""
        texts = [FRAME, "not json", "", *map(str, range(500))]
        tape = Tape()
        with EventsServer(saying(*texts)) as server, running(server.url, tokens, tape):
            tape.wait_for(lambda t: len(t.of("frame")) == len(texts))
        assert [text for (text,) in tape.of("frame")] == texts
        assert tape.records[0] == ("feed", "voice-events", "up", f"connected to {server.url}")

    def test_kinds_of_messages_in_order(self, tokens: TokenProvider) -> None:
        """Text and binary messages, short, long and very long ones, are recorded in the order in which they came."""
        texts = ["", "a", "b" * 125, "c" * 126, "d" * 70_000, "e" * 65_535, "f"]
        tape = Tape()
        with (
            EventsServer(saying(*(message for text in texts for message in (text, b"-", text)))) as server,
            running(server.url, tokens, tape),
        ):
            tape.wait_for(lambda t: len(t.of("frame")) == 2 * len(texts))
        said = [record[:2] for record in tape.records if record[0] != "feed"]
        assert said == [pair for text in texts for pair in (("frame", text), ("invalid", "-"), ("frame", text))]

    def test_fragments(self, tokens: TokenProvider) -> None:
        """A message in fragments is recorded as one, text or not, and in its place among the others."""
        tape = Tape()
        parts = [FRAME[:5], FRAME[5:9], FRAME[9:]]
        messages: list[str | list[str] | list[bytes]] = [FRAME, parts, "after", [b"\x00", b"b", b""], "last"]
        with EventsServer(saying(*messages)) as server, running(server.url, tokens, tape):
            tape.wait_for(lambda t: ("last",) in t.of("frame"))
        assert [record[:2] for record in tape.records if record[0] != "feed"] == [
            ("frame", FRAME),
            ("frame", FRAME),
            ("frame", "after"),
            ("invalid", "\x00b"),
            ("frame", "last"),
        ]

    def test_binary(self, tokens: TokenProvider) -> None:
        """A binary message is recorded as invalid, as text of at most 4096 characters."""
        tape = Tape()
        with (
            EventsServer(saying(b"\xff\x00a", "é".encode() * 9000)) as server,
            running(server.url, tokens, tape),
        ):
            tape.wait_for(lambda t: len(t.of("invalid")) == 2)
        assert tape.of("invalid") == [("\\xff\x00a", "binary message"), ("é" * 4096, "binary message")]
        assert tape.of("frame") == []

    def test_largest_message(self, tokens: TokenProvider) -> None:
        """A message of 1 MiB passes; a larger one costs the connection, and the feed comes back."""
        at_limit, beyond = "x" * MAX_MESSAGE_BYTES, "x" * (MAX_MESSAGE_BYTES + 1)
        tape = Tape()
        with (
            EventsServer(saying(at_limit, beyond), saying(FRAME)) as server,
            running(server.url, tokens, tape),
        ):
            tape.wait_for(lambda t: (FRAME,) in t.of("frame"))
            assert tape.of("frame") == [(at_limit,), (FRAME,)]
            assert tape.states() == ["up", "down", "up"]
            assert "1009" in str(tape.of("feed")[1])

    def test_full_disk(self, tokens: TokenProvider) -> None:
        """A recorder that fails ends the feed, which keeps the reason and records nothing more."""
        tape = Tape(full_after=2)
        with EventsServer(saying(*"abcdef")) as server, running(server.url, tokens, tape) as feed:
            server.wait_for(lambda s: len(s.closed) == 1)
            feed.stop(timeout_s=DEADLINE_S)
            assert isinstance(feed.failure, OSError)
        assert tape.of("frame") == [("a",), ("b",)]
        assert tape.states() == ["up"]
        assert len(server.upgrades) == 1

    def test_failing_feed_record(self, tokens: TokenProvider) -> None:
        """A recorder that cannot take the feed's state ends the feed as well."""

        class Broken(Tape):
            def feed(self, name: str, state: str, reason: str) -> None:
                raise StateError("disk full")

        with EventsServer() as server, running(server.url, tokens, Broken()) as feed:
            server.wait_for(lambda s: len(s.closed) == 1)
            feed.stop(timeout_s=DEADLINE_S)
            assert str(feed.failure) == "disk full"


class TestReconnecting:
    @pytest.mark.parametrize(("code", "words"), [(1000, "1000"), (1001, "going away"), (1011, "1011")])
    def test_closed_by_server(self, tokens: TokenProvider, code: int, words: str) -> None:
        """However the server closes, the feed is down with its reason, and up again; nothing received is lost."""
        tape = Tape()
        with (
            EventsServer(saying("a", "b", then=closing(code, "enough")), saying("c")) as server,
            running(server.url, tokens, tape),
        ):
            tape.wait_for(lambda t: len(t.of("frame")) == 3)
            assert [record[0] for record in tape.records] == ["feed", "frame", "frame", "feed", "feed", "frame"]
            assert tape.states() == ["up", "down", "up"]
            assert words in str(tape.of("feed")[1])
            assert "enough" in str(tape.of("feed")[1])

    def test_dropped(self, tokens: TokenProvider) -> None:
        """A connection that breaks without a close is down once and up once."""
        tape = Tape()

        def drop(connection: ServerConnection) -> None:
            connection.close_socket()

        with EventsServer(drop) as server, running(server.url, tokens, tape):
            tape.wait_for(lambda t: len(t.of("feed")) == 3)
            assert tape.states() == ["up", "down", "up"]

    def test_states_are_told(self, tokens: TokenProvider) -> None:
        """`on_state` gets each change once, with the reason that was recorded."""
        tape = Tape()
        told: list[tuple[str, str, str]] = []
        with EventsServer(closing(1001)) as server:
            feed = VoiceEventsFeed(
                url=server.url,
                tokens=tokens,
                recorder=tape,
                name="other",
                timing=FAST,
                on_state=lambda *s: told.append(s),
            )
            feed.start()
            tape.wait_for(lambda t: len(t.of("feed")) == 3)
            feed.stop("enough", timeout_s=DEADLINE_S)
        assert told == tape.of("feed")
        assert told[-1] == ("other", "down", "enough")

    def test_backoff_survives_a_handshake(self, tokens: TokenProvider) -> None:
        """A server that accepts and closes at once is asked less and less often."""
        timing = FeedTiming(base_s=0.02, cap_s=10.0)
        with EventsServer(*[closing(1001)] * 9) as server, running(server.url, tokens, Tape(), timing):
            server.wait_for(lambda s: len(s.upgrades) == 6)
        times = [at for at, _ in server.upgrades]
        gaps = [after - before for before, after in pairwise(times)]
        assert all(gap >= 0.02 * 2**n for n, gap in enumerate(gaps[:5])), gaps

    def test_backoff_starts_anew_after_a_healthy_spell(self, tokens: TokenProvider) -> None:
        """A connection that was healthy makes the next reconnect quick again."""
        timing = FeedTiming(base_s=0.02, cap_s=60.0, healthy_s=0.0)
        with EventsServer(*[closing(1001)] * 12) as server, running(server.url, tokens, Tape(), timing):
            server.wait_for(lambda s: len(s.upgrades) == 13)  # 80 s if the backoff grew

    def test_401(self, tokens: TokenProvider) -> None:
        """A refused token is renewed, once, and the next upgrade has the fresh one at once."""
        timing = FeedTiming(base_s=1000.0, cap_s=1000.0)
        before = tokens.token()
        with EventsServer(Answer(401)) as server, running(server.url, tokens, Tape(), timing):
            server.wait_for(lambda s: len(s.subscriptions) == 1)
        sent = [headers["authorization"] for _, headers in server.upgrades]
        assert sent == [f"Bearer {before}", f"Bearer {tokens.token()}"]
        assert sent[0] != sent[1]

    def test_401_for_ever(self, tokens: TokenProvider) -> None:
        """A server that refuses every token is not flooded, and the feed is recorded as down, once."""
        timing = FeedTiming(base_s=0.05, cap_s=10.0)
        tape = Tape()
        with EventsServer(*[Answer(401)] * 9) as server, running(server.url, tokens, tape, timing):
            server.wait_for(lambda s: len(s.upgrades) == 4)
        times = [at for at, _ in server.upgrades]
        assert times[3] - times[1] >= 0.1 + 0.2
        reason = "upgrade refused with 401: the token was refused; a fresh one is used next"
        assert tape.records == [("feed", "voice-events", "down", reason)]

    def test_429(self, tokens: TokenProvider) -> None:
        """Retry-After of a 429 takes precedence over the backoff."""
        timing = FeedTiming(base_s=1000.0, cap_s=1000.0)
        with (
            EventsServer(Answer(429, headers={"Retry-After": "0"})) as server,
            running(server.url, tokens, Tape(), timing),
        ):
            server.wait_for(lambda s: len(s.subscriptions) == 1)

    def test_403(self, tokens: TokenProvider) -> None:
        """Without access the feed says what is missing and tries slowly from the first refusal on."""
        timing = FeedTiming(base_s=0.001, cap_s=0.4)
        with (
            structlog.testing.capture_logs() as logs,
            EventsServer(Answer(403)) as server,
            running(server.url, tokens, Tape(), timing),
        ):
            server.wait_for(lambda s: len(s.subscriptions) == 1)
        (first, _), (second, _) = server.upgrades
        assert second - first >= 0.4
        assert "role or scope" in next(each for each in logs if each["event"] == "feed_waits")["reason"]

    @pytest.mark.parametrize("answer", [Answer(500), Answer(404), Answer(302, headers={"Location": "http://["})])
    def test_other_refusals(self, tokens: TokenProvider, answer: Answer) -> None:
        """Whatever else an upgrade is answered with, the feed tries again."""
        with EventsServer(answer, answer) as server, running(server.url, tokens, Tape()):
            server.wait_for(lambda s: len(s.subscriptions) == 1)

    def test_no_token(self, rest: RestServer, tokens: TokenProvider) -> None:
        """A token request that fails is a failed attempt like any other."""
        rest.script(TOKEN, Answer(503), Answer(401))
        with EventsServer() as server, running(server.url, tokens, Tape()):
            server.wait_for(lambda s: len(s.subscriptions) == 1)


class TestQuiet:
    def test_dead_peer(self, tokens: TokenProvider) -> None:
        """A peer that answers no ping is given up, with a reason that says so."""
        timing = FeedTiming(quiet_s=0.05, pong_s=0.1, close_s=0.1, base_s=0.001, cap_s=0.01)
        tape = Tape()
        with DeafServer() as server, running(server.url, tokens, tape, timing):
            tape.wait_for(lambda t: len(t.of("feed")) >= 3)
        assert tape.states()[:3] == ["up", "down", "up"]
        assert tape.of("feed")[1][2] == "silent for 0.05 s, and no pong within 0.1 s"

    def test_quiet_peer(self, tokens: TokenProvider) -> None:
        """A peer that has nothing to say but answers pings is kept."""
        timing = FeedTiming(quiet_s=0.02, pong_s=10.0)
        tape = Tape()

        def ponder(connection: ServerConnection) -> None:
            time.sleep(0.4)  # twenty silences
            connection.send(FRAME)
            stay_open(connection)

        with EventsServer(ponder) as server, running(server.url, tokens, tape, timing):
            tape.wait_for(lambda t: t.of("frame") == [(FRAME,)])
            assert tape.states() == ["up"]


class TestStopping:
    def test_connected(self, tokens: TokenProvider) -> None:
        """Stopping closes the socket cleanly and records the feed as down with the reason, once."""
        tape = Tape()
        with EventsServer(saying(FRAME)) as server, running(server.url, tokens, tape) as feed:
            tape.wait_for(lambda t: t.of("frame") == [(FRAME,)])
            feed.stop("SIGTERM", timeout_s=DEADLINE_S)
            feed.stop("again", timeout_s=DEADLINE_S)
            server.wait_for(lambda s: len(s.closed) == 1)
        assert server.closed[0][0] == 1000
        assert tape.of("feed")[1:] == [("voice-events", "down", "SIGTERM")]
        assert tape.flushed == len(tape.records)

    def test_deaf_peer(self, tokens: TokenProvider) -> None:
        """A peer that does not answer the close does not hold up the stop for long."""
        tape = Tape()
        timing = FeedTiming(close_s=0.1)
        with DeafServer() as server, running(server.url, tokens, tape, timing) as feed:
            tape.wait_for(lambda t: t.states() == ["up"])
            feed.stop("SIGTERM", timeout_s=DEADLINE_S)
            assert tape.of("feed")[1:] == [("voice-events", "down", "SIGTERM")]

    def test_while_waiting(self, tokens: TokenProvider) -> None:
        """A feed that waits for its next attempt stops at once; it is recorded as down since the first failure."""
        timing = FeedTiming(base_s=1000.0, cap_s=1000.0)
        tape = Tape()
        with EventsServer(Answer(503)) as server, running(server.url, tokens, tape, timing):
            server.wait_for(lambda s: len(s.upgrades) == 1)
            tape.wait_for(lambda t: t.states() == ["down"])
        ((_, _, _, reason),) = tape.records
        assert "refused with 503" in str(reason)

    def test_while_a_token_is_fetched(self) -> None:
        """A login host that takes the connection and does not answer does not hold up the stop."""
        with socket.create_server(("127.0.0.1", 0)) as silent:
            endpoints = Endpoints.from_base_url(f"http://127.0.0.1:{silent.getsockname()[1]}")
            provider = TokenProvider(endpoints, Credentials("id", "client-secret"))
            tape = Tape()
            with running("ws://127.0.0.1:1/", provider, tape) as feed:
                asking, _ = silent.accept()
                began = time.monotonic()
                feed.stop("SIGTERM", timeout_s=DEADLINE_S)
                assert time.monotonic() - began < 1.0
                asking.close()
        assert tape.of("feed") == [("voice-events", "down", "SIGTERM")]

    def test_never_started(self, tokens: TokenProvider) -> None:
        """Stopping a feed that was not started does nothing."""
        VoiceEventsFeed(url="ws://127.0.0.1:1/", tokens=tokens, recorder=Tape()).stop("x")


def test_token_is_never_logged(tokens: TokenProvider, caplog: pytest.LogCaptureFixture) -> None:
    """At no level does any logger, that of websockets included, log the token of the upgrade."""
    tape = Tape()
    with (
        structlog.testing.capture_logs() as logs,
        caplog.at_level(logging.CRITICAL, "websockets.server"),  # the test's own server logs what it receives
        caplog.at_level(logging.DEBUG),
        EventsServer(Answer(401), closing(1011), Answer(403), saying(FRAME)) as server,
        running(server.url, tokens, tape),
    ):
        tape.wait_for(lambda t: t.of("frame") == [(FRAME,)])
    assert "secret-token" not in caplog.text + repr(logs) + repr(tape.records)
    assert "client-secret" not in caplog.text + repr(logs)
