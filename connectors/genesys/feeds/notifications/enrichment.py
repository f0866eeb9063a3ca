"""What analytics knows of a conversation's media once a leg is over: fetched, and recorded as media records.

Delivery guarantee: at least once. What is to be fetched is in a SQLite file before the end of the conversation is
recorded, and leaves it after its media was.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import httpx
import orjson

from connectors.errors import GenesysError
from connectors.format.captures import media_records
from connectors.genesys.client import Clock, RequestBudget
from connectors.genesys.feeds.notifications.workers import RECORDING_S
from connectors.journal.writer import Recorder
from connectors.retry import backoff_s, retry_after_s
from connectors.runtime.logs import get_logger
from connectors.state.stores import Store

__all__ = ["EnrichTiming", "Enricher", "MediaQueue", "Wanted", "marked"]


_SCHEMA = """
CREATE TABLE IF NOT EXISTS wanted (
  conversation TEXT PRIMARY KEY,
  ended INTEGER NOT NULL DEFAULT 0,
  attempts INTEGER NOT NULL DEFAULT 0,
  due_at REAL,
  seen TEXT NOT NULL DEFAULT '[]',
  changed_at REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS due ON wanted (due_at) WHERE due_at IS NOT NULL;
"""


@dataclass(frozen=True, slots=True)
class EnrichTiming:
    """How analytics is asked, in seconds: first `delay_s` after a leg's end, then again after waits that double from
    `base_s` to `cap_s`, `attempts` times in all. `reserve` of the requests of a minute are left to everything else.
    """

    delay_s: float = 20.0
    base_s: float = 30.0
    cap_s: float = 300.0
    attempts: int = 8
    reserve: int = 60
    retry_after_cap_s: float = 300.0

    @property
    def longest_s(self) -> float:
        """Return the longest wait."""
        return max(self.delay_s, self.cap_s)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A conversation whose media is to be fetched; `ended` if it is over, and then its media record ends its watch.

    `seen` are the marks of what has been recorded already.
    """

    conversation_id: str
    ended: bool
    attempts: int
    seen: tuple[str, ...]


class Details(Protocol):
    """Who is asked; `connectors.genesys.feeds.notifications.channels.NotificationsRest` is one."""

    def conversation_details(self, conversation_id: str) -> Any:
        """Return what analytics knows, as JSON; raise `httpx.HTTPStatusError`, `httpx.RequestError`, `GenesysError`."""


class MediaQueue:
    """The conversations whose media is wanted, in a SQLite file (WAL, 0600); safe to use from any thread.

    A crash of the process costs nothing that was added; a power loss may cost the last moments. Every method raises
    StateError when the file cannot be used. `now` is a time that no step of the system clock changes; at the start,
    no wait is longer than `longest_wait_s`.
    """

    def __init__(self, path: Path, *, now: Callable[[], float], longest_wait_s: float = 300.0) -> None:
        self._now = now
        self._store = Store(path, _SCHEMA, name="queue", cost="the conversations in it end without their media")
        with self._store.use() as db:
            # A step of the system clock between two runs must not make a wait longer than it can be.
            latest = now() + longest_wait_s
            db.execute("UPDATE wanted SET due_at = ? WHERE due_at > ?", (latest, latest))

    def add(self, conversation_id: str, due_at: float, *, ended: bool) -> None:
        """Want a conversation's media from `due_at` (epoch seconds) on: a leg of it, or all of it, is over."""
        with self._store.use() as db:
            db.execute(
                "INSERT INTO wanted (conversation, ended, due_at, changed_at) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (conversation) DO UPDATE SET attempts = 0, due_at = excluded.due_at,"
                " ended = MAX(ended, excluded.ended), changed_at = excluded.changed_at",
                (conversation_id, ended, due_at, self._now()),
            )

    def note(self, conversation_id: str) -> None:
        """Remember a conversation that goes on, for `wake`."""
        with self._store.use() as db:
            db.execute(
                "INSERT INTO wanted (conversation, changed_at) VALUES (?, ?) ON CONFLICT (conversation) DO NOTHING",
                (conversation_id, self._now()),
            )

    def resume(self, conversation_id: str) -> None:
        """Remember a conversation as going on that was thought to have ended; `wake` and its next end make it due."""
        with self._store.use() as db:
            db.execute(
                "UPDATE wanted SET ended = 0, due_at = NULL, attempts = 0, changed_at = ? WHERE conversation = ?",
                (self._now(), conversation_id),
            )

    def wake(self, due_at: float) -> None:
        """Want all that are remembered from `due_at` (epoch seconds) on: their ends may have gone unheard."""
        with self._store.use() as db:
            db.execute("UPDATE wanted SET due_at = ?, attempts = 0 WHERE due_at IS NULL", (due_at,))

    def next(self) -> tuple[float, Wanted] | None:
        """When the next one is due (epoch seconds), and which it is; None if nothing is wanted."""
        with self._store.use() as db:
            row = db.execute(
                "SELECT due_at, conversation, ended, attempts, seen FROM wanted WHERE due_at IS NOT NULL"
                " ORDER BY due_at LIMIT 1"
            ).fetchone()
        if row is None:
            return None
        due_at, conversation_id, ended, attempts, seen = row
        return due_at, Wanted(conversation_id, bool(ended), attempts, tuple(orjson.loads(seen)))

    def postpone(self, wanted: Wanted, due_at: float | None, seen: tuple[str, ...], *, attempts: int) -> None:
        """Ask again at `due_at` (epoch seconds), or, with None, not before the next leg ends.

        If the conversation has ended since `wanted` was read, it stays due as its end made it.
        """
        with self._store.use() as db:
            db.execute(
                "UPDATE wanted SET seen = ?, changed_at = ?,"
                " due_at = CASE WHEN ended = ? THEN ? ELSE due_at END,"
                " attempts = CASE WHEN ended = ? THEN ? ELSE attempts END WHERE conversation = ?",
                (
                    orjson.dumps(seen).decode(),
                    self._now(),
                    wanted.ended,
                    due_at,
                    wanted.ended,
                    attempts,
                    wanted.conversation_id,
                ),
            )

    def remove(self, conversation_id: str) -> None:
        """Want a conversation's media no longer."""
        with self._store.use() as db:
            db.execute("DELETE FROM wanted WHERE conversation = ?", (conversation_id,))

    def __len__(self) -> int:
        with self._store.use() as db:
            (count,) = db.execute("SELECT COUNT(*) FROM wanted").fetchone()
        return int(count)

    def close(self) -> None:
        """Close the file."""
        self._store.close()


class Enricher:
    """A thread that asks analytics for what is in the queue, and records it.

    A conversation that ended, as far as the feed or analytics know, is asked for until analytics knows its end and its
    media, or until the attempts are used up; the last record of it carries `"ended": true`, which ends its watch. An
    exception of recorder or queue ends the thread: see `failure`. `on_over` is called with each conversation all of
    whose media has been recorded.
    """

    def __init__(
        self,
        queue: MediaQueue,
        rest: Details,
        recorder: Recorder,
        budget: RequestBudget,
        *,
        name: str,
        timing: EnrichTiming = EnrichTiming(),
        clock: Clock = Clock(),  # noqa: B008 - frozen
        on_over: Callable[[str], None] | None = None,
    ) -> None:
        self._on_over = on_over
        self._queue = queue
        self._rest = rest
        self._recorder = recorder
        self._budget = budget
        self._name = name
        self._timing = timing
        self._now = clock.now
        self._u = clock.u
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=f"enrich-{name}", daemon=True)
        self.failure: Exception | None = None

    def start(self) -> None:
        """Start the thread; it starts once."""
        self._thread.start()

    def want(self, conversation_id: str, *, ended: bool) -> None:
        """Have the media of a conversation fetched, one leg of which, or all of which, is over. Raises StateError."""
        self._queue.add(conversation_id, self._now() + self._timing.delay_s, ended=ended)
        with self._changed:
            self._changed.notify()

    def note(self, conversation_id: str) -> None:
        """Remember that a conversation goes on. Raises StateError."""
        self._queue.note(conversation_id)

    def resume(self, conversation_id: str) -> None:
        """Take back that a conversation has ended: another leg of it is alive. Raises StateError."""
        self._queue.resume(conversation_id)

    def look_for_ends(self) -> None:
        """Ask about all conversations that go on as far as is known: their ends may have gone unheard.

        Raises StateError.
        """
        self._queue.wake(self._now() + self._timing.delay_s)
        with self._changed:
            self._changed.notify()

    def stop(self, timeout_s: float) -> None:
        """End the thread as `Worker.stop` does; what is left stays in the queue."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join(min(timeout_s, RECORDING_S))
        if not self._thread.is_alive():
            self._queue.close()

    def _run(self) -> None:
        try:
            while not self._stopping:
                upcoming = self._queue.next()
                wait_s = None if upcoming is None else max(upcoming[0] - self._now(), 0.0)
                if upcoming is not None and wait_s == 0:
                    wait_s = self._budget.wait_s(self._timing.reserve)
                if upcoming is None or wait_s:
                    self._wait(wait_s, since=upcoming)
                else:
                    self._enrich(upcoming[1])
        except Exception as error:
            self.failure = error
            get_logger(__name__).exception("enrichment_failed", feed=self._name)

    def _wait(self, wait_s: float | None, *, since: tuple[float, Wanted] | None) -> None:
        with self._changed:
            if not self._stopping and self._queue.next() == since:
                self._changed.wait(wait_s)

    def _enrich(self, wanted: Wanted) -> None:
        if not self._recorder.is_watching(wanted.conversation_id):
            self._queue.remove(wanted.conversation_id)  # it ended otherwise, or a crash came between its end and this
            return
        attempts = wanted.attempts + 1
        details: Any = None
        found: dict[str, dict[str, Any]] = {}
        try:
            answer = self._rest.conversation_details(wanted.conversation_id)
            found, details = marked(wanted.conversation_id, answer), answer
        except httpx.HTTPStatusError as refused:
            if refused.response.status_code == httpx.codes.TOO_MANY_REQUESTS:
                self._back_off(refused)
                attempts = wanted.attempts  # it was not looked at
            self._missed(refused.response.status_code)
        except (httpx.RequestError, GenesysError) as error:
            self._missed(type(error).__name__)
        except (TypeError, ValueError, RecursionError) as error:
            self._missed(f"the answer cannot be recorded: {type(error).__name__}")
        if self._stopping:
            return  # nothing may be recorded any longer
        fresh = {mark: record for mark, record in found.items() if mark not in wanted.seen}
        seen = (*wanted.seen, *fresh)
        has_end = isinstance(details, Mapping) and bool(details.get("conversationEnd"))
        ended = wanted.ended or has_end
        given_up = attempts >= self._timing.attempts
        over = ended and ((has_end and bool(seen)) or given_up)
        self._record(wanted.conversation_id, list(fresh.values()), over=over)
        if over:
            if not seen:
                get_logger(__name__).warning("enrichment_given_up", feed=self._name, attempts=attempts)
            elif self._on_over is not None:
                self._on_over(wanted.conversation_id)
            self._queue.remove(wanted.conversation_id)
            return
        satisfied = given_up or (bool(fresh) and not ended)
        self._queue.postpone(wanted, None if satisfied else self._again_at(attempts), seen, attempts=attempts)

    def _record(self, conversation_id: str, records: list[dict[str, Any]], *, over: bool) -> None:
        if over:
            records = records or [{"conversationId": conversation_id, "mediaEndpointStats": None}]
            records[-1]["ended"] = True
        for record in records:
            self._recorder.frame(orjson.dumps(record))
        if records:
            self._recorder.flush()

    def _again_at(self, attempts: int) -> float:
        timing = self._timing
        return self._now() + backoff_s(max(attempts, 1), self._u(), base_s=timing.base_s, cap_s=timing.cap_s)

    def _back_off(self, refused: httpx.HTTPStatusError) -> None:
        asked_s = retry_after_s(refused.response.headers, self._now(), cap_s=self._timing.retry_after_cap_s)
        self._budget.hold(self._timing.base_s if asked_s is None else asked_s)

    def _missed(self, why: int | str) -> None:
        get_logger(__name__).warning("enrichment_missed", feed=self._name, reason=why)


def marked(conversation_id: str, details: Any) -> dict[str, dict[str, Any]]:
    """Return the media records of an answer by their marks. Raises TypeError, ValueError or RecursionError for an
    answer that cannot be written down, such as one that is nested too deeply.
    """
    records = list(media_records(conversation_id, details))
    for record in records:
        orjson.dumps(record)  # so that it is known before the first of them is recorded
    return {_mark(record): record for record in records}


def _mark(record: Mapping[str, Any]) -> str:
    """Return a digest that differs for each media record of a conversation."""
    canonical = orjson.dumps(
        [record["sessionId"], record["mediaEndpointStats"]], option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS
    )
    return hashlib.blake2b(canonical, digest_size=8).hexdigest()
