"""How many AudioHook sessions the feed serves: `python -m tests.benchmarks.audiohook [--sessions N] [--seconds S]`.

With `--pairs N`, what the audio level costs: the same load without and with it, in turn, and the ratio of the
processor time of each pair.

The feed runs in a process of its own on one processor, with a real journal and no dataflow; this process is Genesys on
another one. Every session sends stereo frames of 100 ms and pings. The rate is then raised until the feed no longer
keeps up: that is where it saturates.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

from connectors.genesys.simulator.audiohook import upgrade
from connectors.genesys.simulator.caller import CallPlan, plan_call
from tests.benchmarks.measure import environ, python

__all__ = ["Load", "level_ratios", "load"]

KEY: Final = "bench"
SECRET: Final = b"0123456789abcdef0123456789abcdef"
PING_S: Final = 5.0
STEP_S: Final = 0.002
_UNREAD_S: Final = 1.0
LATE_S: Final = 5.0
"""Genesys gives a session up when a pong takes longer."""


class Load(NamedTuple):
    """What was sent and how it was answered: messages/s, milliseconds, and the feed's share of one processor.

    `unread` are messages that the feed had not taken in when the load ended.
    """

    sessions: int
    wanted: float
    sent: float
    cpu: float
    pong_p50_ms: float
    pong_p99_ms: float
    pong_max_ms: float
    pongs: int
    closed: int
    unread: int
    cpu_us: float
    """Processor time of the feed for each message that it took in."""

    def line(self) -> str:
        """For people."""
        return (
            f"{self.sessions} sessions, {self.wanted:,.0f} messages/s wanted: {self.sent:,.0f} sent, "
            f"CPU {self.cpu:.0%} of one, pong p50 {self.pong_p50_ms:.1f} p99 {self.pong_p99_ms:.1f} "
            f"max {self.pong_max_ms:.1f} ms of {self.pongs}, {self.closed} closed in order, {self.unread} unread, "
            f"{self.cpu_us:.1f} us a message"
        )


class _Client(asyncio.Protocol):
    """A session as cheap as can be: frames are made once, and masked with zeros, which costs nothing and is allowed."""

    def __init__(self, url: str, plan: CallPlan, delays: list[float]) -> None:
        self._url = url
        self._plan = plan
        self._delays = delays
        self._buffer = b""
        self._seq = self._serverseq = 0
        self._pinged_at: float | None = None
        self.ready = asyncio.get_running_loop().create_future()
        self.over = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        host = self._url.split("/")[2]
        nonce = f"{time.time_ns()}-{self._plan.session_id}"
        headers = upgrade(self._url, self._plan, KEY, SECRET, created=time.time(), nonce=nonce) | {
            "Host": host,
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Version": "13",
        }
        lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
        transport.write(f"GET /audiohook HTTP/1.1\r\n{''.join(lines)}\r\n".encode())

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._serverseq == 0 and self._buffer.startswith(b"HTTP"):
            head, found, rest = self._buffer.partition(b"\r\n\r\n")
            if not found:
                return
            if b" 101 " not in head:
                self.ready.set_exception(RuntimeError(head.decode()))
                return
            self._buffer = rest
            self._open()
        while len(self._buffer) >= 2:
            size, begin = self._buffer[1], 2
            if size == 126:
                size, begin = int.from_bytes(self._buffer[2:4], "big"), 4
            if len(self._buffer) < begin + size:
                return
            payload, opcode = self._buffer[begin : begin + size], self._buffer[0] & 15
            self._buffer = self._buffer[begin + size :]
            if opcode == 1:
                self._hear(json.loads(payload)["type"])

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.over.done():
            self.over.set_result(False)
        if not self.ready.done():
            self.ready.set_exception(RuntimeError("connection lost"))

    def ping(self, now: float) -> None:
        """Ping, unless the last one is unanswered."""
        if self._pinged_at is None:
            self._pinged_at = now
            self.say("ping", {"rtt": "PT0.02S"})

    def waiting(self, now: float) -> float:
        """How long the last ping has been unanswered."""
        return 0.0 if self._pinged_at is None else now - self._pinged_at

    def say(self, kind: str, parameters: dict[str, Any]) -> None:
        """Send a message."""
        self._seq += 1
        message = {"version": "2", "id": self._plan.session_id, "type": kind, "seq": self._seq}
        message |= {"serverseq": self._serverseq, "position": "PT0S", "parameters": parameters}
        self.transport.write(_frame(1, json.dumps(message).encode()))

    def _open(self) -> None:
        opening = {"organizationId": self._plan.organization_id, "conversationId": self._plan.conversation_id}
        self.say("open", opening | {"media": list(self._plan.media)})

    def _hear(self, kind: str) -> None:
        self._serverseq += 1
        if kind == "pong" and self._pinged_at is not None:
            self._delays.append(time.perf_counter() - self._pinged_at)
            self._pinged_at = None
        elif kind == "opened":
            self.ready.set_result(None)
        elif kind == "closed":
            self.over.set_result(True)
            self.transport.write(_frame(8, (1000).to_bytes(2, "big")))


def _frame(opcode: int, payload: bytes) -> bytes:
    size = len(payload)
    length = bytes([128 | size]) if size < 126 else bytes([128 | 126]) + size.to_bytes(2, "big")
    return bytes([128 | opcode]) + length + bytes(4) + payload


# 100 ms of stereo in which both channels are loud, so that no rule of the level applies.
_AUDIO: Final = _frame(2, bytes(range(256)) * 6 + bytes(64))


class _Server:
    """The feed's process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        assert process.stdout is not None
        self.url = str(json.loads(process.stdout.readline())["url"])

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def audio_messages(self) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print("count", file=self._process.stdin, flush=True)
        return int(json.loads(self._process.stdout.readline())["audio_bytes"]) // 1600


