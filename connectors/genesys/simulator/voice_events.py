"""A local Genesys: token, load check, interceptors and the voice event WebSocket, on one port of this machine.

For demonstrations, tests and trying out a configuration. What it serves is in `simulator_rest`, what it says over the
WebSocket in `calls` (made-up calls) or a recording, and what it does wrong in `simulator_faults`.

    with running_simulator(conversations=3, rate=5) as simulator:
        ...                                     # a client connects to simulator.base_url
        simulator.wait_for(lambda s: s.frames_sent >= 100)
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

from websockets.frames import CloseCode

from connectors.errors import UsageError
from connectors.genesys.simulator.calls import conversation_ids
from connectors.genesys.simulator.faults import (
    GARBAGE,
    Abort,
    CloseSockets,
    Duplicate,
    Faults,
    Garbage,
    Oversize,
    Stall,
    StreamFault,
)
from connectors.genesys.simulator.playback import Calls, Playback, Source
from connectors.genesys.simulator.rest import CreatedInterceptor, RestApi, UpgradeAttempt, is_subscription
from connectors.genesys.simulator.server import Answer, Application, Connection, HttpRequest, Silence, encode_message
from connectors.runtime.logs import get_logger

__all__ = ["Simulator", "SimulatorOptions", "announce", "running", "running_simulator", "serve", "serve_forever"]

_PAUSE_S = 0.002
"""The shortest wait between two writes: frames that fall due together go out in one."""
_BATCH_FRAMES = 1024
_SLOW_SUBSCRIBER_S = 30.0
_FAREWELL_S = 1.0
_OVERSIZE_STEM = '{"event":"conversation.updated","entity":{"id":"oversize"},"timestamp":1767225600.0,"padding":"'

_T = TypeVar("_T")
_S = TypeVar("_S", bound="Simulator")


@dataclass(frozen=True, slots=True)
class SimulatorOptions:
    """What to simulate.

    Made-up calls come from `seed`, `conversations` at a time, each with `rate` frames/s. With a `recording`, that is
    played instead, at `speed` times its own pace. Either begins with the first subscriber unless `wait_for_subscriber`
    is false. Port 0 takes any free one. `credentials` (id, secret) are demanded if given, tokens live
    `token_life_s`, and the load check shows `active_conversations` instead of the calls that are on.

    `Simulator` raises ValueError for what cannot be simulated, such as no conversations or a speed of zero.
    """

    host: str = "127.0.0.1"
    port: int = 0
    conversations: int = 5
    rate: float = 10.0
    seed: int = 1
    faults: Faults = field(default_factory=Faults)
    recording: Path | None = None
    speed: float = 1.0
    wait_for_subscriber: bool = True
    credentials: tuple[str, str] | None = None
    token_life_s: float = 86_399
    active_conversations: int | None = None


class Simulator:
    """The server: `async with` runs it in the current event loop, `running_simulator` in a thread of its own.

    Counters may be read, and methods called, from any thread. `frames_sent` counts the frames of the calls or of the
    recording that went to at least one subscriber, and duplicates; what other faults and `send_text` send is not in it.
    `connections` counts the upgrades that were accepted. `finished` tells that a recording was played to its end.
    """

    def __init__(self, options: SimulatorOptions | None = None, *, now: Callable[[], float] = time.time) -> None:
        self.options = options = options or SimulatorOptions()
        self._now = now
        self._source: Source = (
            Calls(options.seed, options.conversations, options.rate)
            if options.recording is None
            else Playback(options.recording, options.speed)
        )
        self._rest = RestApi(
            now=now,
            active=self._active,
            faults=options.faults.of_requests(),
            credentials=options.credentials,
            token_life_s=options.token_life_s,
        )
        self._stream_faults: deque[StreamFault] = deque(options.faults.of_stream())
        self._last_frame = b""
        self._tcp: set[Connection] = set()
        self._subscribed: dict[Connection, None] = {}
        self._changed = threading.Condition()
        self.base_url = ""
        self.frames_sent = 0
        self.connections = 0
        self.finished = False

    @property
    def subscribers(self) -> int:
        """How many sockets are subscribed now."""
        return len(self._subscribed)

    @property
    def tokens_issued(self) -> int:
        """How many tokens were handed out."""
        return self._rest.tokens_issued

    @property
    def created(self) -> list[CreatedInterceptor]:
        """The interceptors created, in order."""
        return list(self._rest.created)

    @property
    def duplicate_creates(self) -> int:
        """How many interceptors were created for conversations that already had one."""
        return self._rest.duplicate_creates

    @property
    def upgrade_attempts(self) -> list[UpgradeAttempt]:
        """Every request for the event WebSocket, in order."""
        return list(self._rest.upgrade_attempts)

    def wait_for(self, predicate: Callable[[Simulator], bool], deadline_s: float = 10.0) -> None:
        """Block until `predicate(self)` holds, looking at every change; raises TimeoutError at the deadline.

        Not for the simulator's own thread.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: predicate(self), deadline_s):
                raise TimeoutError(
                    f"not within {deadline_s} s: frames_sent={self.frames_sent} connections={self.connections} "
                    f"subscribers={self.subscribers} tokens_issued={self.tokens_issued} created={len(self.created)} "
                    f"upgrade_attempts={len(self.upgrade_attempts)} finished={self.finished}"
                )

    def send_text(self, *messages: str | bytes) -> int:
        """Send messages to every subscriber, bytes as binary ones, in one write; returns the number of subscribers."""
        encoded = b"".join(map(encode_message, messages))

        def send() -> int:
            self._broadcast(encoded)
            return len(self._subscribed)

        return self._in_loop(send)

    def drop_connections(self, code: int | None = None) -> None:
        """Close every event socket with this close code, or end its connection without a close frame."""
        self._in_loop(lambda: self._drop(code))

    def revoke_tokens(self) -> None:
        """Refuse every token issued so far; open event sockets stay."""
        self._in_loop(self._rest.revoke_tokens)

    async def __aenter__(self) -> Self:
        self._loop = loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._first_subscriber = asyncio.Event()
        self._all_closed = asyncio.Event()
        self._all_closed.set()
        host, port = self.options.host, self.options.port
        try:
            self._server = await loop.create_server(lambda: Connection(self._application()), host, port)
        except OSError as error:
            raise UsageError(f"the simulator cannot listen on {host}:{port}: {error.strerror or error}") from error
        self.base_url = f"http://{host}:{self._server.sockets[0].getsockname()[1]}"
        self._run = asyncio.create_task(self._play())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._run.cancel()
        self._server.close()
        for connection in list(self._tcp):
            connection.close(CloseCode.GOING_AWAY)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FAREWELL_S):
                await self._all_closed.wait()
        for connection in list(self._tcp):
            connection.abort()
        await self._server.wait_closed()
        with contextlib.suppress(asyncio.CancelledError):
            await self._run

    async def serve_until(self, stop: asyncio.Event) -> None:
        """Wait for `stop`; raises RecordingError if the recording turns out to be damaged before."""
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait({stopping, self._run}, return_when=asyncio.FIRST_COMPLETED)
        if self._run.done():
            self._run.result()
        await stopping

    def request(self, request: HttpRequest) -> Answer | Silence:
        """Answer a request; for the connections."""
        with self._change():
            return self._rest.request(request)

    def upgrade(self, request: HttpRequest) -> Answer | Silence | None:
        """Decide on an upgrade; for the connections."""
        with self._change():
            refusal = self._rest.upgrade(request)
            self.connections += refusal is None
            return refusal

    def opened(self, connection: Connection) -> None:
        """Remember a TCP connection; for the connections."""
        self._tcp.add(connection)
        self._all_closed.clear()

    def message(self, connection: Connection, message: str | bytes) -> None:
        """Take the first message for the subscription and ignore later ones; for the connections."""
        if connection in self._subscribed:
            return
        if not is_subscription(message):
            connection.close(CloseCode.POLICY_VIOLATION, "the first message must be the subscription")
            return
        with self._change():
            self._subscribed[connection] = None
        self._first_subscriber.set()

    def closed(self, connection: Connection) -> None:
        """Forget a TCP connection; for the connections."""
        with self._change():
            self._tcp.discard(connection)
            self._subscribed.pop(connection, None)
        if not self._tcp:
            self._all_closed.set()

    def _application(self) -> Application:
        """What decides for a new connection."""
        return self

    @contextmanager
    def _change(self) -> Iterator[None]:
        with self._changed:
            yield
            self._changed.notify_all()

    def _in_loop(self, work: Callable[[], _T]) -> _T:
        if threading.get_ident() == self._thread:
            return work()

        async def run() -> _T:
            return work()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result()

    def _active(self) -> Collection[str]:
        count = self.options.active_conversations
        return self._source.active if count is None else conversation_ids(self.options.seed, count)

    async def _play(self) -> None:
        if self.options.wait_for_subscriber:
            await self._first_subscriber.wait()
        began = self._loop.time()
        batch: list[bytes] = []
        for step in self._source.steps(self._now()):
            early_s = step.due_s - (self._loop.time() - began)
            if early_s > 0 or len(batch) >= _BATCH_FRAMES:
                await self._send(batch)
                early_s = step.due_s - (self._loop.time() - began)
                if early_s > 0:
                    await asyncio.sleep(max(early_s, _PAUSE_S))
            if step.is_frame and step.message is not None:
                batch.append(encode_message(step.message))
                continue
            await self._send(batch)
            if step.message is None:
                self._drop(CloseCode.GOING_AWAY)
            else:
                self._broadcast(encode_message(step.message))
        await self._send(batch)
        with self._change():
            self.finished = True

    async def _send(self, frames: list[bytes]) -> None:
        """Send frames, with the faults that strike between them, and empty the list; wait for slow subscribers."""
        with self._change():
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
        """Send to all subscribers; whether there is one that is not closing."""
        taken = [connection.write(encoded) for connection in self._subscribed]
        return any(taken)

    def _drop(self, code: int | None) -> None:
        with self._change():
            self._subscribed.clear()
        for connection in [c for c in self._tcp if c.is_websocket]:
            if code is None:
                connection.drop()
            else:
                connection.close(code)


