"""The local Genesys, over real sockets: REST, event WebSocket, faults, playback, and its own process."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import itertools
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from backports import zstd
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from connectors.errors import ConfigurationError, RecordingError, UsageError
from connectors.format.decode import decode_block
from connectors.genesys.simulator.calls import conversation_ids
from connectors.genesys.simulator.faults import GARBAGE, Faults, load_faults, parse_faults
from connectors.genesys.simulator.playback import Playback
from connectors.genesys.simulator.voice_events import SimulatorOptions, VoiceEventsSimulator, running_simulator
from tests.support.simulators import duplicate_creates

REPOSITORY = Path(__file__).parents[4]
EVENTS = "/api/v2/events/conversations/voice"
LOAD = "/api/v2/conversations/voice?conversationType=voice"
SUBSCRIPTION = json.dumps(
    {
        "eventTypes": ["conversation.started", "conversation.updated", "conversation.ended"],
        "filters": {"entityTypes": ["conversation"]},
    }
)
DEADLINE_S = 10.0
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # httpx would load every certificate for each client


def ask(method: str, url: str, **options: Any) -> httpx.Response:
    return httpx.request(method, url, verify=NO_TLS, timeout=DEADLINE_S, **options)


def token(simulator: VoiceEventsSimulator) -> str:
    answer = ask(
        "POST", f"{simulator.base_url}/oauth/token", auth=("id", "secret"), data={"grant_type": "client_credentials"}
    )
    return str(answer.raise_for_status().json()["access_token"])


def api(simulator: VoiceEventsSimulator) -> httpx.Client:
    return httpx.Client(
        base_url=simulator.base_url,
        verify=NO_TLS,
        timeout=DEADLINE_S,
        headers={"Authorization": f"Bearer {token(simulator)}"},
    )


def events(simulator: VoiceEventsSimulator, *, bearer: str | None = None) -> ClientConnection:
    # The queue is unbounded because this client, when its queue is full, leaves only after its close timeout.
    headers = {"Authorization": f"Bearer {bearer or token(simulator)}"}
    url = f"ws{simulator.base_url.removeprefix('http')}{EVENTS}"
    return connect(url, additional_headers=headers, max_size=None, max_queue=None)


@contextmanager
def subscribed(simulator: VoiceEventsSimulator) -> Iterator[ClientConnection]:
    with events(simulator) as websocket:
        websocket.send(SUBSCRIPTION)
        yield websocket


def receive(websocket: ClientConnection, count: int) -> list[dict[str, Any]]:
    return [json.loads(websocket.recv(timeout=DEADLINE_S)) for _ in range(count)]


def until_closed(websocket: ClientConnection) -> tuple[list[str | bytes], ConnectionClosed]:
    messages: list[str | bytes] = []
    try:
        while True:
            messages.append(websocket.recv(timeout=DEADLINE_S))
    except ConnectionClosed as closed:
        return messages, closed


@asynccontextmanager
async def serving(simulator: VoiceEventsSimulator) -> AsyncIterator[VoiceEventsSimulator]:
    """A simulator in the running event loop."""
    stop, ready = asyncio.Event(), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(simulator.server.run(stop, ready.set))
        await ready.wait()
        try:
            yield simulator
        finally:
            stop.set()


def with_faults(text: str, **options: Any) -> Any:
    return running_simulator(faults=parse_faults(text), **{"conversations": 3, "rate": 200, **options})


@pytest.fixture(scope="module")
def simulator() -> Iterator[VoiceEventsSimulator]:
    with running_simulator(conversations=3, rate=50, seed=7) as running:
        yield running


class TestRest:
    def test_a_token_is_given_for_client_credentials(self, simulator: VoiceEventsSimulator) -> None:
        """The answer is Genesys', with the token's life, and tokens are counted."""
        before = simulator.tokens_issued
        answer = ask(
            "POST",
            f"{simulator.base_url}/oauth/token",
            auth=("id", "secret"),
            data={"grant_type": "client_credentials"},
        )
        assert (answer.status_code, answer.json()["token_type"], answer.json()["expires_in"]) == (200, "bearer", 86399)
        assert simulator.tokens_issued == before + 1

    @pytest.mark.parametrize(
        ("auth", "grant", "error"),
        [
            (None, "client_credentials", "invalid_client"),
            (("id", ""), "client_credentials", "invalid_client"),
            (("id", "secret"), "password", "unsupported_grant_type"),
        ],
    )
    def test_a_bad_token_request_is_refused(
        self, simulator: VoiceEventsSimulator, auth: tuple[str, str] | None, grant: str, error: str
    ) -> None:
        """Without credentials or with another grant, the answer is 400 as from Genesys."""
        answer = ask("POST", f"{simulator.base_url}/oauth/token", auth=auth, data={"grant_type": grant})
        assert (answer.status_code, answer.json()["error"]) == (400, error)

    def test_credentials_can_be_demanded(self) -> None:
        """Another secret than the one demanded gets no token."""
        with running_simulator(credentials=("id", "right")) as simulator:
            url, form = f"{simulator.base_url}/oauth/token", {"grant_type": "client_credentials"}
            assert ask("POST", url, auth=("id", "wrong"), data=form).status_code == 400
            assert ask("POST", url, auth=("id", "right"), data=form).status_code == 200
            assert simulator.tokens_issued == 1

    @pytest.mark.parametrize(
        ("method", "path"), [("GET", LOAD), ("POST", "/api/v2/conversations/voice/c-1/interceptor"), ("GET", EVENTS)]
    )
    def test_without_a_valid_bearer_nothing_is_answered(
        self, simulator: VoiceEventsSimulator, method: str, path: str
    ) -> None:
        """REST and upgrade answer 401 to no token, to another scheme and to a token never issued."""
        upgrade = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
            "Sec-WebSocket-Version": "13",
        }
        for header in ({}, {"Authorization": f"Basic {token(simulator)}"}, {"Authorization": "Bearer made-up"}):
            headers = {**header, **(upgrade if path == EVENTS else {})}
            answer = ask(method, simulator.base_url + path, headers=headers)
            assert (answer.status_code, answer.json()["status"]) == (401, 401)

    def test_the_load_check_lists_the_conversations_that_are_on(self) -> None:
        """Before the calls begin those are the ones that a configuration can name; the number can be set."""
        with running_simulator(conversations=3, seed=7) as simulator, api(simulator) as client:
            assert [e["id"] for e in client.get(LOAD).json()["entities"]] == conversation_ids(7, 3)
            assert client.get("/api/v2/conversations/voice").status_code == 400
        with running_simulator(active_conversations=50) as simulator, api(simulator) as client:
            assert len(client.get(LOAD).json()["entities"]) == 50

    def test_created_interceptors_are_remembered_and_duplicates_counted(self) -> None:
        """The body comes back with an id; the conversation in the path is decoded; a second create counts."""
        with running_simulator() as simulator, api(simulator) as client:
            path = "/api/v2/conversations/voice/{}/interceptor"
            first = client.post(path.format("a%2Fb"), json={"interceptorType": "SIP"})
            assert (first.status_code, first.json()["conversationId"]) == (201, "a/b")
            assert first.json()["interceptorType"] == "SIP"
            assert client.post(path.format("c"), content=b"null").status_code == 201
            assert client.post(path.format("d"), content=b"{").status_code == 400
            assert client.post(path.format("d"), content=b"[]").status_code == 400
            assert duplicate_creates(simulator) == 0
            client.post(path.format("c"), json={})
            assert duplicate_creates(simulator) == 1
            assert [c.conversation_id for c in simulator.created] == ["a/b", "c", "c"]
            assert simulator.created[0].body == {"interceptorType": "SIP"}
            assert simulator.created[0].id == first.json()["id"]

    def test_answers_carry_the_rate_limit_headers(self, simulator: VoiceEventsSimulator) -> None:
        """Count, allowance and seconds to the reset are on every answer, errors too."""
        with api(simulator) as client:
            first, second = client.get(LOAD), client.get("/nothing")
        assert second.status_code == 404
        assert int(second.headers["inin-ratelimit-count"]) == int(first.headers["inin-ratelimit-count"]) + 1
        assert second.headers["inin-ratelimit-allowed"] == "300"
        assert 0 < int(second.headers["inin-ratelimit-reset"]) <= 60

    def test_other_methods_are_refused(self, simulator: VoiceEventsSimulator) -> None:
        """405 names what is allowed, and a plain GET of the WebSocket gets 426."""
        answer = ask("GET", f"{simulator.base_url}/oauth/token")
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
        assert ask("HEAD", simulator.base_url + LOAD).status_code == 405
        assert ask("GET", simulator.base_url + EVENTS).status_code == 426

    def test_tokens_expire_and_can_be_revoked(self) -> None:
        """After its life, or a revocation, a token gets 401."""
        with running_simulator(token_life_s=0.05) as simulator, api(simulator) as client:
            until = time.monotonic() + DEADLINE_S
            while client.get(LOAD).status_code != 401:
                assert time.monotonic() < until
        with running_simulator() as simulator, api(simulator) as client:
            assert client.get(LOAD).status_code == 200
            simulator.revoke_tokens()
            assert client.get(LOAD).status_code == 401

    def test_connections_are_kept_alive_and_pipelined(self, simulator: VoiceEventsSimulator) -> None:
        """Three requests in one write on one connection get three answers."""
        host, port = simulator.base_url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=DEADLINE_S) as raw:
            request = b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n"
            raw.sendall(request * 2 + request.replace(b"Host: x", b"Host: x\r\nConnection: close"))
            answers = b""
            while data := raw.recv(65536):
                answers += data
        assert answers.count(b"HTTP/1.1 404 Not Found") == 3

    def test_what_is_not_http_or_too_large_is_refused(self, simulator: VoiceEventsSimulator) -> None:
        """Nonsense gets 400 and a body over Genesys' limit 413, and the connection is closed."""
        host, port = simulator.base_url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=DEADLINE_S) as raw:
            raw.sendall(b"what is this\r\n\r\n")
            assert raw.recv(100).startswith(b"HTTP/1.1 400")
        with socket.create_connection((host, int(port)), timeout=DEADLINE_S) as raw:
            raw.sendall(b"POST /oauth/token HTTP/1.1\r\nHost: x\r\nContent-Length: 600000\r\n\r\n")
            raw.sendall(b"x" * 520_000)
            assert raw.recv(100).startswith(b"HTTP/1.1 413")