@contextlib.contextmanager
def _served(*options: str) -> Iterator[_Server]:
    """Run the feed on the last processor, this process on the first, if there are two."""
    processors = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="voicewatch-bench-") as directory:
        process = subprocess.Popen(
            python("-m", "tests.benchmarks.audiohook", "--serve", directory, *options),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environ(),
            text=True,
        )
        try:
            os.sched_setaffinity(process.pid, processors[-1:])
            os.sched_setaffinity(0, processors[:1])
            yield _Server(process)
        finally:
            os.sched_setaffinity(0, processors)
            assert process.stdin is not None
            process.stdin.close()
            process.wait(30)


async def load(url: str, server: _Server, sessions: int, rate: float, seconds: float) -> Load:
    """Hold `sessions` sessions with a given rate of frames, for a given time."""
    loop = asyncio.get_running_loop()
    delays: list[float] = []
    host, port = url.split("/")[2].split(":")
    clients = []
    for slot in range(sessions):
        _, client = await loop.create_connection(partial(_Client, url, plan_call(9, slot), delays), host, int(port))
        clients.append(client)
        await client.ready
    before, cpu_s, began = server.audio_messages(), server.cpu_s(), time.perf_counter()
    sent = pings = 0
    while (elapsed := time.perf_counter() - began) < seconds:
        due = int(elapsed * sessions * rate)
        for number in range(sent, due):
            if not (client := clients[number % sessions]).over.done():  # else the feed has closed it
                client.transport.write(_AUDIO)
        sent = due
        due = int(elapsed * sessions / PING_S)
        for number in range(pings, due):
            clients[number * 7 % sessions].ping(time.perf_counter())
        pings = due
        await asyncio.sleep(STEP_S)
    lasted_s = time.perf_counter() - began
    used_s, taken = server.cpu_s() - cpu_s, server.audio_messages() - before
    cpu, unread = used_s / lasted_s, sent - taken
    now = time.perf_counter()
    delays += [client.waiting(now) for client in clients if client.waiting(now) > 1.0]
    for client in clients:
        client.say("close", {"reason": "end"})
    overs = await asyncio.wait_for(asyncio.gather(*(client.over for client in clients)), 60)
    for client in clients:
        client.transport.close()
    ordered = sorted(delays) or [float("inf")]
    p50_ms, p99_ms, max_ms = (ordered[min(len(ordered) - 1, int(len(ordered) * q))] * 1000 for q in (0.5, 0.99, 1.0))
    return Load(
        sessions,
        sessions * rate,
        sent / lasted_s,
        cpu,
        p50_ms,
        p99_ms,
        max_ms,
        len(delays),
        sum(overs),
        unread,
        used_s / max(taken, 1) * 1e6,
    )


def _serve(directory: Path, *, levels: bool) -> None:
    """Run the feed: say where it listens, count when asked, and end with the standard input."""
    from connectors.genesys.feeds.audiohook.feed import AudioHookFeed
    from connectors.genesys.feeds.audiohook.levels import Silence
    from connectors.runtime.logs import configure_logs
    from tests.support.audiohook import LIMITS, open_journal

    configure_logs(as_json=False)
    journal = open_journal(directory / "journal")
    feed = AudioHookFeed(
        name="audiohook",
        listen=("127.0.0.1", 0),
        path="/audiohook",
        keys={KEY: SECRET},
        recorder=journal.recorder("audiohook"),
        limits=LIMITS,
        silence=Silence(-60.0, 5.0) if levels else None,
    )
    feed.start()
    print(json.dumps({"url": "ws://{}:{}/audiohook".format(*feed.address)}), flush=True)
    for _ in sys.stdin:
        print(json.dumps({"audio_bytes": feed.counts.audio_bytes}), flush=True)
    feed.stop()
    journal.close()


def level_ratios(pairs: int, sessions: int, rate: float, seconds: float) -> Iterator[float]:
    """Yield, of each pair of loads, the processor time of a message with the audio level as a ratio to that without.

    Raise RuntimeError if the feed did not take in what was sent, so that a ratio never compares different work.
    """
    for number in range(pairs):
        cpu = {}
        for levels in (False, True) if number % 2 == 0 else (True, False):
            with _served(*(["--levels"] if levels else [])) as server:
                result = asyncio.run(load(server.url, server, sessions, rate, seconds))
            print(f"{'with' if levels else 'without'} levels: {result.line()}", file=sys.stderr, flush=True)
            if result.unread > _UNREAD_S * sessions * rate or result.closed < sessions:
                raise RuntimeError(f"the feed did not keep up: {result.line()}")
            cpu[levels] = result.cpu_us
        yield cpu[True] / cpu[False]


def main() -> None:
    """Measure the target, then raise the rate until a pong is late, or the feed does not keep up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--sessions", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rates", type=float, nargs="+", default=[10, 15, 20, 25, 30, 40])
    parser.add_argument("--pairs", type=int, default=0)
    parser.add_argument("--levels", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve is not None:
        _serve(arguments.serve, levels=arguments.levels)
        return
    if arguments.pairs:
        ratios = []
        for ratio in level_ratios(arguments.pairs, arguments.sessions, arguments.rates[0], arguments.seconds):
            ratios.append(ratio)
            print(f"ratio {ratio:.3f}, median {median(ratios):.3f}", flush=True)
        return
    for rate in arguments.rates:
        with _served() as server:
            result = asyncio.run(load(server.url, server, arguments.sessions, rate, arguments.seconds))
        print(result.line(), flush=True)
        if result.pong_max_ms >= LATE_S * 1000 or result.cpu > 0.97 or result.sent < 0.95 * result.wanted:
            print("saturated")
            break


if __name__ == "__main__":
    main()
