"""`voicewatch outbox`: list pending and dead callbacks, and send dead ones again.

Listing must answer fast, so what only a delivery needs is imported with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from connectors.callbacks.outbox import Outbox
from connectors.errors import StateError, UsageError
from connectors.state.files import StateLock
from flows.state import StateLayout

if TYPE_CHECKING:
    from flows.settings.models import Settings

__all__ = ["open_outbox", "retry_outbox"]

RETRY_DRAIN_S: Final = 60.0


@contextmanager
def open_outbox(state_dir: Path) -> Iterator[Outbox]:
    """Open the outbox of a state directory, and close it afterwards. Raise UsageError if it does not exist."""
    path = StateLayout(state_dir).outbox
    if not path.exists():
        raise UsageError(f"{path} does not exist: nothing has run yet with this [state] dir")
    outbox = Outbox(path)
    try:
        yield outbox
    finally:
        outbox.close()


def retry_outbox(settings: Settings, environ: Mapping[str, str], alert_ids: Sequence[str] | None) -> str:
    """Queue dead callbacks again, and send what is due unless a run uses the outbox; return a line of result."""
    state = StateLayout(settings.state.dir)
    with open_outbox(settings.state.dir) as outbox:
        queued = outbox.retry(alert_ids)
        if not queued and (alert_ids or not outbox.counts()["pending"]):
            return "nothing to send again: no dead callback" + (" with that id" if alert_ids else "")
        before = _undelivered(outbox)
        lock = StateLock(state.lock)
        try:
            lock.acquire()
        except StateError:
            return f"{queued} callback(s) queued; the run that uses {state.dir} sends them"
        try:
            _deliver(outbox, settings, environ)
        finally:
            lock.release()
        counts = outbox.counts()
        delivered = before - _undelivered(outbox)
        return f"{queued} queued, {delivered} delivered, {counts['pending']} pending, {counts['dead']} dead"


def _undelivered(outbox: Outbox) -> int:
    """Count pending and dead callbacks. Delivered ones are not counted: they are removed after a week."""
    counts = outbox.counts()
    return counts["pending"] + counts["dead"]


def _deliver(outbox: Outbox, settings: Settings, environ: Mapping[str, str]) -> None:
    from connectors.callbacks.delivery import Delivery
    from connectors.runtime.tracing import configure_tracing
    from connectors.state.audit import AuditLog
    from flows.live import policy_of
    from flows.notify import Notifier
    from flows.settings.secrets import secrets_of

    configure_tracing(environ)
    audit = AuditLog(StateLayout(settings.state.dir).audit)
    delivery = Delivery(
        outbox,
        audit=audit,
        secrets=secrets_of(environ),
        policy=policy_of(settings),
        routes=Notifier(settings, environ).routes,
        expire_after_s=settings.delivery.expire_after_s,
    )
    delivery.start()
    delivery.stop(RETRY_DRAIN_S)