class TestEvents:
    def test_a_subscriber_hears_the_calls_from_their_start(self) -> None:
        """The first frames are the starts of the conversations that the seed names, with the latency of the calls."""
        with running_simulator(conversations=3, rate=50, seed=7) as simulator, subscribed(simulator) as websocket:
            first = receive(websocket, 6)
            now = time.time()
        assert [f["entity"]["id"] for f in first] == conversation_ids(7, 3) * 2
        assert [f["event"] for f in first] == ["conversation.started"] * 3 + ["conversation.updated"] * 3
        assert all(0.02 < now - f["timestamp"] < DEADLINE_S for f in first)
        assert "metrics" not in first[0]
        assert first[3]["metrics"].keys() == {"packetLoss", "jitter"}
        assert (simulator.connections, len(simulator.upgrade_attempts)) == (1, 1)
        assert simulator.upgrade_attempts[0].status == 101
        assert abs(simulator.upgrade_attempts[0].at - now) < DEADLINE_S

    @pytest.mark.parametrize(
        "message",
        [
            b"binary",
            "not JSON",
            "[]",
            "{}",
            SUBSCRIPTION.replace("conversation.ended", "conversation.other"),
            SUBSCRIPTION.replace('"entityTypes": ["conversation"]', '"entityTypes": []'),
        ],
    )
    def test_the_first_message_must_be_the_subscription(
        self, simulator: VoiceEventsSimulator, message: str | bytes
    ) -> None:
        """Anything else closes the socket with 1008."""
        with events(simulator) as websocket:
            websocket.send(message)
            _, closed = until_closed(websocket)
        assert closed.rcvd is not None
        assert closed.rcvd.code == 1008

    def test_a_subscription_in_fragments_is_one_message(self, simulator: VoiceEventsSimulator) -> None:
        """Fragments are put together, also when they come in packets of their own; later messages are ignored."""
        with events(simulator) as websocket:
            websocket.send(SUBSCRIPTION[n : n + 20] for n in range(0, len(SUBSCRIPTION), 20))
            receive(websocket, 1)
            websocket.send("later")
            receive(websocket, 3)

    def test_text_that_is_not_utf8_fails_the_socket(self, simulator: VoiceEventsSimulator) -> None:
        """It is closed with 1007, as RFC 6455 demands."""
        with events(simulator) as websocket:
            websocket.send(b"\xff\xfe", text=True)
            _, closed = until_closed(websocket)
        assert closed.rcvd is not None
        assert closed.rcvd.code == 1007

    def test_pings_are_answered_and_closing_is_clean(self, simulator: VoiceEventsSimulator) -> None:
        """A pong comes back with or without a subscription, and the closing handshake is completed."""
        with events(simulator) as websocket:
            assert websocket.ping().wait(DEADLINE_S)
            websocket.send(SUBSCRIPTION)
            assert websocket.ping().wait(DEADLINE_S)
        assert websocket.close_code == 1000
        simulator.wait_for(lambda s: s.subscribers == 0, DEADLINE_S)

    def test_several_subscribers_hear_the_same_and_others_nothing(self) -> None:
        """Two subscribed sockets receive the same frames; one that did not subscribe receives none."""
        with (
            running_simulator(conversations=1, rate=0.001, wait_for_subscriber=False) as simulator,
            subscribed(simulator) as one,
            subscribed(simulator) as two,
            events(simulator) as silent,
        ):
            simulator.wait_for(lambda s: s.subscribers == 2, DEADLINE_S)
            assert simulator.send_text('{"n":1}', b"\x00\x01", '{"n":2}') == 2
            for websocket in (one, two):
                assert [websocket.recv(timeout=DEADLINE_S) for _ in range(3)] == ['{"n":1}', b"\x00\x01", '{"n":2}']
            simulator.drop_connections(4000)
            messages, closed = until_closed(silent)
            assert (messages, closed.rcvd and closed.rcvd.code) == ([], 4000)

    def test_connections_can_be_dropped_and_calls_go_on(self) -> None:
        """Without a code the connection just ends; the one who comes back hears the calls as they are by then."""
        with running_simulator(conversations=2, rate=100) as simulator:
            with subscribed(simulator) as websocket:
                receive(websocket, 10)
                simulator.drop_connections()
                _, closed = until_closed(websocket)
                assert closed.rcvd is None
            with subscribed(simulator) as websocket:
                assert receive(websocket, 1)[0]["event"] == "conversation.updated"
            assert simulator.connections == 2

    def test_a_wait_in_vain_says_what_is(self, simulator: VoiceEventsSimulator) -> None:
        """TimeoutError carries the counters."""
        with pytest.raises(TimeoutError, match="frames_sent="):
            simulator.wait_for(lambda s: s.frames_sent < 0, 0.01)

    def test_it_runs_in_the_callers_event_loop_too(self) -> None:
        """`server.run` serves in the running loop, scripting methods included."""

        async def main() -> tuple[str | bytes, str | bytes]:
            async with serving(VoiceEventsSimulator(SimulatorOptions(conversations=1, rate=1))) as simulator:
                bearer = await asyncio.to_thread(token, simulator)
                url = f"ws{simulator.base_url.removeprefix('http')}{EVENTS}"
                async with connect_async(url, additional_headers={"Authorization": f"Bearer {bearer}"}) as websocket:
                    await websocket.send(SUBSCRIPTION)
                    first = await websocket.recv()
                    simulator.send_text("scripted")
                    return first, await websocket.recv()

        first, second = asyncio.run(asyncio.wait_for(main(), DEADLINE_S))
        assert json.loads(first)["event"] == "conversation.started"
        assert second == "scripted"

    def test_the_end_of_the_simulator_closes_sockets_with_going_away(self) -> None:
        """A subscriber hears 1001 when the simulator stops."""
        with ExitStack() as stack:
            with running_simulator(conversations=1) as simulator:
                websocket = stack.enter_context(subscribed(simulator))
                receive(websocket, 1)
            _, closed = until_closed(websocket)
        assert closed.rcvd is not None
        assert closed.rcvd.code == 1001

    def test_a_burst_of_twenty_thousand_frames_arrives_whole(self, record_property: Any) -> None:
        """Frames that fall due faster than they can be read all arrive, in order, and none is lost."""
        count, conversations = 20_000, 20
        faults = f'[[fault]]\nafter_frames = {count}\ndo = "close"'
        with with_faults(faults, conversations=conversations, rate=50_000) as simulator:
            with events(simulator) as websocket:
                began = time.perf_counter()
                websocket.send(SUBSCRIPTION)
                received, _ = until_closed(websocket)
            record_property("frames_per_s", round(count / (time.perf_counter() - began)))
        frames = [json.loads(text) for text in received]
        assert [f["event"] for f in frames[:conversations]] == ["conversation.started"] * conversations
        assert [f["entity"]["id"] for f in frames] == conversation_ids(1, conversations) * (count // conversations)
        assert simulator.frames_sent == len(frames) == count


class TestStreamFaults:
    def test_a_close_comes_after_exactly_so_many_frames(self) -> None:
        """The frames before it arrive, then the code; faults of the same run follow in order on the next socket."""
        faults = """
            [[fault]]
            after_frames = 50
            do = "abort"
            [[fault]]
            after_frames = 20
            do = "close"
        """
        with with_faults(faults) as simulator:
            with subscribed(simulator) as websocket:
                messages, closed = until_closed(websocket)
                assert (len(messages), closed.rcvd and closed.rcvd.code) == (20, 1011)
            with subscribed(simulator) as websocket:
                messages, closed = until_closed(websocket)
                assert (len(messages), closed.rcvd) == (30, None)
            with subscribed(simulator) as websocket:
                receive(websocket, 40)

    def test_a_fault_after_no_frame_strikes_first(self) -> None:
        """With `after_frames = 0` the first subscriber hears the fault before any frame."""
        with (
            with_faults('[[fault]]\nafter_frames = 0\ndo = "close"\ncode = 1001') as simulator,
            subscribed(simulator) as websocket,
        ):
            messages, closed = until_closed(websocket)
        assert (messages, closed.rcvd and closed.rcvd.code) == ([], 1001)

    def test_a_stalled_socket_hears_nothing_not_even_pongs_and_then_everything(self) -> None:
        """For the given time neither frames nor pongs come; what was due meanwhile follows."""
        with (
            with_faults('[[fault]]\nafter_frames = 30\ndo = "stall"\nseconds = 0.4') as simulator,
            subscribed(simulator) as websocket,
        ):
            receive(websocket, 30)
            stalled_at = time.monotonic()
            pong = websocket.ping()
            late = receive(websocket, 1)[0]
            assert time.monotonic() - stalled_at > 0.3
            assert time.time() - late["timestamp"] > 0.3
            assert pong.wait(DEADLINE_S)
            receive(websocket, 100)

    @pytest.mark.parametrize("stamps_when_sent", [False, True])
    def test_frames_of_a_simulator_that_is_late_itself(self, stamps_when_sent: bool) -> None:
        """They keep their times, which shows as latency; or their times move with them, and the calls are as before."""
        options = {"conversations": 2, "rate": 20, "stamps_when_sent": stamps_when_sent}
        with running_simulator(**options) as simulator, subscribed(simulator) as websocket:
            frames = receive(websocket, 20)
            simulator.server.in_loop(lambda: time.sleep(0.8))
            frames += receive(websocket, 40)
        times = [frame["timestamp"] for frame in frames]
        steps = [after - before for before, after in itertools.pairwise(times)]
        assert (max(steps) > 0.5) == stamps_when_sent

    def test_garbage_is_sent_between_frames(self) -> None:
        """Every kind of bad message is sent as it stands, or the one text given, and is not counted as a frame."""
        faults = '[[fault]]\nafter_frames = 3\ndo = "garbage"\n[[fault]]\nafter_frames = 5\ndo = "garbage"\ntext = "?"'
        with with_faults(faults) as simulator, subscribed(simulator) as websocket:
            received = [websocket.recv(timeout=DEADLINE_S) for _ in range(3 + len(GARBAGE) + 2 + 1)]
            simulator.wait_for(lambda s: s.frames_sent >= 5, DEADLINE_S)
        assert tuple(received[3 : 3 + len(GARBAGE)]) == GARBAGE
        assert received[-1] == "?"
        assert all(json.loads(text)["event"] for text in (*received[:3], *received[-3:-1]))

    def test_a_duplicate_repeats_the_last_frame(self) -> None:
        """The fourth message is the third again, and counts as a frame."""
        with (
            with_faults('[[fault]]\nafter_frames = 3\ndo = "duplicate"') as simulator,
            subscribed(simulator) as websocket,
        ):
            received = [websocket.recv(timeout=DEADLINE_S) for _ in range(5)]
        assert received[2] == received[3] != received[4]

    @pytest.mark.parametrize("size", [1, 200, 2_000_000])
    def test_an_oversize_message_has_the_size_asked_for(self, size: int) -> None:
        """It is a JSON frame of that many bytes, or the smallest there is; a client with a limit closes with 1009."""
        faults = f'[[fault]]\nafter_frames = 1\ndo = "oversize"\nbytes = {size}'
        with with_faults(faults) as simulator, subscribed(simulator) as websocket:
            receive(websocket, 1)
            large = websocket.recv(timeout=DEADLINE_S)
        assert json.loads(large)["event"] == "conversation.updated"
        padding = json.loads(large)["padding"]
        assert set(padding) <= {"x"}
        assert len(large) == max(size, len(large) - len(padding))


class TestRequestFaults:
    @pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
    @pytest.mark.parametrize(
        ("kind", "method", "path"),
        [
            ("token", "POST", "/oauth/token"),
            ("load", "GET", LOAD),
            ("create", "POST", LOAD.replace("?", "/c/interceptor?")),
        ],
    )
    def test_so_many_requests_are_refused_with_a_status(self, kind: str, method: str, path: str, status: int) -> None:
        """The first two get it, with Retry-After if asked for, the third succeeds; others are not concerned."""
        faults = f'[[fault]]\non = "{kind}"\nstatus = {status}\ntimes = 2\nretry_after = 3'
        with with_faults(faults) as simulator:
            if kind != "token":
                headers = {"Authorization": f"Bearer {token(simulator)}"}
                answers = [ask(method, simulator.base_url + path, headers=headers) for _ in range(3)]
            else:
                form = {"grant_type": "client_credentials"}
                url = simulator.base_url + path
                answers = [ask("POST", url, data=form, auth=("id", "secret")) for _ in range(3)]
            assert [a.status_code for a in answers[:2]] == [status] * 2
            assert answers[2].is_success
            assert [a.headers.get("retry-after") for a in answers] == ["3", "3", None]
            assert answers[0].json()["status"] == status
            assert len(simulator.created) == (kind == "create")

    def test_upgrades_are_refused_and_remembered(self) -> None:
        """The statuses come in the order of the file, and every attempt is kept with its time."""
        faults = '[[fault]]\non = "upgrade"\nstatus = 503\n[[fault]]\non = "upgrade"\nstatus = 401'
        with with_faults(faults) as simulator:
            for status in (503, 401):
                with pytest.raises(InvalidStatus) as refused, events(simulator):
                    pass
                assert refused.value.response.status_code == status
            with subscribed(simulator) as websocket:
                receive(websocket, 1)
            assert [a.status for a in simulator.upgrade_attempts] == [503, 401, 101]
            assert simulator.connections == 1

    @pytest.mark.parametrize(("do", "error"), [("hang", httpx.ReadTimeout), ("reset", httpx.ReadError)])
    def test_a_create_that_is_not_answered_has_happened(self, do: str, error: type[Exception]) -> None:
        """The client learns nothing, and yet the interceptor exists, so that trying again makes a second one."""
        with with_faults(f'[[fault]]\non = "create"\ndo = "{do}"') as simulator, api(simulator) as client:
            path = "/api/v2/conversations/voice/c-1/interceptor"
            with pytest.raises(error):
                client.post(path, json={}, timeout=0.3 if do == "hang" else DEADLINE_S)
            assert [c.conversation_id for c in simulator.created] == ["c-1"]
            assert client.post(path, json={}).status_code == 201
            assert duplicate_creates(simulator) == 1

    def test_tokens_and_upgrades_can_be_left_unanswered_or_reset(self) -> None:
        """The next attempt succeeds."""
        faults = '[[fault]]\non = "token"\ndo = "reset"\n[[fault]]\non = "upgrade"\ndo = "hang"'
        with with_faults(faults) as simulator:
            with pytest.raises(httpx.ReadError):
                token(simulator)
            bearer = token(simulator)
            url = f"ws{simulator.base_url.removeprefix('http')}{EVENTS}"
            headers = {"Authorization": f"Bearer {bearer}"}
            with pytest.raises(TimeoutError), connect(url, additional_headers=headers, open_timeout=0.3):
                pass
            assert [a.status for a in simulator.upgrade_attempts] == [None]
            with events(simulator, bearer=bearer) as websocket:
                websocket.send(SUBSCRIPTION)
                receive(websocket, 1)


class TestFaultsFile:
    def test_every_mistake_is_reported_at_once(self, tmp_path: Path) -> None:
        """Each mistake is one line with its key, whatever fault it is in."""
        path = tmp_path / "faults.toml"
        path.write_text(
            "speed = 3\n"
            '[[fault]]\nafter_frames = -5\ndo = "close"\ncode = 1006\nwhy = "because"\n'
            '[[fault]]\non = "crate"\nstatus = 418\nretry_after = -1\ntimes = 0\n'
            '[[fault]]\non = "load"\ndo = "hang"\nretry_after = 1\n'
            '[[fault]]\ndo = "explode"\n'
            '[[fault]]\nafter_frames = "3"\ndo = "stall"\n'
        )
        with pytest.raises(ConfigurationError) as error:
            load_faults(path)
        keys = {mistake.partition(":")[0] for mistake in error.value.mistakes}
        assert keys == {
            "speed",
            "fault[0].after_frames",
            "fault[0].code",
            "fault[0].why",
            "fault[1].on",
            "fault[1].status",
            "fault[1].retry_after",
            "fault[1].times",
            "fault[2].retry_after",
            "fault[3]",
            "fault[4].after_frames",
            "fault[4].seconds",
        }
        assert len(error.value.mistakes) == len(keys)
        assert str(error.value).startswith(f"{path}:\n")

    @pytest.mark.parametrize(
        ("content", "said"),
        [(b"fault = [", "is not TOML"), (b"\xff", "is not UTF-8"), (b"fault = 3", "fault: "), (None, "cannot be read")],
    )
    def test_a_file_that_cannot_be_understood_is_refused(
        self, tmp_path: Path, content: bytes | None, said: str
    ) -> None:
        """What is not TOML, not UTF-8, not a list of faults or not there is named in one line."""
        path = tmp_path / "faults.toml"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ConfigurationError) as error:
            load_faults(path)
        assert [said in mistake for mistake in error.value.mistakes] == [True]

    def test_no_fault_is_fine(self) -> None:
        """An empty file means no fault."""
        assert parse_faults("") == Faults()


