"""From AudioHook sessions to records of a journal: watches, and frames of the form of the voice events.

Without a socket; the monotonic clock is an argument, and `wall` tells the epoch seconds that records are written at.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal

import orjson

from connectors.format.labels import joined_labels
from connectors.format.limits import LABEL_CHARACTERS
from connectors.genesys.feeds.audiohook.events import (
    Audio,
    ClientError,
    Closed,
    Declined,
    Discarded,
    Event,
    Failed,
    Opened,
    Paused,
    Ping,
    Resumed,
)
from connectors.genesys.feeds.audiohook.levels import AudioChange, Levels, Silence
from connectors.genesys.feeds.audiohook.metrics import Sample, StreamMetrics
from connectors.genesys.feeds.audiohook.session import Session
from connectors.genesys.feeds.base import FeedLimits, Selection
from connectors.journal.writer import Recorder
from connectors.runtime.logs import get_logger

__all__ = ["CallMonitor", "MonitorCounts", "MonitoredSession"]


CODEC: Final = "g711"  # PCMU is all that is taken
RECONNECT_S: Final = 15.0
EVENTS_PER_SAMPLE: Final = 10
"""So that a client that floods us with events does not flood the journal."""


@dataclass(slots=True)
class MonitorCounts:
    """What a monitor has seen since it began, and `open` sessions now."""

    open: int = 0
    opened: int = 0
    probes: int = 0
    declined: int = 0
    failed: int = 0
    lost: int = 0
    audio_bytes: int = 0
    reasons: Counter[str] = field(default_factory=Counter)


class CallMonitor:
    """Records what sessions say about conversations, and watches those that are not watched yet.

    A conversation starts with its first session and ends with its last, unless its watch was begun by someone else,
    who will end it. If that session was closed to reconnect, the next one has 15 s to come. Exceptions of the recorder
    go through. `recorded` is called after each frame. `selection` decides which conversations are watched.
    `labels_from` names the key of the client's texts that each label is taken from. `silence` turns on the rules over
    the level of the audio.
    """

    def __init__(
        self,
        recorder: Recorder,
        limits: FeedLimits,
        *,
        selection: Selection | None = None,
        labels_from: Mapping[str, str] = MappingProxyType({}),
        silence: Silence | None = None,
        wall: Callable[[], float] = time.time,
        recorded: Callable[[], None] = lambda: None,
    ) -> None:
        self._recorder = recorder
        self._limits = limits
        self._selection = selection or Selection()
        self._labels_from = labels_from
        self.silence = silence
        self._wall = wall
        self._recorded = recorded
        self._sessions: dict[str, int] = {}
        self._over_at: dict[str, float] = {}
        self.counts = MonitorCounts()

    def session(self, session: Session) -> MonitoredSession:
        """Follow a session; nothing is recorded before it opens."""
        return MonitoredSession(self, session)

    def wants(self, conversation_id: str, texts: Mapping[str, str]) -> bool:
        """Tell whether a conversation is watched already, or selected to be; for `Session`."""
        return self._recorder.is_watching(conversation_id) or self._selection.takes(
            conversation_id, self._labels(texts)
        )

    def _labels(self, texts: Mapping[str, str]) -> dict[str, str]:
        found = {name: texts.get(key, "")[: LABEL_CHARACTERS[1]] for name, key in self._labels_from.items()}
        return joined_labels(self._limits.labels, {name: value for name, value in found.items() if value})

    def end_interrupted(self) -> None:
        """End the conversations that the run before this one was cut off from: their sessions do not come back."""
        for conversation_id in self._recorder.watched_by(self._limits.name):
            self.frame("ended", conversation_id, None, {"event": "interrupted"})

    def expire(self, now: float = math.inf) -> None:
        """End the conversations whose next session has not come by now, or all that wait for one."""
        for conversation_id in [id_ for id_, over_at in self._over_at.items() if over_at <= now]:
            self._end(conversation_id, None, {"event": "not reconnected"})

    def enter(self, conversation_id: str, session_id: str, details: dict[str, Any], texts: Mapping[str, str]) -> None:
        """Take that a session of a conversation has opened; for the sessions."""
        event = "updated" if conversation_id in self._sessions else "started"
        self._sessions[conversation_id] = self._sessions.get(conversation_id, 0) + 1
        self._over_at.pop(conversation_id, None)
        if not self._recorder.is_watching(conversation_id):
            labels = self._labels(texts)
            more = {"labels": labels} if labels else {}
            self._recorder.watch(self._limits.watch(conversation_id, session_id, codec=CODEC, **more))
        self.frame(event, conversation_id, None, details)

    def leave(
        self, conversation_id: str, sample: Sample, details: dict[str, Any], now: float, *, comes_back: bool
    ) -> None:
        """Take that a session of a conversation has ended; for the sessions."""
        self._sessions[conversation_id] -= 1
        if not self._sessions[conversation_id]:
            if not comes_back:
                self._end(conversation_id, sample, details)
                return
            self._over_at[conversation_id] = now + RECONNECT_S
        self.frame("updated", conversation_id, sample, details)

    def frame(self, event: str, conversation_id: str, sample: Sample | None, details: dict[str, Any]) -> None:
        """Record a frame whose timestamp is when what has just arrived was due; for the sessions."""
        at = self._wall()
        latency_ms = 0.0 if sample is None else sample.latency_ms
        message: dict[str, Any] = {
            "event": f"conversation.{event}",
            "entity": {"id": conversation_id},
            "timestamp": at - latency_ms / 1000,
        }
        if sample is not None:
            if sample.packet_loss is not None:
                message["metrics"] = {"packetLoss": sample.packet_loss, "jitter": sample.jitter_ms}
            measured = {
                "rttMs": sample.rtt_ms,
                "latenessMs": sample.lateness_ms,
                "audioMs": sample.audio_ms,
                "discardedMs": sample.discarded_ms,
                "unaccountedMs": sample.unaccounted_ms,
            }
            details = measured | details
        message["audiohook"] = details
        self._recorder.frame(orjson.dumps(message), at=at)
        self._recorded()

    def audio_changed(self, conversation_id: str, session_id: str, change: AudioChange) -> None:
        """Record that a fault of the audio has begun or ended; for the sessions."""
        limit = None if self.silence is None else self.silence.dbfs
        level = {"session": session_id, **change._asdict(), "limit": limit}
        self._recorder.frame(orjson.dumps({"conversationId": conversation_id, "audioLevel": level}), at=self._wall())
        self._recorded()

    def _end(self, conversation_id: str, sample: Sample | None, details: dict[str, Any]) -> None:
        self._over_at.pop(conversation_id, None)
        del self._sessions[conversation_id]
        # Otherwise any client that can open a session could end the watches of other feeds.
        is_ours = self._recorder.watch_feed(conversation_id) == self._limits.name
        self.frame("ended" if is_ours else "updated", conversation_id, sample, details)


class MonitoredSession:
    """One session with its measurements. Call `sample` once a second, and `lost` when the connection is over."""

    def __init__(self, monitor: CallMonitor, session: Session) -> None:
        self.session = session
        self._monitor = monitor
        self._conversation_id: str | None = None
        self._metrics: StreamMetrics | None = None
        self._levels: Levels | None = None
        self._events_left = EVENTS_PER_SAMPLE

    def receive(self, message: str | bytes, now: float) -> None:
        """Take in a message, text as str and audio as bytes."""
        for event in self.session.receive(message, now):
            if type(event) is Audio:
                self._monitor.counts.audio_bytes += len(message)
                if self._metrics is not None:
                    self._metrics.audio(event.samples, now)
                    if self._levels is not None and isinstance(message, bytes):
                        self._report(self._levels.audio(message))
            else:
                self._on(event, now)

    def expire(self, now: float) -> None:
        """Note that it is `now`: the session's deadline may have passed."""
        for event in self.session.expire(now):
            self._on(event, now)

    def sample(self, now: float) -> None:
        """Record the measurements of the interval since the last time, if the session is open."""
        if self._metrics is not None and self._conversation_id is not None:
            self._events_left = EVENTS_PER_SAMPLE
            sample = self._metrics.sample(now)
            self._monitor.frame("updated", self._conversation_id, sample, self._details())

    def disconnect(self, reason: Literal["completed", "error"], info: str, now: float) -> None:
        """Ask the client to close the session; what it still sends is not measured."""
        self.session.disconnect(reason, info, now)
        self._stop_waiting()

    def lost(self, now: float) -> None:
        """Take that the connection has ended, whatever was said before."""
        if self._conversation_id is not None:
            self._monitor.counts.lost += 1
            get_logger(__name__).warning("audiohook_session_lost", session=self.session.session_id)
        self._leave("lost", now, comes_back=False)

    def _on(self, event: Event, now: float) -> None:
        match event:
            case Opened():
                self._open(event, now)
                return
            case Declined():
                self._monitor.counts.declined += 1
                return
            case Closed(reason=reason):
                self._leave(f"closed: {reason}", now, comes_back=reason == "reconnect")
                return
            case Failed(info=info):
                self._monitor.counts.failed += 1
                self._stop_waiting()
                get_logger(__name__).warning("audiohook_session_failed", session=self.session.session_id, info=info)
                return
            case ClientError(code=code):  # its message is text of the wire, which may be personal
                get_logger(__name__).warning("audiohook_client_error", session=self.session.session_id, code=code)
        if self._metrics is not None:
            self._measure(event, self._metrics, now)

    def _measure(self, event: Event, metrics: StreamMetrics, now: float) -> None:
        name = "error" if isinstance(event, ClientError) else type(event).__name__.lower()
        details: dict[str, Any] = {}
        match event:
            case Ping(rtt_s=rtt_s, position_s=position_s):
                metrics.ping(rtt_s, position_s)
                if rtt_s is None:
                    return
            case Discarded(discarded_s=discarded_s):
                metrics.discarded(discarded_s)
                details["discardedMs"] = round(discarded_s * 1000, 3)
            case Paused():
                metrics.paused()
                if self._levels is not None:
                    self._report(self._levels.pause())
            case Resumed(discarded_s=discarded_s):
                metrics.resumed(discarded_s)
                details["leftOutMs"] = round(discarded_s * 1000, 3)
            case ClientError(code=code):
                details["code"] = code
        if self._events_left > 0 and self._conversation_id is not None:
            self._events_left -= 1
            details = {"event": name, **self._details(), **details}
            self._monitor.frame("updated", self._conversation_id, metrics.glance(now), details)

    def _open(self, opened: Opened, now: float) -> None:
        if opened.is_probe:
            self._monitor.counts.probes += 1
            get_logger(__name__).info("audiohook_probe", session=self.session.session_id)
            return
        counts = self._monitor.counts
        counts.open += 1
        counts.opened += 1
        self._conversation_id = opened.conversation_id
        self._metrics = StreamMetrics(now, opened.position_s)
        if self._monitor.silence is not None and opened.channels == 2:
            self._levels = Levels(opened.names, self._monitor.silence)
        details = {"event": "opened", **self._details(), "channels": opened.channels}
        if opened.continues:
            details["continues"] = list(opened.continues)
        self._monitor.enter(opened.conversation_id, self.session.session_id, details, opened.texts)

    def _leave(self, how: str, now: float, *, comes_back: bool) -> None:
        if self._conversation_id is None or self._metrics is None:
            return
        if self._levels is not None and comes_back:
            self._report(self._levels.pause())
        conversation_id, metrics = self._conversation_id, self._metrics
        self._conversation_id = self._metrics = self._levels = None
        self._monitor.counts.open -= 1
        self._monitor.counts.reasons[how] += 1
        details = {"event": how, **self._details()}
        self._monitor.leave(conversation_id, metrics.sample(now), details, now, comes_back=comes_back)

    def _report(self, changes: list[AudioChange]) -> None:
        for change in changes:
            assert self._conversation_id is not None
            self._monitor.audio_changed(self._conversation_id, self.session.session_id, change)

    def _stop_waiting(self) -> None:
        """Take that the session takes no more audio, so that none is late."""
        if self._metrics is not None:
            self._metrics.paused()

    def _details(self) -> dict[str, Any]:
        details: dict[str, Any] = {"session": self.session.session_id}
        if self.session.paused:
            details["paused"] = True
        return details
