"""The live run from outside: frames go in through a real WebSocket, callbacks come out of a real HTTP request.

This process plays Genesys and the quality platform at once, so that both ends of a latency are read from one clock.
`voicewatch run` is a process of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import statistics
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import httpx

from connectors.genesys.simulator.connection import Answer, Connection, HttpRequest, encode_message
from tests.benchmarks.generate import conversation_ids
from tests.benchmarks.measure import environ, python

__all__ = ["Latency", "idle_cpu", "latency", "sustained"]

CONVERSATIONS: Final = 1000
STARTING_S: Final = 30.0
LATE_S: Final = 10.0
STEP_S: Final = 0.001
KEEPING_UP_S: Final = 0.25
_FRAME: Final = (
    '{"event":"conversation.updated","entity":{"id":"%s"},"timestamp":%s,"metrics":{"packetLoss":%.6f,"jitter":3.41}}'
)
_TIME: Final = "1000000000.123456"
_LOSS: Final = re.compile(rb'"metricValue":([0-9.]+)')
_CONFIG: Final = """
[genesys]
base_url = "{base_url}"
max_concurrent = 1000
[alerts]
policy = "frame"
unwatched = "default"
[delivery]
allow_private_addresses = true
[state]
dir = "{state}"
[defaults]
qa_callback_url = "{receiver}"
max_latency_ms = 500
packet_loss_threshold = 0.02
interceptor_address = "sip:qa@monitoring.internal"
[[interceptor]]
conversation_id = "{conversation_id}"
leg_id = "leg"
"""
_PAGE: Final = '[web]\nlisten = "127.0.0.1:0"\n'


class Latency(NamedTuple):
    """From a frame's write into the socket to the first byte of its callback; milliseconds, and how many there were."""

    p50_ms: float
    p99_ms: float
    callbacks: int


class _Genesys:
    """Token and event socket of a Genesys that has no faults."""

    def __init__(self) -> None:
        self.subscriber: Connection | None = None
        self.subscribed = asyncio.Event()

    def request(self, request: HttpRequest) -> Answer:
        return Answer(200, {"access_token": "token", "token_type": "bearer", "expires_in": 86400})

    def upgrade(self, request: HttpRequest, connection: Connection) -> None:
        return None

    def opened(self, connection: Connection) -> None:
        pass

    def message(self, connection: Connection, message: str | bytes) -> None:
        self.subscriber = connection
        self.subscribed.set()

    def closed(self, connection: Connection) -> None:
        pass


class _Callbacks(asyncio.Protocol):
    """One keep-alive connection of the receiver: notes when the first byte of each request came."""

    def __init__(self, arrived: dict[str, float]) -> None:
        self._arrived = arrived
        self._data = b""
        self._began = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if not self._data:
            self._began = time.perf_counter()
        self._data += data
        while (head := self._data.find(b"\r\n\r\n")) >= 0:
            length = re.search(rb"content-length: *([0-9]+)", self._data[:head], re.IGNORECASE)
            end = head + 4 + (int(length[1]) if length else 0)
            if len(self._data) < end:
                return
            loss = _LOSS.search(self._data, head, end)
            if loss:
                self._arrived.setdefault(f"{float(loss[1]):.6f}", self._began)
            self._data = self._data[end:]
            self._transport.write(b"HTTP/1.1 204 No Content\r\n\r\n")


