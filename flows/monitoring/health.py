"""Judge whether a run is alive and ready, with the reasons, and answer /metrics, /livez and /readyz."""

from __future__ import annotations

import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from connectors.callbacks.outbox import outbox_state
from connectors.journal.progress import SourceProgress
from flows.monitoring.metrics import CONTENT_TYPE

__all__ = ["Health", "Limits", "Verdict", "answers_of"]

KEPT_S: Final = 1.0

_Route = Callable[[], tuple[int, str, bytes]]


@dataclass(frozen=True, slots=True)
class Limits:
    """Say when a run is unhealthy: seconds without a poll of the source, pending callbacks, free bytes."""

    stalled_s: float
    outbox_pending: int
    disk_free_bytes: int


class Verdict(NamedTuple):
    """Hold the answer of a check, and the result of each part; the parts that are not `ok` are the reasons."""

    ok: bool
    parts: dict[str, dict[str, Any]]

    def body(self) -> bytes:
        """Return the body of the answer, as JSON."""
        reasons = [part["reason"] for part in self.parts.values() if not part["ok"]]
        return orjson.dumps({"ok": self.ok, "reasons": reasons, "checks": self.parts}) + b"\n"


class Health:
    """Judge a run by its source, feeds, outbox and disk; every method may be called from any thread.

    A process of a cluster that does not hold the source (`has_source` false) is judged by its disk alone.
    """

    def __init__(
        self,
        limits: Limits,
        progress: SourceProgress,
        *,
        directory: Path,
        outbox: Path,
        has_source: bool,
        now: Callable[[], float],
    ) -> None:
        self._limits = limits
        self._progress = progress
        self._directory = directory
        self._outbox = outbox
        self._has_source = has_source
        self._now = now
        self._feeds: dict[str, bool] = {}
        self._page: Callable[[], str] | None = None

    def watch_page(self, failure: Callable[[], str]) -> None:
        """Judge the live page, too: `failure` says why it does not work, "" if it does."""
        self._page = failure

    def feed_changed(self, feed: str, state: str) -> None:
        """Note that a feed is `up` or `down`."""
        self._feeds = {**self._feeds, feed: state == "up"}

    def live(self) -> Verdict:
        """Judge whether the dataflow runs: its source was polled recently, or is not built yet."""
        return _verdict({"source": self._source()} if self._has_source else {})

    def ready(self) -> Verdict:
        """Judge whether the run does its job: it receives or catches up, delivers, and has space to write.

        The live page is one of its jobs, if there is one.
        """
        parts = {"disk": self._disk()}
        if self._has_source:
            started = self._progress.began.is_set()
            parts["source"] = self._source() if started else _part("the source is not built yet", waiting=True)
            parts |= {"feed": self._feed(), "outbox": self._callbacks()}
        if self._page is not None:
            failure = self._page()
            parts["page"] = _part(f"the live page: {failure}" if failure else None)
        return _verdict(parts)

    def _source(self) -> dict[str, Any]:
        idle_s = self._progress.idle_s
        if idle_s is None:
            return _part(None, polled_s_ago=None)
        slow = idle_s > self._limits.stalled_s
        reason = f"the source was not polled for {idle_s:.0f} s; {self._limits.stalled_s:g} s are allowed"
        return _part(reason if slow else None, polled_s_ago=round(idle_s, 3))

    def _feed(self) -> dict[str, Any]:
        feeds = self._feeds
        down = sorted(name for name, up in feeds.items() if not up)
        try:
            lag = self._progress.lag()
        except OSError as error:
            return _part(f"the journal cannot be looked at: {error}", down=down)
        facts = {"up": sorted(feeds.keys() - set(down)), "down": down, "lag_bytes": lag.bytes}
        if facts["up"] or not lag.is_none:
            return _part(None, **facts)
        return _part("no feed is connected, and the journal is read to its end", **facts)

    def _callbacks(self) -> dict[str, Any]:
        limit = self._limits.outbox_pending
        try:
            state = outbox_state(self._outbox, self._now())
        except sqlite3.Error as error:
            return _part(f"the outbox cannot be read: {error}")
        reason = f"{state.pending} callbacks wait in the outbox; {limit} are allowed"
        return _part(reason if state.pending > limit else None, pending=state.pending, age_s=round(state.age_s, 3))

    def _disk(self) -> dict[str, Any]:
        floor = self._limits.disk_free_bytes
        try:
            free = shutil.disk_usage(self._directory).free
        except OSError as error:
            return _part(f"the state directory cannot be looked at: {error}")
        reason = f"{free // 2**20} MiB are free; {floor // 2**20} MiB must be"
        return _part(reason if free < floor else None, free_bytes=free)


def _part(reason: str | None, **facts: Any) -> dict[str, Any]:
    return {"ok": reason is None, "reason": reason, **facts}


def _verdict(parts: dict[str, dict[str, Any]]) -> Verdict:
    return Verdict(all(part["ok"] for part in parts.values()), parts)


def answers_of(
    metrics: Callable[[], bytes], health: Health, *, monotonic: Callable[[], float] = time.monotonic
) -> dict[str, _Route]:
    """Return a function for each of /metrics, /livez and /readyz, which returns status, type and body.

    /metrics and /readyz look at the disk, so their answers are kept for a second.
    """
    return {
        "/metrics": _Kept(lambda: (HTTPStatus.OK, CONTENT_TYPE, metrics()), monotonic),
        "/livez": lambda: _answer(health.live()),
        "/readyz": _Kept(lambda: _answer(health.ready()), monotonic),
    }


def _answer(verdict: Verdict) -> tuple[int, str, bytes]:
    return HTTPStatus.OK if verdict.ok else HTTPStatus.SERVICE_UNAVAILABLE, "application/json", verdict.body()


class _Kept:
    """Keep a response for one second; concurrent requests wait for the same computation."""

    def __init__(self, make: _Route, monotonic: Callable[[], float]) -> None:
        self._make = make
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._kept: tuple[float, tuple[int, str, bytes]] | None = None

    def __call__(self) -> tuple[int, str, bytes]:
        with self._lock:
            if self._kept is None or self._monotonic() - self._kept[0] >= KEPT_S:
                answer = self._make()
                self._kept = self._monotonic(), answer
            return self._kept[1]