def announce(base_url: str) -> None:
    """Print the base URL as one JSON line, for whoever started the process."""
    print(json.dumps({"base_url": base_url}), flush=True)


def serve_forever(options: SimulatorOptions, ready: Callable[[str], None] = announce) -> None:
    """Run a simulator until SIGINT or SIGTERM and return; `ready` is called with the base URL once it listens.

    For a process's main thread. Raises UsageError when the address is taken, RecordingError for a bad recording.
    """
    serve(Simulator(options), ready)


def serve(simulator: Simulator, ready: Callable[[str], None] = announce) -> None:
    """`serve_forever` for a simulator of any kind."""

    async def main() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        async with simulator:
            ready(simulator.base_url)
            await simulator.serve_until(stop)

    asyncio.run(main())


@contextmanager
def running_simulator(**options: Any) -> Iterator[Simulator]:
    """A simulator in a daemon thread of its own, listening; the options are those of `SimulatorOptions`."""
    with running(Simulator(SimulatorOptions(**options))) as simulator:
        yield simulator


@contextmanager
def running(simulator: _S) -> Iterator[_S]:
    """A simulator of any kind in a daemon thread of its own, listening."""
    listening: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
    ended: Future[None] = Future()

    async def main() -> None:
        stop = asyncio.Event()
        async with simulator:
            listening.set_result((asyncio.get_running_loop(), stop))
            await simulator.serve_until(stop)

    def run() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:
            (ended if listening.done() else listening).set_exception(error)
        else:
            ended.set_result(None)

    thread = threading.Thread(target=run, name="simulator", daemon=True)
    thread.start()
    loop, stop = listening.result()
    try:
        yield simulator
    finally:
        if not ended.done():
            loop.call_soon_threadsafe(stop.set)
        thread.join(timeout=10)
        ended.result(timeout=0)