class _Peer:
    """Both ends of a live run."""

    def __init__(self, genesys: _Genesys, process: subprocess.Popen[bytes]) -> None:
        self._genesys = genesys
        self.process = process
        self.sent: dict[str, float] = {}
        self.arrived: dict[str, float] = {}
        ids = conversation_ids(3, CONVERSATIONS)
        pieces = [encode_message(_FRAME % (one, _TIME, 0.001)).split(_TIME.encode()) for one in ids]
        self._ids = ids
        # Frames differ in their time alone: joining what is between two times with a time makes them all.
        self._seams = [pieces[i][1] + pieces[(i + 1) % len(pieces)][0] for i in range(len(pieces))]
        self._first, self._last = [piece[0] for piece in pieces], [piece[1] for piece in pieces]

    async def send(self, rate: float, seconds: float, probes: float) -> float:
        """Frames at a steady rate, and `probes` of them a second breach; how long it took."""
        at = next_probe = 0
        began = time.perf_counter()
        while (elapsed := time.perf_counter() - began) < seconds:
            due = int(elapsed * rate)
            if due > at:
                self._write(self._frames(at, due - at))
                at = due
            if elapsed * probes >= next_probe:
                next_probe += 1
                self._probe(next_probe)
            await asyncio.sleep(STEP_S)
        return time.perf_counter() - began

    def _frames(self, first: int, count: int) -> bytes:
        now = f"{time.time() - 0.05:.6f}".encode()
        size = len(self._seams)
        begin, end = first % size, (first + count - 1) % size
        seams = [self._seams[(begin + index) % size] for index in range(count - 1)]
        return now.join([self._first[begin], *seams, self._last[end]])

    def _probe(self, number: int) -> None:
        loss = f"{0.05 + len(self.sent) * 1e-6:.6f}"
        frame = _FRAME % (self._ids[number % len(self._ids)], f"{time.time() - 0.05:.6f}", float(loss))
        self.sent[loss] = time.perf_counter()
        self._write(encode_message(frame))

    def _write(self, data: bytes) -> None:
        assert self._genesys.subscriber is not None
        self._genesys.subscriber.write(data)

    async def delays(self) -> list[float]:
        """How long each probe took to come back, in the order of sending; those that are out late are infinite."""
        deadline = time.perf_counter() + LATE_S
        while len(self.arrived) < len(self.sent) and time.perf_counter() < deadline:  # noqa: ASYNC110 - no hurry
            await asyncio.sleep(0.05)
        found = [self.arrived.get(loss, float("inf")) - at for loss, at in self.sent.items()]
        self.sent.clear()
        self.arrived.clear()
        return found

    def cpu_s(self) -> float:
        """The processor time of the run so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.asynccontextmanager
async def _live(directory: Path, extra: str = "") -> AsyncIterator[_Peer]:
    """A run on processor 1 that has subscribed, with `extra` tables; this process is on processor 0 meanwhile."""
    loop = asyncio.get_running_loop()
    genesys = _Genesys()
    arrived: dict[str, float] = {}
    events = await loop.create_server(lambda: Connection(genesys), "127.0.0.1", 0)
    receiver = await loop.create_server(lambda: _Callbacks(arrived), "127.0.0.1", 0)
    with _one_processor_each(), (directory / "run.log").open("wb") as log:
        config = directory / "voicewatch.toml"
        values = {"state": directory / "state", "conversation_id": conversation_ids(3, 1)[0]}
        urls = [f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}" for server in (events, receiver)]
        config.write_text(_CONFIG.format(base_url=urls[0], receiver=urls[1], **values) + extra)
        command = python("-c", "from flows.cli import main; main()", "run", config, "--no-bootstrap")
        env = environ({"GENESYS_CLIENT_ID": "bench", "GENESYS_CLIENT_SECRET": "bench"})
        os.sched_setaffinity(0, _processors(1))
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=directory)  # noqa: ASYNC220
        os.sched_setaffinity(0, _processors(0))
        try:
            await asyncio.wait_for(genesys.subscribed.wait(), STARTING_S)
            peer = _Peer(genesys, process)
            peer.arrived = arrived
            await peer.send(5000, 1, 20)  # the first of everything is slow
            await peer.delays()
            yield peer
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                await asyncio.to_thread(process.wait, 20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            events.close()
            receiver.close()


def _processors(number: int) -> set[int]:
    mine = sorted(_ALL)
    return {mine[number % len(mine)]}


_ALL: Final = frozenset(os.sched_getaffinity(0))


@contextlib.contextmanager
def _one_processor_each() -> Iterator[None]:
    try:
        yield
    finally:
        os.sched_setaffinity(0, _ALL)


def latency(directory: Path, rate: float, seconds: float, *, page: bool = False) -> Latency:
    """Return the latency at a rate of frames, twenty of which in a second lead to a callback.

    With `page`, the run serves the live page, and a viewer has its slowest view open.
    """

    async def run() -> Latency:
        async with contextlib.AsyncExitStack() as stack:
            peer = await stack.enter_async_context(_live(directory, _PAGE if page else ""))
            viewer = asyncio.create_task(_view(directory / "run.log")) if page else None
            await peer.send(rate, seconds, 20)
            delays = sorted(1000 * delay for delay in await peer.delays())
            if viewer is not None:
                viewer.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await viewer
            return Latency(statistics.median(delays), delays[(99 * len(delays) + 99) // 100 - 1], len(delays))

    return asyncio.run(run())


def _address(log: Path) -> str | None:
    found = re.search(r"live_page\s+url=(\S+)", log.read_text())
    return None if found is None else found[1]


async def _view(log: Path) -> None:
    """Do what a browser does that shows the fleet by conversation: ask again whenever something is new."""
    while (url := _address(log)) is None:  # noqa: ASYNC110 - a file announces nothing
        await asyncio.sleep(0.05)
    async with httpx.AsyncClient(base_url=url, timeout=LATE_S) as client, client.stream("GET", "/events") as events:
        async for line in events.aiter_lines():
            if line.startswith("data:"):
                (await client.get("/fleet?by=conversation")).raise_for_status()


def sustained(directory: Path, rates: list[float], seconds: float) -> float:
    """The highest of the rates that one processor keeps up with: callbacks are not later at its end than before."""

    async def run() -> float:
        best = 0.0
        async with _live(directory) as peer:
            for rate in rates:
                await peer.send(rate, seconds, 20)
                delays = await peer.delays()
                if statistics.median(delays[-20:]) > KEEPING_UP_S:
                    break
                best = rate
        return best

    return asyncio.run(run())


def idle_cpu(directory: Path, seconds: float) -> float:
    """The share of a processor that a run takes whose conversations are all quiet."""

    async def run() -> float:
        async with _live(directory) as peer:
            await asyncio.sleep(12)  # until the windows of the frames so far have closed
            before = peer.cpu_s()
            await asyncio.sleep(seconds)
            return (peer.cpu_s() - before) / seconds

    return asyncio.run(run())


def _main() -> None:
    """Print the latency at a thousand frames a second, to try it out."""
    directory = Path("build/bench/live-try")
    directory.mkdir(parents=True, exist_ok=True)
    print(json.dumps(latency(directory, 1000, 5)._asdict()))


if __name__ == "__main__":
    _main()
