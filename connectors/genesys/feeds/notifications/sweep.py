"""Find the calls that have ended, watched or not, and record what Genesys measured of their legs.

Delivery guarantee: at least once. A call is noted in a SQLite file after its media is in the journal, and the time that
has been asked about moves on only when all pages have been read. After a crash, the last call may be recorded again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import orjson

from connectors.errors import AccessDeniedError, GenesysError
from connectors.format.labels import is_label_value, joined_labels
from connectors.format.notifications import AGENTS
from connectors.format.owners import ALL, Share
from connectors.genesys.client import Clock, GenesysClient, RequestBudget
from connectors.genesys.endpoints import DETAILS_QUERY_PATH
from connectors.genesys.feeds.base import FeedLimits
from connectors.genesys.feeds.notifications.enrichment import marked
from connectors.genesys.feeds.notifications.workers import Worker
from connectors.genesys.names import Names
from connectors.journal.writer import Recorder
from connectors.runtime.logs import get_logger
from connectors.runtime.timeline import Timeline
from connectors.state.stores import Store

__all__ = ["SweepStore", "SweepTiming", "Sweeper", "labels_of_details"]

ENRICHED: Final = "*"
"""The mark of a conversation all of whose media has been recorded otherwise."""
_KEPT_MARKS: Final = 100_000
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS recorded (
  conversation TEXT NOT NULL,
  mark TEXT NOT NULL,
  at REAL NOT NULL,
  PRIMARY KEY (conversation, mark)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS swept (only_row INTEGER PRIMARY KEY CHECK (only_row = 0), until REAL NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class SweepTiming:
    """When analytics is asked, in seconds: every `interval_s`, each time from `overlap_s` before the last time on,
    because ends and media are known late; at most `longest_s` back. `page` conversations are asked for at a time. The
    names for the labels of a page are waited for up to `names_s`.
    """

    interval_s: float = 300.0
    overlap_s: float = 1800.0
    longest_s: float = 86_400.0
    retry_s: float = 60.0
    names_s: float = 5.0
    page: int = 100
    reserve: int = 60


class SweepStore:
    """What a sweep has recorded, in a SQLite file (WAL, 0600); safe to use from any thread.

    Every method raises StateError when the file cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self._store = Store(path, _SCHEMA, name="store", cost="the calls of the last minutes are recorded again")

    def until(self) -> float | None:
        """Return the end of the last complete sweep, epoch seconds; None before the first."""
        with self._store.use() as db:
            row = db.execute("SELECT until FROM swept").fetchone()
        return None if row is None else float(row[0])

    def known(self, conversation_id: str) -> set[str]:
        """Return the marks of a conversation's media that has been recorded."""
        with self._store.use() as db:
            rows = db.execute("SELECT mark FROM recorded WHERE conversation = ?", (conversation_id,)).fetchall()
        return {row[0] for row in rows}

    def add(self, conversation_id: str, marks: Iterable[str], at: float) -> None:
        """Note media that has been recorded at that time, epoch seconds."""
        rows = [(conversation_id, mark, at) for mark in marks]
        with self._store.use() as db:
            db.executemany("INSERT OR REPLACE INTO recorded VALUES (?, ?, ?)", rows)

    def finish(self, until: float, forget_before: float) -> None:
        """Note that a sweep is complete, and forget what was recorded before a time; epoch seconds.

        The last 100,000 are kept: a clock that is wrong must not have calls recorded again.
        """
        with self._store.use() as db:
            db.execute("INSERT OR REPLACE INTO swept VALUES (0, ?)", (until,))
            db.execute(
                "DELETE FROM recorded WHERE at < MIN(?, COALESCE("
                "(SELECT at FROM recorded ORDER BY at DESC LIMIT 1 OFFSET ?), -1))",
                (forget_before, _KEPT_MARKS),
            )

    def close(self) -> None:
        """Close the file."""
        self._store.close()


