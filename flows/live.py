"""Live running: the dataflow over a journal that the feeds write, with its state in one directory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig

from connectors.audit import AuditLog, AuditSink
from connectors.callback import CallbackSink
from connectors.files import LOCK_NAME, JsonLinesSink
from connectors.journal import INTERRUPTED, Journal
from connectors.logs import get_logger
from connectors.recovery import make_recovery_store
from connectors.sender import DeliveryPolicy
from connectors.shutdown import Shutdown
from connectors.source import JournalSource
from connectors.webhook import SECRET_VARIABLE, parse_secrets
from flows.analytics.frames import ended_conversations
from flows.feeds import endpoints_of, feeds_of
from flows.settings import Settings
from flows.tally import TallySink
from flows.voice_qa import Outputs, build

if TYPE_CHECKING:
    from flows.monitor import Monitor

__all__ = ["SNAPSHOT_EVERY", "StateLayout", "endpoints_of", "live_flow", "open_journal", "policy_of", "recovery_of"]

# The worker waits for the disk meanwhile, and whatever was read since is read again after a crash.
SNAPSHOT_EVERY: Final = timedelta(seconds=5)


@dataclass(frozen=True)
class StateLayout:
    """Where everything is in a state directory."""

    dir: Path

    @property
    def lock(self) -> Path:
        """Held by the one run that uses the directory."""
        return self.dir / LOCK_NAME

    @property
    def stop(self) -> Path:
        """Left by a process of a cluster that was told to stop, for the one that can."""
        return self.dir / "stop"

    @property
    def journal(self) -> Path:
        """The segments of the journal."""
        return self.dir / "journal"

    @property
    def outbox(self) -> Path:
        """The callbacks that are due, under way or dead."""
        return self.dir / "outbox" / "outbox.sqlite3"

    @property
    def recovery(self) -> Path:
        """Bytewax' snapshots."""
        return self.dir / "recovery"

    def enrichment(self, feed: str) -> Path:
        """The conversations whose media a feed has yet to ask for."""
        return self.dir / "enrichment" / f"{feed}.sqlite3"

    @property
    def audit(self) -> Path:
        """The audit log."""
        return self.dir / "audit.jsonl"

    @property
    def interceptors(self) -> Path:
        """What the bootstrap has created."""
        return self.dir / "interceptors.json"

    @property
    def windows(self) -> Path:
        """The windows, a line each."""
        return self.dir / "windows.jsonl"

    @property
    def alerts(self) -> Path:
        """The alerts, a line each."""
        return self.dir / "alerts.jsonl"


def secrets_of(environ: Mapping[str, str]) -> tuple[str, ...]:
    """What callbacks are signed with. Raises ConfigurationError for a bad secret."""
    return parse_secrets(environ.get(SECRET_VARIABLE, ""))


def policy_of(settings: Settings) -> DeliveryPolicy:
    """How callbacks are to be delivered."""
    delivery = settings.delivery
    return DeliveryPolicy(
        timeout_s=delivery.timeout_s,
        max_attempts=delivery.max_attempts,
        allow_private_addresses=delivery.allow_private_addresses,
    )


def open_journal(settings: Settings) -> Journal:
    """The journal of the state directory, to be written; the feeds that a crash lost are audited. Raises StateError."""
    state = StateLayout(settings.state.dir)
    journal = Journal(
        state.journal,
        settings=settings.flow_record(),
        ended=ended_conversations,
        sync_always=settings.state.fsync == "always",
    )
    for name in journal.interrupted:
        AuditLog(state.audit).append("FEED_DOWN", conversation=None, outcome=INTERRUPTED, feed=name)
    return journal


def recovery_of(settings: Settings) -> RecoveryConfig:
    """Bytewax' recovery store in the state directory, made on first use. Raises StateError."""
    directory = StateLayout(settings.state.dir).recovery
    make_recovery_store(directory)
    return RecoveryConfig(directory)  # type: ignore[no-untyped-call]


def live_flow(
    settings: Settings,
    environ: Mapping[str, str],
    shutdown: Shutdown,
    tally: TallySink | None = None,
    monitor: Monitor | None = None,
) -> Dataflow:
    """The live flow. Nothing is opened before a worker builds it. A shutdown ends it with a last snapshot.

    Raises CredentialsError if the environment holds no credentials and a feed needs them, ConfigurationError for bad
    callback secrets, AudioHook secrets or TLS files.
    """
    get_logger(__name__)  # what logging imports is there from now on, even if files or memory run out later
    state = StateLayout(settings.state.dir)
    feeds = feeds_of(settings, environ, state.enrichment, monitor)
    secrets = secrets_of(environ)
    audit = AuditLog(state.audit)
    outputs = Outputs(
        windows=JsonLinesSink(state.windows),
        alerts=JsonLinesSink(state.alerts),
        callbacks=CallbackSink(
            state.outbox,
            audit=audit,
            secrets=secrets,
            policy=policy_of(settings),
            metrics=monitor.metrics if monitor else None,
        ),
        audit=AuditSink(state.audit),
        tally=tally,
    )
    source = JournalSource(
        state.lock,
        partial(open_journal, settings),
        partial(feeds, audit),
        shutdown,
        keep_s=settings.state.keep_hours * 3600.0,
        progress=monitor.progress if monitor else None,
    )
    return build(source, outputs, monitor=monitor)
