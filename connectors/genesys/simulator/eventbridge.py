"""A simulated EventBridge with an API destination: posts the events of generated calls.

As EventBridge does, it posts an event again, with the same id, until it is answered with 2xx; it gives an event up
after an answer 4xx other than 401, 407, 409 and 429. Events may overtake each other.

    with posting("http://127.0.0.1:8444/events", key, seed=1, conversations=5) as ids:
        ...                     # the events of the calls with these conversation ids are posted, and others follow
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import orjson

from connectors.errors import UsageError
from connectors.genesys.simulator.call_book import iso
from connectors.genesys.simulator.calls import conversation_ids
from connectors.genesys.simulator.faults import Faults
from connectors.genesys.simulator.lifecycle import in_background, until_signal
from connectors.genesys.simulator.notification_events import Notification
from connectors.genesys.simulator.pacing import notifications_in_time
from connectors.genesys.simulator.traffic import Traffic

__all__ = ["KEY_VARIABLE", "event_of", "post_until_stopped", "posting"]

KEY_VARIABLE: Final = "EVENTBRIDGE_KEY"
HEADER: Final = "X-Api-Key"
RETRIED: Final = frozenset({401, 407, 409, 429})
RETRY_S: Final = 0.2
_TIMEOUT_S: Final = 5.0
_AT_A_TIME: Final = 50


def event_of(notification: Notification, sent_at: float) -> dict[str, Any]:
    """Build the EventBridge event that carries a notification."""
    topic, body = notification
    parts = topic.split(".")
    detail = {"topicName": topic, "version": "2", "eventBody": body, "metadata": {"CorrelationId": str(uuid.uuid4())}}
    return {
        "version": "0",
        "id": str(uuid.uuid4()),
        "detail-type": ".".join("{id}" if part == body.get("conversationId") else part for part in parts),
        "source": "aws.partner/genesys.com/cloud/simulated/voicewatch",
        "account": "000000000000",
        "time": iso(sent_at),
        "region": "eu-central-1",
        "resources": [],
        "detail": {**detail, "timestamp": iso(sent_at)},
    }


class _Bus:
    """Post the detail events of an organisation's calls, for `lifecycle`."""

    def __init__(
        self, url: str, key: str | None, seed: int, conversations: int, rate: float, faults: Faults | None
    ) -> None:
        self._url = url
        self._headers = {"Content-Type": "application/json; charset=utf-8"} | ({} if key is None else {HEADER: key})
        self._traffic = Traffic(seed, conversations, rate, faults=[] if faults is None else faults.of_calls())
        self.ids = conversation_ids(seed, conversations)

    async def run(self, stop: asyncio.Event, ready: Callable[[], None]) -> None:
        """Post events until stopped."""
        self._slots = asyncio.Semaphore(_AT_A_TIME)  # the pool of httpx is slow with many requests that wait
        async with httpx.AsyncClient(headers=self._headers, timeout=_TIMEOUT_S) as client:
            ready()
            playing = asyncio.create_task(self._play(client))
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait({playing, stopping}, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            if playing.done():
                playing.result()
            playing.cancel()
            await asyncio.gather(playing, return_exceptions=True)

    async def _play(self, client: httpx.AsyncClient) -> None:
        while True:  # or the first events were late by what the start of a run takes
            with suppress(httpx.TransportError):
                await client.get(self._url)
                break
            await asyncio.sleep(RETRY_S)
        async with asyncio.TaskGroup() as under_way:
            async for notifications in notifications_in_time(self._traffic, time.time):
                for notification in notifications:
                    if notification[0].startswith("v2.detail.events."):
                        body = orjson.dumps(event_of(notification, time.time()))
                        under_way.create_task(self._post(client, body))

    async def _post(self, client: httpx.AsyncClient, body: bytes) -> None:
        while True:
            try:
                async with self._slots:
                    status = (await client.post(self._url, content=body)).status_code
            except httpx.TransportError:
                status = 503
            if status < 500 and status not in RETRIED:
                return
            await asyncio.sleep(RETRY_S)


def post_until_stopped(
    url: str, key: str | None, *, seed: int, conversations: int, rate: float, faults: Faults | None = None
) -> None:
    """Post events until SIGINT or SIGTERM; first prints the calls as one JSON line. Raise UsageError for a bad URL."""
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise UsageError(f"--url {url}: must be like http://127.0.0.1:8444/events")
    bus = _Bus(url, key, seed, conversations, rate, faults)
    until_signal(bus.run, lambda: print(json.dumps({"url": url, "conversations": bus.ids}), flush=True))


@contextmanager
def posting(
    url: str, key: str | None, *, seed: int, conversations: int, rate: float, faults: Faults | None = None
) -> Iterator[list[str]]:
    """Post events from a daemon thread; yield the ids of the first conversations."""
    bus = _Bus(url, key, seed, conversations, rate, faults)
    with in_background(bus.run):
        yield bus.ids
