"""Live running: the dataflow over a journal that the feeds write, with its state in one directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig

from connectors.callbacks.policy import FAILURE_BODY, BodyRules, DeliveryPolicy
from connectors.callbacks.sink import CallbackSink
from connectors.journal.segments import begin_of
from connectors.journal.source import JournalSource
from connectors.journal.writer import INTERRUPTED, Journal
from connectors.runtime.logs import get_logger
from connectors.runtime.shutdown import Shutdown
from connectors.state.actions import Action
from connectors.state.audit import AuditLog
from connectors.state.audit_sink import AuditSink
from connectors.state.daily import DailyLinesSink
from connectors.state.files import StateLock
from connectors.state.recovery import check_recovery_store, latest_states, make_recovery_store, unusable
from flows.analytics.shard import Shard
from flows.dataflow import SHARDS, SHARDS_STEP, CountsSink, Outputs, build
from flows.feeds import feeds_of
from flows.monitoring.instruments import Instruments
from flows.notify import Notifier
from flows.settings.kafka import kafka_connection
from flows.settings.models import Settings
from flows.settings.secrets import secrets_of
from flows.state import StateLayout

if TYPE_CHECKING:
    from connectors.callbacks.metrics import DeliveryMetrics
    from connectors.kafka.sink import KafkaLinesSink

__all__ = [
    "SNAPSHOT_EVERY",
    "callback_sink",
    "check_recovery",
    "live_flow",
    "open_journal",
    "policy_of",
    "recovery_of",
]

# The worker waits for the disk meanwhile, and whatever was read since is read again after a crash.
SNAPSHOT_EVERY: Final = timedelta(seconds=5)


def policy_of(settings: Settings) -> DeliveryPolicy:
    """Return how callbacks are to be delivered."""
    delivery = settings.delivery
    return DeliveryPolicy(
        timeout_s=delivery.timeout_s,
        max_attempts=delivery.max_attempts,
        allow_private_addresses=delivery.allow_private_addresses,
        body=BodyRules(
            FAILURE_BODY if delivery.failure_body is None else delivery.failure_body, delivery.success_body or ()
        ),
    )


def open_journal(settings: Settings) -> Journal:
    """Open the journal of the state directory for writing; audit the feeds that a crash lost. Raise StateError."""
    state = StateLayout(settings.state.dir)
    audit = AuditLog(state.audit)

    def clock_stepped(step_s: float, reason: str) -> None:
        audit.append(Action.CLOCK_STEPPED, conversation=None, outcome=reason, step_s=step_s)

    journal = Journal(
        state.journal,
        settings=settings.flow_record(),
        on_step=clock_stepped,
        sync_always=settings.state.fsync == "always",
    )
    for name in journal.interrupted:
        audit.append(Action.FEED_DOWN, conversation=None, outcome=INTERRUPTED, feed=name)
    return journal


def recovery_of(settings: Settings) -> RecoveryConfig:
    """Return Bytewax' recovery store in the state directory, and make it on first use.

    Raises StateError, also if a run uses the directory, and UnusableStateError for a store that cannot be continued.
    """
    state = StateLayout(settings.state.dir)
    with StateLock(state.lock):
        make_recovery_store(state.recovery)
    check_recovery(state.recovery, whole=True)
    return RecoveryConfig(state.recovery)  # type: ignore[no-untyped-call]


def check_recovery(directory: Path, *, whole: bool) -> None:
    """Check that the snapshots in a recovery store can be continued. Raises UnusableStateError, with the remedy.

    Bytewax would answer with a traceback of its own, and a supervisor would start the run again and again. `whole` is
    false in a process of a cluster, which may have only some of the store's files.
    """
    check_recovery_store(directory, whole=whole)
    for key, (_, snapshot) in latest_states(directory, SHARDS_STEP):
        if key not in SHARDS:
            raise unusable(directory, f"it has snapshots of another version (shard {key})")
        try:
            Shard(None).restore(snapshot)
        except Exception as error:
            raise unusable(directory, f"it has snapshots of another version ({error})") from error
        return  # one is enough: all are of one version


def live_flow(
    settings: Settings,
    environ: Mapping[str, str],
    shutdown: Shutdown,
    counts: CountsSink | None = None,
    instruments: Instruments | None = None,
) -> Dataflow:
    """Build the live flow. Workers open what it needs when they build it. A shutdown ends it with a last snapshot.

    Raises CredentialsError if the environment holds no credentials and a feed needs them, ConfigurationError for bad
    callback secrets, AudioHook secrets or TLS files.
    """
    get_logger(__name__)  # what logging imports is there from now on, even if files or memory run out later
    state = StateLayout(settings.state.dir)
    instruments = instruments or Instruments()
    feeds = feeds_of(settings, environ, state.enrichment, instruments)
    secrets = secrets_of(environ)
    notifier = Notifier(settings, environ)
    audit = AuditLog(state.audit)
    keep_days = settings.state.keep_results_days
    outputs = Outputs(
        windows=DailyLinesSink(state.windows, "end", keep_days=keep_days),
        alerts=DailyLinesSink(state.alerts, "timestamp", keep_days=keep_days),
        groups=DailyLinesSink(state.groups, "end", keep_days=keep_days),
        parts=DailyLinesSink(state.parts, "until", keep_days=keep_days) if settings.is_part_of_groups else None,
        callbacks=callback_sink(settings, secrets, audit, notifier, instruments.delivery),
        audit=AuditSink(state.audit),
        counts=counts,
        **_topics(settings, environ),
    )
    source = JournalSource(
        state.lock,
        partial(open_journal, settings),
        partial(feeds, audit),
        shutdown,
        keep_s=settings.state.keep_hours * 3600.0,
        progress=instruments.progress,
    )
    return build(source, outputs, instruments=instruments, notify=notifier.callbacks)


def callback_sink(
    settings: Settings,
    secrets: Sequence[str],
    audit: AuditLog,
    notifier: Notifier,
    metrics: DeliveryMetrics | None = None,
) -> CallbackSink:
    """Return the sink of callbacks, with the outbox in the state directory."""
    state = StateLayout(settings.state.dir)
    return CallbackSink(
        state.outbox,
        audit=audit,
        secrets=secrets,
        policy=policy_of(settings),
        metrics=metrics,
        routes=notifier.routes,
        alerts=state.alerts,
        begins_at=partial(begin_of, state.journal),
        expire_after_s=settings.delivery.expire_after_s,
        is_lasting=notifier.is_lasting,
    )


def _topics(settings: Settings, environ: Mapping[str, str]) -> dict[str, KafkaLinesSink]:
    """Return the sinks of the topics of results, by their names in `Outputs`. Raise UsageError, ConfigurationError."""
    connection = kafka_connection(settings.kafka, environ)
    if connection is None or not settings.kafka.topics:
        return {}
    from connectors.kafka.connection import check_confluent_kafka
    from connectors.kafka.sink import KafkaLinesSink

    check_confluent_kafka()
    state = StateLayout(settings.state.dir)
    return {
        f"topic_{name}": KafkaLinesSink(
            connection, topic, state.spool(name), max_bytes=settings.kafka.spool_mib * 2**20
        )
        for name, topic in settings.kafka.topics.items()
    }
