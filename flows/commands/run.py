"""`voicewatch run`: check what can be checked, bootstrap, and run the live flow until a shutdown."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping

from bytewax.recovery import RecoveryConfig
from bytewax.run import cli_main

from connectors.errors import VoicewatchError
from connectors.genesys.feeds.listener import listen
from connectors.runtime.logs import get_logger
from connectors.runtime.shutdown import Interrupted, Shutdown
from connectors.runtime.tracing import configure_tracing
from connectors.state.files import check_writable, lasting_state_errors
from flows.analytics.merge import Counts
from flows.commands.bootstrap import BootstrapReport, Shield, run_bootstrap
from flows.dataflow import CountsSink
from flows.feeds import feeds_of
from flows.live import SNAPSHOT_EVERY, live_flow, recovery_of
from flows.monitoring.instruments import Instruments
from flows.monitoring.monitor import instruments_of
from flows.notify import Notifier
from flows.settings.models import Settings
from flows.settings.secrets import secrets_of, token_of
from flows.settings.values import split_host
from flows.settings.warnings import warnings_of
from flows.state import StateLayout

__all__ = ["ensure_interceptors", "preflight", "print_warnings", "run_live"]

OnBootstrap = Callable[[BootstrapReport], None]


def run_live(
    settings: Settings,
    environ: Mapping[str, str],
    shutdown: Shutdown,
    *,
    on_bootstrap: OnBootstrap | None,
    warns: bool = False,
    totals: CountsSink | None = None,
) -> Counts:
    """Run the live flow until a shutdown, and return what it counted; print warnings first if it `warns`.

    `totals` shows meanwhile what was counted. Bootstrap first, unless `on_bootstrap` is None or no feed depends on
    interceptors. Raises VoicewatchError if interceptors are needed and none exists.
    """
    flow_totals = CountsSink() if totals is None else totals
    instruments = instruments_of(settings, environ, shutdown)
    flow_totals.calls_not_watched, flow_totals.progress = instruments.calls_not_watched, instruments.progress
    recovery = preflight(settings, environ)
    if warns:
        print_warnings(settings, environ)
    flow = live_flow(settings, environ, shutdown, flow_totals, instruments)
    try:
        with shutdown.interruptible():
            ensure_interceptors(settings, environ, on_bootstrap, shutdown.shielded)
    except Interrupted:
        return flow_totals.total
    with instruments.running():
        cli_main(flow, epoch_interval=SNAPSHOT_EVERY, recovery_config=recovery)  # type: ignore[no-untyped-call]
    flow_totals.interceptors_created = instruments.interceptors_created
    return flow_totals.total


def preflight(settings: Settings, environ: Mapping[str, str]) -> RecoveryConfig:
    """Check what a run needs, before anything is created at Genesys, and return its recovery store.

    Raises VoicewatchError, with exit code 2 where a restart does not help.
    """
    with lasting_state_errors():
        check_writable(settings.state.dir)
    configure_tracing(environ)
    secrets_of(environ)
    token_of(settings.web, environ)
    Notifier(settings, environ)
    feeds_of(settings, environ, StateLayout(settings.state.dir).enrichment, Instruments())
    # Feeds listen only when the flow is built, where Bytewax answers an error with a panic.
    for feed in settings.feeds:
        if feed.kind == "audiohook":
            listen(*settings.audiohook.address).close()
        elif feed.listen is not None:
            listen(*split_host(feed.listen), key="[[feed]] listen").close()
    with lasting_state_errors():
        return recovery_of(settings)


def print_warnings(settings: Settings, environ: Mapping[str, str]) -> None:
    """Print on standard error what is probably not meant, as `check` does."""
    for warning in warnings_of(settings, environ):
        print(f"warning: {warning}", file=sys.stderr)


def ensure_interceptors(
    settings: Settings, environ: Mapping[str, str], on_bootstrap: OnBootstrap | None, shield: Shield
) -> None:
    """Bootstrap before a run, unless `on_bootstrap` is None or no feed depends on interceptors.

    Each create is made within `shield`. The run goes on with the interceptors that exist. Raises VoicewatchError if
    none does.
    """
    if on_bootstrap is None or not settings.uses_interceptors:
        return
    report = run_bootstrap(settings, environ, shield=shield)
    on_bootstrap(report)
    if report.failed and not (report.created or report.existing):
        raise VoicewatchError("no interceptor exists, so there is nothing to watch; the reasons are above")
    if report.failed:
        get_logger(__name__).warning("going_on_without_some", missing=len(report.failed), watching=len(report.watched))