class TestPlayback:
    RECORDS = (
        '{"received_at":999.0,"settings":{}}',
        '{"received_at":1000.0,"frame":{"event":"conversation.started","entity":{"id":"c"},"timestamp":999.75}}',
        '{"received_at":1000.0,"tick":true}',
        '{"received_at":1000.1,"invalid":"{bad","reason":"not JSON"}',
        '{"received_at":1000.2,"frame":{"event":"conversation.updated","entity":{"id":"c"},"timestamp":1001.0}}',
        "not a record",
        '{"event":"conversation.updated","entity":{"id":"d"},"timestamp":1000.0,"receivedAt":1000.3,"x":1}',
        '{"event":"conversation.updated","entity":{"id":"e"},"timestamp":1000.4}',
        '{"received_at":1001.0,"feed":{"name":"voice-events","state":"down","reason":"lost"}}',
        '{"received_at":1003.0,"feed":{"name":"voice-events","state":"up","reason":"connected"}}',
        '{"received_at":1004.0,"frame":{"event":"conversation.ended","entity":{"id":"c"},"timestamp":1003.9}}',
    )

    @pytest.fixture(params=["jsonl", "jsonl.gz", "jsonl.zst"])
    def recording(self, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
        data = "\n".join(self.RECORDS).encode()
        packs: dict[str, Callable[[bytes], bytes]]
        packs = {"jsonl": bytes, "jsonl.gz": gzip.compress, "jsonl.zst": zstd.compress}
        path = tmp_path / f"r.{request.param}"
        path.write_bytes(packs[request.param](data))
        return path

    def test_frames_keep_their_latency_against_the_live_clock(self, recording: Path) -> None:
        """Times are moved to now, at ten times the speed; invalid texts are sent as they were, a lost feed closes."""

        async def main() -> tuple[list[str | bytes], int | None, str | bytes, list[str]]:
            options = SimulatorOptions(recording=recording, speed=10.0)
            async with serving(VoiceEventsSimulator(options, now=lambda: 5000.0)) as simulator:
                bearer = await asyncio.to_thread(token, simulator)
                url = f"ws{simulator.base_url.removeprefix('http')}{EVENTS}"
                headers = {"Authorization": f"Bearer {bearer}"}
                async with connect_async(url, additional_headers=headers) as websocket:
                    await websocket.send(SUBSCRIPTION)
                    received = [message async for message in websocket]
                code = websocket.close_code
                async with connect_async(url, additional_headers=headers) as websocket:
                    await websocket.send(SUBSCRIPTION)
                    active = await asyncio.to_thread(
                        ask, "GET", simulator.base_url + LOAD, headers={"Authorization": f"Bearer {bearer}"}
                    )
                    return received, code, await websocket.recv(), [e["id"] for e in active.json()["entities"]]

        received, code, last, active = asyncio.run(asyncio.wait_for(main(), DEADLINE_S))
        assert received[1] == "{bad"
        started, ahead, bare, unknown = (json.loads(text) for text in (received[0], *received[2:]))
        # The run begins at 5000 with the record of 999, and a second of it takes a tenth.
        assert started["timestamp"] == pytest.approx(5000.1 - 0.25, abs=1e-5)
        assert ahead["timestamp"] == pytest.approx(5000.12 + 0.8, abs=1e-5)
        assert bare["timestamp"] == pytest.approx(5000.13 - 0.3, abs=1e-5)
        assert (bare["x"], "receivedAt" in bare) == (1, False)
        assert unknown["timestamp"] == pytest.approx(5000.14, abs=1e-5)
        assert code == 1001
        assert set(active) <= {"c", "d", "e"}
        assert json.loads(last)["event"] == "conversation.ended"

    def test_the_shipped_recording_plays_to_its_end(self) -> None:
        """At high speed every frame before the gap arrives, and the simulator says when it is done."""
        shipped = REPOSITORY / "tests/data/three-minutes.jsonl"
        before_gap = decode_block(shipped.read_bytes().partition(b'"state":"down"')[0])
        with running_simulator(recording=shipped, speed=400.0) as simulator:
            with subscribed(simulator) as websocket:
                messages, closed = until_closed(websocket)
            simulator.wait_for(lambda s: s.finished, DEADLINE_S)
        assert closed.rcvd is not None
        assert closed.rcvd.code == 1001
        assert len(messages) == len(before_gap.arrival) + [c.kind for c in before_gap.controls].count("invalid")

    @pytest.mark.parametrize(
        ("name", "content"),
        [("r.jsonl", b""), ("r.jsonl", b'{"received_at":1,"tick":true}\n'), ("r.gz", b"\x1f\x8b\x08\x00"), ("r", None)],
    )
    def test_a_recording_with_nothing_to_play_is_refused_at_once(
        self, tmp_path: Path, name: str, content: bytes | None
    ) -> None:
        """An empty, frameless, damaged or missing file is an error that names it, before anything listens."""
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(RecordingError, match=name):
            VoiceEventsSimulator(SimulatorOptions(recording=tmp_path / name))

    def test_a_recording_damaged_further_on_ends_the_run_with_its_error(self, tmp_path: Path) -> None:
        """A truncated file plays as far as it goes; then the error surfaces."""
        lines = "\n".join(
            json.dumps(
                {
                    "received_at": n / 1e5,
                    "frame": {"event": "x", "entity": {"id": "c"}, "timestamp": n / 1e5, "n": os.urandom(40).hex()},
                }
            )
            for n in range(3000)
        )
        path = tmp_path / "r.jsonl.gz"
        path.write_bytes(gzip.compress(lines.encode())[:-2000])
        with (
            pytest.raises(RecordingError, match=path.name),
            running_simulator(recording=path) as simulator,
            subscribed(simulator) as websocket,
        ):
            until_closed(websocket)

    @pytest.mark.parametrize("name", ["r.zst", "r"])
    def test_a_recording_is_read_as_replay_reads_it(self, tmp_path: Path, name: str) -> None:
        """Compression is found by content, whatever the name; a Zstandard file that was cut is an error."""
        path = tmp_path / name
        path.write_bytes(zstd.compress("\n".join(self.RECORDS).encode()))
        assert len(list(Playback(path).steps(0.0))) == 7
        frame = {"event": "x", "entity": {"id": "c"}, "timestamp": 1.0}
        text = "".join(json.dumps({"received_at": n, "frame": {**frame, "n": n}}) + "\n" for n in range(30_000))
        path.write_bytes(zstd.compress(text.encode())[:-1000])
        with pytest.raises(RecordingError, match="ended before the end-of-stream marker"):
            list(Playback(path).steps(0.0))

    def test_what_replay_rejects_is_not_played(self, tmp_path: Path) -> None:
        """A line that `replay` rejects, or that cannot be written again, is skipped and counted, also behind a mark."""
        path = tmp_path / "r"
        deep = "[" * 300 + "]" * 300
        deep = f'{{"received_at":1005.5,"frame":{{"event":"x","entity":{{"id":"c"}},"timestamp":1.0,"x":{deep}}}}}'
        lines = (*self.RECORDS, '{"received_at":1005.0,"frame":{"event":"x"}}', "", '{"received_at":1e11,"tick":true}')
        path.write_bytes(b"\xef\xbb\xbf" + "\n".join((*lines, deep)).encode())
        playback = Playback(path)
        assert len(list(playback.steps(0.0))) == 7
        assert playback.skipped == 4


class TestProcess:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_it_announces_its_url_and_a_signal_ends_it_cleanly(self, number: signal.Signals) -> None:
        """One JSON line when ready, exit 0 at SIGINT or SIGTERM, also with a client connected."""
        code = (
            "from connectors.genesys.simulator.voice_events import *; serve_forever(SimulatorOptions(conversations=1))"
        )
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=REPOSITORY) as process:
            assert process.stdout is not None
            url = json.loads(process.stdout.readline())["base_url"]
            host, port = url.removeprefix("http://").split(":")
            with closing(http.client.HTTPConnection(host, int(port), timeout=DEADLINE_S)) as client:
                client.request("GET", LOAD)
                assert client.getresponse().status == 401
                process.send_signal(number)
                assert process.wait(DEADLINE_S) == 0
            assert process.stdout.read() == b""

    def test_a_port_that_is_taken_is_a_usage_error(self, simulator: VoiceEventsSimulator) -> None:
        """The message names the address."""
        port = int(simulator.base_url.rpartition(":")[2])
        with pytest.raises(UsageError, match=f"127.0.0.1:{port}"), running_simulator(port=port):
            pass

    @pytest.mark.parametrize("options", [{"conversations": 0}, {"rate": 0.0}])
    def test_what_cannot_be_simulated_is_refused_at_once(self, options: dict[str, Any]) -> None:
        """Nothing listens when the options make no sense."""
        with pytest.raises(ValueError, match="must be positive"):
            VoiceEventsSimulator(SimulatorOptions(**options))

    def test_no_thread_is_left_behind(self) -> None:
        """The simulator's thread is gone when the context is left."""
        before = set(threading.enumerate())
        with running_simulator():
            assert len(set(threading.enumerate()) - before) == 1
        assert set(threading.enumerate()) <= before
