"""A local Genesys: token, load check, interceptors and the voice event WebSocket, on one port of this machine.

For demonstrations, tests and trying out a configuration. It sends generated calls (`calls`) or a recording
(`playback`), and does wrong what `faults` says.

    with running_simulator(conversations=3, rate=5) as simulator:
        ...                                     # a client connects to simulator.base_url
        simulator.wait_for(lambda s: s.frames_sent >= 100)
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from websockets.frames import CloseCode

from connectors.genesys.endpoints import EVENTS_PATH
from connectors.genesys.simulator.analytics import Analytics
from connectors.genesys.simulator.calls import conversation_ids
from connectors.genesys.simulator.connection import Answer, Connection, HttpRequest, Silence, encode_message
from connectors.genesys.simulator.directory import Directory
from connectors.genesys.simulator.faults import (
    GARBAGE,
    Abort,
    CloseSockets,
    Duplicate,
    Garbage,
    Oversize,
    Stall,
    StreamFault,
)
from connectors.genesys.simulator.interceptors import CreatedInterceptor, Interceptors, is_subscription
from connectors.genesys.simulator.platform import PlatformOptions, begin_calls, rest_api
from connectors.genesys.simulator.playback import Calls, Playback, Source, moved
from connectors.genesys.simulator.rest import error_answer
from connectors.genesys.simulator.server import SimulatorServer, announce, running, serve
from connectors.genesys.simulator.telephony import Telephony
from connectors.runtime.logs import get_logger

__all__ = [
    "SimulatorOptions",
    "UpgradeAttempt",
    "VoiceEventsSimulator",
    "running_simulator",
    "serve_forever",
]

_PAUSE_S = 0.002
"""The shortest wait between two writes: frames that fall due together go out in one."""
_BATCH_FRAMES = 1024
_SLOW_SUBSCRIBER_S = 30.0
_OVERSIZE_STEM = '{"event":"conversation.updated","entity":{"id":"oversize"},"timestamp":1767225600.0,"padding":"'


@dataclass(frozen=True, slots=True)
class SimulatorOptions(PlatformOptions):
    """What to simulate.

    With a `recording`, that is played instead of generated calls, at `speed` times its own pace. Either begins with the
    first subscriber unless `wait_for_subscriber` is false. The load check shows `active_conversations`, if given,
    instead of the calls in progress. A frame that is sent late, because the machine is busy, keeps its time, as a delay
    at Genesys would; with `stamps_when_sent` its time is moved with it.

    `VoiceEventsSimulator` raises ValueError for what cannot be simulated, such as no conversations or a speed of zero.
    """

    recording: Path | None = None
    speed: float = 1.0
    wait_for_subscriber: bool = True
    stamps_when_sent: bool = False
    active_conversations: int | None = None


class UpgradeAttempt(NamedTuple):
    """A request for the event WebSocket; `status` is 101 if it was accepted and None if it was left unanswered."""

    at: float
    status: int | None


class VoiceEventsSimulator:
    """Sends voice events; run it with `running_simulator`, or with `running` or `serve` of `server`.

    Counters may be read, and methods called, from any thread. `frames_sent` counts the frames of the calls or of the
    recording that were sent to at least one subscriber, and duplicates; it does not count what other faults and
    `send_text` send. `finished` is set once a recording was played to its end.
    """

    def __init__(self, options: SimulatorOptions | None = None, *, now: Callable[[], float] = time.time) -> None:
        self.options = options = options or SimulatorOptions()
        self._now = now
        self.traffic = begin_calls(options, now() if options.recording is None else None)
        self._source: Source = (
            Calls(self.traffic) if options.recording is None else Playback(options.recording, options.speed)
        )
        self._interceptors = Interceptors(self._entities, now)
        self._rest = rest_api(
            options,
            [
                *self._interceptors.routes(),
                *Directory(self.traffic.book.organisation).routes(),
                *Telephony(self.traffic.book, now=now).routes(),
                *Analytics(self.traffic.book, now=now, after_s=options.analytics_after_s).routes(),
            ],
            now,
        )
        self.server = SimulatorServer(self, options.host, options.port)
        self._stream_faults: deque[StreamFault] = deque(options.faults.of_stream())
        self._last_frame = b""
        self._subscribed: dict[Connection, None] = {}
        self._first_subscriber = asyncio.Event()
        self._upgrade_attempts: list[UpgradeAttempt] = []
        self.frames_sent = 0
        self.finished = False

    @property
    def base_url(self) -> str:
        """Return where the simulator listens."""
        return self.server.base_url

    @property
    def connections(self) -> int:
        """Return how many upgrades were accepted."""
        return self.server.connections

    @property
    def subscribers(self) -> int:
        """Return how many sockets are subscribed now."""
        return len(self._subscribed)

    @property
    def tokens_issued(self) -> int:
        """Return how many tokens were issued."""
        return self._rest.tokens_issued

    @property
    def created(self) -> list[CreatedInterceptor]:
        """Return the interceptors created, in order."""
        return list(self._interceptors.created)

    @property
    def upgrade_attempts(self) -> list[UpgradeAttempt]:
        """Return every request for the event WebSocket, in order."""
        return list(self._upgrade_attempts)

    def wait_for(self, predicate: Callable[[VoiceEventsSimulator], bool], deadline_s: float = 10.0) -> None:
        """Block until `predicate(self)` holds, checked at every change; raises TimeoutError at the deadline.

        Not to be called in the simulator's own thread.
        """
        self.server.wait_for(lambda: predicate(self), deadline_s, self._figures)

    def send_text(self, *messages: str | bytes) -> int:
        """Send messages to every subscriber, bytes as binary ones, in one write; returns the number of subscribers."""
        encoded = b"".join(map(encode_message, messages))

        def send() -> int:
            self._broadcast(encoded)
            return len(self._subscribed)

        return self.server.in_loop(send)

    def drop_connections(self, code: int | None = None) -> None:
        """Close every event socket with this close code, or end its connection without a close frame."""
        self.server.in_loop(lambda: self._drop(code))

    def revoke_tokens(self) -> None:
        """Refuse every token issued so far; open event sockets stay."""
        self.server.in_loop(self._rest.revoke_tokens)

    # For the server

    def request(self, request: HttpRequest) -> Answer | Silence:
        """Answer a request."""
        if urlsplit(request.target).path == EVENTS_PATH:
            return error_answer(426, "upgrade.required", "this is a WebSocket", {"upgrade": "websocket"})
        return self._rest.request(request)

    def upgrade(self, request: HttpRequest, connection: Connection) -> Answer | Silence | None:  # noqa: ARG002
        """Accept a WebSocket for the events, with a valid token; every attempt is remembered."""
        if urlsplit(request.target).path == EVENTS_PATH:
            refusal = self._rest.upgrade(request)
        else:
            refusal = error_answer(404, "not.found", "there is no WebSocket here")
        status = 101 if refusal is None else refusal.status if isinstance(refusal, Answer) else None
        self._upgrade_attempts.append(UpgradeAttempt(self._now(), status))
        return refusal

    def message(self, connection: Connection, message: str | bytes) -> None:
        """Take the first message for the subscription and ignore later ones."""
        if connection in self._subscribed:
            return
        if not is_subscription(message):
            connection.close(CloseCode.POLICY_VIOLATION, "the first message must be the subscription")
            return
        with self.server.change():
            self._subscribed[connection] = None
        self._first_subscriber.set()

    def closed(self, connection: Connection) -> None:
        """Forget a subscriber."""
        self._subscribed.pop(connection, None)

    def _figures(self) -> str:
        return (
            f"frames_sent={self.frames_sent} subscribers={self.subscribers} tokens_issued={self.tokens_issued} "
            f"created={len(self.created)} upgrade_attempts={len(self.upgrade_attempts)} finished={self.finished}"
        )

    def _entities(self) -> list[dict[str, Any]]:
        """List the conversations in progress, with their participants where they are known."""
        count, now, book = self.options.active_conversations, self._now(), self.traffic.book
        ids = self._source.active if count is None else conversation_ids(self.options.seed, count)
        return [{"id": id_} if (call := book.get(id_)) is None else call.entity(now) for id_ in ids]

    async def play(self) -> None:
        """Send the frames of the source, as they fall due."""
        loop = asyncio.get_running_loop()
        if self.options.wait_for_subscriber:
            await self._first_subscriber.wait()
        began = loop.time()
        batch: list[bytes] = []
        for step in self._source.steps(self._now()):
            early_s = step.due_s - (loop.time() - began)
            if early_s > 0 or len(batch) >= _BATCH_FRAMES:
                await self._send(batch)
                early_s = step.due_s - (loop.time() - began)
                if early_s > 0:
                    await asyncio.sleep(max(early_s, _PAUSE_S))
            if step.is_frame and step.message is not None:
                late_s = loop.time() - began - step.due_s if self.options.stamps_when_sent else 0.0
                batch.append(encode_message(moved(step.message, late_s)))
                continue
            await self._send(batch)
            if step.message is None:
                self._drop(CloseCode.GOING_AWAY)
            else:
                self._broadcast(encode_message(step.message))
        await self._send(batch)
        with self.server.change():
            self.finished = True

    async def _send(self, frames: list[bytes]) -> None:
        """Send frames, with the faults due between them, and empty the list; wait for slow subscribers."""
        with self.server.change():
            while frames and self._subscribed:
                fault = self._stream_faults[0] if self._stream_faults else None
                room = len(frames) if fault is None else max(0, fault.after_frames - self.frames_sent)
                if now := frames[:room]:
                    if self._broadcast(b"".join(now)):
                        self._last_frame = now[-1]
                        self.frames_sent += len(now)
                    del frames[:room]
                if fault is not None and self.frames_sent >= fault.after_frames:
                    self._stream_faults.popleft()
                    self._strike(fault)
            frames.clear()
        await asyncio.sleep(0)
        for connection in [c for c in self._subscribed if not c.writable.is_set()]:
            try:
                async with asyncio.timeout(_SLOW_SUBSCRIBER_S):
                    await connection.writable.wait()
            except TimeoutError:
                get_logger(__name__).warning("slow_subscriber_dropped", after_s=_SLOW_SUBSCRIBER_S)
                connection.abort()

    def _strike(self, fault: StreamFault) -> None:
        get_logger(__name__).info("fault_strikes", do=fault.do, after_frames=fault.after_frames)
        match fault:
            case CloseSockets(code=code):
                self._drop(code)
            case Abort():
                self._drop(None)
            case Stall(seconds=seconds):
                for connection in self._subscribed:
                    connection.stall(seconds)
            case Garbage(text=text):
                self._broadcast(b"".join(map(encode_message, GARBAGE if text is None else [text])))
            case Duplicate() if self._last_frame:
                self.frames_sent += self._broadcast(self._last_frame)
            case Oversize(bytes=size):
                self._broadcast(encode_message(f'{_OVERSIZE_STEM:x<{max(0, size - 2)}}"}}'))

    def _broadcast(self, encoded: bytes) -> bool:
        """Send to all subscribers; False if there is none, or all are closing."""
        taken = [connection.write(encoded) for connection in self._subscribed]
        return any(taken)

    def _drop(self, code: int | None) -> None:
        with self.server.change():
            self._subscribed.clear()
        for connection in self.server.websockets:
            if code is None:
                connection.drop()
            else:
                connection.close(code)


def serve_forever(options: SimulatorOptions, ready: Callable[[str], None] = announce) -> None:
    """Run a simulator until SIGINT or SIGTERM; `ready` is called with the base URL once it listens.

    For a process's main thread. Raises UsageError if the address is in use, RecordingError for a damaged recording.
    """
    serve(VoiceEventsSimulator(options), ready)


@contextmanager
def running_simulator(**options: Any) -> Iterator[VoiceEventsSimulator]:
    """Run a simulator in a daemon thread; the options are those of `SimulatorOptions`."""
    with running(VoiceEventsSimulator(SimulatorOptions(**options))) as simulator:
        yield simulator
