"""How many events the EventBridge feed acknowledges: `python -m tests.benchmarks.eventbridge [--connections N]`.

An event is acknowledged when the journal has it on the disk. The feed runs in a process of its own with a real journal
in `build/bench`; this process is EventBridge: on each connection it posts an event, waits for the answer, and posts the
next one. Beside it stands the disk alone: a line written and synced, one at a time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from connectors.genesys.feeds.base import FeedLimits
from connectors.genesys.feeds.eventbridge.feed import EventBridgeFeed
from connectors.journal.writer import Journal
from tests.benchmarks.measure import environ, python
from tests.support.events import detail_event

__all__ = ["Acknowledged", "acknowledged"]

KEY: Final = "key-of-the-benchmark"


class Acknowledged(NamedTuple):
    """Events acknowledged a second over the connections, and lines that the disk alone takes, each with a sync.

    `cpu_ms` is the feed's processor time for an event, its start left out.
    """

    connections: int
    events_per_s: float
    syncs_per_s: float
    cpu_ms: float

    def line(self) -> str:
        """Return the figures in words."""
        return (
            f"{self.connections} connections: {self.events_per_s:,.0f} events/s acknowledged, "
            f"{self.events_per_s / self.syncs_per_s:.2f} x the disk alone ({self.syncs_per_s:,.0f} synced lines/s), "
            f"{self.cpu_ms:.2f} ms of processor time an event"
        )


def acknowledged(parent: Path, connections: int, seconds: float) -> Acknowledged:
    """Measure the disk, then the feed, in a new directory below `parent`."""
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent) as directory:
        syncs_per_s = _synced_lines(Path(directory) / "lines", min(seconds, 2.0))
        with _served(Path(directory) / "journal") as (port, cpu_s):
            before = cpu_s()
            count, took_s = asyncio.run(_post(port, connections, seconds))
            used_s = cpu_s() - before
    return Acknowledged(connections, count / took_s, syncs_per_s, 1000 * used_s / count)


def _synced_lines(path: Path, seconds: float) -> float:
    line = json.dumps(detail_event("c", "customer.start")).encode() + b"\n"
    fd, count, began = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 0, time.perf_counter()
    try:
        while time.perf_counter() < began + seconds:
            os.write(fd, line)
            os.fdatasync(fd)
            count += 1
        return count / (time.perf_counter() - began)
    finally:
        os.close(fd)


@contextlib.contextmanager
def _served(journal: Path) -> Iterator[tuple[int, Callable[[], float]]]:
    """Run the feed; yield its port, and what returns its processor time in seconds."""
    process = subprocess.Popen(
        python("-m", "tests.benchmarks.eventbridge", "--serve", journal),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environ(),
        text=True,
    )
    assert process.stdout is not None
    with process.stdout:
        try:
            yield int(process.stdout.readline()), partial(_cpu_s, process.pid)
        finally:
            process.terminate()
            process.wait(30)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _serve(directory: Path) -> None:
    """Run the feed until SIGTERM, with a line of its port."""
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    journal = Journal(directory, settings={})
    feed = EventBridgeFeed(
        name="bus",
        listen=("127.0.0.1", 0),
        path="/events",
        header="X-Api-Key",
        keys=[KEY],
        recorder=journal.recorder("bus"),
        limits=FeedLimits("bus"),
    )
    feed.start()
    print(feed.address[1], flush=True)
    while not stopping.wait(0.5):
        pass
    feed.stop("benchmark over", timeout_s=5.0)
    journal.close()


async def _post(port: int, connections: int, seconds: float) -> tuple[int, float]:
    """Post on all connections for a time; return how many events were acknowledged, and in how many seconds."""
    began = time.perf_counter()
    counts = await asyncio.gather(*(_client(port, number, began + seconds) for number in range(connections)))
    return sum(counts), time.perf_counter() - began


async def _client(port: int, number: int, until: float) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /events HTTP/1.1\r\nHost: x\r\nX-Api-Key: {KEY}\r\nContent-Type: application/json\r\n"
    event, count = detail_event(f"c-{number}", "customer.start"), 0
    while time.perf_counter() < until:
        body = json.dumps({**event, "id": f"e-{number}-{count}"})
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        answer = await reader.readuntil(b"\r\n\r\n")
        if not answer.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(answer.decode())
        await reader.readuntil(b"\n")
        count += 1
    writer.close()
    return count


def main() -> None:
    """Measure one connection and many, or be the feed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--serve", type=Path)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--directory", type=Path, default=Path("build/bench"))
    options = parser.parse_args()
    if options.serve:
        _serve(options.serve)
        return
    for connections in dict.fromkeys((1, options.connections)):
        print(acknowledged(options.directory, connections, options.seconds).line(), flush=True)


if __name__ == "__main__":
    main()
