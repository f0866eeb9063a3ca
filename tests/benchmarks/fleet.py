"""The live page beside a live run of very many conversations: `python -m tests.benchmarks.fleet 20000 120`.

A run gets frames of watched conversations with labels through its socket, one frame each two seconds. A viewer asks for
every view again and again meanwhile, and follows the events. Printed are how long each view took, how old the newest
window on the page was, how fast the process of the page reads, and its memory.
"""

from __future__ import annotations

import asyncio
import json
import re
import statistics
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

import httpx

from connectors.format.lines import record_line
from tests.benchmarks import live
from tests.benchmarks.generate import conversation_ids
from tests.benchmarks.measure import ROOT

__all__ = ["ViewTimes", "views"]

FRAMES_A_SECOND: Final = 0.5
VIEWS: Final = {
    "fleet by queue": "/fleet?by=queue",
    "fleet by agent": "/fleet?by=agent",
    "fleet by conversation": "/fleet?by=conversation",
    "fleet by agent, 24 h": "/fleet?by=agent&range=24h",
    "fleet, loss": "/fleet?by=queue&metric=loss",
    "conversations": "/conversations",
    "conversations, page 200": "/conversations?page=200&order=mos",
    "conversations of a queue": "/conversations?l.queue=queue-7",
    "conversations by text": "/conversations?text=abc",
    "incidents": "/incidents",
    "incidents of a queue": "/incidents?l.queue=queue-7",
    "incidents by queue": "/incidents?group=queue",
    "failures": "/failures",
    "feeds": "/feeds",
    "what-if": "/what-if",
    "conversation": "/conversation?id={id}",
}


class ViewTimes(dict[str, list[float]]):
    """Seconds that each view took, and other figures in `told`."""

    told: dict[str, float]


def _labels(number: int) -> dict[str, str]:
    return {
        "queue": f"queue-{number % 200}",
        "agent": f"agent-{number % 5000}",
        "edge": f"edge-{number % 12}",
        "provider": f"provider-{number % 3}",
    }


def _watched(journal: Path, ids: list[str]) -> None:
    """Write a journal in which the conversations are watched already."""
    journal.mkdir(parents=True)
    at = time.time() - 1
    usual = {"leg_id": "leg", "max_latency_ms": 500.0, "packet_loss_threshold": 0.02, "qa_callback_url": None}
    lines = [
        record_line(at, {"watch": {"conversation_id": id_, "labels": _labels(number), **usual}})
        for number, id_ in enumerate(ids)
    ]
    (journal / "00000001.jsonl").write_bytes(b"".join(lines))


def views(directory: Path, conversations: int, seconds: float) -> ViewTimes:
    """Return how long the views took beside a live run of these conversations."""
    live.CONVERSATIONS = conversations  # type: ignore[misc]
    ids = conversation_ids(3, conversations)
    _watched(directory / "state" / "journal", ids)

    async def run() -> ViewTimes:
        async with live._live(directory, live._PAGE) as peer:
            while (url := live._address(directory / "run.log")) is None:  # noqa: ASYNC110 - a file
                await asyncio.sleep(0.1)
            viewer = asyncio.create_task(_look(url, ids, seconds))
            await peer.send(conversations * FRAMES_A_SECOND, seconds, 20)
            times = await viewer
            times.told |= _process()
            return times

    return asyncio.run(run())


async def _look(url: str, ids: list[str], seconds: float) -> ViewTimes:
    times, began = ViewTimes(), time.monotonic()
    times.told = {}
    events: list[float] = []
    ages: list[float] = []
    found: dict[str, list[float]] = defaultdict(list)
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        following = asyncio.create_task(_follow(client, events))
        while time.monotonic() - began < seconds - 2:
            for name, path in VIEWS.items():
                start = time.perf_counter()
                answer = await client.get(path.format(id=ids[len(events) % len(ids)]))
                found[name].append(time.perf_counter() - start)
                found[f"{name}, bytes"].append(len(answer.content))
                if answer.status_code not in (200, 404):
                    raise RuntimeError(f"{path}: {answer.status_code}")
            figures: dict[str, Any] = (await client.get("/api/conversations?order=last")).json()
            if figures["rows"]:
                ages.append(time.time() - figures["rows"][0]["last"])
            await asyncio.sleep(2)
        following.cancel()
        times.told["live"] = figures["figures"]["live"]
    times.update(found)
    times.told["events"] = len(events)
    times.told["newest window, s"] = statistics.median(ages or [0])
    times.told["newest window at the end, s"] = ages[-1] if ages else 0
    return times


async def _follow(client: httpx.AsyncClient, events: list[float]) -> None:
    async with client.stream("GET", "/events") as answer:
        async for line in answer.aiter_lines():
            if line.startswith("data:"):
                events.append(time.monotonic())  # noqa: PERF401 - it is cancelled, and others look at the list meanwhile


def _process() -> dict[str, float]:
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            if b"flows.web.process" not in (status.parent / "cmdline").read_bytes():
                continue
            if str(ROOT) not in str((status.parent / "exe").readlink()) and str(ROOT) not in (
                status.parent / "environ"
            ).read_text("utf-8", "replace"):
                continue
            text = status.read_text()
            fields = (status.parent / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        peak = re.search(r"VmHWM:\s+(\d+)", text)
        return {"memory, MB": int(peak[1]) / 1024 if peak else 0, "cpu, s": (int(fields[11]) + int(fields[12])) / 100}
    return {}


def main() -> None:
    """Print what was found."""
    directory = ROOT / "build" / "bench" / "fleet"
    __import__("shutil").rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    times = views(directory, int(sys.argv[1]), float(sys.argv[2]))
    for name in VIEWS:
        took = sorted(times[name])
        print(
            f"{name:30} median {1000 * statistics.median(took):6.0f} ms  p95 "
            f"{1000 * took[len(took) * 95 // 100]:6.0f} ms  {max(times[f'{name}, bytes']) / 1000:7.0f} kB"
        )
    print(json.dumps(times.told))


if __name__ == "__main__":
    main()