class Sweeper(Worker):
    """Asks `conversations/details/query` for the calls that ended since the last sweep, and records their media.

    A call that is not watched gets a watch with the feed's limits and the labels of its details, with the names that
    `names` gives for their ids, then its media records, and an end. One that is watched and will be enriched is left to
    the enricher.
    """

    def __init__(
        self,
        store: SweepStore,
        client: GenesysClient,
        recorder: Recorder,
        budget: RequestBudget,
        *,
        name: str,
        limits: FeedLimits,
        leaves_watched: bool,
        share: Share = ALL,
        names: Names = Names(),  # noqa: B008 - without state
        timing: SweepTiming = SweepTiming(),
        clock: Clock = Clock(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__(name=f"sweep-{name}", feed=name, budget=budget, reserve=timing.reserve)
        self._store = store
        self._client = client
        self._recorder = recorder
        self._limits = limits
        self._leaves_watched = leaves_watched
        self._share = share
        self._names = names
        self._timing = timing
        self._now = clock.now
        self._timeline = Timeline(clock.now, clock.monotonic)

    def enriched(self, conversation_id: str) -> None:
        """Take that all media of a conversation has been recorded otherwise. Raises StateError."""
        self._store.add(conversation_id, [ENRICHED], self._timeline())

    def _close(self) -> None:
        self._store.close()
        self._client.close()

    def _work(self) -> float:
        """Ask for all pages of the time since the last sweep."""
        timing, now = self._timing, self._now()
        last = self._store.until()
        since = (now - timing.interval_s if last is None else last) - timing.overlap_s
        longest_ago = now - timing.longest_s
        # If the last sweep was later than now, the clock was set back, and what it asked for is not known.
        since = longest_ago if last is not None and last > now else max(since, longest_ago)
        number = 0
        while self._may_ask():
            number += 1
            try:
                found = self._page(since, now, number)
            except AccessDeniedError:
                raise
            except GenesysError as error:
                get_logger(__name__).warning("sweep_missed", feed=self._name, reason=str(error))
                return timing.retry_s
            # All names at once: call by call they would cost a request each.
            named = (label for details in found for label in labels_of_details(details).items())
            self._names.wait_for(named, timing.names_s)
            for details in found:
                if self._stopped.is_set():
                    return 0.0
                self._take(details)
            if not found:
                self._store.finish(now, self._timeline() - 2 * timing.overlap_s - timing.longest_s)
                return timing.interval_s
        return 0.0

    def _page(self, since: float, until: float, number: int) -> list[Mapping[str, Any]]:
        """Return the conversations of a page, none behind the last one. Raises GenesysError."""
        ended = {"dimension": "conversationEnd", "operator": "exists"}
        voice = {"dimension": "mediaType", "operator": "matches", "value": "voice"}
        body = {
            "interval": f"{_iso(since)}/{_iso(until)}",
            "order": "asc",
            "orderBy": "conversationStart",
            "paging": {"pageSize": self._timing.page, "pageNumber": number},
            "conversationFilters": [{"type": "and", "predicates": [{"type": "dimension", **ended}]}],
            "segmentFilters": [{"type": "and", "predicates": [{"type": "dimension", **voice}]}],
        }
        answer = self._client.ask("POST", DETAILS_QUERY_PATH, what="sweep of ended calls", body=body)
        found = answer.get("conversations") if isinstance(answer, Mapping) else None
        return [one for one in found if isinstance(one, Mapping)] if isinstance(found, list) else []

    def _take(self, details: Mapping[str, Any]) -> None:
        """Record the media of a conversation that has not been recorded."""
        id_ = details.get("conversationId")
        if not isinstance(id_, str) or not details.get("conversationEnd") or not self._share.owns_text(id_):
            return
        if self._leaves_watched and self._recorder.is_watching(id_):
            return
        try:
            found = marked(id_, details)
        except (TypeError, ValueError, RecursionError) as error:
            reason = f"the answer cannot be recorded: {type(error).__name__}"
            get_logger(__name__).warning("sweep_missed", feed=self._name, reason=reason)
            return
        known = self._store.known(id_)
        fresh = {mark: record for mark, record in found.items() if mark not in known}
        if ENRICHED in known or not fresh:
            return
        if not self._recorder.is_watching(id_):
            labels = joined_labels(self._limits.labels, self._named(labels_of_details(details)))
            self._recorder.watch(self._limits.watch(id_, None, **({"labels": labels} if labels else {})))
        for record in fresh.values():
            self._recorder.frame(orjson.dumps(record))
        self._recorder.frame(orjson.dumps({"conversationId": id_, "mediaEndpointStats": None, "ended": True}))
        self._recorder.flush()
        self._store.add(id_, fresh, self._timeline())

    def _named(self, labels: Mapping[str, str]) -> dict[str, str]:
        return {name: self._names.name_of(name, value) for name, value in labels.items()}


def labels_of_details(details: Mapping[str, Any]) -> dict[str, str]:
    """Return the labels in a conversation's details: of several agents the last one counts.

    >>> segment = {"segmentType": "interact", "queueId": "q"}
    >>> session = {"edgeId": "e", "provider": "Edge", "direction": "inbound", "segments": [segment]}
    >>> labels_of_details({"participants": [{"purpose": "agent", "userId": "u", "sessions": [session]}]})
    {'queue': 'q', 'agent': 'u', 'edge': 'e', 'provider': 'Edge', 'direction': 'inbound'}
    """
    found: dict[str, Any] = dict.fromkeys(("queue", "agent", "division", "edge", "provider", "direction"))
    divisions = details.get("divisionIds")
    if isinstance(divisions, list) and len(divisions) == 1:
        found["division"] = divisions[0]
    for participant in _objects(details, "participants"):
        if participant.get("purpose") in AGENTS:
            found["agent"] = participant.get("userId") or found["agent"]
        for session in _objects(participant, "sessions"):
            for label, key in (("edge", "edgeId"), ("provider", "provider"), ("direction", "direction")):
                found[label] = found[label] or session.get(key)
            for segment in _objects(session, "segments"):
                found["queue"] = segment.get("queueId") or found["queue"]
    texts = {name: value for name, value in found.items() if is_label_value(value)}
    return texts | ({"direction": texts["direction"].lower()} if "direction" in texts else {})


def _objects(value: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    items = value.get(key)
    return [item for item in items if isinstance(item, Mapping)] if isinstance(items, list) else []


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
