"""Voice events in, callbacks out: the sources, operators and sinks for Bytewax flows of your own.

These names are stable. `docs/connectors.md` shows flows that use them::

    from connectors.operators import Callback, CallbackSink, VoiceEventsSource, frames
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeGuard, cast

import bytewax.operators as op
from bytewax.dataflow import Dataflow, Stream, operator
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from connectors.callbacks.model import Callback
from connectors.callbacks.policy import DeliveryPolicy
from connectors.callbacks.sink import CallbackSink
from connectors.format.lines import read_line
from connectors.format.notifications import ENDED
from connectors.format.records import Control, FrameLine, InvalidFrameError
from connectors.genesys.auth import Credentials, TokenProvider
from connectors.genesys.endpoints import Endpoints
from connectors.genesys.feeds.voice_events import VoiceEventsFeed
from connectors.journal.blocks import Block
from connectors.journal.source import JournalSource, LiveState
from connectors.journal.writer import Journal
from connectors.runtime.polling import PolledPartition
from connectors.runtime.shutdown import Shutdown
from connectors.state.files import LOCK_NAME

__all__ = [
    "Callback",
    "CallbackSink",
    "DeliveryPolicy",
    "Frame",
    "FramesOut",
    "RejectedMessage",
    "Shutdown",
    "VoiceEventsSource",
    "frames",
]

# They are for `voicewatch replay`, which then takes every conversation of the journal; the flow here needs none.
_SETTINGS: Final = {"alerts": {"unwatched": "default"}}


@dataclass(frozen=True, slots=True)
class Frame:
    """A voice event: times in epoch seconds, loss as a ratio 0..1, None for what the event does not report.

    `latency_ms` is the time from sending to arrival, by the clocks of both sides. `ended` is the last event of a
    conversation, which carries no measurement.
    """

    conversation_id: str
    event: str
    sent_at: float
    received_at: float
    latency_ms: float
    packet_loss: float | None
    jitter_ms: float | None

    @property
    def ended(self) -> bool:
        """Return whether the conversation ends with this event."""
        return self.event == ENDED


@dataclass(frozen=True, slots=True)
class RejectedMessage:
    """A message that is not a voice event, or a journal line that cannot be read, and the reason."""

    received_at: float | None
    reason: str
    text: str


@dataclass(frozen=True)
class FramesOut:
    """The streams of `frames`: `oks` are voice events, `errs` are messages that are not."""

    oks: Stream[Frame]
    errs: Stream[RejectedMessage]


class VoiceEventsSource(FixedPartitionedSource[Frame | RejectedMessage, object]):
    """Bytewax source of the voice events of Genesys Cloud, through a journal in the directory `state`.

    The WebSocket is read by a thread, which writes each message to the journal before the flow gets it: a slow flow
    loses nothing, and memory stays bounded. A lost connection is made again. Segments that no restart needs are removed
    `keep_hours` after their last record. Several flows need separate directories: one that is in use raises StateError.

    Events are sent for conversations that have an interceptor; `voicewatch bootstrap` creates them. `base_url` is
    the API host of the region. A `shutdown` on which `on_signals()` was called ends the flow with a last snapshot.

    Delivery guarantee: at least once from the journal on, with recovery on. What Genesys sends while no connection is
    open is lost, for the protocol cannot repeat it.
    """

    def __init__(
        self,
        state: Path | str,
        *,
        client_id: str,
        client_secret: str,
        base_url: str = "https://api.mypurecloud.com",
        keep_hours: float = 72.0,
        shutdown: Shutdown | None = None,
    ) -> None:
        self._state = Path(state)
        self._endpoints = Endpoints.from_base_url(base_url)
        self._credentials = Credentials(client_id, client_secret)
        self._keep_s = keep_hours * 3600.0
        self._shutdown = shutdown

    def list_parts(self) -> list[str]:
        """Return the name of the one partition; one connection receives all events."""
        return ["journal"]

    def build_part(self, step_id: str, for_part: str, resume_state: object | None) -> _FramesPartition:
        """Lock the directory, open the journal and connect. Raise StateError."""
        source = JournalSource(
            self._state / LOCK_NAME,
            partial(Journal, self._state / "journal", settings=_SETTINGS),
            self._feeds,
            self._shutdown or Shutdown(),
            keep_s=self._keep_s,
        )
        return _FramesPartition(source.build_part(step_id, for_part, cast(LiveState | None, resume_state)))

    def _feeds(self, journal: Journal) -> list[VoiceEventsFeed]:
        tokens = TokenProvider(self._endpoints, self._credentials)
        return [VoiceEventsFeed(url=self._endpoints.events_url, tokens=tokens, recorder=journal)]


class _FramesPartition(PolledPartition[Frame | RejectedMessage, object]):
    def __init__(self, blocks: StatefulSourcePartition[Block, LiveState]) -> None:
        self._blocks = blocks

    def next_batch(self) -> list[Frame | RejectedMessage]:
        return [item for block in self._blocks.next_batch() for item in _items(block.data)]

    def snapshot(self) -> object:
        return self._blocks.snapshot()

    def close(self) -> None:
        self._blocks.close()


@operator
def frames(
    step_id: str,  # noqa: ARG001 - Bytewax' decorator takes it
    flow: Dataflow,
    *,
    state: Path | str,
    client_id: str,
    client_secret: str,
    base_url: str = "https://api.mypurecloud.com",
    keep_hours: float = 72.0,
    shutdown: Shutdown | None = None,
) -> FramesOut:
    """Read voice events as a stream of frames and a stream of messages that are not; see `VoiceEventsSource`."""
    source = VoiceEventsSource(
        state,
        client_id=client_id,
        client_secret=client_secret,
        base_url=base_url,
        keep_hours=keep_hours,
        shutdown=shutdown,
    )
    received = op.branch("split_errs", op.input("voice_events", flow, source), _is_frame)
    return FramesOut(received.trues, cast(Stream[RejectedMessage], received.falses))


def _is_frame(item: Frame | RejectedMessage) -> TypeGuard[Frame]:
    return isinstance(item, Frame)


def _items(data: bytes) -> Iterator[Frame | RejectedMessage]:
    """Yield what the lines of a journal hold; ticks and other records of its own are left out."""
    for line in io.BytesIO(data):
        try:
            record = read_line(line)
        except InvalidFrameError as error:
            yield RejectedMessage(None, str(error), line.decode("utf-8", "replace"))
            continue
        if isinstance(record, FrameLine) and math.isnan(record.frame.timestamp):
            # A notification without a time is a record of a journal, and not a voice event.
            yield RejectedMessage(record.received_at, "it has no time", line.decode("utf-8", "replace"))
        elif isinstance(record, FrameLine):
            yield _frame(record)
        elif isinstance(record, Control) and record.kind == "invalid":
            yield RejectedMessage(record.time, record.value["reason"], record.value["text"])


def _frame(line: FrameLine) -> Frame:
    frame, metrics = line.frame, line.frame.metrics
    arrived_at = line.received_at if line.arrived_at is None else line.arrived_at
    return Frame(
        conversation_id=frame.entity.id,
        event=frame.event,
        sent_at=frame.timestamp,
        received_at=line.received_at,
        latency_ms=round((arrived_at - frame.timestamp) * 1e6) / 1000.0,
        packet_loss=None if metrics is None else metrics.packetLoss,
        jitter_ms=None if metrics is None else metrics.jitter,
    )
