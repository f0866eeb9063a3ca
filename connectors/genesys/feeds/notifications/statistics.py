"""Poll the media statistics of watched calls while they go on (preview interface of Genesys).

Readings are cumulative. A record holds the differences between two readings of one communication and source: what the
agent's softphone counts (`client`) and what the server counts (`server`) are never mixed. The first reading is a
baseline, and so is one whose counters are lower than before, because a connection can carry several calls.

Delivery guarantee: best effort. The readings before are in memory: after a restart the next one is a baseline.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import orjson

from connectors.errors import AccessDeniedError, GenesysError
from connectors.format.values import epoch_seconds, number_or_nan
from connectors.genesys.client import GenesysClient, RequestBudget
from connectors.genesys.endpoints import MEDIA_STATISTICS_PATH, path_of
from connectors.genesys.feeds.notifications.workers import Worker
from connectors.journal.writer import Recorder
from connectors.runtime.logs import get_logger

__all__ = ["Differences", "StatisticsPoller", "StatisticsTiming"]

_SOURCES: Final = frozenset({"client", "server"})


@dataclass(frozen=True, slots=True)
class StatisticsTiming:
    """Each watched call is asked about every `interval_s`, in seconds, or as often as the budget allows."""

    interval_s: float = 10.0
    reserve: int = 120


class _Reading(NamedTuple):
    at: float
    received: float
    sent: float


class Differences:
    """Turns cumulative readings into records of what was between them."""

    def __init__(self) -> None:
        self._last: dict[str, dict[tuple[str, str, str], _Reading]] = {}

    def records(self, conversation_id: str, answer: Any) -> Iterator[dict[str, Any]]:
        """Yield a record for each source that has a newer reading than before, and a reading to compare it with."""
        before = self._last.get(conversation_id, {})
        latest = dict(before)
        for communication in _objects(answer, "entities"):
            session = communication.get("communicationId")
            for statistics in _objects(communication, "mediaStatistics"):
                source, rtp = str(statistics.get("sourceType")).lower(), statistics.get("rtp")
                reading = _reading(statistics, rtp)
                if not isinstance(session, str) or source not in _SOURCES or reading is None:
                    continue
                key = (session, source, _place(statistics))
                last = before.get(key)
                if last is not None and reading.at <= last.at:
                    continue
                latest[key] = reading
                if last is not None:
                    received, sent = reading.received - last.received, reading.sent - last.sent
                    if received >= 0 and sent >= 0:
                        seconds = round(reading.at - last.at, 3)
                        yield _record(conversation_id, session, source, seconds, received, sent, rtp)
        self._last[conversation_id] = latest

    def keep_only(self, conversations: list[str]) -> None:
        """Forget the readings of all other conversations."""
        self._last = {id_: readings for id_, readings in self._last.items() if id_ in set(conversations)}


class StatisticsPoller(Worker):
    """Asks for the media statistics of the calls that a feed watches, in turn, and records the differences."""

    def __init__(
        self,
        client: GenesysClient,
        recorder: Recorder,
        budget: RequestBudget,
        *,
        name: str,
        timing: StatisticsTiming = StatisticsTiming(),
    ) -> None:
        super().__init__(name=f"statistics-{name}", feed=name, budget=budget, reserve=timing.reserve)
        self._feed = name
        self._client = client
        self._recorder = recorder
        self._timing = timing
        self._differences = Differences()

    def _work(self) -> float:
        watched = self._recorder.watched_by(self._feed)
        self._differences.keep_only(watched)
        for id_ in watched:
            if not self._may_ask():
                break
            try:
                answer = self._client.ask(
                    "GET", path_of(MEDIA_STATISTICS_PATH, conversationId=id_), what="media statistics"
                )
            except AccessDeniedError:
                raise
            except GenesysError as error:
                if error.status != 404:  # a call that has just begun, or has just ended
                    get_logger(__name__).warning("statistics_missed", feed=self._feed, reason=str(error))
                continue
            found = list(self._differences.records(id_, answer))
            if found and not self._stopped.is_set() and self._recorder.is_watching(id_):
                for record in found:
                    self._recorder.frame(orjson.dumps(record))
                self._recorder.flush()
        return self._timing.interval_s

    def _close(self) -> None:
        self._client.close()


def _record(
    conversation_id: str, session: str, source: str, seconds: float, received: float, sent: float, rtp: Any
) -> dict[str, Any]:
    statistics: dict[str, Any] = {"seconds": seconds, "packetsReceived": int(received), "packetsSent": int(sent)}
    mos, jitter_s = number_or_nan(rtp.get("estimatedAverageMos")), number_or_nan(rtp.get("averageJitter"))
    if mos == mos:
        statistics["averageMos"] = mos
    if jitter_s >= 0:
        statistics["averageJitterMs"] = round(jitter_s * 1000, 3)
    return {"conversationId": conversation_id, "sessionId": session, "source": source, "mediaStatistics": statistics}


def _reading(statistics: Mapping[str, Any], rtp: Any) -> _Reading | None:
    if not isinstance(rtp, Mapping):
        return None
    at = epoch_seconds(statistics.get("dateCreated"))
    received, sent = (number_or_nan(rtp.get(name)) for name in ("packetsReceived", "packetsSent"))
    return _Reading(at, received, sent) if at == at and received >= 0 and sent >= 0 else None


def _place(statistics: Mapping[str, Any]) -> str:
    """Return where a reading was made: its station, its trunk or its user."""
    places = (statistics.get(name) for name in ("station", "trunk", "user"))
    return next((str(place.get("id")) for place in places if isinstance(place, Mapping)), "")


def _objects(value: Any, key: str) -> list[Mapping[str, Any]]:
    items = value.get(key) if isinstance(value, Mapping) else None
    return [item for item in items if isinstance(item, Mapping)] if isinstance(items, list) else []
