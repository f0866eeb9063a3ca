"""Send QA callbacks from a Bytewax flow: into a durable outbox first, then to their receivers, at least once.

The parts, beside this module: `outbox` stores callbacks, `delivery` schedules attempts, `receivers` shares the
connections out, `http` sends, `policy` decides what an answer means, `pace` how fast to send, `signing` signs,
`addresses` rejects private destinations, `salvage` saves what can be read of a damaged outbox.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from connectors.callbacks.delivery import Delivery
from connectors.callbacks.metrics import DeliveryMetrics
from connectors.callbacks.outbox import Callback, Outbox
from connectors.callbacks.policy import DeliveryPolicy
from connectors.callbacks.repeats import IsLasting, end_repeats
from connectors.callbacks.routes import Route
from connectors.callbacks.salvage import open_or_salvage
from connectors.runtime.logs import get_logger
from connectors.state.audit import AuditLog
from connectors.state.files import logged_failures

__all__ = ["CallbackSink", "OutboxSink"]


Callbacks = Callback | Sequence[Callback]


class _CallbackPartition(StatefulSinkPartition[Callbacks, int]):
    def __init__(
        self, outbox: Outbox, delivery: Delivery, now: Callable[[], float], on_close: Callable[[], None]
    ) -> None:
        self._outbox = outbox
        self._delivery = delivery
        self._now = now
        self._on_close = on_close

    def write_batch(self, values: list[Callbacks]) -> None:
        callbacks = [one for value in values for one in ((value,) if isinstance(value, Callback) else value)]
        with logged_failures("outbox_insert_failed"):
            self._delivery.check()
            if callbacks:
                self._outbox.insert(callbacks, self._now())
                self._delivery.wake()

    def snapshot(self) -> int:
        return 1  # the outbox itself is the state; the value is only a version

    def close(self) -> None:
        # Must not raise: Bytewax calls it while another exception unwinds, and a second one aborts the process.
        try:
            self._on_close()
        except Exception:
            get_logger(__name__).exception("callback_sink_close_failed")


class OutboxSink(FixedPartitionedSink[Callbacks, int]):
    """Act as a Bytewax sink like `CallbackSink`, with an outbox and a delivery that the owner opens and closes.

    Delivery guarantee: at least once, as far as the owner delivers what the outbox holds when the flow ends.
    """

    def __init__(self, outbox: Outbox, delivery: Delivery, *, now: Callable[[], float] = time.time) -> None:
        self._outbox = outbox
        self._delivery = delivery
        self._now = now

    def list_parts(self) -> list[str]:
        """Give one partition, whatever the number of workers."""
        return ["outbox"]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> _CallbackPartition:  # noqa: ARG002
        """Build the partition; nothing is opened."""
        return _CallbackPartition(self._outbox, self._delivery, self._now, lambda: None)


class CallbackSink(FixedPartitionedSink[Callbacks, int]):
    """Act as a Bytewax sink of items `(key, callback)`: an outbox at `path`, and a thread that delivers from it.

    An item's value is a callback or a sequence of them, which may be empty. With an `audit` log each attempt is
    recorded there.

    Building the partition also takes up what an earlier run has left behind. Bytewax builds it with the first item,
    so a flow should send one early, if only an empty sequence. At the end of the flow what is due is
    still sent, for `drain_s` seconds at most; the rest stays in the outbox for the next run. A batch is one
    transaction, on the disk before the flow goes on; sending never holds up the flow.

    A damaged outbox is replaced by what can be read of it, and what is lost is reported against the file `alerts`.
    Without a resume state the flow brings again what is of the time `begins_at` and later, so that it is not lost.
    Callbacks that are sent again until a resolve, and whose alert in that file is not `is_lasting`, are sent no more.

    Delivery guarantee: at least once, with recovery on. After a crash the flow inserts some callbacks again, and the
    outbox knows them by their ids, for a week after their delivery. A callback whose answer was lost in a crash is
    sent again under the same id.
    """

    def __init__(
        self,
        path: Path,
        *,
        audit: AuditLog | None = None,
        secrets: Sequence[str] = (),
        policy: DeliveryPolicy | None = None,
        routes: Mapping[str, Route] = MappingProxyType({}),
        drain_s: float = 5.0,
        now: Callable[[], float] = time.time,
        metrics: DeliveryMetrics | None = None,
        alerts: Path | None = None,
        begins_at: Callable[[], float | None] = lambda: None,
        expire_after_s: float | None = None,
        is_lasting: IsLasting | None = None,
    ) -> None:
        self._is_lasting = is_lasting
        self._path = Path(path)
        self._audit = audit
        self._secrets = tuple(secrets)
        self._policy = policy or DeliveryPolicy()
        self._routes = routes
        self._drain_s = drain_s
        self._now = now
        self._metrics = metrics
        self._alerts = alerts
        self._begins_at = begins_at
        self._expire_after_s = expire_after_s

    def list_parts(self) -> list[str]:
        """Give one partition, whatever the number of workers."""
        return ["outbox"]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> _CallbackPartition:  # noqa: ARG002
        """Open the files; raise StateError if that fails."""
        with logged_failures("outbox_open_failed", step=step_id):
            repeated_from = self._begins_at() if resume_state is None else None
            outbox = open_or_salvage(self._path, alerts=self._alerts, audit=self._audit, repeated_from=repeated_from)
            if self._alerts is not None and self._is_lasting is not None:
                end_repeats(outbox, self._alerts, self._is_lasting, self._now())
            delivery = Delivery(
                outbox,
                audit=self._audit,
                secrets=self._secrets,
                policy=self._policy,
                routes=self._routes,
                now=self._now,
                metrics=self._metrics,
                expire_after_s=self._expire_after_s,
            )
            delivery.start()

            def close() -> None:
                delivery.stop(self._drain_s)
                outbox.close()

            return _CallbackPartition(outbox, delivery, self._now, close)
